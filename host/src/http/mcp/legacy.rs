//! The legacy era on the wire: `initialize` opens a session, everything else happens within one.
//!
//! A session belongs to the principal that opened it and proves nothing: whoever else names it gets 404, as for one that
//! does not exist (2025-11-25, security § session hijacking). A closed connection does not take a request back, a
//! `notifications/cancelled` does.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;

use super::{From, Mcp, Ticket};
use crate::env::Timestamp;
use crate::http::error::{Refused, json_response};
use crate::ids::Principal;
use crate::mcp::error::{INVALID_REQUEST, RpcError};
use crate::mcp::message::{self, RequestId};
use crate::mcp::revision::{Rejection, Revision, SESSION_HEADER, legacy};
use crate::secret::hex;

/// Sessions that one principal may have.
const MAX_PER_PRINCIPAL: usize = 2_000;

/// One legacy session.
pub(super) struct Session {
    id: String,
    principal: Principal,
    revision: Revision,
    /// Milliseconds since the epoch.
    last_used: AtomicU64,
    in_flight: Mutex<HashMap<RequestId, CancellationToken>>,
}

/// All sessions. Bounded: when it is full and none is idle, no new one is opened.
pub(super) struct Sessions {
    by_id: Mutex<HashMap<String, Arc<Session>>>,
    capacity: usize,
    idle: Duration,
}

/// A request that can be taken back by its id, until this is dropped.
pub(super) struct InFlight {
    session: Arc<Session>,
    id: RequestId,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.session.in_flight.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

impl Sessions {
    pub(super) fn new(capacity: u64, idle: Duration) -> Self {
        let capacity = usize::try_from(capacity).unwrap_or(usize::MAX);
        Self { by_id: Mutex::default(), capacity, idle }
    }

    fn open(
        &self,
        id: String,
        principal: &Principal,
        revision: Revision,
        now: Timestamp,
    ) -> Result<Arc<Session>, Refused> {
        let mut sessions = self.by_id.lock().unwrap_or_else(PoisonError::into_inner);
        let oldest = now.before(self.idle).as_millis();
        let is_full = sessions.len() >= self.capacity;
        let own = || sessions.values().filter(|session| session.principal == *principal).count();
        if is_full || (sessions.len() >= MAX_PER_PRINCIPAL && own() >= MAX_PER_PRINCIPAL) {
            let before = sessions.len();
            sessions.retain(|_, session| session.last_used.load(Ordering::Relaxed) > oldest);
            if sessions.len() == before {
                let refused = Refused::plain(StatusCode::SERVICE_UNAVAILABLE, "too many sessions are open");
                return Err(refused.retry_after(Duration::from_secs(10)));
            }
        }
        let last_used = AtomicU64::new(now.as_millis());
        let session =
            Session { id: id.clone(), principal: principal.clone(), revision, last_used, in_flight: Mutex::default() };
        let session = Arc::new(session);
        sessions.insert(id, session.clone());
        Ok(session)
    }

    /// The session that the headers name, if it is this principal's and not idle for too long.
    fn find(&self, principal: &Principal, headers: &HeaderMap, now: Timestamp) -> Result<Arc<Session>, Refused> {
        let id = headers.get(SESSION_HEADER).ok_or_else(|| {
            Refused::plain(StatusCode::BAD_REQUEST, "Mcp-Session-Id is missing: begin with `initialize`")
        })?;
        let unknown = || Refused::plain(StatusCode::NOT_FOUND, "there is no such session");
        let id = id.to_str().map_err(|_| unknown())?;
        let mut sessions = self.by_id.lock().unwrap_or_else(PoisonError::into_inner);
        let session = sessions.get(id).filter(|session| session.principal == *principal).ok_or_else(unknown)?.clone();
        if session.last_used.load(Ordering::Relaxed) <= now.before(self.idle).as_millis() {
            sessions.remove(id);
            return Err(unknown());
        }
        session.last_used.store(now.as_millis(), Ordering::Relaxed);
        Ok(session)
    }

    /// DELETE: ends the session and what is in flight in it.
    pub(super) fn end(&self, principal: &Principal, headers: &HeaderMap) -> Result<(), Refused> {
        let Some(id) = headers.get(SESSION_HEADER) else {
            return Err(Refused::plain(StatusCode::METHOD_NOT_ALLOWED, "only a session can be deleted"));
        };
        let unknown = || Refused::plain(StatusCode::NOT_FOUND, "there is no such session");
        let id = id.to_str().map_err(|_| unknown())?;
        let mut sessions = self.by_id.lock().unwrap_or_else(PoisonError::into_inner);
        let own = sessions.get(id).is_some_and(|session| session.principal == *principal);
        let session = if own { sessions.remove(id) } else { None };
        drop(sessions);
        let session = session.ok_or_else(unknown)?;
        let in_flight = session.in_flight.lock().unwrap_or_else(PoisonError::into_inner);
        in_flight.values().for_each(CancellationToken::cancel);
        Ok(())
    }
}

impl Session {
    /// Registers a request, so that it can be taken back. An id that is in use is refused.
    fn begin(self: &Arc<Self>, id: &RequestId, cancelled: &CancellationToken) -> Option<InFlight> {
        let mut in_flight = self.in_flight.lock().unwrap_or_else(PoisonError::into_inner);
        match in_flight.entry(id.clone()) {
            Entry::Occupied(_) => None,
            Entry::Vacant(vacant) => {
                vacant.insert(cancelled.clone());
                Some(InFlight { session: self.clone(), id: id.clone() })
            }
        }
    }
}

pub(super) async fn request(
    mcp: &Arc<Mcp>,
    from: From<'_>,
    id: RequestId,
    method: &str,
    params: Option<&RawValue>,
) -> Result<Response, Refused> {
    let refuse = |rejection: Rejection| Refused::from_rejection(&rejection, &id);
    let now = mcp.services.env.now();
    if method == "initialize" {
        let (revision, result) = legacy::initialize(params).map_err(refuse)?;
        let session =
            mcp.sessions.open(hex(&mcp.services.env.random::<16>()), &from.caller.principal, revision, now)?;
        let mut response = json_response(StatusCode::OK, message::result(&id, &result));
        let session_id = HeaderValue::try_from(session.id.as_str()).expect("hex is visible ASCII");
        response.headers_mut().insert(SESSION_HEADER, session_id);
        return Ok(response);
    }
    let session = mcp.sessions.find(&from.caller.principal, from.headers, now)?;
    legacy::check_version(from.headers, session.revision).map_err(refuse)?;
    let request = legacy::decode(method, params).map_err(refuse)?;
    let cancelled = mcp.tasks.stopping().child_token();
    let ending = session.begin(&id, &cancelled).ok_or_else(|| {
        let error = RpcError::new(INVALID_REQUEST, "a request with this id is still in flight");
        Refused::rpc(StatusCode::BAD_REQUEST, Some(&id), &error)
    })?;
    let ticket = Ticket {
        id: id.clone(),
        revision: session.revision,
        session: Some(session.id.clone()),
        cancelled,
        ending: Some(ending),
    };
    mcp.run(from, ticket, request).await
}

/// A notification within a session. Only a cancellation has an effect.
pub(super) fn notification(
    mcp: &Mcp,
    from: &From<'_>,
    method: &str,
    params: Option<&RawValue>,
) -> Result<Response, Refused> {
    let session = mcp.sessions.find(&from.caller.principal, from.headers, mcp.services.env.now())?;
    if method == "notifications/cancelled" {
        let in_flight = session.in_flight.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cancelled) = legacy::cancelled_request(params).and_then(|id| in_flight.get(&id)) {
            cancelled.cancel();
        }
    }
    Ok(StatusCode::ACCEPTED.into_response())
}

/// A response within a session: accepted, although nothing was asked.
pub(super) fn response(mcp: &Mcp, from: &From<'_>) -> Result<Response, Refused> {
    mcp.sessions.find(&from.caller.principal, from.headers, mcp.services.env.now())?;
    Ok(StatusCode::ACCEPTED.into_response())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::KeyName;

    fn key(name: &str) -> Principal {
        Principal::Key(KeyName::parse(name).unwrap())
    }

    fn named(id: &str) -> HeaderMap {
        HeaderMap::from_iter([(http::HeaderName::from_static(SESSION_HEADER), HeaderValue::from_str(id).unwrap())])
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(1_000_000 + seconds * 1_000)
    }

    #[test]
    fn a_session_is_its_principals_alone_and_ends() {
        let sessions = Sessions::new(10, Duration::from_secs(60));
        assert!(sessions.open("s".into(), &key("a"), Revision::V2025_11_25, at(0)).is_ok());
        assert!(sessions.find(&key("a"), &named("s"), at(59)).is_ok());
        assert!(sessions.find(&key("b"), &named("s"), at(59)).is_err());
        assert!(sessions.end(&key("b"), &named("s")).is_err());
        assert!(sessions.find(&key("a"), &named("s"), at(118)).is_ok(), "use keeps it alive");
        assert!(sessions.find(&key("a"), &named("s"), at(178)).is_err(), "rest ends it");
        assert!(sessions.open("t".into(), &key("a"), Revision::V2025_11_25, at(0)).is_ok());
        assert!(sessions.end(&key("a"), &named("t")).is_ok());
        assert!(sessions.end(&key("a"), &named("t")).is_err());
    }

    #[test]
    fn sessions_are_bounded_and_idle_ones_make_room() {
        let sessions = Sessions::new(2, Duration::from_secs(60));
        let open = |id: &str, now| sessions.open(id.into(), &key("a"), Revision::V2025_11_25, now).is_ok();
        assert!(open("1", at(0)) && open("2", at(30)));
        assert!(!open("3", at(59)));
        assert!(open("3", at(60)));
        assert!(sessions.find(&key("a"), &named("2"), at(60)).is_ok());
    }

    #[test]
    fn an_id_in_flight_is_not_used_twice() {
        let sessions = Sessions::new(2, Duration::from_secs(60));
        let session = sessions.open("1".into(), &key("a"), Revision::V2025_11_25, at(0)).ok().unwrap();
        let (id, token) = (RequestId::number(0), CancellationToken::new());
        let first = session.begin(&id, &token);
        assert!(first.is_some() && session.begin(&id, &token).is_none());
        drop(first);
        assert!(session.begin(&id, &token).is_some());
    }
}
