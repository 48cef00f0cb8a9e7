//! `/sign-in/again/form`: what somebody had filled in whose sign-in was too old for it. It stays here, in memory, for the browser
//! that sent it and for a while, until its person has shown once more who they are and says that it is to be sent.
//!
//! It may have secrets, so no page repeats any of it: the form that sends it has nothing but its token. It is bound to a cookie
//! of its own besides the session, so that whoever has got hold of the session alone lays no form before its person. Files
//! are not kept.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use askama::Template;
use axum::Extension;
use axum::extract::{Request, State};
use axum::response::Response;
use http::{HeaderMap, StatusCode};

use super::desk::{Answer, Head};
use super::{AGAIN, Console, Onward, Person, address};
use crate::authorization::mint::{self, mint};
use crate::env::Timestamp;
use crate::http::api::Problem;
use crate::http::oauth::cookies::Kind;
use crate::http::oauth::csrf::{self, Fields};
use crate::http::oauth::pages::{Site, page_of_console, with_cookie};
use crate::ids::BrowserSessionId;
use crate::secret::Digest;

pub(super) const PATH: &str = "/sign-in/again/form";
/// Field of a form that has nothing else: what is kept is meant.
pub(super) const FIELD: &str = "kept_form";
/// How long a form is kept.
const LIFE: Duration = Duration::from_secs(15 * 60);
/// Most forms that are kept, one of each session: the one that came first makes room.
const MOST: usize = 16;

/// Forms that wait for their people.
#[derive(Default)]
pub(super) struct Kept(Mutex<VecDeque<Unsent>>);

struct Unsent {
    owner: Owner,
    until: Timestamp,
    /// Where it goes.
    path: String,
    /// The page that it was on.
    back: Option<Onward>,
    fields: Fields,
}

/// Whose it is.
#[derive(PartialEq, Eq)]
struct Owner {
    session: BrowserSessionId,
    /// Of the cookie that the browser was sent with it.
    cookie: Digest,
}

impl Kept {
    /// Keeps a form in the place of the one that the same session had.
    fn keep(&self, unsent: Unsent, now: Timestamp) {
        let mut all = self.lock();
        all.retain(|other| other.owner.session != unsent.owner.session && now < other.until);
        while all.len() >= MOST {
            all.pop_front();
        }
        all.push_back(unsent);
    }

    /// Where the form goes that is kept for somebody, and the page that it was on.
    fn look(&self, owner: &Owner, now: Timestamp) -> Option<(String, Option<Onward>)> {
        let mut all = self.lock();
        all.retain(|unsent| now < unsent.until);
        let found = all.iter().find(|unsent| unsent.owner == *owner)?;
        Some((found.path.clone(), found.back.clone()))
    }

    /// Hands out what is kept for somebody and goes there.
    fn take(&self, owner: &Owner, path: &str, now: Timestamp) -> Option<Fields> {
        let mut all = self.lock();
        all.retain(|unsent| now < unsent.until);
        let at = all.iter().position(|unsent| unsent.owner == *owner && unsent.path == path)?;
        all.remove(at).map(|unsent| unsent.fields)
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Unsent>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn owner(console: &Console, person: &Person, headers: &HeaderMap) -> Option<Owner> {
    let cookie = console.cookies.read(headers, Kind::Kept)?.digest();
    Some(Owner { session: person.session.id.clone(), cookie })
}

/// Keeps a form of ours, and sends its person to show once more who they are.
pub(super) async fn keep(console: &Console, person: &Person, request: Request) -> Result<Response, Response> {
    let (parts, body) = request.into_parts();
    let (path, back, headers) = (parts.uri.path().to_owned(), console.page_before(&parts), parts.headers.clone());
    let request = Request::from_parts(parts, body);
    let from = address(&request);
    let mut fields = console.read_large_form(request).await?;
    let leads = || console.go_by(AGAIN, Onward::of_console(PATH));
    // Time went by on the page that asks whether to send it: what is kept stays.
    if !fields.take(FIELD).is_empty() {
        return Ok(leads());
    }
    console.take_token(person, &path, &fields.take(csrf::FIELD), from).await?;
    let cookie = console.cookies.read(&headers, Kind::Kept);
    let cookie = cookie.unwrap_or_else(|| mint(&console.server.env, mint::COOKIE));
    let owner = Owner { session: person.session.id.clone(), cookie: cookie.digest() };
    let now = console.server.env.now();
    console.kept.keep(Unsent { owner, until: now.after(LIFE), path, back, fields }, now);
    Ok(with_cookie(leads(), console.cookies.set(Kind::Kept, &cookie, LIFE)))
}

/// What is kept of the form that goes to this path.
pub(super) fn take(console: &Console, person: &Person, headers: &HeaderMap, path: &str) -> Result<Fields, Problem> {
    let owner = owner(console, person, headers);
    let fields = owner.and_then(|owner| console.kept.take(&owner, path, console.server.env.now()));
    fields.ok_or_else(gone)
}

fn gone() -> Problem {
    let detail = "what you had filled in is not kept any more: load the page of the form, and fill it in again";
    Problem::new(StatusCode::NOT_FOUND, "not_found", detail)
}

#[derive(Template)]
#[template(path = "console/kept.html")]
struct KeptPage<'a> {
    site: &'a Site,
    head: Head<'a>,
    path: &'a str,
    back: &'a str,
}

/// Asks whether what is kept is to be sent.
pub(super) async fn show(
    State(console): State<std::sync::Arc<Console>>,
    Extension(person): Extension<Person>,
    headers: HeaderMap,
) -> Answer {
    let owner = owner(&console, &person, &headers);
    let found = owner.and_then(|owner| console.kept.look(&owner, console.server.env.now()));
    let (path, back) = found.ok_or_else(gone)?;
    let back = back.as_ref().map_or("/", Onward::as_str);
    let page = KeptPage { site: &console.site, head: Head::new(&console, &person, ""), path: &path, back };
    Ok(page_of_console(StatusCode::OK, page))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::testing::shared;

    #[tokio::test]
    async fn h10_a_form_is_kept_for_one_browser_and_one_address_and_for_a_while() {
        let (_store, clock) = shared().await;
        let (env, kept) = (clock.env(), Kept::default());
        let sessions: Vec<BrowserSessionId> = (0..=MOST).map(|_| BrowserSessionId::generate(&env)).collect();
        let owner =
            |at: usize, cookie: &str| Owner { session: sessions[at].clone(), cookie: Digest::of(cookie.as_bytes()) };
        let keep = |at: usize, path: &str| {
            let now = env.now();
            let unsent = Unsent {
                owner: owner(at, "a"),
                until: now.after(LIFE),
                path: path.to_owned(),
                back: None,
                fields: Fields::default(),
            };
            kept.keep(unsent, now);
        };
        keep(0, "/keys/new");
        let path = |owner: &Owner| kept.look(owner, env.now()).map(|(path, _)| path);
        assert_eq!(path(&owner(0, "a")).as_deref(), Some("/keys/new"));
        assert_eq!((path(&owner(0, "b")), path(&owner(1, "a"))), (None, None), "a session alone opens nothing");
        assert!(kept.take(&owner(0, "a"), "/keys/ci/remove", env.now()).is_none(), "it goes where it was sent");
        assert!(kept.take(&owner(0, "b"), "/keys/new", env.now()).is_none());
        assert!(kept.take(&owner(0, "a"), "/keys/new", env.now()).is_some());
        assert!(kept.take(&owner(0, "a"), "/keys/new", env.now()).is_none(), "and once");

        keep(0, "/keys/new");
        clock.advance(LIFE);
        assert!(path(&owner(0, "a")).is_none() && kept.take(&owner(0, "a"), "/keys/new", env.now()).is_none());
        for at in 0..=MOST {
            keep(at, "/keys/new");
        }
        assert_eq!(kept.lock().len(), MOST);
        assert!(path(&owner(0, "a")).is_none(), "the first has made room");
        keep(1, "/people/new");
        assert_eq!(path(&owner(1, "a")).as_deref(), Some("/people/new"), "a later one takes its place");
    }
}
