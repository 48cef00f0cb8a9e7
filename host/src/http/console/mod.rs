//! The pages of the admin listener: sign-in, the set-up link, and what operators look at in a browser.
//!
//! [`DOORS`] are open to everybody. A row of [`pages`] says the least role of whoever is signed in, and the check for that
//! stands before its handler, which finds the [`Person`] in an extension and the rest at its [`Desk`]. Cookies, forms and
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
use http::{HeaderMap, StatusCode};

use super::api::Api;
use super::mcp::misdirected;
use super::oauth::cookies::{Cookies, Kind};
use super::oauth::csrf::{self, Checked, Fields, Form};
use super::oauth::pages::{self, Problem, Site, retry_after, see_other};
use super::oauth::sign_in::Next as Onward;
use super::serve::Peer;
use crate::audit::Actor;
use crate::authorization::set_up::NoLink;
use crate::authorization::{AuthorizationServer, Fault};
use crate::identity::browser::{BrowserSession, Surface};
use crate::identity::user::{Role, User};
use crate::secret::{Digest, Plaintext};
use crate::store::StoreError;

mod desk;
mod home;
mod policies;
mod set_up;
mod sign_in;
#[cfg(test)]
mod tests;
mod upload;

use desk::{Desk, Done, Told};

/// One row.
pub struct Route<S> {
    pub method: &'static str,
    pub path: &'static str,
    /// The least role of whoever is signed in; `None` where nobody has to be.
    pub role: Option<Role>,
    handler: fn() -> MethodRouter<S>,
}

/// The pages before those that are for somebody.
pub const DOORS: &[Route<Arc<Console>>] = &[
    Route { method: "GET", path: sign_in::PATH, role: None, handler: || get(sign_in::show) },
    Route { method: "POST", path: sign_in::PATH, role: None, handler: || post(sign_in::submit) },
    Route { method: "POST", path: sign_in::OUT, role: None, handler: || post(sign_in::sign_out) },
    Route { method: "GET", path: set_up::PATH, role: None, handler: || get(set_up::show) },
    Route { method: "POST", path: set_up::PATH, role: None, handler: || post(set_up::submit) },
    Route { method: "GET", path: "/assets/{file}", role: None, handler: || get(pages::asset) },
];

/// Row that whoever may look reads.
const fn shows(path: &'static str, handler: fn() -> MethodRouter<Desk>) -> Route<Desk> {
    Route { method: "GET", path, role: Some(Role::Viewer), handler }
}

/// Row of a form that operators are shown, before something is done.
const fn asks(path: &'static str, handler: fn() -> MethodRouter<Desk>) -> Route<Desk> {
    Route { method: "GET", path, role: Some(Role::Operator), handler }
}

/// Row with which operators do something.
const fn does(path: &'static str, handler: fn() -> MethodRouter<Desk>) -> Route<Desk> {
    Route { method: "POST", path, role: Some(Role::Operator), handler }
}

impl<S> Route<S> {
    /// The same row for owners.
    const fn for_owners(mut self) -> Self {
        self.role = Some(Role::Owner);
        self
    }
}

/// The pages for who is signed in, by the part of the console that they belong to.
const PARTS: &[&[Route<Desk>]] = &[home::PAGES, policies::PAGES];

/// The pages for who is signed in.
pub fn pages() -> impl Iterator<Item = &'static Route<Desk>> {
    PARTS.iter().copied().flatten()
}

/// Purpose of the token with which our pages ask the API.
const API: &str = "ask the API";

/// Largest form of who is signed in, in bytes: policies have long configurations.
const MAX_LONG_FORM: usize = 1 << 20;

/// What the handlers work with.
pub struct Console {
    server: Arc<AuthorizationServer>,
    site: Site,
    cookies: Cookies,
    /// Where the listener is, as browsers say it.
    url: String,
}

/// Who is signed in, in the browser that asks.
#[derive(Clone)]
pub(super) struct Person {
    /// Digest of the cookie.
    cookie: Digest,
    session: BrowserSession,
    user: User,
    /// What they have just done, if that is how they came to the page.
    done: Option<&'static str>,
}

impl Console {
    /// The pages at `url`: scheme, host and port of the admin listener.
    pub fn new(server: Arc<AuthorizationServer>, url: String) -> Self {
        let cookies = Cookies::for_operators(&url, server.store.deployment());
        Self { server, site: Site::new(&url), cookies, url }
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
        Ok(found.map(|(session, user)| Person { cookie: cookie.digest(), session, user, done: None }))
    }

    fn form_token(&self, form: &Form<'_>) -> String {
        csrf::form_token(&self.server.env, &self.server.secret, form)
    }

    async fn read_form(&self, request: Request) -> Result<Fields, Response> {
        csrf::read_form(request, self.site.origin()).await.map_err(|refused| pages::not_ours(&self.site, &refused))
    }

    /// The same of a form with long texts, for who is signed in.
    async fn read_long_form(&self, request: Request) -> Result<Fields, Response> {
        let read = csrf::read_form_within(request, self.site.origin(), MAX_LONG_FORM).await;
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

    /// The page for somebody who is signed in, or wants to be, and may not do this.
    fn not_admitted(&self, least: Role) -> Response {
        let what = match least {
            Role::User | Role::Viewer => {
                "Your account does not look after this gateway. Its role would have to be viewer, operator or owner."
            }
            Role::Operator => {
                "Your role shows you how things are, and changes nothing. This takes the role operator or owner."
            }
            Role::Owner => "This takes the role owner.",
        };
        let problem = Problem {
            site: &self.site,
            title: "This is not for your account",
            what,
            advice: "If it should be, ask an owner of the gateway to give you another role.",
            link: None,
        };
        problem.answer(StatusCode::FORBIDDEN)
    }
}

/// The address that this comes from, if it has one.
fn address(request: &Request) -> Option<IpAddr> {
    request.extensions().get::<Peer>().and_then(|peer| peer.ip())
}

/// All of it: the doors, and the pages behind them.
pub fn router(console: Arc<Console>, api: Arc<Api>) -> Router {
    let desk = Desk { console: console.clone(), api };
    doors(console.clone()).merge(mounted(pages(), &console, desk))
}

/// What is open to everybody.
fn doors(console: Arc<Console>) -> Router {
    mounted(DOORS.iter(), &console, console.clone())
}

/// The rows of a table, each behind the check that it asks for.
fn mounted<S: Clone + Send + Sync + 'static>(
    routes: impl Iterator<Item = &'static Route<S>>,
    console: &Arc<Console>,
    state: S,
) -> Router {
    let rows = routes.fold(Router::new(), |router, route| {
        let check = middleware::from_fn_with_state((console.clone(), route.role), at_the_door);
        router.route(route.path, (route.handler)().layer(check))
    });
    rows.route_layer(middleware::from_fn_with_state(console.clone(), at_its_own_address)).with_state(state)
}

/// Lets those pass who are signed in with the role that a row wants, and sends others to sign in first.
async fn at_the_door(
    State((console, role)): State<(Arc<Console>, Option<Role>)>,
    mut request: Request,
    next: Next,
) -> Response {
    let Some(role) = role else { return next.run(request).await };
    match console.person(request.headers()).await {
        Err(response) => response,
        Ok(None) => {
            let here = request.uri().path_and_query().filter(|_| request.method().is_safe());
            let here = here.and_then(|here| Onward::parse(here.as_str()));
            let query = here.map(|here| format!("?next={}", here.encoded())).unwrap_or_default();
            see_other(&console.site.address(&format!("{}{query}", sign_in::PATH)))
        }
        Ok(Some(person)) if person.user.role < role => console.not_admitted(role),
        Ok(Some(mut person)) => {
            person.done = Done::read(&console, person.cookie, request.uri().query().unwrap_or_default());
            request.extensions_mut().insert(person.clone());
            let mut response = next.run(request).await;
            match response.extensions_mut().remove::<Told>() {
                Some(told) => told.page(&console, &person),
                None => response,
            }
        }
    }
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
