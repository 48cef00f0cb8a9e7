//! Approvals in the console: what waits, what it is exactly, and yes or no with a note.

use portcullis_tests::upstreams::fixture::{self, Fixture};
use portcullis_tests::{Gateway, Reply};
use serde_json::{Value, json};

use super::browser_of;

/// A gateway on which `delete` waits for somebody to agree.
async fn scene() -> (Fixture, Gateway) {
    let up = Fixture::start().await;
    up.set_tools(vec![fixture::tool("delete")]);
    let policy =
        "[[policies]]\nname = \"confirm\"\nmodule = \"builtin:confirm-destructive\"\nlimits = { time = \"1s\" }\n";
    let gateway = Gateway::builder().http_upstream("up", &up.url).key("alice").section(policy).start().await;
    gateway.until_upstreams_are_up().await;
    (up, gateway)
}

async fn delete(gateway: &Gateway, id: u64) -> Reply {
    gateway.caller("alice").call("up__delete", json!({ "id": id, "why": "<spring>" })).await
}

fn id_of(reply: &Reply) -> String {
    let answer = reply.json();
    let id = answer["result"]["_meta"]["portcullis/approval"]["id"].as_str();
    id.unwrap_or_else(|| panic!("{answer}")).to_owned()
}

async fn approval(gateway: &Gateway, id: &str) -> Value {
    gateway.operator("GET", &format!("/api/v1/approvals/{id}"), None).await.json()
}

#[tokio::test]
async fn what_waits_is_given_with_its_arguments_in_sight_and_goes_once() {
    let (up, gateway) = scene().await;
    let id = id_of(&delete(&gateway, 7).await);
    let mut operator = browser_of(&gateway, "operator").await;
    let list = operator.get("/approvals").await;
    let path = format!("/approvals/{id}");
    assert!(list.links().contains(&path.as_str()) && list.text().contains("Waiting"), "{list}");
    let page = operator.get(&path).await;
    for words in ["key:alice", "delete", "confirm", "\"id\": 7", "<spring>", "it counts for one call"] {
        assert!(page.text().contains(words), "{words}: {page}");
    }
    for link in ["/keys/alice", "/upstreams/up", "/policies/bindings/confirm"] {
        assert!(page.links().contains(&link), "{link}: {page}");
    }
    let form = page.form("/give").with("note", "as you like");
    let page = operator.submit(&form).await;
    assert!(page.text().contains("It is given") && page.text().contains("as you like"), "{page}");
    let users = gateway.operator("GET", "/api/v1/users?login=operator", None).await.json();
    let account = format!("/people/{}", users["users"][0]["id"].as_str().unwrap());
    assert!(page.text().contains("by operator") && page.links().contains(&account.as_str()), "by name: {page}");
    assert!(page.find("/give").is_none() && page.find("/refuse").is_none(), "it is said: {page}");
    let given = approval(&gateway, &id).await;
    assert_eq!((&given["state"], &given["decided"]["note"]), (&json!("approved"), &json!("as you like")));
    assert!(given["decided"]["by"].as_str().unwrap().starts_with("operator:session:"), "{given}");
    let went = delete(&gateway, 7).await.json();
    assert!(went["error"].is_null() && went["result"]["isError"] != true, "{went}");
    assert_eq!(up.stats().calls, 1);
    assert!(operator.get("/approvals").await.text().contains("Nothing waits"));
    assert!(operator.get("/approvals?state=used").await.text().contains("Used"));
    assert_eq!(operator.get("/approvals?state=odd").await.status(), 422);
}

#[tokio::test]
async fn what_is_refused_stays_refused_and_a_viewer_says_nothing() {
    let (up, gateway) = scene().await;
    let id = id_of(&delete(&gateway, 8).await);
    let mut operator = browser_of(&gateway, "operator").await;
    let page = operator.get(&format!("/approvals/{id}")).await;
    let late = operator.get(&format!("/approvals/{id}")).await.form("/give");
    operator.submit(&page.form("/refuse").with("note", "no")).await;
    assert_eq!(approval(&gateway, &id).await["state"], "denied");
    assert_eq!(operator.submit(&late).await.status(), 409, "somebody was faster");
    assert_eq!(approval(&gateway, &id).await["decided"]["note"], "no");
    delete(&gateway, 8).await;
    assert_eq!(up.stats().calls, 0);

    let mut viewer = browser_of(&gateway, "viewer").await;
    let list = viewer.get("/approvals?state=all").await;
    assert!(list.text().contains("Refused"), "{list}");
    assert!(!list.links().iter().any(|link| link.starts_with("/approvals/")), "{list}");
    assert_eq!(viewer.get(&format!("/approvals/{id}")).await.status(), 403);
}
