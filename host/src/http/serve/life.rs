//! What a connection is doing, and until when it may: a state without IO and without a clock.
//!
//! [`Life`] is told what happens and answers with the next deadline. [`Pulse`] shares one life between the
//! connection's task, its socket and its replies, and wakes the task when the deadline may have changed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::Method;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Limits;
use super::head::{HeadScan, Misframed};

/// What must happen when the deadline passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Close in the protocol's own words.
    Leave,
    /// Drop the connection, for this reason.
    Cut(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// TLS is being agreed upon.
    Handshaking,
    /// Nothing was received yet.
    Silent,
    /// A request has begun, or the HTTP/2 preface.
    Heading,
    /// Between requests.
    Resting,
    /// We closed our half and wait for the peer to close its own.
    Closing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    /// So many bytes were received, all of them as in [`PREFACE`].
    Unknown {
        matched: usize,
    },
    Http1,
    Http2,
}

/// RFC 9113 §3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[derive(Debug)]
pub(super) struct Life {
    stage: Stage,
    /// When the stage began.
    since: Instant,
    protocol: Protocol,
    in_flight: usize,
    /// Since when the socket takes no bytes although we have some.
    write_blocked: Option<Instant>,
    /// Since when we want to end.
    leaving: Option<Instant>,
    head: HeadScan,
}

impl Life {
    fn new(stage: Stage, now: Instant) -> Self {
        Self {
            stage,
            since: now,
            protocol: Protocol::Unknown { matched: 0 },
            in_flight: 0,
            write_blocked: None,
            leaving: None,
            head: HeadScan::default(),
        }
    }

    /// The moment at which this connection has waited long enough, and what to do then.
    fn due(&self, limits: &Limits) -> Option<(Instant, Due)> {
        let (since, limit, due) = match (self.write_blocked, self.stage) {
            (_, Stage::Closing) => (self.since, limits.linger, Due::Cut("the peer did not close")),
            // As a whole, so that no peer makes it last by taking its time over the bytes of either side.
            (_, Stage::Handshaking) => (self.since, limits.header, Due::Cut("the handshake did not end in time")),
            (Some(since), _) => (since, limits.write, Due::Cut("the peer takes no bytes")),
            (None, _) if self.in_flight > 0 => return None,
            (None, Stage::Silent) => (self.since, limits.first_byte, Due::Cut("nothing was received")),
            (None, Stage::Heading) => (self.since, limits.header, Due::Cut("the headers did not arrive in time")),
            (None, Stage::Resting) => match self.leaving {
                Some(since) => (since.max(self.since), limits.linger, Due::Cut("the peer did not close")),
                None => (self.since, limits.idle, Due::Leave),
            },
        };
        // A limit beyond the end of time is none.
        Some((since.checked_add(limit)?, due))
    }

    /// All that [`Self::due`] depends on.
    fn waits(&self) -> (Stage, Instant, bool, Option<Instant>, Option<Instant>) {
        (self.stage, self.since, self.in_flight > 0, self.write_blocked, self.leaving)
    }

    fn enter(&mut self, stage: Stage, now: Instant) {
        self.stage = stage;
        self.since = now;
    }

    fn received(&mut self, bytes: &[u8], now: Instant) {
        if bytes.is_empty() || self.stage == Stage::Closing {
            return;
        }
        if let Protocol::Unknown { matched } = self.protocol {
            let expected = &PREFACE[matched..];
            let common = expected.len().min(bytes.len());
            self.protocol = match (expected[..common] == bytes[..common], common == expected.len()) {
                (false, _) => Protocol::Http1,
                (true, false) => Protocol::Unknown { matched: matched + common },
                (true, true) => {
                    self.enter(Stage::Resting, now);
                    Protocol::Http2
                }
            };
        }
        // On HTTP/2 pings and the like are no sign of a request; only streams are.
        if self.protocol == Protocol::Http2 || self.in_flight > 0 {
            return;
        }
        if self.stage != Stage::Heading {
            self.enter(Stage::Heading, now);
        }
        self.head.feed(bytes);
    }

    /// A request's head is complete. On HTTP/1 it must be the one that was scanned.
    fn began(&mut self, method: &Method, now: Instant) -> Result<(), Misframed> {
        self.in_flight += 1;
        self.enter(Stage::Resting, now);
        match self.protocol {
            Protocol::Http2 => Ok(()),
            Protocol::Unknown { .. } | Protocol::Http1 => std::mem::take(&mut self.head).verdict(method),
        }
    }

    /// A request was answered to the end, or given up.
    fn ended(&mut self, now: Instant) {
        self.in_flight = self.in_flight.saturating_sub(1);
        if self.in_flight == 0 && self.stage != Stage::Closing {
            self.enter(Stage::Resting, now);
        }
    }

    fn write_blocked(&mut self, now: Instant) {
        self.write_blocked.get_or_insert(now);
    }

    fn write_progressed(&mut self, now: Instant) {
        // On HTTP/1 the reply's last bytes go out after its body has ended: rest begins when they are gone.
        if self.write_blocked.take().is_some() && self.stage == Stage::Resting && self.protocol != Protocol::Http2 {
            self.since = now;
        }
    }
}

/// One connection's [`Life`], shared.
#[derive(Debug)]
pub(super) struct Pulse {
    life: Mutex<Life>,
    changed: Notify,
}

impl Pulse {
    /// Of a new connection.
    pub(super) fn new(speaks_tls: bool) -> Arc<Self> {
        let stage = if speaks_tls { Stage::Handshaking } else { Stage::Silent };
        Arc::new(Self { life: Mutex::new(Life::new(stage, Instant::now())), changed: Notify::new() })
    }

    /// TLS was agreed upon, and nothing was received over it yet.
    pub(super) fn shook_hands(&self) {
        self.change(|life, now| life.enter(Stage::Silent, now));
    }

    pub(super) fn due(&self, limits: &Limits) -> Option<(Instant, Due)> {
        self.lock().due(limits)
    }

    /// Returns when [`Self::due`] may have changed since the last call.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    pub(super) fn rests(&self) -> bool {
        let life = self.lock();
        life.in_flight == 0 && life.stage == Stage::Resting && life.leaving.is_none()
    }

    /// Whether nothing was received yet that was meant for us.
    pub(super) fn is_new(&self) -> bool {
        matches!(self.lock().stage, Stage::Handshaking | Stage::Silent)
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.lock().leaving.is_some()
    }

    pub(super) fn leave(&self) {
        self.lock().leaving.get_or_insert(Instant::now());
    }

    /// Notes a request, in flight until the returned [`Flight`] is dropped, and tells whether its head was sound.
    pub(super) fn began(self: &Arc<Self>, method: &Method) -> (Flight, Result<(), Misframed>) {
        let verdict = self.change(|life, now| life.began(method, now));
        (Flight(Arc::clone(self)), verdict)
    }

    pub(super) fn received(&self, bytes: &[u8]) {
        self.change(|life, now| life.received(bytes, now));
    }

    /// The socket takes no bytes.
    pub(super) fn write_blocked(&self) {
        self.change(Life::write_blocked);
    }

    /// The socket took bytes.
    pub(super) fn write_progressed(&self) {
        self.change(Life::write_progressed);
    }

    pub(super) fn closing(&self) {
        self.change(|life, now| life.enter(Stage::Closing, now));
    }

    fn change<T>(&self, change: impl FnOnce(&mut Life, Instant) -> T) -> T {
        let mut life = self.lock();
        let before = life.waits();
        let outcome = change(&mut life, Instant::now());
        // Only for news: the connection's task, woken, polls the connection again, which may tell the same again.
        if life.waits() != before {
            self.changed.notify_one();
        }
        outcome
    }

    fn lock(&self) -> MutexGuard<'_, Life> {
        // Nothing panics while holding it; and were it so, a deadline computed too early closes a connection.
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request in flight, from its head to the end of its reply.
#[derive(Debug)]
pub(super) struct Flight(Arc<Pulse>);

impl Drop for Flight {
    fn drop(&mut self) {
        self.0.change(Life::ended);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const LIMITS: Limits = Limits {
        first_byte: Duration::from_secs(1),
        header: Duration::from_secs(2),
        idle: Duration::from_secs(60),
        write: Duration::from_secs(30),
        linger: Duration::from_secs(3),
        drain: Duration::from_secs(5),
        max_connections: 1,
        max_http2_streams: 1,
    };

    enum Event {
        Receive(&'static [u8]),
        Begin,
        End,
        Block,
        Progress,
        Leave,
        Close,
        Shake,
        Shaken,
    }
    use Event::{Begin, Block, Close, End, Leave, Progress, Receive, Shake, Shaken};

    /// Seconds from the start to the deadline, after these events at these seconds.
    fn due_after(events: &[(u64, Event)]) -> Option<(u64, Due)> {
        let start = Instant::now();
        let mut life = Life::new(Stage::Silent, start);
        for (second, event) in events {
            let now = start + Duration::from_secs(*second);
            match event {
                Receive(bytes) => life.received(bytes, now),
                Begin => drop(life.began(&Method::GET, now)),
                End => life.ended(now),
                Block => life.write_blocked(now),
                Progress => life.write_progressed(now),
                Leave => life.leaving = Some(now),
                Close => life.enter(Stage::Closing, now),
                Shake => life.enter(Stage::Handshaking, now),
                Shaken => life.enter(Stage::Silent, now),
            }
        }
        life.due(&LIMITS).map(|(at, due)| (at.duration_since(start).as_secs(), due))
    }

    #[test]
    fn a_connection_without_a_request_in_flight_always_has_a_deadline() {
        const GET: &[u8] = b"GET / HTTP/1.1\r\n\r\n";
        let cut = |reason| Due::Cut(reason);
        type Row = (&'static str, Vec<(u64, Event)>, Option<(u64, Due)>);
        let rows: Vec<Row> = vec![
            ("silent", vec![], Some((1, cut("nothing was received")))),
            (
                "a handshake, whoever is slow in it",
                vec![(0, Shake), (1, Block)],
                Some((2, cut("the handshake did not end in time"))),
            ),
            ("silent after a handshake", vec![(0, Shake), (1, Shaken)], Some((2, cut("nothing was received")))),
            (
                "dripping headers do not extend their deadline",
                vec![(1, Receive(b"G")), (2, Receive(b"E"))],
                Some((3, cut("the headers did not arrive in time"))),
            ),
            ("in flight", vec![(1, Receive(GET)), (1, Begin)], None),
            ("answered", vec![(1, Receive(GET)), (1, Begin), (9, End)], Some((69, Due::Leave))),
            (
                "a second request that drips",
                vec![(1, Receive(GET)), (1, Begin), (9, End), (20, Receive(b"G")), (21, Receive(b"E"))],
                Some((22, cut("the headers did not arrive in time"))),
            ),
            (
                "a blocked write counts while a request is in flight",
                vec![(1, Receive(GET)), (1, Begin), (4, Block), (6, Block)],
                Some((34, cut("the peer takes no bytes"))),
            ),
            ("a write that goes on", vec![(1, Receive(GET)), (1, Begin), (4, Block), (6, Progress)], None),
            (
                "rest begins when the last bytes are gone",
                vec![(1, Receive(GET)), (1, Begin), (4, Block), (5, End), (20, Progress)],
                Some((80, Due::Leave)),
            ),
            (
                "leaving while at rest",
                vec![(1, Receive(GET)), (1, Begin), (2, End), (7, Leave)],
                Some((10, cut("the peer did not close"))),
            ),
            ("leaving with a request in flight", vec![(1, Receive(GET)), (1, Begin), (7, Leave)], None),
            ("closing", vec![(1, Receive(GET)), (1, Begin), (2, Close)], Some((5, cut("the peer did not close")))),
            (
                "half a preface is a head that drips",
                vec![(1, Receive(&PREFACE[..20]))],
                Some((3, cut("the headers did not arrive in time"))),
            ),
            (
                "an HTTP/2 connection without streams rests",
                vec![(0, Receive(&PREFACE[..20])), (1, Receive(&PREFACE[20..])), (9, Receive(b"ping"))],
                Some((61, Due::Leave)),
            ),
            ("an HTTP/2 stream", vec![(1, Receive(PREFACE)), (2, Begin), (3, Begin), (4, End)], None),
            (
                "an HTTP/2 connection after its last stream",
                vec![(1, Receive(PREFACE)), (2, Begin), (3, Begin), (4, End), (5, End), (6, Receive(b"ping"))],
                Some((65, Due::Leave)),
            ),
        ];
        for (name, events, expected) in rows {
            assert_eq!(due_after(&events), expected, "{name}");
        }
    }
}
