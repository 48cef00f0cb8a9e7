//! All virtual keys at one moment, found by digest. Immutable: a change of keys is a new keyring.

use std::collections::HashMap;
use std::sync::Arc;

use super::caller::Caller;
use super::key::{AllowList, VirtualKey};
use crate::env::Timestamp;
use crate::ids::{KeyName, Principal};
use crate::secret::Plaintext;

/// The keys that open the gateway.
#[derive(Debug, Default)]
pub struct Keyring {
    by_digest: HashMap<[u8; 32], Entry>,
}

#[derive(Debug)]
struct Entry {
    key: VirtualKey,
    allow: Arc<AllowList>,
}

impl Keyring {
    /// Of these keys; where two have the same secret or name, the first counts.
    pub fn new(keys: impl IntoIterator<Item = VirtualKey>) -> Self {
        let mut ring = Self::default();
        let mut names = std::collections::HashSet::<KeyName>::new();
        for key in keys {
            if names.insert(key.name.clone()) {
                let allow = Arc::new(key.allow.clone());
                ring.by_digest.entry(*key.digest.as_bytes()).or_insert(Entry { key, allow });
            }
        }
        ring
    }

    /// The caller that a principal is now, if its key is still there and valid: for what goes on after a credential was
    /// checked, such as a stream.
    pub fn holder(&self, principal: &Principal, now: Timestamp) -> Option<Caller> {
        let Principal::Key(name) = principal else { return None };
        let entry = self.by_digest.values().find(|entry| entry.key.name == *name && entry.key.is_valid(now))?;
        Some(Caller { principal: principal.clone(), allow: entry.allow.clone() })
    }

    /// The caller that a secret stands for. Unknown, disabled and expired keys take the same path; the table is keyed by
    /// a digest, so that how long a look-up takes says nothing about any key.
    pub fn caller(&self, presented: &Plaintext, now: Timestamp) -> Option<Caller> {
        let entry = self.by_digest.get(presented.digest().as_bytes());
        let valid = entry.filter(|entry| entry.key.is_valid(now))?;
        Some(Caller { principal: Principal::Key(valid.key.name.clone()), allow: valid.allow.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::key::{ManagedBy, Standing};

    fn key(name: &str, secret: &str) -> VirtualKey {
        VirtualKey {
            name: KeyName::parse(name).unwrap(),
            digest: Plaintext::new(secret).digest(),
            allow: AllowList::default(),
            created: Timestamp::default(),
            expires: Some(Timestamp::from_millis(10)),
            standing: Standing::Enabled,
            managed_by: ManagedBy::Store,
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
    }
}
