//! `/mcp/{upstream}`: one upstream as if it stood alone. Names have no prefix, and what belongs to one endpoint is unknown
//! at every other.

use http::StatusCode;
use portcullis_tests::upstreams::fixture::{Eras, Fixture, Settings};
use portcullis_tests::{Caller, Gateway};
use serde_json::{Value, json};

use super::{Client, Kind, answer, everything, text};

/// A modern upstream `new` and a legacy one `old`, and a key for the old one alone.
async fn scene() -> (Fixture, Fixture, Gateway) {
    let new = Fixture::with(Settings { eras: Eras::Modern, ..Settings::default() }).await.unwrap();
    let old = Fixture::with(Settings { eras: Eras::Legacy, ..Settings::default() }).await.unwrap();
    let gateway = Gateway::builder()
        .http_upstream("new", &new.url)
        .http_upstream("old", &old.url)
        .key("alice")
        .key_for("oldie", r#"[{ upstream = "old", tools = ["*"] }]"#)
        .start()
        .await;
    let all_up = |view: &Value| (0..2).all(|at| view["upstreams"][at]["state"] == "up");
    gateway.until("/api/v1/upstreams", all_up).await;
    (new, old, gateway)
}

fn at(gateway: &Gateway, key: &str, endpoint: &str) -> Caller {
    gateway.caller(key).able(everything()).at(&format!("/mcp/{endpoint}"))
}

#[tokio::test]
async fn names_have_no_prefix() {
    let (new, old, gateway) = scene().await;
    for (endpoint, fixture) in [("new", &new), ("old", &old)] {
        for kind in [Kind::Modern, Kind::Session("2025-11-25"), Kind::Session("2025-03-26")] {
            let context = format!("{kind:?} at {endpoint}");
            let mut client = Client::of(at(&gateway, "alice", endpoint), kind).await;
            let before = fixture.stats().calls;
            assert_eq!(text(&client.call("echo", json!({ "n": 1 })).await), r#"{"n":1}"#, "{context}");
            assert_eq!(fixture.stats().calls, before + 1, "{context}");
            for unknown in [format!("{endpoint}__echo"), "old__echo".to_owned(), "new__echo".to_owned()] {
                let refused = client.call(&unknown, json!({})).await;
                assert_eq!(refused["error"]["code"], -32602, "{context}: {unknown}");
            }
            let prompts = client.ask("prompts/list", json!({})).await;
            let names: Vec<&Value> =
                prompts["result"]["prompts"].as_array().unwrap().iter().map(|prompt| &prompt["name"]).collect();
            assert_eq!(names.len(), 5, "{context}");
            assert!(names.contains(&&json!("test_simple_prompt")), "{context}: {names:?}");
            let read = client.ask("resources/read", json!({ "uri": "test://static-text" })).await;
            assert!(read["result"]["contents"][0]["text"].is_string(), "{context}: {read}");
            let params = json!({ "ref": { "type": "ref/prompt", "name": "test_prompt_with_arguments" }, "argument": { "name": "arg1", "value": "tes" } });
            let completed = client.ask("completion/complete", params).await;
            assert_eq!(completed["result"]["completion"]["values"], json!(["test"]), "{context}");
            let talk = client.talk("tools/call", json!({ "name": "test_list_roots" }), answer).await;
            assert_eq!(talk.asked.len(), 1, "{context}: {}", talk.text);
        }
    }
}

#[tokio::test]
async fn instructions_are_the_upstreams_own() {
    let (_new, _old, gateway) = scene().await;
    for endpoint in ["new", "old"] {
        let discovered = at(&gateway, "alice", endpoint).modern("server/discover", json!({})).await.json();
        assert_eq!(discovered["result"]["instructions"], "Tools for testing.");
        let has_tasks = discovered["result"]["capabilities"]["extensions"]["io.modelcontextprotocol/tasks"].is_object();
        assert_eq!(has_tasks, endpoint == "new");
    }
    let discovered = gateway.caller("alice").modern("server/discover", json!({})).await.json();
    assert_eq!(discovered["result"]["instructions"], "# new\n\nTools for testing.\n\n# old\n\nTools for testing.");
}

#[tokio::test]
async fn a_session_of_one_endpoint_is_unknown_at_another() {
    let (_new, _old, gateway) = scene().await;
    let endpoints = ["/mcp", "/mcp/new", "/mcp/old"];
    for opened in endpoints {
        let session = gateway.caller("alice").at(opened).initialize("2025-11-25").await;
        let id = session.headers["mcp-session-id"].to_str().unwrap().to_owned();
        for used in endpoints {
            let there =
                gateway.caller("alice").at(used).with("mcp-session-id", &id).with("mcp-protocol-version", "2025-11-25");
            let status = there.request("ping", json!({})).await.status;
            let expected = if used == opened { StatusCode::OK } else { StatusCode::NOT_FOUND };
            assert_eq!(status, expected, "opened at {opened}, used at {used}");
            if used != opened {
                assert_eq!(there.listen(None).await.status, StatusCode::NOT_FOUND);
                assert_eq!(there.send("DELETE", used, "").await.status, StatusCode::NOT_FOUND);
            }
        }
        assert_eq!(session.request("ping", json!({})).await.status, StatusCode::OK, "it is still there");
    }
}

#[tokio::test]
async fn an_endpoint_that_a_key_may_not_use_looks_like_none() {
    let (_new, _old, gateway) = scene().await;
    let mut answers = Vec::new();
    for endpoint in ["new", "none", "No", "old%2Fx", ""] {
        let reply = at(&gateway, "oldie", endpoint).modern("tools/list", json!({})).await;
        assert_eq!(reply.status, StatusCode::NOT_FOUND, "{endpoint:?}: {}", reply.text());
        answers.push(reply.text().to_owned());
    }
    assert_eq!(answers[0], answers[1], "no difference can be told");
    assert_eq!(at(&gateway, "oldie", "old").modern("tools/list", json!({})).await.status, StatusCode::OK);
    let stranger = gateway.stranger().at("/mcp/old");
    assert_eq!(stranger.modern("tools/list", json!({})).await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_state_and_a_task_of_one_endpoint_are_not_another_ones() {
    let (new, old, gateway) = scene().await;
    // Both endpoints have a tool of this name.
    let params = json!({ "name": "test_streaming_elicitation" });
    let asked = at(&gateway, "alice", "new").modern("tools/call", params.clone()).await.json();
    assert_eq!(asked["result"]["resultType"], "input_required", "{asked}");
    let mut retry = params.clone();
    retry["requestState"] = asked["result"]["requestState"].clone();
    retry["inputResponses"] = json!({ "confirm": { "action": "accept", "content": { "sure": true } } });
    let refused = at(&gateway, "alice", "old").modern("tools/call", retry).await.json();
    assert_eq!(refused["error"]["code"], -32602, "{refused}");
    assert_eq!(old.stats().calls, 0);

    let mut able = everything();
    able["extensions"] = json!({ "io.modelcontextprotocol/tasks": {} });
    let alice = |path: &str| gateway.caller("alice").able(able.clone()).at(path);
    let begun = alice("/mcp/new")
        .modern("tools/call", json!({ "name": "slow_compute", "arguments": { "seconds": 60 } }))
        .await
        .json();
    let task = json!({ "taskId": begun["result"]["taskId"] });
    let refused = alice("/mcp/old").modern("tasks/get", task.clone()).await.json();
    assert_eq!(refused["error"]["code"], -32602, "{refused}");
    for path in ["/mcp/new", "/mcp"] {
        let got = alice(path).modern("tasks/get", task.clone()).await.json();
        assert_eq!(got["result"]["status"], "working", "{path}: {got}");
    }
    alice("/mcp/new").modern("tasks/cancel", task).await;
    assert_eq!(new.stats().under_way, 0);
}

/// A call that waits for its caller is resumed where it was made.
#[tokio::test]
async fn a_parked_call_is_resumed_at_its_own_endpoint() {
    let (new, old, gateway) = scene().await;
    let params = json!({ "name": "test_streaming_elicitation" });
    let asked = at(&gateway, "alice", "old").modern("tools/call", params.clone()).await.json();
    let key = asked["result"]["inputRequests"].as_object().unwrap().keys().next().unwrap().clone();
    let mut retry = params;
    retry["requestState"] = asked["result"]["requestState"].clone();
    retry["inputResponses"] = json!({ key: { "action": "accept", "content": { "sure": true } } });
    let refused = at(&gateway, "alice", "new").modern("tools/call", retry.clone()).await.json();
    assert_eq!(refused["error"]["code"], -32602, "{refused}");
    let done = at(&gateway, "alice", "old").modern("tools/call", retry).await.json();
    assert!(text(&done).starts_with("The answer was action=accept"), "{done}");
    assert_eq!((new.stats().calls, old.stats().calls), (0, 1));
}
