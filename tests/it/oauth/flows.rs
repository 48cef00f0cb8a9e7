//! Whole sign-ins: every identity, every mode, one upstream or all, and a gateway that is restarted in between.

use portcullis_tests::clock::TestClock;
use portcullis_tests::oauth::client::{claims, document, header};
use portcullis_tests::oauth::{Browser, Client, Tokens};
use portcullis_tests::upstreams::fixture::Fixture;
use portcullis_tests::{Caller, Gateway};
use serde_json::json;

use super::{
    AFTER_ACCESS, EVERYBODY, Who, add_person, arrive, choose, client_of, consent, gateway_with, is_let_in, scene,
    sign_in_as, signed_in,
};

#[tokio::test]
async fn everybody_signs_in_and_calls() {
    let (_up, gateway) = scene().await;
    for who in EVERYBODY {
        let client = client_of(&gateway).await;
        let tokens = sign_in_as(&gateway, &client, who).await;
        let result = client.caller(&tokens.access).call("up__echo", json!({ "text": "hello" })).await.json();
        assert_eq!(result["result"]["structuredContent"], json!({ "text": "hello" }), "{who:?}: {result}");
        let renewed = Tokens::of(&client.refresh(&tokens.refresh).await);
        assert_ne!(renewed.refresh, tokens.refresh, "{who:?}");
        assert!(is_let_in(&client, &renewed.access).await && is_let_in(&client, &tokens.access).await, "{who:?}");
        gateway.clock.advance(AFTER_ACCESS);
        assert!(!is_let_in(&client, &renewed.access).await, "{who:?}: an access token ends");
        let renewed = Tokens::of(&client.refresh(&renewed.refresh).await);
        assert!(is_let_in(&client, &renewed.access).await, "{who:?}");
    }
}

/// RFC 9068 § 2, and what is asked for besides.
#[tokio::test]
async fn an_access_token_says_what_it_is() {
    let (_up, gateway) = scene().await;
    let kinds = ["user", "key", "guest"];
    for (who, kind) in EVERYBODY.into_iter().zip(kinds) {
        let client = client_of(&gateway).await;
        let tokens = sign_in_as(&gateway, &client, who).await;
        let (header, claims) = (header(&tokens.access), claims(&tokens.access));
        assert_eq!((header["typ"].as_str(), header["alg"].as_str()), (Some("at+jwt"), Some("RS256")), "{header}");
        assert_eq!(claims["iss"], format!("http://{}", gateway.public), "{claims}");
        assert_eq!(claims["client_id"], client.id, "{claims}");
        let audience = &claims["aud"];
        assert!(*audience == client.resource() || *audience == json!([client.resource()]), "{claims}");
        assert!(claims["sub"].as_str().is_some_and(|sub| sub.starts_with(&format!("{kind}:"))), "{claims}");
        let (issued, expires) = (claims["iat"].as_u64().unwrap(), claims["exp"].as_u64().unwrap());
        assert_eq!((expires - issued, tokens.expires_in), (600, 600), "{claims}");
        assert!(claims["jti"].is_string() && claims["scope"].is_string() && claims["nbf"].is_number(), "{claims}");
        let url = format!("http://{}/.well-known/jwks.json", gateway.public);
        let keys = document(gateway.public, &url).await;
        let known = keys["keys"].as_array().unwrap().iter().any(|key| key["kid"] == header["kid"]);
        assert!(known && !keys.to_string().contains("\"d\":"), "{keys}");
    }
}

#[tokio::test]
async fn a_token_is_for_the_endpoint_that_it_was_asked_for() {
    let (_up, gateway) = scene().await;
    let (whole, up, other) = (
        client_of(&gateway).await,
        Client::register(gateway.public, "/mcp/up").await,
        Client::register(gateway.public, "/mcp/other").await,
    );
    let mut verdicts = Vec::new();
    for client in [&whole, &up, &other] {
        let tokens = sign_in_as(&gateway, client, Who::Person("ann")).await;
        for endpoint in ["/mcp", "/mcp/up", "/mcp/other"] {
            let caller = Caller::new(gateway.public, Some(tokens.access.clone())).at(endpoint);
            verdicts.push(caller.modern("tools/list", json!({})).await.status.as_u16());
        }
    }
    // T6: what is for one upstream opens that one only. What is for all of them opens each.
    assert_eq!(verdicts, [200, 200, 200, 401, 200, 401, 401, 401, 200]);
}

#[tokio::test]
async fn each_mode_accepts_what_it_says() {
    let up = Fixture::start().await;
    // Keys only: nothing of the authorization server is there.
    let gateway = gateway_with(&up, "mcp = \"keys\"").start().await;
    let stranger = gateway.stranger();
    for (method, path) in [
        ("GET", "/.well-known/oauth-protected-resource"),
        ("GET", "/.well-known/oauth-protected-resource/mcp"),
        ("GET", "/.well-known/oauth-authorization-server"),
        ("GET", "/.well-known/openid-configuration"),
        ("GET", "/.well-known/jwks.json"),
        ("POST", "/oauth2/register"),
        ("GET", "/oauth2/authorize"),
        ("POST", "/oauth2/token"),
        ("POST", "/oauth2/revoke"),
        ("POST", "/oauth2/introspect"),
        ("POST", "/oauth2/par"),
        ("GET", "/sign-in"),
        ("GET", "/account"),
    ] {
        assert_eq!(stranger.send(method, path, "").await.status, 404, "{method} {path}");
    }
    let refused = stranger.modern("tools/list", json!({})).await;
    assert_eq!(refused.status, 401);
    let challenge = refused.header("www-authenticate");
    assert!(challenge.starts_with("Bearer") && !challenge.contains("resource_metadata"), "{challenge}");
    assert_eq!(gateway.caller("alice").modern("tools/list", json!({})).await.status, 200);

    // Both: a key and a token, but not together.
    let gateway = gateway_with(&up, "mcp = \"both\"").start().await;
    add_person(&gateway, "ann").await;
    let (client, tokens) = signed_in(&gateway).await;
    assert!(is_let_in(&client, &tokens.access).await);
    assert_eq!(gateway.caller("alice").modern("tools/list", json!({})).await.status, 200);
    let together = client.caller(&tokens.access).with("x-portcullis-key", &Gateway::secret("alice"));
    let refused = together.modern("tools/list", json!({})).await;
    assert_eq!(refused.status, 401, "{}", refused.text());

    // Tokens only: a key is nothing there, but may still be chosen as an identity.
    let gateway = gateway_with(&up, "mcp = \"oauth\"").start().await;
    let refused = gateway.caller("alice").modern("tools/list", json!({})).await;
    assert_eq!(refused.status, 401);
    assert!(refused.header("www-authenticate").contains("resource_metadata="));
    let client = client_of(&gateway).await;
    let tokens = sign_in_as(&gateway, &client, Who::Key("alice")).await;
    assert!(is_let_in(&client, &tokens.access).await);
}

/// Everything that a client or a browser holds is still good after the gateway was restarted, whenever that was.
#[tokio::test]
async fn a_restart_between_any_two_steps_is_not_felt() {
    let up = Fixture::start().await;
    for step in 0..6 {
        let clock = TestClock::default();
        let address = portcullis_tests::free_address().await.unwrap();
        let dir = tempfile::TempDir::new().unwrap();
        let settings = || gateway_with(&up, "").on_disk();
        let mut gateway = settings().at(address).try_start(dir, clock.clone()).await.unwrap();
        gateway.wait_until_ready().await;
        add_person(&gateway, "ann").await;
        let restart = async |gateway: Gateway, now: usize| {
            if now != step {
                return gateway;
            }
            let gateway = settings().at(address).try_start(gateway.stop().await, clock.clone()).await.unwrap();
            gateway.wait_until_ready().await;
            gateway
        };

        let client = client_of(&gateway).await;
        gateway = restart(gateway, 0).await;
        let (begun, mut browser) = (client.begin(), Browser::new(gateway.public));
        let page = arrive(&mut browser, &begun).await;
        gateway = restart(gateway, 1).await;
        let page = choose(&mut browser, page, Who::Person("ann")).await;
        gateway = restart(gateway, 2).await;
        let page = browser.submit(&page.form("/finish")).await;
        let code = client.code(&begun, &page.url);
        gateway = restart(gateway, 3).await;
        let tokens = Tokens::of(&client.redeem(&begun, &code).await);
        gateway = restart(gateway, 4).await;
        assert!(is_let_in(&client, &tokens.access).await, "step {step}");
        let renewed = Tokens::of(&client.refresh(&tokens.refresh).await);
        gateway = restart(gateway, 5).await;
        assert!(is_let_in(&client, &renewed.access).await, "step {step}");
        // The grace, too, is remembered.
        let again = Tokens::of(&client.refresh(&tokens.refresh).await);
        assert_eq!(again.refresh, renewed.refresh, "step {step}");
        drop(gateway);
    }
}

#[tokio::test]
async fn two_browsers_of_one_person_do_not_get_in_each_others_way() {
    let (_up, gateway) = scene().await;
    let client = client_of(&gateway).await;
    let (first, second) = (client.begin(), client.begin());
    // The same browser in two tabs, and another browser.
    let (mut one, mut two) = (Browser::new(gateway.public), Browser::new(gateway.public));
    let first_page = arrive(&mut one, &first).await;
    let second_page = arrive(&mut one, &second).await;
    let other = consent(&mut two, &client.begin(), Who::Guest).await;
    assert!(other.contains("code="), "{other}");
    let first_page = choose(&mut one, first_page, Who::Person("ann")).await;
    let finished = one.submit(&first_page.form("/finish")).await;
    let code = client.code(&first, &finished.url);
    assert!(is_let_in(&client, &Tokens::of(&client.redeem(&first, &code).await).access).await);
    // The other tab goes on where it was.
    let second_page =
        if second_page.find("/identity").is_some() { one.get(&second_page.url).await } else { second_page };
    let second_page = choose(&mut one, second_page, Who::Person("ann")).await;
    let finished = one.submit(&second_page.form("/finish")).await;
    assert!(!client.code(&second, &finished.url).is_empty());
}
