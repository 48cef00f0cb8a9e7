//! What another module would have said to what was decided before.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use http::Method;
use serde_json::Value;

use super::super::admin::{ask, segment, text};
use super::super::{AdminSocket, print};
use super::in_force::InForce;
use crate::config::Reuse;
use crate::ids::BindingName;
use crate::policy::cases::Difference;
use crate::policy::replay::{PastQuestion, Replayed};
use crate::policy::workbench::Workbench;
use crate::policy::{Engine, Failure, Hook, ImportCall};

/// Put recorded decisions to another module, and tell what it would have decided otherwise.
///
/// Decisions are recorded where [policy] has record = true. The module is asked on this machine, without a deadline; which
/// configuration it is asked with is told first.
#[derive(clap::Args)]
pub(in crate::cli) struct Replay {
    /// The module: a file, or builtin:NAME.
    #[arg(long, value_name = "MODULE")]
    against: PathBuf,
    /// The policy in whose place it would be.
    #[arg(long, value_name = "NAME")]
    binding: String,
    /// How many of its questions, the newest first.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=200))]
    last: u16,
    /// The module's configuration, a JSON object; without it, that which the policy has in force at the running gateway.
    #[arg(long, value_name = "FILE")]
    policy_config: Option<PathBuf>,
    #[command(flatten)]
    with: AdminSocket,
}

impl Replay {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let (policy_config, origin) = self.configuration()?;
        let bytes = super::read_module(&self.against)?;
        let engine = Engine::start(1)?;
        let module = self.against.display();
        let bench = Workbench::load(&engine, &bytes).with_context(|| format!("{module} cannot be used"))?;
        let configured = bench
            .configure(&policy_config, Reuse::Fresh)
            .with_context(|| format!("{module} does not accept the configuration of {}", self.binding))?;
        let recorded = self.recorded()?;
        if recorded.is_empty() {
            bail!("nothing is recorded of {}; record = true in [policy] records decisions", self.binding);
        }
        print(&format!("configured as in {origin}"))?;
        let (mut same, mut different, mut unanswered) = (0, 0, 0);
        for (decision, question) in &recorded {
            if !bench.info().manifest.hooks.contains(&question.hook) {
                unanswered += 1;
                print(&format!("{decision} {}: the module does not have this hook", question.hook))?;
                continue;
            }
            match configured.replay(question) {
                Replayed::Same { .. } => same += 1,
                Replayed::Diverged { what } => {
                    unanswered += 1;
                    print(&format!("{decision} {}: {what}", question.hook))?;
                }
                Replayed::Different { answer, differences, .. } => {
                    different += 1;
                    let (before, after) = question.in_words(&answer, &differences);
                    print(&format!("{decision} {}: {before} → {after}", question.hook))?;
                    tell_differences(question, &answer, &differences)?;
                }
            }
        }
        print(&format!("{same} same, {different} different, {unanswered} could not be asked again"))
    }

    /// What the module is configured with, and where that is from.
    fn configuration(&self) -> anyhow::Result<(Value, String)> {
        match &self.policy_config {
            Some(file) => Ok((super::read_json(file)?, file.display().to_string())),
            None => {
                let policy = InForce::of(&self.with, &self.binding)?;
                let origin = policy.origin();
                Ok((policy.config, origin))
            }
        }
    }

    /// What was recorded of the policy, with the decisions' ids, newest first.
    fn recorded(&self) -> anyhow::Result<Vec<(String, PastQuestion)>> {
        let path = format!("/api/v1/recordings?policy={}&limit={}", segment(&self.binding)?, self.last);
        let answer = ask(&self.with, Method::GET, &path, None)?;
        let questions = answer["questions"].as_array().into_iter().flatten();
        questions.map(|recorded| Ok((text(&recorded["decision"]).to_owned(), question(recorded)?))).collect()
    }
}

/// A recorded question, as the API shows it.
pub(super) fn question(recorded: &Value) -> anyhow::Result<PastQuestion> {
    if recorded["input"].is_null() {
        bail!("of this question there was too much to be kept; only its digest is");
    }
    let name = text(&recorded["policy"]);
    let hook = text(&recorded["hook"]);
    let imports = match &recorded["imports"] {
        Value::Null => Vec::new(),
        imports => serde_json::from_value::<Vec<ImportCall>>(imports.clone()).context("its imports cannot be read")?,
    };
    Ok(PastQuestion {
        decision: recorded["decision"].as_str().map(ToOwned::to_owned),
        binding: BindingName::parse(name).with_context(|| format!("{name:?} is no name of a policy"))?,
        hook: Hook::parse(hook).with_context(|| format!("there is no hook {hook:?}"))?,
        input: recorded["input"].clone(),
        answer: Some(recorded["answer"].clone()).filter(|answer| !answer.is_null()),
        was_asked: true,
        imports,
    })
}

/// Where an answer differs from the recorded one.
pub(super) fn tell_differences(
    question: &PastQuestion,
    answer: &Result<Value, Failure>,
    differences: &[Difference],
) -> anyhow::Result<()> {
    match answer {
        Err(failure) => return print(&format!("    it fails now: {failure}")),
        Ok(answer) if question.answer.is_none() => {
            return print(&format!("    it failed then, and answers {answer} now"));
        }
        Ok(_) => {}
    }
    for Difference { pointer, expected, found } in differences {
        let place = if pointer.is_empty() { "the answer" } else { pointer };
        print(&format!("    {place} was {expected} and is {found}"))?;
    }
    Ok(())
}
