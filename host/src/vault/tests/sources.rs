//! Where keys are: files that are made, missing and wrong, and a key that is out of reach.

use tokio::task::JoinSet;

use super::*;
use crate::vault::deployment::Named;
use crate::vault::{RingError, VaultError};

#[tokio::test]
async fn a_key_file_is_made_for_an_empty_store_only() {
    let dir = tempfile::tempdir().unwrap();
    let (path, settings) = file(dir.path());
    let store = memory().await;
    let vault = start(&store, &settings).await.unwrap();
    assert!(vault.put(&Owner::Deployment, "a", b"1").await.unwrap());
    assert!(path.exists());
    let key = std::fs::read(&path).unwrap();

    std::fs::remove_file(&path).unwrap();
    let error = told(&start(&store, &settings).await.unwrap_err());
    assert!(error.contains("\"file\"") && error.contains("vault.key") && error.contains("does not exist"), "{error}");
    assert!(!path.exists());

    // Another key in its place.
    start(&memory().await, &settings).await.unwrap();
    assert_ne!(std::fs::read(&path).unwrap(), key);
    let error = start(&store, &settings).await.unwrap_err();
    assert!(matches!(&error, OpenError::Ring(RingError::Wrong { kid: wrong }) if *wrong == kid("file")), "{error}");

    std::fs::write(&path, key).unwrap();
    let again = start(&store, &settings).await.unwrap();
    assert!(matches!(again.get(&Owner::Deployment, "a").await.unwrap(), Named::Secret(_)));
}

#[tokio::test]
async fn a_start_that_was_interrupted_after_making_the_key_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (path, settings) = file(dir.path());
    crate::vault::make_key_file(&path, &Env::system()).unwrap();
    let key = std::fs::read(&path).unwrap();
    let store = memory().await;
    start(&store, &settings).await.unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), key);
    let made = |event: &AuditEvent| matches!(event, AuditEvent::VaultInitialized { kek, .. } if *kek == kid("file"));
    assert_eq!(events(&store).await.iter().filter(|event| made(event)).count(), 1);
    start(&store, &settings).await.unwrap();
    assert_eq!(events(&store).await.iter().filter(|event| made(event)).count(), 1);
}

#[tokio::test]
async fn a_variable_that_holds_no_key_stops_the_start_and_is_not_shown() {
    let mut wrong = key("k1", 1, VaultKeyState::Active);
    wrong.source =
        VaultKeySource::Environment { variable: "K".to_owned(), key: Plaintext::new("hunter2-is-not-a-key") };
    let settings = settings(vec![wrong]);
    let error = told(&start(&memory().await, &settings).await.unwrap_err());
    assert!(error.contains("\"k1\"") && error.contains("keygen"), "{error}");
    assert!(!format!("{error} {settings:?}").contains("hunter2"), "{error}");
}

#[tokio::test]
async fn while_a_key_is_out_of_reach_what_is_in_memory_serves_until_its_time_is_over() {
    let store = memory().await;
    let remote = Remote::new(1);
    let ttl = Duration::from_millis(1_500);
    let vault = vault_with(&store, remote.clone(), ttl).await;
    let (alice, bob) = (owner("key:alice"), owner("key:bob"));
    let before = tokio::time::Instant::now();
    assert!(vault.put(&alice, "a", b"1").await.unwrap());
    remote.is_down.store(true, Ordering::SeqCst);
    let read = vault.get(&alice, "a").await;
    if before.elapsed() < ttl {
        assert!(matches!(read, Ok(Named::Secret(_))), "{read:?}");
    }
    // Nobody has a new data key meanwhile.
    let unavailable =
        |error: &VaultError| matches!(error, VaultError::Unavailable { kid: named, .. } if *named == kid("k1"));
    assert!(vault.put(&bob, "a", b"1").await.is_err_and(|error| unavailable(&error)));
    tokio::time::sleep_until(before + ttl + Duration::from_millis(500)).await;
    assert!(vault.get(&alice, "a").await.is_err_and(|error| unavailable(&error)));
    let status = vault.status().await.unwrap();
    assert!(status.keys[0].fault.as_deref().is_some_and(|fault| fault.contains("down")));
    assert_eq!(status.cached, 0);
    // A fault is no refusal: nothing is in the trail, and all is well again without a restart.
    assert!(!events(&store).await.iter().any(|event| matches!(event, AuditEvent::VaultRecordRefused { .. })));
    remote.is_down.store(false, Ordering::SeqCst);
    pass_the_pause().await;
    assert!(matches!(vault.get(&alice, "a").await.unwrap(), Named::Secret(_)));
    assert!(vault.put(&bob, "a", b"1").await.unwrap());
}

#[tokio::test]
async fn a_key_that_does_not_answer_keeps_nobody_waiting() {
    const PATIENCE: Duration = Duration::from_millis(500);
    let store = memory().await;
    let remote = Remote::new(1);
    let kek = Kek::of("k1", VaultKeyState::Active, remote.clone()).with_patience(PATIENCE);
    let vault = vault_of(&store, vec![kek], Duration::from_secs(60)).await;
    let of = |number: usize| owner(&format!("key:k{}", number % 10));
    for number in 0..10 {
        assert!(vault.put(&of(number), "a", b"1").await.unwrap());
    }
    vault.forget();
    let asked = remote.asked.load(Ordering::SeqCst);
    let hanging = remote.answering.lock().await;
    let begun = tokio::time::Instant::now();
    let mut readers = JoinSet::new();
    for number in 0..60 {
        let vault = vault.clone();
        readers.spawn(async move { vault.get(&of(number), "a").await });
    }
    // Six for each owner, who wait for each other: for one answer that does not come, and not for six.
    for read in readers.join_all().await {
        assert!(matches!(read, Err(VaultError::Unavailable { .. })), "{read:?}");
    }
    assert!(begun.elapsed() < 3 * PATIENCE, "{:?}", begun.elapsed());
    assert_eq!(remote.asked.load(Ordering::SeqCst), asked + 10);
    // It is remembered for a while, and nobody asks.
    let begun = tokio::time::Instant::now();
    assert!(matches!(vault.get(&of(0), "a").await, Err(VaultError::Unavailable { .. })));
    assert!(begun.elapsed() < PATIENCE);
    assert_eq!(remote.asked.load(Ordering::SeqCst), asked + 10);
    // Then one asks, and the others do not wait for that.
    pass_the_pause().await;
    let mut readers = JoinSet::new();
    for number in 0..10 {
        let vault = vault.clone();
        readers.spawn(async move { vault.get(&of(number), "a").await });
    }
    assert!(readers.join_all().await.iter().all(Result::is_err));
    assert_eq!(remote.asked.load(Ordering::SeqCst), asked + 11);
    drop(hanging);
    pass_the_pause().await;
    assert!(matches!(vault.get(&of(0), "a").await.unwrap(), Named::Secret(_)));
    assert!(matches!(vault.get(&of(1), "a").await.unwrap(), Named::Secret(_)));
}

#[tokio::test]
async fn without_time_in_memory_the_key_is_asked_for_each_use() {
    let store = memory().await;
    let remote = Remote::new(1);
    let vault = vault_with(&store, remote.clone(), Duration::ZERO).await;
    let alice = owner("key:alice");
    vault.put(&alice, "a", b"1").await.unwrap();
    let asked = remote.asked.load(Ordering::SeqCst);
    for _ in 0..3 {
        assert!(matches!(vault.get(&alice, "a").await.unwrap(), Named::Secret(_)));
    }
    assert_eq!(remote.asked.load(Ordering::SeqCst), asked + 3);
}

#[tokio::test]
async fn age_identities_wrap_for_a_whole_vault() {
    use std::os::unix::fs::PermissionsExt as _;

    use age::secrecy::ExposeSecret as _;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("identity");
    let write = |identity: &age::x25519::Identity| {
        std::fs::write(&path, identity.to_string().expose_secret()).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    };
    write(&age::x25519::Identity::generate());
    let key = VaultKey { kid: kid("age"), state: VaultKeyState::Active, source: VaultKeySource::Age(path.clone()) };
    let settings = settings(vec![key]);
    let store = memory().await;
    let vault = start(&store, &settings).await.unwrap();
    let alice = owner("key:alice");
    assert!(vault.put(&alice, "a", b"1").await.unwrap());
    let again = start(&store, &settings).await.unwrap();
    assert!(matches!(again.get(&alice, "a").await.unwrap(), Named::Secret(_)));
    write(&age::x25519::Identity::generate());
    let error = start(&store, &settings).await.unwrap_err();
    assert!(matches!(&error, OpenError::Ring(RingError::Wrong { .. })), "{error}");
}
