//! What an ID token proves (OpenID Connect Core §3.1.3.7). Pure: token, keys and time in, a person or the check that failed out.
//!
//! The algorithm is one of four that need a public key; a token never says which kind of key it is checked with. What a
//! token says in its own words reaches nobody: a fault is one of ours.

use std::collections::BTreeMap;
use std::time::Duration;

use openidconnect::core::{
    CoreGenderClaim, CoreJsonWebKey, CoreJsonWebKeySet, CoreJweContentEncryptionAlgorithm, CoreJwsSigningAlgorithm,
};
use openidconnect::{
    AccessToken, AccessTokenHash, AdditionalClaims, ClaimsVerificationError, ClientId, EndUserEmail, EndUserName,
    EndUserUsername, IdTokenClaims, IdTokenVerifier, IssuerUrl, LocalizedClaim, Nonce, SignatureVerificationError,
    UserInfoClaims,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::env::Timestamp;
use crate::identity::TokenList;
use crate::identity::user::{DisplayName, Email, ExternalIdentity};

/// Signatures that are accepted.
const ALGORITHMS: [CoreJwsSigningAlgorithm; 4] = [
    CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha256,
    CoreJwsSigningAlgorithm::RsaSsaPssSha256,
    CoreJwsSigningAlgorithm::EcdsaP256Sha256,
    CoreJwsSigningAlgorithm::EdDsa,
];
/// How far a provider's clock may be from ours.
pub(super) const CLOCK_SKEW: Duration = Duration::from_secs(60);
/// The oldest token that is an answer to a code that was redeemed just now.
const OLDEST: Duration = Duration::from_secs(10 * 60);

pub(super) type IdToken =
    openidconnect::IdToken<MoreClaims, CoreGenderClaim, CoreJweContentEncryptionAlgorithm, CoreJwsSigningAlgorithm>;
type Claims = IdTokenClaims<MoreClaims, CoreGenderClaim>;

/// Claims that are not the standard's own, the groups among them.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(super) struct MoreClaims {
    #[serde(flatten)]
    claims: BTreeMap<String, Value>,
}

impl AdditionalClaims for MoreClaims {}

words! {
    /// Why an ID token proves nothing.
    TokenFault {
        /// It is no token, or lacks a claim that each has.
        Malformed = "malformed",
        /// Its header says what is not understood.
        Header = "header",
        Algorithm = "algorithm",
        /// It is signed with a key that the provider does not publish for this.
        Key = "key",
        Signature = "signature",
        Issuer = "issuer",
        Audience = "audience",
        AuthorizedParty = "authorized_party",
        Expired = "expired",
        IssuedAt = "issued_at",
        Nonce = "nonce",
        AuthenticationTime = "authentication_time",
        AccessTokenHash = "access_token_hash",
        Subject = "subject",
        /// The groups are not a list of words that policies can read.
        Groups = "groups",
    }
}

/// What a token has to fit.
pub(super) struct Expected<'a> {
    pub(super) issuer: &'a IssuerUrl,
    pub(super) client: &'a ClientId,
    pub(super) nonce: &'a Nonce,
    /// What came with it.
    pub(super) access_token: &'a AccessToken,
    /// The person must have shown who they are after this.
    pub(super) since: Option<Timestamp>,
}

/// Somebody for whom a provider vouches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Person {
    pub(super) identity: ExternalIdentity,
    pub(super) about: About,
    /// When they showed the provider who they are, if it says so (`auth_time`).
    pub(super) shown: Option<Timestamp>,
}

/// What a provider tells of a person. An address only if the provider has verified it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct About {
    pub(super) name: Option<DisplayName>,
    pub(super) email: Option<Email>,
    /// Of the claim that holds them. `None`: there is none.
    pub(super) groups: Option<TokenList>,
}

impl About {
    /// The same, and where something is not known what another says.
    pub(super) fn or(self, other: Self) -> Self {
        let Self { name, email, groups } = self;
        Self { name: name.or(other.name), email: email.or(other.email), groups: groups.or(other.groups) }
    }

    /// Whether anything is missing.
    pub(super) fn is_partial(&self, groups_claim: Option<&str>) -> bool {
        self.name.is_none() || self.email.is_none() || (groups_claim.is_some() && self.groups.is_none())
    }
}

/// Whom a token vouches for.
pub(super) fn verified(
    token: &IdToken,
    keys: &CoreJsonWebKeySet,
    expected: &Expected<'_>,
    groups_claim: Option<&str>,
    now: Timestamp,
) -> Result<Person, TokenFault> {
    let verifier = verifier(keys, expected, now);
    let claims = token.claims(&verifier, expected.nonce).map_err(|error| fault(&error))?;
    check_party(claims, expected.client)?;
    check_times(claims, expected.since, now)?;
    check_access_token(token, claims, &verifier, expected.access_token)?;
    let identity = ExternalIdentity::parse(claims.issuer().as_str(), claims.subject().as_str());
    let about = About {
        name: name(claims.name(), claims.preferred_username()),
        email: email(claims.email(), claims.email_verified()),
        groups: groups(claims.additional_claims(), groups_claim)?,
    };
    Ok(Person { identity: identity.ok_or(TokenFault::Subject)?, about, shown: shown(claims) })
}

/// Steps 2, 3, 6 to 9 and 11.
fn verifier<'a>(
    keys: &CoreJsonWebKeySet,
    expected: &Expected<'_>,
    now: Timestamp,
) -> IdTokenVerifier<'a, CoreJsonWebKey> {
    let verifier = IdTokenVerifier::new_public_client(expected.client.clone(), expected.issuer.clone(), keys.clone());
    verifier
        .set_allowed_algs(ALGORITHMS)
        .set_time_fn(move || now.to_system_time().into())
        // Who is addressed as well is looked at together with the authorized party.
        .set_other_audience_verifier_fn(|_| true)
}

/// Steps 4 and 5, without their leniency: a token for several says which of them asked, and whoever that is is us.
fn check_party(claims: &Claims, client: &ClientId) -> Result<(), TokenFault> {
    match claims.authorized_party() {
        Some(party) if party == client => Ok(()),
        None if claims.audiences().len() == 1 => Ok(()),
        Some(_) | None => Err(TokenFault::AuthorizedParty),
    }
}

/// Steps 10 and 13.
fn check_times(claims: &Claims, since: Option<Timestamp>, now: Timestamp) -> Result<(), TokenFault> {
    let issued = moment(claims.issue_time().timestamp_millis()).ok_or(TokenFault::IssuedAt)?;
    if issued > now.after(CLOCK_SKEW) || issued < now.before(OLDEST) {
        return Err(TokenFault::IssuedAt);
    }
    let Some(since) = since else { return Ok(()) };
    let is_recent = shown(claims).is_some_and(|shown| shown.after(CLOCK_SKEW) >= since);
    if is_recent { Ok(()) } else { Err(TokenFault::AuthenticationTime) }
}

fn shown(claims: &Claims) -> Option<Timestamp> {
    claims.auth_time().and_then(|shown| moment(shown.timestamp_millis()))
}

fn moment(millis: i64) -> Option<Timestamp> {
    u64::try_from(millis).ok().map(Timestamp::from_millis)
}

/// The access token that came with it is the one it was issued with, if it says which (§3.1.3.8).
fn check_access_token(
    token: &IdToken,
    claims: &Claims,
    verifier: &IdTokenVerifier<'_, CoreJsonWebKey>,
    access_token: &AccessToken,
) -> Result<(), TokenFault> {
    let Some(expected) = claims.access_token_hash() else { return Ok(()) };
    let algorithm = token.signing_alg().map_err(|_| TokenFault::Algorithm)?;
    let key = token.signing_key(verifier).map_err(|_| TokenFault::Key)?;
    let hash = AccessTokenHash::from_token(access_token, algorithm, key);
    if hash.is_ok_and(|hash| hash == *expected) { Ok(()) } else { Err(TokenFault::AccessTokenHash) }
}

/// What else a provider tells of the person it vouched for.
pub(super) fn about(
    claims: &UserInfoClaims<MoreClaims, CoreGenderClaim>,
    groups_claim: Option<&str>,
) -> Result<About, TokenFault> {
    Ok(About {
        name: name(claims.name(), claims.preferred_username()),
        email: email(claims.email(), claims.email_verified()),
        groups: groups(claims.additional_claims(), groups_claim)?,
    })
}

fn name(name: Option<&LocalizedClaim<EndUserName>>, login: Option<&EndUserUsername>) -> Option<DisplayName> {
    let name = name.and_then(|name| name.get(None)).map(|name| DisplayName::of(name));
    let login = login.map(|login| DisplayName::of(login));
    let is_shown = |name: &DisplayName| !name.as_str().is_empty();
    name.filter(is_shown).or(login.filter(is_shown))
}

fn email(email: Option<&EndUserEmail>, is_verified: Option<bool>) -> Option<Email> {
    email.filter(|_| is_verified == Some(true)).and_then(|email| Email::parse(email))
}

/// A list of words, or one. What policies could not read is no list: leaving a group out might open what it closes.
fn groups(claims: &MoreClaims, name: Option<&str>) -> Result<Option<TokenList>, TokenFault> {
    let Some(claim) = name.and_then(|name| claims.claims.get(name)) else { return Ok(None) };
    let words = match claim {
        Value::String(one) => vec![one.clone()],
        Value::Array(list) => {
            let words = list.iter().map(|word| word.as_str().map(str::to_owned));
            let mut words = words.collect::<Option<Vec<_>>>().ok_or(TokenFault::Groups)?;
            words.sort_unstable();
            words.dedup();
            words
        }
        Value::Null => return Ok(None),
        Value::Bool(_) | Value::Number(_) | Value::Object(_) => return Err(TokenFault::Groups),
    };
    TokenList::parse(words).map(Some).map_err(|_| TokenFault::Groups)
}

fn fault(error: &ClaimsVerificationError) -> TokenFault {
    use ClaimsVerificationError as E;
    use SignatureVerificationError as S;
    match error {
        E::Expired(_) => TokenFault::Expired,
        E::InvalidAudience(_) => TokenFault::Audience,
        E::InvalidIssuer(_) => TokenFault::Issuer,
        E::InvalidNonce(_) => TokenFault::Nonce,
        E::InvalidAuthTime(_) => TokenFault::AuthenticationTime,
        E::InvalidSubject(_) => TokenFault::Subject,
        E::Unsupported(_) => TokenFault::Header,
        E::SignatureVerification(S::NoSignature | S::DisallowedAlg(_) | S::UnsupportedAlg(_)) => TokenFault::Algorithm,
        E::SignatureVerification(S::NoMatchingKey | S::AmbiguousKeyId(_) | S::InvalidKey(_)) => TokenFault::Key,
        E::SignatureVerification(_) => TokenFault::Signature,
        _ => TokenFault::Malformed,
    }
}
