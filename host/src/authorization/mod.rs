//! The authorization server: what its endpoints and pages do, as verbs that load, decide and commit (OAuth 2.1).
//!
//! What things are is `oauth` and `identity`, what is written when is `store`, what the wire looks like is `http::oauth`.
//! Refusals are values that name the check that failed; errors are [`Fault`]s, which are nobody's denial.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::config::Auth;
use crate::env::Env;
use crate::oauth::metadata;
use crate::outbound::Fetcher;
use crate::pipeline::{Services, Snapshot};
use crate::secret::DeploymentSecret;
use crate::store::Store;
use crate::vault::Vault;

pub mod account;
pub mod api_tokens;
pub mod authorize;
pub mod backoff;
pub mod clients;
pub mod consent;
pub mod doors;
mod fault;
mod key_sets;
mod liveness;
pub mod mint;
pub mod passwords;
pub mod people;
pub mod proofs;
pub mod providers;
pub mod rates;
pub mod resource;
pub mod set_up;
pub mod signing;
pub mod standing;
#[cfg(test)]
pub(crate) mod testing;
pub mod token;
#[cfg(test)]
pub(crate) mod tokens;

use backoff::Backoff;
use clients::Clients;
use doors::Doors;
pub use fault::Fault;
use key_sets::KeySets;
use passwords::Passwords;
use providers::Providers;
use set_up::SetUp;

use signing::SigningKeys;

/// What the verbs work with.
pub struct AuthorizationServer {
    pub env: Env,
    pub store: Store,
    pub vault: Vault,
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// For what is recorded of policies' decisions.
    pub services: Arc<Services>,
    /// `public_url`: the issuer, and the base of every address that is handed out.
    pub issuer: String,
    /// For addresses that others supplied.
    pub fetcher: Fetcher,
    pub secret: DeploymentSecret,
    /// Where people may sign in besides here.
    pub providers: Providers,
    pub signing: SigningKeys,
    /// Key sets of clients' own addresses.
    pub client_keys: KeySets,
    /// Keys of issuers of identity assertions.
    pub issuer_keys: KeySets,
    pub passwords: Passwords,
    pub backoff: Backoff,
    pub clients: Clients,
    /// How often strangers may knock.
    pub doors: Doors,
    /// The link with which the first owner is made.
    pub set_up: SetUp,
}

/// What a server is made of that is not its own.
pub struct Parts {
    pub env: Env,
    pub store: Store,
    pub vault: Vault,
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    pub services: Arc<Services>,
    /// `public_url`
    pub issuer: String,
    pub fetcher: Fetcher,
    pub secret: DeploymentSecret,
    pub signing: SigningKeys,
    pub clients: Clients,
}

impl AuthorizationServer {
    /// A server of these parts.
    pub fn new(parts: Parts) -> Self {
        let Parts { env, store, vault, snapshot, services, issuer, fetcher, secret, signing, clients } = parts;
        Self {
            passwords: Passwords::new(env.clone()),
            backoff: Backoff::new(),
            providers: Providers::new(),
            client_keys: KeySets::default(),
            issuer_keys: KeySets::default(),
            doors: Doors::default(),
            set_up: SetUp::default(),
            env,
            store,
            vault,
            snapshot,
            services,
            issuer,
            fetcher,
            secret,
            signing,
            clients,
        }
    }

    /// The settings as they are now.
    pub fn settings(&self) -> Arc<Auth> {
        self.snapshot.load().auth.clone()
    }

    /// What judges proofs of keys.
    pub fn proofs(&self) -> proofs::Proofs<'_> {
        proofs::Proofs { store: &self.store, secret: &self.secret }
    }

    /// What clients are told of the server now.
    pub fn metadata(&self) -> metadata::Server {
        let settings = self.settings();
        metadata::Server {
            issuer: self.issuer.clone(),
            scopes: settings.scope_names(),
            grant_types: settings.grants.types(),
            is_open: settings.clients.registration,
            takes_documents: settings.clients.metadata_documents,
            algorithm: settings.tokens.algorithm,
        }
    }
}
