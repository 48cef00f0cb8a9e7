//! Policies in the path: what they show, refuse and take out, what becomes of bad ones, and how they are swapped.

use portcullis_tests::{Caller, Gateway, Reply};
use serde_json::{Value, json};

mod generations;
pub(crate) mod guest;

mod hostile;
mod registry;
pub(crate) mod reload;
mod shipped;
mod stored;
mod surfaces;

/// A shipped policy's module.
fn shipped(name: &str) -> &'static [u8] {
    portcullis::builtin::module(name).unwrap_or_else(|| panic!("there is no {name}"))
}

/// A section that binds a module. `more` are further settings of the binding.
///
/// Its time is generous: on a busy machine the default could pass without the policy's doing.
fn binding(name: &str, module: &str, more: &str) -> String {
    format!("[[policies]]\nname = \"{name}\"\nmodule = \"{module}\"\nlimits = {{ time = \"1s\" }}\n{more}\n")
}

/// The last message of a `tools/call`, in a session where `caller` has one.
async fn call(caller: &Caller, tool: &str, arguments: Value) -> Reply {
    if caller.headers.contains_key("mcp-session-id") {
        caller.request("tools/call", json!({ "name": tool, "arguments": arguments })).await
    } else {
        caller.call(tool, arguments).await
    }
}

/// The names that `caller` is shown on one page.
async fn listed(caller: &Caller) -> Vec<String> {
    let reply = match caller.headers.contains_key("mcp-session-id") {
        true => caller.request("tools/list", json!({})).await,
        false => caller.modern("tools/list", json!({})).await,
    };
    let answer = reply.json();
    let tools = answer["result"]["tools"].as_array().unwrap_or_else(|| panic!("{answer}")).clone();
    tools.iter().map(|tool| tool["name"].as_str().unwrap().to_owned()).collect()
}

/// One caller for each revision, under the same key.
async fn of_each_revision(gateway: &Gateway, key: &str) -> [Caller; 3] {
    let caller = || gateway.caller(key);
    [caller(), caller().initialize("2025-11-25").await, caller().initialize("2025-06-18").await]
}

/// What a refused call says: the sentence, and the refusal for machines.
fn refusal(reply: &Reply) -> (String, Value) {
    let answer = reply.json();
    let result = &answer["result"];
    assert_eq!(result["isError"], true, "{answer}");
    let sentence = result["content"][0]["text"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned();
    (sentence, result["_meta"]["portcullis/refusal"].clone())
}

fn structured(reply: &Reply) -> Value {
    let answer = reply.json();
    assert!(answer["result"]["isError"] != true && answer["error"].is_null(), "{answer}");
    answer["result"]["structuredContent"].clone()
}
