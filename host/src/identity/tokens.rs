//! Lists of scopes and of groups: short words that operators choose and policies read.
//!
//! Each is a scope token of RFC 6749 §3.3, so that a list of them can stand in a token response and in a
//! `WWW-Authenticate` header as it is.

use std::ops::Deref;
use std::sync::Arc;

/// Scopes, or groups, in the order in which they were given and each once. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenList(Arc<[String]>);

/// Why a list of scopes or groups cannot be one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTokens {
    #[error("must be 1 to {} printable ASCII characters without space, '\"' and '\\'", TokenList::MAX_LEN)]
    Token,
    #[error("is there twice")]
    Twice,
    #[error("is one too many: there may be {}", TokenList::MAX_COUNT)]
    TooMany,
}

impl TokenList {
    /// Most tokens of one list.
    pub const MAX_COUNT: usize = 64;
    /// Longest token, in bytes.
    pub const MAX_LEN: usize = 128;

    /// The list of these tokens.
    ///
    /// # Errors
    /// The position of the first token that does not belong there, and why.
    pub fn parse(tokens: Vec<String>) -> Result<Self, (usize, InvalidTokens)> {
        for (position, token) in tokens.iter().enumerate() {
            if position >= Self::MAX_COUNT {
                return Err((position, InvalidTokens::TooMany));
            }
            if !is_token(token) {
                return Err((position, InvalidTokens::Token));
            }
            if tokens[..position].contains(token) {
                return Err((position, InvalidTokens::Twice));
            }
        }
        Ok(Self(tokens.into()))
    }

    /// Those that `other` has as well.
    #[must_use]
    pub fn in_common_with(&self, other: &Self) -> Self {
        Self(self.0.iter().filter(|token| other.0.contains(token)).cloned().collect())
    }
}

/// `1*( %x21 / %x23-5B / %x5D-7E )`
fn is_token(text: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\';
    (1..=TokenList::MAX_LEN).contains(&text.len()) && text.bytes().all(is_allowed)
}

impl Default for TokenList {
    /// None.
    fn default() -> Self {
        Self(Arc::new([]))
    }
}

impl Deref for TokenList {
    type Target = [String];

    fn deref(&self) -> &[String] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(tokens: &[&str]) -> Result<Vec<String>, (usize, InvalidTokens)> {
        TokenList::parse(tokens.iter().map(|token| (*token).to_owned()).collect()).map(|list| list.to_vec())
    }

    #[test]
    fn tokens_are_what_the_specification_says() {
        for good in ["read", "notes:write", "!", "#[]^`{|}~", "https://example.com/x", &"x".repeat(128)] {
            assert_eq!(parse(&[good]), Ok(vec![good.to_owned()]));
        }
        for bad in ["", "a b", "a\"", "a\\b", "ä", "a\n", "\u{7f}", &"x".repeat(129)] {
            assert_eq!(parse(&["good", bad]), Err((1, InvalidTokens::Token)), "{bad:?}");
        }
    }

    #[test]
    fn a_list_is_bounded_and_has_each_token_once() {
        assert_eq!(parse(&[]), Ok(Vec::new()));
        assert_eq!(parse(&["b", "a", "B"]), Ok(["b", "a", "B"].map(str::to_owned).to_vec()));
        assert_eq!(parse(&["a", "b", "a"]), Err((2, InvalidTokens::Twice)));
        let many: Vec<String> = (0..65).map(|number| number.to_string()).collect();
        assert!(TokenList::parse(many[..64].to_vec()).is_ok());
        assert_eq!(TokenList::parse(many), Err((64, InvalidTokens::TooMany)));
    }
}
