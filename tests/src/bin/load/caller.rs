//! Somebody who calls, on one connection, as fast as answers come.

use std::net::SocketAddr;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use clap::ValueEnum;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use portcullis_tests::caller::modern_meta;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::programs::{Target, key};

const SESSION: &str = "mcp-session-id";
/// How much of an answer is looked at.
const START_BYTES: usize = 512;

/// What a caller speaks.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Era {
    /// 2026-07-28.
    Modern,
    /// 2025-11-25, within a session of the connection.
    Legacy,
}

/// A connection, and the headers of everything that is sent over it. The connection ends with it.
pub(crate) struct Caller {
    sender: SendRequest<Full<Bytes>>,
    driver: JoinHandle<hyper::Result<()>>,
    pub(crate) headers: HeaderMap,
    path: &'static str,
    era: Era,
}

/// A request that is sent again and again.
#[derive(Clone)]
pub(crate) struct Prepared {
    headers: HeaderMap,
    body: Bytes,
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Caller {
    /// Connects with the key of this number; in the legacy era, also opens a session.
    pub(crate) async fn connect(target: &Target, era: Era, key_number: usize) -> anyhow::Result<Self> {
        Self::connect_as(target, era, &key(key_number)).await
    }

    /// The same with this credential.
    pub(crate) async fn connect_as(target: &Target, era: Era, credential: &str) -> anyhow::Result<Self> {
        let mut caller = Self::open(target, era, credential).await?;
        if era == Era::Legacy {
            let session = caller.open_session().await?;
            caller.headers.insert(SESSION, session);
            caller.headers.insert("mcp-protocol-version", HeaderValue::from_static("2025-11-25"));
        }
        Ok(caller)
    }

    pub(crate) async fn connect_only(target: &Target, era: Era, key_number: usize) -> anyhow::Result<Self> {
        Self::open(target, era, &key(key_number)).await
    }

    async fn open(target: &Target, era: Era, credential: &str) -> anyhow::Result<Self> {
        let address = target.process.address;
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        let driver = tokio::spawn(connection);
        Ok(Self { sender, driver, headers: headers(address, credential), path: target.path, era })
    }

    /// Opens a session, over whatever connection; its id.
    pub(crate) async fn open_session(&mut self) -> anyhow::Result<HeaderValue> {
        let params = json!({ "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": "load", "version": "1" } });
        let body =
            Bytes::from(json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params }).to_string());
        let response = self.send(&Prepared { headers: self.headers.clone(), body }).await?;
        let session = response.headers().get(SESSION).cloned();
        let answer = response.into_body().collect().await?.to_bytes();
        session.with_context(|| format!("no session: {}", String::from_utf8_lossy(&answer)))
    }

    /// A request with all that its era wants.
    pub(crate) fn prepare(&self, method: &'static str, mut params: Value) -> Prepared {
        let mut headers = self.headers.clone();
        if self.era == Era::Modern {
            headers.insert("mcp-protocol-version", HeaderValue::from_static("2026-07-28"));
            headers.insert("mcp-method", HeaderValue::from_static(method));
            if let Some(name) = params["name"].as_str() {
                headers.insert("mcp-name", HeaderValue::try_from(name).expect("names of tools are ASCII"));
            }
            let mut meta = modern_meta();
            if let (Some(meta), Some(own)) = (meta.as_object_mut(), params["_meta"].as_object()) {
                meta.extend(own.clone());
            }
            params["_meta"] = meta;
        }
        let body = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params }).to_string();
        Prepared { headers, body: body.into() }
    }

    pub(crate) async fn send(&mut self, prepared: &Prepared) -> anyhow::Result<Response<Incoming>> {
        self.request(Method::POST, prepared.headers.clone(), prepared.body.clone()).await
    }

    /// Asks for the stream of a legacy session.
    pub(crate) async fn get_stream(&mut self, session: HeaderValue) -> anyhow::Result<Response<Incoming>> {
        let mut headers = self.headers.clone();
        headers.insert(SESSION, session);
        headers.insert("mcp-protocol-version", HeaderValue::from_static("2025-11-25"));
        headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
        headers.remove(CONTENT_TYPE);
        self.request(Method::GET, headers, Bytes::new()).await
    }

    async fn request(&mut self, method: Method, headers: HeaderMap, body: Bytes) -> anyhow::Result<Response<Incoming>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = http::Uri::from_static(self.path);
        *request.headers_mut() = headers;
        self.sender.ready().await?;
        Ok(self.sender.send_request(request).await?)
    }

    /// Sends a request and reads its answer to the end, which must be a result of at least so many bytes.
    pub(crate) async fn ask(&mut self, prepared: &Prepared, least_bytes: usize) -> anyhow::Result<()> {
        let response = self.send(prepared).await?;
        let status = response.status();
        let (mut start, mut length) = (Vec::with_capacity(START_BYTES), 0);
        let mut body = response.into_body();
        while let Some(frame) = body.frame().await {
            if let Ok(piece) = frame?.into_data() {
                length += piece.len();
                start.extend_from_slice(&piece[..piece.len().min(START_BYTES.saturating_sub(start.len()))]);
            }
        }
        ensure!(
            status.is_success() && length >= least_bytes && contains(&start, b"\"result\""),
            "{status} with {length} bytes: {}",
            String::from_utf8_lossy(&start)
        );
        Ok(())
    }
}

pub(crate) fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

fn headers(address: SocketAddr, credential: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(HOST, HeaderValue::try_from(address.to_string()).expect("an address is a host"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
    let credential = format!("Bearer {credential}");
    headers.insert(AUTHORIZATION, HeaderValue::try_from(credential).expect("a credential is a header value"));
    headers
}
