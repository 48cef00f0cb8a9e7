//! A table of records that knows how many it has, for what strangers can add to.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::engine::{Row, Table};
use super::kept::Kept;
use super::table::{Single, Typed};
use super::verify::Found;
use super::{ReadTx, StoreError, WriteTx};
use crate::env::Timestamp;

/// Records with a count of them, which is right after each transaction.
pub(super) struct Counted<R: 'static> {
    pub(super) records: Typed<R>,
    pub(super) count: Single<u64>,
}

impl<R: Serialize + DeserializeOwned> Counted<R> {
    /// How many there are, expired ones that nobody has taken out yet among them.
    pub(super) fn len(&self, tx: &mut ReadTx<'_>) -> Result<u64, StoreError> {
        Ok(self.count.get(tx)?.unwrap_or(0))
    }

    /// Puts in a record whose key is free.
    pub(super) fn add(&self, tx: &mut WriteTx<'_>, record: &R) -> Result<(), StoreError> {
        let count = self.len(tx)? + 1;
        self.count.put(tx, &count)?;
        self.records.put(tx, record)
    }

    /// Puts a record in the place of the one with the same key.
    pub(super) fn replace(&self, tx: &mut WriteTx<'_>, record: &R) -> Result<(), StoreError> {
        self.records.put(tx, record)
    }

    pub(super) fn get(&self, tx: &mut ReadTx<'_>, key: &[u8]) -> Result<Option<R>, StoreError> {
        self.records.get(tx, key)
    }

    /// Takes a record out and tells what it was.
    pub(super) fn remove(&self, tx: &mut WriteTx<'_>, key: &[u8]) -> Result<Option<R>, StoreError> {
        let removed = self.records.remove(tx, key)?;
        if removed.is_some() {
            self.forgot_one(tx)?;
        }
        Ok(removed)
    }

    fn forgot_one(&self, tx: &mut WriteTx<'_>) -> Result<(), StoreError> {
        let count = self.len(tx)?.saturating_sub(1);
        self.count.put(tx, &count)
    }
}

impl<R: Serialize + DeserializeOwned> Kept for Counted<R> {
    fn table(&self) -> Table {
        self.records.table
    }

    fn indexes(&self) -> Vec<Table> {
        self.records.indexes()
    }

    fn forget(&self, tx: &mut WriteTx<'_>, key: &[u8], now: Timestamp) -> Result<bool, StoreError> {
        let is_gone = self.records.forget(tx, key, now)?;
        if is_gone {
            self.forgot_one(tx)?;
        }
        Ok(is_gone)
    }

    fn effects(&self) -> usize {
        self.records.effects() + 1
    }

    fn check(&self, tx: &mut ReadTx<'_>, row: &Row, found: &mut Found) -> Result<(), StoreError> {
        self.records.check(tx, row, found)
    }

    fn check_index(&self, tx: &mut ReadTx<'_>, index: Table, row: &Row, found: &mut Found) -> Result<(), StoreError> {
        self.records.check_index(tx, index, row, found)
    }

    fn expires_at(&self, tx: &mut ReadTx<'_>, key: &[u8], at: Timestamp) -> Result<bool, StoreError> {
        self.records.expires_at(tx, key, at)
    }
}
