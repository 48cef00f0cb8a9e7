//! What trails share: a bounded queue that nobody waits at, and one task that writes it down and prunes.
//!
//! [`Recorder::try_record`] drops, counting, what there is no room for. The [`Keeper`] writes batches and tries on while
//! the store fails; writing a batch twice is the same as writing it once. A [`Trail`] says what is written and how.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::{Store, StoreError, WriteTx};

/// How long an entry waits for others.
const BATCH_TIME: Duration = Duration::from_millis(100);
/// Before a batch that could not be written is tried again.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// Between two prunings by age; size is looked at after each batch.
const PRUNE_INTERVAL: Duration = Duration::from_secs(60);
/// How much of a trail is kept.
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

/// Size of a trail. An estimate: a batch that is written twice counts twice, until the trail is empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Totals {
    pub rows: u64,
    pub bytes: u64,
}

/// What was appended to a trail after some number, in the order of appending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appended<T> {
    /// Each with its number. What was forgotten meanwhile is missing.
    pub rows: Vec<(u64, T)>,
    /// The number up to which these are all. Less than what was asked about if the store is another one than it was.
    pub reached: u64,
}

/// What became of something that was to be recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Taken {
    /// It waits to be written.
    Queued,
    /// It was dropped and counted.
    Dropped,
}

/// What a trail is of, and how it is kept.
pub trait Trail: Send + Sync + 'static {
    /// What is recorded.
    type Entry: Send + 'static;
    /// The same, ready to be written.
    type Ready: Send + Sync + 'static;

    /// For the log.
    const NAME: &'static str;
    /// Entries that may wait to be written.
    const QUEUE: usize;
    /// Bytes of entries that may wait to be written.
    const QUEUE_BYTES: usize;
    /// Entries in one transaction.
    const BATCH: usize;
    /// Rows removed in one transaction.
    const PRUNE_STEP: usize;

    fn ready(&self, entry: Self::Entry) -> Self::Ready;

    /// Writes entries; tells how large the trail is then.
    fn append(tx: &mut WriteTx<'_>, entries: &[Self::Ready]) -> Result<Totals, StoreError>;

    /// Removes at most [`Self::PRUNE_STEP`] rows that are older or more than `retention` has it, and tells how many.
    fn prune_step(tx: &mut WriteTx<'_>, retention: Retention) -> Result<usize, StoreError>;
}

/// The way into a trail. Clones share one queue.
#[derive(Debug)]
pub struct Queue<E> {
    queue: mpsc::Sender<(E, usize)>,
    waiting_bytes: Arc<AtomicUsize>,
    max_bytes: usize,
    dropped: Arc<AtomicU64>,
}

impl<E> Clone for Queue<E> {
    fn clone(&self) -> Self {
        let Self { queue, waiting_bytes, max_bytes, dropped } = self;
        Self {
            queue: queue.clone(),
            waiting_bytes: waiting_bytes.clone(),
            max_bytes: *max_bytes,
            dropped: dropped.clone(),
        }
    }
}

impl<E> Queue<E> {
    /// Queues an entry of `bytes` if there is room. Never waits.
    pub(super) fn try_put(&self, entry: E, bytes: usize) -> Taken {
        let before = self.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) <= self.max_bytes && self.queue.try_send((entry, bytes)).is_ok() {
            return Taken::Queued;
        }
        self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.dropped.fetch_add(1, Ordering::Relaxed);
        Taken::Dropped
    }

    /// Entries that were dropped so far.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// A queue, and the keeper that somebody has to run.
pub(super) fn begin<T: Trail>(trail: T, store: Store, retention: Retention) -> (Queue<T::Entry>, Keeper<T>) {
    let (queue, waiting) = mpsc::channel(T::QUEUE);
    let (waiting_bytes, dropped) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicU64::new(0)));
    let keeper = Keeper {
        trail,
        store,
        retention,
        waiting,
        waiting_bytes: Arc::clone(&waiting_bytes),
        dropped: Arc::clone(&dropped),
        dropped_told: 0,
    };
    (Queue { queue, waiting_bytes, max_bytes: T::QUEUE_BYTES, dropped }, keeper)
}

/// Writes what the queue took, and prunes.
pub struct Keeper<T: Trail> {
    trail: T,
    store: Store,
    retention: Retention,
    waiting: mpsc::Receiver<(T::Entry, usize)>,
    waiting_bytes: Arc<AtomicUsize>,
    dropped: Arc<AtomicU64>,
    /// Drops that the log knows of.
    dropped_told: u64,
}

impl<T: Trail> Keeper<T> {
    /// Runs until `shutdown` is cancelled or the last recorder is gone, then writes what is queued and returns.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut prune = tokio::time::interval(PRUNE_INTERVAL);
        prune.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let mut batch = Vec::new();
            let has_more = tokio::select! {
                has_more = gather(&mut self.waiting, &mut batch, T::BATCH) => has_more,
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
            self.waiting.recv_many(&mut batch, T::BATCH).await;
            if batch.is_empty() {
                self.tell_drops();
                return;
            }
            self.keep(batch, shutdown).await;
        }
    }

    /// Writes a batch; while the store fails, tries on until `shutdown`, and meanwhile the queue may fill up.
    async fn keep(&mut self, batch: Vec<(T::Entry, usize)>, shutdown: &CancellationToken) {
        if batch.is_empty() {
            return;
        }
        let bytes: usize = batch.iter().map(|(_, bytes)| bytes).sum();
        let ready: Arc<[T::Ready]> = batch.into_iter().map(|(entry, _)| self.trail.ready(entry)).collect();
        self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
        let entries = ready.len();
        loop {
            let attempt = Arc::clone(&ready);
            let failure = match self.store.write(move |tx| T::append(tx, &attempt)).await {
                Ok(totals) if totals.bytes > self.retention.bytes => return self.prune_or_tell().await,
                Ok(_) => return,
                Err(failure) => failure,
            };
            let may_pass = matches!(failure, StoreError::Busy | StoreError::Unavailable { .. });
            let is_over = !may_pass || shutdown.is_cancelled();
            tell_failure(T::NAME, &failure, entries, is_over);
            if is_over {
                self.dropped.fetch_add(entries as u64, Ordering::Relaxed);
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(RETRY_INTERVAL) => {}
                () = shutdown.cancelled() => {}
            }
        }
    }

    async fn prune_or_tell(&self) {
        if let Err(failure) = prune::<T>(&self.store, self.retention).await {
            let error: &(dyn std::error::Error + 'static) = &failure;
            tracing::warn!(error, trail = T::NAME, "a trail could not be pruned");
        }
    }

    fn tell_drops(&mut self) {
        let dropped = self.dropped.load(Ordering::Relaxed);
        if dropped > self.dropped_told {
            let dropped_now = dropped - self.dropped_told;
            tracing::warn!(dropped = dropped_now, trail = T::NAME, "not recorded: too much at once");
            self.dropped_told = dropped;
        }
    }
}

fn tell_failure(trail: &str, failure: &StoreError, entries: usize, is_over: bool) {
    let error: &(dyn std::error::Error + 'static) = failure;
    if is_over {
        tracing::error!(error, entries, trail, "records are lost: the store failed");
    } else {
        tracing::warn!(error, entries, trail, "records could not be written yet");
    }
}

/// Adds to `batch` until it is full or its first entry has waited long enough. False once nothing more can come.
pub(super) async fn gather<E>(waiting: &mut mpsc::Receiver<E>, batch: &mut Vec<E>, full: usize) -> bool {
    if waiting.recv_many(batch, full).await == 0 {
        return false;
    }
    if batch.len() < full {
        // Nobody waits at the queue meanwhile, so that no entry wakes anybody: requests pay for none of this.
        tokio::time::sleep(BATCH_TIME).await;
        while batch.len() < full
            && let Ok(entry) = waiting.try_recv()
        {
            batch.push(entry);
        }
    }
    !(waiting.is_closed() && waiting.is_empty())
}

/// Removes what is older or more than `retention` has it, step by step, and tells how many rows.
pub(super) async fn prune<T: Trail>(store: &Store, retention: Retention) -> Result<usize, StoreError> {
    let mut removed = 0;
    loop {
        let step = store.write(move |tx| T::prune_step(tx, retention)).await?;
        removed += step;
        if step < T::PRUNE_STEP {
            return Ok(removed);
        }
    }
}
