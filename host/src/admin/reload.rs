//! Reloading: the configuration and all policies, validated whole, swapped whole.
//!
//! Whatever is wrong with the new state leaves the running one in place and is told in the log, in the audit trail and at
//! `GET /api/v1/policies`. Requests in flight finish on the snapshot they began with.
//!
//! Before new policies come into force, the last recorded decisions are put to them once more. What they would have said
//! otherwise is told with the reload, and is no reason to refuse it: that they decide differently is usually the point.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;
use zeroize::Zeroizing;

use super::changing::Turn;
use super::policies;
use super::rollback::Cause;
use super::upstreams::declared::Which;
use super::upstreams::running::settings_with;
use super::{BuildError, Control, watched_files};
use crate::audit::{Actor, AuditEvent, RevocationReason};
use crate::config::{self, Auth, Config, ListenerTls, ListenersTls, Mistakes};
use crate::env::Timestamp;
use crate::identity::key::{Standing, VirtualKey};
use crate::ids::{ClientId, KeyName, Principal};
use crate::policy::OfFile;
use crate::policy::replay::Changes;
use crate::secret::Digest;
use crate::store::changes::{PolicyAct, Revision};
use crate::store::revocations::{self, Whose};
use crate::store::{audit as trail, file_keys, keys as stored_keys, policy_bindings};
use crate::supervisor::Supervisor;

/// Changes that come in one burst are read once.
const DEBOUNCE: Duration = Duration::from_millis(200);
/// Files are looked at this often even where no change is announced, as on network file systems.
const POLL: Duration = Duration::from_secs(5);

/// What of the configuration a reload leaves as it was begun with ([`Control::awaits_restart`]).
pub(super) const AT_THE_NEXT_START: [&str; 14] = [
    "public_url",
    "data_dir",
    "vault.allow_core_dumps",
    "policy.max_components",
    "[listen]",
    "[store]",
    "[replica]",
    "[edge]",
    "[limits]",
    "[mcp]",
    "[outbound]",
    "[metrics]",
    "[telemetry]",
    "[audit]",
];

/// How the last reload went.
#[derive(Clone, Debug)]
pub struct LastReload {
    pub at: Timestamp,
    /// The set that was in force after it. Where another one is now, that came later.
    pub generation: u64,
    /// Why the running state was kept, in words for an operator.
    pub error: Option<String>,
    /// What the policies that it brought say of earlier decisions. `None` where none were recorded or it was refused.
    pub changes: Option<Arc<Changes>>,
}

impl LastReload {
    pub(super) fn loaded(at: Timestamp, generation: u64) -> Self {
        Self { at, generation, error: None, changes: None }
    }
}

/// Why a reload was refused.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    #[error("there is no configuration file to read again")]
    NoFile,
    #[error("the configuration has mistakes")]
    Configuration(#[from] Mistakes),
    #[error(transparent)]
    Build(#[from] BuildError),
}

impl ReloadError {
    /// All there is to say, causes included.
    pub fn explain(&self) -> String {
        match self {
            Self::NoFile => self.to_string(),
            Self::Configuration(mistakes) => mistakes.to_string(),
            Self::Build(BuildError::Policies(errors)) => errors.to_string(),
            Self::Build(BuildError::Vault(error)) => explain(error),
            Self::Build(error) => error.to_string(),
        }
    }
}

/// The error and its causes. That of a ring tells which key it is about.
fn explain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| (*cause).source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

impl Control {
    pub fn last_reload(&self) -> Arc<LastReload> {
        self.last_reload.load_full()
    }

    /// Reads the configuration file and the policy modules again and swaps to them. The new generation.
    ///
    /// # Errors
    /// [`ReloadError`]; the running state is then unchanged.
    pub async fn reload(self: &Arc<Self>, actor: Actor) -> Result<u64, ReloadError> {
        let control = self.clone();
        let reload = async move |mut applied: Turn| {
            let (reloaded, at) = control.reload_now(actor).await;
            applied.policies = at.unwrap_or(applied.policies);
            reloaded
        };
        self.to_its_end(reload).await?
    }

    /// Reads the files of this gateway again, since an operator had another one read its own.
    pub(super) async fn reload_as_asked(self: &Arc<Self>, at: Revision) {
        let mut applied = self.changing.lock().await;
        if at <= applied.policies {
            return;
        }
        applied.policies = at;
        if let (Err(error), _) = self.reload_now(Actor::System).await {
            self.tell_not_followed(error.explain()).await;
        }
    }

    /// One change at a time: whoever calls this has the turn. Also the revision in which others are told.
    async fn reload_now(self: &Arc<Self>, actor: Actor) -> (Result<u64, ReloadError>, Option<Revision>) {
        let _told = self.supervisor.get().map(Supervisor::reloading);
        // Taken before anything is read: what changes while it is read counts as not seen.
        let mut seen = digests(watched_files(&self.config.load())).await;
        let reloaded = self.try_reload(&mut seen, actor).await;
        self.seen.store(Arc::new(seen));
        let at = self.env.now();
        let (event, last, is_refused) = match &reloaded {
            Ok((generation, changes)) => {
                tracing::info!(generation, "configuration and policies reloaded");
                if let Some(changes) = changes.as_deref().filter(|changes| !changes.different.is_empty()) {
                    tracing::warn!(generation, %changes, "the new policies decide differently");
                }
                let event = AuditEvent::PoliciesReloaded { generation: *generation };
                (event, LastReload { at, generation: *generation, error: None, changes: changes.clone() }, false)
            }
            Err(error) => {
                let reason = error.explain();
                tracing::error!(%reason, "reload refused, the running policies stay");
                let event = AuditEvent::PolicyReloadRefused { reason: reason.clone() };
                let generation = self.snapshot.load().policies.generation();
                (event, LastReload { at, generation, error: Some(reason), changes: None }, true)
            }
        };
        self.last_reload.store(Arc::new(last));
        let told = if is_refused {
            if let Err(error) = trail::record(&self.store, actor, event).await {
                tracing::error!(%error, "the audit trail lacks a reload");
            }
            None
        } else {
            self.record_policies(actor, event, PolicyAct::Reload).await
        };
        (reloaded.map(|(generation, _)| generation), told)
    }

    async fn try_reload(
        self: &Arc<Self>,
        seen: &mut Seen,
        actor: Actor,
    ) -> Result<(u64, Option<Arc<Changes>>), ReloadError> {
        let running = self.config.load_full();
        let file = running.file.clone().ok_or(ReloadError::NoFile)?;
        let now = self.env.now();
        let config = tokio::task::spawn_blocking(move || config::load(&file, &config::process_environment, now))
            .await
            .map_err(|_| BuildError::Interrupted)??;
        let watched = watched_files(&config);
        let new = watched.iter().filter(|path| !seen.contains_key(*path)).cloned().collect();
        seen.extend(digests(new).await);
        if self.awaits_restart(&config) {
            tracing::warn!("changes of {} take effect at the next start", AT_THE_NEXT_START.join(", "));
        }
        warn_of_strangers(&running.auth, &config.auth);
        let declared = self.read_declared(&config, Which::All).await.map_err(BuildError::Store)?;
        let upstreams = settings_with(&config, &declared.0);
        let generation = self.generation.load(Ordering::Relaxed) + 1;
        let bound = policy_bindings::all(&self.store).await.map_err(BuildError::Store)?;
        let settings = policies::settings_with(&config.policy, &bound).map_err(BuildError::Policies)?;
        let recorded = self.recorded(settings.replay).await;
        let all = (settings, OfFile::Read);
        let published = self.load_policies(all, upstreams, recorded, (generation, None)).await?;
        let policies = Arc::new(published.policies);
        let (stored, at) = stored_keys::all_at(&self.store).await.map_err(BuildError::Store)?;
        // The last things that may refuse the new configuration. What cannot be revoked stays in force.
        self.vault.reload(&config.vault).await.map_err(BuildError::Vault)?;
        let revoked = no_longer_granted(&running, &config, &stored);
        revocations::revoke_each(&self.store, revoked, actor).await.map_err(BuildError::Store)?;
        file_keys::remember(&self.store, &config.keys).await.map_err(BuildError::Store)?;

        self.publish_reloaded(&config, declared, |upstreams| {
            self.publish_with_keys(Some(&config), stored, at, |new| {
                new.auth = config.auth.clone();
                new.policies = policies.clone();
                upstreams(new);
            });
        });
        self.certificates.replace(&config.tls, &self.env);
        self.came_into_force(policies, actor, Cause::Reload);
        self.bound.store(Arc::new(bound));
        self.depot.keep_only(config.policy.references()).await;
        self.config.store(Arc::new(config));
        seen.retain(|path, _| watched.contains(path));
        Ok((generation, published.changes.map(Arc::new)))
    }

    /// What the gateway was started with: what is read at the start only is as it is here.
    pub fn begun_with(&self) -> &Config {
        &self.begun_with
    }

    /// Whether this says otherwise than what the gateway was started with in something that is read at the start only.
    pub fn awaits_restart(&self, new: &Config) -> bool {
        let begun = &*self.begun_with;
        let is_same = begun.listen == new.listen
            && begun.tls.are_those_of(&new.tls)
            && begun.replica == new.replica
            && begun.store == new.store
            && begun.upkeep == new.upkeep
            && begun.data_dir == new.data_dir
            && begun.edge == new.edge
            && begun.limits == new.limits
            && begun.mcp == new.mcp
            && begun.public_url == new.public_url
            && begun.outbound == new.outbound
            && begun.metrics == new.metrics
            && begun.telemetry == new.telemetry
            && begun.audit == new.audit
            && begun.policy.max_components == new.policy.max_components
            && begun.vault.allow_core_dumps == new.vault.allow_core_dumps;
        !is_same
    }

    /// Reloads whenever a watched file has changed, until the gateway stops.
    pub async fn watch(self: Arc<Self>) {
        let (announce, mut announced) = mpsc::channel(1);
        let mut watcher = Watch::new(announce);
        let stopping = self.tasks.stopping().clone();
        while !stopping.is_cancelled() {
            let seen = self.seen.load_full();
            watcher.follow(seen.keys());
            while announced.try_recv().is_ok() {}
            let now = digests(seen.keys().cloned().collect()).await;
            if now != *seen {
                // What is wrong is told there; the files are tried again when they change again.
                self.changed(&seen, now).await;
            }
            tokio::select! {
                () = stopping.cancelled() => return,
                _ = announced.recv() => tokio::time::sleep(DEBOUNCE).await,
                () = tokio::time::sleep(POLL) => {}
            }
        }
    }
}

impl Control {
    /// Watched files are not as they were: reloads, or reads certificates alone where nothing else is different.
    async fn changed(self: &Arc<Self>, seen: &Seen, now: Seen) {
        let config = self.config.load_full();
        let certificates: HashSet<&Path> = config.certificate_files().collect();
        let mut different = now.iter().filter(|(path, digest)| seen.get(*path) != Some(*digest));
        // What a refused reload has read is not in force: more than certificates may be different.
        let is_in_force = self.last_reload.load().error.is_none();
        if is_in_force && different.all(|(path, _)| certificates.contains(path.as_path())) {
            self.read_certificates(seen, now).await;
        } else {
            self.reload_what_was(seen).await;
        }
    }

    /// Reads everything again that was like this when somebody saw that it is not any more, unless it was read meanwhile: an
    /// operator who saves a file and asks for a reload gets one.
    async fn reload_what_was(self: &Arc<Self>, seen: &Seen) {
        let mut applied = self.changing.lock().await;
        if **self.seen.load() != *seen {
            return;
        }
        let (_, at) = self.reload_now(Actor::System).await;
        applied.policies = at.unwrap_or(applied.policies);
    }

    /// Shows the certificates that are in the files now. A pair that cannot be used leaves the one that is shown.
    async fn read_certificates(&self, seen: &Seen, now: Seen) {
        // One change at a time; what a reload has read meanwhile is not older than this.
        let _changing = self.changing.lock().await;
        if **self.seen.load() != *seen {
            return;
        }
        self.seen.store(Arc::new(now));
        let tls = self.config.load().tls.clone();
        let again = tokio::task::spawn_blocking(move || read_again(tls));
        if let Ok(tls) = again.await {
            self.certificates.replace(&tls, &self.env);
        }
    }
}

/// What is in the files of the listeners now. Nothing of a listener whose files cannot be used.
fn read_again(tls: ListenersTls) -> ListenersTls {
    let read = |listener: &'static str, old: Option<ListenerTls>| match old?.read_again() {
        Ok(new) => {
            tracing::info!(listener, "the certificate was read again");
            Some(new)
        }
        Err(reason) => {
            tracing::error!(listener, %reason, "a new certificate cannot be used, the one that is shown stays");
            None
        }
    };
    ListenersTls { public: read("public", tls.public), admin: read("admin", tls.admin) }
}

/// Whose grants end with a new file: those of keys that are other keys from now on, disabled or gone, and those of clients that
/// are gone. A grant knows either by its name only, and would open for another one of this name.
fn no_longer_granted(running: &Config, new: &Config, stored: &[VirtualKey]) -> Vec<(Whose, RevocationReason)> {
    fn by_name(keys: &[VirtualKey]) -> HashMap<&KeyName, &VirtualKey> {
        keys.iter().map(|key| (&key.name, key)).collect()
    }
    let (before, after, stored) = (by_name(&running.keys), by_name(&new.keys), by_name(stored));
    let is_out = |old: &VirtualKey| {
        let stays = |now: &&VirtualKey| {
            now.digest == old.digest && (now.standing == Standing::Enabled || old.standing == Standing::Disabled)
        };
        !after.get(&old.name).is_some_and(stays)
    };
    // One of the file comes before one of the store.
    let takes_over = |now: &&VirtualKey| {
        let other = stored.get(&now.name).is_some_and(|stored| stored.digest != now.digest);
        other && !before.contains_key(&now.name)
    };
    let changed = running.keys.iter().filter(|old| is_out(old)).chain(new.keys.iter().filter(takes_over));
    let of_key = |key: &VirtualKey| {
        let whose = Whose::Principal(Principal::Key(key.name.clone()));
        (whose, RevocationReason::PrincipalGone)
    };
    let known: HashSet<&ClientId> = new.auth.clients.known.iter().map(|known| &known.client.id).collect();
    let clients = running.auth.clients.known.iter().map(|known| &known.client.id).filter(|id| !known.contains(id));
    let of_client = |id: &ClientId| (Whose::Client(id.clone()), RevocationReason::ClientDeleted);
    changed.map(of_key).chain(clients.map(of_client)).collect()
}

/// Who opens the gateway to callers without a credential is told so.
fn warn_of_strangers(running: &Auth, new: &Auth) {
    let who = |auth: &Auth| auth.admits_anonymous().then_some(auth.anonymous_on_network);
    if let Some(others) = who(new).filter(|_| who(new) != who(running)) {
        let whom = if others { "EVERYBODY who reaches the public listener" } else { "every program on this machine" };
        tracing::warn!("auth.required is false: {whom} may call without a credential");
    }
}

/// The watched files, each with the digest that it had before it was read last.
pub(super) type Seen = BTreeMap<PathBuf, Digest>;

/// What is in these files. A file that cannot be read counts as empty.
pub(super) async fn digests(files: Vec<PathBuf>) -> Seen {
    let digest = |file: PathBuf| {
        // It may be the key of a certificate.
        let digest = Digest::of(&Zeroizing::new(std::fs::read(&file).unwrap_or_default()));
        (file, digest)
    };
    tokio::task::spawn_blocking(move || files.into_iter().map(digest).collect()).await.unwrap_or_default()
}

/// Announces changes in the directories of some files.
struct Watch {
    watcher: Option<RecommendedWatcher>,
    followed: HashSet<PathBuf>,
}

impl Watch {
    fn new(announce: mpsc::Sender<()>) -> Self {
        let watcher = notify::recommended_watcher(move |_| {
            // Full means that a change is announced already.
            _ = announce.try_send(());
        });
        let watcher =
            watcher.inspect_err(|error| tracing::warn!(%error, "files are polled for changes, not watched")).ok();
        Self { watcher, followed: HashSet::new() }
    }

    /// Follows the directories of these files too. Directories rather than files, because files are often replaced.
    fn follow<'a>(&mut self, files: impl Iterator<Item = &'a PathBuf>) {
        let Some(watcher) = &mut self.watcher else { return };
        for dir in files.filter_map(|file| file.parent()) {
            let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
            if !self.followed.contains(dir) && watcher.watch(dir, RecursiveMode::NonRecursive).is_ok() {
                self.followed.insert(dir.to_owned());
            }
        }
    }
}
