//! Servers that stand behind the gateway in tests, of MCP all but one.
//!
//! [`fixture`] is the well-behaved one, with the names that the official conformance suite expects and some tools
//! for looking at what arrived; [`hostile`] are the ones that are down, slow, wrong or malicious. They are written
//! by hand from the specification and share no code with the gateway, so that both sides of a test do not make
//! the same mistake. [`gated`] is used with accounts of people's own. [`registry`] has policy modules in the manner of OCI, [`transit`] a key for the vault, [`collector`] takes traces.

pub mod collector;
pub mod fixture;
pub mod gated;
pub mod hostile;
pub mod hostile_stdio;
pub mod registry;
pub mod transit;

mod serve;
mod whims;

#[cfg(test)]
mod raw_client;
