//! `/mcp` and `/mcp/{upstream}`: MCP over streamable HTTP, both eras on one URL.
//!
//! Ordered checks, each yielding a narrower value: who calls ([`entrance`]), which endpoint, what the headers promise, the
//! body, one message, its era. [`modern`] and [`legacy`] say how the era's requests travel; what happens to a request is
//! `pipeline`'s story. A request under way is [`work`], and [`reply`] is what its answer looks like; [`parked`] are
//! calls that wait for their caller, [`listen`] and [`fanout`] tell of changes, of which some are [`watches`], [`places`] bounds
//! it all, and [`stays`] ends it. What another replica holds is answered through [`owners`], and [`attend`] names what comes.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use http::header::{ACCEPT, ALLOW, USER_AGENT};
use http::{HeaderMap, Method, StatusCode, request};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::body::{self, read_limited};
use super::error::{Refused, out_of_date};
use super::replica::Replicas;
use super::serve::Peer;
use crate::authorization::resource::ProtectedResource;
use crate::config::Limits;
use crate::connection::extra::Extra;
use crate::identity::Caller;
use crate::ids::UpstreamName;
use crate::mcp::error::{INVALID_REQUEST, PARSE_ERROR, RpcError};
use crate::mcp::message::{Malformed, Message};
use crate::mcp::revision::{self, Era, Head, Revision};
use crate::mcp::talk::{Event, Party};
use crate::pipeline::{Mark, Origin, Scope, ScopeError, Services, Snapshot};
use crate::policy::Transport;
use crate::store::follower::Freshness;
use crate::tasks::Tasks;

mod attend;
mod entrance;
#[cfg(test)]
mod entrance_tests;
mod fanout;
mod legacy;
mod listen;
mod modern;
mod owners;
mod parked;
mod places;
#[cfg(test)]
mod replica_tests;
mod reply;
mod stays;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod watches;
mod work;

use entrance::StepsUp;
pub(super) use entrance::misdirected;
use fanout::Listeners;
use legacy::{Doors, Sessions};
use owners::Passing;
use parked::Parking;
use places::{Payer, Places};
pub(super) use reply::{Gone, Pieces, event_stream};
use stays::Stays;

/// Path before the name of an upstream that has an endpoint of its own.
const ENDPOINT: &str = "/mcp/";
/// Between two looks at what has been idle for too long.
const HOUSEKEEPING: Duration = Duration::from_secs(10);

/// What `/mcp` is configured with.
#[derive(Clone, Debug)]
pub struct Settings {
    pub limits: Limits,
    /// Whether HTTP with server-sent events (2024-11-05) is served.
    pub legacy_sse: bool,
    /// Longest time that a request's body may take.
    pub body_timeout: Duration,
}

/// How much of `/mcp` is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Occupancy {
    /// Sessions of revisions that have sessions.
    pub sessions: usize,
    /// Streams that stay open.
    pub streams: usize,
    /// Calls that wait for their callers.
    pub parked: usize,
}

/// What `/mcp` works with.
pub struct Mcp {
    /// Who comes in.
    gate: Arc<ProtectedResource>,
    snapshot: Arc<ArcSwap<Snapshot>>,
    services: Arc<Services>,
    settings: Settings,
    sessions: Sessions,
    doors: Doors,
    parking: Arc<Parking>,
    listeners: Listeners,
    stays: Arc<Stays>,
    places: Places,
    replicas: Arc<Replicas>,
    freshness: Freshness,
    /// Cancelled when the gateway begins to end: what has no end of its own ends then, requests may go on for a while.
    closing: CancellationToken,
    tasks: Tasks,
}

impl Mcp {
    /// `published` changes whenever a snapshot was published, and `freshness` is that of snapshots; `closing` is cancelled
    /// when the gateway begins to end, before `tasks`, which owns the requests in flight, is told to stop.
    pub fn new(
        gate: Arc<ProtectedResource>,
        services: Arc<Services>,
        (published, freshness): (watch::Receiver<u64>, Freshness),
        settings: Settings,
        replicas: Arc<Replicas>,
        closing: CancellationToken,
        tasks: Tasks,
    ) -> Arc<Self> {
        let limits = &settings.limits;
        let mcp = Arc::new(Self {
            sessions: Sessions::new(limits.sessions, limits.session_idle),
            doors: Doors::default(),
            parking: Parking::new(limits.parked_calls, limits.ask_timeout, tasks.clone(), closing.clone()),
            listeners: Listeners::default(),
            stays: Arc::default(),
            places: Places::new(limits),
            replicas,
            freshness,
            snapshot: gate.snapshot().clone(),
            gate,
            services,
            settings,
            closing,
            tasks,
        });
        mcp.tasks.spawn(fanout::run(mcp.clone(), published.clone()));
        mcp.tasks.spawn(stays::run(mcp.clone(), published));
        mcp.tasks.spawn(keep_house(mcp.clone()));
        mcp.tasks.spawn(legacy::completed::run(mcp.clone()));
        mcp
    }

    /// The routes.
    pub fn router(self: Arc<Self>) -> Router {
        let endpoint = || post(take_post).get(take_get).delete(take_delete);
        let mut routes = Router::new().route("/mcp", endpoint()).route("/mcp/{upstream}", endpoint());
        if self.settings.legacy_sse {
            routes = routes.route("/sse", get(legacy::sse_transport::take_get));
            routes = routes.route(legacy::sse_transport::MESSAGES, post(legacy::sse_transport::take_post));
        }
        routes.route_layer(middleware::from_fn_with_state(self.clone(), attend::attend)).with_state(self)
    }

    /// What there is of it now, for operators.
    pub fn occupancy(&self) -> Occupancy {
        let streams = self.settings.limits.streams.min(tokio::sync::Semaphore::MAX_PERMITS);
        Occupancy {
            sessions: self.sessions.count(),
            streams: streams.saturating_sub(self.places.free_streams()),
            parked: self.parking.count(),
        }
    }

    /// Who asks, by a credential that opens the endpoint of the request.
    async fn enter(&self, parts: &request::Parts) -> Result<Caller, Refused> {
        entrance::enter(&self.gate, parts, false).await
    }

    /// The same for a request that [`Self::enter`] has let in, as everything is now.
    async fn enter_again(&self, parts: &request::Parts) -> Result<Caller, Refused> {
        entrance::enter(&self.gate, parts, true).await
    }

    /// Who asks, and of what: the checks that come before anything of the protocol.
    async fn admit<'a>(&self, parts: &'a request::Parts) -> Result<From<'a>, Refused> {
        self.admit_entered(self.enter(parts).await?, parts)
    }

    /// The same once it was let in.
    fn admit_entered<'a>(&self, caller: Caller, parts: &'a request::Parts) -> Result<From<'a>, Refused> {
        let from = self.admit_caller(caller, parts)?;
        let passing = Some(Passing { method: &parts.method, uri: &parts.uri });
        let mark = parts.extensions.get::<Mark>().cloned().unwrap_or_default();
        Ok(From { peer: parts.extensions.get().copied(), passing, mark, ..from })
    }

    /// The same once it is known who asks.
    fn admit_caller<'a>(&self, caller: Caller, parts: &'a request::Parts) -> Result<From<'a>, Refused> {
        let endpoint = parts.uri.path().strip_prefix(ENDPOINT);
        let scope = Scope::read(endpoint, &parts.headers).map_err(|error| refuse_scope(&error))?;
        if let Some(upstream) = scope.endpoint() {
            // One that the caller may not use looks like one that there is not.
            let is_there = self.snapshot.load().upstreams.contains_key(upstream) && caller.allow.reaches(upstream);
            if !is_there {
                return Err(refuse_scope(&ScopeError::NoSuchEndpoint));
            }
        }
        let extra = self.extra(&caller, &scope, &parts.headers)?;
        let (transport, mark) = (Transport::StreamableHttp, Mark::default());
        Ok(From { caller, scope, headers: &parts.headers, extra, peer: None, passing: None, transport, mark })
    }

    /// What the request says in headers that upstreams which its caller reaches let through.
    fn extra(&self, caller: &Caller, scope: &Scope, headers: &HeaderMap) -> Result<Extra, Refused> {
        let snapshot = self.snapshot.load();
        let reaches = |upstream: &UpstreamName| scope.has(upstream) && caller.allow.reaches(upstream);
        let letting = snapshot.upstreams.values().map(|upstream| upstream.settings());
        let letting = letting.filter(|settings| !settings.extra_headers.is_empty() && reaches(&settings.name));
        let extra = Extra::read(headers, letting.flat_map(|settings| &settings.extra_headers));
        extra.map_err(|not_passed| Refused::plain(StatusCode::BAD_REQUEST, &not_passed.to_string()))
    }

    async fn post(self: &Arc<Self>, request: Request) -> Result<Response, Refused> {
        let (parts, body) = request.into_parts();
        let begun = Instant::now();
        self.admit(&parts).await?;
        let admitted = begun.elapsed();
        check_headers(&parts.headers)?;
        let body = self.read(body).await?;
        let begun = Instant::now();
        let from = self.admit_entered(self.enter_again(&parts).await?, &parts)?;
        let mark = Mark { identity: admitted + begun.elapsed(), bytes: body.len(), ..from.mark };
        let from = From { mark, ..from };
        let steps_up = StepsUp::of(&from);
        let answer = self.posted(from, &body).await.unwrap_or_else(IntoResponse::into_response);
        Ok(steps_up.complete(&self.gate, answer))
    }

    /// Reads the body of a request. That takes as long as its sender likes: who may call is to be asked again, and is known.
    async fn read(&self, body: Body) -> Result<Bytes, Refused> {
        let limits = &self.settings.limits;
        let body = read_limited(body, limits.request_bytes, self.settings.body_timeout, None).await;
        let body = body.map_err(|error| Refused::from_body(&error))?;
        if self.freshness.is_stale() { Err(out_of_date()) } else { Ok(body) }
    }

    /// A body that was read whole.
    async fn posted(self: &Arc<Self>, from: From<'_>, body: &[u8]) -> Result<Response, Refused> {
        let message = match Message::from_caller(body) {
            Ok(message) => message,
            Err(Malformed::Batch) => return legacy::batch::take(self, from, body).await,
            Err(malformed) => return Err(refuse_malformed(&malformed)),
        };
        match message {
            Message::Request { id, method, params } => {
                let head = Head::read(params);
                match revision::era(from.headers, &method, &head) {
                    Era::Modern => modern::request(self, from, id, (&method, head), body).await,
                    Era::Legacy => legacy::request(self, from, id, (&method, params, head), body).await,
                }
            }
            Message::Notification { method, params } => {
                match revision::era(from.headers, &method, &Head::read(params)) {
                    Era::Modern => Ok(StatusCode::ACCEPTED.into_response()),
                    Era::Legacy => legacy::notification(self, &from, &method, params, body).await,
                }
            }
            answer @ (Message::Result { .. } | Message::Error { .. }) => {
                legacy::answer(self, &from, answer, body).await
            }
        }
    }

    /// The stream of a legacy session. Whoever has no session is told that there is none here, as 2026-07-28 has it.
    async fn get(self: &Arc<Self>, from: From<'_>, method: &Method) -> Result<Response, Refused> {
        if *method == Method::HEAD || !from.headers.contains_key(revision::SESSION_HEADER) {
            return Ok((StatusCode::METHOD_NOT_ALLOWED, [(ALLOW, "POST, DELETE")]).into_response());
        }
        if !accepts_events(from.headers) {
            return Err(Refused::plain(StatusCode::NOT_ACCEPTABLE, "Accept must have text/event-stream"));
        }
        legacy::stream::get(self, &from).await
    }
}

/// Where a message came from, as far as HTTP knows.
struct From<'a> {
    caller: Caller,
    scope: Scope,
    headers: &'a HeaderMap,
    /// Those of them that upstreams let through.
    extra: Extra,
    peer: Option<Peer>,
    /// What another replica has to be told of it. `None` if it came from another replica: it goes no further.
    passing: Option<Passing<'a>>,
    transport: Transport,
    mark: Mark,
}

impl From<'_> {
    /// Whose places it takes.
    fn payer(&self) -> Payer<'_> {
        Payer::of(&self.caller.principal, self.peer.and_then(Peer::ip))
    }

    /// The same for the pipeline.
    fn origin(
        &self,
        revision: Revision,
        party: Party,
        events: mpsc::Sender<Event>,
        cancelled: CancellationToken,
    ) -> Origin {
        Origin {
            caller: self.caller.clone(),
            revision,
            scope: self.scope.clone(),
            party: Party { extra: self.extra.clone(), ..party },
            transport: self.transport,
            remote_ip: self.peer.and_then(Peer::ip),
            user_agent: self.headers.get(USER_AGENT).and_then(|agent| agent.to_str().ok()).map(ToOwned::to_owned),
            param_headers: Vec::new(),
            mark: self.mark.clone(),
            events,
            cancelled,
        }
    }
}

async fn take_post(State(mcp): State<Arc<Mcp>>, request: Request) -> Response {
    mcp.post(request).await.unwrap_or_else(IntoResponse::into_response)
}

async fn take_get(State(mcp): State<Arc<Mcp>>, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    let stream = async { mcp.get(mcp.admit(&parts).await?, &parts.method).await };
    stream.await.unwrap_or_else(IntoResponse::into_response)
}

async fn take_delete(State(mcp): State<Arc<Mcp>>, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    let ended = async { legacy::end(&mcp, &mcp.admit(&parts).await?).await };
    ended.await.unwrap_or_else(IntoResponse::into_response)
}

/// Ends sessions that rest for too long and forgets streams that nobody resumed.
async fn keep_house(mcp: Arc<Mcp>) {
    let keeping = async {
        loop {
            tokio::time::sleep(HOUSEKEEPING).await;
            legacy::sweep(&mcp);
        }
    };
    mcp.tasks.stopping().run_until_cancelled(keeping).await;
}

/// `Content-Type`, `Content-Encoding` and `Accept` (transports § sending messages).
fn check_headers(headers: &HeaderMap) -> Result<(), Refused> {
    check_body_headers(headers)?;
    if !accepts(headers, "application", "json") && !accepts_events(headers) {
        return Err(Refused::plain(
            StatusCode::NOT_ACCEPTABLE,
            "Accept must have application/json and text/event-stream",
        ));
    }
    Ok(())
}

fn check_body_headers(headers: &HeaderMap) -> Result<(), Refused> {
    if !body::is_json(headers) {
        return Err(Refused::plain(StatusCode::UNSUPPORTED_MEDIA_TYPE, "Content-Type must be application/json"));
    }
    if body::check_encoding(headers).is_err() {
        return Err(Refused::plain(StatusCode::UNSUPPORTED_MEDIA_TYPE, "the body must not be encoded"));
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
        Malformed::Batch | Malformed::BatchSize => (INVALID_REQUEST, None),
        Malformed::Envelope { id, .. } => (INVALID_REQUEST, id.as_ref()),
    };
    Refused::rpc(StatusCode::BAD_REQUEST, id, &RpcError::new(code, malformed.to_string()))
}

fn refuse_scope(error: &ScopeError) -> Refused {
    let status = match error {
        ScopeError::NoSuchEndpoint => StatusCode::NOT_FOUND,
        ScopeError::BadHeader { .. } => StatusCode::BAD_REQUEST,
    };
    Refused::plain(status, &error.to_string())
}
