//! The two capabilities that are injected: time and randomness.
//!
//! Nothing else in this crate reads a clock or a random source (`clippy.toml` holds that), so a test decides
//! what time it is. Monotonic time for timeouts comes from tokio and is not injected.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Milliseconds since the Unix epoch, UTC.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Timestamp(u64);

impl Timestamp {
    /// From milliseconds since the Unix epoch.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the Unix epoch.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// This moment and `duration` later, or the last moment that can be told.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(millis))
    }

    /// This moment and `duration` earlier, or the epoch.
    #[must_use]
    pub fn before(self, duration: Duration) -> Self {
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Self(self.0.saturating_sub(millis))
    }

    /// The same moment in the standard library's words.
    pub fn to_system_time(self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.0)
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC with milliseconds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_rfc3339_millis(self.to_system_time()).fmt(f)
    }
}

/// Tells the time of day.
pub trait Clock: Send + Sync {
    /// Now.
    fn now(&self) -> Timestamp;
}

/// Gives unpredictable bytes.
pub trait Entropy: Send + Sync {
    /// Fills `bytes`, fit for keys and tokens.
    fn fill(&self, bytes: &mut [u8]);
}

/// Both capabilities, handed to [`crate::serve`].
#[derive(Clone)]
pub struct Env {
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
}

impl Env {
    /// The machine's clock and random source.
    pub fn system() -> Self {
        Self { clock: Arc::new(SystemClock), entropy: Arc::new(SystemEntropy) }
    }

    /// The same with a clock that can be set right, and what sets it right. Until then it tells the same time.
    ///
    /// All clones of what is returned follow; this one does not.
    pub fn adjustable(&self) -> (Self, ClockOffset) {
        let offset = ClockOffset { local: self.clock.clone(), millis: Arc::new(AtomicI64::new(0)) };
        (Self { clock: Arc::new(offset.clone()), entropy: self.entropy.clone() }, offset)
    }

    /// Now.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// `N` unpredictable bytes.
    pub fn random<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.entropy.fill(&mut bytes);
        bytes
    }
}

impl fmt::Debug for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Env")
    }
}

/// How far a clock is from one that counts, such as the store's that several gateways share. Clones share it.
///
/// A measurement says between which two local moments the other clock told a time. The offset that is in use stays as long
/// as it agrees with what was measured, so that it does not tremble with each answer's travel time.
#[derive(Clone)]
pub struct ClockOffset {
    local: Arc<dyn Clock>,
    millis: Arc<AtomicI64>,
}

impl ClockOffset {
    /// The time without the offset, for a measurement.
    pub fn local(&self) -> Timestamp {
        self.local.now()
    }

    /// What is added to the local clock, in milliseconds.
    pub fn millis(&self) -> i64 {
        self.millis.load(Ordering::Relaxed)
    }

    /// The other clock told `theirs` at some moment from `asked` to `answered`, both by the local clock.
    pub fn measured(&self, theirs: Timestamp, asked: Timestamp, answered: Timestamp) {
        let (least, most) = (difference(theirs, answered.max(asked)), difference(theirs, asked.min(answered)));
        // `least` is not more than `most`: their order is that of the local moments, the other way round.
        self.millis.store(self.millis().clamp(least, most), Ordering::Relaxed);
    }
}

impl Clock for ClockOffset {
    fn now(&self) -> Timestamp {
        Timestamp(self.local.now().0.saturating_add_signed(self.millis()))
    }
}

impl fmt::Debug for ClockOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ms", self.millis())
    }
}

fn difference(theirs: Timestamp, ours: Timestamp) -> i64 {
    let millis = i128::from(theirs.0) - i128::from(ours.0);
    i64::try_from(millis).unwrap_or(if millis < 0 { i64::MIN } else { i64::MAX })
}

struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
    fn now(&self) -> Timestamp {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
    }
}

struct SystemEntropy;

impl Entropy for SystemEntropy {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the random source")]
    fn fill(&self, bytes: &mut [u8]) {
        aws_lc_rs::rand::fill(bytes).expect("the operating system's random source does not fail once it is seeded");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    struct Standing(AtomicU64);

    impl Clock for Standing {
        fn now(&self) -> Timestamp {
            Timestamp(self.0.load(Ordering::Relaxed))
        }
    }

    #[test]
    fn a_clock_is_set_right_and_stays_as_long_as_it_can_be_right() {
        let at = Timestamp::from_millis;
        let local = Env { clock: Arc::new(Standing(AtomicU64::new(1_000_000))), ..Env::system() };
        let (env, offset) = local.adjustable();
        let clone = env.clone();
        assert_eq!((env.now(), offset.millis()), (at(1_000_000), 0));
        for (theirs, asked, answered, expected) in [
            (1_000_005, 1_000_000, 1_000_010, 0),       // It may be right as it is.
            (1_300_000, 1_000_000, 1_000_010, 299_990), // Five minutes behind.
            (1_300_000, 1_000_000, 1_000_400, 299_990),
            (1_299_980, 1_000_000, 1_000_010, 299_980),
            (700_000, 1_000_000, 1_000_010, -300_000), // Five minutes ahead.
            (700_000, 1_000_010, 1_000_000, -300_000), // The local clock was set back meanwhile.
            (0, u64::MAX, u64::MAX, i64::MIN),
        ] {
            offset.measured(at(theirs), at(asked), at(answered));
            assert_eq!(offset.millis(), expected, "{theirs} between {asked} and {answered}");
            assert_eq!(clone.now(), at(1_000_000_u64.saturating_add_signed(expected)));
        }
        assert_eq!(local.now(), at(1_000_000));
    }
}
