//! What one question costs.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use serde::Deserialize;
use serde_json::json;

use super::super::print;
use super::{OneModule, hook, hook_of, read_json};
use crate::config::Reuse;
use crate::policy::workbench::Timings;
use crate::policy::{Engine, Hook};

/// Measure what one question costs: time on this machine, and instructions, which are the same on every machine.
///
/// With a budget, fails if the module is larger or its answer takes more instructions: for continuous integration, where
/// times say little.
#[derive(clap::Args)]
pub(in crate::cli) struct Bench {
    #[command(flatten)]
    module: OneModule,
    /// Which hook, such as tool-call.
    #[arg(long, value_name = "HOOK", value_parser = hook)]
    hook: Hook,
    /// The hook's parameters, a JSON object; `-` is standard input.
    #[arg(long, value_name = "FILE")]
    input: PathBuf,
    /// How often it is asked.
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rounds: u32,
    /// What it may cost: a JSON object with `instructions` and `bytes`, each as you like.
    #[arg(long, value_name = "FILE")]
    budget: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What a module may cost.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Budget {
    /// Instructions of one question, with what it takes to begin.
    #[serde(default)]
    instructions: Option<u64>,
    /// Size of the module's file.
    #[serde(default)]
    bytes: Option<u64>,
}

impl Bench {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let budget = match &self.budget {
            None => None,
            Some(file) => {
                let budget: Budget = serde_json::from_value(read_json(file)?)
                    .with_context(|| format!("{} is no budget", file.display()))?;
                Some(budget)
            }
        };
        let input = read_json(&self.input)?;
        let engine = Engine::start(1)?;
        let bench = self.module.load(&engine)?;
        let hook = hook_of(&bench, self.hook)?;
        let configured = self.module.configure(&bench, Reuse::Auto)?;
        let failed = "it fails on this input, so that there is nothing to measure";
        let rounds = usize::try_from(self.rounds).expect("a u32 is a usize");
        let Timings { rounds, median, p99 } = configured.time(hook, &input, rounds).context(failed)?;
        let counting = Engine::counting()?;
        let counted = self.module.load(&counting)?;
        let counted = self.module.configure(&counted, Reuse::Auto)?;
        let instructions = counted.instructions(hook, &input).context(failed)?;
        let bytes = bench.info().size_bytes as u64;
        let mode = configured.mode();
        if self.json {
            print(&format!(
                "{:#}",
                json!({
                    "instances": mode.as_str(),
                    "rounds": rounds,
                    "p50_ns": median.as_nanos(),
                    "p99_ns": p99.as_nanos(),
                    "instructions": instructions,
                    "bytes": bytes,
                })
            ))?;
        } else {
            let micros = |time: std::time::Duration| format!("{:.1} µs", time.as_secs_f64() * 1e6);
            print(&format!(
                "p50           {}\np99           {}\ninstructions  {instructions}\nmodule        {bytes} bytes\n{rounds} rounds, {mode} instances",
                micros(median),
                micros(p99),
            ))?;
        }
        let over = |what: &str, found: u64, allowed: Option<u64>| {
            allowed
                .filter(|allowed| found > *allowed)
                .map(|allowed| format!("{found} {what}, and {allowed} are allowed"))
        };
        let Budget { instructions: most, bytes: largest } =
            budget.unwrap_or(Budget { instructions: None, bytes: None });
        let over: Vec<String> =
            [over("instructions", instructions, most), over("bytes", bytes, largest)].into_iter().flatten().collect();
        if !over.is_empty() {
            bail!("over its budget: {}", over.join("; "));
        }
        Ok(())
    }
}
