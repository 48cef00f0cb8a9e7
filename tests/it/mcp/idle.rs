//! What rests costs little (threat H7): thousands of sessions with their streams, and thousands of subscriptions, in a
//! gateway of its own process, whose memory is looked at from outside.

#![expect(clippy::print_stdout, reason = "what was measured is worth reading")]

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, Version};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use portcullis_tests::caller::send_unix;
use portcullis_tests::gateway::SOON;
use portcullis_tests::upstreams::fixture::Fixture;
use portcullis_tests::{Caller, Gateway, program};
use serde_json::json;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// Streams that are opened.
const STREAMS: usize = 5_000;
/// Streams on one connection.
const PER_CONNECTION: usize = 250;
const KEYS: usize = 5;
/// What one more session with its stream, or subscription, may cost, in bytes, with all that HTTP/2 needs for it. It was
/// 20 KiB when this was written; `load --only idle` measures the parts of it.
const MOST_EACH: usize = 32 * 1024;
/// What may be added while nothing is, in bytes.
const MOST_MORE: usize = 16 * 1024 * 1024;

/// A gateway in a process of its own, which ends with this.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

impl Process {
    async fn start(dir: &Path) -> Self {
        let mut command = Command::new(program("portcullis"));
        let command = command.arg("serve").current_dir(dir).stdout(Stdio::null()).stderr(Stdio::null());
        let process = Self(command.spawn().unwrap());
        let ready = async {
            loop {
                if let Ok(status) = send_unix(&dir.join("data/admin.sock"), "GET", "/api/v1/status", None).await
                    && status.json()["ready"] == true
                {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(SOON, ready).await.expect("the gateway gets ready");
        process
    }

    /// Resident memory, in bytes.
    fn resident(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a running process has memory");
        line.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() * 1024
    }

    /// The same once nothing happens any more.
    async fn settled(&self) -> usize {
        tokio::time::sleep(Duration::from_secs(2)).await;
        self.resident()
    }
}

type Sender = http2::SendRequest<Full<Bytes>>;

/// One connection, driven by `tasks`.
async fn connect(address: std::net::SocketAddr, tasks: &mut JoinSet<()>) -> Sender {
    let stream = TcpStream::connect(address).await.unwrap();
    // What follows the head of a request does not wait for an acknowledgement.
    stream.set_nodelay(true).unwrap();
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tasks.spawn(async move { _ = connection.await });
    sender
}

async fn send(sender: &Sender, method: Method, headers: &HeaderMap, body: String) -> (StatusCode, HeaderMap, Incoming) {
    let host = headers["host"].to_str().unwrap();
    let mut request = Request::builder()
        .method(method)
        .uri(format!("http://{host}/mcp"))
        .version(Version::HTTP_2)
        .body(Full::new(Bytes::from(body)))
        .unwrap();
    request
        .headers_mut()
        .extend(headers.iter().filter(|(name, _)| *name != "host").map(|(name, value)| (name.clone(), value.clone())));
    let (parts, body) = sender.clone().send_request(request).await.unwrap().into_parts();
    (parts.status, parts.headers, body)
}

/// What is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A session of its own, and its stream.
    Session,
    /// `subscriptions/listen`.
    Subscription,
}

/// Streams that stay open, and what keeps them.
struct Streams {
    bodies: Vec<Incoming>,
    /// The headers that name each session.
    sessions: Vec<HeaderMap>,
    _connections: JoinSet<()>,
}

impl Streams {
    /// Ends everything, as callers do that leave in good order.
    async fn close(self, address: std::net::SocketAddr) {
        drop(self.bodies);
        let mut connections = JoinSet::new();
        let sender = connect(address, &mut connections).await;
        for headers in &self.sessions {
            let (status, ..) = send(&sender, Method::DELETE, headers, String::new()).await;
            assert_eq!(status, StatusCode::NO_CONTENT);
        }
    }
}

/// Opens streams until there are enough, each of a session of its own or a subscription.
async fn open(address: std::net::SocketAddr, kind: Kind, count: usize) -> Streams {
    let mut connections = JoinSet::new();
    let (mut bodies, mut sessions) = (Vec::with_capacity(count), Vec::new());
    for number in 0..count / PER_CONNECTION {
        let sender = connect(address, &mut connections).await;
        let caller = Caller::new(address, Some(Gateway::secret(&format!("key-{}", number % KEYS))));
        for _ in 0..PER_CONNECTION {
            let (status, _, body) = if kind == Kind::Session {
                let params = json!({ "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": "tests", "version": "1" } });
                let initialize = caller.legacy_request("initialize", params);
                let (status, opened, _) = send(&sender, Method::POST, &caller.headers, initialize).await;
                assert_eq!(status, StatusCode::OK);
                let mut headers = caller.headers.clone();
                headers.insert("mcp-session-id", opened["mcp-session-id"].clone());
                headers.insert("mcp-protocol-version", "2025-11-25".parse().unwrap());
                headers.remove("content-type");
                let stream = send(&sender, Method::GET, &headers, String::new()).await;
                sessions.push(headers);
                stream
            } else {
                let filter = json!({ "toolsListChanged": true, "promptsListChanged": true });
                let (headers, body) = caller.modern_request("subscriptions/listen", json!({ "notifications": filter }));
                send(&sender, Method::POST, &headers, body).await
            };
            assert_eq!(status, StatusCode::OK);
            bodies.push(body);
        }
    }
    Streams { bodies, sessions, _connections: connections }
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_idle_sessions_with_their_streams_take_little_memory_and_give_it_back() {
    rest(Kind::Session).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_idle_subscriptions_take_little_memory_and_give_it_back() {
    rest(Kind::Subscription).await;
}

async fn rest(kind: Kind) {
    let up = Fixture::start().await;
    let (dir, address) = configured(&up);
    let gateway = Process::start(dir.path()).await;
    let caller = Caller::new(address, Some(Gateway::secret("key-0")));
    for _ in 0..200 {
        assert_eq!(caller.call("up__echo", json!({})).await.status, StatusCode::OK);
    }
    let before = gateway.settled().await;
    let streams = open(address, kind, STREAMS).await;
    assert_eq!(streams.bodies.len(), STREAMS);
    let with = gateway.settled().await;
    let each = with.saturating_sub(before) / STREAMS;
    println!("{STREAMS} × {kind:?}: {each} bytes each, {before} before");
    assert!(each < MOST_EACH, "{each} bytes for each {kind:?}");
    // They rest: nothing grows by itself, and others are served.
    let later = gateway.settled().await;
    assert!(later.saturating_sub(with) < MOST_MORE, "it grows from {with} to {later} while nothing happens");
    assert_eq!(caller.call("up__echo", json!({})).await.status, StatusCode::OK);
    streams.close(address).await;
    // What they took is used again by whoever comes next.
    for round in 0..3 {
        gateway.settled().await;
        open(address, kind, STREAMS / 2).await.close(address).await;
        let again = gateway.settled().await;
        println!("round {round}: {again}");
        assert!(again.saturating_sub(later) < MOST_MORE, "round {round} takes it from {later} to {again}");
    }
}

/// A directory with a configuration for many streams.
fn configured(up: &Fixture) -> (TempDir, std::net::SocketAddr) {
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let dir = TempDir::new().unwrap();
    let mut file = format!(
        "data_dir = \"data\"\n[listen]\npublic = \"{address}\"\nadmin = \"off\"\n[store]\nurl = \"memory:\"\n\
         [edge]\nmax_http2_streams = 1000\n\
         [limits]\nsessions = 100000\nsession_idle = \"1h\"\nstreams = 20000\nstreams_per_principal = 20000\ncalls_per_principal = 10000\n\
         [upstreams.up]\nurl = \"{}\"\n",
        up.url
    );
    for key in 0..KEYS {
        let name = format!("key-{key}");
        std::fs::write(dir.path().join(&name), Gateway::secret(&name)).unwrap();
        file +=
            &format!("[keys.{name}]\nsecret = \"file:{name}\"\nallow = [{{ upstream = \"*\", tools = [\"*\"] }}]\n");
    }
    std::fs::write(dir.path().join("portcullis.toml"), file).unwrap();
    (dir, address)
}
