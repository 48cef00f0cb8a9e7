//! Reconciling: what has come of access is written down in the store, and what is left over is ended.
//!
//! Access is derived from the snapshot whenever it is asked for ([`access::may_use`]), so nobody waits for this. A sweep goes
//! through all connections and all flows in small steps, each of which is told by the store if it goes by old news
//! ([`connections::sweep`]); then the step is done anew by what is known by then. There is one whenever who may use what has
//! been published anew, and one every few minutes, since keys expire and orphans grow old. One gateway sweeps: the one
//! whose sweeper holds the lease. That two do for a moment harms nothing but that both look.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Control;
use crate::connection::{Access, Place};
use crate::pipeline::{Snapshot, access};
use crate::store::sweeper::SweeperState;
use crate::store::{Cursor, StoreError, connections, flows};

/// Between two sweeps where nothing has changed.
const INTERVAL: Duration = Duration::from_secs(10 * 60);
/// Shortest time from the end of a sweep to the next: changes that come together are swept together.
const PAUSE: Duration = Duration::from_secs(1);
/// Until it is looked again whether this is the gateway that sweeps.
const LEASE_POLL: Duration = Duration::from_secs(5);
/// How long a step waits that went by old news, or failed: doubled with each attempt.
const FIRST_BACKOFF: Duration = Duration::from_millis(20);
const LAST_BACKOFF: Duration = Duration::from_secs(10);
/// How long it rests after a step, in lengths of that step.
const REST: u32 = 3;
const LONGEST_REST: Duration = Duration::from_secs(2);

/// What one sweep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub orphaned: usize,
    pub reactivated: usize,
    pub ended: usize,
    /// Flows that nothing will come of.
    pub dropped: usize,
    /// Records that cannot be read, and stay.
    pub unreadable: usize,
    /// Steps that were done anew, since something had changed.
    pub outdated: usize,
}

/// What is swept.
#[derive(Clone, Copy, Debug)]
enum Of {
    Connections,
    Flows,
}

/// What of a snapshot says who may use what. Two of them say the same if they are the same.
struct Basis(Snapshot);

impl Basis {
    fn is_that_of(&self, other: &Snapshot) -> bool {
        let own = &self.0;
        Arc::ptr_eq(&own.auth, &other.auth)
            && Arc::ptr_eq(&own.keys, &other.keys)
            && Arc::ptr_eq(&own.upstreams, &other.upstreams)
            && own.people.is(&other.people)
    }
}

impl Control {
    /// Sweeps whenever it is time, until the gateway stops.
    pub async fn reconcile(self: Arc<Self>, sweeper: SweeperState) {
        let stopping = self.tasks.stopping().clone();
        stopping.run_until_cancelled(self.keep_reconciled(sweeper)).await;
    }

    async fn keep_reconciled(&self, sweeper: SweeperState) {
        let mut published = self.published.subscribe();
        let mut swept: Option<(Basis, Instant)> = None;
        // Unreadable records that the log knows of.
        let mut told = 0;
        loop {
            published.mark_unchanged();
            let snapshot = self.snapshot.load_full();
            let due = swept.as_ref().filter(|(basis, _)| basis.is_that_of(&snapshot)).map(|(_, at)| *at + INTERVAL);
            let wait = match due.map(|due| due.saturating_duration_since(Instant::now())) {
                Some(left) if !left.is_zero() => left,
                _ if sweeper.fence().is_none() => LEASE_POLL,
                _ => {
                    self.tidy_keys().await;
                    told = self.sweep_and_tell(told).await;
                    // By what was published before it began: whatever came later is swept once more.
                    swept = Some((Basis(snapshot.as_ref().clone()), Instant::now()));
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            tokio::select! {
                // The sender lives as long as this.
                _ = published.changed() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn tidy_keys(&self) {
        if let Err(error) = self.forget_earlier_secrets().await {
            let error: &(dyn std::error::Error + 'static) = &error;
            tracing::warn!(error, "earlier secrets of keys, which open nothing any more, are not forgotten yet");
        }
    }

    /// Sweeps, and tells what came of it. How many records cannot be read: those `told` of are not told of again.
    async fn sweep_and_tell(&self, told: usize) -> usize {
        let began = Instant::now();
        let Tally { orphaned, reactivated, ended, dropped, unreadable, outdated } = self.sweep_access().await;
        let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        if orphaned + reactivated + ended + dropped > 0 {
            tracing::info!(orphaned, reactivated, ended, dropped, outdated, took_ms, "connections reconciled");
        } else {
            tracing::debug!(outdated, took_ms, "connections are as access is");
        }
        if unreadable > told {
            tracing::error!(
                records = unreadable,
                "connections that cannot be read are left as they are: `portcullis store verify` tells which"
            );
        }
        unreadable
    }

    /// One sweep, to its end.
    pub(super) async fn sweep_access(&self) -> Tally {
        let mut tally = Tally::default();
        for of in [Of::Connections, Of::Flows] {
            let mut after = None;
            loop {
                after = self.step(of, after, &mut tally).await;
                if after.is_none() {
                    break;
                }
            }
        }
        tally
    }

    /// One step, again and again by what is published by then, until it is done: where the next one begins.
    async fn step(&self, of: Of, after: Option<Cursor>, tally: &mut Tally) -> Option<Cursor> {
        let mut backoff = FIRST_BACKOFF;
        let mut has_failed = false;
        loop {
            let began = Instant::now();
            match self.try_step(of, after.clone()).await {
                Ok(Some((done, next))) => {
                    tally.add(done);
                    if next.is_some() {
                        tokio::time::sleep((began.elapsed() * REST).min(LONGEST_REST)).await;
                    }
                    return next;
                }
                Ok(None) => tally.outdated += 1,
                Err(error) => {
                    // Told once: it goes on for as long as the store is away.
                    if !has_failed {
                        let error: &(dyn std::error::Error + 'static) = &error;
                        tracing::warn!(error, "connections could not be reconciled; trying again");
                    }
                    has_failed = true;
                }
            }
            tokio::time::sleep(backoff).await;
            backoff = (backoff * 2).min(LAST_BACKOFF);
        }
    }

    /// What a step did and where the next one begins, or `None` if it went by old news.
    async fn try_step(&self, of: Of, after: Option<Cursor>) -> Result<Option<(Tally, Option<Cursor>)>, StoreError> {
        let snapshot = self.snapshot.load_full();
        let (may_use, revision) = (self.may_use(&snapshot), snapshot.revision);
        Ok(match of {
            Of::Connections => {
                let kept = self.begun_with.upkeep.orphan_retention;
                match connections::sweep(&self.store, revision, after, kept, may_use).await? {
                    connections::Swept::Step { orphaned, reactivated, ended, unreadable, next } => {
                        Some((Tally { orphaned, reactivated, ended, unreadable, ..Tally::default() }, next))
                    }
                    connections::Swept::Outdated => None,
                }
            }
            Of::Flows => match flows::sweep(&self.store, revision, after, may_use).await? {
                flows::Swept::Step { dropped, unreadable, next } => {
                    Some((Tally { dropped, unreadable, ..Tally::default() }, next))
                }
                flows::Swept::Outdated => None,
            },
        })
    }

    fn may_use(&self, snapshot: &Snapshot) -> impl Fn(&Place) -> Access + Send + use<> {
        let (snapshot, now) = (snapshot.clone(), self.env.now());
        move |place| access::may_use(&snapshot, place, now)
    }
}

impl Tally {
    fn add(&mut self, other: Self) {
        let Self { orphaned, reactivated, ended, dropped, unreadable, outdated } = other;
        self.orphaned += orphaned;
        self.reactivated += reactivated;
        self.ended += ended;
        self.dropped += dropped;
        self.unreadable += unreadable;
        self.outdated += outdated;
    }
}

#[cfg(test)]
mod tests;
