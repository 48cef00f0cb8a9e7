//! `/settings/store`: what the store holds, whether its indexes are right, and a backup, which is the API's own stream.

use askama::Template;
use axum::Extension;
use axum::extract::State;

use super::super::Person;
use super::super::desk::{Answer, Desk, Head};
use super::HERE;
use crate::admin::store::WalkError;
use crate::http::api::store as api;
use crate::http::oauth::pages::Site;
use crate::store::Verification;
use crate::store::stats::{Stats, TableStats};

pub(super) const PATH: &str = "/settings/store";
pub(super) const VERIFY: &str = "/settings/store/verify";
pub(super) const BACKUP: &str = "/settings/store/backup";

#[derive(Template)]
#[template(path = "console/store.html")]
struct StorePage<'a> {
    site: &'a Site,
    head: Head<'a>,
    /// Nothing while somebody else reads the whole store.
    stats: Option<Stats>,
    /// What it takes on the disk, and one page of that; of a store in memory nothing.
    file: Option<(String, String)>,
    /// Of those that hold something.
    tables: Vec<TableRow>,
}

struct TableRow {
    name: &'static str,
    rows: u64,
    held: String,
    allocated: String,
}

impl TableRow {
    fn of(table: &TableStats) -> Self {
        let TableStats { table, rows, bytes, allocated_bytes } = table;
        Self { name: table.name(), rows: *rows, held: size(*bytes), allocated: size(*allocated_bytes) }
    }
}

#[derive(Template)]
#[template(path = "console/store_verified.html")]
struct VerifiedPage<'a> {
    site: &'a Site,
    head: Head<'a>,
    found: Verification,
    rows: u64,
}

/// The API's own stream. A link to that would not be followed by whoever comes back from a provider.
pub(super) async fn back_up(State(desk): State<Desk>, Extension(person): Extension<Person>) -> Answer {
    Ok(api::back_up(State(desk.api.clone()), Extension(person.operator())).await?)
}

pub(super) async fn show(State(desk): State<Desk>, Extension(person): Extension<Person>) -> Answer {
    let stats = match desk.api.control.store_stats().await {
        Ok(stats) => Some(stats),
        Err(WalkError::Busy) => None,
        Err(WalkError::Store(error)) => return Err(error.into()),
    };
    let file = stats.as_ref().and_then(|stats| stats.file).map(|file| (size(file.bytes), size(file.page_bytes)));
    let tables =
        stats.iter().flat_map(|stats| &stats.tables).filter(|table| table.rows > 0).map(TableRow::of).collect();
    Ok(desk.page(StorePage { site: desk.site(), head: desk.head(&person, HERE), stats, file, tables }))
}

pub(super) async fn verify(State(desk): State<Desk>, Extension(person): Extension<Person>) -> Answer {
    let found = desk.api.control.verify_store().await?;
    let rows = found.tables.iter().map(|table| table.rows).sum();
    Ok(desk.page(VerifiedPage { site: desk.site(), head: desk.head(&person, HERE), found, rows }))
}

/// A number of bytes as people read it.
fn size(bytes: u64) -> String {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let unit = units.into_iter().find(|(_, shift)| bytes >> shift > 0);
    match unit {
        // In tenths, rounded down.
        Some((name, shift)) => {
            let tenths = (u128::from(bytes) * 10) >> shift;
            format!("{}.{} {name}", tenths / 10, tenths % 10)
        }
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_are_told_in_units() {
        let sizes = [0, 1023, 1024, 1536, 1 << 20, 5_000_000_000, u64::MAX].map(size);
        assert_eq!(sizes, ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "1.0 MiB", "4.6 GiB", "17179869183.9 GiB"]);
    }
}
