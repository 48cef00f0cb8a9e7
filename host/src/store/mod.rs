//! What the gateway remembers: virtual keys, approvals, pinned definitions, and the trails.
//!
//! [`Store::read`] and [`Store::write`] are the two entry points; each takes a closure over a transaction. On top,
//! [`table`] keeps typed records with their indexes, and one file per aggregate holds its transitions as verbs that
//! return outcomes. A [`StoreError`] means infrastructure only: a refusal is never an error, and a fault is never a
//! denial or a miss. The audit row of a change commits in the transaction of the change.
//!
//! Invariants: nothing here scans a whole table on a request, every list is a [`Page`], and the only modules that know
//! how bytes are kept are [`redb`], for one gateway, and [`postgres`], for several. What is written above them is the
//! same for both.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::watch;

use crate::env::Env;
use crate::ids::{DeploymentId, ReplicaId};
use crate::telemetry::Reading;

pub mod engine;
mod kept;
mod migrations;
pub mod postgres;
mod redb;
pub mod table;
pub mod verify;

pub mod changes;
pub mod follower;
pub mod leases;
pub mod sweeper;
pub mod trail;

pub mod dump;
pub mod export;
pub mod stats;

pub mod approvals;
pub mod audit;
pub mod audit_feed;
pub mod data_keys;
pub mod decisions;
pub mod keys;
pub mod pins;
pub mod recordings;
pub mod replicas;
pub mod sealed;
pub mod vault_secrets;

pub mod authorizations;
pub mod clients;
pub mod consents;
pub mod devices;
pub mod file_keys;
pub mod grants;
pub mod guests;
pub mod marks;
pub mod revocations;
pub mod signing_keys;

mod counted;
mod record;

pub mod api_tokens;
pub mod browser_sessions;
pub mod connections;
pub mod counters;
pub mod flows;
pub mod links;
pub mod policy_bindings;
pub mod policy_modules;
pub mod upstream_clients;
pub mod upstreams;
pub mod users;

#[cfg(test)]
mod fixtures;
#[cfg(test)]
pub(crate) mod oauth_testing;
#[cfg(test)]
mod tests;

pub use engine::{ReadTx, WriteTx};
pub use migrations::SCHEMA;
pub use table::{Cursor, Page};
pub use verify::{Discrepancy, Verification};

/// Every table of records, for what is done to all alike.
const KEPT: &[&dyn table::Kept] = &[
    &keys::KEYS,
    &audit::AUDIT,
    &decisions::DECISIONS,
    &decisions::BATCHES,
    &approvals::Kept,
    &pins::PINS,
    &pins::UPSTREAMS,
    &recordings::Kept,
    &changes::CHANGES,
    &leases::LEASES,
    &authorizations::CODES,
    &authorizations::PUSHED,
    &authorizations::REQUESTS,
    &clients::CLIENTS,
    &consents::CONSENTS,
    &devices::DEVICES,
    &devices::MISSES,
    &grants::GRANTS,
    &grants::SEALED,
    &grants::TOKENS,
    &marks::MARKS,
    &revocations::DENIED,
    &revocations::WATERMARKS,
    &signing_keys::SIGNING_KEYS,
    &users::USERS,
    &users::IDENTITIES,
    &browser_sessions::SESSIONS,
    &api_tokens::TOKENS,
    &connections::CONNECTIONS,
    &connections::REVOCATIONS,
    &flows::FLOWS,
    &links::LINKS,
    &upstream_clients::CLIENTS,
    &upstreams::UPSTREAMS,
    &counters::COUNTERS,
    &data_keys::DATA_KEYS,
    &vault_secrets::SECRETS,
    &replicas::REPLICAS,
    &guests::Kept,
    &policy_modules::Kept,
    &policy_bindings::BINDINGS,
];

/// Every table with sealed fields, for what the vault does to all alike.
pub const SEALED: &[&dyn sealed::Sealing] = &[
    &vault_secrets::SEALED,
    &signing_keys::SEALED,
    &connections::SEALED,
    &connections::SEALED_REVOCATIONS,
    &flows::SEALED,
    &upstream_clients::SEALED,
    &upstreams::SEALED,
];

/// Where a store is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// In this file, which is created if it is not there. Its directory must exist.
    File(PathBuf),
    /// Nowhere: forgotten on close.
    Memory,
    /// In a PostgreSQL database, which other gateways may use as well.
    Postgres(postgres::Database),
}

/// Why the store did not do what was asked. Never a business refusal.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    #[error("the store {} is in use by another process", path.display())]
    InUse { path: PathBuf },
    #[error("the store {} cannot be opened", path.display())]
    Open {
        path: PathBuf,
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    #[error("the store in {place} cannot be opened")]
    OpenDatabase {
        /// Without user and password.
        place: String,
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    #[error("the store was written by a newer version: it has schema {found}, this version knows up to {known}")]
    NewerSchema { found: u32, known: u32 },
    /// Worth trying again soon.
    #[error("too many writes are waiting for the store")]
    Busy,
    /// A write that ends like this may have happened or not.
    #[error("the store cannot be reached")]
    Unavailable {
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    #[error("the store is closed")]
    Closed,
    /// A mistake in this program. Nothing was written.
    #[error("a transaction exceeded the limit of {limit}")]
    OverLimit { limit: &'static str },
    /// A mistake in this program. Nothing was written.
    #[error("a transaction panicked")]
    Panicked,
    /// A record that this version cannot read: damaged, or written by a newer one.
    #[error("a record of table {table} is not readable: {problem}")]
    Unreadable { table: &'static str, problem: String },
    /// Told to whoever reads a file without changing it.
    #[error("the store {} was not closed in order: the next start repairs it", path.display())]
    NotClosed { path: PathBuf },
    #[error("an import into this store broke off: begin it anew")]
    Incomplete,
    /// Told to whoever looks into a store and would have to know its indexes.
    #[error(
        "the store has the schema {found} of an earlier version: start the gateway once, which brings it to {known}"
    )]
    OlderSchema { found: u32, known: u32 },
    /// Told to whoever looks into a store or copies it: those make none.
    #[error("there is no store here")]
    Absent,
    /// A store that a newer version may have written to, and that has to be copied whole or not at all.
    #[error("the store has a table {name} that this version does not know: a newer one wrote it")]
    UnknownTable { name: String },
}

/// What a store is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// To work with it: made where there is none, and brought to the present schema.
    Use,
    /// To be filled from elsewhere: made where there is none, and otherwise as it is.
    Fill,
    /// To be looked at or copied: it has to be there, and nothing in it changes.
    Look,
}

/// The store. Clones share one engine.
#[derive(Clone)]
pub struct Store {
    engine: Engine,
    about: Arc<About>,
}

/// What all clones know alike.
struct About {
    replica: ReplicaId,
    /// Told once the store is prepared, before anybody has it.
    identity: OnceLock<Identity>,
    /// Whether other processes may write to the same store.
    is_shared: bool,
    /// Counts the writes of this process that announced something and have been committed.
    announced: watch::Sender<u64>,
    /// How many of them were taken in by whoever keeps copies ([`follower`]); [`UNFOLLOWED`] where nobody does.
    followed: watch::Sender<u64>,
    /// Whether they were not again and again.
    is_failing: AtomicBool,
    #[cfg(test)]
    reads: std::sync::atomic::AtomicU64,
}

/// Nobody follows, so that nobody is behind.
const UNFOLLOWED: u64 = u64::MAX;

/// Whose store it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    deployment: DeploymentId,
    epoch: u64,
}

#[derive(Clone)]
enum Engine {
    Redb(Arc<redb::Engine>),
    Postgres(Arc<postgres::Engine>),
}

/// What a look at a store that no gateway has open tells.
#[derive(Clone, Debug)]
pub struct Peeked {
    pub deployment: DeploymentId,
    pub vault: data_keys::State,
}

impl Store {
    /// Opens a store, creating it if there is none, brings one of an earlier version to the present schema, and refuses
    /// one that a newer version wrote.
    pub async fn open(location: Location, env: Env) -> Result<Self, StoreError> {
        Self::start(location, env, redb::GROUP, Purpose::Use).await
    }

    /// Opens a store that is there, whatever its schema, to look into it or to copy it. Nothing in it is changed, and
    /// nothing is made.
    pub async fn open_existing(location: Location, env: Env) -> Result<Self, StoreError> {
        Self::start(location, env, redb::GROUP, Purpose::Look).await
    }

    /// Whose store it is, of one that this version can open, and by which keys its data keys are wrapped. A file is read and
    /// not written: one that was not closed in order answers [`StoreError::NotClosed`].
    pub async fn peek(location: Location, env: Env) -> Result<Peeked, StoreError> {
        let Location::File(path) = location else {
            let store = Self::open_existing(location, env).await?;
            let deployment = store.deployment();
            let vault = data_keys::state(&store).await;
            store.close().await;
            return Ok(Peeked { deployment, vault: vault? });
        };
        let unsaid = Identity { deployment: DeploymentId::generate(&env), epoch: 1 };
        let look = move |tx: &mut ReadTx<'_>| {
            if dump::import::is_incomplete(tx)? {
                return Err(StoreError::Incomplete);
            }
            let deployment = migrations::look(tx, unsaid)?.deployment;
            Ok(Peeked { deployment, vault: data_keys::state_in(tx)? })
        };
        redb::peek(path, env, look).await
    }

    /// Opens a place for an import, which decides what it may do with what is there.
    async fn open_to_fill(location: Location, env: Env) -> Result<Self, StoreError> {
        Self::start(location, env, redb::GROUP, Purpose::Fill).await
    }

    /// The same; an embedded engine commits at most `group` transactions at once: to measure what committing more is worth.
    #[doc(hidden)]
    pub async fn open_with_groups_of(group: usize, location: Location, env: Env) -> Result<Self, StoreError> {
        Self::start(location, env, group.max(1), Purpose::Use).await
    }

    /// The same in an empty file that is open and locked, wherever that is.
    async fn fill_file(file: File, env: Env) -> Result<Self, StoreError> {
        let engine = Engine::Redb(Arc::new(redb::Engine::fill(file, env.clone()).await?));
        Self::prepared(engine, false, &env, Purpose::Fill).await
    }

    async fn start(location: Location, env: Env, group: usize, purpose: Purpose) -> Result<Self, StoreError> {
        let is_shared = matches!(location, Location::Postgres(_));
        let redb = |path| redb::Engine::open(path, env.clone(), group, purpose);
        let engine = match location {
            Location::File(path) => Engine::Redb(Arc::new(redb(Some(path)).await?)),
            Location::Memory => Engine::Redb(Arc::new(redb(None).await?)),
            Location::Postgres(database) => {
                Engine::Postgres(Arc::new(postgres::Engine::open(&database, env.clone(), purpose).await?))
            }
        };
        Self::prepared(engine, is_shared, &env, purpose).await
    }

    async fn prepared(engine: Engine, is_shared: bool, env: &Env, purpose: Purpose) -> Result<Self, StoreError> {
        let about = About {
            replica: ReplicaId::generate(env),
            identity: OnceLock::new(),
            is_shared,
            announced: watch::Sender::new(0),
            followed: watch::Sender::new(UNFOLLOWED),
            is_failing: AtomicBool::new(false),
            #[cfg(test)]
            reads: std::sync::atomic::AtomicU64::new(0),
        };
        let store = Self { about: Arc::new(about), engine };
        match store.prepare(purpose, env).await {
            Ok(identity) => {
                store.about.identity.get_or_init(|| identity);
                Ok(store)
            }
            Err(failure) => {
                store.close().await;
                Err(failure)
            }
        }
    }

    /// Runs `closure` over one consistent state.
    pub async fn read<T, E, F>(&self, closure: F) -> Result<T, E>
    where
        F: Fn(&mut ReadTx<'_>) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        #[cfg(test)]
        self.about.reads.fetch_add(1, Ordering::Relaxed);
        match &self.engine {
            Engine::Redb(engine) => engine.read(closure).await,
            Engine::Postgres(engine) => engine.read(closure).await,
        }
    }

    /// Runs `closure` as one transaction. Its effects are kept, durably, if and only if this returns `Ok`; after
    /// [`StoreError::Unavailable`] nobody knows. The transaction goes on if the returned future is dropped.
    pub async fn write<T, E, F>(&self, closure: F) -> Result<T, E>
    where
        F: Fn(&mut WriteTx<'_>) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let wake = Arc::new(Wake { announced: self.about.announced.clone(), is_due: AtomicBool::new(false) });
        let in_closure = wake.clone();
        let closure = move |tx: &mut WriteTx<'_>| {
            let returned = closure(tx);
            in_closure.is_due.store(returned.is_ok() && tx.has_announced(), Ordering::Relaxed);
            returned
        };
        let written = match &self.engine {
            Engine::Redb(engine) => engine.write(closure).await,
            Engine::Postgres(engine) => engine.write(closure).await,
        };
        // Whoever made the change knows that it is told of, whenever the engine lets go of the closure.
        wake.tell();
        written
    }

    /// Waits until whoever keeps copies has taken in what this process has announced so far: what was revoked here is
    /// felt by every request that comes after the answer to that. Asks nothing of the store.
    ///
    /// # Errors
    /// [`StoreError::Busy`] if that takes longer than `patience`, and at once where nothing is taken in for longer already.
    pub async fn caught_up(&self, patience: Duration) -> Result<(), StoreError> {
        let announced = *self.about.announced.borrow();
        if *self.about.followed.borrow() >= announced {
            return Ok(());
        }
        if self.about.is_failing.load(Ordering::Relaxed) {
            return Err(StoreError::Busy);
        }
        let mut followed = self.about.followed.subscribe();
        match tokio::time::timeout(patience, followed.wait_for(|followed| *followed >= announced)).await {
            Ok(_) => Ok(()),
            Err(_) => Err(StoreError::Busy),
        }
    }

    /// Whether copies do not know what this process has announced, and will not soon.
    pub fn is_behind(&self) -> bool {
        self.about.is_failing.load(Ordering::Relaxed) && *self.about.followed.borrow() < *self.about.announced.borrow()
    }

    /// Notes that copies have taken in as many of this process's announcements.
    fn followed_to(&self, announced: u64) {
        self.about.followed.send_replace(announced);
    }

    /// Notes whether copies take in nothing, however often it is tried.
    fn follows_in_vain(&self, is_failing: bool) {
        self.about.is_failing.store(is_failing, Ordering::Relaxed);
    }

    /// How many questions it was asked.
    #[cfg(test)]
    pub(crate) fn reads(&self) -> u64 {
        self.about.reads.load(Ordering::Relaxed)
    }

    /// Whether other processes may write to the same store.
    pub fn is_shared(&self) -> bool {
        self.about.is_shared
    }

    /// Which of the gateways that share the store this one is, for as long as it runs.
    pub fn replica(&self) -> &ReplicaId {
        &self.about.replica
    }

    /// Whose store it is, over all of its life; a restored backup is the same deployment.
    pub fn deployment(&self) -> DeploymentId {
        self.identity().deployment
    }

    /// How often the store was put back to an earlier state, as it was on opening: [`epoch`] tells it inside a transaction.
    pub fn epoch(&self) -> u64 {
        self.identity().epoch
    }

    fn identity(&self) -> Identity {
        *self.about.identity.get().expect("a store is prepared before anybody has it")
    }

    /// Changes whenever a write of this process that announced something has been committed.
    fn announced(&self) -> watch::Receiver<u64> {
        self.about.announced.subscribe()
    }

    /// Whether the place where it is kept could be reached when that was last tried, a second ago at most. A file is
    /// always there; what is wrong with it is told by what is asked of it.
    pub fn is_reachable(&self) -> bool {
        match &self.engine {
            Engine::Redb(_) => true,
            Engine::Postgres(engine) => engine.is_reachable(),
        }
    }

    /// Finishes the writes that are queued and lets go of the file or the database. Later calls answer [`StoreError::Closed`].
    pub async fn close(&self) {
        match &self.engine {
            Engine::Redb(engine) => engine.close().await,
            Engine::Postgres(engine) => engine.close().await,
        }
    }

    async fn prepare(&self, purpose: Purpose, env: &Env) -> Result<Identity, StoreError> {
        let unsaid = Identity { deployment: DeploymentId::generate(env), epoch: 1 };
        if purpose == Purpose::Fill {
            return Ok(unsaid);
        }
        if self.read(dump::import::is_incomplete).await? {
            return Err(StoreError::Incomplete);
        }
        match purpose {
            Purpose::Look => self.read(move |tx| migrations::look(tx, unsaid)).await,
            Purpose::Use | Purpose::Fill => migrations::prepare(self, env).await,
        }
    }

    /// Streams the whole content, of one consistent state, for at most [`export::MAX_TIME`].
    pub async fn export(&self) -> Result<export::Export, StoreError> {
        self.export_within(Some(export::MAX_TIME)).await
    }

    /// The same for at most `limit`. Without one, nobody else may work with the store meanwhile.
    async fn export_within(&self, limit: Option<Duration>) -> Result<export::Export, StoreError> {
        match &self.engine {
            Engine::Redb(engine) => engine.export(limit).await,
            Engine::Postgres(engine) => engine.export(limit).await,
        }
    }

    /// A table that holds something and that this version does not know.
    async fn unknown_table(&self) -> Result<Option<String>, StoreError> {
        match &self.engine {
            Engine::Redb(engine) => engine.unknown_table().await,
            Engine::Postgres(engine) => engine.unknown_table().await,
        }
    }

    /// How its writer fares, and how long commits took. Looks at counters alone.
    pub fn writer(&self) -> (stats::WriterStats, Reading) {
        let meter = match &self.engine {
            Engine::Redb(engine) => engine.meter(),
            Engine::Postgres(engine) => engine.meter(),
        };
        (meter.read(), meter.commits_took())
    }

    /// What the store holds and how its writer fares. Looks at every row: for operators, not for requests.
    pub async fn stats(&self) -> Result<stats::Stats, StoreError> {
        self.stats_with(()).await
    }

    /// The same. `held` is dropped when the work is done, which may be after whoever asked has gone away.
    pub async fn stats_with(&self, held: impl Send + 'static) -> Result<stats::Stats, StoreError> {
        match &self.engine {
            Engine::Redb(engine) => engine.stats(held).await,
            Engine::Postgres(engine) => engine.stats(held).await,
        }
    }

    /// Looks through the whole store, beside traffic if need be: whether every record can be read and every index and
    /// expiry agrees with the records.
    pub async fn examine(&self) -> Result<Verification, StoreError> {
        verify::run(self).await
    }

    /// What [`Self::examine`] finds wrong; an empty list is what should be.
    pub async fn verify(&self) -> Result<Vec<Discrepancy>, StoreError> {
        Ok(self.examine().await?.discrepancies)
    }
}

/// How often the store was put back to an earlier state: what was handed out in an earlier epoch may have been used up
/// since, for all that the store knows.
pub fn epoch(tx: &mut ReadTx<'_>) -> Result<u64, StoreError> {
    migrations::epoch(tx)
}

/// Begins a new epoch, which is `least` or later. Whoever puts a store back to an earlier state does this in its first
/// transaction.
pub fn begin_epoch(tx: &mut WriteTx<'_>, least: u64) -> Result<u64, StoreError> {
    migrations::begin_epoch(tx, least)
}

/// Goes down with the closure of a write, once it was answered: then it is committed, if it ever will be. That somebody
/// is woken for nothing does no harm.
struct Wake {
    announced: watch::Sender<u64>,
    is_due: AtomicBool,
}

impl Wake {
    /// Once, however often it is called.
    fn tell(&self) {
        if self.is_due.swap(false, Ordering::Relaxed) {
            self.announced.send_modify(|announced| *announced += 1);
        }
    }
}

impl Drop for Wake {
    fn drop(&mut self) {
        self.tell();
    }
}

#[cfg(test)]
impl Store {
    /// The same engine as another process on a shared store has it.
    pub(crate) fn as_replica(&self, number: u64) -> Self {
        let replica = ReplicaId::parse(&format!("{number:024x}")).expect("24 digits");
        let about = About {
            replica,
            identity: OnceLock::from(self.identity()),
            is_shared: true,
            announced: watch::Sender::new(0),
            followed: watch::Sender::new(UNFOLLOWED),
            is_failing: AtomicBool::new(false),
            #[cfg(test)]
            reads: std::sync::atomic::AtomicU64::new(0),
        };
        Self { engine: self.engine.clone(), about: Arc::new(about) }
    }
}

/// Gives the space of a file that is free back to the filesystem, while nobody has the store open. Tells its size before
/// and after, in bytes.
pub async fn compact(path: &Path) -> Result<(u64, u64), StoreError> {
    redb::compact(path).await
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Store")
    }
}
