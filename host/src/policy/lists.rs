//! What a caller sees of lists: tools, and resources, templates, prompts and skills.
//!
//! What is hidden cannot be used either: whoever checks a call or an access asks the same functions about one tool or
//! item. Each is judged on its own, so that policies are asked about any part of a list, in pieces, and one upstream at
//! a time: what one upstream writes into its definitions, so that a policy fails on them, hides nothing of another's.
//!
//! A tool or item that no policy is asked about is visible; one about which all abstain is treated as the operator says;
//! one about which a policy failed is hidden. Where there is no room to ask, there is no list, rather than a shorter one.

use std::sync::Arc;

use super::answer::{self, Listing, Override};
use super::asking::{Asking, CallContext, Told};
use super::bindings::{BoundPolicy, PolicySet};
use super::contract::hook;
use super::contract::items::list_items;
use super::contract::tools::list_tools;
use super::contract::types;
use super::decision::{Failure, Hook, Note, Refusal, Step, Trail, Visibility};
use super::matching::About;
use super::shadow::{OwnedItem, Question, Shadow};
use super::visible::{Known, is_pure};
use crate::config::{Mode, WhenAllAbstain};
use crate::ids::UpstreamName;
use crate::upstream::catalog::Tool;

/// Most tools or items that a policy is asked about at once, as the contract says.
const MAX_ASKED_AT_ONCE: usize = 256;

/// A tool and the texts that policies put in the place of its own.
#[derive(Debug)]
pub struct VisibleTool {
    pub tool: Arc<Tool>,
    pub title: Option<Arc<str>>,
    pub description: Option<Arc<str>>,
}

/// A resource, template, prompt or skill, as policies know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListedItem<'a> {
    pub kind: ItemKind,
    pub upstream: &'a UpstreamName,
    /// The upstream's own URI, URI template or name for it.
    pub id: &'a str,
    pub mime: Option<&'a str>,
}

/// What an item is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ItemKind {
    /// A resource.
    Content,
    Template,
    Prompt,
    Skill,
    /// In no list.
    Task,
}

impl ItemKind {
    pub(super) const fn shown(self) -> types::ItemKind {
        match self {
            Self::Content => types::ItemKind::Content,
            Self::Template => types::ItemKind::Template,
            Self::Prompt => types::ItemKind::Prompt,
            Self::Skill => types::ItemKind::Skill,
            Self::Task => types::ItemKind::Task,
        }
    }
}

impl PolicySet {
    /// Which of `tools` the caller sees, in the order in which they were given.
    pub async fn filter(
        &self,
        ctx: &CallContext<'_>,
        tools: &[Arc<Tool>],
    ) -> (Result<Vec<VisibleTool>, Refusal>, Trail) {
        let mut trail = Trail::default();
        if !self.has(Hook::ListTools) && !self.has_shadows(Hook::ListTools) {
            let visible = tools.iter().map(|tool| VisibleTool { tool: tool.clone(), title: None, description: None });
            return (Ok(visible.collect()), trail);
        }
        let judged = Box::pin(self.judge_tools(ctx, tools, &mut trail)).await.map(|standings| {
            let visible = tools.iter().zip(standings).filter_map(|(tool, standing)| {
                let Override { title, description } = standing.settle(self.when_all_abstain).ok()?;
                Some(VisibleTool { tool: tool.clone(), title, description })
            });
            visible.collect()
        });
        (judged, trail)
    }

    /// Which of `items` the caller sees: one answer for each, in order.
    pub async fn filter_items(
        &self,
        ctx: &CallContext<'_>,
        items: &[ListedItem<'_>],
    ) -> (Result<Vec<bool>, Refusal>, Trail) {
        let mut trail = Trail::default();
        if !self.has(Hook::ListItems) && !self.has_shadows(Hook::ListItems) {
            return (Ok(vec![true; items.len()]), trail);
        }
        let judged = Box::pin(self.judge_items(ctx, items, &mut trail)).await.map(|standings| {
            standings.into_iter().map(|standing| standing.settle(self.when_all_abstain).is_ok()).collect()
        });
        (judged, trail)
    }

    /// Whether the caller sees this tool.
    pub(super) async fn check_tool(
        &self,
        ctx: &CallContext<'_>,
        tool: &Arc<Tool>,
        trail: &mut Trail,
    ) -> Result<(), Refusal> {
        if !self.has(Hook::ListTools) && !self.has_shadows(Hook::ListTools) {
            return Ok(());
        }
        let standings = self.judge_tools(ctx, std::slice::from_ref(tool), trail).await?;
        standings.into_iter().try_for_each(|standing| standing.settle(self.when_all_abstain).map(drop))
    }

    /// Whether the caller sees all of these items.
    pub(super) async fn check_items(
        &self,
        ctx: &CallContext<'_>,
        items: &[ListedItem<'_>],
        trail: &mut Trail,
    ) -> Result<(), Refusal> {
        if !self.has(Hook::ListItems) && !self.has_shadows(Hook::ListItems) {
            return Ok(());
        }
        let standings = self.judge_items(ctx, items, trail).await?;
        standings.into_iter().try_for_each(|standing| standing.settle(self.when_all_abstain).map(drop))
    }

    /// What the policies in force say of tools, and those in shadow will be asked.
    async fn judge_tools(
        &self,
        ctx: &CallContext<'_>,
        tools: &[Arc<Tool>],
        trail: &mut Trail,
    ) -> Result<Vec<Standing>, Refusal> {
        let memory = self.visible.of(ctx);
        let mut standings: Vec<Standing> = tools
            .iter()
            .map(|tool| match memory.as_ref().and_then(|memory| memory.get(tool)) {
                Some(known) => Standing::remembered(known),
                None => Standing::default(),
            })
            .collect();
        if let [Standing { refusal: Some(_), hidden_by: Some(position), .. }] = standings[..] {
            trail.steps.extend(self.remembered_step(position));
        }
        let policies: Vec<&BoundPolicy> = self.asked_at_all(Hook::ListTools, ctx.caller).collect();
        self.ask_about_tools(ctx, &policies, tools, &mut standings, &mut trail.steps).await?;
        if let Some(memory) = memory {
            let news = tools.iter().zip(&standings);
            memory
                .learn(news.filter_map(|(tool, standing)| Some((tool, standing.to_remember(self.when_all_abstain)?))));
        }
        if self.shadows_at_all(Hook::ListTools, ctx.caller).next().is_some() {
            trail.shadows.push(Shadow::of(ctx, Question::Tools(tools.to_vec()), true));
        }
        Ok(standings)
    }

    /// Asks each of `policies` about those of the tools that are its business and still open.
    pub(super) async fn ask_about_tools(
        &self,
        ctx: &CallContext<'_>,
        policies: &[&BoundPolicy],
        tools: &[Arc<Tool>],
        standings: &mut [Standing],
        steps: &mut Vec<Step>,
    ) -> Result<(), Refusal> {
        let texts = ctx.texts();
        let is_large = tools.len() > MAX_ASKED_AT_ONCE;
        for policy in policies {
            let asked = (0..tools.len())
                .filter(|at| standings[*at].is_open() && policy.matches(About::Tool(&tools[*at])))
                .collect();
            let position = self.position(policy);
            for batch in pieces(asked, |at| &tools[at].upstream) {
                let asking = Asking::new(self, ctx, &texts, Hook::ListTools, &[policy], steps).of_size(is_large);
                let heard = self.ask_about_batch(asking, policy, tools, &batch, standings).await;
                let listing = hear(heard, &batch, standings)?;
                for (index, at) in batch.iter().enumerate() {
                    standings[*at].ask(position, is_pure(policy));
                    match &listing {
                        Some(listing) => standings[*at].hear(listing.visible[index]),
                        None => standings[*at].hear(Visibility::Abstain),
                    }
                }
                for (index, texts) in listing.into_iter().flat_map(|listing| listing.overrides) {
                    standings[batch[index]].take_over(texts);
                }
            }
        }
        Ok(())
    }

    async fn ask_about_batch(
        &self,
        mut asking: Asking<'_>,
        policy: &BoundPolicy,
        tools: &[Arc<Tool>],
        batch: &[usize],
        standings: &[Standing],
    ) -> Result<Option<Listing>, Refusal> {
        let texts = policy.disclosure(Hook::ListTools).texts;
        let shown: Vec<_> =
            batch.iter().map(|at| self.shown_tool(&tools[*at], texts, Some(&standings[*at].texts))).collect();
        let judge = |answer: list_tools::Outcome| {
            let listing = answer::listing(answer, batch.len())?;
            if !listing.overrides.is_empty() && !policy.mutates(Hook::ListTools) {
                return Err(Failure::invalid(
                    "it overrides texts, and its manifest does not say that it mutates list-tools",
                ));
            }
            let told = told(&listing.visible);
            Ok((listing, told))
        };
        asking.ask::<hook::ListTools, _>(policy, &shown, judge).await
    }

    /// The same for items.
    async fn judge_items(
        &self,
        ctx: &CallContext<'_>,
        items: &[ListedItem<'_>],
        trail: &mut Trail,
    ) -> Result<Vec<Standing>, Refusal> {
        let mut standings: Vec<Standing> = items.iter().map(|_| Standing::default()).collect();
        let policies: Vec<&BoundPolicy> = self.asked_at_all(Hook::ListItems, ctx.caller).collect();
        self.ask_about_items(ctx, &policies, items, &mut standings, &mut trail.steps).await?;
        if self.shadows_at_all(Hook::ListItems, ctx.caller).next().is_some() {
            let items = items.iter().map(OwnedItem::of).collect();
            trail.shadows.push(Shadow::of(ctx, Question::Items(items), true));
        }
        Ok(standings)
    }

    /// Asks each of `policies` about those of the items that are its business and still open.
    pub(super) async fn ask_about_items(
        &self,
        ctx: &CallContext<'_>,
        policies: &[&BoundPolicy],
        items: &[ListedItem<'_>],
        standings: &mut [Standing],
        steps: &mut Vec<Step>,
    ) -> Result<(), Refusal> {
        let texts = ctx.texts();
        let is_large = items.len() > MAX_ASKED_AT_ONCE;
        for policy in policies {
            let about = |at: usize| About::Item { upstream: items[at].upstream, id: items[at].id };
            let asked = (0..items.len()).filter(|at| standings[*at].is_open() && policy.matches(about(*at))).collect();
            for batch in pieces(asked, |at| items[at].upstream) {
                let mut asking = Asking::new(self, ctx, &texts, Hook::ListItems, &[policy], steps).of_size(is_large);
                let shown: Vec<_> = batch.iter().map(|at| self.shown_item(&items[*at])).collect();
                let judge = |answer| {
                    let visible = answer::visibilities(answer, batch.len())?;
                    let told = told(&visible);
                    Ok((visible, told))
                };
                let heard = asking.ask::<hook::ListItems, _>(policy, &shown, judge).await;
                let visible = hear(heard, &batch, standings)?;
                for (index, at) in batch.iter().enumerate() {
                    standings[*at].hear(visible.as_ref().map_or(Visibility::Abstain, |visible| visible[index]));
                }
            }
        }
        Ok(())
    }

    fn shown_item<'a>(&'a self, item: &ListedItem<'a>) -> list_items::Item<&'a str> {
        let ListedItem { kind, upstream, id, mime } = *item;
        let (_, labels) = self.facts(upstream);
        let labels = labels.iter().map(String::as_str).collect();
        list_items::Item { kind: kind.shown(), upstream: upstream.as_str(), id, mime, labels }
    }

    /// What is written down where a tool is hidden and nobody had to be asked again.
    fn remembered_step(&self, position: u16) -> Option<Step> {
        let policy = self.bindings().get(usize::from(position))?;
        Some(Step {
            binding: policy.name().clone(),
            module: policy.module_name().clone(),
            mode: Mode::Enforce,
            hook: Hook::ListTools,
            verdict: "hide",
            code: None,
            rule: None,
            micros: 0,
            notes: vec![Note { key: "remembered".to_owned(), value: "true".to_owned() }],
            recorded: None,
        })
    }
}

/// What policies have said about one tool or item of a list so far.
#[derive(Debug, Default)]
pub(super) struct Standing {
    asked: bool,
    shown: bool,
    refusal: Option<Refusal>,
    hidden_by: Option<u16>,
    texts: Override,
    /// It is known already, and nobody is asked.
    is_remembered: bool,
    /// Somebody had a say who may say something else next time.
    is_fleeting: bool,
    /// Who is being asked.
    asking: Option<u16>,
}

impl Standing {
    fn remembered(known: Known) -> Self {
        let standing = Self { is_remembered: true, ..Self::default() };
        match known {
            Known::Shown(texts) => Self { texts, ..standing },
            Known::Hidden(hidden_by) => Self { refusal: Some(Refusal::Hidden), hidden_by, ..standing },
        }
    }

    /// Whether more policies have to be asked.
    fn is_open(&self) -> bool {
        self.refusal.is_none() && !self.is_remembered
    }

    fn ask(&mut self, position: Option<u16>, is_pure: bool) {
        self.asking = position;
        self.is_fleeting |= !is_pure;
    }

    fn hear(&mut self, visibility: Visibility) {
        self.asked = true;
        match visibility {
            Visibility::Abstain => {}
            Visibility::Show => self.shown = true,
            Visibility::Hide => {
                self.refusal = Some(Refusal::Hidden);
                self.hidden_by = self.asking;
            }
        }
    }

    fn take_over(&mut self, Override { title, description }: Override) {
        self.texts.title = title.or(self.texts.title.take());
        self.texts.description = description.or(self.texts.description.take());
    }

    /// What is worth to be remembered.
    fn to_remember(&self, when_all_abstain: WhenAllAbstain) -> Option<Known> {
        match &self.refusal {
            _ if self.is_remembered || self.is_fleeting || !self.asked => None,
            Some(Refusal::Hidden) => Some(Known::Hidden(self.hidden_by)),
            Some(_) => None,
            None if self.is_left_out(when_all_abstain) => Some(Known::Hidden(None)),
            None => Some(Known::Shown(self.texts.clone())),
        }
    }

    /// Whether nobody had an opinion and that is not enough.
    fn is_left_out(&self, when_all_abstain: WhenAllAbstain) -> bool {
        self.asked && !self.shown && when_all_abstain == WhenAllAbstain::Deny
    }

    /// The texts under which it is seen, or why it is not.
    fn settle(self, when_all_abstain: WhenAllAbstain) -> Result<Override, Refusal> {
        if self.is_left_out(when_all_abstain) && self.refusal.is_none() {
            return Err(Refusal::Hidden);
        }
        match self.refusal {
            Some(refusal) => Err(refusal),
            None => Ok(self.texts),
        }
    }
}

/// What was heard of a batch. A failure hides all of it; where there was no room to ask, there is no list.
fn hear<T>(
    heard: Result<Option<T>, Refusal>,
    batch: &[usize],
    standings: &mut [Standing],
) -> Result<Option<T>, Refusal> {
    match heard {
        Ok(Some(heard)) => Ok(Some(heard)),
        Ok(None) => {
            // An advisory policy failed, and may not fail the next time.
            batch.iter().for_each(|at| standings[*at].is_fleeting = true);
            Ok(None)
        }
        Err(refusal @ Refusal::Throttled { .. }) => Err(refusal),
        Err(refusal) => {
            batch.iter().for_each(|at| standings[*at].refusal = Some(refusal.clone()));
            Ok(None)
        }
    }
}

/// Positions in pieces that may be asked about at once, each of one upstream.
fn pieces<'a>(mut asked: Vec<usize>, upstream: impl Fn(usize) -> &'a UpstreamName) -> Vec<Vec<usize>> {
    asked.sort_by_key(|at| upstream(*at));
    let of_upstream = asked.chunk_by(|one, other| upstream(*one) == upstream(*other));
    of_upstream.flat_map(|piece| piece.chunks(MAX_ASKED_AT_ONCE)).map(<[usize]>::to_vec).collect()
}

fn told(visible: &[Visibility]) -> Told {
    if let [visibility] = visible {
        return Told::word(match visibility {
            Visibility::Abstain => "abstain",
            Visibility::Show => "show",
            Visibility::Hide => "hide",
        });
    }
    let count = |wanted: Visibility| visible.iter().filter(|visibility| **visibility == wanted).count().to_string();
    let notes = [
        Note { key: "shown".to_owned(), value: count(Visibility::Show) },
        Note { key: "hidden".to_owned(), value: count(Visibility::Hide) },
    ];
    Told::noting("filter", &notes)
}
