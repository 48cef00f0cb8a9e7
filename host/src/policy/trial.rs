//! Trying cases on a module: its own before it comes into force, an operator's on a binding, an author's on the bench.
//!
//! Each case runs in an instance of its own, with counters of its own and a clock that stands where the case says. What is
//! compared is the answer as the guest gave it, and the gateway has to accept that answer: an answer that it would
//! refuse fails the case whatever was expected.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::cases::{self, Case, CasesError, Difference, Expected};
use super::contract::manifest;
use super::decision::{Failure, Hook};
use super::judge::judge;
use super::module::Module;
use super::prepared::{Preparation, PrepareError, Prepared};
use super::rehearsal::Rehearsal;
use super::schema::Schema;
use super::text::one_line;
use crate::config::{Binding, PolicySettings, Reuse, Sets};
use crate::env::Timestamp;

/// Longest run of one case, which is about what is answered and not about how soon.
const CASE_LIMIT: Duration = Duration::from_secs(2);
/// The same for modules whose run-time systems have to start first.
const LARGE_CASE_LIMIT: Duration = Duration::from_secs(20);
/// Longest trial of all cases of one module before it comes into force.
const TRIAL_LIMIT: Duration = Duration::from_secs(60);
/// Most failed cases that are told.
const MAX_TOLD: usize = 8;

/// Why a module does not pass its trial.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    #[error("its cases cannot be had: {0}")]
    NoCases(Failure),
    #[error(transparent)]
    Cases(#[from] CasesError),
    #[error("{failed} of {count} cases fail: {}", list(.first))]
    Failed { failed: usize, count: usize, first: Vec<CaseOutcome> },
    #[error("after {tried} of {count} cases its trial has taken {} s", TRIAL_LIMIT.as_secs())]
    TooSlow { tried: usize, count: usize },
}

fn quoted(pointers: &[String]) -> String {
    pointers.iter().map(|pointer| format!("{pointer:?}")).collect::<Vec<_>>().join(", ")
}

fn list(failed: &[CaseOutcome]) -> String {
    failed.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// What came of one case.
#[derive(Clone, Debug, PartialEq)]
pub struct CaseOutcome {
    pub name: String,
    /// `None` where all was as expected.
    pub problem: Option<CaseProblem>,
}

impl fmt::Display for CaseOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.problem {
            None => write!(f, "{:?} is as expected", self.name),
            Some(problem) => write!(f, "{:?}: {problem}", self.name),
        }
    }
}

/// Why a case fails.
#[derive(Clone, Debug, PartialEq)]
pub enum CaseProblem {
    /// It is about a hook that the module does not have.
    NoSuchHook(Hook),
    /// The module does not accept the configuration that the case is about.
    ConfigRefused(String),
    /// It accepts the configuration that it should refuse.
    ConfigAccepted,
    /// It refuses the configuration, but for other reasons.
    OtherProblems {
        missing: Vec<String>,
        found: Vec<String>,
    },
    /// There is no answer.
    Failed(Failure),
    /// The gateway would refuse the answer.
    Invalid {
        answer: Value,
        failure: Failure,
    },
    Differs {
        answer: Value,
        differences: Vec<Difference>,
    },
}

impl fmt::Display for CaseProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchHook(hook) => write!(f, "the module does not have the hook {hook}"),
            Self::ConfigRefused(why) => write!(f, "its config is not accepted: {why}"),
            Self::ConfigAccepted => f.write_str("its config should be refused and is accepted"),
            Self::OtherProblems { missing, found } => {
                let found = if found.is_empty() { "none".to_owned() } else { found.join(", ") };
                write!(f, "its config should be refused for {}; it is for {found}", quoted(missing))
            }
            Self::Failed(failure) => failure.fmt(f),
            Self::Invalid { failure, .. } => write!(f, "the gateway refuses the answer: {failure}"),
            Self::Differs { differences, .. } => {
                let differences: Vec<String> = differences.iter().map(ToString::to_string).collect();
                f.write_str(&differences.join("; "))
            }
        }
    }
}

/// What cases are tried with.
pub(super) struct Trial<'a> {
    pub(super) module: &'a Module,
    pub(super) memory_bytes: usize,
    pub(super) sets: &'a Arc<Sets>,
    /// For cases without a configuration of their own.
    pub(super) prepared: Option<&'a Prepared>,
}

/// Step *self-tests*: the module decides its own cases as it says.
pub(super) fn self_tests(module: &Module, settings: &PolicySettings, binding: &Binding) -> Result<(), TrialError> {
    let cases = module_cases(module)?;
    let trial = Trial { module, memory_bytes: binding.memory_bytes, sets: &settings.sets, prepared: None };
    trial.pass(&cases)
}

/// Step *tests*: the bound policy decides the operator's cases as they say.
pub(super) fn fixtures(
    module: &Module,
    settings: &PolicySettings,
    binding: &Binding,
    prepared: &Prepared,
    cases: &[u8],
) -> Result<(), TrialError> {
    let cases = cases::parse(cases)?;
    let trial = Trial { module, memory_bytes: binding.memory_bytes, sets: &settings.sets, prepared: Some(prepared) };
    trial.pass(&cases)
}

/// The cases that a module brings along.
pub(super) fn module_cases(module: &Module) -> Result<Vec<Case>, TrialError> {
    let cases = module.self_tests().map_err(TrialError::NoCases)?;
    if cases.len() > cases::MAX_CASES {
        return Err(CasesError::TooMany { count: cases.len() }.into());
    }
    let one = |(at, case): (usize, manifest::Case)| {
        let manifest::Case { name, config, hook, input, expect } = case;
        let name = one_line(&name, 256);
        let read = |what: &str, text: &str| {
            serde_json::from_str::<Value>(text).map_err(|error| CasesError::Wrong {
                number: at + 1,
                name: name.clone(),
                problem: format!("its {what} is not JSON: {error}"),
            })
        };
        let config = Some(read("config", &config)?);
        let (input, answer) = (read("input", &input)?, read("expect", &expect)?);
        Ok(Case { name: name.clone(), config, expected: Expected::Answer { hook, input, answer } })
    };
    Ok(cases.into_iter().enumerate().map(one).collect::<Result<_, CasesError>>()?)
}

impl Trial<'_> {
    /// All of the cases, or the first that fail.
    fn pass(&self, cases: &[Case]) -> Result<(), TrialError> {
        let begun = Instant::now();
        let mut first = Vec::new();
        let mut failed = 0;
        for (tried, case) in cases.iter().enumerate() {
            if begun.elapsed() > TRIAL_LIMIT {
                return Err(TrialError::TooSlow { tried, count: cases.len() });
            }
            if let Some(problem) = self.try_case(case) {
                failed += 1;
                if first.len() < MAX_TOLD {
                    first.push(CaseOutcome { name: case.name.clone(), problem: Some(problem) });
                }
            }
        }
        if failed == 0 { Ok(()) } else { Err(TrialError::Failed { failed, count: cases.len(), first }) }
    }

    /// What is not as the case expects, if anything.
    pub(super) fn try_case(&self, case: &Case) -> Option<CaseProblem> {
        match &case.expected {
            Expected::Answer { hook, input, answer } => {
                self.try_answer(case.config.as_ref(), *hook, input, answer).err()
            }
            Expected::Refused { pointers } => self.try_refusal(case.config.as_ref(), pointers).err(),
        }
    }

    fn try_answer(
        &self,
        config: Option<&Value>,
        hook: Hook,
        input: &Value,
        expected: &Value,
    ) -> Result<(), CaseProblem> {
        if !self.module.manifest().hooks.contains(&hook) {
            return Err(CaseProblem::NoSuchHook(hook));
        }
        let fresh;
        let prepared = match (config, self.prepared) {
            (None, Some(prepared)) => prepared,
            (config, _) => {
                let sample = || serde_json::from_str(self.module.manifest().sample_config.get()).unwrap_or_default();
                let config = config.cloned().unwrap_or_else(sample);
                fresh = self.prepare(&config).map_err(|error| CaseProblem::ConfigRefused(refusal(&error)))?;
                &fresh
            }
        };
        let answer = self.ask(prepared, hook, input).map_err(CaseProblem::Failed)?;
        if let Err(failure) = judge(hook, input, &answer) {
            return Err(CaseProblem::Invalid { answer, failure });
        }
        let differences = cases::differences(expected, &answer);
        if differences.is_empty() { Ok(()) } else { Err(CaseProblem::Differs { answer, differences }) }
    }

    fn try_refusal(&self, config: Option<&Value>, pointers: &[String]) -> Result<(), CaseProblem> {
        let config = config.expect("a case of a refusal has a configuration");
        // What the schema does not admit is refused before `configure` hears of it, which may have more to say.
        let schema = self.module.manifest().config_schema.get();
        let schema = Schema::read(schema).map_err(|error| CaseProblem::ConfigRefused(error.to_string()))?;
        let mut found: Vec<String> = schema.violations(config).into_iter().map(|violation| violation.pointer).collect();
        match self.prepare(config) {
            Ok(_) if found.is_empty() => return Err(CaseProblem::ConfigAccepted),
            Err(PrepareError::Refused(problems)) => found.extend(problems.into_iter().map(|problem| problem.path)),
            Err(error) if found.is_empty() => return Err(CaseProblem::ConfigRefused(refusal(&error))),
            Ok(_) | Err(_) => {}
        }
        let missing: Vec<String> = pointers.iter().filter(|pointer| !found.contains(pointer)).cloned().collect();
        if missing.is_empty() {
            return Ok(());
        }
        let found = found.iter().map(|pointer| one_line(&format!("{pointer:?}"), 256)).collect();
        Err(CaseProblem::OtherProblems { missing, found })
    }

    fn prepare(&self, config: &Value) -> Result<Prepared, PrepareError> {
        let preparation = Preparation {
            policy: "case",
            config: &config.to_string().into(),
            memory_bytes: self.memory_bytes,
            reuse: Reuse::Fresh,
            sets: self.sets,
        };
        self.module.draft(&preparation).map(|ready| ready.prepared)
    }

    fn ask(&self, prepared: &Prepared, hook: Hook, input: &Value) -> Result<Value, Failure> {
        let limit = if self.module.is_large() { LARGE_CASE_LIMIT } else { CASE_LIMIT };
        let rehearsal = Rehearsal::new("case", self.sets, limit, self.memory_bytes);
        let mut run = rehearsal.run();
        run.now = now_of(input);
        prepared.ask_json(hook, &input.to_string(), &run)
    }
}

/// When the decision of this input is made.
pub(super) fn now_of(input: &Value) -> Timestamp {
    Timestamp::from_millis(input["context"]["now_ms"].as_u64().unwrap_or(0))
}

/// Why a configuration is not accepted, on one line.
pub(super) fn refusal(error: &PrepareError) -> String {
    match error {
        PrepareError::Refused(problems) if problems.is_empty() => "no reason given".to_owned(),
        PrepareError::Refused(problems) => {
            let one = |problem: &manifest::Problem| match problem.path.as_str() {
                "" => problem.message.clone(),
                path => format!("{path}: {}", problem.message),
            };
            one_line(&problems.iter().map(one).collect::<Vec<_>>().join("; "), 2048)
        }
        PrepareError::Failed(failure) => failure.to_string(),
        PrepareError::CannotFreeze { reason } => format!("it cannot be frozen: {reason}"),
        PrepareError::WarmIsForLargeModules => "warm instances are for large modules".to_owned(),
    }
}
