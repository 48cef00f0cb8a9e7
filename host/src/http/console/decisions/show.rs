//! One decision, step by step.

use askama::Template;
use axum::Extension;
use axum::extract::{Path, State};

use super::super::desk::{Answer, Desk, Head};
use super::super::fields::page;
use super::super::{Person, text};
use super::{PATH, asking, explain, to_the_second};
use crate::http::api::recordings;
use crate::http::api::trails::{self, DecisionView};
use crate::http::oauth::pages::Site;
use crate::identity::user::Role;

/// Digits of a digest that tell modules apart for people.
const SHORT_DIGEST: usize = 12;

#[derive(Template)]
#[template(path = "console/decision.html")]
struct ShowPage<'a> {
    site: &'a Site,
    head: Head<'a>,
    decision: DecisionView,
    sentence: String,
    advice: Vec<explain::Advice>,
    /// Where the page of the principal is, if it has one.
    of_principal: Option<String>,
    is_recorded: bool,
    /// Where the recording is asked for.
    recording_path: String,
}

impl ShowPage<'_> {
    fn badge(&self, verdict: &str) -> &'static str {
        explain::badge(verdict)
    }

    fn parts<'t>(&self, text: &'t str) -> Vec<(bool, &'t str)> {
        explain::parts(text)
    }

    fn at(&self, at: &str) -> String {
        to_the_second(at)
    }

    fn short<'t>(&self, digest: &'t str) -> &'t str {
        digest.get(..SHORT_DIGEST).unwrap_or(digest)
    }

    /// The decisions about the same principal.
    fn of_the_same(&self) -> String {
        asking(PATH, "principal", &self.decision.principal)
    }

    /// Whether policies can be asked the same again.
    fn can_be_tried(&self) -> bool {
        self.decision.operation == "tools/call" && self.decision.tool.is_some()
    }
}

pub(super) async fn show(
    State(desk): State<Desk>,
    Extension(person): Extension<Person>,
    Path(id): Path<String>,
) -> Answer {
    let decision = trails::decision(&desk.api, &id).await?;
    let is_recorded = recordings::is_there(&desk.api, &decision.id).await?;
    Ok(desk.page(ShowPage {
        site: desk.site(),
        head: desk.head(&person, PATH),
        sentence: explain::sentence(&decision),
        advice: explain::advice(&decision, person.user.role >= Role::Operator),
        of_principal: page_of(&decision.principal),
        recording_path: format!("{PATH}/{}/recording", decision.id),
        decision,
        is_recorded,
    }))
}

/// Where the page of a principal is.
fn page_of(principal: &str) -> Option<String> {
    match principal.split_once(':')? {
        ("key", name) => Some(page("/keys", name)),
        ("user", id) => Some(page("/people", id)),
        _ => None,
    }
}
