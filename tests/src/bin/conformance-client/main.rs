//! What the official conformance suite starts in its client mode: a gateway whose one upstream is the suite's server, and the
//! callers that make the gateway do, as a client, what the scenario wants to see.
//!
//! The suite appends its server's URL to the command line and names the scenario and the revision in the environment. Exit
//! code 0 says that the callers got what they should; what the gateway sent upstream is for the suite to judge.

#![expect(
    clippy::disallowed_methods,
    reason = "the suite says in the environment what it wants, and the one task is ended by whoever started it"
)]

mod authorized;
mod legacy;
mod modern;
mod scenarios;
mod stream;

use std::process::ExitCode;

use anyhow::{Context as _, bail, ensure};
use portcullis_tests::Gateway;
use serde_json::{Value, json};

/// The one key of the gateway.
const KEY: &str = "driver";

/// What the suite wants to see, and how it says what to do.
pub(crate) struct Task {
    pub(crate) scenario: String,
    /// Revision that the suite's server speaks.
    pub(crate) revision: String,
    /// What the scenario hands to clients, `null` for most.
    pub(crate) context: Value,
}

impl Task {
    fn read() -> anyhow::Result<Self> {
        let context = match std::env::var("MCP_CONFORMANCE_CONTEXT") {
            Ok(context) => serde_json::from_str(&context).context("MCP_CONFORMANCE_CONTEXT is not JSON")?,
            Err(_) => Value::Null,
        };
        Ok(Self {
            scenario: std::env::var("MCP_CONFORMANCE_SCENARIO").context("MCP_CONFORMANCE_SCENARIO is not set")?,
            revision: std::env::var("MCP_CONFORMANCE_PROTOCOL_VERSION")
                .context("MCP_CONFORMANCE_PROTOCOL_VERSION is not set")?,
            context,
        })
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let Some(url) = std::env::args().nth(1) else { bail!("usage: conformance-client URL") };
    let task = Task::read()?;
    if authorized::concerns(&task) {
        authorized::run(&url, &task).await.with_context(|| format!("{} ({})", task.scenario, task.revision))?;
        return Ok(ExitCode::SUCCESS);
    }
    let gateway = Gateway::builder()
        .section(&format!("[upstreams.suite]\nurl = {}\nprefix = false\ncall_timeout = \"20s\"\n", json!(url)))
        .key(KEY)
        .start()
        .await;
    wait_until_up(&gateway).await?;
    scenarios::run(&gateway, &task).await.with_context(|| format!("{} ({})", task.scenario, task.revision))?;
    gateway.stop().await;
    Ok(ExitCode::SUCCESS)
}

/// Waits until the gateway has read what the suite's server offers.
async fn wait_until_up(gateway: &Gateway) -> anyhow::Result<()> {
    let view = gateway.until("/api/v1/upstreams", |view| view["upstreams"][0]["state"] == "up").await;
    ensure!(view["upstreams"][0]["revision"].is_string(), "the gateway does not say which revision was found: {view}");
    Ok(())
}

/// The text of a tool's result.
pub(crate) fn text_of(result: &Value) -> anyhow::Result<&str> {
    result["content"][0]["text"].as_str().with_context(|| format!("no text in {result}"))
}

/// What a client answers when it is asked for something: to an elicitation, the defaults of its schema.
pub(crate) fn answer(method: &str, params: &Value) -> anyhow::Result<Value> {
    match method {
        "elicitation/create" => {
            let properties = params["requestedSchema"]["properties"].as_object().cloned().unwrap_or_default();
            let content: serde_json::Map<String, Value> = properties
                .into_iter()
                .map(|(name, schema)| (name, schema.get("default").cloned().unwrap_or_else(|| plain(&schema))))
                .collect();
            Ok(json!({ "action": "accept", "content": content }))
        }
        "sampling/createMessage" => {
            let content = json!({ "type": "text", "text": "A sampled answer." });
            Ok(json!({ "role": "assistant", "content": content, "model": "none", "stopReason": "endTurn" }))
        }
        "roots/list" => Ok(json!({ "roots": [{ "uri": "file:///workspace", "name": "workspace" }] })),
        _ => bail!("a client is asked for {method}"),
    }
}

/// A value for a field without a default.
fn plain(schema: &Value) -> Value {
    match schema["type"].as_str() {
        Some("boolean") => json!(true),
        Some("integer" | "number") => json!(1),
        Some("array") => json!([]),
        _ => json!("text"),
    }
}

/// The capabilities that our callers declare: they answer whatever a server may ask.
pub(crate) fn capabilities() -> Value {
    json!({ "elicitation": {}, "sampling": {}, "roots": {} })
}
