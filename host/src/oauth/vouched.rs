//! What the gateway says of a person to another authorization server: a statement of a minute, signed with the keys that
//! sign access tokens, and none of those (RFC 7519, RFC 8693 §2.1, RFC 8725 §3.11 and §3.12).
//!
//! Pure. It is of another type, for another audience and without anything that an access token has to say: at our own `/mcp` it
//! opens nothing.

use std::time::Duration;

use serde::Serialize;

use super::token::{Signer, Unsigned};
use crate::env::Timestamp;
use crate::ids::TokenId;

/// How long it counts.
pub const LIFE: Duration = Duration::from_secs(60);
/// `typ`
const TYPE: &str = "JWT";

/// Who somebody is, as the gateway knows them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assertion {
    /// `jti`
    pub id: TokenId,
    /// `sub`
    pub subject: String,
    /// `aud`: the issuer of the authorization server that it is for, and no other.
    pub audience: String,
    /// `client_id`: what we are there.
    pub client: String,
    pub about: About,
    pub issued: Timestamp,
}

/// What is said besides, where the operator wants that (OpenID Connect Core §5.1).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct About {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preferred_username: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub groups: Option<Vec<String>>,
    /// The provider that knows the person by `sub`, if that is what `sub` is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity_provider: Option<String>,
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    sub: &'a str,
    aud: &'a str,
    exp: u64,
    iat: u64,
    jti: &'a str,
    client_id: &'a str,
    #[serde(flatten)]
    about: &'a About,
}

impl Signer {
    /// The statement, as it is sent.
    ///
    /// # Errors
    /// [`Unsigned`]
    pub fn vouch(&self, issuer: &str, assertion: &Assertion) -> Result<String, Unsigned> {
        let Assertion { id, subject, audience, client, about, issued } = assertion;
        let claims = Claims {
            iss: issuer,
            sub: subject,
            aud: audience,
            exp: issued.after(LIFE).as_millis() / 1_000,
            iat: issued.as_millis() / 1_000,
            jti: id.as_str(),
            client_id: client,
            about,
        };
        self.sign_as(TYPE, &claims)
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde_json::{Value, json};

    use super::*;
    use crate::env::Env;
    use crate::oauth::signing::Algorithm;
    use crate::oauth::signing_key::SigningSecret;
    use crate::oauth::token::{Invalid, Verifier};

    const ISSUER: &str = "https://gateway.example";

    #[test]
    fn t5_what_the_gateway_vouches_for_is_a_statement_of_a_minute_and_no_access_token() {
        for algorithm in [Algorithm::EdDsa, Algorithm::Es256] {
            let secret = SigningSecret::generate(algorithm).unwrap();
            let (id, public) = secret.public().unwrap();
            let signer = Signer::new(&id, &secret).unwrap();
            let issued = Timestamp::from_millis(1_790_000_000_500);
            let about = About { groups: Some(vec!["staff".to_owned()]), ..About::default() };
            let assertion = Assertion {
                id: TokenId::generate(&Env::system()),
                subject: "ada".to_owned(),
                audience: "https://id.example".to_owned(),
                client: "gateway".to_owned(),
                about,
                issued,
            };
            let signed = signer.vouch(ISSUER, &assertion).unwrap();
            let part = |number| -> Value {
                let part = signed.split('.').nth(number).unwrap();
                serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
            };
            assert_eq!((&part(0)["typ"], &part(0)["kid"]), (&json!("JWT"), &json!(id)));
            let expected = json!({
                "iss": ISSUER, "sub": "ada", "aud": "https://id.example", "iat": 1_790_000_000,
                "exp": 1_790_000_060, "jti": assertion.id.as_str(), "client_id": "gateway", "groups": ["staff"],
            });
            assert_eq!(part(1), expected);
            // The signature is ours and right: the type alone keeps it out, and nothing else would be missing first.
            let verifier = Verifier::new(ISSUER, [(id.as_str(), &public)]).unwrap();
            assert_eq!(verifier.verify(&signed, issued, 0).map(|_| ()), Err(Invalid::Type));
        }
    }
}
