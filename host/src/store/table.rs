//! Typed tables over the engine: records with a version, and the indexes that follow them.
//!
//! A value is one byte of codec version and a JSON body. A version that this program does not know is refused and
//! never guessed at. [`Typed`] is the only writer of its table and of its indexes, so an index and its table cannot
//! part; [`super::verify`] proves it. Records are types of their own beside the aggregate that owns them, converted
//! to nouns by naming every field.

use std::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::StoreError;
use super::engine::{Bounds, Direction, MAX_KEY_BYTES, MAX_RANGE, ReadTx, Row, Table, WriteTx};
use crate::env::Timestamp;
use crate::secret::Digest;

pub(super) use super::kept::Kept;

/// Most items on one page of any list.
pub const MAX_PAGE: usize = 200;
/// Rows that one page of a filtered list looks at. Such a page may be short, or empty, and still have a next one.
pub const MAX_SCAN: usize = 10_000;
/// The same for lists whose rows lead to records elsewhere.
const MAX_FOLLOWED: usize = 500;

/// Where a list goes on: the key of the last row that was looked at. It is signed before it leaves the gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor(Vec<u8>);

impl Cursor {
    /// A cursor that [`Self::as_bytes`] told before, or `None` if it cannot be one.
    pub fn from_bytes(bytes: Vec<u8>) -> Option<Self> {
        (bytes.len() <= MAX_KEY_BYTES).then_some(Self(bytes))
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// One page of a list, newest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// Where the next page begins, if there may be more.
    pub next: Option<Cursor>,
}

impl<T> Page<T> {
    /// The page with other items, unless one of them cannot be had.
    pub(super) fn try_map<U, E>(self, convert: impl Fn(T) -> Result<U, E>) -> Result<Page<U>, E> {
        Ok(Page { items: self.items.into_iter().map(convert).collect::<Result<_, _>>()?, next: self.next })
    }
}

/// An index over records: its rows lead from a key of its own to the record's key.
pub(super) struct Index<R> {
    pub(super) table: Table,
    /// The record's key in the index. No two records have the same.
    pub(super) key: fn(&R) -> Vec<u8>,
}

/// How the body of a record of an earlier codec version is read. It is written back in the present one when it changes.
pub(super) struct Older<R> {
    pub(super) version: u8,
    pub(super) read: fn(&[u8]) -> serde_json::Result<R>,
}

/// A table of records with its indexes.
pub(super) struct Typed<R: 'static> {
    pub(super) table: Table,
    /// The codec version that is written.
    pub(super) version: u8,
    /// Versions before that, which stay readable.
    pub(super) older: &'static [Older<R>],
    pub(super) key: fn(&R) -> Vec<u8>,
    pub(super) indexes: &'static [Index<R>],
    /// When a record may be forgotten, if ever. The sweeper does that some time later: whoever reads a record judges for
    /// itself whether it still counts.
    pub(super) expires: Option<fn(&R) -> Option<Timestamp>>,
}

/// Where an expiry is found: its time, then whose it is.
pub(super) fn expiry_key(expires: Timestamp, table: Table, key: &[u8]) -> Vec<u8> {
    [&expires.as_millis().to_be_bytes()[..], &table.number().to_be_bytes(), key].concat()
}

impl<R: Serialize + DeserializeOwned> Typed<R> {
    /// The record under `key`.
    pub(super) fn get(&self, tx: &mut ReadTx<'_>, key: &[u8]) -> Result<Option<R>, StoreError> {
        tx.get(self.table, key)?.map(|bytes| self.decode(&bytes)).transpose()
    }

    /// The record that `index` leads to. A row of the index that leads nowhere is a fault and not a miss.
    pub(super) fn find(&self, tx: &mut ReadTx<'_>, index: Table, key: &[u8]) -> Result<Option<R>, StoreError> {
        let Some(primary) = tx.get(index, key)? else { return Ok(None) };
        self.follow(tx, index, &primary).map(Some)
    }

    /// Puts a record in, in place of the one with the same key.
    pub(super) fn put(&self, tx: &mut WriteTx<'_>, record: &R) -> Result<(), StoreError> {
        let key = (self.key)(record);
        if (!self.indexes.is_empty() || self.expires.is_some())
            && let Some(before) = self.get(tx, &key)?
        {
            self.remove_from_indexes(tx, &before)?;
        }
        for index in self.indexes {
            tx.put(index.table, &(index.key)(record), &key)?;
        }
        if let Some(expires) = self.expiry_of(record) {
            tx.put(Table::Expiry, &expiry_key(expires, self.table, &key), &[])?;
        }
        tx.put(self.table, &key, &encode(self.version, record))
    }

    /// When a record may be forgotten, if ever.
    pub(super) fn expiry_of(&self, record: &R) -> Option<Timestamp> {
        self.expires.and_then(|expires| expires(record))
    }

    /// The row that a record is stored as, for tables without indexes whose rows are made ready beforehand.
    pub(super) fn row(&self, record: &R) -> Row {
        debug_assert!(self.indexes.is_empty() && self.expires.is_none(), "rows of an indexed table are put by `put`");
        ((self.key)(record), encode(self.version, record))
    }

    /// Takes a record out and tells what it was.
    pub(super) fn remove(&self, tx: &mut WriteTx<'_>, key: &[u8]) -> Result<Option<R>, StoreError> {
        let Some(record) = self.get(tx, key)? else { return Ok(None) };
        self.remove_from_indexes(tx, &record)?;
        tx.remove(self.table, key)?;
        Ok(Some(record))
    }

    /// How many records there are. More than `limit` is a fault.
    pub(super) fn count(&self, tx: &mut ReadTx<'_>, limit: usize) -> Result<usize, StoreError> {
        // An index has as many rows, and they are small.
        let table = self.indexes.first().map_or(self.table, |index| index.table);
        rows(tx, table, limit).map(|rows| rows.len())
    }

    /// Every record in key order. More than `limit` is a fault.
    pub(super) fn all(&self, tx: &mut ReadTx<'_>, limit: usize) -> Result<Vec<R>, StoreError> {
        let rows = rows(tx, self.table, limit)?;
        rows.iter().map(|(_, value)| self.decode(value)).collect()
    }

    /// A page of the records that `keep` keeps, from the largest key down. The table's keys begin with a time.
    pub(super) fn newest_first(
        &self,
        tx: &mut ReadTx<'_>,
        after: Option<&Cursor>,
        limit: usize,
        keep: impl Fn(&R) -> bool,
    ) -> Result<Page<R>, StoreError> {
        page(tx, (self.table, &[]), None, after, limit, |_, (_, value)| {
            let record = self.decode(value)?;
            Ok(keep(&record).then_some(record))
        })
    }

    /// The same of what `take` makes of the records that it takes.
    pub(super) fn newest_first_of<T>(
        &self,
        tx: &mut ReadTx<'_>,
        after: Option<&Cursor>,
        limit: usize,
        take: impl Fn(R) -> Result<Option<T>, StoreError>,
    ) -> Result<Page<T>, StoreError> {
        page(tx, (self.table, &[]), None, after, limit, |_, (_, value)| take(self.decode(value)?))
    }

    /// The same of what `take` makes of the rows as they are, of which some perhaps cannot be read.
    pub(super) fn newest_rows_of<T>(
        &self,
        tx: &mut ReadTx<'_>,
        after: Option<&Cursor>,
        limit: usize,
        take: impl Fn(&Row) -> Result<Option<T>, StoreError>,
    ) -> Result<Page<T>, StoreError> {
        page(tx, (self.table, &[]), None, after, limit, |_, row| take(row))
    }

    /// A page of the records that `keep` keeps, from the largest key that begins with `prefix` down.
    pub(super) fn last_first_within(
        &self,
        tx: &mut ReadTx<'_>,
        prefix: &[u8],
        after: Option<&Cursor>,
        limit: usize,
        keep: impl Fn(&R) -> bool,
    ) -> Result<Page<R>, StoreError> {
        page(tx, (self.table, prefix), None, after, limit, |_, (_, value)| {
            let record = self.decode(value)?;
            Ok(keep(&record).then_some(record))
        })
    }

    /// A page of records from the largest key of `index` down.
    pub(super) fn newest_first_by(
        &self,
        tx: &mut ReadTx<'_>,
        index: Table,
        after: Option<&Cursor>,
        limit: usize,
    ) -> Result<Page<R>, StoreError> {
        let leads_to = Some(self.table);
        page(tx, (index, &[]), leads_to, after, limit, |tx, (_, primary)| self.follow(tx, index, primary).map(Some))
    }

    /// A page of the records that `keep` keeps, from the largest key of `index` that begins with `prefix` down. It looks
    /// at no more rows than one transaction may read.
    pub(super) fn newest_first_within(
        &self,
        tx: &mut ReadTx<'_>,
        (index, prefix): (Table, &[u8]),
        after: Option<&Cursor>,
        limit: usize,
        keep: impl Fn(&R) -> bool,
    ) -> Result<Page<R>, StoreError> {
        page(tx, (index, prefix), Some(self.table), after, limit, |tx, (_, primary)| {
            let record = self.follow(tx, index, primary)?;
            Ok(keep(&record).then_some(record))
        })
    }

    /// At most `limit` records, from the largest key of `index` that begins with `prefix` down.
    pub(super) fn newest_within(
        &self,
        tx: &mut ReadTx<'_>,
        (index, prefix): (Table, &[u8]),
        limit: usize,
    ) -> Result<Vec<R>, StoreError> {
        let rows = tx.range(index, &Bounds::within(prefix), Direction::Backward, limit)?;
        tx.prefetch(self.table, rows.iter().map(|(_, primary)| primary));
        rows.iter().map(|(_, primary)| self.follow(tx, index, primary)).collect()
    }

    /// The record of a row of this table.
    pub(super) fn decode(&self, bytes: &[u8]) -> Result<R, StoreError> {
        let version = bytes.first().copied();
        match self.older.iter().find(|older| version == Some(older.version)) {
            Some(older) => (older.read)(&bytes[1..]).map_err(|error| unreadable(self.table, error)),
            None => decode(self.table, self.version, bytes),
        }
    }

    fn follow(&self, tx: &mut ReadTx<'_>, index: Table, primary: &[u8]) -> Result<R, StoreError> {
        self.get(tx, primary)?.ok_or_else(|| unreadable(index, "it leads to no record"))
    }

    pub(super) fn remove_from_indexes(&self, tx: &mut WriteTx<'_>, record: &R) -> Result<(), StoreError> {
        if let Some(expires) = self.expiry_of(record) {
            tx.remove(Table::Expiry, &expiry_key(expires, self.table, &(self.key)(record)))?;
        }
        self.indexes.iter().try_for_each(|index| tx.remove(index.table, &(index.key)(record)))
    }
}

/// One value of the table `meta`, under a fixed name.
pub(super) struct Single<R> {
    name: &'static str,
    record: PhantomData<fn() -> R>,
}

/// Codec version of the values in `meta`.
const SINGLE_VERSION: u8 = 1;

impl<R: Serialize + DeserializeOwned> Single<R> {
    pub(super) const fn new(name: &'static str) -> Self {
        Self { name, record: PhantomData }
    }

    pub(super) fn get(&self, tx: &mut ReadTx<'_>) -> Result<Option<R>, StoreError> {
        let bytes = tx.get(Table::Meta, self.name.as_bytes())?;
        bytes.map(|bytes| decode(Table::Meta, SINGLE_VERSION, &bytes)).transpose()
    }

    pub(super) fn put(&self, tx: &mut WriteTx<'_>, value: &R) -> Result<(), StoreError> {
        tx.put(Table::Meta, self.name.as_bytes(), &encode(SINGLE_VERSION, value))
    }

    /// The value, if it is among these rows of `meta`.
    pub(super) fn among(&self, rows: &[Row]) -> Result<Option<R>, StoreError> {
        let row = rows.iter().find(|(key, _)| key == self.name.as_bytes());
        row.map(|(_, bytes)| decode(Table::Meta, SINGLE_VERSION, bytes)).transpose()
    }
}

/// The first `limit` rows of a table. More than that is a fault: the table's own verbs bound it.
fn rows(tx: &mut ReadTx<'_>, table: Table, limit: usize) -> Result<Vec<Row>, StoreError> {
    let mut all: Vec<Row> = Vec::new();
    loop {
        let bounds = all.last().map_or_else(Bounds::all, |(key, _)| Bounds::after(key.clone()));
        let some = tx.range(table, &bounds, Direction::Forward, MAX_RANGE)?;
        let is_last = some.len() < MAX_RANGE;
        all.extend(some);
        if all.len() > limit {
            return Err(unreadable(table, "the table has more records than it may have"));
        }
        if is_last {
            return Ok(all);
        }
    }
}

/// Walks the rows of a table whose keys begin with `prefix`, from the largest down, until the page is full, there are no
/// more or as many were seen as may be. Where the table is an index, `leads_to` says of which table.
fn page<T>(
    tx: &mut ReadTx<'_>,
    (table, prefix): (Table, &[u8]),
    leads_to: Option<Table>,
    after: Option<&Cursor>,
    limit: usize,
    take: impl Fn(&mut ReadTx<'_>, &Row) -> Result<Option<T>, StoreError>,
) -> Result<Page<T>, StoreError> {
    let limit = limit.clamp(1, MAX_PAGE);
    let mut items = Vec::new();
    let mut seen: Option<Vec<u8>> = after.map(|cursor| cursor.0.clone());
    // One more than fits, to know whether there is a next page.
    let mut step = limit + 1;
    let mut scanned = 0;
    // Where the rows lead elsewhere, each costs a read of its record.
    let max_scan = if leads_to.is_some() { MAX_FOLLOWED } else { MAX_SCAN };
    let whole = Bounds::within(prefix);
    loop {
        let bounds = match &seen {
            Some(seen) => whole.before_too(seen),
            None => whole.clone(),
        };
        let rows = tx.range(table, &bounds, Direction::Backward, step)?;
        let is_last = rows.len() < step;
        if let Some(primary) = leads_to {
            // As many as are looked at below, at most.
            tx.prefetch(primary, rows.iter().map(|(_, key)| key).take(max_scan - scanned));
        }
        for row in rows {
            if items.len() == limit || scanned == max_scan {
                return Ok(Page { items, next: seen.map(Cursor) });
            }
            items.extend(take(tx, &row)?);
            seen = Some(row.0);
            scanned += 1;
        }
        if is_last {
            return Ok(Page { items, next: None });
        }
        step = MAX_RANGE;
    }
}

pub(super) fn encode<R: Serialize>(version: u8, record: &R) -> Vec<u8> {
    let mut bytes = vec![version];
    serde_json::to_writer(&mut bytes, record).expect("records are structs of strings, numbers and lists");
    bytes
}

pub(super) fn decode<R: DeserializeOwned>(table: Table, version: u8, bytes: &[u8]) -> Result<R, StoreError> {
    match bytes.split_first() {
        Some((found, body)) if *found == version => {
            serde_json::from_slice(body).map_err(|error| unreadable(table, error))
        }
        Some((found, _)) => Err(unreadable(table, format_args!("it has codec version {found}, not {version}"))),
        None => Err(unreadable(table, "it is empty")),
    }
}

/// `text` if it has at most `max_bytes`, else its beginning and an ellipsis.
pub(super) fn shorten(text: &str, max_bytes: usize) -> String {
    if text.len() <= max_bytes {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(max_bytes.saturating_sub('…'.len_utf8()));
    format!("{}…", &text[..end])
}

/// `text` if it has at most `max_bytes`, else its beginning and a digest of all of it: two that differ are told apart. Not for
/// secrets.
pub(super) fn abridge(text: &str, max_bytes: usize) -> String {
    if text.len() <= max_bytes {
        return text.to_owned();
    }
    let digest = format!(" (sha256 {})", &Digest::of(text.as_bytes()).to_hex()[..16]);
    shorten(text, max_bytes.saturating_sub(digest.len())) + &digest
}

pub(super) fn unreadable(table: Table, problem: impl std::fmt::Display) -> StoreError {
    StoreError::Unreadable { table: table.name(), problem: problem.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_only_in_its_own_version_and_form() {
        let bytes = encode(1, &vec![1, 2]);
        assert_eq!(bytes, b"\x01[1,2]");
        assert_eq!(decode::<Vec<u8>>(Table::Meta, 1, &bytes).unwrap(), [1, 2]);
        for (version, bytes) in [(2, bytes.as_slice()), (1, b""), (1, b"\x01"), (1, b"\x01[1,2"), (1, b"\x01[1,-2]")] {
            let read = decode::<Vec<u8>>(Table::Meta, version, bytes);
            assert!(matches!(read, Err(StoreError::Unreadable { table: "meta", .. })), "{bytes:?}: {read:?}");
        }
    }

    #[test]
    fn long_text_is_cut_between_characters() {
        assert_eq!(shorten("short", 5), "short");
        assert_eq!(shorten("longer", 5), "lo…");
        assert_eq!(shorten("äöüäöü", 8), "äö…");
    }

    #[test]
    fn long_texts_that_differ_are_told_apart() {
        let (one, other) = (format!("{}1", "x".repeat(100)), format!("{}2", "x".repeat(100)));
        assert_eq!(abridge(&one, 101), one);
        let (one, other) = (abridge(&one, 100), abridge(&other, 100));
        assert_ne!(one, other);
        assert_eq!((one.len(), other.len()), (100, 100));
        assert!(one.starts_with("xxx") && one.contains("x… (sha256 ") && one.ends_with(')'), "{one}");
    }

    #[test]
    fn a_cursor_is_at_most_a_key_long() {
        assert!(Cursor::from_bytes(vec![0; MAX_KEY_BYTES]).is_some());
        assert!(Cursor::from_bytes(vec![0; MAX_KEY_BYTES + 1]).is_none());
    }
}
