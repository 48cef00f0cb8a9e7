//! The host's functions beyond `log`, for policies whose manifest names them and whose binding grants them.
//!
//! A module that calls a function of which it has no grant is refused when it is loaded, and one that calls none of them
//! does not import them. Outside of WebAssembly the doubles of `testing` answer.

#[cfg(target_arch = "wasm32")]
use crate::bindings::portcullis::policy as host;
#[cfg(not(target_arch = "wasm32"))]
use crate::testing::doubles as host;

/// The time, for policies to which the frozen `Context::now_ms` is not enough. Needs [`crate::Capability::CLOCK`].
pub mod clock {
    /// Milliseconds since the Unix epoch.
    pub fn now_ms() -> u64 {
        super::host::clock::now_ms()
    }
}

/// Randomness. Needs [`crate::Capability::RANDOM`].
pub mod random {
    /// So many random bytes, at most 4096. Not available in `configure`.
    pub fn bytes(count: u32) -> Vec<u8> {
        super::host::random::bytes(count)
    }
}

/// Counters that the host keeps, of one binding. Needs [`crate::Capability::COUNTERS`].
pub mod counters {
    use std::time::Duration;

    pub use crate::bindings::portcullis::policy::counters::Usage;

    /// Takes `cost` out of `limit` within a sliding window, or takes nothing if that is too much.
    ///
    /// One decision charges a key once, however often it is asked. `key` has at most 256 bytes. Not available in
    /// `configure`.
    pub fn take(key: &str, cost: u32, limit: u64, period: Duration) -> Usage {
        let period_ms = u64::try_from(period.as_millis()).unwrap_or(u64::MAX);
        super::host::counters::take(key, cost, limit, period_ms)
    }
}

/// Lists that operators manage apart from policies. Needs [`crate::Capability::SETS`].
pub mod sets {
    /// Whether the operator's set has this item. False also where there is no such set. Not available in `configure`.
    pub fn contains(set: &str, item: &str) -> bool {
        super::host::sets::contains(set, item)
    }
}
