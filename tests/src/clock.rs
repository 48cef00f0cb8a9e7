//! A clock that stands still until a test moves it, and the machine's randomness.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use portcullis::env::{Clock, Env, Timestamp};

/// Starts at 2026-01-01T00:00:00Z. Clones are the same clock.
#[derive(Clone)]
pub struct TestClock(Arc<AtomicU64>);

impl Default for TestClock {
    fn default() -> Self {
        Self(Arc::new(AtomicU64::new(1_767_225_600_000)))
    }
}

impl TestClock {
    /// Lets time pass.
    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(u64::try_from(by.as_millis()).expect("a test's duration"), Ordering::SeqCst);
    }

    /// An environment with this clock.
    pub fn env(&self) -> Env {
        Env { clock: Arc::new(self.clone()), entropy: Env::system().entropy }
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::SeqCst))
    }
}
