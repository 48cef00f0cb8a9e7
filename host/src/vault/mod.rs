//! The vault: secrets that the gateway has to replay, sealed so that the store alone tells nobody anything.
//!
//! [`format`] is what the bytes are; [`ring`] holds the key-encryption keys, each from one of the [`source`]s; a data key for
//! each owner is wrapped by one of them and rests in `store::data_keys`; [`Vault::seal`] and [`Vault::open`] do the rest.
//! [`rotation`] changes key-encryption keys, checks and destroys. Always on: there is no way to keep such a secret in the
//! clear.
//!
//! A record that does not open is refused as a value ([`Opening::Refused`]), told in the audit trail, and costs nothing but
//! itself. A key that cannot be reached is a fault ([`VaultError::Unavailable`], 503), never a refusal.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;

use crate::audit::{Actor, AuditEvent};
use crate::config;
use crate::env::Env;
use crate::ids::{DeploymentId, KekId, Owner};
use crate::outbound::Outbound;
use crate::secret::{Digest, Sealed, SecretBytes};
use crate::store::data_keys::{self, Creation, DataKey, DataKeyId};
use crate::store::{Store, StoreError, audit};

mod cache;
pub mod deployment;
mod format;
pub mod process;
mod ring;
pub mod rotation;
mod source;

#[cfg(test)]
mod tests;

pub use crate::store::sealed::Place;
pub use format::{MAX_PLAINTEXT, Refusal};
pub use ring::RingError;
pub use source::{KeyFileError, SourceError, make_key_file};

use cache::Cache;
use format::{Header, OpenKey};
use ring::{Kek, NotUnwrapped, Ring};

/// Misses of the cache that are looked up at once, by owner: those of one owner wait for each other, so that a key-encryption
/// key is asked once.
const LANES: usize = 64;
/// Refused records that are remembered, so that each is told in the audit trail once.
const MAX_REMEMBERED: usize = 10_000;

/// The vault of a store. Clones are the same vault.
#[derive(Clone)]
pub struct Vault(Arc<Inner>);

struct Inner {
    store: Store,
    env: Env,
    outbound: Outbound,
    deployment: DeploymentId,
    ring: ArcSwap<Ring>,
    cache: Mutex<Cache>,
    lanes: [tokio::sync::Mutex<()>; LANES],
    refused: Mutex<HashSet<[u8; 32]>>,
}

/// Why the vault did not do what was asked. Never that a record is not to be opened.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    #[error("the key-encryption key {kid:?} cannot be reached")]
    Unavailable {
        kid: KekId,
        #[source]
        source: SourceError,
    },
    #[error(
        "data keys are wrapped by the key-encryption key {kid:?}, which is not in this gateway's [[vault.keys]], or retired there"
    )]
    NoSuchKek { kid: KekId },
    #[error("no key-encryption key is active")]
    NoActiveKek,
    #[error("the data key of {owner} is damaged or was not wrapped by us: nothing can be sealed for them")]
    DataKeyDamaged { owner: Owner },
    #[error("a secret is larger than {MAX_PLAINTEXT} bytes")]
    TooLarge,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why the vault could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Ring(#[from] RingError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What came of opening a record.
#[derive(Debug, PartialEq, Eq)]
pub enum Opening {
    Opened(SecretBytes),
    /// It was not sealed by us for this place, or is not whole any more. Whoever owns the record stops using it.
    Refused(Refusal),
}

/// What there is of an owner's data key.
enum Lookup {
    Key(Arc<OpenKey>),
    None,
    Damaged,
}

impl Vault {
    /// The vault of a store, with the keys of the configuration. Where there is none yet it is made, with a file for its key
    /// if that is what the configuration says and nobody else shares the store.
    ///
    /// # Errors
    /// [`OpenError`], naming the key, if one is missing, wrong, retired while in use, or not to be reached.
    pub async fn start(
        settings: &config::Vault,
        store: Store,
        env: Env,
        outbound: Outbound,
    ) -> Result<Self, OpenError> {
        if settings.is_default && store.is_shared() {
            return Err(RingError::NoneConfigured.into());
        }
        let state = data_keys::state(&store).await?;
        let is_new = !state.is_made && state.in_use.is_empty();
        let ring = Ring::build(&settings.keys, &env, &outbound, is_new && !store.is_shared())?;
        if !state.is_made {
            // The key does its work before anything depends on it.
            let Some(kek) = ring.wrapping(None) else { return Err(RingError::NoneConfigured.into()) };
            let unavailable = |source| RingError::Unavailable { kid: kek.kid.clone(), source };
            kek.source.health().await.map_err(unavailable)?;
            data_keys::initialize(&store, &kek.kid).await?;
        }
        // Read again: another gateway may have made the vault in the meantime.
        ring.check(&store.deployment(), &data_keys::state(&store).await?).await?;
        Ok(Self::with(ring, settings, store, env, outbound))
    }

    fn with(ring: Ring, settings: &config::Vault, store: Store, env: Env, outbound: Outbound) -> Self {
        Self(Arc::new(Inner {
            deployment: store.deployment(),
            store,
            env,
            outbound,
            ring: ArcSwap::from_pointee(ring),
            cache: Mutex::new(Cache::new(settings.cache_ttl, cache::MAX_CACHED)),
            lanes: std::array::from_fn(|_| tokio::sync::Mutex::default()),
            refused: Mutex::default(),
        }))
    }

    /// Takes over another ring, if it can unwrap all that there is. The old one stays otherwise.
    ///
    /// # Errors
    /// [`OpenError`], naming the key that is in the way.
    pub async fn reload(&self, settings: &config::Vault) -> Result<(), OpenError> {
        if settings.is_default && self.0.store.is_shared() {
            return Err(RingError::NoneConfigured.into());
        }
        let ring = Ring::build(&settings.keys, &self.0.env, &self.0.outbound, false)?;
        ring.check(&self.0.deployment, &data_keys::state(&self.0.store).await?).await?;
        self.0.ring.store(Arc::new(ring));
        let mut cache = self.cache();
        cache.set_ttl(settings.cache_ttl);
        cache.clear();
        Ok(())
    }

    /// Forgets every data key in memory: another replica may have destroyed one ([`crate::store::changes::Change::Vault`]).
    pub fn forget(&self) {
        self.cache().clear();
    }

    /// Overwrites data keys whose time in memory is over.
    pub fn tidy_up(&self) {
        self.cache().tidy_up();
    }

    /// Seals a secret for one place, with its owner's data key, which is made if there is none.
    ///
    /// # Errors
    /// [`VaultError`].
    pub async fn seal(&self, place: &Place, secret: &[u8]) -> Result<Sealed, VaultError> {
        if secret.len() > MAX_PLAINTEXT {
            return Err(VaultError::TooLarge);
        }
        let key = match self.look_up(&place.owner, None).await? {
            Lookup::Key(key) => key,
            Lookup::Damaged => return Err(VaultError::DataKeyDamaged { owner: place.owner.clone() }),
            Lookup::None => self.make_data_key(&place.owner).await?,
        };
        Ok(format::seal(&self.0.deployment, place, &key, self.0.env.random(), secret))
    }

    /// Opens what was sealed for this place.
    ///
    /// # Errors
    /// [`VaultError`] where that cannot be told now.
    pub async fn open(&self, place: &Place, sealed: &Sealed) -> Result<Opening, VaultError> {
        match self.try_open(place, sealed).await? {
            Ok(secret) => Ok(Opening::Opened(secret)),
            Err(refusal) => {
                self.tell_refused(place, sealed, refusal).await;
                Ok(Opening::Refused(refusal))
            }
        }
    }

    async fn try_open(&self, place: &Place, sealed: &Sealed) -> Result<Result<SecretBytes, Refusal>, VaultError> {
        let header = match Header::read(sealed) {
            Ok((header, _)) => header,
            Err(refusal) => return Ok(Err(refusal)),
        };
        Ok(match self.look_up(&place.owner, Some(header.data_key)).await? {
            Lookup::Key(key) => format::open(&self.0.deployment, place, &key, sealed),
            Lookup::None => Err(Refusal::NoDataKey),
            Lookup::Damaged => Err(Refusal::DataKeyDamaged),
        })
    }

    /// The owner's data key, if it is the wanted one.
    async fn look_up(&self, owner: &Owner, wanted: Option<DataKeyId>) -> Result<Lookup, VaultError> {
        let fits = |key: &OpenKey| wanted.is_none_or(|wanted| key.id == wanted);
        let cached = || self.cache().get(owner).filter(|key| fits(key));
        if let Some(key) = cached() {
            return Ok(Lookup::Key(key));
        }
        let _one_at_a_time = self.lane(owner).lock().await;
        if let Some(key) = cached() {
            return Ok(Lookup::Key(key));
        }
        let Some(found) = data_keys::find(&self.0.store, owner).await?.key else { return Ok(Lookup::None) };
        if wanted.is_some_and(|wanted| found.id != wanted) {
            return Ok(Lookup::None);
        }
        match self.unwrap(&found).await? {
            Ok(key) => Ok(Lookup::Key(self.keep(owner, key))),
            Err(_) => Ok(Lookup::Damaged),
        }
    }

    async fn make_data_key(&self, owner: &Owner) -> Result<Arc<OpenKey>, VaultError> {
        let _one_at_a_time = self.lane(owner).lock().await;
        // Somebody who waited less may have made it.
        let cached = self.cache().get(owner);
        if let Some(key) = cached {
            return Ok(key);
        }
        let found = data_keys::find(&self.0.store, owner).await?;
        let existing = match found.key {
            Some(existing) => existing,
            None => {
                let ring = self.0.ring.load_full();
                let kek = ring.wrapping(found.current.as_ref()).ok_or(VaultError::NoActiveKek)?;
                let key = SecretBytes::taken_from(&mut self.0.env.random::<{ format::KEY_BYTES }>());
                let id = DataKeyId(self.0.env.random());
                let wrapped = kek.wrap(&self.0.deployment, (owner, id), &key, &self.0.env).await?;
                match data_keys::create(&self.0.store, &wrapped).await? {
                    Creation::Created => return Ok(self.keep(owner, OpenKey { id, kid: wrapped.kid, key })),
                    Creation::Existing(existing) => existing,
                }
            }
        };
        let damaged = |_| VaultError::DataKeyDamaged { owner: owner.clone() };
        let key = self.unwrap(&existing).await?.map_err(damaged)?;
        Ok(self.keep(owner, key))
    }

    async fn unwrap(&self, key: &DataKey) -> Result<Result<OpenKey, Refusal>, VaultError> {
        let kek = self.kek(&key.kid)?;
        match kek.unwrap(&self.0.deployment, key).await {
            Ok(key) => Ok(Ok(key)),
            Err(NotUnwrapped::Damaged) => Ok(Err(Refusal::DataKeyDamaged)),
            Err(NotUnwrapped::Unavailable(source)) => Err(VaultError::Unavailable { kid: key.kid.clone(), source }),
        }
    }

    fn kek(&self, kid: &KekId) -> Result<Arc<Kek>, VaultError> {
        self.0.ring.load().get(kid).cloned().ok_or_else(|| VaultError::NoSuchKek { kid: kid.clone() })
    }

    fn keep(&self, owner: &Owner, key: OpenKey) -> Arc<OpenKey> {
        let key = Arc::new(key);
        self.cache().insert(owner.clone(), key.clone());
        key
    }

    /// Tells of a refused record in the log and the audit trail, once as far as that is remembered.
    async fn tell_refused(&self, place: &Place, sealed: &Sealed, refusal: Refusal) {
        let Place { owner, table, key, field, revision: _ } = place;
        let of = [owner.to_string().as_bytes(), &[0], table.as_bytes(), &[0], key, sealed.as_bytes()].concat();
        let is_new = {
            let mut refused = self.0.refused.lock().unwrap_or_else(PoisonError::into_inner);
            if refused.len() >= MAX_REMEMBERED {
                refused.clear();
            }
            refused.insert(*Digest::of(&of).as_bytes())
        };
        if !is_new {
            return;
        }
        let key = String::from_utf8_lossy(key).into_owned();
        tracing::error!(%owner, table, %key, field, %refusal, "a sealed record was refused");
        let (owner, table, field) = (owner.clone(), (*table).to_owned(), (*field).to_owned());
        let event = AuditEvent::VaultRecordRefused { owner, table, key, field, reason: refusal.to_string() };
        if let Err(error) = audit::record(&self.0.store, Actor::System, event).await {
            tracing::error!(%error, "the audit trail lacks a refused record");
        }
    }

    fn lane(&self, owner: &Owner) -> &tokio::sync::Mutex<()> {
        let digest = Digest::of(owner.to_string().as_bytes());
        &self.0.lanes[usize::from(digest.as_bytes()[0]) % LANES]
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.0.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Vault")
    }
}
