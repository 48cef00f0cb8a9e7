//! API tokens: one's own, and for owners everybody's. A secret is told when it is made, and never again.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::response::IntoResponse as _;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{IntoParams, ToSchema};

use super::access::{Access, Lacks, is_scope};
use super::keys::read_time;
use super::openapi::words::RoleWord;
use super::openapi::{Described, delete, get, post};
use super::users::read_role;
use super::{Answer, Api, Json, Operator, Paging, Path, Problem, Query, areas, next_cursor, ok, respond};
use crate::admin::api_tokens::{Maker, TokenError, Wanted};
use crate::identity::TokenList;
use crate::identity::api_token::ApiToken;
use crate::identity::user::{DisplayName, Role};
use crate::ids::{ApiTokenId, UserId};

const LIST: &str = "api-tokens";

/// Paging and filter in one, since a query string is flat.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct TokenQuery {
    limit: Option<usize>,
    cursor: Option<String>,
    /// Only this user's, by their id. Without it an owner sees all, and everybody else their own.
    user: Option<String>,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewApiToken)]
pub(super) struct TokenRequest {
    name: String,
    /// The most that it may do: `viewer` where nothing is said.
    #[schema(value_type = Option<RoleWord>)]
    role: Option<String>,
    /// `read`, and names of areas. Without any, whatever the role may.
    #[serde(default)]
    scopes: Vec<String>,
    #[schema(format = DateTime)]
    expires: Option<String>,
    /// Whose it is to be, by their id: another than oneself for owners only.
    user: Option<String>,
}

/// A token, without its secret.
#[derive(Serialize, ToSchema)]
#[schema(as = ApiToken)]
pub(super) struct TokenView {
    id: String,
    name: String,
    /// Whose it is.
    user: String,
    /// The most that it may do.
    #[schema(value_type = RoleWord)]
    role: &'static str,
    scopes: Vec<String>,
    #[schema(format = DateTime)]
    created: String,
    #[schema(format = DateTime)]
    expires: Option<String>,
    /// To the minute.
    #[schema(format = DateTime)]
    last_used: Option<String>,
}

/// A token that was made just now.
#[derive(Serialize, ToSchema)]
#[schema(as = MadeApiToken)]
struct MadeView {
    #[serde(flatten)]
    token: TokenView,
    /// Told this once.
    secret: String,
}

/// What the document of the API says of them.
pub(super) fn operations() -> Vec<Described> {
    vec![
        get("/api/v1/api-tokens", "listApiTokens", "Tokens for programs, newest first: one's own, for owners all")
            .filters::<TokenQuery>()
            .pages::<TokenView>("api_tokens"),
        post("/api/v1/api-tokens", "createApiToken", "Makes a token. The answer alone has its secret")
            .takes::<TokenRequest>()
            .gives::<MadeView>(StatusCode::CREATED)
            .conflicts(&["user_not_active", "too_many_api_tokens"]),
        delete("/api/v1/api-tokens/{id}", "revokeApiToken", "Ends a token").says(StatusCode::NO_CONTENT),
    ]
}

pub(super) async fn list(
    State(api): State<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    Query(query): Query<TokenQuery>,
) -> Answer {
    let TokenQuery { limit, cursor, user } = query;
    let whose = match user {
        Some(user) => Some(operator.whose(&user)?),
        None => operator.only_own(),
    };
    let paging = Paging { limit, cursor };
    // Each filter is a list of its own.
    let list = format!("{LIST} {}", whose.as_ref().map_or("", UserId::as_str));
    let page = api.control.list_api_tokens(whose, paging.cursor(&api, &list)?, paging.limit()).await?;
    let tokens: Vec<TokenView> = page.items.iter().map(TokenView::of).collect();
    Ok(ok(&json!({ "api_tokens": tokens, "next_cursor": next_cursor(&api, &list, page.next.as_ref()) })))
}

pub(super) async fn create(
    State(api): State<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    Json(new): Json<TokenRequest>,
) -> Answer {
    let TokenRequest { name, role, scopes, expires, user } = new;
    let own = operator.1.user().map(|user| user.id.clone());
    let user = match (user, own) {
        (Some(user), _) => operator.whose(&user)?,
        (None, Some(own)) => own,
        (None, None) => {
            return Err(Problem::invalid(
                "say in `user` whose it is to be: the operator token and the socket are nobody's",
            ));
        }
    };
    let role = role.as_deref().map_or(Ok(Role::Viewer), read_role)?;
    if role < Role::Viewer {
        return Err(Problem::invalid("with the role `user` nothing is done here"));
    }
    let wanted = Wanted {
        name: read_name(&name)?,
        user,
        role,
        scopes: read_scopes(scopes)?,
        expires: expires.as_deref().map(read_time).transpose()?,
    };
    let maker = Maker { role: operator.1.role(), token: operator.1.token() };
    let (token, secret) = api.control.create_api_token(wanted, maker, operator.0).await?;
    let made = MadeView { token: TokenView::of(&token), secret: secret.expose().to_owned() };
    Ok(respond(StatusCode::CREATED, &json!(made)))
}

pub(super) async fn remove(
    State(api): State<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    Path(id): Path,
) -> Answer {
    let id = ApiTokenId::parse(&id).ok_or_else(|| Problem::not_found("token"))?;
    api.control.revoke_api_token(&id, operator.only_own(), operator.0).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

impl Operator {
    /// The one person whose tokens somebody sees, unless they see all.
    fn only_own(&self) -> Option<UserId> {
        let own = self.1.user().filter(|_| self.1.role() < Access::Owner.role());
        own.map(|user| user.id.clone())
    }

    /// The user of this id, if that is one whose tokens are somebody's business.
    fn whose(&self, id: &str) -> Result<UserId, Problem> {
        let id = UserId::parse(id).ok_or_else(|| Problem::invalid("`user` is the id of a user"))?;
        match self.only_own() {
            Some(own) if own != id => Err(Lacks::Role(Access::Owner.role()).into()),
            _ => Ok(id),
        }
    }
}

fn read_name(name: &str) -> Result<DisplayName, Problem> {
    let shown = DisplayName::of(name);
    let fits = !shown.as_str().is_empty() && shown.as_str() == name.trim();
    let rule = format!("`name` has 1 to {} bytes on one line", DisplayName::MAX_LEN);
    if fits { Ok(shown) } else { Err(Problem::invalid(rule)) }
}

fn read_scopes(scopes: Vec<String>) -> Result<TokenList, Problem> {
    if let Some(unknown) = scopes.iter().find(|scope| !is_scope(scope, areas())) {
        let known: Vec<&str> = areas().filter(|area| is_scope(area, areas())).collect();
        let detail = format!("there is no scope {unknown:?}: there are read, {}", known.join(", "));
        return Err(Problem::invalid(detail));
    }
    TokenList::parse(scopes)
        .map_err(|(position, error)| Problem::invalid(format!("entry {position} of `scopes` {error}")))
}

impl TokenView {
    pub(super) fn of(token: &ApiToken) -> Self {
        let ApiToken { id, name, user, digest: _, ceiling, scopes, created, expires, last_used } = token;
        Self {
            id: id.as_str().to_owned(),
            name: name.as_str().to_owned(),
            user: user.as_str().to_owned(),
            role: ceiling.as_str(),
            scopes: scopes.to_vec(),
            created: created.to_string(),
            expires: expires.map(|expires| expires.to_string()),
            last_used: last_used.map(|used| used.to_string()),
        }
    }
}

impl From<TokenError> for Problem {
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::AboveMaker(_) | TokenError::Wider => {
                Self::new(StatusCode::FORBIDDEN, "forbidden", error.to_string())
            }
            TokenError::AboveUser(_) | TokenError::AlreadyExpired => Self::invalid(error.to_string()),
            TokenError::NotActive => Self::new(StatusCode::CONFLICT, "user_not_active", error.to_string()),
            TokenError::TooMany => Self::new(StatusCode::CONFLICT, "too_many_api_tokens", error.to_string()),
            TokenError::NotFound => Self::not_found("token"),
            TokenError::Store(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_is_read_or_the_name_of_an_area() {
        let read = |words: &[&str]| read_scopes(words.iter().map(|word| (*word).to_owned()).collect()).is_ok();
        assert!(read(&[]) && read(&["read"]) && read(&["keys", "signing-keys", "read"]));
        for wrong in ["", "write", "key", "Keys", "keys/x", "api", "*", "me"] {
            assert!(!read(&[wrong]), "{wrong:?}");
        }
        assert!(!read(&["keys", "keys"]));
    }
}
