//! Where uses of prompts, resources, skills and tasks are permitted, what comes of them is passed on, and upstreams'
//! questions reach clients: one function for each kind, and every surface goes through them.
//!
//! What is in a list that a policy hides from the caller cannot be used ([`super::lists`]); the entries of a directory
//! are such a list too.

use std::time::Duration;

use serde_json::value::RawValue;

use super::answer;
use super::asking::{Asking, CallContext, Told};
use super::bindings::{BoundPolicy, PolicySet};
use super::chain::{Passing, Permit};
use super::contract::hook;
use super::contract::items::{item_access, item_result, server_request};
use super::contract::types;
use super::decision::{Failure, Hook, Inspection, Refusal, Terms, Trail, Verdict};
use super::lists::{ItemKind, ListedItem};
use super::manifest::Payload;
use super::matching::About;
use super::result::{Open, Shape};
use super::shadow::{Question, Shadow};
use super::tally::{Tally, strictest};
use crate::ids::UpstreamName;
use crate::mcp::call::{Access, Item, Outcome, Verb};
use crate::mcp::json::{Members, ObjectWriter};
use crate::mcp::talk::Ask;

/// What the catalog knows of an item besides its name.
#[derive(Clone, Copy, Debug, Default)]
pub struct ItemFacts<'a> {
    pub mime: Option<&'a str>,
    /// URIs of the skills that it is a file of.
    pub skills: &'a [String],
}

/// What was used, for whoever looks at what came of it.
#[derive(Clone, Debug)]
pub struct Used {
    pub upstream: UpstreamName,
    pub verb: Verb,
    pub item: Item,
}

impl Used {
    pub fn of(access: &Access) -> Self {
        Self { upstream: access.upstream.clone(), verb: access.verb, item: access.item.clone() }
    }

    pub(super) fn about(&self) -> About<'_> {
        About::Item { upstream: &self.upstream, id: self.item.name() }
    }

    /// Where the parts of its result are.
    fn shape(&self) -> Shape {
        match self.verb {
            Verb::GetPrompt => Shape::Messages,
            Verb::ReadResource => Shape::Contents,
            Verb::ListDirectory => Shape::Entries,
            Verb::Complete => Shape::Values,
            Verb::GetSkill | Verb::SubscribeResource => Shape::Whole,
            // What a task comes to is a tool's result.
            Verb::GetTask | Verb::TaskResult | Verb::UpdateTask | Verb::CancelTask => Shape::Tool,
        }
    }
}

/// What an upstream wants to know of a client.
#[derive(Clone, Copy, Debug)]
pub struct AskedOf<'a> {
    pub upstream: &'a UpstreamName,
    /// The protocol's method.
    pub method: &'a str,
    /// A JSON object, as the upstream wrote it.
    pub params: Option<&'a RawValue>,
}

impl ItemKind {
    /// What an item is to policies.
    pub fn of(item: &Item) -> Self {
        match item {
            Item::Prompt { .. } => Self::Prompt,
            Item::Resource { .. } => Self::Content,
            Item::Template { .. } => Self::Template,
            Item::Skill { .. } => Self::Skill,
            Item::Task { .. } => Self::Task,
        }
    }
}

/// What has to be seen for a use: the item, and the skills that it is a file of.
fn listed<'a>(access: &'a Access, facts: ItemFacts<'a>) -> Vec<ListedItem<'a>> {
    let item = |kind, id, mime| ListedItem { kind, upstream: &access.upstream, id, mime };
    let mut items = vec![item(ItemKind::of(&access.item), access.item.name(), facts.mime)];
    items.extend(facts.skills.iter().map(|skill| item(ItemKind::Skill, skill, None)));
    items
}

impl PolicySet {
    /// Whether a prompt, resource, skill or task may be used, and as what.
    ///
    /// What the caller does not see cannot be used, whatever the `item-access` policies would say; neither can a file of
    /// a skill that it does not see. Tasks are in no list.
    pub async fn check_access(
        &self,
        ctx: &CallContext<'_>,
        access: Access,
        facts: ItemFacts<'_>,
    ) -> (Result<Permit<Access>, Refusal>, Trail) {
        let mut trail = Trail::default();
        if !self.concerns(Hook::ListItems) && !self.concerns(Hook::ItemAccess) {
            return (Ok(Permit::of(access)), trail);
        }
        let checked = Box::pin(self.check_access_bound(ctx, &access, facts, &mut trail)).await;
        (checked.map(|timeout| Permit::within(access, timeout)), trail)
    }

    /// Whether the caller sees what it uses already, as when it goes on hearing of a resource.
    pub async fn sees(&self, ctx: &CallContext<'_>, access: &Access, facts: ItemFacts<'_>) -> Result<(), Refusal> {
        Box::pin(self.check_items(ctx, &listed(access, facts), &mut Trail::default())).await
    }

    /// What of the outcome of a use may reach the caller. If no policy looks at it or none changes it, the very same
    /// bytes come back. Errors of upstreams pass.
    pub async fn inspect_access(
        &self,
        ctx: &CallContext<'_>,
        used: &Used,
        outcome: Outcome,
    ) -> (Result<Outcome, Refusal>, Trail) {
        let mut trail = Trail::default();
        let Outcome::Result(result) = outcome else { return (Ok(outcome), trail) };
        let lists = used.verb == Verb::ListDirectory && self.concerns(Hook::ListItems);
        if !lists && !self.concerns(Hook::ItemResult) {
            return (Ok(Outcome::Result(result)), trail);
        }
        let inspected = Box::pin(self.inspect_access_bound(ctx, used, result, &mut trail)).await;
        (inspected.map(Outcome::Result), trail)
    }

    /// Whether an upstream may ask this of the caller's client. What was let through as a part of an answer is not asked
    /// about again.
    ///
    /// # Errors
    /// The question itself where it may not, so that it can be answered, and why.
    pub async fn check_ask(&self, ctx: &CallContext<'_>, ask: Ask) -> (Result<Permit<Ask>, (Ask, Refusal)>, Trail) {
        if ask.is_admitted {
            return (Ok(Permit::of(ask)), Trail::default());
        }
        let asked = AskedOf { upstream: &ask.upstream, method: ask.question.method(), params: ask.params.as_deref() };
        let (checked, trail) = self.check_question(ctx, asked).await;
        let permit = match checked {
            Ok(()) => Ok(Permit::of(ask)),
            Err(refusal) => Err((ask, refusal)),
        };
        (permit, trail)
    }

    /// Whether an upstream may ask this of the caller's client, where the question is a part of an answer.
    pub async fn check_question(&self, ctx: &CallContext<'_>, asked: AskedOf<'_>) -> (Result<(), Refusal>, Trail) {
        let mut trail = Trail::default();
        if !self.concerns(Hook::ServerRequest) {
            return (Ok(()), trail);
        }
        let checked = Box::pin(self.check_question_bound(ctx, asked, &mut trail)).await;
        (checked, trail)
    }

    async fn check_access_bound(
        &self,
        ctx: &CallContext<'_>,
        access: &Access,
        facts: ItemFacts<'_>,
        trail: &mut Trail,
    ) -> Result<Option<Duration>, Refusal> {
        if ItemKind::of(&access.item) != ItemKind::Task {
            self.check_items(ctx, &listed(access, facts), trail).await?;
        }
        let checked = self.ask_all_about_access(ctx, access, trail).await;
        let about = About::Item { upstream: &access.upstream, id: access.item.name() };
        if self.shadows(Hook::ItemAccess, about, ctx.caller).next().is_some() {
            trail.shadows.push(Shadow::of(ctx, Question::Access(access.clone()), checked.is_ok()));
        }
        checked
    }

    /// The deadline under which it may be used.
    async fn ask_all_about_access(
        &self,
        ctx: &CallContext<'_>,
        access: &Access,
        trail: &mut Trail,
    ) -> Result<Option<Duration>, Refusal> {
        let about = About::Item { upstream: &access.upstream, id: access.item.name() };
        let policies: Vec<&BoundPolicy> = self.asked(Hook::ItemAccess, about, ctx.caller).collect();
        let texts = ctx.texts();
        let mut asking = Asking::new(self, ctx, &texts, Hook::ItemAccess, &policies, &mut trail.steps);
        let (mut tally, mut timeout) = (Tally::default(), None);
        for policy in policies {
            let heard = self.ask_about_access(&mut asking, policy, ctx, access).await;
            if let Some(terms) = tally.hear(policy.name(), heard)? {
                timeout = strictest(timeout, terms.timeout);
            }
        }
        tally.finish(Hook::ItemAccess, self.when_all_abstain)?;
        Ok(timeout)
    }

    /// Asks one policy about a use.
    pub(super) async fn ask_about_access(
        &self,
        asking: &mut Asking<'_>,
        policy: &BoundPolicy,
        ctx: &CallContext<'_>,
        access: &Access,
    ) -> Result<Option<Verdict<Terms>>, Refusal> {
        let arguments = match policy.disclosure(Hook::ItemAccess).arguments {
            Payload::Full => arguments(access),
            Payload::None | Payload::SizeOnly => None,
        };
        let request = item_access::Request {
            method: access.verb.method(),
            kind: ItemKind::of(&access.item).shown(),
            upstream: self.shown_upstream(&access.upstream),
            id: access.item.name(),
            arguments: arguments.as_deref().map(RawValue::get),
        };
        let judge = |answer: types::Verdict| {
            let verdict = answer::access_verdict(answer)?;
            let about = About::Item { upstream: &access.upstream, id: access.item.name() };
            if let Verdict::Allow(Terms { inspect_result: true, .. }) = &verdict
                && self.asked(Hook::ItemResult, about, ctx.caller).next().is_none()
            {
                return Err(Failure::NoInspector);
            }
            let told = Told::verdict(&verdict, |terms| Told::noting("allow", &terms.notes));
            Ok((verdict, told))
        };
        asking.ask::<hook::ItemAccess, _>(policy, &request, judge).await
    }

    async fn inspect_access_bound(
        &self,
        ctx: &CallContext<'_>,
        used: &Used,
        result: Box<RawValue>,
        trail: &mut Trail,
    ) -> Result<Box<RawValue>, Refusal> {
        let shape = used.shape();
        let result = match used.verb {
            Verb::ListDirectory => self.filter_entries(ctx, used, result, trail).await?,
            _ => result,
        };
        let is_shadowed = self.shadows(Hook::ItemResult, used.about(), ctx.caller).next().is_some();
        let shadowed = is_shadowed.then(|| Question::ItemResult { used: used.clone(), shape, result: result.clone() });
        let policies: Vec<&BoundPolicy> = self.asked(Hook::ItemResult, used.about(), ctx.caller).collect();
        let texts = ctx.texts();
        let mut asking = Asking::new(self, ctx, &texts, Hook::ItemResult, &policies, &mut trail.steps);
        let inspected = self.ask_all_about_item_result(&mut asking, &policies, used, shape, result).await;
        if let Some(question) = shadowed {
            trail.shadows.push(Shadow::of(ctx, question, inspected.is_ok()));
        }
        inspected
    }

    async fn ask_all_about_item_result(
        &self,
        asking: &mut Asking<'_>,
        policies: &[&BoundPolicy],
        used: &Used,
        shape: Shape,
        result: Box<RawValue>,
    ) -> Result<Box<RawValue>, Refusal> {
        if policies.is_empty() {
            return Ok(result);
        }
        let Some(mut open) = asking.open(policies, shape, &result)? else { return Ok(result) };
        let mut passing = Passing::default();
        for policy in policies {
            let inspection = self.ask_about_item_result(asking, policy, used, &mut open).await?;
            passing.hear(policy, inspection)?;
        }
        passing.finish(Hook::ItemResult, self.when_all_abstain)?;
        Ok(open.finish().unwrap_or(result))
    }

    /// Asks one policy about a result, and takes out of it what the policy wants.
    pub(super) async fn ask_about_item_result(
        &self,
        asking: &mut Asking<'_>,
        policy: &BoundPolicy,
        used: &Used,
        open: &mut Open,
    ) -> Result<Option<Inspection>, Refusal> {
        let response = item_result::Response {
            method: used.verb.method(),
            kind: ItemKind::of(&used.item).shown(),
            upstream: used.upstream.as_str(),
            id: used.item.name(),
            parts: open.shown_parts(policy.disclosure(Hook::ItemResult).output),
        };
        let judge = |answer| open.judge(answer, policy, Hook::ItemResult);
        let heard = asking.ask::<hook::ItemResult, _>(policy, &response, judge).await?;
        Ok(heard.map(|(inspection, change)| {
            if let Some(change) = change {
                open.apply(change);
            }
            inspection
        }))
    }

    /// Takes out of a directory what the caller does not see.
    async fn filter_entries(
        &self,
        ctx: &CallContext<'_>,
        used: &Used,
        result: Box<RawValue>,
        trail: &mut Trail,
    ) -> Result<Box<RawValue>, Refusal> {
        let first = self.asked_at_all(Hook::ListItems, ctx.caller).next();
        let Some(first) = first else { return Ok(result) };
        // What cannot be read for certain may be a list of what is hidden.
        let unreadable = |failure| Refusal::PolicyFailed { binding: first.name().clone(), failure };
        let mut open = Open::read(Shape::Entries, &result).map_err(unreadable)?;
        // Of those that say where they lead: about others, nobody could be asked.
        let entries: Vec<Option<(String, Option<String>)>> =
            open.parts().iter().map(|part| Some((part.uri()?, part.mime().map(ToOwned::to_owned)))).collect();
        let (upstream, kind) = (&used.upstream, ItemKind::Content);
        let items: Vec<ListedItem<'_>> = entries
            .iter()
            .flatten()
            .map(|(id, mime)| ListedItem { kind, upstream, id, mime: mime.as_deref() })
            .collect();
        let (visible, said) = self.filter_items(ctx, &items).await;
        trail.add(said);
        let mut visible = visible?.into_iter();
        let stays: Vec<bool> = entries.iter().map(|entry| entry.is_some() && visible.next() == Some(true)).collect();
        open.keep(&stays);
        Ok(open.finish().unwrap_or(result))
    }

    async fn check_question_bound(
        &self,
        ctx: &CallContext<'_>,
        asked: AskedOf<'_>,
        trail: &mut Trail,
    ) -> Result<(), Refusal> {
        let about = About::Question(asked.upstream);
        let checked = self.ask_all_about_question(ctx, asked, trail).await;
        if self.shadows(Hook::ServerRequest, about, ctx.caller).next().is_some() {
            let question = Question::Ask {
                upstream: asked.upstream.clone(),
                method: asked.method.to_owned(),
                params: asked.params.map(ToOwned::to_owned),
            };
            trail.shadows.push(Shadow::of(ctx, question, checked.is_ok()));
        }
        checked
    }

    async fn ask_all_about_question(
        &self,
        ctx: &CallContext<'_>,
        asked: AskedOf<'_>,
        trail: &mut Trail,
    ) -> Result<(), Refusal> {
        let about = About::Question(asked.upstream);
        let policies: Vec<&BoundPolicy> = self.asked(Hook::ServerRequest, about, ctx.caller).collect();
        let texts = ctx.texts();
        let mut asking = Asking::new(self, ctx, &texts, Hook::ServerRequest, &policies, &mut trail.steps);
        let mut tally = Tally::default();
        for policy in policies {
            tally.hear(policy.name(), self.ask_about_question(&mut asking, policy, asked).await)?;
        }
        tally.finish(Hook::ServerRequest, self.when_all_abstain)
    }

    /// Asks one policy about a question to a client.
    pub(super) async fn ask_about_question(
        &self,
        asking: &mut Asking<'_>,
        policy: &BoundPolicy,
        asked: AskedOf<'_>,
    ) -> Result<Option<Verdict<Terms>>, Refusal> {
        let full = policy.disclosure(Hook::ServerRequest).arguments == Payload::Full;
        let request = server_request::Request {
            method: asked.method,
            upstream: self.shown_upstream(asked.upstream),
            params: asked.params.filter(|_| full).map(RawValue::get),
        };
        let judge = |answer: types::Verdict| {
            let verdict = answer::ask_verdict(answer)?;
            let told = Told::verdict(&verdict, |terms| Told::noting("allow", &terms.notes));
            Ok((verdict, told))
        };
        asking.ask::<hook::ServerRequest, _>(policy, &request, judge).await
    }
}

/// The arguments of a prompt; of a completion, what is completed and what is known besides.
fn arguments(access: &Access) -> Option<Box<RawValue>> {
    let members: &Members = &access.params.members;
    match access.verb {
        Verb::GetPrompt => members.get("arguments").map(ToOwned::to_owned),
        Verb::Complete => {
            let mut arguments = ObjectWriter::default();
            for name in ["argument", "context"] {
                if let Some(value) = members.get(name) {
                    arguments.member(name, value.get());
                }
            }
            Some(arguments.finish())
        }
        _ => None,
    }
}
