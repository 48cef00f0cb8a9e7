//! An upstream of either era that answers with what the test writes, and remembers what it got.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use portcullis_tests::Gateway;
use portcullis_tests::gateway::Builder;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// A message that arrived.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) headers: HeaderMap,
    pub(super) message: Value,
}

impl Seen {
    pub(super) fn is(&self, method: &str) -> bool {
        self.message["method"] == method
    }
}

/// Answers a call with the member of its response: `"result":{…}` or `"error":{…}`.
type Answer = Box<dyn Fn(&Seen) -> String + Send + Sync>;

/// Ends when it is dropped. It has one tool, `tool`, and one prompt, `prompt`.
pub(super) struct Script {
    pub(super) url: String,
    shared: Arc<Shared>,
    _serving: JoinSet<()>,
}

struct Shared {
    is_modern: bool,
    /// Of the server, as JSON.
    capabilities: Value,
    answer: Answer,
    seen: Mutex<Vec<Seen>>,
}

impl Script {
    /// `answer` answers what is neither a handshake nor a list.
    pub(super) async fn start(is_modern: bool, answer: impl Fn(&Seen) -> String + Send + Sync + 'static) -> Self {
        Self::with(is_modern, json!({ "tools": {}, "prompts": {} }), answer).await
    }

    pub(super) async fn with(
        is_modern: bool,
        capabilities: Value,
        answer: impl Fn(&Seen) -> String + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/mcp", listener.local_addr().unwrap());
        let shared = Shared { is_modern, capabilities, answer: Box::new(answer), seen: Mutex::default() };
        let shared = Arc::new(shared);
        let mut serving = JoinSet::new();
        serving.spawn(accept(listener, shared.clone()));
        Self { url, shared, _serving: serving }
    }

    /// A gateway in front of it, with the keys `alice` and `bob`.
    pub(super) async fn gateway(&self) -> Gateway {
        self.gateway_with(Gateway::builder().key("alice").key("bob")).await
    }

    pub(super) async fn gateway_with(&self, builder: Builder) -> Gateway {
        let builder = builder.section("[mcp]\nlegacy_sse = true");
        let gateway = builder.http_upstream("up", &self.url).start().await;
        gateway.until_upstreams_are_up().await;
        gateway
    }

    /// What arrived of this method, in order.
    pub(super) fn seen(&self, method: &str) -> Vec<Seen> {
        let seen = self.shared.seen.lock().unwrap();
        seen.iter().filter(|seen| seen.is(method)).cloned().collect()
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let shared = shared.clone();
        connections.spawn(async move {
            let service = service_fn(|request| take(&shared, request));
            // A connection that ends early has nothing more to tell.
            _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn take(shared: &Shared, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let status = |status| Ok(Response::builder().status(status).body(Full::default()).unwrap());
    if request.method() != "POST" {
        return status(StatusCode::METHOD_NOT_ALLOWED);
    }
    let (parts, body) = request.into_parts();
    let message: Value = serde_json::from_slice(&body.collect().await.unwrap().to_bytes()).unwrap();
    let seen = Seen { headers: parts.headers, message };
    shared.seen.lock().unwrap().push(seen.clone());
    let (Some(id), Some(method)) = (seen.message.get("id"), seen.message["method"].as_str()) else {
        return status(StatusCode::ACCEPTED);
    };
    let member = match method {
        "server/discover" if shared.is_modern => result(&json!({
            "resultType": "complete", "supportedVersions": ["2026-07-28"], "capabilities": shared.capabilities,
        })),
        "server/discover" => return status(StatusCode::BAD_REQUEST),
        "initialize" if shared.is_modern => return status(StatusCode::BAD_REQUEST),
        "initialize" => result(&json!({
            "protocolVersion": "2025-11-25", "capabilities": shared.capabilities,
            "serverInfo": { "name": "script", "version": "1" },
        })),
        "tools/list" => {
            let tool = json!({
                "name": "tool", "inputSchema": { "type": "object" }, "execution": { "taskSupport": "optional" },
            });
            result(&json!({ "resultType": "complete", "tools": [tool] }))
        }
        "prompts/list" => result(&json!({ "resultType": "complete", "prompts": [{ "name": "prompt" }] })),
        _ => (shared.answer)(&seen),
    };
    let body = format!(r#"{{"jsonrpc":"2.0","id":{id},{member}}}"#);
    Ok(Response::builder().header(CONTENT_TYPE, "application/json").body(body.into()).unwrap())
}

/// A result as a member.
pub(super) fn result(result: &Value) -> String {
    format!(r#""result":{result}"#)
}
