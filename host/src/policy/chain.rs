//! Where calls of tools are permitted, and their results passed on. Every surface goes through these functions.
//!
//! A policy that fails, in whatever way, refuses; a tool that a policy hides ([`super::lists`]) cannot be called; a call
//! that was not checked cannot be sent, since only [`PolicySet::check`] and its like for other things make a [`Permit`].
//!
//! Policies that may rewrite arguments are asked first, each about what the one before it left, and what each leaves must
//! fit the tool's input schema. The others see what will be sent.
//!
//! Where no policy is bound, a question costs one look-up and enters no Wasm.

use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;

use super::answer;
use super::asking::{Asking, CallContext, Told};
use super::bindings::{BoundPolicy, PolicySet};
use super::contract::hook;
use super::contract::tools::{tool_call, tool_result};
use super::contract::types;
use super::decision::{Failure, Hook, Inspection, Refusal, Rewrite, Terms, Trail, Verdict};
use super::edits;
use super::manifest::Payload;
use super::matching::About;
use super::result::{Open, Shape};
use super::shadow::{Question, Shadow};
use super::tally::{Tally, strictest};
use crate::config::WhenAllAbstain;
use crate::mcp::call::{Call, Outcome, Retry, WithParams};
use crate::mcp::json;
use crate::upstream::catalog::Tool;

/// Proof that policies let something pass. Only `policy` makes one, and each is used once.
#[derive(Debug)]
#[must_use]
pub struct Permit<T> {
    permitted: T,
    timeout: Option<Duration>,
}

impl<T> Permit<T> {
    pub(super) fn of(permitted: T) -> Self {
        Self { permitted, timeout: None }
    }

    pub(super) fn within(permitted: T, timeout: Option<Duration>) -> Self {
        Self { permitted, timeout }
    }

    /// What was permitted, as the policies left it.
    pub fn get(&self) -> &T {
        &self.permitted
    }

    /// What was permitted, to be done now.
    pub fn into_inner(self) -> T {
        self.permitted
    }

    /// A deadline that policies set, if it is shorter than the upstream's own.
    pub fn timeout(&self) -> Option<Duration> {
        self.timeout
    }
}

impl<T: Clone> Permit<T> {
    /// The very same once more, for an upstream that said that nothing happened.
    pub fn again(&self) -> Self {
        Self { permitted: self.permitted.clone(), timeout: self.timeout }
    }
}

impl<T: WithParams + Clone> Permit<T> {
    /// The same once more, with the answers that the upstream wanted.
    pub fn repeat(&self, retry: Retry) -> Self {
        let mut permitted = self.permitted.clone();
        permitted.params_mut().retry = Some(retry);
        Self { permitted, timeout: self.timeout }
    }
}

impl PolicySet {
    /// Whether `call` may go to its upstream, and as what.
    ///
    /// A tool that the caller does not see cannot be called, whatever the `tool-call` policies would say.
    pub async fn check(&self, ctx: &CallContext<'_>, call: Call) -> (Result<Permit<Call>, Refusal>, Trail) {
        let mut trail = Trail::default();
        if !self.concerns(Hook::ListTools) && !self.concerns(Hook::ToolCall) {
            return (Ok(Permit::of(call)), trail);
        }
        let permit = Box::pin(self.check_bound(ctx, call, &mut trail)).await;
        (permit, trail)
    }

    /// Whether any policy is bound to a hook, in force or in shadow.
    pub fn concerns(&self, hook: Hook) -> bool {
        self.has(hook) || self.has_shadows(hook)
    }

    /// What of `outcome` may reach the caller. If no policy looks at it or none changes it, the very same bytes
    /// come back. Errors of upstreams pass.
    pub async fn inspect(
        &self,
        ctx: &CallContext<'_>,
        tool: &Arc<Tool>,
        outcome: Outcome,
        elapsed: Duration,
    ) -> (Result<Outcome, Refusal>, Trail) {
        let mut trail = Trail::default();
        let Outcome::Result(result) = outcome else { return (Ok(outcome), trail) };
        if !self.concerns(Hook::ToolResult) {
            return (Ok(Outcome::Result(result)), trail);
        }
        let elapsed_ms = u32::try_from(elapsed.as_millis()).unwrap_or(u32::MAX);
        let inspected = Box::pin(self.inspect_bound(ctx, tool, result, elapsed_ms, &mut trail)).await;
        (inspected.map(Outcome::Result), trail)
    }

    async fn check_bound(
        &self,
        ctx: &CallContext<'_>,
        mut call: Call,
        trail: &mut Trail,
    ) -> Result<Permit<Call>, Refusal> {
        self.check_tool(ctx, &call.tool, trail).await?;
        let checked = self.ask_all_about_call(ctx, &mut call, trail).await;
        let about = About::Tool(&call.tool);
        if self.shadows(Hook::ToolCall, about, ctx.caller).next().is_some() {
            trail.shadows.push(Shadow::of(ctx, Question::Call(call.clone()), checked.is_ok()));
        }
        match checked {
            Ok(timeout) => Ok(Permit::within(call, timeout)),
            Err(refusal) => Err(refusal.with_arguments(call.arguments())),
        }
    }

    /// The deadline under which the call may go, and the call as the policies leave it.
    async fn ask_all_about_call(
        &self,
        ctx: &CallContext<'_>,
        call: &mut Call,
        trail: &mut Trail,
    ) -> Result<Option<Duration>, Refusal> {
        let tool = call.tool.clone();
        let policies: Vec<&BoundPolicy> = self.asked(Hook::ToolCall, About::Tool(&tool), ctx.caller).collect();
        if policies.is_empty() {
            return Ok(None);
        }
        let texts = ctx.texts();
        let mut asking = Asking::new(self, ctx, &texts, Hook::ToolCall, &policies, &mut trail.steps);
        let (mut tally, mut timeout) = (Tally::default(), None);
        for policy in policies {
            let heard = self.ask_about_call(&mut asking, policy, ctx, call).await;
            if let Some((terms, rewritten)) = tally.hear(policy.name(), heard)? {
                timeout = strictest(timeout, terms.timeout);
                if let Some(arguments) = rewritten {
                    call.set_arguments(arguments);
                }
            }
        }
        tally.finish(Hook::ToolCall, self.when_all_abstain)?;
        Ok(timeout)
    }

    /// Asks one policy about a call: its verdict, with the arguments as it wants them, if it changes them.
    pub(super) async fn ask_about_call(
        &self,
        asking: &mut Asking<'_>,
        policy: &BoundPolicy,
        ctx: &CallContext<'_>,
        call: &Call,
    ) -> Result<Option<Verdict<(Terms, Option<Box<RawValue>>)>>, Refusal> {
        let disclosure = policy.disclosure(Hook::ToolCall);
        let full = disclosure.arguments == Payload::Full;
        let arguments = call.arguments().map(RawValue::get);
        let bytes = arguments.map_or(0, |text| u32::try_from(text.len()).unwrap_or(u32::MAX));
        let meta = (full && !call.params.meta.is_empty()).then(|| call.params.meta.to_raw());
        let request = tool_call::Request {
            tool: self.shown_tool(&call.tool, disclosure.texts, None),
            upstream: self.shown_upstream(&call.tool.upstream),
            arguments: arguments.filter(|_| full),
            arguments_bytes: if disclosure.arguments == Payload::None { 0 } else { bytes },
            meta: meta.as_deref().map(RawValue::get),
        };
        let judge = |answer: types::Verdict| {
            let verdict = answer::verdict(answer)?;
            let told = Told::verdict(&verdict, |terms| Told::noting("allow", &terms.notes));
            let verdict = match verdict {
                Verdict::Abstain => Verdict::Abstain,
                Verdict::Halt(halt) => Verdict::Halt(halt),
                Verdict::Allow(terms) => {
                    let rewritten = self.rewritten(policy, ctx, &terms, call)?;
                    Verdict::Allow((terms, rewritten))
                }
            };
            Ok((verdict, told))
        };
        asking.ask::<hook::ToolCall, _>(policy, &request, judge).await
    }

    /// The new arguments, if the policy's terms change them, and whether it may set such terms.
    fn rewritten(
        &self,
        policy: &BoundPolicy,
        ctx: &CallContext<'_>,
        terms: &Terms,
        call: &Call,
    ) -> Result<Option<Box<RawValue>>, Failure> {
        let mut inspectors = self.asked(Hook::ToolResult, About::Tool(&call.tool), ctx.caller);
        if terms.inspect_result && inspectors.next().is_none() {
            return Err(Failure::NoInspector);
        }
        if !matches!(terms.rewrite, Rewrite::Keep) && !policy.may_rewrite() {
            return Err(Failure::invalid("it rewrites arguments, which its manifest or the operator does not allow"));
        }
        let rewritten = match &terms.rewrite {
            Rewrite::Keep => return Ok(None),
            Rewrite::Replace(document) => Some(document.clone()),
            Rewrite::Patch(edits) => {
                let none = json::raw("{}".to_owned());
                edits::apply(call.arguments().unwrap_or(&none), edits)?
            }
        };
        match rewritten {
            Some(arguments) if arguments.get().starts_with('{') => {
                self.input_schemas.check(&call.tool, &arguments)?;
                Ok(Some(arguments))
            }
            _ => Err(Failure::invalid("it makes the arguments something else than an object")),
        }
    }

    async fn inspect_bound(
        &self,
        ctx: &CallContext<'_>,
        tool: &Arc<Tool>,
        result: Box<RawValue>,
        elapsed_ms: u32,
        trail: &mut Trail,
    ) -> Result<Box<RawValue>, Refusal> {
        let about = About::Tool(tool);
        let is_shadowed = self.shadows(Hook::ToolResult, about, ctx.caller).next().is_some();
        let shadowed = is_shadowed.then(|| Question::Result { tool: tool.clone(), result: result.clone(), elapsed_ms });
        let policies: Vec<&BoundPolicy> = self.asked(Hook::ToolResult, about, ctx.caller).collect();
        let texts = ctx.texts();
        let mut asking = Asking::new(self, ctx, &texts, Hook::ToolResult, &policies, &mut trail.steps);
        let inspected = self.ask_all_about_result(&mut asking, &policies, tool, result, elapsed_ms).await;
        if let Some(question) = shadowed {
            trail.shadows.push(Shadow::of(ctx, question, inspected.is_ok()));
        }
        inspected
    }

    async fn ask_all_about_result(
        &self,
        asking: &mut Asking<'_>,
        policies: &[&BoundPolicy],
        tool: &Tool,
        result: Box<RawValue>,
        elapsed_ms: u32,
    ) -> Result<Box<RawValue>, Refusal> {
        if policies.is_empty() {
            return Ok(result);
        }
        let Some(mut open) = asking.open(policies, Shape::Tool, &result)? else { return Ok(result) };
        let mut passing = Passing::default();
        for policy in policies {
            let inspection = self.ask_about_result(asking, policy, tool, &mut open, elapsed_ms).await?;
            passing.hear(policy, inspection)?;
        }
        passing.finish(Hook::ToolResult, self.when_all_abstain)?;
        Ok(open.finish().unwrap_or(result))
    }

    /// Asks one policy about the result, and takes out of it what the policy wants.
    pub(super) async fn ask_about_result(
        &self,
        asking: &mut Asking<'_>,
        policy: &BoundPolicy,
        tool: &Tool,
        open: &mut Open,
        elapsed_ms: u32,
    ) -> Result<Option<Inspection>, Refusal> {
        let disclosure = policy.disclosure(Hook::ToolResult);
        let response = tool_result::Response {
            tool: self.shown_tool(tool, disclosure.texts, None),
            is_error: open.is_error(),
            parts: open.shown_parts(disclosure.output),
            structured: open.structured().filter(|_| disclosure.output == Payload::Full).map(RawValue::get),
            elapsed_ms,
        };
        let judge = |answer| open.judge(answer, policy, Hook::ToolResult);
        let heard = asking.ask::<hook::ToolResult, _>(policy, &response, judge).await?;
        Ok(heard.map(|(inspection, change)| {
            if let Some(change) = change {
                open.apply(change);
            }
            inspection
        }))
    }
}

/// What inspections of one result have come to so far.
#[derive(Debug, Default)]
pub(super) struct Passing {
    passed: bool,
}

impl Passing {
    /// Counts one policy's answer. Any block ends it.
    pub(super) fn hear(&mut self, policy: &BoundPolicy, inspection: Option<Inspection>) -> Result<(), Refusal> {
        match inspection {
            None | Some(Inspection::Abstain) => {}
            Some(Inspection::Pass | Inspection::Redact(_)) => self.passed = true,
            Some(Inspection::Block(denial)) => return Err(denial.refusal(policy.name())),
        }
        Ok(())
    }

    pub(super) fn finish(self, hook: Hook, when_all_abstain: WhenAllAbstain) -> Result<(), Refusal> {
        if !self.passed && when_all_abstain == WhenAllAbstain::Deny {
            return Err(Refusal::NoPolicyAllowed { hook });
        }
        Ok(())
    }
}
