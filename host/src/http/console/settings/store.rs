//! `/settings/store`: what the store holds, whether its indexes are right, and a backup, which is the API's own stream.

use askama::Template;
use axum::Extension;
use axum::extract::State;

use super::super::Person;
use super::super::desk::{Answer, Desk, Head};
use super::HERE;
use crate::admin::store::WalkError;
use crate::http::oauth::pages::Site;
use crate::store::Verification;
use crate::store::stats::Stats;

pub(super) const PATH: &str = "/settings/store";
pub(super) const VERIFY: &str = "/settings/store/verify";

#[derive(Template)]
#[template(path = "console/store.html")]
struct StorePage<'a> {
    site: &'a Site,
    head: Head<'a>,
    /// Nothing while somebody else reads the whole store.
    stats: Option<Stats>,
}

#[derive(Template)]
#[template(path = "console/store_verified.html")]
struct VerifiedPage<'a> {
    site: &'a Site,
    head: Head<'a>,
    found: Verification,
    rows: u64,
}

pub(super) async fn show(State(desk): State<Desk>, Extension(person): Extension<Person>) -> Answer {
    let stats = match desk.api.control.store_stats().await {
        Ok(stats) => Some(stats),
        Err(WalkError::Busy) => None,
        Err(WalkError::Store(error)) => return Err(error.into()),
    };
    Ok(desk.page(StorePage { site: desk.site(), head: desk.head(&person, HERE), stats }))
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
            let tenths = u128::from(bytes) * 10 >> shift;
            format!("{}.{} {name}", tenths / 10, tenths % 10)
        }
        None => format!("{bytes} B"),
    }
}

impl StorePage<'_> {
    fn size(&self, bytes: &u64) -> String {
        size(*bytes)
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
