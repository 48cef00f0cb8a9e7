//! A modern upstream ends its answers with questions. A legacy caller is asked on its stream and knows nothing of rounds; a
//! modern one makes them itself, with a state that is good for it alone. The upstream gets its own state back to the byte.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use portcullis_tests::Caller;
use serde_json::{Value, json};

use super::script::{Script, Seen, result};
use super::{Client, Kind, answer, everything, text};

/// A state with everything that a careless hand might change, as JSON text.
const STATE: &str = r#""\u0000 é\ud83d\ude00 \"quoted\" \\ \/ + = <&> \u2028 end""#;

fn state() -> Value {
    serde_json::from_str(STATE).unwrap()
}

/// Asks for a name with [`STATE`] until it gets one.
fn asks_once(seen: &Seen) -> String {
    let params = &seen.message["params"];
    if params["inputResponses"]["who"].is_object() && params["requestState"] == state() {
        return result(&json!({ "resultType": "complete", "content": [{ "type": "text", "text": "done" }] }));
    }
    let schema = json!({ "type": "object", "properties": { "name": { "type": "string" } } });
    let question = json!({ "method": "elicitation/create", "params": { "message": "Who?", "requestedSchema": schema, "x-more": [1.0] } });
    format!(r#""result":{{"resultType":"input_required","inputRequests":{{"who":{question}}},"requestState":{STATE}}}"#)
}

#[tokio::test]
async fn a_legacy_caller_is_asked_and_the_upstream_gets_its_own_state_back() {
    let script = Script::start(true, asks_once).await;
    let gateway = script.gateway().await;
    for (calls, kind) in [Kind::Session("2025-11-25"), Kind::Session("2025-06-18")].into_iter().enumerate() {
        let mut client = Client::connect(&gateway, "alice", kind, everything()).await;
        let params = json!({ "name": "up__tool", "arguments": { "a": 1 } });
        let talk = client.talk("tools/call", params, answer).await;
        assert_eq!(text(&talk.response), "done");
        assert_eq!(talk.asked.len(), 1);
        assert_eq!(talk.asked[0].1["x-more"], json!([1.0]));
        let seen = script.seen("tools/call");
        let [first, second] = &seen[calls * 2..] else { panic!("{} calls", seen.len()) };
        assert_ne!(first.message["id"], second.message["id"], "a retry has an id of its own");
        assert_eq!(first.message["params"]["requestState"], Value::Null);
        assert_eq!(second.message["params"]["requestState"], state());
        let expected = json!({ "who": { "action": "accept", "content": { "name": "my name" } } });
        assert_eq!(second.message["params"]["inputResponses"], expected);
        for seen in [first, second] {
            assert_eq!(seen.message["params"]["name"], "tool");
            assert_eq!(seen.message["params"]["arguments"], json!({ "a": 1 }));
            assert_eq!(seen.headers["mcp-name"], "tool");
            assert_eq!(seen.headers["mcp-method"], "tools/call");
            assert_eq!(seen.headers["mcp-protocol-version"], "2026-07-28");
            let meta = &seen.message["params"]["_meta"];
            assert_eq!(meta["io.modelcontextprotocol/protocolVersion"], "2026-07-28");
            assert!(meta["io.modelcontextprotocol/clientCapabilities"]["elicitation"].is_object());
            assert_eq!(meta["io.modelcontextprotocol/clientInfo"]["name"], "tests");
        }
    }
}

async fn modern(caller: &Caller, params: Value) -> Value {
    let reply = caller.modern("tools/call", params).await;
    assert_eq!(reply.status.as_u16(), 200, "{}", reply.text());
    reply.json()
}

#[tokio::test]
async fn a_modern_caller_makes_the_rounds_with_a_state_of_its_own() {
    let script = Script::start(true, asks_once).await;
    let gateway = script.gateway().await;
    let (alice, bob) = (gateway.caller("alice").able(everything()), gateway.caller("bob").able(everything()));
    let call = json!({ "name": "up__tool", "arguments": {} });
    let asked = modern(&alice, call.clone()).await;
    assert_eq!(asked["result"]["resultType"], "input_required");
    assert_eq!(asked["result"]["inputRequests"]["who"]["params"]["message"], "Who?");
    let sealed = asked["result"]["requestState"].as_str().unwrap();
    assert!(!sealed.contains("quoted") && *sealed != *state().as_str().unwrap(), "{sealed}");
    let mut retry = call.clone();
    retry["requestState"] = sealed.into();
    retry["inputResponses"] =
        json!({ "who": { "action": "accept", "content": { "name": "ada" } }, "more": { "x": 1.0 } });

    // Nobody else's, for nothing else, and nothing but what was given.
    let mut other_tool = retry.clone();
    other_tool["name"] = "up__prompt".into();
    let mut raw = retry.clone();
    raw["requestState"] = state();
    let mut tampered = retry.clone();
    tampered["requestState"] = format!("{sealed}A").into();
    for (caller, params) in [(&bob, retry.clone()), (&alice, other_tool), (&alice, raw), (&alice, tampered)] {
        let refused = modern(caller, params).await;
        assert_eq!(refused["error"]["code"], -32602, "{refused}");
    }
    assert_eq!(script.seen("tools/call").len(), 1, "nothing of it reached the upstream");

    let done = modern(&alice, retry.clone()).await;
    assert_eq!(text(&done), "done");
    let seen = script.seen("tools/call").pop().unwrap();
    assert_eq!(seen.message["params"]["requestState"], state());
    assert_eq!(seen.message["params"]["inputResponses"], retry["inputResponses"], "what is too much is its to ignore");
    // It is the upstream's to say how often.
    assert_eq!(text(&modern(&alice, retry.clone()).await), "done");
    gateway.clock.advance(Duration::from_secs(15 * 60));
    assert_eq!(modern(&alice, retry).await["error"]["code"], -32602, "it is too old");
}

#[tokio::test]
async fn an_upstream_without_a_state_is_asked_again_without() {
    let script = Script::start(true, |seen| {
        let params = &seen.message["params"];
        match params["inputResponses"]["r"].is_object() {
            true => result(&json!({ "resultType": "complete", "content": [{ "type": "text", "text": format!("{:?}", params.get("requestState")) }] })),
            false => result(&json!({ "resultType": "input_required", "inputRequests": { "r": { "method": "roots/list" } } })),
        }
    })
    .await;
    let gateway = script.gateway().await;
    for kind in Kind::ALL {
        let mut client = Client::connect(&gateway, "alice", kind, everything()).await;
        let talk = client.talk("tools/call", json!({ "name": "up__tool" }), answer).await;
        assert_eq!((text(&talk.response), talk.asked.len()), ("None", 1), "{kind:?}");
    }
}

/// An upstream may ask to be called again, and nothing more (2026-07-28, patterns, § multi round-trip requests).
#[tokio::test]
async fn a_state_without_questions_is_brought_back() {
    let script = Script::start(true, |seen| match seen.message["params"]["requestState"].as_str() {
        Some("again") => result(&json!({ "resultType": "complete", "content": [{ "type": "text", "text": "done" }] })),
        _ => result(&json!({ "resultType": "input_required", "requestState": "again" })),
    })
    .await;
    let gateway = script.gateway().await;
    for kind in Kind::ALL {
        let mut client = Client::connect(&gateway, "alice", kind, json!({})).await;
        let response = client.call("up__tool", json!({})).await;
        // A modern client that is asked nothing comes back as well.
        assert_eq!(text(&response), "done", "{kind:?}");
    }
}

#[tokio::test]
async fn an_upstream_that_asks_without_end_is_given_up() {
    let script = Script::start(true, |_| {
        let question = json!({ "method": "roots/list" });
        result(&json!({ "resultType": "input_required", "inputRequests": { "r": question }, "requestState": "s" }))
    })
    .await;
    let gateway = script.gateway().await;
    let mut client = Client::connect(&gateway, "alice", Kind::Session("2025-11-25"), everything()).await;
    let talk = client.talk("tools/call", json!({ "name": "up__tool" }), answer).await;
    assert_eq!(talk.response["error"]["data"]["reason"], "protocol", "{}", talk.text);
    assert_eq!((talk.asked.len(), script.seen("tools/call").len()), (10, 10));
}

#[tokio::test]
async fn what_the_client_did_not_declare_or_nobody_knows_is_not_passed_on() {
    let asked = AtomicUsize::new(0);
    let questions = [
        json!({ "a": { "method": "sampling/createMessage", "params": { "messages": [], "maxTokens": 1 } } }),
        json!({ "a": { "method": "roots/list" }, "b": { "method": "elicitation/create", "params": { "mode": "url", "url": "https://x.example" } } }),
        json!({ "a": { "method": "tools/list" } }),
        json!({ "a": { "method": "roots/list", "params": [] } }),
        json!({ "a": 7 }),
        json!([]),
    ];
    let (count, script_questions) = (questions.len(), questions.clone());
    let script = Script::start(true, move |_| {
        let at = asked.fetch_add(1, Ordering::SeqCst) % count;
        result(&json!({ "resultType": "input_required", "inputRequests": script_questions[at], "requestState": "s" }))
    })
    .await;
    let gateway = script.gateway().await;
    for kind in [Kind::Modern, Kind::Session("2025-11-25"), Kind::Session("2025-06-18")] {
        let mut client = Client::connect(&gateway, "alice", kind, json!({ "roots": {}, "elicitation": {} })).await;
        for question in &questions {
            let response = client.call("up__tool", json!({})).await;
            assert!(response["error"].is_object(), "{kind:?}: {question}: {response}");
            assert_eq!(response["result"], Value::Null);
        }
    }
}
