//! All sessions: who opened which, and which rest for too long.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::StatusCode;

use super::log::{ALL_LOGS_BYTES, Budget};
use super::session::{Opening, STANDING, Session};
use crate::env::Timestamp;
use crate::http::error::Refused;
use crate::identity::Caller;
use crate::ids::{Principal, UpstreamName};

/// Sessions that one principal may have.
const MAX_PER_PRINCIPAL: usize = 2_000;

/// All sessions. Bounded: when it is full, no new one is opened.
pub(in crate::http::mcp) struct Sessions {
    by_id: Mutex<HashMap<Arc<str>, Arc<Session>>>,
    capacity: usize,
    idle: Duration,
    pub(super) budget: Arc<Budget>,
}

impl Sessions {
    pub(in crate::http::mcp) fn new(capacity: u64, idle: Duration) -> Self {
        let capacity = usize::try_from(capacity).unwrap_or(usize::MAX);
        Self { by_id: Mutex::default(), capacity, idle, budget: Budget::new(ALL_LOGS_BYTES) }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Arc<Session>>> {
        self.by_id.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sessions that are open.
    pub(in crate::http::mcp) fn count(&self) -> usize {
        self.lock().len()
    }

    /// Whether this principal could not open another one now.
    pub(super) fn are_full(&self, principal: &Principal) -> bool {
        self.have_no_place(&self.lock(), principal)
    }

    fn have_no_place(&self, sessions: &HashMap<Arc<str>, Arc<Session>>, principal: &Principal) -> bool {
        let own = || sessions.values().filter(|session| session.principal == *principal).count();
        sessions.len() >= self.capacity || (sessions.len() >= MAX_PER_PRINCIPAL && own() >= MAX_PER_PRINCIPAL)
    }

    pub(super) fn open(&self, opening: Opening, now: Timestamp) -> Result<Arc<Session>, Refused> {
        let mut sessions = self.lock();
        if self.have_no_place(&sessions, &opening.principal) {
            let refused = Refused::plain(StatusCode::SERVICE_UNAVAILABLE, "too many sessions are open");
            return Err(refused.retry_after(Duration::from_secs(10)));
        }
        // Two requests may adopt a session at once.
        if let Some(session) = sessions.get(&opening.id).filter(|session| session.is_adopted && opening.is_adopted) {
            return Ok(session.clone());
        }
        let session = Session::new(opening, self.budget.clone(), now);
        sessions.insert(session.id.clone(), session.clone());
        Ok(session)
    }

    /// The session of this id, if it is this caller's at this endpoint and not idle for too long.
    pub(super) fn find(
        &self,
        caller: &Caller,
        endpoint: Option<&UpstreamName>,
        id: &str,
        now: Timestamp,
    ) -> Option<Arc<Session>> {
        let session = self.lock().get(id).cloned()?;
        let is_own = session.endpoint.as_ref() == endpoint && session.is_of(caller);
        if !is_own || session.only_stream.is_some() || session.ended.is_cancelled() || self.is_idle(&session, now) {
            return None;
        }
        session.touch(now);
        Some(session)
    }

    fn is_idle(&self, session: &Session, now: Timestamp) -> bool {
        session.last_used() <= now.before(self.idle).as_millis() && !session.is_busy()
    }

    /// Forgets a session and ends it. Whether it was still there.
    pub(super) fn end(&self, session: &Session) -> bool {
        let is_there = self.lock().remove(&session.id).is_some();
        session.ended.cancel();
        is_there
    }

    /// Those of principals that are not welcome, where something goes on outside of requests.
    pub(super) fn unwelcome(&self, is_welcome: impl Fn(&Session) -> bool) -> Vec<Arc<Session>> {
        let sessions = self.lock();
        let listening = sessions.values().filter(|session| session.stream(STANDING).is_some());
        listening.filter(|session| !is_welcome(session)).cloned().collect()
    }

    /// The session of this id, whoever asks.
    pub(in crate::http::mcp) fn named(&self, id: &str) -> Option<Arc<Session>> {
        self.lock().get(id).cloned()
    }

    /// Those that rest for too long. Streams of the others that nobody can want any more are forgotten, and readers let
    /// go that ask for nothing for `quiet`.
    pub(super) fn sweep(&self, now: Timestamp, quiet: Duration) -> Vec<Arc<Session>> {
        let all: Vec<Arc<Session>> = self.lock().values().cloned().collect();
        let mut idle = Vec::new();
        for session in all {
            session.forget_streams(quiet);
            if session.is_busy() {
                session.touch(now);
            } else if self.is_idle(&session, now) {
                idle.push(session);
            }
        }
        idle
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::http::mcp::testing::{caller, key};
    use crate::mcp::client::Client;
    use crate::mcp::message::RequestId;
    use crate::mcp::revision::Revision;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(1_000_000 + seconds * 1_000)
    }

    fn opening(id: &str, principal: &str, endpoint: Option<&str>) -> Opening {
        Opening {
            id: id.into(),
            principal: key(principal),
            acting: None,
            pass: None,
            endpoint: endpoint.map(|name| UpstreamName::parse(name).unwrap()),
            revision: Revision::V2025_11_25,
            client: Arc::new(Client::gateway()),
            ended: CancellationToken::new(),
            only_stream: None,
            is_adopted: false,
        }
    }

    #[test]
    fn a_session_is_its_principals_alone_and_ends() {
        let sessions = Sessions::new(10, Duration::from_secs(60));
        let find = |principal: &str, id: &str, now| sessions.find(&caller(principal), None, id, at(now));
        assert!(sessions.open(opening("s", "a", None), at(0)).is_ok());
        assert!(find("a", "s", 59).is_some());
        assert!(find("b", "s", 59).is_none());
        assert!(find("a", "s", 118).is_some(), "use keeps it alive");
        assert!(find("a", "s", 178).is_none(), "rest ends it");
        let session = sessions.open(opening("t", "a", None), at(0)).ok().unwrap();
        assert!(sessions.end(&session) && session.ended.is_cancelled());
        assert!(find("a", "t", 1).is_none());
        assert!(!sessions.end(&session), "once");
    }

    #[test]
    fn m3_a_session_belongs_to_the_client_through_which_it_was_opened() {
        let sessions = Sessions::new(10, Duration::from_secs(60));
        let through = |client: Option<&str>| Caller { client: client.map(Into::into), ..caller("a") };
        for (id, acting) in [("own", None), ("app", Some("app"))] {
            let opening = Opening { acting: acting.map(Into::into), ..opening(id, "a", None) };
            sessions.open(opening, at(0)).ok().unwrap();
            for client in [None, Some("app"), Some("other")] {
                let found = sessions.find(&through(client), None, id, at(1));
                assert_eq!(found.is_some(), client == acting, "{id} through {client:?}");
            }
        }
    }

    #[test]
    fn a_session_belongs_to_the_endpoint_where_it_was_opened() {
        let sessions = Sessions::new(10, Duration::from_secs(60));
        for (id, endpoint) in [("common", None), ("notes", Some("notes"))] {
            sessions.open(opening(id, "a", endpoint), at(0)).ok().unwrap();
            for at_endpoint in [None, Some("notes"), Some("tracker")] {
                let upstream = at_endpoint.map(|name| UpstreamName::parse(name).unwrap());
                let found = sessions.find(&caller("a"), upstream.as_ref(), id, at(1));
                assert_eq!(found.is_some(), at_endpoint == endpoint, "{id} at {at_endpoint:?}");
            }
        }
    }

    #[test]
    fn sessions_are_bounded_and_idle_ones_make_room() {
        let sessions = Sessions::new(2, Duration::from_secs(60));
        let open = |id: &str, now| sessions.open(opening(id, "a", None), now).is_ok();
        let sweep = |now| {
            let idle = sessions.sweep(now, Duration::from_secs(45));
            idle.iter().for_each(|session| assert!(sessions.end(session)));
            idle.len()
        };
        assert!(open("1", at(0)) && open("2", at(30)));
        assert!(!open("3", at(59)) && sweep(at(59)) == 0);
        assert_eq!(sweep(at(60)), 1);
        assert!(open("3", at(60)));
        assert!(sessions.find(&caller("a"), None, "2", at(60)).is_some());
    }

    #[test]
    fn a_session_in_use_does_not_rest() {
        let sessions = Sessions::new(2, Duration::from_secs(60));
        let session = sessions.open(opening("s", "a", None), at(0)).ok().unwrap();
        let in_flight = session.begin(&RequestId::number(1), &CancellationToken::new());
        assert!(sessions.sweep(at(100), Duration::from_secs(45)).is_empty());
        assert!(sessions.find(&caller("a"), None, "s", at(500)).is_some(), "a request is in flight");
        drop(in_flight);
        let reader = session.open_stream().attach(None, None);
        assert!(sessions.sweep(at(600), Duration::from_secs(45)).is_empty(), "somebody reads");
        session.stream(1).unwrap().detach(&reader);
        assert_eq!(sessions.sweep(at(659), Duration::from_secs(45)).len(), 0);
        assert_eq!(sessions.sweep(at(660), Duration::from_secs(45)).len(), 1);
    }
}
