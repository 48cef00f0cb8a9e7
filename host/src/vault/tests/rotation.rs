//! Key-encryption keys that come and go while records stay readable.

use super::*;
use crate::store::data_keys;
use crate::vault::deployment::Named;
use crate::vault::rotation::Rotation;
use crate::vault::{RingError, VaultError};

use VaultKeyState::{Active, DecryptOnly, Retired};

const OWNERS: usize = 150;

fn of(number: usize) -> Owner {
    owner(&format!("key:k{number}"))
}

async fn fill(vault: &Vault) {
    for number in 0..OWNERS {
        assert!(vault.put(&of(number), "notes", format!("secret {number}").as_bytes()).await.unwrap());
    }
}

async fn assert_all_readable(vault: &Vault) {
    vault.forget();
    for number in 0..OWNERS {
        let expected = SecretBytes::new(format!("secret {number}").into_bytes());
        assert_eq!(vault.get(&of(number), "notes").await.unwrap(), Named::Secret(expected), "{number}");
    }
}

async fn used(store: &Store) -> Vec<(String, usize)> {
    let usage = data_keys::usage(store).await.unwrap();
    usage.into_iter().map(|usage| (usage.kid.to_string(), usage.data_keys)).collect()
}

async fn refusal(store: &Store, keys: Vec<VaultKey>) -> RingError {
    match start(store, &settings(keys)).await {
        Err(OpenError::Ring(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_rotation_that_is_interrupted_after_every_step_loses_nothing() {
    let store = memory().await;
    let old = settings(vec![key("k1", 1, Active)]);
    fill(&start(&store, &old).await.unwrap()).await;
    assert_eq!(used(&store).await, [("k1".to_owned(), OWNERS)]);

    let both = settings(vec![key("k1", 1, DecryptOnly), key("k2", 2, Active)]);
    let mut steps = 0;
    loop {
        // A new process each time: nothing but the store knows how far it is.
        let vault = start(&store, &both).await.unwrap();
        let step = vault.rewrap_step(ACTOR).await.unwrap();
        assert_all_readable(&start(&store, &both).await.unwrap()).await;
        if step.is_done {
            assert_eq!((step.rewrapped, step.unreadable), (OWNERS as u64, 0));
            break;
        }
        steps += 1;
        // What comes while it goes on is wrapped by the new key.
        vault.put(&owner(&format!("key:new{steps}")), "notes", b"new").await.unwrap();
    }
    assert!(steps > 2, "{steps}");
    assert_eq!(used(&store).await, [("k2".to_owned(), OWNERS + steps)]);
    // Once more changes nothing.
    let vault = start(&store, &both).await.unwrap();
    let again = vault.rewrap_step(ACTOR).await.unwrap();
    assert!(again.is_done && again.rewrapped == 0, "{again:?}");
    // The old key is not needed any more.
    let without = start(&store, &settings(vec![key("k2", 2, Active)])).await.unwrap();
    assert_all_readable(&without).await;
    let rewrapped: u64 = events(&store)
        .await
        .into_iter()
        .map(|event| match event {
            AuditEvent::VaultRewrapped { to, keys } if to == kid("k2") => keys,
            _ => 0,
        })
        .sum();
    assert_eq!(rewrapped, OWNERS as u64);
}

#[tokio::test]
async fn a_crash_between_wrapping_and_committing_leaves_the_old_keys() {
    let store = memory().await;
    let both = settings(vec![key("k1", 1, Active), key("k2", 2, Active)]);
    let vault = start(&store, &both).await.unwrap();
    fill(&vault).await;
    // What a step reads and prepares, without its transaction.
    let batch = data_keys::to_rewrap(&store, &kid("k2")).await.unwrap();
    assert_eq!(batch.keys.len(), data_keys::MAX_REWRAPPED);
    assert_all_readable(&start(&store, &both).await.unwrap()).await;
    // Another replica was faster: what it has done is not undone.
    assert_eq!(vault.rotate(Some(kid("k2")), ACTOR).await.unwrap(), Rotation::Rotated(kid("k2")));
    vault.rewrap_step(ACTOR).await.unwrap();
    let stale: Vec<_> = batch.keys.iter().map(|key| (key.wrapped.clone(), key.clone())).collect();
    let progress = data_keys::rewrap(&store, &stale, &batch.then, 0, ACTOR).await.unwrap();
    assert_eq!(progress.rewrapped, 0);
    assert_all_readable(&vault).await;
}

#[tokio::test]
async fn records_stay_readable_while_keys_are_rotated_back_and_forth() {
    let store = memory().await;
    let both = settings(vec![key("k1", 1, Active), key("k2", 2, Active)]);
    let vault = start(&store, &both).await.unwrap();
    fill(&vault).await;
    let rotating = async {
        for _ in 0..3 {
            assert!(matches!(vault.rotate(None, ACTOR).await.unwrap(), Rotation::Rotated(_)));
            while !vault.rewrap_step(ACTOR).await.unwrap().is_done {}
        }
    };
    let reading = async {
        for round in 0..3 {
            assert_all_readable(&vault).await;
            let late = owner(&format!("key:late{round}"));
            assert!(vault.put(&late, "notes", b"late").await.unwrap());
            assert_eq!(vault.get(&late, "notes").await.unwrap(), Named::Secret(SecretBytes::new(b"late".to_vec())));
        }
    };
    tokio::join!(rotating, reading);
    assert_all_readable(&start(&store, &both).await.unwrap()).await;
}

#[tokio::test]
async fn the_store_says_which_active_key_is_in_use() {
    let store = memory().await;
    let keys = || vec![key("k1", 1, Active), key("k2", 2, Active), key("k3", 3, DecryptOnly)];
    let vault = start(&store, &settings(keys())).await.unwrap();
    vault.put(&of(0), "a", b"1").await.unwrap();
    assert_eq!(vault.rotate(Some(kid("k3")), ACTOR).await.unwrap(), Rotation::NotActive(kid("k3")));
    assert_eq!(vault.rotate(Some(kid("k9")), ACTOR).await.unwrap(), Rotation::NotConfigured(kid("k9")));
    assert_eq!(vault.rotate(None, ACTOR).await.unwrap(), Rotation::Rotated(kid("k2")));
    assert_eq!(vault.rotate(Some(kid("k2")), ACTOR).await.unwrap(), Rotation::Unchanged(kid("k2")));
    // On another replica too, whatever the order of its keys.
    let other = start(&store, &settings(keys())).await.unwrap();
    other.put(&of(1), "a", b"1").await.unwrap();
    assert_eq!(used(&store).await, [("k1".to_owned(), 1), ("k2".to_owned(), 1)]);
    let status = other.status().await.unwrap();
    let current: Vec<_> =
        status.keys.iter().map(|key| (key.kid.as_str(), key.is_current, key.fault.is_none())).collect();
    assert_eq!(current, [("k1", false, true), ("k2", true, true), ("k3", false, true)]);
    let alone = memory().await;
    let vault = super::vault(&alone).await;
    assert_eq!(vault.rotate(None, ACTOR).await.unwrap(), Rotation::NoOther);
}

#[tokio::test]
async fn a_ring_that_lacks_a_key_or_has_the_wrong_one_stops_the_start_and_names_it() {
    let store = memory().await;
    let both = || vec![key("k1", 1, Active), key("k2", 2, Active)];
    let vault = start(&store, &settings(both())).await.unwrap();
    vault.put(&of(0), "a", b"1").await.unwrap();
    vault.rotate(None, ACTOR).await.unwrap();
    vault.put(&of(1), "a", b"1").await.unwrap();

    let missing = refusal(&store, vec![key("k2", 2, Active)]).await;
    assert!(matches!(&missing, RingError::Missing { kid: missing } if *missing == kid("k1")), "{missing}");
    assert!(missing.to_string().contains("\"k1\""));
    let retired = refusal(&store, vec![key("k1", 1, Retired), key("k2", 2, Active)]).await;
    assert!(matches!(&retired, RingError::RetiredInUse { kid: retired } if *retired == kid("k1")), "{retired}");
    let wrong = refusal(&store, vec![key("k1", 1, DecryptOnly), key("k2", 7, Active)]).await;
    assert!(matches!(&wrong, RingError::Wrong { kid: wrong } if *wrong == kid("k2")), "{wrong}");

    // The same where a running gateway reads its configuration again: it keeps the ring that it has.
    let reload = vault.reload(&settings(vec![key("k1", 1, Retired), key("k2", 2, Active)])).await;
    assert!(matches!(reload, Err(OpenError::Ring(RingError::RetiredInUse { .. }))), "{reload:?}");
    assert!(matches!(vault.get(&of(0), "a").await.unwrap(), Named::Secret(_)));
    while !vault.rewrap_step(ACTOR).await.unwrap().is_done {}
    vault.reload(&settings(vec![key("k1", 1, Retired), key("k2", 2, Active)])).await.unwrap();
    assert!(matches!(vault.get(&of(0), "a").await.unwrap(), Named::Secret(_)));
    start(&store, &settings(vec![key("k2", 2, Active)])).await.unwrap();
}

#[tokio::test]
async fn another_replica_may_have_wrapped_by_a_key_that_this_one_does_not_know() {
    let store = memory().await;
    let one = start(&store, &settings(vec![key("k1", 1, Active)])).await.unwrap();
    one.put(&of(0), "a", b"1").await.unwrap();
    let other = start(&store, &settings(vec![key("k1", 1, DecryptOnly), key("k2", 2, Active)])).await.unwrap();
    other.put(&of(1), "a", b"1").await.unwrap();
    assert!(matches!(one.get(&of(1), "a").await, Err(VaultError::NoSuchKek { kid: named }) if named == kid("k2")));
    assert!(matches!(one.get(&of(0), "a").await.unwrap(), Named::Secret(_)));
    let step = one.verify(None).await.unwrap().unwrap();
    assert_eq!(step.bad.len(), 1);
}

#[tokio::test]
async fn a_damaged_data_key_does_not_keep_the_others_from_being_wrapped_anew() {
    let store = memory().await;
    let vault = start(&store, &settings(vec![key("k1", 1, Active), key("k2", 2, Active)])).await.unwrap();
    fill(&vault).await;
    let stolen = data_keys::find(&store, &of(0)).await.unwrap().key.unwrap();
    data_keys::create(&store, &data_keys::DataKey { owner: owner("key:a"), ..stolen }).await.unwrap();
    vault.rotate(None, ACTOR).await.unwrap();
    let done = loop {
        let step = vault.rewrap_step(ACTOR).await.unwrap();
        if step.is_done {
            break step;
        }
    };
    // It is all that is left of its key, and does not keep anything from starting.
    start(&store, &settings(vec![key("k1", 1, DecryptOnly), key("k2", 2, Active)])).await.unwrap();
    assert_eq!((done.rewrapped, done.unreadable), (OWNERS as u64, 1));
    assert_eq!(used(&store).await, [("k1".to_owned(), 1), ("k2".to_owned(), OWNERS)]);
    assert_all_readable(&vault).await;
}
