//! The shared engine: a PostgreSQL database that several gateways write to, one after the other.
//!
//! - Everything is in one table of bytes, `kv`, in a schema of its own. One schema is one deployment.
//! - Writes go through a bounded queue to one task ([`writer`]), which commits what is queued together, under an advisory
//!   lock of the deployment. So all transactions are serial, over all replicas, and none is tried again for a conflict.
//! - A read is one snapshot (`REPEATABLE READ`), on a connection of a pool.
//! - Closures never wait: they run over what was fetched, and again once what they missed was fetched ([`fetched`]). A read
//!   that depends on another costs a round trip; reads that do not are fetched together.
//! - The time of a transaction is the database's.
//! - Every wait is bounded. Without the server, calls answer [`StoreError::Unavailable`] soon, [`Engine::is_reachable`]
//!   is false, and the connection is made again without anybody's help.
//!
//! The transaction rules are not here but in `engine`. Facts about PostgreSQL: its manual, "Concurrency Control",
//! "Explicit Locking" and "Transaction ID and Snapshot Information Functions".

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use deadpool_postgres::{ManagerConfig, Object, Pool, PoolError, RecyclingMethod, Runtime, TimeoutType};
use futures_util::future::join;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio_postgres::{Client, Statement};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::engine::{self, MAX_READS, ReadTx, Transition, WriteTx};
use super::stats::Meter;
use super::{Purpose, StoreError};
use crate::env::{Env, Timestamp};

mod fetched;
mod link;
mod statements;
mod tls;
mod walk;
mod writer;

#[cfg(test)]
pub(super) mod tests;

use fetched::Fetched;
use link::{Connector, Fault, Missing, answered};
pub use link::{Database, Host};
pub use tls::{Authorities, Tls};
use writer::{Connection, Writer};

/// Writes that may wait; more are refused with [`StoreError::Busy`].
const QUEUE: usize = 4096;
/// Connections that read. More reads wait their turn.
const READERS: usize = 8;
/// How long a read waits for its turn, for a connection, and for a connection to be found usable.
const READER_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a read begins, if its connection breaks.
const READ_ATTEMPTS: usize = 2;
/// How long a close waits for connections to end.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);

/// A running engine. Dropping it ends the writer once the queue is worked off; [`Self::close`] also waits for that.
pub(super) struct Engine {
    /// `None` once closed. Held for the length of a `try_send`.
    queue: Mutex<Option<mpsc::Sender<Box<dyn Transition>>>>,
    readers: Pool,
    fetch: String,
    schema: String,
    meter: Arc<Meter>,
    reachable: Arc<AtomicBool>,
    env: Env,
    /// The writer, the connections, and what ends reads.
    tasks: TaskTracker,
    finished: CancellationToken,
}

impl Engine {
    /// Connects to the database, making the table if it is not there and the store is not only looked at.
    pub(super) async fn open(database: &Database, env: Env, purpose: Purpose) -> Result<Self, StoreError> {
        let cannot = |source| StoreError::OpenDatabase { place: database.to_string(), source };
        let tasks = TaskTracker::new();
        let connector = Connector::new(database, tasks.clone()).map_err(|fault| cannot(Arc::new(fault)))?;
        let missing = if purpose == Purpose::Look { Missing::IsNoStore } else { Missing::Make };
        let link = connector.link(missing).await.map_err(|fault| match fault.into_error() {
            StoreError::Unavailable { source } => cannot(source),
            error => error,
        })?;
        let fetch = connector.fetch();
        let manager = deadpool_postgres::Manager::from_connect(
            tokio_postgres::Config::new(),
            connector.clone(),
            ManagerConfig { recycling_method: RecyclingMethod::Fast },
        );
        let readers = Pool::builder(manager)
            .max_size(READERS)
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(READER_TIMEOUT))
            .create_timeout(Some(READER_TIMEOUT))
            .recycle_timeout(Some(READER_TIMEOUT))
            .build()
            .map_err(|error| cannot(Arc::new(error)))?;

        let (queue, waiting) = mpsc::channel(QUEUE);
        let reachable = Arc::new(AtomicBool::new(true));
        let connection = Connection::new(connector, link, Arc::clone(&reachable));
        let meter = Arc::new(Meter::default());
        let writer = Writer::new(waiting, connection, env.clone(), Arc::clone(&meter));
        let finished = CancellationToken::new();
        let ended = finished.clone().drop_guard();
        tasks.spawn(async move {
            let _ended = ended;
            writer.run().await;
        });
        Ok(Self {
            queue: Mutex::new(Some(queue)),
            readers,
            fetch,
            schema: database.schema.clone(),
            meter,
            reachable,
            env,
            tasks,
            finished,
        })
    }

    pub(super) fn meter(&self) -> &Meter {
        &self.meter
    }

    pub(super) async fn read<T, E, F>(&self, closure: F) -> Result<T, E>
    where
        F: Fn(&mut ReadTx<'_>) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let mut attempts = 0;
        loop {
            attempts += 1;
            // A first run shows what to fetch, whatever it says. Its time is not the server's.
            let mut fetched = Fetched::default();
            drop(engine::read(&fetched, self.env.now(), &closure));
            fetched.take_missed();
            let fault = match self.begin(&mut fetched).await {
                Ok(mut reading) => loop {
                    let read = engine::read(&fetched, reading.now, &closure);
                    if !fetched.take_missed() {
                        reading.finish(&self.tasks);
                        return read;
                    }
                    drop(read);
                    if let Err(fault) = reading.fetch(&mut fetched).await {
                        break fault;
                    }
                },
                Err(fault) => fault,
            };
            match fault {
                Fault::Lost(_) if attempts < READ_ATTEMPTS => {}
                fault => return Err(fault.into_error().into()),
            }
        }
    }

    pub(super) async fn write<T, E, F>(&self, closure: F) -> Result<T, E>
    where
        F: Fn(&mut WriteTx<'_>) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        engine::write(closure, &self.meter, |transition| self.send(transition)).await
    }

    /// Whether the server answered when it was last asked, which the writer does every second.
    pub(super) fn is_reachable(&self) -> bool {
        self.reachable.load(Ordering::Relaxed)
    }

    /// Takes no more writes, finishes those that are queued, and lets go of all connections.
    pub(super) async fn close(&self) {
        drop(lock(&self.queue).take());
        self.finished.cancelled().await;
        self.readers.close();
        self.tasks.close();
        if tokio::time::timeout(CLOSE_PATIENCE, self.tasks.wait()).await.is_err() {
            tracing::warn!("connections to the store did not end in time");
        }
    }

    fn send(&self, transition: Box<dyn Transition>) -> Result<(), StoreError> {
        match lock(&self.queue).as_ref().ok_or(StoreError::Closed)?.try_send(transition) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(_)) => Err(StoreError::Busy),
            Err(TrySendError::Closed(_)) => Err(StoreError::Closed),
        }
    }

    /// Begins a read with what it is known to need.
    async fn begin(&self, fetched: &mut Fetched) -> Result<Reading, Fault> {
        let client = self.readers.get().await.map_err(no_reader)?;
        let statement = answered(client.prepare_cached(&self.fetch)).await?;
        let mut reading = Reading { client: Some(client), statement, now: Timestamp::default(), fetches: 0 };
        let request = fetched.take_wanted();
        let asking = async {
            let client = reading.client();
            let begin = client.simple_query(statements::BEGIN_READ);
            let (begun, rows) = join(begin, statements::run_fetch(client, &reading.statement, &request)).await;
            Ok::<_, tokio_postgres::Error>((begun?, rows?))
        };
        let (begun, rows) = answered(asking).await?;
        fetched.learn(request, rows);
        reading.now = Timestamp::from_millis(statements::milliseconds(&begun).map_err(Fault::Refused)?);
        Ok(reading)
    }
}

/// A transaction that reads. Dropped before its end, it takes its connection with it.
struct Reading {
    client: Option<Object>,
    statement: Statement,
    now: Timestamp,
    fetches: usize,
}

impl Reading {
    fn client(&self) -> &Client {
        self.client.as_ref().expect("it is there until the end")
    }

    /// Brings what was missed.
    async fn fetch(&mut self, fetched: &mut Fetched) -> Result<(), Fault> {
        self.fetches += 1;
        if self.fetches > MAX_READS {
            return Err(Fault::Refused(StoreError::OverLimit { limit: "dependent reads in one transaction" }));
        }
        let request = fetched.take_wanted();
        let rows = answered(statements::run_fetch(self.client(), &self.statement, &request)).await?;
        fetched.learn(request, rows);
        Ok(())
    }

    /// Gives the connection back, which nobody needs to wait for.
    fn finish(mut self, tasks: &TaskTracker) {
        tasks.spawn(async move {
            if answered(self.client().batch_execute("COMMIT")).await.is_ok() {
                drop(self.client.take());
            }
        });
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        if let Some(client) = self.client.take() {
            drop(Object::take(client));
        }
    }
}

fn no_reader(error: PoolError) -> Fault {
    Fault::Refused(match error {
        PoolError::Timeout(TimeoutType::Wait) => StoreError::Busy,
        PoolError::Closed => StoreError::Closed,
        error => StoreError::Unavailable { source: Arc::new(error) },
    })
}

fn unavailable(problem: impl Into<String>) -> StoreError {
    StoreError::Unavailable { source: Arc::new(io::Error::other(problem.into())) }
}

/// What is behind an error, for a log.
fn source(error: &StoreError) -> String {
    let mut told = Vec::new();
    let mut next = std::error::Error::source(error);
    while let Some(error) = next {
        told.push(error.to_string());
        next = error.source();
    }
    told.join(": ")
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
