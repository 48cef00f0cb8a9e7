//! Connections: what upstreams accept, for whom, and how fresh it is.
//!
//! A connection stands under its holder and its upstream, so that there is one for each pair. Each verb is one
//! transaction with its audit row inside; refreshing, which happens all the time, has none. What a connection is is
//! [`crate::connection`]; whether its holder may use it is never stored but asked of a function of plain values, in the
//! transaction that depends on it.
//!
//! Secrets are sealed for the connection's id and the revision that they will have: the caller seals for the revision
//! after the one that it saw, and is told to begin anew if somebody was faster.

use std::time::Duration;

use super::changes::{self, Change, Revision};
use super::engine::{Bounds, Direction, Table};
use super::table::{Cursor, Index, Page, Typed};
use super::{ReadTx, Store, StoreError, WriteTx, audit, users};
use crate::audit::{Actor, AuditEvent};
use crate::connection::{Access, Connection, Credential, Holder, Origin, Place, Reason, Standing, State, Tokens};
use crate::env::Timestamp;
use crate::ids::{ConnectionId, UpstreamName};

mod ending;
mod record;
mod refresh;
mod sealing;
mod sweep;

#[cfg(test)]
pub(super) mod tests;

pub use ending::{
    Disconnection, Ended, Revocation, Trial, Whose, disconnect, due_revocations, end_all_of, not_revoked, revoked,
};
pub(super) use ending::{are_left, end_some};
use record::{Record, RevocationRecord, StateRecord, at, of_holder};
pub use refresh::{Commit, Lease, Leasing, commit_refresh, due_for_refresh, give_back, lease_refresh};
pub(super) use sealing::{SEALED, SEALED_REVOCATIONS};
pub use sealing::{Secret, sealed_at};
pub use sweep::{Swept, sweep};
pub(super) use sweep::{is_current, is_current_for};

/// Largest secrets of one connection, in bytes as they are sealed.
pub const MAX_SEALED_BYTES: usize = 96 * 1024;
/// Largest rest of one credential, in bytes.
const MAX_TEXT_BYTES: usize = 48 * 1024;
/// Upstreams of one holder that [`upstreams_of`] tells.
const MAX_TOLD: usize = 500;

pub(super) const CONNECTIONS: Typed<Record> = Typed {
    table: Table::Connections,
    version: 1,
    older: &[],
    key: Record::key,
    indexes: &[
        Index { table: Table::ConnectionsById, key: |record| record.id.as_bytes().to_vec() },
        Index { table: Table::ConnectionsByUpstream, key: Record::by_upstream },
        Index { table: Table::ConnectionsByEnd, key: Record::by_end },
    ],
    expires: None,
};

/// How long it is remembered that tokens are to be revoked, at most.
const REVOCATIONS_KEPT: Duration = Duration::from_secs(8 * 24 * 60 * 60);

pub(super) const REVOCATIONS: Typed<RevocationRecord> = Typed {
    table: Table::Revocations,
    version: 1,
    older: &[],
    key: |record| record.connection.as_bytes().to_vec(),
    indexes: &[Index { table: Table::RevocationsByDue, key: RevocationRecord::by_due }],
    expires: Some(|record| Some(Timestamp::from_millis(record.ended_ms).after(REVOCATIONS_KEPT))),
};

/// A credential to be stored, sealed for [`Self::id`] and the revision after [`Self::replaces`].
#[derive(Clone, Debug)]
pub struct NewCredential {
    pub place: Place,
    /// Of the connection that is there, or a new one.
    pub id: ConnectionId,
    /// The revision that is replaced; `None` where there is no connection.
    pub replaces: Option<u64>,
    /// Where the upstream was that it is meant for.
    pub origin: Option<Origin>,
    pub credential: Credential,
}

/// What came of [`put`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Put {
    /// At this revision.
    Stored(u64),
    /// Something else is there, or nothing: seal anew for what is.
    Conflict(Option<Box<Connection>>),
    /// Its holder may not use the upstream.
    NoAccess,
    /// What `may_use` was made of has changed: make it anew, and try again.
    Outdated,
    TooLarge,
}

/// What came of [`mark`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    Marked,
    /// It was marked like that before.
    Unchanged,
    /// Other secrets were stored meanwhile, at this revision: what was seen says nothing of them.
    Outdated(u64),
    NotFound,
}

/// Stores a credential, in the place of the one that was seen. `may_use` is of the state at revision `of`.
pub async fn put<F>(
    store: &Store,
    new: NewCredential,
    of: Revision,
    may_use: F,
    actor: Actor,
) -> Result<Put, StoreError>
where
    F: Fn(&Place) -> Access + Send + 'static,
{
    store.write(move |tx| put_in(tx, &new, of, &may_use, actor)).await
}

/// [`put`], as a part of what makes a connection.
pub(super) fn put_in(
    tx: &mut WriteTx<'_>,
    new: &NewCredential,
    of: Revision,
    may_use: &dyn Fn(&Place) -> Access,
    actor: Actor,
) -> Result<Put, StoreError> {
    let NewCredential { place, id, replaces, origin, credential } = new;
    if !is_current_for(tx, of, place)? {
        return Ok(Put::Outdated);
    }
    let is_gone = match &place.holder {
        Holder::Shared => false,
        Holder::Of(holder) => users::is_gone_in(tx, holder)?,
    };
    if is_gone || !may_use(place).is_granted() {
        return Ok(Put::NoAccess);
    }
    if !fits(credential) {
        return Ok(Put::TooLarge);
    }
    let now = tx.now();
    let mut was_orphaned = false;
    let record = match (CONNECTIONS.get(tx, &at(place))?, replaces) {
        (Some(there), Some(seen)) if there.revision == *seen && there.id == id.as_str() => {
            // Whoever may use it now is no orphan, whatever the sweep has noted.
            was_orphaned = there.orphaned_since_ms.is_some();
            let renewed = there.renewed(credential, now);
            Record { orphaned_since_ms: None, given: renewed.revision, ..renewed }
        }
        (None, None) if tx.get(Table::ConnectionsById, id.as_str().as_bytes())?.is_none() => {
            Record::first(id, place, credential, now)
        }
        (there, _) => {
            let there = there.map(Connection::try_from).transpose()?;
            return Ok(Put::Conflict(there.map(Box::new)));
        }
    };
    let record = Record { origin: origin.as_ref().map(Origin::to_string), ..record };
    CONNECTIONS.put(tx, &record)?;
    let (holder, upstream) = said(place);
    let kind = credential.kind().to_owned();
    if was_orphaned {
        let (holder, upstream) = (holder.clone(), upstream.clone());
        audit::append(tx, actor, &AuditEvent::ConnectionReactivated { holder, upstream })?;
    }
    audit::append(tx, actor, &AuditEvent::ConnectionStored { holder, upstream, kind })?;
    tell(tx, place)?;
    Ok(Put::Stored(record.revision))
}

fn fits(credential: &Credential) -> bool {
    let (sealed, texts) = match credential {
        Credential::OAuth(tokens) => {
            let Tokens { issuer, client, access, refresh, scopes, expires: _ } = tokens;
            let refresh = refresh.as_ref().map_or(0, |refresh| refresh.as_bytes().len());
            let scopes: usize = scopes.iter().map(String::len).sum();
            (access.as_bytes().len() + refresh, issuer.len() + client.len() + scopes)
        }
        Credential::Headers { names, values } => {
            (values.as_bytes().len(), names.iter().map(|name| name.len() + 4).sum())
        }
    };
    sealed <= MAX_SEALED_BYTES && texts <= MAX_TEXT_BYTES
}

/// A place in the words of the audit trail.
fn said(place: &Place) -> (String, UpstreamName) {
    (place.holder.to_string(), place.upstream.clone())
}

fn tell(tx: &mut WriteTx<'_>, place: &Place) -> Result<(), StoreError> {
    let (principal, upstream) = (place.holder.to_string(), place.upstream.as_str().to_owned());
    changes::announce(tx, Change::Connection { principal, upstream })
}

/// Why a connection does not work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    Reauth(Reason),
    /// Headers that the operator asks for and that were not given.
    Update(Vec<String>),
}

/// Notes that the secrets of revision `seen` do not work. They are kept, and no refresh of them counts any more.
pub async fn mark(store: &Store, place: &Place, seen: u64, trouble: Trouble, actor: Actor) -> Result<Mark, StoreError> {
    let place = place.clone();
    store.write(move |tx| mark_in(tx, &place, seen, &trouble, actor)).await
}

fn mark_in(
    tx: &mut WriteTx<'_>,
    place: &Place,
    seen: u64,
    trouble: &Trouble,
    actor: Actor,
) -> Result<Mark, StoreError> {
    let Some(record) = CONNECTIONS.get(tx, &at(place))? else { return Ok(Mark::NotFound) };
    if record.revision != seen {
        return Ok(Mark::Outdated(record.revision));
    }
    let since = tx.now();
    let is_known = match (&record.connection()?.state, trouble) {
        (State::NeedsReauth { reason, .. }, Trouble::Reauth(new)) => reason == new,
        (State::NeedsUpdate { missing, .. }, Trouble::Update(new)) => missing == new,
        _ => false,
    };
    if is_known {
        return Ok(Mark::Unchanged);
    }
    let (state, reason) = match trouble {
        Trouble::Reauth(reason) => (State::NeedsReauth { reason: *reason, since }, reason.to_string()),
        Trouble::Update(missing) => (
            State::NeedsUpdate { missing: missing.clone(), since },
            format!("headers are missing: {}", missing.join(" ")),
        ),
    };
    let fence = record.fence + 1;
    CONNECTIONS.put(tx, &Record { state: StateRecord::from(&state), lease: None, fence, ..record })?;
    let (holder, upstream) = said(place);
    audit::append(tx, actor, &AuditEvent::ConnectionFailed { holder, upstream, reason })?;
    tell(tx, place)?;
    Ok(Mark::Marked)
}

/// The connection at a place, in whatever state.
pub async fn get(store: &Store, place: &Place) -> Result<Option<Connection>, StoreError> {
    let place = place.clone();
    store.read(move |tx| get_in(tx, &place)).await
}

pub(super) fn get_in(tx: &mut ReadTx<'_>, place: &Place) -> Result<Option<Connection>, StoreError> {
    CONNECTIONS.get(tx, &at(place))?.map(Connection::try_from).transpose()
}

/// The connection with this id.
pub async fn by_id(store: &Store, id: &ConnectionId) -> Result<Option<Connection>, StoreError> {
    let id = id.clone();
    store
        .read(move |tx| {
            let found = CONNECTIONS.find(tx, Table::ConnectionsById, id.as_str().as_bytes())?;
            found.map(Connection::try_from).transpose()
        })
        .await
}

/// Upstreams where a holder has a connection, the first few hundred.
pub(super) fn upstreams_of(tx: &mut ReadTx<'_>, holder: &Holder) -> Result<Vec<UpstreamName>, StoreError> {
    let these = Bounds::within(&of_holder(&holder.to_string()));
    let rows = tx.range(Table::Connections, &these, Direction::Forward, MAX_TOLD)?;
    rows.iter().map(|(_, row)| Ok(CONNECTIONS.decode(row)?.place()?.upstream)).collect()
}

/// Which connections a list shows.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub holder: Option<Holder>,
    pub upstream: Option<UpstreamName>,
    pub standing: Option<Standing>,
}

/// A connection in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub connection: Connection,
    /// Given what its holder may now.
    pub standing: Standing,
}

/// A page of connections: of one holder from the last upstream to the first, else newest first. It looks at a bounded
/// number of them: it may be short, or empty, and still have a next one.
pub async fn list<F>(
    store: &Store,
    filter: Filter,
    may_use: F,
    after: Option<Cursor>,
    limit: usize,
) -> Result<Page<Listed>, StoreError>
where
    F: Fn(&Place) -> Access + Send + 'static,
{
    let standing = move |connection: &Connection| connection.standing(may_use(&connection.place));
    list_by(store, filter, standing, after, limit).await
}

/// The same where whoever asks knows more of upstreams than who may use them.
pub async fn list_by<F>(
    store: &Store,
    filter: Filter,
    standing: F,
    after: Option<Cursor>,
    limit: usize,
) -> Result<Page<Listed>, StoreError>
where
    F: Fn(&Connection) -> Standing + Send + 'static,
{
    store.read(move |tx| list_in(tx, &filter, &standing, after.as_ref(), limit)).await
}

fn list_in(
    tx: &mut ReadTx<'_>,
    filter: &Filter,
    standing: &dyn Fn(&Connection) -> Standing,
    after: Option<&Cursor>,
    limit: usize,
) -> Result<Page<Listed>, StoreError> {
    let listed = |record: Record| {
        let connection = Connection::try_from(record)?;
        let standing = standing(&connection);
        Ok::<_, StoreError>(Listed { connection, standing })
    };
    // What cannot be read is kept, and told of by the conversion.
    let keep = |record: &Record| {
        let of_upstream = filter.upstream.as_ref().is_none_or(|upstream| upstream.as_str() == record.upstream);
        of_upstream
            && filter
                .standing
                .is_none_or(|wanted| listed(record.clone()).map_or(true, |listed| listed.standing == wanted))
    };
    let page = match (&filter.holder, &filter.upstream) {
        (Some(holder), _) => CONNECTIONS.last_first_within(tx, &of_holder(&holder.to_string()), after, limit, keep)?,
        (None, Some(upstream)) => {
            let these = [upstream.as_str().as_bytes(), &[0]].concat();
            CONNECTIONS.newest_first_within(tx, (Table::ConnectionsByUpstream, &these), after, limit, keep)?
        }
        (None, None) => CONNECTIONS.newest_first_within(tx, (Table::ConnectionsById, b""), after, limit, keep)?,
    };
    page.try_map(listed)
}
