//! What is remembered of events, in two trails that are deliberately not one.
//!
//! The *audit trail* holds what operators and the gateway itself did: a closed list of events, each committed with
//! the change it tells of and kept for over a year. The *decision trail* holds what became of callers' requests:
//! written a moment later, in batches, dropped rather than waited for, kept for days. Pure: both are kept by
//! `store::audit` and `store::decisions`. No secret, argument or result is part of either: the notes of a decision are
//! the policies' own words, and a policy that takes something out of a result must not repeat it there.

use std::fmt;

use crate::env::Timestamp;
use crate::ids::{ApprovalId, BindingName, KeyName, Principal, UpstreamName};

/// One line of the audit trail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEntry {
    /// When it was committed.
    pub at: Timestamp,
    pub actor: Actor,
    pub event: AuditEvent,
}

/// Who did it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Actor {
    /// An operator, by how they proved to be one.
    Operator(OperatorProof),
    /// The gateway on its own account.
    System,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OperatorProof {
    /// The admin socket, which only its owner can open.
    Socket,
    /// The operator token.
    Token,
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Operator(OperatorProof::Socket) => "operator:socket",
            Self::Operator(OperatorProof::Token) => "operator:token",
            Self::System => "system",
        })
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuditEvent {
    GatewayStarted {
        version: String,
    },
    GatewayStopped,
    KeyCreated {
        name: KeyName,
    },
    KeyEnabled {
        name: KeyName,
    },
    KeyDisabled {
        name: KeyName,
    },
    KeyDeleted {
        name: KeyName,
    },
    PoliciesReloaded {
        generation: u64,
    },
    PolicyReloadRefused {
        reason: String,
    },
    /// What an earlier generation had came into force again.
    PoliciesRolledBack {
        generation: u64,
        to: u64,
    },
    ApprovalGiven(Box<Ruling>),
    ApprovalRefused(Box<Ruling>),
    /// An upstream was seen for the first time, and its tools were pinned as they were.
    PinsAdopted {
        upstream: UpstreamName,
        tools: u64,
    },
    /// The definition with this digest was pinned.
    PinAccepted {
        upstream: UpstreamName,
        tool: String,
        digest: String,
    },
    /// Everything that the upstream offers was pinned.
    PinsAccepted {
        upstream: UpstreamName,
        tools: u64,
    },
    /// The recorded inputs of a decision were read.
    RecordingRead {
        decision: String,
    },
    /// The latest recorded inputs were read: of a policy, of a hook, or of all.
    RecordingsRead {
        policy: Option<String>,
        hook: Option<String>,
        questions: u64,
    },
    /// The whole store was read, for a backup.
    BackupTaken,
    /// The store is what a backup held, and what was handed out after it is void.
    BackupRestored {
        /// When the backup was taken.
        taken: Timestamp,
        rows: u64,
        digest: String,
        epoch: u64,
    },
}

/// What was decided about an approval that a policy wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruling {
    pub approval: ApprovalId,
    /// Who wanted to do it.
    pub principal: Principal,
    pub upstream: UpstreamName,
    /// The upstream's own name for the tool or item.
    pub item: String,
    pub policy: BindingName,
    pub code: String,
    pub note: Option<String>,
}

impl AuditEvent {
    /// The event's name, the same in the trail, the API and the documents.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::GatewayStarted { .. } => "gateway.started",
            Self::GatewayStopped => "gateway.stopped",
            Self::KeyCreated { .. } => "key.created",
            Self::KeyEnabled { .. } => "key.enabled",
            Self::KeyDisabled { .. } => "key.disabled",
            Self::KeyDeleted { .. } => "key.deleted",
            Self::PoliciesReloaded { .. } => "policies.reloaded",
            Self::PolicyReloadRefused { .. } => "policies.reload_refused",
            Self::ApprovalGiven(_) => "approval.given",
            Self::ApprovalRefused(_) => "approval.refused",
            Self::PinsAdopted { .. } => "pins.adopted",
            Self::PinAccepted { .. } => "pin.accepted",
            Self::PinsAccepted { .. } => "pins.accepted",
            Self::RecordingRead { .. } => "recording.read",
            Self::RecordingsRead { .. } => "recordings.read",
            Self::PoliciesRolledBack { .. } => "policies.rolled_back",
            Self::BackupTaken => "backup.taken",
            Self::BackupRestored { .. } => "backup.restored",
        }
    }
}

/// One line of the decision trail: what was asked, what was decided, what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecisionRecord {
    /// The text of a [`crate::ids::DecisionId`].
    pub id: String,
    pub at: Timestamp,
    pub principal: Principal,
    /// The MCP method, such as `tools/call`.
    pub operation: String,
    /// `None` if the request names none that exists.
    pub upstream: Option<UpstreamName>,
    /// The upstream's own name for the tool, or what the caller asked for if there is no such tool.
    pub tool: Option<String>,
    /// The MCP revision that the caller speaks.
    pub revision: String,
    pub verdict: RecordedVerdict,
    /// Of the policy that decided, or of the gateway's own check.
    pub reason_code: Option<String>,
    /// The policy set that was asked.
    pub generation: u64,
    /// In the order in which policies were asked.
    pub steps: Vec<DecisionStep>,
    /// Approvals that were asked for, refused or used.
    pub approvals: Vec<ApprovalId>,
    pub outcome: RecordedOutcome,
    pub elapsed_ms: u64,
}

/// What one policy said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecisionStep {
    pub binding: BindingName,
    /// The module's own name, as its manifest has it. Records of earlier versions have none.
    pub module_name: String,
    /// The module's version. Records of earlier versions have none.
    pub module_version: String,
    /// Lower-case hex SHA-256.
    pub module_digest: String,
    pub mode: RecordedMode,
    /// Such as `tool-call`.
    pub hook: String,
    pub verdict: RecordedVerdict,
    pub reason_code: Option<String>,
    /// The rule that matched, as the policy's author names it.
    pub rule: Option<String>,
    pub micros: u64,
    /// Facts that the policy added, by key.
    pub notes: Vec<(String, String)>,
}

macro_rules! words {
    ($($(#[$doc:meta])* $type:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $type {
            $($(#[$variant_doc])* $variant,)*
        }

        impl $type {
            /// The word for it in the trail, the API and the documents.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)*
                }
            }

            /// The meaning of a word.
            pub fn parse(word: &str) -> Option<Self> {
                match word {
                    $($word => Some(Self::$variant),)*
                    _ => None,
                }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    )*};
}

words! {
    /// A verdict, of one policy or of all together.
    RecordedVerdict {
        Abstain = "abstain",
        Allow = "allow",
        /// A credential may be used.
        Release = "release",
        /// The person has to be asked.
        Consent = "consent",
        Deny = "deny",
        /// The tool is not visible to this principal.
        Hidden = "hidden",
        StepUp = "step-up",
        Approve = "approve",
        Throttle = "throttle",
        Show = "show",
        Hide = "hide",
        /// A list was gone through.
        Filter = "filter",
        /// A result may go to the caller as it is.
        Pass = "pass",
        /// Something was taken out of a result.
        Redact = "redact",
        /// A result may not go to the caller.
        Block = "block",
        /// The policy failed, which denies.
        Error = "error",
        /// What a policy in shadow mode said, without consequence.
        WouldAbstain = "would_abstain",
        WouldRelease = "would_release",
        WouldConsent = "would_consent",
        WouldAllow = "would_allow",
        WouldDeny = "would_deny",
        WouldStepUp = "would_step-up",
        WouldApprove = "would_approve",
        WouldThrottle = "would_throttle",
        WouldShow = "would_show",
        WouldHide = "would_hide",
        WouldFilter = "would_filter",
        WouldPass = "would_pass",
        WouldRedact = "would_redact",
        WouldBlock = "would_block",
        WouldError = "would_error",
    }

    /// Whether what a policy says counts.
    RecordedMode {
        Enforce = "enforce",
        /// It is asked and has no say.
        Shadow = "shadow",
    }

    /// What the caller got in the end.
    RecordedOutcome {
        Result = "result",
        /// A result with `isError`, from the upstream.
        ToolError = "tool_error",
        /// A JSON-RPC error, from the upstream or because it could not be reached.
        Error = "error",
        /// The gateway or a policy refused.
        Refused = "refused",
        Cancelled = "cancelled",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_means_what_it_was_written_for() {
        for verdict in ["abstain", "allow", "deny", "hidden", "throttle", "redact", "error", "would_deny"] {
            assert_eq!(RecordedVerdict::parse(verdict).map(RecordedVerdict::as_str), Some(verdict));
        }
        for outcome in ["result", "tool_error", "error", "refused", "cancelled"] {
            assert_eq!(RecordedOutcome::parse(outcome).map(RecordedOutcome::as_str), Some(outcome));
        }
        assert_eq!(RecordedVerdict::parse("Allow"), None);
        assert_eq!(RecordedOutcome::parse(""), None);
    }
}
