//! Who a client is (RFC 6749 §2.3, RFC 7523 §2.2): by exactly the method that it has registered.
//!
//! Whatever is wrong, the answer is one and takes the same work: a client that there is not is compared with a secret that
//! nobody has. Keys of `private_key_jwt` come from the registration, or from the client's own address ([`super::super::key_sets`]).

use std::sync::Arc;

use super::super::key_sets::key_set;
use super::super::{AuthorizationServer, Fault};
use super::{Refused, Unproven};
use crate::ids::ClientId;
use crate::oauth::assertion::{self, ClientKeys};
use crate::oauth::client::{Authentication, KeySource, KnownClient};
use crate::secret::{Digest, Plaintext};
use crate::store::marks::{self, Kind, Mark};

/// What a client presents of itself.
#[derive(Debug)]
pub enum Presented {
    /// Its name alone.
    Name { client: String },
    /// `Authorization: Basic`, decoded.
    Basic { client: String, secret: Plaintext },
    /// `Authorization` with something that cannot be read.
    BadHeader,
    /// `client_secret` beside `client_id`.
    Post { client: String, secret: Plaintext },
    /// `client_assertion`, perhaps beside `client_id`.
    Assertion { client: Option<String>, kind: String, assertion: Plaintext },
    /// Not even a name.
    Nothing,
}

/// The client that has shown who it is.
///
/// # Errors
/// It cannot be known.
pub async fn authenticate(
    server: &AuthorizationServer,
    presented: Presented,
) -> Result<Result<Arc<KnownClient>, Refused>, Fault> {
    let refused = |tried| Ok(Err(Refused::Client(tried)));
    match presented {
        Presented::Nothing => refused(Unproven::InRequest),
        Presented::BadHeader => refused(Unproven::ByHeader),
        Presented::Name { client } => {
            let known = named(server, &client).await?;
            let is_public = |known: &Arc<KnownClient>| known.authentication == Authentication::Public;
            Ok(known.filter(is_public).ok_or(Refused::Client(Unproven::InRequest)))
        }
        Presented::Basic { client, secret } => {
            let known = named(server, &client).await?;
            let expected = |authentication: &Authentication| match authentication {
                Authentication::SecretBasic(digest) => Some(*digest),
                _ => None,
            };
            Ok(with_secret(server, known, &secret, expected).ok_or(Refused::Client(Unproven::ByHeader)))
        }
        Presented::Post { client, secret } => {
            let known = named(server, &client).await?;
            let expected = |authentication: &Authentication| match authentication {
                Authentication::SecretPost(digest) => Some(*digest),
                _ => None,
            };
            Ok(with_secret(server, known, &secret, expected).ok_or(Refused::Client(Unproven::InRequest)))
        }
        Presented::Assertion { client, kind, assertion } => {
            let proven = with_assertion(server, client, &kind, &assertion).await?;
            Ok(proven.ok_or(Refused::Client(Unproven::InRequest)))
        }
    }
}

async fn named(server: &AuthorizationServer, client: &str) -> Result<Option<Arc<KnownClient>>, Fault> {
    match ClientId::parse(client) {
        Some(id) => server.client(&id).await,
        None => Ok(None),
    }
}

/// The client, if this is its secret. Without one there is something to compare with as well (`docs/threat-model.md` row T19).
fn with_secret(
    server: &AuthorizationServer,
    known: Option<Arc<KnownClient>>,
    secret: &Plaintext,
    expected: impl Fn(&Authentication) -> Option<Digest>,
) -> Option<Arc<KnownClient>> {
    let right = known.as_ref().and_then(|known| expected(&known.authentication));
    // Random, so that nobody has the secret of which it is the digest.
    let nobodys = Digest::from_bytes(server.env.random());
    let is_right = secret.digest() == right.unwrap_or(nobodys);
    known.filter(|_| is_right && right.is_some())
}

async fn with_assertion(
    server: &AuthorizationServer,
    client: Option<String>,
    kind: &str,
    assertion: &Plaintext,
) -> Result<Option<Arc<KnownClient>>, Fault> {
    if kind != assertion::TYPE {
        return Ok(None);
    }
    let Some(claimed) = assertion::claimed(assertion.expose()) else { return Ok(None) };
    if client.is_some_and(|client| client != claimed.as_str()) {
        return Ok(None);
    }
    let Some(known) = server.client(&claimed).await? else { return Ok(None) };
    let Authentication::PrivateKey(source) = &known.authentication else { return Ok(None) };
    let Some(keys) = keys(server, source, assertion).await? else { return Ok(None) };
    let verified = assertion::verify(assertion.expose(), &keys, &known.id, &server.issuer, server.env.now());
    let verified = match verified {
        Ok(verified) => verified,
        Err(invalid) => {
            tracing::info!(client = %known.id, reason = %invalid, "refused a client's assertion");
            return Ok(None);
        }
    };
    match marks::consume_once(&server.store, Kind::Jti, verified.once, verified.until).await? {
        Mark::First => Ok(Some(known)),
        Mark::Seen => {
            tracing::info!(client = %known.id, reason = "it was presented before", "refused a client's assertion");
            Ok(None)
        }
    }
}

/// The keys of a client, if there are any.
async fn keys(
    server: &AuthorizationServer,
    source: &KeySource,
    assertion: &Plaintext,
) -> Result<Option<Arc<ClientKeys>>, Fault> {
    match source {
        KeySource::Inline(json) => Ok(ClientKeys::parse(json.as_bytes()).ok().map(Arc::new)),
        KeySource::Address(address) => {
            let fetch = async || key_set(&server.fetcher, address, None).await;
            server.client_keys.find(&server.env, address, assertion, fetch).await
        }
    }
}

impl AuthorizationServer {
    /// The client of this id, however it is known.
    pub(super) async fn client(&self, id: &ClientId) -> Result<Option<Arc<KnownClient>>, Fault> {
        self.clients.find(self, id).await
    }
}

#[cfg(test)]
mod tests;
