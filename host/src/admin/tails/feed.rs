//! One trail, read on for all who follow it.
//!
//! Every gateway of a deployment appends to a trail, so that the store is what is followed: by the numbers that each row
//! gets in the transaction that appends it, a look every half second, and none while nobody follows. What was read lately is
//! kept, and whoever follows takes it from there at their own pace; who is behind what is kept reads from the store, and who
//! is too far behind is told how many rows they have missed. Nobody holds up anybody.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::audit::DecisionRecord;
use crate::env::Timestamp;
use crate::store::audit::Found;
use crate::store::trail::Appended;
use crate::store::{Store, StoreError, audit, audit_feed, decisions};
use crate::tasks::Tasks;

/// Between two looks at the store.
const POLL: Duration = Duration::from_millis(500);
/// The same after one that failed.
const RETRY: Duration = Duration::from_secs(2);
/// Rows that one look reads.
const STEP: usize = 500;
/// Rows that are kept for those who follow.
const KEPT: usize = 2_000;
/// Rows that whoever follows is given at once.
const PORTION: usize = 100;
/// Who is further behind than this skips what is no longer kept.
const MAX_BEHIND: u64 = 10_000;

/// A row of a trail that can be followed.
pub trait Followed: Send + Sync + Sized + 'static {
    /// For the log.
    const NAME: &'static str;

    /// The number of the row that was appended last.
    fn last(store: &Store) -> impl Future<Output = Result<u64, StoreError>> + Send;

    /// What was appended after a number. `near` is when that one was recorded, if it is known.
    fn appended(
        store: &Store,
        after: u64,
        near: Option<Timestamp>,
        limit: usize,
    ) -> impl Future<Output = Result<Appended<Self>, StoreError>> + Send;

    /// When it was recorded.
    fn at(&self) -> Timestamp;
}

impl Followed for DecisionRecord {
    const NAME: &'static str = "decisions";

    async fn last(store: &Store) -> Result<u64, StoreError> {
        decisions::last_number(store).await
    }

    async fn appended(
        store: &Store,
        after: u64,
        _: Option<Timestamp>,
        limit: usize,
    ) -> Result<Appended<Self>, StoreError> {
        decisions::appended(store, after, limit).await
    }

    fn at(&self) -> Timestamp {
        self.at
    }
}

impl Followed for Found {
    const NAME: &'static str = "audit";

    async fn last(store: &Store) -> Result<u64, StoreError> {
        audit::last_sequence(store).await
    }

    async fn appended(
        store: &Store,
        after: u64,
        near: Option<Timestamp>,
        limit: usize,
    ) -> Result<Appended<Self>, StoreError> {
        audit_feed::appended(store, after, near, limit).await
    }

    fn at(&self) -> Timestamp {
        Self::at(self)
    }
}

/// A trail, followed as long as somebody has a [`Tail`] of it.
pub struct Feed<T> {
    store: Store,
    tasks: Tasks,
    recent: Mutex<Recent<T>>,
    reached: watch::Sender<Reached>,
}

/// How far a trail was read.
#[derive(Clone, Copy, Default)]
struct Reached {
    /// Counts the stores that this was of: one that was put back has rows of its own under the numbers of the one before.
    life: u64,
    /// All up to this one.
    number: u64,
}

/// What was read lately.
struct Recent<T> {
    /// By number: all that there are after `from` and up to `reached`.
    rows: VecDeque<(u64, Arc<T>)>,
    from: u64,
    reached: u64,
    /// How many follow.
    tails: usize,
    /// Whether somebody reads for them.
    is_read: bool,
}

impl<T: Followed> Feed<T> {
    pub(super) fn new(store: Store, tasks: Tasks) -> Arc<Self> {
        let recent = Recent { rows: VecDeque::new(), from: 0, reached: 0, tails: 0, is_read: false };
        Arc::new(Self { store, tasks, recent: Mutex::new(recent), reached: watch::Sender::new(Reached::default()) })
    }

    /// The number of the row that was appended last.
    ///
    /// # Errors
    /// The store's.
    pub async fn last(&self) -> Result<u64, StoreError> {
        T::last(&self.store).await
    }

    /// A tail of what is appended after this number, or from now on. A number that the trail does not have yet is of another
    /// life of the store, and means nothing.
    ///
    /// # Errors
    /// The store's.
    pub async fn follow(self: &Arc<Self>, after: Option<u64>) -> Result<Tail<T>, StoreError> {
        let last = self.last().await?;
        self.join(last);
        let seen = after.filter(|after| *after <= last).unwrap_or(last);
        let reached = self.reached.subscribe();
        let life = reached.borrow().life;
        Ok(Tail { reached, feed: self.clone(), life, seen, near: None })
    }

    /// One more follows. Where nobody reads yet, reading begins behind `last`.
    fn join(self: &Arc<Self>, last: u64) {
        let mut recent = self.recent();
        recent.tails += 1;
        if !recent.is_read {
            recent.begin(last);
            recent.is_read = true;
            self.reached.send_modify(|reached| reached.number = last);
            self.tasks.spawn(self.clone().read());
        }
    }

    /// Whether somebody reads for those who follow.
    #[cfg(test)]
    pub(super) fn is_read(&self) -> bool {
        self.recent().is_read
    }

    fn recent(&self) -> MutexGuard<'_, Recent<T>> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads on until nobody follows any more, or the gateway stops.
    async fn read(self: Arc<Self>) {
        let stopping = self.tasks.stopping().clone();
        let (mut near, mut has_failed) = (None, false);
        loop {
            let wait = match self.step(&mut near).await {
                Ok(true) => {
                    has_failed = false;
                    Duration::ZERO
                }
                Ok(false) => {
                    has_failed = false;
                    POLL
                }
                Err(failure) => {
                    if !std::mem::replace(&mut has_failed, true) {
                        let error: &(dyn std::error::Error + 'static) = &failure;
                        tracing::warn!(error, trail = T::NAME, "a trail cannot be followed; trying on");
                    }
                    RETRY
                }
            };
            let goes_on = stopping.run_until_cancelled(tokio::time::sleep(wait)).await.is_some();
            if self.recent().is_over(!goes_on) {
                return;
            }
        }
    }

    /// Reads on once. Whether there was something.
    async fn step(&self, near: &mut Option<Timestamp>) -> Result<bool, StoreError> {
        let Reached { life, number: after } = *self.reached.borrow();
        let Appended { rows, reached } = T::appended(&self.store, after, *near, STEP).await?;
        if reached == after {
            return Ok(false);
        }
        *near = rows.last().map(|(_, row)| row.at()).or(*near);
        self.recent().take(rows, reached);
        let life = life + u64::from(reached < after);
        self.reached.send_replace(Reached { life, number: reached });
        Ok(true)
    }
}

/// Rows with their numbers, and the number up to where that is all.
type Portion<T> = (Vec<(u64, Arc<T>)>, u64);

impl<T> Recent<T> {
    /// Nothing is kept, and what follows comes after this number.
    fn begin(&mut self, from: u64) {
        self.rows.clear();
        (self.from, self.reached) = (from, from);
    }

    fn take(&mut self, rows: Vec<(u64, T)>, reached: u64) {
        if reached < self.reached {
            return self.begin(reached);
        }
        self.rows.extend(rows.into_iter().map(|(number, row)| (number, Arc::new(row))));
        while self.rows.len() > KEPT
            && let Some((number, _)) = self.rows.pop_front()
        {
            self.from = number;
        }
        self.reached = reached;
    }

    /// Whether reading ends, which it does if it has to, and if nobody follows.
    fn is_over(&mut self, has_to: bool) -> bool {
        if self.tails == 0 || has_to {
            self.rows.clear();
            self.is_read = false;
        }
        !self.is_read
    }

    /// A portion of what comes after this number, and up to where that is all; nothing where that is not kept.
    fn after(&self, seen: u64) -> Option<Portion<T>> {
        if seen < self.from || !self.is_read {
            return None;
        }
        let begin = self.rows.partition_point(|(number, _)| *number <= seen);
        let rows: Vec<_> = self.rows.iter().skip(begin).take(PORTION).cloned().collect();
        let end = rows.last().filter(|_| rows.len() == PORTION).map_or(self.reached, |(number, _)| *number);
        Some((rows, end))
    }
}

/// Somebody who follows a trail.
pub struct Tail<T: Followed> {
    feed: Arc<Feed<T>>,
    reached: watch::Receiver<Reached>,
    /// The one that `seen` is of.
    life: u64,
    seen: u64,
    /// When the last row was recorded that was taken.
    near: Option<Timestamp>,
}

/// What a tail tells.
#[derive(Debug)]
pub struct News<T> {
    /// In the order in which they were appended, each with its number.
    pub rows: Vec<(u64, Arc<T>)>,
    /// Rows before them that were left out: there were too many, or they are forgotten already.
    pub missed: u64,
}

impl<T: Followed> Tail<T> {
    /// The number up to which everything was told.
    pub const fn seen(&self) -> u64 {
        self.seen
    }

    /// What was appended since; waits until something was. May be given up, and misses nothing by that.
    ///
    /// # Errors
    /// The store's. It may be asked again.
    pub async fn next(&mut self) -> Result<News<T>, StoreError> {
        loop {
            let Reached { life, number } = *self.reached.borrow_and_update();
            if life != self.life {
                (self.life, self.seen, self.near) = (life, number, None);
            }
            // Who read from the store itself may be ahead of whoever reads for all.
            if number > self.seen {
                return self.advance(number).await;
            }
            if self.reached.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    async fn advance(&mut self, reached: u64) -> Result<News<T>, StoreError> {
        let kept = self.feed.recent().after(self.seen);
        let (rows, end) = match kept {
            Some(kept) => kept,
            None if reached - self.seen > MAX_BEHIND => {
                let from = self.feed.recent().from.clamp(self.seen, reached);
                (Vec::new(), if from > self.seen { from } else { reached })
            }
            None => {
                let Appended { rows, reached: end } =
                    T::appended(&self.feed.store, self.seen, self.near, PORTION).await?;
                (rows.into_iter().map(|(number, row)| (number, Arc::new(row))).collect(), end.max(self.seen))
            }
        };
        let missed = end.saturating_sub(self.seen).saturating_sub(rows.len() as u64);
        self.near = rows.last().map(|(_, row)| row.at()).or(self.near);
        self.seen = end;
        Ok(News { rows, missed })
    }
}

impl<T: Followed> Drop for Tail<T> {
    fn drop(&mut self) {
        let mut recent = self.feed.recent();
        recent.tails = recent.tails.saturating_sub(1);
    }
}
