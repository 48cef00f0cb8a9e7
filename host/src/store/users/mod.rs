//! People with an account, operators included, and how identity providers know them.
//!
//! Each verb is one transaction, with its audit rows inside. Once there is an active owner there always is one: what
//! would take the last one away is refused. Whatever makes an account open less ends its signed-in browsers in the same
//! transaction; one that opens nothing any more loses what it had granted to clients. What a user is is `identity::user`; how people come in is [`sign_in`], how they go is [`delete`].

use super::engine::Table;
use super::table::{Cursor, Index, Page, Single, Typed};
use super::{ReadTx, Store, StoreError, WriteTx, audit, browser_sessions, changes, guests, revocations};
use crate::audit::{Actor, AuditEvent, FieldChange, RevocationReason};
use crate::identity::TokenList;
use crate::identity::user::{DisplayName, Email, ExternalIdentity, Login, PasswordHash, Role, Status, User};
use crate::ids::{Principal, UserId};

mod arrival;
mod people;
mod record;
mod removal;

#[cfg(test)]
pub(super) mod tests;

pub use arrival::{Admission, Arrival, Arrived, Linking, Unlinking, link, sign_in, unlink};
pub use people::{called, people, people_of};
use record::{IdentityRecord, Record, of_email, of_identity, of_login, of_role};
pub use removal::{Deletion, Leavings, delete, delete_at};

/// Most users, deleted ones aside.
pub const MAX_USERS: u64 = 100_000;
/// Most external identities of one user.
pub const MAX_IDENTITIES: usize = 8;

pub(super) const USERS: Typed<Record> = Typed {
    table: Table::Users,
    version: 1,
    older: &[],
    key: |record| record.id().to_vec(),
    indexes: &[
        Index { table: Table::UsersByLogin, key: Record::by_login },
        Index { table: Table::UsersByEmail, key: Record::by_email },
        Index { table: Table::UsersByRole, key: Record::by_role },
    ],
    expires: Some(Record::forgotten),
};

pub(super) const IDENTITIES: Typed<IdentityRecord> = Typed {
    table: Table::Identities,
    version: 1,
    older: &[],
    key: IdentityRecord::key,
    indexes: &[Index { table: Table::IdentitiesByUser, key: IdentityRecord::by_user }],
    expires: None,
};

/// How many users there are, deleted ones aside.
const LIVING: Single<u64> = Single::new("users");

/// An account to be made.
#[derive(Clone, Debug)]
pub struct NewUser {
    pub id: UserId,
    pub login: Option<Login>,
    pub name: DisplayName,
    pub email: Option<Email>,
    pub role: Role,
    pub groups: TokenList,
    /// Whether it opens something at once, or waits for its person.
    pub invited: bool,
    pub password: Option<PasswordHash>,
}

/// What came of [`create`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Creation {
    Created(Box<User>),
    LoginTaken,
    /// There are [`MAX_USERS`] already.
    TooMany,
}

/// One thing about an account that is to be different.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    Name(DisplayName),
    Login(Option<Login>),
    Email(Option<Email>),
    Role(Role),
    Groups(TokenList),
    Password(Option<PasswordHash>),
    /// The account opens something from now on.
    Activate,
    Suspend,
}

/// What came of [`change`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Changed(Box<User>),
    Unchanged(Box<User>),
    NotFound,
    /// Somebody else was faster: the account has this revision.
    Conflict(u64),
    LoginTaken,
    /// Nobody would be left to make operators.
    LastOwner,
}

/// Makes an account.
pub async fn create(store: &Store, new: NewUser, actor: Actor) -> Result<Creation, StoreError> {
    store.write(move |tx| create_in(tx, &new, actor)).await
}

/// What came of [`create_first_owner`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FirstOwner {
    Created(Box<User>),
    /// There is an owner already.
    HasOne,
    LoginTaken,
    /// There are [`MAX_USERS`] already.
    TooMany,
}

/// Makes an account of an owner, unless there is one in whatever state.
pub async fn create_first_owner(store: &Store, new: NewUser, actor: Actor) -> Result<FirstOwner, StoreError> {
    let new = NewUser { role: Role::Owner, ..new };
    store
        .write(move |tx| {
            if has_owner_in(tx)? {
                return Ok(FirstOwner::HasOne);
            }
            Ok(match create_in(tx, &new, actor)? {
                Creation::Created(user) => FirstOwner::Created(user),
                Creation::LoginTaken => FirstOwner::LoginTaken,
                Creation::TooMany => FirstOwner::TooMany,
            })
        })
        .await
}

/// Whether there is an account of an owner, in whatever state.
pub async fn has_owner(store: &Store) -> Result<bool, StoreError> {
    store.read(has_owner_in).await
}

fn has_owner_in(tx: &mut ReadTx<'_>) -> Result<bool, StoreError> {
    for status in [Status::Active, Status::Invited, Status::Suspended] {
        if !USERS.newest_within(tx, (Table::UsersByRole, &of_role(Role::Owner, status)), 1)?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

fn create_in(tx: &mut WriteTx<'_>, new: &NewUser, actor: Actor) -> Result<Creation, StoreError> {
    let NewUser { id, login, name, email, role, groups, invited, password } = new;
    if let Some(login) = login
        && tx.get(Table::UsersByLogin, &of_login(login.as_str()))?.is_some()
    {
        return Ok(Creation::LoginTaken);
    }
    let user = User {
        id: id.clone(),
        revision: 1,
        login: login.clone(),
        name: name.clone(),
        email: email.clone(),
        role: *role,
        groups: groups.clone(),
        status: if *invited { Status::Invited } else { Status::Active },
        password: password.clone(),
        created: tx.now(),
        last_sign_in: None,
    };
    Ok(if add(tx, &user, actor)? { Creation::Created(Box::new(user)) } else { Creation::TooMany })
}

/// Puts a new user in, if there is room.
fn add(tx: &mut WriteTx<'_>, user: &User, actor: Actor) -> Result<bool, StoreError> {
    let living = LIVING.get(tx)?.unwrap_or(0);
    // An id that is taken, by a chance of one in 2^48 within a millisecond, is no room either.
    if living >= MAX_USERS || USERS.get(tx, user.id.as_str().as_bytes())?.is_some() {
        return Ok(false);
    }
    LIVING.put(tx, &(living + 1))?;
    USERS.put(tx, &Record::from(user))?;
    let (role, status) = (user.role.to_string(), user.status.to_string());
    let changes = from_nothing(user);
    audit::append(tx, actor, &AuditEvent::UserCreated { user: user.id.clone(), role, status, changes })?;
    tell(tx, &user.id)?;
    Ok(true)
}

/// Changes an account: all edits or, where one cannot be, none. With `expected`, only the account of that revision.
pub async fn change(
    store: &Store,
    id: &UserId,
    expected: Option<u64>,
    edits: Vec<Edit>,
    actor: Actor,
) -> Result<Change, StoreError> {
    let id = id.clone();
    store.write(move |tx| change_in(tx, &id, expected, &edits, actor)).await
}

fn change_in(
    tx: &mut WriteTx<'_>,
    id: &UserId,
    expected: Option<u64>,
    edits: &[Edit],
    actor: Actor,
) -> Result<Change, StoreError> {
    let Some(before) = get_in(tx, id)?.filter(|user| user.status != Status::Deleted) else {
        return Ok(Change::NotFound);
    };
    if expected.is_some_and(|expected| expected != before.revision) {
        return Ok(Change::Conflict(before.revision));
    }
    let after = edits.iter().fold(before.clone(), edited);
    if after == before {
        return Ok(Change::Unchanged(Box::new(before)));
    }
    if let Some(login) = &after.login
        && after.login != before.login
        && tx.get(Table::UsersByLogin, &of_login(login.as_str()))?.is_some()
    {
        return Ok(Change::LoginTaken);
    }
    if before.keeps_the_house() && !after.keeps_the_house() && !has_other_owner(tx, id)? {
        return Ok(Change::LastOwner);
    }
    put_changed(tx, &before, after, actor).map(|user| Change::Changed(Box::new(user)))
}

fn edited(user: User, edit: &Edit) -> User {
    match edit.clone() {
        Edit::Name(name) => User { name, ..user },
        Edit::Login(login) => User { login, ..user },
        Edit::Email(email) => User { email, ..user },
        Edit::Role(role) => User { role, ..user },
        Edit::Groups(groups) => User { groups, ..user },
        Edit::Password(password) => User { password, ..user },
        Edit::Activate => User { status: Status::Active, ..user },
        Edit::Suspend => User { status: Status::Suspended, ..user },
    }
}

/// Puts a changed user in the place of what it was, with an audit row for each field that is different.
fn put_changed(tx: &mut WriteTx<'_>, before: &User, after: User, actor: Actor) -> Result<User, StoreError> {
    let after = User { revision: before.revision + 1, ..after };
    USERS.put(tx, &Record::from(&after))?;
    for (field, from, to) in differences(before, &after) {
        let change = FieldChange { field: field.to_owned(), from, to };
        audit::append(tx, actor, &AuditEvent::UserChanged { user: after.id.clone(), change })?;
    }
    let opens_other = before.role != after.role || before.status != after.status || before.password != after.password;
    if opens_other {
        browser_sessions::end_all_in(tx, &after.id, None, actor)?;
    }
    if before.is_active() && !after.is_active() {
        revoke_granted(tx, &after.id, actor)?;
    }
    tell(tx, &after.id)?;
    Ok(after)
}

/// Revokes what clients were granted in the name of a user.
fn revoke_granted(tx: &mut WriteTx<'_>, id: &UserId, actor: Actor) -> Result<(), StoreError> {
    let whose = revocations::Whose::Principal(Principal::User(id.clone()));
    revocations::revoke_all_in(tx, &whose, RevocationReason::PrincipalGone, actor).map(drop)
}

/// Whether something may be granted to a principal, as far as users go: one that is a user is there and active.
pub(super) fn may_be_granted_in(tx: &mut ReadTx<'_>, principal: &Principal) -> Result<bool, StoreError> {
    let Principal::User(id) = principal else { return Ok(true) };
    Ok(get_in(tx, id)?.as_ref().is_some_and(User::is_active))
}

/// Whether a principal is a user or a guest who is not there any more.
pub(super) fn is_gone_in(tx: &mut ReadTx<'_>, principal: &Principal) -> Result<bool, StoreError> {
    match principal {
        Principal::User(id) => Ok(get_in(tx, id)?.is_none_or(|user| user.status == Status::Deleted)),
        Principal::Guest(id) => Ok(!guests::is_there_in(tx, id)?),
        _ => Ok(false),
    }
}

/// What is different, as the audit trail tells it.
fn differences(before: &User, after: &User) -> Vec<(&'static str, Option<String>, Option<String>)> {
    let pairs = words(before).into_iter().zip(words(after));
    let mut found: Vec<_> =
        pairs.filter(|(from, to)| from != to).map(|((field, from), (_, to))| (field, from, to)).collect();
    if before.password != after.password {
        found.push(("password", None, None));
    }
    found
}

/// The fields of an account as the audit trail tells them.
fn words(user: &User) -> [(&'static str, Option<String>); 6] {
    [
        ("name", Some(user.name.to_string())),
        ("login", user.login.as_ref().map(Login::to_string)),
        ("email", user.email.as_ref().map(Email::to_string)),
        ("role", Some(user.role.to_string())),
        ("groups", Some(user.groups.join(" "))),
        ("status", Some(user.status.to_string())),
    ]
}

/// What a new account has besides the role and the status, which its event tells itself. Of a password, that there is one.
fn from_nothing(user: &User) -> Vec<FieldChange> {
    let is_told = |field: &str, value: &Option<String>| {
        !matches!(field, "role" | "status") && value.as_ref().is_some_and(|value| !value.is_empty())
    };
    let fields = words(user).into_iter().filter(|(field, value)| is_told(field, value));
    let password = user.password.is_some().then_some(("password", None));
    let change = |(field, to): (&str, Option<String>)| FieldChange { field: field.to_owned(), from: None, to };
    fields.chain(password).map(change).collect()
}

/// Whether there is an active owner besides this one.
fn has_other_owner(tx: &mut ReadTx<'_>, id: &UserId) -> Result<bool, StoreError> {
    let owners = USERS.newest_within(tx, (Table::UsersByRole, &of_role(Role::Owner, Status::Active)), 2)?;
    Ok(owners.iter().any(|owner| owner.id() != id.as_str().as_bytes()))
}

fn tell(tx: &mut WriteTx<'_>, id: &UserId) -> Result<(), StoreError> {
    changes::announce(tx, changes::Change::User { id: id.as_str().to_owned() })
}

/// The user with this id, deleted ones included as long as they are remembered.
pub async fn get(store: &Store, id: &UserId) -> Result<Option<User>, StoreError> {
    let id = id.clone();
    store.read(move |tx| get_in(tx, &id)).await
}

pub(super) fn get_in(tx: &mut ReadTx<'_>, id: &UserId) -> Result<Option<User>, StoreError> {
    USERS.get(tx, id.as_str().as_bytes())?.map(User::try_from).transpose()
}

/// Notes that a person has signed in, which is not a change of their account.
pub(super) fn signed_in_now(tx: &mut WriteTx<'_>, user: User) -> Result<(), StoreError> {
    let last_sign_in = Some(tx.now());
    USERS.put(tx, &Record::from(&User { last_sign_in, ..user }))
}

/// Keeps the password that somebody has as a hash that costs more, which is no change of the account. One that has changed
/// meanwhile stays as it is.
pub async fn strengthen(store: &Store, id: &UserId, seen: u64, password: PasswordHash) -> Result<(), StoreError> {
    let id = id.clone();
    store
        .write(move |tx| match get_in(tx, &id)?.filter(|user| user.revision == seen && user.password.is_some()) {
            Some(user) => USERS.put(tx, &Record::from(&User { password: Some(password.clone()), ..user })),
            None => Ok(()),
        })
        .await
}

/// The user with this login.
pub async fn by_login(store: &Store, login: &Login) -> Result<Option<User>, StoreError> {
    let key = of_login(login.as_str());
    store.read(move |tx| USERS.find(tx, Table::UsersByLogin, &key)?.map(User::try_from).transpose()).await
}

/// The user whom an identity provider knows like this.
pub async fn by_identity(store: &Store, identity: &ExternalIdentity) -> Result<Option<User>, StoreError> {
    let identity = identity.clone();
    store.read(move |tx| by_identity_in(tx, &identity)).await
}

fn by_identity_in(tx: &mut ReadTx<'_>, identity: &ExternalIdentity) -> Result<Option<User>, StoreError> {
    let Some(record) = IDENTITIES.get(tx, &of_identity(identity))? else { return Ok(None) };
    USERS.get(tx, record.user.as_bytes())?.map(User::try_from).transpose()
}

/// How identity providers know a user.
pub async fn identities(store: &Store, id: &UserId) -> Result<Vec<ExternalIdentity>, StoreError> {
    let id = id.clone();
    store.read(move |tx| identities_in(tx, &id)?.iter().map(IdentityRecord::identity).collect()).await
}

fn identities_in(tx: &mut ReadTx<'_>, id: &UserId) -> Result<Vec<IdentityRecord>, StoreError> {
    IDENTITIES.newest_within(tx, (Table::IdentitiesByUser, id.as_str().as_bytes()), MAX_IDENTITIES)
}

/// Which users a list shows.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub role: Option<Role>,
    /// Without it, all but deleted ones.
    pub status: Option<Status>,
    /// Part of the name, the login or the address, in whatever case.
    pub text: Option<String>,
}

impl Filter {
    fn keeps(&self, user: &User) -> bool {
        let of_status = self.status.map_or(user.status != Status::Deleted, |status| user.status == status);
        let has = |text: &str| {
            let known = [Some(user.name.as_str()), user.login.as_ref().map(Login::as_str)];
            let known = known.into_iter().chain([user.email.as_ref().map(Email::as_str)]).flatten();
            known.map(str::to_lowercase).any(|known| known.contains(&text.to_lowercase()))
        };
        of_status && self.role.is_none_or(|role| user.role == role) && self.text.as_deref().is_none_or(has)
    }
}

/// A page of users, newest first. It looks at a bounded number of them: it may be short, or empty, and still have a next
/// one.
pub async fn list(
    store: &Store,
    filter: Filter,
    after: Option<Cursor>,
    limit: usize,
) -> Result<Page<User>, StoreError> {
    store
        .read(move |tx| {
            // What cannot be read is kept, and told of by the conversion.
            let keep = |record: &Record| User::try_from(record.clone()).map_or(true, |user| filter.keeps(&user));
            let page = match (filter.role, filter.status) {
                (Some(role), Some(status)) => {
                    let these = (Table::UsersByRole, &of_role(role, status)[..]);
                    USERS.newest_first_within(tx, these, after.as_ref(), limit, keep)
                }
                _ => USERS.newest_first(tx, after.as_ref(), limit, keep),
            };
            page?.try_map(User::try_from)
        })
        .await
}
