//! Registration and what it can be used for: A3, T13, T14.

use std::time::Duration;

use portcullis_tests::oauth::Client;
use portcullis_tests::oauth::client::{CALLBACK, post_json};
use portcullis_tests::oauth::connection::send;
use portcullis_tests::{Gateway, Reply};
use serde_json::{Value, json};

use super::{Who, client_of, invalid_grant, is_let_in, refusal, scene, scene_with, sign_in_as};

async fn register(gateway: &Gateway, metadata: &Value) -> Reply {
    post_json(gateway.public, &format!("http://{}/oauth2/register", gateway.public), metadata).await
}

/// Many in one test: they come from one address.
const MANY: &str = "[auth.clients]\nregistrations_per_minute = 100000";

#[tokio::test]
async fn a3_no_client_registers_an_address_that_runs_something() {
    let (_up, gateway) = scene_with(MANY).await;
    for redirect in [
        "javascript:alert(1)",
        "JavaScript:alert(1)",
        "\u{1}javascript:alert(1)",
        " javascript:alert(1)",
        "java\nscript:alert(1)",
        "data:text/html,<script>alert(1)</script>",
        "DATA:text/html,x",
        "file:///etc/passwd",
        "blob:https://client.example/x",
        "vbscript:x",
        "about:blank",
        "filesystem:https://client.example/x",
        "view-source:https://client.example/",
        "ws://client.example/",
        "ftp://client.example/",
        "http://client.example/callback",
        "http://127.0.0.1.evil.example/callback",
        "http://localhost.evil.example/callback",
        "https://user@client.example/callback",
        "https://client.example/callback#f",
        "https://client.example/../callback",
        "https://client.example/a/%2e%2e/callback",
        "https:///callback",
        "https://",
        "//client.example/callback",
        "/callback",
        "callback",
        "",
        "mailto:someone@client.example",
        "tel:1",
        "example-app://callback",
        "x:callback",
        "*",
        "https://*.client.example/callback",
    ] {
        let answer = register(&gateway, &json!({ "redirect_uris": [redirect] })).await;
        assert_eq!(refusal(&answer), (400, "invalid_redirect_uri".to_owned()), "{redirect:?}");
        // One bad one among good ones is one too many.
        let answer = register(&gateway, &json!({ "redirect_uris": [CALLBACK, redirect] })).await;
        assert_eq!(refusal(&answer).0, 400, "{redirect:?}");
    }
    for redirect in ["https://client.example/callback", "http://localhost/callback", "com.example.app:/callback"] {
        assert_eq!(register(&gateway, &json!({ "redirect_uris": [redirect] })).await.status, 201, "{redirect}");
    }
}

#[tokio::test]
async fn a3_schemes_of_applications_are_those_that_are_known_and_those_that_an_operator_adds() {
    let (_up, gateway) = scene_with("[auth.clients]\nredirect_schemes = [\"example-app\"]").await;
    let redirect = "cursor://anysphere.cursor-retrieval/oauth/callback";
    let answer = register(&gateway, &json!({ "redirect_uris": [redirect] })).await;
    assert_eq!(refusal(&answer).0, 400, "the operator has put others in its place");
    assert_eq!(register(&gateway, &json!({ "redirect_uris": ["example-app://callback"] })).await.status, 201);
    let (_up, gateway) = scene_with("").await;
    let metadata = json!({ "redirect_uris": [redirect] });
    let client = Client::register_as(gateway.public, "/mcp", metadata).await;
    let begun = client.begin();
    let url = super::consent(&mut portcullis_tests::oauth::Browser::new(gateway.public), &begun, Who::Guest).await;
    assert_eq!(client.redeem(&begun, &client.code(&begun, &url)).await.status, 200);
}

#[tokio::test]
async fn t13_what_cannot_be_given_is_refused_by_its_name() {
    let (_up, gateway) = scene_with(MANY).await;
    let with = |name: &str, value: Value| {
        let mut metadata = json!({ "redirect_uris": [CALLBACK] });
        metadata[name] = value;
        metadata
    };
    for metadata in [
        with("token_endpoint_auth_method", json!("client_secret_jwt")),
        with("grant_types", json!(["password"])),
        with("grant_types", json!(["implicit"])),
        with("grant_types", json!(["refresh_token"])),
        with("grant_types", json!(["client_credentials"])),
        with("response_types", json!(["token"])),
        with("client_name", json!(7)),
        with("client_uri", json!("javascript:alert(1)")),
        with("token_endpoint_auth_method", json!("private_key_jwt")),
        json!([]),
        json!("text"),
        Value::Null,
    ] {
        let answer = register(&gateway, &metadata).await;
        assert_eq!(answer.json()["error"], "invalid_client_metadata", "{metadata}: {}", answer.text());
        assert_eq!(answer.status, 400, "{metadata}");
    }
    let many: Vec<String> = (0..11).map(|n| format!("https://client.example/{n}")).collect();
    let (status, error) = refusal(&register(&gateway, &json!({ "redirect_uris": many })).await);
    assert_eq!((status, error.as_str()), (400, "invalid_redirect_uri"));
    let large = register(&gateway, &with("software_version", json!("x".repeat(20_000)))).await;
    assert_eq!(large.status, 413, "{}", large.text());
    // A program on somebody's machine keeps no secret, and is told that it has none (RFC 7591 § 3.2.1).
    let answer = register(&gateway, &with("token_endpoint_auth_method", json!("client_secret_basic"))).await;
    assert_eq!(answer.json()["token_endpoint_auth_method"], "none", "{}", answer.text());
    assert!(answer.json().get("client_secret").is_none());
    // What is not known is no mistake (RFC 7591 § 2), and not kept.
    let answer = register(&gateway, &with("x_unknown", json!("kept?"))).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    assert!(!answer.text().contains("kept?"));
    assert!(answer.header("cache-control").contains("no-store"));
}

#[tokio::test]
async fn t13_too_many_registrations_wait() {
    let (_up, gateway) = scene_with("[auth.clients]\nregistrations_per_minute = 5").await;
    let mut answers = Vec::new();
    for _ in 0..12 {
        answers.push(register(&gateway, &json!({ "redirect_uris": [CALLBACK] })).await);
    }
    let refused: Vec<&Reply> = answers.iter().filter(|answer| answer.status == 429).collect();
    assert!(!refused.is_empty() && answers[0].status == 201);
    for answer in refused {
        assert!(answer.header("retry-after").parse::<u64>().is_ok_and(|wait| wait >= 1), "{:?}", answer.headers);
    }
}

/// T13: 10 000 registrations, more than there is room for: those who use theirs keep it, and people go on signing in.
#[tokio::test(flavor = "multi_thread")]
async fn t13_ten_thousand_registrations_take_nobodys_place() {
    const ASKED: usize = 10_000;
    const ROOM: usize = 500;
    let settings = format!("[auth.clients]\nmax_registered = {ROOM}\nregistrations_per_minute = 1000000");
    let (_up, gateway) = scene_with(&settings).await;
    let client = client_of(&gateway).await;
    let tokens = sign_in_as(&gateway, &client, Who::Person("ann")).await;
    let mut crowd = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let address = gateway.public;
        crowd.spawn(async move {
            let mut connection = portcullis_tests::oauth::Connection::open(address).await;
            let body = json!({ "client_name": "One of many", "redirect_uris": [CALLBACK] }).to_string();
            let mut answers = std::collections::BTreeMap::<u16, usize>::new();
            for _ in 0..ASKED / 16 {
                let headers = [("content-type", "application/json")];
                let reply = connection.send("POST", "/oauth2/register", &headers, body.clone()).await;
                *answers.entry(reply.status.as_u16()).or_default() += 1;
            }
            answers
        });
    }
    let mut total = std::collections::BTreeMap::<u16, usize>::new();
    for answers in crowd.join_all().await {
        for (status, count) in answers {
            *total.entry(status).or_default() += count;
        }
    }
    assert!(total.keys().all(|status| [201, 429, 503].contains(status)), "{total:?}");
    assert_eq!(total.values().sum::<usize>(), ASKED, "{total:?}");
    assert!(total.get(&201).is_some_and(|made| *made >= ROOM - 1), "{total:?}");
    // Who has a grant is not put out of doors, and a sign-in works at once.
    assert_eq!(client.refresh(&tokens.refresh).await.status, 200);
    gateway.clock.advance(Duration::from_secs(61));
    let another = client_of(&gateway).await;
    let tokens = sign_in_as(&gateway, &another, Who::Person("ann")).await;
    assert!(is_let_in(&another, &tokens.access).await);
}

#[tokio::test]
async fn t13_clients_that_nobody_uses_are_forgotten() {
    let (_up, gateway) = scene().await;
    let (used, unused) = (client_of(&gateway).await, client_of(&gateway).await);
    let tokens = sign_in_as(&gateway, &used, Who::Person("ann")).await;
    gateway.clock.advance(Duration::from_secs(61 * 60));
    // Gone for everybody who asks, whether or not the sweep has come by.
    let mut browser = portcullis_tests::oauth::Browser::new(gateway.public);
    let until = tokio::time::Instant::now() + portcullis_tests::gateway::SOON;
    loop {
        let page = browser.get(&unused.begin().url).await;
        if page.status() == 400 {
            break;
        }
        assert!(tokio::time::Instant::now() < until, "still there: {page}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(used.refresh(&tokens.refresh).await.status, 200);
}

/// RFC 7592: who has the registration token manages the client, and nobody else.
#[tokio::test]
async fn t14_a_client_manages_itself() {
    let (_up, gateway) = scene_with(MANY).await;
    let (client, other) = (client_of(&gateway).await, client_of(&gateway).await);
    let tokens = sign_in_as(&gateway, &client, Who::Person("ann")).await;
    let at = |client: &Client| {
        let uri = client.registration["registration_client_uri"].as_str().unwrap();
        uri.strip_prefix(&format!("http://{}", gateway.public)).unwrap().to_owned()
    };
    let token_of = |value: &Value| value["registration_access_token"].as_str().unwrap().to_owned();
    let path = at(&client);
    let ask = async |method: &str, path: &str, token: &str, body: &str| {
        let bearer = format!("Bearer {token}");
        let mut headers = vec![("content-type", "application/json")];
        if !token.is_empty() {
            headers.push(("authorization", bearer.as_str()));
        }
        send(gateway.public, method, path, &headers, body.to_owned()).await
    };
    let first = token_of(&client.registration);
    let others = token_of(&other.registration);
    for (path, token) in [
        (path.as_str(), ""),
        (path.as_str(), "pct_wrong"),
        (path.as_str(), others.as_str()),
        (path.as_str(), tokens.access.as_str()),
        ("/oauth2/register/none", first.as_str()),
    ] {
        for method in ["GET", "PUT", "DELETE"] {
            let answer = ask(method, path, token, "{}").await;
            assert_eq!(answer.status, 401, "{method} {path} {token}: {}", answer.text());
        }
    }
    let shown = ask("GET", &path, &first, "").await;
    assert_eq!((shown.status.as_u16(), shown.json()["client_id"].as_str()), (200, Some(client.id.as_str())));

    let change = json!({ "client_id": client.id, "client_name": "Renamed", "redirect_uris": [CALLBACK], "token_endpoint_auth_method": "none" });
    for wrong in [
        json!({ "client_id": other.id, "redirect_uris": [CALLBACK] }),
        json!({ "client_id": client.id, "redirect_uris": ["javascript:alert(1)"] }),
    ] {
        assert_eq!(ask("PUT", &path, &first, &wrong.to_string()).await.status, 400, "{wrong}");
    }
    let changed = ask("PUT", &path, &first, &change.to_string()).await;
    assert_eq!(changed.status, 200, "{}", changed.text());
    assert_eq!(changed.json()["client_name"], "Renamed");
    let second = token_of(&changed.json());
    assert_ne!(first, second);
    assert_eq!(ask("GET", &path, &first, "").await.status, 401, "the first token was replaced");

    assert!(is_let_in(&client, &tokens.access).await);
    assert_eq!(ask("DELETE", &path, &second, "").await.status, 204);
    assert_eq!(ask("GET", &path, &second, "").await.status, 401);
    assert!(!is_let_in(&client, &tokens.access).await);
    assert_eq!(refusal(&client.refresh(&tokens.refresh).await), (401, "invalid_client".to_owned()));
    assert_eq!(refusal(&other.refresh("pcr_nothing").await), invalid_grant(), "the other one is still known");
}

#[tokio::test]
async fn registration_can_be_turned_off() {
    let (_up, gateway) = scene_with("[auth.clients]\nregistration = false").await;
    let answer = register(&gateway, &json!({ "redirect_uris": [CALLBACK] })).await;
    assert_eq!(answer.status, 404, "{}", answer.text());
    let found = portcullis_tests::oauth::client::discover(gateway.public, "/mcp").await;
    assert!(found.server.get("registration_endpoint").is_none(), "{}", found.server);
}
