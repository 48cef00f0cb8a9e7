//! People's accounts. No answer has a password or what is kept of one.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::response::IntoResponse as _;
use http::StatusCode;
use serde_json::json;

use super::if_match::{IfMatch, tagged};
use super::openapi::{Described, delete, get, patch, post};
use super::{Answer, Api, Json, Operator, Paging, Path, Problem, Query, next_cursor, ok, respond};
use crate::admin::users::UserError;
use crate::authorization::passwords;
use crate::identity::user::{Login, PasswordHash, Role, Status};
use crate::ids::UserId;
use crate::secret::Plaintext;
use crate::store::users::{Edit, Filter, NewUser};

mod request;
mod touching;
mod view;

pub(in crate::http) use request::{UserChange, UserQuery, UserRequest, read_role};
use request::{kept, read_email, read_groups, read_id, read_login, read_name, read_status};
pub(in crate::http) use touching::may_touch;
use touching::{to_touch, touched, touching};
use view::EndedView;
pub(in crate::http) use view::{SessionView, UserView};

const LIST: &str = "users";

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
        name: read_name(name)?,
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
    edits.extend(name.map(read_name).transpose()?.map(Edit::Name));
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

async fn hash(api: &Api, password: String, login: Option<&Login>) -> Result<PasswordHash, Problem> {
    let password = Plaintext::new(password);
    passwords::check_rules(&password, login).map_err(|weak| Problem::invalid(weak.to_string()))?;
    api.server.passwords.hash(password).await.map_err(Problem::from)
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
