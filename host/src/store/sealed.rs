//! Fields that the vault has sealed: where each one is, and a walk through all of them.
//!
//! A table with such fields joins by one line in [`super::SEALED`], which says how to find them in its records. What is
//! done to all sealed fields alike (`portcullis vault verify`) then reaches them.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::engine::{Bounds, Direction, MAX_RANGE};
use super::table::Typed;
use super::{ReadTx, Store, StoreError};
use crate::ids::Owner;
use crate::secret::Sealed;

/// Where a sealed field is. A field that was sealed for one place opens at no other.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// Whose data key seals it.
    pub owner: Owner,
    /// Name of the table, which is part of the stored format and never changes.
    pub table: &'static str,
    /// Which record of the table: its key, or its id where that says more.
    pub key: Vec<u8>,
    /// Name of the field, never changed either.
    pub field: &'static str,
    /// Goes up with each write of the field, so that an earlier value cannot be put back alone.
    pub revision: u64,
}

/// A sealed field and where it was found.
pub type SealedField = (Place, Sealed);

/// A table with sealed fields.
pub trait Sealing: Sync {
    /// The sealed fields of at most `limit` records behind the key `after`, in key order, and the key to go on from.
    fn fields(
        &self,
        tx: &mut ReadTx<'_>,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<(Vec<SealedField>, Option<Vec<u8>>), StoreError>;
}

/// The sealed fields of a table of typed records.
pub(super) struct SealedIn<R: 'static> {
    pub(super) table: &'static Typed<R>,
    /// Those of one record.
    pub(super) fields: fn(&R) -> Result<Vec<SealedField>, StoreError>,
}

impl<R: Serialize + DeserializeOwned> Sealing for SealedIn<R> {
    fn fields(
        &self,
        tx: &mut ReadTx<'_>,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<(Vec<SealedField>, Option<Vec<u8>>), StoreError> {
        let limit = limit.clamp(1, MAX_RANGE);
        let bounds = after.map_or_else(Bounds::all, Bounds::after);
        let rows = tx.range(self.table.table, &bounds, Direction::Forward, limit)?;
        let next = rows.last().filter(|_| rows.len() == limit).map(|(key, _)| key.clone());
        let mut fields = Vec::new();
        for (_, value) in &rows {
            fields.extend((self.fields)(&self.table.decode(value)?)?);
        }
        Ok((fields, next))
    }
}

/// The sealed fields of at most `limit` records of one table, behind the key `after`.
pub async fn fields(
    store: &Store,
    table: &'static dyn Sealing,
    after: Option<Vec<u8>>,
    limit: usize,
) -> Result<(Vec<SealedField>, Option<Vec<u8>>), StoreError> {
    store.read(move |tx| table.fields(tx, after.as_deref(), limit)).await
}
