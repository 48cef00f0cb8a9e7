//! What a configuration says, setting by setting, for operators to read: each under its key in `docs/configuration.md`, with
//! the value that holds, whether the file says it or not.
//!
//! There are no secrets: of what comes from a reference it is told that there is one. Upstreams, virtual keys, policies and
//! sets are not here: they have lists of their own.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::{
    AuditExport, Auth, AuthMode, Config, ListenerTls, Postgres, PostgresHost, Signatures, SslMode, StoreUrl,
    VaultKeySource, WhenAllAbstain,
};
use crate::identity::key::AllowList;

/// In the place of a secret.
const REFERENCE: &str = "(from a reference)";

/// One setting.
#[derive(Clone, Debug, PartialEq)]
pub struct Said {
    /// Such as `listen.public`.
    pub key: String,
    /// Null where nothing is said and nothing holds.
    pub value: Value,
    pub effect: Effect,
}

/// When a change of a setting comes into force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// When the file is read again.
    Reload,
    /// At the next start.
    Start,
}

impl Effect {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Reload => "reload",
            Self::Start => "start",
        }
    }

    fn of(key: &str) -> Self {
        let sections =
            ["listen", "store", "replica", "edge", "limits", "mcp", "outbound", "metrics", "telemetry", "audit"];
        let keys = ["public_url", "data_dir", "vault.allow_core_dumps", "policy.max_components"];
        // The files of certificates are read again whenever they change.
        let is_certificate = key.starts_with("listen.public_tls.") || key.starts_with("listen.admin_tls.");
        let section = key.split('.').next().unwrap_or(key);
        let waits = !is_certificate && (sections.contains(&section) || keys.contains(&key));
        if waits { Self::Start } else { Self::Reload }
    }
}

/// All settings in the order of the documentation.
pub fn told(config: &Config) -> Vec<Said> {
    let mut said = Telling(Vec::new());
    said.tell("public_url", config.public_url.as_str());
    said.tell("data_dir", path(&config.data_dir));
    listen(&mut said, config);
    store(&mut said, config);
    vault(&mut said, config);
    said.tell("replica.listen", config.replica.listen.map(|address| address.to_string()));
    said.tell("replica.advertise", config.replica.advertise.clone());
    said.tell("replica.peers", config.replica.peers.clone());
    edge(&mut said, config);
    limits(&mut said, config);
    said.tell("mcp.legacy_sse", config.mcp.legacy_sse);
    auth(&mut said, &config.auth);
    sign_in(&mut said, &config.auth);
    said.tell("outbound.allow", texts(config.outbound.entries()));
    said.tell("metrics.open", config.metrics.open);
    said.tell("metrics.tools", config.metrics.tools);
    telemetry(&mut said, config);
    policy(&mut said, config);
    said.0
}

struct Telling(Vec<Said>);

impl Telling {
    fn tell(&mut self, key: impl Into<String>, value: impl Into<Value>) {
        let key = key.into();
        self.0.push(Said { effect: Effect::of(&key), value: value.into(), key });
    }

    fn lasts(&mut self, key: &str, duration: Duration) {
        self.tell(key, lasting(duration));
    }

    fn takes(&mut self, key: &str, bytes: impl TryInto<u64>) {
        self.tell(key, bytes.try_into().ok().map(size));
    }
}

fn listen(said: &mut Telling, config: &Config) {
    let listen = &config.listen;
    said.tell("listen.public", listen.public.to_string());
    said.tell("listen.admin", listen.admin.map_or_else(|| "off".to_owned(), |address| address.to_string()));
    said.tell("listen.admin_url", listen.admin_url.as_ref().map(|url| url.as_str().to_owned()));
    for (listener, tls) in [("public_tls", &config.tls.public), ("admin_tls", &config.tls.admin)] {
        let file = |file: fn(&ListenerTls) -> &Path| tls.as_ref().map(|tls| path(file(tls)));
        said.tell(format!("listen.{listener}.certificate"), file(|tls| &tls.certificate));
        said.tell(format!("listen.{listener}.key"), file(|tls| &tls.key));
    }
    said.tell("listen.admin_socket", path(&listen.admin_socket));
}

fn store(said: &mut Telling, config: &Config) {
    let upkeep = &config.upkeep;
    let (url, has_password) = match &config.store {
        StoreUrl::Redb(file) => (format!("redb:{}", file.display()), false),
        StoreUrl::Memory => ("memory:".to_owned(), false),
        StoreUrl::Postgres(postgres) => (database(postgres), postgres.password.is_some()),
    };
    said.tell("store.url", url);
    said.tell("store.password", has_password.then_some(REFERENCE));
    said.lasts("store.max_staleness", upkeep.max_staleness);
    said.lasts("store.audit_retention", upkeep.audit_retention);
    said.lasts("store.orphan_retention", upkeep.orphan_retention);
    for (what, keeping) in [("decision", upkeep.decisions), ("recording", upkeep.recordings)] {
        said.lasts(&format!("store.{what}_retention"), keeping.age);
        said.takes(&format!("store.{what}_space"), keeping.bytes);
    }
}

/// A database by its address, without a password.
fn database(postgres: &Postgres) -> String {
    let Postgres { hosts, user, password: _, name, schema, ssl_mode, ssl_root } = postgres;
    let host = |host: &PostgresHost| match host {
        PostgresHost::Tcp { name, port } if name.contains(':') => format!("[{name}]:{port}"),
        PostgresHost::Tcp { name, port } => format!("{name}:{port}"),
        PostgresHost::Unix { directory, port } => format!("{}:{port}", directory.display()),
    };
    let hosts: Vec<String> = hosts.iter().map(host).collect();
    let mode = match ssl_mode {
        SslMode::Disable => "disable",
        SslMode::Prefer => "prefer",
        SslMode::Require => "require",
        SslMode::VerifyCa => "verify-ca",
        SslMode::VerifyFull => "verify-full",
    };
    let root = ssl_root.as_deref().map(|root| format!("&sslrootcert={}", root.display())).unwrap_or_default();
    format!("postgres://{user}@{}/{name}?schema={schema}&sslmode={mode}{root}", hosts.join(","))
}

fn vault(said: &mut Telling, config: &Config) {
    let source = |source: &VaultKeySource| match source {
        VaultKeySource::None => "nowhere".to_owned(),
        VaultKeySource::File(file) => format!("file {}", file.display()),
        VaultKeySource::Credential(file) => format!("credential {}", file.display()),
        VaultKeySource::Environment { variable, key: _ } => format!("env {variable}"),
        VaultKeySource::Age(file) => format!("age {}", file.display()),
        VaultKeySource::Transit { url, mount, key, .. } => format!("transit {} {mount} {key}", place(url)),
        VaultKeySource::Pkcs11 { module, token, key, pin: _ } => {
            format!("pkcs11 {} {token} {key}", module.display())
        }
    };
    let keys = config.vault.keys.iter();
    let keys = keys.map(|key| format!("{}: {} ({})", key.kid, source(&key.source), key.state.as_str()));
    said.tell("vault.keys", keys.collect::<Vec<_>>());
    said.lasts("vault.cache_ttl", config.vault.cache_ttl);
    said.tell("vault.allow_core_dumps", config.vault.allow_core_dumps);
}

fn edge(said: &mut Telling, config: &Config) {
    let edge = &config.edge;
    said.lasts("edge.first_byte_timeout", edge.first_byte_timeout);
    said.lasts("edge.header_timeout", edge.header_timeout);
    said.lasts("edge.body_timeout", edge.body_timeout);
    said.lasts("edge.idle_timeout", edge.idle_timeout);
    said.tell("edge.max_connections", edge.max_connections);
    said.tell("edge.max_http2_streams", edge.max_http2_streams);
    said.lasts("edge.drain_timeout", edge.drain_timeout);
    said.lasts("edge.drain_delay", edge.drain_delay);
    said.tell("edge.trusted_proxies", texts(&edge.trusted_proxies));
    said.tell("edge.allowed_hosts", edge.allowed_hosts.clone());
    said.tell("edge.allowed_origins", edge.allowed_origins.clone());
}

fn limits(said: &mut Telling, config: &Config) {
    let limits = &config.limits;
    said.takes("limits.request_size", limits.request_bytes);
    said.takes("limits.upstream_message_size", limits.upstream_message_bytes);
    said.tell("limits.list_page", limits.list_page);
    said.tell("limits.sessions", limits.sessions);
    said.lasts("limits.session_idle", limits.session_idle);
    said.tell("limits.calls_per_principal", limits.calls_per_principal);
    said.tell("limits.streams", limits.streams);
    said.tell("limits.streams_per_principal", limits.streams_per_principal);
    said.lasts("limits.stall_timeout", limits.stall_timeout);
    said.lasts("limits.ask_timeout", limits.ask_timeout);
    said.tell("limits.parked_calls", limits.parked_calls);
    said.tell("limits.upstream_sessions", limits.upstream_sessions);
    said.lasts("limits.upstream_session_idle", limits.upstream_session_idle);
}

fn auth(said: &mut Telling, auth: &Auth) {
    let Auth { mcp, required, anonymous_on_network, guests, scopes, allow, tokens, clients, .. } = auth;
    let mode = match mcp {
        AuthMode::Keys => "keys",
        AuthMode::Both => "both",
        AuthMode::Oauth => "oauth",
    };
    said.tell("auth.mcp", mode);
    said.tell("auth.required", *required);
    said.tell("auth.anonymous_on_network", *anonymous_on_network);
    said.tell("auth.guests", *guests);
    said.tell("auth.scopes", scopes.iter().map(|scope| scope.name.clone()).collect::<Vec<_>>());
    said.tell("auth.allow.users", allowed(&allow.users));
    let groups = allow
        .groups
        .iter()
        .flat_map(|(group, list)| allowed(list).into_iter().map(move |line| format!("{group}: {line}")));
    said.tell("auth.allow.groups", groups.collect::<Vec<_>>());
    said.tell("auth.allow.guests", allowed(&allow.guests));
    said.tell("auth.tokens.algorithm", tokens.algorithm.as_str());
    said.lasts("auth.tokens.access_life", tokens.access_life);
    said.lasts("auth.tokens.code_life", tokens.code_life);
    said.lasts("auth.tokens.consent_life", tokens.consent_life);
    said.lasts("auth.tokens.refresh_idle", tokens.refresh_idle);
    said.lasts("auth.tokens.refresh_life", tokens.refresh_life);
    said.lasts("auth.tokens.refresh_grace", tokens.grace.window());
    said.tell("auth.tokens.refresh_replays", tokens.grace.replays());
    said.lasts("auth.tokens.keep_ended", tokens.keep_ended);
    said.lasts("auth.tokens.key_rotation", tokens.key_rotation);
    said.lasts("auth.tokens.key_announce", tokens.key_announce);
    said.tell("auth.clients.registration", clients.registration);
    said.tell("auth.clients.metadata_documents", clients.metadata_documents);
    said.tell(
        "auth.clients.document_hosts",
        clients.document_hosts.iter().map(|host| host.as_str().to_owned()).collect::<Vec<_>>(),
    );
    said.tell("auth.clients.max_registered", clients.max_registered);
    said.lasts("auth.clients.unused", clients.lives.unused);
    said.lasts("auth.clients.inactive", clients.lives.inactive);
    said.tell("auth.clients.registrations_per_minute", clients.registrations_per_minute);
    said.tell("auth.clients.redirect_schemes", clients.schemes.clone());
    said.tell("auth.clients.known", texts(clients.known.iter().map(|known| &known.client.id)));
}

fn sign_in(said: &mut Telling, auth: &Auth) {
    said.tell("auth.sign_in.passwords", auth.sign_in.passwords);
    said.lasts("auth.sign_in.session_idle", auth.sign_in.session_idle);
    said.lasts("auth.sign_in.session_life", auth.sign_in.session_life);
    for provider in &auth.providers {
        let key = |setting: &str| format!("auth.providers.{}.{setting}", provider.name);
        said.tell(key("issuer"), provider.issuer.clone());
        said.tell(key("client_id"), provider.client_id.clone());
        said.tell(key("client_secret"), provider.client_secret.as_ref().map(|_| REFERENCE));
        said.tell(key("label"), provider.label.clone());
        said.tell(key("scopes"), texts(provider.scopes.iter()));
        said.tell(key("admit"), if provider.admits_everyone { "everyone" } else { "invited" });
        said.tell(key("groups_claim"), provider.groups_claim.clone());
    }
    let grants = &auth.grants;
    said.tell("auth.grants.client_credentials", grants.client_credentials);
    said.tell("auth.grants.device", grants.device);
    said.tell("auth.grants.token_exchange", grants.token_exchange);
    said.tell(
        "auth.grants.identity_assertions",
        texts(grants.identity_assertions.iter().map(|trusted| &trusted.issuer)),
    );
}

fn telemetry(said: &mut Telling, config: &Config) {
    let collector = config.telemetry.as_ref();
    let endpoint = collector.map(|collector| format!("{}{}", place(&collector.endpoint), collector.endpoint.path()));
    let headers = collector.into_iter().flat_map(|collector| &collector.headers);
    said.tell("telemetry.otlp_endpoint", endpoint);
    said.tell("telemetry.otlp_headers", texts(headers.map(|(name, _)| name)));
    said.tell("telemetry.sample", collector.map(|collector| collector.sample));
    let export = config.audit.as_ref().map(|export| match export {
        AuditExport::File(file) => format!("file:{}", file.display()),
        AuditExport::Syslog(socket) => format!("syslog:{}", socket.display()),
    });
    said.tell("audit.export", export);
}

fn policy(said: &mut Telling, config: &Config) {
    let policy = &config.policy;
    let when_all_abstain = match policy.when_all_abstain {
        WhenAllAbstain::Deny => "deny",
        WhenAllAbstain::Allow => "allow",
    };
    let signatures = match policy.signatures {
        Signatures::Off => "off",
        Signatures::Any => "any",
        Signatures::All => "all",
    };
    said.tell("policy.when_all_abstain", when_all_abstain);
    said.tell("policy.max_components", policy.max_components);
    said.tell("policy.record", policy.record);
    said.tell("policy.replay", policy.replay);
    said.tell("policy.signatures", signatures);
    said.tell("policy.trusted_keys", texts(policy.trusted_keys.iter().map(|key| &key.name)));
}

/// Scheme, host and port of an address, and nothing else that may be in it.
fn place(uri: &http::Uri) -> String {
    let port = uri.port_u16().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}://{}{port}", uri.scheme_str().unwrap_or("http"), uri.host().unwrap_or_default())
}

fn path(path: &Path) -> String {
    path.display().to_string()
}

fn texts<T: ToString>(values: impl IntoIterator<Item = T>) -> Vec<String> {
    values.into_iter().map(|value| value.to_string()).collect()
}

/// Entries such as `notes: read_*, list_*`.
fn allowed(list: &AllowList) -> Vec<String> {
    let tools =
        |tools: &[crate::glob::Glob]| tools.iter().map(|tool| tool.as_str().to_owned()).collect::<Vec<_>>().join(", ");
    list.0.iter().map(|entry| format!("{}: {}", entry.upstream.as_str(), tools(&entry.tools))).collect()
}

/// A length of time as the file has it, such as `1h 30m`.
fn lasting(duration: Duration) -> String {
    let units = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
    let mut left = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let mut parts = Vec::new();
    for (unit, millis) in units {
        if left >= millis {
            parts.push(format!("{}{unit}", left / millis));
            left %= millis;
        }
    }
    if parts.is_empty() { "0s".to_owned() } else { parts.join(" ") }
}

/// A number of bytes as the file has it, such as `64KiB`.
fn size(bytes: u64) -> Value {
    let units = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    let even = units.into_iter().find(|(_, unit)| bytes >= *unit && bytes.is_multiple_of(*unit));
    even.map_or_else(|| json!(bytes), |(name, unit)| json!(format!("{}{name}", bytes / unit)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::config::parse;
    use crate::env::Timestamp;

    fn told_of(text: &str) -> Vec<Said> {
        let variable = |name: &str| (name == "SECRET").then(|| "hush-hush-hush-hush-hush".to_owned());
        let config = parse(text, Path::new("/etc/portcullis"), &variable, Timestamp::default());
        told(&config.unwrap_or_else(|mistakes| panic!("{mistakes}")))
    }

    fn value(said: &[Said], key: &str) -> Value {
        said.iter().find(|said| said.key == key).unwrap_or_else(|| panic!("{key}")).value.clone()
    }

    #[test]
    fn settings_are_told_as_the_file_has_them() {
        let said = told_of(
            "[listen]\nadmin = \"off\"\n[store]\ndecision_retention = \"36h\"\n[limits]\nrequest_size = \"64KiB\"\n\
             [edge]\ndrain_delay = \"1500ms\"\ntrusted_proxies = [\"10.0.0.0/8\"]\n",
        );
        assert_eq!(value(&said, "listen.admin"), "off");
        assert_eq!(value(&said, "store.decision_retention"), "1d 12h");
        assert_eq!(value(&said, "store.audit_retention"), "400d");
        assert_eq!(value(&said, "limits.request_size"), "64KiB");
        assert_eq!(value(&said, "edge.drain_delay"), "1s 500ms");
        assert_eq!(value(&said, "edge.trusted_proxies"), json!(["10.0.0.0/8"]));
        assert_eq!(value(&said, "telemetry.otlp_endpoint"), Value::Null);
        assert_eq!((lasting(Duration::ZERO), size(1_000)), ("0s".to_owned(), json!(1_000)));
    }

    #[test]
    fn nothing_of_a_secret_is_told() {
        let said = told_of(
            "[store]\nurl = \"postgres://gate@db.internal/portcullis\"\npassword = \"env:SECRET\"\n\
             [[vault.keys]]\nkid = \"one\"\nsource = \"file\"\npath = \"one.key\"\n\
             [telemetry]\notlp_endpoint = \"http://127.0.0.1:4318\"\notlp_headers = { Authorization = \"Bearer env:SECRET\" }\n\
             [auth.providers.idp]\nissuer = \"https://idp.example\"\nclient_id = \"gate\"\nclient_secret = \"env:SECRET\"\n",
        );
        assert_eq!(value(&said, "store.password"), REFERENCE);
        assert_eq!(value(&said, "auth.providers.idp.client_secret"), REFERENCE);
        assert_eq!(value(&said, "telemetry.otlp_headers"), json!(["authorization"]));
        assert!(
            value(&said, "store.url")
                .as_str()
                .is_some_and(|url| url.starts_with("postgres://gate@db.internal:5432/portcullis?"))
        );
        assert!(said.iter().all(|said| !said.value.to_string().contains("hush")));
    }

    #[test]
    fn every_key_is_one_of_the_documentation() {
        let mut documented = BTreeSet::new();
        let mut section = String::new();
        for line in include_str!("../../../docs/configuration.md").lines() {
            if line.starts_with('#') {
                section = line.split('`').nth(1).unwrap_or_default().trim_matches(['[', ']']).to_owned();
                if line.contains("`public_tls`") {
                    section = "listen.public_tls".to_owned();
                }
            } else if let Some(key) = line.strip_prefix("| `").and_then(|rest| rest.split('`').next()) {
                let key = if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") };
                documented.insert(key.replace("listen.public_tls.", "listen.*_tls."));
            }
        }
        let said = told_of(
            "[auth.providers.NAME]\nissuer = \"https://idp.example\"\nclient_id = \"gate\"\n"
                .replace("NAME", "name")
                .as_str(),
        );
        assert!(said.len() > 80, "{}", said.len());
        for Said { key, .. } in &said {
            let key = key.replace("providers.name.", "providers.NAME.");
            let key = key.replace("listen.public_tls.", "listen.*_tls.").replace("listen.admin_tls.", "listen.*_tls.");
            assert!(documented.contains(&key), "{key}");
        }
    }

    #[test]
    fn what_waits_for_the_next_start_is_told_so() {
        let said = told_of("");
        let effect = |key: &str| said.iter().find(|said| said.key == key).unwrap().effect;
        for key in ["public_url", "listen.public", "vault.allow_core_dumps", "policy.max_components", "audit.export"] {
            assert_eq!(effect(key), Effect::Start, "{key}");
        }
        for key in ["auth.mcp", "vault.cache_ttl", "policy.record", "listen.public_tls.certificate"] {
            assert_eq!(effect(key), Effect::Reload, "{key}");
        }
    }
}
