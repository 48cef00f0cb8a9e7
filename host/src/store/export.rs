//! The whole content of a store as a stream: one consistent state, table by table in the order of their numbers, each in
//! key order, in steps of bounded size.
//!
//! An engine fills a [`Sink`], whoever asked reads the [`Export`]. The state is pinned while the stream is read: redb
//! cannot use pages again that are freed meanwhile, so the file grows by what is written in that time. That is why an
//! export ends after [`MAX_TIME`], and why it ends with an error then and never just stops.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::StoreError;
use super::engine::{Row, Table};

/// Longest time for which one state is held.
pub const MAX_TIME: Duration = Duration::from_secs(15 * 60);
/// A batch is passed on once it has this many bytes of keys and values…
const BATCH_BYTES: usize = 256 * 1024;
/// …or this many rows.
const BATCH_ROWS: usize = 500;
/// Batches that may wait to be read.
const WAITING: usize = 4;

/// Some rows of one table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    pub table: Table,
    pub rows: Vec<Row>,
}

enum Piece {
    Rows(Batch),
    Failed(StoreError),
    /// Everything was told.
    End,
}

/// The tables in the order in which an export tells them.
pub fn tables() -> Vec<Table> {
    let mut tables = Table::ALL.to_vec();
    tables.sort_by_key(|table| table.number());
    tables
}

/// A stream of rows. Dropping it ends the export.
pub struct Export {
    pieces: mpsc::Receiver<Piece>,
    has_ended: bool,
}

impl Export {
    /// The next rows, or `None` after the last ones.
    pub async fn next(&mut self) -> Result<Option<Batch>, StoreError> {
        if self.has_ended {
            return Ok(None);
        }
        match self.pieces.recv().await {
            Some(Piece::Rows(batch)) => Ok(Some(batch)),
            Some(Piece::Failed(failure)) => Err(failure),
            Some(Piece::End) => {
                self.has_ended = true;
                Ok(None)
            }
            // What was told so far is not everything.
            None => {
                let message =
                    format!("the export did not end, or took longer than {} minutes", MAX_TIME.as_secs() / 60);
                let source = Arc::new(io::Error::new(io::ErrorKind::TimedOut, message));
                Err(StoreError::Unavailable { source })
            }
        }
    }
}

/// Where an engine puts the rows of its export.
pub(super) struct Sink {
    pieces: mpsc::Sender<Piece>,
    until: Instant,
    batch: Option<Batch>,
    bytes: usize,
}

/// Nobody reads the export any more, or not fast enough.
pub(super) struct Abandoned;

/// Both ends of an export.
pub(super) fn channel() -> (Sink, Export) {
    let (sender, pieces) = mpsc::channel(WAITING);
    let sink = Sink { pieces: sender, until: Instant::now() + MAX_TIME, batch: None, bytes: 0 };
    (sink, Export { pieces, has_ended: false })
}

impl Sink {
    /// Adds the next row, and waits where too many wait already.
    pub(super) async fn row(&mut self, table: Table, row: Row) -> Result<(), Abandoned> {
        if self.batch.as_ref().is_some_and(|batch| batch.table != table) {
            self.flush().await?;
        }
        self.bytes += row.0.len() + row.1.len();
        let batch = self.batch.get_or_insert_with(|| Batch { table, rows: Vec::new() });
        batch.rows.push(row);
        if batch.rows.len() >= BATCH_ROWS || self.bytes >= BATCH_BYTES {
            self.flush().await?;
        }
        Ok(())
    }

    /// Ends the export: with everything told, or with what kept it from that.
    pub(super) async fn end(mut self, told: Result<(), StoreError>) -> Result<(), Abandoned> {
        match told {
            Ok(()) => {
                self.flush().await?;
                self.send(Piece::End).await
            }
            Err(failure) => self.send(Piece::Failed(failure)).await,
        }
    }

    async fn flush(&mut self) -> Result<(), Abandoned> {
        self.bytes = 0;
        match self.batch.take() {
            Some(batch) => self.send(Piece::Rows(batch)).await,
            None => Ok(()),
        }
    }

    async fn send(&self, piece: Piece) -> Result<(), Abandoned> {
        match timeout_at(self.until, self.pieces.send(piece)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Abandoned),
        }
    }
}

impl std::fmt::Debug for Export {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Export")
    }
}
