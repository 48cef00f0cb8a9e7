//! What the gateway runs with, its signing keys, its vault and its store.

use http::StatusCode;
use portcullis_tests::Gateway;
use serde_json::{Value, json};

use super::browser_of;

async fn signing_keys(gateway: &Gateway) -> Vec<Value> {
    gateway.operator("GET", "/api/v1/signing-keys", None).await.json()["signing_keys"].as_array().unwrap().clone()
}

#[tokio::test]
async fn every_setting_is_shown_under_its_key_and_no_secret_is() {
    let section = "[edge]\ndrain_delay = \"1500ms\"\n[auth.providers.idp]\nissuer = \"https://idp.example\"\nclient_id = \"gate\"\nclient_secret = \"file:idp.secret\"\n";
    let gateway = Gateway::builder().file("idp.secret", b"hush-hush-hush-hush").section(section).start().await;
    let settings = gateway.operator("GET", "/api/v1/settings", None).await;
    assert!(!settings.text().contains("hush"), "{}", settings.text());
    let settings = settings.json();
    let rows = settings["settings"].as_array().unwrap();
    let value =
        |key: &str| rows.iter().find(|row| row["key"] == key).unwrap_or_else(|| panic!("{key}"))["value"].clone();
    assert_eq!(value("edge.drain_delay"), "1s 500ms");
    assert_eq!(value("listen.public"), gateway.public.to_string());
    assert_eq!(value("auth.providers.idp.client_secret"), "(from a reference)");
    assert_eq!((&settings["awaits_restart"], &settings["refused"]), (&json!(false), &Value::Null));

    let mut viewer = browser_of(&gateway, "viewer").await;
    let page = viewer.get("/settings").await;
    let html = page.reply.text();
    for said in [
        "edge.drain_delay",
        "1s 500ms",
        "auth.providers.idp.client_secret",
        gateway.public.to_string().as_str(),
        "portcullis.toml",
    ] {
        assert!(html.contains(said), "{said}: {html}");
    }
    assert!(!html.contains("hush"), "{html}");
}

#[tokio::test]
async fn what_waits_for_the_next_start_is_shown_beside_what_holds() {
    let gateway = Gateway::builder().section("[mcp]\nlegacy_sse = false\n").start().await;
    let changed = std::fs::read_to_string(&gateway.file).unwrap().replace("legacy_sse = false", "legacy_sse = true");
    gateway.replace("portcullis.toml", changed.as_bytes());
    let settings = gateway.until("/api/v1/settings", |settings| settings["awaits_restart"] == true).await;
    let row =
        settings["settings"].as_array().unwrap().iter().find(|row| row["key"] == "mcp.legacy_sse").unwrap().clone();
    assert_eq!((&row["value"], &row["next"], &row["effect"]), (&json!(false), &json!(true), &json!("start")));
    let mut viewer = browser_of(&gateway, "viewer").await;
    let text = viewer.get("/settings").await.text();
    assert!(text.contains("Waits for the next start:") && text.contains("from the next start"), "{text}");
    assert!(viewer.get("/").await.text().contains("takes effect at the next start"));
}

#[tokio::test]
async fn signing_keys_are_rotated_by_operators_and_taken_out_by_owners() {
    let gateway = Gateway::builder().section("[auth.tokens]\nalgorithm = \"EdDSA\"\n").start().await;
    let first = signing_keys(&gateway).await[0]["kid"].as_str().unwrap().to_owned();
    let (path, rotate) = ("/settings/signing-keys", "/settings/signing-keys/rotate");
    let revoke = format!("{path}/{first}/revoke");

    let mut viewer = browser_of(&gateway, "viewer").await;
    let page = viewer.get(path).await;
    assert!(page.text().contains(&first) && page.find(rotate).is_none(), "{page}");

    let mut operator = browser_of(&gateway, "operator").await;
    let page = operator.get(path).await;
    assert!(!page.links().contains(&revoke.as_str()), "{page}");
    let published = operator.submit(&page.form(rotate).with("when", "announced")).await;
    assert!(published.text().contains("The next key is published"), "{published}");
    assert_eq!(signing_keys(&gateway).await.len(), 2);
    let refused = operator.submit(&published.form(rotate).with("when", "never")).await;
    assert_eq!(refused.status(), 422, "{refused}");
    assert_eq!(operator.get(&revoke).await.status(), 403);

    let mut owner = browser_of(&gateway, "owner").await;
    let page = owner.get(path).await;
    assert!(page.links().contains(&revoke.as_str()), "{page}");
    let asked = owner.get(&revoke).await;
    assert!(asked.text().contains("counts no more"), "{asked}");
    let gone = owner.submit(&asked.form(&revoke)).await;
    assert!(gone.text().contains("The key is taken out"), "{gone}");
    let left = signing_keys(&gateway).await;
    assert!(
        left.iter().all(|key| key["kid"] != first.as_str()) && left.iter().any(|key| key["signs"] == true),
        "{left:?}"
    );
    assert_eq!(owner.get(&revoke).await.status(), 404);
}

#[tokio::test]
async fn the_vault_is_checked_by_operators_and_rewrapped_by_owners() {
    let gateway = Gateway::builder().on_disk().start().await;
    let mut operator = browser_of(&gateway, "operator").await;
    let page = operator.get("/settings/vault").await;
    assert!(page.text().contains("current") && page.find("/settings/vault/rewrap").is_none(), "{page}");
    let found = operator.submit(&page.form("/settings/vault/verify")).await;
    assert_eq!(found.status(), 200, "{found}");
    assert!(found.text().contains("Nothing that was looked at is unreadable."), "{found}");
    let mut owner = browser_of(&gateway, "owner").await;
    let page = owner.get("/settings/vault").await;
    assert!(page.find("/settings/vault/rotate").is_none(), "there is nothing to rotate to: {page}");
    let done = owner.submit(&page.form("/settings/vault/rewrap")).await;
    assert!(done.text().contains("Data keys were wrapped anew") && done.text().contains("that is all"), "{done}");
    let vault = gateway.operator("GET", "/api/v1/vault", None).await.json();
    assert_eq!(vault["rewrapping"]["done"], true, "{vault}");
}

#[tokio::test]
async fn the_store_is_looked_at_checked_and_backed_up() {
    let gateway = Gateway::builder().on_disk().start().await;
    let mut viewer = browser_of(&gateway, "viewer").await;
    let page = viewer.get("/settings/store").await;
    assert!(page.text().contains("users") && page.links().iter().all(|link| !link.contains("backup")), "{page}");
    let mut owner = browser_of(&gateway, "owner").await;
    let page = owner.get("/settings/store").await;
    assert!(page.links().contains(&"/settings/store/backup"), "{page}");
    assert!(owner.get("/settings/store/verify").await.text().contains("Indexes and tables agree"));
    // A link of a page of ours, as the browser follows it.
    let backup = owner.step("GET", "/api/v1/store/backup", "", &[("sec-fetch-site", "same-origin")]).await;
    assert_eq!(backup.status, StatusCode::OK);
    assert_eq!(backup.header("content-type"), "application/octet-stream");
    let events = gateway.operator("GET", "/api/v1/audit?limit=200", None).await.json();
    assert!(events["entries"].as_array().unwrap().iter().any(|entry| entry["event"] == "backup.taken"), "{events}");
}
