//! What came of requests lately: what the overview of the console draws, in numbers.

use std::sync::Arc;

use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{IntoParams, ToSchema};

use super::openapi::{Described, get};
use super::{Answer, Api, Query, ok};
use crate::pipeline::traffic::{Counts, MINUTES};

/// What is told unless it is said otherwise.
const DEFAULT_MINUTES: u64 = 60;
const DEFAULT_SPAN: u64 = 2;

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct TrafficQuery {
    /// How far back, at most 1440; 60 if it is not said.
    #[param(value_type = Option<usize>)]
    minutes: Option<u64>,
    /// How many minutes each row is of, at most 1440; 2 if it is not said.
    #[param(value_type = Option<usize>)]
    span: Option<u64>,
}

/// What came of the requests of this gateway lately. It is kept in memory, for a day and without those of other replicas.
#[derive(Serialize, ToSchema)]
#[schema(as = Traffic)]
pub(in crate::http) struct TrafficView {
    pub(in crate::http) minutes: u64,
    pub(in crate::http) span: u64,
    pub(in crate::http) total: CountsView,
    /// From the earliest; the last one has only begun.
    pub(in crate::http) spans: Vec<CountsView>,
}

/// What came in some time.
#[derive(Serialize, ToSchema)]
#[schema(as = TrafficCounts)]
pub(in crate::http) struct CountsView {
    #[schema(format = DateTime)]
    pub(in crate::http) from: String,
    pub(in crate::http) requests: u64,
    pub(in crate::http) allowed: u64,
    pub(in crate::http) denied: u64,
    /// Until somebody consents, signs in again or approves.
    pub(in crate::http) held: u64,
    pub(in crate::http) throttled: u64,
    /// Those of all of them that ended with an error.
    pub(in crate::http) failed: u64,
    /// The time within which half of them ended, in milliseconds; null where there were none.
    pub(in crate::http) p50_ms: Option<u64>,
    /// The same for 19 of 20.
    pub(in crate::http) p95_ms: Option<u64>,
}

/// What the document of the API says of it.
pub(super) fn operations() -> Vec<Described> {
    vec![
        get("/api/v1/traffic", "showTraffic", "What came of requests lately")
            .asks::<TrafficQuery>()
            .shows::<TrafficView>(),
    ]
}

pub(super) async fn show(State(api): State<Arc<Api>>, Query(query): Query<TrafficQuery>) -> Answer {
    let TrafficQuery { minutes, span } = query;
    Ok(ok(&json!(view(&api, minutes.unwrap_or(DEFAULT_MINUTES), span.unwrap_or(DEFAULT_SPAN)))))
}

/// The last so many minutes, in spans of so many.
pub(in crate::http) fn view(api: &Api, minutes: u64, span: u64) -> TrafficView {
    let (minutes, span) = (minutes.clamp(1, MINUTES), span.clamp(1, MINUTES));
    let spans = api.services.traffic.lately(api.control.env.now(), minutes, span);
    TrafficView {
        minutes,
        span,
        total: CountsView::of(&Counts::sum(&spans)),
        spans: spans.iter().map(CountsView::of).collect(),
    }
}

impl CountsView {
    fn of(counts: &Counts) -> Self {
        let Counts { from, allowed, denied, held, throttled, failed, .. } = counts;
        Self {
            from: from.to_string(),
            requests: counts.total(),
            allowed: *allowed,
            denied: *denied,
            held: *held,
            throttled: *throttled,
            failed: *failed,
            p50_ms: counts.quantile_ms(0.5),
            p95_ms: counts.quantile_ms(0.95),
        }
    }
}
