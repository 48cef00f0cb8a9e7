//! Connections of virtual keys while the key changes, and while their upstream does: what is out of reach is not shown, what
//! comes back is as it was, and nothing goes to where it was not made for.

use std::time::Duration;

use portcullis_tests::Caller;

use super::*;

fn section(vault: &Gated) -> String {
    format!(
        "[upstreams.vault]\nurl = \"{}\"\n[upstreams.vault.auth]\nkind = \"per-user-headers\"\nheaders = [\"X-Api-Key\"]\n",
        vault.url
    )
}

async fn scene() -> (Gated, Gateway) {
    let vault = Gated::by_header("x-api-key", &["right-of-ci"]).await;
    let gateway = Gateway::builder().section(&section(&vault)).start().await;
    gateway.until_upstreams_are_up().await;
    (vault, gateway)
}

fn everything() -> Value {
    json!([{ "upstream": "*", "tools": ["*"] }])
}

/// A key of the store, whose caller has connected `vault`.
async fn connected(gateway: &Gateway) -> Caller {
    let key = json!({ "name": "ci", "allow": everything() });
    let reply = gateway.operator("POST", "/api/v1/keys", Some(key)).await;
    assert_eq!(reply.status, 201, "{}", reply.text());
    let ci = Caller::new(gateway.public, Some(reply.json()["secret"].as_str().unwrap().to_owned()));
    by_link(gateway, &url(&missing(&call(&ci).await))).await;
    assert!(whoami(&call(&ci).await).contains("right-of-ci"));
    ci
}

async fn call(caller: &Caller) -> Reply {
    caller.call("vault__whoami", json!({})).await
}

async fn by_link(gateway: &Gateway, link: &str) {
    let mut browser = Browser::new(gateway.public);
    let page = open(&mut browser, link).await;
    let page = browser.submit(&page.form("/connect/vault").with("header-x-api-key", "right-of-ci")).await;
    assert!(page.text().contains("Connected"), "{page}");
}

async fn set(gateway: &Gateway, patch: Value) {
    let reply = gateway.operator("PATCH", "/api/v1/keys/ci", Some(patch)).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
}

/// The one connection of the key.
async fn only(gateway: &Gateway) -> Value {
    let listed = connections(gateway, "holder=key:ci").await;
    let [only] = listed.as_slice() else { panic!("{listed:?}") };
    only.clone()
}

#[tokio::test]
async fn checklist_a_key_that_loses_an_upstream_has_its_connection_orphaned_at_once_and_back_with_the_upstream() {
    let (vault, gateway) = scene().await;
    let ci = connected(&gateway).await;
    let before = only(&gateway).await;
    assert_eq!((&before["state"], &before["can_reauthorise"]), (&json!("active"), &json!(true)), "{before}");

    set(&gateway, json!({ "allow": [{ "upstream": "other", "tools": ["*"] }] })).await;
    let orphan = only(&gateway).await;
    assert_eq!((&orphan["state"], &orphan["id"]), (&json!("orphaned"), &before["id"]), "{orphan}");
    assert_eq!(orphan["cannot_reauthorise"], "orphaned", "{orphan}");
    let shown = vault.seen().len();
    let reply = call(&ci).await;
    assert!(reply.json()["error"].is_object(), "there is no such tool for it: {}", reply.text());
    assert_eq!(vault.seen().len(), shown, "nothing was sent");
    let path = format!("/api/v1/connections/{}/reauthorise", before["id"].as_str().unwrap());
    let refused = gateway.operator("POST", &path, None).await;
    assert_eq!((refused.status.as_u16(), &refused.json()["code"]), (403, &json!("connection_orphaned")));
    let is_told = |event: &'static str| {
        move |trail: &Value| trail["entries"].as_array().unwrap().iter().any(|entry| entry["event"] == event)
    };
    gateway.until("/api/v1/audit", is_told("connection.orphaned")).await;

    set(&gateway, json!({ "allow": everything() })).await;
    assert_eq!(only(&gateway).await["state"], "active");
    assert!(whoami(&call(&ci).await).contains("right-of-ci"), "nobody is asked again");
    gateway.until("/api/v1/audit", is_told("connection.reactivated")).await;
}

#[tokio::test]
async fn a_key_with_another_secret_has_what_it_connected() {
    let (_vault, gateway) = scene().await;
    let ci = connected(&gateway).await;
    let before = only(&gateway).await;
    let rotated = gateway.operator("POST", "/api/v1/keys/ci/rotate", Some(json!({ "overlap": 60 }))).await;
    assert_eq!(rotated.status, 200, "{}", rotated.text());
    let anew = Caller::new(gateway.public, Some(rotated.json()["secret"].as_str().unwrap().to_owned()));
    for caller in [&ci, &anew] {
        assert!(whoami(&call(caller).await).contains("right-of-ci"));
    }
    gateway.clock.advance(Duration::from_secs(60));
    assert_eq!(call(&ci).await.status, 401);
    assert!(whoami(&call(&anew).await).contains("right-of-ci"));
    assert_eq!(only(&gateway).await, before);
}

#[tokio::test]
async fn what_was_connected_goes_nowhere_else_when_the_name_of_its_upstream_does() {
    let (vault, gateway) = scene().await;
    let ci = connected(&gateway).await;
    let made_for = only(&gateway).await["made_for"].clone();
    assert!(vault.url.starts_with(made_for.as_str().unwrap()), "{made_for}");
    let other = Gated::by_header("x-api-key", &["right-of-ci"]).await;
    let here = std::fs::read_to_string(&gateway.file).unwrap();
    let load = async |text: &str| {
        gateway.replace("portcullis.toml", text.as_bytes());
        assert_eq!(gateway.operator("POST", "/api/v1/policies/reload", None).await.status, 200);
        gateway.until_upstreams_are_up().await;
    };
    load(&here.replace(&vault.url, &other.url)).await;
    let lacking = missing(&call(&ci).await);
    assert_eq!((&lacking["state"], &lacking["reason"]), (&json!("needs_reauth"), &json!("moved")), "{lacking}");
    assert!(!other.seen().join("\n").contains("right-of-ci"), "{:?}", other.seen());
    let listed = only(&gateway).await;
    assert_eq!((&listed["state"], &listed["reason"]), (&json!("needs_reauth"), &json!("moved")), "{listed}");
    assert_eq!(listed["made_for"], made_for);
    // What is stored is not taken along by somebody who leaves the field empty.
    let mut browser = Browser::new(gateway.public);
    let page = open(&mut browser, &url(&lacking)).await;
    let page = browser.submit(&page.form("/connect/vault").with("header-x-api-key", "")).await;
    assert_eq!(page.status(), 422, "{page}");
    assert!(!other.seen().join("\n").contains("right-of-ci"), "{:?}", other.seen());

    load(&here).await;
    assert!(whoami(&call(&ci).await).contains("right-of-ci"), "it is where it was made for");
    assert_eq!(only(&gateway).await["state"], "active");

    load(&here.replace(&vault.url, &other.url)).await;
    by_link(&gateway, &url(&missing(&call(&ci).await))).await;
    assert!(whoami(&call(&ci).await).contains("right-of-ci"));
    assert!(other.seen().join("\n").contains("right-of-ci"), "somebody meant it for there");
}

#[tokio::test]
async fn an_operator_has_a_connection_of_a_key_made_anew_by_a_link() {
    let (_vault, gateway) = scene().await;
    let ci = connected(&gateway).await;
    let before = only(&gateway).await;
    let path = format!("/api/v1/connections/{}", before["id"].as_str().unwrap());
    assert_eq!(gateway.operator("GET", &path, None).await.json(), before);
    let reply = gateway.operator("POST", &format!("{path}/reauthorise"), None).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let trail = gateway.operator("GET", "/api/v1/audit?limit=1", None).await.json();
    let made = &trail["entries"][0];
    assert_eq!(
        (&made["event"], &made["actor"]),
        (&json!("connection_link.made"), &json!("operator:socket")),
        "{trail}"
    );
    assert_eq!((&made["detail"]["holder"], &made["detail"]["expires"]), (&json!("key:ci"), &reply.json()["expires"]));
    by_link(&gateway, reply.json()["url"].as_str().unwrap()).await;
    assert_eq!(only(&gateway).await["id"], before["id"], "it is the same one");
    assert!(whoami(&call(&ci).await).contains("right-of-ci"));
    for id in ["none", "0a0a0a0a0a0a0a0a0a0a0a0a"] {
        for (method, path) in
            [("GET", format!("/api/v1/connections/{id}")), ("POST", format!("/api/v1/connections/{id}/reauthorise"))]
        {
            assert_eq!(gateway.operator(method, &path, None).await.status, 404, "{method} {path}");
        }
    }
}

#[tokio::test]
async fn what_an_upstream_does_not_take_any_more_is_not_shown_as_active() {
    let (_vault, gateway) = scene().await;
    let ci = connected(&gateway).await;
    let here = std::fs::read_to_string(&gateway.file).unwrap();
    let load = async |text: &str| {
        gateway.replace("portcullis.toml", text.as_bytes());
        assert_eq!(gateway.operator("POST", "/api/v1/policies/reload", None).await.status, 200);
        gateway.until_upstreams_are_up().await;
    };
    let two = here.replace("headers = [\"X-Api-Key\"]", "headers = [\"X-Api-Key\", \"X-Team\"]");
    load(&two).await;
    let lacking = only(&gateway).await;
    assert_eq!((&lacking["state"], &lacking["missing"]), (&json!("needs_update"), &json!(["x-team"])), "{lacking}");
    assert_eq!(missing(&call(&ci).await)["state"], "needs_update");
    load(&here).await;
    let whole = only(&gateway).await;
    assert_eq!((&whole["state"], &whole["missing"]), (&json!("active"), &Value::Null), "{whole}");
    assert!(whoami(&call(&ci).await).contains("right-of-ci"));

    let kind = "kind = \"per-user-headers\"\nheaders = [\"X-Api-Key\"]\n";
    assert!(here.contains(kind));
    load(&here.replace(kind, "kind = \"none\"\n")).await;
    let unused = only(&gateway).await;
    assert_eq!((&unused["state"], &unused["cannot_reauthorise"]), (&json!("unused"), &json!("unused")), "{unused}");
    assert_eq!(connections(&gateway, "holder=key:ci&state=active").await, Vec::<Value>::new());
    assert_eq!(connections(&gateway, "holder=key:ci&state=unused").await, std::slice::from_ref(&unused));
    let path = format!("/api/v1/connections/{}/reauthorise", unused["id"].as_str().unwrap());
    let refused = gateway.operator("POST", &path, None).await;
    assert_eq!((refused.status.as_u16(), &refused.json()["code"]), (409, &json!("nothing_to_connect")));
}
