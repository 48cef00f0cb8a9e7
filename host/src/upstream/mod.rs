//! The MCP servers behind us: what they offer, and how what was permitted reaches them.
//!
//! [`Upstream::call`] and [`Upstream::access`] are the only ways to use one, and they take a [`Permit`] that only
//! `policy` makes. The transports know nothing of callers' credentials: an upstream sees its own credential, request ids
//! and progress tokens of ours, never a caller's. Of a caller's headers it sees those that its operator lets through.

use std::any::Any;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use ::http::{HeaderName, HeaderValue};
use arc_swap::{ArcSwap, ArcSwapOption};
use serde_json::value::RawValue;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::{self, UpstreamTransport};
use crate::connection::Holder;
use crate::connection::lending::{Lender, Rejected, Wanted, Withheld};
use crate::ids::{ConnectionId, Principal, UpstreamName};
use crate::mcp::call::{Access, Call, Item, Outcome, Params, Verb};
use crate::mcp::error::RESOURCE_NOT_FOUND;
use crate::mcp::json::{self, Members, to_raw};
use crate::mcp::message::RequestId;
use crate::mcp::param_headers;
use crate::mcp::revision::About;
use crate::mcp::talk::{LogLevel, Notice, Party, Via};
use crate::outbound::{Outbound, OutboundError};
use crate::policy::Permit;
use crate::tasks::Tasks;

pub mod catalog;
pub mod naming;

mod credential;
mod deadline;
mod http;
mod personal;
#[cfg(test)]
pub(crate) mod stand_in;
mod stdio;
mod sync;
mod traffic;
mod trying;

pub use traffic::Traffic;
pub use trying::{Stage, Tried, forget_trials};

use catalog::{Offer, Shelf};
use credential::Own;
use deadline::Deadline;
use personal::Personal;
#[cfg(test)]
pub(crate) use personal::testing;
pub use personal::{Clearance, Look, OwnList, Shown, Told, Whose};

/// Deepest nesting of an answer, or of what is told before it, that is passed on.
const MAX_ANSWER_DEPTH: usize = 512;
/// Changes of connections that whoever keeps something open may be behind with. Who is behind with more looks at once.
const MAX_CHANGES: usize = 64;

/// Why a request has no outcome.
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
    /// It does not speak of such things at all.
    #[error("it does not offer {what}")]
    Unsupported { what: &'static str },
    /// It says that there is nothing of that URI to subscribe to.
    #[error("it has no such resource")]
    NoResource,
    #[error("too many calls wait for it")]
    Busy,
    #[error("cancelled by the caller")]
    Cancelled,
    /// What it was shown is not good enough; nothing happened.
    #[error("{why}")]
    Rejected {
        why: Rejected,
        /// The connection that it was shown, and its revision: whoever waited for another's request hears of that one's.
        of: (ConnectionId, u64),
    },
    /// There is nothing to show it.
    #[error("{0}")]
    Withheld(Withheld),
}

impl UpstreamError {
    /// What the error means by which an upstream answers a subscription.
    fn of_refused_subscription(error: &RawValue) -> Self {
        match sync::code_of(error) {
            Some(RESOURCE_NOT_FOUND) => Self::NoResource,
            _ => Self::Unsupported { what: "a subscription to this resource" },
        }
    }

    /// The word for logs and metrics.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => "unreachable",
            Self::Died => "died",
            Self::TimedOut { .. } => "timed-out",
            Self::Status { .. } => "status",
            Self::TooLarge { .. } => "too-large",
            Self::Protocol { .. } => "protocol",
            Self::Unsupported { .. } => "unsupported",
            Self::NoResource => "no-resource",
            Self::Busy => "busy",
            Self::Cancelled => "cancelled",
            Self::Rejected { .. } => "rejected",
            Self::Withheld(_) => "withheld",
        }
    }

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
    /// Unique among the requests to this upstream; also its progress token.
    id: RequestId,
    method: &'static str,
    /// What `Mcp-Name` says (2026-07-28).
    name: Option<String>,
    /// `Mcp-Param-*` (2026-07-28).
    headers: Vec<(HeaderName, HeaderValue)>,
    params: Params,
    via: Via,
    deadline: Deadline,
}

/// Whose session with an upstream is whose: callers' sessions have upstream sessions of their own, callers without one
/// share by what their clients declare.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PartyKey {
    principal: Principal,
    session: Option<Arc<str>>,
    capabilities: Option<Arc<str>>,
}

impl PartyKey {
    pub fn of(party: &Party) -> Self {
        let capabilities = match &party.session {
            Some(_) => None,
            None => Some(party.client.capabilities().get().into()),
        };
        Self { principal: party.principal.clone(), session: party.session.clone(), capabilities }
    }
}

/// How a link tells its upstream that something changed.
#[derive(Clone, Debug, Default)]
struct Signals {
    /// Its lists may have changed.
    stale: Arc<Notify>,
    /// Those of people, if they have lists of their own.
    personal: Option<Arc<Personal>>,
}

impl Signals {
    /// What this principal was shown of its lists may have changed.
    fn lists_changed(&self, principal: &Principal) {
        match &self.personal {
            Some(personal) if *principal != Principal::Gateway => personal.outdated(principal),
            Some(_) | None => self.stale.notify_one(),
        }
    }
}

/// Bounds of a link.
#[derive(Clone, Copy, Debug)]
struct LinkLimits {
    /// Largest message from the upstream, in bytes.
    message_bytes: usize,
    sessions: u64,
    session_idle: Duration,
}

/// Updates of a resource, until it is dropped.
#[derive(Debug)]
#[must_use]
pub struct Watch {
    _ends: tokio_util::sync::DropGuard,
    over: CancellationToken,
    /// What is in use for it.
    _holds: Option<Box<dyn Any + Send + Sync>>,
}

impl Watch {
    /// One that ends what waits for `ended` when it is dropped. It is over when `ended` is cancelled by another.
    fn until_dropped(ended: CancellationToken) -> Self {
        Self { over: ended.clone(), _ends: ended.drop_guard(), _holds: None }
    }

    /// Whether nothing more will be heard: what it was opened with is not lent any more, or what it was opened at is gone.
    pub fn is_over(&self) -> bool {
        self.over.is_cancelled()
    }

    /// The same, which keeps something until then.
    fn holding(self, kept: impl Any + Send + Sync) -> Self {
        Self { _holds: Some(Box::new(kept)), ..self }
    }
}

/// What is known of an upstream's health.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// No attempt has ended yet.
    Starting,
    Up {
        tools: usize,
    },
    /// What was last known of it stays listed, if it was up before.
    Down {
        reason: String,
    },
}

/// Something that went wrong with an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub reason: String,
    pub at: Instant,
}

/// An MCP server behind us, with its connections.
pub struct Upstream {
    settings: config::Upstream,
    ask_timeout: Duration,
    link: Link,
    next_id: AtomicU64,
    about: ArcSwapOption<About>,
    offer: ArcSwapOption<Offer>,
    health: ArcSwap<Health>,
    /// It lists nothing to whoever has no credential, as far as is known.
    is_closed: AtomicBool,
    personal: Option<Arc<Personal>>,
    /// When its health was last of another kind.
    since: ArcSwap<Instant>,
    failure: ArcSwapOption<Failure>,
    signals: Signals,
    own: Arc<Own>,
    /// Tells whoever keeps something open here whose connections have changed.
    changes: credential::Changes,
    traffic: Traffic,
    tasks: Tasks,
}

enum Link {
    Http(http::HttpLink),
    Stdio(stdio::StdioLink),
    /// A child for each principal.
    Programs(stdio::Programs),
}

/// Does the same with any link.
macro_rules! either {
    ($link:expr, $name:ident => $does:expr) => {
        match $link {
            Link::Http($name) => $does,
            Link::Stdio($name) => $does,
            Link::Programs($name) => $does,
        }
    };
}

impl Upstream {
    /// Starts what the transport needs (a child process, say). Reaching the server is left to [`Self::keep_synced`].
    pub fn start(
        settings: config::Upstream,
        (outbound, lender): (&Outbound, Arc<dyn Lender>),
        limits: &config::Limits,
        data_dir: &Path,
        tasks: &Tasks,
    ) -> Arc<Self> {
        let tasks = tasks.subgroup();
        let personal = Personal::of(&settings);
        let signals = Signals { personal: personal.clone(), ..Signals::default() };
        let own = Arc::new(Own::new(&settings, lender));
        let link_limits = LinkLimits {
            message_bytes: limits.upstream_message_bytes,
            sessions: limits.upstream_sessions,
            session_idle: limits.upstream_session_idle,
        };
        let link = match &settings.transport {
            UpstreamTransport::StreamableHttp { url, protocol, headers } => {
                let (name, url, headers) = (settings.name.clone(), url.clone(), headers.clone());
                let extra = settings.extra_headers.clone();
                let endpoint = http::Endpoint { name, url, protocol: *protocol, headers, extra };
                let shared = http::Shared { outbound: outbound.clone(), signals: signals.clone(), own: own.clone() };
                Link::Http(http::HttpLink::new(endpoint, shared, link_limits, tasks.clone()))
            }
            UpstreamTransport::Stdio {
                command,
                environment,
                working_dir,
                start_timeout,
                memory_limit,
                process_limit,
            } => {
                let program = stdio::Program {
                    name: settings.name.clone(),
                    command: command.clone(),
                    environment: environment.clone(),
                    working_dir: working_dir.clone(),
                    start_timeout: *start_timeout,
                    private_dir: data_dir.join("stdio").join(settings.name.as_str()),
                    limit: limits.upstream_message_bytes,
                    bounds: stdio::Bounds { memory: *memory_limit, processes: *process_limit },
                    era: None,
                };
                link_to(program, &settings.auth, (&own, &signals), &tasks)
            }
        };
        Arc::new(Self {
            settings,
            ask_timeout: limits.ask_timeout,
            link,
            next_id: AtomicU64::new(1),
            about: ArcSwapOption::empty(),
            offer: ArcSwapOption::empty(),
            health: ArcSwap::from_pointee(Health::Starting),
            is_closed: AtomicBool::new(false),
            personal,
            since: ArcSwap::from_pointee(Instant::now()),
            failure: ArcSwapOption::empty(),
            signals,
            own,
            changes: credential::Changes::new(MAX_CHANGES),
            traffic: Traffic::new(),
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

    /// What it was asked, since it was declared as it is.
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// How long it is up, down or starting.
    pub fn since(&self) -> Instant {
        **self.since.load()
    }

    /// What went wrong last, which may be over.
    pub fn last_failure(&self) -> Option<Arc<Failure>> {
        self.failure.load_full()
    }

    /// The credential that requests for `principal` need; `None` where it takes none but those of its configuration.
    pub fn wanted(&self, principal: &Principal) -> Option<Wanted> {
        credential::wanted(&self.settings, principal)
    }

    /// Something about the connection of this holder has changed, or perhaps of all.
    pub fn connection_changed(&self, holder: Option<&Holder>) {
        // Where nobody keeps anything open, nobody hears it.
        _ = self.changes.send(holder.cloned());
    }

    /// What it says of itself, once it was reached.
    pub fn known_about(&self) -> Option<Arc<About>> {
        self.about.load_full()
    }

    /// What it contributes to the catalog.
    pub fn shelf(&self) -> Shelf {
        let offer = self.offer.load_full();
        let shows_tools = offer.as_ref().is_some_and(|offer| !offer.tools.is_empty());
        // Of one that cannot be reached nobody knows what it shows.
        let shows_nothing = !shows_tools && (offer.is_some() || self.is_closed.load(Ordering::Relaxed));
        Shelf {
            upstream: self.settings.name.clone(),
            prefix: self.settings.prefix,
            about: self.about.load_full(),
            offer,
            stale: matches!(**self.health.load(), Health::Down { .. }),
            connect: self.personal.as_ref().map(|personal| personal.connect(shows_nothing)),
        }
    }

    /// Makes a permitted call. Notices and questions go to `via.events` as they arrive. When `via.cancelled` fires or the
    /// time is up, the upstream is told so.
    ///
    /// # Errors
    /// [`UpstreamError`]; an error that the upstream itself answered is an [`Outcome`].
    pub async fn call(&self, permit: Permit<Call>, via: Via) -> Result<Outcome, UpstreamError> {
        let longest = self.settings.call_timeout;
        let timeout = permit.timeout().map_or(longest, |shorter| shorter.min(longest));
        let call = permit.into_inner();
        let headers = param_headers::values(&call.tool.param_headers, call.arguments());
        let Call { tool, mut params } = call;
        params.members.set("name", to_raw(&tool.name));
        self.exchange("tools/call", Some(tool.name.clone()), headers, params, via, timeout).await
    }

    /// Uses a prompt, resource or task as permitted.
    ///
    /// # Errors
    /// As for [`Self::call`].
    pub async fn access(&self, permit: Permit<Access>, via: Via) -> Result<Outcome, UpstreamError> {
        let longest = self.settings.call_timeout;
        let timeout = permit.timeout().map_or(longest, |shorter| shorter.min(longest));
        let Access { verb, item, params, .. } = permit.into_inner();
        let name = (verb != Verb::Complete).then(|| item.name().to_owned());
        self.exchange(verb.method(), name, Vec::new(), params, via, timeout).await
    }

    /// Subscribes to a resource: its updates go to `via.events` under the URI `exposed` until the [`Watch`] is dropped. What it
    /// is opened with is borrowed anew, by what was `wanted` for it, whenever something else is lent; once nothing is, it is
    /// over.
    ///
    /// # Errors
    /// As for [`Self::call`], and [`UpstreamError::Unsupported`] and [`UpstreamError::NoResource`].
    pub async fn watch(
        &self,
        permit: Permit<Access>,
        exposed: &str,
        via: Via,
        wanted: Option<Wanted>,
    ) -> Result<Watch, UpstreamError> {
        let longest = self.settings.call_timeout;
        let deadline = self.deadline(permit.timeout().map_or(longest, |shorter| shorter.min(longest)));
        let Access { item, .. } = permit.into_inner();
        let Item::Resource { uri } = item else {
            return Err(UpstreamError::Unsupported { what: "subscriptions to anything but resources" });
        };
        let subscription = Subscription { uri, exposed: exposed.to_owned() };
        match &self.link {
            Link::Http(link) => {
                let borrower = wanted.map(|wanted| self.own.borrower(wanted, &self.changes));
                link.watch(subscription, via, borrower, deadline).await
            }
            Link::Stdio(link) => link.watch(subscription, via, deadline).await,
            // A child ends when its values are not lent any more, and its watches with it.
            Link::Programs(link) => link.watch(subscription, via, deadline).await,
        }
    }

    /// Tells the upstream what a caller tells its server, if there is a session between the two.
    pub async fn tell(&self, party: &Party, method: &str, params: Option<&RawValue>) {
        either!(&self.link, link => link.tell(party, method, params).await);
    }

    /// Tells the upstream which log messages a caller wants, if there is a session between the two.
    pub async fn set_level(&self, party: &Party, level: LogLevel) {
        either!(&self.link, link => link.set_level(party, level).await);
    }

    /// Ends the session with the upstream that a caller's session had.
    pub fn end_session(self: &Arc<Self>, key: &PartyKey) {
        either!(&self.link, link => link.end_session(key));
    }

    /// Asks for one of the upstream's lists, say, in the name of `own` and with that credential.
    async fn ask(
        &self,
        own: &Own,
        method: &'static str,
        params: Params,
        longest: Duration,
    ) -> Result<Outcome, UpstreamError> {
        let longest = longest.min(self.settings.call_timeout);
        let asked = async |party: &Party, params| {
            let (events, _) = mpsc::channel(1);
            let via = Via { party: party.clone(), events, cancelled: CancellationToken::new() };
            self.exchange(method, None, Vec::new(), params, via, longest).await
        };
        let party = own.party().await?;
        match asked(&party, params.clone()).await {
            Err(error @ UpstreamError::Rejected { .. }) => asked(&own.party_after(&party, error).await?, params).await,
            other => other,
        }
    }

    /// What the upstream says of itself; asked anew if the link does not know.
    async fn read_about(&self, longest: Duration) -> Result<Arc<About>, UpstreamError> {
        let deadline = self.deadline(longest.min(self.settings.call_timeout));
        let about = either!(&self.link, link => link.about(&deadline).await)?;
        self.about.store(Some(about.clone()));
        Ok(about)
    }

    /// What the upstream says of itself to `own`.
    async fn about_to(&self, own: &Own, longest: Duration) -> Result<Arc<About>, UpstreamError> {
        let deadline = self.deadline(longest.min(self.settings.call_timeout));
        match &self.link {
            Link::Http(link) => link.about_to(own, &deadline).await,
            // A program is the same to everybody.
            Link::Stdio(link) => link.about(&deadline).await,
            Link::Programs(link) => link.about(&deadline).await,
        }
    }

    async fn exchange(
        &self,
        method: &'static str,
        name: Option<String>,
        headers: Vec<(HeaderName, HeaderValue)>,
        mut params: Params,
        mut via: Via,
        timeout: Duration,
    ) -> Result<Outcome, UpstreamError> {
        let asking = self.traffic.begin(method, &mut params, &mut via);
        let outcome = self.try_exchange(method, name, headers, params, via, timeout).await;
        asking.end(self, outcome.as_ref());
        outcome
    }

    async fn try_exchange(
        &self,
        method: &'static str,
        name: Option<String>,
        headers: Vec<(HeaderName, HeaderValue)>,
        params: Params,
        via: Via,
        timeout: Duration,
    ) -> Result<Outcome, UpstreamError> {
        let id = RequestId::number(self.next_id.fetch_add(1, Ordering::Relaxed));
        let exchange = Exchange { id, method, name, headers, params, via, deadline: self.deadline(timeout) };
        let outcome = either!(&self.link, link => Box::pin(link.exchange(exchange)).await)?;
        if let Outcome::Error(error) = &outcome
            && !is_error(error)
        {
            return Err(UpstreamError::Protocol { what: "its error has no code or no message" });
        }
        match &outcome {
            Outcome::Result(text) | Outcome::Error(text) if !json::is_shallow(text.get(), MAX_ANSWER_DEPTH) => {
                Err(UpstreamError::Protocol { what: "its answer is nested too deeply" })
            }
            _ => Ok(outcome),
        }
    }

    fn deadline(&self, timeout: Duration) -> Deadline {
        Deadline::after(timeout, self.ask_timeout)
    }

    /// Hears of changes of the upstream's lists until it is stopped.
    pub async fn listen(self: Arc<Self>) {
        tokio::select! {
            () = async { either!(&self.link, link => link.listen().await) } => {}
            () = self.tasks.stopping().cancelled() => {}
        }
    }

    /// Ends connections and child processes, waiting for them at most `patience`.
    pub async fn stop(&self, patience: Duration) -> bool {
        // What is still being said, such as that a call is taken back, is said before its session ends.
        let ended = self.tasks.stop(patience).await;
        either!(&self.link, link => link.end_all(patience).await);
        ended
    }
}

/// The link to a program: one child for all, or one for each who gives it values.
fn link_to(
    program: stdio::Program,
    auth: &config::UpstreamAuth,
    (own, signals): (&Arc<Own>, &Signals),
    tasks: &Tasks,
) -> Link {
    let config::UpstreamAuth::PerUserEnvironment { max_programs, .. } = auth else {
        return Link::Stdio(stdio::StdioLink::start(program, signals.clone(), tasks));
    };
    let program = stdio::Program { private_dir: program.private_dir.join("each"), ..program };
    let (own, signals) = (own.clone(), signals.clone());
    Link::Programs(stdio::Programs::new(stdio::Shared { program, most: *max_programs, own, signals }, tasks))
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream").field("name", &self.settings.name).finish_non_exhaustive()
    }
}

/// Whether an object is a JSON-RPC error.
fn is_error(error: &RawValue) -> bool {
    #[derive(serde::Deserialize)]
    struct ErrorObject<'a> {
        #[serde(rename = "code")]
        _code: i64,
        #[serde(rename = "message", borrow)]
        _message: std::borrow::Cow<'a, str>,
    }
    serde_json::from_str::<ErrorObject<'_>>(error.get()).is_ok()
}

/// A resource, by the upstream's own URI and by the one under which its caller knows it.
#[derive(Clone, Debug)]
struct Subscription {
    uri: String,
    exposed: String,
}

/// What a notification from an upstream, received while request `id` is under way, means to its caller. `None` for what
/// is no caller's business.
fn read_notice(upstream: &UpstreamName, method: &str, params: Option<&RawValue>, id: &RequestId) -> Option<Notice> {
    if params.is_some_and(|params| !json::is_shallow(params.get(), MAX_ANSWER_DEPTH)) {
        return None;
    }
    match method {
        "notifications/progress" => {
            let params = Members::parse(params?.get()).ok()?;
            (params.get("progressToken")?.get() == id.as_json()).then_some(Notice::Progress(params))
        }
        "notifications/message" => Some(Notice::Log(Members::parse(params?.get()).ok()?)),
        _ if is_for_the_gateway(method) => None,
        _ => Some(Notice::Other {
            upstream: upstream.clone(),
            method: method.to_owned(),
            params: params.map(ToOwned::to_owned),
        }),
    }
}

/// Notifications that end here: they are about an upstream's lists and requests, which callers see through the catalog.
fn is_for_the_gateway(method: &str) -> bool {
    matches!(
        method,
        "notifications/tools/list_changed"
            | "notifications/prompts/list_changed"
            | "notifications/resources/list_changed"
            | "notifications/resources/updated"
            | "notifications/subscriptions/acknowledged"
            | "notifications/cancelled"
    )
}
