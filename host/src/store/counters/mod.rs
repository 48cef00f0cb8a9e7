//! What the replicas on one store have counted for policies: each writes its own counts and reads those of the others.
//!
//! A row is one counter as one replica has it, whole. Writing it twice changes nothing, so that an answer that was
//! lost on the way loses and doubles nothing either. Rows are read in the order in which they were written, each version
//! that a reader is late for being covered by the next. A row is forgotten once all of it is older than its period.
//!
//! What a counter is and how counts become limits is `policy::counters`; that nothing is written where only one replica
//! can be is decided by who calls this.

use serde::{Deserialize, Serialize};

use super::engine::{Bounds, Direction, Table};
use super::table::{Index, Single, Typed};
use super::{ReadTx, Store, StoreError, WriteTx};
use crate::env::Timestamp;
use crate::secret::Digest;

#[cfg(test)]
pub(super) mod tests;

/// Counters written in one transaction.
pub const BATCH: usize = 250;
/// Rows read at once.
const STEP: usize = 500;
/// The expiry of a row is rounded up to a multiple of this, so that a busy counter does not move it each time.
const EXPIRY_STEP_MS: u64 = 30_000;

pub(super) const COUNTERS: Typed<Record> = Typed {
    table: Table::Counters,
    version: 1,
    older: &[],
    key: Record::key,
    indexes: &[Index { table: Table::CountersByRevision, key: Record::by_revision }],
    expires: Some(|record| Some(Timestamp::from_millis(record.expires_ms))),
};

/// Counts the writes.
const REVISION: Single<u64> = Single::new("counter_revision");

/// A gateway process, from its start to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Replica(pub [u8; 8]);

/// Which counter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Counter {
    pub binding: String,
    pub shadow: bool,
    pub key: String,
    pub period_ms: u64,
}

/// What a replica has counted: when and how much, oldest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Count {
    pub counter: Counter,
    /// In the clock of the caller; the store keeps its own.
    pub taken: Vec<(u64, u64)>,
}

/// Up to where a replica has read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen(Vec<u8>);

/// What a replica learns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    /// Counts of other replicas, each in the place of what was known of that counter and that replica.
    pub counts: Vec<(Replica, Count)>,
    pub seen: Seen,
    pub has_more: bool,
}

/// Writes at most [`BATCH`] counts of a replica, each in the place of what it wrote before. `now` is the caller's clock.
pub async fn write(store: &Store, replica: Replica, counts: Vec<Count>, now: Timestamp) -> Result<(), StoreError> {
    store.write(move |tx| write_in(tx, replica, &counts, now)).await
}

fn write_in(tx: &mut WriteTx<'_>, replica: Replica, counts: &[Count], now: Timestamp) -> Result<(), StoreError> {
    let clocks = Clocks { store: tx.now(), caller: now };
    let revision = REVISION.get(tx)?.unwrap_or(0) + 1;
    REVISION.put(tx, &revision)?;
    for Count { counter, taken } in counts.iter().take(BATCH) {
        let taken: Vec<(u64, u64)> = taken.iter().map(|(at, cost)| (clocks.stored(*at), *cost)).collect();
        let last = taken.last().map_or(clocks.store.as_millis(), |(at, _)| *at);
        let Counter { binding, shadow, key, period_ms } = counter.clone();
        let expires_ms = last.saturating_add(period_ms).div_ceil(EXPIRY_STEP_MS).saturating_mul(EXPIRY_STEP_MS);
        let record = Record { replica: replica.0, revision, binding, shadow, key, period_ms, taken, expires_ms };
        COUNTERS.put(tx, &record)?;
    }
    Ok(())
}

/// What the others have written since `seen`. `now` is the caller's clock.
pub async fn read(store: &Store, replica: Replica, seen: Seen, now: Timestamp) -> Result<News, StoreError> {
    store.read(move |tx| read_in(tx, replica, &seen, now)).await
}

fn read_in(tx: &mut ReadTx<'_>, replica: Replica, seen: &Seen, now: Timestamp) -> Result<News, StoreError> {
    let clocks = Clocks { store: tx.now(), caller: now };
    let rows = tx.range(Table::CountersByRevision, &Bounds::after(seen.0.clone()), Direction::Forward, STEP)?;
    let has_more = rows.len() == STEP;
    let seen = rows.last().map_or_else(|| seen.clone(), |(key, _)| Seen(key.clone()));
    let mut counts = Vec::new();
    for (_, key) in rows.iter().filter(|(_, key)| !key.ends_with(&replica.0)) {
        let Some(record) = COUNTERS.get(tx, key)? else { continue };
        let Record { replica, revision: _, binding, shadow, key, period_ms, taken, expires_ms: _ } = record;
        let taken = taken.into_iter().map(|(at, cost)| (clocks.told(at), cost)).collect();
        let counter = Counter { binding, shadow, key, period_ms };
        counts.push((Replica(replica), Count { counter, taken }));
    }
    Ok(News { counts, seen, has_more })
}

/// The same moment on two clocks.
#[derive(Clone, Copy)]
struct Clocks {
    store: Timestamp,
    caller: Timestamp,
}

impl Clocks {
    /// A moment of the caller's clock on the store's.
    fn stored(self, at: u64) -> u64 {
        shift(at, self.caller, self.store)
    }

    /// The other way round.
    fn told(self, at: u64) -> u64 {
        shift(at, self.store, self.caller)
    }
}

fn shift(at: u64, from: Timestamp, to: Timestamp) -> u64 {
    (at.saturating_add(to.as_millis())).saturating_sub(from.as_millis())
}

/// A counter as one replica has it, codec version 1.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    replica: [u8; 8],
    /// Of the write that it comes from.
    revision: u64,
    binding: String,
    shadow: bool,
    key: String,
    period_ms: u64,
    /// In the store's clock.
    taken: Vec<(u64, u64)>,
    expires_ms: u64,
}

impl Record {
    /// The digest of what the counter is, and the replica.
    fn key(&self) -> Vec<u8> {
        let mut all = vec![u8::from(self.shadow)];
        all.extend_from_slice(&self.period_ms.to_be_bytes());
        all.extend_from_slice(&(self.binding.len() as u64).to_be_bytes());
        all.extend_from_slice(self.binding.as_bytes());
        all.extend_from_slice(self.key.as_bytes());
        [Digest::of(&all).as_bytes().as_slice(), &self.replica].concat()
    }

    fn by_revision(&self) -> Vec<u8> {
        [&self.revision.to_be_bytes()[..], &self.key()].concat()
    }
}
