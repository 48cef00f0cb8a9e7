//! What is remembered of the virtual keys of the configuration file.
//!
//! Such keys are not in the store, and a grant in the name of one knows that name only. A gateway that was not running when a
//! key of the file got another secret, was disabled or taken out learns of it here when it starts, and what was granted in the
//! name of the key ends then. A reload does the same while it runs, and says here what it has left.

use std::collections::BTreeMap;

use super::table::Single;
use super::{Store, StoreError, WriteTx, revocations};
use crate::audit::{Actor, RevocationReason};
use crate::identity::key::{Standing, VirtualKey};
use crate::ids::{KeyName, Principal};
use crate::secret::Digest;

/// Most keys that are remembered: as many as one record holds. What happens to others while no gateway runs goes unnoticed.
const MAX_KEYS: usize = 2_000;
/// Keys whose grants end in one transaction, well below what it may write.
const ENDED_AT_ONCE: usize = 100;
/// Bytes of a fingerprint.
const PRINT_BYTES: usize = 16;
/// The keys that opened something when a gateway last read its file, by name.
const KNOWN: Single<Prints> = Single::new("keys_of_file");

/// Fingerprints of keys by name.
type Prints = BTreeMap<String, String>;

/// Ends what was granted in the name of keys that are other keys now, disabled or gone, and remembers those of now. `stored`
/// are the keys of the store: one of the file takes the place of one of the same name. Whose grants have ended.
pub async fn settle(store: &Store, keys: &[VirtualKey], stored: &[VirtualKey]) -> Result<Vec<KeyName>, StoreError> {
    let now = prints(keys);
    let takes_over = |key: &&VirtualKey| stored.iter().any(|one| one.name == key.name && one.digest != key.digest);
    let taking_over: Vec<String> = keys.iter().filter(takes_over).map(|key| key.name.to_string()).collect();
    let mut ended = Vec::new();
    loop {
        let (now, taking_over) = (now.clone(), taking_over.clone());
        let (some, has_more) = store.write(move |tx| settle_in(tx, &now, &taking_over)).await?;
        ended.extend(some);
        if !has_more {
            return Ok(ended);
        }
    }
}

/// Remembers the keys of now, after whatever was granted in the name of others has ended.
pub async fn remember(store: &Store, keys: &[VirtualKey]) -> Result<(), StoreError> {
    let now = prints(keys);
    store.write(move |tx| remember_in(tx, &now)).await
}

/// Whose grants were ended, and whether there are more of them.
fn settle_in(tx: &mut WriteTx<'_>, now: &Prints, taking_over: &[String]) -> Result<(Vec<KeyName>, bool), StoreError> {
    let Some(mut known) = KNOWN.get(tx)? else {
        // Nobody knows what was before.
        remember_in(tx, now)?;
        return Ok((Vec::new(), false));
    };
    let others = known.iter().filter(|(name, print)| now.get(*name) != Some(*print)).map(|(name, _)| name);
    let taking_over = taking_over.iter().filter(|name| !known.contains_key(*name) && now.contains_key(*name));
    let over: Vec<String> = others.chain(taking_over).cloned().collect();
    let mut ended = Vec::new();
    for name in over.iter().take(ENDED_AT_ONCE) {
        if let Ok(name) = KeyName::parse(name) {
            let whose = revocations::Whose::Principal(Principal::Key(name.clone()));
            revocations::revoke_all_in(tx, &whose, RevocationReason::PrincipalGone, Actor::System)?;
            ended.push(name);
        }
        match now.get(name) {
            Some(print) => known.insert(name.clone(), print.clone()),
            None => known.remove(name),
        };
    }
    let has_more = over.len() > ENDED_AT_ONCE;
    remember_in(tx, if has_more { &known } else { now })?;
    Ok((ended, has_more))
}

fn remember_in(tx: &mut WriteTx<'_>, prints: &Prints) -> Result<(), StoreError> {
    let prints: Prints = prints.iter().take(MAX_KEYS).map(|(name, print)| (name.clone(), print.clone())).collect();
    if KNOWN.get(tx)?.as_ref() == Some(&prints) {
        return Ok(());
    }
    KNOWN.put(tx, &prints)
}

/// Of the keys that are enabled.
fn prints(keys: &[VirtualKey]) -> Prints {
    let print = |key: &VirtualKey| {
        // Not the digest that the key is found by: whoever has the store has no use for this.
        let digest = Digest::of(&[key.name.as_str().as_bytes(), &[0], key.digest.as_bytes()].concat());
        let mut hex = digest.to_hex();
        hex.truncate(2 * PRINT_BYTES);
        (key.name.to_string(), hex)
    };
    keys.iter().filter(|key| key.standing == Standing::Enabled).map(print).collect()
}

#[cfg(test)]
mod tests {
    use super::super::oauth_testing::*;
    use super::*;
    use crate::env::Timestamp;
    use crate::identity::TokenList;
    use crate::identity::key::{AllowList, ManagedBy};

    fn key(name: &str, secret: &str) -> VirtualKey {
        VirtualKey {
            name: KeyName::parse(name).unwrap(),
            digest: Digest::of(secret.as_bytes()),
            earlier: None,
            allow: AllowList::default(),
            scopes: TokenList::default(),
            groups: TokenList::default(),
            owner: None,
            created: Timestamp::default(),
            expires: None,
            standing: Standing::Enabled,
            managed_by: ManagedBy::File,
            revision: 0,
        }
    }

    fn disabled(key: VirtualKey) -> VirtualKey {
        VirtualKey { standing: Standing::Disabled, ..key }
    }

    async fn settled(store: &Store, keys: &[VirtualKey], stored: &[VirtualKey]) -> Vec<String> {
        settle(store, keys, stored).await.unwrap().iter().map(ToString::to_string).collect()
    }

    #[tokio::test]
    async fn what_happened_to_keys_while_no_gateway_ran_ends_their_grants_once() {
        for place in engines().await {
            let store = &place.store;
            let before = [key("ann", "a"), key("bob", "b"), key("cat", "c"), key("dan", "d")];
            let stored = [key("eve", "other"), key("fay", "f")];
            assert_eq!(settled(store, &before, &stored).await, [""; 0], "nobody knows what was before");
            for (number, name) in ["ann", "bob", "cat", "dan", "eve"].into_iter().enumerate() {
                issue(store, number as u64, name, party(name, "app")).await;
            }
            assert_eq!(settled(store, &before, &stored).await, [""; 0], "nothing has changed");
            place.forward(std::time::Duration::from_secs(1));
            let after = [key("ann", "x"), disabled(key("bob", "b")), key("dan", "d"), key("eve", "e"), key("fay", "f")];
            assert_eq!(settled(store, &after, &stored).await, ["ann", "bob", "cat", "eve"]);
            for number in 0..5 {
                let listed = super::super::grants::get(store, &grant_id(number)).await.unwrap().unwrap();
                let expected = (number != 3).then_some(crate::oauth::grant::Gone::Revoked);
                assert_eq!(listed.end, expected, "{number}");
            }
            assert_eq!(trail(store).await.iter().filter(|event| **event == "grants.revoked").count(), 4);
            assert_eq!(settled(store, &after, &stored).await, [""; 0], "that was all");
            let back = [key("ann", "x"), key("bob", "b"), key("dan", "d"), key("fay", "f")];
            assert_eq!(settled(store, &back, &stored).await, ["eve"], "what one of the file had is not the other's");
        }
    }

    #[tokio::test]
    async fn what_a_reload_has_settled_is_not_ended_again() {
        let place = Place::memory().await;
        settled(&place.store, &[key("ann", "a")], &[]).await;
        super::remember(&place.store, &[key("ann", "x"), key("bob", "b")]).await.unwrap();
        assert_eq!(settled(&place.store, &[key("ann", "x"), key("bob", "b")], &[]).await, [""; 0]);
    }

    #[tokio::test]
    async fn however_many_keys_are_gone_all_of_their_grants_end() {
        let place = Place::memory().await;
        let many: Vec<VirtualKey> = (0..MAX_KEYS + 10).map(|number| key(&format!("k{number:04}"), "s")).collect();
        settled(&place.store, &many, &[]).await;
        assert_eq!(settled(&place.store, &many, &[]).await, [""; 0], "those that are not remembered are no others");
        assert_eq!(settled(&place.store, &many[..1_750], &[]).await.len(), 250);
        assert_eq!(settled(&place.store, &many[..1_750], &[]).await, [""; 0]);
    }
}
