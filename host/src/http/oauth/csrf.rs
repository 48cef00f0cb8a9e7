//! Whether a form that arrives is one of ours, sent by the person who was shown it (`docs/threat-model.md` rows A10 and A14).
//!
//! Three checks, each of which would do on its own on a good day: the browser says that a page of ours sent it
//! (`Origin`, and `Sec-Fetch-Site` where it is sent); the form has a token that only we make, for this browser, this form
//! and this thing; and no token is good twice. A form is read once, bounded, and a field comes once.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::extract::Request;
use http::HeaderMap;
use http::header::{CONTENT_TYPE, ORIGIN};

use crate::env::{Env, Timestamp};
use crate::http::body::{BodyError, check_encoding, read_limited};
use crate::secret::{DeploymentSecret, Digest, Plaintext};
use crate::store::marks::{self, Mark};
use crate::store::{Store, StoreError};

/// How long a page may lie open before its form is sent.
pub const FORM_LIFE: Duration = Duration::from_secs(60 * 60);
/// Field of a form that has its token.
pub const FIELD: &str = "form_token";
/// Largest form, in bytes.
const MAX_FORM: usize = 16 * 1024;
/// Largest form of somebody who is signed in as an operator: what they write down may be a whole definition.
const MAX_LARGE_FORM: usize = 512 * 1024;
const FORM_TIMEOUT: Duration = Duration::from_secs(10);

/// Which form, about what, in whose browser.
#[derive(Clone, Copy, Debug)]
pub struct Form<'a> {
    pub purpose: &'static str,
    /// What it is about, such as an authorization request. Empty where it is about nothing but the browser.
    pub subject: &'a str,
    /// Digest of the cookie that the browser was sent.
    pub cookie: Digest,
}

/// What a form's token is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checked {
    Fresh,
    /// The form was sent before.
    Used,
    /// It is none of ours, for another form or browser, or too old.
    Refused,
}

/// Why a form was not taken.
#[derive(Debug, thiserror::Error)]
pub enum NotOurs {
    #[error("the form was not sent by a page of this gateway")]
    Foreign,
    #[error("the form is not application/x-www-form-urlencoded")]
    Unsupported,
    #[error("the field {0:?} comes more than once")]
    Repeated(String),
    #[error(transparent)]
    Body(#[from] BodyError),
}

/// The fields of a form that one of our pages sent.
#[derive(Default)]
pub struct Fields(BTreeMap<String, String>);

impl Fields {
    /// The value of a field, which is empty where there is none.
    pub fn take(&mut self, name: &str) -> String {
        self.0.remove(name).unwrap_or_default()
    }

    /// What stands behind `start` in the names of the fields that begin with it and are filled in.
    pub fn starting_with(&self, start: &str) -> Vec<String> {
        let filled = self.0.iter().filter(|(_, value)| !value.is_empty());
        filled.filter_map(|(name, _)| name.strip_prefix(start).map(ToOwned::to_owned)).collect()
    }

    /// The value of a field that nobody else is to read.
    pub fn take_secret(&mut self, name: &str) -> Plaintext {
        Plaintext::new(self.take(name))
    }
}

/// Purpose of the sealed text that a token is.
const TOKEN: &str = "portcullis form token 1";

/// A token for one sending of a form.
pub fn form_token(env: &Env, secret: &DeploymentSecret, form: &Form<'_>) -> String {
    secret.seal(TOKEN, &form.binding(), &env.now().after(FORM_LIFE).as_millis().to_be_bytes())
}

/// Whether this is a token for this form, and its first sending: from here on it is sent.
pub async fn check_form(
    (env, secret, store): (&Env, &DeploymentSecret, &Store),
    form: &Form<'_>,
    token: &str,
) -> Result<Checked, StoreError> {
    let Some(until) = valid_until(env, secret, form, token) else { return Ok(Checked::Refused) };
    let digest = Digest::of(token.as_bytes());
    Ok(match marks::consume_once(store, marks::Kind::Csrf, digest, until).await? {
        Mark::First => Checked::Fresh,
        Mark::Seen => Checked::Used,
    })
}

/// Whether this is a token for this form that is not too old, sent for the first time or again: for what pages ask without a
/// form, as often as they like.
pub fn is_token(env: &Env, secret: &DeploymentSecret, form: &Form<'_>, token: &str) -> bool {
    valid_until(env, secret, form, token).is_some()
}

/// Until when a token is good that is good now.
fn valid_until(env: &Env, secret: &DeploymentSecret, form: &Form<'_>, token: &str) -> Option<Timestamp> {
    let until = secret.unseal(TOKEN, &form.binding(), token).and_then(|until| until.try_into().ok());
    until.map(|until| Timestamp::from_millis(u64::from_be_bytes(until))).filter(|until| env.now() < *until)
}

impl Form<'_> {
    /// What a token is bound to.
    fn binding(&self) -> Vec<u8> {
        let mut binding = Vec::new();
        for part in [self.purpose.as_bytes(), self.subject.as_bytes(), self.cookie.as_bytes()] {
            binding.extend_from_slice(&(part.len() as u64).to_be_bytes());
            binding.extend_from_slice(part);
        }
        binding
    }
}

/// Whether a browser says that a page of `origin` sent this: our origin to the letter, port included. Where it tells
/// about the site as well, that has to agree (Fetch Metadata §2.1).
pub fn is_ours(headers: &HeaderMap, origin: &str) -> bool {
    let only = |name: &str| {
        let mut values = headers.get_all(name).iter();
        (values.next(), values.next().is_some())
    };
    let says_so = matches!(only(ORIGIN.as_str()), (Some(value), false) if value == origin);
    let may_be = match only("sec-fetch-site") {
        (None, _) => true,
        (Some(value), again) => value == "same-origin" && !again,
    };
    says_so && may_be
}

/// Whether a browser says nothing against a page of `origin`, or its person, having asked for this: for what changes nothing.
pub fn is_not_foreign(headers: &HeaderMap, origin: &str) -> bool {
    let all = |name: &str, allowed: &[&str]| {
        headers.get_all(name).iter().all(|value| allowed.iter().any(|allowed| value == allowed))
    };
    all(ORIGIN.as_str(), &[origin]) && all("sec-fetch-site", &["same-origin", "none"])
}

/// Reads a form that a page of `origin` sent.
///
/// # Errors
/// [`NotOurs`].
pub async fn read_form(request: Request, origin: &str) -> Result<Fields, NotOurs> {
    read(request, origin, MAX_FORM).await
}

/// The same of a form that may be large.
///
/// # Errors
/// [`NotOurs`].
pub async fn read_large_form(request: Request, origin: &str) -> Result<Fields, NotOurs> {
    read(request, origin, MAX_LARGE_FORM).await
}

async fn read(request: Request, origin: &str, most: usize) -> Result<Fields, NotOurs> {
    let (parts, body) = request.into_parts();
    if !is_ours(&parts.headers, origin) {
        return Err(NotOurs::Foreign);
    }
    if !is_form(&parts.headers) || check_encoding(&parts.headers).is_err() {
        return Err(NotOurs::Unsupported);
    }
    let body = read_limited(body, most, FORM_TIMEOUT, None).await?;
    let mut fields = BTreeMap::new();
    for (name, value) in form_urlencoded::parse(&body) {
        if let Some(name) = fields.insert(name.to_string(), value.into_owned()).map(|_| name.into_owned()) {
            return Err(NotOurs::Repeated(name));
        }
    }
    Ok(Fields(fields))
}

/// Whether the fields of a form are sent as [`read_form`] reads them.
pub fn is_form(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(CONTENT_TYPE).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return false };
    let essence = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/x-www-form-urlencoded")
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use http::HeaderValue;
    use http::header::HeaderName;

    use super::*;
    use crate::admin::testing::shared;

    const OURS: &str = "https://mcp.example.com:8443";

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let line = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
        };
        lines.iter().map(line).fold(HeaderMap::new(), |mut all, (name, value)| {
            all.append(name, value);
            all
        })
    }

    #[test]
    fn only_a_page_of_ours_sends_forms() {
        let same = ("sec-fetch-site", "same-origin");
        for (lines, ours) in [
            (vec![("origin", OURS)], true),
            (vec![("origin", OURS), same], true),
            (vec![], false),
            (vec![same], false),
            (vec![("origin", "null"), same], false),
            (vec![("origin", "https://mcp.example.com")], false),
            (vec![("origin", "https://mcp.example.com:8444")], false),
            (vec![("origin", "http://mcp.example.com:8443")], false),
            (vec![("origin", "https://MCP.example.com:8443")], false),
            (vec![("origin", "https://mcp.example.com:8443.evil.example")], false),
            (vec![("origin", "https://evil.example")], false),
            (vec![("origin", OURS), ("origin", OURS)], false),
            (vec![("origin", OURS), ("sec-fetch-site", "same-site")], false),
            (vec![("origin", OURS), ("sec-fetch-site", "cross-site")], false),
            (vec![("origin", OURS), ("sec-fetch-site", "none")], false),
            (vec![("origin", OURS), same, ("sec-fetch-site", "cross-site")], false),
        ] {
            assert_eq!(is_ours(&headers(&lines), OURS), ours, "{lines:?}");
        }
    }

    #[test]
    fn what_is_read_is_asked_for_by_nobody_else() {
        for (lines, ours) in [
            (vec![], true),
            (vec![("origin", OURS)], true),
            (vec![("sec-fetch-site", "none")], true),
            (vec![("origin", OURS), ("sec-fetch-site", "same-origin")], true),
            (vec![("sec-fetch-site", "same-site")], false),
            (vec![("sec-fetch-site", "cross-site")], false),
            (vec![("sec-fetch-site", "none"), ("sec-fetch-site", "cross-site")], false),
            (vec![("origin", "https://mcp.example.com")], false),
            (vec![("origin", "null"), ("sec-fetch-site", "same-origin")], false),
        ] {
            assert_eq!(is_not_foreign(&headers(&lines), OURS), ours, "{lines:?}");
        }
    }

    #[tokio::test]
    async fn a_token_is_for_one_form_in_one_browser_and_once() {
        let (store, clock) = shared().await;
        let (env, secret) = (clock.env(), DeploymentSecret::new(&[7; 32]));
        let form = Form { purpose: "sign-in", subject: "r1", cookie: Digest::of(b"c1") };
        let check =
            async |form: Form<'_>, token: &str| check_form((&env, &secret, &store), &form, token).await.unwrap();
        let token = form_token(&env, &secret, &form);
        for other in [
            Form { purpose: "sign-out", ..form },
            Form { subject: "r2", ..form },
            Form { subject: "", ..form },
            Form { cookie: Digest::of(b"c2"), ..form },
        ] {
            assert_eq!(check(other, &token).await, Checked::Refused, "{other:?}");
        }
        let other = form_token(&env, &DeploymentSecret::new(&[8; 32]), &form);
        let (cut, longer) = (&token[1..], format!("{token}A"));
        for bad in ["", "AAAA", cut, &longer, &other] {
            assert_eq!(check(form, bad).await, Checked::Refused, "{bad:?}");
        }
        assert_eq!(check(form, &token).await, Checked::Fresh);
        assert_eq!(check(form, &token).await, Checked::Used);
        assert!(is_token(&env, &secret, &form, &token), "for what is asked without a form it is good again");
        assert!(!is_token(&env, &secret, &Form { cookie: Digest::of(b"c2"), ..form }, &token));
        let late = form_token(&env, &secret, &form);
        assert_ne!(late, token);
        clock.advance(FORM_LIFE);
        assert_eq!(check(form, &late).await, Checked::Refused);
    }

    #[tokio::test]
    async fn a_form_is_read_once_bounded_and_without_repetition() {
        let read = async |media: &str, body: String| {
            let request = Request::builder().method("POST").header("origin", OURS).header("content-type", media);
            read_form(request.body(Body::from(body)).unwrap(), OURS).await
        };
        let media = "application/x-www-form-urlencoded";
        let mut fields = read(media, "login=ada&password=a%26b+c".to_owned()).await.unwrap();
        assert_eq!((fields.take("login"), fields.take("login")), ("ada".to_owned(), String::new()));
        assert_eq!(fields.take_secret("password").expose(), "a&b c");
        assert!(read("application/x-www-form-urlencoded; charset=utf-8", String::new()).await.is_ok());
        assert!(matches!(read(media, "a=1&b=2&a=1".to_owned()).await, Err(NotOurs::Repeated(name)) if name == "a"));
        assert!(matches!(read("text/plain", "a=1".to_owned()).await, Err(NotOurs::Unsupported)));
        let large = read(media, "x".repeat(MAX_FORM + 1)).await;
        assert!(matches!(large, Err(NotOurs::Body(BodyError::TooLarge { .. }))));
        let foreign = Request::builder().method("POST").header("content-type", media).body(Body::empty()).unwrap();
        assert!(matches!(read_form(foreign, OURS).await, Err(NotOurs::Foreign)));
    }
}
