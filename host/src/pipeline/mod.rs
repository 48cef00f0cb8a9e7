//! **Start here**: the life of one MCP request, from a known caller to an answer.
//!
//! `http::mcp` has read the message once and `identity` has said who calls. From here on each stage hands the next a
//! type that could not exist had the stage not passed: a call is resolved to one tool, a `Permit<Call>` was allowed by
//! the policies, and only a permit can be sent. Everything is decided on one [`Snapshot`], pinned when the request
//! began, so that a reload in between changes nothing for it.
//!
//! [`calls`] is the life of a `tools/call`, [`items`] that of everything else that goes to an upstream, [`lists`] what a
//! caller sees. [`rounds`] answers what an upstream wants to know in between, [`state`] is what a caller brings back.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ::http::{HeaderName, HeaderValue};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::env::Env;
use crate::identity::{Caller, Keyring};
use crate::ids::UpstreamName;
use crate::mcp::call::Outcome;
use crate::mcp::param_headers;
use crate::mcp::revision::{Answer, Discovery, Request, Revision, capabilities};
use crate::mcp::talk::{Ask, Event, Party, Question, Via};
use crate::policy::{self, Permit, PolicySet, Transport};
use crate::secret::DeploymentSecret;
use crate::store::decisions::Recorder;
use crate::upstream::catalog::{Catalog, Tool, View};
use crate::upstream::{PartyKey, Upstream, UpstreamError};

mod calls;
mod items;
mod lists;
mod recording;
mod rounds;
mod scope;
pub mod state;
mod tasks;

pub use items::watch;
pub use lists::{listing_digest, offered};
pub use scope::{Scope, ScopeError};
pub use tasks::exposed;

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
    /// Items on one page of a list.
    pub list_page: usize,
    /// How long a caller has to answer what it is asked.
    pub ask_timeout: std::time::Duration,
    /// Which tool a task is of, by its upstream and the upstream's own id: policies look at what it comes to.
    pub task_tools: TaskTools,
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
}

#[cfg(test)]
impl Services {
    /// With a store in memory and a secret of its own.
    pub(crate) async fn for_tests() -> Self {
        use crate::store::{Location, Store, decisions};
        let env = Env::system();
        let store = Store::open(Location::Memory, env.clone()).await.expect("memory is there");
        let (decisions, _keeper) = decisions::recorder(store, decisions::Retention::default());
        let secret = DeploymentSecret::new(&[7; 32]);
        Self {
            env,
            secret,
            decisions,
            list_page: 100,
            ask_timeout: std::time::Duration::from_secs(60),
            task_tools: Self::task_tools(),
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
    let method = request.method();
    match request {
        Request::Ping => Ok(Answer::Empty),
        Request::Discover => Ok(Answer::Discovery(discovery(snapshot, origin))),
        Request::List { kind, cursor, params: _ } => lists::page(snapshot, services, origin, kind, cursor.as_deref()),
        // The branches are boxed, so that each pays for its own size only.
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

/// Whether an upstream's question may reach the caller's client. Where it may not it is answered here, so that the
/// upstream does not wait.
pub fn admit(snapshot: &Snapshot, origin: &Origin, ask: Ask) -> Option<Permit<Ask>> {
    match snapshot.policies.check_ask(&origin.party.client, ask) {
        Ok(permit) => Some(permit),
        Err(ask) => {
            rounds::refuse(ask);
            None
        }
    }
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

/// A hidden item is answered like one that does not exist.
fn hide(refusal: policy::Refusal, unknown: impl FnOnce() -> Refusal) -> Refusal {
    match refusal {
        policy::Refusal::Hidden => unknown(),
        refusal => Refusal::Policy(refusal),
    }
}

/// The answer to a request that went to an upstream.
fn done(method: &'static str, outcome: Outcome) -> Answer {
    Answer::Done { method, outcome }
}
