//! What operators do with the vault while it is in use: look at it, change key-encryption keys, check, destroy.
//!
//! Rotating touches data keys only, a batch at a time, each batch one transaction with its place in the walk: a rewrapping
//! that was interrupted anywhere goes on from there, on any replica, and doing it again changes nothing.

use super::{Actor, Opening, Refusal, Vault, VaultError, data_keys};
use crate::ids::{KekId, Owner};
use crate::store::SEALED;
use crate::store::data_keys::{Choice, DataKey, Rewrapping, Shredding, Usage, Wrapped};
use crate::store::sealed;

/// Records that one step of [`Vault::verify`] looks at.
const VERIFIED: usize = 100;

/// The vault at a glance.
#[derive(Debug)]
pub struct Status {
    pub deployment: String,
    /// In the order of the configuration, then keys that are in use and not configured.
    pub keys: Vec<KekStatus>,
    pub rewrapping: Option<Rewrapping>,
    /// Data keys in memory.
    pub cached: usize,
}

/// One key-encryption key.
#[derive(Debug)]
pub struct KekStatus {
    pub kid: KekId,
    /// `None` if it is not configured.
    pub state: Option<&'static str>,
    pub source: Option<&'static str>,
    /// Whether new data keys are wrapped by it.
    pub is_current: bool,
    pub data_keys: usize,
    /// Whether there are more than were counted.
    pub is_more: bool,
    /// Why it does not do its work now.
    pub fault: Option<String>,
}

/// What came of [`Vault::rotate`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// New data keys are wrapped by this key from now on. The others are still to be wrapped anew.
    Rotated(KekId),
    /// They were already.
    Unchanged(KekId),
    /// The configuration has no other active key.
    NoOther,
    NotConfigured(KekId),
    NotActive(KekId),
}

/// What came of [`Vault::shred`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shred {
    Shredded,
    NotFound,
    /// The deployment's own secrets are not a principal's: nothing would work without them.
    Refused,
}

/// What one step of [`Vault::verify`] found.
#[derive(Debug, Default)]
pub struct Verified {
    pub data_keys: usize,
    pub fields: usize,
    /// Of the fields those whose owners' data keys were destroyed as somebody wished.
    pub shredded: usize,
    /// Records of which nothing can be told now: the key-encryption key cannot be reached.
    pub unreachable: usize,
    pub bad: Vec<Bad>,
    /// Where to go on. `None` at the end.
    pub next: Option<Vec<u8>>,
}

/// A record that cannot be opened.
#[derive(Debug)]
pub struct Bad {
    pub owner: Owner,
    pub table: &'static str,
    pub key: String,
    pub field: &'static str,
    pub reason: String,
}

impl Vault {
    /// The vault at a glance, with the health of every key.
    ///
    /// # Errors
    /// [`VaultError`].
    pub async fn status(&self) -> Result<Status, VaultError> {
        let store = &self.0.store;
        let usage = data_keys::usage(store).await?;
        let current = data_keys::state(store).await?.current;
        let ring = self.0.ring.load_full();
        // One that is not known here is nobody's choice else.
        let current = ring.wrapping(current.as_ref()).map(|kek| kek.kid.clone()).ok().or(current);
        let of = |kid: &KekId| {
            let found = usage.iter().find(|usage| usage.kid == *kid);
            found.map_or((0, false), |usage: &Usage| (usage.data_keys, usage.is_more))
        };
        let mut keys = Vec::new();
        for kek in ring.keys() {
            let is_retired = ring.get(&kek.kid).is_none();
            let fault = if is_retired { None } else { kek.health().await.err().map(|error| error.to_string()) };
            let (data_keys, is_more) = of(&kek.kid);
            keys.push(KekStatus {
                kid: kek.kid.clone(),
                state: Some(kek.state.as_str()),
                source: Some(kek.source.kind()),
                is_current: current.as_ref() == Some(&kek.kid),
                data_keys,
                is_more,
                fault,
            });
        }
        for Usage { kid, data_keys, is_more } in &usage {
            if ring.keys().iter().all(|kek| kek.kid != *kid) {
                let (kid, data_keys, is_more) = (kid.clone(), *data_keys, *is_more);
                let fault = Some("it is not in [[vault.keys]]".to_owned());
                let is_current = current.as_ref() == Some(&kid);
                keys.push(KekStatus { kid, state: None, source: None, is_current, data_keys, is_more, fault });
            }
        }
        if let Some(kid) = current.filter(|current| keys.iter().all(|key| key.kid != *current)) {
            let fault = Some("it was rotated to, and is not in [[vault.keys]]".to_owned());
            let (data_keys, is_more) = (0, false);
            keys.push(KekStatus { kid, state: None, source: None, is_current: true, data_keys, is_more, fault });
        }
        let rewrapping = data_keys::rewrapping(store).await?;
        let cached = self.cache().len();
        Ok(Status { deployment: self.0.deployment.to_string(), keys, rewrapping, cached })
    }

    /// Has new data keys wrapped by another key-encryption key: this one, or the next active one of the configuration.
    ///
    /// # Errors
    /// [`VaultError::Unavailable`] if that key does not do its work.
    pub async fn rotate(&self, to: Option<KekId>, actor: Actor) -> Result<Rotation, VaultError> {
        let state = data_keys::state(&self.0.store).await?;
        let ring = self.0.ring.load_full();
        let current = match ring.wrapping(state.current.as_ref()) {
            Ok(kek) => Some(&kek.kid),
            // A key that is not known here any more can be rotated away from.
            Err(VaultError::NoSuchKek { .. }) => None,
            Err(error) => return Err(error),
        };
        let kek = match to {
            Some(to) => match (ring.keys().iter().find(|kek| kek.kid == to), ring.active().find(|kek| kek.kid == to)) {
                (None, _) => return Ok(Rotation::NotConfigured(to)),
                (Some(_), None) => return Ok(Rotation::NotActive(to)),
                (Some(_), Some(kek)) => kek,
            },
            None => {
                let behind = ring.active().skip_while(|kek| Some(&kek.kid) != current).skip(1);
                let Some(next) = behind.chain(ring.active()).find(|kek| Some(&kek.kid) != current) else {
                    return Ok(Rotation::NoOther);
                };
                next
            }
        };
        kek.health().await.map_err(|source| kek.unavailable(source))?;
        self.vouch(kek).await?;
        // Chosen even where it would be the first anyway: another replica may have another order.
        let is_same = current == Some(&kek.kid);
        let choice = data_keys::choose(&self.0.store, &kek.kid, actor).await?;
        let is_unchanged = is_same || choice == Choice::Unchanged;
        Ok(if is_unchanged { Rotation::Unchanged(kek.kid.clone()) } else { Rotation::Rotated(kek.kid.clone()) })
    }

    /// Wraps the next data keys by the key-encryption key that wraps new ones. How far that has come.
    ///
    /// # Errors
    /// [`VaultError`]; what was done stays done.
    pub async fn rewrap_step(&self, actor: Actor) -> Result<Rewrapping, VaultError> {
        let store = &self.0.store;
        let current = data_keys::state(store).await?.current;
        let ring = self.0.ring.load_full();
        let to = ring.wrapping(current.as_ref())?;
        let batch = data_keys::to_rewrap(store, &to.kid).await?;
        let mut wrapped = Wrapped::default();
        for before in batch.keys {
            match self.unwrap(&before).await {
                Ok(Ok(key)) => {
                    self.vouch(to).await?;
                    let new = to.wrap(&self.0.deployment, (&before.owner, before.id), &key.key, &self.0.env).await?;
                    wrapped.keys.push((before.wrapped, DataKey { created: before.created, ..new }));
                }
                Ok(Err(refusal)) => {
                    tracing::error!(owner = %before.owner, %refusal, "a data key was not wrapped anew");
                    wrapped.unreadable += 1;
                }
                // Those behind it may be another key's.
                Err(error) if is_out_of_reach(&error) => {
                    tracing::warn!(owner = %before.owner, %error, "a data key was not wrapped anew");
                    wrapped.unreachable += 1;
                }
                Err(error) => return Err(error),
            }
        }
        let progress = data_keys::rewrap(store, current.as_ref(), &wrapped, &batch.then, actor).await?;
        wrapped.keys.iter().for_each(|(_, key)| self.forget_one(&key.owner));
        Ok(progress)
    }

    /// Destroys an owner's data key, and with it everything that is sealed for them.
    ///
    /// # Errors
    /// [`VaultError`].
    pub async fn shred(&self, owner: &Owner, actor: Actor) -> Result<Shred, VaultError> {
        if *owner == Owner::Deployment {
            return Ok(Shred::Refused);
        }
        let shredding = data_keys::shred(&self.0.store, owner, actor).await?;
        self.forget_one(owner);
        Ok(match shredding {
            Shredding::Shredded => Shred::Shredded,
            Shredding::NotFound => Shred::NotFound,
        })
    }

    /// Opens the next data keys and sealed fields, from where an earlier step has come. `None` if there is no such place.
    ///
    /// # Errors
    /// [`VaultError`].
    pub async fn verify(&self, from: Option<&[u8]>) -> Result<Option<Verified>, VaultError> {
        let Some((stage, after)) = from.map_or(Some((0, None)), read_cursor) else { return Ok(None) };
        let mut verified = Verified::default();
        let next = if stage == 0 {
            self.verify_data_keys(after, &mut verified).await?
        } else {
            let Some(table) = SEALED.get(stage - 1) else { return Ok(None) };
            self.verify_fields(*table, after, &mut verified).await?
        };
        verified.next = match next {
            Some(after) => Some(write_cursor(stage, Some(&after))),
            None => (stage < SEALED.len()).then(|| write_cursor(stage + 1, None)),
        };
        Ok(Some(verified))
    }

    async fn verify_data_keys(
        &self,
        after: Option<Vec<u8>>,
        verified: &mut Verified,
    ) -> Result<Option<Vec<u8>>, VaultError> {
        let (keys, next) = data_keys::page(&self.0.store, after, VERIFIED).await?;
        for key in keys {
            verified.data_keys += 1;
            // Without the cache: what rests in the store is what is looked at.
            let reason = match self.unwrap(&key).await {
                Ok(Ok(_)) => continue,
                Ok(Err(refusal)) => refusal.to_string(),
                Err(error @ VaultError::NoSuchKek { .. }) => error.to_string(),
                Err(error) if is_out_of_reach(&error) => {
                    verified.unreachable += 1;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let at = key.owner.to_string();
            verified.bad.push(Bad { owner: key.owner, table: "data_keys", key: at, field: "wrapped", reason });
        }
        Ok(next)
    }

    async fn verify_fields(
        &self,
        table: &'static dyn sealed::Sealing,
        after: Option<Vec<u8>>,
        verified: &mut Verified,
    ) -> Result<Option<Vec<u8>>, VaultError> {
        let (fields, next) = sealed::fields(&self.0.store, table, after, VERIFIED).await?;
        for (place, sealed) in fields {
            verified.fields += 1;
            let reason = match self.open(&place, &sealed).await {
                Ok(Opening::Opened(_)) => continue,
                Ok(Opening::Refused(Refusal::Shredded)) => {
                    verified.shredded += 1;
                    continue;
                }
                Ok(Opening::Refused(refusal)) => refusal.to_string(),
                Err(error @ VaultError::NoSuchKek { .. }) => error.to_string(),
                Err(error) if is_out_of_reach(&error) => {
                    verified.unreachable += 1;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let key = String::from_utf8_lossy(&place.key).replace('\0', "/");
            verified.bad.push(Bad { owner: place.owner, table: place.table, key, field: place.field, reason });
        }
        Ok(next)
    }
}

/// Whether another record may be opened all the same.
fn is_out_of_reach(error: &VaultError) -> bool {
    matches!(error, VaultError::Unavailable { .. } | VaultError::NoSuchKek { .. } | VaultError::Late)
}

/// Which table, and the last key that was looked at.
fn write_cursor(stage: usize, after: Option<&[u8]>) -> Vec<u8> {
    let stage = u8::try_from(stage).expect("there are a few tables with sealed fields");
    let has_key = u8::from(after.is_some());
    [&[stage, has_key], after.unwrap_or_default()].concat()
}

fn read_cursor(bytes: &[u8]) -> Option<(usize, Option<Vec<u8>>)> {
    match bytes {
        [stage, 0] => Some((usize::from(*stage), None)),
        [stage, 1, after @ ..] => Some((usize::from(*stage), Some(after.to_vec()))),
        _ => None,
    }
}
