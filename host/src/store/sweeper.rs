//! The sweeper: forgets what has expired, in small steps, on one gateway at a time.
//!
//! It goes along the expiry index, which every table of expiring records keeps, and prunes the audit trail. A step is
//! one transaction that removes a bounded number of records and renews the sweeper's lease first, so that a gateway that
//! was thought dead and wakes up removes nothing. Between two steps it rests in proportion to what the last one took:
//! it gets a share of the writer, whatever there is to do. Nothing depends on it but space: whoever reads a record
//! judges for itself whether that still counts.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::engine::{Bounds, Direction, Table, WriteTx};
use super::leases::{self, Lease, Standing, Taking};
use super::verify::read_expiry;
use super::{Store, StoreError, audit, kept::readable};

/// Records that one step removes at most.
const STEP: usize = 500;
/// Effects and reads of one step; a transaction may have more.
const STEP_EFFECTS: usize = 1_800;
const STEP_READS: usize = 900;
/// What one step costs besides what it is for: the lease, and reading the index.
const STEP_OVERHEAD: usize = 10;
/// How long the sweeper rests after a step, in lengths of that step, and at least and at most.
const REST: u32 = 3;
const SHORTEST_REST: Duration = Duration::from_millis(2);
const LONGEST_REST: Duration = Duration::from_secs(2);
/// Between two looks, once there is nothing left to do.
const IDLE: Duration = Duration::from_secs(10);

const LEASE: &str = "sweep";
/// How long another gateway waits for one that says nothing any more.
const LEASE_TIME: Duration = Duration::from_secs(30);

/// Forgets what has expired, as long as somebody runs it.
#[derive(Debug)]
pub struct Sweeper {
    store: Store,
    audit_retention: Duration,
    state: SweeperState,
    lease: Option<Lease>,
    /// Unreadable records that the log knows of.
    unreadable_told: usize,
}

/// What a sweeper is at, for who wants to know. Clones tell of the same.
#[derive(Clone, Debug, Default)]
pub struct SweeperState(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    /// Of the lease that is held; 0 without.
    fence: AtomicU64,
    removed: AtomicU64,
    /// When the lease came, or a pass came to its end since.
    ended: Mutex<Option<Instant>>,
}

impl SweeperState {
    /// The number of the lease that this gateway's sweeper holds, if it is the one that sweeps.
    pub fn fence(&self) -> Option<u64> {
        Some(self.0.fence.load(Ordering::Relaxed)).filter(|fence| *fence != 0)
    }

    /// How long it has not come to the end of a pass, if it is the one that sweeps.
    pub fn lag(&self) -> Option<Duration> {
        let ended = *self.0.ended.lock().unwrap_or_else(PoisonError::into_inner);
        ended.filter(|_| self.fence().is_some()).map(|ended| ended.elapsed())
    }

    fn has_ended(&self) {
        *self.0.ended.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Records that it has removed since the start.
    pub fn removed(&self) -> u64 {
        self.0.removed.load(Ordering::Relaxed)
    }
}

/// What one step did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Swept {
    removed: usize,
    /// Records that have expired and cannot be read: they stay.
    unreadable: usize,
    /// Where the next step of this pass begins; `None` if there is nothing left.
    next: Option<Vec<u8>>,
}

impl Sweeper {
    pub fn new(store: Store, audit_retention: Duration) -> Self {
        Self { store, audit_retention, state: SweeperState::default(), lease: None, unreadable_told: 0 }
    }

    pub fn state(&self) -> SweeperState {
        self.state.clone()
    }

    /// Runs until `stopping`: then finishes the step that it is at, gives the lease back and returns.
    pub async fn run(mut self, stopping: CancellationToken) {
        while !stopping.is_cancelled() {
            let wait = match self.pass(&stopping).await {
                Ok(wait) => wait,
                Err(failure) => {
                    let error: &(dyn std::error::Error + 'static) = &failure;
                    tracing::warn!(error, "what has expired could not be forgotten; trying again");
                    IDLE
                }
            };
            stopping.run_until_cancelled(tokio::time::sleep(wait)).await;
        }
        self.state.0.fence.store(0, Ordering::Relaxed);
        if let Some(lease) = self.lease.take()
            && let Err(failure) = leases::release(&self.store, lease).await
        {
            let error: &(dyn std::error::Error + 'static) = &failure;
            tracing::debug!(error, "the sweeper's lease was not given back, and will lapse");
        }
    }

    /// Removes what there is to remove now, if the lease is to be had. How long to wait for the next pass.
    async fn pass(&mut self, stopping: &CancellationToken) -> Result<Duration, StoreError> {
        let lease = match self.lease.clone() {
            Some(lease) => lease,
            None => match leases::take(&self.store, LEASE, LEASE_TIME).await? {
                Taking::Taken(lease) => lease,
                Taking::Held { left } => return Ok(left.min(IDLE)),
            },
        };
        if self.state.0.fence.swap(lease.fence(), Ordering::Relaxed) != lease.fence() {
            self.state.has_ended();
        }
        self.lease = Some(lease.clone());

        let retention = self.audit_retention;
        let mut at: Option<Vec<u8>> = None;
        let (mut is_pruned, mut unreadable) = (false, 0);
        // The expired first, then the trail; each to its end.
        while !stopping.is_cancelled() {
            let began = Instant::now();
            let (lease, here, prunes) = (lease.clone(), at.take(), is_pruned);
            let step = self.store.write(move |tx| {
                if leases::renew(tx, &lease, LEASE_TIME)? == Standing::Lost {
                    return Ok(None);
                }
                let swept = if prunes { prune(tx, retention) } else { forget(tx, here.as_deref()) };
                swept.map(Some)
            });
            let Some(Swept { removed, unreadable: more, next }) = step.await? else {
                tracing::warn!("another gateway sweeps now");
                self.lease = None;
                self.state.0.fence.store(0, Ordering::Relaxed);
                return Ok(IDLE);
            };
            self.state.0.removed.fetch_add(removed as u64, Ordering::Relaxed);
            unreadable += more;
            match next {
                Some(next) => at = Some(next),
                None if is_pruned => {
                    self.state.has_ended();
                    return Ok(IDLE);
                }
                None => {
                    is_pruned = true;
                    self.tell(unreadable);
                }
            }
            let rest = (began.elapsed() * REST).clamp(SHORTEST_REST, LONGEST_REST);
            stopping.run_until_cancelled(tokio::time::sleep(rest)).await;
        }
        Ok(Duration::ZERO)
    }

    fn tell(&mut self, unreadable: usize) {
        if unreadable > self.unreadable_told {
            tracing::error!(
                records = unreadable,
                "records that have expired cannot be read and stay: `portcullis store verify` tells which"
            );
        }
        self.unreadable_told = unreadable;
    }
}

/// One step along the expiry index, after `at`.
fn forget(tx: &mut WriteTx<'_>, at: Option<&[u8]>) -> Result<Swept, StoreError> {
    let now = tx.now();
    let over = Bounds::before((now.as_millis() + 1).to_be_bytes());
    let bounds = match at {
        Some(at) => Bounds { lower: Bounds::after(at).lower, ..over },
        None => over,
    };
    let rows = tx.range(Table::Expiry, &bounds, Direction::Forward, STEP)?;
    let (mut effects, mut reads) = (STEP_OVERHEAD, STEP_OVERHEAD);
    let mut swept = Swept::default();
    for (key, _) in &rows {
        let Some((_, Some(kept), primary)) = read_expiry(key) else {
            // Of a table that this version does not know: a newer one will see to it.
            swept.next = Some(key.clone());
            continue;
        };
        effects += kept.effects() + 1;
        reads += kept.reads();
        if effects > STEP_EFFECTS || reads > STEP_READS {
            break;
        }
        match readable(kept.forget(tx, primary, now))? {
            Some(forgotten) => {
                swept.removed += usize::from(forgotten);
                // Of a record that is gone already, or that expires at another time, and then has another row.
                tx.remove(Table::Expiry, key)?;
            }
            None => swept.unreadable += 1,
        }
        swept.next = Some(key.clone());
    }
    let is_last = rows.len() < STEP && swept.next.as_ref() == rows.last().map(|(key, _)| key);
    if is_last {
        swept.next = None;
    }
    Ok(swept)
}

/// One step along the audit trail.
fn prune(tx: &mut WriteTx<'_>, retention: Duration) -> Result<Swept, StoreError> {
    let removed = audit::prune_step(tx, retention, STEP)?;
    Ok(Swept { removed, unreadable: 0, next: (removed == STEP).then(Vec::new) })
}

/// Forgets all that has expired, at once. How many records that were.
#[cfg(test)]
pub(crate) async fn sweep(store: &Store) -> usize {
    let (mut removed, mut at) = (0, None);
    loop {
        let swept = store.write(move |tx| forget(tx, at.as_deref())).await.unwrap();
        removed += swept.removed;
        at = swept.next;
        if at.is_none() {
            return removed;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Location;
    use super::super::changes::{CHANGES, Change, KEPT, announce};
    use super::super::fixtures::rows;
    use super::super::tests::StandingClock;
    use super::*;
    use crate::audit::{Actor, AuditEvent};
    use crate::tasks::Tasks;

    const RETENTION: Duration = Duration::from_secs(400 * 24 * 60 * 60);

    /// A store with so many records that expire in an hour.
    async fn expiring(records: usize) -> (StandingClock, Store) {
        let clock = StandingClock::at(1_000_000);
        let store = Store::open(Location::Memory, clock.env()).await.unwrap();
        announce_many(&store, records).await;
        (clock, store)
    }

    async fn announce_many(store: &Store, records: usize) {
        for step in (0..records).step_by(200) {
            let many = 200.min(records - step);
            let announce_many = move |tx: &mut WriteTx<'_>| (0..many).try_for_each(|_| announce(tx, Change::Keys));
            store.write(announce_many).await.unwrap();
        }
    }

    async fn left(store: &Store) -> usize {
        rows(store, Table::Changes).await.len()
    }

    async fn until(mut holds: impl AsyncFnMut() -> bool) {
        let patience = async {
            while !holds().await {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), patience).await.expect("it comes to pass");
    }

    #[tokio::test]
    async fn what_has_expired_is_forgotten_and_nothing_else() {
        let (clock, store) = expiring(1_234).await;
        clock.advance(Duration::from_secs(1));
        announce_many(&store, 3).await;
        clock.advance(KEPT - Duration::from_millis(1_001));
        assert_eq!(sweep(&store).await, 0);
        clock.advance(Duration::from_millis(1));
        assert_eq!((sweep(&store).await, left(&store).await), (1_234, 3));
        assert!(store.examine().await.unwrap().is_sound());
    }

    #[tokio::test]
    async fn a_step_is_bounded() {
        let (clock, store) = expiring(1_600).await;
        clock.advance(KEPT);
        let mut at = None;
        let mut steps = Vec::new();
        loop {
            let swept = store.write(move |tx| forget(tx, at.as_deref())).await.unwrap();
            steps.push(swept.removed);
            at = swept.next;
            if at.is_none() {
                break;
            }
        }
        assert_eq!(steps.iter().sum::<usize>(), 1_600);
        assert!(steps.iter().all(|removed| *removed <= STEP), "{steps:?}");
    }

    #[tokio::test]
    async fn what_cannot_be_read_holds_nobody_up() {
        let (clock, store) = expiring(700).await;
        let damage = |tx: &mut WriteTx<'_>| {
            for revision in [1_u64, 2, 400] {
                tx.put(Table::Changes, &revision.to_be_bytes(), b"\x63{}")?;
            }
            // Of a table that only a newer version has, of none, and of records that are not there.
            let number = u16::MAX.to_be_bytes();
            tx.put(Table::Expiry, &[&1_u64.to_be_bytes()[..], &number, b"x"].concat(), b"")?;
            tx.put(Table::Expiry, b"\0", b"")?;
            for revision in 5_000..5_100_u64 {
                let key = super::super::table::expiry_key(tx.now(), Table::Changes, &revision.to_be_bytes());
                tx.put(Table::Expiry, &key, b"")?;
            }
            Ok::<_, StoreError>(())
        };
        store.write(damage).await.unwrap();
        clock.advance(KEPT);
        assert_eq!((sweep(&store).await, left(&store).await), (697, 3));
        assert_eq!(rows(&store, Table::Expiry).await.len(), 5);
        assert_eq!(sweep(&store).await, 0);
    }

    #[tokio::test]
    async fn a_record_that_expires_later_now_stays() {
        let (clock, store) = expiring(1).await;
        let row = store.read(|tx| tx.get(Table::Changes, &1_u64.to_be_bytes())).await.unwrap().unwrap();
        clock.advance(KEPT);
        // Written anew: a row of its expiry that was left behind leads the sweeper to it too early.
        store
            .write(move |tx| {
                let stale = tx.range(Table::Expiry, &Bounds::all(), Direction::Forward, 1)?.remove(0);
                let later = String::from_utf8(row[1..].to_vec()).unwrap().replace("1000000", "2000000");
                CHANGES.put(tx, &serde_json::from_str(&later).unwrap())?;
                tx.put(Table::Expiry, &stale.0, b"")
            })
            .await
            .unwrap();
        assert_eq!((sweep(&store).await, left(&store).await), (0, 1));
        assert!(store.examine().await.unwrap().is_sound());
    }

    #[tokio::test]
    async fn one_gateway_sweeps_and_another_takes_over() {
        let (clock, store) = expiring(5_000).await;
        clock.advance(KEPT);
        let (first, second) = (Tasks::new(), Tasks::new());
        let a = Sweeper::new(store.as_replica(1), RETENTION);
        let (of_a, in_a) = (a.state(), first.stopping().clone());
        first.spawn(a.run(in_a));
        until(async || of_a.removed() > 0).await;
        let b = Sweeper::new(store.as_replica(2), RETENTION);
        let (of_b, in_b) = (b.state(), second.stopping().clone());
        second.spawn(b.run(in_b));
        until(async || of_a.removed() == 5_000).await;
        assert_eq!((of_a.fence(), of_b.fence(), of_b.removed()), (Some(1), None, 0));
        assert_eq!(left(&store).await, 0);

        // The first one gives its lease back; the second one need not wait for the end of it.
        assert!(second.stop(Duration::from_secs(10)).await);
        assert!(first.stop(Duration::from_secs(10)).await);
        assert_eq!(of_a.fence(), None);
        let mut b = Sweeper::new(store.as_replica(2), RETENTION);
        b.pass(&CancellationToken::new()).await.unwrap();
        assert_eq!(b.state().fence(), Some(2));
    }

    #[tokio::test]
    async fn who_was_thought_dead_removes_nothing_any_more() {
        let (clock, store) = expiring(10).await;
        let mut a = Sweeper::new(store.as_replica(1), RETENTION);
        let mut b = Sweeper::new(store.as_replica(2), RETENTION);
        let going_on = CancellationToken::new();
        a.pass(&going_on).await.unwrap();
        clock.advance(LEASE_TIME);
        b.pass(&going_on).await.unwrap();
        clock.advance(KEPT);
        assert_eq!(a.pass(&going_on).await.unwrap(), IDLE);
        assert_eq!((a.state().fence(), left(&store).await), (None, 10));
        b.pass(&going_on).await.unwrap();
        assert_eq!((b.state().fence(), left(&store).await), (Some(2), 0));
    }

    #[tokio::test]
    async fn it_stops_at_once_and_leaves_nothing_in_flight() {
        let (clock, store) = expiring(40_000).await;
        clock.advance(KEPT);
        let tasks = Tasks::new();
        let sweeper = Sweeper::new(store.clone(), RETENTION);
        let state = sweeper.state();
        tasks.spawn(sweeper.run(tasks.stopping().clone()));
        until(async || state.removed() > 0).await;
        let began = Instant::now();
        assert!(tasks.stop(Duration::from_secs(10)).await);
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        let rest = left(&store).await;
        assert!(rest > 0, "it was in the middle");
        assert_eq!(state.removed() as usize, 40_000 - rest, "what it did is told");
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(left(&store).await, rest);
        assert!(store.examine().await.unwrap().is_sound());
    }

    #[tokio::test]
    async fn the_audit_trail_is_pruned_by_the_same_sweeper() {
        let clock = StandingClock::at(1_000_000);
        let store = Store::open(Location::Memory, clock.env()).await.unwrap();
        for _ in 0..3 {
            let many = |tx: &mut WriteTx<'_>| {
                (0..400).try_for_each(|_| audit::append(tx, Actor::System, &AuditEvent::GatewayStopped))
            };
            store.write(many).await.unwrap();
        }
        clock.advance(RETENTION);
        audit::record(&store, Actor::System, AuditEvent::GatewayStopped).await.unwrap();
        let mut sweeper = Sweeper::new(store.clone(), RETENTION);
        let going_on = CancellationToken::new();
        sweeper.pass(&going_on).await.unwrap();
        assert_eq!(sweeper.state().removed(), 0);
        clock.advance(Duration::from_millis(1));
        sweeper.pass(&going_on).await.unwrap();
        assert_eq!(sweeper.state().removed(), 1_200);
        let left = audit::list(&store, None, 10).await.unwrap();
        assert_eq!(left.items.iter().map(|row| row.sequence).collect::<Vec<_>>(), [1_201]);
    }
}
