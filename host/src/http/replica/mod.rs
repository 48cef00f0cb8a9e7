//! Several gateways as one: who owns what, and how a request reaches the replica that owns what it is about.
//!
//! Sessions, their streams and parked calls live in the memory of the replica that began them, and their sealed ids
//! name it. [`Replicas::forward`] hands a request on to the owner, once: what was handed on is never handed on again,
//! because whoever takes it ([`Replicas::receive`]) has no way to. [`registry`] knows who is there, [`wire`] is what
//! travels, [`seen`] refuses what comes twice.
//!
//! Invariants: nothing is taken that was not sealed with the deployment secret, for this replica, within
//! [`MAX_SKEW`], once; a caller's credential opens nothing here and never travels; what may have happened is never done
//! again. Deliberately not here: what a request means (`http::mcp`), and what a caller may do.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::env::{Env, Timestamp};
use crate::ids::ReplicaId;
use crate::outbound::Outbound;
use crate::secret::DeploymentSecret;
use crate::store::replicas::Replica;

mod forward;
mod receive;
mod registry;
mod seen;
#[cfg(test)]
mod tests;
mod wire;

pub use forward::{Forwarding, Undelivered};
pub use receive::{AnswerTo, Forwarded, Received, Rejected};
pub use registry::Directory;
use registry::Registry;
use seen::Seen;
pub(crate) use wire::OVERHEAD;

/// Where replicas take each other's requests.
pub const PATH: &str = "/replica";
/// Header that says who sends a message, how large it is and when: read before the message is.
const PASS: &str = "portcullis-replica";
const PASS_PURPOSE: &str = "pass between replicas";
/// How far a request's time may be from ours.
const MAX_SKEW: Duration = Duration::from_secs(30);
/// Requests that are handed on at once.
const MAX_FORWARDS: usize = 16_384;

/// This replica among the others.
pub struct Replicas {
    env: Env,
    secret: DeploymentSecret,
    outbound: Outbound,
    registry: Registry,
    seen: Mutex<Seen>,
    /// When a warning about clocks was written last.
    warned: Mutex<Option<Instant>>,
    forwards: Arc<Semaphore>,
}

impl Replicas {
    /// The replica of this id. `address` is where others reach it, and `configuration` the digest of what it was
    /// started with.
    pub fn new(
        env: Env,
        secret: DeploymentSecret,
        id: ReplicaId,
        directory: Directory,
        address: Option<String>,
        configuration: String,
    ) -> Arc<Self> {
        let own = Replica {
            id,
            address,
            started: env.now(),
            seen: env.now(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            configuration,
        };
        Arc::new(Self {
            registry: Registry::new(own, directory),
            env,
            secret,
            outbound: Outbound::between_replicas(),
            seen: Mutex::new(Seen::new(Instant::now())),
            warned: Mutex::new(None),
            forwards: Arc::new(Semaphore::new(MAX_FORWARDS)),
        })
    }

    /// This replica's own id.
    pub fn id(&self) -> &ReplicaId {
        self.registry.id()
    }

    /// Whether there can be others.
    pub fn is_alone(&self) -> bool {
        self.registry.is_alone()
    }

    /// The time that all replicas agree about.
    fn now(&self) -> Timestamp {
        self.env.now()
    }

    fn is_new(&self, nonce: wire::RequestNonce) -> bool {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).is_new(nonce, Instant::now())
    }
}
