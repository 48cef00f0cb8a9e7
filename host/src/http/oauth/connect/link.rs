//! Connect links: opened once, in one browser.
//!
//! A link for a person has its seal in the path, and counts for that person alone once they are signed in. One for a key
//! or a guest has it in the fragment, which the browser keeps to itself: a script of the page posts it and takes it out of
//! the address, and where there are no scripts it is pasted into a form.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Path, Request, State};
use axum::response::Response;
use http::StatusCode;

use super::{Back, OAuth, arrive, browser_of, knowing, path_of, person_of};
use crate::connection::link::Link;
use crate::http::oauth::cookies::Kind as Cookie;
use crate::http::oauth::csrf::{self, Form};
use crate::http::oauth::pages::{self, Problem, Site, page_with_script, retry_after, see_other};
use crate::http::oauth::sign_in::{Next, address};
use crate::ids::Principal;
use crate::secret::{Digest, Plaintext, hex};
use crate::store::links::{self, Opened};

/// Purpose of the form that opens a link.
const OPEN: &str = "open a connect link";
/// Longest link that is read, in bytes.
const MAX_LINK: usize = 4 * 1024;
/// When somebody may come again for whom too many links are open.
const RETRY_SECONDS: u64 = 60;

#[derive(Template)]
#[template(path = "connect_link.html")]
struct LinkPage<'a> {
    site: &'a Site,
    token: String,
    nonce: &'a str,
}

/// The page that takes a link out of its own address.
pub(super) async fn show(State(oauth): State<Arc<OAuth>>, request: Request) -> Result<Response, Response> {
    arrive(&oauth, &request)?;
    let browser = browser_of(&oauth, request.headers());
    let nonce = hex(&oauth.server.env.random::<16>());
    let template = LinkPage { site: &oauth.site, token: oauth.form_token(&form(&browser)), nonce: &nonce };
    Ok(knowing(&oauth, page_with_script(StatusCode::OK, template, &nonce), &browser))
}

fn form(browser: &Plaintext) -> Form<'static> {
    Form { purpose: OPEN, subject: "", cookie: browser.digest() }
}

/// Opens the link of somebody whom nobody can ask who they are.
pub(super) async fn open(State(oauth): State<Arc<OAuth>>, request: Request) -> Result<Response, Response> {
    oauth.connections()?;
    let (headers, from) = (request.headers().clone(), address(&request));
    let mut fields = oauth.read_form(request).await?;
    oauth.count_connection(from)?;
    let browser = oauth.cookies.read(&headers, Cookie::Connect).ok_or_else(|| pages::stale_form(&oauth.site))?;
    oauth.take_form(&form(&browser), &fields.take(csrf::FIELD), from).await?;
    let pasted = fields.take_secret("link");
    let link = read(&oauth, pasted.expose()).ok_or_else(|| too_old(&oauth))?;
    if matches!(link.principal, Principal::User(_)) {
        // Pasted from the path: it asks who is signed in.
        let path = format!("/connect/link/{}", link.sealed(&oauth.server.secret));
        return Ok(see_other(&oauth.site.address(&path)));
    }
    Ok(knowing(&oauth, opened(&oauth, &link, browser.digest()).await?, &browser))
}

/// Opens the link of a person, for that person.
pub(super) async fn open_of_person(
    State(oauth): State<Arc<OAuth>>,
    Path(sealed): Path<String>,
    request: Request,
) -> Result<Response, Response> {
    arrive(&oauth, &request)?;
    let link = read(&oauth, &sealed).ok_or_else(|| too_old(&oauth))?;
    // What stands in a path may stand in a log: such a link of a key would be everybody's.
    let Principal::User(wanted) = &link.principal else { return Err(too_old(&oauth)) };
    let Some((_, user)) = person_of(&oauth, request.headers()).await? else {
        let here = Next::parse(&format!("/connect/link/{sealed}")).ok_or_else(|| too_old(&oauth))?;
        return Ok(oauth.to_sign_in(&here));
    };
    if user.id != *wanted {
        return Err(somebody_elses(&oauth));
    }
    let browser = browser_of(&oauth, request.headers());
    Ok(knowing(&oauth, opened(&oauth, &link, browser.digest()).await?, &browser))
}

/// The link of a text: of a whole address, or of what is sealed in it.
fn read(oauth: &OAuth, text: &str) -> Option<Link> {
    let text = text.trim();
    let sealed = match text.rsplit_once('#') {
        Some((_, fragment)) => fragment,
        None => text.rsplit('/').next().unwrap_or(text),
    };
    (text.len() <= MAX_LINK).then(|| Link::read(&oauth.server.secret, sealed, oauth.server.env.now())).flatten()
}

/// Sends a browser on for which a link was opened.
async fn opened(oauth: &OAuth, link: &Link, browser: Digest) -> Result<Response, Response> {
    let opened = links::open(&oauth.server.store, link, browser).await.map_err(|error| oauth.unavailable(&error))?;
    match opened {
        Opened::First(_) | Opened::Again(_) => {
            let back = Back::Link(link.id.clone());
            Ok(see_other(&oauth.site.address(&path_of(&link.upstream, Some(&back)))))
        }
        Opened::Taken => Err(taken(oauth)),
        Opened::Expired => Err(too_old(oauth)),
        Opened::TooMany => Err(too_many(oauth)),
    }
}

const ASK_AGAIN: &str = "Go back to your agent and have it try again: it shows a new link.";

fn too_old(oauth: &OAuth) -> Response {
    let problem = Problem {
        site: &oauth.site,
        title: "This link does not open anything",
        what: "It is older than 15 minutes, it is not complete, or this gateway did not make it.",
        advice: ASK_AGAIN,
        link: None,
    };
    problem.answer(StatusCode::BAD_REQUEST)
}

fn taken(oauth: &OAuth) -> Response {
    let problem = Problem {
        site: &oauth.site,
        title: "This link was opened already",
        what: "It opens once, and another browser has opened it. Nothing was done now.",
        advice: "Go on in the browser where it was opened. If that was not you, somebody else has seen the link: have your \
                 agent try again for a new one, and tell whoever runs the gateway.",
        link: None,
    };
    problem.answer(StatusCode::FORBIDDEN)
}

fn somebody_elses(oauth: &OAuth) -> Response {
    let problem = Problem {
        site: &oauth.site,
        title: "This link is somebody else's",
        what: "It is for another person than the one who is signed in here. Nothing was done.",
        advice: "If it is yours, sign out and in again as the person whose agent has shown it. If somebody sent it to you, \
                 close this page.",
        link: Some(("/account", "See who is signed in")),
    };
    problem.answer(StatusCode::FORBIDDEN)
}

fn too_many(oauth: &OAuth) -> Response {
    let problem = Problem {
        site: &oauth.site,
        title: "Too many links are open",
        what: "Many links for the same identity were opened within a quarter of an hour.",
        advice: "Go on with one of them, or wait until some are over.",
        link: None,
    };
    retry_after(problem.answer(StatusCode::TOO_MANY_REQUESTS), RETRY_SECONDS)
}
