//! People's accounts. No answer has a password or what is kept of one.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::response::IntoResponse as _;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{IntoParams, ToSchema};

use super::if_match::{IfMatch, is_other, tagged};
use super::openapi::words::{RoleWord, UserStatusWord};
use super::openapi::{Described, delete, get, patch, post};
use super::{Access, Answer, Api, Json, Operator, Paging, Path, Problem, Query, given, next_cursor, ok, respond};
use crate::admin::users::UserError;
use crate::authorization::passwords;
use crate::identity::TokenList;
use crate::identity::browser::BrowserSession;
use crate::identity::user::{DisplayName, Email, ExternalIdentity, Login, PasswordHash, Role, Status, User};
use crate::ids::UserId;
use crate::secret::Plaintext;
use crate::store::users::{Edit, Filter, NewUser};

const LIST: &str = "users";

#[derive(Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct UserQuery {
    pub(in crate::http) limit: Option<usize>,
    pub(in crate::http) cursor: Option<String>,
    /// Exactly this one.
    pub(in crate::http) login: Option<String>,
    #[param(inline, value_type = Option<RoleWord>)]
    pub(in crate::http) role: Option<String>,
    #[param(inline, value_type = Option<UserStatusWord>)]
    pub(in crate::http) status: Option<String>,
    /// Part of the name, the login or the address.
    pub(in crate::http) q: Option<String>,
}

/// An account to be.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct UserRequest {
    pub(in crate::http) login: Option<String>,
    pub(in crate::http) name: Option<String>,
    pub(in crate::http) email: Option<String>,
    #[schema(value_type = Option<RoleWord>)]
    pub(in crate::http) role: Option<String>,
    #[serde(default)]
    pub(in crate::http) groups: Vec<String>,
    /// Without it, the account waits for an identity provider to vouch for its person.
    pub(in crate::http) password: Option<String>,
    /// `active` where there is a password, or else `invited`.
    #[schema(value_type = Option<UserStatusWord>)]
    pub(in crate::http) status: Option<String>,
}

/// A merge patch (RFC 7396): what is left out stays, `null` takes away, a list is another list.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct UserChange {
    #[serde(default, deserialize_with = "given")]
    pub(in crate::http) name: Option<Option<String>>,
    #[serde(default, deserialize_with = "given")]
    pub(in crate::http) login: Option<Option<String>>,
    #[serde(default, deserialize_with = "given")]
    pub(in crate::http) email: Option<Option<String>>,
    /// Nobody is without one.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = RoleWord, required = false)]
    pub(in crate::http) role: Option<Option<String>>,
    #[serde(default, deserialize_with = "given")]
    pub(in crate::http) groups: Option<Option<Vec<String>>>,
    #[serde(default, deserialize_with = "given")]
    pub(in crate::http) password: Option<Option<String>>,
    /// `active` or `suspended`.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = UserStatusWord, required = false)]
    pub(in crate::http) status: Option<Option<String>>,
    /// Only the account of this revision, as If-Match says it too (409 here, 412 there).
    pub(in crate::http) revision: Option<u64>,
}

/// What a person cannot be without.
fn kept<T>(member: &str, value: Option<Option<T>>) -> Result<Option<T>, Problem> {
    value.map(|value| value.ok_or_else(|| Problem::invalid(format!("`{member}` cannot be taken away")))).transpose()
}

/// Somebody's account.
#[derive(Serialize, ToSchema)]
#[schema(as = User)]
pub(in crate::http) struct UserView {
    pub(in crate::http) id: String,
    pub(in crate::http) revision: u64,
    pub(in crate::http) login: Option<String>,
    pub(in crate::http) name: String,
    pub(in crate::http) email: Option<String>,
    #[schema(value_type = RoleWord)]
    pub(in crate::http) role: &'static str,
    pub(in crate::http) groups: Vec<String>,
    #[schema(value_type = UserStatusWord)]
    pub(in crate::http) status: &'static str,
    pub(in crate::http) has_password: bool,
    #[schema(format = DateTime)]
    pub(in crate::http) created: String,
    #[schema(format = DateTime)]
    pub(in crate::http) last_sign_in: Option<String>,
    /// How identity providers know the person. Told of one account only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::http) identities: Option<Vec<IdentityView>>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Identity)]
pub(in crate::http) struct IdentityView {
    pub(in crate::http) issuer: String,
    pub(in crate::http) subject: String,
}

impl UserView {
    /// What people call whose account it is: by the name, or by what is there instead.
    pub(in crate::http) fn called(&self) -> &str {
        let login = self.login.as_deref().or(self.email.as_deref()).unwrap_or(&self.id);
        if self.name.is_empty() { login } else { &self.name }
    }

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

/// A browser in which somebody is signed in.
#[derive(Serialize, ToSchema)]
#[schema(as = BrowserSession)]
pub(in crate::http) struct SessionView {
    pub(in crate::http) id: String,
    /// `public` or `admin`.
    pub(in crate::http) surface: &'static str,
    /// How the person has shown who they are.
    pub(in crate::http) method: &'static str,
    #[schema(format = DateTime)]
    pub(in crate::http) created: String,
    #[schema(format = DateTime)]
    pub(in crate::http) authenticated: String,
    #[schema(format = DateTime)]
    pub(in crate::http) last_seen: String,
    #[schema(format = DateTime)]
    pub(in crate::http) expires: String,
    /// What the browser says it is.
    pub(in crate::http) agent: String,
}

impl SessionView {
    fn of(session: &BrowserSession) -> Self {
        Self {
            id: session.id.as_str().to_owned(),
            surface: session.surface.as_str(),
            method: session.method.as_str(),
            created: session.created.to_string(),
            authenticated: session.authenticated.to_string(),
            last_seen: session.last_seen.to_string(),
            expires: session.expires().to_string(),
            agent: session.agent.clone(),
        }
    }
}

#[derive(Serialize, ToSchema)]
#[schema(as = EndedSessions)]
struct EndedView {
    /// How many.
    ended: usize,
}

/// What the document of the API says of these.
pub(super) fn operations() -> Vec<Described> {
    vec![
        get("/api/v1/users", "listUsers", "Accounts, newest first").filters::<UserQuery>().pages::<UserView>(LIST),
        post("/api/v1/users", "createUser", "Makes an account")
            .takes::<UserRequest>()
            .gives::<UserView>(StatusCode::CREATED)
            .tagged()
            .conflicts(&["login_taken", "too_many_users"]),
        get("/api/v1/users/{id}", "showUser", "One account, and how identity providers know its person")
            .shows::<UserView>()
            .tagged(),
        patch("/api/v1/users/{id}", "changeUser", "Changes an account. One that opens less than before is signed out")
            .if_match()
            .takes::<UserChange>()
            .shows::<UserView>()
            .tagged()
            .conflicts(&["login_taken", "last_owner", "changed_meanwhile"]),
        delete("/api/v1/users/{id}", "deleteUser", "Deletes an account, with what it was granted and connected with")
            .if_match()
            .says(StatusCode::NO_CONTENT)
            .conflicts(&["last_owner"]),
        get("/api/v1/users/{id}/sessions", "listSessions", "The browsers in which somebody is signed in")
            .lists::<SessionView>("sessions"),
        delete("/api/v1/users/{id}/sessions", "endSessions", "Signs somebody out everywhere").shows::<EndedView>(),
    ]
}

pub(super) async fn list(State(api): State<Arc<Api>>, Query(query): Query<UserQuery>) -> Answer {
    let (users, next) = page(&api, query).await?;
    Ok(ok(&json!({ "users": users, "next_cursor": next })))
}

/// A page of accounts, and the cursor of the next one.
pub(in crate::http) async fn page(api: &Api, query: UserQuery) -> Result<(Vec<UserView>, Option<String>), Problem> {
    let UserQuery { limit, cursor, login, role, status, q } = query;
    let filter = Filter {
        role: role.as_deref().map(read_role).transpose()?,
        status: status.as_deref().map(read_status).transpose()?,
        text: q,
    };
    if let Some(login) = login {
        let found = match Login::parse(&login) {
            Some(login) => api.control.user_with_login(&login).await?,
            None => None,
        };
        return Ok((found.iter().map(UserView::of).collect(), None));
    }
    let paging = Paging { limit, cursor };
    let page = api.control.list_users(filter, paging.cursor(api, LIST)?, paging.limit()).await?;
    Ok((page.items.iter().map(UserView::of).collect(), next_cursor(api, LIST, page.next.as_ref())))
}

pub(super) async fn show(State(api): State<Arc<Api>>, Path(id): Path) -> Answer {
    let user = account(&api, &id).await?;
    Ok(tagged(ok(&user), user.revision))
}

/// One account, with how identity providers know its person.
pub(in crate::http) async fn account(api: &Api, id: &str) -> Result<UserView, Problem> {
    let user = api.control.user(&read_id(id)?).await?;
    let identities = api.control.user_identities(&user.id).await?;
    Ok(UserView::of(&user).with(&identities))
}

pub(super) async fn create(
    State(api): State<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    Json(new): Json<UserRequest>,
) -> Answer {
    let user = make(&api, &operator, new).await?;
    Ok(tagged(respond(StatusCode::CREATED, &user), user.revision))
}

/// Makes an account.
pub(in crate::http) async fn make(api: &Api, operator: &Operator, new: UserRequest) -> Result<UserView, Problem> {
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
            Some(password) => Some(hash(api, password, login.as_ref()).await?),
            None => None,
        },
        login,
    };
    let user = api.control.create_user(new, operator.0).await?;
    Ok(UserView::of(&user).with(&[]))
}

pub(super) async fn change(
    State(api): State<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    Path(id): Path,
    condition: IfMatch,
    Json(change): Json<UserChange>,
) -> Answer {
    let user = edit(&api, &operator, &id, condition.said(), change).await?;
    Ok(tagged(ok(&user), user.revision))
}

/// Changes an account, if it is of one of the revisions that were `seen`, where any is said.
pub(in crate::http) async fn edit(
    api: &Api,
    operator: &Operator,
    id: &str,
    seen: Option<Vec<u64>>,
    change: UserChange,
) -> Result<UserView, Problem> {
    let id = read_id(id)?;
    let UserChange { name, login, email, role, groups, password, status, revision } = change;
    let known = touching(api, operator, &id, seen).await?;
    if let (Some(known), Some(said)) = (known.revision, revision)
        && known != said
    {
        return Err(UserError::Conflict(known).into());
    }
    let mut edits = Vec::new();
    edits.extend(name.map(|name| Edit::Name(DisplayName::of(&name.unwrap_or_default()))));
    if let Some(login) = &login {
        edits.push(Edit::Login(login.as_deref().map(read_login).transpose()?));
    }
    if let Some(email) = email {
        edits.push(Edit::Email(email.as_deref().map(read_email).transpose()?));
    }
    if let Some(role) = kept("role", role)? {
        let role = read_role(&role)?;
        operator.needs(to_touch(role))?;
        edits.push(Edit::Role(role));
    }
    if let Some(groups) = groups {
        edits.push(Edit::Groups(read_groups(groups.unwrap_or_default())?));
    }
    match kept("status", status)?.as_deref().map(read_status).transpose()? {
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
            edits.push(Edit::Password(Some(hash(api, password, login.as_ref()).await?)));
        }
    }
    let changed = api.control.change_user(&id, known.revision.or(revision), edits, operator.0).await;
    Ok(UserView::of(&changed.map_err(|error| known.refused(error))?))
}

pub(super) async fn remove(
    State(api): State<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    Path(id): Path,
    condition: IfMatch,
) -> Answer {
    delete_account(&api, &operator, &id, condition.said()).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Deletes an account, if it is of one of the revisions that were `seen`, where any is said.
pub(in crate::http) async fn delete_account(
    api: &Api,
    operator: &Operator,
    id: &str,
    seen: Option<Vec<u64>>,
) -> Result<(), Problem> {
    let id = read_id(id)?;
    let known = touching(api, operator, &id, seen).await?;
    let deleted = api.control.delete_user(&id, known.revision, operator.0).await;
    deleted.map_err(|error| known.refused(error))
}

pub(super) async fn sessions(State(api): State<Arc<Api>>, Path(id): Path) -> Answer {
    Ok(ok(&json!({ "sessions": browsers(&api, &id).await? })))
}

/// The browsers in which somebody is signed in.
pub(in crate::http) async fn browsers(api: &Api, id: &str) -> Result<Vec<SessionView>, Problem> {
    let sessions = api.control.user_sessions(&read_id(id)?).await?;
    Ok(sessions.iter().map(SessionView::of).collect())
}

pub(super) async fn end_sessions(
    State(api): State<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    Path(id): Path,
) -> Answer {
    let ended = sign_out(&api, &operator, &id).await?;
    Ok(ok(&json!(EndedView { ended })))
}

/// Signs somebody out everywhere, and tells in how many browsers that was.
pub(in crate::http) async fn sign_out(api: &Api, operator: &Operator, id: &str) -> Result<usize, Problem> {
    let id = read_id(id)?;
    touched(api, operator, &id).await?;
    Ok(api.control.end_user_sessions(&id, operator.0).await?)
}

/// One account, for who may touch it as it is now.
pub(in crate::http) async fn account_to_touch(api: &Api, operator: &Operator, id: &str) -> Result<UserView, Problem> {
    let id = read_id(id)?;
    touched(api, operator, &id).await?;
    let user = api.control.user(&id).await?;
    if user.status == Status::Deleted { Err(UserError::NotFound.into()) } else { Ok(UserView::of(&user)) }
}

/// Whether somebody may make an account of this role, or touch one.
pub(in crate::http) fn may_touch(operator: &Operator, role: Role) -> bool {
    operator.needs(to_touch(role)).is_ok()
}

/// Who may make an account of a role, or change one.
const fn to_touch(role: Role) -> Access {
    match role {
        Role::User => Access::Operator,
        Role::Viewer | Role::Operator | Role::Owner => Access::Owner,
    }
}

/// The revision of an account that somebody may touch only as it is now: who is no owner, while it has no role.
async fn touched(api: &Api, operator: &Operator, id: &UserId) -> Result<Option<u64>, Problem> {
    if operator.needs(Access::Owner).is_ok() {
        return Ok(None);
    }
    let user = api.control.user(id).await?;
    operator.needs(to_touch(user.role))?;
    Ok(Some(user.revision))
}

/// The revision that an account has to be of: what If-Match says, or what [`touched`] says.
struct Known {
    revision: Option<u64>,
    is_said: bool,
}

impl Known {
    /// Why nothing changed, told to who said a revision in If-Match or did not.
    fn refused(&self, error: UserError) -> Problem {
        match error {
            UserError::Conflict(revision) if self.is_said => is_other(error.to_string(), revision),
            error => error.into(),
        }
    }
}

async fn touching(api: &Api, operator: &Operator, id: &UserId, seen: Option<Vec<u64>>) -> Result<Known, Problem> {
    let touched = touched(api, operator, id).await?;
    let Some(revisions) = seen else { return Ok(Known { revision: touched, is_said: false }) };
    let revision = match touched {
        Some(revision) => revision,
        None => api.control.user(id).await?.revision,
    };
    if revisions.contains(&revision) {
        Ok(Known { revision: Some(revision), is_said: true })
    } else {
        Err(is_other(UserError::Conflict(revision).to_string(), revision))
    }
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

pub(in crate::http) fn read_role(role: &str) -> Result<Role, Problem> {
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
