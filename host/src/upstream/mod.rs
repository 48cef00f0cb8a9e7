//! The MCP servers behind us: what they offer, and how a permitted call reaches them.
//!
//! [`Upstream::send`] is the only way to call a tool, and it takes a [`Permit`] that only `policy` makes. The transports
//! know nothing of callers: an upstream sees its own credential, request ids and progress tokens of ours, never a
//! caller's.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use serde_json::value::RawValue;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::{self, UpstreamTransport};
use crate::ids::{Principal, UpstreamName};
use crate::mcp::call::{Call, Notice, Outcome};
use crate::mcp::json::{Members, ObjectWriter, quote, raw};
use crate::mcp::message::RequestId;
use crate::outbound::{Outbound, OutboundError};
use crate::policy::Permit;
use crate::tasks::Tasks;

pub mod catalog;
mod http;
pub mod naming;
mod stdio;
mod sync;

use catalog::{Definition, Shelf};

/// Why a call has no outcome.
#[derive(Clone, Debug, thiserror::Error)]
pub enum UpstreamError {
    /// Nothing was sent.
    #[error("it cannot be reached: {reason}")]
    Unreachable { reason: String },
    /// It was sent, or may have been; nobody knows whether it happened.
    #[error("the connection ended before the answer; the call may have happened")]
    Died,
    #[error("no answer within {} s", after.as_secs_f32())]
    TimedOut { after: Duration },
    #[error("it answered with status {status}")]
    Status { status: u16 },
    #[error("its answer is larger than {limit} bytes")]
    TooLarge { limit: usize },
    #[error("it does not speak MCP: {what}")]
    Protocol { what: &'static str },
    #[error("too many calls wait for it")]
    Busy,
    #[error("cancelled by the caller")]
    Cancelled,
}

impl UpstreamError {
    fn from_outbound(error: OutboundError, after: Duration) -> Self {
        match error {
            OutboundError::Connect(source) => Self::Unreachable { reason: innermost(&source) },
            OutboundError::NoSocket(source) => Self::Unreachable { reason: source.to_string() },
            OutboundError::Broken(_) => Self::Died,
            OutboundError::TimedOut => Self::TimedOut { after },
            OutboundError::TooLarge { limit } => Self::TooLarge { limit },
        }
    }
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// One request to an upstream, transport and revision aside.
struct Exchange {
    id: RequestId,
    method: &'static str,
    params: Box<RawValue>,
    notices: mpsc::Sender<Notice>,
    timeout: Duration,
    deadline: Instant,
    cancelled: CancellationToken,
}

/// What is known of an upstream's health.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// No attempt has ended yet.
    Starting,
    Up {
        tools: usize,
    },
    /// Its last known tools stay listed, if it was up before.
    Down {
        reason: String,
    },
}

/// An MCP server behind us, with its connections.
pub struct Upstream {
    settings: config::Upstream,
    link: Link,
    next_id: AtomicU64,
    definitions: ArcSwapOption<Vec<Definition>>,
    health: ArcSwap<Health>,
    /// Its tools may have changed.
    stale: Arc<Notify>,
    tasks: Tasks,
}

enum Link {
    Http(http::HttpLink),
    Stdio(stdio::StdioLink),
}

impl Upstream {
    /// Starts what the transport needs (a child process, say). Reaching the server is left to [`Self::keep_synced`].
    pub fn start(
        settings: config::Upstream,
        outbound: &Outbound,
        limits: &config::Limits,
        data_dir: &Path,
        tasks: &Tasks,
    ) -> Arc<Self> {
        let tasks = tasks.subgroup();
        let stale = Arc::new(Notify::new());
        let limit = limits.upstream_message_bytes;
        let link = match &settings.transport {
            UpstreamTransport::StreamableHttp { url, headers } => {
                Link::Http(http::HttpLink::new(url.clone(), headers, outbound.clone(), limit, tasks.clone()))
            }
            UpstreamTransport::Stdio { command, environment, working_dir, start_timeout } => {
                let program = stdio::Program {
                    name: settings.name.clone(),
                    command: command.clone(),
                    environment: environment.clone(),
                    working_dir: working_dir.clone(),
                    start_timeout: *start_timeout,
                    private_dir: data_dir.join("stdio").join(settings.name.as_str()),
                    limit,
                };
                Link::Stdio(stdio::StdioLink::start(program, stale.clone(), &tasks))
            }
        };
        Arc::new(Self {
            settings,
            link,
            next_id: AtomicU64::new(1),
            definitions: ArcSwapOption::empty(),
            health: ArcSwap::from_pointee(Health::Starting),
            stale,
            tasks,
        })
    }

    pub fn name(&self) -> &UpstreamName {
        &self.settings.name
    }

    pub fn settings(&self) -> &config::Upstream {
        &self.settings
    }

    pub fn health(&self) -> Arc<Health> {
        self.health.load_full()
    }

    /// What it contributes to the catalog.
    pub fn shelf(&self) -> Shelf {
        Shelf {
            upstream: self.settings.name.clone(),
            prefix: self.settings.prefix,
            definitions: self.definitions.load_full(),
        }
    }

    /// Makes a permitted call. Progress and log messages go to `notices` as they arrive. When `cancelled` fires or the
    /// time is up, the upstream is told so.
    ///
    /// # Errors
    /// [`UpstreamError`]; an error that the upstream itself answered is an [`Outcome`].
    pub async fn send(
        &self,
        permit: Permit<Call>,
        principal: &Principal,
        notices: mpsc::Sender<Notice>,
        cancelled: CancellationToken,
    ) -> Result<Outcome, UpstreamError> {
        let timeout =
            permit.timeout().map_or(self.settings.call_timeout, |shorter| shorter.min(self.settings.call_timeout));
        let call = permit.into_call();
        let id = self.new_id();
        let params = call_params(&call, &id);
        self.exchange(principal, id, "tools/call", params, notices, timeout, cancelled).await
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one exchange, gathered here and nowhere else")]
    async fn exchange(
        &self,
        principal: &Principal,
        id: RequestId,
        method: &'static str,
        params: Box<RawValue>,
        notices: mpsc::Sender<Notice>,
        timeout: Duration,
        cancelled: CancellationToken,
    ) -> Result<Outcome, UpstreamError> {
        let deadline = Instant::now() + timeout;
        let exchange = Exchange { id, method, params, notices, timeout, deadline, cancelled };
        match &self.link {
            Link::Http(link) => link.exchange(principal, &exchange).await,
            Link::Stdio(link) => link.exchange(exchange).await,
        }
    }

    fn new_id(&self) -> RequestId {
        RequestId::number(self.next_id.fetch_add(1, Ordering::Relaxed))
    }

    /// Ends connections and child processes, waiting for them at most `patience`.
    pub async fn stop(&self, patience: Duration) -> bool {
        // What is still being said, such as that a call is taken back, is said before its session ends.
        let ended = self.tasks.stop(patience).await;
        if let Link::Http(link) = &self.link {
            link.end_sessions(patience).await;
        }
        ended
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream").field("name", &self.settings.name).finish_non_exhaustive()
    }
}

/// `params` of `tools/call` under the upstream's own name for the tool. The progress token is our request id, which no
/// two calls share.
fn call_params(call: &Call, id: &RequestId) -> Box<RawValue> {
    let mut params = ObjectWriter::default();
    params.member("name", &quote(&call.tool.name));
    if let Some(arguments) = &call.arguments {
        params.member("arguments", arguments.get());
    }
    for (name, value) in call.extra.iter() {
        params.member(name, value.get());
    }
    let mut meta: Members = call.meta.clone();
    if call.wants_progress {
        meta.set("progressToken", raw(id.as_json().to_owned()));
    }
    if !meta.is_empty() {
        params.member("_meta", meta.to_raw().get());
    }
    params.finish()
}

/// What a notification from an upstream, received while request `id` is under way, means to its caller.
fn read_notice(method: &str, params: Option<&RawValue>, id: &RequestId) -> Option<Notice> {
    let params = Members::parse(params?.get()).ok()?;
    match method {
        "notifications/progress" if params.get("progressToken")?.get() == id.as_json() => {
            Some(Notice::Progress(params))
        }
        "notifications/message" => Some(Notice::Log(params)),
        _ => None,
    }
}
