//! The pooled client of the data path.
//!
//! Sockets are pooled per origin and TLS identity for all principals; credentials travel with each request. It reaches whatever an
//! operator configured and judges no address: URLs that came from elsewhere go through [`super::Fetcher`].

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Incoming};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::time::Instant;

use super::tls::Tls;

/// Until a connection is established, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The same to another replica, which is near or gone.
const NEIGHBOUR_CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Between two signs of life of a silent connection to another replica.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// How long an unused connection is kept. Shorter than what common servers wait before they close one themselves (2 to 5 s): a
/// call that meets the other side's closing would be lost, and nobody could tell whether it happened.
const IDLE_CONNECTION: Duration = Duration::from_millis(1_500);
/// Unused connections kept for each origin.
const MAX_IDLE_PER_ORIGIN: usize = 64;
/// TLS identities whose clients are kept for whoever asks next.
const MAX_SECURED: usize = 32;

/// Why nothing came back from the other side.
#[derive(Debug, thiserror::Error)]
pub enum OutboundError {
    #[error("could not connect")]
    Connect(#[source] hyper_util::client::legacy::Error),
    #[error("could not connect")]
    NoSocket(#[source] std::io::Error),
    #[error("the connection broke")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("no answer in time")]
    TimedOut,
    #[error("the answer is larger than {limit} bytes")]
    TooLarge { limit: usize },
}

/// The client that all outward HTTP goes through. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Outbound {
    client: HttpsClient,
    /// Clients of other TLS identities, oldest first.
    secured: Arc<Mutex<Vec<(Tls, HttpsClient)>>>,
}

type HttpsClient = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

impl Outbound {
    /// A client that trusts the operating system's certificate authorities. Where those cannot be read, plain http
    /// still works and https connections fail.
    pub fn new() -> Self {
        let builder = match HttpsConnectorBuilder::new().with_native_roots() {
            Ok(builder) => builder,
            Err(error) => {
                tracing::warn!(%error, "no system certificate authorities: https upstreams cannot be reached");
                HttpsConnectorBuilder::new().with_tls_config(without_roots())
            }
        };
        Self::with(builder.https_or_http().enable_all_versions().wrap_connector(connector(CONNECT_TIMEOUT)))
    }

    /// The client that proves who it is, and has servers prove who they are, as `tls` says. There is one for each of the last
    /// few that were asked for, so that upstreams with one identity share their connections.
    #[must_use]
    pub fn secured(&self, tls: &Tls) -> Self {
        let mut known = self.secured.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, client)) = known.iter().find(|(other, _)| other == tls) {
            return Self { client: client.clone(), secured: self.secured.clone() };
        }
        let builder = HttpsConnectorBuilder::new().with_tls_config(tls.config());
        let connector = builder.https_or_http().enable_all_versions().wrap_connector(connector(CONNECT_TIMEOUT));
        let client = client(connector);
        if known.len() == MAX_SECURED {
            known.remove(0);
        }
        known.push((tls.clone(), client.clone()));
        Self { client, secured: self.secured.clone() }
    }

    /// A client for other replicas of this gateway: plain http, to addresses in the neighbourhood.
    pub fn between_replicas() -> Self {
        let builder = HttpsConnectorBuilder::new().with_tls_config(without_roots());
        let mut connector = connector(NEIGHBOUR_CONNECT_TIMEOUT);
        // A stream that says nothing would never learn that the other replica's machine has vanished.
        connector.set_keepalive(Some(KEEP_ALIVE));
        connector.set_keepalive_interval(Some(KEEP_ALIVE));
        connector.set_keepalive_retries(Some(3));
        Self::with(builder.https_or_http().enable_http1().wrap_connector(connector))
    }

    fn with(connector: HttpsConnector<HttpConnector>) -> Self {
        Self { client: client(connector), secured: Arc::default() }
    }

    /// Sends a request and waits for the headers of the answer, until `deadline`.
    pub async fn send(&self, request: Request<Bytes>, deadline: Instant) -> Result<Response<Incoming>, OutboundError> {
        let answer = tokio::time::timeout_at(deadline, self.client.request(request.map(Full::new))).await;
        answer.map_err(|_| OutboundError::TimedOut)?.map_err(|error| {
            if error.is_connect() { OutboundError::Connect(error) } else { OutboundError::Broken(error.into()) }
        })
    }
}

#[expect(clippy::disallowed_methods, reason = "the one place that makes an HTTP client")]
fn client(connector: HttpsConnector<HttpConnector>) -> HttpsClient {
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_CONNECTION)
        .pool_max_idle_per_host(MAX_IDLE_PER_ORIGIN)
        .http2_adaptive_window(true)
        .build(connector)
}

fn connector(connect_timeout: Duration) -> HttpConnector {
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_nodelay(true);
    http.set_connect_timeout(Some(connect_timeout));
    http
}

impl Default for Outbound {
    fn default() -> Self {
        Self::new()
    }
}

/// TLS that accepts no certificate at all.
pub(super) fn without_roots() -> rustls::ClientConfig {
    rustls::ClientConfig::builder().with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth()
}

/// Reads a whole body of at most `limit` bytes.
pub async fn read_all(body: Incoming, limit: usize, deadline: Instant) -> Result<Bytes, OutboundError> {
    let mut pieces = Pieces::new(body, deadline);
    let announced = pieces.0.size_hint().lower();
    if announced > limit as u64 {
        return Err(OutboundError::TooLarge { limit });
    }
    // Most bodies come in one piece, which needs no copy.
    let Some(first) = pieces.next().await? else { return Ok(Bytes::new()) };
    if first.len() > limit {
        return Err(OutboundError::TooLarge { limit });
    }
    if first.len() as u64 == announced {
        return Ok(first);
    }
    let mut whole = BytesMut::with_capacity(usize::try_from(announced).unwrap_or(limit).max(first.len()));
    whole.extend_from_slice(&first);
    while let Some(piece) = pieces.next().await? {
        if whole.len() + piece.len() > limit {
            return Err(OutboundError::TooLarge { limit });
        }
        whole.extend_from_slice(&piece);
    }
    Ok(whole.freeze())
}

/// A body, piece by piece, until a deadline.
#[derive(Debug)]
pub struct Pieces(Incoming, Instant);

impl Pieces {
    pub fn new(body: Incoming, deadline: Instant) -> Self {
        Self(body, deadline)
    }

    /// Another deadline from now on.
    pub fn set_deadline(&mut self, deadline: Instant) {
        self.1 = deadline;
    }

    /// The next piece, or `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, OutboundError> {
        loop {
            let frame = tokio::time::timeout_at(self.1, self.0.frame()).await.map_err(|_| OutboundError::TimedOut)?;
            match frame {
                None => return Ok(None),
                Some(Err(error)) => return Err(OutboundError::Broken(error.into())),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }
}
