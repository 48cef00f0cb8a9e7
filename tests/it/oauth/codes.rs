//! Codes at the token endpoint: T1, T2, T3, T21 and the second half of A4.

use std::collections::BTreeMap;
use std::time::Duration;

use portcullis_tests::oauth::client::{CALLBACK, Proof, basic, random};
use portcullis_tests::oauth::connection::send;
use portcullis_tests::oauth::{Browser, Client, Connection, Tokens, encoded};
use serde_json::json;
use tokio::task::JoinSet;

use super::{Who, audited, client_of, consent, invalid_grant, is_let_in, refusal, scene, scene_with};

const RACERS: usize = 64;

/// What it is, a header, fields; status and error of the answer.
type Case = (&'static str, Option<String>, Vec<(String, String)>, u16, &'static str);

#[tokio::test(flavor = "multi_thread")]
async fn t1_of_64_redemptions_at_once_one_wins_and_its_tokens_are_taken_back() {
    let (_up, gateway) = scene().await;
    let client = client_of(&gateway).await;
    let begun = client.begin();
    let url = consent(&mut Browser::new(gateway.public), &begun, Who::Person("ann")).await;
    let code = client.code(&begun, &url);
    let mut connections = Vec::new();
    for _ in 0..RACERS {
        connections.push(Connection::open(gateway.public).await);
    }
    let mut racers = JoinSet::new();
    for mut connection in connections {
        let (client, fields) = (client.clone(), client.redemption(&begun, &code));
        racers.spawn(async move { client.token_on(&mut connection, &fields).await });
    }
    let replies = racers.join_all().await;
    let (won, lost): (Vec<_>, Vec<_>) = replies.iter().partition(|reply| reply.status == 200);
    assert_eq!(won.len(), 1);
    for reply in lost {
        assert_eq!(refusal(reply), invalid_grant());
    }
    // Somebody else had the code: what came of it is worth nothing any more.
    let tokens = Tokens::of(won[0]);
    assert!(!is_let_in(&client, &tokens.access).await);
    assert_eq!(refusal(&client.refresh(&tokens.refresh).await), invalid_grant());
}

#[tokio::test]
async fn t1_a_replayed_code_revokes_what_the_winner_got() {
    let (_up, gateway) = scene().await;
    let client = client_of(&gateway).await;
    let begun = client.begin();
    let code = client.code(&begun, &consent(&mut Browser::new(gateway.public), &begun, Who::Person("ann")).await);
    let tokens = Tokens::of(&client.redeem(&begun, &code).await);
    assert!(is_let_in(&client, &tokens.access).await);

    // Another client with the code cannot end the first one's grant.
    let other = client_of(&gateway).await;
    assert_eq!(refusal(&other.redeem(&begun, &code).await), invalid_grant());
    assert!(is_let_in(&client, &tokens.access).await);

    assert_eq!(refusal(&client.redeem(&begun, &code).await), invalid_grant());
    assert!(!is_let_in(&client, &tokens.access).await);
    assert_eq!(refusal(&client.refresh(&tokens.refresh).await), invalid_grant());
}

#[tokio::test]
async fn t1_a_code_in_the_hands_of_another_client_stays_good() {
    let (_up, gateway) = scene().await;
    let (client, other) = (client_of(&gateway).await, client_of(&gateway).await);
    let begun = client.begin();
    let code = client.code(&begun, &consent(&mut Browser::new(gateway.public), &begun, Who::Guest).await);
    for _ in 0..3 {
        assert_eq!(refusal(&other.redeem(&begun, &code).await), invalid_grant());
    }
    Tokens::of(&client.redeem(&begun, &code).await);
}

#[tokio::test]
async fn t2_a_code_is_bound_to_everything_that_it_was_asked_with() {
    let (_up, gateway) = scene().await;
    let client = client_of(&gateway).await;
    let elsewhere = CALLBACK.replace("7777", "7778");
    let resource = format!("{}/other", client.resource());
    for (name, value, error) in [
        ("redirect_uri", elsewhere.as_str(), "invalid_grant"),
        ("redirect_uri", "http://127.0.0.1:7777/Callback", "invalid_grant"),
        ("redirect_uri", "", "invalid_request"),
        ("resource", "https://elsewhere.example/mcp", "invalid_target"),
        ("resource", resource.as_str(), "invalid_target"),
    ] {
        let begun = client.begin();
        let code = client.code(&begun, &consent(&mut Browser::new(gateway.public), &begun, Who::Guest).await);
        let mut fields = client.redemption(&begun, &code);
        fields.retain(|(known, _)| *known != name);
        if !value.is_empty() {
            fields.push((name, value.to_owned()));
        }
        assert_eq!(refusal(&client.token(&fields).await), (400, error.to_owned()), "{name} = {value:?}");
    }
}

/// A4: no verifier, or another one, burns the code: it was intercepted.
#[tokio::test]
async fn a4_a_wrong_verifier_burns_the_code() {
    let (_up, gateway) = scene().await;
    let client = client_of(&gateway).await;
    let wrong = [random(), "x".repeat(43), "short".to_owned(), String::new()];
    for verifier in wrong {
        let begun = client.begin();
        let code = client.code(&begun, &consent(&mut Browser::new(gateway.public), &begun, Who::Guest).await);
        let mut fields = client.redemption(&begun, &code);
        fields.retain(|(name, _)| *name != "code_verifier");
        if !verifier.is_empty() {
            fields.push(("code_verifier", verifier.clone()));
        }
        assert_eq!(refusal(&client.token(&fields).await), invalid_grant(), "{verifier:?}");
        // Whoever has the right one comes too late, and no grant has come of it.
        assert_eq!(refusal(&client.redeem(&begun, &code).await), invalid_grant(), "{verifier:?}");
    }
    assert_eq!(audited(&gateway, "code.burned").await.len(), 4);
    let grants = gateway.operator("GET", "/api/v1/grants", None).await.json();
    assert_eq!(grants["grants"], json!([]));
}

#[tokio::test]
async fn t2_a_code_ends_after_its_life() {
    let (_up, gateway) = scene().await;
    let client = client_of(&gateway).await;
    let begun = client.begin();
    let code = client.code(&begun, &consent(&mut Browser::new(gateway.public), &begun, Who::Guest).await);
    gateway.clock.advance(Duration::from_secs(61));
    assert_eq!(refusal(&client.redeem(&begun, &code).await), invalid_grant());
}

/// T3: each client authenticates as it has registered, and in no other way.
#[tokio::test]
async fn t3_a_client_authenticates_as_it_has_registered() {
    let (_up, gateway) = scene().await;
    let redirect = "https://client.example/callback";
    let register = async |method: &str| {
        let metadata = json!({ "redirect_uris": [redirect], "token_endpoint_auth_method": method });
        Client::register_as(gateway.public, "/mcp", metadata).await
    };
    let (public, by_header, by_body) =
        (register("none").await, register("client_secret_basic").await, register("client_secret_post").await);
    let secret = |client: &Client| client.secret.clone().unwrap();
    let (in_header, in_body) = (secret(&by_header), secret(&by_body));
    let id = |client: &Client| vec![("client_id".to_owned(), client.id.clone())];
    let and = |mut fields: Vec<(String, String)>, name: &str, value: &str| {
        fields.push((name.to_owned(), value.to_owned()));
        fields
    };
    let none: Option<String> = None;
    // What is sent, and what is answered to a code that is not there: `invalid_grant` means that the client was let in.
    let cases: Vec<Case> = vec![
        ("public", none.clone(), id(&public), 400, "invalid_grant"),
        ("public with a secret", none.clone(), and(id(&public), "client_secret", "x"), 401, "invalid_client"),
        ("public with a header", Some(basic(&public.id, "x")), vec![], 401, "invalid_client"),
        ("basic", Some(basic(&by_header.id, &in_header)), vec![], 400, "invalid_grant"),
        ("basic, wrong secret", Some(basic(&by_header.id, "x")), vec![], 401, "invalid_client"),
        ("basic, in the body", none.clone(), and(id(&by_header), "client_secret", &in_header), 401, "invalid_client"),
        ("basic, none", none.clone(), id(&by_header), 401, "invalid_client"),
        (
            "basic twice",
            Some(basic(&by_header.id, &in_header)),
            and(id(&by_header), "client_secret", &in_header),
            400,
            "invalid_request",
        ),
        ("post", none.clone(), and(id(&by_body), "client_secret", &in_body), 400, "invalid_grant"),
        ("post, wrong secret", none.clone(), and(id(&by_body), "client_secret", "x"), 401, "invalid_client"),
        ("post, in the header", Some(basic(&by_body.id, &in_body)), vec![], 401, "invalid_client"),
        ("unknown", none.clone(), vec![("client_id".to_owned(), random())], 401, "invalid_client"),
        ("unknown, in the header", Some(basic(&random(), "x")), vec![], 401, "invalid_client"),
        ("nobody", none.clone(), vec![], 401, "invalid_client"),
        ("no credentials in the header", Some("Basic !!".to_owned()), vec![], 401, "invalid_client"),
        ("two ids", Some(basic(&by_header.id, &in_header)), id(&public), 400, "invalid_request"),
    ];
    for (what, authorization, own, status, error) in cases {
        let mut fields: Vec<(String, String)> = [
            ("grant_type", "authorization_code"),
            ("code", "pcc_nothing"),
            ("redirect_uri", redirect),
            ("code_verifier", &Proof::new().verifier),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        fields.extend(own);
        let mut headers = vec![("content-type", "application/x-www-form-urlencoded")];
        headers.extend(authorization.as_deref().map(|value| ("authorization", value)));
        let reply = send(gateway.public, "POST", "/oauth2/token", &headers, encoded(&fields)).await;
        let (found, told) = refusal(&reply);
        assert_eq!((found, told.as_str()), (status, error), "{what}");
        // RFC 6749 § 5.2: who tried the header is told of the header.
        let has_challenge = reply.header("www-authenticate").starts_with("Basic");
        assert_eq!(has_challenge, status == 401 && authorization.is_some(), "{what}: {:?}", reply.headers);
    }
}

/// T19, as far as it can be seen without a stopwatch: who guesses learns nothing from what is answered.
#[tokio::test]
async fn t19_unknown_and_wrong_look_the_same() {
    let (_up, gateway) = scene().await;
    let metadata = json!({
        "redirect_uris": ["https://client.example/callback"], "token_endpoint_auth_method": "client_secret_basic",
    });
    let client = Client::register_as(gateway.public, "/mcp", metadata).await;
    let mut answers = BTreeMap::new();
    for (what, authorization) in
        [("wrong secret", basic(&client.id, &random())), ("unknown client", basic(&random(), &random()))]
    {
        let headers =
            [("content-type", "application/x-www-form-urlencoded"), ("authorization", authorization.as_str())];
        let reply = send(gateway.public, "POST", "/oauth2/token", &headers, "grant_type=refresh_token").await;
        let shown: BTreeMap<_, _> =
            reply.headers.iter().filter(|(name, _)| *name != "date").map(|(n, v)| (n.to_string(), v.clone())).collect();
        answers.insert(what, (reply.status, shown, reply.text().to_owned()));
    }
    let mut all = answers.into_values();
    assert_eq!(all.next(), all.next());
}

/// The endpoint reads forms and nothing else, each name once (RFC 6749 § 3.2).
#[tokio::test]
async fn a_token_request_is_a_form_with_each_name_once() {
    let (_up, gateway) = scene().await;
    let client = client_of(&gateway).await;
    let form = "application/x-www-form-urlencoded";
    let id = &client.id;
    let whole = format!("grant_type=refresh_token&client_id={id}&refresh_token=pcr_x");
    for (kind, body, status, error) in [
        (form, whole.clone(), 400, "invalid_grant"),
        ("application/x-www-form-urlencoded; charset=UTF-8", whole.clone(), 400, "invalid_grant"),
        (form, format!("{whole}&grant_type=refresh_token"), 400, "invalid_request"),
        (form, format!("{whole}&client_id={id}"), 400, "invalid_request"),
        (form, format!("{whole}&refresh_token=pcr_x"), 400, "invalid_request"),
        (form, format!("client_id={id}&refresh_token=pcr_x"), 400, "invalid_request"),
        (form, format!("grant_type=refresh_token&client_id={id}"), 400, "invalid_request"),
        (form, format!("grant_type=password&client_id={id}"), 400, "unsupported_grant_type"),
        (form, format!("grant_type=client_credentials&client_id={id}"), 400, "unsupported_grant_type"),
        (form, format!("{whole}&padding={}", "x".repeat(20_000)), 413, "invalid_request"),
        ("application/json", json!({ "grant_type": "refresh_token" }).to_string(), 400, "invalid_request"),
        ("text/plain", whole.clone(), 400, "invalid_request"),
    ] {
        let reply = send(gateway.public, "POST", "/oauth2/token", &[("content-type", kind)], body.clone()).await;
        assert_eq!(refusal(&reply), (status, error.to_owned()), "{kind} {}", &body[..body.len().min(100)]);
    }
    for method in ["GET", "PUT", "DELETE"] {
        let reply = send(gateway.public, method, &format!("/oauth2/token?{whole}"), &[], "").await;
        assert_eq!(reply.status, 405, "{method}");
    }
}

/// T21: what must not be kept says so, and what may be does.
#[tokio::test]
async fn t21_tokens_are_not_cached_and_documents_are() {
    let (_up, gateway) = scene_with("").await;
    let client = client_of(&gateway).await;
    let begun = client.begin();
    let code = client.code(&begun, &consent(&mut Browser::new(gateway.public), &begun, Who::Guest).await);
    let reply = client.redeem(&begun, &code).await;
    assert!(reply.header("cache-control").contains("no-store"), "{:?}", reply.headers);
    assert!(reply.header("content-type").starts_with("application/json"), "{:?}", reply.headers);
    for path in [
        "/.well-known/oauth-protected-resource",
        "/.well-known/oauth-protected-resource/mcp",
        "/.well-known/oauth-protected-resource/mcp/up",
        "/.well-known/oauth-authorization-server",
        "/.well-known/openid-configuration",
        "/.well-known/jwks.json",
    ] {
        let reply = send(gateway.public, "GET", path, &[], "").await;
        assert_eq!(reply.status, 200, "{path}");
        let caching = reply.header("cache-control");
        assert!(caching.contains("max-age") && !caching.contains("no-store"), "{path}: {caching:?}");
        // Clients in browsers read them (CORS).
        assert_eq!(reply.header("access-control-allow-origin"), "*", "{path}");
    }
}
