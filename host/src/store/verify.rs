//! Proof that the store is whole: every record can be read, every index leads to its records and they to it, and what
//! expires is in the expiry index and nothing else is.
//!
//! It goes through all tables in bounded steps, each on one snapshot, so that it may run beside traffic: what it compares
//! was there at one time. What changes between two steps is seen as it is when its step comes.

use serde_json::{Value, json};

use super::engine::{Bounds, Direction, ReadTx, Row, Table};
use super::migrations::STORED_SCHEMA;
use super::{KEPT, SCHEMA, Store, StoreError, kept::Kept};
use crate::env::Timestamp;
use crate::secret::hex;

/// Rows that one step looks at, at most.
const STEP: usize = 100;
/// Reads that one step may cause; a transaction may have more.
const STEP_READS: usize = 800;
/// Discrepancies that are told one by one.
const MAX_DISCREPANCIES: usize = 100;

/// What came of looking through the whole store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verification {
    /// How many rows there were, table by table.
    pub tables: Vec<Rows>,
    /// What is wrong; at most the first hundred. Nothing is what should be.
    pub discrepancies: Vec<Discrepancy>,
    /// How many more there are.
    pub untold: u64,
}

impl Verification {
    /// What is wrong, for operators: the rows that are told one by one, and how many more there are.
    pub fn to_json(&self) -> Value {
        let row = |row: &Discrepancy| json!({ "index": row.index, "key": row.key, "kind": row.kind.as_str() });
        let rows: Vec<Value> = self.discrepancies.iter().map(row).collect();
        json!({ "discrepancies": rows, "untold": self.untold })
    }

    /// Whether nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.discrepancies.is_empty()
    }
}

/// How many rows a table has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rows {
    pub table: &'static str,
    pub rows: u64,
}

/// Where the store disagrees with itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discrepancy {
    /// Name of the index; of the table, where the record itself is at fault.
    pub index: &'static str,
    /// Key of the row, in hex.
    pub key: String,
    pub kind: DiscrepancyKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiscrepancyKind {
    /// A record that its index does not lead to.
    Missing,
    /// A row that leads to no record, or to the wrong one; a record that is not where it belongs.
    Stray,
    /// A record that cannot be read.
    Unreadable,
}

impl DiscrepancyKind {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Stray => "stray",
            Self::Unreadable => "unreadable",
        }
    }
}

/// What a step found.
#[derive(Default)]
pub(super) struct Found(Vec<Discrepancy>);

impl Found {
    pub(super) fn missing(&mut self, table: Table, key: &[u8]) {
        self.add(table, key, DiscrepancyKind::Missing);
    }

    pub(super) fn stray(&mut self, table: Table, key: &[u8]) {
        self.add(table, key, DiscrepancyKind::Stray);
    }

    pub(super) fn unreadable(&mut self, table: Table, key: &[u8]) {
        self.add(table, key, DiscrepancyKind::Unreadable);
    }

    fn add(&mut self, table: Table, key: &[u8], kind: DiscrepancyKind) {
        self.0.push(Discrepancy { index: table.name(), key: hex(key), kind });
    }
}

/// Looks through all tables.
pub(super) async fn run(store: &Store) -> Result<Verification, StoreError> {
    let stored = store.read(|tx| STORED_SCHEMA.get(tx)).await?.unwrap_or(SCHEMA);
    if stored < SCHEMA {
        return Err(StoreError::OlderSchema { found: stored, known: SCHEMA });
    }
    let mut all = Verification::default();
    for kept in KEPT {
        let reads = kept.indexes().len() + 2;
        all.walk(store, kept.table(), reads, move |tx, row, found| kept.check(tx, row, found)).await?;
        for index in kept.indexes() {
            all.walk(store, index, 3, move |tx, row, found| kept.check_index(tx, index, row, found)).await?;
        }
    }
    all.walk(store, Table::Expiry, 1, check_expiry).await?;
    Ok(all)
}

impl Verification {
    /// Goes through the rows of a table, each of which costs so many `reads` at most.
    async fn walk(
        &mut self,
        store: &Store,
        table: Table,
        reads: usize,
        check: impl Fn(&mut ReadTx<'_>, &Row, &mut Found) -> Result<(), StoreError> + Clone + Send + 'static,
    ) -> Result<(), StoreError> {
        let step = STEP.min(STEP_READS / reads).max(1);
        let mut seen = 0;
        let mut bounds = Bounds::all();
        loop {
            let (here, check) = (bounds.clone(), check.clone());
            let look = move |tx: &mut ReadTx<'_>| {
                let rows = tx.range(table, &here, Direction::Forward, step)?;
                let mut found = Found::default();
                rows.iter().try_for_each(|row| check(tx, row, &mut found))?;
                let last = rows.last().map(|(key, _)| key.clone());
                Ok::<_, StoreError>((rows.len(), last, found))
            };
            let (rows, last, Found(found)) = store.read(look).await?;
            seen += rows as u64;
            let room = MAX_DISCREPANCIES - self.discrepancies.len();
            self.untold += found.len().saturating_sub(room) as u64;
            self.discrepancies.extend(found.into_iter().take(room));
            match last {
                Some(last) if rows == step => bounds = Bounds::after(last),
                _ => break,
            }
        }
        self.tables.push(Rows { table: table.name(), rows: seen });
        Ok(())
    }
}

fn check_expiry(tx: &mut ReadTx<'_>, (key, _): &Row, found: &mut Found) -> Result<(), StoreError> {
    let expires = match read_expiry(key) {
        Some((at, Some(kept), primary)) => kept.expires_at(tx, primary, at)?,
        // A table that this version does not know.
        Some((_, None, _)) => true,
        None => false,
    };
    if !expires {
        found.stray(Table::Expiry, key);
    }
    Ok(())
}

/// What a row of the expiry index is of: when, in which table, under which key. `None` if it is not one.
pub(super) fn read_expiry(key: &[u8]) -> Option<(Timestamp, Option<&'static dyn Kept>, &[u8])> {
    let (at, rest) = key.split_first_chunk()?;
    let (table, primary) = rest.split_first_chunk()?;
    let number = u16::from_be_bytes(*table);
    let kept = KEPT.iter().copied().find(|kept| kept.table().number() == number);
    Some((Timestamp::from_millis(u64::from_be_bytes(*at)), kept, primary))
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::filled;
    use super::super::table::expiry_key;
    use super::*;

    #[tokio::test]
    async fn everything_that_the_verbs_write_is_sound() {
        let all = filled().await.examine().await.unwrap();
        assert!(all.is_sound(), "{all:?}");
        let rows = |name: &str| all.tables.iter().find(|rows| rows.table == name).map(|rows| rows.rows);
        for (table, expected) in [("keys", 2), ("keys_by_digest", 2), ("approvals", 4), ("pins", 3), ("decisions", 3)] {
            assert_eq!(rows(table), Some(expected), "{table}");
        }
        let names: Vec<&str> = all.tables.iter().map(|rows| rows.table).collect();
        let left_out = Table::ALL.iter().map(|table| table.name()).filter(|name| !names.contains(name));
        // Single values have no table of records; what approvals were found by in schema 1 is empty.
        assert_eq!(left_out.collect::<Vec<_>>(), ["meta", "approvals_by_expiry"]);
    }

    #[tokio::test]
    async fn every_kind_of_damage_is_told() {
        let store = filled().await;
        let damage = |tx: &mut super::super::WriteTx<'_>| {
            let approval = tx.range(Table::Approvals, &Bounds::all(), Direction::Forward, 1)?.remove(0);
            tx.put(Table::Approvals, b"elsewhere", &approval.1)?;
            tx.put(Table::Keys, b"ci", b"\x63{}")?;
            let expiry = tx.range(Table::Expiry, &Bounds::all(), Direction::Forward, 1)?.remove(0);
            tx.remove(Table::Expiry, &expiry.0)?;
            tx.put(Table::Expiry, &expiry_key(Timestamp::from_millis(7), Table::Keys, b"laptop"), b"")?;
            tx.put(Table::Expiry, b"short", b"")?;
            let piece = tx.range(Table::RecordingPieces, &Bounds::all(), Direction::Forward, 1)?.remove(0);
            tx.remove(Table::RecordingPieces, &piece.0)?;
            tx.put(Table::RecordingPieces, b"of nothing", b"")
        };
        store.write(damage).await.unwrap();
        let found = store.verify().await.unwrap();
        let mut found: Vec<_> = found.iter().map(|one| (one.index, one.kind.as_str())).collect();
        found.sort_unstable();
        found.dedup();
        let expected = [
            ("approvals", "stray"),
            ("approvals_by_binding", "missing"),
            ("approvals_by_principal", "missing"),
            ("approvals_by_state", "missing"),
            ("expiry", "missing"),
            ("expiry", "stray"),
            ("keys", "unreadable"),
            ("recording_pieces", "missing"),
            ("recording_pieces", "stray"),
        ];
        assert_eq!(found, expected);
    }

    #[tokio::test]
    async fn much_damage_is_counted_and_some_of_it_told() {
        let store = filled().await;
        for step in 0..3_u32 {
            let fill = move |tx: &mut super::super::WriteTx<'_>| {
                (0..100_u32).try_for_each(|at| tx.put(Table::KeysByDigest, &(step * 100 + at).to_be_bytes(), b"gone"))
            };
            store.write(fill).await.unwrap();
        }
        let all = store.examine().await.unwrap();
        assert_eq!((all.discrepancies.len(), all.untold), (MAX_DISCREPANCIES, 200));
        assert_eq!(all.to_json()["untold"], 200);
    }
}
