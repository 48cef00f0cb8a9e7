//! An approval as it is stored. What policies and callers chose the length of is shortened here; the digest that binds
//! an approval to its subject was taken before.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::super::StoreError;
use super::super::audit::ActorRecord;
use super::super::engine::Table;
use super::super::table::{shorten, unreadable};
use super::approval::{Approval, Approver, MAX_TTL, Memory, Said, Standing, State, Subject, Wish};
use crate::env::Timestamp;
use crate::ids::{ApprovalId, BindingName, Principal, UpstreamName};
use crate::secret::Digest;

/// How long one that nobody decided is kept after its time, so that who decides too late is told so.
const KEPT_UNDECIDED: Duration = Duration::from_secs(60 * 60);
/// How long one that was decided is kept after its time.
const KEPT_DECIDED: Duration = Duration::from_secs(7 * 24 * 60 * 60);

const MAX_TITLE_BYTES: usize = 256;
const MAX_SUMMARY_BYTES: usize = 4096;
const MAX_NOTE_BYTES: usize = 1024;
const MAX_ITEM_BYTES: usize = 1024;
const MAX_WORD_BYTES: usize = 128;
const MAX_APPROVERS: usize = 64;
/// Longest sealed arguments that are kept.
const MAX_SEALED_BYTES: usize = 96 * 1024;

/// Codec version 1.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    id: String,
    requested_ms: u64,
    bound_to: [u8; 32],
    principal: String,
    client: String,
    operation: String,
    upstream: String,
    item: String,
    definition: String,
    arguments: [u8; 32],
    policy: String,
    code: String,
    title: String,
    summary: String,
    by: ApproverRecord,
    ttl_ms: u64,
    /// `None`: once.
    memory_ms: Option<u64>,
    sealed_arguments: Option<String>,
    state: StateRecord,
    /// Whether it is the one that counts for its subject: there is at most one.
    current: bool,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ApproverRecord {
    Caller,
    Operator,
    Listed(Vec<String>),
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum StateRecord {
    Pending { until_ms: u64 },
    Given { said: SaidRecord, until_ms: u64 },
    GivenOnce { said: SaidRecord, until_ms: u64 },
    Used { said: SaidRecord, at_ms: u64, rounds: u32 },
    Denied { said: SaidRecord, until_ms: u64 },
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SaidRecord {
    by: ActorRecord,
    at_ms: u64,
    note: Option<String>,
}

/// First byte of the keys of an index, by what was written down.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Pending = 0,
    Given = 1,
    Used = 2,
    Denied = 3,
}

impl Record {
    pub(super) fn id(&self) -> &[u8] {
        self.id.as_bytes()
    }

    /// What it is.
    pub(super) fn approval(&self) -> Result<Approval, StoreError> {
        self.clone().try_into()
    }

    /// Where it stands now.
    pub(super) fn standing(&self, now: Timestamp) -> Standing {
        State::from(self.state.clone()).standing(now)
    }

    fn kind(&self) -> Kind {
        match self.state {
            StateRecord::Pending { .. } => Kind::Pending,
            StateRecord::Given { .. } | StateRecord::GivenOnce { .. } => Kind::Given,
            StateRecord::Used { .. } => Kind::Used,
            StateRecord::Denied { .. } => Kind::Denied,
        }
    }

    /// Under its subject, if it counts for that.
    pub(super) fn by_binding(&self) -> Vec<u8> {
        if self.current { current(&Digest::from_bytes(self.bound_to)) } else { [&[0], self.id()].concat() }
    }

    /// What takes the place of this one, with another state.
    pub(super) fn followed_by(&self, approval: &Approval) -> Self {
        let next = Self::from(approval);
        Self { current: next.current && self.current, ..next }
    }

    /// The same once it counts no more.
    pub(super) fn superseded(self) -> Self {
        Self { current: false, ..self }
    }

    pub(super) fn by_state(&self) -> Vec<u8> {
        [&[self.kind() as u8], self.id()].concat()
    }

    pub(super) fn by_principal(&self) -> Vec<u8> {
        [&of_principal(&self.principal, self.kind()), self.id()].concat()
    }

    /// When it may be forgotten.
    pub(super) fn expires(&self) -> Timestamp {
        match &self.state {
            StateRecord::Pending { until_ms } => Timestamp::from_millis(*until_ms).after(KEPT_UNDECIDED),
            StateRecord::Given { until_ms: ends, .. }
            | StateRecord::GivenOnce { until_ms: ends, .. }
            | StateRecord::Denied { until_ms: ends, .. }
            | StateRecord::Used { at_ms: ends, .. } => Timestamp::from_millis(*ends).after(KEPT_DECIDED),
        }
    }
}

/// The key of the approval that counts for a subject.
pub(super) fn current(subject: &Digest) -> Vec<u8> {
    [&[1], subject.as_bytes().as_slice()].concat()
}

/// What the keys of a principal's approvals of a kind begin with. No principal has the byte 0 in it.
pub(super) fn of_principal(principal: &str, kind: Kind) -> Vec<u8> {
    [principal.as_bytes(), &[0, kind as u8]].concat()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn word(text: &str) -> String {
    shorten(text, MAX_WORD_BYTES)
}

impl From<&Approval> for Record {
    fn from(approval: &Approval) -> Self {
        let Approval { id, requested, bound_to, subject, wish, sealed_arguments, state } = approval;
        let Subject { principal, client, operation, upstream, item, definition, arguments, policy, code } = subject;
        let Wish { title, summary, by, ttl, memory } = wish;
        Self {
            id: id.as_str().to_owned(),
            requested_ms: requested.as_millis(),
            bound_to: *bound_to.as_bytes(),
            principal: principal.to_string(),
            client: shorten(client, MAX_ITEM_BYTES),
            operation: word(operation),
            upstream: upstream.as_str().to_owned(),
            item: shorten(item, MAX_ITEM_BYTES),
            definition: word(definition),
            arguments: *arguments.as_bytes(),
            policy: policy.as_str().to_owned(),
            code: word(code),
            title: shorten(title, MAX_TITLE_BYTES),
            summary: shorten(summary, MAX_SUMMARY_BYTES),
            by: match by {
                Approver::Caller => ApproverRecord::Caller,
                Approver::Operator => ApproverRecord::Operator,
                Approver::Listed(names) => {
                    ApproverRecord::Listed(names.iter().take(MAX_APPROVERS).map(|name| word(name)).collect())
                }
            },
            ttl_ms: millis((*ttl).min(MAX_TTL)),
            memory_ms: match memory {
                Memory::Once => None,
                Memory::For(time) => Some(millis(*time)),
            },
            sealed_arguments: sealed_arguments.clone().filter(|sealed| sealed.len() <= MAX_SEALED_BYTES),
            state: StateRecord::from(state),
            current: !matches!(state, State::Used { .. }),
        }
    }
}

impl From<&State> for StateRecord {
    fn from(state: &State) -> Self {
        match state {
            State::Pending { until } => Self::Pending { until_ms: until.as_millis() },
            State::Given { said, until } => Self::Given { said: said.into(), until_ms: until.as_millis() },
            State::GivenOnce { said, until } => Self::GivenOnce { said: said.into(), until_ms: until.as_millis() },
            State::Used { said, at, rounds } => {
                Self::Used { said: said.into(), at_ms: at.as_millis(), rounds: *rounds }
            }
            State::Denied { said, until } => Self::Denied { said: said.into(), until_ms: until.as_millis() },
        }
    }
}

impl From<&Said> for SaidRecord {
    fn from(said: &Said) -> Self {
        let Said { by, at, note } = said;
        let note = note.as_deref().map(|note| shorten(note, MAX_NOTE_BYTES));
        Self { by: (*by).into(), at_ms: at.as_millis(), note }
    }
}

fn bad(what: &str) -> StoreError {
    unreadable(Table::Approvals, format_args!("{what} is none"))
}

impl TryFrom<Record> for Approval {
    type Error = StoreError;

    fn try_from(record: Record) -> Result<Self, StoreError> {
        let Record {
            id,
            requested_ms,
            bound_to,
            principal,
            client,
            operation,
            upstream,
            item,
            definition,
            arguments,
            policy,
            code,
            title,
            summary,
            by,
            ttl_ms,
            memory_ms,
            sealed_arguments,
            state,
            current: _,
        } = record;
        let by = match by {
            ApproverRecord::Caller => Approver::Caller,
            ApproverRecord::Operator => Approver::Operator,
            ApproverRecord::Listed(names) => Approver::Listed(names),
        };
        Ok(Self {
            id: ApprovalId::parse(&id).ok_or_else(|| bad("an id"))?,
            requested: Timestamp::from_millis(requested_ms),
            bound_to: Digest::from_bytes(bound_to),
            subject: Subject {
                principal: Principal::parse(&principal).ok_or_else(|| bad("a principal"))?,
                client,
                operation,
                upstream: UpstreamName::parse(&upstream).map_err(|_| bad("an upstream"))?,
                item,
                definition,
                arguments: Digest::from_bytes(arguments),
                policy: BindingName::parse(&policy).map_err(|_| bad("a policy"))?,
                code,
            },
            wish: Wish {
                title,
                summary,
                by,
                ttl: Duration::from_millis(ttl_ms),
                memory: memory_ms.map_or(Memory::Once, |time| Memory::For(Duration::from_millis(time))),
            },
            sealed_arguments,
            state: state.into(),
        })
    }
}

impl From<StateRecord> for State {
    fn from(record: StateRecord) -> Self {
        let at = Timestamp::from_millis;
        match record {
            StateRecord::Pending { until_ms } => Self::Pending { until: at(until_ms) },
            StateRecord::Given { said, until_ms } => Self::Given { said: said.into(), until: at(until_ms) },
            StateRecord::GivenOnce { said, until_ms } => Self::GivenOnce { said: said.into(), until: at(until_ms) },
            StateRecord::Used { said, at_ms, rounds } => Self::Used { said: said.into(), at: at(at_ms), rounds },
            StateRecord::Denied { said, until_ms } => Self::Denied { said: said.into(), until: at(until_ms) },
        }
    }
}

impl From<SaidRecord> for Said {
    fn from(record: SaidRecord) -> Self {
        let SaidRecord { by, at_ms, note } = record;
        Self { by: by.into(), at: Timestamp::from_millis(at_ms), note }
    }
}
