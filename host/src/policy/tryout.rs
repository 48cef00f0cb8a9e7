//! What policies would say: of a call that nobody makes, and of one that was recorded.
//!
//! They are asked aside, in a copy of the set in force, or in one that has a single binding with a configuration that
//! somebody would like. Nothing comes of what they say: counters are looked at and not charged, no approval is used, nothing
//! is sent, recorded or remembered, and how the copy fares says nothing of the policies in force.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use serde_json::value::RawValue;

use super::asking::{CallContext, Transport, would};
use super::bindings::{BoundPolicy, PolicySet};
use super::counters::Charges;
use super::decision::{Failure, Hook, ModuleName, Note, Refusal, Step};
use super::judge::{Judged, judge};
use super::load_error::LoadError;
use super::publish;
use super::replay::{self, PastQuestion, Replayed};
use super::text::{Breaks, cut, without_controls};
use crate::config::{Binding, Mode, Reuse, WhenAllAbstain};
use crate::env::Timestamp;
use crate::identity::Caller;
use crate::ids::{BindingName, DecisionId};
use crate::mcp::call::Call;
use crate::mcp::revision::Revision;
use crate::upstream::catalog::Tool;

/// Longest run of a policy whose configuration was typed in: it is configured anew for each question, by code that was made in
/// a hurry.
const DRAFT_LIMIT: Duration = Duration::from_secs(2);
/// Longest run of a recorded question, and of all of a recording.
const REPLAY_PATIENCE: Duration = Duration::from_secs(2);
const REPLAY_LIMIT: Duration = Duration::from_secs(10);
/// Most that is shown of one answer, in bytes.
const MAX_SHOWN_BYTES: usize = 16 << 10;

/// One binding instead of all of them.
#[derive(Clone, Debug)]
pub struct Variation {
    pub binding: BindingName,
    /// What it is configured with instead of its own.
    pub config: Option<Value>,
}

/// Why policies cannot be asked aside.
#[derive(Debug, thiserror::Error)]
pub enum NotAside {
    #[error("there is no policy of this name")]
    NoSuchPolicy,
    #[error(transparent)]
    Config(#[from] LoadError),
}

/// Policies that are asked without anything coming of it.
#[derive(Debug)]
pub struct Aside(PolicySet);

/// A call that nobody makes.
#[derive(Debug)]
pub struct TypedCall<'a> {
    pub decision: DecisionId,
    pub caller: &'a Caller,
    pub tool: Arc<Tool>,
    pub arguments: Box<RawValue>,
    pub now: Timestamp,
}

/// What came of asking.
#[derive(Debug)]
pub struct Tried {
    /// In the order in which they were asked.
    pub steps: Vec<Said>,
    /// Policies that were asked then and are asked no more, of a recorded call.
    pub gone: Vec<BindingName>,
    /// There was not enough time for all questions of a recorded call.
    pub is_cut: bool,
    pub end: End,
}

/// What one policy said.
#[derive(Clone, Debug)]
pub struct Said {
    pub binding: BindingName,
    pub module: ModuleName,
    pub mode: Mode,
    pub hook: Hook,
    /// As in a decision's [`Step`].
    pub verdict: &'static str,
    pub code: Option<String>,
    pub rule: Option<String>,
    pub notes: Vec<Note>,
    pub micros: u64,
    /// Its answer as JSON text, or as much of it as can be shown.
    pub answer: Option<String>,
    /// How it failed, in words.
    pub failure: Option<String>,
    /// What it said of a recorded question then, and whether that is what it says now.
    pub before: Option<Before>,
}

/// What was said of a question when it was recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Before {
    pub verdict: String,
    pub is_same: bool,
}

/// What it would have come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    pub passes: bool,
    /// `passes`, or which check refused.
    pub check: &'static str,
    /// Who refused.
    pub by: Option<BindingName>,
    pub message: Option<String>,
    /// The arguments as JSON text, where policies changed them.
    pub arguments: Option<String>,
}

impl PolicySet {
    /// These policies, or one of them, to be asked aside. It may have to configure a module: on a thread where that harms
    /// nobody.
    ///
    /// # Errors
    /// [`NotAside`].
    pub fn to_try(&self, variation: Option<&Variation>) -> Result<Aside, NotAside> {
        let Some(Variation { binding, config }) = variation else { return Ok(Aside(self.aside(None))) };
        let bound = self.bindings().iter().find(|bound| bound.name() == binding).ok_or(NotAside::NoSuchPolicy)?;
        // Its answer counts here, whatever its mode is.
        let enforced = Binding { mode: Mode::Enforce, ..bound.binding().clone() };
        let only = match config {
            None => bound.aside(enforced, bound.prepared.aside()),
            Some(config) => {
                let wanted = Binding { config: config.clone(), time: DRAFT_LIMIT, reuse: Reuse::Auto, ..enforced };
                let prepared = publish::draft_config(&self.sets, &wanted, bound.loaded())?.prepared;
                bound.aside(wanted, prepared.aside())
            }
        };
        Ok(Aside(self.aside(Some(only))))
    }
}

impl Aside {
    /// Asks about a call of a tool, up to where it would go to its upstream. What it would answer nobody knows.
    pub async fn ask(&self, typed: TypedCall<'_>) -> Tried {
        let charges = Charges::looking();
        let TypedCall { decision, caller, tool, arguments, now } = typed;
        let ctx = CallContext {
            decision,
            caller,
            revision: Revision::V2026_07_28.as_str(),
            session: None,
            transport: Transport::Internal,
            remote_ip: None,
            user_agent: None,
            trace_id: None,
            trace: None,
            now,
            charges: &charges,
            satisfied: &[],
            view: None,
        };
        let typed = arguments.get().to_owned();
        let (checked, trail) = self.0.check(&ctx, Call::new(tool, Some(arguments))).await;
        let mut steps: Vec<Said> = trail.steps.into_iter().map(Said::of).collect();
        for shadow in &trail.shadows {
            steps.extend(self.0.ask_shadows_at(&charges, shadow).await.into_iter().map(Said::of));
        }
        let end = match checked {
            Err(refusal) => End::refused(&refusal),
            Ok(permit) => {
                let arguments = permit.get().arguments().map(RawValue::get).filter(|sent| *sent != typed);
                End { arguments: arguments.map(shown), ..End::passes() }
            }
        };
        Tried { steps, gone: Vec::new(), is_cut: false, end }
    }

    /// Puts recorded questions to the policies once more, each with the verdict that it had. The host's answers are those of
    /// then. It blocks.
    pub fn ask_again(&self, recorded: &[(PastQuestion, String)]) -> Tried {
        let begun = Instant::now();
        let mut tried = Tried { steps: Vec::new(), gone: Vec::new(), is_cut: false, end: End::passes() };
        for (question, verdict) in recorded {
            if begun.elapsed() > REPLAY_LIMIT {
                tried.is_cut = true;
                break;
            }
            match self.asked_again(question) {
                Some(bound) => tried.steps.push(Said::again(bound, question, verdict)),
                None if tried.gone.contains(&question.binding) => {}
                None => tried.gone.push(question.binding.clone()),
            }
        }
        tried.end = self.end_of(&tried.steps);
        tried
    }

    fn asked_again(&self, question: &PastQuestion) -> Option<&BoundPolicy> {
        let bound = self.0.bindings().iter().find(|bound| *bound.name() == question.binding)?;
        (bound.binding().mode != Mode::Off && bound.has_hook(question.hook)).then_some(bound)
    }

    /// What a decision comes to in which this was said. Where a policy was asked the same twice, as after an approval, the
    /// later answer counts.
    fn end_of(&self, steps: &[Said]) -> End {
        let mut last: BTreeMap<(&BindingName, Hook), (usize, &Said)> = BTreeMap::new();
        for (position, said) in steps.iter().enumerate().filter(|(_, said)| said.mode == Mode::Enforce) {
            last.insert((&said.binding, said.hook), (position, said));
        }
        let mut counted: Vec<(usize, &Said)> = last.into_values().collect();
        counted.sort_by_key(|(position, _)| *position);
        let mut hooks: BTreeMap<Hook, bool> = BTreeMap::new();
        for (_, said) in counted {
            let has_passed = hooks.entry(said.hook).or_default();
            match said.verdict {
                "allow" | "release" | "pass" | "redact" | "show" | "filter" => *has_passed = true,
                "abstain" => {}
                "error" if self.is_advisory(&said.binding) => {}
                verdict => return End::objected(said, verdict),
            }
        }
        let unopposed = hooks.into_iter().find(|(_, has_passed)| !has_passed);
        match unopposed.filter(|_| self.0.when_all_abstain() == WhenAllAbstain::Deny) {
            Some((hook, _)) => End::refused(&Refusal::NoPolicyAllowed { hook }),
            None => End::passes(),
        }
    }

    fn is_advisory(&self, binding: &BindingName) -> bool {
        self.0.bindings().iter().any(|bound| bound.name() == binding && bound.binding().advisory)
    }
}

impl End {
    fn passes() -> Self {
        Self { passes: true, check: "passes", by: None, message: None, arguments: None }
    }

    fn refused(refusal: &Refusal) -> Self {
        let by = match refusal {
            Refusal::Hidden | Refusal::NoPolicyAllowed { .. } => None,
            Refusal::Denied { binding, .. }
            | Refusal::StepUp { binding, .. }
            | Refusal::Throttled { binding, .. }
            | Refusal::ApprovalNeeded { binding, .. }
            | Refusal::PolicyFailed { binding, .. } => Some(binding.clone()),
        };
        let message = match refusal {
            Refusal::PolicyFailed { failure, .. } => format!("{refusal}: {failure}"),
            refusal => refusal.to_string(),
        };
        Self { passes: false, check: refusal.check(), by, message: Some(shown(&message)), arguments: None }
    }

    fn objected(said: &Said, verdict: &'static str) -> Self {
        let code = said.code.as_ref().map(|code| format!(" {code}")).unwrap_or_default();
        let message = format!("policy {} says {verdict}{code}", said.binding);
        Self { passes: false, check: verdict, by: Some(said.binding.clone()), message: Some(message), arguments: None }
    }
}

impl Said {
    fn of(step: Step) -> Self {
        let Step { binding, module, mode, hook, verdict, code, rule, micros, notes, recorded } = step;
        let answer = recorded.and_then(|recorded| recorded.answer).map(|answer| shown(&answer));
        Self { binding, module, mode, hook, verdict, code, rule, notes, micros, answer, failure: None, before: None }
    }

    fn again(bound: &BoundPolicy, question: &PastQuestion, verdict: &str) -> Self {
        let begun = Instant::now();
        let replayed = replay::ask_again(&bound.prepared, bound.binding().memory_bytes, question, REPLAY_PATIENCE);
        let micros = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        let (answer, is_same) = match replayed {
            Replayed::Same { .. } => (question.answer.clone().map(Ok), true),
            Replayed::Different { answer, .. } => (Some(answer), false),
            Replayed::Diverged { what } => (Some(Err(Failure::Diverged { what })), false),
        };
        let judged = match &answer {
            Some(Ok(answer)) => judge(question.hook, &question.input, answer),
            Some(Err(failure)) => Err(failure.clone()),
            None => Err(Failure::Failed { message: "as it did then".to_owned() }),
        };
        let failure = judged.as_ref().err().map(|failure| shown(&failure.to_string()));
        let Judged { verdict: now, code, rule, notes } = judged.unwrap_or_else(|failure| Judged {
            verdict: "error",
            code: Some(failure.code().to_owned()),
            ..Judged::default()
        });
        let mode = bound.binding().mode;
        Self {
            binding: question.binding.clone(),
            module: bound.module_name().clone(),
            mode,
            hook: question.hook,
            verdict: if mode == Mode::Shadow { would(now) } else { now },
            code,
            rule,
            notes,
            micros,
            answer: answer.and_then(Result::ok).map(|answer| shown(&format!("{answer:#}"))),
            failure,
            before: Some(Before { verdict: verdict.to_owned(), is_same }),
        }
    }
}

/// As much of a policy's own words as is fit to be shown.
fn shown(text: &str) -> String {
    let kept = cut(text, MAX_SHOWN_BYTES);
    let more = if kept.len() < text.len() { " …" } else { "" };
    without_controls(format!("{kept}{more}"), Breaks::Kept)
}
