//! Rows become the content of an empty store.
//!
//! Rows go in by transactions of bounded size, so an import that breaks off leaves a part of them. A mark that is written
//! first and taken out last keeps such a store from being used: it is refused when it is opened
//! ([`StoreError::Incomplete`]). The mark says whose import it is. The next import takes it over, takes out what is there
//! and begins anew; the one before, should it still go on, can do nothing more.

use std::sync::Arc;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::{Content, Decoder, DumpError, Header, Item, Summary, summary};
use crate::audit::{Actor, AuditEvent, RevocationReason};
use crate::env::{Env, Timestamp};
use crate::ids::ReplicaId;
use crate::store::engine::{Bounds, Direction, MAX_RANGE, ReadTx, Row, Table, WriteTx};
use crate::store::revocations::{Whose, revoke_all_in};
use crate::store::{Store, StoreError, audit, begin_epoch, browser_sessions, migrations, replicas};

/// Rows of one transaction.
const STEP_ROWS: usize = 1_000;
/// Bytes of keys and values after which a transaction is full.
const STEP_BYTES: usize = 4 * 1024 * 1024;
/// Rows that one transaction takes out. With the largest values these are some 25 MiB.
const EMPTYING_STEP: usize = 100;
/// Bytes that are read at once.
const PIECE: usize = 256 * 1024;

/// Under this name in `meta`: which opening of the store imports into it.
const MARK: &[u8] = b"importing";

/// Whether an import into this store has not ended.
pub(in crate::store) fn is_incomplete(tx: &mut ReadTx<'_>) -> Result<bool, StoreError> {
    Ok(tx.get(Table::Meta, MARK)?.is_some())
}

pub(super) fn is_mark(table: Table, key: &[u8]) -> bool {
    table == Table::Meta && key == MARK
}

/// Whether nobody has used the store since it was made: it has nothing but what opening it leaves in `meta`.
pub async fn is_empty(store: &Store) -> Result<bool, StoreError> {
    Ok(store.unknown_table().await?.is_none() && store.read(has_no_rows).await?)
}

fn has_no_rows(tx: &mut ReadTx<'_>) -> Result<bool, StoreError> {
    for table in Table::ALL.iter().filter(|table| **table != Table::Meta) {
        if !tx.range(*table, &Bounds::all(), Direction::Forward, 1)?.is_empty() {
            return Ok(false);
        }
    }
    Ok(true)
}

fn meta(tx: &mut ReadTx<'_>) -> Result<Vec<Row>, StoreError> {
    tx.range(Table::Meta, &Bounds::all(), Direction::Forward, MAX_RANGE)
}

/// Fails unless the import of this opening goes on.
fn must_go_on(tx: &mut ReadTx<'_>, owner: &ReplicaId) -> Result<(), DumpError> {
    match tx.get(Table::Meta, MARK)? {
        Some(mark) if mark == owner.as_str().as_bytes() => Ok(()),
        _ => Err(DumpError::TakenOver),
    }
}

/// What was there when an import began.
enum Found {
    Nothing,
    /// What one has left that broke off.
    APart,
    Something,
}

/// An import that is going on. One that is dropped leaves a store that cannot be opened, unless it is abandoned.
pub struct Import {
    store: Store,
    waiting: Vec<(Table, Bytes, Bytes)>,
    bytes: usize,
    content: Content,
}

impl Import {
    /// Begins with an empty store, or one into which an import broke off, and refuses any other.
    pub async fn begin(store: &Store) -> Result<Self, DumpError> {
        if let Some(name) = store.unknown_table().await? {
            return Err(StoreError::UnknownTable { name }.into());
        }
        let owner = store.replica().clone();
        let begin = move |tx: &mut WriteTx<'_>| -> Result<Found, StoreError> {
            let found = if is_incomplete(tx)? {
                Found::APart
            } else if has_no_rows(tx)? {
                migrations::readable(tx)?;
                // What opening has left comes from the other store or not at all.
                meta(tx)?.iter().try_for_each(|(key, _)| tx.remove(Table::Meta, key))?;
                Found::Nothing
            } else {
                return Ok(Found::Something);
            };
            tx.put(Table::Meta, MARK, owner.as_str().as_bytes())?;
            Ok(found)
        };
        match store.write(begin).await? {
            Found::Nothing => {}
            Found::APart => empty(store).await?,
            Found::Something => return Err(DumpError::NotEmpty),
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
        let owner = self.store.replica().clone();
        let put = move |tx: &mut WriteTx<'_>| -> Result<(), DumpError> {
            must_go_on(tx, &owner)?;
            Ok(rows.iter().try_for_each(|(table, key, value)| tx.put(*table, key, value))?)
        };
        self.store.write(put).await
    }

    /// Reads everything back and compares. The mark stays.
    pub(super) async fn read_back(&mut self) -> Result<Summary, DumpError> {
        self.flush().await?;
        let expected = self.content.summary();
        let found = summary(&self.store).await?;
        if found == expected { Ok(found) } else { Err(DumpError::Differs { expected, found }) }
    }

    /// Takes out the mark: what was put in and read back is a store from now on.
    pub(super) async fn finish(self) -> Result<(), DumpError> {
        take_out_mark(&self.store).await
    }
}

async fn take_out_mark(store: &Store) -> Result<(), DumpError> {
    let owner = store.replica().clone();
    let take_out = move |tx: &mut WriteTx<'_>| -> Result<(), DumpError> {
        must_go_on(tx, &owner)?;
        Ok(tx.remove(Table::Meta, MARK)?)
    };
    store.write(take_out).await
}

/// Takes out what an import of this opening has put in, the mark last, so that the place is empty again. Where none goes
/// on, nothing is changed.
pub(super) async fn abandon(store: &Store) -> Result<(), DumpError> {
    empty(store).await?;
    take_out_mark(store).await
}

/// Takes out everything but the mark.
async fn empty(store: &Store) -> Result<(), DumpError> {
    for table in Table::ALL {
        loop {
            let owner = store.replica().clone();
            let step = move |tx: &mut WriteTx<'_>| -> Result<bool, DumpError> {
                must_go_on(tx, &owner)?;
                let rows = tx.range(*table, &Bounds::all(), Direction::Forward, EMPTYING_STEP)?;
                let out = rows.iter().filter(|(key, _)| !is_mark(*table, key));
                out.clone().try_for_each(|(key, _)| tx.remove(*table, key))?;
                Ok(out.count() > 0)
            };
            if !store.write(step).await? {
                break;
            }
        }
    }
    Ok(())
}

/// Puts everything that `from` holds into `into`, which is empty. Nobody works with either.
/// `told` hears how many rows have been copied.
pub(super) async fn copy(from: &Store, into: &Store, told: &dyn Fn(u64)) -> Result<Summary, DumpError> {
    must_be_alone(from).await?;
    let mut export = from.export_within(None).await?;
    let mut import = Import::begin(into).await?;
    let (mut copied_meta, mut rows) = (Vec::new(), 0);
    while let Some(batch) = export.next().await? {
        if batch.table == Table::Meta && copied_meta.len() < MAX_RANGE {
            copied_meta.extend_from_slice(&batch.rows);
        }
        rows += batch.rows.len() as u64;
        for (key, value) in batch.rows {
            import.row(batch.table, key.into(), value.into()).await?;
        }
        told(rows);
    }
    let copied = import.read_back().await?;
    must_be_alone(from).await?;
    // Among the single values is what is counted of changes, of the audit trail and of decisions.
    copied_meta.truncate(MAX_RANGE);
    if from.read(meta).await? != copied_meta {
        return Err(DumpError::Changed);
    }
    import.finish().await?;
    Ok(copied)
}

/// Fails where gateways work with the store. A file is nobody else's as long as it is open.
async fn must_be_alone(store: &Store) -> Result<(), DumpError> {
    if !store.is_shared() {
        return Ok(());
    }
    let live = replicas::live(store).await?;
    if live.is_empty() {
        return Ok(());
    }
    let name = |replica: replicas::Replica| match replica.address {
        Some(address) => format!("{} at {address}", replica.id),
        None => replica.id.to_string(),
    };
    Err(DumpError::InUse { gateways: live.into_iter().map(name).collect() })
}

/// Reads all of a dump, and tells what it says of itself if it is whole.
pub async fn check(from: impl AsyncRead + Unpin) -> Result<(Header, Summary), DumpError> {
    let mut pieces = Pieces::new(from);
    let Some(Item::Header(header)) = pieces.next().await? else { return Err(DumpError::NotADump) };
    loop {
        match pieces.next().await? {
            Some(Item::Row(..)) => {}
            Some(Item::End(summary)) => {
                pieces.end().await?;
                return Ok((header, summary));
            }
            Some(Item::Header(_)) | None => return Err(DumpError::CutShort),
        }
    }
}

/// Puts a dump into `into`, which is empty. The import has yet to be ended.
pub(in crate::store) async fn load(
    from: impl AsyncRead + Unpin,
    into: &Store,
) -> Result<(Header, Import, Summary), DumpError> {
    let mut pieces = Pieces::new(from);
    let Some(Item::Header(header)) = pieces.next().await? else { return Err(DumpError::NotADump) };
    let mut import = Import::begin(into).await?;
    loop {
        match pieces.next().await? {
            Some(Item::Row(table, key, value)) => import.row(table, key, value).await?,
            Some(Item::End(_)) => {
                pieces.end().await?;
                let summary = import.read_back().await?;
                return Ok((header, import, summary));
            }
            Some(Item::Header(_)) | None => return Err(DumpError::CutShort),
        }
    }
}

/// A dump as it is read.
struct Pieces<R> {
    from: R,
    decoder: Decoder,
    piece: Vec<u8>,
}

impl<R: AsyncRead + Unpin> Pieces<R> {
    fn new(from: R) -> Self {
        Self { from, decoder: Decoder::default(), piece: vec![0; PIECE] }
    }

    /// The next item. An end that comes too early is an error, and so is anything behind the last item.
    async fn next(&mut self) -> Result<Option<Item>, DumpError> {
        loop {
            if let Some(item) = self.decoder.item()? {
                return Ok(Some(item));
            }
            let count = self.from.read(&mut self.piece).await?;
            if count == 0 {
                self.decoder.finish()?;
                return Ok(None);
            }
            self.decoder.add(&self.piece[..count]);
        }
    }

    /// Makes sure that nothing follows.
    async fn end(&mut self) -> Result<(), DumpError> {
        self.next().await.map(drop)
    }
}

/// Ends an import of a dump: makes it a store that goes on. Nothing that was handed out after the backup comes back to life,
/// and nothing that was ended after it, as far as that can be told.
///
/// Refresh tokens carry the epoch of the store that they were made in. The new one is later than those of the backup and
/// of the store that is replaced (`replaced`), and no restore of the same backup elsewhere has had it: it is at least the
/// time, in seconds since 1970. Tells the epoch.
///
/// All of that is one transaction with the removal of the mark: until then the store is none, and from then on it is whole.
pub(super) async fn go_on(
    import: Import,
    header: &Header,
    summary: Summary,
    replaced: Option<u64>,
    env: &Env,
) -> Result<u64, DumpError> {
    let store = &import.store;
    migrations::prepare(store, env).await?;
    let taken = Timestamp::from_millis(header.taken_ms);
    let owner = store.replica().clone();
    let go_on = move |tx: &mut WriteTx<'_>| {
        must_go_on(tx, &owner)?;
        let later = replaced.map_or(0, |epoch| epoch.saturating_add(1));
        let least = later.max(tx.now().as_millis() / 1_000);
        let epoch = begin_epoch(tx, least)?;
        revoke_all_in(tx, &Whose::Everybody, RevocationReason::Operator, Actor::System)?;
        browser_sessions::end_every_in(tx, Actor::System)?;
        let digest = summary.digest.to_hex();
        let event = AuditEvent::BackupRestored { taken, rows: summary.rows, digest, epoch };
        audit::append(tx, Actor::System, &event)?;
        tx.remove(Table::Meta, MARK)?;
        Ok(epoch)
    };
    store.write(go_on).await
}

impl std::fmt::Debug for Import {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Import")
    }
}
