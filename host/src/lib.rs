//! Portcullis: a gateway between AI agents (MCP clients) and MCP servers.
//!
//! The map, in reading order: [`pipeline`] tells the life of one request; [`gateway`] wires everything together and is
//! what [`serve`] calls. Things are nouns and pure ([`mcp`], [`identity`], [`oauth`], the catalog in [`upstream`],
//! decisions in [`policy`]); happenings are verbs ([`admin`]); the world is reached through four adapters: [`http`], [`store`], the
//! engine in [`policy`], and [`outbound`] with the child processes of [`upstream`]. `docs/ARCHITECTURE.md` has the picture,
//! `host/tests/architecture.rs` holds the arrows.

#[macro_use]
mod words;

pub mod admin;
pub mod audit;
pub mod authorization;
pub mod builtin;
pub mod certificate;
pub mod cli;
pub mod config;
pub mod connection;
pub mod connections;
pub mod env;
pub mod gateway;
pub mod glob;
pub mod http;
pub mod identity;
pub mod ids;
pub mod mcp;
pub mod oauth;
pub mod oci;
pub mod outbound;
pub mod patch;
pub mod pipeline;
pub mod policy;
pub mod secret;
pub mod store;
pub mod supervisor;
pub mod tasks;
pub mod telemetry;
pub mod upstream;
pub mod vault;

pub use config::Config;
pub use env::Env;
pub use gateway::{Listeners, StartError, serve, serve_under};
pub use supervisor::Supervisor;
