//! `/sign-in` and `/sign-out` of the admin listener, for people whose role is viewer or above.
//!
//! As at the public listener, the form is bound to a cookie that opens nothing (`docs/threat-model.md` row A14), and a
//! refusal says the same whatever its reason (row T19). The way by an identity provider is that of the public listener as
//! well, from an [`Entrance`] of its own.

use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use axum::extract::{Path, Request, State};
use axum::response::Response;
use http::header::USER_AGENT;
use http::{HeaderMap, StatusCode};

use super::{Console, address};
use crate::authorization::Fault;
use crate::authorization::mint::{self, mint};
use crate::authorization::people::{Attempt, Begun, Browser, SignedIn};
use crate::config::auth::Provider;
use crate::http::oauth::cookies::Kind;
use crate::http::oauth::csrf::{self, FORM_LIFE, Form};
use crate::http::oauth::pages::{self, Site, page, retry_after, see_other, with_cookie};
use crate::http::oauth::provider::Entrance;
use crate::http::oauth::sign_in::{BUSY_SECONDS, Next, seconds, too_many_tries};
use crate::identity::browser::Surface;
use crate::identity::user::Role;
use crate::secret::Plaintext;

pub(super) const PATH: &str = "/sign-in";
pub(super) const PROVIDER: &str = "/sign-in/{provider}";
pub(super) const CALLBACK: &str = "/sign-in/{provider}/callback";
pub(super) const OUT: &str = "/sign-out";
const PURPOSE: &str = "sign-in of an operator";
/// What the address of the page says of a form that was sent by nobody who is signed in.
pub(super) const FORM: &str = "form";
pub(super) const LOST: &str = "lost";
/// Purpose of the form that signs out, wherever it stands.
pub(super) const SIGN_OUT: &str = "sign-out of an operator";

#[derive(Template)]
#[template(path = "console/sign_in.html")]
struct SignInPage<'a> {
    site: &'a Site,
    problem: Option<&'a str>,
    /// Whether somebody is here because of a form that did nothing.
    is_form_lost: bool,
    passwords: bool,
    providers: &'a [Provider],
    token: String,
    /// Where to go on, empty for the first page.
    next: &'a str,
    /// The same as a query string.
    query: String,
    login: &'a str,
}

pub(super) async fn show(State(console): State<Arc<Console>>, request: Request) -> Result<Response, Response> {
    let query = request.uri().query().unwrap_or_default();
    let said = |wanted: &str| form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == wanted);
    let next = said("next").and_then(|(_, next)| Next::of_console(&next));
    if let Some(person) = console.person(request.headers()).await?
        && person.user.role >= Role::Viewer
    {
        return Ok(see_other(&onward(&console, next.as_ref())));
    }
    let note = match said(FORM) {
        Some((_, form)) if form == LOST => Note::FormLost,
        _ => Note::Nothing,
    };
    Ok(answer(&console, request.headers(), (StatusCode::OK, note), next.as_ref(), ""))
}

/// Where somebody goes who is signed in.
pub(super) fn onward(console: &Console, next: Option<&Next>) -> String {
    console.site.address(next.map_or("/", Next::as_str))
}

/// What stands above the form.
enum Note<'a> {
    Nothing,
    /// Somebody was signed in no more when they sent a form.
    FormLost,
    Refused(&'a str),
}

/// The page, with a form for this browser.
fn answer(
    console: &Console,
    headers: &HeaderMap,
    (status, note): (StatusCode, Note<'_>),
    next: Option<&Next>,
    login: &str,
) -> Response {
    let (cookie, settings) = (console.form_cookie(headers), console.server.settings());
    let template = SignInPage {
        site: &console.site,
        problem: if let Note::Refused(problem) = note { Some(problem) } else { None },
        is_form_lost: matches!(note, Note::FormLost),
        passwords: settings.sign_in.passwords,
        providers: &settings.providers,
        token: console.form_token(&form(&cookie)),
        next: next.map(Next::as_str).unwrap_or_default(),
        query: next.map(|next| format!("?next={}", next.encoded())).unwrap_or_default(),
        login,
    };
    with_cookie(page(status, template, &[]), console.cookies.set(Kind::SignIn, &cookie, FORM_LIFE))
}

fn form(cookie: &Plaintext) -> Form<'static> {
    Form { purpose: PURPOSE, subject: "", cookie: cookie.digest() }
}

pub(super) async fn submit(State(console): State<Arc<Console>>, request: Request) -> Result<Response, Response> {
    let (headers, address) = (request.headers().clone(), address(&request));
    let mut fields = console.read_form(request).await?;
    let next = Next::of_console(&fields.take("next"));
    let cookie = console.cookies.read(&headers, Kind::SignIn).ok_or_else(|| pages::stale_form(&console.site))?;
    console.take_form(&form(&cookie), &fields.take(csrf::FIELD), address).await?;
    let (login, password) = (fields.take("login"), fields.take_secret("password"));
    let attempt = Attempt { login: login.clone(), password, address, browser: console.browser(&headers) };
    let again =
        |status, problem: &str| answer(&console, &headers, (status, Note::Refused(problem)), next.as_ref(), &login);
    Ok(match console.server.sign_in(attempt).await {
        Ok(SignedIn::Begun(begun)) => console.begun(&begun, &onward(&console, next.as_ref())),
        Ok(SignedIn::Refused) => {
            let problem = "The login or the password is not right. Check both and try again; `portcullis user \
                           set-password` gives another password to whoever has lost theirs.";
            again(StatusCode::FORBIDDEN, problem)
        }
        Ok(SignedIn::NotAdmitted) => pages::not_an_operator(&console.site),
        Ok(SignedIn::Wait(wait)) => {
            retry_after(again(StatusCode::TOO_MANY_REQUESTS, &too_many_tries(wait)), seconds(wait))
        }
        Ok(SignedIn::Off) => again(StatusCode::FORBIDDEN, "Nobody signs in with a password here."),
        Err(Fault::Busy) => {
            let problem = "Too many people are signing in at the moment. Wait a few seconds and try again.";
            retry_after(again(StatusCode::TOO_MANY_REQUESTS, problem), BUSY_SECONDS)
        }
        Err(fault) => console.fault(&fault),
    })
}

/// The way to an identity provider.
pub(super) async fn to_provider(
    State(console): State<Arc<Console>>,
    Path(name): Path<String>,
    request: Request,
) -> Response {
    let (parts, _) = request.into_parts();
    console.entrance().begin(&name, &parts).await
}

/// The way back.
pub(super) async fn from_provider(
    State(console): State<Arc<Console>>,
    Path(name): Path<String>,
    request: Request,
) -> Response {
    let (parts, _) = request.into_parts();
    console.entrance().finish(&name, &parts).await
}

pub(super) async fn sign_out(State(console): State<Arc<Console>>, request: Request) -> Result<Response, Response> {
    let (headers, address) = (request.headers().clone(), address(&request));
    let mut fields = console.read_form(request).await?;
    if let Some(person) = console.person(&headers).await? {
        let form = Form { purpose: SIGN_OUT, subject: "", cookie: person.cookie };
        console.take_form(&form, &fields.take(csrf::FIELD), address).await?;
        console.server.sign_out(&person.session).await.map_err(|fault| console.fault(&fault))?;
    }
    let response = see_other(&console.site.address(PATH));
    Ok(with_cookie(response, console.cookies.clear(Kind::Session)))
}

impl Console {
    /// Where operators sign in through providers.
    fn entrance(&self) -> Entrance<'_> {
        let Self { server, site, cookies, .. } = self;
        Entrance { server, site, cookies, surface: Surface::Admin, home: "/", counts: None }
    }

    /// What a browser is known by that is about to sign in: what it has, or else something new.
    pub(super) fn form_cookie(&self, headers: &HeaderMap) -> Plaintext {
        self.cookies.read(headers, Kind::SignIn).unwrap_or_else(|| mint(&self.server.env, mint::COOKIE))
    }

    /// The browser that sent this, for a session that is to begin in it.
    pub(super) fn browser(&self, headers: &HeaderMap) -> Browser {
        let replaces = self.cookie(headers).map(|cookie| cookie.digest());
        let agent = headers.get(USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default();
        Browser { replaces, agent: agent.to_owned(), surface: Surface::Admin }
    }

    /// Sends somebody on who has just shown who they are.
    pub(super) fn begun(&self, begun: &Begun, onward: &str) -> Response {
        let life = begun.session.ends.as_millis().saturating_sub(begun.session.authenticated.as_millis());
        let cookie = self.cookies.set(Kind::Session, &begun.cookie, Duration::from_millis(life));
        with_cookie(with_cookie(see_other(onward), cookie), self.cookies.clear(Kind::SignIn))
    }
}
