//! Proxies between the parties of a measurement or a test.
//!
//! [`floor`] does the least that a proxy can do, which is what the gateway's costs are compared with; [`fault`] spoils
//! the conversation between the gateway and an upstream in ways that have names. Neither knows anything of MCP.

pub mod dice;
pub mod fault;
pub mod floor;

mod framing;
