//! The keeper over a store in memory and a scripted authorization server.

mod ahead;
mod ending;
mod exchanging;
mod lending;
mod property;
mod refused;
mod renewing;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;
use tokio::sync::{Semaphore, watch};

use super::{Keeper, Parts};
use crate::audit::{Actor, AuditEvent};
use crate::authorization::testing;
use crate::config::auth::Auth;
use crate::connection::lending::{Kind, Lack, Lender as _, Lent, Rejected, Wanted, Withheld};
use crate::connection::{Access, Connection, Credential, Holder, Origin, Place, Reason, State, Tokens, values};
use crate::connections::issuer::{
    Asked, Exchanged, Issued, Issuer, NoWay, NotExchanged, NotIssued, NotRevoked, Person, Source, Way,
};
use crate::env::{Clock, Env, Timestamp};
use crate::identity::TokenList;
use crate::identity::user::{DisplayName, Role};
use crate::ids::{ConnectionId, Principal, UpstreamName, UserId};
use crate::secret::Plaintext;
use crate::store::connections::{self, NewCredential, Put, Secret, sealed_at};
use crate::store::users::{self, Creation, NewUser};
use crate::store::{Location, Store, audit, changes};
use crate::tasks::Tasks;
use crate::vault::Vault;

/// When the tests begin.
const START: u64 = 1_790_000_000_000;
/// Whoever has an account.
const PERSON: &str = "0a0a0a0a0a0a0a0a0a0a0a0a";
const ISSUER: &str = "https://id.example";
const HOUR: Duration = Duration::from_secs(3_600);
/// Longer than any of these tests waits for something that comes to pass.
const LONG: Duration = Duration::from_secs(60);

#[derive(Clone)]
struct TestClock(Arc<AtomicU64>);

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::Relaxed))
    }
}

/// An authorization server that says what it is told to say, or else gives numbered tokens of an hour.
struct Scripted {
    /// Refresh tokens that it was shown, in order.
    refreshed: Mutex<Vec<String>>,
    sources: Mutex<Vec<Source>>,
    /// What it was told to revoke: the refresh token and the access token.
    revoked: Mutex<Vec<(Option<String>, String)>>,
    answers: Mutex<VecDeque<Result<Issued, NotIssued>>>,
    /// Whom the gateway vouched for, in order.
    vouched: Mutex<Vec<UserId>>,
    exchanges: Mutex<VecDeque<Result<Exchanged, NotExchanged>>>,
    /// People have nothing by which it is to know them.
    knows_nobody: AtomicBool,
    revoking: Mutex<VecDeque<Result<(), NotRevoked>>>,
    /// If there is one, each answer costs a permit.
    gate: Mutex<Option<Arc<Semaphore>>>,
    /// How often it was asked.
    asked: watch::Sender<usize>,
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
}

impl Scripted {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            refreshed: Mutex::default(),
            sources: Mutex::default(),
            revoked: Mutex::default(),
            answers: Mutex::default(),
            vouched: Mutex::default(),
            exchanges: Mutex::default(),
            knows_nobody: AtomicBool::default(),
            revoking: Mutex::default(),
            gate: Mutex::default(),
            asked: watch::Sender::new(0),
            at_once: AtomicUsize::new(0),
            most_at_once: AtomicUsize::new(0),
        })
    }

    fn will(&self, answer: Result<Issued, NotIssued>) {
        self.answers.lock().unwrap().push_back(answer);
    }

    fn will_revoke(&self, answer: Result<(), NotRevoked>) {
        self.revoking.lock().unwrap().push_back(answer);
    }

    /// From now on it answers for permits only.
    fn hold(&self) -> Arc<Semaphore> {
        let gate = Arc::new(Semaphore::new(0));
        *self.gate.lock().unwrap() = Some(gate.clone());
        gate
    }

    fn refreshes(&self) -> usize {
        self.refreshed.lock().unwrap().len()
    }

    /// Waits until it was asked so often.
    async fn was_asked(&self, times: usize) {
        let mut asked = self.asked.subscribe();
        tokio::time::timeout(LONG, asked.wait_for(|asked| *asked >= times)).await.expect("it is asked").unwrap();
    }

    async fn pass(&self) {
        let now = self.at_once.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_at_once.fetch_max(now, Ordering::SeqCst);
        // Before anybody hears of it: whoever waits for that may change it.
        let gate = self.gate.lock().unwrap().clone();
        self.asked.send_modify(|asked| *asked += 1);
        if let Some(gate) = gate {
            gate.acquire().await.unwrap().forget();
        }
        self.at_once.fetch_sub(1, Ordering::SeqCst);
    }
}

impl std::fmt::Debug for Scripted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Scripted")
    }
}

impl Issuer for Scripted {
    fn way<'a>(&'a self, _: Asked<'a>) -> BoxFuture<'a, Result<Way, NoWay>> {
        unreachable!("a keeper sends nobody there")
    }

    fn says_issuer<'a>(&'a self, _: &'a Source) -> BoxFuture<'a, Result<bool, NoWay>> {
        unreachable!("a keeper sends nobody there")
    }

    fn exchange<'a>(
        &'a self,
        _: &'a Source,
        _: &'a Plaintext,
        _: &'a Plaintext,
        _: &'a str,
    ) -> BoxFuture<'a, Result<Issued, NotIssued>> {
        unreachable!("a keeper has no codes")
    }

    fn refresh<'a>(&'a self, source: &'a Source, refresh: &'a Plaintext) -> BoxFuture<'a, Result<Issued, NotIssued>> {
        Box::pin(async move {
            let number = {
                let mut refreshed = self.refreshed.lock().unwrap();
                refreshed.push(refresh.expose().to_owned());
                refreshed.len()
            };
            self.sources.lock().unwrap().push(source.clone());
            self.pass().await;
            let scripted = self.answers.lock().unwrap().pop_front();
            scripted.unwrap_or_else(|| Ok(issued(&format!("new-{number}"), Some(&format!("next-{number}")))))
        })
    }

    fn can_vouch_for(&self, _: &UpstreamName, _: &Person) -> Result<(), NotExchanged> {
        if self.knows_nobody.load(Ordering::SeqCst) { Err(NotExchanged::Nobody) } else { Ok(()) }
    }

    fn exchange_identity<'a>(
        &'a self,
        _: &'a UpstreamName,
        person: &'a Person,
    ) -> BoxFuture<'a, Result<Exchanged, NotExchanged>> {
        Box::pin(async move {
            let number = {
                let mut vouched = self.vouched.lock().unwrap();
                vouched.push(person.user.id.clone());
                vouched.len()
            };
            self.pass().await;
            let scripted = self.exchanges.lock().unwrap().pop_front();
            scripted.unwrap_or_else(|| Ok(exchanged(&format!("for-{number}"), Some(HOUR))))
        })
    }

    fn revoke<'a>(
        &'a self,
        _: &'a Source,
        refresh: Option<&'a Plaintext>,
        access: &'a Plaintext,
    ) -> BoxFuture<'a, Result<(), NotRevoked>> {
        Box::pin(async move {
            let refresh = refresh.map(|refresh| refresh.expose().to_owned());
            self.revoked.lock().unwrap().push((refresh, access.expose().to_owned()));
            self.pass().await;
            self.revoking.lock().unwrap().pop_front().unwrap_or(Ok(()))
        })
    }
}

/// What an exchange gives.
fn exchanged(access: &str, expires_in: Option<Duration>) -> Exchanged {
    let scopes = TokenList::parse(words(&["read"])).unwrap();
    Exchanged {
        access: Plaintext::new(access),
        expires_in,
        scopes,
        issuer: ISSUER.to_owned(),
        subject: "ada".to_owned(),
    }
}

/// Tokens of an hour.
fn issued(access: &str, refresh: Option<&str>) -> Issued {
    let (access, refresh) = (Plaintext::new(access), refresh.map(Plaintext::new));
    Issued { access, refresh, expires_in: Some(HOUR), scopes: None }
}

fn later() -> NotIssued {
    NotIssued::Later { retry_after: None }
}

/// A keeper with what is around it, and one person.
struct Scene {
    clock: TestClock,
    env: Env,
    store: Store,
    vault: Vault,
    issuer: Arc<Scripted>,
    /// Where access is not granted.
    access: Arc<Mutex<HashMap<Place, Access>>>,
    tasks: Tasks,
    keeper: Arc<Keeper>,
}

impl Scene {
    async fn new() -> Self {
        let (clock, env, store) = memory().await;
        let vault = testing::vault(&store, &env).await;
        Self::over(clock, env, store, vault, Scripted::new())
    }

    fn over(clock: TestClock, env: Env, store: Store, vault: Vault, issuer: Arc<Scripted>) -> Self {
        let (access, tasks) = (Arc::<Mutex<HashMap<Place, Access>>>::default(), Tasks::new());
        let keeper = keeper((&env, &store, &vault), &issuer, &access, &tasks);
        Self { clock, env, store, vault, issuer, access, tasks, keeper }
    }

    /// Another gateway on the same store, with the same authorization server.
    fn replica(&self, number: u64) -> Self {
        let (store, tasks) = (self.store.as_replica(number), Tasks::new());
        let keeper = keeper((&self.env, &store, &self.vault), &self.issuer, &self.access, &tasks);
        Self {
            clock: self.clock.clone(),
            env: self.env.clone(),
            store,
            vault: self.vault.clone(),
            issuer: self.issuer.clone(),
            access: self.access.clone(),
            tasks,
            keeper,
        }
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn forward(&self, by: Duration) {
        self.clock.0.fetch_add(u64::try_from(by.as_millis()).unwrap(), Ordering::Relaxed);
    }

    fn set_access(&self, place: &Place, access: Access) {
        self.access.lock().unwrap().insert(place.clone(), access);
    }

    async fn get(&self, place: &Place) -> Option<Connection> {
        connections::get(&self.store, place).await.unwrap()
    }

    async fn state(&self, place: &Place) -> State {
        self.get(place).await.expect("it is there").state
    }

    /// Stores tokens in the place of those that are there. `life` is how long the access token lives.
    async fn connect(&self, place: &Place, access: &str, refresh: Option<&str>, life: Option<Duration>) -> u64 {
        let (id, revision) = self.next(place).await;
        let credential = self.tokens((place, &id, revision), access, refresh, life).await;
        self.put(place, id, revision, credential).await
    }

    /// Tokens that are sealed for this place.
    async fn tokens(
        &self,
        (place, id, revision): (&Place, &ConnectionId, u64),
        access: &str,
        refresh: Option<&str>,
        life: Option<Duration>,
    ) -> Credential {
        let at = |secret| sealed_at(place, id, revision, secret);
        let refresh = match refresh {
            Some(refresh) => Some(self.vault.seal(&at(Secret::Refresh), refresh.as_bytes()).await.unwrap()),
            None => None,
        };
        Credential::OAuth(Tokens {
            issuer: ISSUER.to_owned(),
            client: "c1".to_owned(),
            access: self.vault.seal(&at(Secret::Access), access.as_bytes()).await.unwrap(),
            refresh,
            scopes: TokenList::parse(words(&["read", "write"])).unwrap(),
            expires: life.map(|life| self.now().after(life)),
        })
    }

    /// Stores values of headers in the place of those that are there.
    async fn give(&self, place: &Place, given: &[(&str, &str)]) -> u64 {
        let (id, revision) = self.next(place).await;
        let given: BTreeMap<String, Plaintext> =
            given.iter().map(|(name, value)| ((*name).to_owned(), Plaintext::new(*value))).collect();
        let at = sealed_at(place, &id, revision, Secret::Headers);
        let sealed = self.vault.seal(&at, values::written(&given).expose()).await.unwrap();
        let credential = Credential::Headers { names: given.into_keys().collect(), values: sealed };
        self.put(place, id, revision, credential).await
    }

    /// The id that a connection has or will have here, and its next revision.
    async fn next(&self, place: &Place) -> (ConnectionId, u64) {
        let there = self.get(place).await;
        there.map_or_else(|| (ConnectionId::generate(&self.env), 1), |there| (there.id, there.revision + 1))
    }

    async fn put(&self, place: &Place, id: ConnectionId, revision: u64, credential: Credential) -> u64 {
        let replaces = (revision > 1).then(|| revision - 1);
        let new = NewCredential { place: place.clone(), id, replaces, origin: None, credential };
        let of = self.store.read(changes::revision).await.unwrap();
        let put = connections::put(&self.store, new, of, |_: &Place| Access::Granted, Actor::System).await.unwrap();
        assert_eq!(put, Put::Stored(revision));
        revision
    }

    /// A connection whose access token has ended.
    async fn ended(&self, place: &Place) {
        self.connect(place, "old", Some("used"), Some(HOUR)).await;
        self.forward(HOUR);
    }

    fn lend<'a>(&'a self, place: &Place) -> impl Future<Output = Result<String, Withheld>> + use<'a> {
        let wish = wanted(place);
        async move { self.keeper.lend(&wish).await.map(|lent| bearer(&lent)) }
    }

    async fn events(&self) -> Vec<AuditEvent> {
        audit::list(&self.store, None, 200).await.unwrap().items.into_iter().map(|row| row.entry.event).collect()
    }
}

async fn memory() -> (TestClock, Env, Store) {
    let clock = TestClock(Arc::new(AtomicU64::new(START)));
    let env = Env { clock: Arc::new(clock.clone()), ..Env::system() };
    let store = Store::open(Location::Memory, env.clone()).await.unwrap();
    let new = NewUser {
        id: UserId::parse(PERSON).unwrap(),
        login: None,
        name: DisplayName::of("Ada"),
        email: None,
        role: Role::User,
        groups: TokenList::default(),
        invited: false,
        password: None,
    };
    assert!(matches!(users::create(&store, new, Actor::System).await.unwrap(), Creation::Created(_)));
    (clock, env, store)
}

fn keeper(
    around: (&Env, &Store, &Vault),
    issuer: &Arc<Scripted>,
    access: &Arc<Mutex<HashMap<Place, Access>>>,
    tasks: &Tasks,
) -> Arc<Keeper> {
    let access = access.clone();
    let may_use = move |place: &Place| access.lock().unwrap().get(place).copied().unwrap_or(Access::Granted);
    Keeper::new(parts(around, issuer, tasks.clone(), may_use))
}

fn parts(
    (env, store, vault): (&Env, &Store, &Vault),
    issuer: &Arc<Scripted>,
    tasks: Tasks,
    may_use: impl Fn(&Place) -> Access + Send + Sync + 'static,
) -> Parts {
    Parts {
        env: env.clone(),
        store: store.clone(),
        vault: vault.clone(),
        snapshot: Arc::new(ArcSwap::from_pointee(testing::snapshot(Auth::unset()))),
        may_use: Arc::new(move |_, place| may_use(place)),
        issuer: issuer.clone(),
        replica: store.replica().clone(),
        tasks,
    }
}

fn place(holder: &str) -> Place {
    Place { holder: Holder::parse(holder).expect("it is a holder"), upstream: UpstreamName::parse("notes").unwrap() }
}

fn ci() -> Place {
    place("key:ci")
}

fn user() -> Place {
    place(&format!("user:{PERSON}"))
}

fn at(holder: &str, upstream: &str) -> Place {
    Place { upstream: UpstreamName::parse(upstream).unwrap(), ..place(holder) }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// Where the upstream of most of these is.
fn origin() -> Origin {
    Origin::of_url(&"https://notes.example/mcp".parse().unwrap())
}

fn wanted(place: &Place) -> Wanted {
    Wanted { place: place.clone(), kind: Kind::OAuth, origin: origin(), scopes: None, max_age: None }
}

fn wanted_headers(place: &Place, names: &[&str]) -> Wanted {
    Wanted { kind: Kind::Headers(words(names)), ..wanted(place) }
}

/// The token that is sent.
fn bearer(lent: &Lent) -> String {
    let [(name, value)] = &lent.headers[..] else { panic!("{lent:?}") };
    assert_eq!(name, "authorization");
    assert!(value.is_sensitive());
    value.to_str().unwrap().strip_prefix("Bearer ").expect("it is a bearer token").to_owned()
}

/// All that is sent.
fn sent(lent: &Lent) -> Vec<String> {
    lent.headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect()
}

fn missing(lack: Lack) -> Withheld {
    Withheld::Missing(lack)
}

fn not_connected() -> Withheld {
    missing(Lack::NotConnected)
}

fn reauth(reason: Reason) -> Withheld {
    missing(Lack::NeedsReauth(reason))
}

fn principal_of(place: &Place) -> Principal {
    match &place.holder {
        Holder::Of(principal) => principal.clone(),
        Holder::Shared => panic!("it is everyone's"),
    }
}
