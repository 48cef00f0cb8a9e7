//! Streamable HTTP towards an upstream, in the legacy revisions: `initialize`, one session for each principal, replies
//! as JSON or as a stream of events.
//!
//! Sessions are opened when first used, by one caller while others wait, and ended after five minutes without use. A
//! session that the upstream forgot (404, or 400 as many servers have it) is opened anew once, since neither answer
//! means that the call happened.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri};
use hyper::body::Incoming;
use moka::future::Cache;
use tokio::time::Instant;

use super::{Exchange, UpstreamError, read_notice};
use crate::ids::Principal;
use crate::mcp::call::Outcome;
use crate::mcp::error::{METHOD_NOT_FOUND, RpcError};
use crate::mcp::json::{Members, raw};
use crate::mcp::message::{self, Message, RequestId};
use crate::mcp::revision::{SESSION_HEADER, VERSION_HEADER, legacy};
use crate::mcp::sse;
use crate::outbound::{Outbound, Pieces, read_all};
use crate::secret::Plaintext;
use crate::tasks::Tasks;

const SESSION_IDLE: Duration = Duration::from_secs(5 * 60);
const MAX_SESSIONS: u64 = 1_000;
/// For messages that nobody waits for: answers to the upstream, cancellations, ends of sessions.
const ASIDE_TIMEOUT: Duration = Duration::from_secs(5);
/// Largest body of an answer whose content is only logged or ignored.
const SMALL_BODY: usize = 64 * 1024;

pub(super) struct HttpLink {
    shared: Arc<Shared>,
    sessions: Cache<Principal, Arc<Session>>,
}

struct Shared {
    endpoint: Uri,
    headers: HeaderMap,
    outbound: Outbound,
    limit: usize,
    tasks: Tasks,
}

/// What the upstream gave us in `initialize`.
struct Session {
    id: Option<HeaderValue>,
    version: HeaderValue,
}

/// Why an exchange within a session failed.
enum Failure {
    /// The upstream does not know the session, so that nothing happened.
    SessionGone(UpstreamError),
    Final(UpstreamError),
}

impl From<UpstreamError> for Failure {
    fn from(error: UpstreamError) -> Self {
        Self::Final(error)
    }
}

impl HttpLink {
    pub(super) fn new(
        endpoint: Uri,
        headers: &BTreeMap<String, Plaintext>,
        outbound: Outbound,
        limit: usize,
        tasks: Tasks,
    ) -> Self {
        let shared = Arc::new(Shared { endpoint, headers: configured_headers(headers), outbound, limit, tasks });
        let closing = shared.clone();
        let sessions = Cache::builder()
            .max_capacity(MAX_SESSIONS)
            .time_to_idle(SESSION_IDLE)
            .eviction_listener(move |_, session: Arc<Session>, cause| {
                if cause != moka::notification::RemovalCause::Replaced {
                    let closing = closing.clone();
                    closing.tasks.clone().spawn(async move { closing.end(&session).await });
                }
            })
            .build();
        Self { shared, sessions }
    }

    pub(super) async fn exchange(&self, principal: &Principal, exchange: &Exchange) -> Result<Outcome, UpstreamError> {
        let session = self.session(principal, exchange).await?;
        match self.shared.exchange(&session, exchange).await {
            Ok(outcome) => Ok(outcome),
            Err(Failure::Final(error)) => Err(error),
            Err(Failure::SessionGone(error)) => {
                let known = self.sessions.get(principal).await;
                if known.is_some_and(|known| Arc::ptr_eq(&known, &session)) {
                    self.sessions.invalidate(principal).await;
                }
                let session = self.session(principal, exchange).await?;
                match self.shared.exchange(&session, exchange).await {
                    Ok(outcome) => Ok(outcome),
                    Err(Failure::Final(error)) => Err(error),
                    Err(Failure::SessionGone(_)) => Err(error),
                }
            }
        }
    }

    async fn session(&self, principal: &Principal, exchange: &Exchange) -> Result<Arc<Session>, UpstreamError> {
        let opening = self.sessions.try_get_with_by_ref(principal, self.shared.open(exchange.timeout));
        tokio::select! {
            opened = opening => opened.map_err(|error: Arc<UpstreamError>| UpstreamError::clone(&error)),
            () = exchange.cancelled.cancelled() => Err(UpstreamError::Cancelled),
        }
    }

    /// Tells the upstream that our sessions are over.
    pub(super) async fn end_sessions(&self, patience: Duration) {
        let sessions: Vec<Arc<Session>> = self.sessions.iter().map(|(_, session)| session).collect();
        let ends = sessions.iter().map(|session| self.shared.end(session));
        let all = futures_util::future::join_all(ends);
        if tokio::time::timeout(patience, all).await.is_err() {
            tracing::debug!("some upstream sessions were not ended in time");
        }
    }
}

/// Headers that `config` checked already; what is not a header after all is left out, never sent half.
fn configured_headers(headers: &BTreeMap<String, Plaintext>) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        let (Ok(name), Ok(mut value)) = (HeaderName::try_from(name.as_str()), HeaderValue::try_from(value.expose()))
        else {
            continue;
        };
        value.set_sensitive(true);
        map.insert(name, value);
    }
    map
}

impl Shared {
    /// `initialize` and `notifications/initialized`.
    async fn open(self: &Arc<Self>, timeout: Duration) -> Result<Arc<Session>, UpstreamError> {
        let deadline = Instant::now() + timeout;
        let id = RequestId::number(0);
        let body = message::request(&id, "initialize", &legacy::initialize_params());
        let response =
            self.post(None, body, deadline).await.map_err(|error| UpstreamError::from_outbound(error, timeout))?;
        check_status(response.status())?;
        let session_id = response.headers().get(SESSION_HEADER).cloned();
        let (notices, _) = tokio::sync::mpsc::channel(1);
        let exchange = Exchange {
            id,
            method: "initialize",
            params: raw("{}".to_owned()),
            notices,
            timeout,
            deadline,
            cancelled: tokio_util::sync::CancellationToken::new(),
        };
        let Outcome::Result(result) = self.read_answer(None, response, &exchange).await? else {
            return Err(UpstreamError::Protocol { what: "`initialize` was answered with an error" });
        };
        let version = legacy::negotiated(&result)
            .ok_or(UpstreamError::Protocol { what: "`initialize` chose no revision that we speak" })?;
        let version = HeaderValue::try_from(version)
            .map_err(|_| UpstreamError::Protocol { what: "`initialize` chose no revision that we speak" })?;
        let session = Arc::new(Session { id: session_id, version });
        let initialized = message::notification("notifications/initialized", None);
        let response = self.post(Some(&session), initialized, deadline).await;
        let response = response.map_err(|error| UpstreamError::from_outbound(error, timeout))?;
        check_status(response.status())?;
        drain(response, deadline).await;
        Ok(session)
    }

    async fn exchange(self: &Arc<Self>, session: &Arc<Session>, exchange: &Exchange) -> Result<Outcome, Failure> {
        let answered = tokio::select! {
            answered = self.ask(session, exchange) => answered,
            () = exchange.cancelled.cancelled() => Err(UpstreamError::Cancelled.into()),
        };
        if let Err(Failure::Final(UpstreamError::Cancelled | UpstreamError::TimedOut { .. })) = &answered {
            let reason = raw(format!(r#"{{"requestId":{}}}"#, exchange.id.as_json()));
            self.say_aside(session, message::notification("notifications/cancelled", Some(&reason)));
        }
        answered
    }

    async fn ask(self: &Arc<Self>, session: &Arc<Session>, exchange: &Exchange) -> Result<Outcome, Failure> {
        let body = message::request(&exchange.id, exchange.method, &exchange.params);
        let response = self.post(Some(session), body, exchange.deadline).await;
        let response = response.map_err(|error| UpstreamError::from_outbound(error, exchange.timeout))?;
        match response.status() {
            StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST if session.id.is_some() => {
                let status = response.status().as_u16();
                drain(response, exchange.deadline).await;
                Err(Failure::SessionGone(UpstreamError::Status { status }))
            }
            status => {
                check_status(status)?;
                Ok(self.read_answer(Some(session), response, exchange).await?)
            }
        }
    }

    /// Posts one message within a session, or the one that opens it.
    async fn post(
        &self,
        session: Option<&Arc<Session>>,
        body: String,
        deadline: Instant,
    ) -> Result<Response<Incoming>, crate::outbound::OutboundError> {
        let mut request = self.request(Method::POST, session, Bytes::from(body));
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
        self.outbound.send(request, deadline).await
    }

    fn request(&self, method: Method, session: Option<&Arc<Session>>, body: Bytes) -> Request<Bytes> {
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = self.endpoint.clone();
        *request.headers_mut() = self.headers.clone();
        if let Some(session) = session {
            request.headers_mut().insert(VERSION_HEADER, session.version.clone());
            if let Some(id) = &session.id {
                request.headers_mut().insert(SESSION_HEADER, id.clone());
            }
        }
        request
    }

    /// Reads the answer to a request, be it one JSON message or a stream that ends in one.
    async fn read_answer(
        self: &Arc<Self>,
        session: Option<&Arc<Session>>,
        response: Response<Incoming>,
        exchange: &Exchange,
    ) -> Result<Outcome, UpstreamError> {
        let encoding = response.headers().get(CONTENT_ENCODING);
        if encoding.is_some_and(|encoding| encoding != "identity") {
            return Err(UpstreamError::Protocol { what: "it encoded its answer, although it was not asked to" });
        }
        let content_type =
            response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        match content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
            "application/json" => self.read_json(response, exchange).await,
            "text/event-stream" => self.read_events(session, response, exchange).await,
            _ => Err(UpstreamError::Protocol { what: "its answer is neither JSON nor an event stream" }),
        }
    }

    async fn read_json(&self, response: Response<Incoming>, exchange: &Exchange) -> Result<Outcome, UpstreamError> {
        let body = read_all(response.into_body(), self.limit, exchange.deadline).await;
        let body = body.map_err(|error| UpstreamError::from_outbound(error, exchange.timeout))?;
        match Message::from_upstream(&body) {
            Ok(Message::Result { id, result }) if id == exchange.id => Ok(Outcome::Result(result.to_owned())),
            Ok(Message::Error { id, error }) if id.as_ref().is_none_or(|id| *id == exchange.id) => {
                Ok(Outcome::Error(error.to_owned()))
            }
            Ok(_) => Err(UpstreamError::Protocol { what: "it answered another request" }),
            Err(_) => Err(UpstreamError::Protocol { what: "its answer is not a JSON-RPC message" }),
        }
    }

    async fn read_events(
        self: &Arc<Self>,
        session: Option<&Arc<Session>>,
        response: Response<Incoming>,
        exchange: &Exchange,
    ) -> Result<Outcome, UpstreamError> {
        let mut pieces = Pieces::new(response.into_body(), exchange.deadline);
        let mut events = sse::Reader::new(self.limit);
        loop {
            while let Some(event) =
                events.next_event().map_err(|error| UpstreamError::TooLarge { limit: error.limit })?
            {
                if let Some(outcome) = self.take_event(session, &event, exchange).await? {
                    return Ok(outcome);
                }
            }
            match pieces.next().await.map_err(|error| UpstreamError::from_outbound(error, exchange.timeout))? {
                Some(piece) => events.feed(&piece),
                None => return Err(UpstreamError::Died),
            }
        }
    }

    /// Takes one message of a stream; the outcome, if it is the answer.
    async fn take_event(
        self: &Arc<Self>,
        session: Option<&Arc<Session>>,
        event: &[u8],
        exchange: &Exchange,
    ) -> Result<Option<Outcome>, UpstreamError> {
        match Message::from_upstream(event) {
            Ok(Message::Result { id, result }) if id == exchange.id => Ok(Some(Outcome::Result(result.to_owned()))),
            Ok(Message::Error { id: Some(id), error }) if id == exchange.id => {
                Ok(Some(Outcome::Error(error.to_owned())))
            }
            Ok(Message::Notification { method, params }) => {
                if let Some(notice) = read_notice(&method, params, &exchange.id) {
                    let told = tokio::time::timeout_at(exchange.deadline, exchange.notices.send(notice)).await;
                    // A caller that went away no longer listens; the answer still counts. One that listens and does
                    // not read uses up the call's time.
                    _ = told.map_err(|_| UpstreamError::TimedOut { after: exchange.timeout })?;
                }
                Ok(None)
            }
            Ok(Message::Request { id, method, .. }) => {
                if let Some(session) = session {
                    self.say_aside(session, answer_to_upstream(&id, &method));
                }
                Ok(None)
            }
            Ok(_) => Err(UpstreamError::Protocol { what: "it answered another request" }),
            Err(_) => Err(UpstreamError::Protocol { what: "its stream has an event that is not a JSON-RPC message" }),
        }
    }

    /// Posts a message that nobody waits for.
    fn say_aside(self: &Arc<Self>, session: &Arc<Session>, body: String) {
        let (shared, session) = (self.clone(), session.clone());
        self.tasks.spawn(async move {
            let deadline = Instant::now() + ASIDE_TIMEOUT;
            match shared.post(Some(&session), body, deadline).await {
                Ok(response) => drain(response, deadline).await,
                Err(error) => tracing::debug!(%error, "a message to an upstream was lost"),
            }
        });
    }

    /// DELETE, which an upstream may answer with 405.
    async fn end(&self, session: &Arc<Session>) {
        if session.id.is_none() {
            return;
        }
        let request = self.request(Method::DELETE, Some(session), Bytes::new());
        let deadline = Instant::now() + ASIDE_TIMEOUT;
        match self.outbound.send(request, deadline).await {
            Ok(response) => drain(response, deadline).await,
            Err(error) => tracing::debug!(%error, "an upstream session was not ended"),
        }
    }
}

/// What we answer when an upstream asks something of us as its client: we declared no capability.
pub(super) fn answer_to_upstream(id: &RequestId, method: &str) -> String {
    if method == "ping" {
        return message::result(id, &Members::default().to_raw());
    }
    message::error(Some(id), &RpcError::new(METHOD_NOT_FOUND, "the gateway declared no such capability").to_raw())
}

fn check_status(status: StatusCode) -> Result<(), UpstreamError> {
    if status.is_success() { Ok(()) } else { Err(UpstreamError::Status { status: status.as_u16() }) }
}

/// Reads a small body to its end, so that the connection can be used again.
async fn drain(response: Response<Incoming>, deadline: Instant) {
    if let Err(error) = read_all(response.into_body(), SMALL_BODY, deadline).await {
        tracing::debug!(%error, "the rest of an answer was left unread");
    }
}
