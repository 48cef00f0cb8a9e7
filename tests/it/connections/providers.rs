//! Authorization servers that lie, lose, wander off, forget, fail and take their time. Whatever they do, nothing is shown to
//! the wrong one, nobody loses what is theirs, and it goes on without a restart when they behave.

use std::pin::pin;
use std::time::Duration;

use portcullis_tests::oauth::{encoded, parameter, query};
use portcullis_tests::upstreams::gated::{RESOURCE, SERVER, WORDS, Whim};

use super::tokens::{NO_LONGER_FRESH, by_link, connect, scene};
use super::*;

/// Longer than what was found counts, and than a server that failed is left alone.
const MUCH_LATER: Duration = Duration::from_secs(20 * 60);

/// A browser at the page of `mail`, by a link that a call of the key `alice` was answered with.
async fn arrive(gateway: &Gateway) -> (Browser, Page) {
    let lacking = missing(&gateway.caller("alice").call("mail__whoami", json!({})).await);
    let mut browser = Browser::new(gateway.public);
    let page = open(&mut browser, &url(&lacking)).await;
    (browser, page)
}

/// The same, sent on: where the authorization server would send it back to.
async fn on_the_way(gateway: &Gateway) -> (Browser, String) {
    let (mut browser, page) = arrive(gateway).await;
    let provider = browser.submit(&page.form("/connect/mail")).await;
    let back = answer_of(&provider.url).await;
    (browser, back)
}

/// An address with some of its parameters changed: an empty value takes one away.
fn changed(address: &str, changes: &[(&str, &str)]) -> String {
    let mut parameters = query(address);
    for (name, value) in changes {
        parameters.retain(|(known, _)| known != name);
        if !value.is_empty() {
            parameters.push(((*name).to_owned(), (*value).to_owned()));
        }
    }
    format!("{}?{}", address.split('?').next().unwrap(), encoded(&parameters))
}

async fn nothing_is_stored(gateway: &Gateway) {
    assert_eq!(connections(gateway, "holder=key:alice").await, Vec::<Value>::new());
}

/// Nothing that a browser was given has the words in it that it did not bring.
fn says_nothing_of(page: &Page, browser: &Browser, words: &str) {
    let headers = format!("{:?}", browser.seen.last().unwrap().headers);
    assert!(!page.reply.text().contains(words) && !headers.contains(words), "{page} {headers}");
}

#[tokio::test]
async fn u2_a_server_that_does_not_tell_the_truth_of_itself_is_told_nothing() {
    let (mail, gateway) = scene().await;
    for (member, lie) in [
        ("issuer", json!("https://id.example.com")),
        ("issuer", json!(format!("{}/", mail.origin()))),
        ("token_endpoint", json!("http://192.0.2.1/token")),
        ("authorization_endpoint", json!("javascript:alert(document.domain)")),
        ("code_challenge_methods_supported", json!(["plain"])),
    ] {
        let mut document = mail.document();
        document[member] = lie.clone();
        mail.whim(SERVER, Whim::Says(200, document.to_string()));
        let (browser, page) = arrive(&gateway).await;
        assert_eq!(page.status(), 502, "{lie}: {page}");
        assert!(page.find("/connect/mail").is_none(), "{page}");
        if let Some(lie) = lie.as_str() {
            says_nothing_of(&page, &browser, lie);
        }
    }
    for path in ["/register", "/authorize", "/token"] {
        assert_eq!(mail.asked(path), 0, "{path}");
    }
    mail.behave();
    connect(&gateway, "alice").await;
    whoami(&gateway.caller("alice").call("mail__whoami", json!({})).await);
}

#[tokio::test]
async fn u2_an_answer_of_another_issuer_is_not_taken_and_its_code_is_shown_to_nobody() {
    let (mail, gateway) = scene().await;
    for issuer in ["https://id.example.com", ""] {
        let (mut browser, back) = on_the_way(&gateway).await;
        let page = browser.get(&changed(&back, &[("iss", issuer)])).await;
        assert_eq!(page.status(), 400, "{page}");
        says_nothing_of(&page, &browser, "id.example.com");
        assert_eq!(browser.get(&back).await.status(), 400, "nothing more comes of it");
    }
    assert_eq!(mail.asked("/token"), 0);
    nothing_is_stored(&gateway).await;
    let trail = gateway.operator("GET", "/api/v1/audit?limit=200", None).await.json();
    let refused = |entry: &&Value| entry["event"] == "connection_flow.refused" && entry["detail"]["check"] == "issuer";
    assert_eq!(trail["entries"].as_array().unwrap().iter().filter(refused).count(), 2, "{trail}");
}

#[tokio::test]
async fn u3_a_server_that_sends_people_on_to_another_one_gets_nothing_of_what_they_agree_to_there() {
    let (mail, evil) = (Gated::by_token().await, Gated::by_token().await);
    let section = |name: &str, url: &str| {
        format!("[upstreams.{name}]\nurl = \"{url}\"\n[upstreams.{name}.auth]\nkind = \"per-user-oauth\"\n")
    };
    let builder = Gateway::builder().section(&section("mail", &mail.url)).section(&section("evil", &evil.url));
    let gateway = builder.key("alice").start().await;
    gateway.until_upstreams_are_up().await;
    let (mut browser, page) = arrive(&gateway).await;
    let honest = browser.submit(&page.form("/connect/mail")).await.url;
    let lacking = missing(&gateway.caller("alice").call("evil__whoami", json!({})).await);
    let page = open(&mut browser, &url(&lacking)).await;
    let hostile = browser.submit(&page.form("/connect/evil")).await.url;
    assert_ne!(parameter(&honest, "redirect_uri"), parameter(&hostile, "redirect_uri"));

    // The honest one is asked for what the hostile one was asked for, and answers to where its own people come back.
    let state = parameter(&hostile, "state").unwrap();
    let back = answer_of(&changed(&honest, &[("state", &state)])).await;
    let page = browser.get(&back).await;
    assert_eq!(page.status(), 400, "{page}");
    assert_eq!((mail.asked("/token"), evil.asked("/token")), (0, 0));
    nothing_is_stored(&gateway).await;

    let own = answer_of(&honest).await;
    assert_eq!(browser.get(&own).await.status(), 200, "the way to the honest one goes on");
    assert_eq!((mail.asked("/token"), evil.asked("/token")), (1, 0));
}

#[tokio::test]
async fn u1_where_a_server_redirects_to_nobody_goes() {
    let (mail, gateway) = scene().await;
    let other = Gated::by_token().await;
    mail.close_lists();
    for (path, status) in [(RESOURCE, 502), (SERVER, 502), ("/register", 502)] {
        mail.whim(path, Whim::SendsTo(format!("{}{path}", other.origin())));
        let (browser, page) = arrive(&gateway).await;
        assert_eq!(page.status(), status, "{path}: {page}");
        says_nothing_of(&page, &browser, other.origin());
        mail.behave();
    }
    let (mut browser, back) = on_the_way(&gateway).await;
    mail.whim("/token", Whim::SendsTo(format!("{}/token", other.origin())));
    let page = browser.get(&back).await;
    assert_eq!(page.status(), 503, "{page}");
    for path in [RESOURCE, SERVER, "/register", "/token", "/mcp"] {
        assert_eq!(other.asked(path), 0, "{path}");
    }
    nothing_is_stored(&gateway).await;
}

#[tokio::test]
async fn u8_no_word_of_a_server_is_shown_or_carried_on() {
    let (mail, gateway) = scene().await;
    let said = [("error_description", WORDS), ("error_uri", "https://evil.example/LEAK"), ("code", ""), ("iss", "")];
    for (error, status) in [("access_denied", 403), ("server_error", 502), ("LEAK<script>", 502)] {
        let (mut browser, back) = on_the_way(&gateway).await;
        // A server that is to say who it is says so with an error as well.
        let issuer = parameter(&back, "iss").unwrap();
        let changes = [&said[..], &[("error", error), ("iss", issuer.as_str())][..]].concat();
        let page = browser.get(&changed(&back, &changes)).await;
        assert_eq!(page.status(), status, "{error}: {page}");
        says_nothing_of(&page, &browser, "LEAK");
    }
    let words = |error: &str| json!({ "error": error, "error_description": WORDS, "error_uri": WORDS }).to_string();
    for (status, error, expected) in [
        (400, "invalid_grant", 502),
        (400, "LEAK", 503),
        (401, "invalid_client", 502),
        (500, "server_error", 503),
        (200, "LEAK", 503),
    ] {
        let (mut browser, back) = on_the_way(&gateway).await;
        mail.whim("/token", Whim::Says(status, words(error)));
        let page = browser.get(&back).await;
        assert_eq!(page.status(), expected, "{status} {error}: {page}");
        says_nothing_of(&page, &browser, "LEAK");
        mail.behave();
    }
    nothing_is_stored(&gateway).await;
    for path in ["/api/v1/audit?limit=200", "/api/v1/connections/flows", "/api/v1/status", "/api/v1/decisions"] {
        let told = gateway.operator("GET", path, None).await;
        assert!(!told.text().contains("LEAK"), "{path}: {}", told.text());
    }
    connect(&gateway, "alice").await;
}

#[tokio::test]
async fn u8_a_server_that_is_down_at_any_step_costs_a_second_try() {
    let (mail, gateway) = scene().await;
    for path in ["/mcp", RESOURCE, SERVER, "/register"] {
        mail.whim(path, Whim::Says(503, WORDS.to_owned()));
        let (browser, page) = arrive(&gateway).await;
        assert_eq!(page.status(), 503, "{path}: {page}");
        assert!(!page.reply.header("retry-after").is_empty(), "{path}");
        says_nothing_of(&page, &browser, WORDS);
        mail.behave();
        nothing_is_stored(&gateway).await;
    }
    let (mut browser, back) = on_the_way(&gateway).await;
    mail.whim("/token", Whim::Says(503, WORDS.to_owned()));
    assert_eq!(browser.get(&back).await.status(), 503);
    nothing_is_stored(&gateway).await;
    mail.behave();
    connect(&gateway, "alice").await;
    let alice = gateway.caller("alice");
    whoami(&alice.call("mail__whoami", json!({})).await);

    gateway.clock.advance(NO_LONGER_FRESH);
    mail.end_access_tokens();
    mail.whim("/token", Whim::Says(503, WORDS.to_owned()));
    let reply = alice.call("mail__whoami", json!({})).await;
    assert_eq!(reply.json()["error"]["data"]["reason"], "credential_unavailable", "{}", reply.text());
    assert!(!reply.text().contains(WORDS), "{}", reply.text());
    mail.behave();
    gateway.clock.advance(MUCH_LATER);
    whoami(&alice.call("mail__whoami", json!({})).await);

    mail.whim("/revoke", Whim::Says(503, WORDS.to_owned()));
    let listed = connections(&gateway, "holder=key:alice").await;
    let path = format!("/api/v1/connections/{}", listed[0]["id"].as_str().unwrap());
    assert_eq!(gateway.operator("DELETE", &path, None).await.status, 204);
    assert_eq!(missing(&alice.call("mail__whoami", json!({})).await)["state"], "not_connected", "gone at once");
    until(|| mail.asked("/revoke") > 0).await;
    mail.behave();
    gateway.clock.advance(MUCH_LATER);
    until(|| !mail.revoked().is_empty()).await;
}

/// Waits for what a task of the gateway does within its minute.
async fn until(holds: impl Fn() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waiting).await.expect("it happens within a minute");
}

#[tokio::test]
async fn u7_refresh_tokens_that_rotate_are_presented_once_each() {
    let (mail, gateway) = scene().await;
    connect(&gateway, "alice").await;
    let alice = gateway.caller("alice");
    for round in 1..=4 {
        gateway.clock.advance(NO_LONGER_FRESH);
        mail.end_access_tokens();
        whoami(&alice.call("mail__whoami", json!({})).await);
        assert_eq!(mail.refreshes(), round);
    }
}

#[tokio::test]
async fn u7_an_answer_that_is_lost_asks_the_person_only_when_the_server_says_that_its_token_is_used_up() {
    let (mail, gateway) = scene().await;
    connect(&gateway, "alice").await;
    let alice = gateway.caller("alice");
    gateway.clock.advance(NO_LONGER_FRESH);
    mail.end_access_tokens();
    mail.whim("/token", Whim::Loses);
    let reply = alice.call("mail__whoami", json!({})).await;
    assert_eq!(reply.json()["error"]["data"]["reason"], "credential_unavailable", "{}", reply.text());
    assert_eq!(connections(&gateway, "holder=key:alice").await[0]["state"], "active");
    assert_eq!(mail.refreshes(), 1, "the server has done it");

    mail.behave();
    gateway.clock.advance(MUCH_LATER);
    let lacking = missing(&alice.call("mail__whoami", json!({})).await);
    assert_eq!(lacking["state"], "needs_reauth", "{lacking}");
    by_link(&gateway, &url(&lacking)).await;
    whoami(&alice.call("mail__whoami", json!({})).await);
}

#[tokio::test]
async fn u8_a_server_that_forgets_our_client_is_registered_with_again_when_somebody_connects() {
    let (mail, gateway) = scene().await;
    connect(&gateway, "alice").await;
    let alice = gateway.caller("alice");
    gateway.clock.advance(NO_LONGER_FRESH);
    mail.end_access_tokens();
    mail.forget_clients();
    let lacking = missing(&alice.call("mail__whoami", json!({})).await);
    assert_eq!((&lacking["state"], &lacking["reason"]), (&json!("needs_reauth"), &json!("client_forgotten")));
    by_link(&gateway, &url(&lacking)).await;
    whoami(&alice.call("mail__whoami", json!({})).await);
    assert_eq!(mail.asked("/register"), 2);

    // The same while somebody is on their way.
    let alice_again = connections(&gateway, "holder=key:alice").await;
    let path = format!("/api/v1/connections/{}", alice_again[0]["id"].as_str().unwrap());
    assert_eq!(gateway.operator("DELETE", &path, None).await.status, 204);
    let (mut browser, back) = on_the_way(&gateway).await;
    mail.forget_clients();
    let page = browser.get(&back).await;
    assert_eq!(page.status(), 502, "{page}");
    connect(&gateway, "alice").await;
    assert_eq!(mail.asked("/register"), 3);
}

#[tokio::test]
async fn u8_a_slow_server_holds_up_nobody_but_whom_it_renews() {
    let (mail, gateway) = scene().await;
    connect(&gateway, "alice").await;
    whoami(&gateway.caller("alice").call("mail__whoami", json!({})).await);
    gateway.clock.advance(NO_LONGER_FRESH);
    mail.end_access_tokens();
    connect(&gateway, "bob").await;
    mail.whim("/token", Whim::Late(Duration::from_secs(3)));
    let (alice, bob) = (gateway.caller("alice"), gateway.caller("bob"));
    let mut slow = pin!(alice.call("mail__whoami", json!({})));
    let quick = async {
        until(|| mail.asked("/token") > 2).await;
        bob.call("mail__whoami", json!({})).await
    };
    tokio::select! {
        _ = &mut slow => panic!("a call was answered before its token was renewed"),
        reply = quick => whoami(&reply),
    };
    whoami(&slow.await);
}

#[tokio::test]
async fn u5_an_upstream_that_names_another_server_takes_nothing_along() {
    let (mail, other) = (Gated::by_token().await, Gated::by_token().await);
    let section = format!(
        "[outbound]\nallow = [\"127.0.0.1\"]\n[upstreams.mail]\nurl = \"{}\"\n[upstreams.mail.auth]\nkind = \"per-user-oauth\"\n",
        mail.url
    );
    let gateway = Gateway::builder().section(&section).key("alice").start().await;
    gateway.until_upstreams_are_up().await;
    connect(&gateway, "alice").await;
    let document = json!({ "resource": mail.url, "authorization_servers": [other.origin()] });
    mail.whim(RESOURCE, Whim::Says(200, document.to_string()));
    gateway.clock.advance(MUCH_LATER);
    mail.end_access_tokens();
    let asked = mail.asked("/token");
    let lacking = missing(&gateway.caller("alice").call("mail__whoami", json!({})).await);
    assert_eq!((&lacking["state"], &lacking["reason"]), (&json!("needs_reauth"), &json!("issuer_changed")));
    assert_eq!((mail.asked("/token"), other.asked("/token")), (asked, 0), "neither is shown the refresh token");

    let mut browser = Browser::new(gateway.public);
    let page = open(&mut browser, &url(&lacking)).await;
    let provider = browser.submit(&page.form("/connect/mail")).await;
    assert!(provider.url.starts_with(&format!("{}/authorize", other.origin())), "{provider}");
    assert_eq!((mail.asked("/register"), other.asked("/register")), (1, 1), "each knows a client of its own");
    assert_eq!(parameter(&provider.url, "resource").as_deref(), Some(mail.url.as_str()));
}
