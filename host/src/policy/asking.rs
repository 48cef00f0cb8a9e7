//! Asking one policy one question: what it is sent, how long it may take, and what is written down of it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::value::RawValue;

use super::answer::Override;
use super::bindings::{BoundPolicy, PolicySet};
use super::contract::hook::HookType;
use super::contract::types;
use super::counters::Charges;
use super::decision::{Failure, Halt, Hook, Note, Reason, Recorded, Refusal, Satisfied, Step, Verdict};
use super::imports::{Imports, Transcript};
use super::instance::{Run, Spent};
use super::result::{Open, Shape};
use super::text::one_line;
use crate::config::Mode;
use crate::env::Timestamp;
use crate::identity::caller::Caller;
use crate::ids::{DecisionId, Principal, UpstreamName};
use crate::mcp::json::{Members, ObjectWriter, to_raw};
use crate::telemetry::{Tag, Trace};
use crate::upstream::catalog::{PinStanding, Tool, View};

const MAX_USER_AGENT_BYTES: usize = 512;
/// When a request that found no room for a policy may come again, in milliseconds.
const BUSY_RETRY_MS: u64 = 1000;
/// The word for a step of a policy that failed.
const ERROR: &str = "error";

/// What surrounds a decision.
#[derive(Clone, Debug)]
pub struct CallContext<'a> {
    pub decision: DecisionId,
    pub caller: &'a Caller,
    /// The MCP revision that the caller speaks.
    pub revision: &'a str,
    /// The MCP session, for revisions that have sessions.
    pub session: Option<&'a str>,
    pub transport: Transport,
    pub remote_ip: Option<IpAddr>,
    pub user_agent: Option<&'a str>,
    /// W3C trace id.
    pub trace_id: Option<&'a str>,
    /// Where what policies take is noted.
    pub trace: Option<&'a Trace>,
    pub now: Timestamp,
    /// What policies have taken from counters for this decision.
    pub charges: &'a Charges,
    /// Approvals and step-ups that were already given for it.
    pub satisfied: &'a [Satisfied],
    /// The part of the catalog that the caller looks at: what policies said of its tools is remembered for a while.
    /// Without it, nothing is remembered.
    pub view: Option<&'a Arc<View>>,
}

/// How a request reached the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    StreamableHttp,
    Stdio,
    Sse,
    /// The gateway itself asks.
    Internal,
}

/// Texts that are made for policies and that what they are shown borrows from.
#[derive(Debug)]
pub(super) struct ContextTexts {
    remote_ip: Option<String>,
    user_agent: Option<String>,
}

impl CallContext<'_> {
    pub(super) fn texts(&self) -> ContextTexts {
        ContextTexts {
            remote_ip: self.remote_ip.map(|address| address.to_string()),
            user_agent: self.user_agent.map(|agent| one_line(agent, MAX_USER_AGENT_BYTES)),
        }
    }

    /// What policies see of this context. No credential is in it, and no header as it came.
    pub(super) fn shown<'a>(&'a self, texts: &'a ContextTexts) -> types::Context<&'a str> {
        // All are vouched for by the gateway itself, which knows people by ids of its own. Claims are for who needs them.
        let caller = types::Caller {
            subject: subject(&self.caller.principal),
            kind: subject_kind(&self.caller.principal),
            issuer: "portcullis",
            tenant: "",
            client_id: self.caller.client_id(),
            actor_chain: Vec::new(),
            groups: self.caller.groups.iter().map(AsRef::as_ref).collect(),
            scopes: self.caller.scopes.iter().map(AsRef::as_ref).collect(),
            acr: None,
            amr: Vec::new(),
            auth_time: None,
            claims: "{}",
        };
        types::Context {
            decision_id: self.decision.as_str(),
            trace_id: self.trace_id.unwrap_or_default(),
            now_ms: self.now.as_millis(),
            session_id: self.session,
            transport: match self.transport {
                Transport::StreamableHttp => types::Transport::StreamableHttp,
                Transport::Stdio => types::Transport::Stdio,
                Transport::Sse => types::Transport::Sse,
                Transport::Internal => types::Transport::Internal,
            },
            protocol_version: self.revision,
            remote_ip: texts.remote_ip.as_deref(),
            user_agent: texts.user_agent.as_deref(),
            caller,
            satisfied: Vec::new(),
            ext: Vec::new(),
        }
    }
}

fn subject(principal: &Principal) -> &str {
    match principal {
        Principal::Key(name) => name.as_str(),
        Principal::User(id) => id.as_str(),
        Principal::Guest(id) => id.as_str(),
        Principal::Anonymous => "anonymous",
        Principal::Gateway => "gateway",
    }
}

const fn subject_kind(principal: &Principal) -> types::SubjectKind {
    match principal {
        Principal::Key(_) | Principal::Gateway => types::SubjectKind::Service,
        Principal::User(_) => types::SubjectKind::User,
        Principal::Guest(_) | Principal::Anonymous => types::SubjectKind::Anonymous,
    }
}

impl PolicySet {
    /// A tool as a policy sees it; the texts only if it needs them, and as policies before it left them.
    pub(super) fn shown_tool<'a>(
        &'a self,
        tool: &'a Tool,
        texts: bool,
        overridden: Option<&'a Override>,
    ) -> types::Tool<&'a str> {
        let title = overridden.and_then(|texts| texts.title.as_deref()).or(tool.title.as_deref());
        let description = overridden.and_then(|texts| texts.description.as_deref()).or(tool.description.as_deref());
        let mut hints = types::ToolHints::empty();
        for (given, hint) in [
            (tool.hints.read_only, types::ToolHints::READ_ONLY),
            (tool.hints.destructive, types::ToolHints::DESTRUCTIVE),
            (tool.hints.idempotent, types::ToolHints::IDEMPOTENT),
            (tool.hints.open_world, types::ToolHints::OPEN_WORLD),
            (tool.standing == PinStanding::FirstSeen, types::ToolHints::FIRST_SEEN),
            (tool.standing == PinStanding::Changed, types::ToolHints::CHANGED),
        ] {
            if given {
                hints |= hint;
            }
        }
        let (_, labels) = self.facts(&tool.upstream);
        types::Tool {
            upstream: tool.upstream.as_str(),
            name: &tool.name,
            exposed_as: &tool.exposed,
            hints,
            digest: &tool.digest,
            labels: labels.iter().map(String::as_str).collect(),
            title: title.filter(|_| texts),
            description: description.filter(|_| texts),
            input_schema: tool.input_schema.as_deref().filter(|_| texts).map(RawValue::get),
        }
    }

    /// An upstream as policies see it.
    pub(super) fn shown_upstream<'a>(&'a self, upstream: &'a UpstreamName) -> types::Upstream<&'a str> {
        let (trust, labels) = self.facts(upstream);
        types::Upstream { id: upstream.as_str(), trust, labels: labels.iter().map(String::as_str).collect() }
    }
}

/// One decision's questions of one hook, within one budget of time.
pub(super) struct Asking<'a> {
    set: &'a PolicySet,
    ctx: &'a CallContext<'a>,
    shown: types::Context<&'a str>,
    hook: Hook,
    decision: Arc<str>,
    /// Processor time that the policies that run on this thread still have together, whatever each of them has.
    left: Duration,
    /// Not on this thread, however fast each of them is: there is much to ask.
    elsewhere: bool,
    steps: &'a mut Vec<Step>,
}

/// What of an answer is written down.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) verdict: &'static str,
    pub(super) code: Option<String>,
    pub(super) rule: Option<String>,
    pub(super) notes: Vec<Note>,
}

impl Told {
    pub(super) fn word(verdict: &'static str) -> Self {
        Self { verdict, ..Self::default() }
    }

    pub(super) fn noting(verdict: &'static str, notes: &[Note]) -> Self {
        Self { verdict, notes: notes.to_vec(), ..Self::default() }
    }

    pub(super) fn reason(verdict: &'static str, reason: &Reason) -> Self {
        Self { verdict, code: Some(reason.code.clone()), rule: reason.rule.clone(), notes: Vec::new() }
    }

    /// What is told of a verdict, where `allowed` tells what of an allowing one is.
    pub(super) fn verdict<T>(verdict: &Verdict<T>, allowed: impl FnOnce(&T) -> Self) -> Self {
        match verdict {
            Verdict::Abstain => Self::word("abstain"),
            Verdict::Allow(terms) => allowed(terms),
            Verdict::Halt(halt) => Self::halt(halt),
        }
    }

    fn halt(halt: &Halt) -> Self {
        Self::reason(halt.word(), halt.reason())
    }
}

impl<'a> Asking<'a> {
    /// Questions of one hook to these policies.
    pub(super) fn new(
        set: &'a PolicySet,
        ctx: &'a CallContext<'a>,
        texts: &'a ContextTexts,
        hook: Hook,
        policies: &[&BoundPolicy],
        steps: &'a mut Vec<Step>,
    ) -> Self {
        let left = policies.iter().map(|policy| policy.binding().time).max().unwrap_or_default();
        Self {
            set,
            ctx,
            shown: ctx.shown(texts),
            hook,
            decision: ctx.decision.as_str().into(),
            left,
            elsewhere: false,
            steps,
        }
    }

    /// Has much to ask, if `is_large`.
    pub(super) fn of_size(self, is_large: bool) -> Self {
        Self { elsewhere: is_large, ..self }
    }

    /// Asks `policy`, lets `judge` check and take over the answer, and writes down what came of it. An advisory policy
    /// that fails has no opinion: `None`.
    pub(super) async fn ask<K: HookType, Decision>(
        &mut self,
        policy: &BoundPolicy,
        request: &K::Request<&str>,
        judge: impl FnOnce(K::Answer) -> Result<(Decision, Told), Failure>,
    ) -> Result<Option<Decision>, Refusal> {
        debug_assert_eq!(K::HOOK, self.hook);
        let claims = self.claims_for(policy);
        let context = self.context_for(policy, claims.as_deref());
        let mut ran = if self.elsewhere || policy.prepared.is_slow() {
            // Elsewhere, one after another, with all the time that it has.
            let limit = policy.binding().time;
            let run = || self.run::<K>(policy, &context, request, limit);
            policy.loaded().engine().workers().run(run).await.unwrap_or_else(Ran::not)
        } else {
            let ran = self.run::<K>(policy, &context, request, policy.binding().time.min(self.left));
            self.left = self.left.saturating_sub(ran.spent);
            ran
        };
        let recorded = ran.recorded.take();
        match ran.answer.and_then(judge) {
            Ok((decision, told)) => {
                policy.health().succeeded();
                self.write_down(policy, told, ran.micros, recorded);
                Ok(Some(decision))
            }
            Err(failure) => self.failed(policy, failure, ran.micros, recorded),
        }
    }

    /// Writes down that a policy could not do its part for a reason that is not its own, and says what comes of it.
    pub(super) fn could_not_ask<Decision>(
        &mut self,
        policy: &BoundPolicy,
        failure: Failure,
    ) -> Result<Option<Decision>, Refusal> {
        let told = Told { verdict: ERROR, code: Some(failure.code().to_owned()), ..Told::default() };
        self.write_down(policy, told, 0, None);
        if policy.binding().advisory { Ok(None) } else { Err(self.refusal(policy, failure)) }
    }

    /// Opens a result for `policies`. `None` where it cannot be opened and none of them insists.
    pub(super) fn open(
        &mut self,
        policies: &[&BoundPolicy],
        shape: Shape,
        result: &RawValue,
    ) -> Result<Option<Open>, Refusal> {
        match Open::read(shape, result) {
            Ok(open) => Ok(Some(open)),
            Err(failure) => {
                for policy in policies {
                    self.could_not_ask::<()>(policy, failure.clone())?;
                }
                Ok(None)
            }
        }
    }

    /// What this policy sees of the context: what was satisfied is for who wanted it.
    fn context_for<'c>(&self, policy: &BoundPolicy, claims: Option<&'c str>) -> types::Context<&'c str>
    where
        'a: 'c,
    {
        let own = self.ctx.satisfied.iter().filter(|satisfied| satisfied.binding == *policy.name());
        let satisfied = own.map(|satisfied| satisfied.code.as_str()).collect();
        let mut context: types::Context<&'c str> = types::Context { satisfied, ..self.shown.clone() };
        if let Some(claims) = claims {
            context.caller.claims = claims;
        }
        context
    }

    /// The claims of the caller that this policy's manifest asks for, as a JSON object.
    fn claims_for(&self, policy: &BoundPolicy) -> Option<String> {
        let claims = self.ctx.caller.claims.as_deref()?;
        let wanted = policy.module().manifest.claims(self.hook);
        if wanted.is_empty() {
            return None;
        }
        // Only `authorization` makes claims, and makes objects.
        let mut claims = Members::parse(claims).ok()?;
        claims.retain(|name| wanted.iter().any(|wanted| wanted == "*" || wanted == name));
        Some(claims.to_raw().get().to_owned())
    }

    fn run<K: HookType>(
        &self,
        policy: &BoundPolicy,
        context: &types::Context<&str>,
        request: &K::Request<&str>,
        limit: Duration,
    ) -> Ran<K::Answer> {
        if limit.is_zero() {
            return Ran::not(Failure::Timeout { limit: policy.binding().time });
        }
        let begun = Instant::now();
        let transcript = self.set.record.then(Transcript::default);
        let run = Run {
            policy: &policy.name,
            decision: &self.decision,
            limit,
            memory_bytes: policy.binding().memory_bytes,
            now: self.ctx.now,
            sets: &self.set.sets,
            counters: Some(&policy.counters),
            charges: self.ctx.charges,
            shadow: policy.binding().mode == Mode::Shadow,
            imports: transcript.as_ref().map_or(Imports::Live, Imports::Recorded),
            spent: Spent::default(),
        };
        let answer = policy.prepared.ask::<K>(context, request, &run);
        let micros = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        let spent = run.spent.get();
        let record = |transcript| Box::new(record::<K>(context, request, &answer, transcript));
        let recorded = transcript.as_ref().map(record);
        Ran { answer, micros, spent, recorded }
    }

    fn failed<Decision>(
        &mut self,
        policy: &BoundPolicy,
        failure: Failure,
        micros: u64,
        recorded: Option<Box<Recorded>>,
    ) -> Result<Option<Decision>, Refusal> {
        if failure == Failure::Busy {
            // It is not its fault, and whoever knows how much there is to do has said so.
            return self.could_not_ask(policy, failure);
        }
        let (decision, hook, module) = (&*self.decision, self.hook.as_str(), &*policy.module().digest);
        let (name, failed, advisory) = (&*policy.name, failure.to_string(), policy.binding().advisory);
        tracing::warn!(policy = name, decision, hook, module, failure = failed, advisory, "a policy failed");
        if policy.health().failed() {
            tracing::error!(policy = name, module, "a policy is degraded: its last runs all failed");
        }
        let told = Told { verdict: ERROR, code: Some(failure.code().to_owned()), ..Told::default() };
        self.write_down(policy, told, micros, recorded);
        if advisory { Ok(None) } else { Err(self.refusal(policy, failure)) }
    }

    /// What a policy's failure means for what it was asked about.
    fn refusal(&self, policy: &BoundPolicy, failure: Failure) -> Refusal {
        let binding = policy.name().clone();
        // Whose result cannot be looked at has called already, and should not just call again.
        let is_over = matches!(self.hook, Hook::ToolResult | Hook::ItemResult);
        if failure != Failure::Busy || is_over {
            return Refusal::PolicyFailed { binding, failure };
        }
        let message = "The gateway has too much to decide at the moment. Try again in a moment.".to_owned();
        let reason = Reason { code: failure.code().to_owned(), message, rule: None, detail: None };
        Refusal::Throttled { binding, retry_after_ms: BUSY_RETRY_MS, reason: reason.into() }
    }

    fn write_down(&mut self, policy: &BoundPolicy, told: Told, micros: u64, recorded: Option<Box<Recorded>>) {
        let Told { verdict, code, rule, notes } = told;
        let mode = policy.binding().mode;
        policy.asked().count(self.hook, verdict, code.as_deref().filter(|_| verdict == ERROR), micros);
        if let Some(trace) = self.ctx.trace.filter(|trace| trace.is_recorded()) {
            note(trace, (self.hook, policy), verdict, code.as_deref(), micros);
        }
        self.steps.push(Step {
            binding: policy.name().clone(),
            module: policy.module_name().clone(),
            mode,
            hook: self.hook,
            verdict: if mode == Mode::Shadow { would(verdict) } else { verdict },
            code,
            rule,
            micros,
            notes,
            recorded,
        });
    }
}

/// What a policy took, as a span.
fn note(trace: &Trace, (hook, policy): (Hook, &BoundPolicy), verdict: &'static str, code: Option<&str>, micros: u64) {
    let mut tags: Vec<(&'static str, Tag)> = vec![
        ("portcullis.policy", policy.name().to_string().into()),
        ("portcullis.hook", hook.as_str().into()),
        ("portcullis.verdict", verdict.into()),
        ("portcullis.policy.module", policy.module_name().name.to_string().into()),
    ];
    // Of a policy's own making, short and of few characters.
    tags.extend(code.map(|code| ("portcullis.reason", code.to_owned().into())));
    let failure = (verdict == ERROR).then(|| code.unwrap_or(ERROR).to_owned().into());
    trace.note(format!("policy {}", hook.as_str()), Duration::from_micros(micros), tags, failure);
}

/// What came of a run.
struct Ran<Answer> {
    answer: Result<Answer, Failure>,
    micros: u64,
    /// Processor time.
    spent: Duration,
    recorded: Option<Box<Recorded>>,
}

impl<Answer> Ran<Answer> {
    fn not(failure: Failure) -> Self {
        Self { answer: Err(failure), micros: 0, spent: Duration::ZERO, recorded: None }
    }
}

/// A question and its answer, word for word, in the contract's JSON form.
fn record<K: HookType>(
    context: &types::Context<&str>,
    request: &K::Request<&str>,
    answer: &Result<K::Answer, Failure>,
    transcript: &Transcript,
) -> Recorded {
    let mut input = ObjectWriter::default();
    input.member("context", to_raw(context).get()).member(K::HOOK.parameter(), to_raw(request).get());
    Recorded {
        input: input.finish().get().to_owned(),
        // What a guest answered may be no JSON where it should be, which fails when it is judged.
        answer: answer.as_ref().ok().and_then(|answer| serde_json::to_string(answer).ok()),
        imports: transcript.calls(),
    }
}

/// The word for what a policy in shadow mode answered.
pub(super) fn would(verdict: &'static str) -> &'static str {
    match verdict {
        "abstain" => "would_abstain",
        "allow" => "would_allow",
        "release" => "would_release",
        "consent" => "would_consent",
        "step-up" => "would_step-up",
        "approve" => "would_approve",
        "throttle" => "would_throttle",
        "deny" => "would_deny",
        "show" => "would_show",
        "hide" => "would_hide",
        "filter" => "would_filter",
        "pass" => "would_pass",
        "redact" => "would_redact",
        "block" => "would_block",
        _ => "would_error",
    }
}
