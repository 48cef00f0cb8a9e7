//! The hooks over resources, prompts, tasks and questions to clients.

/// Interface `list-items`.
pub(in crate::policy) mod list_items {
    use serde::{Deserialize, Serialize};
    use wasmtime::component::{ComponentType, Lower};

    use super::super::types::ItemKind;

    #[derive(ComponentType, Lower, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
    #[component(record)]
    #[serde(deny_unknown_fields, default)]
    #[serde(bound(
        serialize = "S: AsRef<str> + Serialize",
        deserialize = "S: Deserialize<'de> + Default + From<String>"
    ))]
    pub(in crate::policy) struct Item<S> {
        pub(in crate::policy) kind: ItemKind,
        /// `upstream.id` of the server that offers it.
        pub(in crate::policy) upstream: S,
        /// The upstream's own URI, URI template or name for it.
        pub(in crate::policy) id: S,
        pub(in crate::policy) mime: Option<S>,
        /// The operator's labels of the upstream.
        pub(in crate::policy) labels: Vec<S>,
    }
}

/// Interface `item-access`.
pub(in crate::policy) mod item_access {
    use serde::{Deserialize, Serialize};
    use wasmtime::component::{ComponentType, Lower};

    use super::super::types::{ItemKind, Upstream};

    #[derive(ComponentType, Lower, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
    #[component(record)]
    #[serde(deny_unknown_fields, default)]
    #[serde(bound(
        serialize = "S: AsRef<str> + Serialize",
        deserialize = "S: Deserialize<'de> + Default + From<String>"
    ))]
    pub(in crate::policy) struct Request<S> {
        /// The MCP method, such as `resources/read`.
        pub(in crate::policy) method: S,
        pub(in crate::policy) kind: ItemKind,
        pub(in crate::policy) upstream: Upstream<S>,
        /// The upstream's own URI, name or task id.
        pub(in crate::policy) id: S,
        /// The arguments of a prompt or completion, if there are any and the need for this hook says `full`.
        #[serde(with = "super::super::json::option", default)]
        pub(in crate::policy) arguments: Option<S>,
    }
}

/// Interface `item-result`.
pub(in crate::policy) mod item_result {
    use serde::{Deserialize, Serialize};
    use wasmtime::component::{ComponentType, Lower};

    use super::super::types::{ItemKind, Part};

    #[derive(ComponentType, Lower, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
    #[component(record)]
    #[serde(deny_unknown_fields, default)]
    #[serde(bound(
        serialize = "S: AsRef<str> + Serialize",
        deserialize = "S: Deserialize<'de> + Default + From<String>"
    ))]
    pub(in crate::policy) struct Response<S> {
        /// The MCP method, such as `resources/read`.
        pub(in crate::policy) method: S,
        pub(in crate::policy) kind: ItemKind,
        /// `upstream.id` of the server that answered.
        pub(in crate::policy) upstream: S,
        /// The upstream's own URI, name or task id.
        pub(in crate::policy) id: S,
        /// The contents of a resource, the messages of a prompt, the values of a completion, the entries of a directory
        /// or the content of a task's outcome; texts if the need for this hook says `output: full`.
        pub(in crate::policy) parts: Vec<Part<S>>,
    }
}

/// Interface `server-request`.
pub(in crate::policy) mod server_request {
    use serde::{Deserialize, Serialize};
    use wasmtime::component::{ComponentType, Lower};

    use super::super::types::Upstream;

    #[derive(ComponentType, Lower, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
    #[component(record)]
    #[serde(deny_unknown_fields, default)]
    #[serde(bound(
        serialize = "S: AsRef<str> + Serialize",
        deserialize = "S: Deserialize<'de> + Default + From<String>"
    ))]
    pub(in crate::policy) struct Request<S> {
        /// The MCP method, such as `sampling/createMessage`.
        pub(in crate::policy) method: S,
        pub(in crate::policy) upstream: Upstream<S>,
        /// If the need for this hook says `arguments: full`.
        #[serde(with = "super::super::json::option", default)]
        pub(in crate::policy) params: Option<S>,
    }
}
