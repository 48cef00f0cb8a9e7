//! The composition root: the only module that knows all others.
//!
//! [`serve`] is what `main` and the tests call. It starts everything in order, serves until told to stop, drains, and
//! leaves nothing behind; when a step of the start fails, what the steps before it began is ended first.

use std::fmt;
use std::fs;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::admin::{BuildError, Control};
use crate::audit::{Actor, AuditEvent};
use crate::authorization::Fault;
use crate::authorization::set_up::NoLink;
use crate::config::Config;
use crate::env::Env;
pub use crate::http::api::openapi::text as openapi;
use crate::http::console::Console;
use crate::http::serve as edge;
use crate::policy::{self, Engine};
use crate::secret::Plaintext;
use crate::store::{self, Store, StoreError};
use crate::supervisor::Supervisor;
use crate::tasks::Tasks;
use crate::vault;
use crate::vault::deployment::DeploymentSecretError;

mod connections;
mod files;
mod place;
mod sockets;
mod start;
#[cfg(test)]
mod tests;

pub use place::location;
pub use sockets::Listeners;

/// Name of the file in `data_dir` that holds the operator token.
pub const OPERATOR_TOKEN: &str = "operator-token";

/// What background tasks get to end once they were asked to.
const STOP_PATIENCE: Duration = Duration::from_secs(10);
/// What an exchange with an authorization server gets to end, which may take it longer than others.
const EXCHANGE_PATIENCE: Duration = Duration::from_secs(30);

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
    serve_under(Supervisor::none(), listeners, config, env, shutdown, None::<fn(&Plaintext) -> bool>).await
}

/// The same, and tells a supervisor how it goes. Where nobody is an owner yet, `tell` is told the link with which the first one
/// makes their account: a secret, for whoever sees the start. It says whether anybody does.
///
/// # Errors
/// As [`serve`].
pub async fn serve_under(
    supervisor: Supervisor,
    listeners: Listeners,
    config: Config,
    env: Env,
    shutdown: impl Future<Output = ()>,
    tell: Option<impl FnOnce(&Plaintext) -> bool>,
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
}

/// Tells the link with which the first owner makes their account, if nobody is one. The log says how to come by one, and not
/// which it is.
async fn tell_set_up_link(console: &Console, tell: impl FnOnce(&Plaintext) -> bool) {
    match console.set_up_link(Actor::System).await {
        Ok(Ok(link)) if tell(&link) => tracing::info!(
            "nobody is an owner yet: the set-up link was printed, and `portcullis setup-link` prints another"
        ),
        Ok(Ok(_)) => tracing::info!(
            "nobody is an owner yet: `portcullis setup-link` prints the link with which the first one makes their account"
        ),
        Ok(Err(NoLink::HasOwner | NoLink::NoPasswords)) => {}
        Err(error) => tracing::warn!(%error, "it cannot be told whether somebody is an owner: no set-up link was made"),
    }
}

impl fmt::Debug for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gateway")
    }
}
