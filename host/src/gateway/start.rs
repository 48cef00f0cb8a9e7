//! The start, in the order in which things need each other.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::connections::Connections;
use super::files::{CODE_CACHE, DEPLOYMENT_SECRET, code_cache, deployment_secret, keep_secret, make_private_dir};
use super::place::{location, replicas, retention};
use super::sockets::{
    LISTENERS, Listeners, Surfaces, admin_url, open_admin_socket, refuse_exposed_admin, refuse_strangers,
};
use super::{Gateway, OPERATOR_TOKEN, StartError};
use crate::admin::Control;
use crate::admin::audit_export::{ExportState, Exporter as AuditExporter};
use crate::admin::tails::Tails;
use crate::audit::{Actor, AuditEvent};
use crate::authorization::clients::Clients;
use crate::authorization::resource::{self, ProtectedResource, Trusted};
use crate::authorization::signing::{Rules, SigningKeys};
use crate::authorization::standing::Standing;
use crate::authorization::{AuthorizationServer, Parts};
use crate::config::{self, Config};
use crate::connections::provider::Voucher;
use crate::env::Env;
use crate::http::api::metrics::{Slow, Watched};
use crate::http::api::{self as admin_api, Api, Operators, Turns, Upkeep};
use crate::http::console::Console;
use crate::http::mcp::{self, Mcp};
use crate::http::oauth::OAuth;
use crate::http::oauth::cookies::Kind;
use crate::http::serve::{self as edge, Meter};
use crate::ids::ReplicaId;
use crate::outbound::{Fetcher, Outbound};
use crate::pipeline::elicitations::Elicitations;
use crate::pipeline::personal::PersonalCatalogs;
use crate::pipeline::traffic::Traffic;
use crate::pipeline::{Meters, Services};
use crate::policy::{self, Engine};
use crate::secret::{DeploymentSecret, Digest, Plaintext};
use crate::store::follower::{Follower, Subscriber};
use crate::store::sweeper::Sweeper;
use crate::store::{self, Store, decisions, recordings};
use crate::supervisor::Supervisor;
use crate::telemetry::{self, Tracer};
use crate::vault::Vault;

/// Between two looks for data keys whose time in memory is over.
const VAULT_TIDY_INTERVAL: Duration = Duration::from_secs(15);

impl Gateway {
    pub(super) async fn start(
        &mut self,
        mut listeners: Listeners,
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
        let admin_socket = match listeners.admin_socket.take() {
            Some(inherited) => inherited,
            None => {
                let path = &config.listen.admin_socket;
                let opened = open_admin_socket(path)?;
                self.admin_socket = Some(path.clone());
                opened
            }
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

        let surfaces =
            Surfaces { control: control.clone(), mcp, oauth, api, console, meters, leaving: self.leaving.clone() };
        let sockets = surfaces.behind(listeners, admin_socket, &config)?;
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
            self.edges.spawn(edge::serve(
                socket,
                router,
                edge::Limits::from(&config.edge),
                self.edges.stopping().clone(),
            ));
        }
        tracing::info!(public = %config.listen.public, admin_socket = %config.listen.admin_socket.display(), public_url = config.public_url.as_str(), "serving");
        Ok(())
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
}

async fn tidy_vault(vault: Vault, stopping: CancellationToken) {
    loop {
        tokio::select! {
            () = stopping.cancelled() => return,
            () = tokio::time::sleep(VAULT_TIDY_INTERVAL) => vault.tidy_up(),
        }
    }
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
