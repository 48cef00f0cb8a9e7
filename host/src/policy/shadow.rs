//! Policies in shadow mode: asked once the response is on its way, to be written down and nothing else.
//!
//! A shadow sees what passed, or would have: a call as the policies in force left it, a result as it came. It has
//! counters of its own, and what it takes long for nobody waits for. What is to be asked waits in a queue of bounded
//! length and size, worked off by one task; what finds no room is not asked, and counted.
//!
//! The record of a decision waits for its shadows, so that their steps stand in it, marked `would_…`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::asking::{Asking, CallContext, Transport};
use super::authority::AuthorityQuestion;
use super::bindings::{BoundPolicy, PolicySet};
use super::counters::Charges;
use super::decision::{Hook, Refusal, Satisfied, Step};
use super::items::{AskedOf, Used};
use super::lists::{ItemKind, ListedItem, Standing};
use super::matching::About;
use super::result::Shape;
use crate::env::Timestamp;
use crate::identity::Caller;
use crate::ids::{DecisionId, UpstreamName};
use crate::mcp::call::{Access, Call};
use crate::upstream::catalog::Tool;

/// Decisions that may wait for their shadows.
const QUEUE: usize = 1024;
/// What they may hold together, in bytes.
const MAX_QUEUED_BYTES: usize = 32 << 20;
/// What one question costs besides its texts.
const OVERHEAD_BYTES: usize = 1 << 10;

/// A question for policies in shadow, and what is needed to ask it later.
#[derive(Debug)]
pub struct Shadow {
    around: Surroundings,
    question: Question,
    /// Whether the policies in force let it pass.
    passed: bool,
}

/// What was to be decided.
#[derive(Debug)]
pub(super) enum Question {
    Tools(Vec<Arc<Tool>>),
    Items(Vec<OwnedItem>),
    Call(Call),
    Result { tool: Arc<Tool>, result: Box<RawValue>, elapsed_ms: u32 },
    Access(Access),
    ItemResult { used: Used, shape: Shape, result: Box<RawValue> },
    Ask { upstream: UpstreamName, method: String, params: Option<Box<RawValue>> },
    Authority(Box<AuthorityQuestion>),
}

/// An item of a list.
#[derive(Debug)]
pub(super) struct OwnedItem {
    kind: ItemKind,
    upstream: UpstreamName,
    id: String,
    mime: Option<String>,
}

impl OwnedItem {
    pub(super) fn of(item: &ListedItem<'_>) -> Self {
        let ListedItem { kind, upstream, id, mime } = *item;
        Self { kind, upstream: upstream.clone(), id: id.to_owned(), mime: mime.map(ToOwned::to_owned) }
    }

    fn listed(&self) -> ListedItem<'_> {
        let Self { kind, upstream, id, mime } = self;
        ListedItem { kind: *kind, upstream, id, mime: mime.as_deref() }
    }
}

/// A [`CallContext`] that stands for itself.
#[derive(Debug)]
struct Surroundings {
    decision: DecisionId,
    caller: Caller,
    revision: String,
    session: Option<String>,
    transport: Transport,
    remote_ip: Option<std::net::IpAddr>,
    user_agent: Option<String>,
    trace_id: Option<String>,
    now: Timestamp,
    satisfied: Vec<Satisfied>,
}

impl Surroundings {
    fn of(ctx: &CallContext<'_>) -> Self {
        let owned = |text: Option<&str>| text.map(ToOwned::to_owned);
        Self {
            decision: ctx.decision.clone(),
            caller: ctx.caller.clone(),
            revision: ctx.revision.to_owned(),
            session: owned(ctx.session),
            transport: ctx.transport,
            remote_ip: ctx.remote_ip,
            user_agent: owned(ctx.user_agent),
            trace_id: owned(ctx.trace_id),
            now: ctx.now,
            satisfied: ctx.satisfied.to_vec(),
        }
    }

    fn context<'a>(&'a self, charges: &'a Charges) -> CallContext<'a> {
        CallContext {
            decision: self.decision.clone(),
            caller: &self.caller,
            revision: &self.revision,
            session: self.session.as_deref(),
            transport: self.transport,
            remote_ip: self.remote_ip,
            user_agent: self.user_agent.as_deref(),
            trace_id: self.trace_id.as_deref(),
            trace: None,
            now: self.now,
            charges,
            satisfied: &self.satisfied,
            view: None,
        }
    }
}

impl Shadow {
    pub(super) fn of(ctx: &CallContext<'_>, question: Question, passed: bool) -> Self {
        Self { around: Surroundings::of(ctx), question, passed }
    }

    /// About how much memory it takes.
    fn bytes(&self) -> usize {
        let text = |text: &Option<Box<RawValue>>| text.as_ref().map_or(0, |text| text.get().len());
        let variable = match &self.question {
            Question::Tools(tools) => 8 * tools.len(),
            Question::Items(items) => items.iter().map(|item| 128 + item.id.len()).sum(),
            Question::Call(call) => call.arguments().map_or(0, |arguments| arguments.get().len()),
            Question::Result { result, .. } | Question::ItemResult { result, .. } => result.get().len(),
            Question::Access(access) => {
                access.params.members.iter().map(|(name, value)| name.len() + value.get().len()).sum()
            }
            Question::Ask { params, .. } => text(params),
            Question::Authority(question) => question.bytes(),
        };
        OVERHEAD_BYTES + variable
    }
}

/// What a binding in shadow would have done since it was loaded.
#[derive(Debug, Default)]
pub struct ShadowTally {
    asked: AtomicU64,
    stricter: AtomicU64,
    milder: AtomicU64,
}

impl ShadowTally {
    /// Questions that it was asked.
    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    /// Those of which it would have refused, hidden or changed something that passed.
    pub fn stricter(&self) -> u64 {
        self.stricter.load(Ordering::Relaxed)
    }

    /// Those which it would have let pass, and that were refused.
    pub fn milder(&self) -> u64 {
        self.milder.load(Ordering::Relaxed)
    }

    fn count(&self, step: &Step, passed: bool) {
        let hides = |step: &Step| step.notes.iter().any(|note| note.key == "hidden" && note.value != "0");
        let (lets_pass, objects) = match step.verdict {
            "would_allow" | "would_release" | "would_pass" | "would_show" => (true, false),
            "would_abstain" => (false, false),
            "would_filter" => (false, hides(step)),
            _ => (false, true),
        };
        self.asked.fetch_add(1, Ordering::Relaxed);
        if passed && objects {
            self.stricter.fetch_add(1, Ordering::Relaxed);
        }
        if !passed && lets_pass {
            self.milder.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Where questions for policies in shadow wait. Cheap to clone; all clones are one queue.
#[derive(Clone, Debug)]
pub struct Shadows {
    queue: mpsc::Sender<Job>,
    queued_bytes: Arc<AtomicUsize>,
    dropped: Arc<AtomicU64>,
}

/// What waits of one decision.
struct Job {
    policies: Arc<PolicySet>,
    shadows: Vec<Shadow>,
    bytes: usize,
    done: Done,
}

/// Takes the steps of the shadows.
type Done = Box<dyn FnOnce(Vec<Step>) + Send>;

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job").field("shadows", &self.shadows.len()).finish_non_exhaustive()
    }
}

/// Works off the queue.
#[derive(Debug)]
pub struct ShadowRunner {
    queue: mpsc::Receiver<Job>,
    queued_bytes: Arc<AtomicUsize>,
}

/// An empty queue, and what works it off.
pub fn shadows() -> (Shadows, ShadowRunner) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let queued_bytes = Arc::new(AtomicUsize::new(0));
    let shadows = Shadows { queue: sender, queued_bytes: queued_bytes.clone(), dropped: Arc::default() };
    (shadows, ShadowRunner { queue: receiver, queued_bytes })
}

impl Shadows {
    /// Asks later, in the order of submission, and hands the steps to `done`. Where there is nothing to ask, or no room,
    /// `done` is called at once, without any.
    pub fn submit(
        &self,
        policies: &Arc<PolicySet>,
        shadows: Vec<Shadow>,
        done: impl FnOnce(Vec<Step>) + Send + 'static,
    ) {
        if shadows.is_empty() {
            return done(Vec::new());
        }
        let bytes = shadows.iter().map(Shadow::bytes).sum();
        let before = self.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        let job = Job { policies: policies.clone(), shadows, bytes, done: Box::new(done) };
        let refused = if before + bytes > MAX_QUEUED_BYTES {
            Some(job)
        } else {
            self.queue.try_send(job).err().map(mpsc::error::TrySendError::into_inner)
        };
        if let Some(Job { shadows, bytes, done, .. }) = refused {
            self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.dropped.fetch_add(shadows.len() as u64, Ordering::Relaxed);
            done(Vec::new());
        }
    }

    /// Questions that found no room.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl ShadowRunner {
    /// Asks what waits until `shutdown` fires. What waits then is not asked any more.
    pub async fn run(mut self, shutdown: CancellationToken) {
        while let Some(Some(job)) = shutdown.run_until_cancelled(self.queue.recv()).await {
            let Job { policies, shadows, bytes, done } = job;
            let mut steps = Vec::new();
            for shadow in &shadows {
                steps.extend(policies.ask_shadows(shadow).await);
                // Policies take their time, and others have theirs in between.
                tokio::task::yield_now().await;
            }
            self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            done(steps);
        }
        self.queue.close();
        while let Ok(Job { done, .. }) = self.queue.try_recv() {
            done(Vec::new());
        }
    }
}

impl PolicySet {
    /// Asks the policies in shadow what those in force were asked.
    pub(super) async fn ask_shadows(&self, shadow: &Shadow) -> Vec<Step> {
        self.ask_shadows_at(&Charges::default(), shadow).await
    }

    /// The same, where what they take from counters is charged like this.
    pub(super) async fn ask_shadows_at(&self, charges: &Charges, shadow: &Shadow) -> Vec<Step> {
        let ctx = shadow.around.context(charges);
        let mut steps = Vec::new();
        for policy in self.shadows_of(shadow) {
            let before = steps.len();
            // What it comes to is in the steps.
            _ = self.ask_shadow(policy, &ctx, &shadow.question, &mut steps).await;
            for step in &steps[before..] {
                policy.shadow_tally().count(step, shadow.passed);
            }
        }
        steps
    }

    /// The policies in shadow that are to be asked.
    fn shadows_of<'a>(&'a self, shadow: &'a Shadow) -> Vec<&'a BoundPolicy> {
        let caller = &shadow.around.caller;
        match &shadow.question {
            Question::Tools(_) => self.shadows_at_all(Hook::ListTools, caller).collect(),
            Question::Items(_) => self.shadows_at_all(Hook::ListItems, caller).collect(),
            Question::Call(call) => self.shadows(Hook::ToolCall, About::Tool(&call.tool), caller).collect(),
            Question::Result { tool, .. } => self.shadows(Hook::ToolResult, About::Tool(tool), caller).collect(),
            Question::Access(access) => {
                let about = About::Item { upstream: &access.upstream, id: access.item.name() };
                self.shadows(Hook::ItemAccess, about, caller).collect()
            }
            Question::ItemResult { used, .. } => self.shadows(Hook::ItemResult, used.about(), caller).collect(),
            Question::Ask { upstream, .. } => {
                self.shadows(Hook::ServerRequest, About::Question(upstream), caller).collect()
            }
            Question::Authority(question) => self.shadows(question.hook(), question.about(), caller).collect(),
        }
    }

    async fn ask_shadow(
        &self,
        policy: &BoundPolicy,
        ctx: &CallContext<'_>,
        question: &Question,
        steps: &mut Vec<Step>,
    ) -> Result<(), Refusal> {
        let texts = ctx.texts();
        match question {
            Question::Tools(tools) => {
                let mut standings: Vec<Standing> = tools.iter().map(|_| Standing::default()).collect();
                self.ask_about_tools(ctx, &[policy], tools, &mut standings, steps).await?;
            }
            Question::Items(items) => {
                let items: Vec<ListedItem<'_>> = items.iter().map(OwnedItem::listed).collect();
                let mut standings: Vec<Standing> = items.iter().map(|_| Standing::default()).collect();
                self.ask_about_items(ctx, &[policy], &items, &mut standings, steps).await?;
            }
            Question::Call(call) => {
                let mut asking = Asking::new(self, ctx, &texts, Hook::ToolCall, &[policy], steps);
                self.ask_about_call(&mut asking, policy, ctx, call).await?;
            }
            Question::Result { tool, result, elapsed_ms } => {
                let mut asking = Asking::new(self, ctx, &texts, Hook::ToolResult, &[policy], steps);
                if let Some(mut open) = asking.open(&[policy], Shape::Tool, result)? {
                    self.ask_about_result(&mut asking, policy, tool, &mut open, *elapsed_ms).await?;
                }
            }
            Question::Access(access) => {
                let mut asking = Asking::new(self, ctx, &texts, Hook::ItemAccess, &[policy], steps);
                self.ask_about_access(&mut asking, policy, ctx, access).await?;
            }
            Question::ItemResult { used, shape, result } => {
                let mut asking = Asking::new(self, ctx, &texts, Hook::ItemResult, &[policy], steps);
                if let Some(mut open) = asking.open(&[policy], *shape, result)? {
                    self.ask_about_item_result(&mut asking, policy, used, &mut open).await?;
                }
            }
            Question::Ask { upstream, method, params } => {
                let mut asking = Asking::new(self, ctx, &texts, Hook::ServerRequest, &[policy], steps);
                let asked = AskedOf { upstream, method, params: params.as_deref() };
                self.ask_about_question(&mut asking, policy, asked).await?;
            }
            Question::Authority(question) => {
                self.ask_shadow_about_authority(policy, ctx, question, steps).await?;
            }
        }
        Ok(())
    }
}
