//! `/upstreams/import`: the servers that an MCP client has, looked at, and those that are chosen declared one by one.
//!
//! What is pasted has secrets, which no page repeats: between looking and adding it is kept for the browser that sent it.

use askama::Template;
use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use serde_json::{Map, Value};

use super::fields::Before;
use super::kept::{Shelf, new_id};
use super::{PART, Trial, care, page_of, text};
use crate::admin::upstreams::{Care, SEALED};
use crate::config::definition::{Said, each_secret, said};
use crate::config::import::{Declarable, declarable};
use crate::http::api::Problem;
use crate::http::api::upstreams as api;
use crate::http::console::Person;
use crate::http::console::desk::{Answer, Desk, Head, Sent};
use crate::http::oauth::pages::{Site, page_of_console};
use crate::ids::UpstreamName;

/// Most servers that are looked at, and that are added at once: each is tried.
const MOST_SERVERS: usize = 50;
const MOST_AT_ONCE: usize = 10;

/// What people have pasted or typed, and not added yet.
#[derive(Default)]
pub(in crate::http::console) struct Pasted {
    pastes: Shelf<Vec<Pick>>,
    /// The secrets of a definition that is typed.
    pub(super) typed: Shelf<Before>,
}

/// A server that was pasted, and whether it is to be added.
#[derive(Clone)]
struct Pick {
    server: Declarable,
    is_chosen: bool,
}

/// A server as it would be declared.
struct Row {
    original: String,
    name: String,
    /// As JSON, without secrets.
    definition: Option<String>,
    notes: Vec<String>,
    /// Why it cannot be added, or not by this person, or not by this name.
    obstacle: Option<String>,
    can_be_added: bool,
    is_chosen: bool,
}

/// What is shown of what is kept.
#[derive(Default)]
struct Kept {
    id: String,
    rows: Vec<Row>,
    /// Whether they are to be added without a trial.
    unchecked: bool,
}

/// What came of one that was chosen.
struct Outcome {
    name: String,
    /// Its page, where it was added.
    page: Option<String>,
    why: String,
}

#[derive(Template)]
#[template(path = "console/upstreams/import.html")]
struct ImportPage<'a> {
    site: &'a Site,
    head: Head<'a>,
    kept: Kept,
    most: usize,
    outcomes: Vec<Outcome>,
    problem: Option<String>,
}

impl Desk {
    fn import(
        &self,
        person: &Person,
        kept: Kept,
        outcomes: Vec<Outcome>,
        (status, problem): (StatusCode, Option<String>),
    ) -> Response {
        let (site, head) = (self.site(), self.head(person, PART));
        page_of_console(status, ImportPage { site, head, kept, most: MOST_AT_ONCE, outcomes, problem })
    }

    /// The form again, and why nothing came of it.
    fn not_imported(&self, person: &Person, problem: &str) -> Response {
        let refused = (StatusCode::UNPROCESSABLE_ENTITY, Some(problem.to_owned()));
        self.import(person, Kept::default(), Vec::new(), refused)
    }

    /// A server, and whether this person can add it.
    fn row(&self, person: &Person, Pick { server, is_chosen }: &Pick) -> Row {
        let Declarable { original, name, definition, notes } = server;
        let taken = UpstreamName::parse(name).is_ok_and(|name| self.api.control.upstream_view(&name).is_some());
        let for_owners =
            definition.as_ref().is_ok_and(|definition| person.operator().needs(api::to_say(definition)).is_err());
        let obstacle = match definition {
            Err(why) => Some(why.clone()),
            Ok(_) if for_owners => {
                Some("it starts a program, or refers to files or variables of the gateway: owners add it".to_owned())
            }
            Ok(_) => taken.then(|| "there is an upstream of this name already: give it another one".to_owned()),
        };
        Row {
            original: text::line(original),
            name: name.clone(),
            definition: definition.as_ref().ok().map(without_secrets),
            notes: notes.iter().map(|note| text::line(note)).collect(),
            obstacle: obstacle.map(|why| text::line(&why)),
            can_be_added: definition.is_ok() && !for_owners,
            is_chosen: *is_chosen,
        }
    }

    /// What was pasted, chosen as far as nothing is in the way and as many as can be added at once.
    fn chosen_to_begin_with(&self, person: &Person, servers: Vec<Declarable>) -> Vec<Pick> {
        let mut left = MOST_AT_ONCE;
        let pick = |server: Declarable| {
            let pick = Pick { server, is_chosen: true };
            let is_chosen = left > 0 && self.row(person, &pick).obstacle.is_none();
            left -= usize::from(is_chosen);
            Pick { is_chosen, ..pick }
        };
        servers.into_iter().map(pick).collect()
    }

    fn keep_paste(&self, person: &Person, picks: Vec<Pick>, care: Care) -> Kept {
        let rows = picks.iter().map(|pick| self.row(person, pick)).collect();
        let (env, now) = (&self.api.control.env, self.api.control.env.now());
        let id = new_id(env);
        self.console.pasted.pastes.keep((person.session.id.clone(), id.clone()), picks, now);
        Kept { id, rows, unchecked: care == Care::Unchecked }
    }
}

/// A definition as it will be shown once it is declared.
fn without_secrets(definition: &Map<String, Value>) -> String {
    let mut shown = definition.clone();
    each_secret(&mut shown, |field, value| {
        if value.as_str().is_none_or(|text| said(field, text) == Said::Literal) {
            *value = SEALED.into();
        }
    });
    text::pretty(&Value::Object(shown))
}

pub(super) async fn ask(State(desk): State<Desk>, Extension(person): Extension<Person>) -> Response {
    desk.import(&person, Kept::default(), Vec::new(), (StatusCode::OK, None))
}

/// Shows what would become of the servers that were pasted.
pub(super) async fn look(
    State(desk): State<Desk>,
    Extension(person): Extension<Person>,
    Sent(mut fields): Sent,
) -> Answer {
    let servers = match declarable(&fields.take("servers")) {
        Ok(servers) if servers.is_empty() => return Ok(desk.not_imported(&person, "There is no server in it.")),
        Ok(servers) if servers.len() > MOST_SERVERS => {
            let problem = format!("There are more than {MOST_SERVERS} servers in it: leave some out.");
            return Ok(desk.not_imported(&person, &problem));
        }
        Ok(servers) => servers,
        Err(error) => {
            let problem = format!("{error}. What you pasted is not repeated, since it may have secrets in it.");
            return Ok(desk.not_imported(&person, &problem));
        }
    };
    let picks = desk.chosen_to_begin_with(&person, servers);
    let kept = desk.keep_paste(&person, picks, Care::Tried);
    Ok(desk.import(&person, kept, Vec::new(), (StatusCode::OK, None)))
}

/// Declares those that were chosen, each as if it came alone. What is not declared can be tried again.
pub(super) async fn add(
    State(desk): State<Desk>,
    Extension(person): Extension<Person>,
    Sent(mut fields): Sent,
) -> Answer {
    let now = desk.api.control.env.now();
    let id = fields.take("paste");
    let Some(mut picks) = desk.console.pasted.pastes.take(&person.session.id, &id, now) else {
        return Ok(desk.not_imported(&person, "What you pasted is not here any more: paste it again."));
    };
    let care = care(&mut fields);
    let mut chosen = Vec::new();
    for (at, Pick { server, is_chosen }) in picks.iter_mut().enumerate() {
        let number = at + 1;
        let name = fields.take(&format!("name.{number}"));
        if !name.is_empty() {
            name.trim().clone_into(&mut server.name);
        }
        *is_chosen = !fields.take(&format!("take.{number}")).is_empty();
        if *is_chosen {
            chosen.push(at);
        }
    }
    if chosen.is_empty() || chosen.len() > MOST_AT_ONCE {
        let kept = desk.keep_paste(&person, picks, care);
        let problem = format!("Choose at least one, and at most {MOST_AT_ONCE} at once: each is tried.");
        return Ok(desk.import(&person, kept, Vec::new(), (StatusCode::UNPROCESSABLE_ENTITY, Some(problem))));
    }
    // Whoever goes away before all are tried finds it again.
    desk.console.pasted.pastes.keep((person.session.id.clone(), id), picks.clone(), now);
    let mut outcomes = Vec::new();
    for at in &chosen {
        outcomes.push(declare(&desk, &person, &picks[*at].server, care).await);
    }
    let mut at = 0;
    picks.retain(|_| {
        let is_left = !chosen.iter().zip(&outcomes).any(|(chosen, outcome)| *chosen == at && outcome.page.is_some());
        at += 1;
        is_left
    });
    let has_failed = outcomes.iter().any(|outcome| outcome.page.is_none());
    let status = if has_failed { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::OK };
    let kept = desk.keep_paste(&person, picks, care);
    Ok(desk.import(&person, kept, outcomes, (status, None)))
}

async fn declare(desk: &Desk, person: &Person, server: &Declarable, care: Care) -> Outcome {
    let shown = text::line(if server.name.is_empty() { &server.original } else { &server.name });
    match try_to_declare(desk, person, server, care).await {
        Ok(name) => Outcome { page: Some(page_of(&name)), name: shown, why: "It is added.".to_owned() },
        Err(why) => Outcome { page: None, name: shown, why },
    }
}

/// The name that it has now, or why it is not declared.
async fn try_to_declare(desk: &Desk, person: &Person, server: &Declarable, care: Care) -> Result<UpstreamName, String> {
    let definition = server.definition.clone()?;
    let name = UpstreamName::parse(&server.name).map_err(|error| error.to_string())?;
    let detail = |problem: Problem| problem.detail;
    person.operator().needs(api::to_say(&definition)).map_err(detail)?;
    match desk.api.control.create_upstream(name, definition, care, person.actor()).await {
        Ok(made) => Ok(made.name),
        Err(error) => {
            let trial = Trial(api::not_saved(error).map_err(detail)?);
            let mistakes = trial.mistakes().into_iter().map(|(field, message, _)| format!("{field}: {message}"));
            let why = [trial.title()].into_iter().chain(trial.reason()).chain(mistakes);
            Err(why.collect::<Vec<_>>().join(" "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_is_shown_of_what_was_pasted() {
        let json =
            r#"{"mcpServers":{"Notes":{"url":"https://a/mcp","headers":{"X-Key":"hunter2","X-T":"Bearer ${T}"}}}}"#;
        let servers = declarable(json).unwrap();
        let shown = without_secrets(servers[0].definition.as_ref().unwrap());
        assert!(shown.contains("\"sealed\"") && shown.contains("Bearer env:T") && !shown.contains("hunter"), "{shown}");
    }
}
