//! What every engine has to do, shown on each of them in each of its forms, and what the tests of the aggregates share.

use std::collections::BTreeMap;
use std::future::Future;
use std::ops::Bound;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use tokio::task::JoinSet;

use super::engine::{Bounds, Direction, MAX_EFFECTS, MAX_KEY_BYTES, MAX_RANGE, MAX_READS, MAX_VALUE_BYTES, Row, Table};
use super::postgres::Database;
use super::postgres::tests::{database, server::Server};
use super::{Location, ReadTx, Store, StoreError, WriteTx};
use crate::env::{Clock, Entropy, Env, Timestamp};

/// A clock that stands where it is set, beside an entropy source that always draws the same.
#[derive(Clone)]
pub(super) struct StandingClock(Arc<AtomicU64>);

impl StandingClock {
    pub(super) fn at(millis: u64) -> Self {
        Self(Arc::new(AtomicU64::new(millis)))
    }

    pub(super) fn advance(&self, by: Duration) {
        let by = u64::try_from(by.as_millis()).unwrap();
        self.0.fetch_add(by, Ordering::Relaxed);
    }

    pub(super) fn set_back(&self, by: Duration) {
        let by = u64::try_from(by.as_millis()).unwrap();
        self.0.fetch_sub(by, Ordering::Relaxed);
    }

    pub(super) fn env(&self) -> Env {
        Env { clock: Arc::new(self.clone()), entropy: Arc::new(SameBytes) }
    }
}

impl Clock for StandingClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::Relaxed))
    }
}

/// An entropy source that always draws the same.
pub(super) struct SameBytes;

impl Entropy for SameBytes {
    fn fill(&self, bytes: &mut [u8]) {
        bytes.fill(7);
    }
}

pub(super) async fn memory() -> Store {
    Store::open(Location::Memory, StandingClock::at(1_000).env()).await.unwrap()
}

/// Where a test keeps its store. Nobody else has the same place.
pub(super) enum Place {
    Memory,
    File(tempfile::TempDir),
    Postgres(Database),
}

impl Place {
    pub(super) fn memory() -> Self {
        Self::Memory
    }

    pub(super) fn file() -> Self {
        Self::File(tempfile::tempdir().unwrap())
    }

    pub(super) fn postgres() -> Self {
        let server = Server::shared();
        Self::Postgres(database(server, &server.new_schema()))
    }

    pub(super) fn location(&self) -> Location {
        match self {
            Self::Memory => Location::Memory,
            Self::File(directory) => Location::File(directory.path().join("portcullis.redb")),
            Self::Postgres(database) => Location::Postgres(database.clone()),
        }
    }

    pub(super) async fn try_open(&self) -> Result<Store, StoreError> {
        Store::open(self.location(), StandingClock::at(1_000).env()).await
    }

    pub(super) async fn open(&self) -> Store {
        self.try_open().await.unwrap()
    }

    /// Whether a store is there again after it was closed.
    fn is_lasting(&self) -> bool {
        !matches!(self, Self::Memory)
    }

    /// Random cases that are worth their time.
    fn cases(&self) -> u32 {
        match self {
            Self::Memory => 96,
            Self::File(_) | Self::Postgres(_) => 32,
        }
    }
}

/// Makes a test of each function, on each engine.
macro_rules! on_every_engine {
    ($($test:ident,)*) => {
        on_every_engine!(@ memory $($test)*);
        on_every_engine!(@ file $($test)*);
        on_every_engine!(@ postgres $($test)*);
    };
    (@ $place:ident $($test:ident)*) => {
        mod $place {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    super::$test(super::Place::$place()).await;
                }
            )*
        }
    };
}

on_every_engine! {
    the_engine_does_what_an_ordered_map_does,
    concurrent_increments_are_all_counted,
    one_of_64_wins,
    a_closure_that_fails_or_panics_leaves_nothing,
    a_range_merges_own_effects_in_both_directions,
    a_range_is_full_although_effects_remove_rows_of_it,
    a_closure_over_a_limit_fails_even_if_it_ignores_the_error,
    everything_up_to_a_limit_is_allowed,
    a_full_queue_refuses_and_recovers,
    a_write_goes_on_when_nobody_waits_for_it,
    reads_that_lead_to_reads_see_one_state,
    a_prefetch_changes_nothing,
    a_closed_store_keeps_its_content_and_answers_closed,
    nobody_is_answered_before_the_commit,
}

async fn file(path: &Path) -> Result<Store, StoreError> {
    Store::open(Location::File(path.to_owned()), StandingClock::at(1_000).env()).await
}

const TABLE: Table = Table::Decisions;

/// A refusal of a closure's own.
#[derive(Debug)]
enum Failed {
    Refused,
    Store(StoreError),
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

async fn content(store: &Store) -> Vec<Row> {
    store.read(|tx| tx.range(TABLE, &Bounds::all(), Direction::Forward, MAX_RANGE)).await.unwrap()
}

fn row(key: &str, value: &str) -> Row {
    (key.as_bytes().to_vec(), value.as_bytes().to_vec())
}

// The sequential model.

#[derive(Clone, Debug)]
enum Step {
    Get(Vec<u8>),
    Put(Vec<u8>, Vec<u8>),
    Remove(Vec<u8>),
    Range(Bounds, Direction, usize),
}

#[derive(Clone, Copy, Debug)]
enum End {
    Commit,
    Refuse,
    Panic,
}

/// What a step saw.
type Seen = Vec<Row>;

fn run_steps(tx: &mut WriteTx<'_>, steps: &[Step]) -> Result<Vec<Seen>, StoreError> {
    steps.iter().map(|step| run_step(tx, step)).collect()
}

fn run_step(tx: &mut WriteTx<'_>, step: &Step) -> Result<Seen, StoreError> {
    match step {
        Step::Get(key) => Ok(tx.get(TABLE, key)?.map(|value| (key.clone(), value)).into_iter().collect()),
        Step::Put(key, value) => tx.put(TABLE, key, value).map(|()| Vec::new()),
        Step::Remove(key) => tx.remove(TABLE, key).map(|()| Vec::new()),
        Step::Range(bounds, direction, limit) => tx.range(TABLE, bounds, *direction, *limit),
    }
}

fn run_model(model: &mut BTreeMap<Vec<u8>, Vec<u8>>, step: &Step) -> Seen {
    match step {
        Step::Get(key) => {
            model.get_key_value(key).map(|(key, value)| (key.clone(), value.clone())).into_iter().collect()
        }
        Step::Put(key, value) => {
            model.insert(key.clone(), value.clone());
            Vec::new()
        }
        Step::Remove(key) => {
            model.remove(key);
            Vec::new()
        }
        Step::Range(bounds, direction, limit) => {
            // The plainest way to say it, and the one that cannot panic.
            let within = |key: &[u8]| {
                let after = match &bounds.lower {
                    Bound::Included(lower) => key >= lower.as_slice(),
                    Bound::Excluded(lower) => key > lower.as_slice(),
                    Bound::Unbounded => true,
                };
                let before = match &bounds.upper {
                    Bound::Included(upper) => key <= upper.as_slice(),
                    Bound::Excluded(upper) => key < upper.as_slice(),
                    Bound::Unbounded => true,
                };
                after && before
            };
            let mut rows: Vec<Row> =
                model.iter().filter(|(key, _)| within(key)).map(|(key, value)| (key.clone(), value.clone())).collect();
            if *direction == Direction::Backward {
                rows.reverse();
            }
            rows.truncate(*limit);
            rows
        }
    }
}

fn keys() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(0_u8..4, 0..3)
}

fn bounds() -> impl Strategy<Value = Bounds> {
    let bound =
        || prop_oneof![keys().prop_map(Bound::Included), keys().prop_map(Bound::Excluded), Just(Bound::Unbounded),];
    (bound(), bound()).prop_map(|(lower, upper)| Bounds { lower, upper })
}

fn steps() -> impl Strategy<Value = Step> {
    let direction = prop_oneof![Just(Direction::Forward), Just(Direction::Backward)];
    let value = proptest::collection::vec(any::<u8>(), 0..4);
    prop_oneof![
        2 => keys().prop_map(Step::Get),
        4 => (keys(), value).prop_map(|(key, value)| Step::Put(key, value)),
        2 => keys().prop_map(Step::Remove),
        3 => (bounds(), direction, 0_usize..8).prop_map(|(bounds, direction, limit)| Step::Range(bounds, direction, limit)),
    ]
}

fn transactions() -> impl Strategy<Value = Vec<(Vec<Step>, End)>> {
    let end = prop_oneof![6 => Just(End::Commit), 2 => Just(End::Refuse), 1 => Just(End::Panic)];
    proptest::collection::vec((proptest::collection::vec(steps(), 0..12), end), 1..16)
}

/// Queues all transactions before the first can run, so that the engine groups them as it likes.
async fn run_transactions(store: &Store, transactions: &[(Vec<Step>, End)]) {
    let mut model = BTreeMap::new();
    let mut expected = Vec::new();
    for (steps, end) in transactions {
        let mut after = model.clone();
        expected.push(steps.iter().map(|step| run_model(&mut after, step)).collect::<Vec<_>>());
        if matches!(end, End::Commit) {
            model = after;
        }
    }

    let writes = transactions.iter().map(|(steps, end)| {
        let (steps, end) = (steps.clone(), *end);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&seen);
        let write = store.write(move |tx| -> Result<(), Failed> {
            *told.lock().unwrap() = run_steps(tx, &steps)?;
            match end {
                End::Commit => Ok(()),
                End::Refuse => Err(Failed::Refused),
                // Not `panic!`, so that the test's output stays readable.
                End::Panic => std::panic::resume_unwind(Box::new("on purpose")),
            }
        });
        (Box::pin(write), seen, end)
    });
    let mut writes: Vec<_> = writes.collect();
    let mut early: Vec<_> = Vec::new();
    let mut context = Context::from_waker(Waker::noop());
    for (write, _, _) in &mut writes {
        early.push(write.as_mut().poll(&mut context));
    }
    for (((write, seen, end), early), expected) in writes.into_iter().zip(early).zip(expected) {
        let answer = match early {
            Poll::Ready(answer) => answer,
            Poll::Pending => write.await,
        };
        match (end, answer) {
            (End::Commit, Ok(()))
            | (End::Refuse, Err(Failed::Refused))
            | (End::Panic, Err(Failed::Store(StoreError::Panicked))) => {}
            (end, answer) => panic!("{end:?} was answered by {answer:?}"),
        }
        assert_eq!(*seen.lock().unwrap(), expected);
    }
    let model: Vec<Row> = model.into_iter().collect();
    assert_eq!(content(store).await, model);
}

async fn the_engine_does_what_an_ordered_map_does(place: Place) {
    let store = place.open().await;
    let cases = place.cases();
    let runtime = tokio::runtime::Handle::current();
    let run = move || {
        let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
        TestRunner::new(config).run(&transactions(), |transactions| {
            runtime.block_on(async {
                let all = content(&store).await;
                let clear = move |tx: &mut WriteTx<'_>| all.iter().try_for_each(|(key, _)| tx.remove(TABLE, key));
                store.write::<_, StoreError, _>(clear).await.unwrap();
                run_transactions(&store, &transactions).await;
            });
            Ok(())
        })
    };
    tokio::task::spawn_blocking(run).await.unwrap().unwrap();
}

// Transactions.

async fn concurrent_increments_are_all_counted(place: Place) {
    let store = place.open().await;
    let mut tasks = JoinSet::new();
    for _ in 0..64 {
        let store = store.clone();
        tasks.spawn(async move {
            for _ in 0..8 {
                store.write(increment).await.unwrap();
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    assert_eq!(store.read(count).await.unwrap(), 512);
}

fn count(tx: &mut ReadTx<'_>) -> Result<u64, StoreError> {
    let bytes = tx.get(TABLE, b"count")?;
    Ok(bytes.map_or(0, |bytes| u64::from_be_bytes(bytes.try_into().unwrap())))
}

fn increment(tx: &mut WriteTx<'_>) -> Result<u64, StoreError> {
    let next = count(tx)? + 1;
    tx.put(TABLE, b"count", &next.to_be_bytes())?;
    Ok(next)
}

async fn one_of_64_wins(place: Place) {
    let store = place.open().await;
    for round in 0_u8..8 {
        let mut tasks = JoinSet::new();
        for contender in 0_u8..64 {
            let store = store.clone();
            let claim = move |tx: &mut WriteTx<'_>| match tx.get(TABLE, &[round])? {
                Some(_) => Ok::<_, StoreError>(false),
                None => tx.put(TABLE, &[round], &[contender]).map(|()| true),
            };
            tasks.spawn(async move { store.write(claim).await.unwrap().then_some(contender) });
        }
        let winners: Vec<u8> = tasks.join_all().await.into_iter().flatten().collect();
        let stored = store.read(move |tx| tx.get(TABLE, &[round])).await.unwrap();
        assert_eq!(stored, Some(winners));
    }
}

async fn a_closure_that_fails_or_panics_leaves_nothing(place: Place) {
    let store = place.open().await;
    store.write(|tx| tx.put(TABLE, b"kept", b"1")).await.unwrap();

    let refused = store
        .write(|tx| -> Result<(), Failed> {
            tx.put(TABLE, b"lost", b"1")?;
            tx.remove(TABLE, b"kept")?;
            Err(Failed::Refused)
        })
        .await;
    assert!(matches!(refused, Err(Failed::Refused)));
    let panicked = store
        .write(|tx| -> Result<(), StoreError> {
            tx.put(TABLE, b"lost", b"2")?;
            std::panic::resume_unwind(Box::new("on purpose"))
        })
        .await;
    assert!(matches!(panicked, Err(StoreError::Panicked)));
    let read = store.read(|_| -> Result<(), StoreError> { std::panic::resume_unwind(Box::new("on purpose")) }).await;
    assert!(matches!(read, Err(StoreError::Panicked)));

    assert_eq!(content(&store).await, [row("kept", "1")]);
}

async fn a_range_merges_own_effects_in_both_directions(place: Place) {
    let store = place.open().await;
    store
        .write(|tx| ["b", "d", "f", "h"].iter().try_for_each(|key| tx.put(TABLE, key.as_bytes(), b"stored")))
        .await
        .unwrap();
    let seen = store
        .write(|tx| -> Result<_, Failed> {
            tx.put(TABLE, b"a", b"own")?;
            tx.put(TABLE, b"d", b"own")?;
            tx.put(TABLE, b"e", b"own")?;
            tx.remove(TABLE, b"e")?;
            tx.remove(TABLE, b"f")?;
            tx.put(TABLE, b"z", b"own")?;
            let after_a = Bounds::after(*b"a");
            Ok((
                tx.range(TABLE, &Bounds::all(), Direction::Forward, 3)?,
                tx.range(TABLE, &Bounds::all(), Direction::Backward, 3)?,
                tx.range(TABLE, &after_a, Direction::Forward, MAX_RANGE)?,
                tx.range(
                    TABLE,
                    &Bounds { lower: after_a.lower.clone(), ..Bounds::before(*b"a") },
                    Direction::Forward,
                    1,
                )?,
            ))
        })
        .await
        .unwrap();
    assert_eq!(seen.0, [row("a", "own"), row("b", "stored"), row("d", "own")]);
    assert_eq!(seen.1, [row("z", "own"), row("h", "stored"), row("d", "own")]);
    assert_eq!(seen.2, [row("b", "stored"), row("d", "own"), row("h", "stored"), row("z", "own")]);
    assert_eq!(seen.3, []);
}

async fn a_range_is_full_although_effects_remove_rows_of_it(place: Place) {
    let store = place.open().await;
    let keys = ["a", "b", "c", "d", "e", "f"];
    store.write(move |tx| keys.iter().try_for_each(|key| tx.put(TABLE, key.as_bytes(), b"1"))).await.unwrap();
    let seen = store
        .write(|tx| -> Result<_, StoreError> {
            let before = tx.range(TABLE, &Bounds::all(), Direction::Forward, 2)?;
            ["a", "b", "e", "f"].iter().try_for_each(|key| tx.remove(TABLE, key.as_bytes()))?;
            tx.put(TABLE, b"c", b"2")?;
            let forward = tx.range(TABLE, &Bounds::all(), Direction::Forward, 2)?;
            let backward = tx.range(TABLE, &Bounds::all(), Direction::Backward, 1)?;
            Ok((before, forward, backward))
        })
        .await
        .unwrap();
    assert_eq!(seen.0, [row("a", "1"), row("b", "1")]);
    assert_eq!(seen.1, [row("c", "2"), row("d", "1")]);
    assert_eq!(seen.2, [row("d", "1")]);
}

/// While one task moves what a pointer leads to, others follow it.
async fn reads_that_lead_to_reads_see_one_state(place: Place) {
    let store = place.open().await;
    let move_to = |place: u8| {
        move |tx: &mut WriteTx<'_>| -> Result<(), StoreError> {
            if let Some(before) = tx.get(TABLE, b"pointer")? {
                tx.remove(TABLE, &before)?;
            }
            tx.put(TABLE, b"pointer", &[b'p', place])?;
            tx.put(TABLE, &[b'p', place], &[place])
        }
    };
    store.write(move_to(0)).await.unwrap();
    let is_over = Arc::new(AtomicBool::new(false));
    let mut readers = JoinSet::new();
    for _ in 0..4 {
        let (store, is_over) = (store.clone(), Arc::clone(&is_over));
        readers.spawn(async move {
            let mut reads = 0;
            while !is_over.load(Ordering::SeqCst) || reads == 0 {
                let followed = store.read(|tx| -> Result<_, StoreError> {
                    let pointer = tx.get(TABLE, b"pointer")?.unwrap_or_default();
                    let value = tx.get(TABLE, &pointer)?;
                    let all = tx.range(TABLE, &Bounds::within(b"p"), Direction::Forward, 9)?;
                    Ok((pointer, value, all))
                });
                let (pointer, value, all) = followed.await.unwrap();
                assert_eq!(value.as_deref(), Some(&pointer[1..]));
                let expected = [(pointer.clone(), pointer[1..].to_vec()), (b"pointer".to_vec(), pointer)];
                assert_eq!(all, expected);
                reads += 1;
                tokio::task::yield_now().await;
            }
        });
    }
    for place in 1_u8..60 {
        store.write(move_to(place)).await.unwrap();
    }
    is_over.store(true, Ordering::SeqCst);
    while let Some(done) = readers.join_next().await {
        done.unwrap();
    }
}

async fn a_prefetch_changes_nothing(place: Place) {
    let store = place.open().await;
    store.write(|tx| (0_u8..9).try_for_each(|key| tx.put(TABLE, &[key], &[key]))).await.unwrap();
    let seen = store
        .write(|tx| -> Result<_, StoreError> {
            tx.put(TABLE, &[0], b"own")?;
            tx.remove(TABLE, &[1])?;
            tx.prefetch(TABLE, (0_u8..12).map(|key| [key]));
            tx.prefetch(TABLE, [[7; MAX_KEY_BYTES + 1]]);
            (0_u8..10).map(|key| tx.get(TABLE, &[key])).collect::<Result<Vec<_>, _>>()
        })
        .await
        .unwrap();
    let mut expected = vec![Some(b"own".to_vec()), None];
    expected.extend((2_u8..9).map(|key| Some(vec![key])));
    expected.push(None);
    assert_eq!(seen, expected);
}

async fn a_closure_over_a_limit_fails_even_if_it_ignores_the_error(place: Place) {
    type Closure = fn(&mut WriteTx<'_>);
    let store = place.open().await;
    let cases: [(&str, Closure); 6] = [
        ("key bytes", |tx| drop(tx.put(TABLE, &[0; MAX_KEY_BYTES + 1], b""))),
        ("key bytes", |tx| drop(tx.get(TABLE, &[0; MAX_KEY_BYTES + 1]))),
        ("value bytes", |tx| drop(tx.put(TABLE, b"large", &vec![0; MAX_VALUE_BYTES + 1]))),
        ("reads in one transaction", |tx| (0..=MAX_READS).for_each(|_| drop(tx.get(TABLE, b"x")))),
        ("effects in one transaction", |tx| (0..=MAX_EFFECTS).for_each(|_| drop(tx.remove(TABLE, b"x")))),
        ("rows in one range", |tx| drop(tx.range(TABLE, &Bounds::all(), Direction::Forward, MAX_RANGE + 1))),
    ];
    for (expected, closure) in cases {
        let written = store
            .write(move |tx| -> Result<(), StoreError> {
                tx.put(TABLE, b"lost", b"1")?;
                closure(tx);
                Ok(())
            })
            .await;
        match written {
            Err(StoreError::OverLimit { limit }) => assert_eq!(limit, expected),
            other => panic!("{expected}: {other:?}"),
        }
    }
    assert_eq!(content(&store).await, []);
}

async fn everything_up_to_a_limit_is_allowed(place: Place) {
    let store = place.open().await;
    store
        .write(|tx| -> Result<(), StoreError> {
            tx.put(TABLE, &[7; MAX_KEY_BYTES], &vec![7; MAX_VALUE_BYTES])?;
            (1..MAX_EFFECTS).try_for_each(|number| tx.put(TABLE, &number.to_be_bytes(), b""))?;
            (0..MAX_READS).try_for_each(|_| tx.get(TABLE, b"x").map(drop))
        })
        .await
        .unwrap();
    assert_eq!(content(&store).await.len(), MAX_RANGE);
}

/// A write under way that no engine ends before the sender of its second half is dropped.
fn blocker(store: &Store) -> (Pin<Box<impl Future<Output = Result<(), StoreError>>>>, mpsc::Sender<()>) {
    let (release, blocked) = mpsc::channel::<()>();
    let (entered, is_blocked) = mpsc::channel::<()>();
    let gate = Mutex::new(blocked);
    let mut blocker = Box::pin(store.write(move |_| {
        // An engine may run it again; nobody waits a second time.
        _ = entered.send(());
        _ = gate.lock().unwrap().recv();
        Ok::<_, StoreError>(())
    }));
    assert!(blocker.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    is_blocked.recv().unwrap();
    (blocker, release)
}

async fn a_full_queue_refuses_and_recovers(place: Place) {
    let store = place.open().await;
    let (blocker, release) = blocker(&store);
    let mut context = Context::from_waker(Waker::noop());

    let mut queued = Vec::new();
    let busy = loop {
        let mut write = Box::pin(store.write(increment));
        match write.as_mut().poll(&mut context) {
            Poll::Pending => queued.push(write),
            Poll::Ready(answer) => break answer,
        }
    };
    assert!(matches!(busy, Err(StoreError::Busy)), "{busy:?}");
    assert_eq!(queued.len(), 4096);

    drop(release);
    blocker.await.unwrap();
    for write in queued {
        write.await.unwrap();
    }
    assert_eq!(store.write(increment).await.unwrap(), 4097);
}

async fn a_write_goes_on_when_nobody_waits_for_it(place: Place) {
    let store = place.open().await;
    let (blocker, release) = blocker(&store);
    let mut write = Box::pin(store.write(increment));
    assert!(write.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    drop(write);
    drop(release);
    blocker.await.unwrap();
    assert_eq!(store.write(increment).await.unwrap(), 2);
}

#[tokio::test]
async fn time_stands_still_in_a_transaction_and_comes_from_the_clock() {
    let clock = StandingClock::at(5_000);
    let store = Store::open(Location::Memory, clock.env()).await.unwrap();
    let moving = clock.clone();
    let (before, after) = store
        .write(move |tx| {
            let before = tx.now();
            moving.advance(Duration::from_secs(1));
            Ok::<_, StoreError>((before, tx.now()))
        })
        .await
        .unwrap();
    assert_eq!((before, after), (Timestamp::from_millis(5_000), Timestamp::from_millis(5_000)));
    assert_eq!(store.write(|tx| Ok::<_, StoreError>(tx.now())).await.unwrap(), Timestamp::from_millis(6_000));
}

// Files.

async fn a_closed_store_keeps_its_content_and_answers_closed(place: Place) {
    let store = place.open().await;
    let (blocker, release) = blocker(&store);
    let mut queued = Box::pin(store.write(increment));
    assert!(queued.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    drop(release);
    let (blocked, ..) = tokio::join!(blocker, store.close(), store.close());
    blocked.unwrap();
    assert_eq!(queued.await.unwrap(), 1);
    assert!(matches!(store.write(increment).await, Err(StoreError::Closed)));
    assert!(matches!(store.read(count).await, Err(StoreError::Closed)));

    let store = place.open().await;
    assert_eq!(store.write(increment).await.unwrap(), if place.is_lasting() { 2 } else { 1 });
    store.close().await;
}

#[tokio::test]
async fn the_file_is_for_its_owner_only() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("portcullis.redb");
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    file(&path).await.unwrap().close().await;
    assert_eq!(mode(&path), 0o600);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    file(&path).await.unwrap().close().await;
    assert_eq!(mode(&path), 0o600);
}

#[tokio::test]
async fn a_store_has_one_opener() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("portcullis.redb");
    let store = file(&path).await.unwrap();
    let second = file(&path).await;
    assert!(matches!(&second, Err(StoreError::InUse { path: of }) if *of == path), "{second:?}");
    assert_eq!(store.write(increment).await.unwrap(), 1);
    store.close().await;
    assert_eq!(file(&path).await.unwrap().read(count).await.unwrap(), 1);
}

#[tokio::test]
async fn what_is_not_a_store_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notes.txt");
    std::fs::write(&path, "something else").unwrap();
    assert!(matches!(file(&path).await, Err(StoreError::Open { .. })));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "something else");
    let missing = directory.path().join("missing").join("portcullis.redb");
    assert!(matches!(file(&missing).await, Err(StoreError::Open { .. })));
}

async fn nobody_is_answered_before_the_commit(place: Place) {
    // A refusal may rest on what an earlier transaction of the same group wrote: it waits for that, too.
    let store = place.open().await;
    let committed = Arc::new(AtomicBool::new(false));
    let mut writes = JoinSet::new();
    for _ in 0..64 {
        let (store, committed) = (store.clone(), Arc::clone(&committed));
        writes.spawn(async move {
            let first = store
                .write(|tx| match tx.get(TABLE, b"taken")? {
                    Some(_) => Err(Failed::Refused),
                    None => Ok(tx.put(TABLE, b"taken", b"")?),
                })
                .await;
            match first {
                Ok(()) => assert!(!committed.swap(true, Ordering::SeqCst), "there was one winner"),
                Err(Failed::Refused) => {
                    let taken = store.read(|tx| tx.get(TABLE, b"taken")).await.unwrap();
                    assert!(taken.is_some(), "what the refusal rests on is there");
                }
                Err(Failed::Store(error)) => panic!("{error}"),
            }
        });
    }
    while let Some(done) = writes.join_next().await {
        done.unwrap();
    }
    assert!(committed.load(Ordering::SeqCst));
}
