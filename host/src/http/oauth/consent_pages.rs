//! What the consent pages show.
//!
//! Whatever a client says of itself is a stranger's word: it is shown as one line, escaped and bounded, beside what cannot be
//! made up, which is where its answer goes (`docs/threat-model.md` rows A12 and A13).

use askama::Template;
use axum::response::Response;
use http::StatusCode;

use super::OAuth;
use super::pages::{Problem, Site, moment, page};
use super::words::shown;
use crate::authorization::consent::{Asking, Connection, IdentityStep, Look, Notice, Service, ServicesStep, Stop, Why};
use crate::config::auth::ScopeWords;
use crate::oauth::client::{ClientOrigin, KnownClient};
use crate::oauth::metadata::resource;
use crate::pipeline::approvals::Standing;
use crate::store::authorizations::Refused;

/// Most characters of a client's name.
const MAX_NAME: usize = 100;
/// Most characters of an id, an address or a host.
const MAX_ID: usize = 512;
/// Most characters of a policy's headline or of an approval's title.
pub(super) const MAX_HEADLINE: usize = 256;
/// Most characters of what else a policy says.
pub(super) const MAX_MESSAGE: usize = 1024;

/// What every page has.
pub(super) struct Shown {
    /// For one sending of one of its forms.
    pub(super) token: String,
    pub(super) problem: Option<&'static str>,
}

/// Why a request is over for this browser.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    WrongBrowser,
    NotFound,
    Expired,
    Void,
}

impl From<Refused> for Over {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::NotFound => Self::NotFound,
            Refused::WrongBrowser => Self::WrongBrowser,
            Refused::Expired => Self::Expired,
        }
    }
}

/// Who asks, for people.
struct Client {
    name: String,
    is_verified: bool,
    id: String,
    /// Who vouches for the id, if anybody can.
    id_host: Option<String>,
    /// Where the answer goes.
    destination: String,
    is_application: bool,
    is_on_own_machine: bool,
    resources: Vec<String>,
    scopes: Vec<ScopeWords>,
    /// Where the forms of the page are sent.
    path: String,
}

/// What people are told that a client is called.
pub(super) fn name_of(client: &KnownClient) -> String {
    let name = shown(client.metadata.name.as_deref().unwrap_or_default(), MAX_NAME);
    if name.is_empty() { "An application without a name".to_owned() } else { name }
}

impl Client {
    fn of(asking: &Asking) -> Self {
        let Asking { request, client, destination, resources, scopes } = asking;
        let name = name_of(client);
        let id = client.id.as_str();
        let host = id.strip_prefix("https://").and_then(|rest| rest.split(['/', '?', '#']).next());
        let id_host = host.filter(|_| client.origin == ClientOrigin::Document);
        let is_application = destination.shown.ends_with(':');
        Self {
            name,
            is_verified: client.is_verified(),
            id: shown(id, MAX_ID),
            id_host: id_host.map(|host| shown(host, MAX_ID)),
            destination: shown(&destination.shown, MAX_ID),
            is_application,
            is_on_own_machine: destination.is_on_own_machine && !is_application,
            resources: resources.iter().map(|resource| shown(resource, MAX_ID)).collect(),
            scopes: scopes.clone(),
            path: format!("/oauth2/consent/{request}"),
        }
    }
}

#[derive(Template)]
#[template(path = "consent_identity.html")]
struct IdentityPage<'a> {
    site: &'a Site,
    client: Client,
    token: String,
    problem: Option<&'static str>,
    notice: Option<&'static str>,
    person: Option<String>,
    /// The person has to show again who they are.
    again: bool,
    guests: bool,
}

#[derive(Template)]
#[template(path = "consent_services.html")]
struct ServicesPage<'a> {
    site: &'a Site,
    client: Client,
    token: String,
    problem: Option<&'static str>,
    name: String,
    services: &'a [Service],
    /// Whether something is to be connected.
    is_any_missing: bool,
    /// Whether it asks for the endpoint of all services, and so for those that are added later.
    is_for_all: bool,
    headline: Option<String>,
    warnings: Vec<String>,
    is_narrowed: bool,
    may_remember: bool,
    shown: String,
}

#[derive(Template)]
#[template(path = "consent_stopped.html")]
struct StoppedPage<'a> {
    site: &'a Site,
    client: Client,
    token: String,
    name: String,
    message: Option<String>,
    /// Whether it goes on once the person has signed in again.
    step_up: bool,
    is_person: bool,
}

#[derive(Template)]
#[template(path = "approval_wanted.html")]
struct ApprovalPage<'a> {
    site: &'a Site,
    client: Client,
    token: String,
    name: String,
    title: String,
    message: String,
    /// The approval, until when it waits or is refused, and whether it is refused.
    approval: Option<(String, String)>,
    is_refused: bool,
    note: Option<String>,
}

/// The page for where a request stands.
pub(super) fn look(oauth: &OAuth, look: &Look, with: Shown, status: StatusCode) -> Response {
    match look {
        Look::Identity(step) => identity(oauth, step, with, status),
        Look::Services(step) => services(oauth, step, with, status),
        Look::Stopped(stop) => stopped(oauth, stop, with),
        Look::Refused(refused) => self::refused(oauth, (*refused).into()),
        Look::Void => self::refused(oauth, Over::Void),
    }
}

fn identity(oauth: &OAuth, step: &IdentityStep, with: Shown, status: StatusCode) -> Response {
    let IdentityStep { asking, person, guests, notice } = step;
    let Shown { token, problem } = with;
    let notice = notice.map(|notice| match notice {
        Notice::PersonChanged => "Who is signed in has changed. Choose again as whom to go on.",
        Notice::IdentityGone => "The identity that you chose opens nothing any more. Choose another one.",
        Notice::SignInAgain => "The application wants you to sign in again before you go on.",
    });
    let template = IdentityPage {
        site: &oauth.site,
        client: Client::of(asking),
        token,
        problem,
        notice,
        person: person.as_ref().map(|person| shown(&person.name, MAX_NAME)),
        again: person.as_ref().is_some_and(|person| !person.is_recent),
        guests: *guests,
    };
    page(status, template, &[&asking.destination.form_action()])
}

fn services(oauth: &OAuth, step: &ServicesStep, with: Shown, status: StatusCode) -> Response {
    let Shown { token, problem } = with;
    let template = ServicesPage {
        site: &oauth.site,
        client: Client::of(&step.asking),
        token,
        problem,
        name: shown(&step.name, MAX_NAME),
        services: &step.services,
        is_any_missing: step.services.iter().any(|service| service.connection.is_missing()),
        is_for_all: step.asking.resources.contains(&resource(&oauth.server.issuer, None)),
        headline: step.headline.as_deref().map(|headline| shown(headline, MAX_HEADLINE)),
        warnings: step.warnings.iter().map(|warning| shown(warning, MAX_MESSAGE)).collect(),
        is_narrowed: step.is_narrowed,
        may_remember: step.may_remember,
        shown: step.shown.to_hex(),
    };
    page(status, template, &[&step.asking.destination.form_action()])
}

fn stopped(oauth: &OAuth, stop: &Stop, with: Shown) -> Response {
    let Stop { asking, name, is_person, why } = stop;
    let (site, client, token) = (&oauth.site, Client::of(asking), with.token);
    let (name, form_action) = (shown(name, MAX_NAME), asking.destination.form_action());
    let (message, step_up) = match why {
        Why::Denied { message } => (message.clone(), false),
        Why::StepUp { message } => (Some(message.clone()), true),
        Why::Unapproved { title, message, standing } => {
            let (title, message) = (shown(title, MAX_HEADLINE), shown(message, MAX_MESSAGE));
            let told = |id: &crate::ids::ApprovalId, until| Some((id.to_string(), moment(until)));
            let (approval, is_refused, note) = match standing {
                Standing::Pending { id, until } => (told(id, *until), false, None),
                Standing::Denied { id, until, note } => (told(id, *until), true, note.clone()),
                Standing::TooMany => (None, false, None),
            };
            let note = note.map(|note| shown(&note, MAX_MESSAGE));
            let template = ApprovalPage { site, client, token, name, title, message, approval, is_refused, note };
            return page(StatusCode::FORBIDDEN, template, &[&form_action]);
        }
    };
    let message = message.map(|message| shown(&message, MAX_MESSAGE));
    let template = StoppedPage { site, client, token, name, message, step_up, is_person: *is_person };
    page(StatusCode::FORBIDDEN, template, &[&form_action])
}

/// The page for a request that is over, or another browser's.
pub(super) fn refused(oauth: &OAuth, over: Over) -> Response {
    let (status, title, what) = match over {
        Over::WrongBrowser => (
            StatusCode::BAD_REQUEST,
            "This request is over, or not yours",
            "It was answered already, it was begun in another browser, or this browser did not keep its cookie. Nothing was \
             done now.",
        ),
        Over::NotFound => (
            StatusCode::NOT_FOUND,
            "This request is over",
            "It was answered already, in this tab or in another one, or it took too long.",
        ),
        Over::Expired => (StatusCode::GONE, "This request is too old", "It took too long. Nothing was done."),
        Over::Void => (
            StatusCode::BAD_REQUEST,
            "This application is gone",
            "The application that asked is not known here any more, or is not to be answered where it wanted to be.",
        ),
    };
    let advice = "Go back to the application and connect again. If somebody sent you a link to this page, close it.";
    Problem { site: &oauth.site, title, what, advice, link: None }.answer(status)
}
