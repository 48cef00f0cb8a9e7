//! Reconciling: what the lists say of access is written down, and what is not coming back is ended.
//!
//! Access is derived, so nothing depends on the sweep but the audit trail, `orphaned_since` and the end of what is
//! unused. It goes through all connections, a bounded part in each transaction, and asks a function of plain values
//! that was made of one state of configuration, keys and users. If one of those has changed since, the step
//! does nothing: on old news nothing is ended.
//!
//! Configuration files are each replica's own. That a key or an upstream of one is gone may be the view of one replica,
//! so its connections are orphaned at first, and ended when nobody has brought it back for long. Only what the store
//! itself proves is ended at once: that a user was deleted.

use std::time::Duration;

use super::ending::end_in;
use super::{CONNECTIONS, Record, said, tell};
use crate::audit::{Actor, AuditEvent};
use crate::connection::{Access, End, Holder, Place};
use crate::env::Timestamp;
use crate::ids::Principal;
use crate::store::changes::{self, Change, News, Revision};
use crate::store::engine::{Bounds, Direction, Table};
use crate::store::kept::readable;
use crate::store::table::Cursor;
use crate::store::{ReadTx, Store, StoreError, WriteTx, audit, users};

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
        /// Records that cannot be read: they stay.
        unreadable: usize,
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
    let (mut orphaned, mut reactivated, mut ended, mut unreadable) = (0, 0, 0, 0);
    let mut next = (rows.len() == STEP).then_some(()).and(rows.last()).map(|(key, _)| key.clone());
    for (key, row) in rows {
        let Some((record, place)) = readable(read(&row))? else {
            // What others have is swept all the same.
            unreadable += 1;
            continue;
        };
        let turn = match &place.holder {
            Holder::Of(holder) if users::is_gone_in(tx, holder)? => Some(Turn::End(End::HolderGone)),
            _ => change(&record, may_use(&place), now, kept),
        };
        match turn {
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
    Ok(Swept::Step { orphaned, reactivated, ended, unreadable, next: next.and_then(Cursor::from_bytes) })
}

fn read(row: &[u8]) -> Result<(Record, Place), StoreError> {
    let record = CONNECTIONS.decode(row)?;
    let place = record.place()?;
    Ok((record, place))
}

enum Turn {
    Orphan,
    Reactivate,
    End(End),
}

/// What is to become of a connection, if anything.
fn change(record: &Record, access: Access, now: Timestamp, kept: Duration) -> Option<Turn> {
    let since = record.orphaned_since_ms.map(Timestamp::from_millis);
    let why = match access {
        Access::Granted => return since.map(|_| Turn::Reactivate),
        Access::Withdrawn => End::Orphaned,
        Access::HolderGone => End::HolderGone,
        Access::UpstreamGone => End::UpstreamGone,
    };
    match since {
        None => Some(Turn::Orphan),
        Some(since) => (since.after(kept) <= now).then_some(Turn::End(why)),
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

/// Whether nothing that the access of anybody depends on has changed since.
pub(in crate::store) fn is_current(tx: &mut ReadTx<'_>, of: Revision) -> Result<bool, StoreError> {
    let News::Changes { changes, .. } = changes::since(tx, of)? else { return Ok(false) };
    let is_about_access = |change: &Change| {
        matches!(change, Change::Keys | Change::User { .. } | Change::Upstreams | Change::Grant { .. })
    };
    Ok(changes.len() < MAX_NEWS && !changes.iter().any(is_about_access))
}

/// Whether nothing that the access to one place depends on has changed since, so that what others do does not count.
pub(in crate::store) fn is_current_for(tx: &mut ReadTx<'_>, of: Revision, place: &Place) -> Result<bool, StoreError> {
    let News::Changes { changes, .. } = changes::since(tx, of)? else { return Ok(false) };
    let is_about_it = |change: &Change| match (change, &place.holder) {
        (Change::Upstreams, _) | (Change::Keys, Holder::Of(Principal::Key(_))) => true,
        (Change::User { id }, Holder::Of(Principal::User(user))) => *id == user.as_str(),
        _ => false,
    };
    Ok(changes.len() < MAX_NEWS && !changes.iter().any(is_about_it))
}
