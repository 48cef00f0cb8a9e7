//! What an approval is, and what can become of it. Pure.

use std::time::Duration;

use crate::audit::{Actor, Ruling};
use crate::env::Timestamp;
use crate::ids::{ApprovalId, BindingName, Principal, UpstreamName};
use crate::secret::Digest;

/// Longest time that an approval is open or, once it was given for one request, waits for that.
pub const MAX_TTL: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// Longest time that an approval holds once it was given.
pub const MAX_MEMORY: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// What an approval is good for, and for nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    pub principal: Principal,
    /// The OAuth client, or the empty string where there is none.
    pub client: String,
    /// The MCP method, such as `tools/call`.
    pub operation: String,
    pub upstream: UpstreamName,
    /// The upstream's own name for the tool, prompt or resource.
    pub item: String,
    /// Digest of the tool's definition; empty for what has none.
    pub definition: String,
    /// Digest of the arguments in canonical form, as they would be sent.
    pub arguments: Digest,
    /// The binding that wants the approval.
    pub policy: BindingName,
    /// The code of its reason.
    pub code: String,
}

impl Subject {
    /// The same for two subjects only if they are the same.
    pub fn digest(&self) -> Digest {
        let Self { principal, client, operation, upstream, item, definition, arguments, policy, code } = self;
        let principal = principal.to_string();
        let texts = [&principal, client, operation, upstream.as_str(), item, definition, policy.as_str(), code];
        let mut all = arguments.as_bytes().to_vec();
        for text in texts {
            all.extend_from_slice(&(text.len() as u64).to_be_bytes());
            all.extend_from_slice(text.as_bytes());
        }
        Digest::of(&all)
    }
}

/// Whose approval a policy wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Approver {
    /// The caller's own person.
    Caller,
    Operator,
    /// One of these persons.
    Listed(Vec<String>),
}

/// How long an approval holds once it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// For one request.
    Once,
    For(Duration),
}

/// What a policy wants somebody to agree to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// One line.
    pub title: String,
    /// What would happen, for the person who decides.
    pub summary: String,
    pub by: Approver,
    /// How long it is open.
    pub ttl: Duration,
    pub memory: Memory,
}

/// What an operator said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    pub by: Actor,
    pub at: Timestamp,
    pub note: Option<String>,
}

/// Where an approval stands, as it was written down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Nobody has decided.
    Pending { until: Timestamp },
    /// Good for any number of requests until then.
    Given { said: Said, until: Timestamp },
    /// Good for one request until then.
    GivenOnce { said: Said, until: Timestamp },
    /// The one request was made. If the upstream wanted to know something first, that took several rounds.
    Used { said: Said, at: Timestamp, rounds: u32 },
    /// Not asked again until then.
    Denied { said: Said, until: Timestamp },
}

/// Where an approval stands now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Pending,
    Given,
    Used,
    Denied,
    /// Its time is over.
    Lapsed,
}

impl Standing {
    /// The word for it in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Given => "approved",
            Self::Used => "used",
            Self::Denied => "denied",
            Self::Lapsed => "lapsed",
        }
    }

    /// The meaning of a word.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Pending, Self::Given, Self::Used, Self::Denied, Self::Lapsed]
            .into_iter()
            .find(|standing| standing.as_str() == word)
    }
}

/// What an operator decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Approve,
    Deny,
}

/// Why a decision comes too late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TooLate {
    AlreadyDecided,
    Lapsed,
}

/// One approval.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Approval {
    pub id: ApprovalId,
    pub requested: Timestamp,
    /// [`Subject::digest`]. The subject below may have a shortened name.
    pub bound_to: Digest,
    pub subject: Subject,
    pub wish: Wish,
    /// The arguments as they would be sent, sealed; `None` where they are too large to be kept.
    pub sealed_arguments: Option<String>,
    pub state: State,
}

impl State {
    /// Where an approval in this state stands now.
    pub fn standing(&self, now: Timestamp) -> Standing {
        let unless_over = |until: &Timestamp, standing| if now < *until { standing } else { Standing::Lapsed };
        match self {
            Self::Pending { until } => unless_over(until, Standing::Pending),
            Self::Given { until, .. } | Self::GivenOnce { until, .. } => unless_over(until, Standing::Given),
            Self::Denied { until, .. } => unless_over(until, Standing::Denied),
            Self::Used { .. } => Standing::Used,
        }
    }
}

impl Approval {
    pub fn standing(&self, now: Timestamp) -> Standing {
        self.state.standing(now)
    }

    /// When there was or will be nothing left of it to be used.
    pub fn ends(&self) -> Timestamp {
        match &self.state {
            State::Pending { until }
            | State::Given { until, .. }
            | State::GivenOnce { until, .. }
            | State::Denied { until, .. } => *until,
            State::Used { at, .. } => *at,
        }
    }

    /// Who decided, and what they said.
    pub fn said(&self) -> Option<&Said> {
        match &self.state {
            State::Pending { .. } => None,
            State::Given { said, .. }
            | State::GivenOnce { said, .. }
            | State::Used { said, .. }
            | State::Denied { said, .. } => Some(said),
        }
    }

    /// What it becomes when somebody decides.
    ///
    /// # Errors
    /// [`TooLate`] for what is not pending any more.
    pub fn decided(self, verdict: Verdict, said: Said) -> Result<Self, TooLate> {
        let now = said.at;
        let State::Pending { until } = self.state else { return Err(TooLate::AlreadyDecided) };
        if now >= until {
            return Err(TooLate::Lapsed);
        }
        let state = match (verdict, self.wish.memory) {
            (Verdict::Deny, _) => State::Denied { said, until },
            (Verdict::Approve, Memory::Once) => State::GivenOnce { said, until: now.after(self.wish.ttl.min(MAX_TTL)) },
            (Verdict::Approve, Memory::For(time)) => State::Given { said, until: now.after(time.min(MAX_MEMORY)) },
        };
        Ok(Self { state, ..self })
    }

    /// What one that was given for one request becomes with the `round` of it that comes now; `None` if it is not good
    /// for that round, because it was made before or because its time is over.
    pub fn used(self, round: u32, now: Timestamp) -> Option<Self> {
        let state = match self.state {
            State::GivenOnce { said, until } if round == 0 && now < until => State::Used { said, at: now, rounds: 1 },
            State::Used { said, rounds, .. } if round > 0 && round == rounds => {
                State::Used { said, at: now, rounds: rounds.checked_add(1)? }
            }
            _ => return None,
        };
        Some(Self { state, ..self })
    }

    /// What the audit trail says of a decision.
    pub fn ruling(&self) -> Ruling {
        Ruling {
            approval: self.id.clone(),
            principal: self.subject.principal.clone(),
            upstream: self.subject.upstream.clone(),
            item: self.subject.item.clone(),
            policy: self.subject.policy.clone(),
            code: self.subject.code.clone(),
            note: self.said().and_then(|said| said.note.clone()),
        }
    }
}
