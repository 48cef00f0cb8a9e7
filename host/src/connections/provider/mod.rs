//! Authorization servers of upstreams: found, registered with, asked.
//!
//! [`Provider`] is [`Issuer`] over the network. What it reads and writes there is `oauth::upstream`'s; [`finding`] says which
//! server an upstream has, [`clients`] what we are there, [`exchanging`] vouches for people, [`asking`] is the way out. A way, and a client, is of one context:
//! this deployment, one upstream, one issuer (`docs/threat-model.md` rows U2, U3, U5 and U8). No word of a server's reaches a
//! page, an address or a log.

mod asking;
mod clients;
mod exchanging;
mod finding;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use serde_json::Value;

pub use asking::Stage;
use asking::{Asking, Ground, Site};
use clients::{Clients, Known};
pub use finding::Found;
use finding::{Again, Finding};

use super::issuer::{
    Asked, Exchanged, Issued, Issuer, NoWay, NotExchanged, NotIssued, NotRevoked, Person, Source, Way,
};
use crate::config;
use crate::connection::Reason;
use crate::env::Env;
use crate::ids::UpstreamName;
use crate::oauth::token::Unsigned;
use crate::oauth::upstream::revoke::{self, Hint, Revoked};
use crate::oauth::upstream::token::{self, NoTokens, Presented, Tokens};
use crate::oauth::upstream::{Metadata, Unfit, authorize, registration};
use crate::oauth::vouched::Assertion;
use crate::outbound::Fetcher;
use crate::secret::Plaintext;
use crate::store::{Store, upstream_clients};
use crate::vault::{Vault, VaultError};

/// Where people come back to, before the id of their context.
pub const CALLBACK: &str = "/connect/callback";
/// Where documents about ourselves are, before the id of their context.
pub const DOCUMENTS: &str = "/connect/client";
/// Digits of a context's id.
const CONTEXT_LEN: usize = 32;

/// An upstream's settings as they are now, if there is one of this name.
pub type Settings = Arc<dyn Fn(&UpstreamName) -> Option<config::Upstream> + Send + Sync>;

/// Signs what the gateway says of a person, with the keys that sign access tokens.
pub type Voucher = Arc<dyn Fn(&Assertion) -> Result<Plaintext, Unsigned> + Send + Sync>;

/// What a [`Provider`] works with.
#[derive(Clone)]
pub struct Parts {
    pub env: Env,
    pub store: Store,
    pub vault: Vault,
    pub fetcher: Fetcher,
    /// Without a slash at its end.
    pub public_url: String,
    pub upstreams: Settings,
    /// Signs what is said of people.
    pub voucher: Voucher,
}

/// Why an upstream's authorization server was not found, or we are nobody there. The words are ours and fit for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiscoverError {
    #[error("{stage} cannot be reached")]
    Unreachable { stage: Stage, retry_after: Option<Duration> },
    #[error("{0}")]
    Unfit(Unfit),
    /// The store or the vault failed; the log has more.
    #[error("the gateway cannot do this now")]
    Fault,
}

impl From<Unfit> for DiscoverError {
    fn from(unfit: Unfit) -> Self {
        Self::Unfit(unfit)
    }
}

impl From<VaultError> for DiscoverError {
    fn from(error: VaultError) -> Self {
        tracing::error!(%error, "our client at an authorization server cannot be read or kept");
        Self::Fault
    }
}

impl From<DiscoverError> for NoWay {
    fn from(error: DiscoverError) -> Self {
        match error {
            DiscoverError::Unreachable { stage: _, retry_after } => Self::Unreachable { retry_after },
            DiscoverError::Unfit(unfit) => Self::Unfit { what: unfit.as_str() },
            DiscoverError::Fault => Self::Fault,
        }
    }
}

/// No failure to find something ends what there is.
impl From<DiscoverError> for NotIssued {
    fn from(error: DiscoverError) -> Self {
        let retry_after = match error {
            DiscoverError::Unreachable { stage: _, retry_after } => retry_after,
            DiscoverError::Unfit(_) | DiscoverError::Fault => None,
        };
        Self::Later { retry_after }
    }
}

/// Authorization servers over the network.
pub struct Provider {
    parts: Parts,
    asking: Asking,
    finding: Finding,
    clients: Clients,
}

impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Provider")
    }
}

/// A client of ours at a server that is to be asked.
struct Ready {
    known: Known,
    metadata: Arc<Metadata>,
    ground: Ground,
    resource: String,
}

impl Provider {
    pub fn new(parts: Parts) -> Self {
        let public_url = parts.public_url.trim_end_matches('/').to_owned();
        let parts = Parts { public_url, ..parts };
        let asking = Asking(parts.fetcher.clone());
        let finding = Finding::new(parts.env.clone(), asking.clone());
        Self { parts, asking, finding, clients: Clients::new() }
    }

    /// Finds the authorization server of an upstream.
    ///
    /// # Errors
    /// [`DiscoverError`].
    pub async fn discover(&self, upstream: &config::Upstream) -> Result<Found, DiscoverError> {
        let found = self.finding.find(&Site::of(upstream)?).await;
        if let Err(error) = &found {
            tracing::info!(upstream = %upstream.name, %error, "no authorization server was found");
        }
        found
    }

    /// What authorization servers read of us at [`DOCUMENTS`] with this behind it (Client ID Metadata Documents). There is
    /// one for each context, with the one address that people come back to there, so that a document that a server remembers
    /// is never out of date. `None` where there is no context of this form, or no https.
    pub fn client_document(&self, context: &str) -> Option<Value> {
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        let is_context = context.len() == CONTEXT_LEN && context.bytes().all(is_digit);
        let public_url =
            Some(&*self.parts.public_url).filter(|public_url| is_context && clients::is_served(public_url))?;
        let redirect = format!("{public_url}{CALLBACK}/{context}");
        Some(registration::document(&clients::document_address(public_url, context), &redirect, public_url))
    }

    async fn find_way(&self, asked: Asked<'_>) -> Result<Way, DiscoverError> {
        let site = Site::of(asked.upstream)?;
        let found = self.discover(asked.upstream).await?;
        let metadata = &found.metadata;
        let context = clients::context_id(&self.parts, site.name, &metadata.issuer);
        let redirect = format!("{}/{context}", asked.callback.trim_end_matches('/'));
        let known = self.clients.client_for(&self.parts, &self.asking, &site, &found, &redirect).await?;
        let client = &known.client().id;
        let scopes = found.scopes(site.client.scopes.as_ref(), asked.scopes);
        let request = authorize::Request {
            endpoint: &metadata.authorization_endpoint,
            client,
            redirect: &redirect,
            scopes: &scopes,
            state: asked.state,
            verifier: asked.verifier,
            resource: &found.resource,
        };
        let url = request.url();
        let (upstream, issuer, client) = (site.name.clone(), metadata.issuer.clone(), client.clone());
        Ok(Way { url, source: Source { upstream, issuer, client }, redirect, scopes })
    }

    async fn names_itself(&self, source: &Source) -> Result<bool, DiscoverError> {
        let settings = (self.parts.upstreams)(&source.upstream).ok_or(Unfit::NoOAuth)?;
        match self.finding.again(&Site::of(&settings)?, &source.issuer).await? {
            Again::Found(found) => Ok(found.metadata.names_itself),
            Again::Moved => Err(Unfit::OtherServer.into()),
        }
    }

    /// All that a token endpoint is asked with.
    async fn ready(&self, source: &Source) -> Result<Ready, NotIssued> {
        let settings = (self.parts.upstreams)(&source.upstream).ok_or(DiscoverError::Unfit(Unfit::NoOAuth))?;
        let site = Site::of(&settings).map_err(DiscoverError::from)?;
        let found = match self.finding.again(&site, &source.issuer).await? {
            Again::Found(found) => found,
            Again::Moved => return Err(NotIssued::Refused(Reason::IssuerChanged)),
        };
        let known = clients::of_source(&self.parts, Some(site.client), &found.metadata, source).await;
        let known = known.map_err(DiscoverError::from)?.ok_or(NotIssued::Refused(Reason::ClientForgotten))?;
        let Found { resource, metadata, .. } = *found;
        Ok(Ready { known, metadata, ground: site.ground, resource })
    }

    /// Presents a code or a refresh token.
    async fn present(&self, source: &Source, presented: Presented<'_>) -> Result<Issued, NotIssued> {
        let Ready { known, metadata, ground, resource } = self.ready(source).await?;
        let form = token::form(known.client(), presented, &resource);
        let answer = match self.asking.form(&metadata.token_endpoint, &form, &ground).await {
            Ok(answer) => answer,
            Err(error) => {
                tracing::info!(upstream = %source.upstream, %error, "a token endpoint did not answer");
                return Err(NotIssued::Later { retry_after: None });
            }
        };
        let status = answer.status.as_u16();
        match token::read(answer.status, &answer.headers, &answer.body) {
            Ok(Tokens { access, refresh, expires_in, scopes }) => Ok(Issued { access, refresh, expires_in, scopes }),
            Err(NoTokens::Grant) => Err(NotIssued::Refused(Reason::RefreshRefused)),
            Err(NoTokens::Client) => Err(self.forgotten(source, known).await),
            Err(NoTokens::Later { retry_after }) => {
                tracing::info!(upstream = %source.upstream, status, "a token endpoint gave no tokens");
                Err(NotIssued::Later { retry_after })
            }
        }
    }

    /// What it means that a server does not know this client.
    async fn forgotten(&self, source: &Source, known: Known) -> NotIssued {
        let later = NotIssued::Later { retry_after: None };
        let Known::Registered(_, kept) = known else {
            // Nobody who connects anew would be somebody else: it is for the operator to correct, or for the server to read
            // our document again.
            tracing::warn!(upstream = %source.upstream, "the authorization server refuses the client that it should know");
            return later;
        };
        match upstream_clients::forget(&self.parts.store, &kept).await {
            Ok(_) => NotIssued::Refused(Reason::ClientForgotten),
            // Whoever connects anew would be sent away with the same client.
            Err(error) => {
                tracing::error!(upstream = %source.upstream, %error, "a registration cannot be forgotten");
                later
            }
        }
    }

    async fn end(&self, source: &Source, refresh: Option<&Plaintext>, access: &Plaintext) -> Result<(), NotRevoked> {
        // The upstream may be gone, or have moved: what its server gave ends there nevertheless.
        let settings = (self.parts.upstreams)(&source.upstream);
        let site = settings.as_ref().and_then(|settings| Site::of(settings).ok());
        let ground = site.as_ref().map(|site| site.ground.clone()).unwrap_or_default();
        let metadata = self.finding.server(&source.issuer, &ground).await.map_err(|error| not_revoked(&error))?;
        let endpoint = metadata.revocation_endpoint.as_ref().ok_or(NotRevoked::Never)?;
        let configured = site.as_ref().map(|site| site.client);
        let known = clients::of_source(&self.parts, configured, &metadata, source).await;
        let known = known.map_err(|error| not_revoked(&error.into()))?.ok_or(NotRevoked::Never)?;
        let ask = async |token: &Plaintext, hint| match self
            .asking
            .form(endpoint, &revoke::form(known.client(), token, hint), &ground)
            .await
        {
            Ok(answer) => revoke::read(answer.status, &answer.headers, &answer.body),
            Err(error) => {
                tracing::info!(upstream = %source.upstream, %error, "a revocation endpoint did not answer");
                Revoked::Later { retry_after: None }
            }
        };
        let revoked = match refresh {
            Some(refresh) => ask(refresh, Hint::Refresh).await.and(ask(access, Hint::Access).await),
            None => ask(access, Hint::Access).await,
        };
        match revoked {
            Revoked::Done => Ok(()),
            Revoked::Unsupported | Revoked::Refused => Err(NotRevoked::Never),
            Revoked::Later { retry_after } => Err(NotRevoked::Later { retry_after }),
        }
    }
}

fn not_revoked(error: &DiscoverError) -> NotRevoked {
    match error {
        DiscoverError::Unreachable { stage: _, retry_after } => NotRevoked::Later { retry_after: *retry_after },
        DiscoverError::Fault => NotRevoked::Later { retry_after: None },
        DiscoverError::Unfit(_) => NotRevoked::Never,
    }
}

impl Issuer for Provider {
    fn way<'a>(&'a self, asked: Asked<'a>) -> BoxFuture<'a, Result<Way, NoWay>> {
        self.find_way(asked).map(|way| way.map_err(NoWay::from)).boxed()
    }

    fn says_issuer<'a>(&'a self, source: &'a Source) -> BoxFuture<'a, Result<bool, NoWay>> {
        self.names_itself(source).map(|says| says.map_err(NoWay::from)).boxed()
    }

    fn exchange<'a>(
        &'a self,
        source: &'a Source,
        code: &'a Plaintext,
        verifier: &'a Plaintext,
        redirect: &'a str,
    ) -> BoxFuture<'a, Result<Issued, NotIssued>> {
        self.present(source, Presented::Code { code, verifier, redirect }).boxed()
    }

    fn refresh<'a>(&'a self, source: &'a Source, refresh: &'a Plaintext) -> BoxFuture<'a, Result<Issued, NotIssued>> {
        self.present(source, Presented::Refresh(refresh)).boxed()
    }

    fn can_vouch_for(&self, upstream: &UpstreamName, person: &Person) -> Result<(), NotExchanged> {
        self.can_name(upstream, person)
    }

    fn exchange_identity<'a>(
        &'a self,
        upstream: &'a UpstreamName,
        person: &'a Person,
    ) -> BoxFuture<'a, Result<Exchanged, NotExchanged>> {
        self.exchange_for(upstream, person).boxed()
    }

    fn revoke<'a>(
        &'a self,
        source: &'a Source,
        refresh: Option<&'a Plaintext>,
        access: &'a Plaintext,
    ) -> BoxFuture<'a, Result<(), NotRevoked>> {
        self.end(source, refresh, access).boxed()
    }
}
