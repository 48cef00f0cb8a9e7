//! The gateway at a glance.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use rustix::process::{Resource, getrlimit};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::openapi::{Described, get};
use super::{Answer, Api, ok};
use crate::admin::Control;
use crate::config::Config;
use crate::env::Timestamp;

/// The gateway at a glance.
#[derive(Serialize, ToSchema)]
struct Status {
    version: &'static str,
    #[schema(format = DateTime)]
    started: String,
    ready: bool,
    /// What has to come first, where requests cannot be served.
    not_ready: Option<&'static str>,
    listeners: Vec<ListenerView>,
    /// Digest of the file as it is in force, apart from what each replica has for itself.
    configuration: String,
    process: ProcessView,
    public_url: String,
    /// Of each listener that speaks TLS.
    tls: BTreeMap<&'static str, CertificateView>,
    tools: usize,
    upstreams: usize,
    policy_generation: u64,
    /// Decisions that were not written down: there was no room in the queue.
    decisions_dropped: u64,
    recordings_dropped: u64,
    #[schema(value_type = ReplicaView)]
    replica: Value,
    store: StoreView,
}

/// Where the gateway listens.
#[derive(Serialize, ToSchema)]
#[schema(as = Listener)]
struct ListenerView {
    /// `callers`, `operators` or `replicas`.
    #[serde(rename = "for")]
    whom: &'static str,
    /// Host and port, or the path of a socket.
    address: String,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Process)]
struct ProcessView {
    /// How many files it may have open; null where there is no limit.
    open_files: Option<u64>,
}

/// What a listener shows over TLS.
#[derive(Serialize, ToSchema)]
#[schema(as = Certificate)]
struct CertificateView {
    /// Until when it counts, if it says so.
    #[schema(format = DateTime)]
    not_after: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = StoreStatus)]
struct StoreView {
    deployment: String,
    replica: String,
    /// Whether several gateways may use it.
    shared: bool,
    /// Whether it is not known any more what others have changed.
    stale: bool,
    /// What is added to this machine's clock.
    clock_offset_ms: i64,
    /// The number of its lease, on the one gateway that sweeps.
    sweeping: Option<u64>,
    swept: u64,
}

/// This gateway as others see it.
#[derive(ToSchema)]
#[schema(as = Replica)]
#[expect(dead_code, reason = "its shape is told here; `http::replica` writes it")]
struct ReplicaView {
    id: String,
    address: Option<String>,
    /// A digest of what its file says, apart from what each has for itself.
    configuration: String,
    others: Vec<OtherReplica>,
}

/// Another gateway on the same store.
#[derive(ToSchema)]
#[expect(dead_code, reason = "its shape is told here; `http::replica` writes it")]
struct OtherReplica {
    id: String,
    address: Option<String>,
    #[schema(format = DateTime)]
    started: String,
    #[schema(format = DateTime)]
    seen: String,
    version: String,
    configuration: String,
    same_configuration: bool,
}

/// What the document of the API says of it.
pub(super) fn operations() -> Vec<Described> {
    vec![get("/api/v1/status", "showStatus", "The gateway at a glance").shows::<Status>()]
}

pub(super) async fn show(State(api): State<Arc<Api>>) -> Answer {
    let snapshot = api.control.snapshot.load();
    let shown = |at: Option<Timestamp>| CertificateView { not_after: at.map(|at| at.to_string()) };
    let config = api.control.config.load();
    let status = Status {
        version: env!("CARGO_PKG_VERSION"),
        started: api.control.started.to_string(),
        ready: api.control.is_ready(),
        not_ready: why_not_ready(&api.control),
        listeners: listeners(&config),
        configuration: config.fingerprint.to_hex(),
        process: ProcessView { open_files: getrlimit(Resource::Nofile).current },
        public_url: config.public_url.as_str().to_owned(),
        tls: api.control.certificates.expiries().map(|(listener, at)| (listener, shown(at))).collect(),
        tools: snapshot.catalog.len(),
        upstreams: snapshot.upstreams.len(),
        policy_generation: snapshot.policies.generation(),
        decisions_dropped: api.services.decisions.dropped(),
        recordings_dropped: api.services.recordings.dropped(),
        replica: api.replicas.view(),
        store: StoreView {
            deployment: api.control.store.deployment().to_string(),
            replica: api.control.store.replica().as_str().to_owned(),
            shared: api.control.store.is_shared(),
            stale: api.control.is_stale(),
            clock_offset_ms: api.upkeep.clock.millis(),
            sweeping: api.upkeep.sweeper.fence(),
            swept: api.upkeep.sweeper.removed(),
        },
    };
    Ok(ok(&json!(status)))
}

/// What has to come first, where requests cannot be served.
fn why_not_ready(control: &Control) -> Option<&'static str> {
    if control.is_ready() {
        None
    } else if control.is_leaving() {
        Some("stopping")
    } else if control.is_stale() {
        Some("out of date: the store cannot be followed")
    } else if control.has_tried_upstreams() {
        Some("the store cannot be reached")
    } else {
        Some("starting: not every upstream has been tried yet")
    }
}

/// Where the configuration has this gateway listen, and for whom.
fn listeners(config: &Config) -> Vec<ListenerView> {
    let tcp = [
        ("callers", Some(config.listen.public)),
        ("operators", config.listen.admin),
        ("replicas", config.replica.listen),
    ];
    let tcp = tcp.into_iter().filter_map(|(whom, address)| Some(ListenerView { whom, address: address?.to_string() }));
    let socket = ListenerView { whom: "operators", address: config.listen.admin_socket.display().to_string() };
    tcp.chain([socket]).collect()
}
