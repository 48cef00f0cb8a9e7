//! Virtual keys: made, listed, changed, given another secret and deleted. Keys of the configuration file are shown and left
//! alone.
//!
//! What a key may is published with each change, so that the next request feels it, and the sweep of [`super::reconcile`]
//! follows, as after a reload.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Control;
use crate::audit::Actor;
use crate::config;
use crate::env::Timestamp;
use crate::identity::key::{AllowList, ManagedBy, Standing, VirtualKey};
use crate::identity::user::Login;
use crate::identity::{Keyring, TokenList};
use crate::ids::{KeyName, UpstreamName};
use crate::pipeline::Snapshot;
use crate::secret::Plaintext;
use crate::store::changes::Revision;
use crate::store::keys::{self as stored, Changing, Creation, Deletion, Edit, Ending, Rotating, Rotation};
use crate::store::table::MAX_PAGE;
use crate::store::{Cursor, Page, StoreError};

/// First byte of a cursor: whether the list goes on after a key of the file or of the store.
const OF_FILE: u8 = 0;
const OF_STORE: u8 = 1;

/// How long the secret before is good after a rotation, unless something else is said.
pub const DEFAULT_OVERLAP: Duration = Duration::from_secs(24 * 60 * 60);
/// And at most.
pub const MAX_OVERLAP: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// A key as an operator wants it.
#[derive(Clone, Debug)]
pub struct NewKey {
    pub name: KeyName,
    pub allow: AllowList,
    pub scopes: TokenList,
    pub groups: TokenList,
    pub owner: Option<Login>,
    pub expires: Option<Timestamp>,
}

/// A key that has another secret.
#[derive(Debug)]
pub struct Rotated {
    pub key: VirtualKey,
    /// Returned this once.
    pub secret: Plaintext,
    /// An earlier secret was good still, and has ended: there is one at most.
    pub has_ended_one: bool,
}

/// Why a key was not changed.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("there is a key of this name already")]
    NameTaken,
    #[error("another key had this name, and has left connections; end those first, or take another name")]
    StillEnding,
    #[error("there is no key of this name")]
    NotFound,
    #[error("the key is declared in the configuration file and changed there")]
    ManagedByFile,
    #[error("there are {} keys already", stored::MAX_KEYS)]
    TooMany,
    #[error("the expiry is in the past")]
    AlreadyExpired,
    #[error("the overlap is longer than {} days", MAX_OVERLAP.as_secs() / 86_400)]
    TooLong,
    #[error("the key has no earlier secret")]
    NoEarlier,
    /// It is at this revision.
    #[error("the key has changed meanwhile, and is at revision {0}")]
    Conflict(u64),
    #[error("the store did not take the change")]
    Store(#[from] StoreError),
}

impl Control {
    /// Makes a key. Its secret is returned this once.
    pub async fn create_key(self: &Arc<Self>, new: NewKey, actor: Actor) -> Result<(VirtualKey, Plaintext), KeyError> {
        let NewKey { name, allow, scopes, groups, owner, expires } = new;
        let _one_at_a_time = self.changing.lock().await;
        if self.file_keys().any(|key| key.name == name) {
            return Err(KeyError::NameTaken);
        }
        let now = self.env.now();
        if expires.is_some_and(|expires| expires <= now) {
            return Err(KeyError::AlreadyExpired);
        }
        let secret = VirtualKey::new_secret(&self.env);
        let key = VirtualKey {
            name,
            digest: secret.digest(),
            earlier: None,
            allow,
            scopes,
            groups,
            owner,
            created: now,
            expires,
            standing: Standing::Enabled,
            managed_by: ManagedBy::Store,
            revision: 1,
        };
        let revision = match stored::create(&self.store, key.clone(), actor).await? {
            Creation::Created { revision } => revision,
            Creation::NameTaken | Creation::SecretTaken => return Err(KeyError::NameTaken),
            Creation::StillEnding => return Err(KeyError::StillEnding),
            Creation::TooMany => return Err(KeyError::TooMany),
        };
        self.publish_keys().await?;
        Ok((VirtualKey { revision, ..key }, secret))
    }

    /// Changes a key that is at one of the revisions `seen`, or at any. Takes effect with the next request.
    pub async fn change_key(
        self: &Arc<Self>,
        name: &KeyName,
        seen: Option<Vec<u64>>,
        edit: Edit,
        actor: Actor,
    ) -> Result<VirtualKey, KeyError> {
        let _one_at_a_time = self.changing.lock().await;
        self.refuse_file_key(name)?;
        if edit.expires.flatten().is_some_and(|expires| expires <= self.env.now()) {
            return Err(KeyError::AlreadyExpired);
        }
        match stored::change(&self.store, name, seen, edit, actor).await? {
            Changing::Done(key) => {
                self.publish_keys().await?;
                Ok(*key)
            }
            Changing::NotFound => Err(KeyError::NotFound),
            Changing::Conflict(revision) => Err(KeyError::Conflict(revision)),
        }
    }

    /// Gives a key another secret, which takes effect with the next request. The one before is good for `overlap` yet, which
    /// may be nothing.
    pub async fn rotate_key(
        self: &Arc<Self>,
        name: &KeyName,
        seen: Option<Vec<u64>>,
        overlap: Duration,
        actor: Actor,
    ) -> Result<Rotated, KeyError> {
        if overlap > MAX_OVERLAP {
            return Err(KeyError::TooLong);
        }
        let _one_at_a_time = self.changing.lock().await;
        self.refuse_file_key(name)?;
        let secret = VirtualKey::new_secret(&self.env);
        let rotation = Rotation { digest: secret.digest(), overlap };
        match stored::rotate(&self.store, name, seen, rotation, actor).await? {
            Rotating::Rotated { key, has_ended_one } => {
                self.publish_keys().await?;
                Ok(Rotated { key: *key, secret, has_ended_one })
            }
            Rotating::NotFound => Err(KeyError::NotFound),
            Rotating::Conflict(revision) => Err(KeyError::Conflict(revision)),
        }
    }

    /// Ends the earlier secret of a key before its time, if it is at one of the revisions `seen`, or at any.
    pub async fn end_earlier_secret(
        self: &Arc<Self>,
        name: &KeyName,
        seen: Option<Vec<u64>>,
        actor: Actor,
    ) -> Result<(), KeyError> {
        let _one_at_a_time = self.changing.lock().await;
        self.refuse_file_key(name)?;
        match stored::end_earlier(&self.store, name, seen, actor).await? {
            Ending::Ended => Ok(self.publish_keys().await?),
            Ending::None => Err(KeyError::NoEarlier),
            Ending::NotFound => Err(KeyError::NotFound),
            Ending::Conflict(revision) => Err(KeyError::Conflict(revision)),
        }
    }

    /// Has the store forget earlier secrets whose time is over. They open nothing whether it does or not.
    pub(super) async fn forget_earlier_secrets(&self) -> Result<usize, StoreError> {
        let now = self.env.now();
        let is_over = |key: &&VirtualKey| key.earlier.is_some() && key.earlier_at(now).is_none();
        let over: Vec<KeyName> = {
            let known = lock(&self.known_keys);
            known.stored.iter().filter(is_over).map(|key| key.name.clone()).collect()
        };
        if over.is_empty() {
            return Ok(0);
        }
        let forgotten = stored::forget_earlier(&self.store, over).await?;
        self.publish_keys().await?;
        Ok(forgotten)
    }

    /// Deletes a key that is at one of the revisions `seen`, or at any. Takes effect with the next request.
    pub async fn delete_key(
        self: &Arc<Self>,
        name: &KeyName,
        seen: Option<Vec<u64>>,
        actor: Actor,
    ) -> Result<(), KeyError> {
        let _one_at_a_time = self.changing.lock().await;
        self.refuse_file_key(name)?;
        match stored::delete(&self.store, name, seen, actor).await? {
            Deletion::Deleted => Ok(self.publish_keys().await?),
            Deletion::NotFound => Err(KeyError::NotFound),
            Deletion::Conflict(revision) => Err(KeyError::Conflict(revision)),
        }
    }

    /// A page of the keys: those of the file by name, then those of the store, newest first.
    pub async fn list_keys(&self, after: Option<Cursor>, limit: usize) -> Result<Page<VirtualKey>, StoreError> {
        let limit = limit.clamp(1, MAX_PAGE);
        let after = after.as_ref().map(Cursor::as_bytes).and_then(<[u8]>::split_first);
        let (mut items, of_store) = match after {
            None => (self.file_keys_after(None), None),
            Some((&OF_FILE, name)) => (self.file_keys_after(Some(name)), None),
            Some((_, rest)) => (Vec::new(), Cursor::from_bytes(rest.to_vec())),
        };
        let next = |of: u8, rest: &[u8]| Cursor::from_bytes([&[of], rest].concat());
        if items.len() > limit {
            items.truncate(limit);
            let next = items.last().and_then(|last| next(OF_FILE, last.name.as_str().as_bytes()));
            return Ok(Page { items, next });
        }
        let (room, name) = (limit - items.len(), items.last().map(|last| last.name.clone()));
        if room == 0 {
            let next = name.and_then(|last| next(OF_FILE, last.as_str().as_bytes()));
            return Ok(Page { items, next });
        }
        let stored = stored::list(&self.store, of_store, room).await?;
        items.extend(stored.items);
        Ok(Page { items, next: stored.next.and_then(|rest| next(OF_STORE, rest.as_bytes())) })
    }

    /// The keys of the file by name, from the one after this name on.
    fn file_keys_after(&self, name: Option<&[u8]>) -> Vec<VirtualKey> {
        let is_behind = |key: &VirtualKey| name.is_none_or(|name| key.name.as_str().as_bytes() > name);
        let mut keys: Vec<VirtualKey> = self.file_keys().filter(is_behind).collect();
        keys.sort_by(|one, other| one.name.cmp(&other.name));
        keys
    }

    /// The key of this name.
    pub async fn key(&self, name: &KeyName) -> Result<Option<VirtualKey>, StoreError> {
        match self.file_keys().find(|key| key.name == *name) {
            Some(key) => Ok(Some(key)),
            None => stored::by_name(&self.store, name).await,
        }
    }

    fn file_keys(&self) -> impl Iterator<Item = VirtualKey> + use<> {
        let config: Arc<config::Config> = self.config.load_full();
        (0..config.keys.len()).map(move |at| config.keys[at].clone())
    }

    fn refuse_file_key(&self, name: &KeyName) -> Result<(), KeyError> {
        if self.file_keys().any(|key| key.name == *name) { Err(KeyError::ManagedByFile) } else { Ok(()) }
    }

    /// The revision that the published keys are the state of.
    pub(super) fn keys_are_of(&self) -> Revision {
        lock(&self.known_keys).at
    }

    /// Reads the stored keys again and publishes them.
    pub(super) async fn publish_keys(&self) -> Result<(), StoreError> {
        let (stored, at) = stored::all_at(&self.store).await?;
        self.publish_with_keys(None, stored, at, |_| {});
        Ok(())
    }

    /// Takes note of the upstreams that are to be published next: every key may use some of them.
    pub(super) fn open_to_all_keys(&self, upstreams: &[config::Upstream]) {
        lock(&self.known_keys).for_all = upstreams_for_all(upstreams);
    }

    /// Whether every key may use the same of these upstreams as now.
    pub(super) fn are_open_to_all_keys(&self, upstreams: &[config::Upstream]) -> bool {
        lock(&self.known_keys).for_all == upstreams_for_all(upstreams)
    }

    /// Publishes what `change` does, with the keys that are known.
    pub(super) fn publish_keyed(&self, change: impl Fn(&mut Snapshot)) {
        let known = lock(&self.known_keys);
        let keys = known.ring();
        self.publish(|new| {
            new.keys = keys.clone();
            change(new);
        });
    }

    /// Publishes keys, those of this file if there is a new one, together with what else `change` does. Keys of the store
    /// that are older than those that are published change nothing.
    pub(super) fn publish_with_keys(
        &self,
        file: Option<&config::Config>,
        stored: Vec<VirtualKey>,
        at: Revision,
        change: impl Fn(&mut Snapshot),
    ) {
        let mut known = lock(&self.known_keys);
        if let Some(file) = file {
            known.file.clone_from(&file.keys);
        }
        if at >= known.at {
            (known.stored, known.at) = (stored, at);
        }
        let keys = known.ring();
        // Within the lock, so that what is published last is what is known.
        self.publish(|new| {
            new.keys = keys.clone();
            change(new);
        });
    }
}

/// The upstreams among these that every key may use.
pub(super) fn upstreams_for_all(upstreams: &[config::Upstream]) -> Vec<UpstreamName> {
    let open = upstreams.iter().filter(|upstream| upstream.allow_on_all_keys);
    open.map(|upstream| upstream.name.clone()).collect()
}

/// What the published keyring is made of.
pub(super) struct KnownKeys {
    pub(super) file: Vec<VirtualKey>,
    pub(super) stored: Vec<VirtualKey>,
    /// The revision that the stored ones are the state of.
    pub(super) at: Revision,
    /// Upstreams that each of them may use.
    pub(super) for_all: Vec<UpstreamName>,
}

impl KnownKeys {
    /// Keys of the file before keys of the store, so that the file wins where both have a name.
    pub(super) fn ring(&self) -> Arc<Keyring> {
        Arc::new(Keyring::with(self.file.iter().chain(&self.stored).cloned(), &self.for_all))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
