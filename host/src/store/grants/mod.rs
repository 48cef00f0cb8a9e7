//! Grants, and their refresh tokens.
//!
//! A grant is a family of refresh tokens with at most one *head*, the token that was not used. [`refresh`] is the state
//! machine that `docs/authorization.md` tells. A token that was used stays as a tombstone, so that a copy is recognised;
//! its successor stays sealed under the token itself while its grace lasts, in a table of its own whose rows the sweeper
//! takes out. A refresh changes no rights and has no line in the audit trail; one that is replayed or refused has.
//!
//! What a grant rests on is asked in the same transaction: its client is registered, its user is active, no watermark
//! covers it ([`super::revocations`]), and the store was not restored since.

use std::time::Duration;

use super::engine::Table;
use super::revocations::{self, Coverage};
use super::table::{Cursor, Index, Page, Typed};
use super::{ReadTx, Store, StoreError, WriteTx, audit, clients, users};
use crate::audit::{Actor, AuditEvent, Party, RevocationReason};
use crate::env::Timestamp;
use crate::ids::{ClientId, GrantId, Principal};
use crate::oauth::access::Access;
use crate::oauth::grant::{Gone, Grant, MAX_KEPT_AFTER_END, MAX_LIFE, OnReuse, RefreshToken};
use crate::secret::Digest;

mod record;
mod refresh;
mod search;
#[cfg(test)]
mod tests;

pub use refresh::{Refresh, refresh};
pub use search::{Names, State, Wanted, names, search};

use record::{GrantRecord, SealedRecord, TokenRecord};

pub(super) const GRANTS: Typed<GrantRecord> = Typed {
    table: Table::Grants,
    version: 1,
    older: &[],
    key: GrantRecord::key,
    indexes: &[
        Index { table: Table::GrantsByPrincipal, key: GrantRecord::by_principal },
        Index { table: Table::GrantsByClient, key: GrantRecord::by_client },
    ],
    expires: Some(GrantRecord::forgotten),
};

pub(super) const TOKENS: Typed<TokenRecord> = Typed {
    table: Table::RefreshTokens,
    version: 1,
    older: &[],
    key: TokenRecord::key,
    indexes: &[],
    expires: Some(TokenRecord::forgotten),
};

pub(super) const SEALED: Typed<SealedRecord> = Typed {
    table: Table::SealedSuccessors,
    version: 1,
    older: &[],
    key: SealedRecord::key,
    indexes: &[],
    expires: Some(SealedRecord::expires),
};

/// What a grant is made with, once what it follows from was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewGrant {
    pub id: GrantId,
    /// Digest of the first refresh token, if the client gets one.
    pub refresh: Option<Digest>,
    /// Its life, at most [`MAX_LIFE`].
    pub life: Duration,
    /// Its life from each use on.
    pub idle: Duration,
    pub on_reuse: OnReuse,
    /// How long it is remembered after its end, at most [`MAX_KEPT_AFTER_END`].
    pub kept: Duration,
    /// When its first access token says that it was issued.
    pub signed: Timestamp,
    /// Whether the client is there only as long as the store has it.
    pub is_stored: bool,
}

/// What came of a revocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revocation {
    Revoked,
    /// There is no such grant, it is somebody else's, or it counted no more.
    NotFound,
}

/// Of whom a list of grants is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Of {
    All,
    Principal(Principal),
    Client(ClientId),
}

/// A grant, and why it counts no more if it does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub grant: Grant,
    pub end: Option<Gone>,
}

/// Makes a grant that nobody was asked for: an operator has bound the client to its principal, or trusts whoever vouches for
/// the principal.
pub async fn issue_unasked(
    store: &Store,
    new: NewGrant,
    party: Party,
    access: Access,
    proof: Option<Digest>,
) -> Result<Result<Grant, Gone>, StoreError> {
    store
        .write(move |tx| {
            let now = tx.now();
            issue_in(tx, &new, &party, (&access, proof), now)
        })
        .await
}

/// Makes a grant of what somebody consented to at `consented`, or tells why that counts no more. The transaction of the code
/// that is redeemed, or of the device that polls.
pub(super) fn issue_in(
    tx: &mut WriteTx<'_>,
    new: &NewGrant,
    party: &Party,
    (access, proof): (&Access, Option<Digest>),
    consented: Timestamp,
) -> Result<Result<Grant, Gone>, StoreError> {
    let Party { principal, client } = party;
    let is_covered = revocations::covering(tx, principal, client, consented)?.is_some();
    if is_covered || !users::may_be_granted_in(tx, principal)? {
        return Ok(Err(Gone::Revoked));
    }
    // An id that is taken, by a chance of one in 2^48 within a millisecond, makes no grant.
    if GRANTS.get(tx, new.id.as_str().as_bytes())?.is_some() {
        return Ok(Err(Gone::Unknown));
    }
    if new.is_stored && !clients::used_in(tx, client)? {
        return Ok(Err(Gone::Client));
    }
    let now = tx.now();
    let until = now.after(new.life.min(MAX_LIFE));
    let grant = Grant {
        id: new.id.clone(),
        principal: principal.clone(),
        client: client.clone(),
        access: access.clone(),
        proof,
        created: now,
        last_used: now,
        idle_until: now.after(new.idle).min(until),
        until,
        epoch: super::epoch(tx)?,
        on_reuse: new.on_reuse,
        kept: new.kept.min(MAX_KEPT_AFTER_END),
        revoked: None,
    };
    // The clock that a token was signed by may be a little ahead of the store's.
    revocations::granted_in(tx, now.max(new.signed))?;
    GRANTS.put(tx, &GrantRecord::from(&grant))?;
    if let Some(digest) = new.refresh {
        let forgotten = until.after(grant.kept);
        let token = RefreshToken { digest, grant: new.id.clone(), generation: 0, issued: now, used: None, forgotten };
        TOKENS.put(tx, &TokenRecord::from(&token))?;
    }
    audit::append(tx, Actor::System, &AuditEvent::GrantIssued { grant: new.id.clone(), party: party.clone() })?;
    Ok(Ok(grant))
}

/// Revokes a grant.
pub async fn revoke(
    store: &Store,
    id: &GrantId,
    reason: RevocationReason,
    actor: Actor,
) -> Result<Revocation, StoreError> {
    let id = id.clone();
    store.write(move |tx| revoke_in(tx, &id, |_| true, reason, actor)).await
}

/// Revokes a grant if it is this principal's own.
pub async fn revoke_own(
    store: &Store,
    id: &GrantId,
    principal: &Principal,
    actor: Actor,
) -> Result<Revocation, StoreError> {
    let (id, principal) = (id.clone(), principal.clone());
    let reason = RevocationReason::Principal;
    store.write(move |tx| revoke_in(tx, &id, |grant| grant.principal == principal, reason, actor)).await
}

/// Revokes the grant of a refresh token, whatever the state of that, if it is this client's own (RFC 7009).
pub async fn revoke_token(store: &Store, token: Digest, client: &ClientId) -> Result<Revocation, StoreError> {
    let client = client.clone();
    store
        .write(move |tx| {
            let Some(token) = token_in(tx, token)? else { return Ok(Revocation::NotFound) };
            let is_own = |grant: &Grant| grant.client == client;
            revoke_in(tx, &token.grant, is_own, RevocationReason::Client, Actor::System)
        })
        .await
}

/// Revokes a grant that still counts and that `may` says yes to, in whatever transaction that follows from.
pub(super) fn revoke_in(
    tx: &mut WriteTx<'_>,
    id: &GrantId,
    may: impl Fn(&Grant) -> bool,
    reason: RevocationReason,
    actor: Actor,
) -> Result<Revocation, StoreError> {
    let Some(listed) = get_in(tx, id)?.filter(|listed| listed.end.is_none() && may(&listed.grant)) else {
        return Ok(Revocation::NotFound);
    };
    end_in(tx, listed.grant, reason, actor)?;
    Ok(Revocation::Revoked)
}

/// Writes the end of a grant that still counts.
fn end_in(tx: &mut WriteTx<'_>, grant: Grant, reason: RevocationReason, actor: Actor) -> Result<(), StoreError> {
    let grant = Grant { revoked: Some((tx.now(), reason)), ..grant };
    GRANTS.put(tx, &GrantRecord::from(&grant))?;
    revocations::deny_in(tx, &grant.id, None, grant.last_used)?;
    let Grant { id, principal, client, .. } = grant;
    audit::append(tx, actor, &AuditEvent::GrantRevoked { grant: id, party: Party { principal, client }, reason })
}

/// The grant of this id.
pub async fn get(store: &Store, id: &GrantId) -> Result<Option<Listed>, StoreError> {
    let id = id.clone();
    store.read(move |tx| get_in(tx, &id)).await
}

/// The grant of a refresh token, and the token.
pub async fn by_token(store: &Store, token: Digest) -> Result<Option<(Listed, RefreshToken)>, StoreError> {
    store
        .read(move |tx| {
            let Some(token) = token_in(tx, token)? else { return Ok(None) };
            Ok(get_in(tx, &token.grant)?.map(|listed| (listed, token)))
        })
        .await
}

/// A page of grants, newest first, those that count no more among them.
pub async fn list(store: &Store, of: Of, after: Option<Cursor>, limit: usize) -> Result<Page<Listed>, StoreError> {
    store
        .read(move |tx| {
            let page = match &of {
                Of::All => GRANTS.newest_first(tx, after.as_ref(), limit, |_| true)?,
                Of::Principal(principal) => {
                    let theirs = (Table::GrantsByPrincipal, &record::prefix(&principal.to_string())[..]);
                    GRANTS.newest_first_within(tx, theirs, after.as_ref(), limit, |_| true)?
                }
                Of::Client(client) => {
                    let theirs = (Table::GrantsByClient, &record::prefix(client.as_str())[..]);
                    GRANTS.newest_first_within(tx, theirs, after.as_ref(), limit, |_| true)?
                }
            };
            let Page { items, next } = page;
            let (epoch, mut coverage) = (super::epoch(tx)?, Coverage::default());
            let listed = |record| listed_in(tx, record, epoch, &mut coverage);
            let items = items.into_iter().map(listed).collect::<Result<_, _>>()?;
            Ok(Page { items, next })
        })
        .await
}

fn get_in(tx: &mut ReadTx<'_>, id: &GrantId) -> Result<Option<Listed>, StoreError> {
    let record = GRANTS.get(tx, id.as_str().as_bytes())?;
    let epoch = super::epoch(tx)?;
    record.map(|record| listed_in(tx, record, epoch, &mut Coverage::default())).transpose()
}

/// The grant of a record, as the watermarks leave it.
fn listed_in(
    tx: &mut ReadTx<'_>,
    record: GrantRecord,
    epoch: u64,
    coverage: &mut Coverage,
) -> Result<Listed, StoreError> {
    let mut grant = Grant::try_from(record)?;
    if grant.revoked.is_none() {
        let covering = coverage.of(tx, &grant.principal, &grant.client, grant.created)?;
        grant.revoked = covering.map(|watermark| (watermark.not_before, watermark.reason));
    }
    let end = grant.end(tx.now(), epoch);
    Ok(Listed { grant, end })
}

/// Until when something counts at the longest that was granted to a principal: of the newest `most` grants.
pub(super) fn counts_until_in(
    tx: &mut ReadTx<'_>,
    principal: &Principal,
    most: usize,
) -> Result<Option<Timestamp>, StoreError> {
    let theirs = record::prefix(&principal.to_string());
    let records = GRANTS.newest_within(tx, (Table::GrantsByPrincipal, &theirs), most)?;
    let (epoch, mut coverage, mut until) = (super::epoch(tx)?, Coverage::default(), None);
    for record in records {
        let Listed { grant, end } = listed_in(tx, record, epoch, &mut coverage)?;
        until = until.max(end.is_none().then(|| grant.idle_until.min(grant.until)));
    }
    Ok(until)
}

/// When a grant was last refreshed, or made.
pub(super) fn last_used_in(tx: &mut ReadTx<'_>, id: &GrantId) -> Result<Option<Timestamp>, StoreError> {
    let record = GRANTS.get(tx, id.as_str().as_bytes())?;
    Ok(record.map(Grant::try_from).transpose()?.map(|grant| grant.last_used))
}

fn token_in(tx: &mut ReadTx<'_>, token: Digest) -> Result<Option<RefreshToken>, StoreError> {
    TOKENS.get(tx, token.as_bytes())?.map(TryFrom::try_from).transpose()
}
