//! Gateways for tests, as far as an operator changes them: several of them on one store, each with its own files and clock.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use super::Control;
use crate::config;
use crate::env::{Clock, Env, Timestamp};
use crate::outbound::Outbound;
use crate::policy::Engine;
use crate::secret::DeploymentSecret;
use crate::store::follower::Follower;
use crate::store::{Location, Store};
use crate::tasks::Tasks;
use crate::vault::Vault;

/// One time for all, of which each clock is ahead or behind.
#[derive(Clone)]
pub(crate) struct Skewed {
    base: Arc<AtomicU64>,
    by_ms: i64,
}

impl Skewed {
    pub(crate) fn right() -> Self {
        Self { base: Arc::new(AtomicU64::new(1_700_000_000_000)), by_ms: 0 }
    }

    pub(crate) fn by(&self, by_ms: i64) -> Self {
        Self { base: self.base.clone(), by_ms }
    }

    pub(crate) fn advance(&self, by: Duration) {
        self.base.fetch_add(u64::try_from(by.as_millis()).unwrap(), Ordering::SeqCst);
    }

    pub(crate) fn env(&self) -> Env {
        Env { clock: Arc::new(self.clone()), entropy: Env::system().entropy }
    }
}

impl Clock for Skewed {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.base.load(Ordering::SeqCst).saturating_add_signed(self.by_ms))
    }
}

/// A gateway without surfaces and upstreams.
pub(crate) struct Replica {
    pub(crate) control: Arc<Control>,
    /// Not running yet.
    pub(crate) follower: Option<Follower>,
    pub(crate) tasks: Tasks,
    dir: tempfile::TempDir,
}

impl Replica {
    /// Bound to the names of these policies, which are all the same module.
    pub(crate) async fn new(store: Store, clock: &Skewed, max_staleness: Duration, policies: &[&str]) -> Self {
        Self::configured(store, clock, max_staleness, (policies, "")).await
    }

    /// The same, configured with more from the start.
    pub(crate) async fn configured(
        store: Store,
        clock: &Skewed,
        max_staleness: Duration,
        (policies, more): (&[&str], &str),
    ) -> Self {
        static ENGINE: LazyLock<Engine> = LazyLock::new(|| Engine::start(1).unwrap());
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), policies, more);
        let (env, offset) = clock.env().adjustable();
        let config = config::load(&dir.path().join("portcullis.toml"), &|_| None, env.now()).unwrap();
        let follower = Follower::begin(store.clone(), offset, max_staleness).await.unwrap();
        let (tasks, secret) = (Tasks::new(), DeploymentSecret::new(&[7; 32]));
        let state = (store, follower.freshness());
        let vault = Vault::start(&config.vault, state.0.clone(), env.clone(), Outbound::new()).await.unwrap();
        let control = Control::build(config, env, state, ENGINE.clone(), secret, vault, &tasks).await.unwrap();
        Self { control, follower: Some(follower), tasks, dir }
    }

    /// The same, following the store.
    pub(crate) async fn start(store: Store, clock: &Skewed, policies: &[&str]) -> Self {
        let mut replica = Self::new(store, clock, Duration::from_secs(10), policies).await;
        replica.follow();
        replica
    }

    pub(crate) fn follow(&mut self) {
        let follower = self.follower.take().expect("it follows once");
        self.tasks.spawn(follower.run(vec![self.control.clone()], self.tasks.stopping().clone()));
        self.tasks.spawn(self.control.clone().follow_policies());
    }

    /// Writes the configuration anew.
    pub(crate) fn configure(&self, policies: &[&str]) {
        write(self.dir.path(), policies, "");
    }

    /// The same with more in it, and without policies.
    pub(crate) fn configure_with(&self, more: &str) {
        write(self.dir.path(), &[], more);
    }

    pub(crate) async fn stop(self) {
        assert!(self.tasks.stop(Duration::from_secs(10)).await, "all tasks end");
    }
}

fn write(dir: &Path, policies: &[&str], more: &str) {
    let bindings =
        policies.iter().map(|name| format!("[[policies]]\nname = \"{name}\"\nmodule = \"builtin:template\"\n"));
    // Gateways on one store have the same key.
    let key = dir.join("vault.key");
    std::fs::write(&key, "07".repeat(32)).unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    let vault = format!("[[vault.keys]]\nkid = \"k1\"\nsource = \"file\"\npath = {key:?}\n");
    std::fs::write(dir.join("portcullis.toml"), bindings.chain([vault, more.to_owned()]).collect::<String>()).unwrap();
}

/// A store that several gateways may share, and the clock that counts there.
pub(crate) async fn shared() -> (Store, Skewed) {
    let clock = Skewed::right();
    (Store::open(Location::Memory, clock.env()).await.unwrap(), clock)
}

/// Waits until something holds; how long that took.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) -> Duration {
    let began = tokio::time::Instant::now();
    let patience = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(60), patience).await;
    waited.unwrap_or_else(|_| panic!("it does not come to pass that {what}"));
    began.elapsed()
}
