//! The upstream as everything in this folder knows it: where it is, what each request carries, and the bounds.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, Uri};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::{Endpoint, Shared};
use crate::connection::lending::Lent;
use crate::ids::UpstreamName;
use crate::mcp::json::{quote, raw};
use crate::mcp::message::RequestId;
use crate::mcp::talk::Party;
use crate::outbound::{Outbound, read_all};
use crate::secret::Plaintext;
use crate::tasks::Tasks;
use crate::telemetry::{TRACEPARENT, TRACESTATE};
use crate::upstream::credential::Own;
use crate::upstream::{LinkLimits, Signals, UpstreamError};

/// For messages that nobody waits for: answers to the upstream, cancellations, ends of sessions.
pub(super) const ASIDE_TIMEOUT: Duration = Duration::from_secs(5);
/// Largest body of an answer whose content is only looked at for an error, in bytes.
pub(super) const SMALL_BODY: usize = 64 * 1024;
/// A request's time is kept by whoever sends it; this only has to be longer.
const FAR: Duration = Duration::from_secs(7 * 24 * 60 * 60);

pub(super) struct Peer {
    pub(super) name: UpstreamName,
    pub(super) endpoint: Uri,
    headers: HeaderMap,
    /// Headers of a caller's own request that are passed on with it.
    extra: Vec<HeaderName>,
    outbound: Outbound,
    pub(super) own: Arc<Own>,
    pub(super) limits: LinkLimits,
    pub(super) signals: Signals,
    pub(super) tasks: Tasks,
    next_id: AtomicU64,
    /// It answered 405 to the GET that opens a stream: it has none.
    streamless: AtomicBool,
    /// It lets the head of a stream wait for the first event.
    is_slow_to_stream: AtomicBool,
}

impl Peer {
    pub(super) fn new(endpoint: Endpoint, shared: Shared, limits: LinkLimits, tasks: Tasks) -> Self {
        let Endpoint { name, url, protocol: _, headers, extra } = endpoint;
        let Shared { outbound, signals, own } = shared;
        Self {
            name,
            endpoint: url,
            headers: configured_headers(&headers),
            extra,
            outbound,
            own,
            limits,
            signals,
            tasks,
            next_id: AtomicU64::new(1),
            streamless: AtomicBool::new(false),
            is_slow_to_stream: AtomicBool::new(false),
        }
    }

    /// A request with the configured headers and no others.
    pub(super) fn request(&self, method: Method, to: &Uri, body: Bytes) -> Request<Bytes> {
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = to.clone();
        *request.headers_mut() = self.headers.clone();
        request
    }

    /// A request that carries one message.
    pub(super) fn post(&self, to: &Uri, body: String) -> Request<Bytes> {
        let mut request = self.request(Method::POST, to, Bytes::from(body));
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
        request
    }

    /// A request for a stream of events.
    pub(super) fn get(&self) -> Request<Bytes> {
        let mut request = self.request(Method::GET, &self.endpoint, Bytes::new());
        request.headers_mut().insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
        request
    }

    /// Passes on what the caller's own request says in headers that this upstream is to get. Nothing that the gateway says
    /// itself is replaced by it.
    pub(super) fn pass_on(&self, request: &mut Request<Bytes>, party: &Party) {
        for (name, value) in party.extra.among(&self.extra) {
            request.headers_mut().entry(name).or_insert_with(|| value.clone());
        }
        let Some(trace) = &party.trace else { return };
        // Hex and what was checked: none of it is anything else than visible ASCII.
        let mut say = |name, value: &str| {
            if let Ok(value) = HeaderValue::try_from(value) {
                request.headers_mut().insert(HeaderName::from_static(name), value);
            }
        };
        say(TRACEPARENT, &trace.context().parent());
        if let Some(state) = trace.context().state() {
            say(TRACESTATE, state);
        }
    }

    /// Sends a request and waits for the head of the answer. Whoever calls limits the time.
    pub(super) async fn send(&self, request: Request<Bytes>) -> Result<Response<Incoming>, UpstreamError> {
        self.outbound.send(request, far()).await.map_err(not_sent)
    }

    /// Sends a request whose answer does not matter.
    pub(super) async fn send_aside(&self, request: Request<Bytes>) {
        let sent = async { drain(self.send(request).await?).await };
        match tokio::time::timeout(ASIDE_TIMEOUT, sent).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "a message to an upstream was lost"),
            Err(_) => tracing::debug!("a message to an upstream was not taken in time"),
        }
    }

    /// An id for a request of the gateway's own. No id of an exchange is a string.
    pub(super) fn fresh_id(&self) -> RequestId {
        let number = self.next_id.fetch_add(1, Ordering::Relaxed);
        let id = raw(quote(&format!("portcullis-{number}")));
        RequestId::parse(&id).expect("a short string is an id")
    }

    pub(super) fn is_streamless(&self) -> bool {
        self.streamless.load(Ordering::Relaxed)
    }

    pub(super) fn is_slow_to_stream(&self) -> bool {
        self.is_slow_to_stream.load(Ordering::Relaxed)
    }

    pub(super) fn set_slow_to_stream(&self) {
        self.is_slow_to_stream.store(true, Ordering::Relaxed);
    }

    pub(super) fn set_streamless(&self, streamless: bool) {
        self.streamless.store(streamless, Ordering::Relaxed);
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

/// Shows a credential with a request. What is configured never stands in the place of a person's own.
pub(super) fn show(request: &mut Request<Bytes>, lent: Option<&Lent>) {
    for (name, value) in lent.iter().flat_map(|lent| &lent.headers) {
        request.headers_mut().insert(name.clone(), value.clone());
    }
}

/// A point in time that is none of a request's bounds.
pub(super) fn far() -> Instant {
    Instant::now() + FAR
}

pub(super) fn not_sent(error: crate::outbound::OutboundError) -> UpstreamError {
    UpstreamError::from_outbound(error, FAR)
}

/// Reads a small body to its end, so that the connection can be used again.
pub(super) async fn drain(response: Response<Incoming>) -> Result<(), UpstreamError> {
    read_all(response.into_body(), SMALL_BODY, far()).await.map(drop).map_err(not_sent)
}
