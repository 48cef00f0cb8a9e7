//! Authorization requests in progress, from the browser that brings one to the code that the client redeems.
//!
//! A request belongs to one browser, by the digest of a cookie; every verb asks for it, and who comes with another changes
//! nothing (`docs/threat-model.md` row A9). Somebody chooses as whom to go on before anything is approved, and may choose
//! again; a guest lives as long as the request for which it was made, or the grant that came of it ([`super::guests`]).
//! Approving a request takes it away and leaves a code in the same transaction, so there is one code for a consent; refusing
//! takes it away too. What is opened by strangers is counted, and bounded.

use std::time::Duration;

use super::consents::{self, Remembered};
use super::counted::Counted;
use super::engine::{Bounds, Direction, Table};
use super::table::{Single, Typed};
use super::{ReadTx, Store, StoreError, WriteTx, audit, guests, revocations, users};
use crate::audit::{Actor, AuditEvent, Party};
use crate::env::Timestamp;
use crate::ids::{BrowserSessionId, GuestId, Principal, RequestId};
use crate::oauth::Window;
use crate::oauth::access::Access;
use crate::oauth::request::{AuthorizationRequest, Chosen, Code};
use crate::secret::Digest;

mod codes;
#[cfg(test)]
mod model_tests;
mod pushed;
mod record;
#[cfg(test)]
pub(super) mod tests;

pub(super) use codes::CODES;
#[cfg(test)]
pub use codes::code;
pub use codes::{Redemption, fresh_code, redeem_code};
pub(super) use pushed::PUSHED;
pub use pushed::{MAX_PUSHED_BYTES, Push, Pushed, push, take_pushed};
use record::{CodeRecord, CodeStateRecord, RequestRecord};

pub(super) const REQUESTS: Counted<RequestRecord> = Counted {
    records: Typed {
        table: Table::AuthorizationRequests,
        version: 1,
        older: &[],
        key: RequestRecord::key,
        indexes: &[],
        expires: Some(RequestRecord::expires),
    },
    count: Single::new("authorization_requests"),
};

/// How many of the oldest requests are looked at for one that makes room.
const OLDEST: usize = 32;

/// What came of [`begin`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    Begun,
    /// As many are open as may be, and the oldest are being answered.
    TooMany,
    /// Its redirect URI or its state is too long.
    TooLarge,
}

/// Why nothing came of a verb.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// There is no such request, or it was approved or refused already.
    NotFound,
    /// It belongs to another browser, and stays as it is.
    WrongBrowser,
    Expired,
}

/// What came of [`approve`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Approval {
    /// The code may be sent to the client, with what the request says.
    Approved(Box<AuthorizationRequest>),
    /// More was approved than was asked for. Nothing has changed.
    Widened,
    /// Whoever agreed is not whom the request has as chosen. Nothing has changed.
    NotChosen,
    /// Whoever agreed is a user who is gone, or not active, or had everything revoked since they were chosen. Nothing has
    /// changed.
    NotActive,
    Refused(Refused),
}

/// What came of [`choose_guest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestChoice {
    Chosen,
    /// There are as many guests as may be.
    TooMany,
    Refused(Refused),
}

/// What somebody agreed to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consent {
    pub principal: Principal,
    pub access: Access,
    /// Digest of the code.
    pub code: Digest,
    pub code_life: Duration,
    /// If it is to be remembered.
    pub remember: Option<Remembered>,
}

/// Opens a request, as one of at most `most`. It is created now, and has `life` to be approved. Where there is no room, the
/// oldest that nobody has begun to answer makes some: strangers who open many shut nobody out, but are shut out themselves.
pub async fn begin(
    store: &Store,
    request: AuthorizationRequest,
    life: Duration,
    most: u64,
) -> Result<Begin, StoreError> {
    store
        .write(move |tx| {
            if !request.fits() {
                return Ok(Begin::TooLarge);
            }
            let key = request.id.as_str().as_bytes();
            // An id that is taken is no room either.
            if REQUESTS.get(tx, key)?.is_some() || REQUESTS.len(tx)? >= most && !make_room_in(tx)? {
                return Ok(Begin::TooMany);
            }
            let Window { from, until } = Window::starting(tx.now(), life);
            let chosen = request.chosen.clone().map(|chosen| Chosen { at: from, ..chosen });
            let request = AuthorizationRequest { created: from, until, chosen, ..request.clone() };
            REQUESTS.add(tx, &RequestRecord::from(&request))?;
            Ok(Begin::Begun)
        })
        .await
}

/// Takes out the oldest request in which nobody has chosen who they are. Ids sort by time.
fn make_room_in(tx: &mut WriteTx<'_>) -> Result<bool, StoreError> {
    let oldest = tx.range(Table::AuthorizationRequests, &Bounds::all(), Direction::Forward, OLDEST)?;
    for (key, _) in oldest {
        let request = REQUESTS.get(tx, &key)?.map(AuthorizationRequest::try_from).transpose()?;
        if request.is_some_and(|request| request.chosen.is_none()) {
            REQUESTS.remove(tx, &key)?;
            return Ok(true);
        }
    }
    Ok(false)
}

/// The request, for the browser that it belongs to.
pub async fn get(
    store: &Store,
    id: &RequestId,
    browser: Digest,
) -> Result<Result<AuthorizationRequest, Refused>, StoreError> {
    let id = id.clone();
    store.read(move |tx| open_in(tx, &id, browser)).await
}

/// Gives the request to another cookie of the same browser, as after a sign-in.
pub async fn rebind(
    store: &Store,
    id: &RequestId,
    browser: Digest,
    next: Digest,
) -> Result<Result<(), Refused>, StoreError> {
    change(store, id, browser, move |request, _| AuthorizationRequest { browser: next, ..request }).await
}

/// Gives more time, as after a connection that took some.
pub async fn extend(
    store: &Store,
    id: &RequestId,
    browser: Digest,
    time: Duration,
) -> Result<Result<(), Refused>, StoreError> {
    change(store, id, browser, move |request, now| request.extended(now, time)).await
}

/// Goes on as a user or a key, in place of whoever was chosen before.
pub async fn choose(
    store: &Store,
    id: &RequestId,
    browser: Digest,
    principal: Principal,
    session: Option<BrowserSessionId>,
) -> Result<Result<(), Refused>, StoreError> {
    let id = id.clone();
    store
        .write(move |tx| {
            let chosen = Chosen { principal: principal.clone(), session: session.clone(), at: tx.now() };
            Ok(choose_in(tx, &id, browser, Some(chosen))?.map(drop))
        })
        .await
}

/// Goes on as a new guest, one of at most `most`.
pub async fn choose_guest(
    store: &Store,
    id: &RequestId,
    browser: Digest,
    guest: GuestId,
    session: Option<BrowserSessionId>,
    most: u64,
) -> Result<GuestChoice, StoreError> {
    let id = id.clone();
    store
        .write(move |tx| {
            let principal = Principal::Guest(guest.clone());
            let chosen = Chosen { principal, session: session.clone(), at: tx.now() };
            let request = match choose_in(tx, &id, browser, Some(chosen.clone()))? {
                Ok(request) => request,
                Err(refused) => return Ok(GuestChoice::Refused(refused)),
            };
            if guests::admit_in(tx, &guest, request.until, most)? {
                return Ok(GuestChoice::Chosen);
            }
            REQUESTS.replace(tx, &RequestRecord::from(&AuthorizationRequest { chosen: None, ..request }))?;
            Ok(GuestChoice::TooMany)
        })
        .await
}

/// Takes back the choice, so that another one is made.
pub async fn unchoose(store: &Store, id: &RequestId, browser: Digest) -> Result<Result<(), Refused>, StoreError> {
    let id = id.clone();
    store.write(move |tx| Ok(choose_in(tx, &id, browser, None)?.map(drop))).await
}

/// Changes who is chosen. A guest who was is forgotten: nothing can have come of them yet.
fn choose_in(
    tx: &mut WriteTx<'_>,
    id: &RequestId,
    browser: Digest,
    chosen: Option<Chosen>,
) -> Result<Result<AuthorizationRequest, Refused>, StoreError> {
    let request = match open_in(tx, id, browser)? {
        Ok(request) => request,
        Err(refused) => return Ok(Err(refused)),
    };
    forget_guest_in(tx, &request)?;
    let request = AuthorizationRequest { chosen, ..request };
    REQUESTS.replace(tx, &RequestRecord::from(&request))?;
    Ok(Ok(request))
}

fn forget_guest_in(tx: &mut WriteTx<'_>, request: &AuthorizationRequest) -> Result<(), StoreError> {
    match &request.chosen {
        Some(Chosen { principal: Principal::Guest(guest), .. }) => guests::forget_in(tx, guest),
        _ => Ok(()),
    }
}

async fn change<F>(
    store: &Store,
    id: &RequestId,
    browser: Digest,
    changed: F,
) -> Result<Result<(), Refused>, StoreError>
where
    F: Fn(AuthorizationRequest, Timestamp) -> AuthorizationRequest + Send + 'static,
{
    let id = id.clone();
    store
        .write(move |tx| {
            let request = match open_in(tx, &id, browser)? {
                Err(refused) => return Ok(Err(refused)),
                Ok(request) => changed(request, tx.now()),
            };
            if let Some(Chosen { principal: Principal::Guest(guest), .. }) = &request.chosen {
                guests::keep_in(tx, guest, request.until)?;
            }
            REQUESTS.replace(tx, &RequestRecord::from(&request)).map(Ok)
        })
        .await
}

/// Turns a request into a code.
pub async fn approve(
    store: &Store,
    id: &RequestId,
    browser: Digest,
    consent: Consent,
    actor: Actor,
) -> Result<Approval, StoreError> {
    let id = id.clone();
    store.write(move |tx| approve_in(tx, &id, browser, &consent, actor)).await
}

fn approve_in(
    tx: &mut WriteTx<'_>,
    id: &RequestId,
    browser: Digest,
    consent: &Consent,
    actor: Actor,
) -> Result<Approval, StoreError> {
    let request = match open_in(tx, id, browser)? {
        Ok(request) => request,
        Err(refused) => return Ok(Approval::Refused(refused)),
    };
    let Consent { principal, access, code, code_life, remember } = consent;
    if !access.is_within(&request.resources, &request.scopes) {
        return Ok(Approval::Widened);
    }
    let Some(chosen) = request.chosen.as_ref().filter(|chosen| chosen.principal == *principal) else {
        return Ok(Approval::NotChosen);
    };
    let is_covered = revocations::covering(tx, principal, &request.client, chosen.at)?.is_some();
    if is_covered || !users::may_be_granted_in(tx, principal)? {
        return Ok(Approval::NotActive);
    }
    let code = Code {
        digest: *code,
        client: request.client.clone(),
        redirect_uri: request.redirect_uri.clone(),
        challenge: request.challenge,
        proof: request.proof,
        principal: principal.clone(),
        access: access.clone(),
        life: Window::starting(tx.now(), *code_life),
    };
    revocations::granted_in(tx, code.life.from)?;
    if let Principal::Guest(guest) = principal {
        guests::keep_in(tx, guest, code.life.until)?;
    }
    CODES.put(tx, &CodeRecord::new(&code, CodeStateRecord::Fresh {}))?;
    REQUESTS.remove(tx, id.as_str().as_bytes())?;
    let party = Party { principal: principal.clone(), client: request.client.clone() };
    if let Some(remembered) = remember {
        consents::remember_in(tx, &party, access, remembered)?;
    }
    audit::append(tx, actor, &AuditEvent::ConsentGiven(party))?;
    Ok(Approval::Approved(Box::new(request)))
}

/// Refuses a request, and tells what the client is to be told with.
pub async fn deny(
    store: &Store,
    id: &RequestId,
    browser: Digest,
    actor: Actor,
) -> Result<Result<AuthorizationRequest, Refused>, StoreError> {
    let id = id.clone();
    store
        .write(move |tx| {
            let found = open_in(tx, &id, browser)?;
            if let Ok(request) = &found {
                forget_guest_in(tx, request)?;
                REQUESTS.remove(tx, id.as_str().as_bytes())?;
                audit::append(tx, actor, &AuditEvent::ConsentRefused { client: request.client.clone() })?;
            }
            Ok(found)
        })
        .await
}

fn open_in(
    tx: &mut ReadTx<'_>,
    id: &RequestId,
    browser: Digest,
) -> Result<Result<AuthorizationRequest, Refused>, StoreError> {
    let Some(record) = REQUESTS.get(tx, id.as_str().as_bytes())? else { return Ok(Err(Refused::NotFound)) };
    let request = AuthorizationRequest::try_from(record)?;
    Ok(if request.browser != browser {
        Err(Refused::WrongBrowser)
    } else if !request.is_open(tx.now()) {
        Err(Refused::Expired)
    } else {
        Ok(request)
    })
}
