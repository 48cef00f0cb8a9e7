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
    (!lines.is_empty()).then(|| lines.join("\n"))
}

/// Somebody who calls the gateway.
pub struct Caller {
    address: SocketAddr,
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
        Self { address, headers, next_id: AtomicU64::new(1) }
    }

    /// The same caller once more, with request ids of its own.
    #[must_use]
    pub fn copy(&self) -> Self {
        Self { address: self.address, headers: self.headers.clone(), next_id: AtomicU64::new(1) }
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

    /// Posts a body to `/mcp` as it is.
    pub async fn post(&self, body: impl Into<Bytes>) -> Reply {
        self.send("POST", "/mcp", body).await
    }

    /// A modern request, with its envelope and headers.
    pub async fn modern(&self, method: &str, params: Value) -> Reply {
        let (headers, body) = self.modern_request(method, params);
        Self { address: self.address, headers, next_id: AtomicU64::new(1) }.post(body).await
    }

    /// Headers and body of a modern request.
    pub fn modern_request(&self, method: &str, mut params: Value) -> (HeaderMap, String) {
        let mut headers = self.headers.clone();
        headers.insert("mcp-protocol-version", HeaderValue::from_static("2026-07-28"));
        headers.insert("mcp-method", HeaderValue::try_from(method).unwrap());
        if let Some(name) = params["name"].as_str() {
            headers.insert("mcp-name", HeaderValue::try_from(name).unwrap());
        }
        let meta = &mut params["_meta"];
        let mut envelope = modern_meta();
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
        let params = json!({ "protocolVersion": version, "capabilities": {}, "clientInfo": { "name": "tests", "version": "1" } });
        let reply = self.request("initialize", params).await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
        let mut headers = self.headers.clone();
        headers.insert("mcp-session-id", reply.headers["mcp-session-id"].clone());
        let version = reply.json()["result"]["protocolVersion"].as_str().unwrap().to_owned();
        headers.insert("mcp-protocol-version", HeaderValue::try_from(version).unwrap());
        let session = Self { address: self.address, headers, next_id: AtomicU64::new(100) };
        let initialized = session.post(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#).await;
        assert_eq!(initialized.status, StatusCode::ACCEPTED);
        session
    }

    /// A request in legacy form.
    pub async fn request(&self, method: &str, params: Value) -> Reply {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        self.post(json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }).to_string()).await
    }
}

/// Sends a request over a Unix socket.
pub async fn send_unix(socket: &Path, method: &str, path: &str, body: Option<Value>) -> anyhow::Result<Reply> {
    let stream = tokio::net::UnixStream::connect(socket).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let body = body.map(|body| body.to_string()).unwrap_or_default();
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, "localhost")
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))?;
    let (parts, body) = sender.send_request(request).await?.into_parts();
    Ok(Reply { status: parts.status, headers: parts.headers, body: body.collect().await?.to_bytes() })
}
