//! Tasks: policies about tool results have to know which tool a task is of, and the replica where it began does.

use portcullis_tests::Caller;
use portcullis_tests::upstreams::fixture::Eras;
use serde_json::{Value, json};

use super::{Directory, eventually, pair_with};

stories! {
    a_task_is_asked_for_at_another_replica_and_inspected_all_the_same,
}

const POLICIES: &str = "[[policies]]\nname = \"allow\"\nmodule = \"builtin:allow-tools\"\nlimits = { time = \"1s\" }\nconfig = { otherwise = \"allow\" }\n\
    [[policies]]\nname = \"redact\"\nmodule = \"builtin:redact\"\nlimits = { time = \"1s\" }\nconfig = { words = [\"Computed\"] }";

async fn asked(caller: &Caller, id: &Value) -> Value {
    caller.modern("tasks/get", json!({ "taskId": id })).await.json()
}

async fn a_task_is_asked_for_at_another_replica_and_inspected_all_the_same(directory: &Directory) {
    let (_fixture, one, other) = pair_with(directory, Eras::Modern, POLICIES).await;
    let able = json!({ "extensions": { "io.modelcontextprotocol/tasks": {} } });
    let (there, here) = (one.caller("alice").able(able.clone()), other.caller("alice").able(able.clone()));
    let bob = other.caller("bob").able(able);
    let begun = there.call("up__slow_compute", json!({ "seconds": 0.05, "label": "it" })).await.json();
    let id = &begun["result"]["taskId"];
    assert!(id.is_string(), "{begun}");
    for caller in [&here, &there] {
        eventually(async || asked(caller, id).await["result"]["status"] == "completed").await;
        let task = asked(caller, id).await;
        assert_eq!(&task["result"]["taskId"], id, "it has one id everywhere");
        assert_eq!(task["result"]["result"]["content"][0]["text"], "[redacted:word] it for 0.05 s", "{task}");
    }
    assert_eq!(asked(&bob, id).await["error"]["code"], -32602, "it is not his");
    one.kill();
    eventually(async || asked(&here, id).await["error"]["code"] == -32602).await;
}
