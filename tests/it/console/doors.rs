//! The doors of the console: what takes a sign-in that is not old, and the way by a provider.

use std::time::Duration;

use http::StatusCode;
use portcullis::http::api::ROUTES;
use portcullis::http::console::pages;
use portcullis_tests::oauth::Browser;
use portcullis_tests::{Caller, Gateway};
use serde_json::{Value, json};

use super::browser_of;
use crate::operator::roles::PASSWORD;

/// Longer than a sign-in counts as new.
const OLD: Duration = Duration::from_secs(15 * 60);

/// Asks the API to change something, as a page does.
async fn change(browser: &mut Browser, path: &str, body: &Value) -> (u16, Value) {
    let same = ("sec-fetch-site", "same-origin");
    let me = browser.step("GET", "/api/v1/me", "", &[same]).await.json();
    let (origin, token) = (browser.origin.clone(), me["csrf_token"].as_str().unwrap().to_owned());
    let headers = [same, ("origin", &origin[..]), ("x-portcullis-csrf", &token), ("content-type", "application/json")];
    let reply = browser.step("POST", path, &body.to_string(), &headers).await;
    (reply.status.as_u16(), reply.json())
}

#[tokio::test]
async fn h10_who_signed_in_long_ago_shows_once_more_who_they_are_before_a_secret_is_made() {
    let gateway = Gateway::builder().start().await;
    let mut browser = browser_of(&gateway, "operator").await;
    let key = |name: &str| json!({ "name": name });
    assert_eq!(change(&mut browser, "/api/v1/keys", &key("at-once")).await.0, 201);
    gateway.clock.advance(OLD);
    let (status, problem) = change(&mut browser, "/api/v1/keys", &key("too-late")).await;
    assert_eq!((status, &problem["code"]), (403, &json!("step_up_required")), "{problem}");
    assert_eq!(problem["sign_in"], "/sign-in/again");
    let listed = browser.step("GET", "/api/v1/keys", "", &[("sec-fetch-site", "same-origin")]).await;
    assert_eq!(listed.status, StatusCode::OK, "what there is, is shown as before");

    let page = browser.get("/sign-in/again?next=%2F").await;
    let form = page.form("/sign-in/again");
    let wrong = browser.submit(&form.clone().with("password", "another password")).await;
    assert!(wrong.status() == 403 && wrong.text().contains("not your password"), "{wrong}");
    let cookie = browser.jar.named("admin-session").unwrap().1.value.clone();
    let form = wrong.form("/sign-in/again").with("password", PASSWORD);
    let home = browser.submit(&form).await;
    assert!(home.status() == 200 && home.url.ends_with(&format!("{}/", gateway.admin)), "{home}");
    assert_ne!(browser.jar.named("admin-session").unwrap().1.value, cookie);
    assert_eq!(change(&mut browser, "/api/v1/keys", &key("afterwards")).await.0, 201);

    let audit = gateway.operator("GET", "/api/v1/audit?limit=50", None).await.json();
    let renewed = |row: &&Value| row["event"] == "browser.renewed";
    assert_eq!(audit["entries"].as_array().unwrap().iter().filter(renewed).count(), 1, "{audit}");
}

#[tokio::test]
async fn h10_every_page_about_a_secret_asks_whose_sign_in_is_old() {
    let gateway = Gateway::builder().start().await;
    let mut owner = browser_of(&gateway, "owner").await;
    gateway.clock.advance(OLD);
    for row in pages() {
        let path = row.path.replace("{name}", "none").replace("{id}", "none");
        let reply = owner.step(row.method, &path, "", &[("sec-fetch-site", "same-origin")]).await;
        let leads = reply.headers.get("location").map(|to| to.to_str().unwrap().to_owned()).unwrap_or_default();
        let is_asked = leads.starts_with(&format!("http://{}/sign-in/again", gateway.admin));
        assert_eq!(is_asked, row.wants_fresh, "{} {path}: {} {leads}", row.method, reply.status);
    }
    let mut nobody = Browser::new(gateway.admin);
    let page = nobody.get("/sign-in/again?next=%2Fkeys").await;
    assert!(page.find("/sign-in").is_some() && page.find("/sign-in/again").is_none(), "{page}");
    let bare = owner.step("POST", "/sign-in/again", "", &[("sec-fetch-site", "same-origin")]).await;
    assert_eq!(bare.status, StatusCode::FORBIDDEN, "a form that no page of ours has shown");
}

#[tokio::test]
async fn h10_the_api_asks_a_browser_the_same_and_no_program() {
    let gateway = Gateway::builder().start().await;
    let mut owner = browser_of(&gateway, "owner").await;
    let token = std::fs::read_to_string(gateway.dir.path().join("data/operator-token")).unwrap();
    let program = Caller::new(gateway.admin, Some(token.trim().to_owned()));
    gateway.clock.advance(OLD);
    let same = ("sec-fetch-site", "same-origin");
    let me = owner.step("GET", "/api/v1/me", "", &[same]).await.json();
    let (origin, csrf) = (owner.origin.clone(), me["csrf_token"].as_str().unwrap().to_owned());
    let headers = [same, ("origin", &origin[..]), ("x-portcullis-csrf", &csrf), ("content-type", "application/json")];
    for row in ROUTES.iter().filter(|row| row.method != "GET") {
        let path = row.path.replace("{name}", "none").replace("{id}", "none");
        let what = format!("{} {path}", row.method);
        let reply = owner.step(row.method, &path, "{\"zz\":1}", &headers).await;
        let is_asked = !reply.status.is_success() && reply.json()["code"] == "step_up_required";
        assert_eq!(is_asked, row.wants_fresh(), "{what}: {}", reply.text());
        let reply = program.send(row.method, &path, "{\"zz\":1}").await;
        assert!(reply.status.is_success() || reply.json()["code"] != "step_up_required", "{what}: {}", reply.text());
    }
}

#[tokio::test]
async fn how_old_a_sign_in_may_be_is_a_setting() {
    let gateway = Gateway::builder().section("[auth.operators]\nstep_up_after = \"30m\"").start().await;
    let mut browser = browser_of(&gateway, "operator").await;
    gateway.clock.advance(OLD);
    assert_eq!(change(&mut browser, "/api/v1/keys", &json!({ "name": "first" })).await.0, 201);
    gateway.clock.advance(OLD);
    assert_eq!(change(&mut browser, "/api/v1/keys", &json!({ "name": "second" })).await.0, 403);
}

#[tokio::test]
async fn the_way_by_a_provider_begins_at_the_admin_listener_too() {
    // Nobody listens there.
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let provider = format!(
        "[auth.sign_in]\npasswords = false\n[auth.providers.corp]\nissuer = \"http://{gone}\"\nclient_id = \"c\"\nlabel = \"The corporation\"\n[outbound]\nallow = [\"{gone}\"]"
    );
    let gateway = Gateway::builder().section(&provider).start().await;
    let mut browser = Browser::new(gateway.admin);
    let page = browser.get("/sign-in?next=%2Fkeys").await;
    assert!(page.find("/sign-in").is_none() && page.text().contains("Sign in with The corporation"), "{page}");
    assert!(page.links().contains(&"/sign-in/corp?next=%2Fkeys"), "{:?}", page.links());
    let page = browser.get("/sign-in/corp?next=%2Fkeys").await;
    assert!(page.status() == 503 && page.text().contains("did not do its part"), "{page}");
    assert_eq!(browser.get("/sign-in/other").await.status(), 404);
    let page = browser.get("/sign-in/corp/callback?code=x&state=y").await;
    assert!(page.status() == 400 && browser.jar.named("session").is_none(), "{page}");
}
