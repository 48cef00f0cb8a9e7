//! What a collector of ours is sent: ids, parents, and nothing where there is no collector.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::env::{Entropy, Env};
use crate::outbound::Outbound;

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// Takes requests of OTLP and answers with `status`.
async fn collector(status: u16) -> (http::Uri, mpsc::UnboundedReceiver<Value>, tokio::task::JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (told, heard) = mpsc::unbounded_channel();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut received = Vec::new();
            let body = loop {
                let mut buffer = [0; 4096];
                let length = stream.read(&mut buffer).await.unwrap();
                received.extend_from_slice(&buffer[..length]);
                let text = String::from_utf8_lossy(&received).into_owned();
                let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                let length =
                    head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
                let length: usize = length.unwrap();
                if body.len() >= length {
                    assert!(head.starts_with("POST /v1/traces "), "{head}");
                    assert!(head.to_lowercase().contains("content-type: application/json"), "{head}");
                    break body.to_owned();
                }
            };
            told.send(serde_json::from_str(&body).unwrap()).unwrap();
            let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{{}}");
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    (format!("http://{address}/v1/traces").parse().unwrap(), heard, tasks)
}

fn tracer(endpoint: http::Uri, sample: f64) -> (Tracer, Exporter) {
    let settings = Settings { endpoint, headers: Vec::new(), sample };
    Tracer::on(Env::system(), settings, Outbound::new(), "r1".to_owned())
}

fn spans(request: &Value) -> Vec<Value> {
    request["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap().clone()
}

fn named<'a>(spans: &'a [Value], name: &str) -> &'a Value {
    spans.iter().find(|span| span["name"] == name).unwrap_or_else(|| panic!("{name} is not in {spans:?}"))
}

#[tokio::test]
async fn spans_of_a_request_come_with_their_parents() {
    let (endpoint, mut heard, _collecting) = collector(200).await;
    let (tracer, exporter) = tracer(endpoint, 0.0);
    let stopping = CancellationToken::new();
    let exporting = exporter.run(stopping.clone());
    let traced = async {
        let caller = TraceContext::parse(PARENT, Some("vendor=1")).unwrap();
        let request = tracer.begin(Some(caller)).unwrap();
        let begun = Instant::now();
        let upstream = request.child();
        assert!(upstream.context().parent().starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-"));
        upstream.end("tools/call", SpanKind::Client, begun, vec![("a", "b".into())], Some("timed-out".into()));
        request.note("policy", Duration::from_millis(3), Vec::new(), None);
        request.end("tools/call echo", SpanKind::Server, begun, vec![("n", Tag::Number(7))], None);
        let received = heard.recv().await.unwrap();
        stopping.cancel();
        (received, request.context().clone(), upstream.context().clone())
    };
    let ((received, request, upstream), ()) = tokio::join!(traced, exporting);
    let spans = spans(&received);
    assert_eq!(spans.len(), 3);
    assert!(spans.iter().all(|span| span["traceId"] == "4bf92f3577b34da6a3ce929d0e0e4736"));
    assert!(spans.iter().all(|span| span["traceState"] == "vendor=1"));
    let id = |context: &TraceContext| context.parent()[36..52].to_owned();
    let root = named(&spans, "tools/call echo");
    assert_eq!((root["parentSpanId"].as_str(), root["kind"].as_u64()), (Some("00f067aa0ba902b7"), Some(2)));
    assert_eq!(root["spanId"].as_str(), Some(id(&request).as_str()));
    let sent = named(&spans, "tools/call");
    assert_eq!((sent["parentSpanId"].as_str(), sent["kind"].as_u64()), (Some(id(&request).as_str()), Some(3)));
    assert_eq!(sent["spanId"].as_str(), Some(id(&upstream).as_str()));
    assert_eq!(sent["status"]["code"], 2);
    let policy = named(&spans, "policy");
    let nanos = |member: &str| policy[member].as_str().unwrap().parse::<u64>().unwrap();
    let took = nanos("endTimeUnixNano") - nanos("startTimeUnixNano");
    assert!((3_000_000..1_000_000_000).contains(&took), "{took}");
    assert_eq!(tracer.traffic().sent(), 3);
}

#[tokio::test]
async fn what_a_caller_does_not_want_recorded_is_passed_on_as_it_came() {
    let (on, _exporter) = tracer("http://127.0.0.1:1/v1/traces".parse().unwrap(), 1.0);
    let (quiet, random) = (PARENT.replace("-01", "-00"), PARENT.replace("-01", "-02"));
    for (tracer, parent) in [(&on, quiet.as_str()), (&on, random.as_str()), (&Tracer::off(Env::system()), PARENT)] {
        let trace = tracer.begin(TraceContext::parse(parent, None)).unwrap();
        assert!(!trace.is_recorded());
        assert_eq!(trace.child().context().parent(), parent);
        trace.end("x", SpanKind::Server, Instant::now(), Vec::new(), None);
        assert_eq!(tracer.traffic().dropped(), 0);
    }
    assert!(Tracer::off(Env::system()).begin(None).is_none(), "it costs nothing");
}

#[tokio::test]
async fn a_collector_that_is_gone_costs_a_counter() {
    let (tracer, exporter) = tracer("http://127.0.0.1:1/v1/traces".parse().unwrap(), 1.0);
    let begun = Instant::now();
    for _ in 0..10_000 {
        let trace = tracer.begin(None).unwrap();
        trace.end("x", SpanKind::Server, begun, Vec::new(), None);
    }
    assert!(tracer.traffic().dropped() > 5_000, "the queue is bounded");
    let stopping = CancellationToken::new();
    stopping.cancel();
    tokio::time::timeout(Duration::from_secs(10), exporter.run(stopping)).await.unwrap();
    assert!(tracer.traffic().failed() > 0 && tracer.traffic().sent() == 0);
}

#[tokio::test]
async fn a_collector_that_refuses_is_not_asked_twice() {
    let (endpoint, mut heard, _collecting) = collector(503).await;
    let (tracer, exporter) = tracer(endpoint, 1.0);
    tracer.begin(None).unwrap().end("x", SpanKind::Server, Instant::now(), Vec::new(), None);
    let stopping = CancellationToken::new();
    stopping.cancel();
    exporter.run(stopping).await;
    assert_eq!(spans(&heard.recv().await.unwrap()).len(), 1);
    assert_eq!((tracer.traffic().failed(), tracer.traffic().sent()), (1, 0));
    assert!(heard.try_recv().is_err());
}

#[test]
fn the_share_that_is_asked_for_is_recorded() {
    struct Counting(std::sync::atomic::AtomicU64);
    impl Entropy for Counting {
        fn fill(&self, bytes: &mut [u8]) {
            // Spread evenly, as what is random is.
            for piece in bytes.chunks_mut(8) {
                let number = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, std::sync::atomic::Ordering::Relaxed);
                piece.copy_from_slice(&number.to_be_bytes()[..piece.len()]);
            }
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        for (sample, least, most) in [(0.0, 0, 0), (0.1, 60, 140), (1.0, 1_000, 1_000)] {
            let env = Env { entropy: Arc::new(Counting(7.into())), ..Env::system() };
            let settings = Settings { endpoint: "http://127.0.0.1:1/".parse().unwrap(), headers: Vec::new(), sample };
            let (tracer, _exporter) = Tracer::on(env, settings, Outbound::new(), String::new());
            let recorded = (0..1_000).filter(|_| tracer.begin(None).unwrap().is_recorded()).count();
            assert!((least..=most).contains(&recorded), "{sample}: {recorded}");
        }
    });
}
