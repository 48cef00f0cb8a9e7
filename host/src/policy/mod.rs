//! Policies: sandboxed WebAssembly modules that are asked before every list, call and result.
//!
//! In reading order: [`decision`] has the words and [`tally`] merges them; [`chain`] (calls and results), [`lists`],
//! [`items`] and [`authority`] ask policies and enforce what they say, by way of [`asking`]; [`visible`] remembers,
//! [`shadow`] asks afterwards. [`bindings`] holds the policies in force, [`publish`] makes them, and below them modules
//! become instances. This is the one place that knows wasmtime. It is not concerned with protocol revisions, status
//! codes or storage.
//!
//! Invariants: each call of a policy runs in an instance of its own, with limits and without ambient authority;
//! whatever goes wrong refuses the request; only [`chain`] and [`items`] make a [`Permit`].

pub mod authority;
pub mod bindings;
pub mod cases;
pub mod chain;
pub mod decision;
pub mod engine;
#[doc(hidden)]
pub mod fuzzing;
pub mod manifest;
pub mod module;
pub mod replay;
pub mod signature;
pub mod totals;
pub mod tryout;
pub mod workbench;

mod answer;
mod arguments;
mod asked;
mod asking;
mod binary;
mod cache;
mod contract;
mod counters;
mod cpu;
mod dynamic;
mod edits;
mod freeze;
mod functions;
mod imports;
mod index;
mod instance;
mod items;
mod judge;
mod lists;
mod load_error;
mod matching;
mod of_file;
mod prepared;
mod publish;
mod rehearsal;
mod result;
mod schema;
mod shadow;
mod tally;
mod text;
mod ticker;
mod trial;
mod visible;
mod wasi;
mod workers;

#[cfg(test)]
pub(crate) mod tests;

pub use asked::Asked;
pub use asking::{CallContext, Transport};
pub use binary::{MAX_MODULE_BYTES, componentize};
pub use bindings::{BoundPolicy, PolicySet};
pub use cache::CodeCache;
pub use chain::Permit;
#[cfg(test)]
pub use counters::Probe;
pub use counters::{Charges, Counters};
pub use decision::{
    ApprovalWanted, Approver, Failure, Hook, ModuleName, Note, Reason, Recorded, Refusal, Remember, Satisfied, Step,
    Trail,
};
pub use engine::{Engine, EngineError, MAX_LARGE_MEMORY_BYTES, MAX_MEMORY_BYTES};
pub use functions::Lane;
pub use imports::ImportCall;
pub use items::{AskedOf, ItemFacts, Used};
pub use judge::Judged;
pub use lists::{ItemKind, ListedItem, VisibleTool};
pub use load_error::{BindingError, LoadError, LoadErrors, Problem};
pub use manifest::Manifest;
pub use module::{Module, ModuleError, ModuleInfo, digest as module_digest};
pub use of_file::OfFile;
pub use prepared::InstanceMode;
pub use publish::{Publication, Published, Uploaded, UploadedModule, examine};
pub use shadow::{Shadow, ShadowRunner, ShadowTally, Shadows, shadows};
pub use trial::{CaseOutcome, CaseProblem, TrialError};
