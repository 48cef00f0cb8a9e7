//! How people go, and what they leave behind.

use std::time::Duration;

use super::{IDENTITIES, LIVING, Record, USERS, get_in, has_other_owner, identities_in, revoke_granted, tell};
use crate::audit::{Actor, AuditEvent};
use crate::connection::Holder;
use crate::identity::user::Status;
use crate::ids::{Owner, Principal, UpstreamName, UserId};
use crate::store::{Store, StoreError, WriteTx, api_tokens, audit, browser_sessions, connections, data_keys, flows};

/// How long it is remembered who a deleted user was: as long as the audit trail is kept by default.
pub(super) const GRAVE_TIME: Duration = Duration::from_secs(400 * 24 * 60 * 60);

/// What came of [`delete`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deletion {
    Deleted(Box<Leavings>),
    NotFound,
    /// Nobody would be left to make operators.
    LastOwner,
    /// Somebody else was faster: the account has this revision.
    Conflict(u64),
}

/// What a user has left: what went with them, and what whoever deleted them has to see to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leavings {
    /// Under this name stand grants, which are revoked, and approvals. The data key in the vault is destroyed in the same
    /// transaction.
    pub principal: Principal,
    /// Ended in the same transaction, like those below.
    pub browser_sessions: usize,
    pub api_tokens: usize,
    pub identities: usize,
    pub flows: usize,
    /// Upstreams where the user has a connection: out of use at once, since nobody may use it, and ended by
    /// [`connections::end_all_of`] or the next sweep.
    pub connections: Vec<UpstreamName>,
}

/// Deletes a user. What is left is a name for the trails, for as long as the trails last.
pub async fn delete(store: &Store, id: &UserId, actor: Actor) -> Result<Deletion, StoreError> {
    delete_seen(store, id, None, actor).await
}

/// The same. With `expected`, only the account of that revision.
pub async fn delete_seen(
    store: &Store,
    id: &UserId,
    expected: Option<u64>,
    actor: Actor,
) -> Result<Deletion, StoreError> {
    let id = id.clone();
    store.write(move |tx| delete_in(tx, &id, expected, actor)).await
}

fn delete_in(tx: &mut WriteTx<'_>, id: &UserId, expected: Option<u64>, actor: Actor) -> Result<Deletion, StoreError> {
    let Some(user) = get_in(tx, id)?.filter(|user| user.status != Status::Deleted) else {
        return Ok(Deletion::NotFound);
    };
    if expected.is_some_and(|expected| expected != user.revision) {
        return Ok(Deletion::Conflict(user.revision));
    }
    if user.keeps_the_house() && !has_other_owner(tx, id)? {
        return Ok(Deletion::LastOwner);
    }
    let identities = identities_in(tx, id)?;
    for identity in &identities {
        IDENTITIES.remove(tx, &identity.key())?;
    }
    let holder = Holder::Of(Principal::User(id.clone()));
    let leavings = Leavings {
        principal: Principal::User(id.clone()),
        browser_sessions: browser_sessions::end_all_in(tx, id, None, actor)?,
        api_tokens: api_tokens::revoke_all_in(tx, id, actor)?,
        identities: identities.len(),
        flows: flows::drop_all_of(tx, &holder, None)?,
        connections: connections::upstreams_of(tx, &holder)?,
    };
    revoke_granted(tx, id, actor)?;
    // Nobody can open what is sealed for the user from here on.
    data_keys::shred_in(tx, &Owner::Principal(leavings.principal.clone()), actor)?;
    let living = LIVING.get(tx)?.unwrap_or(0);
    LIVING.put(tx, &living.saturating_sub(1))?;
    USERS.put(tx, &Record::grave(&user, tx.now().after(GRAVE_TIME)))?;
    audit::append(tx, actor, &AuditEvent::UserDeleted { user: id.clone(), name: user.name.to_string() })?;
    tell(tx, id)?;
    Ok(Deletion::Deleted(Box::new(leavings)))
}
