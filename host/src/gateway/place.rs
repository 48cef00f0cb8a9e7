//! Where the store is, what is kept in it for how long, and how this gateway learns of others on it.

use std::sync::Arc;

use tokio::net::TcpListener;

use super::StartError;
use crate::config::{self, Config, Keeping, PostgresHost, SslMode, StoreUrl};
use crate::env::Env;
use crate::http::replica::{Directory, Replicas};
use crate::secret::DeploymentSecret;
use crate::store::{self, Store, decisions};

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

pub(super) fn retention(keeping: Keeping) -> decisions::Retention {
    let Keeping { age, bytes } = keeping;
    decisions::Retention { age, bytes }
}

/// This replica, and how it learns of the others.
pub(super) fn replicas(
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
