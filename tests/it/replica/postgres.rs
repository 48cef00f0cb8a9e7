//! What one replica learns from the store ends what goes on at another, and so does not learning anything.

use std::time::Duration;

use http::StatusCode;
use portcullis_tests::caller::Stream;
use portcullis_tests::postgres::{Server, Sync};
use portcullis_tests::upstreams::fixture::Fixture;
use portcullis_tests::{Caller, Gateway};
use serde_json::json;

use super::{Directory, eventually, pair, soon};

/// A stream of changes and one of a session, both begun.
async fn streams(caller: &Caller, session: &Caller) -> [Stream; 2] {
    let filter = json!({ "notifications": { "toolsListChanged": true } });
    let mut listening = caller.begin_modern("subscriptions/listen", filter).await;
    assert_eq!(listening.next().await["method"], "notifications/subscriptions/acknowledged");
    let standing = session.listen(None).await;
    assert!(standing.is_events());
    [listening, standing]
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_end_when_another_replica_revokes_their_key() {
    let (_fixture, one, other) = pair(&Directory::database()).await;
    let key = json!({ "name": "carol", "allow": [{ "upstream": "*", "tools": ["*"] }] });
    let made = one.gateway.operator("POST", "/api/v1/keys", Some(key)).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text());
    let secret = made.json()["secret"].as_str().unwrap().to_owned();
    let carol = Caller::new(other.gateway.public, Some(secret));
    eventually(async || carol.modern("tools/list", json!({})).await.status == StatusCode::OK).await;

    let session = carol.initialize("2025-11-25").await;
    let [listening, standing] = streams(&carol, &session).await;
    let handed_on = one.takes(&carol.initialize("2025-11-25").await).listen(None).await;
    assert!(handed_on.is_events());
    let deleted = one.gateway.operator("DELETE", "/api/v1/keys/carol", None).await;
    assert_eq!(deleted.status, StatusCode::NO_CONTENT);
    for mut stream in [listening, standing, handed_on] {
        soon(stream.rest()).await;
    }
    assert_eq!(session.request("ping", json!({})).await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_served_while_the_store_cannot_be_followed() {
    let up = Fixture::start().await;
    let server = Server::start(Sync::Off);
    let builder = Gateway::builder().key("alice").http_upstream("up", &up.url).in_database(&server, "portcullis");
    let gateway = builder.store_setting("max_staleness = \"2s\"").start().await;
    let alice = gateway.caller("alice");
    let session = alice.initialize("2025-11-25").await;
    let streams = streams(&alice, &session).await;
    server.kill();
    for mut stream in streams {
        soon(stream.rest()).await;
    }
    let refused = session.request("ping", json!({})).await;
    assert_eq!((refused.status, refused.header("retry-after")), (StatusCode::SERVICE_UNAVAILABLE, "1"));
    assert_eq!(alice.modern("tools/list", json!({})).await.status, StatusCode::SERVICE_UNAVAILABLE);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(session.listen(None).await.status, StatusCode::SERVICE_UNAVAILABLE);

    server.start_again();
    eventually(async || session.request("ping", json!({})).await.status == StatusCode::OK).await;
    assert!(session.listen(None).await.is_events(), "it goes on with a new stream");
    gateway.stop().await;
}
