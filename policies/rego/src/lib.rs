//! Rules in Rego, the language of the Open Policy Agent, written as text in a binding's configuration.
//!
//! [`Rego`] holds modules; the package `portcullis.tool_call` answers the hook `tool-call`, and so on. Everything is parsed
//! and prepared in `configure`, and the host freezes the module after it. Rules that cannot be evaluated refuse: they never
//! count as ones that have nothing to say.
//!
//! In reading order: the policy in `policy`, its `modules`, what they are asked with in `input` and what they say in
//! `answer`.

mod policy;

mod answer;
mod input;
mod modules;

pub use modules::Config;
pub use policy::Rego;
