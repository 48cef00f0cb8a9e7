//! The life of the keys that sign.

use std::time::Duration;

use tokio::task::JoinSet;

use super::super::oauth_testing::*;
use super::*;
use crate::oauth::signing::Algorithm;
use crate::secret::Sealed;

const HOUR: Duration = Duration::from_secs(60 * 60);

fn new(place: &Place, id: &str, algorithm: Algorithm) -> KeyChange {
    KeyChange::Announce(Box::new(SigningKey {
        id: id.to_owned(),
        algorithm,
        public: format!("{{\"kid\":\"{id}\"}}"),
        created: Timestamp::default(),
        stage: Stage::Announced {
            private: Sealed::from_bytes(*b"the private part"),
            usable_from: place.now().after(HOUR),
        },
    }))
}

fn activate(place: &Place, id: &str) -> KeyChange {
    KeyChange::Activate { id: id.to_owned(), predecessor_until: place.now().after(HOUR) }
}

fn retire(place: &Place, id: &str) -> KeyChange {
    KeyChange::Retire { id: id.to_owned(), until: place.now().after(HOUR) }
}

fn remove(id: &str) -> KeyChange {
    KeyChange::Remove { id: id.to_owned() }
}

fn revoke(id: &str) -> KeyChange {
    KeyChange::Revoke { id: id.to_owned() }
}

/// Changes the set as it is.
async fn apply(place: &Place, change: KeyChange) -> Transition {
    let revision = load(&place.store).await.unwrap().revision;
    let answer = transition(&place.store, revision, change, OPERATOR).await.unwrap();
    assert!(answer == Transition::Applied(revision + 1) || matches!(answer, Transition::Refused(_)), "{answer:?}");
    answer
}

async fn applied(place: &Place, change: KeyChange) {
    assert!(matches!(apply(place, change).await, Transition::Applied(_)));
}

async fn states(place: &Place) -> String {
    let keys = load(&place.store).await.unwrap().keys;
    for algorithm in [Algorithm::Rs256, Algorithm::Es256, Algorithm::EdDsa] {
        let active = keys.iter().filter(|key| key.algorithm == algorithm && key.is_active()).count();
        assert!(active <= 1, "{active} active keys of {algorithm:?}");
    }
    keys.iter().map(|key| format!("{} {}", key.id, key.state())).collect::<Vec<_>>().join(", ")
}

#[tokio::test]
async fn a_key_is_announced_active_retired_and_gone() {
    for mut place in engines().await {
        applied(&place, new(&place, "a", Algorithm::Rs256)).await;
        assert_eq!(apply(&place, activate(&place, "a")).await, Transition::Refused(Refused::TooSoon));
        place.forward(HOUR);
        applied(&place, activate(&place, "a")).await;
        place.restart().await;
        applied(&place, new(&place, "b", Algorithm::Rs256)).await;
        applied(&place, new(&place, "c", Algorithm::EdDsa)).await;
        assert_eq!(states(&place).await, "a active, b announced, c announced");
        place.forward(HOUR);
        applied(&place, activate(&place, "c")).await;
        assert_eq!(states(&place).await, "a active, b announced, c active");
        applied(&place, activate(&place, "b")).await;
        assert_eq!(states(&place).await, "a retired, b active, c active");
        place.restart().await;
        assert_eq!(apply(&place, remove("a")).await, Transition::Refused(Refused::TooSoon));
        place.forward(HOUR);
        applied(&place, remove("a")).await;
        assert_eq!(states(&place).await, "b active, c active");
        assert_eq!(trail(&place.store).await, ["signing_key.changed"; 8], "the predecessor's end is a line as well");
        assert_eq!(announced(&place.store).await, vec![Change::SigningKeys; 7]);
    }
}

#[tokio::test]
async fn what_does_not_follow_is_refused_and_changes_nothing() {
    let place = Place::memory().await;
    applied(&place, new(&place, "announced", Algorithm::Rs256)).await;
    applied(&place, new(&place, "active", Algorithm::Rs256)).await;
    applied(&place, new(&place, "retired", Algorithm::Es256)).await;
    place.forward(HOUR);
    applied(&place, activate(&place, "active")).await;
    applied(&place, retire(&place, "retired")).await;
    let before = load(&place.store).await.unwrap();
    let mut wrong_stage = new(&place, "x", Algorithm::Rs256);
    let mut too_large = new(&place, "x", Algorithm::Rs256);
    if let (KeyChange::Announce(wrong), KeyChange::Announce(large)) = (&mut wrong_stage, &mut too_large) {
        wrong.stage = Stage::Retired { until: place.now() };
        large.public = "x".repeat(9_000);
    }
    for (change, refused) in [
        (new(&place, "active", Algorithm::Rs256), Refused::NoRoom),
        (wrong_stage, Refused::WrongState),
        (too_large, Refused::NoRoom),
        (activate(&place, "never"), Refused::NotFound),
        (activate(&place, "active"), Refused::WrongState),
        (activate(&place, "retired"), Refused::WrongState),
        (retire(&place, "retired"), Refused::WrongState),
        (remove("active"), Refused::WrongState),
        (remove("announced"), Refused::WrongState),
        (remove("retired"), Refused::TooSoon),
        (revoke("never"), Refused::NotFound),
    ] {
        assert_eq!(apply(&place, change).await, Transition::Refused(refused));
    }
    assert_eq!(load(&place.store).await.unwrap(), before);
}

#[tokio::test]
async fn a_key_that_leaked_is_gone_at_once() {
    let place = Place::memory().await;
    applied(&place, new(&place, "a", Algorithm::Rs256)).await;
    place.forward(HOUR);
    applied(&place, activate(&place, "a")).await;
    applied(&place, revoke("a")).await;
    assert_eq!(states(&place).await, "");
    let state = SigningKeyState::Gone;
    let event = AuditEvent::SigningKeyChanged { key: "a".to_owned(), algorithm: "RS256".to_owned(), state };
    assert_eq!(last_event(&place.store).await, event);
}

#[tokio::test]
async fn the_private_part_goes_with_the_last_signature() {
    let place = Place::memory().await;
    applied(&place, new(&place, "a", Algorithm::Rs256)).await;
    let is_kept = async || {
        let rows = place.store.read(|tx| rows(tx, Table::SigningKeys)).await.unwrap();
        String::from_utf8(rows[0].1.clone()).unwrap().contains("private")
    };
    assert!(is_kept().await);
    applied(&place, retire(&place, "a")).await;
    assert!(!is_kept().await);
}

#[tokio::test]
async fn there_are_only_so_many_keys() {
    let place = Place::memory().await;
    for number in 0..MAX_KEYS {
        applied(&place, new(&place, &format!("k{number}"), Algorithm::Rs256)).await;
    }
    let more = new(&place, "more", Algorithm::Rs256);
    assert_eq!(apply(&place, more).await, Transition::Refused(Refused::NoRoom));
}

#[tokio::test]
async fn of_64_who_rotate_at_once_one_does() {
    let place = Place::file().await;
    applied(&place, new(&place, "old", Algorithm::Rs256)).await;
    for number in 0..8 {
        applied(&place, new(&place, &format!("k{number}"), Algorithm::Rs256)).await;
    }
    place.forward(HOUR);
    applied(&place, activate(&place, "old")).await;
    let revision = load(&place.store).await.unwrap().revision;
    let mut replicas = JoinSet::new();
    for number in 0..64 {
        let (store, change) = (place.store.clone(), activate(&place, &format!("k{}", number % 8)));
        replicas.spawn(async move { transition(&store, revision, change, OPERATOR).await.unwrap() });
    }
    let answers = replicas.join_all().await;
    assert_eq!(answers.iter().filter(|answer| **answer == Transition::Applied(revision + 1)).count(), 1);
    assert_eq!(answers.iter().filter(|answer| **answer == Transition::Conflict(revision + 1)).count(), 63);
    assert_eq!(states(&place).await.matches(" active").count(), 1);
}
