//! The gateway at a glance.

use std::sync::Arc;

use axum::extract::State;
use rustix::process::{Resource, getrlimit};
use serde_json::{Value, json};

use super::{Answer, Api, ok};
use crate::admin::Control;
use crate::config::Config;

pub(super) async fn show(State(api): State<Arc<Api>>) -> Answer {
    let snapshot = api.control.snapshot.load();
    Ok(ok(&json!({
        "version": env!("CARGO_PKG_VERSION"),
        "started": api.control.started.to_string(),
        "ready": api.control.is_ready(),
        "not_ready": why_not_ready(&api.control),
        "listeners": listeners(&api.control.config.load()),
        // Digest of the file as it is in force, apart from what each replica has for itself.
        "configuration": api.control.config.load().fingerprint.to_hex(),
        "process": { "open_files": getrlimit(Resource::Nofile).current },
        "public_url": api.control.config.load().public_url.as_str(),
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

/// What has to come first, where requests cannot be served.
fn why_not_ready(control: &Control) -> Option<&'static str> {
    if control.is_ready() {
        None
    } else if control.is_stale() {
        Some("out of date: the store cannot be followed")
    } else if control.has_tried_upstreams() {
        Some("the store cannot be reached")
    } else {
        Some("starting: not every upstream has been tried yet")
    }
}

/// Where the configuration has this gateway listen, and for whom.
fn listeners(config: &Config) -> Value {
    let tcp = [
        ("callers", Some(config.listen.public)),
        ("operators", config.listen.admin),
        ("replicas", config.replica.listen),
    ];
    let tcp =
        tcp.into_iter().filter_map(|(whom, address)| Some(json!({ "for": whom, "address": address?.to_string() })));
    let socket = json!({ "for": "operators", "address": config.listen.admin_socket.display().to_string() });
    tcp.chain([socket]).collect()
}
