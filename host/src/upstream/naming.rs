//! The names under which callers see tools and prompts.
//!
//! `<upstream>__<name>`: an upstream's name has no underscore, so the first `__` ends it and two upstreams can never
//! meet. A name that would be longer than 64 characters, or has characters outside `[A-Za-z0-9_.-]`, is cut and ends in
//! a hash of the whole instead, which is stable as long as the upstream keeps the name.

use crate::ids::UpstreamName;
use crate::secret::Digest;

/// Longest name that every client takes (the specification says 128, widely used clients refuse more than 64).
pub const MAX_NAME_LEN: usize = 64;

const SEPARATOR: &str = "__";
/// Hex digits of the hash in a shortened name.
const HASH_LEN: usize = 16;
/// How often a name that is taken is hashed anew.
const MAX_ATTEMPTS: u8 = 3;

/// The names that something of an upstream may have, with the upstream's prefix or without it, the best first. The next
/// one is for the rare case that something else of the same upstream bears the name already.
pub fn candidates(prefix: Option<&UpstreamName>, name: &str) -> impl Iterator<Item = String> {
    let whole = prefix.map_or_else(|| name.to_owned(), |upstream| format!("{upstream}{SEPARATOR}{name}"));
    (0..=MAX_ATTEMPTS).map(move |attempt| if attempt == 0 { fit(&whole) } else { shortened(&whole, attempt) })
}

/// Whether a name that callers see carries this upstream's prefix.
pub fn is_of(upstream: &UpstreamName, exposed: &str) -> bool {
    exposed.strip_prefix(upstream.as_str()).is_some_and(|rest| rest.starts_with(SEPARATOR))
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-')
}

fn fit(name: &str) -> String {
    if (1..=MAX_NAME_LEN).contains(&name.len()) && name.bytes().all(is_plain) {
        return name.to_owned();
    }
    shortened(name, 0)
}

fn shortened(name: &str, attempt: u8) -> String {
    let digest = match attempt {
        0 => Digest::of(name.as_bytes()),
        _ => Digest::of(&[name.as_bytes(), &[0, attempt]].concat()),
    };
    let hash = &digest.to_hex()[..HASH_LEN];
    let room = MAX_NAME_LEN - HASH_LEN - 1;
    let plain = |character: char| u8::try_from(character).ok().filter(|byte| is_plain(*byte)).map_or('-', char::from);
    let head: String = name.chars().take(room).map(plain).collect();
    format!("{head}.{hash}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn upstream(name: &str) -> UpstreamName {
        UpstreamName::parse(name).unwrap()
    }

    fn prefixed(upstream: &UpstreamName, name: &str) -> String {
        candidates(Some(upstream), name).next().unwrap()
    }

    fn bare(name: &str) -> String {
        candidates(None, name).next().unwrap()
    }

    #[test]
    fn names_are_prefixed_and_fit() {
        let notes = upstream("notes");
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

    proptest! {
        #[test]
        fn every_name_has_several_that_fit(name in any::<String>(), long in "[a-z_]{0,200}") {
            for name in [name, long] {
                for prefix in [None, Some(&upstream("notes"))] {
                    let candidates: Vec<String> = candidates(prefix, &name).collect();
                    for (at, candidate) in candidates.iter().enumerate() {
                        prop_assert!((1..=MAX_NAME_LEN).contains(&candidate.len()));
                        prop_assert!(candidate.bytes().all(is_plain));
                        prop_assert!(!candidates[..at].contains(candidate));
                        prop_assert!(prefix.is_none_or(|upstream| is_of(upstream, candidate)));
                    }
                }
            }
        }
    }
}
