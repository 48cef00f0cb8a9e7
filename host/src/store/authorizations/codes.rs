//! Codes, and what becomes of them at the token endpoint.

use std::time::Duration;

use super::super::engine::Table;
use super::super::grants::{self, NewGrant, Revocation};
use super::super::table::Typed;
use super::super::{Store, StoreError, WriteTx, audit};
use super::record::{CodeRecord, CodeStateRecord};
use crate::audit::{Actor, AuditEvent, Party, RevocationReason};
use crate::ids::GrantId;
use crate::oauth::Grant;
use crate::oauth::grant::Gone;
use crate::oauth::request::{Code, CodeProof, Mismatch};
use crate::secret::Digest;

/// How long a code is remembered after its time, so that one that comes back is recognised.
pub(super) const REMEMBERED: Duration = Duration::from_secs(24 * 60 * 60);

pub(in super::super) const CODES: Typed<CodeRecord> = Typed {
    table: Table::AuthorizationCodes,
    version: 1,
    older: &[],
    key: CodeRecord::key,
    indexes: &[],
    expires: Some(CodeRecord::forgotten),
};

/// What a code stands for, for tests.
#[cfg(test)]
pub async fn code(store: &Store, digest: Digest) -> Result<Option<Code>, StoreError> {
    store.read(move |tx| CODES.get(tx, digest.as_bytes())?.map(|record| Ok(record.read()?.0)).transpose()).await
}

/// What came of [`redeem_code`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Redemption {
    Granted(Box<Grant>),
    /// The client had redeemed it already, so that somebody has a copy. The grant that came of it counts no more from now
    /// on, if it still did.
    Replayed {
        grant: GrantId,
        revoked: Revocation,
    },
    /// Something does not belong to the code. If it is the verifier, the code is void; else nothing has changed.
    Mismatch(Mismatch),
    Gone(Gone),
    /// It could be redeemed, and whoever presents it has brought no grant. Nothing has changed.
    Unprepared,
}

/// The code, if it can still be redeemed: for what is to be known before it is. [`redeem_code`] decides.
pub async fn fresh_code(store: &Store, code: Digest) -> Result<Option<Code>, StoreError> {
    store
        .read(move |tx| {
            let Some(record) = CODES.get(tx, code.as_bytes())? else { return Ok(None) };
            let (code, state) = record.read()?;
            Ok(Some(code).filter(|code| matches!(state, CodeStateRecord::Fresh {}) && code.life.is_open(tx.now())))
        })
        .await
}

/// Makes a grant of a code, once. Who brings none is told what is wrong with the code, and what has to come of that is done.
pub async fn redeem_code(
    store: &Store,
    code: Digest,
    presented: CodeProof,
    new: Option<NewGrant>,
) -> Result<Redemption, StoreError> {
    store.write(move |tx| redeem_in(tx, code, &presented, new.as_ref())).await
}

fn redeem_in(
    tx: &mut WriteTx<'_>,
    code: Digest,
    presented: &CodeProof,
    new: Option<&NewGrant>,
) -> Result<Redemption, StoreError> {
    let Some(record) = CODES.get(tx, code.as_bytes())? else { return Ok(Redemption::Gone(Gone::Unknown)) };
    let (code, state) = record.read()?;
    // Before anything is judged: who is not the client cannot burn a code or make a grant end.
    if code.client != presented.client {
        return Ok(Redemption::Mismatch(Mismatch::Client));
    }
    match state {
        CodeStateRecord::Fresh {} => {}
        CodeStateRecord::Burned {} => return Ok(Redemption::Gone(Gone::Revoked)),
        CodeStateRecord::Redeemed { grant } => {
            let grant = super::super::record::grant(Table::AuthorizationCodes, &grant)?;
            let revoked = grants::revoke_in(tx, &grant, |_| true, RevocationReason::CodeReplayed, Actor::System)?;
            return Ok(Redemption::Replayed { grant, revoked });
        }
    }
    if !code.life.is_open(tx.now()) {
        return Ok(Redemption::Gone(Gone::Expired));
    }
    let party = Party { principal: code.principal.clone(), client: code.client.clone() };
    match code.check(presented) {
        Ok(()) => {}
        Err(Mismatch::Verifier) => return burn(tx, &code, party),
        Err(mismatch) => return Ok(Redemption::Mismatch(mismatch)),
    }
    let Some(new) = new else { return Ok(Redemption::Unprepared) };
    // A client that proves to have a key gets a grant for that key, whether or not it had announced it.
    let given = (&code.access, presented.proof);
    match grants::issue_in(tx, new, &party, given, code.life.from)? {
        Err(gone) => Ok(Redemption::Gone(gone)),
        Ok(grant) => {
            CODES.put(tx, &CodeRecord::new(&code, CodeStateRecord::Redeemed { grant: grant.id.to_string() }))?;
            Ok(Redemption::Granted(Box::new(grant)))
        }
    }
}

fn burn(tx: &mut WriteTx<'_>, code: &Code, party: Party) -> Result<Redemption, StoreError> {
    CODES.put(tx, &CodeRecord::new(code, CodeStateRecord::Burned {}))?;
    audit::append(tx, Actor::System, &AuditEvent::CodeBurned(party))?;
    Ok(Redemption::Mismatch(Mismatch::Verifier))
}
