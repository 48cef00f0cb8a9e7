//! What operators do about the keys that sign: look at them, have the next one take over, and take one out that has leaked.

use super::schedule::{RETAINED, signing, usable_from};
use super::{SigningKeys, TRIES};
use crate::audit::Actor;
use crate::authorization::Fault;
use crate::env::Timestamp;
use crate::oauth::signing::{Refused, SigningKey};
use crate::store::signing_keys::{self, KeyChange, Transition};

/// When another key is to sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Once it was published for as long as the settings say.
    Announced,
    /// At once. Who verifies by a copy of the published keys may not know it yet.
    Now,
}

/// What came of a rotation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// This key is published, and signs from then on.
    Announced { kid: String, usable_from: Timestamp, is_new: bool },
    /// This key signs.
    Activated { kid: String },
    /// There are as many keys as there may be. Retired ones go when their time is over.
    Full,
    /// There is no authorization server.
    Off,
}

/// What came of taking out a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Revocation {
    /// It is gone, and nothing that it has signed counts. The key that signs now, if there is one: if not, why not is in
    /// the log, and it is tried again.
    Revoked {
        signs: Option<String>,
    },
    NotFound,
}

impl SigningKeys {
    /// All keys, as the store has them, and the id of the one that signs.
    ///
    /// # Errors
    /// [`Fault`]
    pub async fn list(&self) -> Result<(Vec<SigningKey>, Option<String>), Fault> {
        let keys = signing_keys::load(&self.0.store).await?.keys;
        let signs = (self.0.rules)().and_then(|rules| signing(&keys, &rules).map(|key| key.id.clone()));
        Ok((keys, signs))
    }

    /// Has another key sign. One that is announced already is the next one: no other is made, unless it is to sign at once.
    ///
    /// # Errors
    /// [`Fault`]
    pub async fn rotate(&self, when: When, actor: Actor) -> Result<Rotation, Fault> {
        let Some(rules) = (self.0.rules)() else { return Ok(Rotation::Off) };
        let mut new: Option<SigningKey> = None;
        for _ in 0..TRIES {
            let set = self.read_again().await?;
            let of_ours = |key: &&SigningKey| key.algorithm == rules.algorithm;
            let next = set.keys.iter().filter(of_ours).find_map(|key| Some((key, usable_from(key)?)));
            if let (When::Announced, Some((key, usable_from))) = (when, next) {
                return Ok(Rotation::Announced { kid: key.id.clone(), usable_from, is_new: false });
            }
            let now = self.0.env.now();
            let from = if when == When::Now { now } else { now.after(rules.announce) };
            let key = match new.take() {
                Some(key) => key,
                None => self.new_key(rules.algorithm, from).await?,
            };
            let (kid, usable) = (key.id.clone(), usable_from(&key).unwrap_or(from));
            let change = KeyChange::Announce(Box::new(key.clone()));
            match signing_keys::transition(&self.0.store, set.revision, change, actor).await? {
                Transition::Conflict(_) => new = Some(key),
                Transition::Refused(_) => return Ok(Rotation::Full),
                Transition::Applied(_) if when == When::Announced => {
                    self.read_again().await?;
                    return Ok(Rotation::Announced { kid, usable_from: usable, is_new: true });
                }
                Transition::Applied(_) => return self.activate(kid, actor).await,
            }
        }
        Err(Fault::Busy)
    }

    /// Lets a key sign that may.
    async fn activate(&self, kid: String, actor: Actor) -> Result<Rotation, Fault> {
        for _ in 0..TRIES {
            let set = self.read_again().await?;
            let Some(key) = set.keys.iter().find(|key| key.id == kid) else { return Ok(Rotation::Full) };
            if key.is_active() {
                // Whoever keeps to the schedule was faster.
                return Ok(Rotation::Activated { kid });
            }
            let predecessor_until = self.0.env.now().after(RETAINED);
            let change = KeyChange::Activate { id: kid.clone(), predecessor_until };
            match signing_keys::transition(&self.0.store, set.revision, change, actor).await? {
                Transition::Conflict(_) => {}
                Transition::Applied(_) => {
                    self.read_again().await?;
                    return Ok(Rotation::Activated { kid });
                }
                Transition::Refused(Refused::TooSoon | Refused::WrongState | Refused::NoRoom | Refused::NotFound) => {
                    return Err(Fault::Key);
                }
            }
        }
        Err(Fault::Busy)
    }

    /// Takes out a key at once, whatever it has signed. If it is the one that signs, another one does from then on.
    ///
    /// # Errors
    /// [`Fault`]: the key may still be there.
    pub async fn revoke(&self, kid: &str, actor: Actor) -> Result<Revocation, Fault> {
        let (keys, signs) = self.list().await?;
        if !keys.iter().any(|key| key.id == kid) {
            return Ok(Revocation::NotFound);
        }
        if signs.as_deref() == Some(kid) {
            // Before it goes, so that signing never fails. If that cannot be, it goes nevertheless.
            let rotated = self.rotate(When::Now, actor).await;
            if !matches!(rotated, Ok(Rotation::Activated { .. })) {
                tracing::error!(kid, ?rotated, "a key is taken out before there is another one that signs");
            }
        }
        if !self.take_out(kid, actor).await? {
            return Ok(Revocation::NotFound);
        }
        let mut signs = self.list().await?.1;
        if signs.is_none()
            && let Ok(Rotation::Activated { kid }) = self.rotate(When::Now, actor).await
        {
            signs = Some(kid);
        }
        Ok(Revocation::Revoked { signs })
    }

    /// Whether there was such a key.
    async fn take_out(&self, kid: &str, actor: Actor) -> Result<bool, Fault> {
        for _ in 0..TRIES {
            let set = self.read_again().await?;
            let change = KeyChange::Revoke { id: kid.to_owned() };
            match signing_keys::transition(&self.0.store, set.revision, change, actor).await? {
                Transition::Conflict(_) => {}
                Transition::Refused(_) => return Ok(false),
                Transition::Applied(_) => {
                    self.read_again().await?;
                    return Ok(true);
                }
            }
        }
        Err(Fault::Busy)
    }
}
