//! `/audit`: what operators, people and the gateway did, newest first and as it happens.

use askama::Template;
use axum::Extension;
use axum::extract::{Path, State};
use axum::routing::get;
use http::StatusCode;
use serde_json::Value;

use super::decisions::{asking, stream, to_the_second};
use super::desk::{Answer, Asked, Desk, Head};
use super::fields::page;
use super::known::Named;
use super::{Person, Route, shows};
use crate::http::api::trails::{self, AuditQuery, AuditView};
use crate::http::api::{Problem, approvals, keys};
use crate::http::oauth::pages::Site;
use crate::identity::user::Role;

const PATH: &str = "/audit";
/// Where the stream of new entries is.
const TAIL: &str = "/api/v1/audit/tail";
const FILTERS: [&str; 3] = ["event", "actor", "subject"];
/// Longest value that a row tells of a detail, in characters.
const MAX_SHOWN: usize = 80;

pub(super) const PAGES: &[Route<Desk>] = &[shows(PATH, || get(list)), shows("/audit/{id}", || get(show))];

#[derive(Template)]
#[template(path = "console/audit.html")]
struct ListPage<'a> {
    site: &'a Site,
    head: Head<'a>,
    asked: &'a Asked,
    rows: Vec<AuditView>,
    older: Option<String>,
    /// The stream of what comes after these, where they are the newest.
    tail: Option<String>,
}

impl ListPage<'_> {
    fn said(&self, name: &str) -> &str {
        self.asked.get(name).unwrap_or_default()
    }

    fn at(&self, at: &str) -> String {
        to_the_second(at)
    }

    fn in_short(&self, detail: &Value) -> String {
        in_short(detail)
    }

    fn is_filtered(&self) -> bool {
        FILTERS.iter().any(|name| self.asked.get(name).is_some())
    }
}

async fn list(State(desk): State<Desk>, Extension(person): Extension<Person>, asked: Asked) -> Answer {
    let tail = match asked.get("cursor") {
        Some(_) => None,
        // Before the list is read, so that nothing falls in between.
        None => Some(stream(TAIL, &asked, &FILTERS, desk.api.tails.audit.last().await?)),
    };
    let query = AuditQuery {
        limit: None,
        cursor: asked.take("cursor"),
        event: asked.take("event"),
        actor: asked.take("actor"),
        subject: asked.take("subject"),
    };
    let (rows, next) = trails::audit_page(&desk.api, query).await?;
    Ok(desk.page(ListPage {
        site: desk.site(),
        head: desk.head(&person, PATH),
        older: next.map(|cursor| asked.with(PATH, "cursor", &cursor)),
        asked: &asked,
        rows,
        tail,
    }))
}

#[derive(Template)]
#[template(path = "console/audit_entry.html")]
struct EntryPage<'a> {
    site: &'a Site,
    head: Head<'a>,
    entry: AuditView,
    actor: Named,
    at: String,
    changes: Vec<Changed>,
    facts: Vec<Fact>,
    /// The entries before and after.
    before: Option<u64>,
    after: Option<u64>,
}

impl EntryPage<'_> {
    /// What the same actor did.
    fn of_the_same(&self) -> String {
        asking(PATH, "actor", &self.entry.actor)
    }
}

/// One thing that is otherwise now.
#[derive(Debug, PartialEq, Eq)]
struct Changed {
    field: String,
    from: String,
    to: String,
}

/// One member of a detail.
#[derive(Debug, PartialEq, Eq)]
struct Fact {
    name: String,
    value: String,
    /// The page about it.
    link: Option<String>,
}

async fn show(State(desk): State<Desk>, Extension(person): Extension<Person>, Path(id): Path<String>) -> Answer {
    let (entry, last) = (trails::audit_entry(&desk.api, &id).await?, desk.api.tails.audit.last().await?);
    let actor = desk.known(&[&entry.actor]).await?.who(&entry.actor);
    let mut facts = facts(&entry.detail);
    for fact in &mut facts {
        if fact.link.is_some() && !is_there((&desk, &person), &fact.name, &fact.value).await? {
            fact.link = None;
        }
    }
    Ok(desk.page(EntryPage {
        site: desk.site(),
        head: desk.head(&person, PATH),
        at: to_the_second(&entry.at),
        changes: changes(&entry.detail),
        facts,
        actor,
        before: entry.sequence.checked_sub(1).filter(|number| *number > 0),
        after: (entry.sequence < last).then(|| entry.sequence + 1),
        entry,
    }))
}

/// What was changed from what to what: one field, or all of two states that are not alike.
fn changes(detail: &Value) -> Vec<Changed> {
    let mut changes = Vec::new();
    if detail.get("from").is_some() || detail.get("to").is_some() {
        let field = detail.get("field").and_then(Value::as_str).unwrap_or("value");
        changes.push(Changed { field: field.to_owned(), from: said(&detail["from"]), to: said(&detail["to"]) });
    }
    for change in detail["changes"].as_array().into_iter().flatten() {
        changes.push(Changed { field: said(&change["field"]), from: said(&change["from"]), to: said(&change["to"]) });
    }
    let (before, after) = (detail["before"].as_object(), detail["after"].as_object());
    let mut fields: Vec<&String> = before.into_iter().chain(after).flat_map(serde_json::Map::keys).collect();
    fields.sort_unstable();
    fields.dedup();
    for field in fields {
        let of = |state: Option<&serde_json::Map<String, Value>>| {
            state.and_then(|state| state.get(field)).cloned().unwrap_or_default()
        };
        let (from, to) = (of(before), of(after));
        if from != to {
            changes.push(Changed { field: field.clone(), from: said(&from), to: said(&to) });
        }
    }
    changes
}

/// What else a detail says.
fn facts(detail: &Value) -> Vec<Fact> {
    const TOLD_AS_CHANGES: [&str; 6] = ["field", "from", "to", "before", "after", "changes"];
    let members = detail.as_object().into_iter().flatten();
    let others = members.filter(|(name, value)| !TOLD_AS_CHANGES.contains(&name.as_str()) && !value.is_null());
    let fact = |(name, value): (&String, &Value)| Fact {
        name: name.replace('_', " "),
        value: said(value),
        link: value.as_str().and_then(|value| page_of(name, value)),
    };
    others.map(fact).collect()
}

/// The page about what a member of a detail names.
fn page_of(member: &str, value: &str) -> Option<String> {
    let is_segment = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let area = match member {
        "key" => "keys",
        "upstream" => "upstreams",
        "user" => "people",
        "approval" => "approvals",
        "decision" => "decisions",
        "policy" => "policies/bindings",
        _ => return None,
    };
    let is_name = !matches!(value, "" | "." | "..") && value.bytes().all(is_segment);
    is_name.then(|| page(&format!("/{area}"), value))
}

/// Whether the page is still there that is about what a member names, for whoever looks.
async fn is_there((desk, person): (&Desk, &Person), member: &str, value: &str) -> Result<bool, Problem> {
    let found = match member {
        "key" => keys::find(&desk.api, value).await.map(drop),
        "approval" if person.user.role < Role::Operator => return Ok(false),
        "approval" => approvals::one(&desk.api, value).await.map(drop),
        "decision" => trails::decision(&desk.api, value).await.map(drop),
        "user" => return Ok(desk.known_accounts(&[value]).await?.account(value).page.is_some()),
        "upstream" => return Ok(desk.page_of_upstream(value).is_some()),
        "policy" => return Ok(desk.page_of_policy(value).is_some()),
        _ => return Ok(true),
    };
    match found {
        Ok(()) => Ok(true),
        Err(problem) if problem.status == StatusCode::NOT_FOUND => Ok(false),
        Err(problem) => Err(problem),
    }
}

fn said(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A detail on one line.
fn in_short(detail: &Value) -> String {
    let members = detail.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
    let member = |(name, value): (&String, &Value)| {
        let text = said(value);
        match text.char_indices().nth(MAX_SHOWN) {
            Some((end, _)) => format!("{name}={}…", &text[..end]),
            None => format!("{name}={text}"),
        }
    };
    members.map(member).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn changed(field: &str, from: &str, to: &str) -> Changed {
        Changed { field: field.to_owned(), from: from.to_owned(), to: to.to_owned() }
    }

    #[test]
    fn what_was_changed_stands_beside_what_it_is_now() {
        let one = json!({ "key": "ci", "field": "owner", "from": null, "to": "ada" });
        assert_eq!(changes(&one), [changed("owner", "", "ada")]);
        let states = json!({ "before": { "a": 1, "b": [2], "c": true }, "after": { "a": 1, "b": [3], "d": "x" } });
        assert_eq!(changes(&states), [changed("b", "[2]", "[3]"), changed("c", "true", ""), changed("d", "", "x")]);
        let several = json!({ "key": "ci", "changes": [{ "field": "owner", "from": null, "to": "ada" }] });
        assert_eq!(changes(&several), [changed("owner", "", "ada")]);
        assert_eq!(changes(&json!({ "key": "ci" })), []);
    }

    #[test]
    fn the_rest_leads_to_what_it_names() {
        let detail =
            json!({ "key": "ci", "field": "owner", "from": null, "to": "ada", "ended_earlier": true, "note": null });
        let facts = facts(&detail);
        let told: Vec<_> = facts.iter().map(|fact| (&*fact.name, &*fact.value, fact.link.as_deref())).collect();
        assert_eq!(told, [("ended earlier", "true", None), ("key", "ci", Some("/keys/ci"))]);
        assert_eq!(page_of("key", "../users"), None);
        assert_eq!(in_short(&detail), "ended_earlier=true field=owner key=ci to=ada");
        assert!(in_short(&json!({ "reason": "ä".repeat(200) })).ends_with("ä…"));
    }
}
