//! Rotation of the vault's keys under load, killed with `kill -9` again and again: nothing that was kept becomes unreadable.
//!
//! A worker process seals, replaces and reads secrets of many owners while it rotates between two keys and wraps all data keys
//! anew, over and over. The driver kills it at a random moment, opens what is left and compares it with the worker's ledger:
//!
//! - Every secret whose keeping was acknowledged is there, as it was kept or as a later write has it that was under way.
//! - Everything else that is sealed opens too, and every data key is unwrapped by one of the two keys.
//!
//! `vault-crash --cycles 200` prints the totals. Exit code 1 if something did not hold.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::Parser;
use portcullis::Env;
use portcullis::audit::Actor;
use portcullis::config::{Vault as Settings, VaultKey, VaultKeySource, VaultKeyState};
use portcullis::ids::{KekId, Owner};
use portcullis::outbound::Outbound;
use portcullis::store::{Location, Store};
use portcullis::vault::deployment::Named;
use portcullis::vault::{Vault, make_key_file};
use portcullis_tests::proxies::dice::Dice;

const WRITERS: u64 = 4;
const OWNERS: u64 = 50;
const NAMES: u64 = 2;
/// Longest life of a worker, from when it is ready.
const LIFE: u64 = 600;

/// Kills a vault while its keys are rotated, and tells whether it held.
#[derive(Parser)]
struct Arguments {
    /// Lives of the worker.
    #[arg(long, default_value_t = 25)]
    cycles: u64,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Be the worker in this directory.
    #[arg(long, hide = true)]
    worker: Option<PathBuf>,
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match &arguments.worker {
        Some(dir) => runtime.block_on(work(dir, arguments.seed)).map(|()| ExitCode::SUCCESS),
        None => runtime.block_on(drive(&arguments)),
    }
}

/// Store and vault of a directory, with two active keys.
async fn open(dir: &Path) -> anyhow::Result<(Store, Vault)> {
    let key = |kid: &str| -> anyhow::Result<VaultKey> {
        let source = VaultKeySource::File(dir.join(format!("{kid}.key")));
        Ok(VaultKey { kid: KekId::parse(kid)?, state: VaultKeyState::Active, source })
    };
    let keys = vec![key("one")?, key("two")?];
    let settings = Settings { keys, is_default: false, cache_ttl: Duration::from_millis(20), allow_core_dumps: false };
    let store = Store::open(Location::File(dir.join("store.redb")), Env::system()).await?;
    let vault = Vault::start(&settings, store.clone(), Env::system(), Outbound::new()).await?;
    Ok((store, vault))
}

// ---- the worker ----------------------------------------------------------------------------------------------------

async fn work(dir: &Path, seed: u64) -> anyhow::Result<()> {
    let (_store, vault) = open(dir).await?;
    let ledger = OpenOptions::new().append(true).create(true).open(dir.join("ledger"))?;
    let ledger = Arc::new(Mutex::new(ledger));
    say_ready()?;
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        tasks.spawn(write(vault.clone(), ledger.clone(), writer, seed));
    }
    tasks.spawn(async move {
        loop {
            vault.rotate(None, Actor::System).await?;
            while !vault.rewrap_step(Actor::System).await?.is_done {
                tokio::task::yield_now().await;
            }
        }
    });
    // None of them ends but by a fault.
    let ended = tasks.join_next().await.context("there are tasks")?;
    ended?
}

fn say_ready() -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "ready")?;
    Ok(out.flush()?)
}

async fn write(vault: Vault, ledger: Arc<Mutex<File>>, writer: u64, seed: u64) -> anyhow::Result<()> {
    let mut dice = Dice::new(seed, writer);
    for count in 0_u64.. {
        // Each writer has owners of its own, so that the order of its writes is the ledger's.
        let owner_text = format!("key:w{writer}-{}", dice.below(OWNERS));
        let owner = Owner::parse(&owner_text).context("an owner")?;
        let name = format!("n{}", dice.below(NAMES));
        let secret = format!("{seed}.{count}");
        let line = |mark: char| {
            let line = format!("{mark} {owner_text} {name} {secret}\n");
            let mut ledger = ledger.lock().unwrap_or_else(PoisonError::into_inner);
            // One write, which outlives the process.
            ledger.write_all(line.as_bytes())
        };
        line('?')?;
        ensure!(vault.put(&owner, &name, secret.as_bytes()).await?, "nobody else writes this one");
        line('!')?;
        let read = vault.get(&owner, &name).await?;
        ensure!(matches!(&read, Named::Secret(read) if read.expose() == secret.as_bytes()), "{owner_text} {name}");
    }
    Ok(())
}

// ---- the driver ----------------------------------------------------------------------------------------------------

async fn drive(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let dir = tempfile::tempdir()?;
    for kid in ["one", "two"] {
        make_key_file(&dir.path().join(format!("{kid}.key")), &Env::system())?;
    }
    let mut dice = Dice::new(arguments.seed, 0);
    let (mut passed, mut failed, mut acknowledged) = (0, 0, 0);
    for cycle in 0..arguments.cycles {
        let seed = arguments.seed * 1_000_000 + cycle;
        let life = Duration::from_millis(dice.below(LIFE));
        run_and_kill(dir.path(), seed, life).await.with_context(|| format!("life {cycle}"))?;
        let (kept, wrong) = judge(dir.path()).await.with_context(|| format!("after life {cycle}"))?;
        acknowledged = kept;
        match wrong.is_empty() {
            true => passed += 1,
            false => failed += 1,
        }
        let mut err = std::io::stderr().lock();
        for wrong in wrong {
            writeln!(err, "after life {cycle}, killed at {life:?}: {wrong}")?;
        }
    }
    ensure!(acknowledged > 0, "no life was long enough to keep anything");
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{acknowledged} acknowledged secrets over {} lives, rotations under way all the while",
        arguments.cycles
    )?;
    writeln!(out, "{passed} passed, {failed} failed")?;
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn run_and_kill(dir: &Path, seed: u64, life: Duration) -> anyhow::Result<()> {
    let mut worker = Command::new(std::env::current_exe()?)
        .arg("--worker")
        .arg(dir)
        .args(["--seed", &seed.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut said = String::new();
    let read = BufReader::new(worker.stdout.take().context("standard output is piped")?).read_line(&mut said);
    if read.is_err() || said != "ready\n" {
        _ = worker.kill();
        _ = worker.wait();
        anyhow::bail!("the worker did not get ready");
    }
    tokio::time::sleep(life).await;
    let ended_before = worker.try_wait()?;
    worker.kill()?;
    worker.wait()?;
    ensure!(ended_before.is_none(), "the worker ended by itself: {ended_before:?}");
    Ok(())
}

/// How many secrets are in the ledger, and what does not agree with it.
async fn judge(dir: &Path) -> anyhow::Result<(usize, Vec<String>)> {
    // For each record what was acknowledged last, and what was begun since.
    let mut expected: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    let mut acknowledged = 0;
    for line in std::fs::read_to_string(dir.join("ledger"))?.lines() {
        let [mark, owner, name, secret] = line.split(' ').collect::<Vec<_>>()[..] else { continue };
        let may_be = expected.entry((owner.to_owned(), name.to_owned())).or_insert_with(|| vec![String::new()]);
        if mark == "!" {
            may_be.clear();
            acknowledged += 1;
        }
        may_be.push(secret.to_owned());
    }
    let (store, vault) = open(dir).await?;
    let mut wrong = Vec::new();
    for ((owner, name), may_be) in expected {
        let found = match vault.get(&Owner::parse(&owner).context("an owner")?, &name).await? {
            Named::Secret(secret) => String::from_utf8_lossy(secret.expose()).into_owned(),
            Named::None => String::new(),
            Named::Refused(refusal) => format!("refused: {refusal}"),
        };
        if !may_be.contains(&found) {
            wrong.push(format!("{owner} {name} is {found:?}, and not one of {may_be:?}"));
        }
    }
    let mut cursor = None;
    loop {
        let step = vault.verify(cursor.as_deref()).await?.context("the cursor is the vault's own")?;
        wrong.extend(step.bad.iter().map(|bad| format!("{} {} cannot be opened: {}", bad.table, bad.key, bad.reason)));
        cursor = step.next;
        if cursor.is_none() {
            break;
        }
    }
    store.close().await;
    Ok((acknowledged, wrong))
}
