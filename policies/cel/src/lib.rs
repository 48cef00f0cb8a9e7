//! Rules in the Common Expression Language, written as text in a binding's configuration.
//!
//! [`Cel`] is an ordered list of rules; the first one of a hook whose condition is true decides. Everything is parsed and
//! checked in `configure`, and the host freezes the module after it, so that a decision costs no more than looking at what
//! its rules name. A rule that cannot be evaluated refuses: it never counts as one that does not match.
//!
//! In reading order: the policy in `policy`, what is written in `config` and what is meant in `rules`, what rules do in
//! `action`, then the language: `expression`, `check`, `facts`, `functions`, `value`.

mod policy;

mod config;
mod rules;

mod action;

mod check;
mod expression;
mod facts;
mod functions;
mod value;

pub use config::Config;
pub use policy::Cel;
