//! A caller of revision 2025-11-25: within a session, answering what it is asked, and coming back for what a stream owes it.

use anyhow::{Context as _, bail, ensure};
use http::{HeaderValue, StatusCode};
use portcullis_tests::{Caller, Gateway};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::stream::Messages;
use crate::{KEY, answer, capabilities};

const REVISION: &str = "2025-11-25";

pub(crate) struct Session {
    caller: Caller,
    next_id: u64,
}

impl Session {
    pub(crate) async fn open(gateway: &Gateway) -> anyhow::Result<Self> {
        let mut caller = gateway.caller(KEY);
        let params = json!({
            "protocolVersion": REVISION,
            "capabilities": capabilities(),
            "clientInfo": { "name": "conformance-client", "version": "1" },
        });
        let reply = caller.request("initialize", params).await;
        ensure!(reply.status == StatusCode::OK, "initialize: {} {}", reply.status, reply.text());
        let revision = reply.json()["result"]["protocolVersion"].clone();
        ensure!(revision == REVISION, "the gateway speaks {revision}");
        let session = reply.headers.get("mcp-session-id").context("the gateway opens no session")?.clone();
        caller.headers.insert("mcp-session-id", session);
        caller.headers.insert("mcp-protocol-version", HeaderValue::from_static(REVISION));
        let initialized = caller.post(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#).await;
        ensure!(initialized.status == StatusCode::ACCEPTED, "initialized: {}", initialized.status);
        Ok(Self { caller, next_id: 1 })
    }

    /// Opens the stream for what a server says outside of requests, and answers what is asked there until it is dropped.
    pub(crate) async fn listen(&self) -> anyhow::Result<Listening> {
        let caller = self.caller.copy();
        let mut messages = Messages::of(caller.open("GET", "/mcp", "").await).await?;
        Ok(Listening(tokio::spawn(async move {
            while let Some(message) = messages.next().await? {
                reply(&caller, &message).await?;
            }
            Ok(())
        })))
    }

    /// Makes a request; its result.
    pub(crate) async fn request(&mut self, method: &str, params: Value) -> anyhow::Result<Value> {
        let id = self.next_id;
        self.next_id += 1;
        let body = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }).to_string();
        let mut messages = Messages::of(self.caller.open("POST", "/mcp", body).await).await?;
        loop {
            while let Some(message) = messages.next().await? {
                if message["method"].is_string() {
                    reply(&self.caller, &message).await?;
                } else {
                    ensure!(message["id"] == id, "{method} is answered by {message}");
                    return message.get("result").cloned().with_context(|| format!("{method}: {message}"));
                }
            }
            let Some(last) = messages.last_event_id.take() else { bail!("{method} is not answered") };
            tokio::time::sleep(messages.retry).await;
            let mut caller = self.caller.copy();
            caller.headers.insert("last-event-id", HeaderValue::try_from(last)?);
            messages = Messages::of(caller.open("GET", "/mcp", "").await).await?;
        }
    }

    pub(crate) async fn call(&mut self, tool: &str, arguments: &Value) -> anyhow::Result<Value> {
        self.request("tools/call", json!({ "name": tool, "arguments": arguments })).await
    }

    /// All items of a list, such as `tools` of `tools/list`.
    pub(crate) async fn list(&mut self, method: &str, member: &str) -> anyhow::Result<Vec<Value>> {
        let page = self.request(method, json!({})).await?;
        ensure!(page.get("nextCursor").is_none(), "{method} has more than a page");
        page[member].as_array().cloned().with_context(|| format!("no {member} in {page}"))
    }
}

/// A stream that is listened to.
pub(crate) struct Listening(JoinHandle<anyhow::Result<()>>);

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Answers a message if it is a request.
async fn reply(caller: &Caller, message: &Value) -> anyhow::Result<()> {
    let (Some(method), Some(id)) = (message["method"].as_str(), message.get("id")) else { return Ok(()) };
    let result = answer(method, &message["params"])?;
    let accepted = caller.post(json!({ "jsonrpc": "2.0", "id": id, "result": result }).to_string()).await;
    ensure!(accepted.status == StatusCode::ACCEPTED, "the answer to {method}: {}", accepted.status);
    Ok(())
}
