//! The accept loop over real sockets. Deadlines are short, bounds generous: no test depends on exact timing.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use http::StatusCode;
use http_body_util::BodyExt as _;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{Limits, Peer, Socket, serve};
use crate::http::body::{BodyError, read_limited};

/// Longer than anything here may take, shorter than a patient person.
const BOUND: Duration = Duration::from_secs(20);
/// A deadline under test.
const SHORT: Duration = Duration::from_millis(150);

const PATIENT: Limits = Limits {
    first_byte: BOUND,
    header: BOUND,
    idle: BOUND,
    write: BOUND,
    linger: SHORT,
    drain: BOUND,
    max_connections: 100,
    max_http2_streams: 100,
};

// ---- the gateway's side

#[derive(Clone, Default)]
struct Signals {
    /// A handler was entered.
    entered: Arc<Notify>,
    /// The test lets the handler finish.
    release: Arc<Notify>,
    /// A handler's future or its body was dropped before it ended.
    dropped: Arc<Notify>,
}

struct NotifyOnDrop(Arc<Notify>);

impl Drop for NotifyOnDrop {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

fn router(signals: Signals) -> Router {
    Router::new()
        .route("/", get(async || "hello"))
        .route("/echo", post(echo))
        .route("/refuse", post(async || StatusCode::FORBIDDEN))
        .route("/wait", get(wait))
        .route("/events", get(events))
        .route("/endless", get(endless))
        .route("/large", get(async || Bytes::from(vec![7; 32 << 20])))
        .route("/panic", get(panics))
        .route("/panic-late", get(panics_late))
        .route("/peer", get(async |Extension(peer): Extension<Peer>| format!("{peer:?}")))
        .with_state(signals)
}

async fn echo(request: Request) -> Response {
    match read_limited(request.into_body(), 1 << 20, BOUND, None).await {
        Ok(bytes) => bytes.into_response(),
        Err(BodyError::TooLarge { .. }) => StatusCode::PAYLOAD_TOO_LARGE.into_response(),
        Err(_) => StatusCode::BAD_REQUEST.into_response(),
    }
}

async fn wait(State(signals): State<Signals>) -> &'static str {
    let _dropped = NotifyOnDrop(signals.dropped);
    signals.entered.notify_one();
    signals.release.notified().await;
    "released"
}

/// Speaks for several times [`SHORT`].
async fn events() -> Body {
    Body::from_stream(stream::iter(0..12).then(async |number| {
        sleep(SHORT / 3).await;
        Ok::<_, Infallible>(Bytes::from(format!("data: {number}\n\n")))
    }))
}

async fn endless(State(signals): State<Signals>) -> Body {
    let dropped = NotifyOnDrop(signals.dropped);
    Body::from_stream(stream::repeat(()).map(move |()| {
        let _held = &dropped;
        Ok::<_, Infallible>(Bytes::from_static(&[b'x'; 16 * 1024]))
    }))
}

async fn panics() {
    panic!("as asked");
}

async fn panics_late() -> Body {
    let first = stream::iter([Ok::<_, Infallible>(Bytes::from_static(b"so far"))]);
    Body::from_stream(first.chain(stream::once(async { panic!("as asked") })))
}

struct Gateway {
    address: SocketAddr,
    signals: Signals,
    shutdown: CancellationToken,
    served: JoinSet<()>,
}

impl Gateway {
    async fn start(limits: Limits) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (signals, shutdown) = (Signals::default(), CancellationToken::new());
        let mut served = JoinSet::new();
        served.spawn(serve(Socket::Tcp(listener), router(signals.clone()), limits, Arc::default(), shutdown.clone()));
        Self { address, signals, shutdown, served }
    }

    async fn connect(&self) -> Caller<TcpStream> {
        Caller(TcpStream::connect(self.address).await.unwrap())
    }

    /// What [`serve`] promises: that it returns, at once when nothing is in flight.
    async fn stop(mut self) {
        self.shutdown.cancel();
        soon(self.served.join_next()).await.unwrap().unwrap();
    }
}

// ---- the caller's side

async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(BOUND, future).await.expect("it happens within the bound")
}

struct Caller<S>(S);

impl<S: AsyncRead + AsyncWrite + Unpin> Caller<S> {
    async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        soon(self.0.write_all(bytes.as_ref())).await.unwrap();
    }

    async fn get(&mut self, path: &str) -> String {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
        self.reply().await
    }

    /// One reply with a `Content-Length`.
    async fn reply(&mut self) -> String {
        soon(async {
            let mut reply = Vec::new();
            while !reply.ends_with(b"\r\n\r\n") {
                reply.push(self.0.read_u8().await.unwrap());
            }
            let head = String::from_utf8(reply).unwrap().to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
            let mut body = vec![0; length.parse().unwrap()];
            self.0.read_exact(&mut body).await.unwrap();
            head + std::str::from_utf8(&body).unwrap()
        })
        .await
    }

    /// All that comes until the connection ends, by a close or by a reset.
    async fn rest(&mut self) -> String {
        let mut rest = Vec::new();
        let _closed_or_reset = soon(self.0.read_to_end(&mut rest)).await;
        String::from_utf8(rest).unwrap()
    }
}

type Http2 = http2::SendRequest<Body>;

/// An HTTP/2 connection; the set owns its task, which ends with the connection.
async fn http2(gateway: &Gateway) -> (Http2, JoinSet<()>) {
    let stream = TokioIo::new(TcpStream::connect(gateway.address).await.unwrap());
    let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    let mut task = JoinSet::new();
    task.spawn(async { drop(connection.await) });
    (sender, task)
}

fn request(path: &str) -> http::Request<Body> {
    http::Request::get(format!("http://localhost{path}")).body(Body::empty()).unwrap()
}

async fn get2(sender: &mut Http2, path: &str) -> Result<(StatusCode, Bytes), hyper::Error> {
    soon(async {
        let response = sender.send_request(request(path)).await?;
        let status = response.status();
        Ok((status, response.into_body().collect().await?.to_bytes()))
    })
    .await
}

// ---- deadlines

#[tokio::test]
async fn a_silent_connection_is_closed() {
    let gateway = Gateway::start(Limits { first_byte: SHORT, ..PATIENT }).await;
    assert_eq!(gateway.connect().await.rest().await, "");
    gateway.stop().await;
}

#[tokio::test]
async fn dripping_headers_end_the_connection_and_leave_others_alone() {
    let gateway = Gateway::start(Limits { header: SHORT, ..PATIENT }).await;
    for begin in ["", "GET / HTTP/1.1\r\nHost: localhost\r\n", "PRI * HTTP/2.0\r\n"] {
        let mut dripper = gateway.connect().await;
        let drip = async {
            dripper.send(begin).await;
            while dripper.0.write_all(b"x").await.is_ok() {
                sleep(SHORT / 10).await;
            }
        };
        soon(drip).await;
        assert!(gateway.connect().await.get("/").await.starts_with("http/1.1 200"), "{begin:?}");
    }
    gateway.stop().await;
}

#[tokio::test]
async fn dripping_headers_of_a_second_request_end_the_connection() {
    let gateway = Gateway::start(Limits { header: SHORT, ..PATIENT }).await;
    let mut caller = gateway.connect().await;
    caller.get("/").await;
    let drip = async {
        while caller.0.write_all(b"x").await.is_ok() {
            sleep(SHORT / 10).await;
        }
    };
    soon(drip).await;
    gateway.stop().await;
}

#[tokio::test]
async fn an_idle_connection_is_closed() {
    let gateway = Gateway::start(Limits { idle: SHORT, ..PATIENT }).await;
    let mut caller = gateway.connect().await;
    assert!(caller.get("/").await.ends_with("hello"));
    assert_eq!(caller.rest().await, "");
    gateway.stop().await;
}

#[tokio::test]
async fn a_connection_may_rest_longer_than_headers_may_take() {
    let gateway = Gateway::start(Limits { first_byte: SHORT, header: SHORT, ..PATIENT }).await;
    let mut caller = gateway.connect().await;
    for _ in 0..3 {
        assert!(caller.get("/").await.ends_with("hello"));
        sleep(SHORT * 2).await;
    }
    gateway.stop().await;
}

#[tokio::test]
async fn an_event_stream_outlives_every_deadline() {
    let limits = Limits { first_byte: SHORT, header: SHORT, idle: SHORT, write: SHORT, ..PATIENT };
    let gateway = Gateway::start(limits).await;
    let mut caller = gateway.connect().await;
    caller.send("GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    let events = caller.rest().await;
    assert!(events.contains("data: 11"), "{events}");
    assert!(events.ends_with("0\r\n\r\n"), "{events}");

    let (mut sender, _connection) = http2(&gateway).await;
    let (_, events) = get2(&mut sender, "/events").await.unwrap();
    assert!(events.ends_with(b"data: 11\n\n"), "{events:?}");
    gateway.stop().await;
}

#[tokio::test]
async fn a_slow_reader_is_cut() {
    let gateway = Gateway::start(Limits { write: SHORT, ..PATIENT }).await;
    let mut caller = gateway.connect().await;
    caller.send("GET /endless HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    soon(gateway.signals.dropped.notified()).await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_reader_that_takes_its_time_but_goes_on_gets_everything() {
    let gateway = Gateway::start(Limits { write: SHORT * 3, idle: SHORT, ..PATIENT }).await;
    let mut caller = gateway.connect().await;
    caller.send("GET /large HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await;
    let mut received = 0;
    let mut buffer = vec![0; 4 << 20];
    loop {
        let length = soon(caller.0.read(&mut buffer)).await.unwrap();
        if length == 0 {
            break;
        }
        received += length;
        sleep(SHORT / 10).await;
    }
    assert!(received > 32 << 20, "{received}");
    gateway.stop().await;
}

// ---- framing

#[tokio::test]
async fn doubtful_framing_is_refused_and_ends_the_connection() {
    let gateway = Gateway::start(PATIENT).await;
    let rows = [
        ("length, then encoding", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        ("encoding, then length", "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n"),
        ("two lengths that differ", "Content-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
        ("two lengths that agree", "Content-Length: 1\r\nContent-Length: 1\r\n\r\na"),
        ("a list of lengths", "Content-Length: 1, 1\r\n\r\na"),
        ("a signed length", "Content-Length: +1\r\n\r\na"),
        ("a negative length", "Content-Length: -1\r\n\r\n"),
        ("a length in hex", "Content-Length: 0x1\r\n\r\na"),
        ("a length beyond all numbers", "Content-Length: 99999999999999999999\r\n\r\n"),
        ("an encoding that does not delimit", "Transfer-Encoding: gzip\r\n\r\n"),
        ("an encoding beside chunked", "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
        ("an encoding after chunked", "Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n"),
        ("chunked twice", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        ("an encoding with a vertical tab", "Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n"),
        ("a space before the colon", "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n"),
        ("a bare line feed", "X-A: b\nContent-Length: 0\r\n\r\n"),
        ("a bare line feed at the end", "Content-Length: 0\r\n\n"),
        ("a bare carriage return", "X-A: b\rContent-Length: 0\r\n\r\n"),
        ("a folded line", "X-A: b\r\n c\r\nContent-Length: 0\r\n\r\n"),
        ("a folded first line", " X-A: b\r\nContent-Length: 0\r\n\r\n"),
        ("a NUL", "X-A: b\0c\r\nContent-Length: 0\r\n\r\n"),
        ("a line without colon", "X-A\r\nContent-Length: 0\r\n\r\n"),
        ("a nameless line", ": a\r\nContent-Length: 0\r\n\r\n"),
        ("a chunk size that is none", "Transfer-Encoding: chunked\r\n\r\nx\r\nabc\r\n0\r\n\r\n"),
        ("a signed chunk size", "Transfer-Encoding: chunked\r\n\r\n+3\r\nabc\r\n0\r\n\r\n"),
        ("a chunk size in 0x notation", "Transfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n"),
        ("a chunk size beyond all numbers", "Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\na\r\n0\r\n\r\n"),
        ("a chunk longer than announced", "Transfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n"),
        ("a chunk size after a bare line feed", "Transfer-Encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n"),
    ];
    for (name, head) in rows {
        let mut caller = gateway.connect().await;
        caller.send(format!("POST /echo HTTP/1.1\r\nHost: localhost\r\n{head}")).await;
        let reply = caller.rest().await;
        assert!(reply.starts_with("HTTP/1.1 400 "), "{name}: {reply}");
        assert_eq!(reply.matches("HTTP/1.1").count(), 1, "{name}: {reply}");
    }
    for (name, request) in [
        ("an encoding in HTTP/1.0", "POST /echo HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        ("a bare line feed after the request line", "GET / HTTP/1.1\nHost: localhost\r\n\r\n"),
        ("no version", "GET /\r\n\r\n"),
        ("an unknown version", "GET / HTTP/1.2\r\n\r\n"),
        ("a second space", "GET  / HTTP/1.1\r\n\r\n"),
        ("not HTTP", "\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n"),
    ] {
        let mut caller = gateway.connect().await;
        caller.send(request).await;
        let reply = caller.rest().await;
        assert!(reply.starts_with("HTTP/1.1 400 ") || reply.starts_with("HTTP/1.0 400 "), "{name}: {reply}");
    }
    gateway.stop().await;
}

#[tokio::test]
async fn oversized_headers_are_refused() {
    let gateway = Gateway::start(PATIENT).await;
    let long = format!("GET / HTTP/1.1\r\nHost: localhost\r\nX-Long: {}\r\n\r\n", "a".repeat(100_000));
    let many = format!("GET / HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "X-Many: a\r\n".repeat(200));
    for request in [long, many] {
        let mut caller = gateway.connect().await;
        caller.send(request).await;
        let reply = caller.rest().await;
        assert!(reply.starts_with("HTTP/1.1 431 "), "{reply}");
    }
    gateway.stop().await;
}

#[tokio::test]
async fn what_follows_an_unanswered_request_is_never_served() {
    let gateway = Gateway::start(PATIENT).await;
    let second = "GET /peer HTTP/1.1\r\nHost: localhost\r\n\r\n";
    for (name, first) in [
        ("no body", "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        ("a length", "POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello"),
        (
            "chunks",
            "POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        ),
    ] {
        let mut caller = gateway.connect().await;
        caller.send(format!("{first}{second}")).await;
        let reply = caller.reply().await;
        assert!(reply.starts_with("http/1.1 200 ") && reply.ends_with("hello"), "{name}: {reply}");
        let rest = caller.rest().await;
        assert!(rest.starts_with("HTTP/1.1 400 ") && rest.contains("bad_framing"), "{name}: {rest}");
    }
    gateway.stop().await;
}

#[tokio::test]
async fn a_body_that_was_not_read_is_not_taken_for_a_request() {
    let gateway = Gateway::start(PATIENT).await;
    let smuggled = "GET /peer HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let head = format!("POST /refuse HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", smuggled.len());
    let mut caller = gateway.connect().await;
    caller.send(head).await;
    caller.send(smuggled).await;
    let rest = caller.rest().await;
    assert!(rest.starts_with("HTTP/1.1 403 ") && rest.contains("connection: close"), "{rest}");
    assert_eq!(rest.matches("HTTP/1.1").count(), 1, "{rest}");
    gateway.stop().await;
}

#[tokio::test]
async fn bodies_of_either_framing_keep_the_connection_alive() {
    let gateway = Gateway::start(PATIENT).await;
    let mut caller = gateway.connect().await;
    for _ in 0..3 {
        caller.send("POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n").await;
        sleep(SHORT / 10).await;
        caller.send("hello").await;
        assert!(caller.reply().await.ends_with("hello"));
        caller.send("POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n").await;
        sleep(SHORT / 10).await;
        caller.send("3;x=y\r\nllo\r\n0\r\nX-Trailer: a\r\n\r\n").await;
        assert!(caller.reply().await.ends_with("hello"));
        caller.send("POST /refuse HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n").await;
        assert!(caller.reply().await.starts_with("http/1.1 403"));
        caller.send("\r\nHEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        let mut head = vec![0; 15];
        soon(caller.0.read_exact(&mut head)).await.unwrap();
        assert_eq!(head, b"HTTP/1.1 200 OK");
        while !head.ends_with(b"\r\n\r\n") {
            head.push(soon(caller.0.read_u8()).await.unwrap());
        }
    }
    gateway.stop().await;
}

#[tokio::test]
async fn a_refused_upload_reads_its_refusal_and_not_a_reset() {
    let gateway = Gateway::start(PATIENT).await;
    for _ in 0..10 {
        let mut caller = gateway.connect().await;
        caller.send(format!("POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", 5 << 20)).await;
        caller.send(vec![b'x'; 5 << 20]).await;
        let reply = caller.rest().await;
        assert!(reply.starts_with("HTTP/1.1 413 ") && reply.contains("connection: close"), "{reply}");
    }
    gateway.stop().await;
}

// ---- HTTP/2

#[tokio::test]
async fn http2_is_served_by_prior_knowledge() {
    let gateway = Gateway::start(PATIENT).await;
    let (sender, _connection) = http2(&gateway).await;
    let mut calls = JoinSet::new();
    for _ in 0..50 {
        let mut sender = sender.clone();
        calls.spawn(async move {
            let body = Body::from("x".repeat(100_000));
            let request = http::Request::post("http://localhost/echo").body(body).unwrap();
            let response = sender.send_request(request).await.unwrap();
            (response.version(), response.into_body().collect().await.unwrap().to_bytes().len())
        });
    }
    for call in soon(calls.join_all()).await {
        assert_eq!(call, (http::Version::HTTP_2, 100_000));
    }
    let (_, large) = get2(&mut sender.clone(), "/large").await.unwrap();
    assert_eq!(large.len(), 32 << 20);
    gateway.stop().await;
}

#[tokio::test]
async fn an_http2_connection_without_streams_is_closed() {
    let gateway = Gateway::start(Limits { idle: SHORT, ..PATIENT }).await;
    let (_unused, mut connection) = http2(&gateway).await;
    soon(connection.join_next()).await;
    let (mut sender, mut connection) = http2(&gateway).await;
    assert_eq!(get2(&mut sender, "/").await.unwrap().1, "hello");
    soon(connection.join_next()).await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_stalled_http2_stream_is_reset_and_its_neighbours_go_on() {
    let gateway = Gateway::start(Limits { write: SHORT, ..PATIENT }).await;
    let (mut sender, _connection) = http2(&gateway).await;
    for path in ["/endless", "/large"] {
        let stalled = soon(sender.send_request(request(path))).await.unwrap();
        // Its window is full after the first bytes; nobody reads them.
        sleep(SHORT * 4).await;
        assert_eq!(get2(&mut sender, "/").await.unwrap().1, "hello", "{path}");
        let read = soon(stalled.into_body().collect()).await;
        assert!(read.is_err(), "{path}");
    }
    soon(gateway.signals.dropped.notified()).await;
    gateway.stop().await;
}

#[tokio::test]
async fn an_http2_stream_that_the_caller_gives_up_cancels_its_request() {
    let gateway = Gateway::start(PATIENT).await;
    let (mut sender, _connection) = http2(&gateway).await;
    let mut calls = JoinSet::new();
    let call = sender.send_request(request("/wait"));
    calls.spawn(async { drop(call.await) });
    soon(gateway.signals.entered.notified()).await;
    calls.shutdown().await;
    soon(gateway.signals.dropped.notified()).await;
    gateway.stop().await;
}

// Frame types, a flag and error codes of RFC 9113 §6 and §7.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;
const PROTOCOL_ERROR: u32 = 1;
const CANCEL: u32 = 8;
const ENHANCE_YOUR_CALM: u32 = 11;

/// One HTTP/2 frame (RFC 9113 §4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The error code of the last GOAWAY among these frames.
fn go_away(mut frames: &[u8]) -> Option<u32> {
    let mut reason = None;
    while let Some((head, rest)) = frames.split_at_checked(9) {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let (payload, rest) = rest.split_at_checked(length as usize)?;
        if head[3] == GOAWAY {
            reason = Some(u32::from_be_bytes(payload[4..8].try_into().unwrap()));
        }
        frames = rest;
    }
    reason
}

#[tokio::test]
async fn floods_of_http2_frames_end_their_connection_and_no_other() {
    // GET http://localhost/wait, in HPACK.
    let get = [&[0x82, 0x86, 0x41, 9], b"localhost".as_slice(), &[0x44, 5], b"/wait"].concat();
    let streams = || (0..2_000).map(|number| 2 * number + 1);
    let rapid_reset = streams().flat_map(|stream| {
        [frame(HEADERS, END_HEADERS, stream, &get), frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes())].concat()
    });
    // Wrong on purpose, so that we are the one who resets (MadeYouReset): no window update of zero is allowed.
    let made_you_reset = streams().flat_map(|stream| {
        [frame(HEADERS, END_HEADERS, stream, &get), frame(WINDOW_UPDATE, 0, stream, &0_u32.to_be_bytes())].concat()
    });
    let endless_head = (0..20_000).flat_map(|number| match number {
        0 => frame(HEADERS, 0, 1, &get),
        _ => frame(CONTINUATION, 0, 1, b"\x40\x01a\x01b"),
    });
    let empty_data = (0..200_000).flat_map(|number| match number {
        0 => frame(HEADERS, END_HEADERS, 1, &get),
        _ => frame(DATA, 0, 1, b""),
    });
    let floods: [(&str, Vec<u8>, u32); 4] = [
        ("rapid reset", rapid_reset.collect(), ENHANCE_YOUR_CALM),
        ("made you reset", made_you_reset.collect(), PROTOCOL_ERROR),
        ("endless head", endless_head.collect(), ENHANCE_YOUR_CALM),
        ("empty data", empty_data.collect(), ENHANCE_YOUR_CALM),
    ];
    let gateway = Gateway::start(PATIENT).await;
    for (name, flood, reason) in floods {
        let (mut reader, mut writer) = TcpStream::connect(gateway.address).await.unwrap().into_split();
        let mut reply = Vec::new();
        let write = async {
            let preface = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(SETTINGS, 0, 0, &[])].concat();
            writer.write_all(&preface).await.unwrap();
            let _ended_early = writer.write_all(&flood).await;
        };
        let _closed_or_reset = soon(async { tokio::join!(write, reader.read_to_end(&mut reply)).1 }).await;
        // The reason may be lost where the flood met a closed socket; the end of the connection is not.
        assert!(go_away(&reply).is_none_or(|told| told == reason), "{name}: {:?}", go_away(&reply));
        assert!(gateway.connect().await.get("/").await.ends_with("hello"), "{name}");
    }
    gateway.stop().await;
}

// ---- connections at once

#[tokio::test]
async fn connections_beyond_the_cap_are_refused_until_one_ends() {
    let gateway = Gateway::start(Limits { max_connections: 1, ..PATIENT }).await;
    let mut first = gateway.connect().await;
    first.send("GET /wait HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await;
    soon(gateway.signals.entered.notified()).await;
    let refused = gateway.connect().await.rest().await;
    assert!(refused.starts_with("HTTP/1.1 503 "), "{refused}");
    gateway.signals.release.notify_one();
    assert!(first.reply().await.ends_with("released"));
    drop(first);
    let served = async {
        loop {
            let mut caller = gateway.connect().await;
            let sent = caller.0.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await;
            if sent.is_ok() && caller.rest().await.ends_with("hello") {
                return;
            }
        }
    };
    soon(served).await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_connection_that_rests_gives_its_slot_to_a_new_one() {
    let gateway = Gateway::start(Limits { max_connections: 2, ..PATIENT }).await;
    let mut rests = gateway.connect().await;
    rests.get("/").await;
    let mut new = gateway.connect().await;
    assert_eq!(rests.rest().await, "");
    assert!(new.get("/").await.ends_with("hello"));
    gateway.stop().await;
}

// ---- shutdown

#[tokio::test]
async fn draining_lets_a_request_finish_and_closes_what_rests() {
    let gateway = Gateway::start(PATIENT).await;
    let mut rests = gateway.connect().await;
    rests.get("/").await;
    let mut silent = gateway.connect().await;
    let (mut rests2, mut resting2) = http2(&gateway).await;
    get2(&mut rests2, "/").await.unwrap();
    let mut runs = gateway.connect().await;
    runs.send("GET /wait HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    soon(gateway.signals.entered.notified()).await;
    let (mut runs2, _running2) = http2(&gateway).await;
    let second = runs2.send_request(request("/wait"));
    let mut second_task = JoinSet::new();
    second_task.spawn(async { second.await.unwrap().into_body().collect().await.unwrap().to_bytes() });
    soon(gateway.signals.entered.notified()).await;

    gateway.shutdown.cancel();
    assert_eq!(rests.rest().await, "");
    assert_eq!(silent.rest().await, "");
    soon(resting2.join_next()).await;
    assert!(TcpStream::connect(gateway.address).await.is_err(), "nothing listens any more");

    gateway.signals.release.notify_waiters();
    let reply = runs.reply().await;
    assert!(reply.contains("connection: close") && reply.ends_with("released"), "{reply}");
    assert_eq!(soon(second_task.join_next()).await.unwrap().unwrap(), "released");
    gateway.stop().await;
}

#[tokio::test]
async fn a_request_that_never_ends_is_cut_after_the_drain_timeout() {
    let gateway = Gateway::start(Limits { drain: SHORT, ..PATIENT }).await;
    let mut caller = gateway.connect().await;
    caller.send("GET /wait HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    soon(gateway.signals.entered.notified()).await;
    let (mut sender, mut connection) = http2(&gateway).await;
    let mut call = JoinSet::new();
    let waiting = sender.send_request(request("/wait"));
    call.spawn(async { assert!(waiting.await.is_err()) });
    soon(gateway.signals.entered.notified()).await;
    let dropped = Arc::clone(&gateway.signals.dropped);
    gateway.stop().await;
    soon(dropped.notified()).await;
    assert_eq!(caller.rest().await, "");
    soon(call.join_next()).await.unwrap().unwrap();
    soon(connection.join_next()).await;
}

#[tokio::test]
async fn dropping_the_server_cuts_everything() {
    let mut gateway = Gateway::start(PATIENT).await;
    let mut caller = gateway.connect().await;
    caller.send("GET /wait HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    soon(gateway.signals.entered.notified()).await;
    gateway.served.shutdown().await;
    soon(gateway.signals.dropped.notified()).await;
    assert_eq!(caller.rest().await, "");
}

#[tokio::test]
async fn a_caller_that_leaves_cancels_its_request() {
    let gateway = Gateway::start(PATIENT).await;
    let mut caller = gateway.connect().await;
    caller.send("GET /wait HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    soon(gateway.signals.entered.notified()).await;
    drop(caller);
    soon(gateway.signals.dropped.notified()).await;
    gateway.stop().await;
}

// ---- faults and peers

#[tokio::test]
async fn a_panic_is_a_500_and_the_connection_goes_on() {
    let gateway = Gateway::start(PATIENT).await;
    let mut caller = gateway.connect().await;
    let reply = caller.get("/panic").await;
    assert!(reply.starts_with("http/1.1 500") && reply.contains(r#""error":"internal""#), "{reply}");
    assert!(caller.get("/").await.ends_with("hello"));

    let (mut sender, _connection) = http2(&gateway).await;
    assert_eq!(get2(&mut sender, "/panic").await.unwrap().0, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(get2(&mut sender, "/panic-late").await.is_err());
    assert_eq!(get2(&mut sender, "/").await.unwrap().1, "hello");

    caller.send("GET /panic-late HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    let cut = caller.rest().await;
    assert!(!cut.ends_with("0\r\n\r\n"), "a broken body does not look whole: {cut}");
    assert!(gateway.connect().await.get("/").await.ends_with("hello"));
    gateway.stop().await;
}

#[tokio::test]
async fn a_request_knows_its_peer() {
    let gateway = Gateway::start(PATIENT).await;
    let mut caller = gateway.connect().await;
    let address = caller.0.local_addr().unwrap();
    assert!(caller.get("/peer").await.ends_with(&format!("Tcp({address})")));
    gateway.stop().await;

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    let socket = Socket::Unix(UnixListener::bind(&path).unwrap());
    let shutdown = CancellationToken::new();
    let mut served = JoinSet::new();
    served.spawn(serve(socket, router(Signals::default()), PATIENT, Arc::default(), shutdown.clone()));
    let mut caller = Caller(UnixStream::connect(&path).await.unwrap());
    let (uid, pid) = (rustix::process::getuid().as_raw(), std::process::id());
    let reply = caller.get("/peer").await;
    assert!(reply.ends_with(&format!("Unix {{ uid: {uid}, pid: Some({pid}) }}")), "{reply}");
    shutdown.cancel();
    soon(served.join_next()).await.unwrap().unwrap();
}
