//! `portcullis backup`, `restore` and `store`: the store as a whole, of a running gateway through its admin socket, or one
//! that no gateway has open.

use std::cell::Cell;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use clap::Subcommand;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncSeekExt as _};

use super::admin::{ask_patiently, table, text};
use super::output::{Format, Progress, Reached, Refused, tell};
use super::{WithConfig, load, on_runtime, print};
use crate::config::{self, StoreUrl};
use crate::env::{Env, Timestamp};
use crate::gateway;
use crate::outbound::{OutboundError, stream_from_socket};
use crate::store::dump::import::check;
use crate::store::dump::restore::{Present, Restored, migrate, restore};
use crate::store::dump::{Decoder, Header, Item, Summary};
use crate::store::{self, Location, Store, export};

mod input;
mod output;

use input::Counted;
use output::Output;

/// Longest walk through the store of a running gateway: as long as it holds one state for a backup, and some more for the
/// last bytes.
const WALK_PATIENCE: Duration = export::MAX_TIME.saturating_add(Duration::from_secs(60));

#[derive(clap::Args)]
pub(super) struct Backup {
    /// The file to write, for its owner only, or '-' for standard output.
    file: PathBuf,
    /// Replace the file if there is one.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    with: WithConfig,
}

impl Backup {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let socket = self.with.path()?;
        let mut output = Output::open(&self.file, self.force)?;
        let mut decoder = Decoder::default();
        let mut told = Told::default();
        let mut progress = Progress::begin(self.with.output);
        let taken = on_runtime(async {
            let take = async |piece: Bytes| -> anyhow::Result<()> {
                decoder.add(&piece);
                while let Some(item) = decoder.item().context("what the gateway sent is not a whole backup")? {
                    told.note(item);
                }
                told.bytes += piece.len() as u64;
                progress.show("backing up", Reached::Bytes { done: told.bytes, of: None });
                output.write(&piece)
            };
            let asked = stream_from_socket(&socket, "/api/v1/store/backup", WALK_PATIENCE, take).await;
            asked.with_context(|| format!("cannot back up the gateway at {}", socket.display()))
        });
        drop(progress);
        let (status, refusal) = taken?;
        if !status.is_success() {
            let refusal: Value = serde_json::from_slice(&refusal).unwrap_or_default();
            return Err(Refused(refusal).into());
        }
        decoder.finish().context("what the gateway sent is not a whole backup")?;
        let (Some(header), Some(summary)) = (told.header, told.summary) else { bail!("the gateway sent nothing") };
        let name = output.finish()?;
        let taken = told_time(header.taken_ms);
        let (format, digest) = (self.with.output, summary.digest.to_hex());
        let line = match format {
            Format::Table => format!("{name}: {} of {taken}", told_summary(&summary)),
            Format::Json => {
                let (rows, bytes, taken) = (summary.rows, told.bytes, taken.to_string());
                let told = json!({ "file": name, "rows": rows, "bytes": bytes, "digest": digest, "taken": taken });
                format!("{told:#}")
            }
        };
        if format == Format::Json && !is_standard(&self.file) {
            return print(&line);
        }
        // Not to standard output, where the backup may be.
        writeln!(io::stderr(), "{line}").context("cannot write to standard error")
    }
}

#[derive(Default)]
struct Told {
    header: Option<Header>,
    bytes: u64,
    summary: Option<Summary>,
}

impl Told {
    fn note(&mut self, item: Item) {
        match item {
            Item::Header(header) => self.header = Some(header),
            Item::Row(..) => {}
            Item::End(summary) => self.summary = Some(summary),
        }
    }
}

fn told_summary(summary: &Summary) -> String {
    format!("{} rows, digest {}", summary.rows, summary.digest.to_hex())
}

fn told_time(millis: u64) -> Timestamp {
    Timestamp::from_millis(millis)
}

#[derive(clap::Args)]
pub(super) struct Restore {
    /// The backup, or '-' for standard input.
    file: PathBuf,
    /// The store to make, as in the configuration: redb:PATH, relative to the present directory, or postgres://…,
    /// or a reference to it, env:NAME or file:PATH.
    #[arg(long, value_name = "URL")]
    into: String,
    /// Move a store that is there aside.
    #[arg(long)]
    replace: bool,
}

impl Restore {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let place = place(&self.into)?;
        directory_must_be_there(&place)?;
        let present = if self.replace { Present::MoveAside } else { Present::Keep };
        let (read, length) = (Cell::new(0), Cell::new(None));
        let look = || match length.get() {
            Some(length) if read.get() >= length => ("reading back what was written", Reached::Unknown),
            of => ("restoring", Reached::Bytes { done: read.get(), of }),
        };
        let work = async {
            let from: Box<dyn AsyncRead + Unpin> = if is_standard(&self.file) {
                Box::new(tokio::io::stdin())
            } else {
                let file = tokio::fs::File::open(&self.file).await;
                let mut file = file.with_context(|| format!("cannot read {}", self.file.display()))?;
                let about = file.metadata().await?;
                length.set(about.is_file().then_some(about.len()));
                // Into a file beside the present one it can go as it comes. Elsewhere it would have to be taken out again.
                if !matches!(place, Location::File(_)) && about.is_file() {
                    // Read twice.
                    length.set(Some(about.len().saturating_mul(2)));
                    check(Counted { from: &mut file, read: &read })
                        .await
                        .with_context(|| format!("nothing was restored into {}", self.into))?;
                    file.rewind().await?;
                }
                Box::new(file)
            };
            let restored = restore(Counted { from, read: &read }, &place, present, &Env::system()).await;
            restored.with_context(|| format!("nothing was restored into {}", self.into))
        };
        let restored = on_runtime(Progress::begin(Format::Table).beside(look, work))?;
        let Restored { header, summary, epoch, aside } = restored;
        if let Some(aside) = aside {
            print(&format!("the store that was there is now {}", aside.display()))?;
        }
        let taken = told_time(header.taken_ms);
        print(&format!("{} is what it was at {taken}: {}", self.into, told_summary(&summary)))?;
        print(&format!("what was granted to clients before now is void, and nobody is signed in (epoch {epoch})"))
    }
}

fn is_standard(file: &Path) -> bool {
    file == Path::new("-")
}

#[derive(Subcommand)]
pub(super) enum StoreCommand {
    /// Write everything that the running gateway remembers to a file: the same as `portcullis backup`.
    Backup(Backup),
    /// Compare every index with its table.
    Verify(Which),
    /// Show what the store holds, and how its writer fares.
    Stats(Which),
    /// Give free space of a file back, while no gateway uses it.
    Compact(Which),
    /// Copy a store into an empty one, on the same engine or another, while no gateway uses either.
    Migrate {
        /// The store to copy, as in the configuration: redb:PATH, relative to the present directory, or postgres://…,
        /// or a reference to it, env:NAME or file:PATH.
        #[arg(long, value_name = "URL")]
        from: String,
        /// The store to make. It must be empty.
        #[arg(long, value_name = "URL")]
        to: String,
    },
}

#[derive(clap::Args)]
pub(super) struct Which {
    /// This store, which no gateway uses. Without it, that of the configuration.
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    #[command(flatten)]
    with: WithConfig,
}

impl StoreCommand {
    pub(super) fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Backup(backup) => backup.run(),
            Self::Verify(which) => verify(&which),
            Self::Stats(which) => stats(&which),
            Self::Compact(which) => compact(&which),
            Self::Migrate { from, to } => {
                let (source, target) = (place(&from)?, place(&to)?);
                must_be_there(&source)?;
                directory_must_be_there(&target)?;
                let rows = Cell::new(0);
                let look = || ("copying", Reached::Things { done: rows.get(), of: None, name: "rows" });
                let work =
                    async { anyhow::Ok(migrate(&source, &target, &Env::system(), &|copied| rows.set(copied)).await?) };
                let copied = on_runtime(Progress::begin(Format::Table).beside(look, work));
                let copied = copied.with_context(|| format!("{from} was not copied to {to}"))?;
                print(&format!("{to} holds what {from} holds: {}", told_summary(&copied)))
            }
        }
    }
}

impl Which {
    /// Asks the running gateway, or does it here where none runs.
    fn ask(
        &self,
        (path, what): (&str, &'static str),
        offline: impl AsyncFnOnce(Store) -> anyhow::Result<Value>,
    ) -> anyhow::Result<Value> {
        if self.url.is_none() {
            match ask_patiently(&self.with, path, WALK_PATIENCE, what) {
                Err(error) if is_not_running(&error) => {}
                answered => return answered,
            }
        }
        let place = self.place()?;
        must_be_there(&place)?;
        on_runtime(async {
            let store = Store::open_existing(place, Env::system()).await?;
            let progress = Progress::begin(self.with.output);
            let answer = progress.beside(|| (what, Reached::Unknown), offline(store.clone())).await;
            store.close().await;
            answer
        })
    }

    fn place(&self) -> anyhow::Result<Location> {
        match &self.url {
            Some(url) => place(url),
            None => match load(&self.with)?.store {
                StoreUrl::Memory => bail!("the configuration keeps its store in memory, and no gateway runs"),
                url => Ok(gateway::location(&url)),
            },
        }
    }
}

/// Whether nobody listens on the admin socket.
fn is_not_running(error: &anyhow::Error) -> bool {
    let absent = |cause: &(dyn std::error::Error + 'static)| {
        matches!(cause.downcast_ref(), Some(OutboundError::NoSocket(error))
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused))
    };
    error.chain().any(absent)
}

fn place(url: &str) -> anyhow::Result<Location> {
    let here = std::env::current_dir().context("there is no present directory")?;
    match StoreUrl::parse(url, &here, &config::process_environment) {
        Ok(StoreUrl::Memory) => bail!("\"memory:\" is gone when the command ends: write redb:PATH or postgres://…"),
        Ok(url) => Ok(gateway::location(&url)),
        // Not quoted: there may be a password in it.
        Err(problem) => bail!("the URL of the store {problem}"),
    }
}

/// What is looked into, copied or compacted has to be there: said in fewer words than opening it would.
fn must_be_there(place: &Location) -> anyhow::Result<()> {
    if let Location::File(path) = place {
        ensure!(path.exists(), "there is no store at {}", path.display());
    }
    Ok(())
}

/// What is made is made in a directory that is there: whose that is and who may read it is not for a restore to settle.
fn directory_must_be_there(place: &Location) -> anyhow::Result<()> {
    if let Location::File(path) = place
        && let Some(directory) = path.parent()
    {
        ensure!(directory.is_dir(), "the directory {} does not exist: make it", directory.display());
    }
    Ok(())
}

fn verify(which: &Which) -> anyhow::Result<()> {
    let answer = which
        .ask(("/api/v1/store/verify", "comparing every index"), async |store| Ok(store.examine().await?.to_json()))?;
    let found = answer["discrepancies"].as_array().context("the gateway's answer has no discrepancies")?;
    let untold = answer["untold"].as_u64().unwrap_or_default();
    let told = |_: &Value| {
        if found.is_empty() {
            return "every index agrees with its table".to_owned();
        }
        let row = |row: &Value| ["index", "kind", "key"].map(|name| text(&row[name]).to_owned()).to_vec();
        let wrong = table(&["INDEX", "KIND", "KEY"], found.iter().map(row));
        if untold > 0 { format!("{wrong}\n… and {untold} more") } else { wrong }
    };
    tell(&which.with, &answer, told)?;
    if found.is_empty() {
        return Ok(());
    }
    let wrong = found.len() as u64 + untold;
    bail!("{wrong} rows are wrong: restore a backup, and tell us how this came to be")
}

fn stats(which: &Which) -> anyhow::Result<()> {
    let answer = which
        .ask(("/api/v1/store/stats", "counting"), async |store| Ok(serde_json::to_value(store.stats().await?)?))?;
    tell(&which.with, &answer, stats_in_full)
}

fn stats_in_full(answer: &Value) -> String {
    let number = |value: &Value| value.as_u64().unwrap_or_default();
    let tables = answer["tables"].as_array().into_iter().flatten();
    let row = |row: &Value| {
        let cell = |name: &str| number(&row[name]).to_string();
        vec![text(&row["table"]).to_owned(), cell("rows"), cell("bytes"), cell("allocated_bytes")]
    };
    let tables = table(&["TABLE", "ROWS", "BYTES", "ALLOCATED"], tables.map(row));
    let mut rows = Vec::new();
    let mut tell = |name: &str, value: String| rows.push(vec![name.to_owned(), value]);
    let file = &answer["file"];
    if file.is_object() {
        tell("file bytes", number(&file["bytes"]).to_string());
        if let Some(free) = file["free_pages"].as_u64() {
            tell("free pages", format!("{free} of {} bytes", number(&file["page_bytes"])));
        }
    }
    let writer = &answer["writer"];
    // A store that was opened for this has written nothing.
    if number(&writer["commits"]) > 0 {
        for name in ["queued", "transactions", "commits", "failed_commits", "largest_group"] {
            tell(&name.replace('_', " "), number(&writer[name]).to_string());
        }
        for name in ["commit_p50", "commit_p99", "commit_max"] {
            let millis = number(&writer[format!("{name}_micros")]) as f64 / 1_000.0;
            tell(&name.replace('_', " "), format!("{millis:.1} ms"));
        }
    }
    format!("{tables}\n\n{}", table(&[], rows.into_iter()))
}

fn compact(which: &Which) -> anyhow::Result<()> {
    let place = which.place()?;
    must_be_there(&place)?;
    let Location::File(path) = place else { bail!("only a file can be compacted") };
    let progress = Progress::begin(which.with.output);
    let work = async { anyhow::Ok(store::compact(&path).await?) };
    let (before, after) = on_runtime(progress.beside(|| ("compacting", Reached::Unknown), work))?;
    let path = path.display().to_string();
    tell(&which.with, &json!({ "file": path, "bytes_before": before, "bytes": after }), |_| {
        format!("{path} had {before} bytes and has {after}")
    })
}
