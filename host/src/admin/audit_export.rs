//! A copy of the audit trail for whoever collects logs: lines of JSON in a file, or messages to a syslog daemon.
//!
//! The trail in the store is what counts. The copy follows it from a place that is remembered in a file of its own, so that each
//! row is written at least once: what was written and not remembered is written again after a crash. Nothing waits for it; a
//! copy that cannot be written lags, which is counted and told.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::fs::{self, File, OpenOptions};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _, AsyncWriteExt as _, SeekFrom};
use tokio::net::UnixDatagram;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::AuditExport;
use crate::env::Timestamp;
use crate::store::audit::{self, Recorded};
use crate::store::{Store, StoreError};

/// Between two looks at the trail.
const INTERVAL: Duration = Duration::from_secs(1);
/// The same after a failure.
const PAUSE: Duration = Duration::from_secs(5);
/// Rows that are read at once.
const BATCH: usize = 500;
/// Rows are in the order of their times, which a clock that is set back disturbs: so far back each look begins again.
const OVERLAP: Duration = Duration::from_secs(600);
/// How long a syslog daemon may take for one message.
const PATIENCE: Duration = Duration::from_secs(5);
/// Name of the file in `data_dir` that remembers the place.
const PLACE: &str = "audit-export.json";
/// Largest such file that is read, in bytes.
const MAX_PLACE: u64 = 64 * 1024;
/// Facility `log audit`, severity `informational` (RFC 5424 §6.2.1).
const PRIORITY: u8 = 13 * 8 + 6;
/// Longest MSGID (RFC 5424 §6).
const MAX_MSGID: usize = 32;

/// How a copy fares, for operators. Clones tell of the same.
#[derive(Clone, Debug)]
pub struct ExportState(Arc<Counts>);

#[derive(Debug)]
struct Counts {
    exported: AtomicU64,
    failures: AtomicU64,
    began: Instant,
    /// When it had all rows that there were, in milliseconds since it began.
    caught_up_ms: AtomicU64,
}

impl ExportState {
    fn new() -> Self {
        let [exported, failures, caught_up_ms] = Default::default();
        Self(Arc::new(Counts { exported, failures, began: Instant::now(), caught_up_ms }))
    }

    /// Rows that were copied since the start.
    pub fn exported(&self) -> u64 {
        self.0.exported.load(Ordering::Relaxed)
    }

    /// Tries that failed since the start.
    pub fn failures(&self) -> u64 {
        self.0.failures.load(Ordering::Relaxed)
    }

    /// How long ago it had all rows that there were.
    pub fn lag(&self) -> Duration {
        let caught_up = Duration::from_millis(self.0.caught_up_ms.load(Ordering::Relaxed));
        self.0.began.elapsed().saturating_sub(caught_up)
    }

    fn has_caught_up(&self, at: Instant) {
        let millis = at.saturating_duration_since(self.0.began).as_millis();
        self.0.caught_up_ms.fetch_max(u64::try_from(millis).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// Why rows were not copied.
#[derive(Debug, thiserror::Error)]
enum ExportError {
    #[error("the trail cannot be read")]
    Store(#[from] StoreError),
    #[error("{} cannot be written", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Up to where the trail is copied.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Place {
    /// Where to. Somewhere else the copy begins anew.
    target: String,
    /// Of a row that was copied, whose followers in time are not all copied.
    at_ms: u64,
    /// All rows up to this number are copied.
    sequence: u64,
}

/// Copies the trail.
pub struct Exporter {
    store: Store,
    target: Target,
    place: Place,
    remembered_in: PathBuf,
    /// A row as operators see it.
    line: fn(&Recorded) -> Value,
    state: ExportState,
}

enum Target {
    File { path: PathBuf, open: Option<File> },
    Syslog { path: PathBuf, open: Option<UnixDatagram> },
}

impl Exporter {
    /// A copy to `target`, from where the last one in `data_dir` has come to. `line` writes a row.
    pub async fn new(store: Store, target: &AuditExport, data_dir: &Path, line: fn(&Recorded) -> Value) -> Self {
        let remembered_in = data_dir.join(PLACE);
        let (name, target) = match target {
            AuditExport::File(path) => ("file", Target::File { path: path.clone(), open: None }),
            AuditExport::Syslog(path) => ("syslog", Target::Syslog { path: path.clone(), open: None }),
        };
        let name = format!("{name}:{}", target.path().display());
        let place = remembered(&remembered_in).await.filter(|place| place.target == name);
        let place = place.unwrap_or_else(|| Place { target: name, ..Place::default() });
        Self { store, target, place, remembered_in, line, state: ExportState::new() }
    }

    pub fn state(&self) -> ExportState {
        self.state.clone()
    }

    /// Copies until `stopping`.
    pub async fn run(mut self, stopping: CancellationToken) {
        let mut fails = false;
        while !stopping.is_cancelled() {
            let wait = match self.pass(&stopping).await {
                Ok(()) => {
                    fails = false;
                    INTERVAL
                }
                Err(failure) => {
                    self.state.0.failures.fetch_add(1, Ordering::Relaxed);
                    self.target.close();
                    if !std::mem::replace(&mut fails, true) {
                        let error: &(dyn std::error::Error + 'static) = &failure;
                        tracing::warn!(error, "the audit trail is not copied; trying again");
                    }
                    PAUSE
                }
            };
            stopping.run_until_cancelled(tokio::time::sleep(wait)).await;
        }
    }

    /// Copies what there is to copy now.
    async fn pass(&mut self, stopping: &CancellationToken) -> Result<(), ExportError> {
        let begun = Instant::now();
        let last = audit::last_sequence(&self.store).await?;
        if last < self.place.sequence {
            tracing::warn!("the audit trail is shorter than its copy: it is copied anew");
            (self.place.at_ms, self.place.sequence) = (0, 0);
        }
        if last > self.place.sequence {
            let first = Timestamp::from_millis(self.place.at_ms).before(OVERLAP);
            let (mut after, mut most) = ((first, 0), self.place.sequence);
            while !stopping.is_cancelled() {
                let rows = audit::since(&self.store, after, BATCH).await?;
                let fresh: Vec<&Recorded> = rows.iter().filter(|row| row.sequence > self.place.sequence).collect();
                self.write(&fresh).await?;
                most = fresh.iter().map(|row| row.sequence).fold(most, u64::max);
                let Some(end) = rows.last().filter(|_| rows.len() == BATCH) else { break };
                after = (end.entry.at, end.sequence);
                // Should it end here, it goes on here. What was skipped is seen when all has been looked at.
                self.remember(Place { at_ms: end.entry.at.as_millis(), ..self.place.clone() }).await?;
            }
            if stopping.is_cancelled() {
                return Ok(());
            }
            let at_ms = self.place.at_ms.max(after.0.as_millis());
            self.remember(Place { at_ms, sequence: most, ..self.place.clone() }).await?;
        }
        self.state.has_caught_up(begun);
        Ok(())
    }

    async fn write(&mut self, rows: &[&Recorded]) -> Result<(), ExportError> {
        if rows.is_empty() {
            return Ok(());
        }
        let lines = rows.iter().map(|row| (**row).clone()).map(|row| ((self.line)(&row), row));
        let lines: Vec<(Value, Recorded)> = lines.collect();
        let path = self.target.path().to_owned();
        self.target.write(&lines).await.map_err(|source| ExportError::Write { path, source })?;
        self.state.0.exported.fetch_add(rows.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    async fn remember(&mut self, place: Place) -> Result<(), ExportError> {
        let path = &self.remembered_in;
        let written = async {
            let fresh = path.with_extension("new");
            let mut file = private().truncate(true).open(&fresh).await?;
            file.write_all(serde_json::to_string(&place).unwrap_or_default().as_bytes()).await?;
            file.sync_data().await?;
            fs::rename(&fresh, path).await
        };
        written.await.map_err(|source| ExportError::Write { path: path.clone(), source })?;
        self.place = place;
        Ok(())
    }
}

/// The place of an earlier run. One that cannot be read is none: rows are rather written twice than not at all.
async fn remembered(path: &Path) -> Option<Place> {
    let mut text = String::new();
    File::open(path).await.ok()?.take(MAX_PLACE).read_to_string(&mut text).await.ok()?;
    serde_json::from_str(&text).ok()
}

impl Target {
    fn path(&self) -> &Path {
        match self {
            Self::File { path, .. } | Self::Syslog { path, .. } => path,
        }
    }

    fn close(&mut self) {
        match self {
            Self::File { open, .. } => *open = None,
            Self::Syslog { open, .. } => *open = None,
        }
    }

    async fn write(&mut self, lines: &[(Value, Recorded)]) -> io::Result<()> {
        match self {
            Self::File { path, open } => {
                let mut file = match open.take() {
                    Some(file) if is_at(&file, path).await => file,
                    Some(_) | None => open_file(path).await?,
                };
                let text: String = lines.iter().map(|(line, _)| format!("{line}\n")).collect();
                file.write_all(text.as_bytes()).await?;
                file.sync_data().await?;
                *open = Some(file);
            }
            Self::Syslog { path, open } => {
                let socket = match open.take() {
                    Some(socket) => socket,
                    None => {
                        let socket = UnixDatagram::unbound()?;
                        socket.connect(&*path)?;
                        socket
                    }
                };
                for (line, row) in lines {
                    let message = message(line, row);
                    let sent = tokio::time::timeout(PATIENCE, socket.send(message.as_bytes())).await;
                    sent.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
                }
                *open = Some(socket);
            }
        }
        Ok(())
    }
}

/// Whether the file is still what is at this path: whoever rotates logs has moved it away.
async fn is_at(file: &File, path: &Path) -> bool {
    let (Ok(own), Ok(there)) = (file.metadata().await, fs::metadata(path).await) else { return false };
    (own.dev(), own.ino()) == (there.dev(), there.ino())
}

/// Opens the file at its end. A line that was cut off is ended, so that what follows can be read.
async fn open_file(path: &Path) -> io::Result<File> {
    let mut file = private().append(true).read(true).open(path).await?;
    if file.metadata().await?.len() > 0 {
        file.seek(SeekFrom::End(-1)).await?;
        if file.read_u8().await? != b'\n' {
            file.write_all(b"\n").await?;
        }
    }
    Ok(file)
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).create(true).mode(0o600);
    options
}

/// RFC 5424 §6. The daemon knows the host; the text is JSON.
fn message(line: &Value, row: &Recorded) -> String {
    let event = row.entry.event.name();
    let id = &event[..event.len().min(MAX_MSGID)];
    format!("<{PRIORITY}>1 {} - portcullis {} {id} - {line}", row.entry.at, std::process::id())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use serde_json::json;

    use super::*;
    use crate::audit::{Actor, AuditEvent};
    use crate::env::Env;
    use crate::store::Location;

    fn line(row: &Recorded) -> Value {
        json!({ "sequence": row.sequence, "event": row.entry.event.name() })
    }

    async fn store() -> Store {
        Store::open(Location::Memory, Env::system()).await.unwrap()
    }

    async fn record(store: &Store, count: usize) {
        for _ in 0..count {
            audit::record(store, Actor::System, AuditEvent::BackupTaken).await.unwrap();
        }
    }

    fn sequences(path: &Path) -> Vec<u64> {
        let text = std::fs::read_to_string(path).unwrap();
        let read = |line: &str| serde_json::from_str::<Value>(line).unwrap()["sequence"].as_u64().unwrap();
        text.lines().map(read).collect()
    }

    #[tokio::test]
    async fn each_row_is_copied_and_a_restart_goes_on_where_it_was() {
        let (store, dir) = (store().await, tempfile::tempdir().unwrap());
        let path = dir.path().join("audit.jsonl");
        let target = AuditExport::File(path.clone());
        let stopping = CancellationToken::new();
        record(&store, BATCH + 3).await;
        let last = audit::last_sequence(&store).await.unwrap();
        let mut exporter = Exporter::new(store.clone(), &target, dir.path(), line).await;
        exporter.pass(&stopping).await.unwrap();
        exporter.pass(&stopping).await.unwrap();
        assert_eq!(sequences(&path), (1..=last).collect::<Vec<u64>>(), "once each");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

        record(&store, 2).await;
        let mut exporter = Exporter::new(store.clone(), &target, dir.path(), line).await;
        exporter.pass(&stopping).await.unwrap();
        assert_eq!(sequences(&path), (1..=last + 2).collect::<Vec<u64>>());
        assert_eq!(exporter.state().exported(), 2);
    }

    #[tokio::test]
    async fn a_file_that_was_moved_away_is_made_anew_and_a_line_that_was_cut_off_is_ended() {
        let (store, dir) = (store().await, tempfile::tempdir().unwrap());
        let path = dir.path().join("audit.jsonl");
        std::fs::write(&path, "{\"sequence\":0}\n{\"sequence\":0,\"cut\":\"").unwrap();
        let mut exporter = Exporter::new(store.clone(), &AuditExport::File(path.clone()), dir.path(), line).await;
        let stopping = CancellationToken::new();
        record(&store, 1).await;
        exporter.pass(&stopping).await.unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().nth(1), Some("{\"sequence\":0,\"cut\":\""), "{text}");
        assert!(text.lines().count() == 3 && text.ends_with("}\n"), "{text}");

        std::fs::rename(&path, dir.path().join("audit.jsonl.1")).unwrap();
        let before = audit::last_sequence(&store).await.unwrap();
        record(&store, 2).await;
        exporter.pass(&stopping).await.unwrap();
        assert_eq!(sequences(&path), [before + 1, before + 2]);
    }

    #[tokio::test]
    async fn a_copy_that_cannot_be_written_lags_and_loses_nothing() {
        let (store, dir) = (store().await, tempfile::tempdir().unwrap());
        let path = dir.path().join("not-there-yet/audit.jsonl");
        let mut exporter = Exporter::new(store.clone(), &AuditExport::File(path.clone()), dir.path(), line).await;
        let stopping = CancellationToken::new();
        record(&store, 1).await;
        assert!(matches!(exporter.pass(&stopping).await, Err(ExportError::Write { .. })));
        std::fs::create_dir(path.parent().unwrap()).unwrap();
        exporter.pass(&stopping).await.unwrap();
        let last = audit::last_sequence(&store).await.unwrap();
        assert_eq!(sequences(&path), (1..=last).collect::<Vec<u64>>());
    }

    #[tokio::test]
    async fn a_syslog_daemon_gets_messages_of_rfc_5424() {
        let (store, dir) = (store().await, tempfile::tempdir().unwrap());
        let path = dir.path().join("log");
        let daemon = UnixDatagram::bind(&path).unwrap();
        let mut exporter = Exporter::new(store.clone(), &AuditExport::Syslog(path), dir.path(), line).await;
        record(&store, 1).await;
        exporter.pass(&CancellationToken::new()).await.unwrap();
        let last = audit::last_sequence(&store).await.unwrap();
        for number in 1..=last {
            let mut buffer = [0; 4096];
            let length = daemon.recv(&mut buffer).await.unwrap();
            let text = std::str::from_utf8(&buffer[..length]).unwrap();
            let parts: Vec<&str> = text.splitn(8, ' ').collect();
            let [version, at, "-", "portcullis", process, event, "-", json] = parts[..] else { panic!("{text}") };
            assert_eq!(version, "<110>1");
            assert!(at.len() == 24 && at.ends_with('Z'), "{at}");
            assert_eq!(process, std::process::id().to_string());
            let json: Value = serde_json::from_str(json).unwrap();
            assert_eq!((json["sequence"].as_u64(), json["event"].as_str()), (Some(number), Some(event)));
        }
    }
}
