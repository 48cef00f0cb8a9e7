//! In which order decisions were appended, for whoever follows the trail.
//!
//! A decision's id is of the moment when its request began, and it is appended some time after that has ended, by
//! whichever gateway served it: ids do not come in the order of appending. Each batch therefore leaves a row with the ids
//! that it appended, under the number of the last of them. Numbers count the decisions over the trail's life, without gaps
//! and in the order of commits, so that whoever has seen a number has seen all before it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::super::engine::{Bounds, Direction, ReadTx, Row, Table, WriteTx};
use super::super::table::{Single, Typed};
use super::super::trail::Appended;
use super::super::{Store, StoreError};
use super::DECISIONS;
use crate::audit::DecisionRecord;
use crate::env::Timestamp;

/// How long it is kept. Whoever is further behind has missed something, and numbers say how much.
const KEPT: Duration = Duration::from_secs(60 * 60);
/// Batches that are read at once.
const STEP: usize = 32;
/// Decisions that are read at once, at most.
const MAX_APPENDED: usize = 500;

pub(in crate::store) const BATCHES: Typed<Batch> = Typed {
    table: Table::DecisionBatches,
    version: 1,
    older: &[],
    key: |batch| batch.last.to_be_bytes().to_vec(),
    indexes: &[],
    expires: Some(|batch| Some(Timestamp::from_millis(batch.at_ms).after(KEPT))),
};

/// Number of the decision that was appended last.
const LAST: Single<u64> = Single::new("decision_number");

/// What one transaction appended, codec version 1.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::store) struct Batch {
    /// Number of the last one.
    last: u64,
    at_ms: u64,
    /// In the order of their numbers.
    ids: Vec<String>,
}

impl Batch {
    /// The number before that of the first one.
    fn before(&self) -> u64 {
        self.last.saturating_sub(self.ids.len() as u64)
    }
}

/// Numbers these decisions, in the transaction that appends them.
pub(super) fn append(tx: &mut WriteTx<'_>, rows: &[Row]) -> Result<(), StoreError> {
    let last = LAST.get(tx)?.unwrap_or(0) + rows.len() as u64;
    LAST.put(tx, &last)?;
    let ids = rows.iter().map(|(key, _)| String::from_utf8_lossy(key).into_owned()).collect();
    BATCHES.put(tx, &Batch { last, at_ms: tx.now().as_millis(), ids })
}

/// The number of the decision that was appended last; 0 if there was none.
pub async fn last_number(store: &Store) -> Result<u64, StoreError> {
    store.read(|tx| Ok(LAST.get(tx)?.unwrap_or(0))).await
}

/// At most `limit` decisions that were appended after number `after`.
pub async fn appended(store: &Store, after: u64, limit: usize) -> Result<Appended<DecisionRecord>, StoreError> {
    store.read(move |tx| read(tx, after, limit.min(MAX_APPENDED))).await
}

fn read(tx: &mut ReadTx<'_>, after: u64, limit: usize) -> Result<Appended<DecisionRecord>, StoreError> {
    let last = LAST.get(tx)?.unwrap_or(0);
    if last <= after {
        return Ok(Appended { rows: Vec::new(), reached: last });
    }
    let batches = tx.range(Table::DecisionBatches, &Bounds::after(after.to_be_bytes()), Direction::Forward, STEP)?;
    let is_all = batches.len() < STEP;
    let end = if is_all { last } else { batches.last().and_then(|(key, _)| number(key)).unwrap_or(last) };
    // One that cannot be read is told by whoever verifies the store: what it appended counts as missed.
    let batches = batches.iter().filter_map(|(_, row)| BATCHES.decode(row).ok());
    let numbered = batches.flat_map(|batch| (batch.before() + 1..).zip(batch.ids));
    let mut numbered: Vec<(u64, String)> = numbered.filter(|(number, _)| *number > after).take(limit + 1).collect();
    let reached = match numbered.len() > limit {
        true => numbered.pop().map_or(end, |(next, _)| next - 1),
        false => end,
    };
    tx.prefetch(Table::Decisions, numbered.iter().map(|(_, id)| id));
    let mut rows = Vec::with_capacity(numbered.len());
    for (number, id) in numbered {
        // One that cannot be read is told by whoever verifies the store, and stops nobody here.
        if let Some(record) = tx.get(Table::Decisions, id.as_bytes())?
            && let Ok(decision) = DECISIONS.decode(&record).and_then(DecisionRecord::try_from)
        {
            rows.push((number, decision));
        }
    }
    Ok(Appended { rows, reached })
}

/// The number of the last decision of a batch, which is its key.
fn number(key: &[u8]) -> Option<u64> {
    key.try_into().ok().map(u64::from_be_bytes)
}
