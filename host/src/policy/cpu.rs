//! Processor time of the present thread: what a policy is charged for.
//!
//! A policy runs on one thread from beginning to end. Charging it for processor time instead of time on the wall means
//! that a busy machine, which takes the processor away in the middle of a run, does not make it fail.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use super::ticker::TICK;

/// A run may take this many times its limit on the wall, however little of the processor it gets.
const WALL_FACTOR: u32 = 20;

/// A moment in the life of this thread. Taking one is a system call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    processor: Duration,
    wall: Instant,
}

impl Moment {
    pub(super) fn now() -> Self {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
        let nanos = u32::try_from(time.tv_nsec).unwrap_or_default();
        Self { processor: Duration::new(seconds, nanos), wall: Instant::now() }
    }

    /// Processor time since then. Only for a moment of the same thread.
    pub(super) fn elapsed(self) -> Duration {
        Self::now().processor.saturating_sub(self.processor)
    }

    /// What is left of `limit`, or `None` if it is used up.
    pub(super) fn left_of(self, limit: Duration) -> Option<Duration> {
        if self.wall.elapsed() > limit.saturating_mul(WALL_FACTOR) {
            return None;
        }
        limit.checked_sub(self.elapsed()).filter(|left| !left.is_zero())
    }
}

/// The time of one run. It is measured from the first tick of the engine's clock that the run sees, so that the great
/// majority, which see none, cost no system call. A run may therefore take up to one tick more than its limit.
#[derive(Debug)]
pub(super) struct Budget {
    limit: Duration,
    begun: Instant,
    first_tick: Option<Moment>,
}

impl Budget {
    /// For a run that begins now.
    pub(super) fn of(limit: Duration) -> Self {
        Self { limit, begun: Instant::now(), first_tick: None }
    }

    /// What is left at a tick, or `None` if nothing is.
    pub(super) fn left(&mut self) -> Option<Duration> {
        match self.first_tick {
            Some(first) => first.left_of(self.limit),
            None => {
                self.first_tick = Some(Moment::now());
                Some(self.limit)
            }
        }
    }

    /// Processor time since the run began, to within one tick.
    pub(super) fn spent(&self) -> Duration {
        match self.first_tick {
            Some(first) => first.elapsed() + TICK,
            None => self.begun.elapsed().min(TICK),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_charged_and_rest_is_not() {
        let begun = Moment::now();
        let (sender, receiver) = std::sync::mpsc::channel::<()>();
        assert!(receiver.recv_timeout(Duration::from_millis(50)).is_err());
        assert!(begun.elapsed() < Duration::from_millis(40), "waiting is no work");
        drop(sender);
        let mut sum = 0_u64;
        while begun.elapsed() < Duration::from_millis(5) {
            sum = sum.wrapping_add(1);
        }
        assert!(sum > 0 && begun.left_of(Duration::from_millis(1)).is_none());
        assert!(begun.left_of(Duration::from_secs(3600)).is_some());
    }

    #[test]
    fn a_budget_runs_from_the_first_tick() {
        let limit = Duration::from_millis(2);
        let mut budget = Budget::of(limit);
        let begun = Moment::now();
        while begun.elapsed() < Duration::from_millis(3) {}
        assert!(budget.spent() <= TICK, "no tick was seen yet");
        assert_eq!(budget.left(), Some(limit));
        assert!(budget.left().is_some_and(|left| left <= limit));
        while begun.elapsed() < Duration::from_millis(6) {}
        assert_eq!(budget.left(), None);
        assert!(budget.spent() >= limit);
    }
}
