//! What operators do, as verbs: authorise is done by the caller of these (`http::api`), change and audit happen here.
//!
//! [`Control`] holds what the verbs change. Requests never lock it: they are decided on the [`Snapshot`] that a verb
//! has published last, whole.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Mutex, watch};

use crate::config::{self, Config};
use crate::env::{Env, Timestamp};
use crate::identity::Keyring;
use crate::ids::UpstreamName;
use crate::outbound::Outbound;
use crate::pipeline::Snapshot;
use crate::policy::{self, PolicySet};
use crate::store::{Store, StoreError, keys as stored_keys};
use crate::tasks::Tasks;
use crate::upstream::Upstream;
use crate::upstream::catalog::{Catalog, Shelf};

pub mod keys;
pub mod reload;

/// The gateway, as far as an operator changes it.
pub struct Control {
    pub env: Env,
    pub store: Store,
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// Counts published snapshots; who follows it sees each change, or several at once.
    pub published: watch::Sender<u64>,
    pub config: ArcSwap<Config>,
    pub started: Timestamp,
    engine: policy::Engine,
    outbound: Outbound,
    /// Owns the upstreams' tasks.
    tasks: Tasks,
    /// One change at a time.
    changing: Mutex<()>,
    last_reload: ArcSwap<reload::LastReload>,
    seen: ArcSwap<reload::Seen>,
    generation: AtomicU64,
}

/// Why the gateway's state could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("the policies cannot be used")]
    Policies(#[from] policy::LoadErrors),
    #[error("the store cannot be read")]
    Store(#[from] StoreError),
    #[error("loading the policies was interrupted")]
    Interrupted,
}

impl Control {
    /// Loads policies and keys, starts the upstreams.
    pub async fn build(
        config: Config,
        env: Env,
        store: Store,
        engine: policy::Engine,
        tasks: &Tasks,
    ) -> Result<Arc<Self>, BuildError> {
        let seen = reload::digests(watched_files(&config)).await;
        let policies = load_policies(&config, &engine, None, 1).await?;
        let keys = Arc::new(read_keys(&store, &config).await?);
        let outbound = Outbound::new();
        let tasks = tasks.clone();
        let upstreams: BTreeMap<_, _> = config
            .upstreams
            .iter()
            .map(|upstream| (upstream.name.clone(), start_upstream(upstream, &outbound, &config, &tasks)))
            .collect();
        let catalog = catalog_of(&upstreams);
        let snapshot = Snapshot { keys, policies: Arc::new(policies), catalog, upstreams: Arc::new(upstreams) };
        let started = env.now();
        let control = Arc::new(Self {
            last_reload: ArcSwap::from_pointee(reload::LastReload::loaded(started)),
            seen: ArcSwap::from_pointee(seen),
            started,
            env,
            store,
            snapshot: Arc::new(ArcSwap::from_pointee(snapshot)),
            published: watch::Sender::new(0),
            config: ArcSwap::from_pointee(config),
            engine,
            outbound,
            tasks,
            changing: Mutex::new(()),
            generation: AtomicU64::new(1),
        });
        for upstream in control.snapshot.load().upstreams.values() {
            control.keep_synced(upstream.clone());
        }
        Ok(control)
    }

    /// Keeps what an upstream offers fresh in the catalog, as long as the upstream is ours.
    fn keep_synced(self: &Arc<Self>, upstream: Arc<Upstream>) {
        self.tasks.spawn(upstream.clone().listen());
        let control = Arc::downgrade(self);
        self.tasks.spawn(upstream.keep_synced(move || {
            if let Some(control) = control.upgrade() {
                control.publish(|new| new.catalog = catalog_of(&new.upstreams));
            }
        }));
    }

    /// Publishes a snapshot that differs from the present one in what `change` does.
    fn publish(&self, change: impl Fn(&mut Snapshot)) {
        self.snapshot.rcu(|old| {
            let mut new = Snapshot {
                keys: old.keys.clone(),
                policies: old.policies.clone(),
                catalog: old.catalog.clone(),
                upstreams: old.upstreams.clone(),
            };
            change(&mut new);
            new
        });
        self.published.send_modify(|count| *count += 1);
    }

    /// Ends all upstreams, waiting for them at most `patience`. Whether they have ended.
    pub async fn stop_upstreams(&self, patience: Duration) -> bool {
        let upstreams = self.snapshot.load().upstreams.clone();
        let stops = upstreams.values().map(|upstream| upstream.stop(patience));
        futures_util::future::join_all(stops).await.into_iter().all(|ended| ended)
    }

    /// Whether each upstream has been tried once.
    pub fn is_ready(&self) -> bool {
        let snapshot = self.snapshot.load();
        snapshot.upstreams.values().all(|upstream| *upstream.health() != crate::upstream::Health::Starting)
    }
}

fn start_upstream(settings: &config::Upstream, outbound: &Outbound, config: &Config, tasks: &Tasks) -> Arc<Upstream> {
    Upstream::start(settings.clone(), outbound, &config.limits, &config.data_dir, tasks)
}

/// What these upstreams offer now.
fn catalog_of(upstreams: &BTreeMap<UpstreamName, Arc<Upstream>>) -> Arc<Catalog> {
    let shelves: Vec<Shelf> = upstreams.values().map(|upstream| upstream.shelf()).collect();
    Arc::new(Catalog::build(&shelves))
}

/// Keys of the file before keys of the store, so that the file wins where both have a name.
async fn read_keys(store: &Store, config: &Config) -> Result<Keyring, StoreError> {
    let stored = stored_keys::all(store).await?;
    Ok(Keyring::new(config.keys.iter().cloned().chain(stored)))
}

/// Compiles and tries the policies, away from the threads that serve requests.
async fn load_policies(
    config: &Config,
    engine: &policy::Engine,
    previous: Option<Arc<PolicySet>>,
    generation: u64,
) -> Result<PolicySet, BuildError> {
    let (settings, upstreams, engine) = (config.policy.clone(), config.upstreams.clone(), engine.clone());
    let load = move || {
        PolicySet::load(&settings, &upstreams, &engine, &crate::builtin::module, previous.as_deref(), generation)
    };
    Ok(tokio::task::spawn_blocking(load).await.map_err(|_| BuildError::Interrupted)??)
}

/// Files whose change asks for a reload: the configuration and the policy modules it names.
fn watched_files(config: &Config) -> Vec<PathBuf> {
    let modules = config.policy.bindings.iter().filter_map(|binding| match &binding.module {
        config::ModuleSource::File(path) => Some(path.clone()),
        config::ModuleSource::Builtin(_) => None,
    });
    config.file.iter().cloned().chain(modules).collect()
}
