//! What tests of the authorization endpoint and of consent stand on: a server on a store in memory, clients, people, keys.

use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::admin::testing::Skewed;
use crate::audit::{Actor, OperatorProof};
use crate::authorization::clients::Clients;
use crate::authorization::testing::signing;
use crate::authorization::{AuthorizationServer, Parts};
use crate::builtin;
use crate::config::{self, VaultKey, VaultKeySource, VaultKeyState};
use crate::connection::lending::{Later, Lender};
use crate::identity::browser::{Method, Surface};
use crate::identity::user::{DisplayName, Login, Role, User};
use crate::identity::{Keyring, TokenList};
use crate::ids::{BrowserSessionId, ClientId, KekId, UserId};
use crate::oauth::Client;
use crate::oauth::client::{Authentication, GrantType, KnownClient, Lives, Metadata, Source};
use crate::oauth::grant::OnReuse;
use crate::outbound::{Fetcher, Outbound, Trusted};
use crate::pipeline::{Services, Snapshot};
use crate::policy::{Engine, PolicySet};
use crate::secret::{DeploymentSecret, Digest, Plaintext, hex};
use crate::store::browser_sessions::{self, Beginning, NewSession};
use crate::store::users::{self, Creation, NewUser};
use crate::store::{Location, Store, clients};
use crate::tasks::Tasks;
use crate::upstream::Upstream;
use crate::vault::Vault;

pub(crate) const ISSUER: &str = "https://gate.example";
pub(crate) const OPERATOR: Actor = Actor::Operator(OperatorProof::Socket);
/// `code_challenge` of RFC 7636 appendix B.
pub(crate) const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";

const BASE: &str = "
[upstreams.notes]
url = 'https://notes.example/mcp'
[upstreams.tracker]
url = 'https://tracker.example/mcp'
[keys.ci]
secret = 'env:pk_ci_0123456789abcdef0123456789abcdef'
allow = [{ upstream = 'notes', tools = ['*'] }]
[keys.gone]
secret = 'env:pk_gone_0123456789abcdef0123456789abcdef'
expires = '2001-01-01T00:00:00Z'
";

/// A server, and the clock that it goes by.
pub(crate) struct Scene {
    pub(crate) server: Arc<AuthorizationServer>,
    pub(crate) clock: Skewed,
}

impl Scene {
    /// With two upstreams, the keys `ci` (for `notes` alone) and `gone` (which has expired), and the registered client
    /// `app`.
    pub(crate) async fn new() -> Self {
        Self::with("").await
    }

    /// The same with more in its configuration.
    pub(crate) async fn with(more: &str) -> Self {
        static ENGINE: LazyLock<Engine> = LazyLock::new(|| Engine::start(4).unwrap());
        let clock = Skewed::right();
        let env = clock.env();
        let store = Store::open(Location::Memory, env.clone()).await.unwrap();
        let text = format!("{BASE}\n{more}");
        let variable = |name: &str| Some(name.to_owned());
        let config =
            config::parse(&text, Path::new("/"), &variable, env.now()).unwrap_or_else(|wrong| panic!("{wrong}"));
        let key = VaultKeySource::Environment { variable: "K".to_owned(), key: Plaintext::new(hex(&[1; 32])) };
        let key = VaultKey { kid: KekId::parse("k1").unwrap(), state: VaultKeyState::Active, source: key };
        let settings = config::Vault { keys: vec![key], is_default: false, ..config.vault.clone() };
        let vault = Vault::start(&settings, store.clone(), env.clone(), Outbound::new()).await.unwrap();
        let start = |settings: &config::Upstream| {
            let outbound = Outbound::new();
            let lender = Arc::new(Later::default());
            let ways = (&outbound, lender as Arc<dyn Lender>);
            let upstream = Upstream::start(settings.clone(), ways, &config.limits, Path::new("/"), &Tasks::new());
            (settings.name.clone(), upstream)
        };
        let policies = PolicySet::load(&config.policy, &config.upstreams, &ENGINE, &builtin::module, None, 1);
        let policies = policies.unwrap_or_else(|wrong| panic!("{wrong}"));
        let snapshot = Snapshot {
            upstreams: Arc::new(config.upstreams.iter().map(start).collect()),
            ..Snapshot::for_tests(config.auth.as_ref().clone(), Keyring::new(config.keys.clone()), policies)
        };
        let services = Services { env: env.clone(), store: store.clone(), ..Services::for_tests().await };
        let signing = signing((&store, &vault, &env), ISSUER, &config.auth.tokens).await;
        let server = Arc::new(AuthorizationServer::new(Parts {
            signing,
            env,
            vault,
            snapshot: Arc::new(ArcSwap::from_pointee(snapshot)),
            services: Arc::new(services),
            issuer: ISSUER.to_owned(),
            fetcher: Fetcher::new(Trusted::none()),
            secret: DeploymentSecret::new(&[7; 32]),
            clients: Clients::default(),
            store,
        }));
        let scene = Self { server, clock };
        scene.register("app", client("app").metadata).await;
        scene
    }

    /// Puts other policies into force.
    pub(crate) fn decide(&self, policies: PolicySet) {
        let now = self.server.snapshot.load();
        let next = Snapshot { policies: Arc::new(policies), ..now.as_ref().clone() };
        self.server.snapshot.store(Arc::new(next));
    }

    /// A client that has registered itself.
    pub(crate) async fn register(&self, id: &str, metadata: Metadata) {
        let client = Client {
            id: ClientId::parse(id).unwrap(),
            source: Source::Registered { token: Digest::of(b"token"), lives: Lives::default() },
            metadata,
            authentication: Authentication::Public,
            on_reuse: OnReuse::RevokeFamily,
            created: self.server.env.now(),
            last_used: None,
        };
        let registered = clients::register(&self.server.store, client, 100, OPERATOR).await.unwrap();
        assert!(matches!(registered, clients::Registration::Registered { .. }), "{registered:?}");
    }

    /// A person with an account.
    pub(crate) async fn person(&self, name: &str) -> User {
        let new = NewUser {
            id: UserId::generate(&self.server.env),
            login: Login::parse(name),
            name: DisplayName::of(name),
            email: None,
            role: Role::User,
            groups: TokenList::default(),
            invited: false,
            password: None,
        };
        match users::create(&self.server.store, new, OPERATOR).await.unwrap() {
            Creation::Created(user) => *user,
            other => panic!("{other:?}"),
        }
    }

    /// The cookie of a browser in which a person has just signed in.
    pub(crate) async fn sign_in(&self, user: &User) -> Plaintext {
        let cookie = Plaintext::new(hex(&self.server.env.random::<16>()));
        let now = users::get(&self.server.store, &user.id).await.unwrap().unwrap();
        let new = NewSession {
            id: BrowserSessionId::generate(&self.server.env),
            user: user.id.clone(),
            seen: now.revision,
            digest: cookie.digest(),
            replaces: None,
            surface: Surface::Public,
            method: Method::Password,
            shown: None,
            idle: Duration::from_secs(12 * 60 * 60),
            life: Duration::from_secs(7 * 24 * 60 * 60),
            agent: "test".to_owned(),
        };
        let begun = browser_sessions::begin(&self.server.store, new).await.unwrap();
        assert!(matches!(begun, Beginning::Begun(_)), "{begun:?}");
        cookie
    }

    /// The names of the audit trail's lines, oldest first.
    pub(crate) async fn trail(&self) -> Vec<&'static str> {
        let page = crate::store::audit::list(&self.server.store, None, 200).await.unwrap();
        page.items.iter().rev().map(|row| row.entry.event.name()).collect()
    }
}

/// A client that has registered itself, for codes and refreshing.
pub(crate) fn client(id: &str) -> KnownClient {
    let client = Client {
        id: ClientId::parse(id).unwrap(),
        source: Source::Operator,
        metadata: Metadata {
            name: Some("An app".to_owned()),
            redirect_uris: ["https://app.example/cb", "http://127.0.0.1:33418/cb", "com.example.app:/cb"]
                .map(str::to_owned)
                .to_vec(),
            grant_types: vec![GrantType::AuthorizationCode, GrantType::RefreshToken],
            ..Metadata::default()
        },
        authentication: Authentication::Public,
        on_reuse: OnReuse::RevokeFamily,
        created: crate::env::Timestamp::default(),
        last_used: None,
    };
    client.into()
}

/// A query with everything that is needed, and this in place of it or besides.
pub(crate) fn query(changed: &[(&str, &str)]) -> String {
    let needed = [
        ("client_id", "app"),
        ("redirect_uri", "https://app.example/cb"),
        ("response_type", "code"),
        ("code_challenge", CHALLENGE),
        ("code_challenge_method", "S256"),
        ("state", "s1"),
    ];
    let kept = needed.iter().filter(|(name, _)| !changed.iter().any(|(other, _)| other == name));
    let pairs = kept.chain(changed.iter().filter(|(_, value)| !value.is_empty()));
    form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}

/// A parameter of an address.
pub(crate) fn parameter(address: &str, name: &str) -> Option<String> {
    let (_, query) = address.split_once('?')?;
    form_urlencoded::parse(query.as_bytes()).find(|(found, _)| found == name).map(|(_, value)| value.into_owned())
}
