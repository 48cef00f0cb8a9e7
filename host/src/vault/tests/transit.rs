//! The transit engine, against a stand-in on loopback that encrypts for real and has versions of its key.

use std::sync::Mutex;

use aws_lc_rs::{aead, hmac};
use axum::extract::{Path as UrlPath, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::*;
use crate::store::data_keys;
use crate::vault::deployment::Named;
use crate::vault::{RingError, VaultError};

const TOKEN: &str = "hvs.canary-token";

/// What the engine knows: the versions of its one key, and whether it is sealed.
#[derive(Default)]
struct Engine {
    versions: Mutex<Vec<[u8; 32]>>,
    is_sealed: AtomicBool,
    /// Answers 400 to what it has to decrypt, whatever that is.
    is_confused: AtomicBool,
    /// The token that it lets in, in place of [`TOKEN`].
    renewed: Mutex<Option<&'static str>>,
    asked: Mutex<Vec<String>>,
}

impl Engine {
    fn rotate(&self) {
        let mut versions = self.versions.lock().unwrap();
        versions.push(Env::system().random());
    }

    fn key(&self, version: Option<usize>) -> Option<(usize, [u8; 32])> {
        let versions = self.versions.lock().unwrap();
        let version = version.unwrap_or(versions.len());
        Some((version, *versions.get(version.checked_sub(1)?)?))
    }

    fn answer(&self, operation: &str, body: &Value) -> Result<Value, StatusCode> {
        let text = |name: &str| body[name].as_str().ok_or(StatusCode::BAD_REQUEST);
        let bytes = |name: &str| STANDARD.decode(text(name)?).map_err(|_| StatusCode::BAD_REQUEST);
        match operation {
            "encrypt" => {
                let (version, key) = self.key(None).ok_or(StatusCode::BAD_REQUEST)?;
                let mut sealed = bytes("plaintext")?;
                let nonce = randomized(&key).seal_in_place_append_tag(aead::Aad::empty(), &mut sealed).unwrap();
                let sealed = [&nonce.as_ref()[..], &sealed].concat();
                Ok(json!({ "ciphertext": format!("vault:v{version}:{}", STANDARD.encode(sealed)) }))
            }
            "decrypt" if self.is_confused.load(Ordering::SeqCst) => Err(StatusCode::BAD_REQUEST),
            "decrypt" => {
                let (version, sealed) = text("ciphertext")?
                    .strip_prefix("vault:v")
                    .and_then(|rest| rest.split_once(':'))
                    .ok_or(StatusCode::BAD_REQUEST)?;
                let (_, key) = self.key(version.parse().ok()).ok_or(StatusCode::BAD_REQUEST)?;
                let sealed = STANDARD.decode(sealed).map_err(|_| StatusCode::BAD_REQUEST)?;
                let (nonce, sealed) = sealed.split_at_checked(aead::NONCE_LEN).ok_or(StatusCode::BAD_REQUEST)?;
                let nonce = aead::Nonce::try_assume_unique_for_key(nonce).unwrap();
                let mut sealed = sealed.to_vec();
                let plaintext = randomized(&key).open_in_place(nonce, aead::Aad::empty(), &mut sealed);
                let plaintext = plaintext.map_err(|_| StatusCode::BAD_REQUEST)?;
                Ok(json!({ "plaintext": STANDARD.encode(plaintext) }))
            }
            "hmac" => {
                let wanted = body["key_version"].as_u64().and_then(|version| usize::try_from(version).ok());
                let (version, key) = self.key(wanted).ok_or(StatusCode::BAD_REQUEST)?;
                let mac = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), &bytes("input")?);
                Ok(json!({ "hmac": format!("vault:v{version}:{}", STANDARD.encode(mac)) }))
            }
            _ => Err(StatusCode::NOT_FOUND),
        }
    }
}

fn randomized(key: &[u8; 32]) -> aead::RandomizedNonceKey {
    aead::RandomizedNonceKey::new(&aead::AES_256_GCM, key).unwrap()
}

async fn transit(
    State(engine): State<Arc<Engine>>,
    UrlPath((operation, key)): UrlPath<(String, String)>,
    headers: HeaderMap,
    Json(body): Json<Value>,
) -> (StatusCode, Json<Value>) {
    engine.asked.lock().unwrap().push(operation.clone());
    let error = |status| (status, Json(json!({ "errors": ["no"] })));
    if engine.is_sealed.load(Ordering::SeqCst) {
        return error(StatusCode::SERVICE_UNAVAILABLE);
    }
    let wanted = engine.renewed.lock().unwrap().unwrap_or(TOKEN);
    if headers.get("x-vault-token").is_none_or(|token| token != wanted) {
        return error(StatusCode::FORBIDDEN);
    }
    if key != "portcullis" || headers.get("x-vault-namespace").is_none_or(|namespace| namespace != "team") {
        return error(StatusCode::NOT_FOUND);
    }
    match engine.answer(&operation, &body) {
        Ok(data) => (StatusCode::OK, Json(json!({ "request_id": "1", "data": data }))),
        Err(status) => error(status),
    }
}

/// A running engine with one version of its key, and the settings of a vault that uses it.
async fn running() -> (Arc<Engine>, config::Vault, tokio::task::JoinHandle<()>) {
    let engine = Arc::new(Engine::default());
    engine.rotate();
    let router = Router::new().route("/v1/secrets/transit/{operation}/{key}", post(transit)).with_state(engine.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    #[expect(clippy::disallowed_methods, reason = "it ends with the test")]
    let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    let source = VaultKeySource::Transit {
        url,
        mount: "secrets/transit".to_owned(),
        key: "portcullis".to_owned(),
        token: Plaintext::new(TOKEN),
        token_file: None,
        namespace: Some("team".to_owned()),
    };
    let key = VaultKey { kid: kid("transit"), state: VaultKeyState::Active, source };
    (engine, settings(vec![key]), server)
}

#[tokio::test]
async fn data_keys_are_wrapped_and_tagged_by_the_engine() {
    let (engine, settings, _server) = running().await;
    let store = memory().await;
    let vault = start(&store, &settings).await.unwrap();
    for number in 0..5 {
        assert!(vault.put(&owner(&format!("key:k{number}")), "a", b"hunter2").await.unwrap());
    }
    let key = data_keys::find(&store, &owner("key:k0")).await.unwrap().key.unwrap();
    assert!(key.wrapped.as_bytes().starts_with(b"vault:v1:") && key.root == 1);
    let asked = |operation: &str| engine.asked.lock().unwrap().iter().filter(|asked| *asked == operation).count();
    // One probe and five data keys, and one root.
    assert_eq!((asked("encrypt"), asked("decrypt"), asked("hmac")), (6, 1, 1));

    // The key gets another version in place: what was wrapped by the first stays readable.
    engine.rotate();
    let again = start(&store, &settings).await.unwrap();
    assert!(matches!(again.get(&owner("key:k0"), "a").await.unwrap(), Named::Secret(_)));
    again.put(&owner("key:new"), "a", b"x").await.unwrap();
    let key = data_keys::find(&store, &owner("key:new")).await.unwrap().key.unwrap();
    assert!(key.wrapped.as_bytes().starts_with(b"vault:v2:") && key.root == 2, "{key:?}");
    assert!(matches!(again.get(&owner("key:new"), "a").await.unwrap(), Named::Secret(_)));

    // A data key that somebody wrapped by the engine without knowing the root.
    let forged = data_keys::DataKey {
        wrapped: key.wrapped,
        ..data_keys::find(&store, &owner("key:k1")).await.unwrap().key.unwrap()
    };
    data_keys::create(&store, &data_keys::DataKey { owner: owner("key:forged"), ..forged }).await.unwrap();
    assert!(matches!(again.put(&owner("key:forged"), "a", b"x").await, Err(VaultError::DataKeyDamaged { .. })));
}

/// A vault with a secret of Alice and one of the deployment, both called `a`.
async fn with_secrets(settings: &config::Vault) -> (Store, Vault) {
    let store = memory().await;
    let vault = start(&store, settings).await.unwrap();
    for of in [owner("key:alice"), Owner::Deployment] {
        assert!(vault.put(&of, "a", b"1").await.unwrap());
    }
    (store, vault)
}

#[tokio::test]
async fn an_engine_that_is_sealed_gone_or_another_one_is_told_apart() {
    let (engine, settings, server) = running().await;
    let (store, vault) = with_secrets(&settings).await;
    let alice = owner("key:alice");

    engine.is_sealed.store(true, Ordering::SeqCst);
    assert!(matches!(vault.get(&alice, "a").await.unwrap(), Named::Secret(_)), "it is in memory");
    vault.forget();
    let error = vault.get(&alice, "a").await.unwrap_err();
    assert!(matches!(error, VaultError::Unavailable { .. }) && told(&error).contains("503"), "{}", told(&error));
    let error = start(&store, &settings).await.unwrap_err();
    assert!(matches!(&error, OpenError::Ring(RingError::Unavailable { .. })), "{error}");
    engine.is_sealed.store(false, Ordering::SeqCst);
    pass_the_pause().await;
    assert!(matches!(vault.get(&alice, "a").await.unwrap(), Named::Secret(_)));

    // Another engine's key under the same name.
    *engine.versions.lock().unwrap() = vec![[9; 32]];
    let error = start(&store, &settings).await.unwrap_err();
    assert!(matches!(&error, OpenError::Ring(RingError::Wrong { .. })), "{error}");

    server.abort();
    _ = server.await;
    vault.forget();
    let error = vault.get(&alice, "a").await.unwrap_err();
    assert!(matches!(error, VaultError::Unavailable { .. }), "{error}");
    assert!(!told(&error).contains(TOKEN));
}

#[tokio::test]
async fn a_token_that_is_refused_is_a_fault_that_does_not_show_it() {
    let (_engine, mut settings, _server) = running().await;
    let VaultKeySource::Transit { token, .. } = &mut settings.keys[0].source else { panic!("a transit key") };
    *token = Plaintext::new("hvs.wrong-token");
    let error = told(&start(&memory().await, &settings).await.unwrap_err());
    assert!(error.contains("403") && error.contains("\"transit\"") && !error.contains("hvs."), "{error}");
}

#[tokio::test]
async fn an_engine_that_refuses_what_it_has_wrapped_is_a_fault_and_no_damage() {
    let (engine, settings, _server) = running().await;
    let (store, vault) = with_secrets(&settings).await;
    let alice = owner("key:alice");
    vault.forget();
    engine.is_confused.store(true, Ordering::SeqCst);
    assert!(matches!(vault.get(&alice, "a").await, Err(VaultError::Unavailable { .. })));
    assert!(matches!(vault.put(&alice, "b", b"1").await, Err(VaultError::Unavailable { .. })));
    assert!(matches!(start(&store, &settings).await, Err(OpenError::Ring(RingError::Unavailable { .. }))));
    assert!(!events(&store).await.iter().any(|event| matches!(event, AuditEvent::VaultRecordRefused { .. })));
    // It answers, so that nobody is kept from asking it.
    engine.is_confused.store(false, Ordering::SeqCst);
    assert!(matches!(vault.get(&alice, "a").await.unwrap(), Named::Secret(_)));
}

#[tokio::test]
async fn a_version_that_nothing_is_wrapped_with_is_damage() {
    let (_engine, settings, _server) = running().await;
    let store = memory().await;
    let vault = start(&store, &settings).await.unwrap();
    let alice = owner("key:alice");
    assert!(vault.put(&alice, "a", b"1").await.unwrap());
    let key = data_keys::find(&store, &alice).await.unwrap().key.unwrap();
    let bob = owner("key:bob");
    data_keys::create(&store, &data_keys::DataKey { owner: bob.clone(), root: 0, ..key }).await.unwrap();
    assert!(matches!(vault.put(&bob, "a", b"1").await, Err(VaultError::DataKeyDamaged { .. })));
}

#[tokio::test]
async fn keys_that_stay_as_they_are_need_not_be_in_reach_for_a_reload() {
    let (engine, mut settings, _server) = running().await;
    let (_store, vault) = with_secrets(&settings).await;
    let alice = owner("key:alice");
    engine.is_sealed.store(true, Ordering::SeqCst);
    vault.reload(&settings).await.unwrap();
    assert!(matches!(vault.get(&alice, "a").await.unwrap(), Named::Secret(_)), "it is in memory still");
    settings.keys[0].state = VaultKeyState::DecryptOnly;
    settings.keys.push(key("k2", 2, VaultKeyState::Active));
    let error = vault.reload(&settings).await.unwrap_err();
    assert!(matches!(&error, OpenError::Ring(RingError::Unavailable { .. })), "{error}");
    engine.is_sealed.store(false, Ordering::SeqCst);
    vault.reload(&settings).await.unwrap();
}

#[tokio::test]
async fn a_token_that_was_renewed_in_its_file_is_read_again() {
    let (engine, mut settings, _server) = running().await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    std::fs::write(&path, TOKEN).unwrap();
    let VaultKeySource::Transit { token_file, .. } = &mut settings.keys[0].source else { panic!("a transit key") };
    *token_file = Some(path.clone());
    let store = memory().await;
    let vault = start(&store, &settings).await.unwrap();
    let put = async |name: &str| vault.put(&owner(&format!("key:{name}")), "a", b"1").await;
    assert!(put("a").await.unwrap());
    *engine.renewed.lock().unwrap() = Some("hvs.renewed");
    assert!(matches!(put("b").await, Err(VaultError::Unavailable { .. })));
    std::fs::write(&path, "hvs.renewed\n").unwrap();
    pass_the_pause().await;
    assert!(put("b").await.unwrap());
    let asked = engine.asked.lock().unwrap().len();
    assert!(put("c").await.unwrap());
    assert_eq!(engine.asked.lock().unwrap().len(), asked + 1, "the token is the new one from now on");
}
