//! Calls that go on in the background: as the extension of 2026-07-28 has them, and as 2025-11-25 does. Each stays in its
//! era, under an id that is good for its caller alone.

use portcullis_tests::Caller;
use serde_json::{Value, json};

use super::script::{Script, result};
use super::{Client, Kind, Scene, Up, answer, everything, soon, text};

const EXTENSION: &str = "io.modelcontextprotocol/tasks";

fn able() -> Value {
    let mut capabilities = everything();
    capabilities["extensions"] = json!({ EXTENSION: {} });
    capabilities
}

async fn modern(caller: &Caller, method: &str, params: Value) -> Value {
    let reply = caller.modern(method, params).await;
    assert_eq!(reply.status.as_u16(), 200, "{}", reply.text());
    reply.json()
}

/// Begins a task and gives it.
async fn begin(caller: &Caller, tool: &str, arguments: Value) -> Value {
    let begun = modern(caller, "tools/call", json!({ "name": tool, "arguments": arguments })).await;
    assert_eq!(begun["result"]["resultType"], "task", "{begun}");
    begun["result"].clone()
}

/// Asks for a task until it has this status.
async fn until(caller: &Caller, id: &Value, status: &str) -> Value {
    soon(async {
        loop {
            let got = modern(caller, "tasks/get", json!({ "taskId": id })).await;
            let task = &got["result"];
            assert_eq!((&task["taskId"], &task["resultType"]), (id, &json!("complete")), "{got}");
            if task["status"] == status {
                return task.clone();
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await
}

const MODERN: [Up; 2] = [Up::ModernHttp, Up::ModernStdio];

#[tokio::test]
async fn a_modern_task_comes_to_its_end() {
    for up in MODERN {
        let scene = up.scene().await;
        let alice = scene.gateway.caller("alice").able(able());
        let task = begin(&alice, "up__slow_compute", json!({ "seconds": 0.05, "label": "it" })).await;
        let id = task["taskId"].as_str().unwrap();
        assert!(!id.starts_with("task-"), "not the upstream's own: {id}");
        assert_eq!((&task["status"], &task["pollIntervalMs"]), (&json!("working"), &json!(100)), "{task}");
        let done = until(&alice, &task["taskId"], "completed").await;
        assert_eq!(done["result"]["content"][0]["text"], "Computed it for 0.05 s", "{done}");
        let failing = begin(&alice, "up__protocol_error_job", json!({})).await;
        let failed = until(&alice, &failing["taskId"], "failed").await;
        assert_eq!(failed["error"]["message"], "This job breaks.", "{up:?}: {failed}");
    }
}

#[tokio::test]
async fn a_modern_task_is_answered_and_cancelled() {
    for up in MODERN {
        let scene = up.scene().await;
        let alice = scene.gateway.caller("alice").able(able());
        let id = begin(&alice, "up__confirm_delete", json!({ "filename": "x.txt" })).await["taskId"].clone();
        let asking = until(&alice, &id, "input_required").await;
        let requests = asking["inputRequests"].as_object().unwrap_or_else(|| panic!("{asking}"));
        let responses: serde_json::Map<String, Value> = requests
            .iter()
            .map(|(key, asked)| (key.clone(), answer(asked["method"].as_str().unwrap(), &asked["params"])))
            .collect();
        let updated = modern(&alice, "tasks/update", json!({ "taskId": id, "inputResponses": responses })).await;
        assert_eq!(updated["result"]["resultType"], "complete", "{updated}");
        let done = until(&alice, &id, "completed").await;
        assert_eq!(done["result"]["content"][0]["text"], "Deleted x.txt", "{up:?}: {done}");

        let id = begin(&alice, "up__slow_compute", json!({ "seconds": 60 })).await["taskId"].clone();
        let cancelled = modern(&alice, "tasks/cancel", json!({ "taskId": id })).await;
        assert_eq!(cancelled["result"]["resultType"], "complete", "{cancelled}");
        until(&alice, &id, "cancelled").await;
    }
}

/// It asks before it goes on in the background.
#[tokio::test]
async fn a_task_may_begin_with_a_round_of_questions() {
    for up in MODERN {
        let scene = up.scene().await;
        let mut client = scene.client(Kind::Modern, able()).await;
        let talk =
            client.talk("tools/call", json!({ "name": "up__test_tool_with_task", "arguments": {} }), answer).await;
        assert_eq!((talk.asked.len(), talk.rounds), (1, 2));
        assert_eq!(talk.response["result"]["resultType"], "task", "{}", talk.text);
        let done = until(client.caller(), &talk.response["result"]["taskId"], "completed").await;
        assert_eq!(done["result"]["content"][0]["text"], "Hello, my name!", "{up:?}: {done}");
    }
}

#[tokio::test]
async fn a_modern_task_is_its_callers_alone() {
    let scene = Up::ModernHttp.scene().await;
    let (alice, bob) = (scene.gateway.caller("alice").able(able()), scene.gateway.caller("bob").able(able()));
    let id = begin(&alice, "up__slow_compute", json!({ "seconds": 60 })).await["taskId"].clone();
    let text = id.as_str().unwrap();
    for method in ["tasks/get", "tasks/cancel", "tasks/update"] {
        let params = |id: &Value| json!({ "taskId": id, "inputResponses": {} });
        let refused = modern(&bob, method, params(&id)).await;
        assert_eq!(refused["error"]["code"], -32602, "{method}: {refused}");
        for wrong in [json!(format!("{text}A")), json!("task-0"), json!(""), json!(text[..text.len() - 1])] {
            let refused = modern(&alice, method, params(&wrong)).await;
            assert_eq!(refused["error"]["code"], -32602, "{method} {wrong}: {refused}");
        }
    }
    until(&alice, &id, "working").await;
    modern(&alice, "tasks/cancel", json!({ "taskId": id })).await;
}

#[tokio::test]
async fn who_has_no_tasks_is_given_none() {
    for up in MODERN {
        let scene = up.scene().await;
        let params = json!({ "name": "up__slow_compute", "arguments": { "seconds": 0.01 } });
        for kind in Kind::ALL {
            let mut client = scene.client(kind, everything()).await;
            let response = client.ask("tools/call", params.clone()).await;
            assert_eq!(text(&response), "Computed nothing for 0.01 s", "{kind:?} to {up:?}");
        }
        let alice = scene.gateway.caller("alice");
        let refused = alice.modern("tasks/get", json!({ "taskId": "x" })).await;
        assert_eq!((refused.status.as_u16(), &refused.json()["error"]["code"]), (400, &json!(-32021)));
        let needed = &refused.json()["error"]["data"]["requiredCapabilities"];
        assert_eq!(*needed, json!({ "extensions": { EXTENSION: {} } }));
    }
}

/// Whatever an upstream does, a client that cannot follow a task is not given one.
#[tokio::test]
async fn a_task_that_nobody_can_follow_is_an_error() {
    let task = json!({
        "resultType": "task", "taskId": "t", "status": "working", "createdAt": "2026-01-01T00:00:00Z",
        "lastUpdatedAt": "2026-01-01T00:00:00Z", "ttlMs": 1000,
    });
    let script = Script::start(true, move |_| result(&task)).await;
    let gateway = script.gateway().await;
    for kind in Kind::ALL {
        let mut client = Client::connect(&gateway, "alice", kind, everything()).await;
        let response = client.call("up__tool", json!({})).await;
        assert!(response["error"].is_object(), "{kind:?}: {response}");
    }
}

async fn legacy(session: &Caller, method: &str, params: Value) -> Value {
    let reply = session.request(method, params).await;
    assert_eq!(reply.status.as_u16(), 200, "{}", reply.text());
    reply.json()
}

async fn begin_legacy(session: &Caller, tool: &str, arguments: Value) -> Value {
    let params = json!({ "name": tool, "arguments": arguments, "task": { "ttl": 60_000 } });
    let begun = legacy(session, "tools/call", params).await;
    let task = &begun["result"]["task"];
    assert_eq!((&task["status"], &task["ttl"]), (&json!("working"), &json!(60_000)), "{begun}");
    task.clone()
}

#[tokio::test]
async fn a_legacy_task_comes_to_its_end() {
    let scene = Up::LegacyHttp.scene().await;
    let session = scene.gateway.caller("alice").able(everything()).initialize("2025-11-25").await;
    let task = begin_legacy(&session, "up__slow_compute", json!({ "seconds": 0.05 })).await;
    let id = &task["taskId"];
    assert!(!id.as_str().unwrap().starts_with("task-"), "not the upstream's own: {id}");
    let got = legacy(&session, "tasks/get", json!({ "taskId": id })).await;
    assert_eq!(got["result"]["taskId"], *id, "{got}");
    let done = legacy(&session, "tasks/result", json!({ "taskId": id })).await;
    assert_eq!(text(&done), "Computed nothing for 0.05 s");
    assert_eq!(done["result"]["_meta"]["io.modelcontextprotocol/related-task"]["taskId"], *id, "{done}");
    let got = legacy(&session, "tasks/get", json!({ "taskId": id })).await;
    assert_eq!(got["result"]["status"], "completed");

    let long = begin_legacy(&session, "up__slow_compute", json!({ "seconds": 60 })).await;
    let cancelled = legacy(&session, "tasks/cancel", json!({ "taskId": long["taskId"] })).await;
    assert_eq!(
        (&cancelled["result"]["status"], &cancelled["result"]["taskId"]),
        (&json!("cancelled"), &long["taskId"])
    );
}

#[tokio::test]
async fn a_legacy_task_asks_while_its_result_is_waited_for() {
    let scene = Up::LegacyHttp.scene().await;
    let mut client = scene.client(Kind::Session("2025-11-25"), everything()).await;
    let task = begin_legacy(client.caller(), "up__confirm_delete", json!({ "filename": "x.txt" })).await;
    let talk = client.talk("tasks/result", json!({ "taskId": task["taskId"] }), answer).await;
    assert_eq!(text(&talk.response), "Deleted x.txt");
    assert_eq!(talk.asked.len(), 1);
    let related = &talk.asked[0].1["_meta"]["io.modelcontextprotocol/related-task"]["taskId"];
    assert_eq!(*related, task["taskId"], "under the id that the caller knows");
}

#[tokio::test]
async fn a_legacy_task_is_told_of_under_the_id_that_its_caller_knows() {
    let scene = Up::LegacyHttp.scene().await;
    let session = scene.gateway.caller("alice").able(everything()).initialize("2025-11-25").await;
    let mut standing = session.listen(None).await;
    let task = begin_legacy(&session, "up__slow_compute", json!({ "seconds": 0.5 })).await;
    let status = standing.next().await;
    assert_eq!(status["method"], "notifications/tasks/status", "{status}");
    assert_eq!(status["params"]["status"], "completed");
    assert_eq!(status["params"]["taskId"], task["taskId"]);
}

#[tokio::test]
async fn a_legacy_task_is_its_callers_alone() {
    let scene = Up::LegacyHttp.scene().await;
    let session = scene.gateway.caller("alice").initialize("2025-11-25").await;
    let bobs = scene.gateway.caller("bob").initialize("2025-11-25").await;
    let task = begin_legacy(&session, "up__slow_compute", json!({ "seconds": 60 })).await;
    for method in ["tasks/get", "tasks/result", "tasks/cancel"] {
        for (session, id) in [(&bobs, &task["taskId"]), (&session, &json!("task-0"))] {
            let refused = legacy(session, method, json!({ "taskId": id })).await;
            assert_eq!(refused["error"]["code"], -32602, "{method}: {refused}");
        }
    }
    let listed = legacy(&session, "tasks/list", json!({})).await;
    assert_eq!(listed["error"]["code"], -32601, "nobody is shown a list of tasks: {listed}");
    legacy(&session, "tasks/cancel", json!({ "taskId": task["taskId"] })).await;
}

#[tokio::test]
async fn tasks_do_not_cross_the_eras() {
    // A legacy caller cannot make a task at a modern upstream, nor a modern one at a legacy upstream.
    for up in [Up::ModernHttp, Up::ModernStdio] {
        let scene = up.scene().await;
        let session = scene.gateway.caller("alice").initialize("2025-11-25").await;
        let params = json!({ "name": "up__slow_compute", "arguments": { "seconds": 0.01 }, "task": {} });
        let answered = legacy(&session, "tools/call", params).await;
        assert_eq!(answered["result"]["task"], Value::Null, "{up:?}: {answered}");
    }
    for up in [Up::LegacyHttp, Up::Sse, Up::LegacyStdio] {
        let scene = up.scene().await;
        let alice = scene.gateway.caller("alice").able(able());
        for extra in [json!({}), json!({ "task": {} })] {
            let mut params = json!({ "name": "up__slow_compute", "arguments": { "seconds": 0.01 } });
            params.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            let done = modern(&alice, "tools/call", params).await;
            assert_eq!(done["result"]["resultType"], "complete", "{up:?}: {done}");
            assert_eq!(text(&done), "Computed nothing for 0.01 s", "{up:?}");
        }
        let discovered = modern(&alice, "server/discover", json!({})).await;
        assert_eq!(discovered["result"]["capabilities"]["extensions"][EXTENSION], Value::Null, "{up:?}");
    }
    // Older revisions have none at all.
    let scene = Up::LegacyHttp.scene().await;
    let session = scene.gateway.caller("alice").initialize("2025-06-18").await;
    for method in ["tasks/get", "tasks/result", "tasks/cancel", "tasks/list"] {
        let refused = legacy(&session, method, json!({ "taskId": "x" })).await;
        assert_eq!(refused["error"]["code"], -32601, "{method}: {refused}");
    }
    let params = json!({ "name": "up__slow_compute", "arguments": { "seconds": 0.01 }, "task": {} });
    let done = legacy(&session, "tools/call", params).await;
    assert_eq!(done["result"]["task"], Value::Null, "{done}");
}

/// What a task's caller may see of it does not depend on where the gateway stands.
#[tokio::test]
async fn a_task_outlives_a_change_of_the_catalog() {
    let Scene { fixture, gateway, .. } = Up::ModernHttp.scene().await;
    let fixture = fixture.unwrap();
    let alice = gateway.caller("alice").able(able());
    let id = begin(&alice, "up__slow_compute", json!({ "seconds": 0.05 })).await["taskId"].clone();
    fixture.change_tools(vec![portcullis_tests::upstreams::fixture::tool("only")]);
    soon(async {
        while alice.tool_names().await != ["up__only"] {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await;
    until(&alice, &id, "completed").await;
}
