//! The upstream of `docs/benchmarks.md`: answers as fast as it can, so that little but the proxies is measured.
//!
//! `bench-upstream ADDRESS` serves both eras (2025-11-25 with sessions, 2026-07-28) at every path. `/all/mcp` lists
//! [`UPSTREAMS`] times [`TOOLS`] tools, every other path [`TOOLS`]. It believes what it is told: no header, session or
//! revision is checked. Its tools:
//!
//! | Tool | Arguments | Answer |
//! |---|---|---|
//! | `blob` | `size` | a text of so many bytes, as JSON |
//! | `blob_sse` | `size` | the same as an event stream |
//! | `progress` | `events`, `interval_ms` | so many notifications, each with the time it was sent, and a word |

#![expect(clippy::disallowed_methods, reason = "its tasks end with the program, and it measures real time")]

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use tokio::net::TcpListener;
use tokio::time::{Interval, MissedTickBehavior, interval};

/// Upstreams that `/all/mcp` is the sum of.
const UPSTREAMS: usize = 20;
/// Tools of one upstream.
const TOOLS: usize = 50;
/// Largest text of a `blob`.
const MAX_BLOB_BYTES: usize = 4 * 1024 * 1024;

static SESSIONS: AtomicU64 = AtomicU64::new(1);
static BLOB: LazyLock<Bytes> = LazyLock::new(|| Bytes::from("portcullis bench ".repeat(MAX_BLOB_BYTES / 17 + 1)));
static FEW_TOOLS: LazyLock<Bytes> = LazyLock::new(|| Bytes::from(list(1)));
static ALL_TOOLS: LazyLock<Bytes> = LazyLock::new(|| Bytes::from(list(UPSTREAMS)));

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Some(address) = std::env::args().nth(1).and_then(|address| address.parse::<SocketAddr>().ok()) else {
        anyhow::bail!("usage: bench-upstream ADDRESS:PORT");
    };
    let listener = TcpListener::bind(address).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            _ = stream.set_nodelay(true);
            // What goes wrong on a connection is the other side's to notice.
            _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer)).await;
        });
    }
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    method: Option<&'a str>,
    #[serde(borrow)]
    params: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Call<'a> {
    name: &'a str,
    #[serde(default)]
    arguments: Arguments,
    #[serde(rename = "_meta", borrow, default)]
    meta: Meta<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Arguments {
    size: usize,
    events: u32,
    interval_ms: u64,
}

#[derive(Default, Deserialize)]
struct Meta<'a> {
    #[serde(rename = "progressToken", borrow)]
    progress_token: Option<&'a RawValue>,
}

async fn answer(request: Request<Incoming>) -> Result<Response<Answer>, Infallible> {
    if request.method() != Method::POST {
        let status =
            if request.method() == Method::DELETE { StatusCode::NO_CONTENT } else { StatusCode::METHOD_NOT_ALLOWED };
        return Ok(empty(status));
    }
    let modern = request.headers().get("mcp-protocol-version").is_some_and(|version| version == "2026-07-28");
    let all = request.uri().path().starts_with("/all/");
    let Ok(body) = request.into_body().collect().await else { return Ok(empty(StatusCode::BAD_REQUEST)) };
    let body = body.to_bytes();
    let Ok(Message { id, method: Some(method), params }) = serde_json::from_slice::<Message<'_>>(&body) else {
        return Ok(empty(StatusCode::BAD_REQUEST));
    };
    let Some(id) = id.map(RawValue::get) else { return Ok(empty(StatusCode::ACCEPTED)) };
    let info = r#"{"name":"bench","version":"1"}"#;
    Ok(match (method, modern) {
        ("tools/call", _) => return Ok(call(id, params, modern)),
        ("tools/list", _) => {
            let tools = if all { ALL_TOOLS.clone() } else { FEW_TOOLS.clone() };
            let end = if modern { r#","ttlMs":60000,"cacheScope":"public","resultType":"complete"}}"# } else { "}}" };
            json_answer([
                format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"tools":"#).into(),
                tools,
                Bytes::from_static(end.as_bytes()),
            ])
        }
        ("ping", _) => json_answer([format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#).into()]),
        ("initialize", false) => {
            let result =
                format!(r#"{{"protocolVersion":"2025-11-25","capabilities":{{"tools":{{}}}},"serverInfo":{info}}}"#);
            let mut response = json_answer([format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#).into()]);
            let session = HeaderValue::from(SESSIONS.fetch_add(1, Ordering::Relaxed));
            response.headers_mut().insert("mcp-session-id", session);
            response
        }
        ("server/discover", _) => {
            let meta = format!(r#"{{"io.modelcontextprotocol/serverInfo":{info}}}"#);
            let result = format!(
                r#"{{"supportedVersions":["2026-07-28"],"capabilities":{{"tools":{{}}}},"ttlMs":60000,"cacheScope":"public","resultType":"complete","_meta":{meta}}}"#
            );
            json_answer([format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#).into()])
        }
        (_, modern) => {
            let error = r#"{"code":-32601,"message":"Method not found"}"#;
            let mut response = json_answer([format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{error}}}"#).into()]);
            if modern {
                *response.status_mut() = StatusCode::NOT_FOUND;
            }
            response
        }
    })
}

fn call(id: &str, params: Option<&RawValue>, modern: bool) -> Response<Answer> {
    let call = params.map(|params| serde_json::from_str::<Call<'_>>(params.get()));
    let Some(Ok(Call { name, arguments, meta })) = call else { return empty(StatusCode::BAD_REQUEST) };
    let start = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"content":[{{"type":"text","text":""#);
    let end = if modern { r#""}],"resultType":"complete"}}"# } else { r#""}]}}"# };
    let text = BLOB.slice(..arguments.size.min(MAX_BLOB_BYTES));
    match name {
        "blob" => json_answer([start.into(), text, Bytes::from_static(end.as_bytes())]),
        "blob_sse" => {
            // One event is one piece, as most servers write it.
            let mut event = Vec::with_capacity(text.len() + 256);
            let parts = [b"event: message\ndata: ", start.as_bytes(), &text, end.as_bytes(), b"\n\n"];
            parts.into_iter().for_each(|part| event.extend_from_slice(part));
            let pieces = [Bytes::from(event)];
            events(Answer::Pieces { pieces: pieces.into(), streamed: true })
        }
        "progress" => {
            let token = meta.progress_token.map_or_else(|| "null".to_owned(), |token| token.get().to_owned());
            let mut ticks = interval(Duration::from_millis(arguments.interval_ms.max(1)));
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let last = format!("event: message\ndata: {start}done{end}\n\n");
            events(Answer::Progress { ticks, sent: 0, wanted: arguments.events, token, last: Some(last.into()) })
        }
        // A tool of the long list.
        _ => json_answer([start.into(), Bytes::from_static(end.as_bytes())]),
    }
}

fn list(upstreams: usize) -> String {
    let schema = json!({
        "type": "object",
        "properties": {
            "query": { "type": "string", "description": "What to look for, in the words of the documentation" },
            "limit": { "type": "integer", "minimum": 1, "maximum": 100, "description": "How many at most" },
            "since": { "type": "string", "format": "date-time", "description": "Leave out what is older" },
        },
        "required": ["query"],
    });
    let of_one = |upstream: usize| {
        let schema = &schema;
        (0..TOOLS).map(move |number| {
            let name = match number {
                0 => "blob".to_owned(),
                1 => "blob_sse".to_owned(),
                2 => "progress".to_owned(),
                _ => format!("search_{number:03}"),
            };
            let name = if upstreams == 1 { name } else { format!("u{upstream:02}__{name}") };
            json!({
                "name": name,
                "description": "Searches one of the collections and returns what fits best, newest first.",
                // The three that are called take what they are given.
                "inputSchema": if number < 3 { json!({ "type": "object" }) } else { schema.clone() },
                "annotations": { "readOnlyHint": true },
            })
        })
    };
    serde_json::Value::from_iter((0..upstreams).flat_map(of_one)).to_string()
}

fn empty(status: StatusCode) -> Response<Answer> {
    let mut response = Response::new(Answer::Pieces { pieces: VecDeque::new(), streamed: false });
    *response.status_mut() = status;
    response
}

fn json_answer<const N: usize>(pieces: [Bytes; N]) -> Response<Answer> {
    let mut response = Response::new(Answer::Pieces { pieces: pieces.into(), streamed: false });
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn events(answer: Answer) -> Response<Answer> {
    let mut response = Response::new(answer);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    response
}

/// A body that is there already, or that comes as time goes by.
enum Answer {
    Pieces {
        pieces: VecDeque<Bytes>,
        /// Whether its length stays unsaid.
        streamed: bool,
    },
    Progress {
        ticks: Interval,
        sent: u32,
        wanted: u32,
        token: String,
        last: Option<Bytes>,
    },
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut *self {
            Self::Pieces { pieces, .. } => Poll::Ready(pieces.pop_front().map(|piece| Ok(Frame::data(piece)))),
            Self::Progress { ticks, sent, wanted, token, last } => {
                if sent == wanted {
                    return Poll::Ready(last.take().map(|last| Ok(Frame::data(last))));
                }
                if ticks.poll_tick(context).is_pending() {
                    return Poll::Pending;
                }
                *sent += 1;
                Poll::Ready(Some(Ok(Frame::data(notification(token, *sent, *wanted).into()))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Pieces { pieces, .. } if pieces.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Pieces { pieces, streamed: false } => {
                SizeHint::with_exact(pieces.iter().map(|piece| piece.len() as u64).sum())
            }
            _ => SizeHint::default(),
        }
    }
}

/// One event; its message is the time in microseconds since the epoch.
fn notification(token: &str, progress: u32, total: u32) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
    let mut event = String::with_capacity(256);
    write!(
        event,
        "event: message\ndata: {{\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{{\"progressToken\":{token},\"progress\":{progress},\"total\":{total},\"message\":\"{now}\"}}}}\n\n"
    )
    .expect("a string takes everything");
    event
}
