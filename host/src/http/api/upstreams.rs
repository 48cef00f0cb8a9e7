//! Upstreams and their health.

use std::sync::Arc;

use axum::extract::State;
use axum::response::IntoResponse as _;
use http::StatusCode;
use serde_json::{Value, json};

use super::{Answer, Api, Path, Problem, ok};
use crate::config::UpstreamTransport;
use crate::ids::UpstreamName;
use crate::upstream::{Health, Upstream};

pub(super) async fn list(State(api): State<Arc<Api>>) -> Answer {
    let snapshot = api.control.snapshot.load();
    let upstreams: Vec<Value> = snapshot.upstreams.values().map(|upstream| view(upstream)).collect();
    Ok(ok(&json!({ "upstreams": upstreams })))
}

/// Has the upstream's tools read again soon.
pub(super) async fn refresh(State(api): State<Arc<Api>>, Path(name): Path) -> Answer {
    let snapshot = api.control.snapshot.load();
    let upstream = UpstreamName::parse(&name).ok().and_then(|name| snapshot.upstreams.get(&name));
    upstream.ok_or_else(|| Problem::not_found("upstream"))?.refresh();
    Ok(StatusCode::ACCEPTED.into_response())
}

fn view(upstream: &Upstream) -> Value {
    let settings = upstream.settings();
    let (state, tools, reason) = match &*upstream.health() {
        Health::Starting => ("starting", None, None),
        Health::Up { tools } => ("up", Some(*tools), None),
        Health::Down { reason } => ("down", None, Some(reason.clone())),
    };
    let transport = match &settings.transport {
        UpstreamTransport::StreamableHttp { url, .. } => {
            json!({ "kind": "streamable-http", "origin": crate::outbound::origin(url) })
        }
        UpstreamTransport::Stdio { command, .. } => json!({ "kind": "stdio", "program": command.first() }),
    };
    let about = upstream.known_about();
    json!({
        "name": settings.name,
        "transport": transport,
        "revision": about.as_ref().map(|about| about.revision.as_str()),
        "state": state,
        "tools": tools,
        "reason": reason,
        "trust": settings.trust,
        "labels": settings.labels,
        "managed_by": "file",
    })
}
