//! Both replicas are there: it makes no difference which one a caller reaches.

use http::StatusCode;
use portcullis_tests::caller::SseSession;
use serde_json::{Value, json};

use super::{ASKS, Directory, WATCHED, accepted, answered, eventually, pair, park, retry, text};

stories! {
    a_session_is_used_and_deleted_through_another_replica,
    a_question_is_answered_through_whichever_replica,
    streams_of_a_session_are_read_and_resumed_through_another_replica,
    leaving_the_one_replica_is_seen_by_the_other,
    a_parked_call_goes_on_through_another_replica_once,
    messages_of_the_old_transport_are_posted_at_another_replica,
    operators_see_the_replicas_and_where_they_differ,
}

async fn a_session_is_used_and_deleted_through_another_replica(directory: &Directory) {
    let (fixture, one, other) = pair(directory).await;
    let there = one.caller("alice").initialize("2025-11-25").await;
    let here = other.takes(&there);
    for session in [&here, &there] {
        let reply = session.request("tools/call", json!({ "name": "up__echo", "arguments": { "a": 1 } })).await;
        assert_eq!((reply.status, reply.header("content-type")), (StatusCode::OK, "application/json"));
        assert!(text(&reply.json()).contains(r#""a":1"#), "{}", reply.text());
    }
    assert_eq!(fixture.stats().calls, 2);
    let wrong = here.copy().with("mcp-protocol-version", "2025-06-18");
    assert_eq!(
        wrong.request("ping", json!({})).await.status,
        StatusCode::BAD_REQUEST,
        "the owner's answer, whatever it is"
    );

    let bob =
        other.takes(&other.caller("bob").with("mcp-session-id", there.headers["mcp-session-id"].to_str().unwrap()));
    assert_eq!(bob.request("ping", json!({})).await.status, StatusCode::NOT_FOUND, "it is not his");
    assert_eq!(bob.send("DELETE", "/mcp", "").await.status, StatusCode::NOT_FOUND);
    let elsewhere = other.takes(&there).at("/mcp/up");
    assert_eq!(elsewhere.request("ping", json!({})).await.status, StatusCode::NOT_FOUND, "nor is it this endpoint's");

    assert_eq!(here.send("DELETE", "/mcp", "").await.status, StatusCode::NO_CONTENT);
    for session in [&here, &there] {
        assert_eq!(session.request("ping", json!({})).await.status, StatusCode::NOT_FOUND, "it has ended everywhere");
    }
}

async fn a_question_is_answered_through_whichever_replica(directory: &Directory) {
    let (fixture, one, other) = pair(directory).await;
    let there = one.caller("alice").initialize("2025-11-25").await;
    let here = other.takes(&there);
    for (asked_at, answered_at) in [(&there, &here), (&here, &there), (&here, &here)] {
        let mut stream = asked_at.begin_request("tools/call", json!({ "name": ASKS, "arguments": {} })).await;
        assert!(stream.is_events());
        let question = stream.next().await;
        assert_eq!(question["method"], "elicitation/create", "{question}");
        answered_at.respond(&question, accepted()).await;
        assert_eq!(text(&stream.next().await), answered());
        assert_eq!(stream.message().await, None, "the stream ends as it should");
    }
    assert_eq!((fixture.stats().calls, fixture.stats().answered), (3, 3));
}

async fn streams_of_a_session_are_read_and_resumed_through_another_replica(directory: &Directory) {
    let (fixture, one, other) = pair(directory).await;
    let there = one.caller("alice").initialize("2025-11-25").await;
    let here = other.takes(&there);

    let mut standing = here.listen(None).await;
    assert_eq!((standing.status, standing.is_events()), (StatusCode::OK, true));
    let done = here.request("resources/subscribe", json!({ "uri": WATCHED })).await.json();
    assert_eq!(done["result"], json!({}), "{done}");
    let bob = one.caller("bob");
    fixture.until(|stats| stats.subscriptions == 1).await;
    let updated = bob.call("up__test_trigger_resource_update", json!({ "uri": WATCHED })).await.json();
    assert_eq!(text(&updated), "It has changed.");
    let updated = standing.next().await;
    assert_eq!(
        (&updated["method"], &updated["params"]["uri"]),
        (&json!("notifications/resources/updated"), &json!(WATCHED))
    );

    let mut broken = there.begin_request("tools/call", json!({ "name": ASKS, "arguments": {} })).await;
    let question = broken.next().await;
    let last = broken.last_id.clone().unwrap();
    drop(broken);
    here.respond(&question, accepted()).await;
    let mut resumed = here.listen(Some(&last)).await;
    assert_eq!(text(&resumed.next().await), answered(), "what was said meanwhile");
}

async fn leaving_the_one_replica_is_seen_by_the_other(directory: &Directory) {
    let (_fixture, one, other) = pair(directory).await;
    let there = one.caller("alice").initialize("2025-11-25").await;
    let here = other.takes(&there);
    // A place that was not given back on either side would be taken for good, and there are few.
    for _ in 0..6 {
        eventually(async || here.listen(None).await.is_events()).await;
    }
}

async fn a_parked_call_goes_on_through_another_replica_once(directory: &Directory) {
    let (fixture, one, other) = pair(directory).await;
    let asked = park(&one.caller("alice")).await;
    let (here, bob) = (other.caller("alice"), other.caller("bob"));
    assert_eq!(bob.modern("tools/call", retry(&asked)).await.json()["error"]["code"], -32602, "it is not his");
    let done = here.modern("tools/call", retry(&asked)).await.json();
    assert_eq!((text(&done), &done["result"]["resultType"]), (&*answered(), &json!("complete")));
    for replica in [&one, &other] {
        let again = replica.caller("alice").modern("tools/call", retry(&asked)).await.json();
        assert_eq!(again["error"]["code"], -32602, "a state is good for one retry: {again}");
    }
    assert_eq!(fixture.stats().calls, 1, "it was sent once");
}

async fn messages_of_the_old_transport_are_posted_at_another_replica(directory: &Directory) {
    let (_fixture, one, other) = pair(directory).await;
    let mut session = SseSession::open(&one.caller("alice"), "2024-11-05").await;
    let stranger = other
        .takes(&session.poster)
        .with("authorization", other.caller("bob").headers["authorization"].to_str().unwrap());
    assert_eq!(stranger.post("{}").await.status, StatusCode::NOT_FOUND);
    session.poster = other.takes(&session.poster);
    let response = session.request("tools/call", json!({ "name": "up__echo", "arguments": { "b": 2 } })).await;
    assert!(text(&response).contains(r#""b":2"#), "{response}");
}

async fn operators_see_the_replicas_and_where_they_differ(directory: &Directory) {
    let (_fixture, one, other) = pair(directory).await;
    let id = other.id().await;
    let status = one
        .gateway
        .until("/api/v1/status", |status| {
            status["replica"]["others"].as_array().is_some_and(|others| !others.is_empty())
        })
        .await;
    let seen = &status["replica"]["others"][0];
    assert_eq!((&seen["id"], &seen["address"]), (&json!(id), &json!(other.listener.to_string())));
    assert_eq!(seen["version"], status["version"]);
    // Each of these two has a public URL of its own, which replicas behind one load balancer have not.
    assert_eq!(seen["same_configuration"], false);
    assert_ne!(status["replica"]["id"], Value::Null);
}
