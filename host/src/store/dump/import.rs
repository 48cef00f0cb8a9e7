//! Rows become the content of an empty store.
//!
//! Rows go in by transactions of bounded size, so an import that breaks off leaves a part of them. A mark that is written
//! first and taken out last keeps such a store from being used: it is refused when it is opened
//! ([`StoreError::Incomplete`]).

use std::sync::Arc;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::{Content, Decoder, DumpError, Header, Item, Summary, summary};
use crate::audit::{Actor, AuditEvent};
use crate::env::Timestamp;
use crate::secret::hex;
use crate::store::engine::{Bounds, Direction, MAX_RANGE, ReadTx, Table, WriteTx};
use crate::store::export::Export;
use crate::store::table::Single;
use crate::store::{Store, StoreError, audit, begin_epoch};

/// Rows of one transaction.
const STEP_ROWS: usize = 1_000;
/// Bytes of keys and values after which a transaction is full.
const STEP_BYTES: usize = 4 * 1024 * 1024;
/// Bytes that are read at once.
const PIECE: usize = 256 * 1024;

const MARK: &str = "importing";
const IMPORTING: Single<bool> = Single::new(MARK);

/// Whether an import into this store has not ended.
pub(in crate::store) fn is_incomplete(tx: &mut ReadTx<'_>) -> Result<bool, StoreError> {
    Ok(IMPORTING.get(tx)?.is_some())
}

pub(super) fn is_mark(table: Table, key: &[u8]) -> bool {
    table == Table::Meta && key == MARK.as_bytes()
}

/// Whether nobody has used the store since it was made: it has nothing but what opening it leaves in `meta`.
pub async fn is_empty(store: &Store) -> Result<bool, StoreError> {
    store.read(has_no_rows).await
}

fn has_no_rows(tx: &mut ReadTx<'_>) -> Result<bool, StoreError> {
    for table in Table::ALL.iter().filter(|table| **table != Table::Meta) {
        if !tx.range(*table, &Bounds::all(), Direction::Forward, 1)?.is_empty() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// An import that is going on. One that is dropped leaves a store that cannot be opened.
pub struct Import {
    store: Store,
    waiting: Vec<(Table, Bytes, Bytes)>,
    bytes: usize,
    content: Content,
}

impl Import {
    /// Begins with an empty store and refuses any other.
    pub async fn begin(store: &Store) -> Result<Self, DumpError> {
        let begun = store
            .write(|tx| -> Result<bool, StoreError> {
                if !has_no_rows(tx)? {
                    return Ok(false);
                }
                // What opening has left comes from the other store or not at all.
                let meta = tx.range(Table::Meta, &Bounds::all(), Direction::Forward, MAX_RANGE)?;
                meta.iter().try_for_each(|(key, _)| tx.remove(Table::Meta, key))?;
                IMPORTING.put(tx, &true)?;
                Ok(true)
            })
            .await?;
        if !begun {
            return Err(DumpError::NotEmpty);
        }
        Ok(Self { store: store.clone(), waiting: Vec::new(), bytes: 0, content: Content::new() })
    }

    /// Adds a row. They come as an export tells them.
    pub async fn row(&mut self, table: Table, key: Bytes, value: Bytes) -> Result<(), DumpError> {
        self.content.row(table, &key, &value);
        self.bytes += key.len() + value.len();
        self.waiting.push((table, key, value));
        if self.waiting.len() >= STEP_ROWS || self.bytes >= STEP_BYTES {
            self.flush().await?;
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), DumpError> {
        self.bytes = 0;
        let rows = Arc::new(std::mem::take(&mut self.waiting));
        let put = move |tx: &mut WriteTx<'_>| -> Result<(), StoreError> {
            rows.iter().try_for_each(|(table, key, value)| tx.put(*table, key, value))
        };
        Ok(self.store.write(put).await?)
    }

    /// Ends it: reads everything back, compares, and takes out the mark.
    pub async fn finish(mut self) -> Result<Summary, DumpError> {
        self.flush().await?;
        let expected = self.content.summary();
        let found = summary(&self.store).await?;
        if found != expected {
            return Err(DumpError::Differs { expected, found });
        }
        self.store.write(|tx| tx.remove(Table::Meta, MARK.as_bytes())).await?;
        Ok(found)
    }
}

/// Puts everything that `from` tells into `into`, which is empty.
pub async fn copy(mut from: Export, into: &Store) -> Result<Summary, DumpError> {
    let mut import = Import::begin(into).await?;
    while let Some(batch) = from.next().await? {
        for (key, value) in batch.rows {
            import.row(batch.table, key.into(), value.into()).await?;
        }
    }
    import.finish().await
}

/// Puts a dump into `into`, which is empty.
pub(super) async fn load(mut from: impl AsyncRead + Unpin, into: &Store) -> Result<(Header, Summary), DumpError> {
    let mut decoder = Decoder::default();
    let mut piece = vec![0; PIECE];
    let mut begun = None;
    loop {
        let count = from.read(&mut piece).await?;
        if count == 0 {
            decoder.finish()?;
            return Err(DumpError::CutShort);
        }
        decoder.add(&piece[..count]);
        while let Some(item) = decoder.item()? {
            match (item, &mut begun) {
                (Item::Header(header), None) => begun = Some((header, Import::begin(into).await?)),
                (Item::Row(table, key, value), Some((_, import))) => import.row(table, key, value).await?,
                (Item::End(_), _) => {
                    if from.read(&mut piece).await? > 0 {
                        return Err(DumpError::Damaged { problem: "something follows its end" });
                    }
                    decoder.finish()?;
                    let (header, import) = begun.ok_or(DumpError::NotADump)?;
                    return Ok((header, import.finish().await?));
                }
                (Item::Header(_), Some(_)) | (Item::Row(..), None) => {
                    return Err(DumpError::Damaged { problem: "its header is not at its beginning" });
                }
            }
        }
    }
}

/// Makes a restored store one that goes on: nothing that was handed out after the backup comes back to life.
///
/// Refresh tokens carry the epoch of the store that they were made in. The new one is later than those of the backup and
/// of the store that is replaced (`replaced`), and no restore of the same backup elsewhere has had it: it is at least the
/// time, in seconds since 1970. Tells the epoch.
pub(super) async fn raise_epoch(
    store: &Store,
    header: &Header,
    summary: Summary,
    replaced: Option<u64>,
) -> Result<u64, StoreError> {
    let taken = Timestamp::from_millis(header.taken_ms);
    store
        .write(move |tx| {
            let later = replaced.map_or(0, |epoch| epoch.saturating_add(1));
            let least = later.max(tx.now().as_millis() / 1_000);
            let epoch = begin_epoch(tx, least)?;
            let digest = hex(summary.digest.as_bytes());
            let event = AuditEvent::BackupRestored { taken, rows: summary.rows, digest, epoch };
            audit::append(tx, Actor::System, &event)?;
            Ok(epoch)
        })
        .await
}

impl std::fmt::Debug for Import {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Import")
    }
}
