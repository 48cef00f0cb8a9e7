//! Data keys of the vault, wrapped: one for each owner of sealed records.
//!
//! A data key seals everything of its owner, so that destroying it destroys all of that ([`shred`]), and rotating a
//! key-encryption key touches data keys alone ([`rewrap`]). What is wrapped and sealed is `vault`'s; here it only rests.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::changes::{Change, announce};
use super::engine::{Bounds, Direction, MAX_RANGE, Table};
use super::table::{Index, Single, Typed, unreadable};
use super::{ReadTx, Store, StoreError, WriteTx, audit, marks};
use crate::audit::{Actor, AuditEvent};
use crate::env::Timestamp;
use crate::ids::{KekId, Owner};
use crate::secret::{Digest, Sealed};

mod rewrapping;

pub use rewrapping::{Batch, MAX_REWRAPPED, Rewrapping, Wrapped, rewrap, rewrapping, to_rewrap};

/// Data keys that are counted for [`usage`]; of more, it is said that there are more.
pub const MAX_COUNTED: usize = 10_000;
/// Data keys that [`state`] tells of for each key-encryption key. One may be damaged; that all of them are means another key.
pub const SAMPLES: usize = 8;
/// For how long it is remembered that a data key was destroyed, and did not go missing: as long as the audit trail is kept
/// by default, and a deleted user is remembered.
const GRAVE_TIME: Duration = Duration::from_secs(400 * 24 * 60 * 60);
/// Key-encryption keys that a store may know. A ring of more is a mistake.
const MAX_KEKS: usize = 256;

pub(super) const DATA_KEYS: Typed<DataKeyRecord> = Typed {
    table: Table::DataKeys,
    version: 1,
    older: &[],
    key: |record| record.owner.clone().into_bytes(),
    indexes: &[Index { table: Table::DataKeysByKek, key: |record| by_kek(&record.kid, &record.owner) }],
    expires: None,
};

/// By which key-encryption key the first data key was to be wrapped: that there is a vault.
const FIRST: Single<KekId> = Single::new("vault_first_kek");
const CURRENT: Single<KekId> = Single::new("vault_current_kek");
/// What tells each key-encryption key from another one of the same id, in the order in which they came.
const CHECKS: Single<Vec<CheckRecord>> = Single::new("vault_kek_checks");

/// Identifies one data key. Random; not a secret.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct DataKeyId(pub [u8; 16]);

/// A data key as it rests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataKey {
    pub owner: Owner,
    pub id: DataKeyId,
    /// What it is wrapped by.
    pub kid: KekId,
    pub wrapped: Sealed,
    /// Version of the root that `tag` was made with.
    pub root: u32,
    /// Proves that a holder of the key-encryption key wrapped it, and for whom.
    pub tag: Digest,
    pub created: Timestamp,
}

/// What only a holder of a key-encryption key can make, and make again: it tells that key from another one of the same id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// Version of the root that `tag` was made with.
    pub root: u32,
    pub tag: Digest,
}

/// A key-encryption key that data keys are wrapped by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InUse {
    pub kid: KekId,
    /// `None` where it wrapped the last one before there were checks.
    pub check: Option<Check>,
    /// Some of its data keys: the deployment's own first if it is among them, then at most [`SAMPLES`].
    pub samples: Vec<DataKey>,
}

/// What a store knows of its vault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// Whether there is a vault: not before it was first used.
    pub is_made: bool,
    pub in_use: Vec<InUse>,
    /// Which key-encryption key was chosen for new data keys, if one was.
    pub current: Option<KekId>,
}

/// An owner's data key, and by what a new one is to be wrapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub key: Option<DataKey>,
    pub current: Option<KekId>,
}

/// What came of [`create_as_of`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Creation {
    Created,
    /// The owner has one already.
    Existing(DataKey),
    /// Another key-encryption key was chosen in the meantime.
    Superseded,
}

/// What came of [`choose`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    Changed,
    Unchanged,
}

/// What came of [`shred`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shredding {
    Shredded,
    /// The owner has no data key: nothing is sealed for them.
    NotFound,
}

/// How many data keys a key-encryption key wraps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    pub kid: KekId,
    /// At most [`MAX_COUNTED`].
    pub data_keys: usize,
    pub is_more: bool,
}

/// What the store knows of its vault.
pub async fn state(store: &Store) -> Result<State, StoreError> {
    store.read(state_in).await
}

pub(super) fn state_in(tx: &mut ReadTx<'_>) -> Result<State, StoreError> {
    let own = DATA_KEYS.get(tx, Owner::Deployment.to_string().as_bytes())?;
    let own = own.map(DataKey::try_from).transpose()?;
    let mut in_use = Vec::new();
    let checks = CHECKS.get(tx)?.unwrap_or_default();
    for kid in keks(tx)? {
        let rows = tx.range(Table::DataKeysByKek, &Bounds::within(&of_kek(&kid)), Direction::Forward, SAMPLES)?;
        let mut samples: Vec<DataKey> = own.iter().filter(|own| own.kid == kid).cloned().collect();
        for (_, owner) in &rows {
            samples.push(follow(tx, owner)?);
        }
        let check = checks.iter().find(|check| check.kid == kid.as_str()).map(CheckRecord::noun);
        in_use.push(InUse { kid, check, samples });
    }
    Ok(State { is_made: FIRST.get(tx)?.is_some(), in_use, current: CURRENT.get(tx)? })
}

/// Makes the vault of this store, unless it is there.
pub async fn initialize(store: &Store, kid: &KekId) -> Result<(), StoreError> {
    let (deployment, kid) = (store.deployment(), kid.clone());
    store
        .write(move |tx| {
            if FIRST.get(tx)?.is_some() {
                return Ok(());
            }
            FIRST.put(tx, &kid)?;
            audit::append(tx, Actor::System, &AuditEvent::VaultInitialized { deployment, kek: kid.clone() })?;
            Ok(())
        })
        .await
}

/// The data key of an owner.
pub async fn find(store: &Store, owner: &Owner) -> Result<Found, StoreError> {
    let owner = owner.to_string();
    store
        .read(move |tx| {
            let key = DATA_KEYS.get(tx, owner.as_bytes())?.map(DataKey::try_from).transpose()?;
            Ok(Found { key, current: CURRENT.get(tx)? })
        })
        .await
}

/// Keeps what tells a key-encryption key from another one of the same id, unless there is such a check: the one that is
/// kept.
pub async fn vouch(store: &Store, kid: &KekId, check: &Check) -> Result<Check, StoreError> {
    let (kid, check) = (kid.to_string(), check.clone());
    store
        .write(move |tx| {
            let mut checks = CHECKS.get(tx)?.unwrap_or_default();
            if let Some(kept) = checks.iter().find(|kept| kept.kid == kid) {
                return Ok(kept.noun());
            }
            if checks.len() >= MAX_KEKS {
                return Err(unreadable(Table::Meta, "there are more key-encryption keys than there may be"));
            }
            checks.push(CheckRecord { kid: kid.clone(), root: check.root, tag: *check.tag.as_bytes() });
            CHECKS.put(tx, &checks)?;
            Ok(check.clone())
        })
        .await
}

/// Keeps a new data key, unless its owner has one or another key-encryption key than `current` was chosen in the meantime:
/// nothing is wrapped by one that was rotated away from.
pub async fn create_as_of(store: &Store, key: &DataKey, current: Option<&KekId>) -> Result<Creation, StoreError> {
    let (record, current) = (DataKeyRecord::from(key), current.cloned());
    store
        .write(move |tx| {
            if let Some(existing) = DATA_KEYS.get(tx, record.owner.as_bytes())? {
                return Ok(Creation::Existing(existing.try_into()?));
            }
            if CURRENT.get(tx)? != current {
                return Ok(Creation::Superseded);
            }
            DATA_KEYS.put(tx, &record)?;
            Ok(Creation::Created)
        })
        .await
}

/// The same whatever was chosen, for tests.
#[cfg(test)]
pub async fn create(store: &Store, key: &DataKey) -> Result<Creation, StoreError> {
    let current = find(store, &key.owner).await?.current;
    create_as_of(store, key, current.as_ref()).await
}

/// Takes an owner's data key away without a word, for tests.
#[cfg(test)]
pub async fn lose(store: &Store, owner: &Owner) -> Result<(), StoreError> {
    let owner = owner.to_string();
    store.write(move |tx| DATA_KEYS.remove(tx, owner.as_bytes()).map(|_| ())).await
}

/// Whether this is the owner's data key still, for transactions that put what was sealed with it.
pub fn is_live(tx: &mut ReadTx<'_>, owner: &Owner, id: DataKeyId) -> Result<bool, StoreError> {
    let record = DATA_KEYS.get(tx, owner.to_string().as_bytes())?;
    Ok(record.is_some_and(|record| record.id == id))
}

/// Takes away what tells key-encryption keys apart, for tests.
#[cfg(test)]
pub async fn forget_checks(store: &Store) -> Result<(), StoreError> {
    store.write(|tx| CHECKS.put(tx, &Vec::new())).await
}

/// Whether the owner's data key still is the one that sealed this, for transactions that put it. What was sealed with another
/// one is stale: nobody could open it, and it has to be sealed again.
pub fn seals(tx: &mut ReadTx<'_>, owner: &Owner, sealed: &Sealed) -> Result<bool, StoreError> {
    match sealer_of(sealed) {
        Some(id) => is_live(tx, owner, id),
        None => Ok(false),
    }
}

/// Which data key a sealed field names in its header (`vault::format`).
pub(crate) fn sealer_of(sealed: &Sealed) -> Option<DataKeyId> {
    let (_, rest) = sealed.as_bytes().split_first_chunk::<2>()?;
    let (length, rest) = rest.split_first()?;
    let (id, _) = rest.get(usize::from(*length)..)?.split_first_chunk()?;
    Some(DataKeyId(*id))
}

/// Has new data keys wrapped by this key-encryption key, on every replica.
pub async fn choose(store: &Store, kid: &KekId, actor: Actor) -> Result<Choice, StoreError> {
    let kid = kid.clone();
    store
        .write(move |tx| {
            let before = CURRENT.get(tx)?;
            if before.as_ref() == Some(&kid) {
                return Ok(Choice::Unchanged);
            }
            CURRENT.put(tx, &kid)?;
            announce(tx, Change::Vault)?;
            audit::append(tx, actor, &AuditEvent::VaultKekRotated { from: before, to: kid.clone() })?;
            Ok(Choice::Changed)
        })
        .await
}

/// Destroys the data key of an owner. What is sealed for them cannot be opened by anyone from then on.
pub async fn shred(store: &Store, owner: &Owner, actor: Actor) -> Result<Shredding, StoreError> {
    let owner = owner.clone();
    store.write(move |tx| shred_in(tx, &owner, actor)).await
}

/// The same as part of a transaction that deletes the owner.
pub(super) fn shred_in(tx: &mut WriteTx<'_>, owner: &Owner, actor: Actor) -> Result<Shredding, StoreError> {
    let Some(destroyed) = DATA_KEYS.remove(tx, owner.to_string().as_bytes())? else {
        return Ok(Shredding::NotFound);
    };
    marks::consume_once_in(tx, marks::Kind::ShreddedDataKey, grave(owner, destroyed.id), tx.now().after(GRAVE_TIME))?;
    announce(tx, Change::DataKey { owner: owner.to_string() })?;
    audit::append(tx, actor, &AuditEvent::VaultShredded { owner: owner.clone() })?;
    Ok(Shredding::Shredded)
}

/// Whether this data key of the owner was destroyed, as far back as that is remembered.
pub async fn is_shredded(store: &Store, owner: &Owner, id: DataKeyId) -> Result<bool, StoreError> {
    let grave = grave(owner, id);
    store.read(move |tx| marks::is_kept(tx, marks::Kind::ShreddedDataKey, grave)).await
}

fn grave(owner: &Owner, id: DataKeyId) -> Digest {
    Digest::of(&[owner.to_string().as_bytes(), &[0], &id.0].concat())
}

/// At most `limit` data keys behind that of the owner `after`, in the order of their owners, and where to go on.
pub async fn page(
    store: &Store,
    after: Option<Vec<u8>>,
    limit: usize,
) -> Result<(Vec<DataKey>, Option<Vec<u8>>), StoreError> {
    let limit = limit.clamp(1, MAX_RANGE);
    store
        .read(move |tx| {
            let bounds = after.clone().map_or_else(Bounds::all, Bounds::after);
            let rows = tx.range(Table::DataKeys, &bounds, Direction::Forward, limit)?;
            let next = rows.last().filter(|_| rows.len() == limit).map(|(key, _)| key.clone());
            let keys = rows.iter().map(|(_, value)| DATA_KEYS.decode(value)?.try_into());
            Ok((keys.collect::<Result<_, StoreError>>()?, next))
        })
        .await
}

/// How many data keys each key-encryption key wraps.
pub async fn usage(store: &Store) -> Result<Vec<Usage>, StoreError> {
    store
        .read(|tx| {
            let mut all = Vec::new();
            for kid in keks(tx)? {
                let (mut data_keys, mut is_more) = (0, true);
                let mut bounds = Bounds::within(&of_kek(&kid));
                while data_keys < MAX_COUNTED {
                    let rows = tx.range(Table::DataKeysByKek, &bounds, Direction::Backward, MAX_RANGE)?;
                    data_keys += rows.len();
                    match rows.last().filter(|_| rows.len() == MAX_RANGE) {
                        Some((key, _)) => bounds = bounds.before_too(key),
                        None => {
                            is_more = false;
                            break;
                        }
                    }
                }
                all.push(Usage { kid, data_keys, is_more });
            }
            Ok(all)
        })
        .await
}

/// The key-encryption keys that some data key is wrapped by: one step in the index for each.
fn keks(tx: &mut ReadTx<'_>) -> Result<Vec<KekId>, StoreError> {
    let mut found: Vec<KekId> = Vec::new();
    loop {
        let bounds = found.last().map_or_else(Bounds::all, |kid| Bounds::after(past_kek(kid)));
        let rows = tx.range(Table::DataKeysByKek, &bounds, Direction::Forward, 1)?;
        let Some((key, _)) = rows.first() else { return Ok(found) };
        let kid = key.split(|byte| *byte == 0).next().and_then(|kid| std::str::from_utf8(kid).ok());
        let kid = kid.and_then(|kid| KekId::parse(kid).ok());
        found.push(kid.ok_or_else(|| unreadable(Table::DataKeysByKek, "a row begins with no key id"))?);
        if found.len() > MAX_KEKS {
            return Err(unreadable(Table::DataKeysByKek, "there are more key-encryption keys than there may be"));
        }
    }
}

fn follow(tx: &mut ReadTx<'_>, owner: &[u8]) -> Result<DataKey, StoreError> {
    let record = DATA_KEYS.get(tx, owner)?;
    record.ok_or_else(|| unreadable(Table::DataKeysByKek, "it leads to no record"))?.try_into()
}

/// Neither ids nor owners have a zero byte in them.
fn by_kek(kid: &str, owner: &str) -> Vec<u8> {
    [kid.as_bytes(), &[0], owner.as_bytes()].concat()
}

/// What the rows of a key-encryption key begin with.
fn of_kek(kid: &KekId) -> Vec<u8> {
    by_kek(kid.as_str(), "")
}

/// A key behind all rows of a key-encryption key and before those of the next.
fn past_kek(kid: &KekId) -> Vec<u8> {
    [kid.as_str().as_bytes(), &[1]].concat()
}

/// A data key as it is stored, codec version 1.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DataKeyRecord {
    owner: String,
    id: DataKeyId,
    kid: String,
    wrapped: Sealed,
    root: u32,
    tag: [u8; 32],
    created_ms: u64,
}

/// A check as it is stored, version 1.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CheckRecord {
    kid: String,
    root: u32,
    tag: [u8; 32],
}

impl CheckRecord {
    fn noun(&self) -> Check {
        let Self { kid: _, root, tag } = self;
        Check { root: *root, tag: Digest::from_bytes(*tag) }
    }
}

impl From<&DataKey> for DataKeyRecord {
    fn from(key: &DataKey) -> Self {
        let DataKey { owner, id, kid, wrapped, root, tag, created } = key;
        Self {
            owner: owner.to_string(),
            id: *id,
            kid: kid.to_string(),
            wrapped: wrapped.clone(),
            root: *root,
            tag: *tag.as_bytes(),
            created_ms: created.as_millis(),
        }
    }
}

impl TryFrom<DataKeyRecord> for DataKey {
    type Error = StoreError;

    fn try_from(record: DataKeyRecord) -> Result<Self, StoreError> {
        let DataKeyRecord { owner, id, kid, wrapped, root, tag, created_ms } = record;
        Ok(Self {
            owner: Owner::parse(&owner).ok_or_else(|| unreadable(Table::DataKeys, "an owner is none"))?,
            id,
            kid: KekId::parse(&kid).map_err(|error| unreadable(Table::DataKeys, error))?,
            wrapped,
            root,
            tag: Digest::from_bytes(tag),
            created: Timestamp::from_millis(created_ms),
        })
    }
}
