//! `/people`: each thing that is done to an account, once through its page, and what came of it in the API.

use portcullis_tests::Gateway;
use portcullis_tests::oauth::Browser;
use serde_json::{Value, json};

use super::browser_of;
use crate::operator::roles::{PASSWORD, person, signed_in};

async fn account(gateway: &Gateway, id: &str) -> Value {
    gateway.operator("GET", &format!("/api/v1/users/{id}"), None).await.json()
}

/// Sends the form of this address, from the page that has it.
async fn press(browser: &mut Browser, page: &str, action: &str) -> String {
    let form = browser.get(page).await.form(action);
    let after = browser.submit(&form).await;
    assert_eq!(after.status(), 200, "{action}: {after}");
    after.text()
}

#[tokio::test]
async fn an_account_is_made_changed_and_deleted() {
    let gateway = Gateway::builder().start().await;
    let mut owner = browser_of(&gateway, "owner").await;
    let form = owner.get("/people/new").await.form("/people/new").with("login", "ada").with("name", "Ada");
    let form = form.with("role", "viewer").with("groups", " ops  night ").with("password", "short");
    let refused = owner.submit(&form).await;
    assert_eq!(refused.status(), 422, "{refused}");
    let again = refused.form("/people/new");
    assert_eq!((again.field("login"), again.field("role")), (Some("ada"), Some("viewer")));
    assert_eq!(again.field("password"), Some(""), "no secret is shown again");
    let page = owner.submit(&again.with("password", PASSWORD)).await;
    assert!(page.status() == 200 && page.text().contains("It is added."), "{page}");
    let made = gateway.operator("GET", "/api/v1/users?login=ada", None).await.json()["users"][0].clone();
    assert_eq!((&made["role"], &made["groups"]), (&json!("viewer"), &json!(["ops", "night"])));

    let id = made["id"].as_str().unwrap();
    let (path, change) = (format!("/people/{id}"), format!("/people/{id}/change"));
    let stale = owner.get(&change).await.form(&change).with("name", "Eve");
    let form = owner.get(&change).await.form(&change);
    assert_eq!(form.field("groups"), Some("ops night"));
    let page = owner.submit(&form.with("name", "Ada <b>").with("email", "Ada@example.com").with("groups", "")).await;
    assert!(page.text().contains("Ada <b>") && page.text().contains("It is changed."), "{page}");
    let changed = account(&gateway, id).await;
    assert_eq!((&changed["name"], &changed["email"]), (&json!("Ada <b>"), &json!("ada@example.com")));
    assert_eq!((&changed["groups"], &changed["revision"]), (&json!([]), &json!(2)));
    assert_eq!(owner.submit(&stale).await.status(), 412, "it is of what is not there any more");
    assert_eq!(account(&gateway, id).await["name"], "Ada <b>");

    let suspend = format!("{path}/suspend");
    assert!(owner.get(&path).await.find("/suspend").is_none(), "it is asked about first");
    let said = press(&mut owner, &suspend, &suspend).await;
    assert!(said.contains("suspended"), "{said}");
    assert_eq!(account(&gateway, id).await["status"], "suspended");
    press(&mut owner, &path, &format!("{path}/activate")).await;
    assert_eq!(account(&gateway, id).await["status"], "active");

    let mut ada = signed_in(&gateway, "ada").await;
    assert!(owner.get(&path).await.text().contains("portcullis-tests"), "the browser is shown");
    press(&mut owner, &format!("{path}/sign-out"), &format!("{path}/sign-out")).await;
    assert!(ada.get("/").await.url.contains("/sign-in"));

    let password = format!("{path}/password");
    let form = owner.get(&password).await.form(&password).with("password", "ada");
    assert_eq!(owner.submit(&form).await.status(), 422);
    let form = owner.get(&password).await.form(&password).with("password", "another passphrase");
    assert!(owner.submit(&form).await.text().contains("The password is another one."));
    let taken = format!("{path}/password/remove");
    press(&mut owner, &taken, &taken).await;
    assert_eq!(account(&gateway, id).await["has_password"], false);

    let removed = press(&mut owner, &format!("{path}/remove"), &format!("{path}/remove")).await;
    assert!(removed.contains("It is removed."), "{removed}");
    assert_eq!(account(&gateway, id).await["status"], "deleted");
    let page = owner.get(&path).await;
    assert!(
        page.status() == 200 && !page.links().contains(&&suspend[..]) && page.find("/activate").is_none(),
        "{page}"
    );
}

#[tokio::test]
async fn people_are_looked_for_by_name_role_and_status() {
    let gateway = Gateway::builder().start().await;
    let mut viewer = browser_of(&gateway, "viewer").await;
    person(&gateway, "ada", "owner").await;
    person(&gateway, "bob", "user").await;
    let all = viewer.get("/people").await.text();
    assert!(all.contains("ada") && all.contains("bob") && all.contains("never"), "{all}");
    for (query, ada, bob) in [("q=AD", true, false), ("role=user", false, true), ("status=suspended&q=", false, false)]
    {
        let page = viewer.get(&format!("/people?{query}")).await;
        let links = page.links().into_iter().filter(|link| link.starts_with("/people/")).count();
        let text = page.text();
        assert_eq!((text.contains("ada"), text.contains("bob")), (ada, bob), "{query}: {text}");
        assert_eq!(links, usize::from(ada) + usize::from(bob), "{query}");
    }
    assert_eq!(viewer.get("/people?role=king").await.status(), 422);
    assert_eq!(viewer.get("/people/000000000000000000000000").await.status(), 404);
}

#[tokio::test]
async fn h11_only_owners_are_offered_to_touch_accounts_with_a_role() {
    let gateway = Gateway::builder().start().await;
    let mut viewer = browser_of(&gateway, "viewer").await;
    let mut operator = browser_of(&gateway, "operator").await;
    let (owner, user) = (person(&gateway, "ada", "owner").await, person(&gateway, "bob", "user").await);
    let suspend = |id: &str| format!("/people/{id}/suspend");
    assert!(!viewer.get(&format!("/people/{user}")).await.links().contains(&&suspend(&user)[..]));
    let refused = viewer.get("/people/new").await;
    assert_eq!(refused.status(), 403);
    assert!(
        refused.links().contains(&"/people") && refused.links().contains(&"/decisions"),
        "it has ways on: {refused}"
    );
    assert!(!operator.get(&format!("/people/{owner}")).await.links().contains(&&suspend(&owner)[..]));
    assert!(operator.get(&format!("/people/{user}")).await.links().contains(&&suspend(&user)[..]));
    for form in ["change", "password", "suspend", "sign-out", "remove"] {
        assert_eq!(operator.get(&format!("/people/{owner}/{form}")).await.status(), 403, "{form}");
        assert_eq!(operator.get(&format!("/people/{user}/{form}")).await.status(), 200, "{form}");
    }
    // A form that was offered while the account had no role does nothing any more.
    let change = format!("/people/{user}/change");
    let form = operator.get(&change).await.form(&change).with("name", "Eve");
    let path = format!("/api/v1/users/{user}");
    gateway.operator("PATCH", &path, Some(json!({ "role": "viewer" }))).await;
    assert_eq!(operator.submit(&form).await.status(), 403);
    assert_eq!(account(&gateway, &user).await["name"], "");
    gateway.operator("PATCH", &path, Some(json!({ "role": "user" }))).await;
    let form = operator.get("/people/new").await.form("/people/new").with("login", "eve").with("role", "owner");
    let refused = operator.submit(&form).await;
    assert_eq!((refused.status(), refused.form("/people/new").field("login")), (403, Some("eve")), "{refused}");
    press(&mut operator, &suspend(&user), &suspend(&user)).await;
    assert_eq!(account(&gateway, &user).await["status"], "suspended");
}
