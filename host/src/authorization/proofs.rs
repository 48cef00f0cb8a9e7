//! Proofs of keys as they come with requests (RFC 9449): each counts once, on whichever gateway of the deployment.
//!
//! What a proof says is verified by [`crate::oauth::dpop`]. Here is what that needs of the store and of the deployment: marks
//! of the proofs that were presented, and the nonces that are ours. Nothing is marked for a proof that is not good, nor for
//! one of another key than has to be proven.

use http::HeaderMap;

use super::Fault;
use crate::env::Timestamp;
use crate::oauth::dpop::{self, Asked, Invalid};
use crate::secret::{DeploymentSecret, Digest, Plaintext};
use crate::store::Store;
use crate::store::marks::{self, Kind, Mark};

/// Header of a request with a proof (RFC 9449 §4.1).
pub const HEADER: &str = "dpop";
/// Header of an answer with a nonce for the next proof (RFC 9449 §8.1).
pub const NONCE_HEADER: &str = "dpop-nonce";

/// Why no key is proven. For the log, but for [`Self::Invalid`] with [`Invalid::Nonce`], which is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotProven {
    #[error("there is no proof")]
    Missing,
    #[error("there are several proofs, or one that is no text")]
    Unreadable,
    #[error("the proof is not good: {0}")]
    Invalid(#[from] Invalid),
    #[error("the proof is one of another key")]
    OtherKey,
    #[error("the proof was presented before")]
    Replayed,
}

impl NotProven {
    /// The error code (RFC 9449 §5, §7.1, §8).
    pub const fn code(self) -> &'static str {
        match self {
            Self::Invalid(Invalid::Nonce) => "use_dpop_nonce",
            _ => "invalid_dpop_proof",
        }
    }

    /// Whether a nonce of ours makes it good.
    pub fn wants_nonce(self) -> bool {
        self == Self::Invalid(Invalid::Nonce)
    }
}

/// Judges proofs.
pub struct Proofs<'a> {
    pub store: &'a Store,
    pub secret: &'a DeploymentSecret,
}

/// The request that a proof has to be for.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    pub method: &'a str,
    /// `public_url`
    pub issuer: &'a str,
    /// As this gateway is asked for it: what a proxy takes away is in `public_url`.
    pub path: &'a str,
}

/// The one proof of a request, if there is one (RFC 9449 §4.3, 1).
pub fn presented(headers: &HeaderMap) -> Result<Option<&str>, NotProven> {
    let mut all = headers.get_all(HEADER).iter();
    match (all.next(), all.next()) {
        (None, _) => Ok(None),
        (Some(one), None) => one.to_str().map(Some).map_err(|_| NotProven::Unreadable),
        (Some(_), Some(_)) => Err(NotProven::Unreadable),
    }
}

impl Proofs<'_> {
    /// The thumbprint of the key that a request proves, if it proves one. The proof is used up.
    ///
    /// # Errors
    /// It cannot be known whether it was presented before.
    pub async fn of_client(
        &self,
        headers: &HeaderMap,
        place: Place<'_>,
        now: Timestamp,
    ) -> Result<Result<Option<Digest>, NotProven>, Fault> {
        match presented(headers) {
            Ok(None) => Ok(Ok(None)),
            Ok(Some(proof)) => Ok(self.take(proof, place, None, now).await?.map(Some)),
            Err(not_proven) => Ok(Err(not_proven)),
        }
    }

    /// Whether a request proves this key, for this access token. The proof is used up.
    ///
    /// # Errors
    /// It cannot be known whether it was presented before.
    pub async fn of_holder(
        &self,
        headers: &HeaderMap,
        place: Place<'_>,
        (token, key): (&Plaintext, Digest),
        now: Timestamp,
    ) -> Result<Result<(), NotProven>, Fault> {
        match presented(headers) {
            Ok(None) => Ok(Err(NotProven::Missing)),
            Ok(Some(proof)) => Ok(self.take(proof, place, Some((token, key)), now).await?.map(drop)),
            Err(not_proven) => Ok(Err(not_proven)),
        }
    }

    async fn take(
        &self,
        proof: &str,
        place: Place<'_>,
        bound: Option<(&Plaintext, Digest)>,
        now: Timestamp,
    ) -> Result<Result<Digest, NotProven>, Fault> {
        let Place { method, issuer, path } = place;
        let address = format!("{issuer}{path}");
        let asked = Asked { method, address: &address, access_token: bound.map(|(token, _)| token), now };
        let proof = match dpop::verify(proof, &asked, self.secret) {
            Ok(proof) => proof,
            Err(invalid) => return Ok(Err(invalid.into())),
        };
        if bound.is_some_and(|(_, key)| key != proof.key) {
            return Ok(Err(NotProven::OtherKey));
        }
        Ok(match marks::consume_once(self.store, Kind::Dpop, proof.once, proof.until).await? {
            Mark::First => Ok(proof.key),
            Mark::Seen => Err(NotProven::Replayed),
        })
    }

    /// A nonce for the next proof.
    pub fn nonce(&self, now: Timestamp) -> String {
        dpop::nonce(self.secret, now)
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use serde_json::json;

    use super::super::testing::Scene;
    use super::*;
    use crate::oauth::dpop::testing::client;
    use crate::oauth::signing::Algorithm;

    const PLACE: Place<'static> = Place { method: "POST", issuer: "https://gateway.example/a", path: "/oauth2/token" };
    const ADDRESS: &str = "https://gateway.example:443/a/oauth2/token";

    fn with(proofs: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for proof in proofs {
            headers.append(HEADER, HeaderValue::from_str(proof).unwrap());
        }
        headers
    }

    #[tokio::test]
    async fn t18_a_proof_counts_once_and_for_its_place() {
        let scene = Scene::new().await;
        let proofs = Proofs { store: &scene.server.store, secret: &scene.server.secret };
        let (one, now) = (client(Algorithm::Es256), scene.now());
        let asked = Asked { method: "POST", address: ADDRESS, access_token: None, now };
        let take = async |given: &[&str]| proofs.of_client(&with(given), PLACE, now).await.unwrap();
        let proof = one.proof(&asked, &json!({}));
        assert_eq!(take(&[]).await, Ok(None));
        assert_eq!(take(&[&proof, &proof]).await, Err(NotProven::Unreadable));
        assert_eq!(take(&[&proof]).await, Ok(Some(one.thumbprint())));
        assert_eq!(take(&[&proof]).await, Err(NotProven::Replayed));
        let other_path = one.proof(&asked, &json!({ "htu": "https://gateway.example/oauth2/token" }));
        assert_eq!(take(&[&other_path]).await, Err(Invalid::Address.into()));
        // An old one is good with a nonce of ours.
        let old = json!({ "iat": 1_000 });
        let refused = take(&[&one.proof(&asked, &old)]).await.unwrap_err();
        assert!(refused.wants_nonce() && refused.code() == "use_dpop_nonce");
        let old = json!({ "iat": 1_000, "nonce": proofs.nonce(now) });
        assert_eq!(take(&[&one.proof(&asked, &old)]).await, Ok(Some(one.thumbprint())));
    }

    #[tokio::test]
    async fn t18_whoever_holds_a_token_proves_its_key_for_it() {
        let scene = Scene::new().await;
        let proofs = Proofs { store: &scene.server.store, secret: &scene.server.secret };
        let (one, other, now) = (client(Algorithm::Es256), client(Algorithm::EdDsa), scene.now());
        let (token, another) = (Plaintext::new("eyJ.a"), Plaintext::new("eyJ.b"));
        let asked = Asked { method: "POST", address: ADDRESS, access_token: Some(&token), now };
        let hold = async |proof: &str| {
            let bound = (&token, one.thumbprint());
            proofs.of_holder(&with(&[proof]), PLACE, bound, now).await.unwrap()
        };
        let nobody = proofs.of_holder(&with(&[]), PLACE, (&token, one.thumbprint()), now).await.unwrap();
        assert_eq!(nobody, Err(NotProven::Missing));
        assert_eq!(hold(&other.proof(&asked, &json!({}))).await, Err(NotProven::OtherKey));
        let of_another = one.proof(&Asked { access_token: Some(&another), ..asked }, &json!({}));
        assert_eq!(hold(&of_another).await, Err(Invalid::AccessToken.into()));
        let of_none = one.proof(&Asked { access_token: None, ..asked }, &json!({}));
        assert_eq!(hold(&of_none).await, Err(Invalid::AccessToken.into()));
        let proof = one.proof(&asked, &json!({}));
        assert_eq!((hold(&proof).await, hold(&proof).await), (Ok(()), Err(NotProven::Replayed)));
    }
}
