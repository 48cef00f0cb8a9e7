//! The keys that sign access tokens, as an operator looks after them and as everybody reads them; grants, where there are
//! none yet.

use std::time::Duration;

use http::StatusCode;
use portcullis_tests::Gateway;
use serde_json::{Value, json};

use crate::cli::run_in;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const JWKS: &str = "/.well-known/jwks.json";

async fn gateway() -> Gateway {
    Gateway::builder().on_disk().section("[auth.tokens]\nalgorithm = \"EdDSA\"\n").start().await
}

async fn published(gateway: &Gateway) -> Vec<String> {
    let keys = gateway.stranger().send("GET", JWKS, "").await.json();
    keys["keys"].as_array().unwrap().iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
}

/// The id of the key that signs.
fn signs(view: &Value) -> Option<String> {
    let keys = view["signing_keys"].as_array().unwrap();
    keys.iter().find(|key| key["signs"] == true).map(|key| key["kid"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn keys_are_made_announced_rotated_and_taken_out() {
    let gateway = gateway().await;
    let dir = gateway.dir.path();
    let first = published(&gateway).await;
    assert_eq!(first.len(), 1);
    let listed = run_in(dir, &["signing-key", "list"]).await.printed();
    let cells: Vec<&str> = listed.lines().nth(1).unwrap().split_whitespace().take(4).collect();
    assert_eq!(cells, [first[0].as_str(), "EdDSA", "active", "yes"]);

    let printed = run_in(dir, &["signing-key", "rotate"]).await.printed();
    assert!(printed.contains("is published, and signs from"), "{printed}");
    let printed = run_in(dir, &["signing-key", "rotate"]).await.printed();
    assert!(printed.contains("was published already"), "{printed}");
    assert_eq!(published(&gateway).await.len(), 2);
    gateway.clock.advance(DAY);
    let view = gateway.until("/api/v1/signing-keys", |view| signs(view).is_some_and(|kid| kid != first[0])).await;
    let second = signs(&view).unwrap();

    let printed = run_in(dir, &["signing-key", "revoke", &second]).await.printed();
    assert!(printed.contains("is taken out") && !printed.contains("no key signs"), "{printed}");
    let left = published(&gateway).await;
    assert!(left.contains(&first[0]) && !left.contains(&second), "what was retired is still published: {left:?}");
    let complaint = run_in(dir, &["signing-key", "revoke", &second]).await.complaint();
    assert!(complaint.contains("there is no such signing key"), "{complaint}");
    let third = signs(&gateway.operator("GET", "/api/v1/signing-keys", None).await.json()).unwrap();
    run_in(dir, &["signing-key", "rotate", "--now"]).await.printed();
    let fourth = signs(&gateway.operator("GET", "/api/v1/signing-keys", None).await.json()).unwrap();
    assert_ne!(third, fourth);
    gateway.clock.advance(DAY);
    gateway.until("/api/v1/signing-keys", |view| view["signing_keys"].as_array().unwrap().len() == 1).await;
    assert_eq!(published(&gateway).await, [fourth]);
}

#[tokio::test]
async fn documents_are_read_by_everybody_and_changed_by_nobody() {
    let gateway = gateway().await;
    let foreign = gateway.stranger().with("origin", "https://app.example");
    for path in [
        JWKS,
        "/.well-known/oauth-protected-resource",
        "/.well-known/oauth-protected-resource/mcp",
        "/.well-known/oauth-authorization-server",
        "/.well-known/openid-configuration",
    ] {
        for method in ["GET", "HEAD"] {
            let reply = foreign.send(method, path, "").await;
            assert_eq!(reply.status, StatusCode::OK, "{method} {path}");
            assert_eq!(reply.header("access-control-allow-origin"), "*", "{method} {path}");
            assert_eq!(reply.header("cache-control"), "public, max-age=300", "{method} {path}");
            assert_eq!(reply.text().is_empty(), method == "HEAD", "{path}");
        }
        for method in ["POST", "PUT", "DELETE"] {
            assert_eq!(foreign.send(method, path, "").await.status, StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
        }
        let asked = foreign.copy().with("access-control-request-method", "GET").send("OPTIONS", path, "").await;
        assert_eq!(asked.status, StatusCode::NO_CONTENT, "{path}");
        let wrong = gateway.stranger().with("host", "evil.example").send("GET", path, "").await;
        assert_eq!(wrong.status, StatusCode::FORBIDDEN, "{path}");
    }
    // Nothing else is.
    assert_eq!(foreign.send("POST", "/mcp", "{}").await.status, StatusCode::FORBIDDEN);
    for path in ["/.well-known/oauth-protected-resource/mcp/none", "/.well-known/oauth-authorization-server/mcp"] {
        assert_eq!(foreign.send("GET", path, "").await.status, StatusCode::NOT_FOUND, "{path}");
    }
}

#[tokio::test]
async fn where_callers_have_keys_only_there_are_no_documents_and_no_keys() {
    let gateway = Gateway::builder().section("[auth]\nmcp = \"keys\"\n").start().await;
    for path in [JWKS, "/.well-known/oauth-protected-resource/mcp", "/.well-known/oauth-authorization-server"] {
        assert_eq!(gateway.stranger().send("GET", path, "").await.status, StatusCode::NOT_FOUND, "{path}");
    }
    let keys = gateway.operator("GET", "/api/v1/signing-keys", None).await.json();
    assert_eq!(keys, json!({ "signing_keys": [] }));
    let reply = gateway.operator("POST", "/api/v1/signing-keys/rotate", Some(json!({}))).await;
    assert_eq!((reply.status, reply.json()["code"].as_str()), (StatusCode::CONFLICT, Some("no_authorization_server")));
}

#[tokio::test]
async fn grants_that_are_not_there_are_not_revoked_and_filters_are_read() {
    let gateway = gateway().await;
    let dir = gateway.dir.path();
    assert!(run_in(dir, &["grant", "list", "--state", "active"]).await.printed().starts_with("GRANT"));
    for (query, status) in [
        ("kind=user&state=revoked&client=https%3A%2F%2Fa.example%2Fc&principal=key%3Aci", StatusCode::OK),
        ("kind=gateway", StatusCode::UNPROCESSABLE_ENTITY),
        ("state=gone", StatusCode::UNPROCESSABLE_ENTITY),
        ("principal=gateway", StatusCode::UNPROCESSABLE_ENTITY),
        ("unknown=1", StatusCode::BAD_REQUEST),
        ("cursor=x", StatusCode::BAD_REQUEST),
    ] {
        let reply = gateway.operator("GET", &format!("/api/v1/grants?{query}"), None).await;
        assert_eq!(reply.status, status, "{query}: {}", reply.text());
    }
    let id = "0".repeat(24);
    for id in [id.as_str(), "x"] {
        assert_eq!(
            gateway.operator("DELETE", &format!("/api/v1/grants/{id}"), None).await.status,
            StatusCode::NOT_FOUND
        );
    }
    for (body, status) in [
        (json!({ "family": id }), StatusCode::NOT_FOUND),
        (json!({}), StatusCode::UNPROCESSABLE_ENTITY),
        (json!({ "all": true, "kind": "user" }), StatusCode::UNPROCESSABLE_ENTITY),
        (json!({ "all": true }), StatusCode::OK),
        (json!({ "kind": "guest" }), StatusCode::OK),
    ] {
        let reply = gateway.operator("POST", "/api/v1/grants/revoke", Some(body.clone())).await;
        assert_eq!(reply.status, status, "{body}: {}", reply.text());
    }
    let revoked = run_in(dir, &["grant", "revoke", "--principal", "key:ci"]).await;
    assert!(revoked.stderr.contains("there was no active grant of key:ci"), "{}", revoked.stderr);
    assert!(revoked.printed().contains("key:ci"));
    assert!(run_in(dir, &["grant", "revoke", &id]).await.complaint().contains("there is no such grant"));
    assert_eq!(run_in(dir, &["grant", "revoke"]).await.code, Some(2));
    assert_eq!(run_in(dir, &["grant", "revoke", &id, "--all"]).await.code, Some(2));
}
