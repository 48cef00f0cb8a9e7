//! The crash suite: a program that writes to a store from many sides is killed at random points, again and again, and
//! after each time everything that it had acknowledged must be there and nothing may half-exist.
//!
//! `crash-store --cycles 200` starts itself anew for each cycle ([`work`]), reads from its standard output what was
//! acknowledged, kills it with SIGKILL, opens the same file and compares ([`ledger`]). The file lives on through all
//! cycles. What only a power cut does (un-synced writes that are lost, torn pages) is shown by the simulated disk beside
//! the engine, `store::redb::disk`.
//!
//! Prints `N passed, N failed`, in cycles; the first failure ends the run and leaves its file in place. Exit code 1 then.

mod ledger;
mod work;

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use clap::Parser;
use portcullis::Env;
use portcullis::store::{Location, Store};
use portcullis_tests::proxies::dice::Dice;

use self::ledger::Ledger;

/// Longest time between start and kill.
const LONGEST_LIFE: Duration = Duration::from_millis(150);
/// In this share of cycles the program is killed while it opens the store.
const EARLY: f64 = 0.25;

/// Kills a program that writes to a store, and looks whether the store holds.
#[derive(Parser)]
struct Arguments {
    #[arg(long, default_value_t = 200)]
    cycles: u64,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Be the program that is killed, on this store.
    #[arg(long, hide = true)]
    work: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    if let Some(path) = arguments.work {
        work::run(&path, arguments.seed).await?;
        return Ok(ExitCode::SUCCESS);
    }
    let dir = tempfile::TempDir::new()?;
    let path = dir.path().join("crash.redb");
    let mut dice = Dice::new(arguments.seed, 0);
    let mut ledger = Ledger::default();
    let began = Instant::now();
    for cycle in 0..arguments.cycles {
        let held = one_cycle(&path, &mut dice, &mut ledger).await;
        if let Err(broken) = held {
            say(&format!("cycle {cycle} of seed {}: {broken:#}", arguments.seed))?;
            say(&format!("the store is left at {}", dir.keep().display()))?;
            say(&format!("{cycle} passed, 1 failed"))?;
            return Ok(ExitCode::FAILURE);
        }
    }
    let facts = ledger.acknowledged();
    say(&format!("{facts} facts were acknowledged in {:.1} s", began.elapsed().as_secs_f64()))?;
    // A run that acknowledges next to nothing shows nothing.
    let is_enough = facts > arguments.cycles;
    say(&format!("{} passed, {} failed", arguments.cycles, u8::from(!is_enough)))?;
    Ok(if is_enough { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn say(line: &str) -> std::io::Result<()> {
    writeln!(std::io::stdout().lock(), "{line}")
}

async fn one_cycle(path: &Path, dice: &mut Dice, ledger: &mut Ledger) -> anyhow::Result<()> {
    let seed = dice.roll();
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("--work").arg(path).args(["--seed", &seed.to_string()]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let mut child = command.spawn().context("cannot start the writers")?;
    let out = BufReader::new(child.stdout.take().context("standard output is piped")?);
    let (ready, is_ready) = std::sync::mpsc::channel();
    // Reads to the end, which the kill brings: what was written to the pipe before is still there.
    let reader = std::thread::spawn(move || {
        let mut facts = Vec::new();
        for line in out.lines().map_while(Result::ok) {
            match line.as_str() {
                work::READY => drop(ready.send(())),
                fact => facts.push(fact.to_owned()),
            }
        }
        facts
    });
    if !dice.chance(EARLY) {
        // A start that fails closes the pipe, and that ends the wait.
        _ = is_ready.recv_timeout(Duration::from_secs(60));
    }
    let micros = u64::try_from(LONGEST_LIFE.as_micros())?;
    tokio::time::sleep(Duration::from_micros(dice.below(micros))).await;
    let ended = child.try_wait()?;
    child.kill()?;
    child.wait()?;
    let facts = reader.join().ok().context("reading the facts failed")?;
    ensure!(ended.is_none(), "the writers ended by themselves: {ended:?}");

    for fact in &facts {
        ledger.note(fact)?;
    }
    let opened = Store::open(Location::File(path.to_owned()), Env::system()).await;
    let store = opened.context("the store cannot be opened")?;
    let checked = ledger.check(&store).await;
    store.close().await;
    checked
}
