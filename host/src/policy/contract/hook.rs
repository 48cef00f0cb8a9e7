//! The hooks: where a policy is asked, with which records, under which names.

use std::fmt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use wasmtime::component::{ComponentType, Lift, Lower};

use super::authority::{client, credential, grant, refresh};
use super::items::{item_access, item_result, list_items, server_request};
use super::tools::{list_tools, tool_call, tool_result};
use super::types::{Inspection, Tool, Verdict, Visibility};

/// Strings of a question: borrowed from the request, or read from JSON.
pub(in crate::policy) trait Text: AsRef<str> + Lower + Serialize {}

impl<T: AsRef<str> + Lower + Serialize> Text for T {}

/// One hook of the contract: what it is asked besides the context, and what it answers.
pub(in crate::policy) trait HookType {
    const HOOK: Hook;
    type Request<S: Text>: Lower + Serialize;
    type Answer: Lift + Serialize + DeserializeOwned + 'static;
}

macro_rules! hooks {
    ($($(#[$doc:meta])* $kind:ident = $name:literal, $function:literal ($parameter:literal: $request:ty) -> $answer:ty;)*) => {
        /// Where in the life of a request or grant policies are asked.
        #[derive(ComponentType, Lift, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[component(enum)]
        #[serde(rename_all = "kebab-case")]
        #[repr(u8)]
        pub enum Hook {
            $($(#[$doc])* #[component(name = $name)] $kind,)*
        }

        impl Hook {
            /// In the contract's order.
            pub const ALL: [Self; [$($name),*].len()] = [$(Self::$kind),*];

            /// The name of its interface in the contract.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$kind => $name,)*
                }
            }

            /// The name of its function.
            pub(in crate::policy) const fn function(self) -> &'static str {
                match self {
                    $(Self::$kind => $function,)*
                }
            }

            /// The name of its second parameter; the first is always `context`.
            pub(in crate::policy) const fn parameter(self) -> &'static str {
                match self {
                    $(Self::$kind => $parameter,)*
                }
            }

            /// The hook of that name.
            pub fn parse(name: &str) -> Option<Self> {
                Self::ALL.into_iter().find(|hook| hook.as_str() == name)
            }
        }

        $(
            #[derive(Debug)]
            $(#[$doc])*
            pub(in crate::policy) struct $kind;

            impl HookType for $kind {
                const HOOK: Hook = Hook::$kind;
                type Request<S: Text> = $request;
                type Answer = $answer;
            }
        )*
    };
}

hooks! {
    /// Which authority a client gets from consent.
    Grant = "grant", "authorize" ("request": grant::Request<S>) -> grant::Decision;
    /// Whether a refresh token may be used once more.
    Refresh = "refresh", "renew" ("request": refresh::Request<S>) -> refresh::Decision;
    /// Whether a client may register.
    Client = "client", "register" ("request": client::Request<S>) -> client::Decision;
    /// Whether a stored credential may be used for a caller.
    Credential = "credential", "release" ("request": credential::Request<S>) -> credential::Decision;
    /// Which tools a caller sees.
    ListTools = "list-tools", "filter" ("tools": Vec<Tool<S>>) -> list_tools::Outcome;
    /// Which resources, templates, prompts and skills a caller sees.
    ListItems = "list-items", "filter" ("items": Vec<list_items::Item<S>>) -> Vec<Visibility>;
    /// Whether a call may go to its upstream.
    ToolCall = "tool-call", "before" ("request": tool_call::Request<S>) -> Verdict;
    /// What of a result may reach the caller.
    ToolResult = "tool-result", "after" ("response": tool_result::Response<S>) -> Inspection;
    /// Whether a resource, prompt or task may be used.
    ItemAccess = "item-access", "before" ("request": item_access::Request<S>) -> Verdict;
    /// What of a resource, prompt or task's outcome may reach the caller.
    ItemResult = "item-result", "after" ("response": item_result::Response<S>) -> Inspection;
    /// Whether an upstream may ask this of the caller's client.
    ServerRequest = "server-request", "before" ("request": server_request::Request<S>) -> Verdict;
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
