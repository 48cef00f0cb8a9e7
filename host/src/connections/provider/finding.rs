//! Which authorization server an upstream has, and what it says of itself. Both are remembered for a while.
//!
//! Time is cut into pieces, and what was found counts for its piece; what fails is not remembered. Who asks at once waits for
//! the same answer.

use std::sync::Arc;
use std::time::Duration;

use moka::future::Cache;

use super::DiscoverError;
use super::asking::{Asking, Ground, Site, Stage};
use crate::env::{Env, Timestamp};
use crate::identity::TokenList;
use crate::oauth::upstream::discovery::{self, ProtectedResource};
use crate::oauth::upstream::scopes::Sources;
use crate::oauth::upstream::{Address, Metadata, Unfit};
use crate::outbound::Fetched;

/// How long what was found counts.
const LIFE: Duration = Duration::from_secs(15 * 60);
/// The same, before something is refused on account of it, and for whoever is sent there.
const SHORT_LIFE: Duration = Duration::from_secs(60);
/// Most upstreams, and servers, that are remembered.
const MAX_REMEMBERED: u64 = 1_000;

/// What was found for an upstream.
#[derive(Clone, Debug)]
pub struct Found {
    /// What tokens are asked for (RFC 8707).
    pub resource: String,
    pub metadata: Arc<Metadata>,
    /// What the upstream's challenge names, and what its document lists.
    challenged: Option<TokenList>,
    supported: Option<TokenList>,
}

impl Found {
    /// What is asked for, given what the operator wants, and `more` in any case.
    pub(super) fn scopes(&self, configured: Option<&TokenList>, more: &[String]) -> TokenList {
        let (challenged, supported) = (self.challenged.as_ref(), self.supported.as_ref());
        Sources { configured, challenged, supported, offers_offline: self.metadata.offers_offline }.select(more)
    }
}

/// What an upstream says of its authorization.
#[derive(Debug)]
struct Described {
    challenged: Option<TokenList>,
    document: Option<ProtectedResource>,
}

/// The authorization servers that an upstream may have.
enum Servers {
    /// The operator or the upstream names them.
    Named(Vec<String>),
    /// Nobody does: these are two ways to write the upstream's own origin.
    Assumed([String; 2]),
}

/// What the issuer of a connection is to its upstream now.
pub(super) enum Again {
    Found(Box<Found>),
    /// The upstream has others, and names them.
    Moved,
}

/// What is asked about, on what ground, and when.
type Key = (Vec<String>, u64);

pub(super) struct Finding {
    env: Env,
    asking: Asking,
    described: Cache<Key, Arc<Described>>,
    servers: Cache<Key, Arc<Metadata>>,
}

impl Finding {
    pub(super) fn new(env: Env, asking: Asking) -> Self {
        // Who comes back within a piece of time is told from who comes later by the key; this only forgets.
        let described = Cache::builder().max_capacity(MAX_REMEMBERED).time_to_live(LIFE * 2).build();
        let servers = Cache::builder().max_capacity(MAX_REMEMBERED).time_to_live(LIFE * 2).build();
        Self { env, asking, described, servers }
    }

    /// The authorization server that people are sent to: the first one named that can be used. What the upstream says of it
    /// is read again sooner than for a refresh: one that has moved refuses what its old server gives.
    ///
    /// # Errors
    /// [`DiscoverError`].
    pub(super) async fn find(&self, site: &Site<'_>) -> Result<Found, DiscoverError> {
        let described = self.described(site, SHORT_LIFE).await?;
        let metadata = match servers(site, &described) {
            Servers::Assumed(spellings) => self.assumed(site, &spellings).await?,
            Servers::Named(issuers) => self.first_of(site, &issuers).await?,
        };
        Ok(found(site, &described, metadata))
    }

    async fn first_of(&self, site: &Site<'_>, issuers: &[String]) -> Result<Arc<Metadata>, DiscoverError> {
        let mut refusal = Unfit::NoServers;
        for issuer in issuers.iter().take(discovery::MAX_TRIED) {
            match self.server(issuer, &site.ground).await {
                Err(DiscoverError::Unfit(unfit)) => refusal = unfit,
                // One that cannot be asked now is not passed over: people would be sent to another one each time.
                decided => return decided,
            }
        }
        Err(refusal.into())
    }

    /// The server that a connection is from, if its upstream still has it.
    ///
    /// # Errors
    /// [`DiscoverError`], if that cannot be told.
    pub(super) async fn again(&self, site: &Site<'_>, issuer: &str) -> Result<Again, DiscoverError> {
        let mut described = self.described(site, LIFE).await?;
        if !is_among(&servers(site, &described), issuer) {
            described = self.described(site, SHORT_LIFE).await?;
        }
        let servers = servers(site, &described);
        let is_there = is_among(&servers, issuer);
        let metadata = match servers {
            Servers::Named(_) if is_there => self.server(issuer, &site.ground).await?,
            Servers::Named(_) => return Ok(Again::Moved),
            Servers::Assumed(spellings) if is_there => self.assumed(site, &spellings).await?,
            // It named others once. That it names none now may be its host's fault.
            Servers::Assumed(_) => return Err(Unfit::NoServers.into()),
        };
        if metadata.issuer != issuer {
            return Err(Unfit::OtherIssuer.into());
        }
        Ok(Again::Found(Box::new(found(site, &described, metadata))))
    }

    /// What an issuer says of itself.
    ///
    /// # Errors
    /// [`DiscoverError`].
    pub(super) async fn server(&self, issuer: &str, ground: &Ground) -> Result<Arc<Metadata>, DiscoverError> {
        let address = ground.vouched.read_issuer(issuer).ok_or(Unfit::Insecure)?;
        self.server_at(&address, &[issuer.to_owned()], ground).await
    }

    /// The server at an upstream's own origin, which may go without a document.
    async fn assumed(&self, site: &Site<'_>, spellings: &[String; 2]) -> Result<Arc<Metadata>, DiscoverError> {
        let address = site.ground.vouched.read_issuer(&spellings[0]).ok_or(Unfit::Insecure)?;
        match self.server_at(&address, spellings, &site.ground).await {
            Err(DiscoverError::Unfit(Unfit::Missing)) => {
                Ok(Arc::new(Metadata::assumed(&site.address, &site.ground.vouched)?))
            }
            found => found,
        }
    }

    async fn server_at(
        &self,
        address: &Address,
        spellings: &[String],
        ground: &Ground,
    ) -> Result<Arc<Metadata>, DiscoverError> {
        let of = spellings.iter().cloned().chain([String::new()]).chain(ground.marks());
        let key = (of.collect(), piece(self.env.now(), LIFE));
        let fetching = self.fetch_server(address, spellings, ground);
        self.servers.try_get_with(key, fetching).await.map_err(|error| DiscoverError::clone(&error))
    }

    async fn fetch_server(
        &self,
        address: &Address,
        spellings: &[String],
        ground: &Ground,
    ) -> Result<Arc<Metadata>, DiscoverError> {
        for place in discovery::server_places(address) {
            if let Some(answer) = self.asking.document(&place, ground, Stage::Server).await? {
                return Ok(Arc::new(Metadata::read(&answer.body, spellings, &ground.vouched)?));
            }
        }
        Err(Unfit::Missing.into())
    }

    /// What an upstream says, no longer ago than that.
    async fn described(&self, site: &Site<'_>, life: Duration) -> Result<Arc<Described>, DiscoverError> {
        let of = [site.name.to_string(), life.as_secs().to_string()].into_iter().chain(site.ground.marks());
        let key = (of.collect(), piece(self.env.now(), life));
        self.described.try_get_with(key, self.describe(site)).await.map_err(|error| DiscoverError::clone(&error))
    }

    async fn describe(&self, site: &Site<'_>) -> Result<Arc<Described>, DiscoverError> {
        let challenge = self.asking.challenge(site).await?.unwrap_or_default();
        let document = match &challenge.resource_metadata {
            Some(place) => {
                let place = site.ground.vouched.read(place).ok_or(Unfit::Guarded)?;
                let answer = self.asking.document(&place, &site.ground, Stage::Resource).await?;
                Some(answer.ok_or(Unfit::ResourceMissing)?)
            }
            None => self.look_for_document(site).await?,
        };
        let read = |answer: Fetched| ProtectedResource::read(&answer.body, &site.address, &site.ground.vouched);
        let document = document.map(read).transpose()?;
        Ok(Arc::new(Described { challenged: challenge.scopes, document }))
    }

    async fn look_for_document(&self, site: &Site<'_>) -> Result<Option<Fetched>, DiscoverError> {
        for place in discovery::resource_places(&site.address) {
            if let Some(answer) = self.asking.document(&place, &site.ground, Stage::Resource).await? {
                return Ok(Some(answer));
            }
        }
        Ok(None)
    }
}

fn servers(site: &Site<'_>, described: &Described) -> Servers {
    match (&site.client.issuer, &described.document) {
        (Some(issuer), _) => Servers::Named(vec![issuer.clone()]),
        (None, Some(document)) => Servers::Named(document.servers.clone()),
        (None, None) => Servers::Assumed(discovery::assumed_issuers(&site.address)),
    }
}

fn is_among(servers: &Servers, issuer: &str) -> bool {
    match servers {
        Servers::Named(issuers) => issuers.iter().any(|named| named == issuer),
        Servers::Assumed(spellings) => spellings.iter().any(|spelling| spelling == issuer),
    }
}

fn found(site: &Site<'_>, described: &Described, metadata: Arc<Metadata>) -> Found {
    let document = described.document.as_ref();
    Found {
        resource: document.map_or_else(|| discovery::assumed_resource(&site.address), |it| it.resource.clone()),
        metadata,
        challenged: described.challenged.clone(),
        supported: document.and_then(|it| it.scopes.clone()),
    }
}

fn piece(now: Timestamp, of: Duration) -> u64 {
    now.as_millis() / u64::try_from(of.as_millis()).unwrap_or(u64::MAX).max(1)
}
