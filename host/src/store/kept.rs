//! What can be done to all tables alike, whatever their records are: forgetting what has expired, and proving that
//! records, indexes and expiries say the same.
//!
//! Every [`Typed`] is [`Kept`], and stands in the list [`super::KEPT`]. A table whose records are counted or have parts
//! elsewhere has a type of its own that passes on to its `Typed` and does the rest.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::engine::{ReadTx, Row, Table, WriteTx};
use super::table::{Typed, expiry_key};
use super::{StoreError, verify::Found};
use crate::env::Timestamp;

/// A table that keeps its own indexes.
pub(super) trait Kept: Sync {
    fn table(&self) -> Table;

    /// The tables whose rows lead to this one's records.
    fn indexes(&self) -> Vec<Table>;

    /// Takes out the record under `key` if it has expired by `now`. Whether it was there and is gone.
    fn forget(&self, tx: &mut WriteTx<'_>, key: &[u8], now: Timestamp) -> Result<bool, StoreError>;

    /// Most effects that forgetting one record has.
    fn effects(&self) -> usize {
        self.indexes().len() + 2
    }

    /// Most reads that forgetting one record takes.
    fn reads(&self) -> usize {
        2
    }

    /// Whether a row of this table can be read, and is in every index where it should be.
    fn check(&self, tx: &mut ReadTx<'_>, row: &Row, found: &mut Found) -> Result<(), StoreError>;

    /// Whether a row of one of the indexes leads to a record, and the record there.
    fn check_index(&self, tx: &mut ReadTx<'_>, index: Table, row: &Row, found: &mut Found) -> Result<(), StoreError>;

    /// Whether there is a record under `key` that expires at this time. One that cannot be read may.
    fn expires_at(&self, tx: &mut ReadTx<'_>, key: &[u8], at: Timestamp) -> Result<bool, StoreError>;
}

impl<R: Serialize + DeserializeOwned> Kept for Typed<R> {
    fn table(&self) -> Table {
        self.table
    }

    fn indexes(&self) -> Vec<Table> {
        self.indexes.iter().map(|index| index.table).collect()
    }

    fn forget(&self, tx: &mut WriteTx<'_>, key: &[u8], now: Timestamp) -> Result<bool, StoreError> {
        let Some(record) = self.get(tx, key)? else { return Ok(false) };
        if self.expiry_of(&record).is_none_or(|expires| expires > now) {
            return Ok(false);
        }
        self.remove_from_indexes(tx, &record)?;
        tx.remove(self.table, key)?;
        Ok(true)
    }

    fn check(&self, tx: &mut ReadTx<'_>, (key, value): &Row, found: &mut Found) -> Result<(), StoreError> {
        let Some(record) = readable(self.decode(value))? else {
            found.unreadable(self.table, key);
            return Ok(());
        };
        if (self.key)(&record) != *key {
            found.stray(self.table, key);
        }
        for index in self.indexes {
            let expected = (index.key)(&record);
            if tx.get(index.table, &expected)?.as_ref() != Some(key) {
                found.missing(index.table, &expected);
            }
        }
        if let Some(expires) = self.expiry_of(&record) {
            let expected = expiry_key(expires, self.table, key);
            if tx.get(Table::Expiry, &expected)?.is_none() {
                found.missing(Table::Expiry, &expected);
            }
        }
        Ok(())
    }

    fn check_index(
        &self,
        tx: &mut ReadTx<'_>,
        index: Table,
        (key, primary): &Row,
        found: &mut Found,
    ) -> Result<(), StoreError> {
        let key_of = self.indexes.iter().find(|of| of.table == index).map(|of| of.key);
        let leads_here = match (tx.get(self.table, primary)?, key_of) {
            (Some(value), Some(key_of)) => match readable(self.decode(&value))? {
                Some(record) => key_of(&record) == *key,
                // Told where the record is.
                None => true,
            },
            _ => false,
        };
        if !leads_here {
            found.stray(index, key);
        }
        Ok(())
    }

    fn expires_at(&self, tx: &mut ReadTx<'_>, key: &[u8], at: Timestamp) -> Result<bool, StoreError> {
        let Some(value) = tx.get(self.table, key)? else { return Ok(false) };
        Ok(readable(self.decode(&value))?.is_none_or(|record| self.expiry_of(&record) == Some(at)))
    }
}

/// What was read, or `None` where the record itself is at fault.
pub(super) fn readable<T>(read: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(StoreError::Unreadable { .. }) => Ok(None),
        Err(failure) => Err(failure),
    }
}
