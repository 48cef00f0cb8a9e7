//! Secrets under names, and the deployment's own: the key for what the gateway hands out and wants back unchanged.

use super::{Opening, Refusal, TRIES, Vault, VaultError};
use crate::ids::Owner;
use crate::secret::{Plaintext, SecretBytes, hex};
use crate::store::StoreError;
use crate::store::vault_secrets::{self, Keeping, Replacement};

/// Name of the deployment secret.
const DEPLOYMENT_SECRET: &str = "deployment-secret";

/// Why there is no deployment secret.
#[derive(Debug, thiserror::Error)]
pub enum DeploymentSecretError {
    #[error("the deployment secret in the store cannot be opened: {0}")]
    Refused(Refusal),
    #[error("the deployment secret in the store is no text")]
    NoText,
    #[error(transparent)]
    Vault(#[from] VaultError),
}

/// A secret that is kept under a name.
#[derive(Debug, PartialEq, Eq)]
pub enum Named {
    Secret(SecretBytes),
    None,
    Refused(Refusal),
}

impl Vault {
    /// The deployment secret, the same on every replica. Where there is none yet it is `earlier`, or drawn.
    ///
    /// # Errors
    /// [`DeploymentSecretError`].
    pub async fn deployment_secret(&self, earlier: Option<Plaintext>) -> Result<Plaintext, DeploymentSecretError> {
        let owner = Owner::Deployment;
        let get = || vault_secrets::get(&self.0.store, &owner, DEPLOYMENT_SECRET);
        let kept = match get().await.map_err(VaultError::from)? {
            Some((_, sealed)) => sealed,
            None => {
                let secret = earlier.unwrap_or_else(|| Plaintext::new(hex(&self.0.env.random::<32>())));
                let place = vault_secrets::place(&owner, DEPLOYMENT_SECRET, 1);
                let sealed = self.seal(&place, secret.expose().as_bytes()).await?;
                let kept = vault_secrets::put_if_absent(&self.0.store, &owner, DEPLOYMENT_SECRET, sealed).await;
                match kept.map_err(VaultError::from)? {
                    Keeping::Kept => return Ok(secret),
                    Keeping::Existing(existing) => existing,
                    // The deployment's own data key is destroyed by nobody: somebody has taken it away.
                    Keeping::Stale => return Err(DeploymentSecretError::Refused(Refusal::NoDataKey)),
                }
            }
        };
        match self.open(&vault_secrets::place(&owner, DEPLOYMENT_SECRET, 1), &kept).await? {
            Opening::Opened(secret) => Plaintext::from_bytes(&secret).ok_or(DeploymentSecretError::NoText),
            Opening::Refused(refusal) => Err(DeploymentSecretError::Refused(refusal)),
        }
    }

    /// Keeps a secret under a name, in place of what was there. Whether it was kept: not if another one came first.
    ///
    /// # Errors
    /// [`VaultError`].
    pub async fn put(&self, owner: &Owner, name: &str, secret: &[u8]) -> Result<bool, VaultError> {
        for _ in 0..TRIES {
            let revision =
                vault_secrets::get(&self.0.store, owner, name).await?.map_or(1, |(revision, _)| revision + 1);
            let sealed = self.seal(&vault_secrets::place(owner, name, revision), secret).await?;
            let is_kept = if revision == 1 {
                match vault_secrets::put_if_absent(&self.0.store, owner, name, sealed).await? {
                    Keeping::Kept => Some(true),
                    Keeping::Existing(_) => Some(false),
                    Keeping::Stale => None,
                }
            } else {
                match vault_secrets::replace(&self.0.store, owner, name, revision, sealed).await? {
                    Replacement::Replaced => Some(true),
                    Replacement::Changed => Some(false),
                    Replacement::Stale => None,
                }
            };
            match is_kept {
                Some(is_kept) => return Ok(is_kept),
                // What it was sealed with was destroyed meanwhile.
                None => self.forget_one(owner),
            }
        }
        Err(StoreError::Busy.into())
    }

    /// The secret under a name.
    ///
    /// # Errors
    /// [`VaultError`].
    pub async fn get(&self, owner: &Owner, name: &str) -> Result<Named, VaultError> {
        let Some((revision, sealed)) = vault_secrets::get(&self.0.store, owner, name).await? else {
            return Ok(Named::None);
        };
        Ok(match self.open(&vault_secrets::place(owner, name, revision), &sealed).await? {
            Opening::Opened(secret) => Named::Secret(secret),
            Opening::Refused(refusal) => Named::Refused(refusal),
        })
    }
}
