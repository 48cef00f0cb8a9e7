//! What tests of connecting stand on: a server with people and upstreams that ask for something, and an authorization
//! server and an upstream that say what a test wants.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::Semaphore;

use super::{Answer, Beginner, Connecting, Failed, Parts, Trial};
use crate::authorization::consent::testing::{ISSUER, Scene, parameter};
use crate::config::{self, OAuthClient, UpstreamAuth, UpstreamTransport};
use crate::connection::lending::Later;
use crate::connection::{Access, Holder, Place, Reason};
use crate::connections::issuer::{
    Asked, Exchanged, Issued, Issuer, NoWay, NotExchanged, NotIssued, NotRevoked, Person, Source, Way,
};
use crate::identity::TokenList;
use crate::ids::{KeyName, Principal, UpstreamName, UserId};
use crate::outbound::Outbound;
use crate::pipeline::Snapshot;
use crate::secret::{DeploymentSecret, Digest, Plaintext};
use crate::store::changes::{self, Revision};
use crate::tasks::Tasks;
use crate::upstream::Upstream;

/// The authorization server of the tests.
pub(crate) const PROVIDER: &str = "https://id.example";
/// What it says of an error, which is to be seen nowhere.
pub(crate) const SAID: &str = "the-providers-own-words";

/// What the authorization server says next.
#[derive(Debug, Default)]
pub(crate) struct Script {
    pub(crate) no_way: Option<NoWay>,
    pub(crate) says_issuer: Option<Result<bool, NoWay>>,
    pub(crate) not_issued: Option<NotIssued>,
    /// Scopes of every way that was asked for.
    pub(crate) asked: Vec<Vec<String>>,
    /// Access tokens that were given back.
    pub(crate) revoked: Vec<String>,
}

#[derive(Debug)]
pub(crate) struct Scripted {
    pub(crate) script: Mutex<Script>,
    pub(crate) exchanged: AtomicUsize,
    /// Exchanges that may be answered.
    pub(crate) gate: Semaphore,
}

impl Scripted {
    fn new() -> Self {
        Self { script: Mutex::default(), exchanged: AtomicUsize::new(0), gate: Semaphore::new(Semaphore::MAX_PERMITS) }
    }

    pub(crate) fn exchanges(&self) -> usize {
        self.exchanged.load(Ordering::SeqCst)
    }
}

impl Issuer for Scripted {
    fn way<'a>(&'a self, asked: Asked<'a>) -> BoxFuture<'a, Result<Way, NoWay>> {
        Box::pin(async move {
            let mut script = self.script.lock().unwrap();
            script.asked.push(asked.scopes.to_vec());
            if let Some(no_way) = &script.no_way {
                return Err(no_way.clone());
            }
            let mut scopes = vec!["base".to_owned()];
            scopes.extend(asked.scopes.iter().filter(|scope| *scope != "base").cloned());
            let state = asked.state.expose();
            Ok(Way {
                url: format!("{PROVIDER}/authorize?client_id=c1&state={state}"),
                source: Source {
                    upstream: asked.upstream.name.clone(),
                    issuer: PROVIDER.to_owned(),
                    client: "c1".to_owned(),
                },
                redirect: format!("{}/context-{}", asked.callback, asked.upstream.name),
                scopes: TokenList::parse(scopes).unwrap(),
            })
        })
    }

    fn says_issuer<'a>(&'a self, _: &'a Source) -> BoxFuture<'a, Result<bool, NoWay>> {
        Box::pin(async move { self.script.lock().unwrap().says_issuer.clone().unwrap_or(Ok(false)) })
    }

    fn exchange<'a>(
        &'a self,
        source: &'a Source,
        code: &'a Plaintext,
        verifier: &'a Plaintext,
        redirect: &'a str,
    ) -> BoxFuture<'a, Result<Issued, NotIssued>> {
        Box::pin(async move {
            assert_eq!((source.issuer.as_str(), verifier.expose().len()), (PROVIDER, 43));
            assert!(redirect.starts_with(&format!("{ISSUER}/connect/callback/context-")), "{redirect}");
            self.exchanged.fetch_add(1, Ordering::SeqCst);
            self.gate.acquire().await.unwrap().forget();
            if let Some(not) = &self.script.lock().unwrap().not_issued {
                return Err(not.clone());
            }
            Ok(Issued {
                access: Plaintext::new(format!("access of {}", code.expose())),
                refresh: Some(Plaintext::new(format!("refresh of {}", code.expose()))),
                expires_in: Some(Duration::from_secs(3_600)),
                scopes: None,
            })
        })
    }

    fn refresh<'a>(&'a self, _: &'a Source, _: &'a Plaintext) -> BoxFuture<'a, Result<Issued, NotIssued>> {
        Box::pin(async { Err(NotIssued::Refused(Reason::RefreshRefused)) })
    }

    fn can_vouch_for(&self, _: &UpstreamName, _: &Person) -> Result<(), NotExchanged> {
        unreachable!("nobody connects what is exchanged")
    }

    fn exchange_identity<'a>(
        &'a self,
        _: &'a UpstreamName,
        _: &'a Person,
    ) -> BoxFuture<'a, Result<Exchanged, NotExchanged>> {
        unreachable!("nobody connects what is exchanged")
    }

    fn revoke<'a>(
        &'a self,
        _: &'a Source,
        refresh: Option<&'a Plaintext>,
        access: &'a Plaintext,
    ) -> BoxFuture<'a, Result<(), NotRevoked>> {
        Box::pin(async move {
            assert!(refresh.is_some());
            self.script.lock().unwrap().revoked.push(access.expose().to_owned());
            Ok(())
        })
    }
}

/// An upstream that takes the values it is told to.
#[derive(Debug, Default)]
pub(crate) struct Tried {
    pub(crate) fails: Mutex<Option<Failed>>,
    /// What it was tried with.
    pub(crate) with: Mutex<Vec<BTreeMap<String, String>>>,
}

impl Trial for Tried {
    fn try_headers<'a>(
        &'a self,
        _: &'a config::Upstream,
        headers: &'a BTreeMap<String, Plaintext>,
    ) -> BoxFuture<'a, Result<(), Failed>> {
        Box::pin(async move {
            let seen = headers.iter().map(|(name, value)| (name.clone(), value.expose().to_owned())).collect();
            self.with.lock().unwrap().push(seen);
            self.fails.lock().unwrap().map_or(Ok(()), Err)
        })
    }
}

/// `notes` and `tracker` take tokens, `files` two headers, `open` nothing.
pub(crate) struct Rig {
    pub(crate) scene: Scene,
    pub(crate) issuer: Arc<Scripted>,
    pub(crate) trial: Arc<Tried>,
    pub(crate) connecting: Arc<Connecting>,
    /// Where access was taken away.
    pub(crate) withdrawn: Arc<Mutex<BTreeSet<Place>>>,
    revision: Arc<Mutex<Revision>>,
}

impl Rig {
    pub(crate) async fn new(more: &str) -> Self {
        let upstreams = "[upstreams.files]\nurl = 'https://files.example/mcp'\n[upstreams.open]\nurl = 'https://open.example/mcp'\n";
        let scene = Scene::with(&format!("{upstreams}{more}")).await;
        let headers = ["x-api-key", "x-tenant"].map(str::to_owned).to_vec();
        let oauth = || UpstreamAuth::PerUserOAuth(Box::<OAuthClient>::default());
        ask_for(&scene, &[("notes", oauth()), ("tracker", oauth()), ("files", UpstreamAuth::PerUserHeaders(headers))]);
        let (issuer, trial) = (Arc::new(Scripted::new()), Arc::<Tried>::default());
        let withdrawn = Arc::<Mutex<BTreeSet<Place>>>::default();
        let revision = Arc::new(Mutex::new(Revision::default()));
        let server = &scene.server;
        let (taken, seen) = (withdrawn.clone(), revision.clone());
        let connecting =
            Connecting::new(Parts {
                env: server.env.clone(),
                store: server.store.clone(),
                vault: server.vault.clone(),
                secret: DeploymentSecret::new(&[7; 32]),
                snapshot: server.snapshot.clone(),
                may_use: Arc::new(move |_: &Snapshot, place: &Place| {
                    if taken.lock().unwrap().contains(place) { Access::Withdrawn } else { Access::Granted }
                }),
                revision: Arc::new(move || *seen.lock().unwrap()),
                issuer: issuer.clone(),
                trial: trial.clone(),
                public_url: ISSUER.to_owned(),
                tasks: Tasks::new(),
            });
        let rig = Self { scene, issuer, trial, connecting, withdrawn, revision };
        rig.catch_up().await;
        rig
    }

    /// The snapshot is of the store as it is now.
    pub(crate) async fn catch_up(&self) {
        let now = self.scene.server.store.read(changes::revision).await.unwrap();
        *self.revision.lock().unwrap() = now;
    }

    pub(crate) fn script(&self) -> std::sync::MutexGuard<'_, Script> {
        self.issuer.script.lock().unwrap()
    }

    /// An upstream is elsewhere from now on.
    pub(crate) fn lead(&self, name: &str, url: &str) {
        configure(&self.scene, name, |settings| {
            let UpstreamTransport::StreamableHttp { url: at, .. } = &mut settings.transport else {
                panic!("a program")
            };
            *at = url.parse().unwrap();
        });
    }

    pub(crate) fn withdraw(&self, place: &Place) {
        self.withdrawn.lock().unwrap().insert(place.clone());
    }

    /// A way that is begun: its answer, as the provider gives it.
    pub(crate) async fn begun(
        &self,
        place: &Place,
        browser: &str,
        user: Option<&UserId>,
        next: Option<&str>,
    ) -> Answer {
        let beginner = Beginner { place: place.clone(), browser: digest(browser), user: user.cloned() };
        let begun = self.connecting.begin(beginner, &[], next).await.unwrap();
        Answer {
            state: Plaintext::new(parameter(&begun.url, "state").unwrap()),
            code: Some(Plaintext::new("code1")),
            error: None,
            issuer: Some(PROVIDER.to_owned()),
            redirect: format!("{ISSUER}/connect/callback/context-{}", place.upstream),
            browser: digest(browser),
            user: user.cloned(),
        }
    }
}

/// Has upstreams of a scene ask for these.
fn ask_for(scene: &Scene, auths: &[(&str, UpstreamAuth)]) {
    for (name, auth) in auths {
        configure(scene, name, |settings| settings.auth = auth.clone());
    }
}

/// Has an upstream of a scene be otherwise.
fn configure(scene: &Scene, name: &str, change: impl FnOnce(&mut config::Upstream)) {
    let now = scene.server.snapshot.load();
    let mut upstreams = (*now.upstreams).clone();
    let nothing = |_: &str| None;
    let limits = config::parse("", Path::new("/"), &nothing, scene.server.env.now()).unwrap().limits;
    let name = upstream(name);
    let mut settings = upstreams[&name].settings().clone();
    change(&mut settings);
    let lender = Arc::new(Later::default());
    let started = Upstream::start(settings, (&Outbound::new(), lender), &limits, Path::new("/"), &Tasks::new());
    upstreams.insert(name, started);
    scene.server.snapshot.store(Arc::new(Snapshot { upstreams: Arc::new(upstreams), ..Snapshot::clone(&now) }));
}

pub(crate) fn digest(browser: &str) -> Digest {
    Digest::of(browser.as_bytes())
}

pub(crate) fn upstream(name: &str) -> UpstreamName {
    UpstreamName::parse(name).unwrap()
}

pub(crate) fn of_key(key: &str, at: &str) -> Place {
    Place { holder: Holder::Of(Principal::Key(KeyName::parse(key).unwrap())), upstream: upstream(at) }
}

pub(crate) fn of_user(user: &UserId, at: &str) -> Place {
    Place { holder: Holder::Of(Principal::User(user.clone())), upstream: upstream(at) }
}
