//! Every route with every kind of caller (M2, T6, T8): at the endpoints whom they let in, and everywhere else that a
//! credential for the endpoints is worth nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use portcullis::http::oauth::{Access, routes};
use portcullis_tests::clock::TestClock;
use portcullis_tests::gateway::SOON;
use portcullis_tests::oauth::client::challenge;
use portcullis_tests::oauth::{Browser, Client, Tokens};
use portcullis_tests::upstreams::fixture::Fixture;
use portcullis_tests::{Caller, Gateway, free_address};
use serde_json::json;
use tempfile::TempDir;

use super::{AFTER_ACCESS, PASSWORD, Who, add_person, arrive, client_of, consent, gateway_with, identity, sign_in};

const ENDPOINTS: [&str; 2] = ["/mcp", "/mcp/up"];
const HOUR: Duration = Duration::from_secs(60 * 60);

/// Each row: its method and path with something for each parameter, what it answers to nobody, and what to a person who is
/// signed in there.
const ANSWERS: [(&str, &str, u16, u16); 43] = [
    ("DELETE", "/oauth2/register/x", 401, 401),
    ("GET", "/.well-known/jwks.json", 200, 200),
    ("GET", "/.well-known/oauth-authorization-server", 200, 200),
    ("GET", "/.well-known/oauth-authorization-server/x", 404, 404),
    ("GET", "/.well-known/oauth-protected-resource", 200, 200),
    ("GET", "/.well-known/oauth-protected-resource/x", 404, 404),
    ("GET", "/.well-known/openid-configuration", 200, 200),
    ("GET", "/.well-known/openid-configuration/x", 404, 404),
    ("GET", "/account", 303, 200),
    ("GET", "/assets/x", 404, 404),
    ("GET", "/connect/callback/x", 400, 400),
    ("GET", "/connect/client/x", 404, 404),
    ("GET", "/connect/link", 200, 200),
    ("GET", "/connect/link/x", 400, 400),
    ("GET", "/connect/x", 303, 404),
    ("GET", "/device", 303, 200),
    ("GET", "/oauth2/authorize", 400, 400),
    ("GET", "/oauth2/consent/x", 400, 400),
    ("GET", "/oauth2/register/x", 401, 401),
    ("GET", "/sign-in", 200, 303),
    ("GET", "/sign-in/x", 404, 404),
    ("GET", "/sign-in/x/callback", 404, 404),
    ("POST", "/account/connections/x/disconnect", 403, 403),
    ("POST", "/account/consents/x/forget", 403, 403),
    ("POST", "/account/grants/x/revoke", 403, 403),
    ("POST", "/account/password", 403, 403),
    ("POST", "/account/sessions/end-others", 403, 403),
    ("POST", "/account/sessions/x/end", 403, 403),
    ("POST", "/connect/link", 403, 403),
    ("POST", "/connect/x", 403, 403),
    ("POST", "/device", 303, 403),
    ("POST", "/oauth2/authorize", 400, 400),
    ("POST", "/oauth2/consent/x/back", 403, 403),
    ("POST", "/oauth2/consent/x/cancel", 403, 403),
    ("POST", "/oauth2/consent/x/finish", 403, 403),
    ("POST", "/oauth2/consent/x/identity", 403, 403),
    ("POST", "/oauth2/device", 401, 401),
    ("POST", "/oauth2/introspect", 401, 401),
    ("POST", "/oauth2/par", 401, 401),
    ("POST", "/oauth2/register", 400, 400),
    ("POST", "/oauth2/revoke", 401, 401),
    ("POST", "/oauth2/token", 401, 401),
    ("POST", "/sign-in", 403, 403),
];
const REST: [(&str, &str, u16, u16); 2] = [("POST", "/sign-out", 403, 403), ("PUT", "/oauth2/register/x", 401, 401)];

/// A path with `x` for each of its parameters.
fn path_of(route: &str) -> String {
    let part = |part: &str| if part.starts_with('{') { "x".to_owned() } else { part.to_owned() };
    route.split('/').map(part).collect::<Vec<_>>().join("/")
}

/// A kind of caller: its credential, if it is one for the `Authorization` header, its cookies, and what it is answered at each
/// endpoint.
struct Kind {
    what: &'static str,
    bearer: Option<String>,
    cookies: Option<String>,
    answers: [u16; 2],
}

fn kind(what: &'static str, bearer: &str, answers: [u16; 2]) -> Kind {
    Kind { what, bearer: Some(bearer.to_owned()), cookies: None, answers }
}

impl Kind {
    async fn at_endpoints(&self, gateway: &Gateway) {
        for (endpoint, expected) in ENDPOINTS.into_iter().zip(self.answers) {
            let mut caller = Caller::new(gateway.public, self.bearer.clone()).at(endpoint);
            if let Some(cookies) = &self.cookies {
                caller = caller.with("cookie", cookies);
            }
            let reply = caller.modern("tools/list", json!({})).await;
            assert_eq!(reply.status, expected, "{} at {endpoint}: {}", self.what, reply.text());
            let header = reply.header("www-authenticate");
            if expected == 200 {
                assert_eq!(header, "", "{} at {endpoint}", self.what);
                continue;
            }
            let (message, error, scope) = match (expected, &self.bearer) {
                (403, _) => ("lacks a scope", Some("insufficient_scope"), "extra mcp"),
                (_, Some(_)) => ("a valid access token or key is required", Some("invalid_token"), "mcp extra"),
                (_, None) => ("a valid access token or key is required", None, "mcp extra"),
            };
            assert!(reply.text().contains(message), "{} at {endpoint}: {}", self.what, reply.text());
            assert_eq!(challenge(header, "error").as_deref(), error, "{} at {endpoint}: {header}", self.what);
            let named: BTreeSet<String> =
                challenge(header, "scope").unwrap_or_default().split(' ').map(ToOwned::to_owned).collect();
            assert_eq!(named, scope.split(' ').map(ToOwned::to_owned).collect(), "{} at {endpoint}", self.what);
            let metadata = format!("http://{}/.well-known/oauth-protected-resource{endpoint}", gateway.public);
            assert_eq!(challenge(header, "resource_metadata"), Some(metadata), "{} at {endpoint}: {header}", self.what);
        }
    }

    /// Everything else that there is.
    async fn at_routes(&self, browser: &mut Browser, is_signed_in: bool) {
        browser.headers.extend(self.bearer.iter().map(|token| ("authorization".to_owned(), format!("Bearer {token}"))));
        for (method, path, nobody, person) in ANSWERS.into_iter().chain(REST) {
            let (body, kind) = match path.starts_with("/oauth2/register") {
                true => ("{}", "application/json"),
                false => ("", "application/x-www-form-urlencoded"),
            };
            let reply = match method {
                "GET" => browser.step(method, path, "", &[]).await,
                _ => browser.step(method, path, body, &[("content-type", kind)]).await,
            };
            let expected = if is_signed_in { person } else { nobody };
            assert_eq!(reply.status, expected, "{} {method} {path}: {}", self.what, reply.text());
        }
    }
}

#[test]
fn every_route_is_in_the_table() {
    let there: BTreeSet<(String, String)> = routes()
        .flat_map(|route| route.methods.split('|').map(|method| (method.to_owned(), path_of(route.path))))
        .collect();
    let named = |(method, path, ..): (&str, &str, u16, u16)| (method.to_owned(), path.to_owned());
    assert_eq!(there, ANSWERS.into_iter().chain(REST).map(named).collect());
    // What an access token or a cookie is looked at for is for people's browsers alone.
    for route in routes().filter(|route| route.access != Access::Browser) {
        let rows = ANSWERS.into_iter().chain(REST).filter(|(_, path, ..)| *path == path_of(route.path));
        for (method, path, nobody, person) in rows {
            assert_eq!(nobody, person, "{method} {path}");
            assert!(route.access == Access::Anyone || nobody == 401, "{method} {path}");
        }
    }
}

const SETTINGS: &str = "[auth.scopes]\nmcp = \"Use the tools\"\nextra = \"Do more\"\n[auth.grants]\ndevice = true\n";

/// Tokens of somebody for these scopes.
async fn tokens_of(gateway: &Gateway, client: &Client, who: Who, scope: &str) -> Tokens {
    let (begun, mut browser) = (client.begin_with(&[("scope", scope)]), Browser::new(gateway.public));
    let url = consent(&mut browser, &begun, who).await;
    Tokens::of(&client.redeem(&begun, &client.code(&begun, &url)).await)
}

/// Tokens for a virtual key that was made while the gateway ran.
async fn tokens_of_key(gateway: &Gateway, client: &Client, secret: &str) -> Tokens {
    let (begun, mut browser) = (client.begin_with(&[("scope", "mcp")]), Browser::new(gateway.public));
    let page = arrive(&mut browser, &begun).await;
    let page = browser.submit(&identity(&page, Who::Key("alice")).with("key", secret)).await;
    let page = browser.submit(&page.form("/finish")).await;
    Tokens::of(&client.redeem(&begun, &client.code(&begun, &page.url)).await)
}

/// Three lives of one gateway: tokens of the first are of an old epoch, since its store was restored; those of the second are
/// of an hour that has not come yet in the third.
#[tokio::test]
async fn m2_every_route_answers_every_kind_of_caller_as_it_should() {
    let up = Fixture::start().await;
    let machine = portcullis::Env::system().now().as_millis() - TestClock::default().env().now().as_millis();
    let clock = |later: Duration| {
        let clock = TestClock::default();
        clock.advance(Duration::from_millis(machine) + later);
        clock
    };
    let address = free_address().await.unwrap();
    let life = async |dir: TempDir, clock: TestClock| {
        let gateway = gateway_with(&up, SETTINGS).on_disk().at(address).try_start(dir, clock).await.unwrap();
        gateway.wait_until_ready().await;
        gateway
    };
    let run = async |dir: &TempDir, arguments: &[&str]| {
        let done = crate::cli::run_in(dir.path(), arguments).await;
        assert_eq!(done.code, Some(0), "{arguments:?}: {}", done.stderr);
    };

    let gateway = life(TempDir::new().unwrap(), clock(Duration::ZERO)).await;
    for login in ["ann", "ben"] {
        add_person(&gateway, login).await;
    }
    let client = client_of(&gateway).await;
    let old = tokens_of(&gateway, &client, Who::Person("ann"), "mcp").await;
    run(&gateway.dir, &["backup", "store.dump"]).await;
    let dir = gateway.stop().await;
    run(&dir, &["restore", "store.dump", "--into", "redb:data/portcullis.redb", "--replace"]).await;

    let gateway = life(dir, clock(HOUR)).await;
    let early = tokens_of(&gateway, &client, Who::Person("ann"), "mcp").await;
    let gateway = life(gateway.stop().await, clock(2 * SOON)).await;
    gateway.until_upstreams_are_up().await;

    let ann = Who::Person("ann");
    let (for_up, for_other) =
        (Client::register(gateway.public, "/mcp/up").await, Client::register(gateway.public, "/mcp/other").await);
    let good = tokens_of(&gateway, &client, ann, "mcp").await;
    let narrow = tokens_of(&gateway, &for_up, ann, "mcp").await;
    let other = tokens_of(&gateway, &for_other, ann, "mcp").await;
    let extra = tokens_of(&gateway, &client, ann, "extra").await;
    let revoked = tokens_of(&gateway, &client, ann, "mcp").await;
    client.revoke(&revoked.access).await;
    let ended = tokens_of(&gateway, &client, Who::Guest, "mcp").await;
    client.revoke(&ended.refresh).await;
    let suspended = tokens_of(&gateway, &client, Who::Person("ben"), "mcp").await;
    let new = json!({ "name": "drawn", "allow": [{ "upstream": "*", "tools": ["*"] }] });
    let drawn = gateway.operator("POST", "/api/v1/keys", Some(new)).await.json()["secret"].as_str().unwrap().to_owned();
    let of_key = tokens_of_key(&gateway, &client, &drawn).await;
    let fine = [
        kind("a token of a key", &of_key.access, [200, 200]),
        kind("a key", &drawn, [200, 200]),
        kind("a token of ben", &suspended.access, [200, 200]),
    ];
    for kind in fine {
        kind.at_endpoints(&gateway).await;
    }
    let users = gateway.operator("GET", "/api/v1/users?login=ben", None).await.json();
    let path = format!("/api/v1/users/{}", users["users"][0]["id"].as_str().unwrap());
    assert_eq!(gateway.operator("PATCH", &path, Some(json!({ "status": "suspended" }))).await.status, 200);
    assert_eq!(gateway.operator("PATCH", "/api/v1/keys/drawn", Some(json!({ "disabled": true }))).await.status, 200);
    let mut anns = Browser::new(gateway.public);
    let page = anns.get("/sign-in").await;
    sign_in(&mut anns, &page, "ann", PASSWORD).await;

    let nobody = Kind { what: "nobody", bearer: None, cookies: None, answers: [401, 401] };
    let cookies = Kind { what: "a browser", cookies: anns.jar.header(), ..nobody };
    let nobody = Kind { what: "nobody", bearer: None, cookies: None, answers: [401, 401] };
    let kinds = [
        nobody,
        kind("a good token", &good.access, [200, 200]),
        kind("a token for an upstream", &narrow.access, [401, 200]),
        kind("a token for another upstream", &other.access, [401, 401]),
        kind("a token of another scope", &extra.access, [403, 403]),
        kind("a token that is not valid yet", &early.access, [401, 401]),
        kind("a token of an old epoch", &old.access, [401, 401]),
        kind("a revoked token", &revoked.access, [401, 401]),
        kind("a token of an ended grant", &ended.access, [401, 401]),
        kind("a token of a suspended person", &suspended.access, [401, 401]),
        kind("a token of a disabled key", &of_key.access, [401, 401]),
        kind("a key", &Gateway::secret("alice"), [200, 200]),
        kind("a disabled key", &drawn, [401, 401]),
        kind("an unknown key", "pk_nobody-0123456789abcdef0123456789abcdef", [401, 401]),
        kind("a refresh token", &good.refresh, [401, 401]),
    ];
    for kind in &kinds {
        kind.at_endpoints(&gateway).await;
        kind.at_routes(&mut Browser::new(gateway.public), false).await;
    }
    cookies.at_endpoints(&gateway).await;
    cookies.at_routes(&mut anns, true).await;

    gateway.clock.advance(AFTER_ACCESS);
    kind("an expired token", &good.access, [401, 401]).at_endpoints(&gateway).await;
    kind("an expired token", &good.access, [401, 401]).at_routes(&mut Browser::new(gateway.public), false).await;
    // Its hour has come: nothing else was wrong with it.
    gateway.clock.advance(HOUR - AFTER_ACCESS);
    kind("a token whose time has come", &early.access, [200, 200]).at_endpoints(&gateway).await;
}
