//! `[metrics]`, `[telemetry]` and `[audit]`.

use super::*;
use crate::config::{AuditExport, Metrics};

#[test]
fn nothing_is_told_to_anybody_unless_it_is_asked_for() {
    let config = parsed("").unwrap();
    assert_eq!(config.metrics, Metrics { open: false, tools: false });
    assert_eq!((config.telemetry, config.audit), (None, None));
    assert_eq!(parsed("[metrics]\nopen = true\ntools = true").unwrap().metrics, Metrics { open: true, tools: true });
}

#[test]
fn a_collector_is_reached_where_it_takes_traces() {
    for (given, at) in [
        ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
        ("http://127.0.0.1:4318/", "http://127.0.0.1:4318/v1/traces"),
        ("https://otel.example/otlp/v1/traces", "https://otel.example/otlp/v1/traces"),
    ] {
        let text =
            format!("[telemetry]\notlp_endpoint = \"{given}\"\notlp_headers = {{ x-tenant = \"a\" }}\nsample = 1");
        let collector = parsed(&text).unwrap().telemetry.unwrap();
        assert_eq!(collector.endpoint.to_string(), at);
        let [(name, value)] = &collector.headers[..] else { panic!("{:?}", collector.headers) };
        assert!(name == "x-tenant" && value == "a" && value.is_sensitive());
        assert!((collector.sample - 1.0).abs() < f64::EPSILON);
    }
    let collector = parsed("[telemetry]\notlp_endpoint = \"http://127.0.0.1:4318\"").unwrap().telemetry.unwrap();
    assert!((collector.sample - defaults::SAMPLE).abs() < f64::EPSILON);
}

#[test]
fn mistakes_about_telemetry_are_told() {
    let endpoint = "otlp_endpoint = \"http://127.0.0.1:4318\"\n";
    for (section, part) in [
        ("otlp_endpoint = \"127.0.0.1:4318\"".to_owned(), "telemetry.otlp_endpoint"),
        ("sample = 0.5".to_owned(), "otlp_endpoint is missing"),
        (format!("{endpoint}sample = 1.5"), "must be from 0.0 to 1.0"),
        (format!("{endpoint}sample = nan"), "must be from 0.0 to 1.0"),
        (format!("{endpoint}otlp_headers = {{ authorization = \"Bearer secret\" }}"), "authorization"),
        (format!("{endpoint}protocol = \"grpc\""), "protocol"),
    ] {
        let told = parsed(&format!("[telemetry]\n{section}")).unwrap_err().to_string();
        assert!(told.contains(part), "{section}: {told}");
    }
}

#[test]
fn the_audit_trail_is_copied_to_a_file_or_a_socket() {
    let export = |text: &str| parsed(&format!("[audit]\nexport = \"{text}\""));
    assert!(
        matches!(export("file:audit.jsonl").unwrap().audit, Some(AuditExport::File(path)) if path.ends_with("audit.jsonl"))
    );
    assert_eq!(export("syslog:/dev/log").unwrap().audit, Some(AuditExport::Syslog("/dev/log".into())));
    for wrong in ["/var/log/audit", "file:", "tcp:127.0.0.1:514", ""] {
        let told = export(wrong).unwrap_err().to_string();
        assert!(told.contains("audit.export"), "{wrong}: {told}");
    }
}
