//! What the edge knows of a request besides what it asks, and where the request stands in a trace.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;
use tokio::time::Instant;

use super::{Origin, Refusal, Services};
use crate::ids::UpstreamName;
use crate::mcp::json::Members;
use crate::mcp::revision::Request;
use crate::mcp::talk::Party;
use crate::telemetry::{MAX_STATE_BYTES, SpanKind, TRACEPARENT, TRACESTATE, Tag, TraceContext};

/// Longest JSON string that is read for a place in a trace: each byte of the longest text as an escape, between quotes.
const MAX_SAID_BYTES: usize = 6 * MAX_STATE_BYTES + 2;

/// What the edge knows of a request.
#[derive(Clone, Debug, Default)]
pub struct Mark {
    /// The name that it has in logs, here and where it came through.
    pub request: Option<Arc<str>>,
    /// When its headers were there.
    pub received: Option<Instant>,
    /// What it took to find out who calls.
    pub identity: Duration,
    /// Size of its body. That of a batch is the same for all of its messages.
    pub bytes: usize,
    /// What its headers say of a trace.
    pub trace: Option<TraceContext>,
}

/// A request with its place in a trace.
pub(super) struct Traced {
    pub(super) origin: Origin,
    method: &'static str,
    tool: Option<String>,
    begun: Instant,
}

impl Traced {
    /// The place of a request that is in a trace. What the message says counts before what the headers say: those may be a
    /// proxy's.
    pub(super) fn of(services: &Services, origin: &Origin, request: &Request) -> Option<Box<Self>> {
        let said = request.params().and_then(|params| said(&params.meta));
        let trace = services.tracer.begin(said.or_else(|| origin.mark.trace.clone()))?;
        let party = Party { trace: Some(trace), ..origin.party.clone() };
        let tool = matches!(request, Request::CallTool { .. }).then(|| request.name().unwrap_or_default().to_owned());
        Some(Box::new(Self {
            origin: Origin { party, ..origin.clone() },
            method: request.method(),
            tool,
            begun: origin.mark.received.unwrap_or_else(Instant::now),
        }))
    }

    /// It ended so. `known`: whether the caller's tool is one that there is; other names are the caller's own words.
    pub(super) fn end<T>(self, answered: &Result<T, Refusal>) {
        let Self { origin, method, tool, begun } = self;
        let Some(trace) = origin.party.trace.as_ref().filter(|trace| trace.is_recorded()) else { return };
        let tool = tool.filter(|_| !matches!(answered, Err(Refusal::UnknownTool { .. })));
        let name = tool.as_ref().map_or_else(|| method.to_owned(), |tool| format!("{method} {tool}"));
        let mut tags: Vec<(&'static str, Tag)> = vec![
            ("mcp.method.name", method.into()),
            ("mcp.protocol.version", origin.revision.as_str().into()),
            ("network.transport", "tcp".into()),
        ];
        tags.extend(tool.map(|tool| ("gen_ai.tool.name", tool.into())));
        tags.extend(origin.mark.request.as_ref().map(|name| ("portcullis.request_id", name.to_string().into())));
        let failure = answered.as_ref().err().map(|refusal| Cow::Borrowed(word(refusal)));
        trace.end(name, SpanKind::Server, begun, tags, failure);
    }
}

/// What a message says of a trace in its `_meta` (SEP-414).
fn said(meta: &Members) -> Option<TraceContext> {
    let text = |value: &RawValue| match value.get() {
        // Before anything is made of it: what a caller says is of any size.
        long if long.len() > MAX_SAID_BYTES => None,
        said => serde_json::from_str::<String>(said).ok(),
    };
    let parent = text(meta.get(TRACEPARENT)?)?;
    TraceContext::parse(&parent, meta.get(TRACESTATE).and_then(text).as_deref())
}

/// The word for why a request has no answer.
pub(super) const fn word(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::UnknownTool { .. }
        | Refusal::UnknownPrompt { .. }
        | Refusal::UnknownResource { .. }
        | Refusal::UnknownTask
        | Refusal::UnknownMethod => "unknown",
        Refusal::BadCursor | Refusal::BadState | Refusal::HeaderMismatch(_) => "invalid",
        Refusal::Unanswered { .. } => "unanswered",
        Refusal::Policy(_) | Refusal::PolicyOnItem(_) => "policy",
        Refusal::Unapproved(_) => "unapproved",
        Refusal::Unconnected(_) => "unconnected",
        Refusal::Store(_) => "store",
        Refusal::Upstream { .. } => "upstream",
    }
}

/// Notes under the request's span what has just ended.
pub(super) fn note(
    origin: &Origin,
    name: &'static str,
    took: Duration,
    upstream: Option<&UpstreamName>,
    failure: Option<&'static str>,
) {
    if let Some(trace) = origin.party.trace.as_ref().filter(|trace| trace.is_recorded()) {
        let tags = upstream.map(|upstream| ("portcullis.upstream", upstream.to_string().into()));
        trace.note(name, took, tags.into_iter().collect(), failure.map(Cow::Borrowed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_message_says_where_it_stands_in_a_trace() {
        let said = |meta: &str| said(&Members::parse(meta).unwrap());
        let context = said(&format!(r#"{{"traceparent":"{PARENT}","tracestate":"a=1"}}"#)).unwrap();
        assert_eq!((context.parent().as_str(), context.state()), (PARENT, Some("a=1")));
        for wrong in ["{}", r#"{"traceparent":7}"#, r#"{"traceparent":"00-"}"#, r#"{"tracestate":"a=1"}"#] {
            assert_eq!(said(wrong), None, "{wrong}");
        }
        let long = "x".repeat(MAX_SAID_BYTES);
        assert_eq!(said(&format!(r#"{{"traceparent":"{long}"}}"#)), None);
        let context = said(&format!(r#"{{"traceparent":"{PARENT}","tracestate":"a=1,{long}"}}"#)).unwrap();
        assert_eq!((context.parent().as_str(), context.state()), (PARENT, None));
    }
}
