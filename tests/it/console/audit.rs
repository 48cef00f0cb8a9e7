//! `/audit`: the list, what narrows it, and one entry.

use portcullis_tests::Gateway;
use serde_json::json;

use super::browser_of;

#[tokio::test]
async fn the_list_is_narrowed_and_leads_to_each_entry() {
    let gateway = Gateway::builder().start().await;
    for name in ["first", "second"] {
        gateway.operator("POST", "/api/v1/keys", Some(json!({ "name": name }))).await;
    }
    let mut viewer = browser_of(&gateway, "viewer").await;
    for (query, first, started) in [
        ("", true, true),
        ("?event=key", true, false),
        ("?event=gateway.started", false, true),
        ("?actor=operator%3Asocket", true, false),
        ("?subject=first", true, false),
        ("?subject=none", false, false),
    ] {
        let page = viewer.get(&format!("/audit{query}")).await;
        assert_eq!(page.status(), 200, "{query}");
        let text = page.text();
        let shows = (text.contains("key=first"), text.contains("gateway.started"));
        assert_eq!(shows, (first, started), "{query}: {text}");
    }
    let audit = gateway.operator("GET", "/api/v1/audit?subject=first", None).await.json();
    let entries = audit["entries"].as_array().unwrap();
    assert_eq!(entries.len(), 1, "{audit}");
    let sequence = entries[0]["sequence"].as_u64().unwrap();
    let page = viewer.get(&format!("/audit/{sequence}")).await;
    assert!(page.text().contains("key.created"), "{}", page.text());
    assert!(page.links().iter().any(|link| link.ends_with("/keys/first")));
    let deleted = gateway.operator("DELETE", "/api/v1/keys/first", None).await;
    assert!(deleted.status.is_success(), "{}", deleted.text());
    let page = viewer.get(&format!("/audit/{sequence}")).await;
    assert!(page.text().contains("first"), "{}", page.text());
    assert!(!page.links().iter().any(|link| link.ends_with("/keys/first")), "it is gone: {page}");
    assert_eq!(viewer.get("/audit/999999").await.status(), 404);
    assert_eq!(viewer.get("/audit/none").await.status(), 404);
}

#[tokio::test]
async fn an_entry_says_what_was_changed() {
    let gateway = Gateway::builder().start().await;
    let mut viewer = browser_of(&gateway, "viewer").await;
    let users = gateway.operator("GET", "/api/v1/users?login=viewer", None).await.json();
    let path = format!("/api/v1/users/{}", users["users"][0]["id"].as_str().unwrap());
    let changed = gateway.operator("PATCH", &path, Some(json!({ "name": "Ada of the night shift" }))).await;
    assert!(changed.status.is_success(), "{}", changed.text());
    let audit = gateway.operator("GET", "/api/v1/audit?event=user.changed&limit=1", None).await.json();
    let entry = audit["entries"][0]["sequence"].as_u64().unwrap();
    let text = viewer.get(&format!("/audit/{entry}")).await.text();
    assert!(text.contains("What was changed") && text.contains("Ada of the night shift"), "{text}");
}
