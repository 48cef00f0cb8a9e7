//! The consent pages: as whom, for what, yes or no (`docs/threat-model.md` rows A8 to A15).
//!
//! A form that comes from elsewhere, twice, or from another browser than the one that brought the request changes nothing.
//! What is shown is in [`super::consent_pages`].

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::response::Response;
use axum::routing::{get, post};
use http::StatusCode;
use http::header::{HeaderMap, USER_AGENT};

use super::authorize::too_often;
use super::connect::{ALL, Back, path_of};
use super::consent_pages::{self as show, Shown};
use super::cookies::Kind;
use super::csrf::{Fields, Form, read_form};
use super::pages::{self, retry_after, see_other, with_cookie};
use super::sign_in::{address, seconds};
use super::{Access, OAuth, Route, csrf};
use crate::authorization::consent::{self, Choice, Finish, Identity, Look, Person, Visit};
use crate::ids::RequestId;
use crate::secret::Plaintext;

/// Which forms these are.
const PURPOSE: &str = "consent";

pub(super) const ROUTES: &[Route] = &[
    Route { methods: "GET", path: "/oauth2/consent/{request}", access: Access::Browser, handler: || get(look) },
    Route {
        methods: "POST",
        path: "/oauth2/consent/{request}/identity",
        access: Access::Browser,
        handler: || post(choose),
    },
    Route { methods: "POST", path: "/oauth2/consent/{request}/back", access: Access::Browser, handler: || post(back) },
    Route {
        methods: "POST",
        path: "/oauth2/consent/{request}/finish",
        access: Access::Browser,
        handler: || post(finish),
    },
    Route {
        methods: "POST",
        path: "/oauth2/consent/{request}/cancel",
        access: Access::Browser,
        handler: || post(cancel),
    },
];

/// A browser that has the secret for a request.
struct Visitor {
    request: RequestId,
    secret: Plaintext,
    person: Option<Person>,
    from: Option<IpAddr>,
    agent: Option<String>,
}

impl Visitor {
    /// Who comes, or the page that says that the request is another browser's: whether there is such a request at all is
    /// not said (row A9).
    async fn of(oauth: &OAuth, id: &str, headers: &HeaderMap, from: Option<IpAddr>) -> Result<Self, Response> {
        let elsewhere = || show::refused(oauth, show::Over::WrongBrowser);
        let request = RequestId::parse(id).ok_or_else(elsewhere)?;
        let secret = oauth.cookies.read_request(headers, &request).ok_or_else(elsewhere)?;
        let session = oauth.cookies.read(headers, Kind::Session);
        let person = oauth.server.signed_in(session.as_ref()).await;
        let person = person.map_err(|fault| oauth.fault(&fault))?;
        let agent = headers.get(USER_AGENT).and_then(|agent| agent.to_str().ok()).map(ToOwned::to_owned);
        Ok(Self { request, secret, person, from, agent })
    }

    fn visit(&self) -> Visit<'_> {
        Visit {
            request: &self.request,
            browser: self.secret.digest(),
            person: self.person.as_ref(),
            remote_ip: self.from,
            user_agent: self.agent.as_deref(),
        }
    }

    fn form(&self) -> Form<'_> {
        Form { purpose: PURPOSE, subject: self.request.as_str(), cookie: self.secret.digest() }
    }

    fn shown(&self, oauth: &OAuth) -> Shown {
        Shown { token: oauth.form_token(&self.form()), problem: None }
    }

    fn page(&self) -> String {
        format!("/oauth2/consent/{}", self.request)
    }
}

/// A form of one of these pages, with its visitor, or the page that says why it does not count (row A10).
async fn form(oauth: &OAuth, id: &str, request: Request) -> Result<(Visitor, Fields), Response> {
    let (headers, from) = (request.headers().clone(), address(&request));
    let fields = read_form(request, oauth.site.origin()).await;
    let mut fields = fields.map_err(|refused| pages::not_ours(&oauth.site, &refused))?;
    let visitor = Visitor::of(oauth, id, &headers, from).await?;
    oauth.take_form(&visitor.form(), &fields.take(csrf::FIELD), from).await?;
    Ok((visitor, fields))
}

async fn look(State(oauth): State<Arc<OAuth>>, Path(id): Path<String>, request: Request) -> Response {
    let visitor = match Visitor::of(&oauth, &id, request.headers(), address(&request)).await {
        Ok(visitor) => visitor,
        Err(page) => return page,
    };
    let look = match consent::look(&oauth.server, visitor.visit()).await {
        Ok(look) => look,
        Err(fault) => return oauth.fault(&fault),
    };
    let look = match oauth.with_connections(look).await {
        Ok(look) => look,
        Err(page) => return page,
    };
    if request.uri().query() == Some(ALL)
        && let Some(next) = to_connect(&look)
    {
        return see_other(&oauth.site.address(&next));
    }
    show::look(&oauth, &look, visitor.shown(&oauth), StatusCode::OK)
}

/// The page of the first service that is to be connected, which leads back here for those behind it. Whoever cannot
/// connect one is led back without the rest.
fn to_connect(look: &Look) -> Option<String> {
    let Look::Services(step) = look else { return None };
    let missing = step.services.iter().find(|service| service.connection.is_missing())?;
    let back = Back::Consent { request: step.asking.request.clone(), all: true };
    Some(path_of(&missing.upstream, Some(&back)))
}

/// The page for where a request stands, with how things stand between its identity and the services.
async fn page_of(oauth: &OAuth, look: Look, with: Shown, status: StatusCode) -> Response {
    match oauth.with_connections(look).await {
        Ok(look) => show::look(oauth, &look, with, status),
        Err(page) => page,
    }
}

async fn choose(State(oauth): State<Arc<OAuth>>, Path(id): Path<String>, request: Request) -> Response {
    let (visitor, mut fields) = match form(&oauth, &id, request).await {
        Ok(sent) => sent,
        Err(page) => return page,
    };
    let identity = match fields.take("identity").as_str() {
        "person" => Identity::Person,
        "key" => Identity::Key(Plaintext::new(fields.take_secret("key").expose().trim())),
        "guest" => Identity::Guest,
        _ => return pages::stale_form(&oauth.site),
    };
    let (status, problem) = match consent::choose(&oauth.server, visitor.visit(), identity).await {
        Ok(Choice::Chosen) => return see_other(&oauth.site.address(&visitor.page())),
        Ok(Choice::Refused(refused)) => return show::refused(&oauth, refused.into()),
        Ok(Choice::TooOften(wait)) => return too_often(&oauth.site, wait),
        Ok(Choice::NotSignedIn) => (StatusCode::BAD_REQUEST, "You are not signed in any more. Sign in first."),
        Ok(Choice::WrongKey) => (
            StatusCode::BAD_REQUEST,
            "This key opens nothing. Check that you have copied all of it, or ask for a new one.",
        ),
        Ok(Choice::NoGuests) => (StatusCode::FORBIDDEN, "Guests are not let in here. Sign in or use a virtual key."),
        Ok(Choice::TooManyGuests) => {
            (StatusCode::SERVICE_UNAVAILABLE, "There are too many guests at the moment. Try again later.")
        }
        Err(fault) => return oauth.fault(&fault),
    };
    match consent::look(&oauth.server, visitor.visit()).await {
        Ok(look) => {
            let shown = Shown { problem: Some(problem), ..visitor.shown(&oauth) };
            let page = page_of(&oauth, look, shown, status).await;
            if status == StatusCode::SERVICE_UNAVAILABLE { retry_after(page, seconds(RETRY)) } else { page }
        }
        Err(fault) => oauth.fault(&fault),
    }
}

/// When a guest may try again for whom there was no room.
const RETRY: std::time::Duration = std::time::Duration::from_secs(60);

async fn back(State(oauth): State<Arc<OAuth>>, Path(id): Path<String>, request: Request) -> Response {
    let (visitor, _) = match form(&oauth, &id, request).await {
        Ok(sent) => sent,
        Err(page) => return page,
    };
    match consent::back(&oauth.server, visitor.visit()).await {
        Ok(Ok(())) => see_other(&oauth.site.address(&visitor.page())),
        Ok(Err(refused)) => show::refused(&oauth, refused.into()),
        Err(fault) => oauth.fault(&fault),
    }
}

async fn finish(State(oauth): State<Arc<OAuth>>, Path(id): Path<String>, request: Request) -> Response {
    let (visitor, mut fields) = match form(&oauth, &id, request).await {
        Ok(sent) => sent,
        Err(page) => return page,
    };
    let (shown, remember) = (fields.take("shown"), fields.take("remember") == "yes");
    match consent::finish(&oauth.server, visitor.visit(), &shown, remember).await {
        Ok(Finish::Done(address)) => over(&oauth, &visitor, &address),
        Ok(Finish::Changed(look)) => {
            let changed = "What you are asked for has changed meanwhile. Look at it again.";
            let problem = matches!(look, Look::Services(_)).then_some(changed);
            let shown = Shown { problem, ..visitor.shown(&oauth) };
            page_of(&oauth, look, shown, StatusCode::CONFLICT).await
        }
        Err(fault) => oauth.fault(&fault),
    }
}

async fn cancel(State(oauth): State<Arc<OAuth>>, Path(id): Path<String>, request: Request) -> Response {
    let (visitor, _) = match form(&oauth, &id, request).await {
        Ok(sent) => sent,
        Err(page) => return page,
    };
    match consent::cancel(&oauth.server, visitor.visit()).await {
        Ok(Ok(Some(address))) => over(&oauth, &visitor, &address),
        Ok(Ok(None)) => show::refused(&oauth, show::Over::Void),
        Ok(Err(refused)) => show::refused(&oauth, refused.into()),
        Err(fault) => oauth.fault(&fault),
    }
}

/// Sends the browser back to the client. What it had for the request is worth nothing any more, and taken away.
fn over(oauth: &OAuth, visitor: &Visitor, address: &str) -> Response {
    with_cookie(see_other(address), oauth.cookies.clear_request(&visitor.request))
}
