//! Streamable HTTP at `/mcp`: one JSON message in, one JSON message out.
//!
//! There are no event streams: the servers have nothing to say on their own, so GET is answered with 405. A browser
//! must not reach them through a name that resolves to this machine, hence the checks of `Host` and `Origin`.

use std::collections::VecDeque;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::header::{ACCEPT, CONTENT_TYPE, HOST, ORIGIN};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::protocol::{self, Era, Fault, LEGACY, Message, Request, Server};

/// Longest message that is read; the longest note fits several times.
pub(crate) const MAX_MESSAGE_BYTES: usize = 256 * 1024;
/// Sessions kept at a time; the oldest one goes first.
const MAX_SESSIONS: usize = 1_024;

const SESSION_HEADER: &str = "mcp-session-id";
const VERSION_HEADER: &str = "mcp-protocol-version";
const METHOD_HEADER: &str = "mcp-method";
const NAME_HEADER: &str = "mcp-name";

pub(crate) async fn serve<S, F>(listener: TcpListener, server: Server<S>, shutdown: F) -> io::Result<()>
where
    S: Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    if !listener.local_addr()?.ip().is_loopback() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the example servers listen on loopback only"));
    }
    let endpoint = Arc::new(Endpoint { server, sessions: Mutex::default() });
    let router = Router::new()
        .route("/mcp", post(take_message::<S>).delete(end_session::<S>))
        .layer(DefaultBodyLimit::max(MAX_MESSAGE_BYTES))
        .with_state(endpoint);
    axum::serve(listener, router).with_graceful_shutdown(shutdown).await
}

struct Endpoint<S> {
    server: Server<S>,
    sessions: Mutex<Sessions>,
}

async fn take_message<S>(State(endpoint): State<Arc<Endpoint<S>>>, headers: HeaderMap, body: Bytes) -> Response
where
    S: Send + 'static,
{
    if let Err(refusal) = check_origin(&headers).and_then(|()| check_media_types(&headers)) {
        return refusal.into_response();
    }
    match Message::parse(&body) {
        Ok(Message::Request(request)) => endpoint.answer(&headers, request),
        Ok(Message::Notification | Message::Response) => match endpoint.check_session(&headers) {
            Ok(()) => StatusCode::ACCEPTED.into_response(),
            Err(refusal) => refusal.into_response(),
        },
        Err(fault) => reply(StatusCode::BAD_REQUEST, None, Err(fault)),
    }
}

async fn end_session<S>(State(endpoint): State<Arc<Endpoint<S>>>, headers: HeaderMap) -> Response
where
    S: Send + 'static,
{
    if let Err(refusal) = check_origin(&headers).and_then(|()| endpoint.check_session(&headers)) {
        return refusal.into_response();
    }
    if let Some(id) = header(&headers, SESSION_HEADER) {
        endpoint.sessions().end(id);
    }
    StatusCode::NO_CONTENT.into_response()
}

impl<S> Endpoint<S> {
    fn answer(&self, headers: &HeaderMap, request: Request) -> Response {
        let checked = match era(headers, &request) {
            Era::Modern => check_stateless(headers, &request).map(|()| Era::Modern),
            Era::Legacy if request.method == "initialize" => Ok(Era::Legacy),
            Era::Legacy => match self.check_session(headers) {
                Ok(()) => Ok(Era::Legacy),
                Err(refusal) => return refusal.with_id(request.id).into_response(),
            },
        };
        let outcome = checked.and_then(|era| self.server.answer(era, &request).map(|result| (era, result)));
        match outcome {
            Ok((Era::Legacy, result)) if request.method == "initialize" => {
                let session = self.sessions().begin();
                ([(SESSION_HEADER, session)], reply(StatusCode::OK, Some(request.id), Ok(result))).into_response()
            }
            Ok((_, result)) => reply(StatusCode::OK, Some(request.id), Ok(result)),
            Err(fault) => reply(status(era(headers, &request), &fault), Some(request.id), Err(fault)),
        }
    }

    /// Checks that a message which carries no version of its own belongs to a session.
    fn check_session(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        match header(headers, VERSION_HEADER) {
            Some(protocol::MODERN) => return Ok(()),
            Some(version) if !LEGACY.contains(&version) => {
                return Err(Refusal::new(StatusCode::BAD_REQUEST, "Unsupported protocol version"));
            }
            _ => {}
        }
        let Some(id) = header(headers, SESSION_HEADER) else {
            return Err(Refusal::new(StatusCode::BAD_REQUEST, "Mcp-Session-Id is missing"));
        };
        if self.sessions().knows(id) { Ok(()) } else { Err(Refusal::new(StatusCode::NOT_FOUND, "Session not found")) }
    }

    fn sessions(&self) -> std::sync::MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request is stateless if it says so itself or if its version header names no revision with sessions.
fn era(headers: &HeaderMap, request: &Request) -> Era {
    match header(headers, VERSION_HEADER) {
        Some(version) if !LEGACY.contains(&version) => Era::Modern,
        _ => request.era(),
    }
}

/// The headers of a stateless request repeat what its body says (2026-07-28, transports, standard headers).
fn check_stateless(headers: &HeaderMap, request: &Request) -> Result<(), Fault> {
    if let Some(version) = request.declared_version()
        && header(headers, VERSION_HEADER) != Some(version)
    {
        return Err(Fault::HeaderMismatch("MCP-Protocol-Version and the body differ"));
    }
    request.check_meta()?;
    if header(headers, METHOD_HEADER) != Some(&request.method) {
        return Err(Fault::HeaderMismatch("Mcp-Method and the body differ"));
    }
    // The names of our tools travel in a header as they are; an encoded one is none of them.
    if request.method == "tools/call"
        && header(headers, NAME_HEADER) != request.params.get("name").and_then(Value::as_str)
    {
        return Err(Fault::HeaderMismatch("Mcp-Name and the body differ"));
    }
    Ok(())
}

fn status(era: Era, fault: &Fault) -> StatusCode {
    match (era, fault) {
        (Era::Modern, Fault::UnknownMethod(_)) => StatusCode::NOT_FOUND,
        (_, Fault::UnknownMethod(_) | Fault::BadParams(_)) => StatusCode::OK,
        _ => StatusCode::BAD_REQUEST,
    }
}

fn check_origin(headers: &HeaderMap) -> Result<(), Refusal> {
    let foreign = Err(Refusal::new(StatusCode::FORBIDDEN, "Host and Origin must be local"));
    if !header(headers, HOST.as_str()).is_some_and(is_local) {
        return foreign;
    }
    match headers.get(ORIGIN).map(|origin| origin.to_str().unwrap_or_default()) {
        None => Ok(()),
        Some(origin) => match origin.split_once("://") {
            Some(("http" | "https", authority)) if is_local(authority) => Ok(()),
            _ => foreign,
        },
    }
}

/// Whether `authority` (host, perhaps with a port) is this machine by a name that cannot be pointed elsewhere.
fn is_local(authority: &str) -> bool {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    };
    host.eq_ignore_ascii_case("localhost") || host == "127.0.0.1" || host == "[::1]"
}

fn check_media_types(headers: &HeaderMap) -> Result<(), Refusal> {
    let essence = |value: &str| value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if header(headers, CONTENT_TYPE.as_str()).map(essence).as_deref() != Some("application/json") {
        return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "Content-Type must be application/json"));
    }
    let Some(accepted) = header(headers, ACCEPT.as_str()) else { return Ok(()) };
    if accepted.split(',').map(essence).any(|range| ["application/json", "application/*", "*/*"].contains(&&*range)) {
        Ok(())
    } else {
        Err(Refusal::new(StatusCode::NOT_ACCEPTABLE, "Accept must allow application/json"))
    }
}

/// A header's value, if it is there exactly once and is text.
fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok(),
        _ => None,
    }
}

/// What is refused before the protocol proper has a say.
#[derive(Debug)]
struct Refusal {
    status: StatusCode,
    message: &'static str,
    id: Option<Value>,
}

impl Refusal {
    fn new(status: StatusCode, message: &'static str) -> Self {
        Self { status, message, id: None }
    }

    fn with_id(self, id: Value) -> Self {
        Self { id: Some(id), ..self }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let error = json!({ "code": -32000, "message": self.message });
        json_response(self.status, &json!({ "jsonrpc": "2.0", "id": self.id, "error": error }))
    }
}

fn reply(status: StatusCode, id: Option<Value>, outcome: Result<Value, Fault>) -> Response {
    json_response(status, &protocol::response(id, outcome))
}

fn json_response(status: StatusCode, body: &Value) -> Response {
    (status, [(CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

/// The sessions that were begun and not yet ended, oldest first.
#[derive(Default)]
struct Sessions(VecDeque<String>);

impl Sessions {
    fn begin(&mut self) -> String {
        if self.0.len() >= MAX_SESSIONS {
            self.0.pop_front();
        }
        // A session guards nothing here; it only has to be unlike the others, also those of an earlier run. The
        // keys of the standard library's hash maps are random.
        let random = || RandomState::new().build_hasher().finish();
        let id = format!("{:016x}{:016x}", random(), random());
        self.0.push_back(id.clone());
        id
    }

    fn knows(&self, id: &str) -> bool {
        self.0.iter().any(|known| known == id)
    }

    fn end(&mut self, id: &str) {
        self.0.retain(|known| known != id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_local_authorities_are_local() {
        for authority in ["localhost", "LOCALHOST:80", "127.0.0.1", "127.0.0.1:7400", "[::1]", "[::1]:7400"] {
            assert!(is_local(authority), "{authority}");
        }
        for authority in
            ["", "example.com", "localhost.example.com", "127.0.0.1.example.com:80", "evil:localhost", "::1"]
        {
            assert!(!is_local(authority), "{authority}");
        }
    }

    #[test]
    fn sessions_are_distinct_and_bounded() {
        let mut sessions = Sessions::default();
        let first = sessions.begin();
        let second = sessions.begin();
        assert_ne!(first, second);
        for _ in 0..MAX_SESSIONS - 1 {
            sessions.begin();
        }
        assert!(!sessions.knows(&first) && sessions.knows(&second));
        sessions.end(&second);
        assert!(!sessions.knows(&second));
    }
}
