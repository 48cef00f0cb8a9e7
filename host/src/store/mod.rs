//! What the gateway remembers: virtual keys, approvals, pinned definitions, and the trails.
//!
//! [`Store::read`] and [`Store::write`] are the two entry points; each takes a closure over a transaction. On top,
//! [`table`] keeps typed records with their indexes, and one file per aggregate holds its transitions as verbs that
//! return outcomes. A [`StoreError`] means infrastructure only: a refusal is never an error, and a fault is never a
//! denial or a miss. The audit row of a change commits in the transaction of the change.
//!
//! Invariants: nothing here scans a whole table on a request, every list is a [`Page`], and the only module that
//! knows redb is [`redb`]. A second engine is another variant of [`Engine`]; what is written above it stays.

use std::path::PathBuf;
use std::sync::Arc;

use crate::env::Env;

pub mod engine;
mod redb;
pub mod table;

pub mod changes;
pub mod trail;

pub mod approvals;
pub mod audit;
pub mod decisions;
pub mod keys;
pub mod pins;
pub mod recordings;
pub mod replicas;

#[cfg(test)]
mod tests;

pub use engine::{ReadTx, WriteTx};
pub use table::{Cursor, Discrepancy, Page};

/// The schema that this version writes, and the newest that it opens.
pub const SCHEMA: u32 = 1;

const STORED_SCHEMA: table::Single<u32> = table::Single::new("schema");

/// Every table of records, for what is done to all alike.
const KEPT: &[&dyn table::Kept] = &[&changes::CHANGES, &replicas::REPLICAS];

/// Where a store is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// In this file, which is created if it is not there. Its directory must exist.
    File(PathBuf),
    /// Nowhere: forgotten on close.
    Memory,
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
}

/// The store. Clones share one engine.
#[derive(Clone)]
pub struct Store {
    engine: Engine,
}

#[derive(Clone)]
enum Engine {
    Redb(Arc<redb::Engine>),
}

impl Store {
    /// Opens a store, creating it if there is none, and refuses one that a newer version wrote.
    pub async fn open(location: Location, env: Env) -> Result<Self, StoreError> {
        let store = Self { engine: Engine::Redb(Arc::new(redb::Engine::open(location, env).await?)) };
        match store.check_schema().await {
            Ok(()) => Ok(store),
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
        match &self.engine {
            Engine::Redb(engine) => engine.read(closure).await,
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
        match &self.engine {
            Engine::Redb(engine) => engine.write(closure).await,
        }
    }

    /// Whether other processes may write to the same store.
    pub const fn is_shared(&self) -> bool {
        match &self.engine {
            Engine::Redb(_) => false,
        }
    }

    /// Finishes the writes that are queued and lets go of the file. Later calls answer [`StoreError::Closed`].
    pub async fn close(&self) {
        match &self.engine {
            Engine::Redb(engine) => engine.close().await,
        }
    }

    /// Compares every index with its table; an empty list is what should be.
    pub async fn verify(&self) -> Result<Vec<Discrepancy>, StoreError> {
        let mut found = self.read(keys::verify).await?;
        found.extend(self.read(approvals::verify).await?);
        Ok(found)
    }

    async fn check_schema(&self) -> Result<(), StoreError> {
        self.write(|tx| match STORED_SCHEMA.get(tx)? {
            None => STORED_SCHEMA.put(tx, &SCHEMA),
            Some(found) if found > SCHEMA => Err(StoreError::NewerSchema { found, known: SCHEMA }),
            Some(_) => Ok(()),
        })
        .await
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Store")
    }
}
