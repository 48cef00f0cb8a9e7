//! Connections in the console: how they stand, a link to connect again, and an end.

use portcullis_tests::oauth::Browser;
use portcullis_tests::upstreams::gated::Gated;
use portcullis_tests::{Caller, Gateway};
use serde_json::json;

use super::browser_of;
use crate::connections::{connections, missing, open, url};

/// A key of the store that has connected `vault`, whose connection has this id.
async fn connected() -> (Gated, Gateway, String) {
    let vault = Gated::by_header("x-api-key", &["right-of-ci"]).await;
    let section = format!(
        "[upstreams.vault]\nurl = \"{}\"\n[upstreams.vault.auth]\nkind = \"per-user-headers\"\nheaders = [\"X-Api-Key\"]\n",
        vault.url
    );
    let gateway = Gateway::builder().section(&section).start().await;
    gateway.until_upstreams_are_up().await;
    let key = json!({ "name": "ci", "allow": [{ "upstream": "*", "tools": ["*"] }] });
    let made = gateway.operator("POST", "/api/v1/keys", Some(key)).await.json();
    let ci = Caller::new(gateway.public, Some(made["secret"].as_str().unwrap().to_owned()));
    connect(&gateway, &url(&missing(&ci.call("vault__whoami", json!({})).await))).await;
    let id = connections(&gateway, "holder=key:ci").await[0]["id"].as_str().unwrap().to_owned();
    (vault, gateway, id)
}

async fn connect(gateway: &Gateway, link: &str) {
    let mut browser = Browser::new(gateway.public);
    let page = open(&mut browser, link).await;
    let page = browser.submit(&page.form("/connect/vault").with("header-x-api-key", "right-of-ci")).await;
    assert!(page.text().contains("Connected"), "{page}");
}

#[tokio::test]
async fn connections_are_listed_by_whose_they_are_and_how_they_stand_without_their_secrets() {
    let (_vault, gateway, id) = connected().await;
    let mut viewer = browser_of(&gateway, "viewer").await;
    let list = viewer.get("/connections?holder=key%3Aci&upstream=vault&state=active").await;
    assert!(list.text().contains("key:ci") && list.text().contains("Works"), "{list}");
    let none = viewer.get("/connections?state=orphaned").await;
    assert!(none.text().contains("No connection is on this page"), "{none}");
    let odd = viewer.get("/connections?state=odd&holder=ann").await;
    assert_eq!((odd.status(), odd.form("/connections").field("holder")), (422, Some("ann")), "{odd}");
    assert!(odd.text().contains("That did not work"), "{odd}");

    let page = viewer.get(&format!("/connections/{id}")).await;
    assert!(page.text().contains("x-api-key"), "{page}");
    assert_eq!(page.forms().len(), 1, "a viewer has nothing to press but the way out: {page}");
    for page in [&list, &page] {
        assert!(!page.reply.text().contains("right-of-ci"), "{page}");
    }
    let flows = viewer.get("/connections/flows?holder=key%3Aci").await;
    assert!(flows.text().contains("Nobody is on such a way here"), "{flows}");
}

#[tokio::test]
async fn a_link_to_connect_again_is_on_one_page_and_an_end_is_asked_about() {
    let (_vault, gateway, id) = connected().await;
    let mut operator = browser_of(&gateway, "operator").await;
    let page = operator.get(&format!("/connections/{id}")).await;
    let page = operator.submit(&page.form("/reauthorise")).await;
    assert_eq!(page.status(), 200, "{page}");
    let link = page.elements.iter().find(|element| element.attribute("id") == Some("link"));
    connect(&gateway, link.unwrap_or_else(|| panic!("{page}")).text.trim()).await;
    assert_eq!(connections(&gateway, "holder=key:ci").await[0]["id"], id, "it is the same one");

    let page = operator.get(&format!("/connections/{id}/end")).await;
    assert_eq!(connections(&gateway, "holder=key:ci").await.len(), 1, "asking is not doing");
    let page = operator.submit(&page.form("/end")).await;
    assert!(page.text().contains("The connection is ended"), "{page}");
    assert!(connections(&gateway, "holder=key:ci").await.is_empty());
    assert_eq!(operator.get(&format!("/connections/{id}")).await.status(), 404);
}
