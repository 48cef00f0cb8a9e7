//! Users and their external identities as they are stored.

use serde::{Deserialize, Serialize};

use super::super::StoreError;
use super::super::engine::Table;
use super::super::table::unreadable;
use crate::env::Timestamp;
use crate::identity::TokenList;
use crate::identity::user::{DisplayName, Email, ExternalIdentity, Login, PasswordHash, Role, Status, User};
use crate::ids::UserId;

/// Codec version 1.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::store) struct Record {
    id: String,
    revision: u64,
    login: Option<String>,
    name: String,
    email: Option<String>,
    role: String,
    groups: Vec<String>,
    status: String,
    password: Option<String>,
    created_ms: u64,
    last_sign_in_ms: Option<u64>,
    /// When nothing has to be told of a deleted one any more.
    forgotten_ms: Option<u64>,
}

impl Record {
    pub(super) fn id(&self) -> &[u8] {
        self.id.as_bytes()
    }

    pub(super) fn by_login(&self) -> Vec<u8> {
        match &self.login {
            Some(login) => of_login(login),
            None => [&[0], self.id()].concat(),
        }
    }

    pub(super) fn by_email(&self) -> Vec<u8> {
        match &self.email {
            Some(email) => [&of_email(email), self.id()].concat(),
            None => [&[0], self.id()].concat(),
        }
    }

    pub(super) fn by_role(&self) -> Vec<u8> {
        // A word that nobody knows is told of when the record is read.
        let role = Role::parse(&self.role).map_or(u8::MAX, role_byte);
        let status = Status::parse(&self.status).map_or(u8::MAX, status_byte);
        [&[role, status], self.id()].concat()
    }

    pub(super) fn forgotten(&self) -> Option<Timestamp> {
        self.forgotten_ms.map(Timestamp::from_millis)
    }

    /// What is left of a deleted user, until then.
    pub(super) fn grave(user: &User, forgotten: Timestamp) -> Self {
        let left = User {
            login: None,
            email: None,
            groups: TokenList::default(),
            password: None,
            status: Status::Deleted,
            revision: user.revision + 1,
            ..user.clone()
        };
        Self { forgotten_ms: Some(forgotten.as_millis()), ..Self::from(&left) }
    }
}

/// The key of a login in its index.
pub(super) fn of_login(login: &str) -> Vec<u8> {
    [&[1], login.as_bytes()].concat()
}

/// What the keys of an address begin with in its index. No address has the byte 0 in it.
pub(super) fn of_email(email: &str) -> Vec<u8> {
    [&[1], email.as_bytes(), &[0]].concat()
}

/// What the keys of these users begin with in their index.
pub(super) fn of_role(role: Role, status: Status) -> [u8; 2] {
    [role_byte(role), status_byte(status)]
}

// Parts of keys: they are never given another meaning.

const fn role_byte(role: Role) -> u8 {
    match role {
        Role::User => 0,
        Role::Viewer => 1,
        Role::Operator => 2,
        Role::Owner => 3,
    }
}

const fn status_byte(status: Status) -> u8 {
    match status {
        Status::Invited => 0,
        Status::Active => 1,
        Status::Suspended => 2,
        Status::Deleted => 3,
    }
}

impl From<&User> for Record {
    fn from(user: &User) -> Self {
        let User { id, revision, login, name, email, role, groups, status, password, created, last_sign_in } = user;
        Self {
            id: id.as_str().to_owned(),
            revision: *revision,
            login: login.as_ref().map(|login| login.as_str().to_owned()),
            name: name.as_str().to_owned(),
            email: email.as_ref().map(|email| email.as_str().to_owned()),
            role: role.as_str().to_owned(),
            groups: groups.to_vec(),
            status: status.as_str().to_owned(),
            password: password.as_ref().map(|password| password.expose().to_owned()),
            created_ms: created.as_millis(),
            last_sign_in_ms: last_sign_in.map(Timestamp::as_millis),
            forgotten_ms: None,
        }
    }
}

impl TryFrom<Record> for User {
    type Error = StoreError;

    fn try_from(record: Record) -> Result<Self, StoreError> {
        let Record {
            id,
            revision,
            login,
            name,
            email,
            role,
            groups,
            status,
            password,
            created_ms,
            last_sign_in_ms,
            forgotten_ms: _,
        } = record;
        Ok(Self {
            id: UserId::parse(&id).ok_or_else(|| bad("an id"))?,
            revision,
            login: login.map(|login| Login::parse(&login).ok_or_else(|| bad("a login"))).transpose()?,
            name: DisplayName::of(&name),
            email: email.map(|email| Email::parse(&email).ok_or_else(|| bad("an address"))).transpose()?,
            role: Role::parse(&role).ok_or_else(|| bad("a role"))?,
            groups: TokenList::parse(groups).map_err(|(_, error)| unreadable(Table::Users, error))?,
            status: Status::parse(&status).ok_or_else(|| bad("a status"))?,
            password: password.map(|hash| PasswordHash::parse(&hash).ok_or_else(|| bad("a password"))).transpose()?,
            created: Timestamp::from_millis(created_ms),
            last_sign_in: last_sign_in_ms.map(Timestamp::from_millis),
        })
    }
}

fn bad(what: &str) -> StoreError {
    unreadable(Table::Users, format_args!("{what} is none"))
}

/// Codec version 1.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::store) struct IdentityRecord {
    issuer: String,
    subject: String,
    pub(super) user: String,
    linked_ms: u64,
}

impl IdentityRecord {
    pub(super) fn new(identity: &ExternalIdentity, user: &UserId, linked: Timestamp) -> Self {
        Self {
            issuer: identity.issuer().to_owned(),
            subject: identity.subject().to_owned(),
            user: user.as_str().to_owned(),
            linked_ms: linked.as_millis(),
        }
    }

    pub(super) fn key(&self) -> Vec<u8> {
        [self.issuer.as_bytes(), &[0], self.subject.as_bytes()].concat()
    }

    pub(super) fn by_user(&self) -> Vec<u8> {
        [self.user.as_bytes(), &self.key()].concat()
    }

    pub(super) fn identity(&self) -> Result<ExternalIdentity, StoreError> {
        ExternalIdentity::parse(&self.issuer, &self.subject)
            .ok_or_else(|| unreadable(Table::Identities, "an identity is none"))
    }
}

/// The key of an identity. Neither half has the byte 0 in it.
pub(super) fn of_identity(identity: &ExternalIdentity) -> Vec<u8> {
    [identity.issuer().as_bytes(), &[0], identity.subject().as_bytes()].concat()
}
