//! What the gateway tells of itself: `[metrics]`, `[telemetry]` and `[audit]`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::defaults;
use super::values::{At, Setting};

/// Figures for Prometheus, at `/metrics` of the admin listener.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub struct Metrics {
    /// Whether whoever reaches the admin listener may read figures and readiness without the operator token.
    #[schemars(extend("default" = false))]
    pub open: Setting<bool>,
    /// Whether calls are counted by tool as well: the first 500 tools by name, all others together.
    #[schemars(extend("default" = false))]
    pub tools: Setting<bool>,
}

/// Traces for an OpenTelemetry collector.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub struct Telemetry {
    /// Address of a collector that takes OTLP over HTTP, such as `http://127.0.0.1:4318`. Where it has no path, `/v1/traces` is
    /// added. Without it, nothing is recorded.
    pub otlp_endpoint: Setting<String>,
    /// Headers sent to the collector. A value is a text, or a reference to a secret: `env:NAME` or `file:PATH`, where wanted
    /// after a scheme. Credentials must be references.
    pub otlp_headers: BTreeMap<At<String>, At<String>>,
    /// The share of requests that are recorded among those whose caller does not say, from `0.0` to `1.0`.
    #[schemars(range(min = 0.0, max = 1.0), extend("default" = defaults::SAMPLE))]
    pub sample: Setting<f64>,
}

/// A copy of the audit trail.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub struct Audit {
    /// `file:PATH` for a file of JSON lines, or `syslog:PATH` for the socket of a syslog daemon, such as `syslog:/dev/log`.
    /// Each row is written at least once. Without it, the trail is in the store alone.
    #[schemars(extend("pattern" = "^(file|syslog):.+$"))]
    pub export: Setting<String>,
}
