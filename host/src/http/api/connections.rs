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
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{IntoParams, ToSchema};

use super::openapi::words::{ConnectionStateWord, FlowStageWord};
use super::openapi::{Described, delete, get, post};
use super::{Answer, Api, Operator, Paging, Path, Problem, Query, next_cursor, ok};
use crate::audit::Actor;
use crate::config::UpstreamAuth;
use crate::connection::flow::Flow;
use crate::connection::link::Link;
use crate::connection::{Connection, Credential, End, Holder, Standing, Stands, State as Condition};
use crate::connections::connecting::takes;
use crate::identity::TokenList;
use crate::ids::{ConnectionId, FlowId, Principal, UpstreamName};
use crate::pipeline::Snapshot;
use crate::store::connections::{self, Disconnection, Filter};
use crate::store::flows;

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
pub(super) struct ConnectQuery {
    /// With spaces between them (RFC 6749 §3.3).
    scope: Option<String>,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct FlowQuery {
    pub(in crate::http) limit: Option<usize>,
    pub(in crate::http) cursor: Option<String>,
    pub(in crate::http) holder: Option<String>,
}

/// A connection, without its credential.
#[derive(Serialize, ToSchema)]
#[schema(as = Connection)]
pub(in crate::http) struct ConnectionView {
    #[schema(value_type = String)]
    pub(in crate::http) id: ConnectionId,
    /// `key:NAME`, `user:ID`, `guest:ID`, `gateway` or `shared`.
    pub(in crate::http) holder: String,
    #[schema(value_type = String)]
    pub(in crate::http) upstream: UpstreamName,
    /// `oauth`, `headers` or `environment`.
    pub(in crate::http) kind: &'static str,
    #[schema(value_type = ConnectionStateWord)]
    pub(in crate::http) state: &'static str,
    /// Why it has to be made anew.
    pub(in crate::http) reason: Option<&'static str>,
    /// Names of headers or variables that are asked for and were not given.
    pub(in crate::http) missing: Option<Vec<String>>,
    #[schema(format = DateTime)]
    pub(in crate::http) failed_since: Option<String>,
    #[schema(format = DateTime)]
    pub(in crate::http) orphaned_since: Option<String>,
    /// The consent that it was made for, if it was made at one.
    pub(in crate::http) made_for: Option<String>,
    #[schema(format = DateTime)]
    pub(in crate::http) created: String,
    #[schema(format = DateTime)]
    pub(in crate::http) stored: String,
    pub(in crate::http) can_reauthorise: bool,
    /// Why not: `orphaned`, `not_for_operators` or `unused`.
    pub(in crate::http) cannot_reauthorise: Option<&'static str>,
    #[serde(flatten)]
    pub(in crate::http) credential: CredentialView,
}

/// What is told of a credential, by its kind.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[schema(as = Credential)]
pub(in crate::http) enum CredentialView {
    OAuth {
        issuer: String,
        scopes: Vec<String>,
        #[schema(format = DateTime)]
        expires: Option<String>,
        renewable: bool,
    },
    /// Names of headers.
    Headers { headers: Vec<String> },
    /// Names of variables.
    Environment { environment: Vec<String> },
}

/// A way to an authorization server that somebody is on.
#[derive(Serialize, ToSchema)]
#[schema(as = Flow)]
pub(in crate::http) struct FlowView {
    #[schema(value_type = String)]
    pub(in crate::http) id: FlowId,
    pub(in crate::http) holder: String,
    #[schema(value_type = String)]
    pub(in crate::http) upstream: UpstreamName,
    pub(in crate::http) issuer: String,
    #[schema(value_type = FlowStageWord)]
    pub(in crate::http) stage: &'static str,
    /// Whether it is for a connection that is there.
    pub(in crate::http) renews: bool,
    #[schema(format = DateTime)]
    pub(in crate::http) begun: String,
    #[schema(format = DateTime)]
    pub(in crate::http) expires: String,
}

/// A link that opens once.
#[derive(Serialize, ToSchema)]
#[schema(as = Link)]
pub(in crate::http) struct LinkView {
    pub(in crate::http) url: String,
    #[schema(format = DateTime)]
    pub(in crate::http) expires: String,
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

/// Why an operator cannot have a connection made anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unable {
    /// Its holder may not use the upstream.
    Orphaned,
    /// It is a person's or a guest's: they do that themselves.
    NotForOperators,
    /// The upstream takes something else now, or nothing.
    Unused,
}

impl Unable {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Orphaned => "orphaned",
            Self::NotForOperators => "not_for_operators",
            Self::Unused => "unused",
        }
    }
}

/// As whom a link connects that makes a connection anew, if an operator may have one.
fn reauthorises(connection: &Connection, standing: Standing) -> Result<Principal, Unable> {
    let principal = match &connection.place.holder {
        Holder::Shared | Holder::Of(Principal::Gateway) => Principal::Gateway,
        Holder::Of(key @ Principal::Key(_)) => key.clone(),
        Holder::Of(Principal::User(_) | Principal::Guest(_) | Principal::Anonymous) => {
            return Err(Unable::NotForOperators);
        }
    };
    match standing {
        Standing::Active | Standing::NeedsReauth | Standing::NeedsUpdate => Ok(principal),
        Standing::Orphaned => Err(Unable::Orphaned),
        Standing::Unused => Err(Unable::Unused),
    }
}

/// A fresh link by which whoever has it makes a connection anew, for the holder that it has.
pub(super) async fn reauthorise(
    State(api): State<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    Path(id): Path,
) -> Answer {
    Ok(ok(&json!(link_to_reauthorise(&api, &id, operator.0).await?)))
}

/// The same link, and when it ends.
pub(in crate::http) async fn link_to_reauthorise(api: &Api, id: &str, by: Actor) -> Result<LinkView, Problem> {
    let connection = find(api, id).await?;
    let standing = stands(api)(&connection).standing;
    let principal = reauthorises(&connection, standing).map_err(|unable| match unable {
        Unable::Orphaned => {
            let detail = "its holder may not use the upstream: give access back first";
            Problem::new(StatusCode::FORBIDDEN, "connection_orphaned", detail)
        }
        Unable::NotForOperators => {
            let detail = "it is a person's or a guest's own: they connect again at the next call, or at /account";
            Problem::new(StatusCode::FORBIDDEN, "not_for_operators", detail)
        }
        Unable::Unused => {
            let detail = "the upstream takes nothing of this kind any more";
            Problem::new(StatusCode::CONFLICT, "nothing_to_connect", detail)
        }
    })?;
    Ok(link(api, (principal, connection.place.upstream), TokenList::default(), by))
}

fn link(api: &Api, (principal, upstream): (Principal, UpstreamName), scopes: TokenList, by: Actor) -> LinkView {
    let link = Link::new(&api.control.env, principal, upstream).asking_for(scopes).on_behalf_of(by.to_string());
    let url = link.url(&api.services.public_url, &api.services.secret);
    LinkView { url, expires: link.expires.to_string() }
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

pub(super) async fn connect(
    State(api): State<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    Path(name): Path,
    Query(ConnectQuery { scope }): Query<ConnectQuery>,
) -> Answer {
    Ok(ok(&json!(link_for_gateway(&api, &name, scope, operator.0)?)))
}

/// A link by which an operator connects an upstream for the gateway itself, with scopes besides those that are asked for
/// anyway.
pub(in crate::http) fn link_for_gateway(
    api: &Api,
    name: &str,
    scope: Option<String>,
    by: Actor,
) -> Result<LinkView, Problem> {
    let snapshot = api.control.snapshot.load();
    let upstream = UpstreamName::parse(name).ok().and_then(|name| snapshot.upstreams.get(&name));
    let upstream = upstream.ok_or_else(|| Problem::not_found("upstream"))?;
    if upstream.wanted(&Principal::Gateway).is_none() {
        let detail = "this upstream is not used with anybody's account: it has no `auth` to connect";
        return Err(Problem::new(StatusCode::CONFLICT, "nothing_to_connect", detail));
    }
    let scopes = scope.map(|scope| read_scopes(&scope, &upstream.settings().auth)).transpose()?;
    Ok(link(api, (Principal::Gateway, upstream.name().clone()), scopes.unwrap_or_default(), by))
}

/// Scopes that an operator wants asked for.
fn read_scopes(text: &str, auth: &UpstreamAuth) -> Result<TokenList, Problem> {
    if !matches!(auth, UpstreamAuth::SharedOAuth(_) | UpstreamAuth::PerUserOAuth(_)) {
        return Err(Problem::invalid("`scope` is for upstreams that take tokens"));
    }
    let scopes = text.split(' ').filter(|scope| !scope.is_empty()).map(str::to_owned).collect();
    TokenList::parse(scopes).map_err(|_| Problem::invalid("`scope` has scopes with spaces between them"))
}

fn read_holder(text: &str) -> Result<Holder, Problem> {
    let words = "`holder` is `key:NAME`, `user:ID`, `guest:ID`, `gateway` or `shared`";
    Holder::parse(text).ok_or_else(|| Problem::invalid(words))
}

fn view(connection: &Connection, stands: &Stands) -> ConnectionView {
    let Connection { id, place, revision: _, given: _, origin, credential, state, orphaned_since, created, stored } =
        connection;
    let Stands { standing, reason, missing } = stands;
    // What does not work does not while it is out of reach either.
    let (marked, since) = match state {
        Condition::Connected => (None, None),
        Condition::NeedsReauth { reason, since } => (Some(reason), Some(since)),
        Condition::NeedsUpdate { missing: _, since } => (None, Some(since)),
    };
    let since = since.filter(|_| *standing != Standing::Active);
    let reauthorises = reauthorises(connection, *standing);
    ConnectionView {
        id: id.clone(),
        holder: place.holder.to_string(),
        upstream: place.upstream.clone(),
        kind: credential.kind(),
        state: standing.as_str(),
        reason: reason.as_ref().or(marked).map(|reason| reason.as_str()),
        missing: (!missing.is_empty()).then(|| missing.clone()),
        failed_since: since.map(ToString::to_string),
        orphaned_since: orphaned_since.map(|since| since.to_string()),
        made_for: origin.as_ref().map(ToString::to_string),
        created: created.to_string(),
        stored: stored.to_string(),
        can_reauthorise: reauthorises.is_ok(),
        cannot_reauthorise: reauthorises.err().map(Unable::as_str),
        credential: view_of_credential(credential),
    }
}

fn view_of_credential(credential: &Credential) -> CredentialView {
    match credential {
        Credential::OAuth(tokens) => CredentialView::OAuth {
            issuer: tokens.issuer.clone(),
            scopes: tokens.scopes.to_vec(),
            expires: tokens.expires.map(|expires| expires.to_string()),
            renewable: tokens.refresh.is_some(),
        },
        Credential::Headers { names, values: _ } if credential.kind() == "environment" => {
            CredentialView::Environment { environment: names.clone() }
        }
        Credential::Headers { names, values: _ } => CredentialView::Headers { headers: names.clone() },
    }
}

fn view_of_flow(flow: &Flow) -> FlowView {
    FlowView {
        id: flow.id.clone(),
        holder: flow.place.holder.to_string(),
        upstream: flow.place.upstream.clone(),
        issuer: flow.issuer.clone(),
        stage: flow.stage.as_str(),
        renews: flow.renews.is_some(),
        begun: flow.begun.to_string(),
        expires: flow.expires.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::connection::Place;
    use crate::env::Timestamp;
    use crate::secret::Sealed;

    fn connection(holder: &str) -> Connection {
        Connection {
            id: ConnectionId::parse(&"0a".repeat(12)).unwrap(),
            place: Place { holder: Holder::parse(holder).unwrap(), upstream: UpstreamName::parse("notes").unwrap() },
            revision: 1,
            given: 1,
            origin: None,
            credential: Credential::Headers { names: vec!["x-a".to_owned()], values: Sealed::from_bytes(*b"v") },
            state: Condition::Connected,
            orphaned_since: None,
            created: Timestamp::default(),
            stored: Timestamp::default(),
        }
    }

    #[test]
    fn an_operator_connects_again_for_the_gateway_and_for_keys_and_for_nobody_else() {
        let of = |holder: &str, standing| reauthorises(&connection(holder), standing).map(|who| who.to_string());
        for standing in [Standing::Active, Standing::NeedsReauth, Standing::NeedsUpdate] {
            for (holder, expected) in [("shared", "gateway"), ("gateway", "gateway"), ("key:ci", "key:ci")] {
                assert_eq!(of(holder, standing).as_deref(), Ok(expected), "{standing}");
            }
        }
        let person = format!("user:{}", "0b".repeat(12));
        for standing in [Standing::Active, Standing::Orphaned, Standing::Unused] {
            assert_eq!(of(&person, standing), Err(Unable::NotForOperators), "{standing}");
        }
        assert_eq!(of("key:ci", Standing::Orphaned), Err(Unable::Orphaned));
        assert_eq!(of("shared", Standing::Unused), Err(Unable::Unused));
    }

    #[test]
    fn what_is_shown_says_how_it_stands_and_what_can_be_done() {
        let since = Timestamp::from_millis(7);
        let marked = Condition::NeedsUpdate { missing: vec!["x-b".to_owned()], since };
        let marked = Connection { state: marked, ..connection("key:ci") };
        let missing = vec!["x-b".to_owned()];
        let shown = json!(view(&marked, &Stands { standing: Standing::NeedsUpdate, reason: None, missing }));
        assert_eq!((&shown["state"], &shown["missing"]), (&json!("needs_update"), &json!(["x-b"])));
        assert_eq!((&shown["can_reauthorise"], &shown["cannot_reauthorise"]), (&json!(true), &Value::Null));
        let active = Stands { standing: Standing::Active, reason: None, missing: Vec::new() };
        let shown = json!(view(&marked, &active));
        assert_eq!(
            (&shown["missing"], &shown["failed_since"]),
            (&Value::Null, &Value::Null),
            "it is asked for no more"
        );
        let orphaned = Stands { standing: Standing::Orphaned, ..active };
        let shown = json!(view(&connection("key:ci"), &orphaned));
        assert_eq!((&shown["can_reauthorise"], &shown["cannot_reauthorise"]), (&json!(false), &json!("orphaned")));
    }
}
