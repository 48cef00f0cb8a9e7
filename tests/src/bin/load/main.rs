//! The load generator of `docs/benchmarks.md`: the same calls directly, through the floor (`proxies::floor`) and through
//! gateways with zero, one and four policies, in one run, so that ratios mean something on a noisy machine.
//!
//! Every program is a process of its own, so that its processor time and memory can be read. Rounds go over the targets
//! again and again; a ratio is the median of the rounds' ratios. Loopback only; ends by itself.
//!
//! Scenarios, in this order: [`calls`] (tools/call, by size of the result), [`list`] (tools/list of 1 000 tools over 20
//! upstreams), [`streams`] (1 000 calls at once that report progress), [`idle`] (memory of sessions, connections and
//! streams that rest), [`allocations`] (of memory, per call), [`tokens`] (refreshes at the token endpoint, and calls with an
//! access token beside calls with a key), [`connections`] (calls with a credential of one's own beside calls without) and
//! [`reconcile`] (a change that takes many connections away).

#![expect(clippy::disallowed_methods, reason = "its tasks end with the program, and it measures real time")]

mod allocations;
mod caller;
mod calls;
mod connections;
mod idle;
mod list;
mod programs;
mod reconcile;
mod report;
mod streams;
mod tokens;
mod turns;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};

use self::caller::Era;
use self::programs::Programs;
use self::report::Report;

/// Compares calls through the gateway with direct ones and with the floor.
#[derive(Parser)]
struct Arguments {
    /// Seconds for each target in each round.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Connections at once, each with one call at a time.
    #[arg(long, default_value_t = 16)]
    connections: usize,
    /// Sessions and streams that are opened for the memory figures.
    #[arg(long, default_value_t = 5_000)]
    idle: usize,
    /// Connections to upstreams that one change takes away.
    #[arg(long, default_value_t = 100_000)]
    reconciled: u64,
    /// Run these scenarios only.
    #[arg(long, value_enum)]
    only: Vec<Scenario>,
    /// What the caller speaks.
    #[arg(long, value_enum, default_value_t = Era::Modern)]
    era: Era,
    /// Also write all figures to this file.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Directory of `portcullis`, `bench-upstream`, `floor-proxy` and `counted`. Without it, where this program is.
    #[arg(long)]
    programs: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Scenario {
    Calls,
    List,
    Streams,
    Idle,
    Allocations,
    Tokens,
    Connections,
    Reconcile,
}

impl Arguments {
    fn round(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    fn wants(&self, scenario: Scenario) -> bool {
        self.only.is_empty() || self.only.contains(&scenario)
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let programs = Programs::new(arguments.programs.as_deref())?;
    let mut report = Report::default();
    report.say(&format!("size of the gateway's binary: {:.1} MiB\n", programs.gateway_mib()?));
    if arguments.wants(Scenario::Calls) {
        calls::run(&programs, &arguments, &mut report).await?;
    }
    if arguments.wants(Scenario::List) {
        list::run(&programs, &arguments, &mut report).await?;
    }
    if arguments.wants(Scenario::Streams) {
        streams::run(&programs, &arguments, &mut report).await?;
    }
    if arguments.wants(Scenario::Idle) {
        idle::run(&programs, &arguments, &mut report).await?;
    }
    if arguments.wants(Scenario::Allocations) {
        allocations::run(&programs, &arguments, &mut report).await?;
    }
    if arguments.wants(Scenario::Tokens) {
        tokens::run(&programs, &arguments, &mut report).await?;
    }
    if arguments.wants(Scenario::Connections) {
        connections::run(&programs, &arguments, &mut report).await?;
    }
    if arguments.wants(Scenario::Reconcile) {
        reconcile::run(&programs, &arguments, &mut report).await?;
    }
    match &arguments.json {
        Some(file) => report.write(file),
        None => Ok(()),
    }
}
