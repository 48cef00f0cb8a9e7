//! Operators: the admin API and its door, keys, the two trails, the command line, and how a gateway starts and ends.

use std::net::SocketAddr;

use portcullis_tests::{Caller, Gateway};

mod access;
mod approvals;
mod clients;
mod decisions;
mod keys;
mod lifecycle;
mod lists;
mod mistakes;
mod pins;
mod recordings;
mod replicas;
pub(crate) mod roles;
mod serving;
mod signing_keys;
mod store;
mod tails;
mod upstreams;
mod users;
mod watch;

/// An operator at the TCP listener of the admin API, with the operator token.
fn with_token(gateway: &Gateway) -> Caller {
    at(gateway.admin, Some(&operator_token(gateway)))
}

fn at(address: SocketAddr, token: Option<&str>) -> Caller {
    Caller::new(address, token.map(ToOwned::to_owned))
}

fn operator_token(gateway: &Gateway) -> String {
    std::fs::read_to_string(gateway.dir.path().join("data/operator-token")).unwrap().trim().to_owned()
}
