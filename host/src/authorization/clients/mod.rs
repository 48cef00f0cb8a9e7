//! The clients that the authorization server knows: those of the configuration, those that registered themselves or were
//! added by an operator, and those whose id is the address of what they say of themselves.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use super::mint::{self, mint};
use super::rates::{Network, Rate};
use super::{AuthorizationServer, Fault};
use crate::config::Auth;
use crate::env::{Env, Timestamp};
use crate::ids::ClientId;
use crate::oauth::client::{Authentication, Client, KnownClient};
use crate::oauth::registration::{Method, Rules, Secrets};
use crate::secret::{Digest, Plaintext};
use crate::store::changes::{Change, News, Revision};
use crate::store::follower::Subscriber;
use crate::store::{StoreError, clients as stored};

mod documents;
pub mod operators;
pub mod register;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use documents::Documents;

/// Registered clients that are kept in memory.
const MAX_KEPT: u64 = 2_000;

/// Finds clients. Clones share what they keep.
#[derive(Clone, Debug)]
pub struct Clients(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    registered: Registered,
    documents: Documents,
    /// Who registers how often.
    registrations: Rate<Network>,
}

/// Registered clients as they were read last.
#[derive(Debug)]
struct Registered {
    kept: moka::sync::Cache<ClientId, Kept>,
    /// Up to where changes of clients are known. What was read of an earlier state is not kept.
    known: Mutex<Revision>,
}

#[derive(Clone, Debug)]
struct Kept {
    client: Arc<KnownClient>,
    /// When to look again: it may have been used since, and live longer.
    until: Option<Timestamp>,
}

impl Default for Clients {
    fn default() -> Self {
        let kept = moka::sync::Cache::new(MAX_KEPT);
        Self(Arc::new(Inner {
            registered: Registered { kept, known: Mutex::default() },
            documents: Documents::new(),
            registrations: Rate::new(),
        }))
    }
}

impl Clients {
    /// The client of this id, if there is one: first among those of the file, then at its own address or in the store. No
    /// id of ours is an address.
    ///
    /// # Errors
    /// It cannot be known: the store does not answer, or the host of the client's document does not.
    pub async fn find(&self, server: &AuthorizationServer, id: &ClientId) -> Result<Option<Arc<KnownClient>>, Fault> {
        let snapshot = server.snapshot.load_full();
        let known = &snapshot.auth.clients.known;
        if let Some(configured) = known.iter().find(|configured| configured.client.id == *id) {
            return Ok(Some(Arc::new(configured.client.clone())));
        }
        if id.is_address() {
            return self.0.documents.find(server, &snapshot, id).await;
        }
        self.0.registered.find(server, id).await
    }

    /// What is kept of a client is void.
    fn forget(&self, id: &ClientId) {
        self.0.registered.kept.invalidate(id);
    }
}

impl Registered {
    async fn find(&self, server: &AuthorizationServer, id: &ClientId) -> Result<Option<Arc<KnownClient>>, Fault> {
        let now = server.env.now();
        if let Some(kept) = self.kept.get(id)
            && kept.until.is_none_or(|until| now < until)
        {
            return Ok(Some(kept.client));
        }
        let (client, at) = stored::get_at(&server.store, id).await?;
        let Some(client) = client else { return Ok(None) };
        let until = client.expires();
        let kept = Kept { client: Arc::new(client.into()), until };
        let known = self.known();
        if at >= *known {
            self.kept.insert(id.clone(), kept.clone());
        }
        drop(known);
        Ok(Some(kept.client))
    }

    /// Nothing is kept or forgotten meanwhile.
    fn known(&self) -> MutexGuard<'_, Revision> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, news: &News) {
        let mut known = self.known();
        match news {
            News::Changes { changes, revision } => {
                for change in changes {
                    if let Change::Client { id } = change
                        && let Some(id) = ClientId::parse(id)
                    {
                        self.kept.invalidate(&id);
                        *known = (*known).max(*revision);
                    }
                }
            }
            News::Everything { revision } => {
                self.kept.invalidate_all();
                *known = (*known).max(*revision);
            }
        }
    }
}

/// Forgets what has changed, whoever changed it.
impl Subscriber for Clients {
    fn take<'a>(&'a self, news: &'a News) -> BoxFuture<'a, Result<(), StoreError>> {
        self.0.registered.take(news);
        async { Ok(()) }.boxed()
    }
}

/// Who says what a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Author {
    /// The client, in a registration.
    Itself,
    /// The client, in a document that everybody can read.
    Document,
    Operator,
}

/// What may be registered by whom.
fn rules(settings: &Auth, author: Author) -> Rules {
    use crate::oauth::client::GrantType as G;
    let is_given = |grant_type: &G| match author {
        // Only the configuration file binds a client to the key as which it acts by itself.
        Author::Operator => *grant_type != G::ClientCredentials,
        // Whoever registers itself is anybody: it gets nothing without a person who consents. An assertion of another
        // authority names the client, and only one that stays can be named.
        Author::Itself => *grant_type == G::DeviceCode,
        Author::Document => matches!(grant_type, G::DeviceCode | G::TokenExchange | G::JwtBearer),
    };
    Rules {
        schemes: settings.clients.schemes.clone(),
        grant_types: settings.grants.types().into_iter().filter(is_given).collect(),
        scopes: settings.scope_names(),
        is_strict: author == Author::Operator,
        secrets: match author {
            Author::Itself => Secrets::OverHttps,
            Author::Document => Secrets::Never,
            Author::Operator => Secrets::Anywhere,
        },
    }
}

/// What a client proves who it is with from now on: the secret that it has, or else a new one, which is told once.
fn authentication(env: &Env, method: Method, had: Option<Digest>) -> (Authentication, Option<Plaintext>) {
    let secret = || match had {
        Some(digest) => (digest, None),
        None => {
            let secret = mint(env, mint::CLIENT_SECRET);
            (secret.digest(), Some(secret))
        }
    };
    match method {
        Method::None => (Authentication::Public, None),
        Method::PrivateKey(source) => (Authentication::PrivateKey(source), None),
        Method::SecretBasic => {
            let (digest, told) = secret();
            (Authentication::SecretBasic(digest), told)
        }
        Method::SecretPost => {
            let (digest, told) = secret();
            (Authentication::SecretPost(digest), told)
        }
    }
}

/// The digest of the secret that a client has, if it has one.
fn secret_of(client: &Client) -> Option<Digest> {
    match client.authentication {
        Authentication::SecretBasic(digest) | Authentication::SecretPost(digest) => Some(digest),
        Authentication::Public | Authentication::PrivateKey(_) => None,
    }
}
