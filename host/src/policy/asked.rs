//! How often a binding was asked, how long it took and what it said, for operators.

use std::time::Duration;

use super::decision::Hook;
use crate::telemetry::{Grid, OTHER, Reading, Timings};

/// The words of [`Hook::as_str`].
const HOOK_WORDS: [&str; Hook::ALL.len()] = {
    let mut words = [""; Hook::ALL.len()];
    let mut at = 0;
    while at < words.len() {
        words[at] = Hook::ALL[at].as_str();
        at += 1;
    }
    words
};
const HOOKS: &[&str] = &HOOK_WORDS;
/// What policies answer.
const VERDICTS: &[&str] = &[
    "abstain", "allow", "release", "consent", "step-up", "approve", "throttle", "deny", "show", "hide", "filter",
    "pass", "redact", "block", "error", OTHER,
];
/// See [`super::Failure::code`].
const FAILURES: &[&str] = &[
    "timeout",
    "trap",
    "memory-limit",
    "table-limit",
    "stack-overflow",
    "invalid-answer",
    "configure-refused",
    "not-started",
    "failed",
    "unavailable",
    "diverged",
    "busy",
    "no-inspector",
    "unreadable-result",
    "unfit-arguments",
    OTHER,
];

/// What a binding was asked since it was loaded.
#[derive(Debug)]
pub struct Asked {
    verdicts: Grid<2>,
    failures: Grid<2>,
    took: Timings<1>,
}

impl Default for Asked {
    fn default() -> Self {
        Self {
            verdicts: Grid::new([HOOKS, VERDICTS]),
            failures: Grid::new([HOOKS, FAILURES]),
            took: Timings::new([HOOKS]),
        }
    }
}

impl Asked {
    /// One answer, or the code of the failure in its place.
    pub(super) fn count(&self, hook: Hook, verdict: &str, failure: Option<&str>, micros: u64) {
        self.verdicts.count([hook.as_str(), verdict]);
        if let Some(failure) = failure {
            self.failures.count([hook.as_str(), failure]);
        }
        self.took.took([hook.as_str()], Duration::from_micros(micros));
    }

    /// Answers by hook and verdict.
    pub fn verdicts(&self) -> Vec<([&'static str; 2], u64)> {
        self.verdicts.read()
    }

    /// Failures by hook and kind.
    pub fn failures(&self) -> Vec<([&'static str; 2], u64)> {
        self.failures.read()
    }

    /// Time by hook, waiting for a place to run not included.
    pub fn took(&self) -> Vec<([&'static str; 1], Reading)> {
        self.took.read()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Failure;

    #[test]
    fn each_hook_has_counters_of_its_own() {
        let asked = Asked::default();
        for hook in Hook::ALL {
            asked.count(hook, "allow", None, 10);
        }
        asked.count(Hook::ToolCall, "error", Some(Failure::StackOverflow.code()), 10);
        assert_eq!(asked.verdicts().len(), Hook::ALL.len() + 1);
        assert_eq!(asked.failures(), [(["tool-call", "stack-overflow"], 1)]);
        assert!(asked.took().iter().all(|([hook], reading)| reading.count == 1 + u64::from(*hook == "tool-call")));
    }
}
