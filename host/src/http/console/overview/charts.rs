//! The charts of the overview, out of what the API tells of traffic. Pure.

use super::super::chart::{Chart, Column, Frame, Kind, Series};
use crate::http::api::traffic::{CountsView, TrafficView};

/// Textures by which parts are told from each other without colours.
const PLAIN: &str = "";
const SLANTED: &str = "M-1 1l2-2M0 8l8-8M7 9l2-2";
const DOTTED: &str = "M1 2h2M5 6h2";
const LINED: &str = "M0 4h8";

/// What was said of requests, how many of them failed, and how long they took.
pub(super) fn of(traffic: &TrafficView) -> [Chart; 3] {
    [verdicts(traffic), failures(traffic), times(traffic)]
}

fn verdicts(traffic: &TrafficView) -> Chart {
    let total = &traffic.total;
    let frame = Frame { id: "verdicts", title: "Requests by verdict", unit: "requests" };
    let told = |count: u64| count.to_string();
    let series = vec![
        Series { label: "allowed", class: "good", texture: PLAIN, told: told(total.allowed) },
        Series { label: "denied", class: "bad", texture: SLANTED, told: told(total.denied) },
        Series { label: "held for somebody", class: "held", texture: DOTTED, told: told(total.held) },
        Series { label: "throttled", class: "slow", texture: LINED, told: told(total.throttled) },
    ];
    let values = |span: &CountsView| [span.allowed, span.denied, span.held, span.throttled].map(Some).to_vec();
    Chart::new(frame, Kind::Parts, series, columns(traffic, values))
}

fn failures(traffic: &TrafficView) -> Chart {
    let total = &traffic.total;
    let frame = Frame { id: "failures", title: "Share of requests that ended with an error", unit: "%" };
    let told = match total.requests {
        0 => "no requests".to_owned(),
        requests => format!("{} of {requests} requests ({} %)", total.failed, percent(total).unwrap_or(0)),
    };
    let series = vec![Series { label: "failed", class: "bad", texture: SLANTED, told }];
    Chart::new(frame, Kind::Parts, series, columns(traffic, |span| vec![percent(span)]))
}

fn times(traffic: &TrafficView) -> Chart {
    let frame = Frame { id: "times", title: "How long requests took", unit: "ms" };
    let told = |within: Option<u64>| within.map_or_else(|| "no requests".to_owned(), |ms| format!("within {ms} ms"));
    let series = vec![
        Series { label: "half of them (p50)", class: "first", texture: PLAIN, told: told(traffic.total.p50_ms) },
        Series { label: "19 of 20 (p95)", class: "second", texture: LINED, told: told(traffic.total.p95_ms) },
    ];
    Chart::new(frame, Kind::Heights, series, columns(traffic, |span| vec![span.p50_ms, span.p95_ms]))
}

fn columns(traffic: &TrafficView, values: impl Fn(&CountsView) -> Vec<Option<u64>>) -> Vec<Column> {
    let at = |span: &CountsView| span.from.get(11..16).unwrap_or(&span.from).to_owned();
    traffic.spans.iter().map(|span| Column { at: at(span), values: values(span) }).collect()
}

/// The share that failed, rounded up so that few are not told as none. `None` where there were no requests.
fn percent(counts: &CountsView) -> Option<u64> {
    (counts.requests > 0).then(|| counts.failed.saturating_mul(100).div_ceil(counts.requests))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(requests: u64, failed: u64) -> CountsView {
        let (p50_ms, p95_ms) = if requests > 0 { (Some(4), Some(64)) } else { (None, None) };
        let from = "2027-01-01T10:30:00.000Z".to_owned();
        CountsView { from, requests, allowed: requests, denied: 0, held: 0, throttled: 0, failed, p50_ms, p95_ms }
    }

    fn traffic(requests: u64, failed: u64) -> TrafficView {
        let spans = vec![counts(requests, failed), counts(0, 0)];
        TrafficView { minutes: 2, span: 1, total: counts(requests, failed), spans }
    }

    #[test]
    fn charts_say_in_words_what_they_draw() {
        let [verdicts, failures, times] = of(&traffic(1_000, 3));
        assert_eq!(verdicts.summary, "allowed: 1000, denied: 0, held for somebody: 0, throttled: 0");
        assert_eq!(failures.summary, "failed: 3 of 1000 requests (1 %)");
        assert_eq!(times.summary, "half of them (p50): within 4 ms, 19 of 20 (p95): within 64 ms");
        assert_eq!((verdicts.bars.len(), failures.bars.len(), times.bars.len()), (1, 1, 2));
        assert_eq!(times.columns[0].at, "10:30");
        assert_eq!(failures.columns[1].values, [None]);
    }

    #[test]
    fn without_requests_nothing_is_drawn() {
        let charts = of(&traffic(0, 0));
        assert!(charts.iter().all(Chart::is_empty));
        assert_eq!(charts[1].summary, "failed: no requests");
    }
}
