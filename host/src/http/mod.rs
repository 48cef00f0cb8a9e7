//! The HTTP surfaces: `/mcp` for callers, `/api/v1` and pages for operators, and the edge that all stand behind.
//!
//! axum and hyper's server appear only here. Handlers parse, call a verb and encode.

use std::sync::Arc;

pub use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use http::StatusCode;

use crate::admin::Control;

pub mod api;
pub mod body;
pub mod console;
pub mod error;
pub mod guard;
pub mod mcp;
pub mod oauth;
pub mod replica;
pub mod serve;
mod threshold;

use guard::HostGuard;
use oauth::pages::Site;

/// What the public listener serves.
pub fn public_router(mcp: Arc<mcp::Mcp>, oauth: Arc<oauth::OAuth>, control: Arc<Control>, guard: HostGuard) -> Router {
    let guard = guard.open_at(oauth::is_for_everybody);
    let site = oauth.site.clone();
    guarded(followed(mcp.router().merge(oauth::router(oauth)), site, control).fallback(nothing_here), guard)
}

/// What callers reach as long as the store is followed, and how to ask for the gateway's health.
fn followed(callers: Router, site: Site, control: Arc<Control>) -> Router {
    let callers = callers.route_layer(middleware::from_fn_with_state((control.clone(), site), refuse_when_stale));
    callers.merge(Router::new().route("/healthz", get(healthz)).route("/readyz", get(readyz)).with_state(control))
}

/// What the replica listener serves. It needs no guard: whatever is not sealed with the deployment secret opens nothing.
pub fn replica_router(mcp: Arc<mcp::Mcp>) -> Router {
    mcp.replica_router().fallback(nothing_here)
}

/// What the admin socket serves.
pub fn socket_router(api: Arc<api::Api>, guard: HostGuard) -> Router {
    explained(api::router(api).fallback(nothing_here), guard)
}

/// What the admin listener serves: the same, and pages.
pub fn admin_router(api: Arc<api::Api>, console: &Arc<console::Console>, guard: HostGuard) -> Router {
    let pages = console::router(console, api.clone()).merge(console::elsewhere(console));
    explained(api::router(api).merge(pages), guard)
}

/// Where what the API refuses is told as the API tells it.
fn explained(router: Router, guard: HostGuard) -> Router {
    guarded(router, guard).layer(middleware::from_fn(api::explain))
}

fn guarded(router: Router, guard: HostGuard) -> Router {
    let guard = Arc::new(guard);
    router.layer(middleware::from_fn_with_state(guard, guard::enforce))
}

/// What a probe reads.
const READY: &str = "ready\n";
const NOT_READY: &str = "not ready\n";

/// The process runs.
async fn healthz() -> &'static str {
    "ok\n"
}

/// Answers 503 as long as it is not known what other gateways have changed in the store: a key may have been revoked.
/// People are told with a page, and each kind of client in the words of its protocol.
async fn refuse_when_stale(
    State((control, site)): State<(Arc<Control>, Site)>,
    request: Request,
    next: Next,
) -> Response {
    if !control.is_stale() {
        return next.run(request).await;
    }
    match oauth::access(request.uri().path()) {
        Some(oauth::Access::Browser) => oauth::pages::unavailable(&site),
        Some(_) => oauth::out_of_date(),
        None => error::out_of_date().into_response(),
    }
}

/// Requests can be served: the gateway is not about to stop, every upstream has been tried once, the store can be reached,
/// and nothing in it went unnoticed for too long.
async fn readyz(State(control): State<Arc<Control>>) -> Response {
    // Why not is told to operators, on their own listener.
    if control.is_ready() {
        READY.into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, NOT_READY).into_response()
    }
}

/// What programs are told at a path where there is nothing.
async fn nothing_here() -> Response {
    error::json_response(
        StatusCode::NOT_FOUND,
        r#"{"error":"not_found","message":"there is nothing at this path"}"#.to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::body::Body;
    use axum::routing::any;
    use http::HeaderValue;
    use tower::ServiceExt as _;

    use super::*;
    use crate::admin::testing::{Replica, shared, until};

    async fn ask(router: &Router, path: &str) -> Response {
        let request = Request::builder().uri(path).body(Body::empty()).unwrap();
        router.clone().oneshot(request).await.unwrap()
    }

    #[tokio::test]
    async fn callers_are_refused_as_long_as_the_store_is_not_followed() {
        let (store, clock) = shared().await;
        let mut replica = Replica::new(store.as_replica(1), &clock, Duration::from_millis(700), &[]).await;
        let here = || any(|| async { "here" });
        let callers = Router::new().route("/mcp", here()).route("/oauth2/consent/{request}", here());
        let callers = callers.route("/oauth2/token", here());
        let router = followed(callers, Site::new("https://gateway.example"), replica.control.clone());
        let status = async |path| ask(&router, path).await.status().as_u16();
        until("nobody knows what has changed", async || status("/mcp").await == 503).await;
        let refused = ask(&router, "/mcp").await;
        assert_eq!(refused.headers()["retry-after"], "1");
        assert_eq!(refused.headers()["content-type"], "application/json");
        let page = ask(&router, "/oauth2/consent/1").await;
        assert_eq!(page.status(), StatusCode::SERVICE_UNAVAILABLE);
        oauth::pages::testing::assert_protected(&page);
        let client = ask(&router, "/oauth2/token").await;
        assert_eq!((client.status().as_u16(), &client.headers()["retry-after"]), (503, &HeaderValue::from_static("1")));
        let body = axum::body::to_bytes(client.into_body(), 1 << 10).await.unwrap();
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&body).unwrap()["error"], "server_error");
        assert_eq!((status("/readyz").await, status("/healthz").await), (503, 200));
        assert!(!replica.control.is_ready());

        replica.follow();
        until("it is known again", async || status("/mcp").await == 200).await;
        assert_eq!(status("/readyz").await, 200);
        replica.stop().await;
    }

    #[tokio::test]
    async fn a_store_that_nobody_else_writes_to_is_never_out_of_date() {
        let (store, clock) = shared().await;
        let replica = Replica::new(store, &clock, Duration::ZERO, &[]).await;
        let callers = Router::new().route("/mcp", any(|| async { "here" }));
        let router = followed(callers, Site::new("https://gateway.example"), replica.control.clone());
        tokio::time::sleep(Duration::from_millis(5)).await;
        for path in ["/mcp", "/readyz", "/healthz"] {
            assert_eq!(ask(&router, path).await.status(), StatusCode::OK, "{path}");
        }
        replica.stop().await;
    }
}
