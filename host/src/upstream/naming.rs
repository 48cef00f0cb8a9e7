//! The names under which callers see tools.
//!
//! `<upstream>__<tool>`: an upstream's name has no underscore, so the first `__` ends it and two upstreams can never
//! meet. A name that would be longer than 64 characters, or has characters outside `[A-Za-z0-9_.-]`, is cut and ends in
//! a hash of the whole instead, which is stable as long as the tool keeps its name.

use crate::ids::UpstreamName;
use crate::secret::Digest;

/// Longest name that every client takes (the specification says 128, widely used clients refuse more than 64).
pub const MAX_NAME_LEN: usize = 64;

const SEPARATOR: &str = "__";
/// Hex digits of the hash in a shortened name.
const HASH_LEN: usize = 16;

/// The name of `tool` with its upstream's prefix.
pub fn prefixed(upstream: &UpstreamName, tool: &str) -> String {
    fit(&format!("{upstream}{SEPARATOR}{tool}"))
}

/// The name of `tool` without a prefix, for the one upstream that has none.
pub fn bare(tool: &str) -> String {
    fit(tool)
}

/// Whether a name that callers see carries this upstream's prefix.
pub fn is_of(upstream: &UpstreamName, exposed: &str) -> bool {
    exposed.strip_prefix(upstream.as_str()).is_some_and(|rest| rest.starts_with(SEPARATOR))
}

fn fit(name: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    if (1..=MAX_NAME_LEN).contains(&name.len()) && name.bytes().all(is_plain) {
        return name.to_owned();
    }
    let hash = &Digest::of(name.as_bytes()).to_hex()[..HASH_LEN];
    let room = MAX_NAME_LEN - HASH_LEN - 1;
    let plain = |character: char| u8::try_from(character).ok().filter(|byte| is_plain(*byte)).map_or('-', char::from);
    let head: String = name.chars().take(room).map(plain).collect();
    format!("{head}.{hash}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_prefixed_and_fit() {
        let notes = UpstreamName::parse("notes").unwrap();
        assert_eq!(prefixed(&notes, "add"), "notes__add");
        assert_eq!(prefixed(&notes, "read.v2-x_y"), "notes__read.v2-x_y");
        assert_eq!(bare("add"), "add");
        let long = prefixed(&notes, &"x".repeat(100));
        assert_eq!(long.len(), MAX_NAME_LEN);
        assert_eq!(long, prefixed(&notes, &"x".repeat(100)));
        assert_ne!(long, prefixed(&notes, &"x".repeat(101)));
        let odd = prefixed(&notes, "größe/alle");
        assert!(odd.starts_with("notes__gr--e-alle."), "{odd}");
        assert_ne!(odd, prefixed(&notes, "größe-alle"));
        assert_ne!(bare(""), "");
        assert!(is_of(&notes, "notes__add") && is_of(&notes, &long));
        assert!(!is_of(&notes, "notes_add") && !is_of(&notes, "notes2__add") && !is_of(&notes, "my-notes__add"));
    }
}
