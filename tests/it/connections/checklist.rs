//! What went wrong elsewhere with connections, box by box. Boxes that other tests hold are in the table of `docs/testing.md`.

use std::time::Duration;

use portcullis_tests::gateway::SOON;
use portcullis_tests::oauth::parameter;
use portcullis_tests::upstreams::gated::Whim;

use super::tokens::{connect, scene};
use super::*;
use crate::oauth::{PASSWORD, add_person, sign_in};

/// A browser that was sent to the authorization server of `mail` for a key, and where it comes back to.
async fn on_the_way(gateway: &Gateway, key: &str) -> (Browser, String) {
    let lacking = missing(&gateway.caller(key).call("mail__whoami", json!({})).await);
    let mut browser = Browser::new(gateway.public);
    let page = open(&mut browser, &url(&lacking)).await;
    let provider = browser.submit(&page.form("/connect/mail")).await;
    let back = answer_of(&provider.url).await;
    (browser, back)
}

async fn until_connected(gateway: &Gateway, key: &str) {
    let path = format!("/api/v1/connections?holder=key:{key}&state=active");
    gateway.until(&path, |view| view["connections"].as_array().is_some_and(|all| !all.is_empty())).await;
}

#[tokio::test]
async fn revoking_ends_flows_first_so_that_a_late_answer_brings_nothing_back() {
    let (mail, gateway) = scene().await;
    connect(&gateway, "alice").await;
    mail.need("send");
    let (mut browser, back) = on_the_way(&gateway, "alice").await;
    let listed = connections(&gateway, "holder=key:alice").await;
    let path = format!("/api/v1/connections/{}", listed[0]["id"].as_str().unwrap());
    assert_eq!(gateway.operator("DELETE", &path, None).await.status, 204);
    let page = browser.get(&back).await;
    assert!([400, 409].contains(&page.status()), "{page}");
    assert_eq!(connections(&gateway, "holder=key:alice").await, Vec::<Value>::new());
    assert_eq!(mail.asked("/token"), 1, "the late code is shown to nobody");
    assert_eq!(missing(&gateway.caller("alice").call("mail__whoami", json!({})).await)["state"], "not_connected");
}

#[tokio::test]
async fn callbacks_are_never_derived_from_forwarded_headers() {
    let (_mail, gateway) = scene().await;
    let lacking = missing(&gateway.caller("alice").call("mail__whoami", json!({})).await);
    let mut browser = Browser::new(gateway.public);
    for (name, value) in [
        ("x-forwarded-host", "evil.example"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-prefix", "/evil"),
        ("forwarded", "host=evil.example;proto=https"),
    ] {
        browser.headers.push((name.to_owned(), value.to_owned()));
    }
    let page = open(&mut browser, &url(&lacking)).await;
    let provider = browser.submit(&page.form("/connect/mail")).await;
    let redirect = parameter(&provider.url, "redirect_uri").unwrap();
    assert!(redirect.starts_with(&format!("http://{}/connect/callback/", gateway.public)), "{redirect}");
    assert!(!provider.url.contains("evil"), "{provider}");
    assert_eq!(agree(&mut browser, &provider).await.status(), 200);
}

#[tokio::test]
async fn what_was_begun_with_a_code_ends_though_the_browser_goes_away() {
    let (mail, gateway) = scene().await;
    let (mut browser, back) = on_the_way(&gateway, "alice").await;
    mail.whim("/token", Whim::Late(Duration::from_secs(2)));
    let gone = tokio::time::timeout(Duration::from_millis(500), browser.get(&back)).await;
    assert!(gone.is_err(), "the server was to take longer");
    until_connected(&gateway, "alice").await;
    whoami(&gateway.caller("alice").call("mail__whoami", json!({})).await);
    assert_eq!(mail.asked("/token"), 1);
}

#[tokio::test]
async fn operators_see_who_is_on_their_way_and_complete_nothing() {
    let (mail, gateway) = scene().await;
    let (mut browser, back) = on_the_way(&gateway, "alice").await;
    let reply = gateway.operator("GET", "/api/v1/connections/flows?holder=key:alice", None).await;
    let flows = reply.json()["flows"].as_array().unwrap().clone();
    let [flow] = flows.as_slice() else { panic!("{flows:?}") };
    assert_eq!((&flow["holder"], &flow["upstream"]), (&json!("key:alice"), &json!("mail")));
    let state = parameter(&back, "state").unwrap();
    assert!(!reply.text().contains(&state) && !reply.text().contains(state.split('.').next().unwrap()), "{flow}");
    let path = format!("/api/v1/connections/flows/{}", flow["id"].as_str().unwrap());
    for method in ["GET", "POST", "PUT", "PATCH"] {
        let answer = gateway.operator(method, &path, None).await;
        assert!([404, 405].contains(&answer.status.as_u16()), "{method}: {}", answer.text());
    }
    // Nor does having the whole answer help somebody else's browser.
    assert_eq!(Browser::new(gateway.public).get(&back).await.status(), 403);
    assert_eq!(mail.asked("/token"), 0);
    assert_eq!(browser.get(&back).await.status(), 200);
}

#[tokio::test]
async fn nobody_says_in_a_query_who_they_are() {
    let (mail, gateway) = scene().await;
    add_person(&gateway, "ann").await;
    add_person(&gateway, "ben").await;
    let people = gateway.operator("GET", "/api/v1/users", None).await.json();
    let id_of = |login: &str| {
        let user = people["users"].as_array().unwrap().iter().find(|user| user["login"] == login).unwrap();
        user["id"].as_str().unwrap().to_owned()
    };
    let (ann, of_ben) = (id_of("ann"), format!("user:{}", id_of("ben")));
    let address = format!("/connect/mail?user_id={ann}&holder=user:{ann}&session={ann}&sub={ann}&principal=key:alice");
    let page = Browser::new(gateway.public).get(&address).await;
    assert!(page.find("/connect/mail").is_none(), "{page}");
    let mut ben = Browser::new(gateway.public);
    let page = ben.get("/sign-in").await;
    sign_in(&mut ben, &page, "ben", PASSWORD).await;
    let page = ben.get(&address).await;
    let provider = ben.submit(&page.form("/connect/mail").with("holder", "key:alice").with("user_id", &ann)).await;
    assert!(provider.url.starts_with(mail.origin()), "{provider}");
    assert_eq!(agree(&mut ben, &provider).await.status(), 200);
    assert_eq!(connections(&gateway, &format!("holder={of_ben}")).await.len(), 1);
    for holder in [format!("user:{ann}"), "key:alice".to_owned()] {
        assert_eq!(connections(&gateway, &format!("holder={holder}")).await, Vec::<Value>::new());
    }
}

#[tokio::test]
async fn reconciling_touches_nothing_of_other_holders_upstreams_and_kinds() {
    let (mail, vault) = (Gated::by_token().await, Gated::by_header("x-api-key", &["right"]).await);
    let section = format!(
        "[upstreams.mail]\nurl = \"{}\"\n[upstreams.mail.auth]\nkind = \"per-user-oauth\"\n\
         [upstreams.vault]\nurl = \"{}\"\n[upstreams.vault.auth]\nkind = \"per-user-headers\"\nheaders = [\"X-Api-Key\"]\n",
        mail.url, vault.url
    );
    let both = r#"[{ upstream = "mail", tools = ["*"] }, { upstream = "vault", tools = ["*"] }]"#;
    let gateway = Gateway::builder().section(&section).key_for("alice", both).key("bob").start().await;
    gateway.until_upstreams_are_up().await;
    for key in ["alice", "bob"] {
        connect(&gateway, key).await;
        let lacking = missing(&gateway.caller(key).call("vault__whoami", json!({})).await);
        let mut browser = Browser::new(gateway.public);
        let page = open(&mut browser, &url(&lacking)).await;
        let form = page.form("/connect/vault").with("header-x-api-key", "right");
        assert_eq!(browser.submit(&form).await.status(), 200);
    }
    mail.need("send");
    let (mut of_alice, late) = on_the_way(&gateway, "alice").await;
    let (mut of_bob, in_time) = on_the_way(&gateway, "bob").await;

    let before = std::fs::read_to_string(&gateway.file).unwrap();
    let after = before.replace(both, r#"[{ upstream = "vault", tools = ["*"] }]"#);
    assert_ne!(before, after);
    reload(&gateway, &after).await;
    assert_eq!(states(&gateway, "alice").await, [("mail", "orphaned".to_owned()), ("vault", "active".to_owned())]);
    assert_eq!(states(&gateway, "bob").await, [("mail", "active".to_owned()), ("vault", "active".to_owned())]);
    let page = of_alice.get(&late).await;
    assert!([400, 403].contains(&page.status()), "{page}");
    let page = of_bob.get(&in_time).await;
    assert_eq!(page.status(), 200, "{page}");
    whoami(&gateway.caller("alice").call("vault__whoami", json!({})).await);
    whoami(&gateway.caller("bob").call("mail__whoami", json!({})).await);

    reload(&gateway, &before).await;
    assert_eq!(states(&gateway, "alice").await, [("mail", "active".to_owned()), ("vault", "active".to_owned())]);
}

async fn reload(gateway: &Gateway, configuration: &str) {
    gateway.replace("portcullis.toml", configuration.as_bytes());
    let until = tokio::time::Instant::now() + SOON;
    loop {
        // The file is watched as well, and one change is made at a time.
        let reply = gateway.operator("POST", "/api/v1/policies/reload", Some(json!({}))).await;
        if reply.status.is_success() {
            return;
        }
        assert!(tokio::time::Instant::now() < until, "{}", reply.text());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Upstreams of a key's connections and how these stand, by name.
async fn states(gateway: &Gateway, key: &str) -> Vec<(&'static str, String)> {
    let listed = connections(gateway, &format!("holder=key:{key}")).await;
    let state = |upstream: &'static str| {
        let found = listed.iter().find(|connection| connection["upstream"] == upstream)?;
        Some((upstream, found["state"].as_str().unwrap().to_owned()))
    };
    ["mail", "vault"].into_iter().filter_map(state).collect()
}
