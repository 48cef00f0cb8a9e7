//! How people come in through an identity provider, and which of its subjects they are.

use super::{
    IDENTITIES, IdentityRecord, MAX_IDENTITIES, USERS, add, by_identity_in, get_in, identities_in, of_email,
    of_identity, put_changed, tell,
};
use crate::audit::{Actor, AuditEvent};
use crate::identity::TokenList;
use crate::identity::user::{DisplayName, Email, ExternalIdentity, Role, Status, User};
use crate::ids::{UserId, UserTag};
use crate::store::engine::Table;
use crate::store::{Store, StoreError, WriteTx, audit};

/// What an identity provider said of somebody, checked.
#[derive(Clone, Debug)]
pub struct Arrival {
    pub identity: ExternalIdentity,
    /// `None` leaves what is known, here and below.
    pub name: Option<DisplayName>,
    /// Only one that the provider has verified.
    pub email: Option<Email>,
    pub groups: Option<TokenList>,
    /// What becomes of people who have no account; without it they get none.
    pub admission: Option<Admission>,
}

/// An account for somebody who comes for the first time.
#[derive(Clone, Debug)]
pub struct Admission {
    pub id: UserId,
    pub role: Role,
}

/// Who came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arrived {
    Known(Box<User>),
    /// Somebody who was invited under the address that the provider has verified.
    Linked(Box<User>),
    Admitted(Box<User>),
    /// The account opens nothing.
    Suspended(UserId),
    /// Nobody has an account for this identity, and none was made.
    Stranger,
    /// There is no room for one more account.
    TooMany,
}

/// What came of [`link`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Linking {
    Linked,
    AlreadyLinked,
    /// It is how somebody else is known.
    Taken,
    NotFound,
    /// The user has [`MAX_IDENTITIES`] already.
    TooMany,
}

/// What came of [`unlink`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unlinking {
    Unlinked,
    NotFound,
}

/// Finds or makes the account of somebody whom an identity provider vouches for, and brings it up to date.
pub async fn sign_in(store: &Store, arrival: Arrival) -> Result<Arrived, StoreError> {
    store.write(move |tx| sign_in_in(tx, &arrival)).await
}

fn sign_in_in(tx: &mut WriteTx<'_>, arrival: &Arrival) -> Result<Arrived, StoreError> {
    if let Some(user) = by_identity_in(tx, &arrival.identity)? {
        return match user.status {
            Status::Active | Status::Invited => refreshed(tx, user, arrival).map(|user| Arrived::Known(Box::new(user))),
            Status::Suspended | Status::Deleted => Ok(Arrived::Suspended(user.id)),
        };
    }
    if let Some(invited) = invited_as(tx, arrival.email.as_ref())? {
        put_identity(tx, &arrival.identity, &invited.id, Actor::User(UserTag::from(&invited.id)))?;
        return refreshed(tx, invited, arrival).map(|user| Arrived::Linked(Box::new(user)));
    }
    let Some(Admission { id, role }) = &arrival.admission else { return Ok(Arrived::Stranger) };
    let user = User {
        id: id.clone(),
        revision: 1,
        login: None,
        name: arrival.name.clone().unwrap_or_else(|| DisplayName::of("")),
        email: arrival.email.clone(),
        role: *role,
        groups: arrival.groups.clone().unwrap_or_default(),
        status: Status::Active,
        password: None,
        created: tx.now(),
        last_sign_in: None,
    };
    let oneself = Actor::User(UserTag::from(id));
    if !add(tx, &user, oneself)? {
        return Ok(Arrived::TooMany);
    }
    put_identity(tx, &arrival.identity, id, oneself)?;
    Ok(Arrived::Admitted(Box::new(user)))
}

/// The account as the provider has it now. Whoever comes is invited no more.
fn refreshed(tx: &mut WriteTx<'_>, user: User, arrival: &Arrival) -> Result<User, StoreError> {
    let after = User {
        name: arrival.name.clone().unwrap_or_else(|| user.name.clone()),
        email: arrival.email.clone().or_else(|| user.email.clone()),
        groups: arrival.groups.clone().unwrap_or_else(|| user.groups.clone()),
        status: Status::Active,
        ..user.clone()
    };
    if after == user {
        return Ok(user);
    }
    let oneself = Actor::User(UserTag::from(&user.id));
    put_changed(tx, &user, after, oneself)
}

/// The one account that waits for whoever has this address. Where several do, none does: an operator has to say which.
/// An account that somebody uses already is never linked by an address (OpenID Connect Core §5.7).
fn invited_as(tx: &mut WriteTx<'_>, email: Option<&Email>) -> Result<Option<User>, StoreError> {
    let Some(email) = email else { return Ok(None) };
    let these = (Table::UsersByEmail, &of_email(email.as_str())[..]);
    let Ok([only]) = <[_; 1]>::try_from(USERS.newest_within(tx, these, 2)?) else { return Ok(None) };
    let user = User::try_from(only)?;
    let waits = user.status == Status::Invited && identities_in(tx, &user.id)?.is_empty();
    Ok(waits.then_some(user))
}

fn put_identity(
    tx: &mut WriteTx<'_>,
    identity: &ExternalIdentity,
    user: &UserId,
    actor: Actor,
) -> Result<(), StoreError> {
    IDENTITIES.put(tx, &IdentityRecord::new(identity, user, tx.now()))?;
    let (issuer, subject) = (identity.issuer().to_owned(), identity.subject().to_owned());
    audit::append(tx, actor, &AuditEvent::IdentityLinked { user: user.clone(), issuer, subject })
}

/// Lets a person sign in as one more subject of an identity provider.
pub async fn link(store: &Store, id: &UserId, identity: ExternalIdentity, actor: Actor) -> Result<Linking, StoreError> {
    let id = id.clone();
    store.write(move |tx| link_in(tx, &id, &identity, actor)).await
}

fn link_in(
    tx: &mut WriteTx<'_>,
    id: &UserId,
    identity: &ExternalIdentity,
    actor: Actor,
) -> Result<Linking, StoreError> {
    if get_in(tx, id)?.is_none_or(|user| user.status == Status::Deleted) {
        return Ok(Linking::NotFound);
    }
    if let Some(known) = IDENTITIES.get(tx, &of_identity(identity))? {
        return Ok(if known.user == id.as_str() { Linking::AlreadyLinked } else { Linking::Taken });
    }
    if identities_in(tx, id)?.len() >= MAX_IDENTITIES {
        return Ok(Linking::TooMany);
    }
    put_identity(tx, identity, id, actor)?;
    tell(tx, id)?;
    Ok(Linking::Linked)
}

/// Ends that. Browsers that are signed in stay so; who wants that as well ends them.
pub async fn unlink(
    store: &Store,
    id: &UserId,
    identity: ExternalIdentity,
    actor: Actor,
) -> Result<Unlinking, StoreError> {
    let id = id.clone();
    store.write(move |tx| unlink_in(tx, &id, &identity, actor)).await
}

fn unlink_in(
    tx: &mut WriteTx<'_>,
    id: &UserId,
    identity: &ExternalIdentity,
    actor: Actor,
) -> Result<Unlinking, StoreError> {
    let key = of_identity(identity);
    if IDENTITIES.get(tx, &key)?.is_none_or(|known| known.user != id.as_str()) {
        return Ok(Unlinking::NotFound);
    }
    IDENTITIES.remove(tx, &key)?;
    let (issuer, subject) = (identity.issuer().to_owned(), identity.subject().to_owned());
    audit::append(tx, actor, &AuditEvent::IdentityUnlinked { user: id.clone(), issuer, subject })?;
    tell(tx, id)?;
    Ok(Unlinking::Unlinked)
}
