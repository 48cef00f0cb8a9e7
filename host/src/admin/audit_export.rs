//! A copy of the audit trail for whoever collects logs: lines of JSON in a file, or messages to a syslog daemon.
//!
//! The trail in the store is what counts. The copy follows it from a place that is remembered in a file of its own, so that each
//! row is written at least once: what was written and not remembered is written again after a crash. Nothing waits for it; a
//! copy that cannot be written lags, which is counted and told.
//!
//! The trail is in the order of its times and the place is a number. Each look at the trail therefore counts: all rows up to
//! the number that was the last when it began have to be found, or else the whole trail is looked at. What is not found even
//! then was pruned.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use serde_json::Value;
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
/// Rows are in the order of their times, which a clock that is set back disturbs: so far back each look begins again. Only
/// if that does not find all rows, the whole trail is looked at.
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
/// What others than its owner may do with a file.
const OTHERS: u32 = 0o077;

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
    /// Of a row that was copied lately: looking begins there, less the overlap.
    at_ms: u64,
    /// All rows up to this number are copied.
    sequence: u64,
}

/// Copies the trail.
pub struct Exporter {
    store: Store,
    target: Target,
    place: Place,
    /// Numbers above `place.sequence` whose rows are copied, so that a look that failed does not copy them again when it is
    /// repeated. At most those of the rows that one look has to find; all up to `place.sequence` are forgotten.
    written: BTreeSet<u64>,
    remembered_in: PathBuf,
    /// A row as operators see it.
    line: fn(&Recorded) -> Value,
    state: ExportState,
}

enum Target {
    File {
        path: PathBuf,
        open: Option<File>,
        /// Whether it was told that others can get at it.
        is_told: bool,
    },
    Syslog {
        path: PathBuf,
        open: Option<UnixDatagram>,
    },
}

impl Exporter {
    /// A copy to `target`, from where the last one in `data_dir` has come to. `line` writes a row.
    pub async fn new(store: Store, target: &AuditExport, data_dir: &Path, line: fn(&Recorded) -> Value) -> Self {
        let remembered_in = data_dir.join(PLACE);
        let (name, target) = match target {
            AuditExport::File(path) => ("file", Target::File { path: path.clone(), open: None, is_told: false }),
            AuditExport::Syslog(path) => ("syslog", Target::Syslog { path: path.clone(), open: None }),
        };
        let name = format!("{name}:{}", target.path().display());
        let at = remembered_in.clone();
        let place = blocking(move || Ok(remembered(&at))).await.ok().flatten();
        let place = place.filter(|place| place.target == name);
        let place = place.unwrap_or_else(|| Place { target: name, ..Place::default() });
        Self { store, target, place, written: BTreeSet::new(), remembered_in, line, state: ExportState::new() }
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
            self.written.clear();
        }
        if last > self.place.sequence {
            let at_ms = self.look(last, stopping).await?;
            if stopping.is_cancelled() {
                return self.remember(Place { sequence: self.complete(), ..self.place.clone() }).await;
            }
            // What was not found is no longer there: all that is left up to `last` is copied.
            self.remember(Place { at_ms, sequence: last, ..self.place.clone() }).await?;
        }
        self.state.has_caught_up(begun);
        Ok(())
    }

    /// Copies all rows up to number `last`, and tells when the newest of them was recorded.
    async fn look(&mut self, last: u64, stopping: &CancellationToken) -> Result<u64, ExportError> {
        let first = Timestamp::from_millis(self.place.at_ms).before(OVERLAP);
        let newest = self.copy(first, last, stopping).await?;
        let are_missing = last - self.place.sequence > self.written.len() as u64;
        if !are_missing || first == Timestamp::default() {
            return Ok(newest);
        }
        // The clock was set back by more than the overlap, or rows were pruned before they were copied.
        self.copy(Timestamp::default(), last, stopping).await
    }

    /// Copies the rows up to number `last` from a moment on, and tells when the one of them with the highest number was
    /// recorded. Rows that were committed later wait for the next look, which counts them.
    async fn copy(&mut self, first: Timestamp, last: u64, stopping: &CancellationToken) -> Result<u64, ExportError> {
        let (mut after, mut newest) = ((first, 0), (0, self.place.at_ms));
        while !stopping.is_cancelled() {
            let rows = audit::since(&self.store, after, BATCH).await?;
            let within = rows.iter().filter(|row| row.sequence <= last);
            newest = within.map(|row| (row.sequence, row.entry.at.as_millis())).fold(newest, Ord::max);
            let fresh: Vec<&Recorded> = rows.iter().filter(|row| self.is_fresh(row, last)).collect();
            self.write(&fresh, stopping).await?;
            let Some(end) = rows.last().filter(|_| rows.len() == BATCH) else { break };
            after = (end.entry.at, end.sequence);
            if !fresh.is_empty() && !stopping.is_cancelled() {
                // Should it end here, it goes on here.
                let (at_ms, sequence) = (end.entry.at.as_millis(), self.complete());
                self.remember(Place { at_ms, sequence, ..self.place.clone() }).await?;
            }
        }
        Ok(newest.1)
    }

    /// Whether a row is among those up to number `last` that are not copied yet.
    fn is_fresh(&self, row: &Recorded, last: u64) -> bool {
        let number = row.sequence;
        number > self.place.sequence && number <= last && !self.written.contains(&number)
    }

    /// The number up to which no row is missing.
    fn complete(&self) -> u64 {
        let from = self.place.sequence;
        (from + 1..).take_while(|number| self.written.contains(number)).last().unwrap_or(from)
    }

    async fn write(&mut self, rows: &[&Recorded], stopping: &CancellationToken) -> Result<(), ExportError> {
        if rows.is_empty() {
            return Ok(());
        }
        let lines = rows.iter().map(|row| (**row).clone()).map(|row| ((self.line)(&row), row));
        let lines: Vec<(Value, Recorded)> = lines.collect();
        let (path, before) = (self.target.path().to_owned(), self.written.len());
        let outcome = self.target.write(&lines, &mut self.written, stopping).await;
        let count = self.written.len() - before;
        self.state.0.exported.fetch_add(count as u64, Ordering::Relaxed);
        outcome.map_err(|source| ExportError::Write { path, source })
    }

    async fn remember(&mut self, place: Place) -> Result<(), ExportError> {
        let (path, text) = (self.remembered_in.clone(), serde_json::to_string(&place).unwrap_or_default());
        let replaced = blocking(move || replace(&path, &text)).await;
        replaced.map_err(|source| ExportError::Write { path: self.remembered_in.clone(), source })?;
        self.written = self.written.split_off(&(place.sequence + 1));
        self.place = place;
        Ok(())
    }
}

/// Work on files. Its errors are all told before what follows: tokio's own files keep that of a write for the next call.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await?
}

/// The place of an earlier run. One that cannot be read is none: rows are rather written twice than not at all.
fn remembered(path: &Path) -> Option<Place> {
    let mut text = String::new();
    File::open(path).ok()?.take(MAX_PLACE).read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

/// Puts a text in place of what a file says, whole or not at all.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let fresh = path.with_extension("new");
    let mut file = private().truncate(true).open(&fresh)?;
    write_durably(&mut file, text)?;
    fs::rename(&fresh, path)
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

    /// Writes lines, and notes the number of each whose row is now copied.
    async fn write(
        &mut self,
        lines: &[(Value, Recorded)],
        written: &mut BTreeSet<u64>,
        stopping: &CancellationToken,
    ) -> io::Result<()> {
        match self {
            Self::File { path, open, is_told } => {
                let text: String = lines.iter().map(|(line, _)| format!("{line}\n")).collect();
                let (at, earlier) = (path.clone(), open.take());
                let (file, mode) = blocking(move || append(&at, earlier, &text)).await?;
                *open = Some(file);
                written.extend(lines.iter().map(|(_, row)| row.sequence));
                if mode & OTHERS != 0 && !std::mem::replace(is_told, true) {
                    tracing::warn!(path = %path.display(), "others than its owner can get at the copy of the audit trail");
                }
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
                    if stopping.is_cancelled() {
                        break;
                    }
                    let message = message(line, row);
                    let sent = tokio::time::timeout(PATIENCE, socket.send(message.as_bytes())).await;
                    sent.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
                    written.insert(row.sequence);
                }
                *open = Some(socket);
            }
        }
        Ok(())
    }
}

/// Appends to the file at this path, which may be open already. Tells which it is, and its mode.
fn append(path: &Path, open: Option<File>, text: &str) -> io::Result<(File, u32)> {
    let mut file = match open {
        Some(file) if is_at(&file, path) => file,
        Some(_) | None => open_file(path)?,
    };
    let mode = file.metadata()?.mode();
    write_durably(&mut file, text)?;
    Ok((file, mode))
}

fn write_durably(file: &mut File, text: &str) -> io::Result<()> {
    file.write_all(text.as_bytes())?;
    file.sync_data()
}

/// Whether the file is still what is at this path: whoever rotates logs has moved it away.
fn is_at(file: &File, path: &Path) -> bool {
    let (Ok(own), Ok(there)) = (file.metadata(), fs::symlink_metadata(path)) else { return false };
    (own.dev(), own.ino()) == (there.dev(), there.ino())
}

/// Opens the file at its end. A line that was cut off is ended, so that what follows can be read.
fn open_file(path: &Path) -> io::Result<File> {
    let mut file = open_regular(path)?;
    if file.metadata()?.len() > 0 {
        file.seek(SeekFrom::End(-1))?;
        let mut last = [0];
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
        }
    }
    Ok(file)
}

/// Opens or makes a file, and nothing else that a path can lead to.
fn open_regular(path: &Path) -> io::Result<File> {
    // A pipe is not waited for.
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let file = private().append(true).read(true).custom_flags(flags).open(path).map_err(|error| {
        let is_link = Errno::from_io_error(&error) == Some(Errno::LOOP);
        if is_link { io::Error::other("it is a symbolic link") } else { error }
    })?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file"));
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
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use serde_json::json;

    use super::*;
    use crate::audit::{Actor, AuditEvent};
    use crate::env::{Clock, Env};
    use crate::store::Location;

    struct Hand(AtomicU64);

    impl Clock for Hand {
        fn now(&self) -> Timestamp {
            Timestamp::from_millis(self.0.load(Ordering::Relaxed))
        }
    }

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
    async fn a_clock_that_is_set_loses_no_row() {
        const DAY: u64 = 24 * 60 * 60 * 1_000;
        let (hand, dir) = (Arc::new(Hand(AtomicU64::new(10 * DAY))), tempfile::tempdir().unwrap());
        let store = Store::open(Location::Memory, Env { clock: hand.clone(), ..Env::system() }).await.unwrap();
        let path = dir.path().join("audit.jsonl");
        let mut exporter = Exporter::new(store.clone(), &AuditExport::File(path.clone()), dir.path(), line).await;
        let stopping = CancellationToken::new();
        for day in [10, 9, 9, 100, 10, 11] {
            hand.0.store(day * DAY, Ordering::Relaxed);
            record(&store, 2).await;
            exporter.pass(&stopping).await.unwrap();
            let last = audit::last_sequence(&store).await.unwrap();
            assert_eq!(sequences(&path), (1..=last).collect::<Vec<u64>>(), "once each, on day {day}");
            let place = Place { at_ms: day * DAY, sequence: last, ..exporter.place.clone() };
            assert_eq!(exporter.place, place, "it goes on at the newest row");
            assert!(exporter.written.is_empty());
        }
    }

    #[tokio::test]
    async fn a_row_that_was_committed_after_a_look_began_waits_for_the_next() {
        let (store, dir) = (store().await, tempfile::tempdir().unwrap());
        let path = dir.path().join("audit.jsonl");
        let mut exporter = Exporter::new(store.clone(), &AuditExport::File(path.clone()), dir.path(), line).await;
        let stopping = CancellationToken::new();
        record(&store, 3).await;
        let last = audit::last_sequence(&store).await.unwrap();
        exporter.look(last - 1, &stopping).await.unwrap();
        assert_eq!(sequences(&path), (1..last).collect::<Vec<u64>>());
        exporter.pass(&stopping).await.unwrap();
        assert_eq!(sequences(&path), (1..=last).collect::<Vec<u64>>());
    }

    #[tokio::test]
    async fn a_look_that_fails_again_and_again_writes_each_row_once() {
        let (store, dir) = (store().await, tempfile::tempdir().unwrap());
        let path = dir.path().join("audit.jsonl");
        let mut exporter = Exporter::new(store.clone(), &AuditExport::File(path.clone()), dir.path(), line).await;
        let stopping = CancellationToken::new();
        let in_the_way = exporter.remembered_in.with_extension("new");
        std::fs::create_dir(&in_the_way).unwrap();
        record(&store, BATCH + 3).await;
        for _ in 0..3 {
            assert!(matches!(exporter.pass(&stopping).await, Err(ExportError::Write { .. })));
            record(&store, 1).await;
        }
        assert_eq!(exporter.place.sequence, 0);
        std::fs::remove_dir(&in_the_way).unwrap();
        exporter.pass(&stopping).await.unwrap();
        let last = audit::last_sequence(&store).await.unwrap();
        assert_eq!(sequences(&path), (1..=last).collect::<Vec<u64>>());
        assert_eq!((exporter.place.sequence, exporter.written.len()), (last, 0));
        assert_eq!(exporter.state().exported(), last);
    }

    #[test]
    fn a_write_that_fails_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        std::fs::write(&path, "").unwrap();
        let mut only_read = File::open(&path).unwrap();
        assert!(write_durably(&mut only_read, "{}\n").is_err());
        let mut full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        assert_eq!(write_durably(&mut full, "{}\n").unwrap_err().kind(), io::ErrorKind::StorageFull);
    }

    #[test]
    fn only_a_regular_file_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        std::fs::write(&file, "").unwrap();
        symlink(&file, &link).unwrap();
        assert!(open_file(&file).is_ok());
        assert_eq!(open_file(&link).unwrap_err().to_string(), "it is a symbolic link");
        assert_eq!(open_file(Path::new("/dev/null")).unwrap_err().to_string(), "it is no regular file");
    }

    #[tokio::test]
    async fn a_stop_ends_messages_between_two_of_them() {
        let (store, dir) = (store().await, tempfile::tempdir().unwrap());
        let path = dir.path().join("log");
        let daemon = UnixDatagram::bind(&path).unwrap();
        let mut exporter = Exporter::new(store.clone(), &AuditExport::Syslog(path), dir.path(), line).await;
        let stopping = CancellationToken::new();
        record(&store, 2).await;
        let rows = audit::since(&store, (Timestamp::default(), 0), BATCH).await.unwrap();
        stopping.cancel();
        exporter.write(&rows.iter().collect::<Vec<&Recorded>>(), &stopping).await.unwrap();
        assert!(daemon.try_recv(&mut [0; 16]).is_err());
        assert!(exporter.written.is_empty());
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
