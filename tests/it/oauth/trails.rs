//! What the gateway writes about all this: H9, H10, H11, and the brute force of T20.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::time::Duration;

use portcullis_tests::caller::send_unix;
use portcullis_tests::oauth::connection::send;
use portcullis_tests::oauth::{Browser, Client, Tokens, encoded};
use portcullis_tests::upstreams::fixture::Fixture;
use serde_json::json;
use tempfile::TempDir;

use super::{EVERYBODY, PASSWORD, Who, arrive, audited, choose, client_of, refusal, scene, sign_in, sign_in_as};
use crate::vault::canary::{Canaries, Written, private};
use crate::vault::{Process, free_port};

/// H9: secrets that nobody else has go through every flow, and then everything that was written is searched for them.
#[tokio::test(flavor = "multi_thread")]
async fn h9_no_secret_of_a_sign_in_is_written_anywhere() {
    let mut canaries = Canaries::of(&["key of the file", "password", "wrong password", "wrong code"]);
    let mut written = Written::default();
    let up = Fixture::start().await;
    let dir = TempDir::new().unwrap();
    let public = SocketAddr::from(([127, 0, 0, 1], free_port()));
    private(&dir.path().join("alice.key"), canaries.get("key of the file"));
    let config = format!(
        "public_url = \"http://{public}\"\ndata_dir = \"data\"\n[listen]\npublic = \"{public}\"\nadmin = \"off\"\n\
         [auth]\nguests = true\n[upstreams.up]\nurl = \"{}\"\n[keys.alice]\nsecret = \"file:alice.key\"\nallow = [{{ upstream = \"*\", tools = [\"*\"] }}]\n",
        up.url
    );
    fs::write(dir.path().join("portcullis.toml"), config).unwrap();
    let log = dir.path().join("gateway.log");
    let process = Process::start(dir.path(), |command| {
        command.env("PORTCULLIS_LOG", "trace,wasmtime=debug,cranelift_codegen=debug,regalloc2=debug");
        command.stderr(File::create(&log).unwrap()).stdout(File::create(dir.path().join("gateway.out")).unwrap());
    })
    .await;
    let socket = dir.path().join("data/admin.sock");
    let operator = async |method: &str, path: &str, body| send_unix(&socket, method, path, body).await.unwrap();
    let user = json!({ "login": "ann", "name": "Ann", "password": canaries.get("password") });
    written.add_reply("user", &operator("POST", "/api/v1/users", Some(user)).await);

    let web = "https://client.example/callback";
    let metadata = json!({ "redirect_uris": [web], "token_endpoint_auth_method": "client_secret_basic" });
    let confidential = Client::register_as(public, "/mcp", metadata).await;
    canaries.adopt("client secret", confidential.secret.as_deref().unwrap());
    let token = confidential.registration["registration_access_token"].as_str().unwrap().to_owned();
    canaries.adopt("registration token", &token);
    let local = Client::register(public, "/mcp").await;
    for client in [&confidential, &local] {
        for who in EVERYBODY {
            let mut browser = Browser::new(public);
            let begun = client.begin();
            let page = arrive(&mut browser, &begun).await;
            let page = match who {
                Who::Person(login) => {
                    let link = page.links().into_iter().find(|link| link.contains("/sign-in")).unwrap().to_owned();
                    let form = browser.get(&link).await;
                    let form = sign_in(&mut browser, &form, login, canaries.get("wrong password")).await;
                    sign_in(&mut browser, &form, login, canaries.get("password")).await
                }
                _ => page,
            };
            let mut form = super::identity(&page, who);
            if who == Who::Key("alice") {
                form = form.with("key", canaries.get("key of the file"));
            }
            let page = browser.submit(&form).await;
            for (_, cookie) in browser.jar.cookies() {
                for part in cookie.value.split(['~', '.']).filter(|part| part.len() >= 40) {
                    canaries.adopt("cookie", part);
                }
            }
            canaries.adopt("form token", page.form("/finish").field("form_token").unwrap());
            let page = browser.submit(&page.form("/finish")).await;
            let code = client.code(&begun, &page.url);
            canaries.adopt("code", &code);
            canaries.adopt("verifier", &begun.proof.verifier);
            let tokens = Tokens::of(&client.redeem(&begun, &code).await);
            let renewed = Tokens::of(&client.refresh(&tokens.refresh).await);
            client.refresh(&tokens.refresh).await;
            for tokens in [&tokens, &renewed] {
                canaries.adopt("access token", &tokens.access);
                canaries.adopt("signature", tokens.access.rsplit('.').next().unwrap());
                canaries.adopt("refresh token", &tokens.refresh);
            }
            let caller = client.caller(&renewed.access);
            written.add_reply("call", &caller.call("up__echo", json!({ "text": "hello" })).await);
            let query = format!("/mcp?access_token={}", renewed.access);
            written.add_reply("query", &caller.copy().without("authorization").send("POST", &query, "{}").await);
            written.add_reply("wrong code", &client.redeem(&begun, canaries.get("wrong code")).await);
            written.add_reply("replayed code", &client.redeem(&begun, &code).await);
            written.add_reply("refused", &client.refresh(&renewed.refresh).await);
            written.add_reply("revoked", &client.revoke(&renewed.refresh).await);
            if client.secret.is_some() {
                written.add_reply("introspection", &client.introspect(&renewed.access).await);
            }
            // Secrets where none belongs.
            let query = encoded(&[("code", &code), ("refresh_token", &renewed.refresh)]);
            written.add_reply("stray", &send(public, "GET", &format!("/account?{query}"), &[], "").await);
            let bearer = format!("Bearer {}", renewed.access);
            let stray = [("authorization", bearer.as_str()), ("x-portcullis-key", canaries.get("key of the file"))];
            written.add_reply("both", &send(public, "POST", "/mcp", &stray, "{}").await);
        }
    }
    for path in [
        "/api/v1/audit?limit=200",
        "/api/v1/grants",
        "/api/v1/users",
        "/api/v1/decisions?limit=200",
        "/api/v1/signing-keys",
    ] {
        written.add_reply(path, &operator("GET", path, None).await);
    }
    written.add("store of the running gateway", fs::read(dir.path().join("data/portcullis.redb")).unwrap());
    process.stop().await;
    written.add_files(dir.path(), &["alice.key", "vault.key", "deployment-secret", "operator-token"]);
    assert!(fs::read_to_string(&log).unwrap().len() > 10_000, "the log is a full one");
    assert_eq!(written.leaks(&canaries), Vec::<String>::new());
}

/// H10 and H11: what people and clients hold opens nothing of operators', and ids of others are not there.
#[tokio::test]
async fn h10_a_token_or_a_session_opens_no_admin_route() {
    let (_up, gateway) = scene().await;
    let client = client_of(&gateway).await;
    let mut browser = Browser::new(gateway.public);
    let page = browser.get("/sign-in").await;
    sign_in(&mut browser, &page, "ann", PASSWORD).await;
    let cookies = browser.jar.header().unwrap();
    let tokens = sign_in_as(&gateway, &client, Who::Person("ann")).await;
    let host = gateway.admin.to_string();
    for route in portcullis::http::api::ROUTES {
        if ["/healthz", "/readyz"].contains(&route.path) {
            continue;
        }
        let path = route.path.replace("{name}", "x").replace("{id}", "x");
        let bearer = format!("Bearer {}", tokens.access);
        for headers in [
            vec![("authorization", bearer.as_str())],
            vec![("cookie", cookies.as_str())],
            vec![("authorization", "Bearer "), ("cookie", cookies.as_str())],
        ] {
            let mut all = vec![("host", host.as_str()), ("content-type", "application/json")];
            all.extend(headers.clone());
            let reply = send(gateway.admin, route.method, &path, &all, "{}").await;
            assert_eq!(reply.status, 401, "{} {path} {headers:?}", route.method);
        }
        // And none of them is on the listener for callers.
        let reply = send(gateway.public, route.method, &path, &[("authorization", &bearer)], "").await;
        assert!(reply.status == 404 || !path.starts_with("/api/"), "{} {path}: {}", route.method, reply.status);
    }
}

#[tokio::test]
async fn h11_ids_of_others_are_not_there() {
    let (_up, gateway) = scene().await;
    super::add_person(&gateway, "ben").await;
    let client = client_of(&gateway).await;
    sign_in_as(&gateway, &client, Who::Person("ann")).await;
    let grants = gateway.operator("GET", "/api/v1/grants", None).await.json();
    let anns = grants["grants"][0]["id"].as_str().unwrap().to_owned();
    let mut ben = Browser::new(gateway.public);
    let page = ben.get("/sign-in").await;
    sign_in(&mut ben, &page, "ben", PASSWORD).await;
    sign_in_as(&gateway, &client, Who::Person("ben")).await;
    let account = {
        let mut browser = ben.copy();
        browser.get("/account").await
    };
    let own = account.forms().into_iter().find(|form| form.action.contains("/grants/"));
    let own = own.unwrap_or_else(|| panic!("{account}"));
    let id = own.action.split('/').rev().nth(1).unwrap().to_owned();
    let mut foreign = own.clone();
    foreign.action = own.action.replace(&id, &anns);
    let (_, reply) = ben.submit_once(&foreign).await;
    assert_eq!(reply.status, 404);
    let left = gateway.operator("GET", "/api/v1/grants", None).await.json();
    assert_eq!(left["grants"].as_array().unwrap().len(), 2, "{left}");
    for path in ["/api/v1/grants?cursor=x", "/api/v1/grants?unknown=1", "/api/v1/grants?state=none"] {
        let reply = gateway.operator("GET", path, None).await;
        assert!([400, 422].contains(&reply.status.as_u16()), "{path}: {}", reply.status);
    }
}

/// T20: who tries passwords has to wait, and the right one comes through afterwards.
#[tokio::test]
async fn t20_guessing_passwords_takes_longer_and_longer() {
    let (_up, gateway) = scene().await;
    let mut browser = Browser::new(gateway.public);
    let mut refused = None;
    for attempt in 0..40 {
        let page = browser.get("/sign-in").await;
        let form = page.form("/sign-in").with("login", "ann").with("password", &format!("guess {attempt}"));
        let (_, reply) = browser.submit_once(&form).await;
        assert_ne!(reply.status, 303, "attempt {attempt}");
        if reply.status == 429 {
            refused = Some(reply);
            break;
        }
    }
    let refused = refused.expect("somebody who guesses is told to wait");
    let wait: u64 = refused.header("retry-after").parse().expect("a number of seconds");
    gateway.clock.advance(Duration::from_secs(wait.max(1)));
    let page = browser.get("/sign-in").await;
    let page = sign_in(&mut browser, &page, "ann", PASSWORD).await;
    assert!(page.find("/sign-in").is_none(), "{page}");
    assert!(page.status() < 400, "{page}");
}

/// T19 for people: an unknown login and a wrong password look the same.
#[tokio::test]
async fn t19_unknown_logins_look_like_wrong_passwords() {
    let (_up, gateway) = scene().await;
    let mut shown = Vec::new();
    for login in ["ann", "nobody"] {
        let mut browser = Browser::new(gateway.public);
        let page = browser.get("/sign-in").await;
        let page = sign_in(&mut browser, &page, login, "wrong").await;
        shown.push((page.status(), page.text().replace("nobody", "")));
    }
    assert_eq!(shown[0], shown[1]);
}

/// What happened is in the audit trail, in one row each, with who and whose.
#[tokio::test]
async fn a_sign_in_leaves_a_trail() {
    let (_up, gateway) = scene().await;
    let client = client_of(&gateway).await;
    let mut browser = Browser::new(gateway.public);
    let begun = client.begin();
    let page = arrive(&mut browser, &begun).await;
    let page = choose(&mut browser, page, Who::Person("ann")).await;
    let page = browser.submit(&page.form("/finish")).await;
    let code = client.code(&begun, &page.url);
    Tokens::of(&client.redeem(&begun, &code).await);
    assert_eq!(refusal(&client.redeem(&begun, &code).await).0, 400);
    let trail = gateway.operator("GET", "/api/v1/audit?limit=200", None).await.json().to_string();
    for what in ["consent", "grant", "client", "replay"] {
        assert!(trail.contains(what), "{what} is not in {trail}");
    }
    assert!(!trail.contains(&code) && !trail.contains(PASSWORD));
    assert!(audited(&gateway, "no such event").await.is_empty());
}
