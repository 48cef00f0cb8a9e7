//! `/api/v1`: what operators do, for the command line and for scripts.
//!
//! [`ROUTES`] is the table of contents. Every row says the least role that may call it, and [`router`] puts the [`door`] for
//! that before the row's handler; the same row drives the coverage test, and nothing is open to everyone. Errors are problem
//! documents (RFC 9457) with a stable `code`. What each file says of its operations makes the document of the API
//! ([`openapi`]).

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, patch, post};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use http::request::Parts;
use http::{Method, StatusCode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::json;
use utoipa::IntoParams;

use super::body::{self, read_limited};
use super::console::Console;
use crate::admin::Control;
use crate::admin::tails::Tails;
use crate::audit::Actor;
use crate::authorization::signing::SigningKeys;
use crate::authorization::{AuthorizationServer, Fault};
use crate::connections::keeper::{Keeper, MayUse};
use crate::env::ClockOffset;
use crate::store::audit::Found;
use crate::store::sweeper::SweeperState;
use crate::store::table::MAX_PAGE;
use crate::store::{Cursor, StoreError};

mod access;
pub(super) mod api_tokens;
pub(super) mod approvals;
pub(super) mod clients;
pub(super) mod connections;
mod door;
pub(super) mod grants;
pub(super) mod health;
mod if_match;
pub(super) mod key_access;
pub(super) mod keys;
pub(super) mod me;
pub mod metrics;
pub mod openapi;
pub(super) mod pins;
pub(super) mod policies;
pub(super) mod policy_bindings;
pub(super) mod policy_modules;
pub(super) mod policy_try;
pub(super) mod recordings;
pub(super) mod set_up_link;
pub(super) mod settings;
pub(super) mod signing_keys;
pub(super) mod status;
pub(super) mod store;
pub(super) mod tails;
pub(super) mod tools;
pub(super) mod traffic;
pub(super) mod trails;
pub(super) mod upstreams;
pub(super) mod users;
pub(super) mod vault;

use access::Lacks;
use door::Post;
use metrics::Watched;

pub use access::Access;
pub(super) use access::Who;
pub use door::Operators;
pub use key_access::Turns;

/// Largest body of a request, in bytes.
const MAX_BODY: usize = 1 << 20;
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// The type of a problem document.
const PROBLEM: &str = "application/problem+json";
/// The type of a merge patch (RFC 7396 §4), which `application/json` stands for as well.
const MERGE_PATCH: &str = "application/merge-patch+json";
/// Rows on a page, unless asked for fewer or more; at most as many as the store gives.
const DEFAULT_PAGE: usize = 50;

/// One row of the API.
pub struct Route {
    pub method: &'static str,
    pub path: &'static str,
    pub access: Access,
    handler: fn() -> MethodRouter<Arc<Api>>,
}

impl Route {
    /// The part of the API that a row belongs to, by which tokens are narrowed: the first segment of its path, without what it is the path of.
    pub fn area(&self) -> &'static str {
        let own = self.path.strip_prefix("/api/v1/").unwrap_or(self.path);
        let area = own.split('/').next().unwrap_or(own);
        area.strip_suffix(".json").unwrap_or(area)
    }

    /// Whether it is one of [`FRESH`].
    pub fn wants_fresh(&self) -> bool {
        FRESH.contains(&(self.method, self.path))
    }
}

/// The areas that there are, each once.
fn areas() -> impl Iterator<Item = &'static str> {
    let is_first = |at: usize, area: &str| ROUTES[..at].iter().all(|other| other.area() != area);
    let areas = ROUTES.iter().map(Route::area).enumerate();
    areas.filter(move |(at, area)| is_first(*at, area)).map(|(_, area)| area)
}

/// All of it.
pub const ROUTES: &[Route] = &[
    Route { method: "GET", path: "/api/v1/openapi.json", access: Access::Viewer, handler: || get(openapi::show) },
    Route { method: "GET", path: "/api/v1/status", access: Access::Viewer, handler: || get(status::show) },
    Route { method: "GET", path: "/api/v1/health", access: Access::Viewer, handler: || get(health::show) },
    Route { method: "GET", path: "/api/v1/traffic", access: Access::Viewer, handler: || get(traffic::show) },
    Route { method: "GET", path: "/api/v1/settings", access: Access::Viewer, handler: || get(settings::show) },
    Route { method: "GET", path: "/api/v1/keys", access: Access::Viewer, handler: || get(keys::list) },
    Route { method: "POST", path: "/api/v1/keys", access: Access::Operator, handler: || post(keys::create) },
    Route { method: "GET", path: "/api/v1/keys/{name}", access: Access::Viewer, handler: || get(keys::show) },
    Route { method: "PATCH", path: "/api/v1/keys/{name}", access: Access::Operator, handler: || patch(keys::change) },
    Route { method: "DELETE", path: "/api/v1/keys/{name}", access: Access::Operator, handler: || delete(keys::remove) },
    Route {
        method: "POST",
        path: "/api/v1/keys/{name}/rotate",
        access: Access::Operator,
        handler: || post(keys::rotate),
    },
    Route {
        method: "DELETE",
        path: "/api/v1/keys/{name}/earlier",
        access: Access::Operator,
        handler: || delete(keys::end_earlier),
    },
    Route {
        method: "GET",
        path: "/api/v1/keys/{name}/access",
        access: Access::Viewer,
        handler: || get(key_access::show),
    },
    Route { method: "GET", path: "/api/v1/access/keys", access: Access::Viewer, handler: || get(key_access::list) },
    Route { method: "GET", path: "/api/v1/clients", access: Access::Viewer, handler: || get(clients::list) },
    Route { method: "POST", path: "/api/v1/clients", access: Access::Operator, handler: || post(clients::add) },
    Route { method: "GET", path: "/api/v1/clients/{id}", access: Access::Viewer, handler: || get(clients::show) },
    Route {
        method: "PATCH",
        path: "/api/v1/clients/{id}",
        access: Access::Operator,
        handler: || patch(clients::change),
    },
    Route {
        method: "DELETE",
        path: "/api/v1/clients/{id}",
        access: Access::Operator,
        handler: || delete(clients::remove),
    },
    Route { method: "GET", path: "/api/v1/upstreams", access: Access::Viewer, handler: || get(upstreams::list) },
    Route { method: "POST", path: "/api/v1/upstreams", access: Access::Operator, handler: || post(upstreams::create) },
    Route {
        method: "POST",
        path: "/api/v1/upstreams/try",
        access: Access::Operator,
        handler: || post(upstreams::try_definition),
    },
    Route { method: "GET", path: "/api/v1/upstreams/{name}", access: Access::Viewer, handler: || get(upstreams::show) },
    Route {
        method: "PATCH",
        path: "/api/v1/upstreams/{name}",
        access: Access::Operator,
        handler: || patch(upstreams::change),
    },
    Route {
        method: "DELETE",
        path: "/api/v1/upstreams/{name}",
        access: Access::Operator,
        handler: || delete(upstreams::remove),
    },
    Route {
        method: "POST",
        path: "/api/v1/upstreams/{name}/try",
        access: Access::Operator,
        handler: || post(upstreams::try_one),
    },
    Route {
        method: "POST",
        path: "/api/v1/upstreams/{name}/refresh",
        access: Access::Operator,
        handler: || post(upstreams::refresh),
    },
    Route {
        method: "GET",
        path: "/api/v1/upstreams/{name}/tools",
        access: Access::Viewer,
        handler: || get(tools::list),
    },
    Route {
        method: "POST",
        path: "/api/v1/upstreams/{name}/connect",
        access: Access::Operator,
        handler: || post(connections::connect),
    },
    Route { method: "GET", path: "/api/v1/connections", access: Access::Viewer, handler: || get(connections::list) },
    Route {
        method: "GET",
        path: "/api/v1/connections/flows",
        access: Access::Viewer,
        handler: || get(connections::list_flows),
    },
    Route {
        method: "DELETE",
        path: "/api/v1/connections/{id}",
        access: Access::Operator,
        handler: || delete(connections::revoke),
    },
    Route {
        method: "GET",
        path: "/api/v1/connections/{id}",
        access: Access::Viewer,
        handler: || get(connections::show),
    },
    Route {
        method: "POST",
        path: "/api/v1/connections/{id}/reauthorise",
        access: Access::Operator,
        handler: || post(connections::reauthorise),
    },
    Route { method: "GET", path: "/api/v1/policies", access: Access::Viewer, handler: || get(policies::list) },
    Route {
        method: "GET",
        path: "/api/v1/policies/in-force/{name}",
        access: Access::Operator,
        handler: || get(policies::show),
    },
    Route {
        method: "POST",
        path: "/api/v1/policies/reload",
        access: Access::Operator,
        handler: || post(policies::reload),
    },
    Route { method: "POST", path: "/api/v1/policies/try", access: Access::Operator, handler: || post(policy_try::ask) },
    Route {
        method: "GET",
        path: "/api/v1/policies/generations",
        access: Access::Viewer,
        handler: || get(policies::generations),
    },
    Route {
        method: "GET",
        path: "/api/v1/policies/modules",
        access: Access::Viewer,
        handler: || get(policy_modules::list),
    },
    Route {
        method: "POST",
        path: "/api/v1/policies/modules",
        access: Access::Owner,
        handler: || post(policy_modules::upload),
    },
    Route {
        method: "GET",
        path: "/api/v1/policies/modules/{id}",
        access: Access::Viewer,
        handler: || get(policy_modules::show),
    },
    Route {
        method: "DELETE",
        path: "/api/v1/policies/modules/{id}",
        access: Access::Owner,
        handler: || delete(policy_modules::remove),
    },
    Route {
        method: "GET",
        path: "/api/v1/policies/bindings",
        access: Access::Viewer,
        handler: || get(policy_bindings::list),
    },
    Route {
        method: "POST",
        path: "/api/v1/policies/bindings",
        access: Access::Owner,
        handler: || post(policy_bindings::create),
    },
    Route {
        method: "GET",
        path: "/api/v1/policies/bindings/{name}",
        access: Access::Viewer,
        handler: || get(policy_bindings::show),
    },
    Route {
        method: "PATCH",
        path: "/api/v1/policies/bindings/{name}",
        access: Access::Owner,
        handler: || patch(policy_bindings::change),
    },
    Route {
        method: "DELETE",
        path: "/api/v1/policies/bindings/{name}",
        access: Access::Owner,
        handler: || delete(policy_bindings::remove),
    },
    Route {
        method: "POST",
        path: "/api/v1/policies/bindings/{name}/rehearse",
        access: Access::Operator,
        handler: || post(policy_bindings::rehearse),
    },
    Route {
        method: "POST",
        path: "/api/v1/policies/rollback",
        access: Access::Operator,
        handler: || post(policies::roll_back),
    },
    Route { method: "GET", path: "/api/v1/decisions", access: Access::Viewer, handler: || get(trails::list_decisions) },
    Route { method: "GET", path: "/api/v1/decisions/tail", access: Access::Viewer, handler: || get(tails::decisions) },
    Route {
        method: "GET",
        path: "/api/v1/decisions/{id}",
        access: Access::Viewer,
        handler: || get(trails::show_decision),
    },
    Route { method: "GET", path: "/api/v1/recordings", access: Access::Operator, handler: || get(recordings::list) },
    Route {
        method: "GET",
        path: "/api/v1/recordings/{id}",
        access: Access::Operator,
        handler: || get(recordings::show),
    },
    Route { method: "GET", path: "/api/v1/audit", access: Access::Viewer, handler: || get(trails::list_audit) },
    Route { method: "GET", path: "/api/v1/audit/tail", access: Access::Viewer, handler: || get(tails::audit) },
    Route { method: "GET", path: "/api/v1/audit/{id}", access: Access::Viewer, handler: || get(trails::show_audit) },
    Route { method: "GET", path: "/api/v1/approvals", access: Access::Viewer, handler: || get(approvals::list) },
    Route { method: "GET", path: "/api/v1/approvals/{id}", access: Access::Operator, handler: || get(approvals::show) },
    Route {
        method: "POST",
        path: "/api/v1/approvals/{id}/decision",
        access: Access::Operator,
        handler: || post(approvals::decide),
    },
    Route { method: "GET", path: "/api/v1/pins", access: Access::Viewer, handler: || get(pins::list) },
    Route { method: "GET", path: "/api/v1/pins/definition", access: Access::Viewer, handler: || get(pins::show) },
    Route { method: "POST", path: "/api/v1/pins/accept", access: Access::Operator, handler: || post(pins::accept) },
    Route { method: "POST", path: "/api/v1/pins/forget", access: Access::Operator, handler: || post(pins::forget) },
    Route { method: "GET", path: "/api/v1/grants", access: Access::Viewer, handler: || get(grants::list) },
    Route {
        method: "DELETE",
        path: "/api/v1/grants/{id}",
        access: Access::Operator,
        handler: || delete(grants::remove),
    },
    Route { method: "POST", path: "/api/v1/grants/revoke", access: Access::Operator, handler: || post(grants::revoke) },
    Route { method: "GET", path: "/api/v1/signing-keys", access: Access::Viewer, handler: || get(signing_keys::list) },
    Route {
        method: "POST",
        path: "/api/v1/signing-keys/rotate",
        access: Access::Operator,
        handler: || post(signing_keys::rotate),
    },
    Route {
        method: "POST",
        path: "/api/v1/signing-keys/{id}/revoke",
        access: Access::Owner,
        handler: || post(signing_keys::revoke),
    },
    Route { method: "GET", path: "/api/v1/users", access: Access::Viewer, handler: || get(users::list) },
    Route { method: "POST", path: "/api/v1/users", access: Access::Operator, handler: || post(users::create) },
    Route { method: "GET", path: "/api/v1/users/{id}", access: Access::Viewer, handler: || get(users::show) },
    Route { method: "PATCH", path: "/api/v1/users/{id}", access: Access::Operator, handler: || patch(users::change) },
    Route { method: "DELETE", path: "/api/v1/users/{id}", access: Access::Operator, handler: || delete(users::remove) },
    Route {
        method: "GET",
        path: "/api/v1/users/{id}/sessions",
        access: Access::Viewer,
        handler: || get(users::sessions),
    },
    Route {
        method: "DELETE",
        path: "/api/v1/users/{id}/sessions",
        access: Access::Operator,
        handler: || delete(users::end_sessions),
    },
    Route { method: "GET", path: "/api/v1/vault", access: Access::Viewer, handler: || get(vault::show) },
    Route { method: "POST", path: "/api/v1/vault/rotate", access: Access::Owner, handler: || post(vault::rotate) },
    Route { method: "POST", path: "/api/v1/vault/rewrap", access: Access::Owner, handler: || post(vault::rewrap) },
    Route { method: "POST", path: "/api/v1/vault/verify", access: Access::Operator, handler: || post(vault::verify) },
    Route { method: "POST", path: "/api/v1/vault/shred", access: Access::Owner, handler: || post(vault::shred) },
    Route { method: "GET", path: "/api/v1/store/backup", access: Access::Owner, handler: || get(store::back_up) },
    Route { method: "GET", path: "/api/v1/store/stats", access: Access::Viewer, handler: || get(store::stats) },
    Route { method: "GET", path: "/api/v1/store/verify", access: Access::Operator, handler: || get(store::verify) },
    Route { method: "GET", path: "/api/v1/me", access: Access::Viewer, handler: || get(me::show) },
    Route { method: "GET", path: "/api/v1/api-tokens", access: Access::Viewer, handler: || get(api_tokens::list) },
    Route { method: "POST", path: "/api/v1/api-tokens", access: Access::Viewer, handler: || post(api_tokens::create) },
    Route {
        method: "DELETE",
        path: "/api/v1/api-tokens/{id}",
        access: Access::Viewer,
        handler: || delete(api_tokens::remove),
    },
    Route { method: "POST", path: "/api/v1/set-up-link", access: Access::Owner, handler: || post(set_up_link::create) },
];

/// The rows that show or make a secret, say what callers may or what programs run, or cannot be undone: a person in a browser
/// has to have shown lately who they are (`docs/threat-model.md` row H10). Programs have tokens, and are not asked.
const FRESH: &[(&str, &str)] = &[
    ("POST", "/api/v1/keys"),
    ("PATCH", "/api/v1/keys/{name}"),
    ("POST", "/api/v1/keys/{name}/rotate"),
    ("DELETE", "/api/v1/keys/{name}"),
    ("DELETE", "/api/v1/keys/{name}/earlier"),
    ("POST", "/api/v1/clients"),
    ("PATCH", "/api/v1/clients/{id}"),
    ("DELETE", "/api/v1/clients/{id}"),
    ("POST", "/api/v1/grants/revoke"),
    ("POST", "/api/v1/upstreams"),
    ("POST", "/api/v1/upstreams/try"),
    ("PATCH", "/api/v1/upstreams/{name}"),
    ("DELETE", "/api/v1/upstreams/{name}"),
    ("POST", "/api/v1/upstreams/{name}/connect"),
    ("POST", "/api/v1/connections/{id}/reauthorise"),
    ("DELETE", "/api/v1/connections/{id}"),
    ("POST", "/api/v1/policies/modules"),
    ("DELETE", "/api/v1/policies/modules/{id}"),
    ("POST", "/api/v1/policies/bindings"),
    ("PATCH", "/api/v1/policies/bindings/{name}"),
    ("DELETE", "/api/v1/policies/bindings/{name}"),
    ("POST", "/api/v1/signing-keys/{id}/revoke"),
    ("POST", "/api/v1/users"),
    ("PATCH", "/api/v1/users/{id}"),
    ("DELETE", "/api/v1/users/{id}"),
    ("POST", "/api/v1/vault/rotate"),
    ("POST", "/api/v1/vault/rewrap"),
    ("POST", "/api/v1/vault/shred"),
    ("GET", "/api/v1/store/backup"),
    ("POST", "/api/v1/api-tokens"),
    ("DELETE", "/api/v1/api-tokens/{id}"),
    ("POST", "/api/v1/set-up-link"),
];

/// What the handlers work with.
pub struct Api {
    pub control: Arc<Control>,
    pub server: Arc<AuthorizationServer>,
    pub upkeep: Upkeep,
    pub services: Arc<crate::pipeline::Services>,
    pub replicas: Arc<super::replica::Replicas>,
    pub signing: SigningKeys,
    pub connections: Kept,
    pub operators: Arc<Operators>,
    /// The pages of the admin listener, where there is one.
    pub console: Option<Arc<Console>>,
    pub watched: Watched,
    pub tails: Arc<Tails>,
    /// At working out what keys may use.
    pub access_turns: Turns,
}

/// A row of the audit trail as operators see it.
pub fn audit_line(found: &Found) -> serde_json::Value {
    json!(trails::view_of_found(found))
}

/// What is asked about connections.
pub struct Kept {
    pub keeper: Arc<Keeper>,
    pub may_use: MayUse,
}

/// What keeps the store right and tidy, to be looked at.
pub struct Upkeep {
    pub clock: ClockOffset,
    pub sweeper: SweeperState,
}

/// The routes, each behind the check that its row asks for.
pub fn router(api: Arc<Api>) -> Router {
    let (without_query, without_body) = (openapi::without_query(), openapi::without_body());
    let rows = ROUTES.iter().fold(Router::new(), |router, route| {
        let handler = (route.handler)();
        let handler = if without_query.contains(&(route.method, route.path)) {
            handler.route_layer(middleware::from_fn(refuse_query))
        } else {
            handler
        };
        let handler = if without_body.contains(&(route.method, route.path)) {
            handler.route_layer(middleware::from_fn(refuse_body))
        } else {
            handler
        };
        router.route(route.path, behind_its_door(route, &api.operators, handler))
    });
    // For whoever watches the gateway: no part of the API, and with a rule of its own.
    let watching = middleware::from_fn_with_state(api.clone(), metrics::check);
    let rows = rows.route("/metrics", get(metrics::show).layer(watching.clone()));
    let rows = rows.route("/readyz", get(metrics::readiness).layer(watching));
    rows.route("/healthz", get(metrics::alive)).with_state(api)
}

/// Refuses names in the query string of what knows none.
async fn refuse_query(request: Request, next: Next) -> Response {
    match request.uri().query() {
        None | Some("") => next.run(request).await,
        Some(_) => {
            let detail = "nothing can be said in the query string here";
            Problem::new(StatusCode::BAD_REQUEST, "invalid_query", detail).into_response()
        }
    }
}

/// Refuses what is said in the body of what takes none. Nothing, `null`, and an object without members say nothing.
async fn refuse_body(request: Request, next: Next) -> Response {
    let (parts, content) = request.into_parts();
    let content = match read_limited(content, MAX_BODY, BODY_TIMEOUT, None).await {
        Ok(content) => content,
        Err(error) => return Problem::new(error.status(), "bad_body", error.to_string()).into_response(),
    };
    if !says_nothing(&content) {
        return Problem::invalid("nothing can be said in the body here").into_response();
    }
    next.run(Request::from_parts(parts, Body::empty())).await
}

fn says_nothing(content: &[u8]) -> bool {
    let content = content.trim_ascii();
    let inside = content.strip_prefix(b"{").and_then(|rest| rest.strip_suffix(b"}"));
    content.is_empty() || content == b"null" || inside.is_some_and(|inside| inside.trim_ascii().is_empty())
}

/// Whether the API answers for a path.
pub(super) fn is_ours(path: &str) -> bool {
    path.strip_prefix("/api/v1").is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Middleware: what is refused before a handler is asked is a problem document here too.
pub async fn explain(request: Request, next: Next) -> Response {
    let is_ours = is_ours(request.uri().path());
    let response = next.run(request).await;
    if !is_ours || !(response.status().is_client_error() || response.status().is_server_error()) {
        return response;
    }
    let problem = HeaderValue::from_static(PROBLEM);
    if response.headers().get(CONTENT_TYPE) == Some(&problem) {
        return response;
    }
    explained(&response)
}

/// The problem document in the place of a response that is none.
fn explained(response: &Response) -> Response {
    let refused = response.extensions().get::<super::guard::Refused>();
    let (code, detail) = match (refused, response.status()) {
        (Some(refused), _) => (refused.code(), refused.to_string()),
        (None, StatusCode::NOT_FOUND) => ("not_found", "there is nothing at this path".to_owned()),
        (None, StatusCode::METHOD_NOT_ALLOWED) => {
            ("method_not_allowed", "this method is none of those that Allow names".to_owned())
        }
        (None, status) => ("refused", status.canonical_reason().unwrap_or("error").to_lowercase()),
    };
    let mut explained = Problem::new(response.status(), code, detail).into_response();
    for (name, value) in response.headers() {
        if !explained.headers().contains_key(name) && name != CONTENT_LENGTH {
            explained.headers_mut().append(name, value.clone());
        }
    }
    explained
}

/// A handler that those reach whom the row lets pass.
fn behind_its_door<S: Clone + Send + Sync + 'static>(
    route: &Route,
    operators: &Arc<Operators>,
    handler: MethodRouter<S>,
) -> MethodRouter<S> {
    let (access, area, wants_fresh) = (route.access, route.area(), route.wants_fresh());
    let post = Post { operators: operators.clone(), access, area, wants_fresh };
    handler.layer(middleware::from_fn_with_state(post, door::check))
}

/// The operator that a request comes from: for the audit trail, and with what they may.
#[derive(Clone)]
pub(super) struct Operator(pub(super) Actor, pub(super) Arc<Who>);

impl Operator {
    /// That they have at least the role for this.
    pub(super) fn needs(&self, access: Access) -> Result<(), Problem> {
        if self.1.role() < access.role() { Err(Lacks::Role(access.role()).into()) } else { Ok(()) }
    }
}

/// A problem document.
#[derive(Debug)]
pub(super) struct Problem {
    pub(super) status: StatusCode,
    pub(super) code: &'static str,
    pub(super) detail: String,
    /// Members of its own (RFC 9457 §3.2).
    more: serde_json::Map<String, serde_json::Value>,
}

impl Problem {
    pub(super) fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into(), more: serde_json::Map::new() }
    }

    /// The same with a member of its own.
    fn with(mut self, name: &str, value: impl Into<serde_json::Value>) -> Self {
        self.more.insert(name.to_owned(), value.into());
        self
    }

    pub(super) fn not_found(what: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", format!("there is no such {what}"))
    }

    pub(super) fn invalid(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", detail)
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "the store failed an operator's request");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "store_unavailable", error.to_string())
    }
}

impl From<Fault> for Problem {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Store(error) => error.into(),
            Fault::Vault(error) => error.into(),
            fault => {
                tracing::error!(%fault, "the authorization server failed an operator's request");
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "authorization_unavailable", fault.to_string())
            }
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let title = self.status.canonical_reason().unwrap_or("error");
        let mut body =
            json!({ "status": self.status.as_u16(), "title": title, "code": self.code, "detail": self.detail });
        if let Some(members) = body.as_object_mut() {
            members.extend(self.more);
        }
        let mut response = super::error::json_response(self.status, body.to_string());
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM));
        if matches!(self.status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
            response.headers_mut().insert(http::header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

type Answer = Result<Response, Problem>;

fn ok(body: &impl Serialize) -> Response {
    respond(StatusCode::OK, body)
}

fn respond(status: StatusCode, body: &impl Serialize) -> Response {
    super::error::json_response(status, crate::mcp::json::to_raw(body).get().to_owned())
}

/// A member of a merge patch (RFC 7396) that is there, `null` included.
fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// A JSON object whose type refuses unknown members.
struct Json<T>(T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let (parts, content) = request.into_parts();
        let is_patch = parts.method == Method::PATCH && body::is_of_type(&parts.headers, MERGE_PATCH);
        if !(is_patch || body::is_json(&parts.headers)) || body::check_encoding(&parts.headers).is_err() {
            let detail = "Content-Type must be application/json, or for a change application/merge-patch+json, \
                          without Content-Encoding";
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail));
        }
        let content = read_limited(content, MAX_BODY, BODY_TIMEOUT, None).await;
        let content = content.map_err(|error| Problem::new(error.status(), "bad_body", error.to_string()))?;
        // A list would be read as members without their names, and `null` or a word be told of in words of ours.
        if content.trim_ascii_start().first() != Some(&b'{') {
            return Err(Problem::invalid("the body has to be a JSON object"));
        }
        serde_json::from_slice(&content).map(Self).map_err(|error| Problem::invalid(error.to_string()))
    }
}

/// A query string whose type refuses unknown names.
struct Query<T>(T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let query = axum::extract::Query::try_from_uri(&parts.uri);
        let query =
            query.map_err(|rejection| Problem::new(StatusCode::BAD_REQUEST, "invalid_query", rejection.body_text()))?;
        Ok(Self(query.0))
    }
}

/// The one parameter of a path.
struct Path(String);

impl<S: Send + Sync> FromRequestParts<S> for Path {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = axum::extract::Path::from_request_parts(parts, state).await;
        path.map(|axum::extract::Path(name)| Self(name)).map_err(|_| Problem::not_found("name"))
    }
}

/// How to page: `?limit=` and `?cursor=`.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Paging {
    /// At most 200; 50 if it is not said.
    pub(super) limit: Option<usize>,
    /// The `next_cursor` of the page before.
    pub(super) cursor: Option<String>,
}

impl Paging {
    fn limit(&self) -> usize {
        self.limit.unwrap_or(DEFAULT_PAGE).clamp(1, MAX_PAGE)
    }

    /// The cursor that [`next_cursor`] made for the same list.
    fn cursor(&self, api: &Api, list: &str) -> Result<Option<Cursor>, Problem> {
        let open = |text: &String| {
            let payload = api.services.secret.open(list, text).and_then(Cursor::from_bytes);
            payload.ok_or_else(|| {
                Problem::new(StatusCode::BAD_REQUEST, "invalid_cursor", "the cursor is not one of this list")
            })
        };
        self.cursor.as_ref().map(open).transpose()
    }
}

fn next_cursor(api: &Api, list: &str, next: Option<&Cursor>) -> Option<String> {
    next.map(|next| api.services.secret.sign(list, next.as_bytes()))
}

#[cfg(test)]
mod tests;
