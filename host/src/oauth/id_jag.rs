//! Identity assertions: what an identity provider says of a person to another authorization server, so that a client of both
//! acts for that person there (Identity Assertion JWT Authorization Grant, "ID-JAG"; MCP's enterprise-managed authorization).
//!
//! It is a grant and no sign-in: only its own type counts, so that no ID token and no access token of the same provider is
//! taken for one (`docs/threat-model.md` row T17). Everything that it is about is in it: whom it is for, which client may use
//! it, which resources and scopes it is good for. It counts once. Pure: keys and marks are somebody else's.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::ResourceList;
use super::assertion::{self, Audience, ClientKeys, Invalid, Types, moment};
use crate::env::Timestamp;
use crate::identity::TokenList;
use crate::identity::user::{Email, ExternalIdentity};
use crate::ids::ClientId;
use crate::secret::Digest;

/// `typ`, without which an assertion is none.
pub const TYPES: Types = Types { names: &["oauth-id-jag+jwt"], is_required: true };
/// How far ahead its end may be.
pub const MAX_LIFE: Duration = Duration::from_secs(60 * 60);
/// How far the issuer's clock may be from ours.
const CLOCK_SKEW: Duration = Duration::from_secs(60);
/// Longest `jti`, in bytes.
const MAX_JTI: usize = 256;

/// What an assertion says, once it was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityAssertion {
    pub identity: ExternalIdentity,
    /// Only one that the issuer has verified.
    pub email: Option<Email>,
    /// The resources that it is good for; none: it does not say.
    pub resources: ResourceList,
    /// The scopes that it is good for; `None`: it does not say.
    pub scopes: Option<TokenList>,
    /// Of the issuer and the `jti` together. It has to be remembered until then.
    pub once: Digest,
    pub until: Timestamp,
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: Audience,
    client_id: String,
    jti: String,
    exp: f64,
    iat: f64,
    nbf: Option<f64>,
    resource: Option<Audience>,
    scope: Option<String>,
    email: Option<Value>,
    email_verified: Option<Value>,
}

/// Whose assertion this says to be. Nothing of it is verified: it says whose keys are to verify it.
pub fn claimed(assertion: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Issuer {
        iss: String,
    }
    let Issuer { iss } = assertion::unverified(assertion)?;
    Some(iss)
}

/// Verifies an assertion of this issuer, for this client at this authorization server.
///
/// # Errors
/// The first reason why it proves nothing.
pub fn verify(
    assertion: &str,
    keys: &ClientKeys,
    issuer: &str,
    (client, audience): (&ClientId, &str),
    now: Timestamp,
) -> Result<IdentityAssertion, Invalid> {
    let claims = keys.verified(assertion, &TYPES)?;
    let claims: Claims = serde_json::from_slice(&claims).map_err(|_| Invalid::Claims)?;
    let require = |holds: bool, failure| if holds { Ok(()) } else { Err(failure) };
    require(claims.iss == issuer, Invalid::Issuer)?;
    require(claims.aud.only().is_some_and(|only| only == audience), Invalid::Audience)?;
    require(claims.client_id == client.as_str(), Invalid::Client)?;
    let expires = moment(claims.exp)?;
    require(now < expires.after(CLOCK_SKEW) && expires <= now.after(MAX_LIFE + CLOCK_SKEW), Invalid::Life)?;
    for begin in [Some(claims.iat), claims.nbf].into_iter().flatten() {
        require(moment(begin)? <= now.after(CLOCK_SKEW), Invalid::NotYet)?;
    }
    require((1..=MAX_JTI).contains(&claims.jti.len()), Invalid::Claims)?;
    let resources = claims.resource.map(Audience::into_list).unwrap_or_default();
    let scopes =
        claims.scope.map(|scope| scope.split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect());
    let is_verified = claims.email_verified == Some(Value::Bool(true));
    let email = claims.email.as_ref().and_then(Value::as_str).filter(|_| is_verified);
    // Neither an issuer nor the word before it has the byte 0 in it.
    let once = [b"id-jag".as_slice(), issuer.as_bytes(), claims.jti.as_bytes()].join(&0);
    Ok(IdentityAssertion {
        identity: ExternalIdentity::parse(issuer, &claims.sub).ok_or(Invalid::Claims)?,
        email: email.and_then(Email::parse),
        resources: ResourceList::parse(resources).ok_or(Invalid::Claims)?,
        scopes: scopes.map(TokenList::parse).transpose().map_err(|_| Invalid::Claims)?,
        once: Digest::of(&once),
        until: expires.after(CLOCK_SKEW),
    })
}

/// Issuers that sign for somebody.
#[cfg(test)]
pub(crate) mod testing {
    use serde_json::json;

    use super::super::dpop::testing::{Client, client};
    use super::super::signing::Algorithm;
    use super::*;

    pub(crate) struct Issuer(pub(crate) Client);

    impl Issuer {
        pub(crate) fn new() -> Self {
            let mut party = client(Algorithm::Es256);
            party.jwk["kid"] = json!("k1");
            Self(party)
        }

        pub(crate) fn keys(&self) -> Value {
            json!({ "keys": [self.0.jwk] })
        }

        /// An assertion with these claims.
        pub(crate) fn sign(&self, claims: &Value) -> String {
            self.0.sign(&json!({ "typ": "oauth-id-jag+jwt", "alg": "ES256", "kid": "k1" }), claims)
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::testing::Issuer;
    use super::*;

    const ISSUER: &str = "https://id.example";
    const AUDIENCE: &str = "https://gateway.example";

    fn now() -> Timestamp {
        Timestamp::from_millis(1_800_000_000_000)
    }

    fn claims() -> Value {
        json!({
            "iss": ISSUER, "sub": "u-1", "aud": AUDIENCE, "client_id": "app", "jti": "1", "iat": 1_800_000_000,
            "exp": 1_800_000_300, "resource": "https://gateway.example/mcp", "scope": "mcp notes:write",
            "email": "ada@corp.example", "email_verified": true,
        })
    }

    fn read(issuer: &Issuer, assertion: &str) -> Result<IdentityAssertion, Invalid> {
        let keys = ClientKeys::parse(issuer.keys().to_string().as_bytes()).unwrap();
        let client = ClientId::parse("app").unwrap();
        verify(assertion, &keys, ISSUER, (&client, AUDIENCE), now())
    }

    #[test]
    fn t17_an_assertion_says_who_it_is_about_and_what_it_is_good_for() {
        let issuer = Issuer::new();
        let sent = issuer.sign(&claims());
        assert_eq!(claimed(&sent).as_deref(), Some(ISSUER));
        let read_ = |claims: &Value| read(&issuer, &issuer.sign(claims)).unwrap();
        let said = read_(&claims());
        assert_eq!((said.identity.issuer(), said.identity.subject()), (ISSUER, "u-1"));
        assert_eq!(said.email.as_ref().map(Email::as_str), Some("ada@corp.example"));
        assert_eq!(said.resources.to_vec(), ["https://gateway.example/mcp"]);
        assert_eq!(said.scopes.as_deref(), Some(&["mcp".to_owned(), "notes:write".to_owned()][..]));
        assert_eq!(said.until, Timestamp::from_millis(1_800_000_360_000));
        let mut other = claims();
        other["jti"] = json!("2");
        assert_ne!(read_(&other).once, said.once);
        for unverified in [json!(false), json!("true"), json!(null)] {
            let mut claims = claims();
            claims["email_verified"] = unverified;
            assert_eq!(read_(&claims).email, None);
        }
        let mut silent = claims();
        for member in ["resource", "scope", "email"] {
            silent.as_object_mut().unwrap().remove(member);
        }
        let silent = read_(&silent);
        assert!(silent.resources.is_empty() && silent.scopes.is_none() && silent.email.is_none());
    }

    #[test]
    fn t17_what_is_for_others_or_too_old_or_of_another_type_is_none() {
        let issuer = Issuer::new();
        for (member, value, expected) in [
            ("iss", json!("https://id.example/"), Invalid::Issuer),
            ("aud", json!("https://gateway.example/oauth2/token"), Invalid::Audience),
            ("aud", json!("https://gateway.example/"), Invalid::Audience),
            ("aud", json!([AUDIENCE, "https://other.example"]), Invalid::Audience),
            ("client_id", json!("other"), Invalid::Client),
            ("exp", json!(1_799_999_940), Invalid::Life),
            ("exp", json!(1_800_003_661), Invalid::Life),
            ("exp", json!("1800000300"), Invalid::Claims),
            ("iat", json!(1_800_000_061), Invalid::NotYet),
            ("nbf", json!(1_800_000_061), Invalid::NotYet),
            ("jti", json!(""), Invalid::Claims),
            ("jti", json!("x".repeat(257)), Invalid::Claims),
            ("sub", json!(""), Invalid::Claims),
            ("scope", json!("mcp mcp"), Invalid::Claims),
            ("scope", json!(["mcp"]), Invalid::Claims),
            ("resource", json!(1), Invalid::Claims),
        ] {
            let mut claims = claims();
            claims[member] = value.clone();
            assert_eq!(read(&issuer, &issuer.sign(&claims)), Err(expected), "{member} {value}");
        }
        for member in ["iss", "sub", "aud", "client_id", "jti", "exp", "iat"] {
            let mut claims = claims();
            claims.as_object_mut().unwrap().remove(member);
            assert_eq!(read(&issuer, &issuer.sign(&claims)), Err(Invalid::Claims), "{member}");
        }
        for (header, expected) in [
            (json!({ "alg": "ES256", "kid": "k1" }), Invalid::Type),
            (json!({ "alg": "ES256", "kid": "k1", "typ": "JWT" }), Invalid::Type),
            (json!({ "alg": "ES256", "kid": "k1", "typ": "at+jwt" }), Invalid::Type),
            (json!({ "alg": "ES256", "kid": "k1", "typ": "client-authentication+jwt" }), Invalid::Type),
            (json!({ "alg": "none", "kid": "k1", "typ": "oauth-id-jag+jwt" }), Invalid::UnknownKey),
            (json!({ "alg": "ES256", "kid": "k2", "typ": "oauth-id-jag+jwt" }), Invalid::UnknownKey),
            (json!({ "alg": "ES256", "kid": "k1", "typ": "oauth-id-jag+jwt", "jwk": {} }), Invalid::Header),
        ] {
            assert_eq!(read(&issuer, &issuer.0.sign(&header, &claims())), Err(expected), "{header}");
        }
        assert_eq!(read(&Issuer::new(), &issuer.sign(&claims())), Err(Invalid::Signature));
        assert_eq!(claimed("a.b.c"), None);
    }
}
