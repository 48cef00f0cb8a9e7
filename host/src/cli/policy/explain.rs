//! Why a decision was made as it was: the chain of policies, and what each of them says of the same question today.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use http::Method;
use serde_json::Value;

use super::super::admin::{ask, segment, table, text};
use super::super::output::plain;
use super::super::{ConfigFile, load, print, pulled};
use super::replay::{question, tell_differences};
use crate::config::{Binding, Config, Reuse};
use crate::policy::replay::{PastQuestion, Replayed};
use crate::policy::workbench::Workbench;
use crate::policy::{Engine, module_digest};

/// Show how a decision came about: which policies were asked, and what each said.
///
/// If the decision was recorded (record = true in [policy]), each policy is put the same question once more, with the same
/// answers of the host and without a deadline, and it is told whether it says the same.
#[derive(clap::Args)]
pub(in crate::cli) struct Explain {
    /// The decision's id, as `portcullis decision list` and errors show it.
    id: String,
    /// Where to find a module that is not in the configuration any more. May be given several times.
    #[arg(long, value_name = "FILE")]
    module: Vec<PathBuf>,
    #[command(flatten)]
    with: ConfigFile,
}

impl Explain {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let id = segment(&self.id)?;
        let decision = ask(&self.with, Method::GET, &format!("/api/v1/decisions/{id}"), None)?;
        print(&plain(&in_full(&decision)))?;
        let recording = match ask(&self.with, Method::GET, &format!("/api/v1/recordings/{id}"), None) {
            Ok(recording) => recording,
            Err(error) => {
                return print(&format!(
                    "\nit cannot be made again: {error}; record = true in [policy] records decisions"
                ));
            }
        };
        let config = load(&self.with)?;
        let modules = self.modules(&config)?;
        let engine = Engine::start(1)?;
        print("")?;
        for recorded in recording["questions"].as_array().into_iter().flatten() {
            let (name, hook) = (text(&recorded["policy"]), text(&recorded["hook"]));
            let again = again(&engine, &config, &modules, recorded);
            match again {
                Err(error) => print(&format!("{name} at {hook}: not asked again: {error:#}"))?,
                Ok((question, replayed)) => tell(name, &question, &replayed)?,
            }
        }
        Ok(())
    }

    /// Modules by their digests: those of the configuration, and those that were named.
    fn modules(&self, config: &Config) -> anyhow::Result<BTreeMap<String, Vec<u8>>> {
        let mut modules = BTreeMap::new();
        for binding in &config.policy.bindings {
            // One that is gone is told where it is missed.
            if binding.module.reference().is_none()
                && let Ok(bytes) = super::read_module(&source(binding))
            {
                modules.insert(module_digest(&bytes).to_string(), bytes);
            }
        }
        for artifact in pulled(config)?.into_values().flatten() {
            modules.insert(module_digest(&artifact.module).to_string(), artifact.module.to_vec());
        }
        for file in &self.module {
            let bytes = super::read_module(file)?;
            modules.insert(module_digest(&bytes).to_string(), bytes);
        }
        Ok(modules)
    }
}

/// How a module is named on the command line.
fn source(binding: &Binding) -> PathBuf {
    binding.module.file().map_or_else(|| binding.module.to_string().into(), ToOwned::to_owned)
}

/// The binding of this name in the configuration.
pub(super) fn binding<'a>(config: &'a Config, name: &str) -> anyhow::Result<&'a Binding> {
    let bindings = &config.policy.bindings;
    bindings.iter().find(|binding| binding.name.as_str() == name).with_context(|| {
        let names: Vec<&str> = bindings.iter().map(|binding| binding.name.as_str()).collect();
        format!("the configuration has no policy {name:?}; it has {}", names.join(", "))
    })
}

fn again(
    engine: &Engine,
    config: &Config,
    modules: &BTreeMap<String, Vec<u8>>,
    recorded: &Value,
) -> anyhow::Result<(PastQuestion, Replayed)> {
    let question = question(recorded)?;
    let digest = text(&recorded["module_digest"]);
    let Some(bytes) = modules.get(digest) else {
        bail!("the module of that time, sha256:{digest}, is not in the configuration; name it with --module FILE");
    };
    let binding = binding(config, question.binding.as_str())?;
    let bench = Workbench::load(engine, bytes)?;
    let configured = bench.configure(&binding.config, Reuse::Fresh)?;
    let replayed = configured.replay(&question);
    Ok((question, replayed))
}

fn tell(name: &str, question: &PastQuestion, replayed: &Replayed) -> anyhow::Result<()> {
    let hook = question.hook;
    let log = match replayed {
        Replayed::Same { log } => {
            print(&format!("{name} at {hook}: same"))?;
            log.as_slice()
        }
        Replayed::Diverged { what } => {
            print(&format!("{name} at {hook}: diverged: {what}"))?;
            &[]
        }
        Replayed::Different { answer, differences, log } => {
            print(&format!("{name} at {hook}: diverged"))?;
            tell_differences(question, answer, differences)?;
            log.as_slice()
        }
    };
    log.iter().try_for_each(|line| print(&format!("    log {line}")))
}

/// A decision with each step that led to it.
pub(in crate::cli) fn in_full(decision: &Value) -> String {
    let steps = decision["steps"].as_array().into_iter().flatten();
    let steps = table(&["POLICY", "HOOK", "VERDICT", "REASON", "RULE", "MODULE", "TOOK", "NOTES"], steps.map(row));
    format!("{}\n{steps}", head(decision))
}

fn head(decision: &Value) -> String {
    let cell = |name: &str| text(&decision[name]);
    let about = [cell("upstream"), cell("tool")].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>();
    let reason = decision["reason_code"].as_str().map(|code| format!(" ({code})")).unwrap_or_default();
    format!(
        "{} {}: {} {} for {}\n{}{reason}, then {}, after {} ms; generation {}\n",
        cell("at"),
        cell("id"),
        cell("operation"),
        about.join("/"),
        cell("principal"),
        cell("verdict"),
        cell("outcome"),
        decision["elapsed_ms"],
        decision["policy_generation"],
    )
}

fn row(step: &Value) -> Vec<String> {
    let cell = |name: &str| text(&step[name]).to_owned();
    let digest: String = cell("module_digest").chars().take(12).collect();
    let module = [cell("module_name"), cell("version"), digest];
    let notes = step["notes"].as_array().into_iter().flatten();
    let notes = notes.map(|note| format!("{}={}", text(&note["key"]), text(&note["value"])));
    vec![
        cell("policy"),
        cell("hook"),
        cell("verdict"),
        cell("reason_code"),
        cell("rule"),
        module.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" "),
        format!("{} µs", step["micros"]),
        notes.collect::<Vec<_>>().join(" "),
    ]
}
