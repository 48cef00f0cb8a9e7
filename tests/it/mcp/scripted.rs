//! An upstream whose tools are defined, and whose calls are answered, with a text of the test's choice.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// Ends when it is dropped.
pub(super) struct Scripted {
    pub(super) url: String,
    script: Arc<Script>,
    _serving: JoinSet<()>,
}

struct Script {
    definitions: String,
    /// The member of the response that answers a call: `"result":{…}` or `"error":{…}`.
    answer: Mutex<String>,
}

impl Scripted {
    /// `definitions` is the JSON text of each tool.
    pub(super) async fn start(definitions: &[&str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/mcp", listener.local_addr().unwrap());
        let answer = Mutex::new(r#""result":{"content":[]}"#.to_owned());
        let script = Arc::new(Script { definitions: definitions.join(","), answer });
        let mut serving = JoinSet::new();
        serving.spawn(accept(listener, script.clone()));
        Self { url, script, _serving: serving }
    }

    /// From now on calls are answered like this.
    pub(super) fn answer(&self, member: &str) {
        member.clone_into(&mut self.script.answer.lock().unwrap());
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

async fn answer(script: &Script, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    #[derive(Deserialize)]
    struct Message<'a> {
        #[serde(borrow)]
        id: Option<&'a RawValue>,
        #[serde(default)]
        method: String,
    }
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let message: Option<Message<'_>> = serde_json::from_slice(&body).ok();
    let Some(Message { id: Some(id), method }) = message else {
        return Ok(Response::builder().status(StatusCode::ACCEPTED).body(Full::default()).unwrap());
    };
    let member = match method.as_str() {
        "initialize" => r#""result":{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"scripted","version":"1"}}"#.to_owned(),
        "tools/list" => format!(r#""result":{{"tools":[{}]}}"#, script.definitions),
        _ => script.answer.lock().unwrap().clone(),
    };
    let text = format!(r#"{{"jsonrpc":"2.0","id":{id},{member}}}"#);
    Ok(Response::builder().header(CONTENT_TYPE, "application/json").body(text.into()).unwrap())
}
