//! Grants: what people have let clients do, looked for and revoked.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::response::IntoResponse as _;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{IntoParams, ToSchema};

use super::openapi::words::{GrantStateWord, PrincipalKindWord};
use super::openapi::{Described, delete, get, post};
use super::{Answer, Api, Json, Operator, Paging, Path, Problem, Query, next_cursor, ok};
use crate::ids::{ClientId, GrantId, Principal};
use crate::oauth::Grant;
use crate::store::grants::{self, Listed, Names, Of, Revocation, Wanted};
use crate::store::revocations::{PrincipalKind, Watermark, Whose};

const LIST: &str = "grants";

/// Paging and filter in one, since a query string is flat.
#[derive(Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct GrantQuery {
    pub(in crate::http) limit: Option<usize>,
    pub(in crate::http) cursor: Option<String>,
    pub(in crate::http) client: Option<String>,
    /// Such as `user:…`.
    pub(in crate::http) principal: Option<String>,
    #[param(inline, value_type = Option<PrincipalKindWord>)]
    pub(in crate::http) kind: Option<String>,
    #[param(inline, value_type = Option<GrantStateWord>)]
    pub(in crate::http) state: Option<String>,
}

/// One of them.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = GrantsToRevoke)]
pub(super) struct ToRevoke {
    /// One grant, with all refresh tokens that follow from it.
    #[serde(default)]
    family: Option<String>,
    #[serde(default)]
    client: Option<String>,
    #[serde(default)]
    principal: Option<String>,
    #[serde(default)]
    #[schema(value_type = Option<PrincipalKindWord>)]
    kind: Option<String>,
    #[serde(default)]
    all: bool,
}

/// What somebody has let a client do.
#[derive(Serialize, ToSchema)]
#[schema(as = Grant)]
pub(in crate::http) struct GrantView {
    #[schema(value_type = String)]
    pub(in crate::http) id: GrantId,
    #[schema(value_type = GrantStateWord)]
    pub(in crate::http) state: &'static str,
    #[schema(value_type = Option<PrincipalKindWord>)]
    pub(in crate::http) kind: Option<&'static str>,
    pub(in crate::http) principal: String,
    /// Who that is, if they are known by a name.
    pub(in crate::http) principal_name: Option<String>,
    pub(in crate::http) client: String,
    pub(in crate::http) client_name: Option<String>,
    pub(in crate::http) resources: Vec<String>,
    pub(in crate::http) scopes: Vec<String>,
    /// What may be used in the principal's name.
    pub(in crate::http) identities: Vec<String>,
    /// Lists of patterns, each of which a tool has to match.
    pub(in crate::http) tools: Vec<Vec<String>>,
    /// Whether its tokens are bound to a key.
    pub(in crate::http) sender_constrained: bool,
    #[schema(format = DateTime)]
    pub(in crate::http) created: String,
    #[schema(format = DateTime)]
    pub(in crate::http) last_used: String,
    #[schema(format = DateTime)]
    pub(in crate::http) idle_until: String,
    #[schema(format = DateTime)]
    pub(in crate::http) until: String,
    pub(in crate::http) revoked: Option<RevocationView>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Revocation)]
pub(in crate::http) struct RevocationView {
    #[schema(format = DateTime)]
    pub(in crate::http) at: String,
    pub(in crate::http) reason: &'static str,
}

/// What counts no more: everything of this kind that was granted until then.
#[derive(Serialize, ToSchema)]
#[schema(as = RevokedGrants)]
pub(in crate::http) struct RevokedView {
    pub(in crate::http) revoked: String,
    #[schema(format = DateTime)]
    pub(in crate::http) granted_until: String,
}

/// What the document of the API says of these.
pub(super) fn operations() -> Vec<Described> {
    vec![
        get("/api/v1/grants", "listGrants", "Grants, newest first").filters::<GrantQuery>().pages::<GrantView>(LIST),
        delete("/api/v1/grants/{id}", "revokeGrant", "Revokes one grant, with all refresh tokens that follow from it")
            .says(StatusCode::NO_CONTENT),
        post(
            "/api/v1/grants/revoke",
            "revokeGrants",
            "Revokes what was granted to a client, to a principal, to a kind of them, or all; 204 for one family",
        )
        .takes::<ToRevoke>()
        .shows::<RevokedView>()
        .says(StatusCode::NO_CONTENT)
        .refuses(StatusCode::NOT_FOUND, &["not_found"]),
    ]
}

pub(super) async fn list(State(api): State<Arc<Api>>, Query(query): Query<GrantQuery>) -> Answer {
    let (grants, next) = page(&api, query).await?;
    Ok(ok(&json!({ "grants": grants, "next_cursor": next })))
}

/// A page of grants, and the cursor of the next one.
pub(in crate::http) async fn page(api: &Api, query: GrantQuery) -> Result<(Vec<GrantView>, Option<String>), Problem> {
    let GrantQuery { limit, cursor, client, principal, kind, state } = query;
    let paging = Paging { limit, cursor };
    let client = client.as_deref().map(read_client).transpose()?;
    let principal = principal.as_deref().map(read_principal).transpose()?;
    let kind = kind.as_deref().map(read_kind).transpose()?;
    let state = state.map(|word| {
        let words = "`state` is active, revoked or expired";
        grants::State::parse(&word).ok_or_else(|| Problem::invalid(words))
    });
    let (of, client) = match (principal, client) {
        (Some(principal), client) => (Of::Principal(principal), client),
        (None, Some(client)) => (Of::Client(client), None),
        (None, None) => (Of::All, None),
    };
    let wanted = Wanted { of, client, kind, state: state.transpose()? };
    // Each filter is a list of its own.
    let list = format!("{LIST} {wanted:?}");
    let (page, names) = api.control.grants(wanted, paging.cursor(api, &list)?, paging.limit()).await?;
    let rows = page.items.iter().map(|listed| view(listed, &names)).collect();
    Ok((rows, next_cursor(api, &list, page.next.as_ref())))
}

/// One grant.
pub(in crate::http) async fn one(api: &Api, id: &str) -> Result<GrantView, Problem> {
    let id = GrantId::parse(id).ok_or_else(|| Problem::not_found("grant"))?;
    let (listed, names) = api.control.grant(&id).await?.ok_or_else(|| Problem::not_found("grant"))?;
    Ok(view(&listed, &names))
}

pub(super) async fn remove(
    State(api): State<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    Path(id): Path,
) -> Answer {
    revoke_one(&api, &id, &operator).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

pub(super) async fn revoke(
    State(api): State<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    Json(wanted): Json<ToRevoke>,
) -> Answer {
    let whose = match wanted {
        ToRevoke { family: Some(id), client: None, principal: None, kind: None, all: false } => {
            revoke_one(&api, &id, &operator).await?;
            return Ok(StatusCode::NO_CONTENT.into_response());
        }
        ToRevoke { family: None, client: Some(id), principal: None, kind: None, all: false } => {
            Whose::Client(read_client(&id)?)
        }
        ToRevoke { family: None, client: None, principal: Some(principal), kind: None, all: false } => {
            Whose::Principal(read_principal(&principal)?)
        }
        ToRevoke { family: None, client: None, principal: None, kind: Some(kind), all: false } => {
            Whose::Kind(read_kind(&kind)?)
        }
        ToRevoke { family: None, client: None, principal: None, kind: None, all: true } => Whose::Everybody,
        _ => return Err(Problem::invalid("name one of `family`, `client`, `principal` and `kind`, or say `all`")),
    };
    Ok(ok(&json!(revoke_all(&api, &operator, whose).await?)))
}

/// Revokes all that was granted until now.
pub(in crate::http) async fn revoke_all(api: &Api, operator: &Operator, whose: Whose) -> Result<RevokedView, Problem> {
    let Watermark { whose, not_before, reason: _ } = api.control.revoke_grants(whose, operator.0).await?;
    Ok(RevokedView { revoked: whose.to_string(), granted_until: not_before.to_string() })
}

/// Revokes one grant.
pub(in crate::http) async fn revoke_one(api: &Api, id: &str, operator: &Operator) -> Result<(), Problem> {
    let not_found = || Problem::not_found("grant, or it counts no more");
    let id = GrantId::parse(id).ok_or_else(not_found)?;
    match api.control.revoke_grant(&id, operator.0).await? {
        Revocation::Revoked => Ok(()),
        Revocation::NotFound => Err(not_found()),
    }
}

pub(in crate::http) fn read_client(id: &str) -> Result<ClientId, Problem> {
    ClientId::parse(id).ok_or_else(|| Problem::invalid("`client` is no id of a client"))
}

pub(in crate::http) fn read_principal(text: &str) -> Result<Principal, Problem> {
    // Others give no consent.
    let principal = Principal::parse(text).filter(|principal| PrincipalKind::of(principal).is_some());
    principal.ok_or_else(|| {
        Problem::invalid(
            "`principal` is `key:NAME`, `user:ID` (the ID as `portcullis user list` shows it) or `guest:ID`",
        )
    })
}

pub(in crate::http) fn read_kind(word: &str) -> Result<PrincipalKind, Problem> {
    PrincipalKind::parse(word).ok_or_else(|| Problem::invalid("`kind` is key, user or guest"))
}

fn view(listed: &Listed, names: &Names) -> GrantView {
    let Grant {
        id,
        principal,
        client,
        access,
        proof,
        created,
        last_used,
        idle_until,
        until,
        epoch: _,
        on_reuse: _,
        kept: _,
        revoked,
    } = &listed.grant;
    let principal_name = match principal {
        Principal::Key(name) => Some(name.as_str()),
        Principal::User(id) => names.users.get(id).map(String::as_str),
        Principal::Guest(_) | Principal::Anonymous | Principal::Gateway => None,
    };
    GrantView {
        id: id.clone(),
        state: listed.state().as_str(),
        kind: PrincipalKind::of(principal).map(PrincipalKind::as_str),
        principal: principal.to_string(),
        principal_name: principal_name.map(ToOwned::to_owned),
        client: client.as_str().to_owned(),
        client_name: names.clients.get(client).cloned(),
        resources: access.resources.to_vec(),
        scopes: access.scopes.to_vec(),
        identities: access.identities.to_vec(),
        tools: access.limits.tools.to_texts(),
        sender_constrained: proof.is_some(),
        created: created.to_string(),
        last_used: last_used.to_string(),
        idle_until: idle_until.to_string(),
        until: until.to_string(),
        revoked: revoked.as_ref().map(|(at, reason)| RevocationView { at: at.to_string(), reason: reason.as_str() }),
    }
}
