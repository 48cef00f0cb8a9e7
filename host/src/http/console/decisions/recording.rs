//! What the policies of one decision were asked, word for word. A form asks for it, since that somebody reads it is written
//! down.

use askama::Template;
use axum::Extension;
use axum::extract::{Path, State};

use super::super::desk::{Answer, Desk, Head, Sent};
use super::super::{Person, text};
use super::{PATH, explain};
use crate::http::api::recordings::{self, RecordingView};
use crate::http::oauth::pages::Site;

#[derive(Template)]
#[template(path = "console/recording.html")]
struct RecordingPage<'a> {
    site: &'a Site,
    head: Head<'a>,
    recording: RecordingView,
}

impl RecordingPage<'_> {
    fn badge(&self, verdict: &str) -> &'static str {
        explain::badge(verdict)
    }
}

pub(super) async fn read(
    State(desk): State<Desk>,
    Extension(person): Extension<Person>,
    Path(id): Path<String>,
    Sent(_): Sent,
) -> Answer {
    let recording = recordings::recording(&desk.api, &id, person.actor()).await?;
    Ok(desk.page(RecordingPage { site: desk.site(), head: desk.head(&person, PATH), recording }))
}
