//! Who may use the admin API: every row of it asks for an operator, wherever it is served. What each role may is in `roles`.

use http::StatusCode;
use portcullis::http::api::{Access, ROUTES};
use portcullis_tests::{Caller, Gateway, Reply};

use super::{at, operator_token, with_token};

/// The rows, with a name where a row has a parameter.
fn rows() -> impl Iterator<Item = (&'static str, String)> {
    ROUTES.iter().map(|row| (row.method, row.path.replace("{name}", "none").replace("{id}", "none")))
}

/// The same without those whose answers have no end.
fn rows_that_end() -> impl Iterator<Item = (&'static str, String)> {
    rows().filter(|(_, path)| !path.ends_with("/tail"))
}

fn assert_turned_away(reply: &Reply, what: &str) {
    assert_eq!(reply.status, StatusCode::UNAUTHORIZED, "{what}");
    assert_eq!(reply.header("www-authenticate"), r#"Bearer realm="portcullis admin""#, "{what}");
    assert_eq!(reply.header("content-type"), "application/problem+json", "{what}");
    assert_eq!(reply.json()["code"], "unauthenticated", "{what}");
}

#[test]
fn every_row_names_a_role_and_stands_alone() {
    assert!(ROUTES.len() >= 13);
    for (at, row) in ROUTES.iter().enumerate() {
        let is_own = row.path.starts_with("/api/v1/api-tokens");
        let changes = row.method != "GET";
        assert!(!changes || is_own || row.access >= Access::Operator, "{} {}", row.method, row.path);
        assert!(row.path.starts_with("/api/v1/"), "{}", row.path);
        assert!(
            ROUTES[..at].iter().all(|other| (other.method, other.path) != (row.method, row.path)),
            "{} {} occurs twice",
            row.method,
            row.path
        );
    }
}

/// What opens nothing, and what it is.
fn wrong_credentials(gateway: &Gateway) -> Vec<(&'static str, Caller)> {
    let token = operator_token(gateway);
    let secret = std::fs::read_to_string(gateway.dir.path().join("data/vault.key")).unwrap();
    let shows = |secret: &str| at(gateway.admin, Some(secret));
    let nobody = || at(gateway.admin, None);
    vec![
        ("no token", nobody()),
        ("another token", shows(&"0".repeat(64))),
        ("an empty token", shows("")),
        ("a part of the token", shows(&token[..63])),
        ("the token and more", shows(&format!("{token}0"))),
        ("the token in capitals", shows(&token.to_uppercase())),
        ("a caller's key", shows(&Gateway::secret("alice"))),
        ("the key of the vault", shows(secret.trim())),
        ("the token under another scheme", nobody().with("authorization", &format!("Basic {token}"))),
        ("an API token that nobody made", shows(&format!("pat_{}", "a".repeat(43)))),
        ("the token where a key stands", nobody().with("x-portcullis-key", &token)),
        ("the token in a cookie", nobody().with("cookie", &format!("portcullis-admin-session={token}"))),
    ]
}

#[tokio::test]
async fn without_the_operator_token_every_row_is_closed() {
    // A gateway counts what is wrong, so that one is not asked for all of it.
    for part in 0..3 {
        let gateway = Gateway::builder().key("alice").start().await;
        for (what, caller) in wrong_credentials(&gateway).iter().skip(part).step_by(3) {
            for (method, path) in rows() {
                assert_turned_away(&caller.send(method, &path, "{}").await, &format!("{method} {path} with {what}"));
            }
        }
    }
}

/// What proxies and frameworks let pass elsewhere, and what we could have made up.
#[tokio::test]
async fn h2_no_header_makes_somebody_an_operator() {
    let gateway = Gateway::builder().start().await;
    for (name, value) in [
        ("x-forwarded-for", "127.0.0.1"),
        ("x-real-ip", "127.0.0.1"),
        ("forwarded", "for=127.0.0.1"),
        ("x-forwarded-user", "root"),
        ("x-remote-user", "root"),
        ("remote-user", "root"),
        ("x-original-url", "/healthz"),
        ("x-rewrite-url", "/healthz"),
        ("x-http-method-override", "GET"),
        ("x-portcullis-operator", "socket"),
        ("x-portcullis-role", "owner"),
        ("x-portcullis-replica", "1"),
        ("x-portcullis-internal", "1"),
        ("x-portcullis-csrf", "1"),
        ("x-api-key", "secret-api-key"),
        ("proxy-authorization", "Bearer secret-api-key"),
    ] {
        let caller = at(gateway.admin, None).with(name, value);
        for (method, path) in [("GET", "/api/v1/keys"), ("POST", "/api/v1/keys"), ("GET", "/api/v1/me")] {
            assert_turned_away(&caller.send(method, path, "{}").await, &format!("{method} {path} with {name}"));
        }
    }
}

#[tokio::test]
async fn with_the_operator_token_every_row_is_open() {
    let gateway = Gateway::builder().start().await;
    for (method, path) in rows() {
        let (status, _, _) = with_token(&gateway).open(method, &path, "{}").await;
        assert!(
            ![StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN, StatusCode::METHOD_NOT_ALLOWED].contains(&status),
            "{method} {path}: {status}"
        );
        assert!(!status.is_server_error(), "{method} {path}: {status}");
    }
}

#[tokio::test]
async fn at_the_socket_every_row_is_open_without_a_token() {
    let gateway = Gateway::builder().start().await;
    for (method, path) in rows_that_end() {
        let status = gateway.operator(method, &path, None).await.status;
        assert!(
            ![StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN, StatusCode::METHOD_NOT_ALLOWED].contains(&status),
            "{method} {path}: {status}"
        );
        assert!(!status.is_server_error(), "{method} {path}: {status}");
    }
}

#[tokio::test]
async fn the_public_listener_knows_nothing_of_the_admin_api() {
    let gateway = Gateway::builder().key("alice").start().await;
    let token = operator_token(&gateway);
    for (method, path) in rows() {
        for caller in [gateway.stranger(), gateway.caller("alice"), Caller::new(gateway.public, Some(token.clone()))] {
            assert_eq!(caller.send(method, &path, "{}").await.status, StatusCode::NOT_FOUND, "{method} {path}");
        }
    }
}

#[tokio::test]
async fn the_admin_listener_knows_nothing_of_mcp() {
    let gateway = Gateway::builder().key("alice").start().await;
    for secret in [Gateway::secret("alice"), operator_token(&gateway)] {
        assert_eq!(at(gateway.admin, Some(&secret)).post("{}").await.status, StatusCode::NOT_FOUND);
    }
    assert_eq!(gateway.operator("POST", "/mcp", None).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn what_is_no_row_is_not_found_and_what_is_no_method_not_allowed() {
    let gateway = Gateway::builder().start().await;
    for path in [
        "/api",
        "/api/v1",
        "/api/v1/",
        "/api/v2/status",
        "/api/v1/none",
        "/api/v1/status/",
        "/api/v1/keys/a/b",
        "/api/v1/../v1/status",
        "//api/v1/status",
    ] {
        assert_eq!(with_token(&gateway).send("GET", path, "").await.status, StatusCode::NOT_FOUND, "{path}");
        assert_eq!(gateway.operator("GET", path, None).await.status, StatusCode::NOT_FOUND, "{path} at the socket");
        let stranger = at(gateway.admin, None).send("GET", path, "").await.status;
        assert!([StatusCode::NOT_FOUND, StatusCode::UNAUTHORIZED].contains(&stranger), "{path}: {stranger}");
    }
    // Pages are for browsers, which find no socket.
    assert_eq!(gateway.operator("GET", "/", None).await.status, StatusCode::NOT_FOUND);
    for (_, path) in rows() {
        let known: Vec<&str> = rows().filter(|(_, other)| *other == path).map(|(method, _)| method).collect();
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"] {
            if !known.contains(&method) {
                let reply = with_token(&gateway).send(method, &path, "").await;
                assert_eq!(reply.status, StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
                assert_eq!(reply.header("content-type"), "application/problem+json", "{method} {path}");
                assert!(!reply.header("allow").is_empty(), "{method} {path}");
            }
        }
    }
}

#[tokio::test]
async fn answers_are_for_nobody_to_keep() {
    let gateway = Gateway::builder().start().await;
    for (method, path) in rows_that_end() {
        let reply = gateway.operator(method, &path, None).await;
        if !reply.body.is_empty() {
            assert_eq!(reply.header("cache-control"), "no-store", "{method} {path}");
            assert_eq!(reply.header("x-content-type-options"), "nosniff", "{method} {path}");
        }
    }
}

#[tokio::test]
async fn every_refusal_is_a_problem_document() {
    let gateway = Gateway::builder().start().await;
    let operator = with_token(&gateway);
    for (method, path, body, status, code) in [
        ("GET", "/api/v1/keys/none", "", 404, "not_found"),
        ("GET", "/api/v1/keys/NOT-A-NAME", "", 404, "not_found"),
        ("GET", "/api/v1/keys/%ff", "", 404, "not_found"),
        ("GET", "/api/v1/decisions/none", "", 404, "not_found"),
        ("POST", "/api/v1/upstreams/none/refresh", "", 404, "not_found"),
        ("POST", "/api/v1/upstreams/none/refresh", "{}", 404, "not_found"),
        ("POST", "/api/v1/upstreams/none/refresh", r#"{"x":1}"#, 422, "invalid"),
        ("POST", "/api/v1/policies/reload", "x", 422, "invalid"),
        ("DELETE", "/api/v1/keys/none", r#"{"x":null}"#, 422, "invalid"),
        ("POST", "/api/v1/keys", "{", 422, "invalid"),
        ("POST", "/api/v1/keys", "[]", 422, "invalid"),
        ("POST", "/api/v1/keys", "", 422, "invalid"),
        ("PATCH", "/api/v1/keys/none", "null", 422, "invalid"),
        ("PATCH", "/api/v1/keys/none", r#"{"disabled":"yes"}"#, 422, "invalid"),
        ("GET", "/api/v1/keys?cursor=x", "", 400, "invalid_cursor"),
        ("GET", "/api/v1/keys?limit=x", "", 400, "invalid_query"),
        ("GET", "/api/v1/keys?none=1", "", 400, "invalid_query"),
        ("GET", "/api/v1/audit?limit=-1", "", 400, "invalid_query"),
        ("GET", "/api/v1/decisions?verdict=maybe", "", 422, "invalid"),
        ("GET", "/api/v1/decisions?limit=1&limit=2", "", 400, "invalid_query"),
        ("GET", "/api/v1/decisions?since=yesterday", "", 422, "invalid"),
        ("GET", "/api/v1/decisions/tail?verdict=maybe", "", 422, "invalid"),
        ("GET", "/api/v1/audit/tail?after=x", "", 400, "invalid_query"),
        ("GET", "/api/v1/audit?event=keyz", "", 422, "invalid"),
        ("GET", "/api/v1/audit/tail?event=keyz", "", 422, "invalid"),
        ("GET", "/api/v1/audit/none", "", 404, "not_found"),
        ("GET", "/api/v1/status?verbose=1", "", 400, "invalid_query"),
        ("DELETE", "/api/v1/keys/none?force=1", "", 400, "invalid_query"),
        ("GET", "/api/v1/none", "", 404, "not_found"),
        ("GET", "/api/v1", "", 404, "not_found"),
    ] {
        let reply = operator.send(method, path, body).await;
        let what = format!("{method} {path} {body}: {}", reply.text());
        assert_eq!(reply.status.as_u16(), status, "{what}");
        assert_eq!(reply.header("content-type"), "application/problem+json", "{what}");
        let problem = reply.json();
        assert_eq!((&problem["status"], &problem["code"]), (&status.into(), &code.into()), "{what}");
        assert!(problem["title"].is_string() && problem["detail"].is_string(), "{what}");
        if matches!(body, "[]" | "null") {
            assert_eq!(problem["detail"], "the body has to be a JSON object", "{what}");
        }
    }
    let reply = at(gateway.admin, Some(&operator_token(&gateway)))
        .with("content-type", "text/plain")
        .send("POST", "/api/v1/keys", "{}")
        .await;
    assert_eq!((reply.status.as_u16(), reply.json()["code"].as_str().unwrap()), (415, "unsupported_media_type"));
    let reply = operator.send("POST", "/api/v1/keys", " ".repeat(2 * 1024 * 1024)).await;
    assert_eq!(reply.status, StatusCode::PAYLOAD_TOO_LARGE);
}
