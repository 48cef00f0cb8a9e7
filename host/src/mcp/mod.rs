//! The Model Context Protocol as pure values: no IO, no clock.
//!
//! [`message`] reads one JSON-RPC message; [`revision`] translates it to and from the neutral [`call`] and [`talk`];
//! [`error`] has the codes. A new protocol revision is a new file in `revision`, and nothing outside of it asks which one
//! is spoken.

pub mod call;
pub mod canonical;
pub mod client;
pub mod error;
pub mod json;
pub mod message;
pub mod param_headers;
pub mod revision;
pub mod sse;
pub mod talk;
