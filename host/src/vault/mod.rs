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
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::audit::{Actor, AuditEvent};
use crate::config;
use crate::env::Env;
use crate::ids::{DeploymentId, KekId, Owner};
use crate::outbound::Outbound;
use crate::secret::{Digest, Sealed, SecretBytes};
use crate::store::data_keys::{self, Creation, DataKey, DataKeyId};
use crate::store::{Store, StoreError, audit};
use crate::telemetry::{Grid, OTHER};

mod cache;
pub mod deployment;
mod format;
mod kek;
pub mod process;
pub mod reach;
mod ring;
pub mod rotation;
mod source;

#[cfg(test)]
pub(crate) mod tests;

pub use crate::store::sealed::Place;
pub use format::{MAX_PLAINTEXT, Refusal};
pub use ring::RingError;
pub use source::{KeyFileError, SourceError, make_key_file};

use cache::{Cache, Generation};
use format::{Header, OpenKey};
use kek::{Kek, NotUnwrapped};
use ring::Ring;

/// Misses of the cache that are looked up at once, by owner: those of one owner wait for each other, so that a key-encryption
/// key is asked once.
const LANES: usize = 64;
/// Refused records that are remembered, so that each is told in the audit trail once.
const MAX_REMEMBERED: usize = 10_000;
/// Longest time in which a data key is there, or the vault is out of reach: a call waits for it.
const DEADLINE: Duration = Duration::from_secs(10);
/// How often something is tried that another one was faster with.
const TRIES: usize = 8;

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
    /// What could not be sealed or opened, by why.
    faults: Grid<1>,
}

/// See [`VaultError::code`]; `refused` is what does not open.
const FAULTS: &[&str] = &[
    "unavailable",
    "late",
    "wrong-kek",
    "no-such-kek",
    "no-active-kek",
    "data-key-damaged",
    "too-large",
    "store",
    "refused",
    OTHER,
];

/// Why the vault did not do what was asked. Never that a record is not to be opened.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    #[error("the key-encryption key {kid:?} cannot be reached")]
    Unavailable {
        kid: KekId,
        #[source]
        source: SourceError,
    },
    #[error("too many are waiting for keys that answer slowly")]
    Late,
    #[error(
        "the key-encryption key {kid:?} is not the one that this store knows by that name: nothing is wrapped by it"
    )]
    WrongKek { kid: KekId },
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

impl VaultError {
    /// The word for metrics.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Unavailable { .. } => "unavailable",
            Self::Late => "late",
            Self::WrongKek { .. } => "wrong-kek",
            Self::NoSuchKek { .. } => "no-such-kek",
            Self::NoActiveKek => "no-active-kek",
            Self::DataKeyDamaged { .. } => "data-key-damaged",
            Self::TooLarge => "too-large",
            Self::Store(_) => "store",
        }
    }
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
            let Some(kek) = ring.active().next() else { return Err(RingError::NoneConfigured.into()) };
            let unavailable = |source| RingError::Unavailable { kid: kek.kid.clone(), source };
            kek.health().await.map_err(unavailable)?;
            data_keys::initialize(&store, &kek.kid).await?;
        }
        let vault = Self::with(ring, settings, store, env, outbound);
        vault.check(&vault.0.ring.load_full()).await?;
        Ok(vault)
    }

    /// Whether these keys are those of the store. What the store lacks to check them by it has from then on.
    async fn check(&self, ring: &Ring) -> Result<(), OpenError> {
        let state = data_keys::state(&self.0.store).await?;
        for kek in ring.check(&self.0.deployment, &state).await? {
            match self.vouch(&kek).await {
                Ok(()) => {}
                Err(VaultError::Store(error)) => return Err(error.into()),
                Err(VaultError::WrongKek { kid }) => return Err(RingError::Wrong { kid }.into()),
                // It has answered a moment ago. The next one who wraps by it sees to that.
                Err(error) => tracing::warn!(%error, "a key-encryption key could not be written down"),
            }
        }
        Ok(())
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
            faults: Grid::new([FAULTS]),
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
        // Keys that stay as they are need not be within reach.
        if !ring.is_same(&self.0.ring.load()) {
            self.check(&ring).await?;
            self.0.ring.store(Arc::new(ring));
            self.forget();
        }
        self.cache().set_ttl(settings.cache_ttl);
        Ok(())
    }

    /// Forgets every data key in memory.
    pub fn forget(&self) {
        self.cache().clear();
    }

    /// Forgets the data key of this owner: another replica may have destroyed it
    /// ([`crate::store::changes::Change::DataKey`]), or something that it sealed was too late.
    pub fn forget_one(&self, owner: &Owner) {
        self.cache().forget(owner);
    }

    /// Overwrites data keys whose time in memory is over.
    pub fn tidy_up(&self) {
        self.cache().tidy_up();
    }

    /// What could not be sealed or opened since the start, by why.
    pub fn faults(&self) -> Vec<([&'static str; 1], u64)> {
        self.0.faults.read()
    }

    /// Seals a secret for one place, with its owner's data key, which is made if there is none.
    ///
    /// # Errors
    /// [`VaultError`].
    pub async fn seal(&self, place: &Place, secret: &[u8]) -> Result<Sealed, VaultError> {
        self.try_seal(place, secret).await.inspect_err(|error| self.0.faults.count([error.code()]))
    }

    async fn try_seal(&self, place: &Place, secret: &[u8]) -> Result<Sealed, VaultError> {
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
        let opened = self.try_open(place, sealed).await;
        match opened.inspect_err(|error| self.0.faults.count([error.code()]))? {
            Ok(secret) => Ok(Opening::Opened(secret)),
            // Who destroyed the data key has had that written down.
            Err(Refusal::Shredded) => Ok(Opening::Refused(Refusal::Shredded)),
            Err(refusal) => {
                self.0.faults.count(["refused"]);
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
            Lookup::None if data_keys::is_shredded(&self.0.store, &place.owner, header.data_key).await? => {
                Err(Refusal::Shredded)
            }
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
        in_time(async {
            let _one_at_a_time = self.lane(owner).lock().await;
            if let Some(key) = cached() {
                return Ok(Lookup::Key(key));
            }
            let as_of = self.cache().generation();
            let Some(found) = data_keys::find(&self.0.store, owner).await?.key else { return Ok(Lookup::None) };
            if wanted.is_some_and(|wanted| found.id != wanted) {
                return Ok(Lookup::None);
            }
            match self.unwrap(&found).await? {
                Ok(key) => Ok(Lookup::Key(self.keep(owner, key, as_of))),
                Err(_) => Ok(Lookup::Damaged),
            }
        })
        .await
    }

    async fn make_data_key(&self, owner: &Owner) -> Result<Arc<OpenKey>, VaultError> {
        in_time(async {
            let _one_at_a_time = self.lane(owner).lock().await;
            for _ in 0..TRIES {
                // Somebody who waited less may have made it.
                let (cached, as_of) = {
                    let mut cache = self.cache();
                    (cache.get(owner), cache.generation())
                };
                if let Some(key) = cached {
                    return Ok(key);
                }
                let found = data_keys::find(&self.0.store, owner).await?;
                let existing = match found.key {
                    Some(existing) => existing,
                    None => match self.make_as_of(owner, found.current.as_ref()).await? {
                        (Creation::Created, key) => return Ok(self.keep(owner, key, as_of)),
                        (Creation::Existing(existing), _) => existing,
                        (Creation::Superseded, _) => continue,
                    },
                };
                let damaged = |_| VaultError::DataKeyDamaged { owner: owner.clone() };
                let key = self.unwrap(&existing).await?.map_err(damaged)?;
                return Ok(self.keep(owner, key, as_of));
            }
            Err(StoreError::Busy.into())
        })
        .await
    }

    /// A new data key, and whether it has become the owner's.
    async fn make_as_of(&self, owner: &Owner, current: Option<&KekId>) -> Result<(Creation, OpenKey), VaultError> {
        let ring = self.0.ring.load_full();
        let kek = ring.wrapping(current)?;
        self.vouch(kek).await?;
        let key = SecretBytes::taken_from(&mut self.0.env.random::<{ format::KEY_BYTES }>());
        let id = DataKeyId(self.0.env.random());
        let wrapped = kek.wrap(&self.0.deployment, (owner, id), &key, &self.0.env).await?;
        let creation = data_keys::create_as_of(&self.0.store, &wrapped, current).await?;
        Ok((creation, OpenKey { id, kid: wrapped.kid, key }))
    }

    /// Before a key wraps for the first time: it is the one that the store knows by its id, or will know from now on.
    async fn vouch(&self, kek: &Kek) -> Result<(), VaultError> {
        if kek.is_vouched() {
            return Ok(());
        }
        let check = kek.check(&self.0.deployment).await.map_err(|source| kek.unavailable(source))?;
        let kept = data_keys::vouch(&self.0.store, &kek.kid, &check).await?;
        match kek.fits(&self.0.deployment, &kept).await {
            Ok(true) => {}
            Ok(false) => return Err(VaultError::WrongKek { kid: kek.kid.clone() }),
            // The key's server does not use the version any more that the check is of: nothing can be told.
            Err(SourceError::Refused(reason)) => {
                tracing::warn!(kid = %kek.kid, reason, "a key-encryption key could not be checked");
            }
            Err(source) => return Err(kek.unavailable(source)),
        }
        kek.set_vouched();
        Ok(())
    }

    async fn unwrap(&self, key: &DataKey) -> Result<Result<OpenKey, Refusal>, VaultError> {
        let kek = self.kek(&key.kid)?;
        match kek.unwrap(&self.0.deployment, key).await {
            Ok(key) => Ok(Ok(key)),
            Err(NotUnwrapped::Damaged) => Ok(Err(Refusal::DataKeyDamaged)),
            Err(NotUnwrapped::Unavailable(source)) => Err(kek.unavailable(source)),
        }
    }

    fn kek(&self, kid: &KekId) -> Result<Arc<Kek>, VaultError> {
        self.0.ring.load().get(kid).cloned().ok_or_else(|| VaultError::NoSuchKek { kid: kid.clone() })
    }

    fn keep(&self, owner: &Owner, key: OpenKey, as_of: Generation) -> Arc<OpenKey> {
        let key = Arc::new(key);
        self.cache().insert(owner.clone(), key.clone(), as_of);
        key
    }

    /// Tells of a refused record in the log and the audit trail, once as far as that is remembered.
    async fn tell_refused(&self, place: &Place, sealed: &Sealed, refusal: Refusal) {
        let Place { owner, table, key, field, revision: _ } = place;
        let of = [owner.to_string().as_bytes(), &[0], table.as_bytes(), &[0], key, sealed.as_bytes()].concat();
        let of = *Digest::of(&of).as_bytes();
        let is_new = {
            let mut refused = self.refused();
            if refused.len() >= MAX_REMEMBERED {
                refused.clear();
            }
            refused.insert(of)
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
            // So that the next one who comes upon it tells it.
            self.refused().remove(&of);
        }
    }

    fn refused(&self) -> MutexGuard<'_, HashSet<[u8; 32]>> {
        self.0.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lane(&self, owner: &Owner) -> &tokio::sync::Mutex<()> {
        let digest = Digest::of(owner.to_string().as_bytes());
        &self.0.lanes[usize::from(digest.as_bytes()[0]) % LANES]
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.0.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn in_time<T>(work: impl Future<Output = Result<T, VaultError>>) -> Result<T, VaultError> {
    tokio::time::timeout(DEADLINE, work).await.unwrap_or(Err(VaultError::Late))
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Vault")
    }
}
