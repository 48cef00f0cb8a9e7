//! The embedded engine: one redb file, one writer.
//!
//! - Writes go through a bounded queue to one thread of our own, which gathers what arrives within
//!   [`GROUP_TIME`] into one durable two-phase commit. The closures of a group run over a shared overlay, each
//!   seeing those before it. Nobody is answered before the commit, refusals included, since a refusal may rest on
//!   effects of the same group.
//! - Reads run on tokio's blocking threads, since a page that is not in the cache blocks on the disk. Nothing on
//!   the path of an MCP request reads.
//! - redb refuses everything after an I/O error until it is opened again. The writer does that; until it succeeds,
//!   reads and writes answer [`StoreError::Unavailable`].
//!
//! The transaction rules are not here but in `engine`. Facts about redb: its `Builder`, `WriteTransaction` and
//! `StorageBackend` documentation.

use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, TrySendError};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ::redb::{
    AccessGuard, Builder, Database, Durability, MultimapTableHandle, ReadOnlyTable, ReadTransaction, ReadableDatabase,
    ReadableTableMetadata, StorageError, TableDefinition, TableError, TableHandle, TransactionError,
    backends::InMemoryBackend,
};
use tokio::sync::{Semaphore, oneshot};
use tokio_util::sync::CancellationToken;

use super::engine::{self, Bounds, Direction, Effects, ReadTx, Rows, Snapshot, Table, Transition, WriteTx};
use super::export::{self, Abandoned, Export};
use super::stats::{Meter, Stats, TableStats};
use super::{Purpose, StoreError};
use crate::env::Env;

#[cfg(test)]
mod disk;
mod file;

pub(super) use file::{compact, sync_parent};

/// Writes that may wait; more are refused with [`StoreError::Busy`].
const QUEUE: usize = 4096;
/// Closures in one commit.
pub(super) const GROUP: usize = 64;
/// How long a commit waits for company.
const GROUP_TIME: Duration = Duration::from_millis(1);
/// A group that has gathered this many bytes waits no longer.
const GROUP_BYTES: usize = 8 * 1024 * 1024;
/// Reads at once; more wait their turn.
const READS_AT_ONCE: usize = 64;
/// redb's page cache, in bytes.
const CACHE_BYTES: usize = 64 * 1024 * 1024;
/// Shortest time between two openings of the file, after I/O errors.
const REOPEN_INTERVAL: Duration = Duration::from_millis(500);

/// A running engine. Dropping it ends the writer once the queue is worked off; [`Self::close`] also waits for that.
pub(super) struct Engine {
    /// `None` once closed. Held for the length of a `try_send`.
    queue: Mutex<Option<mpsc::SyncSender<Message>>>,
    database: Arc<Slot>,
    reads: Arc<Semaphore>,
    meter: Arc<Meter>,
    /// The file, unless it is in memory.
    path: Option<PathBuf>,
    env: Env,
    finished: CancellationToken,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl Engine {
    /// Opens the store in a file, creating it if nothing is there and it is not only looked at, or one in memory. At most
    /// `group` closures share a commit.
    pub(super) async fn open(
        file: Option<PathBuf>,
        env: Env,
        group: usize,
        purpose: Purpose,
    ) -> Result<Self, StoreError> {
        match file {
            None => {
                let mut backend = Some(InMemoryBackend::new());
                // What was in memory is gone with the handle: opening again would silently begin at nothing.
                let open = move || match backend.take() {
                    Some(backend) => builder().create_with_backend(backend).map_err(fault),
                    None => Err(unavailable(io::Error::other("a store in memory cannot be opened again"))),
                };
                Self::start(Box::new(open), env, group).await
            }
            Some(path) => {
                let at = path.clone();
                let engine = Self::start(Box::new(move || file::open(&at, purpose)), env, group).await?;
                Ok(Self { path: Some(path), ..engine })
            }
        }
    }

    /// Makes a store in an empty file that is open and locked. The lock is the store's from then on.
    pub(super) async fn fill(file: File, env: Env) -> Result<Self, StoreError> {
        Self::start(Box::new(move || file::fill(&file)), env, GROUP).await
    }

    /// Starts the writer with its way to open the database.
    async fn start(open: Opener, env: Env, group: usize) -> Result<Self, StoreError> {
        let (queue, waiting) = mpsc::sync_channel(QUEUE);
        let database = Arc::new(Slot(RwLock::new(State::Closed)));
        let finished = CancellationToken::new();
        let (opened, first_open) = oneshot::channel();
        let meter = Arc::new(Meter::default());
        let mut writer = Writer {
            open,
            database: Arc::clone(&database),
            waiting,
            group,
            meter: Arc::clone(&meter),
            env: env.clone(),
            opening: 0,
            opened_at: Instant::now(),
            reopen_at: None,
        };
        let ended = finished.clone().drop_guard();
        let thread = move || {
            let _ended = ended;
            let attempt = writer.reopen();
            let is_open = attempt.is_ok();
            if opened.send(attempt).is_ok() && is_open {
                writer.run();
            }
            writer.database.set(State::Closed);
        };
        let thread = std::thread::Builder::new().name("store-writer".to_owned()).spawn(thread).map_err(unavailable)?;
        first_open.await.unwrap_or(Err(StoreError::Closed))?;
        Ok(Self {
            queue: Mutex::new(Some(queue)),
            database,
            reads: Arc::new(Semaphore::new(READS_AT_ONCE)),
            meter,
            path: None,
            env,
            finished,
            writer: Mutex::new(Some(thread)),
        })
    }

    pub(super) async fn read<T, E, F>(&self, closure: F) -> Result<T, E>
    where
        F: Fn(&mut ReadTx<'_>) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let env = self.env.clone();
        self.look(move |pages| engine::read(pages, env.now(), closure)).await
    }

    /// Looks at one state, on a thread that may block. If that meets an I/O error, the file is opened again.
    async fn look<T, E, F>(&self, look: F) -> Result<T, E>
    where
        F: FnOnce(&Pages) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let permit = Arc::clone(&self.reads).acquire_owned().await.map_err(|_| StoreError::Closed)?;
        let database = Arc::clone(&self.database);
        let looked = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let pages = match database.pages() {
                Ok(pages) => pages,
                Err(refused) => return (Err(refused.failure.into()), refused.opening),
            };
            let looked = look(&pages);
            (looked, pages.has_failed().then_some(pages.opening))
        });
        let (looked, failed) = looked.await.map_err(|_| StoreError::Closed)?;
        if let Some(opening) = failed {
            // A full queue does not matter: the writer meets the same fault at its next commit.
            let _ = self.send(Message::Failed { opening });
        }
        looked
    }

    pub(super) async fn write<T, E, F>(&self, closure: F) -> Result<T, E>
    where
        F: Fn(&mut WriteTx<'_>) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        engine::write(closure, &self.meter, |transition| self.send(Message::Write(transition))).await
    }

    /// Streams all rows of one state, from a thread of its own.
    pub(super) async fn export(self: &Arc<Self>, limit: Option<Duration>) -> Result<Export, StoreError> {
        let permit = Arc::clone(&self.reads).acquire_owned().await.map_err(|_| StoreError::Closed)?;
        let (mut sink, export) = export::channel(limit);
        let (engine, runtime) = (Arc::clone(self), tokio::runtime::Handle::current());
        tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let (told, failed) = match engine.database.pages() {
                Ok(pages) => {
                    let told = tell_all(&pages, |table, row| runtime.block_on(sink.row(table, row)));
                    (told, pages.has_failed().then_some(pages.opening))
                }
                Err(refused) => (Some(Err(refused.failure)), refused.opening),
            };
            if let Some(opening) = failed {
                // As in `look`.
                let _ = engine.send(Message::Failed { opening });
            }
            if let Some(told) = told {
                // Whoever asked may have gone away.
                let _ = runtime.block_on(sink.end(told));
            }
        });
        Ok(export)
    }

    /// A table that holds something and that this version does not know.
    pub(super) async fn unknown_table(&self) -> Result<Option<String>, StoreError> {
        self.look(Pages::unknown_table).await
    }

    pub(super) fn meter(&self) -> &Meter {
        &self.meter
    }

    /// Counts rows and pages. The count goes on if the returned future is dropped, and `held` with it.
    pub(super) async fn stats(&self, held: impl Send + 'static) -> Result<Stats, StoreError> {
        let (path, meter) = (self.path.clone(), Arc::clone(&self.meter));
        let count = move |pages: &Pages| {
            let _held = held;
            let tables = export::tables().into_iter().map(|table| pages.stats(table)).collect::<Result<Vec<_>, _>>()?;
            let file = path.map(|path| file::stats(&path, &tables)).transpose()?;
            Ok(Stats { tables, file, writer: meter.read() })
        };
        self.look(count).await
    }

    /// Takes no more writes, finishes those that are queued, and lets go of the file.
    pub(super) async fn close(&self) {
        drop(lock(&self.queue).take());
        self.finished.cancelled().await;
        let writer = lock(&self.writer).take();
        if let Some(writer) = writer {
            // It has nothing left to do but return, so this does not block.
            let _ = writer.join();
        }
    }

    fn send(&self, message: Message) -> Result<(), StoreError> {
        match lock(&self.queue).as_ref().ok_or(StoreError::Closed)?.try_send(message) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(_)) => Err(StoreError::Busy),
            Err(TrySendError::Disconnected(_)) => Err(StoreError::Closed),
        }
    }
}

/// Reads from a file that nobody works with, and writes nothing to it, not even what would repair it.
pub(super) async fn peek<T, F>(path: PathBuf, env: Env, closure: F) -> Result<T, StoreError>
where
    F: Fn(&mut ReadTx<'_>) -> Result<T, StoreError> + Send + 'static,
    T: Send + 'static,
{
    let read = move || {
        let database = file::open_to_read(&path)?;
        let tx = database.begin_read().map_err(fault)?;
        let pages = Pages { tx, opening: 0, failed: AtomicBool::new(false) };
        engine::read(&pages, env.now(), closure)
    };
    tokio::task::spawn_blocking(read).await.map_err(|_| StoreError::Closed)?
}

/// Opens the database, for the first time or again.
type Opener = Box<dyn FnMut() -> Result<Database, StoreError> + Send>;

enum Message {
    Write(Box<dyn Transition>),
    /// A read met an I/O error.
    Failed {
        opening: u64,
    },
}

enum State {
    Open {
        database: Database,
        opening: u64,
    },
    /// The last attempt to open failed, with this.
    Broken(StoreError),
    Closed,
}

/// The one handle of the database. Readers hold the lock only to begin a transaction.
struct Slot(RwLock<State>);

impl Slot {
    fn set(&self, state: State) {
        let before = std::mem::replace(&mut *self.0.write().unwrap_or_else(PoisonError::into_inner), state);
        // Closing a database writes, which nobody needs to wait for with the lock held.
        drop(before);
    }

    fn with<T>(&self, act: impl FnOnce(&Database, u64) -> Result<T, TransactionError>) -> Result<T, Refused> {
        match &*self.0.read().unwrap_or_else(PoisonError::into_inner) {
            State::Open { database, opening } => {
                act(database, *opening).map_err(|error| Refused { failure: fault(error), opening: Some(*opening) })
            }
            State::Broken(failure) => Err(Refused { failure: failure.clone(), opening: None }),
            State::Closed => Err(Refused { failure: StoreError::Closed, opening: None }),
        }
    }

    fn pages(&self) -> Result<Pages, Refused> {
        self.with(|database, opening| Ok(Pages { tx: database.begin_read()?, opening, failed: AtomicBool::new(false) }))
    }
}

/// Why a transaction could not begin.
struct Refused {
    failure: StoreError,
    /// The opening of the database that failed, unless this was known already.
    opening: Option<u64>,
}

/// The thread that commits.
struct Writer {
    open: Opener,
    database: Arc<Slot>,
    waiting: mpsc::Receiver<Message>,
    /// Most closures in one commit.
    group: usize,
    meter: Arc<Meter>,
    env: Env,
    /// Counts the openings, so that a fault is laid to the right one.
    opening: u64,
    opened_at: Instant,
    /// When to open again, once something has failed.
    reopen_at: Option<Instant>,
}

impl Writer {
    /// Works until the queue is empty and nobody can add to it.
    fn run(&mut self) {
        loop {
            if self.reopen_at.is_some_and(|at| at <= Instant::now()) {
                self.recover();
            }
            let message = match self.reopen_at {
                None => self.waiting.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(at) => self.waiting.recv_timeout(at.saturating_duration_since(Instant::now())),
            };
            match message {
                Ok(Message::Write(first)) => {
                    self.meter.unqueue();
                    self.commit_group(first);
                }
                Ok(Message::Failed { opening }) => self.note_failure(opening),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Runs `first` and what arrives soon after, commits their effects, and answers them all.
    fn commit_group(&mut self, first: Box<dyn Transition>) {
        let pages = match self.database.pages() {
            Ok(pages) => pages,
            Err(Refused { failure, .. }) => {
                first.answer(Err(failure));
                self.note_failure(self.opening);
                return;
            }
        };
        let until = Instant::now() + GROUP_TIME;
        let mut effects = Effects::default();
        let mut group = Vec::new();
        let mut next = Some(first);
        while let Some(mut transition) = next {
            transition.run(&pages, &mut effects, self.env.now());
            group.push(transition);
            let is_full = group.len() >= self.group || effects.bytes() >= GROUP_BYTES;
            next = if is_full { None } else { self.next_before(until) };
        }
        let mut has_failed = pages.has_failed();
        // Pages that a commit frees are not used again while a reader may look at them.
        drop(pages);

        self.meter.ran(group.len());
        let committed = if effects.is_empty() { Ok(()) } else { self.commit_and_count(&effects) };
        has_failed |= committed.is_err();
        for transition in group {
            transition.answer(committed.clone());
        }
        if has_failed {
            self.note_failure(self.opening);
        }
    }

    fn next_before(&mut self, until: Instant) -> Option<Box<dyn Transition>> {
        loop {
            match self.waiting.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(Message::Write(transition)) => {
                    self.meter.unqueue();
                    return Some(transition);
                }
                Ok(Message::Failed { opening }) => self.note_failure(opening),
                Err(_) => return None,
            }
        }
    }

    fn commit_and_count(&self, effects: &Effects) -> Result<(), StoreError> {
        let began = Instant::now();
        let committed = self.commit(effects);
        self.meter.committed(began.elapsed(), committed.is_err());
        committed
    }

    fn commit(&self, effects: &Effects) -> Result<(), StoreError> {
        let commit = || {
            let mut tx = self.database.with(|database, _| database.begin_write()).map_err(|refused| refused.failure)?;
            tx.set_durability(Durability::Immediate).map_err(fault)?;
            // Values are chosen by callers in part; see `WriteTransaction::set_two_phase_commit`.
            tx.set_two_phase_commit(true);
            for (table, changes) in effects.tables() {
                let mut rows = tx.open_table(definition(table)).map_err(fault)?;
                for (key, value) in changes {
                    match value {
                        Some(value) => rows.insert(key.as_slice(), value.as_slice()).map_err(fault)?,
                        None => rows.remove(key.as_slice()).map_err(fault)?,
                    };
                }
            }
            tx.commit().map_err(fault)
        };
        // A panic of the library must not end the only writer.
        catch_unwind(AssertUnwindSafe(commit))
            .unwrap_or_else(|_| Err(unavailable(io::Error::other("the commit panicked"))))
    }

    /// Something failed in this opening of the database: it has to be opened again, but not in a tight loop.
    fn note_failure(&mut self, opening: u64) {
        if opening == self.opening && self.reopen_at.is_none() {
            self.reopen_at = Some(self.opened_at + REOPEN_INTERVAL);
        }
    }

    fn recover(&mut self) {
        match self.reopen() {
            Ok(()) => tracing::warn!("the store was opened again after an I/O error"),
            Err(failure) => {
                let error: &(dyn std::error::Error + 'static) = &failure;
                tracing::error!(error, "the store cannot be opened again; trying on");
            }
        }
    }

    fn reopen(&mut self) -> Result<(), StoreError> {
        // The old handle goes first: it holds the file's lock.
        self.database.set(State::Broken(unavailable(io::Error::other("the store is being opened"))));
        let opened = catch_unwind(AssertUnwindSafe(|| (self.open)()));
        let opened = opened.unwrap_or_else(|_| Err(unavailable(io::Error::other("opening panicked"))));
        self.opened_at = Instant::now();
        match opened {
            Ok(database) => {
                self.opening += 1;
                self.reopen_at = None;
                self.database.set(State::Open { database, opening: self.opening });
                Ok(())
            }
            Err(failure) => {
                self.reopen_at = Some(self.opened_at + REOPEN_INTERVAL);
                self.database.set(State::Broken(unavailable(failure.clone())));
                Err(failure)
            }
        }
    }
}

/// A snapshot of the file.
struct Pages {
    tx: ReadTransaction,
    /// Which opening of the database this belongs to.
    opening: u64,
    /// Whether a read met an error after which redb wants to be opened again.
    failed: AtomicBool,
}

impl Pages {
    fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// `None` if nothing was ever put there.
    fn table(&self, table: Table) -> Result<Option<ReadOnlyTable<Bytes, Bytes>>, StoreError> {
        match self.tx.open_table(definition(table)) {
            Ok(rows) => Ok(Some(rows)),
            Err(TableError::TableDoesNotExist(_)) => Ok(None),
            Err(TableError::Storage(error)) => Err(self.note(error)),
            Err(error) => Err(fault(error)),
        }
    }

    fn stats(&self, table: Table) -> Result<TableStats, StoreError> {
        let Some(rows) = self.table(table)? else {
            return Ok(TableStats { table, rows: 0, bytes: 0, allocated_bytes: 0 });
        };
        let count = rows.len().map_err(|error| self.note(error))?;
        let pages = rows.stats().map_err(|error| self.note(error))?;
        let allocated_bytes = pages.stored_bytes() + pages.metadata_bytes() + pages.fragmented_bytes();
        Ok(TableStats { table, rows: count, bytes: pages.stored_bytes(), allocated_bytes })
    }

    /// A table that holds something and that this version does not know.
    fn unknown_table(&self) -> Result<Option<String>, StoreError> {
        let known = |name: &str| Table::ALL.iter().any(|table| table.name() == name);
        for handle in self.tx.list_tables().map_err(|error| self.note(error))? {
            if !known(handle.name()) {
                let name = handle.name().to_owned();
                let rows = self.tx.open_untyped_table(handle).map_err(fault)?;
                if rows.len().map_err(|error| self.note(error))? > 0 {
                    return Ok(Some(name));
                }
            }
        }
        let mut multimaps = self.tx.list_multimap_tables().map_err(|error| self.note(error))?;
        Ok(multimaps.next().map(|handle| handle.name().to_owned()))
    }

    fn note(&self, error: StorageError) -> StoreError {
        // The handle was closed or reopened while this read went on; nothing is wrong with the new one.
        if !matches!(error, StorageError::DatabaseClosed) {
            self.failed.store(true, Ordering::Relaxed);
        }
        fault(error)
    }
}

impl Snapshot for Pages {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let Some(rows) = self.table(table)? else { return Ok(None) };
        let value = rows.get(key).map_err(|error| self.note(error))?;
        Ok(value.map(|value| value.value().to_vec()))
    }

    /// Rows are read as far as somebody takes them, whatever the limit.
    fn range(&self, table: Table, bounds: &Bounds, direction: Direction, _: usize) -> Result<Rows<'_>, StoreError> {
        let Some(rows) = self.table(table)? else { return Ok(Box::new(std::iter::empty())) };
        let within = rows.range::<&[u8]>(bounds.as_slices()).map_err(|error| self.note(error))?;
        let owned = |row: Result<GuardedRow<'_>, StorageError>| {
            let (key, value) = row.map_err(|error| self.note(error))?;
            Ok((key.value().to_vec(), value.value().to_vec()))
        };
        Ok(match direction {
            Direction::Forward => Box::new(within.map(owned)),
            Direction::Backward => Box::new(within.rev().map(owned)),
        })
    }
}

/// Tells all rows of a state, or `None` if nobody wants to know any more.
fn tell_all(
    pages: &Pages,
    mut tell: impl FnMut(Table, engine::Row) -> Result<(), Abandoned>,
) -> Option<Result<(), StoreError>> {
    match pages.unknown_table() {
        Ok(None) => {}
        Ok(Some(name)) => return Some(Err(StoreError::UnknownTable { name })),
        Err(failure) => return Some(Err(failure)),
    }
    for table in export::tables() {
        let rows = match pages.range(table, &Bounds::all(), Direction::Forward, usize::MAX) {
            Ok(rows) => rows,
            Err(failure) => return Some(Err(failure)),
        };
        for row in rows {
            match row {
                Ok(row) => tell(table, row).ok()?,
                Err(failure) => return Some(Err(failure)),
            }
        }
    }
    Some(Ok(()))
}

type Bytes = &'static [u8];
type GuardedRow<'a> = (AccessGuard<'a, Bytes>, AccessGuard<'a, Bytes>);

const fn definition(table: Table) -> TableDefinition<'static, Bytes, Bytes> {
    TableDefinition::new(table.name())
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

type Fault = Arc<dyn std::error::Error + Send + Sync>;

fn fault(error: impl Into<::redb::Error>) -> StoreError {
    unavailable(error.into())
}

fn unavailable(source: impl std::error::Error + Send + Sync + 'static) -> StoreError {
    StoreError::Unavailable { source: Arc::new(source) }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use ::redb::StorageBackend;
    use ::redb::backends::FileBackend;

    use std::path::Path;

    use super::super::tests::StandingClock;
    use super::file::file_at;
    use super::*;

    const TABLE: Table = Table::Decisions;

    /// A disk that fails when told to.
    #[derive(Debug)]
    struct FaultyDisk {
        file: FileBackend,
        faults: Arc<Faults>,
    }

    #[derive(Debug)]
    struct Faults {
        reads_left: AtomicU64,
        changes_left: AtomicU64,
        openings: AtomicU64,
        syncs: AtomicU64,
    }

    impl Faults {
        fn none() -> Self {
            let [reads_left, changes_left] = [const { AtomicU64::new(u64::MAX) }; 2];
            Self { reads_left, changes_left, openings: AtomicU64::new(0), syncs: AtomicU64::new(0) }
        }

        fn fail_after(&self, reads: u64, changes: u64) {
            self.reads_left.store(reads, Ordering::SeqCst);
            self.changes_left.store(changes, Ordering::SeqCst);
        }

        fn heal(&self) {
            self.fail_after(u64::MAX, u64::MAX);
        }

        fn openings(&self) -> u64 {
            self.openings.load(Ordering::SeqCst)
        }
    }

    fn spend(left: &AtomicU64) -> io::Result<()> {
        let spent = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        spent.map(drop).map_err(|_| io::Error::other("the disk fails"))
    }

    impl StorageBackend for FaultyDisk {
        fn len(&self) -> io::Result<u64> {
            self.file.len()
        }
        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            spend(&self.faults.reads_left)?;
            self.file.read(offset, out)
        }
        fn set_len(&self, len: u64) -> io::Result<()> {
            spend(&self.faults.changes_left)?;
            self.file.set_len(len)
        }
        fn sync_data(&self) -> io::Result<()> {
            spend(&self.faults.changes_left)?;
            self.faults.syncs.fetch_add(1, Ordering::SeqCst);
            self.file.sync_data()
        }
        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            spend(&self.faults.changes_left)?;
            self.file.write(offset, data)
        }
        fn close(&self) -> io::Result<()> {
            self.file.close()
        }
    }

    async fn engine_on_faulty_disk(path: &Path) -> (Arc<Engine>, Arc<Faults>) {
        let faults = Arc::new(Faults::none());
        let (path, disk) = (path.to_owned(), Arc::clone(&faults));
        let open = move || {
            disk.openings.fetch_add(1, Ordering::SeqCst);
            let file = FileBackend::new(file_at(&path, Purpose::Use).map_err(unavailable)?).map_err(fault)?;
            // Without a cache, so that reads meet the disk.
            let mut builder = Builder::new();
            builder.set_cache_size(0).create_with_backend(FaultyDisk { file, faults: Arc::clone(&disk) }).map_err(fault)
        };
        let engine = Engine::start(Box::new(open), StandingClock::at(0).env(), GROUP).await.unwrap();
        (Arc::new(engine), faults)
    }

    async fn put(engine: &Engine, value: &'static [u8]) -> Result<(), StoreError> {
        engine.write(move |tx| tx.put(TABLE, b"key", value)).await
    }

    async fn get(engine: &Engine) -> Result<Option<Vec<u8>>, StoreError> {
        engine.read(|tx| tx.get(TABLE, b"key")).await
    }

    /// Asks again until there is an answer.
    async fn eventually<T>(ask: impl AsyncFn() -> Option<T>) -> T {
        let asking = async {
            loop {
                if let Some(answer) = ask().await {
                    break answer;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), asking).await.expect("it comes to pass")
    }

    #[tokio::test]
    async fn after_an_io_error_the_file_is_opened_again() {
        let directory = tempfile::tempdir().unwrap();
        let (engine, faults) = engine_on_faulty_disk(&directory.path().join("store")).await;
        put(&engine, b"before").await.unwrap();

        faults.fail_after(u64::MAX, 0);
        assert!(matches!(put(&engine, b"lost").await, Err(StoreError::Unavailable { .. })));
        faults.heal();
        eventually(async || (faults.openings() == 2).then_some(())).await;
        assert_eq!(eventually(async || get(&engine).await.ok()).await.as_deref(), Some(b"before".as_slice()));

        // This time the next opening fails as well, and with it reads do.
        faults.fail_after(0, 0);
        assert!(matches!(put(&engine, b"lost").await, Err(StoreError::Unavailable { .. })));
        eventually(async || (faults.openings() == 3).then_some(())).await;
        assert!(matches!(get(&engine).await, Err(StoreError::Unavailable { .. })));

        faults.heal();
        eventually(async || put(&engine, b"after").await.ok()).await;
        assert_eq!(get(&engine).await.unwrap().as_deref(), Some(b"after".as_slice()));
        engine.close().await;
    }

    #[tokio::test]
    async fn a_read_that_fails_also_leads_to_an_opening() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store");
        let (engine, _) = engine_on_faulty_disk(&path).await;
        put(&engine, b"before").await.unwrap();
        engine.close().await;

        let mut failures = 0;
        for reads_before_failure in 0.. {
            let (engine, faults) = engine_on_faulty_disk(&path).await;
            faults.fail_after(reads_before_failure, u64::MAX);
            let value = get(&engine).await;
            faults.heal();
            if let Err(failure) = value {
                assert!(matches!(failure, StoreError::Unavailable { .. }), "{failure:?}");
                failures += 1;
                // Nobody has to ask a second time for that.
                eventually(async || (faults.openings() == 2).then_some(())).await;
            }
            let value = eventually(async || get(&engine).await.ok()).await;
            assert_eq!(value.as_deref(), Some(b"before".as_slice()));
            engine.close().await;
            if faults.openings() == 1 {
                break;
            }
        }
        assert!(failures >= 2, "it failed at {failures} points");
    }

    #[tokio::test]
    async fn a_commit_that_fails_at_any_point_is_told_to_all_and_is_whole_or_absent() {
        let directory = tempfile::tempdir().unwrap();
        let mut failures = 0;
        for changes_before_failure in 0.. {
            let path = directory.path().join(format!("store-{changes_before_failure}"));
            let (engine, faults) = engine_on_faulty_disk(&path).await;
            put(&engine, b"before").await.unwrap();

            faults.fail_after(u64::MAX, changes_before_failure);
            let written = engine.write(|tx| -> Result<(), StoreError> {
                tx.put(TABLE, b"key", b"after")?;
                tx.put(TABLE, b"other", b"after")
            });
            // It sees the other's effects if both are of one group, so it must not be answered as if they were kept.
            let refused = engine.write(|tx| match tx.get(TABLE, b"other")? {
                Some(_) => Err(StoreError::Busy),
                None => Ok(()),
            });
            let (written, refused) = tokio::join!(written, refused);
            faults.heal();
            engine.close().await;

            let (engine, _) = engine_on_faulty_disk(&path).await;
            let (key, other) = (get(&engine).await.unwrap(), engine.read(|tx| tx.get(TABLE, b"other")).await.unwrap());
            engine.close().await;
            let (key, other) = (key.as_deref(), other.as_deref());
            let is_whole = (key, other) == (Some(b"after"), Some(b"after"));
            assert!(is_whole || (key, other) == (Some(b"before"), None), "{key:?} {other:?}");
            if written.is_ok() {
                assert!(is_whole && matches!(refused, Err(StoreError::Busy)), "{refused:?}");
                break;
            }
            failures += 1;
            assert!(matches!(written, Err(StoreError::Unavailable { .. })), "{written:?}");
            assert!(matches!(refused, Err(StoreError::Unavailable { .. })), "{refused:?}");
        }
        assert!(failures >= 4, "it failed at {failures} points");
    }

    #[tokio::test]
    async fn what_waits_together_is_committed_together() {
        let directory = tempfile::tempdir().unwrap();
        let (engine, faults) = engine_on_faulty_disk(&directory.path().join("store")).await;
        let before = faults.syncs.load(Ordering::SeqCst);
        let mut writes = tokio::task::JoinSet::new();
        for number in 0_u64..640 {
            let engine = Arc::clone(&engine);
            writes.spawn(async move { engine.write(move |tx| tx.put(TABLE, &number.to_be_bytes(), b"")).await });
        }
        while let Some(done) = writes.join_next().await {
            done.unwrap().unwrap();
        }
        let syncs = faults.syncs.load(Ordering::SeqCst) - before;
        assert!(syncs <= 640 / 4, "640 transactions took {syncs} syncs");
        engine.close().await;
    }

    #[test]
    fn a_late_report_about_an_earlier_opening_does_nothing() {
        let mut writer = Writer {
            open: Box::new(|| builder().create_with_backend(InMemoryBackend::new()).map_err(fault)),
            database: Arc::new(Slot(RwLock::new(State::Closed))),
            waiting: mpsc::sync_channel(1).1,
            group: GROUP,
            meter: Arc::default(),
            env: StandingClock::at(0).env(),
            opening: 0,
            opened_at: Instant::now(),
            reopen_at: None,
        };
        writer.reopen().unwrap();
        writer.reopen().unwrap();
        writer.note_failure(1);
        assert_eq!(writer.reopen_at, None);
        writer.note_failure(2);
        assert_eq!(writer.reopen_at, Some(writer.opened_at + REOPEN_INTERVAL));
    }

    #[tokio::test]
    async fn memory_is_never_opened_twice() {
        let engine = Engine::open(None, StandingClock::at(0).env(), GROUP, Purpose::Use).await.unwrap();
        put(&engine, b"kept").await.unwrap();
        engine.send(Message::Failed { opening: 1 }).unwrap();
        eventually(async || put(&engine, b"gone").await.err()).await;
        assert!(get(&engine).await.is_err());
        engine.close().await;
    }
}
