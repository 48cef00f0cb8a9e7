//! `/api/v1`: what operators do, for the command line and for scripts.
//!
//! [`ROUTES`] is the table of contents. Every row says who may call it, and [`router`] puts the check for that before the
//! row's handler; the same row drives the coverage test, and nothing is open to everyone. Errors are problem documents
//! (RFC 9457) with a stable `code`.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{FromRequest, FromRequestParts, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, patch, post};
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{HeaderMap, StatusCode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::json;

use super::body::{self, read_limited};
use super::serve::Peer;
use crate::admin::Control;
use crate::audit::{Actor, OperatorProof};
use crate::authorization::doors::Door;
use crate::authorization::signing::SigningKeys;
use crate::authorization::{AuthorizationServer, Fault};
use crate::connections::keeper::{Keeper, MayUse};
use crate::env::ClockOffset;
use crate::secret::{Digest, Plaintext};
use crate::store::audit::Recorded;
use crate::store::sweeper::SweeperState;
use crate::store::table::MAX_PAGE;
use crate::store::{Cursor, StoreError};

mod approvals;
mod clients;
mod connections;
mod grants;
mod if_match;
mod keys;
pub mod metrics;
mod pins;
mod policies;
mod recordings;
mod signing_keys;
mod status;
mod store;
mod trails;
mod upstreams;
mod users;
mod vault;

use metrics::Watched;

/// Largest body of a request, in bytes.
const MAX_BODY: usize = 1 << 20;
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Rows on a page, unless asked for fewer or more; at most as many as the store gives.
const DEFAULT_PAGE: usize = 50;

/// Who may call a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Whoever holds the operator token, or opens the admin socket as the gateway's own user or root.
    Operator,
}

/// One row of the API.
pub struct Route {
    pub method: &'static str,
    pub path: &'static str,
    pub access: Access,
    handler: fn() -> MethodRouter<Arc<Api>>,
}

/// All of it.
pub const ROUTES: &[Route] = &[
    Route { method: "GET", path: "/api/v1/status", access: Access::Operator, handler: || get(status::show) },
    Route { method: "GET", path: "/api/v1/keys", access: Access::Operator, handler: || get(keys::list) },
    Route { method: "POST", path: "/api/v1/keys", access: Access::Operator, handler: || post(keys::create) },
    Route { method: "GET", path: "/api/v1/keys/{name}", access: Access::Operator, handler: || get(keys::show) },
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
    Route { method: "GET", path: "/api/v1/clients", access: Access::Operator, handler: || get(clients::list) },
    Route { method: "POST", path: "/api/v1/clients", access: Access::Operator, handler: || post(clients::add) },
    Route { method: "GET", path: "/api/v1/clients/{id}", access: Access::Operator, handler: || get(clients::show) },
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
    Route { method: "GET", path: "/api/v1/upstreams", access: Access::Operator, handler: || get(upstreams::list) },
    Route { method: "POST", path: "/api/v1/upstreams", access: Access::Operator, handler: || post(upstreams::create) },
    Route {
        method: "POST",
        path: "/api/v1/upstreams/try",
        access: Access::Operator,
        handler: || post(upstreams::try_definition),
    },
    Route {
        method: "GET",
        path: "/api/v1/upstreams/{name}",
        access: Access::Operator,
        handler: || get(upstreams::show),
    },
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
        method: "POST",
        path: "/api/v1/upstreams/{name}/connect",
        access: Access::Operator,
        handler: || post(connections::connect),
    },
    Route { method: "GET", path: "/api/v1/connections", access: Access::Operator, handler: || get(connections::list) },
    Route {
        method: "GET",
        path: "/api/v1/connections/flows",
        access: Access::Operator,
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
        access: Access::Operator,
        handler: || get(connections::show),
    },
    Route {
        method: "POST",
        path: "/api/v1/connections/{id}/reauthorise",
        access: Access::Operator,
        handler: || post(connections::reauthorise),
    },
    Route { method: "GET", path: "/api/v1/policies", access: Access::Operator, handler: || get(policies::list) },
    Route {
        method: "POST",
        path: "/api/v1/policies/reload",
        access: Access::Operator,
        handler: || post(policies::reload),
    },
    Route {
        method: "GET",
        path: "/api/v1/policies/generations",
        access: Access::Operator,
        handler: || get(policies::generations),
    },
    Route {
        method: "POST",
        path: "/api/v1/policies/rollback",
        access: Access::Operator,
        handler: || post(policies::roll_back),
    },
    Route {
        method: "GET",
        path: "/api/v1/decisions",
        access: Access::Operator,
        handler: || get(trails::list_decisions),
    },
    Route {
        method: "GET",
        path: "/api/v1/decisions/{id}",
        access: Access::Operator,
        handler: || get(trails::show_decision),
    },
    Route { method: "GET", path: "/api/v1/recordings", access: Access::Operator, handler: || get(recordings::list) },
    Route {
        method: "GET",
        path: "/api/v1/recordings/{id}",
        access: Access::Operator,
        handler: || get(recordings::show),
    },
    Route { method: "GET", path: "/api/v1/audit", access: Access::Operator, handler: || get(trails::list_audit) },
    Route { method: "GET", path: "/api/v1/approvals", access: Access::Operator, handler: || get(approvals::list) },
    Route { method: "GET", path: "/api/v1/approvals/{id}", access: Access::Operator, handler: || get(approvals::show) },
    Route {
        method: "POST",
        path: "/api/v1/approvals/{id}/decision",
        access: Access::Operator,
        handler: || post(approvals::decide),
    },
    Route { method: "GET", path: "/api/v1/pins", access: Access::Operator, handler: || get(pins::list) },
    Route { method: "GET", path: "/api/v1/pins/definition", access: Access::Operator, handler: || get(pins::show) },
    Route { method: "POST", path: "/api/v1/pins/accept", access: Access::Operator, handler: || post(pins::accept) },
    Route { method: "POST", path: "/api/v1/pins/forget", access: Access::Operator, handler: || post(pins::forget) },
    Route { method: "GET", path: "/api/v1/grants", access: Access::Operator, handler: || get(grants::list) },
    Route {
        method: "DELETE",
        path: "/api/v1/grants/{id}",
        access: Access::Operator,
        handler: || delete(grants::remove),
    },
    Route { method: "POST", path: "/api/v1/grants/revoke", access: Access::Operator, handler: || post(grants::revoke) },
    Route {
        method: "GET",
        path: "/api/v1/signing-keys",
        access: Access::Operator,
        handler: || get(signing_keys::list),
    },
    Route {
        method: "POST",
        path: "/api/v1/signing-keys/rotate",
        access: Access::Operator,
        handler: || post(signing_keys::rotate),
    },
    Route {
        method: "POST",
        path: "/api/v1/signing-keys/{id}/revoke",
        access: Access::Operator,
        handler: || post(signing_keys::revoke),
    },
    Route { method: "GET", path: "/api/v1/users", access: Access::Operator, handler: || get(users::list) },
    Route { method: "POST", path: "/api/v1/users", access: Access::Operator, handler: || post(users::create) },
    Route { method: "GET", path: "/api/v1/users/{id}", access: Access::Operator, handler: || get(users::show) },
    Route { method: "PATCH", path: "/api/v1/users/{id}", access: Access::Operator, handler: || patch(users::change) },
    Route { method: "DELETE", path: "/api/v1/users/{id}", access: Access::Operator, handler: || delete(users::remove) },
    Route {
        method: "GET",
        path: "/api/v1/users/{id}/sessions",
        access: Access::Operator,
        handler: || get(users::sessions),
    },
    Route {
        method: "DELETE",
        path: "/api/v1/users/{id}/sessions",
        access: Access::Operator,
        handler: || delete(users::end_sessions),
    },
    Route { method: "GET", path: "/api/v1/vault", access: Access::Operator, handler: || get(vault::show) },
    Route { method: "POST", path: "/api/v1/vault/rotate", access: Access::Operator, handler: || post(vault::rotate) },
    Route { method: "POST", path: "/api/v1/vault/rewrap", access: Access::Operator, handler: || post(vault::rewrap) },
    Route { method: "POST", path: "/api/v1/vault/verify", access: Access::Operator, handler: || post(vault::verify) },
    Route { method: "POST", path: "/api/v1/vault/shred", access: Access::Operator, handler: || post(vault::shred) },
    Route { method: "GET", path: "/api/v1/store/backup", access: Access::Operator, handler: || get(store::back_up) },
    Route { method: "GET", path: "/api/v1/store/stats", access: Access::Operator, handler: || get(store::stats) },
    Route { method: "GET", path: "/api/v1/store/verify", access: Access::Operator, handler: || get(store::verify) },
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
    pub operators: Operators,
    pub watched: Watched,
}

/// A row of the audit trail as operators see it.
pub fn audit_line(recorded: &Recorded) -> serde_json::Value {
    trails::audit_view(recorded)
}

/// What is asked about connections.
pub struct Kept {
    pub keeper: Arc<Keeper>,
    pub may_use: MayUse,
}

/// Tells who is an operator.
#[derive(Debug)]
pub struct Operators {
    token: Digest,
    wrong: Door,
}

/// Who a request comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shown {
    Operator(OperatorProof),
    Nobody,
    /// Nobody, and from where nobody comes too often.
    Waits(Duration),
}

/// What keeps the store right and tidy, to be looked at.
pub struct Upkeep {
    pub clock: ClockOffset,
    pub sweeper: SweeperState,
}

/// The routes, each behind the check that its row asks for.
pub fn router(api: Arc<Api>) -> Router {
    let rows = ROUTES.iter().fold(Router::new(), |router, route| {
        let check = middleware::from_fn_with_state((api.clone(), route.access), check);
        router.route(route.path, (route.handler)().layer(check))
    });
    // For whoever watches the gateway: no part of the API, and with a rule of its own.
    let watching = middleware::from_fn_with_state(api.clone(), metrics::check);
    let rows = rows.route("/metrics", get(metrics::show).layer(watching.clone()));
    let rows = rows.route("/readyz", get(metrics::readiness).layer(watching));
    rows.route("/healthz", get(metrics::alive)).with_state(api)
}

/// Lets a request pass that comes from whom the row wants, or answers 401.
async fn check(State((api, access)): State<(Arc<Api>, Access)>, request: Request, next: Next) -> Response {
    match access {
        Access::Operator => check_operator(&api, request, next).await,
    }
}

async fn check_operator(api: &Api, mut request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<Peer>().copied();
    let proof = match api.operators.look(peer, request.headers()) {
        Shown::Operator(proof) => proof,
        Shown::Nobody => {
            let problem = Problem::new(StatusCode::UNAUTHORIZED, "unauthenticated", "the operator token is required");
            let mut response = problem.into_response();
            let challenge = HeaderValue::from_static(r#"Bearer realm="portcullis admin""#);
            response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
            return response;
        }
        Shown::Waits(wait) => {
            let detail = "too many tokens that are wrong come from there: wait";
            let mut response = Problem::new(StatusCode::TOO_MANY_REQUESTS, "too_many_attempts", detail).into_response();
            let seconds = wait.as_secs().saturating_add(1);
            response.headers_mut().insert(http::header::RETRY_AFTER, HeaderValue::from(seconds));
            return response;
        }
    };
    request.extensions_mut().insert(Operator(Actor::Operator(proof)));
    next.run(request).await
}

impl Operators {
    /// Operators have the token of this digest, or come over the socket as who runs the gateway.
    pub fn new(token: Digest) -> Self {
        Self { token, wrong: Door::of_wrong_credentials() }
    }

    /// Looks at what is shown, and counts it if it is wrong (`security.md` row T20).
    fn look(&self, peer: Option<Peer>, headers: &HeaderMap) -> Shown {
        if let Some(Peer::Unix { uid, .. }) = peer
            && (uid == 0 || uid == rustix::process::geteuid().as_raw())
        {
            return Shown::Operator(OperatorProof::Socket);
        }
        let Some(shown) = headers.get(AUTHORIZATION) else { return Shown::Nobody };
        let is_right = |(scheme, token): (&str, &str)| {
            scheme.eq_ignore_ascii_case("bearer") && Plaintext::new(token.trim()).digest() == self.token
        };
        if shown.to_str().ok().and_then(|shown| shown.split_once(' ')).is_some_and(is_right) {
            return Shown::Operator(OperatorProof::Token);
        }
        match self.wrong.count(peer.and_then(Peer::ip)) {
            Ok(()) => Shown::Nobody,
            Err(wait) => Shown::Waits(wait),
        }
    }
}

/// The operator that a request comes from.
#[derive(Clone, Copy)]
struct Operator(Actor);

/// A problem document.
#[derive(Debug)]
struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: String,
    /// Members of its own (RFC 9457 §3.2).
    more: serde_json::Map<String, serde_json::Value>,
}

impl Problem {
    fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into(), more: serde_json::Map::new() }
    }

    /// The same with a member of its own.
    fn with(mut self, name: &str, value: impl Into<serde_json::Value>) -> Self {
        self.more.insert(name.to_owned(), value.into());
        self
    }

    fn not_found(what: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", format!("there is no such {what}"))
    }

    fn invalid(detail: impl Into<String>) -> Self {
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
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
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
        if !body::is_json(&parts.headers) || body::check_encoding(&parts.headers).is_err() {
            let detail = "Content-Type must be application/json, without Content-Encoding";
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail));
        }
        let content = read_limited(content, MAX_BODY, BODY_TIMEOUT, None).await;
        let content = content.map_err(|error| Problem::new(error.status(), "bad_body", error.to_string()))?;
        // A list would be read as members without their names.
        if content.trim_ascii_start().first() == Some(&b'[') {
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
#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Paging {
    limit: Option<usize>,
    cursor: Option<String>,
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
mod tests {
    use super::*;

    #[test]
    fn t20_many_wrong_tokens_of_one_address_have_to_wait_and_the_right_one_never() {
        let operators = Operators::new(Plaintext::new("right").digest());
        let look = |address: &str, shown: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.extend(shown.map(|shown| (AUTHORIZATION, HeaderValue::from_str(shown).unwrap())));
            operators.look(Some(Peer::Tcp(format!("{address}:50000").parse().unwrap())), &headers)
        };
        for wrong in ["Bearer wrong", "Basic right", "right"] {
            for _ in 0..200 {
                assert_eq!(look("192.0.2.1", Some(wrong)), Shown::Nobody, "{wrong}");
            }
        }
        assert!(matches!(look("192.0.2.1", Some("Bearer wrong")), Shown::Waits(wait) if wait > Duration::ZERO));
        assert_eq!(look("192.0.2.1", Some("Bearer right")), Shown::Operator(OperatorProof::Token));
        assert_eq!(look("192.0.2.1", None), Shown::Nobody, "who shows nothing tries nothing");
        assert_eq!(look("192.0.2.2", Some("Bearer wrong")), Shown::Nobody, "another address");
    }
}
