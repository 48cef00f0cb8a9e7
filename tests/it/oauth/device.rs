//! Devices without a browser (RFC 8628): T16.

use std::time::Duration;

use portcullis_tests::oauth::{Browser, Client, Page, Tokens};
use portcullis_tests::{Gateway, Reply};
use serde_json::{Value, json};

use super::{PASSWORD, is_let_in, refusal, scene, scene_with, sign_in};

const GRANT: &str = "urn:ietf:params:oauth:grant-type:device_code";
const ON: &str = "[auth.grants]\ndevice = true";
/// Longer than the interval in which a device may ask.
const WHILE: Duration = Duration::from_secs(6);

async fn device_of(gateway: &Gateway) -> Client {
    let metadata =
        json!({ "client_name": "A television", "grant_types": [GRANT, "refresh_token"], "redirect_uris": [] });
    Client::register_as(gateway.public, "/mcp", metadata).await
}

async fn begin(client: &Client) -> Value {
    let fields = [("scope", "mcp".to_owned()), ("resource", client.resource())];
    let begun = client.post("device_authorization_endpoint", &fields).await;
    assert_eq!(begun.status, 200, "{}", begun.text());
    begun.json()
}

async fn poll(client: &Client, begun: &Value) -> Reply {
    let code = begun["device_code"].as_str().unwrap().to_owned();
    client.token(&[("grant_type", GRANT.to_owned()), ("device_code", code)]).await
}

/// The page that asks for a code, in front of somebody who is signed in.
async fn page(browser: &mut Browser) -> Page {
    let page = browser.get("/device").await;
    if page.find("/sign-in").is_some() { sign_in(browser, &page, "ann", PASSWORD).await } else { page }
}

async fn enter(browser: &mut Browser, code: &str) -> Page {
    let page = page(browser).await;
    browser.submit(&page.form("/device").with("user_code", code)).await
}

#[tokio::test]
async fn t16_a_person_lets_a_device_in() {
    let (_up, gateway) = scene_with(ON).await;
    let client = device_of(&gateway).await;
    let begun = begin(&client).await;
    let code = begun["user_code"].as_str().unwrap();
    // At least 20^8 codes, of letters that spell no words.
    let letters: Vec<char> = code.chars().filter(char::is_ascii_alphanumeric).collect();
    assert!(letters.len() >= 8 && !letters.iter().any(|letter| "AEIOU".contains(*letter)), "{code}");
    assert_eq!(begun["verification_uri"], format!("http://{}/device", gateway.public));
    assert!(begun["expires_in"].as_u64().is_some() && begun["interval"].as_u64() == Some(5), "{begun}");

    assert_eq!(refusal(&poll(&client, &begun).await), (400, "authorization_pending".to_owned()));
    assert_eq!(refusal(&poll(&client, &begun).await), (400, "slow_down".to_owned()));
    gateway.clock.advance(4 * WHILE);
    let mut browser = Browser::new(gateway.public);
    // Written as people write.
    let asked = enter(&mut browser, &code.to_lowercase().replace('-', " ")).await;
    let text = asked.text();
    assert!(text.contains("A television") && text.contains("127.0.0.1"), "who asks, and from where: {text}");
    assert_eq!(refusal(&poll(&client, &begun).await), (400, "authorization_pending".to_owned()), "nobody has said yes");
    gateway.clock.advance(4 * WHILE);
    browser.submit(&asked.form("/device").press("approve")).await;
    let tokens = Tokens::of(&poll(&client, &begun).await);
    assert!(is_let_in(&client, &tokens.access).await);
    assert_eq!(client.refresh(&tokens.refresh).await.status, 200);
    // Once.
    gateway.clock.advance(4 * WHILE);
    assert_eq!(refusal(&poll(&client, &begun).await), (400, "expired_token".to_owned()));
    assert!(is_let_in(&client, &tokens.access).await);
}

#[tokio::test]
async fn t16_who_refuses_or_waits_lets_nobody_in() {
    let (_up, gateway) = scene_with(ON).await;
    let client = device_of(&gateway).await;
    let mut browser = Browser::new(gateway.public);
    let begun = begin(&client).await;
    let asked = enter(&mut browser, begun["user_code"].as_str().unwrap()).await;
    browser.submit(&asked.form("/device").press("refuse")).await;
    assert_eq!(refusal(&poll(&client, &begun).await), (400, "access_denied".to_owned()));

    let begun = begin(&client).await;
    gateway.clock.advance(Duration::from_secs(begun["expires_in"].as_u64().unwrap() + 1));
    assert_eq!(refusal(&poll(&client, &begun).await), (400, "expired_token".to_owned()));
    let late = enter(&mut browser, begun["user_code"].as_str().unwrap()).await;
    assert!(!late.text().contains("A television"), "{late}");

    // Another client with the code of the device.
    let (begun, other) = (begin(&client).await, device_of(&gateway).await);
    assert_eq!(refusal(&poll(&other, &begun).await), (400, "invalid_grant".to_owned()));
}

#[tokio::test]
async fn t16_guessing_codes_ends_soon() {
    let (_up, gateway) = scene_with(ON).await;
    let client = device_of(&gateway).await;
    let begun = begin(&client).await;
    let mut browser = Browser::new(gateway.public);
    // What can be no code is a slip of the finger, and no guess.
    for slip in ["", "BCDF", "AEIO-UAEI"] {
        assert_eq!(enter(&mut browser, slip).await.status(), 400, "{slip}");
    }
    for letter in ["K", "L", "M", "N", "P"] {
        let guessed = enter(&mut browser, &format!("BCDF-GHJ{letter}")).await;
        assert!(guessed.status() == 400 && guessed.text().contains("No device waits for that code."), "{guessed}");
    }
    // Not even the right one now.
    let right = begun["user_code"].as_str().unwrap();
    for code in ["BCDF-GHJQ", right] {
        let refused = enter(&mut browser, code).await;
        assert!(refused.status() == 429 && !refused.text().contains("A television"), "{refused}");
        assert_eq!(refused.reply.header("retry-after"), "600", "{:?}", refused.reply.headers);
    }
    // Somebody elsewhere is not kept waiting by that.
    let elsewhere = enter(&mut Browser::new(gateway.public), right).await;
    assert!(elsewhere.status() == 200 && elsewhere.text().contains("A television"), "{elsewhere}");
}

#[tokio::test]
async fn what_an_operator_has_not_turned_on_is_not_there() {
    let (_up, gateway) = scene().await;
    let stranger = gateway.stranger();
    assert_eq!(stranger.send("POST", "/oauth2/device", "").await.status, 404);
    assert_eq!(Browser::new(gateway.public).get("/device").await.status(), 404);
    let found = portcullis_tests::oauth::client::discover(gateway.public, "/mcp").await;
    assert!(found.server.get("device_authorization_endpoint").is_none());
    let supported = found.server["grant_types_supported"].to_string();
    assert_eq!(supported, r#"["authorization_code","refresh_token"]"#);
}
