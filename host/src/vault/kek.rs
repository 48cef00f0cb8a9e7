//! A key-encryption key: what it does to data keys, and what is remembered of it.
//!
//! Wherever it is, it gets the same time to answer ([`PATIENCE`]). One that did not is taken to be out of reach for a moment:
//! whoever wants something of it meanwhile is told at once, and then one asks whether it is back.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::Instant;

use super::VaultError;
use super::format::{self, KEY_BYTES, OpenKey};
use super::source::{KeySource, PATIENCE, Root, SourceError};
use crate::config::VaultKeyState;
use crate::env::Env;
use crate::ids::{DeploymentId, KekId, Owner};
use crate::secret::SecretBytes;
use crate::store::data_keys::{Check, DataKey, DataKeyId};

/// For how long a key that did not answer is taken to be out of reach.
const PAUSE: Duration = Duration::from_secs(1);

/// A key-encryption key.
pub(super) struct Kek {
    pub(super) kid: KekId,
    pub(super) state: VaultKeyState,
    pub(super) source: Arc<dyn KeySource>,
    patience: Duration,
    /// Its roots, as far as they were asked for: each costs a call where the key is elsewhere.
    roots: Mutex<Roots>,
    fault: Mutex<Option<Fault>>,
    is_vouched: AtomicBool,
}

#[derive(Default)]
struct Roots {
    /// A handful at most: one for each version of the key.
    known: Vec<Root>,
    /// Version of the newest, as it was when it was first wanted.
    newest: Option<u32>,
}

/// That the key is out of reach.
struct Fault {
    until: Instant,
    reason: String,
}

/// Why a data key was not unwrapped.
#[derive(Debug)]
pub(super) enum NotUnwrapped {
    /// Its tag is wrong.
    Damaged,
    /// The key-encryption key did not do it, for reasons that are not the data key's.
    Unavailable(SourceError),
}

impl Kek {
    pub(super) fn new(kid: KekId, state: VaultKeyState, source: Arc<dyn KeySource>) -> Self {
        let (roots, fault, is_vouched) = (Mutex::default(), Mutex::default(), AtomicBool::new(false));
        Self { kid, state, source, patience: PATIENCE, roots, fault, is_vouched }
    }

    #[cfg(test)]
    pub(super) fn of(kid: &str, state: VaultKeyState, source: Arc<dyn KeySource>) -> Self {
        Self::new(KekId::parse(kid).expect("a key id"), state, source)
    }

    #[cfg(test)]
    pub(super) fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Wraps a data key for its owner.
    pub(super) async fn wrap(
        &self,
        deployment: &DeploymentId,
        (owner, id): (&Owner, DataKeyId),
        key: &SecretBytes,
        env: &Env,
    ) -> Result<DataKey, VaultError> {
        let root = self.root(None).await.map_err(|source| self.unavailable(source))?;
        let wrapped = self.ask(self.source.wrap(key)).await.map_err(|source| self.unavailable(source))?;
        let tag = format::tag(&root.secret, root.version, deployment, (owner, id, &self.kid), &wrapped);
        let (owner, kid, created) = (owner.clone(), self.kid.clone(), env.now());
        Ok(DataKey { owner, id, kid, wrapped, root: root.version, tag, created })
    }

    /// The data key itself, if it is one that was wrapped by this key for this owner.
    pub(super) async fn unwrap(&self, deployment: &DeploymentId, key: &DataKey) -> Result<OpenKey, NotUnwrapped> {
        let DataKey { owner, id, kid, wrapped, root, tag, created: _ } = key;
        let root = self.root(Some(*root)).await.map_err(|error| match error {
            SourceError::NotOurs(_) => NotUnwrapped::Damaged,
            error => NotUnwrapped::Unavailable(error),
        })?;
        if *tag != format::tag(&root.secret, root.version, deployment, (owner, *id, kid), wrapped) {
            return Err(NotUnwrapped::Damaged);
        }
        // Whoever made this tag held the key and had wrapped just this: what fails from here on is the source's fault.
        let key = self.ask(self.source.unwrap(wrapped)).await.map_err(NotUnwrapped::Unavailable)?;
        if key.expose().len() != KEY_BYTES {
            let error = SourceError::Refused("it gave something that is no data key".to_owned());
            return Err(NotUnwrapped::Unavailable(error));
        }
        Ok(OpenKey { id: *id, kid: kid.clone(), key })
    }

    /// Whether one at least of these data keys is one that this key wrapped.
    pub(super) async fn unwrap_one(&self, deployment: &DeploymentId, samples: &[DataKey]) -> Result<(), NotUnwrapped> {
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

    /// What tells this key from another one of the same id.
    pub(super) async fn check(&self, deployment: &DeploymentId) -> Result<Check, SourceError> {
        let root = self.root(None).await?;
        Ok(self.check_with(deployment, &root))
    }

    /// Whether a check is this key's.
    pub(super) async fn fits(&self, deployment: &DeploymentId, check: &Check) -> Result<bool, SourceError> {
        match self.root(Some(check.root)).await {
            Ok(root) => Ok(self.check_with(deployment, &root) == *check),
            Err(SourceError::NotOurs(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn check_with(&self, deployment: &DeploymentId, root: &Root) -> Check {
        Check { root: root.version, tag: format::check(&root.secret, root.version, deployment, &self.kid) }
    }

    /// Whether it is known to be the one that the store's check is of.
    pub(super) fn is_vouched(&self) -> bool {
        self.is_vouched.load(Ordering::Relaxed)
    }

    pub(super) fn set_vouched(&self) {
        self.is_vouched.store(true, Ordering::Relaxed);
    }

    /// Whether it does its work now. Asked even where it is taken to be out of reach.
    pub(super) async fn health(&self) -> Result<(), SourceError> {
        self.answer(self.source.health()).await
    }

    pub(super) fn unavailable(&self, source: SourceError) -> VaultError {
        VaultError::Unavailable { kid: self.kid.clone(), source }
    }

    async fn root(&self, version: Option<u32>) -> Result<Root, SourceError> {
        if let Some(root) = self.known_root(version) {
            return Ok(root);
        }
        let root = self.ask(self.source.root(version)).await?;
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

    async fn ask<T>(&self, question: BoxFuture<'_, Result<T, SourceError>>) -> Result<T, SourceError> {
        self.admit()?;
        self.answer(question).await
    }

    /// Not while the key is out of reach. After that one goes ahead, and the others are told so until it has an answer.
    fn admit(&self) -> Result<(), SourceError> {
        let now = Instant::now();
        let mut fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *fault {
            Some(fault) if now < fault.until => Err(SourceError::Unavailable(fault.reason.clone())),
            Some(fault) => {
                fault.until = now + self.patience;
                Ok(())
            }
            None => Ok(()),
        }
    }

    async fn answer<T>(&self, question: BoxFuture<'_, Result<T, SourceError>>) -> Result<T, SourceError> {
        let late = |_| Err(SourceError::Unavailable("it does not answer".to_owned()));
        let answer = tokio::time::timeout(self.patience, question).await.unwrap_or_else(late);
        let fault = match &answer {
            Err(SourceError::Unavailable(reason)) => {
                Some(Fault { until: Instant::now() + PAUSE, reason: reason.clone() })
            }
            // It answered, whatever it said.
            Ok(_) | Err(SourceError::Refused(_) | SourceError::NotOurs(_)) => None,
        };
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
        answer
    }
}
