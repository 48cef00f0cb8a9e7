//! The composition root: the only module that knows all others.
//!
//! [`serve`] is what `main` and the tests call. It starts everything in order, serves until told to stop, drains, and
//! leaves nothing behind; when a step of the start fails, what the steps before it began is ended first.

use std::fmt;
use std::fs;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::admin::audit_export::{ExportState, Exporter as AuditExporter};
use crate::admin::tails::Tails;
use crate::admin::{BuildError, Control};
use crate::audit::{Actor, AuditEvent};
use crate::authorization::clients::Clients;
use crate::authorization::resource::{self, ProtectedResource, Trusted};
use crate::authorization::set_up::NoLink;
use crate::authorization::signing::{Rules, SigningKeys};
use crate::authorization::standing::Standing;
use crate::authorization::{AuthorizationServer, Fault, Parts};
use crate::certificate::Shown;
use crate::config::{self, Config, Keeping, PostgresHost, SslMode, StoreUrl};
use crate::connections::provider::Voucher;
use crate::env::Env;
use crate::http::api::metrics::{Slow, Watched};
pub use crate::http::api::openapi::text as openapi;
use crate::http::api::{self as admin_api, Api, Operators, Turns, Upkeep};
use crate::http::console::Console;
use crate::http::guard::{Front, HostGuard};
use crate::http::mcp::{self, Mcp};
use crate::http::oauth::OAuth;
use crate::http::oauth::cookies::Kind;
use crate::http::replica::{Directory, Replicas};
use crate::http::serve::{self as edge, Meter, Socket};
use crate::http::{admin_router, public_router, replica_router, socket_router};
use crate::ids::ReplicaId;
use crate::outbound::{Fetcher, Outbound};
use crate::pipeline::elicitations::Elicitations;
use crate::pipeline::personal::PersonalCatalogs;
use crate::pipeline::traffic::Traffic;
use crate::pipeline::{Meters, Services};
use crate::policy::{self, Engine};
use crate::secret::{DeploymentSecret, Digest, Plaintext, hex};
use crate::store::follower::{Follower, Subscriber};
use crate::store::sweeper::Sweeper;
use crate::store::{self, Store, StoreError, decisions, recordings};
use crate::supervisor::Supervisor;
use crate::tasks::Tasks;
use crate::telemetry::{self, Tracer};
use crate::vault::deployment::DeploymentSecretError;
use crate::vault::{self, Vault};

mod connections;

use connections::Connections;

/// Name of the file in `data_dir` that holds the operator token.
pub const OPERATOR_TOKEN: &str = "operator-token";

/// What `/metrics` calls the listeners.
const LISTENERS: [&str; 4] = ["public", "socket", "admin", "replica"];
/// Their places among these.
const PUBLIC: usize = 0;
const SOCKET: usize = 1;
const ADMIN: usize = 2;
const REPLICA: usize = 3;

/// Directory in `data_dir` of compiled policies.
const CODE_CACHE: &str = "policy-cache";
/// Name of the file in `data_dir` that held the deployment secret before there was a vault.
const DEPLOYMENT_SECRET: &str = "deployment-secret";

/// What background tasks get to end once they were asked to.
const STOP_PATIENCE: Duration = Duration::from_secs(10);
/// What an exchange with an authorization server gets to end, which may take it longer than others.
const EXCHANGE_PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks for data keys whose time in memory is over.
const VAULT_TIDY_INTERVAL: Duration = Duration::from_secs(15);

/// Sockets that are bound already.
#[derive(Debug)]
pub struct Listeners {
    pub public: TcpListener,
    pub admin: Option<TcpListener>,
    /// In place of the admin socket that would be made. Nobody else may be able to connect to it.
    pub admin_socket: Option<UnixListener>,
    /// For other replicas.
    pub replica: Option<TcpListener>,
}

/// Why the gateway did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the data directory {} cannot be used", path.display())]
    DataDir {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the secret file {} cannot be used", path.display())]
    SecretFile {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the store cannot be opened")]
    Store(#[source] StoreError),
    #[error("the vault cannot be opened")]
    Vault(#[from] vault::OpenError),
    #[error("the vault does not give the deployment secret")]
    DeploymentSecret(#[from] DeploymentSecretError),
    #[error("the keys that sign access tokens cannot be used")]
    SigningKeys(#[source] Fault),
    #[error("the policy engine cannot be started")]
    Engine(#[source] policy::EngineError),
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error("the admin socket {} cannot be opened", path.display())]
    AdminSocket {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the listener has no address")]
    Listener(#[source] io::Error),
    #[error("the authorization server cannot be started")]
    Authorization(#[from] Fault),
    #[error(
        "auth.required = false on {listener} would let in everybody who reaches it: listen on a loopback address, or set \
         auth.anonymous_on_network = true if that is meant"
    )]
    Anonymous { listener: SocketAddr },
    #[error(
        "the admin listener is at {listener}, where others reach it, and has no certificate: set listen.admin_tls, or have \
         it on a loopback address"
    )]
    ExposedAdmin { listener: SocketAddr },
    #[error("TLS cannot be offered")]
    Tls(#[source] edge::TlsError),
    #[error("SIGHUP cannot be listened for")]
    Signal(#[source] io::Error),
    #[error("an entry of allowed_hosts or allowed_origins, or admin_url, is not valid")]
    Guard(#[source] crate::http::guard::InvalidEntry),
}

/// Runs a gateway until `shutdown` resolves and everything has ended.
///
/// # Errors
/// [`StartError`] if it cannot be started; nothing is left running then.
pub async fn serve(
    listeners: Listeners,
    config: Config,
    env: Env,
    shutdown: impl Future<Output = ()>,
) -> Result<(), StartError> {
    serve_under(Supervisor::none(), listeners, config, env, shutdown, None::<fn(&Plaintext)>).await
}

/// The same, and tells a supervisor how it goes. Where nobody is an owner yet, `tell` is told the link with which the first one
/// makes their account: a secret, for whoever sees the start.
///
/// # Errors
/// As [`serve`].
pub async fn serve_under(
    supervisor: Supervisor,
    listeners: Listeners,
    config: Config,
    env: Env,
    shutdown: impl Future<Output = ()>,
    tell: Option<impl FnOnce(&Plaintext)>,
) -> Result<(), StartError> {
    // It is heard of from the start to the end, however long the end takes.
    let alive = Tasks::new();
    alive.spawn(supervisor.clone().keep_alive(alive.stopping().clone()));
    let mut gateway = Gateway::new(config.edge.drain_timeout);
    let (delay, status) = (config.edge.drain_delay, format!("serving {}", config.public_url.as_str()));
    let started = gateway.start(listeners, config, env, &supervisor).await;
    if started.is_ok() {
        supervisor.ready(&status);
        if let (Some(console), Some(tell)) = (gateway.console.take(), tell) {
            tell_set_up_link(&console, tell).await;
        }
        shutdown.await;
        tracing::info!("stopping");
        supervisor.stopping();
        gateway.wind_down(delay).await;
    }
    gateway.stop().await;
    alive.stop(STOP_PATIENCE).await;
    started
}

/// Everything that has to be ended, as far as it was started.
struct Gateway {
    drain_timeout: Duration,
    /// See [`edge::Listener::leaving`].
    leaving: CancellationToken,
    /// The listeners' own tasks.
    edges: Tasks,
    /// Requests in flight.
    requests: Tasks,
    /// What is said to authorization servers: an answer that is lost loses a connection.
    exchanges: Tasks,
    /// Upstreams, watchers, sweepers.
    background: Tasks,
    /// The decision trail's keeper, which ends after everything that writes to it.
    trail: Tasks,
    engine: Option<Engine>,
    store: Option<Store>,
    control: Option<Arc<Control>>,
    admin_socket: Option<PathBuf>,
    /// The pages of an admin listener that only this machine reaches.
    console: Option<Arc<Console>>,
}

impl Gateway {
    fn new(drain_timeout: Duration) -> Self {
        Self {
            drain_timeout,
            leaving: CancellationToken::new(),
            edges: Tasks::new(),
            requests: Tasks::new(),
            exchanges: Tasks::new(),
            background: Tasks::new(),
            trail: Tasks::new(),
            engine: None,
            store: None,
            control: None,
            admin_socket: None,
            console: None,
        }
    }

    async fn start(
        &mut self,
        listeners: Listeners,
        config: Config,
        env: Env,
        supervisor: &Supervisor,
    ) -> Result<(), StartError> {
        refuse_exposed_admin(&config, listeners.admin.as_ref())?;
        make_private_dir(&config.data_dir)
            .map_err(|source| StartError::DataDir { path: config.data_dir.clone(), source })?;
        let operator_token = keep_secret(&config.data_dir.join(OPERATOR_TOKEN), &env)?;

        let store = Store::open(location(&config.store), env.clone()).await.map_err(StartError::Store)?;
        self.store = Some(store.clone());
        // From here on time is the store's, and nothing that changes in it goes unnoticed.
        let (env, clock) = env.adjustable();
        let upkeep = config.upkeep.clone();
        let following = Follower::begin(store.clone(), clock.clone(), upkeep.max_staleness);
        let follower = following.await.map_err(StartError::Store)?;
        let vault = Vault::start(&config.vault, store.clone(), env.clone(), Outbound::new()).await?;
        self.background.spawn(tidy_vault(vault.clone(), self.background.stopping().clone()));
        let secret = deployment_secret(&vault, &config.data_dir.join(DEPLOYMENT_SECRET)).await?;
        let (recorder, keeper) = decisions::recorder(store.clone(), retention(upkeep.decisions));
        self.trail.spawn(keeper.run(self.trail.stopping().clone()));
        let sweeper = Sweeper::new(store.clone(), upkeep.audit_retention);
        let sweeping = sweeper.state();
        self.background.spawn(sweeper.run(self.background.stopping().clone()));

        // For what is handed out and for what is kept sealed.
        let secret = || DeploymentSecret::new(Digest::of(secret.expose().as_bytes()).as_bytes());
        let code = code_cache(&config.data_dir.join(CODE_CACHE), secret());
        let engine = Engine::start_with(config.policy.max_components, env.clone(), code).map_err(StartError::Engine)?;
        self.engine = Some(engine.clone());
        let (recordings, keeper) = recordings::recorder(store.clone(), retention(upkeep.recordings), secret());
        self.trail.spawn(keeper.run(self.trail.stopping().clone()));
        let freshness = follower.freshness();
        let state = (store.clone(), freshness.clone());
        let control =
            Control::build(config.clone(), env.clone(), state, engine, secret(), vault, &self.background).await?;
        self.control = Some(control.clone());
        // Nobody else has set it.
        _ = control.supervisor.set(supervisor.clone());
        let standing = Standing::load(store.clone(), env.clone()).await?;
        let snapshot = control.snapshot.clone();
        let rules = move || {
            let auth = snapshot.load().auth.clone();
            auth.has_server().then(|| Rules::from(&auth.tokens))
        };
        let issuer = config.public_url.as_str().to_owned();
        let signing = SigningKeys::start(store.clone(), control.vault.clone(), env.clone(), issuer, rules);
        let signing = signing.await.map_err(StartError::SigningKeys)?;
        self.background.spawn(signing.clone().run(self.background.stopping().clone()));
        let clients = Clients::default();
        let replicas = replicas(&config, &env, secret(), &store, listeners.replica.as_ref())?;
        let voucher = signing.clone();
        let voucher: Voucher = Arc::new(move |assertion| voucher.vouch(assertion).map(Plaintext::new));
        let connections = Connections::new((&config, voucher), &env, &control, replicas.id(), &self.exchanges);
        let elicitations = Arc::new(Elicitations::default());
        let followers: Vec<Arc<dyn Subscriber>> = vec![
            standing.clone(),
            Arc::new(signing.clone()),
            Arc::new(clients.clone()),
            connections.keeper.clone(),
            control.clone(),
            elicitations.clone(),
        ];
        self.background.spawn(follower.run(followers, self.background.stopping().clone()));
        connections.keeper.start();
        self.background.spawn(control.clone().follow_policies());
        self.background.spawn(control.clone().mend_upstreams());
        self.background.spawn(control.clone().reconcile(sweeping.clone()));

        let (shadows, runner) = policy::shadows();
        self.background.spawn(runner.run(self.background.stopping().clone()));
        let services = Arc::new(Services {
            env: env.clone(),
            replica: replicas.id().clone(),
            secret: secret(),
            public_url: config.public_url.as_str().to_owned(),
            lender: control.lender.clone(),
            elicitations,
            store: store.clone(),
            decisions: recorder,
            recordings,
            shadows,
            list_page: config.limits.list_page,
            ask_timeout: config.limits.ask_timeout,
            task_tools: Services::task_tools(),
            spent: Services::spent(),
            personal: PersonalCatalogs::new(control.lists_told.clone()),
            meters: Meters::new(config.metrics.tools),
            traffic: Traffic::default(),
            tracer: self.tracer(&config, &env, replicas.id()),
        });
        let server = Arc::new(AuthorizationServer::new(Parts {
            env: env.clone(),
            store: store.clone(),
            vault: control.vault.clone(),
            snapshot: control.snapshot.clone(),
            services: services.clone(),
            issuer: config.public_url.as_str().to_owned(),
            fetcher: Fetcher::new(config.outbound.clone()),
            secret: secret(),
            signing: signing.clone(),
            clients,
        }));
        let oauth = Arc::new(OAuth::new(server.clone()).with_pages_of(connections.pages(&config, secret())));
        let admin_socket = match listeners.admin_socket {
            Some(inherited) => inherited,
            None => self.open_admin_socket(&config.listen.admin_socket)?,
        };
        let bound = listeners.admin.as_ref().map(TcpListener::local_addr).transpose().map_err(StartError::Listener)?;
        let admin_url = bound.map(|bound| admin_url(&config, bound));
        let console = admin_url.map(|url| Arc::new(Console::new(server.clone(), url)));
        self.console = console.clone().filter(|_| bound.is_some_and(|bound| bound.ip().to_canonical().is_loopback()));
        let settings = mcp::Settings {
            limits: config.limits.clone(),
            legacy_sse: config.mcp.legacy_sse,
            body_timeout: config.edge.body_timeout,
        };
        refuse_strangers(&config, &listeners.public)?;
        let browsers = {
            let (server, cookies) = (oauth.server.clone(), oauth.cookies.clone());
            move |headers: &::http::HeaderMap| {
                let (server, cookie) = (server.clone(), cookies.read(headers, Kind::Session));
                let who = async move { server.peek(cookie.as_ref()).await };
                Box::pin(who) as BoxFuture<'static, _>
            }
        };
        let is_local = listeners.public.local_addr().map_err(StartError::Listener)?.ip().to_canonical().is_loopback();
        let trusted = signing.clone();
        let gate = ProtectedResource::new(resource::Parts {
            env: env.clone(),
            issuer: config.public_url.as_str().to_owned(),
            store: store.clone(),
            secret: secret(),
            snapshot: control.snapshot.clone(),
            standing,
            trust: Box::new(move || Trusted { verifier: trusted.verifier(), epoch: trusted.epoch() }),
            browsers: Some(Box::new(browsers)),
            is_local,
        });
        let mcp = Mcp::new(
            gate,
            services.clone(),
            (control.published.subscribe(), freshness),
            settings,
            replicas.clone(),
            self.edges.stopping().clone(),
            self.requests.clone(),
        );

        let meters: Vec<(&'static str, Arc<Meter>)> = LISTENERS.map(|listener| (listener, Arc::default())).to_vec();
        let export = self.export_audit(&config, &store).await;
        let watched = Watched {
            mcp: mcp.clone(),
            oauth: oauth.clone(),
            listeners: meters.clone(),
            export,
            slow: Slow::new(&self.background),
            draining: self.leaving.clone(),
            is_open: config.metrics.open,
        };
        let operators = Operators::new(operator_token.digest(), server.clone(), console.clone());
        let api = Arc::new(Api {
            control: control.clone(),
            server,
            services,
            upkeep: Upkeep { clock, sweeper: sweeping },
            replicas: replicas.clone(),
            signing,
            connections: connections.for_operators(),
            operators: Arc::new(operators),
            console: console.clone(),
            watched,
            tails: Arc::new(Tails::new(&store, &self.requests)),
            access_turns: Turns::default(),
        });

        let edge = &config.edge;
        let guard = |front| {
            HostGuard::new(front, config.public_url.origin(), &edge.allowed_hosts, &edge.allowed_origins)
                .map_err(StartError::Guard)
        };
        let public_front = Front::Tcp(listeners.public.local_addr().map_err(StartError::Listener)?);
        let for_replicas = replica_router(mcp.clone());
        let public = public_router(mcp, oauth, control.clone(), guard(public_front)?);
        let plain = |socket, counted: usize| edge::Listener {
            leaving: self.leaving.clone(),
            meter: meters[counted].1.clone(),
            ..edge::Listener::from(socket)
        };
        let proxied = |socket, shown: Option<&Arc<Shown>>, counted| -> Result<_, StartError> {
            let tls = shown.map(|shown| edge::Tls::new(shown.clone())).transpose().map_err(StartError::Tls)?;
            let proxies = edge::Proxies::new(edge.trusted_proxies.clone());
            Ok(edge::Listener { tls, proxies, ..plain(socket, counted) })
        };
        let certificates = &control.certificates;
        let mut sockets = vec![
            (proxied(Socket::Tcp(listeners.public), certificates.public.as_ref(), PUBLIC)?, public),
            (plain(Socket::Unix(admin_socket), SOCKET), socket_router(api.clone(), guard(Front::Unix)?)),
        ];
        if let (Some(admin), Some(console)) = (listeners.admin, console) {
            let front = Front::Tcp(admin.local_addr().map_err(StartError::Listener)?);
            let guard = match &config.listen.admin_url {
                Some(url) => guard(front)?.named("admin_url", url.origin()).map_err(StartError::Guard)?,
                None => guard(front)?,
            };
            let router = admin_router(api, &console, guard);
            sockets.push((proxied(Socket::Tcp(admin), certificates.admin.as_ref(), ADMIN)?, router));
        }

        if let Some(listener) = listeners.replica {
            sockets.push((plain(Socket::Tcp(listener), REPLICA), for_replicas));
        }
        if store.is_shared() {
            replicas.renew().await.map_err(StartError::Store)?;
        }
        // It says that it leaves as soon as nothing is accepted any more.
        let fingerprint = {
            let control = control.clone();
            move || control.config.load().fingerprint.to_hex()
        };
        self.background.spawn(replicas.keep_renewing(fingerprint, self.edges.stopping().clone()));

        let started = AuditEvent::GatewayStarted { version: env!("CARGO_PKG_VERSION").to_owned() };
        store::audit::record(&store, Actor::System, started).await.map_err(StartError::Store)?;
        self.background.spawn(control.clone().watch());
        if let Some(exchange) = control.exchange_of_counters() {
            self.background.spawn(exchange.run(self.background.stopping().clone()));
        }
        // Heard from here on: a supervisor that is told "ready" may send one at once.
        let hangups = signal(SignalKind::hangup()).map_err(StartError::Signal)?;
        self.background.spawn(reload_on_hangup(hangups, control, self.background.stopping().clone()));
        for (socket, router) in sockets {
            self.edges.spawn(edge::serve(socket, router, edge::Limits::from(edge), self.edges.stopping().clone()));
        }
        tracing::info!(public = %config.listen.public, admin_socket = %config.listen.admin_socket.display(), public_url = config.public_url.as_str(), "serving");
        Ok(())
    }

    /// Says that the gateway is not ready any more, and goes on serving for so long: load balancers send new requests
    /// elsewhere meanwhile, and callers are told to come back over other connections.
    async fn wind_down(&self, delay: Duration) {
        if let Some(control) = &self.control {
            control.leave();
        }
        self.leaving.cancel();
        if !delay.is_zero() {
            tracing::info!(?delay, "not ready any more, still serving");
            tokio::time::sleep(delay).await;
        }
    }

    /// Ends everything, in the order in which things need each other. Whether all of it has ended in time.
    async fn stop(self) -> bool {
        let patience = self.drain_timeout + STOP_PATIENCE;
        let mut orderly = self.edges.stop(patience).await;
        orderly &= self.requests.stop(STOP_PATIENCE).await;
        if let Some(control) = &self.control {
            orderly &= control.stop_upstreams(STOP_PATIENCE).await;
        }
        orderly &= self.exchanges.stop(EXCHANGE_PATIENCE).await;
        orderly &= self.background.stop(STOP_PATIENCE).await;
        if let Some(store) = &self.store
            && self.control.is_some()
            && let Err(error) = store::audit::record(store, Actor::System, AuditEvent::GatewayStopped).await
        {
            tracing::warn!(%error, "the audit trail lacks the stop");
        }
        orderly &= self.trail.stop(STOP_PATIENCE).await;
        if let Some(store) = self.store {
            store.close().await;
        }
        if let Some(path) = self.admin_socket {
            // It may be gone already; then there is nothing to do.
            _ = fs::remove_file(path);
        }
        drop(self.engine);
        if !orderly {
            tracing::warn!("some tasks did not end in time");
        }
        orderly
    }

    /// Records traces, if somebody collects them. What sends them ends last: what stops is told too.
    fn tracer(&self, config: &Config, env: &Env, replica: &ReplicaId) -> Tracer {
        let Some(collector) = config.telemetry.clone() else { return Tracer::off(env.clone()) };
        let config::Collector { endpoint, headers, sample } = collector;
        let settings = telemetry::Settings { endpoint, headers, sample };
        let (tracer, exporter) = Tracer::on(env.clone(), settings, Outbound::new(), replica.to_string());
        self.trail.spawn(exporter.run(self.trail.stopping().clone()));
        tracer
    }

    /// Begins to copy the audit trail, if that is wanted.
    async fn export_audit(&self, config: &Config, store: &Store) -> Option<ExportState> {
        let target = config.audit.as_ref()?;
        let exporter = AuditExporter::new(store.clone(), target, &config.data_dir, admin_api::audit_line).await;
        let state = exporter.state();
        self.background.spawn(exporter.run(self.background.stopping().clone()));
        Some(state)
    }

    /// Binds the admin socket so that nobody but its owner can ever connect to it.
    fn open_admin_socket(&mut self, path: &Path) -> Result<UnixListener, StartError> {
        let failed = |source| StartError::AdminSocket { path: path.to_owned(), source };
        if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            make_private_dir(dir).map_err(failed)?;
        }
        remove_stale_socket(path).map_err(failed)?;
        // Bound under a name in a directory of its own, mode 0700, made 0600, and only then moved to where it is found.
        let staging = path.with_extension(format!("{}.new", std::process::id()));
        make_private_dir(&staging).map_err(failed)?;
        let bound = (|| {
            let inside = staging.join("s");
            remove_stale_socket(&inside)?;
            let listener = UnixListener::bind(&inside)?;
            fs::set_permissions(&inside, fs::Permissions::from_mode(0o600))?;
            fs::rename(&inside, path)?;
            Ok(listener)
        })();
        _ = fs::remove_dir_all(&staging);
        let listener = bound.map_err(failed)?;
        self.admin_socket = Some(path.to_owned());
        Ok(listener)
    }
}

/// Where browsers find the admin listener: scheme, host and port, as they say them in `Origin`.
fn admin_url(config: &Config, bound: SocketAddr) -> String {
    let scheme = if config.tls.admin.is_some() { "https" } else { "http" };
    config.listen.admin_url.as_ref().map_or_else(|| format!("{scheme}://{bound}"), |url| url.as_str().to_owned())
}

/// Tells the link with which the first owner makes their account, if nobody is one. The log says that there is one, and not
/// which.
async fn tell_set_up_link(console: &Console, tell: impl FnOnce(&Plaintext)) {
    match console.set_up_link(Actor::System).await {
        Ok(Ok(link)) => {
            tracing::info!(
                "nobody is an owner yet: the set-up link was printed, and `portcullis setup-link` prints another"
            );
            tell(&link);
        }
        Ok(Err(NoLink::HasOwner | NoLink::NoPasswords)) => {}
        Err(error) => tracing::warn!(%error, "it cannot be told whether somebody is an owner: no set-up link was made"),
    }
}

/// Serves callers without a credential to this machine alone, unless an operator has said that others are meant.
fn refuse_strangers(config: &Config, public: &TcpListener) -> Result<(), StartError> {
    if config.auth.required {
        return Ok(());
    }
    let listener = public.local_addr().map_err(StartError::Listener)?;
    if !listener.ip().to_canonical().is_loopback() && !config.auth.anonymous_on_network {
        return Err(StartError::Anonymous { listener });
    }
    tracing::warn!(%listener, "auth.required is false: EVERYBODY who reaches this listener may call without a credential");
    Ok(())
}

/// Serves operators to this machine alone, unless over TLS. The configuration was checked for the same; this is for a listener
/// that was handed over.
fn refuse_exposed_admin(config: &Config, admin: Option<&TcpListener>) -> Result<(), StartError> {
    let Some(admin) = admin else { return Ok(()) };
    let listener = admin.local_addr().map_err(StartError::Listener)?;
    if listener.ip().to_canonical().is_loopback() || config.tls.admin.is_some() {
        return Ok(());
    }
    Err(StartError::ExposedAdmin { listener })
}

/// Removes a socket that nobody listens on. One that somebody does is an error.
fn remove_stale_socket(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::FileTypeExt as _;
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is something else at this path"))
        }
        Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => {
            Err(io::Error::new(io::ErrorKind::AddrInUse, "another gateway listens on it"))
        }
        Ok(_) => fs::remove_file(path),
    }
}

/// Makes a directory that only its owner can enter. One that is there already keeps its mode.
fn make_private_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// The secret in a file of mode 0600, made on first use. A file that others can read is refused.
fn keep_secret(path: &Path, env: &Env) -> Result<Plaintext, StartError> {
    let failed = |source| StartError::SecretFile { path: path.to_owned(), source };
    let fresh = hex(&env.random::<32>());
    match fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(mut file) => {
            io::Write::write_all(&mut file, format!("{fresh}\n").as_bytes())
                .and_then(|()| file.sync_all())
                .map_err(failed)?;
            Ok(Plaintext::new(fresh))
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => read_secret(path).map_err(failed),
        Err(error) => Err(failed(error)),
    }
}

/// The deployment secret, from the vault. One in a file of an earlier version is taken over, and the file is removed once the
/// vault has it for good.
async fn deployment_secret(vault: &Vault, path: &Path) -> Result<Plaintext, StartError> {
    let failed = |source| StartError::SecretFile { path: path.to_owned(), source };
    let earlier = match read_secret(path) {
        Ok(secret) => Some(secret),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(failed(error)),
    };
    let secret = vault.deployment_secret(earlier.clone()).await?;
    if let Some(earlier) = earlier {
        if earlier == secret {
            tracing::info!(path = %path.display(), "the vault has taken over the deployment secret");
        } else {
            // Gateways that come to share a store have one secret from then on.
            tracing::warn!(path = %path.display(), "the deployment secret of the store is used, and not the one in this file");
        }
        fs::remove_file(path).map_err(failed)?;
    }
    Ok(secret)
}

/// Hex digits that a secret file must have.
const SECRET_LEN: usize = 64;

fn read_secret(path: &Path) -> io::Result<Plaintext> {
    let mode = fs::metadata(path)?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("mode {:o} lets others read it: chmod 600", mode & 0o777),
        ));
    }
    let text = fs::read_to_string(path)?;
    let secret = text.trim_end();
    if secret.len() < SECRET_LEN {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is cut short: remove it to have a new one made"));
    }
    Ok(Plaintext::new(secret))
}

/// Where compiled policies are kept. Without it they are compiled anew at each start.
fn code_cache(directory: &Path, secret: DeploymentSecret) -> Option<policy::CodeCache> {
    match policy::CodeCache::open(directory, Arc::new(secret)) {
        Ok(cache) => Some(cache),
        Err(error) => {
            tracing::warn!(%error, "compiled policies are not kept: each start compiles them again");
            None
        }
    }
}

/// This replica, and how it learns of the others.
fn replicas(
    config: &Config,
    env: &Env,
    secret: DeploymentSecret,
    store: &Store,
    listener: Option<&TcpListener>,
) -> Result<Arc<Replicas>, StartError> {
    let bound = listener.map(TcpListener::local_addr).transpose().map_err(StartError::Listener)?;
    let address = bound.map(|bound| config.replica.advertise.clone().unwrap_or_else(|| bound.to_string()));
    let peers = &config.replica.peers;
    let directory = if store.is_shared() {
        if address.is_none() {
            tracing::warn!("without replica.listen, sessions that reach another replica go on there without streams");
        }
        if !peers.is_empty() {
            tracing::warn!("replica.peers is not used: the store tells who is there");
        }
        Directory::Store(store.clone())
    } else if peers.is_empty() {
        Directory::Alone
    } else {
        Directory::Peers(peers.clone())
    };
    let id = store.replica().clone();
    Ok(Replicas::new(env.clone(), secret, id, directory, address, config.fingerprint.to_hex()))
}

/// Where the store is that a configuration names.
pub fn location(url: &StoreUrl) -> store::Location {
    match url {
        StoreUrl::Redb(path) => store::Location::File(path.clone()),
        StoreUrl::Memory => store::Location::Memory,
        StoreUrl::Postgres(database) => store::Location::Postgres(postgres(database)),
    }
}

fn postgres(database: &config::Postgres) -> store::postgres::Database {
    use store::postgres::{Authorities, Database, Host, Tls};
    let hosts = database.hosts.iter().map(|host| match host.clone() {
        PostgresHost::Tcp { name, port } => Host::Tcp { name, port },
        PostgresHost::Unix { directory, port } => Host::Unix { directory, port },
    });
    let authorities = || database.ssl_root.clone().map_or(Authorities::System, Authorities::File);
    Database {
        hosts: hosts.collect(),
        user: database.user.clone(),
        password: database.password.clone(),
        name: database.name.clone(),
        schema: database.schema.clone(),
        tls: match database.ssl_mode {
            SslMode::Disable => Tls::Disable,
            SslMode::Prefer => Tls::Prefer,
            SslMode::Require => Tls::Require,
            SslMode::VerifyCa => Tls::VerifyCa(authorities()),
            SslMode::VerifyFull => Tls::VerifyFull(authorities()),
        },
    }
}

fn retention(keeping: Keeping) -> decisions::Retention {
    let Keeping { age, bytes } = keeping;
    decisions::Retention { age, bytes }
}

/// SIGHUP asks for a reload.
async fn reload_on_hangup(mut hangups: Signal, control: Arc<Control>, stopping: CancellationToken) {
    loop {
        tokio::select! {
            () = stopping.cancelled() => return,
            received = hangups.recv() => if received.is_none() { return },
        }
        // What is wrong is told by `reload`.
        _ = control.reload(Actor::System).await;
    }
}

async fn tidy_vault(vault: Vault, stopping: CancellationToken) {
    loop {
        tokio::select! {
            () = stopping.cancelled() => return,
            () = tokio::time::sleep(VAULT_TIDY_INTERVAL) => vault.tidy_up(),
        }
    }
}

impl fmt::Debug for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gateway")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::UnixStream;

    use super::*;
    use crate::env::{Clock, Timestamp};
    use crate::ids::{ApprovalId, BindingName, KeyName, Principal, UpstreamName};
    use crate::store::approvals::{self, Approver, Memory, Subject, Wish};

    const APPROVALS: u64 = 3_000;

    struct Past;

    impl Clock for Past {
        fn now(&self) -> Timestamp {
            Timestamp::from_millis(1_000_000)
        }
    }

    /// A store full of what has expired long ago.
    async fn fill(path: &Path) {
        let env = Env { clock: Arc::new(Past), ..Env::system() };
        let store = Store::open(store::Location::File(path.to_owned()), env.clone()).await.unwrap();
        let mut asking = tokio::task::JoinSet::new();
        for number in 0..APPROVALS {
            let subject = Subject {
                principal: Principal::Key(KeyName::parse(&format!("k{}", number % 100)).unwrap()),
                client: String::new(),
                operation: "tools/call".to_owned(),
                upstream: UpstreamName::parse("notes").unwrap(),
                item: "delete".to_owned(),
                definition: String::new(),
                arguments: Digest::of(&number.to_be_bytes()),
                policy: BindingName::parse("confirm").unwrap(),
                code: "destructive".to_owned(),
            };
            let (title, summary) = (String::new(), String::new());
            let wish =
                Wish { title, summary, by: Approver::Operator, ttl: Duration::from_secs(60), memory: Memory::Once };
            let (store, id) = (store.clone(), ApprovalId::generate(&env));
            asking.spawn(async move { approvals::request(&store, id, subject, wish, None).await.unwrap() });
        }
        let asked = asking.join_all().await;
        assert!(asked.iter().all(|asked| matches!(asked, approvals::Request::Found(_))));
        store.close().await;
    }

    async fn swept(socket: &Path) -> u64 {
        let mut stream = UnixStream::connect(socket).await.unwrap();
        let request = "GET /api/v1/status HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        let status: serde_json::Value = serde_json::from_str(body.trim()).unwrap_or_else(|_| panic!("{answer}"));
        status["store"]["swept"].as_u64().unwrap()
    }

    /// The status line with which `/mcp` answers somebody who presents nothing.
    async fn knock(address: SocketAddr) -> String {
        let body = r#"{"jsonrpc":"2.0","id":0,"method":"ping"}"#;
        let head =
            format!("POST /mcp HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-type: application/json");
        let request = format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer.lines().next().unwrap_or_default().to_owned()
    }

    #[tokio::test]
    async fn a_reload_does_not_open_a_listener_for_others_to_strangers() {
        for (bound, is_opened) in [("0.0.0.0:0", false), ("127.0.0.1:0", true)] {
            let dir = tempfile::tempdir().unwrap();
            let public = TcpListener::bind(bound).await.unwrap();
            let port = public.local_addr().unwrap().port();
            let file = dir.path().join("portcullis.toml");
            let write = |host: &str, auth: &str| {
                let url = format!("public_url = \"http://127.0.0.1:{port}\"");
                let listen = format!("[listen]\npublic = \"{host}:{port}\"\nadmin = \"off\"");
                fs::write(&file, format!("data_dir = \"data\"\n{url}\n{listen}\n{auth}\n"))
            };
            write(bound.trim_end_matches(":0"), "").unwrap();
            let config = config::load(&file, &|_| None, Env::system().now()).unwrap();
            let mut gateway = Gateway::new(Duration::from_secs(1));
            let listeners = Listeners { public, admin: None, admin_socket: None, replica: None };
            gateway.start(listeners, config, Env::system(), &Supervisor::none()).await.unwrap();
            let address = SocketAddr::from(([127, 0, 0, 1], port));
            assert!(knock(address).await.contains(" 401 "));
            // As by somebody who means to start it again.
            write("127.0.0.1", "[auth]\nrequired = false").unwrap();
            gateway.control.clone().unwrap().reload(Actor::System).await.unwrap();
            let answer = knock(address).await;
            assert_eq!(!answer.contains(" 401 "), is_opened, "{bound}: {answer}");
            assert!(gateway.stop().await, "all tasks end in time");
        }
    }

    #[tokio::test]
    async fn a_stop_in_the_middle_of_sweeping_leaves_nothing_running() {
        let dir = tempfile::tempdir().unwrap();
        make_private_dir(&dir.path().join("data")).unwrap();
        let path = dir.path().join("data/portcullis.redb");
        fill(&path).await;

        let public = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = public.local_addr().unwrap();
        let text = format!("data_dir = \"data\"\n[listen]\npublic = \"{address}\"\nadmin = \"off\"\n");
        let config = crate::config::parse(&text, dir.path(), &|_| None, Env::system().now()).unwrap();
        let socket = config.listen.admin_socket.clone();
        let mut gateway = Gateway::new(Duration::from_secs(1));
        let listeners = Listeners { public, admin: None, admin_socket: None, replica: None };
        gateway.start(listeners, config, Env::system(), &Supervisor::none()).await.unwrap();
        let groups =
            [gateway.edges.clone(), gateway.requests.clone(), gateway.background.clone(), gateway.trail.clone()];
        while swept(&socket).await == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let began = Instant::now();
        assert!(gateway.stop().await, "all tasks end in time");
        assert!(began.elapsed() < STOP_PATIENCE, "{:?}", began.elapsed());
        for group in groups {
            assert!(group.stop(Duration::ZERO).await, "nothing is left");
        }

        let store = Store::open(store::Location::File(path), Env::system()).await.unwrap();
        let verification = store.examine().await.unwrap();
        assert!(verification.is_sound(), "{verification:?}");
        let left = verification.tables.iter().find(|rows| rows.table == "approvals").unwrap().rows;
        assert!(left > 0 && left < APPROVALS, "it was in the middle: {left} are left");
        store.close().await;
    }
}
