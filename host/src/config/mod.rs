//! The configuration, resolved: every value checked, every default filled in, every secret fetched.
//!
//! In two stages: [`raw`] is what the file says, with unknown keys refused; [`resolve`] turns it into the sections
//! below, and explains every mistake with its line ([`Mistakes`]). [`import`] writes sections of such a file, and
//! [`definition`] reads upstreams that are declared elsewhere by the same rules. Behind this module there are no raw strings
//! for things with rules. Each subsystem is handed its own section and nothing else.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::connection::Origin;
use crate::identity::key::VirtualKey;
use crate::ids::UpstreamName;
use crate::outbound::{Network, Tls, Trusted};
use crate::secret::{Digest, Plaintext};

pub mod auth;
pub mod definition;
pub mod import;
pub mod portable;
pub mod raw;
pub mod resolve;

mod listener_tls;
mod mistake;
mod names;
mod places;
mod policy;
mod reference;
mod sets;
mod shape;
pub mod told;
mod upstream_auth;
mod value;
mod vault;
mod watch;
mod written;

pub use auth::{Auth, AuthMode};
pub use listener_tls::{ListenerTls, ListenersTls};
pub use mistake::{Mistake, Mistakes};
pub use places::Lines;
pub use policy::{
    Binding, Grant, HOOKS, Hint, Match, Mode, ModuleSource, PolicySettings, Reuse, Signatures, TrustedKey,
    WhenAllAbstain,
};
pub use raw::schema;
pub use reference::read_secret;
pub use resolve::{admin_socket, load, parse};
pub use sets::Sets;
pub use upstream_auth::{
    ClientCredentials, OAuthClient, SubjectOf, TokenExchange, UpstreamAuth, VouchedClaim, connection_context,
};
pub use vault::{Vault, VaultKey, VaultKeySource, VaultKeyState};
pub use watch::{AuditExport, Collector, Metrics};

/// A variable of this process, for references such as `env:NAME`.
#[expect(clippy::disallowed_methods, reason = "the one place that reads variables that a configuration names")]
pub fn process_environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Everything that [`crate::serve`] needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file it came from, watched for changes.
    pub file: Option<PathBuf>,
    pub public_url: PublicUrl,
    pub listen: Listen,
    /// What the listeners show over TLS.
    pub tls: ListenersTls,
    /// Directory of the store, the admin socket, the operator token and the vault's key.
    pub data_dir: PathBuf,
    pub store: StoreUrl,
    pub upkeep: Upkeep,
    pub vault: Vault,
    pub replica: Replica,
    pub edge: Edge,
    pub limits: Limits,
    pub mcp: Mcp,
    pub auth: Arc<Auth>,
    /// What addresses that others supplied may lead to besides public ones.
    pub outbound: Trusted,
    pub metrics: Metrics,
    /// Where traces go, if they are recorded.
    pub telemetry: Option<Collector>,
    /// Where a copy of the audit trail goes, if there is one.
    pub audit: Option<AuditExport>,
    /// In name order.
    pub upstreams: Vec<Upstream>,
    /// Virtual keys declared in the file.
    pub keys: Vec<VirtualKey>,
    pub policy: PolicySettings,
    /// Of what the file says, apart from what each replica has for itself: `[listen]`, `[replica]` and `data_dir`.
    pub fingerprint: Digest,
}

impl Config {
    /// Files whose change asks for a reload: the configuration itself, and the modules, sets and cases that it names.
    /// Those of certificates are watched too, and ask for less ([`Self::certificate_files`]).
    pub fn watched_files(&self) -> Vec<PathBuf> {
        let modules = self.policy.bindings.iter().filter_map(|binding| binding.module.file());
        let cases = self.policy.bindings.iter().filter_map(|binding| binding.tests.as_deref());
        let files = self.file.as_deref().into_iter().chain(modules).chain(cases).chain(self.policy.sets.files());
        let mut files: Vec<PathBuf> = files.chain(self.certificate_files()).map(Path::to_owned).collect();
        files.sort();
        files.dedup();
        files
    }

    /// Files whose change asks for nothing but to be read again: what the listeners show over TLS.
    pub fn certificate_files(&self) -> impl Iterator<Item = &Path> {
        self.tls.each().flat_map(|(_, tls)| tls.files())
    }
}

/// Where callers reach the gateway: scheme, host, optional port and path, without trailing slash, query, fragment
/// or user information.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicUrl(pub(in crate::config) String);

impl PublicUrl {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `host` or `host:port` as a browser sends it in `Host`.
    pub fn authority(&self) -> &str {
        let after_scheme = self.0.split_once("://").map_or(self.0.as_str(), |(_, rest)| rest);
        after_scheme.split('/').next().unwrap_or(after_scheme)
    }

    /// `scheme://authority`, as a browser sends it in `Origin`.
    pub fn origin(&self) -> &str {
        let scheme = self.0.find("://").map_or(0, |at| at + 3);
        let end = self.0[scheme..].find('/').map_or(self.0.len(), |at| scheme + at);
        &self.0[..end]
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    pub public: SocketAddr,
    /// TCP admin listener; the admin socket in `data_dir` is always there.
    pub admin: Option<SocketAddr>,
    /// Where operators reach it, as far as that is known before it is bound.
    pub admin_url: Option<PublicUrl>,
    pub admin_socket: PathBuf,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreUrl {
    /// `redb:PATH`
    Redb(PathBuf),
    /// `memory:`; forgets everything on stop.
    Memory,
    /// `postgres://…`
    Postgres(Postgres),
}

/// A PostgreSQL database that keeps the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Postgres {
    /// Tried in this order.
    pub hosts: Vec<PostgresHost>,
    pub user: String,
    pub password: Option<Plaintext>,
    /// The database.
    pub name: String,
    /// The schema of this deployment: a name of lower-case letters, digits and underscores.
    pub schema: String,
    pub ssl_mode: SslMode,
    /// A PEM file of certificate authorities, in place of those that the operating system trusts.
    pub ssl_root: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PostgresHost {
    Tcp {
        name: String,
        port: u16,
    },
    /// A Unix socket in this directory.
    Unix {
        directory: PathBuf,
        port: u16,
    },
}

/// `sslmode`, as PostgreSQL's own clients have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SslMode {
    Disable,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

/// How the store is kept right and tidy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upkeep {
    /// How long what other gateways change may go unnoticed before callers are refused.
    pub max_staleness: Duration,
    /// How long the audit trail is kept.
    pub audit_retention: Duration,
    /// How long a connection is kept whose holder may not use its upstream.
    pub orphan_retention: Duration,
    pub decisions: Keeping,
    pub recordings: Keeping,
}

/// How much of a trail is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keeping {
    pub age: Duration,
    /// Roughly, on disk.
    pub bytes: u64,
}

/// This gateway among others of the same deployment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replica {
    /// Where others forward to.
    pub listen: Option<SocketAddr>,
    /// `HOST:PORT` that others reach it at, if not at that address.
    pub advertise: Option<String>,
    /// `HOST:PORT` of the others, where no store tells.
    pub peers: Vec<String>,
}

/// Limits of connections, for both listeners.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edge {
    /// Until the first byte of a new connection.
    pub first_byte_timeout: Duration,
    /// Until a request's headers are complete.
    pub header_timeout: Duration,
    /// Until a request's body is complete.
    pub body_timeout: Duration,
    /// How long a connection may rest between requests.
    pub idle_timeout: Duration,
    /// Connections at once, for each listener.
    pub max_connections: usize,
    /// Streams at once on one HTTP/2 connection.
    pub max_http2_streams: u32,
    /// How long requests in flight may go on after a stop signal.
    pub drain_timeout: Duration,
    /// How long readiness is false before the listeners close.
    pub drain_delay: Duration,
    /// Peers whose word about a caller's address counts.
    pub trusted_proxies: Vec<Network>,
    /// Hosts accepted in `Host` besides the public URL's and, on a loopback listener, loopback names.
    pub allowed_hosts: Vec<String>,
    /// Origins accepted in `Origin` besides the public URL's and loopback ones.
    pub allowed_origins: Vec<String>,
}

/// Limits of MCP traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest request body, in bytes.
    pub request_bytes: usize,
    /// Largest message accepted from an upstream, in bytes.
    pub upstream_message_bytes: usize,
    /// Items on one page of any list.
    pub list_page: usize,
    /// MCP sessions at once, of revisions that have them.
    pub sessions: u64,
    /// How long an unused MCP session is kept.
    pub session_idle: Duration,
    /// Calls at once, for each principal.
    pub calls_per_principal: usize,
    /// Event streams at once.
    pub streams: usize,
    pub streams_per_principal: usize,
    /// How long a stream may wait for a reader that takes nothing.
    pub stall_timeout: Duration,
    /// How long an upstream waits for what it asked of a caller.
    pub ask_timeout: Duration,
    /// Calls at once that wait for their caller to come back with what was asked.
    pub parked_calls: usize,
    /// Sessions at once with each upstream.
    pub upstream_sessions: u64,
    /// How long an unused session with an upstream is kept.
    pub upstream_session_idle: Duration,
}

/// How MCP is spoken with callers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mcp {
    /// Whether HTTP with server-sent events (2024-11-05) is served.
    pub legacy_sse: bool,
}

/// An MCP server behind us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    pub name: UpstreamName,
    pub transport: UpstreamTransport,
    /// Whether callers see its tools as `<name>__<tool>` (true) or bare. At most one upstream is bare.
    pub prefix: bool,
    /// Longest call.
    pub call_timeout: Duration,
    /// How often its catalog is read again.
    pub sync_interval: Duration,
    /// The operator's trust label for policies.
    pub trust: String,
    pub labels: Vec<String>,
    pub auth: UpstreamAuth,
    /// Headers of a caller's own request that are passed on with it.
    pub extra_headers: Vec<http::HeaderName>,
    /// Whether every virtual key may use it, whatever its allow-list says.
    pub allow_on_all_keys: bool,
    /// How it proves who it is, and we to it, if not as everybody does.
    pub tls: Option<Tls>,
}

impl Upstream {
    /// Where it is reached, as far as credentials for it go.
    pub fn origin(&self) -> Origin {
        match &self.transport {
            UpstreamTransport::StreamableHttp { url, .. } => Origin::of_url(url),
            UpstreamTransport::Stdio { .. } => Origin::of_program(),
        }
    }
}

/// Which revisions of MCP an upstream speaks over HTTP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// What it turns out to speak.
    #[default]
    Auto,
    /// 2026-07-28 and later.
    Modern,
    /// 2025-03-26 to 2025-11-25, over streamable HTTP.
    Legacy,
    /// 2024-11-05, over HTTP with server-sent events.
    Sse,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpstreamTransport {
    StreamableHttp {
        url: http::Uri,
        protocol: Protocol,
        /// Sent with each request.
        headers: BTreeMap<String, Plaintext>,
    },
    Stdio {
        /// Program and arguments; never a shell line.
        command: Vec<String>,
        /// Added to `PATH`, `LANG`, `TERM`, `HOME` and `TMPDIR`.
        environment: BTreeMap<String, Plaintext>,
        working_dir: Option<PathBuf>,
        /// Until the server answers its first request.
        start_timeout: Duration,
        /// Address space of each process, in bytes.
        memory_limit: Option<u64>,
        /// Processes and threads of the user that it runs as.
        process_limit: Option<u64>,
    },
}
