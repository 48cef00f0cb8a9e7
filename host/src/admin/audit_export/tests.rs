//! A copy that is begun, interrupted, hindered, and read back.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{PermissionsExt as _, symlink};

use serde_json::json;
use tokio::net::UnixDatagram;

use super::write::{open_file, write_durably};
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

fn line(row: &Found) -> Value {
    let event = match row {
        Found::Recorded(recorded) => recorded.entry.event.name(),
        Found::Unreadable { .. } => "unreadable",
    };
    json!({ "sequence": row.sequence(), "event": event })
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
    exporter.write(&rows.iter().collect::<Vec<&Found>>(), &stopping).await.unwrap();
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

#[tokio::test]
async fn a_row_that_cannot_be_read_is_told_and_stops_no_other() {
    let (store, dir) = (store().await, tempfile::tempdir().unwrap());
    let path = dir.path().join("audit.jsonl");
    record(&store, 3).await;
    audit::spoil(&store, 2).await;
    let mut exporter = Exporter::new(store.clone(), &AuditExport::File(path.clone()), dir.path(), line).await;
    exporter.pass(&CancellationToken::new()).await.unwrap();
    let last = audit::last_sequence(&store).await.unwrap();
    assert_eq!(sequences(&path), (1..=last).collect::<Vec<u64>>());
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text.lines().filter(|line| line.contains("unreadable")).count(), 1, "{text}");
    assert_eq!(exporter.place.sequence, last);
}
