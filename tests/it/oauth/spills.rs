//! H9 for the flows beside a sign-in: no secret of a device, of a pushed request, of a client that acts for itself or manages
//! itself, or of a changed password is written anywhere; and nobody writes lines of their own into the log.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use portcullis_tests::Reply;
use portcullis_tests::caller::send_unix;
use portcullis_tests::oauth::client::random;
use portcullis_tests::oauth::connection::send;
use portcullis_tests::oauth::{Browser, Client, Form, Tokens, encoded, query};
use portcullis_tests::upstreams::fixture::Fixture;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Who, arrive, sign_in};
use crate::vault::canary::{Canaries, Written, private};
use crate::vault::{Process, free_port};

const DEVICE: &str = "urn:ietf:params:oauth:grant-type:device_code";
const FORM: [(&str, &str); 1] = [("content-type", "application/x-www-form-urlencoded")];

/// The real program in a directory of its own, with a log of everything.
pub(crate) struct Place {
    pub(crate) dir: TempDir,
    pub(crate) public: SocketAddr,
    _up: Fixture,
}

impl Place {
    pub(crate) async fn start(settings: &str, canaries: &Canaries) -> (Self, Process) {
        let up = Fixture::start().await;
        let dir = TempDir::new().unwrap();
        let public = SocketAddr::from(([127, 0, 0, 1], free_port()));
        private(&dir.path().join("alice.key"), canaries.get("key of the file"));
        let config = format!(
            "public_url = \"http://{public}\"\ndata_dir = \"data\"\n[listen]\npublic = \"{public}\"\nadmin = \"off\"\n{settings}\n\
             [upstreams.up]\nurl = \"{}\"\n[keys.alice]\nsecret = \"file:alice.key\"\nallow = [{{ upstream = \"*\", tools = [\"*\"] }}]\n",
            up.url
        );
        let place = Self { dir, public, _up: up };
        fs::write(place.path("portcullis.toml"), config).unwrap();
        private(&place.path("machine.secret"), canaries.get("secret of a known client"));
        let process = Process::start(place.dir.path(), |command| {
            command.env("PORTCULLIS_LOG", "trace,wasmtime=debug,cranelift_codegen=debug,regalloc2=debug");
            command.stderr(File::create(place.path("gateway.log")).unwrap());
            command.stdout(File::create(place.path("gateway.out")).unwrap());
        })
        .await;
        (place, process)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) async fn operator(&self, method: &str, path: &str, body: Option<Value>) -> Reply {
        send_unix(Path::new(&self.path("data/admin.sock")), method, path, body).await.unwrap()
    }
}

/// A client assertion (RFC 7523 § 3) by a key of P-256, and the key as the client registers it.
#[expect(clippy::disallowed_methods, reason = "a client has randomness of its own")]
fn assertion(key: &EcdsaKeyPair, claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(&json!({ "alg": "ES256", "kid": "k", "typ": "JWT" })), part(claims));
    let signature = key.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn public_key(key: &EcdsaKeyPair) -> Value {
    let point = key.public_key().as_ref();
    let (x, y) = (URL_SAFE_NO_PAD.encode(&point[1..33]), URL_SAFE_NO_PAD.encode(&point[33..65]));
    json!({ "kty": "EC", "crv": "P-256", "x": x, "y": y, "kid": "k", "alg": "ES256", "use": "sig" })
}

#[tokio::test(flavor = "multi_thread")]
async fn h9_no_secret_of_any_other_flow_is_written_anywhere() {
    let mut canaries = Canaries::of(&["key of the file", "password", "new password", "secret of a known client"]);
    let mut written = Written::default();
    let settings = "[auth.grants]\ndevice = true\nclient_credentials = true\n[auth.clients.known.machine]\n\
                    name = \"A machine\"\nsecret = \"file:machine.secret\"\nkey = \"alice\"\ngrant_types = [\"client_credentials\"]\n";
    let (place, process) = Place::start(settings, &canaries).await;
    let public = place.public;
    let user = json!({ "login": "ann", "name": "Ann", "password": canaries.get("password") });
    written.add_reply("user", &place.operator("POST", "/api/v1/users", Some(user)).await);
    let mut browser = Browser::new(public);
    let page = browser.get("/sign-in").await;
    sign_in(&mut browser, &page, "ann", canaries.get("password")).await;

    // A device.
    let metadata =
        json!({ "client_name": "A television", "grant_types": [DEVICE, "refresh_token"], "redirect_uris": [] });
    let device = Client::register_as(public, "/mcp", metadata).await;
    let fields = [("scope", "mcp".to_owned()), ("resource", device.resource())];
    let begun = device.post("device_authorization_endpoint", &fields).await.json();
    let text = |name: &str| begun[name].as_str().unwrap_or_else(|| panic!("{begun}")).to_owned();
    canaries.adopt("device code", &text("device_code"));
    let poll = [("grant_type", DEVICE.to_owned()), ("device_code", text("device_code"))];
    written.add_reply("pending", &device.token(&poll).await);
    let page = browser.get("/device").await;
    let asked = browser.submit(&page.form("/device").with("user_code", &text("user_code"))).await;
    browser.submit(&asked.form("/device").press("approve")).await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    let tokens = Tokens::of(&device.token(&poll).await);
    canaries.adopt("refresh token of a device", &tokens.refresh);
    canaries.adopt("access token of a device", &tokens.access);
    written.add_reply("used", &device.token(&poll).await);

    // A pushed request.
    let local = Client::register(public, "/mcp").await;
    let begun = local.begin();
    let names =
        ["response_type", "redirect_uri", "scope", "state", "code_challenge", "code_challenge_method", "resource"];
    let said = query(&begun.url);
    let said = |name: &str| said.iter().find(|(known, _)| known == name).unwrap().1.clone();
    let fields: Vec<(&'static str, String)> = names.into_iter().map(|name| (name, said(name))).collect();
    let pushed = local.post("pushed_authorization_request_endpoint", &fields).await.json();
    let uri = pushed["request_uri"].as_str().unwrap_or_else(|| panic!("{pushed}")).to_owned();
    canaries.adopt("request URI", uri.rsplit(':').next().unwrap());
    let at = format!("/oauth2/authorize?{}", encoded(&[("client_id", local.id.as_str()), ("request_uri", &uri)]));
    let page = browser.get(&at).await;
    let page = browser.submit(&super::identity(&page, Who::Person("ann"))).await;
    let page = browser.submit(&page.form("/finish")).await;
    let code = local.code(&begun, &page.url);
    canaries.adopt("code of a pushed request", &code);
    assert_eq!(local.redeem(&begun, &code).await.status, 200);
    written.add_reply("used", &browser.get(&at).await.reply);

    // A client that acts for itself.
    let secret = canaries.get("secret of a known client").to_owned();
    let machine = Client::known(public, "/mcp", "machine", Some(&secret), "").await;
    let grant = |client: &Client| [("grant_type", "client_credentials".to_owned()), ("resource", client.resource())];
    let own = Tokens::of(&machine.token(&grant(&machine)).await);
    canaries.adopt("access token of a machine", &own.access);

    // A client with a key of its own.
    let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let metadata = json!({
        "redirect_uris": ["https://client.example/callback"], "token_endpoint_auth_method": "private_key_jwt",
        "jwks": { "keys": [public_key(&key)] },
    });
    let with_key = Client::register_as(public, "/mcp", metadata).await;
    let now = portcullis::Env::system().now().as_millis() / 1000;
    let issuer = format!("http://{public}");
    let claims = json!({
        "iss": with_key.id, "sub": with_key.id, "aud": issuer, "jti": random(), "iat": now, "exp": now + 50,
    });
    let signed = assertion(&key, &claims);
    canaries.adopt("client assertion", &signed);
    canaries.adopt("its signature", signed.rsplit('.').next().unwrap());
    let body = |assertion: &str| {
        encoded(&[
            ("grant_type", "refresh_token"),
            ("refresh_token", "pcr_nothing"),
            ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
            ("client_assertion", assertion),
        ])
    };
    let known = send(public, "POST", "/oauth2/token", &FORM, body(&signed)).await;
    assert_eq!(super::refusal(&known), super::invalid_grant(), "the client is known by its key");
    let again = send(public, "POST", "/oauth2/token", &FORM, body(&signed)).await;
    assert_eq!(super::refusal(&again), (401, "invalid_client".to_owned()));
    written.add_reply("again", &again);

    // A client that manages itself.
    let path = with_key.registration["registration_client_uri"].as_str().unwrap().strip_prefix(&issuer).unwrap();
    let first = with_key.registration["registration_access_token"].as_str().unwrap().to_owned();
    canaries.adopt("registration token", &first);
    let manage = async |method: &str, token: &str, body: String| {
        let bearer = format!("Bearer {token}");
        send(public, method, path, &[("content-type", "application/json"), ("authorization", &bearer)], body).await
    };
    let change = json!({
        "client_id": with_key.id, "redirect_uris": ["https://client.example/callback"],
        "token_endpoint_auth_method": "client_secret_basic",
    });
    let changed = manage("PUT", &first, change.to_string()).await;
    assert_eq!(changed.status, 200, "{}", changed.text());
    let second = changed.json()["registration_access_token"].as_str().unwrap().to_owned();
    canaries.adopt("second registration token", &second);
    canaries.adopt("second secret", changed.json()["client_secret"].as_str().unwrap());
    written.add_reply("first token", &manage("GET", &first, String::new()).await);
    assert_eq!(manage("DELETE", &second, String::new()).await.status, 204);

    // Another password.
    let account = browser.get("/account").await;
    let form = account.form("/account/password");
    let both = |form: Form, new: &str| form.with("new", new).with("repeated", new);
    let wrong = form.clone().with("old", canaries.get("new password"));
    let refused = browser.submit(&both(wrong, canaries.get("password"))).await;
    assert_eq!(refused.status(), 403, "{refused}");
    written.add_reply("wrong password", &refused.reply);
    let right = refused.form("/account/password").with("old", canaries.get("password"));
    let done = browser.submit(&both(right, canaries.get("new password"))).await;
    assert!(done.text().contains("Your password is changed"), "{done}");
    written.add_reply("new password", &done.reply);

    for path in ["/api/v1/audit?limit=200", "/api/v1/grants", "/api/v1/users", "/api/v1/clients", "/api/v1/decisions"] {
        written.add_reply(path, &place.operator("GET", path, None).await);
    }
    written.add("store of the running gateway", fs::read(place.path("data/portcullis.redb")).unwrap());
    process.stop().await;
    written.add_files(
        place.dir.path(),
        &["alice.key", "machine.secret", "vault.key", "deployment-secret", "operator-token"],
    );
    assert!(fs::read_to_string(place.path("gateway.log")).unwrap().len() > 10_000, "the log is a full one");
    assert_eq!(written.leaks(&canaries), Vec::<String>::new());
}

/// What strangers say stands in the log as what they said: no line is theirs, and nothing in it drives a terminal.
#[tokio::test(flavor = "multi_thread")]
async fn h9_nobody_writes_lines_of_their_own_into_the_log() {
    const MARK: &str = "planted-line";
    let canaries = Canaries::of(&["key of the file", "secret of a known client"]);
    let (place, process) = Place::start("", &canaries).await;
    let public = place.public;
    let planted = format!("x\r\n{{\"level\":\"ERROR\",\"message\":\"{MARK}\"}}\n\u{1b}[31m{MARK}\u{7}\u{202e}");
    for name in ["client_name", "software_id", "software_version", "client_uri"] {
        let mut metadata = json!({ "redirect_uris": ["http://127.0.0.1:7777/callback"] });
        metadata[name] = json!(planted);
        let body = metadata.to_string();
        send(public, "POST", "/oauth2/register", &[("content-type", "application/json")], body).await;
    }
    let client = Client::register(public, "/mcp").await;
    let mut browser = Browser::new(public);
    // What no header can hold, a browser cannot send; what one can, it does.
    browser.headers.push(("user-agent".to_owned(), format!("agent {MARK} \"}} \\n\\u001b[31m\t{{")));
    let page = browser.get("/sign-in").await;
    sign_in(&mut browser, &page, &planted, &planted).await;
    arrive(&mut browser, &client.begin_with(&[("state", &planted)])).await;
    for (name, value) in
        [("scope", planted.as_str()), ("resource", &planted), ("redirect_uri", &planted), ("prompt", &planted)]
    {
        browser.get(&client.begin_with(&[(name, value)]).url).await;
    }
    for name in ["grant_type", "code", "refresh_token", "scope", "client_id", "resource"] {
        client.token(&[(&*name.to_owned().leak(), planted.clone())]).await;
        let mut fields = client.refreshing("pcr_nothing");
        fields.push((&*name.to_owned().leak(), planted.clone()));
        client.token(&fields).await;
    }
    let path = format!("/oauth2/register/{}", encoded(&[("x", &planted)]));
    send(public, "GET", &path, &[("authorization", "Bearer x")], "").await;
    send(public, "GET", &format!("/.well-known/oauth-protected-resource/{path}"), &[], "").await;
    process.stop().await;
    let log = fs::read_to_string(place.path("gateway.log")).unwrap();
    assert!(log.len() > 10_000, "the log is a full one");
    let mut marked = 0;
    for line in log.lines() {
        let said: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(said["timestamp"].is_string() && said["level"].is_string() && said["target"].is_string(), "{line}");
        assert_ne!(said["message"], MARK);
        assert!(!line.contains(|character: char| character.is_control()), "{line:?}");
        marked += usize::from(line.contains(MARK));
    }
    assert!(marked > 0, "something of it was logged at all");
}
