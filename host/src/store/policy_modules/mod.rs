//! Policy modules that operators uploaded: what is known of each, and its bytes in pieces under its digest.
//!
//! A module is too much for one transaction. Its row comes first, says that it is arriving and is forgotten again after a
//! while, then come the pieces, and last the row says that the module is there: nobody finds half of one. Modules are
//! named by what they are made of, so that two who upload the same write the same. What binds them is
//! [`super::policy_bindings`].

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::audit::{self, ActorRecord};
use super::engine::{MAX_VALUE_BYTES, Row, Table};
use super::kept::readable;
use super::policy_bindings;
use super::table::{Cursor, Page, Typed, unreadable};
use super::verify::Found;
use super::{ReadTx, Store, StoreError, WriteTx};
use crate::audit::{Actor, AuditEvent};
use crate::env::Timestamp;
use crate::ids::BindingName;

#[cfg(test)]
pub(super) mod tests;

/// Most modules in the store.
pub const MAX_MODULES: usize = 64;
/// Most bytes of all of them together.
pub const MAX_BYTES: u64 = 64 << 20;
/// Largest description of a module, and largest file of its signatures, in bytes. Both fit a row though each byte should be
/// written as two.
const MAX_MANIFEST_BYTES: usize = 64 << 10;
const MAX_SIGNATURES_BYTES: usize = 48 << 10;
/// Bytes of a piece.
const PIECE_BYTES: usize = MAX_VALUE_BYTES;
/// Most pieces of one module.
const MAX_PIECES: usize = 256;
const _: () = assert!((MAX_PIECES * PIECE_BYTES) as u64 == MAX_BYTES);
/// Pieces that one transaction writes or reads.
const STEP: usize = 4;
/// How long a module may take to arrive, once it was read: it is only written then.
const ARRIVAL: Duration = Duration::from_secs(5 * 60);

pub(super) const MODULES: Typed<Record> = Typed {
    table: Table::PolicyModules,
    version: 1,
    older: &[],
    key: |record| record.digest.as_bytes().to_vec(),
    indexes: &[],
    expires: Some(|record| record.arrives_until_ms.map(Timestamp::from_millis)),
};

/// A module as it is uploaded.
#[derive(Clone, Debug)]
pub struct NewModule {
    /// Lower-case hex SHA-256 of `content`.
    pub digest: String,
    pub name: String,
    pub version: String,
    /// What it says of itself.
    pub manifest: Value,
    /// What would stand in the file of signatures beside it.
    pub signatures: Option<String>,
    pub content: Vec<u8>,
}

/// A module in the store.
#[derive(Clone, Debug, PartialEq)]
pub struct UploadedModule {
    /// Lower-case hex SHA-256.
    pub digest: String,
    pub name: String,
    pub version: String,
    pub bytes: u64,
    /// What it says of itself.
    pub manifest: Value,
    pub signatures: Option<String>,
    pub uploaded: Timestamp,
    pub uploaded_by: Actor,
}

/// What came of [`keep`].
#[derive(Clone, Debug, PartialEq)]
pub enum Keeping {
    Kept(Box<UploadedModule>),
    /// It was there already. If signatures came with it, it has these now.
    Known(Box<UploadedModule>),
    /// There are [`MAX_MODULES`] already.
    TooMany,
    /// It would be more than [`MAX_BYTES`] with the others.
    Full,
    /// Its description or its signatures are too large.
    TooLarge,
}

/// What came of [`remove`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removal {
    Removed,
    NotFound,
    /// These bindings use it.
    Bound(Vec<BindingName>),
}

/// Keeps a module with all its bytes.
pub async fn keep(store: &Store, module: NewModule, actor: Actor) -> Result<Keeping, StoreError> {
    let NewModule { digest, name, version, manifest, signatures, content } = module;
    let manifest = manifest.to_string();
    let has_much_to_say = signatures.as_ref().is_some_and(|text| text.len() > MAX_SIGNATURES_BYTES);
    if manifest.len() > MAX_MANIFEST_BYTES || has_much_to_say {
        return Ok(Keeping::TooLarge);
    }
    let bytes = content.len() as u64;
    if bytes > MAX_BYTES {
        return Ok(Keeping::Full);
    }
    let new = Arriving { digest: digest.clone(), name, version, bytes, manifest, signatures };
    let begun = match store.write(move |tx| begin(tx, &new, actor)).await? {
        Beginning::Begun { started_ms } => started_ms,
        Beginning::Over(keeping) => return Ok(keeping),
    };
    let pieces: Vec<&[u8]> = content.chunks(PIECE_BYTES).collect();
    for (step, some) in pieces.chunks(STEP).enumerate() {
        let some: Vec<Vec<u8>> = some.iter().map(|piece| piece.to_vec()).collect();
        let digest = digest.clone();
        let put = move |tx: &mut WriteTx<'_>| {
            same_arrival(tx, &digest, begun)?;
            let mut numbered = (step * STEP..).zip(&some);
            numbered.try_for_each(|(at, piece)| tx.put(Table::PolicyModulePieces, &key(&digest, at), piece))
        };
        store.write(put).await?;
    }
    store.write(move |tx| arrive(tx, &digest, begun, actor)).await
}

/// What is known of a module that arrives.
#[derive(Clone)]
struct Arriving {
    digest: String,
    name: String,
    version: String,
    bytes: u64,
    manifest: String,
    signatures: Option<String>,
}

enum Beginning {
    /// At this moment, by which the arrival is known again.
    Begun {
        started_ms: u64,
    },
    Over(Keeping),
}

fn begin(tx: &mut WriteTx<'_>, new: &Arriving, actor: Actor) -> Result<Beginning, StoreError> {
    let before = MODULES.get(tx, new.digest.as_bytes())?;
    if let Some(there) = before.as_ref().filter(|before| before.is_there()) {
        let known = sign(tx, there.clone(), new.signatures.as_ref(), actor)?;
        return Ok(Beginning::Over(Keeping::Known(Box::new(known.try_into()?))));
    }
    let others = MODULES.all(tx, MAX_MODULES)?.into_iter().filter(|other| other.digest != new.digest);
    let (count, bytes) = others.fold((0, 0), |(count, bytes), other| (count + 1, bytes + other.bytes));
    if count >= MAX_MODULES {
        return Ok(Beginning::Over(Keeping::TooMany));
    }
    if bytes + new.bytes > MAX_BYTES {
        return Ok(Beginning::Over(Keeping::Full));
    }
    // Somebody else may be about to bring the same, perhaps with signatures.
    let signatures = new.signatures.clone().or_else(|| before.as_ref()?.signatures.clone());
    let started_ms = before.map_or(tx.now().as_millis(), |before| before.started_ms);
    MODULES.put(
        tx,
        &Record {
            digest: new.digest.clone(),
            name: new.name.clone(),
            version: new.version.clone(),
            bytes: new.bytes,
            manifest: new.manifest.clone(),
            signatures,
            started_ms,
            arrives_until_ms: Some(tx.now().after(ARRIVAL).as_millis()),
            uploaded_ms: tx.now().as_millis(),
            uploaded_by: ActorRecord::from(actor),
        },
    )?;
    Ok(Beginning::Begun { started_ms })
}

/// The module with these signatures, if there are any and they are others than before.
fn sign(tx: &mut WriteTx<'_>, before: Record, signatures: Option<&String>, actor: Actor) -> Result<Record, StoreError> {
    if signatures.is_none() || before.signatures.as_ref() == signatures {
        return Ok(before);
    }
    let after = Record { signatures: signatures.cloned(), ..before };
    MODULES.put(tx, &after)?;
    audit::append(tx, actor, &AuditEvent::PolicyModuleSigned { digest: after.digest.clone() })?;
    Ok(after)
}

/// The row of an arrival that began then. One that took too long is forgotten, and its module has to be uploaded again.
fn same_arrival(tx: &mut ReadTx<'_>, digest: &str, started_ms: u64) -> Result<Record, StoreError> {
    let row = MODULES.get(tx, digest.as_bytes())?;
    row.filter(|row| row.started_ms == started_ms).ok_or(StoreError::Busy)
}

fn arrive(tx: &mut WriteTx<'_>, digest: &str, started_ms: u64, actor: Actor) -> Result<Keeping, StoreError> {
    let row = same_arrival(tx, digest, started_ms)?;
    if row.is_there() {
        return Ok(Keeping::Known(Box::new(row.try_into()?)));
    }
    let (uploaded_ms, uploaded_by) = (tx.now().as_millis(), ActorRecord::from(actor));
    let row = Record { arrives_until_ms: None, uploaded_ms, uploaded_by, ..row };
    MODULES.put(tx, &row)?;
    let event = AuditEvent::PolicyModuleUploaded {
        digest: row.digest.clone(),
        name: row.name.clone(),
        version: row.version.clone(),
        bytes: row.bytes,
    };
    audit::append(tx, actor, &event)?;
    Ok(Keeping::Kept(Box::new(row.try_into()?)))
}

/// Takes a module out that no binding uses, also one that has not arrived: its room is free then.
pub async fn remove(store: &Store, digest: &str, actor: Actor) -> Result<Removal, StoreError> {
    let digest = digest.to_owned();
    store
        .write(move |tx| {
            let Some(row) = known(tx, &digest)? else { return Ok(Removal::NotFound) };
            let bound = policy_bindings::using(tx, &digest)?;
            if !bound.is_empty() {
                return Ok(Removal::Bound(bound));
            }
            MODULES.remove(tx, digest.as_bytes())?;
            remove_pieces(tx, &row)?;
            let event = AuditEvent::PolicyModuleRemoved { digest: row.digest, name: row.name, version: row.version };
            audit::append(tx, actor, &event)?;
            Ok(Removal::Removed)
        })
        .await
}

fn remove_pieces(tx: &mut WriteTx<'_>, row: &Record) -> Result<(), StoreError> {
    (0..row.pieces()).try_for_each(|at| tx.remove(Table::PolicyModulePieces, &key(&row.digest, at)))
}

/// Whether a module has arrived.
pub(super) fn is_there(tx: &mut ReadTx<'_>, digest: &str) -> Result<bool, StoreError> {
    there(tx, digest).map(|row| row.is_some())
}

fn there(tx: &mut ReadTx<'_>, digest: &str) -> Result<Option<Record>, StoreError> {
    Ok(known(tx, digest)?.filter(Record::is_there))
}

/// The row of a module that is there or about to arrive.
fn known(tx: &mut ReadTx<'_>, digest: &str) -> Result<Option<Record>, StoreError> {
    // Longer ones are nobody's.
    if digest.len() != DIGEST_CHARS {
        return Ok(None);
    }
    MODULES.get(tx, digest.as_bytes())
}

/// What is known of a module.
pub async fn get(store: &Store, digest: &str) -> Result<Option<UploadedModule>, StoreError> {
    let digest = digest.to_owned();
    store.read(move |tx| there(tx, &digest)?.map(TryFrom::try_from).transpose()).await
}

/// What is known of a module, and its bytes. Whoever uses them compares them with the digest.
pub async fn content(store: &Store, digest: &str) -> Result<Option<(UploadedModule, Vec<u8>)>, StoreError> {
    let named = digest.to_owned();
    let Some(row) = store.read(move |tx| there(tx, &named)).await? else { return Ok(None) };
    let mut content = Vec::with_capacity(usize::try_from(row.bytes).unwrap_or_default());
    for first in (0..row.pieces()).step_by(STEP) {
        let (digest, last) = (row.digest.clone(), row.pieces().min(first + STEP));
        let read = move |tx: &mut ReadTx<'_>| {
            let pieces = (first..last).map(|at| tx.get(Table::PolicyModulePieces, &key(&digest, at)));
            pieces.collect::<Result<Option<Vec<_>>, StoreError>>()
        };
        let Some(pieces) = store.read(read).await? else {
            // Somebody may have removed it meanwhile.
            return match get(store, &row.digest).await? {
                Some(_) => Err(unreadable(Table::PolicyModulePieces, "a piece is missing")),
                None => Ok(None),
            };
        };
        content.extend(pieces.into_iter().flatten());
    }
    Ok(Some((row.try_into()?, content)))
}

/// A page of modules, from the last digest to the first.
pub async fn list(store: &Store, after: Option<Cursor>, limit: usize) -> Result<Page<UploadedModule>, StoreError> {
    let page = move |tx: &mut ReadTx<'_>| {
        MODULES.newest_first(tx, after.as_ref(), limit, Record::is_there)?.try_map(TryFrom::try_from)
    };
    store.read(page).await
}

/// Characters of a digest.
const DIGEST_CHARS: usize = 64;

fn key(digest: &str, at: usize) -> Vec<u8> {
    let at = u16::try_from(at).unwrap_or(u16::MAX);
    [digest.as_bytes(), &at.to_be_bytes()].concat()
}

/// The table for what is done to all alike: modules have pieces elsewhere.
pub(super) struct Kept;

impl super::kept::Kept for Kept {
    fn table(&self) -> Table {
        MODULES.table()
    }

    fn indexes(&self) -> Vec<Table> {
        vec![Table::PolicyModulePieces]
    }

    fn forget(&self, tx: &mut WriteTx<'_>, key: &[u8], now: Timestamp) -> Result<bool, StoreError> {
        let Some(row) = MODULES.get(tx, key)? else { return Ok(false) };
        let is_gone = MODULES.forget(tx, key, now)?;
        if is_gone {
            remove_pieces(tx, &row)?;
        }
        Ok(is_gone)
    }

    fn effects(&self) -> usize {
        MODULES.effects() + MAX_PIECES
    }

    fn reads(&self) -> usize {
        MODULES.reads() + 1
    }

    fn check(&self, tx: &mut ReadTx<'_>, row: &Row, found: &mut Found) -> Result<(), StoreError> {
        MODULES.check(tx, row, found)?;
        let Some(record) = readable(MODULES.decode(&row.1))?.filter(Record::is_there) else { return Ok(()) };
        // The ends tell of a removal that broke off; whether there is all between them, the pieces tell.
        for at in [0, record.pieces().saturating_sub(1)] {
            let key = key(&record.digest, at);
            if tx.get(Table::PolicyModulePieces, &key)?.is_none() {
                found.missing(Table::PolicyModulePieces, &key);
            }
        }
        Ok(())
    }

    fn check_index(&self, tx: &mut ReadTx<'_>, index: Table, row: &Row, found: &mut Found) -> Result<(), StoreError> {
        let (key, _) = row;
        let owner = match key.split_last_chunk() {
            Some((owner, piece)) => {
                tx.get(Table::PolicyModules, owner)?.map(|owner| (owner, u16::from_be_bytes(*piece)))
            }
            None => None,
        };
        let Some((owner, piece)) = owner else {
            found.stray(index, key);
            return Ok(());
        };
        let Some(owner) = readable(MODULES.decode(&owner))? else { return Ok(()) };
        if usize::from(piece) >= owner.pieces() {
            found.stray(index, key);
        }
        let Some(before) = piece.checked_sub(1).filter(|_| owner.is_there()) else { return Ok(()) };
        let before = self::key(&owner.digest, before.into());
        if tx.get(index, &before)?.is_none() {
            found.missing(index, &before);
        }
        Ok(())
    }

    fn expires_at(&self, tx: &mut ReadTx<'_>, key: &[u8], at: Timestamp) -> Result<bool, StoreError> {
        MODULES.expires_at(tx, key, at)
    }
}

/// A module as it is stored, codec version 1.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    digest: String,
    name: String,
    version: String,
    bytes: u64,
    /// JSON as text.
    manifest: String,
    signatures: Option<String>,
    /// When it began to arrive.
    started_ms: u64,
    /// Until when it may arrive; nothing once it is there.
    arrives_until_ms: Option<u64>,
    uploaded_ms: u64,
    uploaded_by: ActorRecord,
}

impl Record {
    fn is_there(&self) -> bool {
        self.arrives_until_ms.is_none()
    }

    fn pieces(&self) -> usize {
        usize::try_from(self.bytes).unwrap_or(usize::MAX).div_ceil(PIECE_BYTES).min(MAX_PIECES)
    }
}

impl TryFrom<Record> for UploadedModule {
    type Error = StoreError;

    fn try_from(record: Record) -> Result<Self, StoreError> {
        let Record { digest, name, version, bytes, manifest, signatures, uploaded_ms, uploaded_by, .. } = record;
        Ok(Self {
            digest,
            name,
            version,
            bytes,
            manifest: serde_json::from_str(&manifest).map_err(|error| unreadable(Table::PolicyModules, error))?,
            signatures,
            uploaded: Timestamp::from_millis(uploaded_ms),
            uploaded_by: uploaded_by.into(),
        })
    }
}
