//! What callers do in each scenario. Where a scenario has tools to call, callers of both eras call them, so that the gateway
//! is judged as a translator too; where the suite counts or times requests, one caller makes each of them once.

use anyhow::{Context as _, bail, ensure};
use portcullis_tests::Gateway;
use serde_json::{Value, json};

use crate::legacy::Session;
use crate::modern::{Modern, retry};
use crate::{Task, text_of};

pub(crate) async fn run(gateway: &Gateway, task: &Task) -> anyhow::Result<()> {
    match task.scenario.as_str() {
        "initialize" => nothing_to_call(gateway).await,
        "request-metadata" => nothing_to_call(gateway).await,
        "tools_call" => add_numbers(gateway).await,
        "elicitation-sep1034-client-defaults" => accept_defaults(gateway).await,
        "sse-retry" => come_back(gateway).await,
        "sep-2322-client-request-state" => be_asked(gateway).await,
        "http-standard-headers" => use_everything(gateway).await,
        "http-custom-headers" => call_as_told(gateway, &task.context).await,
        "http-invalid-tool-headers" => call_what_is_valid(gateway).await,
        "json-schema-ref-no-deref" => list_references(gateway).await,
        "json-schema-2020-12-preservation" => echo_schema(gateway).await,
        "sep-2640-client-no-prefetch" => list_skills(gateway).await,
        other => bail!("nothing is known of a scenario {other}"),
    }
}

/// The server has no tools; callers of both eras find that out.
async fn nothing_to_call(gateway: &Gateway) -> anyhow::Result<()> {
    ensure!(Session::open(gateway).await?.list("tools/list", "tools").await?.is_empty());
    ensure!(Modern::new(gateway).list("tools/list", "tools").await?.is_empty());
    Ok(())
}

async fn add_numbers(gateway: &Gateway) -> anyhow::Result<()> {
    let arguments = json!({ "a": 5, "b": 3 });
    let expected = "The sum of 5 and 3 is 8";
    let through_session = Session::open(gateway).await?.call("add_numbers", &arguments).await?;
    ensure!(text_of(&through_session)? == expected, "{through_session}");
    let modern = Modern::new(gateway).call("add_numbers", &arguments).await?;
    ensure!(text_of(&modern)? == expected, "{modern}");
    Ok(())
}

/// The server asks outside of the call's own stream: a caller that listens for such questions, one that does not, and one
/// whose revision has no such stream.
async fn accept_defaults(gateway: &Gateway) -> anyhow::Result<()> {
    let tool = "test_client_elicitation_defaults";
    let mut session = Session::open(gateway).await?;
    let listening = session.listen().await?;
    let heard_outside = session.call(tool, &json!({})).await?;
    drop(listening);
    let heard_within = Session::open(gateway).await?.call(tool, &json!({})).await?;
    let modern = Modern::new(gateway).call(tool, &json!({})).await?;
    for result in [heard_outside, heard_within, modern] {
        ensure!(text_of(&result)?.starts_with("Elicitation completed"), "{result}");
    }
    Ok(())
}

/// The server ends the stream of a call before it answers.
async fn come_back(gateway: &Gateway) -> anyhow::Result<()> {
    let result = Session::open(gateway).await?.call("test_reconnection", &json!({})).await?;
    ensure!(text_of(&result)? == "Reconnection test completed successfully", "{result}");
    Ok(())
}

/// The server answers calls with questions. A modern caller sees them, and makes another call between the rounds of the
/// first; a legacy caller is asked by the gateway.
async fn be_asked(gateway: &Gateway) -> anyhow::Result<()> {
    let modern = Modern::new(gateway);
    for (tool, expected) in [("test_mrtr_echo_state", "echo-state-ok"), ("test_mrtr_no_state", "no-state-ok")] {
        let params = json!({ "name": tool, "arguments": {} });
        let asked = modern.once("tools/call", params.clone()).await?;
        ensure!(asked["resultType"] == "input_required", "{asked}");
        let between = modern.call("test_mrtr_unrelated", &json!({})).await?;
        ensure!(text_of(&between)? == "unrelated-ok", "{between}");
        let result = modern.once("tools/call", retry(&params, &asked)?).await?;
        ensure!(text_of(&result)? == expected, "{result}");
    }
    let result = modern.call("test_mrtr_no_result_type", &json!({})).await?;
    ensure!(text_of(&result)? == "no-result-type-test-ok", "{result}");

    let mut session = Session::open(gateway).await?;
    for (tool, expected) in [
        ("test_mrtr_echo_state", "echo-state-ok"),
        ("test_mrtr_no_state", "no-state-ok"),
        ("test_mrtr_unrelated", "unrelated-ok"),
        ("test_mrtr_no_result_type", "no-result-type-test-ok"),
    ] {
        let result = session.call(tool, &json!({})).await?;
        ensure!(text_of(&result)? == expected, "{result}");
    }
    Ok(())
}

/// Everything that is listed is used.
async fn use_everything(gateway: &Gateway) -> anyhow::Result<()> {
    let modern = Modern::new(gateway);
    let tools = modern.list("tools/list", "tools").await?;
    let prompts = modern.list("prompts/list", "prompts").await?;
    let resources = modern.list("resources/list", "resources").await?;
    let counts = (tools.len(), prompts.len(), resources.len());
    ensure!(counts == (2, 1, 2), "{counts:?} tools, prompts, resources");
    for tool in &tools {
        let result = modern.call(name(tool)?, &json!({})).await?;
        ensure!(text_of(&result)? == "Headers test completed", "{result}");
    }
    for prompt in &prompts {
        modern.request("prompts/get", json!({ "name": name(prompt)? })).await?;
    }
    for resource in &resources {
        modern.request("resources/read", json!({ "uri": resource["uri"] })).await?;
    }
    Ok(())
}

/// The calls that the scenario names, by a caller that knows nothing of headers.
async fn call_as_told(gateway: &Gateway, context: &Value) -> anyhow::Result<()> {
    let mut session = Session::open(gateway).await?;
    let calls = context["toolCalls"].as_array().context("the scenario names no calls")?;
    for call in calls {
        let result = session.call(name(call)?, &call["arguments"]).await?;
        ensure!(text_of(&result)? == "Custom headers test completed", "{result}");
    }
    Ok(())
}

/// Tools whose annotations are invalid are not listed, and calls of them go nowhere.
async fn call_what_is_valid(gateway: &Gateway) -> anyhow::Result<()> {
    let mut session = Session::open(gateway).await?;
    let tools = session.list("tools/list", "tools").await?;
    let names: Vec<&str> = tools.iter().filter_map(|tool| tool["name"].as_str()).collect();
    ensure!(names == ["valid_tool"], "{names:?} are listed");
    let arguments = json!({ "region": "us-west1", "value": "v" });
    let result = session.call("valid_tool", &arguments).await?;
    ensure!(text_of(&result)? == "Tool call received", "{result}");
    for invalid in ["invalid_empty_header", "invalid_object_header", "invalid_duplicate_diff_case"] {
        ensure!(session.call(invalid, &arguments).await.is_err(), "{invalid} can be called");
    }
    Ok(())
}

/// Schemas arrive with the references in them.
async fn list_references(gateway: &Gateway) -> anyhow::Result<()> {
    for tools in [
        Modern::new(gateway).list("tools/list", "tools").await?,
        Session::open(gateway).await?.list("tools/list", "tools").await?,
    ] {
        let schema = tools.first().map(|tool| &tool["inputSchema"]["properties"]);
        let reference = schema.and_then(|schema| schema["profile"]["$ref"].as_str()).unwrap_or_default();
        ensure!(reference.starts_with("http://"), "{tools:?}");
    }
    Ok(())
}

/// A schema goes back as it came.
async fn echo_schema(gateway: &Gateway) -> anyhow::Result<()> {
    let modern = Modern::new(gateway);
    let mut session = Session::open(gateway).await?;
    let listed = modern.list("tools/list", "tools").await?;
    ensure!(listed == session.list("tools/list", "tools").await?, "callers of the two eras see different tools");
    let schema = listed.iter().find(|tool| tool["name"] == "json_schema_2020_12_tool").context("the tool is listed")?;
    let arguments = json!({ "schema": schema["inputSchema"] });
    for result in
        [session.call("json_schema_echo", &arguments).await?, modern.call("json_schema_echo", &arguments).await?]
    {
        ensure!(text_of(&result)? == "echoed", "{result}");
    }
    Ok(())
}

/// A skill is listed, and its files are left where they are.
async fn list_skills(gateway: &Gateway) -> anyhow::Result<()> {
    let skills = Modern::new(gateway).list("skills/list", "skills").await?;
    let uris: Vec<&Value> = skills.iter().map(|skill| &skill["uri"]).collect();
    ensure!(uris == ["skill://pdf-processing/SKILL.md"], "{uris:?} are listed");
    Ok(())
}

fn name(item: &Value) -> anyhow::Result<&str> {
    item["name"].as_str().context("it has a name")
}
