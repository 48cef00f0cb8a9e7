//! The text that Prometheus and its kin read (exposition format 0.0.4).

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};

use super::count::Reading;

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// One metric, as it is announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    pub name: &'static str,
    pub kind: Kind,
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

/// Samples in the making. Those of one metric stand together, whatever the order in which they came.
#[derive(Debug, Default)]
pub struct Exposition(BTreeMap<&'static str, (Metric, String)>);

impl Exposition {
    /// Adds a sample; `labels` are the values of the metric's labels, in their order.
    pub fn put(&mut self, metric: &Metric, labels: &[&str], value: impl Display) {
        debug_assert_ne!(metric.kind, Kind::Histogram);
        let out = self.of(metric);
        sample(out, metric.name, pairs(metric, labels), &value);
    }

    /// Adds what a histogram has counted.
    pub fn put_timing(&mut self, metric: &Metric, labels: &[&str], reading: &Reading) {
        debug_assert_eq!(metric.kind, Kind::Histogram);
        let out = self.of(metric);
        let bucket = format!("{}_bucket", metric.name);
        for (bound, count) in &reading.buckets {
            let bound = bound.to_string();
            sample(out, &bucket, pairs(metric, labels).chain([("le", bound.as_str())]), count);
        }
        sample(out, &bucket, pairs(metric, labels).chain([("le", "+Inf")]), &reading.count);
        sample(out, &format!("{}_sum", metric.name), pairs(metric, labels), &reading.sum_seconds);
        sample(out, &format!("{}_count", metric.name), pairs(metric, labels), &reading.count);
    }

    fn of(&mut self, metric: &Metric) -> &mut String {
        &mut self.0.entry(metric.name).or_insert_with(|| (*metric, String::new())).1
    }

    /// The whole text, in the order of names.
    pub fn finish(self) -> String {
        let mut text = String::new();
        for (name, (Metric { kind, help, .. }, samples)) in self.0 {
            writeln!(text, "# HELP {name} {help}\n# TYPE {name} {}", kind.as_str()).expect("a String takes all");
            text.push_str(&samples);
        }
        text
    }
}

fn pairs<'a>(metric: &'a Metric, values: &'a [&'a str]) -> impl Iterator<Item = (&'a str, &'a str)> {
    debug_assert_eq!(metric.labels.len(), values.len(), "{}", metric.name);
    metric.labels.iter().copied().zip(values.iter().copied())
}

fn sample<'a>(out: &mut String, name: &str, labels: impl Iterator<Item = (&'a str, &'a str)>, value: &impl Display) {
    out.push_str(name);
    let mut between = '{';
    for (label, value) in labels {
        out.push(between);
        between = ',';
        out.push_str(label);
        out.push_str("=\"");
        escape(out, value);
        out.push('"');
    }
    if between == ',' {
        out.push('}');
    }
    writeln!(out, " {value}").expect("a String takes all");
}

/// Values are ours, or names from the configuration; nothing in them ends a line all the same.
fn escape(out: &mut String, value: &str) {
    for character in value.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            other => out.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::count::Histogram;
    use super::*;

    const CALLS: Metric = Metric { name: "calls_total", kind: Kind::Counter, labels: &["of", "is"], help: "Calls." };
    const UP: Metric = Metric { name: "a_up", kind: Kind::Gauge, labels: &[], help: "Whether it is up." };
    const TIME: Metric = Metric { name: "took_seconds", kind: Kind::Histogram, labels: &["of"], help: "Time." };

    #[test]
    fn samples_of_one_metric_stand_together_and_end_no_line_early() {
        let mut text = Exposition::default();
        text.put(&CALLS, &["one", "a\"b\\c\nd"], 3);
        text.put(&UP, &[], 1);
        text.put(&CALLS, &["two", ""], 0.5);
        let expected = "# HELP a_up Whether it is up.\n# TYPE a_up gauge\na_up 1\n\
            # HELP calls_total Calls.\n# TYPE calls_total counter\n\
            calls_total{of=\"one\",is=\"a\\\"b\\\\c\\nd\"} 3\ncalls_total{of=\"two\",is=\"\"} 0.5\n";
        assert_eq!(text.finish(), expected);
    }

    #[test]
    fn a_histogram_has_its_buckets_its_sum_and_its_count() {
        let histogram = Histogram::default();
        histogram.took(Duration::from_millis(20));
        histogram.took(Duration::from_secs(1_000));
        let mut text = Exposition::default();
        text.put_timing(&TIME, &["x"], &histogram.read());
        let text = text.finish();
        for line in [
            "# TYPE took_seconds histogram",
            "took_seconds_bucket{of=\"x\",le=\"0.01\"} 0",
            "took_seconds_bucket{of=\"x\",le=\"0.025\"} 1",
            "took_seconds_bucket{of=\"x\",le=\"300\"} 1",
            "took_seconds_bucket{of=\"x\",le=\"+Inf\"} 2",
            "took_seconds_sum{of=\"x\"} 1000.02",
            "took_seconds_count{of=\"x\"} 2",
        ] {
            assert!(text.lines().any(|known| known == line), "{line} is not in\n{text}");
        }
    }
}
