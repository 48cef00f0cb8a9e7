//! Where policies are enforced: what a caller sees, what it may call, what it gets back.
//!
//! Three functions, one for each kind of question, and every surface goes through them. A policy that fails, in
//! whatever way, refuses; a tool that a policy hides cannot be called; a call that was not checked cannot be sent,
//! since only [`PolicySet::check`] makes a [`Permit`].
//!
//! Where no policy is bound, a question costs one look-up and enters no Wasm.

use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;

use super::answer::{self, Listing, Override};
use super::asking::{Asking, CallContext, Told, shown_tool};
use super::bindings::{BoundPolicy, PolicySet};
use super::contract::{list_tools, tool_call, tool_result, types};
use super::decision::{Failure, Hook, Inspection, Note, Refusal, Rewrite, Tally, Terms, Trail, Verdict, Visibility};
use super::edits;
use super::manifest::Payload;
use super::result::{Part, Shown, ToolResult};
use crate::config::WhenAllAbstain;
use crate::mcp::call::{Call, Outcome, Retry, WithParams};
use crate::mcp::json;
use crate::upstream::catalog::Tool;

/// Most tools that a policy is asked about at once, as the contract says.
const MAX_ASKED_AT_ONCE: usize = 256;

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

impl<T: WithParams + Clone> Permit<T> {
    /// The same once more, with the answers that the upstream wanted.
    pub fn repeat(&self, retry: Retry) -> Self {
        let mut permitted = self.permitted.clone();
        permitted.params_mut().retry = Some(retry);
        Self { permitted, timeout: self.timeout }
    }
}

/// The tools that a caller sees.
#[derive(Debug)]
pub struct Filtered {
    /// In the order in which they were given.
    pub tools: Vec<VisibleTool>,
    pub trail: Trail,
}

/// A tool and the texts that policies put in the place of its own.
#[derive(Debug)]
pub struct VisibleTool {
    pub tool: Arc<Tool>,
    pub title: Option<String>,
    pub description: Option<String>,
}

impl PolicySet {
    /// Which of `tools` the caller sees.
    ///
    /// A tool that no policy is asked about is visible; one about which all abstain is treated as the operator
    /// says; one about which a policy failed is hidden.
    pub fn filter(&self, ctx: &CallContext<'_>, tools: &[Arc<Tool>]) -> Filtered {
        let mut trail = Trail::default();
        let mut standings: Vec<Standing> = tools.iter().map(|_| Standing::default()).collect();
        for policy in self.asked_at_all(Hook::ListTools) {
            let mut asked: Vec<usize> =
                (0..tools.len()).filter(|at| standings[*at].refusal.is_none() && policy.matches(&tools[*at])).collect();
            // One upstream's tools at a time: what one upstream writes into its definitions, so that a policy
            // fails on them, hides no other upstream's tools.
            asked.sort_by_key(|at| &tools[*at].upstream);
            for of_upstream in asked.chunk_by(|one, other| tools[*one].upstream == tools[*other].upstream) {
                for batch in of_upstream.chunks(MAX_ASKED_AT_ONCE) {
                    list_batch(ctx, policy, tools, batch, &mut standings, policy.binding().time, &mut trail);
                }
            }
        }
        let visible = tools.iter().zip(standings).filter_map(|(tool, standing)| {
            let Override { title, description } = standing.settle(self.when_all_abstain).ok()?;
            Some(VisibleTool { tool: tool.clone(), title, description })
        });
        Filtered { tools: visible.collect(), trail }
    }

    /// Whether `call` may go to its upstream, and as what.
    ///
    /// A tool that the caller does not see cannot be called, whatever the `tool-call` policies would say.
    pub fn check(&self, ctx: &CallContext<'_>, call: Call) -> (Result<Permit<Call>, Refusal>, Trail) {
        let mut trail = Trail::default();
        let permit = self.check_visible(ctx, &call.tool, &mut trail).and_then(|()| self.permit(ctx, call, &mut trail));
        (permit, trail)
    }

    /// Whether any policy looks at results of calls.
    pub fn inspects_results(&self) -> bool {
        self.asked_at_all(Hook::ToolResult).next().is_some()
    }

    /// What of `outcome` may reach the caller. If no policy looks at it or none changes it, the very same bytes
    /// come back. Errors of upstreams pass.
    pub fn inspect(
        &self,
        ctx: &CallContext<'_>,
        tool: &Arc<Tool>,
        outcome: Outcome,
        elapsed: Duration,
    ) -> (Result<Outcome, Refusal>, Trail) {
        let mut trail = Trail::default();
        let policies: Vec<&BoundPolicy> = self.asked(Hook::ToolResult, tool).collect();
        let inspected = match outcome {
            Outcome::Result(result) if !policies.is_empty() => {
                self.inspect_result(ctx, tool, result, elapsed, &policies, &mut trail).map(Outcome::Result)
            }
            outcome => Ok(outcome),
        };
        (inspected, trail)
    }

    fn check_visible(&self, ctx: &CallContext<'_>, tool: &Arc<Tool>, trail: &mut Trail) -> Result<(), Refusal> {
        let mut standing = [Standing::default()];
        let policies: Vec<&BoundPolicy> = self.asked(Hook::ListTools, tool).collect();
        for policy in policies {
            list_batch(ctx, policy, std::slice::from_ref(tool), &[0], &mut standing, policy.binding().time, trail);
            if standing[0].refusal.is_some() {
                break;
            }
        }
        let [standing] = standing;
        standing.settle(self.when_all_abstain).map(drop)
    }

    fn permit(&self, ctx: &CallContext<'_>, mut call: Call, trail: &mut Trail) -> Result<Permit<Call>, Refusal> {
        let tool = call.tool.clone();
        let inspected = self.asked(Hook::ToolResult, &tool).next().is_some();
        let policies: Vec<&BoundPolicy> = self.asked(Hook::ToolCall, &tool).collect();
        let mut timeout = None;
        if !policies.is_empty() {
            let mut asking = Asking::new(ctx, Hook::ToolCall, budget(&policies), trail);
            let (trust, labels) = self.facts(&tool.upstream);
            let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
            let upstream = types::Upstream { id: tool.upstream.as_str(), trust, labels: &labels };
            timeout = ctx.shown_to(|ctx| {
                let mut tally = Tally::default();
                for policy in policies {
                    let verdict = ask_about_call(&mut asking, policy, ctx, &upstream, &mut call, inspected)
                        .map_err(|failure| failed(policy, failure))?;
                    tally.add(policy.name(), verdict)?;
                }
                tally.finish(self.when_all_abstain)
            })?;
        }
        Ok(Permit { permitted: call, timeout })
    }

    fn inspect_result(
        &self,
        ctx: &CallContext<'_>,
        tool: &Arc<Tool>,
        result: Box<RawValue>,
        elapsed: Duration,
        policies: &[&BoundPolicy],
        trail: &mut Trail,
    ) -> Result<Box<RawValue>, Refusal> {
        let mut asking = Asking::new(ctx, Hook::ToolResult, budget(policies), trail);
        let mut open = match ToolResult::read(&result) {
            Ok(open) => open,
            Err(failure) => {
                asking.could_not_ask(policies[0], &failure);
                return Err(failed(policies[0], failure));
            }
        };
        let elapsed_ms = u32::try_from(elapsed.as_millis()).unwrap_or(u32::MAX);
        let passed = ctx.shown_to(|ctx| {
            let mut passed = false;
            for policy in policies {
                let inspection = ask_about_result(&mut asking, policy, ctx, tool, &mut open, elapsed_ms)
                    .map_err(|failure| failed(policy, failure))?;
                match inspection {
                    Inspection::Abstain => {}
                    Inspection::Pass | Inspection::Redact(_) => passed = true,
                    Inspection::Block(denial) => return Err(denial.refusal(policy.name())),
                }
            }
            Ok(passed)
        })?;
        if !passed && self.when_all_abstain == WhenAllAbstain::Deny {
            return Err(Refusal::NoPolicyAllowed { hook: Hook::ToolResult });
        }
        Ok(open.finish().unwrap_or(result))
    }
}

fn failed(policy: &BoundPolicy, failure: Failure) -> Refusal {
    Refusal::PolicyFailed { binding: policy.name().clone(), failure }
}

/// What a chain may take as a whole.
fn budget(policies: &[&BoundPolicy]) -> Duration {
    let longest = policies.iter().map(|policy| policy.binding().time).max().unwrap_or_default();
    longest.saturating_mul(u32::try_from(policies.len()).unwrap_or(u32::MAX))
}

/// What policies have said about one tool of a list so far.
#[derive(Debug, Default)]
struct Standing {
    asked: bool,
    shown: bool,
    refusal: Option<Refusal>,
    texts: Override,
}

impl Standing {
    fn hear(&mut self, visibility: Visibility) {
        self.asked = true;
        match visibility {
            Visibility::Abstain => {}
            Visibility::Show => self.shown = true,
            Visibility::Hide => self.refusal = Some(Refusal::Hidden),
        }
    }

    fn take_over(&mut self, Override { title, description }: Override) {
        self.texts.title = title.or(self.texts.title.take());
        self.texts.description = description.or(self.texts.description.take());
    }

    /// The texts under which the tool is seen, or why it is not.
    fn settle(self, when_all_abstain: WhenAllAbstain) -> Result<Override, Refusal> {
        match self.refusal {
            Some(refusal) => Err(refusal),
            None if self.asked && !self.shown && when_all_abstain == WhenAllAbstain::Deny => Err(Refusal::Hidden),
            None => Ok(self.texts),
        }
    }
}

/// Asks one policy about the tools at `batch`.
fn list_batch(
    ctx: &CallContext<'_>,
    policy: &BoundPolicy,
    tools: &[Arc<Tool>],
    batch: &[usize],
    standings: &mut [Standing],
    budget: Duration,
    trail: &mut Trail,
) {
    let texts = policy.disclosure(Hook::ListTools).texts;
    let shown: Vec<_> = batch.iter().map(|at| shown_tool(&tools[*at], texts, Some(&standings[*at].texts))).collect();
    let judge = |answer: list_tools::Outcome| {
        let listing = answer::listing(answer, batch.len())?;
        if !listing.overrides.is_empty() && !policy.mutates(Hook::ListTools) {
            return Err(Failure::invalid(
                "it overrides texts, and its manifest does not say that it mutates list-tools",
            ));
        }
        let told = told_of_list(&listing.visible);
        Ok((listing, told))
    };
    let mut asking = Asking::new(ctx, Hook::ListTools, budget, trail);
    let heard = ctx.shown_to(|ctx| asking.ask(policy, (ctx, shown.as_slice()), judge));
    match heard {
        Ok(Listing { visible, overrides }) => {
            for (at, visibility) in batch.iter().zip(visible) {
                standings[*at].hear(visibility);
            }
            for (index, texts) in overrides {
                standings[batch[index]].take_over(texts);
            }
        }
        Err(failure) => {
            for at in batch {
                standings[*at].refusal = Some(failed(policy, failure.clone()));
            }
        }
    }
}

fn told_of_list(visible: &[Visibility]) -> Told {
    if let [visibility] = visible {
        let verdict = match visibility {
            Visibility::Abstain => "abstain",
            Visibility::Show => "show",
            Visibility::Hide => "hide",
        };
        return Told { verdict, ..Told::default() };
    }
    let count = |wanted: Visibility| visible.iter().filter(|visibility| **visibility == wanted).count().to_string();
    let notes = vec![
        Note { key: "shown".to_owned(), value: count(Visibility::Show) },
        Note { key: "hidden".to_owned(), value: count(Visibility::Hide) },
    ];
    Told { verdict: "filter", code: None, notes }
}

/// Asks one policy about the call, and changes the call's arguments as the policy wants and may.
fn ask_about_call(
    asking: &mut Asking<'_>,
    policy: &BoundPolicy,
    ctx: &types::Context<'_>,
    upstream: &types::Upstream<'_>,
    call: &mut Call,
    inspected: bool,
) -> Result<Verdict, Failure> {
    let disclosure = policy.disclosure(Hook::ToolCall);
    let full = disclosure.arguments == Payload::Full;
    let arguments = call.arguments().map(RawValue::get);
    let bytes = arguments.map_or(0, |text| u32::try_from(text.len()).unwrap_or(u32::MAX));
    let meta = (full && !call.params.meta.is_empty()).then(|| call.params.meta.to_raw());
    let request = tool_call::Request {
        tool: shown_tool(&call.tool, disclosure.texts, None),
        upstream: upstream.clone(),
        arguments: arguments.filter(|_| full),
        arguments_bytes: if disclosure.arguments == Payload::None { 0 } else { bytes },
        meta: meta.as_deref().map(RawValue::get),
    };
    let judge = |answer: types::Verdict| {
        let verdict = answer::verdict(answer)?;
        let rewritten = match &verdict {
            Verdict::Allow(terms) => allowed(policy, terms, call.arguments(), inspected)?,
            _ => None,
        };
        let notes = match &verdict {
            Verdict::Allow(terms) => terms.notes.clone(),
            _ => Vec::new(),
        };
        let code = verdict.reason().map(|reason| reason.code.clone());
        let told = Told { verdict: verdict.word(), code, notes };
        Ok(((verdict, rewritten), told))
    };
    let (verdict, rewritten) = asking.ask(policy, (ctx, &request), judge)?;
    if let Some(arguments) = rewritten {
        call.set_arguments(arguments);
    }
    Ok(verdict)
}

/// The new arguments, if the policy's terms change them, and whether it may set such terms.
fn allowed(
    policy: &BoundPolicy,
    terms: &Terms,
    arguments: Option<&RawValue>,
    inspected: bool,
) -> Result<Option<Box<RawValue>>, Failure> {
    if terms.inspect_result && !inspected {
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
            edits::apply(arguments.unwrap_or(&none), edits)?
        }
    };
    match rewritten {
        Some(arguments) if arguments.get().starts_with('{') => Ok(Some(arguments)),
        _ => Err(Failure::invalid("it makes the arguments something else than an object")),
    }
}

/// Asks one policy about the result, and takes out of it what the policy wants.
fn ask_about_result(
    asking: &mut Asking<'_>,
    policy: &BoundPolicy,
    ctx: &types::Context<'_>,
    tool: &Tool,
    open: &mut ToolResult,
    elapsed_ms: u32,
) -> Result<Inspection, Failure> {
    let disclosure = policy.disclosure(Hook::ToolResult);
    let shown = if disclosure.output == Payload::Full { Shown::Everything } else { Shown::Outline };
    let parts: Vec<types::Part<'_>> = match disclosure.output {
        Payload::None => Vec::new(),
        Payload::SizeOnly | Payload::Full => {
            (0..).zip(open.parts()).map(|(index, part)| shown_part(index, part, shown)).collect()
        }
    };
    let response = tool_result::Response {
        tool: shown_tool(tool, disclosure.texts, None),
        is_error: open.is_error(),
        parts: &parts,
        structured: open.structured().filter(|_| shown == Shown::Everything).map(RawValue::get),
        elapsed_ms,
    };
    let judge = |answer: types::Inspection| {
        let inspection = answer::inspection(answer)?;
        if matches!(inspection, Inspection::Redact(_)) && !policy.mutates(Hook::ToolResult) {
            return Err(Failure::invalid("it redacts, and its manifest does not say that it mutates tool-result"));
        }
        let change = match &inspection {
            Inspection::Redact(redaction) => Some(open.plan(redaction, shown)?),
            _ => None,
        };
        let told = told_of_result(&inspection);
        Ok(((inspection, change), told))
    };
    let (inspection, change) = asking.ask(policy, (ctx, &response), judge)?;
    if let Some(change) = change {
        open.apply(change);
    }
    Ok(inspection)
}

fn shown_part(index: u32, part: &Part, shown: Shown) -> types::Part<'_> {
    types::Part {
        index,
        kind: part.kind(),
        mime: part.mime(),
        bytes: part.bytes(),
        text: part.text().filter(|_| shown == Shown::Everything),
    }
}

fn told_of_result(inspection: &Inspection) -> Told {
    match inspection {
        Inspection::Abstain => Told { verdict: "abstain", ..Told::default() },
        Inspection::Pass => Told { verdict: "pass", ..Told::default() },
        Inspection::Redact(redaction) => Told { verdict: "redact", code: None, notes: redaction.notes.clone() },
        Inspection::Block(denial) => {
            Told { verdict: "block", code: Some(denial.reason.code.clone()), notes: Vec::new() }
        }
    }
}
