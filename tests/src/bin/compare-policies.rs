//! Proves that policies rebuilt from source answer like the prebuilt ones: `compare-policies PREBUILT REBUILT`.
//!
//! Bytes depend on the compiler and are not compared. Manifests must be equal, and to every question in
//! `tests/fixtures/policy-cases.json` both must give the answer that is written there. The prebuilt modules must have the
//! digests that `digests.txt` beside them says.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use portcullis::config::{Binding, ModuleSource, PolicySettings, WhenAllAbstain};
use portcullis::env::{Env, Timestamp};
use portcullis::glob::Glob;
use portcullis::identity::Caller;
use portcullis::ids::{BindingName, DecisionId, KeyName, Principal, UpstreamName};
use portcullis::mcp::call::{Call, Outcome};
use portcullis::mcp::json::raw;
use portcullis::policy::{CallContext, Engine, Module, PolicySet, Refusal, Transport};
use portcullis::secret::Digest;
use portcullis::upstream::catalog::{Tool, ToolDefinition};
use serde::Deserialize;
use serde_json::Value;

/// One question to one policy, and its answer.
#[derive(Deserialize)]
struct Case {
    policy: String,
    config: Value,
    upstream: String,
    /// A tool's definition.
    tool: Value,
    #[serde(flatten)]
    question: Question,
    expect: Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Question {
    /// Whether the tool is shown.
    List,
    /// Whether a call with these arguments passes.
    Call(Value),
    /// What is left of this result.
    Result(Value),
}

fn main() -> ExitCode {
    match compare() {
        Ok((passed, failed)) => {
            say(&format!("{passed} passed, {failed} failed"));
            if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            say(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, reason = "a program whose output is its result")]
fn say(line: &str) {
    println!("{line}");
}

fn compare() -> anyhow::Result<(usize, usize)> {
    let directories: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [prebuilt, rebuilt] = directories.as_slice() else { anyhow::bail!("usage: compare-policies PREBUILT REBUILT") };
    let engine = Engine::start(64)?;
    let (mut passed, mut failed) = (0, 0);
    let mut count = |what: String, result: anyhow::Result<()>| match result {
        Ok(()) => {
            passed += 1;
            say(&format!("ok    {what}"));
        }
        Err(error) => {
            failed += 1;
            say(&format!("FAIL  {what}: {error:#}"));
        }
    };
    let names = modules(prebuilt)?;
    count("the same modules are in both".to_owned(), same(&names, &modules(rebuilt)?));
    for name in &names {
        count(format!("{name}: the digest is the one in digests.txt"), check_digest(prebuilt, name));
        let manifest = |dir: &Path| -> anyhow::Result<String> {
            let module = Module::load(&engine, &std::fs::read(dir.join(name))?)?;
            Ok(format!("{:?} {:?} {:?}", module.info().manifest, module.info().exported, module.info().imports))
        };
        let compared = manifest(prebuilt).and_then(|old| same(&old, &manifest(rebuilt)?));
        count(format!("{name}: the manifests are equal"), compared);
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/policy-cases.json");
    let cases: Vec<Case> =
        serde_json::from_slice(&std::fs::read(&path)?).with_context(|| path.display().to_string())?;
    let asked: BTreeSet<String> = cases.iter().map(|case| format!("{}.wasm", case.policy)).collect();
    count("every module is asked something".to_owned(), same(&names, &asked));
    for (number, case) in cases.iter().enumerate() {
        for dir in [prebuilt, rebuilt] {
            let what = format!("case {number}, {} in {}", case.policy, dir.display());
            count(what, case.answer(&engine, dir).and_then(|answer| same(&case.expect, &answer)));
        }
    }
    Ok((passed, failed))
}

fn same<T: PartialEq + std::fmt::Debug>(expected: &T, found: &T) -> anyhow::Result<()> {
    ensure!(expected == found, "expected {expected:?}, found {found:?}");
    Ok(())
}

fn modules(dir: &Path) -> anyhow::Result<BTreeSet<String>> {
    let entries = std::fs::read_dir(dir).with_context(|| dir.display().to_string())?;
    let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let names: anyhow::Result<Vec<String>> = names.collect();
    Ok(names?.into_iter().filter(|name| name.ends_with(".wasm")).collect())
}

fn check_digest(dir: &Path, name: &str) -> anyhow::Result<()> {
    let listed = std::fs::read_to_string(dir.join("digests.txt"))?;
    let line = format!("{}  {name}", Digest::of(&std::fs::read(dir.join(name))?).to_hex());
    ensure!(listed.lines().any(|listed| listed == line), "digests.txt has no line {line:?}");
    Ok(())
}

impl Case {
    fn answer(&self, engine: &Engine, dir: &Path) -> anyhow::Result<Value> {
        let set = self.policy_set(engine, dir)?;
        let tool = self.placed_tool()?;
        let caller = Caller { principal: Principal::Key(KeyName::parse("compare")?), allow: Arc::default() };
        let context = CallContext {
            decision: DecisionId::generate(&Env::system()),
            caller: &caller,
            revision: "2026-07-28",
            session: None,
            transport: Transport::StreamableHttp,
            remote_ip: None,
            user_agent: None,
            trace_id: None,
            now: Timestamp::from_millis(0),
        };
        Ok(match &self.question {
            Question::List => match set.filter(&context, &[tool]).tools.len() {
                0 => "hidden".into(),
                _ => "shown".into(),
            },
            Question::Call(arguments) => {
                let arguments = Some(raw(arguments.to_string()));
                match set.check(&context, Call::new(tool, arguments)).0 {
                    Ok(_) => "allowed".into(),
                    Err(refusal) => told(&refusal),
                }
            }
            Question::Result(result) => {
                match set.inspect(&context, &tool, Outcome::Result(raw(result.to_string())), Duration::from_millis(1)).0
                {
                    Ok(Outcome::Result(result)) => serde_json::from_str(result.get())?,
                    Ok(Outcome::Error(_) | Outcome::NeedsInput(_)) => "an error".into(),
                    Err(refusal) => told(&refusal),
                }
            }
        })
    }

    fn policy_set(&self, engine: &Engine, dir: &Path) -> anyhow::Result<PolicySet> {
        let binding = Binding {
            name: BindingName::parse("compared")?,
            module: ModuleSource::File(dir.join(format!("{}.wasm", self.policy))),
            digest: None,
            config: self.config.clone(),
            upstreams: vec![Glob::any()],
            tools: vec![Glob::any()],
            priority: 100,
            allow_rewrite: false,
            time: Duration::from_secs(1),
            memory_bytes: 16 << 20,
        };
        let settings =
            PolicySettings { when_all_abstain: WhenAllAbstain::Deny, max_components: 64, bindings: vec![binding] };
        Ok(PolicySet::load(&settings, &[], engine, &|_| None, None, 1)?)
    }

    fn placed_tool(&self) -> anyhow::Result<Arc<Tool>> {
        let upstream = UpstreamName::parse(&self.upstream)?;
        let definition = ToolDefinition::parse(&upstream, &raw(self.tool.to_string()))?;
        let exposed = format!("{upstream}__{}", definition.name);
        Ok(Arc::new(Tool::new(Arc::new(definition), exposed)))
    }
}

fn told(refusal: &Refusal) -> Value {
    match refusal {
        Refusal::Denied { reason, .. } => {
            serde_json::json!({ "denied": reason.code, "message": reason.message, "rule": reason.rule })
        }
        other => other.check().into(),
    }
}
