//! The black-box tests, in one binary: callers, operators, policies and upstreams around a running gateway.

#![expect(clippy::unwrap_used, reason = "a test that finds something missing fails")]

mod bridge;
mod cli;
mod connections;
mod console;
mod fidelity;
mod mcp;
mod oauth;
mod operator;
mod policy;
mod postgres;
mod replica;
mod upstream;
mod vault;
