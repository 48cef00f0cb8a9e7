//! `/mcp`: MCP over streamable HTTP, both eras on one URL.
//!
//! Ordered checks, each yielding a narrower value: who calls, what the headers promise, the body, one message, its era.
//! [`modern`] and [`legacy`] say how the era's requests travel; what happens to a request is `pipeline`'s story.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use http::header::{ACCEPT, USER_AGENT};
use http::{HeaderMap, StatusCode};
use moka::sync::Cache;
use serde_json::value::RawValue;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::body::{self, read_limited};
use super::error::{Refused, unauthenticated};
use super::serve::Peer;
use crate::config::Limits;
use crate::identity::{Caller, bearer};
use crate::ids::Principal;
use crate::mcp::error::{INVALID_REQUEST, PARSE_ERROR, RpcError, THROTTLED};
use crate::mcp::message::{Malformed, Message, RequestId};
use crate::mcp::revision::{self, CallTool, Era, Revision};
use crate::pipeline::{self, Origin, Services, Snapshot};
use crate::tasks::Tasks;

mod legacy;
mod modern;
mod reply;

use legacy::Sessions;

/// Notifications that may wait for a slow caller.
const NOTICE_QUEUE: usize = 64;
/// Principals whose calls are counted at once.
const MAX_COUNTED_PRINCIPALS: u64 = 100_000;

/// What `/mcp` works with.
pub struct Mcp {
    snapshot: Arc<ArcSwap<Snapshot>>,
    services: Arc<Services>,
    limits: Limits,
    body_timeout: Duration,
    sessions: Sessions,
    /// Calls that each principal may still begin.
    calls: Cache<Principal, Arc<Semaphore>>,
    tasks: Tasks,
}

impl Mcp {
    /// `tasks` owns the requests in flight.
    pub fn new(
        snapshot: Arc<ArcSwap<Snapshot>>,
        services: Arc<Services>,
        limits: Limits,
        body_timeout: Duration,
        tasks: Tasks,
    ) -> Arc<Self> {
        let sessions = Sessions::new(limits.sessions, limits.session_idle);
        let calls = Cache::builder().max_capacity(MAX_COUNTED_PRINCIPALS).build();
        Arc::new(Self { snapshot, services, limits, body_timeout, sessions, calls, tasks })
    }

    /// The routes.
    pub fn router(self: Arc<Self>) -> Router {
        Router::new().route("/mcp", post(take_post).get(take_get).delete(take_delete)).with_state(self)
    }

    fn authenticate(&self, headers: &HeaderMap) -> Result<Caller, Refused> {
        let snapshot = self.snapshot.load();
        bearer::authenticate(headers, &snapshot.keys, self.services.env.now()).map_err(|_| unauthenticated())
    }

    /// A place among the principal's calls.
    fn admit(&self, principal: &Principal, id: &RequestId) -> Result<OwnedSemaphorePermit, Refused> {
        let places =
            self.calls.get_with_by_ref(principal, || Arc::new(Semaphore::new(self.limits.calls_per_principal)));
        places.try_acquire_owned().map_err(|_| {
            let error = RpcError::new(THROTTLED, "too many requests at once");
            Refused::rpc(StatusCode::TOO_MANY_REQUESTS, Some(id), &error).retry_after(Duration::from_secs(1))
        })
    }

    /// Starts a request's life in a task of its own and answers as it goes.
    async fn run(
        self: &Arc<Self>,
        from: From<'_>,
        ticket: Ticket,
        request: revision::Request,
    ) -> Result<Response, Refused> {
        let place = self.admit(&from.caller.principal, &ticket.id)?;
        let (notices, inbox) = mpsc::channel(NOTICE_QUEUE);
        let progress_token = progress_token(&request);
        let origin = Origin {
            caller: from.caller,
            revision: ticket.revision,
            session: ticket.session,
            remote_ip: from.peer.and_then(Peer::ip),
            user_agent: from.headers.get(USER_AGENT).and_then(|agent| agent.to_str().ok()).map(ToOwned::to_owned),
            notices,
            cancelled: ticket.cancelled.clone(),
        };
        let (snapshot, services) = (self.snapshot.load_full(), self.services.clone());
        let work = self.tasks.spawn(async move {
            let answer = pipeline::handle(&snapshot, &services, &origin, request).await;
            drop((ticket.ending, place));
            answer
        });
        let abandon = (!ticket.revision.is_legacy()).then(|| ticket.cancelled.drop_guard());
        let pending = reply::Pending { id: ticket.id, revision: ticket.revision, progress_token, inbox, work, abandon };
        Ok(pending.respond(accepts_events(from.headers)).await)
    }
}

/// Where a message came from, as far as HTTP knows.
struct From<'a> {
    caller: Caller,
    headers: &'a HeaderMap,
    peer: Option<Peer>,
}

/// One request on its way.
struct Ticket {
    id: RequestId,
    revision: Revision,
    session: Option<String>,
    cancelled: CancellationToken,
    /// Dropped when the request has ended.
    ending: Option<legacy::InFlight>,
}

async fn take_post(State(mcp): State<Arc<Mcp>>, request: Request) -> Response {
    mcp.post(request).await.unwrap_or_else(IntoResponse::into_response)
}

/// Neither era has a stream to offer here.
async fn take_get(State(mcp): State<Arc<Mcp>>, headers: HeaderMap) -> Response {
    match mcp.authenticate(&headers) {
        Ok(_) => (StatusCode::METHOD_NOT_ALLOWED, [("allow", "POST, DELETE")]).into_response(),
        Err(refused) => refused.into_response(),
    }
}

async fn take_delete(State(mcp): State<Arc<Mcp>>, headers: HeaderMap) -> Response {
    let ended = mcp.authenticate(&headers).and_then(|caller| mcp.sessions.end(&caller.principal, &headers));
    match ended {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(refused) => refused.into_response(),
    }
}

impl Mcp {
    async fn post(self: &Arc<Self>, request: Request) -> Result<Response, Refused> {
        let (parts, body) = request.into_parts();
        let caller = self.authenticate(&parts.headers)?;
        check_headers(&parts.headers)?;
        let body = read_limited(body, self.limits.request_bytes, self.body_timeout, None).await;
        let body = body.map_err(|error| Refused::from_body(&error))?;
        let message = Message::from_caller(&body).map_err(|malformed| refuse_malformed(&malformed))?;
        let from = From { caller, headers: &parts.headers, peer: parts.extensions.get().copied() };
        match message {
            Message::Request { id, method, params } => match revision::era(&parts.headers, &method, params) {
                Era::Modern => modern::request(self, from, id, &method, params).await,
                Era::Legacy => legacy::request(self, from, id, &method, params).await,
            },
            Message::Notification { method, params } => match revision::era(&parts.headers, &method, params) {
                Era::Modern => Ok(StatusCode::ACCEPTED.into_response()),
                Era::Legacy => legacy::notification(self, &from, &method, params),
            },
            Message::Result { .. } | Message::Error { .. } => legacy::response(self, &from),
        }
    }
}

/// `Content-Type`, `Content-Encoding` and `Accept` (transports § sending messages).
fn check_headers(headers: &HeaderMap) -> Result<(), Refused> {
    if !body::is_json(headers) {
        return Err(Refused::plain(StatusCode::UNSUPPORTED_MEDIA_TYPE, "Content-Type must be application/json"));
    }
    if body::check_encoding(headers).is_err() {
        return Err(Refused::plain(StatusCode::UNSUPPORTED_MEDIA_TYPE, "the body must not be encoded"));
    }
    if !accepts(headers, "application", "json") && !accepts_events(headers) {
        return Err(Refused::plain(
            StatusCode::NOT_ACCEPTABLE,
            "Accept must have application/json and text/event-stream",
        ));
    }
    Ok(())
}

fn accepts_events(headers: &HeaderMap) -> bool {
    accepts(headers, "text", "event-stream")
}

/// Whether `Accept` has this type, `type/*` or `*/*`; absent, it has everything.
fn accepts(headers: &HeaderMap, kind: &str, subtype: &str) -> bool {
    let mut values = headers.get_all(ACCEPT).iter().peekable();
    if values.peek().is_none() {
        return true;
    }
    let ranges = values.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    let mut ranges = ranges.filter_map(|range| range.split(';').next()?.trim().split_once('/'));
    ranges.any(|(range_kind, range_subtype)| {
        let kind_fits = range_kind == "*" || range_kind.eq_ignore_ascii_case(kind);
        kind_fits && (range_subtype == "*" || range_subtype.eq_ignore_ascii_case(subtype))
    })
}

fn refuse_malformed(malformed: &Malformed) -> Refused {
    let (code, id) = match malformed {
        Malformed::Json(_) => (PARSE_ERROR, None),
        Malformed::Batch => (INVALID_REQUEST, None),
        Malformed::Envelope { id, .. } => (INVALID_REQUEST, id.as_ref()),
    };
    Refused::rpc(StatusCode::BAD_REQUEST, id, &RpcError::new(code, malformed.to_string()))
}

fn progress_token(request: &revision::Request) -> Option<Box<RawValue>> {
    match request {
        revision::Request::CallTool(CallTool { progress_token, .. }) => progress_token.clone(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept_is_read_as_http_has_it() {
        let accepts = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.append(ACCEPT, http::HeaderValue::from_static(value));
            (super::accepts(&headers, "application", "json"), accepts_events(&headers))
        };
        assert_eq!(accepts("application/json, text/event-stream"), (true, true));
        assert_eq!(accepts("Application/JSON;q=0.9"), (true, false));
        assert_eq!(accepts("text/*"), (false, true));
        assert_eq!(accepts("*/*"), (true, true));
        assert_eq!(accepts("text/html"), (false, false));
        assert!(accepts_events(&HeaderMap::new()));
    }
}
