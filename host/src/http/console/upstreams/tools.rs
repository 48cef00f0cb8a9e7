//! `/upstreams/{name}/tools`: what an upstream offers, in its own words, and agreeing to it.

use askama::Template;
use axum::Extension;
use axum::extract::{Path, State};
use serde_json::Value;

use super::diff::{self, Line};
use super::{PART, minute, page_of, text};
use crate::admin::pins::{OnOffer, PinError};
use crate::http::api::Problem;
use crate::http::api::tools::{HintsView, ToolQuery, ToolRow, page};
use crate::http::api::upstreams as api;
use crate::http::console::Person;
use crate::http::console::desk::{Answer, Asked, Confirm, Desk, Done, Head, Sent};
use crate::http::oauth::pages::Site;
use crate::ids::UpstreamName;

/// Tools on a page.
const PAGE: usize = 25;
/// Lines of a comparison on a page.
const MOST_LINES: usize = 1_000;

#[derive(Template)]
#[template(path = "console/upstreams/tools.html")]
struct ToolsPage<'a> {
    site: &'a Site,
    head: Head<'a>,
    name: UpstreamName,
    /// The path of the upstream's page.
    page: String,
    /// Whether only what somebody has to agree to is shown.
    only_changed: bool,
    tools: Vec<Tool>,
    older: Option<String>,
}

/// A tool as it is shown: its texts can be seen as they stand, and are bounded.
struct Tool {
    name: String,
    title: Option<String>,
    description: Option<String>,
    state: &'static str,
    offered: Option<String>,
    /// Where what it is now is agreed to, if somebody has to.
    to_accept: Option<String>,
    pinned: Option<(String, String, String)>,
    hints: Vec<&'static str>,
    /// Parts of its definition: what they are called, and their JSON.
    parts: Vec<(&'static str, String)>,
    differs_in: Vec<String>,
    difference: Vec<Line>,
    /// Whether what was agreed to is not known any more, though something else was.
    is_unknown: bool,
}

impl Tool {
    fn new(row: &ToolRow, page: &str) -> Self {
        let to_accept = row.offered_digest.as_deref().filter(|_| matches!(row.state, "changed" | "first-seen"));
        let is_offered = !row.offered_definition.is_null();
        let shown = if is_offered { &row.offered_definition } else { &row.pinned_definition };
        let part = |name: &'static str, member: &str| Some((name, text::pretty(shown.get(member)?)));
        let parts = [
            part("Input schema", "inputSchema"),
            part("Output schema", "outputSchema"),
            part("Annotations", "annotations"),
            Some(("Whole definition", text::pretty(shown))).filter(|_| !shown.is_null()),
        ];
        let is_changed = row.state == "changed";
        let was = &row.pinned_definition;
        let difference =
            if is_changed && !was.is_null() { differences(was, &row.offered_definition) } else { Vec::new() };
        Self {
            name: text::line(&row.tool),
            title: row.title.as_deref().map(text::line),
            description: row.description.as_deref().map(text::lines),
            state: row.state,
            offered: row.offered_digest.clone(),
            to_accept: to_accept.map(|digest| format!("{page}/tools/{digest}/accept")),
            pinned: row.pinned.as_ref().map(|pin| (pin.accepted.clone(), minute(&pin.accepted), pin.by.clone())),
            hints: row.hints.as_ref().map(hints).unwrap_or_default(),
            parts: parts.into_iter().flatten().collect(),
            differs_in: row.differs_in.iter().flatten().map(|member| text::line(member)).collect(),
            is_unknown: is_changed && was.is_null(),
            difference,
        }
    }

    fn word(&self) -> &'static str {
        match self.state {
            "first-seen" => "new",
            state => state,
        }
    }

    fn look(&self) -> &'static str {
        match self.state {
            "pinned" => "good",
            "changed" => "error",
            "first-seen" => "warning",
            _ => "",
        }
    }
}

/// What the upstream says of calls, in words.
fn hints(hints: &HintsView) -> Vec<&'static str> {
    let HintsView { read_only, destructive, idempotent, open_world } = hints;
    if *read_only {
        return [Some("only reads"), open_world.then_some("reaches further than the upstream")]
            .into_iter()
            .flatten()
            .collect();
    }
    let words = [
        Some(if *destructive { "may destroy something" } else { "changes things, and destroys none" }),
        idempotent.then_some("does no more when called twice"),
        open_world.then_some("reaches further than the upstream"),
    ];
    words.into_iter().flatten().collect()
}

fn differences(before: &Value, after: &Value) -> Vec<Line> {
    let lines = diff::diff(&text::whole(before), &text::whole(after));
    let left = lines.len().saturating_sub(MOST_LINES);
    let seen = |line: Line| match line {
        Line::Same(line) => Line::Same(text::line_of_json(&line)),
        Line::Gone(line) => Line::Gone(text::line_of_json(&line)),
        Line::New(line) => Line::New(text::line_of_json(&line)),
        Line::Skipped(count) => Line::Skipped(count),
    };
    let mut lines: Vec<Line> = lines.into_iter().take(MOST_LINES).map(seen).collect();
    if left > 0 {
        lines.push(Line::New(format!("[cut off here: {left} lines more]")));
    }
    lines
}

pub(super) async fn show(
    State(desk): State<Desk>,
    Extension(person): Extension<Person>,
    Path(name): Path<String>,
    asked: Asked,
) -> Answer {
    let upstream = api::read_name(&name)?;
    let only_changed = asked.get("changed").is_some();
    let query = ToolQuery { limit: Some(PAGE), cursor: asked.take("cursor"), changed: only_changed };
    let (rows, next) = page(&desk.api, &name, query).await?;
    let place = page_of(&upstream);
    let path = format!("{place}/tools");
    Ok(desk.page(ToolsPage {
        site: desk.site(),
        head: desk.head(&person, PART),
        name: upstream,
        only_changed,
        tools: rows.iter().map(|row| Tool::new(row, &place)).collect(),
        page: place,
        older: next.map(|next| asked.with(&path, "cursor", &next)),
    }))
}

/// Agrees to the definition with this digest.
pub(super) async fn accept(
    State(desk): State<Desk>,
    Extension(person): Extension<Person>,
    Path((name, digest)): Path<(String, String)>,
    Sent(_): Sent,
) -> Answer {
    let upstream = api::find(&desk.api, &name)?.name;
    let control = &desk.api.control;
    let found = control.pins(None, 1, |pin| pin.upstream == upstream && pin.offered.as_deref() == Some(&*digest));
    let tool = found.into_iter().next().map(|pin| pin.tool);
    // Whoever was faster changed it: what was looked at is not there any more.
    let tool = tool.ok_or_else(|| Problem::not_found("definition: it has changed, so look at it again"))?;
    control.accept_pin(&upstream, &tool, Some(&digest), person.actor()).await?;
    Ok(desk.done(&person, &format!("{}/tools", page_of(&upstream)), Done::AgreedTo))
}

pub(super) async fn ask_to_accept(
    State(desk): State<Desk>,
    Extension(person): Extension<Person>,
    Path(name): Path<String>,
) -> Answer {
    let upstream = api::find(&desk.api, &name)?.name;
    let offer = desk.api.control.on_offer(&upstream).ok_or(PinError::NoUpstream).map_err(Problem::from)?;
    let back = format!("{}/tools", page_of(&upstream));
    Ok(desk.confirm(
        &person,
        PART,
        Confirm {
            title: &format!("Agree to all that {upstream} offers?"),
            what: &what_is_accepted(&offer),
            button: "Agree to all of it",
            path: &format!("{back}/accept"),
            back: &back,
            hidden: &[("seen", &offer.fingerprint)],
        },
    ))
}

/// What somebody agrees to, in words.
fn what_is_accepted(offer: &OnOffer) -> String {
    let OnOffer { tools, to_accept, .. } = offer;
    let names: Vec<String> = to_accept.iter().map(|tool| text::line(tool)).collect();
    let changed = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    format!(
        "Every tool that it offers to everybody counts as looked at, as it is now: {tools} in all. New or changed: {changed}. \
         Should any of them change before you press the button, nothing is agreed to. What it does not offer any more is \
         forgotten, unless people have lists of their own there."
    )
}

pub(super) async fn accept_all(
    State(desk): State<Desk>,
    Extension(person): Extension<Person>,
    Path(name): Path<String>,
    Sent(mut fields): Sent,
) -> Answer {
    let upstream = api::find(&desk.api, &name)?.name;
    let seen = fields.take("seen");
    desk.api.control.accept_pins(&upstream, Some(&seen), person.actor()).await?;
    Ok(desk.done(&person, &format!("{}/tools", page_of(&upstream)), Done::AgreedTo))
}

/// Asks before what was agreed to of an upstream that is gone is forgotten.
pub(super) async fn ask_to_forget(
    State(desk): State<Desk>,
    Extension(person): Extension<Person>,
    asked: Asked,
) -> Answer {
    let Some(name) = asked.get("upstream") else { return Ok(desk.go(PART)) };
    let upstream = api::read_name(name.trim())?;
    if desk.api.control.snapshot.load().upstreams.contains_key(&upstream) {
        return Err(PinError::InUse.into());
    }
    let confirm = Confirm {
        title: &format!("Forget what was agreed to of {upstream}?"),
        what: "Should there be an upstream of this name once more, its tools are taken as they are then, without anybody being \
               asked. This cannot be taken back.",
        button: "Forget it",
        path: "/upstreams/forget",
        back: PART,
        hidden: &[("upstream", upstream.as_str())],
    };
    Ok(desk.confirm(&person, PART, confirm))
}

/// Forgets what was agreed to of an upstream that is gone.
pub(super) async fn forget(
    State(desk): State<Desk>,
    Extension(person): Extension<Person>,
    Sent(mut fields): Sent,
) -> Answer {
    let upstream = api::read_name(fields.take("upstream").trim())?;
    desk.api.control.forget_pins(&upstream, person.actor()).await?;
    Ok(desk.done(&person, PART, Done::Forgotten))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_are_told_in_words() {
        let told =
            |read_only, destructive| hints(&HintsView { read_only, destructive, idempotent: false, open_world: false });
        assert_eq!(told(true, true), ["only reads"], "what only reads destroys nothing");
        assert_eq!(told(false, true), ["may destroy something"]);
        assert_eq!(told(false, false), ["changes things, and destroys none"]);
    }
}
