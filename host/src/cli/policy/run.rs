//! One question to one module.

use std::io::{self, Write as _};
use std::path::PathBuf;

use anyhow::bail;
use serde_json::json;

use super::super::print;
use super::{OneModule, hook, hook_of, read_json};
use crate::config::Reuse;
use crate::policy::workbench::Asked;
use crate::policy::{Engine, Hook};

/// Ask one hook of a module, as the gateway would.
///
/// Prints the answer as the module gave it. What the gateway makes of it, and what the module had to say for the log, go to
/// standard error.
#[derive(clap::Args)]
pub(in crate::cli) struct Run {
    #[command(flatten)]
    module: OneModule,
    /// Which hook, such as tool-call.
    #[arg(long, value_name = "HOOK", value_parser = hook)]
    hook: Hook,
    /// The hook's parameters, a JSON object with `context` and the other parameter; `-` is standard input. What is left
    /// out has a harmless value.
    #[arg(long, value_name = "FILE")]
    input: PathBuf,
    /// Print all that is known of the run as one JSON object.
    #[arg(long)]
    json: bool,
}

impl Run {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let engine = Engine::start(1)?;
        let bench = self.module.load(&engine)?;
        let hook = hook_of(&bench, self.hook)?;
        let input = read_json(&self.input)?;
        let configured = self.module.configure(&bench, Reuse::Auto)?;
        let asked = configured.ask(hook, &input);
        let mode = configured.mode();
        match asked {
            Err((failure, log)) => {
                tell(log.iter().map(|line| format!("log      {line}")))?;
                bail!("the gateway would deny, since the policy failed: {failure}");
            }
            Ok(Asked { answer, judged, log, imports, took }) => {
                let micros = took.as_micros();
                if self.json {
                    let gateway = match &judged {
                        Ok(judged) => json!({ "verdict": judged.verdict, "code": judged.code, "rule": judged.rule }),
                        Err(failure) => json!({ "failure": failure.code(), "message": failure.to_string() }),
                    };
                    print(&format!(
                        "{:#}",
                        json!({ "answer": answer, "gateway": gateway, "log": log, "imports": imports, "micros": micros, "instances": mode.as_str() })
                    ))?;
                } else {
                    print(&format!("{answer:#}"))?;
                    let gateway = match &judged {
                        Ok(judged) => judged.to_string(),
                        Err(failure) => format!("denies, since {failure}"),
                    };
                    tell([format!("gateway  {gateway}"), format!("took     {micros} µs ({mode})")])?;
                    tell(
                        imports.iter().map(|call| format!("asked    {} {} → {}", call.import, call.asked, call.answer)),
                    )?;
                    tell(log.iter().map(|line| format!("log      {line}")))?;
                }
                if judged.is_err() {
                    bail!("the gateway would refuse this answer, and deny");
                }
                Ok(())
            }
        }
    }
}

/// Lines that are not the answer.
fn tell(lines: impl IntoIterator<Item = String>) -> anyhow::Result<()> {
    let mut stderr = io::stderr().lock();
    for line in lines {
        writeln!(stderr, "{line}")?;
    }
    Ok(())
}
