//! `/`: who is signed in, and where.

use std::sync::Arc;

use askama::Template;
use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use http::StatusCode;

use super::{Console, Head, Person};
use crate::http::oauth::pages::{Site, moment, page};

#[derive(Template)]
#[template(path = "console/home.html")]
struct HomePage<'a> {
    site: &'a Site,
    head: Option<Head>,
    login: Option<String>,
    since: String,
    ends: String,
    version: &'static str,
    public_url: &'a str,
}

pub(super) async fn show(State(console): State<Arc<Console>>, Extension(person): Extension<Person>) -> Response {
    let template = HomePage {
        site: &console.site,
        head: Some(console.head(&person)),
        login: person.user.login.as_ref().map(ToString::to_string),
        since: moment(person.session.authenticated),
        ends: moment(person.session.ends),
        version: env!("CARGO_PKG_VERSION"),
        public_url: &console.server.issuer,
    };
    page(StatusCode::OK, template, &[])
}
