//! Tokens of upstreams' own authorization servers.

use std::time::Duration;

use futures_util::future::join_all;

use super::*;

/// An upstream that refuses a younger token than this wants another account.
pub(super) const NO_LONGER_FRESH: Duration = Duration::from_secs(2 * 60);

pub(super) async fn scene() -> (Gated, Gateway) {
    let mail = Gated::by_token().await;
    let section =
        format!("[upstreams.mail]\nurl = \"{}\"\n[upstreams.mail.auth]\nkind = \"per-user-oauth\"\n", mail.url);
    let gateway = Gateway::builder().section(&section).key("alice").key("bob").start().await;
    gateway.until_upstreams_are_up().await;
    (mail, gateway)
}

/// Connects `mail` for a key: from the link to the authorization server and back.
pub(super) async fn connect(gateway: &Gateway, key: &str) -> Page {
    let lacking = missing(&gateway.caller(key).call("mail__whoami", json!({})).await);
    assert_eq!(lacking["kind"], "oauth", "{lacking}");
    by_link(gateway, &url(&lacking)).await
}

pub(super) async fn by_link(gateway: &Gateway, link: &str) -> Page {
    let mut browser = Browser::new(gateway.public);
    let page = open(&mut browser, link).await;
    assert_eq!(page.status(), 200, "{page}");
    let provider = browser.submit(&page.form("/connect/mail")).await;
    let page = agree(&mut browser, &provider).await;
    assert_eq!(page.status(), 200, "{page}");
    page
}

#[tokio::test]
async fn a_person_is_led_to_the_authorization_server_and_back_and_the_call_succeeds() {
    let (mail, gateway) = scene().await;
    let page = connect(&gateway, "alice").await;
    assert!(page.text().contains("Connected"), "{page}");
    let seen = whoami(&gateway.caller("alice").call("mail__whoami", json!({})).await);
    assert!(seen.contains("Bearer access-"), "{seen}");
    assert!(!mail.seen().join("\n").contains(&Gateway::secret("alice")));
    assert_eq!(missing(&gateway.caller("bob").call("mail__whoami", json!({})).await)["state"], "not_connected");
    let listed = connections(&gateway, "holder=key:alice").await;
    assert_eq!((&listed[0]["kind"], &listed[0]["renewable"]), (&json!("oauth"), &json!(true)), "{listed:?}");
}

#[tokio::test]
async fn u7_many_calls_with_one_token_that_ended_refresh_it_once() {
    let (mail, gateway) = scene().await;
    connect(&gateway, "alice").await;
    let alice = gateway.caller("alice");
    whoami(&alice.call("mail__whoami", json!({})).await);
    gateway.clock.advance(NO_LONGER_FRESH);
    mail.end_access_tokens();
    let calls = (0..32).map(|_| alice.call("mail__whoami", json!({})));
    for reply in join_all(calls).await {
        whoami(&reply);
    }
    assert_eq!(mail.refreshes(), 1);
}

#[tokio::test]
async fn u8_a_refused_refresh_asks_the_person_again_and_a_failing_server_does_not() {
    let (mail, gateway) = scene().await;
    connect(&gateway, "alice").await;
    let alice = gateway.caller("alice");
    gateway.clock.advance(NO_LONGER_FRESH);
    mail.end_access_tokens();
    mail.set_down(true);
    let reply = alice.call("mail__whoami", json!({})).await;
    assert_eq!(reply.json()["error"]["data"]["reason"], "credential_unavailable", "{}", reply.text());
    let listed = connections(&gateway, "holder=key:alice").await;
    assert_eq!(listed[0]["state"], "active", "a fault is nobody's loss: {listed:?}");

    mail.set_down(false);
    mail.end_refresh_tokens();
    gateway.clock.advance(Duration::from_secs(20 * 60));
    let lacking = missing(&alice.call("mail__whoami", json!({})).await);
    assert_eq!(
        (&lacking["state"], &lacking["reason"]),
        (&json!("needs_reauth"), &json!("refresh_refused")),
        "{lacking}"
    );
    assert!(!lacking.to_string().contains("LEAK"));

    by_link(&gateway, &url(&lacking)).await;
    whoami(&alice.call("mail__whoami", json!({})).await);
}

#[tokio::test]
async fn u9_more_rights_are_asked_for_with_those_that_are_there() {
    let (mail, gateway) = scene().await;
    connect(&gateway, "alice").await;
    mail.need("send");
    let alice = gateway.caller("alice");
    let lacking = missing(&alice.call("mail__whoami", json!({})).await);
    assert_eq!(lacking["state"], "insufficient_scope", "{lacking}");
    let scopes = lacking["scopes"].to_string();
    assert!(scopes.contains("send") && scopes.contains("use"), "{scopes}");
    by_link(&gateway, &url(&lacking)).await;
    whoami(&alice.call("mail__whoami", json!({})).await);
}

#[tokio::test]
async fn u9_what_all_share_is_connected_with_more_rights_by_an_operator() {
    let mail = Gated::by_token().await;
    let section = format!("[upstreams.mail]\nurl = \"{}\"\n[upstreams.mail.auth]\nkind = \"shared-oauth\"\n", mail.url);
    let gateway = Gateway::builder().section(&section).key("alice").start().await;
    gateway.until_upstreams_are_up().await;
    let connect = async |query: &str| {
        let path = format!("/api/v1/upstreams/mail/connect{query}");
        let link = gateway.operator("POST", &path, None).await;
        assert_eq!(link.status, 200, "{}", link.text());
        by_link(&gateway, link.json()["url"].as_str().unwrap()).await;
    };
    connect("").await;
    mail.need("send");
    let lacking = missing(&gateway.caller("alice").call("mail__whoami", json!({})).await);
    assert_eq!((&lacking["state"], &lacking["url"]), (&json!("insufficient_scope"), &Value::Null), "{lacking}");
    connect("?scope=send%20read").await;
    whoami(&gateway.caller("alice").call("mail__whoami", json!({})).await);
    let listed = connections(&gateway, "holder=shared").await;
    assert_eq!(listed[0]["scopes"], json!(["use", "send", "read"]));
    let odd = gateway.operator("POST", "/api/v1/upstreams/mail/connect?scope=%22", None).await;
    assert_eq!(odd.status, 422, "{}", odd.text());
}

#[tokio::test]
async fn u10_an_ended_connection_is_revoked_at_its_authorization_server() {
    let (mail, gateway) = scene().await;
    connect(&gateway, "alice").await;
    let listed = connections(&gateway, "holder=key:alice").await;
    let path = format!("/api/v1/connections/{}", listed[0]["id"].as_str().unwrap());
    assert_eq!(gateway.operator("DELETE", &path, None).await.status, 204);
    let revoked = tokio::time::timeout(Duration::from_secs(60), async {
        while mail.revoked().is_empty() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    revoked.await.expect("the authorization server is told");
    assert!(mail.revoked()[0].starts_with("refresh-"), "{:?}", mail.revoked());
}

#[tokio::test]
async fn an_operator_connects_what_lists_are_read_with_and_what_all_share() {
    let mail = Gated::by_token().await;
    mail.close_lists();
    let section = format!("[upstreams.mail]\nurl = \"{}\"\n[upstreams.mail.auth]\nkind = \"shared-oauth\"\n", mail.url);
    let gateway = Gateway::builder().section(&section).key("alice").start().await;
    let told = gateway.until("/api/v1/upstreams", |view| {
        view["upstreams"][0]["reason"].as_str().is_some_and(|reason| reason.contains("credential"))
    });
    let told = told.await;
    let reason = told["upstreams"][0]["reason"].as_str().unwrap();
    assert!(reason.ends_with("portcullis upstream connect mail"), "{reason}");
    let link = gateway.operator("POST", "/api/v1/upstreams/mail/connect", None).await;
    assert_eq!(link.status, 200, "{}", link.text());
    by_link(&gateway, link.json()["url"].as_str().unwrap()).await;
    gateway.until_upstreams_are_up().await;
    assert!(whoami(&gateway.caller("alice").call("mail__whoami", json!({})).await).contains("Bearer access-"));
    assert_eq!(connections(&gateway, "holder=shared").await.len(), 1);
}
