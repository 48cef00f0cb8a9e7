//! The figures of the store in `docs/benchmarks.md`: writes with and without group commit, reads, growth, start.
//!
//! Everything goes through `portcullis::store`, as the gateway does it. Compared are rounds of the same run, in turn, since
//! one machine's disk says little about another's. `--url` names an empty store that may be filled; without it, a file in
//! a temporary directory, or in the one that `TMPDIR` names: a file in memory measures another thing.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::ensure;
use clap::{Parser, ValueEnum};
use portcullis::config::{self, StoreUrl, VaultKey, VaultKeySource, VaultKeyState, process_environment};
use portcullis::ids::{KekId, Owner};
use portcullis::outbound::Outbound;
use portcullis::secret::Plaintext;
use portcullis::store::engine::{Bounds, Direction, Table};
use portcullis::store::{Location, Store, StoreError, WriteTx, dump};
use portcullis::vault::Vault;
use portcullis::vault::deployment::Named;
use portcullis::{Env, gateway};
use portcullis_tests::proxies::dice::Dice;
use tempfile::TempDir;
use tokio::task::JoinSet;

/// Bytes of a record: a grant with its scopes has about as many.
const RECORD: usize = 600;
/// Records that one transaction puts in where only the result is wanted.
const STEP: u64 = 500;
/// Records that are alive at once while others come and go.
const ALIVE: u64 = 10_000;

/// Measures the store.
#[derive(Parser)]
struct Arguments {
    /// The store: redb:PATH, or what else the configuration takes for store.url. It must be empty.
    #[arg(long)]
    url: Option<String>,
    /// Seconds for each number of writers in each round.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Records that come and go, and records that are there at the start.
    #[arg(long, default_value_t = 100_000)]
    records: u64,
    /// Run these only.
    #[arg(long, value_enum)]
    only: Vec<Scenario>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Scenario {
    Writes,
    Reads,
    Growth,
    Start,
    Sealed,
}

/// Where the stores of this run are.
struct Place {
    location: Location,
    /// Kept until the end.
    dir: TempDir,
}

impl Place {
    /// The file of the store, if it is one.
    fn file(&self) -> Option<&Path> {
        match &self.location {
            Location::File(path) => Some(path),
            _ => None,
        }
    }

    /// A file of its own beside the others.
    fn beside(&self, name: &str) -> PathBuf {
        self.file().and_then(Path::parent).unwrap_or(self.dir.path()).join(name)
    }

    async fn open(&self) -> anyhow::Result<Store> {
        Ok(Store::open(self.location.clone(), Env::system()).await?)
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let dir = TempDir::new()?;
    let location = match &arguments.url {
        Some(url) => {
            let parsed = StoreUrl::parse(url, &std::env::current_dir()?, &process_environment);
            gateway::location(&parsed.map_err(|problem| anyhow::anyhow!("the URL of the store {problem}"))?)
        }
        None => Location::File(dir.path().join("load.redb")),
    };
    let place = Place { location, dir };
    let store = place.open().await?;
    ensure!(dump::import::is_empty(&store).await?, "the store is not empty: what is in it would be lost");
    store.close().await;
    let wants = |scenario| arguments.only.is_empty() || arguments.only.contains(&scenario);
    if wants(Scenario::Writes) {
        writes(&place, &arguments).await?;
    }
    if wants(Scenario::Reads) {
        reads(&place, &arguments).await?;
    }
    if wants(Scenario::Growth) {
        growth(&place, &arguments).await?;
    }
    if wants(Scenario::Start) {
        start(&place, &arguments).await?;
    }
    if wants(Scenario::Sealed) {
        sealed(&place, &arguments).await?;
    }
    Ok(())
}

fn say(line: &str) -> anyhow::Result<()> {
    Ok(writeln!(std::io::stdout().lock(), "{line}")?)
}

fn record(number: u64) -> Vec<u8> {
    let mut record = number.to_be_bytes().to_vec();
    record.resize(RECORD, b'x');
    record
}

/// The record and its row in the expiry index, as the store's own tables have them.
fn put(tx: &mut WriteTx<'_>, number: u64) -> Result<(), StoreError> {
    // Ids are random; what is written next to each other is not read next to each other.
    let key = Dice::new(number, 1).roll().to_be_bytes();
    tx.put(Table::Decisions, &key, &record(number))?;
    tx.put(Table::Expiry, &[&number.to_be_bytes()[..], &key].concat(), b"")
}

/// Times of single operations.
#[derive(Default)]
struct Times(Vec<Duration>);

impl Times {
    fn quantile(&mut self, share: f64) -> f64 {
        self.0.sort_unstable();
        let at = ((self.0.len() as f64 * share) as usize).min(self.0.len().saturating_sub(1));
        self.0.get(at).map_or(0.0, |time| time.as_secs_f64() * 1_000.0)
    }
}

/// Workers that do one thing after the other for so long: how many in a second, and how long each took.
async fn work_for<W, F>(workers: u64, time: Duration, work: W) -> anyhow::Result<(f64, Times)>
where
    W: Fn() -> F + Clone + Send + 'static,
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..workers {
        let work = work.clone();
        tasks.spawn(async move {
            let mut times = Vec::new();
            while began.elapsed() < time {
                let asked = Instant::now();
                work().await?;
                times.push(asked.elapsed());
            }
            Ok::<_, anyhow::Error>(times)
        });
    }
    let mut all = Times::default();
    while let Some(times) = tasks.join_next().await {
        all.0.extend(times??);
    }
    Ok((all.0.len() as f64 / began.elapsed().as_secs_f64(), all))
}

async fn write_for(store: &Store, writers: u64, time: Duration, next: &Arc<AtomicU64>) -> anyhow::Result<(f64, Times)> {
    let (store, next) = (store.clone(), next.clone());
    let write = move || {
        let (store, number) = (store.clone(), next.fetch_add(1, Ordering::Relaxed));
        async move { Ok(store.write(move |tx| put(tx, number)).await?) }
    };
    work_for(writers, time, write).await
}

/// Reads of any of the first so many records.
async fn read_for(store: &Store, readers: u64, time: Duration, records: u64) -> anyhow::Result<(f64, Times)> {
    let (store, next) = (store.clone(), Arc::new(AtomicU64::new(0)));
    let read = move || {
        let number = Dice::new(7, next.fetch_add(1, Ordering::Relaxed)).below(records);
        let (store, key) = (store.clone(), Dice::new(number, 1).roll().to_be_bytes());
        async move {
            let found = store.read(move |tx| tx.get(Table::Decisions, &key)).await?;
            ensure!(found.is_some(), "a record is missing");
            Ok(())
        }
    };
    work_for(readers, time, read).await
}

async fn writes(place: &Place, arguments: &Arguments) -> anyhow::Result<()> {
    say("\n## Writes: one record and its row of an index in each transaction\n")?;
    say("| writers | commits | writes/s | p50 ms | p99 ms | × one transaction in each commit |")?;
    say("|---|---|---|---|---|---|")?;
    let grouped = place.open().await?;
    // The same with one transaction in each commit, where the engine can be told so.
    let alone = match place.file() {
        Some(_) => {
            let path = place.beside("alone.redb");
            Some(Store::open_with_groups_of(1, Location::File(path), Env::system()).await?)
        }
        None => None,
    };
    let next = Arc::new(AtomicU64::new(0));
    let time = Duration::from_secs_f64(arguments.seconds);
    for writers in [1, 8, 64, 128] {
        let [mut rates, mut rates_alone, mut ratios] = [const { Vec::new() }; 3];
        let (mut times, mut times_alone) = (Times::default(), Times::default());
        for _ in 0..arguments.rounds {
            let (rate, waited) = write_for(&grouped, writers, time, &next).await?;
            rates.push(rate);
            times.0.extend(waited.0);
            if let Some(alone) = &alone {
                let (rate_alone, waited) = write_for(alone, writers, time, &next).await?;
                rates_alone.push(rate_alone);
                ratios.push(rate / rate_alone);
                times_alone.0.extend(waited.0);
            }
        }
        let ratio = if ratios.is_empty() { String::new() } else { format!("{:.2}", median(ratios)) };
        let (p50, p99) = (times.quantile(0.5), times.quantile(0.99));
        say(&format!("| {writers} | grouped | {:.0} | {p50:.2} | {p99:.2} | {ratio} |", median(rates)))?;
        if !rates_alone.is_empty() {
            let (p50, p99) = (times_alone.quantile(0.5), times_alone.quantile(0.99));
            say(&format!("| | one each | {:.0} | {p50:.2} | {p99:.2} | 1 |", median(rates_alone)))?;
        }
    }
    if let Some(alone) = alone {
        alone.close().await;
    }
    empty(&grouped).await?;
    grouped.close().await;
    Ok(())
}

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_unstable_by(f64::total_cmp);
    of.get(of.len() / 2).copied().unwrap_or_default()
}

async fn fill(store: &Store, numbers: std::ops::Range<u64>) -> anyhow::Result<()> {
    let mut from = numbers.start;
    while from < numbers.end {
        let to = (from + STEP).min(numbers.end);
        store.write(move |tx| (from..to).try_for_each(|number| put(tx, number))).await?;
        from = to;
    }
    Ok(())
}

/// Removes the oldest records, as a sweeper does: along the expiry index, so many in each transaction.
async fn sweep(store: &Store, count: u64) -> anyhow::Result<u64> {
    let mut swept = 0;
    while swept < count {
        let step = usize::try_from(STEP.min(count - swept))?;
        let removed = store
            .write(move |tx| {
                let due = tx.range(Table::Expiry, &Bounds::all(), Direction::Forward, step)?;
                for (key, _) in &due {
                    tx.remove(Table::Decisions, &key[8..])?;
                    tx.remove(Table::Expiry, key)?;
                }
                Ok::<_, StoreError>(due.len() as u64)
            })
            .await?;
        if removed == 0 {
            break;
        }
        swept += removed;
    }
    Ok(swept)
}

/// Takes out what a scenario has left.
async fn empty(store: &Store) -> anyhow::Result<()> {
    sweep(store, u64::MAX).await.map(drop)
}

async fn reads(place: &Place, arguments: &Arguments) -> anyhow::Result<()> {
    let records = arguments.records.min(100_000);
    say(&format!("\n## Reads: one record of {records}, in any order\n"))?;
    say("| readers | reads/s | p50 ms | p99 ms |")?;
    say("|---|---|---|---|")?;
    let store = place.open().await?;
    fill(&store, 0..records).await?;
    for readers in [1, 8, 64] {
        let time = Duration::from_secs_f64(arguments.seconds);
        let (rate, mut times) = read_for(&store, readers, time, records).await?;
        say(&format!("| {readers} | {rate:.0} | {:.3} | {:.3} |", times.quantile(0.5), times.quantile(0.99)))?;
    }
    empty(&store).await?;
    store.close().await;
    Ok(())
}

/// Secrets of many owners, sealed and kept, found and opened, in turn with as many writes and reads of plain records.
async fn sealed(place: &Place, arguments: &Arguments) -> anyhow::Result<()> {
    const OWNERS: u64 = 1_000;
    const RECORDS: u64 = 10_000;
    say(&format!("\n## Sealed: secrets of 40 bytes of {OWNERS} owners, whose data keys are in memory\n"))?;
    say("| what | workers | a second | p50 ms | p99 ms | × plain |")?;
    say("|---|---|---|---|---|---|")?;
    let store = place.open().await?;
    let key = VaultKeySource::Environment { variable: "LOAD".to_owned(), key: Plaintext::new("07".repeat(32)) };
    let key = VaultKey { kid: KekId::parse("load")?, state: VaultKeyState::Active, source: key };
    let cache_ttl = Duration::from_secs(3_600);
    let settings = config::Vault { keys: vec![key], is_default: false, cache_ttl, allow_core_dumps: false };
    let vault = Vault::start(&settings, store.clone(), Env::system(), Outbound::new()).await?;
    let owners: Arc<[Owner]> = (0..OWNERS).filter_map(|number| Owner::parse(&format!("key:load-{number}"))).collect();
    let secret_of = move |number: u64| (owners[(number % OWNERS) as usize].clone(), format!("secret-{number}"));
    for number in 0..RECORDS {
        let (owner, name) = secret_of(number);
        ensure!(vault.put(&owner, &name, &[7; 40]).await?, "a secret was not kept");
    }
    fill(&store, 0..RECORDS).await?;
    let time = Duration::from_secs_f64(arguments.seconds);
    let (plain, sealed) = (Arc::new(AtomicU64::new(RECORDS)), Arc::new(AtomicU64::new(RECORDS)));
    for workers in [1, 64] {
        for is_put in [true, false] {
            let [mut rates, mut ratios] = [const { Vec::new() }; 2];
            let mut times = Times::default();
            for _ in 0..arguments.rounds {
                let (rate_plain, _) = if is_put {
                    write_for(&store, workers, time, &plain).await?
                } else {
                    read_for(&store, workers, time, RECORDS).await?
                };
                let (vault, next, secret_of) = (vault.clone(), sealed.clone(), secret_of.clone());
                let work = move || {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let (vault, (owner, name)) =
                        (vault.clone(), secret_of(if is_put { number } else { number % RECORDS }));
                    async move {
                        if is_put {
                            ensure!(vault.put(&owner, &name, &[7; 40]).await?, "a secret was not kept");
                        } else {
                            let found = vault.get(&owner, &name).await?;
                            ensure!(matches!(found, Named::Secret(_)), "a secret does not open");
                        }
                        Ok(())
                    }
                };
                let (rate, waited) = work_for(workers, time, work).await?;
                rates.push(rate);
                ratios.push(rate / rate_plain);
                times.0.extend(waited.0);
            }
            let what = if is_put { "put" } else { "get" };
            let (p50, p99) = (times.quantile(0.5), times.quantile(0.99));
            say(&format!(
                "| {what} | {workers} | {:.0} | {p50:.3} | {p99:.3} | {:.2} |",
                median(rates),
                median(ratios)
            ))?;
        }
    }
    empty(&store).await?;
    store.close().await;
    Ok(())
}

async fn growth(place: &Place, arguments: &Arguments) -> anyhow::Result<()> {
    let records = arguments.records;
    say(&format!("\n## Growth: {records} records that come and go, {ALIVE} alive at once\n"))?;
    let store = place.open().await?;
    let mut told = String::new();
    let mut written = 0;
    while written < records {
        let step = (records / 10).max(1).min(records - written);
        let mut until = written;
        while until < written + step {
            let next = (until + STEP).min(written + step);
            fill(&store, until..next).await?;
            if next > ALIVE {
                sweep(&store, next - until).await?;
            }
            until = next;
        }
        written += step;
        let stats = store.stats().await?;
        let alive = stats.tables.iter().map(|table| table.bytes).sum::<u64>();
        match stats.file {
            Some(file) => {
                let free = file.free_pages.unwrap_or_default() * file.page_bytes;
                write!(told, "\n| {written} | {} | {} | {} |", mib(alive), mib(file.bytes), mib(free))?;
            }
            None => write!(told, "\n| {written} | {} | | |", mib(alive))?,
        }
    }
    say(&format!("| written | alive MiB | file MiB | of it free MiB |\n|---|---|---|---|{told}"))?;
    empty(&store).await?;
    store.close().await;
    if let Some(path) = place.file() {
        let (before, after) = portcullis::store::compact(path).await?;
        say(&format!("\nEmptied and compacted, the file goes from {} to {} MiB.", mib(before), mib(after)))?;
    }
    Ok(())
}

fn mib(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / f64::from(1 << 20))
}

async fn start(place: &Place, arguments: &Arguments) -> anyhow::Result<()> {
    let records = arguments.records;
    say(&format!("\n## Start with {records} records\n"))?;
    let store = place.open().await?;
    fill(&store, 0..records).await?;
    // A copy of a file that is in use is what a crash leaves.
    let crashed = place.file().map(|path| (path.to_owned(), place.beside("crashed.redb")));
    if let Some((path, copy)) = &crashed {
        std::fs::copy(path, copy)?;
    }
    store.close().await;
    let began = Instant::now();
    let store = place.open().await?;
    say(&format!("closed in order: open in {:.0} ms", began.elapsed().as_secs_f64() * 1_000.0))?;
    if let Some((_, copy)) = crashed {
        let began = Instant::now();
        let repaired = Store::open(Location::File(copy), Env::system()).await?;
        say(&format!("killed: open in {:.0} ms", began.elapsed().as_secs_f64() * 1_000.0))?;
        repaired.close().await;
    }
    empty(&store).await?;
    store.close().await;
    Ok(())
}
