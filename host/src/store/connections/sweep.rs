//! Reconciling: what the lists say of access is written down, and what is not coming back is ended.
//!
//! Access is derived, so nothing depends on the sweep but the audit trail, `orphaned_since` and the end of what is
//! unused. It goes through all connections, a bounded part in each transaction, and asks a function of plain values
//! that was made of one state of configuration, keys and users. If one of those has changed since, the step
//! does nothing: on old news nothing is ended.

use std::time::Duration;

use super::ending::end_in;
use super::{CONNECTIONS, Record, said, tell};
use crate::audit::{Actor, AuditEvent};
use crate::connection::{Access, End, Place};
use crate::env::Timestamp;
use crate::store::changes::{self, Change, News, Revision};
use crate::store::engine::{Bounds, Direction, Table};
use crate::store::table::Cursor;
use crate::store::{ReadTx, Store, StoreError, WriteTx, audit};

/// Connections looked at in one transaction.
const STEP: usize = 500;
/// Connections changed in one transaction: each takes up to twenty effects of the two thousand that there may be.
const MAX_CHANGES: usize = 90;
/// Changes that are too many to say whether access is among them.
const MAX_NEWS: usize = 500;

/// What came of one step of [`sweep`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Swept {
    Step {
        orphaned: usize,
        reactivated: usize,
        ended: usize,
        /// Where the next step begins; `None` after the last.
        next: Option<Cursor>,
    },
    /// What `may_use` was made of has changed: make it anew, and begin anew.
    Outdated,
}

/// Goes on with a sweep. `may_use` is of the state at revision `of`; connections that stay orphaned for `kept` are ended.
pub async fn sweep<F>(
    store: &Store,
    of: Revision,
    after: Option<Cursor>,
    kept: Duration,
    may_use: F,
) -> Result<Swept, StoreError>
where
    F: Fn(&Place) -> Access + Send + 'static,
{
    store.write(move |tx| sweep_in(tx, of, after.as_ref(), kept, &may_use)).await
}

fn sweep_in(
    tx: &mut WriteTx<'_>,
    of: Revision,
    after: Option<&Cursor>,
    kept: Duration,
    may_use: &dyn Fn(&Place) -> Access,
) -> Result<Swept, StoreError> {
    if !is_current(tx, of)? {
        return Ok(Swept::Outdated);
    }
    let now = tx.now();
    let bounds = after.map_or_else(Bounds::all, |cursor| Bounds::after(cursor.as_bytes()));
    let rows = tx.range(Table::Connections, &bounds, Direction::Forward, STEP)?;
    let (mut orphaned, mut reactivated, mut ended) = (0, 0, 0);
    let mut next = (rows.len() == STEP).then_some(()).and(rows.last()).map(|(key, _)| key.clone());
    for (key, row) in rows {
        let record = CONNECTIONS.decode(&row)?;
        let place = record.place()?;
        match change(&record, may_use(&place), now, kept) {
            Some(Turn::Orphan) => {
                note(tx, &Record { orphaned_since_ms: Some(now.as_millis()), ..record }, &place)?;
                orphaned += 1;
            }
            Some(Turn::Reactivate) => {
                note(tx, &Record { orphaned_since_ms: None, ..record }, &place)?;
                reactivated += 1;
            }
            Some(Turn::End(why)) => {
                end_in(tx, &record, why, Actor::System)?;
                ended += 1;
            }
            None => continue,
        }
        if orphaned + reactivated + ended == MAX_CHANGES {
            next = Some(key);
            break;
        }
    }
    Ok(Swept::Step { orphaned, reactivated, ended, next: next.and_then(Cursor::from_bytes) })
}

enum Turn {
    Orphan,
    Reactivate,
    End(End),
}

/// What is to become of a connection, if anything.
fn change(record: &Record, access: Access, now: Timestamp, kept: Duration) -> Option<Turn> {
    let since = record.orphaned_since_ms.map(Timestamp::from_millis);
    match (access, since) {
        (Access::Granted, None) => None,
        (Access::Granted, Some(_)) => Some(Turn::Reactivate),
        (Access::Withdrawn, None) => Some(Turn::Orphan),
        (Access::Withdrawn, Some(since)) => (since.after(kept) <= now).then_some(Turn::End(End::Orphaned)),
        (Access::HolderGone, _) => Some(Turn::End(End::HolderGone)),
        (Access::UpstreamGone, _) => Some(Turn::End(End::UpstreamGone)),
    }
}

fn note(tx: &mut WriteTx<'_>, record: &Record, place: &Place) -> Result<(), StoreError> {
    CONNECTIONS.put(tx, record)?;
    let (holder, upstream) = said(place);
    let event = match record.orphaned_since_ms {
        Some(_) => AuditEvent::ConnectionOrphaned { holder, upstream },
        None => AuditEvent::ConnectionReactivated { holder, upstream },
    };
    audit::append(tx, Actor::System, &event)?;
    tell(tx, place)
}

/// Whether nothing that access depends on has changed since.
pub(in crate::store) fn is_current(tx: &mut ReadTx<'_>, of: Revision) -> Result<bool, StoreError> {
    let News::Changes { changes, .. } = changes::since(tx, of)? else { return Ok(false) };
    let is_about_access = |change: &Change| {
        matches!(change, Change::Keys | Change::User { .. } | Change::Upstreams | Change::Grant { .. })
    };
    Ok(changes.len() < MAX_NEWS && !changes.iter().any(is_about_access))
}
