//! Callers, who know what an answer must be like.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use portcullis_tests::caller::modern_meta;
use portcullis_tests::proxies::dice::Dice;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::verdict::Verdict;
use crate::{CALL_TIMEOUT, KEY, SLACK};

const SESSION: &str = "mcp-session-id";
/// Between two calls of a caller, at most.
const REST: Duration = Duration::from_millis(40);
/// After one that the gateway refused by status.
const BACKOFF: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Era {
    Modern,
    Legacy,
}

/// What is asked, and what a result of it must be.
pub(crate) struct Call {
    method: &'static str,
    params: Value,
    /// In a result, at this place, this must be.
    expected: Option<(&'static str, Value)>,
    /// Whether the gateway can answer it alone, so that an error is a violation.
    always_answered: bool,
}

impl Call {
    fn tool(upstream: &str, tool: &str, arguments: &Value) -> Self {
        let params = json!({ "name": format!("{upstream}__{tool}"), "arguments": arguments });
        Self { method: "tools/call", params, expected: None, always_answered: false }
    }

    /// The answer must have what was said.
    pub(crate) fn echo(upstream: &str, nonce: u64) -> Self {
        let said = json!({ "nonce": nonce.to_string() });
        let expected = Some(("/structuredContent", said.clone()));
        Self { expected, ..Self::tool(upstream, "echo", &said) }
    }

    pub(crate) fn slow(upstream: &str, ms: u64) -> Self {
        let expected = Some(("/content/0/text", json!(format!("waited {ms} ms"))));
        Self { expected, ..Self::tool(upstream, "slow", &json!({ "ms": ms })) }
    }

    /// The tools are known to the gateway, whatever their upstreams do.
    fn list() -> Self {
        Self { method: "tools/list", params: json!({}), expected: None, always_answered: true }
    }

    fn any(dice: &mut Dice) -> Self {
        let upstream = dice.pick(&["json", "json", "sse", "sse", "child"]).copied().unwrap_or("json");
        match dice.below(10) {
            0..=3 => Self::echo(upstream, dice.roll()),
            4 | 5 => Self::tool(upstream, "blob", &json!({ "size": dice.below(300_000) })),
            6 => Self::slow(upstream, dice.below(2_000)),
            7 => {
                let mut call = Self::tool(upstream, "test_tool_with_progress", &json!({}));
                call.params["_meta"] = json!({ "progressToken": dice.below(1_000) });
                call
            }
            8 => Self::tool("dies", "dies", &json!({})),
            _ => Self::list(),
        }
    }
}

/// Somebody who calls, on a connection that is kept as long as it lasts.
pub(crate) struct Caller {
    address: SocketAddr,
    era: Era,
    dice: Dice,
    connection: Option<Connection>,
    session: Option<HeaderValue>,
    next_id: u64,
}

struct Connection {
    sender: SendRequest<Full<Bytes>>,
    /// Drives it, and ends with it.
    _driver: JoinSet<()>,
}

/// How a call ended that ended well.
enum Ending {
    Result,
    /// With the code, and the reason if one is given.
    Error(String),
    /// Refused by status, with a word on it.
    Refused(StatusCode),
}

impl Caller {
    pub(crate) fn new(address: SocketAddr, era: Era, dice: Dice) -> Self {
        Self { address, era, dice, connection: None, session: None, next_id: 1 }
    }

    /// Calls this and that, and now and then hangs up on a call or takes it back.
    pub(crate) async fn call_until(mut self, over: CancellationToken, verdict: Arc<Verdict>) {
        while !over.is_cancelled() {
            if self.dice.chance(0.05) {
                self.give_up(&verdict).await;
            } else {
                let call = Call::any(&mut self.dice);
                self.judge(call, &verdict).await;
            }
            sleep(self.dice.wait(REST)).await;
        }
    }

    /// Makes a call and judges its end. Whether it was answered with a result.
    pub(crate) async fn judge(&mut self, call: Call, verdict: &Verdict) -> bool {
        let started = Instant::now();
        let what = format!("{} {}", call.method, call.params);
        let ended = timeout(CALL_TIMEOUT + SLACK, self.make(&call)).await;
        let after = started.elapsed();
        let violation = |why: String| {
            verdict.ending("violation".to_owned(), after);
            verdict.violation(format!("{what:.200} after {after:?}: {why}"));
        };
        match ended {
            Ok(Ok(Ending::Result)) => {
                verdict.ending("a result".to_owned(), after);
                return true;
            }
            Ok(Ok(Ending::Error(error))) if call.always_answered => violation(error),
            Ok(Ok(Ending::Error(error))) => verdict.ending(format!("error {error}"), after),
            Ok(Ok(Ending::Refused(status))) => {
                verdict.ending(format!("refused with {status}"), after);
                self.session = None;
                sleep(BACKOFF).await;
            }
            Ok(Err(error)) => {
                self.connection = None;
                violation(format!("{error:#}"));
            }
            Err(_) => {
                self.connection = None;
                violation("no end".to_owned());
            }
        }
        false
    }

    async fn make(&mut self, call: &Call) -> anyhow::Result<Ending> {
        if self.era == Era::Legacy
            && self.session.is_none()
            && let Some(refused) = self.initialize().await?
        {
            return Ok(Ending::Refused(refused));
        }
        let (id, response) = self.send(call).await?;
        self.read(id, response, call).await
    }

    /// Begins a call and does not wait for its end: hangs up, or in a session takes it back.
    async fn give_up(&mut self, verdict: &Verdict) {
        let call = Call::slow(self.dice.pick(&["json", "sse", "child"]).copied().unwrap_or("json"), 1_500);
        let patience = Duration::from_millis(self.dice.below(300));
        let started = Instant::now();
        let id = self.next_id;
        if timeout(patience, self.make(&call)).await.is_err() {
            self.connection = None;
            if self.session.is_some() && self.dice.chance(0.5) {
                let params = json!({ "requestId": id });
                let body = json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": params });
                let headers = self.headers("notifications/cancelled", &params);
                let said = timeout(SLACK, self.post(headers, body.to_string().into())).await;
                if !matches!(said, Ok(Ok(_))) {
                    verdict.violation(format!("a notification was not taken: {said:?}"));
                }
                self.connection = None;
            }
        }
        verdict.ending("given up by the caller".to_owned(), started.elapsed());
    }

    /// Opens a session; the status if that was refused.
    async fn initialize(&mut self) -> anyhow::Result<Option<StatusCode>> {
        let info = json!({ "name": "chaos", "version": "1" });
        let params = json!({ "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": info });
        let call = Call { method: "initialize", params, expected: None, always_answered: true };
        let (id, response) = self.send(&call).await?;
        let (status, session) = (response.status(), response.headers().get(SESSION).cloned());
        match self.read(id, response, &call).await? {
            Ending::Result => self.session = Some(session.context("a session without a name")?),
            Ending::Error(error) => bail!("no session: {error}"),
            Ending::Refused(_) => return Ok(Some(status)),
        }
        let body = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }).to_string();
        let headers = self.headers("notifications/initialized", &Value::Null);
        self.post(headers, body.into()).await?.into_body().collect().await?;
        Ok(None)
    }

    async fn send(&mut self, call: &Call) -> anyhow::Result<(u64, Response<Incoming>)> {
        let id = self.next_id;
        self.next_id += 1;
        let mut params = call.params.clone();
        if self.era == Era::Modern {
            let mut meta = modern_meta();
            if let (Some(meta), Some(own)) = (meta.as_object_mut(), params["_meta"].as_object()) {
                meta.extend(own.clone());
            }
            params["_meta"] = meta;
        }
        let headers = self.headers(call.method, &params);
        let body = json!({ "jsonrpc": "2.0", "id": id, "method": call.method, "params": params }).to_string();
        Ok((id, self.post(headers, body.into()).await?))
    }

    fn headers(&self, method: &'static str, params: &Value) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let mut insert = |name: &'static str, value: String| {
            headers.insert(name, HeaderValue::try_from(value).expect("what is sent here is visible ASCII"));
        };
        insert(HOST.as_str(), self.address.to_string());
        insert(CONTENT_TYPE.as_str(), "application/json".to_owned());
        insert(ACCEPT.as_str(), "application/json, text/event-stream".to_owned());
        insert(AUTHORIZATION.as_str(), format!("Bearer {KEY}"));
        if self.era == Era::Modern {
            insert("mcp-protocol-version", "2026-07-28".to_owned());
            insert("mcp-method", method.to_owned());
            if let Some(name) = params["name"].as_str() {
                insert("mcp-name", name.to_owned());
            }
        } else if let Some(session) = &self.session {
            insert("mcp-protocol-version", "2025-11-25".to_owned());
            headers.insert(SESSION, session.clone());
        }
        headers
    }

    async fn post(&mut self, headers: HeaderMap, body: Bytes) -> anyhow::Result<Response<Incoming>> {
        // One that the gateway has closed after an answer is no loss.
        let kept = match self.connection.take() {
            Some(mut connection) => connection.sender.ready().await.is_ok().then_some(connection),
            None => None,
        };
        let mut connection = match kept {
            Some(connection) => connection,
            None => Connection::open(self.address).await.context("the gateway takes no connection")?,
        };
        let mut request = Request::post("/mcp").body(Full::new(body))?;
        *request.headers_mut() = headers;
        let response = connection.sender.send_request(request).await.context("the gateway did not answer")?;
        self.connection = Some(connection);
        Ok(response)
    }

    /// Reads an answer to its end and checks that it is one.
    async fn read(&mut self, id: u64, response: Response<Incoming>, call: &Call) -> anyhow::Result<Ending> {
        let status = response.status();
        let kind = response.headers().get(CONTENT_TYPE).map_or("", |kind| kind.to_str().unwrap_or_default());
        let is_stream = kind.starts_with("text/event-stream");
        let is_json = kind.starts_with("application/json");
        let body = response.into_body().collect().await.context("the answer broke off")?.to_bytes();
        let text = std::str::from_utf8(&body).context("the answer is not UTF-8")?;
        if !status.is_success() && !is_json {
            ensure!(status.is_client_error() || status.is_server_error(), "{status}");
            ensure!(!text.trim().is_empty(), "{status} without a word");
            return Ok(Ending::Refused(status));
        }
        let message = if is_stream { last_event(text)? } else { text };
        let answer: Value =
            serde_json::from_str(message).with_context(|| format!("{status}, not JSON: {message:.200}"))?;
        let is_ours = answer["id"] == id || (!status.is_success() && answer["id"].is_null());
        ensure!(answer["jsonrpc"] == "2.0" && is_ours, "not the answer to {id}: {status} {message:.200}");
        match (answer.get("result"), answer.get("error")) {
            (Some(result), None) => {
                ensure!(status == StatusCode::OK && result.is_object(), "{status} {message:.200}");
                let failed = result["isError"] == true;
                if let Some((at, expected)) = call.expected.as_ref().filter(|_| !failed) {
                    ensure!(result.pointer(at) == Some(expected), "somebody else's answer: {message:.200}");
                }
                Ok(if failed { Ending::Error("in the result".to_owned()) } else { Ending::Result })
            }
            (None, Some(error)) => {
                let (code, why) = (error["code"].as_i64(), error["message"].as_str().unwrap_or_default());
                let code =
                    code.filter(|_| !why.is_empty()).with_context(|| format!("no clear error: {message:.200}"))?;
                let reason = error["data"]["reason"].as_str().unwrap_or(why);
                Ok(Ending::Error(format!("{code} {reason}")))
            }
            _ => bail!("neither result nor error: {message:.200}"),
        }
    }
}

impl Connection {
    async fn open(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        let mut driver = JoinSet::new();
        driver.spawn(async move {
            // Its end shows in what is sent over it.
            _ = connection.await;
        });
        Ok(Self { sender, _driver: driver })
    }
}

/// The last message of an event stream, which must be whole.
fn last_event(stream: &str) -> anyhow::Result<&str> {
    ensure!(stream.ends_with("\n\n"), "the stream ends within an event: {stream:.200}");
    let events = stream.split("\n\n").filter_map(|event| event.lines().find_map(|line| line.strip_prefix("data: ")));
    events.last().context("a stream without an answer")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_event_is_the_answer() {
        let stream = ": hello\n\ndata: 1\n\nevent: message\ndata: 2\n\n: bye\n\n";
        assert_eq!(last_event(stream).unwrap(), "2");
        assert!(last_event(": hello\n\n").is_err());
        assert!(last_event("data: 1\n\ndata: 2").is_err());
    }
}
