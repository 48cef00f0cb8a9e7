//! `/keys/access`: what each key may use of each upstream, and for one key tool by tool, with the line that says so.
//!
//! What allow-lists say; policies may hide more, and the pages say that.

use askama::Template;
use axum::Extension;
use axum::extract::{Path, State};

use super::super::Person;
use super::super::desk::{Answer, Asked, Desk, Head};
use super::super::words::Badge;
use super::{HERE, address, address_of};
use crate::http::api::key_access::{self, KeyAccessView, MatrixQuery, ReachView, ToolQuery, ToolView};
use crate::http::oauth::pages::Site;

pub(super) const PATH: &str = "/keys/access";
/// Keys on a page of the matrix.
const ROWS: usize = 25;
/// Tools on a page of one key.
const TOOLS: usize = 100;

/// How much of an upstream a key may use, in words.
fn cell(reach: &ReachView) -> String {
    match (reach.reach, reach.tools) {
        ("all", Some(tools)) => format!("all ({tools})"),
        ("all", None) => "all".to_owned(),
        ("none", _) => "none".to_owned(),
        (_, Some(tools)) => format!("{} of {tools} tools", reach.reached),
        (_, None) => "some: its tools are not known yet".to_owned(),
    }
}

/// The same in a word, and what is to be said besides where there is no room for it.
fn short(reach: &ReachView) -> (String, Option<&'static str>) {
    match (reach.reach, reach.tools) {
        ("all" | "none", _) | (_, Some(_)) => (cell(reach), None),
        (_, None) => ("some".to_owned(), Some("its tools are not known yet")),
    }
}

fn mark(reach: &str) -> &'static str {
    match reach {
        "all" => "good",
        "some" => "warning",
        _ => "",
    }
}

/// Why a key may use a tool, or not.
fn why(tool: &ToolView) -> String {
    match (tool.by, tool.line) {
        (_, Some(line)) => format!("Line {line} of the allow-list"),
        ("open_to_all_keys", None) => "The upstream is open to all keys".to_owned(),
        ("no_pattern", None) => "Lines for this upstream, and none has a pattern for the tool".to_owned(),
        _ => "No line for this upstream".to_owned(),
    }
}

fn badge(tool: &ToolView) -> Badge {
    if tool.reached { Badge::good("Allowed") } else { Badge::plain("Not allowed") }
}

#[derive(Template)]
#[template(path = "console/keys/matrix.html")]
struct MatrixPage<'a> {
    site: &'a Site,
    head: Head<'a>,
    keys: Vec<KeyAccessView>,
    /// What is asked for.
    upstream: &'a str,
    more_upstreams: Option<String>,
    first_upstreams: Option<String>,
    older: Option<String>,
}

impl MatrixPage<'_> {
    /// The columns, which are the same in each row.
    fn columns(&self) -> impl Iterator<Item = &ReachView> {
        self.keys.first().into_iter().flat_map(|key| &key.upstreams)
    }
}

pub(super) async fn matrix(State(desk): State<Desk>, Extension(person): Extension<Person>, asked: Asked) -> Answer {
    let query = MatrixQuery {
        limit: Some(ROWS),
        cursor: asked.take("cursor"),
        upstream: asked.take("upstream"),
        after: asked.take("after"),
    };
    let (keys, next) = key_access::matrix(&desk.api, query).await?;
    let more = keys.first().and_then(|key| key.more_after.as_ref());
    Ok(desk.page(MatrixPage {
        site: desk.site(),
        head: desk.head(&person, HERE),
        more_upstreams: more.map(|after| asked.with(PATH, "after", after.as_str())),
        first_upstreams: asked.get("after").map(|_| asked.with(PATH, "after", "")),
        upstream: asked.get("upstream").unwrap_or_default(),
        older: next.map(|next| asked.with(PATH, "cursor", &next)),
        keys,
    }))
}

#[derive(Template)]
#[template(path = "console/keys/access.html")]
struct AccessPage<'a> {
    site: &'a Site,
    head: Head<'a>,
    name: &'a str,
    here: String,
    back: String,
    upstream: &'a str,
    summary: KeyAccessView,
    more_upstreams: Option<String>,
    tools: Vec<ToolView>,
    older: Option<String>,
}

pub(super) async fn show(
    State(desk): State<Desk>,
    Extension(person): Extension<Person>,
    Path(name): Path<String>,
    asked: Asked,
) -> Answer {
    let here = address_of(&name, "access");
    let (pattern, after) = (asked.get("upstream"), asked.get("after"));
    let summary = key_access::summary(&desk.api, &name, pattern, after).await?;
    let query = ToolQuery { limit: Some(TOOLS), cursor: asked.take("cursor"), upstream: asked.take("upstream") };
    let (tools, next) = key_access::tools(&desk.api, &name, query)?;
    let more = summary.more_after.as_ref();
    Ok(desk.page(AccessPage {
        site: desk.site(),
        head: desk.head(&person, HERE),
        back: address(&name),
        more_upstreams: more.map(|after| asked.with(&here, "after", after.as_str())),
        older: next.map(|next| asked.with(&here, "cursor", &next)),
        upstream: pattern.unwrap_or_default(),
        name: &name,
        here,
        summary,
        tools,
    }))
}
