//! What guests import: interfaces `log` and `counters`. `clock`, `random` and `sets` have no records.

use serde::{Deserialize, Serialize};
use wasmtime::component::{ComponentType, Lift, Lower};

/// How loud a guest's log line is.
#[derive(ComponentType, Lift, Clone, Copy, Debug, PartialEq, Eq)]
#[component(enum)]
#[repr(u8)]
#[expect(dead_code, reason = "they come from guests, by value")]
pub(in crate::policy) enum Level {
    #[component(name = "debug")]
    Debug,
    #[component(name = "info")]
    Info,
    #[component(name = "warn")]
    Warn,
    #[component(name = "error")]
    Error,
}

/// What came of taking from a counter.
#[derive(ComponentType, Lower, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[component(record)]
pub(in crate::policy) struct Usage {
    pub(in crate::policy) allowed: bool,
    /// What is left of the limit.
    pub(in crate::policy) remaining: u64,
    /// How long until the cost would be allowed; 0 where it is.
    #[component(name = "retry-after-ms")]
    pub(in crate::policy) retry_after_ms: u64,
}
