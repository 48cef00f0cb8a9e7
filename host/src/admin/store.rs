//! The store as a whole: a backup while the gateway runs, what it holds, whether its indexes are right.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Control;
use crate::audit::{Actor, AuditEvent};
use crate::store::dump::Dump;
use crate::store::stats::Stats;
use crate::store::{StoreError, Verification, audit};

/// At most one reader of the whole store at a time: each pins pages, and reads from the disk what requests have in the
/// cache.
#[derive(Debug)]
pub struct Walks(Arc<Semaphore>);

impl Default for Walks {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}

/// Why the whole store was not read.
#[derive(Debug, thiserror::Error)]
pub enum WalkError {
    #[error("somebody is reading the whole store already: try again when that has ended")]
    Busy,
    #[error("the store cannot be read")]
    Store(#[from] StoreError),
}

/// A backup that is being taken. Another one begins when this is dropped.
#[derive(Debug)]
pub struct Backup {
    pub dump: Dump,
    _alone: OwnedSemaphorePermit,
}

impl Control {
    /// Begins a backup of the present state. That somebody takes one is written down first, and is part of it.
    pub async fn back_up(&self, actor: Actor) -> Result<Backup, WalkError> {
        let alone = self.walk()?;
        audit::record(&self.store, actor, AuditEvent::BackupTaken).await?;
        let dump = Dump::of(&self.store, self.env.now()).await?;
        Ok(Backup { dump, _alone: alone })
    }

    /// What the store holds, and how its writer fares.
    pub async fn store_stats(&self) -> Result<Stats, WalkError> {
        // The count may go on after whoever asked has gone away.
        Ok(self.store.stats_with(self.walk()?).await?)
    }

    /// Where indexes and tables disagree.
    pub async fn verify_store(&self) -> Result<Verification, WalkError> {
        let _alone = self.walk()?;
        Ok(self.store.examine().await?)
    }

    fn walk(&self) -> Result<OwnedSemaphorePermit, WalkError> {
        Arc::clone(&self.walks.0).try_acquire_owned().map_err(|_| WalkError::Busy)
    }
}
