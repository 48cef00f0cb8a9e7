//! What an upstream says when it refuses a request: `WWW-Authenticate` (RFC 9110 §11.6.1, RFC 6750 §3, RFC 9728 §5.1).
//!
//! The header is a list of challenges, each of which is a list, both divided by commas, so that reading goes on from one to
//! the other without knowing where the first ends. What cannot be read ends it; what was read before counts.

use http::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};

use super::scopes;
use crate::identity::TokenList;

/// Lines that are looked at.
const MAX_LINES: usize = 8;
/// Longest line that is looked at, and longest value in it, in bytes.
const MAX_LINE: usize = 8 * 1024;
const MAX_VALUE: usize = 2 * 1024;

/// A challenge to present a bearer token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Challenge {
    /// Where the document about the resource is.
    pub resource_metadata: Option<String>,
    /// What is needed.
    pub scopes: Option<TokenList>,
    pub error: Option<BearerError>,
}

words! {
    /// RFC 6750 §3.1.
    BearerError {
        InvalidRequest = "invalid_request",
        InvalidToken = "invalid_token",
        InsufficientScope = "insufficient_scope",
    }
}

impl Challenge {
    /// The first challenge for bearer tokens that says where to go on, or else the first one.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let lines = headers.get_all(WWW_AUTHENTICATE).iter().take(MAX_LINES);
        let lines = lines.map(HeaderValue::as_bytes).filter(|line| line.len() <= MAX_LINE);
        let all: Vec<Self> = lines.flat_map(bearers).collect();
        let leading = all.iter().position(|challenge| challenge.resource_metadata.is_some());
        all.into_iter().nth(leading.unwrap_or(0))
    }

    fn take(&mut self, name: &str, value: String) {
        // The first one counts: no parameter may be there twice.
        match name.to_ascii_lowercase().as_str() {
            "resource_metadata" if self.resource_metadata.is_none() => self.resource_metadata = Some(value),
            "scope" if self.scopes.is_none() => self.scopes = Some(scopes::read(&value)),
            "error" if self.error.is_none() => self.error = BearerError::parse(&value),
            _ => {}
        }
    }
}

/// The challenges for bearer tokens in one line.
fn bearers(line: &[u8]) -> Vec<Challenge> {
    let mut reader = Reader(line);
    let mut found = Vec::new();
    // The challenge that parameters belong to; none if it is of another scheme.
    let mut current: Option<Challenge> = None;
    loop {
        reader.skip(|byte| matches!(byte, b' ' | b'\t' | b','));
        let Some(word) = reader.token() else { break };
        match reader.parameter() {
            Parameter::Value(value) => {
                if let Some(challenge) = &mut current {
                    challenge.take(&word, value);
                }
            }
            Parameter::Malformed => break,
            Parameter::None => {
                found.extend(current.take());
                current = word.eq_ignore_ascii_case("bearer").then(Challenge::default);
                reader.skip_token68();
            }
        }
    }
    found.extend(current);
    found
}

enum Parameter {
    Value(String),
    /// What was read is the name of a scheme.
    None,
    Malformed,
}

/// What is left of a line.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn skip(&mut self, is_skipped: impl Fn(u8) -> bool) {
        let end = self.0.iter().position(|byte| !is_skipped(*byte)).unwrap_or(self.0.len());
        self.0 = &self.0[end..];
    }

    fn skip_space(&mut self) {
        self.skip(|byte| matches!(byte, b' ' | b'\t'));
    }

    /// RFC 9110 §5.6.2
    fn token(&mut self) -> Option<String> {
        let is_allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
        let end = self.0.iter().position(|byte| !is_allowed(byte)).unwrap_or(self.0.len());
        let (token, rest) = self.0.split_at(end);
        self.0 = rest;
        (1..=MAX_VALUE).contains(&end).then(|| String::from_utf8_lossy(token).into_owned())
    }

    /// `= value`, if that is what follows.
    fn parameter(&mut self) -> Parameter {
        let before = self.0;
        self.skip_space();
        let Some(rest) = self.0.strip_prefix(b"=") else {
            self.0 = before;
            return Parameter::None;
        };
        self.0 = rest;
        self.skip_space();
        let value = if self.0.first() == Some(&b'"') { self.quoted() } else { self.token() };
        value.map_or(Parameter::Malformed, Parameter::Value)
    }

    /// RFC 9110 §5.6.4, with printable ASCII and spaces only.
    fn quoted(&mut self) -> Option<String> {
        let mut bytes = self.0.iter().copied().enumerate().skip(1);
        let mut value = String::new();
        while let Some((at, byte)) = bytes.next() {
            let byte = match byte {
                b'"' => {
                    self.0 = &self.0[at + 1..];
                    return Some(value);
                }
                b'\\' => bytes.next()?.1,
                byte => byte,
            };
            if !(b' '..=b'~').contains(&byte) || value.len() == MAX_VALUE {
                return None;
            }
            value.push(char::from(byte));
        }
        None
    }

    /// What some schemes have in place of parameters, behind a space and up to the next comma.
    fn skip_token68(&mut self) {
        let before = self.0;
        self.skip_space();
        let is_allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~+/".contains(byte);
        let end = self.0.iter().position(|byte| !is_allowed(byte)).unwrap_or(self.0.len());
        self.0 = &self.0[end..];
        self.skip(|byte| byte == b'=');
        self.skip_space();
        if !matches!(self.0.first(), None | Some(b',')) {
            self.0 = before;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(lines: &[&[u8]]) -> Option<Challenge> {
        let lines = lines.iter().map(|line| (WWW_AUTHENTICATE, HeaderValue::from_bytes(line).unwrap()));
        Challenge::of(&lines.collect())
    }

    fn told(text: &str) -> Option<(Option<String>, Option<String>, Option<&'static str>)> {
        let Challenge { resource_metadata, scopes, error } = of(&[text.as_bytes()])?;
        Some((resource_metadata, scopes.map(|scopes| scopes.join(" ")), error.map(BearerError::as_str)))
    }

    #[test]
    fn a_challenge_is_read_however_it_is_written() {
        let some = |text: &str| Some(text.to_owned());
        let place = some("https://mcp.example/.well-known/oauth-protected-resource");
        let quoted = r#"resource_metadata="https://mcp.example/.well-known/oauth-protected-resource""#;
        for (text, expected) in [
            ("Bearer".to_owned(), Some((None, None, None))),
            ("bearer".to_owned(), Some((None, None, None))),
            (format!("Bearer {quoted}"), Some((place.clone(), None, None))),
            (
                format!(r#"BEARER realm="a, b=\"c\"" ,, Error = insufficient_scope,scope="a  b a",{quoted}"#),
                Some((place.clone(), some("a b"), Some("insufficient_scope"))),
            ),
            (format!(r#"Basic realm="x", Bearer {quoted}, Digest nonce="y""#), Some((place.clone(), None, None))),
            (format!("Negotiate abc==, Bearer {quoted}"), Some((place.clone(), None, None))),
            (format!("Negotiate, Bearer {quoted}"), Some((place.clone(), None, None))),
            (format!("Bearer, Bearer scope=x, Bearer {quoted}"), Some((place.clone(), None, None))),
            // The first of two counts; what others say is not ours.
            (r#"Bearer scope="a", scope="b""#.to_owned(), Some((None, some("a"), None))),
            (format!(r#"Bearer scope="a", DPoP scope="b", {quoted}"#), Some((None, some("a"), None))),
            (r#"Bearer scope="", error="made up""#.to_owned(), Some((None, some(""), None))),
            // What cannot be read ends it.
            (format!(r#"Bearer scope="a", x="open, {quoted}"#), Some((None, some("a"), None))),
            (format!("Bearer scope=\"a\", x=, {quoted}"), Some((None, some("a"), None))),
            (format!("{{}} {quoted}"), None),
            ("Basic".to_owned(), None),
            (quoted.to_owned(), None),
            (String::new(), None),
        ] {
            assert_eq!(told(&text), expected, "{text}");
        }
    }

    #[test]
    fn several_lines_are_one_list() {
        let found = of(&[b"Basic realm=x", b"Bearer scope=a", b"Bearer scope=b, resource_metadata=\"https://x\""]);
        let found = found.unwrap();
        assert_eq!(
            (found.resource_metadata.as_deref(), found.scopes.unwrap().join(" ")),
            (Some("https://x"), "b".to_owned())
        );
        assert_eq!(of(&[]), None);
        let long = format!("Bearer scope=\"{}\"", "a".repeat(MAX_LINE));
        assert_eq!(of(&[long.as_bytes()]), None);
        assert_eq!(of(&[b"Bearer resource_metadata=\"https://\xff\""]).unwrap(), Challenge::default());
    }

    proptest! {
        #[test]
        fn no_line_brings_the_reader_out_of_step(line in proptest::collection::vec(prop_oneof![
            Just(b'"'), Just(b'\\'), Just(b','), Just(b'='), Just(b' '), b'a'..=b'c', 0x20u8..=0xff,
        ], 0..64)) {
            if let Ok(value) = HeaderValue::from_bytes(&line) {
                let after = |prefix: &[u8]| HeaderValue::from_bytes(&[prefix, value.as_bytes()].concat()).unwrap();
                let alone: HeaderMap = [(WWW_AUTHENTICATE, value.clone())].into_iter().collect();
                Challenge::of(&alone);
                // What stands first is not changed by what follows it.
                let first: HeaderMap = [(WWW_AUTHENTICATE, after(b"Bearer resource_metadata=\"https://x\", "))].into_iter().collect();
                let found = Challenge::of(&first).unwrap();
                prop_assert_eq!(found.resource_metadata.as_deref(), Some("https://x"));
            }
        }
    }
}
