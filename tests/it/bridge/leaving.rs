//! Who closes a connection means something else in each era: a modern caller takes its request back, and the upstream is told
//! in its own way; a legacy one only loses a connection, and finds the answer where it left off.

use std::time::Duration;

use http::StatusCode;
use portcullis_tests::Caller;
use serde_json::{Value, json};

use super::{Kind, Scene, Up, everything, soon, text, with_each};

/// Calls that never end by themselves within a test.
const LONG: u64 = 60_000;

fn slow() -> Value {
    json!({ "name": "up__slow", "arguments": { "ms": LONG } })
}

#[tokio::test]
async fn a_modern_caller_that_leaves_takes_its_call_back_everywhere() {
    with_each([Up::ModernHttp, Up::LegacyHttp, Up::Sse, Up::ModernStdio, Up::LegacyStdio], async |up| {
        let scene = up.scene().await;
        let alice = scene.gateway.caller("alice");
        tokio::select! {
            reply = alice.modern("tools/call", slow()) => panic!("{up:?}: {}", reply.text()),
            () = scene.until("under_way", 1) => {}
        }
        scene.until("cancelled", 1).await;
        scene.until("under_way", 0).await;
    })
    .await;
}

/// The same once the answer has begun to stream. The tool ends by itself in a moment, which may come first.
#[tokio::test]
async fn a_modern_caller_that_leaves_a_stream_takes_its_call_back() {
    const ATTEMPTS: usize = 50;
    with_each([Up::ModernHttp, Up::LegacyHttp, Up::Sse, Up::ModernStdio, Up::LegacyStdio], async |up| {
        let scene = up.scene().await;
        let alice = scene.gateway.caller("alice");
        let params = json!({ "name": "up__test_tool_with_progress", "_meta": { "progressToken": "p" } });
        for _ in 0..ATTEMPTS {
            let mut stream = alice.begin_modern("tools/call", params.clone()).await;
            let first = stream.next().await;
            assert_eq!(first["params"]["progress"], 0, "{up:?}: {first}");
            drop(stream);
            scene.until("under_way", 0).await;
            if scene.stat("cancelled").await > 0 {
                return;
            }
        }
        panic!("{up:?}: leaving takes nothing back");
    })
    .await;
}

/// Servers of sessions without ids are told nothing by a closed connection, and have no session to be told in.
#[tokio::test]
async fn a_call_at_an_upstream_without_sessions_ends_by_itself() {
    let scene = Up::Stateless.scene().await;
    let alice = scene.gateway.caller("alice");
    let call = json!({ "name": "up__slow", "arguments": { "ms": 400 } });
    tokio::select! {
        reply = alice.modern("tools/call", call) => panic!("{}", reply.text()),
        () = scene.until("under_way", 1) => {}
    }
    scene.until("under_way", 0).await;
    assert_eq!(text(&alice.call("up__echo", json!({})).await.json()), "{}", "the gateway goes on");
}

#[tokio::test]
async fn a_legacy_caller_takes_its_call_back_with_a_notification() {
    with_each([Up::ModernHttp, Up::LegacyHttp, Up::Sse, Up::ModernStdio, Up::LegacyStdio], async |up| {
        let scene = up.scene().await;
        for (count, version) in ["2025-11-25", "2025-06-18", "2025-03-26"].into_iter().enumerate() {
            let session = scene.gateway.caller("alice").initialize(version).await;
            let call = json!({ "jsonrpc": "2.0", "id": "c", "method": "tools/call", "params": slow() });
            let cancelling = async {
                scene.until("under_way", 1).await;
                session.notify("notifications/cancelled", json!({ "requestId": "c", "reason": "enough" })).await;
            };
            let (reply, ()) = soon(async { tokio::join!(session.post(call.to_string()), cancelling) }).await;
            assert_eq!(reply.messages(), [""; 0], "nobody expects an answer");
            scene.until("cancelled", count + 1).await;
        }
        let mut client = scene.client(Kind::Sse, json!({})).await;
        let exchange = client.begin("tools/call", slow()).await;
        scene.until("under_way", 1).await;
        let id = exchange.id().clone();
        exchange.caller().notify("notifications/cancelled", json!({ "requestId": id })).await;
        scene.until("cancelled", 4).await;
        assert_eq!(text(&client.call("up__echo", json!({})).await), "{}", "the stream goes on");
    })
    .await;
}

#[tokio::test]
async fn a_call_that_waits_for_an_answer_is_taken_back_like_any_other() {
    for up in [Up::LegacyHttp, Up::Sse, Up::ModernHttp] {
        let scene = up.scene().await;
        let session = scene.gateway.caller("alice").able(everything()).initialize("2025-11-25").await;
        let params = json!({ "name": "up__test_streaming_elicitation" });
        let call = json!({ "jsonrpc": "2.0", "id": 9, "method": "tools/call", "params": params });
        let mut stream = session.begin(call.to_string()).await;
        let question = stream.next().await;
        assert_eq!(question["method"], "elicitation/create");
        session.notify("notifications/cancelled", json!({ "requestId": 9 })).await;
        // The question is withdrawn with the call, and the call has no answer.
        let rest = stream.rest().await;
        assert_eq!(rest.len(), 1, "{up:?}: {rest:?}");
        assert_eq!(rest[0]["method"], "notifications/cancelled");
        assert_eq!(rest[0]["params"]["requestId"], question["id"]);
        scene.until("under_way", 0).await;
        // A modern upstream has nothing under way while it waits.
        assert_eq!(scene.fixture().stats().cancelled, usize::from(!up.is_modern()), "{up:?}");
        session.respond(&question, json!({ "action": "accept", "content": { "sure": true } })).await;
    }
}

/// Opens a call that reports progress, reads `count` messages of it and leaves. The session, and the id of the last event.
async fn left(scene: &Scene, version: &str, count: usize) -> (Caller, String) {
    let session = scene.gateway.caller("alice").initialize(version).await;
    let params = json!({ "name": "up__test_tool_with_progress", "_meta": { "progressToken": "p" } });
    let mut stream = session.begin_request("tools/call", params).await;
    assert_eq!((stream.status, stream.is_events()), (StatusCode::OK, true));
    for _ in 0..count {
        stream.next().await;
    }
    let last = stream.last_id.clone().expect("events have ids");
    (session, last)
}

#[tokio::test]
async fn a_legacy_caller_that_left_is_told_the_rest_where_it_comes_back() {
    with_each([Up::ModernHttp, Up::LegacyHttp, Up::Stateless, Up::Sse, Up::ModernStdio, Up::LegacyStdio], async |up| {
        let scene = up.scene().await;
        for version in ["2025-11-25", "2025-06-18", "2025-03-26"] {
            let context = format!("{version} to {up:?}");
            let (session, last) = left(&scene, version, 1).await;
            let mut resumed = session.listen(Some(&last)).await;
            assert_eq!((resumed.status, resumed.is_events()), (StatusCode::OK, true), "{context}");
            let rest = resumed.rest().await;
            let [fifty, hundred, response] = rest.as_slice() else { panic!("{context}: {rest:?}") };
            assert_eq!((&fifty["params"]["progress"], &hundred["params"]["progress"]), (&json!(50), &json!(100)));
            assert_eq!(text(response), "Came to the end.", "{context}");
            // The same again, and from its end: nothing is lost by asking twice.
            assert_eq!(session.listen(Some(&last)).await.rest().await, rest, "{context}");
            let end = resumed.last_id.clone().unwrap();
            assert_eq!(session.listen(Some(&end)).await.rest().await, [] as [Value; 0], "{context}");
        }
        scene.until("cancelled", 0).await;
        scene.until("under_way", 0).await;
    })
    .await;
}

#[tokio::test]
async fn a_stream_is_resumed_by_its_own_session_alone() {
    let scene = Up::LegacyHttp.scene().await;
    let (session, last) = left(&scene, "2025-11-25", 1).await;
    let other = scene.gateway.caller("alice").initialize("2025-11-25").await;
    assert_eq!(other.listen(Some(&last)).await.status, StatusCode::BAD_REQUEST, "it has no such stream");
    for wrong in ["", "x", "1", "99-1", "-", "1-x", "18446744073709551616-1"] {
        assert_eq!(session.listen(Some(wrong)).await.status, StatusCode::BAD_REQUEST, "{wrong:?}");
    }
    let id = session.headers["mcp-session-id"].to_str().unwrap().to_owned();
    let bob = scene.gateway.caller("bob").with("mcp-session-id", &id).with("mcp-protocol-version", "2025-11-25");
    assert_eq!(bob.listen(Some(&last)).await.status, StatusCode::NOT_FOUND, "it is not his");
    assert_eq!(session.listen(Some(&last)).await.rest().await.len(), 3);
}

#[tokio::test]
async fn a_question_waits_for_a_caller_that_lost_its_connection() {
    for up in [Up::LegacyHttp, Up::ModernHttp] {
        let scene = up.scene().await;
        let session = scene.gateway.caller("alice").able(everything()).initialize("2025-11-25").await;
        let params = json!({ "name": "up__test_streaming_elicitation" });
        let mut stream = session.begin_request("tools/call", params).await;
        let primed = stream.event().await.unwrap().id.unwrap();
        drop(stream);
        let mut resumed = session.listen(Some(&primed)).await;
        let question = resumed.next().await;
        assert_eq!(question["method"], "elicitation/create", "{up:?}");
        drop(resumed);
        session.respond(&question, json!({ "action": "accept", "content": { "sure": true } })).await;
        let rest = session.listen(Some(&primed)).await.rest().await;
        assert_eq!(rest[0]["id"], question["id"], "{up:?}: it is told again");
        assert!(text(&rest[1]).starts_with("The answer was action=accept"), "{up:?}: {rest:?}");
    }
}

#[tokio::test]
async fn the_end_of_a_session_takes_its_calls_back() {
    with_each([Up::ModernHttp, Up::LegacyHttp, Up::Sse, Up::ModernStdio, Up::LegacyStdio], async |up| {
        let scene = up.scene().await;
        let session = scene.gateway.caller("alice").initialize("2025-11-25").await;
        let ending = async {
            scene.until("under_way", 1).await;
            assert_eq!(session.send("DELETE", "/mcp", "").await.status, StatusCode::NO_CONTENT);
        };
        let (_, ()) = soon(async { tokio::join!(session.request("tools/call", slow()), ending) }).await;
        scene.until("cancelled", 1).await;
        assert_eq!(session.request("ping", json!({})).await.status, StatusCode::NOT_FOUND);

        // Over HTTP+SSE the stream is the session.
        let mut client = scene.client(Kind::Sse, json!({})).await;
        client.begin("tools/call", slow()).await;
        scene.until("under_way", 1).await;
        drop(client);
        scene.until("cancelled", 2).await;
    })
    .await;
}

#[tokio::test]
async fn sessions_with_an_upstream_end_with_the_callers() {
    for up in [Up::LegacyHttp, Up::Sse] {
        let scene = up.scene().await;
        let own = scene.fixture().sessions();
        let session = scene.gateway.caller("alice").able(everything()).initialize("2025-11-25").await;
        assert_eq!(text(&session.request("tools/call", json!({ "name": "up__echo" })).await.json()), "");
        assert_eq!(scene.fixture().sessions(), own + 1, "{up:?}: one session for one session");
        assert_eq!(session.send("DELETE", "/mcp", "").await.status, StatusCode::NO_CONTENT);
        let ended = async {
            while scene.fixture().sessions() > own {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        soon(ended).await;
    }
}
