//! What a module says of itself: interfaces `manifest`, `self-tests` and `configuration`.

use serde::{Deserialize, Serialize};
use wasmtime::component::{ComponentType, Lift};

use super::hook::Hook;
use super::json::flag_names;

#[derive(ComponentType, Lift, Serialize, Deserialize, Clone, Debug, PartialEq, Copy, Eq, Default)]
#[component(enum)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub(in crate::policy) enum Payload {
    #[default]
    #[component(name = "none")]
    None,
    #[component(name = "size-only")]
    SizeOnly,
    #[component(name = "full")]
    Full,
}

/// What one hook wants to see. What is not asked for is not sent.
#[derive(ComponentType, Lift, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[component(record)]
#[serde(deny_unknown_fields)]
pub(in crate::policy) struct Need {
    pub(in crate::policy) hook: Hook,
    /// The arguments (`tool-call`, `item-access`) or the parameters (`server-request`).
    #[serde(default)]
    pub(in crate::policy) arguments: Payload,
    /// Texts (`tool-result`, `item-result`) and structured content (`tool-result`) of the result.
    #[serde(default)]
    pub(in crate::policy) output: Payload,
    /// Title, description and input schema of tools.
    #[serde(default)]
    pub(in crate::policy) texts: bool,
    /// Names of claims of the caller. The name `*` stands for all claims that the caller has.
    #[serde(default)]
    pub(in crate::policy) claims: Vec<String>,
    /// Names of further facts for `context.ext`.
    #[serde(default)]
    pub(in crate::policy) ext: Vec<String>,
}

// Host interfaces that the module wants besides `log`. The operator grants them in the binding.
wasmtime::component::flags! {
    Capability {
        #[component(name = "clock")]
        const CLOCK;
        #[component(name = "random")]
        const RANDOM;
        #[component(name = "counters")]
        const COUNTERS;
        #[component(name = "sets")]
        const SETS;
    }
}

flag_names! {
    Capability {
        CLOCK = "clock",
        RANDOM = "random",
        COUNTERS = "counters",
        SETS = "sets",
    }
}

#[derive(ComponentType, Lift, Serialize, Deserialize, Clone, Debug, PartialEq, Copy, Eq, Default)]
#[component(enum)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub(in crate::policy) enum Determinism {
    #[default]
    /// The same input and the same sets always give the same answer.
    #[component(name = "pure")]
    Pure,
    /// `context.now-ms` or `clock` matters too.
    #[component(name = "time-dependent")]
    TimeDependent,
    /// `counters` or `random` matter too.
    #[component(name = "stateful")]
    Stateful,
}

#[derive(ComponentType, Lift, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[component(record)]
#[serde(deny_unknown_fields)]
pub(in crate::policy) struct Info {
    /// `[a-z0-9-]`, at most 64 bytes.
    pub(in crate::policy) name: String,
    /// Semantic version.
    pub(in crate::policy) version: String,
    pub(in crate::policy) title: String,
    #[serde(default)]
    pub(in crate::policy) license: Option<String>,
    /// Hooks that are meant to be called; each must be exported.
    #[serde(default)]
    pub(in crate::policy) hooks: Vec<Hook>,
    /// Hooks that may change what passes: arguments (`tool-call`), texts (`list-tools`), results
    /// (`tool-result`, `item-result`), metadata (`client`).
    #[serde(default)]
    pub(in crate::policy) mutates: Vec<Hook>,
    #[serde(default)]
    pub(in crate::policy) needs: Vec<Need>,
    #[serde(default)]
    pub(in crate::policy) capabilities: Capability,
    #[serde(default)]
    pub(in crate::policy) determinism: Determinism,
    /// JSON Schema of the configuration. A configuration that does not fit it is refused before `configure`.
    #[component(name = "config-schema")]
    #[serde(with = "super::json")]
    pub(in crate::policy) config_schema: String,
    /// A configuration that `configure` accepts.
    #[component(name = "sample-config")]
    #[serde(with = "super::json")]
    pub(in crate::policy) sample_config: String,
    /// Oldest version of Portcullis that the module works with.
    #[component(name = "min-host")]
    #[serde(default)]
    pub(in crate::policy) min_host: Option<String>,
}

#[derive(ComponentType, Lift, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[component(record)]
#[serde(deny_unknown_fields)]
pub(in crate::policy) struct Case {
    pub(in crate::policy) name: String,
    /// Configuration of the module under test.
    #[serde(with = "super::json")]
    pub(in crate::policy) config: String,
    pub(in crate::policy) hook: Hook,
    /// The hook's parameters: an object with `context` and the other parameter's name. What is left out has a
    /// harmless value.
    #[serde(with = "super::json")]
    pub(in crate::policy) input: String,
    /// What the answer must contain: objects may have more members than are written here, all else is equal.
    #[serde(with = "super::json")]
    pub(in crate::policy) expect: String,
}

#[derive(ComponentType, Lift, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[component(record)]
#[serde(deny_unknown_fields)]
pub(in crate::policy) struct Problem {
    /// RFC 6901 pointer into the configuration.
    pub(in crate::policy) path: String,
    pub(in crate::policy) message: String,
}

/// What `configure` answers: warnings, or why the configuration cannot be used.
pub(in crate::policy) type Configured = Result<Vec<String>, Vec<Problem>>;
