//! From a request's headers to the one credential that it presents: a virtual key as `Authorization: Bearer pk_…` (RFC 6750
//! §2.1) or in `X-Portcullis-Key`, or an access token as `Authorization: Bearer eyJ…`, or as `Authorization: DPoP eyJ…` where it
//! is bound to a key (RFC 9449 §7.1).
//!
//! Whether the credential is any good is for others to find out. What is presented twice, or in the address, where logs
//! and proxies keep it, is none (RFC 6750 §2, OAuth 2.1 §5.1.1).

use http::HeaderMap;
use http::header::AUTHORIZATION;

use crate::secret::Plaintext;

/// Carries a virtual key where `Authorization` is taken.
pub const KEY_HEADER: &str = "x-portcullis-key";
/// Longest credential that is looked at, in bytes.
const MAX_CREDENTIAL: usize = 8 * 1024;
/// What every JSON Web Token of ours begins with: the base64url of `{"`.
const TOKEN_PREFIX: &str = "eyJ";
/// Parameter of the query that some servers take a token in (RFC 6750 §2.3).
const TOKEN_PARAMETER: &str = "access_token";

/// What a request presents.
#[derive(Debug)]
pub enum Presented {
    Nothing,
    Key(Plaintext),
    Token(Plaintext),
    /// As one that is bound to a key, which a proof beside it proves.
    BoundToken(Plaintext),
}

/// Why what is presented is no credential. For the log, but for [`Self::KeyAndToken`] and [`Self::InQuery`], which say
/// nothing that the caller does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    #[error("it is in another scheme than Bearer and DPoP, or unreadable")]
    Scheme,
    #[error("it has more than {MAX_CREDENTIAL} bytes")]
    TooLong,
    #[error("there are several")]
    Several,
    #[error("a token and a key are presented together")]
    KeyAndToken,
    #[error("a token is in the query")]
    InQuery,
}

/// The one credential of a request. The same key may be there twice. Where tokens are not taken, nothing is a token, and
/// the query is not looked at.
///
/// # Errors
/// [`Unfit`]
pub fn presented(headers: &HeaderMap, query: Option<&str>, takes_tokens: bool) -> Result<Presented, Unfit> {
    if takes_tokens && query.is_some_and(has_token) {
        return Err(Unfit::InQuery);
    }
    let (mut token, mut key) = (None, None);
    for value in headers.get_all(AUTHORIZATION) {
        let (scheme, credential) = value.to_str().ok().and_then(|text| text.split_once(' ')).ok_or(Unfit::Scheme)?;
        let credential = credential.trim_start();
        let is_bound = takes_tokens && scheme.eq_ignore_ascii_case("dpop");
        if !is_bound && !scheme.eq_ignore_ascii_case("bearer") {
            return Err(Unfit::Scheme);
        }
        if is_bound || takes_tokens && credential.starts_with(TOKEN_PREFIX) {
            // Not even the same one: a token is in one place.
            if token.replace((credential, is_bound)).is_some() {
                return Err(Unfit::Several);
            }
        } else if key.replace(credential).is_some_and(|other| other != credential) {
            return Err(Unfit::Several);
        }
    }
    for own in headers.get_all(KEY_HEADER) {
        let own = own.to_str().map_err(|_| Unfit::Scheme)?;
        if key.replace(own).is_some_and(|other| other != own) {
            return Err(Unfit::Several);
        }
    }
    let fit = |text: &str| if text.len() <= MAX_CREDENTIAL { Ok(Plaintext::new(text)) } else { Err(Unfit::TooLong) };
    match (token, key) {
        (None, None) => Ok(Presented::Nothing),
        (None, Some(key)) => Ok(Presented::Key(fit(key)?)),
        (Some((token, false)), None) => Ok(Presented::Token(fit(token)?)),
        (Some((token, true)), None) => Ok(Presented::BoundToken(fit(token)?)),
        (Some(_), Some(_)) => Err(Unfit::KeyAndToken),
    }
}

fn has_token(query: &str) -> bool {
    form_urlencoded::parse(query.as_bytes()).any(|(name, _)| name == TOKEN_PARAMETER)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Headers<'a> = &'a [(&'static str, &'static str)];

    fn of(values: Headers<'_>, query: Option<&str>, takes_tokens: bool) -> Result<String, Unfit> {
        let mut headers = HeaderMap::new();
        for (name, value) in values {
            headers.append(*name, http::HeaderValue::from_static(value));
        }
        Ok(match presented(&headers, query, takes_tokens)? {
            Presented::Nothing => "nothing".to_owned(),
            Presented::Key(key) => format!("key {}", key.expose()),
            Presented::Token(token) => format!("token {}", token.expose()),
            Presented::BoundToken(token) => format!("bound token {}", token.expose()),
        })
    }

    #[test]
    fn one_credential_is_presented_or_none() {
        const A: (&str, &str) = ("authorization", "Bearer pk_a");
        for (values, expected) in [
            (&[][..], "nothing"),
            (&[A], "key pk_a"),
            (&[("authorization", "bearer  pk_a")], "key pk_a"),
            (&[("x-portcullis-key", "pk_a")], "key pk_a"),
            (&[A, ("x-portcullis-key", "pk_a")], "key pk_a"),
            (&[("x-portcullis-key", "eyJ")], "key eyJ"),
        ] {
            for takes_tokens in [true, false] {
                assert_eq!(of(values, None, takes_tokens).as_deref(), Ok(expected), "{values:?}");
            }
        }
        for (values, expected) in [
            (&[("authorization", "Basic pk_a")][..], Unfit::Scheme),
            (&[("authorization", "pk_a")], Unfit::Scheme),
            (&[A, ("x-portcullis-key", "pk_b")], Unfit::Several),
            (&[A, ("x-portcullis-key", "")], Unfit::Several),
            (&[A, ("authorization", "Bearer pk_b")], Unfit::Several),
            (&[("authorization", "Basic x"), ("x-portcullis-key", "pk_a")], Unfit::Scheme),
        ] {
            for takes_tokens in [true, false] {
                assert_eq!(of(values, None, takes_tokens), Err(expected), "{values:?}");
            }
        }
    }

    #[test]
    fn a_token_stands_alone_in_one_header() {
        const T: (&str, &str) = ("authorization", "Bearer eyJ.x.y");
        const KEY: (&str, &str) = ("x-portcullis-key", "pk_a");
        assert_eq!(of(&[T], None, true).as_deref(), Ok("token eyJ.x.y"));
        assert_eq!(of(&[T, KEY], None, true), Err(Unfit::KeyAndToken));
        assert_eq!(of(&[T, ("authorization", "Bearer pk_a")], None, true), Err(Unfit::KeyAndToken));
        assert_eq!(of(&[T, T], None, true), Err(Unfit::Several), "twice is not once");
        const BOUND: (&str, &str) = ("authorization", "dpop eyJ.x.y");
        assert_eq!(of(&[BOUND], None, true).as_deref(), Ok("bound token eyJ.x.y"));
        assert_eq!(of(&[("authorization", "DPoP pk_a")], None, true).as_deref(), Ok("bound token pk_a"), "never a key");
        assert_eq!(of(&[BOUND, T], None, true), Err(Unfit::Several));
        assert_eq!(of(&[BOUND, KEY], None, true), Err(Unfit::KeyAndToken));
        assert_eq!(of(&[BOUND], None, false), Err(Unfit::Scheme));
        assert_eq!(
            of(&[T], None, false).as_deref(),
            Ok("key eyJ.x.y"),
            "where there are no tokens, it is an unknown key"
        );
        assert_eq!(of(&[T, KEY], None, false), Err(Unfit::Several));
        for query in ["access_token=eyJ", "a=b&access%5Ftoken=x", "access_token"] {
            for values in [&[][..], &[T], &[KEY]] {
                assert_eq!(of(values, Some(query), true), Err(Unfit::InQuery), "{query}");
            }
            assert_eq!(of(&[KEY], Some(query), false).as_deref(), Ok("key pk_a"));
        }
        assert_eq!(of(&[T], Some("my_access_token=x"), true).as_deref(), Ok("token eyJ.x.y"));
    }

    #[test]
    fn no_more_than_so_much_is_looked_at() {
        let header = |length: usize| {
            let mut headers = HeaderMap::new();
            headers.insert(KEY_HEADER, http::HeaderValue::try_from("x".repeat(length)).unwrap());
            presented(&headers, None, true).map(drop)
        };
        assert_eq!((header(MAX_CREDENTIAL), header(MAX_CREDENTIAL + 1)), (Ok(()), Err(Unfit::TooLong)));
    }
}
