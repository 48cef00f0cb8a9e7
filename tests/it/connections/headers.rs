//! Values for headers that each principal gives.

use super::*;

/// `vault` wants `x-api-key`; `plain` wants nothing and would tell if it got something.
async fn scene() -> (Gated, Fixture, Gateway) {
    let vault = Gated::by_header("x-api-key", &["right-of-alice", "right-of-bob"]).await;
    let plain = Fixture::start().await;
    let section = format!(
        "[upstreams.vault]\nurl = \"{}\"\n[upstreams.vault.auth]\nkind = \"per-user-headers\"\nheaders = [\"X-Api-Key\"]\n",
        vault.url
    );
    let builder = Gateway::builder().section(&section).http_upstream("plain", &plain.url);
    let gateway = builder.key("alice").key("bob").start().await;
    gateway.until_upstreams_are_up().await;
    (vault, plain, gateway)
}

/// Connects `vault` for the key of a caller with this value.
async fn connect(gateway: &Gateway, key: &str, value: &str) -> Page {
    let lacking = missing(&gateway.caller(key).call("vault__whoami", json!({})).await);
    let mut browser = Browser::new(gateway.public);
    let page = open(&mut browser, &url(&lacking)).await;
    assert_eq!(page.status(), 200, "{page}");
    browser.submit(&page.form("/connect/vault").with("header-x-api-key", value)).await
}

#[tokio::test]
async fn what_a_call_lacks_is_named_given_on_a_page_and_shown_to_its_upstream_alone() {
    let (vault, _plain, gateway) = scene().await;
    let alice = gateway.caller("alice");
    let lacking = missing(&alice.call("vault__whoami", json!({})).await);
    assert_eq!(
        (&lacking["kind"], &lacking["upstream"], &lacking["state"], &lacking["headers"]),
        (&json!("headers"), &json!("vault"), &json!("not_connected"), &json!(["x-api-key"])),
        "{lacking}"
    );
    assert!(connect(&gateway, "alice", "right-of-alice").await.text().contains("Connected"));

    let seen = whoami(&alice.call("vault__whoami", json!({})).await);
    assert!(seen.contains("right-of-alice"), "{seen}");
    let own = Gateway::secret("alice");
    let told = vault.seen().join("\n");
    assert!(!seen.contains(&own) && !told.contains(&own), "the caller's own key went along");
    let elsewhere = whoami(&alice.call("plain__whoami", json!({})).await);
    assert!(!elsewhere.contains("right-of-alice"), "{elsewhere}");

    let lacking = missing(&gateway.caller("bob").call("vault__whoami", json!({})).await);
    assert_eq!(lacking["state"], "not_connected", "what is Alice's is not Bob's");
    connect(&gateway, "bob", "right-of-bob").await;
    assert!(whoami(&gateway.caller("bob").call("vault__whoami", json!({})).await).contains("right-of-bob"));
    assert!(whoami(&alice.call("vault__whoami", json!({})).await).contains("right-of-alice"));
}

#[tokio::test]
async fn a_value_that_the_upstream_does_not_take_is_not_stored() {
    let (vault, _plain, gateway) = scene().await;
    // What lets everybody list cannot tell before a call.
    vault.close_lists();
    let page = connect(&gateway, "alice", "wrong-one").await;
    assert_eq!(page.status(), 422, "{page}");
    assert!(!page.text().contains("wrong-one"), "a value is shown again");
    assert_eq!(connections(&gateway, "holder=key:alice").await, Vec::<Value>::new());
    assert_eq!(missing(&gateway.caller("alice").call("vault__whoami", json!({})).await)["state"], "not_connected");
}

#[tokio::test]
async fn u4_a_link_opens_in_one_browser_and_for_nobody_else() {
    let (_vault, _plain, gateway) = scene().await;
    let lacking = missing(&gateway.caller("alice").call("vault__whoami", json!({})).await);
    let (mut first, mut second) = (Browser::new(gateway.public), Browser::new(gateway.public));
    assert_eq!(open(&mut first, &url(&lacking)).await.status(), 200);
    assert_eq!(open(&mut second, &url(&lacking)).await.status(), 403);
    assert_eq!(open(&mut first, &url(&lacking)).await.status(), 200, "its own browser comes again");
    let mut forged = url(&lacking);
    forged.push('x');
    assert_eq!(open(&mut second, &forged).await.status(), 400);
}

#[tokio::test]
async fn operators_see_connections_without_their_values_and_end_them_at_once() {
    let (_vault, _plain, gateway) = scene().await;
    connect(&gateway, "alice", "right-of-alice").await;
    let reply = gateway.operator("GET", "/api/v1/connections?upstream=vault&state=active", None).await;
    assert!(!reply.text().contains("right-of-alice"), "{}", reply.text());
    let listed = connections(&gateway, "upstream=vault&state=active").await;
    let [connection] = listed.as_slice() else { panic!("{listed:?}") };
    assert_eq!((&connection["holder"], &connection["headers"]), (&json!("key:alice"), &json!(["x-api-key"])));
    assert_eq!(connections(&gateway, "state=orphaned").await, Vec::<Value>::new());
    assert_eq!(gateway.operator("GET", "/api/v1/connections?state=odd", None).await.status, 422);

    whoami(&gateway.caller("alice").call("vault__whoami", json!({})).await);
    let path = format!("/api/v1/connections/{}", connection["id"].as_str().unwrap());
    assert_eq!(gateway.operator("DELETE", &path, None).await.status, 204);
    assert_eq!(missing(&gateway.caller("alice").call("vault__whoami", json!({})).await)["state"], "not_connected");
    assert_eq!(gateway.operator("DELETE", &path, None).await.status, 404);
}

#[tokio::test]
async fn a_client_that_was_sent_to_a_link_hears_when_it_is_connected() {
    let (_vault, _plain, gateway) = scene().await;
    let able = json!({ "elicitation": { "url": {} } });
    let alice = gateway.caller("alice").able(able.clone()).initialize("2025-11-25").await;
    let bob = gateway.caller("bob").able(able).initialize("2025-11-25").await;
    let (mut heard, mut heard_by_bob) = (alice.listen(None).await, bob.listen(None).await);
    let asked = async |session: &portcullis_tests::Caller| {
        let reply = session.request("tools/call", json!({ "name": "vault__whoami", "arguments": {} })).await;
        let error = reply.json()["error"].clone();
        assert_eq!(error["code"], -32042, "{error}");
        error["data"]["elicitations"][0].clone()
    };
    let (first, second, bobs) = (asked(&alice).await, asked(&alice).await, asked(&bob).await);
    let mut browser = Browser::new(gateway.public);
    let page = open(&mut browser, first["url"].as_str().unwrap()).await;
    let page = browser.submit(&page.form("/connect/vault").with("header-x-api-key", "right-of-alice")).await;
    assert!(page.text().contains("Connected"), "{page}");
    let completed = async |stream: &mut portcullis_tests::caller::Stream| loop {
        let message = stream.next().await;
        if message["method"] == "notifications/elicitation/complete" {
            return message["params"]["elicitationId"].clone();
        }
    };
    let told = [completed(&mut heard).await, completed(&mut heard).await];
    assert_eq!(told, [first["elicitationId"].clone(), second["elicitationId"].clone()]);
    // Another one's is theirs alone.
    assert!(connect(&gateway, "bob", "right-of-bob").await.text().contains("Connected"));
    assert_eq!(completed(&mut heard_by_bob).await, bobs["elicitationId"]);
}

#[tokio::test]
async fn clients_that_know_urls_are_asked_to_open_one() {
    let (_vault, _plain, gateway) = scene().await;
    let able = json!({ "elicitation": { "url": {} } });
    let modern = gateway.caller("alice").able(able.clone()).call("vault__whoami", json!({})).await;
    let asked = result(&modern);
    assert_eq!(asked["resultType"], "input_required", "{asked}");
    let request = &asked["inputRequests"]["connect-vault"];
    assert_eq!((&request["method"], &request["params"]["mode"]), (&json!("elicitation/create"), &json!("url")));
    assert!(request["params"]["url"].as_str().unwrap().contains("/connect/link#"), "{asked}");
    assert!(asked["requestState"].is_string());

    let legacy = gateway.caller("alice").able(able).initialize("2025-11-25").await;
    let reply = legacy.request("tools/call", json!({ "name": "vault__whoami", "arguments": {} })).await;
    let error = reply
        .messages()
        .iter()
        .map(|text| serde_json::from_str::<Value>(text).unwrap()["error"].clone())
        .next_back()
        .unwrap();
    assert_eq!(error["code"], -32042, "{error}");
    assert_eq!(error["data"]["elicitations"][0]["mode"], "url", "{error}");
    assert!(error["data"]["elicitations"][0]["url"].as_str().unwrap().contains("/connect/link#"), "{error}");

    let older = gateway.caller("alice").initialize("2025-06-18").await;
    let reply = older.request("tools/call", json!({ "name": "vault__whoami", "arguments": {} })).await;
    assert!(reply.text().contains("/connect/link#"), "{}", reply.text());
}
