//! `/me`: who is signed in, their password, and the API tokens of programs that act for them.

use std::time::Duration;

use askama::Template;
use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use axum::routing::{MethodRouter, get, post};
use http::{HeaderMap, StatusCode};

use super::desk::{Answer, Asked, Desk, Done, Head, Sent};
use super::{Person, Route, sign_in};
use crate::authorization::Fault;
use crate::authorization::passwords::{MAX_BYTES, MIN_CHARS};
use crate::authorization::people::Changed;
use crate::http::api::api_tokens::{self, TokenQuery, TokenView};
use crate::http::oauth::pages::{Site, page_of_console, retry_after, see_other};
use crate::http::oauth::sign_in::{BUSY_SECONDS, seconds, too_many_tries};
use crate::http::serve::Peer;
use crate::identity::user::Role;

mod tokens;

const HERE: &str = "/me";

pub(super) const PAGES: &[Route<Desk>] = &[
    own("GET", HERE, || get(show)),
    own("GET", "/me/password", || get(ask_password)),
    own("POST", "/me/password", || post(change_password)),
    own("GET", "/me/tokens", || get(tokens::list)).for_owners(),
    own("GET", "/me/tokens/new", || get(tokens::ask_new)).fresh(),
    own("POST", "/me/tokens/new", || post(tokens::create)).fresh(),
    own("GET", "/me/tokens/{id}/revoke", || get(tokens::ask_revoke)).fresh(),
    own("POST", "/me/tokens/{id}/revoke", || post(tokens::revoke)).fresh(),
];

/// Row about whoever is signed in, whatever their role.
const fn own(method: &'static str, path: &'static str, handler: fn() -> MethodRouter<Desk>) -> Route<Desk> {
    Route { method, path, role: Some(Role::Viewer), wants_fresh: false, handler }
}

#[derive(Template)]
#[template(path = "console/me.html")]
struct MePage<'a> {
    site: &'a Site,
    head: Head<'a>,
    login: Option<String>,
    since: String,
    ends: String,
    /// Whether there is a password to be changed.
    has_password: bool,
    tokens: Vec<TokenView>,
    older: Option<String>,
}

async fn show(State(desk): State<Desk>, Extension(person): Extension<Person>, asked: Asked) -> Answer {
    let user = Some(person.user.id.to_string());
    let query = TokenQuery { cursor: asked.take("cursor"), user, ..TokenQuery::default() };
    let (tokens, next) = api_tokens::page(&desk.api, &person.operator(), query).await?;
    Ok(desk.page(MePage {
        site: desk.site(),
        head: desk.head(&person, HERE),
        login: person.user.login.as_ref().map(ToString::to_string),
        since: person.session.authenticated.to_string(),
        ends: person.session.ends.to_string(),
        has_password: person.user.password.is_some(),
        tokens,
        older: next.map(|next| asked.with(HERE, "cursor", &next)),
    }))
}

#[derive(Template)]
#[template(path = "console/my_password.html")]
struct PasswordPage<'a> {
    site: &'a Site,
    head: Head<'a>,
    problem: Option<&'a str>,
    min_password: usize,
    max_password: usize,
}

fn password_page(desk: &Desk, person: &Person, status: StatusCode, problem: Option<&str>) -> Response {
    let template = PasswordPage {
        site: desk.site(),
        head: desk.head(person, HERE),
        problem,
        min_password: MIN_CHARS,
        max_password: MAX_BYTES,
    };
    page_of_console(status, template)
}

async fn ask_password(State(desk): State<Desk>, Extension(person): Extension<Person>) -> Response {
    password_page(&desk, &person, StatusCode::OK, None)
}

/// The same rules and the same backoff as at the public listener's `/account`.
async fn change_password(
    State(desk): State<Desk>,
    Extension(person): Extension<Person>,
    peer: Option<Extension<Peer>>,
    headers: HeaderMap,
    Sent(mut fields): Sent,
) -> Answer {
    let (old, new) = (fields.take_secret("old"), fields.take_secret("new"));
    let again = |status, problem: &str| password_page(&desk, &person, status, Some(problem));
    let waits =
        |wait: Duration, problem: &str| retry_after(again(StatusCode::TOO_MANY_REQUESTS, problem), seconds(wait));
    if new != fields.take_secret("repeated") {
        return Ok(again(StatusCode::UNPROCESSABLE_ENTITY, "The new password and its repetition differ."));
    }
    let (console, server) = (&desk.console, &desk.console.server);
    if !server.settings().sign_in.passwords {
        return Ok(again(StatusCode::FORBIDDEN, "Nobody signs in with a password here."));
    }
    let address = peer.and_then(|Extension(peer)| peer.ip());
    let changed = server.change_password(&person.user, (old, new), address, console.browser(&headers)).await;
    Ok(match changed {
        Ok(Changed::Changed(begun)) => {
            // The browser has another cookie from here on, by which it is told.
            let person = Person { cookie: begun.cookie.digest(), ..person.clone() };
            console.begun(&begun, &desk.done_at(&person, HERE, Done::PasswordSet))
        }
        Ok(Changed::SignInAgain) => see_other(&desk.site().address(sign_in::PATH)),
        Ok(Changed::WrongPassword) => again(StatusCode::FORBIDDEN, "The password that you have now is another one."),
        Ok(Changed::Weak(weak)) => {
            again(StatusCode::UNPROCESSABLE_ENTITY, &format!("That password will not do: {weak}."))
        }
        Ok(Changed::HasNone) => again(StatusCode::FORBIDDEN, "Your account has no password."),
        Ok(Changed::Wait(wait)) => waits(wait, &too_many_tries(wait)),
        Err(Fault::Busy) => {
            let problem = "Somebody else changed your account, or too many sign in at the moment. Try again.";
            waits(Duration::from_secs(BUSY_SECONDS), problem)
        }
        Err(fault) => return Err(fault.into()),
    })
}
