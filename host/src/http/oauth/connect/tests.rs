//! Browsers on the way to a connection, and what does not get through (`docs/threat-model.md` rows U2 to U4).

use std::sync::Arc;

use http::StatusCode;

use super::*;
use crate::authorization::consent::testing::{ISSUER, parameter};
use crate::connection::link::{LIFE, Link};
use crate::connections::connecting::Failed;
use crate::connections::connecting::testing::{PROVIDER, Rig, SAID, of_key, of_user, upstream};
use crate::connections::issuer::NoWay;
use crate::http::oauth::consent_tests::{Browser, Gate, field, location, text, token};
use crate::http::oauth::pages::testing::assert_protected;
use crate::ids::KeyName;
use crate::store::connections;

/// The pages of a rig.
struct House {
    gate: Gate,
    rig: Parts,
}

/// What of a rig is no scene.
struct Parts {
    issuer: Arc<crate::connections::connecting::testing::Scripted>,
    trial: Arc<crate::connections::connecting::testing::Tried>,
    withdrawn: Arc<std::sync::Mutex<std::collections::BTreeSet<Place>>>,
}

impl House {
    async fn new() -> Self {
        Self::with("").await
    }

    async fn with(more: &str) -> Self {
        Self::of(Rig::new(more).await)
    }

    fn of(rig: Rig) -> Self {
        let Rig { scene, issuer, trial, connecting, withdrawn, .. } = rig;
        let ending = connecting.clone();
        let pages = Connections {
            connecting,
            disconnect: Arc::new(move |place, actor| {
                let ending = ending.clone();
                Box::pin(async move { ending.disconnect(&place, actor).await })
            }),
            document: Arc::new(|_| Some(serde_json::json!({ "client_id": "us" }))),
        };
        let oauth = OAuth::new(scene.server.clone()).with_pages_of(pages);
        let router = crate::http::oauth::router(Arc::new(oauth));
        Self { gate: Gate { scene, router }, rig: Parts { issuer, trial, withdrawn } }
    }

    /// A person who was there before the snapshot, in a browser of theirs.
    async fn person(name: &str) -> (Self, Browser, UserId) {
        let rig = Rig::new("[auth]\nguests = true\n").await;
        let user = rig.scene.person(name).await;
        let browser = Browser::signed_in(&rig.scene.sign_in(&user).await);
        rig.catch_up().await;
        (Self::of(rig), browser, user.id)
    }

    fn link(&self, principal: Principal, at: &str) -> (Link, String) {
        let server = &self.gate.scene.server;
        let link = Link::new(&server.env, principal, upstream(at));
        let url = link.url(ISSUER, &server.secret);
        (link, url)
    }

    async fn there(&self, place: &Place) -> bool {
        connections::get(&self.gate.scene.server.store, place).await.unwrap().is_some()
    }

    /// Opens a link of a key as the script of the page does.
    async fn open(&self, browser: &mut Browser, link: &str) -> Response {
        let page = browser.page(&self.gate, "/connect/link").await;
        browser.post(&self.gate, "/connect/link", &[("form_token", &token(&page)), ("link", link)]).await
    }

    /// Sends the form of a page of an upstream, and gives what the authorization server answers: a path.
    async fn begin(&self, browser: &mut Browser, path: &str) -> String {
        let page = browser.page(&self.gate, path).await;
        let fields = [("form_token", &*token(&page)), ("next", &*field(&page, "next"))];
        let sent = browser.post(&self.gate, path.split('?').next().unwrap(), &fields).await;
        assert_eq!(sent.status(), 303);
        let url = location(&sent);
        assert!(url.starts_with(&format!("{PROVIDER}/authorize?")), "{url}");
        let at = path.split('?').next().unwrap().rsplit('/').next().unwrap();
        let state = parameter(&url, "state").unwrap();
        format!("/connect/callback/context-{at}?state={state}&code=code1&iss=https%3A%2F%2Fid.example")
    }
}

fn ci() -> Principal {
    Principal::Key(KeyName::parse("ci").unwrap())
}

/// A path of ours that a browser was sent to.
fn path(response: &Response) -> String {
    assert_eq!(response.status(), 303);
    let path = location(response).strip_prefix(ISSUER).unwrap().to_owned();
    // Without which link has led there.
    path.split("?next=link%3A").next().unwrap_or_default().to_owned()
}

/// A page that refuses.
async fn refused(response: Response, status: u16, told: &str) {
    assert_eq!(response.status().as_u16(), status);
    assert_protected(&response);
    let page = text(response).await;
    assert!(page.contains(told), "{told}: {page}");
    assert!(!page.contains(SAID), "{page}");
}

#[tokio::test]
async fn a_person_connects_a_service_from_their_account_and_ends_it_there() {
    let (house, mut browser, ada) = House::person("ada").await;
    let page = browser.page(&house.gate, "/account").await;
    assert!(page.contains("Services that you connect") && page.contains("Not connected"), "{page}");
    let at = "/connect/notes?next=%2Faccount";
    assert!(page.contains(at), "{page}");
    let page = browser.get(&house.gate, at).await;
    assert_protected(&page);
    let policy = page.headers()["content-security-policy"].to_str().unwrap();
    assert!(policy.contains("form-action 'self' https: https://id.example;"), "{policy}");
    let page = text(page).await;
    for told in ["<strong>ada</strong>", "<strong>id.example</strong>", "Not connected"] {
        assert!(page.contains(told), "{told}: {page}");
    }
    let answer = house.begin(&mut browser, at).await;
    assert_eq!(path(&browser.get(&house.gate, &answer).await), "/account");
    assert!(house.there(&of_user(&ada, "notes")).await);
    let page = browser.page(&house.gate, "/account").await;
    assert!(page.contains("Connect again"), "{page}");
    let form = page.split("/account/connections/notes/disconnect").nth(1).unwrap();
    let fields = [("form_token", &*token(form))];
    let ended = browser.post(&house.gate, "/account/connections/notes/disconnect", &fields).await;
    assert!(path(&ended).starts_with("/account?done="));
    assert!(!house.there(&of_user(&ada, "notes")).await);
    let again = browser.post(&house.gate, "/account/connections/notes/disconnect", &fields).await;
    refused(again, 403, "does not count").await;
}

#[tokio::test]
async fn what_is_somebody_elses_is_not_ended() {
    let (house, mut browser, ada) = House::person("ada").await;
    let answer = house.begin(&mut browser, "/connect/notes?next=%2Faccount").await;
    browser.get(&house.gate, &answer).await;
    let ben = house.gate.scene.person("ben").await;
    let mut other = Browser::signed_in(&house.gate.scene.sign_in(&ben).await);
    let page = browser.page(&house.gate, "/account").await;
    let theirs = page.split("/account/connections/notes/disconnect").nth(1).unwrap();
    let fields = [("form_token", &*token(theirs))];
    let tried = other.post(&house.gate, "/account/connections/notes/disconnect", &fields).await;
    refused(tried, 403, "does not count").await;
    assert!(house.there(&of_user(&ada, "notes")).await);
}

#[tokio::test]
async fn u4_the_link_of_a_key_opens_once_in_one_browser() {
    let house = House::new().await;
    let (_, url) = house.link(ci(), "notes");
    let fragment = url.split_once('#').unwrap().1;
    let (mut browser, mut other) = (Browser::default(), Browser::default());
    let page = browser.get(&house.gate, "/connect/link").await;
    assert_protected(&page);
    let policy = page.headers()["content-security-policy"].to_str().unwrap().to_owned();
    let nonce = policy.split("script-src 'nonce-").nth(1).unwrap().split('\'').next().unwrap();
    let page = text(page).await;
    assert!(page.contains(&format!("<script nonce=\"{nonce}\">")) && page.matches("<script").count() == 1, "{page}");
    assert!(page.contains("history.replaceState") && page.contains("<noscript>"), "{page}");
    assert_eq!(path(&house.open(&mut browser, fragment).await), "/connect/notes");
    // Again in the same browser, pasted whole.
    assert_eq!(path(&house.open(&mut browser, &url).await), "/connect/notes");
    refused(house.open(&mut other, fragment).await, 403, "opened already").await;
    let nobody = other.get(&house.gate, "/connect/notes").await;
    assert!(path(&nobody).starts_with("/sign-in?next="));
    let page = browser.page(&house.gate, "/connect/notes").await;
    assert!(page.contains("the virtual key ci") && page.contains("Was this you?"), "{page}");
    let answer = house.begin(&mut browser, "/connect/notes").await;
    refused(other.get(&house.gate, &answer).await, 403, "not yours to finish").await;
    assert_eq!(path(&browser.get(&house.gate, &answer).await), "/connect/notes");
    assert!(house.there(&of_key("ci", "notes")).await);
    let page = browser.page(&house.gate, "/connect/notes").await;
    assert!(page.contains("go back to your agent") && !page.contains("<form"), "{page}");
    // A link that has done its work is good for nothing more.
    assert_eq!(path(&house.open(&mut browser, fragment).await), "/connect/notes");
    refused(house.open(&mut other, fragment).await, 403, "opened already").await;
}

#[tokio::test]
async fn u4_a_person_who_opens_the_link_of_somebodys_key_goes_on_as_themselves() {
    let (house, mut browser, ada) = House::person("ada").await;
    let (link, url) = house.link(ci(), "notes");
    let sent = house.open(&mut browser, &url).await;
    let sent = location(&sent).strip_prefix(ISSUER).unwrap().to_owned();
    assert_eq!(parameter(&sent, "next"), Some(format!("link:{}", link.id)));
    let page = browser.page(&house.gate, &sent).await;
    assert!(page.contains("the virtual key ci") && page.contains("Was this you?"), "{page}");
    // Nothing of it is left on the page that they know.
    let page = browser.page(&house.gate, "/connect/notes").await;
    assert!(!page.contains("the virtual key ci"), "{page}");
    let answer = house.begin(&mut browser, "/connect/notes").await;
    browser.get(&house.gate, &answer).await;
    assert!(house.there(&of_user(&ada, "notes")).await && !house.there(&of_key("ci", "notes")).await);
    // And one that they have not opened names nobody.
    let strange = format!("/connect/notes?next=link%3A{}", "0".repeat(32));
    refused(browser.get(&house.gate, &strange).await, 403, "needs a link").await;
}

#[tokio::test]
async fn a_link_is_refused_that_is_too_old_made_up_or_in_the_wrong_place() {
    let house = House::new().await;
    let (link, url) = house.link(ci(), "notes");
    let mut browser = Browser::default();
    let sealed = link.sealed(&house.gate.scene.server.secret);
    let in_path = browser.get(&house.gate, &format!("/connect/link/{sealed}")).await;
    refused(in_path, 400, "does not open anything").await;
    for bad in ["", "x", "https://gate.example/connect/link#x", &"A".repeat(5_000)] {
        refused(house.open(&mut browser, bad).await, 400, "does not open anything").await;
    }
    house.gate.scene.clock.advance(LIFE);
    refused(house.open(&mut browser, &url).await, 400, "does not open anything").await;
    refused(browser.get(&house.gate, "/connect/link/x").await, 400, "does not open anything").await;
}

#[tokio::test]
async fn u4_the_link_of_a_person_is_theirs_alone_once_they_are_signed_in() {
    let (house, mut browser, ada) = House::person("ada").await;
    let (_, url) = house.link(Principal::User(ada.clone()), "notes");
    let at = url.strip_prefix(ISSUER).unwrap().to_owned();
    let mut nobody = Browser::default();
    let sent = path(&nobody.get(&house.gate, &at).await);
    assert_eq!(parameter(&sent, "next").as_deref(), Some(&*at));
    let ben = house.gate.scene.person("ben").await;
    let mut other = Browser::signed_in(&house.gate.scene.sign_in(&ben).await);
    refused(other.get(&house.gate, &at).await, 403, "somebody else&#39;s").await;
    let sent = browser.get(&house.gate, &at).await;
    let sent = location(&sent).strip_prefix(ISSUER).unwrap().to_owned();
    let answer = house.begin(&mut browser, &sent).await;
    // The same browser with nobody, and with somebody else in it.
    let mut signed_out = browser.clone();
    signed_out.0.remove("__Host-portcullis-session");
    refused(signed_out.get(&house.gate, &answer).await, 403, "not yours to finish").await;
    let mut exchanged = browser.clone();
    exchanged.0.extend(other.0.clone());
    refused(exchanged.get(&house.gate, &answer).await, 403, "not yours to finish").await;
    assert_eq!(house.rig.issuer.exchanges(), 0);
    let back = browser.get(&house.gate, &answer).await;
    assert_eq!(location(&back).strip_prefix(ISSUER), Some(&*sent));
    assert!(house.there(&of_user(&ada, "notes")).await);
    assert!(!house.there(&of_user(&ben.id, "notes")).await);
    // The link has done its work, and the page is theirs all the same.
    let page = browser.page(&house.gate, &sent).await;
    assert!(page.contains("<strong>ada</strong>") && page.contains("Connected"), "{page}");
    refused(exchanged.get(&house.gate, &sent).await, 403, "needs a link").await;
}

#[tokio::test]
async fn u3_an_answer_at_another_address_or_of_another_issuer_is_not_taken() {
    let (house, mut browser, _) = House::person("ada").await;
    let answer = house.begin(&mut browser, "/connect/notes").await;
    let wrong = answer.replace("context-notes", "context-tracker");
    refused(browser.get(&house.gate, &wrong).await, 400, "was not accepted").await;
    let answer = house.begin(&mut browser, "/connect/notes").await;
    let wrong = answer.replace("id.example", "evil.example");
    refused(browser.get(&house.gate, &wrong).await, 400, "was not accepted").await;
    refused(browser.get(&house.gate, &answer).await, 400, "This is over").await;
    for query in ["", "?code=x", "?state=&code=x", "?state=a&state=b"] {
        let answer = browser.get(&house.gate, &format!("/connect/callback/x{query}")).await;
        refused(answer, 400, "not complete").await;
    }
    assert_eq!(house.rig.issuer.exchanges(), 0);
}

#[tokio::test]
async fn a_providers_words_are_in_no_page_no_address_and_no_header() {
    let (house, mut browser, ada) = House::person("ada").await;
    for (error, status) in [("access_denied", 403), ("server_error", 502), (SAID, 502)] {
        let answer = house.begin(&mut browser, "/connect/notes?next=%2Faccount").await;
        let answer = answer.replace("code=code1", &format!("error={error}&error_description={SAID}"));
        let response = browser.get(&house.gate, &answer).await;
        for (name, value) in response.headers() {
            assert!(!value.to_str().unwrap().contains(SAID), "{name}");
        }
        refused(response, status, "/connect/notes?next=%2Faccount").await;
    }
    assert!(!house.there(&of_user(&ada, "notes")).await);
}

#[tokio::test]
async fn access_that_is_gone_is_told_at_each_step() {
    let (house, mut browser, ada) = House::person("ada").await;
    let place = of_user(&ada, "notes");
    let answer = house.begin(&mut browser, "/connect/notes").await;
    let page = browser.page(&house.gate, "/connect/notes").await;
    house.rig.withdrawn.lock().unwrap().insert(place.clone());
    refused(browser.get(&house.gate, &answer).await, 403, "Out of reach").await;
    refused(browser.get(&house.gate, "/connect/notes").await, 403, "Out of reach").await;
    let fields = [("form_token", &*token(&page)), ("next", "")];
    refused(browser.post(&house.gate, "/connect/notes", &fields).await, 403, "Out of reach").await;
    assert!(!house.there(&place).await);
}

#[tokio::test]
async fn one_goes_on_to_paths_of_ours_only() {
    let (house, mut browser, _) = House::person("ada").await;
    for next in [
        "https%3A%2F%2Fevil.example",
        "%2F%2Fevil.example",
        "%2Faccount%2F..%2Fx",
        "%2Foauth2%2Fconsent%2Fx",
        "%2Foauth2%2Fauthorize%3Fclient_id%3Dx",
        "javascript%3Aalert(1)",
    ] {
        let page = browser.get(&house.gate, &format!("/connect/notes?next={next}")).await;
        refused(page, 400, "not complete").await;
    }
    // Neither does a form that was changed on the way.
    let page = browser.page(&house.gate, "/connect/notes").await;
    let fields = [("form_token", &*token(&page)), ("next", "https://evil.example")];
    refused(browser.post(&house.gate, "/connect/notes", &fields).await, 400, "not complete").await;
    let fields = [("form_token", &*token(&page)), ("next", "/account")];
    refused(browser.post(&house.gate, "/connect/notes", &fields).await, 403, "does not count").await;
    let back = Back::parse("/oauth2/consent/0123456789abcdef01234567?connect=all").unwrap();
    assert_eq!(Back::parse(&back.text()), Some(back));
    let link = Back::Link("0".repeat(32));
    assert_eq!((Back::parse(&link.text()), Back::parse("link:0")), (Some(link), None));
}

#[tokio::test]
async fn u11_values_are_taken_that_the_service_takes_and_are_never_shown() {
    let (house, mut browser, ada) = House::person("ada").await;
    let place = of_user(&ada, "files");
    let page = browser.page(&house.gate, "/connect/files").await;
    assert!(page.contains("header-x-api-key") && page.contains("header-x-tenant"), "{page}");
    let send = async |browser: &mut Browser, page: &str, key: &str| {
        let token = token(page);
        let fields = [("form_token", &*token), ("next", ""), ("header-x-api-key", key), ("header-x-tenant", "t1")];
        browser.post(&house.gate, "/connect/files", &fields).await
    };
    *house.rig.trial.fails.lock().unwrap() = Some(Failed { status: Some(401) });
    let failed = send(&mut browser, &page, "hunter2").await;
    assert_eq!(failed.status(), StatusCode::UNPROCESSABLE_ENTITY);
    let page = text(failed).await;
    assert!(page.contains("Nothing was stored") && !page.contains("hunter2"), "{page}");
    assert!(!house.there(&place).await);
    let failed = send(&mut browser, &page, "hunter\u{fc}").await;
    assert_eq!(failed.status(), StatusCode::UNPROCESSABLE_ENTITY);
    let page = text(failed).await;
    *house.rig.trial.fails.lock().unwrap() = None;
    assert_eq!(path(&send(&mut browser, &page, "hunter2").await), "/connect/files");
    let page = browser.page(&house.gate, "/connect/files").await;
    assert!(page.contains("A value is stored") && !page.contains("hunter2"), "{page}");
}

#[tokio::test]
async fn an_authorization_server_that_cannot_be_used_is_told_in_our_words() {
    let (house, mut browser, _) = House::person("ada").await;
    house.rig.issuer.script.lock().unwrap().no_way = Some(NoWay::Unreachable { retry_after: None });
    let page = browser.get(&house.gate, "/connect/notes").await;
    assert!(page.headers().contains_key("retry-after"));
    refused(page, 503, "does not answer").await;
    house.rig.issuer.script.lock().unwrap().no_way = Some(NoWay::Unfit { what: SAID });
    refused(browser.get(&house.gate, "/connect/notes").await, 502, "cannot be used").await;
    for nothing in ["/connect/open", "/connect/nowhere", "/connect/NOT%20A%20NAME"] {
        assert_eq!(browser.get(&house.gate, nothing).await.status(), 404, "{nothing}");
    }
    let client = browser.get(&house.gate, "/connect/client/0123").await;
    assert_eq!((client.status().as_u16(), text(client).await), (200, r#"{"client_id":"us"}"#.to_owned()));
}

/// Comes from a client and goes on as somebody: the path of the consent page.
async fn consenting(house: &House, browser: &mut Browser, identity: &[(&str, &str)]) -> String {
    let at = browser.arrive(&house.gate, &[]).await;
    let page = browser.page(&house.gate, &at).await;
    let form = token(&page);
    let fields: Vec<(&str, &str)> = identity.iter().copied().chain([("form_token", &*form)]).collect();
    assert_eq!(browser.post(&house.gate, &format!("{at}/identity"), &fields).await.status(), 303);
    at
}

#[tokio::test]
async fn services_are_connected_at_consent_one_after_the_other_and_it_gets_more_time() {
    let (house, mut browser, ada) = House::person("ada").await;
    let at = consenting(&house, &mut browser, &[("identity", "person")]).await;
    let page = browser.page(&house.gate, &at).await;
    assert!(page.contains("Connect all") && page.contains("Ready") && page.contains("Not connected"), "{page}");
    let mut left = vec!["tracker", "notes"];
    // `files` comes first: values for headers.
    let next = path(&browser.get(&house.gate, &format!("{at}?connect=all")).await);
    assert!(next.starts_with("/connect/files?next="), "{next}");
    let page = browser.page(&house.gate, &next).await;
    let fields = [
        ("form_token", &*token(&page)),
        ("next", &*field(&page, "next")),
        ("header-x-api-key", "k"),
        ("header-x-tenant", "t"),
    ];
    let mut back = path(&browser.post(&house.gate, "/connect/files", &fields).await);
    while let Some(name) = left.pop() {
        assert_eq!(back, format!("{at}?connect=all"));
        // Longer than a consent has without.
        house.gate.scene.clock.advance(Duration::from_secs(10 * 60));
        let next = path(&browser.get(&house.gate, &back).await);
        assert!(next.starts_with(&format!("/connect/{name}?next=")), "{next}");
        let answer = house.begin(&mut browser, &next).await;
        back = path(&browser.get(&house.gate, &answer).await);
        assert!(house.there(&of_user(&ada, name)).await);
    }
    house.gate.scene.clock.advance(Duration::from_secs(10 * 60));
    let page = browser.page(&house.gate, &back).await;
    assert!(page.contains("Connected") && !page.contains("Not connected") && !page.contains("Connect all"), "{page}");
}

#[tokio::test]
async fn what_is_connected_at_consent_is_the_chosen_identitys() {
    let (house, mut browser, ada) = House::person("ada").await;
    let key = [("identity", "key"), ("key", "pk_ci_0123456789abcdef0123456789abcdef")];
    let at = consenting(&house, &mut browser, &key).await;
    let back = form_urlencoded::byte_serialize(at.as_bytes()).collect::<String>();
    let page = browser.page(&house.gate, &format!("/connect/notes?next={back}")).await;
    assert!(page.contains("the virtual key ci"), "{page}");
    let answer = house.begin(&mut browser, &format!("/connect/notes?next={back}")).await;
    assert_eq!(path(&browser.get(&house.gate, &answer).await), at);
    assert!(house.there(&of_key("ci", "notes")).await);
    assert!(!house.there(&of_user(&ada, "notes")).await);
    // The request of this browser is nothing in another one.
    let mut other = Browser::default();
    let page = other.get(&house.gate, &format!("/connect/notes?next={back}")).await;
    refused(page, 400, "not yours").await;
    let page = browser.page(&house.gate, &at).await;
    assert!(page.contains("Connected"), "{page}");
}

#[tokio::test]
async fn an_abandoned_consent_takes_along_what_its_guest_connected() {
    let (house, mut browser, _) = House::person("ada").await;
    let at = consenting(&house, &mut browser, &[("identity", "guest")]).await;
    let back = form_urlencoded::byte_serialize(at.as_bytes()).collect::<String>();
    let answer = house.begin(&mut browser, &format!("/connect/notes?next={back}")).await;
    assert_eq!(path(&browser.get(&house.gate, &answer).await), at);
    let store = &house.gate.scene.server.store;
    let filter = connections::Filter { upstream: Some(upstream("notes")), ..connections::Filter::default() };
    let there = async || {
        let granted = |_: &Place| connection::Access::Granted;
        connections::list(store, filter.clone(), granted, None, 10).await.unwrap().items.len()
    };
    assert_eq!(there().await, 1);
    let page = browser.page(&house.gate, &at).await;
    let cancelled = browser.post(&house.gate, &format!("{at}/cancel"), &[("form_token", &token(&page))]).await;
    assert_eq!(cancelled.status(), 303);
    assert_eq!(there().await, 0);
}

#[tokio::test]
async fn holders_of_keys_connect_where_there_is_no_authorization_server() {
    let house = House::with("[auth]\nmcp = 'keys'\n").await;
    let (_, url) = house.link(ci(), "notes");
    let (mut browser, mut nobody) = (Browser::default(), Browser::default());
    refused(nobody.get(&house.gate, "/connect/notes").await, 403, "needs a link").await;
    assert_eq!(path(&house.open(&mut browser, &url).await), "/connect/notes");
    let answer = house.begin(&mut browser, "/connect/notes").await;
    assert_eq!(path(&browser.get(&house.gate, &answer).await), "/connect/notes");
    assert!(house.there(&of_key("ci", "notes")).await);
    assert_eq!(browser.get(&house.gate, "/account").await.status(), 404);
}
