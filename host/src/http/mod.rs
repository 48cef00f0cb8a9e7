//! The HTTP surfaces: `/mcp` for callers, `/api/v1` for operators, and the edge that both stand behind.
//!
//! axum and hyper's server appear only here. Handlers parse, call a verb and encode.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::middleware;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use http::StatusCode;

use crate::admin::Control;

pub mod api;
pub mod body;
pub mod error;
pub mod guard;
pub mod mcp;
pub mod replica;
pub mod serve;

use guard::HostGuard;

/// What the public listener serves.
pub fn public_router(mcp: Arc<mcp::Mcp>, control: Arc<Control>, guard: HostGuard) -> Router {
    let health = Router::new().route("/healthz", get(healthz)).route("/readyz", get(readyz)).with_state(control);
    guarded(mcp.router().merge(health), guard)
}

/// What the replica listener serves. It needs no guard: whatever is not sealed with the deployment secret opens nothing.
pub fn replica_router(mcp: Arc<mcp::Mcp>) -> Router {
    mcp.replica_router().fallback(nothing_here)
}

/// What the admin listener and the admin socket serve.
pub fn admin_router(api: Arc<api::Api>, guard: HostGuard) -> Router {
    guarded(api::router(api), guard)
}

fn guarded(router: Router, guard: HostGuard) -> Router {
    let guard = Arc::new(guard);
    router.fallback(nothing_here).layer(middleware::from_fn_with_state(guard, guard::enforce))
}

/// The process runs.
async fn healthz() -> &'static str {
    "ok\n"
}

/// Requests can be served: every upstream has been tried once.
async fn readyz(State(control): State<Arc<Control>>) -> Response {
    if control.is_ready() {
        "ready\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "starting: not every upstream has been tried yet\n").into_response()
    }
}

async fn nothing_here() -> Response {
    error::json_response(
        StatusCode::NOT_FOUND,
        r#"{"error":"not_found","message":"there is nothing at this path"}"#.to_owned(),
    )
}
