//! `/policies/generations`: the sets that were in force, what differs between two of them, and the way back to one.

use std::collections::{BTreeMap, BTreeSet};

use askama::Template;
use axum::Extension;
use axum::extract::{Path, State};
use serde_json::Value;

use super::HERE;
use crate::admin::rollback::Generation;
use crate::config::{Binding, Grant, Hint, Match};
use crate::glob::Glob;
use crate::http::api::Problem;
use crate::http::api::policies::{GenerationView, generation_view};
use crate::http::console::Person;
use crate::http::console::desk::{Answer, Asked, Confirm, Desk, Done, Head, Sent};
use crate::http::oauth::pages::{Site, moment};
use crate::policy::{BoundPolicy, PolicySet};

const LIST: &str = "/policies/generations";
/// Most differences that are told, and the longest text of one.
const MAX_TOLD: usize = 200;
const MAX_TEXT: usize = 240;

#[derive(Template)]
#[template(path = "console/policies/generations.html")]
struct GenerationsPage<'a> {
    site: &'a Site,
    head: Head<'a>,
    generations: Vec<(String, GenerationView)>,
    compared: Option<Compared>,
    /// Which two are chosen to be compared: those that were, or else the newest with the one before it.
    from: u64,
    to: u64,
}

/// What differs between two sets.
struct Compared {
    from: u64,
    to: u64,
    differences: Vec<Difference>,
    /// There are more than are told.
    is_cut: bool,
}

/// What is otherwise in one binding.
#[derive(Debug, PartialEq, Eq)]
struct Difference {
    policy: String,
    what: String,
    before: String,
    after: String,
}

pub(super) async fn show(State(desk): State<Desk>, Extension(person): Extension<Person>, asked: Asked) -> Answer {
    let kept = desk.api.control.generations();
    let running = desk.api.control.snapshot.load().policies.generation();
    let number = |name: &str| asked.get(name).and_then(|number| number.parse::<u64>().ok());
    let find = |wanted: u64| kept.iter().find(|generation| generation.number == wanted);
    let pair = number("from").zip(number("to"));
    let pair = pair.map(|(from, to)| find(from).zip(find(to)).ok_or_else(|| Problem::not_found("generation")));
    let may_read = desk.head(&person, HERE).is_operator();
    let compared = pair.transpose()?.map(|(from, to)| compare(from, to, may_read));
    let view = |generation: &Generation| (moment(generation.at), generation_view(generation, running));
    let generations = kept.iter().rev().map(|generation| view(generation)).collect();
    let (site, head) = (desk.site(), desk.head(&person, HERE));
    let newest = |back: usize| kept.iter().rev().nth(back).map_or(0, |generation| generation.number);
    let (from, to) = compared.as_ref().map_or((newest(1), newest(0)), |compared| (compared.from, compared.to));
    Ok(desk.page(GenerationsPage { site, head, generations, compared, from, to }))
}

/// Asks before earlier policies come into force again.
pub(super) async fn ask(
    State(desk): State<Desk>,
    Extension(person): Extension<Person>,
    Path(id): Path<String>,
) -> Answer {
    let number = known(&desk, &id)?;
    Ok(desk.confirm(
        &person,
        HERE,
        Confirm {
            title: &format!("Go back to generation {number}?"),
            what: "Its policies come into force again at once, as a new generation. What is written stays as it is: what the \
                   configuration file says comes back when it changes, when everything is read again and with the next start, \
                   and so does what the store says, which any change of a policy there brings back as well. To make it last, \
                   mend the file, and change or remove what is wrong in the store.",
            button: "Go back to it",
            path: &format!("{LIST}/{number}/rollback"),
            back: LIST,
            hidden: &[],
        },
    ))
}

pub(super) async fn roll_back(
    State(desk): State<Desk>,
    Extension(person): Extension<Person>,
    Path(id): Path<String>,
    Sent(_): Sent,
) -> Answer {
    let number = known(&desk, &id)?;
    desk.api.control.roll_back(Some(number), person.actor()).await?;
    Ok(desk.done(&person, HERE, Done::RolledBack))
}

/// The number of a generation that is kept.
fn known(desk: &Desk, id: &str) -> Result<u64, Problem> {
    let kept = desk.api.control.generations();
    let number = id.parse().ok().filter(|number| kept.iter().any(|generation| generation.number == *number));
    number.ok_or_else(|| Problem::not_found("generation"))
}

fn compare(from: &Generation, to: &Generation, may_read: bool) -> Compared {
    let mut differences = differences(&from.policies, &to.policies, may_read);
    let is_cut = differences.len() > MAX_TOLD;
    differences.truncate(MAX_TOLD);
    Compared { from: from.number, to: to.number, differences, is_cut }
}

/// What differs between two sets, by binding. Configurations are for those who may read them.
fn differences(before: &PolicySet, after: &PolicySet, may_read: bool) -> Vec<Difference> {
    let by_name = |set: &PolicySet| -> BTreeMap<String, BTreeMap<String, String>> {
        set.bindings().iter().map(|bound| (bound.name().to_string(), facts(bound, may_read))).collect()
    };
    let (old, new) = (by_name(before), by_name(after));
    let mut found = Vec::new();
    let mut tell = |policy: &str, what: &str, before: &str, after: &str| {
        let difference =
            Difference { policy: policy.to_owned(), what: what.to_owned(), before: cut(before), after: cut(after) };
        found.push(difference);
    };
    for name in old.keys().chain(new.keys()).collect::<BTreeSet<_>>() {
        match (old.get(name), new.get(name)) {
            (Some(_), None) => tell(name, "the binding", "there", "not there"),
            (None, Some(_)) => tell(name, "the binding", "not there", "there"),
            (Some(old), Some(new)) => {
                for what in old.keys().chain(new.keys()).collect::<BTreeSet<_>>() {
                    let fact = |facts: &BTreeMap<String, String>| facts.get(what).cloned().unwrap_or_default();
                    let (before, after) = (fact(old), fact(new));
                    if before == after {
                        continue;
                    }
                    if may_read || !what.starts_with("configuration") {
                        tell(name, what, &before, &after);
                    } else {
                        tell(name, what, "one", "another");
                    }
                }
            }
            (None, None) => {}
        }
    }
    let order = |set: &PolicySet| {
        let names: Vec<&str> = set.bindings().iter().map(|bound| bound.name().as_str()).collect();
        names.join(", ")
    };
    if old.keys().eq(new.keys()) && order(before) != order(after) {
        tell("all", "order", &order(before), &order(after));
    }
    let abstain = |set: &PolicySet| set.when_all_abstain().as_str();
    if abstain(before) != abstain(after) {
        tell("all", "when all abstain", abstain(before), abstain(after));
    }
    found
}

/// What makes a binding what it is, in words.
fn facts(bound: &BoundPolicy, may_read: bool) -> BTreeMap<String, String> {
    let module = bound.module();
    let Binding { config, matches, priority, mode, advisory, allow_rewrite, grants, .. } = bound.binding();
    let Binding { time, memory_bytes, reuse, .. } = bound.binding();
    let granted: Vec<&str> = grants.iter().map(|grant: &Grant| grant.as_str()).collect();
    let mut facts = BTreeMap::from([
        ("module".to_owned(), format!("{} {}, {}", module.manifest.name, module.manifest.version, module.digest)),
        ("match".to_owned(), matching(matches)),
        ("priority".to_owned(), priority.to_string()),
        ("mode".to_owned(), mode.as_str().to_owned()),
        ("advisory".to_owned(), advisory.to_string()),
        ("may rewrite arguments".to_owned(), allow_rewrite.to_string()),
        ("grants".to_owned(), granted.join(", ")),
        ("limits".to_owned(), format!("{} ms, {memory_bytes} bytes, {}", time.as_millis(), reuse.as_str())),
    ]);
    if may_read {
        members(config, "configuration", &mut facts);
    } else {
        facts.insert("configuration".to_owned(), config.to_string());
    }
    facts
}

fn matching(matches: &Match) -> String {
    let Match { hooks, upstreams, tools, items, hints, principals, groups, clients } = matches;
    let globs = |globs: &[Glob]| globs.iter().map(Glob::as_str).collect::<Vec<_>>().join(", ");
    let hints: Vec<&str> = hints.iter().map(|hint: &Hint| hint.as_str()).collect();
    let lists = [
        ("upstreams", globs(upstreams)),
        ("tools", globs(tools)),
        ("items", globs(items)),
        ("principals", globs(principals)),
        ("clients", globs(clients)),
        ("groups", groups.as_deref().map(globs).unwrap_or_default()),
        ("hooks", hooks.as_ref().map(|hooks| hooks.join(", ")).unwrap_or_default()),
        ("hints", hints.join(", ")),
    ];
    let told = lists.iter().filter(|(_, words)| !words.is_empty()).map(|(what, words)| format!("{what} {words}"));
    told.collect::<Vec<_>>().join("; ")
}

/// The members of a document, each by its place. What has much within is told as a whole.
fn members(value: &Value, place: &str, facts: &mut BTreeMap<String, String>) {
    /// Most places of one configuration.
    const MAX_PLACES: usize = 2000;
    let is_room = facts.len() < MAX_PLACES;
    match value {
        Value::Object(inner) if !inner.is_empty() && is_room => {
            inner.iter().for_each(|(name, value)| members(value, &format!("{place}/{name}"), facts));
        }
        Value::Array(inner) if !inner.is_empty() && is_room => {
            inner.iter().enumerate().for_each(|(at, value)| members(value, &format!("{place}/{at}"), facts));
        }
        value => _ = facts.insert(place.to_owned(), value.to_string()),
    }
}

fn cut(text: &str) -> String {
    let kept: String = text.chars().take(MAX_TEXT).collect();
    if kept.len() < text.len() { format!("{kept} …") } else { kept }
}
