//! `/oauth2/register` as clients see it.

use axum::Router;
use axum::body::Body;
use http::Method;
use http::header::{CONTENT_TYPE, ORIGIN};
use http_body_util::BodyExt as _;
use tower::ServiceExt as _;

use super::*;
use crate::authorization::clients::testing::Scene;
use crate::http::oauth::router;
use crate::policy::tests::{about_clients, denial};

struct Gateway {
    scene: Scene,
    router: Router,
}

struct Answered {
    status: u16,
    headers: HeaderMap,
    text: String,
    body: Value,
}

impl Gateway {
    async fn new() -> Self {
        let scene = Scene::new().await;
        let router = router(Arc::new(OAuth::new(scene.server.clone())));
        Self { scene, router }
    }

    async fn send(&self, request: Request) -> Answered {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        let body = serde_json::from_str(&text).unwrap_or(Value::Null);
        Answered { status: parts.status.as_u16(), headers: parts.headers, text, body }
    }

    async fn ask(&self, method: Method, path: &str, token: Option<&str>, body: &Value) -> Answered {
        let mut request = Request::builder().method(method).uri(path).header(CONTENT_TYPE, "application/json");
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
        self.send(request.body(body).unwrap()).await
    }

    async fn register(&self, body: &Value) -> Answered {
        self.ask(Method::POST, "/oauth2/register", None, body).await
    }

    /// A registered client: the path of its registration, and its token.
    async fn registered(&self) -> (String, String, Value) {
        let answered = self.register(&json!({ "redirect_uris": ["https://client.example/cb"] })).await;
        assert_eq!(answered.status, 201, "{}", answered.text);
        let uri = answered.body["registration_client_uri"].as_str().unwrap();
        let path = uri.strip_prefix("https://gateway.example").unwrap().to_owned();
        (path, answered.body["registration_access_token"].as_str().unwrap().to_owned(), answered.body)
    }
}

#[tokio::test]
async fn t13_a_registration_is_answered_with_what_is_registered() {
    let gateway = Gateway::new().await;
    let body = json!({
        "client_name": "Notes", "redirect_uris": ["https://client.example/cb"], "token_endpoint_auth_method": "client_secret_post",
        "scope": "mcp other", "application_type": "web", "unknown": [1],
    });
    let answered = gateway.register(&body).await;
    assert_eq!(answered.status, 201, "{}", answered.text);
    let told = &answered.body;
    for (member, value) in [
        ("client_name", json!("Notes")),
        ("redirect_uris", json!(["https://client.example/cb"])),
        ("grant_types", json!(["authorization_code", "refresh_token"])),
        ("response_types", json!(["code"])),
        ("token_endpoint_auth_method", json!("client_secret_post")),
        ("scope", json!("mcp")),
        ("client_secret_expires_at", json!(0)),
        ("unknown", Value::Null),
    ] {
        assert_eq!(told[member], value, "{member}");
    }
    assert!(told["client_id_issued_at"].as_u64().is_some_and(|at| at > 1_000_000_000));
    assert!(told["client_secret"].as_str().is_some_and(|secret| secret.starts_with("pcs_")));
    assert!(told["registration_access_token"].as_str().is_some_and(|token| token.starts_with("pct_")));
    let uri = format!("https://gateway.example/oauth2/register/{}", told["client_id"].as_str().unwrap());
    assert_eq!(told["registration_client_uri"], uri);
    for (name, value) in [("cache-control", "no-store"), ("content-type", "application/json")] {
        assert_eq!(answered.headers[name], value);
    }
    let public = gateway
        .register(
            &json!({ "redirect_uris": ["http://localhost/cb"], "token_endpoint_auth_method": "client_secret_post" }),
        )
        .await;
    assert_eq!((public.status, &public.body["token_endpoint_auth_method"]), (201, &json!("none")));
    assert!(public.body.get("client_secret").is_none() && public.body.get("client_secret_expires_at").is_none());
}

#[tokio::test]
async fn t13_what_cannot_be_registered_is_told_in_the_words_of_the_standard() {
    let gateway = Gateway::new().await;
    gateway.scene.set(|auth| auth.clients.registrations_per_minute = 1_000);
    for (body, code) in [
        (json!({}), "invalid_redirect_uri"),
        (json!([]), "invalid_client_metadata"),
        (json!({ "redirect_uris": ["https://a.example/"], "grant_types": ["password"] }), "invalid_client_metadata"),
        (json!({ "redirect_uris": vec!["https://a.example/"; 11] }), "invalid_redirect_uri"),
        (json!({ "redirect_uris": ["https://a.example/"], "software_id": "x".repeat(300) }), "invalid_client_metadata"),
    ] {
        let answered = gateway.register(&body).await;
        assert_eq!((answered.status, &answered.body["error"]), (400, &json!(code)), "{body}");
        assert!(answered.body["error_description"].as_str().is_some_and(|text| !text.is_empty()));
        assert_eq!(answered.headers["cache-control"], "no-store");
    }
    let large = json!({ "redirect_uris": ["https://a.example/"], "x": "x".repeat(MAX_BYTES) });
    assert_eq!(gateway.register(&large).await.status, 413);
    for content_type in ["text/plain", "application/x-www-form-urlencoded", ""] {
        let request =
            Request::builder().method(Method::POST).uri("/oauth2/register").header(CONTENT_TYPE, content_type);
        let answered = gateway.send(request.body(Body::from("{}")).unwrap()).await;
        assert_eq!(answered.status, 415, "{content_type}");
    }
    for method in [Method::GET, Method::PUT, Method::DELETE, Method::PATCH] {
        assert_eq!(gateway.ask(method, "/oauth2/register", None, &Value::Null).await.status, 405);
    }
    gateway.scene.decide(about_clients(denial("no")));
    let denied = gateway.register(&json!({ "redirect_uris": ["https://a.example/"] })).await;
    assert_eq!((denied.status, &denied.body["error"]), (400, &json!("invalid_client_metadata")));
    assert_eq!(denied.body["error_description"], "No.");
}

/// Rows A1 and A3: none of these is ever redirected to.
#[tokio::test]
async fn a3_redirects_that_lead_nowhere_good_are_not_registered() {
    let gateway = Gateway::new().await;
    gateway.scene.set(|auth| auth.clients.registrations_per_minute = 1_000);
    for uri in [
        "javascript:alert(1)",
        "JavaScript:alert(1)",
        "\u{1}javascript:alert(1)",
        " javascript:alert(1)",
        "java\tscript:alert(1)",
        "data:text/html,x",
        "DATA:text/html,x",
        "file:///etc/passwd",
        "blob:https://client.example/x",
        "vbscript:x",
        "about:blank",
        "filesystem:https://client.example/x",
        "view-source:https://client.example/",
        "ws://client.example/",
        "ftp://client.example/",
        "myapp://callback",
        "urn:ietf:wg:oauth:2.0:oob",
        "http://client.example/cb",
        "https://user@client.example/cb",
        "https://client.example\\@evil.example/",
        "https://client.example/cb#fragment",
        "https://client.example/a/../cb",
        "https://client.example./cb",
        "https://2130706433/cb",
        "//client.example/cb",
        "",
    ] {
        let answered = gateway.register(&json!({ "redirect_uris": ["https://client.example/cb", uri] })).await;
        assert_eq!((answered.status, &answered.body["error"]), (400, &json!("invalid_redirect_uri")), "{uri}");
        assert!(!answered.text.contains("alert(1)"), "nothing is echoed: {}", answered.text);
    }
    let cursor = json!({ "redirect_uris": ["cursor://anysphere.cursor-mcp/oauth/callback"] });
    gateway.scene.set(|auth| auth.clients.schemes = Vec::new());
    assert_eq!(gateway.register(&cursor).await.status, 400);
    gateway.scene.set(|auth| auth.clients.schemes = vec!["cursor".to_owned()]);
    assert_eq!(gateway.register(&cursor).await.status, 201);
    assert_eq!(gateway.register(&json!({ "redirect_uris": ["com.example.app:/cb"] })).await.status, 201);
}

#[tokio::test]
async fn t13_too_many_registrations_are_told_when_to_come_again() {
    let gateway = Gateway::new().await;
    gateway.scene.set(|auth| auth.clients.registrations_per_minute = 2);
    for _ in 0..2 {
        gateway.registered().await;
    }
    let answered = gateway.register(&json!({ "redirect_uris": ["https://client.example/cb"] })).await;
    let wait: u64 = answered.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!(answered.status == 429 && (20..=30).contains(&wait), "{} {wait}", answered.status);
    assert_eq!(answered.headers["access-control-allow-origin"], "*");
}

#[tokio::test]
async fn t13_a_full_store_is_a_fault_and_a_closed_gateway_has_no_such_place() {
    let gateway = Gateway::new().await;
    gateway.scene.set(|auth| auth.clients.max_registered = 0);
    let body = json!({ "redirect_uris": ["https://client.example/cb"] });
    let full = gateway.register(&body).await;
    assert_eq!((full.status, &full.body["error"]), (503, &json!("temporarily_unavailable")), "{}", full.text);
    assert!(full.headers.contains_key("retry-after"));
    gateway.scene.set(|auth| auth.clients.registration = false);
    assert_eq!(gateway.register(&body).await.status, 404);
    gateway.scene.set(|auth| auth.mcp = crate::config::AuthMode::Keys);
    assert_eq!(gateway.register(&body).await.status, 404);
}

#[tokio::test]
async fn t14_a_client_looks_after_its_registration_with_its_token() {
    let gateway = Gateway::new().await;
    let (path, token, told) = gateway.registered().await;
    let read = gateway.ask(Method::GET, &path, Some(&token), &Value::Null).await;
    assert_eq!((read.status, &read.body), (200, &told), "a public client has nothing that is told once");
    let id = &told["client_id"];
    let next = json!({ "client_id": id, "redirect_uris": ["https://client.example/next"], "client_name": "Next" });
    let updated = gateway.ask(Method::PUT, &path, Some(&token), &next).await;
    assert_eq!((updated.status, &updated.body["client_name"]), (200, &json!("Next")), "{}", updated.text);
    let rotated = updated.body["registration_access_token"].as_str().unwrap().to_owned();
    assert_ne!(rotated, token);
    let (_, other, _) = gateway.registered().await;
    for wrong in [Some(token.as_str()), Some(other.as_str()), Some("pct_x"), Some(&*"x".repeat(500)), None] {
        for method in [Method::GET, Method::PUT, Method::DELETE] {
            let body = if method == Method::PUT { next.clone() } else { Value::Null };
            let answered = gateway.ask(method, &path, wrong, &body).await;
            assert_eq!((answered.status, &answered.body["error"]), (401, &json!("invalid_token")), "{wrong:?}");
            assert!(answered.headers["www-authenticate"].to_str().unwrap().starts_with("Bearer"));
        }
    }
    let in_query = format!("{path}?access_token={rotated}");
    assert_eq!(gateway.ask(Method::GET, &in_query, None, &Value::Null).await.status, 401);
    let other_client = json!({ "client_id": "other", "redirect_uris": ["https://client.example/next"] });
    let refused = gateway.ask(Method::PUT, &path, Some(&rotated), &other_client).await;
    assert_eq!((refused.status, &refused.body["error"]), (400, &json!("invalid_client_metadata")));
    assert_eq!(gateway.ask(Method::DELETE, &path, Some(&rotated), &Value::Null).await.status, 204);
    for method in [Method::GET, Method::DELETE] {
        assert_eq!(gateway.ask(method, &path, Some(&rotated), &Value::Null).await.status, 401);
    }
    assert_eq!(gateway.ask(Method::PUT, &path, Some(&rotated), &next).await.status, 401);
    let unknown = gateway.ask(Method::GET, "/oauth2/register/0123", Some(&rotated), &Value::Null).await;
    assert_eq!(unknown.status, 401);
}

#[tokio::test]
async fn pages_of_every_origin_may_register() {
    let gateway = Gateway::new().await;
    for path in ["/oauth2/register", "/oauth2/register/0123"] {
        let request = Request::builder().method(Method::OPTIONS).uri(path).header(ORIGIN, "https://page.example");
        let request = request.header(http::header::ACCESS_CONTROL_REQUEST_METHOD, "POST");
        let answered = gateway.send(request.body(Body::empty()).unwrap()).await;
        assert_eq!((answered.status, answered.headers["access-control-allow-origin"].to_str().unwrap()), (204, "*"));
        assert!(answered.headers["access-control-allow-headers"].to_str().unwrap().contains("content-type"));
        assert!(!answered.headers.contains_key("access-control-allow-credentials"));
    }
}

#[tokio::test]
async fn a_policy_that_fails_is_a_fault() {
    let gateway = Gateway::new().await;
    let wrong = json!({ "allow": [{ "pointer": "/redirect_uris", "op": { "set": "[]" } }] });
    gateway.scene.decide(crate::policy::tests::about_clients(wrong));
    let answered = gateway.register(&json!({ "redirect_uris": ["https://client.example/cb"] })).await;
    assert_eq!((answered.status, &answered.body["error"]), (503, &json!("server_error")));
    assert!(answered.headers.contains_key("retry-after"));
}
