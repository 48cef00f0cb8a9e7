//! What `portcullis.toml` says, word for word, and its JSON Schema.
//!
//! These types know names and shapes and nothing else: unknown keys are refused, every value keeps its place in the
//! file, and what a text means is for [`super::resolve`] to find out. Nothing here is `Debug`, since a file may
//! hold a credential where it should not. The doc comment of a field is its description in the schema, and
//! [`defaults`] is what the schema announces and what `resolve` fills in.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::Range;

use schemars::generate::SchemaSettings;
use schemars::transform::RecursiveTransform;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use toml::Spanned;

use crate::ids::{KeyName, UpstreamName};

/// The configuration of a Portcullis gateway.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
#[schemars(title = "portcullis.toml")]
pub struct File {
    /// Where callers reach the gateway: an absolute URL, the base of every URL that the gateway hands out.
    /// Without it, `http://` followed by `listen.public`.
    pub public_url: Setting<String>,
    /// Directory of the store, the admin socket, the operator token and the deployment secret. Like every path in
    /// this file, relative to the file's own directory.
    #[schemars(extend("default" = defaults::DATA_DIR))]
    pub data_dir: Setting<String>,
    /// Addresses to listen on.
    pub listen: Listen,
    /// Where the gateway keeps what it must remember.
    pub store: Store,
    /// Limits of connections, for both listeners.
    pub edge: Edge,
    /// Limits of MCP traffic.
    pub limits: Limits,
    /// How MCP is spoken with callers.
    pub mcp: Mcp,
    /// The MCP servers behind the gateway, by name.
    pub upstreams: BTreeMap<NameOfUpstream, Upstream>,
    /// Virtual keys that callers authenticate with, by name.
    pub keys: BTreeMap<NameOfKey, Key>,
    /// Settings for all policies together.
    pub policy: Policy,
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
    /// Loopback address and port for operators, or `off`.
    #[schemars(extend("default" = defaults::LISTEN_ADMIN))]
    pub admin: Setting<String>,
    /// Unix socket for operators on this machine. Without it, `admin.sock` in `data_dir`.
    pub admin_socket: Setting<String>,
}

/// Where the gateway keeps what it must remember.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub struct Store {
    /// `redb:PATH` for one file, or `memory:` to forget everything on stop. Without it, `portcullis.redb` in
    /// `data_dir`.
    #[schemars(extend("pattern" = "^(redb:.+|memory:)$"))]
    pub url: Setting<String>,
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
    /// Tools on one page of `tools/list`.
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

/// An MCP server behind the gateway.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub struct Upstream {
    /// How the server is reached. Without it, `streamable-http` where there is a `url` and `stdio` where there is
    /// a `command`.
    pub transport: Setting<Transport>,
    /// The server's MCP endpoint. For `streamable-http` only.
    #[schemars(extend("pattern" = "^https?://[^#]+$"))]
    pub url: Setting<String>,
    /// Which revisions of MCP the server speaks. For `streamable-http` only.
    #[schemars(extend("default" = "auto"))]
    pub protocol: Setting<Protocol>,
    /// Headers sent with each request. For `streamable-http` only. A value is a text, or a reference to a secret:
    /// `env:NAME` or `file:PATH`, where wanted after a scheme, as in `Bearer env:NAME`. Credentials must be
    /// references.
    pub headers: BTreeMap<At<String>, At<String>>,
    /// Program and arguments, started without a shell. For `stdio` only.
    #[schemars(length(min = 1))]
    pub command: Setting<Vec<At<String>>>,
    /// Environment variables of the program, added to a small fixed set. For `stdio` only. A value is a text, or a
    /// reference to a secret: `env:NAME` or `file:PATH`. Credentials must be references.
    pub environment: BTreeMap<At<String>, At<String>>,
    /// Directory that the program starts in. For `stdio` only.
    pub working_dir: Setting<String>,
    /// Longest time until the program answers its first request. For `stdio` only.
    #[schemars(extend("default" = defaults::START_TIMEOUT))]
    pub start_timeout: Setting<Time>,
    /// Address space of each process of the program. Some runtimes reserve far more than they use. For `stdio` only;
    /// without it, as much as the gateway itself may have.
    pub memory_limit: Setting<Size>,
    /// Processes and threads of the user that the program runs as, all of them counted. For `stdio` only; without it, as many
    /// as the gateway itself may have.
    #[schemars(range(min = 1))]
    pub process_limit: Setting<i64>,
    /// Whether callers see the server's tools as `<upstream>__<tool>` or under their own names. One upstream at
    /// most may go without.
    #[schemars(extend("default" = true))]
    pub prefix: Setting<bool>,
    /// Longest call.
    #[schemars(extend("default" = defaults::CALL_TIMEOUT))]
    pub call_timeout: Setting<Time>,
    /// How often the server's tools are read again.
    #[schemars(extend("default" = defaults::SYNC_INTERVAL))]
    pub sync_interval: Setting<Time>,
    /// Your own trust label, for policies to read.
    #[schemars(extend("default" = ""))]
    pub trust: Setting<String>,
    /// Your own labels, for policies to read.
    pub labels: Vec<At<String>>,
}

/// Which revisions of MCP an upstream speaks over HTTP.
#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// What it turns out to speak.
    Auto,
    /// Those since 2026-07-28, which have no sessions.
    Modern,
    /// Those from 2025-03-26 to 2025-11-25, which begin with `initialize`.
    Legacy,
    /// 2024-11-05 over HTTP with server-sent events; `url` is that of the event stream.
    Sse,
}

/// How an upstream is reached.
#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// An HTTP endpoint.
    StreamableHttp,
    /// A child process of the gateway.
    Stdio,
}

/// A virtual key.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub struct Key {
    /// Reference to the key itself, `env:NAME` or `file:PATH`: `pk_` and at least 32 characters. Either this or
    /// `sha256`.
    #[schemars(extend("pattern" = "^(env|file):.+$"))]
    pub secret: Setting<String>,
    /// SHA-256 of the whole key text, in hex. Either this or `secret`.
    #[schemars(extend("pattern" = "^[0-9a-fA-F]{64}$"))]
    pub sha256: Setting<String>,
    /// What the key may use. No entry means nothing.
    pub allow: Vec<At<Allow>>,
    /// When the key ends (RFC 3339). Without it, never.
    pub expires: Setting<Moment>,
    /// Whether the key is refused for now.
    #[schemars(extend("default" = false))]
    pub disabled: Setting<bool>,
}

/// One line of a virtual key's allow-list.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
#[schemars(extend("required" = ["upstream", "tools"]))]
pub struct Allow {
    /// An upstream's name; `*` stands for any run of characters.
    pub upstream: Setting<String>,
    /// The upstream's own names of tools; `*` stands for any run of characters.
    pub tools: Setting<Vec<At<String>>>,
}

/// Settings for all policies together.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub struct Policy {
    /// What happens to a call where every policy that applies abstains.
    #[schemars(extend("default" = "deny"))]
    pub when_all_abstain: Setting<WhenAllAbstain>,
    /// Policy modules kept ready at once.
    #[schemars(range(min = 1), extend("default" = defaults::MAX_COMPONENTS))]
    pub max_components: Setting<i64>,
}

/// What happens where every policy abstains.
#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum WhenAllAbstain {
    /// The call is refused.
    Deny,
    /// The call goes on.
    Allow,
}

/// One use of one policy module.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
#[schemars(extend("required" = ["name", "module"]))]
pub struct Binding {
    /// Name of this use, for logs and the decision trail.
    #[schemars(extend("pattern" = "^[a-z0-9][a-z0-9-]{0,63}$"))]
    pub name: Setting<String>,
    /// Path of a WebAssembly module, or `builtin:` and the name of a policy that comes with the gateway.
    pub module: Setting<String>,
    /// SHA-256 that the module must have, as `sha256:` and hex.
    #[schemars(extend("pattern" = "^sha256:[0-9a-fA-F]{64}$"))]
    pub digest: Setting<String>,
    /// The policy's own settings, as it documents them.
    #[schemars(with = "BTreeMap<String, serde_json::Value>")]
    pub config: Setting<toml::Table>,
    /// Which tools the policy is asked about. Without it, all.
    #[serde(rename = "match")]
    pub matches: Match,
    /// Policies of a lower number are asked first; those of the same number in the order of the file.
    #[schemars(extend("default" = defaults::PRIORITY))]
    pub priority: Setting<i64>,
    /// Whether the policy may change the arguments of a call.
    #[schemars(extend("default" = false))]
    pub allow_rewrite: Setting<bool>,
    /// Limits of one run of the policy.
    pub limits: PolicyLimits,
}

/// Which tools a policy is asked about.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub struct Match {
    /// Names of upstreams; `*` stands for any run of characters.
    #[schemars(length(min = 1), extend("default" = ["*"]))]
    pub upstreams: Setting<Vec<At<String>>>,
    /// The upstreams' own names of tools; `*` stands for any run of characters.
    #[schemars(length(min = 1), extend("default" = ["*"]))]
    pub tools: Setting<Vec<At<String>>>,
}

/// Limits of one run of a policy.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub struct PolicyLimits {
    /// Longest run of one hook, in processor time, at most `1s`.
    #[schemars(extend("default" = defaults::POLICY_TIME))]
    pub time: Setting<Time>,
    /// Memory, from `64KiB` to `256MiB`.
    #[schemars(extend("default" = defaults::POLICY_MEMORY))]
    pub memory: Setting<Size>,
}

/// What holds where the file says nothing.
pub mod defaults {
    pub const DATA_DIR: &str = "portcullis-data";
    pub const LISTEN_PUBLIC: &str = "127.0.0.1:7400";
    pub const LISTEN_ADMIN: &str = "127.0.0.1:7401";
    pub const FIRST_BYTE_TIMEOUT: &str = "10s";
    pub const HEADER_TIMEOUT: &str = "10s";
    pub const BODY_TIMEOUT: &str = "30s";
    pub const IDLE_TIMEOUT: &str = "75s";
    pub const MAX_CONNECTIONS: i64 = 10_000;
    pub const MAX_HTTP2_STREAMS: i64 = 128;
    pub const DRAIN_TIMEOUT: &str = "20s";
    pub const REQUEST_SIZE: &str = "4MiB";
    pub const UPSTREAM_MESSAGE_SIZE: &str = "16MiB";
    pub const LIST_PAGE: i64 = 1_000;
    pub const SESSIONS: i64 = 10_000;
    pub const SESSION_IDLE: &str = "30m";
    pub const CALLS_PER_PRINCIPAL: i64 = 256;
    pub const STREAMS: i64 = 10_000;
    pub const STREAMS_PER_PRINCIPAL: i64 = 1_000;
    pub const STALL_TIMEOUT: &str = "60s";
    pub const ASK_TIMEOUT: &str = "10m";
    pub const PARKED_CALLS: i64 = 1_000;
    pub const UPSTREAM_SESSIONS: i64 = 1_000;
    pub const UPSTREAM_SESSION_IDLE: &str = "5m";
    pub const START_TIMEOUT: &str = "60s";
    pub const CALL_TIMEOUT: &str = "5m";
    pub const SYNC_INTERVAL: &str = "5m";
    pub const MAX_COMPONENTS: i64 = 64;
    pub const PRIORITY: i64 = 100;
    pub const POLICY_TIME: &str = "50ms";
    pub const POLICY_MEMORY: &str = "16MiB";
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

/// A value and its place in the file.
#[derive(Deserialize)]
#[serde(transparent)]
pub struct At<T>(Spanned<T>);

impl<T> At<T> {
    pub fn value(&self) -> &T {
        self.0.get_ref()
    }

    /// Bytes of the file that say it.
    pub fn place(&self) -> Range<usize> {
        self.0.span()
    }
}

impl<T: Ord> Ord for At<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.value().cmp(other.value())
    }
}

impl<T: Ord> PartialOrd for At<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T: Ord> PartialEq for At<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<T: Ord> Eq for At<T> {}

/// A value that the file may leave out.
#[derive(Deserialize)]
#[serde(transparent)]
pub struct Setting<T>(Option<At<T>>);

impl<T> Setting<T> {
    pub fn get(&self) -> Option<&At<T>> {
        self.0.as_ref()
    }

    pub fn value(&self) -> Option<&T> {
        self.get().map(At::value)
    }
}

impl<T> Default for Setting<T> {
    fn default() -> Self {
        Self(None)
    }
}

/// A name that is a key of a table, at most `MAX` characters long.
#[derive(Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(transparent)]
pub struct Name<const MAX: usize>(At<String>);

impl<const MAX: usize> Name<MAX> {
    pub fn as_str(&self) -> &str {
        self.0.value()
    }

    pub fn place(&self) -> Range<usize> {
        self.0.place()
    }
}

/// Checked by [`UpstreamName`] later on.
pub type NameOfUpstream = Name<{ UpstreamName::MAX_LEN }>;

/// Checked by [`KeyName`] later on.
pub type NameOfKey = Name<{ KeyName::MAX_LEN }>;

/// A length of time, such as `500ms` or `5m`.
#[derive(Deserialize)]
#[serde(transparent)]
pub struct Time(pub String);

/// A number of bytes, as a number or with a unit.
#[derive(Deserialize)]
#[serde(untagged, expecting = "must be a size such as \"4MiB\", or a number of bytes")]
pub enum Size {
    Bytes(i64),
    Text(String),
}

/// A moment, as a TOML date and time or as text.
pub struct Moment(pub String);

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Moment;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a date and time such as \"2027-01-01T00:00:00Z\"")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Moment, E> {
                Ok(Moment(text.to_owned()))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Moment, A::Error> {
                let datetime = toml::value::Datetime::deserialize(MapAccessDeserializer::new(map));
                datetime
                    .map(|datetime| Moment(datetime.to_string()))
                    .map_err(|_| A::Error::invalid_type(serde::de::Unexpected::Map, &self))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// The schema of a wrapper is that of what it wraps.
macro_rules! schema_of_inner {
    ($($wrapper:ident),*) => {$(
        impl<T: JsonSchema> JsonSchema for $wrapper<T> {
            fn inline_schema() -> bool {
                T::inline_schema()
            }
            fn schema_name() -> Cow<'static, str> {
                T::schema_name()
            }
            fn schema_id() -> Cow<'static, str> {
                T::schema_id()
            }
            fn json_schema(generator: &mut SchemaGenerator) -> Schema {
                T::json_schema(generator)
            }
        }
    )*};
}

schema_of_inner!(At, Setting);

/// Schemas that stand where they are used, so that a field's own description and default are next to them.
macro_rules! inline_schemas {
    ($([$($generics:tt)*] $type:ty => $name:literal, $schema:expr;)*) => {$(
        impl<$($generics)*> JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }
            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                $schema
            }
        }
    )*};
}

inline_schemas! {
    [const MAX: usize] Name<MAX> => "Name", json_schema!({
        "type": "string",
        "pattern": format!("^[a-z0-9][a-z0-9-]{{0,{}}}$", MAX - 1),
    });
    [] Time => "Time", json_schema!({
        "type": "string",
        "pattern": r"^\s*[0-9][0-9.\s]*[a-zA-Zµ]+(\s*[0-9][0-9.\s]*[a-zA-Zµ]+)*\s*$",
    });
    [] Size => "Size", json_schema!({
        "type": ["integer", "string"],
        "minimum": 1,
        "pattern": "^[0-9]+ *(B|KiB|MiB|GiB)?$",
    });
    [] Moment => "Moment", json_schema!({ "type": "string", "format": "date-time" });
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
