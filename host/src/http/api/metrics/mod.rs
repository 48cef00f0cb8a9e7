//! `/metrics` for Prometheus, and `/readyz` with its reasons, on the admin listener.
//!
//! Nothing is counted here: what the parts of the gateway have counted is read, so that being asked costs the path of requests
//! nothing. Who may ask is a viewer, or, where the operator has opened it, reaches the listener.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use tokio_util::sync::CancellationToken;

use super::door::{self, Post};
use super::{Access, Api};
use crate::admin::audit_export::ExportState;
use crate::http::mcp::Mcp;
use crate::http::oauth::OAuth;
use crate::http::serve::Meter;

mod collect;
mod names;
mod ready;
mod slow;

pub(in crate::http) use ready::Check;
pub(super) use ready::show as readiness;
pub(super) use ready::{checks, is_ready, why_not_ready};
pub use slow::Slow;

/// The area of whose scope a token has to be: these are figures of how the gateway does.
const AREA: &str = "status";
/// Exposition format 0.0.4.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What is looked at besides what operators work with.
pub struct Watched {
    pub mcp: Arc<Mcp>,
    pub oauth: Arc<OAuth>,
    /// What each listener counts.
    pub listeners: Vec<(&'static str, Arc<Meter>)>,
    /// Where the audit trail is copied to.
    pub export: Option<ExportState>,
    /// What checks have found that ask others.
    pub slow: Slow,
    /// Cancelled when nothing new is accepted any more.
    pub draining: CancellationToken,
    /// Whether whoever reaches the listener may look.
    pub is_open: bool,
}

pub(super) async fn show(State(api): State<Arc<Api>>) -> Response {
    let text = collect::collect(&api).finish();
    ([(CONTENT_TYPE, TEXT), (CACHE_CONTROL, "no-store")], text).into_response()
}

/// Lets operators pass, and everybody where that was opened.
pub(super) async fn check(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    if api.watched.is_open {
        return next.run(request).await;
    }
    let post = Post { operators: api.operators.clone(), access: Access::Viewer, area: AREA, wants_fresh: false };
    door::check(State(post), request, next).await
}

/// The process runs.
pub(super) async fn alive() -> (StatusCode, &'static str) {
    (StatusCode::OK, "ok\n")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::names;
    use crate::telemetry::Kind;

    #[test]
    fn names_follow_the_conventions() {
        let mut known = BTreeSet::new();
        for metric in names::ALL {
            let is_of_it = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
            assert!(metric.name.bytes().all(is_of_it), "{}", metric.name);
            assert_eq!(metric.kind == Kind::Counter, metric.name.ends_with("_total"), "{}", metric.name);
            assert!(metric.kind != Kind::Histogram || metric.name.ends_with("_seconds"), "{}", metric.name);
            assert!(metric.help.ends_with('.'), "{}", metric.name);
            assert!(known.insert(metric.name), "{} is there twice", metric.name);
        }
    }

    #[test]
    fn h9_no_label_is_a_person_a_key_or_a_text_of_callers() {
        let labels: BTreeSet<&str> = names::ALL.iter().flat_map(|metric| metric.labels.iter().copied()).collect();
        for forbidden in ["principal", "key", "user", "client", "address", "uri", "session", "reason"] {
            assert!(!labels.contains(forbidden), "{forbidden}");
        }
    }

    #[test]
    fn every_metric_is_in_the_documentation_and_nothing_else() {
        let page = include_str!("../../../../../docs/observability.md");
        let row = |metric: &crate::telemetry::Metric| {
            let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
            format!("| `{}` | {} | {} | {} |", metric.name, metric.kind.as_str(), labels.join(", "), metric.help)
        };
        let rows: Vec<String> = names::ALL.iter().map(row).collect();
        let missing: Vec<&String> = rows.iter().filter(|row| !page.lines().any(|line| line == *row)).collect();
        assert!(missing.is_empty(), "docs/observability.md lacks:\n{missing:#?}");
        let is_one = |line: &&str| line.starts_with("| `portcullis_") || line.starts_with("| `process_");
        let strange: Vec<&str> =
            page.lines().filter(is_one).filter(|line| !rows.iter().any(|row| row == line)).collect();
        assert!(strange.is_empty(), "docs/observability.md has what is not told:\n{strange:#?}");
    }

    /// Names of metrics in a text, without what a histogram adds to its own.
    fn named(text: &str) -> BTreeSet<String> {
        let is_of_it = |character: char| character.is_ascii_alphanumeric() || character == '_';
        let words = text.split(|character: char| !is_of_it(character));
        let ours = words.filter(|word| word.starts_with("portcullis_") || word.starts_with("process_"));
        let base = |word: &str| {
            let cut = ["_bucket", "_sum", "_count"].iter().find_map(|end| word.strip_suffix(end));
            cut.filter(|cut| names::ALL.iter().any(|metric| metric.name == *cut)).unwrap_or(word).to_owned()
        };
        ours.map(base).collect()
    }

    #[test]
    fn dashboard_and_alert_rules_name_metrics_that_there_are() {
        let known: BTreeSet<&str> = names::ALL.iter().map(|metric| metric.name).collect();
        for (file, text) in [
            ("dashboard.json", include_str!("../../../../../examples/observability/dashboard.json")),
            ("alerts.yml", include_str!("../../../../../examples/observability/alerts.yml")),
            ("alerts.test.yml", include_str!("../../../../../examples/observability/alerts.test.yml")),
        ] {
            let named = named(text);
            assert!(named.len() > 5, "{file} names {named:?}");
            let strange: Vec<&String> = named.iter().filter(|name| !known.contains(name.as_str())).collect();
            assert!(strange.is_empty(), "{file} names {strange:?}");
        }
        let dashboard = include_str!("../../../../../examples/observability/dashboard.json");
        assert!(serde_json::from_str::<serde_json::Value>(dashboard).unwrap()["panels"].is_array());
    }
}
