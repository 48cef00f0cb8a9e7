//! `[policy]`, `[sets]` and `[[policies]]`: what the file says of policies.

use std::collections::BTreeMap;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::{At, Setting, Size, Time, defaults};
use crate::config::policy::{self, HOOKS};

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
    /// Whether decisions are recorded with all that policies were asked and answered, sealed, so that they can be
    /// explained and decided again. What policies are asked includes arguments and results.
    #[schemars(extend("default" = false))]
    pub record: Setting<bool>,
    /// Recorded decisions that are decided again before new policies come into force, to tell what would change.
    #[schemars(range(min = 0, max = 10_000), extend("default" = defaults::REPLAY))]
    pub replay: Setting<i64>,
    /// Whose signatures a module needs before it is loaded. Modules that come with the gateway need none.
    #[schemars(extend("default" = "off"))]
    pub signatures: Setting<Signatures>,
    /// The keys whose signatures count.
    pub trusted_keys: Vec<At<TrustedKey>>,
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

/// Whose signatures a module needs.
#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Signatures {
    /// Nobody's.
    Off,
    /// That of one of the trusted keys.
    Any,
    /// Those of all trusted keys.
    All,
}

/// A key whose signatures count: as `ed25519:` and base64, or with a name for messages.
pub enum TrustedKey {
    Plain(String),
    Named(NamedKey),
}

/// A key whose signatures count, and its name.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
#[schemars(extend("required" = ["name", "key"]))]
pub struct NamedKey {
    /// What messages call it.
    pub name: Setting<String>,
    /// The Ed25519 public key, as `ed25519:` and base64.
    #[schemars(extend("pattern" = TRUSTED_KEY))]
    pub key: Setting<String>,
}

/// The pattern of a trusted key: 32 bytes in base64.
const TRUSTED_KEY: &str = "^ed25519:[A-Za-z0-9+/]{43}=?$";

/// A list of texts that policies may look things up in.
pub enum Set {
    /// Here, one by one.
    Items(Vec<At<String>>),
    InFile(SetFile),
}

/// A set that is kept in a file.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
#[schemars(extend("required" = ["file"]))]
pub struct SetFile {
    /// Path of a text file with one item on each line. Lines that begin with `#` and empty ones do not count.
    pub file: Setting<String>,
}

/// One use of one policy module.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
#[schemars(extend("required" = ["name", "module"]))]
pub struct Binding {
    /// Name of this use, for logs and the decision trail.
    #[schemars(extend("pattern" = "^[a-z0-9][a-z0-9-]{0,63}$"))]
    pub name: Setting<String>,
    /// Path of a WebAssembly module, `builtin:` and the name of a policy that comes with the gateway, or
    /// `oci://HOST/REPOSITORY@sha256:DIGEST` for one in a registry, with the digest of its manifest.
    pub module: Setting<String>,
    /// SHA-256 that the module must have, as `sha256:` and hex.
    #[schemars(extend("pattern" = "^sha256:[0-9a-fA-F]{64}$"))]
    pub digest: Setting<String>,
    /// The policy's own settings, as it documents them.
    #[schemars(with = "BTreeMap<String, serde_json::Value>")]
    pub config: Setting<toml::Table>,
    /// What the policy is asked about. Without it, everything.
    #[serde(rename = "match")]
    pub matches: Match,
    /// Policies of a lower number are asked first; those of the same number in the order of the file.
    #[schemars(extend("default" = defaults::PRIORITY))]
    pub priority: Setting<i64>,
    /// Whether the policy's answers count.
    #[schemars(extend("default" = "enforce"))]
    pub mode: Setting<Mode>,
    /// Whether the policy counts as abstaining where it fails, rather than as denying.
    #[schemars(extend("default" = false))]
    pub advisory: Setting<bool>,
    /// Whether the policy may change the arguments of a call.
    #[schemars(extend("default" = false))]
    pub allow_rewrite: Setting<bool>,
    /// Host interfaces that the policy gets if it asks for them.
    #[schemars(extend("items" = words(policy::Grant::ALL.iter().map(|grant| grant.as_str()))))]
    pub grants: Vec<At<String>>,
    /// Limits of one run of the policy.
    pub limits: PolicyLimits,
    /// Path of a JSON file with cases that the policy must pass before it comes into force.
    pub tests: Setting<String>,
}

/// What a policy is asked about. All that is said must hold; of a list of patterns, one must match.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub struct Match {
    /// Names of hooks. Without it, all hooks that the policy has.
    #[schemars(length(min = 1), extend("items" = words(HOOKS)))]
    pub hooks: Setting<Vec<At<String>>>,
    /// Names of upstreams; `*` stands for any run of characters.
    #[schemars(length(min = 1), extend("default" = ["*"]))]
    pub upstreams: Setting<Vec<At<String>>>,
    /// The upstreams' own names of tools; `*` stands for any run of characters. Concerns tools and nothing else:
    /// resources, prompts and tasks have `items`.
    #[schemars(length(min = 1), extend("default" = ["*"]))]
    pub tools: Setting<Vec<At<String>>>,
    /// The upstreams' own URIs of resources, and names of prompts and tasks; `*` stands for any run of characters.
    #[schemars(length(min = 1), extend("default" = ["*"]))]
    pub items: Setting<Vec<At<String>>>,
    /// Hints that a tool must all have. Concerns tools and nothing else.
    #[schemars(length(min = 1), extend("items" = words(policy::Hint::ALL.iter().map(|hint| hint.as_str()))))]
    pub hints: Setting<Vec<At<String>>>,
    /// Who asks, such as `key:ci`; `*` stands for any run of characters.
    #[schemars(length(min = 1), extend("default" = ["*"]))]
    pub principals: Setting<Vec<At<String>>>,
    /// Groups, of which the caller must have one; `*` stands for any run of characters. Without it, callers with and
    /// without groups.
    #[schemars(length(min = 1))]
    pub groups: Setting<Vec<At<String>>>,
    /// Ids of OAuth clients; `*` stands for any run of characters. The id of a caller that uses a virtual key directly
    /// is empty.
    #[schemars(length(min = 1), extend("default" = ["*"]))]
    pub clients: Setting<Vec<At<String>>>,
}

/// Whether the answers of a policy count.
#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// They do.
    Enforce,
    /// The policy is asked afterwards, and what it would have done is written down.
    Shadow,
    /// The policy is not asked.
    Off,
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
    /// Whether and how the policy's memory lives on between runs.
    #[schemars(extend("default" = "auto"))]
    pub reuse: Setting<Reuse>,
}

/// Whether and how a policy's memory lives on.
#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Reuse {
    /// As `frozen` where the module can be frozen, else as `fresh`.
    Auto,
    /// The policy is configured once, and each run begins with a copy of that state.
    Frozen,
    /// Each run begins with an empty memory and is configured anew.
    Fresh,
    /// One run after the other uses the same memory, so that a run can see what others left. Only for large modules,
    /// which take long to start.
    Warm,
}

/// The schema of one word out of these.
fn words<'a>(words: impl IntoIterator<Item = &'a str>) -> serde_json::Value {
    serde_json::json!({ "type": "string", "enum": words.into_iter().collect::<Vec<_>>() })
}

impl<'de> Deserialize<'de> for TrustedKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = TrustedKey;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key such as \"ed25519:…\", or { name = \"…\", key = \"ed25519:…\" }")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<TrustedKey, E> {
                Ok(TrustedKey::Plain(text.to_owned()))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<TrustedKey, A::Error> {
                NamedKey::deserialize(MapAccessDeserializer::new(map)).map(TrustedKey::Named)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl<'de> Deserialize<'de> for Set {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Set;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of strings, or { file = \"PATH\" }")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Set, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(items)).map(Set::Items)
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Set, A::Error> {
                SetFile::deserialize(MapAccessDeserializer::new(map)).map(Set::InFile)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// The schema of what can be written in two ways.
macro_rules! either {
    ($($type:ident: $one:expr, $other:ty;)*) => {$(
        impl JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }
            fn json_schema(generator: &mut SchemaGenerator) -> Schema {
                let (one, other) = ($one, generator.subschema_for::<$other>());
                json_schema!({ "oneOf": [one, other] })
            }
        }
    )*};
}

either! {
    TrustedKey: json_schema!({ "type": "string", "pattern": TRUSTED_KEY }), NamedKey;
    Set: json_schema!({ "type": "array", "items": { "type": "string" } }), SetFile;
}
