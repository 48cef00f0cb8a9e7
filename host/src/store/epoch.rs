//! Which life of the store this is: a store that was restored from a backup begins another one, so that nothing that was
//! handed out after the backup counts again.

use super::table::Single;
use super::{ReadTx, StoreError};

pub(super) const EPOCH: Single<u64> = Single::new("epoch");

/// The present one. The first is 0.
pub fn current(tx: &mut ReadTx<'_>) -> Result<u64, StoreError> {
    Ok(EPOCH.get(tx)?.unwrap_or(0))
}
