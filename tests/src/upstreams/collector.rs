//! A collector of OpenTelemetry traces: it takes OTLP over HTTP in JSON and keeps the spans.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use hyper_util::service::TowerToHyperService;
use serde_json::{Value, json};

use super::serve::{self, Serving};

/// Longest wait for spans, which are sent once a second.
const SOON: Duration = Duration::from_secs(30);

type Spans = Arc<Mutex<Vec<Value>>>;

/// A collector on a loopback port of its own.
pub struct Collector {
    spans: Spans,
    serving: Serving,
}

impl Collector {
    pub async fn start() -> Self {
        let spans = Spans::default();
        let listener = serve::listen(0).await.expect("a port is free");
        let router = Router::new().route("/v1/traces", post(take)).with_state(spans.clone());
        Self { spans, serving: Serving::start(listener, TowerToHyperService::new(router)) }
    }

    /// For `otlp_endpoint`.
    pub fn url(&self) -> String {
        format!("http://{}", self.serving.address)
    }

    /// What has come so far.
    pub fn spans(&self) -> Vec<Value> {
        self.spans.lock().expect("nobody panics with it").clone()
    }

    /// Waits until the spans are such.
    pub async fn until(&self, holds: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let waiting = async {
            loop {
                let spans = self.spans();
                if holds(&spans) {
                    return spans;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let waited = tokio::time::timeout(SOON, waiting).await;
        waited.unwrap_or_else(|_| panic!("the spans are {:#?}", self.spans()))
    }
}

/// Keeps the spans of a request, each with the attributes of what it is of.
async fn take(State(spans): State<Spans>, Json(request): Json<Value>) -> Result<Json<Value>, StatusCode> {
    let resources = request["resourceSpans"].as_array().ok_or(StatusCode::BAD_REQUEST)?;
    for resource in resources {
        for scope in resource["scopeSpans"].as_array().ok_or(StatusCode::BAD_REQUEST)? {
            for span in scope["spans"].as_array().ok_or(StatusCode::BAD_REQUEST)? {
                let mut span = span.clone();
                span["resource"] = resource["resource"]["attributes"].clone();
                spans.lock().expect("nobody panics with it").push(span);
            }
        }
    }
    Ok(Json(json!({})))
}
