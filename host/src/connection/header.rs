//! Headers that people give values for, and operators: which names there may be, and which values.
//!
//! Pure, and the one rule for both. A name is a token (RFC 9110 §5.6.2) in lower case that belongs neither to the connection
//! (RFC 9110 §7.6.1), nor to the message, nor to the protocol that the gateway speaks. A server that reads `_` as `-`, as
//! CGI does (RFC 3875 §4.1.18), would take a twin for the header itself: what is forbidden is so in both spellings.

use ::http::{HeaderName, HeaderValue};

use crate::secret::Plaintext;

/// Longest name, in bytes.
pub const MAX_NAME_BYTES: usize = 128;
/// Longest value, in bytes.
pub const MAX_VALUE_BYTES: usize = 8 * 1024;
/// Most headers that one upstream asks a person for.
pub const MAX_NAMES: usize = 32;

/// Headers that belong to the connection, to the message or to whoever stands in between, and are the gateway's to set.
const FORBIDDEN: &[&str] = &[
    "accept",
    "accept-encoding",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "forwarded",
    "host",
    "keep-alive",
    "last-event-id",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
];

/// What the names of such headers begin with.
const FORBIDDEN_PREFIXES: &[&str] = &["mcp-", "x-forwarded-", "x-portcullis-"];

/// Why a text is no name of a header that somebody may give.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAName {
    #[error("is not a header name")]
    NotAToken,
    #[error("is longer than {MAX_NAME_BYTES} bytes")]
    TooLong,
    #[error("is set by the gateway itself")]
    Forbidden,
}

/// The name that is meant: trimmed and in lower case.
///
/// # Errors
/// [`NotAName`]
pub fn name(text: &str) -> Result<String, NotAName> {
    let text = text.trim_matches([' ', '\t']);
    if text.len() > MAX_NAME_BYTES {
        return Err(NotAName::TooLong);
    }
    let name = HeaderName::try_from(text).map_err(|_| NotAName::NotAToken)?;
    if is_forbidden(name.as_str()) { Err(NotAName::Forbidden) } else { Ok(name.as_str().to_owned()) }
}

/// Of a name in lower case.
fn is_forbidden(name: &str) -> bool {
    let name = name.replace('_', "-");
    FORBIDDEN.contains(&&*name) || FORBIDDEN_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// Why a text cannot be the value of a header. It says nothing of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAValue {
    #[error("is empty")]
    Empty,
    #[error("is longer than {MAX_VALUE_BYTES} bytes")]
    TooLong,
    #[error("has characters that a header cannot carry")]
    Characters,
    #[error("begins or ends with a space")]
    Edges,
}

/// The value, marked as one that is never shown: visible ASCII characters, and spaces between them.
///
/// # Errors
/// [`NotAValue`]
pub fn value(text: &Plaintext) -> Result<HeaderValue, NotAValue> {
    let text = text.expose();
    if text.is_empty() {
        return Err(NotAValue::Empty);
    }
    if text.len() > MAX_VALUE_BYTES {
        return Err(NotAValue::TooLong);
    }
    if !text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) {
        return Err(NotAValue::Characters);
    }
    if text.starts_with(' ') || text.ends_with(' ') {
        return Err(NotAValue::Edges);
    }
    let mut value = HeaderValue::from_str(text).map_err(|_| NotAValue::Characters)?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn u11_names_of_the_connection_the_message_and_the_protocol_are_forbidden_in_every_spelling() {
        for text in [
            "Host",
            "content-length",
            "Transfer_Encoding",
            "Forwarded",
            "X-Forwarded-For",
            "x_forwarded_host",
            "X-Forwarded_Proto",
            "Mcp-Session-Id",
            "mcp_method",
            "Connection",
            " TE ",
            "Proxy-Authorization",
            "X-Portcullis-Key",
            "Via",
        ] {
            assert_eq!(name(text), Err(NotAName::Forbidden), "{text}");
        }
        for text in ["", " ", "a b", "a:", "a\r\nb", "ä", "a\0", "(a)"] {
            assert_eq!(name(text), Err(NotAName::NotAToken), "{text:?}");
        }
        assert_eq!(name(&"a".repeat(MAX_NAME_BYTES + 1)), Err(NotAName::TooLong));
        for (text, expected) in [
            (" X-Api-Key\t", "x-api-key"),
            ("Authorization", "authorization"),
            ("api_key", "api_key"),
            ("X-Host", "x-host"),
        ] {
            assert_eq!(name(text).as_deref(), Ok(expected));
        }
    }

    #[test]
    fn u11_a_value_is_visible_ascii_without_spaces_at_its_edges() {
        for (text, expected) in [
            ("", NotAValue::Empty),
            (" a", NotAValue::Edges),
            ("a ", NotAValue::Edges),
            ("a\tb", NotAValue::Characters),
            ("a\r\nx-other: b", NotAValue::Characters),
            ("a\0", NotAValue::Characters),
            ("ä", NotAValue::Characters),
            ("\u{7f}", NotAValue::Characters),
        ] {
            assert_eq!(value(&Plaintext::new(text)), Err(expected), "{text:?}");
        }
        assert_eq!(value(&Plaintext::new("x".repeat(MAX_VALUE_BYTES + 1))), Err(NotAValue::TooLong));
        let bearer = value(&Plaintext::new("Bearer a~b")).unwrap();
        assert!(bearer == "Bearer a~b" && bearer.is_sensitive() && !format!("{bearer:?}").contains("a~b"));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn u11_a_name_is_a_token_in_lower_case_and_is_read_as_itself(text in "[ -~\\t\\r\\n\u{e4}]{0,20}|[xX][-_][fF]orwarded[-_][a-z]{1,5}|[A-Za-z_-]{1,20}") {
            if let Ok(found) = name(&text) {
                let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
                prop_assert!(!found.is_empty() && found.bytes().all(is_token) && !found.bytes().any(|byte| byte.is_ascii_uppercase()));
                prop_assert!(text.trim().eq_ignore_ascii_case(&found));
                let twin = found.replace('_', "-");
                prop_assert!(!twin.starts_with("x-forwarded-") && !twin.starts_with("mcp-") && twin != "host");
                prop_assert_eq!(name(&found), Ok(found.clone()));
                prop_assert!(name(&found.to_ascii_uppercase()).is_ok() && name(&twin).is_ok());
            }
        }

        #[test]
        fn u11_a_value_that_is_taken_arrives_as_it_is_on_one_line(text in "[ -~]{0,40}|.{0,20}|[a\\x00\\r\\n\\t ]{0,6}") {
            if let Ok(found) = value(&Plaintext::new(text.clone())) {
                prop_assert_eq!(found.as_bytes(), text.as_bytes());
                prop_assert!(text.bytes().all(|byte| (0x20..0x7f).contains(&byte)));
                prop_assert_eq!(text.trim(), &text);
            } else {
                let is_good = !text.is_empty() && text.trim() == text && text.bytes().all(|byte| (0x20..0x7f).contains(&byte));
                prop_assert!(!is_good, "{:?} is refused for nothing", text);
            }
        }
    }
}
