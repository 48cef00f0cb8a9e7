//! Which requests are traced, and how what was recorded reaches a collector.
//!
//! Spans go into a bounded queue and from there in batches, over OTLP/HTTP in JSON. Nobody waits for either: a full queue and
//! a collector that is gone cost what is counted in [`Traffic`], and nothing else.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue, Method, Request, Uri};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::context::TraceContext;
use super::otlp;
use super::trace::{Span, Trace};
use crate::env::{Env, Timestamp};
use crate::outbound::{Outbound, read_all};

/// Spans that may wait to be sent.
const QUEUE: usize = 4_096;
/// Spans in one request to the collector.
const BATCH: usize = 512;
/// How long the first span of a batch waits for others.
const GATHERING: Duration = Duration::from_secs(1);
/// How long a collector may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it may take at the end, when everything else has stopped.
const LAST_PATIENCE: Duration = Duration::from_secs(2);
/// Largest answer of a collector that is read, in bytes.
const MAX_ANSWER: usize = 64 * 1024;

/// Where spans go.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The collector's address for traces.
    pub endpoint: Uri,
    /// Said with each request, such as what lets us in.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The share of requests without a parent that is recorded, from 0 to 1.
    pub sample: f64,
}

/// What has become of spans.
#[derive(Debug, Default)]
pub struct Traffic {
    sent: AtomicU64,
    dropped: AtomicU64,
    failed: AtomicU64,
}

impl Traffic {
    /// Spans that a collector has taken.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Spans that found the queue full.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Spans that the collector did not take.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }
}

/// Decides which requests are traced. Clones share what they count.
#[derive(Clone)]
pub struct Tracer {
    env: Env,
    traffic: Arc<Traffic>,
    /// `None`: nothing is recorded, and what callers say is passed on.
    on: Option<(Sink, f64)>,
}

/// The way to the exporter.
#[derive(Clone)]
pub(super) struct Sink {
    env: Env,
    queue: mpsc::Sender<Span>,
    traffic: Arc<Traffic>,
}

impl Sink {
    pub(super) fn take(&self, span: Span) {
        if self.queue.try_send(span).is_err() {
            self.traffic.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The id of a span that there was not.
    pub(super) fn fresh(&self) -> [u8; 8] {
        let mut id: [u8; 8] = self.env.random();
        // All zeros is nobody's id.
        id[7] |= u8::from(id == [0; 8]);
        id
    }
}

impl Tracer {
    /// One that records nothing.
    pub fn off(env: Env) -> Self {
        Self { env, traffic: Arc::default(), on: None }
    }

    /// One that records, and what somebody has to run for it.
    pub fn on(env: Env, settings: Settings, outbound: Outbound, instance: String) -> (Self, Exporter) {
        let (queue, spans) = mpsc::channel(QUEUE);
        let traffic = Arc::<Traffic>::default();
        let sink = Sink { env: env.clone(), queue, traffic: traffic.clone() };
        let sample = settings.sample;
        let exporter = Exporter { settings, outbound, instance, spans, traffic: traffic.clone() };
        (Self { env, traffic, on: Some((sink, sample)) }, exporter)
    }

    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// A request's place in a trace: under that of its caller, if the caller has one, and a place of its own where something is
    /// recorded. `None` costs nothing.
    pub fn begin(&self, caller: Option<TraceContext>) -> Option<Trace> {
        let (now, at) = (self.env.now(), Instant::now());
        match (caller, &self.on) {
            (None, None) => None,
            (Some(caller), Some((sink, _))) if caller.is_sampled => Some(self.under(&caller, sink, (now, at))),
            // What is not recorded here is passed on as it came.
            (Some(caller), _) => Some(Trace::new(caller, None, (now, at), None)),
            (None, Some((sink, sample))) => Some(self.first(sink, *sample, (now, at))),
        }
    }

    fn under(&self, caller: &TraceContext, sink: &Sink, now: (Timestamp, Instant)) -> Trace {
        let context = TraceContext { span: sink.fresh(), ..caller.clone() };
        Trace::new(context, Some(caller.span), now, Some(sink.clone()))
    }

    /// A trace that begins here.
    fn first(&self, sink: &Sink, sample: f64, now: (Timestamp, Instant)) -> Trace {
        let mut trace: [u8; 16] = self.env.random();
        trace[15] |= u8::from(trace == [0; 16]);
        let is_sampled = is_sampled(&trace, sample);
        let context = TraceContext { trace, span: sink.fresh(), is_sampled, is_random: false, state: None };
        Trace::new(context, None, now, is_sampled.then(|| sink.clone()))
    }
}

impl fmt::Debug for Tracer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tracer").field("is_on", &self.on.is_some()).finish_non_exhaustive()
    }
}

/// Decided by the trace's own id, so that all who sample the same share sample the same traces.
fn is_sampled(trace: &[u8; 16], share: f64) -> bool {
    // 53 bits are as many as a double tells apart.
    let mut last = [0; 8];
    last.copy_from_slice(&trace[8..]);
    let place = (u64::from_be_bytes(last) >> 11) as f64 / (1_u64 << 53) as f64;
    place < share
}

/// Sends what was recorded.
pub struct Exporter {
    settings: Settings,
    outbound: Outbound,
    instance: String,
    spans: mpsc::Receiver<Span>,
    traffic: Arc<Traffic>,
}

impl Exporter {
    /// Sends batches until `stopping`, and once more what is left.
    pub async fn run(mut self, stopping: CancellationToken) {
        let mut fails = false;
        let mut batch = Vec::with_capacity(BATCH);
        while let Some(more) = stopping.run_until_cancelled(self.gather(&mut batch)).await {
            if !more {
                break;
            }
            let patience = async {
                stopping.cancelled().await;
                tokio::time::sleep(LAST_PATIENCE).await;
            };
            let sent = tokio::select! {
                sent = self.send(&batch, PATIENCE) => sent,
                () = patience => Err("the gateway stops".to_owned()),
            };
            self.count(&batch, sent, &mut fails);
            batch.clear();
        }
        self.spans.close();
        while batch.len() < BATCH
            && let Ok(span) = self.spans.try_recv()
        {
            batch.push(span);
        }
        if !batch.is_empty() {
            let sent = self.send(&batch, LAST_PATIENCE).await;
            self.count(&batch, sent, &mut fails);
        }
        self.traffic.dropped.fetch_add(self.spans.len() as u64, Ordering::Relaxed);
    }

    /// Waits for a span, and for those that come soon after it. Whether there is any.
    async fn gather(&mut self, batch: &mut Vec<Span>) -> bool {
        let room = BATCH.saturating_sub(batch.len());
        if self.spans.recv_many(batch, room).await == 0 {
            return false;
        }
        let until = Instant::now() + GATHERING;
        while batch.len() < BATCH {
            let room = BATCH - batch.len();
            match tokio::time::timeout_at(until, self.spans.recv_many(batch, room)).await {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
        }
        true
    }

    async fn send(&self, batch: &[Span], patience: Duration) -> Result<(), String> {
        let deadline = Instant::now() + patience;
        let mut request = Request::new(Bytes::from(otlp::request(batch, &self.instance)));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.settings.endpoint.clone();
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        request.headers_mut().extend(self.settings.headers.iter().cloned());
        let answer = self.outbound.send(request, deadline).await.map_err(|error| error.to_string())?;
        let status = answer.status();
        // Read, so that the connection can be used again; what it says may be anything.
        let read = read_all(answer.into_body(), MAX_ANSWER, deadline).await;
        if !status.is_success() {
            return Err(format!("it answered with status {}", status.as_u16()));
        }
        read.map(drop).map_err(|error| error.to_string())
    }

    /// Tells once that a collector is gone, and once that it is back.
    fn count(&self, batch: &[Span], sent: Result<(), String>, fails: &mut bool) {
        let count = batch.len() as u64;
        match sent {
            Ok(()) => {
                self.traffic.sent.fetch_add(count, Ordering::Relaxed);
                if std::mem::take(fails) {
                    tracing::info!("the collector of traces takes spans again");
                }
            }
            Err(reason) => {
                self.traffic.failed.fetch_add(count, Ordering::Relaxed);
                if !std::mem::replace(fails, true) {
                    tracing::warn!(reason, "the collector of traces takes no spans; they are counted and dropped");
                }
            }
        }
    }
}

impl fmt::Debug for Exporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Exporter")
    }
}
