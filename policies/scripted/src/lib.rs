//! What the interpreters of rules, `policies/cel` and `policies/rego`, have in common: the variables that rules look at, and
//! the parts of an answer that are the same in any language.
//!
//! It is a library of these two and no module of its own. Like them it stands on the public SDK alone.

mod fact;
mod records;
mod redaction;
mod reply;
mod subject;

pub use fact::{Fact, Members, Shape};
pub use redaction::{Pattern, present, redact};
pub use reply::{Narrowing, bounded, is_code, limits};
pub use subject::{Situation, Subject, variables};
