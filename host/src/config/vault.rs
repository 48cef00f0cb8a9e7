//! `[vault]`: what encrypts the keys that encrypt secrets.

use std::path::PathBuf;
use std::time::Duration;

use crate::ids::KekId;
use crate::secret::Plaintext;

/// The vault's keys and how it treats them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vault {
    /// The ring, in the order of the file. One at least is active.
    pub keys: Vec<VaultKey>,
    /// Whether the file says nothing of keys: the ring is one file in `data_dir`.
    pub is_default: bool,
    /// How long an unwrapped data key is kept in memory.
    pub cache_ttl: Duration,
    /// Whether the process may leave core dumps and be looked into, for debugging.
    pub allow_core_dumps: bool,
}

/// A key-encryption key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VaultKey {
    pub kid: KekId,
    pub state: VaultKeyState,
    pub source: VaultKeySource,
}

/// What a key-encryption key may still be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VaultKeyState {
    /// Wraps and unwraps.
    Active,
    /// Unwraps what it wrapped, and wraps nothing more.
    DecryptOnly,
    /// Nothing: it is named so that it is known to be gone.
    Retired,
}

impl VaultKeyState {
    /// The word for it in the file, the API and the documents.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::DecryptOnly => "decrypt-only",
            Self::Retired => "retired",
        }
    }
}

/// Where a key-encryption key is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VaultKeySource {
    /// Nowhere any more: it is retired.
    None,
    /// In a file of mode 0600.
    File(PathBuf),
    /// In a file that systemd made for this service.
    Credential(PathBuf),
    /// In this environment variable, which was read.
    Environment { variable: String, key: Plaintext },
    /// In a file of mode 0600 with an age identity.
    Age(PathBuf),
    /// In the transit engine of HashiCorp Vault or OpenBao.
    Transit {
        url: http::Uri,
        mount: String,
        key: String,
        token: Plaintext,
        /// Where the token was read, if in a file.
        token_file: Option<PathBuf>,
        namespace: Option<String>,
    },
    /// In a PKCS#11 token.
    Pkcs11 { module: PathBuf, token: String, key: String, pin: Plaintext },
}
