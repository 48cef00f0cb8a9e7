//! Whether the keys of a configuration can be reached, and are those of its store, asked where no gateway runs. Nothing is
//! made, and no store is opened for good.

use std::slice;

use futures_util::future::join_all;

use super::ring::{Ring, RingError};
use super::source::KeyFileError;
use crate::config::{self, VaultKey, VaultKeyState};
use crate::env::Env;
use crate::ids::KekId;
use crate::outbound::Outbound;
use crate::store::Peeked;

/// What became of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reached {
    /// It does its work.
    Works,
    /// It is a file that the first start makes.
    NotMade,
    /// In words that hold no secret.
    Fault(String),
}

/// Each key that is not retired, and whether it does its work. Of a store that no other gateway has, the first start makes the
/// files of active keys.
pub async fn reach(settings: &config::Vault, is_shared: bool, env: &Env, outbound: &Outbound) -> Vec<(KekId, Reached)> {
    let keys = settings.keys.iter().filter(|key| key.state != VaultKeyState::Retired);
    let asked = keys.map(async |key| {
        let is_made = !is_shared && key.state == VaultKeyState::Active;
        (key.kid.clone(), ask(key, is_made, env, outbound).await)
    });
    join_all(asked).await
}

async fn ask(key: &VaultKey, is_made: bool, env: &Env, outbound: &Outbound) -> Reached {
    let ring = match Ring::build(slice::from_ref(key), env, outbound, false) {
        Ok(ring) => ring,
        Err(RingError::KeyFile { source: KeyFileError::Missing { .. }, .. }) if is_made => return Reached::NotMade,
        Err(error) => return Reached::Fault(in_words(&error)),
    };
    for kek in ring.keys() {
        if let Err(error) = kek.health().await {
            return Reached::Fault(error.to_string());
        }
    }
    Reached::Works
}

/// Whether these keys are those by which the data keys of a store are wrapped.
///
/// # Errors
/// Why a gateway would not start with both, in words that hold no secret.
pub async fn compare(settings: &config::Vault, store: &Peeked, env: &Env, outbound: &Outbound) -> Result<(), String> {
    let ring = Ring::build(&settings.keys, env, outbound, false).map_err(|error| in_words(&error))?;
    // Those that there is no check of yet get it from the start.
    ring.check(&store.deployment, &store.vault).await.map(drop).map_err(|error| in_words(&error))
}

/// An error and what it comes of.
fn in_words(error: &RingError) -> String {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
    format!("{error}{cause}")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::VaultKeySource;
    use crate::ids::Owner;
    use crate::store::{Location, Store};
    use crate::vault::{Place, Vault, make_key_file};

    #[tokio::test]
    async fn each_key_is_asked_and_none_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let env = Env::system();
        let (there, missing) = (dir.path().join("there"), dir.path().join("missing"));
        make_key_file(&there, &env).unwrap();
        let key = |kid: &str, state, source| VaultKey { kid: KekId::parse(kid).unwrap(), state, source };
        let settings = config::Vault {
            keys: vec![
                key("there", VaultKeyState::Active, VaultKeySource::File(there.clone())),
                key("missing", VaultKeyState::Active, VaultKeySource::File(missing.clone())),
                key("gone", VaultKeyState::Retired, VaultKeySource::None),
            ],
            is_default: false,
            cache_ttl: Duration::from_secs(60),
            allow_core_dumps: false,
        };
        let outbound = Outbound::new();
        let reached = reach(&settings, true, &env, &outbound).await;
        assert_eq!(reached.len(), 2, "a retired one is not asked: {reached:?}");
        assert_eq!(reached[0].1, Reached::Works);
        assert!(matches!(&reached[1].1, Reached::Fault(fault) if fault.contains("missing")), "{reached:?}");
        assert_eq!(reach(&settings, false, &env, &outbound).await[1].1, Reached::NotMade, "its own start makes it");
        assert!(!missing.exists());
    }

    #[tokio::test]
    async fn a_key_that_works_may_be_another_one_than_the_stores() {
        let dir = tempfile::tempdir().unwrap();
        let (env, outbound) = (Env::system(), Outbound::new());
        let settings = |file: &str| config::Vault {
            keys: vec![VaultKey {
                kid: KekId::parse("file").unwrap(),
                state: VaultKeyState::Active,
                source: VaultKeySource::File(dir.path().join(file)),
            }],
            is_default: true,
            cache_ttl: Duration::from_secs(60),
            allow_core_dumps: false,
        };
        let location = || Location::File(dir.path().join("store"));
        let store = Store::open(location(), env.clone()).await.unwrap();
        let vault = Vault::start(&settings("own"), store.clone(), env.clone(), outbound.clone()).await.unwrap();
        let place =
            Place { owner: Owner::Deployment, table: "connections", key: b"1".to_vec(), field: "access", revision: 1 };
        vault.seal(&place, b"secret").await.unwrap();
        drop(vault);
        store.close().await;
        let peeked = Store::peek(location(), env.clone()).await.unwrap();
        assert!(peeked.vault.is_made);
        assert_eq!(compare(&settings("own"), &peeked, &env, &outbound).await, Ok(()));

        make_key_file(&dir.path().join("other"), &env).unwrap();
        let fault = compare(&settings("other"), &peeked, &env, &outbound).await.unwrap_err();
        assert!(fault.contains("is not the one"), "{fault}");
    }
}
