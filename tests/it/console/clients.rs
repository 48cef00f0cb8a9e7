//! `/clients`: a client is added, changed, given another secret and deleted, and the trail tells what changed.

use portcullis_tests::Gateway;
use portcullis_tests::oauth::Page;
use serde_json::{Value, json};

use super::browser_of;

fn secret(page: &Page) -> String {
    let told = page.elements.iter().find(|element| element.attribute("id") == Some("secret"));
    told.unwrap_or_else(|| panic!("{page}")).text.clone()
}

async fn last(gateway: &Gateway, event: &str) -> Value {
    let trail = gateway.operator("GET", "/api/v1/audit?limit=50", None).await.json();
    let entries = trail["entries"].as_array().unwrap();
    let entry = entries.iter().find(|entry| entry["event"] == event);
    entry.unwrap_or_else(|| panic!("no {event}: {trail}"))["detail"].clone()
}

#[tokio::test]
async fn a_client_is_added_changed_and_deleted() {
    let gateway = Gateway::builder().start().await;
    let mut operator = browser_of(&gateway, "operator").await;
    let new = "/clients/new";
    let form = operator.get(new).await.form(new).with("client_name", "An <app>");
    let form = form.with("token_endpoint_auth_method", "client_secret_basic");
    let refused = operator.submit(&form).await;
    assert_eq!(refused.status(), 422, "it leads nowhere: {refused}");
    let again = refused.form(new);
    assert_eq!(again.field("client_name"), Some("An <app>"));
    assert_eq!(again.field("grant-refresh_token"), Some("on"));
    let odd = operator.submit(&again.with("jwks", "{")).await;
    let is_open = odd.elements.iter().any(|element| element.name == "details" && element.attribute("open").is_some());
    assert!(odd.status() == 422 && is_open, "what was filled in is in sight: {odd}");
    let again = odd.form(new).with("jwks", "");
    let uris = "https://app.example/callback\nhttps://app.example/other";
    let made = operator.submit(&again.with("redirect_uris", uris)).await;
    let first = secret(&made);
    assert!(made.status() == 200 && made.text().contains("told this once"), "{made}");
    let client = gateway.operator("GET", "/api/v1/clients", None).await.json()["clients"][0].clone();
    let id = client["client_id"].as_str().unwrap();
    assert_eq!(client["redirect_uris"].as_array().unwrap().len(), 2, "{client}");
    let registered = last(&gateway, "client.registered").await;
    assert_eq!((&registered["name"], &registered["redirect_uris"]), (&json!("An <app>"), &client["redirect_uris"]));

    let (path, change) = (format!("/clients/{id}"), format!("/clients/{id}/change"));
    let shown = operator.get(&path).await;
    assert!(shown.text().contains("An <app>") && !shown.text().contains(&first), "{shown}");
    let stale = operator.get(&change).await.form(&change).with("client_name", "Eve's");
    let form = operator.get(&change).await.form(&change).with("client_name", "Ours").with("scope", "");
    let page = operator.submit(&form.with("contacts", "ops@app.example")).await;
    assert!(page.status() == 200 && page.text().contains("It is changed."), "{page}");
    let updated = last(&gateway, "client.updated").await;
    let changes = json!([
        { "field": "client_name", "from": "An <app>", "to": "Ours" },
        { "field": "contacts", "from": null, "to": r#"["ops@app.example"]"# },
    ]);
    assert_eq!(updated["changes"], changes);
    assert_eq!(operator.submit(&stale).await.status(), 412);

    let another = format!("{path}/secret");
    let form = operator.get(&another).await.form(&another);
    let second = secret(&operator.submit(&form).await);
    assert_ne!(first, second);
    let trail = gateway.operator("GET", "/api/v1/audit?limit=50", None).await;
    assert!(!trail.text().contains(&first) && !trail.text().contains(&second));
    assert_eq!(
        last(&gateway, "client.updated").await["changes"],
        json!([{ "field": "client_secret", "from": null, "to": null }])
    );

    let remove = format!("{path}/remove");
    let form = operator.get(&remove).await.form(&remove);
    let page = operator.submit(&form).await;
    assert!(page.url.contains("/clients?") && page.text().contains("It is removed."), "{page}");
    assert_eq!(operator.get(&path).await.status(), 404);
}

#[tokio::test]
async fn who_may_look_sees_clients_and_nothing_to_press() {
    let gateway = Gateway::builder().start().await;
    let mut viewer = browser_of(&gateway, "viewer").await;
    assert!(viewer.get("/clients").await.text().contains("There are none."));
    let client = json!({ "client_name": "An app", "redirect_uris": ["https://app.example/callback"] });
    let made = gateway.operator("POST", "/api/v1/clients", Some(client)).await.json();
    let path = format!("/clients/{}", made["client_id"].as_str().unwrap());
    let list = viewer.get("/clients").await;
    assert!(list.links().contains(&path.as_str()) && !list.links().contains(&"/clients/new"), "{list}");
    for (origin, is_there) in [("operator", true), ("registered", false), ("file", false)] {
        let list = viewer.get(&format!("/clients?origin={origin}")).await;
        assert_eq!(list.links().contains(&path.as_str()), is_there, "{origin}: {list}");
    }
    assert_eq!(viewer.get("/clients?origin=heaven").await.status(), 422);
    let page = viewer.get(&path).await;
    assert!(page.text().contains("https://app.example/callback"), "{page}");
    assert!(!page.links().iter().any(|link| link.ends_with("/remove") || link.ends_with("/change")), "{page}");
    assert_eq!(viewer.get("/clients/new").await.status(), 403);
    // An id may be an address: one that nobody knows is not found, and nothing else.
    assert_eq!(viewer.get("/clients/https%3A%2F%2Fapp.example%2Fclient.json").await.status(), 404);
}
