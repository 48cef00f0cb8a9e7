//! The follower: sees to it that copies of what is in the store become right soon after it has changed.
//!
//! One task reads on in [`super::changes`], on a shared store twice a second, and in any case at once after this process
//! has announced something; a store that is not shared is not polled. What it learns it hands to its [`Subscriber`]s,
//! one after the other and in the order of commits, and goes on only when each has taken it in: what one of them
//! could not take in comes again. A poll is good when it was taken in; on a shared store, copies that had no good poll for
//! too long are [`Freshness::is_stale`], and whoever answers from them refuses.
//!
//! Each poll also tells the time by the store's clock, which sets this gateway's right ([`ClockOffset`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::changes::{self, News, Revision};
use super::{Store, StoreError};
use crate::env::{ClockOffset, Timestamp};

/// Between two polls of a shared store.
const POLL: Duration = Duration::from_millis(500);
/// Before a poll that failed is made again.
const RETRY: Duration = Duration::from_millis(500);
/// How long a poll may take, subscribers included.
const PATIENCE: Duration = Duration::from_secs(5);

/// Keeps copies of what is in the store.
pub trait Subscriber: Send + Sync {
    /// Takes in what has changed. May be told the same again, and is told nothing new before it has.
    fn take<'a>(&'a self, news: &'a News) -> BoxFuture<'a, Result<(), StoreError>>;
}

/// Follows the changes of a store, as long as somebody runs it.
pub struct Follower {
    store: Store,
    clock: ClockOffset,
    seen: Revision,
    freshness: Freshness,
}

/// How long ago it was certain that nothing was missed. Clones tell of the same.
#[derive(Clone, Debug)]
pub struct Freshness(Arc<Known>);

#[derive(Debug)]
struct Known {
    /// How old copies may be; `None` where nobody else can change the store.
    max_staleness: Option<Duration>,
    began: Instant,
    /// Of the last good poll, in milliseconds since the beginning.
    good_ms: AtomicU64,
    /// The machine's time of day, which goes on while the machine is suspended, as the other does not.
    clock: ClockOffset,
    /// Of the last good poll, in milliseconds since the epoch by that clock.
    good_at_ms: AtomicU64,
}

impl Freshness {
    /// Of copies that are as good as new now.
    pub(crate) fn new(max_staleness: Option<Duration>, clock: ClockOffset) -> Self {
        let good_at_ms = AtomicU64::new(clock.local().as_millis());
        Self(Arc::new(Known { max_staleness, began: Instant::now(), good_ms: AtomicU64::new(0), clock, good_at_ms }))
    }

    /// How long copies of what is in the store may have been wrong, by whichever clock says that it was longer. If the time of
    /// day is set forward, they count as old until the next good poll.
    pub fn age(&self) -> Duration {
        let known = &*self.0;
        let ran = known.began.elapsed().saturating_sub(Duration::from_millis(known.good_ms.load(Ordering::Relaxed)));
        let passed = known.clock.local().as_millis().saturating_sub(known.good_at_ms.load(Ordering::Relaxed));
        ran.max(Duration::from_millis(passed))
    }

    /// Whether that is longer than it may be.
    pub fn is_stale(&self) -> bool {
        self.0.max_staleness.is_some_and(|max| self.age() > max)
    }

    /// A poll that began at this moment, which was `asked` by the time of day, was good.
    fn was_good(&self, began: Instant, asked: Timestamp) {
        let millis = began.saturating_duration_since(self.0.began).as_millis();
        self.0.good_ms.fetch_max(u64::try_from(millis).unwrap_or(u64::MAX), Ordering::Relaxed);
        // It may have been set back.
        self.0.good_at_ms.store(asked.as_millis(), Ordering::Relaxed);
    }
}

impl Follower {
    /// Begins to follow before any copy is made, so that no change falls in between. Copies of a shared store may be as
    /// old as `max_staleness`; the clock is set right by its clock already.
    pub async fn begin(store: Store, clock: ClockOffset, max_staleness: Duration) -> Result<Self, StoreError> {
        let freshness = Freshness::new(store.is_shared().then_some(max_staleness), clock.clone());
        let mut follower = Self { store, clock, seen: Revision::default(), freshness };
        let announced = *follower.store.announced().borrow();
        let asked = follower.clock.local();
        let (now, seen) = follower.store.read(|tx| Ok::<_, StoreError>((tx.now(), changes::revision(tx)?))).await?;
        if follower.store.is_shared() {
            follower.clock.measured(now, asked, follower.clock.local());
        }
        follower.seen = seen;
        follower.store.followed_to(announced);
        Ok(follower)
    }

    pub fn freshness(&self) -> Freshness {
        self.freshness.clone()
    }

    /// Runs until `stopping`; a read that is under way then is given up.
    pub async fn run(mut self, subscribers: Vec<Arc<dyn Subscriber>>, stopping: CancellationToken) {
        stopping.run_until_cancelled(self.follow(&subscribers)).await;
    }

    async fn follow(&mut self, subscribers: &[Arc<dyn Subscriber>]) {
        let mut announced = self.store.announced();
        let mut has_failed = false;
        loop {
            // Seen before it is read: what is announced meanwhile is read again.
            let told = *announced.borrow_and_update();
            let failure = match tokio::time::timeout(PATIENCE, self.poll(subscribers)).await {
                Ok(Ok(has_more)) => {
                    if has_failed {
                        tracing::info!("changes in the store are followed again");
                    }
                    has_failed = false;
                    self.store.follows_in_vain(false);
                    if has_more {
                        continue;
                    }
                    self.store.followed_to(told);
                    None
                }
                Ok(Err(failure)) => Some(failure.to_string()),
                Err(_) => Some(format!("it did not answer within {} s", PATIENCE.as_secs())),
            };
            if let Some(failure) = &failure {
                // Once may be a hiccup, which is worth waiting for.
                self.store.follows_in_vain(has_failed);
                if !has_failed {
                    tracing::warn!(failure, "changes in the store cannot be followed; trying on");
                }
                has_failed = true;
            }
            let wait = match failure {
                Some(_) => Some(RETRY),
                None => self.store.is_shared().then_some(POLL),
            };
            let pause = async {
                match wait {
                    Some(wait) => tokio::time::sleep(wait).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // The sender lives as long as the store that we hold.
                _ = announced.changed() => {}
                () = pause => {}
            }
        }
    }

    /// Reads on once. Whether there may be more.
    async fn poll(&mut self, subscribers: &[Arc<dyn Subscriber>]) -> Result<bool, StoreError> {
        let (seen, began, asked) = (self.seen, Instant::now(), self.clock.local());
        let (now, news) = self.store.read(move |tx| Ok::<_, StoreError>((tx.now(), changes::since(tx, seen)?))).await?;
        if self.store.is_shared() {
            self.clock.measured(now, asked, self.clock.local());
        }
        let (revision, is_new, has_more) = match &news {
            News::Changes { changes, revision } => (*revision, !changes.is_empty(), changes.len() >= changes::STEP),
            News::Everything { revision } => (*revision, true, true),
        };
        if is_new {
            for subscriber in subscribers {
                subscriber.take(&news).await?;
            }
        }
        self.seen = revision;
        if !has_more {
            self.freshness.was_good(began, asked);
        }
        Ok(has_more)
    }
}

impl std::fmt::Debug for Follower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Follower at {:?}", self.seen)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::AtomicBool;

    use super::super::Location;
    use super::super::changes::{Change, announce};
    use super::super::tests::StandingClock;
    use super::*;
    use crate::env::Env;
    use crate::tasks::Tasks;

    /// Writes down what it is told, unless it is out of order.
    #[derive(Default)]
    struct Listener {
        heard: Mutex<Vec<News>>,
        is_broken: AtomicBool,
    }

    impl Subscriber for Listener {
        fn take<'a>(&'a self, news: &'a News) -> BoxFuture<'a, Result<(), StoreError>> {
            Box::pin(async {
                if self.is_broken.load(Ordering::Relaxed) {
                    return Err(StoreError::Busy);
                }
                self.heard.lock().unwrap().push(news.clone());
                Ok(())
            })
        }
    }

    impl Listener {
        fn changes(&self) -> Vec<Change> {
            let heard = self.heard.lock().unwrap();
            let changes = heard.iter().map(|news| match news {
                News::Changes { changes, .. } => changes.clone(),
                News::Everything { .. } => panic!("nothing was missed"),
            });
            changes.collect::<Vec<_>>().concat()
        }
    }

    fn grants(count: usize) -> Vec<Change> {
        (0..count).map(|number| Change::Grant { id: number.to_string() }).collect()
    }

    async fn announce_one(store: &Store, change: Change) {
        store.write(move |tx| announce(tx, change.clone())).await.unwrap();
    }

    async fn follow(store: &Store, env: &Env, listener: &Arc<Listener>, tasks: &Tasks) -> (Env, Freshness) {
        let (env, clock) = env.adjustable();
        let follower = Follower::begin(store.clone(), clock, Duration::from_secs(10)).await.unwrap();
        let freshness = follower.freshness();
        tasks.spawn(follower.run(vec![listener.clone()], tasks.stopping().clone()));
        (env, freshness)
    }

    async fn until(what: &str, holds: impl Fn() -> bool) {
        let patience = async {
            while !holds() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(60), patience).await;
        waited.unwrap_or_else(|_| panic!("it does not come to pass that {what}"));
    }

    async fn memory() -> (StandingClock, Store) {
        let clock = StandingClock::at(10_000_000);
        let store = Store::open(Location::Memory, clock.env()).await.unwrap();
        (clock, store)
    }

    #[tokio::test]
    async fn whoever_waits_for_what_was_announced_here_finds_it_taken_in() {
        let (clock, store) = memory().await;
        let patience = Duration::from_millis(20);
        announce_one(&store, Change::Keys).await;
        store.caught_up(patience).await.unwrap();
        let (listener, tasks) = (Arc::new(Listener::default()), Tasks::new());
        follow(&store, &clock.env(), &listener, &tasks).await;
        for number in 0..20 {
            announce_one(&store, Change::Grant { id: number.to_string() }).await;
            store.caught_up(Duration::from_secs(60)).await.unwrap();
            assert_eq!(listener.changes().len(), number + 1, "no request comes in between");
        }
        listener.is_broken.store(true, Ordering::Relaxed);
        announce_one(&store, Change::Keys).await;
        assert!(matches!(store.caught_up(patience).await, Err(StoreError::Busy)), "nobody is let in on a guess");
        // Whoever comes once that has lasted for a while does not even wait.
        until("it is known", || store.about.is_failing.load(Ordering::Relaxed)).await;
        let began = Instant::now();
        assert!(matches!(store.caught_up(Duration::from_secs(60)).await, Err(StoreError::Busy)));
        assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
        listener.is_broken.store(false, Ordering::Relaxed);
        until("it is over", || !store.about.is_failing.load(Ordering::Relaxed)).await;
        store.caught_up(Duration::from_secs(60)).await.unwrap();
        assert!(tasks.stop(Duration::from_secs(10)).await);
    }

    #[tokio::test]
    async fn what_this_process_announces_is_told_at_once_and_in_order() {
        // Nothing is polled here: without being woken, nobody would hear of anything.
        let (clock, store) = memory().await;
        let (listener, tasks) = (Arc::new(Listener::default()), Tasks::new());
        let (_, freshness) = follow(&store, &clock.env(), &listener, &tasks).await;
        let changes = grants(1_200);
        for some in changes.chunks(100) {
            let some = some.to_vec();
            store.write(move |tx| some.iter().try_for_each(|change| announce(tx, change.clone()))).await.unwrap();
        }
        until("all is told", || listener.changes() == changes).await;
        assert!(!freshness.is_stale());

        // Whoever gave up waiting for a write has announced as well.
        let mut write = Box::pin(store.write(|tx| announce(tx, Change::Vault)));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        _ = write.as_mut().poll(&mut context);
        drop(write);
        until("the last one is told", || listener.changes().last() == Some(&Change::Vault)).await;
        assert!(tasks.stop(Duration::from_secs(10)).await);
    }

    #[tokio::test]
    async fn what_others_announce_is_told_soon() {
        let (clock, store) = memory().await;
        let (here, there) = (store.as_replica(1), store.as_replica(2));
        let (listener, tasks) = (Arc::new(Listener::default()), Tasks::new());
        announce_one(&there, Change::Keys).await;
        follow(&here, &clock.env(), &listener, &tasks).await;
        let began = Instant::now();
        announce_one(&there, Change::Vault).await;
        until("it is told", || listener.changes() == [Change::Vault]).await;
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
        assert!(tasks.stop(Duration::from_secs(10)).await);
    }

    #[tokio::test]
    async fn what_could_not_be_taken_in_comes_again() {
        let (clock, store) = memory().await;
        let (listener, tasks) = (Arc::new(Listener::default()), Tasks::new());
        follow(&store, &clock.env(), &listener, &tasks).await;
        listener.is_broken.store(true, Ordering::Relaxed);
        announce_one(&store, Change::Keys).await;
        announce_one(&store, Change::Vault).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(listener.changes(), []);
        listener.is_broken.store(false, Ordering::Relaxed);
        until("all is told", || listener.changes() == [Change::Keys, Change::Vault]).await;
        assert!(tasks.stop(Duration::from_secs(10)).await);
    }

    #[tokio::test]
    async fn who_missed_too_much_is_told_that_everything_may_have_changed() {
        let (clock, store) = memory().await;
        let (_, offset) = clock.env().adjustable();
        let mut follower = Follower::begin(store.clone(), offset, Duration::from_secs(10)).await.unwrap();
        announce_one(&store, Change::Keys).await;
        clock.advance(changes::KEPT);
        super::super::sweeper::sweep(&store).await;
        announce_one(&store, Change::Vault).await;
        let listener = Arc::new(Listener::default());
        let subscribers: [Arc<dyn Subscriber>; 1] = [listener.clone()];
        assert!(follower.poll(&subscribers).await.unwrap());
        assert!(!follower.poll(&subscribers).await.unwrap());
        assert!(matches!(listener.heard.lock().unwrap()[..], [News::Everything { .. }]));
        announce_one(&store, Change::ApiTokens).await;
        follower.poll(&subscribers).await.unwrap();
        let heard = listener.heard.lock().unwrap().pop().unwrap();
        assert!(matches!(heard, News::Changes { changes, .. } if changes == [Change::ApiTokens]));
    }

    #[tokio::test(start_paused = true)]
    async fn copies_are_stale_without_a_good_poll_and_only_where_others_write() {
        let clock = StandingClock::at(1_000_000);
        let asked = clock.env().now();
        let (_, local) = clock.env().adjustable();
        let fresh = Freshness::new(Some(Duration::from_secs(10)), local.clone());
        let alone = Freshness::new(None, local);
        tokio::time::advance(Duration::from_secs(10)).await;
        assert!(!fresh.is_stale());
        let began = Instant::now();
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(fresh.is_stale());
        // What counts is what was read, which is as old as the beginning of the poll.
        fresh.was_good(began, asked);
        assert_eq!((fresh.is_stale(), fresh.age()), (false, Duration::from_millis(1)));
        tokio::time::advance(Duration::from_secs(10)).await;
        fresh.was_good(began, asked);
        assert!(fresh.is_stale() && !alone.is_stale());
    }

    #[tokio::test(start_paused = true)]
    async fn time_that_passes_while_the_machine_is_suspended_counts() {
        let clock = StandingClock::at(1_000_000);
        let (env, local) = clock.env().adjustable();
        let fresh = Freshness::new(Some(Duration::from_secs(10)), local);
        clock.advance(Duration::from_secs(10));
        assert!(!fresh.is_stale());
        clock.advance(Duration::from_millis(1));
        assert!(fresh.is_stale());
        fresh.was_good(Instant::now(), env.now());
        assert_eq!((fresh.is_stale(), fresh.age()), (false, Duration::ZERO));
        // Somebody sets it back: the other clock still counts.
        fresh.was_good(Instant::now(), env.now().after(Duration::from_secs(3_600)));
        tokio::time::advance(Duration::from_secs(11)).await;
        assert!(fresh.is_stale());
    }

    #[tokio::test]
    async fn a_poll_that_nobody_takes_in_is_not_good() {
        let (clock, store) = memory().await;
        let here = store.as_replica(1);
        let (_, offset) = clock.env().adjustable();
        let mut follower = Follower::begin(here, offset, Duration::from_millis(1)).await.unwrap();
        let freshness = follower.freshness();
        let listener = Arc::new(Listener::default());
        let subscribers: [Arc<dyn Subscriber>; 1] = [listener.clone()];
        listener.is_broken.store(true, Ordering::Relaxed);
        announce_one(&store, Change::Keys).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert!(follower.poll(&subscribers).await.is_err());
        assert!(freshness.is_stale());
        listener.is_broken.store(false, Ordering::Relaxed);
        let before = freshness.age();
        follower.poll(&subscribers).await.unwrap();
        assert!(freshness.age() < before);
    }

    #[tokio::test]
    async fn every_replica_tells_the_time_of_the_store() {
        let (clock, store) = memory().await;
        let minutes = Duration::from_secs(5 * 60);
        let (ahead, behind) = (StandingClock::at(10_000_000), StandingClock::at(10_000_000));
        ahead.advance(minutes);
        let store_is_ahead = clock.clone();
        store_is_ahead.advance(minutes);
        let (listener, tasks) = (Arc::new(Listener::default()), Tasks::new());
        let mut replicas = Vec::new();
        for (number, local) in (1..).zip([&clock, &ahead, &behind]) {
            let (env, _) = follow(&store.as_replica(number), &local.env(), &listener, &tasks).await;
            replicas.push(env);
        }
        let told = || replicas.iter().map(Env::now).collect::<Vec<_>>();
        assert_eq!(told(), [clock.env().now(); 3]);
        // One of the clocks is put right by somebody else.
        behind.advance(2 * minutes);
        until("it is noticed", || told() == [clock.env().now(); 3]).await;
        assert!(tasks.stop(Duration::from_secs(10)).await);
    }
}
