//! Counters across replicas: what each tells the others of its own, and what it knows of theirs.
//!
//! A replica tells what it has taken itself, each counter whole, so that hearing it twice changes nothing; what it has
//! heard it never passes on. What was taken elsewhere counts like its own until it is a period old. A replica hears of it a
//! moment later, and until then two of them may together let more through than the limit: by what the others took in
//! that moment, and no more.
//!
//! Counters with a period shorter than [`MIN_PERIOD_MS`] are over before anyone hears of them and stay at home.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use super::counters::{Counters, MAX_KEYS, MAX_PERIODS, PARTS, Table, Window, lock};
use crate::env::Timestamp;
use crate::ids::BindingName;

/// Shortest period that is told of.
pub const MIN_PERIOD_MS: u64 = 1_000;
/// Most replicas that one counter is heard of from.
const MAX_REPLICAS: usize = 64;
/// Most entries of one replica's counter.
const MAX_ENTRIES: usize = PARTS as usize + 2;

/// A replica, as the others know it.
pub type ReplicaId = [u8; 8];

/// What one replica has taken from one counter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Total {
    pub binding: BindingName,
    pub shadow: bool,
    pub key: String,
    pub period_ms: u64,
    /// When how much, oldest first.
    pub taken: Vec<(u64, u64)>,
}

/// What was taken from a counter at other replicas.
#[derive(Clone, Debug, Default)]
pub(super) struct Elsewhere(Vec<(ReplicaId, VecDeque<(u64, u64)>)>);

impl Elsewhere {
    /// How much of it counts. What does not any more is let go.
    pub(super) fn used(&mut self, period_ms: u64, now: u64) -> u64 {
        let mut used = 0_u64;
        self.0.retain_mut(|(_, taken)| {
            while taken.pop_front_if(|(at, _)| at.saturating_add(period_ms) <= now).is_some() {}
            used = taken.iter().fold(used, |sum, (_, cost)| sum.saturating_add(*cost));
            !taken.is_empty()
        });
        used
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (u64, u64)> {
        self.0.iter().flat_map(|(_, taken)| taken.iter().copied())
    }

    pub(super) fn last(&self) -> Option<u64> {
        self.0.iter().filter_map(|(_, taken)| taken.back()).map(|(at, _)| *at).max()
    }

    /// Takes what a replica says in place of what it said before.
    fn hear(&mut self, replica: ReplicaId, mut taken: Vec<(u64, u64)>) {
        taken.sort_by_key(|(at, _)| *at);
        // More than there can be is not ours to explain; the newest count longest.
        let taken: VecDeque<_> = taken.split_off(taken.len().saturating_sub(MAX_ENTRIES)).into();
        if let Some((_, before)) = self.0.iter_mut().find(|(known, _)| *known == replica) {
            *before = taken;
        } else if self.0.len() < MAX_REPLICAS {
            self.0.push((replica, taken));
        } else {
            tracing::warn!("a counter is used at more replicas than are counted together");
        }
    }
}

impl Counters {
    /// Whether a binding has come since this was asked last: then everything has to be heard again.
    pub fn has_new_bindings(&self) -> bool {
        self.inner().has_new.swap(false, Ordering::Relaxed)
    }

    /// At most `limit` counters that were taken from since they were told. They count as told from now on; if that
    /// fails, [`Self::not_told`] takes them back.
    pub fn to_tell(&self, limit: usize) -> Vec<Total> {
        let mut totals = Vec::new();
        self.each_table(|binding, shadow, table| {
            while totals.len() < limit
                && let Some((key, period_ms)) = table.next_change()
            {
                let windows = table.keys.get(&key).into_iter().flatten();
                let Some(window) = windows.into_iter().find(|window| window.period_ms == period_ms) else { continue };
                let taken = window.taken.iter().copied().collect();
                totals.push(Total { binding: binding.clone(), shadow, key: key.into(), period_ms, taken });
            }
        });
        totals
    }

    /// These were not told after all.
    pub fn not_told(&self, totals: &[Total]) {
        self.each_table(|binding, shadow, table| {
            let own = totals.iter().filter(|total| total.binding == *binding && total.shadow == shadow);
            own.for_each(|total| table.note_change(&total.key, total.period_ms));
        });
    }

    /// What another replica has told. A binding that is not here is heard of again once it is.
    pub fn hear(&self, replica: ReplicaId, total: Total, now: Timestamp) {
        let Total { binding: of, shadow: in_shadow, key, period_ms, taken } = total;
        let mut taken = Some(taken);
        self.each_table(|binding, shadow, table| {
            if *binding == of
                && shadow == in_shadow
                && let Some(taken) = taken.take()
            {
                table.hear(replica, &key, period_ms, taken, now.as_millis());
            }
        });
    }

    fn each_table(&self, mut with: impl FnMut(&BindingName, bool, &mut Table)) {
        let bindings: Vec<_> = {
            let bindings = lock(&self.inner().bindings);
            bindings.iter().filter_map(|(name, tables)| Some((name.clone(), tables.upgrade()?))).collect()
        };
        for (name, tables) in bindings {
            with(&name, false, &mut lock(&tables.enforced));
            with(&name, true, &mut lock(&tables.shadow));
        }
    }
}

impl Table {
    /// Notes that a counter has yet to be told, where there is somebody to tell.
    pub(super) fn note_change(&mut self, key: &str, period_ms: u64) {
        let Self { changed: Some(changed), keys, .. } = self else { return };
        if period_ms < MIN_PERIOD_MS {
            return;
        }
        // As many as there can be counters: if they are more, some are of counters that are gone.
        if changed.len() >= MAX_KEYS * MAX_PERIODS {
            changed.retain(|(key, _)| keys.contains_key(key));
        }
        changed.insert((key.into(), period_ms));
    }

    fn next_change(&mut self) -> Option<(Box<str>, u64)> {
        let changed = self.changed.as_mut()?;
        let next = changed.iter().next().cloned()?;
        changed.take(&next)
    }

    fn hear(&mut self, replica: ReplicaId, key: &str, period_ms: u64, taken: Vec<(u64, u64)>, now: u64) {
        let counts = taken.iter().any(|(at, _)| at.saturating_add(period_ms) > now);
        if !self.keys.contains_key(key) {
            if !counts || !self.has_room(now) {
                return;
            }
            self.keys.insert(key.into(), Vec::new());
        }
        let windows = self.keys.get_mut(key).expect("it is there, or was just put in");
        if let Some(window) = windows.iter_mut().find(|window| window.period_ms == period_ms) {
            return window.elsewhere.hear(replica, taken);
        }
        windows.retain(|window| window.is_in_use(now));
        if counts && windows.len() < MAX_PERIODS {
            let mut window = Window::of(period_ms);
            window.elsewhere.hear(replica, taken);
            windows.push(window);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::counters::Probe;
    use super::*;

    const MINUTE: u64 = 60_000;
    const NOW: Timestamp = Timestamp::from_millis(1_000_000);

    fn binding() -> BindingName {
        BindingName::parse("limit").unwrap()
    }

    fn heard(key: &str, period_ms: u64, taken: Vec<(u64, u64)>) -> Total {
        Total { binding: binding(), shadow: false, key: key.to_owned(), period_ms, taken }
    }

    #[test]
    fn who_is_alone_has_nothing_to_tell() {
        let counters = Counters::default();
        let probe = Probe::of(&counters, &binding());
        assert!(probe.take("a", 3, 5, MINUTE, NOW).0);
        assert_eq!(counters.to_tell(9), []);
        counters.not_told(&[heard("a", MINUTE, vec![(1, 1)])]);
        assert_eq!(counters.to_tell(9), []);
    }

    #[test]
    fn a_counter_is_told_once_whole_and_in_bounds() {
        let counters = Counters::shared();
        let probe = Probe::of(&counters, &binding());
        for _ in 0..2 {
            probe.take("a", 3, 9, MINUTE, NOW);
        }
        assert!(!probe.take("a", 4, 9, MINUTE, NOW).0);
        probe.take("a", 0, 9, MINUTE, NOW);
        probe.take("short", 1, 9, MIN_PERIOD_MS - 1, NOW);
        let told = counters.to_tell(9);
        assert_eq!(told, [heard("a", MINUTE, vec![(NOW.as_millis(), 6)])]);
        assert_eq!(counters.to_tell(9), [], "what was refused and what cost nothing is no news");
        counters.not_told(&told);
        probe.take("b", 1, 9, MINUTE, NOW);
        assert_eq!((counters.to_tell(1).len(), counters.to_tell(1).len(), counters.to_tell(1).len()), (1, 1, 0));
    }

    #[test]
    fn what_is_heard_counts_and_is_not_passed_on() {
        let counters = Counters::shared();
        let probe = Probe::of(&counters, &binding());
        let at = NOW.as_millis();
        for _ in 0..2 {
            counters.hear([1; 8], heard("a", MINUTE, vec![(at - 10, 2), (at - MINUTE, 5)]), NOW);
        }
        counters.hear([2; 8], heard("a", MINUTE, vec![(at, 1)]), NOW);
        counters.hear([2; 8], Total { shadow: true, ..heard("a", MINUTE, vec![(at, 7)]) }, NOW);
        counters.hear(
            [2; 8],
            Total { binding: BindingName::parse("other").unwrap(), ..heard("a", MINUTE, vec![(at, 7)]) },
            NOW,
        );
        assert_eq!(counters.to_tell(9), []);
        assert_eq!(probe.take("a", 0, 10, MINUTE, NOW), (true, 7, 0));
        assert_eq!(probe.take("a", 8, 10, MINUTE, NOW), (false, 7, MINUTE - 10), "when the first of it is over");
        counters.hear([1; 8], heard("a", MINUTE, Vec::new()), NOW);
        assert_eq!(probe.take("a", 0, 10, MINUTE, NOW), (true, 9, 0));
    }

    #[test]
    fn nobody_is_made_to_remember_without_bounds() {
        let mut elsewhere = Elsewhere::default();
        for replica in 0..=u8::MAX {
            elsewhere.hear([replica; 8], (0..1_000).map(|at| (at, 1)).collect());
        }
        assert_eq!(elsewhere.all().count(), MAX_REPLICAS * MAX_ENTRIES);
        assert_eq!(elsewhere.last(), Some(999));
        elsewhere.hear([0; 8], vec![(5, u64::MAX), (6, u64::MAX)]);
        assert_eq!(elsewhere.used(1_000, 7), u64::MAX);
        assert_eq!(elsewhere.used(1_000, 2_000), 0);
        assert_eq!(elsewhere.all().count(), 0);
    }
}
