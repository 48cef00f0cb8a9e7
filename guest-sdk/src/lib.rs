//! Write Portcullis policies in Rust.
//!
//! A policy is a type. [`Policy`] says what it is and makes it from the operator's configuration; [`ListTools`],
//! [`ToolCall`] and [`ToolResult`] are the hooks that it may have; [`export!`] makes a module of it. The same type
//! runs in plain `cargo test` with the builders of [`testing`], without any WebAssembly tools.
//!
//! What this crate is not: it has no host functions but [`log`], since a policy has no others. The words of the
//! contract (`Verdict`, `Denial`, `Redaction`, …) are the generated ones of `wit/policy.wit`, with constructors
//! added here, so that an author never meets two types for one thing.
//!
//! In reading order: the traits in `policy`, the answers in `verdict`, `inspection` and `listing`, the questions in
//! `facts`, then the helpers.

mod facts;
mod inspection;
mod listing;
mod manifest;
mod policy;
mod verdict;

pub mod glob;
pub mod json;
pub mod log;
#[cfg(not(target_arch = "wasm32"))]
pub mod testing;

mod export;

#[doc(hidden)]
#[expect(
    unsafe_code,
    unreachable_pub,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::unwrap_used,
    reason = "generated"
)]
#[rustfmt::skip]
pub mod bindings;

#[doc(hidden)]
pub use export::glue;

pub use bindings::exports::portcullis::policy::configuration::Problem;
pub use bindings::exports::portcullis::policy::manifest::{Hook, Need};
pub use bindings::exports::portcullis::policy::tool_call::Request as Call;
pub use bindings::exports::portcullis::policy::tool_result::Response as CallResult;
pub use bindings::portcullis::policy::types::{
    Approval, ApprovalMemory, Approver, Attr, CacheHint, Caller, Context, Denial, Edit, EditOp, Inspection, Note, Part,
    Permit, Reason, Redaction, Rewrite, Span, StepUp, SubjectKind, Throttle, Tool, ToolHints, Transport, Upstream,
    Verdict, Visibility,
};
pub use glob::Glob;
pub use listing::Listing;
pub use manifest::Manifest;
pub use policy::{ListTools, NoConfig, Policy, ToolCall, ToolResult};
pub use {serde, serde_json};
