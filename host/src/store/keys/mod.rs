//! Virtual keys that were created through the API or the command line. Those of the configuration file are not here.
//!
//! Each verb is one transaction, with its audit row inside. A key that is disabled or deleted loses what it had granted to
//! clients, and one that is deleted its data key: who has its name later has nothing of it. [`changing`] is what becomes of
//! a key that stays the same one. What a key is and permits is `identity::key`.

use super::changes::{Change, Revision, announce, revision};
use super::connections::{self, Whose};
use super::table::{Cursor, Index, Older, Page, Single, Typed};
use super::{Store, StoreError, WriteTx, audit, data_keys, engine::Table, revocations};
use crate::audit::{Actor, AuditEvent, RevocationReason};
use crate::connection::{End, Holder};
use crate::identity::key::{Standing, VirtualKey};
use crate::ids::{KeyName, Owner, Principal};
use crate::secret::Digest;

mod changing;
mod record;
#[cfg(test)]
mod tests;

pub use changing::{Changing, Edit, Ending, Rotating, Rotation, change, end_earlier, forget_earlier, rotate};
use record::{KeyRecord, KeyRecord1, KeyRecord2, StandingRecord};

/// Most keys in the store.
pub const MAX_KEYS: usize = 10_000;

pub(super) const KEYS: Typed<KeyRecord> = Typed {
    table: Table::Keys,
    version: 3,
    older: &[
        Older { version: 1, read: |body| serde_json::from_slice::<KeyRecord1>(body).map(KeyRecord::from) },
        Older { version: 2, read: |body| serde_json::from_slice::<KeyRecord2>(body).map(KeyRecord::from) },
    ],
    key: |record| record.name.as_bytes().to_vec(),
    indexes: &[
        Index { table: Table::KeysByDigest, key: |record| record.digest.to_vec() },
        Index { table: Table::KeysByCreation, key: |record| by_creation(record.created_ms, &record.name) },
    ],
    expires: None,
};

/// The highest revision that a deleted key was at. Those of the next one of its name, whichever that is, are higher, so that
/// nothing that was said of the one is taken for the other.
const DELETED: Single<u64> = Single::new("deleted_keys_revision");

/// What came of [`create`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Creation {
    Created {
        revision: u64,
    },
    NameTaken,
    /// Another key has the same secret, so that a caller with it would be two principals.
    SecretTaken,
    /// Connections are left that another key of this name had made: `connections::end_all_of` ends them.
    StillEnding,
    /// There are [`MAX_KEYS`] already.
    TooMany,
}

/// What came of [`set_standing`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StandingChange {
    Changed,
    Unchanged,
    NotFound,
}

/// What came of [`delete`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deletion {
    Deleted,
    NotFound,
    /// It has another revision, this one.
    Conflict(u64),
}

/// Keeps a new key. The store takes it over: its `managed_by` becomes [`ManagedBy::Store`], and its revisions are higher than
/// those of any key that was deleted.
pub async fn create(store: &Store, key: VirtualKey, actor: Actor) -> Result<Creation, StoreError> {
    let record = KeyRecord::from(&key);
    store.write(move |tx| create_in(tx, &key.name, &record, actor)).await
}

fn create_in(tx: &mut WriteTx<'_>, name: &KeyName, record: &KeyRecord, actor: Actor) -> Result<Creation, StoreError> {
    if KEYS.get(tx, record.name.as_bytes())?.is_some() {
        return Ok(Creation::NameTaken);
    }
    if KEYS.find(tx, Table::KeysByDigest, &record.digest)?.is_some() {
        return Ok(Creation::SecretTaken);
    }
    if KEYS.count(tx, MAX_KEYS)? >= MAX_KEYS {
        return Ok(Creation::TooMany);
    }
    if connections::are_left(tx, &connections_of(name))? {
        return Ok(Creation::StillEnding);
    }
    let revision = DELETED.get(tx)?.unwrap_or(0) + record.revision;
    KEYS.put(tx, &KeyRecord { revision, ..record.clone() })?;
    audit::append(tx, actor, &AuditEvent::KeyCreated { name: name.clone(), changes: changing::created(record) })?;
    announce(tx, Change::Keys)?;
    Ok(Creation::Created { revision })
}

/// Enables or disables a key.
pub async fn set_standing(
    store: &Store,
    name: &KeyName,
    standing: Standing,
    actor: Actor,
) -> Result<StandingChange, StoreError> {
    let name = name.clone();
    store.write(move |tx| set_standing_in(tx, &name, standing, actor)).await
}

fn set_standing_in(
    tx: &mut WriteTx<'_>,
    name: &KeyName,
    standing: Standing,
    actor: Actor,
) -> Result<StandingChange, StoreError> {
    let Some(record) = KEYS.get(tx, name.as_str().as_bytes())? else { return Ok(StandingChange::NotFound) };
    let standing = StandingRecord::from(standing);
    if record.standing == standing {
        return Ok(StandingChange::Unchanged);
    }
    KEYS.put(tx, &KeyRecord { standing, ..record.changed() })?;
    tell_standing(tx, name, standing, actor)?;
    announce(tx, Change::Keys)?;
    Ok(StandingChange::Changed)
}

/// Writes down that a key is enabled or disabled now. One that is disabled has granted nothing.
fn tell_standing(
    tx: &mut WriteTx<'_>,
    name: &KeyName,
    standing: StandingRecord,
    actor: Actor,
) -> Result<(), StoreError> {
    match standing {
        StandingRecord::Enabled => audit::append(tx, actor, &AuditEvent::KeyEnabled { name: name.clone() }),
        StandingRecord::Disabled => {
            audit::append(tx, actor, &AuditEvent::KeyDisabled { name: name.clone() })?;
            revoke_granted(tx, name, actor)
        }
    }
}

/// Deletes a key, if it is at one of the revisions `seen`, or at any, and ends its connections. Its name may be used again;
/// the audit trail keeps both lives.
pub async fn delete(
    store: &Store,
    name: &KeyName,
    seen: Option<Vec<u64>>,
    actor: Actor,
) -> Result<Deletion, StoreError> {
    let of = name.clone();
    let (deletion, mut has_more) = store.write(move |tx| delete_in(tx, &of, seen.as_deref(), actor)).await?;
    while has_more {
        let of = name.clone();
        has_more = store.write(move |tx| end_more(tx, &of, actor)).await?;
    }
    Ok(deletion)
}

/// What came of it, and whether there may be more connections to end.
fn delete_in(
    tx: &mut WriteTx<'_>,
    name: &KeyName,
    seen: Option<&[u64]>,
    actor: Actor,
) -> Result<(Deletion, bool), StoreError> {
    let Some(record) = KEYS.get(tx, name.as_str().as_bytes())? else {
        // An earlier deletion may have been interrupted before its end.
        return Ok((Deletion::NotFound, connections::are_left(tx, &connections_of(name))?));
    };
    if !changing::is_seen(&record, seen) {
        return Ok((Deletion::Conflict(record.revision), false));
    }
    KEYS.remove(tx, name.as_str().as_bytes())?;
    let highest = DELETED.get(tx)?.unwrap_or(0).max(record.revision);
    DELETED.put(tx, &highest)?;
    audit::append(tx, actor, &AuditEvent::KeyDeleted { name: name.clone(), changes: changing::deleted(&record) })?;
    revoke_granted(tx, name, actor)?;
    // Nobody can open what is sealed for the key from here on.
    data_keys::shred_in(tx, &Owner::Principal(Principal::Key(name.clone())), actor)?;
    announce(tx, Change::Keys)?;
    let ended = connections::end_some(tx, &connections_of(name), End::HolderGone, actor)?;
    Ok((Deletion::Deleted, ended.has_more))
}

/// Ends some more connections of a deleted key, unless there is a new one of this name by now.
fn end_more(tx: &mut WriteTx<'_>, name: &KeyName, actor: Actor) -> Result<bool, StoreError> {
    if KEYS.get(tx, name.as_str().as_bytes())?.is_some() {
        return Ok(false);
    }
    Ok(connections::end_some(tx, &connections_of(name), End::HolderGone, actor)?.has_more)
}

fn connections_of(name: &KeyName) -> Whose {
    Whose::Holder(Holder::Of(Principal::Key(name.clone())))
}

/// Revokes what clients were granted in the name of a key.
fn revoke_granted(tx: &mut WriteTx<'_>, name: &KeyName, actor: Actor) -> Result<(), StoreError> {
    let whose = revocations::Whose::Principal(Principal::Key(name.clone()));
    revocations::revoke_all_in(tx, &whose, RevocationReason::PrincipalGone, actor).map(drop)
}

/// Every key, by name. There are at most [`MAX_KEYS`].
pub async fn all(store: &Store) -> Result<Vec<VirtualKey>, StoreError> {
    store.read(|tx| KEYS.all(tx, MAX_KEYS)?.into_iter().map(VirtualKey::try_from).collect()).await
}

/// Every key, by name, and the revision that this is the state of.
pub async fn all_at(store: &Store) -> Result<(Vec<VirtualKey>, Revision), StoreError> {
    store
        .read(|tx| {
            let at = revision(tx)?;
            let keys = KEYS.all(tx, MAX_KEYS)?.into_iter().map(VirtualKey::try_from).collect::<Result<_, _>>()?;
            Ok((keys, at))
        })
        .await
}

/// A page of keys, newest first.
pub async fn list(store: &Store, after: Option<Cursor>, limit: usize) -> Result<Page<VirtualKey>, StoreError> {
    store
        .read(move |tx| {
            KEYS.newest_first_by(tx, Table::KeysByCreation, after.as_ref(), limit)?.try_map(TryFrom::try_from)
        })
        .await
}

/// The key of this name.
pub async fn by_name(store: &Store, name: &KeyName) -> Result<Option<VirtualKey>, StoreError> {
    let name = name.clone();
    store.read(move |tx| KEYS.get(tx, name.as_str().as_bytes())?.map(TryFrom::try_from).transpose()).await
}

/// The key whose present secret has this digest. Earlier ones are in no index: the keyring in memory knows both.
pub async fn by_digest(store: &Store, digest: Digest) -> Result<Option<VirtualKey>, StoreError> {
    store
        .read(move |tx| KEYS.find(tx, Table::KeysByDigest, digest.as_bytes())?.map(TryFrom::try_from).transpose())
        .await
}

fn by_creation(created_ms: u64, name: &str) -> Vec<u8> {
    [&created_ms.to_be_bytes(), name.as_bytes()].concat()
}
