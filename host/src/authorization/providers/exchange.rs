//! What is asked of a provider with a code: tokens, and what else it tells of a person.

use openidconnect::core::{
    CoreAuthDisplay, CoreAuthPrompt, CoreErrorResponseType, CoreGenderClaim, CoreJsonWebKey,
    CoreJweContentEncryptionAlgorithm, CoreJwsSigningAlgorithm, CoreRevocableToken, CoreRevocationErrorResponse,
    CoreTokenIntrospectionResponse, CoreTokenType,
};
use openidconnect::{
    AccessToken, AuthorizationCode, Client, ClientId, ClientSecret, EmptyExtraTokenFields, EndpointMaybeSet,
    EndpointNotSet, EndpointSet, IdTokenFields, OAuth2TokenResponse as _, PkceCodeVerifier, RedirectUrl,
    RequestTokenError, StandardErrorResponse, StandardTokenResponse, SubjectIdentifier, TokenResponse as _,
    UserInfoClaims, UserInfoError,
};

use super::discovery::{self, Metadata};
use super::fetching::{Endpoints, NoAnswer};
use super::id_token::{self, About, IdToken, MoreClaims};
use super::{Contradiction, Misconfigured, Refused, Unavailable};
use crate::config::auth::Provider;
use crate::identity::user::ExternalIdentity;
use crate::outbound::Fetcher;
use crate::secret::Plaintext;

/// Longest access token that is sent back to its provider, in bytes.
const MAX_ACCESS_TOKEN: usize = 16 * 1024;

type Fields = IdTokenFields<
    MoreClaims,
    EmptyExtraTokenFields,
    CoreGenderClaim,
    CoreJweContentEncryptionAlgorithm,
    CoreJwsSigningAlgorithm,
>;

/// Us, as a provider's client.
pub(super) type AtProvider = Client<
    MoreClaims,
    CoreAuthDisplay,
    CoreGenderClaim,
    CoreJweContentEncryptionAlgorithm,
    CoreJsonWebKey,
    CoreAuthPrompt,
    StandardErrorResponse<CoreErrorResponseType>,
    StandardTokenResponse<Fields, CoreTokenType>,
    CoreTokenIntrospectionResponse,
    CoreRevocableToken,
    CoreRevocationErrorResponse,
    EndpointSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointMaybeSet,
    EndpointMaybeSet,
>;

/// What came for a code.
pub(super) struct Tokens {
    pub(super) id_token: IdToken,
    pub(super) access_token: AccessToken,
}

/// The configured client at a provider.
pub(super) fn client(metadata: &Metadata, provider: &Provider, callback: RedirectUrl) -> AtProvider {
    let secret = provider.client_secret.as_ref().map(|secret| ClientSecret::new(secret.expose().to_owned()));
    let id = ClientId::new(provider.client_id.clone());
    AtProvider::from_provider_metadata(metadata.clone(), id, secret)
        .set_auth_type(discovery::authentication(metadata))
        .set_redirect_uri(callback)
}

/// Redeems a code (OpenID Connect Core §3.1.3).
pub(super) async fn redeem(
    fetcher: &Fetcher,
    client: &AtProvider,
    code: &Plaintext,
    verifier: &str,
) -> Result<Result<Tokens, Refused>, Unavailable> {
    let code = AuthorizationCode::new(code.expose().to_owned());
    let request = client.exchange_code(code).map_err(|_| Unavailable::Contradictory(Contradiction::NoTokenEndpoint))?;
    let request = request.set_pkce_verifier(PkceCodeVerifier::new(verifier.to_owned()));
    let response = match request.request_async(&Endpoints(fetcher)).await {
        Ok(response) => response,
        Err(RequestTokenError::Request(error)) => return Err(error.into()),
        Err(RequestTokenError::ServerResponse(error)) => return refused(error.error()).map(Err),
        // An answer of this form that is not readable is not one that a person could do anything about; that it was
        // refused is what counts.
        Err(_) => return Ok(Err(Refused::NoToken)),
    };
    let id_token = response.id_token().cloned();
    let access_token = response.access_token().clone();
    Ok(id_token.map(|id_token| Tokens { id_token, access_token }).ok_or(Refused::NoToken))
}

/// What the provider's refusal of a code means (RFC 6749 §5.2).
fn refused(error: &CoreErrorResponseType) -> Result<Refused, Unavailable> {
    match error {
        CoreErrorResponseType::InvalidGrant => Ok(Refused::Code),
        CoreErrorResponseType::InvalidClient | CoreErrorResponseType::UnauthorizedClient => {
            Err(Unavailable::Configured(Misconfigured::Client))
        }
        CoreErrorResponseType::Extension(word) if word == "server_error" || word == "temporarily_unavailable" => {
            Err(Unavailable::SaysSo)
        }
        _ => Err(Unavailable::Configured(Misconfigured::Request)),
    }
}

/// What is known of a person, and where that is not all, what the provider's own endpoint tells (OpenID Connect Core §5.3).
pub(super) async fn more(
    fetcher: &Fetcher,
    client: &AtProvider,
    tokens: &Tokens,
    identity: &ExternalIdentity,
    about: About,
    groups_claim: Option<&str>,
) -> Result<Result<About, Refused>, Unavailable> {
    if !about.is_partial(groups_claim) {
        return Ok(Ok(about));
    }
    let token = tokens.access_token.secret();
    // It goes into a header as it is.
    let is_token = (1..=MAX_ACCESS_TOKEN).contains(&token.len()) && token.bytes().all(|byte| byte.is_ascii_graphic());
    let subject = SubjectIdentifier::new(identity.subject().to_owned());
    let request = client.user_info(tokens.access_token.clone(), Some(subject)).ok().filter(|_| is_token);
    let Some(request) = request else { return Ok(Ok(about)) };
    let claims: Result<UserInfoClaims<MoreClaims, CoreGenderClaim>, UserInfoError<NoAnswer>> =
        request.request_async(&Endpoints(fetcher)).await;
    match claims {
        Ok(claims) => Ok(match id_token::about(&claims, groups_claim) {
            Ok(more) => Ok(about.or(more)),
            Err(fault) => Err(Refused::Token(fault)),
        }),
        Err(UserInfoError::Request(error)) => Err(error.into()),
        Err(UserInfoError::ClaimsVerification(_)) => Ok(Err(Refused::OtherSubject)),
        Err(UserInfoError::Response(status, ..)) => Err(Unavailable::Status(status)),
        Err(_) => Err(Unavailable::Contradictory(Contradiction::Answer)),
    }
}
