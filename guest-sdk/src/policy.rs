//! What a policy is, apart from its hooks.

use std::fmt;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{Hook, Manifest, Problem};

/// A policy, made once from the operator's configuration.
pub trait Policy: Sized + 'static {
    /// What the operator writes; [`NoConfig`] where there is nothing to write. Derive `Deserialize` with
    /// `deny_unknown_fields`, so that a misspelt setting is refused instead of ignored.
    type Config: DeserializeOwned;

    /// Who the policy is and what its hooks need to see.
    fn manifest() -> Manifest;

    /// The policy with this configuration, or everything that is wrong with it.
    fn configure(config: Self::Config) -> Result<Self, Vec<Problem>>;

    /// What the operator should know although the configuration can be used.
    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }
}

/// `self_tests`: cases that the module brings along, tried by the host before the module comes into force.
pub trait SelfTests: Policy {
    /// The text of a cases file, as [`crate::testing`] describes it. Cases that say `refused` only run natively and under
    /// `portcullis policy test`; the module leaves them out.
    const CASES: &'static str;
}

/// What [`crate::export!`] makes of a policy: its hooks, by name. Tests ask through it.
pub trait Module: Policy {
    /// The hooks that the module exports.
    const HOOKS: &'static [Hook];

    /// Asks one hook. `input` is an object with the hook's parameters in the contract's JSON form, `context` and
    /// [`Hook::parameter`]; what is left out has a harmless value.
    ///
    /// # Errors
    /// What is wrong with the input, or that there is no such hook.
    fn ask(&self, hook: Hook, input: Value) -> Result<Value, String>;
}

/// The configuration of a policy that has none: `{}`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoConfig {}

impl Problem {
    /// Something wrong with the value at `path`, an RFC 6901 pointer such as `/rules/0/tools`.
    pub fn at(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into() }
    }
}

impl Hook {
    /// Every hook, in the contract's order.
    pub const ALL: [Self; 11] = [
        Self::Grant,
        Self::Refresh,
        Self::Client,
        Self::Credential,
        Self::ListTools,
        Self::ListItems,
        Self::ToolCall,
        Self::ToolResult,
        Self::ItemAccess,
        Self::ItemResult,
        Self::ServerRequest,
    ];

    /// Its name in the contract, such as `tool-call`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Grant => "grant",
            Self::Refresh => "refresh",
            Self::Client => "client",
            Self::Credential => "credential",
            Self::ListTools => "list-tools",
            Self::ListItems => "list-items",
            Self::ToolCall => "tool-call",
            Self::ToolResult => "tool-result",
            Self::ItemAccess => "item-access",
            Self::ItemResult => "item-result",
            Self::ServerRequest => "server-request",
        }
    }

    /// The name of what it is asked about, beside `context`.
    pub const fn parameter(self) -> &'static str {
        match self {
            Self::ListTools => "tools",
            Self::ListItems => "items",
            Self::ToolResult | Self::ItemResult => "response",
            _ => "request",
        }
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
