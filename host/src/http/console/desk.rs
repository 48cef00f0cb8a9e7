//! What every page of the console is made with: its head, its forms, and what it tells when something is refused.
//!
//! A form is sent to an address that says all of what it does and to what, and its token is good for that address alone
//! ([`Head::token`], [`Sent`]). After it comes a redirect that says what was done ([`Desk::done`]). What cannot be taken back
//! is asked about at the same address first ([`Confirm`]), which needs no script.

use std::collections::BTreeMap;
use std::sync::Arc;

use askama::Template;
use axum::extract::{FromRef, FromRequest, FromRequestParts, Request};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::request::Parts;

use super::{Console, Onward, Person, address, fields, kept, sign_in};
use crate::audit::Actor;
use crate::http::api::{Api, Operator, Problem, Who};
use crate::http::oauth::csrf::{self, Fields, Form};
use crate::http::oauth::pages::{Site, page_of_console, retry_after, see_other};
use crate::identity::user::Role;

/// Purpose of the forms of pages; what they do is their address.
const PURPOSE: &str = "form of the console";
/// Purpose of the sealed text that says what was just done: nobody else can have a person told that something was.
const JUST_DONE: &str = "console done 1";
/// When to come again after a fault, in seconds.
const RETRY_SECONDS: u64 = 2;

/// What the handlers work with: the pages' own, and what the API works with.
#[derive(Clone)]
pub struct Desk {
    pub(super) console: Arc<Console>,
    pub(super) api: Arc<Api>,
}

impl FromRef<Desk> for Arc<Console> {
    fn from_ref(desk: &Desk) -> Self {
        desk.console.clone()
    }
}

impl FromRef<Desk> for Arc<Api> {
    fn from_ref(desk: &Desk) -> Self {
        desk.api.clone()
    }
}

/// What a handler answers.
pub(super) type Answer = Result<Response, Stop>;

/// Why a page is not what was asked for.
pub(super) enum Stop {
    /// What the API would have said.
    Problem(Problem),
    /// The same, with what somebody has written, which is not saved and would be lost otherwise.
    Unsaved(Problem, String),
    /// A page that says why.
    Page(Response),
}

impl<E: Into<Problem>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Problem(error.into())
    }
}

/// A problem on its way to the door, where it becomes a page.
#[derive(Clone)]
pub(super) struct Told {
    problem: Arc<Problem>,
    /// What was written and is not saved.
    written: Option<Arc<str>>,
}

impl From<Problem> for Told {
    fn from(problem: Problem) -> Self {
        Self { problem: Arc::new(problem), written: None }
    }
}

impl Told {
    /// An answer that the door puts a page in the place of.
    fn on_its_way(self) -> Response {
        let mut response = self.problem.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl IntoResponse for Stop {
    fn into_response(self) -> Response {
        match self {
            Self::Page(response) => response,
            Self::Problem(problem) => Told::from(problem).on_its_way(),
            Self::Unsaved(problem, written) => {
                Told { written: Some(written.into()), ..Told::from(problem) }.on_its_way()
            }
        }
    }
}

/// Where a request came from, for the page that says why nothing came of it.
pub(super) struct Way {
    /// The part of the console that its address belongs to.
    part: Option<&'static Part>,
    /// The page that a form was on, as far as the browser tells.
    back: Option<Onward>,
    is_form: bool,
}

impl Way {
    pub(super) fn of(console: &Console, request: &Parts) -> Self {
        let is_form = !request.method.is_safe();
        let back = if is_form { console.page_before(request) } else { None };
        Self { part: part_of(request.uri.path()), back, is_form }
    }
}

/// A problem as a page.
#[derive(Template)]
#[template(path = "console/stopped.html")]
struct StoppedPage<'a> {
    site: &'a Site,
    head: Head<'a>,
    title: &'a str,
    detail: &'a str,
    code: &'a str,
    /// What to do now, empty where a link says it.
    advice: &'a str,
    /// What was written and is not saved.
    written: Option<&'a str>,
    way: &'a Way,
}

impl Told {
    /// The page that says it.
    pub(super) fn page(&self, console: &Console, person: &Person, way: &Way) -> Response {
        let Problem { status, code, detail, .. } = &*self.problem;
        let title = match *status {
            StatusCode::NOT_FOUND => "Not found",
            StatusCode::FORBIDDEN => "This is not for your account",
            StatusCode::CONFLICT | StatusCode::PRECONDITION_FAILED => {
                "That does not go together with how things are now"
            }
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => "Not at the moment",
            _ => "That did not work",
        };
        let advice = match *status {
            StatusCode::FORBIDDEN => "If it should be, ask an owner of the gateway to give you another role.",
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS if !way.is_form => {
                "Wait a few seconds and load the page again."
            }
            _ if way.is_form => {
                "Go back, load the page again, and try once more if it makes sense. A form is good once: load its page before \
                 you send it again."
            }
            _ => "",
        };
        let template = StoppedPage {
            site: &console.site,
            head: Head::new(console, person, way.part.map(|part| part.path).unwrap_or_default()),
            title,
            detail,
            code,
            advice,
            written: self.written.as_deref(),
            way,
        };
        let response = page_of_console(*status, template);
        match *status {
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => retry_after(response, RETRY_SECONDS),
            _ => response,
        }
    }
}

/// What stands above and beside each page of somebody who is signed in.
pub(super) struct Head<'a> {
    console: &'a Console,
    person: &'a Person,
    /// The path of the part of the console that the page belongs to.
    here: &'static str,
}

/// A part of the console.
pub(super) struct Part {
    pub(super) path: &'static str,
    pub(super) label: &'static str,
}

static PARTS: [Part; 12] = [
    Part { path: "/", label: "Overview" },
    Part { path: "/upstreams", label: "Upstreams" },
    Part { path: "/keys", label: "Virtual keys" },
    Part { path: "/people", label: "People" },
    Part { path: "/clients", label: "Clients" },
    Part { path: "/grants", label: "Grants" },
    Part { path: "/connections", label: "Connections" },
    Part { path: "/approvals", label: "Approvals" },
    Part { path: "/policies", label: "Policies" },
    Part { path: "/decisions", label: "Decisions" },
    Part { path: "/audit", label: "Audit" },
    Part { path: "/settings", label: "Settings" },
];

/// The part that an address belongs to.
fn part_of(path: &str) -> Option<&'static Part> {
    let is_below =
        |part: &&Part| path.strip_prefix(part.path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    PARTS.iter().find(is_below)
}

impl<'a> Head<'a> {
    pub(super) fn new(console: &'a Console, person: &'a Person, here: &'static str) -> Self {
        Self { console, person, here }
    }

    pub(super) fn name(&self) -> &str {
        self.person.user.called()
    }

    pub(super) fn role(&self) -> Role {
        self.person.user.role
    }

    pub(super) fn parts(&self) -> &'static [Part] {
        &PARTS
    }

    pub(super) fn is_here(&self, part: &Part) -> bool {
        self.here == part.path
    }

    /// What was just done.
    pub(super) fn done(&self) -> Option<&'static str> {
        self.person.done
    }

    /// Whether somebody may change what the API lets operators change.
    pub(super) fn is_operator(&self) -> bool {
        self.role() >= Role::Operator
    }

    pub(super) fn is_owner(&self) -> bool {
        self.role() >= Role::Owner
    }

    /// The page of one thing of a part of the console.
    pub(super) fn page(&self, part: &str, name: impl std::fmt::Display) -> String {
        fields::page(part, &name.to_string())
    }

    /// A token for the form that is sent to this path.
    pub(super) fn token(&self, path: &str) -> String {
        self.console.form_token(&Form { purpose: PURPOSE, subject: path, cookie: self.person.cookie })
    }

    /// Token of the form that signs out.
    pub(super) fn sign_out(&self) -> String {
        self.console.form_token(&Form { purpose: sign_in::SIGN_OUT, subject: "", cookie: self.person.cookie })
    }
}

/// What is asked before something is done, at the address that does it.
#[derive(Default)]
pub(super) struct Confirm<'a> {
    pub(super) title: &'a str,
    /// What will come of it, in a few sentences.
    pub(super) what: &'a str,
    /// What the button says.
    pub(super) button: &'a str,
    /// The address that does it.
    pub(super) path: &'a str,
    /// Where to go instead.
    pub(super) back: &'a str,
    /// What the form sends besides, unseen.
    pub(super) hidden: &'a [(&'a str, &'a str)],
}

#[derive(Template)]
#[template(path = "console/confirm.html")]
struct ConfirmPage<'a> {
    site: &'a Site,
    head: Head<'a>,
    confirm: Confirm<'a>,
}

impl Desk {
    pub(super) fn site(&self) -> &Site {
        &self.console.site
    }

    /// What stands above a page of this part of the console, which is a path of [`PARTS`].
    pub(super) fn head<'a>(&'a self, person: &'a Person, here: &'static str) -> Head<'a> {
        Head::new(&self.console, person, here)
    }

    /// A page.
    pub(super) fn page(&self, template: impl Template) -> Response {
        page_of_console(StatusCode::OK, template)
    }

    /// The page that asks before something is done.
    pub(super) fn confirm(&self, person: &Person, here: &'static str, confirm: Confirm<'_>) -> Response {
        self.page(ConfirmPage { site: self.site(), head: self.head(person, here), confirm })
    }

    /// Sends somebody to a page of ours, after what they have done.
    pub(super) fn done(&self, person: &Person, path: &str, done: Done) -> Response {
        see_other(&self.done_at(person, path, done))
    }

    /// The address of a page of ours that says what somebody has done.
    pub(super) fn done_at(&self, person: &Person, path: &str, done: Done) -> String {
        let sealed = self.console.server.secret.seal(JUST_DONE, person.cookie.as_bytes(), done.as_str().as_bytes());
        let joint = if path.contains('?') { '&' } else { '?' };
        self.site().address(&format!("{path}{joint}done={sealed}"))
    }

    /// Whether a token is that of the form that this person was shown for this path, sent for the first time.
    pub(super) async fn take_token(
        &self,
        person: &Person,
        path: &str,
        token: &str,
        from: Option<std::net::IpAddr>,
    ) -> Result<(), Stop> {
        self.console.take_token(person, path, token, from).await.map_err(Stop::Page)
    }

    /// Sends somebody to a page of ours.
    pub(super) fn go(&self, path: &str) -> Response {
        see_other(&self.site().address(path))
    }
}

impl Console {
    /// Whether a token is that of the form that this person was shown for this path, sent for the first time.
    pub(super) async fn take_token(
        &self,
        person: &Person,
        path: &str,
        token: &str,
        from: Option<std::net::IpAddr>,
    ) -> Result<(), Response> {
        self.take_form(&Form { purpose: PURPOSE, subject: path, cookie: person.cookie }, token, from).await
    }
}

/// What was just done, with the sentence that says so.
macro_rules! done {
    ($($name:ident => $word:literal: $text:literal,)*) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Done {
            $($name,)*
        }

        impl Done {
            const ALL: &[Self] = &[$(Self::$name,)*];

            const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $word,)*
                }
            }

            const fn text(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

done! {
    Added => "added": "It is added.",
    Changed => "changed": "It is changed.",
    Removed => "removed": "It is removed.",
    SigningKeyPublished => "signing-key-published": "The next key is published, and signs when everybody who verifies can know it.",
    SigningKeySigns => "signing-key-signs": "Another key signs from now on.",
    SigningKeyRevoked => "signing-key-revoked": "The key is taken out: what it has signed counts no more.",
    VaultRotated => "vault-rotated": "New data keys are wrapped by another key. Have the others wrapped anew.",
    VaultRewrapped => "vault-rewrapped": "Data keys were wrapped anew: the page says how many, and whether there are more.",
    SecretEnded => "secret-ended": "The earlier secret opens nothing any more.",
    ConnectionEnded => "connection-ended": "The connection is ended, and its tokens are revoked where they came from.",
    Given => "given": "It is given: it happens when the caller asks again.",
    Refused => "refused": "It is refused.",
    Suspended => "suspended": "The account is suspended, and signed out everywhere.",
    Activated => "activated": "The account is active.",
    PasswordSet => "password": "The password is another one.",
    SignedOut => "signed-out": "They are signed out everywhere.",
    Revoked => "revoked": "It counts no more.",
    Enabled => "enabled": "It is in use.",
    Disabled => "disabled": "It is out of use.",
    Refreshed => "refreshed": "Its tools are being read again.",
    AgreedTo => "agreed_to": "What it offers is agreed to.",
    Forgotten => "forgotten": "What was agreed to is forgotten.",
    Reloaded => "reloaded": "The configuration and all modules were read again and are in force.",
    RolledBack => "rolled-back": "The earlier policies are in force again. To make that last, mend the configuration file, or change or remove what is wrong in the store.",
}

impl Done {
    /// What the address of a page says of what was done in this browser.
    pub(super) fn read(console: &Console, cookie: crate::secret::Digest, query: &str) -> Option<&'static str> {
        let sealed = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "done")?.1;
        let word = console.server.secret.unseal(JUST_DONE, cookie.as_bytes(), &sealed)?;
        Self::ALL.iter().find(|done| done.as_str().as_bytes() == word).map(|done| done.text())
    }
}

impl Person {
    /// Who it is for the audit trail.
    pub(super) fn actor(&self) -> Actor {
        self.who().actor()
    }

    /// Who it is for the API.
    pub(super) fn operator(&self) -> Operator {
        let who = self.who();
        Operator(who.actor(), Arc::new(who))
    }

    fn who(&self) -> Who {
        Who::Session { user: Box::new(self.user.clone()), cookie: self.cookie, is_fresh: self.is_fresh }
    }
}

/// The fields of a form of ours, which this person was shown for this address, and which is sent for the first time.
pub(super) struct Sent(pub(super) Fields);

impl<S: Send + Sync> FromRequest<S> for Sent
where
    Arc<Console>: FromRef<S>,
{
    type Rejection = Stop;

    async fn from_request(request: Request, state: &S) -> Result<Self, Stop> {
        let console = Arc::<Console>::from_ref(state);
        let (path, from, headers) = (request.uri().path().to_owned(), address(&request), request.headers().clone());
        let Some(person) = request.extensions().get::<Person>().cloned() else {
            return Err(Problem::not_found("page").into());
        };
        let mut fields = console.read_large_form(request).await.map_err(Stop::Page)?;
        let token = fields.take(csrf::FIELD);
        console.take_token(&person, &path, &token, from).await.map_err(Stop::Page)?;
        if !fields.take(kept::FIELD).is_empty() {
            fields = kept::take(&console, &person, &headers, &path)?;
        }
        Ok(Self(fields))
    }
}

/// What the query string of a page asks for. What is empty is not asked: so browsers send a filter that nobody has filled in.
#[derive(Debug, Default)]
pub(super) struct Asked(BTreeMap<String, String>);

impl Asked {
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// The same for whoever keeps it.
    pub(super) fn take(&self, name: &str) -> Option<String> {
        self.0.get(name).cloned()
    }

    /// The address of this path that asks for the same, but for this, which is put in its place.
    pub(super) fn with(&self, path: &str, name: &str, value: &str) -> String {
        let others = self.0.iter().filter(|(other, _)| *other != name && *other != "done");
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(others).append_pair(name, value);
        format!("{path}?{}", query.finish())
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Asked {
    type Rejection = Stop;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Stop> {
        let mut asked = BTreeMap::new();
        for (name, value) in form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes()) {
            if !value.is_empty() {
                asked.entry(name.into_owned()).or_insert_with(|| value.into_owned());
            }
        }
        Ok(Self(asked))
    }
}
