//! What an upstream is asked and how it fares, for operators; and where that stands in a trace.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::time::Instant;

use super::{Upstream, UpstreamError};
use crate::config::UpstreamTransport;
use crate::mcp::call::{Outcome, Params};
use crate::mcp::json::{quote, raw};
use crate::mcp::talk::Via;
use crate::telemetry::{Grid, OTHER, Reading, SpanKind, TRACEPARENT, TRACESTATE, Tag, Timings, Trace};

/// What upstreams are asked most.
const METHODS: &[&str] = &[
    "tools/call",
    "prompts/get",
    "resources/read",
    "completion/complete",
    "tasks/get",
    "tools/list",
    "prompts/list",
    "resources/list",
    "resources/templates/list",
    OTHER,
];
/// How it ends. An `error` is one that the upstream itself answered.
const OUTCOMES: &[&str] = &["result", "error", "input", "failed"];
/// See [`UpstreamError::code`].
const FAILURES: &[&str] = &[
    "unreachable",
    "died",
    "timed-out",
    "status",
    "too-large",
    "protocol",
    "unsupported",
    "no-resource",
    "busy",
    "cancelled",
    "rejected",
    "withheld",
    OTHER,
];
/// Key in `_meta` of what is for nobody else (SEP-414): it may hold anything that somebody upstream of us thought of.
const BAGGAGE: &str = "baggage";

/// What an upstream was asked.
#[derive(Debug)]
pub struct Traffic {
    took: Timings<2>,
    failures: Grid<1>,
    in_flight: AtomicU64,
}

impl Traffic {
    pub(super) fn new() -> Self {
        let (took, failures) = (Timings::new([METHODS, OUTCOMES]), Grid::new([FAILURES]));
        Self { took, failures, in_flight: AtomicU64::new(0) }
    }

    /// How long answers took, by method and outcome.
    pub fn took(&self) -> Vec<([&'static str; 2], Reading)> {
        self.took.read()
    }

    /// Requests without an answer, by what went wrong.
    pub fn failures(&self) -> Vec<([&'static str; 1], u64)> {
        self.failures.read()
    }

    /// Requests that wait for their answers now.
    pub fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Begins to count a request, and writes into it where it stands in a trace, if it is in one. What its caller says of that
    /// goes no further as it came.
    pub(super) fn begin(&self, method: &'static str, params: &mut Params, via: &mut Via) -> Asking<'_> {
        for own in [TRACEPARENT, TRACESTATE, BAGGAGE] {
            params.meta.remove(own);
        }
        let trace = via.party.trace.take().map(|trace| trace.child());
        if let Some(trace) = &trace {
            let context = trace.context();
            params.meta.set(TRACEPARENT, raw(quote(&context.parent())));
            if let Some(state) = context.state() {
                params.meta.set(TRACESTATE, raw(quote(state)));
            }
        }
        via.party.trace.clone_from(&trace);
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        Asking { traffic: self, method, trace, begun: Instant::now(), has_ended: false }
    }
}

/// A request under way. Dropped before its end it counts as cancelled.
pub(super) struct Asking<'a> {
    traffic: &'a Traffic,
    method: &'static str,
    trace: Option<Trace>,
    begun: Instant,
    has_ended: bool,
}

impl Asking<'_> {
    /// It ended like this.
    pub(super) fn end(mut self, upstream: &Upstream, outcome: Result<&Outcome, &UpstreamError>) {
        self.has_ended = true;
        let word = match outcome {
            Ok(Outcome::Result(_)) => "result",
            Ok(Outcome::Error(_)) => "error",
            Ok(Outcome::NeedsInput(_)) => "input",
            Err(_) => "failed",
        };
        self.traffic.took.took([self.method, word], self.begun.elapsed());
        if let Err(error) = outcome {
            self.traffic.failures.count([error.code()]);
        }
        let Some(trace) = self.trace.as_ref().filter(|trace| trace.is_recorded()) else { return };
        let transport = match upstream.settings.transport {
            UpstreamTransport::StreamableHttp { .. } => "tcp",
            UpstreamTransport::Stdio { .. } => "pipe",
        };
        let mut tags: Vec<(&'static str, Tag)> = vec![
            ("mcp.method.name", self.method.into()),
            ("network.transport", transport.into()),
            ("portcullis.upstream", upstream.name().to_string().into()),
        ];
        if let Some(about) = upstream.known_about() {
            tags.push(("mcp.protocol.version", about.revision.clone().into()));
        }
        let failure = match outcome {
            Ok(Outcome::Error(_)) => Some("error"),
            Ok(Outcome::Result(_) | Outcome::NeedsInput(_)) => None,
            Err(error) => Some(error.code()),
        };
        trace.end(self.method, SpanKind::Client, self.begun, tags, failure.map(Into::into));
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.traffic.in_flight.fetch_sub(1, Ordering::Relaxed);
        if !self.has_ended {
            self.traffic.failures.count(["cancelled"]);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::env::Env;
    use crate::mcp::json::Members;
    use crate::mcp::talk::Party;
    use crate::telemetry::{TraceContext, Tracer};

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    /// What `_meta` becomes of a request whose caller is in this trace.
    fn sent(meta: &str, parent: Option<&str>, state: Option<&str>) -> String {
        let caller = parent.and_then(|parent| TraceContext::parse(parent, state));
        let trace = Tracer::off(Env::system()).begin(caller);
        let (events, _) = mpsc::channel(1);
        let party = Party { trace, ..Party::gateway() };
        let mut via = Via { party, events, cancelled: CancellationToken::new() };
        let mut params = Params { meta: Members::parse(meta).unwrap(), ..Params::default() };
        let traffic = Traffic::new();
        drop(traffic.begin("tools/call", &mut params, &mut via));
        assert_eq!((traffic.in_flight(), traffic.failures()), (0, vec![(["cancelled"], 1)]));
        params.meta.to_raw().get().to_owned()
    }

    #[test]
    fn an_upstream_hears_of_a_trace_what_was_checked_and_never_of_baggage() {
        let others = r#"{"a":1.0,"traceparent":"nonsense","tracestate":7,"baggage":"user=ann"}"#;
        assert_eq!(sent(others, None, None), r#"{"a":1.0}"#);
        let expected = format!(r#"{{"a":1.0,"traceparent":"{PARENT}","tracestate":"b=2"}}"#);
        assert_eq!(sent(others, Some(PARENT), Some("b=2")), expected);
        assert_eq!(sent("{}", None, None), "{}");
    }
}
