//! A session of the legacy era: what the upstream gave us in `initialize`, and what is under way in it.
//!
//! A session belongs to one party. Requests of the upstream and notices that come on a stream of the whole session, not
//! on that of a request, find their way through the [`Desk`].

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::header::HeaderValue;
use http::{Method, Request, Uri};
use serde_json::value::RawValue;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::desk::{Desk, InFlight};
use super::peer::{self, ASIDE_TIMEOUT, Peer};
use super::sessions;
use super::watch::Order;
use crate::connection::extra::Extra;
use crate::connection::lending::Lent;
use crate::mcp::call::{Outcome, Params};
use crate::mcp::json::{Members, raw};
use crate::mcp::message::{self, Message, RequestId};
use crate::mcp::revision::{About, SESSION_HEADER, VERSION_HEADER, legacy};
use crate::mcp::talk::{Event, Party, Via};
use crate::upstream::deadline::Deadline;
use crate::upstream::{Exchange, PartyKey, UpstreamError};

pub(super) struct Session {
    pub(super) peer: Arc<Peer>,
    pub(super) key: PartyKey,
    /// Whose it is, without the way to whoever listens and what each request says for itself, which change.
    pub(super) party: Party,
    pub(super) carrier: Carrier,
    /// What it is shown with each request.
    lent: ArcSwapOption<Lent>,
    /// What the upstream says in the version header's place.
    version: HeaderValue,
    pub(super) about: Arc<About>,
    desk: Mutex<Desk>,
    /// Something on the desk changed.
    pub(super) changed: Notify,
    /// Something newer is shown: what was refused is worth another try.
    pub(super) renewed: Notify,
    /// Fires when nothing can be said in it any more.
    pub(super) over: CancellationToken,
    pub(super) subscriptions: mpsc::Sender<Order>,
}

/// How messages travel.
pub(super) enum Carrier {
    /// Streamable HTTP; the id is absent with an upstream that keeps no sessions.
    Streamable { id: Option<HeaderValue> },
    /// HTTP with server-sent events: where messages are posted.
    Sse { endpoint: Uri },
}

impl Session {
    pub(super) fn new(
        peer: Arc<Peer>,
        party: Party,
        carrier: Carrier,
        version: HeaderValue,
        about: Arc<About>,
        subscriptions: mpsc::Sender<Order>,
    ) -> Self {
        let desk = Desk::new(party.client.answers_anything());
        Self {
            over: peer.tasks.stopping().child_token(),
            peer,
            key: PartyKey::of(&party),
            lent: ArcSwapOption::new(party.lent.clone()),
            party: Party { standing: None, lent: None, extra: Extra::default(), trace: None, ..party },
            carrier,
            version,
            about,
            desk: Mutex::new(desk),
            changed: Notify::new(),
            renewed: Notify::new(),
            subscriptions,
        }
    }

    pub(super) fn desk(&self) -> MutexGuard<'_, Desk> {
        // Nothing panics while holding it, and what is on it is replaced entry by entry.
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the upstream would answer 404 if it had forgotten the session.
    pub(super) fn has_id(&self) -> bool {
        matches!(&self.carrier, Carrier::Streamable { id: Some(_) })
    }

    /// Shows this from now on, unless it has shown something newer. `false` where it was opened with another credential than
    /// one that this was renewed from: its upstream may know it as another account's.
    pub(super) fn show(&self, lent: Option<&Arc<Lent>>) -> bool {
        let shown = self.lent.load();
        match (shown.as_ref(), lent) {
            (None, None) => true,
            (Some(shown), Some(lent)) if (&shown.connection, shown.given) == (&lent.connection, lent.given) => {
                if shown.revision < lent.revision {
                    self.lent.store(Some(lent.clone()));
                    self.renewed.notify_one();
                }
                true
            }
            _ => false,
        }
    }

    /// What it is shown with each request.
    pub(super) fn shown(&self) -> Option<Arc<Lent>> {
        self.lent.load_full()
    }

    /// The session's own headers on a request.
    pub(super) fn within(&self, mut request: Request<Bytes>) -> Request<Bytes> {
        peer::show(&mut request, self.lent.load().as_deref());
        if let Carrier::Streamable { id } = &self.carrier {
            request.headers_mut().insert(VERSION_HEADER, self.version.clone());
            if let Some(id) = id {
                request.headers_mut().insert(SESSION_HEADER, id.clone());
            }
        }
        request
    }

    /// A request that carries one message.
    pub(super) fn post(&self, body: String) -> Request<Bytes> {
        let to = match &self.carrier {
            Carrier::Streamable { .. } => &self.peer.endpoint,
            Carrier::Sse { endpoint } => endpoint,
        };
        self.within(self.peer.post(to, body))
    }

    /// Posts a message that nobody waits for. The session does not end before it was sent.
    pub(super) fn say(self: &Arc<Self>, body: String) {
        let hold = self.hold();
        self.peer.tasks.spawn(async move { hold.session.peer.send_aside(hold.session.post(body)).await });
    }

    /// Makes a request of the gateway's own within the session.
    pub(super) async fn command(
        self: &Arc<Self>,
        method: &'static str,
        params: Members,
        longest: Duration,
    ) -> Result<Outcome, UpstreamError> {
        let (events, _) = mpsc::channel(1);
        let exchange = Exchange {
            id: self.peer.fresh_id(),
            method,
            name: None,
            headers: Vec::new(),
            params: Params { members: params, ..Params::default() },
            via: Via { party: self.party.clone(), events, cancelled: CancellationToken::new() },
            deadline: Deadline::after(longest, Duration::ZERO),
        };
        self.exchange(&exchange).await.map_err(super::Failure::into_error)
    }

    /// Sets the level of log messages that `party` wants, unless it is set already. A caller that says its level with
    /// each request shares the session with others: for those it is only ever lowered.
    pub(super) async fn align_level(self: &Arc<Self>, party: &Party) {
        let Some(level) = party.log_level.filter(|_| self.about.capabilities.logging) else { return };
        {
            let mut desk = self.desk();
            let is_set = match (desk.level, &party.session) {
                (Some(current), Some(_)) => current == level,
                (Some(current), None) => current <= level,
                (None, _) => false,
            };
            if is_set {
                return;
            }
            desk.level = Some(level);
        }
        let params = Members::parse(legacy::level_params(level).get()).unwrap_or_default();
        if let Err(error) = self.command("logging/setLevel", params, ASIDE_TIMEOUT).await {
            tracing::debug!(%error, "an upstream was not told the level of its log");
        }
    }

    /// Notes who listens outside of requests, and sees to it that there is a stream to listen to.
    pub(super) fn stand(self: &Arc<Self>, standing: Option<&mpsc::Sender<Event>>) {
        let Some(standing) = standing.filter(|standing| !standing.is_closed()) else { return };
        {
            let mut desk = self.desk();
            if desk.standing.as_ref().is_some_and(|current| current.same_channel(standing)) {
                return;
            }
            desk.standing = Some(standing.clone());
        }
        self.changed.notify_waiters();
        self.keep_stream();
    }

    /// Takes a message from a stream of the whole session.
    pub(super) fn hear(self: &Arc<Self>, message: Message<'_>) {
        match message {
            Message::Request { id, method, params } => self.be_asked(id, &method, params, None),
            Message::Notification { method, params } => self.pass_on(&method, params),
            Message::Result { id, result } => self.desk().answer(&id, Outcome::Result(result.to_owned())),
            Message::Error { id: Some(id), error } => self.desk().answer(&id, Outcome::Error(error.to_owned())),
            Message::Error { id: None, .. } => tracing::debug!("an upstream sent an error that answers nothing"),
        }
    }

    /// Gives a notification that came outside of a request's own stream to whomever it concerns.
    pub(super) fn pass_on(&self, method: &str, params: Option<&RawValue>) {
        match method {
            "notifications/tools/list_changed"
            | "notifications/prompts/list_changed"
            | "notifications/resources/list_changed" => self.peer.signals.lists_changed(&self.party.principal),
            "notifications/resources/updated" => self.desk().resource_updated(params),
            "notifications/cancelled" => {
                let of = legacy::cancelled_request(params);
                if let Some(question) = of.and_then(|id| self.desk().questions.remove(&id)) {
                    question.withdrawn.cancel();
                }
            }
            _ => self.desk().pass_on(&self.peer.name, method, params),
        }
    }

    /// Notes that a request is under way. `answer` takes what answers it on a stream of the whole session.
    pub(super) fn begin(
        self: &Arc<Self>,
        exchange: &Exchange,
        answer: Option<oneshot::Sender<Result<Outcome, UpstreamError>>>,
    ) -> UnderWay {
        let over = CancellationToken::new();
        {
            let mut desk = self.desk();
            let in_flight = InFlight {
                number: desk.number(),
                events: exchange.via.events.clone(),
                deadline: exchange.deadline.clone(),
                cancelled: exchange.via.cancelled.clone(),
                over: over.clone(),
                answer,
            };
            desk.in_flight.insert(exchange.id.clone(), in_flight);
        }
        UnderWay { hold: self.hold(), id: exchange.id.clone(), is_settled: false, _over: over.drop_guard() }
    }

    /// Keeps the session from being ended for want of use.
    pub(super) fn hold(self: &Arc<Self>) -> Hold {
        self.desk().uses += 1;
        Hold { session: self.clone() }
    }

    /// Tells everyone who waits for an answer that none will come.
    pub(super) fn fail_all(&self, error: &UpstreamError) {
        let in_flight: Vec<InFlight> = self.desk().in_flight.drain().map(|(_, in_flight)| in_flight).collect();
        for answer in in_flight.into_iter().filter_map(|in_flight| in_flight.answer) {
            _ = answer.send(Err(error.clone()));
        }
    }

    /// Whether nobody has used it since `then` and nobody does now.
    pub(super) fn is_idle_since(&self, then: Instant) -> bool {
        let desk = self.desk();
        desk.uses == 0 && desk.last_used <= then && desk.standing().is_none()
    }

    pub(super) fn touch(&self) {
        self.desk().last_used = Instant::now();
    }

    pub(super) fn last_used(&self) -> Instant {
        self.desk().last_used
    }

    /// Waits until nobody uses it.
    pub(super) async fn unused(&self) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.desk().uses == 0 {
                return;
            }
            changed.await;
        }
    }

    /// Gives the session up for lost, since the upstream seems not to know it. What is under way may still finish: the
    /// upstream may have meant something else.
    pub(super) fn abandon(self: &Arc<Self>) {
        if matches!(self.carrier, Carrier::Streamable { .. }) {
            self.over.cancel();
        }
        sessions::close(self.clone());
    }

    /// Tells the upstream that the session is over: DELETE, which it may answer with 405.
    pub(super) async fn end(&self) {
        self.over.cancel();
        if self.has_id() {
            let request = self.peer.request(Method::DELETE, &self.peer.endpoint, Bytes::new());
            self.peer.send_aside(self.within(request)).await;
        }
    }
}

/// A session is in use while this lives.
pub(super) struct Hold {
    pub(super) session: Arc<Session>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        {
            let mut desk = self.session.desk();
            desk.uses -= 1;
            desk.last_used = Instant::now();
        }
        self.session.changed.notify_waiters();
    }
}

/// A request is under way while this lives. If it is dropped before the request is settled, the upstream is told that
/// nobody waits any more: in the legacy era a disconnect does not say so (2025-11-25, utilities/cancellation).
pub(super) struct UnderWay {
    hold: Hold,
    id: RequestId,
    is_settled: bool,
    _over: DropGuard,
}

impl UnderWay {
    /// There is an answer, or there never will be.
    pub(super) fn settle(&mut self) {
        self.is_settled = true;
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let session = &self.hold.session;
        session.desk().in_flight.remove(&self.id);
        if !self.is_settled && tokio::runtime::Handle::try_current().is_ok() {
            let params = raw(format!(r#"{{"requestId":{}}}"#, self.id.as_json()));
            session.say(message::notification("notifications/cancelled", Some(&params)));
        }
    }
}
