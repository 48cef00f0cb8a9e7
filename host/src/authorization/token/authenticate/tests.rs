//! Who a client is: rows T3, T4 and T19 of the threat checklist.

use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::super::super::testing::*;
use super::*;
use crate::authorization::key_sets::{FAULT_REST, KEY_SET_LIFE, KEY_SET_REST, KeySets};
use crate::outbound::{Fetcher, Trusted};

async fn ask(scene: &Scene, presented: Presented) -> Result<String, Refused> {
    authenticate(&scene.server, presented).await.unwrap().map(|client| client.id.as_str().to_owned())
}

fn name(client: &str) -> Presented {
    Presented::Name { client: client.to_owned() }
}

fn basic(client: &str, secret: &str) -> Presented {
    Presented::Basic { client: client.to_owned(), secret: Plaintext::new(secret) }
}

fn post(client: &str, secret: &str) -> Presented {
    Presented::Post { client: client.to_owned(), secret: Plaintext::new(secret) }
}

#[tokio::test]
async fn t3_a_client_is_told_by_exactly_the_method_that_it_registered() {
    let scene = Scene::new().await;
    let posting = Authentication::SecretPost(Plaintext::new("pcs_post").digest());
    scene.register("poster", posting).await;
    let header = Err(Refused::Client(Unproven::ByHeader));
    let request = Err(Refused::Client(Unproven::InRequest));
    for (presented, expected) in [
        (name("public"), Ok("public")),
        (basic("app", SECRET), Ok("app")),
        (post("poster", "pcs_post"), Ok("poster")),
        // The right secret by another method.
        (post("app", SECRET), request.clone()),
        (basic("poster", "pcs_post"), header.clone()),
        (name("app"), request.clone()),
        (name("poster"), request.clone()),
        // A public client that has a secret all the same.
        (basic("public", "x"), header.clone()),
        (basic("public", ""), header.clone()),
        (post("public", "x"), request.clone()),
        // Wrong secrets, and clients that there are not.
        (basic("app", "pcs_wrong"), header.clone()),
        (basic("app", ""), header.clone()),
        (basic("nobody", SECRET), header.clone()),
        (basic("no\"body", SECRET), header.clone()),
        (post("poster", "pcs_wrong"), request.clone()),
        (post("nobody", "pcs_post"), request.clone()),
        (name("nobody"), request.clone()),
        (Presented::BadHeader, header),
        (Presented::Nothing, request),
    ] {
        let told = format!("{presented:?}");
        assert_eq!(ask(&scene, presented).await, expected.map(str::to_owned), "{told}");
    }
}

#[tokio::test]
async fn t19_an_unknown_client_and_a_wrong_secret_are_one_answer() {
    let scene = Scene::new().await;
    let known = scene.server.client(&client_id("app")).await.unwrap();
    let expected = |authentication: &Authentication| match authentication {
        Authentication::SecretBasic(digest) => Some(*digest),
        _ => None,
    };
    let wrong = Plaintext::new("pcs_wrong");
    assert!(with_secret(&scene.server, known, &wrong, expected).is_none());
    assert!(with_secret(&scene.server, None, &wrong, expected).is_none());
    assert_eq!(ask(&scene, basic("app", "pcs_wrong")).await, ask(&scene, basic("nobody", "pcs_wrong")).await);
}

struct Signer(Ed25519KeyPair);

impl Signer {
    fn new() -> Self {
        Self(Ed25519KeyPair::generate().unwrap())
    }

    fn jwk(&self, kid: &str) -> Value {
        let x = URL_SAFE_NO_PAD.encode(self.0.public_key().as_ref());
        json!({ "kty": "OKP", "crv": "Ed25519", "x": x, "kid": kid, "use": "sig" })
    }

    fn assertion(&self, kid: &str, claims: &Value) -> Presented {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(&json!({ "alg": "EdDSA", "kid": kid })), part(claims));
        let signature = URL_SAFE_NO_PAD.encode(self.0.sign(message.as_bytes()).as_ref());
        let assertion = Plaintext::new(format!("{message}.{signature}"));
        Presented::Assertion { client: None, kind: assertion::TYPE.to_owned(), assertion }
    }
}

fn claims(scene: &Scene, jti: &str) -> Value {
    let now = scene.now().as_millis() / 1_000;
    json!({ "iss": "signer", "sub": "signer", "aud": ISSUER, "exp": now + 60, "iat": now, "jti": jti })
}

#[tokio::test]
async fn t4_an_assertion_for_the_issuer_proves_a_client_once() {
    let scene = Scene::new().await;
    let signer = Signer::new();
    let keys = json!({ "keys": [signer.jwk("k1")] }).to_string();
    scene.register("signer", Authentication::PrivateKey(KeySource::Inline(keys))).await;
    let refused = Err(Refused::Client(Unproven::InRequest));
    assert_eq!(ask(&scene, signer.assertion("k1", &claims(&scene, "1"))).await, Ok("signer".to_owned()));
    assert_eq!(ask(&scene, signer.assertion("k1", &claims(&scene, "1"))).await, refused, "the same again");
    assert_eq!(ask(&scene, signer.assertion("k1", &claims(&scene, "2"))).await, Ok("signer".to_owned()));

    let with = |member: &str, value: Value| {
        let mut claims = claims(&scene, member);
        claims[member] = value;
        signer.assertion("k1", &claims)
    };
    let endpoint = json!(format!("{ISSUER}/oauth2/token"));
    assert_eq!(ask(&scene, with("aud", endpoint)).await, refused);
    assert_eq!(ask(&scene, with("exp", json!(scene.now().as_millis() / 1_000 + 700))).await, refused);
    assert_eq!(ask(&scene, with("sub", json!("app"))).await, refused, "as a client with a secret");
    assert_eq!(ask(&scene, with("sub", json!("nobody"))).await, refused);
    assert_eq!(ask(&scene, Signer::new().assertion("k1", &claims(&scene, "3"))).await, refused, "by another key");
    assert_eq!(ask(&scene, signer.assertion("k2", &claims(&scene, "4"))).await, refused);
    for (client, kind) in [(Some("app"), assertion::TYPE), (None, "urn:ietf:params:oauth:client-assertion-type:saml2")]
    {
        let Presented::Assertion { assertion, .. } = signer.assertion("k1", &claims(&scene, "5")) else { panic!() };
        let presented = Presented::Assertion { client: client.map(str::to_owned), kind: kind.to_owned(), assertion };
        assert_eq!(ask(&scene, presented).await, refused, "{client:?} {kind}");
    }
    assert_eq!(ask(&scene, name("signer")).await, refused);
    assert_eq!(ask(&scene, basic("signer", "x")).await, Err(Refused::Client(Unproven::ByHeader)));
}

/// A server that answers each request with what `keys` holds, or that it cannot where that is nothing, and counts them.
async fn key_server(keys: Arc<std::sync::Mutex<String>>, asked: Arc<AtomicU64>) -> (JoinSet<()>, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 4096];
            _ = stream.read(&mut request).await.unwrap();
            asked.fetch_add(1, Ordering::Relaxed);
            let body = keys.lock().unwrap().clone();
            let status = if body.is_empty() { "503 Service Unavailable" } else { "200 OK" };
            let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
            stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
        }
    });
    (tasks, address.to_string())
}

#[tokio::test]
async fn t4_keys_of_an_address_come_through_the_guard_and_not_more_often_than_they_must() {
    let (one, two) = (Signer::new(), Signer::new());
    let keys = Arc::new(std::sync::Mutex::new(json!({ "keys": [one.jwk("k1")] }).to_string()));
    let asked = Arc::new(AtomicU64::new(0));
    let (_tasks, origin) = key_server(keys.clone(), asked.clone()).await;
    let mut scene = Scene::new().await;
    let address = KeySource::Address(format!("http://{origin}/jwks"));
    scene.register("signer", Authentication::PrivateKey(address)).await;
    let refused = Err(Refused::Client(Unproven::InRequest));
    assert_eq!(ask(&scene, one.assertion("k1", &claims(&scene, "0"))).await, refused, "nobody trusts that address");
    assert_eq!(asked.load(Ordering::Relaxed), 0);

    let trusted = Trusted::none().with(Trusted::parse(&origin).unwrap());
    let server = Arc::get_mut(&mut scene.server).unwrap();
    (server.fetcher, server.client_keys) = (Fetcher::new(trusted), KeySets::default());
    for jti in ["1", "2", "3"] {
        assert_eq!(ask(&scene, one.assertion("k1", &claims(&scene, jti))).await, Ok("signer".to_owned()));
    }
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    // The client has a new key. Its address is let alone for a while all the same.
    *keys.lock().unwrap() = json!({ "keys": [two.jwk("k2")] }).to_string();
    assert_eq!(ask(&scene, two.assertion("k2", &claims(&scene, "4"))).await, refused);
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    scene.forward(KEY_SET_REST);
    assert_eq!(ask(&scene, two.assertion("k2", &claims(&scene, "5"))).await, Ok("signer".to_owned()));
    assert_eq!(ask(&scene, one.assertion("k1", &claims(&scene, "6"))).await, refused);
    assert_eq!(asked.load(Ordering::Relaxed), 2);
}

/// The client `signer`, whose keys are at an address that is trusted.
async fn by_address(origin: &str) -> Scene {
    let mut scene = Scene::new().await;
    let address = KeySource::Address(format!("http://{origin}/jwks"));
    scene.register("signer", Authentication::PrivateKey(address)).await;
    let trusted = Trusted::none().with(Trusted::parse(origin).unwrap());
    Arc::get_mut(&mut scene.server).unwrap().fetcher = Fetcher::new(trusted);
    scene
}

#[tokio::test]
async fn t4_an_address_that_fails_denies_nobody_and_takes_no_keys_away() {
    let (one, stranger) = (Signer::new(), Signer::new());
    let set = json!({ "keys": [one.jwk("k1")] }).to_string();
    let keys = Arc::new(std::sync::Mutex::new(String::new()));
    let asked = Arc::new(AtomicU64::new(0));
    let (_tasks, origin) = key_server(keys.clone(), asked.clone()).await;
    let scene = by_address(&origin).await;
    let is_undecided = async |presented| matches!(authenticate(&scene.server, presented).await, Err(Fault::Busy));
    for jti in ["1", "2"] {
        assert!(is_undecided(one.assertion("k1", &claims(&scene, jti))).await);
    }
    assert_eq!(asked.load(Ordering::Relaxed), 1, "it is let alone for a moment");
    keys.lock().unwrap().clone_from(&set);
    scene.forward(FAULT_REST);
    assert_eq!(ask(&scene, one.assertion("k1", &claims(&scene, "3"))).await, Ok("signer".to_owned()));

    // Somebody names the client and a key that nobody has, while the address does not answer.
    keys.lock().unwrap().clear();
    scene.forward(KEY_SET_REST);
    assert!(is_undecided(stranger.assertion("k9", &claims(&scene, "4"))).await);
    assert_eq!(ask(&scene, one.assertion("k1", &claims(&scene, "5"))).await, Ok("signer".to_owned()));
    assert_eq!(asked.load(Ordering::Relaxed), 3);
    // Nor is a set believed for longer because somebody asks.
    scene.forward(KEY_SET_LIFE);
    assert!(is_undecided(one.assertion("k1", &claims(&scene, "6"))).await);
    keys.lock().unwrap().clone_from(&set);
    scene.forward(FAULT_REST);
    assert_eq!(ask(&scene, one.assertion("k1", &claims(&scene, "7"))).await, Ok("signer".to_owned()));
}

#[tokio::test]
async fn t4_whoever_comes_at_once_waits_for_one_fetch() {
    let one = Signer::new();
    let keys = Arc::new(std::sync::Mutex::new(json!({ "keys": [one.jwk("k1")] }).to_string()));
    let asked = Arc::new(AtomicU64::new(0));
    let (_tasks, origin) = key_server(keys, asked.clone()).await;
    let scene = Arc::new(by_address(&origin).await);
    let mut clients = JoinSet::new();
    for number in 0..100 {
        let (scene, presented) = (scene.clone(), one.assertion("k1", &claims(&scene, &number.to_string())));
        clients.spawn(async move { ask(&scene, presented).await });
    }
    assert!(clients.join_all().await.iter().all(Result::is_ok));
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}
