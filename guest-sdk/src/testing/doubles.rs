//! What answers in place of the host's functions in native tests: of this thread, and set by the test.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::log::Level;

/// The time in tests, unless they set another: the one of [`super::context`].
pub(super) const NOW_MS: u64 = 1_800_000_000_000;

struct Doubles {
    now_ms: u64,
    random: u64,
    sets: BTreeMap<String, BTreeSet<String>>,
    /// What was taken of each key, with the time of each.
    counters: BTreeMap<String, VecDeque<(u64, u64)>>,
    lines: Vec<(Level, String)>,
}

impl Doubles {
    const fn new() -> Self {
        Self { now_ms: NOW_MS, random: 1, sets: BTreeMap::new(), counters: BTreeMap::new(), lines: Vec::new() }
    }
}

thread_local! {
    static DOUBLES: RefCell<Doubles> = const { RefCell::new(Doubles::new()) };
}

/// Forgets everything that was set, counted and logged in this thread.
pub fn reset() {
    DOUBLES.set(Doubles::new());
}

/// The time that `clock` tells and that the windows of `counters` go by.
pub fn set_clock(now_ms: u64) {
    DOUBLES.with_borrow_mut(|doubles| doubles.now_ms = now_ms);
}

/// Gives `sets` an operator's list.
pub fn put_set(name: &str, items: &[&str]) {
    let items = items.iter().map(|item| (*item).to_owned()).collect();
    DOUBLES.with_borrow_mut(|doubles| doubles.sets.insert(name.to_owned(), items));
}

/// The lines that the policy has logged in this thread since the last time.
pub fn logged() -> Vec<(Level, String)> {
    DOUBLES.with_borrow_mut(|doubles| std::mem::take(&mut doubles.lines))
}

pub(crate) mod log {
    use super::{DOUBLES, Level};

    pub(crate) fn write(level: Level, message: &str) {
        DOUBLES.with_borrow_mut(|doubles| doubles.lines.push((level, message.to_owned())));
    }
}

pub(crate) mod clock {
    pub(crate) fn now_ms() -> u64 {
        super::DOUBLES.with_borrow(|doubles| doubles.now_ms)
    }
}

/// Bytes that look random and are the same in every run.
pub(crate) mod random {
    pub(crate) fn bytes(count: u32) -> Vec<u8> {
        assert!(count <= 4096, "the host gives at most 4096 bytes at once");
        let next = |state: &mut u64| {
            // Knuth's multiplier; the upper bits are the better ones.
            *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            state.to_be_bytes()[0]
        };
        super::DOUBLES.with_borrow_mut(|doubles| (0..count).map(|_| next(&mut doubles.random)).collect())
    }
}

/// An exact sliding window. It charges every call: one decision is one call here.
pub(crate) mod counters {
    use crate::counters::Usage;

    pub(crate) fn take(key: &str, cost: u32, limit: u64, period_ms: u64) -> Usage {
        assert!(key.len() <= 256, "the host takes keys of at most 256 bytes");
        super::DOUBLES.with_borrow_mut(|doubles| {
            let (now, cost) = (doubles.now_ms, u64::from(cost));
            let taken = doubles.counters.entry(key.to_owned()).or_default();
            while taken.front().is_some_and(|(at, _)| at.saturating_add(period_ms) <= now) {
                taken.pop_front();
            }
            let used: u64 = taken.iter().map(|(_, cost)| cost).sum();
            if used.saturating_add(cost) <= limit {
                taken.push_back((now, cost));
                return Usage { allowed: true, remaining: limit - used - cost, retry_after_ms: 0 };
            }
            // The first moment at which enough of what was taken is out of the window.
            let mut left = used;
            let enough = taken.iter().find(|(_, cost_then)| {
                left -= cost_then;
                left.saturating_add(cost) <= limit
            });
            let retry_after_ms = enough.map_or(period_ms, |(at, _)| at.saturating_add(period_ms) - now);
            Usage { allowed: false, remaining: limit.saturating_sub(used), retry_after_ms }
        })
    }
}

pub(crate) mod sets {
    pub(crate) fn contains(set: &str, item: &str) -> bool {
        super::DOUBLES.with_borrow(|doubles| doubles.sets.get(set).is_some_and(|items| items.contains(item)))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{clock, counters, random, sets};

    #[test]
    fn a_window_slides_and_takes_nothing_where_it_is_too_much() {
        reset();
        let take = |cost| counters::take("key", cost, 10, Duration::from_secs(60));
        assert_eq!(take(6).remaining, 4);
        set_clock(NOW_MS + 20_000);
        assert_eq!(take(3).remaining, 1);
        let refused = take(2);
        assert_eq!((refused.allowed, refused.remaining, refused.retry_after_ms), (false, 1, 40_000));
        assert!(!take(11).allowed, "it is more than the limit at any time");
        assert!(counters::take("other", 10, 10, Duration::from_secs(60)).allowed, "keys do not share");
        set_clock(NOW_MS + 60_000);
        assert_eq!(take(7).remaining, 0);
    }

    #[test]
    fn sets_clock_and_randomness_are_the_tests_own() {
        reset();
        assert!(!sets::contains("blocked", "ada"));
        put_set("blocked", &["ada"]);
        assert!(sets::contains("blocked", "ada") && !sets::contains("blocked", "bo"));
        assert_eq!(clock::now_ms(), NOW_MS);
        let bytes = random::bytes(32);
        assert!(bytes.len() == 32 && bytes != random::bytes(32));
        reset();
        assert_eq!(random::bytes(32), bytes);
        assert!(!sets::contains("blocked", "ada"));
    }
}
