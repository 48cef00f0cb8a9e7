//! Approvals: what policies want somebody to agree to before a request goes on, and what was decided.
//!
//! An approval is bound to its [`Subject`] and found by the digest of that. Each verb is one transaction; the audit row
//! of a decision is in it, and that approvals are asked for is told by the decision trail. Of all approvals with the same
//! subject at most one counts. What an approval is and becomes is [`approval`].

use super::engine::{Bounds, Direction, Row, Table};
use super::table::{Cursor, Index, Page, Single, Typed, expiry_key};
use super::verify::Found;
use super::{ReadTx, Store, StoreError, WriteTx, audit};
use crate::audit::{Actor, AuditEvent};
use crate::env::Timestamp;
use crate::ids::ApprovalId;
use crate::secret::Digest;

pub mod approval;
mod record;

#[cfg(test)]
mod tests;

pub use approval::{Approval, Approver, Memory, Said, Standing, State, Subject, TooLate, Verdict, Wish};
use record::{Kind, Record, current, of_principal};

/// Most approvals of one principal that wait for a decision.
pub const MAX_PENDING: usize = 100;
/// Most approvals in the store, in whatever state.
pub const MAX_APPROVALS: usize = 20_000;
/// Approvals that one step of a migration looks at.
const MIGRATION_STEP: usize = 200;

const APPROVALS: Typed<Record> = Typed {
    table: Table::Approvals,
    version: 1,
    older: &[],
    key: |record| record.id().to_vec(),
    indexes: &[
        Index { table: Table::ApprovalsByBinding, key: Record::by_binding },
        Index { table: Table::ApprovalsByState, key: Record::by_state },
        Index { table: Table::ApprovalsByPrincipal, key: Record::by_principal },
    ],
    expires: Some(|record| Some(record.expires())),
};

/// How many approvals there are.
const STORED: Single<u64> = Single::new("approvals");

/// What came of [`request`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// There is one with this subject that counts: it was there, or it is pending from now on.
    Found(Box<Approval>),
    /// The principal has [`MAX_PENDING`] already, or there are [`MAX_APPROVALS`].
    TooMany,
}

/// What came of [`consume`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consumption {
    /// The request may go, once.
    Consumed,
    /// Another request was faster, or the time is over. Nothing was consumed.
    Gone,
}

/// What came of [`decide`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    Decided(Box<Approval>),
    TooLate(TooLate),
    NotFound,
}

/// An approval for one request that a request uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Use {
    pub id: ApprovalId,
    /// [`Subject::digest`] of what it is used for.
    pub bound_to: Digest,
    /// How many rounds of the request there were before this one.
    pub round: u32,
}

/// The approval that counts for a subject, in whatever state.
pub async fn find(store: &Store, subject: Digest) -> Result<Option<Approval>, StoreError> {
    let key = current(&subject);
    store.read(move |tx| APPROVALS.find(tx, Table::ApprovalsByBinding, &key)?.map(Approval::try_from).transpose()).await
}

/// Asks for an approval under a new id, unless there is one with the same subject that is pending, given or denied.
pub async fn request(
    store: &Store,
    id: ApprovalId,
    subject: Subject,
    wish: Wish,
    sealed_arguments: Option<String>,
) -> Result<Request, StoreError> {
    let bound_to = subject.digest();
    let ttl = wish.ttl.min(approval::MAX_TTL);
    let new = move |now: Timestamp| Approval {
        id: id.clone(),
        requested: now,
        bound_to,
        subject: subject.clone(),
        wish: wish.clone(),
        sealed_arguments: sealed_arguments.clone(),
        state: State::Pending { until: now.after(ttl) },
    };
    store.write(move |tx| request_in(tx, &new(tx.now()))).await
}

fn request_in(tx: &mut WriteTx<'_>, new: &Approval) -> Result<Request, StoreError> {
    let now = tx.now();
    if let Some(known) = APPROVALS.find(tx, Table::ApprovalsByBinding, &current(&new.bound_to))? {
        match known.standing(now) {
            Standing::Pending | Standing::Given | Standing::Denied => {
                return Ok(Request::Found(Box::new(known.try_into()?)));
            }
            Standing::Used | Standing::Lapsed => APPROVALS.put(tx, &known.superseded())?,
        }
    }
    if !has_room(tx, new)? {
        return Ok(Request::TooMany);
    }
    let record = Record::from(new);
    APPROVALS.put(tx, &record)?;
    add_to_stored(tx, 1)?;
    // As it was written down.
    Ok(Request::Found(Box::new(record.try_into()?)))
}

/// Whether there is room for one more, if need be after the principal's lapsed ones were forgotten.
fn has_room(tx: &mut WriteTx<'_>, new: &Approval) -> Result<bool, StoreError> {
    let pending = of_principal(&new.subject.principal.to_string(), Kind::Pending);
    let pending = APPROVALS.newest_within(tx, (Table::ApprovalsByPrincipal, &pending), MAX_PENDING)?;
    if pending.len() == MAX_PENDING {
        let mut forgotten = 0;
        for record in pending {
            let approval = Approval::try_from(record)?;
            if approval.standing(tx.now()) == Standing::Lapsed {
                APPROVALS.remove(tx, approval.id.as_str().as_bytes())?;
                forgotten += 1;
            }
        }
        add_to_stored(tx, -forgotten)?;
        if forgotten == 0 {
            return Ok(false);
        }
    }
    // An id that is taken, by a chance of one in 2^48 within a millisecond, is no room either.
    let is_free = APPROVALS.get(tx, new.id.as_str().as_bytes())?.is_none();
    Ok(is_free && STORED.get(tx)?.unwrap_or(0) < MAX_APPROVALS as u64)
}

fn add_to_stored(tx: &mut WriteTx<'_>, count: i64) -> Result<(), StoreError> {
    let stored = STORED.get(tx)?.unwrap_or(0).saturating_add_signed(count);
    STORED.put(tx, &stored)
}

/// Uses all of these approvals for one request, or none.
pub async fn consume(store: &Store, uses: Vec<Use>) -> Result<Consumption, StoreError> {
    store.write(move |tx| consume_in(tx, &uses)).await
}

fn consume_in(tx: &mut WriteTx<'_>, uses: &[Use]) -> Result<Consumption, StoreError> {
    let mut used = Vec::with_capacity(uses.len());
    for Use { id, bound_to, round } in uses {
        let Some(before) = APPROVALS.get(tx, id.as_str().as_bytes())? else { return Ok(Consumption::Gone) };
        let now = tx.now();
        let approval = Some(before.approval()?).filter(|approval| approval.bound_to == *bound_to);
        let Some(after) = approval.and_then(|approval| approval.used(*round, now)) else {
            return Ok(Consumption::Gone);
        };
        used.push(before.followed_by(&after));
    }
    used.iter().try_for_each(|record| APPROVALS.put(tx, record))?;
    Ok(Consumption::Consumed)
}

/// Approves or denies.
pub async fn decide(
    store: &Store,
    id: &ApprovalId,
    verdict: Verdict,
    note: Option<String>,
    actor: Actor,
) -> Result<Decision, StoreError> {
    let id = id.clone();
    store.write(move |tx| decide_in(tx, &id, verdict, note.clone(), actor)).await
}

fn decide_in(
    tx: &mut WriteTx<'_>,
    id: &ApprovalId,
    verdict: Verdict,
    note: Option<String>,
    actor: Actor,
) -> Result<Decision, StoreError> {
    let Some(record) = APPROVALS.get(tx, id.as_str().as_bytes())? else { return Ok(Decision::NotFound) };
    let said = Said { by: actor, at: tx.now(), note };
    let decided = match record.approval()?.decided(verdict, said) {
        Ok(decided) => decided,
        Err(too_late) => return Ok(Decision::TooLate(too_late)),
    };
    APPROVALS.put(tx, &record.followed_by(&decided))?;
    let ruling = Box::new(decided.ruling());
    let event = match verdict {
        Verdict::Approve => AuditEvent::ApprovalGiven(ruling),
        Verdict::Deny => AuditEvent::ApprovalRefused(ruling),
    };
    audit::append(tx, actor, &event)?;
    Ok(Decision::Decided(Box::new(decided)))
}

/// The approval with this id.
pub async fn get(store: &Store, id: &ApprovalId) -> Result<Option<Approval>, StoreError> {
    let id = id.clone();
    store.read(move |tx| APPROVALS.get(tx, id.as_str().as_bytes())?.map(Approval::try_from).transpose()).await
}

/// A page of the approvals that stand like this now, or of all, newest first. A page looks at a bounded number of them:
/// it may be short, or empty, and still have a next one.
pub async fn list(
    store: &Store,
    standing: Option<Standing>,
    now: Timestamp,
    after: Option<Cursor>,
    limit: usize,
) -> Result<Page<Approval>, StoreError> {
    store
        .read(move |tx| {
            let keep = |record: &Record| standing.is_none_or(|standing| record.standing(now) == standing);
            let kind = match standing {
                Some(Standing::Pending) => Some(Kind::Pending),
                Some(Standing::Given) => Some(Kind::Given),
                Some(Standing::Used) => Some(Kind::Used),
                Some(Standing::Denied) => Some(Kind::Denied),
                Some(Standing::Lapsed) | None => None,
            };
            let page = match kind {
                Some(kind) => {
                    let of_kind = (Table::ApprovalsByState, &[kind as u8][..]);
                    APPROVALS.newest_first_within(tx, of_kind, after.as_ref(), limit, keep)
                }
                None => APPROVALS.newest_first(tx, after.as_ref(), limit, keep),
            };
            page?.try_map(Approval::try_from)
        })
        .await
}

/// The table for what is done to all alike: how many approvals there are is counted.
pub(super) struct Kept;

impl super::kept::Kept for Kept {
    fn table(&self) -> Table {
        APPROVALS.table()
    }

    fn indexes(&self) -> Vec<Table> {
        APPROVALS.indexes()
    }

    fn forget(&self, tx: &mut WriteTx<'_>, key: &[u8], now: Timestamp) -> Result<bool, StoreError> {
        let is_gone = APPROVALS.forget(tx, key, now)?;
        if is_gone {
            add_to_stored(tx, -1)?;
        }
        Ok(is_gone)
    }

    fn effects(&self) -> usize {
        APPROVALS.effects() + 1
    }

    fn check(&self, tx: &mut ReadTx<'_>, row: &Row, found: &mut Found) -> Result<(), StoreError> {
        APPROVALS.check(tx, row, found)
    }

    fn check_index(&self, tx: &mut ReadTx<'_>, index: Table, row: &Row, found: &mut Found) -> Result<(), StoreError> {
        APPROVALS.check_index(tx, index, row, found)
    }

    fn expires_at(&self, tx: &mut ReadTx<'_>, key: &[u8], at: Timestamp) -> Result<bool, StoreError> {
        APPROVALS.expires_at(tx, key, at)
    }
}

/// To schema 2: what an approval's own index said is said in that of all tables.
pub(super) fn expire_with_all_others(tx: &mut WriteTx<'_>, at: Option<&[u8]>) -> Result<Option<Vec<u8>>, StoreError> {
    let bounds = at.map_or_else(Bounds::all, Bounds::after);
    let rows = tx.range(Table::Approvals, &bounds, Direction::Forward, MIGRATION_STEP)?;
    for (key, value) in &rows {
        let expires = APPROVALS.decode(value)?.expires();
        tx.put(Table::Expiry, &expiry_key(expires, Table::Approvals, key), &[])?;
    }
    Ok(rows.into_iter().nth(MIGRATION_STEP - 1).map(|(last, _)| last))
}
