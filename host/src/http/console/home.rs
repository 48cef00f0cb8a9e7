//! `/`: who is signed in, and where.

use askama::Template;
use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use axum::routing::get;

use super::desk::{Desk, Head};
use super::{Person, Route, shows};
use crate::http::oauth::pages::{Site, moment};

pub(super) const PAGES: &[Route<Desk>] = &[shows("/", || get(show))];

#[derive(Template)]
#[template(path = "console/home.html")]
struct HomePage<'a> {
    site: &'a Site,
    head: Head<'a>,
    login: Option<String>,
    since: String,
    ends: String,
    version: &'static str,
    public_url: &'a str,
}

async fn show(State(desk): State<Desk>, Extension(person): Extension<Person>) -> Response {
    desk.page(HomePage {
        site: desk.site(),
        head: desk.head(&person, "/"),
        login: person.user.login.as_ref().map(ToString::to_string),
        since: moment(person.session.authenticated),
        ends: moment(person.session.ends),
        version: env!("CARGO_PKG_VERSION"),
        public_url: &desk.console.server.issuer,
    })
}
