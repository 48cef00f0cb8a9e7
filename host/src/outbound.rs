//! The one place that opens HTTP connections outward.
//!
//! Sockets are pooled per origin for all principals; credentials travel with each request. Redirects are never
//! followed: an upstream that moved is for its operator to correct, and a credential must not travel elsewhere.
//! Everything is bounded: connecting, waiting for headers, and each body that is read.

use std::path::Path;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HOST};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Incoming};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::time::Instant;

/// Until a connection is established, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an unused connection is kept. Shorter than what common servers wait before they close one themselves (2 to 5 s): a
/// call that meets the other side's closing would be lost, and nobody could tell whether it happened.
const IDLE_CONNECTION: Duration = Duration::from_millis(1_500);
/// Unused connections kept for each origin.
const MAX_IDLE_PER_ORIGIN: usize = 64;

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
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl Outbound {
    /// A client that trusts the operating system's certificate authorities. Where those cannot be read, plain http
    /// still works and https connections fail.
    #[expect(clippy::disallowed_methods, reason = "the one place that makes an HTTP client")]
    pub fn new() -> Self {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let builder = match HttpsConnectorBuilder::new().with_native_roots() {
            Ok(builder) => builder,
            Err(error) => {
                tracing::warn!(%error, "no system certificate authorities: https upstreams cannot be reached");
                HttpsConnectorBuilder::new().with_tls_config(without_roots())
            }
        };
        let connector = builder.https_or_http().enable_all_versions().wrap_connector(http);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_CONNECTION)
            .pool_max_idle_per_host(MAX_IDLE_PER_ORIGIN)
            .http2_adaptive_window(true)
            .build(connector);
        Self { client }
    }

    /// Sends a request and waits for the headers of the answer, until `deadline`.
    pub async fn send(&self, request: Request<Bytes>, deadline: Instant) -> Result<Response<Incoming>, OutboundError> {
        let answer = tokio::time::timeout_at(deadline, self.client.request(request.map(Full::new))).await;
        answer.map_err(|_| OutboundError::TimedOut)?.map_err(|error| {
            if error.is_connect() { OutboundError::Connect(error) } else { OutboundError::Broken(error.into()) }
        })
    }
}

impl Default for Outbound {
    fn default() -> Self {
        Self::new()
    }
}

fn without_roots() -> rustls::ClientConfig {
    rustls::ClientConfig::builder().with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth()
}

/// Reads a whole body of at most `limit` bytes.
pub async fn read_all(body: Incoming, limit: usize, deadline: Instant) -> Result<Bytes, OutboundError> {
    let mut pieces = Pieces::new(body, deadline);
    let mut whole = BytesMut::new();
    if pieces.0.size_hint().lower() > limit as u64 {
        return Err(OutboundError::TooLarge { limit });
    }
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

/// Scheme and authority, for messages that must not show a path or query.
pub fn origin(uri: &Uri) -> String {
    format!("{}://{}", uri.scheme_str().unwrap_or("http"), uri.authority().map_or("", http::uri::Authority::as_str))
}

/// Largest answer of an admin socket, in bytes.
const MAX_ADMIN_ANSWER: usize = 64 << 20;
/// Longest wait for one.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(60);

/// Asks a gateway's admin socket: status and body of its answer.
pub async fn ask_socket(
    socket: &Path,
    method: Method,
    path: &str,
    body: Option<String>,
) -> Result<(StatusCode, Bytes), OutboundError> {
    let broken = |error: hyper::Error| OutboundError::Broken(error.into());
    let stream = tokio::net::UnixStream::connect(socket).await.map_err(OutboundError::NoSocket)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let mut request = Request::builder().method(method).uri(path).header(HOST, "localhost");
    if body.is_some() {
        request = request.header(CONTENT_TYPE, "application/json");
    }
    let request = request
        .body(Full::new(Bytes::from(body.unwrap_or_default())))
        .map_err(|error| OutboundError::Broken(error.into()))?;
    let deadline = Instant::now() + ADMIN_TIMEOUT;
    // The connection runs until the exchange lets go of its sender.
    let exchange = async move {
        let response = sender.send_request(request).await.map_err(broken)?;
        let status = response.status();
        Ok((status, read_all(response.into_body(), MAX_ADMIN_ANSWER, deadline).await?))
    };
    let both = async { tokio::join!(exchange, connection).0 };
    tokio::time::timeout_at(deadline, both).await.map_err(|_| OutboundError::TimedOut)?
}
