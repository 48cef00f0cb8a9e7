//! Registered OAuth clients.
//!
//! Anybody may register a client, so their number is bounded: one that nobody has used makes room for the next, the oldest
//! first (`docs/threat-model.md` row T13). A client that was used goes with its last use and a long time, one that nobody
//! used with its registration and a short one. Deleting a client revokes what was granted to it in the same transaction.

use std::time::Duration;

use super::changes::{self, Change, Revision, announce};
use super::counted::Counted;
use super::engine::{Bounds, Direction, Table};
use super::revocations::{self, Whose};
use super::table::{Cursor, Index, Page, Single, Typed};
use super::{ReadTx, Store, StoreError, WriteTx, audit};
use crate::audit::{Actor, AuditEvent, RegisteredBy, RevocationReason};
use crate::env::Timestamp;
use crate::ids::ClientId;
use crate::oauth::Client;
use crate::oauth::client::{Authentication, Metadata, Source, TooLarge};
use crate::secret::Digest;

mod record;
#[cfg(test)]
mod tests;
mod told;

pub(super) use record::OnReuseRecord;
use record::{ClientRecord, Use};

/// Most clients that operators may add.
pub const MAX_OF_OPERATORS: usize = 1_000;
/// Clients that make room for one new one, at most.
const MAX_EVICTED: usize = 8;
/// How exactly the last use of a client is known.
const USE_STEP: Duration = Duration::from_secs(60 * 60);

pub(super) const CLIENTS: Counted<ClientRecord> = Counted {
    records: Typed {
        table: Table::Clients,
        version: 1,
        older: &[],
        key: ClientRecord::key,
        indexes: &[
            Index { table: Table::ClientsByUse, key: ClientRecord::by_use },
            Index { table: Table::ClientsByCreation, key: ClientRecord::by_creation },
        ],
        expires: Some(ClientRecord::expires),
    },
    count: Single::new("clients"),
};

/// What came of [`register`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Registration {
    /// It was, now.
    Registered(Box<Client>),
    /// There are as many as there may be, and all of them are used.
    QuotaExceeded,
    /// There is a client of this id.
    Taken,
    TooLarge(TooLarge),
}

/// What came of [`update`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Update {
    Updated(Box<Client>),
    /// There is no such client, or another registration token is the right one.
    NotFound,
    /// It is of this revision, and not the one that is meant.
    Other(u64),
    TooLarge(TooLarge),
}

/// What came of [`delete`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deletion {
    Deleted,
    /// There is no such client, or another registration token is the right one.
    NotFound,
    /// It is of this revision, and not the one that is meant.
    Other(u64),
}

/// Who changes a registration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authority {
    /// The client, by the digest of the registration token that it presents (RFC 7592).
    Client(Digest),
    Operator,
    /// The same, who means the client as it is in this revision.
    OperatorWhoSaw(u64),
}

/// What a client or an operator may change. The rest of a registration stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    pub metadata: Metadata,
    pub authentication: Authentication,
    /// The digest of the registration token from now on, where the client has one.
    pub token: Digest,
}

/// Keeps a new client, as one of at most `most`; it is created now, and unused.
pub async fn register(store: &Store, client: Client, most: u64, actor: Actor) -> Result<Registration, StoreError> {
    store.write(move |tx| register_in(tx, &client, most, actor)).await
}

fn register_in(tx: &mut WriteTx<'_>, client: &Client, most: u64, actor: Actor) -> Result<Registration, StoreError> {
    if let Err(failure) = client.check() {
        return Ok(Registration::TooLarge(failure));
    }
    if CLIENTS.get(tx, client.id.as_str().as_bytes())?.is_some() {
        return Ok(Registration::Taken);
    }
    let (by, evicted) = match client.source {
        Source::Registered { .. } => (RegisteredBy::Client, make_room(tx, most, actor)?),
        Source::Operator => (RegisteredBy::Operator, has_room_for_operators(tx)?.then_some(0)),
    };
    let Some(evicted) = evicted else { return Ok(Registration::QuotaExceeded) };
    let client = Client { created: tx.now(), last_used: None, ..client.clone() };
    CLIENTS.add(tx, &ClientRecord::from(&client))?;
    let as_what = told::registered(&client);
    audit::append(tx, actor, &AuditEvent::ClientRegistered { client: client.id.clone(), by, evicted, as_what })?;
    announce(tx, Change::Client { id: client.id.to_string() })?;
    Ok(Registration::Registered(Box::new(client)))
}

/// Takes out the oldest unused clients until there is room for one, and tells how many. `None` if there is none even so;
/// then those that are gone are in the audit trail one by one, since no new one's line tells of them.
fn make_room(tx: &mut WriteTx<'_>, most: u64, actor: Actor) -> Result<Option<u64>, StoreError> {
    let mut evicted = Vec::new();
    let surplus = (CLIENTS.len(tx)? + 1).saturating_sub(most);
    if surplus == 0 {
        return Ok(Some(0));
    }
    // After the quota was lowered there is more than one too many, and each registration takes a few of them away.
    let step = usize::try_from(surplus).unwrap_or(usize::MAX).min(MAX_EVICTED);
    let unused = Bounds::within(&[Use::Unused as u8]);
    for (_, id) in tx.range(Table::ClientsByUse, &unused, Direction::Forward, step)? {
        if let Some(client) = CLIENTS.remove(tx, &id)? {
            announce(tx, Change::Client { id: client.id.clone() })?;
            evicted.push(client.id);
        }
    }
    if CLIENTS.len(tx)? < most {
        return Ok(Some(evicted.len() as u64));
    }
    for id in evicted {
        audit::append(tx, actor, &AuditEvent::ClientDeleted { client: super::record::client(Table::Clients, &id)? })?;
    }
    Ok(None)
}

fn has_room_for_operators(tx: &mut ReadTx<'_>) -> Result<bool, StoreError> {
    let added = Bounds::within(&[Use::OfOperator as u8]);
    Ok(tx.range(Table::ClientsByUse, &added, Direction::Forward, MAX_OF_OPERATORS)?.len() < MAX_OF_OPERATORS)
}

/// Changes what a client says of itself, and gives it a new registration token (RFC 7592 §2.2).
pub async fn update(
    store: &Store,
    id: &ClientId,
    authority: Authority,
    changed: Changed,
    actor: Actor,
) -> Result<Update, StoreError> {
    let id = id.clone();
    store.write(move |tx| update_in(tx, &id, &authority, &changed, actor)).await
}

fn update_in(
    tx: &mut WriteTx<'_>,
    id: &ClientId,
    authority: &Authority,
    changed: &Changed,
    actor: Actor,
) -> Result<Update, StoreError> {
    let Some(before) = get_in(tx, id)?.filter(|client| has_say(client, authority)) else {
        return Ok(Update::NotFound);
    };
    if let Some(revision) = is_other(&before, authority) {
        return Ok(Update::Other(revision));
    }
    let Changed { metadata, authentication, token } = changed.clone();
    let source = match before.source {
        Source::Registered { token: _, lives } => Source::Registered { token, lives },
        Source::Operator => Source::Operator,
    };
    let client = Client { source, metadata, authentication, ..before.clone() };
    if let Err(failure) = client.check() {
        return Ok(Update::TooLarge(failure));
    }
    CLIENTS.replace(tx, &ClientRecord::from(&client))?;
    let changes = told::changes(&before, &client);
    audit::append(tx, actor, &AuditEvent::ClientUpdated { client: id.clone(), changes })?;
    announce(tx, Change::Client { id: id.to_string() })?;
    Ok(Update::Updated(Box::new(client)))
}

/// Deletes a client and revokes what was granted to it.
pub async fn delete(store: &Store, id: &ClientId, authority: Authority, actor: Actor) -> Result<Deletion, StoreError> {
    let id = id.clone();
    store.write(move |tx| delete_in(tx, &id, &authority, actor)).await
}

fn delete_in(tx: &mut WriteTx<'_>, id: &ClientId, authority: &Authority, actor: Actor) -> Result<Deletion, StoreError> {
    let Some(client) = get_in(tx, id)?.filter(|client| has_say(client, authority)) else {
        return Ok(Deletion::NotFound);
    };
    if let Some(revision) = is_other(&client, authority) {
        return Ok(Deletion::Other(revision));
    }
    CLIENTS.remove(tx, id.as_str().as_bytes())?;
    revocations::revoke_all_in(tx, &Whose::Client(id.clone()), RevocationReason::ClientDeleted, actor)?;
    audit::append(tx, actor, &AuditEvent::ClientDeleted { client: id.clone() })?;
    announce(tx, Change::Client { id: id.to_string() })?;
    Ok(Deletion::Deleted)
}

fn has_say(client: &Client, authority: &Authority) -> bool {
    match (authority, &client.source) {
        (Authority::Operator | Authority::OperatorWhoSaw(_), _) => true,
        (Authority::Client(presented), Source::Registered { token, .. }) => presented == token,
        (Authority::Client(_), Source::Operator) => false,
    }
}

/// The revision of a client that is not the one that was seen.
fn is_other(client: &Client, authority: &Authority) -> Option<u64> {
    match authority {
        Authority::Client(_) | Authority::Operator => None,
        Authority::OperatorWhoSaw(seen) => Some(client.revision()).filter(|revision| revision != seen),
    }
}

/// The client of this id, if it is still registered.
pub async fn get(store: &Store, id: &ClientId) -> Result<Option<Client>, StoreError> {
    let id = id.clone();
    store.read(move |tx| get_in(tx, &id)).await
}

/// The same, and the revision of the state that it is of: what is kept of it is void once the client changes later.
pub async fn get_at(store: &Store, id: &ClientId) -> Result<(Option<Client>, Revision), StoreError> {
    let id = id.clone();
    store.read(move |tx| Ok::<_, StoreError>((get_in(tx, &id)?, changes::revision(tx)?))).await
}

pub(super) fn get_in(tx: &mut ReadTx<'_>, id: &ClientId) -> Result<Option<Client>, StoreError> {
    let client = CLIENTS.get(tx, id.as_str().as_bytes())?.map(Client::try_from).transpose()?;
    Ok(client.filter(|client| client.is_registered(tx.now())))
}

/// A page of the clients that are registered, of all or of those that were registered like this, newest first. It is shorter
/// where some have expired, and may be empty and still have a next one.
pub async fn list(
    store: &Store,
    by: Option<RegisteredBy>,
    after: Option<Cursor>,
    limit: usize,
) -> Result<Page<Client>, StoreError> {
    store
        .read(move |tx| {
            let (records, after) = (&CLIENTS.records, after.as_ref());
            let mut page = match by {
                None => records.newest_first_by(tx, Table::ClientsByCreation, after, limit)?,
                Some(RegisteredBy::Operator) => {
                    let added = (Table::ClientsByUse, &[Use::OfOperator as u8][..]);
                    records.newest_first_within(tx, added, after, limit, |_| true)?
                }
                Some(RegisteredBy::Client) => {
                    let all = (Table::ClientsByCreation, &[][..]);
                    records.newest_first_within(tx, all, after, limit, |record| !record.is_of_operator())?
                }
            };
            page.items.retain(|record| record.expires().is_none_or(|end| tx.now() < end));
            page.try_map(TryFrom::try_from)
        })
        .await
}

/// How many clients there are, with those that have expired and were not yet taken out.
pub async fn count(store: &Store) -> Result<u64, StoreError> {
    store.read(|tx| CLIENTS.len(tx)).await
}

/// Notes that something is granted to a client or refreshed by it. Whether it may be: a client whose id is no address has
/// to be registered.
pub(super) fn used_in(tx: &mut WriteTx<'_>, id: &ClientId) -> Result<bool, StoreError> {
    if id.is_address() {
        return Ok(true);
    }
    let Some(client) = get_in(tx, id)? else { return Ok(false) };
    let now = tx.now();
    let is_known = |used: Timestamp| now < used.after(USE_STEP) && now.after(USE_STEP) > used;
    if !client.last_used.is_some_and(is_known) {
        CLIENTS.replace(tx, &ClientRecord::from(&Client { last_used: Some(now), ..client }))?;
    }
    Ok(true)
}
