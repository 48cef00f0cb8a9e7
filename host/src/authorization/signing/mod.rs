//! The keys that sign access tokens: made, published, used, rotated (`docs/threat-model.md` rows T11 and T12).
//!
//! [`SigningKeys`] publishes an immutable set: what signs, what verifies, and the document for others to verify by. It is
//! read again whenever the set in the store has changed, so that a key that another gateway has announced, retired or
//! revoked is the same here soon after. When what happens is [`schedule`], what an operator does is [`rotation`].
//!
//! A key is made where there is none that signs. Where there is one that cannot be opened, nothing is made in its place:
//! that is a fault, which somebody has to look at.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::Fault;
use crate::audit::Actor;
use crate::env::{Env, Timestamp};
use crate::oauth::signing::{Algorithm, Refused, SigningKey, Stage};
use crate::oauth::signing_key::{PublicKey, SigningSecret};
use crate::oauth::token::{AccessToken, Signer, Unsigned, Verifier};
use crate::oauth::vouched::Assertion;
use crate::store::changes::{Change, News};
use crate::store::follower::Subscriber;
use crate::store::leases::{self, Taking};
use crate::store::signing_keys::{self, KeyChange, KeySet, Transition, private_at};
use crate::store::{Store, StoreError};
use crate::vault::{Opening, Vault};

pub mod rotation;
pub mod schedule;
#[cfg(test)]
mod tests;

pub use rotation::{Revocation, Rotation, When};
pub use schedule::Rules;

use schedule::{RETAINED, Step, due, signing};

/// Between two looks at what is due.
const LOOK: Duration = Duration::from_secs(1);
/// Before something is tried again that has failed.
const RETRY: Duration = Duration::from_secs(30);
/// Steps that are taken at once.
const MAX_STEPS: usize = 32;
/// How often something is tried that another gateway was faster with.
const TRIES: usize = 16;
/// How long whoever follows the store waits for the vault. What it does not open by then is opened later.
const OPEN_PATIENCE: Duration = Duration::from_secs(1);
/// How far the store's clock may be behind ours where a key is to sign at once.
const CLOCK_ROOM: Duration = Duration::from_secs(5);

const LEASE: &str = "signing-keys";
/// How long another gateway waits for one that says nothing any more.
const LEASE_TIME: Duration = Duration::from_secs(60);

/// The keys that sign. Clones are the same.
#[derive(Clone)]
pub struct SigningKeys(Arc<Inner>);

struct Inner {
    store: Store,
    vault: Vault,
    env: Env,
    issuer: String,
    /// As the settings are now; none where there is no authorization server.
    rules: Box<dyn Fn() -> Option<Rules> + Send + Sync>,
    published: ArcSwap<Published>,
    /// One at a time reads the set again and publishes it.
    reading: Mutex<()>,
}

/// A set of keys, as everybody here uses it.
struct Published {
    /// That of the set in the store.
    revision: u64,
    keys: Vec<SigningKey>,
    /// Of the keys that sign, or will. One that could not be opened is not there.
    signers: HashMap<String, Arc<Signer>>,
    verifier: Arc<Verifier>,
    /// A JSON Web Key Set (RFC 7517 §5).
    jwks: Arc<str>,
}

impl SigningKeys {
    /// The keys of this store, and the first one if there is none that signs. `rules` tells what the settings are at any
    /// time; where there are none nothing is made and nothing is signed.
    ///
    /// # Errors
    /// [`Fault`], also where the key that signs is there and cannot be opened.
    pub async fn start(
        store: Store,
        vault: Vault,
        env: Env,
        issuer: String,
        rules: impl Fn() -> Option<Rules> + Send + Sync + 'static,
    ) -> Result<Self, Fault> {
        let none = KeySet { revision: 0, keys: Vec::new() };
        let published = ArcSwap::from_pointee(Published::of(&issuer, none, HashMap::new()));
        let (rules, reading) = (Box::new(rules), Mutex::default());
        let keys = Self(Arc::new(Inner { store, vault, env, issuer, rules, published, reading }));
        keys.begin().await?;
        Ok(keys)
    }

    /// Sees to it that there is a key that signs.
    async fn begin(&self) -> Result<(), Fault> {
        for _ in 0..TRIES {
            let set = self.read_again().await?;
            let Some(rules) = (self.0.rules)() else { return Ok(()) };
            if let Some(key) = signing(&set.keys, &rules) {
                // What was not opened in time fails for its own reason, or is there now.
                self.signer(key).await?;
                self.read_again().await?;
                return Ok(());
            }
            // Nothing else is due where no key signs.
            if let Some(step) = due(&set.keys, &rules, self.0.env.now()) {
                self.take_step(&set, step, rules.algorithm, Actor::System).await?;
            }
        }
        Err(Fault::Busy)
    }

    /// Signs a token with the key that signs now.
    ///
    /// # Errors
    /// [`Unsigned`]: a fault where no key signs; where the token would be too large, a refusal.
    pub fn sign(&self, token: &AccessToken) -> Result<String, Unsigned> {
        self.signing_now()?.sign(&self.0.issuer, token)
    }

    /// Signs what the gateway says of a person to another authorization server.
    ///
    /// # Errors
    /// As for [`Self::sign`].
    pub fn vouch(&self, assertion: &Assertion) -> Result<String, Unsigned> {
        self.signing_now()?.vouch(&self.0.issuer, assertion)
    }

    /// What signs now.
    fn signing_now(&self) -> Result<Arc<Signer>, Unsigned> {
        let published = self.0.published.load();
        let rules = (self.0.rules)();
        let key = rules.and_then(|rules| signing(&published.keys, &rules));
        key.and_then(|key| published.signers.get(&key.id)).cloned().ok_or(Unsigned::NoKey)
    }

    /// What verifies tokens by all keys that are published.
    pub fn verifier(&self) -> Arc<Verifier> {
        self.0.published.load().verifier.clone()
    }

    /// The published keys as a JSON Web Key Set (RFC 7517 §5).
    pub fn jwks(&self) -> Arc<str> {
        self.0.published.load().jwks.clone()
    }

    /// Changes whenever the published keys do. What was verified before may count no more.
    pub fn revision(&self) -> u64 {
        self.0.published.load().revision
    }

    /// Which life of the store tokens are from.
    pub fn epoch(&self) -> u64 {
        self.0.store.epoch()
    }

    /// Keeps to the schedule, until `stopping`.
    pub async fn run(self, stopping: CancellationToken) {
        let mut has_failed = false;
        loop {
            let kept = stopping.run_until_cancelled(self.keep()).await;
            let wait = match kept {
                None => return,
                Some(Ok(())) => {
                    has_failed = false;
                    LOOK
                }
                Some(Err(fault)) => {
                    if !has_failed {
                        let error: &(dyn std::error::Error + 'static) = &fault;
                        tracing::error!(error, "the keys that sign tokens cannot be looked after; trying on");
                    }
                    has_failed = true;
                    RETRY
                }
            };
            stopping.run_until_cancelled(tokio::time::sleep(wait)).await;
        }
    }

    /// Does what is due, where no other gateway is at it.
    async fn keep(&self) -> Result<(), Fault> {
        let published = self.0.published.load_full();
        if let Some(sealed) = published.keys.iter().find(|key| published.is_sealed(key)) {
            self.signer(sealed).await?;
            self.read_again().await?;
        }
        if self.step_due(&self.0.published.load().keys).is_none() {
            return Ok(());
        }
        let lease = if self.0.store.is_shared() {
            match leases::take(&self.0.store, LEASE, LEASE_TIME).await? {
                Taking::Taken(lease) => Some(lease),
                Taking::Held { .. } => return Ok(()),
            }
        } else {
            None
        };
        // Each step is for one revision of the set: who has lost the lease meanwhile changes nothing.
        let taken = self.take_steps().await;
        if let Some(lease) = lease {
            // If it is somebody else's by now, it is not ours to give back.
            _ = leases::release(&self.0.store, lease).await?;
        }
        taken
    }

    async fn take_steps(&self) -> Result<(), Fault> {
        for _ in 0..MAX_STEPS {
            let set = self.read_again().await?;
            let Some((step, rules)) = self.step_due(&set.keys) else { return Ok(()) };
            if !self.take_step(&set, step, rules.algorithm, Actor::System).await? {
                return Ok(());
            }
        }
        Ok(())
    }

    fn step_due(&self, keys: &[SigningKey]) -> Option<(Step, Rules)> {
        let rules = (self.0.rules)()?;
        due(keys, &rules, self.0.env.now()).map(|step| (step, rules))
    }

    /// Takes a step from this set, and publishes what comes of it. Whether to go on: not if it has to wait.
    async fn take_step(&self, set: &KeySet, step: Step, algorithm: Algorithm, actor: Actor) -> Result<bool, Fault> {
        let change = match step {
            Step::Announce { usable_from } => {
                KeyChange::Announce(Box::new(self.new_key(algorithm, usable_from).await?))
            }
            Step::Activate { id } => {
                // What cannot be opened here does not take the place of what can.
                let key = set.keys.iter().find(|key| key.id == id).ok_or(Fault::Key)?;
                self.signer(key).await?;
                KeyChange::Activate { id, predecessor_until: self.0.env.now().after(RETAINED) }
            }
            Step::Retire { id, until } => KeyChange::Retire { id, until },
            Step::Remove { id } => KeyChange::Remove { id },
        };
        let came = signing_keys::transition(&self.0.store, set.revision, change, actor).await?;
        self.read_again().await?;
        match came {
            Transition::Applied(_) | Transition::Conflict(_) => Ok(true),
            Transition::Refused(Refused::TooSoon) => Ok(false),
            Transition::Refused(refused) => {
                tracing::warn!(?refused, "a change of the keys that sign tokens was refused");
                Ok(false)
            }
        }
    }

    /// A new key, its private part sealed.
    async fn new_key(&self, algorithm: Algorithm, usable_from: Timestamp) -> Result<SigningKey, Fault> {
        let make = move || {
            let secret = SigningSecret::generate(algorithm)?;
            let (id, public) = secret.public()?;
            Ok::<_, crate::oauth::signing_key::KeyError>((id, public.to_json(), secret))
        };
        let made = tokio::task::spawn_blocking(make).await.map_err(|_| Fault::Key)?;
        let (id, public, secret) = made.map_err(|_| Fault::Key)?;
        let private = self.0.vault.seal(&private_at(&id), secret.pkcs8().expose()).await?;
        let created = self.0.env.now();
        // The store judges by its own clock whether it may sign already.
        let usable_from = if usable_from <= created { usable_from.before(CLOCK_ROOM) } else { usable_from };
        Ok(SigningKey { id, algorithm, public, created, stage: Stage::Announced { private, usable_from } })
    }

    /// Reads the set again and publishes it, unless what is published is newer.
    async fn read_again(&self) -> Result<KeySet, StoreError> {
        let _one_at_a_time = self.0.reading.lock().await;
        let set = signing_keys::load(&self.0.store).await?;
        let before = self.0.published.load_full();
        if set.revision < before.revision {
            return Ok(set);
        }
        let is_kept = |key: &&SigningKey| !matches!(key.stage, Stage::Retired { .. });
        let known = |key: &SigningKey| Some((key.id.clone(), before.signers.get(&key.id)?.clone()));
        let mut signers: HashMap<_, _> = set.keys.iter().filter(is_kept).filter_map(known).collect();
        let publish = |signers| {
            self.0.published.store(Arc::new(Published::of(&self.0.issuer, set.clone(), signers)));
        };
        // What is revoked verifies nothing any more, however long it takes to open what is new.
        publish(signers.clone());
        let unknown: Vec<_> = set.keys.iter().filter(is_kept).filter(|key| !signers.contains_key(&key.id)).collect();
        if !unknown.is_empty() {
            let opening = async {
                for key in unknown {
                    // Whoever keeps to the schedule tries again, and tells why not.
                    if let Ok(signer) = self.signer(key).await {
                        signers.insert(key.id.clone(), signer);
                    }
                }
            };
            _ = tokio::time::timeout(OPEN_PATIENCE, opening).await;
            publish(signers);
        }
        Ok(set)
    }

    /// What signs with this key, opened if it is not yet.
    async fn signer(&self, key: &SigningKey) -> Result<Arc<Signer>, Fault> {
        if let Some(signer) = self.0.published.load().signers.get(&key.id) {
            return Ok(signer.clone());
        }
        let (Stage::Announced { private, .. } | Stage::Active { private, .. }) = &key.stage else {
            return Err(Fault::Key);
        };
        let opened = match self.0.vault.open(&private_at(&key.id), private).await? {
            Opening::Opened(opened) => opened,
            Opening::Refused(refusal) => {
                tracing::error!(kid = key.id, %refusal, "the private part of a key that signs tokens cannot be opened");
                return Err(Fault::Key);
            }
        };
        let secret = SigningSecret::new(key.algorithm, opened);
        let is_its_own = secret.public().is_ok_and(|(id, _)| id == key.id);
        let signer = Signer::new(&key.id, &secret).ok().filter(|_| is_its_own);
        signer.map(Arc::new).ok_or_else(|| {
            tracing::error!(kid = key.id, "the private part of a key that signs tokens is none of this key");
            Fault::Key
        })
    }
}

impl Published {
    fn of(issuer: &str, set: KeySet, signers: HashMap<String, Arc<Signer>>) -> Self {
        let KeySet { revision, keys } = set;
        let public = |key: &SigningKey| {
            let public = PublicKey::parse(key.algorithm, &key.public);
            public.map(|public| (key.id.clone(), public)).map_err(|_| key.id.clone())
        };
        let (public, unreadable): (Vec<_>, Vec<_>) = keys.iter().map(public).partition(Result::is_ok);
        for kid in unreadable.into_iter().filter_map(Result::err) {
            tracing::error!(kid, "the public part of a key that signs tokens cannot be read: it verifies nothing");
        }
        let public: Vec<(String, PublicKey)> = public.into_iter().filter_map(Result::ok).collect();
        let verifier = Verifier::new(issuer, public.iter().map(|(id, key)| (id.as_str(), key)));
        let texts: Vec<String> = public.iter().map(|(_, key)| key.to_json()).collect();
        Self {
            revision,
            keys,
            signers,
            verifier: Arc::new(verifier.expect("a key that was read is one of its algorithm")),
            jwks: format!(r#"{{"keys":[{}]}}"#, texts.join(",")).into(),
        }
    }

    /// Whether a key should be open, and is not.
    fn is_sealed(&self, key: &SigningKey) -> bool {
        !matches!(key.stage, Stage::Retired { .. }) && !self.signers.contains_key(&key.id)
    }
}

impl Subscriber for SigningKeys {
    fn take<'a>(&'a self, news: &'a News) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let is_ours = match news {
                News::Changes { changes, .. } => changes.contains(&Change::SigningKeys),
                News::Everything { .. } => true,
            };
            if is_ours {
                self.read_again().await?;
            }
            Ok(())
        })
    }
}

impl fmt::Debug for SigningKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let published = self.0.published.load();
        let keys: Vec<_> = published.keys.iter().map(|key| (&key.id, key.state())).collect();
        f.debug_struct("SigningKeys")
            .field("revision", &published.revision)
            .field("keys", &keys)
            .finish_non_exhaustive()
    }
}
