//! `/readyz` for operators: what keeps the gateway from serving, and what is worth a remark.
//!
//! Whether it is ready is the same here as on the public listener. A remark keeps nobody from anything.

use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse as _, Response};
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, StatusCode};
use serde::Serialize;
use utoipa::ToSchema;

use super::super::Api;
use crate::upstream::Health;

/// Names in one remark; more are counted.
const MAX_NAMES: usize = 8;
/// Longest time in which the copy of the audit trail may lag without a remark, in seconds.
const EXPORT_LAG_SECONDS: u64 = 60;

#[derive(Serialize)]
struct Readiness {
    status: &'static str,
    checks: Vec<Check>,
}

/// One line of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = HealthCheck)]
pub(in crate::http) struct Check {
    pub(in crate::http) name: &'static str,
    /// `ok`, `remark`, or `failed` where it keeps the gateway from being ready.
    pub(in crate::http) status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::http) detail: Option<String>,
}

const OK: &str = "ok";
const REMARK: &str = "remark";
const FAILED: &str = "failed";

impl Check {
    /// Whether it keeps the gateway from being ready.
    pub(in crate::http) fn has_failed(&self) -> bool {
        self.status == FAILED
    }

    /// Whether there is nothing to say.
    pub(in crate::http) fn is_ok(&self) -> bool {
        self.status == OK
    }

    pub(super) fn ok(name: &'static str) -> Self {
        Self { name, status: OK, detail: None }
    }

    fn failed(name: &'static str, detail: impl Into<String>) -> Self {
        Self { name, status: FAILED, detail: Some(detail.into()) }
    }

    pub(super) fn remark(name: &'static str, detail: impl Into<String>) -> Self {
        Self { name, status: REMARK, detail: Some(detail.into()) }
    }

    /// A remark if there are any of these.
    fn of(name: &'static str, what: &str, names: &[String]) -> Self {
        if names.is_empty() { Self::ok(name) } else { Self::remark(name, format!("{what}: {}", list(names))) }
    }
}

/// In one line for whoever wants it so, in JSON with `?verbose` or `Accept: application/json`.
pub(in crate::http::api) async fn show(
    State(api): State<Arc<Api>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let wants_json = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok());
    let wants_json = wants_json.is_some_and(|accept| accept.contains("application/json"));
    let is_verbose = query.is_some_and(|query| query.split('&').any(|part| part.split('=').next() == Some("verbose")));
    let is_ready = is_ready(&api);
    let status = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let word = if is_ready { "ready" } else { "not ready" };
    if !wants_json && !is_verbose {
        return (status, format!("{word}\n")).into_response();
    }
    let readiness = Readiness { status: word, checks: checks(&api).await };
    let text = serde_json::to_string(&readiness).unwrap_or_default();
    (status, [(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-store")], text).into_response()
}

/// Those that keep it from being ready: the one that explains the others comes first.
fn needed(api: &Api) -> [Check; 4] {
    [draining(api), store(api), staleness(api), tried(api)]
}

/// Whether requests can be served.
pub(in crate::http::api) fn is_ready(api: &Api) -> bool {
    !needed(api).iter().any(Check::has_failed)
}

/// What has to come first, where they cannot.
pub(in crate::http::api) fn why_not_ready(api: &Api) -> Option<String> {
    needed(api).into_iter().find(Check::has_failed)?.detail
}

/// None of those that ask others keeps the gateway from being ready, and none is waited for long.
pub(in crate::http::api) async fn checks(api: &Arc<Api>) -> Vec<Check> {
    let slow = &api.watched.slow;
    let (vault, signing) = tokio::join!(slow.vault.tell(vault(api.clone())), slow.signing.tell(signing(api.clone())));
    let mut checks = Vec::from(needed(api));
    checks.extend([vault, signing]);
    checks.push(policies(api));
    checks.push(upstreams(api));
    checks.extend(export(api));
    checks
}

fn store(api: &Api) -> Check {
    let is_there = api.control.store.is_reachable();
    if is_there { Check::ok("store") } else { Check::failed("store", "the store cannot be reached") }
}

fn staleness(api: &Api) -> Check {
    if api.control.is_stale() {
        let seconds = api.control.staleness().as_secs();
        return Check::failed("staleness", format!("changes of other gateways were last read {seconds} s ago"));
    }
    Check::ok("staleness")
}

fn tried(api: &Api) -> Check {
    if api.control.has_tried_upstreams() {
        return Check::ok("start");
    }
    Check::failed("start", "not every upstream has been tried yet")
}

fn draining(api: &Api) -> Check {
    if api.control.is_leaving() || api.watched.draining.is_cancelled() {
        return Check::failed("draining", "the gateway is stopping");
    }
    Check::ok("draining")
}

/// Calls that need no sealed credential go on without it: docs/vault.md.
async fn vault(api: Arc<Api>) -> Check {
    match api.control.vault.status().await {
        Ok(status) => {
            let faults = status.keys.iter().filter(|key| key.fault.is_some());
            Check::of(
                "vault",
                "key-encryption keys with a fault",
                &faults.map(|key| key.kid.to_string()).collect::<Vec<_>>(),
            )
        }
        Err(error) => Check::remark("vault", error.to_string()),
    }
}

async fn signing(api: Arc<Api>) -> Check {
    if !api.server.settings().has_server() {
        return Check::ok("signing-keys");
    }
    match api.signing.list().await {
        Ok((_, Some(_))) => Check::ok("signing-keys"),
        Ok((_, None)) => Check::remark("signing-keys", "no key signs access tokens"),
        Err(fault) => Check::remark("signing-keys", fault.to_string()),
    }
}

fn policies(api: &Api) -> Check {
    let snapshot = api.control.snapshot.load();
    let degraded = snapshot.policies.bindings().iter().filter(|bound| bound.health().is_degraded());
    let degraded: Vec<String> = degraded.map(|bound| bound.name().to_string()).collect();
    Check::of("policies", "their last runs all failed", &degraded)
}

fn upstreams(api: &Api) -> Check {
    let snapshot = api.control.snapshot.load();
    let down = snapshot.upstreams.values().filter(|upstream| matches!(*upstream.health(), Health::Down { .. }));
    Check::of("upstreams", "down", &down.map(|upstream| upstream.name().to_string()).collect::<Vec<_>>())
}

fn export(api: &Api) -> Option<Check> {
    let lag = api.watched.export.as_ref()?.lag().as_secs();
    let behind = || format!("the copy of the audit trail has not caught up for {lag} s");
    Some(if lag > EXPORT_LAG_SECONDS { Check::remark("audit-export", behind()) } else { Check::ok("audit-export") })
}

fn list(names: &[String]) -> String {
    let mut text = names.iter().take(MAX_NAMES).map(String::as_str).collect::<Vec<_>>().join(", ");
    if names.len() > MAX_NAMES {
        text.push_str(&format!(" and {} more", names.len() - MAX_NAMES));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remark_names_a_few_and_counts_the_rest() {
        let names: Vec<String> = (0..10).map(|number| format!("u{number}")).collect();
        let check = Check::of("upstreams", "down", &names);
        assert_eq!(check, Check::remark("upstreams", "down: u0, u1, u2, u3, u4, u5, u6, u7 and 2 more"));
        assert_eq!(Check::of("upstreams", "down", &[]), Check::ok("upstreams"));
    }
}
