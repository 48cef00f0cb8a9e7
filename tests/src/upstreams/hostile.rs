//! HTTP upstreams that misbehave, each in one way that has a name.
//!
//! Unless told otherwise they answer everything properly but tools/call, so that the gateway takes them in and lists
//! their one tool, which is called as the behaviour is. Everything they do ends by itself, by size or after
//! [`ENDLESS`], and at once when the [`Hostile`] is dropped.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::{Body, Bytes};
use futures_util::stream::{self, Stream};
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, LOCATION, WWW_AUTHENTICATE};
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinSet;

use super::serve::{self, Serving};

/// How long the endless behaviours last.
pub const ENDLESS: Duration = Duration::from_secs(60);
/// Size of the huge answers.
pub const HUGE_BYTES: usize = 100 * 1024 * 1024;

/// Between the pieces of an endless answer.
const PAUSE: Duration = Duration::from_millis(10);
const PIECE_BYTES: usize = 64 * 1024;
const DEEP_LEVELS: usize = 100_000;
const SESSION: &str = "hostile-session";

/// What an upstream does instead of answering.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Behaviour {
    /// Nobody listens at its port, whether from the start or not.
    Refuses,
    /// Takes the request and says nothing.
    NeverAnswers,
    /// Closes the connection instead of answering.
    HangsUp,
    /// Closes the connection half-way through an event.
    DiesInSse,
    /// Closes the connection half-way through a JSON body.
    DiesInJson,
    /// Ends an event stream properly, but without an answer in it.
    EmptySse,
    /// Sends white space, a byte at a time.
    Trickles,
    /// A body that is not JSON, said to be.
    NotJson,
    /// A body that is not UTF-8.
    NotUtf8,
    /// JSON, but no JSON-RPC message.
    NotJsonRpc,
    /// An answer to somebody else's request.
    WrongId,
    /// A message with two results.
    RepeatsMembers,
    /// A web page, with status 200.
    Html,
    /// A proper answer, said to be plain text.
    WrongContentType,
    /// A proper answer, compressed although nobody asked for that.
    Gzip,
    /// An answer nested too deeply.
    DeepNesting,
    /// An answer of [`HUGE_BYTES`], in chunks.
    HugeJson,
    /// The same with its length declared.
    HugeDeclared,
    /// One event of [`HUGE_BYTES`].
    HugeSseEvent,
    /// An event stream of comments.
    EndlessComments,
    /// An event stream of notifications.
    EndlessNotifications,
    /// Two answers on one event stream; the first one counts.
    AnswersTwice,
    /// Sends requests to the client, under the id of the client's own, before it answers.
    AsksBack,
    /// A JSON-RPC error with members that no revision knows. This is allowed, and to be passed on as it is.
    ErrorWithExtras,
    Status401,
    Status404,
    Status500,
    Status503,
    /// 301 to another port; [`Hostile::followed`] tells whether anybody went there.
    Redirects,
    /// A proper answer, and something behind it in the same body.
    TrailingBytes,
    /// The answer in an array, as 2025-03-26 allows and no other revision.
    ArrayAnswer,
    /// A header of a megabyte.
    HugeHeaders,
    /// A thousand headers.
    ManyHeaders,
    /// An event stream of lines that are no fields, and events that are no JSON.
    SseGarbage,
    /// An answer of JSON-RPC 1.0.
    OtherVersion,
    /// A proper answer, of which nothing is said.
    NoContentType,
    /// No body, said to be JSON.
    EmptyJson,
    /// 202, as for a notification.
    Status202,
    /// An answer that is both a result and an error.
    ResultAndError,
    /// An error without a code.
    ErrorWithoutCode,
    /// A proper error that does not say whose it is. The one request that it can mean gets it.
    ErrorWithoutId,
    /// An event stream of requests to the client, each under an id of its own.
    EndlessQuestions,
    /// A result that asks for what no client has declared (2026-07-28, patterns/mrtr).
    AsksUndeclared,
    /// A result that wants to be asked again, and gives nothing to do that with.
    AsksNothing,
    /// A result that asks for something that no client can be asked for.
    AsksUnknown,
    /// A result with two questions of the same name.
    AsksTwice,
    /// A result with a state of half a megabyte to be brought back.
    HugeState,
    /// A task, although the client knows none.
    UnaskedTask,
    /// A result of two types.
    TwoTypes,
}

impl Behaviour {
    pub const ALL: &'static [Self] = &[
        Self::Refuses,
        Self::NeverAnswers,
        Self::HangsUp,
        Self::DiesInSse,
        Self::DiesInJson,
        Self::EmptySse,
        Self::Trickles,
        Self::NotJson,
        Self::NotUtf8,
        Self::NotJsonRpc,
        Self::WrongId,
        Self::RepeatsMembers,
        Self::Html,
        Self::WrongContentType,
        Self::Gzip,
        Self::DeepNesting,
        Self::HugeJson,
        Self::HugeDeclared,
        Self::HugeSseEvent,
        Self::EndlessComments,
        Self::EndlessNotifications,
        Self::AnswersTwice,
        Self::AsksBack,
        Self::ErrorWithExtras,
        Self::Status401,
        Self::Status404,
        Self::Status500,
        Self::Status503,
        Self::Redirects,
        Self::TrailingBytes,
        Self::ArrayAnswer,
        Self::HugeHeaders,
        Self::ManyHeaders,
        Self::SseGarbage,
        Self::OtherVersion,
        Self::NoContentType,
        Self::EmptyJson,
        Self::Status202,
        Self::ResultAndError,
        Self::ErrorWithoutCode,
        Self::ErrorWithoutId,
        Self::EndlessQuestions,
        Self::AsksUndeclared,
        Self::AsksNothing,
        Self::AsksUnknown,
        Self::AsksTwice,
        Self::HugeState,
        Self::UnaskedTask,
        Self::TwoTypes,
    ];

    /// The behaviour's name, which is also its tool's.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Refuses => "refuses",
            Self::NeverAnswers => "never_answers",
            Self::HangsUp => "hangs_up",
            Self::DiesInSse => "dies_in_sse",
            Self::DiesInJson => "dies_in_json",
            Self::EmptySse => "empty_sse",
            Self::Trickles => "trickles",
            Self::NotJson => "not_json",
            Self::NotUtf8 => "not_utf8",
            Self::NotJsonRpc => "not_json_rpc",
            Self::WrongId => "wrong_id",
            Self::RepeatsMembers => "repeats_members",
            Self::Html => "html",
            Self::WrongContentType => "wrong_content_type",
            Self::Gzip => "gzip",
            Self::DeepNesting => "deep_nesting",
            Self::HugeJson => "huge_json",
            Self::HugeDeclared => "huge_declared",
            Self::HugeSseEvent => "huge_sse_event",
            Self::EndlessComments => "endless_comments",
            Self::EndlessNotifications => "endless_notifications",
            Self::AnswersTwice => "answers_twice",
            Self::AsksBack => "asks_back",
            Self::ErrorWithExtras => "error_with_extras",
            Self::Status401 => "status_401",
            Self::Status404 => "status_404",
            Self::Status500 => "status_500",
            Self::Status503 => "status_503",
            Self::Redirects => "redirects",
            Self::TrailingBytes => "trailing_bytes",
            Self::ArrayAnswer => "array_answer",
            Self::HugeHeaders => "huge_headers",
            Self::ManyHeaders => "many_headers",
            Self::SseGarbage => "sse_garbage",
            Self::OtherVersion => "other_version",
            Self::NoContentType => "no_content_type",
            Self::EmptyJson => "empty_json",
            Self::Status202 => "status_202",
            Self::ResultAndError => "result_and_error",
            Self::ErrorWithoutCode => "error_without_code",
            Self::ErrorWithoutId => "error_without_id",
            Self::EndlessQuestions => "endless_questions",
            Self::AsksUndeclared => "asks_undeclared",
            Self::AsksNothing => "asks_nothing",
            Self::AsksUnknown => "asks_unknown",
            Self::AsksTwice => "asks_twice",
            Self::HugeState => "huge_state",
            Self::UnaskedTask => "unasked_task",
            Self::TwoTypes => "two_types",
        }
    }
}

/// A running upstream that misbehaves; it ends when it is dropped.
#[derive(Debug)]
pub struct Hostile {
    pub url: String,
    pub behaviour: Behaviour,
    seen: Arc<Seen>,
    _serving: Served,
}

/// How an upstream is to misbehave.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    behaviour: Behaviour,
    from_the_start: bool,
    modern: bool,
}

impl Plan {
    /// Misbehave from the first request on, so that not even a list of tools can be had.
    #[must_use]
    pub fn from_the_start(self) -> Self {
        Self { from_the_start: true, ..self }
    }

    /// Speak the stateless revision instead of those with sessions.
    #[must_use]
    pub fn modern(self) -> Self {
        Self { modern: true, ..self }
    }

    /// Starts it on a free port.
    ///
    /// # Panics
    /// If no port can be had.
    pub async fn start(self) -> Hostile {
        Hostile::run(self).await.expect("a free loopback port")
    }
}

impl Hostile {
    #[must_use]
    pub fn plan(behaviour: Behaviour) -> Plan {
        Plan { behaviour, from_the_start: false, modern: false }
    }

    /// Starts one that misbehaves when its tool is called.
    pub async fn start(behaviour: Behaviour) -> Self {
        Self::plan(behaviour).start().await
    }

    /// The name of its one tool.
    #[must_use]
    pub fn tool(&self) -> &'static str {
        self.behaviour.name()
    }

    /// How many requests it has misbehaved on.
    #[must_use]
    pub fn calls(&self) -> usize {
        self.seen.calls.load(Ordering::SeqCst)
    }

    /// How many connections came to the place that it redirects to.
    #[must_use]
    pub fn followed(&self) -> usize {
        self.seen.followed.load(Ordering::SeqCst)
    }

    /// How many bytes of streamed answers were taken off it: it writes no faster than the other side reads.
    #[must_use]
    pub fn bytes_taken(&self) -> usize {
        self.seen.bytes_taken.load(Ordering::SeqCst)
    }

    async fn run(plan: Plan) -> io::Result<Self> {
        let seen = Arc::new(Seen::default());
        let (port, serving) = if plan.behaviour == Behaviour::Refuses {
            let socket = TcpSocket::new_v4()?;
            socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
            (socket.local_addr()?.port(), Served::Nothing(socket))
        } else {
            let elsewhere = serve::listen(0).await?;
            let server = Arc::new(Server { plan, seen: Arc::clone(&seen), elsewhere: elsewhere.local_addr()?.port() });
            let mut watching = JoinSet::new();
            watching.spawn(watch(elsewhere, Arc::clone(&seen)));
            let service = service_fn(move |request| {
                let server = Arc::clone(&server);
                async move { server.take(request).await }
            });
            let serving = Serving::start(serve::listen(0).await?, service);
            (serving.address.port(), Served::Badly(serving, watching))
        };
        let url = format!("http://127.0.0.1:{port}/mcp");
        Ok(Self { url, behaviour: plan.behaviour, seen, _serving: serving })
    }
}

/// What keeps the port.
#[derive(Debug)]
#[expect(dead_code, reason = "held, not read")]
enum Served {
    /// Bound, so that nobody else gets the port, and not listened on.
    Nothing(TcpSocket),
    Badly(Serving, JoinSet<()>),
}

/// What the upstream has noticed.
#[derive(Debug, Default)]
struct Seen {
    calls: AtomicUsize,
    followed: AtomicUsize,
    bytes_taken: AtomicUsize,
}

/// Counts the connections that come to where nobody should go.
async fn watch(listener: TcpListener, seen: Arc<Seen>) {
    while listener.accept().await.is_ok() {
        seen.followed.fetch_add(1, Ordering::SeqCst);
    }
}

/// Closes the connection.
#[derive(Debug)]
struct HangUp;

impl std::fmt::Display for HangUp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("hangs up")
    }
}

impl std::error::Error for HangUp {}

#[derive(Deserialize)]
struct Message {
    id: Option<Box<RawValue>>,
    method: Option<String>,
}

struct Server {
    plan: Plan,
    seen: Arc<Seen>,
    elsewhere: u16,
}

impl Server {
    async fn take(&self, request: Request<Incoming>) -> Result<Response<Body>, HangUp> {
        if request.method() != Method::POST {
            return Ok(empty(StatusCode::METHOD_NOT_ALLOWED));
        }
        let body = request.into_body().collect().await.map_err(|_| HangUp)?.to_bytes();
        let Ok(Message { id, method }) = serde_json::from_slice(&body) else {
            return Ok(empty(StatusCode::BAD_REQUEST));
        };
        let Some(id) = id else { return Ok(empty(StatusCode::ACCEPTED)) };
        let method = method.unwrap_or_default();
        if self.plan.from_the_start || method == "tools/call" {
            self.seen.calls.fetch_add(1, Ordering::SeqCst);
            self.misbehave(id.get()).await
        } else {
            Ok(self.behave(id.get(), &method))
        }
    }

    /// Answers as an ordinary server does.
    fn behave(&self, id: &str, method: &str) -> Response<Body> {
        let name = self.plan.behaviour.name();
        let info = format!(r#"{{"name":"hostile","version":"{name}"}}"#);
        let tools = format!(
            r#""tools":[{{"name":"{name}","description":"Misbehaves when it is called","inputSchema":{{"type":"object"}}}}]"#
        );
        let signed = format!(r#""resultType":"complete","_meta":{{"io.modelcontextprotocol/serverInfo":{info}}}"#);
        let cached = r#""ttlMs":60000,"cacheScope":"public""#;
        let result = match (self.plan.modern, method) {
            (true, "server/discover") => {
                format!(r#"{{"supportedVersions":["2026-07-28"],"capabilities":{{"tools":{{}}}},{cached},{signed}}}"#)
            }
            (true, "tools/list") => format!("{{{tools},{cached},{signed}}}"),
            (false, "initialize") => {
                format!(r#"{{"protocolVersion":"2025-11-25","capabilities":{{"tools":{{}}}},"serverInfo":{info}}}"#)
            }
            (false, "tools/list") => format!("{{{tools}}}"),
            (false, "ping") => "{}".to_owned(),
            (true, _) => {
                return json(StatusCode::NOT_FOUND, error(id, r#"{"code":-32601,"message":"Method not found"}"#));
            }
            (false, _) => return json(StatusCode::BAD_REQUEST, error(id, r#"{"code":-32000,"message":"No session"}"#)),
        };
        let mut response = json(StatusCode::OK, answer(id, &result));
        if method == "initialize" {
            response.headers_mut().insert("mcp-session-id", SESSION.parse().expect("ASCII"));
        }
        response
    }

    async fn misbehave(&self, id: &str) -> Result<Response<Body>, HangUp> {
        let fine = answer(id, &self.said("This is what a proper server would have said."));
        Ok(match self.plan.behaviour {
            Behaviour::Refuses | Behaviour::HangsUp => return Err(HangUp),
            Behaviour::NeverAnswers => {
                tokio::time::sleep(ENDLESS).await;
                return Err(HangUp);
            }
            Behaviour::DiesInSse => self.dies(sse_head(), format!("event: message\ndata: {}", half(&fine))),
            Behaviour::DiesInJson => {
                let head = Response::builder().header(CONTENT_TYPE, "application/json");
                self.dies(head.header(CONTENT_LENGTH, fine.len()), half(&fine).to_owned())
            }
            Behaviour::EmptySse => body(sse_head(), Body::from(": nothing to say\n\n")),
            Behaviour::Trickles => {
                let head = Response::builder().header(CONTENT_TYPE, "application/json");
                body(head, self.streamed(endless(Bytes::from_static(b" "))))
            }
            Behaviour::NotJson => json(StatusCode::OK, "}{ this is not JSON".into()),
            Behaviour::NotUtf8 => {
                let text = fine.replace("proper", "\u{1}").into_bytes();
                let broken = text.into_iter().map(|byte| if byte == 1 { 0xff } else { byte }).collect::<Vec<u8>>();
                body(Response::builder().header(CONTENT_TYPE, "application/json"), Body::from(broken))
            }
            Behaviour::NotJsonRpc => json(StatusCode::OK, r#"{"hello":"world"}"#.into()),
            Behaviour::WrongId => json(StatusCode::OK, answer(r#""somebody-else""#, &self.said("not for you"))),
            Behaviour::RepeatsMembers => {
                let second = self.said("and this");
                json(StatusCode::OK, fine.replacen("\"result\":", &format!("\"result\":{second},\"result\":"), 1))
            }
            Behaviour::Html => {
                let page = "<!doctype html><title>Welcome</title><p>It works!";
                body(Response::builder().header(CONTENT_TYPE, "text/html"), Body::from(page))
            }
            Behaviour::WrongContentType => {
                body(Response::builder().header(CONTENT_TYPE, "text/plain"), Body::from(fine))
            }
            Behaviour::Gzip => {
                let head = Response::builder().header(CONTENT_TYPE, "application/json");
                body(head.header(CONTENT_ENCODING, "gzip"), Body::from(gzip(fine.as_bytes())))
            }
            Behaviour::DeepNesting => {
                let deep = format!("{}{}", "[".repeat(DEEP_LEVELS), "]".repeat(DEEP_LEVELS));
                json(StatusCode::OK, answer(id, &format!(r#"{{"content":[],"structuredContent":{{"deep":{deep}}}}}"#)))
            }
            Behaviour::HugeJson => {
                let head = Response::builder().header(CONTENT_TYPE, "application/json");
                body(head, self.streamed(huge(&fine, "")))
            }
            Behaviour::HugeDeclared => {
                let head = Response::builder().header(CONTENT_TYPE, "application/json");
                body(head.header(CONTENT_LENGTH, HUGE_BYTES), self.streamed(huge(&fine, "")))
            }
            Behaviour::HugeSseEvent => body(sse_head(), self.streamed(huge(&fine, "data: "))),
            Behaviour::EndlessComments => {
                body(sse_head(), self.streamed(endless(Bytes::from_static(b": still here\n\n"))))
            }
            Behaviour::EndlessNotifications => {
                let params = r#"{"level":"info","data":"and another thing"}"#;
                let notification = format!(r#"{{"jsonrpc":"2.0","method":"notifications/message","params":{params}}}"#);
                body(sse_head(), self.streamed(endless(Bytes::from(event(&notification)))))
            }
            Behaviour::AnswersTwice => {
                let second = answer(id, &self.said("The second answer."));
                body(sse_head(), Body::from(event(&fine) + &event(&second)))
            }
            Behaviour::AsksBack => {
                let ping = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"ping"}}"#);
                let params = r#"{"messages":[],"maxTokens":1}"#;
                let sample =
                    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"sampling/createMessage","params":{params}}}"#);
                body(sse_head(), Body::from(event(&ping) + &event(&sample) + &event(&fine)))
            }
            Behaviour::ErrorWithExtras => json(
                StatusCode::OK,
                error(
                    id,
                    r#"{"x-before":[1.0],"code":-32050,"data":{"z":1e2,"a":"\u00e9"},"message":"No.","x-after":{}}"#,
                ),
            ),
            Behaviour::Status401 => {
                let challenge = r#"Bearer resource_metadata="https://upstream.example/.well-known/oauth""#;
                let head = Response::builder().status(StatusCode::UNAUTHORIZED).header(WWW_AUTHENTICATE, challenge);
                body(head, Body::from("the upstream wants a token"))
            }
            Behaviour::Status404 => empty(StatusCode::NOT_FOUND),
            Behaviour::Status500 => json(
                StatusCode::INTERNAL_SERVER_ERROR,
                r#"{"trace":"at /srv/secret/path.js:12 password=hunter2"}"#.into(),
            ),
            Behaviour::Status503 => empty(StatusCode::SERVICE_UNAVAILABLE),
            Behaviour::Redirects => {
                let elsewhere = format!("http://127.0.0.1:{}/mcp", self.elsewhere);
                let head = Response::builder().status(StatusCode::MOVED_PERMANENTLY);
                body(head.header(LOCATION, elsewhere), Body::empty())
            }
            Behaviour::TrailingBytes => json(StatusCode::OK, format!("{fine}\n{fine}")),
            Behaviour::ArrayAnswer => json(StatusCode::OK, format!("[{fine}]")),
            Behaviour::HugeHeaders => {
                let head = Response::builder().header(CONTENT_TYPE, "application/json");
                body(head.header("x-padding", "x".repeat(1 << 20)), Body::from(fine))
            }
            Behaviour::ManyHeaders => {
                let head = Response::builder().header(CONTENT_TYPE, "application/json");
                let many = (0..1_000).fold(head, |head, number| head.header(format!("x-{number}"), "1"));
                body(many, Body::from(fine))
            }
            Behaviour::SseGarbage => {
                let lines = "\u{0}\u{1}: nothing\nretry: soon\nid\ndata\n\n%%%\n\nevent: \u{fffd}\ndata: x\n\n";
                body(sse_head(), Body::from(format!("{lines}data: }}{{ not JSON\n\n{}", event(&fine))))
            }
            Behaviour::OtherVersion => json(StatusCode::OK, fine.replacen("2.0", "1.0", 1)),
            Behaviour::NoContentType => body(Response::builder(), Body::from(fine)),
            Behaviour::EmptyJson => json(StatusCode::OK, String::new()),
            Behaviour::Status202 => empty(StatusCode::ACCEPTED),
            Behaviour::ResultAndError => {
                json(StatusCode::OK, fine.replacen("\"result\":", r#""error":{"code":-1,"message":"m"},"result":"#, 1))
            }
            Behaviour::ErrorWithoutCode => json(StatusCode::OK, error(id, r#"{"message":"No code."}"#)),
            Behaviour::ErrorWithoutId => {
                json(StatusCode::OK, error("null", r#"{"code":-31000,"message":"Whose is it?"}"#))
            }
            Behaviour::EndlessQuestions => {
                let asked = (0..u64::MAX)
                    .map(|number| event(&format!(r#"{{"jsonrpc":"2.0","id":{number},"method":"roots/list"}}"#)));
                let times = ENDLESS.as_millis() / PAUSE.as_millis();
                let asked = stream::unfold((asked, times), |(mut asked, left)| async move {
                    tokio::time::sleep(PAUSE).await;
                    let question = Bytes::from(asked.next()?);
                    Some((Ok(question), (asked, left.checked_sub(1)?)))
                });
                body(sse_head(), self.streamed(asked))
            }
            Behaviour::AsksUndeclared => {
                asks(id, r#","inputRequests":{"a":{"method":"roots/list"}},"requestState":"s""#)
            }
            Behaviour::AsksNothing => asks(id, ""),
            Behaviour::AsksUnknown => asks(id, r#","inputRequests":{"a":{"method":"tools/call","params":{}}}"#),
            Behaviour::AsksTwice => {
                asks(id, r#","inputRequests":{"a":{"method":"roots/list"},"\u0061":{"method":"roots/list"}}"#)
            }
            Behaviour::HugeState => asks(id, &format!(r#","requestState":"{}""#, "s".repeat(512 * 1024))),
            Behaviour::UnaskedTask => {
                let times =
                    r#""createdAt":"2026-01-01T00:00:00Z","lastUpdatedAt":"2026-01-01T00:00:00Z","ttlMs":60000"#;
                json(
                    StatusCode::OK,
                    answer(id, &format!(r#"{{"resultType":"task","taskId":"t","status":"working",{times}}}"#)),
                )
            }
            Behaviour::TwoTypes => {
                json(StatusCode::OK, answer(id, r#"{"resultType":"complete","content":[],"result\u0054ype":"task"}"#))
            }
        })
    }

    fn said(&self, text: &str) -> String {
        let kind = if self.plan.modern { r#","resultType":"complete""# } else { "" };
        format!(r#"{{"content":[{{"type":"text","text":"{text}"}}]{kind}}}"#)
    }

    /// Says so much, and closes the connection.
    fn dies(&self, head: http::response::Builder, last_words: String) -> Response<Body> {
        let words = stream::once(async { Ok(Bytes::from(last_words)) });
        body(
            head,
            self.streamed(stream::StreamExt::chain(
                words,
                stream::once(async {
                    // The words go out before the connection ends.
                    tokio::time::sleep(PAUSE).await;
                    Err(HangUp)
                }),
            )),
        )
    }

    /// A body that counts what is taken of it.
    fn streamed(&self, pieces: impl Stream<Item = Result<Bytes, HangUp>> + Send + 'static) -> Body {
        let seen = Arc::clone(&self.seen);
        Body::from_stream(stream::StreamExt::inspect(pieces, move |piece| {
            seen.bytes_taken.fetch_add(piece.as_ref().map_or(0, Bytes::len), Ordering::SeqCst);
        }))
    }
}

/// A result that wants input; `members` follow its type.
fn asks(id: &str, members: &str) -> Response<Body> {
    json(StatusCode::OK, answer(id, &format!(r#"{{"resultType":"input_required"{members}}}"#)))
}

fn answer(id: &str, result: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#)
}

fn error(id: &str, error: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{error}}}"#)
}

fn event(message: &str) -> String {
    format!("event: message\ndata: {message}\n\n")
}

fn half(text: &str) -> &str {
    &text[..text.len() / 2]
}

/// The same piece again and again.
fn endless(piece: Bytes) -> impl Stream<Item = Result<Bytes, HangUp>> {
    let times = ENDLESS.as_millis() / PAUSE.as_millis();
    stream::unfold((piece, times), |(piece, left)| async move {
        tokio::time::sleep(PAUSE).await;
        Some((Ok(piece.clone()), (piece, left.checked_sub(1)?)))
    })
}

/// A text of [`HUGE_BYTES`]: `lead`, then the answer `fine` with its text made long.
fn huge(fine: &str, lead: &str) -> impl Stream<Item = Result<Bytes, HangUp>> + use<> {
    let (before, after) = fine.split_once("This is").expect("the text begins like this");
    let end = if lead.is_empty() { "" } else { "\n\n" };
    let (first, last) = (Bytes::from(format!("{lead}{before}")), Bytes::from(format!("{after}{end}")));
    let filling = Bytes::from(vec![b'x'; PIECE_BYTES]);
    let left = HUGE_BYTES - first.len() - last.len();
    let pieces =
        (0..left.div_ceil(PIECE_BYTES)).map(move |at| filling.slice(..PIECE_BYTES.min(left - at * PIECE_BYTES)));
    stream::iter(std::iter::once(first).chain(pieces).chain(std::iter::once(last)).map(Ok))
}

fn sse_head() -> http::response::Builder {
    Response::builder().header(CONTENT_TYPE, "text/event-stream")
}

fn json(status: StatusCode, text: String) -> Response<Body> {
    body(Response::builder().status(status).header(CONTENT_TYPE, "application/json"), Body::from(text))
}

fn empty(status: StatusCode) -> Response<Body> {
    body(Response::builder().status(status), Body::empty())
}

fn body(head: http::response::Builder, body: Body) -> Response<Body> {
    head.body(body).expect("the heads here are valid")
}

/// `bytes` as a gzip file (RFC 1952) that stores what it holds without compressing it.
fn gzip(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).expect("one stored block holds it");
    let mut file = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    file.push(1);
    file.extend(length.to_le_bytes());
    file.extend((!length).to_le_bytes());
    file.extend(bytes);
    file.extend(crc32(bytes).to_le_bytes());
    file.extend(u32::from(length).to_le_bytes());
    file
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 * (crc & 1)))
    })
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;

    use super::super::raw_client::{self, Reply};
    use super::*;

    #[test]
    fn names_are_distinct_and_fit_for_tools() {
        let names: std::collections::HashSet<_> = Behaviour::ALL.iter().map(|behaviour| behaviour.name()).collect();
        assert_eq!(names.len(), Behaviour::ALL.len());
        assert!(names.iter().all(|name| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')));
    }

    const CALL: &str = r#"{"jsonrpc":"2.0","id":4,"method":"tools/call","params":{}}"#;
    const MOST: u64 = 64 * 1024;

    async fn ask(hostile: &Hostile, body: &str) -> io::Result<Reply> {
        let port = hostile.url.split([':', '/']).nth(4).unwrap().parse().unwrap();
        raw_client::post(port, "", body, MOST).await
    }

    #[tokio::test]
    async fn everything_but_calls_is_answered_properly() {
        for behaviour in Behaviour::ALL.iter().copied().filter(|behaviour| *behaviour != Behaviour::Refuses) {
            for (plan, first) in
                [(Hostile::plan(behaviour), "initialize"), (Hostile::plan(behaviour).modern(), "server/discover")]
            {
                let hostile = plan.start().await;
                for method in [first, "tools/list"] {
                    let reply =
                        ask(&hostile, &format!(r#"{{"jsonrpc":"2.0","id":3,"method":"{method}"}}"#)).await.unwrap();
                    let answer: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
                    assert_eq!((reply.status, &answer["id"]), (200, &3.into()), "{behaviour:?} {method}");
                    if method == "tools/list" {
                        assert_eq!(answer["result"]["tools"][0]["name"], hostile.tool(), "{behaviour:?}");
                    }
                }
                assert_eq!(hostile.calls(), 0);
            }
        }
    }

    #[tokio::test]
    async fn calls_are_answered_as_the_name_says() {
        let cases = [
            (Behaviour::HangsUp, 0, ""),
            (Behaviour::DiesInSse, 200, "data: {"),
            (Behaviour::DiesInJson, 200, r#""id":4,"result":{"#),
            (Behaviour::EmptySse, 200, ": nothing to say"),
            (Behaviour::NotJson, 200, "}{"),
            (Behaviour::NotUtf8, 200, "\u{fffd} server would"),
            (Behaviour::NotJsonRpc, 200, "hello"),
            (Behaviour::WrongId, 200, "somebody-else"),
            (Behaviour::RepeatsMembers, 200, r#"},"result":{"#),
            (Behaviour::Html, 200, "<!doctype html>"),
            (Behaviour::WrongContentType, 200, r#""id":4,"result":{"#),
            (Behaviour::Gzip, 200, "\u{1f}"),
            (Behaviour::DeepNesting, 200, "[[[["),
            (Behaviour::HugeJson, 200, "xxxx"),
            (Behaviour::HugeDeclared, 200, "xxxx"),
            (Behaviour::HugeSseEvent, 200, "xxxx"),
            (Behaviour::AnswersTwice, 200, "The second answer."),
            (Behaviour::AsksBack, 200, "sampling/createMessage"),
            (Behaviour::ErrorWithExtras, 200, r#""error":{"x-before":[1.0]"#),
            (Behaviour::Status401, 401, "wants a token"),
            (Behaviour::Status404, 404, ""),
            (Behaviour::Status500, 500, "hunter2"),
            (Behaviour::Status503, 503, ""),
            (Behaviour::Redirects, 301, ""),
            (Behaviour::TrailingBytes, 200, "}\n{"),
            (Behaviour::ArrayAnswer, 200, "[{"),
            (Behaviour::SseGarbage, 200, "}{ not JSON"),
            (Behaviour::OtherVersion, 200, r#""jsonrpc":"1.0""#),
            (Behaviour::NoContentType, 200, r#""id":4,"result":{"#),
            (Behaviour::EmptyJson, 200, ""),
            (Behaviour::Status202, 202, ""),
            (Behaviour::ResultAndError, 200, r#""error":{"code":-1,"message":"m"},"result":{"#),
            (Behaviour::ErrorWithoutCode, 200, "No code."),
            (Behaviour::ErrorWithoutId, 200, r#""id":null"#),
            (Behaviour::AsksUndeclared, 200, "roots/list"),
            (Behaviour::AsksNothing, 200, r#"{"resultType":"input_required"}"#),
            (Behaviour::AsksUnknown, 200, "tools/call"),
            (Behaviour::AsksTwice, 200, r#""\u0061":"#),
            (Behaviour::UnaskedTask, 200, r#""resultType":"task""#),
            (Behaviour::TwoTypes, 200, r#""result\u0054ype""#),
        ];
        for (behaviour, status, part) in cases {
            let hostile = Hostile::plan(behaviour).from_the_start().start().await;
            let reply = ask(&hostile, CALL).await.unwrap();
            let text = reply.text();
            assert_eq!(reply.status, status, "{behaviour:?} {text}");
            assert!(text.contains(part), "{behaviour:?} {text}");
            let fits = reply.header("content-length").is_none_or(|length| length == reply.body.len().to_string());
            let breaks_off = [Behaviour::DiesInJson, Behaviour::HugeDeclared, Behaviour::DeepNesting];
            assert_eq!(fits, !breaks_off.contains(&behaviour), "{behaviour:?} {}", reply.head);
            assert_eq!((hostile.calls(), hostile.followed()), (1, 0), "{behaviour:?}");
        }
    }

    #[tokio::test]
    async fn a_huge_answer_is_written_no_faster_than_it_is_read() {
        let hostile = Hostile::start(Behaviour::HugeJson).await;
        ask(&hostile, CALL).await.unwrap();
        assert!(hostile.bytes_taken() < HUGE_BYTES / 4, "{}", hostile.bytes_taken());
    }

    #[tokio::test]
    async fn a_huge_answer_is_one_of_the_declared_length() {
        let sizes = huge(&answer("1", r#"{"text":"This is"}"#), "").map(|piece| piece.map_or(0, |piece| piece.len()));
        assert_eq!(sizes.fold(0, |sum, size| async move { sum + size }).await, HUGE_BYTES);
    }

    #[tokio::test]
    async fn endless_answers_go_on() {
        for behaviour in [Behaviour::Trickles, Behaviour::EndlessComments, Behaviour::EndlessNotifications] {
            let hostile = Hostile::start(behaviour).await;
            let port = hostile.url.split([':', '/']).nth(4).unwrap().parse().unwrap();
            let reply = raw_client::post(port, "", CALL, 400).await.unwrap();
            assert_eq!(reply.head.len() + reply.body.len(), 400, "{behaviour:?}");
        }
    }

    #[tokio::test]
    async fn nobody_listens_where_connections_are_refused() {
        let hostile = Hostile::start(Behaviour::Refuses).await;
        assert_eq!(ask(&hostile, CALL).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }

    #[tokio::test]
    async fn whoever_follows_a_redirect_is_counted() {
        let hostile = Hostile::start(Behaviour::Redirects).await;
        let reply = ask(&hostile, CALL).await.unwrap();
        let place = reply.header("location").unwrap().strip_prefix("http://").unwrap().strip_suffix("/mcp").unwrap();
        let mut there = tokio::net::TcpStream::connect(place).await.unwrap();
        // It is closed once it is counted.
        let _ = tokio::io::AsyncReadExt::read(&mut there, &mut [0]).await;
        assert_eq!(hostile.followed(), 1);
    }

    #[test]
    fn checksums_are_those_of_gzip() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }
}
