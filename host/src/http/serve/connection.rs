//! One connection, from its first byte to its last.
//!
//! hyper speaks the protocol; the loop in [`run`] holds the connection to its deadlines. hyper's own header timer is
//! off: over HTTP/1 it starts when the former request ends, so it would be the idle timeout too, and it leaves
//! HTTP/2 alone.

use std::convert::Infallible;
use std::io;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{FutureExt as _, TryFutureExt as _};
use http::{HeaderMap, HeaderValue, Request, StatusCode, Version, header};
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tower::Service as _;
use tracing::{debug, error};

use super::head::{self, Misframed};
use super::life::{Due, Flight, Pulse};
use super::reply::{Reply, Streams};
use super::wire::{Outlet, Wire};
use super::{Floor, Limits, Peer};

/// Serves one connection until it ends, misses a deadline, or is asked to leave.
pub(super) async fn run<S>(stream: S, peer: Peer, floor: &Floor)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let pulse = Pulse::new(floor.tls.is_some());
    let stream = Outlet::new(stream, Arc::clone(&pulse));
    let Some(tls) = &floor.tls else { return speak(stream, peer, pulse, floor).await };
    if let Some(stream) = in_time(tls.accept(stream), peer, &pulse, floor).await {
        pulse.shook_hands();
        speak(stream, peer, pulse, floor).await;
    }
}

/// The stream of a handshake that succeeds before its deadline and before the end.
async fn in_time<S>(
    handshake: impl Future<Output = io::Result<S>>,
    peer: Peer,
    pulse: &Pulse,
    floor: &Floor,
) -> Option<S> {
    let mut handshake = pin!(handshake);
    let mut timer = pin!(sleep(Duration::ZERO));
    let mut shutdown = pin!(asked_to_leave(pulse, floor));
    loop {
        let due = pulse.due(&floor.limits);
        if let Some((at, _)) = due {
            timer.as_mut().reset(at);
        }
        tokio::select! {
            biased;
            shaken = handshake.as_mut() => {
                return shaken.inspect_err(|error| debug!(?peer, %error, "a TLS handshake failed")).ok();
            }
            () = pulse.changed() => {}
            () = timer.as_mut(), if due.is_some() => {
                debug!(?peer, "cut a connection whose TLS handshake did not end in time");
                return None;
            }
            () = shutdown.as_mut() => return None,
        }
    }
}

/// Returns when a connection is to end because the gateway stops: a little later where its first request may be on its way,
/// since whoever has just connected has no way to know.
async fn asked_to_leave(pulse: &Pulse, floor: &Floor) {
    floor.shutdown.cancelled().await;
    if pulse.is_new() {
        sleep(LATE).await;
    }
}

/// See [`asked_to_leave`].
const LATE: Duration = Duration::from_millis(100);

/// Serves what is said over a connection.
async fn speak<S>(stream: S, peer: Peer, pulse: Arc<Pulse>, floor: &Floor)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let streams = Streams { tasks: floor.tasks.clone(), cut: floor.cut.child_token(), write: floor.limits.write };
    let _streams_end_with_us = streams.cut.clone().drop_guard();
    let protocol = protocol(&floor.limits, streams);
    let service = service_fn(|request: Request<Incoming>| {
        let (flight, framing) = pulse.began(request.method());
        let (meter, answer) = (floor.meter.clone(), answer(floor, request, peer, flight, framing));
        answer.inspect_ok(move |response| meter.answered(response.status()))
    });
    let wire = TokioIo::new(Wire::new(stream, Arc::clone(&pulse)));
    let mut connection = pin!(protocol.serve_connection(wire, service));

    let mut timer = pin!(sleep(Duration::ZERO));
    let mut shutdown = pin!(asked_to_leave(&pulse, floor));
    let mut pressure = pin!(floor.pressure.notified());
    loop {
        let due = pulse.due(&floor.limits);
        if let Some((at, _)) = due
            && timer.deadline() != at
        {
            timer.as_mut().reset(at);
        }
        tokio::select! {
            biased;
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    debug!(?peer, %error, "a connection failed");
                }
                return;
            }
            () = pulse.changed() => continue,
            () = timer.as_mut(), if due.is_some() => {
                if let Some((_, Due::Cut(reason))) = due {
                    debug!(?peer, reason, "cut a connection");
                    floor.meter.cut();
                    return;
                }
            }
            () = shutdown.as_mut(), if !pulse.is_leaving() => {}
            () = pressure.as_mut(), if pulse.rests() => {}
        }
        pulse.leave();
        connection.as_mut().graceful_shutdown();
    }
}

/// hyper's part of the limits.
fn protocol(limits: &Limits, streams: Streams) -> auto::Builder<Streams> {
    let mut builder = auto::Builder::new(streams);
    builder.http1().timer(TokioTimer::new()).header_read_timeout(None).max_buf_size(HTTP1_BUFFER_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.max_http2_streams)
        .max_header_list_size(HTTP2_HEADER_BYTES)
        .max_pending_accept_reset_streams(HTTP2_PENDING_RESETS)
        .max_local_error_reset_streams(HTTP2_ERROR_RESETS)
        .initial_stream_window_size(HTTP2_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(HTTP2_CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(HTTP2_SEND_BUFFER_BYTES)
        .keep_alive_interval(HTTP2_PING_INTERVAL)
        .keep_alive_timeout(HTTP2_PING_TIMEOUT);
    builder
}

/// Bounds the head of a request (431 beyond it) and what is read ahead of a body. The number of headers is bounded
/// by hyper's default of 100, which setting it would move from the stack to the heap.
const HTTP1_BUFFER_BYTES: usize = 64 * 1024;
const HTTP2_HEADER_BYTES: u32 = 32 * 1024;
/// Streams that the peer reset before we took them; beyond it the connection ends with `ENHANCE_YOUR_CALM`
/// (rapid reset, threat H6).
const HTTP2_PENDING_RESETS: usize = 20;
/// Streams that we reset because of what the peer sent; beyond it the connection ends (MadeYouReset, threat H6).
const HTTP2_ERROR_RESETS: usize = 100;
/// What a peer may send without being read: of one body, and of all bodies of a connection.
const HTTP2_STREAM_WINDOW_BYTES: u32 = 256 * 1024;
const HTTP2_CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
/// What h2 may hold of a reply that waits for the peer's window.
const HTTP2_SEND_BUFFER_BYTES: usize = 64 * 1024;
/// A peer that vanished is found while streams are open. It does not count as activity.
const HTTP2_PING_INTERVAL: Duration = Duration::from_secs(30);
const HTTP2_PING_TIMEOUT: Duration = Duration::from_secs(20);

/// Answers one request, whatever the handler does.
fn answer(
    floor: &Floor,
    request: Request<Incoming>,
    peer: Peer,
    flight: Flight,
    framing: Result<(), Misframed>,
) -> impl Future<Output = Result<Response<Reply>, Infallible>> + Send + use<> {
    let (router, leaving) = (floor.router.clone(), floor.leaving.clone());
    let peer = from(peer, request.headers(), floor);
    async move { Ok(answered((router, leaving), request, peer, flight, framing).await) }
}

/// Who a request came from, as far as trusted proxies say so.
fn from(peer: Peer, headers: &HeaderMap, floor: &Floor) -> Peer {
    let Peer::Tcp(proxy) = peer else { return peer };
    floor.proxies.client_of(proxy, headers).map_or(peer, |client| Peer::Proxied { client, proxy })
}

async fn answered(
    (router, leaving): (axum::Router, CancellationToken),
    request: Request<Incoming>,
    peer: Peer,
    flight: Flight,
    framing: Result<(), Misframed>,
) -> Response<Reply> {
    let version = request.version();
    let arrival = Arrival::new(&request);
    let framing = framing.and_then(|()| head::check_encoding(request.headers()));
    let mut response = match framing {
        Ok(()) => handle(router, request.map(|body| arrival.watch(body)), peer).await,
        Err(misframed) => misframed.into_response(),
    };
    if version < Version::HTTP_2 && (!arrival.is_complete() || leaving.is_cancelled()) {
        // What was not read could be taken for the next request, and what comes late would meet a closed door.
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response.map(|body| Reply::new(body, flight))
}

async fn handle(mut router: axum::Router, mut request: Request<Body>, peer: Peer) -> Response {
    request.extensions_mut().insert(peer);
    let handled = AssertUnwindSafe(async move { router.call(request).await }).catch_unwind().await;
    match handled {
        Ok(Ok(response)) => response,
        Err(_panic) => {
            // The panic hook has told the place; the payload may hold what must not be logged.
            error!(?peer, "a request handler panicked; answered 500");
            let body = Json(json!({ "error": "internal", "message": "the gateway failed on this request" }));
            (StatusCode::INTERNAL_SERVER_ERROR, body).into_response()
        }
    }
}

/// Whether a request's body was read to its end.
struct Arrival(Arc<AtomicBool>);

impl Arrival {
    fn new(request: &Request<Incoming>) -> Self {
        Self(Arc::new(AtomicBool::new(request.body().is_end_stream())))
    }

    fn is_complete(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn watch(&self, body: Incoming) -> Body {
        if self.is_complete() {
            return Body::empty();
        }
        Body::new(Arriving { body, is_complete: Arc::clone(&self.0) })
    }
}

/// A request body that notes its end.
struct Arriving {
    body: Incoming,
    is_complete: Arc<AtomicBool>,
}

impl HttpBody for Arriving {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if frame.is_none() || self.body.is_end_stream() {
            self.is_complete.store(true, Ordering::Relaxed);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
