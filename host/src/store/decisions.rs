//! The decision trail: what became of callers' requests.
//!
//! No request waits for it. [`Recorder::try_record`] puts a record into a bounded queue and drops it, counting, when
//! the queue is full; one task, the [`Keeper`], writes batches and prunes by age and by size. Rows are keyed by the
//! decision's id, which begins with its time, so that key order is time order and writing a batch twice is the same
//! as writing it once. What a record holds is `crate::audit`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::engine::{Bounds, Direction, MAX_KEY_BYTES, Row, Table};
use super::table::{Cursor, Page, Single, Typed, shorten, unreadable};
use super::{Store, StoreError, WriteTx};
use crate::audit::{DecisionRecord, DecisionStep, RecordedOutcome, RecordedVerdict};
use crate::env::Timestamp;
use crate::ids::{BindingName, Principal, UpstreamName};

/// Records that may wait to be written.
const QUEUE: usize = 8192;
/// Records in one transaction.
const BATCH: usize = 512;
/// How long a record waits for others.
const BATCH_TIME: Duration = Duration::from_millis(100);
/// Before a batch that could not be written is tried again.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// Between two prunings by age; size is looked at after each batch.
const PRUNE_INTERVAL: Duration = Duration::from_secs(60);
/// Rows removed in one transaction.
const PRUNE_STEP: usize = 500;
/// What a row costs besides its key and value, roughly.
const ROW_OVERHEAD_BYTES: u64 = 32;
/// Steps of one record that are kept.
const MAX_STEPS: usize = 64;
/// Longest name of a tool that is kept, in bytes; callers may ask for tools of any name.
const MAX_TOOL_BYTES: usize = 256;
/// Longest other text that is kept, in bytes.
const MAX_WORD_BYTES: usize = 128;

const DECISIONS: Typed<Record> =
    Typed { table: Table::Decisions, version: 1, key: |record| record.id.as_bytes().to_vec(), indexes: &[] };

const TOTALS: Single<Totals> = Single::new("decision_totals");

/// How much of the trail is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    pub age: Duration,
    /// Roughly, on disk.
    pub bytes: u64,
}

impl Default for Retention {
    /// 7 days or 1 GiB.
    fn default() -> Self {
        Self { age: Duration::from_secs(7 * 24 * 60 * 60), bytes: 1 << 30 }
    }
}

/// Size of the trail. An estimate: a batch that is written twice counts twice, until the trail is empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Totals {
    pub rows: u64,
    pub bytes: u64,
}

/// What became of [`Recorder::try_record`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Taken {
    /// It waits to be written.
    Queued,
    /// It was dropped and counted.
    Dropped,
}

/// The way into the trail. Clones share one queue.
#[derive(Clone, Debug)]
pub struct Recorder {
    queue: mpsc::Sender<DecisionRecord>,
    dropped: Arc<AtomicU64>,
}

impl Recorder {
    /// Queues a record if there is room. Never waits.
    pub fn try_record(&self, record: DecisionRecord) -> Taken {
        if self.queue.try_send(record).is_ok() {
            return Taken::Queued;
        }
        self.dropped.fetch_add(1, Ordering::Relaxed);
        Taken::Dropped
    }

    /// Records that were dropped so far.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// A recorder, and the keeper that somebody has to run.
pub fn recorder(store: Store, retention: Retention) -> (Recorder, Keeper) {
    let (queue, waiting) = mpsc::channel(QUEUE);
    let dropped = Arc::new(AtomicU64::new(0));
    let keeper = Keeper { store, retention, waiting, dropped: Arc::clone(&dropped), dropped_told: 0 };
    (Recorder { queue, dropped }, keeper)
}

/// Writes what the recorder took, and prunes.
#[derive(Debug)]
pub struct Keeper {
    store: Store,
    retention: Retention,
    waiting: mpsc::Receiver<DecisionRecord>,
    dropped: Arc<AtomicU64>,
    /// Drops that the log knows of.
    dropped_told: u64,
}

impl Keeper {
    /// Runs until `shutdown` is cancelled or the last recorder is gone, then writes what is queued and returns.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut prune = tokio::time::interval(PRUNE_INTERVAL);
        prune.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let mut batch = Vec::new();
            let has_more = tokio::select! {
                has_more = gather(&mut self.waiting, &mut batch) => has_more,
                () = shutdown.cancelled() => false,
                _ = prune.tick() => {
                    self.prune_or_tell().await;
                    true
                }
            };
            // A batch that was being gathered when the tick or the end came is not lost: it is in `batch`.
            self.keep(batch, &shutdown).await;
            self.tell_drops();
            if !has_more {
                break;
            }
        }
        self.flush(&shutdown).await;
    }

    async fn flush(&mut self, shutdown: &CancellationToken) {
        self.waiting.close();
        loop {
            let mut batch = Vec::new();
            self.waiting.recv_many(&mut batch, BATCH).await;
            if batch.is_empty() {
                self.tell_drops();
                return;
            }
            self.keep(batch, shutdown).await;
        }
    }

    /// Writes a batch; while the store fails, tries on until `shutdown`, and meanwhile the queue may fill up.
    async fn keep(&mut self, batch: Vec<DecisionRecord>, shutdown: &CancellationToken) {
        if batch.is_empty() {
            return;
        }
        let rows: Arc<[Row]> = batch.into_iter().map(|decision| DECISIONS.row(&Record::from(decision))).collect();
        let records = rows.len();
        loop {
            let attempt = Arc::clone(&rows);
            let failure = match self.store.write(move |tx| append(tx, &attempt)).await {
                Ok(totals) if totals.bytes > self.retention.bytes => return self.prune_or_tell().await,
                Ok(_) => return,
                Err(failure) => failure,
            };
            let may_pass = matches!(failure, StoreError::Busy | StoreError::Unavailable { .. });
            if !may_pass || shutdown.is_cancelled() {
                self.dropped.fetch_add(records as u64, Ordering::Relaxed);
                let error: &(dyn std::error::Error + 'static) = &failure;
                tracing::error!(error, records, "decisions are lost: the store failed");
                return;
            }
            warn_of(&failure, records);
            tokio::select! {
                () = tokio::time::sleep(RETRY_INTERVAL) => {}
                () = shutdown.cancelled() => {}
            }
        }
    }

    async fn prune_or_tell(&self) {
        if let Err(failure) = prune(&self.store, self.retention).await {
            let error: &(dyn std::error::Error + 'static) = &failure;
            tracing::warn!(error, "the decision trail could not be pruned");
        }
    }

    fn tell_drops(&mut self) {
        let dropped = self.dropped.load(Ordering::Relaxed);
        if dropped > self.dropped_told {
            tracing::warn!(dropped = dropped - self.dropped_told, "decisions were not recorded: too many at once");
            self.dropped_told = dropped;
        }
    }
}

/// Adds to `batch` until it is full or its first record has waited long enough. False once nothing more can come.
async fn gather(waiting: &mut mpsc::Receiver<DecisionRecord>, batch: &mut Vec<DecisionRecord>) -> bool {
    if waiting.recv_many(batch, BATCH).await == 0 {
        return false;
    }
    if batch.len() < BATCH {
        // Nobody waits at the queue meanwhile, so that no record wakes anybody: requests pay for none of this.
        tokio::time::sleep(BATCH_TIME).await;
        while batch.len() < BATCH
            && let Ok(record) = waiting.try_recv()
        {
            batch.push(record);
        }
    }
    !(waiting.is_closed() && waiting.is_empty())
}

fn warn_of(failure: &StoreError, records: usize) {
    let error: &(dyn std::error::Error + 'static) = failure;
    tracing::warn!(error, records, "decisions could not be written yet");
}

/// Which decisions a list shows; what is `None` does not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    pub principal: Option<Principal>,
    /// The upstream's own name for the tool.
    pub tool: Option<String>,
    pub verdict: Option<RecordedVerdict>,
}

impl Filter {
    fn fits(&self, record: &Record, principal: Option<&str>) -> bool {
        principal.is_none_or(|principal| record.principal == principal)
            && (self.tool.is_none() || record.tool == self.tool)
            && self.verdict.is_none_or(|verdict| record.verdict == verdict.as_str())
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
    store
        .read(move |tx| {
            let fits = |record: &Record| filter.fits(record, principal.as_deref());
            DECISIONS.newest_first(tx, after.as_ref(), limit, fits)?.try_map(DecisionRecord::try_from)
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
    let mut removed = 0;
    loop {
        let step = store.write(move |tx| prune_step(tx, retention)).await?;
        removed += step;
        if step < PRUNE_STEP {
            return Ok(removed);
        }
    }
}

fn append(tx: &mut WriteTx<'_>, rows: &[Row]) -> Result<Totals, StoreError> {
    let mut totals = TOTALS.get(tx)?.unwrap_or_default();
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

/// A decision as it is stored, codec version 1. Short names: there are many of them.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    id: String,
    at_ms: u64,
    principal: String,
    operation: String,
    upstream: Option<String>,
    tool: Option<String>,
    revision: String,
    verdict: String,
    reason: Option<String>,
    generation: u64,
    steps: Vec<StepRecord>,
    outcome: String,
    elapsed_ms: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StepRecord {
    binding: String,
    module: String,
    hook: String,
    verdict: String,
    reason: Option<String>,
    micros: u64,
}

fn word(text: &str) -> String {
    shorten(text, MAX_WORD_BYTES)
}

impl From<DecisionRecord> for Record {
    fn from(decision: DecisionRecord) -> Self {
        let DecisionRecord {
            id,
            at,
            principal,
            operation,
            upstream,
            tool,
            revision,
            verdict,
            reason_code,
            generation,
            steps,
            outcome,
            elapsed_ms,
        } = decision;
        Self {
            id: word(&id),
            at_ms: at.as_millis(),
            principal: principal.to_string(),
            operation: word(&operation),
            upstream: upstream.map(String::from),
            tool: tool.map(|tool| shorten(&tool, MAX_TOOL_BYTES)),
            revision: word(&revision),
            verdict: verdict.as_str().to_owned(),
            reason: reason_code.map(|code| word(&code)),
            generation,
            steps: steps.into_iter().take(MAX_STEPS).map(StepRecord::from).collect(),
            outcome: outcome.as_str().to_owned(),
            elapsed_ms,
        }
    }
}

impl From<DecisionStep> for StepRecord {
    fn from(step: DecisionStep) -> Self {
        let DecisionStep { binding, module_digest, hook, verdict, reason_code, micros } = step;
        Self {
            binding: String::from(binding),
            module: word(&module_digest),
            hook: word(&hook),
            verdict: verdict.as_str().to_owned(),
            reason: reason_code.map(|code| word(&code)),
            micros,
        }
    }
}

fn read_verdict(word: &str) -> Result<RecordedVerdict, StoreError> {
    RecordedVerdict::parse(word).ok_or_else(|| unreadable(Table::Decisions, "the verdict is unknown"))
}

fn read_principal(text: &str) -> Result<Principal, StoreError> {
    Principal::parse(text).ok_or_else(|| unreadable(Table::Decisions, "the principal is unknown"))
}

impl TryFrom<Record> for DecisionRecord {
    type Error = StoreError;

    fn try_from(record: Record) -> Result<Self, StoreError> {
        let Record {
            id,
            at_ms,
            principal,
            operation,
            upstream,
            tool,
            revision,
            verdict,
            reason,
            generation,
            steps,
            outcome,
            elapsed_ms,
        } = record;
        let upstream = upstream.as_deref().map(UpstreamName::parse).transpose();
        Ok(Self {
            id,
            at: Timestamp::from_millis(at_ms),
            principal: read_principal(&principal)?,
            operation,
            upstream: upstream.map_err(|error| unreadable(Table::Decisions, error))?,
            tool,
            revision,
            verdict: read_verdict(&verdict)?,
            reason_code: reason,
            generation,
            steps: steps.into_iter().map(DecisionStep::try_from).collect::<Result<_, _>>()?,
            outcome: RecordedOutcome::parse(&outcome)
                .ok_or_else(|| unreadable(Table::Decisions, "the outcome is unknown"))?,
            elapsed_ms,
        })
    }
}

impl TryFrom<StepRecord> for DecisionStep {
    type Error = StoreError;

    fn try_from(record: StepRecord) -> Result<Self, StoreError> {
        let StepRecord { binding, module, hook, verdict, reason, micros } = record;
        Ok(Self {
            binding: BindingName::parse(&binding).map_err(|error| unreadable(Table::Decisions, error))?,
            module_digest: module,
            hook,
            verdict: read_verdict(&verdict)?,
            reason_code: reason,
            micros,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::super::Location;
    use super::super::table::MAX_SCAN;
    use super::super::tests::{StandingClock, memory};
    use super::*;
    use crate::ids::KeyName;

    /// Decision `number`, made `at_ms`.
    fn decision(number: u64, at_ms: u64) -> DecisionRecord {
        let name = BindingName::parse("allow-tools").unwrap();
        let step = |verdict| DecisionStep {
            binding: name.clone(),
            module_digest: "ab".repeat(32),
            hook: "tool-call".to_owned(),
            verdict,
            reason_code: Some("not-listed".to_owned()),
            micros: 31,
        };
        let verdict = if number.is_multiple_of(2) { RecordedVerdict::Allow } else { RecordedVerdict::Deny };
        DecisionRecord {
            id: format!("{at_ms:012x}{number:020x}"),
            at: Timestamp::from_millis(at_ms),
            principal: if number.is_multiple_of(3) {
                Principal::Gateway
            } else {
                Principal::Key(KeyName::parse("ci").unwrap())
            },
            operation: "tools/call".to_owned(),
            upstream: Some(UpstreamName::parse("notes").unwrap()),
            tool: Some(format!("tool_{}", number % 5)),
            revision: "2026-07-28".to_owned(),
            verdict,
            reason_code: None,
            generation: 4,
            steps: vec![step(RecordedVerdict::Abstain), step(verdict)],
            outcome: RecordedOutcome::Result,
            elapsed_ms: 12,
        }
    }

    /// Writes decisions through a recorder and its keeper.
    async fn keep(store: &Store, retention: Retention, decisions: impl IntoIterator<Item = DecisionRecord>) {
        let (recorder, keeper) = recorder(store.clone(), retention);
        for decision in decisions {
            assert_eq!(recorder.try_record(decision), Taken::Queued);
        }
        drop(recorder);
        keeper.run(CancellationToken::new()).await;
    }

    async fn listed(store: &Store, filter: &Filter, limit: usize) -> Vec<DecisionRecord> {
        let mut items = Vec::new();
        let mut after = None;
        loop {
            let page = list(store, filter.clone(), after, limit).await.unwrap();
            items.extend(page.items);
            let Some(next) = page.next else { return items };
            after = Some(next);
        }
    }

    #[tokio::test]
    async fn decisions_come_back_newest_first_as_they_were_given() {
        let store = memory().await;
        let decisions: Vec<_> = (0..10).map(|number| decision(number, 1_000 + number / 3)).collect();
        keep(&store, Retention::default(), decisions.clone()).await;
        let newest_first: Vec<_> = decisions.iter().rev().cloned().collect();
        assert_eq!(listed(&store, &Filter::default(), 3).await, newest_first);
        assert_eq!(get(&store, &decisions[4].id).await.unwrap().as_ref(), Some(&decisions[4]));
        assert_eq!(get(&store, "unknown").await.unwrap(), None);
        assert_eq!(get(&store, &"x".repeat(100_000)).await.unwrap(), None);
        assert_eq!(totals(&store).await.unwrap().rows, 10);
    }

    #[tokio::test]
    async fn a_filter_shows_what_fits_and_looks_at_a_bounded_number_of_rows() {
        let store = memory().await;
        let count = MAX_SCAN as u64 + 500;
        let rows: Arc<[Row]> = (0..count).map(|n| DECISIONS.row(&Record::from(decision(n, n)))).collect();
        for start in (0..rows.len()).step_by(BATCH) {
            let rows = Arc::clone(&rows);
            store.write(move |tx| append(tx, &rows[start..rows.len().min(start + BATCH)])).await.unwrap();
        }
        let rare = Filter {
            principal: Some(Principal::Gateway),
            tool: Some("tool_0".to_owned()),
            verdict: Some(RecordedVerdict::Deny),
        };
        let fitting: Vec<_> =
            (0..count).rev().filter(|n| n % 3 == 0 && n % 5 == 0 && n % 2 == 1).map(|n| decision(n, n)).collect();
        assert_eq!(listed(&store, &rare, 200).await, fitting);

        let nobody = Filter { tool: Some("no_such_tool".to_owned()), ..Filter::default() };
        let page = list(&store, nobody.clone(), None, 10).await.unwrap();
        assert_eq!(page.items, []);
        let next = page.next.expect("there are more rows than one page looks at");
        assert_eq!(next.as_bytes(), decision(500, 500).id.as_bytes());
        assert_eq!(list(&store, nobody, Some(next), 10).await.unwrap(), Page { items: vec![], next: None });
    }

    #[tokio::test]
    async fn a_full_queue_drops_and_counts() {
        let store = memory().await;
        let (recorder, keeper) = recorder(store.clone(), Retention::default());
        for number in 0..QUEUE as u64 {
            assert_eq!(recorder.try_record(decision(number, 1_000)), Taken::Queued);
        }
        for number in 0..3 {
            assert_eq!(recorder.try_record(decision(number, 2_000)), Taken::Dropped);
        }
        assert_eq!(recorder.dropped(), 3);
        let stopped = CancellationToken::new();
        stopped.cancel();
        keeper.run(stopped).await;
        assert_eq!(totals(&store).await.unwrap().rows, QUEUE as u64);
        assert_eq!(recorder.try_record(decision(0, 3_000)), Taken::Dropped);
    }

    #[tokio::test]
    async fn a_batch_is_full_or_has_waited_long_enough() {
        let (queue, mut waiting) = mpsc::channel(QUEUE);
        for number in 0..=BATCH as u64 {
            queue.try_send(decision(number, 1_000)).unwrap();
        }
        for expected in [BATCH, 1] {
            let mut batch = Vec::new();
            assert!(gather(&mut waiting, &mut batch).await);
            assert_eq!(batch.len(), expected);
        }
        queue.try_send(decision(0, 2_000)).unwrap();
        drop(queue);
        let mut batch = Vec::new();
        assert!(!gather(&mut waiting, &mut batch).await);
        assert_eq!(batch, [decision(0, 2_000)]);
    }

    #[tokio::test]
    async fn what_is_queued_is_written_without_a_stop() {
        let store = memory().await;
        let (recorder, keeper) = recorder(store.clone(), Retention::default());
        let mut running = pin!(keeper.run(CancellationToken::new()));
        assert!(running.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        assert_eq!(recorder.try_record(decision(1, 1_000)), Taken::Queued);
        let written = async { while totals(&store).await.unwrap().rows == 0 {} };
        tokio::select! {
            () = running => panic!("nobody stopped it"),
            () = written => {}
        }
    }

    #[tokio::test]
    async fn a_store_that_is_gone_loses_decisions_with_a_count_and_stops_nobody() {
        let store = memory().await;
        store.close().await;
        let (recorder, keeper) = recorder(store, Retention::default());
        assert_eq!(recorder.try_record(decision(1, 1_000)), Taken::Queued);
        let stopped = CancellationToken::new();
        stopped.cancel();
        keeper.run(stopped).await;
        assert_eq!(recorder.dropped(), 1);
    }

    #[tokio::test]
    async fn what_callers_choose_is_shortened() {
        let store = memory().await;
        let long = DecisionRecord { tool: Some("x".repeat(4 << 20)), ..decision(1, 1_000) };
        keep(&store, Retention::default(), [long]).await;
        let kept = get(&store, &decision(1, 1_000).id).await.unwrap().unwrap();
        assert_eq!(kept.tool.unwrap().len(), MAX_TOOL_BYTES);
    }

    #[tokio::test]
    async fn what_is_too_old_is_pruned_in_steps() {
        let clock = StandingClock::at(1_000);
        let store = Store::open(Location::Memory, clock.env()).await.unwrap();
        let retention = Retention::default();
        keep(&store, retention, (0..1_200).map(|number| decision(number, 1_000))).await;
        clock.advance(retention.age);
        keep(&store, retention, [decision(1, 1_001)]).await;
        assert_eq!(totals(&store).await.unwrap().rows, 1_201);
        clock.advance(Duration::from_millis(1));
        assert_eq!(prune(&store, retention).await.unwrap(), 1_200);
        assert_eq!(listed(&store, &Filter::default(), 10).await, [decision(1, 1_001)]);
        assert_eq!(totals(&store).await.unwrap().rows, 1);
        clock.advance(Duration::from_millis(1));
        assert_eq!(prune(&store, retention).await.unwrap(), 1);
        assert_eq!(totals(&store).await.unwrap(), Totals::default());
    }

    #[tokio::test]
    async fn what_is_too_much_is_pruned_oldest_first() {
        let store = memory().await;
        let retention = Retention { bytes: 50_000, ..Retention::default() };
        keep(&store, retention, (0..2_000).map(|number| decision(number, 1_000 + number))).await;
        let totals = totals(&store).await.unwrap();
        assert!(totals.bytes <= retention.bytes && totals.rows > 10, "{totals:?}");
        let kept = listed(&store, &Filter::default(), 200).await;
        assert_eq!(kept.len() as u64, totals.rows);
        assert_eq!(kept.first(), Some(&decision(1_999, 2_999)));
    }
}
