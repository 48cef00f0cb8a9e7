//! What policies decide, in the host's own words. Pure: no Wasm, no IO, no clock.
//!
//! Answers of guests become these types only through [`super::answer`], which bounds and checks every part.
//! [`Tally`] merges the verdicts of a chain: deny before throttle before approval before step-up before allow
//! before abstain, and a failure is a denial.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;

use crate::config::WhenAllAbstain;
use crate::ids::BindingName;

/// Where in the life of a request policies are asked.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Hook {
    /// Which tools a caller sees.
    ListTools,
    /// Whether a call may go to its upstream.
    ToolCall,
    /// What of a result may reach the caller.
    ToolResult,
}

impl Hook {
    pub const ALL: [Self; 3] = [Self::ListTools, Self::ToolCall, Self::ToolResult];

    /// The name of its interface in the contract.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ListTools => "list-tools",
            Self::ToolCall => "tool-call",
            Self::ToolResult => "tool-result",
        }
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a policy decided as it did.
#[derive(Clone, Debug)]
pub struct Reason {
    /// Stable and short: `[a-z0-9._-]`.
    pub code: String,
    /// For a person or a model, without control characters.
    pub message: String,
    /// The rule that matched, as the author names it.
    pub rule: Option<String>,
    /// More for machines.
    pub detail: Option<Box<RawValue>>,
}

/// A fact that a policy adds to the decision log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    pub key: String,
    pub value: String,
}

/// One policy's answer about a call.
#[derive(Debug)]
pub(super) enum Verdict {
    Abstain,
    Allow(Terms),
    StepUp(StepUp),
    Approve(Approval),
    Throttle(Throttle),
    Deny(Denial),
}

impl Verdict {
    /// The word for logs.
    pub(super) const fn word(&self) -> &'static str {
        match self {
            Self::Abstain => "abstain",
            Self::Allow(_) => "allow",
            Self::StepUp(_) => "step-up",
            Self::Approve(_) => "approve",
            Self::Throttle(_) => "throttle",
            Self::Deny(_) => "deny",
        }
    }

    pub(super) fn reason(&self) -> Option<&Reason> {
        match self {
            Self::Abstain | Self::Allow(_) => None,
            Self::StepUp(step_up) => Some(&step_up.reason),
            Self::Approve(approval) => Some(&approval.reason),
            Self::Throttle(throttle) => Some(&throttle.reason),
            Self::Deny(denial) => Some(&denial.reason),
        }
    }
}

/// The terms under which one policy allows a call.
#[derive(Debug)]
pub(super) struct Terms {
    pub(super) rewrite: Rewrite,
    pub(super) inspect_result: bool,
    pub(super) timeout: Option<Duration>,
    pub(super) notes: Vec<Note>,
}

/// What a policy wants the arguments to become.
#[derive(Debug)]
pub(super) enum Rewrite {
    Keep,
    Patch(Vec<Edit>),
    Replace(Box<RawValue>),
}

/// One change to a JSON document.
#[derive(Debug)]
pub(super) struct Edit {
    /// RFC 6901.
    pub(super) pointer: String,
    pub(super) operation: Operation,
}

#[derive(Debug)]
pub(super) enum Operation {
    Remove,
    Set(Box<RawValue>),
    Mask(String),
}

/// More authority is needed first.
#[derive(Debug)]
pub(super) struct StepUp {
    pub(super) scopes: Vec<String>,
    pub(super) acr_values: Vec<String>,
    pub(super) max_age: Option<Duration>,
    pub(super) reason: Reason,
}

/// Somebody has to agree first.
#[derive(Debug)]
pub(super) struct Approval {
    pub(super) title: String,
    pub(super) summary: String,
    pub(super) reason: Reason,
}

#[derive(Debug)]
pub(super) struct Throttle {
    pub(super) retry_after_ms: u64,
    pub(super) reason: Reason,
}

#[derive(Debug)]
pub(super) struct Denial {
    pub(super) reason: Reason,
    pub(super) as_tool_error: bool,
    pub(super) rpc_code: Option<i32>,
    pub(super) rpc_data: Option<Box<RawValue>>,
}

impl Denial {
    pub(super) fn refusal(self, binding: &BindingName) -> Refusal {
        let Self { reason, as_tool_error, rpc_code, rpc_data } = self;
        Refusal::Denied { binding: binding.clone(), reason: reason.into(), as_tool_error, rpc_code, rpc_data }
    }
}

/// One policy's answer about a result.
#[derive(Debug)]
pub(super) enum Inspection {
    Abstain,
    Pass,
    Redact(Redaction),
    Block(Denial),
}

/// What a policy takes out of a result.
#[derive(Debug)]
pub(super) struct Redaction {
    pub(super) spans: Vec<Span>,
    pub(super) structured: Vec<Edit>,
    pub(super) drop_parts: Vec<usize>,
    pub(super) notes: Vec<Note>,
}

/// A stretch of a part's text and what takes its place. Not yet checked against the text.
#[derive(Debug)]
pub(super) struct Span {
    pub(super) part: usize,
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) replacement: String,
}

/// One policy's answer about one tool of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Visibility {
    Abstain,
    Show,
    Hide,
}

/// How a run of a policy went wrong. Whatever it is, the request is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    #[error("it ran longer than its {} ms", limit.as_millis())]
    Timeout { limit: Duration },
    #[error("it trapped: {message}")]
    Trap { message: String },
    #[error("it wanted more than its {limit_bytes} bytes of memory")]
    MemoryLimit { limit_bytes: usize },
    #[error("it wanted a table of more than {limit} elements")]
    TableLimit { limit: usize },
    #[error("it exhausted its call stack")]
    StackOverflow,
    #[error("its answer is invalid: {what}")]
    InvalidAnswer { what: String },
    #[error("it now refuses the configuration that it accepted when it was loaded: {message}")]
    ConfigureRefused { message: String },
    #[error("it cannot be started: {message}")]
    NotStarted { message: String },
    #[error("all slots for policy instances are taken")]
    Busy,
    #[error("it requires the result to be inspected, but no policy inspects results of this tool")]
    NoInspector,
    #[error("the result cannot be read for inspection: {what}")]
    UnreadableResult { what: String },
}

impl Failure {
    /// The word for logs and metrics.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Timeout { .. } => "timeout",
            Self::Trap { .. } => "trap",
            Self::MemoryLimit { .. } => "memory-limit",
            Self::TableLimit { .. } => "table-limit",
            Self::StackOverflow => "stack-overflow",
            Self::InvalidAnswer { .. } => "invalid-answer",
            Self::ConfigureRefused { .. } => "configure-refused",
            Self::NotStarted { .. } => "not-started",
            Self::Busy => "busy",
            Self::NoInspector => "no-inspector",
            Self::UnreadableResult { .. } => "unreadable-result",
        }
    }

    pub(super) fn invalid(what: impl Into<String>) -> Self {
        Self::InvalidAnswer { what: what.into() }
    }
}

/// Why policies do not let something pass.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Refusal {
    /// The caller does not see this tool, so that it does not exist for it.
    #[error("the tool is hidden from this caller")]
    Hidden,
    #[error("policy {binding} denied it: {}", reason.message)]
    Denied {
        binding: BindingName,
        reason: Box<Reason>,
        /// True: a tool result with `isError`, whose text the model reads. False: a JSON-RPC error.
        as_tool_error: bool,
        /// Only for a JSON-RPC error.
        rpc_code: Option<i32>,
        /// Only for a JSON-RPC error.
        rpc_data: Option<Box<RawValue>>,
    },
    /// More authority is needed first (RFC 6750 §3.1, RFC 9470).
    #[error("policy {binding} wants more authority: {}", reason.message)]
    StepUp {
        binding: BindingName,
        /// Scope tokens (RFC 6749 §3.3), fit for a header.
        scopes: Vec<String>,
        /// Authentication context class references, of the same characters as scope tokens.
        acr_values: Vec<String>,
        /// Oldest acceptable authentication.
        max_age: Option<Duration>,
        reason: Box<Reason>,
    },
    #[error("policy {binding} throttled it: {}", reason.message)]
    Throttled { binding: BindingName, retry_after_ms: u64, reason: Box<Reason> },
    /// Somebody would have to agree, and there is no way to do so yet.
    #[error("policy {binding} wants an approval, which cannot be given yet: {}", reason.message)]
    ApprovalNeeded { binding: BindingName, title: String, summary: String, reason: Box<Reason> },
    #[error("policy {binding} failed")]
    PolicyFailed {
        binding: BindingName,
        #[source]
        failure: Failure,
    },
    /// Policies are bound to the hook and none of them had an opinion.
    #[error("no {hook} policy allowed it")]
    NoPolicyAllowed { hook: Hook },
}

impl Refusal {
    /// The word for logs: which check refused.
    pub const fn check(&self) -> &'static str {
        match self {
            Self::Hidden => "hidden",
            Self::Denied { .. } => "denied",
            Self::StepUp { .. } => "step-up",
            Self::Throttled { .. } => "throttled",
            Self::ApprovalNeeded { .. } => "approval-needed",
            Self::PolicyFailed { .. } => "policy-failed",
            Self::NoPolicyAllowed { .. } => "no-policy-allowed",
        }
    }
}

/// One policy's part in a decision.
#[derive(Clone, Debug)]
pub struct Step {
    pub binding: BindingName,
    /// SHA-256 of the module, lower-case hex.
    pub module: Arc<str>,
    pub hook: Hook,
    /// What it answered: `allow`, `deny`, `hide`, …; `filter` for a whole list; `error` where it failed.
    pub verdict: &'static str,
    /// The reason's code, or the failure's.
    pub code: Option<String>,
    pub micros: u64,
    pub notes: Vec<Note>,
}

/// The word for a step of a policy that failed.
pub(super) const ERROR: &str = "error";

/// Which policies were asked, in order, and what each said.
#[derive(Clone, Debug, Default)]
pub struct Trail(pub Vec<Step>);

/// What a chain of policies has come to so far about one call.
#[derive(Debug, Default)]
pub(super) struct Tally {
    asked: bool,
    allowed: bool,
    halt: Option<Refusal>,
    timeout: Option<Duration>,
}

impl Tally {
    /// Adds one policy's verdict. A denial is returned at once: nothing that follows can change it.
    ///
    /// The rewrite and `inspect_result` of an allowing verdict are the chain's business and ignored here.
    pub(super) fn add(&mut self, binding: &BindingName, verdict: Verdict) -> Result<(), Refusal> {
        self.asked = true;
        let binding = binding.clone();
        match verdict {
            Verdict::Abstain => {}
            Verdict::Allow(terms) => {
                self.allowed = true;
                self.timeout = strictest(self.timeout, terms.timeout);
            }
            Verdict::StepUp(StepUp { scopes, acr_values, max_age, reason }) => {
                self.halt(Refusal::StepUp { binding, scopes, acr_values, max_age, reason: reason.into() });
            }
            Verdict::Approve(Approval { title, summary, reason }) => {
                self.halt(Refusal::ApprovalNeeded { binding, title, summary, reason: reason.into() });
            }
            Verdict::Throttle(Throttle { retry_after_ms, reason }) => {
                self.halt(Refusal::Throttled { binding, retry_after_ms, reason: reason.into() });
            }
            Verdict::Deny(denial) => return Err(denial.refusal(&binding)),
        }
        Ok(())
    }

    /// The merged verdict: the shortest timeout that an allowing policy set, or why the call may not go.
    pub(super) fn finish(self, when_all_abstain: WhenAllAbstain) -> Result<Option<Duration>, Refusal> {
        if let Some(refusal) = self.halt {
            return Err(refusal);
        }
        if self.asked && !self.allowed && when_all_abstain == WhenAllAbstain::Deny {
            return Err(Refusal::NoPolicyAllowed { hook: Hook::ToolCall });
        }
        Ok(self.timeout)
    }

    /// Keeps the stronger of two; of two of a kind, what satisfies both.
    fn halt(&mut self, new: Refusal) {
        self.halt = Some(match self.halt.take() {
            None => new,
            Some(old) if weight(&old) > weight(&new) => old,
            Some(old) if weight(&old) < weight(&new) => new,
            Some(old) => both(old, new),
        });
    }
}

/// The merge order.
const fn weight(refusal: &Refusal) -> u8 {
    match refusal {
        Refusal::StepUp { .. } => 1,
        Refusal::ApprovalNeeded { .. } => 2,
        Refusal::Throttled { .. } => 3,
        Refusal::Hidden | Refusal::Denied { .. } | Refusal::PolicyFailed { .. } | Refusal::NoPolicyAllowed { .. } => 4,
    }
}

/// One refusal for two of the same weight: one prompt for all authority that is wanted, the longer wait.
fn both(old: Refusal, new: Refusal) -> Refusal {
    match (old, new) {
        (
            Refusal::StepUp { binding, mut scopes, mut acr_values, max_age, reason },
            Refusal::StepUp { scopes: more_scopes, acr_values: more_acr, max_age: other_age, .. },
        ) => {
            add_missing(&mut scopes, more_scopes);
            add_missing(&mut acr_values, more_acr);
            Refusal::StepUp { binding, scopes, acr_values, max_age: strictest(max_age, other_age), reason }
        }
        (Refusal::Throttled { retry_after_ms: old_wait, .. }, new @ Refusal::Throttled { retry_after_ms, .. })
            if retry_after_ms > old_wait =>
        {
            new
        }
        (old, _) => old,
    }
}

fn add_missing(into: &mut Vec<String>, from: Vec<String>) {
    for item in from {
        if !into.contains(&item) {
            into.push(item);
        }
    }
}

fn strictest(first: Option<Duration>, second: Option<Duration>) -> Option<Duration> {
    match (first, second) {
        (Some(first), Some(second)) => Some(first.min(second)),
        (first, second) => first.or(second),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(code: &str) -> Reason {
        Reason { code: code.to_owned(), message: "because".to_owned(), rule: None, detail: None }
    }

    fn allow(timeout_ms: Option<u64>) -> Verdict {
        let timeout = timeout_ms.map(Duration::from_millis);
        Verdict::Allow(Terms { rewrite: Rewrite::Keep, inspect_result: false, timeout, notes: Vec::new() })
    }

    fn step_up(scope: &str) -> Verdict {
        let scopes = vec![scope.to_owned()];
        Verdict::StepUp(StepUp { scopes, acr_values: Vec::new(), max_age: None, reason: reason("step-up") })
    }

    fn approve() -> Verdict {
        Verdict::Approve(Approval { title: String::new(), summary: String::new(), reason: reason("approve") })
    }

    fn throttle(retry_after_ms: u64) -> Verdict {
        Verdict::Throttle(Throttle { retry_after_ms, reason: reason("throttle") })
    }

    fn deny() -> Verdict {
        let reason = reason("deny");
        Verdict::Deny(Denial { reason, as_tool_error: true, rpc_code: None, rpc_data: None })
    }

    /// What the chain comes to, in one word.
    fn merge(verdicts: Vec<Verdict>, when_all_abstain: WhenAllAbstain) -> String {
        let binding = BindingName::parse("one").unwrap();
        let mut tally = Tally::default();
        for verdict in verdicts {
            if let Err(refusal) = tally.add(&binding, verdict) {
                return refusal.check().to_owned();
            }
        }
        match tally.finish(when_all_abstain) {
            Ok(None) => "allow".to_owned(),
            Ok(Some(timeout)) => format!("allow {}", timeout.as_millis()),
            Err(Refusal::StepUp { scopes, .. }) => format!("step-up {}", scopes.join("+")),
            Err(Refusal::Throttled { retry_after_ms, .. }) => format!("throttled {retry_after_ms}"),
            Err(refusal) => refusal.check().to_owned(),
        }
    }

    #[test]
    fn the_strongest_verdict_wins_in_whatever_order_they_come() {
        type Make = fn() -> Verdict;
        let ascending: [(Make, &str); 6] = [
            (|| Verdict::Abstain, "no-policy-allowed"),
            (|| allow(None), "allow"),
            (|| step_up("write"), "step-up write"),
            (approve, "approval-needed"),
            (|| throttle(5), "throttled 5"),
            (deny, "denied"),
        ];
        for (weaker_at, (weaker, _)) in ascending.iter().enumerate() {
            for (stronger, expected) in &ascending[weaker_at..] {
                assert_eq!(merge(vec![weaker(), stronger()], WhenAllAbstain::Deny), *expected);
                assert_eq!(merge(vec![stronger(), weaker()], WhenAllAbstain::Deny), *expected);
                let between = vec![weaker(), stronger(), weaker(), Verdict::Abstain];
                assert_eq!(merge(between, WhenAllAbstain::Deny), *expected);
            }
        }
    }

    #[test]
    fn verdicts_of_a_kind_are_merged_to_satisfy_both() {
        let deny = WhenAllAbstain::Deny;
        assert_eq!(merge(vec![step_up("a"), step_up("b"), step_up("a")], deny), "step-up a+b");
        assert_eq!(merge(vec![throttle(5), throttle(9), throttle(7)], deny), "throttled 9");
        assert_eq!(merge(vec![allow(Some(70)), allow(None), allow(Some(50))], deny), "allow 50");
    }

    #[test]
    fn abstaining_leaves_it_to_the_operator() {
        assert_eq!(merge(vec![Verdict::Abstain, Verdict::Abstain], WhenAllAbstain::Deny), "no-policy-allowed");
        assert_eq!(merge(vec![Verdict::Abstain], WhenAllAbstain::Allow), "allow");
        assert_eq!(merge(Vec::new(), WhenAllAbstain::Deny), "allow", "where no policy is bound, none is missing");
    }
}
