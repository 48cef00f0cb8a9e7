//! What a store holds and how its writer fares, for operators.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::engine::Table;
use crate::telemetry::{Histogram, Reading};

/// What a store holds, and how its writer has fared since it was opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Every table, in the order of their numbers.
    pub tables: Vec<TableStats>,
    /// What it takes on the disk, unless it is in memory.
    pub file: Option<FileStats>,
    pub writer: WriterStats,
}

/// One table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TableStats {
    #[serde(serialize_with = "by_name")]
    pub table: Table,
    pub rows: u64,
    /// Keys and values.
    pub bytes: u64,
    /// All that the table takes, with what is between and around the rows.
    pub allocated_bytes: u64,
}

fn by_name<S: Serializer>(table: &Table, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(table.name())
}

/// The file of an embedded store, or the table of a database with its index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct FileStats {
    pub bytes: u64,
    pub page_bytes: u64,
    /// Pages that no table uses: free ones, and the few in which the engine keeps its own books. A database does not tell.
    pub free_pages: Option<u64>,
}

/// The writer, since the store was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct WriterStats {
    /// Transactions that wait now.
    pub queued: u64,
    /// Transactions that ran.
    pub transactions: u64,
    /// Commits that held all of their transactions' effects.
    pub commits: u64,
    pub failed_commits: u64,
    /// Most transactions of one commit.
    pub largest_group: u64,
    /// How long commits took, within a quarter of the true value.
    pub commit_p50_micros: u64,
    pub commit_p99_micros: u64,
    pub commit_max_micros: u64,
}

/// Buckets of commit times: four for each power of two of microseconds.
const BUCKETS: usize = 4 * 40;

/// Counts what a writer does.
#[derive(Debug)]
pub(super) struct Meter {
    queued: AtomicU64,
    transactions: AtomicU64,
    commits: AtomicU64,
    failed: AtomicU64,
    largest: AtomicU64,
    longest_micros: AtomicU64,
    times: [AtomicU64; BUCKETS],
    took: Histogram,
}

impl Default for Meter {
    fn default() -> Self {
        let [queued, transactions, commits, failed, largest, longest_micros] = Default::default();
        let times = [const { AtomicU64::new(0) }; BUCKETS];
        Self { queued, transactions, commits, failed, largest, longest_micros, times, took: Histogram::default() }
    }
}

impl Meter {
    /// A transaction is about to wait.
    pub(super) fn queue(&self) {
        self.queued.fetch_add(1, Ordering::Relaxed);
    }

    /// A transaction waits no longer.
    pub(super) fn unqueue(&self) {
        self.queued.fetch_sub(1, Ordering::Relaxed);
    }

    /// A group of transactions was run.
    pub(super) fn ran(&self, group: usize) {
        let group = group as u64;
        self.transactions.fetch_add(group, Ordering::Relaxed);
        self.largest.fetch_max(group, Ordering::Relaxed);
    }

    /// A commit took this long.
    pub(super) fn committed(&self, took: Duration, has_failed: bool) {
        if has_failed {
            self.failed.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.longest_micros.fetch_max(micros, Ordering::Relaxed);
        self.times[bucket(micros)].fetch_add(1, Ordering::Relaxed);
        self.took.took(took);
    }

    pub(super) fn commits_took(&self) -> Reading {
        self.took.read()
    }

    pub(super) fn read(&self) -> WriterStats {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let times: Vec<u64> = self.times.iter().map(load).collect();
        WriterStats {
            queued: load(&self.queued),
            transactions: load(&self.transactions),
            commits: load(&self.commits),
            failed_commits: load(&self.failed),
            largest_group: load(&self.largest),
            commit_p50_micros: quantile(&times, 50),
            commit_p99_micros: quantile(&times, 99),
            commit_max_micros: load(&self.longest_micros),
        }
    }
}

/// Where a time is counted: by its highest bit and the two bits after it.
fn bucket(micros: u64) -> usize {
    let micros = micros.max(4);
    let power = micros.ilog2();
    let next_two = (micros >> (power - 2)) & 0b11;
    ((power as usize) * 4 + next_two as usize).min(BUCKETS - 1)
}

/// The least time of a bucket.
fn least(bucket: usize) -> u64 {
    let (power, next_two) = (bucket / 4, bucket as u64 % 4);
    if power < 2 { 0 } else { (4 + next_two) << (power - 2) }
}

/// The time that this share of all stayed below, in hundredths.
fn quantile(times: &[u64], hundredths: u64) -> u64 {
    let all: u64 = times.iter().sum();
    let wanted = (all * hundredths).div_ceil(100);
    let mut seen = 0;
    for (at, count) in times.iter().enumerate() {
        seen += count;
        if wanted > 0 && seen >= wanted {
            return least(at + 1);
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_within_a_quarter() {
        for micros in [4, 5, 7, 8, 1_000, 1_023, 1_024, 123_456, 10_000_000] {
            let meter = Meter::default();
            meter.committed(Duration::from_micros(micros), false);
            let told = meter.read().commit_p50_micros;
            assert!(told > micros && told <= micros + micros.div_ceil(4), "{micros} is told as {told}");
        }
    }

    #[test]
    fn quantiles_follow_the_counts() {
        let meter = Meter::default();
        assert_eq!(meter.read(), WriterStats::default());
        for _ in 0..98 {
            meter.committed(Duration::from_micros(100), false);
        }
        meter.committed(Duration::from_millis(100), false);
        meter.committed(Duration::from_millis(100), false);
        meter.committed(Duration::from_secs(5), true);
        let read = meter.read();
        assert_eq!((read.commits, read.failed_commits), (100, 1));
        assert!(read.commit_p50_micros < 130, "{read:?}");
        assert!(read.commit_p99_micros > 100_000, "{read:?}");
        assert_eq!(read.commit_max_micros, 100_000);
    }
}
