//! Access tokens: signed statements of what a grant gives, for a few minutes (RFC 9068).
//!
//! What is verified here is what a token says of itself: who signed it, for whom, until when. Whether it was revoked, and
//! whether it is for the resource that was asked, is asked of what it says.
//!
//! Only our own tokens are ever verified, so everything that we do not write is refused: other algorithms than the key's,
//! another type, header parameters that name or bring a key, critical extensions.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{DecodingKey, EncodingKey, Header, crypto};
use serde::{Deserialize, Serialize};

use super::access::ResourceList;
use super::dpop::Proof;
use super::signing::Algorithm;
use super::signing_key::{KeyError, PublicKey, SigningSecret};
use crate::env::Timestamp;
use crate::identity::{TokenList, ToolScope};
use crate::ids::{ClientId, GrantId, Principal, TokenId};
use crate::secret::Digest;

mod claims;

use claims::{Actor, Audience, Claims, Confirmation};

/// Longest token that is signed or looked at.
pub const MAX_BYTES: usize = 8 * 1024;
/// Most who have acted for one another.
pub const MAX_ACTORS: usize = 4;
/// How far the clock of the gateway that issued a token may be ahead of the one that verifies it.
const CLOCK_SKEW: Duration = Duration::from_secs(5);
/// `typ` of an access token (RFC 9068 §2.1).
const TYPE: &str = "at+jwt";

/// What an access token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessToken {
    /// `jti`
    pub id: TokenId,
    /// `sub`
    pub principal: Principal,
    /// `client_id`
    pub client: ClientId,
    /// The grant that it follows from.
    pub grant: GrantId,
    /// `aud`: the resources that it is for (RFC 8707). At least one.
    pub resources: ResourceList,
    pub scopes: TokenList,
    /// The tools that are left of what it reaches.
    pub tools: ToolScope,
    /// `cnf`: thumbprint of the key that has to be proven with each use (RFC 9449 §6.1).
    pub proof: Option<Digest>,
    /// `act`: who acts in the client's place, and who did before, newest first (RFC 8693 §4.1). At most [`MAX_ACTORS`].
    pub actors: Vec<ClientId>,
    /// What policies have it say besides, as a JSON object; none if that is nothing.
    pub claims: Option<Arc<str>>,
    pub issued: Timestamp,
    pub expires: Timestamp,
    /// Which life of the store it is from. A restored backup begins another one.
    pub epoch: u64,
}

/// Why a token counts for nothing. For the log: whoever presents it is told only that it is invalid (RFC 6750 §3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    #[error("it has more than {MAX_BYTES} bytes")]
    TooLarge,
    #[error("it is no signed token")]
    Malformed,
    #[error("its header has something that ours never have")]
    Header,
    #[error("it is a token of another type")]
    Type,
    #[error("its key is none of ours")]
    UnknownKey,
    #[error("it names another algorithm than its key has")]
    Algorithm,
    #[error("its signature is wrong")]
    Signature,
    #[error("what it says cannot be read")]
    Claims,
    #[error("it is from another issuer")]
    Issuer,
    #[error("it has expired")]
    Expired,
    #[error("it is not valid yet")]
    NotYet,
    #[error("it is from before the store was restored")]
    Restored,
}

/// Why something is not signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsigned {
    #[error("there is no key to sign with")]
    NoKey,
    #[error("the key does not sign")]
    Key(#[from] KeyError),
    /// Whoever grants that much has to grant less: nobody would look at it.
    #[error("the token would have more than {MAX_BYTES} bytes")]
    TooLarge,
    #[error("what policies have the token say is no JSON object")]
    Claims,
}

/// Signs tokens with one key.
pub struct Signer {
    header: Header,
    key: EncodingKey,
}

/// Verifies tokens of one issuer with the keys that are published.
#[derive(Clone)]
pub struct Verifier {
    issuer: String,
    keys: HashMap<String, (Algorithm, DecodingKey)>,
}

/// Only ours are read: anything else is refused, so that no parameter that names or brings a key is ever looked at.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OurHeader<'a> {
    #[serde(borrow)]
    alg: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    typ: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    kid: std::borrow::Cow<'a, str>,
}

impl Signer {
    /// Signs with this key.
    ///
    /// # Errors
    /// The key is none of its algorithm.
    pub fn new(id: &str, secret: &SigningSecret) -> Result<Self, KeyError> {
        let mut header = Header::new(secret.algorithm().into());
        header.typ = Some(TYPE.to_owned());
        header.kid = Some(id.to_owned());
        Ok(Self { header, key: secret.encoding_key()? })
    }

    /// The token for this, as it is sent.
    ///
    /// # Errors
    /// [`Unsigned`]
    pub fn sign(&self, issuer: &str, token: &AccessToken) -> Result<String, Unsigned> {
        let claims = Claims {
            iss: issuer.to_owned(),
            sub: token.principal.to_string(),
            aud: Audience(token.resources.to_vec()),
            exp: token.expires.as_millis() / 1_000,
            iat: token.issued.as_millis() / 1_000,
            iat_ms: Some(token.issued.as_millis()),
            nbf: token.issued.as_millis() / 1_000,
            jti: token.id.as_str().to_owned(),
            client_id: token.client.as_str().to_owned(),
            scope: token.scopes.join(" "),
            principal: kind(&token.principal).to_owned(),
            grant: token.grant.as_str().to_owned(),
            epoch: token.epoch,
            tools: token.tools.to_texts(),
            cnf: token.proof.as_ref().map(|key| Confirmation { jkt: Proof::thumbprint(key) }),
            act: Actor::chain(&token.actors),
            others: token.claims.as_deref().map(claims::others).transpose()?.unwrap_or_default(),
        };
        self.encode(&self.header, &claims)
    }

    /// Signs claims of another type of token, which is never taken for an access token.
    pub(super) fn sign_as(&self, kind: &str, claims: &impl Serialize) -> Result<String, Unsigned> {
        debug_assert_ne!(kind, TYPE, "it would be an access token");
        self.encode(&Header { typ: Some(kind.to_owned()), ..self.header.clone() }, claims)
    }

    fn encode(&self, header: &Header, claims: &impl Serialize) -> Result<String, Unsigned> {
        let signed = jsonwebtoken::encode(header, claims, &self.key).map_err(|_| KeyError)?;
        if signed.len() <= MAX_BYTES { Ok(signed) } else { Err(Unsigned::TooLarge) }
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("header", &self.header).finish_non_exhaustive()
    }
}

impl Verifier {
    /// Verifies what `issuer` signed with one of these keys.
    ///
    /// # Errors
    /// A key is none of its algorithm.
    pub fn new<'a>(
        issuer: impl Into<String>,
        keys: impl IntoIterator<Item = (&'a str, &'a PublicKey)>,
    ) -> Result<Self, KeyError> {
        let known = |(id, key): (&str, &PublicKey)| Ok((id.to_owned(), (key.algorithm(), key.decoding_key()?)));
        Ok(Self { issuer: issuer.into(), keys: keys.into_iter().map(known).collect::<Result<_, KeyError>>()? })
    }

    /// What a token says, if we said it in this life of the store and it counts at `now`.
    ///
    /// # Errors
    /// The first reason why not.
    pub fn verify(&self, token: &str, now: Timestamp, epoch: u64) -> Result<AccessToken, Invalid> {
        if token.len() > MAX_BYTES {
            return Err(Invalid::TooLarge);
        }
        let (message, signature) = token.rsplit_once('.').ok_or(Invalid::Malformed)?;
        let (header, claims) = message.split_once('.').ok_or(Invalid::Malformed)?;
        let decoded = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| Invalid::Malformed);
        let header = decoded(header)?;
        let OurHeader { alg, typ, kid } = serde_json::from_slice(&header).map_err(|_| Invalid::Header)?;
        if typ != TYPE {
            return Err(Invalid::Type);
        }
        let (algorithm, key) = self.keys.get(kid.as_ref()).ok_or(Invalid::UnknownKey)?;
        if alg != algorithm.as_str() {
            return Err(Invalid::Algorithm);
        }
        let is_signed = crypto::verify(signature, message.as_bytes(), key, (*algorithm).into());
        if !is_signed.map_err(|_| Invalid::Signature)? {
            return Err(Invalid::Signature);
        }
        let claims: Claims = serde_json::from_slice(&decoded(claims)?).map_err(|_| Invalid::Claims)?;
        self.read(claims, now, epoch)
    }

    fn read(&self, claims: Claims, now: Timestamp, epoch: u64) -> Result<AccessToken, Invalid> {
        if claims.iss != self.issuer {
            return Err(Invalid::Issuer);
        }
        let moment = |seconds: u64| seconds.checked_mul(1_000).map(Timestamp::from_millis).ok_or(Invalid::Claims);
        let (mut issued, expires) = (moment(claims.iat)?, moment(claims.exp)?);
        if let Some(millis) = claims.iat_ms {
            issued = Some(millis)
                .filter(|millis| millis / 1_000 == claims.iat)
                .map(Timestamp::from_millis)
                .ok_or(Invalid::Claims)?;
        }
        if now >= expires {
            return Err(Invalid::Expired);
        }
        if now.after(CLOCK_SKEW) < moment(claims.nbf)?.max(issued) {
            return Err(Invalid::NotYet);
        }
        if claims.epoch != epoch {
            return Err(Invalid::Restored);
        }
        let principal = Principal::parse(&claims.sub).filter(|principal| kind(principal) == claims.principal);
        let scopes = claims.scope.split(' ').filter(|scope| !scope.is_empty()).map(str::to_owned).collect();
        let resources = ResourceList::parse(claims.aud.0).filter(|resources| !resources.is_empty());
        let key = |cnf: Confirmation| Proof::key_of(&cnf.jkt).ok_or(Invalid::Claims);
        let proof = claims.cnf.map(key);
        let actors = claims.act.map_or(Some(Vec::new()), |act| act.ids(MAX_ACTORS));
        Ok(AccessToken {
            id: TokenId::parse(&claims.jti).ok_or(Invalid::Claims)?,
            principal: principal.ok_or(Invalid::Claims)?,
            client: ClientId::parse(&claims.client_id).ok_or(Invalid::Claims)?,
            grant: GrantId::parse(&claims.grant).ok_or(Invalid::Claims)?,
            resources: resources.ok_or(Invalid::Claims)?,
            scopes: TokenList::parse(scopes).map_err(|_| Invalid::Claims)?,
            tools: ToolScope::parse(&claims.tools).ok_or(Invalid::Claims)?,
            proof: proof.transpose()?,
            actors: actors.ok_or(Invalid::Claims)?,
            claims: claims::object(&claims.others),
            issued,
            expires,
            epoch,
        })
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut keys: Vec<_> = self.keys.keys().collect();
        keys.sort_unstable();
        f.debug_struct("Verifier").field("issuer", &self.issuer).field("keys", &keys).finish()
    }
}

/// The kind of a principal, in a word that policies and resource servers may read.
const fn kind(principal: &Principal) -> &'static str {
    match principal {
        Principal::Key(_) => "key",
        Principal::User(_) => "user",
        Principal::Guest(_) => "guest",
        Principal::Anonymous => "anonymous",
        Principal::Gateway => "gateway",
    }
}

#[cfg(test)]
mod tests;
