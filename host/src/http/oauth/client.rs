//! From a request of a client to what it says of itself, and its parameters.

use axum::extract::Request;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, USER_AGENT};
use http::{HeaderMap, HeaderValue, request};
use std::sync::Arc;
use std::time::Duration;

use super::super::body::{check_encoding, read_limited};
use super::super::serve::Peer;
use super::OAuth;
use super::error::OAuthError;
use super::parameters::{MAX_BYTES, Parameters, is_form};
use crate::authorization::proofs::Place;
use crate::authorization::token::From;
use crate::authorization::token::authenticate::{Presented, authenticate};
use crate::oauth::client::KnownClient;
use crate::secret::{Digest, Plaintext};

/// Longest time that a body may take.
const BODY_TIME: Duration = Duration::from_secs(10);

/// A request of a client that has shown who it is.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) client: Arc<KnownClient>,
    /// Without those by which it has shown it.
    pub(super) parameters: Parameters,
    pub(super) from: From,
    head: request::Parts,
}

impl Asked {
    /// The thumbprint of the key that the request proves, if it proves one (RFC 9449 §5). Asked once: the proof is used up.
    pub(super) async fn proof(&self, oauth: &OAuth) -> Result<Option<Digest>, OAuthError> {
        let request::Parts { method, uri, headers, .. } = &self.head;
        let place = Place { method: method.as_str(), issuer: &oauth.server.issuer, path: uri.path() };
        let now = oauth.server.env.now();
        let proven = oauth.server.proofs().of_client(headers, place, now).await?;
        proven.map_err(|reason| {
            let nonce = reason.wants_nonce().then(|| oauth.server.proofs().nonce(now));
            OAuthError::NotProven { reason, nonce }
        })
    }
}

/// Reads a form, and asks who sends it.
pub(super) async fn read(oauth: &OAuth, request: Request) -> Result<Asked, OAuthError> {
    let (parts, body) = request.into_parts();
    let address = parts.extensions.get::<Peer>().and_then(|peer| peer.ip());
    oauth.server.doors.tokens.count(address).map_err(|wait| OAuthError::TooOften { wait })?;
    check_encoding(&parts.headers).map_err(|_| OAuthError::Encoded)?;
    if !is_form(&parts.headers) {
        return Err(OAuthError::NotAForm);
    }
    let body = read_limited(body, MAX_BYTES, BODY_TIME, None).await.map_err(OAuthError::Body)?;
    let mut parameters = Parameters::from_form(&body)?;
    let presented = presented(&parts.headers, &mut parameters)?;
    let client = authenticate(&oauth.server, presented).await??;
    let user_agent = parts.headers.get(USER_AGENT).and_then(|agent| agent.to_str().ok()).map(str::to_owned);
    Ok(Asked { client, parameters, from: From { address, user_agent }, head: parts })
}

/// What a client presents of itself, in one way (RFC 6749 §2.3).
fn presented(headers: &HeaderMap, parameters: &mut Parameters) -> Result<Presented, OAuthError> {
    let mut authorizations = headers.get_all(AUTHORIZATION).iter();
    let authorization = match (authorizations.next(), authorizations.next()) {
        (_, Some(_)) => return Err(OAuthError::TwoMethods),
        (authorization, None) => authorization,
    };
    let client = parameters.take("client_id");
    let secret = parameters.take_secret("client_secret");
    let assertion = (parameters.take("client_assertion_type"), parameters.take_secret("client_assertion"));
    let has_assertion = assertion.0.is_some() || assertion.1.is_some();
    if [authorization.is_some(), secret.is_some(), has_assertion].into_iter().filter(|method| *method).count() > 1 {
        return Err(OAuthError::TwoMethods);
    }
    match (authorization, secret, assertion) {
        (Some(header), ..) => match basic(header) {
            None => Ok(Presented::BadHeader),
            Some((name, _)) if client.is_some_and(|client| client != name) => Err(OAuthError::TwoMethods),
            Some((client, secret)) => Ok(Presented::Basic { client, secret }),
        },
        (None, Some(secret), _) => {
            let client = client.ok_or(OAuthError::Missing("client_id"))?;
            Ok(Presented::Post { client, secret })
        }
        (None, None, (Some(kind), Some(assertion))) => Ok(Presented::Assertion { client, kind, assertion }),
        (None, None, (Some(_), None)) => Err(OAuthError::Missing("client_assertion")),
        (None, None, (None, Some(_))) => Err(OAuthError::Missing("client_assertion_type")),
        (None, None, (None, None)) => Ok(client.map_or(Presented::Nothing, |client| Presented::Name { client })),
    }
}

/// Name and secret, which were form-encoded before they were joined (RFC 6749 §2.3.1).
fn basic(header: &HeaderValue) -> Option<(String, Plaintext)> {
    let (scheme, credentials) = header.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") || credentials.len() > MAX_BYTES {
        return None;
    }
    let decoded = STANDARD.decode(credentials.trim()).ok()?;
    let (name, secret) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
    let plain = |text: &str| {
        // Of a text without `&` and `=` this is its one name; what has those is no form-encoded text.
        let text = text.replace('=', "%3D").replace('&', "%26");
        form_urlencoded::parse(text.as_bytes()).next().map(|(text, _)| text.into_owned())
    };
    Some((plain(name)?, Plaintext::new(plain(secret).unwrap_or_default())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(authorization: &[&str], form: &str) -> Result<Presented, OAuthError> {
        let mut headers = HeaderMap::new();
        for value in authorization {
            headers.append(AUTHORIZATION, HeaderValue::from_str(value).unwrap());
        }
        presented(&headers, &mut Parameters::from_query(form).unwrap())
    }

    fn encoded(text: &str) -> String {
        format!("Basic {}", STANDARD.encode(text))
    }

    #[test]
    fn t3_a_client_presents_itself_in_one_way() {
        let basic = encoded("app:hunter2");
        assert!(matches!(of(&[], ""), Ok(Presented::Nothing)));
        assert!(matches!(of(&[], "client_id=app"), Ok(Presented::Name { client }) if client == "app"));
        assert!(matches!(of(&[&basic], ""), Ok(Presented::Basic { .. })));
        assert!(matches!(of(&[&basic], "client_id=app"), Ok(Presented::Basic { .. })));
        assert!(matches!(of(&[], "client_id=app&client_secret=x"), Ok(Presented::Post { .. })));
        assert!(matches!(
            of(&[], "client_assertion=x&client_assertion_type=y"),
            Ok(Presented::Assertion { client: None, .. })
        ));
        for (headers, form) in [
            (&[basic.as_str()][..], "client_id=other"),
            (&[&basic], "client_id=app&client_secret=hunter2"),
            (&[&basic], "client_assertion=x&client_assertion_type=y"),
            (&[&basic, &basic], ""),
            (&[], "client_id=app&client_secret=x&client_assertion=x&client_assertion_type=y"),
        ] {
            assert!(matches!(of(headers, form), Err(OAuthError::TwoMethods)), "{headers:?} {form}");
        }
        for form in ["client_secret=x", "client_assertion=x", "client_assertion_type=y"] {
            assert!(matches!(of(&[], form), Err(OAuthError::Missing(_))), "{form}");
        }
    }

    #[test]
    fn t3_basic_is_form_encoded_and_whatever_else_is_a_bad_header() {
        let decoded = |text: &str| match of(&[&encoded(text)], "") {
            Ok(Presented::Basic { client, secret }) => Some((client, secret.expose().to_owned())),
            Ok(Presented::BadHeader) => None,
            other => panic!("{other:?}"),
        };
        let pair = |client: &str, secret: &str| Some((client.to_owned(), secret.to_owned()));
        assert_eq!(decoded("app:hunter2"), pair("app", "hunter2"));
        assert_eq!(decoded("https%3A%2F%2Fapp.example%2Fclient:a%3Ab+c"), pair("https://app.example/client", "a:b c"));
        assert_eq!(decoded("app:a=b&c"), pair("app", "a=b&c"), "a secret that was not encoded");
        assert_eq!(decoded("app:"), pair("app", ""));
        assert_eq!(decoded("app"), None);
        for header in ["Bearer x", "Basic", "Basic !", "DPoP x", "Basic /w=="] {
            assert!(matches!(of(&[header], "client_id=app"), Ok(Presented::BadHeader)), "{header}");
        }
    }
}
