//! How many requests came to what, minute by minute: what the overview of operators draws.
//!
//! In memory and of this gateway alone: the decision trail is what lasts, and counts whatever anybody wants of it. Nothing
//! of a request is kept but that there was one.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::audit::{RecordedOutcome, RecordedVerdict};
use crate::env::Timestamp;

/// Minutes that are remembered.
pub const MINUTES: u64 = 24 * 60;
/// Classes of times: the first holds what took less than a millisecond, each following one what took less than twice that.
const CLASSES: usize = 18;
const MINUTE_MS: u64 = 60_000;
/// A clock that is set back by more than this was wrong before.
const MAX_BACK: Duration = Duration::from_secs(5 * 60);

/// What was counted lately.
#[derive(Debug, Default)]
pub struct Traffic(Mutex<VecDeque<Counts>>);

/// What came in some time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// When it began.
    pub from: Timestamp,
    pub allowed: u64,
    /// By a policy, by access, or since there is no such thing.
    pub denied: u64,
    /// Until somebody consents, signs in again or approves.
    pub held: u64,
    pub throttled: u64,
    /// Those of all of them that ended with an error: of the upstream, of its tool, or of the gateway.
    pub failed: u64,
    times: [u64; CLASSES],
}

impl Traffic {
    /// A request ended.
    pub fn count(&self, at: Timestamp, verdict: RecordedVerdict, outcome: RecordedOutcome, elapsed: Duration) {
        let minute = Timestamp::from_millis(at.as_millis() / MINUTE_MS * MINUTE_MS);
        let mut minutes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // One that was ahead and was set right: what it counted is of no time.
        let ahead = minute.after(MAX_BACK);
        while minutes.back().is_some_and(|last| last.from > ahead) {
            minutes.pop_back();
        }
        // A clock that was set back counts into the last minute.
        if minutes.back().is_none_or(|last| last.from < minute) {
            minutes.push_back(Counts { from: minute, ..Counts::default() });
            let oldest = minute.before(Duration::from_secs(MINUTES * 60));
            while minutes.front().is_some_and(|first| first.from <= oldest) {
                minutes.pop_front();
            }
        }
        if let Some(counts) = minutes.back_mut() {
            counts.add(verdict, outcome, elapsed);
        }
    }

    /// At least the last so many minutes up to now, in spans of so many minutes each, from the earliest; the last one has
    /// only begun. Both are at least 1 and at most [`MINUTES`].
    pub fn lately(&self, now: Timestamp, minutes: u64, span: u64) -> Vec<Counts> {
        let (minutes, span_ms) = (minutes.clamp(1, MINUTES), span.clamp(1, MINUTES) * MINUTE_MS);
        let last = now.as_millis() / span_ms;
        let first = now.as_millis().saturating_sub((minutes - 1) * MINUTE_MS) / span_ms;
        let begun = |span: u64| Counts { from: Timestamp::from_millis(span * span_ms), ..Counts::default() };
        let mut spans: Vec<Counts> = (first..=last).map(begun).collect();
        for counts in self.0.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let at = (counts.from.as_millis() / span_ms).checked_sub(first);
            if let Some(span) = at.and_then(|at| spans.get_mut(usize::try_from(at).ok()?)) {
                span.merge(counts);
            }
        }
        spans
    }
}

impl Counts {
    /// What came in all of these spans, which begin with the first.
    pub fn sum(spans: &[Self]) -> Self {
        let from = spans.first().map(|first| first.from).unwrap_or_default();
        let mut sum = Self { from, ..Self::default() };
        for span in spans {
            sum.merge(span);
        }
        sum
    }

    pub fn total(&self) -> u64 {
        self.allowed + self.denied + self.held + self.throttled
    }

    /// The time within which this share of requests ended, in milliseconds: the upper end of its class. `None` where there
    /// were none.
    pub fn quantile_ms(&self, share: f64) -> Option<u64> {
        let total: u64 = self.times.iter().sum();
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share of a count"
        )]
        let rank = ((total as f64) * share.clamp(0.0, 1.0)).ceil() as u64;
        let mut seen = 0;
        let class = self.times.iter().position(|count| {
            seen += count;
            seen >= rank.max(1)
        })?;
        Some(1 << class)
    }

    fn add(&mut self, verdict: RecordedVerdict, outcome: RecordedOutcome, elapsed: Duration) {
        *self.of(verdict) += 1;
        let is_failure = matches!(outcome, RecordedOutcome::Error | RecordedOutcome::ToolError);
        self.failed += u64::from(is_failure);
        let ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        let class = (u64::BITS - ms.leading_zeros()) as usize;
        self.times[class.min(CLASSES - 1)] += 1;
    }

    fn merge(&mut self, other: &Self) {
        let Self { from: _, allowed, denied, held, throttled, failed, times } = other;
        self.allowed += allowed;
        self.denied += denied;
        self.held += held;
        self.throttled += throttled;
        self.failed += failed;
        for (sum, count) in self.times.iter_mut().zip(times) {
            *sum += count;
        }
    }

    fn of(&mut self, verdict: RecordedVerdict) -> &mut u64 {
        use RecordedVerdict as V;
        match verdict {
            V::Deny | V::Hidden | V::Hide | V::Block | V::Error => &mut self.denied,
            V::Consent | V::StepUp | V::Approve => &mut self.held,
            V::Throttle => &mut self.throttled,
            V::Abstain
            | V::Allow
            | V::Release
            | V::Show
            | V::Filter
            | V::Pass
            | V::Redact
            | V::WouldAbstain
            | V::WouldRelease
            | V::WouldConsent
            | V::WouldAllow
            | V::WouldDeny
            | V::WouldStepUp
            | V::WouldApprove
            | V::WouldThrottle
            | V::WouldShow
            | V::WouldHide
            | V::WouldFilter
            | V::WouldPass
            | V::WouldRedact
            | V::WouldBlock
            | V::WouldError => &mut self.allowed,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY: u64 = MINUTES * MINUTE_MS;

    fn at(minute: u64) -> Timestamp {
        Timestamp::from_millis(100 * DAY + minute * MINUTE_MS + 1)
    }

    fn count(traffic: &Traffic, minute: u64, verdict: RecordedVerdict) {
        traffic.count(at(minute), verdict, RecordedOutcome::Result, Duration::from_millis(3));
    }

    #[test]
    fn requests_are_counted_by_what_was_said_of_them_and_for_a_day() {
        let traffic = Traffic::default();
        count(&traffic, 0, RecordedVerdict::Allow);
        count(&traffic, 0, RecordedVerdict::Deny);
        count(&traffic, 2, RecordedVerdict::Approve);
        traffic.count(at(2), RecordedVerdict::Abstain, RecordedOutcome::ToolError, Duration::from_secs(1));
        let spans = traffic.lately(at(2), 3, 1);
        let told: Vec<_> =
            spans.iter().map(|counts| (counts.allowed, counts.denied, counts.held, counts.failed)).collect();
        assert_eq!(told, [(1, 1, 0, 0), (0, 0, 0, 0), (1, 0, 1, 1)]);
        assert_eq!(Counts::sum(&spans).total(), 4);
        assert_eq!((Counts::sum(&spans).from, Counts::sum(&[]).total()), (spans[0].from, 0));
        assert_eq!(traffic.lately(at(2), 3, 4).iter().map(Counts::total).sum::<u64>(), 4);
        count(&traffic, MINUTES + 1, RecordedVerdict::Throttle);
        assert_eq!(traffic.0.lock().unwrap().len(), 2, "what is older than a day is forgotten");
        count(&traffic, MINUTES, RecordedVerdict::Throttle);
        assert_eq!(traffic.lately(at(MINUTES + 1), 1, 1)[0].throttled, 2, "a clock that was set back loses nothing");
        count(&traffic, 9 * MINUTES, RecordedVerdict::Allow);
        count(&traffic, MINUTES + 2, RecordedVerdict::Allow);
        assert_eq!(traffic.lately(at(MINUTES + 2), 1, 1)[0].allowed, 1, "a clock that was ahead blinds nobody");
    }

    #[test]
    fn times_are_told_by_their_class() {
        let traffic = Traffic::default();
        for ms in [0, 1, 5, 5, 200] {
            traffic.count(at(0), RecordedVerdict::Allow, RecordedOutcome::Result, Duration::from_millis(ms));
        }
        let counts = &traffic.lately(at(0), 1, 1)[0];
        assert_eq!([0.0, 0.5, 0.8, 0.99].map(|share| counts.quantile_ms(share)), [1, 8, 8, 256].map(Some));
        assert_eq!(Counts::default().quantile_ms(0.5), None);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_in_spans(minutes in proptest::collection::vec(0..MINUTES, 0..200), span in 1..120u64) {
            let traffic = Traffic::default();
            let mut minutes = minutes;
            minutes.sort_unstable();
            for minute in &minutes {
                count(&traffic, *minute, RecordedVerdict::Allow);
            }
            let spans = traffic.lately(at(MINUTES - 1), MINUTES, span);
            prop_assert_eq!(spans.iter().map(Counts::total).sum::<u64>(), minutes.len() as u64);
            prop_assert!(spans.windows(2).all(|two| two[0].from < two[1].from));
        }
    }
}
