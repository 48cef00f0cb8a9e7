//! An upstream whose lists are defined, and whose requests are answered, with texts of the test's choice, and that keeps
//! what it was asked.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// What an upstream speaks, and how its answers travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Manner {
    /// 2025-11-25, answers are JSON.
    #[default]
    Legacy,
    /// 2025-11-25, answers are event streams.
    LegacyEvents,
    /// 2026-07-28, answers are JSON.
    Modern,
    /// 2026-07-28, answers are event streams.
    ModernEvents,
}

impl Manner {
    pub(crate) fn is_modern(self) -> bool {
        matches!(self, Self::Modern | Self::ModernEvents)
    }

    fn has_events(self) -> bool {
        matches!(self, Self::LegacyEvents | Self::ModernEvents)
    }
}

/// What an upstream offers. Items are JSON texts; a list that is empty is not declared.
#[derive(Clone, Debug, Default)]
pub(crate) struct Offer {
    pub(crate) tools: Vec<String>,
    pub(crate) prompts: Vec<String>,
    pub(crate) resources: Vec<String>,
    pub(crate) templates: Vec<String>,
    /// Further capabilities, as members of the object.
    pub(crate) capabilities: Vec<String>,
    pub(crate) instructions: Option<String>,
}

/// A request as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) method: String,
    /// JSON text.
    pub(crate) params: String,
    pub(crate) headers: HeaderMap,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

/// Ends when it is dropped.
pub(crate) struct Scripted {
    pub(crate) url: String,
    script: Arc<Script>,
    _serving: JoinSet<()>,
}

struct Script {
    manner: Manner,
    offer: Mutex<Offer>,
    /// By method, the member of the response: `"result":{…}` or `"error":{…}`.
    answers: Mutex<BTreeMap<String, String>>,
    /// By method, a message that comes before.
    before: Mutex<BTreeMap<String, String>>,
    /// By method, where it is not 200.
    statuses: Mutex<BTreeMap<String, u16>>,
    asked: Mutex<Vec<Asked>>,
    /// Part of the ids of its sessions.
    life: AtomicUsize,
}

impl Scripted {
    /// With tools only. `definitions` is the JSON text of each.
    pub(crate) async fn start(definitions: &[&str]) -> Self {
        let tools = definitions.iter().map(|definition| (*definition).to_owned()).collect();
        Self::with(Manner::Legacy, Offer { tools, ..Offer::default() }).await
    }

    pub(crate) async fn with(manner: Manner, offer: Offer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/mcp", listener.local_addr().unwrap());
        let script = Script {
            manner,
            offer: Mutex::new(offer),
            answers: Mutex::default(),
            before: Mutex::default(),
            statuses: Mutex::default(),
            asked: Mutex::default(),
            life: AtomicUsize::new(0),
        };
        let script = Arc::new(script);
        let mut serving = JoinSet::new();
        serving.spawn(accept(listener, script.clone()));
        Self { url, script, _serving: serving }
    }

    /// From now on calls are answered like this.
    pub(crate) fn answer(&self, member: &str) {
        self.answer_to("tools/call", member);
    }

    /// From now on requests of this method are answered like this, also those that have an answer of their own.
    pub(crate) fn answer_to(&self, method: &str, member: &str) {
        self.script.answers.lock().unwrap().insert(method.to_owned(), member.to_owned());
    }

    /// From now on it offers this.
    pub(crate) fn offer(&self, offer: Offer) {
        *self.script.offer.lock().unwrap() = offer;
    }

    /// From now on this message comes before the answer to requests of this method, where answers are event streams;
    /// `$TOKEN` in it is the progress token of the request.
    pub(crate) fn say_before(&self, method: &str, message: &str) {
        self.script.before.lock().unwrap().insert(method.to_owned(), message.to_owned());
    }

    /// From now on requests of this method are answered with this HTTP status.
    pub(crate) fn refuse_with_status(&self, method: &str, status: u16) {
        self.script.statuses.lock().unwrap().insert(method.to_owned(), status);
    }

    pub(crate) fn offered(&self) -> Offer {
        self.script.offer.lock().unwrap().clone()
    }

    /// From now on it knows no session that was opened before.
    pub(crate) fn forget_sessions(&self) {
        self.script.life.fetch_add(1, Ordering::SeqCst);
    }

    /// The requests of this method so far.
    pub(crate) fn asked(&self, method: &str) -> Vec<Asked> {
        self.script.asked.lock().unwrap().iter().filter(|asked| asked.method == method).cloned().collect()
    }

    /// The last request of this method.
    pub(crate) fn last(&self, method: &str) -> Asked {
        self.asked(method).pop().unwrap_or_else(|| panic!("nobody has asked for {method}"))
    }
}

impl Offer {
    fn capabilities(&self) -> String {
        let lists = [
            ("tools", !self.tools.is_empty()),
            ("prompts", !self.prompts.is_empty()),
            ("resources", !self.resources.is_empty() || !self.templates.is_empty()),
        ];
        let lists = lists.iter().filter(|(_, is_there)| *is_there).map(|(name, _)| format!(r#""{name}":{{}}"#));
        let all: Vec<String> = lists.chain(self.capabilities.iter().cloned()).collect();
        format!("{{{}}}", all.join(","))
    }

    /// The members of a result, without those of its revision.
    fn result(&self, method: &str, is_modern: bool) -> Option<String> {
        let list = |name: &str, items: &[String]| format!(r#""{name}":[{}]"#, items.join(","));
        let instructions = || {
            let text = self.instructions.as_ref();
            text.map(|text| format!(r#","instructions":{}"#, serde_json::json!(text))).unwrap_or_default()
        };
        Some(match (method, is_modern) {
            ("initialize", false) => format!(
                r#""protocolVersion":"2025-11-25","capabilities":{},"serverInfo":{{"name":"scripted","version":"1"}}{}"#,
                self.capabilities(),
                instructions()
            ),
            ("server/discover", true) => format!(
                r#""supportedVersions":["2026-07-28"],"capabilities":{}{}"#,
                self.capabilities(),
                instructions()
            ),
            ("tools/list", _) => list("tools", &self.tools),
            ("prompts/list", _) => list("prompts", &self.prompts),
            ("resources/list", _) => list("resources", &self.resources),
            ("resources/templates/list", _) => list("resourceTemplates", &self.templates),
            _ => return None,
        })
    }
}

impl Script {
    /// The member of the response.
    fn respond(&self, method: &str) -> String {
        if let Some(answer) = self.answers.lock().unwrap().get(method) {
            return answer.clone();
        }
        let is_modern = self.manner.is_modern();
        let suits_era = match method {
            "initialize" => !is_modern,
            "server/discover" => is_modern,
            _ => true,
        };
        match self.offer.lock().unwrap().result(method, is_modern) {
            Some(members) if is_modern => {
                format!(r#""result":{{"resultType":"complete",{members},"ttlMs":0,"cacheScope":"public"}}"#)
            }
            Some(members) => format!(r#""result":{{{members}}}"#),
            None if !suits_era => r#""error":{"code":-32601,"message":"Method not found"}"#.to_owned(),
            None if is_modern => r#""result":{"resultType":"complete","content":[]}"#.to_owned(),
            None => r#""result":{"content":[]}"#.to_owned(),
        }
    }
}

async fn accept(listener: TcpListener, script: Arc<Script>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let script = script.clone();
        connections.spawn(async move {
            let service = service_fn(|request| answer(&script, request));
            // A connection that ends early has nothing more to tell.
            _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// Between a question and the answer that does not wait for its reply.
const PAUSE: Duration = Duration::from_millis(100);

type Body = BoxBody<Bytes, Infallible>;

fn whole(text: String) -> Body {
    Full::new(Bytes::from(text)).boxed()
}

/// Events of their own, in their time.
fn events(before: Option<String>, last: &str) -> Body {
    let event = |message: &str| Bytes::from(format!("data: {message}\n\n"));
    let is_question = before.as_ref().is_some_and(|message| message.contains(r#""id":"#));
    let pieces = before.map(|message| (Duration::ZERO, event(&message))).into_iter();
    let pause = if is_question { PAUSE } else { Duration::ZERO };
    let pieces: Vec<(Duration, Bytes)> = pieces.chain([(pause, event(last))]).collect();
    let frames = futures_util::stream::unfold(pieces.into_iter(), |mut pieces| async {
        let (pause, piece) = pieces.next()?;
        tokio::time::sleep(pause).await;
        Some((Ok(Frame::data(piece)), pieces))
    });
    StreamBody::new(frames).boxed()
}

async fn answer(script: &Script, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    #[derive(Deserialize)]
    struct Message<'a> {
        #[serde(borrow)]
        id: Option<&'a RawValue>,
        #[serde(default)]
        method: String,
        #[serde(borrow)]
        params: Option<&'a RawValue>,
    }
    let empty = |status| Ok(Response::builder().status(status).body(whole(String::new())).unwrap());
    if request.method() != Method::POST {
        return empty(StatusCode::METHOD_NOT_ALLOWED);
    }
    let headers = request.headers().clone();
    let session = format!("life-{}", script.life.load(Ordering::SeqCst));
    if headers.get("mcp-session-id").is_some_and(|named| *named != session.as_str()) {
        return empty(StatusCode::NOT_FOUND);
    }
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let message: Option<Message<'_>> = serde_json::from_slice(&body).ok();
    let Some(Message { id: Some(id), method, params }) = message else { return empty(StatusCode::ACCEPTED) };
    let params = params.map_or("{}", RawValue::get).to_owned();
    let read: serde_json::Value = serde_json::from_str(&params).unwrap_or_default();
    let token = read["_meta"]["progressToken"].to_string();
    script.asked.lock().unwrap().push(Asked { method: method.clone(), params, headers });
    let text = format!(r#"{{"jsonrpc":"2.0","id":{id},{}}}"#, script.respond(&method));
    let (kind, body) = match script.manner.has_events() {
        true => {
            let before = script.before.lock().unwrap().get(&method).cloned();
            let before = before.map(|message| message.replace("$TOKEN", &token));
            ("text/event-stream", events(before, &text))
        }
        false => ("application/json", whole(text)),
    };
    let status = script.statuses.lock().unwrap().get(&method).copied().unwrap_or(200);
    let mut response = Response::builder().status(status).header(CONTENT_TYPE, kind);
    if method == "initialize" {
        response = response.header("mcp-session-id", session);
    }
    Ok(response.body(body).unwrap())
}
