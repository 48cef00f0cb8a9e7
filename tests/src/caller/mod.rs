//! A caller that speaks raw HTTP and JSON-RPC, so that a test sees every status, header and byte.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a harness fails loudly, and its tasks end with the test"
)]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};

mod sse;
mod stream;

pub use sse::SseSession;
pub use stream::{Event, Stream};

/// A whole answer.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Reply {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("answers are UTF-8")
    }

    /// The body as JSON; of an event stream, its last message.
    pub fn json(&self) -> Value {
        match self.messages().pop() {
            Some(last) => serde_json::from_str(&last).expect("a message is JSON"),
            None => Value::Null,
        }
    }

    /// The messages: one of a JSON body, each event's of a stream.
    pub fn messages(&self) -> Vec<String> {
        let is_stream = self.headers.get(CONTENT_TYPE).is_some_and(|kind| kind == "text/event-stream");
        match is_stream {
            true => self.text().split("\n\n").filter_map(event_data).collect(),
            false if self.body.is_empty() => Vec::new(),
            false => vec![self.text().to_owned()],
        }
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("headers are text"))
    }
}

fn event_data(event: &str) -> Option<String> {
    let lines: Vec<&str> = event.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    // Without data it is none, whatever its id (HTML § 9.2.6).
    Some(lines.join("\n")).filter(|data| !data.is_empty())
}

/// Somebody who calls the gateway.
pub struct Caller {
    address: SocketAddr,
    /// Where messages are posted.
    path: String,
    /// What the client declares.
    capabilities: Value,
    /// Sent with each request; a test may change them.
    pub headers: HeaderMap,
    next_id: AtomicU64,
}

/// The envelope that each modern request carries.
pub fn modern_meta() -> Value {
    json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": { "name": "tests", "version": "1" },
    })
}

impl Caller {
    pub fn new(address: SocketAddr, key: Option<String>) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::try_from(address.to_string()).unwrap());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
        if let Some(key) = key {
            headers.insert(AUTHORIZATION, HeaderValue::try_from(format!("Bearer {key}")).unwrap());
        }
        Self { address, path: "/mcp".to_owned(), capabilities: json!({}), headers, next_id: AtomicU64::new(1) }
    }

    /// The same caller once more, with request ids of its own.
    #[must_use]
    pub fn copy(&self) -> Self {
        self.copy_with(self.headers.clone())
    }

    fn copy_with(&self, headers: HeaderMap) -> Self {
        let (path, capabilities) = (self.path.clone(), self.capabilities.clone());
        Self { address: self.address, path, capabilities, headers, next_id: AtomicU64::new(1) }
    }

    /// The same caller at another address: another replica of the same gateway.
    #[must_use]
    pub fn at_replica(&self, address: SocketAddr) -> Self {
        let mut headers = self.headers.clone();
        headers.insert(HOST, HeaderValue::try_from(address.to_string()).unwrap());
        // Ids go on, since a session is one and the same everywhere.
        let next_id = AtomicU64::new(self.next_id.load(Ordering::Relaxed) + 1_000);
        Self { address, next_id, ..self.copy_with(headers) }
    }

    /// The same caller at another path than `/mcp`.
    #[must_use]
    pub fn at(mut self, path: &str) -> Self {
        path.clone_into(&mut self.path);
        self
    }

    /// The same caller with a client that declares these capabilities, in modern requests and when it initializes.
    #[must_use]
    pub fn able(mut self, capabilities: Value) -> Self {
        self.capabilities = capabilities;
        self
    }

    /// The same caller with another header.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.insert(HeaderName::from_static(name), HeaderValue::try_from(value).unwrap());
        self
    }

    /// The same caller without a header.
    #[must_use]
    pub fn without(mut self, name: &'static str) -> Self {
        self.headers.remove(name);
        self
    }

    /// Sends a request and gives the answer as it begins.
    pub async fn open(&self, method: &str, path: &str, body: impl Into<Bytes>) -> (StatusCode, HeaderMap, Incoming) {
        let stream = tokio::net::TcpStream::connect(self.address).await.expect("the gateway accepts connections");
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let mut request = Request::new(Full::new(body.into()));
        *request.method_mut() = Method::from_bytes(method.as_bytes()).unwrap();
        *request.uri_mut() = path.parse().unwrap();
        *request.headers_mut() = self.headers.clone();
        let (parts, body) = sender.send_request(request).await.expect("the gateway answers").into_parts();
        (parts.status, parts.headers, body)
    }

    /// Sends a request and gives the whole answer.
    pub async fn send(&self, method: &str, path: &str, body: impl Into<Bytes>) -> Reply {
        let (status, headers, body) = self.open(method, path, body).await;
        Reply { status, headers, body: body.collect().await.expect("the answer arrives whole").to_bytes() }
    }

    /// Posts a body to `/mcp`, or where else the caller is, as it is.
    pub async fn post(&self, body: impl Into<Bytes>) -> Reply {
        self.send("POST", &self.path, body).await
    }

    /// Posts a body, and reads the answer as it comes.
    pub async fn begin(&self, body: impl Into<Bytes>) -> Stream {
        Stream::of(self.open("POST", &self.path, body).await)
    }

    /// The stream of a session that belongs to no request, or with `last` what is left of a stream behind that event.
    pub async fn listen(&self, last: Option<&str>) -> Stream {
        let mut listener = self.copy();
        listener.headers.remove(CONTENT_TYPE);
        listener.headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
        if let Some(last) = last {
            listener.headers.insert("last-event-id", HeaderValue::try_from(last).unwrap());
        }
        Stream::of(listener.open("GET", &self.path, "").await)
    }

    /// A modern request, with its envelope and headers.
    pub async fn modern(&self, method: &str, params: Value) -> Reply {
        let (headers, body) = self.modern_request(method, params);
        self.copy_with(headers).post(body).await
    }

    /// The same, and the answer as it comes.
    pub async fn begin_modern(&self, method: &str, params: Value) -> Stream {
        let (headers, body) = self.modern_request(method, params);
        self.copy_with(headers).begin(body).await
    }

    /// Headers and body of a modern request.
    pub fn modern_request(&self, method: &str, mut params: Value) -> (HeaderMap, String) {
        let mut headers = self.headers.clone();
        headers.insert("mcp-protocol-version", HeaderValue::from_static("2026-07-28"));
        headers.insert("mcp-method", HeaderValue::try_from(method).unwrap());
        let member = match method {
            "resources/read" | "resources/directory/read" => "uri",
            "tasks/get" | "tasks/update" | "tasks/cancel" => "taskId",
            _ => "name",
        };
        if let Some(name) = params[member].as_str() {
            headers.insert("mcp-name", HeaderValue::try_from(name).unwrap());
        }
        let meta = &mut params["_meta"];
        let mut envelope = modern_meta();
        envelope["io.modelcontextprotocol/clientCapabilities"] = self.capabilities.clone();
        if let (Some(envelope), Some(own)) = (envelope.as_object_mut(), meta.as_object()) {
            envelope.extend(own.clone());
        }
        *meta = envelope;
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        (headers, json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }).to_string())
    }

    /// A modern `tools/call`.
    pub async fn call(&self, tool: &str, arguments: Value) -> Reply {
        self.modern("tools/call", json!({ "name": tool, "arguments": arguments })).await
    }

    /// The names in a modern `tools/list`, all pages.
    pub async fn tool_names(&self) -> Vec<String> {
        let mut names = Vec::new();
        let mut params = json!({});
        loop {
            let result = self.modern("tools/list", params).await.json()["result"].clone();
            let tools = result["tools"].as_array().unwrap_or_else(|| panic!("no tools in {result}")).clone();
            names.extend(tools.iter().map(|tool| tool["name"].as_str().unwrap().to_owned()));
            match result["nextCursor"].as_str() {
                Some(cursor) => params = json!({ "cursor": cursor }),
                None => return names,
            }
        }
    }

    /// The same caller within a new legacy session.
    pub async fn initialize(&self, version: &str) -> Self {
        let reply = self.request("initialize", self.initialize_params(version)).await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
        let mut headers = self.headers.clone();
        headers.insert("mcp-session-id", reply.headers["mcp-session-id"].clone());
        let version = reply.json()["result"]["protocolVersion"].as_str().unwrap().to_owned();
        headers.insert("mcp-protocol-version", HeaderValue::try_from(version).unwrap());
        let session = Self { next_id: AtomicU64::new(100), ..self.copy_with(headers) };
        let initialized = session.post(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#).await;
        assert_eq!(initialized.status, StatusCode::ACCEPTED);
        session
    }

    fn initialize_params(&self, version: &str) -> Value {
        let client = json!({ "name": "tests", "version": "1" });
        json!({ "protocolVersion": version, "capabilities": self.capabilities, "clientInfo": client })
    }

    /// A request in legacy form.
    pub async fn request(&self, method: &str, params: Value) -> Reply {
        self.post(self.legacy_request(method, params)).await
    }

    /// The same, and the answer as it comes.
    pub async fn begin_request(&self, method: &str, params: Value) -> Stream {
        self.begin(self.legacy_request(method, params)).await
    }

    /// The body of a request in legacy form.
    pub fn legacy_request(&self, method: &str, params: Value) -> String {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let mut request = json!({ "jsonrpc": "2.0", "id": id, "method": method });
        request["params"] = params;
        request.to_string()
    }

    /// Posts a notification, which is accepted.
    pub async fn notify(&self, method: &str, params: Value) {
        self.accepted(json!({ "jsonrpc": "2.0", "method": method, "params": params })).await;
    }

    /// Posts the result of a request that the gateway made on a stream, which is accepted.
    pub async fn respond(&self, request: &Value, result: Value) {
        self.accepted(json!({ "jsonrpc": "2.0", "id": request["id"], "result": result })).await;
    }

    /// Posts an error in the place of a result.
    pub async fn respond_error(&self, request: &Value, error: Value) {
        self.accepted(json!({ "jsonrpc": "2.0", "id": request["id"], "error": error })).await;
    }

    async fn accepted(&self, message: Value) {
        let reply = self.post(message.to_string()).await;
        assert_eq!((reply.status, reply.text()), (StatusCode::ACCEPTED, ""), "{message}");
    }
}

/// Sends a request over a Unix socket.
pub async fn send_unix(socket: &Path, method: &str, path: &str, body: Option<Value>) -> anyhow::Result<Reply> {
    let body = body.map(|body| body.to_string()).unwrap_or_default();
    send_unix_bytes(socket, method, path, ("application/json", body.into())).await
}

/// The same with a body of any type.
pub async fn send_unix_bytes(
    socket: &Path,
    method: &str,
    path: &str,
    (media_type, body): (&str, Bytes),
) -> anyhow::Result<Reply> {
    let stream = tokio::net::UnixStream::connect(socket).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, "localhost")
        .header(CONTENT_TYPE, media_type)
        .body(Full::new(body))?;
    let (parts, body) = sender.send_request(request).await?.into_parts();
    Ok(Reply { status: parts.status, headers: parts.headers, body: body.collect().await?.to_bytes() })
}
