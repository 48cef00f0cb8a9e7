//! What a caller sees: pages of lists, whether they changed, and what the gateway says of itself.

use std::sync::Arc;

use serde_json::value::RawValue;

use super::items::reaches_items;
use super::recording::Recording;
use super::{Origin, Refusal, Scope, Services, Snapshot, settled, view};
use crate::audit::RecordedOutcome;
use crate::identity::Caller;
use crate::ids::UpstreamName;
use crate::mcp::json::{Members, quote, raw};
use crate::mcp::revision::{Answer, ListKind, Offered, Page, SKILLS_EXTENSION};
use crate::policy::{CallContext, ItemKind, ListedItem, VisibleTool};
use crate::secret::Digest;
use crate::upstream::catalog::{Tool, View};

/// Longest `instructions` that are put together of those of several upstreams, in bytes.
const MAX_INSTRUCTIONS: usize = 16 * 1024;
/// What cursors are sealed for.
const CURSOR: &str = "list cursor";

/// One page of a list: what the allow-list permits and no policy hides, in the order of names.
pub(super) async fn page(
    snapshot: &Snapshot,
    services: &Services,
    origin: &Origin,
    kind: ListKind,
    cursor: Option<&str>,
) -> Result<Answer, Refusal> {
    let after = cursor.map(|cursor| open_cursor(services, kind, cursor)).transpose()?;
    let Some(view) = view(snapshot, origin) else {
        return Ok(Answer::Page(Page { kind, items: Vec::new(), next_cursor: None, missing: Vec::new() }));
    };
    let mut recording = Recording::start(services, kind.method());
    let listing = Listing { snapshot, services, origin, view, kind };
    let listed = listing.after(after.as_deref(), services.list_page, &mut recording).await;
    match &listed {
        Err(Refusal::Policy(refusal)) => recording.refuse(snapshot, services, origin, refusal),
        _ if recording.asked_a_policy() => recording.allow(snapshot, services, origin, RecordedOutcome::Result),
        _ => {}
    }
    let (items, next) = listed?;
    let next_cursor = next.map(|last| seal_cursor(services, kind, &last));
    let reaches = |name: &&UpstreamName| origin.scope.has(name) && origin.caller.allow.reaches(name);
    let missing = view.missing().iter().filter(reaches).map(ToString::to_string).collect();
    Ok(Answer::Page(Page { kind, items, next_cursor, missing }))
}

/// One kind of list for one caller.
struct Listing<'a> {
    snapshot: &'a Snapshot,
    services: &'a Services,
    origin: &'a Origin,
    view: &'a Arc<View>,
    kind: ListKind,
}

/// An item that the caller may see if no policy hides it.
struct Candidate<'a> {
    item: ListedItem<'a>,
    /// The name or URI that callers see.
    exposed: &'a str,
    listed: &'a Arc<RawValue>,
}

impl<'a> Listing<'a> {
    /// At most `size` definitions after a name, and the name to go on after if there are more.
    async fn after(
        &self,
        after: Option<&str>,
        size: usize,
        recording: &mut Recording,
    ) -> Result<(Vec<Arc<RawValue>>, Option<String>), Refusal> {
        match self.kind {
            ListKind::Tools => self.tools(after, size, recording).await,
            _ => self.items(after, size, recording).await,
        }
    }

    async fn tools(
        &self,
        after: Option<&str>,
        size: usize,
        recording: &mut Recording,
    ) -> Result<(Vec<Arc<RawValue>>, Option<String>), Refusal> {
        let permitted = |tool: &&Arc<Tool>| is_within_reach(self.origin, tool);
        let mut candidates = self.view.tools_after(after).filter(permitted).cloned().peekable();
        let mut items = Vec::new();
        let mut last = None;
        while items.len() < size && candidates.peek().is_some() {
            let batch: Vec<Arc<Tool>> = candidates.by_ref().take(size - items.len()).collect();
            last = batch.last().map(|tool| tool.exposed.clone());
            let ctx = CallContext { view: Some(self.view), ..recording.context(self.services, self.origin) };
            let filtered = self.snapshot.policies.filter(&ctx, &batch).await;
            items.extend(settled(recording, filtered)?.iter().map(listing));
        }
        Ok((items, candidates.peek().and(last)))
    }

    async fn items(
        &self,
        after: Option<&str>,
        size: usize,
        recording: &mut Recording,
    ) -> Result<(Vec<Arc<RawValue>>, Option<String>), Refusal> {
        let mut candidates = self.candidates(after).peekable();
        let mut items = Vec::new();
        let mut last = None;
        while items.len() < size && candidates.peek().is_some() {
            let batch: Vec<Candidate<'_>> = candidates.by_ref().take(size - items.len()).collect();
            last = batch.last().map(|candidate| candidate.exposed.to_owned());
            let about: Vec<ListedItem<'_>> = batch.iter().map(|candidate| candidate.item).collect();
            let filtered =
                self.snapshot.policies.filter_items(&recording.context(self.services, self.origin), &about).await;
            let visible = settled(recording, filtered)?;
            let shown = batch.iter().zip(visible).filter(|(_, is_visible)| *is_visible);
            items.extend(shown.map(|(candidate, _)| candidate.listed.clone()));
        }
        Ok((items, candidates.peek().and(last)))
    }

    /// What there is besides tools, within the caller's reach, in order.
    fn candidates(&self, after: Option<&str>) -> Box<dyn Iterator<Item = Candidate<'a>> + Send + 'a> {
        let (view, origin) = (self.view, self.origin);
        let item =
            |kind, upstream, id, mime: &'a Option<String>| ListedItem { kind, upstream, id, mime: mime.as_deref() };
        let reaches = |candidate: &Candidate<'_>| reaches_items(origin, candidate.item.upstream);
        match self.kind {
            ListKind::Tools => Box::new(std::iter::empty()),
            ListKind::Prompts => Box::new(
                view.prompts_after(after)
                    .map(move |prompt| Candidate {
                        item: item(ItemKind::Prompt, &prompt.upstream, &prompt.name, &None),
                        exposed: &prompt.exposed,
                        listed: &prompt.listed,
                    })
                    .filter(reaches),
            ),
            ListKind::Resources => Box::new(
                view.resources_after(after)
                    .map(move |resource| Candidate {
                        item: item(ItemKind::Content, &resource.upstream, &resource.uri, &resource.mime),
                        exposed: &resource.exposed,
                        listed: &resource.listed,
                    })
                    .filter(reaches),
            ),
            ListKind::Templates => Box::new(
                view.templates_after(after)
                    .map(move |template| Candidate {
                        item: item(ItemKind::Template, &template.upstream, &template.uri_template, &template.mime),
                        exposed: &template.exposed,
                        listed: &template.listed,
                    })
                    .filter(reaches),
            ),
            ListKind::Skills => Box::new(
                view.skills_after(after)
                    .filter(|skill| skill.is_shown(|upstream: &UpstreamName| reaches_items(origin, upstream)))
                    .map(move |skill| Candidate {
                        item: item(ItemKind::Skill, &skill.upstream, &skill.uri, &None),
                        exposed: &skill.uri,
                        listed: &skill.listed,
                    }),
            ),
        }
    }
}

/// Whether the endpoint, the narrowing headers, the allow-list and the client's grant have this tool.
pub(super) fn is_within_reach(origin: &Origin, tool: &Tool) -> bool {
    let caller = &origin.caller;
    let may_use = match tool.is_connect {
        true => caller.may_connect(&tool.upstream, &tool.name),
        false => caller.may_use(&tool.upstream, &tool.name),
    };
    origin.scope.has_tool(&tool.upstream, &tool.exposed) && may_use
}

/// A tool's definition as this caller sees it.
fn listing(visible: &VisibleTool) -> Arc<RawValue> {
    let VisibleTool { tool, title, description } = visible;
    if title.is_none() && description.is_none() {
        return tool.listed.clone();
    }
    let mut members = Members::parse(tool.listed.get()).expect("a listed definition is an object");
    for (name, text) in [("title", title), ("description", description)] {
        if let Some(text) = text {
            members.set(name, raw(quote(text)));
        }
    }
    members.to_raw().into()
}

/// Sealed, and not only signed: the name may be that of an item which a policy hides from the caller.
fn seal_cursor(services: &Services, kind: ListKind, last: &str) -> String {
    services.secret.seal(CURSOR, kind.method().as_bytes(), last.as_bytes())
}

fn open_cursor(services: &Services, kind: ListKind, cursor: &str) -> Result<String, Refusal> {
    let payload = services.secret.unseal(CURSOR, kind.method().as_bytes(), cursor).ok_or(Refusal::BadCursor)?;
    String::from_utf8(payload).map_err(|_| Refusal::BadCursor)
}

/// A digest of what this caller sees of a list, in a snapshot as they see it ([`super::personal`]): where it differs from an earlier one, the list has changed. `None` where
/// there is no room to ask the policies.
pub async fn listing_digest(
    snapshot: &Snapshot,
    services: &Services,
    origin: &Origin,
    kind: ListKind,
) -> Option<Digest> {
    let Some(view) = view(snapshot, origin) else { return Some(Digest::of(b"")) };
    let mut recording = Recording::start(services, kind.method());
    let listing = Listing { snapshot, services, origin, view, kind };
    let (items, _) = listing.after(None, usize::MAX, &mut recording).await.ok()?;
    let text: String = items.iter().flat_map(|item| [item.get(), "\n"]).collect();
    Some(Digest::of(text.as_bytes()))
}

/// What there is for a caller, and what its upstreams have to say about their use.
pub fn offered(snapshot: &Snapshot, caller: &Caller, scope: &Scope) -> (Offered, Option<String>) {
    let mut offered = Offered { tools: true, ..Offered::default() };
    let mut instructions = Vec::new();
    let mut reads_directories = None;
    let Some(view) = snapshot.catalog.view(scope.endpoint()) else { return (offered, None) };
    let reached = |name: &UpstreamName| scope.has(name) && caller.allow.reaches(name);
    for upstream in view.upstreams().filter(|name| reached(name)) {
        let Some(about) = view.about(upstream) else { continue };
        let has = &about.capabilities;
        if caller.may_use_items(upstream) {
            offered.prompts |= has.prompts;
            offered.resources |= has.resources;
            offered.subscribe |= has.resources_subscribe;
            offered.completions |= has.completions;
            if has.has_skills() {
                // Skills are served over resources, whether or not the upstream says so.
                offered.resources = true;
                reads_directories = Some(reads_directories.unwrap_or(true) && has.reads_directories());
            }
        }
        offered.logging |= has.logging;
        offered.tasks |= has.tasks.is_some();
        merge(&mut offered.extensions, has.extensions.iter().filter(|(name, _)| name != SKILLS_EXTENSION));
        merge(&mut offered.experimental, has.experimental.iter());
        if let Some(text) = &about.instructions {
            instructions.push((upstream, text.as_str()));
        }
    }
    if let Some(reads_directories) = reads_directories {
        // What one upstream lacks cannot be promised for all.
        let settings = if reads_directories { r#"{"directoryRead":true}"# } else { "{}" };
        offered.extensions.push((SKILLS_EXTENSION.to_owned(), raw(settings.to_owned())));
    }
    let instructions = match instructions.as_slice() {
        [] => None,
        [(_, text)] if scope.endpoint().is_some() => Some((*text).to_owned()),
        several => Some(together(several)),
    };
    (offered, instructions)
}

/// Where two upstreams have different settings for the same name, the first one's are shown.
fn merge<'a>(into: &mut Vec<(String, Box<RawValue>)>, from: impl Iterator<Item = &'a (String, Box<RawValue>)>) {
    for (name, settings) in from {
        if !into.iter().any(|(known, _)| known == name) {
            into.push((name.clone(), settings.clone()));
        }
    }
}

/// The instructions of several upstreams, each under its name, as many as fit.
fn together(instructions: &[(&UpstreamName, &str)]) -> String {
    let mut all = String::new();
    for (upstream, text) in instructions {
        let part = format!("# {upstream}\n\n{}\n\n", text.trim());
        if all.len() + part.len() > MAX_INSTRUCTIONS {
            tracing::warn!(%upstream, "its instructions are left out: together they would be too long");
            continue;
        }
        all.push_str(&part);
    }
    all.trim_end().to_owned()
}
