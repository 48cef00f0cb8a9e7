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
use crate::identity::api_token::{ApiToken, READ};
use crate::identity::user::{DisplayName, Role};
use crate::ids::{ApiTokenId, UserId};
use crate::secret::Plaintext;

const LIST: &str = "api-tokens";

/// Paging and filter in one, since a query string is flat.
#[derive(Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::http) struct TokenQuery {
    pub(in crate::http) limit: Option<usize>,
    pub(in crate::http) cursor: Option<String>,
    /// Only this user's, by their id. Without it an owner sees all, and everybody else their own.
    pub(in crate::http) user: Option<String>,
}

#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewApiToken)]
pub(in crate::http) struct TokenRequest {
    pub(in crate::http) name: String,
    /// The most that it may do: `viewer` where nothing is said.
    #[schema(value_type = Option<RoleWord>)]
    pub(in crate::http) role: Option<String>,
    /// `read`, and names of areas. Without any, whatever the role may.
    #[serde(default)]
    pub(in crate::http) scopes: Vec<String>,
    #[schema(format = DateTime)]
    pub(in crate::http) expires: Option<String>,
    /// Whose it is to be, by their id: another than oneself for owners only.
    pub(in crate::http) user: Option<String>,
}

/// A token, without its secret.
#[derive(Serialize, ToSchema)]
#[schema(as = ApiToken)]
pub(in crate::http) struct TokenView {
    pub(in crate::http) id: String,
    pub(in crate::http) name: String,
    /// Whose it is.
    pub(in crate::http) user: String,
    /// The most that it may do.
    #[schema(value_type = RoleWord)]
    pub(in crate::http) role: &'static str,
    pub(in crate::http) scopes: Vec<String>,
    #[schema(format = DateTime)]
    pub(in crate::http) created: String,
    #[schema(format = DateTime)]
    pub(in crate::http) expires: Option<String>,
    /// To the minute.
    #[schema(format = DateTime)]
    pub(in crate::http) last_used: Option<String>,
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
    let (tokens, next) = page(&api, &operator, query).await?;
    Ok(ok(&json!({ "api_tokens": tokens, "next_cursor": next })))
}

/// A page of tokens that are somebody's business, and the cursor of the next one.
pub(in crate::http) async fn page(
    api: &Api,
    operator: &Operator,
    query: TokenQuery,
) -> Result<(Vec<TokenView>, Option<String>), Problem> {
    let TokenQuery { limit, cursor, user } = query;
    let whose = match user {
        Some(user) => Some(operator.whose(&user)?),
        None => operator.only_own(),
    };
    let paging = Paging { limit, cursor };
    // Each filter is a list of its own.
    let list = format!("{LIST} {}", whose.as_ref().map_or("", UserId::as_str));
    let page = api.control.list_api_tokens(whose, paging.cursor(api, &list)?, paging.limit()).await?;
    Ok((page.items.iter().map(TokenView::of).collect(), next_cursor(api, &list, page.next.as_ref())))
}

pub(super) async fn create(
    State(api): State<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    Json(new): Json<TokenRequest>,
) -> Answer {
    let (token, secret) = make(&api, &operator, new).await?;
    let made = MadeView { token, secret: secret.expose().to_owned() };
    Ok(respond(StatusCode::CREATED, &json!(made)))
}

/// Makes a token, and tells its secret.
pub(in crate::http) async fn make(
    api: &Api,
    operator: &Operator,
    new: TokenRequest,
) -> Result<(TokenView, Plaintext), Problem> {
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
    let (token, secret) = api.control.create_api_token(wanted, operator.maker(), operator.0).await?;
    Ok((TokenView::of(&token), secret))
}

pub(super) async fn remove(
    State(api): State<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    Path(id): Path,
) -> Answer {
    revoke(&api, &operator, &id).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Ends a token that is somebody's business.
pub(in crate::http) async fn revoke(api: &Api, operator: &Operator, id: &str) -> Result<(), Problem> {
    Ok(api.control.revoke_api_token(&read_id(id)?, operator.only_own(), operator.0).await?)
}

/// The token of this id, if it is somebody's business.
pub(in crate::http) async fn one(api: &Api, operator: &Operator, id: &str) -> Result<TokenView, Problem> {
    Ok(TokenView::of(&api.control.api_token(&read_id(id)?, operator.only_own()).await?))
}

/// The scopes that there are.
pub(in crate::http) fn scopes() -> impl Iterator<Item = &'static str> {
    std::iter::once(READ).chain(areas().filter(|area| is_scope(area, areas())))
}

fn read_id(id: &str) -> Result<ApiTokenId, Problem> {
    ApiTokenId::parse(id).ok_or_else(|| Problem::not_found("token"))
}

impl Operator {
    /// What they may make tokens as.
    pub(super) fn maker(&self) -> Maker {
        Maker { role: self.1.role(), is_token: self.1.token().is_some() }
    }

    /// The one person whose tokens somebody sees, unless they see all.
    pub(super) fn only_own(&self) -> Option<UserId> {
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
            TokenError::AboveMaker(_) | TokenError::ByToken => {
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
