//! People who operate the gateway: what each role may, by browser and by API token, and how the first owner comes in.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use http::StatusCode;
use portcullis_tests::gateway::SOON;
use portcullis_tests::oauth::Browser;
use portcullis_tests::{Caller, Gateway, Reply};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::at;
use crate::cli::run_in;
use crate::vault::{Process, free_port};

pub(crate) const PASSWORD: &str = "correct horse battery";

/// Makes an account of this role, and tells its id.
pub(crate) async fn person(gateway: &Gateway, login: &str, role: &str) -> String {
    let user = json!({ "login": login, "role": role, "password": PASSWORD });
    let reply = gateway.operator("POST", "/api/v1/users", Some(user)).await;
    assert_eq!(reply.status, StatusCode::CREATED, "{}", reply.text());
    reply.json()["id"].as_str().unwrap().to_owned()
}

/// A browser in which somebody has signed in at the admin listener.
pub(crate) async fn signed_in(gateway: &Gateway, login: &str) -> Browser {
    let mut browser = Browser::new(gateway.admin);
    let page = browser.get("/sign-in").await;
    let page = browser.submit(&page.form("/sign-in").with("login", login).with("password", PASSWORD)).await;
    assert_eq!(page.status(), 200, "{page}");
    browser
}

/// Asks the API as a page of the admin listener does.
async fn ask(browser: &mut Browser, method: &str, path: &str, body: &Value) -> Reply {
    let same = ("sec-fetch-site", "same-origin");
    if method == "GET" {
        return browser.step(method, path, "", &[same]).await;
    }
    let me = browser.step("GET", "/api/v1/me", "", &[same]).await.json();
    let (origin, token) = (browser.origin.clone(), me["csrf_token"].as_str().unwrap().to_owned());
    let headers = [same, ("origin", &origin[..]), ("x-portcullis-csrf", &token), ("content-type", "application/json")];
    browser.step(method, path, &body.to_string(), &headers).await
}

/// A token that is made at the socket, as its holder sends it.
async fn token(gateway: &Gateway, wanted: Value) -> (String, Caller) {
    let made = gateway.operator("POST", "/api/v1/api-tokens", Some(wanted)).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text());
    let made = made.json();
    (made["id"].as_str().unwrap().to_owned(), at(gateway.admin, made["secret"].as_str()))
}

async fn code(caller: &Caller, method: &str, path: &str, body: Value) -> (u16, String) {
    let reply = caller.send(method, path, body.to_string()).await;
    let code = if reply.status.is_success() { Value::Null } else { reply.json()["code"].clone() };
    (reply.status.as_u16(), code.as_str().unwrap_or_default().to_owned())
}

fn forbidden() -> (u16, String) {
    (403, "forbidden".to_owned())
}

#[tokio::test]
async fn h10_somebody_who_is_signed_in_does_what_their_role_allows() {
    let gateway = Gateway::builder().start().await;
    let key = |name: &str| json!({ "name": name });
    for (role, changes, may_shred) in [("viewer", 403, false), ("operator", 201, false), ("owner", 201, true)] {
        let id = person(&gateway, role, role).await;
        let mut browser = signed_in(&gateway, role).await;
        let me = ask(&mut browser, "GET", "/api/v1/me", &Value::Null).await.json();
        assert_eq!((&me["role"], &me["proof"], &me["user"]["id"]), (&json!(role), &json!("session"), &json!(id)));
        assert_eq!(ask(&mut browser, "GET", "/api/v1/keys", &Value::Null).await.status, StatusCode::OK, "{role}");
        let made = ask(&mut browser, "POST", "/api/v1/keys", &key(&format!("of-{role}"))).await;
        assert_eq!(made.status.as_u16(), changes, "{role}: {}", made.text());
        let shred = json!({ "owner": "key:nobody" });
        let shredded = ask(&mut browser, "POST", "/api/v1/vault/shred", &shred).await.status;
        assert_eq!(shredded != StatusCode::FORBIDDEN, may_shred, "{role}: {shredded}");
        if changes == 201 {
            let audit = gateway.operator("GET", "/api/v1/audit?limit=50", None).await.json();
            let of_key = |row: &&Value| row["event"] == "key.created" && row["detail"]["key"] == format!("of-{role}");
            let row = audit["entries"].as_array().unwrap().iter().find(of_key).unwrap();
            assert_eq!(row["actor"], format!("operator:session:{id}"));
        }
        // Without our origin and the token of our pages, nothing is changed.
        let bare = browser.step("POST", "/api/v1/keys", "{}", &[("content-type", "application/json")]).await;
        assert_eq!((bare.status.as_u16(), &bare.json()["code"]), (403, &json!("not_our_page")));
    }
    person(&gateway, "nobody", "user").await;
    let mut browser = Browser::new(gateway.admin);
    let form = browser.get("/sign-in").await.form("/sign-in").with("login", "nobody").with("password", PASSWORD);
    let page = browser.submit(&form).await;
    assert_eq!(page.status(), 403, "{page}");
    assert_eq!(ask(&mut browser, "GET", "/api/v1/me", &Value::Null).await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn h10_a_session_of_one_listener_is_none_at_the_other() {
    let gateway = Gateway::builder().start().await;
    person(&gateway, "ada", "owner").await;
    let admin = signed_in(&gateway, "ada").await;
    let mut public = Browser::new(gateway.public);
    public.jar = admin.jar.clone();
    assert!(public.get("/account").await.url.contains("/sign-in"), "the cookie of the admin listener opens nothing");
    let page = public.get("/sign-in").await;
    public.submit(&page.form("/sign-in").with("login", "ada").with("password", PASSWORD)).await;
    let mut thief = Browser::new(gateway.admin);
    thief.jar = public.jar.clone();
    let name = admin.jar.named("admin-session").unwrap().0.to_owned();
    let cookie = public.jar.cookies().find(|(name, _)| name.starts_with("portcullis-session")).unwrap().1.value.clone();
    thief.jar.plant(&name, &cookie);
    assert_eq!(ask(&mut thief, "GET", "/api/v1/me", &Value::Null).await.status, StatusCode::UNAUTHORIZED);
    assert!(thief.get("/").await.url.contains("/sign-in"));
}

#[tokio::test]
async fn h11_a_token_does_what_it_and_its_person_may() {
    let gateway = Gateway::builder().start().await;
    let ada = person(&gateway, "ada", "owner").await;
    let bob = person(&gateway, "bob", "operator").await;
    let wanted =
        |user: &str, role: &str, scopes: &[&str]| json!({ "name": "ci", "user": user, "role": role, "scopes": scopes });
    let (id, operator) = token(&gateway, wanted(&bob, "operator", &[])).await;
    let (_, reader) = token(&gateway, wanted(&bob, "operator", &["read"])).await;
    let (_, of_keys) = token(&gateway, wanted(&ada, "owner", &["keys", "api-tokens"])).await;
    let (of_ada, _) = token(&gateway, wanted(&ada, "viewer", &[])).await;

    let key = |name: &str| json!({ "name": name });
    assert_eq!(code(&operator, "POST", "/api/v1/keys", key("a")).await.0, 201);
    let row = gateway.operator("GET", "/api/v1/audit?limit=1", None).await.json()["entries"][0].clone();
    assert_eq!(row["actor"], format!("operator:api_token:{id}:{bob}"));
    assert_eq!(code(&reader, "POST", "/api/v1/keys", key("b")).await, forbidden());
    assert_eq!(code(&reader, "GET", "/api/v1/keys", Value::Null).await.0, 200);
    assert_eq!(code(&of_keys, "POST", "/api/v1/keys", key("c")).await.0, 201);
    assert_eq!(code(&of_keys, "GET", "/api/v1/users", Value::Null).await, forbidden());
    assert_eq!(code(&operator, "GET", "/api/v1/store/backup", Value::Null).await, forbidden());

    // One's own, and nobody else's.
    let own = operator.send("GET", "/api/v1/api-tokens", "").await.json();
    let users: Vec<&Value> = own["api_tokens"].as_array().unwrap().iter().map(|token| &token["user"]).collect();
    assert_eq!(users, [&json!(bob), &json!(bob)]);
    assert!(!own.to_string().contains("secret"), "{own}");
    let of_other = format!("/api/v1/api-tokens?user={ada}");
    assert_eq!(code(&operator, "GET", &of_other, Value::Null).await, forbidden());
    let foreign = code(&operator, "DELETE", &format!("/api/v1/api-tokens/{of_ada}"), Value::Null).await;
    assert_eq!(foreign, (404, "not_found".to_owned()), "it is not told that there is one");
    let all = gateway.operator("GET", "/api/v1/api-tokens", None).await.json();
    assert_eq!(all["api_tokens"].as_array().unwrap().len(), 4);

    // No token makes one, and nobody makes one above themselves.
    let make = async |caller: &Caller, wanted: Value| code(caller, "POST", "/api/v1/api-tokens", wanted).await;
    for (token, what) in [
        (&operator, json!({ "name": "x" })),
        (&of_keys, json!({ "name": "x", "scopes": ["keys"] })),
        (&of_keys, wanted(&ada, "viewer", &["api-tokens"])),
    ] {
        assert_eq!(make(token, what).await, forbidden());
    }
    let mut browser = signed_in(&gateway, "bob").await;
    let mut make = async |wanted: Value| ask(&mut browser, "POST", "/api/v1/api-tokens", &wanted).await.status.as_u16();
    assert_eq!(make(json!({ "name": "x", "role": "owner" })).await, 403);
    assert_eq!(make(wanted(&ada, "viewer", &[])).await, 403);
    assert_eq!(make(json!({ "name": "x", "scopes": ["keys"] })).await, 201);
    for (wrong, status) in [
        (json!({ "name": "x", "scopes": ["everything"] }), 422),
        (json!({ "name": "", "role": "viewer" }), 422),
        (json!({ "name": "x", "role": "user" }), 422),
        (json!({ "name": "x", "role": "king" }), 422),
        (json!({ "name": "x", "expires": "2020-01-01T00:00:00Z" }), 422),
        (json!({ "name": "x", "more": 1 }), 422),
    ] {
        assert_eq!(make(wrong.clone()).await, status, "{wrong}");
    }

    // What its person may is asked each time.
    let change = |member: &str, value: &str| json!({ member: value });
    let path = format!("/api/v1/users/{bob}");
    gateway.operator("PATCH", &path, Some(change("role", "viewer"))).await;
    assert_eq!(code(&operator, "POST", "/api/v1/keys", key("d")).await, forbidden());
    assert_eq!(code(&operator, "GET", "/api/v1/keys", Value::Null).await.0, 200);
    gateway.operator("PATCH", &path, Some(change("status", "suspended"))).await;
    assert_eq!(code(&operator, "GET", "/api/v1/keys", Value::Null).await, (401, "unauthenticated".to_owned()));
}

#[tokio::test]
async fn h11_only_owners_touch_accounts_with_a_role() {
    let gateway = Gateway::builder().start().await;
    let owner = person(&gateway, "owner", "owner").await;
    let viewer = person(&gateway, "viewer", "viewer").await;
    let bob = person(&gateway, "bob", "operator").await;
    let user = person(&gateway, "user", "user").await;
    let (_, operator) = token(&gateway, json!({ "name": "ci", "user": bob, "role": "operator" })).await;
    let path = |id: &str| format!("/api/v1/users/{id}");
    for id in [&owner, &viewer, &bob] {
        let change = json!({ "password": "another passphrase" });
        assert_eq!(code(&operator, "PATCH", &path(id), change).await, forbidden());
        assert_eq!(code(&operator, "PATCH", &path(id), json!({ "status": "suspended" })).await, forbidden());
        assert_eq!(code(&operator, "DELETE", &path(id), Value::Null).await, forbidden());
        assert_eq!(code(&operator, "DELETE", &format!("{}/sessions", path(id)), Value::Null).await, forbidden());
    }
    for role in ["viewer", "operator", "owner"] {
        assert_eq!(code(&operator, "PATCH", &path(&user), json!({ "role": role })).await, forbidden(), "{role}");
        let made = json!({ "login": format!("new-{role}"), "role": role });
        assert_eq!(code(&operator, "POST", "/api/v1/users", made).await, forbidden(), "{role}");
    }
    assert_eq!(code(&operator, "PATCH", &path(&user), json!({ "name": "U", "revision": 7 })).await.0, 409);
    assert_eq!(code(&operator, "PATCH", &path(&user), json!({ "name": "U" })).await.0, 200);
    assert_eq!(code(&operator, "POST", "/api/v1/users", json!({ "login": "new" })).await.0, 201);
    assert_eq!(code(&operator, "DELETE", &path(&user), Value::Null).await.0, 204);
}

#[tokio::test]
async fn tokens_are_made_listed_and_revoked_at_the_command_line() {
    let gateway = Gateway::builder().on_disk().start().await;
    person(&gateway, "ada", "operator").await;
    let dir = gateway.dir.path();
    let made = run_in(dir, &["token", "create", "ci", "--user", "ada", "--role", "operator", "--scope", "keys"]).await;
    let printed = made.printed();
    let secret = printed.lines().next().unwrap().to_owned();
    assert!(secret.starts_with("pat_") && printed.contains("shown once"), "{printed}");
    let caller = at(gateway.admin, Some(&secret));
    assert_eq!(code(&caller, "GET", "/api/v1/keys", Value::Null).await.0, 200);
    let listed = run_in(dir, &["token", "list", "--user", "ada"]).await.printed();
    assert!(listed.contains("ci") && listed.contains("keys") && !listed.contains(&secret), "{listed}");
    let id = listed.lines().nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
    assert!(
        run_in(dir, &["token", "create", "x", "--user", "ada", "--role", "owner"])
            .await
            .complaint()
            .contains("operator")
    );
    assert_eq!(run_in(dir, &["token", "revoke", &id]).await.printed(), format!("{id} is revoked\n"));
    assert_eq!(code(&caller, "GET", "/api/v1/keys", Value::Null).await.0, 401);
    assert!(run_in(dir, &["token", "revoke", &id]).await.complaint().contains("no such token"));
}

#[tokio::test]
async fn the_first_owner_comes_by_a_link_that_opens_once() {
    let gateway = Gateway::builder().start().await;
    let dir = gateway.dir.path();
    let mut browser = Browser::new(gateway.admin);
    assert_eq!(browser.get("/setup").await.status(), 404, "nobody has asked for a link");
    let older = run_in(dir, &["setup-link"]).await.printed();
    let link = run_in(dir, &["setup-link"]).await.printed().trim().to_owned();
    assert!(link.starts_with(&format!("http://{}/setup#psu_", gateway.admin)), "{link}");
    let fill = |form: &portcullis_tests::oauth::Form, link: &str, login: &str| {
        form.clone().with("link", link).with("login", login).with("name", "Ada").with("password", PASSWORD)
    };
    let page = browser.get("/setup").await;
    let stale = browser.submit(&fill(&page.form("/setup"), older.trim(), "ada")).await;
    assert_eq!(stale.status(), 403, "{stale}");

    // Two who have the link: one of them becomes the owner.
    let mut other = Browser::new(gateway.admin);
    let (one, two) = (browser.get("/setup").await.form("/setup"), other.get("/setup").await.form("/setup"));
    let (one, two) = (fill(&one, &link, "ada"), fill(&two, &link, "eve"));
    let (one, two) = tokio::join!(browser.submit(&one), other.submit(&two));
    let mut statuses = [one.status(), two.status()];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 404], "{one} {two}");
    let owners = gateway.operator("GET", "/api/v1/users?role=owner", None).await.json();
    assert_eq!(owners["users"].as_array().unwrap().len(), 1);
    for browser in [&mut browser, &mut other] {
        assert_eq!(browser.get("/setup").await.status(), 404);
    }
    assert!(run_in(dir, &["setup-link"]).await.complaint().contains("owner already"));
    let audit = gateway.operator("GET", "/api/v1/audit?limit=20", None).await.json();
    let made = audit["entries"].as_array().unwrap().iter().find(|row| row["event"] == "user.created").unwrap();
    assert_eq!(made["actor"], "operator:set_up_link");
}

#[tokio::test]
async fn a_start_prints_a_link_until_there_is_an_owner() {
    let dir = TempDir::new().unwrap();
    let (public, admin) = (free_port(), free_port());
    let config =
        format!("data_dir = \"data\"\n[listen]\npublic = \"127.0.0.1:{public}\"\nadmin = \"127.0.0.1:{admin}\"\n");
    fs::write(dir.path().join("portcullis.toml"), config).unwrap();
    let (out, log) = (dir.path().join("out"), dir.path().join("log"));
    let start = async || {
        let files = (File::create(&out).unwrap(), File::create(&log).unwrap());
        Process::start(dir.path(), |command| {
            command.stdout(files.0).stderr(files.1);
        })
        .await
    };
    let first = start().await;
    // Once it is ready, the link is about to be printed.
    let until = Instant::now() + SOON;
    let link = loop {
        let printed = fs::read_to_string(&out).unwrap();
        if let Some(link) = printed.lines().find(|line| line.starts_with("http://")) {
            break link.to_owned();
        }
        assert!(Instant::now() < until, "no link is printed: {printed}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let mut browser = Browser::new(SocketAddr::from(([127, 0, 0, 1], admin)));
    let form = browser.get("/setup").await.form("/setup").with("link", &link).with("login", "ada");
    let home = browser.submit(&form.with("password", PASSWORD)).await;
    assert!(home.status() == 200 && home.text().contains("owner"), "{home}");
    first.stop().await;
    assert!(!fs::read_to_string(&log).unwrap().contains("psu_"), "no log has the secret");

    let second = start().await;
    // It is asked for what comes after the start.
    assert!(run_in(dir.path(), &["setup-link"]).await.complaint().contains("owner already"));
    assert_eq!(browser.get("/setup").await.status(), 404);
    assert_eq!(browser.get("/").await.status(), 200, "who was signed in is so still");
    second.stop().await;
    assert_eq!(fs::read_to_string(&out).unwrap(), "");
}

#[tokio::test]
async fn a_start_prints_no_link_into_its_log() {
    let dir = TempDir::new().unwrap();
    let (public, admin) = (free_port(), free_port());
    let config =
        format!("data_dir = \"data\"\n[listen]\npublic = \"127.0.0.1:{public}\"\nadmin = \"127.0.0.1:{admin}\"\n");
    fs::write(dir.path().join("portcullis.toml"), config).unwrap();
    let log = dir.path().join("log");
    let file = File::create(&log).unwrap();
    let gateway = Process::start(dir.path(), |command| {
        command.stdout(file.try_clone().unwrap()).stderr(file);
    })
    .await;
    let until = Instant::now() + SOON;
    while !fs::read_to_string(&log).unwrap().contains("`portcullis setup-link` prints the link") {
        assert!(Instant::now() < until, "it is not said: {}", fs::read_to_string(&log).unwrap());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(run_in(dir.path(), &["setup-link"]).await.printed().contains("/setup#psu_"));
    gateway.stop().await;
    assert!(!fs::read_to_string(&log).unwrap().contains("psu_"));
}
