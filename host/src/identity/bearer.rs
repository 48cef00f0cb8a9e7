//! From a request's headers to a caller: `Authorization: Bearer pk_…` (RFC 6750 §2.1) or `X-Portcullis-Key`.

use http::HeaderMap;
use http::header::AUTHORIZATION;

use super::{Caller, Keyring};
use crate::env::Timestamp;
use crate::secret::Plaintext;

/// Carries a virtual key where `Authorization` is taken.
pub const KEY_HEADER: &str = "x-portcullis-key";
/// Longest credential that is looked at, in bytes.
const MAX_CREDENTIAL: usize = 8 * 1024;

/// There is no valid credential. Deliberately without a reason: missing, unknown, disabled and expired look the same.
#[derive(Debug, PartialEq, Eq)]
pub struct Unauthenticated;

/// The caller that the headers vouch for. Two credentials in one request are none, unless they are the same.
pub fn authenticate(headers: &HeaderMap, keys: &Keyring, now: Timestamp) -> Result<Caller, Unauthenticated> {
    let presented = presented(headers).unwrap_or_else(|| Plaintext::new(""));
    keys.caller(&presented, now).ok_or(Unauthenticated)
}

fn presented(headers: &HeaderMap) -> Option<Plaintext> {
    let bearers = headers.get_all(AUTHORIZATION).iter().map(|value| {
        let text = value.to_str().ok()?;
        let (scheme, credential) = text.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| credential.trim_start())
    });
    let keys = headers.get_all(KEY_HEADER).iter().map(|value| value.to_str().ok());
    let mut credentials = bearers.chain(keys);
    let first = credentials.next()??;
    let all_same = credentials.all(|other| other == Some(first));
    (all_same && first.len() <= MAX_CREDENTIAL).then(|| Plaintext::new(first))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_credential_is_presented_or_none() {
        let of = |values: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in values {
                headers.append(*name, http::HeaderValue::from_static(value));
            }
            presented(&headers).map(|secret| secret.expose().to_owned())
        };
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[("authorization", "Bearer pk_a")]).as_deref(), Some("pk_a"));
        assert_eq!(of(&[("authorization", "bearer  pk_a")]).as_deref(), Some("pk_a"));
        assert_eq!(of(&[("x-portcullis-key", "pk_a")]).as_deref(), Some("pk_a"));
        assert_eq!(of(&[("authorization", "Bearer pk_a"), ("x-portcullis-key", "pk_a")]).as_deref(), Some("pk_a"));
        for none in [
            &[("authorization", "Basic pk_a")][..],
            &[("authorization", "pk_a")],
            &[("authorization", "Bearer pk_a"), ("x-portcullis-key", "pk_b")],
            &[("authorization", "Bearer pk_a"), ("authorization", "Bearer pk_b")],
            &[("authorization", "Basic x"), ("x-portcullis-key", "pk_a")],
        ] {
            assert_eq!(of(none), None, "{none:?}");
        }
    }
}
