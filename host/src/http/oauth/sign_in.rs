//! `/sign-in` and `/sign-out`: how people come and go in a browser.
//!
//! Before anybody is signed in, the browser has a cookie that opens nothing and that the form is bound to, so that no
//! other site signs somebody in as somebody else (`docs/threat-model.md` row A14). A refusal says the same whatever its reason.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::{get, post};
use http::header::USER_AGENT;
use http::{HeaderMap, StatusCode};

use super::cookies::Kind;
use super::csrf::{self, FORM_LIFE, Fields, Form};
use super::pages::{self, Site, page, retry_after, see_other, with_cookie};
use super::{Access, OAuth, Route};
use crate::authorization::Fault;
use crate::authorization::mint::{self, mint};
use crate::authorization::people::{Attempt, Begun, Browser, SignedIn};
use crate::authorization::providers::MAX_NEXT;
use crate::config::auth::Provider;
use crate::http::serve::Peer;
use crate::identity::browser::{BrowserSession, Surface};
use crate::identity::user::User;
use crate::secret::{Digest, Plaintext};

pub(super) const ROUTES: &[Route] = &[
    Route { methods: "GET|POST", path: "/sign-in", access: Access::Browser, handler: || get(show).post(submit) },
    Route { methods: "POST", path: "/sign-out", access: Access::Browser, handler: || post(sign_out) },
];

const PURPOSE: &str = "sign-in";
/// Purpose of the form that signs out, wherever it stands.
pub(super) const SIGN_OUT: &str = "sign-out";
/// When to come again after so many sign in at once that the gateway has no time to check.
pub const BUSY_SECONDS: u64 = 3;

/// A path of this gateway to go on to, with its query: nothing that leads elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Next(String);

impl Next {
    /// Longest path with its query, in bytes: what goes along to an identity provider.
    const MAX_LEN: usize = MAX_NEXT;

    /// The path that this is: one slash, then plain segments, then perhaps a query. The path of `public_url` is no part
    /// of it.
    pub fn parse(text: &str) -> Option<Self> {
        Self::of_segments(text, |segment| !matches!(segment, "" | "." | "..") && segment.bytes().all(Self::is_plain))
    }

    /// The same of the console, whose segments may have bytes as `%XX`: an address can be one of them (RFC 3986 §2.1).
    pub fn of_console(text: &str) -> Option<Self> {
        Self::of_segments(text, Self::is_written_segment)
    }

    const fn is_plain(byte: u8) -> bool {
        byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b':')
    }

    fn of_segments(text: &str, is_segment: impl Fn(&str) -> bool) -> Option<Self> {
        let (path, query) = text.split_once('?').unwrap_or((text, ""));
        let is_path = path.strip_prefix('/').is_some_and(|rest| rest.split('/').all(is_segment));
        let is_query = query.bytes().all(|byte| Self::is_plain(byte) || b"=&%+/,;!*'()@$?".contains(&byte));
        (text.len() <= Self::MAX_LEN && is_path && is_query).then(|| Self(text.to_owned()))
    }

    /// Whether this is one segment, even for those who decode too much of it: it does not begin with a slash, has no part
    /// that is `.` or `..`, no control and no backslash.
    fn is_written_segment(segment: &str) -> bool {
        let mut decoded = Vec::with_capacity(segment.len());
        let mut bytes = segment.bytes();
        while let Some(byte) = bytes.next() {
            let read = match byte {
                b'%' => match (bytes.next().and_then(hex_digit), bytes.next().and_then(hex_digit)) {
                    (Some(high), Some(low)) => high * 16 + low,
                    _ => return false,
                },
                b'*' => byte,
                plain if Self::is_plain(plain) => plain,
                _ => return false,
            };
            if read.is_ascii_control() || read == b'\\' {
                return false;
            }
            decoded.push(read);
        }
        let parts = decoded.split(|byte| *byte == b'/');
        let is_there = decoded.first().is_some_and(|first| *first != b'/');
        is_there && parts.into_iter().all(|part| part != b"." && part != b"..")
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// As the value of a parameter.
    pub fn encoded(&self) -> String {
        form_urlencoded::byte_serialize(self.0.as_bytes()).collect()
    }
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

impl Default for Next {
    fn default() -> Self {
        Self("/account".to_owned())
    }
}

/// Who is signed in, in this browser.
pub struct Person {
    /// Digest of the cookie.
    pub cookie: Digest,
    pub session: BrowserSession,
    pub user: User,
}

impl OAuth {
    /// Who is signed in, in the browser that sent this.
    ///
    /// # Errors
    /// The page that says that it cannot be told now.
    pub async fn person(&self, headers: &HeaderMap) -> Result<Option<Person>, Response> {
        let Some(cookie) = self.cookies.read(headers, Kind::Session) else { return Ok(None) };
        let found = self.server.signed_in(Some(&cookie)).await.map_err(|fault| self.fault(&fault))?;
        Ok(found.map(|(session, user)| Person { cookie: cookie.digest(), session, user }))
    }

    /// Reads a form that one of our pages sent.
    ///
    /// # Errors
    /// The page that says why it is not read.
    pub async fn read_form(&self, request: Request) -> Result<Fields, Response> {
        csrf::read_form(request, self.site.origin()).await.map_err(|refused| pages::not_ours(&self.site, &refused))
    }

    /// The page that says that nothing could be decided.
    pub fn fault(&self, fault: &Fault) -> Response {
        tracing::error!(error = %fault, "a fault failed a page");
        pages::unavailable(&self.site)
    }

    /// Sends somebody on who has just signed in.
    pub fn begun(&self, begun: &Begun, next: &Next) -> Response {
        let life = begun.session.ends.as_millis().saturating_sub(begun.session.created.as_millis());
        let cookie = self.cookies.set(Kind::Session, &begun.cookie, Duration::from_millis(life));
        let response = with_cookie(see_other(&self.site.address(next.as_str())), cookie);
        with_cookie(response, self.cookies.clear(Kind::SignIn))
    }

    /// Sends somebody to sign in first.
    pub fn to_sign_in(&self, next: &Next) -> Response {
        see_other(&self.site.address(&format!("/sign-in?next={}", next.encoded())))
    }
}

/// The browser that sent this, for a session that is to begin in it.
pub fn browser(oauth: &OAuth, headers: &HeaderMap) -> Browser {
    let replaces = oauth.cookies.read(headers, Kind::Session).map(|cookie| cookie.digest());
    let agent = headers.get(USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default();
    Browser { replaces, agent: agent.to_owned(), surface: Surface::Public }
}

/// The address that this comes from, if it has one.
pub(super) fn address(request: &Request) -> Option<IpAddr> {
    request.extensions().get::<Peer>().and_then(|peer| peer.ip())
}

/// What a link or a form asks for.
#[derive(Default)]
struct Asked {
    next: Next,
    /// Whether somebody who is signed in is to show again who they are.
    again: bool,
}

impl Asked {
    fn of(query: &str) -> Self {
        let find = |name| form_urlencoded::parse(query.as_bytes()).find(|(found, _)| found == name);
        let next = find("next").and_then(|(_, next)| Next::parse(&next)).unwrap_or_default();
        Self { next, again: find("again").is_some_and(|(_, again)| again == "1") }
    }

    fn of_form(fields: &mut Fields) -> Self {
        let next = Next::parse(&fields.take("next")).unwrap_or_default();
        Self { next, again: fields.take("again") == "1" }
    }
}

#[derive(Template)]
#[template(path = "sign_in.html")]
struct SignInPage<'a> {
    site: &'a Site,
    problem: Option<String>,
    passwords: bool,
    providers: &'a [Provider],
    token: String,
    next: &'a Next,
    again: bool,
    login: &'a str,
}

async fn show(State(oauth): State<Arc<OAuth>>, request: Request) -> Result<Response, Response> {
    let asked = Asked::of(request.uri().query().unwrap_or_default());
    let person = oauth.person(request.headers()).await?;
    let login = person.as_ref().and_then(|person| person.user.login.as_ref());
    if person.is_some() && !asked.again {
        return Ok(see_other(&oauth.site.address(asked.next.as_str())));
    }
    let login = login.map(ToString::to_string).unwrap_or_default();
    Ok(answer(&oauth, request.headers(), (StatusCode::OK, None), &asked, &login))
}

/// The page, with a form for this browser.
fn answer(
    oauth: &OAuth,
    headers: &HeaderMap,
    (status, problem): (StatusCode, Option<String>),
    asked: &Asked,
    login: &str,
) -> Response {
    let settings = oauth.server.settings();
    let known = oauth.cookies.read(headers, Kind::SignIn);
    let cookie = known.unwrap_or_else(|| mint(&oauth.server.env, mint::COOKIE));
    let token = oauth.form_token(&form(&cookie));
    let template = SignInPage {
        site: &oauth.site,
        problem,
        passwords: settings.sign_in.passwords,
        providers: &settings.providers,
        token,
        next: &asked.next,
        again: asked.again,
        login,
    };
    let response = page(status, template, &[]);
    with_cookie(response, oauth.cookies.set(Kind::SignIn, &cookie, FORM_LIFE))
}

fn form(cookie: &Plaintext) -> Form<'static> {
    Form { purpose: PURPOSE, subject: "", cookie: cookie.digest() }
}

async fn submit(State(oauth): State<Arc<OAuth>>, request: Request) -> Result<Response, Response> {
    let headers = request.headers().clone();
    let address = address(&request);
    let mut fields = oauth.read_form(request).await?;
    let asked = Asked::of_form(&mut fields);
    let cookie = oauth.cookies.read(&headers, Kind::SignIn);
    let cookie = cookie.ok_or_else(|| pages::stale_form(&oauth.site))?;
    oauth.take_form(&form(&cookie), &fields.take(csrf::FIELD), address).await?;
    let (login, password) = (fields.take("login"), fields.take_secret("password"));
    let attempt = Attempt { login: login.clone(), password, address, browser: browser(&oauth, &headers) };
    let again = |status, problem: &str| answer(&oauth, &headers, (status, Some(problem.to_owned())), &asked, &login);
    let signed_in = oauth.server.sign_in(attempt).await;
    let outcome = match &signed_in {
        Ok(SignedIn::Begun(_)) => "done",
        Ok(SignedIn::Refused | SignedIn::Off | SignedIn::NotAdmitted) => "refused",
        Ok(SignedIn::Wait(_)) | Err(Fault::Busy) => "waiting",
        Err(_) => "fault",
    };
    oauth.counts.sign_ins.count(["password", outcome]);
    Ok(match signed_in {
        Ok(SignedIn::Begun(begun)) => oauth.begun(&begun, &asked.next),
        Ok(SignedIn::Refused) => {
            let problem = "The login or the password is not right. Check both and try again; if you cannot get in, \
                           ask whoever runs the gateway for another password.";
            again(StatusCode::FORBIDDEN, problem)
        }
        Ok(SignedIn::Wait(wait)) => {
            retry_after(again(StatusCode::TOO_MANY_REQUESTS, &too_many_tries(wait)), seconds(wait))
        }
        // Which only the other listener says.
        Ok(SignedIn::NotAdmitted) => again(StatusCode::FORBIDDEN, "This account does not sign in here."),
        Ok(SignedIn::Off) => again(StatusCode::FORBIDDEN, "Nobody signs in with a password here."),
        Err(Fault::Busy) => {
            let problem = "Too many people are signing in at the moment. Wait a few seconds and try again.";
            retry_after(again(StatusCode::TOO_MANY_REQUESTS, problem), BUSY_SECONDS)
        }
        Err(fault) => oauth.fault(&fault),
    })
}

/// Whole seconds, and no fewer than that takes.
pub fn seconds(wait: Duration) -> u64 {
    u64::try_from(wait.as_millis().div_ceil(1000)).unwrap_or(u64::MAX).max(1)
}

/// What somebody is told who has to wait.
pub fn too_many_tries(wait: Duration) -> String {
    let seconds = seconds(wait);
    let unit = if seconds == 1 { "second" } else { "seconds" };
    format!("There were too many tries. Wait {seconds} {unit} and try again.")
}

async fn sign_out(State(oauth): State<Arc<OAuth>>, request: Request) -> Result<Response, Response> {
    let headers = request.headers().clone();
    let address = address(&request);
    let mut fields = oauth.read_form(request).await?;
    if let Some(person) = oauth.person(&headers).await? {
        let form = Form { purpose: SIGN_OUT, subject: "", cookie: person.cookie };
        oauth.take_form(&form, &fields.take(csrf::FIELD), address).await?;
        oauth.server.sign_out(&person.session).await.map_err(|fault| oauth.fault(&fault))?;
    }
    let response = see_other(&oauth.site.address("/sign-in"));
    Ok(with_cookie(response, oauth.cookies.clear(Kind::Session)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_goes_on_to_paths_of_this_gateway_only() {
        for good in [
            "/account",
            "/oauth2/consent/0192ab",
            "/connect/notes?x=1&y=a%2Fb+c",
            "/oauth2/authorize?redirect_uri=http%3A%2F%2F127.0.0.1%3A1%2Fcallback&scope=a",
            "/a.b/~c",
        ] {
            assert_eq!(Next::parse(good).as_ref().map(Next::as_str), Some(good));
        }
        let long = format!("/{}", "x".repeat(Next::MAX_LEN));
        for bad in [
            "",
            "account",
            "/",
            "//evil.example",
            "///evil.example",
            "/\\evil.example",
            "\\\\evil.example",
            "/a//b",
            "/../other",
            "/a/../../other",
            "/./a",
            "/a/..",
            "/%2e%2e/other",
            "/%2F%2Fevil.example",
            "https://evil.example/",
            "javascript:alert(1)",
            "/a b",
            "/a\r\nSet-Cookie: x=y",
            "/a\tb",
            "/a#b",
            "/a?b#c",
            "/a?b\\c",
            "/a?<script>",
            "/ä",
            "/a@evil.example",
            " /account",
            &long,
        ] {
            assert_eq!(Next::parse(bad), None, "{bad:?}");
            assert_eq!(Next::of_console(bad), None, "{bad:?}");
        }
        for written in ["/keys/%6Eew", "/clients/https%3A%2F%2Fapp.example%2Fa%20b/remove", "/keys/ci?x=%2e"] {
            assert_eq!(Next::of_console(written).as_ref().map(Next::as_str), Some(written));
        }
        for bad in ["/a/%2E%2e", "/a/.%2e/b", "/a/%2e%2e%2fb", "/a%5cb", "/a/%0d%0a", "/a/%zz", "/a/%2", "/%2Fa"] {
            assert_eq!(Next::of_console(bad), None, "{bad:?}");
        }
        assert_eq!(Next::parse("/a?b=c").unwrap().encoded(), "%2Fa%3Fb%3Dc");
    }

    #[test]
    fn what_is_asked_for_is_read_from_a_link_and_what_is_not_right_is_left_out() {
        let asked = Asked::of("next=%2Foauth2%2Fconsent%2F1&again=1");
        assert_eq!((asked.next.as_str(), asked.again), ("/oauth2/consent/1", true));
        for query in ["", "next=//evil.example", "next=https%3A%2F%2Fevil.example", "again=yes&next="] {
            let asked = Asked::of(query);
            assert_eq!((asked.next, asked.again), (Next::default(), false), "{query}");
        }
    }
}
