//! Who is there: from the store that all share, or by asking the peers that the configuration names.
//!
//! What is known is a copy, refreshed every few seconds and whenever somebody asks for a replica that it lacks. A replica
//! that was not found where it should be counts as gone for a moment, so that a dead one costs nobody a wait. One that is
//! not listed any more need not be dead: when the store was away for a while, nobody is listed. It is looked for once more
//! where it was last.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use futures_util::future::join_all;
use moka::sync::Cache;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::Replicas;
use crate::ids::ReplicaId;
use crate::store::replicas::{self, RENEW, Replica};
use crate::store::{Store, StoreError};

/// How long a replica that is not there, or could not be reached, is not looked for again.
const GONE: Duration = Duration::from_secs(2);
/// Replicas that count as gone at once.
const MAX_GONE: u64 = 10_000;
/// How long it is remembered where a replica was that is not listed any more.
const REMEMBERED: Duration = Duration::from_secs(10 * 60);
/// Replicas that are remembered.
const MAX_REMEMBERED: u64 = 1_024;
/// Before a renewal that failed is tried again.
const RETRY: Duration = Duration::from_millis(500);
/// Differences of configuration that are remembered as told.
const MAX_TOLD: usize = 1_024;

/// Where it is written who is there.
pub enum Directory {
    /// Nowhere: there is one replica.
    Alone,
    /// In the store that all share.
    Store(Store),
    /// The addresses of the others, who are asked.
    Peers(Vec<String>),
}

/// Where a replica is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Whereabouts {
    /// Nothing is known of any other replica.
    Alone,
    At(String),
    /// It is not listed any more. This is where it was.
    LastAt(String),
    Gone,
}

pub(super) struct Registry {
    directory: Directory,
    own: Replica,
    /// The present digest of our own configuration.
    configuration: ArcSwapOption<String>,
    others: ArcSwap<Vec<Replica>>,
    gone: Cache<ReplicaId, ()>,
    /// What was asked for in vain, and is not asked for again for a while.
    unlisted: Cache<ReplicaId, ()>,
    /// Where each was when it was listed last, unless it was found to be gone.
    last_at: Cache<ReplicaId, String>,
    /// Differences of configuration that were told.
    told: Mutex<HashSet<(ReplicaId, String)>>,
}

impl Registry {
    pub(super) fn new(own: Replica, directory: Directory) -> Self {
        Self {
            directory,
            own,
            configuration: ArcSwapOption::empty(),
            others: ArcSwap::default(),
            gone: Cache::builder().max_capacity(MAX_GONE).time_to_live(GONE).build(),
            unlisted: Cache::builder().max_capacity(MAX_GONE).time_to_live(GONE).build(),
            last_at: Cache::builder().max_capacity(MAX_REMEMBERED).time_to_live(REMEMBERED).build(),
            told: Mutex::default(),
        }
    }

    pub(super) fn id(&self) -> &ReplicaId {
        &self.own.id
    }

    pub(super) fn is_alone(&self) -> bool {
        matches!(self.directory, Directory::Alone)
    }

    /// This replica as others are told of it.
    pub(super) fn own(&self) -> Replica {
        let configuration = self.configuration.load();
        let configuration =
            configuration.as_ref().map_or_else(|| self.own.configuration.clone(), |now| (**now).clone());
        Replica { configuration, ..self.own.clone() }
    }

    /// Nobody looks for this replica for a while, and where it was only if it is listed again.
    pub(super) fn is_gone(&self, id: &ReplicaId) {
        self.last_at.invalidate(id);
        self.gone.insert(id.clone(), ());
    }

    fn known(&self, id: &ReplicaId) -> Option<Whereabouts> {
        let others = self.others.load();
        let replica = others.iter().find(|replica| replica.id == *id)?;
        // One that nobody can forward to is as good as gone, and so is one whose address a later one has.
        let address = replica.address.clone().filter(|address| {
            let mut there = others.iter().chain([&self.own]).filter(|other| other.address.as_ref() == Some(address));
            there.all(|other| other.started <= replica.started)
        });
        Some(address.map_or(Whereabouts::Gone, Whereabouts::At))
    }

    /// Where a replica was that is not listed any more, if nobody else is there now.
    fn last_known(&self, id: &ReplicaId) -> Option<Whereabouts> {
        let address = self.last_at.get(id)?;
        let others = self.others.load();
        let is_taken = others.iter().chain([&self.own]).any(|other| other.address.as_ref() == Some(&address));
        (!is_taken).then_some(Whereabouts::LastAt(address))
    }

    fn publish(&self, replicas: Vec<Replica>) {
        let others: Vec<Replica> = replicas.into_iter().filter(|replica| replica.id != self.own.id).collect();
        let own = self.own().configuration;
        for other in others.iter().filter(|other| other.configuration != own) {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            let is_news = told.len() < MAX_TOLD && told.insert((other.id.clone(), other.configuration.clone()));
            drop(told);
            if is_news {
                tracing::warn!(
                    replica = %other.id, address = other.address.as_deref().unwrap_or_default(), version = other.version,
                    "another replica has another configuration than this one"
                );
            }
        }
        // Those that are listed no more as well: they were there until now, for all that anybody knows.
        for other in self.others.load().iter().chain(&others) {
            if let Some(address) = &other.address {
                self.last_at.insert(other.id.clone(), address.clone());
            }
        }
        self.others.store(Arc::new(others));
    }
}

impl Replicas {
    /// Where a replica is.
    pub(super) async fn whereabouts(&self, id: &ReplicaId) -> Result<Whereabouts, StoreError> {
        if self.registry.gone.contains_key(id) {
            return Ok(Whereabouts::Gone);
        }
        if let Some(known) = self.registry.known(id) {
            return Ok(known);
        }
        if self.is_alone() {
            return Ok(Whereabouts::Alone);
        }
        if !self.registry.unlisted.contains_key(id) {
            match &self.registry.directory {
                Directory::Alone => {}
                Directory::Store(store) => self.registry.publish(replicas::live(store).await?),
                Directory::Peers(peers) => self.registry.publish(self.ask_around(peers).await),
            }
            if let Some(known) = self.registry.known(id) {
                return Ok(known);
            }
            self.registry.unlisted.insert(id.clone(), ());
        }
        Ok(self.registry.last_known(id).unwrap_or(Whereabouts::Gone))
    }

    /// Says that we are here, and learns who else is.
    pub async fn renew(&self) -> Result<(), StoreError> {
        match &self.registry.directory {
            Directory::Alone => {}
            Directory::Store(store) => {
                self.registry.publish(replicas::renew(store, self.registry.own()).await?);
            }
            Directory::Peers(peers) => {
                let others = self.ask_around(peers).await;
                self.registry.publish(others);
            }
        }
        Ok(())
    }

    async fn ask_around(&self, peers: &[String]) -> Vec<Replica> {
        let own = self.registry.own.address.as_ref();
        let others = peers.iter().filter(|address| Some(*address) != own);
        join_all(others.map(|address| self.who_is_at(address))).await.into_iter().flatten().collect()
    }

    /// Renews until it is told to stop, and leaves then. `configuration` tells the digest of the configuration in force.
    pub async fn keep_renewing(self: Arc<Self>, configuration: impl Fn() -> String, stopping: CancellationToken) {
        if self.is_alone() {
            return;
        }
        let renewing = async {
            let mut is_well = true;
            loop {
                self.registry.configuration.store(Some(Arc::new(configuration())));
                let renewed = self.renew().await;
                if let Err(error) = &renewed
                    && is_well
                {
                    tracing::warn!(%error, "this replica cannot tell the others that it is there");
                }
                is_well = renewed.is_ok();
                // The others should know soon when the store is back.
                tokio::time::sleep(if is_well { RENEW } else { RETRY }).await;
            }
        };
        stopping.run_until_cancelled(renewing).await;
        self.leave().await;
    }

    /// Says that we are here no more.
    async fn leave(&self) {
        if let Directory::Store(store) = &self.registry.directory
            && let Err(error) = replicas::leave(store, self.id().clone()).await
        {
            tracing::warn!(%error, "the other replicas learn only later that this one has stopped");
        }
    }

    /// This replica and the others, for an operator.
    pub fn view(&self) -> Value {
        let own = self.registry.own();
        let view = |replica: &Replica| {
            json!({
                "id": replica.id,
                "address": replica.address,
                "started": replica.started.to_string(),
                "seen": replica.seen.to_string(),
                "version": replica.version,
                "configuration": replica.configuration,
                "same_configuration": replica.configuration == own.configuration,
            })
        };
        let others = self.registry.others.load();
        json!({ "id": own.id, "address": own.address, "configuration": own.configuration, "others": others.iter().map(view).collect::<Vec<_>>() })
    }
}
