//! Asking a gateway's admin socket: HTTP over a Unix socket, one exchange for each connection.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HOST, IF_MATCH};
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use hyper::client::conn::http1::{self, Connection, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::time::Instant;

use super::pool::{OutboundError, Pieces, read_all};

/// Largest answer of an admin socket, in bytes.
const MAX_ADMIN_ANSWER: usize = 64 << 20;
/// Longest wait for one that is not said to take longer.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(60);

/// Asks a gateway's admin socket: status and body of its answer.
pub async fn ask_socket(
    socket: &Path,
    method: Method,
    path: &str,
    body: Option<String>,
) -> Result<(StatusCode, Bytes), OutboundError> {
    ask_socket_patiently(socket, method, path, body, ADMIN_TIMEOUT).await
}

/// The same for what takes longer: waits for at most `patience`.
pub async fn ask_socket_patiently(
    socket: &Path,
    method: Method,
    path: &str,
    body: Option<String>,
    patience: Duration,
) -> Result<(StatusCode, Bytes), OutboundError> {
    ask_socket_if(socket, method, path, body, None, patience).await
}

/// The same for what is done only if it has the entity tag `if_match`, if there is one.
pub async fn ask_socket_if(
    socket: &Path,
    method: Method,
    path: &str,
    body: Option<String>,
    if_match: Option<&str>,
    patience: Duration,
) -> Result<(StatusCode, Bytes), OutboundError> {
    let mut request = Request::builder().method(method).uri(path).header(HOST, "localhost");
    if body.is_some() {
        request = request.header(CONTENT_TYPE, "application/json");
    }
    if let Some(tag) = if_match {
        request = request.header(IF_MATCH, tag);
    }
    let request = request
        .body(Full::new(Bytes::from(body.unwrap_or_default())))
        .map_err(|error| OutboundError::Broken(error.into()))?;
    exchange(socket, request, patience).await
}

/// What is sent that is no JSON.
#[derive(Clone, Debug)]
pub struct Sent<'a> {
    pub media_type: &'a str,
    pub content: Bytes,
    pub headers: &'a [(&'a str, String)],
}

/// Posts to a gateway's admin socket, for at most `patience`.
pub async fn send_to_socket(
    socket: &Path,
    path: &str,
    Sent { media_type, content, headers }: Sent<'_>,
    patience: Duration,
) -> Result<(StatusCode, Bytes), OutboundError> {
    let request = Request::post(path).header(HOST, "localhost").header(CONTENT_TYPE, media_type);
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, value));
    let request = request.body(Full::new(content)).map_err(|error| OutboundError::Broken(error.into()))?;
    exchange(socket, request, patience).await
}

async fn exchange(
    socket: &Path,
    request: Request<Full<Bytes>>,
    patience: Duration,
) -> Result<(StatusCode, Bytes), OutboundError> {
    let (mut sender, connection) = connect(socket).await?;
    let deadline = Instant::now() + patience;
    // The connection runs until the exchange lets go of its sender.
    let exchange = async move {
        let response = sender.send_request(request).await.map_err(broken)?;
        let status = response.status();
        Ok((status, read_all(response.into_body(), MAX_ADMIN_ANSWER, deadline).await?))
    };
    let both = async { tokio::join!(exchange, connection).0 };
    tokio::time::timeout_at(deadline, both).await.map_err(|_| OutboundError::TimedOut)?
}

/// Reads a long answer of a gateway's admin socket piece by piece, for at most `patience`. The status, and the body if it
/// is not a success; of a success, `take` gets the body, and its first error ends the exchange.
pub async fn stream_from_socket<E>(
    socket: &Path,
    path: &str,
    patience: Duration,
    mut take: impl AsyncFnMut(Bytes) -> Result<(), E>,
) -> Result<(StatusCode, Bytes), E>
where
    E: From<OutboundError>,
{
    let (mut sender, connection) = connect(socket).await?;
    let request = Request::get(path).header(HOST, "localhost").body(Full::new(Bytes::new()));
    let request = request.map_err(|error| OutboundError::Broken(error.into()))?;
    let deadline = Instant::now() + patience;
    let exchange = async move {
        let response = sender.send_request(request).await.map_err(broken)?;
        let status = response.status();
        if !status.is_success() {
            return Ok((status, read_all(response.into_body(), MAX_ADMIN_ANSWER, deadline).await?));
        }
        let mut pieces = Pieces::new(response.into_body(), deadline);
        while let Some(piece) = pieces.next().await? {
            take(piece).await?;
        }
        Ok((status, Bytes::new()))
    };
    let both = async { tokio::join!(exchange, connection).0 };
    tokio::time::timeout_at(deadline, both).await.map_err(|_| OutboundError::TimedOut)?
}

/// A stream of events that is read on for as long as it lasts.
#[derive(Clone, Copy, Debug)]
pub struct Listening<'a> {
    pub path: &'a str,
    /// Where to go on, if it was read before.
    pub last_event_id: Option<&'a str>,
    /// Longest time without any sign of life.
    pub quiet: Duration,
}

/// Reads a stream of a gateway's admin socket until it ends, or until `take` wants no more of it, which it says by `false`.
/// The status, and the body if it is not a success.
pub async fn listen_to_socket<E>(
    socket: &Path,
    Listening { path, last_event_id, quiet }: Listening<'_>,
    mut take: impl AsyncFnMut(Bytes) -> Result<bool, E>,
) -> Result<(StatusCode, Bytes), E>
where
    E: From<OutboundError>,
{
    let (mut sender, connection) = connect(socket).await?;
    let request = Request::get(path).header(HOST, "localhost").header(ACCEPT, "text/event-stream");
    let request = last_event_id.into_iter().fold(request, |request, id| request.header("last-event-id", id));
    let request = request.body(Full::new(Bytes::new())).map_err(|error| OutboundError::Broken(error.into()))?;
    let exchange = async move {
        let response = tokio::time::timeout(quiet, sender.send_request(request)).await;
        let response = response.map_err(|_| OutboundError::TimedOut)?.map_err(broken)?;
        let status = response.status();
        let deadline = Instant::now() + quiet;
        if !status.is_success() {
            return Ok((status, read_all(response.into_body(), MAX_ADMIN_ANSWER, deadline).await?));
        }
        let mut pieces = Pieces::new(response.into_body(), deadline);
        while let Some(piece) = pieces.next().await? {
            if !take(piece).await? {
                break;
            }
            pieces.set_deadline(Instant::now() + quiet);
        }
        Ok((status, Bytes::new()))
    };
    // What the connection has to say of its end the exchange hears as well; nothing waits for it once that is over.
    let driven = async {
        _ = connection.await;
        std::future::pending().await
    };
    tokio::select! {
        heard = exchange => heard,
        never = driven => never,
    }
}

async fn connect(
    socket: &Path,
) -> Result<(SendRequest<Full<Bytes>>, Connection<TokioIo<UnixStream>, Full<Bytes>>), OutboundError> {
    let stream = UnixStream::connect(socket).await.map_err(OutboundError::NoSocket)?;
    http1::handshake(TokioIo::new(stream)).await.map_err(broken)
}

fn broken(error: hyper::Error) -> OutboundError {
    OutboundError::Broken(error.into())
}
