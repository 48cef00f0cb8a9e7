//! The audit trail: appended to inside the transaction of the change, read newest first, pruned by age.
//!
//! A row's key is its time and a sequence number, both big-endian, so key order is time order and ties are told
//! apart. What can be in the trail is `crate::audit`.

use std::time::Duration;

use super::changes::{Change, Revision, announce, revision};
use super::engine::{Bounds, Direction, Row, Table};
use super::table::{Cursor, Page, Single, Typed};
use super::{Store, StoreError, WriteTx};
use crate::audit::{Actor, AuditEntry, AuditEvent};
use crate::env::Timestamp;

mod reading;
mod row;
#[cfg(test)]
mod tests;
mod writing;

use reading::none;
pub(super) use row::ActorRecord;
use row::{EntryRecord, EventRecord};

pub(super) const AUDIT: Typed<EntryRecord> = Typed {
    table: Table::Audit,
    version: 1,
    older: &[],
    key: |record| row_key(record.at_ms, record.sequence).to_vec(),
    indexes: &[],
    expires: None,
};

/// Number of the row that was appended last.
const LAST_SEQUENCE: Single<u64> = Single::new("audit_sequence");

/// A row of the trail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// Counts up by one with each row, over all of the trail's life.
    pub sequence: u64,
    pub entry: AuditEntry,
}

/// Adds a row to the transaction of the change that it tells of.
pub fn append(tx: &mut WriteTx<'_>, actor: Actor, event: &AuditEvent) -> Result<(), StoreError> {
    let sequence = LAST_SEQUENCE.get(tx)?.unwrap_or(0) + 1;
    LAST_SEQUENCE.put(tx, &sequence)?;
    let (actor, event) = (ActorRecord::from(actor), EventRecord::from(event));
    AUDIT.put(tx, &EntryRecord { at_ms: tx.now().as_millis(), sequence, actor, event })
}

/// Adds a row for something that changes nothing in the store.
pub async fn record(store: &Store, actor: Actor, event: AuditEvent) -> Result<(), StoreError> {
    store.write(move |tx| append(tx, actor, &event)).await
}

/// Adds a row for something that changes nothing in the store and that others have to know of all the same.
pub async fn record_and_announce(
    store: &Store,
    actor: Actor,
    event: AuditEvent,
    change: Change,
) -> Result<Revision, StoreError> {
    store
        .write(move |tx| {
            append(tx, actor, &event)?;
            announce(tx, change.clone())?;
            revision(tx)
        })
        .await
}

/// A page of the trail, newest first, each of whose rows can be read.
pub async fn list(store: &Store, after: Option<Cursor>, limit: usize) -> Result<Page<Recorded>, StoreError> {
    let take = |row: EntryRecord| Recorded::try_from(row).map(Some);
    store.read(move |tx| AUDIT.newest_first_of(tx, after.as_ref(), limit, take)).await
}

/// A page of the rows that `keep` keeps, newest first. It looks at a bounded number of rows: it may be short, or empty, and
/// still have a next one.
pub async fn list_of(
    store: &Store,
    after: Option<Cursor>,
    limit: usize,
    keep: impl Fn(&Found) -> bool + Send + 'static,
) -> Result<Page<Found>, StoreError> {
    let take = move |(key, row): &Row| {
        let found = found(key, row)?;
        Ok(keep(&found).then_some(found))
    };
    store.read(move |tx| AUDIT.newest_rows_of(tx, after.as_ref(), limit, &take)).await
}

/// A row as it is found, which perhaps cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    Recorded(Recorded),
    Unreadable { at: Timestamp, sequence: u64, problem: String },
}

impl Found {
    pub const fn sequence(&self) -> u64 {
        match self {
            Self::Recorded(Recorded { sequence, .. }) | Self::Unreadable { sequence, .. } => *sequence,
        }
    }

    pub const fn at(&self) -> Timestamp {
        match self {
            Self::Recorded(recorded) => recorded.entry.at,
            Self::Unreadable { at, .. } => *at,
        }
    }
}

/// At most `limit` rows after one of this moment and number, oldest first.
pub async fn since(store: &Store, (at, sequence): (Timestamp, u64), limit: usize) -> Result<Vec<Found>, StoreError> {
    store
        .read(move |tx| {
            let after = Bounds::after(row_key(at.as_millis(), sequence));
            let rows = tx.range(Table::Audit, &after, Direction::Forward, limit)?;
            rows.iter().map(|(key, row)| found(key, row)).collect()
        })
        .await
}

/// The rows with the earliest and with the latest time.
pub(super) async fn ends(store: &Store) -> Result<Option<(Found, Found)>, StoreError> {
    store
        .read(|tx| {
            let mut end = |direction| {
                let rows = tx.range(Table::Audit, &Bounds::all(), direction, 1)?;
                rows.first().map(|(key, row)| found(key, row)).transpose()
            };
            Ok::<_, StoreError>(end(Direction::Forward)?.zip(end(Direction::Backward)?))
        })
        .await
}

/// What a row says, or else what its key says. A key that says nothing is a fault.
fn found(key: &[u8], row: &[u8]) -> Result<Found, StoreError> {
    match AUDIT.decode(row).and_then(Recorded::try_from) {
        Ok(recorded) => Ok(Found::Recorded(recorded)),
        Err(error) => {
            let (at_ms, sequence) = read_key(key).ok_or_else(|| none("a key"))?;
            Ok(Found::Unreadable { at: Timestamp::from_millis(at_ms), sequence, problem: error.to_string() })
        }
    }
}

/// The number of the row that was appended last; 0 if there was none.
pub async fn last_sequence(store: &Store) -> Result<u64, StoreError> {
    store.read(|tx| Ok(LAST_SEQUENCE.get(tx)?.unwrap_or(0))).await
}

/// Removes at most `limit` rows that are older than `retention` has it, and tells how many.
pub(super) fn prune_step(tx: &mut WriteTx<'_>, retention: Duration, limit: usize) -> Result<usize, StoreError> {
    let too_old = Bounds::before(row_key(tx.now().before(retention).as_millis(), 0));
    let rows = tx.range(Table::Audit, &too_old, Direction::Forward, limit)?;
    rows.iter().try_for_each(|(key, _)| tx.remove(Table::Audit, key))?;
    Ok(rows.len())
}

/// Makes the row with this number one that nobody can read.
#[cfg(test)]
pub(crate) async fn spoil(store: &Store, sequence: u64) {
    let spoil = move |tx: &mut WriteTx<'_>| {
        let rows = tx.range(Table::Audit, &Bounds::all(), Direction::Forward, super::engine::MAX_RANGE)?;
        let is_it = |key: &[u8]| read_key(key).is_some_and(|(_, number)| number == sequence);
        rows.iter().filter(|(key, _)| is_it(key)).try_for_each(|(key, _)| tx.put(Table::Audit, key, b"\x63{}"))
    };
    store.write(spoil).await.unwrap();
}

fn row_key(at_ms: u64, sequence: u64) -> [u8; 16] {
    ((u128::from(at_ms) << 64) | u128::from(sequence)).to_be_bytes()
}

/// Time and number that a key is made of.
fn read_key(key: &[u8]) -> Option<(u64, u64)> {
    let (at_ms, sequence) = key.split_first_chunk()?;
    Some((u64::from_be_bytes(*at_ms), u64::from_be_bytes(sequence.try_into().ok()?)))
}
