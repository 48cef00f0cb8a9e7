//! A request's part of a trace: the span that it is here, and those under it.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::context::TraceContext;
use super::tracer::Sink;
use crate::env::Timestamp;

/// Which side of a conversation a span is of (OpenTelemetry, trace API § SpanKind).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpanKind {
    Internal,
    Server,
    Client,
}

/// Something that is said of a span.
#[derive(Clone, Debug, PartialEq)]
pub enum Tag {
    Text(Cow<'static, str>),
    Number(i64),
}

impl From<&'static str> for Tag {
    fn from(text: &'static str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }
}

impl From<String> for Tag {
    fn from(text: String) -> Self {
        Self::Text(Cow::Owned(text))
    }
}

/// A span that has ended.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Span {
    pub(super) context: TraceContext,
    pub(super) parent: Option<[u8; 8]>,
    pub(super) name: String,
    pub(super) kind: SpanKind,
    /// Nanoseconds since the epoch.
    pub(super) begins: u64,
    pub(super) ends: u64,
    pub(super) tags: Vec<(&'static str, Tag)>,
    /// A word for what went wrong.
    pub(super) failure: Option<Cow<'static, str>>,
}

/// Where a request stands in a trace. Without a [`Sink`] it only says so, in the words of whoever asked. Cheap to clone.
#[derive(Clone)]
pub struct Trace(Arc<Place>);

struct Place {
    context: TraceContext,
    /// The trace's id in hex.
    id: String,
    parent: Option<[u8; 8]>,
    clock: Clock,
    sink: Option<Sink>,
}

/// Tells the time of day as exactly as durations are measured.
#[derive(Clone, Copy)]
struct Clock {
    epoch_nanos: u64,
    at: Instant,
}

impl Clock {
    fn nanos(&self, moment: Instant) -> u64 {
        let since = moment.saturating_duration_since(self.at);
        let before = self.at.saturating_duration_since(moment);
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.epoch_nanos.saturating_add(nanos(since)).saturating_sub(nanos(before))
    }
}

impl Trace {
    /// A span that is `context`, under that of `parent`. It is `now`, and `at` by the other clock.
    pub(super) fn new(
        context: TraceContext,
        parent: Option<[u8; 8]>,
        (now, at): (Timestamp, Instant),
        sink: Option<Sink>,
    ) -> Self {
        let clock = Clock { epoch_nanos: now.as_millis().saturating_mul(1_000_000), at };
        Self(Arc::new(Place { id: context.trace_id(), context, parent, clock, sink }))
    }

    /// The trace's id, in hex.
    pub fn id(&self) -> &str {
        &self.0.id
    }

    /// What the next program is told.
    pub fn context(&self) -> &TraceContext {
        &self.0.context
    }

    /// Whether what happens is sent to a collector.
    pub fn is_recorded(&self) -> bool {
        self.0.sink.is_some()
    }

    /// A span under this one, for something that begins now. Where nothing is recorded it is this one.
    #[must_use]
    pub fn child(&self) -> Self {
        let Some(sink) = &self.0.sink else { return self.clone() };
        let context = TraceContext { span: sink.fresh(), ..self.0.context.clone() };
        let (id, clock) = (self.0.id.clone(), self.0.clock);
        Self(Arc::new(Place { context, id, parent: Some(self.0.context.span), clock, sink: Some(sink.clone()) }))
    }

    /// Ends this span, which began at `begun`.
    pub fn end(
        &self,
        name: impl Into<String>,
        kind: SpanKind,
        begun: Instant,
        tags: Vec<(&'static str, Tag)>,
        failure: Option<Cow<'static, str>>,
    ) {
        let Some(sink) = &self.0.sink else { return };
        let clock = &self.0.clock;
        sink.take(Span {
            context: self.0.context.clone(),
            parent: self.0.parent,
            name: name.into(),
            kind,
            begins: clock.nanos(begun),
            ends: clock.nanos(Instant::now()),
            tags,
            failure,
        });
    }

    /// Notes something under this span that has just ended, and took this long.
    pub fn note(
        &self,
        name: impl Into<String>,
        took: Duration,
        tags: Vec<(&'static str, Tag)>,
        failure: Option<Cow<'static, str>>,
    ) {
        if self.is_recorded() {
            let now = Instant::now();
            let begun = now.checked_sub(took).unwrap_or(now);
            self.child().end(name, SpanKind::Internal, begun, tags, failure);
        }
    }
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Trace").field(&self.0.context).finish()
    }
}
