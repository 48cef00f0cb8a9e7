//! What is counted of requests. Labels have values that are known beforehand, but for tools where the operator wants those.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;

use super::{Refusal, mark};
use crate::audit::{RecordedOutcome, RecordedVerdict};
use crate::telemetry::{Grid, OTHER, Reading, Timings};

/// What requests ask for, and what policies are asked about besides. Only what happened is told, so that one list serves both.
const OPERATIONS: &[&str] = &[
    "ping",
    "server/discover",
    "tools/list",
    "tools/call",
    "prompts/list",
    "prompts/get",
    "resources/list",
    "resources/templates/list",
    "resources/read",
    "resources/directory/read",
    "resources/subscribe",
    "resources/unsubscribe",
    "skills/list",
    "skills/get",
    "completion/complete",
    "logging/setLevel",
    "tasks/get",
    "tasks/result",
    "tasks/update",
    "tasks/cancel",
    "sampling/createMessage",
    "elicitation/create",
    "roots/list",
    "oauth",
    OTHER,
];
/// `ok`, or see [`mark::word`].
const OUTCOMES: &[&str] =
    &["ok", "unknown", "invalid", "unanswered", "policy", "unapproved", "unconnected", "store", "upstream", OTHER];
const ERAS: &[&str] = &["modern", "legacy"];
const VERDICTS: &[&str] = &["allow", "consent", "deny", "hidden", "step-up", "approve", "throttle", "error", OTHER];
const ENDS: &[&str] = &["result", "tool_error", "error", "refused", "cancelled", OTHER];
/// Tools that are counted by name. Others count together.
const MAX_TOOLS: usize = 500;

/// What is counted of requests.
#[derive(Debug)]
pub struct Meters {
    requests: Grid<3>,
    took: Timings<1>,
    decisions: Grid<3>,
    stages: Timings<1>,
    tools: Option<Tools>,
}

impl Meters {
    /// `by_tool`: whether calls are counted by tool as well.
    pub fn new(by_tool: bool) -> Self {
        Self {
            requests: Grid::new([OPERATIONS, OUTCOMES, ERAS]),
            took: Timings::new([OPERATIONS]),
            decisions: Grid::new([OPERATIONS, VERDICTS, ENDS]),
            stages: Timings::new([&["identity", "policy", "upstream"]]),
            tools: by_tool.then(Tools::default),
        }
    }

    pub(super) fn answered<T>(&self, method: &str, is_legacy: bool, ended: &Result<T, Refusal>, took: Duration) {
        let outcome = ended.as_ref().err().map_or("ok", mark::word);
        self.requests.count([method, outcome, if is_legacy { "legacy" } else { "modern" }]);
        self.took.took([method], took);
    }

    pub(super) fn decided(&self, operation: &str, verdict: RecordedVerdict, outcome: RecordedOutcome) {
        // Those are `grant.authorize` and its like.
        let operation = if operation.contains('.') { "oauth" } else { operation };
        self.decisions.count([operation, verdict.as_str(), outcome.as_str()]);
    }

    pub(super) fn stages(&self, stages: [(&str, Duration); 3]) {
        for (stage, took) in stages.into_iter().filter(|(_, took)| !took.is_zero()) {
            self.stages.took([stage], took);
        }
    }

    /// A call of a tool that there is.
    pub(super) fn called(&self, upstream: &str, tool: &str) {
        if let Some(tools) = &self.tools {
            tools.count(upstream, tool);
        }
    }

    /// By method, outcome and era.
    pub fn requests(&self) -> Vec<([&'static str; 3], u64)> {
        self.requests.read()
    }

    /// By method.
    pub fn took(&self) -> Vec<([&'static str; 1], Reading)> {
        self.took.read()
    }

    /// By operation, verdict and outcome.
    pub fn decisions(&self) -> Vec<([&'static str; 3], u64)> {
        self.decisions.read()
    }

    /// By stage.
    pub fn stages_took(&self) -> Vec<([&'static str; 1], Reading)> {
        self.stages.read()
    }

    /// Calls by upstream and tool, where they are counted so.
    pub fn tools(&self) -> Vec<(Arc<(String, String)>, u64)> {
        self.tools.as_ref().map(Tools::read).unwrap_or_default()
    }
}

/// Calls by tool. Who counts a known tool takes no lock.
#[derive(Debug, Default)]
struct Tools(ArcSwap<HashMap<String, Tool>>);

#[derive(Clone, Debug)]
struct Tool {
    of: Arc<(String, String)>,
    calls: Arc<AtomicU64>,
}

impl Tools {
    fn count(&self, upstream: &str, tool: &str) {
        // No name of an upstream has a slash.
        let key = format!("{upstream}/{tool}");
        let known = self.0.load();
        let is_full = known.len() >= MAX_TOOLS;
        let key = if is_full && !known.contains_key(&key) { OTHER.to_owned() } else { key };
        let calls = match known.get(&key) {
            Some(tool) => tool.calls.clone(),
            None => self.add(&key, if key == OTHER { (OTHER, OTHER) } else { (upstream, tool) }),
        };
        calls.fetch_add(1, Ordering::Relaxed);
    }

    fn add(&self, key: &str, (upstream, tool): (&str, &str)) -> Arc<AtomicU64> {
        let of = Arc::new((upstream.to_owned(), tool.to_owned()));
        let fresh = Tool { of, calls: Arc::default() };
        // Two at once come to the same counter: whoever comes second finds the first one's.
        self.0.rcu(|known| {
            let mut more = HashMap::clone(known);
            more.entry(key.to_owned()).or_insert_with(|| fresh.clone());
            more
        });
        self.0.load().get(key).map_or_else(|| fresh.calls.clone(), |tool| tool.calls.clone())
    }

    fn read(&self) -> Vec<(Arc<(String, String)>, u64)> {
        self.0.load().values().map(|tool| (tool.of.clone(), tool.calls.load(Ordering::Relaxed))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tools_beyond_the_bound_count_together() {
        let meters = Meters::new(true);
        for round in 0..2 {
            for number in 0..MAX_TOOLS + 100 {
                meters.called("notes", &format!("t{number}"));
            }
            let tools = meters.tools();
            assert_eq!(tools.len(), MAX_TOOLS + 1);
            let others = tools.iter().find(|(of, _)| of.1 == OTHER).unwrap();
            assert_eq!(others.1, 100 * (round + 1));
        }
        let without = Meters::new(false);
        without.called("notes", "t");
        assert!(without.tools().is_empty());
    }

    #[test]
    fn every_verdict_and_outcome_of_a_decision_has_a_counter_of_its_own() {
        let meters = Meters::new(false);
        let verdicts = ["allow", "consent", "deny", "hidden", "step-up", "approve", "throttle", "error"];
        for verdict in verdicts.map(|word| RecordedVerdict::parse(word).unwrap()) {
            meters.decided("grant.authorize", verdict, RecordedOutcome::Refused);
        }
        let counted = meters.decisions();
        assert_eq!(counted.len(), verdicts.len());
        assert!(
            counted
                .iter()
                .all(|([operation, verdict, _], count)| { *operation == "oauth" && *verdict != OTHER && *count == 1 })
        );
    }

    #[test]
    fn every_method_has_a_counter_of_its_own() {
        use crate::mcp::call::Verb;
        use crate::mcp::revision::ListKind;
        let verbs = [
            Verb::GetPrompt,
            Verb::ReadResource,
            Verb::ListDirectory,
            Verb::GetSkill,
            Verb::SubscribeResource,
            Verb::Complete,
            Verb::GetTask,
            Verb::TaskResult,
            Verb::UpdateTask,
            Verb::CancelTask,
        ];
        for method in verbs.map(Verb::method).into_iter().chain(ListKind::ALL.map(ListKind::method)) {
            assert!(OPERATIONS.contains(&method), "{method}");
        }
    }
}
