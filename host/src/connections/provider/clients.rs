//! What we are at an authorization server: what the operator configured, the address of our own document, or what was
//! registered; in this order (MCP authorization § client registration).
//!
//! A registration is of one context, kept in the store with its secret sealed, and forgotten when its server has.

use http::StatusCode;
use tokio::sync::Mutex;

use super::asking::{Asking, Site};
use super::{DiscoverError, Found, Parts};
use crate::config::{self, ClientCredentials, OAuthClient};
use crate::connections::issuer::Source;
use crate::ids::UpstreamName;
use crate::oauth::upstream::client::{Authentication, Client, Method};
use crate::oauth::upstream::{Metadata, Unfit, registration};
use crate::secret::{Digest, Plaintext};
use crate::store::upstream_clients::{self, Putting, Registration};
use crate::vault::{Opening, VaultError};

/// Registrations that are made at once, by context.
const LANES: usize = 16;

/// A client of ours, and where it comes from.
#[derive(Debug)]
pub(super) enum Known {
    Configured(Client),
    /// Known by the address of its document.
    Document(Client),
    Registered(Client, Box<Registration>),
}

impl Known {
    pub(super) const fn client(&self) -> &Client {
        match self {
            Self::Configured(client) | Self::Document(client) | Self::Registered(client, _) => client,
        }
    }
}

pub(super) struct Clients {
    lanes: [Mutex<()>; LANES],
}

/// One of our ways to an authorization server.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) upstream: &'a UpstreamName,
    pub(super) issuer: &'a str,
    pub(super) redirect: &'a str,
}

impl Clients {
    pub(super) fn new() -> Self {
        Self { lanes: std::array::from_fn(|_| Mutex::default()) }
    }

    /// The client for this context, registered if need be.
    ///
    /// # Errors
    /// [`DiscoverError`].
    pub(super) async fn client_for(
        &self,
        parts: &Parts,
        asking: &Asking,
        site: &Site<'_>,
        found: &Found,
        redirect: &str,
    ) -> Result<Known, DiscoverError> {
        let metadata = &*found.metadata;
        let context = Context { upstream: site.name, issuer: &metadata.issuer, redirect };
        if let Some(credentials) = &site.client.client {
            return configured(credentials, metadata).map(Known::Configured).ok_or(Unfit::NoMethod.into());
        }
        if metadata.takes_documents && is_served(&parts.public_url) {
            return Ok(Known::Document(document_client(parts, context.upstream, context.issuer)));
        }
        let lane = Digest::of(redirect.as_bytes()).as_bytes()[0];
        let _one_at_a_time = self.lanes[usize::from(lane) % LANES].lock().await;
        let kept = upstream_clients::of_redirect(&parts.store, context.upstream, context.issuer, redirect).await;
        if let Some(kept) = kept.map_err(VaultError::from)? {
            match opened(parts, &kept).await? {
                Some(client) => return Ok(Known::Registered(client, Box::new(kept))),
                // Nobody can use it any more.
                None => {
                    let forgotten = upstream_clients::forget(&parts.store, &kept).await;
                    forgotten.map_err(VaultError::from)?;
                }
            }
        }
        register(parts, asking, site, metadata, context).await
    }
}

/// The client that a connection's tokens were given to, if we have it still.
///
/// # Errors
/// [`VaultError`].
pub(super) async fn of_source(
    parts: &Parts,
    configured_client: Option<&OAuthClient>,
    metadata: &Metadata,
    source: &Source,
) -> Result<Option<Known>, VaultError> {
    let Source { upstream, issuer, client } = source;
    let credentials = configured_client.and_then(|configured| configured.client.as_ref());
    if let Some(credentials) = credentials.filter(|credentials| credentials.id == *client) {
        return Ok(configured(credentials, metadata).map(Known::Configured));
    }
    let document = document_client(parts, upstream, issuer);
    if document.id == *client {
        return Ok(Some(Known::Document(document)));
    }
    let Some(kept) = upstream_clients::of_client(&parts.store, upstream, issuer, client).await? else {
        return Ok(None);
    };
    Ok(opened(parts, &kept).await?.map(|client| Known::Registered(client, Box::new(kept))))
}

pub(super) fn configured(credentials: &ClientCredentials, metadata: &Metadata) -> Option<Client> {
    let authentication = metadata.methods.for_credentials(credentials.secret.clone())?;
    Some(Client { id: credentials.id.clone(), authentication })
}

/// Whether others can read our documents at all.
pub(super) fn is_served(public_url: &str) -> bool {
    public_url.starts_with("https://")
}

fn document_client(parts: &Parts, upstream: &UpstreamName, issuer: &str) -> Client {
    let context = context_id(parts, upstream, issuer);
    Client { id: document_address(&parts.public_url, &context), authentication: Authentication::None }
}

/// Where our own document for a context is.
pub(super) fn document_address(public_url: &str, context: &str) -> String {
    format!("{public_url}{}/{context}", super::DOCUMENTS)
}

/// See [`config::connection_context`].
pub(super) fn context_id(parts: &Parts, upstream: &UpstreamName, issuer: &str) -> String {
    config::connection_context(&parts.store.deployment(), upstream, issuer)
}

/// The client of a registration; `None` if its secret does not open.
async fn opened(parts: &Parts, kept: &Registration) -> Result<Option<Client>, VaultError> {
    let secret = match &kept.secret {
        None => None,
        Some(sealed) => match parts.vault.open(&kept.secret_at(), sealed).await? {
            Opening::Opened(secret) => Plaintext::from_bytes(&secret),
            Opening::Refused(_) => return Ok(None),
        },
    };
    let authentication = Authentication::with(kept.method, secret);
    Ok(authentication.map(|authentication| Client { id: kept.client.clone(), authentication }))
}

/// Registers a client, and keeps it.
async fn register(
    parts: &Parts,
    asking: &Asking,
    site: &Site<'_>,
    metadata: &Metadata,
    context: Context<'_>,
) -> Result<Known, DiscoverError> {
    let endpoint = metadata.registration_endpoint.as_ref().ok_or(Unfit::NoRegistration)?;
    let (request, method) = registration::request(metadata, context.redirect, &parts.public_url)?;
    let answer = asking.register(endpoint, &request, &site.ground).await?;
    if !matches!(answer.status, StatusCode::CREATED | StatusCode::OK) {
        tracing::info!(upstream = %site.name, status = answer.status.as_u16(), "no client was registered");
        return Err(Unfit::NotRegistered.into());
    }
    let registered = registration::read(&answer.body, method, context.redirect)?;
    if registered.expires.is_some_and(|expires| expires <= parts.env.now()) {
        return Err(Unfit::Registered.into());
    }
    let client = registered.client;
    let new = Registration {
        upstream: context.upstream.clone(),
        issuer: context.issuer.to_owned(),
        redirect: context.redirect.to_owned(),
        client: client.id.clone(),
        method: client.authentication.method(),
        secret: None,
        created: parts.env.now(),
        expires: registered.expires,
    };
    let secret = match &client.authentication {
        Authentication::None => None,
        Authentication::Basic(secret) | Authentication::Post(secret) => {
            Some(parts.vault.seal(&new.secret_at(), secret.expose().as_bytes()).await?)
        }
    };
    let new = Registration { secret, ..new };
    match upstream_clients::put(&parts.store, new.clone()).await.map_err(VaultError::from)? {
        Putting::Kept => {
            tracing::info!(upstream = %site.name, method = Method::as_str(new.method), "a client was registered");
            Ok(Known::Registered(client, Box::new(new)))
        }
        // Another replica was faster: all use one.
        Putting::Existing(existing) => {
            let client = opened(parts, &existing).await?.ok_or(Unfit::Registered)?;
            Ok(Known::Registered(client, existing))
        }
        Putting::TooLarge => Err(Unfit::Registered.into()),
    }
}
