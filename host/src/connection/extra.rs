//! Extra headers: what a caller's own request says in headers that an operator lets through to an upstream.
//!
//! Pure. They are the caller's words, and proof of nothing. Names under which callers show who they are here, that belong to
//! browsers, or by which common proxies say who somebody is, are never among them, in either spelling (see [`super::header`]).

use std::fmt;
use std::sync::Arc;

use ::http::{HeaderMap, HeaderName, HeaderValue};

use super::header::{self, NotAName};

/// Most names of one upstream.
pub const MAX_NAMES: usize = 16;
/// Longest value, in bytes.
pub const MAX_VALUE_BYTES: usize = 1_024;

/// Names besides those that no header may have which somebody gives.
const FORBIDDEN: &[&str] = &[
    "authorization",
    "cf-connecting-ip",
    "client-ip",
    "cookie",
    "dpop",
    "fastly-client-ip",
    "http2-settings",
    "origin",
    "range",
    "referer",
    "remote-user",
    "set-cookie",
    "true-client-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-real-ip",
    "x-remote-user",
    "x-rewrite-url",
    "x-webauth-user",
];

/// What the names of such headers begin with.
const FORBIDDEN_PREFIXES: &[&str] = &[
    "access-control-",
    "cf-access-",
    "if-",
    "proxy-",
    "sec-",
    "ssl-client-",
    "x-amzn-oidc-",
    "x-auth-request-",
    "x-envoy-",
    "x-goog-authenticated-user-",
    "x-goog-iap-",
    "x-ms-client-principal",
    "x-ms-token-",
    "x-original-",
    "x-ssl-client-",
];

/// The name that is meant, in lower case.
///
/// # Errors
/// [`NotAName`]
pub fn name(text: &str) -> Result<HeaderName, NotAName> {
    let name = HeaderName::try_from(header::name(text)?).map_err(|_| NotAName::NotAToken)?;
    let spelled = spelled(name.as_str());
    let is_forbidden =
        FORBIDDEN.contains(&&*spelled) || FORBIDDEN_PREFIXES.iter().any(|prefix| spelled.starts_with(prefix));
    if is_forbidden { Err(NotAName::Forbidden) } else { Ok(name) }
}

/// Whether a server that reads `_` as `-` takes these for one.
pub fn are_twins(one: &str, other: &str) -> bool {
    spelled(one) == spelled(other)
}

fn spelled(name: &str) -> String {
    name.replace('_', "-")
}

/// Why a header of a caller's is not passed on. The text is for the caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotPassed {
    #[error("the header {0} is there more than once")]
    Twice(HeaderName),
    #[error("the header {0} is longer than {MAX_VALUE_BYTES} bytes")]
    TooLong(HeaderName),
    #[error("the header {0} has more than visible ASCII characters and spaces between them")]
    Characters(HeaderName),
}

/// Headers of one request that some upstream is to get. Nothing of it is for a log.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Extra(Option<Arc<[(HeaderName, HeaderValue)]>>);

impl Extra {
    /// Those of `headers` that have one of these names. Whatever cannot be passed on is an error: an upstream that misses it
    /// might do another thing than its caller means.
    ///
    /// # Errors
    /// [`NotPassed`]
    pub fn read<'a>(headers: &HeaderMap, names: impl Iterator<Item = &'a HeaderName>) -> Result<Self, NotPassed> {
        let mut found: Vec<(HeaderName, HeaderValue)> = Vec::new();
        for name in names {
            let mut values = headers.get_all(name).iter();
            let Some(value) = values.next() else { continue };
            if found.iter().any(|(known, _)| known == name) {
                continue;
            }
            if values.next().is_some() {
                return Err(NotPassed::Twice(name.clone()));
            }
            found.push((name.clone(), checked(name, value)?));
        }
        Ok(Self((!found.is_empty()).then(|| found.into())))
    }

    pub fn has(&self, name: &HeaderName) -> bool {
        self.all().iter().any(|(known, _)| known == name)
    }

    /// Those of one upstream.
    pub fn among<'a>(&'a self, names: &'a [HeaderName]) -> impl Iterator<Item = (&'a HeaderName, &'a HeaderValue)> {
        self.all().iter().filter(|(name, _)| names.contains(name)).map(|(name, value)| (name, value))
    }

    fn all(&self) -> &[(HeaderName, HeaderValue)] {
        self.0.as_deref().unwrap_or_default()
    }
}

/// The value, marked as one that is never shown.
fn checked(name: &HeaderName, value: &HeaderValue) -> Result<HeaderValue, NotPassed> {
    let bytes = value.as_bytes();
    if bytes.len() > MAX_VALUE_BYTES {
        return Err(NotPassed::TooLong(name.clone()));
    }
    let is_fine = bytes.iter().all(|byte| *byte == b' ' || byte.is_ascii_graphic());
    if !is_fine || bytes.starts_with(b" ") || bytes.ends_with(b" ") {
        return Err(NotPassed::Characters(name.clone()));
    }
    let mut value = value.clone();
    value.set_sensitive(true);
    Ok(value)
}

/// The names alone.
impl fmt::Debug for Extra {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.all().iter().map(|(name, _)| name)).finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(names: &[&str]) -> Vec<HeaderName> {
        names.iter().map(|text| name(text).unwrap()).collect()
    }

    fn headers(lines: &[(&str, &[u8])]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in lines {
            map.append(HeaderName::try_from(*name).unwrap(), HeaderValue::from_bytes(value).unwrap());
        }
        map
    }

    #[test]
    fn u11_what_carries_credentials_or_says_who_somebody_is_is_never_passed_on() {
        for text in [
            "Authorization",
            "COOKIE",
            "X-Real-Ip",
            "x_real_ip",
            "Forwarded",
            "X-Forwarded-User",
            "X_Forwarded-For",
            "Proxy-Anything",
            "Mcp-Session-Id",
            "mcp_param_x",
            "X-Portcullis-Key",
            "Origin",
            "Sec-Fetch-Site",
            "Connection",
            "Content-Length",
            "X-Auth-Request-Email",
            "DPoP",
            "remote_user",
        ] {
            assert_eq!(name(text), Err(NotAName::Forbidden), "{text}");
        }
        assert_eq!(name("a b"), Err(NotAName::NotAToken));
        assert_eq!(name(" X-Tenant ").unwrap(), "x-tenant");
        assert!(are_twins("x-api_key", "x_api-key") && !are_twins("x-api-key", "x-apikey"));
    }

    #[test]
    fn what_is_allowed_is_read_and_nothing_is_printed() {
        let sent = headers(&[("x-tenant", b"hunter2"), ("x-other", b"o"), ("x-none", b"n")]);
        let extra = Extra::read(&sent, names(&["X-Tenant", "x-other", "x-missing", "x-tenant"]).iter()).unwrap();
        assert!(!format!("{extra:?}").contains("hunter2"));
        let one = names(&["x-tenant", "x-none"]);
        let passed: Vec<_> = extra.among(&one).map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        assert_eq!(passed, [("x-tenant", "hunter2")]);
        assert!(extra.has(&one[0]) && !extra.has(&one[1]));
        assert_eq!(Extra::read(&sent, std::iter::empty()).unwrap(), Extra::default());
    }

    #[test]
    fn what_cannot_be_passed_on_is_named() {
        let tenant = names(&["x-tenant"]);
        let read =
            |lines: &[(&str, &[u8])]| Extra::read(&headers(lines), tenant.iter()).map_err(|error| error.to_string());
        let long = [b'x'; MAX_VALUE_BYTES + 1];
        for (lines, expected) in [
            (&[("x-tenant", &b"a"[..]), ("x-tenant", b"a")][..], "more than once"),
            (&[("x-tenant", &long)], "longer than"),
            (&[("x-tenant", b"a\tb")], "visible ASCII"),
            (&[("x-tenant", b"\xc3\xa4")], "visible ASCII"),
        ] {
            let error = read(lines).unwrap_err();
            assert!(error.contains("x-tenant") && error.contains(expected), "{error}");
        }
        assert!(read(&[("x-tenant", &long[1..])]).is_ok() && read(&[("x-tenant", b"")]).is_ok());
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn u11_a_name_that_is_passed_on_is_forbidden_in_no_spelling(text in "[xX][-_][a-z]{1,8}[-_]?[a-z]{0,6}|[A-Za-z_-]{1,20}") {
            if let Ok(found) = name(&text) {
                let twin = found.as_str().replace('_', "-");
                prop_assert!(name(&twin).is_ok() && name(&twin.to_ascii_uppercase()).is_ok());
                prop_assert!(!FORBIDDEN.contains(&&*twin));
            }
        }
    }
}
