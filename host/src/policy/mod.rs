//! Policies: sandboxed WebAssembly modules that are asked before every list, call and result.
//!
//! In reading order: [`decision`] has the words, [`chain`] asks policies and enforces what they say, [`bindings`]
//! holds the policies in force, and below them modules become instances. This is the one place that knows
//! wasmtime. It is not concerned with protocol revisions, status codes or storage.
//!
//! Invariants: each call of a policy runs in an instance of its own, with limits and without ambient authority;
//! whatever goes wrong refuses the request; only [`chain`] and [`items`] make a [`Permit`].

pub mod bindings;
pub mod chain;
pub mod decision;
pub mod engine;
pub mod manifest;
pub mod module;

mod answer;
mod asking;
mod binary;
mod contract;
mod cpu;
mod edits;
mod instance;
mod items;
mod result;
mod text;

#[cfg(test)]
mod tests;

pub use asking::{CallContext, Transport};
pub use binary::{MAX_MODULE_BYTES, componentize};
pub use bindings::{BindingError, BoundPolicy, LoadError, LoadErrors, PolicySet};
pub use chain::{Filtered, Permit, VisibleTool};
pub use decision::{Failure, Hook, Note, Reason, Refusal, Step, Trail};
pub use engine::{Engine, EngineError, MAX_MEMORY_BYTES};
pub use manifest::Manifest;
pub use module::{Module, ModuleError, ModuleInfo};
