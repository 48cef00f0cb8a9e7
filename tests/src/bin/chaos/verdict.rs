//! What was seen: how calls ended, and what should not have been.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Violations that are told in full.
const MAX_TOLD: usize = 20;

#[derive(Default)]
pub(crate) struct Verdict(Mutex<Seen>);

#[derive(Default)]
struct Seen {
    /// How many calls ended in each way.
    endings: BTreeMap<String, usize>,
    slowest: Duration,
    remarks: Vec<String>,
    violations: Vec<String>,
    violation_count: usize,
}

impl Verdict {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call ended in this way.
    pub(crate) fn ending(&self, how: String, after: Duration) {
        let mut seen = self.seen();
        *seen.endings.entry(how).or_default() += 1;
        seen.slowest = seen.slowest.max(after);
    }

    pub(crate) fn say(&self, remark: &str) {
        self.seen().remarks.push(remark.to_owned());
    }

    /// Something happened that must not.
    pub(crate) fn violation(&self, what: String) {
        let mut seen = self.seen();
        seen.violation_count += 1;
        if seen.violations.len() < MAX_TOLD {
            seen.violations.push(what);
        }
    }

    /// Prints everything; whether nothing was violated.
    #[expect(clippy::print_stdout, reason = "a program whose output is its result")]
    pub(crate) fn print(&self) -> bool {
        let seen = self.seen();
        println!("{} calls, the longest took {:?}:", seen.endings.values().sum::<usize>(), seen.slowest);
        for (how, count) in &seen.endings {
            println!("  {count:>8} {how}");
        }
        for remark in &seen.remarks {
            println!("{remark}");
        }
        println!("{} violations", seen.violation_count);
        for violation in &seen.violations {
            println!("  {violation}");
        }
        seen.violation_count == 0
    }
}
