//! The decision trail: what became of callers' requests.
//!
//! No request waits for it ([`super::trail`]). Rows are keyed by the decision's id, which begins with its time, so that
//! key order is time order and writing a batch twice is the same as writing it once. In which order they were appended is
//! in [`feed`]. What a record holds is `crate::audit`.

use super::engine::{Bounds, Direction, MAX_KEY_BYTES, Row, Table};
use super::table::{Cursor, Page, Single, Typed};
use super::trail::{self, Trail};
use super::{Store, StoreError, WriteTx};
use crate::audit::{DecisionRecord, RecordedOutcome, RecordedVerdict};
use crate::env::Timestamp;
use crate::ids::{Principal, UpstreamName};

mod feed;
mod record;

pub use super::trail::{Retention, Taken, Totals};
pub(super) use feed::BATCHES;
pub use feed::{appended, last_number};
use record::Record;

/// Records that may wait to be written.
const QUEUE: usize = 8192;
/// Records in one transaction.
const BATCH: usize = 512;
/// Rows removed in one transaction.
const PRUNE_STEP: usize = 500;
/// What a row costs besides its key and value, roughly.
const ROW_OVERHEAD_BYTES: u64 = 32;

pub(super) const DECISIONS: Typed<Record> = Typed {
    table: Table::Decisions,
    version: 2,
    older: &[record::VERSION_1],
    key: |record| record.id.as_bytes().to_vec(),
    indexes: &[],
    expires: None,
};

const TOTALS: Single<Totals> = Single::new("decision_totals");

/// The trail, for its keeper.
#[derive(Debug)]
pub struct Decisions;

/// The keeper of the trail, which somebody has to run.
pub type Keeper = trail::Keeper<Decisions>;

/// The way into the trail. Clones share one queue.
#[derive(Clone, Debug)]
pub struct Recorder(trail::Queue<DecisionRecord>);

impl Recorder {
    /// Queues a record if there is room. Never waits.
    pub fn try_record(&self, record: DecisionRecord) -> Taken {
        // Records are small, so that they are only counted.
        self.0.try_put(record, 1)
    }

    /// Records that were dropped so far.
    pub fn dropped(&self) -> u64 {
        self.0.dropped()
    }
}

/// A recorder, and the keeper that somebody has to run.
pub fn recorder(store: Store, retention: Retention) -> (Recorder, Keeper) {
    let (queue, keeper) = trail::begin(Decisions, store, retention);
    (Recorder(queue), keeper)
}

impl Trail for Decisions {
    type Entry = DecisionRecord;
    type Ready = Row;
    const NAME: &'static str = "decisions";
    const QUEUE: usize = QUEUE;
    const QUEUE_BYTES: usize = QUEUE;
    const BATCH: usize = BATCH;
    const PRUNE_STEP: usize = PRUNE_STEP;

    fn ready(&self, decision: DecisionRecord) -> Row {
        DECISIONS.row(&Record::from(decision))
    }

    fn append(tx: &mut WriteTx<'_>, rows: &[Row]) -> Result<Totals, StoreError> {
        append(tx, rows)
    }

    fn prune_step(tx: &mut WriteTx<'_>, retention: Retention) -> Result<usize, StoreError> {
        prune_step(tx, retention)
    }
}

/// Which decisions a list shows; what is `None` does not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    pub principal: Option<Principal>,
    pub upstream: Option<UpstreamName>,
    /// The upstream's own name for the tool.
    pub tool: Option<String>,
    pub verdict: Option<RecordedVerdict>,
    pub outcome: Option<RecordedOutcome>,
    /// Of requests that began then or later.
    pub since: Option<Timestamp>,
    /// Of requests that began before.
    pub until: Option<Timestamp>,
}

impl Filter {
    /// Whether a decision is one of these.
    pub fn takes(&self, decision: &DecisionRecord) -> bool {
        let Self { principal, upstream, tool, verdict, outcome, since, until } = self;
        principal.as_ref().is_none_or(|principal| decision.principal == *principal)
            && (upstream.is_none() || decision.upstream == *upstream)
            && (tool.is_none() || decision.tool == *tool)
            && verdict.is_none_or(|verdict| decision.verdict == verdict)
            && outcome.is_none_or(|outcome| decision.outcome == outcome)
            && since.is_none_or(|since| decision.at >= since)
            && until.is_none_or(|until| decision.at < until)
    }

    /// The same of a decision as it is stored. Its time is that of its key.
    fn fits(&self, record: &Record, principal: Option<&str>) -> bool {
        principal.is_none_or(|principal| record.principal == principal)
            && self.upstream.as_ref().is_none_or(|upstream| record.upstream.as_deref() == Some(upstream.as_str()))
            && (self.tool.is_none() || record.tool == self.tool)
            && self.verdict.is_none_or(|verdict| record.verdict == verdict.as_str())
            && self.outcome.is_none_or(|outcome| record.outcome == outcome.as_str())
    }

    /// Where a list begins that goes on after this.
    fn begin(&self, after: Option<Cursor>) -> Option<Cursor> {
        let end = self.until.and_then(|until| Cursor::from_bytes(first_id_at(until).into_bytes()));
        [after, end].into_iter().flatten().min_by(|one, other| one.as_bytes().cmp(other.as_bytes()))
    }
}

/// A page of the trail, newest first. A filtered page looks at a bounded number of rows: it may be short, or empty,
/// and still have a next one.
pub async fn list(
    store: &Store,
    filter: Filter,
    after: Option<Cursor>,
    limit: usize,
) -> Result<Page<DecisionRecord>, StoreError> {
    let principal = filter.principal.as_ref().map(Principal::to_string);
    let (after, oldest) = (filter.begin(after), filter.since.map(first_id_at));
    store
        .read(move |tx| {
            let is_in_time = |id: &[u8]| oldest.as_ref().is_none_or(|oldest| id >= oldest.as_bytes());
            let fits = |record: &Record| is_in_time(record.id.as_bytes()) && filter.fits(record, principal.as_deref());
            let mut page = DECISIONS.newest_first(tx, after.as_ref(), limit, fits)?;
            page.next = page.next.filter(|next| is_in_time(next.as_bytes()));
            page.try_map(DecisionRecord::try_from)
        })
        .await
}

/// The decision with this id.
pub async fn get(store: &Store, id: &str) -> Result<Option<DecisionRecord>, StoreError> {
    if id.len() > MAX_KEY_BYTES {
        return Ok(None);
    }
    let id = id.to_owned();
    store.read(move |tx| DECISIONS.get(tx, id.as_bytes())?.map(DecisionRecord::try_from).transpose()).await
}

/// How large the trail is.
pub async fn totals(store: &Store) -> Result<Totals, StoreError> {
    store.read(|tx| Ok(TOTALS.get(tx)?.unwrap_or_default())).await
}

/// Removes what is older or more than `retention` has it, step by step, and tells how many rows.
pub async fn prune(store: &Store, retention: Retention) -> Result<usize, StoreError> {
    trail::prune::<Decisions>(store, retention).await
}

fn append(tx: &mut WriteTx<'_>, rows: &[Row]) -> Result<Totals, StoreError> {
    let mut totals = TOTALS.get(tx)?.unwrap_or_default();
    let Some((first, _)) = rows.first() else { return Ok(totals) };
    if tx.get(Table::Decisions, first)?.is_some() {
        // It was written, and only the answer was lost: a batch is written whole or not at all.
        return Ok(totals);
    }
    feed::append(tx, rows)?;
    for row @ (key, value) in rows {
        tx.put(Table::Decisions, key, value)?;
        totals.rows += 1;
        totals.bytes += row_bytes(row);
    }
    TOTALS.put(tx, &totals)?;
    Ok(totals)
}

fn row_bytes((key, value): &Row) -> u64 {
    (key.len() + value.len()) as u64 + ROW_OVERHEAD_BYTES
}

fn prune_step(tx: &mut WriteTx<'_>, retention: Retention) -> Result<usize, StoreError> {
    let too_old = first_id_at(tx.now().before(retention.age));
    let oldest = tx.range(Table::Decisions, &Bounds::all(), Direction::Forward, PRUNE_STEP)?;
    let mut totals = TOTALS.get(tx)?.unwrap_or_default();
    let mut removed = 0;
    for row @ (key, _) in &oldest {
        if key.as_slice() >= too_old.as_bytes() && totals.bytes <= retention.bytes {
            break;
        }
        tx.remove(Table::Decisions, key)?;
        removed += 1;
        totals.rows = totals.rows.saturating_sub(1);
        totals.bytes = totals.bytes.saturating_sub(row_bytes(row));
    }
    if removed == oldest.len() && oldest.len() < PRUNE_STEP {
        totals = Totals::default();
    }
    if removed > 0 {
        TOTALS.put(tx, &totals)?;
    }
    Ok(removed)
}

/// Smaller than every decision id of this moment or later, and larger than those before.
fn first_id_at(at: Timestamp) -> String {
    // The form of `DecisionId`: 48 bits of milliseconds in hex.
    format!("{:012x}", at.as_millis())
}

#[cfg(test)]
mod tests;
