//! A key-encryption key that is an age identity (age-encryption.org/v1, X25519): data keys are age files for its recipient.
//!
//! Anyone who knows the recipient can wrap; that a data key is ours is shown by its tag, whose root is derived from the
//! identity itself.

use std::path::Path;

use age::secrecy::ExposeSecret as _;
use futures_util::future::{BoxFuture, ready};

use super::local::{Guarded, read};
use super::{KeyFileError, KeySource, Root, SourceError};
use crate::secret::{Digest, Sealed, SecretBytes};
use crate::vault::format;

/// An identity in memory.
pub(in crate::vault) struct Age {
    identity: age::x25519::Identity,
}

impl Age {
    /// The one identity in a file as `age-keygen` writes it.
    pub(in crate::vault) fn file(path: &Path) -> Result<Self, KeyFileError> {
        let bytes = read(path, Guarded::ByUs)?;
        let wrong = |what| KeyFileError::Content { path: path.to_owned(), what };
        let text = std::str::from_utf8(&bytes).map_err(|_| wrong("text"))?;
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let (Some(line), None) = (lines.next(), lines.next()) else {
            return Err(wrong("exactly one age identity"));
        };
        let identity = line.parse().map_err(|_| wrong("an X25519 identity: AGE-SECRET-KEY-1…"))?;
        Ok(Self { identity })
    }

    fn root_secret(&self) -> SecretBytes {
        let identity = self.identity.to_string();
        format::root_of(&SecretBytes::new(identity.expose_secret().as_bytes().to_vec()))
    }
}

impl KeySource for Age {
    fn kind(&self) -> &'static str {
        "age"
    }

    fn fingerprint(&self) -> Option<Digest> {
        Some(Digest::of(self.root_secret().expose()))
    }

    fn wrap<'a>(&'a self, key: &'a SecretBytes) -> BoxFuture<'a, Result<Sealed, SourceError>> {
        let wrapped = age::encrypt(&self.identity.to_public(), key.expose());
        Box::pin(ready(wrapped.map(Sealed::from_bytes).map_err(|error| SourceError::Unavailable(error.to_string()))))
    }

    fn unwrap<'a>(&'a self, wrapped: &'a Sealed) -> BoxFuture<'a, Result<SecretBytes, SourceError>> {
        let key = age::decrypt(&self.identity, wrapped.as_bytes());
        Box::pin(ready(key.map(SecretBytes::new).map_err(|error| SourceError::NotOurs(error.to_string()))))
    }

    fn root(&self, version: Option<u32>) -> BoxFuture<'_, Result<Root, SourceError>> {
        let secret = self.root_secret();
        let is_known = version.is_none_or(|version| version == 0);
        let none = || SourceError::NotOurs("an identity has no versions".to_owned());
        Box::pin(ready(if is_known { Ok(Root { version: 0, secret }) } else { Err(none()) }))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn identity_file(dir: &Path, name: &str) -> std::path::PathBuf {
        let path = dir.join(name);
        let identity = age::x25519::Identity::generate();
        let text = format!(
            "# created: now\n# public key: {}\n{}\n",
            identity.to_public(),
            identity.to_string().expose_secret()
        );
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    #[tokio::test]
    async fn an_identity_wraps_and_unwraps() {
        let dir = tempfile::tempdir().unwrap();
        let path = identity_file(dir.path(), "one");
        let source = Age::file(&path).unwrap();
        source.health().await.unwrap();
        let key = SecretBytes::new(vec![9; 32]);
        let wrapped = source.wrap(&key).await.unwrap();
        assert!(wrapped.as_bytes().starts_with(b"age-encryption.org/v1"));
        assert!(Age::file(&path).unwrap().unwrap(&wrapped).await.unwrap() == key);
        let other = Age::file(&identity_file(dir.path(), "other")).unwrap();
        assert!(matches!(other.unwrap(&wrapped).await, Err(SourceError::NotOurs(_))));
        let (one, another) = (source.root(None).await.unwrap(), other.root(None).await.unwrap());
        assert!(one.secret != another.secret);
    }

    #[test]
    fn a_file_without_exactly_one_identity_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = identity_file(dir.path(), "one");
        let text = std::fs::read_to_string(&path).unwrap();
        for content in ["", "# nothing\n", "AGE-SECRET-KEY-1QQ\n", &format!("{text}{text}")] {
            std::fs::write(&path, content).unwrap();
            assert!(matches!(Age::file(&path), Err(KeyFileError::Content { .. })), "{content}");
        }
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(Age::file(&path), Err(KeyFileError::Mode { .. })));
    }
}
