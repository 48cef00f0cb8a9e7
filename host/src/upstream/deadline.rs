//! The time that an exchange with an upstream may take. It stands still while a person is asked something.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// A point in time that moves on while it is paused. Clones are the same deadline.
#[derive(Clone, Debug)]
pub(super) struct Deadline {
    timeout: Duration,
    clock: Arc<watch::Sender<Clock>>,
}

#[derive(Clone, Copy, Debug)]
struct Clock {
    /// When the time is up, were it not for the pause under way.
    at: Instant,
    pauses: usize,
    /// When the first of the pauses under way began.
    since: Instant,
    /// How much standstill is left.
    allowance: Duration,
}

impl Clock {
    /// When the time is up at the latest, if nothing changes.
    fn latest(&self) -> Instant {
        if self.pauses == 0 { self.at } else { self.at + self.allowance }
    }
}

impl Deadline {
    /// In `timeout` from now, pauses aside. They are `longest_pause` at most, all together: whoever asks again and
    /// again does not keep a call alive for ever.
    pub(super) fn after(timeout: Duration, longest_pause: Duration) -> Self {
        let now = Instant::now();
        let clock = Clock { at: now + timeout, pauses: 0, since: now, allowance: longest_pause };
        Self { timeout, clock: Arc::new(watch::Sender::new(clock)) }
    }

    /// When the time is up; `None` while it stands still.
    #[cfg(test)]
    pub(super) fn at(&self) -> Option<Instant> {
        let clock = self.clock.borrow();
        (clock.pauses == 0).then_some(clock.at)
    }

    /// How much time there was in the beginning.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Waits until the time is up.
    pub(super) async fn passed(&self) {
        let mut changes = self.clock.subscribe();
        loop {
            let latest = changes.borrow_and_update().latest();
            tokio::select! {
                () = tokio::time::sleep_until(latest) => return,
                // Fails only without a sender, and `self` has one.
                _ = changes.changed() => {}
            }
        }
    }

    /// Lets the time stand still until all pauses are dropped.
    pub(super) fn pause(&self) -> Paused {
        self.clock.send_modify(|clock| {
            if clock.pauses == 0 {
                clock.since = Instant::now();
            }
            clock.pauses += 1;
        });
        Paused(self.clone())
    }
}

/// The time of a [`Deadline`] stands still while this lives.
#[derive(Debug)]
#[must_use]
pub(super) struct Paused(Deadline);

impl Drop for Paused {
    fn drop(&mut self) {
        self.0.clock.send_modify(|clock| {
            clock.pauses -= 1;
            if clock.pauses == 0 {
                let paused = clock.since.elapsed().min(clock.allowance);
                clock.allowance -= paused;
                clock.at += paused;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_millis(40);

    #[tokio::test]
    async fn time_stands_still_while_paused() {
        let begin = Instant::now();
        let deadline = Deadline::after(4 * STEP, 100 * STEP);
        let waiting = deadline.clone();
        let passed = async move {
            waiting.passed().await;
            begin.elapsed()
        };
        let pauses = async {
            let first = deadline.pause();
            assert_eq!(deadline.at(), None);
            tokio::time::sleep(4 * STEP).await;
            let second = deadline.pause();
            drop(first);
            assert_eq!(deadline.at(), None, "it stands still as long as one pause lives");
            tokio::time::sleep(4 * STEP).await;
            drop(second);
            assert!(deadline.at().unwrap() >= begin + 12 * STEP);
        };
        let (passed, ()) = tokio::join!(passed, pauses);
        assert!(passed >= 12 * STEP, "{passed:?}");
        assert_eq!(deadline.timeout(), 4 * STEP);
    }

    #[tokio::test]
    async fn pauses_are_bounded_all_together() {
        let begin = Instant::now();
        let deadline = Deadline::after(STEP, 2 * STEP);
        let pause = deadline.pause();
        tokio::time::sleep(STEP).await;
        drop(pause);
        let _for_ever = deadline.pause();
        deadline.passed().await;
        let passed = begin.elapsed();
        assert!(passed >= 3 * STEP && passed < 100 * STEP, "{passed:?}");
    }
}
