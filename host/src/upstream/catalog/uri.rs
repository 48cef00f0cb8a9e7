//! URIs that two upstreams list: one keeps its own, the others' get the upstream's name put into them.
//!
//! The scheme stays, since hosts go by it (`ui://`, `skill://`), and so does the end of the path. Only URIs of the web
//! lose their scheme: a host may fetch those by itself, and there is no such place.

use crate::ids::UpstreamName;

/// The scheme of URIs whose own scheme cannot stay.
const SCHEME: &str = "portcullis";

/// How a URI, or a URI template, is told apart from another upstream's: a text put into it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    at: usize,
    text: String,
}

impl Mark {
    /// The mark of `upstream` in `uri`. A later `attempt` is for the case that the URI of an earlier one is taken.
    pub(super) fn of(upstream: &UpstreamName, uri: &str, attempt: u8) -> Self {
        let name = match attempt {
            0 => upstream.to_string(),
            // No upstream's name has a dot.
            _ => format!("{upstream}.{attempt}"),
        };
        match scheme(uri) {
            Some(scheme) if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") => {
                let after = scheme.len() + ":".len();
                if uri[after..].starts_with("//") {
                    Self { at: after + "//".len(), text: format!("{name}/") }
                } else {
                    Self { at: after, text: format!("{name}:") }
                }
            }
            _ => Self { at: 0, text: format!("{SCHEME}:{name}:") },
        }
    }

    /// The URI with its mark.
    pub(super) fn put(&self, uri: &str) -> String {
        let (before, after) = uri.split_at(self.at);
        [before, &self.text, after].concat()
    }

    /// The URI without its mark; `None` if it does not have it.
    pub(super) fn take_off(&self, uri: &str) -> Option<String> {
        let (before, marked) = uri.split_at_checked(self.at)?;
        let after = marked.strip_prefix(self.text.as_str())?;
        Some([before, after].concat())
    }
}

/// The scheme of a URI (RFC 3986 §3.1), or of a URI template whose scheme is fixed.
fn scheme(uri: &str) -> Option<&str> {
    let (scheme, _) = uri.split_once(':')?;
    let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'));
    is_scheme.then_some(scheme)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn marked_uris_keep_their_scheme_where_it_matters() {
        let notes = UpstreamName::parse("notes").unwrap();
        for (uri, marked) in [
            ("ui://widget/app.html?x#y", "ui://notes/widget/app.html?x#y"),
            ("file:///etc/hosts", "file://notes//etc/hosts"),
            ("skill://pdf/SKILL.md", "skill://notes/pdf/SKILL.md"),
            ("x://user@host:80", "x://notes/user@host:80"),
            ("urn:isbn:1", "urn:notes:isbn:1"),
            ("x:/a/b", "x:notes:/a/b"),
            ("https://example.com/a", "portcullis:notes:https://example.com/a"),
            ("HTTP://example.com/a", "portcullis:notes:HTTP://example.com/a"),
            ("no scheme", "portcullis:notes:no scheme"),
            ("1x://a", "portcullis:notes:1x://a"),
            ("", "portcullis:notes:"),
            ("ui://{name}/{+path}", "ui://notes/{name}/{+path}"),
            ("{scheme}://{+path}", "portcullis:notes:{scheme}://{+path}"),
        ] {
            let mark = Mark::of(&notes, uri, 0);
            assert_eq!(mark.put(uri), marked);
            assert_eq!(mark.take_off(marked).as_deref(), Some(uri));
        }
        let again = Mark::of(&notes, "ui://a", 2);
        assert_eq!(again.put("ui://a"), "ui://notes.2/a");
        assert_eq!(again.take_off("ui://notes/a"), None);
        assert_eq!(again.take_off("ui"), None);
    }

    proptest! {
        #[test]
        fn a_mark_comes_off_again(uri in "[a-z]{0,3}:?/{0,3}\\PC{0,20}", attempt in 0_u8..4) {
            let mark = Mark::of(&UpstreamName::parse("notes").unwrap(), &uri, attempt);
            let marked = mark.put(&uri);
            prop_assert_ne!(&marked, &uri);
            prop_assert_eq!(mark.take_off(&marked), Some(uri));
        }
    }
}
