//! `/setup`: where the first owner makes their account.
//!
//! The link has its token in the fragment, which the browser keeps to itself: a script of the page puts it into the form and
//! takes it out of the address, and where there are no scripts it is pasted. Without a link that counts, and once there is an
//! owner, there is nothing here.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Request, State};
use axum::response::Response;
use http::{HeaderMap, StatusCode};

use super::{Console, address, sign_in};
use crate::authorization::Fault;
use crate::authorization::passwords::{MAX_BYTES, MIN_CHARS};
use crate::authorization::set_up::{Founder, Founding};
use crate::http::oauth::cookies::Kind;
use crate::http::oauth::csrf::{self, FORM_LIFE, Form};
use crate::http::oauth::pages::{self, Site, page_with_script, retry_after, see_other, with_cookie};
use crate::http::oauth::sign_in::BUSY_SECONDS;
use crate::identity::user::{DisplayName, Login};
use crate::secret::{Plaintext, hex};

pub(super) const PATH: &str = "/setup";
const PURPOSE: &str = "make the first owner";
/// Longest link that is read, in bytes.
const MAX_LINK: usize = 1024;

#[derive(Template)]
#[template(path = "console/set_up.html")]
struct SetUpPage<'a> {
    site: &'a Site,
    problem: Option<&'a str>,
    token: String,
    nonce: &'a str,
    /// What was typed before.
    link: &'a str,
    login: &'a str,
    name: &'a str,
    max_link: usize,
    max_login: usize,
    max_name: usize,
    min_password: usize,
    max_password: usize,
}

/// What somebody has typed, but for the password.
#[derive(Default)]
struct Typed {
    link: String,
    login: String,
    name: String,
}

pub(super) async fn show(State(console): State<Arc<Console>>, request: Request) -> Result<Response, Response> {
    console.must_await_set_up().await?;
    Ok(answer(&console, request.headers(), (StatusCode::OK, None), &Typed::default()))
}

fn answer(
    console: &Console,
    headers: &HeaderMap,
    (status, problem): (StatusCode, Option<&str>),
    typed: &Typed,
) -> Response {
    let (cookie, nonce) = (console.form_cookie(headers), hex(&console.server.env.random::<16>()));
    let template = SetUpPage {
        site: &console.site,
        problem,
        token: console.form_token(&form(&cookie)),
        nonce: &nonce,
        link: &typed.link,
        login: &typed.login,
        name: &typed.name,
        max_link: MAX_LINK,
        max_login: Login::MAX_LEN,
        max_name: DisplayName::MAX_LEN,
        min_password: MIN_CHARS,
        max_password: MAX_BYTES,
    };
    let response = page_with_script(status, template, &nonce);
    with_cookie(response, console.cookies.set(Kind::SignIn, &cookie, FORM_LIFE))
}

fn form(cookie: &Plaintext) -> Form<'static> {
    Form { purpose: PURPOSE, subject: "", cookie: cookie.digest() }
}

pub(super) async fn submit(State(console): State<Arc<Console>>, request: Request) -> Result<Response, Response> {
    let (headers, from) = (request.headers().clone(), address(&request));
    let mut fields = console.read_form(request).await?;
    console.must_await_set_up().await?;
    let cookie = console.cookies.read(&headers, Kind::SignIn).ok_or_else(|| pages::stale_form(&console.site))?;
    console.take_form(&form(&cookie), &fields.take(csrf::FIELD), from).await?;
    let password = fields.take_secret("password");
    let typed = Typed { link: fields.take("link"), login: fields.take("login"), name: fields.take("name") };
    let founder = Founder {
        token: token_of(&typed.link),
        login: typed.login.clone(),
        name: typed.name.clone(),
        password,
        browser: console.browser(&headers),
    };
    let again = |problem: &str| answer(&console, &headers, (StatusCode::UNPROCESSABLE_ENTITY, Some(problem)), &typed);
    Ok(match console.server.found(founder).await {
        Ok(Founding::Founded(Some(begun))) => console.begun(&begun, &console.site.address("/")),
        Ok(Founding::Founded(None)) => see_other(&console.site.address(sign_in::PATH)),
        Ok(Founding::Over) => pages::not_found(&console.site),
        Ok(Founding::WrongLink) => {
            let problem = "The link is not the one that counts: a newer one was made, the gateway was started again, or it is \
                           not complete. `portcullis setup-link` prints another.";
            // What is wrong is not shown again.
            let typed = Typed { link: String::new(), ..typed };
            answer(&console, &headers, (StatusCode::FORBIDDEN, Some(problem)), &typed)
        }
        Ok(Founding::BadLogin) => again("A login has printable ASCII characters and no spaces."),
        Ok(Founding::LoginTaken) => again("Somebody has this login already."),
        Ok(Founding::Weak(weak)) => again(&format!("This password will not do: {weak}.")),
        Ok(Founding::TooMany) => again("There are as many accounts as there may be."),
        Err(Fault::Busy) => {
            let problem = "The gateway has too much to do at the moment. Wait a few seconds and try again.";
            let status = StatusCode::TOO_MANY_REQUESTS;
            retry_after(answer(&console, &headers, (status, Some(problem)), &typed), BUSY_SECONDS)
        }
        Err(fault) => console.fault(&fault),
    })
}

/// The token of a text: of a whole link, or of what stands in its fragment.
fn token_of(link: &str) -> Plaintext {
    let link = link.trim();
    let token = link.rsplit_once('#').map_or(link, |(_, fragment)| fragment);
    Plaintext::new(if link.len() <= MAX_LINK { token } else { "" })
}

impl Console {
    /// That somebody could come by a link now.
    async fn must_await_set_up(&self) -> Result<(), Response> {
        match self.server.awaits_set_up().await {
            Ok(true) => Ok(()),
            Ok(false) => Err(pages::not_found(&self.site)),
            Err(error) => Err(self.unavailable(&error)),
        }
    }
}
