//! The ring of key-encryption keys, and what they do to data keys.

use std::sync::{Arc, Mutex, PoisonError};

use super::VaultError;
use super::format::{self, KEY_BYTES, OpenKey};
use super::source::{Age, KeyFileError, KeySource, Local, Root, SourceError, Transit, make_key_file};
use crate::config::{VaultKey, VaultKeySource, VaultKeyState};
use crate::env::Env;
use crate::ids::{DeploymentId, KekId, Owner};
use crate::outbound::Outbound;
use crate::secret::SecretBytes;
use crate::store::data_keys::{DataKey, DataKeyId, State};

/// Why a ring cannot be used with a store.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    #[error("the key-encryption key {kid:?} cannot be used")]
    KeyFile {
        kid: String,
        #[source]
        source: KeyFileError,
    },
    #[error(
        "the key-encryption key {kid:?} is not 32 bytes as 64 hexadecimal digits or base64; `portcullis vault keygen` makes one"
    )]
    NoKey { kid: KekId },
    #[error(
        "the key-encryption key {kid:?} is in a PKCS#11 token, and this gateway was built without the feature pkcs11"
    )]
    NoPkcs11 { kid: KekId },
    #[error("token or namespace of the key-encryption key {kid:?} cannot be sent in a header")]
    Header { kid: KekId },
    #[error(
        "the store has data keys that are wrapped by the key-encryption key {kid:?}, which is not in [[vault.keys]]: \
         put it back, as \"decrypt-only\" if need be"
    )]
    Missing { kid: KekId },
    #[error(
        "the key-encryption key {kid:?} is retired, and there are data keys that it wraps: make it \"decrypt-only\", \
         run `portcullis vault rewrap`, then retire it"
    )]
    RetiredInUse { kid: KekId },
    #[error(
        "the key-encryption key {kid:?} is not the one that the store's data keys are wrapped by: put the right key back, \
         or the store that belongs to it"
    )]
    Wrong { kid: KekId },
    #[error("the key-encryption key {kid:?} cannot be reached")]
    Unavailable {
        kid: KekId,
        #[source]
        source: SourceError,
    },
    #[error("the store is shared with other gateways, so that it needs keys in [[vault.keys]]: none is made by itself")]
    NoneConfigured,
}

/// The key-encryption keys that a gateway knows.
pub(super) struct Ring {
    keys: Vec<Arc<Kek>>,
}

/// A key-encryption key.
pub(super) struct Kek {
    pub(super) kid: KekId,
    pub(super) state: VaultKeyState,
    pub(super) source: Arc<dyn KeySource>,
    /// Its roots, as far as they were asked for: each costs a call where the key is elsewhere.
    roots: Mutex<Roots>,
}

#[derive(Default)]
struct Roots {
    /// A handful at most: one for each version of the key.
    known: Vec<Root>,
    /// Version of the newest, as it was when it was first wanted.
    newest: Option<u32>,
}

/// Why a data key was not unwrapped.
#[derive(Debug)]
pub(super) enum NotUnwrapped {
    /// Its tag is wrong, or its key-encryption key does not know it.
    Damaged,
    Unavailable(SourceError),
}

impl Ring {
    /// The keys of a configuration. `may_make` makes the files of active keys that are not there.
    pub(super) fn build(keys: &[VaultKey], env: &Env, outbound: &Outbound, may_make: bool) -> Result<Self, RingError> {
        let mut ring = Vec::new();
        for key in keys {
            // A retired key may be gone altogether.
            if key.state == VaultKeyState::Retired {
                ring.push(Arc::new(Kek::new(key, Arc::new(Gone))));
                continue;
            }
            let may_make = may_make && key.state == VaultKeyState::Active;
            ring.push(Arc::new(Kek::new(key, source_of(key, env, outbound, may_make)?)));
        }
        Ok(Self { keys: ring })
    }

    #[cfg(test)]
    pub(super) fn of(keys: Vec<Kek>) -> Self {
        Self { keys: keys.into_iter().map(Arc::new).collect() }
    }

    pub(super) fn keys(&self) -> &[Arc<Kek>] {
        &self.keys
    }

    /// The key of this id, unless it is retired.
    pub(super) fn get(&self, kid: &KekId) -> Option<&Arc<Kek>> {
        self.keys.iter().find(|key| key.kid == *kid && key.state != VaultKeyState::Retired)
    }

    pub(super) fn active(&self) -> impl Iterator<Item = &Arc<Kek>> {
        self.keys.iter().filter(|key| key.state == VaultKeyState::Active)
    }

    /// What wraps new data keys: the chosen key if it is active, else the first active one.
    pub(super) fn wrapping(&self, chosen: Option<&KekId>) -> Option<&Arc<Kek>> {
        let chosen = self.active().find(|key| Some(&key.kid) == chosen);
        chosen.or_else(|| self.active().next())
    }

    /// Whether the data keys of the store can be unwrapped, as far as some for each key-encryption key tell. A damaged one
    /// among others is nobody else's matter. A key that cannot be reached is told of in the log and is no reason to refuse the
    /// others, unless it wraps the deployment's own data key.
    pub(super) async fn check(&self, deployment: &DeploymentId, state: &State) -> Result<(), RingError> {
        let in_use = self.wrapping(state.current.as_ref()).map(|kek| &kek.kid);
        for (kid, samples) in &state.in_use {
            let Some(kek) = self.keys.iter().find(|key| key.kid == *kid) else {
                return Err(RingError::Missing { kid: kid.clone() });
            };
            if kek.state == VaultKeyState::Retired {
                return Err(RingError::RetiredInUse { kid: kid.clone() });
            }
            match kek.unwrap_one(deployment, samples).await {
                Ok(()) => {}
                // What a rewrapping left behind: one data key that is damaged, and not a key that is another one.
                Err(NotUnwrapped::Damaged) if samples.len() == 1 && in_use != Some(kid) => {}
                Err(NotUnwrapped::Damaged) => return Err(RingError::Wrong { kid: kid.clone() }),
                Err(NotUnwrapped::Unavailable(source)) => {
                    if samples.iter().any(|key| key.owner == Owner::Deployment) {
                        return Err(RingError::Unavailable { kid: kid.clone(), source });
                    }
                    tracing::warn!(%kid, error = %source, "a key-encryption key cannot be reached: what it wraps cannot be opened");
                }
            }
        }
        Ok(())
    }
}

fn source_of(key: &VaultKey, env: &Env, outbound: &Outbound, may_make: bool) -> Result<Arc<dyn KeySource>, RingError> {
    let kid = &key.kid;
    let failed = |source| RingError::KeyFile { kid: kid.to_string(), source };
    Ok(match &key.source {
        VaultKeySource::File(path) => {
            let opened = match Local::file(path, env.clone()) {
                Err(KeyFileError::Missing { .. }) if may_make => {
                    match make_key_file(path, env) {
                        // Another start may have made it in this moment: then it is read.
                        Ok(()) => {
                            tracing::info!(%kid, path = %path.display(), "a key-encryption key was made: back it up, apart from the store");
                        }
                        Err(error) if path.exists() => tracing::debug!(%kid, %error, "the key file is there already"),
                        Err(error) => return Err(failed(error)),
                    }
                    Local::file(path, env.clone())
                }
                opened => opened,
            };
            Arc::new(opened.map_err(failed)?)
        }
        VaultKeySource::Credential(path) => Arc::new(Local::credential(path, env.clone()).map_err(failed)?),
        VaultKeySource::Environment { variable, key } => {
            tracing::warn!(%kid, variable, "a key-encryption key is in an environment variable, where other programs of the same user may see it");
            let local = Local::environment(key, env.clone());
            Arc::new(local.ok_or_else(|| RingError::NoKey { kid: kid.clone() })?)
        }
        VaultKeySource::Age(path) => Arc::new(Age::file(path).map_err(failed)?),
        VaultKeySource::Transit { url, mount, key, token, namespace } => {
            let transit = Transit::new(outbound.clone(), url, (mount, key), token, namespace.as_deref());
            Arc::new(transit.ok_or_else(|| RingError::Header { kid: kid.clone() })?)
        }
        #[cfg(feature = "pkcs11")]
        VaultKeySource::Pkcs11 { module, token, key, pin } => {
            Arc::new(super::source::Pkcs11::new(module.clone(), token.clone(), key.clone(), pin.clone(), env.clone()))
        }
        #[cfg(not(feature = "pkcs11"))]
        VaultKeySource::Pkcs11 { .. } => return Err(RingError::NoPkcs11 { kid: kid.clone() }),
    })
}

impl Kek {
    fn new(key: &VaultKey, source: Arc<dyn KeySource>) -> Self {
        Self { kid: key.kid.clone(), state: key.state, source, roots: Mutex::default() }
    }

    #[cfg(test)]
    pub(super) fn of(kid: &str, state: VaultKeyState, source: Arc<dyn KeySource>) -> Self {
        let kid = KekId::parse(kid).expect("a key id");
        Self { kid, state, source, roots: Mutex::default() }
    }

    /// Wraps a data key for its owner.
    pub(super) async fn wrap(
        &self,
        deployment: &DeploymentId,
        (owner, id): (&Owner, DataKeyId),
        key: &SecretBytes,
        env: &Env,
    ) -> Result<DataKey, VaultError> {
        let unavailable = |source| VaultError::Unavailable { kid: self.kid.clone(), source };
        let root = self.root(None).await.map_err(unavailable)?;
        let wrapped = self.source.wrap(key).await.map_err(unavailable)?;
        let tag = format::tag(&root.secret, root.version, deployment, (owner, id, &self.kid), &wrapped);
        let (owner, kid, created) = (owner.clone(), self.kid.clone(), env.now());
        Ok(DataKey { owner, id, kid, wrapped, root: root.version, tag, created })
    }

    /// The data key itself, if it is one that was wrapped by this key for this owner.
    pub(super) async fn unwrap(&self, deployment: &DeploymentId, key: &DataKey) -> Result<OpenKey, NotUnwrapped> {
        let DataKey { owner, id, kid, wrapped, root, tag, created: _ } = key;
        let failed = |error| match error {
            SourceError::NotOurs(_) => NotUnwrapped::Damaged,
            unavailable @ SourceError::Unavailable(_) => NotUnwrapped::Unavailable(unavailable),
        };
        let root = self.root(Some(*root)).await.map_err(failed)?;
        if *tag != format::tag(&root.secret, root.version, deployment, (owner, *id, kid), wrapped) {
            return Err(NotUnwrapped::Damaged);
        }
        let key = self.source.unwrap(wrapped).await.map_err(failed)?;
        if key.expose().len() != KEY_BYTES {
            return Err(NotUnwrapped::Damaged);
        }
        Ok(OpenKey { id: *id, kid: kid.clone(), key })
    }

    /// Whether one at least of these data keys is one that this key wrapped.
    async fn unwrap_one(&self, deployment: &DeploymentId, samples: &[DataKey]) -> Result<(), NotUnwrapped> {
        for key in samples {
            match self.unwrap(deployment, key).await {
                Ok(_) => return Ok(()),
                Err(NotUnwrapped::Damaged) => {
                    tracing::warn!(kid = %self.kid, owner = %key.owner, "a data key cannot be unwrapped");
                }
                Err(unavailable) => return Err(unavailable),
            }
        }
        Err(NotUnwrapped::Damaged)
    }

    async fn root(&self, version: Option<u32>) -> Result<Root, SourceError> {
        if let Some(root) = self.known_root(version) {
            return Ok(root);
        }
        let root = self.source.root(version).await?;
        let mut roots = self.roots.lock().unwrap_or_else(PoisonError::into_inner);
        if version.is_none() {
            roots.newest = Some(root.version);
        }
        if roots.known.iter().all(|known| known.version != root.version) {
            roots.known.push(root.clone());
        }
        Ok(root)
    }

    fn known_root(&self, version: Option<u32>) -> Option<Root> {
        let roots = self.roots.lock().unwrap_or_else(PoisonError::into_inner);
        let version = version.or(roots.newest)?;
        roots.known.iter().find(|root| root.version == version).cloned()
    }
}

/// Where a retired key was.
struct Gone;

impl KeySource for Gone {
    fn kind(&self) -> &'static str {
        "retired"
    }

    fn wrap<'a>(
        &'a self,
        _: &'a SecretBytes,
    ) -> futures_util::future::BoxFuture<'a, Result<crate::secret::Sealed, SourceError>> {
        Box::pin(async { Err(gone()) })
    }

    fn unwrap<'a>(
        &'a self,
        _: &'a crate::secret::Sealed,
    ) -> futures_util::future::BoxFuture<'a, Result<SecretBytes, SourceError>> {
        Box::pin(async { Err(gone()) })
    }

    fn root(&self, _: Option<u32>) -> futures_util::future::BoxFuture<'_, Result<Root, SourceError>> {
        Box::pin(async { Err(gone()) })
    }
}

fn gone() -> SourceError {
    SourceError::NotOurs("the key is retired".to_owned())
}
