//! The authorization server: people, browsers and clients around a running gateway. Tests are named after the rows of the
//! threat model that they hold.

use std::time::Duration;

use portcullis_tests::gateway::Builder;
use portcullis_tests::oauth::client::{Begun, CALLBACK};
use portcullis_tests::oauth::{Browser, Client, Form, Page, Tokens};
use portcullis_tests::upstreams::fixture::Fixture;
use portcullis_tests::{Gateway, Reply};
use serde_json::{Value, json};

mod authorize;
mod callers;
mod clients;
mod codes;
mod consent;
mod device;
mod differential;
mod faults;
mod flows;
mod introspection;
mod keys;
mod lives;
mod pages;
mod postgres;
mod refresh;
mod rmcp;
mod routes;
mod spills;
mod stopped;
mod storms;
mod trails;

/// Longer than any grace.
const AFTER_GRACE: Duration = Duration::from_secs(61);
/// Longer than an access token lives.
const AFTER_ACCESS: Duration = Duration::from_secs(11 * 60);

const PASSWORD: &str = "correct horse battery staple";

/// Whom somebody chooses to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    /// The person with this login.
    Person(&'static str),
    /// The virtual key of this name.
    Key(&'static str),
    Guest,
}

const EVERYBODY: [Who; 3] = [Who::Person("ann"), Who::Key("alice"), Who::Guest];

/// An upstream `up`, and in front of it a gateway with the key `alice` and guests.
fn gateway_with(up: &Fixture, settings: &str) -> Builder {
    let builder = Gateway::builder().http_upstream("up", &up.url).http_upstream("other", &up.url).key("alice");
    builder.section(&format!("[auth]\nguests = true\n{settings}"))
}

/// The same, running, with the person `ann`.
async fn scene() -> (Fixture, Gateway) {
    scene_with("").await
}

async fn scene_with(settings: &str) -> (Fixture, Gateway) {
    let up = Fixture::start().await;
    let gateway = gateway_with(&up, settings).start().await;
    gateway.until_upstreams_are_up().await;
    add_person(&gateway, "ann").await;
    (up, gateway)
}

/// Makes an account with a password.
pub(crate) async fn add_person(gateway: &Gateway, login: &str) {
    let user = json!({ "login": login, "name": login, "password": PASSWORD });
    let made = gateway.operator("POST", "/api/v1/users", Some(user)).await;
    assert_eq!(made.status, 201, "{}", made.text());
}

pub(crate) async fn client_of(gateway: &Gateway) -> Client {
    Client::register(gateway.public, "/mcp").await
}

/// Brings a request to the gateway, and the browser to the page that asks as whom to go on.
async fn arrive(browser: &mut Browser, begun: &Begun) -> Page {
    let page = browser.get(&begun.url).await;
    assert_eq!(page.status(), 200, "{page}");
    page
}

/// Signs in on the page with the form for it.
async fn sign_in(browser: &mut Browser, page: &Page, login: &str, password: &str) -> Page {
    let form = page.form("/sign-in").with("login", login).with("password", password);
    browser.submit(&form).await
}

/// Chooses who to be, on the page that asks. Returns the page that follows.
async fn choose(browser: &mut Browser, page: Page, who: Who) -> Page {
    let page = match who {
        Who::Person(login) if !offers(&page, "person") => {
            let link = page.links().into_iter().find(|link| link.contains("/sign-in")).map(ToOwned::to_owned);
            let link = link.unwrap_or_else(|| panic!("nowhere to sign in on {page}"));
            let form = browser.get(&link).await;
            sign_in(browser, &form, login, PASSWORD).await
        }
        _ => page,
    };
    let form = identity(&page, who);
    browser.submit(&form).await
}

/// Whether somebody may be chosen by this word.
fn offers(page: &Page, identity: &str) -> bool {
    identity_form(page, identity).is_some()
}

fn identity_form(page: &Page, identity: &str) -> Option<Form> {
    page.forms().into_iter().find(|form| form.action.ends_with("/identity") && form.field("identity") == Some(identity))
}

/// The form that says who somebody is, filled in.
fn identity(page: &Page, who: Who) -> Form {
    let word = match who {
        Who::Person(_) => "person",
        Who::Key(_) => "key",
        Who::Guest => "guest",
    };
    let form = identity_form(page, word).unwrap_or_else(|| panic!("{word} cannot be chosen on {page}"));
    match who {
        Who::Key(name) => form.with("key", &Gateway::secret(name)),
        _ => form,
    }
}

/// Goes all the way from the request to the address that the client gets.
async fn consent(browser: &mut Browser, begun: &Begun, who: Who) -> String {
    let page = arrive(browser, begun).await;
    let page = choose(browser, page, who).await;
    let page = browser.submit(&page.form("/finish")).await;
    assert!(!page.url.starts_with('/'), "it does not end with the client: {page}");
    page.url
}

/// The same up to the tokens.
pub(crate) async fn sign_in_as(gateway: &Gateway, client: &Client, who: Who) -> Tokens {
    let (begun, mut browser) = (client.begin(), Browser::new(gateway.public));
    let url = consent(&mut browser, &begun, who).await;
    Tokens::of(&client.redeem(&begun, &client.code(&begun, &url)).await)
}

/// A client with tokens of the person `ann`.
async fn signed_in(gateway: &Gateway) -> (Client, Tokens) {
    let client = client_of(gateway).await;
    let tokens = sign_in_as(gateway, &client, Who::Person("ann")).await;
    (client, tokens)
}

/// Whether a token opens the endpoint of its client.
async fn is_let_in(client: &Client, token: &str) -> bool {
    let answer = client.caller(token).modern("tools/list", json!({})).await;
    match answer.status.as_u16() {
        200 => true,
        401 => false,
        other => panic!("{other}: {}", answer.text()),
    }
}

/// Status and error code of a refusal of the token endpoint and those like it.
fn refusal(reply: &Reply) -> (u16, String) {
    let error = reply.json()["error"].as_str().unwrap_or_else(|| panic!("no error in {}", reply.text())).to_owned();
    assert!(reply.header("cache-control").contains("no-store"), "{:?}", reply.headers);
    (reply.status.as_u16(), error)
}

fn invalid_grant() -> (u16, String) {
    (400, "invalid_grant".to_owned())
}

/// The error that the client is told of by a redirect: to where it registered, with its state and our issuer (A7).
fn told_error(gateway: &Gateway, begun: &Begun, page: &Page) -> String {
    assert!(page.url.starts_with(CALLBACK), "no redirect to the client: {page}");
    assert_eq!(page.told("iss"), Some(format!("http://{}", gateway.public)), "{}", page.url);
    assert_eq!(page.told("state").unwrap_or_default(), begun.state, "{}", page.url);
    assert_eq!(page.told("code"), None, "{}", page.url);
    page.told("error").unwrap_or_else(|| panic!("no error in {}", page.url))
}

/// The entries of the audit trail with this event.
async fn audited(gateway: &Gateway, event: &str) -> Vec<Value> {
    let trail = gateway.operator("GET", "/api/v1/audit?limit=200", None).await.json();
    let entries = trail["entries"].as_array().unwrap().iter();
    entries.filter(|entry| entry["event"] == event).cloned().collect()
}
