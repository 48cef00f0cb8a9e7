//! **Start here**: the life of one MCP request, from a known caller to an answer.
//!
//! `http::mcp` has read the message once and `identity` has said who calls. From here on each stage hands the next a
//! type that could not exist had the stage not passed: a [`Call`] is resolved to one tool, a `Permit<Call>` was allowed by
//! the policies, and only a permit can be sent. Everything is decided on one [`Snapshot`], pinned when the request
//! began, so that a reload in between changes nothing for it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::audit::{DecisionRecord, DecisionStep, RecordedOutcome, RecordedVerdict};
use crate::env::Env;
use crate::identity::{Caller, Keyring};
use crate::ids::{DecisionId, UpstreamName};
use crate::mcp::call::{Call, Notice, Outcome};
use crate::mcp::json::{Members, to_raw};
use crate::mcp::revision::{Answer, CallTool, Request, Revision, ToolsPage};
use crate::policy::{self, CallContext, Permit, PolicySet, Step, Transport, VisibleTool};
use crate::secret::DeploymentSecret;
use crate::store::decisions::Recorder;
use crate::upstream::catalog::{Catalog, Tool};
use crate::upstream::{Upstream, UpstreamError};

/// What requests are decided on. Immutable; a change is a new one, swapped whole.
pub struct Snapshot {
    pub keys: Arc<Keyring>,
    pub policies: Arc<PolicySet>,
    pub catalog: Arc<Catalog>,
    pub upstreams: Arc<Upstreams>,
}

/// The upstreams, by name.
pub type Upstreams = BTreeMap<UpstreamName, Arc<Upstream>>;

/// What the pipeline uses besides the snapshot.
pub struct Services {
    pub env: Env,
    pub secret: DeploymentSecret,
    pub decisions: Recorder,
    /// Tools on one page of `tools/list`.
    pub list_page: usize,
}

/// Where a request comes from.
pub struct Origin {
    pub caller: Caller,
    pub revision: Revision,
    pub session: Option<String>,
    pub remote_ip: Option<IpAddr>,
    pub user_agent: Option<String>,
    /// Receives progress and log messages while the request is under way.
    pub notices: mpsc::Sender<Notice>,
    /// Fires when the caller takes the request back.
    pub cancelled: CancellationToken,
}

/// Why a request has no answer. One mapping in `http::error` turns it into statuses and codes.
#[derive(Debug)]
pub enum Refusal {
    /// There is no such tool for this caller: unknown, not on the allow-list and hidden look the same.
    UnknownTool {
        name: String,
    },
    BadCursor,
    Policy(crate::policy::Refusal),
    Upstream {
        name: UpstreamName,
        error: UpstreamError,
    },
}

/// The life of a request.
pub async fn handle(
    snapshot: &Snapshot,
    services: &Services,
    origin: &Origin,
    request: Request,
) -> Result<Answer, Refusal> {
    match request {
        Request::Ping => Ok(Answer::Pong),
        Request::Discover => Ok(Answer::Discovery),
        Request::ListTools { cursor } => list_tools(snapshot, services, origin, cursor.as_deref()),
        Request::CallTool(call) => call_tool(snapshot, services, origin, call).await,
    }
}

/// `tools/list`: what the allow-list permits and no policy hides, in the order of names.
fn list_tools(
    snapshot: &Snapshot,
    services: &Services,
    origin: &Origin,
    cursor: Option<&str>,
) -> Result<Answer, Refusal> {
    let after = cursor.map(|cursor| open_cursor(services, cursor)).transpose()?;
    let allow = &origin.caller.allow;
    let candidates = snapshot.catalog.tools_after(after.as_deref());
    let mut candidates = candidates.filter(|tool| allow.permits(&tool.upstream, &tool.name)).cloned().peekable();
    let mut recording = Recording::start(services);
    let mut tools = Vec::new();
    let mut last = None;
    while tools.len() < services.list_page && candidates.peek().is_some() {
        let batch: Vec<Arc<Tool>> = candidates.by_ref().take(services.list_page - tools.len()).collect();
        last = batch.last().map(|tool| tool.exposed.clone());
        let filtered = snapshot.policies.filter(&recording.context(services, origin), &batch);
        recording.steps.extend(filtered.trail.0);
        tools.extend(filtered.tools.iter().map(listing));
    }
    let next_cursor = candidates.peek().and(last).map(|last| services.secret.sign(CURSOR, last.as_bytes()));
    let missing =
        snapshot.catalog.missing().iter().filter(|name| allow.reaches(name)).map(ToString::to_string).collect();
    if !recording.steps.is_empty() {
        recording.allow(snapshot, services, origin, RecordedOutcome::Result);
    }
    Ok(Answer::Tools(ToolsPage { tools, next_cursor, missing }))
}

/// A tool's definition as this caller sees it.
fn listing(visible: &VisibleTool) -> Box<RawValue> {
    let VisibleTool { tool, title, description } = visible;
    let mut listed = tool.listed.clone();
    if title.is_some() || description.is_some() {
        let mut members = Members::parse(listed.get()).expect("a listed definition is an object");
        for (name, text) in [("title", title), ("description", description)] {
            if let Some(text) = text {
                members.set(name, to_raw(text));
            }
        }
        listed = members.to_raw();
    }
    listed
}

/// Purpose of a signed list cursor.
const CURSOR: &str = "tools/list";

fn open_cursor(services: &Services, cursor: &str) -> Result<String, Refusal> {
    let payload = services.secret.open(CURSOR, cursor).ok_or(Refusal::BadCursor)?;
    String::from_utf8(payload).map_err(|_| Refusal::BadCursor)
}

/// `tools/call`: resolve, permit, send, inspect; and a record of it, however it ends.
async fn call_tool(
    snapshot: &Snapshot,
    services: &Services,
    origin: &Origin,
    call: CallTool,
) -> Result<Answer, Refusal> {
    let mut recording = Recording::start(services);
    recording.tool = Some(call.name.clone());
    let call = match resolve(snapshot, origin, call) {
        Ok(call) => call,
        Err(refusal) => {
            let reason = Some("unknown-tool".to_owned());
            recording.end(snapshot, services, origin, RecordedVerdict::Hidden, reason, RecordedOutcome::Refused);
            return Err(refusal);
        }
    };
    let tool = call.tool.clone();
    recording.upstream = Some(tool.upstream.clone());
    recording.tool = Some(tool.name.clone());

    let (permit, trail) = snapshot.policies.check(&recording.context(services, origin), call);
    recording.steps.extend(trail.0);
    let permit = match permit {
        Ok(permit) => permit,
        Err(refusal) => {
            recording.refuse(snapshot, services, origin, &refusal);
            return Err(hide(refusal, &tool));
        }
    };

    let outcome = match send(snapshot, origin, &tool, permit).await {
        Ok(outcome) => outcome,
        Err(error) => {
            let ending = if matches!(error, UpstreamError::Cancelled) {
                RecordedOutcome::Cancelled
            } else {
                RecordedOutcome::Error
            };
            recording.allow(snapshot, services, origin, ending);
            return Err(Refusal::Upstream { name: tool.upstream.clone(), error });
        }
    };

    let elapsed = recording.started.elapsed();
    let (outcome, trail) = snapshot.policies.inspect(&recording.context(services, origin), &tool, outcome, elapsed);
    recording.steps.extend(trail.0);
    match outcome {
        Ok(outcome) => {
            recording.allow(snapshot, services, origin, ending(&outcome));
            Ok(Answer::Called(outcome))
        }
        Err(refusal) => {
            recording.refuse(snapshot, services, origin, &refusal);
            Err(Refusal::Policy(refusal))
        }
    }
}

fn ending(outcome: &Outcome) -> RecordedOutcome {
    #[derive(serde::Deserialize)]
    struct ToolResult {
        #[serde(rename = "isError", default)]
        is_error: bool,
    }
    match outcome {
        Outcome::Error(_) => RecordedOutcome::Error,
        Outcome::Result(result) => match serde_json::from_str::<ToolResult>(result.get()) {
            Ok(ToolResult { is_error: true }) => RecordedOutcome::ToolError,
            _ => RecordedOutcome::Result,
        },
    }
}

/// The tool that the caller means, if the allow-list has it.
fn resolve(snapshot: &Snapshot, origin: &Origin, call: CallTool) -> Result<Call, Refusal> {
    let CallTool { name, arguments, extra, meta, progress_token } = call;
    let tool = snapshot.catalog.tool(&name).filter(|tool| origin.caller.allow.permits(&tool.upstream, &tool.name));
    let Some(tool) = tool.cloned() else { return Err(Refusal::UnknownTool { name }) };
    Ok(Call { tool, extra, arguments, meta, wants_progress: progress_token.is_some() })
}

async fn send(
    snapshot: &Snapshot,
    origin: &Origin,
    tool: &Tool,
    permit: Permit<Call>,
) -> Result<Outcome, UpstreamError> {
    let Some(upstream) = snapshot.upstreams.get(&tool.upstream) else {
        return Err(UpstreamError::Unreachable { reason: "it was removed".to_owned() });
    };
    upstream.send(permit, &origin.caller.principal, origin.notices.clone(), origin.cancelled.clone()).await
}

/// A hidden tool is answered like one that does not exist.
fn hide(refusal: policy::Refusal, tool: &Tool) -> Refusal {
    match refusal {
        policy::Refusal::Hidden => Refusal::UnknownTool { name: tool.exposed.clone() },
        refusal => Refusal::Policy(refusal),
    }
}

/// What the decision trail will say of a request.
struct Recording {
    decision: DecisionId,
    upstream: Option<UpstreamName>,
    /// The upstream's own name for the tool, or what the caller asked for if there is no such tool.
    tool: Option<String>,
    started: Instant,
    steps: Vec<Step>,
}

impl Recording {
    fn start(services: &Services) -> Self {
        let decision = DecisionId::generate(&services.env);
        Self { decision, upstream: None, tool: None, started: Instant::now(), steps: Vec::new() }
    }

    /// What policies see around this decision.
    fn context<'a>(&'a self, services: &Services, origin: &'a Origin) -> CallContext<'a> {
        CallContext {
            decision: self.decision.clone(),
            caller: &origin.caller,
            revision: origin.revision.as_str(),
            session: origin.session.as_deref(),
            transport: Transport::StreamableHttp,
            remote_ip: origin.remote_ip,
            user_agent: origin.user_agent.as_deref(),
            trace_id: None,
            now: services.env.now(),
        }
    }

    fn refuse(self, snapshot: &Snapshot, services: &Services, origin: &Origin, refusal: &policy::Refusal) {
        use policy::Refusal as R;
        let verdict = match refusal {
            R::Hidden => RecordedVerdict::Hidden,
            R::Denied { .. } | R::NoPolicyAllowed { .. } => RecordedVerdict::Deny,
            R::StepUp { .. } => RecordedVerdict::StepUp,
            R::Throttled { .. } => RecordedVerdict::Throttle,
            R::ApprovalNeeded { .. } => RecordedVerdict::Approve,
            R::PolicyFailed { .. } => RecordedVerdict::Error,
        };
        let decided_by = self.steps.iter().rev().find_map(|step| step.code.clone());
        let reason = decided_by.unwrap_or_else(|| refusal.check().to_owned());
        self.end(snapshot, services, origin, verdict, Some(reason), RecordedOutcome::Refused);
    }

    /// Ends a request that the policies let pass.
    fn allow(self, snapshot: &Snapshot, services: &Services, origin: &Origin, outcome: RecordedOutcome) {
        self.end(snapshot, services, origin, RecordedVerdict::Allow, None, outcome);
    }

    fn end(
        self,
        snapshot: &Snapshot,
        services: &Services,
        origin: &Origin,
        verdict: RecordedVerdict,
        reason_code: Option<String>,
        outcome: RecordedOutcome,
    ) {
        let elapsed = self.started.elapsed();
        let operation = if self.tool.is_some() { "tools/call" } else { "tools/list" };
        tracing::info!(
            decision = %self.decision,
            principal = %origin.caller.principal,
            revision = %origin.revision,
            operation,
            upstream = self.upstream.as_ref().map(UpstreamName::as_str),
            tool = self.tool.as_deref(),
            %verdict,
            reason = reason_code.as_deref(),
            %outcome,
            generation = snapshot.policies.generation(),
            elapsed_ms = elapsed.as_millis(),
            "request"
        );
        // A full queue is counted there; a call waits for no store.
        _ = services.decisions.try_record(DecisionRecord {
            id: self.decision.as_str().to_owned(),
            at: services.env.now(),
            principal: origin.caller.principal.clone(),
            operation: operation.to_owned(),
            upstream: self.upstream,
            tool: self.tool,
            revision: origin.revision.as_str().to_owned(),
            verdict,
            reason_code,
            generation: snapshot.policies.generation(),
            steps: self.steps.into_iter().map(decision_step).collect(),
            outcome,
            elapsed_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
        });
    }
}

fn decision_step(step: Step) -> DecisionStep {
    let Step { binding, module, hook, verdict, code, micros, notes: _ } = step;
    DecisionStep {
        binding,
        module_digest: module.to_string(),
        hook: hook.to_string(),
        verdict: RecordedVerdict::parse(verdict).unwrap_or(RecordedVerdict::Error),
        reason_code: code,
        micros,
    }
}
