//! Asking one policy one question: what it is sent, how long it may take, and what is written down of it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::value::RawValue;
use wasmtime::component::{ComponentNamedList, Lift, Lower};

use super::answer::Override;
use super::bindings::BoundPolicy;
use super::contract::types;
use super::cpu::Moment;
use super::decision::{ERROR, Failure, Hook, Note, Step, Trail};
use super::instance::Run;
use super::text::one_line;
use crate::env::Timestamp;
use crate::identity::caller::Caller;
use crate::ids::{DecisionId, Principal};
use crate::upstream::catalog::Tool;

const MAX_USER_AGENT_BYTES: usize = 512;

/// What surrounds a decision.
#[derive(Debug)]
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
    pub now: Timestamp,
}

/// How a request reached the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    StreamableHttp,
    Stdio,
    Sse,
    /// The gateway itself asks.
    Internal,
}

impl CallContext<'_> {
    /// Runs `ask` with what policies see of this context. No credential is in it, and no header as it came.
    pub(super) fn shown_to<R>(&self, ask: impl FnOnce(&types::Context<'_>) -> R) -> R {
        let remote_ip = self.remote_ip.map(|address| address.to_string());
        let user_agent = self.user_agent.map(|agent| one_line(agent, MAX_USER_AGENT_BYTES));
        // Virtual keys are services and vouched for by the gateway itself; they have no claims, groups or scopes.
        let subject = match &self.caller.principal {
            Principal::Key(name) => name.as_str(),
            Principal::Gateway => "gateway",
        };
        let caller = types::Caller {
            subject,
            kind: types::SubjectKind::Service,
            issuer: "portcullis",
            tenant: "",
            client_id: "",
            actor_chain: &[],
            groups: &[],
            scopes: &[],
            acr: None,
            amr: &[],
            auth_time: None,
            claims: "{}",
        };
        ask(&types::Context {
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
            remote_ip: remote_ip.as_deref(),
            user_agent: user_agent.as_deref(),
            caller,
            satisfied: &[],
            ext: &[],
        })
    }
}

/// A tool as a policy sees it; the texts only if it needs them, and as policies before it left them.
pub(super) fn shown_tool<'a>(tool: &'a Tool, texts: bool, overridden: Option<&'a Override>) -> types::Tool<'a> {
    let title = overridden.and_then(|texts| texts.title.as_ref()).or(tool.title.as_ref());
    let description = overridden.and_then(|texts| texts.description.as_ref()).or(tool.description.as_ref());
    let mut hints = types::ToolHints::empty();
    for (given, hint) in [
        (tool.hints.read_only, types::ToolHints::READ_ONLY),
        (tool.hints.destructive, types::ToolHints::DESTRUCTIVE),
        (tool.hints.idempotent, types::ToolHints::IDEMPOTENT),
        (tool.hints.open_world, types::ToolHints::OPEN_WORLD),
    ] {
        if given {
            hints |= hint;
        }
    }
    types::Tool {
        upstream: tool.upstream.as_str(),
        name: &tool.name,
        exposed_as: &tool.exposed,
        hints,
        digest: &tool.digest,
        labels: &[],
        title: title.filter(|_| texts).map(String::as_str),
        description: description.filter(|_| texts).map(String::as_str),
        input_schema: tool.input_schema.as_deref().filter(|_| texts).map(RawValue::get),
    }
}

/// One decision's questions of one hook, within one budget of time.
pub(super) struct Asking<'a> {
    hook: Hook,
    decision: Arc<str>,
    /// Processor time that the chain as a whole still has, whatever each policy has.
    left: Duration,
    trail: &'a mut Trail,
}

/// What of an answer is written down.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) verdict: &'static str,
    pub(super) code: Option<String>,
    pub(super) notes: Vec<Note>,
}

impl<'a> Asking<'a> {
    pub(super) fn new(ctx: &CallContext<'_>, hook: Hook, budget: Duration, trail: &'a mut Trail) -> Self {
        Self { hook, decision: ctx.decision.as_str().into(), left: budget, trail }
    }

    /// Asks `policy`, lets `judge` check and take over the answer, and writes down what came of it.
    pub(super) fn ask<Params, Answer, Decision>(
        &mut self,
        policy: &BoundPolicy,
        params: Params,
        judge: impl FnOnce(Answer) -> Result<(Decision, Told), Failure>,
    ) -> Result<Decision, Failure>
    where
        Params: ComponentNamedList + Lower,
        Answer: Lift + 'static,
    {
        let (begun, working) = (Instant::now(), Moment::now());
        let limit = policy.binding().time.min(self.left);
        let outcome = self.run(policy, params, limit).and_then(judge);
        self.left = self.left.saturating_sub(working.elapsed());
        let micros = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        match outcome {
            Ok((decision, told)) => {
                policy.health().succeeded();
                self.write_down(policy, told, micros);
                Ok(decision)
            }
            Err(failure) => {
                self.report(policy, &failure);
                let code = Some(failure.code().to_owned());
                self.write_down(policy, Told { verdict: ERROR, code, notes: Vec::new() }, micros);
                Err(failure)
            }
        }
    }

    /// Writes down that a policy could not do its part for a reason that is not its own.
    pub(super) fn could_not_ask(&mut self, policy: &BoundPolicy, failure: &Failure) {
        let code = Some(failure.code().to_owned());
        self.write_down(policy, Told { verdict: ERROR, code, notes: Vec::new() }, 0);
    }

    fn run<Params, Answer>(&self, policy: &BoundPolicy, params: Params, limit: Duration) -> Result<Answer, Failure>
    where
        Params: ComponentNamedList + Lower,
        Answer: Lift + 'static,
    {
        if limit.is_zero() {
            return Err(Failure::Timeout { limit: policy.binding().time });
        }
        let function = policy.prepared.callable.functions.hook(self.hook);
        let function =
            function.expect("a module is asked only for hooks that it was seen to export when it was loaded");
        let run = Run {
            policy: policy.name.clone(),
            decision: self.decision.clone(),
            limit,
            memory_bytes: policy.binding().memory_bytes,
        };
        policy.prepared.call(function, params, &run)
    }

    fn report(&self, policy: &BoundPolicy, failure: &Failure) {
        let (decision, hook, module) = (&*self.decision, self.hook.as_str(), &*policy.module().digest);
        let (name, failure) = (&*policy.name, failure.to_string());
        tracing::warn!(policy = name, decision, hook, module, failure, "a policy failed, and the request is refused");
        if policy.health().failed() {
            tracing::error!(policy = name, module, "a policy is degraded: its last runs all failed");
        }
    }

    fn write_down(&mut self, policy: &BoundPolicy, told: Told, micros: u64) {
        let Told { verdict, code, notes } = told;
        self.trail.0.push(Step {
            binding: policy.name().clone(),
            module: policy.module().digest.clone(),
            hook: self.hook,
            verdict,
            code,
            micros,
            notes,
        });
    }
}
