//! A store that is gone at each step of a connection: nothing is decided without it, and nobody loses what they have.

use std::time::Duration;

use portcullis_tests::gateway::SOON;
use portcullis_tests::postgres::{Server, Sync};
use portcullis_tests::upstreams::gated::Whim;

use super::*;

/// How long tokens live here. The store has a clock of its own, which no test moves on.
const LIFE: Duration = Duration::from_secs(6);

async fn until_ready(gateway: &Gateway, status: u16) {
    let until = tokio::time::Instant::now() + SOON;
    while gateway.stranger().send("GET", "/readyz", "").await.status != status {
        assert!(tokio::time::Instant::now() < until, "the gateway does not come to answer {status}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn without_store<T>(gateway: &Gateway, server: &Server, step: impl Future<Output = T>) -> T {
    server.kill();
    until_ready(gateway, 503).await;
    let done = step.await;
    server.start_again();
    until_ready(gateway, 200).await;
    done
}

fn is_unavailable(page: &Page) {
    assert_eq!(page.status(), 503, "{page}");
    assert!(!page.reply.header("retry-after").is_empty(), "{:?}", page.reply.headers);
}

#[tokio::test(flavor = "multi_thread")]
async fn u8_a_store_that_is_gone_at_any_step_costs_nobody_a_connection() {
    let server = Server::start(Sync::On);
    let mail = Gated::by_token().await;
    mail.let_tokens_live(LIFE.as_secs());
    let section =
        format!("[upstreams.mail]\nurl = \"{}\"\n[upstreams.mail.auth]\nkind = \"per-user-oauth\"\n", mail.url);
    let builder = Gateway::builder().section(&section).key("alice").in_database(&server, "portcullis");
    let gateway = builder.start().await;
    gateway.until_upstreams_are_up().await;
    let alice = gateway.caller("alice");

    // Before the link is opened.
    let link = url(&missing(&alice.call("mail__whoami", json!({})).await));
    let mut browser = Browser::new(gateway.public);
    let page = browser.get(link.split('#').next().unwrap()).await;
    let form = page.form("/connect/link").with("link", &link);
    is_unavailable(&without_store(&gateway, &server, browser.submit(&form)).await);
    let page = open(&mut browser, &link).await;
    assert_eq!(page.status(), 200, "{page}");

    // Before it is begun.
    let form = page.form("/connect/mail");
    is_unavailable(&without_store(&gateway, &server, browser.submit(&form)).await);
    assert_eq!(mail.asked("/authorize"), 0);
    let page = open(&mut browser, &link).await;
    let provider = browser.submit(&page.form("/connect/mail")).await;

    // When the answer comes: it is taken when the store is back.
    let back = answer_of(&provider.url).await;
    is_unavailable(&without_store(&gateway, &server, browser.get(&back)).await);
    assert_eq!(mail.asked("/token"), 0, "no code is shown before it is claimed");
    let page = browser.get(&back).await;
    assert_eq!(page.status(), 200, "{page}");
    whoami(&alice.call("mail__whoami", json!({})).await);

    // While tokens are renewed that the server gives once.
    tokio::time::sleep(LIFE).await;
    mail.whim("/token", Whim::Late(Duration::from_secs(3)));
    let asked = mail.asked("/token");
    let outage = async {
        let is_asked = async {
            while mail.asked("/token") == asked {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        // It is not if the token was renewed ahead of time just now.
        _ = tokio::time::timeout(Duration::from_secs(2), is_asked).await;
        server.kill();
        tokio::time::sleep(Duration::from_secs(4)).await;
        mail.behave();
        server.start_again();
    };
    tokio::join!(alice.call("mail__whoami", json!({})), outage);
    until_ready(&gateway, 200).await;
    // Whatever that call came to, the tokens are stored.
    eventually_works(&alice).await;
    assert_eq!(connections(&gateway, "holder=key:alice").await[0]["state"], "active");
    tokio::time::sleep(LIFE).await;
    whoami(&alice.call("mail__whoami", json!({})).await);
    assert!(mail.refreshes() >= 2, "{}", mail.refreshes());
}

/// The lease of a refresh, and its pauses, outlive an outage by a while.
async fn eventually_works(caller: &portcullis_tests::Caller) {
    let until = tokio::time::Instant::now() + 2 * SOON;
    loop {
        let reply = caller.call("mail__whoami", json!({})).await;
        let told = reply.json();
        if told["result"]["content"].is_array() && told["result"]["isError"] != true {
            return;
        }
        let is_for_now = told["error"]["data"]["reason"] == "credential_unavailable" || reply.status == 503;
        assert!(is_for_now && tokio::time::Instant::now() < until, "{}", reply.text());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
