//! The use of a refresh token.

use std::time::Duration;

use super::super::{Store, StoreError, WriteTx, audit, clients, revocations, users};
use super::record::{GrantRecord, SealedRecord, TokenRecord};
use super::{GRANTS, SEALED, TOKENS, end_in, get_in, token_in};
use crate::audit::{Actor, AuditEvent, RevocationReason};
use crate::env::Timestamp;
use crate::oauth::Window;
use crate::oauth::grant::{
    Gone, Grace, Grant, MAX_GENERATIONS, MAX_LINKS, MAX_SEALED_BYTES, OnReuse, Presented, RefreshToken, Successor, Used,
};
use crate::oauth::request::Mismatch;
use crate::secret::Sealed;

/// What came of [`refresh`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refresh {
    /// The successor is the head from now on.
    Rotated(Box<Grant>),
    /// The token was used a moment ago. Its successor is the first of these, under the token itself; each of the others is
    /// under the one before it, and the last is the head. The successor that was brought along is not kept.
    Replayed { grant: Box<Grant>, successors: Vec<Sealed> },
    /// The token was used a moment ago, and has come back more often than it may. Nothing has changed.
    TooOften,
    /// The token was used before, so that somebody has a copy of it.
    Reused(OnReuse),
    /// Something does not belong to the token. Nothing has changed.
    Mismatch(Mismatch),
    /// The token counts no more. Nothing has changed.
    Gone(Gone),
}

/// Where a token stands that may be used.
enum Position {
    Head,
    /// It was used and may come back. The sealed tokens that lead from it to the head.
    InGrace(Vec<Sealed>),
    Reused,
}

/// Uses a refresh token: its successor, which was made beforehand, takes its place. `idle` is the life of the grant from
/// now on.
pub async fn refresh(
    store: &Store,
    presented: Presented,
    successor: Successor,
    grace: Grace,
    idle: Duration,
) -> Result<Refresh, StoreError> {
    if successor.sealed.as_bytes().len() > MAX_SEALED_BYTES {
        return Err(StoreError::OverLimit { limit: "bytes of a sealed refresh token" });
    }
    store.write(move |tx| refresh_in(tx, &presented, &successor, grace, idle)).await
}

fn refresh_in(
    tx: &mut WriteTx<'_>,
    presented: &Presented,
    successor: &Successor,
    grace: Grace,
    idle: Duration,
) -> Result<Refresh, StoreError> {
    let Some(token) = token_in(tx, presented.token)? else { return Ok(Refresh::Gone(Gone::Unknown)) };
    let Some(listed) = get_in(tx, &token.grant)? else { return Ok(Refresh::Gone(Gone::Unknown)) };
    let grant = match (listed.end, listed.grant) {
        (Some(gone), _) => return Ok(Refresh::Gone(gone)),
        (None, grant) => grant,
    };
    // Before anything is judged: who is not the client cannot make the family end.
    if let Err(mismatch) = grant.check(presented) {
        return Ok(Refresh::Mismatch(mismatch));
    }
    if !users::may_be_granted_in(tx, &grant.principal)? {
        return Ok(Refresh::Gone(Gone::Revoked));
    }
    if presented.is_stored && !clients::used_in(tx, &grant.client)? {
        return Ok(Refresh::Gone(Gone::Client));
    }
    match position(tx, &token, grace)? {
        Position::Head => rotate(tx, token, grant, successor, grace, idle),
        Position::InGrace(successors) => replay(tx, token, grant, (successors, successor.signed), grace),
        Position::Reused => reuse(tx, token, grant, grace),
    }
}

fn position(tx: &mut WriteTx<'_>, token: &RefreshToken, grace: Grace) -> Result<Position, StoreError> {
    let now = tx.now();
    let mut successors = Vec::new();
    let mut at = token.clone();
    while let Some(used) = at.used {
        // No grace at all means none for what was used before that was set, either.
        if grace.window().is_zero() || !used.grace.is_open(now) || successors.len() == MAX_LINKS {
            return Ok(Position::Reused);
        }
        let sealed = SEALED.get(tx, at.digest.as_bytes())?;
        let (Some(sealed), Some(next)) = (sealed, token_in(tx, used.successor)?) else { return Ok(Position::Reused) };
        successors.push(sealed.sealed);
        at = next;
    }
    Ok(if successors.is_empty() { Position::Head } else { Position::InGrace(successors) })
}

fn rotate(
    tx: &mut WriteTx<'_>,
    token: RefreshToken,
    grant: Grant,
    successor: &Successor,
    grace: Grace,
    idle: Duration,
) -> Result<Refresh, StoreError> {
    if token.generation >= MAX_GENERATIONS {
        return Ok(Refresh::Gone(Gone::Expired));
    }
    let now = tx.now();
    let grace = Window::starting(now, grace.window());
    let next = RefreshToken {
        digest: successor.digest,
        grant: grant.id.clone(),
        generation: token.generation + 1,
        issued: now,
        used: None,
        forgotten: token.forgotten,
    };
    let used = Used { grace, successor: successor.digest, replays: 0 };
    if grace.from < grace.until {
        SEALED.put(
            tx,
            &SealedRecord {
                predecessor: token.digest.into(),
                sealed: successor.sealed.clone(),
                until_ms: grace.until.as_millis(),
            },
        )?;
    }
    TOKENS.put(tx, &TokenRecord::from(&RefreshToken { used: Some(used), ..token }))?;
    TOKENS.put(tx, &TokenRecord::from(&next))?;
    revocations::granted_in(tx, now.max(successor.signed))?;
    let grant = grant.refreshed(now, idle);
    GRANTS.put(tx, &GrantRecord::from(&grant))?;
    Ok(Refresh::Rotated(Box::new(grant)))
}

fn replay(
    tx: &mut WriteTx<'_>,
    token: RefreshToken,
    grant: Grant,
    (successors, signed): (Vec<Sealed>, Timestamp),
    grace: Grace,
) -> Result<Refresh, StoreError> {
    let is_first = token.used.as_ref().is_some_and(|used| used.replays == 0);
    if !count_replay(tx, token, grace)? {
        return Ok(Refresh::TooOften);
    }
    // There is a fresh access token in the answer.
    revocations::granted_in(tx, tx.now().max(signed))?;
    // One line for each token, however often it comes back.
    if is_first {
        audit::append(tx, Actor::System, &AuditEvent::RefreshReplayed { grant: grant.id.clone() })?;
    }
    Ok(Refresh::Replayed { grant: Box::new(grant), successors })
}

fn reuse(tx: &mut WriteTx<'_>, token: RefreshToken, grant: Grant, grace: Grace) -> Result<Refresh, StoreError> {
    let on_reuse = grant.on_reuse;
    match on_reuse {
        OnReuse::RevokeFamily => end_in(tx, grant, RevocationReason::TokenReused, Actor::System)?,
        OnReuse::Reject => {
            // As many lines as a token may come back, and no more however often it does.
            if count_replay(tx, token, grace)? {
                audit::append(tx, Actor::System, &AuditEvent::RefreshReuseRefused { grant: grant.id })?;
            }
        }
    }
    Ok(Refresh::Reused(on_reuse))
}

/// Counts that a used token came back. Whether it may, so often.
fn count_replay(tx: &mut WriteTx<'_>, token: RefreshToken, grace: Grace) -> Result<bool, StoreError> {
    let Some(used) = token.used.clone().filter(|used| used.replays < grace.replays()) else { return Ok(false) };
    let used = Used { replays: used.replays + 1, ..used };
    TOKENS.put(tx, &TokenRecord::from(&RefreshToken { used: Some(used), ..token }))?;
    Ok(true)
}
