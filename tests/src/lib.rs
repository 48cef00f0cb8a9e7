//! The black-box harness: a gateway on loopback ports of its own, the callers in front of it and the servers behind it.
//!
//! Tests are told by actors and go over the network only; nothing here looks into the gateway. Each gateway has its own
//! temporary directory and clock, and ends when it is dropped.

pub mod caller;
pub mod clock;
pub mod gateway;
pub mod oauth;
pub mod postgres;
pub mod proxies;
pub mod replicas;
pub mod upstreams;

pub use caller::{Caller, Reply};
pub use clock::TestClock;
pub use gateway::Gateway;

/// A program of this workspace that was built beside the running test.
///
/// # Panics
/// If it was not built.
pub fn program(name: &str) -> std::path::PathBuf {
    let test = std::env::current_exe().expect("a running test has a path");
    let built = test.ancestors().nth(2).expect("tests are in `deps` of the target directory").join(name);
    assert!(built.is_file(), "{} is missing: `cargo build --workspace` makes it", built.display());
    built
}

/// A loopback address whose port nobody listens on at this moment, for a program that is told where to listen.
///
/// # Errors
/// If no port is free.
pub async fn free_address() -> std::io::Result<std::net::SocketAddr> {
    tokio::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await?.local_addr()
}

/// The root of the repository.
pub fn repository() -> &'static std::path::Path {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests are a folder of the repository")
}
