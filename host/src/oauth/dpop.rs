//! Proofs that a client has a key, with each request (DPoP, RFC 9449).
//!
//! A proof brings its own public key; what counts is its thumbprint, to which a grant and its tokens are bound. A proof is for
//! one method, one address and, with an access token, for that token. It counts once: whoever verifies one marks
//! [`Proof::once`] until [`Proof::until`]. Pure: what is marked, and which nonces are ours, is asked elsewhere.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::Uri;
use jsonwebtoken::jwk::{Jwk, ThumbprintHash};
use jsonwebtoken::{Algorithm, DecodingKey, crypto};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use crate::env::Timestamp;
use crate::secret::{DeploymentSecret, Digest, Plaintext};

/// Longest proof that is looked at.
pub const MAX_BYTES: usize = 8 * 1024;
/// How far the time of a proof may be from ours, where no nonce of ours says when it was made.
pub const WINDOW: Duration = Duration::from_secs(60);
/// How long a nonce of ours counts.
pub const NONCE_LIFE: Duration = Duration::from_secs(5 * 60);
/// Algorithms of proofs, as authorization server metadata names them (RFC 9449 §5.1).
pub const ALGORITHMS: [&str; 4] = ["ES256", "EdDSA", "PS256", "RS256"];
/// `typ` (RFC 9449 §4.2).
const TYPE: &str = "dpop+jwt";
/// Longest `jti`, in bytes.
const MAX_JTI: usize = 256;
/// Sizes of an RSA modulus, in bytes: 2048 to 8192 bits.
const RSA_BYTES: std::ops::RangeInclusive<usize> = 256..=1024;
/// Members of a key that only its owner may have (RFC 7518 §6).
const PRIVATE: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];
const NONCE: &str = "DPoP nonce";

/// What a proof has to be for.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    pub method: &'a str,
    /// The address of the request, from `public_url` and never from what a request says of itself.
    pub address: &'a str,
    /// The access token that comes with it, if one does.
    pub access_token: Option<&'a Plaintext>,
    pub now: Timestamp,
}

/// A proof that was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    /// Thumbprint of the key (RFC 7638), as grants and tokens keep it.
    pub key: Digest,
    /// Of the key and the `jti` together.
    pub once: Digest,
    pub until: Timestamp,
}

impl Proof {
    /// `jkt` (RFC 9449 §6.1).
    pub fn thumbprint(key: &Digest) -> String {
        URL_SAFE_NO_PAD.encode(key.as_bytes())
    }

    /// The thumbprint of such a text, if it is one.
    pub fn key_of(jkt: &str) -> Option<Digest> {
        let bytes = URL_SAFE_NO_PAD.decode(jkt).ok()?;
        bytes.try_into().ok().map(Digest::from_bytes)
    }
}

/// Why a proof proves nothing (RFC 9449 §4.3). For the log, but for [`Self::Nonce`], which is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    #[error("it has more than {MAX_BYTES} bytes")]
    TooLarge,
    #[error("it is no signed token")]
    Malformed,
    #[error("its header has something that is not accepted")]
    Header,
    #[error("it is a token of another type")]
    Type,
    #[error("its algorithm is not accepted, or not that of its key")]
    Algorithm,
    #[error("its key is none that is accepted")]
    Key,
    #[error("its key is private or shared")]
    PrivateKey,
    #[error("its signature is wrong")]
    Signature,
    #[error("what it says cannot be read")]
    Claims,
    #[error("it is for another method")]
    Method,
    #[error("it is for another address")]
    Address,
    #[error("it is for another access token, or for none")]
    AccessToken,
    /// It is made anew with a nonce that is sent along (RFC 9449 §8).
    #[error("it is too old or too new, or its nonce is none that counts")]
    Nonce,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    typ: String,
    jwk: Map<String, Value>,
    crit: Option<IgnoredAny>,
    b64: Option<IgnoredAny>,
    zip: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Claims {
    jti: String,
    htm: String,
    htu: String,
    iat: f64,
    ath: Option<String>,
    nonce: Option<String>,
}

/// A nonce that counts for [`NONCE_LIFE`], the same on every gateway of the deployment.
pub fn nonce(secret: &DeploymentSecret, now: Timestamp) -> String {
    secret.sign(NONCE, &now.as_millis().to_be_bytes())
}

/// Whether a nonce is ours and counts still.
fn is_fresh(secret: &DeploymentSecret, nonce: &str, now: Timestamp) -> bool {
    let made = secret.open(NONCE, nonce).and_then(|made| made.try_into().ok());
    let made = made.map(|made| Timestamp::from_millis(u64::from_be_bytes(made)));
    // Another gateway's clock may be ahead.
    made.is_some_and(|made| now < made.after(NONCE_LIFE) && made <= now.after(WINDOW))
}

/// Verifies a proof.
///
/// # Errors
/// The first reason why it proves nothing.
pub fn verify(proof: &str, asked: &Asked<'_>, secret: &DeploymentSecret) -> Result<Proof, Invalid> {
    let require = |holds: bool, failure| if holds { Ok(()) } else { Err(failure) };
    require(proof.len() <= MAX_BYTES, Invalid::TooLarge)?;
    let (message, signature) = proof.rsplit_once('.').ok_or(Invalid::Malformed)?;
    let (header, claims) = message.split_once('.').ok_or(Invalid::Malformed)?;
    let Header { alg, typ, jwk, crit, b64, zip } =
        serde_json::from_slice(&decoded(header)?).map_err(|_| Invalid::Header)?;
    require(crit.is_none() && b64.is_none() && zip.is_none(), Invalid::Header)?;
    require(typ == TYPE, Invalid::Type)?;
    let algorithm = algorithm(&alg)?;
    let (key, thumbprint) = public_key(jwk, algorithm)?;
    let is_signed = crypto::verify(signature, message.as_bytes(), &key, algorithm).unwrap_or(false);
    require(is_signed, Invalid::Signature)?;
    let claims: Claims = serde_json::from_slice(&decoded(claims)?).map_err(|_| Invalid::Claims)?;
    read(&claims, thumbprint, asked, secret)
}

fn read(claims: &Claims, key: Digest, asked: &Asked<'_>, secret: &DeploymentSecret) -> Result<Proof, Invalid> {
    let require = |holds: bool, failure| if holds { Ok(()) } else { Err(failure) };
    let Claims { jti, htm, htu, iat, ath, nonce } = claims;
    require((1..=MAX_JTI).contains(&jti.len()), Invalid::Claims)?;
    require(htm == asked.method, Invalid::Method)?;
    let address = place(htu).ok_or(Invalid::Address)?;
    require(place(asked.address) == Some(address), Invalid::Address)?;
    let hash = |token: &Plaintext| URL_SAFE_NO_PAD.encode(token.digest().as_bytes());
    match (asked.access_token, ath) {
        (Some(token), Some(ath)) => require(*ath == hash(token), Invalid::AccessToken)?,
        (Some(_), None) => return Err(Invalid::AccessToken),
        // At the token endpoint no access token comes along, and a hash of one says nothing.
        (None, _) => {}
    }
    let now = asked.now;
    let made = moment(*iat).ok_or(Invalid::Claims)?;
    // When it was made says the nonce, where there is one (§4.3, 11): clients' clocks are what they are.
    let is_recent = match nonce {
        Some(nonce) => is_fresh(secret, nonce, now),
        None => made <= now.after(WINDOW) && now <= made.after(WINDOW),
    };
    require(is_recent, Invalid::Nonce)?;
    let once = Digest::of(&[key.as_bytes().as_slice(), jti.as_bytes()].concat());
    // Until then the same proof would be refused for its age, whichever it was judged by.
    Ok(Proof { key, once, until: now.after(NONCE_LIFE + WINDOW + WINDOW) })
}

fn decoded(part: &str) -> Result<Vec<u8>, Invalid> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| Invalid::Malformed)
}

fn algorithm(name: &str) -> Result<Algorithm, Invalid> {
    match name {
        "ES256" => Ok(Algorithm::ES256),
        "EdDSA" => Ok(Algorithm::EdDSA),
        "PS256" => Ok(Algorithm::PS256),
        "RS256" => Ok(Algorithm::RS256),
        _ => Err(Invalid::Algorithm),
    }
}

/// The key of a proof and its thumbprint, if it is a public one for this algorithm.
fn public_key(jwk: Map<String, Value>, algorithm: Algorithm) -> Result<(DecodingKey, Digest), Invalid> {
    if PRIVATE.iter().any(|member| jwk.contains_key(*member)) {
        return Err(Invalid::PrivateKey);
    }
    let member = |name: &str| jwk.get(name).and_then(Value::as_str);
    let fits = match (member("kty"), algorithm) {
        (Some("EC"), Algorithm::ES256) => member("crv") == Some("P-256"),
        (Some("OKP"), Algorithm::EdDSA) => member("crv") == Some("Ed25519"),
        (Some("RSA"), Algorithm::RS256 | Algorithm::PS256) => {
            let modulus = member("n").and_then(|n| URL_SAFE_NO_PAD.decode(n).ok());
            if !modulus.is_some_and(|modulus| RSA_BYTES.contains(&modulus.len())) {
                return Err(Invalid::Key);
            }
            true
        }
        _ => false,
    };
    if !fits {
        return Err(Invalid::Algorithm);
    }
    let jwk: Jwk = serde_json::from_value(Value::Object(jwk)).map_err(|_| Invalid::Key)?;
    let key = DecodingKey::from_jwk(&jwk).map_err(|_| Invalid::Key)?;
    let thumbprint = jwk.thumbprint(ThumbprintHash::SHA256).map_err(|_| Invalid::Key)?;
    let bytes = URL_SAFE_NO_PAD.decode(thumbprint).ok().and_then(|bytes| bytes.try_into().ok());
    Ok((key, Digest::from_bytes(bytes.ok_or(Invalid::Key)?)))
}

/// What of an address is compared (§4.3, 9): everything but query and fragment, in the normal form of RFC 3986 §6.2.2 and
/// §6.2.3 as far as case and ports go.
fn place(address: &str) -> Option<(String, String, u16, String)> {
    let uri: Uri = address.parse().ok()?;
    let scheme = uri.scheme_str()?.to_ascii_lowercase();
    let usual = match scheme.as_str() {
        "https" => 443,
        "http" => 80,
        _ => return None,
    };
    let authority = uri.authority().filter(|authority| !authority.as_str().contains('@'))?;
    let path = if uri.path().is_empty() { "/" } else { uri.path() };
    let host = authority.host().to_ascii_lowercase();
    Some((scheme, host, authority.port_u16().unwrap_or(usual), path.to_owned()))
}

/// A date of RFC 7519 §2: seconds, which need not be whole.
fn moment(seconds: f64) -> Option<Timestamp> {
    const LATEST: f64 = 1e12;
    if !(0.0..=LATEST).contains(&seconds) {
        return None;
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is within the bounds above")]
    let millis = (seconds * 1_000.0) as u64;
    Some(Timestamp::from_millis(millis))
}

/// Clients that prove their keys.
#[cfg(test)]
pub(crate) mod testing {
    use jsonwebtoken::EncodingKey;
    use serde_json::json;

    use super::super::signing;
    use super::super::signing_key::SigningSecret;
    use super::*;

    pub(crate) struct Client {
        pub(crate) key: EncodingKey,
        pub(crate) algorithm: Algorithm,
        pub(crate) jwk: Value,
    }

    pub(crate) fn client(kind: signing::Algorithm) -> Client {
        let secret = SigningSecret::generate(kind).unwrap();
        let mut jwk: Value = serde_json::from_str(&secret.public().unwrap().1.to_json()).unwrap();
        for member in ["kid", "use", "alg"] {
            jwk.as_object_mut().unwrap().remove(member);
        }
        Client { key: secret.encoding_key().unwrap(), algorithm: kind.into(), jwk }
    }

    impl Client {
        /// A proof that was never there before, with these claims besides or instead.
        pub(crate) fn proof(&self, asked: &Asked<'_>, more: &Value) -> String {
            let jti: [u8; 16] = crate::env::Env::system().random();
            let mut claims = json!({
                "jti": crate::secret::hex(&jti), "htm": asked.method, "htu": asked.address,
                "iat": asked.now.as_millis() / 1_000,
            });
            if let Some(token) = asked.access_token {
                claims["ath"] = json!(URL_SAFE_NO_PAD.encode(token.digest().as_bytes()));
            }
            for (name, value) in more.as_object().into_iter().flatten() {
                claims[name] = value.clone();
            }
            self.sign(&self.header(), &claims)
        }

        pub(crate) fn thumbprint(&self) -> Digest {
            let jwk: Jwk = serde_json::from_value(self.jwk.clone()).unwrap();
            Proof::key_of(&jwk.thumbprint(ThumbprintHash::SHA256).unwrap()).unwrap()
        }

        pub(crate) fn header(&self) -> Value {
            json!({ "typ": "dpop+jwt", "alg": format!("{:?}", self.algorithm), "jwk": self.jwk })
        }

        pub(crate) fn sign(&self, header: &Value, claims: &Value) -> String {
            let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
            let message = format!("{}.{}", part(header), part(claims));
            let signature = crypto::sign(message.as_bytes(), &self.key, self.algorithm).unwrap();
            format!("{message}.{signature}")
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::signing;
    use super::testing::{Client, client};
    use super::*;

    const ADDRESS: &str = "https://gateway.example/oauth2/token";
    const NOW: u64 = 1_800_000_000;

    fn claims() -> Value {
        json!({ "jti": "1", "htm": "POST", "htu": ADDRESS, "iat": NOW })
    }

    fn with(member: &str, value: impl Into<Value>) -> Value {
        let mut claims = claims();
        claims[member] = value.into();
        claims
    }

    fn secret() -> DeploymentSecret {
        DeploymentSecret::new(&[7; 32])
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(seconds * 1_000)
    }

    fn verified_at(proof: &str, seconds: u64) -> Result<Proof, Invalid> {
        let asked = Asked { method: "POST", address: ADDRESS, access_token: None, now: at(seconds) };
        verify(proof, &asked, &secret())
    }

    fn verified(proof: &str) -> Result<Proof, Invalid> {
        verified_at(proof, NOW)
    }

    #[test]
    fn t18_a_client_proves_its_key_with_each_algorithm() {
        for kind in [signing::Algorithm::Es256, signing::Algorithm::EdDsa, signing::Algorithm::Rs256] {
            let client = client(kind);
            let proof = verified(&client.sign(&client.header(), &claims())).unwrap();
            let jwk: Jwk = serde_json::from_value(client.jwk.clone()).unwrap();
            assert_eq!(Proof::thumbprint(&proof.key), jwk.thumbprint(ThumbprintHash::SHA256).unwrap());
            let other = verified(&client.sign(&client.header(), &with("jti", "2"))).unwrap();
            assert!(proof.key == other.key && proof.once != other.once, "another `jti` is another proof");
        }
        // RSA-PSS with the key of RS256.
        let pss = Client { algorithm: Algorithm::PS256, ..client(signing::Algorithm::Rs256) };
        assert!(verified(&pss.sign(&pss.header(), &claims())).is_ok());
        // The `jti` of one key is another's own.
        let (one, other) = (client(signing::Algorithm::Es256), client(signing::Algorithm::Es256));
        let once = |client: &Client| verified(&client.sign(&client.header(), &claims())).unwrap().once;
        assert_ne!(once(&one), once(&other));
    }

    #[test]
    fn t18_a_proof_is_for_one_method_and_one_address() {
        let client = client(signing::Algorithm::Es256);
        let said = |claims: &Value| verified(&client.sign(&client.header(), claims)).map(drop);
        for fits in [
            "https://gateway.example:443/oauth2/token",
            "HTTPS://Gateway.Example/oauth2/token",
            "https://gateway.example/oauth2/token?a=b",
            "https://gateway.example/oauth2/token#a",
        ] {
            assert_eq!(said(&with("htu", fits)), Ok(()), "{fits}");
        }
        for other in [
            "http://gateway.example/oauth2/token",
            "https://gateway.example:8443/oauth2/token",
            "https://gateway.example/oauth2/token/",
            "https://gateway.example/oauth2/Token",
            "https://evil.example/oauth2/token",
            "https://gateway.example@evil.example/oauth2/token",
            "https://u@gateway.example/oauth2/token",
            "/oauth2/token",
            "",
        ] {
            assert_eq!(said(&with("htu", other)), Err(Invalid::Address), "{other}");
        }
        assert_eq!(said(&with("htm", "GET")), Err(Invalid::Method));
        assert_eq!(said(&with("htm", "post")), Err(Invalid::Method));
    }

    #[test]
    fn t18_a_proof_is_for_its_moment_or_for_a_nonce_of_ours() {
        let client = client(signing::Algorithm::EdDsa);
        let sign = |claims: &Value| client.sign(&client.header(), claims);
        for (iat, holds) in [(NOW - 60, true), (NOW + 60, true), (NOW - 61, false), (NOW + 61, false)] {
            let expected = if holds { Ok(()) } else { Err(Invalid::Nonce) };
            assert_eq!(verified(&sign(&with("iat", iat))).map(drop), expected, "{iat}");
        }
        // A clock that is wrong does not matter with a nonce, which counts for a while.
        let nonce = nonce(&secret(), at(NOW));
        let mut late = with("nonce", nonce.clone());
        late["iat"] = json!(NOW - 86_400);
        assert!(verified_at(&sign(&late), NOW + 299).is_ok());
        assert_eq!(verified_at(&sign(&late), NOW + 300), Err(Invalid::Nonce));
        let others = super::nonce(&DeploymentSecret::new(&[8; 32]), at(NOW));
        for bad in [others.as_str(), "", "x", &nonce[1..]] {
            assert_eq!(verified(&sign(&with("nonce", bad))).map(drop), Err(Invalid::Nonce), "{bad}");
        }
        // It is marked for as long as it could come back.
        let proof = verified(&sign(&with("iat", NOW + 60))).unwrap();
        assert_eq!(verified_at(&sign(&with("iat", NOW + 60)), proof.until.as_millis() / 1_000), Err(Invalid::Nonce));
    }

    #[test]
    fn t18_a_proof_is_for_its_access_token() {
        let client = client(signing::Algorithm::Es256);
        let token = Plaintext::new("at-1");
        let asked = Asked { method: "POST", address: ADDRESS, access_token: Some(&token), now: at(NOW) };
        let said = |claims: &Value| verify(&client.sign(&client.header(), claims), &asked, &secret()).map(drop);
        assert_eq!(said(&with("ath", URL_SAFE_NO_PAD.encode(token.digest().as_bytes()))), Ok(()));
        assert_eq!(said(&claims()), Err(Invalid::AccessToken));
        for other in [URL_SAFE_NO_PAD.encode(Digest::of(b"at-2").as_bytes()), String::new(), "at-1".to_owned()] {
            assert_eq!(said(&with("ath", other)), Err(Invalid::AccessToken));
        }
    }

    #[test]
    fn t18_what_is_no_proof_proves_nothing() {
        let client = client(signing::Algorithm::Es256);
        let rsa = self::client(signing::Algorithm::Rs256);
        let header = |member: &str, value: Value| {
            let mut header = client.header();
            header[member] = value;
            verified(&client.sign(&header, &claims())).map(drop)
        };
        let key = |member: &str, value: Value| {
            let mut jwk = client.jwk.clone();
            jwk[member] = value;
            header("jwk", jwk)
        };
        for (said, expected) in [
            (header("typ", json!("JWT")), Invalid::Type),
            (header("typ", json!("at+jwt")), Invalid::Type),
            (header("typ", json!(null)), Invalid::Header),
            (header("alg", json!("none")), Invalid::Algorithm),
            (header("alg", json!("HS256")), Invalid::Algorithm),
            (header("alg", json!("RS256")), Invalid::Algorithm),
            (header("alg", json!("ES384")), Invalid::Algorithm),
            (header("crit", json!(["exp"])), Invalid::Header),
            (header("b64", json!(false)), Invalid::Header),
            (header("jwk", json!(null)), Invalid::Header),
            (header("jwk", json!({})), Invalid::Algorithm),
            (header("jwk", rsa.jwk.clone()), Invalid::Algorithm),
            (header("jwk", json!({ "kty": "oct", "k": "AAAA" })), Invalid::PrivateKey),
            (header("jwk", self::client(signing::Algorithm::Es256).jwk), Invalid::Signature),
            (key("d", json!("AAAA")), Invalid::PrivateKey),
            (key("crv", json!("P-384")), Invalid::Algorithm),
            (key("x", json!("AAAA")), Invalid::Signature),
        ] {
            assert_eq!(said, Err(expected));
        }
        let proof = client.sign(&client.header(), &claims());
        for (bad, expected) in [
            (String::new(), Invalid::Malformed),
            ("a.b".to_owned(), Invalid::Malformed),
            (format!("{proof}.x"), Invalid::Signature),
            ("x".repeat(MAX_BYTES + 1), Invalid::TooLarge),
            (proof[..proof.len() - 4].to_owned(), Invalid::Signature),
        ] {
            assert_eq!(verified(&bad).map(drop), Err(expected), "{bad}");
        }
        for member in ["jti", "htm", "htu", "iat"] {
            let mut claims = claims();
            claims.as_object_mut().unwrap().remove(member);
            assert_eq!(verified(&client.sign(&client.header(), &claims)), Err(Invalid::Claims), "{member}");
        }
        for (member, value) in
            [("jti", json!("")), ("jti", json!("x".repeat(257))), ("iat", json!("1")), ("iat", json!(-1))]
        {
            let said = verified(&client.sign(&client.header(), &with(member, value.clone())));
            assert_eq!(said, Err(Invalid::Claims), "{member} {value}");
        }
    }
}
