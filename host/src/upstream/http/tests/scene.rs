//! An upstream that answers as a test tells it to, on a loopback port, and the link to it.

use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderName, Method, Request, Response};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::config::Protocol;
use crate::connection::extra::Extra;
use crate::ids::{KeyName, Principal, UpstreamName};
use crate::mcp::call::{Outcome, Params};
use crate::mcp::client::Client;
use crate::mcp::json::{Members, raw};
use crate::mcp::message::RequestId;
use crate::mcp::talk::{Event, LogLevel, Notice, Party, Via};
use crate::outbound::Outbound;
use crate::secret::Plaintext;
use crate::tasks::Tasks;
use crate::upstream::credential::Own;
use crate::upstream::deadline::Deadline;
use crate::upstream::http::{Endpoint, HttpLink, Shared};
use crate::upstream::{Exchange, LinkLimits, Signals, UpstreamError};

pub(super) const MODERN: &str = "2026-07-28";
/// What only a broken test waits for.
pub(super) const LONG: Duration = Duration::from_secs(10);
pub(super) const SHORT: Duration = Duration::from_millis(150);

/// A request as the upstream saw it.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) headers: HeaderMap,
    /// `null` if there was none.
    pub(super) body: Value,
}

impl Seen {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// What it is: the message's method, `response`, or the HTTP method.
    pub(super) fn kind(&self) -> String {
        match (&self.body["method"], &self.body["id"]) {
            (Value::String(method), _) => method.clone(),
            (_, Value::Null) => self.method.to_string(),
            _ => "response".to_owned(),
        }
    }

    pub(super) fn is(&self, kind: &str) -> bool {
        self.kind() == kind
    }

    /// A JSON-RPC result for it.
    pub(super) fn result(&self, result: &Value) -> Reply {
        Reply::json(200, &self.result_text(result))
    }

    pub(super) fn result_text(&self, result: &Value) -> Value {
        json!({"jsonrpc": "2.0", "id": self.body["id"], "result": result})
    }

    /// A JSON-RPC error for it.
    pub(super) fn error(&self, status: u16, code: i64) -> Reply {
        let error = json!({"code": code, "message": "no", "data": {"supported": [MODERN]}});
        Reply::json(status, &json!({"jsonrpc": "2.0", "id": self.body["id"], "error": error}))
    }
}

/// What the upstream answers.
pub(super) struct Reply {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: ReplyBody,
}

enum ReplyBody {
    /// Not even a head.
    Never,
    Text(String),
    Stream(mpsc::Receiver<String>),
}

impl Reply {
    pub(super) fn json(status: u16, body: &Value) -> Self {
        Self::text(status, "application/json", body.to_string())
    }

    pub(super) fn text(status: u16, content_type: &str, body: impl Into<String>) -> Self {
        let headers = vec![("content-type", content_type.to_owned())];
        Self { status, headers, body: ReplyBody::Text(body.into()) }
    }

    pub(super) fn status(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: ReplyBody::Text(String::new()) }
    }

    pub(super) fn never() -> Self {
        Self { status: 0, headers: Vec::new(), body: ReplyBody::Never }
    }

    /// A stream of events and the hand that writes it.
    pub(super) fn stream() -> (Self, Pen) {
        let (pen, text) = mpsc::channel(64);
        let headers = vec![("content-type", "text/event-stream".to_owned())];
        (Self { status: 200, headers, body: ReplyBody::Stream(text) }, Pen(pen))
    }

    /// A stream that says these and ends.
    pub(super) fn events(events: &[String]) -> Self {
        Self::text(200, "text/event-stream", events.concat())
    }

    pub(super) fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }
}

/// Writes a stream of events. Dropping it ends the stream.
#[derive(Clone)]
pub(super) struct Pen(mpsc::Sender<String>);

impl Pen {
    pub(super) fn message(&self, message: &Value) {
        self.text(event(message));
    }

    pub(super) fn text(&self, text: impl Into<String>) {
        self.0.try_send(text.into()).unwrap();
    }

    pub(super) async fn is_closed(&self) {
        tokio::time::timeout(LONG, self.0.closed()).await.expect("the stream is still read");
    }
}

pub(super) fn event(message: &Value) -> String {
    crate::mcp::sse::event(&message.to_string())
}

/// The result of `initialize`.
pub(super) fn initialized() -> Value {
    let capabilities = json!({
        "tools": {"listChanged": true}, "resources": {"subscribe": true}, "logging": {}
    });
    json!({"protocolVersion": "2025-11-25", "capabilities": capabilities, "serverInfo": {"name": "script", "version": "1"}})
}

/// The result of `server/discover`.
pub(super) fn discovered() -> Value {
    json!({
        "resultType": "complete", "supportedVersions": [MODERN],
        "capabilities": {"tools": {"listChanged": true}}, "ttlMs": 0, "cacheScope": "public"
    })
}

type Script = dyn Fn(Seen) -> Reply + Send + Sync;

/// An upstream, the link to it, and what the upstream saw.
pub(super) struct Scene {
    pub(super) link: HttpLink,
    pub(super) signals: Signals,
    pub(super) tasks: Tasks,
    seen: Arc<Mutex<Vec<Seen>>>,
    next_id: AtomicU64,
}

pub(super) const LIMITS: LinkLimits =
    LinkLimits { message_bytes: 64 * 1024, sessions: 100, session_idle: Duration::from_secs(300) };

impl Scene {
    pub(super) async fn new(protocol: Protocol, script: impl Fn(Seen) -> Reply + Send + Sync + 'static) -> Self {
        Self::with_limits(protocol, LIMITS, script).await
    }

    pub(super) async fn with_limits(
        protocol: Protocol,
        limits: LinkLimits,
        script: impl Fn(Seen) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let tasks = Tasks::new();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/mcp", listener.local_addr().unwrap()).parse().unwrap();
        tasks.spawn(serve(listener, seen.clone(), Arc::new(script), tasks.clone()));
        let headers = [("x-configured".to_owned(), Plaintext::new("secret"))].into();
        let signals = Signals::default();
        let name = UpstreamName::parse("up").unwrap();
        let extra = vec![HeaderName::from_static("x-tenant")];
        let endpoint = Endpoint { name, url, protocol, headers, extra };
        let own = Arc::new(Own::nothing());
        let shared = Shared { outbound: Outbound::new(), signals: signals.clone(), own };
        let link = HttpLink::new(endpoint, shared, limits, tasks.clone());
        Self { link, signals, tasks, seen, next_id: AtomicU64::new(1) }
    }

    /// A legacy upstream with sessions `s1`, `s2`, …; `script` answers what is no `initialize`, no notification and no
    /// response.
    pub(super) async fn legacy(script: impl Fn(Seen) -> Reply + Send + Sync + 'static) -> Self {
        Self::new(Protocol::Legacy, legacy_script(script)).await
    }

    /// A modern upstream; `script` answers what is no `server/discover`.
    pub(super) async fn modern(script: impl Fn(Seen) -> Reply + Send + Sync + 'static) -> Self {
        Self::new(Protocol::Auto, move |seen| match seen.is("server/discover") {
            true => seen.result(&discovered()),
            false => script(seen),
        })
        .await
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub(super) fn kinds(&self) -> Vec<String> {
        self.seen().iter().map(Seen::kind).collect()
    }

    pub(super) fn count(&self, kind: &str) -> usize {
        self.seen().iter().filter(|seen| seen.is(kind)).count()
    }

    /// Waits until the upstream has seen `count` of a kind, and gives the last of them.
    pub(super) async fn wait_for(&self, kind: &str, count: usize) -> Seen {
        let waiting = async {
            loop {
                let seen = self.seen().into_iter().filter(|seen| seen.is(kind)).nth(count - 1);
                match seen {
                    Some(seen) => return seen,
                    None => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        };
        let waited = tokio::time::timeout(LONG, waiting).await;
        waited.unwrap_or_else(|_| panic!("no {kind} number {count} among {:?}", self.kinds()))
    }

    pub(super) fn exchange(&self, name: &str, party: &Party) -> Ours {
        let id = RequestId::number(self.next_id.fetch_add(1, Ordering::Relaxed));
        let (events, heard) = mpsc::channel(16);
        let mut members = Members::default();
        members.set("name", raw(format!("\"{name}\"")));
        let params = Params { members, progress_token: Some(raw("\"theirs\"".into())), ..Params::default() };
        let via = Via { party: party.clone(), events, cancelled: CancellationToken::new() };
        let deadline = Deadline::after(LONG, LONG);
        let exchange = Exchange {
            id,
            method: "tools/call",
            name: Some(name.to_owned()),
            headers: Vec::new(),
            params,
            via,
            deadline,
        };
        Ours { exchange, heard }
    }

    /// Makes a call that is told nothing meanwhile.
    pub(super) async fn call(&self, party: &Party) -> Result<Outcome, UpstreamError> {
        self.link.exchange(self.exchange("add", party).exchange).await
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.tasks.stopping().cancel();
    }
}

/// A call and what is heard while it is under way.
pub(super) struct Ours {
    pub(super) exchange: Exchange,
    pub(super) heard: mpsc::Receiver<Event>,
}

pub(super) async fn next(heard: &mut mpsc::Receiver<Event>) -> Event {
    tokio::time::timeout(LONG, heard.recv()).await.expect("nothing was heard").expect("nobody speaks any more")
}

pub(super) async fn next_notice(heard: &mut mpsc::Receiver<Event>) -> Notice {
    match next(heard).await {
        Event::Notice(notice) => notice,
        Event::Ask(ask) => panic!("asked {:?}", ask.question),
    }
}

/// The text of an outcome that is a result.
pub(super) fn text(outcome: Result<Outcome, UpstreamError>) -> String {
    match outcome {
        Ok(Outcome::Result(result)) => result.get().to_owned(),
        other => panic!("{other:?}"),
    }
}

/// A caller whose client answers nothing.
pub(super) fn caller(name: &str) -> Party {
    caller_with(name, "{}")
}

/// A caller whose client answers forms and roots.
pub(super) fn answering(name: &str) -> Party {
    caller_with(name, r#"{"elicitation":{},"roots":{}}"#)
}

fn caller_with(name: &str, capabilities: &str) -> Party {
    let client = Client::new(None, raw(capabilities.into()));
    Party {
        principal: Principal::Key(KeyName::parse(name).unwrap()),
        session: Some(format!("{name}-session").into()),
        client: Arc::new(client),
        log_level: None,
        standing: None,
        lent: None,
        extra: Extra::default(),
        trace: None,
    }
}

pub(super) fn at_level(party: Party, level: LogLevel) -> Party {
    Party { log_level: Some(level), ..party }
}

pub(super) fn legacy_script(
    script: impl Fn(Seen) -> Reply + Send + Sync + 'static,
) -> impl Fn(Seen) -> Reply + Send + Sync + 'static {
    let sessions = AtomicU64::new(0);
    move |seen| match seen.kind().as_str() {
        "initialize" => {
            let number = sessions.fetch_add(1, Ordering::Relaxed) + 1;
            seen.result(&initialized()).header("mcp-session-id", &format!("s{number}"))
        }
        "response" => Reply::status(202),
        "DELETE" => Reply::status(204),
        kind if kind.starts_with("notifications/") => Reply::status(202),
        _ => script(seen),
    }
}

async fn serve(listener: TcpListener, seen: Arc<Mutex<Vec<Seen>>>, script: Arc<Script>, tasks: Tasks) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = tasks.stopping().cancelled() => return,
        };
        let (socket, _) = accepted.unwrap();
        let (seen, script) = (seen.clone(), script.clone());
        let stopping = tasks.stopping().clone();
        tasks.spawn(async move {
            let answer = |request| answer(request, &seen, &script);
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(socket), hyper::service::service_fn(answer));
            tokio::select! {
                // A client that goes away in the middle is part of some tests.
                _ = connection => {}
                () = stopping.cancelled() => {}
            }
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    seen: &Mutex<Vec<Seen>>,
    script: &Arc<Script>,
) -> Result<Response<BoxBody<Bytes, Infallible>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let this = Seen {
        method: head.method,
        path: head.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
        headers: head.headers,
        body: serde_json::from_slice(&body).unwrap_or_default(),
    };
    let reply = script(this.clone());
    seen.lock().unwrap().push(this);
    let body = match reply.body {
        ReplyBody::Never => std::future::pending().await,
        ReplyBody::Text(text) => Full::new(Bytes::from(text)).boxed(),
        ReplyBody::Stream(text) => {
            let frames = stream::unfold(text, |mut text| async move {
                let piece = text.recv().await?;
                Some((Ok(Frame::data(Bytes::from(piece))), text))
            });
            StreamBody::new(frames).boxed()
        }
    };
    let mut response = Response::builder().status(reply.status);
    for (name, value) in reply.headers {
        response = response.header(name, value);
    }
    Ok(response.body(body).unwrap())
}
