//! People's accounts. No answer has a password or what is kept of one.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::response::IntoResponse as _;
use http::StatusCode;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::json;

use super::{Access, Answer, Api, Json, Operator, Paging, Path, Problem, Query, next_cursor, ok, respond};
use crate::admin::users::UserError;
use crate::authorization::passwords;
use crate::identity::TokenList;
use crate::identity::browser::BrowserSession;
use crate::identity::user::{DisplayName, Email, ExternalIdentity, Login, PasswordHash, Role, Status, User};
use crate::ids::UserId;
use crate::secret::Plaintext;
use crate::store::users::{Edit, Filter, NewUser};

const LIST: &str = "users";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UserQuery {
    limit: Option<usize>,
    cursor: Option<String>,
    /// Exactly this one.
    login: Option<String>,
    role: Option<String>,
    status: Option<String>,
    /// Part of the name, the login or the address.
    q: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UserRequest {
    login: Option<String>,
    name: Option<String>,
    email: Option<String>,
    role: Option<String>,
    #[serde(default)]
    groups: Vec<String>,
    /// Without it, the account waits for an identity provider to vouch for its person.
    password: Option<String>,
    /// `active` where there is a password, or else `invited`.
    status: Option<String>,
}

/// What is left out stays as it is; `null` takes it away where that is possible.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UserChange {
    name: Option<String>,
    #[serde(default, deserialize_with = "given")]
    login: Option<Option<String>>,
    #[serde(default, deserialize_with = "given")]
    email: Option<Option<String>>,
    role: Option<String>,
    groups: Option<Vec<String>>,
    #[serde(default, deserialize_with = "given")]
    password: Option<Option<String>>,
    status: Option<String>,
    /// Only the account of this revision.
    revision: Option<u64>,
}

/// A member that is there, `null` included.
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

#[derive(Serialize)]
struct UserView {
    id: String,
    revision: u64,
    login: Option<String>,
    name: String,
    email: Option<String>,
    role: &'static str,
    groups: Vec<String>,
    status: &'static str,
    has_password: bool,
    created: String,
    last_sign_in: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    identities: Option<Vec<IdentityView>>,
}

#[derive(Serialize)]
struct IdentityView {
    issuer: String,
    subject: String,
}

impl UserView {
    fn of(user: &User) -> Self {
        let User { id, revision, login, name, email, role, groups, status, password, created, last_sign_in } = user;
        Self {
            id: id.to_string(),
            revision: *revision,
            login: login.as_ref().map(Login::to_string),
            name: name.to_string(),
            email: email.as_ref().map(Email::to_string),
            role: role.as_str(),
            groups: groups.to_vec(),
            status: status.as_str(),
            has_password: password.is_some(),
            created: created.to_string(),
            last_sign_in: last_sign_in.map(|at| at.to_string()),
            identities: None,
        }
    }

    fn with(self, identities: &[ExternalIdentity]) -> Self {
        let view = |identity: &ExternalIdentity| IdentityView {
            issuer: identity.issuer().to_owned(),
            subject: identity.subject().to_owned(),
        };
        Self { identities: Some(identities.iter().map(view).collect()), ..self }
    }
}

pub(super) async fn list(State(api): State<Arc<Api>>, Query(query): Query<UserQuery>) -> Answer {
    let UserQuery { limit, cursor, login, role, status, q } = query;
    if let Some(login) = login {
        let found = match Login::parse(&login) {
            Some(login) => api.control.user_with_login(&login).await?,
            None => None,
        };
        let users: Vec<UserView> = found.iter().map(UserView::of).collect();
        return Ok(ok(&json!({ "users": users, "next_cursor": null })));
    }
    let filter = Filter {
        role: role.as_deref().map(read_role).transpose()?,
        status: status.as_deref().map(read_status).transpose()?,
        text: q,
    };
    let paging = Paging { limit, cursor };
    let page = api.control.list_users(filter, paging.cursor(&api, LIST)?, paging.limit()).await?;
    let users: Vec<UserView> = page.items.iter().map(UserView::of).collect();
    Ok(ok(&json!({ "users": users, "next_cursor": next_cursor(&api, LIST, page.next.as_ref()) })))
}

pub(super) async fn show(State(api): State<Arc<Api>>, Path(id): Path) -> Answer {
    let user = api.control.user(&read_id(&id)?).await?;
    let identities = api.control.user_identities(&user.id).await?;
    Ok(ok(&UserView::of(&user).with(&identities)))
}

pub(super) async fn create(
    State(api): State<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    Json(new): Json<UserRequest>,
) -> Answer {
    let UserRequest { login, name, email, role, groups, password, status } = new;
    let login = login.as_deref().map(read_login).transpose()?;
    let role = role.as_deref().map_or(Ok(Role::User), read_role)?;
    operator.needs(to_touch(role))?;
    let invited = match status.as_deref().map(read_status).transpose()? {
        None => password.is_none(),
        Some(Status::Invited) => true,
        Some(Status::Active) => false,
        Some(Status::Suspended | Status::Deleted) => {
            return Err(Problem::invalid("a new account is `active` or `invited`"));
        }
    };
    if login.is_none() && email.is_none() {
        return Err(Problem::invalid("an account has a `login` or an `email`, or nobody comes in"));
    }
    if login.is_none() && password.is_some() {
        return Err(Problem::invalid("an account with a `password` has a `login`"));
    }
    let new = NewUser {
        id: UserId::generate(&api.control.env),
        name: DisplayName::of(&name.unwrap_or_default()),
        email: email.as_deref().map(read_email).transpose()?,
        role,
        groups: read_groups(groups)?,
        invited,
        password: match password {
            Some(password) => Some(hash(&api, password, login.as_ref()).await?),
            None => None,
        },
        login,
    };
    let user = api.control.create_user(new, operator.0).await?;
    Ok(respond(StatusCode::CREATED, &UserView::of(&user).with(&[])))
}

pub(super) async fn change(
    State(api): State<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    Path(id): Path,
    Json(change): Json<UserChange>,
) -> Answer {
    let id = read_id(&id)?;
    let UserChange { name, login, email, role, groups, password, status, revision } = change;
    let revision = match (touching(&api, &operator, &id).await?, revision) {
        (Some(seen), Some(said)) if seen != said => return Err(UserError::Conflict(seen).into()),
        (seen, said) => seen.or(said),
    };
    let mut edits = Vec::new();
    edits.extend(name.map(|name| Edit::Name(DisplayName::of(&name))));
    if let Some(login) = &login {
        edits.push(Edit::Login(login.as_deref().map(read_login).transpose()?));
    }
    if let Some(email) = email {
        edits.push(Edit::Email(email.as_deref().map(read_email).transpose()?));
    }
    if let Some(role) = role {
        let role = read_role(&role)?;
        operator.needs(to_touch(role))?;
        edits.push(Edit::Role(role));
    }
    if let Some(groups) = groups {
        edits.push(Edit::Groups(read_groups(groups)?));
    }
    match status.as_deref().map(read_status).transpose()? {
        None => {}
        Some(Status::Active) => edits.push(Edit::Activate),
        Some(Status::Suspended) => edits.push(Edit::Suspend),
        Some(Status::Invited | Status::Deleted) => {
            return Err(Problem::invalid("an account can be made `active` or `suspended`"));
        }
    }
    match password {
        None => {}
        Some(None) => edits.push(Edit::Password(None)),
        Some(Some(password)) => {
            let known = api.control.user(&id).await?.login;
            let login = match &login {
                Some(login) => login.as_deref().map(read_login).transpose()?,
                None => known,
            };
            if login.is_none() {
                return Err(Problem::invalid("an account with a `password` has a `login`"));
            }
            edits.push(Edit::Password(Some(hash(&api, password, login.as_ref()).await?)));
        }
    }
    let user = api.control.change_user(&id, revision, edits, operator.0).await?;
    Ok(ok(&UserView::of(&user)))
}

pub(super) async fn remove(
    State(api): State<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    Path(id): Path,
) -> Answer {
    let id = read_id(&id)?;
    let seen = touching(&api, &operator, &id).await?;
    api.control.delete_user(&id, seen, operator.0).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

pub(super) async fn sessions(State(api): State<Arc<Api>>, Path(id): Path) -> Answer {
    let view = |session: &BrowserSession| {
        json!({
            "id": session.id.as_str(),
            "surface": session.surface.as_str(),
            "method": session.method.as_str(),
            "created": session.created.to_string(),
            "authenticated": session.authenticated.to_string(),
            "last_seen": session.last_seen.to_string(),
            "expires": session.expires().to_string(),
            "agent": session.agent,
        })
    };
    let sessions = api.control.user_sessions(&read_id(&id)?).await?;
    Ok(ok(&json!({ "sessions": sessions.iter().map(view).collect::<Vec<_>>() })))
}

pub(super) async fn end_sessions(
    State(api): State<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    Path(id): Path,
) -> Answer {
    let id = read_id(&id)?;
    touching(&api, &operator, &id).await?;
    let ended = api.control.end_user_sessions(&id, operator.0).await?;
    Ok(ok(&json!({ "ended": ended })))
}

/// Who may make an account of a role, or change one.
const fn to_touch(role: Role) -> Access {
    match role {
        Role::User => Access::Operator,
        Role::Viewer | Role::Operator | Role::Owner => Access::Owner,
    }
}

/// The revision of an account that somebody may touch only as it is now: who is no owner, while it has no role.
async fn touching(api: &Api, operator: &Operator, id: &UserId) -> Result<Option<u64>, Problem> {
    if operator.needs(Access::Owner).is_ok() {
        return Ok(None);
    }
    let user = api.control.user(id).await?;
    operator.needs(to_touch(user.role))?;
    Ok(Some(user.revision))
}

async fn hash(api: &Api, password: String, login: Option<&Login>) -> Result<PasswordHash, Problem> {
    let password = Plaintext::new(password);
    passwords::check_rules(&password, login).map_err(|weak| Problem::invalid(weak.to_string()))?;
    api.server.passwords.hash(password).await.map_err(Problem::from)
}

fn read_id(id: &str) -> Result<UserId, Problem> {
    UserId::parse(id).ok_or_else(|| Problem::not_found("user"))
}

fn read_login(login: &str) -> Result<Login, Problem> {
    let rule = format!("a login has 1 to {} printable ASCII characters and no spaces", Login::MAX_LEN);
    Login::parse(login).ok_or_else(|| Problem::invalid(rule))
}

fn read_email(email: &str) -> Result<Email, Problem> {
    Email::parse(email).ok_or_else(|| Problem::invalid("`email` is no e-mail address"))
}

pub(super) fn read_role(role: &str) -> Result<Role, Problem> {
    Role::parse(role).ok_or_else(|| Problem::invalid("roles are `user`, `viewer`, `operator` and `owner`"))
}

fn read_status(status: &str) -> Result<Status, Problem> {
    let rule = "the status is `invited`, `active`, `suspended` or `deleted`";
    Status::parse(status).ok_or_else(|| Problem::invalid(rule))
}

fn read_groups(groups: Vec<String>) -> Result<TokenList, Problem> {
    TokenList::parse(groups)
        .map_err(|(position, error)| Problem::invalid(format!("entry {position} of `groups` {error}")))
}

impl From<UserError> for Problem {
    fn from(error: UserError) -> Self {
        let conflict = |code, error: &UserError| Self::new(StatusCode::CONFLICT, code, error.to_string());
        match error {
            UserError::NotFound => Self::not_found("user"),
            UserError::LoginTaken => conflict("login_taken", &error),
            UserError::TooMany => conflict("too_many_users", &error),
            UserError::LastOwner => conflict("last_owner", &error),
            UserError::Conflict(_) => conflict("changed_meanwhile", &error),
            UserError::Store(error) => error.into(),
        }
    }
}
