//! Every flow with its steps at one gateway and the other in turn.

use portcullis_tests::Gateway;
use portcullis_tests::oauth::connection::send;
use portcullis_tests::oauth::{Browser, Client, Tokens, encoded, query};
use serde_json::json;

use super::super::{PASSWORD, Who, arrive, choose, identity, invalid_grant, is_let_in, refusal, sign_in};
use super::{FELT_WITHIN, pair};

const DEVICE: &str = "urn:ietf:params:oauth:grant-type:device_code";

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_was_pushed_to_one_is_used_up_at_the_other() {
    let pair = pair("").await;
    pair.go_to(0);
    let client = Client::register(pair.front, "/mcp").await;
    let begun = client.begin();
    let said: Vec<(&'static str, String)> = query(&begun.url)
        .into_iter()
        .filter(|(name, _)| name != "client_id")
        .map(|(name, value)| (&*name.leak(), value))
        .collect();
    let pushed = client.post("pushed_authorization_request_endpoint", &said).await.json();
    let uri = pushed["request_uri"].as_str().unwrap();
    let at = format!("/oauth2/authorize?{}", encoded(&[("client_id", client.id.as_str()), ("request_uri", uri)]));
    pair.go_to(1);
    let mut browser = Browser::new(pair.front);
    let page = browser.get(&at).await;
    assert_eq!(page.status(), 200, "{page}");
    pair.go_to(0);
    assert_eq!(Browser::new(pair.front).get(&at).await.status(), 400, "it was used");
    let page = choose(&mut browser, page, Who::Guest).await;
    pair.go_to(1);
    let page = browser.submit(&page.form("/finish")).await;
    pair.go_to(0);
    assert_eq!(client.redeem(&begun, &client.code(&begun, &page.url)).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consent_that_began_at_one_is_cancelled_at_the_other() {
    let pair = pair("").await;
    let client = Client::register(pair.front, "/mcp").await;
    let (begun, mut browser) = (client.begin(), Browser::new(pair.front));
    pair.go_to(0);
    let page = arrive(&mut browser, &begun).await;
    let services = choose(&mut browser, page, Who::Guest).await;
    let mut copy = browser.copy();
    pair.go_to(1);
    let cancelled = browser.submit(&services.form("/cancel")).await;
    assert_eq!(cancelled.told("error").as_deref(), Some("access_denied"), "{cancelled}");
    pair.go_to(0);
    // The form counts once, wherever it is sent, and the request is over everywhere.
    let (_, again) = copy.submit_once(&services.form("/cancel")).await;
    assert_eq!((again.status.as_u16(), again.headers.get("location")), (403, None), "{}", again.text());
    let page = copy.get(&services.url).await;
    assert!(page.status() == 404 && page.find("/finish").is_none(), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_begins_at_one_and_is_let_in_at_the_other() {
    let pair = pair("[auth.grants]\ndevice = true").await;
    let metadata =
        json!({ "client_name": "A television", "grant_types": [DEVICE, "refresh_token"], "redirect_uris": [] });
    let client = Client::register_as(pair.front, "/mcp", metadata).await;
    pair.go_to(0);
    let fields = [("scope", "mcp".to_owned()), ("resource", client.resource())];
    let begun = client.post("device_authorization_endpoint", &fields).await.json();
    let code = begun["device_code"].as_str().unwrap().to_owned();
    let poll = [("grant_type", DEVICE.to_owned()), ("device_code", code)];
    pair.go_to(1);
    assert_eq!(refusal(&client.token(&poll).await), (400, "authorization_pending".to_owned()));
    pair.go_to(0);
    assert_eq!(refusal(&client.token(&poll).await), (400, "slow_down".to_owned()));
    pair.go_to(1);
    let mut browser = Browser::new(pair.front);
    let page = browser.get("/device").await;
    let page = sign_in(&mut browser, &page, "ann", PASSWORD).await;
    let asked = browser.submit(&page.form("/device").with("user_code", begun["user_code"].as_str().unwrap())).await;
    pair.go_to(0);
    browser.submit(&asked.form("/device").press("approve")).await;
    // The store has a clock of its own, which no test moves on: five seconds, and five more for having been too fast.
    tokio::time::sleep(std::time::Duration::from_secs(11)).await;
    pair.go_to(1);
    let tokens = Tokens::of(&client.token(&poll).await);
    pair.take_turns();
    assert!(is_let_in(&client, &tokens.access).await && is_let_in(&client, &tokens.access).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_registered_at_one_manages_itself_at_the_other() {
    let pair = pair("").await;
    pair.go_to(0);
    let client = Client::register(pair.front, "/mcp").await;
    let tokens = pair.sign_in(&client, Who::Guest).await;
    let uri = client.registration["registration_client_uri"].as_str().unwrap();
    let path = uri.strip_prefix(&format!("http://{}", pair.front)).unwrap();
    let first = client.registration["registration_access_token"].as_str().unwrap().to_owned();
    let manage = async |method: &str, token: &str, body: String| {
        let bearer = format!("Bearer {token}");
        send(pair.front, method, path, &[("content-type", "application/json"), ("authorization", &bearer)], body).await
    };
    pair.go_to(1);
    let change = json!({ "client_id": client.id, "client_name": "Renamed", "redirect_uris": [client.redirect] });
    let changed = manage("PUT", &first, change.to_string()).await;
    assert_eq!(changed.status, 200, "{}", changed.text());
    let second = changed.json()["registration_access_token"].as_str().unwrap().to_owned();
    pair.go_to(0);
    assert_eq!(manage("GET", &first, String::new()).await.status, 401);
    assert_eq!(manage("GET", &second, String::new()).await.json()["client_name"], "Renamed");
    assert_eq!(manage("DELETE", &second, String::new()).await.status, 204);
    pair.go_to(1);
    assert_eq!(manage("GET", &second, String::new()).await.status, 401);
    pair.take_turns();
    assert!(pair.until_refused(&client, &tokens.access).await < FELT_WITHIN);
    assert_eq!(refusal(&client.refresh(&tokens.refresh).await), (401, "invalid_client".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_stopped_at_one_is_stopped_at_the_other() {
    let pair = pair("").await;
    let client = Client::register(pair.front, "/mcp").await;
    // A virtual key that is made and disabled while they run.
    let new = json!({ "name": "drawn", "allow": [{ "upstream": "*", "tools": ["*"] }] });
    let drawn = pair.gateways[0].operator("POST", "/api/v1/keys", Some(new)).await.json();
    let (begun, mut browser) = (client.begin(), Browser::new(pair.front));
    pair.go_to(0);
    let page = arrive(&mut browser, &begun).await;
    let page = browser.submit(&identity(&page, Who::Key("alice")).with("key", drawn["secret"].as_str().unwrap())).await;
    let page = browser.submit(&page.form("/finish")).await;
    let of_key = Tokens::of(&client.redeem(&begun, &client.code(&begun, &page.url)).await);
    pair.take_turns();
    let anns = pair.sign_in(&client, Who::Person("ann")).await;
    let guests = pair.sign_in(&client, Who::Guest).await;

    let disabled = json!({ "disabled": true });
    assert_eq!(pair.gateways[0].operator("PATCH", "/api/v1/keys/drawn", Some(disabled)).await.status, 200);
    assert!(pair.until_refused(&client, &of_key.access).await < FELT_WITHIN);
    for which in [0, 1] {
        pair.go_to(which);
        assert_eq!(refusal(&client.refresh(&of_key.refresh).await), invalid_grant());
    }

    let users = pair.gateways[0].operator("GET", "/api/v1/users?login=ann", None).await.json();
    let path = format!("/api/v1/users/{}", users["users"][0]["id"].as_str().unwrap());
    let suspended = json!({ "status": "suspended" });
    assert_eq!(pair.gateways[1].operator("PATCH", &path, Some(suspended)).await.status, 200);
    pair.take_turns();
    assert!(pair.until_refused(&client, &anns.access).await < FELT_WITHIN);
    for which in [0, 1] {
        pair.go_to(which);
        assert_eq!(refusal(&client.refresh(&anns.refresh).await), invalid_grant());
    }

    pair.take_turns();
    assert!(is_let_in(&client, &guests.access).await && is_let_in(&client, &guests.access).await);
    for gateway in &pair.gateways {
        turn_guests_off(gateway).await;
    }
    assert!(pair.until_refused(&client, &guests.access).await < FELT_WITHIN);
}

/// Every gateway has its own file.
async fn turn_guests_off(gateway: &Gateway) {
    let text = std::fs::read_to_string(&gateway.file).unwrap();
    gateway.replace("portcullis.toml", text.replace("guests = true", "guests = false").as_bytes());
    let reloaded = gateway.operator("POST", "/api/v1/policies/reload", Some(json!({}))).await;
    assert_eq!(reloaded.status, 200, "{}", reloaded.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_signs_out_at_one_is_signed_out_at_the_other() {
    let pair = pair("").await;
    let mut browser = Browser::new(pair.front);
    pair.go_to(0);
    let page = browser.get("/sign-in").await;
    pair.go_to(1);
    sign_in(&mut browser, &page, "ann", PASSWORD).await;
    let mut copy = browser.copy();
    pair.go_to(0);
    let account = browser.get("/account").await;
    assert_eq!(account.status(), 200, "{account}");
    browser.submit(&account.form("/sign-out")).await;
    pair.go_to(1);
    let gone = copy.step("GET", "/account", "", &[]).await;
    assert_eq!((gone.status.as_u16(), gone.text()), (303, ""));
    // A form of a page that the other one has shown is no more worth than the page.
    let (_, refused) = copy.submit_once(&account.form("/sign-out")).await;
    assert_eq!(refused.status, 303, "{}", refused.text());
    assert!(refused.header("location").contains("/sign-in"), "{:?}", refused.headers);
}
