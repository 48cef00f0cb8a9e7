//! The whole content of a store as a stream: one consistent state, table by table in the order of their numbers, each in
//! key order, in steps of bounded size.
//!
//! An engine fills a [`Sink`], whoever asked reads the [`Export`]. The state is pinned while the stream is read: redb
//! cannot use pages again that are freed meanwhile, so the file grows by what is written in that time. That is why an
//! export of a store that is worked with ends after [`MAX_TIME`], and why it ends with an error then and never just stops.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::StoreError;
use super::engine::{Row, Table};

/// Longest time for which one state is held while others write.
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
    until: Option<Instant>,
    batch: Option<Batch>,
    bytes: usize,
}

/// Nobody reads the export any more, or not fast enough.
pub(super) struct Abandoned;

/// Both ends of an export that takes no longer than `limit`.
pub(super) fn channel(limit: Option<Duration>) -> (Sink, Export) {
    let (sender, pieces) = mpsc::channel(WAITING);
    let until = limit.map(|limit| Instant::now() + limit);
    let sink = Sink { pieces: sender, until, batch: None, bytes: 0 };
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
        let sent = match self.until {
            // A timeout alone would let everything pass for which there is room.
            Some(until) if until <= Instant::now() => return Err(Abandoned),
            Some(until) => timeout_at(until, self.pieces.send(piece)).await.map_err(|_| Abandoned)?,
            None => self.pieces.send(piece).await,
        };
        sent.map_err(|_| Abandoned)
    }
}

impl std::fmt::Debug for Export {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Export")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn told(limit: Option<Duration>, rows: u32, pause: Duration) -> Result<usize, StoreError> {
        let (mut sink, mut export) = channel(limit);
        let tell = async move {
            for row in 0..rows {
                tokio::time::sleep(pause).await;
                if sink.row(Table::Decisions, (row.to_be_bytes().to_vec(), vec![0; BATCH_BYTES])).await.is_err() {
                    return;
                }
            }
            _ = sink.end(Ok(())).await;
        };
        let read = async {
            let mut seen = 0;
            while let Some(batch) = export.next().await? {
                seen += batch.rows.len();
            }
            Ok(seen)
        };
        tokio::join!(tell, read).1
    }

    #[tokio::test(start_paused = true)]
    async fn an_export_ends_in_time_however_fast_it_is_read() {
        let minute = Duration::from_secs(60);
        assert_eq!(told(Some(MAX_TIME), 14, minute).await.unwrap(), 14);
        assert!(matches!(told(Some(MAX_TIME), 16, minute).await, Err(StoreError::Unavailable { .. })));
        assert_eq!(told(None, 60, minute).await.unwrap(), 60, "nobody waits for what it pins");
    }
}
