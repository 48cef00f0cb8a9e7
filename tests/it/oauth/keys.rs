//! Signing keys over time: T11, and the algorithms that an operator may choose.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use portcullis_tests::Gateway;
use portcullis_tests::oauth::Tokens;
use portcullis_tests::oauth::client::{document, header};
use serde_json::{Value, json};

use super::{is_let_in, scene, scene_with, signed_in};

async fn published(gateway: &Gateway) -> Vec<Value> {
    let url = format!("http://{}/.well-known/jwks.json", gateway.public);
    document(gateway.public, &url).await["keys"].as_array().unwrap().clone()
}

fn kids(keys: &[Value]) -> BTreeSet<String> {
    keys.iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
}

async fn rotate(gateway: &Gateway) {
    let rotated = gateway.operator("POST", "/api/v1/signing-keys/rotate", Some(json!({ "now": true }))).await;
    assert!(rotated.status.is_success(), "{}", rotated.text());
}

/// T11: a new key is published before it signs, an old one as long as something signed by it counts, and nobody who calls
/// meanwhile notices.
#[tokio::test(flavor = "multi_thread")]
async fn t11_rotation_under_load_fails_no_verification() {
    let (_up, gateway) = scene().await;
    let (client, mut tokens) = signed_in(&gateway).await;
    let stop = Arc::new(AtomicBool::new(false));
    let calls = Arc::new(AtomicU64::new(0));
    let mut load = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (client, mut tokens) = signed_in(&gateway).await;
        let (stop, calls) = (stop.clone(), calls.clone());
        load.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                assert!(is_let_in(&client, &tokens.access).await);
                tokens = Tokens::of(&client.refresh(&tokens.refresh).await);
                assert!(is_let_in(&client, &tokens.access).await);
                calls.fetch_add(2, Ordering::Relaxed);
            }
        });
    }
    let first = header(&tokens.access)["kid"].as_str().unwrap().to_owned();
    let mut signers = BTreeSet::from([first]);
    for _ in 0..5 {
        rotate(&gateway).await;
        tokens = Tokens::of(&client.refresh(&tokens.refresh).await);
        let signer = header(&tokens.access)["kid"].as_str().unwrap().to_owned();
        let published = kids(&published(&gateway).await);
        signers.insert(signer);
        assert!(signers.is_subset(&published), "{signers:?} in {published:?}");
    }
    stop.store(true, Ordering::Relaxed);
    while let Some(ended) = load.join_next().await {
        ended.unwrap();
    }
    assert!(calls.load(Ordering::Relaxed) > 10);
    assert!(signers.len() > 1, "{signers:?}");
}

#[tokio::test]
async fn t11_a_revoked_key_verifies_nothing_at_once() {
    let (_up, gateway) = scene().await;
    let (client, tokens) = signed_in(&gateway).await;
    let kid = header(&tokens.access)["kid"].as_str().unwrap().to_owned();
    let path = format!("/api/v1/signing-keys/{kid}/revoke");
    let revoked = gateway.operator("POST", &path, Some(json!({}))).await;
    assert!(revoked.status.is_success(), "{}", revoked.text());
    assert!(!is_let_in(&client, &tokens.access).await);
    assert!(!kids(&published(&gateway).await).contains(&kid));
    // Nobody has to sign in again for that.
    let renewed = Tokens::of(&client.refresh(&tokens.refresh).await);
    assert_ne!(header(&renewed.access)["kid"], kid);
    assert!(is_let_in(&client, &renewed.access).await);
}

#[tokio::test]
async fn each_algorithm_signs() {
    for (algorithm, kind) in [("RS256", "RSA"), ("ES256", "EC"), ("EdDSA", "OKP")] {
        let (_up, gateway) = scene_with(&format!("[auth.tokens]\nalgorithm = \"{algorithm}\"")).await;
        let (client, tokens) = signed_in(&gateway).await;
        let header = header(&tokens.access);
        assert_eq!(header["alg"], algorithm);
        let keys = published(&gateway).await;
        let key = keys.iter().find(|key| key["kid"] == header["kid"]).unwrap();
        assert_eq!(
            (key["kty"].as_str(), key["alg"].as_str(), key["use"].as_str()),
            (Some(kind), Some(algorithm), Some("sig"))
        );
        for secret in ["d", "p", "q", "dp", "dq", "qi", "k"] {
            assert!(key.get(secret).is_none(), "{key}");
        }
        assert!(is_let_in(&client, &tokens.access).await);
    }
}
