//! **Start here**: the life of one MCP request, from a known caller to an answer.
//!
//! `http::mcp` has read the message once and `identity` has said who calls. From here on each stage hands the next a
//! type that could not exist had the stage not passed: a call is resolved to one tool, a `Permit<Call>` was allowed by
//! the policies, and only a permit can be sent. Everything is decided on one [`Snapshot`], pinned when the request
//! began, so that a reload in between changes nothing for it.
//!
//! [`access`] says who may use which upstream at all. [`calls`] is the life of a `tools/call`, [`items`] that of everything else that goes to an upstream, [`lists`] what a
//! caller sees. [`authority`] asks what a client may be granted, [`unattended`] what it gets by itself, [`registration`]
//! whether there may be such a client, [`renewal`] whether a refresh token may be used. [`approvals`] finds what somebody agreed to, or asks for it; [`rounds`] answers what an upstream
//! wants to know in between, [`questions`] says whether it may, [`state`] is what a caller brings back. [`credentials`] borrows what an upstream is
//! shown on the caller's behalf, [`elicitations`] are remembered for those who wait to hear that it is connected, [`personal`] has what upstreams show to this caller alone. [`mark`] and [`meters`] tell operators of it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ::http::{HeaderName, HeaderValue};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::audit::RecordedOutcome;
use crate::config::Auth;
use crate::connection::lending::Lender;
use crate::env::Env;
use crate::identity::{Caller, Keyring, People};
use crate::ids::{ReplicaId, UpstreamName};
use crate::mcp::call::Outcome;
use crate::mcp::param_headers;
use crate::mcp::revision::{Answer, Discovery, Request, Revision, capabilities};
use crate::mcp::talk::{Event, Party, Question, Via};
use crate::policy::{self, PolicySet, Shadows, Transport};
use crate::secret::DeploymentSecret;
use crate::store::changes;
use crate::store::decisions::Recorder;
use crate::store::{Store, StoreError, recordings};
use crate::telemetry::Tracer;
use crate::upstream::catalog::{Catalog, Tool, View};
use crate::upstream::{PartyKey, Upstream, UpstreamError};

pub mod access;
pub mod approvals;
pub mod authority;
mod calls;
pub mod credentials;
pub mod elicitations;
mod items;
mod lists;
mod mark;
mod meters;
pub mod personal;
mod questions;
mod recording;
#[cfg(test)]
mod recording_tests;
pub mod registration;
pub mod renewal;
mod rounds;
mod scope;
pub mod state;
mod tasks;
pub mod traffic;
pub mod unattended;

use approvals::Unapproved;
use credentials::Unconnected;
pub use items::{may_watch, watch};
pub use lists::{listing_digest, offered};
pub use mark::Mark;
use mark::Traced;
pub use meters::Meters;
pub use questions::admit;
use recording::Recording;
pub use scope::{Scope, ScopeError};
pub use tasks::{exposed, task_owner};

/// What requests are decided on. Immutable; a change is a new one, swapped whole. Cheap to clone.
#[derive(Clone)]
pub struct Snapshot {
    pub auth: Arc<Auth>,
    pub keys: Arc<Keyring>,
    /// What people with an account are to access.
    pub people: People,
    pub policies: Arc<PolicySet>,
    pub catalog: Arc<Catalog>,
    pub upstreams: Arc<Upstreams>,
    /// The revision of the store that keys and people are the state of, or an earlier one: whatever has changed since says
    /// whether that still holds.
    pub revision: changes::Revision,
}

#[cfg(test)]
impl Snapshot {
    /// Without upstreams and people, as an empty store has it.
    pub(crate) fn for_tests(auth: Auth, keys: Keyring, policies: PolicySet) -> Self {
        Self {
            auth: Arc::new(auth),
            keys: Arc::new(keys),
            people: People::default(),
            policies: Arc::new(policies),
            catalog: Arc::default(),
            upstreams: Arc::default(),
            revision: changes::Revision::default(),
        }
    }
}

/// The upstreams, by name.
pub type Upstreams = BTreeMap<UpstreamName, Arc<Upstream>>;

/// What the pipeline uses besides the snapshot.
pub struct Services {
    pub env: Env,
    /// This one among the replicas of the gateway.
    pub replica: ReplicaId,
    pub secret: DeploymentSecret,
    /// Where people open the gateway's pages.
    pub public_url: String,
    /// Keeps what upstreams are shown on callers' behalf.
    pub lender: Arc<dyn Lender>,
    /// What sessions were answered with whose caller lacks a connection.
    pub elicitations: Arc<elicitations::Elicitations>,
    /// For approvals.
    pub store: Store,
    pub decisions: Recorder,
    /// What policies are asked and answer, word for word, where the operator wants it kept.
    pub recordings: recordings::Recorder,
    /// What policies in shadow are still to be asked.
    pub shadows: Shadows,
    /// Items on one page of a list.
    pub list_page: usize,
    /// How long a caller has to answer what it is asked.
    pub ask_timeout: std::time::Duration,
    /// Which tool a task is of, by its upstream and the upstream's own id: policies look at what it comes to.
    pub task_tools: TaskTools,
    /// States of requests that were brought back and saved them what was charged before.
    pub spent: state::Spent,
    /// Catalogs with lists of people's own.
    pub personal: personal::PersonalCatalogs,
    pub meters: Meters,
    /// What came of requests lately.
    pub traffic: traffic::Traffic,
    pub tracer: Tracer,
}

/// See [`Services::task_tools`].
pub type TaskTools = moka::sync::Cache<(UpstreamName, String), Arc<Tool>>;

/// Tasks whose tools are remembered.
const MAX_TASKS: u64 = 100_000;
/// How long a task that nobody asks about is remembered.
const TASK_IDLE: std::time::Duration = std::time::Duration::from_secs(24 * 60 * 60);

impl Services {
    /// Room for the tools of tasks.
    pub fn task_tools() -> TaskTools {
        moka::sync::Cache::builder().max_capacity(MAX_TASKS).time_to_idle(TASK_IDLE).build()
    }

    /// Room for states that were brought back.
    pub fn spent() -> state::Spent {
        state::spent()
    }
}

#[cfg(test)]
impl Services {
    /// With a store in memory and a secret of its own.
    pub(crate) async fn for_tests() -> Self {
        use crate::connection::lending::Later;
        use crate::store::{Location, decisions};
        let env = Env::system();
        let store = Store::open(Location::Memory, env.clone()).await.expect("memory is there");
        let (decisions, _keeper) = decisions::recorder(store.clone(), decisions::Retention::default());
        let (recordings, _keeper) =
            recordings::recorder(store.clone(), recordings::Retention::default(), DeploymentSecret::new(&[7; 32]));
        let (shadows, _runner) = policy::shadows();
        let secret = DeploymentSecret::new(&[7; 32]);
        let tracer = Tracer::off(env.clone());
        Self {
            replica: ReplicaId::generate(&env),
            env,
            secret,
            public_url: "http://127.0.0.1:7400".to_owned(),
            lender: Arc::new(Later::default()),
            elicitations: Arc::default(),
            store,
            decisions,
            recordings,
            shadows,
            list_page: 100,
            ask_timeout: std::time::Duration::from_secs(60),
            task_tools: Self::task_tools(),
            spent: Self::spent(),
            personal: personal::PersonalCatalogs::new(Arc::default()),
            meters: Meters::new(false),
            traffic: traffic::Traffic::default(),
            tracer,
        }
    }
}

/// Who asks, from where, and the way back.
#[derive(Clone)]
pub struct Origin {
    pub caller: Caller,
    pub revision: Revision,
    pub scope: Scope,
    pub party: Party,
    pub transport: Transport,
    pub remote_ip: Option<IpAddr>,
    pub user_agent: Option<String>,
    /// `Mcp-Param-*` as received (2026-07-28).
    pub param_headers: Vec<(HeaderName, HeaderValue)>,
    /// What the edge knows of it besides.
    pub mark: Mark,
    /// Receives what upstreams say while the request is under way.
    pub events: mpsc::Sender<Event>,
    /// Fires when the caller takes the request back.
    pub cancelled: CancellationToken,
}

impl Origin {
    fn via(&self) -> Via {
        Via { party: self.party.clone(), events: self.events.clone(), cancelled: self.cancelled.clone() }
    }
}

/// Why a request has no answer. One mapping in `http::error` turns it into statuses and codes.
#[derive(Debug)]
pub enum Refusal {
    /// There is no such tool for this caller: unknown, not on the allow-list and hidden look the same.
    UnknownTool {
        name: String,
    },
    UnknownPrompt {
        name: String,
    },
    UnknownResource {
        uri: String,
    },
    UnknownTask,
    /// The method is nothing that this caller's upstreams have.
    UnknownMethod,
    BadCursor,
    /// A `requestState` that is not ours, not this caller's, of another request, or too old.
    BadState,
    /// `Mcp-Param-*` and the arguments differ (2026-07-28).
    HeaderMismatch(param_headers::Mismatch),
    /// The caller's client did not answer what the upstream has to know.
    Unanswered {
        question: Question,
    },
    Policy(crate::policy::Refusal),
    /// The same, for something that is not a call of a tool, and has no result that a model would read.
    PolicyOnItem(crate::policy::Refusal),
    /// The policies want somebody to agree, and nobody has.
    Unapproved(Box<Unapproved>),
    /// Its upstream is used with somebody's own account, and none is connected.
    Unconnected(Box<Unconnected>),
    /// Whether somebody agreed cannot be known.
    Store(StoreError),
    Upstream {
        name: UpstreamName,
        error: UpstreamError,
    },
}

/// The life of a request, counted and, where it is in a trace, told to it.
pub async fn handle(
    snapshot: &Snapshot,
    services: &Arc<Services>,
    origin: &Origin,
    request: Request,
) -> Result<Answer, Refusal> {
    let (method, begun) = (request.method(), Instant::now());
    let traced = Traced::of(services, origin, &request);
    let within = traced.as_ref().map_or(origin, |traced| &traced.origin);
    let answered = answer(snapshot, services, within, request).await;
    services.meters.answered(method, origin.revision.is_legacy(), &answered, begun.elapsed());
    if let Some(traced) = traced {
        traced.end(&answered);
    }
    answered
}

/// The life of a request.
async fn answer(
    snapshot: &Snapshot,
    services: &Arc<Services>,
    origin: &Origin,
    request: Request,
) -> Result<Answer, Refusal> {
    let method = request.method();
    let own = match snapshot.catalog.personal() {
        [] => None,
        _ => Box::pin(personal::seen_by(snapshot, services, origin, personal::Need::of(&request))).await,
    };
    let snapshot = own.as_ref().unwrap_or(snapshot);
    match request {
        Request::Ping => Ok(Answer::Empty),
        Request::Discover => Ok(Answer::Discovery(discovery(snapshot, origin))),
        // The branches are boxed, so that each pays for its own size only.
        Request::List { kind, cursor, params: _ } => {
            Box::pin(lists::page(snapshot, services, origin, kind, cursor.as_deref())).await
        }
        Request::CallTool { name, params } => {
            Box::pin(calls::call_tool(snapshot, services, origin, name, params)).await
        }
        Request::Task { verb, id, params } => {
            Box::pin(tasks::access(snapshot, services, origin, verb, &id, params)).await
        }
        Request::SetLevel(level) => {
            for upstream in reached(snapshot, origin) {
                upstream.set_level(&origin.party, level).await;
            }
            Ok(Answer::Empty)
        }
        // These live as long as their stream, which belongs to the edge: it calls [`watch`].
        Request::Listen(_) | Request::Subscribe { .. } | Request::Unsubscribe { .. } => Err(Refusal::UnknownMethod),
        request => Box::pin(items::access(snapshot, services, origin, method, request)).await,
    }
}

fn discovery(snapshot: &Snapshot, origin: &Origin) -> Discovery {
    let (offered, instructions) = offered(snapshot, &origin.caller, &origin.scope);
    Discovery { capabilities: capabilities(origin.revision, &offered), instructions }
}

/// What of the catalog this caller's endpoint shows.
fn view<'a>(snapshot: &'a Snapshot, origin: &Origin) -> Option<&'a Arc<View>> {
    snapshot.catalog.view(origin.scope.endpoint())
}

/// The upstreams that the caller can have to do with.
fn reached<'a>(snapshot: &'a Snapshot, origin: &'a Origin) -> impl Iterator<Item = &'a Arc<Upstream>> {
    let reaches =
        |upstream: &&Arc<Upstream>| origin.scope.has(upstream.name()) && origin.caller.allow.reaches(upstream.name());
    snapshot.upstreams.values().filter(reaches)
}

/// Passes on what a caller tells its server (`notifications/roots/list_changed`, say) to the upstreams that have a
/// session with it.
pub async fn told(snapshot: &Snapshot, origin: &Origin, method: &str, params: Option<&serde_json::value::RawValue>) {
    for upstream in reached(snapshot, origin) {
        upstream.tell(&origin.party, method, params).await;
    }
}

/// Ends the sessions with upstreams that a caller's session had.
pub fn session_ended(snapshot: &Snapshot, party: &Party) {
    let key = PartyKey::of(party);
    for upstream in snapshot.upstreams.values() {
        upstream.end_session(&key);
    }
}

/// The upstream, if it is still there.
fn upstream<'a>(snapshot: &'a Snapshot, name: &UpstreamName) -> Result<&'a Arc<Upstream>, Refusal> {
    let removed = || UpstreamError::Unreachable { reason: "it was removed".to_owned() };
    snapshot.upstreams.get(name).ok_or_else(|| Refusal::Upstream { name: name.clone(), error: removed() })
}

/// Writes down what the policies said, and takes over what they decided.
fn settled<T>(
    recording: &mut Recording,
    (decided, trail): (Result<T, policy::Refusal>, policy::Trail),
) -> Result<T, Refusal> {
    recording.heard(trail);
    decided.map_err(Refusal::Policy)
}

/// Records how a request ended that was for an upstream. What is hidden from the caller is answered like what does not
/// exist.
fn end<T>(
    snapshot: &Snapshot,
    services: &Services,
    origin: &Origin,
    recording: Recording,
    ended: Result<T, Refusal>,
    ending: impl FnOnce(&T) -> RecordedOutcome,
    unknown: impl FnOnce() -> Refusal,
) -> Result<T, Refusal> {
    let is_call = recording.operation() == calls::METHOD;
    match &ended {
        Ok(answer) => recording.allow(snapshot, services, origin, ending(answer)),
        Err(Refusal::Policy(refusal)) => recording.refuse(snapshot, services, origin, refusal),
        Err(Refusal::Unapproved(unapproved)) => recording.unapproved(snapshot, services, origin, unapproved),
        Err(Refusal::Unconnected(unconnected)) => {
            recording.unconnected(snapshot, services, origin, &unconnected.lack);
        }
        Err(Refusal::Store(_)) => recording.undecided(snapshot, services, origin),
        Err(Refusal::Upstream { error: UpstreamError::Cancelled, .. }) => {
            recording.allow(snapshot, services, origin, RecordedOutcome::Cancelled);
        }
        Err(Refusal::Upstream { .. } | Refusal::Unanswered { .. }) => {
            recording.allow(snapshot, services, origin, RecordedOutcome::Error);
        }
        Err(refusal) => recording.unknown(snapshot, services, origin, reason(refusal)),
    }
    ended.map_err(|refusal| match refusal {
        Refusal::Policy(policy::Refusal::Hidden) => unknown(),
        Refusal::Policy(refusal) if !is_call => Refusal::PolicyOnItem(refusal),
        refusal => refusal,
    })
}

/// The word for why a request was about nothing that there is.
fn reason(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::HeaderMismatch(_) => "header-mismatch",
        Refusal::BadState => "bad-state",
        Refusal::UnknownTool { .. } => "unknown-tool",
        Refusal::UnknownTask => "unknown-task",
        _ => "unknown-item",
    }
}

/// How a request ended that has an answer.
fn ending(outcome: &Outcome) -> RecordedOutcome {
    #[derive(serde::Deserialize)]
    struct ToolResult {
        #[serde(rename = "isError", default)]
        is_error: bool,
    }
    match outcome {
        Outcome::Error(_) => RecordedOutcome::Error,
        Outcome::NeedsInput(_) => RecordedOutcome::Result,
        // Most results say nothing of it, and are not read.
        Outcome::Result(result) if memchr::memmem::find(result.get().as_bytes(), b"\"isError\"").is_none() => {
            RecordedOutcome::Result
        }
        Outcome::Result(result) => match serde_json::from_str::<ToolResult>(result.get()) {
            Ok(ToolResult { is_error: true }) => RecordedOutcome::ToolError,
            _ => RecordedOutcome::Result,
        },
    }
}

/// The answer to a request that went to an upstream.
fn done(method: &'static str, outcome: Outcome) -> Answer {
    Answer::Done { method, outcome }
}
