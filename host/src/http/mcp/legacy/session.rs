//! Sessions: what a legacy caller has with us between `initialize` and its end.
//!
//! A session belongs to the principal that opened it through the client that did, at the endpoint where it was, and proves
//! nothing: whoever else names it gets 404, as for one that does not exist (2025-11-25, security § session hijacking; threat M3). It is
//! bounded in all that it holds, and what it does not use it does not allocate.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::value::RawValue;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::super::watches::Watches;
use super::log::{Budget, EventLog, Ids};
use crate::connection::extra::Extra;
use crate::env::Timestamp;
use crate::identity::{Caller, Pass};
use crate::ids::{Principal, UpstreamName};
use crate::mcp::call::Outcome;
use crate::mcp::client::Client;
use crate::mcp::json::raw;
use crate::mcp::message::{self, RequestId};
use crate::mcp::revision::Revision;
use crate::mcp::talk::{Ask, Event, LogLevel, Party};
use crate::pipeline::Origin;

/// Questions of one session that may be open at once.
const MAX_ASKS: usize = 256;
/// Streams of one session that are kept after their end.
const MAX_ENDED_STREAMS: usize = 64;
/// The number of the stream that belongs to no request.
pub(super) const STANDING: u64 = 0;

/// One legacy session.
pub(in crate::http::mcp) struct Session {
    pub(super) id: Arc<str>,
    pub(super) principal: Principal,
    /// The OAuth client that acts.
    pub(super) acting: Option<Arc<str>>,
    pub(super) endpoint: Option<UpstreamName>,
    pub(super) revision: Revision,
    pub(super) client: Arc<Client>,
    /// Cancelled when it has ended, and what is in flight with it.
    pub(super) ended: CancellationToken,
    /// The one stream on which everything is said, in HTTP with server-sent events.
    pub(super) only_stream: Option<Arc<EventLog>>,
    /// Resources that it is subscribed to.
    pub(super) watches: Arc<Watches>,
    /// Another replica opened it and is gone: it goes on here without streams, and asks its client nothing.
    pub(super) is_adopted: bool,
    /// What the last token gave that was presented for it.
    pass: Mutex<Option<Arc<Pass>>>,
    budget: Arc<Budget>,
    /// Milliseconds since the epoch.
    last_used: AtomicU64,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    log_level: Option<LogLevel>,
    in_flight: HashMap<RequestId, CancellationToken>,
    /// By the ids under which we asked.
    asks: HashMap<u64, oneshot::Sender<Outcome>>,
    last_ask: u64,
    streams: BTreeMap<u64, Arc<EventLog>>,
    last_stream: u64,
    standing: Option<Standing>,
}

/// What is said outside of any request.
#[derive(Clone)]
pub(super) struct Standing {
    pub(super) log: Arc<EventLog>,
    /// On whose behalf it is heard, with the sending end.
    pub(super) origin: Arc<Origin>,
}

/// What a session is opened with.
pub(super) struct Opening {
    pub(super) id: Arc<str>,
    pub(super) principal: Principal,
    pub(super) acting: Option<Arc<str>>,
    pub(super) pass: Option<Arc<Pass>>,
    pub(super) endpoint: Option<UpstreamName>,
    pub(super) revision: Revision,
    pub(super) client: Arc<Client>,
    pub(super) ended: CancellationToken,
    pub(super) only_stream: Option<Arc<EventLog>>,
    pub(super) is_adopted: bool,
}

impl Session {
    pub(super) fn new(opening: Opening, budget: Arc<Budget>, now: Timestamp) -> Arc<Self> {
        let Opening { id, principal, acting, pass, endpoint, revision, client, ended, only_stream, is_adopted } =
            opening;
        let last_used = AtomicU64::new(now.as_millis());
        let (watches, kept, pass) = (Arc::default(), Mutex::default(), Mutex::new(pass));
        Arc::new(Self {
            id,
            principal,
            acting,
            pass,
            endpoint,
            revision,
            client,
            ended,
            only_stream,
            watches,
            is_adopted,
            budget,
            last_used,
            kept,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the last token gave that was presented for it; none where a key was.
    pub(super) fn pass(&self) -> Option<Arc<Pass>> {
        self.pass.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether it belongs to this caller, who then is its last one.
    pub(super) fn is_of(&self, caller: &Caller) -> bool {
        let is_own = self.principal == caller.principal && self.acting == caller.client;
        if is_own && caller.pass.is_some() {
            self.pass.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&caller.pass);
        }
        is_own
    }

    /// Milliseconds since the epoch.
    pub(super) fn last_used(&self) -> u64 {
        self.last_used.load(Ordering::Relaxed)
    }

    pub(super) fn touch(&self, now: Timestamp) {
        self.last_used.store(now.as_millis(), Ordering::Relaxed);
    }

    /// Somebody reads a stream of it, or waits for an answer.
    pub(super) fn is_busy(&self) -> bool {
        let kept = self.lock();
        let standing = kept.standing.as_ref().map(|standing| &standing.log);
        let mut logs = kept.streams.values().chain(standing).chain(&self.only_stream);
        !kept.in_flight.is_empty() || logs.any(|log| log.has_reader())
    }

    /// On whose behalf a request of it goes upstream.
    pub(super) fn party(&self) -> Party {
        let kept = self.lock();
        Party {
            principal: self.principal.clone(),
            session: Some(self.id.clone()),
            client: self.client.clone(),
            log_level: kept.log_level,
            standing: kept.standing.as_ref().map(|standing| standing.origin.events.clone()),
            lent: None,
            extra: Extra::default(),
            trace: None,
        }
    }

    pub(super) fn log_level(&self) -> Option<LogLevel> {
        self.lock().log_level
    }

    pub(super) fn set_log_level(&self, level: LogLevel) {
        self.lock().log_level = Some(level);
    }

    /// Registers a request, so that it can be taken back. An id that is in use is refused.
    pub(super) fn begin(self: &Arc<Self>, id: &RequestId, cancelled: &CancellationToken) -> Option<InFlight> {
        match self.lock().in_flight.entry(id.clone()) {
            Entry::Occupied(_) => None,
            Entry::Vacant(vacant) => {
                vacant.insert(cancelled.clone());
                Some(InFlight { session: self.clone(), id: id.clone() })
            }
        }
    }

    /// Takes a request back, if it is in flight.
    pub(super) fn cancel(&self, id: &RequestId) {
        if let Some(cancelled) = self.lock().in_flight.get(id) {
            cancelled.cancel();
        }
    }

    /// The request that asks the client, and the number to take it back by. `None` if too many questions are open.
    pub(super) fn ask(&self, ask: Ask) -> Option<(u64, String)> {
        let mut kept = self.lock();
        if kept.asks.len() >= MAX_ASKS {
            kept.asks.retain(|_, reply| !reply.is_closed());
        }
        if kept.asks.len() >= MAX_ASKS {
            return None;
        }
        kept.last_ask += 1;
        let number = kept.last_ask;
        let message = self.revision.encode_ask(&RequestId::number(number), &ask);
        kept.asks.insert(number, ask.reply);
        Some((number, message))
    }

    /// Passes on what the client answered. An answer to what nobody asked is ignored.
    pub(super) fn answer(&self, id: &RequestId, outcome: Outcome) {
        let asked = id.as_json().parse().ok().and_then(|number: u64| self.lock().asks.remove(&number));
        if let Some(reply) = asked {
            // An upstream that does not wait any more has no use for it.
            _ = reply.send(outcome);
        }
    }

    /// Takes back what was asked and not answered: the notification for each.
    pub(super) fn withdraw(&self, asked: &[u64]) -> Vec<String> {
        let mut kept = self.lock();
        let open: Vec<u64> = asked.iter().copied().filter(|number| kept.asks.remove(number).is_some()).collect();
        drop(kept);
        let cancelled = |number: u64| {
            let params: Box<RawValue> = raw(format!(r#"{{"requestId":{number}}}"#));
            message::notification("notifications/cancelled", Some(&params))
        };
        open.into_iter().map(cancelled).collect()
    }

    /// A stream for the messages around a request's answer.
    pub(super) fn open_stream(&self) -> Arc<EventLog> {
        if let Some(stream) = &self.only_stream {
            return stream.clone();
        }
        let mut kept = self.lock();
        kept.last_stream += 1;
        let log = EventLog::new(kept.last_stream, Ids::Numbered, self.budget.clone());
        let ended = kept.streams.iter().filter(|(_, log)| log.has_ended() && !log.has_reader());
        let ended: Vec<u64> = ended.map(|(stream, _)| *stream).collect();
        if ended.len() >= MAX_ENDED_STREAMS {
            kept.streams.remove(&ended[0]);
        }
        kept.streams.insert(log.stream(), log.clone());
        log
    }

    /// A stream that can be resumed.
    pub(in crate::http::mcp) fn stream(&self, stream: u64) -> Option<Arc<EventLog>> {
        let kept = self.lock();
        if stream == STANDING {
            return kept.standing.as_ref().map(|standing| standing.log.clone());
        }
        kept.streams.get(&stream).cloned()
    }

    /// The stream that belongs to no request. Where there is none yet it is made, on behalf of the origin that `make`
    /// makes, and the receiving end comes with it.
    pub(super) fn standing(
        &self,
        make: impl FnOnce(mpsc::Sender<Event>) -> Origin,
        queue: usize,
    ) -> (Standing, Option<mpsc::Receiver<Event>>) {
        let mut kept = self.lock();
        if let Some(standing) = &kept.standing {
            return (standing.clone(), None);
        }
        let (events, inbox) = mpsc::channel(queue);
        let log = || EventLog::new(STANDING, Ids::Numbered, self.budget.clone());
        let log = self.only_stream.clone().unwrap_or_else(log);
        let standing = Standing { log, origin: Arc::new(make(events)) };
        kept.standing = Some(standing.clone());
        (standing, Some(inbox))
    }

    pub(super) fn forget_streams(&self, quiet: Duration) {
        let mut kept = self.lock();
        kept.streams.retain(|_, log| !log.sweep(quiet));
        let standing = kept.standing.as_ref().map(|standing| standing.log.clone());
        drop(kept);
        for log in standing.iter().chain(&self.only_stream) {
            log.sweep(quiet);
        }
    }

    /// Lets go of everything that outlives a request.
    pub(super) fn let_go(&self) {
        let kept = std::mem::take(&mut *self.lock());
        let standing = kept.standing.iter().map(|standing| &standing.log);
        for log in kept.streams.values().chain(standing).chain(&self.only_stream) {
            log.end();
        }
        self.watches.end_all();
        // `in_flight` is cancelled with the session; what still ends finds nothing here, and that is right.
        drop(kept);
    }
}

/// A request that can be taken back by its id, until this is dropped.
pub(super) struct InFlight {
    session: Arc<Session>,
    id: RequestId,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.session.lock().in_flight.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::mcp::legacy::log::ALL_LOGS_BYTES;
    use crate::http::mcp::testing::{ask, key};
    use crate::mcp::talk::Question;

    fn session() -> Arc<Session> {
        let opening = Opening {
            id: "s".into(),
            principal: key("ann"),
            acting: None,
            pass: None,
            endpoint: None,
            revision: Revision::V2025_11_25,
            client: Arc::new(Client::gateway()),
            ended: CancellationToken::new(),
            only_stream: None,
            is_adopted: false,
        };
        Session::new(opening, Budget::new(ALL_LOGS_BYTES), Timestamp::default())
    }

    #[test]
    fn an_id_in_flight_is_not_used_twice() {
        let session = session();
        let (id, token) = (RequestId::number(0), CancellationToken::new());
        let first = session.begin(&id, &token);
        assert!(first.is_some() && session.begin(&id, &token).is_none());
        drop(first);
        let again = session.begin(&id, &token);
        assert!(again.is_some());
        session.cancel(&RequestId::number(1));
        assert!(!token.is_cancelled(), "another one's id");
        session.cancel(&id);
        assert!(token.is_cancelled());
    }

    #[tokio::test]
    async fn an_answer_reaches_the_one_question_that_it_is_for() {
        let session = session();
        let (one, mut reply_one) = ask(Question::Roots);
        let (two, mut reply_two) = ask(Question::Sampling);
        let (first, text) = session.ask(one).unwrap();
        assert_eq!(text, r#"{"jsonrpc":"2.0","id":1,"method":"roots/list","params":{"message":"?"}}"#);
        let (second, _) = session.ask(two).unwrap();
        for stranger in ["0", "3", "\"1\"", "-1"] {
            let id = RequestId::parse(&raw(stranger.to_owned())).unwrap();
            session.answer(&id, Outcome::Result(raw("{}".to_owned())));
        }
        assert!(reply_one.try_recv().is_err() && reply_two.try_recv().is_err());
        session.answer(&RequestId::number(first), Outcome::Result(raw(r#"{"roots":[]}"#.to_owned())));
        assert!(matches!(reply_one.try_recv(), Ok(Outcome::Result(result)) if result.get() == r#"{"roots":[]}"#));
        let taken_back = session.withdraw(&[first, second]);
        let expected = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":2}}"#;
        assert_eq!(taken_back, [expected], "what was answered is not taken back");
        assert!(reply_two.await.is_err(), "who asked is told that nobody will answer");
    }

    #[test]
    fn questions_are_bounded_and_given_up_ones_make_room() {
        let session = session();
        let (asks, mut replies): (Vec<_>, Vec<_>) = (0..=MAX_ASKS).map(|_| ask(Question::Roots)).unzip();
        let taken = asks.into_iter().filter_map(|ask| session.ask(ask)).count();
        assert_eq!(taken, MAX_ASKS);
        assert!(session.ask(ask(Question::Roots).0).is_none());
        replies.truncate(MAX_ASKS - 1);
        assert!(session.ask(ask(Question::Roots).0).is_some());
    }

    #[test]
    fn streams_that_have_ended_are_kept_in_number() {
        let session = session();
        for _ in 0..MAX_ENDED_STREAMS + 5 {
            session.open_stream().end();
        }
        assert!(session.stream(4).is_none() && session.stream(5).is_none() && session.stream(6).is_some());
        assert!(session.stream(STANDING).is_none(), "nobody has asked for it");
        session.let_go();
        assert!(session.stream(6).is_none());
    }
}
