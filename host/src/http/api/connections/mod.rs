//! Connections: whose credentials are kept for which upstreams, how they stand, how one is made anew, and the end of one.
//!
//! Nothing secret is told, names of headers aside. An operator may end anybody's connection. They connect for the gateway
//! itself (what a catalog is read with, and what all share), and again for keys, which are theirs to hand out; never for a
//! person or a guest: an account that somebody else connected would be used in their name.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::response::IntoResponse as _;
use http::StatusCode;
use serde::Deserialize;
use serde_json::json;
use utoipa::IntoParams;

use super::openapi::words::ConnectionStateWord;
use super::openapi::{Described, delete, get, post};
use super::{Answer, Api, Operator, Paging, Path, Problem, Query, next_cursor, ok};
use crate::audit::Actor;
use crate::connection::{Connection, End, Holder, Standing, Stands};
use crate::connections::connecting::takes;
use crate::ids::{ConnectionId, UpstreamName};
use crate::pipeline::Snapshot;
use crate::store::connections::{self, Disconnection, Filter};
use crate::store::flows;

mod links;
#[cfg(test)]
mod tests;
mod view;

use links::ConnectQuery;
pub(super) use links::{connect, reauthorise};
pub(in crate::http) use links::{link_for_gateway, link_to_reauthorise};
pub(in crate::http) use view::{ConnectionView, CredentialView, FlowView, LinkView};
use view::{view, view_of_flow};

const LIST: &str = "connections";
const FLOWS: &str = "connection flows";

/// Paging and filter in one, since a query string is flat.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct ConnectionQuery {
    pub(in crate::http) limit: Option<usize>,
    pub(in crate::http) cursor: Option<String>,
    /// `key:NAME`, `user:ID`, `guest:ID`, `gateway` or `shared`.
    pub(in crate::http) holder: Option<String>,
    pub(in crate::http) upstream: Option<String>,
    #[param(inline, value_type = Option<ConnectionStateWord>)]
    pub(in crate::http) state: Option<String>,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct FlowQuery {
    pub(in crate::http) limit: Option<usize>,
    pub(in crate::http) cursor: Option<String>,
    pub(in crate::http) holder: Option<String>,
}

/// What the document of the API says of these.
pub(super) fn operations() -> Vec<Described> {
    vec![
        post(
            "/api/v1/upstreams/{name}/connect",
            "connectUpstream",
            "A link by which an operator connects an upstream for the gateway itself",
        )
        .filters::<ConnectQuery>()
        .shows::<LinkView>()
        .conflicts(&["nothing_to_connect"]),
        get("/api/v1/connections", "listConnections", "Connections, newest first")
            .filters::<ConnectionQuery>()
            .pages::<ConnectionView>(LIST),
        get("/api/v1/connections/flows", "listFlows", "Ways to authorization servers that people are on, newest first")
            .filters::<FlowQuery>()
            .pages::<FlowView>("flows"),
        get("/api/v1/connections/{id}", "showConnection", "One connection").shows::<ConnectionView>(),
        delete(
            "/api/v1/connections/{id}",
            "endConnection",
            "Ends a connection: its tokens are revoked where they came from",
        )
        .says(StatusCode::NO_CONTENT),
        post(
            "/api/v1/connections/{id}/reauthorise",
            "reauthoriseConnection",
            "A link by which whoever has it makes a connection anew, for the holder that it has",
        )
        .shows::<LinkView>()
        .refuses(StatusCode::FORBIDDEN, &["connection_orphaned", "not_for_operators"])
        .conflicts(&["nothing_to_connect"]),
    ]
}

pub(super) async fn list(State(api): State<Arc<Api>>, Query(query): Query<ConnectionQuery>) -> Answer {
    let (connections, next) = page(&api, query).await?;
    Ok(ok(&json!({ "connections": connections, "next_cursor": next })))
}

/// A page of the connections, and the cursor of the next one.
pub(in crate::http) async fn page(
    api: &Api,
    query: ConnectionQuery,
) -> Result<(Vec<ConnectionView>, Option<String>), Problem> {
    let ConnectionQuery { limit, cursor, holder, upstream, state } = query;
    let paging = Paging { limit, cursor };
    let upstream = upstream
        .map(|name| UpstreamName::parse(&name).map_err(|_| Problem::invalid("`upstream` is no name of an upstream")));
    let standing = state.map(|word| {
        let words = "`state` is active, needs_reauth, needs_update, orphaned or unused";
        Standing::parse(&word).ok_or_else(|| Problem::invalid(words))
    });
    let holder = holder.as_deref().map(read_holder).transpose()?;
    let filter = Filter { holder, upstream: upstream.transpose()?, standing: standing.transpose()? };
    // Each filter is a list of its own.
    let list = format!("{LIST} {filter:?}");
    let stands = stands(api);
    let known = stands.clone();
    let standing = move |connection: &Connection| known(connection).standing;
    let cursor = paging.cursor(api, &list)?;
    let page = connections::list_by(&api.control.store, filter, standing, cursor, paging.limit()).await?;
    let rows = page.items.iter().map(|listed| view(&listed.connection, &stands(&listed.connection))).collect();
    Ok((rows, next_cursor(api, &list, page.next.as_ref())))
}

/// How connections stand, by what is in force.
fn stands(api: &Api) -> impl Fn(&Connection) -> Stands + Clone + Send + 'static {
    let (snapshot, may_use): (Arc<Snapshot>, _) = (api.control.snapshot.load_full(), api.connections.may_use.clone());
    move |connection| {
        let place = &connection.place;
        let upstream = snapshot.upstreams.get(&place.upstream);
        let takes = upstream.and_then(|upstream| takes(upstream.settings(), &place.holder));
        connection.stands(may_use(&snapshot, place), takes.as_ref())
    }
}

pub(super) async fn show(State(api): State<Arc<Api>>, Path(id): Path) -> Answer {
    Ok(ok(&json!(one(&api, &id).await?)))
}

/// One connection as it stands now.
pub(in crate::http) async fn one(api: &Api, id: &str) -> Result<ConnectionView, Problem> {
    let connection = find(api, id).await?;
    Ok(view(&connection, &stands(api)(&connection)))
}

async fn find(api: &Api, id: &str) -> Result<Connection, Problem> {
    let not_found = || Problem::not_found("connection");
    let id = ConnectionId::parse(id).ok_or_else(not_found)?;
    connections::by_id(&api.control.store, &id).await?.ok_or_else(not_found)
}

/// Ways to authorization servers that people are on.
pub(super) async fn list_flows(State(api): State<Arc<Api>>, Query(query): Query<FlowQuery>) -> Answer {
    let (flows, next) = page_of_flows(&api, query).await?;
    Ok(ok(&json!({ "flows": flows, "next_cursor": next })))
}

/// A page of them, and the cursor of the next one.
pub(in crate::http) async fn page_of_flows(
    api: &Api,
    query: FlowQuery,
) -> Result<(Vec<FlowView>, Option<String>), Problem> {
    let FlowQuery { limit, cursor, holder } = query;
    let paging = Paging { limit, cursor };
    let holder = holder.as_deref().map(read_holder).transpose()?;
    let list = format!("{FLOWS} {holder:?}");
    let page = flows::list(&api.control.store, holder, paging.cursor(api, &list)?, paging.limit()).await?;
    let rows = page.items.iter().map(view_of_flow).collect();
    Ok((rows, next_cursor(api, &list, page.next.as_ref())))
}

/// Ends a connection, and the ways on which it might come back: it is erased at once, and its tokens are revoked where they
/// came from.
pub(super) async fn revoke(
    State(api): State<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    Path(id): Path,
) -> Answer {
    end(&api, &id, operator.0).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// The same for whoever answers otherwise.
pub(in crate::http) async fn end(api: &Api, id: &str, actor: Actor) -> Result<(), Problem> {
    let connection = find(api, id).await?;
    match api.connections.keeper.disconnect(&connection.place, End::Revoked, actor).await? {
        Disconnection::Ended { .. } => Ok(()),
        Disconnection::NotFound => Err(Problem::not_found("connection")),
    }
}

fn read_holder(text: &str) -> Result<Holder, Problem> {
    let words = "`holder` is `key:NAME`, `user:ID` (the ID as `portcullis user list` shows it), `guest:ID`, `gateway` \
                 or `shared`";
    Holder::parse(text).ok_or_else(|| Problem::invalid(words))
}
