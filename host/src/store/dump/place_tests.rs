//! Where a dump goes: others who are there at the same time, imports that broke off, and what comes back to life.

use std::path::Path;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::task::JoinSet;

use super::import::{abandon, copy, is_empty, is_incomplete, load};
use super::restore::{Present, RestoreError, Restored, migrate};
use super::tests::{NOW, dump, env, file, fill, names, restore_into};
use super::*;
use crate::audit::Actor;
use crate::oauth::ResourceList;
use crate::oauth::grant::{Gone, Grace, Presented, Successor};
use crate::store::grants::{Refresh, refresh};
use crate::store::oauth_testing::{client, digest, issue, party};
use crate::store::revocations::{Whose, watermark};
use crate::store::users::tests::{created, new};
use crate::store::{Location, browser_sessions};

/// A restore that has read half of a dump and waits for the rest.
struct Halfway {
    rest: tokio::io::DuplexStream,
    bytes: Vec<u8>,
    restoring: JoinSet<Result<Restored, RestoreError>>,
}

impl Halfway {
    async fn into(path: &Path, bytes: &[u8], present: Present) -> Self {
        let (mut rest, from) = tokio::io::duplex(1024);
        let place = Location::File(path.to_owned());
        let mut restoring = JoinSet::new();
        restoring.spawn(async move { restore::restore(from, &place, present, &env()).await });
        // More than the pipe holds, so that it has been read from.
        let (half, bytes) = bytes.split_at(bytes.len() / 2);
        assert!(half.len() > 4096);
        rest.write_all(half).await.unwrap();
        Self { rest, bytes: bytes.to_vec(), restoring }
    }

    async fn end(mut self) -> Result<Restored, RestoreError> {
        // One that has failed reads no more.
        _ = self.rest.write_all(&self.bytes).await;
        drop(self.rest);
        self.restoring.join_next().await.unwrap().unwrap()
    }
}

/// Somebody works with a store that has appeared at the place, the only one in its directory: it stays, and the restore is
/// refused.
async fn what_has_appeared_stays(restoring: Halfway, gateway: Store, path: &Path) {
    gateway.write(|tx| tx.put(Table::Decisions, b"acknowledged", b"")).await.unwrap();
    let refused = restoring.end().await;
    assert!(matches!(refused, Err(RestoreError::Appeared { .. })), "{refused:?}");
    gateway.close().await;
    assert_eq!(names(path.parent().unwrap()), ["store"]);
    let kept = file(path).await.read(|tx| tx.get(Table::Decisions, b"acknowledged")).await.unwrap();
    assert!(kept.is_some());
}

async fn filled() -> (Store, Vec<u8>) {
    let store = crate::store::tests::memory().await;
    fill(&store).await;
    let bytes = dump(&store).await;
    (store, bytes)
}

#[tokio::test]
async fn of_two_restores_into_one_place_the_second_is_refused_and_the_first_is_whole() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let (store, bytes) = filled().await;
    let first = Halfway::into(&path, &bytes, Present::Keep).await;
    for present in [Present::Keep, Present::MoveAside] {
        let second = restore_into(&path, &bytes, present).await;
        assert!(matches!(second, Err(RestoreError::Restoring { .. })), "{second:?}");
        assert_eq!(names(directory.path()), ["store.restoring"]);
    }
    let restored = first.end().await.unwrap();
    assert_eq!(restored.summary, summary(&store).await.unwrap());
    let there = file(&path).await;
    let kept = there.read(|tx| tx.get(Table::Decisions, &7_u32.to_be_bytes())).await.unwrap();
    assert!(kept.is_some(), "what was restored is there");
    assert_eq!(names(directory.path()), ["store"]);
}

#[tokio::test]
async fn many_restores_at_once_leave_one_whole_store() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let (_, bytes) = filled().await;
    // Something that one has left which was killed.
    std::fs::write(directory.path().join("store.restoring"), "left").unwrap();
    let mut all = JoinSet::new();
    for _ in 0..8 {
        let (path, bytes) = (path.clone(), bytes.clone());
        all.spawn(async move { restore_into(&path, &bytes, Present::Keep).await });
    }
    let done = all.join_all().await;
    let restored = done.iter().filter(|done| done.is_ok()).count();
    assert_eq!(restored, 1, "{done:?}");
    assert_eq!(names(directory.path()), ["store"]);
    assert!(!is_empty(&file(&path).await).await.unwrap());
}

#[tokio::test]
async fn a_store_that_appears_during_a_restore_stays() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let (_, bytes) = filled().await;
    let restoring = Halfway::into(&path, &bytes, Present::MoveAside).await;
    let gateway = file(&path).await;
    what_has_appeared_stays(restoring, gateway, &path).await;
}

#[tokio::test]
async fn a_file_that_cannot_be_opened_is_held_until_it_is_moved_aside() {
    let directory = tempfile::tempdir().unwrap();
    let (path, other) = (directory.path().join("store"), directory.path().join("other"));
    let (_, bytes) = filled().await;
    std::fs::write(&path, "not a store").unwrap();
    let restoring = Halfway::into(&path, &bytes, Present::MoveAside).await;
    let opened = Store::open(Location::File(path.clone()), env()).await;
    assert!(matches!(opened, Err(StoreError::InUse { .. })), "{opened:?}");
    // Somebody puts another one there, and works with it.
    let gateway = file(&other).await;
    std::fs::rename(&other, &path).unwrap();
    what_has_appeared_stays(restoring, gateway, &path).await;
}

#[tokio::test]
async fn nobody_misses_an_empty_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    std::fs::write(&path, "").unwrap();
    let (store, bytes) = filled().await;
    let restored = restore::restore(bytes.as_slice(), &Location::File(path.clone()), Present::Keep, &env()).await;
    assert_eq!(restored.unwrap().summary, summary(&store).await.unwrap());
    assert_eq!(names(directory.path()), ["store"]);
}

#[tokio::test]
async fn an_import_that_broke_off_is_begun_anew() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let at = || Location::File(path.clone());
    let (from, bytes) = filled().await;
    let target = Store::open_to_fill(at(), env()).await.unwrap();
    // Everything is there but the end.
    let (_, import, whole) = load(bytes.as_slice(), &target).await.unwrap();
    drop(import);
    target.close().await;
    for opened in [Store::open(at(), env()).await, Store::open_existing(at(), env()).await] {
        assert!(matches!(opened, Err(StoreError::Incomplete)), "{opened:?}");
    }
    let target = Store::open_to_fill(at(), env()).await.unwrap();
    assert_eq!(copy(&from, &target, &|_| {}).await.unwrap(), whole);
    target.close().await;
    assert_eq!(dump(&file(&path).await).await.len(), bytes.len());
}

#[tokio::test]
async fn an_import_that_was_taken_over_can_do_nothing_more() {
    let (from, bytes) = filled().await;
    let target = Store::open_to_fill(Location::Memory, env()).await.unwrap();
    let (first, second) = (target.as_replica(1), target.as_replica(2));
    let (header, import, summary) = load(bytes.as_slice(), &first).await.unwrap();
    let mut begun = Import::begin(&second).await.unwrap();
    assert!(second.read(|tx| tx.get(Table::Expiry, b"empty")).await.unwrap().is_none(), "it has begun anew");
    let ended = import::go_on(import, &header, summary, None, &env()).await;
    assert!(matches!(ended, Err(DumpError::TakenOver)), "{ended:?}");
    assert!(matches!(abandon(&first).await, Err(DumpError::TakenOver)));
    let mut late = Import::begin(&first).await.unwrap();
    begun.row(Table::Decisions, "key".into(), "value".into()).await.unwrap();
    assert!(matches!(begun.read_back().await, Err(DumpError::TakenOver)));
    late.row(Table::Decisions, "mine".into(), "value".into()).await.unwrap();
    assert_eq!(late.read_back().await.unwrap().rows, 1);
    // Given up, it leaves a place for the next.
    abandon(&first).await.unwrap();
    assert!(is_empty(&target).await.unwrap() && !target.read(is_incomplete).await.unwrap());
    assert!(matches!(abandon(&first).await, Err(DumpError::TakenOver)), "there is nothing to take out");
    copy(&from, &second, &|_| {}).await.unwrap();
    assert!(matches!(abandon(&second).await, Err(DumpError::TakenOver)), "it is a store now");
    assert!(!is_empty(&target).await.unwrap());
}

#[tokio::test]
async fn what_a_newer_version_has_put_beside_is_never_left_out() {
    const FUTURE: ::redb::TableDefinition<'static, &[u8], &[u8]> = ::redb::TableDefinition::new("future");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    file(&path).await.close().await;
    let put = |rows: &[&[u8]]| {
        let database = ::redb::Database::open(&path).unwrap();
        let tx = database.begin_write().unwrap();
        let mut table = tx.open_table(FUTURE).unwrap();
        rows.iter().for_each(|row| drop(table.insert(*row, b"".as_slice()).unwrap()));
        drop(table);
        tx.commit().unwrap();
    };
    put(&[]);
    let store = file(&path).await;
    assert!(is_empty(&store).await.unwrap() && summary(&store).await.is_ok());
    store.close().await;
    put(&[b"row"]);
    let unknown = |error: &StoreError| matches!(error, StoreError::UnknownTable { name } if name == "future");
    let store = file(&path).await;
    assert!(!is_empty(&store).await.unwrap());
    assert!(unknown(&summary(&store).await.unwrap_err()));
    assert!(matches!(Import::begin(&store).await, Err(DumpError::Store(error)) if unknown(&error)));
    store.close().await;
    let (from, to) = (Location::File(path.clone()), Location::File(directory.path().join("copy")));
    assert!(matches!(migrate(&from, &to, &env(), &|_| {}).await, Err(DumpError::Store(error)) if unknown(&error)));
}

async fn use_token(store: &Store, token: &str, next: &str) -> Refresh {
    let presented = Presented {
        token: digest(token),
        client: client("app"),
        proof: None,
        scopes: None,
        resources: ResourceList::default(),
        is_stored: true,
    };
    let sealed = crate::secret::Sealed::from_bytes(next.as_bytes());
    let successor = Successor { digest: digest(next), sealed, signed: crate::env::Timestamp::default() };
    refresh(store, presented, successor, Grace::default(), Duration::from_secs(3_600)).await.unwrap()
}

#[tokio::test]
async fn nothing_that_was_granted_before_a_restore_comes_back_to_life() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let store = file(&path).await;
    issue(&store, 1, "used", party("ci", "app")).await;
    issue(&store, 2, "kept", party("ci", "app")).await;
    let user = created(&store, new(1, crate::identity::user::Role::User)).await;
    browser_sessions::tests::begun(&store, &user, 1).await;
    let cookie = browser_sessions::tests::digest(1);
    let signed_in = async |store: &Store| {
        let found = browser_sessions::find(store, cookie, crate::identity::browser::Surface::Public).await;
        found.unwrap().is_some()
    };
    assert!(signed_in(&store).await);
    let bytes = dump(&store).await;
    // After the backup one token is used, and the person signs out.
    assert!(matches!(use_token(&store, "used", "next").await, Refresh::Rotated(_)));
    browser_sessions::end_all_of(&store, &user.id, None, Actor::System).await.unwrap();
    store.close().await;

    restore_into(&path, &bytes, Present::MoveAside).await.unwrap();
    let store = file(&path).await;
    for token in ["used", "kept"] {
        let answer = use_token(&store, token, "other").await;
        assert!(matches!(answer, Refresh::Gone(Gone::Restored | Gone::Revoked)), "{token}: {answer:?}");
    }
    assert!(!signed_in(&store).await, "who signed out stays signed out");
    // Access tokens, codes and devices are refused by this.
    let all = watermark(&store, Whose::Everybody).await.unwrap().unwrap();
    assert_eq!(all.not_before.as_millis(), NOW);
    assert!(store.examine().await.unwrap().is_sound());
}

#[test]
fn a_count_keeps_what_it_holds_until_it_is_done() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(1).build().unwrap();
    runtime.block_on(async {
        let store = crate::store::tests::memory().await;
        // The only thread for reads is busy.
        let (release, wait) = std::sync::mpsc::channel::<()>();
        let busy = tokio::task::spawn_blocking(move || wait.recv());
        let held = std::sync::Arc::new(());
        let counting = store.stats_with(std::sync::Arc::clone(&held));
        let gone = tokio::time::timeout(Duration::from_millis(10), counting).await;
        assert!(gone.is_err());
        assert_eq!(std::sync::Arc::strong_count(&held), 2, "the count has yet to be done");
        release.send(()).unwrap();
        busy.await.unwrap().unwrap();
        while std::sync::Arc::strong_count(&held) > 1 {
            tokio::task::yield_now().await;
        }
    });
}
