//! Key-encryption keys that come and go while records stay readable.

use super::*;
use crate::store::data_keys::{self, Creation, DataKey, DataKeyId, Wrapped};
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
    let stale = batch.keys.iter().map(|key| (key.wrapped.clone(), key.clone())).collect();
    let stale = Wrapped { keys: stale, ..Wrapped::default() };
    let progress = data_keys::rewrap(&store, Some(&kid("k2")), &stale, &batch.then, ACTOR).await.unwrap();
    assert_eq!(progress.rewrapped, 0);
    // And one that began before the rotation keeps nothing.
    let before = data_keys::rewrapping(&store).await.unwrap();
    let late = data_keys::rewrap(&store, None, &stale, &batch.then, ACTOR).await.unwrap();
    assert!(!late.is_done);
    assert_eq!(data_keys::rewrapping(&store).await.unwrap(), before);
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

/// A data key that this key has wrapped for its owner, put there behind everyone's back.
async fn wrapped_by(store: &Store, id: &str, byte: u8, of: &str) -> DataKey {
    let kek = Kek::of(id, Active, Arc::new(local(byte)));
    let key = SecretBytes::new(vec![7; 32]);
    kek.wrap(&store.deployment(), (&owner(of), DataKeyId([byte; 16])), &key, &Env::system()).await.unwrap()
}

#[tokio::test]
async fn a_rewrapping_is_not_done_before_a_pass_has_found_nothing() {
    let store = memory().await;
    let vault = start(&store, &settings(vec![key("k1", 1, Active), key("k2", 2, Active)])).await.unwrap();
    fill(&vault).await;
    vault.rotate(None, ACTOR).await.unwrap();
    assert!(!vault.rewrap_step(ACTOR).await.unwrap().is_done);
    // What another replica did with an old configuration, where this pass does not come by any more.
    let late = wrapped_by(&store, "k1", 1, "key:a").await;
    assert_eq!(data_keys::create(&store, &late).await.unwrap(), Creation::Created);
    let done = loop {
        let step = vault.rewrap_step(ACTOR).await.unwrap();
        if step.is_done {
            break step;
        }
    };
    assert_eq!(done.rewrapped, OWNERS as u64 + 1);
    assert_eq!(used(&store).await, [("k2".to_owned(), OWNERS + 1)]);
}

#[tokio::test]
async fn nothing_is_wrapped_by_a_key_that_was_rotated_away_from() {
    let store = memory().await;
    let old = start(&store, &settings(vec![key("k1", 1, Active)])).await.unwrap();
    old.put(&of(0), "a", b"1").await.unwrap();
    let new = start(&store, &settings(vec![key("k1", 1, DecryptOnly), key("k2", 2, Active)])).await.unwrap();
    assert_eq!(new.rotate(Some(kid("k2")), ACTOR).await.unwrap(), Rotation::Unchanged(kid("k2")));
    // Who does not know the new key makes no data key with the old one.
    assert!(
        matches!(old.put(&of(1), "a", b"1").await, Err(VaultError::NoSuchKek { kid: named }) if named == kid("k2"))
    );
    let status = old.status().await.unwrap();
    let current: Vec<_> = status.keys.iter().filter(|key| key.is_current).map(|key| key.kid.as_str()).collect();
    assert_eq!(current, ["k2"]);
    // Nor does who had read which one it is before the rotation.
    let late = wrapped_by(&store, "k1", 1, "key:late").await;
    assert_eq!(data_keys::create_as_of(&store, &late, None).await.unwrap(), Creation::Superseded);
    while !new.rewrap_step(ACTOR).await.unwrap().is_done {}
    assert_eq!(used(&store).await, [("k2".to_owned(), 1)]);
    // Where the new one is lost before it has wrapped anything, the way back is open.
    let store = memory().await;
    let both = start(&store, &settings(vec![key("k1", 1, Active), key("k2", 2, Active)])).await.unwrap();
    both.put(&of(0), "a", b"1").await.unwrap();
    both.rotate(None, ACTOR).await.unwrap();
    let without = start(&store, &settings(vec![key("k1", 1, Active)])).await.unwrap();
    assert!(without.put(&of(1), "a", b"1").await.is_err());
    assert_eq!(without.rotate(None, ACTOR).await.unwrap(), Rotation::Rotated(kid("k1")));
    assert!(without.put(&of(1), "a", b"1").await.unwrap());
}

#[tokio::test]
async fn a_key_is_told_from_another_one_of_its_name_by_its_check_alone() {
    let store = memory().await;
    let old = vec![key("k1", 1, Active)];
    start(&store, &settings(old)).await.unwrap().put(&of(0), "a", b"1").await.unwrap();
    let both = |byte| vec![key("k1", byte, DecryptOnly), key("k2", 2, Active)];
    // One data key is left, and the key is another one.
    let wrong = refusal(&store, both(9)).await;
    assert!(matches!(&wrong, RingError::Wrong { kid: wrong } if *wrong == kid("k1")), "{wrong}");
    // Everything that is left is damaged, and the key is the right one.
    let intact = data_keys::find(&store, &of(0)).await.unwrap().key.unwrap();
    data_keys::lose(&store, &of(0)).await.unwrap();
    for name in ["key:a", "key:b"] {
        data_keys::create(&store, &DataKey { owner: owner(name), ..intact.clone() }).await.unwrap();
    }
    start(&store, &settings(both(1))).await.unwrap();
    assert!(matches!(refusal(&store, both(9)).await, RingError::Wrong { .. }));
    // A gateway that runs with another one wraps nothing by it.
    let vault = Vault::with(
        Ring::of(vec![Kek::of("k1", Active, Arc::new(local(9)))]),
        &settings(Vec::new()),
        store.clone(),
        Env::system(),
        Outbound::new(),
    );
    assert!(
        matches!(vault.put(&of(1), "a", b"1").await, Err(VaultError::WrongKek { kid: named }) if named == kid("k1"))
    );
}

#[tokio::test]
async fn a_store_from_before_there_were_checks_gets_them() {
    let store = memory().await;
    let old = start(&store, &settings(vec![key("k1", 1, Active)])).await.unwrap();
    old.put(&of(0), "a", b"1").await.unwrap();
    old.put(&of(1), "a", b"1").await.unwrap();
    data_keys::forget_checks(&store).await.unwrap();
    // As some data keys tell, as before.
    assert!(matches!(refusal(&store, vec![key("k1", 9, Active)]).await, RingError::Wrong { .. }));
    let both = |byte| vec![key("k1", byte, DecryptOnly), key("k2", 2, Active)];
    let vault = start(&store, &settings(both(1))).await.unwrap();
    vault.shred(&of(1), ACTOR).await.unwrap();
    assert!(matches!(refusal(&store, both(9)).await, RingError::Wrong { .. }));
}

#[tokio::test]
async fn a_key_that_is_out_of_reach_keeps_only_its_own_from_being_wrapped_anew() {
    let store = memory().await;
    let (one, two) = (Remote::new(1), Remote::new(2));
    let keks = |first, second| {
        vec![
            Kek::of("k1", first, one.clone()),
            Kek::of("k2", second, two.clone()),
            Kek::of("k3", Active, Arc::new(local(3))),
        ]
    };
    let ttl = Duration::ZERO;
    vault_of(&store, keks(Active, DecryptOnly), ttl).await.put(&of(0), "a", b"1").await.unwrap();
    vault_of(&store, keks(DecryptOnly, Active), ttl).await.put(&of(1), "a", b"1").await.unwrap();
    let vault = vault_of(&store, keks(DecryptOnly, DecryptOnly), ttl).await;
    one.is_down.store(true, Ordering::SeqCst);
    let finish = async || loop {
        let step = vault.rewrap_step(ACTOR).await.unwrap();
        if step.is_done {
            break (step.rewrapped, step.unreadable, step.unreachable);
        }
    };
    assert_eq!(finish().await, (1, 0, 1));
    assert_eq!(used(&store).await, [("k1".to_owned(), 1), ("k3".to_owned(), 1)]);
    let (mut unreachable, mut bad, mut cursor) = (0, 0, None);
    loop {
        let step = vault.verify(cursor.as_deref()).await.unwrap().unwrap();
        (unreachable, bad, cursor) = (unreachable + step.unreachable, bad + step.bad.len(), step.next);
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!((unreachable, bad), (2, 0), "a data key and what it seals");
    one.is_down.store(false, Ordering::SeqCst);
    pass_the_pause().await;
    assert_eq!(finish().await, (1, 0, 0));
    assert_eq!(used(&store).await, [("k3".to_owned(), 2)]);
}

#[tokio::test]
async fn a_file_that_has_another_key_by_now_is_noticed_by_a_reload() {
    use std::os::unix::fs::PermissionsExt as _;

    let dir = tempfile::tempdir().unwrap();
    let (path, settings) = file(dir.path());
    let store = memory().await;
    let vault = start(&store, &settings).await.unwrap();
    vault.put(&of(0), "a", b"1").await.unwrap();
    vault.reload(&settings).await.unwrap();
    assert_eq!(vault.status().await.unwrap().cached, 1, "nothing has changed, and nothing is forgotten");
    std::fs::write(&path, [9; 32]).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let error = vault.reload(&settings).await.unwrap_err();
    assert!(matches!(&error, OpenError::Ring(RingError::Wrong { .. })), "{error}");
}
