//! Dumps: whole, the same from every engine, and refused where they are anything less.

use std::path::Path;

use proptest::prelude::*;

use super::import::{copy, is_empty, load};
use super::restore::{Present, RestoreError, migrate, restore};
use super::*;
use crate::audit::{Actor, AuditEvent};
use crate::env::Timestamp;
use crate::store::engine::{MAX_KEY_BYTES, MAX_VALUE_BYTES};
use crate::store::tests::{StandingClock, memory};
use crate::store::{Location, audit, changes};

pub(super) const NOW: u64 = 1_800_000_000_000;

pub(super) async fn dump(store: &Store) -> Vec<u8> {
    let mut dump = Dump::of(store, Timestamp::from_millis(NOW)).await.unwrap();
    let mut whole = Vec::new();
    while let Some(piece) = dump.next().await.unwrap() {
        whole.extend_from_slice(&piece);
    }
    whole
}

/// Several tables, rows of all sizes, more than one batch, a change and an audit row.
pub(super) async fn fill(store: &Store) {
    for step in 0..3_u32 {
        let put = move |tx: &mut crate::store::WriteTx<'_>| -> Result<(), StoreError> {
            (0..400_u32).try_for_each(|row| {
                tx.put(
                    Table::Decisions,
                    &(step * 400 + row).to_be_bytes(),
                    &row.to_be_bytes().repeat(row as usize % 50),
                )
            })
        };
        store.write(put).await.unwrap();
    }
    store
        .write(|tx| -> Result<(), StoreError> {
            tx.put(Table::RecordingPieces, &[7; MAX_KEY_BYTES], &vec![7; MAX_VALUE_BYTES])?;
            tx.put(Table::Expiry, b"empty", b"")?;
            tx.put(Table::Expiry, b"", b"a key may be empty")?;
            changes::announce(tx, changes::Change::Keys)?;
            audit::append(tx, Actor::System, &AuditEvent::GatewayStopped)
        })
        .await
        .unwrap();
}

fn read(bytes: &[u8], step: usize) -> Result<Summary, DumpError> {
    let mut decoder = Decoder::default();
    let mut summary = None;
    for piece in bytes.chunks(step) {
        decoder.add(piece);
        while let Some(item) = decoder.item()? {
            if let Item::End(end) = item {
                summary = Some(end);
            }
        }
    }
    decoder.finish()?;
    Ok(summary.expect("a whole dump tells its end"))
}

#[tokio::test]
async fn a_dump_is_read_back_whole_in_pieces_of_any_size() {
    let store = memory().await;
    fill(&store).await;
    let bytes = dump(&store).await;
    let whole = summary(&store).await.unwrap();
    for step in [1_000, 4_097, bytes.len()] {
        assert_eq!(read(&bytes, step).unwrap(), whole);
    }
    assert_eq!(read(&bytes[..2_000], 1).unwrap_err().to_string(), DumpError::CutShort.to_string());

    let mut decoder = Decoder::default();
    decoder.add(&bytes);
    let Some(Item::Header(header)) = decoder.item().unwrap() else { panic!("the header is first") };
    assert_eq!((header.schema, header.revision, header.taken_ms), (crate::store::SCHEMA, 1, NOW));
}

#[tokio::test]
async fn what_is_restored_is_what_was_there() {
    let store = memory().await;
    fill(&store).await;
    let bytes = dump(&store).await;
    let other = memory().await;
    assert!(is_empty(&other).await.unwrap());
    let (_, import, loaded) = load(bytes.as_slice(), &other).await.unwrap();
    assert_eq!(loaded, summary(&store).await.unwrap());
    assert!(other.read(import::is_incomplete).await.unwrap(), "it is none before its end");
    import.finish().await.unwrap();
    assert_eq!(dump(&other).await, bytes);
}

#[tokio::test]
async fn only_an_empty_store_is_filled() {
    let store = memory().await;
    fill(&store).await;
    let before = summary(&store).await.unwrap();
    assert!(!is_empty(&store).await.unwrap());
    let refused = load(dump(&store).await.as_slice(), &store).await;
    assert!(matches!(refused, Err(DumpError::NotEmpty)), "{refused:?}");
    let refused = copy(&memory().await, &store, &|_| {}).await;
    assert!(matches!(refused, Err(DumpError::NotEmpty)), "{refused:?}");
    assert_eq!(summary(&store).await.unwrap(), before);
}

#[tokio::test]
async fn a_dump_holds_one_state_whatever_is_written_meanwhile() {
    let store = memory().await;
    fill(&store).await;
    let before = summary(&store).await.unwrap();
    let mut dump = Dump::of(&store, Timestamp::from_millis(NOW)).await.unwrap();
    let mut whole = dump.next().await.unwrap().unwrap().to_vec();
    store.write(|tx| tx.put(Table::RecordingPieces, b"late", b"1")).await.unwrap();
    while let Some(piece) = dump.next().await.unwrap() {
        whole.extend_from_slice(&piece);
    }
    assert_eq!(read(&whole, 4_096).unwrap(), before);
    assert_ne!(summary(&store).await.unwrap(), before);
}

#[tokio::test]
async fn an_export_that_nobody_reads_ends_and_one_that_breaks_off_is_no_end() {
    let store = memory().await;
    fill(&store).await;
    drop(store.export().await.unwrap());
    let (sink, mut export) = export::channel(None);
    drop(sink);
    assert!(matches!(export.next().await, Err(StoreError::Unavailable { .. })));
    store.close().await;
    let mut late = store.export().await.unwrap();
    assert!(matches!(late.next().await, Err(StoreError::Closed)));
}

#[tokio::test]
async fn every_damage_is_noticed() {
    let store = memory().await;
    store.write(|tx| tx.put(Table::Decisions, b"key", b"value")).await.unwrap();
    let bytes = dump(&store).await;
    assert_eq!(read(&bytes, 7).unwrap(), summary(&store).await.unwrap());
    for at in 0..bytes.len() {
        assert!(read(&bytes[..at], 64).is_err(), "cut at {at}");
        for bit in 0..8 {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            assert!(read(&flipped, 64).is_err(), "bit {bit} of byte {at}");
        }
    }
    let longer = [bytes.as_slice(), b"\0"].concat();
    for step in [64, longer.len()] {
        assert!(matches!(read(&longer, step), Err(DumpError::Damaged { .. })));
    }
    // However the last bytes come.
    let empty = memory().await;
    let refused = load(longer.as_slice(), &empty).await;
    assert!(matches!(refused, Err(DumpError::Damaged { .. })), "{refused:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn no_bytes_make_the_decoder_panic_or_wait_for_much(
        noise in prop::collection::vec(any::<u8>(), 0..200),
        frames in prop::collection::vec((prop::sample::select(b"htre".to_vec()), 0_u16..2_000), 0..8),
    ) {
        let mut bytes = [MAGIC.as_slice(), &[0, 1]].concat();
        for (kind, number) in frames {
            bytes.push(kind);
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        bytes.extend_from_slice(&noise);
        for step in [1, 64] {
            let _ = read_until_error(&bytes, step);
        }
    }
}

fn read_until_error(bytes: &[u8], step: usize) -> Result<(), DumpError> {
    let mut decoder = Decoder::default();
    for piece in bytes.chunks(step) {
        decoder.add(piece);
        while decoder.item()?.is_some() {}
    }
    decoder.finish()
}

#[test]
fn a_newer_format_and_a_newer_schema_are_told_apart_from_damage() {
    let header = |schema: u32| {
        format!(r#"{{"schema":{schema},"revision":0,"deployment":null,"taken_ms":0,"version":"9"}}"#).into_bytes()
    };
    let dump = |version: u16, header: &[u8]| {
        let length = u32::try_from(header.len()).unwrap().to_be_bytes();
        [MAGIC.as_slice(), &version.to_be_bytes(), b"h", &length, header].concat()
    };
    let of = |bytes: &[u8]| read_until_error(bytes, 16).unwrap_err();
    assert!(matches!(of(b"something else"), DumpError::NotADump));
    assert!(matches!(of(b""), DumpError::NotADump));
    assert!(matches!(of(&dump(2, &header(1))), DumpError::Format { found: 2 }));
    assert!(matches!(of(&dump(1, &header(9_999))), DumpError::NewerSchema { found: 9_999, .. }));
    let unknown = [dump(1, &header(1)), b"t\x0f\xff\x04none".to_vec()].concat();
    assert!(matches!(of(&unknown), DumpError::UnknownTable { name } if name == "none"));
}

// Files.

pub(super) fn env() -> crate::env::Env {
    StandingClock::at(NOW).env()
}

pub(super) async fn file(path: &Path) -> Store {
    Store::open(Location::File(path.to_owned()), env()).await.unwrap()
}

pub(super) async fn restore_into(
    path: &Path,
    bytes: &[u8],
    present: Present,
) -> Result<restore::Restored, RestoreError> {
    restore(bytes, &Location::File(path.to_owned()), present, &env()).await
}

pub(super) fn names(directory: &Path) -> Vec<String> {
    let names = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_restored_store_goes_on_in_a_later_epoch_and_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let store = memory().await;
    fill(&store).await;
    let bytes = dump(&store).await;
    let restored = restore_into(&path, &bytes, Present::Keep).await.unwrap();
    assert_eq!((restored.epoch, &restored.aside), (NOW / 1_000, &None));
    assert_eq!(restored.summary, summary(&store).await.unwrap());

    let store = file(&path).await;
    assert_eq!(store.epoch(), NOW / 1_000);
    let newest = audit::list(&store, None, 1).await.unwrap().items.remove(0);
    let AuditEvent::BackupRestored { taken, rows, epoch, .. } = newest.entry.event else { panic!("another event") };
    assert_eq!((taken.as_millis(), rows, epoch), (NOW, restored.summary.rows, restored.epoch));
    store.close().await;

    // Once more in the same second: what was handed out in between is void as well.
    let again = restore_into(&path, &bytes, Present::MoveAside).await.unwrap();
    assert_eq!(again.epoch, restored.epoch + 1);
    let aside = again.aside.unwrap();
    assert_eq!(file(&aside).await.epoch(), restored.epoch);
    assert_eq!(names(directory.path()), ["store", aside.file_name().unwrap().to_str().unwrap()]);
}

#[tokio::test]
async fn a_store_that_is_in_use_or_holds_something_stays() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let bytes = dump(&memory().await).await;
    let store = file(&path).await;
    fill(&store).await;
    let before = summary(&store).await.unwrap();
    for present in [Present::Keep, Present::MoveAside] {
        let refused = restore_into(&path, &bytes, present).await;
        let in_use = matches!(&refused, Err(RestoreError::Dump(DumpError::Store(StoreError::InUse { .. }))));
        assert!(in_use, "{refused:?}");
    }
    store.close().await;
    let refused = restore_into(&path, &bytes, Present::Keep).await;
    assert!(matches!(refused, Err(RestoreError::NotEmpty { .. })), "{refused:?}");

    // Nor does a bad dump do anything, wherever it is bad.
    let store = file(&path).await;
    let good = dump(&store).await;
    store.close().await;
    for cut in [0, 10, good.len() / 2, good.len() - 1] {
        let refused = restore_into(&path, &good[..cut], Present::MoveAside).await;
        let is_bad = matches!(&refused, Err(RestoreError::Dump(DumpError::NotADump | DumpError::CutShort)));
        assert!(is_bad, "{refused:?}");
    }
    assert_eq!(names(directory.path()), ["store"]);
    assert_eq!(summary(&file(&path).await).await.unwrap(), before);
}

#[tokio::test]
async fn a_store_that_cannot_be_opened_is_only_moved_aside() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    std::fs::write(&path, "not a store").unwrap();
    let bytes = dump(&memory().await).await;
    let refused = restore_into(&path, &bytes, Present::Keep).await;
    assert!(matches!(refused, Err(RestoreError::Unusable { .. })), "{refused:?}");
    let restored = restore_into(&path, &bytes, Present::MoveAside).await.unwrap();
    assert_eq!(std::fs::read_to_string(restored.aside.unwrap()).unwrap(), "not a store");
    file(&path).await.close().await;
}

#[tokio::test]
async fn an_import_that_broke_off_leaves_nothing_to_be_used() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let store = file(&path).await;
    let mut import = Import::begin(&store).await.unwrap();
    import.row(Table::Decisions, "key".into(), "value".into()).await.unwrap();
    drop(import);
    store.close().await;
    let opened = Store::open(Location::File(path), env()).await;
    assert!(matches!(opened, Err(StoreError::Incomplete)), "{opened:?}");
}

#[tokio::test]
async fn a_migration_copies_everything_and_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| Location::File(directory.path().join(name));
    let store = file(&directory.path().join("one")).await;
    fill(&store).await;
    let before = summary(&store).await.unwrap();
    store.close().await;
    for (from, to) in [("one", "two"), ("two", "three")] {
        assert_eq!(migrate(&at(from), &at(to), &env(), &|_| {}).await.unwrap(), before);
    }
    let refused = migrate(&at("one"), &at("three"), &env(), &|_| {}).await;
    assert!(matches!(refused, Err(DumpError::NotEmpty)), "{refused:?}");
    for name in ["one", "two", "three"] {
        assert_eq!(summary(&file(&directory.path().join(name)).await).await.unwrap(), before);
    }
}

#[tokio::test]
async fn compacting_gives_space_back_and_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let store = file(&path).await;
    for round in 0..40_u8 {
        store.write(move |tx| tx.put(Table::Decisions, &[round], &vec![round; MAX_VALUE_BYTES])).await.unwrap();
    }
    for round in 1..40_u8 {
        store.write(move |tx| tx.remove(Table::Decisions, &[round])).await.unwrap();
    }
    let before = summary(&store).await.unwrap();
    let stats = store.stats().await.unwrap();
    let table = stats.tables.iter().find(|stats| stats.table == Table::Decisions).unwrap();
    assert_eq!((table.rows, table.bytes), (1, 1 + MAX_VALUE_BYTES as u64));
    let in_use = crate::store::compact(&path).await;
    assert!(matches!(in_use, Err(StoreError::InUse { .. })), "{in_use:?}");
    store.close().await;

    let (large, small) = crate::store::compact(&path).await.unwrap();
    assert!(small < large / 2, "{large} became {small}");
    assert_eq!(small, path.metadata().unwrap().len());
    let free = stats.file.unwrap();
    assert!(free.free_pages.unwrap() * free.page_bytes > large / 2, "{free:?} of {large}");
    assert_eq!(summary(&file(&path).await).await.unwrap(), before);
}

#[tokio::test]
async fn the_writer_counts_what_it_does() {
    let store = memory().await;
    let before = store.stats().await.unwrap().writer;
    for _ in 0..3 {
        store.write(|tx| tx.put(Table::Decisions, b"key", b"value")).await.unwrap();
    }
    let after = store.stats().await.unwrap().writer;
    assert_eq!((after.transactions - before.transactions, after.commits - before.commits), (3, 3));
    assert_eq!((after.queued, after.failed_commits, after.largest_group), (0, 0, 1));
    assert!(after.commit_p50_micros > 0 && after.commit_p50_micros <= after.commit_p99_micros, "{after:?}");
}
