//! What a transaction has been told so far, and what it turned out to need besides.
//!
//! A closure runs over this as over any snapshot. What is not there yet is noted and taken for absent, so that one run
//! finds most of what a closure asks for; the run has missed then and is discarded. Once everything that was noted has
//! been fetched, in one statement, the closure runs again.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::ops::Bound;

use super::super::StoreError;
use super::super::engine::{Bounds, Direction, MAX_KEY_BYTES, Row, Rows, Snapshot, Table};

/// Keys that one statement asks for; more are asked for by the next one.
const MAX_KEYS: usize = 16_384;
/// Ranges that one statement asks for; more are asked for by the next one.
const MAX_SPANS: usize = 256;

/// The state that a transaction reads, as far as it was fetched.
#[derive(Default)]
pub(super) struct Fetched {
    values: HashMap<Table, HashMap<Vec<u8>, Option<Vec<u8>>>>,
    spans: HashMap<Span, Known>,
    wanted: RefCell<Wanted>,
}

/// A range without its limit.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Span {
    table: Table,
    bounds: Bounds,
    direction: Direction,
}

/// The first rows of a range; fewer than the limit are all.
struct Known {
    limit: usize,
    rows: Vec<Row>,
}

#[derive(Default)]
struct Wanted {
    keys: BTreeSet<(Table, Vec<u8>)>,
    spans: HashMap<Span, usize>,
    has_missed: bool,
}

/// What is fetched next.
#[derive(Default)]
pub(super) struct Request {
    keys: Vec<(Table, Vec<u8>)>,
    forward: Vec<(Span, usize)>,
    backward: Vec<(Span, usize)>,
}

/// Which part of a [`Request`] a row belongs to. Numbers are those of the statement.
#[derive(Clone, Copy)]
pub(super) enum Part {
    Keys,
    Forward,
    Backward,
}

impl Fetched {
    /// Whether something was asked for since the last call that was not there.
    pub(super) fn take_missed(&self) -> bool {
        std::mem::take(&mut self.wanted.borrow_mut().has_missed)
    }

    /// Everything that was asked for and is not there, as much of it as one statement may fetch.
    pub(super) fn take_wanted(&mut self) -> Request {
        let wanted = std::mem::take(self.wanted.get_mut());
        let spans = wanted.spans.into_iter().take(MAX_SPANS);
        let (forward, backward) = spans.partition(|(span, _)| span.direction == Direction::Forward);
        Request { keys: wanted.keys.into_iter().take(MAX_KEYS).collect(), forward, backward }
    }

    /// Adds what a request brought: rows with their part, their place in it and, for ranges, their key.
    pub(super) fn learn(&mut self, request: Request, rows: impl IntoIterator<Item = (Part, usize, Vec<u8>, Vec<u8>)>) {
        let mut values: Vec<Option<Vec<u8>>> = vec![None; request.keys.len()];
        let mut forward: Vec<Vec<Row>> = vec![Vec::new(); request.forward.len()];
        let mut backward: Vec<Vec<Row>> = vec![Vec::new(); request.backward.len()];
        for (part, at, key, value) in rows {
            match part {
                Part::Keys => values[at] = Some(value),
                Part::Forward => forward[at].push((key, value)),
                Part::Backward => backward[at].push((key, value)),
            }
        }
        for ((table, key), value) in request.keys.into_iter().zip(values) {
            self.values.entry(table).or_default().insert(key, value);
        }
        for ((span, limit), mut rows) in request.forward.into_iter().zip(forward) {
            rows.sort_unstable();
            self.spans.insert(span, Known { limit, rows });
        }
        for ((span, limit), mut rows) in request.backward.into_iter().zip(backward) {
            rows.sort_unstable_by(|left, right| right.cmp(left));
            self.spans.insert(span, Known { limit, rows });
        }
    }

    fn known(&self, table: Table, key: &[u8]) -> Option<&Option<Vec<u8>>> {
        self.values.get(&table)?.get(key)
    }
}

impl Snapshot for Fetched {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        if let Some(known) = self.known(table, key) {
            return Ok(known.clone());
        }
        let mut wanted = self.wanted.borrow_mut();
        wanted.has_missed = true;
        wanted.keys.insert((table, key.to_vec()));
        Ok(None)
    }

    fn range(&self, table: Table, bounds: &Bounds, direction: Direction, limit: usize) -> Result<Rows<'_>, StoreError> {
        let span = Span { table, bounds: bounds.clone(), direction };
        if let Some(known) = self.spans.get(&span)
            && (known.limit >= limit || known.rows.len() < known.limit)
        {
            return Ok(Box::new(known.rows.iter().cloned().map(Ok)));
        }
        let mut wanted = self.wanted.borrow_mut();
        wanted.has_missed = true;
        let most = wanted.spans.entry(span).or_default();
        *most = limit.max(*most);
        Ok(Box::new(std::iter::empty()))
    }

    fn expect(&self, table: Table, key: &[u8]) {
        if self.known(table, key).is_none() {
            self.wanted.borrow_mut().keys.insert((table, key.to_vec()));
        }
    }
}

impl Request {
    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.forward.is_empty() && self.backward.is_empty()
    }

    pub(super) fn keys(&self) -> (Vec<i16>, Vec<&[u8]>) {
        self.keys.iter().map(|(table, key)| (number(*table), key.as_slice())).unzip()
    }

    pub(super) fn forward(&self) -> Spans {
        Spans::of(&self.forward)
    }

    pub(super) fn backward(&self) -> Spans {
        Spans::of(&self.backward)
    }
}

/// Ranges as a statement has them: from the first key to before the last one.
#[derive(Default)]
pub(super) struct Spans {
    pub(super) tables: Vec<i16>,
    pub(super) lower: Vec<Vec<u8>>,
    pub(super) upper: Vec<Vec<u8>>,
    pub(super) limits: Vec<i64>,
}

impl Spans {
    fn of(spans: &[(Span, usize)]) -> Self {
        let mut all = Self::default();
        for (span, limit) in spans {
            all.tables.push(number(span.table));
            all.lower.push(match &span.bounds.lower {
                Bound::Included(key) => key.clone(),
                Bound::Excluded(key) => next(key),
                Bound::Unbounded => Vec::new(),
            });
            all.upper.push(match &span.bounds.upper {
                Bound::Included(key) => next(key),
                Bound::Excluded(key) => key.clone(),
                // After every key that can be.
                Bound::Unbounded => vec![u8::MAX; MAX_KEY_BYTES + 1],
            });
            all.limits.push(i64::try_from(*limit).unwrap_or(i64::MAX));
        }
        all
    }
}

/// The key right after this one.
fn next(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}

/// The table's number as a `smallint`.
pub(super) fn number(table: Table) -> i16 {
    i16::try_from(table.number()).expect("there are fewer tables than a smallint counts")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: Table = Table::Decisions;

    fn keys(rows: Rows<'_>) -> Vec<Vec<u8>> {
        rows.map(|row| row.unwrap().0).collect()
    }

    #[test]
    fn what_is_missed_is_wanted_once_and_known_afterwards() {
        let mut fetched = Fetched::default();
        assert_eq!(fetched.get(TABLE, b"b").unwrap(), None);
        assert_eq!(fetched.get(TABLE, b"a").unwrap(), None);
        assert_eq!(fetched.get(TABLE, b"b").unwrap(), None);
        assert!(fetched.take_missed());
        assert!(!fetched.take_missed());
        let request = fetched.take_wanted();
        assert_eq!(request.keys().1, [b"a", b"b"]);
        fetched.learn(request, [(Part::Keys, 1, Vec::new(), b"value".to_vec())]);
        assert_eq!(fetched.get(TABLE, b"a").unwrap(), None);
        assert_eq!(fetched.get(TABLE, b"b").unwrap().as_deref(), Some(b"value".as_slice()));
        assert!(!fetched.take_missed());
        assert!(fetched.take_wanted().is_empty());
    }

    #[test]
    fn what_is_only_expected_is_fetched_and_not_missed() {
        let mut fetched = Fetched::default();
        fetched.expect(TABLE, b"a");
        assert!(!fetched.take_missed());
        let request = fetched.take_wanted();
        assert!(!request.is_empty());
        fetched.learn(request, []);
        fetched.expect(TABLE, b"a");
        assert!(fetched.take_wanted().is_empty());
    }

    #[test]
    fn a_range_is_known_up_to_its_limit_or_its_end() {
        let mut fetched = Fetched::default();
        let all = Bounds::all();
        for direction in [Direction::Forward, Direction::Backward] {
            assert_eq!(keys(fetched.range(TABLE, &all, direction, 2).unwrap()), [] as [Vec<u8>; 0]);
        }
        let request = fetched.take_wanted();
        let row = |part, key: &[u8]| (part, 0, key.to_vec(), Vec::new());
        let rows = [row(Part::Forward, b"b"), row(Part::Forward, b"a"), row(Part::Backward, b"c")];
        fetched.learn(request, rows);
        assert!(!fetched.take_missed() || fetched.take_wanted().is_empty());
        assert_eq!(keys(fetched.range(TABLE, &all, Direction::Forward, 2).unwrap()), [b"a", b"b"]);
        assert_eq!(keys(fetched.range(TABLE, &all, Direction::Backward, 9).unwrap()), [b"c"]);
        assert!(!fetched.take_missed());
        fetched.range(TABLE, &all, Direction::Forward, 3).map(drop).unwrap();
        assert!(fetched.take_missed(), "two of at most two rows may not be all");
    }

    #[test]
    fn bounds_become_half_open() {
        let mut fetched = Fetched::default();
        let bounds = Bounds { lower: Bound::Excluded(b"a".to_vec()), upper: Bound::Included(b"b".to_vec()) };
        fetched.range(TABLE, &bounds, Direction::Forward, 7).map(drop).unwrap();
        let spans = fetched.take_wanted().forward();
        assert_eq!((spans.lower, spans.upper, spans.limits), (vec![b"a\0".to_vec()], vec![b"b\0".to_vec()], vec![7]));
    }
}
