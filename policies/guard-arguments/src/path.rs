//! Whether a path stays within a directory, by its text alone.
//!
//! `.` and `..` are worked off; what some readers take for a separator or for `..` (backslashes, percent-encoding) is not
//! let through at all. Links in the file system are out of sight here: where somebody can make them, a directory that is
//! allowed can lead elsewhere.

/// A directory that paths may be in.
#[derive(Clone, Debug)]
pub(crate) struct Directory {
    is_absolute: bool,
    parts: Vec<String>,
    text: String,
}

impl Directory {
    /// `None` if the text is no path, or leads out of where it begins.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (is_absolute, parts) = normal(text)?;
        let parts = parts.into_iter().map(str::to_owned).collect();
        Some(Self { is_absolute, parts, text: text.to_owned() })
    }

    /// Whether the path is this directory or something in it. A relative path is only in a relative directory.
    pub(crate) fn contains(&self, path: &str) -> bool {
        normal(path).is_some_and(|(is_absolute, parts)| {
            is_absolute == self.is_absolute
                && parts.len() >= self.parts.len()
                && self.parts.iter().zip(parts).all(|(own, part)| own == part)
        })
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }
}

/// Whether the path begins at the root, and its parts without `.` and `..`.
fn normal(path: &str) -> Option<(bool, Vec<&str>)> {
    let is_doubtful = |character: char| character == '\\' || character.is_control();
    if path.is_empty() || path.contains(is_doubtful) || path.starts_with('~') || has_encoded_separator(path) {
        return None;
    }
    let is_absolute = path.starts_with('/');
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            // Above the root is the root; above where a relative path begins is somewhere else.
            ".." if parts.pop().is_none() && !is_absolute => return None,
            ".." => {}
            part => parts.push(part),
        }
    }
    Some((is_absolute, parts))
}

/// `%2e`, `%2f`, `%5c` and `%00`: what a reader that decodes them would take for `.`, `/`, `\` and the end; and `%25`, which
/// becomes one of them for a reader that decodes twice.
fn has_encoded_separator(path: &str) -> bool {
    let is_one = |code: &str| ["2e", "2f", "5c", "00", "25"].iter().any(|one| code.eq_ignore_ascii_case(one));
    path.match_indices('%').any(|(at, _)| path.get(at + 1..at + 3).is_some_and(is_one))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_within_a_directory_by_whole_names() {
        for (directory, path, within) in [
            ("/srv/notes", "/srv/notes", true),
            ("/srv/notes/", "/srv/notes/a/b.txt", true),
            ("/srv/notes", "/srv//./notes/a/../b", true),
            ("/srv/notes", "/srv/notes/..a", true),
            ("/srv/notes", "/srv/notes/50%", true),
            ("/srv/notes", "/srv/notes-old/a", false),
            ("/srv/notes", "/srv/notes/../secrets", false),
            ("/srv/notes", "/srv/notes/a/../../secrets", false),
            ("/srv/notes", "/srv/Notes/a", false),
            ("/srv/notes", "srv/notes/a", false),
            ("/srv/notes", "file:///srv/notes/a", false),
            ("/srv/notes", "~/../srv/notes/a", false),
            ("/srv/notes", "", false),
            ("/srv/notes", "/srv/notes/..\\..\\secrets", false),
            ("/srv/notes", "/srv/notes/%2e%2E/secrets", false),
            ("/srv/notes", "/srv/notes/..%2Fsecrets", false),
            ("/srv/notes", "/srv/notes/%252e%252e/secrets", false),
            ("/srv/notes", "/srv/notes/a\0b", false),
            ("/srv/notes", "/srv/notes/a\nb", false),
            ("/", "/etc/passwd", true),
            ("/", "/../../etc", true),
            ("/", "etc/passwd", false),
            ("drafts", "drafts/a", true),
            ("drafts", "./drafts/../drafts/a", true),
            ("drafts", "drafts/../a", false),
            ("drafts", "../drafts/a", false),
            ("drafts", "/drafts/a", false),
            (".", "a/b", true),
            (".", "a/../../b", false),
        ] {
            assert_eq!(Directory::parse(directory).unwrap().contains(path), within, "{path:?} in {directory}");
        }
        for wrong in ["", "..", "a/../..", "~/notes", "C:\\notes"] {
            assert!(Directory::parse(wrong).is_none(), "{wrong}");
        }
    }
}
