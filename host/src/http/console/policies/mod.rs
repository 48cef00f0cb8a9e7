//! `/policies`: what is bound, how it fares, how the last reload went, and the ways on and back.

use askama::Template;
use axum::Extension;
use axum::extract::{DefaultBodyLimit, State};
use axum::response::Response;
use axum::routing::{get, post};

use super::desk::{Answer, Desk, Done, Head, Sent};
use super::{Person, Route, asks, does, shows, text};
use crate::http::api::Problem;
use crate::http::api::policies::{self as api, MatchView, PoliciesView};
use crate::http::oauth::pages::{Site, moment};

mod bindings;
mod editing;
mod form;
mod frame;
mod generations;
mod modules;
mod trying;

/// The part of the console that these belong to.
const HERE: &str = "/policies";

pub(super) const PAGES: &[Route<Desk>] = &[
    shows(HERE, || get(show)),
    does("/policies/reload", || post(reload)),
    shows("/policies/generations", || get(generations::show)),
    asks("/policies/generations/{id}/rollback", || get(generations::ask)),
    does("/policies/generations/{id}/rollback", || post(generations::roll_back)),
    shows(modules::LIST, || get(modules::list)),
    does(modules::LIST, || post(modules::upload).layer(DefaultBodyLimit::max(modules::MAX_UPLOAD)))
        .for_owners()
        .fresh(),
    shows("/policies/modules/{id}", || get(modules::show)),
    asks("/policies/modules/{id}/remove", || get(modules::ask)).for_owners().fresh(),
    does("/policies/modules/{id}/remove", || post(modules::remove)).for_owners().fresh(),
    asks(editing::NEW, || get(editing::new)).for_owners().fresh(),
    does(editing::NEW, || post(editing::create)).for_owners().fresh(),
    shows("/policies/bindings/{name}", || get(bindings::show)),
    asks("/policies/bindings/{name}/edit", || get(editing::edit)).for_owners().fresh(),
    does("/policies/bindings/{name}/edit", || post(editing::change)).for_owners().fresh(),
    asks("/policies/bindings/{name}/remove", || get(editing::ask_to_remove)).for_owners().fresh(),
    does("/policies/bindings/{name}/remove", || post(editing::remove)).for_owners().fresh(),
    asks(trying::PATH, || get(trying::show)),
    does(trying::PATH, || post(trying::ask)),
];

#[derive(Template)]
#[template(path = "console/policies/list.html")]
struct PoliciesPage<'a> {
    site: &'a Site,
    head: Head<'a>,
    policies: PoliciesView,
    reloaded: String,
    /// Why a reload that was just asked for was refused.
    refused: Option<String>,
}

async fn show(State(desk): State<Desk>, Extension(person): Extension<Person>) -> Response {
    desk.page(page(&desk, &person, None))
}

fn page<'a>(desk: &'a Desk, person: &'a Person, refused: Option<String>) -> PoliciesPage<'a> {
    PoliciesPage {
        site: desk.site(),
        head: desk.head(person, HERE),
        policies: api::view(&desk.api),
        reloaded: moment(desk.api.control.last_reload().at),
        refused,
    }
}

/// Reads the configuration and all modules again. What is refused is told on the page, whole.
async fn reload(State(desk): State<Desk>, Extension(person): Extension<Person>, Sent(_): Sent) -> Answer {
    match desk.api.control.reload(person.actor()).await {
        Ok(_) => Ok(desk.done(&person, HERE, Done::Reloaded)),
        Err(error) => {
            let Problem { status, detail, .. } = error.into();
            let mut response = desk.page(page(&desk, &person, Some(detail)));
            *response.status_mut() = status;
            Ok(response)
        }
    }
}

/// What a binding is asked about, in words.
fn narrowing(matches: &MatchView) -> String {
    let one = |what: &str, words: &[String]| (words != ["*"]).then(|| format!("{what} {}", words.join(", ")));
    let some =
        |what: &str, words: &Option<Vec<String>>| words.as_ref().map(|words| format!("{what} {}", words.join(", ")));
    let few = |what: &str, words: &Option<Vec<&'static str>>| {
        words.as_ref().map(|words| format!("{what} {}", words.join(", ")))
    };
    let MatchView { upstreams, tools, items, principals, clients, hooks, groups, hints } = matches;
    let parts = [
        one("upstreams", upstreams),
        one("tools", tools),
        some("items", items),
        some("principals", principals),
        some("clients", clients),
        few("hooks", hooks),
        some("groups", groups),
        few("hints", hints),
    ];
    let told: Vec<String> = parts.into_iter().flatten().collect();
    if told.is_empty() { "everything".to_owned() } else { told.join("; ") }
}

/// What the mode of a binding means.
fn meaning(mode: &str) -> &'static str {
    match mode {
        "enforce" => "its answers count",
        "shadow" => "it is asked and its answers do not count",
        _ => "it is not asked",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_narrows_a_binding_is_told_and_what_does_not_is_not() {
        let all = || vec!["*".to_owned()];
        let mut matches = MatchView {
            upstreams: all(),
            tools: all(),
            items: None,
            principals: None,
            clients: None,
            hooks: None,
            groups: None,
            hints: None,
        };
        assert_eq!(narrowing(&matches), "everything");
        matches.tools = vec!["delete_*".to_owned(), "drop_*".to_owned()];
        matches.hooks = Some(vec!["tool-call"]);
        assert_eq!(narrowing(&matches), "tools delete_*, drop_*; hooks tool-call");
    }
}
