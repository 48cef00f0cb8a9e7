//! The gateway at a glance.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use rustix::process::{Resource, getrlimit};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::metrics::{is_ready, why_not_ready};
use super::openapi::{Described, get};
use super::{Answer, Api, ok};
use crate::config::Config;
use crate::env::Timestamp;

/// The gateway at a glance.
#[derive(Serialize, ToSchema)]
pub(in crate::http) struct Status {
    pub(in crate::http) version: &'static str,
    #[schema(format = DateTime)]
    pub(in crate::http) started: String,
    pub(in crate::http) ready: bool,
    /// What has to come first, where requests cannot be served.
    pub(in crate::http) not_ready: Option<String>,
    /// As the gateway was started.
    pub(in crate::http) listeners: Vec<ListenerView>,
    /// Digest of the file as it is in force, apart from what each replica has for itself.
    pub(in crate::http) configuration: String,
    pub(in crate::http) process: ProcessView,
    /// Whether the file says something that takes effect at the next start.
    pub(in crate::http) awaits_restart: bool,
    /// As the gateway was started.
    pub(in crate::http) public_url: String,
    /// Of each listener that speaks TLS.
    pub(in crate::http) tls: BTreeMap<&'static str, CertificateView>,
    pub(in crate::http) tools: usize,
    pub(in crate::http) upstreams: usize,
    pub(in crate::http) policy_generation: u64,
    /// Decisions that were not written down: there was no room in the queue.
    pub(in crate::http) decisions_dropped: u64,
    pub(in crate::http) recordings_dropped: u64,
    #[schema(value_type = ReplicaView)]
    pub(in crate::http) replica: Value,
    pub(in crate::http) store: StoreView,
    /// Of the copy of the audit trail, where there is one.
    pub(in crate::http) audit_export: Option<ExportView>,
}

/// Where the gateway listens.
#[derive(Serialize, ToSchema)]
#[schema(as = Listener)]
pub(in crate::http) struct ListenerView {
    /// `callers`, `operators` or `replicas`.
    #[serde(rename = "for")]
    pub(in crate::http) whom: &'static str,
    /// Host and port, or the path of a socket.
    pub(in crate::http) address: String,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Process)]
pub(in crate::http) struct ProcessView {
    /// How many files it may have open; null where there is no limit.
    pub(in crate::http) open_files: Option<u64>,
}

/// What a listener shows over TLS.
#[derive(Serialize, ToSchema)]
#[schema(as = Certificate)]
pub(in crate::http) struct CertificateView {
    /// Until when it counts, if it says so.
    #[schema(format = DateTime)]
    pub(in crate::http) not_after: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = StoreStatus)]
pub(in crate::http) struct StoreView {
    pub(in crate::http) deployment: String,
    pub(in crate::http) replica: String,
    /// Whether several gateways may use it.
    pub(in crate::http) shared: bool,
    /// Whether it is not known any more what others have changed.
    pub(in crate::http) stale: bool,
    /// What is added to this machine's clock.
    pub(in crate::http) clock_offset_ms: i64,
    /// The number of its lease, on the one gateway that sweeps.
    pub(in crate::http) sweeping: Option<u64>,
    pub(in crate::http) swept: u64,
}

/// How a copy of the audit trail fares.
#[derive(Serialize, ToSchema)]
#[schema(as = AuditExport)]
pub(in crate::http) struct ExportView {
    /// Rows that were copied since the start.
    pub(in crate::http) exported: u64,
    /// Tries that failed since then.
    pub(in crate::http) failures: u64,
    /// How long ago it had all rows that there were.
    pub(in crate::http) lag_seconds: u64,
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
    Ok(ok(&json!(view(&api))))
}

/// All of it now.
pub(in crate::http) fn view(api: &Api) -> Status {
    let snapshot = api.control.snapshot.load();
    let shown = |at: Option<Timestamp>| CertificateView { not_after: at.map(|at| at.to_string()) };
    let (config, begun) = (api.control.config.load(), api.control.begun_with());
    Status {
        version: env!("CARGO_PKG_VERSION"),
        started: api.control.started.to_string(),
        ready: is_ready(api),
        not_ready: why_not_ready(api),
        listeners: listeners(begun),
        configuration: config.fingerprint.to_hex(),
        process: ProcessView { open_files: getrlimit(Resource::Nofile).current },
        awaits_restart: api.control.awaits_restart(&config),
        public_url: begun.public_url.as_str().to_owned(),
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
        audit_export: api.watched.export.as_ref().map(|export| ExportView {
            exported: export.exported(),
            failures: export.failures(),
            lag_seconds: export.lag().as_secs(),
        }),
    }
}

/// Where the configuration has a gateway listen, and for whom.
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
