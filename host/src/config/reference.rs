//! Secrets by reference: `env:NAME`, `file:PATH` and, for upstreams of the store, `sealed:ID`; and the rule which settings
//! must be references.
//!
//! The one place of the configuration that holds secrets in the clear. A fault names the reference, never what it
//! leads to.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use super::mistake::{Checked, Fault};
use crate::secret::Plaintext;

/// Largest secret in a file, in bytes.
pub(super) const LARGEST_SECRET: u64 = 64 * 1024;

/// Where secrets are looked up.
pub(super) struct Secrets<'a> {
    /// What file references are relative to.
    pub base_dir: &'a Path,
    pub environment: &'a dyn Fn(&str) -> Option<String>,
    /// What the vault keeps for an upstream of the store, by id. A file has none.
    pub sealed: Option<&'a BTreeMap<String, Plaintext>>,
}

/// Where one secret is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reference<'a> {
    Environment(&'a str),
    File(&'a str),
    Sealed(&'a str),
}

impl<'a> Reference<'a> {
    /// `None` where the text is no reference.
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        let variable = text.strip_prefix("env:").map(Self::Environment);
        let file = || text.strip_prefix("file:").map(Self::File);
        variable.or_else(file).or_else(|| text.strip_prefix("sealed:").map(Self::Sealed))
    }

    /// A header's credential: a reference, perhaps after an authentication scheme as in `Bearer env:TOKEN`.
    pub(super) fn parse_credential(text: &'a str) -> Option<(Option<&'a str>, Self)> {
        if let Some(reference) = Self::parse(text) {
            return Some((None, reference));
        }
        let (scheme, rest) = text.split_once(' ')?;
        let is_scheme = !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        is_scheme.then(|| Self::parse(rest)).flatten().map(|reference| (Some(scheme), reference))
    }
}

impl Secrets<'_> {
    /// The secret, without the newline that ends a file.
    pub(super) fn fetch(&self, reference: Reference<'_>) -> Checked<Plaintext> {
        match reference {
            Reference::Environment(name) => self.in_environment(name),
            Reference::File(path) => self.in_file(path),
            Reference::Sealed(id) => self.in_vault(id),
        }
    }

    fn in_vault(&self, id: &str) -> Checked<Plaintext> {
        let Some(sealed) = self.sealed else {
            let fault = Fault::new("refers to a sealed secret, which only upstreams of the store have");
            return Err(fault.hint("write \"env:NAME\" or \"file:PATH\""));
        };
        sealed.get(id).cloned().ok_or_else(|| Fault::new("refers to a sealed secret that cannot be opened"))
    }

    fn in_environment(&self, name: &str) -> Checked<Plaintext> {
        let is_name = !name.is_empty() && !name.contains(['=', '\0']);
        if !is_name {
            return Err(Fault::new("does not name an environment variable").hint("write it like \"env:NAME\""));
        }
        match (self.environment)(name) {
            None => Err(Fault::new(format!("refers to the environment variable {name}, which is not set"))),
            Some(secret) if secret.is_empty() => {
                Err(Fault::new(format!("refers to the environment variable {name}, which is empty")))
            }
            Some(secret) => Ok(Plaintext::new(secret)),
        }
    }

    fn in_file(&self, path: &str) -> Checked<Plaintext> {
        if path.is_empty() {
            return Err(Fault::new("does not name a file").hint("write it like \"file:secrets/NAME\""));
        }
        let text = read_text(&self.base_dir.join(path), LARGEST_SECRET)
            .map_err(|fault| fault.of(format_args!("refers to the file {path:?}, which")))?;
        let secret = without_end(&text);
        if secret.is_empty() {
            return Err(Fault::new(format!("refers to the file {path:?}, which is empty")));
        }
        Ok(Plaintext::new(secret))
    }
}

/// The secret that a file reference led to before, as it is now. `None` if there is none any more.
pub fn read_secret(path: &Path) -> Option<Plaintext> {
    let text = read_text(path, LARGEST_SECRET).ok()?;
    Some(without_end(&text)).filter(|secret| !secret.is_empty()).map(Plaintext::new)
}

/// Without the newline that ends a file.
fn without_end(text: &str) -> &str {
    text.strip_suffix('\n').map_or(text, |line| line.strip_suffix('\r').unwrap_or(line))
}

/// A regular file's text, of at most `limit` bytes.
pub(super) fn read_text(path: &Path, limit: u64) -> Checked<String> {
    let file = open(path)?;
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(|error| unreadable(&error))?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > limit {
        return Err(Fault::new(format!("is larger than {} KiB", limit / 1024)));
    }
    String::from_utf8(bytes).map_err(|_| Fault::new("is not UTF-8 text"))
}

/// Opens a regular file. Others are refused before they are opened: a pipe would wait for its writer.
pub(super) fn open(path: &Path) -> Checked<File> {
    let metadata = std::fs::metadata(path).map_err(|error| unreadable(&error))?;
    if !metadata.is_file() {
        return Err(Fault::new("is not a regular file"));
    }
    File::open(path).map_err(|error| unreadable(&error))
}

fn unreadable(error: &std::io::Error) -> Fault {
    match error.kind() {
        std::io::ErrorKind::NotFound => Fault::new("does not exist"),
        _ => Fault::new(format!("cannot be read: {error}")),
    }
}

/// Whether a header carries a credential, as far as its name tells.
pub(super) fn header_is_credential(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let words = ["key", "token", "secret", "password"];
    ["authorization", "proxy-authorization", "cookie"].contains(&name.as_str())
        || words.iter().any(|word| name.contains(word))
}

/// Whether an environment variable carries a credential, as far as its name tells.
pub(super) fn variable_is_credential(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    ["KEY", "TOKEN", "SECRET", "PASSWORD"].iter().any(|word| name.ends_with(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_known_by_their_names() {
        for name in ["Authorization", "Proxy-Authorization", "Cookie", "X-Api-Key", "x-auth-token", "PASSWORD"] {
            assert!(header_is_credential(name), "{name}");
        }
        for name in ["X-Team", "User-Agent", "X-Authorization-Mode"] {
            assert!(!header_is_credential(name), "{name}");
        }
        for name in ["API_KEY", "GITHUB_TOKEN", "client_secret", "PGPASSWORD"] {
            assert!(variable_is_credential(name), "{name}");
        }
        for name in ["KEY_PATH", "TOKENIZER", "HOME"] {
            assert!(!variable_is_credential(name), "{name}");
        }
    }

    #[test]
    fn a_reference_may_follow_a_scheme() {
        for (text, expected) in [
            ("env:A", Some((None, Reference::Environment("A")))),
            ("file:a b", Some((None, Reference::File("a b")))),
            ("Bearer env:A", Some((Some("Bearer"), Reference::Environment("A")))),
            ("sealed:a", Some((None, Reference::Sealed("a")))),
            ("Bearer  env:A", None),
            ("Bearer abc", None),
            ("Bearer: env:A", None),
            ("abc", None),
        ] {
            assert_eq!(Reference::parse_credential(text), expected, "{text}");
        }
    }

    #[test]
    fn secrets_come_from_the_environment_and_in_files() {
        let dir = tempfile::tempdir().unwrap();
        let files: [(&str, &[u8]); 6] = [
            ("plain", b"secret"),
            ("unix", b"secret\n"),
            ("windows", b"secret\r\n"),
            ("two", b"secret\n\n"),
            ("empty", b"\n"),
            ("binary", b"\xff"),
        ];
        for (name, bytes) in files {
            std::fs::write(dir.path().join(name), bytes).unwrap();
        }
        std::fs::write(dir.path().join("huge"), "x".repeat(64 * 1024 + 1)).unwrap();
        let environment = |name: &str| match name {
            "SET" => Some("secret".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        let secrets = Secrets { base_dir: dir.path(), environment: &environment, sealed: None };
        for (reference, expected) in [
            ("env:SET", Ok("secret")),
            ("env:EMPTY", Err("refers to the environment variable EMPTY, which is empty")),
            ("env:UNSET", Err("refers to the environment variable UNSET, which is not set")),
            ("env:", Err("does not name an environment variable")),
            ("file:plain", Ok("secret")),
            ("file:unix", Ok("secret")),
            ("file:windows", Ok("secret")),
            ("file:two", Ok("secret\n")),
            ("file:empty", Err("refers to the file \"empty\", which is empty")),
            ("file:binary", Err("refers to the file \"binary\", which is not UTF-8 text")),
            ("file:huge", Err("refers to the file \"huge\", which is larger than 64 KiB")),
            ("file:none", Err("refers to the file \"none\", which does not exist")),
            ("file:.", Err("refers to the file \".\", which is not a regular file")),
            ("file:", Err("does not name a file")),
            ("sealed:x", Err("refers to a sealed secret, which only upstreams of the store have")),
        ] {
            let fetched = secrets.fetch(Reference::parse(reference).unwrap());
            let fetched = fetched.as_ref().map(Plaintext::expose).map_err(|fault| fault.message.as_str());
            assert_eq!(fetched, expected, "{reference}");
        }
    }
}
