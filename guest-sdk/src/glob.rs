//! Patterns over names: `*` stands for any run of characters, everything else for itself.
//!
//! The same patterns as in the gateway's own configuration.

use std::fmt;

use serde::Deserialize;

/// A pattern such as `*`, `notes/*` or `tracker/list_*`. Matching is case-sensitive; `*` matches `/` too.
///
/// It deserialises from a string, and an empty or overlong one is refused with the path to it.
#[derive(Clone, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct Glob(String);

impl Glob {
    /// Longest pattern, in bytes.
    pub const MAX_LEN: usize = 256;

    /// A pattern, or `None` if it is empty or too long.
    pub fn parse(pattern: &str) -> Option<Self> {
        (1..=Self::MAX_LEN).contains(&pattern.len()).then(|| Self(pattern.to_owned()))
    }

    /// The pattern's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it fits every name.
    pub fn fits_all(&self) -> bool {
        self.0.bytes().all(|byte| byte == b'*')
    }

    /// Whether the whole of `name` fits. Only the last `*` is ever tried again, so the time is bounded by the
    /// product of both lengths and is linear for ordinary names.
    pub fn matches(&self, name: &str) -> bool {
        let (pattern, name) = (self.0.as_bytes(), name.as_bytes());
        let (mut at_pattern, mut at_name) = (0, 0);
        let mut last_star = None;
        while at_name < name.len() {
            if pattern.get(at_pattern) == Some(&b'*') {
                last_star = Some((at_pattern, at_name));
                at_pattern += 1;
            } else if pattern.get(at_pattern) == Some(&name[at_name]) {
                at_pattern += 1;
                at_name += 1;
            } else if let Some((star, from)) = last_star {
                at_pattern = star + 1;
                at_name = from + 1;
                last_star = Some((star, from + 1));
            } else {
                return false;
            }
        }
        pattern[at_pattern..].iter().all(|byte| *byte == b'*')
    }
}

impl TryFrom<String> for Glob {
    type Error = String;

    fn try_from(pattern: String) -> Result<Self, String> {
        Self::parse(&pattern).ok_or_else(|| format!("a pattern has 1 to {} bytes", Self::MAX_LEN))
    }
}

impl fmt::Debug for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_run() {
        for (pattern, name, fits) in [
            ("*", "", true),
            ("*", "notes/read", true),
            ("notes/*", "notes/read", true),
            ("notes/*", "footnotes/read", false),
            ("*/list_*", "tracker/list_issues", true),
            ("a*b*c", "aXXbYYc", true),
            ("a*b*c", "aXXcYYb", false),
            ("exact", "exact", true),
            ("exact", "exactly", false),
            ("Exact", "exact", false),
            ("*ö*", "größe", true),
            ("a?c", "abc", false),
        ] {
            assert_eq!(Glob::parse(pattern).unwrap().matches(name), fits, "{pattern} on {name}");
        }
    }

    #[test]
    fn an_empty_or_overlong_pattern_is_none() {
        assert!(Glob::parse("").is_none());
        assert!(Glob::parse(&"a".repeat(257)).is_none());
        assert!(serde_json::from_str::<Glob>("\"\"").is_err());
    }
}
