//! The one place that opens HTTP connections outward.
//!
//! There are two ways out, and which one a URL takes depends on who wrote it. What an operator configured as an upstream
//! goes through the pooled client, [`Outbound`], with the [`Tls`] that it is configured with. What was discovered or came from a client (authorization metadata,
//! client documents, key sets, token endpoints) goes through the guarded [`Fetcher`], which judges every address before
//! it connects. Policy modules from registries ([`Depot`]) take both: the registry is the operator's, what it points at is not.
//! [`ask_socket`], [`ask_socket_patiently`], [`ask_socket_if`], [`send_to_socket`], [`stream_from_socket`] and
//! [`listen_to_socket`] speak to our own admin socket.
//!
//! Redirects are never followed: an upstream that moved is for its operator to correct, and a credential must not
//! travel elsewhere. No proxy is taken from the environment. Everything is bounded: connecting, waiting for headers,
//! and each body that is read.

mod address;
mod depot;
mod guarded;
mod pool;
mod registry;
mod slots;
mod socket;
mod tls;
mod trust;

use http::Uri;

pub use address::{Host, Network, Special, special};
pub use depot::Depot;
#[cfg(test)]
pub(crate) use guarded::tests::DocumentHost;
pub use guarded::{Fetch, FetchError, Fetched, Fetcher, Limits, Resolve, UrlFault, is_passing};
pub use pool::{Outbound, OutboundError, Pieces, read_all};
pub use registry::{MaxSizes, PullError};
pub use socket::{
    Listening, Sent, ask_socket, ask_socket_if, ask_socket_patiently, listen_to_socket, send_to_socket,
    stream_from_socket,
};
pub use tls::{Tls, TlsError, TlsSettings};
pub use trust::{TrustError, Trusted, TrustedEntry};

/// Scheme and authority, for messages that must not show a path or query.
pub fn origin(uri: &Uri) -> String {
    format!("{}://{}", uri.scheme_str().unwrap_or("http"), uri.authority().map_or("", http::uri::Authority::as_str))
}
