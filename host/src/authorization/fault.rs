//! What kept the authorization server from deciding. It is no refusal: whoever asked may ask again.

use crate::oauth::token::Unsigned;
use crate::store::StoreError;
use crate::vault::VaultError;

/// Why nothing was decided: 503 wherever it is told, and never a denial or a revocation.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error("the store does not answer")]
    Store(#[from] StoreError),
    #[error("the vault does not answer")]
    Vault(#[from] VaultError),
    #[error("there is no key to sign with")]
    Key,
    #[error("whoever vouches for somebody does not tell the keys")]
    Issuer,
    #[error("too much of this is under way")]
    Busy,
    #[error("a policy did not answer, or wants to be asked later")]
    Undecided,
}

impl From<Unsigned> for Fault {
    /// For those who have no other answer.
    fn from(unsigned: Unsigned) -> Self {
        tracing::error!(%unsigned, "an access token was not signed");
        Self::Key
    }
}
