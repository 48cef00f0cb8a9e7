//! H9 for connections: no token, code, client secret, value, link or word of a provider is in the store, the log, the trails
//! or an answer.

use std::fs;
use std::time::Duration;

use portcullis_tests::gateway::SOON;
use portcullis_tests::oauth::parameter;
use portcullis_tests::upstreams::gated::Whim;
use portcullis_tests::{Caller, program};

use super::*;
use crate::oauth::spills::Place;
use crate::vault::canary::{Canaries, Written};

/// How long tokens live here, in seconds.
const LIFE: u64 = 4;
/// What nobody says but the one server that would like to be quoted.
const QUOTE: &str = "words of a provider";

struct Scene {
    mail: Gated,
    news: Gated,
    vault: Gated,
    canaries: Canaries,
    written: Written,
}

impl Scene {
    /// `mail` registers us with a secret, `news` has given us one before, `vault` wants a header, `child` a variable.
    async fn new() -> Self {
        let kinds = [
            "key of the file",
            "secret of a known client",
            "value of a header",
            "value for a program",
            "wrong value",
            QUOTE,
        ];
        let canaries = Canaries::of(&kinds);
        let (mail, news) = (Gated::by_token().await, Gated::by_token().await);
        let vault = Gated::by_header("x-api-key", &[canaries.get("value of a header")]).await;
        mail.give_secrets();
        mail.let_tokens_live(LIFE);
        news.know("portcullis", canaries.get("secret of a known client"));
        Self { mail, news, vault, canaries, written: Written::default() }
    }

    fn settings(&self) -> String {
        let Self { mail, news, vault, .. } = self;
        let command = [program("fixture-upstream").display().to_string(), "stdio".to_owned()];
        format!(
            "[policy]\nrecord = true\n[upstreams.mail]\nurl = \"{}\"\n[upstreams.mail.auth]\nkind = \"per-user-oauth\"\n\
             [upstreams.news]\nurl = \"{}\"\n[upstreams.news.auth]\nkind = \"per-user-oauth\"\nclient_id = \"portcullis\"\n\
             client_secret = \"file:machine.secret\"\n\
             [upstreams.vault]\nurl = \"{}\"\n[upstreams.vault.auth]\nkind = \"per-user-headers\"\nheaders = [\"X-Api-Key\"]\n\
             [upstreams.child]\ncommand = {command:?}\n[upstreams.child.auth]\nkind = \"per-user-environment\"\nenvironment = [\"API_KEY\"]\n",
            mail.url, news.url, vault.url
        )
    }

    /// Calls a tool that repeats nothing of what it is called with but its arguments.
    async fn call(&mut self, caller: &Caller, upstream: &str) -> Value {
        let reply = caller.call(&format!("{upstream}__echo"), json!({ "text": "hello" })).await;
        let told = reply.json();
        // A link is shown to its own caller; everything else is for nobody.
        if told["result"]["_meta"][META].is_null() {
            self.written.add_reply(upstream, &reply);
        }
        told
    }

    /// The page that a link leads to.
    async fn arrive(&mut self, place: &Place, caller: &Caller, upstream: &str) -> (Browser, Page) {
        let told = self.call(caller, upstream).await;
        let link = told["result"]["_meta"][META][0]["url"].as_str().unwrap_or_else(|| panic!("{told}")).to_owned();
        self.canaries.adopt("link", link.split_once('#').unwrap().1);
        let mut browser = Browser::new(place.public);
        let page = open(&mut browser, &link).await;
        assert_eq!(page.status(), 200, "{page}");
        self.written.add_reply(upstream, &page.reply);
        (browser, page)
    }

    async fn connect(&mut self, place: &Place, caller: &Caller, upstream: &str) {
        let (mut browser, page) = self.arrive(place, caller, upstream).await;
        let provider = browser.submit(&page.form(&format!("/connect/{upstream}"))).await;
        let page = agree(&mut browser, &provider).await;
        assert_eq!(page.status(), 200, "{page}");
        self.written.add_reply(upstream, &page.reply);
    }

    async fn until(&self, holds: impl Fn(&Self) -> bool) {
        let waiting = async {
            while !holds(self) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), waiting).await.expect("it happens within a minute");
    }
}

async fn until_up(place: &Place) {
    let until = tokio::time::Instant::now() + 4 * SOON;
    loop {
        let view = place.operator("GET", "/api/v1/upstreams", None).await.json();
        if view["upstreams"].as_array().unwrap().iter().all(|upstream| upstream["state"] == "up") {
            return;
        }
        assert!(tokio::time::Instant::now() < until, "{view}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn works(told: &Value) {
    assert!(told["result"]["content"].is_array() && told["result"]["isError"] != true, "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn h9_no_secret_of_a_connection_is_written_anywhere() {
    let mut scene = Scene::new().await;
    let (place, process) = Place::start(&scene.settings(), &scene.canaries).await;
    let alice = Caller::new(place.public, Some(scene.canaries.get("key of the file").to_owned()));
    let quote =
        json!({ "error": scene.canaries.get(QUOTE), "error_description": scene.canaries.get(QUOTE) }).to_string();

    until_up(&place).await;
    // What lets everybody list cannot tell before a call.
    scene.vault.close_lists();

    // Values: wrong ones, then right ones.
    let (mut browser, mut page) = scene.arrive(&place, &alice, "vault").await;
    for (what, status) in [("wrong value", 422), ("value of a header", 200)] {
        let form = page.form("/connect/vault").with("header-x-api-key", scene.canaries.get(what));
        page = browser.submit(&form).await;
        assert_eq!(page.status(), status, "{page}");
        scene.written.add_reply(what, &page.reply);
    }
    works(&scene.call(&alice, "vault").await);

    let (mut browser, page) = scene.arrive(&place, &alice, "child").await;
    let form = page.form("/connect/child").with("header-API_KEY", scene.canaries.get("value for a program"));
    let page = browser.submit(&form).await;
    assert_eq!(page.status(), 200, "{page}");
    scene.written.add_reply("value for a program", &page.reply);
    works(&scene.call(&alice, "child").await);

    // A client of the configuration, and one that registers and is told a secret.
    scene.connect(&place, &alice, "news").await;
    works(&scene.call(&alice, "news").await);

    // A provider that has much to say: where it sends people back, for the code, and for the refresh token.
    let (mut browser, page) = scene.arrive(&place, &alice, "mail").await;
    let provider = browser.submit(&page.form("/connect/mail")).await;
    let answer = answer_of(&provider.url).await;
    scene.canaries.adopt("state", &parameter(&answer, "state").unwrap());
    let said = scene.canaries.get(QUOTE);
    let refused = format!("{}&error={said}&error_description={said}", answer.replace("code=", "other="));
    let page = browser.get(&refused).await;
    assert_eq!(page.status(), 502, "{page}");
    scene.written.add_reply("refused", &page.reply);
    scene.mail.whim("/token", Whim::Says(400, quote.clone()));
    let (mut browser, page) = scene.arrive(&place, &alice, "mail").await;
    let provider = browser.submit(&page.form("/connect/mail")).await;
    let page = agree(&mut browser, &provider).await;
    assert_eq!(page.status(), 503, "{page}");
    scene.written.add_reply("no tokens", &page.reply);
    scene.mail.behave();
    scene.connect(&place, &alice, "mail").await;
    works(&scene.call(&alice, "mail").await);
    tokio::time::sleep(Duration::from_secs(LIFE)).await;
    works(&scene.call(&alice, "mail").await);
    assert!(scene.mail.refreshes() > 0, "a token was renewed");
    scene.mail.whim("/token", Whim::Says(400, quote.clone()));
    scene.mail.whim("/revoke", Whim::Says(400, quote));
    tokio::time::sleep(Duration::from_secs(LIFE + 1)).await;
    let told = scene.call(&alice, "mail").await;
    assert_eq!(told["error"]["data"]["reason"], "credential_unavailable", "{told}");

    // Operators, and the end of two of them.
    for path in ["/api/v1/connections", "/api/v1/connections/flows", "/api/v1/upstreams", "/api/v1/decisions?limit=200"]
    {
        scene.written.add_reply(path, &place.operator("GET", path, None).await);
    }
    let listed = place.operator("GET", "/api/v1/connections", None).await.json();
    assert_eq!(listed["connections"].as_array().unwrap().len(), 4, "{listed}");
    let decisions = place.operator("GET", "/api/v1/decisions?limit=200", None).await.json();
    for decision in decisions["decisions"].as_array().unwrap() {
        let path = format!("/api/v1/recordings/{}", decision["id"].as_str().unwrap());
        scene.written.add_reply("recordings", &place.operator("GET", &path, None).await);
    }
    scene.written.add("store with connections", fs::read(place.path("data/portcullis.redb")).unwrap());
    for connection in listed["connections"].as_array().unwrap() {
        let path = format!("/api/v1/connections/{}", connection["id"].as_str().unwrap());
        assert_eq!(place.operator("DELETE", &path, None).await.status, 204);
    }
    scene.until(|scene| !scene.news.revoked().is_empty() && scene.mail.asked("/revoke") > 0).await;
    scene.written.add_reply("audit", &place.operator("GET", "/api/v1/audit?limit=200", None).await);
    process.stop().await;

    let given: Vec<_> = [&scene.mail, &scene.news].into_iter().flat_map(Gated::given).collect();
    for what in ["access token", "refresh token", "code", "state", "verifier", "client secret"] {
        assert!(given.iter().any(|(given, _)| *given == what), "nobody was given a {what}");
    }
    for (what, secret) in given {
        scene.canaries.adopt(what, &secret);
    }
    let placed = ["alice.key", "machine.secret", "vault.key", "deployment-secret", "operator-token"];
    scene.written.add_files(place.dir.path(), &placed);
    assert!(fs::read_to_string(place.path("gateway.log")).unwrap().len() > 10_000, "the log is a full one");
    assert!(scene.vault.seen().iter().any(|seen| seen == scene.canaries.get("value of a header")), "it was shown once");
    assert_eq!(scene.written.leaks(&scene.canaries), Vec::<String>::new());
}
