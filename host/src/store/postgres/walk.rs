//! Walks through everything: the export of one state, and what the tables hold.
//!
//! Each is one snapshot on one of the connections that read, which is without the limits of time that reads of requests
//! have. An export goes from key to key, a page at a time, as fast as somebody takes what it tells. While it runs, the
//! server keeps rows that were changed or removed since.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::super::StoreError;
use super::super::engine::Table;
use super::super::export::{self, Abandoned, Export, Sink};
use super::super::stats::{FileStats, Stats, TableStats};
use super::fetched::{Fetched, number};
use super::link::{Fault, answered, within};
use super::{Engine, READ_ATTEMPTS, Reading, statements};

/// Rows of one page. With the largest values these are some 16 MiB.
const PAGE: i64 = 64;
/// Longest answer to a statement of a walk: the server gives up after sixty seconds.
const PATIENCE: Duration = Duration::from_secs(65);

impl Engine {
    /// Streams all rows of one state.
    pub(in crate::store) async fn export(&self, limit: Option<Duration>) -> Result<Export, StoreError> {
        let reading = self.begin_walk().await?;
        let (page, numbers) = (statements::page(&self.schema), statements::numbers(&self.schema));
        let (mut sink, export) = export::channel(limit);
        let (tasks, finished) = (self.tasks.clone(), self.finished.clone());
        let walk = async move {
            let told = match tell_all(&reading, &numbers, &page, &mut sink).await {
                Ok(()) => {
                    reading.finish(&tasks);
                    Ok(())
                }
                Err(Stopped::Faulty(fault)) => Err(fault.into_error()),
                // Whoever asked has gone away.
                Err(Stopped::Abandoned) => return,
            };
            _ = sink.end(told).await;
        };
        self.tasks.spawn(async move {
            // A close does not wait for whoever reads this.
            finished.run_until_cancelled(walk).await;
        });
        Ok(export)
    }

    /// A table that holds something and that this version does not know.
    pub(in crate::store) async fn unknown_table(&self) -> Result<Option<String>, StoreError> {
        let reading = self.begin_walk().await?;
        let unknown = unknown(&reading, &statements::numbers(&self.schema)).await.map_err(Fault::into_error)?;
        reading.finish(&self.tasks);
        Ok(unknown)
    }

    /// Counts rows and bytes. The count goes on if the returned future is dropped, as it does on the server, and `held`
    /// with it.
    pub(in crate::store) async fn stats(self: &Arc<Self>, held: impl Send + 'static) -> Result<Stats, StoreError> {
        let engine = Arc::clone(self);
        let count = async move {
            let _held = held;
            engine.count().await
        };
        self.tasks.spawn(count).await.map_err(|_| StoreError::Closed)?
    }

    async fn count(&self) -> Result<Stats, StoreError> {
        let reading = self.begin_walk().await?;
        let client = reading.client();
        let (count, size) = (statements::count(&self.schema), statements::size(&self.schema));
        let counting =
            async { Ok::<_, Fault>((client.query(&count, &[]).await?, client.query_one(&size, &[]).await?)) };
        let (counted, sizes) = within(PATIENCE, counting).await.map_err(Fault::into_error)?;
        let read = || {
            let unsigned = |value: i64| u64::try_from(value).unwrap_or_default();
            let mut counts = BTreeMap::new();
            for row in &counted {
                let [rows, bytes, allocated] = [row.try_get(1)?, row.try_get(2)?, row.try_get(3)?].map(unsigned);
                counts.insert(row.try_get::<_, i16>(0)?, (rows, bytes, allocated));
            }
            let of = |table: Table| {
                let (rows, bytes, allocated_bytes) = counts.get(&number(table)).copied().unwrap_or_default();
                TableStats { table, rows, bytes, allocated_bytes }
            };
            let (bytes, page_bytes) = (unsigned(sizes.try_get(0)?), unsigned(sizes.try_get(1)?));
            let file = FileStats { bytes, page_bytes, free_pages: None };
            let tables = export::tables().into_iter().map(of).collect();
            Ok::<_, tokio_postgres::Error>(Stats { tables, file: Some(file), writer: self.meter.read() })
        };
        let stats = read().map_err(|error| Fault::from(error).into_error())?;
        reading.finish(&self.tasks);
        Ok(stats)
    }

    /// A snapshot that may be read for long.
    async fn begin_walk(&self) -> Result<Reading, StoreError> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            let begun = async {
                let reading = self.begin(&mut Fetched::default()).await?;
                answered(reading.client().batch_execute(statements::PATIENTLY)).await?;
                Ok(reading)
            };
            match begun.await {
                Ok(reading) => return Ok(reading),
                Err(Fault::Lost(_)) if attempts < READ_ATTEMPTS => {}
                Err(fault) => return Err(fault.into_error()),
            }
        }
    }
}

/// Why not everything was told.
enum Stopped {
    Faulty(Fault),
    Abandoned,
}

impl From<Fault> for Stopped {
    fn from(fault: Fault) -> Self {
        Self::Faulty(fault)
    }
}

impl From<Abandoned> for Stopped {
    fn from(_: Abandoned) -> Self {
        Self::Abandoned
    }
}

/// The number of a table that holds something and that this version does not know.
async fn unknown(reading: &Reading, numbers: &str) -> Result<Option<String>, Fault> {
    for row in within(PATIENCE, reading.client().query(numbers, &[])).await? {
        let found: i16 = row.try_get(0)?;
        if !Table::ALL.iter().any(|table| number(*table) == found) {
            return Ok(Some(found.to_string()));
        }
    }
    Ok(None)
}

async fn tell_all(reading: &Reading, numbers: &str, page: &str, sink: &mut Sink) -> Result<(), Stopped> {
    if let Some(name) = unknown(reading, numbers).await? {
        return Err(Fault::Refused(StoreError::UnknownTable { name }).into());
    }
    let client = reading.client();
    let page = answered(client.prepare(page)).await?;
    for table in export::tables() {
        // Nothing comes before the empty key.
        let mut from = Some(Vec::new());
        while let Some(first) = from.take() {
            let number = number(table);
            let rows = within(PATIENCE, client.query(&page, &[&number, &first, &PAGE])).await?;
            let is_full = i64::try_from(rows.len()).is_ok_and(|rows| rows == PAGE);
            for row in rows {
                let (key, value) = (row.try_get(0).map_err(Fault::from)?, row.try_get(1).map_err(Fault::from)?);
                if is_full {
                    from = Some(next_after(&key));
                }
                sink.row(table, (key, value)).await?;
            }
        }
    }
    Ok(())
}

/// The least key behind this one.
fn next_after(key: &Vec<u8>) -> Vec<u8> {
    [key.as_slice(), &[0]].concat()
}
