//! One module outside of a running gateway: what it is, what it makes of a configuration, what it answers.
//!
//! Everything here goes through what the gateway itself uses, so that what is seen here is what will happen there: the same
//! loading, the same checks of configurations and answers, the same instances. Different are only the time that a policy
//! gets, which is as much as it needs, and that nothing comes of what it says.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::cases::Case;
use super::decision::{Failure, Hook};
use super::engine::Engine;
use super::imports::{ImportCall, Imports, Transcript};
use super::judge::{Judged, judge};
use super::load_error::LoadError;
use super::module::{Module, ModuleError, ModuleInfo};
use super::prepared::{InstanceMode, Ready};
use super::publish;
use super::rehearsal::Rehearsal;
use super::replay::{self, PastQuestion, Replayed};
use super::trial::{self, CaseOutcome, Trial, TrialError};
use crate::config::{Binding, Grant, ModuleSource, PolicySettings, Reuse, Sets};
use crate::ids::BindingName;

/// Longest run of one question.
const PATIENCE: Duration = Duration::from_secs(20);
/// The name that policies have on the bench.
const NAME: &str = "bench";

/// A module that is being looked at.
#[derive(Debug)]
pub struct Workbench {
    module: Module,
    sets: Arc<Sets>,
}

impl Workbench {
    /// Loads a component or a core module.
    pub fn load(engine: &Engine, bytes: &[u8]) -> Result<Self, ModuleError> {
        Ok(Self { module: Module::load(engine, bytes)?, sets: Arc::default() })
    }

    pub fn info(&self) -> &ModuleInfo {
        self.module.info()
    }

    /// Most memory that a binding may give it.
    pub fn max_memory_bytes(&self) -> usize {
        self.module.max_memory_bytes()
    }

    /// The configuration that the module itself proposes.
    pub fn sample_config(&self) -> Value {
        serde_json::from_str(self.module.manifest().sample_config.get()).expect("the manifest was checked")
    }

    /// Takes a configuration through the steps that a publication takes it through.
    pub fn configure(&self, config: &Value, reuse: Reuse) -> Result<Configured<'_>, LoadError> {
        let name = BindingName::parse(NAME).expect("the name is a name");
        let mut binding = Binding::new(name, ModuleSource::Builtin(NAME.to_owned()));
        binding.config = config.clone();
        binding.grants = Grant::ALL.to_vec();
        binding.reuse = reuse;
        binding.memory_bytes = self.module.max_memory_bytes();
        let settings = PolicySettings { sets: self.sets.clone(), ..PolicySettings::default() };
        let ready = publish::accept_config(&settings, &binding, &self.module)?;
        Ok(Configured { bench: self, ready })
    }

    /// The cases that the module brings along.
    pub fn self_tests(&self) -> Result<Vec<Case>, TrialError> {
        trial::module_cases(&self.module)
    }

    /// Tries one case. One without a configuration of its own is tried on `configured`, or else with the module's own
    /// sample.
    pub fn try_case(&self, case: &Case, configured: Option<&Configured<'_>>) -> CaseOutcome {
        let trial = Trial {
            module: &self.module,
            memory_bytes: self.module.max_memory_bytes(),
            sets: &self.sets,
            prepared: configured.map(|configured| &configured.ready.prepared),
        };
        CaseOutcome { name: case.name.clone(), problem: trial.try_case(case) }
    }
}

/// A module that accepted its configuration.
#[derive(Debug)]
pub struct Configured<'a> {
    bench: &'a Workbench,
    ready: Ready,
}

/// What came of one question.
#[derive(Debug)]
pub struct Asked {
    /// As the policy gave it.
    pub answer: Value,
    /// What the gateway makes of it: a verdict, or a failure, which denies.
    pub judged: Result<Judged, Failure>,
    /// What the policy had to say for the log.
    pub log: Vec<String>,
    /// What it asked the host meanwhile, and was told.
    pub imports: Vec<ImportCall>,
    pub took: Duration,
}

/// How long runs took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timings {
    pub rounds: usize,
    pub median: Duration,
    /// 99 of 100 took no longer.
    pub p99: Duration,
}

impl Configured<'_> {
    /// What `configure` had to say.
    pub fn warnings(&self) -> &[String] {
        &self.ready.warnings
    }

    /// What the host has to say, such as why the policy is not frozen.
    pub fn remarks(&self) -> &[String] {
        &self.ready.remarks
    }

    pub fn mode(&self) -> InstanceMode {
        self.ready.prepared.mode()
    }

    pub fn configured_in(&self) -> Duration {
        self.ready.configured_in
    }

    /// Asks one hook.
    ///
    /// # Errors
    /// How the run went wrong, with what the policy had said until then.
    pub fn ask(&self, hook: Hook, input: &Value) -> Result<Asked, (Failure, Vec<String>)> {
        let transcript = Transcript::default();
        let rehearsal = self.rehearsal();
        let mut run = rehearsal.run();
        run.now = trial::now_of(input);
        run.imports = Imports::Recorded(&transcript);
        let text = input.to_string();
        let begun = Instant::now();
        let answer = self.ready.prepared.ask_json(hook, &text, &run);
        let took = begun.elapsed();
        let log = transcript.said();
        match answer {
            Err(failure) => Err((failure, log)),
            Ok(answer) => {
                let judged = judge(hook, input, &answer);
                Ok(Asked { answer, judged, log, imports: transcript.calls(), took })
            }
        }
    }

    /// Puts a recorded question to the module once more.
    pub fn replay(&self, question: &PastQuestion) -> Replayed {
        replay::ask_again(&self.ready.prepared, self.bench.max_memory_bytes(), question, replay::PATIENCE)
    }

    /// Asks the same so many times, each in an instance of its own, and tells how long that took. A tenth of as many
    /// rounds go before, and are not counted.
    pub fn time(&self, hook: Hook, input: &Value, rounds: usize) -> Result<Timings, Failure> {
        let text = input.to_string();
        let once = || {
            let rehearsal = self.rehearsal();
            let mut run = rehearsal.run();
            run.now = trial::now_of(input);
            let begun = Instant::now();
            self.ready.prepared.ask_json(hook, &text, &run)?;
            Ok(begun.elapsed())
        };
        (0..rounds.div_ceil(10)).try_for_each(|_| once().map(drop))?;
        let mut took = (0..rounds.max(1)).map(|_| once()).collect::<Result<Vec<_>, Failure>>()?;
        took.sort_unstable();
        let at = |hundredths: usize| took[(took.len() * hundredths / 100).min(took.len() - 1)];
        Ok(Timings { rounds: took.len(), median: at(50), p99: at(99) })
    }

    /// The instructions of one run, the same on every machine. Only on an [`Engine::counting`].
    pub fn instructions(&self, hook: Hook, input: &Value) -> Result<u64, Failure> {
        let rehearsal = self.rehearsal();
        let mut run = rehearsal.run();
        run.now = trial::now_of(input);
        self.ready.prepared.ask_json(hook, &input.to_string(), &run)?;
        Ok(run.spent.instructions())
    }

    fn rehearsal(&self) -> Rehearsal {
        Rehearsal::new(NAME, &self.bench.sets, PATIENCE, self.bench.max_memory_bytes())
    }
}
