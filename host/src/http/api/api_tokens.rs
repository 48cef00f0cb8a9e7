//! API tokens: one's own, and for owners everybody's. A secret is told when it is made, and never again.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::response::IntoResponse as _;
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::access::{Access, Lacks, is_scope};
use super::keys::read_time;
use super::users::read_role;
use super::{Answer, Api, Json, Operator, Paging, Path, Problem, Query, areas, next_cursor, ok, respond};
use crate::admin::api_tokens::{Maker, TokenError, Wanted};
use crate::identity::TokenList;
use crate::identity::api_token::ApiToken;
use crate::identity::user::{DisplayName, Role};
use crate::ids::{ApiTokenId, UserId};

const LIST: &str = "api-tokens";

/// Paging and filter in one, since a query string is flat.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TokenQuery {
    limit: Option<usize>,
    cursor: Option<String>,
    /// Only this user's, by their id. Without it an owner sees all, and everybody else their own.
    user: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TokenRequest {
    name: String,
    /// The most that it may do: `viewer` where nothing is said.
    role: Option<String>,
    /// `read`, and names of areas. Without any, whatever the role may.
    #[serde(default)]
    scopes: Vec<String>,
    /// RFC 3339.
    expires: Option<String>,
    /// Whose it is to be, by their id: another than oneself for owners only.
    user: Option<String>,
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
    let tokens: Vec<Value> = page.items.iter().map(view).collect();
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
    let mut view = view(&token);
    view["secret"] = secret.expose().into();
    Ok(respond(StatusCode::CREATED, &view))
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

pub(super) fn view(token: &ApiToken) -> Value {
    let ApiToken { id, name, user, digest: _, ceiling, scopes, created, expires, last_used } = token;
    json!({
        "id": id,
        "name": name.as_str(),
        "user": user,
        "role": ceiling.as_str(),
        "scopes": scopes.to_vec(),
        "created": created.to_string(),
        "expires": expires.map(|expires| expires.to_string()),
        "last_used": last_used.map(|used| used.to_string()),
    })
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
