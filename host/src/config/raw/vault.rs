//! `[vault]`: what the file says of the keys that encrypt keys.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{At, Setting, Time, defaults};

/// How secrets are kept that the gateway has to replay. They are always encrypted.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub struct Vault {
    /// The key-encryption keys: the ring. Without any, one in the file `vault.key` in `data_dir`, called `file`, which is made
    /// on the first start. Where several gateways share a store there is no default.
    pub keys: Vec<At<VaultKey>>,
    /// How long a data key that was decrypted is kept in memory. For so long the gateway goes on where a key cannot be
    /// reached; `0s` asks for each use.
    #[schemars(extend("default" = defaults::VAULT_CACHE_TTL))]
    pub cache_ttl: Setting<Time>,
    /// Whether the process may leave core dumps and be looked into by debuggers. They hold secrets in the clear.
    #[schemars(extend("default" = false))]
    pub allow_core_dumps: Setting<bool>,
}

/// A key-encryption key.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
#[schemars(extend("required" = ["kid", "source"]))]
pub struct VaultKey {
    /// What the key is called in the store, for good: letters, digits and hyphens.
    #[schemars(extend("pattern" = "^[a-z0-9][a-z0-9-]{0,63}$"))]
    pub kid: Setting<String>,
    /// Where the key is.
    pub source: Setting<VaultKeySource>,
    /// What the key may be used for.
    #[schemars(extend("default" = "active"))]
    pub state: Setting<VaultKeyState>,
    /// Path of the key's file, which only the gateway's user may read. For `file`, and for `age` that of the identity.
    pub path: Setting<String>,
    /// Name of the systemd credential (`LoadCredential=` and the like). For `credential`.
    pub credential: Setting<String>,
    /// Name of the environment variable. For `env`.
    pub variable: Setting<String>,
    /// Base URL of the server. For `transit`.
    #[schemars(extend("pattern" = "^https?://[^#?]+$"))]
    pub url: Setting<String>,
    /// Where the transit engine is mounted. For `transit`.
    #[schemars(extend("default" = defaults::VAULT_MOUNT))]
    pub mount: Setting<String>,
    /// Name of the key, for `transit`; label of the AES key, for `pkcs11`.
    pub key: Setting<String>,
    /// Label of the PKCS#11 token, for `pkcs11`. For `transit`, reference to the server's token: `env:NAME` or `file:PATH`.
    pub token: Setting<String>,
    /// Namespace of the server. For `transit`.
    pub namespace: Setting<String>,
    /// Path of the PKCS#11 module, a shared library. For `pkcs11`.
    pub module: Setting<String>,
    /// Reference to the user's PIN, `env:NAME` or `file:PATH`. For `pkcs11`.
    #[schemars(extend("pattern" = "^(env|file):.+$"))]
    pub pin: Setting<String>,
}

/// Where a key-encryption key is.
#[derive(Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum VaultKeySource {
    /// In a file.
    File,
    /// In a systemd credential.
    Credential,
    /// In an environment variable. Other programs of the same user may see it.
    Env,
    /// In an age identity.
    Age,
    /// In the transit engine of HashiCorp Vault or OpenBao.
    Transit,
    /// In a PKCS#11 token. Not in a gateway that was built without the feature `pkcs11`.
    Pkcs11,
}

/// What a key-encryption key may be used for.
#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum VaultKeyState {
    /// It encrypts and decrypts.
    Active,
    /// It decrypts what it has encrypted.
    DecryptOnly,
    /// Nothing is left that it has encrypted.
    Retired,
}
