//! The console, as browsers see it without scripts: forms that are filled in and sent, and the pages that come of it.

use http::StatusCode;
use portcullis::http::console::{DOORS, pages};
use portcullis::identity::user::Role;
use portcullis_tests::Gateway;
use portcullis_tests::oauth::Browser;
use serde_json::Value;

use crate::operator::roles::{person, signed_in};

mod approvals;
mod audit;
mod clients;
mod connections;
mod decisions;
mod doors;
mod grants;
mod keys;
mod me;
mod overview;
mod people;
mod policies;
mod settings;
mod upstreams;

/// A browser in which a person with this role, and that name, is signed in.
pub(crate) async fn browser_of(gateway: &Gateway, role: &str) -> Browser {
    person(gateway, role, role).await;
    signed_in(gateway, role).await
}

#[tokio::test]
async fn h10_every_page_lets_those_in_whom_its_row_names() {
    let gateway = Gateway::builder().start().await;
    let mut nobody = Browser::new(gateway.admin);
    let mut viewer = browser_of(&gateway, "viewer").await;
    let mut operator = browser_of(&gateway, "operator").await;
    for row in pages() {
        let path = row.path.replace("{name}", "none").replace("{id}", "none");
        let role = row.role.unwrap_or_else(|| panic!("{path} is open to everybody"));
        assert!(role >= Role::Viewer, "{path}");
        let headers = [("sec-fetch-site", "same-origin")];
        let reply = nobody.step(row.method, &path, "", &headers).await;
        assert_eq!(reply.status, StatusCode::SEE_OTHER, "{} {path}", row.method);
        let leads = reply.headers["location"].to_str().unwrap();
        assert!(leads.starts_with(&format!("http://{}/sign-in", gateway.admin)), "{path} leads to {leads}");
        for (browser, own) in [(&mut viewer, Role::Viewer), (&mut operator, Role::Operator)] {
            if own < role {
                let reply = browser.step(row.method, &path, "", &headers).await;
                assert_eq!(reply.status, StatusCode::FORBIDDEN, "{own}: {} {path}", row.method);
            } else if row.method == "POST" {
                // Without a form of ours nothing happens, whoever asks.
                let reply = browser.step(row.method, &path, "", &headers).await;
                assert_eq!(reply.status, StatusCode::FORBIDDEN, "{own}: {} {path}", row.method);
                let audit = gateway.operator("GET", "/api/v1/audit?limit=1", None).await.json();
                let actor = audit["entries"][0]["actor"].as_str().unwrap().to_owned();
                assert!(!actor.starts_with("operator:session"), "{path}: {actor}");
            } else {
                let reply = browser.step(row.method, &path, "", &headers).await;
                assert!(matches!(reply.status.as_u16(), 200 | 303 | 404), "{own}: {path}: {}", reply.status);
            }
        }
    }
    assert!(DOORS.iter().all(|row| row.role.is_none()));
}

#[tokio::test]
async fn h10_a_form_is_for_one_address_in_one_browser_and_counts_once() {
    let gateway = Gateway::builder().start().await;
    let mut operator = browser_of(&gateway, "operator").await;
    let page = operator.get("/keys/new").await;
    let form = page.form("/keys/new").with("name", "first");
    let mut thief = operator.copy();
    thief.headers.push(("origin".to_owned(), "https://evil.example".to_owned()));
    assert_eq!(thief.submit_once(&form).await.1.status, StatusCode::FORBIDDEN, "a page of somebody else");
    let mut elsewhere = form.clone();
    elsewhere.action = "/keys/none/remove".to_owned();
    assert_eq!(operator.submit_once(&elsewhere).await.1.status, StatusCode::FORBIDDEN, "another address");
    let mut other = signed_in(&gateway, "operator").await;
    assert_eq!(other.submit_once(&form).await.1.status, StatusCode::FORBIDDEN, "another browser");
    assert!(operator.submit_once(&form).await.1.status.is_success());
    assert_eq!(operator.submit_once(&form).await.1.status, StatusCode::FORBIDDEN, "sent twice");
    let keys = gateway.operator("GET", "/api/v1/keys", None).await.json();
    let made = |key: &&Value| key["name"] == "first";
    assert_eq!(keys["keys"].as_array().unwrap().iter().filter(made).count(), 1, "{keys}");
}
