//! Who is stopped for a while, or for good: a disabled key and a suspended person over every path (items 9 and 10 of what the
//! authorization server promises), and grants that an operator ends by client and by principal.

use std::time::Duration;

use portcullis_tests::Gateway;
use portcullis_tests::oauth::client::Begun;
use portcullis_tests::oauth::{Browser, Client, Tokens};
use serde_json::{Value, json};

use super::{
    PASSWORD, Who, add_person, arrive, choose, client_of, identity, invalid_grant, is_let_in, offers, refusal, scene,
    sign_in, sign_in_as,
};

const WEB: &str = "https://client.example/callback";
/// What was granted in the very moment in which something was taken back is taken back with it, and a test's clock stands
/// still.
const MOMENT: Duration = Duration::from_secs(1);

async fn confidential(gateway: &Gateway) -> Client {
    let metadata = json!({ "redirect_uris": [WEB], "token_endpoint_auth_method": "client_secret_basic" });
    Client::register_as(gateway.public, "/mcp", metadata).await
}

/// Changes the configuration file, and has it read.
async fn reload(gateway: &Gateway, text: &str) {
    gateway.replace("portcullis.toml", text.as_bytes());
    let reloaded = gateway.operator("POST", "/api/v1/policies/reload", Some(json!({}))).await;
    assert_eq!(reloaded.status, 200, "{}", reloaded.text());
}

/// The tokens of somebody are worth nothing anywhere, and a code neither.
async fn is_stopped(client: &Client, tokens: &Tokens, (begun, code): (&Begun, &str)) {
    assert!(!is_let_in(client, &tokens.access).await);
    assert_eq!(refusal(&client.refresh(&tokens.refresh).await), invalid_grant());
    for token in [&tokens.access, &tokens.refresh] {
        assert_eq!(client.introspect(token).await.json(), json!({ "active": false }));
    }
    assert_eq!(refusal(&client.redeem(begun, code).await), invalid_grant());
}

/// Goes as far as the code, and stops there.
async fn code_of(gateway: &Gateway, client: &Client, who: Who) -> (Begun, String) {
    let (begun, mut browser) = (client.begin(), Browser::new(gateway.public));
    let url = super::consent(&mut browser, &begun, who).await;
    let code = client.code(&begun, &url);
    (begun, code)
}

#[tokio::test]
async fn a_key_that_the_file_disables_opens_nothing_and_its_grants_are_over() {
    let (_up, gateway) = scene().await;
    let client = confidential(&gateway).await;
    let tokens = sign_in_as(&gateway, &client, Who::Key("alice")).await;
    let (begun, code) = code_of(&gateway, &client, Who::Key("alice")).await;
    // Somebody is at the last step as well.
    let (mut browser, waiting) = (Browser::new(gateway.public), client.begin());
    let page = arrive(&mut browser, &waiting).await;
    let services = choose(&mut browser, page, Who::Key("alice")).await;

    let text = std::fs::read_to_string(&gateway.file).unwrap();
    let disabled = text.replace("[keys.alice]\n", "[keys.alice]\ndisabled = true\n");
    assert_ne!(text, disabled);
    reload(&gateway, &disabled).await;
    assert_eq!(gateway.caller("alice").modern("tools/list", json!({})).await.status, 401);
    is_stopped(&client, &tokens, (&begun, &code)).await;
    let (_, refused) = browser.submit_once(&services.form("/finish")).await;
    assert_eq!((refused.status.as_u16(), refused.headers.get("location")), (409, None), "{}", refused.text());
    let page = arrive(&mut browser, &client.begin()).await;
    let page = browser.submit(&identity(&page, Who::Key("alice"))).await;
    assert!(page.status() == 400 && page.text().contains("This key opens nothing."), "{page}");

    reload(&gateway, &text).await;
    assert_eq!(gateway.caller("alice").modern("tools/list", json!({})).await.status, 200);
    // What was granted is over; who has the key consents anew.
    is_stopped(&client, &tokens, (&begun, &code)).await;
    gateway.clock.advance(MOMENT);
    let again = sign_in_as(&gateway, &client, Who::Key("alice")).await;
    assert!(is_let_in(&client, &again.access).await);
}

#[tokio::test]
async fn a_person_who_is_suspended_opens_nothing() {
    let (_up, gateway) = scene().await;
    add_person(&gateway, "ben").await;
    let client = confidential(&gateway).await;
    let (anns, bens) = (
        sign_in_as(&gateway, &client, Who::Person("ann")).await,
        sign_in_as(&gateway, &client, Who::Person("ben")).await,
    );
    let (begun, code) = code_of(&gateway, &client, Who::Person("ann")).await;
    let (mut browser, waiting) = (Browser::new(gateway.public), client.begin());
    let page = arrive(&mut browser, &waiting).await;
    let services = choose(&mut browser, page, Who::Person("ann")).await;

    let config = gateway.file.to_str().unwrap();
    let run = async |word: &str| {
        let done = crate::cli::run_in(gateway.dir.path(), &["user", word, "ann", "--config", config]).await;
        done.printed()
    };
    assert_eq!(run("suspend").await, "ann is suspended\n");
    is_stopped(&client, &anns, (&begun, &code)).await;
    assert!(is_let_in(&client, &bens.access).await);
    // Neither the browser where they were signed in nor another one gets on.
    let (_, refused) = browser.submit_once(&services.form("/finish")).await;
    assert_eq!((refused.status.as_u16(), refused.headers.get("location")), (409, None), "{}", refused.text());
    let page = arrive(&mut browser, &client.begin()).await;
    assert!(!offers(&page, "person"), "{page}");
    let account = browser.step("GET", "/account", "", &[]).await;
    assert_eq!(account.status, 303);
    let mut anew = Browser::new(gateway.public);
    let page = anew.get("/sign-in").await;
    let refused = sign_in(&mut anew, &page, "ann", PASSWORD).await;
    let (unknown, mut other) = (anew.get("/sign-in").await, anew.copy());
    let wrong = sign_in(&mut other, &unknown, "ann", "not the password").await;
    assert_eq!((refused.status(), refused.text()), (wrong.status(), wrong.text()), "who asks learns nothing");
    assert!(refused.find("/sign-in").is_some(), "{refused}");

    assert_eq!(run("activate").await, "ann is active\n");
    gateway.clock.advance(MOMENT);
    let again = sign_in_as(&gateway, &client, Who::Person("ann")).await;
    assert!(is_let_in(&client, &again.access).await);
}

/// The active grants, as the operator sees them.
async fn active(gateway: &Gateway, filter: &str) -> Vec<Value> {
    let path = format!("/api/v1/grants?state=active{filter}");
    let view = gateway.operator("GET", &path, None).await.json();
    view["grants"].as_array().unwrap_or_else(|| panic!("{view}")).clone()
}

#[tokio::test]
async fn an_operator_ends_all_grants_of_a_client_or_of_somebody() {
    let (_up, gateway) = scene().await;
    add_person(&gateway, "ben").await;
    let (one, two) = (client_of(&gateway).await, client_of(&gateway).await);
    let mut all = Vec::new();
    for client in [&one, &two] {
        for who in [Who::Person("ann"), Who::Person("ben"), Who::Key("alice"), Who::Guest] {
            all.push((client, who, sign_in_as(&gateway, client, who).await));
        }
    }
    let revoke = async |body: Value| {
        let revoked = gateway.operator("POST", "/api/v1/grants/revoke", Some(body.clone())).await;
        assert_eq!(revoked.status, 200, "{body}: {}", revoked.text());
    };
    let rest = async |is_over: &dyn Fn(&Client, Who) -> bool| {
        for (client, who, tokens) in &all {
            let is_over = is_over(client, *who);
            assert_eq!(is_let_in(client, &tokens.access).await, !is_over, "{who:?}");
            if is_over {
                assert_eq!(refusal(&client.refresh(&tokens.refresh).await), invalid_grant(), "{who:?}");
            }
        }
    };
    assert_eq!(active(&gateway, &format!("&client={}", one.id)).await.len(), 4);
    rest(&|_, _| false).await;
    revoke(json!({ "client": one.id })).await;
    rest(&|client, _| client.id == one.id).await;
    assert_eq!(active(&gateway, &format!("&client={}", one.id)).await, Vec::<Value>::new());

    let ann = active(&gateway, "&kind=user").await;
    let ann = ann.iter().find(|grant| grant["principal_name"] == "ann").unwrap()["principal"].clone();
    revoke(json!({ "principal": ann })).await;
    rest(&|client, who| client.id == one.id || who == Who::Person("ann")).await;
    revoke(json!({ "principal": "key:alice" })).await;
    rest(&|client, who| client.id == one.id || matches!(who, Who::Person("ann") | Who::Key(_))).await;
    // Who was only signed out signs in again.
    gateway.clock.advance(MOMENT);
    let again = sign_in_as(&gateway, &one, Who::Person("ann")).await;
    assert!(is_let_in(&one, &again.access).await);

    for wrong in [
        json!({}),
        json!({ "client": one.id, "all": true }),
        json!({ "client": one.id, "principal": "key:alice" }),
        json!({ "principal": "nobody" }),
        json!({ "kind": "everybody" }),
        json!({ "everything": true }),
    ] {
        let refused = gateway.operator("POST", "/api/v1/grants/revoke", Some(wrong.clone())).await;
        assert_eq!((refused.status.as_u16(), refused.json()["code"].as_str()), (422, Some("invalid")), "{wrong}");
    }
    assert!(is_let_in(&one, &again.access).await);
}

/// H11: a cursor is of one list and one filter, and no page is longer than a page.
#[tokio::test]
async fn h11_a_cursor_is_of_its_list_and_a_page_has_an_end() {
    const MOST: usize = 200;
    let (_up, gateway) = scene().await;
    for number in 0..MOST + 5 {
        let user = json!({ "login": format!("user-{number}") });
        assert_eq!(gateway.operator("POST", "/api/v1/users", Some(user)).await.status, 201);
    }
    for who in [Who::Person("ann"), Who::Key("alice"), Who::Guest] {
        let client = client_of(&gateway).await;
        sign_in_as(&gateway, &client, who).await;
    }
    let lists = [("/api/v1/grants", "grants", "state=active"), ("/api/v1/users", "users", "status=invited")];
    let lists = lists.into_iter().chain([("/api/v1/clients", "clients", "")]);
    let mut cursors = Vec::new();
    for (path, member, filter) in lists.clone() {
        let page = gateway.operator("GET", &format!("{path}?limit=1"), None).await.json();
        let cursor = page["next_cursor"].as_str().unwrap_or_else(|| panic!("{path}: {page}")).to_owned();
        let huge = gateway.operator("GET", &format!("{path}?limit=100000"), None).await;
        assert_eq!(huge.status, 200, "{path}");
        let rows = huge.json()[member].as_array().unwrap().len();
        assert_eq!(rows, if member == "users" { MOST } else { 3 }, "{path}");
        cursors.push((path, filter, cursor));
    }
    let refused = async |path: &str| {
        let reply = gateway.operator("GET", path, None).await;
        assert_eq!((reply.status.as_u16(), reply.json()["code"].as_str()), (400, Some("invalid_cursor")), "{path}");
    };
    for (from, filter, cursor) in &cursors {
        for (path, ..) in lists.clone() {
            if path == *from {
                assert_eq!(gateway.operator("GET", &format!("{path}?cursor={cursor}"), None).await.status, 200);
            } else {
                refused(&format!("{path}?cursor={cursor}")).await;
            }
        }
        if *from == "/api/v1/grants" {
            refused(&format!("{from}?{filter}&cursor={cursor}")).await;
        }
        let mut forged = cursor.clone();
        let last = forged.pop().unwrap();
        forged.push(if last == 'A' { 'B' } else { 'A' });
        refused(&format!("{from}?cursor={forged}")).await;
    }
}
