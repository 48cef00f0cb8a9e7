//! What policies decide, in the host's own words. Pure: no Wasm, no IO, no clock.
//!
//! Answers of guests become these types only through [`super::answer`], which bounds and checks every part.
//! How the verdicts of a chain are merged is [`super::tally`].

use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;

pub use super::contract::Hook;
use super::imports::ImportCall;
use super::shadow::Shadow;
use crate::config::Mode;
use crate::ids::BindingName;

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

/// One policy's answer about something that may or may not happen; `T` are the terms on which it allows it.
#[derive(Debug)]
pub(super) enum Verdict<T> {
    Abstain,
    Allow(T),
    Halt(Halt),
}

/// Why one policy does not let something happen as it is.
#[derive(Debug)]
pub(super) enum Halt {
    StepUp(StepUp),
    Approve(Box<ApprovalWanted>),
    Throttle(Throttle),
    Deny(Denial),
}

impl Halt {
    /// The word for logs.
    pub(super) const fn word(&self) -> &'static str {
        match self {
            Self::StepUp(_) => "step-up",
            Self::Approve(_) => "approve",
            Self::Throttle(_) => "throttle",
            Self::Deny(_) => "deny",
        }
    }

    pub(super) fn reason(&self) -> &Reason {
        match self {
            Self::StepUp(step_up) => &step_up.reason,
            Self::Approve(approval) => &approval.reason,
            Self::Throttle(throttle) => &throttle.reason,
            Self::Deny(denial) => &denial.reason,
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

/// What somebody has to agree to first.
#[derive(Clone, Debug)]
pub struct ApprovalWanted {
    /// One line.
    pub title: String,
    /// What would happen, for the person who decides.
    pub summary: String,
    pub by: Approver,
    /// How long the request for approval is open.
    pub ttl: Duration,
    pub remember: Remember,
    /// Its code is what [`Satisfied`] names once the approval is given.
    pub reason: Reason,
    /// The call's arguments as all policies of the chain left them: what would be sent, and what an approval is good
    /// for. `None` where there are none.
    pub arguments: Option<Box<RawValue>>,
}

/// Whose approval counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Approver {
    /// The caller's own person.
    Caller,
    /// Any operator.
    Operator,
    /// One of these persons.
    Listed(Vec<String>),
}

/// How long an approval that was given holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remember {
    /// For one call.
    Once,
    For(Duration),
}

/// An approval or step-up that was already given for what is decided.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Satisfied {
    /// The binding that wanted it, and the only one that is told.
    pub binding: BindingName,
    /// The code of its reason.
    pub code: String,
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

/// One policy's answer about one tool or item of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Visibility {
    Abstain,
    Show,
    Hide,
}

/// How asking a policy went wrong. Whatever it is, the request is refused, unless the operator made the policy advisory.
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
    /// It said so itself, in the dynamic lane.
    #[error("it failed: {message}")]
    Failed { message: String },
    #[error("it asked for {import}, which is not available while it is configured")]
    Unavailable { import: &'static str },
    #[error("it diverged from its recording: {what}")]
    Diverged { what: String },
    #[error("there is no room to run it at the moment")]
    Busy,
    #[error("it requires the result to be inspected, but no policy inspects such results")]
    NoInspector,
    #[error("the result cannot be read for inspection: {what}")]
    UnreadableResult { what: String },
    #[error("the arguments as it rewrote them do not fit the tool's input schema: {what}")]
    UnfitArguments { what: String },
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
            Self::Failed { .. } => "failed",
            Self::Unavailable { .. } => "unavailable",
            Self::Diverged { .. } => "diverged",
            Self::Busy => "busy",
            Self::NoInspector => "no-inspector",
            Self::UnreadableResult { .. } => "unreadable-result",
            Self::UnfitArguments { .. } => "unfit-arguments",
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
    /// Somebody has to agree first.
    #[error("policy {binding} wants an approval: {}", approval.reason.message)]
    ApprovalNeeded { binding: BindingName, approval: Box<ApprovalWanted> },
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
    /// Whether nothing is refused for good: a policy has failed, or lets it happen later.
    pub const fn is_passing(&self) -> bool {
        matches!(self, Self::PolicyFailed { .. } | Self::Throttled { .. })
    }

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
    pub module: ModuleName,
    pub mode: Mode,
    pub hook: Hook,
    /// What it answered: `allow`, `deny`, `hide`, …; `filter` for a whole list; `error` where it failed. That of a
    /// shadow begins with `would_`.
    pub verdict: &'static str,
    /// The reason's code, or the failure's.
    pub code: Option<String>,
    /// The rule that matched, as the policy's author names it.
    pub rule: Option<String>,
    pub micros: u64,
    pub notes: Vec<Note>,
    /// Where decisions are recorded whole.
    pub recorded: Option<Box<Recorded>>,
}

/// Which module a policy is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModuleName {
    /// As its manifest has it.
    pub name: Arc<str>,
    pub version: Arc<str>,
    /// SHA-256 of its bytes, lower-case hex.
    pub digest: Arc<str>,
}

/// A policy's question and answer, word for word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// JSON: the hook's parameters.
    pub input: String,
    /// JSON: what the policy answered, before it was checked; `None` where it did not come to an answer.
    pub answer: Option<String>,
    /// What the policy asked the host meanwhile, and was told.
    pub imports: Vec<ImportCall>,
}

/// Which policies were asked, in order, and what each said; and which are still to be asked, without consequence.
#[derive(Debug, Default)]
pub struct Trail {
    pub steps: Vec<Step>,
    /// Questions to policies in shadow mode, for [`super::Shadows`] once the response is on its way.
    pub shadows: Vec<Shadow>,
}

impl Trail {
    /// Adds what was said after it.
    pub fn add(&mut self, more: Self) {
        self.steps.extend(more.steps);
        self.shadows.extend(more.shadows);
    }
}
