//! Sealed records: opened at their place, refused anywhere else.

use std::time::Duration;

use proptest::prelude::*;
use tokio::task::JoinSet;

use super::*;
use crate::connection::{self, Access, Credential, End, Holder, Tokens};
use crate::env::Timestamp;
use crate::identity::TokenList;
use crate::ids::{ConnectionId, FlowId, UpstreamName};
use crate::oauth::signing::{Algorithm, SigningKey, Stage};
use crate::oauth::upstream::Method;
use crate::secret;
use crate::store::connections::{NewCredential, Put, Secret};
use crate::store::data_keys::{self, Creation};
use crate::store::flows::NewFlow;
use crate::store::sealed::Place;
use crate::store::signing_keys::KeyChange;
use crate::store::upstream_clients::{Putting, Registration};
use crate::store::vault_secrets::{self, Keeping, Replacement};
use crate::store::{changes, connections, flows, signing_keys, upstream_clients};
use crate::vault::deployment::Named;
use crate::vault::rotation::Shred;
use crate::vault::{Opening, Refusal, VaultError};

fn place(of: &str, key: &str, field: &'static str, revision: u64) -> Place {
    Place { owner: owner(of), table: "connections", key: key.into(), field, revision }
}

fn opened(opening: &Opening) -> Option<&[u8]> {
    match opening {
        Opening::Opened(secret) => Some(secret.expose()),
        Opening::Refused(_) => None,
    }
}

#[tokio::test]
async fn what_is_sealed_opens_again_after_a_restart_too() {
    let store = memory().await;
    let first = vault(&store).await;
    let here = place("key:ci", "ci/notes", "token", 1);
    let sealed = first.seal(&here, b"hunter2").await.unwrap();
    assert!(!sealed.as_bytes().windows(7).any(|bytes| bytes == b"hunter2"));
    assert_eq!(opened(&first.open(&here, &sealed).await.unwrap()), Some(&b"hunter2"[..]));
    let second = vault(&store).await;
    assert_eq!(opened(&second.open(&here, &sealed).await.unwrap()), Some(&b"hunter2"[..]));
    assert_ne!(second.seal(&here, b"hunter2").await.unwrap(), sealed);
    let empty = first.seal(&here, b"").await.unwrap();
    assert_eq!(opened(&first.open(&here, &empty).await.unwrap()), Some(&b""[..]));
    let large = vec![7; crate::vault::MAX_PLAINTEXT + 1];
    assert!(matches!(first.seal(&here, &large).await, Err(VaultError::TooLarge)));
    assert!(first.seal(&here, &large[1..]).await.is_ok());
}

#[tokio::test]
async fn of_64_that_seal_for_one_owner_all_use_one_data_key() {
    let store = memory().await;
    let remote = Remote::new(1);
    let vault = vault_with(&store, remote.clone(), Duration::from_secs(60)).await;
    let mut sealers = JoinSet::new();
    for number in 0..64 {
        let vault = vault.clone();
        sealers.spawn(async move {
            let here = place("key:ci", &number.to_string(), "token", 1);
            let sealed = vault.seal(&here, b"hunter2").await.unwrap();
            (here, sealed)
        });
    }
    let sealed = sealers.join_all().await;
    assert_eq!(remote.asked.load(Ordering::SeqCst), 1, "the data key was wrapped once and is in memory");
    let usage = data_keys::usage(&store).await.unwrap();
    assert_eq!(usage.iter().map(|usage| usage.data_keys).sum::<usize>(), 1);
    vault.forget();
    for (here, sealed) in sealed {
        assert_eq!(opened(&vault.open(&here, &sealed).await.unwrap()), Some(&b"hunter2"[..]));
    }
    assert_eq!(remote.asked.load(Ordering::SeqCst), 2, "and unwrapped once");
}

#[tokio::test]
async fn of_two_replicas_that_make_a_data_key_one_wins_and_both_use_it() {
    let store = memory().await;
    let (one, other) = (vault(&store).await, vault(&store).await);
    let here = place("key:ci", "a", "token", 1);
    let (first, second) = tokio::join!(one.seal(&here, b"1"), other.seal(&here, b"2"));
    let (first, second) = (first.unwrap(), second.unwrap());
    assert_eq!(opened(&other.open(&here, &first).await.unwrap()), Some(&b"1"[..]));
    assert_eq!(opened(&one.open(&here, &second).await.unwrap()), Some(&b"2"[..]));
}

/// U12: whoever can write to the database swaps records.
#[tokio::test]
async fn a_record_in_anothers_place_is_refused_audited_once_and_costs_nothing_else() {
    let store = memory().await;
    let vault = vault(&store).await;
    let (alice, bob) = (owner("key:alice"), owner("key:bob"));
    for (of, name, secret) in [(&alice, "notes", "a1"), (&alice, "wiki", "a2"), (&bob, "notes", "b1")] {
        assert!(vault.put(of, name, secret.as_bytes()).await.unwrap());
    }
    let (_, stolen) = vault_secrets::get(&store, &alice, "notes").await.unwrap().unwrap();
    for (of, name, refusal) in [(&bob, "notes", Refusal::NoDataKey), (&alice, "wiki", Refusal::Mismatch)] {
        vault_secrets::put_anyway(&store, of, name, 2, stolen.clone()).await.unwrap();
        for _ in 0..3 {
            assert_eq!(vault.get(of, name).await.unwrap(), Named::Refused(refusal));
        }
    }
    // An earlier value of the same record, put back under a later revision.
    assert!(vault.put(&alice, "notes", b"a3").await.unwrap());
    let replaced = vault_secrets::replace(&store, &alice, "notes", 3, stolen).await.unwrap();
    assert_eq!(replaced, Replacement::Replaced, "its data key lives");
    assert_eq!(vault.get(&alice, "notes").await.unwrap(), Named::Refused(Refusal::Mismatch));

    let refused: Vec<_> = events(&store)
        .await
        .into_iter()
        .filter_map(|event| match event {
            AuditEvent::VaultRecordRefused { owner, table, key, field, .. } => {
                Some(format!("{owner} {table} {} {field}", key.replace('\0', "/")))
            }
            _ => None,
        })
        .collect();
    let expected = [
        "key:bob vault_secrets key:bob/notes value",
        "key:alice vault_secrets key:alice/wiki value",
        "key:alice vault_secrets key:alice/notes value",
    ];
    assert_eq!(refused, expected);
    assert!(vault.put(&bob, "wiki", b"b2").await.unwrap());
    assert_eq!(vault.get(&bob, "wiki").await.unwrap(), Named::Secret(SecretBytes::new(b"b2".to_vec())));

    let mut bad = Vec::new();
    let mut cursor = None;
    loop {
        let step = vault.verify(cursor.as_deref()).await.unwrap().unwrap();
        bad.extend(step.bad.into_iter().map(|bad| format!("{} {}", bad.owner, bad.key)));
        cursor = step.next;
        if cursor.is_none() {
            break;
        }
    }
    bad.sort();
    assert_eq!(bad, ["key:alice key:alice/notes", "key:alice key:alice/wiki", "key:bob key:bob/notes"]);
    assert!(vault.verify(Some(b"nonsense")).await.unwrap().is_none());
}

/// How many fields the vault looks at, how many of them were shredded, and what it cannot open, as `OWNER TABLE FIELD`.
async fn verified(vault: &Vault) -> (usize, usize, Vec<String>) {
    let (mut fields, mut shredded, mut bad, mut cursor) = (0, 0, Vec::new(), None);
    loop {
        let step = vault.verify(cursor.as_deref()).await.unwrap().unwrap();
        fields += step.fields;
        shredded += step.shredded;
        bad.extend(step.bad.into_iter().map(|bad| format!("{} {} {}", bad.owner, bad.table, bad.field)));
        cursor = step.next;
        if cursor.is_none() {
            return (fields, shredded, bad);
        }
    }
}

fn connection_at(holder: &Holder, upstream: &str) -> connection::Place {
    connection::Place { holder: holder.clone(), upstream: UpstreamName::parse(upstream).unwrap() }
}

/// Connects with tokens, or with headers. `number` makes the id.
async fn connect(store: &Store, vault: &Vault, place: &connection::Place, number: u8, has_tokens: bool) {
    let id = ConnectionId::parse(&format!("{number:024x}")).unwrap();
    let sealed = async |secret| vault.seal(&connections::sealed_at(place, &id, 1, secret), b"secret").await.unwrap();
    let credential = if has_tokens {
        Credential::OAuth(Tokens {
            issuer: "https://id.example".to_owned(),
            client: "c1".to_owned(),
            access: sealed(Secret::Access).await,
            refresh: Some(sealed(Secret::Refresh).await),
            scopes: TokenList::default(),
            expires: None,
        })
    } else {
        Credential::Headers { names: vec!["x-api-key".to_owned()], values: sealed(Secret::Headers).await }
    };
    let new = NewCredential { place: place.clone(), id, replaces: None, origin: None, credential };
    let of = store.read(changes::revision).await.unwrap();
    assert_eq!(connections::put(store, new, of, |_| Access::Granted, ACTOR).await.unwrap(), Put::Stored(1));
}

#[tokio::test]
async fn verifying_reaches_the_sealed_fields_of_every_table() {
    let store = memory().await;
    let vault = vault(&store).await;
    let alice = Holder::parse("key:alice").unwrap();
    assert!(vault.put(&owner("key:alice"), "notes", b"secret").await.unwrap());

    let announced = SigningKey {
        id: "k1".to_owned(),
        algorithm: Algorithm::EdDsa,
        public: "{}".to_owned(),
        created: Timestamp::default(),
        stage: Stage::Announced {
            private: vault.seal(&signing_keys::private_at("k1"), b"secret").await.unwrap(),
            usable_from: Timestamp::default(),
        },
    };
    signing_keys::transition(&store, 0, KeyChange::Announce(Box::new(announced)), ACTOR).await.unwrap();

    connect(&store, &vault, &connection_at(&alice, "files"), 1, true).await;
    connect(&store, &vault, &connection_at(&alice, "notes"), 2, false).await;
    connect(&store, &vault, &connection_at(&Holder::Shared, "notes"), 3, false).await;
    // Of this one only the tokens are left, to be revoked.
    let ended = connection_at(&alice, "wiki");
    connect(&store, &vault, &ended, 4, true).await;
    connections::disconnect(&store, &ended, End::Disconnected, ACTOR).await.unwrap();

    let (place, id) = (connection_at(&alice, "mail"), FlowId::parse(&"5".repeat(24)).unwrap());
    let flow = NewFlow {
        verifier: vault.seal(&flows::verifier_at(&place, &id), b"secret").await.unwrap(),
        id,
        place,
        state: secret::Digest::of(b"state"),
        connection: ConnectionId::parse(&"5".repeat(24)).unwrap(),
        origin: None,
        issuer: "https://id.example".to_owned(),
        client: "c1".to_owned(),
        redirect: "https://gateway.example/connect/mail/callback".to_owned(),
        scopes: TokenList::default(),
        browser: secret::Digest::of(b"browser"),
        user: None,
        life: Duration::from_secs(600),
    };
    assert!(matches!(flows::begin(&store, flow, |_| Access::Granted).await, Ok(flows::Beginning::Begun(_))));

    let registration = Registration {
        upstream: UpstreamName::parse("notes").unwrap(),
        issuer: "https://id.example".to_owned(),
        redirect: "https://gateway.example/connect/callback/1".to_owned(),
        client: "c1".to_owned(),
        method: Method::Basic,
        secret: None,
        created: Timestamp::from_millis(7),
        expires: None,
    };
    let secret = vault.seal(&registration.secret_at(), b"secret").await.unwrap();
    let registration = Registration { secret: Some(secret), ..registration };
    assert_eq!(upstream_clients::put(&store, registration).await.unwrap(), Putting::Kept);

    assert_eq!(verified(&vault).await, (10, 0, Vec::new()));

    // Without the data keys, each of them is told.
    for of in ["key:alice", "shared:notes"] {
        data_keys::lose(&store, &owner(of)).await.unwrap();
    }
    vault.forget();
    let expected = [
        "key:alice vault_secrets value",
        "key:alice connections access",
        "key:alice connections refresh",
        "key:alice connections headers",
        "shared:notes connections headers",
        "key:alice connections access",
        "key:alice connections refresh",
        "key:alice connection_flows verifier",
    ];
    assert_eq!(verified(&vault).await, (10, 0, expected.map(str::to_owned).to_vec()));
}

#[tokio::test]
async fn records_and_data_keys_of_another_deployment_are_refused() {
    let (ours, theirs) = (memory().await, memory().await);
    let (vault, other) = (vault(&ours).await, vault(&theirs).await);
    let alice = owner("key:alice");
    assert!(other.put(&alice, "notes", b"secret").await.unwrap());
    let data_key = data_keys::find(&theirs, &alice).await.unwrap().key.unwrap();
    let (_, sealed) = vault_secrets::get(&theirs, &alice, "notes").await.unwrap().unwrap();
    // The data key comes along, wrapped by the same key-encryption key.
    assert_eq!(data_keys::create(&ours, &data_key).await.unwrap(), Creation::Created);
    vault_secrets::put_if_absent(&ours, &alice, "notes", sealed).await.unwrap();
    assert_eq!(vault.get(&alice, "notes").await.unwrap(), Named::Refused(Refusal::DataKeyDamaged));
    assert!(matches!(vault.put(&alice, "wiki", b"x").await, Err(VaultError::DataKeyDamaged { .. })));
    let step = vault.verify(None).await.unwrap().unwrap();
    assert_eq!(step.bad.len(), 1);
}

#[tokio::test]
async fn a_data_key_of_another_owner_is_refused() {
    let store = memory().await;
    let vault = vault(&store).await;
    let (alice, bob) = (owner("key:alice"), owner("key:bob"));
    assert!(vault.put(&alice, "notes", b"secret").await.unwrap());
    let stolen = data_keys::find(&store, &alice).await.unwrap().key.unwrap();
    data_keys::create(&store, &data_keys::DataKey { owner: bob.clone(), ..stolen }).await.unwrap();
    assert!(matches!(vault.put(&bob, "notes", b"x").await, Err(VaultError::DataKeyDamaged { .. })));
}

#[tokio::test]
async fn what_is_shredded_is_gone_and_everything_else_stays() {
    let store = memory().await;
    let vault = vault(&store).await;
    let (alice, bob) = (owner("key:alice"), owner("key:bob"));
    for of in [&alice, &bob, &Owner::Deployment] {
        assert!(vault.put(of, "notes", b"secret").await.unwrap());
    }
    let id = data_keys::find(&store, &alice).await.unwrap().key.unwrap().id;
    assert_eq!(vault.shred(&alice, ACTOR).await.unwrap(), Shred::Shredded);
    assert_eq!(vault.shred(&alice, ACTOR).await.unwrap(), Shred::NotFound);
    assert_eq!(vault.shred(&Owner::Deployment, ACTOR).await.unwrap(), Shred::Refused);
    assert_eq!(vault.get(&alice, "notes").await.unwrap(), Named::Refused(Refusal::Shredded));
    assert_eq!(vault.get(&bob, "notes").await.unwrap(), Named::Secret(SecretBytes::new(b"secret".to_vec())));
    assert!(events(&store).await.contains(&AuditEvent::VaultShredded { owner: alice.clone() }));
    // Who comes back begins anew, and the old records stay closed.
    assert!(vault.put(&alice, "wiki", b"new").await.unwrap());
    assert_eq!(vault.get(&alice, "wiki").await.unwrap(), Named::Secret(SecretBytes::new(b"new".to_vec())));
    assert_eq!(vault.get(&alice, "notes").await.unwrap(), Named::Refused(Refusal::Shredded));
    let is_live = store.read(move |tx| data_keys::is_live(tx, &owner("key:alice"), id)).await.unwrap();
    assert!(!is_live);
    // As it was wished: nothing is wrong with the store, and no life of the gateway complains of it.
    let again = super::vault(&store).await;
    assert_eq!(again.get(&alice, "notes").await.unwrap(), Named::Refused(Refusal::Shredded));
    assert_eq!(verified(&again).await, (4, 1, Vec::new()));
    assert!(!events(&store).await.iter().any(|event| matches!(event, AuditEvent::VaultRecordRefused { .. })));
    // In another's place it is refused like anything else.
    let (_, sealed) = vault_secrets::get(&store, &alice, "notes").await.unwrap().unwrap();
    vault_secrets::put_anyway(&store, &bob, "notes", 2, sealed).await.unwrap();
    assert_eq!(again.get(&bob, "notes").await.unwrap(), Named::Refused(Refusal::NoDataKey));
    assert!(events(&store).await.iter().any(|event| matches!(event, AuditEvent::VaultRecordRefused { .. })));
}

#[tokio::test]
async fn what_is_shredded_while_it_is_unwrapped_is_forgotten_too() {
    let store = memory().await;
    let remote = Remote::new(1);
    let vault = vault_with(&store, remote.clone(), Duration::from_secs(300)).await;
    let alice = owner("key:alice");
    assert!(vault.put(&alice, "notes", b"secret").await.unwrap());
    vault.forget();
    let asked = remote.asked.load(Ordering::SeqCst);
    let slow = remote.answering.lock().await;
    let mut reading = JoinSet::new();
    let (reader, of) = (vault.clone(), alice.clone());
    reading.spawn(async move { reader.get(&of, "notes").await.unwrap() });
    while remote.asked.load(Ordering::SeqCst) == asked {
        tokio::task::yield_now().await;
    }
    assert_eq!(vault.shred(&alice, ACTOR).await.unwrap(), Shred::Shredded);
    drop(slow);
    reading.join_all().await;
    assert_eq!(vault.status().await.unwrap().cached, 0);
    assert_eq!(vault.get(&alice, "notes").await.unwrap(), Named::Refused(Refusal::Shredded));
    assert!(vault.put(&alice, "wiki", b"new").await.unwrap());
    let elsewhere = super::vault(&store).await;
    assert_eq!(elsewhere.get(&alice, "wiki").await.unwrap(), Named::Secret(SecretBytes::new(b"new".to_vec())));
}

#[tokio::test]
async fn what_was_sealed_with_a_data_key_that_is_destroyed_by_now_is_not_kept() {
    let store = memory().await;
    let (one, other) = (vault(&store).await, vault(&store).await);
    let alice = owner("key:alice");
    assert!(one.put(&alice, "notes", b"secret").await.unwrap());
    assert!(matches!(other.get(&alice, "notes").await.unwrap(), Named::Secret(_)), "it is in memory from now on");
    let stale = other.seal(&vault_secrets::place(&alice, "wiki", 1), b"lost").await.unwrap();
    assert_eq!(one.shred(&alice, ACTOR).await.unwrap(), Shred::Shredded);

    let kept = vault_secrets::put_if_absent(&store, &alice, "wiki", stale.clone()).await.unwrap();
    assert_eq!(kept, Keeping::Stale);
    assert_eq!(vault_secrets::replace(&store, &alice, "notes", 2, stale).await.unwrap(), Replacement::Stale);
    // The other one does not know yet, and loses nothing that it says it has kept.
    for name in ["wiki", "notes"] {
        assert!(other.put(&alice, name, b"new").await.unwrap());
        let elsewhere = vault(&store).await;
        assert_eq!(elsewhere.get(&alice, name).await.unwrap(), Named::Secret(SecretBytes::new(b"new".to_vec())));
    }
}

#[tokio::test]
async fn the_deployment_secret_is_one_for_all_replicas() {
    let store = memory().await;
    let (one, other) = (vault(&store).await, vault(&store).await);
    let earlier = Plaintext::new("ab".repeat(32));
    let (first, second) = tokio::join!(one.deployment_secret(Some(earlier)), other.deployment_secret(None));
    let (first, second) = (first.unwrap(), second.unwrap());
    assert!(first == second);
    assert!(vault(&store).await.deployment_secret(None).await.unwrap() == first);
    let store = memory().await;
    let taken = vault(&store).await.deployment_secret(Some(Plaintext::new("cd".repeat(32)))).await.unwrap();
    assert_eq!(taken.expose(), "cd".repeat(32));
    let drawn = vault(&memory().await).await.deployment_secret(None).await.unwrap();
    assert_eq!(drawn.expose().len(), 64);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any two places, any change to the bytes: what opens is what was sealed there, and nothing else opens.
    #[test]
    fn a_record_opens_where_it_was_sealed_and_nowhere_else(
        here in (0..3_usize, "[a-c]{0,3}", 0..2_usize, 0..3_u64),
        there in (0..3_usize, "[a-c]{0,3}", 0..2_usize, 0..3_u64),
        flip in prop::option::of((any::<prop::sample::Index>(), 0..8_u8)),
        secret: Vec<u8>,
    ) {
        let of = |(owner, key, field, revision): &(usize, String, usize, u64)| {
            place(["key:alice", "key:bob", "shared:team"][*owner], key, ["token", "refresh"][*field], *revision)
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let store = memory().await;
            let vault = vault(&store).await;
            // Both owners have a data key.
            vault.seal(&of(&there), b"").await.unwrap();
            let sealed = vault.seal(&of(&here), &secret).await.unwrap();
            let mut bytes = sealed.as_bytes().to_vec();
            if let Some((index, bit)) = &flip {
                let at = index.index(bytes.len());
                bytes[at] ^= 1 << bit;
            }
            let opening = vault.open(&of(&there), &Sealed::from_bytes(bytes)).await.unwrap();
            let expected = (here == there && flip.is_none()).then_some(&secret[..]);
            prop_assert_eq!(opened(&opening), expected);
            Ok(())
        })?;
    }
}
