//! `/sign-in/again`: where somebody who is signed in shows once more who they are, before what shows or makes a secret or
//! cannot be undone (`docs/threat-model.md` row H10).
//!
//! Their session stays the same one, and its cookie is a new one. It is the same person, or nobody: another one signs out first.
//! Who has just done so goes on at once.

use std::sync::Arc;

use askama::Template;
use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use axum::routing::{get, post};
use http::StatusCode;

use super::desk::{Asked, Head, Sent};
use super::sign_in::{self, onward};
use super::{Console, Person, Route, does, kept, shows};
use crate::authorization::Fault;
use crate::authorization::people::ShownAgain;
use crate::config::auth::Provider;
use crate::http::oauth::pages::{Site, page_of_console, retry_after, see_other};
use crate::http::oauth::sign_in::{BUSY_SECONDS, Next, seconds, too_many_tries};
use crate::http::serve::Peer;

pub(in crate::http) const PATH: &str = "/sign-in/again";

pub(super) const PAGES: &[Route<Arc<Console>>] =
    &[shows(PATH, || get(show)), does(PATH, || post(submit)).for_viewers(), shows(kept::PATH, || get(kept::show))];

#[derive(Template)]
#[template(path = "console/again.html")]
struct AgainPage<'a> {
    site: &'a Site,
    head: Head<'a>,
    problem: Option<&'a str>,
    /// Whether they are here because of a form, which is kept.
    is_form_kept: bool,
    /// Whether this person has a password that opens something.
    password: bool,
    login: &'a str,
    providers: &'a [Provider],
    /// Where to go on, empty for the first page.
    next: &'a str,
    /// The same in a query string.
    encoded: String,
}

async fn show(State(console): State<Arc<Console>>, Extension(person): Extension<Person>, asked: Asked) -> Response {
    let next = asked.get("next").and_then(Next::of_console);
    if person.is_fresh {
        return see_other(&onward(&console, next.as_ref()));
    }
    answer(&console, &person, (StatusCode::OK, None), next.as_ref())
}

fn answer(
    console: &Console,
    person: &Person,
    (status, problem): (StatusCode, Option<&str>),
    next: Option<&Next>,
) -> Response {
    let settings = console.server.settings();
    let login = person.user.login.as_ref().filter(|_| person.user.password.is_some());
    let template = AgainPage {
        site: &console.site,
        head: Head::new(console, person, ""),
        problem,
        is_form_kept: next.is_some_and(|next| next.as_str() == kept::PATH),
        password: settings.sign_in.passwords && login.is_some(),
        login: login.map(crate::identity::user::Login::as_str).unwrap_or_default(),
        providers: &settings.providers,
        next: next.map(Next::as_str).unwrap_or_default(),
        encoded: next.map_or_else(|| "%2F".to_owned(), Next::encoded),
    };
    page_of_console(status, template)
}

async fn submit(
    State(console): State<Arc<Console>>,
    Extension(person): Extension<Person>,
    peer: Option<Extension<Peer>>,
    Sent(mut fields): Sent,
) -> Response {
    let next = Next::of_console(&fields.take("next"));
    let password = fields.take_secret("password");
    let again = |status, problem: &str| answer(&console, &person, (status, Some(problem)), next.as_ref());
    let address = peer.and_then(|Extension(peer)| peer.ip());
    let shown = console.server.show_again((&person.session, &person.user), password, address).await;
    match shown {
        Ok(ShownAgain::Renewed(begun)) => console.begun(&begun, &onward(&console, next.as_ref())),
        Ok(ShownAgain::WrongPassword) => again(StatusCode::FORBIDDEN, "This is not your password. Try again."),
        Ok(ShownAgain::Wait(wait)) => {
            retry_after(again(StatusCode::TOO_MANY_REQUESTS, &too_many_tries(wait)), seconds(wait))
        }
        Ok(ShownAgain::Off) => again(StatusCode::FORBIDDEN, "There is no password of yours that counts here."),
        Ok(ShownAgain::Gone) => see_other(&console.site.address(sign_in::PATH)),
        Err(Fault::Busy) => {
            let problem = "Too many people are signing in at the moment. Wait a few seconds and try again.";
            retry_after(again(StatusCode::TOO_MANY_REQUESTS, problem), BUSY_SECONDS)
        }
        Err(fault) => console.fault(&fault),
    }
}
