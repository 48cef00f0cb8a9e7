//! Connection flows, found by the digest of their `state`, each claimed at most once.
//!
//! Each verb is one transaction. An answer that does not pass a check leaves an audit row; one that comes from another
//! browser or person leaves the flow as it is, so that a stranger cannot end it. Completing a flow stores the
//! connection in the same transaction. What a flow is is [`crate::connection::flow`].

use std::time::Duration;

use super::changes::Revision;
use super::connections::{self, NewCredential, Put};
use super::engine::{Bounds, Direction, Table};
use super::kept::readable;
use super::sealed::{self, SealedIn};
use super::table::{Cursor, Index, Page, Typed};
use super::{ReadTx, Store, StoreError, WriteTx, audit, upstreams};
use crate::audit::{Actor, AuditEvent};
use crate::connection::flow::{Callback, Check, Flow, Stage};
use crate::connection::{Access, Credential, Holder, Origin, Place};
use crate::env::Timestamp;
use crate::identity::TokenList;
use crate::ids::{ConnectionId, FlowId, UpstreamName, UserId};
use crate::secret::{Digest, Sealed};

mod record;

#[cfg(test)]
pub(super) mod tests;

use record::{Record, of_holder, of_place};

/// Most flows of one holder that are not over.
pub const MAX_OPEN: usize = 20;
/// Longest life of a flow.
pub const MAX_LIFE: Duration = Duration::from_secs(15 * 60);
/// What a claim gets to exchange its code, at least.
pub const CLAIM: Duration = Duration::from_secs(2 * 60);
/// Largest secret of a flow, in bytes as it is sealed.
const MAX_SEALED_BYTES: usize = 8 * 1024;
/// Longest issuer, client id and address, in bytes.
const MAX_TEXT_BYTES: usize = 2 * 1024;
/// Rows that are looked at for one holder: those that are over stand among them for a while.
const MAX_SEEN: usize = 200;
/// Flows looked at, and ended, in one transaction.
const STEP: usize = 300;

pub(super) const FLOWS: Typed<Record> = Typed {
    table: Table::Flows,
    version: 1,
    older: &[],
    key: |record| record.state.to_vec(),
    indexes: &[Index { table: Table::FlowsByPlace, key: Record::by_place }],
    expires: Some(|record| Some(Timestamp::from_millis(record.expires_ms))),
};

pub(super) const SEALED: SealedIn<Record> = SealedIn { table: &FLOWS, fields: record::sealed };

/// Where the verifier of a flow is sealed. It is never replaced.
pub fn verifier_at(place: &Place, id: &FlowId) -> sealed::Place {
    let (table, key) = (Table::Flows.name(), id.as_str().as_bytes().to_vec());
    sealed::Place { owner: place.owner(), table, key, field: "verifier", revision: 1 }
}

/// A flow to be begun; what its fields are is told by [`Flow`].
#[derive(Clone, Debug)]
pub struct NewFlow {
    pub id: FlowId,
    pub state: Digest,
    pub place: Place,
    /// Used if there is no connection yet.
    pub connection: ConnectionId,
    pub origin: Option<Origin>,
    pub issuer: String,
    pub client: String,
    pub redirect: String,
    pub verifier: Sealed,
    pub scopes: TokenList,
    pub browser: Digest,
    pub user: Option<UserId>,
    pub life: Duration,
}

/// What came of [`begin`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Beginning {
    Begun(Box<Flow>),
    /// The holder may not use the upstream.
    NoAccess,
    /// The holder has [`MAX_OPEN`] already.
    TooMany,
    /// Another flow has the same state.
    Taken,
    TooLarge,
}

/// What came of [`claim`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// It is the caller's alone, until the flow's `expires`.
    Claimed(Box<Flow>),
    /// There is no such flow, or its time is over.
    Unknown,
    Refused(Check),
    /// What `may_use` was made of has changed: make it anew, and try again.
    Outdated,
}

/// What came of [`complete`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Completion {
    /// The connection has this revision.
    Connected(u64),
    /// The flow was not claimed, or its time is over.
    Gone,
    /// The holder may not use the upstream any more.
    NoAccess,
    /// The connection that was to be made or renewed has changed meanwhile.
    Conflict,
    /// What `may_use` was made of has changed: make it anew, and try again. The flow is claimed still.
    Outdated,
    TooLarge,
}

/// What came of one step of [`sweep`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Swept {
    Step {
        dropped: usize,
        /// Records that cannot be read: they stay until their time is over.
        unreadable: usize,
        next: Option<Cursor>,
    },
    /// What `may_use` was made of has changed.
    Outdated,
}

/// Begins a flow. Whatever the same browser had begun for the same place before is over.
pub async fn begin<F>(store: &Store, new: NewFlow, may_use: F) -> Result<Beginning, StoreError>
where
    F: Fn(&Place) -> Access + Send + 'static,
{
    store.write(move |tx| begin_in(tx, &new, &may_use)).await
}

fn begin_in(tx: &mut WriteTx<'_>, new: &NewFlow, may_use: &dyn Fn(&Place) -> Access) -> Result<Beginning, StoreError> {
    if !may_use(&new.place).is_granted() {
        return Ok(Beginning::NoAccess);
    }
    let texts = [&new.issuer, &new.client, &new.redirect];
    if new.verifier.as_bytes().len() > MAX_SEALED_BYTES || texts.iter().any(|text| text.len() > MAX_TEXT_BYTES) {
        return Ok(Beginning::TooLarge);
    }
    if FLOWS.get(tx, new.state.as_bytes())?.is_some() {
        return Ok(Beginning::Taken);
    }
    let now = tx.now();
    let of_holder = of_holder(&new.place.holder.to_string());
    let all = FLOWS.newest_within(tx, (Table::FlowsByPlace, &of_holder), MAX_SEEN)?;
    let (same, others): (Vec<_>, Vec<_>) = all.into_iter().filter(|record| record.is_open(now)).partition(|record| {
        record.upstream == new.place.upstream.as_str()
            && record.browser == *new.browser.as_bytes()
            && record.is_pending()
    });
    if others.len() >= MAX_OPEN {
        return Ok(Beginning::TooMany);
    }
    for record in same {
        FLOWS.remove(tx, &record.state)?;
    }
    let there = connections::get_in(tx, &new.place)?;
    let flow = Flow {
        id: new.id.clone(),
        state: new.state,
        place: new.place.clone(),
        connection: there.as_ref().map_or_else(|| new.connection.clone(), |there| there.id.clone()),
        renews: there.map(|there| there.revision),
        origin: new.origin.clone(),
        issuer: new.issuer.clone(),
        client: new.client.clone(),
        redirect: new.redirect.clone(),
        verifier: Some(new.verifier.clone()),
        scopes: new.scopes.clone(),
        browser: new.browser,
        user: new.user.clone(),
        begun: now,
        expires: now.after(new.life.min(MAX_LIFE)),
        stage: Stage::Pending,
    };
    FLOWS.put(tx, &Record::from(&flow))?;
    Ok(Beginning::Begun(Box::new(flow)))
}

/// Claims the flow of an answer. Of any number of callers with the same answer at most one is told that it has it.
/// `may_use` is of the state at revision `of`.
pub async fn claim<F>(store: &Store, callback: Callback, of: Revision, may_use: F) -> Result<Claim, StoreError>
where
    F: Fn(&Place) -> Access + Send + 'static,
{
    store.write(move |tx| claim_in(tx, &callback, of, &may_use)).await
}

fn claim_in(
    tx: &mut WriteTx<'_>,
    callback: &Callback,
    of: Revision,
    may_use: &dyn Fn(&Place) -> Access,
) -> Result<Claim, StoreError> {
    let now = tx.now();
    let Some(flow) = alive(tx, &callback.state)? else { return Ok(Claim::Unknown) };
    if !connections::is_current_for(tx, of, &flow.place)? {
        return Ok(Claim::Outdated);
    }
    let is_granted = may_use(&flow.place).is_granted() && is_same_upstream(tx, &flow)?;
    let access = if is_granted { None } else { Some(Check::Access) };
    let Some(check) = flow.check(callback).or(access) else {
        let claimed = Flow { stage: Stage::Claimed, expires: flow.expires.max(now.after(CLAIM)), ..flow };
        FLOWS.put(tx, &Record::from(&claimed))?;
        return Ok(Claim::Claimed(Box::new(claimed)));
    };
    tell_refused(tx, &flow, check, Actor::System)?;
    match check {
        // Not theirs to end, or being exchanged.
        Check::Browser | Check::User | Check::Replay => {}
        Check::Issuer | Check::Redirect | Check::Access | Check::Connection => over(tx, flow)?,
    }
    Ok(Claim::Refused(check))
}

/// Whether the upstream of a flow is the one that it was begun for, and no later one of the same name.
fn is_same_upstream(tx: &mut ReadTx<'_>, flow: &Flow) -> Result<bool, StoreError> {
    Ok(upstreams::declared_in(tx, &flow.place.upstream)?.is_none_or(|declared| declared <= flow.begun))
}

fn tell_refused(tx: &mut WriteTx<'_>, flow: &Flow, check: Check, actor: Actor) -> Result<(), StoreError> {
    let (holder, upstream) = (flow.place.holder.to_string(), flow.place.upstream.clone());
    audit::append(tx, actor, &AuditEvent::FlowRefused { holder, upstream, check: check.to_string() })
}

/// The flow of a state, if its time is not over.
fn alive(tx: &mut ReadTx<'_>, state: &Digest) -> Result<Option<Flow>, StoreError> {
    let now = tx.now();
    let flow = FLOWS.get(tx, state.as_bytes())?.map(Flow::try_from).transpose()?;
    Ok(flow.filter(|flow| now < flow.expires))
}

/// Nothing more comes of it. It is remembered without its secret until its time is over, so that a replay is told.
fn over(tx: &mut WriteTx<'_>, flow: Flow) -> Result<(), StoreError> {
    FLOWS.put(tx, &Record::from(&Flow { stage: Stage::Over, verifier: None, ..flow }))
}

/// Ends a claimed flow with the connection that it was for, sealed for [`Flow::connection`] and the revision after
/// [`Flow::renews`]. `may_use` is of the state at revision `of`.
pub async fn complete<F>(
    store: &Store,
    state: Digest,
    credential: Credential,
    of: Revision,
    may_use: F,
    actor: Actor,
) -> Result<Completion, StoreError>
where
    F: Fn(&Place) -> Access + Send + 'static,
{
    store.write(move |tx| complete_in(tx, &state, &credential, of, &may_use, actor)).await
}

fn complete_in(
    tx: &mut WriteTx<'_>,
    state: &Digest,
    credential: &Credential,
    of: Revision,
    may_use: &dyn Fn(&Place) -> Access,
    actor: Actor,
) -> Result<Completion, StoreError> {
    let flow = alive(tx, state)?.filter(|flow| flow.stage == Stage::Claimed);
    let Some(flow) = flow else { return Ok(Completion::Gone) };
    let new = NewCredential {
        place: flow.place.clone(),
        id: flow.connection.clone(),
        replaces: flow.renews,
        origin: flow.origin.clone(),
        credential: credential.clone(),
    };
    let put =
        if is_same_upstream(tx, &flow)? { connections::put_in(tx, &new, of, may_use, actor)? } else { Put::NoAccess };
    let (completion, check) = match put {
        Put::Stored(revision) => (Completion::Connected(revision), None),
        Put::Conflict(_) => (Completion::Conflict, Some(Check::Connection)),
        Put::NoAccess => (Completion::NoAccess, Some(Check::Access)),
        Put::TooLarge => (Completion::TooLarge, None),
        Put::Outdated => return Ok(Completion::Outdated),
    };
    if let Some(check) = check {
        tell_refused(tx, &flow, check, actor)?;
    }
    over(tx, flow)?;
    Ok(completion)
}

/// Ends a claimed flow without a connection. Whether there was one.
pub async fn fail(store: &Store, state: Digest) -> Result<bool, StoreError> {
    store
        .write(move |tx| {
            let flow = alive(tx, &state)?.filter(|flow| flow.stage == Stage::Claimed);
            let Some(flow) = flow else { return Ok(false) };
            over(tx, flow)?;
            Ok(true)
        })
        .await
}

/// The flow of a state that is not over, for the page that tells of it.
pub async fn get(store: &Store, state: Digest) -> Result<Option<Flow>, StoreError> {
    store.read(move |tx| Ok(alive(tx, &state)?.filter(|flow| flow.stage != Stage::Over))).await
}

/// A page of flows that are not over, of one holder or of all.
pub async fn list(
    store: &Store,
    holder: Option<Holder>,
    after: Option<Cursor>,
    limit: usize,
) -> Result<Page<Flow>, StoreError> {
    store
        .read(move |tx| {
            let now = tx.now();
            let prefix = holder.as_ref().map_or_else(Vec::new, |holder| of_holder(&holder.to_string()));
            let keep = |record: &Record| record.is_open(now);
            FLOWS
                .newest_first_within(tx, (Table::FlowsByPlace, &prefix), after.as_ref(), limit, keep)?
                .try_map(TryFrom::try_from)
        })
        .await
}

/// Forgets the flows of a holder, at one upstream or at all, and tells how many. There are few of each.
pub(super) fn drop_all_of(
    tx: &mut WriteTx<'_>,
    holder: &Holder,
    upstream: Option<&UpstreamName>,
) -> Result<usize, StoreError> {
    let prefix = match upstream {
        Some(upstream) => of_place(&holder.to_string(), upstream.as_str()),
        None => of_holder(&holder.to_string()),
    };
    let rows = tx.range(Table::FlowsByPlace, &Bounds::within(&prefix), Direction::Forward, MAX_SEEN)?;
    for (_, state) in &rows {
        FLOWS.remove(tx, state)?;
    }
    Ok(rows.len())
}

/// Forgets flows whose holder may not use their upstream, as `may_use` of the state at revision `of` has it: a bounded
/// part in each call. Nothing depends on that, since access is asked for again when a flow is claimed and completed.
pub async fn sweep<F>(store: &Store, of: Revision, after: Option<Cursor>, may_use: F) -> Result<Swept, StoreError>
where
    F: Fn(&Place) -> Access + Send + 'static,
{
    store
        .write(move |tx| {
            if !connections::is_current(tx, of)? {
                return Ok(Swept::Outdated);
            }
            let bounds = after.as_ref().map_or_else(Bounds::all, |cursor| Bounds::after(cursor.as_bytes()));
            let rows = tx.range(Table::FlowsByPlace, &bounds, Direction::Forward, STEP)?;
            let next = (rows.len() == STEP).then_some(()).and(rows.last()).map(|(key, _)| key.clone());
            let (mut dropped, mut unreadable) = (0, 0);
            for (_, state) in &rows {
                match readable(place_of(tx, state))? {
                    Some(Some(place)) if !may_use(&place).is_granted() => {
                        FLOWS.remove(tx, state)?;
                        dropped += 1;
                    }
                    Some(_) => {}
                    None => unreadable += 1,
                }
            }
            Ok(Swept::Step { dropped, unreadable, next: next.and_then(Cursor::from_bytes) })
        })
        .await
}

fn place_of(tx: &mut ReadTx<'_>, state: &[u8]) -> Result<Option<Place>, StoreError> {
    FLOWS.get(tx, state)?.map(|record| record.place()).transpose()
}
