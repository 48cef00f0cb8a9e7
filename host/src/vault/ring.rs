//! The ring of key-encryption keys, and what they do to data keys.

use std::sync::Arc;

use super::VaultError;
use super::kek::{Kek, NotUnwrapped};
use super::source::{Age, KeyFileError, KeySource, Local, Root, SourceError, Transit, make_key_file};
use crate::config::{VaultKey, VaultKeySource, VaultKeyState};
use crate::env::Env;
use crate::ids::{DeploymentId, KekId, Owner};
use crate::outbound::Outbound;
use crate::secret::SecretBytes;
use crate::store::data_keys::{InUse, State};

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
    /// What the keys were made from.
    settings: Vec<VaultKey>,
}

impl Ring {
    /// The keys of a configuration. `may_make` makes the files of active keys that are not there.
    pub(super) fn build(keys: &[VaultKey], env: &Env, outbound: &Outbound, may_make: bool) -> Result<Self, RingError> {
        let mut ring = Vec::new();
        for key in keys {
            // A retired key may be gone altogether.
            let source: Arc<dyn KeySource> = if key.state == VaultKeyState::Retired {
                Arc::new(Gone)
            } else {
                source_of(key, env, outbound, may_make && key.state == VaultKeyState::Active)?
            };
            ring.push(Arc::new(Kek::new(key.kid.clone(), key.state, source)));
        }
        Ok(Self { keys: ring, settings: keys.to_vec() })
    }

    #[cfg(test)]
    pub(super) fn of(keys: Vec<Kek>) -> Self {
        Self { keys: keys.into_iter().map(Arc::new).collect(), settings: Vec::new() }
    }

    /// Whether these are the same keys, made from the same settings. Of keys that are elsewhere the settings are all there is.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let fingerprints = |ring: &Self| ring.keys.iter().map(|key| key.source.fingerprint()).collect::<Vec<_>>();
        self.settings == other.settings && fingerprints(self) == fingerprints(other)
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

    /// What wraps new data keys: the chosen key, or the first active one where it is not active here, or none was chosen.
    ///
    /// # Errors
    /// [`VaultError::NoSuchKek`] where the chosen key is not known here: others have been rotated away from, or are gone.
    pub(super) fn wrapping(&self, chosen: Option<&KekId>) -> Result<&Arc<Kek>, VaultError> {
        if let Some(chosen) = chosen {
            let known = self.keys.iter().find(|key| key.kid == *chosen);
            let known = known.ok_or_else(|| VaultError::NoSuchKek { kid: chosen.clone() })?;
            if known.state == VaultKeyState::Active {
                return Ok(known);
            }
        }
        self.active().next().ok_or(VaultError::NoActiveKek)
    }

    /// Whether these are the keys that the store's data keys are wrapped by: what the store has of each to check it by tells
    /// it, whatever else is damaged. A key that cannot be reached is told of in the log and is no reason to refuse the others,
    /// unless it wraps the deployment's own data key.
    ///
    /// The keys that there is no check of yet and that are right, as far as some of their data keys tell.
    pub(super) async fn check(&self, deployment: &DeploymentId, state: &State) -> Result<Vec<Arc<Kek>>, RingError> {
        let current = self.wrapping(state.current.as_ref()).map(|kek| kek.kid.clone()).ok();
        if let Some(chosen) = &state.current
            && current.is_none()
        {
            tracing::error!(kid = %chosen, "the key-encryption key that was rotated to is not in [[vault.keys]]: nobody gets a new data key");
        }
        let mut unvouched = Vec::new();
        for InUse { kid, check, samples } in &state.in_use {
            let Some(kek) = self.keys.iter().find(|key| key.kid == *kid) else {
                return Err(RingError::Missing { kid: kid.clone() });
            };
            if kek.state == VaultKeyState::Retired {
                return Err(RingError::RetiredInUse { kid: kid.clone() });
            }
            let fits = match check {
                Some(check) => kek.fits(deployment, check).await.map(Some),
                None => Ok(None),
            };
            let judged = match fits {
                Ok(Some(false)) => Err(NotUnwrapped::Damaged),
                Ok(Some(true)) => {
                    kek.set_vouched();
                    // It is the right one. Whether it does its work is still to be seen.
                    match kek.unwrap_one(deployment, samples).await {
                        Err(NotUnwrapped::Damaged) => Ok(()),
                        judged => judged,
                    }
                }
                // From before there were checks, or of a version that the key's server does not use any more.
                Ok(None) | Err(SourceError::Refused(_)) => match kek.unwrap_one(deployment, samples).await {
                    Ok(()) => {
                        unvouched.push(kek.clone());
                        Ok(())
                    }
                    // What a rewrapping left behind: one data key that is damaged, and not a key that is another one.
                    Err(NotUnwrapped::Damaged) if samples.len() == 1 && current.as_ref() != Some(kid) => Ok(()),
                    judged => judged,
                },
                Err(error) => Err(NotUnwrapped::Unavailable(error)),
            };
            match judged {
                Ok(()) => {}
                Err(NotUnwrapped::Damaged) => return Err(RingError::Wrong { kid: kid.clone() }),
                Err(NotUnwrapped::Unavailable(source)) => {
                    if samples.iter().any(|key| key.owner == Owner::Deployment) {
                        return Err(RingError::Unavailable { kid: kid.clone(), source });
                    }
                    tracing::warn!(%kid, error = %source, "a key-encryption key cannot be reached: what it wraps cannot be opened");
                }
            }
        }
        Ok(unvouched)
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
        VaultKeySource::Transit { url, mount, key, token, token_file, namespace } => {
            let token = (token, token_file.clone());
            let transit = Transit::new(outbound.clone(), url, (mount, key), token, namespace.as_deref());
            Arc::new(transit.ok_or_else(|| RingError::Header { kid: kid.clone() })?)
        }
        #[cfg(feature = "pkcs11")]
        VaultKeySource::Pkcs11 { module, token, key, pin } => {
            let token =
                super::source::Pkcs11::new(module.clone(), token.clone(), key.clone(), pin.clone(), env.clone());
            let none = || SourceError::Unavailable("no thread can be started for its token".to_owned());
            Arc::new(token.ok_or_else(|| RingError::Unavailable { kid: kid.clone(), source: none() })?)
        }
        VaultKeySource::None => Arc::new(Gone),
        #[cfg(not(feature = "pkcs11"))]
        VaultKeySource::Pkcs11 { .. } => return Err(RingError::NoPkcs11 { kid: kid.clone() }),
    })
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
