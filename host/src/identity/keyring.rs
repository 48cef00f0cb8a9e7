//! All virtual keys at one moment, found by digest or by name. Immutable: a change of keys is a new keyring.

use std::collections::hash_map::Entry::Vacant as Unoccupied;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::caller::Caller;
use super::key::{AllowEntry, AllowList, Standing, VirtualKey};
use super::user::Login;
use crate::env::Timestamp;
use crate::ids::{KeyName, Principal, UpstreamName};
use crate::secret::{Digest, Plaintext};

/// Why a secret that was a key's opens nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    Disabled,
    Expired,
    /// The key was rotated, and the time of this secret is over.
    Rotated,
}

/// The keys that open the gateway.
#[derive(Debug, Default)]
pub struct Keyring {
    /// Under the digests of both secrets, where there are two.
    by_digest: HashMap<[u8; 32], Arc<Entry>>,
    /// For those keys that are found by digest, and no others.
    by_name: HashMap<KeyName, Digest>,
    /// Keys that somebody owns, of the same.
    by_owner: HashMap<Login, Vec<Digest>>,
}

#[derive(Debug)]
struct Entry {
    key: VirtualKey,
    allow: Arc<AllowList>,
}

impl Entry {
    fn caller(&self) -> Caller {
        Caller {
            scopes: self.key.scopes.clone(),
            groups: self.key.groups.clone(),
            ..Caller::new(Principal::Key(self.key.name.clone()), self.allow.clone())
        }
    }
}

impl Keyring {
    /// Of these keys; where two have the same secret or name, the first counts.
    pub fn new(keys: impl IntoIterator<Item = VirtualKey>) -> Self {
        Self::with(keys, &[])
    }

    /// The same, where each key may use all of `for_all` besides what its own list has.
    pub fn with(keys: impl IntoIterator<Item = VirtualKey>, for_all: &[UpstreamName]) -> Self {
        let mut ring = Self::default();
        let mut names = HashSet::new();
        for key in keys {
            if names.insert(key.name.clone())
                && let Unoccupied(place) = ring.by_digest.entry(*key.digest.as_bytes())
            {
                ring.by_name.insert(key.name.clone(), key.digest);
                if let Some(owner) = &key.owner {
                    ring.by_owner.entry(owner.clone()).or_default().push(key.digest);
                }
                let own = key.allow.0.iter().cloned();
                let allow = Arc::new(AllowList(own.chain(for_all.iter().map(AllowEntry::whole)).collect()));
                let entry = place.insert(Arc::new(Entry { key, allow })).clone();
                if let Some(earlier) = &entry.key.earlier {
                    ring.by_digest.entry(*earlier.digest.as_bytes()).or_insert_with(|| entry.clone());
                }
            }
        }
        ring
    }

    /// The caller that a principal is now, if its key is still there and valid: for what goes on after a credential was
    /// checked, such as a stream.
    pub fn holder(&self, principal: &Principal, now: Timestamp) -> Option<Caller> {
        self.held(principal, now).map(Entry::caller)
    }

    /// What the principal's credential is told by, if it is valid: another one under the same name is another key, and one
    /// of a key's two secrets may end before the other ([`VirtualKey::witness`]).
    pub fn witness(&self, principal: &Principal, now: Timestamp) -> Option<Digest> {
        self.held(principal, now).map(|entry| entry.key.witness(now))
    }

    /// The key of this name, valid or not, and all that it may use: what its own list has, and behind that what every key
    /// may.
    pub fn named(&self, name: &KeyName) -> Option<(&VirtualKey, &Arc<AllowList>)> {
        let entry = self.by_digest.get(self.by_name.get(name)?.as_bytes())?;
        Some((&entry.key, &entry.allow))
    }

    /// Whether there is a key of this name, valid or not.
    pub fn has(&self, name: &KeyName) -> bool {
        self.by_name.contains_key(name)
    }

    /// What the valid keys of an owner may use.
    pub fn allowed_to_owner(&self, owner: &Login, now: Timestamp) -> impl Iterator<Item = &Arc<AllowList>> {
        let owned = self.by_owner.get(owner).into_iter().flatten();
        let entries = owned.filter_map(|digest| self.by_digest.get(digest.as_bytes()));
        entries.filter(move |entry| entry.key.is_valid(now)).map(|entry| &entry.allow)
    }

    fn held(&self, principal: &Principal, now: Timestamp) -> Option<&Entry> {
        let Principal::Key(name) = principal else { return None };
        let entry = self.by_digest.get(self.by_name.get(name)?.as_bytes())?;
        Some(entry.as_ref()).filter(|entry| entry.key.is_valid(now))
    }

    /// The name of the key that has this secret and is not opened by it any more: for the log of the gateway, and never for who
    /// presents it.
    pub fn closed(&self, presented: &Plaintext, now: Timestamp) -> Option<(&KeyName, Closed)> {
        let digest = presented.digest();
        let key = &self.by_digest.get(digest.as_bytes())?.key;
        let why = match key.standing {
            Standing::Disabled => Closed::Disabled,
            Standing::Enabled if key.is_valid(now) => Closed::Rotated,
            Standing::Enabled => Closed::Expired,
        };
        (!key.is_opened_by(&digest, now)).then_some((&key.name, why))
    }

    /// The caller that a secret stands for. Unknown, disabled and expired keys, and secrets that have ended, take the same
    /// path; the table is keyed by a digest, so that how long a look-up takes says nothing about any key.
    pub fn caller(&self, presented: &Plaintext, now: Timestamp) -> Option<Caller> {
        let digest = presented.digest();
        let entry = self.by_digest.get(digest.as_bytes());
        let valid = entry.filter(|entry| entry.key.is_opened_by(&digest, now))?;
        Some(valid.caller())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::TokenList;
    use crate::identity::key::{Earlier, ManagedBy};

    fn key(name: &str, secret: &str) -> VirtualKey {
        VirtualKey {
            name: KeyName::parse(name).unwrap(),
            digest: Plaintext::new(secret).digest(),
            earlier: None,
            allow: AllowList::default(),
            scopes: TokenList::default(),
            groups: TokenList::default(),
            owner: None,
            created: Timestamp::default(),
            expires: Some(Timestamp::from_millis(10)),
            standing: Standing::Enabled,
            managed_by: ManagedBy::Store,
            revision: 1,
        }
    }

    #[test]
    fn a_caller_has_the_scopes_and_groups_of_its_key_and_no_client() {
        let list = |token: &str| TokenList::parse(vec![token.to_owned()]).unwrap();
        let ring = Keyring::new([VirtualKey { scopes: list("read"), groups: list("ops"), ..key("a", "pk_a") }]);
        let presented = ring.caller(&Plaintext::new("pk_a"), Timestamp::default()).unwrap();
        let held = ring.holder(&presented.principal, Timestamp::default()).unwrap();
        for caller in [presented, held] {
            assert_eq!((&caller.scopes[..], &caller.groups[..]), (&["read".to_owned()][..], &["ops".to_owned()][..]));
            assert_eq!(caller.client_id(), "");
        }
    }

    #[test]
    fn only_a_valid_key_opens() {
        let disabled = VirtualKey { standing: Standing::Disabled, ..key("b", "pk_b") };
        let ring = Keyring::new([key("a", "pk_a"), disabled, key("a", "pk_c")]);
        let open = |secret: &str, at| {
            ring.caller(&Plaintext::new(secret), Timestamp::from_millis(at)).map(|caller| caller.principal.to_string())
        };
        assert_eq!(open("pk_a", 9).as_deref(), Some("key:a"));
        assert_eq!(open("pk_a", 10), None);
        assert_eq!(open("pk_b", 9), None);
        assert_eq!(open("pk_c", 9), None, "a second key of the same name does not count");
        assert_eq!(open("", 9), None);
        let closed = |secret: &str, at| {
            let why = ring.closed(&Plaintext::new(secret), Timestamp::from_millis(at));
            why.map(|(name, why)| (name.to_string(), why))
        };
        assert_eq!(closed("pk_a", 9), None);
        assert_eq!(closed("pk_a", 10), Some(("a".to_owned(), Closed::Expired)));
        assert_eq!(closed("pk_b", 9), Some(("b".to_owned(), Closed::Disabled)));
        assert_eq!(closed("pk_c", 9), None);
    }

    #[test]
    fn two_secrets_of_a_key_open_it_as_one_and_the_same_until_the_earlier_one_ends() {
        let earlier = Earlier { digest: Plaintext::new("pk_old").digest(), until: Timestamp::from_millis(5) };
        let rotated = VirtualKey { earlier: Some(earlier), ..key("a", "pk_new") };
        // A key of the file has the secret that another one had: it is that key's.
        let ring = Keyring::new([key("f", "pk_old"), rotated.clone()]);
        let open = |ring: &Keyring, secret: &str, at| {
            ring.caller(&Plaintext::new(secret), Timestamp::from_millis(at)).map(|caller| caller.principal.to_string())
        };
        assert_eq!(open(&ring, "pk_old", 4).as_deref(), Some("key:f"));
        assert_eq!(open(&ring, "pk_new", 4).as_deref(), Some("key:a"));
        let ring = Keyring::new([rotated]);
        assert_eq!([4, 5].map(|at| open(&ring, "pk_old", at)), [Some("key:a".to_owned()), None]);
        let closed = ring.closed(&Plaintext::new("pk_old"), Timestamp::from_millis(5));
        assert_eq!(closed.map(|(_, why)| why), Some(Closed::Rotated));
        assert_eq!([4, 5].map(|at| open(&ring, "pk_new", at)), ["key:a", "key:a"].map(|name| Some(name.to_owned())));
        let principal = Principal::Key(KeyName::parse("a").unwrap());
        let witness = |ring: &Keyring, at| ring.witness(&principal, Timestamp::from_millis(at)).unwrap();
        let before = Keyring::new([key("a", "pk_old")]);
        assert_eq!(witness(&before, 4), witness(&ring, 4), "what goes on goes on");
        assert_ne!(witness(&ring, 4), witness(&ring, 5), "who came in with the earlier one is out");
    }

    #[test]
    fn a_holder_is_found_by_name_while_the_key_opens() {
        let disabled = VirtualKey { standing: Standing::Disabled, ..key("b", "pk_b") };
        let ring = Keyring::new([key("a", "pk_a"), disabled, key("c", "pk_a"), key("a", "pk_d")]);
        let held = |name: &str, at| {
            let principal = Principal::Key(KeyName::parse(name).unwrap());
            ring.holder(&principal, Timestamp::from_millis(at)).map(|caller| caller.principal.to_string())
        };
        assert_eq!(held("a", 9).as_deref(), Some("key:a"));
        assert_eq!(held("a", 10), None, "expired");
        assert_eq!(held("b", 9), None, "disabled");
        assert_eq!(held("c", 9), None, "its secret is that of another key, as whom it opens");
        assert_eq!(held("d", 9), None);
    }
}
