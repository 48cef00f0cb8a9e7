//! What the gateway tells those who run it: figures, names of requests, traces, readiness with its reasons, a copy of the audit
//! trail.

use http::StatusCode;
use portcullis_tests::Gateway;
use portcullis_tests::upstreams::collector::Collector;
use portcullis_tests::upstreams::fixture::Fixture;
use serde_json::{Value, json};

use super::{at, with_token};

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const GUARD: &str = "[[policies]]\nname = \"guard\"\nmodule = \"builtin:allow-tools\"\nlimits = { time = \"1s\" }\nconfig = { otherwise = \"allow\" }\n";

/// The value of a sample whose line begins so.
fn sample(text: &str, begins: &str) -> f64 {
    let line = text.lines().find(|line| line.starts_with(begins));
    let value = line.and_then(|line| line.rsplit(' ').next()?.parse().ok());
    value.unwrap_or_else(|| panic!("{begins} is not in\n{text}"))
}

#[tokio::test]
async fn h9_figures_are_for_who_has_the_token_and_name_nobody() {
    let up = Fixture::start().await;
    let gateway = Gateway::builder().http_upstream("up", &up.url).key("alice").section(GUARD).start().await;
    let before = up.stats().calls;
    for _ in 0..3 {
        gateway.caller("alice").call("up__echo", json!({ "text": "canary-argument" })).await;
    }
    gateway.caller("alice").call("up__no_such_tool", json!({})).await;
    assert_eq!(up.stats().calls - before, 3);
    for path in ["/metrics", "/readyz", "/readyz?verbose"] {
        assert_eq!(at(gateway.admin, None).send("GET", path, "").await.status, StatusCode::UNAUTHORIZED, "{path}");
        assert_ne!(gateway.stranger().send("GET", "/metrics", "").await.status, StatusCode::OK);
    }
    let reply = with_token(&gateway).send("GET", "/metrics", "").await;
    assert_eq!(reply.status, StatusCode::OK);
    assert!(reply.header("content-type").starts_with("text/plain; version=0.0.4"), "{}", reply.header("content-type"));
    let text = reply.text();
    let of_calls = "portcullis_requests_total{method=\"tools/call\",outcome=";
    assert!((sample(text, &format!("{of_calls}\"ok\",era=\"modern\"}}")) - 3.0).abs() < 0.1);
    assert!((sample(text, &format!("{of_calls}\"unknown\",era=\"modern\"}}")) - 1.0).abs() < 0.1);
    assert!(
        sample(text, "portcullis_upstream_seconds_count{upstream=\"up\",method=\"tools/call\",outcome=\"result\"}")
            > 2.9
    );
    assert!(sample(text, "portcullis_policy_seconds_count{binding=\"guard\",hook=\"tool-call\"}") > 2.9);
    assert!((sample(text, "portcullis_upstream_up{upstream=\"up\"}") - 1.0).abs() < 0.1);
    assert!(sample(text, "portcullis_http_responses_total{listener=\"public\",class=\"2xx\"}") > 3.9);
    for nobody in ["alice", "canary-argument", "no_such_tool", &Gateway::secret("alice")] {
        assert!(!text.contains(nobody), "{nobody} is in\n{text}");
    }
}

#[tokio::test]
async fn figures_are_open_where_the_operator_has_opened_them_and_nothing_else_is() {
    let up = Fixture::start().await;
    let open = "[metrics]\nopen = true\ntools = true\n";
    let gateway = Gateway::builder().http_upstream("up", &up.url).key("alice").section(open).start().await;
    gateway.caller("alice").call("up__echo", json!({})).await;
    let reply = at(gateway.admin, None).send("GET", "/metrics", "").await;
    assert_eq!(reply.status, StatusCode::OK);
    assert!((sample(reply.text(), "portcullis_tool_calls_total{upstream=\"up\",tool=\"echo\"}") - 1.0).abs() < 0.1);
    let refused = at(gateway.admin, None).send("GET", "/api/v1/status", "").await;
    assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_request_has_the_name_that_it_came_with_or_another() {
    let up = Fixture::start().await;
    let gateway = Gateway::builder().http_upstream("up", &up.url).key("alice").start().await;
    let named = gateway.caller("alice").with("x-request-id", "edge-7f.3");
    assert_eq!(named.call("up__echo", json!({})).await.header("x-request-id"), "edge-7f.3");
    let strange = gateway.caller("alice").with("x-request-id", "a b\"c");
    let made = strange.call("up__echo", json!({})).await.header("x-request-id").to_owned();
    assert_eq!(made.len(), 32, "{made}");
    let refused = gateway.stranger().post("{}").await;
    assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
    assert_eq!(refused.header("x-request-id").len(), 32, "who is refused can ask about it too");
}

#[tokio::test]
async fn readiness_has_reasons_for_operators_and_none_for_others() {
    let up = Fixture::start().await;
    let nowhere = "http://127.0.0.1:9/mcp";
    let gateway = Gateway::builder().http_upstream("up", &up.url).http_upstream("gone", nowhere).start().await;
    let mut verbose = with_token(&gateway).send("GET", "/readyz?verbose", "").await;
    // What others are asked for is known soon, and each request waits a while for it.
    while verbose.text().contains("not known yet") {
        verbose = with_token(&gateway).send("GET", "/readyz?verbose", "").await;
    }
    assert_eq!(verbose.status, StatusCode::OK, "an upstream that is down is a remark");
    let body = verbose.json();
    assert_eq!(body["status"], "ready");
    let check = |name: &str| {
        let checks = body["checks"].as_array().unwrap();
        checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("{name} is not in {body}")).clone()
    };
    assert_eq!(check("upstreams"), json!({ "name": "upstreams", "status": "remark", "detail": "down: gone" }));
    for name in ["store", "staleness", "start", "draining", "vault", "signing-keys", "policies"] {
        assert_eq!(check(name)["status"], "ok", "{body}");
    }
    let public = gateway.stranger().send("GET", "/readyz?verbose", "").await;
    assert_eq!((public.status, public.text()), (StatusCode::OK, "ready\n"));
}

/// The headers and the `_meta` that `whoami` was called with.
fn seen(reply: &portcullis_tests::caller::Reply) -> (Value, Value) {
    let structured = reply.json()["result"]["structuredContent"].clone();
    let header = |name: &str| {
        let headers = structured["headers"].as_array().unwrap();
        let found = headers.iter().find(|pair| pair[0] == name);
        found.map_or(Value::Null, |pair| pair[1].clone())
    };
    (header("traceparent"), structured["params"]["_meta"].clone())
}

fn named<'a>(spans: &'a [Value], name: &str, kind: u64) -> &'a Value {
    let found = spans.iter().find(|span| span["name"] == name && span["kind"] == kind);
    found.unwrap_or_else(|| panic!("{name} is not in {spans:#?}"))
}

#[tokio::test]
async fn one_trace_leads_from_the_caller_through_the_gateway_to_the_upstream() {
    let (up, collector) = (Fixture::start().await, Collector::start().await);
    let telemetry = format!("[telemetry]\notlp_endpoint = \"{}\"\nsample = 0.0\n", collector.url());
    let builder = Gateway::builder().http_upstream("up", &up.url).key("alice").section(GUARD);
    let gateway = builder.section(&telemetry).start().await;

    let caller = gateway.caller("alice").with("traceparent", PARENT).with("tracestate", "vendor=x");
    let caller = caller.with("baggage", "canary=baggage");
    let meta = json!({ "baggage": "canary=baggage" });
    let reply = caller
        .modern("tools/call", json!({ "name": "up__whoami", "arguments": { "canary": "argument" }, "_meta": meta }))
        .await;
    let (header, meta) = seen(&reply);
    assert_eq!(header, meta["traceparent"], "the same in both");
    assert_eq!(meta["tracestate"], "vendor=x");
    assert!(!reply.text().contains("canary=baggage"), "{}", reply.text());

    let of_it = |spans: &[Value]| spans.iter().filter(|span| span["traceId"] == TRACE).count() >= 3;
    let spans = collector.until(of_it).await;
    let request = named(&spans, "tools/call up__whoami", 2);
    assert_eq!(request["parentSpanId"], "b7ad6b7169203331");
    let sent = named(&spans, "tools/call", 3);
    assert_eq!(sent["parentSpanId"], request["spanId"]);
    assert_eq!(header, format!("00-{TRACE}-{}-01", sent["spanId"].as_str().unwrap()));
    let policy = named(&spans, "policy tool-call", 1);
    assert_eq!(policy["parentSpanId"], request["spanId"]);
    let text = json!(spans).to_string();
    for canary in ["canary", &Gateway::secret("alice")] {
        assert!(!text.contains(canary), "{canary} is in {text}");
    }

    // What nobody asked to be traced is not, at a share of nothing; what the caller does not want recorded is not either.
    let (header, meta) = seen(&gateway.caller("alice").call("up__whoami", json!({})).await);
    assert!(header.as_str().is_some_and(|parent| parent.ends_with("-00")), "{header}");
    assert_eq!(header, meta["traceparent"]);
    let quiet = PARENT.replace("-01", "-00");
    let (header, _) = seen(&gateway.caller("alice").with("traceparent", &quiet).call("up__whoami", json!({})).await);
    assert_eq!(header, quiet);
}

#[tokio::test]
async fn what_a_message_says_of_its_trace_counts_before_its_headers() {
    let up = Fixture::start().await;
    let gateway = Gateway::builder().http_upstream("up", &up.url).key("alice").start().await;
    let other = "00-11111111111111111111111111111111-2222222222222222-01";
    let caller = gateway.caller("alice").with("traceparent", other);
    let params = json!({ "name": "up__whoami", "arguments": {}, "_meta": { "traceparent": PARENT } });
    let (header, meta) = seen(&caller.modern("tools/call", params).await);
    assert_eq!((&header, &meta["traceparent"]), (&json!(PARENT), &json!(PARENT)), "passed on as it came");
    let params = json!({ "name": "up__whoami", "arguments": {}, "_meta": { "traceparent": "nonsense" } });
    let (header, _) = seen(&caller.modern("tools/call", params).await);
    assert_eq!(header, other);
    let params = json!({ "name": "up__whoami", "arguments": {}, "_meta": { "traceparent": "nonsense" } });
    let (header, meta) = seen(&gateway.caller("alice").modern("tools/call", params).await);
    assert_eq!((header, &meta["traceparent"]), (Value::Null, &Value::Null));
}

#[tokio::test]
async fn a_collector_that_is_gone_keeps_nobody_waiting() {
    let up = Fixture::start().await;
    let telemetry = "[telemetry]\notlp_endpoint = \"http://127.0.0.1:9\"\nsample = 1.0\n";
    let gateway = Gateway::builder().http_upstream("up", &up.url).key("alice").section(telemetry).start().await;
    for _ in 0..20 {
        assert_eq!(gateway.caller("alice").call("up__echo", json!({})).await.status, StatusCode::OK);
    }
    let failed = async {
        loop {
            let text = with_token(&gateway).send("GET", "/metrics", "").await.text().to_owned();
            if sample(&text, "portcullis_spans_total{fate=\"failed\"}") > 0.0 {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), failed).await.expect("it is counted");
}

#[tokio::test]
async fn the_audit_trail_is_copied_to_a_file() {
    let gateway = Gateway::builder().on_disk().section("[audit]\nexport = \"file:audit.jsonl\"\n").start().await;
    assert_eq!(
        gateway.operator("POST", "/api/v1/keys", Some(json!({ "name": "ci" }))).await.status,
        StatusCode::CREATED
    );
    let file = gateway.dir.path().join("audit.jsonl");
    let copied = async {
        loop {
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            if text.contains("key.created") {
                return text;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    let text = tokio::time::timeout(std::time::Duration::from_secs(30), copied).await.expect("it is copied");
    let told = gateway.operator("GET", "/api/v1/audit?limit=100", None).await.json();
    let mut rows: Vec<Value> = told["entries"].as_array().unwrap().clone();
    rows.reverse();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(!lines.is_empty() && rows.starts_with(&lines), "{lines:#?} against {rows:#?}");
}
