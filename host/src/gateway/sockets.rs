//! What the gateway listens on, what answers there, and whom it may let in.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;

use super::StartError;
use super::files::make_private_dir;
use crate::admin::Control;
use crate::certificate::Shown;
use crate::config::Config;
use crate::http::api::Api;
use crate::http::console::Console;
use crate::http::guard::{Front, HostGuard};
use crate::http::mcp::Mcp;
use crate::http::oauth::OAuth;
use crate::http::serve::{self as edge, Meter, Socket};
use crate::http::{Router, admin_router, public_router, replica_router, socket_router};

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

/// What `/metrics` calls the listeners.
pub(super) const LISTENERS: [&str; 4] = ["public", "socket", "admin", "replica"];
/// Their places among these.
const PUBLIC: usize = 0;
const SOCKET: usize = 1;
const ADMIN: usize = 2;
const REPLICA: usize = 3;

/// What answers.
pub(super) struct Surfaces {
    pub(super) control: Arc<Control>,
    pub(super) mcp: Arc<Mcp>,
    pub(super) oauth: Arc<OAuth>,
    pub(super) api: Arc<Api>,
    /// For the admin listener, if there is one.
    pub(super) console: Option<Arc<Console>>,
    /// One for each of [`LISTENERS`].
    pub(super) meters: Vec<(&'static str, Arc<Meter>)>,
    /// See [`edge::Listener::leaving`].
    pub(super) leaving: CancellationToken,
}

impl Surfaces {
    /// Each socket, and what answers there.
    pub(super) fn behind(
        self,
        listeners: Listeners,
        admin_socket: UnixListener,
        config: &Config,
    ) -> Result<Vec<(edge::Listener, Router)>, StartError> {
        let Self { control, mcp, oauth, api, console, meters, leaving } = self;
        let edge = &config.edge;
        let guard = |front| {
            HostGuard::new(front, config.public_url.origin(), &edge.allowed_hosts, &edge.allowed_origins)
                .map_err(StartError::Guard)
        };
        let public_front = Front::Tcp(listeners.public.local_addr().map_err(StartError::Listener)?);
        let for_replicas = replica_router(mcp.clone());
        let public = public_router(mcp, oauth, control.clone(), guard(public_front)?);
        let plain = |socket, counted: usize| edge::Listener {
            leaving: leaving.clone(),
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
        Ok(sockets)
    }
}

/// Serves callers without a credential to this machine alone, unless an operator has said that others are meant.
pub(super) fn refuse_strangers(config: &Config, public: &TcpListener) -> Result<(), StartError> {
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
pub(super) fn refuse_exposed_admin(config: &Config, admin: Option<&TcpListener>) -> Result<(), StartError> {
    let Some(admin) = admin else { return Ok(()) };
    let listener = admin.local_addr().map_err(StartError::Listener)?;
    if listener.ip().to_canonical().is_loopback() || config.tls.admin.is_some() {
        return Ok(());
    }
    Err(StartError::ExposedAdmin { listener })
}

/// Where browsers find the admin listener: scheme, host and port, as they say them in `Origin`.
pub(super) fn admin_url(config: &Config, bound: SocketAddr) -> String {
    let scheme = if config.tls.admin.is_some() { "https" } else { "http" };
    config.listen.admin_url.as_ref().map_or_else(|| format!("{scheme}://{bound}"), |url| url.as_str().to_owned())
}

/// Binds the admin socket so that nobody but its owner can ever connect to it.
pub(super) fn open_admin_socket(path: &Path) -> Result<UnixListener, StartError> {
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
    bound.map_err(failed)
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
