//! Patterns over names: `*` stands for any run of characters, everything else for itself.

use std::fmt;

/// A pattern such as `*`, `read_*` or `notes`. Matching is case-sensitive and linear in practice: one `*` is
/// backed up to at most.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Glob(String);

impl Glob {
    /// Longest pattern, in bytes.
    pub const MAX_LEN: usize = 256;

    /// A pattern, or `None` if it is empty or too long.
    pub fn parse(pattern: &str) -> Option<Self> {
        (1..=Self::MAX_LEN).contains(&pattern.len()).then(|| Self(pattern.to_owned()))
    }

    /// The pattern `*`.
    pub fn any() -> Self {
        Self("*".to_owned())
    }

    /// Whether it fits every name.
    pub fn is_any(&self) -> bool {
        self.0.bytes().all(|byte| byte == b'*')
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the whole of `name` fits.
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

    /// Whether it fits a name that begins like this.
    pub fn may_begin(&self, beginning: &str) -> bool {
        match self.0.split_once('*') {
            None => self.0.starts_with(beginning),
            // The star stands for what is missing of the beginning, if anything is.
            Some((head, _)) => head.starts_with(beginning) || beginning.starts_with(head),
        }
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
            ("*", "anything", true),
            ("read_*", "read_file", true),
            ("read_*", "unread_file", false),
            ("*_file", "read_file", true),
            ("a*b*c", "aXXbYYc", true),
            ("a*b*c", "aXXcYYb", false),
            ("exact", "exact", true),
            ("exact", "exactly", false),
            ("Exact", "exact", false),
            ("a?c", "abc", false),
        ] {
            assert_eq!(Glob::parse(pattern).unwrap().matches(name), fits, "{pattern} on {name}");
        }
        assert!(Glob::parse("").is_none());
    }

    #[test]
    fn a_pattern_may_fit_names_that_begin_in_some_way() {
        for (pattern, beginning, may) in [
            ("*", "notes/", true),
            ("notes/add", "notes/", true),
            ("notes/*", "notes/", true),
            ("n*", "notes/", true),
            ("*/add", "notes/", true),
            ("notes", "notes/", false),
            ("notes2/*", "notes/", false),
            ("mail/*", "notes/", false),
        ] {
            assert_eq!(Glob::parse(pattern).unwrap().may_begin(beginning), may, "{pattern} for {beginning}");
        }
    }
}
