//! Write Portcullis policies in Rust.
//!
//! A policy is a type. [`Policy`] says what it is and makes it from the operator's configuration; the traits of `hooks`,
//! such as [`ToolCall`], are what it may be asked; [`export!`] makes a module of it. The same type runs in plain
//! `cargo test` with [`testing`], without any WebAssembly tools.
//!
//! The words of the contract (`Verdict`, `Denial`, `Redaction`, …) are the generated ones of `wit/policy.wit`, with
//! constructors added here, so that an author never meets two types for one thing. All of them have the contract's JSON
//! form through serde. The host's functions are [`log`] for everyone, and [`clock`], [`random`], [`counters`] and [`sets`]
//! for those who ask for them in their [`Manifest`]; there are no others.
//!
//! In reading order: what a policy is in `policy`, its hooks in `hooks`, the answers in `verdict`, `inspection`, `listing`
//! and `authority`, the questions in `facts`, then the helpers.

mod authority;
mod capabilities;
mod facts;
mod hooks;
mod inspection;
mod listing;
mod manifest;
mod policy;
mod serial;
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
pub mod glue;

pub use authority::{client, credential, grant, refresh};
pub use bindings::exports::portcullis::policy::configuration::Problem;
pub use bindings::exports::portcullis::policy::item_access::Request as Access;
pub use bindings::exports::portcullis::policy::item_result::Response as ItemOutput;
pub use bindings::exports::portcullis::policy::list_items::Item;
pub use bindings::exports::portcullis::policy::list_tools;
pub use bindings::exports::portcullis::policy::manifest::{Capability, Determinism, Hook, Info, Need, Payload};
pub use bindings::exports::portcullis::policy::server_request::Request as Question;
pub use bindings::exports::portcullis::policy::tool_call::Request as Call;
pub use bindings::exports::portcullis::policy::tool_result::Response as CallResult;
pub use bindings::portcullis::policy::types::{
    Approval, ApprovalMemory, Approver, Attr, Caller, Context, Denial, Edit, EditOp, Inspection, ItemKind, Note, Part,
    Permit, Reason, Redaction, Rewrite, Span, StepUp, SubjectKind, Throttle, Tool, ToolHints, Transport, Upstream,
    Verdict, Visibility,
};
pub use capabilities::{clock, counters, random, sets};
pub use glob::Glob;
pub use hooks::{
    Client, Credential, Grant, ItemAccess, ItemResult, ListItems, ListTools, Refresh, ServerRequest, ToolCall,
    ToolResult,
};
pub use listing::Listing;
pub use manifest::Manifest;
pub use policy::{Module, NoConfig, Policy, SelfTests};
pub use {serde, serde_json};

/// The README's policies compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
