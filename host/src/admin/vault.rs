//! The vault as operators see it: looked at, its keys rotated, checked, and data keys destroyed.
//!
//! What takes long is done in steps: whoever asks for one asks for the next, and one that nobody asks for any more goes on
//! where it was whenever somebody does.

use std::time::Duration;

use super::Control;
use crate::audit::Actor;
use crate::ids::{KekId, Owner};
use crate::store::data_keys::{MAX_REWRAPPED, Rewrapping};
use crate::vault::VaultError;
use crate::vault::rotation::{Rotation, Shred, Status, Verified};

/// Data keys that are wrapped anew in a second, at most: calls and traffic come first.
const REWRAPPED_PER_SECOND: u32 = 1_000;

impl Control {
    /// The vault at a glance.
    ///
    /// # Errors
    /// [`VaultError`].
    pub async fn vault_status(&self) -> Result<Status, VaultError> {
        self.vault.status().await
    }

    /// Has new data keys wrapped by another key-encryption key.
    ///
    /// # Errors
    /// [`VaultError`].
    pub async fn rotate_kek(&self, to: Option<KekId>, actor: Actor) -> Result<Rotation, VaultError> {
        let _one_at_a_time = self.changing.lock().await;
        self.vault.rotate(to, actor).await
    }

    /// Wraps the next data keys anew, and takes its time for it.
    ///
    /// # Errors
    /// [`VaultError`].
    pub async fn rewrap(&self, actor: Actor) -> Result<Rewrapping, VaultError> {
        let _one_at_a_time = self.rewrapping.lock().await;
        let step = self.vault.rewrap_step(actor).await?;
        if !step.is_done {
            let keys = u32::try_from(MAX_REWRAPPED).unwrap_or(u32::MAX);
            tokio::time::sleep(Duration::from_secs(1) * keys / REWRAPPED_PER_SECOND).await;
        }
        Ok(step)
    }

    /// Opens the next sealed records. `None` if `from` is nowhere that an earlier step has come.
    ///
    /// # Errors
    /// [`VaultError`].
    pub async fn verify_vault(&self, from: Option<&[u8]>) -> Result<Option<Verified>, VaultError> {
        let _one_at_a_time = self.rewrapping.lock().await;
        self.vault.verify(from).await
    }

    /// Destroys an owner's data key.
    ///
    /// # Errors
    /// [`VaultError`].
    pub async fn shred(&self, owner: &Owner, actor: Actor) -> Result<Shred, VaultError> {
        let _one_at_a_time = self.changing.lock().await;
        self.vault.shred(owner, actor).await
    }
}
