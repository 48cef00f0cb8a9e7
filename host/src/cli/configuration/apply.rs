//! Makes what is stored what a file says, by the API's own verbs. What was changed by somebody else meanwhile is not.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use http::Method;
use serde_json::{Map, Value, json};

use super::plan::{Kind, Plan, Step, new_keys};
use super::policies::Policies;
use super::stored::Stored;
use crate::cli::admin::{ask, ask_if, segment, text};
use crate::cli::output::{Format, plain, tell};
use crate::cli::policy::{read_module, stored as modules};
use crate::cli::{WithConfig, print};
use crate::policy::module_digest;

/// Exit code of a dry run that found differences.
const DIFFERS: u8 = 2;

#[derive(clap::Args)]
pub(in crate::cli) struct Apply {
    /// The file with the sections.
    file: PathBuf,
    /// Change nothing: show what would be changed. Exit code 2 if anything would.
    #[arg(long)]
    dry_run: bool,
    /// Remove what is stored and not in the file, with all that hangs on it. Only of sections that the file has.
    #[arg(long)]
    prune: bool,
    /// Print the secrets of keys that are made. They are shown once; without this no key is made.
    #[arg(long)]
    show_secrets: bool,
    /// Save upstreams without trying them.
    #[arg(long)]
    unchecked: bool,
    #[command(flatten)]
    with: WithConfig,
}

impl Apply {
    pub(super) fn run(&self) -> anyhow::Result<ExitCode> {
        let sections = super::read(&self.file)?;
        let directory = self.file.parent().unwrap_or(Path::new(""));
        let policies = Policies::of(sections.policies.as_ref(), directory);
        let plan = Plan::of(&sections, &policies, &Stored::of(&self.with)?, self.prune);
        if !plan.conflicts.is_empty() {
            bail!("nothing was changed:\n{}", plain(&plan.conflicts.join("\n")));
        }
        if self.with.output == Format::Table {
            self.remark(&sections.others, &plan)?;
        }
        if self.dry_run {
            let lines = plan.lines();
            let answer = json!({ "changes": lines, "left": plan.left, "not_applied": sections.others });
            tell(&self.with, &answer, |_| match lines.is_empty() {
                true => "nothing to change".to_owned(),
                false => lines.join("\n"),
            })?;
            return Ok(if lines.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(DIFFERS) });
        }
        let new = new_keys(&plan);
        if !new.is_empty() && !self.show_secrets {
            let keys = new.join(", ");
            bail!(
                "nothing was changed: {keys} would be made, and nobody would know their secrets; --show-secrets prints them"
            );
        }
        self.carry_out(&plan, &sections.others)?;
        Ok(ExitCode::SUCCESS)
    }

    /// What is not looked at, beside what is.
    fn remark(&self, others: &[String], plan: &Plan) -> anyhow::Result<()> {
        let mut lines = Vec::new();
        if !others.is_empty() {
            lines.push(format!("a gateway's own settings are not applied: {}", others.join(", ")));
        }
        if !plan.left.is_empty() {
            lines.push(format!("stored, not in the file, and left alone: {}", plan.left.join(", ")));
        }
        for line in lines {
            writeln!(io::stderr(), "note: {}", plain(&line)).context("cannot write to standard error")?;
        }
        Ok(())
    }

    /// One step after the other. The first that fails ends it; what was done stays done and is told, and applying again goes
    /// on.
    fn carry_out(&self, plan: &Plan, others: &[String]) -> anyhow::Result<()> {
        let mut done = Vec::new();
        let ended = plan.steps.iter().try_for_each(|step| self.carry_out_one(step, &mut done));
        let told = match (self.with.output, done.is_empty()) {
            (Format::Table, true) if ended.is_ok() => print("nothing to change"),
            (Format::Table, _) => Ok(()),
            // An error alone is what says that nothing was done.
            (Format::Json, true) if ended.is_err() => Ok(()),
            (Format::Json, _) => {
                let answer = json!({ "changed": done, "left": plan.left, "not_applied": others });
                tell(&self.with, &answer, |_| String::new())
            }
        };
        ended.and(told)
    }

    /// Notes what is done as soon as it is: the secret of a key is shown once, whatever fails after it.
    fn carry_out_one(&self, step: &Step, done: &mut Vec<Value>) -> anyhow::Result<()> {
        let line = match step {
            Step::Upload { digest, .. } => format!("+ module sha256:{digest}"),
            Step::Create { kind, name, .. } => format!("+ {} {name}", kind.word()),
            Step::Change { kind, name, .. } => format!("~ {} {name}", kind.word()),
            Step::Remove { kind, name, .. } => format!("- {} {name}", kind.word()),
        };
        let Came { secret, otherwise } =
            self.step(step).with_context(|| format!("{line} failed, and what follows was not done"))?;
        done.push(json!({ "change": line, "secret": secret, "decisions": otherwise }));
        if self.with.output == Format::Table {
            print(&plain(&line))?;
            if let Some(secret) = &secret {
                print(&format!("    {secret}\n    This is shown once."))?;
            }
            if let Some(otherwise) = &otherwise {
                print(&plain(&format!("    {otherwise}")))?;
            }
        }
        self.settle(step).with_context(|| format!("{line} is there, and not yet disabled; what follows was not done"))
    }

    fn step(&self, step: &Step) -> anyhow::Result<Came> {
        let answer = match step {
            Step::Upload { digest, file } => return self.upload(digest, file),
            Step::Create { kind: Kind::Upstream, name, body } => {
                let path = format!("/api/v1/upstreams{}", self.care());
                self.ask(Method::POST, &path, json!({ "name": name, "definition": body }))?
            }
            Step::Create { kind: Kind::Policy, name, body } => {
                self.ask(Method::POST, "/api/v1/policies/bindings", json!({ "name": name, "definition": body }))?
            }
            Step::Create { kind: Kind::Key, name, body } => {
                return Ok(Came { secret: Some(self.make_key(name, body)?), ..Came::default() });
            }
            Step::Change { kind, name, patch, revision, .. } => {
                let (path, patch) = match kind {
                    Kind::Upstream => {
                        (format!("{}{}", path(*kind, name)?, self.care()), json!({ "definition": patch }))
                    }
                    Kind::Policy => (path(*kind, name)?, json!({ "definition": patch })),
                    Kind::Key => (path(*kind, name)?, for_key(patch)),
                };
                ask_if(&self.with, Method::PATCH, &path, Some(patch), *revision)?
            }
            Step::Remove { kind, name, revision } => {
                ask_if(&self.with, Method::DELETE, &path(*kind, name)?, None, *revision)?
            }
        };
        Ok(Came { otherwise: answer["changes"]["summary"].as_str().map(ToOwned::to_owned), ..Came::default() })
    }

    fn upload(&self, digest: &str, file: &Path) -> anyhow::Result<Came> {
        let module = read_module(file)?;
        if *module_digest(&module) != *digest {
            bail!("{} has changed meanwhile", file.display());
        }
        modules::upload(&self.with, file, module)?;
        Ok(Came::default())
    }

    fn make_key(&self, name: &str, body: &Map<String, Value>) -> anyhow::Result<String> {
        let mut new = body.clone();
        new.remove("disabled");
        new.insert("name".to_owned(), name.into());
        let key = self.ask(Method::POST, "/api/v1/keys", Value::Object(new))?;
        Ok(text(&key["secret"]).to_owned())
    }

    /// What cannot be said of a key while it is made.
    fn settle(&self, step: &Step) -> anyhow::Result<()> {
        let Step::Create { kind: Kind::Key, name, body } = step else { return Ok(()) };
        if let Some(disabled) = body.get("disabled") {
            self.ask(Method::PATCH, &path(Kind::Key, name)?, json!({ "disabled": disabled }))?;
        }
        Ok(())
    }

    fn ask(&self, method: Method, path: &str, body: Value) -> anyhow::Result<Value> {
        ask(&self.with, method, path, Some(body))
    }

    fn care(&self) -> &'static str {
        if self.unchecked { "?unchecked=true" } else { "" }
    }
}

/// What came of a step.
#[derive(Default)]
struct Came {
    /// Of a key that was made.
    secret: Option<String>,
    /// What policies say of earlier decisions now, where any were recorded.
    otherwise: Option<String>,
}

fn path(kind: Kind, name: &str) -> anyhow::Result<String> {
    let list = match kind {
        Kind::Upstream => "upstreams",
        Kind::Key => "keys",
        Kind::Policy => "policies/bindings",
    };
    Ok(format!("/api/v1/{list}/{}", segment(name)?))
}

/// A key that the file says nothing of is not disabled; it has to be said, since that is never taken away.
fn for_key(patch: &Map<String, Value>) -> Value {
    let mut patch = patch.clone();
    if patch.get("disabled") == Some(&Value::Null) {
        patch.insert("disabled".to_owned(), false.into());
    }
    Value::Object(patch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_is_disabled_no_more_is_enabled() {
        let patch = |value: Value| value.as_object().cloned().unwrap();
        assert_eq!(
            for_key(&patch(json!({ "disabled": null, "owner": null }))),
            json!({ "disabled": false, "owner": null })
        );
        assert_eq!(for_key(&patch(json!({ "scopes": ["a"] }))), json!({ "scopes": ["a"] }));
    }

    #[test]
    fn names_stand_in_paths_as_one_segment() {
        assert_eq!(path(Kind::Key, "a/b").unwrap(), "/api/v1/keys/a%2Fb");
    }
}
