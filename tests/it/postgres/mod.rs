//! Gateways whose store is in PostgreSQL.

use http::StatusCode;
use portcullis_tests::gateway::Builder;
use portcullis_tests::postgres::{PASSWORD, Server, Sync};
use portcullis_tests::upstreams::fixture::Fixture;
use portcullis_tests::{Caller, Gateway, TestClock, replicas};
use serde_json::json;
use tempfile::TempDir;

mod store;

async fn new_key(gateway: &Gateway, name: &str) -> String {
    let key = json!({ "name": name, "allow": [{ "upstream": "*", "tools": ["*"] }] });
    let reply = gateway.operator("POST", "/api/v1/keys", Some(key)).await;
    assert_eq!(reply.status, StatusCode::CREATED, "{}", reply.text());
    reply.json()["secret"].as_str().unwrap().to_owned()
}

async fn ready(gateway: &Gateway) -> (StatusCode, String) {
    let reply = gateway.stranger().send("GET", "/readyz", "").await;
    (reply.status, reply.text().to_owned())
}

/// Asks until the gateway says this of itself.
async fn until_ready_is(gateway: &Gateway, expected: (StatusCode, &str)) {
    let asking = async {
        while ready(gateway).await != (expected.0, expected.1.to_owned()) {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    let waited = tokio::time::timeout(portcullis_tests::gateway::SOON, asking).await;
    assert!(waited.is_ok(), "{expected:?} and not {:?}", ready(gateway).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_gateway_knows_outlives_it() {
    let up = Fixture::start().await;
    let server = Server::shared();
    let schema = server.new_schema();
    let builder = || Gateway::builder().http_upstream("up", &up.url).in_database(server, &schema);
    let first = builder().start().await;
    let secret = new_key(&first, "ci").await;
    let caller = Caller::new(first.public, Some(secret.clone()));
    assert_eq!(caller.modern("tools/list", json!({})).await.status, StatusCode::OK);
    for path in ["/api/v1/status", "/api/v1/keys", "/api/v1/audit"] {
        assert!(!first.operator("GET", path, None).await.text().contains(PASSWORD), "{path}");
    }
    let dir = first.stop().await;
    // A new data directory is a new gateway; the store is the same.
    drop(dir);
    let second = builder().start().await;
    let caller = Caller::new(second.public, Some(secret));
    assert_eq!(caller.modern("tools/list", json!({})).await.status, StatusCode::OK);
    let audit = second.operator("GET", "/api/v1/audit", None).await;
    assert!(audit.text().contains("\"ci\""), "{}", audit.text());
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_is_ready_while_its_database_is_there() {
    let up = Fixture::start().await;
    let server = Server::start(Sync::On);
    let gateway = Gateway::builder().key("ci").http_upstream("up", &up.url).in_database(&server, "portcullis");
    let gateway = gateway.start().await;
    for round in 0..2 {
        let secret = new_key(&gateway, &format!("key{round}")).await;
        until_ready_is(&gateway, (StatusCode::OK, "ready\n")).await;
        server.kill();
        until_ready_is(&gateway, (StatusCode::SERVICE_UNAVAILABLE, "not ready\n")).await;
        let key = json!({ "name": "lost", "allow": [] });
        let refused = gateway.operator("POST", "/api/v1/keys", Some(key)).await;
        assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE, "{}", refused.text());
        assert!(refused.headers.contains_key("retry-after"));
        assert_eq!(gateway.stranger().send("GET", "/healthz", "").await.status, StatusCode::OK);
        server.start_again();
        until_ready_is(&gateway, (StatusCode::OK, "ready\n")).await;
        let caller = Caller::new(gateway.public, Some(secret));
        assert_eq!(caller.modern("tools/list", json!({})).await.status, StatusCode::OK);
        let key = format!("/api/v1/keys/key{round}");
        assert_eq!(gateway.operator("GET", &key, None).await.status, StatusCode::OK, "what was told is there");
    }
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_without_its_database_says_so_and_ends() {
    let server = Server::start(Sync::Off);
    server.kill();
    let builder = Gateway::builder().in_database(&server, "portcullis");
    let error = builder.try_start(TempDir::new().unwrap(), TestClock::default()).await.map(drop).unwrap_err();
    let mut told = error.to_string();
    let mut next = std::error::Error::source(&error);
    while let Some(error) = next {
        told.push_str(": ");
        told.push_str(&error.to_string());
        next = error.source();
    }
    assert!(told.contains(&format!("postgres://127.0.0.1:{}/postgres", server.port())), "{told}");
    assert!(told.contains("refused") && !told.contains(PASSWORD), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_on_one_of_two_or_three_refuses_on_the_others() {
    let server = Server::shared();
    for gateways in [2, 3] {
        let schema = server.new_schema();
        let configure = |builder: Builder| builder.in_database(server, &schema);
        replicas::a_revocation_on_one_refuses_on_the_others(configure, gateways).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_three_gateways_sweeps_at_a_time() {
    let server = Server::shared();
    let schema = server.new_schema();
    replicas::one_gateway_sweeps_at_a_time(|builder| builder.in_database(server, &schema), 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn gateways_with_wrong_clocks_agree_on_what_has_expired() {
    let server = Server::shared();
    let schema = server.new_schema();
    replicas::clocks_may_be_wrong(|builder| builder.in_database(server, &schema)).await;
}
