//! What is under way in a session, and who hears what is said in it outside of a request's own stream.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::value::RawValue;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::watch::Listener;
use crate::ids::{ConnectionId, UpstreamName};
use crate::mcp::call::Outcome;
use crate::mcp::json::Members;
use crate::mcp::message::RequestId;
use crate::mcp::talk::{Event, LogLevel};
use crate::upstream::deadline::Deadline;
use crate::upstream::{UpstreamError, read_notice};

/// How long a stream on which a caller's client may be asked something is kept after the last request.
const LINGER: Duration = Duration::from_secs(30);

/// What is under way in a session.
pub(super) struct Desk {
    pub(super) in_flight: HashMap<RequestId, InFlight>,
    /// Numbers for what is told apart by age.
    next: u64,
    /// Questions of the upstream that wait for a reply, by their ids.
    pub(super) questions: HashMap<RequestId, OpenQuestion>,
    /// The way to whoever listens outside of requests.
    pub(super) standing: Option<mpsc::Sender<Event>>,
    /// The gateway itself wants to hear of changed lists.
    pub(super) hears: bool,
    /// Whether the caller's client can be asked anything.
    is_interactive: bool,
    pub(super) stream: Stream,
    /// What was shown when the upstream refused the stream to a session that had one.
    pub(super) refused: Option<(ConnectionId, u64)>,
    pub(super) listeners: Vec<Listener>,
    /// The level that was last set.
    pub(super) level: Option<LogLevel>,
    /// Whoever needs the session to go on.
    pub(super) uses: usize,
    pub(super) last_used: Instant,
}

/// A request of ours that has no answer yet.
pub(super) struct InFlight {
    pub(super) number: u64,
    pub(super) events: mpsc::Sender<Event>,
    pub(super) deadline: Deadline,
    /// Fires when its caller takes it back.
    pub(super) cancelled: CancellationToken,
    /// Fires when it is no longer under way.
    pub(super) over: CancellationToken,
    /// Takes the answer where answers come on a stream of the whole session.
    pub(super) answer: Option<oneshot::Sender<Result<Outcome, UpstreamError>>>,
}

/// The GET stream of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    /// Nobody keeps one.
    None,
    /// The first attempt is under way.
    Opening,
    /// A task sees to it that there is one.
    Kept,
    /// The upstream gives this session none.
    Refused,
}

/// How long something stays true.
#[derive(Clone, Copy, Debug)]
pub(super) enum Until {
    /// Until something on the desk changes.
    Changed,
    /// At least until then, if nothing changes.
    Then(Instant),
}

/// A question of the upstream that waits for a reply.
pub(super) struct OpenQuestion {
    /// The request it belongs to, if to any.
    pub(super) of: Option<RequestId>,
    pub(super) withdrawn: CancellationToken,
}

/// Who is to be asked what an upstream asks, and until when it makes sense.
pub(super) struct Audience {
    pub(super) of: Option<RequestId>,
    pub(super) events: mpsc::Sender<Event>,
    /// Absent outside of requests.
    pub(super) deadline: Option<Deadline>,
    /// Fires when the caller takes the request back: then there is no answer, not even that nobody answers.
    pub(super) cancelled: CancellationToken,
    pub(super) over: CancellationToken,
}

impl Desk {
    pub(super) fn new(is_interactive: bool) -> Self {
        Self {
            in_flight: HashMap::new(),
            next: 0,
            questions: HashMap::new(),
            standing: None,
            hears: false,
            is_interactive,
            stream: Stream::None,
            refused: None,
            listeners: Vec::new(),
            level: None,
            uses: 0,
            last_used: Instant::now(),
        }
    }

    pub(super) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Whoever listens outside of requests.
    pub(super) fn standing(&self) -> Option<&mpsc::Sender<Event>> {
        self.standing.as_ref().filter(|standing| !standing.is_closed())
    }

    /// Until when a stream outside of requests is of use; `None` if it is of none.
    pub(super) fn wants_stream(&self) -> Option<Until> {
        if self.hears || !self.listeners.is_empty() || self.standing().is_some() {
            return Some(Until::Changed);
        }
        // Many servers put what they ask during a request on this stream, even though it has a stream of its own.
        match self.uses {
            _ if !self.is_interactive => None,
            0 => Some(self.last_used + LINGER).filter(|then| *then > Instant::now()).map(Until::Then),
            _ => Some(Until::Changed),
        }
    }

    pub(super) fn answer(&mut self, id: &RequestId, outcome: Outcome) {
        match self.in_flight.get_mut(id).and_then(|in_flight| in_flight.answer.take()) {
            // Whoever gave up in this very moment does not mind.
            Some(answer) => _ = answer.send(Ok(outcome)),
            None => tracing::debug!("an upstream answered what was not asked, or is no longer"),
        }
    }

    /// Who is asked a question that belongs to request `of`, or, if it came on a stream of the whole session, to nobody in
    /// particular: then it is the one request under way, or whoever listens, or the newest request.
    pub(super) fn audience(&self, of: Option<&RequestId>) -> Option<Audience> {
        if let Some(of) = of {
            return self.in_flight.get_key_value(of).map(|(id, in_flight)| in_flight.audience(id));
        }
        let newest = self.heard().max_by_key(|(_, in_flight)| in_flight.number);
        let newest = newest.map(|(id, in_flight)| in_flight.audience(id));
        match self.standing() {
            Some(standing) if self.heard().count() != 1 => {
                let never = CancellationToken::new();
                let events = standing.clone();
                Some(Audience { of: None, events, deadline: None, cancelled: never.clone(), over: never })
            }
            _ => newest,
        }
    }

    /// The requests under way whose callers hear what is said meanwhile.
    fn heard(&self) -> impl Iterator<Item = (&RequestId, &InFlight)> {
        self.in_flight.iter().filter(|(_, in_flight)| !in_flight.events.is_closed())
    }

    /// Gives a notice to the request that it belongs to, or else to whoever listens. One that belongs to nobody is dropped,
    /// and so is one whose taker is too slow: others wait behind it on the same stream.
    pub(super) fn pass_on(&self, upstream: &UpstreamName, method: &str, params: Option<&RawValue>) {
        let mut in_flight = self.heard();
        let told = match method {
            "notifications/progress" => in_flight.find_map(|(id, request)| {
                read_notice(upstream, method, params, id).map(|notice| request.events.try_send(Event::Notice(notice)))
            }),
            _ => {
                let sole = in_flight.next().filter(|_| in_flight.next().is_none()).map(|(_, request)| &request.events);
                let taker = sole.or_else(|| self.standing());
                let nobody = RequestId::number(0);
                taker.and_then(|taker| {
                    read_notice(upstream, method, params, &nobody).map(|notice| taker.try_send(Event::Notice(notice)))
                })
            }
        };
        if !matches!(told, Some(Ok(()))) {
            tracing::debug!("a notification of an upstream was dropped");
        }
    }

    pub(super) fn resource_updated(&self, params: Option<&RawValue>) {
        let Some(params) = params.and_then(|params| Members::parse(params.get()).ok()) else { return };
        for listener in &self.listeners {
            listener.tell(&params);
        }
    }
}

impl InFlight {
    fn audience(&self, id: &RequestId) -> Audience {
        Audience {
            of: Some(id.clone()),
            events: self.events.clone(),
            deadline: Some(self.deadline.clone()),
            cancelled: self.cancelled.clone(),
            over: self.over.clone(),
        }
    }
}
