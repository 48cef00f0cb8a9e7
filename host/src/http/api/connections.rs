//! Connections: whose credentials are kept for which upstreams, how they stand, and the end of one.
//!
//! Nothing secret is told, names of headers aside. An operator may end anybody's connection, and makes none but the gateway's
//! own: what a catalog is read with, and what all share.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::response::IntoResponse as _;
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Answer, Api, Operator, Paging, Path, Problem, Query, next_cursor, ok};
use crate::connection::flow::Flow;
use crate::connection::link::Link;
use crate::connection::{Connection, Credential, End, Holder, Standing, State as Condition};
use crate::ids::{ConnectionId, Principal, UpstreamName};
use crate::store::connections::{self, Disconnection, Filter, Listed};
use crate::store::flows;

const LIST: &str = "connections";
const FLOWS: &str = "connection flows";

/// Paging and filter in one, since a query string is flat.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ConnectionQuery {
    limit: Option<usize>,
    cursor: Option<String>,
    /// `key:NAME`, `user:ID`, `guest:ID`, `gateway` or `shared`.
    holder: Option<String>,
    upstream: Option<String>,
    /// `active`, `needs_reauth`, `needs_update` or `orphaned`.
    state: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FlowQuery {
    limit: Option<usize>,
    cursor: Option<String>,
    holder: Option<String>,
}

pub(super) async fn list(State(api): State<Arc<Api>>, Query(query): Query<ConnectionQuery>) -> Answer {
    let ConnectionQuery { limit, cursor, holder, upstream, state } = query;
    let paging = Paging { limit, cursor };
    let upstream = upstream
        .map(|name| UpstreamName::parse(&name).map_err(|_| Problem::invalid("`upstream` is no name of an upstream")));
    let standing = state.map(|word| {
        let words = "`state` is active, needs_reauth, needs_update or orphaned";
        Standing::parse(&word).ok_or_else(|| Problem::invalid(words))
    });
    let holder = holder.as_deref().map(read_holder).transpose()?;
    let filter = Filter { holder, upstream: upstream.transpose()?, standing: standing.transpose()? };
    // Each filter is a list of its own.
    let list = format!("{LIST} {filter:?}");
    let (snapshot, may_use) = (api.control.snapshot.load_full(), api.connections.may_use.clone());
    let may_use = move |place: &crate::connection::Place| may_use(&snapshot, place);
    let page =
        connections::list(&api.control.store, filter, may_use, paging.cursor(&api, &list)?, paging.limit()).await?;
    let rows: Vec<Value> = page.items.iter().map(view).collect();
    Ok(ok(&json!({ "connections": rows, "next_cursor": next_cursor(&api, &list, page.next.as_ref()) })))
}

/// Ways to authorization servers that people are on.
pub(super) async fn list_flows(State(api): State<Arc<Api>>, Query(query): Query<FlowQuery>) -> Answer {
    let FlowQuery { limit, cursor, holder } = query;
    let paging = Paging { limit, cursor };
    let holder = holder.as_deref().map(read_holder).transpose()?;
    let list = format!("{FLOWS} {holder:?}");
    let page = flows::list(&api.control.store, holder, paging.cursor(&api, &list)?, paging.limit()).await?;
    let rows: Vec<Value> = page.items.iter().map(view_of_flow).collect();
    Ok(ok(&json!({ "flows": rows, "next_cursor": next_cursor(&api, &list, page.next.as_ref()) })))
}

/// Ends a connection, and the ways on which it might come back: it is erased at once, and its tokens are revoked where they
/// came from.
pub(super) async fn revoke(
    State(api): State<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    Path(id): Path,
) -> Answer {
    let not_found = || Problem::not_found("connection");
    let id = ConnectionId::parse(&id).ok_or_else(not_found)?;
    let connection = connections::by_id(&api.control.store, &id).await?.ok_or_else(not_found)?;
    match api.connections.keeper.disconnect(&connection.place, End::Revoked, operator.0).await? {
        Disconnection::Ended { .. } => Ok(StatusCode::NO_CONTENT.into_response()),
        Disconnection::NotFound => Err(not_found()),
    }
}

/// A link by which an operator connects an upstream for the gateway itself.
pub(super) async fn connect(State(api): State<Arc<Api>>, Path(name): Path) -> Answer {
    let snapshot = api.control.snapshot.load();
    let upstream = UpstreamName::parse(&name).ok().and_then(|name| snapshot.upstreams.get(&name));
    let upstream = upstream.ok_or_else(|| Problem::not_found("upstream"))?;
    if upstream.wanted(&Principal::Gateway).is_none() {
        let detail = "this upstream is not used with anybody's account: it has no `auth` to connect";
        return Err(Problem::new(StatusCode::CONFLICT, "nothing_to_connect", detail));
    }
    let link = Link::new(&api.control.env, Principal::Gateway, upstream.name().clone());
    let url = link.url(&api.services.public_url, &api.services.secret);
    Ok(ok(&json!({ "url": url, "expires": link.expires.to_string() })))
}

fn read_holder(text: &str) -> Result<Holder, Problem> {
    let words = "`holder` is `key:NAME`, `user:ID`, `guest:ID`, `gateway` or `shared`";
    Holder::parse(text).ok_or_else(|| Problem::invalid(words))
}

fn view(Listed { connection, standing }: &Listed) -> Value {
    let Connection { id, place, revision: _, given: _, credential, state, orphaned_since, created, stored } =
        connection;
    let (reason, missing, since) = match state {
        Condition::Connected => (None, None, None),
        Condition::NeedsReauth { reason, since } => (Some(reason.as_str()), None, Some(since)),
        Condition::NeedsUpdate { missing, since } => (None, Some(missing), Some(since)),
    };
    let mut shown = json!({
        "id": id,
        "holder": place.holder.to_string(),
        "upstream": place.upstream,
        "kind": credential.kind(),
        "state": standing.as_str(),
        "reason": reason,
        "missing": missing,
        "failed_since": since.map(ToString::to_string),
        "orphaned_since": orphaned_since.map(|since| since.to_string()),
        "created": created.to_string(),
        "stored": stored.to_string(),
    });
    match credential {
        Credential::OAuth(tokens) => {
            shown["issuer"] = json!(tokens.issuer);
            shown["scopes"] = json!(tokens.scopes.to_vec());
            shown["expires"] = json!(tokens.expires.map(|expires| expires.to_string()));
            shown["renewable"] = json!(tokens.refresh.is_some());
        }
        Credential::Headers { names, values: _ } => shown[credential.kind()] = json!(names),
    }
    shown
}

fn view_of_flow(flow: &Flow) -> Value {
    json!({
        "id": flow.id,
        "holder": flow.place.holder.to_string(),
        "upstream": flow.place.upstream,
        "issuer": flow.issuer,
        "stage": flow.stage.as_str(),
        "renews": flow.renews.is_some(),
        "begun": flow.begun.to_string(),
        "expires": flow.expires.to_string(),
    })
}
