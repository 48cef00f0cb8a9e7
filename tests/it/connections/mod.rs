//! Connections around a running gateway: a call that lacks a credential says where its person connects one, what was
//! connected is shown to its upstream and to nobody else, is renewed, and is gone when somebody ends it.

use portcullis_tests::oauth::connection::send;
use portcullis_tests::oauth::{Browser, Page};
use portcullis_tests::upstreams::fixture::Fixture;
use portcullis_tests::upstreams::gated::Gated;
use portcullis_tests::{Gateway, Reply};
use serde_json::{Value, json};

mod checklist;
mod exchange;
mod headers;
mod keys;
mod links;
mod lists;
mod outages;
mod programs;
mod providers;
mod spills;
mod tokens;

/// Key in `_meta` and in an error's `data` under which the connections stand that a request lacked.
const META: &str = "portcullis/connections";

/// The result of a call, or what the upstream made of it.
fn result(reply: &Reply) -> Value {
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()["result"].clone()
}

/// What a call lacked, which is one connection.
pub(crate) fn missing(reply: &Reply) -> Value {
    let result = result(reply);
    assert_eq!(result["isError"], true, "{result}");
    let missing = result["_meta"][META].as_array().unwrap_or_else(|| panic!("nothing is missing: {result}"));
    let [missing] = missing.as_slice() else { panic!("{missing:?}") };
    let text = result["content"][0]["text"].as_str().unwrap();
    if let Some(url) = missing["url"].as_str() {
        assert!(text.contains(url), "the link is not in {text}");
    }
    missing.clone()
}

/// What the fixture behind the gate saw of a call of `whoami`.
pub(crate) fn whoami(reply: &Reply) -> String {
    let result = result(reply);
    assert_ne!(result["isError"], true, "{result}");
    result["content"][0]["text"].as_str().unwrap().to_owned()
}

pub(crate) fn url(missing: &Value) -> String {
    missing["url"].as_str().unwrap_or_else(|| panic!("no link in {missing}")).to_owned()
}

/// Opens a link of a key or guest as a browser without scripts: the whole of it is pasted.
pub(crate) async fn open(browser: &mut Browser, link: &str) -> Page {
    let (page, fragment) = link.split_once('#').unwrap_or_else(|| panic!("{link} shows what it carries"));
    assert!(!fragment.is_empty());
    let page = browser.get(page).await;
    assert_eq!(page.status(), 200, "{page}");
    browser.submit(&page.form("/connect/link").with("link", link)).await
}

/// Where the authorization server sends a browser back to, as it agrees.
pub(crate) async fn answer_of(provider: &str) -> String {
    let (origin, path) = provider.split_at(provider.find("/authorize").unwrap_or_else(|| panic!("{provider}")));
    let address = origin.strip_prefix("http://").unwrap().parse().unwrap();
    let reply = send(address, "GET", path, &[], "").await;
    assert_eq!(reply.status, 302, "{}", reply.text());
    reply.header("location").to_owned()
}

/// Goes to the authorization server, which agrees, and comes back.
pub(crate) async fn agree(browser: &mut Browser, provider: &Page) -> Page {
    let back = answer_of(&provider.url).await;
    browser.get(&back).await
}

pub(crate) async fn connections(gateway: &Gateway, query: &str) -> Vec<Value> {
    let reply = gateway.operator("GET", &format!("/api/v1/connections?{query}"), None).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()["connections"].as_array().unwrap().clone()
}
