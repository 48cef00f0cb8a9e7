//! How connections end: erased at once, and their tokens revoked as soon as the authorization server can be told.
//!
//! What is left of a connection with tokens is a row of the queue of revocations. Its secrets stay sealed for the
//! connection that they belonged to, so that a deleted data key makes an end of them, too.

use std::time::Duration;

use super::{CONNECTIONS, REVOCATIONS, Record, RevocationRecord, at, of_holder, said, tell};
use crate::audit::{Actor, AuditEvent};
use crate::connection::{End, Holder, Place};
use crate::env::Timestamp;
use crate::ids::{ConnectionId, UpstreamName};
use crate::secret::Sealed;
use crate::store::engine::{Bounds, Direction, Table};
use crate::store::{ReadTx, Store, StoreError, WriteTx, audit, flows};

/// Connections ended in one transaction.
const STEP: usize = 50;
/// Revocations handed out at once.
const MAX_DUE: usize = 50;
/// Attempts before it is given up, spread over some three days.
const MAX_ATTEMPTS: u32 = 16;
/// First pause between two attempts, doubled with each.
const FIRST_PAUSE: Duration = Duration::from_secs(60);
const LAST_PAUSE: Duration = Duration::from_secs(12 * 60 * 60);

/// What came of [`disconnect`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disconnection {
    /// It is erased. `is_to_revoke`: its tokens wait to be revoked.
    Ended {
        is_to_revoke: bool,
    },
    NotFound,
}

/// Which connections [`end_all_of`] ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whose {
    Holder(Holder),
    Upstream(UpstreamName),
}

/// A step of [`end_all_of`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    pub connections: usize,
    pub flows: usize,
    /// Whether there may be more of them.
    pub has_more: bool,
}

/// Tokens to be revoked (RFC 7009), sealed for the connection and the revision that they were.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    pub connection: ConnectionId,
    pub place: Place,
    pub revision: u64,
    pub issuer: String,
    pub client: String,
    pub access: Sealed,
    pub refresh: Option<Sealed>,
    /// This one included.
    pub attempts: u32,
}

/// What came of [`not_revoked`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trial {
    /// Another one is made then.
    Again {
        at: Timestamp,
    },
    /// It was the last one.
    GivenUp,
    NotFound,
}

/// Ends a connection, and before it the attempts to renew it.
pub async fn disconnect(store: &Store, place: &Place, why: End, actor: Actor) -> Result<Disconnection, StoreError> {
    let place = place.clone();
    store
        .write(move |tx| {
            flows::drop_all_of(tx, &place.holder, Some(&place.upstream))?;
            let Some(record) = CONNECTIONS.get(tx, &at(&place))? else { return Ok(Disconnection::NotFound) };
            let is_to_revoke = end_in(tx, &record, why, actor)?;
            Ok(Disconnection::Ended { is_to_revoke })
        })
        .await
}

/// Erases a connection and queues its tokens, if it has some.
pub(super) fn end_in(tx: &mut WriteTx<'_>, record: &Record, why: End, actor: Actor) -> Result<bool, StoreError> {
    let place = record.place()?;
    let left = RevocationRecord::of(record, tx.now());
    CONNECTIONS.remove(tx, &record.key())?;
    if let Some(left) = &left {
        REVOCATIONS.put(tx, left)?;
    }
    let (holder, upstream) = said(&place);
    audit::append(tx, actor, &AuditEvent::ConnectionEnded { holder, upstream, why: why.to_string() })?;
    tell(tx, &place)?;
    Ok(left.is_some())
}

/// Ends the connections of a holder or of an upstream, some in each call, until there are no more.
pub async fn end_all_of(store: &Store, whose: Whose, why: End, actor: Actor) -> Result<Ended, StoreError> {
    store.write(move |tx| end_some(tx, &whose, why, actor)).await
}

/// A step of [`end_all_of`], as a part of the end of whose they are.
pub(in crate::store) fn end_some(
    tx: &mut WriteTx<'_>,
    whose: &Whose,
    why: End,
    actor: Actor,
) -> Result<Ended, StoreError> {
    let (records, flows) = match whose {
        Whose::Holder(holder) => {
            let flows = flows::drop_all_of(tx, holder, None)?;
            let these = Bounds::within(&of_holder(&holder.to_string()));
            let rows = tx.range(Table::Connections, &these, Direction::Forward, STEP)?;
            let records = rows.iter().map(|(_, row)| CONNECTIONS.decode(row)).collect::<Result<Vec<_>, _>>()?;
            (records, flows)
        }
        Whose::Upstream(upstream) => {
            let these = [upstream.as_str().as_bytes(), &[0]].concat();
            let records = CONNECTIONS.newest_within(tx, (Table::ConnectionsByUpstream, &these), STEP)?;
            (records, 0)
        }
    };
    for record in &records {
        end_in(tx, record, why, actor)?;
    }
    Ok(Ended { connections: records.len(), flows, has_more: records.len() == STEP })
}

/// Whether there are connections of these.
pub(in crate::store) fn are_left(tx: &mut ReadTx<'_>, whose: &Whose) -> Result<bool, StoreError> {
    let (table, prefix) = match whose {
        Whose::Holder(holder) => (Table::Connections, of_holder(&holder.to_string())),
        Whose::Upstream(upstream) => (Table::ConnectionsByUpstream, [upstream.as_str().as_bytes(), &[0]].concat()),
    };
    Ok(!tx.range(table, &Bounds::within(&prefix), Direction::Forward, 1)?.is_empty())
}

/// Tokens whose revocation is due. Nobody else is told of them before `patience` is over; by then it was
/// [`revoked`] or [`not_revoked`], or it is tried again.
pub async fn due_revocations(store: &Store, patience: Duration, limit: usize) -> Result<Vec<Revocation>, StoreError> {
    store.write(move |tx| due_in(tx, patience, limit.min(MAX_DUE))).await
}

fn due_in(tx: &mut WriteTx<'_>, patience: Duration, limit: usize) -> Result<Vec<Revocation>, StoreError> {
    let now = tx.now();
    // Up to now, and now as well.
    let due = Bounds::before(now.after(Duration::from_millis(1)).as_millis().to_be_bytes());
    let rows = tx.range(Table::RevocationsByDue, &due, Direction::Forward, limit)?;
    let mut found = Vec::with_capacity(rows.len());
    for (_, key) in rows {
        let Some(record) = REVOCATIONS.get(tx, &key)? else { continue };
        let due_ms = now.after(patience).as_millis();
        let record = RevocationRecord { due_ms, attempts: record.attempts + 1, ..record };
        REVOCATIONS.put(tx, &record)?;
        found.push(Revocation::try_from(record)?);
    }
    Ok(found)
}

/// The authorization server has been told, or has no way to be told.
pub async fn revoked(store: &Store, connection: &ConnectionId) -> Result<(), StoreError> {
    let key = connection.clone();
    store
        .write(move |tx| {
            let Some(record) = REVOCATIONS.remove(tx, key.as_str().as_bytes())? else { return Ok(()) };
            let (holder, upstream) = said(&record.place()?);
            audit::append(tx, Actor::System, &AuditEvent::TokensRevoked { holder, upstream })
        })
        .await
}

/// It could not be told. It is tried again after a pause that doubles each time, and at last no more. With `is_final`,
/// there is no use in trying again.
pub async fn not_revoked(store: &Store, connection: &ConnectionId, is_final: bool) -> Result<Trial, StoreError> {
    let key = connection.clone();
    store
        .write(move |tx| {
            let Some(record) = REVOCATIONS.get(tx, key.as_str().as_bytes())? else { return Ok(Trial::NotFound) };
            if is_final || record.attempts >= MAX_ATTEMPTS {
                REVOCATIONS.remove(tx, key.as_str().as_bytes())?;
                let (holder, upstream) = said(&record.place()?);
                let attempts = u64::from(record.attempts);
                audit::append(tx, Actor::System, &AuditEvent::TokensNotRevoked { holder, upstream, attempts })?;
                return Ok(Trial::GivenUp);
            }
            let pause = FIRST_PAUSE.saturating_mul(1 << record.attempts.saturating_sub(1)).min(LAST_PAUSE);
            let at = tx.now().after(pause);
            REVOCATIONS.put(tx, &RevocationRecord { due_ms: at.as_millis(), ..record })?;
            Ok(Trial::Again { at })
        })
        .await
}

impl TryFrom<RevocationRecord> for Revocation {
    type Error = StoreError;

    fn try_from(record: RevocationRecord) -> Result<Self, StoreError> {
        let place = record.place()?;
        let RevocationRecord {
            connection,
            holder: _,
            upstream: _,
            revision,
            issuer,
            client,
            access,
            refresh,
            attempts,
            due_ms: _,
            ended_ms: _,
        } = record;
        let connection = ConnectionId::parse(&connection)
            .ok_or_else(|| crate::store::table::unreadable(Table::Revocations, "an id is none"))?;
        Ok(Self { connection, place, revision, issuer, client, access, refresh, attempts })
    }
}
