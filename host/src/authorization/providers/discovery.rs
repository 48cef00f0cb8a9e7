//! What a provider says of itself (OpenID Connect Discovery 1.0), and its keys. Both are remembered for a while.
//!
//! Time is cut into pieces, and what was fetched counts for its piece: the description for an hour, and keys that were
//! fetched once more, because a token named one that was not there, for a minute. So each is fetched at most once in its time,
//! whatever comes. What cannot be fetched is not remembered.

use std::sync::Arc;
use std::time::Duration;

use moka::future::Cache;
use openidconnect::core::{
    CoreAuthDisplay, CoreClaimName, CoreClaimType, CoreClientAuthMethod, CoreGrantType, CoreJsonWebKey,
    CoreJsonWebKeySet, CoreJweContentEncryptionAlgorithm, CoreJweKeyManagementAlgorithm, CoreResponseMode,
    CoreResponseType, CoreSubjectIdentifierType,
};
use openidconnect::{
    AdditionalProviderMetadata, AuthType, DiscoveryError, IssuerUrl, JsonWebKeySetUrl, ProviderMetadata,
};
use serde::{Deserialize, Serialize};

use super::fetching::{self, Endpoints, NoAnswer};
use super::{Contradiction, Unavailable};
use crate::env::Timestamp;
use crate::outbound::Fetcher;

/// How long a provider's description counts.
const DESCRIPTION_LIFE: Duration = Duration::from_secs(60 * 60);
/// How long keys that were fetched once more count.
const KEYS_LIFE: Duration = Duration::from_secs(60);
/// Most providers that are remembered.
const MAX_REMEMBERED: u64 = 64;

pub(super) type Metadata = ProviderMetadata<
    MoreMetadata,
    CoreAuthDisplay,
    CoreClientAuthMethod,
    CoreClaimName,
    CoreClaimType,
    CoreGrantType,
    CoreJweContentEncryptionAlgorithm,
    CoreJweKeyManagementAlgorithm,
    CoreJsonWebKey,
    CoreResponseMode,
    CoreResponseType,
    CoreSubjectIdentifierType,
>;

/// What later specifications add.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(super) struct MoreMetadata {
    /// RFC 9207 §3.
    #[serde(default)]
    authorization_response_iss_parameter_supported: bool,
}

impl AdditionalProviderMetadata for MoreMetadata {}

/// What providers said of themselves.
pub(super) struct Described {
    descriptions: Cache<(String, u64), Arc<Metadata>>,
    /// Keys that were fetched once more.
    newer_keys: Cache<(String, u64), Arc<CoreJsonWebKeySet>>,
}

impl Described {
    pub(super) fn new() -> Self {
        // Who comes back within a piece of time is told from who comes later by the key; this only forgets.
        let newer_keys = Cache::builder().max_capacity(MAX_REMEMBERED).time_to_live(KEYS_LIFE * 2).build();
        let descriptions = Cache::builder().max_capacity(MAX_REMEMBERED).time_to_live(DESCRIPTION_LIFE * 2).build();
        Self { descriptions, newer_keys }
    }

    /// What this issuer says of itself, its keys included.
    pub(super) async fn of(
        &self,
        fetcher: &Fetcher,
        issuer: &IssuerUrl,
        now: Timestamp,
    ) -> Result<Arc<Metadata>, Arc<Unavailable>> {
        let key = (issuer.as_str().to_owned(), piece(now, DESCRIPTION_LIFE));
        self.descriptions.try_get_with(key, describe(fetcher, issuer)).await
    }

    /// The keys that this provider has now.
    pub(super) async fn newer_keys(
        &self,
        fetcher: &Fetcher,
        metadata: &Metadata,
        now: Timestamp,
    ) -> Result<Arc<CoreJsonWebKeySet>, Arc<Unavailable>> {
        let key = (metadata.issuer().as_str().to_owned(), piece(now, KEYS_LIFE));
        let fetching = async { keys(fetcher, metadata.jwks_uri()).await.map(Arc::new) };
        self.newer_keys.try_get_with(key, fetching).await
    }
}

fn piece(now: Timestamp, of: Duration) -> u64 {
    now.as_millis() / u64::try_from(of.as_millis()).unwrap_or(u64::MAX).max(1)
}

async fn describe(fetcher: &Fetcher, issuer: &IssuerUrl) -> Result<Arc<Metadata>, Unavailable> {
    let url = format!("{}/.well-known/openid-configuration", issuer.as_str().trim_end_matches('/'));
    let url = url.parse().map_err(|_| Unavailable::Contradictory(Contradiction::Unreadable))?;
    let document = fetching::own_document(fetcher, url).await?;
    let metadata: Metadata =
        serde_json::from_slice(&document).map_err(|_| Unavailable::Contradictory(Contradiction::Unreadable))?;
    check(&metadata, issuer).map_err(Unavailable::Contradictory)?;
    let keys = keys(fetcher, metadata.jwks_uri()).await?;
    Ok(Arc::new(metadata.set_jwks(keys)))
}

/// Whether a description is this issuer's, and can be worked with (OpenID Connect Discovery §4.3).
fn check(metadata: &Metadata, issuer: &IssuerUrl) -> Result<(), Contradiction> {
    let require = |fits: bool, failure| if fits { Ok(()) } else { Err(failure) };
    // Byte for byte: they are compared as they were written.
    require(metadata.issuer() == issuer, Contradiction::OtherIssuer)?;
    // Where people are sent is not fetched, so that no guard looks at it.
    let scheme = metadata.authorization_endpoint().url().scheme();
    require(scheme == "https" || scheme == issuer.url().scheme(), Contradiction::AuthorizationEndpoint)?;
    require(metadata.token_endpoint().is_some(), Contradiction::NoTokenEndpoint)
}

async fn keys(fetcher: &Fetcher, url: &JsonWebKeySetUrl) -> Result<CoreJsonWebKeySet, Unavailable> {
    let fetched: Result<CoreJsonWebKeySet, DiscoveryError<NoAnswer>> =
        CoreJsonWebKeySet::fetch_async(url, &Endpoints(fetcher)).await;
    fetched.map_err(|error| match error {
        DiscoveryError::Request(error) => error.into(),
        DiscoveryError::Response(status, ..) => Unavailable::Status(status),
        _ => Unavailable::Contradictory(Contradiction::Keys),
    })
}

/// Whether a provider names itself in its answers to browsers (RFC 9207).
pub(super) fn names_itself(metadata: &Metadata) -> bool {
    metadata.additional_metadata().authorization_response_iss_parameter_supported
}

/// How a client with a secret shows it: in the header, unless only the body is spoken of (OpenID Connect Core §9). A client
/// without one sends its id only.
pub(super) fn authentication(metadata: &Metadata) -> AuthType {
    let methods = metadata.token_endpoint_auth_methods_supported();
    let speaks_of = |method| methods.is_some_and(|methods| methods.contains(&method));
    if speaks_of(CoreClientAuthMethod::ClientSecretPost) && !speaks_of(CoreClientAuthMethod::ClientSecretBasic) {
        AuthType::RequestBody
    } else {
        AuthType::BasicAuth
    }
}
