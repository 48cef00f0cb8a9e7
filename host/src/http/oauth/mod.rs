//! The authorization server's endpoints and pages.
//!
//! Each file has its own rows of the table of routes; [`routes`] is all of them. A row says who is expected there, which
//! drives the coverage test. Handlers parse, call a verb of `authorization` and encode. Where `auth.mcp` is `keys` there is
//! no authorization server, and everything here is 404 but the pages on which connections are made.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::MethodRouter;

use super::mcp::misdirected;
use crate::authorization::AuthorizationServer;
use crate::store::StoreError;

mod account;
mod authorize;
pub mod connect;
mod consent;
mod consent_pages;
#[cfg(test)]
mod consent_tests;
pub mod cookies;
pub mod counts;
pub mod csrf;
mod device;
#[cfg(test)]
mod document_tests;
pub mod pages;
pub mod provider;
mod register;
pub mod sign_in;
pub(in crate::http) mod words;

use connect::Connections;
use cookies::Cookies;
use counts::Counts;
use csrf::{Checked, Form};
use pages::Site;

mod client;
mod error;
pub mod parameters;
mod sharing;
mod token;
mod wellknown;

pub use wellknown::is_for_everybody;

/// Who is expected at a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Whoever likes. Nothing that is kept from anybody is said there.
    Anyone,
    /// An OAuth client, which the endpoint authenticates as the client has registered.
    Client,
    /// A person's browser: cookies count, and what changes something needs our own origin.
    Browser,
}

/// One row.
pub struct Route {
    /// The methods, separated by `|`.
    pub methods: &'static str,
    pub path: &'static str,
    pub access: Access,
    pub handler: fn() -> MethodRouter<Arc<OAuth>>,
}

impl Route {
    /// Whether a request for this path comes here.
    fn leads_to(&self, path: &str) -> bool {
        let (mut row, mut given) = (self.path.split('/'), path.split('/'));
        let is_it = row.by_ref().all(|part| {
            let given = if part.starts_with("{*") { given.by_ref().last() } else { given.next() };
            given.is_some_and(|given| part.starts_with('{') || part == given)
        });
        is_it && given.next().is_none()
    }
}

/// What the handlers work with.
pub struct OAuth {
    pub server: Arc<AuthorizationServer>,
    pub site: Site,
    pub cookies: Cookies,
    /// Where connections to upstreams are made.
    pub connections: Option<Connections>,
    pub counts: Counts,
}

impl OAuth {
    /// The endpoints and pages of a server.
    pub fn new(server: Arc<AuthorizationServer>) -> Self {
        let (site, cookies) = (Site::new(&server.issuer), Cookies::new(&server.issuer, server.store.deployment()));
        Self { server, site, cookies, connections: None, counts: Counts::default() }
    }

    /// The same with pages on which connections are made.
    #[must_use]
    pub fn with_pages_of(self, connections: Connections) -> Self {
        Self { connections: Some(connections), ..self }
    }

    /// A token for one sending of a form.
    pub fn form_token(&self, form: &Form<'_>) -> String {
        csrf::form_token(&self.server.env, &self.server.secret, form)
    }

    /// Whether a form that was sent is this one, for the first time. It is counted before it is looked at.
    ///
    /// # Errors
    /// The page that says why it is not.
    pub async fn take_form(&self, form: &Form<'_>, token: &str, from: Option<IpAddr>) -> Result<(), Response> {
        self.server.doors.forms.count(from).map_err(|wait| authorize::too_often(&self.site, wait))?;
        let place = (&self.server.env, &self.server.secret, &self.server.store);
        match csrf::check_form(place, form, token).await {
            Ok(Checked::Fresh) => Ok(()),
            Ok(Checked::Used | Checked::Refused) => Err(pages::stale_form(&self.site)),
            Err(error) => Err(self.unavailable(&error)),
        }
    }

    /// The page that says that the store has failed.
    pub fn unavailable(&self, error: &StoreError) -> Response {
        tracing::error!(%error, "the store failed a page");
        pages::unavailable(&self.site)
    }
}

/// All rows.
pub fn routes() -> impl Iterator<Item = &'static Route> {
    let tables: [&[Route]; 11] = [
        token::ROUTES,
        wellknown::ROUTES,
        pages::ROUTES,
        sign_in::ROUTES,
        account::ROUTES,
        authorize::ROUTES,
        consent::ROUTES,
        connect::ROUTES,
        register::ROUTES,
        provider::ROUTES,
        device::ROUTES,
    ];
    tables.into_iter().flatten()
}

/// Who is expected at this path, if it is one of these.
pub fn access(path: &str) -> Option<Access> {
    routes().find(|route| route.leads_to(path)).map(|route| route.access)
}

/// 503 for clients, while it is not known what other gateways have changed in the store.
pub fn out_of_date() -> Response {
    error::OAuthError::OutOfDate.into_response()
}

/// The routes, as long as there is an authorization server.
pub fn router(oauth: Arc<OAuth>) -> Router {
    let rows = routes().fold(Router::new(), |router, route| {
        let handler = (route.handler)();
        let handler = match route.access {
            Access::Browser => handler.layer(middleware::from_fn_with_state(oauth.clone(), at_its_own_address)),
            // Also where the method is another one.
            Access::Anyone | Access::Client => handler.layer(middleware::from_fn(sharing::share)),
        };
        router.route(route.path, handler)
    });
    rows.route_layer(middleware::from_fn_with_state(oauth.clone(), only_where_there_is_one)).with_state(oauth)
}

/// Sends a browser that has come by another name of this machine to the right one: a form that is sent from there would be
/// another site's, and a cookie that is set there would be kept from here.
async fn at_its_own_address(State(oauth): State<Arc<OAuth>>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    match misdirected(&oauth.server.issuer, &parts) {
        None => next.run(Request::from_parts(parts, body)).await,
        Some(right) if parts.method.is_safe() => {
            let query = parts.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
            pages::see_other(&format!("{right}{query}"))
        }
        Some(_) => pages::misdirected(&oauth.site),
    }
}

async fn only_where_there_is_one(State(oauth): State<Arc<OAuth>>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    if !oauth.server.settings().has_server() && !is_for_keys(path) {
        super::nothing_here().await
    } else if is_text(path) {
        next.run(request).await
    } else if access(path) == Some(Access::Browser) {
        pages::not_found(&oauth.site)
    } else {
        super::nothing_here().await
    }
}

/// Whether there is something at this path without an authorization server, too: holders of keys make connections.
fn is_for_keys(path: &str) -> bool {
    path.starts_with(connect::PREFIX) || path.starts_with(pages::ASSETS)
}

/// Whether a path is UTF-8 once its percent-encoding is taken away. Names of ours are, so that no other is anything's.
fn is_text(path: &str) -> bool {
    let mut parts = path.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        match part.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                bytes.extend_from_slice(&part.as_bytes()[2..]);
            }
            None => bytes.extend_from_slice(part.as_bytes()),
        }
    }
    std::str::from_utf8(&bytes).is_ok()
}
