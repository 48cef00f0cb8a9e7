//! The replica listener: nothing opens it but the deployment's secret.

use http::StatusCode;
use portcullis_tests::Caller;
use portcullis_tests::Gateway;
use serde_json::json;

use super::{Directory, pair};

#[tokio::test]
async fn a_callers_credential_opens_nothing() {
    let (_fixture, one, _other) = pair(&Directory::Peers).await;
    let alice = Caller::new(one.listener, Some(Gateway::secret("alice")));
    let ping = alice.legacy_request("ping", json!({}));
    for (method, path) in [
        ("POST", "/mcp"),
        ("GET", "/mcp"),
        ("DELETE", "/mcp"),
        ("GET", "/sse"),
        ("POST", "/messages"),
        ("GET", "/api/v1/status"),
        ("GET", "/healthz"),
        ("GET", "/"),
    ] {
        let reply = alice.send(method, path, ping.clone()).await;
        assert_eq!(reply.status, StatusCode::NOT_FOUND, "{method} {path}: {}", reply.text());
    }
    assert_eq!(alice.send("GET", "/replica", "").await.status, StatusCode::METHOD_NOT_ALLOWED);
    for body in [ping.clone(), String::new(), "\u{1}".repeat(500), "x".repeat(60_000)] {
        let reply = alice.send("POST", "/replica", body).await;
        assert_eq!((reply.status, reply.text()), (StatusCode::UNAUTHORIZED, ""), "and it says nothing");
    }
}

#[tokio::test]
async fn what_is_read_there_is_bounded() {
    let (_fixture, one, other) = pair(&Directory::Peers).await;
    // What a caller may send, goes through whole; what is more, goes nowhere.
    let there = one.caller("alice").initialize("2025-11-25").await;
    let here = other.takes(&there);
    let echo = |bytes: usize| json!({ "name": "up__echo", "arguments": { "a": "x".repeat(bytes) } });
    let reply = here.request("tools/call", echo(60_000)).await;
    assert!(reply.status == StatusCode::OK && reply.text().contains(&"x".repeat(60_000)));
    assert_eq!(here.request("tools/call", echo(70_000)).await.status, StatusCode::PAYLOAD_TOO_LARGE);
    let wide = here.copy().with("mcp-param-wide", &"x".repeat(10_000));
    assert_eq!(wide.request("ping", json!({})).await.status, StatusCode::OK);
}
