//! Operators' API tokens, found by the digest of their secret.
//!
//! Each verb is one transaction, with its audit row inside. A token counts only as long as its person is active, and for
//! no more than they may. What a token is is `identity::api_token`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::changes::{self, Change};
use super::engine::Table;
use super::table::{Cursor, Index, Page, Typed, unreadable};
use super::{ReadTx, Store, StoreError, WriteTx, audit, users};
use crate::audit::{Actor, AuditEvent, FieldChange};
use crate::env::Timestamp;
use crate::identity::TokenList;
use crate::identity::api_token::ApiToken;
use crate::identity::user::{DisplayName, Role, User};
use crate::ids::{ApiTokenId, UserId};
use crate::secret::Digest;

#[cfg(test)]
pub(super) mod tests;

/// Most tokens of one person, expired ones that are shown included.
pub const MAX_PER_USER: usize = 50;
/// How far what is known of a token's last use may be behind.
pub const USED_STEP: Duration = Duration::from_secs(60);
/// How long an expired token is shown.
const KEPT_EXPIRED: Duration = Duration::from_secs(30 * 24 * 60 * 60);

pub(super) const TOKENS: Typed<Record> = Typed {
    table: Table::ApiTokens,
    version: 1,
    older: &[],
    key: |record| record.id.as_bytes().to_vec(),
    indexes: &[
        Index { table: Table::ApiTokensByDigest, key: |record| record.digest.to_vec() },
        Index { table: Table::ApiTokensByUser, key: |record| [record.user.as_bytes(), record.id.as_bytes()].concat() },
    ],
    expires: Some(|record| record.expires_ms.map(|ends| Timestamp::from_millis(ends).after(KEPT_EXPIRED))),
};

/// A token to be made.
#[derive(Clone, Debug)]
pub struct NewToken {
    pub id: ApiTokenId,
    pub name: DisplayName,
    pub user: UserId,
    pub digest: Digest,
    pub ceiling: Role,
    pub scopes: TokenList,
    pub expires: Option<Timestamp>,
}

/// What came of [`create`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Creation {
    Created(Box<ApiToken>),
    /// There is no such user, or the account opens nothing.
    NotActive,
    /// The token would promise more than its person may do.
    AboveRole(Role),
    /// Another token has the same secret, or the same id.
    Taken,
    /// The person has [`MAX_PER_USER`] already.
    TooMany,
}

/// What came of [`revoke`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revocation {
    Revoked,
    NotFound,
}

/// Makes a token.
pub async fn create(store: &Store, new: NewToken, actor: Actor) -> Result<Creation, StoreError> {
    store.write(move |tx| create_in(tx, &new, actor)).await
}

fn create_in(tx: &mut WriteTx<'_>, new: &NewToken, actor: Actor) -> Result<Creation, StoreError> {
    let NewToken { id, name, user, digest, ceiling, scopes, expires } = new;
    let Some(person) = users::get_in(tx, user)?.filter(User::is_active) else { return Ok(Creation::NotActive) };
    if *ceiling > person.role {
        return Ok(Creation::AboveRole(person.role));
    }
    let is_taken = tx.get(Table::ApiTokensByDigest, digest.as_bytes())?.is_some()
        || tx.get(Table::ApiTokens, id.as_str().as_bytes())?.is_some();
    if is_taken {
        return Ok(Creation::Taken);
    }
    if of_user(tx, user)?.len() >= MAX_PER_USER {
        return Ok(Creation::TooMany);
    }
    let token = ApiToken {
        id: id.clone(),
        name: name.clone(),
        user: user.clone(),
        digest: *digest,
        ceiling: *ceiling,
        scopes: scopes.clone(),
        created: tx.now(),
        expires: *expires,
        last_used: None,
    };
    TOKENS.put(tx, &Record::from(&token))?;
    let (role, name) = (ceiling.to_string(), name.to_string());
    let changes = told(&token);
    let event = AuditEvent::ApiTokenCreated { token: id.clone(), user: user.clone(), name, role, changes };
    audit::append(tx, actor, &event)?;
    changes::announce(tx, Change::ApiTokens)?;
    Ok(Creation::Created(Box::new(token)))
}

/// What the audit trail tells of a new token besides, from nothing: what it is for and when it ends, where that is said.
fn told(token: &ApiToken) -> Vec<FieldChange> {
    let scopes = Some(token.scopes.join(" ")).filter(|scopes| !scopes.is_empty());
    let fields = [("scopes", scopes), ("expires", token.expires.map(|expires| expires.to_string()))];
    let fields = fields.into_iter().filter(|(_, to)| to.is_some());
    fields.map(|(field, to)| FieldChange { field: field.to_owned(), from: None, to }).collect()
}

fn of_user(tx: &mut ReadTx<'_>, user: &UserId) -> Result<Vec<Record>, StoreError> {
    TOKENS.newest_within(tx, (Table::ApiTokensByUser, user.as_str().as_bytes()), MAX_PER_USER)
}

/// The token whose secret has this digest, and its person, if both count now. [`ApiToken::role`] says what it may do.
pub async fn find(store: &Store, digest: Digest) -> Result<Option<(ApiToken, User)>, StoreError> {
    store
        .read(move |tx| {
            let Some(record) = TOKENS.find(tx, Table::ApiTokensByDigest, digest.as_bytes())? else { return Ok(None) };
            let token = ApiToken::try_from(record)?;
            if !token.is_valid(tx.now()) {
                return Ok(None);
            }
            let user = users::get_in(tx, &token.user)?.filter(User::is_active);
            Ok(user.map(|user| (token, user)))
        })
        .await
}

/// The token of this id, expired ones that are shown included.
pub async fn get(store: &Store, id: &ApiTokenId) -> Result<Option<ApiToken>, StoreError> {
    let id = id.clone();
    store.read(move |tx| TOKENS.get(tx, id.as_str().as_bytes())?.map(TryFrom::try_from).transpose()).await
}

/// Notes that a token was used, at most once a minute. Whether it was noted. That is no change that anyone is told of.
pub async fn used(store: &Store, id: &ApiTokenId) -> Result<bool, StoreError> {
    let id = id.clone();
    store
        .write(move |tx| {
            let Some(record) = TOKENS.get(tx, id.as_str().as_bytes())? else { return Ok(false) };
            let now = tx.now();
            let is_recent = record.last_used_ms.is_some_and(|last| now < Timestamp::from_millis(last).after(USED_STEP));
            if is_recent {
                return Ok(false);
            }
            TOKENS.put(tx, &Record { last_used_ms: Some(now.as_millis()), ..record })?;
            Ok(true)
        })
        .await
}

/// Ends a token. With `of`, only one of that user's: anybody else's is not found.
pub async fn revoke(
    store: &Store,
    id: &ApiTokenId,
    of: Option<UserId>,
    actor: Actor,
) -> Result<Revocation, StoreError> {
    let id = id.clone();
    store
        .write(move |tx| {
            let Some(record) = TOKENS.get(tx, id.as_str().as_bytes())? else { return Ok(Revocation::NotFound) };
            if of.as_ref().is_some_and(|of| of.as_str() != record.user) {
                return Ok(Revocation::NotFound);
            }
            remove(tx, record, actor)?;
            changes::announce(tx, Change::ApiTokens)?;
            Ok(Revocation::Revoked)
        })
        .await
}

/// Ends all tokens of a user, in the transaction that ends the user.
pub(super) fn revoke_all_in(tx: &mut WriteTx<'_>, user: &UserId, actor: Actor) -> Result<usize, StoreError> {
    let all = of_user(tx, user)?;
    let count = all.len();
    for record in all {
        remove(tx, record, actor)?;
    }
    if count > 0 {
        changes::announce(tx, Change::ApiTokens)?;
    }
    Ok(count)
}

fn remove(tx: &mut WriteTx<'_>, record: Record, actor: Actor) -> Result<(), StoreError> {
    let token = ApiToken::try_from(record)?;
    TOKENS.remove(tx, token.id.as_str().as_bytes())?;
    audit::append(tx, actor, &AuditEvent::ApiTokenRevoked { token: token.id, user: token.user })
}

/// A page of tokens, of one user or of all, newest first.
pub async fn list(
    store: &Store,
    user: Option<UserId>,
    after: Option<Cursor>,
    limit: usize,
) -> Result<Page<ApiToken>, StoreError> {
    store
        .read(move |tx| {
            let page = match &user {
                Some(user) => {
                    let these = (Table::ApiTokensByUser, user.as_str().as_bytes());
                    TOKENS.newest_first_within(tx, these, after.as_ref(), limit, |_| true)
                }
                None => TOKENS.newest_first(tx, after.as_ref(), limit, |_| true),
            };
            page?.try_map(TryFrom::try_from)
        })
        .await
}

/// A token as it is stored, codec version 1.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    id: String,
    name: String,
    user: String,
    digest: [u8; 32],
    ceiling: String,
    scopes: Vec<String>,
    created_ms: u64,
    expires_ms: Option<u64>,
    last_used_ms: Option<u64>,
}

impl From<&ApiToken> for Record {
    fn from(token: &ApiToken) -> Self {
        let ApiToken { id, name, user, digest, ceiling, scopes, created, expires, last_used } = token;
        Self {
            id: id.as_str().to_owned(),
            name: name.as_str().to_owned(),
            user: user.as_str().to_owned(),
            digest: *digest.as_bytes(),
            ceiling: ceiling.as_str().to_owned(),
            scopes: scopes.to_vec(),
            created_ms: created.as_millis(),
            expires_ms: expires.map(Timestamp::as_millis),
            last_used_ms: last_used.map(Timestamp::as_millis),
        }
    }
}

impl TryFrom<Record> for ApiToken {
    type Error = StoreError;

    fn try_from(record: Record) -> Result<Self, StoreError> {
        let Record { id, name, user, digest, ceiling, scopes, created_ms, expires_ms, last_used_ms } = record;
        let bad = |what: &str| unreadable(Table::ApiTokens, format_args!("{what} is none"));
        Ok(Self {
            id: ApiTokenId::parse(&id).ok_or_else(|| bad("an id"))?,
            name: DisplayName::of(&name),
            user: UserId::parse(&user).ok_or_else(|| bad("a user"))?,
            digest: Digest::from_bytes(digest),
            ceiling: Role::parse(&ceiling).ok_or_else(|| bad("a role"))?,
            scopes: TokenList::parse(scopes).map_err(|(_, error)| unreadable(Table::ApiTokens, error))?,
            created: Timestamp::from_millis(created_ms),
            expires: expires_ms.map(Timestamp::from_millis),
            last_used: last_used_ms.map(Timestamp::from_millis),
        })
    }
}
