//! `[metrics]`, `[telemetry]` and `[audit]`.

use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Uri};

use super::super::mistake::Fault;
use super::super::raw::{self, At, defaults};
use super::super::value;
use super::super::watch::{AuditExport, Collector, Metrics};
use super::{Checks, is_path, not_a_path, upstreams};

/// Where collectors take traces (OTLP § OTLP/HTTP request).
const TRACES: &str = "/v1/traces";

pub(super) fn metrics(raw: &raw::Metrics) -> Metrics {
    Metrics { open: raw.open.value().copied().unwrap_or(false), tools: raw.tools.value().copied().unwrap_or(false) }
}

pub(super) fn telemetry(checks: &mut Checks<'_>, raw: &raw::Telemetry) -> Option<Collector> {
    let endpoint = checks.setting("telemetry.otlp_endpoint", &raw.otlp_endpoint, |text| {
        let given = value::upstream_url(text)?;
        Ok(with_path(given))
    });
    let sample = checks.setting("telemetry.sample", &raw.sample, |share| {
        if (0.0..=1.0).contains(share) { Ok(*share) } else { Err(Fault::new("must be from 0.0 to 1.0")) }
    });
    let headers = upstreams::headers(checks, &raw.otlp_headers);
    let headers = headers.iter().filter_map(|(name, value)| {
        let mut value = HeaderValue::try_from(value.expose()).ok()?;
        value.set_sensitive(true);
        Some((HeaderName::try_from(name.as_str()).ok()?, value))
    });
    let headers = headers.collect();
    if raw.otlp_endpoint.get().is_none() {
        let place = raw.sample.get().map(At::place).or(raw.otlp_headers.keys().next().map(At::place));
        if let Some(place) = place {
            checks.missing("telemetry", place, Fault::new("telemetry.otlp_endpoint is missing"));
        }
    }
    Some(Collector { endpoint: endpoint?, headers, sample: sample.unwrap_or(defaults::SAMPLE) })
}

fn with_path(given: Uri) -> Uri {
    if !matches!(given.path(), "" | "/") || given.query().is_some() {
        return given;
    }
    let mut parts = given.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::from_static(TRACES));
    Uri::from_parts(parts).unwrap_or(given)
}

pub(super) fn audit(checks: &mut Checks<'_>, raw: &raw::Audit) -> Option<AuditExport> {
    let base_dir = checks.secrets.base_dir.to_owned();
    checks.setting("audit.export", &raw.export, |text| {
        let (kind, path) = text.split_once(':').ok_or_else(|| Fault::new(EXPORTS))?;
        if !is_path(path) {
            return Err(not_a_path());
        }
        match kind {
            "file" => Ok(AuditExport::File(base_dir.join(path))),
            "syslog" => Ok(AuditExport::Syslog(base_dir.join(path))),
            _ => Err(Fault::new(EXPORTS)),
        }
    })
}

const EXPORTS: &str = "must be `file:PATH` or `syslog:PATH`";
