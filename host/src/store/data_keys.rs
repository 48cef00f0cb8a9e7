//! Data keys of the vault, wrapped: one for each owner of sealed records.
//!
//! A data key seals everything of its owner, so that destroying it destroys all of that ([`shred`]), and rotating a
//! key-encryption key touches data keys alone ([`rewrap`]). What is wrapped and sealed is `vault`'s; here it only rests.
//! The cursor of a rewrapping that is under way is kept with it, so that it goes on after a restart, on any replica.

use serde::{Deserialize, Serialize};

use super::changes::{Change, announce};
use super::engine::{Bounds, Direction, MAX_RANGE, Table};
use super::table::{Index, Single, Typed, unreadable};
use super::{ReadTx, Store, StoreError, WriteTx, audit};
use crate::audit::{Actor, AuditEvent};
use crate::env::Timestamp;
use crate::ids::{KekId, Owner};
use crate::secret::{Digest, Sealed};

/// Data keys that are counted for [`usage`]; of more, it is said that there are more.
pub const MAX_COUNTED: usize = 10_000;
/// Data keys that one call of [`rewrap`] may put.
pub const MAX_REWRAPPED: usize = 64;
/// Data keys that [`state`] tells of for each key-encryption key. One may be damaged; that all of them are means another key.
pub const SAMPLES: usize = 8;
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
const REWRAPPING: Single<RewrappingRecord> = Single::new("vault_rewrapping");

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

/// How far a rewrapping has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewrapping {
    pub to: KekId,
    /// The row of the index that was looked at last. `None` before the first one, and at the end.
    after: Option<Vec<u8>>,
    /// Data keys that were wrapped anew so far.
    pub rewrapped: u64,
    /// Data keys that could not be unwrapped, and stay as they are.
    pub unreadable: u64,
    pub is_done: bool,
}

impl Rewrapping {
    const fn begin(to: KekId) -> Self {
        Self { to, after: None, rewrapped: 0, unreadable: 0, is_done: false }
    }
}

/// What a store knows of its vault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// Whether there is a vault: not before it was first used.
    pub is_made: bool,
    /// Key-encryption keys that data keys are wrapped by, each with some of these data keys: the deployment's own first if it
    /// is among them, then at most [`SAMPLES`].
    pub in_use: Vec<(KekId, Vec<DataKey>)>,
    /// Which key-encryption key was chosen for new data keys, if one was.
    pub current: Option<KekId>,
}

/// An owner's data key, and by what a new one is to be wrapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub key: Option<DataKey>,
    pub current: Option<KekId>,
}

/// What came of [`create`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Creation {
    Created,
    /// The owner has one already.
    Existing(DataKey),
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

/// Data keys to wrap anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    pub keys: Vec<DataKey>,
    /// How far the rewrapping is once these are through.
    pub then: Rewrapping,
}

/// What the store knows of its vault.
pub async fn state(store: &Store) -> Result<State, StoreError> {
    store
        .read(|tx| {
            let own = DATA_KEYS.get(tx, Owner::Deployment.to_string().as_bytes())?;
            let own = own.map(DataKey::try_from).transpose()?;
            let mut in_use = Vec::new();
            for kid in keks(tx)? {
                let rows =
                    tx.range(Table::DataKeysByKek, &Bounds::within(&of_kek(&kid)), Direction::Forward, SAMPLES)?;
                let mut samples: Vec<DataKey> = own.iter().filter(|own| own.kid == kid).cloned().collect();
                for (_, owner) in &rows {
                    samples.push(follow(tx, owner)?);
                }
                in_use.push((kid, samples));
            }
            Ok(State { is_made: FIRST.get(tx)?.is_some(), in_use, current: CURRENT.get(tx)? })
        })
        .await
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

/// Keeps a new data key, unless its owner has one.
pub async fn create(store: &Store, key: &DataKey) -> Result<Creation, StoreError> {
    let record = DataKeyRecord::from(key);
    store
        .write(move |tx| {
            if let Some(existing) = DATA_KEYS.get(tx, record.owner.as_bytes())? {
                return Ok(Creation::Existing(existing.try_into()?));
            }
            DATA_KEYS.put(tx, &record)?;
            Ok(Creation::Created)
        })
        .await
}

/// Whether this is the owner's data key still, for transactions that put what was sealed with it.
pub fn is_live(tx: &mut ReadTx<'_>, owner: &Owner, id: DataKeyId) -> Result<bool, StoreError> {
    let record = DATA_KEYS.get(tx, owner.to_string().as_bytes())?;
    Ok(record.is_some_and(|record| record.id == id))
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

/// The next data keys that are not wrapped by `to`, from where the rewrapping to it has come. An empty batch is the last.
pub async fn to_rewrap(store: &Store, to: &KekId) -> Result<Batch, StoreError> {
    let to = to.clone();
    store
        .read(move |tx| {
            let kept = REWRAPPING.get(tx)?.map(Rewrapping::try_from).transpose()?;
            let kept = kept.filter(|kept| kept.to == to && !kept.is_done);
            let mut then = kept.unwrap_or_else(|| Rewrapping::begin(to.clone()));
            let mut keys = Vec::new();
            while keys.len() < MAX_REWRAPPED {
                let bounds = then.after.clone().map_or_else(Bounds::all, Bounds::after);
                let rows = tx.range(Table::DataKeysByKek, &bounds, Direction::Forward, MAX_REWRAPPED - keys.len())?;
                let Some((last, _)) = rows.last() else { break };
                then.after = Some(last.clone());
                for (key, owner) in &rows {
                    if key.starts_with(&of_kek(&to)) {
                        // Those are done. On behind all of them.
                        then.after = Some(past_kek(&to));
                        break;
                    }
                    keys.push(follow(tx, owner)?);
                }
            }
            then.is_done = keys.is_empty();
            Ok(Batch { keys, then })
        })
        .await
}

/// Keeps data keys that were wrapped anew, each with how it was wrapped before; one that has changed since is left as it
/// is. `then` is how far the rewrapping is afterwards. How many were kept.
pub async fn rewrap(
    store: &Store,
    keys: &[(Sealed, DataKey)],
    then: &Rewrapping,
    unreadable: u64,
    actor: Actor,
) -> Result<Rewrapping, StoreError> {
    let keys: Vec<_> = keys.iter().map(|(before, key)| (before.clone(), DataKeyRecord::from(key))).collect();
    let then = then.clone();
    store
        .write(move |tx| {
            let mut kept = 0;
            for (before, record) in &keys {
                let present = DATA_KEYS.get(tx, record.owner.as_bytes())?;
                let is_same = |present: DataKeyRecord| present.id == record.id && present.wrapped == *before;
                if present.is_some_and(is_same) {
                    DATA_KEYS.put(tx, record)?;
                    kept += 1;
                }
            }
            let (rewrapped, unreadable) = (then.rewrapped + kept, then.unreadable + unreadable);
            let then = Rewrapping { rewrapped, unreadable, ..then.clone() };
            REWRAPPING.put(tx, &RewrappingRecord::from(&then))?;
            if kept > 0 {
                audit::append(tx, actor, &AuditEvent::VaultRewrapped { to: then.to.clone(), keys: kept })?;
            }
            Ok(then)
        })
        .await
}

/// How far the last rewrapping has come.
pub async fn rewrapping(store: &Store) -> Result<Option<Rewrapping>, StoreError> {
    store.read(|tx| REWRAPPING.get(tx)?.map(Rewrapping::try_from).transpose()).await
}

/// Destroys the data key of an owner. What is sealed for them cannot be opened by anyone from then on.
pub async fn shred(store: &Store, owner: &Owner, actor: Actor) -> Result<Shredding, StoreError> {
    let owner = owner.clone();
    store.write(move |tx| shred_in(tx, &owner, actor)).await
}

/// The same as part of a transaction that deletes the owner.
pub(super) fn shred_in(tx: &mut WriteTx<'_>, owner: &Owner, actor: Actor) -> Result<Shredding, StoreError> {
    if DATA_KEYS.remove(tx, owner.to_string().as_bytes())?.is_none() {
        return Ok(Shredding::NotFound);
    }
    announce(tx, Change::Vault)?;
    audit::append(tx, actor, &AuditEvent::VaultShredded { owner: owner.clone() })?;
    Ok(Shredding::Shredded)
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

/// A rewrapping as it is stored, version 1.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RewrappingRecord {
    to: String,
    after: Option<Vec<u8>>,
    rewrapped: u64,
    unreadable: u64,
    is_done: bool,
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

impl From<&Rewrapping> for RewrappingRecord {
    fn from(rewrapping: &Rewrapping) -> Self {
        let Rewrapping { to, after, rewrapped, unreadable, is_done } = rewrapping;
        let (rewrapped, unreadable) = (*rewrapped, *unreadable);
        Self { to: to.to_string(), after: after.clone(), rewrapped, unreadable, is_done: *is_done }
    }
}

impl TryFrom<RewrappingRecord> for Rewrapping {
    type Error = StoreError;

    fn try_from(record: RewrappingRecord) -> Result<Self, StoreError> {
        let RewrappingRecord { to, after, rewrapped, unreadable: unread, is_done } = record;
        let to = KekId::parse(&to).map_err(|error| unreadable(Table::Meta, error))?;
        Ok(Self { to, after, rewrapped, unreadable: unread, is_done })
    }
}
