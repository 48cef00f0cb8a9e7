//! The audit trail by the numbers of its rows: one of them, and those that came after it.
//!
//! Rows are kept by their times, and numbers are in the order of commits. The two agree but for a clock that was set back,
//! so that a row is looked for where its number should be. Where the clock was set back, more rows are looked at, and never
//! without end: a number that is not found then is told as missing by whoever follows.

use std::collections::BTreeMap;
use std::time::Duration;

use super::audit::{self, Found};
use super::trail::Appended;
use super::{Store, StoreError};
use crate::env::Timestamp;

/// Rows that are read at once.
const STEP: usize = 500;
/// Rows that one look goes through.
const MAX_LOOK: usize = 10_000;
/// Steps in which a number is looked for: as many halve all of time.
const MAX_HALVINGS: usize = 48;
/// Clocks are set right by a little all the time: so much earlier each look begins.
const SLACK: Duration = Duration::from_secs(5);
/// The same for a look that has not found anything.
const WIDE_SLACK: Duration = Duration::from_secs(60 * 60);

/// The row with this number.
pub async fn find(store: &Store, sequence: u64) -> Result<Option<Found>, StoreError> {
    if sequence == 0 || sequence > audit::last_sequence(store).await? {
        return Ok(None);
    }
    let begin = place_of(store, sequence).await?;
    // In a burst there are more rows in the slack than a look goes through.
    for begin in [begin, begin.before(SLACK), begin.before(WIDE_SLACK)] {
        if let Some(row) = look_for(store, begin, sequence).await? {
            return Ok(Some(row));
        }
    }
    Ok(None)
}

/// The row with this number, if a bounded number of rows from this moment on has it.
async fn look_for(store: &Store, begin: Timestamp, sequence: u64) -> Result<Option<Found>, StoreError> {
    let mut after = (begin, 0);
    for _ in 0..MAX_LOOK / STEP {
        let rows = audit::since(store, after, STEP).await?;
        let end = rows.last().filter(|_| rows.len() == STEP).map(|row| (row.at(), row.sequence()));
        if let Some(row) = rows.into_iter().find(|row| row.sequence() == sequence) {
            return Ok(Some(row));
        }
        match end {
            Some(end) => after = end,
            None => break,
        }
    }
    Ok(None)
}

/// A moment at which, or shortly after which, the row with this number was recorded if numbers are in the order of times.
async fn place_of(store: &Store, sequence: u64) -> Result<Timestamp, StoreError> {
    let Some((first, newest)) = audit::ends(store).await? else { return Ok(Timestamp::default()) };
    let (mut low, mut high) = ((first.at(), first.sequence()), (newest.at(), newest.sequence()));
    for _ in 0..MAX_HALVINGS {
        if high.1.saturating_sub(low.1) < STEP as u64 / 2 || high.0 <= low.0 {
            break;
        }
        let middle = Timestamp::from_millis(low.0.as_millis().midpoint(high.0.as_millis()));
        let rows = audit::since(store, (middle, 0), 1).await?;
        match rows.first().map(|row| (row.at(), row.sequence())) {
            Some(row) if row.1 <= sequence && row.0 > low.0 => low = row,
            Some(row) if row.1 > sequence => high = (middle, row.1),
            _ => break,
        }
    }
    Ok(low.0)
}

/// At most `limit` rows that were appended after number `after`, in the order of numbers. `near` is when that one was
/// recorded, if it is known.
pub async fn appended(
    store: &Store,
    after: u64,
    near: Option<Timestamp>,
    limit: usize,
) -> Result<Appended<Found>, StoreError> {
    let last = audit::last_sequence(store).await?;
    if last <= after {
        return Ok(Appended { rows: Vec::new(), reached: last });
    }
    let (begin, behind) = match near {
        Some(near) => (near, after),
        None => (place_of(store, after).await?, 0),
    };
    // In a burst there are more rows in the slack than a look goes through.
    let mut found = look(store, (begin, behind), (after, last), limit).await?;
    if !is_enough(&found, (after, last), limit) {
        // Whatever was recorded a moment ago is there too if the clock was set back before.
        let now = store.read(|tx| Ok::<_, StoreError>(tx.now())).await?;
        found.extend(look(store, (begin.min(now).before(SLACK), 0), (after, last), limit).await?);
    }
    let is_cut = found.len() > limit;
    let rows: Vec<(u64, Found)> = found.into_iter().take(limit).collect();
    let reached = rows.last().filter(|_| is_cut).map_or(last, |(number, _)| *number);
    Ok(Appended { rows, reached })
}

/// The rows behind a moment and number whose numbers are above one and up to another, by number: all of them, or so many
/// that more than `limit` are there without a gap, or what a bounded number of rows has.
async fn look(
    store: &Store,
    begin: (Timestamp, u64),
    (above, last): (u64, u64),
    limit: usize,
) -> Result<BTreeMap<u64, Found>, StoreError> {
    let mut found = BTreeMap::new();
    let mut after = begin;
    for _ in 0..MAX_LOOK / STEP {
        let rows = audit::since(store, after, STEP).await?;
        let end = rows.last().filter(|_| rows.len() == STEP).map(|row| (row.at(), row.sequence()));
        let wanted = rows.into_iter().filter(|row| row.sequence() > above && row.sequence() <= last);
        found.extend(wanted.map(|row| (row.sequence(), row)));
        match end {
            Some(end) if !is_enough(&found, (above, last), limit) => after = end,
            _ => break,
        }
    }
    Ok(found)
}

/// Whether these are all rows between the numbers, or more than `limit` without a gap.
fn is_enough(found: &BTreeMap<u64, Found>, (above, last): (u64, u64), limit: usize) -> bool {
    let without_gap = found.keys().zip(above + 1..).take_while(|(number, expected)| *number == expected).count();
    found.len() as u64 == last - above || without_gap > limit
}

#[cfg(test)]
mod tests {
    use super::super::tests::StandingClock;
    use super::super::{Location, WriteTx};
    use super::*;
    use crate::audit::{Actor, AuditEvent};

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    async fn record(store: &Store, count: usize) {
        for _ in 0..count {
            audit::record(store, Actor::System, AuditEvent::BackupTaken).await.unwrap();
        }
    }

    /// The numbers of all rows after this one, read in steps of so many.
    async fn followed(store: &Store, mut after: u64, limit: usize) -> Vec<u64> {
        let (mut all, mut near) = (Vec::new(), None);
        loop {
            let some = appended(store, after, near, limit).await.unwrap();
            assert!(some.rows.len() <= limit);
            if some.reached <= after {
                return all;
            }
            near = some.rows.last().map(|(_, row)| row.at());
            after = some.reached;
            all.extend(some.rows.into_iter().map(|(number, _)| number));
        }
    }

    #[tokio::test]
    async fn a_row_is_found_by_its_number_and_those_after_it_in_order() {
        let clock = StandingClock::at(1_000_000_000);
        let store = Store::open(Location::Memory, clock.env()).await.unwrap();
        for _ in 0..30 {
            record(&store, 50).await;
            clock.advance(DAY);
        }
        let last = audit::last_sequence(&store).await.unwrap();
        for number in [1, 2, 49, 700, last - 1, last] {
            assert_eq!(find(&store, number).await.unwrap().map(|row| row.sequence()), Some(number));
        }
        for number in [0, last + 1] {
            assert_eq!(find(&store, number).await.unwrap(), None);
        }
        for (after, limit) in [(0, 500), (1, 7), (last - 3, 2), (last, 5)] {
            assert_eq!(followed(&store, after, limit).await, (after + 1..=last).collect::<Vec<_>>(), "{after} {limit}");
        }
        let near = clock.env().now();
        clock.set_back(3 * DAY);
        record(&store, 5).await;
        let later = appended(&store, last, Some(near), 10).await.unwrap();
        let numbers: Vec<u64> = later.rows.iter().map(|(number, _)| *number).collect();
        assert_eq!(
            (numbers, later.reached),
            ((last + 1..=last + 5).collect(), last + 5),
            "also when the clock is set back"
        );
    }

    #[tokio::test]
    async fn none_is_missed_where_many_are_recorded_at_once() {
        let clock = StandingClock::at(1_000_000_000);
        let store = Store::open(Location::Memory, clock.env()).await.unwrap();
        for _ in 0..MAX_LOOK / STEP + 2 {
            let many = |tx: &mut WriteTx<'_>| {
                (0..STEP).try_for_each(|_| audit::append(tx, Actor::System, &AuditEvent::BackupTaken))
            };
            store.write(many).await.unwrap();
            clock.advance(Duration::from_millis(1));
        }
        let last = audit::last_sequence(&store).await.unwrap();
        let near = clock.env().now().before(Duration::from_millis(2));
        for near in [Some(near), None] {
            let later = appended(&store, last - 600, near, 500).await.unwrap();
            let numbers: Vec<u64> = later.rows.iter().map(|(number, _)| *number).collect();
            assert_eq!(numbers, (last - 599..=last - 100).collect::<Vec<_>>(), "{near:?}");
        }
        assert_eq!(find(&store, last - 10).await.unwrap().map(|row| row.sequence()), Some(last - 10));
    }

    #[tokio::test]
    async fn a_row_that_cannot_be_read_is_told_by_its_number() {
        let clock = StandingClock::at(1_000_000_000);
        let store = Store::open(Location::Memory, clock.env()).await.unwrap();
        record(&store, 3).await;
        audit::spoil(&store, 2).await;
        let page = audit::list_of(&store, None, 10, |_| true).await.unwrap();
        assert_eq!(page.items.iter().map(Found::sequence).collect::<Vec<_>>(), [3, 2, 1], "in the list as well");
        let rows = appended(&store, 0, None, 10).await.unwrap().rows;
        assert_eq!(rows.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [1, 2, 3]);
        assert!(matches!(&rows[1].1, Found::Unreadable { sequence: 2, .. }), "{rows:?}");
        assert!(matches!(find(&store, 2).await.unwrap(), Some(Found::Unreadable { .. })));
    }
}
