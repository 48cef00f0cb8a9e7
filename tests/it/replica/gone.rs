//! The replica that held something is gone: sessions go on without streams, and what may have happened is never done again.

use http::StatusCode;
use portcullis_tests::Caller;
use portcullis_tests::caller::SseSession;
use serde_json::{Value, json};

use super::{ASKS, Directory, Replica, WATCHED, eventually, pair, park, retry, text};

stories! {
    a_session_goes_on_without_streams,
    a_parked_call_may_have_happened_and_is_not_sent_again,
    a_call_that_was_handed_on_is_not_sent_again_either,
    the_old_transport_ends_with_its_stream,
    another_process_at_the_same_address_is_not_the_one_that_was_there,
    a_replica_that_stops_in_an_orderly_way_is_gone_too,
}

/// A connection that breaks while a request is on its way tells nobody whether the request arrived, so that the first one
/// after a kill may be told that it may have happened.
async fn until_noticed(session: &Caller) {
    eventually(async || {
        let reply = session.request("ping", json!({})).await;
        assert!([StatusCode::OK, StatusCode::BAD_GATEWAY].contains(&reply.status), "{}", reply.text());
        reply.status == StatusCode::OK
    })
    .await;
}

async fn a_session_goes_on_without_streams(directory: &Directory) {
    let (fixture, one, other) = pair(directory).await;
    let there = one.caller("alice").initialize("2025-11-25").await;
    let here = other.takes(&there);
    assert_eq!(here.request("ping", json!({})).await.json()["result"], json!({}));
    one.kill();
    until_noticed(&here).await;

    let reply = here.request("tools/call", json!({ "name": "up__echo", "arguments": { "a": 1 } })).await;
    assert_eq!((reply.status, reply.header("content-type")), (StatusCode::OK, "application/json"), "{}", reply.text());
    assert!(text(&reply.json()).contains(r#""a":1"#));
    let mut asks = here.begin_request("tools/call", json!({ "name": ASKS, "arguments": {} })).await;
    assert!(!asks.is_events(), "nobody is asked where nobody could answer");
    assert!(!asks.next().await.is_null());
    assert_eq!(fixture.stats().answered, 0);
    here.notify("notifications/cancelled", json!({ "requestId": 7 })).await;
    here.respond(&json!({ "id": 1 }), json!({})).await;

    assert_eq!(here.listen(None).await.status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(here.listen(Some("1-1")).await.status, StatusCode::BAD_REQUEST);
    let refused = here.request("resources/subscribe", json!({ "uri": WATCHED })).await.json();
    assert!(refused["error"]["message"].as_str().unwrap().contains("initialize"), "{refused}");
    let wrong = here.copy().with("mcp-protocol-version", "2025-06-18");
    assert_eq!(wrong.request("ping", json!({})).await.status, StatusCode::BAD_REQUEST, "its revision is known");
    let session = there.headers["mcp-session-id"].to_str().unwrap();
    let bob = other.caller("bob").with("mcp-session-id", session);
    assert_eq!(bob.request("ping", json!({})).await.status, StatusCode::NOT_FOUND, "and whose it is");
    let (start, rest) = session.split_at(10);
    let other_letter = if rest.starts_with('A') { "B" } else { "A" };
    let forged = other.caller("alice").with("mcp-session-id", &format!("{start}{other_letter}{}", &rest[1..]));
    assert_eq!(forged.request("ping", json!({})).await.status, StatusCode::NOT_FOUND);

    assert_eq!(here.send("DELETE", "/mcp", "").await.status, StatusCode::NO_CONTENT);
}

async fn a_parked_call_may_have_happened_and_is_not_sent_again(directory: &Directory) {
    let (fixture, one, other) = pair(directory).await;
    let asked = park(&one.caller("alice")).await;
    one.kill();
    eventually(async || {
        let refused = other.caller("alice").modern("tools/call", retry(&asked)).await.json();
        assert_eq!(refused["error"]["code"], -31502, "{refused}");
        assert!(refused["error"]["message"].as_str().unwrap().contains("may have happened"), "{refused}");
        refused["error"]["data"]["reason"] == "replica_gone"
    })
    .await;
    assert_eq!(fixture.stats().calls, 1);
}

async fn a_call_that_was_handed_on_is_not_sent_again_either(directory: &Directory) {
    let (fixture, one, other) = pair(directory).await;
    let there = one.caller("alice").initialize("2025-11-25").await;
    let here = other.takes(&there);
    let params = json!({ "name": "up__slow", "arguments": { "ms": 60_000 } });
    let (reply, ()) = tokio::join!(here.request("tools/call", params), async {
        fixture.until(|stats| stats.under_way == 1).await;
        one.kill();
    });
    assert_eq!(reply.status, StatusCode::BAD_GATEWAY);
    let refused: Value = reply.json();
    assert!(refused["error"]["message"].as_str().unwrap().contains("may have happened"), "{refused}");
    assert_eq!(fixture.stats().calls, 1);
}

async fn the_old_transport_ends_with_its_stream(directory: &Directory) {
    let (_fixture, one, other) = pair(directory).await;
    let session = SseSession::open(&one.caller("alice"), "2024-11-05").await;
    let poster = other.takes(&session.poster);
    one.kill();
    eventually(async || poster.post(poster.legacy_request("ping", json!({}))).await.status == StatusCode::NOT_FOUND)
        .await;
}

async fn another_process_at_the_same_address_is_not_the_one_that_was_there(directory: &Directory) {
    let (fixture, one, other) = pair(directory).await;
    let there = one.caller("alice").initialize("2025-11-25").await;
    let here = other.takes(&there);
    assert_eq!(here.request("ping", json!({})).await.status, StatusCode::OK);
    let asked = park(&one.caller("alice")).await;
    let before = one.id().await;
    let at_one = one.kill();

    let mut bound = None;
    eventually(async || {
        bound = std::net::TcpListener::bind(at_one).ok();
        bound.is_some()
    })
    .await;
    let again = Replica::start(directory, bound.unwrap(), other.listener, &fixture, "").await;
    assert_ne!(again.id().await, before);
    // The other replica may know of the one or of the other: either way it is told the truth.
    until_noticed(&here).await;
    assert_eq!(here.listen(None).await.status, StatusCode::METHOD_NOT_ALLOWED);
    // Whatever the other process says, it does not know what became of a call.
    eventually(async || {
        let refused = other.caller("alice").modern("tools/call", retry(&asked)).await.json();
        assert_eq!(refused["error"]["code"], -31502, "{refused}");
        refused["error"]["data"]["reason"] == "replica_gone"
    })
    .await;
    assert_eq!(fixture.stats().calls, 1);

    // And sessions of the new one are reached.
    let fresh = again.caller("alice").initialize("2025-11-25").await;
    eventually(async || other.takes(&fresh).listen(None).await.is_events()).await;
}

async fn a_replica_that_stops_in_an_orderly_way_is_gone_too(directory: &Directory) {
    let (_fixture, one, other) = pair(directory).await;
    let there = one.caller("alice").initialize("2025-11-25").await;
    drop(one);
    eventually(async || other.takes(&there).request("ping", json!({})).await.status == StatusCode::OK).await;
}
