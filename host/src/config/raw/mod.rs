//! What `portcullis.toml` says, word for word, and its JSON Schema.
//!
//! These types know names and shapes and nothing else: unknown keys are refused, every value keeps its place in the
//! file, and what a text means is for [`super::resolve`] to find out. Nothing here is `Debug`, since a file may
//! hold a credential where it should not. The doc comment of a field is its description in the schema, and
//! [`defaults`] is what the schema announces and what `resolve` fills in.

use std::collections::BTreeMap;

use schemars::generate::SchemaSettings;
use schemars::transform::RecursiveTransform;
use schemars::{JsonSchema, Schema};
use serde::Deserialize;

pub mod defaults;

mod auth;
mod keys;
mod policies;
mod upstreams;
mod values;
mod vault;
mod watch;

pub use auth::{
    Admit, Auth, AuthAllow, AuthMode, Clients, Grants, KnownClient, OnReuse, Operators, Outbound, Provider, SignIn,
    SigningAlgorithm, Tokens, TrustedIssuer,
};
pub use keys::{Allow, Key};
pub use policies::{
    Binding, Match, Mode, NamedKey, Policy, PolicyLimits, Reuse, Set, SetFile, Signatures, TrustedKey, WhenAllAbstain,
};
pub use upstreams::{
    Protocol, SubjectOf, Transport, Upstream, UpstreamAuth, UpstreamAuthKind, UpstreamTls, VouchedClaim,
};
pub use values::{At, Moment, Name, NameOfKey, NameOfSet, NameOfUpstream, Setting, Size, Time};
pub use vault::{Vault, VaultKey, VaultKeySource, VaultKeyState};
pub use watch::{Audit, Metrics, Telemetry};

/// The configuration of a Portcullis gateway.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
#[schemars(title = "portcullis.toml")]
pub struct File {
    /// Where callers reach the gateway: an absolute URL, the base of every URL that the gateway hands out.
    /// Without it, `http://` followed by `listen.public`, or `https://` where `listen.public_tls` is set.
    pub public_url: Setting<String>,
    /// Directory of the store, the admin socket, the operator token and the vault's key. Like every path in this file,
    /// relative to the file's own directory.
    #[schemars(extend("default" = defaults::DATA_DIR))]
    pub data_dir: Setting<String>,
    /// Addresses to listen on.
    pub listen: Listen,
    /// Where the gateway keeps what it must remember.
    pub store: Store,
    /// How secrets are kept that the gateway has to replay. They are always encrypted.
    pub vault: Vault,
    /// This gateway among others of the same deployment.
    pub replica: Replica,
    /// Limits of connections, for both listeners.
    pub edge: Edge,
    /// Limits of MCP traffic.
    pub limits: Limits,
    /// How MCP is spoken with callers.
    pub mcp: Mcp,
    /// Who may call, and how they show who they are.
    pub auth: Auth,
    /// Requests of the gateway to addresses that others supplied.
    pub outbound: Outbound,
    /// Figures for Prometheus, at `/metrics` of the admin listener.
    pub metrics: Metrics,
    /// Traces for an OpenTelemetry collector.
    pub telemetry: Telemetry,
    /// A copy of the audit trail.
    pub audit: Audit,
    /// The MCP servers behind the gateway, by name.
    pub upstreams: BTreeMap<NameOfUpstream, Upstream>,
    /// Virtual keys that callers authenticate with, by name.
    pub keys: BTreeMap<NameOfKey, Key>,
    /// Settings for all policies together.
    pub policy: Policy,
    /// Lists of texts that policies may look things up in, by name. A policy needs `grants = ["sets"]` for it.
    pub sets: BTreeMap<NameOfSet, Set>,
    /// The policies, each one use of one module.
    pub policies: Vec<At<Binding>>,
}

/// Addresses to listen on.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub struct Listen {
    /// Address and port for callers.
    #[schemars(extend("default" = defaults::LISTEN_PUBLIC))]
    pub public: Setting<String>,
    /// Address and port for operators, or `off`. Other than a loopback address only with `admin_tls`.
    #[schemars(extend("default" = defaults::LISTEN_ADMIN))]
    pub admin: Setting<String>,
    /// Where operators reach the admin listener: an absolute URL, whose host is answered to. Without it, `http://` or
    /// `https://` followed by `listen.admin`.
    pub admin_url: Setting<String>,
    /// Certificate and key with which callers are served over TLS.
    pub public_tls: Setting<ListenerTls>,
    /// Certificate and key with which operators are served over TLS.
    pub admin_tls: Setting<ListenerTls>,
    /// Unix socket for operators on this machine. Without it, `admin.sock` in `data_dir`.
    pub admin_socket: Setting<String>,
}

/// Of a configuration, what says where its gateway is asked. Whatever else there is may be there.
#[derive(Default, Deserialize)]
#[serde(default, expecting = "a table")]
pub struct Places {
    pub data_dir: Setting<String>,
    pub listen: ListenPlaces,
}

/// The same of `[listen]`.
#[derive(Default, Deserialize)]
#[serde(default, expecting = "a table")]
pub struct ListenPlaces {
    pub admin_socket: Setting<String>,
}

/// What a listener shows over TLS.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
#[schemars(extend("required" = ["certificate", "key"]))]
pub struct ListenerTls {
    /// Path of the listener's certificate in PEM, followed by those that lead to its authority. It is read again when it
    /// changes.
    pub certificate: Setting<String>,
    /// Path of the certificate's private key in PEM, which others must not be able to read. It is read again when it
    /// changes.
    pub key: Setting<String>,
}

/// Where the gateway keeps what it must remember.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub struct Store {
    /// `redb:PATH` for one file, `postgres://USER@HOST/DATABASE` for a database that several gateways share, or
    /// `memory:` to forget everything on stop. A URL with a password in it must be a reference, `env:NAME` or
    /// `file:PATH`. Without it, `portcullis.redb` in `data_dir`.
    #[schemars(extend("pattern" = "^(redb:.+|memory:|postgres(ql)?://.+|env:.+|file:.+)$"))]
    pub url: Setting<String>,
    /// Reference to the password of the database's user, `env:NAME` or `file:PATH`. For `postgres://` only.
    pub password: Setting<String>,
    /// Where several gateways share a store: how long changes of others may go unnoticed before callers are refused.
    #[schemars(extend("default" = defaults::MAX_STALENESS))]
    pub max_staleness: Setting<Time>,
    /// How long the audit trail is kept.
    #[schemars(extend("default" = defaults::AUDIT_RETENTION))]
    pub audit_retention: Setting<Time>,
    /// How long a connection to an upstream is kept that its holder may not use any more, in case access comes back.
    #[schemars(extend("default" = defaults::ORPHAN_RETENTION))]
    pub orphan_retention: Setting<Time>,
    /// How long decisions are kept.
    #[schemars(extend("default" = defaults::DECISION_RETENTION))]
    pub decision_retention: Setting<Time>,
    /// How much of decisions is kept, roughly; the oldest go first.
    #[schemars(extend("default" = defaults::DECISION_SPACE))]
    pub decision_space: Setting<Size>,
    /// How long the recorded inputs of decisions are kept.
    #[schemars(extend("default" = defaults::RECORDING_RETENTION))]
    pub recording_retention: Setting<Time>,
    /// How much of the recorded inputs of decisions is kept, roughly; the oldest go first.
    #[schemars(extend("default" = defaults::RECORDING_SPACE))]
    pub recording_space: Setting<Size>,
}

/// This gateway among others of the same deployment.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub struct Replica {
    /// Address and port for the other replicas, in a network that only they reach. Without it nothing is forwarded here, and
    /// sessions that reach another replica go on there without streams.
    pub listen: Setting<String>,
    /// Host and port that the other replicas reach `replica.listen` at. Without it, `replica.listen`.
    pub advertise: Setting<String>,
    /// Hosts and ports of the other replicas' listeners, where the store is not shared. They must have the same deployment
    /// secret and the same keys.
    pub peers: Vec<At<String>>,
}

/// Limits of connections, for both listeners.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub struct Edge {
    /// Longest time until the first byte of a new connection.
    #[schemars(extend("default" = defaults::FIRST_BYTE_TIMEOUT))]
    pub first_byte_timeout: Setting<Time>,
    /// Longest time until a request's headers are complete.
    #[schemars(extend("default" = defaults::HEADER_TIMEOUT))]
    pub header_timeout: Setting<Time>,
    /// Longest time until a request's body is complete.
    #[schemars(extend("default" = defaults::BODY_TIMEOUT))]
    pub body_timeout: Setting<Time>,
    /// How long a connection may rest between requests.
    #[schemars(extend("default" = defaults::IDLE_TIMEOUT))]
    pub idle_timeout: Setting<Time>,
    /// Connections at once, for each listener.
    #[schemars(range(min = 1), extend("default" = defaults::MAX_CONNECTIONS))]
    pub max_connections: Setting<i64>,
    /// Requests at once on one HTTP/2 connection.
    #[schemars(range(min = 1), extend("default" = defaults::MAX_HTTP2_STREAMS))]
    pub max_http2_streams: Setting<i64>,
    /// How long requests in flight may go on after a stop signal; `0s` cuts them off at once.
    #[schemars(extend("default" = defaults::DRAIN_TIMEOUT))]
    pub drain_timeout: Setting<Time>,
    /// How long after a stop signal `/readyz` answers 503 before new connections are refused, so that load balancers
    /// learn of it in time.
    #[schemars(extend("default" = defaults::DRAIN_DELAY))]
    pub drain_delay: Setting<Time>,
    /// Addresses and blocks of addresses, such as `10.0.0.0/8`, of the proxies in front. What they say of a caller's address
    /// in `X-Forwarded-For` or `Forwarded` is believed.
    pub trusted_proxies: Vec<At<String>>,
    /// Hosts accepted in the `Host` header besides that of `public_url`, such as `mcp.internal:7400`.
    pub allowed_hosts: Vec<At<String>>,
    /// Origins accepted in the `Origin` header besides that of `public_url`, such as `https://app.example.com`.
    pub allowed_origins: Vec<At<String>>,
}

/// Limits of MCP traffic.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub struct Limits {
    /// Largest request body.
    #[schemars(extend("default" = defaults::REQUEST_SIZE))]
    pub request_size: Setting<Size>,
    /// Largest message accepted from an upstream.
    #[schemars(extend("default" = defaults::UPSTREAM_MESSAGE_SIZE))]
    pub upstream_message_size: Setting<Size>,
    /// Items on one page of any list.
    #[schemars(range(min = 1), extend("default" = defaults::LIST_PAGE))]
    pub list_page: Setting<i64>,
    /// MCP sessions at once, of protocol revisions that have sessions.
    #[schemars(range(min = 1), extend("default" = defaults::SESSIONS))]
    pub sessions: Setting<i64>,
    /// How long an unused MCP session is kept.
    #[schemars(extend("default" = defaults::SESSION_IDLE))]
    pub session_idle: Setting<Time>,
    /// Calls at once, for each virtual key.
    #[schemars(range(min = 1), extend("default" = defaults::CALLS_PER_PRINCIPAL))]
    pub calls_per_principal: Setting<i64>,
    /// Event streams at once.
    #[schemars(range(min = 1), extend("default" = defaults::STREAMS))]
    pub streams: Setting<i64>,
    /// Event streams at once, for each virtual key.
    #[schemars(range(min = 1), extend("default" = defaults::STREAMS_PER_PRINCIPAL))]
    pub streams_per_principal: Setting<i64>,
    /// How long a stream may wait for a caller that does not read before it is cut off.
    #[schemars(extend("default" = defaults::STALL_TIMEOUT))]
    pub stall_timeout: Setting<Time>,
    /// How long an upstream waits for what it asked of a caller or of the person behind it.
    #[schemars(extend("default" = defaults::ASK_TIMEOUT))]
    pub ask_timeout: Setting<Time>,
    /// Calls at once that wait for their caller to come back with what was asked.
    #[schemars(range(min = 1), extend("default" = defaults::PARKED_CALLS))]
    pub parked_calls: Setting<i64>,
    /// Sessions at once with each upstream, of protocol revisions that have sessions.
    #[schemars(range(min = 1), extend("default" = defaults::UPSTREAM_SESSIONS))]
    pub upstream_sessions: Setting<i64>,
    /// How long an unused session with an upstream is kept.
    #[schemars(extend("default" = defaults::UPSTREAM_SESSION_IDLE))]
    pub upstream_session_idle: Setting<Time>,
}

/// How MCP is spoken with callers.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub struct Mcp {
    /// Whether callers of revision 2024-11-05 are served over HTTP with server-sent events, at `/sse`.
    #[schemars(extend("default" = false))]
    pub legacy_sse: Setting<bool>,
}

/// JSON Schema (2020-12) of the file, for editors.
pub fn schema() -> serde_json::Value {
    let settings = SchemaSettings::draft2020_12().with_transform(RecursiveTransform(unwrap_description));
    settings.into_generator().into_root_schema_for::<File>().to_value()
}

/// Joins the lines of a description: they are wrapped for readers of this file.
fn unwrap_description(schema: &mut Schema) {
    if let Some(description) = schema.get("description").and_then(serde_json::Value::as_str) {
        let unwrapped = description.replace('\n', " ");
        schema.insert("description".to_owned(), unwrapped.into());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// Calls `visit` with every schema of an object's property, and its name.
    fn each_property(schema: &Value, visit: &mut impl FnMut(&str, &Value)) {
        if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
            for (name, property) in properties {
                visit(name, property);
                each_property(property, visit);
            }
        }
        for definition in schema.get("$defs").and_then(Value::as_object).into_iter().flat_map(|defs| defs.values()) {
            each_property(definition, visit);
        }
    }

    #[test]
    fn every_key_is_described() {
        let mut properties = 0;
        each_property(&schema(), &mut |name, property| {
            properties += 1;
            let description = property.get("description").and_then(Value::as_str).unwrap_or_default();
            assert!(description.len() > 10 && description.ends_with('.'), "{name}: {property}");
            assert!(!description.contains('\n'), "{name}: {property}");
        });
        assert!(properties > 50, "{properties}");
    }

    /// The row of a key in the documentation.
    fn row(name: &str, property: &Value, is_required: bool) -> String {
        let default = match property.get("default") {
            Some(default) => format!("`{default}`"),
            None if is_required => "required".to_owned(),
            None => String::new(),
        };
        let description = property.get("description").and_then(Value::as_str).unwrap_or_default();
        format!("| `{name}` | {default} | {description} |")
    }

    #[test]
    fn every_key_is_in_the_documentation_as_the_schema_describes_it() {
        let documentation = include_str!("../../../../docs/configuration.md");
        let schema = schema();
        let definitions = schema["$defs"].as_object().unwrap().values().chain([&schema]);
        let mut missing = Vec::new();
        for definition in definitions {
            let required = definition.get("required").and_then(Value::as_array);
            for (name, property) in definition.get("properties").and_then(Value::as_object).into_iter().flatten() {
                let is_required = required.is_some_and(|required| required.contains(&name.as_str().into()));
                let row = row(name, property, is_required);
                if !documentation.lines().any(|line| line == row) {
                    missing.push(row);
                }
            }
        }
        assert!(missing.is_empty(), "docs/configuration.md lacks:\n{}", missing.join("\n"));
    }

    #[test]
    fn the_schema_says_what_the_file_may_hold() {
        let schema = schema();
        assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
        assert_eq!(schema["title"], "portcullis.toml");
        assert!(schema.get("$id").is_none() && schema.get("required").is_none());
        assert_eq!(schema["additionalProperties"], false);
        for (name, definition) in schema["$defs"].as_object().unwrap() {
            let closed = definition.get("additionalProperties") == Some(&Value::Bool(false));
            assert!(closed || definition.get("oneOf").is_some(), "{name}: {definition}");
        }
        let upstreams = &schema["properties"]["upstreams"];
        assert_eq!(upstreams["patternProperties"]["^[a-z0-9][a-z0-9-]{0,23}$"]["$ref"], "#/$defs/Upstream");
        assert_eq!(schema["$defs"]["Binding"]["required"], serde_json::json!(["name", "module"]));
        assert_eq!(schema["$defs"]["Edge"]["properties"]["idle_timeout"]["default"], defaults::IDLE_TIMEOUT);
        assert!(!schema.to_string().contains("null"), "TOML has no null");
    }
}
