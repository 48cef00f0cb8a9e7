//! Authorization requests in progress, from the browser that brings one to the code that the client redeems.
//!
//! A request belongs to one browser, by the digest of a cookie; every verb asks for it, and who comes with another changes
//! nothing (`security.md` row A9). Approving a request takes it away and leaves a code in the same transaction, so there is
//! one code for a consent; refusing takes it away too. What is opened by strangers is counted, and bounded.

use std::time::Duration;

use super::consents::{self, Remembered};
use super::counted::Counted;
use super::engine::Table;
use super::table::{Single, Typed};
use super::{ReadTx, Store, StoreError, WriteTx, audit, revocations, users};
use crate::audit::{Actor, AuditEvent, Party};
use crate::ids::{Principal, RequestId};
use crate::oauth::Window;
use crate::oauth::access::Access;
use crate::oauth::request::{AuthorizationRequest, Code};
use crate::secret::Digest;

mod codes;
#[cfg(test)]
mod model_tests;
mod pushed;
mod record;
#[cfg(test)]
pub(super) mod tests;

pub(super) use codes::CODES;
pub use codes::{Redemption, redeem_code};
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

/// What came of [`begin`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    Begun,
    /// As many are open as may be.
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
    /// Whoever agreed is a user who is gone, or not active. Nothing has changed.
    NotActive,
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

/// Opens a request, as one of at most `most`. It is created now, and has `life` to be approved.
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
            if REQUESTS.len(tx)? >= most || REQUESTS.get(tx, key)?.is_some() {
                return Ok(Begin::TooMany);
            }
            let Window { from, until } = Window::starting(tx.now(), life);
            let request = AuthorizationRequest { created: from, until, ..request.clone() };
            REQUESTS.add(tx, &RequestRecord::from(&request))?;
            Ok(Begin::Begun)
        })
        .await
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

async fn change<F>(
    store: &Store,
    id: &RequestId,
    browser: Digest,
    changed: F,
) -> Result<Result<(), Refused>, StoreError>
where
    F: Fn(AuthorizationRequest, crate::env::Timestamp) -> AuthorizationRequest + Send + 'static,
{
    let id = id.clone();
    store
        .write(move |tx| match open_in(tx, &id, browser)? {
            Err(refused) => Ok(Err(refused)),
            Ok(request) => REQUESTS.replace(tx, &RequestRecord::from(&changed(request, tx.now()))).map(Ok),
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
    if !users::may_be_granted_in(tx, principal)? {
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
