//! Authorization servers that fail are left alone for a while (`docs/threat-model.md` row U8).
//!
//! What is counted is of a server and in memory: that one connection failed is in the store, and pauses it alone. After some
//! failures in a row nobody asks the server until a pause is over, which doubles each time; then one asks, and what comes of
//! that decides for all. A refusal is an answer and no failure.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::env::Timestamp;

/// Failures in a row before a server is left alone.
const MAX_FAILURES: u32 = 5;
/// The first pause, doubled with each failure that follows.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
/// The longest, without its jitter.
const LAST_PAUSE: Duration = Duration::from_secs(5 * 60);
/// How long others wait for whoever asks first after a pause.
const TRIAL: Duration = Duration::from_secs(20);
/// Failing servers that are remembered.
const MAX_REMEMBERED: usize = 1_024;

/// Counts failures of authorization servers.
#[derive(Default)]
pub(super) struct Breaker(Mutex<HashMap<String, Failing>>);

#[derive(Clone, Copy)]
struct Failing {
    count: u32,
    /// Nobody asks before.
    until: Timestamp,
}

impl Failing {
    /// How long nobody asks. A time that is further ahead than any pause was set before the clock was set back.
    fn left(self, now: Timestamp) -> Option<Duration> {
        let left = Duration::from_millis(self.until.as_millis().saturating_sub(now.as_millis()));
        (!left.is_zero() && left <= LAST_PAUSE + LAST_PAUSE / 4).then_some(left)
    }
}

impl Breaker {
    /// How long this server is left alone, if it is.
    pub(super) fn left_alone(&self, issuer: &str, now: Timestamp) -> Option<Duration> {
        self.lock().get(issuer)?.left(now)
    }

    /// Asks to ask it. After a pause, one may.
    ///
    /// # Errors
    /// How long to wait.
    pub(super) fn admit(&self, issuer: &str, now: Timestamp) -> Result<(), Duration> {
        let mut failing = self.lock();
        let Some(known) = failing.get_mut(issuer) else { return Ok(()) };
        if let Some(left) = known.left(now) {
            return Err(left);
        }
        if known.count >= MAX_FAILURES {
            known.until = now.after(TRIAL);
        }
        Ok(())
    }

    /// Whoever was admitted at this moment did not ask after all: if that was to try it for all, another may.
    pub(super) fn not_asked(&self, issuer: &str, admitted: Timestamp) {
        if let Some(known) = self.lock().get_mut(issuer)
            && known.count >= MAX_FAILURES
            && known.until == admitted.after(TRIAL)
        {
            known.until = admitted;
        }
    }

    /// It has answered.
    pub(super) fn answered(&self, issuer: &str) {
        self.lock().remove(issuer);
    }

    /// It has not. `jitter` says how much of a quarter is put on the pause.
    pub(super) fn failed(&self, issuer: &str, now: Timestamp, jitter: u8) {
        let mut failing = self.lock();
        if failing.len() >= MAX_REMEMBERED
            && !failing.contains_key(issuer)
            && let Some(first) = failing.iter().min_by_key(|(_, known)| known.until).map(|(issuer, _)| issuer.clone())
        {
            failing.remove(&first);
        }
        let known = failing.entry(issuer.to_owned()).or_insert(Failing { count: 0, until: now });
        known.count = known.count.saturating_add(1);
        known.until = match known.count.checked_sub(MAX_FAILURES) {
            None => now,
            Some(over) => {
                let pause = FIRST_PAUSE.saturating_mul(1 << over.min(16)).min(LAST_PAUSE);
                now.after(pause + pause / 4 * u32::from(jitter) / u32::from(u8::MAX))
            }
        };
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Failing>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000_000);

    fn fail(breaker: &Breaker, issuer: &str, times: u32) {
        (0..times).for_each(|_| breaker.failed(issuer, NOW, 0));
    }

    #[test]
    fn a_server_that_fails_is_left_alone_and_tried_by_one() {
        let breaker = Breaker::default();
        fail(&breaker, "a", MAX_FAILURES - 1);
        assert_eq!(breaker.admit("a", NOW), Ok(()));
        fail(&breaker, "a", 1);
        assert_eq!((breaker.admit("a", NOW), breaker.left_alone("a", NOW)), (Err(FIRST_PAUSE), Some(FIRST_PAUSE)));
        assert_eq!(breaker.admit("b", NOW), Ok(()), "the others have nothing to do with it");
        let later = NOW.after(FIRST_PAUSE);
        assert_eq!(breaker.admit("a", later), Ok(()));
        assert_eq!(breaker.admit("a", later), Err(TRIAL), "one tries for all");
        assert_eq!(breaker.admit("a", later.after(TRIAL)), Ok(()), "who does not come back holds nobody up");
        breaker.answered("a");
        assert_eq!((breaker.admit("a", later), breaker.admit("a", later)), (Ok(()), Ok(())));
    }

    #[test]
    fn who_does_not_ask_after_all_leaves_the_trial_to_another() {
        let breaker = Breaker::default();
        fail(&breaker, "a", MAX_FAILURES);
        let later = NOW.after(FIRST_PAUSE);
        assert_eq!(breaker.admit("a", later), Ok(()));
        breaker.not_asked("a", NOW);
        assert_eq!(breaker.admit("a", later), Err(TRIAL), "that one was admitted at another time");
        breaker.not_asked("a", later);
        assert_eq!((breaker.admit("a", later), breaker.admit("a", later)), (Ok(()), Err(TRIAL)));
        breaker.failed("a", later, 0);
        let pause = breaker.left_alone("a", later);
        breaker.not_asked("a", later);
        assert_eq!(breaker.left_alone("a", later), pause, "what came of it meanwhile counts");
        breaker.not_asked("b", later);
        assert_eq!(breaker.admit("b", later), Ok(()));
    }

    #[test]
    fn pauses_double_up_to_a_bound_with_jitter() {
        let breaker = Breaker::default();
        fail(&breaker, "a", MAX_FAILURES - 1);
        let pause = |jitter| {
            breaker.failed("a", NOW, jitter);
            breaker.left_alone("a", NOW).unwrap().as_secs()
        };
        assert_eq!([0; 8].map(pause), [5, 10, 20, 40, 80, 160, 300, 300]);
        assert_eq!([u8::MAX, 128].map(pause), [375, 337]);
    }

    #[test]
    fn a_clock_that_is_set_back_holds_nobody_up() {
        let breaker = Breaker::default();
        fail(&breaker, "a", 20);
        assert_eq!(breaker.left_alone("a", NOW.before(Duration::from_secs(3_600))), None);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let breaker = Breaker::default();
        for number in 0..2 * MAX_REMEMBERED {
            breaker.failed(&number.to_string(), NOW, 0);
        }
        assert_eq!(breaker.lock().len(), MAX_REMEMBERED);
    }
}
