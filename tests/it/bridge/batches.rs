//! Several messages in one POST: an array in, an array or a stream out, in 2025-03-26 and nowhere else.

use http::StatusCode;
use portcullis_tests::Caller;
use serde_json::{Value, json};

use super::{Kind, Up, answer, everything, text};

fn call(id: impl Into<Value>, tool: &str, arguments: Value) -> Value {
    let mut call = json!({ "jsonrpc": "2.0", "id": id.into(), "method": "tools/call", "params": { "name": tool } });
    call["params"]["arguments"] = arguments;
    call
}

async fn session(caller: Caller) -> Caller {
    caller.able(everything()).initialize("2025-03-26").await
}

/// The responses by their ids, sorted.
fn by_id(responses: &[Value]) -> Vec<(String, &Value)> {
    let mut responses: Vec<_> = responses.iter().map(|response| (response["id"].to_string(), response)).collect();
    responses.sort_by(|one, other| one.0.cmp(&other.0));
    responses
}

#[tokio::test]
async fn what_is_asked_together_is_answered_together() {
    for up in [Up::ModernHttp, Up::LegacyHttp, Up::Sse, Up::ModernStdio, Up::LegacyStdio] {
        let scene = up.scene().await;
        let session = session(scene.gateway.caller("alice")).await;
        let batch = json!([
            call(1, "up__echo", json!({ "n": 1 })),
            { "jsonrpc": "2.0", "method": "notifications/roots/list_changed" },
            call("two", "up__greet", json!({ "name": "Ada" })),
            { "jsonrpc": "2.0", "id": 3, "method": "ping" },
            { "jsonrpc": "2.0", "id": 4, "method": "none" },
            { "jsonrpc": "2.0", "id": 5, "method": "prompts/list" },
        ]);
        let reply = session.post(batch.to_string()).await;
        assert_eq!((reply.status, reply.header("content-type")), (StatusCode::OK, "application/json"), "{up:?}");
        let responses: Vec<Value> = serde_json::from_slice(&reply.body).unwrap();
        let responses = by_id(&responses);
        let ids: Vec<&str> = responses.iter().map(|(id, _)| id.as_str()).collect();
        assert_eq!(ids, ["\"two\"", "1", "3", "4", "5"], "{up:?}");
        assert_eq!(text(responses[0].1), "Hello, Ada!");
        assert_eq!(text(responses[1].1), r#"{"n":1}"#);
        assert_eq!(responses[2].1["result"], json!({}));
        assert_eq!(responses[3].1["error"]["code"], -32601);
        assert_eq!(responses[4].1["result"]["prompts"].as_array().unwrap().len(), 5);
    }
}

#[tokio::test]
async fn where_there_is_more_to_say_the_answers_are_a_stream() {
    for up in [Up::ModernHttp, Up::LegacyHttp] {
        let scene = up.scene().await;
        let session = session(scene.gateway.caller("alice")).await;
        let mut working = call(1, "up__test_tool_with_progress", json!({}));
        working["params"]["_meta"] = json!({ "progressToken": "p" });
        let batch = json!([
            working,
            call(2, "up__echo", json!({ "n": 2 })),
            call(3, "up__test_sampling", json!({ "prompt": "?" }))
        ]);
        let mut stream = session.begin(batch.to_string()).await;
        assert_eq!((stream.status, stream.is_events()), (StatusCode::OK, true));
        let (mut responses, mut progress) = (Vec::new(), Vec::new());
        while let Some(message) = stream.message().await {
            match message["method"].as_str() {
                Some("notifications/progress") => progress.push(message["params"]["progress"].clone()),
                Some(method) => session.respond(&message, answer(method, &message["params"])).await,
                None => responses.push(message),
            }
        }
        assert_eq!(progress, [0, 50, 100], "{up:?}");
        let responses = by_id(&responses);
        let ids: Vec<&str> = responses.iter().map(|(id, _)| id.as_str()).collect();
        assert_eq!(ids, ["1", "2", "3"], "{up:?}");
        assert_eq!(text(responses[1].1), r#"{"n":2}"#);
        assert_eq!(text(responses[2].1), "LLM response: Paris");
    }
}

#[tokio::test]
async fn answers_and_notifications_alone_are_accepted() {
    let scene = Up::LegacyHttp.scene().await;
    let session = session(scene.gateway.caller("alice")).await;
    let mut stream = session
        .begin_request("tools/call", json!({ "name": "up__test_sampling", "arguments": { "prompt": "?" } }))
        .await;
    let question = stream.next().await;
    let batch = json!([
        { "jsonrpc": "2.0", "method": "notifications/none" },
        { "jsonrpc": "2.0", "id": question["id"], "result": answer("sampling/createMessage", &json!({})) },
    ]);
    let reply = session.post(batch.to_string()).await;
    assert_eq!((reply.status, reply.text()), (StatusCode::ACCEPTED, ""));
    assert_eq!(text(&stream.next().await), "LLM response: Paris");
}

#[tokio::test]
async fn what_is_wrong_within_a_batch_is_told_in_its_place() {
    let scene = Up::LegacyHttp.scene().await;
    let session = session(scene.gateway.caller("alice")).await;
    let batch = json!([7, { "jsonrpc": "1.0", "id": 1, "method": "ping" }, call(2, "up__echo", json!({}))]);
    let reply = session.post(batch.to_string()).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
    let responses: Vec<Value> = serde_json::from_slice(&reply.body).unwrap();
    assert_eq!(responses.len(), 3, "{}", reply.text());
    assert_eq!(responses.iter().filter(|response| response["error"]["code"] == -32600).count(), 2, "{}", reply.text());
    for (batch, status) in
        [(json!([]), 400), (json!(vec![json!({ "jsonrpc": "2.0", "id": 1, "method": "ping" }); 101]), 400)]
    {
        let reply = session.post(batch.to_string()).await;
        assert_eq!(
            (reply.status.as_u16(), &reply.json()["error"]["code"]),
            (status, &json!(-32600)),
            "{}",
            reply.text()
        );
    }
    assert_eq!(scene.fixture().stats().calls, 1);
}

#[tokio::test]
async fn one_id_is_used_once() {
    let scene = Up::LegacyHttp.scene().await;
    let session = session(scene.gateway.caller("alice")).await;
    let batch = json!([call(1, "up__slow", json!({ "ms": 50 })), call(1, "up__slow", json!({ "ms": 50 }))]);
    let reply = session.post(batch.to_string()).await;
    let responses: Vec<Value> = serde_json::from_slice(&reply.body).unwrap();
    let refused = responses.iter().filter(|response| response["error"]["code"] == -32600).count();
    assert_eq!((responses.len(), refused), (2, 1), "{}", reply.text());
    assert_eq!(scene.fixture().stats().calls, 1);
}

#[tokio::test]
async fn no_other_revision_takes_a_batch() {
    let scene = Up::LegacyHttp.scene().await;
    let batch = json!([call(1, "up__echo", json!({}))]).to_string();
    let alice = scene.gateway.caller("alice");
    let mut modern = alice.copy();
    modern.headers = alice.modern_request("tools/call", json!({ "name": "up__echo" })).0;
    let others = [alice.initialize("2025-11-25").await, alice.initialize("2025-06-18").await, alice.copy(), modern];
    for caller in others {
        let reply = caller.post(batch.clone()).await;
        assert_eq!((reply.status.as_u16(), &reply.json()["error"]["code"]), (400, &json!(-32600)), "{}", reply.text());
        assert_eq!(reply.json()["id"], Value::Null);
    }
    let client = scene.client(Kind::Sse, json!({})).await;
    let reply = client.caller().post(batch).await;
    assert_eq!((reply.status.as_u16(), &reply.json()["error"]["code"]), (400, &json!(-32600)), "{}", reply.text());
    assert_eq!(scene.fixture().stats().calls, 0);
}
