//! The traits that an author implements: what a policy is, and one trait for each hook.
//!
//! The host makes a fresh copy of the module for each call and nothing kept in memory survives it, so hooks take
//! `&self`: the configured policy is all the state there is.

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::{Call, CallResult, Context, Inspection, Listing, Manifest, Problem, Tool, Verdict};

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

/// Hook `list_tools`: which tools a caller sees. A tool that is hidden cannot be called either.
pub trait ListTools: Policy {
    /// Judges one tool. The host asks about any tools at any time, so the answer must not depend on the others.
    fn list(&self, ctx: &Context, tool: &Tool) -> Listing;
}

/// Hook `tool_call`: whether a call may go to its upstream.
pub trait ToolCall: Policy {
    fn before(&self, ctx: &Context, call: &Call) -> Verdict;
}

/// Hook `tool_result`: what of a result may reach the caller.
pub trait ToolResult: Policy {
    fn after(&self, ctx: &Context, result: &CallResult) -> Inspection;
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
