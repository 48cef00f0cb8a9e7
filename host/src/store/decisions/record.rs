//! A decision as it is stored. What callers and policies chose the length of is shortened here, so that a row is never
//! larger than the store takes.

use serde::{Deserialize, Serialize};

use super::super::StoreError;
use super::super::engine::Table;
use super::super::table::{Older, shorten, unreadable};
use crate::audit::{DecisionRecord, DecisionStep, RecordedMode, RecordedOutcome, RecordedVerdict};
use crate::env::Timestamp;
use crate::ids::{ApprovalId, BindingName, Principal, UpstreamName};

/// Steps of one record that are kept.
const MAX_STEPS: usize = 64;
/// Longest name of a tool that is kept, in bytes; callers may ask for tools of any name.
pub(super) const MAX_TOOL_BYTES: usize = 256;
/// Longest other text that is kept, in bytes.
const MAX_WORD_BYTES: usize = 128;
/// Longest value of a note that is kept, in bytes.
const MAX_NOTE_BYTES: usize = 256;
/// Most that the notes of one record take together, in bytes.
const MAX_NOTES_BYTES: usize = 16 * 1024;

/// Codec version 1 knew no approvals, and of a module its digest only.
pub(super) const VERSION_1: Older<Record> = Older { version: 1, read: |body| serde_json::from_slice(body) };

/// Codec version 2. Short names, and nothing for what is not there: there are many of them.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::store) struct Record {
    pub(super) id: String,
    at_ms: u64,
    pub(super) principal: String,
    operation: String,
    pub(super) upstream: Option<String>,
    pub(super) tool: Option<String>,
    revision: String,
    pub(super) verdict: String,
    reason: Option<String>,
    generation: u64,
    steps: Vec<StepRecord>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    approvals: Vec<String>,
    pub(super) outcome: String,
    elapsed_ms: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StepRecord {
    binding: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    version: String,
    module: String,
    #[serde(default, skip_serializing_if = "is_enforced")]
    mode: Option<String>,
    hook: String,
    verdict: String,
    reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rule: Option<String>,
    micros: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    notes: Vec<(String, String)>,
}

/// Nearly all steps are, so that nothing is written for it.
#[expect(clippy::ref_option, reason = "serde calls it so")]
fn is_enforced(mode: &Option<String>) -> bool {
    mode.is_none()
}

impl Record {
    fn bound(&mut self) {
        self.steps.truncate(MAX_STEPS);
        let mut left = MAX_NOTES_BYTES;
        for step in &mut self.steps {
            step.notes.retain(|(key, value)| match left.checked_sub(key.len() + value.len()) {
                Some(rest) => {
                    left = rest;
                    true
                }
                None => false,
            });
        }
    }
}

fn word(text: &str) -> String {
    shorten(text, MAX_WORD_BYTES)
}

impl From<DecisionRecord> for Record {
    fn from(decision: DecisionRecord) -> Self {
        let DecisionRecord {
            id,
            at,
            principal,
            operation,
            upstream,
            tool,
            revision,
            verdict,
            reason_code,
            generation,
            steps,
            approvals,
            outcome,
            elapsed_ms,
        } = decision;
        let mut record = Self {
            id: word(&id),
            at_ms: at.as_millis(),
            principal: principal.to_string(),
            operation: word(&operation),
            upstream: upstream.map(String::from),
            tool: tool.map(|tool| shorten(&tool, MAX_TOOL_BYTES)),
            revision: word(&revision),
            verdict: verdict.as_str().to_owned(),
            reason: reason_code.map(|code| word(&code)),
            generation,
            steps: steps.into_iter().map(StepRecord::from).collect(),
            approvals: approvals.into_iter().map(String::from).collect(),
            outcome: outcome.as_str().to_owned(),
            elapsed_ms,
        };
        record.bound();
        record
    }
}

impl From<DecisionStep> for StepRecord {
    fn from(step: DecisionStep) -> Self {
        let DecisionStep {
            binding,
            module_name,
            module_version,
            module_digest,
            mode,
            hook,
            verdict,
            reason_code,
            rule,
            micros,
            notes,
        } = step;
        Self {
            binding: String::from(binding),
            name: word(&module_name),
            version: word(&module_version),
            module: word(&module_digest),
            mode: (mode != RecordedMode::Enforce).then(|| mode.as_str().to_owned()),
            hook: word(&hook),
            verdict: verdict.as_str().to_owned(),
            reason: reason_code.map(|code| word(&code)),
            rule: rule.map(|rule| word(&rule)),
            micros,
            notes: notes.into_iter().map(|(key, value)| (word(&key), shorten(&value, MAX_NOTE_BYTES))).collect(),
        }
    }
}

fn read_verdict(word: &str) -> Result<RecordedVerdict, StoreError> {
    RecordedVerdict::parse(word).ok_or_else(|| unreadable(Table::Decisions, "the verdict is unknown"))
}

fn read_principal(text: &str) -> Result<Principal, StoreError> {
    Principal::parse(text).ok_or_else(|| unreadable(Table::Decisions, "the principal is unknown"))
}

fn read_approval(id: &str) -> Result<ApprovalId, StoreError> {
    ApprovalId::parse(id).ok_or_else(|| unreadable(Table::Decisions, "an approval's id is none"))
}

impl TryFrom<Record> for DecisionRecord {
    type Error = StoreError;

    fn try_from(record: Record) -> Result<Self, StoreError> {
        let Record {
            id,
            at_ms,
            principal,
            operation,
            upstream,
            tool,
            revision,
            verdict,
            reason,
            generation,
            steps,
            approvals,
            outcome,
            elapsed_ms,
        } = record;
        let upstream = upstream.as_deref().map(UpstreamName::parse).transpose();
        Ok(Self {
            id,
            at: Timestamp::from_millis(at_ms),
            principal: read_principal(&principal)?,
            operation,
            upstream: upstream.map_err(|error| unreadable(Table::Decisions, error))?,
            tool,
            revision,
            verdict: read_verdict(&verdict)?,
            reason_code: reason,
            generation,
            steps: steps.into_iter().map(DecisionStep::try_from).collect::<Result<_, _>>()?,
            approvals: approvals.iter().map(|id| read_approval(id)).collect::<Result<_, _>>()?,
            outcome: RecordedOutcome::parse(&outcome)
                .ok_or_else(|| unreadable(Table::Decisions, "the outcome is unknown"))?,
            elapsed_ms,
        })
    }
}

impl TryFrom<StepRecord> for DecisionStep {
    type Error = StoreError;

    fn try_from(record: StepRecord) -> Result<Self, StoreError> {
        let StepRecord { binding, name, version, module, mode, hook, verdict, reason, rule, micros, notes } = record;
        let mode = mode.as_deref().map_or(Some(RecordedMode::Enforce), RecordedMode::parse);
        Ok(Self {
            binding: BindingName::parse(&binding).map_err(|error| unreadable(Table::Decisions, error))?,
            module_name: name,
            module_version: version,
            module_digest: module,
            mode: mode.ok_or_else(|| unreadable(Table::Decisions, "the mode is unknown"))?,
            hook,
            verdict: read_verdict(&verdict)?,
            reason_code: reason,
            rule,
            micros,
            notes,
        })
    }
}
