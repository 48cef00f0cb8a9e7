//! The pages of the admin listener: sign-in, the set-up link, and what operators look at in a browser.
//!
//! [`DOORS`] are open to everybody. A row of [`pages`] says the least role of whoever is signed in, and the check for that
//! stands before its handler, which finds the [`Person`] in an extension and the rest at its [`Desk`]. A row that is
//! [`fresh`](Route::fresh) sends those whose sign-in is old to show once more who they are, and their form is [`kept`]. Cookies, forms and
//! pages are those of `http::oauth`, under names and at an address of their own: what signs somebody in at the public listener
//! opens nothing here, and the other way round.
//!
//! A page is a handler, a template and a view struct. What it shows and does are the views and verbs of the API, with the
//! same roles; what is refused there is a page here ([`desk::Stop`]).

use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{MethodRouter, get, post};
use http::header::{ACCEPT, REFERER};
use http::request::Parts;
use http::{HeaderMap, Method, StatusCode};

use super::api::{Api, Problem as Refusal, is_ours as is_of_api};
use super::mcp::misdirected;
use super::oauth::cookies::{Cookies, Kind};
use super::oauth::csrf::{self, Checked, Fields, Form};
use super::oauth::pages::{self, Problem, Site, retry_after, see_other};
use super::oauth::sign_in::Next as Onward;
use super::serve::Peer;
use super::threshold::{Doorkeeper, admit};
use crate::audit::Actor;
use crate::authorization::set_up::NoLink;
use crate::authorization::{AuthorizationServer, Fault};
use crate::identity::browser::{BrowserSession, Surface};
use crate::identity::user::{Role, User};
use crate::secret::{Digest, Plaintext};
use crate::store::StoreError;

mod again;
mod approvals;
mod audit;
mod chart;
mod clients;
mod connections;
mod decisions;
mod desk;
mod fields;
mod grants;
mod kept;
mod keys;
mod known;
mod me;
mod overview;
mod people;
mod policies;
mod set_up;
mod settings;
mod sign_in;
#[cfg(test)]
mod tests;
mod text;
mod upload;
mod upstreams;
mod words;

pub(super) use again::PATH as AGAIN;
use desk::{Desk, Done, Told, Way};

/// One row.
pub struct Route<S> {
    pub method: &'static str,
    pub path: &'static str,
    /// The least role of whoever is signed in; `None` where nobody has to be.
    pub role: Option<Role>,
    /// Whether they have to have shown lately who they are.
    pub wants_fresh: bool,
    handler: fn() -> MethodRouter<S>,
}

/// The pages before those that are for somebody.
pub const DOORS: &[Route<Arc<Console>>] = &[
    opens("GET", sign_in::PATH, || get(sign_in::show)),
    opens("POST", sign_in::PATH, || post(sign_in::submit)),
    opens("GET", sign_in::PROVIDER, || get(sign_in::to_provider)),
    opens("GET", sign_in::CALLBACK, || get(sign_in::from_provider)),
    opens("POST", sign_in::OUT, || post(sign_in::sign_out)),
    opens("GET", set_up::PATH, || get(set_up::show)),
    opens("POST", set_up::PATH, || post(set_up::submit)),
    opens("GET", "/assets/{file}", || get(pages::asset)),
];

/// Row that is open to everybody.
const fn opens<S>(method: &'static str, path: &'static str, handler: fn() -> MethodRouter<S>) -> Route<S> {
    Route { method, path, role: None, wants_fresh: false, handler }
}

/// Row that whoever may look reads.
const fn shows<S>(path: &'static str, handler: fn() -> MethodRouter<S>) -> Route<S> {
    Route { method: "GET", path, role: Some(Role::Viewer), wants_fresh: false, handler }
}

/// Row of a form that operators are shown, before something is done.
const fn asks<S>(path: &'static str, handler: fn() -> MethodRouter<S>) -> Route<S> {
    Route { method: "GET", path, role: Some(Role::Operator), wants_fresh: false, handler }
}

/// Row with which operators do something.
const fn does<S>(path: &'static str, handler: fn() -> MethodRouter<S>) -> Route<S> {
    Route { method: "POST", path, role: Some(Role::Operator), wants_fresh: false, handler }
}

impl<S> Route<S> {
    /// The same row for whoever may look: what they do there is about themselves.
    const fn for_viewers(mut self) -> Self {
        self.role = Some(Role::Viewer);
        self
    }

    /// The same row for those who have shown lately who they are: it shows or makes a secret, says what callers may or
    /// what programs run, or cannot be undone (`docs/threat-model.md` row H10).
    const fn fresh(mut self) -> Self {
        self.wants_fresh = true;
        self
    }

    /// The same row for owners.
    const fn for_owners(mut self) -> Self {
        self.role = Some(Role::Owner);
        self
    }
}

/// The pages for who is signed in, by the part of the console that they belong to.
const PARTS: &[&[Route<Desk>]] = &[
    overview::PAGES,
    upstreams::PAGES,
    keys::PAGES,
    people::PAGES,
    me::PAGES,
    clients::PAGES,
    grants::PAGES,
    connections::PAGES,
    approvals::PAGES,
    policies::PAGES,
    decisions::PAGES,
    audit::PAGES,
    settings::PAGES,
];

/// The pages for who is signed in.
pub fn pages() -> impl Iterator<Item = &'static Route<Desk>> {
    PARTS.iter().copied().flatten()
}

/// Purpose of the token with which our pages ask the API.
const API: &str = "ask the API";

/// What the handlers work with.
pub struct Console {
    server: Arc<AuthorizationServer>,
    site: Site,
    cookies: Cookies,
    /// Where the listener is, as browsers say it.
    url: String,
    /// What people are about to take over from MCP clients.
    pasted: upstreams::importing::Pasted,
    /// What people had filled in whose sign-in was too old for it.
    kept: kept::Kept,
}

/// Who is signed in, in the browser that asks.
#[derive(Clone)]
pub(super) struct Person {
    /// Digest of the cookie.
    cookie: Digest,
    session: BrowserSession,
    user: User,
    /// Whether they have shown lately who they are.
    is_fresh: bool,
    /// What they have just done, if that is how they came to the page.
    done: Option<&'static str>,
}

impl Console {
    /// The pages at `url`: scheme, host and port of the admin listener.
    pub fn new(server: Arc<AuthorizationServer>, url: String) -> Self {
        let cookies = Cookies::for_operators(&url, server.store.deployment());
        let pasted = upstreams::importing::Pasted::default();
        Self { server, site: Site::new(&url), cookies, url, pasted, kept: kept::Kept::default() }
    }

    /// The cookie of whoever may be signed in.
    pub(super) fn cookie(&self, headers: &HeaderMap) -> Option<Plaintext> {
        self.cookies.read(headers, Kind::Session)
    }

    /// Whether a browser says that a page of ours asks.
    pub(super) fn is_ours(&self, headers: &HeaderMap) -> bool {
        csrf::is_ours(headers, self.site.origin())
    }

    /// Whether a browser says nothing against that.
    pub(super) fn may_read(&self, headers: &HeaderMap) -> bool {
        csrf::is_not_foreign(headers, self.site.origin())
    }

    /// The token with which pages in the browser of this cookie ask the API to change something.
    pub(super) fn page_token(&self, cookie: Digest) -> String {
        self.form_token(&Form { purpose: API, subject: "", cookie })
    }

    /// Whether this is one.
    pub(super) fn is_page_token(&self, cookie: Digest, token: &str) -> bool {
        let form = Form { purpose: API, subject: "", cookie };
        csrf::is_token(&self.server.env, &self.server.secret, &form, token)
    }

    /// The address with which the first owner makes their account: a secret. The one before opens nothing any more.
    ///
    /// # Errors
    /// The store's.
    pub async fn set_up_link(&self, actor: Actor) -> Result<Result<Plaintext, NoLink>, StoreError> {
        let token = self.server.offer_set_up(actor).await?;
        Ok(token.map(|token| Plaintext::new(format!("{}{}#{}", self.url, set_up::PATH, token.expose()))))
    }

    /// Who is signed in, in the browser that sent this.
    async fn person(&self, headers: &HeaderMap) -> Result<Option<Person>, Response> {
        let Some(cookie) = self.cookie(headers) else { return Ok(None) };
        let found =
            self.server.signed_in_at(Surface::Admin, Some(&cookie)).await.map_err(|fault| self.fault(&fault))?;
        Ok(found.map(|found| self.known(cookie.digest(), found)))
    }

    /// The same of a second look at one request, which does not count as use.
    async fn person_still(&self, headers: &HeaderMap) -> Result<Option<Person>, Response> {
        let Some(cookie) = self.cookie(headers) else { return Ok(None) };
        let found = self.server.glance(Surface::Admin, Some(&cookie)).await.map_err(|fault| self.fault(&fault))?;
        Ok(found.map(|found| self.known(cookie.digest(), found)))
    }

    fn known(&self, cookie: Digest, (session, user): (BrowserSession, User)) -> Person {
        let is_fresh = self.server.is_fresh(&session);
        Person { cookie, session, user, is_fresh, done: None }
    }

    fn form_token(&self, form: &Form<'_>) -> String {
        csrf::form_token(&self.server.env, &self.server.secret, form)
    }

    async fn read_form(&self, request: Request) -> Result<Fields, Response> {
        csrf::read_form(request, self.site.origin()).await.map_err(|refused| pages::not_ours(&self.site, &refused))
    }

    /// The same of a form that somebody sends who is signed in.
    async fn read_large_form(&self, request: Request) -> Result<Fields, Response> {
        let read = csrf::read_large_form(request, self.site.origin()).await;
        read.map_err(|refused| pages::not_ours(&self.site, &refused))
    }

    /// Whether a form that was sent is this one, for the first time. It is counted before it is looked at.
    async fn take_form(&self, form: &Form<'_>, token: &str, from: Option<IpAddr>) -> Result<(), Response> {
        self.server.doors.forms.count(from).map_err(|wait| {
            let problem = Problem {
                site: &self.site,
                title: "Too many tries",
                what: "Many forms came from your network within a short time. This one did nothing.",
                advice: "Wait a minute, load the page again and send its form once more.",
                link: None,
            };
            retry_after(problem.answer(StatusCode::TOO_MANY_REQUESTS), wait.as_secs().saturating_add(1))
        })?;
        let place = (&self.server.env, &self.server.secret, &self.server.store);
        match csrf::check_form(place, form, token).await {
            Ok(Checked::Fresh) => Ok(()),
            Ok(Checked::Used | Checked::Refused) => Err(pages::stale_form(&self.site)),
            Err(error) => Err(self.unavailable(&error)),
        }
    }

    fn fault(&self, fault: &Fault) -> Response {
        tracing::error!(error = %fault, "a fault failed a page of the admin listener");
        pages::unavailable(&self.site)
    }

    fn unavailable(&self, error: &StoreError) -> Response {
        tracing::error!(%error, "the store failed a page of the admin listener");
        pages::unavailable(&self.site)
    }

    /// The page for somebody who is signed in and may not do this. Who may look has the ways on to all that they may see.
    fn not_admitted(&self, person: &Person, least: Role, request: &Parts) -> Response {
        let detail = match least {
            Role::User | Role::Viewer => return pages::not_an_operator(&self.site),
            Role::Operator => {
                "Your role shows you how things are, and changes nothing. This takes the role operator or owner."
            }
            Role::Owner => "This takes the role owner.",
        };
        let refusal = Refusal::new(StatusCode::FORBIDDEN, "forbidden", detail);
        Told::from(refusal).page(self, person, &Way::of(self, request))
    }
}

/// The address that this comes from, if it has one.
fn address(request: &Request) -> Option<IpAddr> {
    request.extensions().get::<Peer>().and_then(|peer| peer.ip())
}

/// All of it: the doors, and the pages behind them.
pub fn router(console: &Arc<Console>, api: Arc<Api>) -> Router {
    let desk = Desk { console: console.clone(), api };
    doors(console).merge(mounted(pages(), console, desk))
}

/// What stands at all paths where there is nothing: a page for browsers, and what programs are told otherwise.
pub fn elsewhere(console: &Arc<Console>) -> Router {
    Router::new().fallback(nothing_here).with_state(console.clone())
}

async fn nothing_here(State(console): State<Arc<Console>>, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    let accepts = parts.headers.get(ACCEPT).and_then(|accept| accept.to_str().ok());
    if is_of_api(parts.uri.path()) || !accepts.is_some_and(|accept| accept.contains("text/html")) {
        return super::nothing_here().await;
    }
    match console.person_still(&parts.headers).await {
        Ok(Some(person)) if person.user.role >= Role::Viewer => {
            let refusal = Refusal::new(StatusCode::NOT_FOUND, "not_found", "there is nothing at this address");
            Told::from(refusal).page(&console, &person, &Way::of(&console, &parts))
        }
        Ok(_) => {
            let problem = Problem {
                site: &console.site,
                title: "Not found",
                what: "There is nothing at this address.",
                advice: "Look whether the address is right, or begin at the overview.",
                link: Some(("/", "Overview")),
            };
            problem.answer(StatusCode::NOT_FOUND)
        }
        Err(unavailable) => unavailable,
    }
}

/// What is open to everybody, and where those show who they are who are in already.
fn doors(console: &Arc<Console>) -> Router {
    mounted(DOORS.iter().chain(again::PAGES), console, console.clone())
}

/// The rows of a table, each behind the check that it asks for.
fn mounted<S: Clone + Send + Sync + 'static>(
    routes: impl Iterator<Item = &'static Route<S>>,
    console: &Arc<Console>,
    state: S,
) -> Router {
    let rows = routes.fold(Router::new(), |router, route| {
        let handler = (route.handler)();
        let Some(role) = route.role else { return router.route(route.path, handler) };
        let post = Post { console: console.clone(), role, wants_fresh: route.wants_fresh };
        router.route(route.path, handler.layer(middleware::from_fn_with_state(post, at_the_door)))
    });
    rows.route_layer(middleware::from_fn_with_state(console.clone(), at_its_own_address)).with_state(state)
}

/// What stands at a row: who may pass.
#[derive(Clone)]
struct Post {
    console: Arc<Console>,
    role: Role,
    wants_fresh: bool,
}

/// Lets those pass who are signed in with the role that a row wants.
async fn at_the_door(State(post): State<Post>, request: Request, next: Next) -> Response {
    let request = match post.keep_from_old(request).await {
        Ok(request) => request,
        Err(answered) => return answered,
    };
    let (parts, body) = request.into_parts();
    let way = Way::of(&post.console, &parts);
    let request = Request::from_parts(parts, body);
    let (person, mut response) = match admit(&post, request, next).await {
        Ok(answered) => answered,
        Err(refused) => return refused,
    };
    match response.extensions_mut().remove::<Told>() {
        Some(told) => told.page(&post.console, &person, &way),
        None => response,
    }
}

impl Post {
    /// Keeps the form of somebody whose sign-in is too old for it, for when they have shown who they are. Whatever else comes
    /// is for the door to judge.
    async fn keep_from_old(&self, request: Request) -> Result<Request, Response> {
        let Self { console, role, wants_fresh } = self;
        let headers = request.headers();
        if !*wants_fresh || request.method() != Method::POST || !csrf::is_form(headers) || !console.is_ours(headers) {
            return Ok(request);
        }
        match console.person_still(headers).await? {
            Some(person) if person.user.role >= *role && !person.is_fresh => {
                Err(kept::keep(console, &person, request).await.unwrap_or_else(|refused| refused))
            }
            _ => Ok(request),
        }
    }
}

impl Doorkeeper for Post {
    type Person = Person;

    /// Another role, or another password, ends the session: there is nothing to compare with who it was before.
    async fn judge(&self, request: &Parts, before: Option<&Person>) -> Result<Person, Response> {
        let Self { console, role, wants_fresh } = self;
        let person = match before {
            None => console.person(&request.headers).await?,
            Some(_) => console.person_still(&request.headers).await?,
        };
        match person {
            None => Err(console.to_sign_in(request)),
            Some(person) if person.user.role < *role => Err(console.not_admitted(&person, *role, request)),
            Some(person) if *wants_fresh && !person.is_fresh => Err(console.go_by(AGAIN, console.page_before(request))),
            Some(mut person) => {
                person.done = Done::read(console, person.cookie, request.uri.query().unwrap_or_default());
                Ok(person)
            }
        }
    }
}

impl Console {
    /// Sends somebody to a page that leads on to another one.
    fn go_by(&self, path: &str, onward: Option<Onward>) -> Response {
        let query = onward.map(|onward| format!("?next={}", onward.encoded())).unwrap_or_default();
        see_other(&self.site.address(&format!("{path}{query}")))
    }

    /// Sends somebody to sign in, and on to where they were. Who had sent a form is told there that it did nothing.
    fn to_sign_in(&self, request: &Parts) -> Response {
        let mut query = form_urlencoded::Serializer::new(String::new());
        let is_form = !request.method.is_safe();
        let onward = if is_form { self.page_before(request) } else { self.path_of(request) };
        if let Some(onward) = onward {
            query.append_pair("next", onward.as_str());
        }
        if is_form {
            query.append_pair(sign_in::FORM, sign_in::LOST);
        }
        let query = query.finish();
        let joint = if query.is_empty() { "" } else { "?" };
        see_other(&self.site.address(&format!("{}{joint}{query}", sign_in::PATH)))
    }

    /// Where a request wants to go, if that is a page.
    fn path_of(&self, request: &Parts) -> Option<Onward> {
        let here = request.uri.path_and_query().filter(|_| request.method.is_safe())?;
        Onward::of_console(here.as_str())
    }

    /// The same, and of a form the page of ours on which it stands.
    fn page_before(&self, request: &Parts) -> Option<Onward> {
        self.path_of(request).or_else(|| {
            let page = request.headers.get(REFERER)?.to_str().ok()?;
            // What answered a form before may be at an address that shows nothing by itself.
            let page = page.strip_prefix(self.site.url()).filter(|page| is_shown(page))?;
            Onward::of_console(page)
        })
    }
}

/// Whether this address is one of a page for who is signed in.
fn is_shown(address: &str) -> bool {
    let path = address.split('?').next().unwrap_or_default();
    let is_of = |pattern: &str| {
        let (mut words, mut parts) = (path.split('/'), pattern.split('/'));
        let same = parts
            .by_ref()
            .all(|part| words.next().is_some_and(|word| part == word || (part.starts_with('{') && !word.is_empty())));
        same && words.next().is_none()
    };
    pages().any(|row| row.method == "GET" && is_of(row.path))
}

/// Sends a browser that has come by another name of this machine to the right one, as the public listener does.
async fn at_its_own_address(State(console): State<Arc<Console>>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    match misdirected(&console.url, &parts) {
        None => next.run(Request::from_parts(parts, body)).await,
        Some(right) if parts.method.is_safe() => {
            let query = parts.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
            see_other(&format!("{right}{query}"))
        }
        Some(_) => {
            let problem = Problem {
                site: &console.site,
                title: "This is not the right address",
                what: "The admin listener goes by another name of this machine. Nothing was done.",
                advice: "Begin again at the right address: the link below leads there.",
                link: Some(("/", "Go on at the right address")),
            };
            problem.answer(StatusCode::MISDIRECTED_REQUEST)
        }
    }
}
