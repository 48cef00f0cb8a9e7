//! Device authorizations (RFC 8628): a device polls with one code, a person enters the other.
//!
//! Codes a person types are short, so that guessing is counted: per whoever guesses, and over all (`docs/threat-model.md` row
//! T16). Only [`look_up`] takes one; whoever decides names the device that was found. The poll that finds the approval makes
//! the grant in its own transaction.

use std::time::Duration;

use super::counted::Counted;
use super::engine::Table;
use super::grants::{self, NewGrant, Revocation};
use super::table::{Index, Single, Typed};
use super::{ReadTx, Store, StoreError, WriteTx, audit, revocations, users};
use crate::audit::{Actor, AuditEvent, Party, RevocationReason};
use crate::env::Timestamp;
use crate::ids::{ClientId, GrantId, Principal};
use crate::oauth::access::Access;
use crate::oauth::device::{DeviceRequest, DeviceState};
use crate::oauth::grant::Gone;
use crate::oauth::request::Mismatch;
use crate::oauth::{Grant, Window};
use crate::secret::Digest;

mod record;
#[cfg(test)]
pub(super) mod tests;

use record::{DeviceRecord, MissesRecord};

pub(super) const DEVICES: Counted<DeviceRecord> = Counted {
    records: Typed {
        table: Table::Devices,
        version: 1,
        older: &[],
        key: DeviceRecord::key,
        indexes: &[Index { table: Table::DevicesByUserCode, key: DeviceRecord::by_user_code }],
        expires: Some(DeviceRecord::forgotten),
    },
    count: Single::new("devices"),
};

pub(super) const MISSES: Typed<MissesRecord> = Typed {
    table: Table::UserCodeMisses,
    version: 1,
    older: &[],
    key: MissesRecord::key,
    indexes: &[],
    expires: Some(MissesRecord::expires),
};

/// What came of [`begin`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    Begun,
    /// As many wait as may.
    TooMany,
    /// One of the codes is another device's. Others have to be drawn.
    Taken,
}

/// What came of a user code that somebody entered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LookUp {
    /// It belongs to this device, which waits.
    Found(Box<DeviceRequest>),
    /// No device waits for it.
    Unknown,
    /// There were too many wrong ones. It was not looked at.
    TooMany,
}

/// How many wrong user codes there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guesses {
    /// From one address.
    pub of_one: u32,
    /// From all.
    pub of_all: u32,
    /// Within this time.
    pub within: Duration,
}

impl Default for Guesses {
    /// Five, and a thousand, in ten minutes.
    fn default() -> Self {
        Self { of_one: 5, of_all: 1_000, within: Duration::from_secs(10 * 60) }
    }
}

/// What came of [`decide`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    Decided,
    /// More was approved than was asked for. Nothing has changed.
    Widened,
    /// Whoever approved is a user who is gone, or not active. Nothing has changed.
    NotActive,
    /// There is no such device, its time is over, or it was decided before.
    Gone,
}

/// What a person decides about a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Approve { principal: Principal, access: Access },
    Refuse,
}

/// What a device that polls is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Poll {
    /// `authorization_pending`
    Pending,
    /// `slow_down`: from now on this long between two polls.
    SlowDown(Duration),
    Granted(Box<Grant>),
    /// `access_denied`
    Refused,
    /// The device has long had its grant, so that somebody has a copy of its code. The grant counts no more.
    Replayed {
        grant: GrantId,
        revoked: Revocation,
    },
    /// It is another client's code, or another key was proven. Nothing has changed.
    Mismatch(Mismatch),
    /// `expired_token`, or a code that never was. A device that had its grant and polls on while the code lives has lost the
    /// answer, and begins anew (RFC 8628 §3.5).
    Gone(Gone),
}

/// Lets a device wait, as one of at most `most`, for `life` from now on.
pub async fn begin(store: &Store, request: DeviceRequest, life: Duration, most: u64) -> Result<Begin, StoreError> {
    store
        .write(move |tx| {
            if DEVICES.len(tx)? >= most {
                return Ok(Begin::TooMany);
            }
            let is_taken = DEVICES.get(tx, request.device_code.as_bytes())?.is_some()
                || by_user_code(tx, request.user_code)?.is_some();
            if is_taken {
                return Ok(Begin::Taken);
            }
            let life = Window::starting(tx.now(), life);
            let (last_poll, state) = (None, DeviceState::Pending);
            DEVICES.add(tx, &DeviceRecord::from(&DeviceRequest { life, last_poll, state, ..request.clone() }))?;
            Ok(Begin::Begun)
        })
        .await
}

/// A device by its own code, whatever its state.
pub async fn get(store: &Store, device_code: Digest) -> Result<Option<DeviceRequest>, StoreError> {
    store.read(move |tx| DEVICES.get(tx, device_code.as_bytes())?.map(TryFrom::try_from).transpose()).await
}

/// The device that waits for this user code. Wrong ones are counted, under the digest of where they come from.
pub async fn look_up(store: &Store, user_code: Digest, from: Digest, guesses: Guesses) -> Result<LookUp, StoreError> {
    store.write(move |tx| look_up_in(tx, user_code, from, guesses)).await
}

fn look_up_in(tx: &mut WriteTx<'_>, user_code: Digest, from: Digest, guesses: Guesses) -> Result<LookUp, StoreError> {
    let mine = misses(tx, Some(from), guesses.within)?;
    let all = misses(tx, None, guesses.within)?;
    if mine.count() >= guesses.of_one || all.count() >= guesses.of_all {
        return Ok(LookUp::TooMany);
    }
    let found = by_user_code(tx, user_code)?.filter(|device| is_waiting(device, tx.now()));
    let Some(device) = found else {
        MISSES.put(tx, &mine.and_one())?;
        MISSES.put(tx, &all.and_one())?;
        return Ok(LookUp::Unknown);
    };
    Ok(LookUp::Found(Box::new(device)))
}

fn misses(tx: &mut ReadTx<'_>, from: Option<Digest>, within: Duration) -> Result<MissesRecord, StoreError> {
    let fresh = MissesRecord::none(from, Window::starting(tx.now(), within));
    let known = MISSES.get(tx, &fresh.key())?.filter(|known| known.is_open(tx.now()));
    Ok(known.unwrap_or(fresh))
}

fn by_user_code(tx: &mut ReadTx<'_>, user_code: Digest) -> Result<Option<DeviceRequest>, StoreError> {
    let found = DEVICES.records.find(tx, Table::DevicesByUserCode, user_code.as_bytes())?;
    found.map(TryFrom::try_from).transpose()
}

fn is_waiting(device: &DeviceRequest, now: Timestamp) -> bool {
    device.state == DeviceState::Pending && device.life.is_open(now)
}

/// Approves or refuses the device that [`look_up`] found, by [`DeviceRequest::device_code`].
pub async fn decide(
    store: &Store,
    device_code: Digest,
    verdict: Verdict,
    actor: Actor,
) -> Result<Decision, StoreError> {
    store.write(move |tx| decide_in(tx, device_code, &verdict, actor)).await
}

fn decide_in(
    tx: &mut WriteTx<'_>,
    device_code: Digest,
    verdict: &Verdict,
    actor: Actor,
) -> Result<Decision, StoreError> {
    let now = tx.now();
    let device = DEVICES.get(tx, device_code.as_bytes())?.map(DeviceRequest::try_from).transpose()?;
    let Some(device) = device.filter(|device| is_waiting(device, now)) else { return Ok(Decision::Gone) };
    let client = device.client.clone();
    let (state, event) = match verdict {
        Verdict::Refuse => (DeviceState::Refused, AuditEvent::ConsentRefused { client }),
        Verdict::Approve { access, .. } if !access.is_within(&device.resources, &device.scopes) => {
            return Ok(Decision::Widened);
        }
        Verdict::Approve { principal, .. } if !users::may_be_granted_in(tx, principal)? => {
            return Ok(Decision::NotActive);
        }
        Verdict::Approve { principal, access } => {
            revocations::granted_in(tx, now)?;
            (
                DeviceState::Approved { principal: principal.clone(), access: access.clone(), at: now },
                AuditEvent::ConsentGiven(Party { principal: principal.clone(), client }),
            )
        }
    };
    DEVICES.replace(tx, &DeviceRecord::from(&DeviceRequest { state, ..device }))?;
    audit::append(tx, actor, &event)?;
    Ok(Decision::Decided)
}

/// Answers a device that polls, with a grant if it is approved. Who has brought none hears that it is pending: the device
/// asks again, and by then somebody has seen what was approved.
pub async fn poll(
    store: &Store,
    device_code: Digest,
    client: ClientId,
    proof: Option<Digest>,
    new: Option<NewGrant>,
) -> Result<Poll, StoreError> {
    store.write(move |tx| poll_in(tx, device_code, &client, proof, new.as_ref())).await
}

fn poll_in(
    tx: &mut WriteTx<'_>,
    device_code: Digest,
    client: &ClientId,
    proof: Option<Digest>,
    new: Option<&NewGrant>,
) -> Result<Poll, StoreError> {
    let now = tx.now();
    let Some(record) = DEVICES.get(tx, device_code.as_bytes())? else { return Ok(Poll::Gone(Gone::Unknown)) };
    let device = DeviceRequest::try_from(record)?;
    if device.client != *client {
        return Ok(Poll::Mismatch(Mismatch::Client));
    }
    if device.proof.is_some() && device.proof != proof {
        return Ok(Poll::Mismatch(Mismatch::Proof));
    }
    if let DeviceState::Redeemed { grant } = device.state {
        if device.life.is_open(now) {
            return Ok(Poll::Gone(Gone::Expired));
        }
        let revoked = grants::revoke_in(tx, &grant, |_| true, RevocationReason::CodeReplayed, Actor::System)?;
        return Ok(Poll::Replayed { grant, revoked });
    }
    if !device.life.is_open(now) {
        return Ok(Poll::Gone(Gone::Expired));
    }
    if device.is_hasty(now) {
        let device = device.polled(now);
        DEVICES.replace(tx, &DeviceRecord::from(&device))?;
        return Ok(Poll::SlowDown(device.interval));
    }
    let device = device.polled(now);
    let (answer, device) = match (device.state.clone(), new) {
        (DeviceState::Pending, _) | (DeviceState::Approved { .. }, None) => (Poll::Pending, device),
        (DeviceState::Approved { principal, access, at }, Some(new)) => {
            let party = Party { principal, client: client.clone() };
            match grants::issue_in(tx, new, &party, (&access, proof), at)? {
                Err(gone) => (Poll::Gone(gone), device),
                Ok(grant) => {
                    let state = DeviceState::Redeemed { grant: grant.id.clone() };
                    (Poll::Granted(Box::new(grant)), DeviceRequest { state, ..device })
                }
            }
        }
        (DeviceState::Refused | DeviceState::Redeemed { .. }, _) => (Poll::Refused, device),
    };
    DEVICES.replace(tx, &DeviceRecord::from(&device))?;
    Ok(answer)
}
