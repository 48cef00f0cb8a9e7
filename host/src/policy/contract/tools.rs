//! The hooks over tools.

/// Interface `list-tools`.
pub(in crate::policy) mod list_tools {
    use serde::{Deserialize, Serialize};
    use wasmtime::component::{ComponentType, Lift};

    use super::super::types::Visibility;

    #[derive(ComponentType, Lift, Serialize, Deserialize, Clone, Debug, PartialEq)]
    #[component(record)]
    #[serde(deny_unknown_fields)]
    pub(in crate::policy) struct Override {
        pub(in crate::policy) index: u32,
        #[serde(default)]
        pub(in crate::policy) title: Option<String>,
        #[serde(default)]
        pub(in crate::policy) description: Option<String>,
    }

    #[derive(ComponentType, Lift, Serialize, Deserialize, Clone, Debug, PartialEq)]
    #[component(record)]
    #[serde(deny_unknown_fields)]
    pub(in crate::policy) struct Outcome {
        /// One entry for each tool, in the same order.
        #[serde(default)]
        pub(in crate::policy) visible: Vec<Visibility>,
        #[serde(default)]
        pub(in crate::policy) overrides: Vec<Override>,
    }
}

/// Interface `tool-call`.
pub(in crate::policy) mod tool_call {
    use serde::{Deserialize, Serialize};
    use wasmtime::component::{ComponentType, Lower};

    use super::super::types::{Tool, Upstream};

    #[derive(ComponentType, Lower, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
    #[component(record)]
    #[serde(deny_unknown_fields, default)]
    #[serde(bound(
        serialize = "S: AsRef<str> + Serialize",
        deserialize = "S: Deserialize<'de> + Default + From<String>"
    ))]
    pub(in crate::policy) struct Request<S> {
        pub(in crate::policy) tool: Tool<S>,
        pub(in crate::policy) upstream: Upstream<S>,
        /// The arguments, if the need for this hook says `full`.
        #[serde(with = "super::super::json::option", default)]
        pub(in crate::policy) arguments: Option<S>,
        #[component(name = "arguments-bytes")]
        pub(in crate::policy) arguments_bytes: u32,
        /// The request's `_meta`, without the keys that belong to the protocol.
        #[serde(with = "super::super::json::option", default)]
        pub(in crate::policy) meta: Option<S>,
    }
}

/// Interface `tool-result`.
pub(in crate::policy) mod tool_result {
    use serde::{Deserialize, Serialize};
    use wasmtime::component::{ComponentType, Lower};

    use super::super::types::{Part, Tool};

    #[derive(ComponentType, Lower, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
    #[component(record)]
    #[serde(deny_unknown_fields, default)]
    #[serde(bound(
        serialize = "S: AsRef<str> + Serialize",
        deserialize = "S: Deserialize<'de> + Default + From<String>"
    ))]
    pub(in crate::policy) struct Response<S> {
        pub(in crate::policy) tool: Tool<S>,
        #[component(name = "is-error")]
        pub(in crate::policy) is_error: bool,
        /// The texts are present if the need for this hook says `output: full`.
        pub(in crate::policy) parts: Vec<Part<S>>,
        /// `structuredContent`, if the need for this hook says `output: full`.
        #[serde(with = "super::super::json::option", default)]
        pub(in crate::policy) structured: Option<S>,
        #[component(name = "elapsed-ms")]
        pub(in crate::policy) elapsed_ms: u32,
    }
}
