//! A caller of revision 2026-07-28: it says with each request what it can do, and comes back with what was asked of it.

use anyhow::{Context as _, ensure};
use http::{HeaderValue, StatusCode};
use portcullis_tests::{Caller, Gateway};
use serde_json::{Map, Value, json};

use crate::{KEY, answer, capabilities};

/// Times that one request is answered with questions.
const MAX_ROUNDS: usize = 5;

pub(crate) struct Modern {
    caller: Caller,
}

impl Modern {
    pub(crate) fn new(gateway: &Gateway) -> Self {
        Self { caller: gateway.caller(KEY) }
    }

    /// Makes a request once; its result.
    pub(crate) async fn once(&self, method: &str, mut params: Value) -> anyhow::Result<Value> {
        params["_meta"] = json!({ "io.modelcontextprotocol/clientCapabilities": capabilities() });
        let mut caller = self.caller.copy();
        if let Some(uri) = params["uri"].as_str() {
            caller.headers.insert("mcp-name", HeaderValue::try_from(uri)?);
        }
        let reply = caller.modern(method, params).await;
        ensure!(reply.status == StatusCode::OK, "{method}: {} {}", reply.status, reply.text());
        reply.json().get("result").cloned().with_context(|| format!("{method}: {}", reply.text()))
    }

    /// Makes a request until it is answered with something else than questions.
    pub(crate) async fn request(&self, method: &str, params: Value) -> anyhow::Result<Value> {
        let mut asked = params.clone();
        for _ in 0..MAX_ROUNDS {
            let result = self.once(method, asked).await?;
            if result["resultType"] != "input_required" {
                return Ok(result);
            }
            asked = retry(&params, &result)?;
        }
        anyhow::bail!("{method} is answered with questions again and again")
    }

    pub(crate) async fn call(&self, tool: &str, arguments: &Value) -> anyhow::Result<Value> {
        self.request("tools/call", json!({ "name": tool, "arguments": arguments })).await
    }

    /// All items of a list, such as `tools` of `tools/list`.
    pub(crate) async fn list(&self, method: &str, member: &str) -> anyhow::Result<Vec<Value>> {
        let page = self.request(method, json!({})).await?;
        ensure!(page.get("nextCursor").is_none(), "{method} has more than a page");
        page[member].as_array().cloned().with_context(|| format!("no {member} in {page}"))
    }
}

/// The parameters to come back with, after `result` asked for something.
pub(crate) fn retry(params: &Value, result: &Value) -> anyhow::Result<Value> {
    let mut params = params.clone();
    let mut responses = Map::new();
    for (key, request) in result["inputRequests"].as_object().into_iter().flatten() {
        let method = request["method"].as_str().context("a question has a method")?;
        responses.insert(key.clone(), answer(method, &request["params"])?);
    }
    params["inputResponses"] = Value::Object(responses);
    if let Some(state) = result.get("requestState") {
        params["requestState"] = state.clone();
    }
    Ok(params)
}
