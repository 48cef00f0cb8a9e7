//! What a caller sees: pages of lists, whether they changed, and what the gateway says of itself.

use std::sync::Arc;

use serde_json::value::RawValue;

use super::recording::Recording;
use super::{Origin, Refusal, Scope, Services, Snapshot, view};
use crate::audit::RecordedOutcome;
use crate::identity::Caller;
use crate::ids::UpstreamName;
use crate::mcp::json::{Members, raw, to_raw};
use crate::mcp::revision::{Answer, ListKind, Offered, Page, SKILLS_EXTENSION};
use crate::policy::VisibleTool;
use crate::secret::Digest;
use crate::upstream::catalog::{Tool, View};

/// Longest `instructions` that are put together of those of several upstreams, in bytes.
const MAX_INSTRUCTIONS: usize = 16 * 1024;
/// What cursors are sealed for.
const CURSOR: &str = "list cursor";

/// One page of a list: what the allow-list permits and no policy hides, in the order of names.
pub(super) fn page(
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
    let size = services.list_page;
    let (items, next) = match kind {
        ListKind::Tools => tools(snapshot, services, origin, view, after.as_deref(), size, &mut recording),
        _ => other_items(snapshot, services, origin, view, kind, after.as_deref(), size, &recording),
    };
    let next_cursor = next.map(|last| seal_cursor(services, kind, &last));
    let reaches = |name: &&UpstreamName| origin.scope.has(name) && origin.caller.allow.reaches(name);
    let missing = view.missing().iter().filter(reaches).map(ToString::to_string).collect();
    if recording.asked_a_policy() {
        recording.allow(snapshot, services, origin, RecordedOutcome::Result);
    }
    Ok(Answer::Page(Page { kind, items, next_cursor, missing }))
}

/// At most `size` tools after a name, and the name to go on after if there are more.
fn tools(
    snapshot: &Snapshot,
    services: &Services,
    origin: &Origin,
    view: &View,
    after: Option<&str>,
    size: usize,
    recording: &mut Recording,
) -> (Vec<Arc<RawValue>>, Option<String>) {
    let permitted = |tool: &&Arc<Tool>| is_within_reach(origin, tool);
    let mut candidates = view.tools_after(after).filter(permitted).cloned().peekable();
    let mut items = Vec::new();
    let mut last = None;
    while items.len() < size && candidates.peek().is_some() {
        let batch: Vec<Arc<Tool>> = candidates.by_ref().take(size - items.len()).collect();
        last = batch.last().map(|tool| tool.exposed.clone());
        let filtered = snapshot.policies.filter(&recording.context(services, origin), &batch);
        recording.heard(filtered.trail);
        items.extend(filtered.tools.iter().map(listing));
    }
    (items, candidates.peek().and(last))
}

/// Whether the endpoint, the narrowing headers and the allow-list have this tool.
pub(super) fn is_within_reach(origin: &Origin, tool: &Tool) -> bool {
    origin.scope.has_tool(&tool.upstream, &tool.exposed) && origin.caller.allow.permits(&tool.upstream, &tool.name)
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
            members.set(name, to_raw(text));
        }
    }
    members.to_raw().into()
}

#[expect(clippy::too_many_arguments, reason = "the parts of one page, gathered here and nowhere else")]
fn other_items(
    snapshot: &Snapshot,
    services: &Services,
    origin: &Origin,
    view: &View,
    kind: ListKind,
    after: Option<&str>,
    size: usize,
    recording: &Recording,
) -> (Vec<Arc<RawValue>>, Option<String>) {
    let ctx = recording.context(services, origin);
    let shows = |upstream: &UpstreamName| origin.scope.has(upstream) && snapshot.policies.shows_items(&ctx, upstream);
    let mut items = Vec::new();
    let mut last = None;
    let mut take = |upstream: &UpstreamName, exposed: &str, listed: &Arc<RawValue>| {
        if !shows(upstream) {
            return true;
        }
        if items.len() == size {
            return false;
        }
        items.push(listed.clone());
        last = Some(exposed.to_owned());
        true
    };
    let all_fit = match kind {
        ListKind::Prompts => {
            view.prompts_after(after).all(|prompt| take(&prompt.upstream, &prompt.exposed, &prompt.listed))
        }
        ListKind::Resources => {
            view.resources_after(after).all(|resource| take(&resource.upstream, &resource.exposed, &resource.listed))
        }
        ListKind::Templates => {
            view.templates_after(after).all(|template| take(&template.upstream, &template.exposed, &template.listed))
        }
        ListKind::Skills => {
            let mut shown = view.skills_after(after).filter(|skill| skill.is_shown(shows));
            shown.all(|skill| take(&skill.upstream, &skill.uri, &skill.listed))
        }
        ListKind::Tools => true,
    };
    (items, last.filter(|_| !all_fit))
}

/// Sealed, and not only signed: the name may be that of an item which a policy hides from the caller.
fn seal_cursor(services: &Services, kind: ListKind, last: &str) -> String {
    services.secret.seal(CURSOR, kind.method().as_bytes(), last.as_bytes())
}

fn open_cursor(services: &Services, kind: ListKind, cursor: &str) -> Result<String, Refusal> {
    let payload = services.secret.unseal(CURSOR, kind.method().as_bytes(), cursor).ok_or(Refusal::BadCursor)?;
    String::from_utf8(payload).map_err(|_| Refusal::BadCursor)
}

/// A digest of what this caller sees of a list: where it differs from an earlier one, the list has changed.
pub fn listing_digest(snapshot: &Snapshot, services: &Services, origin: &Origin, kind: ListKind) -> Digest {
    let Some(view) = view(snapshot, origin) else { return Digest::of(b"") };
    let mut recording = Recording::start(services, kind.method());
    let (items, _) = match kind {
        ListKind::Tools => tools(snapshot, services, origin, view, None, usize::MAX, &mut recording),
        _ => other_items(snapshot, services, origin, view, kind, None, usize::MAX, &recording),
    };
    let text: String = items.iter().flat_map(|item| [item.get(), "\n"]).collect();
    Digest::of(text.as_bytes())
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
        if caller.allow.permits_items(upstream) {
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
