//! Spans as OTLP has them in JSON (opentelemetry-proto, `ExportTraceServiceRequest`; OTLP § JSON Protobuf encoding).

use serde_json::{Map, Value, json};

use super::context::to_hex;
use super::trace::{Span, SpanKind, Tag};

/// The version of the semantic conventions whose names are used.
const SCHEMA: &str = "https://opentelemetry.io/schemas/1.38.0";
/// `STATUS_CODE_ERROR`.
const ERROR: u8 = 2;

/// A request to a collector. `instance` tells this process from others of the same deployment.
pub(super) fn request(spans: &[Span], instance: &str) -> Vec<u8> {
    let version = env!("CARGO_PKG_VERSION");
    let resource = [
        ("service.name", Tag::from("portcullis")),
        ("service.version", Tag::from(version)),
        ("service.instance.id", Tag::from(instance.to_owned())),
    ];
    let spans: Vec<Value> = spans.iter().map(span).collect();
    let request = json!({ "resourceSpans": [{
        "resource": { "attributes": attributes(&resource) },
        "scopeSpans": [{ "scope": { "name": "portcullis", "version": version }, "spans": spans, "schemaUrl": SCHEMA }],
        "schemaUrl": SCHEMA,
    }] });
    request.to_string().into_bytes()
}

fn span(span: &Span) -> Value {
    let Span { context, parent, name, kind, begins, ends, tags, failure } = span;
    let mut written = Map::new();
    let mut say = |member: &str, value: Value| written.insert(member.to_owned(), value);
    say("traceId", json!(to_hex(&context.trace)));
    say("spanId", json!(to_hex(&context.span)));
    if let Some(parent) = parent {
        say("parentSpanId", json!(to_hex(parent)));
    }
    if let Some(state) = context.state() {
        say("traceState", json!(state));
    }
    say("name", json!(name));
    say(
        "kind",
        json!(match kind {
            SpanKind::Internal => 1,
            SpanKind::Server => 2,
            SpanKind::Client => 3,
        }),
    );
    // 64-bit numbers are texts.
    say("startTimeUnixNano", json!(begins.to_string()));
    say("endTimeUnixNano", json!(ends.to_string()));
    let mut told = attributes(tags);
    if let Some(failure) = failure {
        told.push(json!({ "key": "error.type", "value": { "stringValue": failure } }));
        say("status", json!({ "code": ERROR }));
    }
    say("attributes", json!(told));
    Value::Object(written)
}

fn attributes(tags: &[(&'static str, Tag)]) -> Vec<Value> {
    let attribute = |(key, tag): &(&'static str, Tag)| {
        let value = match tag {
            Tag::Text(text) => json!({ "stringValue": text }),
            Tag::Number(number) => json!({ "intValue": number.to_string() }),
        };
        json!({ "key": key, "value": value })
    };
    tags.iter().map(attribute).collect()
}
