//! Counters over labels whose values are known beforehand.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The last value of a label that may have others than are listed.
pub const OTHER: &str = "other";

/// Upper bounds of a histogram's buckets, in microseconds: from what a policy takes to what a person does.
const BOUNDS_MICROS: [u64; 19] = [
    100,
    250,
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    30_000_000,
    60_000_000,
    300_000_000,
];

/// A counter for each combination of values of `D` labels. What is not among the values of its label counts as the last one.
#[derive(Debug)]
pub struct Grid<const D: usize> {
    values: [&'static [&'static str]; D],
    cells: Box<[AtomicU64]>,
}

impl<const D: usize> Grid<D> {
    /// `values`: of each label, none of them empty.
    pub fn new(values: [&'static [&'static str]; D]) -> Self {
        Self { values, cells: (0..size(&values)).map(|_| AtomicU64::new(0)).collect() }
    }

    pub fn count(&self, labels: [&str; D]) {
        self.add(labels, 1);
    }

    pub fn add(&self, labels: [&str; D], more: u64) {
        if let Some(cell) = self.cells.get(position(&self.values, labels)) {
            cell.fetch_add(more, Ordering::Relaxed);
        }
    }

    /// What was counted at all.
    pub fn read(&self) -> Vec<([&'static str; D], u64)> {
        let loaded = self.cells.iter().map(|cell| cell.load(Ordering::Relaxed));
        let counted = loaded.enumerate().filter(|(_, count)| *count > 0);
        counted.map(|(at, count)| (labels(&self.values, at), count)).collect()
    }
}

/// A histogram for each combination of values of `D` labels, as in [`Grid`].
#[derive(Debug)]
pub struct Timings<const D: usize> {
    values: [&'static [&'static str]; D],
    cells: Box<[Histogram]>,
}

impl<const D: usize> Timings<D> {
    /// See [`Grid::new`].
    pub fn new(values: [&'static [&'static str]; D]) -> Self {
        Self { values, cells: (0..size(&values)).map(|_| Histogram::default()).collect() }
    }

    pub fn took(&self, labels: [&str; D], time: Duration) {
        if let Some(cell) = self.cells.get(position(&self.values, labels)) {
            cell.took(time);
        }
    }

    /// What was counted at all.
    pub fn read(&self) -> Vec<([&'static str; D], Reading)> {
        let read = self.cells.iter().map(Histogram::read).enumerate();
        let counted = read.filter(|(_, reading)| reading.count > 0);
        counted.map(|(at, reading)| (labels(&self.values, at), reading)).collect()
    }
}

/// How long something took, how often.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BOUNDS_MICROS.len() + 1],
    sum_micros: AtomicU64,
}

/// What a histogram has counted.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// Upper bounds in seconds, each with how many took no longer.
    pub buckets: Vec<(f64, u64)>,
    pub count: u64,
    pub sum_seconds: f64,
}

impl Histogram {
    pub fn took(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let at = BOUNDS_MICROS.partition_point(|bound| *bound < micros);
        self.buckets[at].fetch_add(1, Ordering::Relaxed);
        self.sum_micros.fetch_add(micros, Ordering::Relaxed);
    }

    pub fn read(&self) -> Reading {
        let mut count = 0;
        let mut buckets = Vec::with_capacity(BOUNDS_MICROS.len());
        for (bucket, bound) in self.buckets.iter().zip(BOUNDS_MICROS) {
            count += bucket.load(Ordering::Relaxed);
            buckets.push((seconds(bound), count));
        }
        count += self.buckets[BOUNDS_MICROS.len()].load(Ordering::Relaxed);
        Reading { buckets, count, sum_seconds: seconds(self.sum_micros.load(Ordering::Relaxed)) }
    }
}

fn seconds(micros: u64) -> f64 {
    Duration::from_micros(micros).as_secs_f64()
}

fn size(values: &[&'static [&'static str]]) -> usize {
    values.iter().map(|values| values.len()).product()
}

fn position<const D: usize>(values: &[&'static [&'static str]; D], labels: [&str; D]) -> usize {
    values.iter().zip(labels).fold(0, |at, (values, label)| {
        let known = values.iter().position(|value| *value == label);
        at * values.len() + known.unwrap_or(values.len().saturating_sub(1))
    })
}

fn labels<const D: usize>(values: &[&'static [&'static str]; D], mut at: usize) -> [&'static str; D] {
    let mut labels = [""; D];
    for (label, values) in labels.iter_mut().zip(values).rev() {
        *label = values[at % values.len()];
        at /= values.len();
    }
    labels
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLOURS: &[&str] = &["red", "green", OTHER];
    const SIZES: &[&str] = &["small", "large"];

    #[test]
    fn each_combination_has_a_counter_of_its_own() {
        let grid = Grid::new([COLOURS, SIZES]);
        for colour in COLOURS {
            for size in SIZES {
                grid.add([colour, size], (colour.len() * 10 + size.len()) as u64);
            }
        }
        let read = grid.read();
        assert_eq!(read.len(), 6);
        for ([colour, size], count) in read {
            assert_eq!(count, (colour.len() * 10 + size.len()) as u64, "{colour} {size}");
        }
    }

    #[test]
    fn what_nobody_listed_counts_as_the_last_value() {
        let grid = Grid::new([COLOURS, SIZES]);
        grid.count(["mauve\"\n", "small"]);
        grid.count(["beige", "small"]);
        assert_eq!(grid.read(), [([OTHER, "small"], 2)]);
    }

    #[test]
    fn a_histogram_counts_up_to_each_bound() {
        let timings = Timings::new([COLOURS]);
        for micros in [1, 100, 101, 2_000, 400_000_000] {
            timings.took(["red"], Duration::from_micros(micros));
        }
        let read = timings.read();
        let [(["red"], reading)] = &read[..] else { panic!("{read:?}") };
        let up_to = |bound: f64| reading.buckets.iter().find(|(known, _)| *known == bound).unwrap().1;
        assert_eq!((up_to(0.0001), up_to(0.00025), up_to(0.0025), up_to(300.0)), (2, 3, 4, 4));
        assert_eq!(reading.count, 5);
        assert!((reading.sum_seconds - 400.002_202).abs() < 1e-9, "{reading:?}");
        assert!(reading.buckets.is_sorted_by(|one, other| one.0 < other.0 && one.1 <= other.1));
    }
}
