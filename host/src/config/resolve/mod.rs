//! From what the file says to what holds: defaults filled in, secrets fetched, everything checked.
//!
//! One function for each section. A check that fails notes its mistake and goes on with a value that nobody will
//! see, so that one run tells all mistakes; a [`Config`] comes out only where there is none. The only outside
//! world touched is the file, the secrets it refers to, and whether the things it names are there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::mistake::{Checked, Fault, Found, Mistakes, did_you_mean};
use super::places::Lines;
use super::raw::{self, At, Name, NameOfUpstream, Setting, defaults};
use super::reference::{Secrets, read_text};
use super::shape::{self, Shape};
use super::{
    Binding, Config, Edge, Keeping, Limits, Listen, Mcp, PublicUrl, Replica, StoreUrl, Upkeep, Upstream, value,
};
use crate::env::Timestamp;
use crate::glob::Glob;
use crate::identity::key::VirtualKey;
use crate::secret::Digest;

mod auth;
mod database;
mod keys;
mod matching;
mod policies;
mod serving;
mod sets;
#[cfg(test)]
mod tests;
mod trust;
mod upstream_auth;
mod upstream_tls;
mod upstreams;
mod vault;
mod watch;

pub(super) use upstreams::header_name;

/// Largest configuration file, in bytes.
const LARGEST_FILE: u64 = 1024 * 1024;

/// Most of anything that is counted. More is a typing mistake.
const MOST: i64 = 1_000_000;

/// Shortest time in which changes in the store may go unnoticed. It is looked at twice a second.
const SHORTEST_STALENESS: Duration = Duration::from_secs(2);
/// Peers that one file names.
const MAX_PEERS: usize = 32;

/// Longest path of a Unix socket that every Unix takes.
const LONGEST_SOCKET_PATH: usize = 103;

/// What a text is called that came from no file.
const UNNAMED: &str = "portcullis.toml";

/// The configuration in the file at `path`. Keys that it declares were created `now`.
pub fn load(path: &Path, environment: &dyn Fn(&str) -> Option<String>, now: Timestamp) -> Result<Config, Mistakes> {
    let Given { name, text, file, base_dir } = Given::read(path)?;
    let config = resolve(&name, &text, &base_dir, environment, now)?;
    Ok(Config { file: Some(file), ..config })
}

/// The admin socket of the configuration in the file at `path`. What else that says is not looked at, and may be wrong.
pub fn admin_socket(path: &Path) -> Result<PathBuf, Mistakes> {
    let Given { name, text, base_dir, .. } = Given::read(path)?;
    let mistakes = |found| Mistakes::in_text(&name, &text, found);
    let raw::Places { data_dir, listen } = shape::places(&text).map_err(mistakes)?;
    let secrets = Secrets { base_dir: &base_dir, environment: &|_| None, sealed: None };
    // Nothing of a path is a matter of time.
    let now = Timestamp::from_millis(0);
    let mut checks = Checks { secrets, now, found: Vec::new(), damaged: BTreeSet::new() };
    let data_dir = data_directory(&mut checks, &data_dir);
    let socket = socket_path(&mut checks, &listen.admin_socket, &data_dir);
    if checks.found.is_empty() { Ok(socket) } else { Err(mistakes(checks.found)) }
}

/// A file as it was given.
struct Given {
    name: String,
    text: String,
    /// Absolute, so that a later change of the working directory moves nothing.
    file: PathBuf,
    base_dir: PathBuf,
}

impl Given {
    fn read(path: &Path) -> Result<Self, Mistakes> {
        let name = path.display().to_string();
        let text = read_text(path, LARGEST_FILE).map_err(|fault| {
            let is_missing = path.try_exists().is_ok_and(|is_there| !is_there);
            let hint = "`--config FILE` or the variable PORTCULLIS_CONFIG says where it is";
            Mistakes::of_file(&name, if is_missing { fault.hint(hint) } else { fault })
        })?;
        let file = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let base_dir = file.parent().unwrap_or(Path::new("")).to_owned();
        Ok(Self { name, text, file, base_dir })
    }
}

/// The configuration in `text`, whose relative paths start at `base_dir`.
pub fn parse(
    text: &str,
    base_dir: &Path,
    environment: &dyn Fn(&str) -> Option<String>,
    now: Timestamp,
) -> Result<Config, Mistakes> {
    resolve(UNNAMED, text, base_dir, environment, now)
}

fn resolve(
    name: &str,
    text: &str,
    base_dir: &Path,
    environment: &dyn Fn(&str) -> Option<String>,
    now: Timestamp,
) -> Result<Config, Mistakes> {
    let shape = shape::read(text).map_err(|found| Mistakes::in_text(name, text, found))?;
    let Shape { file, lines, found, damaged } = shape;
    let mut checks = Checks { secrets: Secrets { base_dir, environment, sealed: None }, now, found, damaged };
    let fingerprint = fingerprint(text);
    let config = whole(&mut checks, &file, &lines, fingerprint);
    if checks.found.is_empty() { Ok(config) } else { Err(Mistakes::in_text(name, text, checks.found)) }
}

/// The upstream of a document that has this one section, or what is wrong with it.
pub(super) fn upstream(text: &str, secrets: Secrets<'_>) -> Result<Upstream, Vec<Found>> {
    let Shape { file, found, damaged, .. } = shape::read(text)?;
    // Nothing of an upstream is a matter of time.
    let mut checks = Checks { secrets, now: Timestamp::from_millis(0), found, damaged };
    let resolved = upstreams::resolve(&mut checks, &file.upstreams).pop();
    resolved.filter(|_| checks.found.is_empty()).ok_or(checks.found)
}

/// The policy binding of a document that has this one entry, as the store has it, or what is wrong with it.
pub(super) fn stored_binding(text: &str, secrets: Secrets<'_>) -> Result<Binding, Vec<Found>> {
    let Shape { file, found, damaged, .. } = shape::read(text)?;
    let mut checks = Checks { secrets, now: Timestamp::from_millis(0), found, damaged };
    let resolved = policies::stored(&mut checks, &file.policies);
    resolved.filter(|_| checks.found.is_empty()).ok_or(checks.found)
}

/// The key that one section of a file says, which may name what upstreams it likes.
pub(super) fn stored_key(text: &str, secrets: Secrets<'_>) -> Result<VirtualKey, Vec<Found>> {
    let Shape { file, found, damaged, .. } = shape::read(text)?;
    let mut checks = Checks { secrets, now: Timestamp::from_millis(0), found, damaged };
    let resolved = keys::stored(&mut checks, &file.keys);
    resolved.filter(|_| checks.found.is_empty()).ok_or(checks.found)
}

/// Says the same for two texts that mean the same to a deployment.
fn fingerprint(text: &str) -> Digest {
    let mut table: toml::Table = toml::from_str(text).unwrap_or_default();
    for own in ["listen", "replica", "data_dir"] {
        table.remove(own);
    }
    // A table is written in the order of its keys; what was read can be written.
    Digest::of(toml::to_string(&table).unwrap_or_default().as_bytes())
}

fn whole(checks: &mut Checks<'_>, file: &raw::File, lines: &[Lines], fingerprint: Digest) -> Config {
    let data_dir = data_directory(checks, &file.data_dir);
    let listen = listen(checks, file, &data_dir);
    let declared = Declared::of(checks, &file.upstreams);
    strangers(checks, &file.auth, &listen);
    serving::exposed_admin(checks, file, &listen);
    upstream_auth::vouched_by_a_server(checks, file);
    let store = database::resolve(checks, &file.store, &data_dir);
    shared_without_keys(checks, file, &store);
    Config {
        file: None,
        public_url: public_url(checks, file, &listen),
        tls: serving::tls(checks, &file.listen),
        store,
        upkeep: upkeep(checks, &file.store),
        vault: vault::resolve(checks, &file.vault, &data_dir),
        replica: replica(checks, &file.replica, &listen),
        edge: edge(checks, &file.edge),
        limits: limits(checks, &file.limits),
        mcp: Mcp { legacy_sse: file.mcp.legacy_sse.value().copied().unwrap_or(false) },
        auth: Arc::new(auth::resolve(checks, &file.auth, &declared)),
        outbound: auth::outbound(checks, &file.outbound),
        metrics: watch::metrics(&file.metrics),
        telemetry: watch::telemetry(checks, &file.telemetry),
        audit: watch::audit(checks, &file.audit),
        upstreams: upstreams::resolve(checks, &file.upstreams),
        keys: keys::resolve(checks, &file.keys, &declared),
        policy: policies::resolve(checks, file, lines, &declared),
        listen,
        data_dir,
        fingerprint,
    }
}

fn data_directory(checks: &mut Checks<'_>, raw: &Setting<String>) -> PathBuf {
    checks.path("data_dir", raw).unwrap_or_else(|| checks.in_base_dir(defaults::DATA_DIR))
}

fn socket_path(checks: &mut Checks<'_>, raw: &Setting<String>, data_dir: &Path) -> PathBuf {
    checks.path("listen.admin_socket", raw).unwrap_or_else(|| data_dir.join("admin.sock"))
}

fn listen(checks: &mut Checks<'_>, file: &raw::File, data_dir: &Path) -> Listen {
    let raw = &file.listen;
    let public = address(checks, "listen.public", &raw.public, defaults::LISTEN_PUBLIC);
    let is_off = raw.admin.value().is_some_and(|text| text == "off");
    let admin = (!is_off).then(|| address(checks, "listen.admin", &raw.admin, defaults::LISTEN_ADMIN));
    let admin_place = raw.admin.get().or(raw.public.get()).map_or(0..0, At::place);
    if admin.is_some_and(|admin| collide(public, admin)) {
        checks.mistake(admin_place, Fault::new("listen.public and listen.admin must differ"));
    }
    let admin_socket = socket_path(checks, &raw.admin_socket, data_dir);
    if admin_socket.as_os_str().len() > LONGEST_SOCKET_PATH {
        let place = raw.admin_socket.get().or(file.data_dir.get()).map_or(0..0, At::place);
        let message = format!("the path of the admin socket is longer than {LONGEST_SOCKET_PATH} bytes");
        checks.mistake(place, Fault::new(message).hint("set listen.admin_socket to a shorter path"));
    }
    let listen = Listen { public, admin, admin_url: None, admin_socket };
    Listen { admin_url: serving::admin_url(checks, raw, &listen), ..listen }
}

/// A key that a gateway makes by itself is its own: others on the same store could open nothing.
fn shared_without_keys(checks: &mut Checks<'_>, raw: &raw::File, store: &StoreUrl) {
    if let (StoreUrl::Postgres(_), Some(at), true) = (store, raw.store.url.get(), raw.vault.keys.is_empty()) {
        let fault = Fault::new("store.url is a store that gateways share, so that it needs keys in [[vault.keys]]");
        let hint =
            "`portcullis vault keygen` makes one; a store that was moved needs the key that it had: docs/store.md";
        checks.missing("vault", at.place(), fault.hint(hint));
    }
}

/// Callers without a credential are served to this machine alone, unless others are meant.
fn strangers(checks: &mut Checks<'_>, raw: &raw::Auth, listen: &Listen) {
    let is = |setting: &Setting<bool>, default| setting.value().copied().unwrap_or(default);
    if let Some(at) = raw.required.get()
        && !is(&raw.required, true)
        && !is(&raw.anonymous_on_network, false)
        && !listen.public.ip().to_canonical().is_loopback()
    {
        let fault = Fault::new("auth.required = false on this listen.public lets in everybody who reaches it");
        let hint = "listen on a loopback address, or set auth.anonymous_on_network = true if that is meant";
        checks.mistake(at.place(), fault.hint(hint));
    }
}

fn address(checks: &mut Checks<'_>, name: &str, setting: &Setting<String>, default: &str) -> SocketAddr {
    checks
        .setting(name, setting, |text| value::socket_address(text))
        .unwrap_or_else(|| default.parse().expect("default addresses are addresses"))
}

/// Whether two listeners would want the same port. Port 0 is one that is free.
fn collide(one: SocketAddr, other: SocketAddr) -> bool {
    let same_ip = one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() == other.port() && one.port() != 0 && same_ip
}

fn public_url(checks: &mut Checks<'_>, file: &raw::File, listen: &Listen) -> PublicUrl {
    let speaks_tls = file.listen.public_tls.get().is_some();
    let known = if file.public_url.get().is_some() {
        let known = checks.setting("public_url", &file.public_url, |text| PublicUrl::parse(text));
        if let Some(url) = &known {
            serving::must_be_https(checks, "public_url", "listen.public_tls", (&file.public_url, url), speaks_tls);
        }
        known
    } else {
        let known = url_of(if speaks_tls { "https" } else { "http" }, listen.public);
        if known.is_none() {
            let place = file.listen.public.get().map_or(0..0, At::place);
            let fault = Fault::new(format!("public_url is missing, and {} cannot stand in for it", listen.public));
            checks.missing("", place, fault.hint("set public_url to the URL that callers use"));
        }
        known
    };
    known.unwrap_or_else(|| PublicUrl(String::new()))
}

/// The URL of a listener, if its address is one that callers can use.
fn url_of(scheme: &str, address: SocketAddr) -> Option<PublicUrl> {
    let is_reachable = !address.ip().is_unspecified() && address.port() != 0;
    is_reachable.then(|| PublicUrl::parse(&format!("{scheme}://{address}")).ok()).flatten()
}

fn upkeep(checks: &mut Checks<'_>, raw: &raw::Store) -> Upkeep {
    let (decisions, recordings) = (defaults::DECISION_RETENTION, defaults::RECORDING_RETENTION);
    let bytes = |bytes: usize| u64::try_from(bytes).unwrap_or(u64::MAX);
    Upkeep {
        max_staleness: max_staleness(checks, raw),
        audit_retention: checks.retention("store.audit_retention", &raw.audit_retention, defaults::AUDIT_RETENTION),
        orphan_retention: checks.retention("store.orphan_retention", &raw.orphan_retention, defaults::ORPHAN_RETENTION),
        decisions: Keeping {
            age: checks.retention("store.decision_retention", &raw.decision_retention, decisions),
            bytes: bytes(checks.size("store.decision_space", &raw.decision_space, defaults::DECISION_SPACE)),
        },
        recordings: Keeping {
            age: checks.retention("store.recording_retention", &raw.recording_retention, recordings),
            bytes: bytes(checks.size("store.recording_space", &raw.recording_space, defaults::RECORDING_SPACE)),
        },
    }
}

/// Less than a few looks at the store would refuse callers for nothing.
fn max_staleness(checks: &mut Checks<'_>, raw: &raw::Store) -> Duration {
    let name = "store.max_staleness";
    let given = checks.duration(name, &raw.max_staleness, defaults::MAX_STALENESS);
    if let Some(at) = raw.max_staleness.get()
        && !given.is_zero()
        && given < SHORTEST_STALENESS
    {
        let fault = Fault::new(format!("{name} must not be shorter than {} s", SHORTEST_STALENESS.as_secs()));
        checks.mistake(at.place(), fault);
    }
    given
}

fn replica(checks: &mut Checks<'_>, raw: &raw::Replica, own: &Listen) -> Replica {
    let listen = checks.setting("replica.listen", &raw.listen, |text| value::socket_address(text));
    let advertise = checks.setting("replica.advertise", &raw.advertise, |text| value::host_and_port(text));
    let peers = checks.each("an entry of replica.peers", &raw.peers, |peer| value::host_and_port(peer));
    let place = raw.listen.get().or(raw.advertise.get()).map_or(0..0, At::place);
    let others = [Some(own.public), own.admin];
    if let Some(listen) = listen
        && others.into_iter().flatten().any(|other| collide(listen, other))
    {
        checks.mistake(place.clone(), Fault::new("replica.listen must differ from listen.public and listen.admin"));
    }
    if listen.is_some_and(|listen| listen.ip().is_unspecified()) && raw.advertise.get().is_none() {
        let fault = Fault::new("replica.advertise is missing: others cannot connect to an unspecified address");
        checks.missing("replica", place, fault.hint("set it to the host and port of this replica"));
    } else if listen.is_none() && raw.advertise.get().is_some() && raw.listen.get().is_none() {
        let fault = Fault::new("replica.advertise needs replica.listen");
        checks.missing("replica", place, fault);
    }
    if peers.len() > MAX_PEERS {
        let fault = Fault::new(format!("there are more than {MAX_PEERS} replica.peers"));
        checks.mistake(raw.peers.first().map_or(0..0, At::place), fault.hint("use a store that all replicas share"));
    }
    Replica { listen, advertise, peers }
}

fn edge(checks: &mut Checks<'_>, raw: &raw::Edge) -> Edge {
    let first_byte = defaults::FIRST_BYTE_TIMEOUT;
    Edge {
        first_byte_timeout: checks.duration("first_byte_timeout", &raw.first_byte_timeout, first_byte),
        header_timeout: checks.duration("header_timeout", &raw.header_timeout, defaults::HEADER_TIMEOUT),
        body_timeout: checks.duration("body_timeout", &raw.body_timeout, defaults::BODY_TIMEOUT),
        idle_timeout: checks.duration("idle_timeout", &raw.idle_timeout, defaults::IDLE_TIMEOUT),
        max_connections: checks.count("max_connections", &raw.max_connections, defaults::MAX_CONNECTIONS, 1..=MOST),
        max_http2_streams: checks.count(
            "max_http2_streams",
            &raw.max_http2_streams,
            defaults::MAX_HTTP2_STREAMS,
            1..=MOST,
        ),
        drain_timeout: checks.duration_or_zero("drain_timeout", &raw.drain_timeout, defaults::DRAIN_TIMEOUT),
        drain_delay: checks.duration_or_zero("drain_delay", &raw.drain_delay, defaults::DRAIN_DELAY),
        trusted_proxies: serving::proxies(checks, raw),
        allowed_hosts: checks.each("an entry of allowed_hosts", &raw.allowed_hosts, |host| value::host(host)),
        allowed_origins: checks.each("an entry of allowed_origins", &raw.allowed_origins, |text| value::origin(text)),
    }
}

fn limits(checks: &mut Checks<'_>, raw: &raw::Limits) -> Limits {
    let upstream_message = defaults::UPSTREAM_MESSAGE_SIZE;
    let calls = defaults::CALLS_PER_PRINCIPAL;
    let streams = defaults::STREAMS_PER_PRINCIPAL;
    let (sessions, session_idle) = (defaults::UPSTREAM_SESSIONS, defaults::UPSTREAM_SESSION_IDLE);
    Limits {
        request_bytes: checks.size("request_size", &raw.request_size, defaults::REQUEST_SIZE),
        upstream_message_bytes: checks.size("upstream_message_size", &raw.upstream_message_size, upstream_message),
        list_page: checks.count("list_page", &raw.list_page, defaults::LIST_PAGE, 1..=MOST),
        sessions: checks.count("sessions", &raw.sessions, defaults::SESSIONS, 1..=MOST),
        session_idle: checks.duration("session_idle", &raw.session_idle, defaults::SESSION_IDLE),
        calls_per_principal: checks.count("calls_per_principal", &raw.calls_per_principal, calls, 1..=MOST),
        streams: checks.count("streams", &raw.streams, defaults::STREAMS, 1..=MOST),
        streams_per_principal: checks.count("streams_per_principal", &raw.streams_per_principal, streams, 1..=MOST),
        stall_timeout: checks.duration("stall_timeout", &raw.stall_timeout, defaults::STALL_TIMEOUT),
        ask_timeout: checks.duration("ask_timeout", &raw.ask_timeout, defaults::ASK_TIMEOUT),
        parked_calls: checks.count("parked_calls", &raw.parked_calls, defaults::PARKED_CALLS, 1..=MOST),
        upstream_sessions: checks.count("upstream_sessions", &raw.upstream_sessions, sessions, 1..=MOST),
        upstream_session_idle: checks.duration("upstream_session_idle", &raw.upstream_session_idle, session_idle),
    }
}

/// The mistakes found so far, and what checks need to know.
struct Checks<'a> {
    secrets: Secrets<'a>,
    now: Timestamp,
    found: Vec<Found>,
    /// See [`Shape::damaged`].
    damaged: BTreeSet<String>,
}

impl Checks<'_> {
    fn mistake(&mut self, place: Range<usize>, fault: Fault) {
        self.found.push(Found { place, fault });
    }

    /// Something is missing in the table at `path`. Says nothing where it may be there, misspelt: that was said.
    fn missing(&mut self, path: &str, place: Range<usize>, fault: Fault) {
        if !self.damaged.contains(path) {
            self.mistake(place, fault);
        }
    }

    /// The value of a check that may have failed.
    fn accept<T>(&mut self, name: &str, place: Range<usize>, checked: Checked<T>) -> Option<T> {
        checked.map_err(|fault| self.mistake(place, fault.of(name))).ok()
    }

    /// A setting that is there and passes `check`.
    fn setting<S, T>(&mut self, name: &str, setting: &Setting<S>, check: impl Fn(&S) -> Checked<T>) -> Option<T> {
        setting.get().and_then(|at| self.accept(name, at.place(), check(at.value())))
    }

    /// The items of a list that pass `check`.
    fn each<S, T>(&mut self, name: &str, items: &[At<S>], check: impl Fn(&S) -> Checked<T>) -> Vec<T> {
        items.iter().filter_map(|item| self.accept(name, item.place(), check(item.value()))).collect()
    }

    fn duration_or_zero(&mut self, name: &str, setting: &Setting<raw::Time>, default: &str) -> Duration {
        let given = self.setting(name, setting, |time| value::duration(&time.0));
        given.unwrap_or_else(|| value::duration(default).expect("default durations are durations"))
    }

    fn duration(&mut self, name: &str, setting: &Setting<raw::Time>, default: &str) -> Duration {
        let duration = self.duration_or_zero(name, setting, default);
        if let (Duration::ZERO, Some(at)) = (duration, setting.get()) {
            self.mistake(at.place(), Fault::new(format!("{name} must not be zero")));
        }
        duration
    }

    /// How long something is kept. To keep nothing is not a way to keep it.
    fn retention(&mut self, name: &str, setting: &Setting<raw::Time>, default: &str) -> Duration {
        let given = self.setting(name, setting, |time| value::retention(&time.0));
        given.unwrap_or_else(|| value::retention(default).expect("default retentions are retentions"))
    }

    fn size(&mut self, name: &str, setting: &Setting<raw::Size>, default: &str) -> usize {
        let given = self.setting(name, setting, value::size);
        given.unwrap_or_else(|| value::size(&raw::Size::Text(default.to_owned())).expect("default sizes are sizes"))
    }

    fn count<N: TryFrom<i64> + Default>(
        &mut self,
        name: &str,
        setting: &Setting<i64>,
        default: i64,
        range: RangeInclusive<i64>,
    ) -> N {
        let check = |number: &i64| {
            let fault = || Fault::new(format!("must be from {} to {}", range.start(), range.end()));
            N::try_from(*number).ok().filter(|_| range.contains(number)).ok_or_else(fault)
        };
        self.setting(name, setting, check).or_else(|| N::try_from(default).ok()).unwrap_or_default()
    }

    fn path(&mut self, name: &str, setting: &Setting<String>) -> Option<PathBuf> {
        let base_dir = self.secrets.base_dir.to_owned();
        let check = |text: &String| if is_path(text) { Ok(base_dir.join(text)) } else { Err(not_a_path()) };
        self.setting(name, setting, check)
    }

    fn in_base_dir(&self, path: &str) -> PathBuf {
        self.secrets.base_dir.join(path)
    }

    /// A pattern over upstream names. One that can only mean a single upstream must mean one there is.
    fn upstream_pattern(&mut self, name: &str, at: &At<String>, declared: &Declared<'_>) -> Option<Glob> {
        let pattern = self.accept(name, at.place(), pattern(at.value()))?;
        let text = pattern.as_str();
        if !text.contains('*') && declared.is_complete && !declared.names.contains(text) {
            let fault = Fault::new(format!("{name} names the upstream {text:?}, which is not declared"));
            let hint = did_you_mean(text, declared.names.iter().copied());
            self.mistake(at.place(), Fault { hint, ..fault });
        }
        Some(pattern)
    }
}

fn is_path(text: &str) -> bool {
    !text.is_empty() && !text.contains('\0')
}

fn not_a_path() -> Fault {
    Fault::new("is not a path")
}

fn pattern(text: &str) -> Checked<Glob> {
    Glob::parse(text).ok_or_else(|| Fault::new(format!("must be a pattern of 1 to {} bytes", Glob::MAX_LEN)))
}

/// The upstreams that the file declares, whether or not they are right.
struct Declared<'a> {
    names: BTreeSet<&'a str>,
    /// False where a mistake of shape may have cost one.
    is_complete: bool,
}

impl<'a> Declared<'a> {
    fn of(checks: &Checks<'_>, upstreams: &'a BTreeMap<NameOfUpstream, raw::Upstream>) -> Self {
        let is_complete = !checks.damaged.contains("") && !checks.damaged.contains("upstreams");
        Self { names: upstreams.keys().map(Name::as_str).collect(), is_complete }
    }

    /// Where upstreams come and go without the file.
    fn unknown() -> Self {
        Self { names: BTreeSet::new(), is_complete: false }
    }
}
