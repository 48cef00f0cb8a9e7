//! Streams that a server closes before the answer is there, to be taken up again after a while (SEP-1699): whoever calls
//! gets the answer.

use http::StatusCode;
use serde_json::json;

use super::{Kind, Up, text};

const DONE: &str = "The connection was ended and taken up again.";

fn params() -> serde_json::Value {
    json!({ "name": "up__test_reconnection" })
}

#[tokio::test]
async fn who_knows_nothing_of_it_just_waits() {
    let scene = Up::LegacyHttp.scene().await;
    for kind in [Kind::Modern, Kind::Session("2025-06-18"), Kind::Session("2025-03-26"), Kind::Sse] {
        let mut client = scene.client(kind, json!({})).await;
        let response = client.call("up__test_reconnection", json!({})).await;
        assert_eq!(text(&response), DONE, "{kind:?}");
    }
    let json_only = scene.gateway.caller("alice").with("accept", "application/json");
    let session = json_only.initialize("2025-11-25").await;
    for reply in [json_only.modern("tools/call", params()).await, session.request("tools/call", params()).await] {
        assert_eq!((reply.status, reply.header("content-type")), (StatusCode::OK, "application/json"));
        assert_eq!(text(&reply.json()), DONE);
    }
    assert_eq!(scene.fixture().stats().calls, 6, "and nothing was called twice");
}

#[tokio::test]
async fn who_knows_it_is_let_go_as_well_and_comes_back() {
    let scene = Up::LegacyHttp.scene().await;
    let session = scene.gateway.caller("alice").initialize("2025-11-25").await;
    let mut stream = session.begin_request("tools/call", params()).await;
    assert_eq!((stream.status, stream.is_events()), (StatusCode::OK, true));
    let primed = stream.event().await.unwrap();
    assert!(primed.id.is_some() && primed.data.is_empty(), "{primed:?}");
    let mut retry = None;
    while let Some(event) = stream.event().await {
        assert_eq!(event.data, "", "the answer comes later: {event:?}");
        retry = event.retry.or(retry);
    }
    assert_eq!(retry, Some(200), "the upstream's own wish");
    let last = stream.last_id.unwrap();
    let mut resumed = session.listen(Some(&last)).await;
    assert_eq!(text(&resumed.next().await), DONE);
    assert_eq!(resumed.message().await, None);
    assert_eq!(scene.fixture().stats().calls, 1);
}

#[tokio::test]
async fn upstreams_that_cannot_do_it_just_answer() {
    for up in [Up::ModernHttp, Up::Stateless, Up::Sse, Up::ModernStdio, Up::LegacyStdio] {
        let scene = up.scene().await;
        for kind in Kind::ALL {
            let mut client = scene.client(kind, json!({})).await;
            assert_eq!(text(&client.call("up__test_reconnection", json!({})).await), DONE, "{kind:?} to {up:?}");
        }
    }
}

/// The upstream's GET stream ends in the same way, and nothing that is said afterwards is lost.
#[tokio::test]
async fn a_stream_of_a_session_is_taken_up_again() {
    let scene = Up::LegacyHttp.scene().await;
    let session = scene.gateway.caller("alice").initialize("2025-11-25").await;
    let mut standing = session.listen(None).await;
    let uri = "test://watched-resource";
    assert_eq!(session.request("resources/subscribe", json!({ "uri": uri })).await.json()["result"], json!({}));
    scene.fixture().update_resource(uri);
    assert_eq!(standing.next().await["params"]["uri"], uri);
    scene.fixture().drop_streams(Some(std::time::Duration::from_millis(50)));
    scene.fixture().update_resource(uri);
    assert_eq!(standing.next().await["method"], "notifications/resources/updated");
}
