//! The gateway at a glance.

use std::sync::Arc;

use axum::extract::State;
use serde_json::json;

use super::{Answer, Api, ok};
use crate::env::Timestamp;

pub(super) async fn show(State(api): State<Arc<Api>>) -> Answer {
    let snapshot = api.control.snapshot.load();
    let expiry = |(listener, at): (&str, Option<Timestamp>)| {
        (listener.to_owned(), json!({ "not_after": at.map(|at| at.to_string()) }))
    };
    let tls: serde_json::Map<_, _> = api.control.certificates.expiries().map(expiry).collect();
    Ok(ok(&json!({
        "version": env!("CARGO_PKG_VERSION"),
        "started": api.control.started.to_string(),
        "ready": api.control.is_ready(),
        "public_url": api.control.config.load().public_url.as_str(),
        // Of each listener that speaks TLS, until when its certificate counts.
        "tls": tls,
        "tools": snapshot.catalog.len(),
        "upstreams": snapshot.upstreams.len(),
        "policy_generation": snapshot.policies.generation(),
        "decisions_dropped": api.services.decisions.dropped(),
        "replica": api.replicas.view(),
        "recordings_dropped": api.services.recordings.dropped(),
        "store": {
            "deployment": api.control.store.deployment().to_string(),
            "replica": api.control.store.replica().as_str(),
            "shared": api.control.store.is_shared(),
            "stale": api.control.is_stale(),
            // What is added to this machine's clock.
            "clock_offset_ms": api.upkeep.clock.millis(),
            // The number of its lease, on the one gateway that sweeps.
            "sweeping": api.upkeep.sweeper.fence(),
            "swept": api.upkeep.sweeper.removed(),
        },
    })))
}
