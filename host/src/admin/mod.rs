//! What operators do, as verbs: authorise is done by the caller of these (`http::api`), change and audit happen here.
//!
//! [`Control`] holds what the verbs change. Requests never lock it: they are decided on the [`Snapshot`] that a verb
//! has published last, whole.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, watch};

use crate::audit::Actor;
use crate::config::{self, Config, PolicySettings};
use crate::connection::lending::Later;
use crate::env::{Env, Timestamp};
use crate::ids::UpstreamName;
use crate::oci::{self, Pulled};
use crate::outbound::{Depot, MaxSizes, Outbound};
use crate::pipeline::Snapshot;
use crate::policy::replay::PastQuestion;
use crate::policy::{self, Counters, Hook, ImportCall, OfFile, PolicySet, Publication, Published, Uploaded, signature};
use crate::secret::DeploymentSecret;
use crate::store::changes::{self, Revision};
use crate::store::follower::Freshness;
use crate::store::policy_bindings::{self, StoredBindings};
use crate::store::users::people;
use crate::store::{Store, StoreError, file_keys, keys as stored_keys, recordings};
use crate::supervisor::Supervisor;
use crate::tasks::Tasks;
use crate::upstream::catalog::{Catalog, Shelf};
use crate::upstream::{Told, Upstream};
use crate::vault::Vault;

pub mod api_tokens;
pub mod approvals;
pub mod audit_export;
pub mod certificates;
mod changing;
mod connection_links;
pub mod counters;
pub mod expiring;
mod follow;
pub mod grants;
pub mod keys;
mod lists;
pub mod pins;
pub mod policies;
pub mod reconcile;
mod recorded;
pub mod reload;
pub mod rollback;
pub mod store;
pub mod tails;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
pub mod tools;
pub mod tryout;
pub mod upstreams;
pub mod users;
pub mod vault;

use rollback::Cause;
use upstreams::declared::{AllDeclared, Surroundings, Which};
use upstreams::running::Running;
use upstreams::{declared, trial};

/// The gateway, as far as an operator changes it.
pub struct Control {
    /// For tasks that end when nobody else holds it.
    me: Weak<Self>,
    pub env: Env,
    pub store: Store,
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// Counts published snapshots; who follows it sees each change, or several at once.
    pub published: watch::Sender<u64>,
    pub config: ArcSwap<Config>,
    /// What the gateway was started with: some settings are read then and never again.
    begun_with: Arc<Config>,
    pub started: Timestamp,
    engine: policy::Engine,
    outbound: Outbound,
    /// Keeps what upstreams are shown on callers' behalf.
    pub lender: Arc<Later>,
    /// What the listeners show over TLS.
    pub certificates: certificates::Certificates,
    /// Who is told of reloads. Set once, at the start.
    pub supervisor: OnceLock<Supervisor>,
    /// Whether the gateway is about to stop.
    is_leaving: AtomicBool,
    /// Modules from registries.
    depot: Depot,
    /// Opens what was sealed for operators to read.
    pub secret: DeploymentSecret,
    pub vault: Vault,
    /// What the tools of upstreams were when somebody agreed to them.
    pinned: pins::Pinned,
    /// Whose own lists have changed.
    pub lists_told: Arc<Told>,
    /// Owns the upstreams' tasks.
    tasks: Tasks,
    /// One change at a time ([`Self::to_its_end`]).
    changing: Arc<Mutex<Applied>>,
    /// What the published keys are made of. Locked after `running`, where both are.
    known_keys: std::sync::Mutex<keys::KnownKeys>,
    /// What the published upstreams are made of.
    running: std::sync::Mutex<Running>,
    /// Upstreams that are being tried.
    trials: Arc<Semaphore>,
    /// Questions that operators ask policies aside.
    asking_aside: Arc<Semaphore>,
    /// Definitions that are being resolved for operators.
    readers: Arc<Semaphore>,
    /// Policies that are being tried out for operators.
    rehearsals: Arc<Semaphore>,
    /// Modules that are being sent.
    uploads: Semaphore,
    /// The policy bindings of the store that were put together with those of the file last. Set under `changing`.
    bound: ArcSwap<StoredBindings>,
    /// Why they could not be followed when that was tried last.
    bindings_not_followed: ArcSwapOption<String>,
    /// Whether each upstream was tried once, at some time.
    has_tried: AtomicBool,
    /// What operators did about policies on other gateways.
    asked: follow::Asked,
    /// Whether what is published may be out of date.
    freshness: Freshness,
    /// One batch of data keys at a time.
    rewrapping: Mutex<()>,
    last_reload: ArcSwap<reload::LastReload>,
    seen: ArcSwap<reload::Seen>,
    /// What policies count, whichever generation of them.
    counters: Counters,
    generation: AtomicU64,
    /// Readers of the whole store.
    walks: store::Walks,
    /// The sets that were in force last, oldest first.
    generations: ArcSwap<Vec<Arc<rollback::Generation>>>,
}

/// Up to where what happened elsewhere was done here.
struct Applied {
    policies: Revision,
}

/// Why the gateway's state could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("the policies cannot be used")]
    Policies(#[from] policy::LoadErrors),
    #[error("the store cannot be read")]
    Store(#[from] StoreError),
    #[error("the keys of the vault cannot be used")]
    Vault(#[from] crate::vault::OpenError),
    #[error("loading the policies was interrupted")]
    Interrupted,
}

impl Control {
    /// Loads policies and keys, starts the upstreams. `freshness` is that of whoever follows the store for it, from before
    /// this began.
    pub async fn build(
        config: Config,
        env: Env,
        (store, freshness): (Store, Freshness),
        engine: policy::Engine,
        secret: DeploymentSecret,
        vault: Vault,
        tasks: &Tasks,
    ) -> Result<Arc<Self>, BuildError> {
        // What operators do about policies from now on is done here as well.
        let began = store.read(changes::revision).await?;
        let seen = reload::digests(watched_files(&config)).await;
        let counters = if store.is_shared() { Counters::shared() } else { Counters::default() };
        let outbound = Outbound::new();
        let lender = Arc::<Later>::default();
        let depot = Depot::new(outbound.clone(), &config.data_dir);
        let pulled = pull(&depot, OfFile::Read.references(&config.policy)).await;
        crate::upstream::forget_trials(&config.data_dir).await;
        let nothing = AllDeclared::new();
        let around = Surroundings::of(&config);
        let mut running = Running::new(&config, declared::read((&store, &vault), &around, &nothing, Which::All).await?);
        let in_force = running.settings();
        let upstreams = in_force.clone();
        let bound = policy_bindings::all(&store).await?;
        let settings = policies::settings_with(&config.policy, &bound)?;
        let uploaded = policies::uploaded(&store, &settings).await?;
        let first =
            Loading { counters: counters.clone(), pulled, uploaded, upstreams, ..Loading::first(settings, &engine) };
        let policies = Arc::new(load(first).await?.policies);
        let (stored, at) = stored_keys::all_at(&store).await?;
        for name in file_keys::settle(&store, &config.keys, &stored).await? {
            tracing::warn!(key = %name, "the file has another key of this name, or none: what was granted in its name is revoked");
        }
        let for_all = keys::upstreams_for_all(&in_force);
        let known_keys = keys::KnownKeys { file: config.keys.clone(), stored, at, for_all };
        let keys = known_keys.ring();
        let tasks = tasks.clone();
        let upstreams: BTreeMap<_, _> = in_force
            .iter()
            .map(|upstream| (upstream.name.clone(), start_upstream(upstream, (&outbound, &lender), &config, &tasks)))
            .collect();
        let pinned = pins::Pinned::default();
        let catalog = catalog_of(&upstreams, &pinned);
        let auth = config.auth.clone();
        let people = people(&store).await?;
        let (policies_now, upstreams) = (policies.clone(), Arc::new(upstreams));
        let snapshot = Snapshot { auth, keys, people, policies: policies_now, catalog, upstreams, revision: began };
        let certificates = certificates::Certificates::new(&config.tls, &env);
        let (started, config) = (env.now(), Arc::new(config));
        let control = Arc::new_cyclic(|me| Self {
            me: me.clone(),
            last_reload: ArcSwap::from_pointee(reload::LastReload::loaded(started, policies.generation())),
            seen: ArcSwap::from_pointee(seen),
            started,
            env,
            store,
            snapshot: Arc::new(ArcSwap::from_pointee(snapshot)),
            published: watch::Sender::new(0),
            begun_with: config.clone(),
            config: ArcSwap::new(config),
            engine,
            outbound,
            lender,
            certificates,
            supervisor: OnceLock::new(),
            is_leaving: AtomicBool::new(false),
            depot,
            secret,
            vault,
            rewrapping: Mutex::new(()),
            pinned,
            lists_told: Arc::default(),
            tasks,
            changing: Arc::new(Mutex::new(Applied { policies: began })),
            known_keys: std::sync::Mutex::new(known_keys),
            running: std::sync::Mutex::new(running),
            trials: Arc::new(Semaphore::new(trial::MAX_TRIALS)),
            asking_aside: Arc::new(Semaphore::new(tryout::MAX_AT_ONCE)),
            readers: Arc::new(Semaphore::new(upstreams::MAX_READERS)),
            rehearsals: Arc::new(Semaphore::new(policies::MAX_REHEARSALS)),
            uploads: Semaphore::new(policies::MAX_UPLOADS),
            bound: ArcSwap::from_pointee(bound),
            bindings_not_followed: ArcSwapOption::empty(),
            has_tried: AtomicBool::new(false),
            asked: watch::Sender::default(),
            freshness,
            counters,
            generation: AtomicU64::new(1),
            walks: store::Walks::default(),
            generations: ArcSwap::default(),
        });
        control.came_into_force(policies, Actor::System, Cause::Start);
        control.depot.keep_only(control.config.load().policy.references()).await;
        for upstream in control.snapshot.load().upstreams.values() {
            control.keep_synced(upstream.clone());
        }
        Ok(control)
    }

    /// Keeps what an upstream offers fresh in the catalog, as long as the upstream is ours.
    fn keep_synced(&self, upstream: Arc<Upstream>) {
        self.tasks.spawn(upstream.clone().listen());
        if let Some(control) = self.me.upgrade() {
            self.tasks.spawn(control.tell_of_lists(upstream.clone()));
        }
        let control = self.me.clone();
        let synced = Arc::downgrade(&upstream);
        self.tasks.spawn(upstream.keep_synced(move || {
            let (control, upstream) = (control.clone(), synced.clone());
            Box::pin(async move {
                if let (Some(control), Some(upstream)) = (control.upgrade(), upstream.upgrade()) {
                    control.know_pins(&upstream).await;
                    control.arrive(&upstream);
                    control.publish(|new| new.catalog = catalog_of(&new.upstreams, &control.pinned));
                }
            })
        }));
    }

    /// This replica's side of the exchange of counters, where there may be other replicas.
    pub fn exchange_of_counters(&self) -> Option<counters::Exchange> {
        let exchange = || counters::Exchange::new(self.store.clone(), self.env.clone(), self.counters.clone());
        self.store.is_shared().then(exchange)
    }

    /// Publishes a snapshot that differs from the present one in what `change` does.
    fn publish(&self, change: impl Fn(&mut Snapshot)) {
        self.snapshot.rcu(|old| {
            let mut new = old.as_ref().clone();
            change(&mut new);
            new
        });
        self.published.send_modify(|count| *count += 1);
    }

    /// Notes that what is published is the state of this revision too, since nothing that it is made of has changed up to
    /// there, or that was taken in. Nobody sees anything else than before.
    fn reach(&self, revision: Revision) {
        self.snapshot.rcu(|old| {
            let revision = old.revision.max(revision);
            Snapshot { revision, ..old.as_ref().clone() }
        });
    }

    /// Ends all upstreams, waiting for them at most `patience`. Whether they have ended.
    pub async fn stop_upstreams(&self, patience: Duration) -> bool {
        let upstreams = self.snapshot.load().upstreams.clone();
        let stops = upstreams.values().map(|upstream| upstream.stop(patience));
        futures_util::future::join_all(stops).await.into_iter().all(|ended| ended)
    }

    /// Whether what other gateways have changed in the store may have gone unnoticed for too long.
    pub fn is_stale(&self) -> bool {
        self.freshness.is_stale()
    }

    /// How long that may have been.
    pub fn staleness(&self) -> Duration {
        self.freshness.age()
    }

    /// Says from now on that the gateway is not ready: it is about to stop.
    pub fn leave(&self) {
        self.is_leaving.store(true, Ordering::Relaxed);
    }

    /// Whether the gateway is about to stop.
    pub fn is_leaving(&self) -> bool {
        self.is_leaving.load(Ordering::Relaxed)
    }

    /// Whether requests can be served: the gateway is not about to stop, the store can be reached, nothing in it went
    /// unnoticed for too long, and each upstream has been tried once.
    pub fn is_ready(&self) -> bool {
        !self.is_leaving() && self.store.is_reachable() && !self.is_stale() && self.has_tried_upstreams()
    }

    /// Whether each upstream has been tried once. Those that are added later keep nobody from using the others.
    pub fn has_tried_upstreams(&self) -> bool {
        let snapshot = self.snapshot.load();
        let is_tried = |upstream: &Arc<Upstream>| *upstream.health() != crate::upstream::Health::Starting;
        if self.has_tried.load(Ordering::Relaxed) {
            return true;
        }
        let have_all = snapshot.upstreams.values().all(is_tried);
        self.has_tried.fetch_or(have_all, Ordering::Relaxed);
        have_all
    }
}

fn start_upstream(
    settings: &config::Upstream,
    (outbound, lender): (&Outbound, &Arc<Later>),
    config: &Config,
    tasks: &Tasks,
) -> Arc<Upstream> {
    warn_if_insecure(settings);
    let secured = settings.tls.as_ref().map(|tls| outbound.secured(tls));
    let outbound = secured.as_ref().unwrap_or(outbound);
    Upstream::start(settings.clone(), (outbound, lender.clone()), &config.limits, &config.data_dir, tasks)
}

/// Who takes any certificate of an upstream, of the file or of the store, is told so whenever it is started.
fn warn_if_insecure(settings: &config::Upstream) {
    if settings.tls.as_ref().is_some_and(crate::outbound::Tls::takes_any) {
        tracing::warn!(
            upstream = %settings.name,
            "tls.insecure is true: WHOEVER STANDS BETWEEN the gateway and this upstream can read and change everything"
        );
    }
}

/// What these upstreams offer now, and how that stands to what is pinned.
fn catalog_of(upstreams: &BTreeMap<UpstreamName, Arc<Upstream>>, pinned: &pins::Pinned) -> Arc<Catalog> {
    let shelves: Vec<Shelf> = upstreams.values().map(|upstream| upstream.shelf()).collect();
    Arc::new(Catalog::build(&shelves, pinned.standing()))
}

/// What policies are loaded from.
struct Loading {
    settings: PolicySettings,
    upstreams: Vec<config::Upstream>,
    engine: policy::Engine,
    counters: Counters,
    /// What becomes of the bindings of the file.
    of_file: OfFile,
    /// What came from registries.
    pulled: Pulled,
    /// What operators uploaded.
    uploaded: Uploaded,
    /// Sets whose compiled policies may be used again.
    previous: Vec<Arc<PolicySet>>,
    /// What is put to the new policies once more, newest first.
    recorded: Vec<PastQuestion>,
    generation: u64,
    /// Whose turn it is, until it is done, though nobody waits for it any more.
    turn: Option<OwnedSemaphorePermit>,
}

impl Loading {
    /// Of the first generation.
    fn first(settings: PolicySettings, engine: &policy::Engine) -> Self {
        Self {
            settings,
            upstreams: Vec::new(),
            engine: engine.clone(),
            counters: Counters::default(),
            of_file: OfFile::Read,
            pulled: Pulled::new(),
            uploaded: Uploaded::new(),
            previous: Vec::new(),
            recorded: Vec::new(),
            generation: 1,
            turn: None,
        }
    }
}

/// Gets the modules that are in registries.
async fn pull(depot: &Depot, references: Vec<oci::Reference>) -> Pulled {
    let max = MaxSizes { module: policy::MAX_MODULE_BYTES, signatures: signature::MAX_SIGNATURES_BYTES };
    depot.fetch(references, max).await
}

/// Compiles and tries the policies, on one thread, away from those that serve requests.
async fn load(loading: Loading) -> Result<Published, BuildError> {
    let load = move || {
        // The turn ends with this closure.
        let Loading {
            settings,
            upstreams,
            engine,
            counters,
            of_file,
            pulled,
            uploaded,
            previous,
            recorded,
            generation,
            turn: _turn,
        } = loading;
        let publication = Publication {
            settings: &settings,
            upstreams: &upstreams,
            engine: &engine,
            counters: &counters,
            builtins: &crate::builtin::module,
            of_file: &of_file,
            pulled: &pulled,
            uploaded: &uploaded,
            previous: &previous.iter().map(Arc::as_ref).collect::<Vec<_>>(),
            recorded: &recorded,
            generation,
        };
        publication.run()
    };
    Ok(tokio::task::spawn_blocking(load).await.map_err(|_| BuildError::Interrupted)??)
}

impl Control {
    /// Loads policies beside these upstreams, with what is compiled already, and puts these questions to them. The settings are
    /// what comes of those of the file, which are read or stay, with the bindings of the store.
    async fn load_policies(
        &self,
        (settings, of_file): (PolicySettings, OfFile),
        upstreams: Vec<config::Upstream>,
        recorded: Vec<PastQuestion>,
        (generation, turn): (u64, Option<OwnedSemaphorePermit>),
    ) -> Result<Published, BuildError> {
        let kept = self.generations();
        load(Loading {
            counters: self.counters.clone(),
            pulled: pull(&self.depot, of_file.references(&settings)).await,
            uploaded: policies::uploaded(&self.store, &settings).await?,
            previous: kept.iter().rev().map(|generation| generation.policies.clone()).collect(),
            of_file,
            recorded,
            upstreams,
            generation,
            turn,
            ..Loading::first(settings, &self.engine)
        })
        .await
    }

    /// The newest recorded questions, at most `limit`. What cannot be read is not worth a refusal.
    async fn recorded(&self, limit: usize) -> Vec<PastQuestion> {
        if limit == 0 {
            return Vec::new();
        }
        let latest = recordings::latest(&self.store, &self.secret, &recordings::Filter::default(), limit).await;
        let latest = latest.inspect_err(|error| tracing::warn!(%error, "recorded decisions cannot be read"));
        let recorded = latest.unwrap_or_default();
        recorded.into_iter().filter_map(|(decision, question)| past_question(decision, question)).collect()
    }
}

/// A recorded question in the words of whoever puts it again. What policies in shadow said decided nothing.
fn past_question(decision: String, question: recordings::Question) -> Option<PastQuestion> {
    let decided = !question.verdict.starts_with("would_");
    decided.then(|| whole_question(decision, question)).flatten()
}

/// The same, whoever was asked. `None` of what is not kept whole, or cannot be read.
fn whole_question(decision: String, question: recordings::Question) -> Option<PastQuestion> {
    let recordings::Words::Whole(transcript) = question.words else { return None };
    let recordings::Transcript { input, answer, imports } = transcript;
    let import =
        |import: recordings::Import| ImportCall { import: import.import, asked: import.asked, answer: import.answer };
    Some(PastQuestion {
        decision: Some(decision),
        binding: question.binding,
        hook: Hook::parse(&question.hook)?,
        input: serde_json::from_str(&input).ok()?,
        answer: answer.map(|answer| serde_json::from_str(&answer)).transpose().ok()?,
        was_asked: true,
        imports: imports.into_iter().map(import).collect(),
    })
}

/// Files whose change asks for a reload: the configuration, what it names, and the signatures of modules.
fn watched_files(config: &Config) -> Vec<PathBuf> {
    let mut files = config.watched_files();
    if config.policy.signatures != config::Signatures::Off {
        files.extend(
            config.policy.bindings.iter().filter_map(|binding| binding.module.file()).map(signature::file_beside),
        );
    }
    files
}
