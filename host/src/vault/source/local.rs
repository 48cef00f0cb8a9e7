//! Key-encryption keys that the gateway holds itself: in a file, a systemd credential or an environment variable.
//!
//! A key is 32 random bytes, written as 64 hexadecimal digits, as base64, or (in files) as they are.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::{BoxFuture, ready};
use zeroize::Zeroizing;

use super::{KeySource, Root, SourceError};
use crate::env::Env;
use crate::secret::{Digest, Plaintext, Sealed, SecretBytes, hex};
use crate::vault::format::{self, KEY_BYTES};

/// Largest file of a key, in bytes.
const MAX_KEY_FILE: u64 = 4096;
/// Permission bits of group and others.
const OTHERS: u32 = 0o077;

/// Why a file with a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    #[error("the key file {} does not exist", path.display())]
    Missing { path: PathBuf },
    #[error("the key file {} cannot be read", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the key file {} has mode {mode:o}, which lets others read it: chmod 600", path.display())]
    Mode { path: PathBuf, mode: u32 },
    #[error("the key file {} belongs to user {owner}, and neither to root nor to the gateway's user {own}", path.display())]
    Owner { path: PathBuf, owner: u32, own: u32 },
    #[error("the key file {} does not hold {what}", path.display())]
    Content { path: PathBuf, what: &'static str },
    #[error("the key file {} cannot be made", path.display())]
    NotMade {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// A key in memory.
pub(in crate::vault) struct Local {
    kind: &'static str,
    key: SecretBytes,
    env: Env,
}

impl Local {
    /// A key in a file that nobody else may read.
    pub(in crate::vault) fn file(path: &Path, env: Env) -> Result<Self, KeyFileError> {
        Ok(Self { kind: "file", key: key_in(path, Guarded::ByUs)?, env })
    }

    /// A key that systemd put there for this service (`LoadCredential=`, `LoadCredentialEncrypted=`).
    pub(in crate::vault) fn credential(path: &Path, env: Env) -> Result<Self, KeyFileError> {
        Ok(Self { kind: "credential", key: key_in(path, Guarded::Elsewhere)?, env })
    }

    /// A key in an environment variable, or `None` if it is none.
    pub(in crate::vault) fn environment(text: &Plaintext, env: Env) -> Option<Self> {
        Some(Self { kind: "env", key: parse(text.expose().trim())?, env })
    }
}

impl KeySource for Local {
    fn kind(&self) -> &'static str {
        self.kind
    }

    fn fingerprint(&self) -> Option<Digest> {
        Some(Digest::of(format::root_of(&self.key).expose()))
    }

    fn wrap<'a>(&'a self, key: &'a SecretBytes) -> BoxFuture<'a, Result<Sealed, SourceError>> {
        Box::pin(ready(Ok(format::wrap(&self.key, self.env.random(), key))))
    }

    fn unwrap<'a>(&'a self, wrapped: &'a Sealed) -> BoxFuture<'a, Result<SecretBytes, SourceError>> {
        let key = format::unwrap(&self.key, wrapped);
        Box::pin(ready(key.ok_or_else(|| SourceError::NotOurs("it does not fit this key".to_owned()))))
    }

    fn root(&self, version: Option<u32>) -> BoxFuture<'_, Result<Root, SourceError>> {
        let root = Root { version: 0, secret: format::root_of(&self.key) };
        let is_known = version.is_none_or(|version| version == 0);
        let root = if is_known { Ok(root) } else { Err(SourceError::NotOurs("the key has no versions".to_owned())) };
        Box::pin(ready(root))
    }
}

/// Who sees to it that nobody else reads a file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Guarded {
    /// Its owner and mode, which we check.
    ByUs,
    /// The service manager.
    Elsewhere,
}

/// A small secret file, read through one handle so that what was checked is what is read.
pub(super) fn read(path: &Path, guarded: Guarded) -> Result<Zeroizing<Vec<u8>>, KeyFileError> {
    let path_of = || path.to_owned();
    let unreadable = |source| KeyFileError::Unreadable { path: path_of(), source };
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(KeyFileError::Missing { path: path_of() }),
        file => file.map_err(unreadable)?,
    };
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(KeyFileError::Content { path: path_of(), what: "a key: it is no regular file" });
    }
    let own = rustix::process::geteuid().as_raw();
    if guarded == Guarded::ByUs {
        if ![0, own].contains(&metadata.uid()) {
            return Err(KeyFileError::Owner { path: path_of(), owner: metadata.uid(), own });
        }
        if metadata.mode() & OTHERS != 0 {
            return Err(KeyFileError::Mode { path: path_of(), mode: metadata.mode() & 0o777 });
        }
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(4097));
    file.take(MAX_KEY_FILE).read_to_end(&mut bytes).map_err(unreadable)?;
    Ok(bytes)
}

fn key_in(path: &Path, guarded: Guarded) -> Result<SecretBytes, KeyFileError> {
    let bytes = read(path, guarded)?;
    let what = "a key: 32 bytes as 64 hexadecimal digits, as base64 or as they are";
    let wrong = || KeyFileError::Content { path: path.to_owned(), what };
    if bytes.len() == KEY_BYTES {
        return Ok(SecretBytes::new(bytes.to_vec()));
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| wrong())?;
    parse(text.trim()).ok_or_else(wrong)
}

/// A key as text.
fn parse(text: &str) -> Option<SecretBytes> {
    let bytes = if text.len() == 2 * KEY_BYTES {
        let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let pairs = text.as_bytes().chunks_exact(2);
        pairs.map(|pair| Some(digit(&pair[0])? * 16 + digit(&pair[1])?)).collect::<Option<Vec<u8>>>()?
    } else {
        STANDARD.decode(text).ok()?
    };
    (bytes.len() == KEY_BYTES).then(|| SecretBytes::new(bytes))
}

/// Makes a file with a new key, mode 0600, which is there whole or not at all, and stays over a loss of power. One that is
/// there already is an error.
pub fn make_key_file(path: &Path, env: &Env) -> Result<(), KeyFileError> {
    let failed = |source| KeyFileError::NotMade { path: path.to_owned(), source };
    let key = Zeroizing::new(env.random::<KEY_BYTES>());
    let text = Zeroizing::new(format!("{}\n", hex(key.as_slice())));
    let staged = path.with_extension(format!("{}.new", std::process::id()));
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&staged)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        // Unlike a rename, a link fails where there is something already.
        std::fs::hard_link(&staged, path)?;
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(dir)?.sync_all()
    })();
    _ = std::fs::remove_file(&staged);
    written.map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[tokio::test]
    async fn a_file_that_was_made_is_read_and_wraps() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vault.key");
        make_key_file(&path, &Env::system()).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert!(matches!(make_key_file(&path, &Env::system()), Err(KeyFileError::NotMade { .. })));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        let source = Local::file(&path, Env::system()).unwrap();
        source.health().await.unwrap();
        let key = SecretBytes::new(vec![9; 32]);
        let (one, other) = (source.wrap(&key).await.unwrap(), source.wrap(&key).await.unwrap());
        assert_ne!(one, other);
        assert!(source.unwrap(&one).await.unwrap() == key);
        let again = Local::file(&path, Env::system()).unwrap();
        assert!(again.unwrap(&other).await.unwrap() == key);
        assert!(again.root(None).await.unwrap().secret == source.root(Some(0)).await.unwrap().secret);
        assert!(matches!(source.root(Some(1)).await, Err(SourceError::NotOurs(_))));
        make_key_file(&dir.path().join("other"), &Env::system()).unwrap();
        let other = Local::file(&dir.path().join("other"), Env::system()).unwrap();
        assert!(matches!(other.unwrap(&one).await, Err(SourceError::NotOurs(_))));
    }

    #[test]
    fn a_file_that_others_can_read_or_that_holds_no_key_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vault.key");
        let open = || Local::file(&path, Env::system()).map(|_| ());
        assert!(matches!(open(), Err(KeyFileError::Missing { .. })));
        make_key_file(&path, &Env::system()).unwrap();
        for mode in [0o640, 0o604, 0o620] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert!(matches!(open(), Err(KeyFileError::Mode { mode: found, .. }) if found == mode), "{mode:o}");
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        for content in ["", "\n", "abc", &"g".repeat(64), &"a".repeat(63), &"a".repeat(66)] {
            std::fs::write(&path, content).unwrap();
            let error = open().unwrap_err().to_string();
            assert!(error.contains("64 hexadecimal digits"), "{error}");
        }
        assert!(Local::file(dir.path(), Env::system()).is_err());
    }

    #[test]
    fn a_key_is_read_in_each_form() {
        let bytes: Vec<u8> = (0..32).collect();
        let forms = [hex(&bytes), hex(&bytes).to_uppercase(), STANDARD.encode(&bytes)];
        for form in forms {
            assert_eq!(parse(&form).unwrap().expose(), bytes, "{form}");
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("raw");
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(key_in(&path, Guarded::Elsewhere).unwrap().expose(), bytes);
    }
}
