//! A copy of the audit trail for whoever collects logs: lines of JSON in a file, or messages to a syslog daemon.
//!
//! The trail in the store is what counts. The copy follows it from a place that is remembered in a file of its own, so that each
//! row is written at least once: what was written and not remembered is written again after a crash. Nothing waits for it; a
//! copy that cannot be written lags, which is counted and told.
//!
//! The trail is in the order of its times and the place is a number. Each look at the trail therefore counts: all rows up to
//! the number that was the last when it began have to be found, or else the whole trail is looked at. What is not found even
//! then was pruned. A row that cannot be read is told as such, with its number, and the rest goes on.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::AuditExport;
use crate::env::Timestamp;
use crate::store::audit::{self, Found};
use crate::store::{Store, StoreError};

mod place;
#[cfg(test)]
mod tests;
mod write;

use place::{Place, remembered, replace};
use write::{Target, blocking};

/// Between two looks at the trail.
const INTERVAL: Duration = Duration::from_secs(1);
/// The same after a failure.
const PAUSE: Duration = Duration::from_secs(5);
/// Rows that are read at once.
const BATCH: usize = 500;
/// Rows are in the order of their times, which a clock that is set back disturbs: so far back each look begins again. Only
/// if that does not find all rows, the whole trail is looked at.
const OVERLAP: Duration = Duration::from_secs(600);
/// Name of the file in `data_dir` that remembers the place.
const PLACE: &str = "audit-export.json";

/// How a copy fares, for operators. Clones tell of the same.
#[derive(Clone, Debug)]
pub struct ExportState(Arc<Counts>);

#[derive(Debug)]
struct Counts {
    exported: AtomicU64,
    failures: AtomicU64,
    began: Instant,
    /// When it had all rows that there were, in milliseconds since it began.
    caught_up_ms: AtomicU64,
}

impl ExportState {
    fn new() -> Self {
        let [exported, failures, caught_up_ms] = Default::default();
        Self(Arc::new(Counts { exported, failures, began: Instant::now(), caught_up_ms }))
    }

    /// Rows that were copied since the start.
    pub fn exported(&self) -> u64 {
        self.0.exported.load(Ordering::Relaxed)
    }

    /// Tries that failed since the start.
    pub fn failures(&self) -> u64 {
        self.0.failures.load(Ordering::Relaxed)
    }

    /// How long ago it had all rows that there were.
    pub fn lag(&self) -> Duration {
        let caught_up = Duration::from_millis(self.0.caught_up_ms.load(Ordering::Relaxed));
        self.0.began.elapsed().saturating_sub(caught_up)
    }

    fn has_caught_up(&self, at: Instant) {
        let millis = at.saturating_duration_since(self.0.began).as_millis();
        self.0.caught_up_ms.fetch_max(u64::try_from(millis).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// Why rows were not copied.
#[derive(Debug, thiserror::Error)]
enum ExportError {
    #[error("the trail cannot be read")]
    Store(#[from] StoreError),
    #[error("{} cannot be written", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Copies the trail.
pub struct Exporter {
    store: Store,
    target: Target,
    place: Place,
    /// Numbers above `place.sequence` whose rows are copied, so that a look that failed does not copy them again when it is
    /// repeated. At most those of the rows that one look has to find; all up to `place.sequence` are forgotten.
    written: BTreeSet<u64>,
    remembered_in: PathBuf,
    /// A row as operators see it.
    line: fn(&Found) -> Value,
    state: ExportState,
}

impl Exporter {
    /// A copy to `target`, from where the last one in `data_dir` has come to. `line` writes a row.
    pub async fn new(store: Store, target: &AuditExport, data_dir: &Path, line: fn(&Found) -> Value) -> Self {
        let remembered_in = data_dir.join(PLACE);
        let target = Target::new(target);
        let name = target.name();
        let at = remembered_in.clone();
        let place = blocking(move || Ok(remembered(&at))).await.ok().flatten();
        let place = place.filter(|place| place.target == name);
        let place = place.unwrap_or_else(|| Place { target: name, ..Place::default() });
        Self { store, target, place, written: BTreeSet::new(), remembered_in, line, state: ExportState::new() }
    }

    pub fn state(&self) -> ExportState {
        self.state.clone()
    }

    /// Copies until `stopping`.
    pub async fn run(mut self, stopping: CancellationToken) {
        let mut fails = false;
        while !stopping.is_cancelled() {
            let wait = match self.pass(&stopping).await {
                Ok(()) => {
                    fails = false;
                    INTERVAL
                }
                Err(failure) => {
                    self.state.0.failures.fetch_add(1, Ordering::Relaxed);
                    self.target.close();
                    if !std::mem::replace(&mut fails, true) {
                        let error: &(dyn std::error::Error + 'static) = &failure;
                        tracing::warn!(error, "the audit trail is not copied; trying again");
                    }
                    PAUSE
                }
            };
            stopping.run_until_cancelled(tokio::time::sleep(wait)).await;
        }
    }

    /// Copies what there is to copy now.
    async fn pass(&mut self, stopping: &CancellationToken) -> Result<(), ExportError> {
        let begun = Instant::now();
        let last = audit::last_sequence(&self.store).await?;
        if last < self.place.sequence {
            tracing::warn!("the audit trail is shorter than its copy: it is copied anew");
            (self.place.at_ms, self.place.sequence) = (0, 0);
            self.written.clear();
        }
        if last > self.place.sequence {
            let at_ms = self.look(last, stopping).await?;
            if stopping.is_cancelled() {
                return self.remember(Place { sequence: self.complete(), ..self.place.clone() }).await;
            }
            // What was not found is no longer there: all that is left up to `last` is copied.
            self.remember(Place { at_ms, sequence: last, ..self.place.clone() }).await?;
        }
        self.state.has_caught_up(begun);
        Ok(())
    }

    /// Copies all rows up to number `last`, and tells when the newest of them was recorded.
    async fn look(&mut self, last: u64, stopping: &CancellationToken) -> Result<u64, ExportError> {
        let first = Timestamp::from_millis(self.place.at_ms).before(OVERLAP);
        let newest = self.copy(first, last, stopping).await?;
        let are_missing = last - self.place.sequence > self.written.len() as u64;
        if !are_missing || first == Timestamp::default() {
            return Ok(newest);
        }
        // The clock was set back by more than the overlap, or rows were pruned before they were copied.
        self.copy(Timestamp::default(), last, stopping).await
    }

    /// Copies the rows up to number `last` from a moment on, and tells when the one of them with the highest number was
    /// recorded. Rows that were committed later wait for the next look, which counts them.
    async fn copy(&mut self, first: Timestamp, last: u64, stopping: &CancellationToken) -> Result<u64, ExportError> {
        let (mut after, mut newest) = ((first, 0), (0, self.place.at_ms));
        while !stopping.is_cancelled() {
            let rows = audit::since(&self.store, after, BATCH).await?;
            let within = rows.iter().filter(|row| row.sequence() <= last);
            newest = within.map(|row| (row.sequence(), row.at().as_millis())).fold(newest, Ord::max);
            let fresh: Vec<&Found> = rows.iter().filter(|row| self.is_fresh(row, last)).collect();
            self.write(&fresh, stopping).await?;
            let Some(end) = rows.last().filter(|_| rows.len() == BATCH) else { break };
            after = (end.at(), end.sequence());
            if !fresh.is_empty() && !stopping.is_cancelled() {
                // Should it end here, it goes on here.
                let (at_ms, sequence) = (end.at().as_millis(), self.complete());
                self.remember(Place { at_ms, sequence, ..self.place.clone() }).await?;
            }
        }
        Ok(newest.1)
    }

    /// Whether a row is among those up to number `last` that are not copied yet.
    fn is_fresh(&self, row: &Found, last: u64) -> bool {
        let number = row.sequence();
        number > self.place.sequence && number <= last && !self.written.contains(&number)
    }

    /// The number up to which no row is missing.
    fn complete(&self) -> u64 {
        let from = self.place.sequence;
        (from + 1..).take_while(|number| self.written.contains(number)).last().unwrap_or(from)
    }

    async fn write(&mut self, rows: &[&Found], stopping: &CancellationToken) -> Result<(), ExportError> {
        if rows.is_empty() {
            return Ok(());
        }
        let lines = rows.iter().map(|row| (**row).clone()).map(|row| ((self.line)(&row), row));
        let lines: Vec<(Value, Found)> = lines.collect();
        rows.iter().for_each(|row| tell_unreadable(row));
        let (path, before) = (self.target.path().to_owned(), self.written.len());
        let outcome = self.target.write(&lines, &mut self.written, stopping).await;
        let count = self.written.len() - before;
        self.state.0.exported.fetch_add(count as u64, Ordering::Relaxed);
        outcome.map_err(|source| ExportError::Write { path, source })
    }

    async fn remember(&mut self, place: Place) -> Result<(), ExportError> {
        let (path, text) = (self.remembered_in.clone(), serde_json::to_string(&place).unwrap_or_default());
        let replaced = blocking(move || replace(&path, &text)).await;
        replaced.map_err(|source| ExportError::Write { path: self.remembered_in.clone(), source })?;
        self.written = self.written.split_off(&(place.sequence + 1));
        self.place = place;
        Ok(())
    }
}

/// Whoever runs the gateway hears of what cannot be read as well.
fn tell_unreadable(row: &Found) {
    if let Found::Unreadable { sequence, problem, .. } = row {
        tracing::error!(sequence, problem, "a row of the audit trail cannot be read: its copy says so");
    }
}
