//! A connection with its steps at one gateway and the other in turn: made, used, renewed and ended.

use std::time::Duration;

use futures_util::future::join_all;
use portcullis_tests::oauth::Browser;
use portcullis_tests::upstreams::gated::Gated;
use portcullis_tests::{Caller, Gateway};
use serde_json::json;
use tokio::time::Instant;

use super::eventually;
use crate::connections::{agree, answer_of, connections, missing, open, url, whoami};
use crate::oauth::postgres::{FELT_WITHIN, Pair, pair};

/// How long tokens live here. The store has a clock of its own, which no test moves on.
const LIFE: Duration = Duration::from_secs(8);
const CALLERS: usize = 16;

async fn scene() -> (Gated, Pair) {
    let mail = Gated::by_token().await;
    mail.let_tokens_live(LIFE.as_secs());
    let upstream =
        format!("[upstreams.mail]\nurl = \"{}\"\n[upstreams.mail.auth]\nkind = \"per-user-oauth\"\n", mail.url);
    let pair = pair(&upstream).await;
    (mail, pair)
}

/// The caller of a key, behind whichever gateway is chosen.
fn caller(pair: &Pair) -> Caller {
    Caller::new(pair.front, Some(Gateway::secret("alice")))
}

/// Each step at the other gateway than the one before.
async fn connect(pair: &Pair) {
    pair.go_to(0);
    let lacking = missing(&caller(pair).call("mail__whoami", json!({})).await);
    pair.go_to(1);
    let mut browser = Browser::new(pair.front);
    let page = open(&mut browser, &url(&lacking)).await;
    assert_eq!(page.status(), 200, "{page}");
    pair.go_to(0);
    let provider = browser.submit(&page.form("/connect/mail")).await;
    pair.go_to(1);
    let page = agree(&mut browser, &provider).await;
    assert_eq!(page.status(), 200, "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn u7_a_connection_that_was_made_at_one_is_used_renewed_and_ended_at_the_other() {
    let (mail, pair) = scene().await;
    connect(&pair).await;
    for at in [0, 1] {
        pair.go_to(at);
        whoami(&caller(&pair).call("mail__whoami", json!({})).await);
    }
    assert_eq!(mail.asked("/register"), 1, "both are the same client");

    // A refresh token is good once: whoever asked with one that was used would have lost the connection.
    for _ in 0..2 {
        tokio::time::sleep(LIFE).await;
        pair.take_turns();
        let alice = caller(&pair);
        let before = mail.refreshes();
        let calls = (0..CALLERS).map(|_| alice.call("mail__whoami", json!({})));
        for reply in join_all(calls).await {
            whoami(&reply);
        }
        // Once more if it was renewed ahead of time in the middle of this.
        let refreshes = mail.refreshes() - before;
        assert!((1..=2).contains(&refreshes), "{refreshes} refreshes");
    }

    let listed = connections(&pair.gateways[0], "holder=key:alice").await;
    let path = format!("/api/v1/connections/{}", listed[0]["id"].as_str().unwrap());
    assert_eq!(pair.gateways[0].operator("DELETE", &path, None).await.status, 204);
    let ended = Instant::now();
    pair.go_to(1);
    let alice = caller(&pair);
    eventually(async || alice.call("mail__whoami", json!({})).await.json()["result"]["isError"] == true).await;
    assert!(ended.elapsed() < FELT_WITHIN, "{:?}", ended.elapsed());
    assert_eq!(missing(&alice.call("mail__whoami", json!({})).await)["state"], "not_connected");
    eventually(async || !mail.revoked().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn u3_an_answer_that_both_gateways_get_is_exchanged_by_one() {
    let (mail, pair) = scene().await;
    pair.go_to(0);
    let lacking = missing(&caller(&pair).call("mail__whoami", json!({})).await);
    let mut browser = Browser::new(pair.front);
    let page = open(&mut browser, &url(&lacking)).await;
    let provider = browser.submit(&page.form("/connect/mail")).await;
    let back = answer_of(&provider.url).await;
    pair.take_turns();
    let mut browsers: Vec<Browser> = (0..CALLERS).map(|_| browser.copy()).collect();
    let pages = join_all(browsers.iter_mut().map(|browser| browser.get(&back))).await;
    let made = pages.iter().filter(|page| page.status() == 200).count();
    assert_eq!(
        (made, mail.asked("/token")),
        (1, 1),
        "{:?}",
        pages.iter().map(portcullis_tests::oauth::Page::status).collect::<Vec<_>>()
    );
    for at in [0, 1] {
        pair.go_to(at);
        whoami(&caller(&pair).call("mail__whoami", json!({})).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_hears_at_its_own_gateway_that_it_was_connected_at_another() {
    let (_mail, pair) = scene().await;
    pair.go_to(0);
    let session = caller(&pair).able(json!({ "elicitation": { "url": {} } })).initialize("2025-11-25").await;
    let mut heard = session.listen(None).await;
    let reply = session.request("tools/call", json!({ "name": "mail__whoami", "arguments": {} })).await;
    let asked = reply.json()["error"]["data"]["elicitations"][0].clone();
    pair.go_to(1);
    let mut browser = Browser::new(pair.front);
    let page = open(&mut browser, asked["url"].as_str().unwrap()).await;
    assert_eq!(page.status(), 200, "{page}");
    let provider = browser.submit(&page.form("/connect/mail")).await;
    assert_eq!(agree(&mut browser, &provider).await.status(), 200);
    let told = loop {
        let message = heard.next().await;
        if message["method"] == "notifications/elicitation/complete" {
            break message;
        }
    };
    assert_eq!(told["params"]["elicitationId"], asked["elicitationId"]);
}
