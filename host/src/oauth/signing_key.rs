//! The keys themselves: made here, sealed by the vault, published as a JSON Web Key (RFC 7517).

use std::fmt;

use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, RsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::jwk::{Jwk, PublicKeyUse, ThumbprintHash};
use jsonwebtoken::{DecodingKey, EncodingKey};
use zeroize::Zeroizing;

use super::signing::Algorithm;
use crate::secret::SecretBytes;

/// A key is not one of its algorithm, or cannot be made or used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is no key of its algorithm")]
pub struct KeyError;

/// The private part of a key, as PKCS#8 (RFC 5208).
pub struct SigningSecret {
    algorithm: Algorithm,
    pkcs8: SecretBytes,
}

/// The public part of a key.
#[derive(Clone, Debug)]
pub struct PublicKey {
    algorithm: Algorithm,
    jwk: Jwk,
}

impl SigningSecret {
    /// A new one: RSA of 2048 bits, P-256 or Ed25519. Takes up to a second for RSA.
    ///
    /// # Errors
    /// There is no randomness.
    pub fn generate(algorithm: Algorithm) -> Result<Self, KeyError> {
        let pkcs8 = match algorithm {
            Algorithm::Rs256 => {
                let pair = RsaKeyPair::generate(KeySize::Rsa2048).map_err(|_| KeyError)?;
                let der: Pkcs8V1Der<'_> = pair.as_der().map_err(|_| KeyError)?;
                SecretBytes::new(der.as_ref().to_vec())
            }
            Algorithm::Es256 => {
                let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(|_| KeyError)?;
                let der = pair.to_pkcs8v1().map_err(|_| KeyError)?;
                SecretBytes::new(der.as_ref().to_vec())
            }
            Algorithm::EdDsa => {
                let pair = Ed25519KeyPair::generate().map_err(|_| KeyError)?;
                let der = pair.to_pkcs8v1().map_err(|_| KeyError)?;
                SecretBytes::new(der.as_ref().to_vec())
            }
        };
        Ok(Self { algorithm, pkcs8 })
    }

    /// The one that the vault has opened.
    pub const fn new(algorithm: Algorithm, pkcs8: SecretBytes) -> Self {
        Self { algorithm, pkcs8 }
    }

    /// What the vault seals.
    pub const fn pkcs8(&self) -> &SecretBytes {
        &self.pkcs8
    }

    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    pub(super) fn encoding_key(&self) -> Result<EncodingKey, KeyError> {
        let der = self.pkcs8.expose();
        match self.algorithm {
            // Only as PEM the library takes PKCS#8 of RSA.
            Algorithm::Rs256 => {
                let body = Zeroizing::new(STANDARD.encode(der));
                let pem = format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", body.as_str());
                EncodingKey::from_rsa_pem(Zeroizing::new(pem).as_bytes()).map_err(|_| KeyError)
            }
            Algorithm::Es256 => Ok(EncodingKey::from_ec_der(der)),
            Algorithm::EdDsa => Ok(EncodingKey::from_ed_der(der)),
        }
    }

    /// The public part, and the id by which it is published: its thumbprint (RFC 7638).
    ///
    /// # Errors
    /// It is no key of its algorithm.
    pub fn public(&self) -> Result<(String, PublicKey), KeyError> {
        let mut jwk = Jwk::from_encoding_key(&self.encoding_key()?, self.algorithm.into()).map_err(|_| KeyError)?;
        let id = jwk.thumbprint(ThumbprintHash::SHA256).map_err(|_| KeyError)?;
        jwk.common.key_id = Some(id.clone());
        jwk.common.public_key_use = Some(PublicKeyUse::Signature);
        Ok((id, PublicKey { algorithm: self.algorithm, jwk }))
    }
}

impl fmt::Debug for SigningSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningSecret").field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

impl PublicKey {
    /// The key in a JSON text of our own.
    ///
    /// # Errors
    /// It is no key of this algorithm.
    pub fn parse(algorithm: Algorithm, json: &str) -> Result<Self, KeyError> {
        let jwk: Jwk = serde_json::from_str(json).map_err(|_| KeyError)?;
        let key = Self { algorithm, jwk };
        key.decoding_key().map(|_| key)
    }

    /// The JSON Web Key, as it is published.
    pub fn to_json(&self) -> String {
        serde_json::to_string(&self.jwk).expect("a key of our own serialises")
    }

    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    pub(super) fn decoding_key(&self) -> Result<DecodingKey, KeyError> {
        let key = DecodingKey::from_jwk(&self.jwk).map_err(|_| KeyError)?;
        let algorithm: jsonwebtoken::Algorithm = self.algorithm.into();
        if key.family() == algorithm.family() { Ok(key) } else { Err(KeyError) }
    }
}

impl From<Algorithm> for jsonwebtoken::Algorithm {
    fn from(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Rs256 => Self::RS256,
            Algorithm::Es256 => Self::ES256,
            Algorithm::EdDsa => Self::EdDSA,
        }
    }
}
