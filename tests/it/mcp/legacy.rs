//! Revisions 2024-11-05 to 2025-11-25: `initialize` opens a session, and everything happens within one.

use std::time::Duration;

use http::StatusCode;
use portcullis_tests::upstreams::fixture::{Eras, Fixture, Settings, tool};
use portcullis_tests::{Caller, Gateway, Reply};
use serde_json::{Value, json};

use super::{refusal, result_text, scene};

const REVISIONS: [&str; 4] = ["2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"];

async fn initialize(caller: &Caller, version: &str) -> Reply {
    let info = json!({ "name": "tests", "version": "1" });
    caller.request("initialize", json!({ "protocolVersion": version, "capabilities": {}, "clientInfo": info })).await
}

#[tokio::test]
async fn a_version_is_negotiated_and_a_session_opened() {
    let (_up, gateway) = scene().await;
    let alice = gateway.caller("alice");
    let mut sessions = Vec::new();
    for (asked, spoken) in [
        ("2025-11-25", "2025-11-25"),
        ("2025-06-18", "2025-06-18"),
        ("2025-03-26", "2025-03-26"),
        ("2024-11-05", "2024-11-05"),
        ("2026-07-28", "2025-11-25"),
        ("1.0", "2025-11-25"),
    ] {
        let reply = initialize(&alice, asked).await;
        assert_eq!(reply.status, StatusCode::OK, "{asked}");
        let result = &reply.json()["result"];
        assert_eq!(result["protocolVersion"], spoken, "{asked}");
        assert_eq!(result["capabilities"]["tools"], json!({ "listChanged": true }));
        assert_eq!(result["serverInfo"]["name"], "portcullis");
        assert!(result.get("resultType").is_none(), "this era has no result types");
        let session = reply.header("mcp-session-id").to_owned();
        assert!(session.len() >= 32 && session.bytes().all(|byte| byte.is_ascii_graphic()), "{session:?}");
        sessions.push(session);
    }
    sessions.sort();
    sessions.dedup();
    assert_eq!(sessions.len(), 6, "no two sessions have the same id");
}

#[tokio::test]
async fn initialize_without_a_version_is_refused() {
    let (_up, gateway) = scene().await;
    for params in [json!({}), json!({ "protocolVersion": 1 }), json!({ "protocolVersion": null })] {
        let reply = gateway.caller("alice").request("initialize", params).await;
        assert_eq!(refusal(&reply), (200, -32602));
        assert!(!reply.headers.contains_key("mcp-session-id"));
    }
}

#[tokio::test]
async fn nothing_happens_without_a_session() {
    let (up, gateway) = scene().await;
    let alice = gateway.caller("alice");
    for (method, params) in [
        ("ping", json!({})),
        ("tools/list", json!({})),
        ("tools/call", json!({ "name": "up__echo" })),
        ("none", json!({})),
    ] {
        assert_eq!(alice.request(method, params).await.status, StatusCode::BAD_REQUEST, "{method}");
    }
    for message in
        [r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#, r#"{"jsonrpc":"2.0","id":1,"result":{}}"#]
    {
        assert_eq!(alice.post(message).await.status, StatusCode::BAD_REQUEST, "{message}");
    }
    assert_eq!(up.stats().calls, 0);
}

#[tokio::test]
async fn a_session_that_nobody_opened_is_not_found() {
    let (_up, gateway) = scene().await;
    for session in ["none", "", "0123456789abcdef0123456789abcdef"] {
        let alice = gateway.caller("alice").with("mcp-session-id", session);
        assert_eq!(alice.request("ping", json!({})).await.status, StatusCode::NOT_FOUND, "{session:?}");
        assert_eq!(alice.send("DELETE", "/mcp", "").await.status, StatusCode::NOT_FOUND, "{session:?}");
    }
}

#[tokio::test]
async fn another_keys_session_is_not_found() {
    let up = Fixture::start().await;
    let gateway = Gateway::builder().http_upstream("up", &up.url).key("alice").key("mallory").start().await;
    let alice = gateway.caller("alice").initialize("2025-11-25").await;
    let session = alice.headers["mcp-session-id"].to_str().unwrap();
    let mallory = gateway.caller("mallory").with("mcp-session-id", session);
    let unknown = gateway.caller("mallory").with("mcp-session-id", "0123456789abcdef0123456789abcdef");

    let (taken, none) = (mallory.request("ping", json!({})).await, unknown.request("ping", json!({})).await);
    assert_eq!(taken.status, StatusCode::NOT_FOUND);
    assert_eq!(taken.body, none.body, "whether the session exists is not for others to know");
    let cancelled = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}"#;
    assert_eq!(mallory.post(cancelled).await.status, StatusCode::NOT_FOUND);
    assert_eq!(mallory.send("DELETE", "/mcp", "").await.status, StatusCode::NOT_FOUND);
    assert_eq!(alice.request("ping", json!({})).await.status, StatusCode::OK, "the session is untouched");
}

#[tokio::test]
async fn delete_ends_a_session() {
    let (_up, gateway) = scene().await;
    let alice = gateway.caller("alice");
    let (one, two) = (alice.initialize("2025-11-25").await, alice.initialize("2025-11-25").await);
    assert_eq!(one.send("DELETE", "/mcp", "").await.status, StatusCode::NO_CONTENT);
    assert_eq!(one.request("ping", json!({})).await.status, StatusCode::NOT_FOUND);
    assert_eq!(one.send("DELETE", "/mcp", "").await.status, StatusCode::NOT_FOUND);
    assert_eq!(two.request("ping", json!({})).await.status, StatusCode::OK, "other sessions go on");
}

#[tokio::test]
async fn delete_takes_back_what_is_in_flight() {
    let (up, gateway) = scene().await;
    let session = gateway.caller("alice").initialize("2025-11-25").await;
    let ending = async {
        up.until(|stats| stats.under_way == 1).await;
        session.send("DELETE", "/mcp", "").await
    };
    let (called, ended) = tokio::join!(
        session.request("tools/call", json!({ "name": "up__slow", "arguments": { "ms": 60_000 } })),
        ending
    );
    assert_eq!(ended.status, StatusCode::NO_CONTENT);
    assert_eq!(called.messages(), [""; 0], "nobody expects an answer");
    up.until(|stats| stats.cancelled == 1).await;
}

#[tokio::test]
async fn the_stream_of_a_session_needs_one_and_tells_of_changes() {
    let (up, gateway) = scene().await;
    let alice = gateway.caller("alice");
    let without = alice.send("GET", "/mcp", "").await;
    assert_eq!((without.status, without.header("allow")), (StatusCode::METHOD_NOT_ALLOWED, "POST, DELETE"));
    let session = alice.initialize("2025-11-25").await;
    let mut stream = session.listen(None).await;
    assert!(stream.is_events());
    up.change_tools(vec![tool("only")]);
    assert_eq!(stream.next().await["method"], "notifications/tools/list_changed");
    assert_eq!(session.send("DELETE", "/mcp", "").await.status, StatusCode::NO_CONTENT);
    assert_eq!(stream.rest().await, [Value::Null; 0], "it ends with its session");
    assert_eq!(session.send("GET", "/mcp", "").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn the_version_header_is_the_sessions_or_absent() {
    let (_up, gateway) = scene().await;
    for (spoken, other) in [("2025-11-25", "2025-06-18"), ("2025-06-18", "2025-11-25")] {
        let session = gateway.caller("alice").initialize(spoken).await;
        let id = session.headers["mcp-session-id"].to_str().unwrap().to_owned();
        let with_version =
            |version: &str| gateway.caller("alice").with("mcp-session-id", &id).with("mcp-protocol-version", version);
        assert_eq!(session.request("ping", json!({})).await.status, StatusCode::OK);
        for wrong in [other, "2025-03-26", "2024-11-05", "nonsense", ""] {
            assert_eq!(
                with_version(wrong).request("ping", json!({})).await.status,
                StatusCode::BAD_REQUEST,
                "{wrong:?} in {spoken}"
            );
        }
        let without = session.without("mcp-protocol-version");
        assert_eq!(without.request("ping", json!({})).await.status, StatusCode::OK, "older clients do not send it");
    }
}

#[tokio::test]
async fn ping_is_answered_with_nothing() {
    let (_up, gateway) = scene().await;
    let session = gateway.caller("alice").initialize("2025-11-25").await;
    let reply = session.request("ping", json!({})).await;
    assert_eq!((reply.header("content-type"), &*result_text(&reply)), ("application/json", "{}"));
}

#[tokio::test]
async fn tools_are_listed_and_called() {
    let (_up, gateway) = scene().await;
    for revision in REVISIONS {
        let session = gateway.caller("alice").initialize(revision).await;
        let list = session.request("tools/list", json!({})).await.json()["result"].clone();
        let names: Vec<&str> =
            list["tools"].as_array().unwrap().iter().map(|tool| tool["name"].as_str().unwrap()).collect();
        assert!(names.contains(&"up__echo") && names.is_sorted(), "{names:?}");
        assert_eq!(list.as_object().unwrap().len(), 1, "members of the other era are not for this one: {list}");

        let called = session.request("tools/call", json!({ "name": "up__echo", "arguments": { "a": 1 } })).await;
        assert_eq!(
            result_text(&called),
            r#"{"content":[{"type":"text","text":"{\"a\":1}"}],"structuredContent":{"a":1},"resultType":"complete","_meta":{"io.modelcontextprotocol/serverInfo":{"name":"fixture","title":"Fixture upstream","version":"1.0.0"}}}"#,
            "as the upstream wrote it: members that the caller does not know do no harm"
        );
        let unknown = session.request("tools/call", json!({ "name": "up__none" })).await;
        assert_eq!(refusal(&unknown), (200, -32602));
        let bad_cursor = session.request("tools/list", json!({ "cursor": "x" })).await;
        assert_eq!(refusal(&bad_cursor), (200, -32602));
    }
}

#[tokio::test]
async fn a_list_comes_in_pages() {
    let up = Fixture::start().await;
    let gateway =
        Gateway::builder().http_upstream("up", &up.url).key("alice").section("[limits]\nlist_page = 5").start().await;
    let session = gateway.caller("alice").initialize("2025-06-18").await;
    let (mut paged, mut params) = (Vec::new(), json!({}));
    loop {
        let result = session.request("tools/list", params).await.json()["result"].clone();
        let page: Vec<String> =
            result["tools"].as_array().unwrap().iter().map(|tool| tool["name"].as_str().unwrap().to_owned()).collect();
        assert!(page.len() <= 5);
        paged.extend(page);
        match result.get("nextCursor") {
            Some(cursor) => params = json!({ "cursor": cursor }),
            None => break,
        }
    }
    assert_eq!(paged, gateway.caller("alice").tool_names().await);
}

#[tokio::test]
async fn progress_and_log_messages_come_before_the_answer() {
    let (_up, gateway) = scene().await;
    let session = gateway.caller("alice").initialize("2025-11-25").await;
    for token in [json!("mine"), json!(0)] {
        let params = json!({ "name": "up__test_tool_with_progress", "_meta": { "progressToken": token } });
        let reply = session.request("tools/call", params).await;
        assert_eq!(reply.header("content-type"), "text/event-stream");
        let messages: Vec<Value> =
            reply.messages().iter().map(|message| serde_json::from_str(message).unwrap()).collect();
        let told: Vec<(&Value, &Value)> = messages[..3]
            .iter()
            .map(|message| (&message["params"]["progressToken"], &message["params"]["progress"]))
            .collect();
        assert_eq!(told, [(&token, &json!(0)), (&token, &json!(50)), (&token, &json!(100))]);
        assert_eq!(messages[3]["result"]["content"][0]["text"], "Came to the end.");
    }
    let up = Fixture::with(Settings { eras: Eras::Legacy, ..Settings::default() }).await.unwrap();
    let gateway = Gateway::builder().http_upstream("up", &up.url).key("alice").start().await;
    let session = gateway.caller("alice").initialize("2025-11-25").await;
    let reply = session.request("tools/call", json!({ "name": "up__test_tool_with_logging" })).await;
    let messages: Vec<Value> = reply.messages().iter().map(|message| serde_json::from_str(message).unwrap()).collect();
    let said: Vec<&Value> = messages[..3].iter().map(|message| &message["params"]["data"]).collect();
    assert_eq!(said, ["Tool execution started", "Tool processing data", "Tool execution completed"]);
    assert!(messages[3]["result"]["content"].is_array());
}

#[tokio::test]
async fn a_cancelled_notification_takes_the_call_back() {
    let (up, gateway) = scene().await;
    let session = gateway.caller("alice").initialize("2025-11-25").await;
    for (count, id) in [(1, "7"), (2, "\"seven\"")] {
        let call = format!(
            r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"up__slow","arguments":{{"ms":60000}}}}}}"#
        );
        let cancelling = async {
            up.until(|stats| stats.under_way == 1).await;
            let cancel = |id: &str| {
                format!(
                    r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{id},"reason":"enough"}}}}"#
                )
            };
            // Another id, and the same digits as a text, are another request's.
            for other in ["8", "\"7\"", "null"] {
                assert_eq!(session.post(cancel(other)).await.status, StatusCode::ACCEPTED);
            }
            assert_eq!(up.stats().under_way, 1);
            session.post(cancel(id)).await
        };
        let (called, cancelled) = tokio::join!(session.post(call), cancelling);
        assert_eq!((cancelled.status, cancelled.text()), (StatusCode::ACCEPTED, ""));
        assert_eq!(called.messages(), [""; 0], "nobody expects an answer");
        up.until(|stats| stats.cancelled == count).await;
    }
}

#[tokio::test]
async fn another_session_cannot_take_the_call_back() {
    let (up, gateway) = scene().await;
    let alice = gateway.caller("alice");
    let (session, other) = (alice.initialize("2025-11-25").await, alice.initialize("2025-11-25").await);
    let cancelling = async {
        up.until(|stats| stats.under_way == 1).await;
        other.post(r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":7}}"#).await
    };
    let call = r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"up__slow","arguments":{"ms":300}}}"#;
    let (called, cancelled) = tokio::join!(session.post(call), cancelling);
    assert_eq!(cancelled.status, StatusCode::ACCEPTED);
    assert_eq!(called.json()["result"]["content"][0]["text"], "waited 300 ms");
}

#[tokio::test]
async fn closing_the_connection_takes_nothing_back() {
    let (up, gateway) = scene().await;
    let session = gateway.caller("alice").initialize("2025-11-25").await;
    tokio::select! {
        reply = session.request("tools/call", json!({ "name": "up__slow", "arguments": { "ms": 700 } })) => panic!("{}", reply.text()),
        _ = up.until(|stats| stats.under_way == 1) => {}
    }
    let stats = up.until(|stats| stats.under_way == 0).await;
    assert_eq!((stats.calls, stats.cancelled), (1, 0));
}

#[tokio::test]
async fn an_id_in_flight_is_not_used_twice() {
    let (up, gateway) = scene().await;
    let alice = gateway.caller("alice");
    let (session, other) = (alice.initialize("2025-11-25").await, alice.initialize("2025-11-25").await);
    let call = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"up__slow","arguments":{"ms":300}}}"#;
    let again = async {
        up.until(|stats| stats.under_way == 1).await;
        (session.post(call).await, other.post(call).await)
    };
    let (first, (second, elsewhere)) = tokio::join!(session.post(call), again);
    assert_eq!(first.status, StatusCode::OK);
    assert_eq!(refusal(&second), (400, -32600));
    assert!(elsewhere.json()["result"].is_object(), "ids belong to a session");
    assert!(session.post(call).await.json()["result"].is_object(), "an id is free again after its answer");
}

#[tokio::test]
async fn a_session_ends_when_it_is_not_used() {
    let up = Fixture::start().await;
    let gateway = Gateway::builder()
        .http_upstream("up", &up.url)
        .key("alice")
        .section("[limits]\nsession_idle = \"1m\"")
        .start()
        .await;
    let session = gateway.caller("alice").initialize("2025-11-25").await;
    for _ in 0..3 {
        gateway.clock.advance(Duration::from_secs(59));
        assert_eq!(session.request("ping", json!({})).await.status, StatusCode::OK, "use keeps it");
    }
    gateway.clock.advance(Duration::from_secs(60));
    assert_eq!(session.request("ping", json!({})).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn sessions_are_bounded_and_idle_ones_make_room() {
    let up = Fixture::start().await;
    let limits = "[limits]\nsessions = 2\nsession_idle = \"1m\"";
    let gateway = Gateway::builder().http_upstream("up", &up.url).key("alice").section(limits).start().await;
    let alice = gateway.caller("alice");
    let (first, _second) = (alice.initialize("2025-11-25").await, alice.initialize("2025-11-25").await);
    let refused = initialize(&alice, "2025-11-25").await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(refused.header("retry-after").parse::<u32>().unwrap() > 0);
    assert_eq!(first.request("ping", json!({})).await.status, StatusCode::OK, "who is in stays in");
    gateway.clock.advance(Duration::from_secs(60));
    assert_eq!(initialize(&alice, "2025-11-25").await.status, StatusCode::OK);
}

#[tokio::test]
async fn an_unknown_method_is_not_found() {
    let (_up, gateway) = scene().await;
    let session = gateway.caller("alice").initialize("2025-11-25").await;
    for method in ["none", "tasks/list", "roots/list", "subscriptions/listen", "server/discover", "", "TOOLS/LIST"] {
        assert_eq!(refusal(&session.request(method, json!({})).await), (200, -32601), "{method:?}");
    }
}

#[tokio::test]
async fn a_batch_is_refused_but_in_the_revision_that_has_them() {
    let (up, gateway) = scene().await;
    for revision in REVISIONS.into_iter().filter(|revision| *revision != "2025-03-26") {
        let session = gateway.caller("alice").initialize(revision).await;
        let call = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"up__echo"}}"#;
        for batch in ["[]".to_owned(), format!("[{call}]"), format!(" \n[{call},{call}]")] {
            let reply = session.post(batch.clone()).await;
            assert_eq!(refusal(&reply), (400, -32600), "{batch}");
            assert_eq!(reply.json()["id"], Value::Null);
        }
    }
    assert_eq!(up.stats().calls, 0);
}

#[tokio::test]
async fn notifications_and_responses_are_accepted() {
    let (_up, gateway) = scene().await;
    let session = gateway.caller("alice").initialize("2025-11-25").await;
    for message in [
        r#"{"jsonrpc":"2.0","method":"notifications/roots/list_changed"}"#,
        r#"{"jsonrpc":"2.0","method":"notifications/none","params":{}}"#,
        r#"{"jsonrpc":"2.0","method":"notifications/cancelled"}"#,
        r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":{}}}"#,
        r#"{"jsonrpc":"2.0","id":1,"result":{}}"#,
        r#"{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":""}}"#,
    ] {
        let reply = session.post(message).await;
        assert_eq!((reply.status, reply.text()), (StatusCode::ACCEPTED, ""), "{message}");
    }
}

#[tokio::test]
async fn both_eras_share_one_url() {
    let (_up, gateway) = scene().await;
    let alice = gateway.caller("alice");
    let session = alice.initialize("2025-11-25").await;
    assert_eq!(alice.call("up__echo", json!({ "n": 1 })).await.status, StatusCode::OK);
    assert_eq!(session.request("ping", json!({})).await.status, StatusCode::OK);
    // The envelope in the body decides, whatever the session header says.
    assert_eq!(session.modern("tools/list", json!({})).await.json()["result"]["resultType"], "complete");
}
