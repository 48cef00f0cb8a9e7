//! What tests of the authorization server stand on: a server on a store in memory with a clock that goes both ways, one
//! client of each kind, one virtual key, one person; and what it takes to come to a code and a grant.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::clients::Clients;
use super::mint::{self, mint};
use super::signing::{Rules, SigningKeys};
use super::token::exchange::{Exchange, exchange};
use super::token::{Issued, Refused};
use super::{AuthorizationServer, Parts};
use crate::audit::{Actor, AuditEvent, OperatorProof, RecordedVerdict};
use crate::config::auth::{Auth, AuthMode, TokenSettings};
use crate::config::{
    self, Binding, ModuleSource, PolicySettings, VaultKey, VaultKeySource, VaultKeyState, WhenAllAbstain,
};
use crate::env::{Clock, Env, Timestamp};
use crate::identity::key::{AllowList, ManagedBy, Standing, VirtualKey};
use crate::identity::user::{Email, Role};
use crate::identity::{Keyring, TokenList};
use crate::ids::{BindingName, ClientId, KekId, KeyName, Principal, RequestId, UserId};
use crate::oauth::client::{Authentication, Client, ClientOrigin, GrantType, KnownClient, Lives, Metadata, Source};
use crate::oauth::grant::{Grace, OnReuse};
use crate::oauth::request::AuthorizationRequest;
use crate::oauth::signing::Algorithm;
use crate::oauth::{Access, IdentitySet, ResourceList};
use crate::outbound::{Fetcher, Outbound, Trusted};
use crate::pipeline::{Services, Snapshot};
use crate::policy::{Engine, PolicySet};
use crate::secret::{DeploymentSecret, Digest, Plaintext, hex};
use crate::store::{Location, Store, audit, authorizations, clients, decisions};
use crate::vault::Vault;

pub(crate) const ISSUER: &str = "https://gateway.example";
pub(crate) const REDIRECT: &str = "https://app.example/callback";
/// A verifier, which belongs to the codes of [`Scene::code`].
pub(crate) const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
/// When the tests begin: 2026, so that an hour back is a time as well.
const START: u64 = 1_790_000_000_000;
/// The secret of the client `app`.
pub(crate) const SECRET: &str = "pcs_hunter2";

/// A clock that a test sets.
#[derive(Clone)]
pub(crate) struct TestClock(Arc<AtomicU64>);

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::Relaxed))
    }
}

/// A server with the public client `public`, the confidential clients `app` (Basic) and `other` (public), and the key `ci`.
pub(crate) struct Scene {
    pub(crate) server: Arc<AuthorizationServer>,
    clock: TestClock,
    /// Writes the decision trail.
    _keeper: JoinSet<()>,
}

impl Scene {
    pub(crate) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    /// With other settings.
    pub(crate) async fn with(change: impl FnOnce(&mut Auth)) -> Self {
        let clock = TestClock(Arc::new(AtomicU64::new(START)));
        let env = Env { clock: Arc::new(clock.clone()), ..Env::system() };
        let store = Store::open(Location::Memory, env.clone()).await.unwrap();
        let mut auth = Auth { mcp: AuthMode::Both, ..Auth::unset() };
        change(&mut auth);
        let snapshot = Arc::new(ArcSwap::from_pointee(snapshot(auth)));
        let vault = vault(&store, &env).await;
        let signing = signing((&store, &vault, &env), ISSUER, &snapshot.load().auth.tokens).await;
        let (decisions, keeper) = decisions::recorder(store.clone(), decisions::Retention::default());
        let mut keepers = JoinSet::new();
        keepers.spawn(keeper.run(CancellationToken::new()));
        let services = Services { env: env.clone(), store: store.clone(), decisions, ..Services::for_tests().await };
        let server = AuthorizationServer::new(Parts {
            env,
            store,
            vault,
            snapshot,
            services: Arc::new(services),
            issuer: ISSUER.to_owned(),
            fetcher: Fetcher::new(Trusted::none()),
            secret: DeploymentSecret::new(&[7; 32]),
            signing,
            clients: Clients::default(),
        });
        let scene = Self { server: Arc::new(server), clock, _keeper: keepers };
        let secret = Authentication::SecretBasic(Plaintext::new(SECRET).digest());
        for (id, authentication) in
            [("public", Authentication::Public), ("other", Authentication::Public), ("app", secret)]
        {
            scene.register(id, authentication).await;
        }
        scene
    }

    /// Registers a client that may do whatever is on.
    pub(crate) async fn register(&self, id: &str, authentication: Authentication) -> Arc<KnownClient> {
        let client = Client {
            id: client_id(id),
            source: Source::Registered { token: Digest::of(b"registration"), lives: Lives::default() },
            metadata: Metadata {
                name: Some("An app".to_owned()),
                redirect_uris: vec![REDIRECT.to_owned()],
                grant_types: vec![GrantType::AuthorizationCode, GrantType::RefreshToken],
                ..Metadata::default()
            },
            authentication,
            on_reuse: OnReuse::RevokeFamily,
            created: self.now(),
            last_used: None,
        };
        clients::register(&self.server.store, client.clone(), 1_000, Actor::System).await.unwrap();
        Arc::new(client.into())
    }

    /// A client that is registered.
    pub(crate) async fn client(&self, id: &str) -> KnownClient {
        clients::get(&self.server.store, &client_id(id)).await.unwrap().expect("it is registered").into()
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(crate) fn forward(&self, by: Duration) {
        self.clock.0.fetch_add(u64::try_from(by.as_millis()).unwrap(), Ordering::Relaxed);
    }

    /// Puts another snapshot into force.
    pub(crate) fn publish(&self, change: impl FnOnce(&mut Snapshot)) {
        let now = self.server.snapshot.load();
        let mut next = now.as_ref().clone();
        change(&mut next);
        self.server.snapshot.store(Arc::new(next));
    }

    /// Lets the policy `consent-rules` decide with this configuration.
    pub(crate) fn decide_by(&self, config: serde_json::Value) {
        let module = ModuleSource::Builtin("consent-rules".to_owned());
        let name = BindingName::parse("rules").unwrap();
        let binding = Binding { config, time: Duration::from_secs(5), ..Binding::new(name, module) };
        let policies = policies(vec![binding], WhenAllAbstain::Deny);
        self.publish(|snapshot| snapshot.policies = Arc::new(policies));
    }

    /// An active person.
    pub(crate) async fn person(&self, email: &str) -> UserId {
        use crate::identity::user::DisplayName;
        use crate::store::users::{self, Creation, NewUser};
        let new = NewUser {
            id: UserId::generate(&self.server.env),
            login: None,
            name: DisplayName::of("Ada"),
            email: Email::parse(email),
            role: Role::User,
            groups: TokenList::default(),
            invited: false,
            password: None,
        };
        match users::create(&self.server.store, new, operator()).await.unwrap() {
            Creation::Created(user) => user.id,
            other => panic!("{other:?}"),
        }
    }

    /// A code of this client for everything that [`access`] has, which the key `ci` has consented to.
    pub(crate) async fn code(&self, client: &str) -> Plaintext {
        self.code_of(client, key("ci"), access()).await
    }

    /// The same for this access, which somebody has consented to.
    pub(crate) async fn code_of(&self, client: &str, principal: Principal, access: Access) -> Plaintext {
        let (store, browser) = (&self.server.store, Digest::of(b"browser"));
        let request = AuthorizationRequest {
            id: RequestId::generate(&self.server.env),
            client: client_id(client),
            redirect_uri: REDIRECT.to_owned(),
            state: None,
            challenge: Plaintext::new(VERIFIER).digest(),
            proof: None,
            resources: access.resources.clone(),
            scopes: access.scopes.clone(),
            browser,
            signed_in_since: None,
            created: Timestamp::default(),
            until: Timestamp::default(),
            chosen: None,
        };
        let id = request.id.clone();
        authorizations::begin(store, request, Duration::from_secs(900), 1_000).await.unwrap();
        authorizations::choose(store, &id, browser, principal.clone(), None).await.unwrap().unwrap();
        let code = mint(&self.server.env, mint::CODE);
        let code_life = Duration::from_secs(60);
        let consent = authorizations::Consent { principal, access, code: code.digest(), code_life, remember: None };
        let approved = authorizations::approve(store, &id, browser, consent, Actor::System).await.unwrap();
        assert!(matches!(approved, authorizations::Approval::Approved(_)), "{approved:?}");
        code
    }

    /// Redeems a code as this client does.
    pub(crate) async fn redeem(&self, client: &str, code: &Plaintext) -> Result<Issued, Refused> {
        let client = self.client(client).await;
        exchange(&self.server, &client, with_code(code)).await.unwrap()
    }

    /// What this client gets for a new code.
    pub(crate) async fn signed_in(&self, client: &str) -> Issued {
        let code = self.code(client).await;
        self.redeem(client, &code).await.unwrap()
    }

    /// The names of the audit trail's lines, oldest first.
    pub(crate) async fn trail(&self) -> Vec<&'static str> {
        let page = audit::list(&self.server.store, None, 200).await.unwrap();
        let names = page.items.iter().rev().map(|row| row.entry.event.name());
        names.filter(|name| !name.starts_with("vault.") && !name.starts_with("signing_key.")).collect()
    }

    pub(crate) async fn last_event(&self) -> AuditEvent {
        audit::list(&self.server.store, None, 1).await.unwrap().items.remove(0).entry.event
    }
}

/// What belongs to a code of [`Scene::code`].
pub(crate) fn with_code(code: &Plaintext) -> Exchange {
    Exchange {
        code: code.clone(),
        redirect_uri: REDIRECT.to_owned(),
        verifier: Some(Plaintext::new(VERIFIER)),
        resources: Vec::new(),
        proof: None,
    }
}

pub(crate) fn operator() -> Actor {
    Actor::Operator(OperatorProof::Socket)
}

pub(crate) fn client_id(id: &str) -> ClientId {
    ClientId::parse(id).unwrap()
}

pub(crate) fn key(name: &str) -> Principal {
    Principal::Key(KeyName::parse(name).unwrap())
}

pub(crate) fn tokens(words: &[&str]) -> TokenList {
    TokenList::parse(words.iter().map(|word| (*word).to_owned()).collect()).unwrap()
}

pub(crate) fn resources(of: &[&str]) -> ResourceList {
    ResourceList::parse(of.iter().map(|resource| (*resource).to_owned()).collect()).unwrap()
}

/// Everything, with two scopes.
pub(crate) fn access() -> Access {
    Access {
        resources: resources(&["https://gateway.example/mcp", "https://gateway.example/mcp/notes"]),
        scopes: tokens(&["mcp", "notes:write"]),
        identities: IdentitySet::default(),
        limits: Default::default(),
    }
}

/// The same client as one of the configuration.
pub(crate) fn configured(client: KnownClient) -> KnownClient {
    KnownClient { origin: ClientOrigin::Configured, ..client }
}

/// A virtual key for everything.
pub(crate) fn virtual_key(name: &str) -> VirtualKey {
    VirtualKey {
        name: KeyName::parse(name).unwrap(),
        digest: Plaintext::new(format!("pk_{name}")).digest(),
        earlier: None,
        allow: AllowList::default(),
        scopes: TokenList::default(),
        groups: TokenList::default(),
        owner: None,
        created: Timestamp::default(),
        expires: None,
        standing: Standing::Enabled,
        managed_by: ManagedBy::Store,
        revision: 1,
    }
}

/// Strict single use.
pub(crate) fn no_grace() -> Grace {
    Grace::new(Duration::ZERO, 64)
}

/// With the key `ci` and nothing else.
pub(crate) fn snapshot(auth: Auth) -> Snapshot {
    Snapshot::for_tests(auth, Keyring::new([virtual_key("ci")]), policies(Vec::new(), WhenAllAbstain::Allow))
}

fn policies(bindings: Vec<Binding>, when_all_abstain: WhenAllAbstain) -> PolicySet {
    static ENGINE: LazyLock<Engine> = LazyLock::new(|| Engine::start(8).unwrap());
    let settings = PolicySettings { bindings, when_all_abstain, max_components: 8, ..PolicySettings::default() };
    PolicySet::load(&settings, &[], &ENGINE, &crate::builtin::module, None, 1)
        .unwrap_or_else(|errors| panic!("{errors}"))
}

/// Keys that are quick to make, and sign at once.
pub(crate) async fn signing(
    (store, vault, env): (&Store, &Vault, &Env),
    issuer: &str,
    tokens: &TokenSettings,
) -> SigningKeys {
    let tokens = TokenSettings { algorithm: Algorithm::Es256, ..tokens.clone() };
    let rules = move || Some(Rules::from(&tokens));
    SigningKeys::start(store.clone(), vault.clone(), env.clone(), issuer.to_owned(), rules).await.unwrap()
}

pub(crate) async fn vault(store: &Store, env: &Env) -> Vault {
    let source = VaultKeySource::Environment { variable: "K1".to_owned(), key: Plaintext::new(hex(&[1; 32])) };
    let key = VaultKey { kid: KekId::parse("k1").unwrap(), state: VaultKeyState::Active, source };
    let cache_ttl = Duration::from_secs(300);
    let settings = config::Vault { keys: vec![key], is_default: false, cache_ttl, allow_core_dumps: false };
    Vault::start(&settings, store.clone(), env.clone(), Outbound::new()).await.unwrap()
}

/// The newest line of the decision trail that has such a verdict, once it is written: operation, principal and reason.
pub(crate) async fn decided(scene: &Scene, verdict: RecordedVerdict) -> (String, Principal, Option<String>) {
    let filter = || decisions::Filter { verdict: Some(verdict), ..decisions::Filter::default() };
    for _ in 0..500 {
        let page = decisions::list(&scene.server.store, filter(), None, 1).await.unwrap();
        if let Some(record) = page.items.into_iter().next() {
            return (record.operation, record.principal, record.reason_code);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("no decision was {verdict}");
}
