//! What a client signs to prove who it is, `private_key_jwt` (RFC 7523 §3, OpenID Connect Core §9).
//!
//! The audience is the issuer and nothing else: who takes the address of an endpoint there can be made to sign for another
//! server (`docs/threat-model.md` row T4). A key has one algorithm, whatever a header says, and no header brings or names a
//! key but by its `kid` among those that the client registered.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, crypto};
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::Value;

use crate::env::Timestamp;
use crate::ids::ClientId;
use crate::secret::Digest;

/// `client_assertion_type` (RFC 7523 §2.2).
pub const TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
/// Longest assertion that is looked at.
pub const MAX_BYTES: usize = 8 * 1024;
/// How far ahead its end may be (RFC 7523 §3 rule 4). MCP's TypeScript SDK signs for five minutes.
pub const MAX_LIFE: Duration = Duration::from_secs(10 * 60);
/// How far the client's clock may be from ours.
const CLOCK_SKEW: Duration = Duration::from_secs(5);
/// Longest `jti`, in bytes.
const MAX_JTI: usize = 256;
/// Sizes of an RSA modulus, in bytes: 2048 to 8192 bits.
const RSA_BYTES: std::ops::RangeInclusive<usize> = 256..=1024;
/// `typ`, where one is given: the general one, and the one that is meant for this alone.
const TYPES: Types = Types { names: &["jwt", "client-authentication+jwt"], is_required: false };

/// What `typ` may be, in lower case.
#[derive(Debug)]
pub struct Types {
    pub(super) names: &'static [&'static str],
    /// Whether there has to be one.
    pub(super) is_required: bool,
}

impl Types {
    fn permit(&self, typ: Option<&String>) -> bool {
        let Some(typ) = typ else { return !self.is_required };
        // RFC 7515 §4.1.9: `application/` may stand before it, and case does not matter.
        let typ = typ.to_ascii_lowercase();
        self.names.contains(&typ.strip_prefix("application/").unwrap_or(&typ))
    }
}

/// The public keys of a client, or of another issuer, those of them that can verify.
#[derive(Clone)]
pub struct ClientKeys(Vec<ClientKey>);

#[derive(Clone)]
struct ClientKey {
    id: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

/// There is no set of keys, or it has more than [`ClientKeys::MAX_COUNT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is no set of at most {} keys", ClientKeys::MAX_COUNT)]
pub struct NoKeys;

/// An assertion that was verified. It counts once: until then its `jti` has to be remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assertion {
    /// Of the client and the `jti` together.
    pub once: Digest,
    pub until: Timestamp,
}

/// Why an assertion proves nothing. For the log: whoever presents it is told only that.
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
    #[error("none of the client's keys is its key")]
    UnknownKey,
    #[error("its signature is wrong")]
    Signature,
    #[error("what it says cannot be read")]
    Claims,
    #[error("it is another client's")]
    Client,
    #[error("it is another issuer's")]
    Issuer,
    #[error("its audience is not the issuer alone")]
    Audience,
    #[error("it has expired, or its end is too far ahead")]
    Life,
    #[error("it is not valid yet")]
    NotYet,
}

/// What is read of a header. What could bring or name a key, or change what is signed, is refused.
#[derive(Deserialize)]
struct Header {
    alg: String,
    typ: Option<String>,
    kid: Option<String>,
    crit: Option<IgnoredAny>,
    b64: Option<IgnoredAny>,
    zip: Option<IgnoredAny>,
    jku: Option<IgnoredAny>,
    jwk: Option<IgnoredAny>,
    x5u: Option<IgnoredAny>,
    x5c: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: Audience,
    exp: f64,
    iat: Option<f64>,
    nbf: Option<f64>,
    jti: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Audience {
    One(String),
    List(Vec<String>),
}

impl Audience {
    /// The one that there is.
    pub(super) fn only(&self) -> Option<&String> {
        match self {
            Self::One(one) => Some(one),
            Self::List(list) => list.first().filter(|_| list.len() == 1),
        }
    }

    pub(super) fn into_list(self) -> Vec<String> {
        match self {
            Self::One(one) => vec![one],
            Self::List(list) => list,
        }
    }
}

impl ClientKeys {
    /// Most keys of one set.
    pub const MAX_COUNT: usize = 16;

    /// The keys of a set (RFC 7517 §5) that are for signatures of an algorithm that is accepted. The others are passed over,
    /// as §5 asks.
    ///
    /// # Errors
    /// It is no set, or one of too many keys.
    pub fn parse(json: &[u8]) -> Result<Self, NoKeys> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<Value>,
        }
        let Set { keys } = serde_json::from_slice(json).map_err(|_| NoKeys)?;
        if keys.len() > Self::MAX_COUNT {
            return Err(NoKeys);
        }
        Ok(Self(keys.iter().filter_map(ClientKey::read).collect()))
    }

    /// Whether there is none that can be used.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether one of them may be the key of this assertion: if not, the client may have got a new one.
    pub fn may_have_signed(&self, assertion: &str) -> bool {
        header(assertion).is_ok_and(|header| self.candidates(&header).next().is_some())
    }

    /// The claims of an assertion of one of these types that one of them has signed.
    ///
    /// # Errors
    /// The first reason why it is none.
    pub(super) fn verified(&self, assertion: &str, types: &Types) -> Result<Vec<u8>, Invalid> {
        let header = header(assertion)?;
        if !types.permit(header.typ.as_ref()) {
            return Err(Invalid::Type);
        }
        let (message, signature) = assertion.rsplit_once('.').ok_or(Invalid::Malformed)?;
        let (_, claims) = message.split_once('.').ok_or(Invalid::Malformed)?;
        let mut candidates = self.candidates(&header).peekable();
        if candidates.peek().is_none() {
            return Err(Invalid::UnknownKey);
        }
        let signed =
            |key: &ClientKey| crypto::verify(signature, message.as_bytes(), &key.key, key.algorithm).unwrap_or(false);
        if !candidates.any(signed) {
            return Err(Invalid::Signature);
        }
        decoded(claims)
    }

    fn candidates<'a>(&'a self, header: &'a Header) -> impl Iterator<Item = &'a ClientKey> {
        let is_meant = |key: &&ClientKey| match (&header.kid, &key.id) {
            (Some(wanted), Some(id)) => wanted == id,
            (Some(_), None) => false,
            (None, _) => true,
        };
        self.0.iter().filter(is_meant).filter(|key| name(key.algorithm) == Some(header.alg.as_str()))
    }
}

impl std::fmt::Debug for ClientKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|key| (&key.id, key.algorithm))).finish()
    }
}

impl ClientKey {
    fn read(key: &Value) -> Option<Self> {
        let text = |member: &str| key.get(member).and_then(Value::as_str);
        let is_for_signatures = key.get("use").is_none_or(|used| used == "sig")
            && key
                .get("key_ops")
                .is_none_or(|ops| ops.as_array().is_some_and(|ops| ops.iter().any(|op| op == "verify")));
        if !is_for_signatures {
            return None;
        }
        let (default, decoding) = match (text("kty")?, text("crv")) {
            ("RSA", _) => {
                let (n, e) = (text("n")?, text("e")?);
                let bytes = URL_SAFE_NO_PAD.decode(n).ok()?;
                RSA_BYTES.contains(&bytes.len()).then_some(())?;
                (Algorithm::RS256, DecodingKey::from_rsa_components(n, e).ok()?)
            }
            ("EC", Some("P-256")) => (Algorithm::ES256, DecodingKey::from_ec_components(text("x")?, text("y")?).ok()?),
            ("OKP", Some("Ed25519")) => (Algorithm::EdDSA, DecodingKey::from_ed_components(text("x")?).ok()?),
            _ => return None,
        };
        // One algorithm for a key: what it names itself, or the usual one.
        let algorithm = match (key.get("alg"), default) {
            (None, default) => default,
            (Some(alg), Algorithm::RS256) if alg == "PS256" => Algorithm::PS256,
            (Some(alg), default) if alg.as_str() == name(default) => default,
            _ => return None,
        };
        Some(Self { id: text("kid").map(str::to_owned), algorithm, key: decoding })
    }
}

/// Algorithms of clients' signatures, by the names of RFC 7518 and RFC 8037.
const fn name(algorithm: Algorithm) -> Option<&'static str> {
    match algorithm {
        Algorithm::ES256 => Some("ES256"),
        Algorithm::EdDSA => Some("EdDSA"),
        Algorithm::RS256 => Some("RS256"),
        Algorithm::PS256 => Some("PS256"),
        _ => None,
    }
}

fn decoded(part: &str) -> Result<Vec<u8>, Invalid> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| Invalid::Malformed)
}

fn header(assertion: &str) -> Result<Header, Invalid> {
    if assertion.len() > MAX_BYTES {
        return Err(Invalid::TooLarge);
    }
    let (header, _) = assertion.split_once('.').ok_or(Invalid::Malformed)?;
    let header: Header = serde_json::from_slice(&decoded(header)?).map_err(|_| Invalid::Header)?;
    let Header { alg: _, typ: _, kid: _, crit, b64, zip, jku, jwk, x5u, x5c } = &header;
    if [crit, b64, zip, jku, jwk, x5u, x5c].into_iter().any(Option::is_some) {
        return Err(Invalid::Header);
    }
    Ok(header)
}

/// Whose assertion this says to be. Nothing of it is verified: it says whose keys are to verify it.
pub fn claimed(assertion: &str) -> Option<ClientId> {
    #[derive(Deserialize)]
    struct Subject {
        sub: String,
    }
    let Subject { sub } = unverified(assertion)?;
    ClientId::parse(&sub)
}

/// What an assertion says, without any look at who says it.
pub(super) fn unverified<T: DeserializeOwned>(assertion: &str) -> Option<T> {
    if assertion.len() > MAX_BYTES {
        return None;
    }
    let claims = assertion.split('.').nth(1)?;
    serde_json::from_slice(&decoded(claims).ok()?).ok()
}

/// Verifies an assertion of this client, for this issuer.
///
/// # Errors
/// The first reason why it proves nothing.
pub fn verify(
    assertion: &str,
    keys: &ClientKeys,
    client: &ClientId,
    issuer: &str,
    now: Timestamp,
) -> Result<Assertion, Invalid> {
    let claims = keys.verified(assertion, &TYPES)?;
    let claims: Claims = serde_json::from_slice(&claims).map_err(|_| Invalid::Claims)?;
    read(&claims, client, issuer, now)
}

fn read(claims: &Claims, client: &ClientId, issuer: &str, now: Timestamp) -> Result<Assertion, Invalid> {
    let Claims { iss, sub, aud, exp, iat, nbf, jti } = claims;
    let require = |holds: bool, failure| if holds { Ok(()) } else { Err(failure) };
    require(iss == client.as_str() && sub == client.as_str(), Invalid::Client)?;
    require(aud.only().is_some_and(|audience| audience == issuer), Invalid::Audience)?;
    let expires = moment(*exp)?;
    require(now < expires.after(CLOCK_SKEW) && expires <= now.after(MAX_LIFE + CLOCK_SKEW), Invalid::Life)?;
    for begin in iat.iter().chain(nbf) {
        require(moment(*begin)? <= now.after(CLOCK_SKEW), Invalid::NotYet)?;
    }
    require((1..=MAX_JTI).contains(&jti.len()), Invalid::Claims)?;
    // No id of a client has the byte 0 in it.
    let once = Digest::of(&[client.as_str().as_bytes(), &[0], jti.as_bytes()].concat());
    Ok(Assertion { once, until: expires.after(CLOCK_SKEW) })
}

/// A date of RFC 7519 §2: seconds, which need not be whole.
pub(super) fn moment(seconds: f64) -> Result<Timestamp, Invalid> {
    const LATEST: f64 = 1e12;
    if !(0.0..=LATEST).contains(&seconds) {
        return Err(Invalid::Claims);
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is within the bounds above")]
    let millis = (seconds * 1_000.0) as u64;
    Ok(Timestamp::from_millis(millis))
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::EncodingKey;
    use serde_json::json;

    use super::super::signing;
    use super::super::signing_key::SigningSecret;
    use super::*;

    const ISSUER: &str = "https://gateway.example";

    struct Party {
        key: EncodingKey,
        algorithm: Algorithm,
        jwk: Value,
    }

    fn party(algorithm: Algorithm) -> Party {
        let kind = match algorithm {
            Algorithm::ES256 => signing::Algorithm::Es256,
            Algorithm::EdDSA => signing::Algorithm::EdDsa,
            _ => signing::Algorithm::Rs256,
        };
        let secret = SigningSecret::generate(kind).unwrap();
        let mut jwk: Value = serde_json::from_str(&secret.public().unwrap().1.to_json()).unwrap();
        jwk["kid"] = json!("k1");
        jwk["alg"] = json!(name(algorithm));
        Party { key: secret.encoding_key().unwrap(), algorithm, jwk }
    }

    fn keys(of: &[&Value]) -> ClientKeys {
        ClientKeys::parse(json!({ "keys": of }).to_string().as_bytes()).unwrap()
    }

    fn client() -> ClientId {
        ClientId::parse("app").unwrap()
    }

    fn now() -> Timestamp {
        Timestamp::from_millis(1_800_000_000_000)
    }

    fn claims() -> Value {
        json!({ "iss": "app", "sub": "app", "aud": ISSUER, "exp": 1_800_000_060, "iat": 1_800_000_000, "jti": "1" })
    }

    fn signed(party: &Party, header: &Value, claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(header), part(claims));
        let signature = crypto::sign(message.as_bytes(), &party.key, party.algorithm).unwrap();
        format!("{message}.{signature}")
    }

    fn verified(party: &Party, header: &Value, claims: &Value) -> Result<Assertion, Invalid> {
        verify(&signed(party, header, claims), &keys(&[&party.jwk]), &client(), ISSUER, now())
    }

    #[test]
    fn a_client_proves_itself_with_each_algorithm() {
        for algorithm in [Algorithm::ES256, Algorithm::EdDSA, Algorithm::RS256, Algorithm::PS256] {
            let party = party(algorithm);
            for header in [
                json!({ "alg": name(algorithm) }),
                json!({ "alg": name(algorithm), "kid": "k1", "typ": "JWT" }),
                json!({ "alg": name(algorithm), "kid": "k1", "typ": "client-authentication+jwt", "x5t": "x" }),
            ] {
                let assertion = verified(&party, &header, &claims()).unwrap();
                assert_eq!(assertion.until, Timestamp::from_millis(1_800_000_065_000), "{header}");
            }
            let list = json!({ "iss": "app", "sub": "app", "aud": [ISSUER], "exp": 1_800_000_059.5, "jti": "1" });
            assert!(verified(&party, &json!({ "alg": name(algorithm) }), &list).is_ok());
            assert_eq!(claimed(&signed(&party, &json!({}), &claims())), Some(client()));
        }
        assert_eq!(claimed("a.b"), None);
    }

    #[test]
    fn t4_an_assertion_for_anything_but_the_issuer_proves_nothing() {
        let party = party(Algorithm::ES256);
        let header = json!({ "alg": "ES256", "kid": "k1" });
        for audience in [
            json!("https://gateway.example/oauth2/token"),
            json!("https://gateway.example/"),
            json!("https://other.example"),
            json!([ISSUER, "https://other.example"]),
            json!([]),
            json!(["https://other.example"]),
        ] {
            let mut claims = claims();
            claims["aud"] = audience;
            assert_eq!(verified(&party, &header, &claims), Err(Invalid::Audience), "{claims}");
        }
    }

    #[test]
    fn t4_an_assertion_lives_ten_minutes_and_is_told_by_its_jti() {
        let party = party(Algorithm::ES256);
        let header = json!({ "alg": "ES256", "kid": "k1" });
        let with = |member: &str, value: Value| {
            let mut claims = claims();
            claims[member] = value;
            verified(&party, &header, &claims)
        };
        for (member, value, expected) in [
            ("exp", json!(1_800_000_606), Invalid::Life),
            ("exp", json!(1_799_999_995), Invalid::Life),
            ("exp", json!(-1), Invalid::Claims),
            ("exp", json!("1800000060"), Invalid::Claims),
            ("exp", json!(1e300), Invalid::Claims),
            ("iat", json!(1_800_000_006), Invalid::NotYet),
            ("nbf", json!(1_800_000_006), Invalid::NotYet),
            ("iss", json!("other"), Invalid::Client),
            ("sub", json!("other"), Invalid::Client),
            ("jti", json!(""), Invalid::Claims),
            ("jti", json!("x".repeat(257)), Invalid::Claims),
            ("jti", json!(1), Invalid::Claims),
        ] {
            assert_eq!(with(member, value.clone()), Err(expected), "{member} {value}");
        }
        // What the common SDKs sign for, and the longest.
        for (exp, until) in [(1_800_000_300_u64, 1_800_000_305_000), (1_800_000_600, 1_800_000_605_000)] {
            let assertion = with("exp", json!(exp)).unwrap();
            assert_eq!(assertion.until, Timestamp::from_millis(until), "its jti is known for as long");
        }
        for member in ["iss", "sub", "aud", "exp", "jti"] {
            let mut claims = claims();
            claims.as_object_mut().unwrap().remove(member);
            assert_eq!(verified(&party, &header, &claims), Err(Invalid::Claims), "{member}");
        }
        assert_eq!(with("jti", json!("1")), with("jti", json!("1")));
        assert_ne!(with("jti", json!("1")).unwrap().once, with("jti", json!("2")).unwrap().once);
    }

    #[test]
    fn t5_a_header_that_brings_a_key_or_another_algorithm_is_refused() {
        let party = party(Algorithm::RS256);
        let ours = json!({ "alg": "RS256", "kid": "k1" });
        let with = |member: &str, value: Value| {
            let mut header = ours.clone();
            header[member] = value;
            verified(&party, &header, &claims())
        };
        assert!(with("kid", json!("k1")).is_ok());
        for (member, value, expected) in [
            ("alg", json!("none"), Invalid::UnknownKey),
            ("alg", json!("HS256"), Invalid::UnknownKey),
            ("alg", json!("PS256"), Invalid::UnknownKey),
            ("alg", json!("RS512"), Invalid::UnknownKey),
            ("kid", json!("../k1"), Invalid::UnknownKey),
            ("typ", json!("at+jwt"), Invalid::Type),
            ("typ", json!("dpop+jwt"), Invalid::Type),
            ("typ", json!("oauth-id-jag+jwt"), Invalid::Type),
            ("crit", json!(["exp"]), Invalid::Header),
            ("b64", json!(false), Invalid::Header),
            ("zip", json!("DEF"), Invalid::Header),
            ("jwk", json!({ "kty": "RSA" }), Invalid::Header),
            ("jku", json!("https://evil.example"), Invalid::Header),
            ("x5u", json!("https://evil.example"), Invalid::Header),
            ("x5c", json!([]), Invalid::Header),
        ] {
            assert_eq!(with(member, value.clone()), Err(expected), "{member} {value}");
        }
        // The public key as the secret of a MAC.
        let message = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(json!({ "alg": "HS256", "kid": "k1" }).to_string()),
            URL_SAFE_NO_PAD.encode(claims().to_string())
        );
        let mac = EncodingKey::from_secret(party.jwk.to_string().as_bytes());
        let forged = format!("{message}.{}", crypto::sign(message.as_bytes(), &mac, Algorithm::HS256).unwrap());
        let refused = verify(&forged, &keys(&[&party.jwk]), &client(), ISSUER, now());
        assert_eq!(refused, Err(Invalid::UnknownKey));
        let large = format!("{}.{}", signed(&party, &ours, &claims()), "A".repeat(MAX_BYTES));
        assert_eq!(verify(&large, &keys(&[&party.jwk]), &client(), ISSUER, now()), Err(Invalid::TooLarge));
    }

    #[test]
    fn a_signature_of_another_key_or_over_another_text_is_refused() {
        let (one, other) = (party(Algorithm::ES256), party(Algorithm::ES256));
        let header = json!({ "alg": "ES256", "kid": "k1" });
        let sent = signed(&one, &header, &claims());
        assert_eq!(verify(&sent, &keys(&[&other.jwk]), &client(), ISSUER, now()), Err(Invalid::Signature));
        assert!(verify(&sent, &keys(&[&other.jwk, &one.jwk]), &client(), ISSUER, now()).is_ok());
        for position in 0..sent.len() {
            let mut changed = sent.clone().into_bytes();
            changed[position] = if changed[position] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            assert!(verify(&changed, &keys(&[&one.jwk]), &client(), ISSUER, now()).is_err(), "{position}");
        }
    }

    #[test]
    fn only_keys_that_can_verify_are_taken() {
        let party = party(Algorithm::RS256);
        let header = json!({ "alg": "RS256" });
        let sent = signed(&party, &header, &claims());
        let with = |member: &str, value: Value| {
            let mut jwk = party.jwk.clone();
            jwk[member] = value;
            keys(&[&jwk]).may_have_signed(&sent)
        };
        assert!(with("use", json!("sig")) && with("key_ops", json!(["verify"])));
        assert!(!with("use", json!("enc")) && !with("key_ops", json!(["encrypt"])) && !with("alg", json!("RS512")));
        assert!(!with("n", json!(URL_SAFE_NO_PAD.encode([0xff; 128]))), "RSA of 1024 bits");
        assert!(!with("kty", json!("oct")));
        let mut silent = party.jwk.clone();
        silent.as_object_mut().unwrap().remove("alg");
        assert!(keys(&[&silent]).may_have_signed(&sent), "a key that names none has the usual algorithm");
        assert!(ClientKeys::parse(b"[]").is_err() && ClientKeys::parse(b"{}").is_err());
        let many: Vec<&Value> = vec![&party.jwk; 17];
        assert!(ClientKeys::parse(json!({ "keys": many }).to_string().as_bytes()).is_err());
    }
}
