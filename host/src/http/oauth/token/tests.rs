//! The token endpoint and its siblings, through the routes.

use axum::Router;
use axum::body::Body;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http_body_util::BodyExt as _;
use std::net::SocketAddr;
use tower::ServiceExt as _;

use super::super::super::serve::Peer;
use super::super::{OAuth, router};
use super::*;
use crate::authorization::testing::{REDIRECT, SECRET, Scene, VERIFIER, configured};
use crate::config::auth::ConfiguredClient;
use crate::oauth::dpop::{self, testing};
use crate::oauth::signing::Algorithm;
use crate::store::authorizations::{Pushed, take_pushed};

struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Value,
}

impl Answer {
    fn error(&self) -> (u16, &str) {
        (self.status, self.body["error"].as_str().unwrap_or_default())
    }
}

struct Site {
    scene: Scene,
    router: Router,
}

impl Site {
    async fn new() -> Self {
        Self::of(Scene::new().await)
    }

    fn of(scene: Scene) -> Self {
        let router = router(Arc::new(OAuth::new(scene.server.clone())));
        Self { scene, router }
    }

    async fn send(&self, request: axum::http::request::Builder, body: String) -> Answer {
        let mut request = request.method("POST").body(Body::from(body)).unwrap();
        request.extensions_mut().insert(Peer::Tcp(SocketAddr::from(([192, 0, 2, 1], 1))));
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = response.into_body().collect().await.unwrap().to_bytes();
        Answer { status, headers, body: serde_json::from_slice(&body).unwrap_or_default() }
    }

    async fn post(&self, path: &str, authorization: Option<&str>, form: &[(&str, &str)]) -> Answer {
        let mut request = Request::builder().uri(path).header("content-type", "application/x-www-form-urlencoded");
        if let Some(authorization) = authorization {
            request = request.header("authorization", authorization);
        }
        let form = form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
        self.send(request, form).await
    }

    /// The same with proofs of keys.
    async fn post_proven(&self, path: &str, authorization: &str, proofs: &[&str], form: &[(&str, &str)]) -> Answer {
        let mut request = Request::builder().uri(path).header("content-type", "application/x-www-form-urlencoded");
        request = request.header("authorization", authorization);
        for proof in proofs {
            request = request.header("dpop", *proof);
        }
        let form = form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
        self.send(request, form).await
    }

    async fn redeem(&self, client: &str) -> Answer {
        let code = self.scene.code(client).await;
        let mut form = vec![
            ("grant_type", "authorization_code"),
            ("code", code.expose()),
            ("redirect_uri", REDIRECT),
            ("code_verifier", VERIFIER),
        ];
        let basic = basic(client, SECRET);
        let authorization = (client == "app").then_some(basic.as_str());
        if authorization.is_none() {
            form.push(("client_id", client));
        }
        self.post("/oauth2/token", authorization, &form).await
    }
}

fn basic(client: &str, secret: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{client}:{secret}")))
}

#[tokio::test]
async fn a_code_becomes_tokens_and_a_refresh_token_the_next_ones() {
    let site = Site::new().await;
    for client in ["public", "app"] {
        let first = site.redeem(client).await;
        assert_eq!(
            (first.status, &first.body["token_type"], &first.body["expires_in"]),
            (200, &json!("Bearer"), &json!(600))
        );
        assert_eq!(first.body["scope"], "mcp notes:write");
        assert_eq!(first.headers["cache-control"], "no-store");
        let token = first.body["refresh_token"].as_str().unwrap();
        let mut form = vec![("grant_type", "refresh_token"), ("refresh_token", token), ("scope", "mcp")];
        let basic = basic(client, SECRET);
        let authorization = (client == "app").then_some(basic.as_str());
        if authorization.is_none() {
            form.push(("client_id", client));
        }
        let next = site.post("/oauth2/token", authorization, &form).await;
        assert_eq!((next.status, &next.body["scope"]), (200, &json!("mcp")), "{}", next.body);
        assert_ne!(next.body["refresh_token"], first.body["refresh_token"]);
    }
}

#[tokio::test]
async fn t3_failures_of_authentication_are_told_as_they_were_tried() {
    let site = Site::new().await;
    let grant = ("grant_type", "refresh_token");
    let token = ("refresh_token", "pcr_nobodys");
    let wrong = basic("app", "pcs_wrong");
    for (authorization, form, expected, is_challenged) in [
        (Some(wrong.as_str()), vec![grant, token], (401, "invalid_client"), true),
        (Some("Bearer x"), vec![grant, token, ("client_id", "public")], (401, "invalid_client"), true),
        (None, vec![grant, token, ("client_id", "app")], (401, "invalid_client"), false),
        (None, vec![grant, token, ("client_id", "nobody")], (401, "invalid_client"), false),
        (None, vec![grant, token], (401, "invalid_client"), false),
        (None, vec![grant, token, ("client_id", "public"), ("client_secret", "x")], (401, "invalid_client"), false),
        (Some(wrong.as_str()), vec![grant, token, ("client_secret", "x")], (400, "invalid_request"), false),
        (None, vec![grant, token, ("client_id", "public")], (400, "invalid_grant"), false),
    ] {
        let answer = site.post("/oauth2/token", authorization, &form).await;
        assert_eq!(answer.error(), expected, "{form:?}");
        assert_eq!(answer.headers.contains_key("www-authenticate"), is_challenged, "{form:?}");
        assert_eq!(answer.headers["cache-control"], "no-store");
    }
}

#[tokio::test]
async fn what_is_no_request_is_told_to_be_none() {
    let site = Site::new().await;
    let client = ("client_id", "public");
    for (form, expected) in [
        (vec![client], (400, "invalid_request")),
        (vec![client, ("grant_type", "")], (400, "invalid_request")),
        (vec![client, ("grant_type", "password")], (400, "unsupported_grant_type")),
        (vec![client, ("grant_type", "client_credentials")], (400, "unsupported_grant_type")),
        (vec![client, ("grant_type", "authorization_code")], (400, "invalid_request")),
        (vec![client, ("grant_type", "authorization_code"), ("code", "x")], (400, "invalid_request")),
        (vec![client, ("grant_type", "refresh_token")], (400, "invalid_request")),
        (vec![client, client, ("grant_type", "refresh_token")], (400, "invalid_request")),
    ] {
        assert_eq!(site.post("/oauth2/token", None, &form).await.error(), expected, "{form:?}");
    }
    let json = Request::builder().uri("/oauth2/token").header("content-type", "application/json");
    assert_eq!(site.send(json, "{}".to_owned()).await.error(), (400, "invalid_request"));
    let form = || Request::builder().uri("/oauth2/token").header("content-type", "application/x-www-form-urlencoded");
    assert_eq!(site.send(form(), "x".repeat(17_000)).await.error(), (413, "invalid_request"));
    assert_eq!(
        site.send(form().header("content-encoding", "gzip"), String::new()).await.error(),
        (415, "invalid_request")
    );
}

#[tokio::test]
async fn t18_a_client_that_proves_a_key_gets_tokens_that_are_bound_to_it() {
    let site = Site::new().await;
    let (one, other) = (testing::client(Algorithm::Es256), testing::client(Algorithm::Es256));
    let now = site.scene.now();
    let at = |path: &str| format!("https://gateway.example{path}");
    let (token_at, par_at) = (at("/oauth2/token"), at("/oauth2/par"));
    let asked = dpop::Asked { method: "POST", address: &token_at, access_token: None, now };
    let basic = basic("app", SECRET);
    let code = site.scene.code("app").await;
    let redeeming = [
        ("grant_type", "authorization_code"),
        ("code", code.expose()),
        ("redirect_uri", REDIRECT),
        ("code_verifier", VERIFIER),
    ];
    let post =
        async |proofs: &[&str], form: &[(&str, &str)]| site.post_proven("/oauth2/token", &basic, proofs, form).await;

    // What proves nothing costs the client no code.
    let proof = one.proof(&asked, &json!({}));
    let elsewhere = one.proof(&asked, &json!({ "htu": "https://evil.example/oauth2/token" }));
    for bad in [vec![elsewhere.as_str()], vec![proof.as_str(), proof.as_str()], vec!["x"]] {
        let answer = post(&bad, &redeeming).await;
        assert_eq!(answer.error(), (400, "invalid_dpop_proof"), "{bad:?}");
        assert!(!answer.headers.contains_key("dpop-nonce"));
    }
    let old = post(&[&one.proof(&asked, &json!({ "iat": 1 }))], &redeeming).await;
    assert_eq!(old.error(), (400, "use_dpop_nonce"));
    let nonce = json!({ "iat": 1, "nonce": old.headers["dpop-nonce"].to_str().unwrap() });

    let first = post(&[&one.proof(&asked, &nonce)], &redeeming).await;
    assert_eq!((first.status, &first.body["token_type"]), (200, &json!("DPoP")), "{}", first.body);
    let jkt = Proof::thumbprint(&one.thumbprint());
    for member in ["access_token", "refresh_token"] {
        let token = first.body[member].as_str().unwrap();
        let known = site.post("/oauth2/introspect", Some(&basic), &[("token", token)]).await;
        assert_eq!(known.body["cnf"], json!({ "jkt": jkt }), "{member}");
    }
    let refreshing =
        [("grant_type", "refresh_token"), ("refresh_token", first.body["refresh_token"].as_str().unwrap())];
    assert_eq!(post(&[], &refreshing).await.error(), (400, "invalid_grant"));
    assert_eq!(post(&[&other.proof(&asked, &json!({}))], &refreshing).await.error(), (400, "invalid_grant"));
    assert_eq!(post(&[&proof], &refreshing).await.body["token_type"], "DPoP");
    assert_eq!(post(&[&proof], &refreshing).await.error(), (400, "invalid_dpop_proof"), "it was there before");

    // RFC 9449 §10.1: a proof with a pushed request says the same as `dpop_jkt`.
    let asked = dpop::Asked { address: &par_at, ..asked };
    let request = [
        ("response_type", "code"),
        ("redirect_uri", REDIRECT),
        ("code_challenge", "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"),
        ("code_challenge_method", "S256"),
    ];
    let push = async |more: &[(&str, &str)]| {
        let (proof, form) = (one.proof(&asked, &json!({})), [&request, more].concat());
        site.post_proven("/oauth2/par", &basic, &[&proof], &form).await
    };
    let pushed = push(&[]).await;
    let reference = crate::secret::Plaintext::new(pushed.body["request_uri"].as_str().unwrap());
    let client = crate::ids::ClientId::parse("app").unwrap();
    let taken = take_pushed(&site.scene.server.store, reference.digest(), &client).await.unwrap();
    let Pushed::Taken(text) = taken else { panic!("{taken:?}") };
    assert!(text.ends_with(&format!("&client_id=app&dpop_jkt={jkt}")), "{text}");
    assert_eq!(push(&[("dpop_jkt", &jkt)]).await.status, 201);
    assert_eq!(push(&[("dpop_jkt", "other")]).await.error(), (400, "invalid_dpop_proof"));
}

#[tokio::test]
async fn t17_tokens_are_exchanged_where_that_is_on() {
    const TYPE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
    let site = Site::new().await;
    let issued = site.redeem("app").await.body;
    let basic = basic("app", SECRET);
    let subject = ("subject_token", issued["access_token"].as_str().unwrap());
    let kind = ("subject_token_type", ACCESS_TOKEN);
    let ask = async |form: &[(&str, &str)]| {
        let form = [&[("grant_type", TYPE)], form].concat();
        site.post("/oauth2/token", Some(&basic), &form).await
    };
    assert_eq!(ask(&[subject, kind]).await.error(), (400, "unsupported_grant_type"));
    let mut client = configured(site.scene.client("app").await);
    client.metadata.grant_types.push(GrantType::TokenExchange);
    site.scene.publish(|snapshot| {
        let mut auth = crate::config::Auth::clone(&snapshot.auth);
        auth.grants.token_exchange = true;
        auth.clients.known = vec![ConfiguredClient { client, key: None }];
        snapshot.auth = Arc::new(auth);
    });
    for form in [
        vec![kind],
        vec![subject],
        vec![subject, ("subject_token_type", "urn:ietf:params:oauth:token-type:id_token")],
        vec![subject, kind, ("requested_token_type", "urn:ietf:params:oauth:token-type:refresh_token")],
        vec![subject, kind, ("actor_token", "x")],
        vec![("subject_token", "x"), kind],
    ] {
        assert_eq!(ask(&form).await.error(), (400, "invalid_request"), "{form:?}");
    }
    assert_eq!(ask(&[subject, kind, ("audience", "https://other.example")]).await.error(), (400, "invalid_target"));
    let answer = ask(&[subject, kind, ("scope", "mcp")]).await;
    assert_eq!((answer.status, &answer.body["issued_token_type"]), (200, &json!(ACCESS_TOKEN)), "{}", answer.body);
    assert_eq!((&answer.body["scope"], &answer.body["token_type"]), (&json!("mcp"), &json!("Bearer")));
    assert!(answer.body.get("refresh_token").is_none());
}

#[tokio::test]
async fn t9_a_revoked_token_is_not_active_and_nobody_is_told_whether_it_ever_was() {
    let site = Site::new().await;
    let issued = site.redeem("app").await.body;
    let basic = basic("app", SECRET);
    for member in ["access_token", "refresh_token"] {
        let token = issued[member].as_str().unwrap();
        let ask = async || site.post("/oauth2/introspect", Some(&basic), &[("token", token)]).await;
        let known = ask().await;
        assert_eq!((known.status, &known.body["active"], &known.body["client_id"]), (200, &json!(true), &json!("app")));
        assert_eq!((&known.body["sub"], &known.body["iss"]), (&json!("key:ci"), &json!("https://gateway.example")));
        let hint = ("token_type_hint", "whatever");
        let other = site.post("/oauth2/revoke", None, &[("token", token), ("client_id", "public")]).await;
        assert_eq!((other.status, ask().await.body["active"] == true), (200, true));
        assert_eq!(site.post("/oauth2/revoke", Some(&basic), &[("token", token), hint]).await.status, 200);
        assert_eq!(ask().await.body, json!({ "active": false }));
        assert_eq!(site.post("/oauth2/revoke", Some(&basic), &[("token", token)]).await.status, 200);
    }
    assert_eq!(site.post("/oauth2/revoke", Some(&basic), &[]).await.error(), (400, "invalid_request"));
    let public = site.post("/oauth2/introspect", None, &[("token", "x"), ("client_id", "public")]).await;
    assert_eq!(public.error(), (401, "invalid_client"));
}

#[tokio::test]
async fn a20_a_pushed_request_is_kept_for_its_client_without_its_secrets() {
    let site = Site::new().await;
    let (one, two) = ("https://gateway.example/mcp", "https://evil.example");
    let form = [
        ("response_type", "code"),
        ("state", "a b&c"),
        ("redirect_uri", REDIRECT),
        ("code_challenge", "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"),
        ("code_challenge_method", "S256"),
        ("resource", one),
    ];
    let pushed = site.post("/oauth2/par", Some(&basic("app", SECRET)), &form).await;
    assert_eq!((pushed.status, &pushed.body["expires_in"]), (201, &json!(60)));
    let reference = crate::secret::Plaintext::new(pushed.body["request_uri"].as_str().unwrap());
    let client = crate::ids::ClientId::parse("app").unwrap();
    let taken = take_pushed(&site.scene.server.store, reference.digest(), &client).await.unwrap();
    let expected = "code_challenge=E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM&code_challenge_method=S256\
        &redirect_uri=https%3A%2F%2Fapp.example%2Fcallback&resource=https%3A%2F%2Fgateway.example%2Fmcp\
        &response_type=code&state=a+b%26c&client_id=app";
    assert_eq!(taken, Pushed::Taken(expected.to_owned()));
    let nested = [("client_id", "public"), ("request_uri", "urn:x")];
    assert_eq!(site.post("/oauth2/par", None, &nested).await.error(), (400, "invalid_request"));
    assert_eq!(site.post("/oauth2/par", None, &form).await.error(), (401, "invalid_client"));
    let wrong = [&form[..], &[("resource", two)]].concat();
    let refused = site.post("/oauth2/par", Some(&basic("app", SECRET)), &wrong).await;
    assert_eq!(refused.error(), (400, "invalid_target"));
}

#[tokio::test]
async fn pages_of_any_origin_may_ask_for_tokens() {
    let site = Site::new().await;
    for path in ["/oauth2/token", "/oauth2/revoke"] {
        let asked = Request::builder()
            .method("OPTIONS")
            .uri(path)
            .header("origin", "https://app.example")
            .header("access-control-request-method", "POST");
        let response = site.router.clone().oneshot(asked.body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(response.status(), StatusCode::NO_CONTENT);
        assert_eq!(response.headers()["access-control-allow-origin"], "*");
        let allowed = response.headers()["access-control-allow-headers"].to_str().unwrap();
        assert!(allowed.contains("authorization") && allowed.contains("content-type"));
        let answer = site.post(path, None, &[]).await;
        assert_eq!(
            (answer.status, &answer.headers["access-control-allow-origin"]),
            (401, &HeaderValue::from_static("*"))
        );
    }
}

#[tokio::test]
async fn t20_one_network_takes_no_more_than_its_part_of_the_places_there_are() {
    let site = Site::of(Scene::with(|auth| auth.grants.device = true).await);
    for (path, most) in [("/oauth2/par", 120), ("/oauth2/device", 30)] {
        let mut answered = 0;
        let refused = loop {
            let answer = site.post(path, None, &[("client_id", "public"), ("scope", "mcp")]).await;
            if answer.status == 429 {
                break answer;
            }
            answered += 1;
            assert!(answered < 3 * most, "{path}");
        };
        assert!(answered >= most, "{path}: {answered}");
        assert_eq!(refused.error(), (429, "too_many_requests"));
        assert!(refused.headers.contains_key("retry-after"));
    }
}
