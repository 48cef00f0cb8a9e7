//! What runs stand on that belong to no decision: loading a module, configuring it, trying it out.

use std::sync::Arc;
use std::time::Duration;

use super::counters::{BindingCounters, Charges};
use super::imports::Imports;
use super::instance::{Run, Spent};
use crate::config::Sets;
use crate::env::Timestamp;

/// Counters of its own, charges that nobody pays, and a clock that stands at 0.
#[derive(Debug)]
pub(super) struct Rehearsal {
    policy: Arc<str>,
    decision: Arc<str>,
    sets: Arc<Sets>,
    counters: BindingCounters,
    charges: Charges,
    limit: Duration,
    memory_bytes: usize,
}

impl Rehearsal {
    pub(super) fn new(policy: &str, sets: &Arc<Sets>, limit: Duration, memory_bytes: usize) -> Self {
        Self {
            policy: policy.into(),
            decision: "load".into(),
            sets: sets.clone(),
            counters: BindingCounters::default(),
            charges: Charges::default(),
            limit,
            memory_bytes,
        }
    }

    /// A run in it.
    pub(super) fn run(&self) -> Run<'_> {
        Run {
            policy: &self.policy,
            decision: &self.decision,
            limit: self.limit,
            memory_bytes: self.memory_bytes,
            now: Timestamp::from_millis(0),
            sets: &self.sets,
            counters: Some(&self.counters),
            charges: &self.charges,
            shadow: false,
            imports: Imports::Live,
            spent: Spent::default(),
        }
    }
}
