//! The upstreams in force: those of the file, and of the store those that are enabled, come to something and have a name
//! of their own.
//!
//! What is in force is published under one lock, so that whatever asked for it last is what holds. A change in the store
//! is made before the old upstream is broken with: the new one is started beside it and takes its place when it has tried
//! once to read what is offered, or after a few seconds. Where that could show a credential to the wrong server, or have
//! the old one judged by what is said of the new one, the old one goes at once. Requests in flight stay where they are.

use std::collections::BTreeMap;
use std::sync::{Arc, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::declared::{self, AllDeclared, Declared, Surroundings, Which, is_same};
use crate::admin::{Control, catalog_of, start_upstream};
use crate::config::{self, Config, UpstreamAuth, UpstreamTransport};
use crate::ids::UpstreamName;
use crate::pipeline::{Snapshot, Upstreams};
use crate::store::StoreError;
use crate::store::changes::Revision;
use crate::upstream::{Health, Upstream};

/// What removed upstreams get to end.
const REMOVAL_PATIENCE: Duration = Duration::from_secs(10);
/// How often upstreams that are no longer used are looked at.
const RETIRE_POLL: Duration = Duration::from_millis(100);
/// Until what came to nothing is tried again.
const MEND_INTERVAL: Duration = Duration::from_secs(30);
/// How long a change is waited for that tries to reach an upstream.
const SETTLING: Duration = Duration::from_secs(6);

/// How often upstreams are read again that somebody else has read meanwhile.
const TRIES: usize = 16;

/// What the published upstreams are made of.
#[derive(Debug, Default)]
pub(in crate::admin) struct Running {
    file: Vec<config::Upstream>,
    pub(super) stored: AllDeclared,
    /// The revision that the stored ones are the state of.
    at: Revision,
    /// How often something was read that counted.
    takes: u64,
    /// Of the stored ones that are not in force, why.
    left_out: BTreeMap<UpstreamName, LeftOut>,
    /// Started beside those whose places they take.
    pub(super) coming: Upstreams,
    /// What was published before, for as long as somebody holds it.
    past: Vec<Weak<Upstreams>>,
}

/// Why an upstream of the store is not in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum LeftOut {
    Disabled,
    /// The file has one of this name.
    InFile,
    Broken(String),
}

/// What is in force, and what is not.
#[derive(Debug, Default)]
struct InForce {
    settings: BTreeMap<UpstreamName, config::Upstream>,
    left_out: BTreeMap<UpstreamName, LeftOut>,
}

fn in_force(file: &[config::Upstream], stored: &AllDeclared) -> InForce {
    let mut all = InForce::default();
    all.settings.extend(file.iter().map(|upstream| (upstream.name.clone(), upstream.clone())));
    for (name, declared) in stored {
        let left_out = match &declared.settings {
            _ if file.iter().any(|upstream| upstream.name == *name) => LeftOut::InFile,
            _ if !declared.declaration.enabled => LeftOut::Disabled,
            None => LeftOut::Broken(declared.trouble.clone().unwrap_or_default()),
            Some(settings) => match bare_besides(&all.settings, settings) {
                Some(reason) => LeftOut::Broken(reason),
                None => {
                    all.settings.insert(name.clone(), (**settings).clone());
                    continue;
                }
            },
        };
        all.left_out.insert(name.clone(), left_out);
    }
    all
}

/// Why an upstream cannot be among these because of its tools' names: of two bare ones they could be the same.
fn bare_besides(others: &BTreeMap<UpstreamName, config::Upstream>, upstream: &config::Upstream) -> Option<String> {
    let mut bare = others.values().filter(|other| !other.prefix && !upstream.prefix && other.name != upstream.name);
    bare.next().map(|other| format!("upstream {} has prefix = false already", other.name))
}

/// The settings of all that are in force with this file.
pub(in crate::admin) fn settings_with(file: &Config, stored: &AllDeclared) -> Vec<config::Upstream> {
    in_force(&file.upstreams, stored).settings.into_values().collect()
}

/// Whether one may serve for a moment where the other is meant: it is shown what was connected for the other, and judged by
/// what is said of the other.
fn may_stand_in(one: &config::Upstream, other: &config::Upstream) -> bool {
    let origin = |upstream: &config::Upstream| match &upstream.transport {
        UpstreamTransport::StreamableHttp { url, .. } => Some(crate::outbound::origin(url)),
        UpstreamTransport::Stdio { .. } => None,
    };
    let program = |upstream: &config::Upstream| match &upstream.transport {
        UpstreamTransport::StreamableHttp { .. } => None,
        UpstreamTransport::Stdio { command, .. } => Some(command.clone()),
    };
    let is_there = origin(one) == origin(other);
    let takes_none = one.auth == UpstreamAuth::None && other.auth == UpstreamAuth::None;
    let is_shown_alike = takes_none || (one.auth == other.auth && one.tls == other.tls && is_there);
    let is_same = is_there && program(one) == program(other);
    is_shown_alike && (is_same || (one.trust == other.trust && one.labels == other.labels))
}

impl Running {
    /// What there is at the start.
    pub(in crate::admin) fn new(file: &Config, (stored, at): (AllDeclared, Revision)) -> Self {
        let mut running = Self { file: file.upstreams.clone(), ..Self::default() };
        running.take(stored, at);
        running
    }

    /// Takes over what was read. Of what is newer already, it takes what has not changed: that was resolved later.
    fn take(&mut self, stored: AllDeclared, at: Revision) {
        self.takes += 1;
        if at >= self.at {
            (self.stored, self.at) = (stored, at);
            return;
        }
        for (name, declared) in stored {
            let is_same = |known: &&mut Declared| is_same(&known.declaration, &declared.declaration);
            if let Some(known) = self.stored.get_mut(&name).filter(is_same) {
                *known = declared;
            }
        }
    }

    /// The settings of all that are in force.
    pub(in crate::admin) fn settings(&mut self) -> Vec<config::Upstream> {
        let InForce { settings, left_out } = in_force(&self.file, &self.stored);
        for name in left_out.iter().filter(|(_, why)| **why == LeftOut::InFile).map(|(name, _)| name) {
            if self.left_out.get(name) != Some(&LeftOut::InFile) {
                tracing::warn!(upstream = %name, "the file and the store have an upstream of this name: that of the file is used");
            }
        }
        self.left_out = left_out;
        settings.into_values().collect()
    }

    fn is_in_file(&self, name: &UpstreamName) -> bool {
        self.file.iter().any(|upstream| upstream.name == *name)
    }

    /// Of an upstream of the store that is not in force, why.
    pub(super) fn why_not(&self, name: &UpstreamName) -> Option<&LeftOut> {
        self.left_out.get(name)
    }
}

impl Control {
    pub(in crate::admin) fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the file has an upstream of this name.
    pub(super) fn is_in_file(&self, name: &UpstreamName) -> bool {
        self.running().is_in_file(name)
    }

    /// What could not be published together with an upstream, if anything.
    pub(super) fn clash_of(&self, upstream: &config::Upstream) -> Option<String> {
        let running = self.running();
        bare_besides(&in_force(&running.file, &running.stored).settings, upstream)
    }

    /// The revision that the published upstreams are the state of.
    pub(in crate::admin) fn upstreams_are_of(&self) -> Revision {
        self.running().at
    }

    /// Reads the upstreams of the store again, by what this configuration says.
    pub(in crate::admin) async fn read_declared(
        &self,
        config: &Config,
        which: Which,
    ) -> Result<(AllDeclared, Revision), StoreError> {
        let known = self.running().stored.clone();
        declared::read((&self.store, &self.vault), &Surroundings::of(config), &known, which).await
    }

    /// Reads those that have changed again, or some more, and publishes what they come to.
    pub(in crate::admin) async fn publish_upstreams(&self, which: Which) -> Result<(), StoreError> {
        for _ in 0..TRIES {
            let config = self.config.load_full();
            let takes = self.running().takes;
            let (stored, at) = self.read_declared(&config, which).await?;
            let mut running = self.running();
            // What it went by is old by now.
            if running.takes != takes {
                if running.at >= at {
                    return Ok(());
                }
                continue;
            }
            running.take(stored, at);
            let next = self.next(&mut running, &config);
            self.put_in_force(&mut running, next);
            return Ok(());
        }
        Err(StoreError::Busy)
    }

    /// Publishes the upstreams of a file that was read anew, with those of the store and with what else `publish` does: it
    /// is given what changes a snapshot, and has to do that.
    pub(in crate::admin) fn publish_reloaded(
        &self,
        config: &Config,
        (stored, at): (AllDeclared, Revision),
        publish: impl FnOnce(&dyn Fn(&mut Snapshot)),
    ) {
        let mut running = self.running();
        running.file.clone_from(&config.upstreams);
        running.take(stored, at);
        let next = self.next(&mut running, config);
        self.put_in_force_by(&mut running, next, publish);
    }

    /// What is to be published now. What is not there yet is started.
    fn next(&self, running: &mut Running, config: &Config) -> Upstreams {
        let present = self.snapshot.load().upstreams.clone();
        let mut waiting = std::mem::take(&mut running.coming);
        let (mut next, mut unwanted) = (Upstreams::new(), Vec::new());
        for settings in running.settings() {
            let name = settings.name.clone();
            let before = present.get(&name);
            if let Some(same) = before.filter(|before| *before.settings() == settings) {
                next.insert(name, same.clone());
                continue;
            }
            let started = match waiting.remove(&name) {
                Some(started) if *started.settings() == settings => started,
                Some(other) => {
                    unwanted.push(other);
                    self.start(&settings, config)
                }
                None => self.start(&settings, config),
            };
            let stays = |before: &&Arc<Upstream>| may_stand_in(before.settings(), &settings);
            match before.filter(stays).filter(|_| !running.is_in_file(&name)) {
                Some(before) => {
                    next.insert(name.clone(), before.clone());
                    running.coming.insert(name, started);
                }
                None => {
                    next.insert(name, started);
                }
            }
        }
        // Nobody has used them, nor will.
        unwanted.extend(waiting.into_values());
        self.end(unwanted, Vec::new());
        next
    }

    fn start(&self, settings: &config::Upstream, config: &Config) -> Arc<Upstream> {
        let started = start_upstream(settings, (&self.outbound, &self.lender), config, &self.tasks);
        self.keep_synced(started.clone());
        started
    }

    /// An upstream has tried to read what it offers: if it waits for the place of another one, it takes that.
    pub(in crate::admin) fn arrive(&self, upstream: &Arc<Upstream>) {
        let mut running = self.running();
        if !is_among(&running.coming, upstream) {
            return;
        }
        running.coming.remove(upstream.name());
        let mut next = (*self.snapshot.load().upstreams).clone();
        next.insert(upstream.name().clone(), upstream.clone());
        self.put_in_force(&mut running, next);
    }

    /// Publishes these upstreams, and ends those that are not among them.
    fn put_in_force(&self, running: &mut Running, next: Upstreams) {
        let settings = running.settings();
        let snapshot = self.snapshot.load_full();
        let is_known = snapshot.policies.knows(&settings) && self.are_open_to_all_keys(&settings);
        // Nobody is told of nothing.
        if !is_known || !are_same(&snapshot.upstreams, &next) {
            self.put_in_force_by(running, next, |change| self.publish_keyed(change));
        }
    }

    fn put_in_force_by(&self, running: &mut Running, next: Upstreams, publish: impl FnOnce(&dyn Fn(&mut Snapshot))) {
        let before = self.snapshot.load().upstreams.clone();
        let next = if are_same(&before, &next) { before.clone() } else { Arc::new(next) };
        // What operators say of an upstream holds at once, whether or not it has been reached with its new settings.
        let settings = running.settings();
        self.open_to_all_keys(&settings);
        publish(&|new: &mut Snapshot| {
            new.upstreams = next.clone();
            new.catalog = catalog_of(&next, &self.pinned);
            if !new.policies.knows(&settings) {
                new.policies = Arc::new(new.policies.beside(&settings));
            }
        });
        let gone: Vec<Arc<Upstream>> = before.values().filter(|old| !is_among(&next, old)).cloned().collect();
        running.past.retain(|past| past.strong_count() > 0);
        running.past.push(Arc::downgrade(&before));
        self.end(gone, running.past.clone());
    }

    /// Ends upstreams once none of the maps that they are in is held by anybody.
    fn end(&self, gone: Vec<Arc<Upstream>>, past: Vec<Weak<Upstreams>>) {
        if !gone.is_empty() {
            self.tasks.spawn(retire(gone, past, self.tasks.stopping().clone()));
        }
    }

    /// Waits until what is in force under a name has tried to reach its upstream, for a few seconds.
    pub(super) async fn until_settled(&self, name: &UpstreamName) {
        let mut published = self.published.subscribe();
        let settled = async {
            loop {
                published.mark_unchanged();
                let is_coming = self.running().coming.contains_key(name);
                let snapshot = self.snapshot.load_full();
                let tried = snapshot.upstreams.get(name).is_none_or(|upstream| *upstream.health() != Health::Starting);
                if (tried && !is_coming) || published.changed().await.is_err() {
                    return;
                }
            }
        };
        // Whoever waits longer sees its state.
        _ = tokio::time::timeout(SETTLING, settled).await;
    }

    /// Tries definitions again that came to nothing, until the gateway stops.
    pub async fn mend_upstreams(self: Arc<Self>) {
        let stopping = self.tasks.stopping().clone();
        let mending = async {
            loop {
                tokio::time::sleep(MEND_INTERVAL).await;
                if self.running().stored.values().any(|declared| declared.trouble.is_some())
                    && let Err(error) = self.publish_upstreams(Which::Troubled).await
                {
                    tracing::debug!(%error, "upstreams of the store could not be read again");
                }
            }
        };
        stopping.run_until_cancelled(mending).await;
    }
}

fn are_same(one: &Upstreams, other: &Upstreams) -> bool {
    one.len() == other.len() && one.values().all(|upstream| is_among(other, upstream))
}

fn is_among(upstreams: &Upstreams, one: &Arc<Upstream>) -> bool {
    upstreams.get(one.name()).is_some_and(|other| Arc::ptr_eq(other, one))
}

/// Ends upstreams once no request can still be using them.
async fn retire(gone: Vec<Arc<Upstream>>, past: Vec<Weak<Upstreams>>, stopping: CancellationToken) {
    let longest_call = gone.iter().map(|upstream| upstream.settings().call_timeout).max().unwrap_or_default();
    let until = Instant::now() + longest_call;
    let is_used = || {
        let held = past.iter().filter_map(Weak::upgrade);
        held.into_iter().any(|held| gone.iter().any(|gone| is_among(&held, gone)))
    };
    while is_used() && Instant::now() < until && !stopping.is_cancelled() {
        tokio::time::sleep(RETIRE_POLL).await;
    }
    for upstream in gone {
        upstream.stop(REMOVAL_PATIENCE).await;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::audit::Actor;
    use crate::env::{Env, Timestamp};
    use crate::store::upstreams::Declaration;

    fn name(name: &str) -> UpstreamName {
        UpstreamName::parse(name).unwrap()
    }

    /// The settings of a section, `a` by its name.
    fn upstream(of: &str, settings: &str) -> config::Upstream {
        let text = format!("[upstreams.{of}]\n{settings}\n");
        let config = config::parse(&text, std::path::Path::new("/"), &|_: &str| None, Env::system().now());
        config.unwrap().upstreams.pop().unwrap()
    }

    fn declared(of: &str, settings: Option<&str>, enabled: bool) -> (UpstreamName, Declared) {
        let at = Timestamp::from_millis(1);
        let declaration = Declaration {
            name: name(of),
            definition: json!({}),
            secrets: BTreeMap::new(),
            enabled,
            revision: 1,
            created: at,
            created_by: Actor::System,
            changed: at,
            changed_by: Actor::System,
        };
        let trouble = settings.is_none().then(|| "env:X is gone".to_owned());
        let settings = settings.map(|settings| Arc::new(upstream(of, settings)));
        (name(of), Declared { declaration: Arc::new(declaration), settings, trouble, turn: Arc::default() })
    }

    #[test]
    fn the_file_comes_first_and_what_comes_to_nothing_harms_nobody() {
        let bare = "command = ['x']\nprefix = false";
        let file = [upstream("a", "command = ['of-the-file']"), upstream("b", bare)];
        let stored = AllDeclared::from([
            declared("a", Some("command = ['of-the-store']"), true),
            declared("c", Some("command = ['x']"), true),
            declared("d", Some("command = ['x']"), false),
            declared("e", None, true),
            declared("f", Some(bare), true),
        ]);
        let InForce { settings, left_out } = in_force(&file, &stored);
        assert_eq!(settings.keys().map(UpstreamName::as_str).collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(settings[&name("a")], file[0]);
        let bare = LeftOut::Broken("upstream b has prefix = false already".to_owned());
        let gone = LeftOut::Broken("env:X is gone".to_owned());
        let expected = [("a", LeftOut::InFile), ("d", LeftOut::Disabled), ("e", gone), ("f", bare)];
        assert_eq!(left_out, expected.map(|(of, why)| (name(of), why)).into());
        assert_eq!(in_force(&[], &stored).settings.len(), 3, "without the file: a, c and f");
    }

    #[test]
    fn a_credential_is_never_shown_to_where_an_upstream_was_before() {
        let plain = |url: &str| upstream("a", &format!("url = '{url}'"));
        let oauth = |url: &str| upstream("a", &format!("url = '{url}'\nauth = {{ kind = 'per-user-oauth' }}"));
        assert!(may_stand_in(&plain("https://a/1"), &plain("https://b/2")), "there is none");
        assert!(may_stand_in(&oauth("https://a/1"), &oauth("https://a/2")));
        assert!(!may_stand_in(&oauth("https://a/1"), &oauth("https://b/1")));
        assert!(!may_stand_in(&plain("https://a/1"), &oauth("https://a/1")));
    }

    #[test]
    fn no_server_is_judged_by_what_is_said_of_another() {
        let at = |url: &str, said: &str| upstream("a", &format!("url = '{url}'\n{said}"));
        let (high, labelled) = ("trust = 'high'", "labels = ['a']");
        assert!(may_stand_in(&at("https://a/1", ""), &at("https://a/2", high)), "it is the same server");
        assert!(may_stand_in(&at("https://a/1", high), &at("https://b/1", high)));
        assert!(!may_stand_in(&at("https://a/1", ""), &at("https://b/1", high)));
        assert!(!may_stand_in(&at("https://a/1", labelled), &at("https://b/1", "")));
        let program = |program: &str, said: &str| upstream("a", &format!("command = ['{program}']\n{said}"));
        assert!(may_stand_in(&program("x", ""), &program("x", high)));
        assert!(may_stand_in(&program("x", ""), &program("y", "")));
        assert!(!may_stand_in(&program("x", ""), &program("y", high)));
        assert!(!may_stand_in(&program("x", ""), &at("https://a/1", high)));
    }

    #[test]
    fn what_was_resolved_again_counts_though_something_else_has_changed_meanwhile() {
        let of = |trust: &str, revision: u64| {
            let (name, declared) = declared("a", Some(&format!("command = ['x']\ntrust = '{trust}'")), true);
            let declaration = Declaration { revision, ..declared.declaration.as_ref().clone() };
            (name, Declared { declaration: Arc::new(declaration), ..declared })
        };
        let trust = |running: &mut Running| running.settings().pop().unwrap().trust;
        let [early, late] = [1, 2].map(|number| serde_json::from_value::<Revision>(json!(number)).unwrap());
        let mut running = Running::default();
        running.take([of("before", 1)].into(), late);
        running.take([of("resolved again", 1)].into(), early);
        assert_eq!((trust(&mut running).as_str(), running.at), ("resolved again", late));
        running.take([of("changed", 2)].into(), late);
        running.take([of("what it was", 1)].into(), early);
        assert_eq!((trust(&mut running).as_str(), running.takes), ("changed", 4));
    }
}
