//! `/me`: one's own password, and one's own API tokens.

use http::StatusCode;
use portcullis_tests::oauth::Page;
use portcullis_tests::{Caller, Gateway};
use serde_json::json;

use super::browser_of;
use crate::operator::roles::{PASSWORD, signed_in};

/// The secret that a page tells.
fn secret(page: &Page) -> String {
    let told = page.elements.iter().find(|element| element.attribute("id") == Some("secret"));
    told.unwrap_or_else(|| panic!("{page}")).text.clone()
}

#[tokio::test]
async fn h11_a_token_is_made_shown_once_and_revoked() {
    let gateway = Gateway::builder().start().await;
    let mut viewer = browser_of(&gateway, "viewer").await;
    let mut owner = browser_of(&gateway, "owner").await;
    let new = "/me/tokens/new";
    let form = viewer.get(new).await.form(new).with("name", "ci").with("scope-keys", "on");
    let refused = viewer.submit(&form.with("role", "owner")).await;
    assert_eq!(refused.status(), 403, "{refused}");
    let again = refused.form(new);
    assert_eq!(
        (again.field("name"), again.field("scope-keys"), again.field("role")),
        (Some("ci"), Some("on"), Some("viewer"))
    );
    let made = viewer.submit(&again.with("expires", "2030-01-31T12:00")).await;
    let secret = secret(&made);
    assert!(made.status() == 200 && secret.starts_with("pat_"), "{made}");
    let holder = Caller::new(gateway.admin, Some(secret.clone()));
    assert_eq!(holder.send("GET", "/api/v1/keys", "").await.status, StatusCode::OK);
    assert_eq!(holder.send("GET", "/api/v1/users", "").await.status, StatusCode::FORBIDDEN);
    let token = gateway.operator("GET", "/api/v1/api-tokens", None).await.json()["api_tokens"][0].clone();
    assert_eq!((&token["role"], &token["scopes"]), (&json!("viewer"), &json!(["keys"])));
    assert_eq!(token["expires"], "2030-01-31T12:00:00.000Z");

    let own = viewer.get("/me").await.text();
    assert!(own.contains("ci") && !own.contains(&secret), "{own}");
    let mut operator = browser_of(&gateway, "operator").await;
    let revoke = format!("/me/tokens/{}/revoke", token["id"].as_str().unwrap());
    assert_eq!(operator.get(&revoke).await.status(), 404, "it is not told that there is one");
    assert_eq!(viewer.get("/me/tokens").await.status(), 403);
    let everybody = owner.get("/me/tokens").await;
    assert!(everybody.links().contains(&revoke.as_str()), "owners see everybody's");
    let theirs = owner.get(&format!("/me/tokens?user={}", token["user"].as_str().unwrap())).await;
    assert!(theirs.text().contains("API tokens of viewer"), "{theirs}");
    let form = viewer.get(&revoke).await.form(&revoke);
    let page = viewer.submit(&form).await;
    assert!(page.status() == 200 && page.text().contains("It counts no more."), "{page}");
    assert_eq!(holder.send("GET", "/api/v1/keys", "").await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn somebody_changes_their_password_and_stays_signed_in_here_alone() {
    let gateway = Gateway::builder().start().await;
    let mut here = browser_of(&gateway, "viewer").await;
    let mut there = signed_in(&gateway, "viewer").await;
    let path = "/me/password";
    let form = here.get(path).await.form(path).with("old", PASSWORD).with("new", "another passphrase");
    let refused = here.submit(&form.with("repeated", "another passphrasf")).await;
    assert_eq!((refused.status(), refused.form(path).field("new")), (422, Some("")), "{refused}");
    let form = refused.form(path).with("old", PASSWORD).with("new", "short").with("repeated", "short");
    let refused = here.submit(&form).await;
    assert_eq!(refused.status(), 422, "{refused}");
    let form = refused.form(path).with("old", PASSWORD);
    let page = here.submit(&form.with("new", "another passphrase").with("repeated", "another passphrase")).await;
    assert!(page.status() == 200 && page.text().contains("The password is another one."), "{page}");
    let own = here.get("/me").await;
    assert!(own.status() == 200 && !own.url.contains("/sign-in"), "{own}");
    assert!(there.get("/me").await.url.contains("/sign-in"), "every other browser is signed out");
}
