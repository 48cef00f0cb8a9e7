//! Counters that the host keeps for policies: interface `counters`. In memory; what replicas tell each other of theirs is
//! `policy::totals`.
//!
//! A counter is a sliding window: what was taken counts until it is a whole period old. What was taken within the same
//! sixteenth of a period is remembered together and ages with the last of it, so that a counter has a bounded size and
//! errs, if at all, towards refusing.
//!
//! Invariants: each binding has counters of its own, and again others for its runs in shadow mode; one decision charges
//! a key once, however often it asks; a binding whose keys are all in use gets no new ones, and is refused what it asks
//! of them.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use super::contract::imports::Usage;
use super::totals::Elsewhere;
use crate::env::Timestamp;
use crate::ids::BindingName;

/// Longest key.
pub(super) const MAX_KEY_BYTES: usize = 256;
/// Longest period: 31 days.
pub(super) const MAX_PERIOD_MS: u64 = 31 * 24 * 3600 * 1000;
/// Most keys of one binding that are in use at once.
pub(super) const MAX_KEYS: usize = 65_536;
/// Most periods of one key.
pub(super) const MAX_PERIODS: usize = 8;
/// Most counters that one decision may charge.
const MAX_CHARGES: usize = 64;
/// Parts of a period that are told apart.
pub(super) const PARTS: u64 = 16;
/// How long a binding without room for keys waits before its keys are looked through again, in milliseconds.
const SWEEP_MS: u64 = 1000;

/// The counters of all bindings. Cheap to clone; all clones are one.
#[derive(Clone, Debug, Default)]
pub struct Counters(Arc<Inner>);

#[derive(Debug, Default)]
pub(super) struct Inner {
    pub(super) bindings: Mutex<HashMap<BindingName, Weak<Tables>>>,
    /// Whether there are other replicas, who are told.
    pub(super) shared: bool,
    /// Whether there are bindings that nothing was learnt for yet.
    pub(super) has_new: AtomicBool,
}

impl Counters {
    /// Counters that remember what of them others have yet to be told.
    pub fn shared() -> Self {
        Self(Arc::new(Inner { shared: true, ..Inner::default() }))
    }

    pub(super) fn inner(&self) -> &Inner {
        &self.0
    }

    /// The counters of a binding. They live as long as somebody holds them, so that they outlive a reload and not their
    /// binding.
    pub(super) fn of(&self, binding: &BindingName) -> BindingCounters {
        let mut bindings = lock(&self.0.bindings);
        if let Some(tables) = bindings.get(binding).and_then(Weak::upgrade) {
            return BindingCounters(tables);
        }
        bindings.retain(|_, tables| tables.strong_count() > 0);
        let tables = Arc::new(Tables::new(self.0.shared));
        self.0.has_new.store(true, Ordering::Relaxed);
        bindings.insert(binding.clone(), Arc::downgrade(&tables));
        BindingCounters(tables)
    }
}

/// The counters of one binding.
#[derive(Clone, Debug, Default)]
pub(super) struct BindingCounters(Arc<Tables>);

#[derive(Debug, Default)]
pub(super) struct Tables {
    pub(super) enforced: Mutex<Table>,
    pub(super) shadow: Mutex<Table>,
}

impl Tables {
    fn new(shared: bool) -> Self {
        let table = || Mutex::new(Table { changed: shared.then(HashSet::new), ..Table::default() });
        Self { enforced: table(), shadow: table() }
    }
}

/// What tests of other modules ask counters with, as a policy would.
#[cfg(test)]
pub struct Probe(BindingCounters);

#[cfg(test)]
impl Probe {
    pub fn of(counters: &Counters, binding: &BindingName) -> Self {
        Self(counters.of(binding))
    }

    /// Whether it is allowed, how much remains, and when to ask again.
    pub fn take(&self, key: &str, cost: u64, limit: u64, period_ms: u64, now: Timestamp) -> (bool, u64, u64) {
        let ask = Ask { key, cost, limit, period_ms };
        let usage = self.0.take(ask, now, false, Charges::default().shared()).expect("it is within bounds");
        (usage.allowed, usage.remaining, usage.retry_after_ms)
    }
}

/// What a policy asks a counter for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ask<'a> {
    pub(super) key: &'a str,
    pub(super) cost: u64,
    pub(super) limit: u64,
    pub(super) period_ms: u64,
}

/// Why a counter cannot be asked that. It ends the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Misuse {
    #[error("a key has at most {MAX_KEY_BYTES} bytes")]
    KeyTooLong,
    #[error("a period has at most {MAX_PERIOD_MS} ms, which is 31 days")]
    PeriodTooLong,
    #[error("a key has at most {MAX_PERIODS} different periods")]
    TooManyPeriods,
    #[error("one decision takes from at most {MAX_CHARGES} counters")]
    TooManyCharges,
}

impl BindingCounters {
    /// Whether both are the same counters.
    #[cfg(test)]
    pub(super) fn are(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Takes once for the decision that `charged` belongs to.
    pub(super) fn take(&self, ask: Ask<'_>, now: Timestamp, shadow: bool, charged: &Charged) -> Result<Usage, Misuse> {
        if ask.key.len() > MAX_KEY_BYTES {
            return Err(Misuse::KeyTooLong);
        }
        if ask.period_ms > MAX_PERIOD_MS {
            return Err(Misuse::PeriodTooLong);
        }
        let table = if shadow { &self.0.shadow } else { &self.0.enforced };
        let owner = std::ptr::from_ref(table).addr();
        let mut charges = lock(&charged.charges);
        let known =
            |charge: &&Charge| charge.owner == owner && *charge.key == *ask.key && charge.period_ms == ask.period_ms;
        if let Some(charge) = charges.iter().find(known) {
            return Ok(charge.usage);
        }
        if charges.len() >= MAX_CHARGES {
            return Err(Misuse::TooManyCharges);
        }
        let usage = match charged.pays {
            Pays::Now => lock(table).take(ask, now)?,
            // Its first round has paid.
            Pays::Before => {
                Usage { allowed: true, retry_after_ms: 0, ..lock(table).take(Ask { cost: 0, ..ask }, now)? }
            }
            Pays::Never => lock(table).look(ask, now)?,
        };
        charges.push(Charge { owner, key: ask.key.into(), period_ms: ask.period_ms, usage });
        Ok(usage)
    }
}

/// What one decision has taken from counters.
#[derive(Debug, Default)]
pub struct Charges {
    pays: Pays,
    charged: OnceLock<Arc<Charged>>,
}

/// When a decision pays for what it asks of counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Pays {
    #[default]
    Now,
    /// The request's first round was charged.
    Before,
    /// It only looks.
    Never,
}

/// The part of it that runs of policies share.
#[derive(Debug, Default)]
pub(super) struct Charged {
    pays: Pays,
    charges: Mutex<Vec<Charge>>,
}

#[derive(Debug)]
struct Charge {
    /// Which table, by its address: it lives as long as the run that asks.
    owner: usize,
    key: Box<str>,
    period_ms: u64,
    usage: Usage,
}

impl Charges {
    /// For another round of a request that was charged in its first: nothing is taken again, and nothing refused.
    pub fn already_charged() -> Self {
        Self { pays: Pays::Before, charged: OnceLock::new() }
    }

    /// For a decision that nothing comes of: it is told how the counters stand, and takes nothing.
    pub(super) fn looking() -> Self {
        Self { pays: Pays::Never, charged: OnceLock::new() }
    }

    /// Whether anything was charged, in this round or before.
    pub fn any(&self) -> bool {
        self.pays == Pays::Before || self.charged.get().is_some_and(|charged| !lock(&charged.charges).is_empty())
    }

    pub(super) fn shared(&self) -> &Arc<Charged> {
        self.charged.get_or_init(|| Arc::new(Charged { pays: self.pays, charges: Mutex::default() }))
    }
}

/// The counters of one binding in one mode.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) keys: HashMap<Box<str>, Vec<Window>>,
    /// Keys and periods that others have yet to be told of; `None` where there are no others.
    pub(super) changed: Option<HashSet<(Box<str>, u64)>>,
    /// The number of keys at which those that are not in use are dropped.
    sweep_at: usize,
    swept: u64,
}

impl Table {
    pub(super) fn take(&mut self, ask: Ask<'_>, now: Timestamp) -> Result<Usage, Misuse> {
        let usage = self.take_untold(ask, now)?;
        if usage.allowed && ask.cost > 0 {
            self.note_change(ask.key, ask.period_ms);
        }
        Ok(usage)
    }

    /// What [`Self::take`] would answer. Nothing is taken, and nothing is dropped.
    fn look(&self, ask: Ask<'_>, now: Timestamp) -> Result<Usage, Misuse> {
        let known = self.keys.get(ask.key).map(|windows| (ask.key.into(), windows.clone()));
        let mut aside = Self { keys: known.into_iter().collect(), ..Self::default() };
        aside.take_untold(ask, now)
    }

    fn take_untold(&mut self, ask: Ask<'_>, now: Timestamp) -> Result<Usage, Misuse> {
        let now = now.as_millis();
        if let Some(windows) = self.keys.get_mut(ask.key) {
            if let Some(window) = windows.iter_mut().find(|window| window.period_ms == ask.period_ms) {
                return Ok(window.take(ask.cost, ask.limit, now));
            }
            windows.retain(|window| window.is_in_use(now));
            if windows.len() >= MAX_PERIODS {
                return Err(Misuse::TooManyPeriods);
            }
            windows.push(Window::of(ask.period_ms));
            let window = windows.last_mut().expect("it was just added");
            return Ok(window.take(ask.cost, ask.limit, now));
        }
        if !self.has_room(now) {
            return Ok(Usage { allowed: false, remaining: 0, retry_after_ms: SWEEP_MS });
        }
        let mut window = Window::of(ask.period_ms);
        let usage = window.take(ask.cost, ask.limit, now);
        if window.is_in_use(now) {
            self.keys.insert(ask.key.into(), vec![window]);
        }
        Ok(usage)
    }

    /// Whether one more key may be used, if need be after those were dropped that are in use no more.
    pub(super) fn has_room(&mut self, now: u64) -> bool {
        const FIRST_SWEEP: usize = 1024;
        if self.keys.len() < self.sweep_at.max(FIRST_SWEEP) {
            return true;
        }
        if self.keys.len() >= MAX_KEYS && now.saturating_sub(self.swept) < SWEEP_MS {
            return false;
        }
        self.swept = now;
        self.keys.retain(|_, windows| {
            windows.retain(|window| window.is_in_use(now));
            !windows.is_empty()
        });
        self.sweep_at = self.keys.len().saturating_mul(2).clamp(FIRST_SWEEP, MAX_KEYS);
        let has_room = self.keys.len() < MAX_KEYS;
        if !has_room {
            tracing::warn!(keys = MAX_KEYS, "a policy counts by so many keys that no new one is let in");
        }
        has_room
    }
}

/// One counter.
#[derive(Clone, Debug)]
pub(super) struct Window {
    pub(super) period_ms: u64,
    /// When what was taken, oldest first. At most one entry for each part of a period, and two for the parts cut by
    /// the window's ends.
    pub(super) taken: VecDeque<(u64, u64)>,
    used: u64,
    /// What was taken at other replicas.
    pub(super) elsewhere: Elsewhere,
}

impl Window {
    pub(super) fn of(period_ms: u64) -> Self {
        Self { period_ms, taken: VecDeque::new(), used: 0, elsewhere: Elsewhere::default() }
    }

    fn take(&mut self, cost: u64, limit: u64, now: u64) -> Usage {
        // The clock may be set back; what was taken does not become older by that.
        let now = self.taken.back().map_or(now, |(last, _)| now.max(*last));
        while let Some((_, taken)) = self.taken.pop_front_if(|(at, _)| at.saturating_add(self.period_ms) <= now) {
            self.used -= taken;
        }
        let before = self.used.saturating_add(self.elsewhere.used(self.period_ms, now));
        let after = before.saturating_add(cost);
        if after > limit {
            let retry_after_ms = self.retry_after(cost, limit, now);
            return Usage { allowed: false, remaining: limit.saturating_sub(before), retry_after_ms };
        }
        if cost > 0 {
            self.used += cost;
            self.add(now, cost);
        }
        Usage { allowed: true, remaining: limit - after, retry_after_ms: 0 }
    }

    fn add(&mut self, now: u64, cost: u64) {
        let part = self.period_ms.div_ceil(PARTS).max(1);
        match self.taken.back_mut() {
            Some((last, taken)) if *last / part == now / part => {
                *last = now;
                *taken += cost;
            }
            _ => self.taken.push_back((now, cost)),
        }
    }

    /// How long until enough of what was taken is out of the window; a whole period if it never will be enough.
    fn retry_after(&self, cost: u64, limit: u64, now: u64) -> u64 {
        let mut all: Vec<(u64, u64)> = self.taken.iter().copied().chain(self.elsewhere.all()).collect();
        // Their own are in order already.
        all.sort_by_key(|(at, _)| *at);
        let mut left = all.iter().fold(0_u64, |sum, (_, taken)| sum.saturating_add(*taken));
        let enough = all.iter().find(|(_, taken)| {
            left = left.saturating_sub(*taken);
            left.saturating_add(cost) <= limit
        });
        enough.map_or(self.period_ms, |(at, _)| at.saturating_add(self.period_ms).saturating_sub(now))
    }

    pub(super) fn is_in_use(&self, now: u64) -> bool {
        let lives = |last: u64| last.saturating_add(self.period_ms) > now;
        self.taken.back().is_some_and(|(last, _)| lives(*last)) || self.elsewhere.last().is_some_and(lives)
    }
}

/// Whatever panicked elsewhere, numbers stay numbers.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    fn ask(key: &str, cost: u64, limit: u64, period_ms: u64) -> Ask<'_> {
        Ask { key, cost, limit, period_ms }
    }

    fn binding(name: &str) -> BindingName {
        BindingName::parse(name).unwrap()
    }

    /// Takes in a decision of its own.
    fn take(counters: &BindingCounters, ask: Ask<'_>, now: u64) -> Usage {
        counters.take(ask, at(now), false, Charges::default().shared()).unwrap()
    }

    /// All that was ever taken, one by one.
    #[derive(Default)]
    struct Naive(Vec<(u64, u64)>);

    impl Naive {
        /// What of it is in a window of `period` that ends at `now`.
        fn used(&self, now: u64, period: u64) -> u64 {
            self.0.iter().filter(|(at, _)| at + period > now).map(|(_, cost)| cost).sum()
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        /// Against all that was ever taken: never more than the limit in any window; never refused what a window longer
        /// by one part would allow; and the wait that is told is neither too short nor too long.
        #[test]
        fn a_window_agrees_with_a_naive_one_to_a_sixteenth_of_its_period(
            period in prop_oneof![0_u64..40, 100_u64..5_000],
            limit in 0_u64..30,
            steps in prop::collection::vec((0_u64..2_000, 0_u64..12), 1..120),
        ) {
            let mut window = Window::of(period);
            let mut naive = Naive::default();
            let part = period.div_ceil(PARTS);
            let mut now = 1_000_000;
            for (pause, cost) in steps {
                now += pause % (period / 2 + 2);
                let before = naive.used(now, period);
                let usage = window.take(cost, limit, now);
                if usage.allowed {
                    prop_assert!(before + cost <= limit, "{before} + {cost} of {limit}");
                    prop_assert_eq!(usage.retry_after_ms, 0);
                    prop_assert!(usage.remaining <= limit - before - cost);
                    prop_assert!(usage.remaining >= limit.saturating_sub(naive.used(now, period + part) + cost));
                    naive.0.push((now, cost));
                } else {
                    prop_assert!(naive.used(now, period + part) + cost > limit);
                    let told = usage.retry_after_ms;
                    if cost <= limit {
                        let later = |window: &Window, after| {
                            window.clone().take(cost, limit, now + after).allowed
                        };
                        prop_assert!(told > 0 && later(&window, told) && !later(&window, told - 1));
                    } else {
                        prop_assert_eq!(told, period);
                    }
                }
                prop_assert!(window.taken.len() as u64 <= PARTS + 2, "{} entries", window.taken.len());
                prop_assert_eq!(window.used, window.taken.iter().map(|(_, cost)| cost).sum::<u64>());
            }
        }
    }

    #[test]
    fn what_was_taken_comes_back_a_period_later() {
        let counters = Counters::default().of(&binding("one"));
        let take = |cost, now| {
            let usage = take(&counters, ask("key", cost, 10, 60_000), now);
            (usage.allowed, usage.remaining, usage.retry_after_ms)
        };
        assert_eq!(take(6, 100_000), (true, 4, 0));
        assert_eq!(take(3, 120_000), (true, 1, 0));
        assert_eq!(take(2, 120_000), (false, 1, 40_000));
        assert_eq!(take(11, 120_000), (false, 1, 60_000), "more than there ever will be");
        assert_eq!(take(1, 119_000), (true, 0, 0), "a clock that is set back gives nothing back");
        assert_eq!(take(2, 159_999), (false, 0, 1));
        assert_eq!(take(6, 160_000), (true, 0, 0));
    }

    #[test]
    fn bindings_modes_and_keys_do_not_share() {
        let all = Counters::default();
        let (one, two) = (all.of(&binding("one")), all.of(&binding("two")));
        let whole = ask("key", 5, 5, 1000);
        assert!(take(&one, whole, 0).allowed && !take(&one, whole, 1).allowed);
        assert!(take(&two, whole, 1).allowed);
        assert!(take(&one, ask("other", 5, 5, 1000), 1).allowed);
        assert!(take(&one, ask("key", 5, 5, 2000), 1).allowed, "another period is another counter");
        assert!(one.take(whole, at(1), true, Charges::default().shared()).unwrap().allowed);
        assert!(!take(&all.of(&binding("one")), whole, 2).allowed, "they are the binding's, whoever holds them");
        drop(one);
        assert!(take(&all.of(&binding("one")), whole, 3).allowed, "nobody held them any more");
    }

    #[test]
    fn a_decision_is_charged_once_and_its_second_round_not_at_all() {
        let counters = Counters::default().of(&binding("one"));
        let charges = Charges::default();
        assert!(!charges.any());
        let one = |charges: &Charges| {
            let usage = counters.take(ask("key", 1, 2, 1000), at(5), false, charges.shared()).unwrap();
            (usage.allowed, usage.remaining)
        };
        assert_eq!([one(&charges), one(&charges), one(&charges)], [(true, 1); 3]);
        assert!(charges.any());
        assert_eq!(one(&Charges::default()), (true, 0));
        let second_round = Charges::already_charged();
        assert!(second_round.any());
        assert_eq!([one(&second_round), one(&second_round)], [(true, 0); 2]);
        let refused = Charges::default();
        assert_eq!([one(&refused), one(&refused)], [(false, 0); 2]);
    }

    #[test]
    fn what_is_beyond_bounds_is_refused() {
        let counters = Counters::default().of(&binding("one"));
        let charges = Charges::default();
        let take = |ask| counters.take(ask, at(0), false, charges.shared());
        let long = "k".repeat(257);
        assert_eq!(take(ask(&long, 1, 1, 1)).unwrap_err(), Misuse::KeyTooLong);
        assert_eq!(take(ask("key", 1, 1, MAX_PERIOD_MS + 1)).unwrap_err(), Misuse::PeriodTooLong);
        for period in 1..=8 {
            assert!(take(ask("key", 1, 1, period)).is_ok());
        }
        assert_eq!(take(ask("key", 1, 1, 9)).unwrap_err(), Misuse::TooManyPeriods);
        let others: Vec<String> = (8..MAX_CHARGES).map(|number| number.to_string()).collect();
        for other in &others {
            assert!(take(ask(other, 1, 1, 9)).is_ok());
        }
        assert_eq!(take(ask("one more", 1, 1, 9)).unwrap_err(), Misuse::TooManyCharges);
    }

    #[test]
    fn who_only_looks_is_told_and_takes_nothing() {
        let counters = BindingCounters::default();
        assert!(take(&counters, ask("key", 9, 10, 60_000), 0).allowed);
        for (cost, allowed) in [(1, true), (2, false), (1, true)] {
            let ask = ask("key", cost, 10, 60_000);
            let usage = counters.take(ask, at(1), false, Charges::looking().shared()).unwrap();
            assert_eq!(usage.allowed, allowed, "{cost}");
        }
        let unknown = counters.take(ask("other", 1, 10, 60_000), at(1), false, Charges::looking().shared()).unwrap();
        assert_eq!((unknown.allowed, unknown.remaining), (true, 9));
        assert_eq!(counters.0.enforced.lock().unwrap().keys.len(), 1, "it leaves no key behind");
        assert!(take(&counters, ask("key", 1, 10, 60_000), 2).allowed);
    }

    #[test]
    fn keys_are_bounded_and_those_out_of_use_make_room() {
        let mut table = Table::default();
        for number in 0..MAX_KEYS {
            assert!(table.take(ask(&number.to_string(), 1, 1, 10_000), at(5_000)).unwrap().allowed);
        }
        let another = |table: &mut Table, now| table.take(ask("another", 1, 1, 10_000), at(now)).unwrap().allowed;
        assert!(!another(&mut table, 6_001), "all keys are in use");
        assert!(table.take(ask("7", 0, 1, 10_000), at(6_001)).is_ok(), "those that are there go on");
        assert!(another(&mut table, 15_000));
        assert_eq!(table.keys.len(), 1);
    }
}
