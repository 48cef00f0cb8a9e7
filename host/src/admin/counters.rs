//! Limits that hold across replicas: each tells the others what policies have counted, and hears of theirs.
//!
//! Every [`INTERVAL`] a replica writes the counters that were taken from since the last time and reads what the others
//! wrote. So a charge is known elsewhere two intervals later, plus what the store takes for a commit: under a second as
//! long as the store answers. While it does not, each replica counts for itself, and catches up afterwards: counters
//! are a limit on use and no permission, so a store that is down does not stop calls here. (What it does stop is
//! decided where staleness is.) On a store that only one process can have nothing of this runs.

use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::env::Env;
use crate::ids::BindingName;
use crate::policy::Counters;
use crate::policy::totals::Total;
use crate::store::counters::{self as stored, BATCH, Count, Counter, News, Replica, Seen};
use crate::store::{Store, StoreError};

/// Between two exchanges.
pub const INTERVAL: Duration = Duration::from_millis(200);
/// Transactions of each kind in one exchange; what is left waits for the next.
const MAX_STEPS: usize = 8;

/// One replica's side of the exchange.
pub struct Exchange {
    store: Store,
    env: Env,
    counters: Counters,
    replica: Replica,
    seen: Seen,
}

impl Exchange {
    /// For a process that begins. What it counted in an earlier life it hears of like of anybody else's.
    pub fn new(store: Store, env: Env, counters: Counters) -> Self {
        let replica = Replica(env.random());
        Self { store, env, counters, replica, seen: Seen::default() }
    }

    /// Tells and hears until `stopping`, and tells once more what is left.
    pub async fn run(mut self, stopping: CancellationToken) {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut fails = false;
        loop {
            let is_over = tokio::select! {
                _ = ticks.tick() => false,
                () = stopping.cancelled() => true,
            };
            let exchanged = self.exchange().await;
            if let Err(error) = &exchanged
                && !fails
            {
                tracing::warn!(%error, "replicas do not hear of each other's counters: limits hold for each alone");
            }
            fails = exchanged.is_err();
            if is_over {
                return;
            }
        }
    }

    /// Tells what was counted here, then hears what was counted elsewhere.
    pub async fn exchange(&mut self) -> Result<(), StoreError> {
        self.tell().await?;
        self.hear().await
    }

    async fn tell(&self) -> Result<(), StoreError> {
        for _ in 0..MAX_STEPS {
            let totals = self.counters.to_tell(BATCH);
            if totals.is_empty() {
                return Ok(());
            }
            let counts = totals.iter().map(count).collect();
            let written = stored::write(&self.store, self.replica, counts, self.env.now()).await;
            // It may have been written all the same: telling it again changes nothing.
            written.inspect_err(|_| self.counters.not_told(&totals))?;
        }
        Ok(())
    }

    async fn hear(&mut self) -> Result<(), StoreError> {
        if self.counters.has_new_bindings() {
            self.seen = Seen::default();
        }
        for _ in 0..MAX_STEPS {
            let now = self.env.now();
            let News { counts, seen, has_more } =
                stored::read(&self.store, self.replica, self.seen.clone(), now).await?;
            for (Replica(replica), count) in counts {
                // A binding whose name cannot be one is nobody's here.
                if let Some(total) = total(count) {
                    self.counters.hear(replica, total, now);
                }
            }
            self.seen = seen;
            if !has_more {
                break;
            }
        }
        Ok(())
    }
}

fn count(total: &Total) -> Count {
    let Total { binding, shadow, key, period_ms, taken } = total;
    let counter =
        Counter { binding: binding.as_str().to_owned(), shadow: *shadow, key: key.clone(), period_ms: *period_ms };
    Count { counter, taken: taken.clone() }
}

fn total(count: Count) -> Option<Total> {
    let Count { counter: Counter { binding, shadow, key, period_ms }, taken } = count;
    Some(Total { binding: BindingName::parse(&binding).ok()?, shadow, key, period_ms, taken })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use proptest::prelude::*;

    use super::*;
    use crate::env::{Clock, Entropy, Timestamp};
    use crate::policy::Probe;
    use crate::store::Location;

    /// A clock that the test sets, and replicas' names by number.
    #[derive(Clone)]
    struct Bench {
        now: Arc<AtomicU64>,
        skew: i64,
        name: u8,
    }

    impl Clock for Bench {
        fn now(&self) -> Timestamp {
            Timestamp::from_millis(self.now.load(Ordering::Relaxed).saturating_add_signed(self.skew))
        }
    }

    impl Entropy for Bench {
        fn fill(&self, bytes: &mut [u8]) {
            bytes.fill(self.name);
        }
    }

    struct Gateway {
        exchange: Exchange,
        counters: Counters,
        probe: Probe,
        env: Env,
    }

    impl Gateway {
        fn start(store: &Store, now: &Arc<AtomicU64>, name: u8, skew: i64) -> Self {
            let bench = Bench { now: now.clone(), skew, name };
            let env = Env { clock: Arc::new(bench.clone()), entropy: Arc::new(bench) };
            let counters = Counters::shared();
            let probe = Probe::of(&counters, &BindingName::parse("limit").unwrap());
            let exchange = Exchange::new(store.clone(), env.clone(), counters.clone());
            Self { exchange, counters, probe, env }
        }

        /// Whether `cost` may be taken, of `limit` in a minute.
        fn takes(&self, key: &str, cost: u64, limit: u64) -> bool {
            self.probe.take(key, cost, limit, PERIOD, self.env.now()).0
        }

        /// What is known to be used.
        fn knows(&self, key: &str) -> u64 {
            let limit = u64::MAX / 2;
            limit - self.probe.take(key, 0, limit, PERIOD, self.env.now()).1
        }
    }

    const PERIOD: u64 = 60_000;

    async fn open(now: &Arc<AtomicU64>) -> Store {
        let bench = Bench { now: now.clone(), skew: 0, name: 0 };
        let env = Env { clock: Arc::new(bench.clone()), entropy: Arc::new(bench) };
        Store::open(Location::Memory, env).await.unwrap()
    }

    #[tokio::test]
    async fn a_limit_holds_across_replicas_once_they_have_heard() {
        let now = Arc::new(AtomicU64::new(1_000_000_000));
        let store = open(&now).await;
        let mut one = Gateway::start(&store, &now, 1, 0);
        let mut two = Gateway::start(&store, &now, 2, 0);
        assert!(one.takes("a", 6, 10) && two.takes("a", 3, 10));
        one.exchange.exchange().await.unwrap();
        two.exchange.exchange().await.unwrap();
        one.exchange.exchange().await.unwrap();
        assert_eq!((one.knows("a"), two.knows("a")), (9, 9));
        assert!(!one.takes("a", 2, 10) && !two.takes("a", 2, 10) && two.takes("a", 1, 10));
        let retry = two.probe.take("a", 1, 10, PERIOD, two.env.now()).2;
        assert_eq!(retry, PERIOD, "when what the other took is over");

        // One starts anew and knows what it took before; so does one that comes late.
        drop(one);
        let mut three = Gateway::start(&store, &now, 3, 0);
        two.exchange.exchange().await.unwrap();
        three.exchange.exchange().await.unwrap();
        assert_eq!(three.knows("a"), 10);
        now.fetch_add(PERIOD, Ordering::Relaxed);
        assert_eq!((two.knows("a"), three.knows("a")), (0, 0));
        assert!(three.takes("a", 10, 10));
        assert_eq!(store.verify().await.unwrap(), []);
    }

    #[tokio::test]
    async fn a_binding_that_comes_later_hears_of_everything() {
        let now = Arc::new(AtomicU64::new(1_000_000_000));
        let store = open(&now).await;
        let (mut one, mut two) = (Gateway::start(&store, &now, 1, 0), Gateway::start(&store, &now, 2, 0));
        let late = BindingName::parse("late").unwrap();
        let probe = Probe::of(&one.counters, &late);
        assert!(probe.take("a", 4, 5, PERIOD, one.env.now()).0);
        one.exchange.exchange().await.unwrap();
        two.exchange.exchange().await.unwrap();
        let probe = Probe::of(&two.counters, &late);
        two.exchange.exchange().await.unwrap();
        assert!(!probe.take("a", 2, 5, PERIOD, two.env.now()).0);
    }

    #[tokio::test]
    async fn what_could_not_be_told_is_told_later() {
        let now = Arc::new(AtomicU64::new(1_000_000_000));
        let (closed, store) = (open(&now).await, open(&now).await);
        let mut one = Gateway::start(&closed, &now, 1, 0);
        closed.close().await;
        assert!(one.takes("a", 4, 5));
        assert!(matches!(one.exchange.exchange().await, Err(StoreError::Closed)));
        one.exchange.store = store.clone();
        one.exchange.exchange().await.unwrap();
        let mut two = Gateway::start(&store, &now, 2, 0);
        two.exchange.exchange().await.unwrap();
        assert_eq!(two.knows("a"), 4);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Take(usize, usize, u64),
        /// The replica exchanges; with `true` the answer to what it told is lost, so that it tells it again.
        Exchange(usize, bool),
        Wait(u64),
        /// The process ends, telling what is left, and another one begins.
        Restart(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0_usize..3, 0_usize..3, 1_u64..9).prop_map(|(who, key, cost)| Step::Take(who, key, cost)),
            4 => (0_usize..3, any::<bool>()).prop_map(|(who, lost)| Step::Exchange(who, lost)),
            2 => (0_u64..9_000).prop_map(Step::Wait),
            1 => (0_usize..3).prop_map(Step::Restart),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Three replicas whose clocks differ charge, exchange and restart in any order, and answers get lost. Once
        /// all have told and heard, each knows the sum of all charges of the last period: none is lost, none is
        /// doubled, to the sixteenth of a period that a counter keeps together.
        #[test]
        fn the_sum_neither_loses_nor_doubles_a_charge(steps in prop::collection::vec(step(), 1..80)) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            runtime.block_on(async {
                let now = Arc::new(AtomicU64::new(1_000_000_000));
                let store = open(&now).await;
                let skews = [0, 250_000, -250_000];
                let mut names = 3;
                let mut gateways: Vec<Gateway> =
                    (0..3_u8).map(|name| Gateway::start(&store, &now, name, skews[usize::from(name)])).collect();
                let mut charged: Vec<(u64, usize, u64)> = Vec::new();
                for step in steps {
                    match step {
                        Step::Take(who, key, cost) => {
                            assert!(gateways[who].takes(&key.to_string(), cost, u64::MAX / 2));
                            charged.push((now.load(Ordering::Relaxed), key, cost));
                        }
                        Step::Exchange(who, lost) => {
                            let gateway = &mut gateways[who];
                            if lost {
                                let totals = gateway.counters.to_tell(BATCH);
                                let counts = totals.iter().map(count).collect();
                                stored::write(&store, gateway.exchange.replica, counts, gateway.env.now()).await.unwrap();
                                gateway.counters.not_told(&totals);
                            }
                            gateway.exchange.exchange().await.unwrap();
                        }
                        Step::Wait(millis) => {
                            now.fetch_add(millis, Ordering::Relaxed);
                        }
                        Step::Restart(who) => {
                            gateways[who].exchange.exchange().await.unwrap();
                            names += 1;
                            gateways[who] = Gateway::start(&store, &now, names, skews[who]);
                        }
                    }
                }
                for _ in 0..2 {
                    for gateway in &mut gateways {
                        gateway.exchange.exchange().await.unwrap();
                    }
                }
                let ends = now.load(Ordering::Relaxed);
                let sum = |key: usize, period: u64| -> u64 {
                    charged.iter().filter(|(at, of, _)| *of == key && at + period > ends).map(|(_, _, cost)| cost).sum()
                };
                for gateway in &gateways {
                    for key in 0..3 {
                        let known = gateway.knows(&key.to_string());
                        let (least, most) = (sum(key, PERIOD), sum(key, PERIOD + PERIOD / 16));
                        assert!((least..=most).contains(&known), "{known} is not within {least} and {most}");
                    }
                }
                assert_eq!(store.verify().await.unwrap(), []);
                store.close().await;
            });
        }
    }
}
