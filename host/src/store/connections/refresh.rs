//! One refresh at a time: whoever holds the lease asks the authorization server, and only the newest lease stores what
//! came of it.
//!
//! A refresh token may be good for one use (RFC 9700 §4.14.2), so two replicas that use the same one lose the
//! connection. A lease has a number, its fence, which grows with each lease and with everything else that changes the
//! credential: an answer that comes back under an older number is not stored.

use std::time::Duration;

use super::record::LeaseRecord;
use super::{CONNECTIONS, REVOCATIONS, Record, RevocationRecord, at, fits, tell};
use crate::connection::{Connection, Credential, Holder, Origin, Place};
use crate::env::Timestamp;
use crate::ids::ConnectionId;
use crate::store::engine::{Bounds, Direction, Table};
use crate::store::table::shorten;
use crate::store::{ReadTx, Store, StoreError, WriteTx, users};

/// Longest time for one refresh.
const MAX_LEASE: Duration = Duration::from_secs(120);
/// First pause after a refresh that failed, doubled with each that follows.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
/// Longest pause, without its jitter.
pub(super) const LAST_PAUSE: Duration = Duration::from_secs(15 * 60);
/// Longest pause with all of its jitter.
const LONGEST_PAUSE: Duration = Duration::from_secs(15 * 60 * 5 / 4);
const MAX_REPLICA_BYTES: usize = 64;
/// Most connections that [`due_for_refresh`] tells at once.
const MAX_DUE: usize = 500;

/// The right to refresh a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    pub id: ConnectionId,
    pub fence: u64,
    /// From then on somebody else may have it.
    pub until: Timestamp,
    /// The lease before this one ended without a word: its refresh token may be used up, and the new one lost.
    pub after_loss: bool,
    /// What is refreshed. New secrets are sealed for the revision after its own. Where nobody knows what it was made for, whoever
    /// refreshes it may say.
    pub connection: Connection,
}

/// What came of [`lease_refresh`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leasing {
    Leased(Box<Lease>),
    /// Somebody else refreshes it, until then at most.
    HeldBy {
        by: String,
        until: Timestamp,
    },
    /// The last refresh failed: not before then.
    Pausing {
        until: Timestamp,
    },
    /// It has been refreshed already.
    Fresh(Box<Connection>),
    /// There is nothing to refresh it with, or it needs its person.
    Unable(Box<Connection>),
    NotFound,
}

/// What came of [`commit_refresh`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Commit {
    /// At this revision.
    Stored(u64),
    /// The connection has moved on without this lease. Nothing was stored.
    LostLease,
    /// The connection has ended meanwhile, or its user is gone. The tokens wait to be revoked, if anybody can still open them.
    Ended,
    TooLarge,
}

/// Asks for the right to refresh what was seen at revision `seen`, for `ttl`.
pub async fn lease_refresh(
    store: &Store,
    place: &Place,
    seen: u64,
    replica: &str,
    ttl: Duration,
) -> Result<Leasing, StoreError> {
    let (place, by) = (place.clone(), shorten(replica, MAX_REPLICA_BYTES));
    store.write(move |tx| lease_in(tx, &place, seen, &by, ttl.min(MAX_LEASE))).await
}

fn lease_in(tx: &mut WriteTx<'_>, place: &Place, seen: u64, by: &str, ttl: Duration) -> Result<Leasing, StoreError> {
    let now = tx.now();
    let Some(record) = CONNECTIONS.get(tx, &at(place))? else { return Ok(Leasing::NotFound) };
    let connection = record.connection()?;
    if record.revision != seen {
        return Ok(Leasing::Fresh(Box::new(connection)));
    }
    let is_able = record.is_connected() && connection.tokens().is_some_and(|tokens| tokens.refresh.is_some());
    if !is_able {
        return Ok(Leasing::Unable(Box::new(connection)));
    }
    let after_loss = record.lease.is_some();
    if let Some(lease) = &record.lease {
        let until = Timestamp::from_millis(lease.until_ms);
        if is_ahead(until, now, MAX_LEASE) {
            return Ok(Leasing::HeldBy { by: lease.by.clone(), until });
        }
    }
    let pausing = record.not_before_ms.map(Timestamp::from_millis).filter(|until| is_ahead(*until, now, LONGEST_PAUSE));
    if let Some(until) = pausing {
        return Ok(Leasing::Pausing { until });
    }
    let (fence, until) = (record.fence + 1, now.after(ttl));
    let lease = Some(LeaseRecord { by: by.to_owned(), until_ms: until.as_millis() });
    CONNECTIONS.put(tx, &Record { fence, lease, ..record })?;
    Ok(Leasing::Leased(Box::new(Lease { id: connection.id.clone(), fence, until, after_loss, connection })))
}

/// Whether a time lies ahead that was set at most `longest` before it. One that is further ahead was set before the clock
/// was set back, and does not count: nothing that should be short becomes long because of a clock.
fn is_ahead(until: Timestamp, now: Timestamp, longest: Duration) -> bool {
    now < until && until <= now.after(longest)
}

/// Stores what a refresh has brought, sealed for the revision after the one that was leased.
///
/// A lease whose time is over still counts as long as nobody has taken another: the token that it used is used up.
pub async fn commit_refresh(store: &Store, lease: &Lease, credential: Credential) -> Result<Commit, StoreError> {
    let lease = lease.clone();
    store.write(move |tx| commit_in(tx, &lease, &credential)).await
}

fn commit_in(tx: &mut WriteTx<'_>, lease: &Lease, credential: &Credential) -> Result<Commit, StoreError> {
    if !fits(credential) {
        return Ok(Commit::TooLarge);
    }
    let Some(record) = leased(tx, lease)? else {
        return Ok(if queue(tx, lease, credential)? { Commit::Ended } else { Commit::LostLease });
    };
    if let Holder::Of(holder) = &lease.connection.place.holder
        && users::is_gone_in(tx, holder)?
    {
        // What they were sealed with is destroyed: nobody can use them, and nobody can have them revoked.
        return Ok(Commit::Ended);
    }
    let made_for = || lease.connection.origin.as_ref().map(Origin::to_string);
    let origin = record.origin.clone().or_else(made_for);
    let renewed = Record { origin, ..record.renewed(credential, tx.now()) };
    CONNECTIONS.put(tx, &renewed)?;
    tell(tx, &lease.connection.place)?;
    Ok(Commit::Stored(renewed.revision))
}

/// Has the tokens revoked that a refresh has brought for a connection that has ended meanwhile, in place of those that it
/// had used up. Whether it has: a connection that was renewed before it ended left other tokens, which stay in the queue.
fn queue(tx: &mut WriteTx<'_>, lease: &Lease, credential: &Credential) -> Result<bool, StoreError> {
    let Lease { id, connection, .. } = lease;
    let key = id.as_str().as_bytes();
    let is_left = REVOCATIONS.get(tx, key)?.is_none_or(|left| left.revision == connection.revision);
    if !is_left || tx.get(Table::ConnectionsById, key)?.is_some() {
        return Ok(false);
    }
    let now = tx.now();
    let ended = Record { revision: connection.revision + 1, ..Record::first(id, &connection.place, credential, now) };
    let Some(left) = RevocationRecord::of(&ended, now) else { return Ok(false) };
    REVOCATIONS.put(tx, &left)?;
    Ok(true)
}

/// The record of a lease, if that is still the newest.
fn leased(tx: &mut ReadTx<'_>, lease: &Lease) -> Result<Option<Record>, StoreError> {
    let record = CONNECTIONS.get(tx, &at(&lease.connection.place))?;
    Ok(record.filter(|record| record.id == lease.id.as_str() && record.fence == lease.fence && record.lease.is_some()))
}

/// Ends a lease without a result: the server could not be asked, or does not answer now. Tells until when nobody tries
/// again: a pause that doubles each time, or what the server asks for, and up to a quarter of that besides. `jitter` says
/// how much of the quarter, so that those that failed together do not all come back together. `None` where the lease was
/// lost.
pub async fn give_back(
    store: &Store,
    lease: &Lease,
    asked: Option<Duration>,
    jitter: u8,
) -> Result<Option<Timestamp>, StoreError> {
    let lease = lease.clone();
    store
        .write(move |tx| {
            let Some(record) = leased(tx, &lease)? else { return Ok(None) };
            let pause = pause(record.failures).max(asked.unwrap_or_default()).min(LAST_PAUSE);
            let until = tx.now().after(pause + pause / 4 * u32::from(jitter) / u32::from(u8::MAX));
            let failures = record.failures.saturating_add(1);
            let not_before_ms = Some(until.as_millis());
            CONNECTIONS.put(tx, &Record { lease: None, failures, not_before_ms, ..record })?;
            Ok(Some(until))
        })
        .await
}

fn pause(failures: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << failures.min(16)).min(LAST_PAUSE)
}

/// Connections whose access token ends before `before` and that may be refreshed, those that end first in front.
pub async fn due_for_refresh(store: &Store, before: Timestamp, limit: usize) -> Result<Vec<Connection>, StoreError> {
    store
        .read(move |tx| {
            let due = Bounds::within(&[0]).before_too(&[&[0], &before.as_millis().to_be_bytes()[..]].concat());
            let rows = tx.range(Table::ConnectionsByEnd, &due, Direction::Forward, limit.min(MAX_DUE))?;
            let found = rows.iter().map(|(_, key)| CONNECTIONS.get(tx, key)).collect::<Result<Vec<_>, _>>()?;
            found.into_iter().flatten().map(Connection::try_from).collect()
        })
        .await
}
