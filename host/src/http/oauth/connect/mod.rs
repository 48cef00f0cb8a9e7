//! `/connect/…`: where people make connections to upstreams.
//!
//! A connection is made for whoever the browser can show to be: the identity that was chosen in the consent request that
//! it brought, whoever a link that it opened is for, or the person who is signed in. None of that comes from a query: `next`
//! says which of them is meant, and is one of a few paths of ours. What an authorization server says of an error is never
//! shown (`docs/threat-model.md` rows U2 to U4).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use axum::response::Response;
use axum::routing::get;
use futures_util::future::BoxFuture;
use http::{HeaderMap, StatusCode};
use serde_json::Value;

use super::authorize::too_often;
use super::consent_pages::{self, Over};
use super::cookies::Kind as Cookie;
use super::csrf::{FORM_LIFE, Form};
use super::pages::{self, Problem, see_other, with_cookie};
use super::sign_in::{Next, address};
use super::{Access, OAuth, Route};
use crate::audit::Actor;
use crate::authorization::consent::{self, Connection, Look, Person, Visit};
use crate::authorization::mint::{self, mint};
use crate::connection::{self, Holder, Place};
use crate::connections::connecting::{Connecting, Fault, Stand};
use crate::ids::{Principal, RequestId, UpstreamName, UserId};
use crate::oauth::request::MAX_CONSENT_LIFE;
use crate::secret::Plaintext;
use crate::store::StoreError;
use crate::store::connections::Disconnection;
use crate::store::links::{self, OpenLink};

mod callback;
mod link;
mod show;
#[cfg(test)]
mod tests;

pub(super) const ROUTES: &[Route] = &[
    // Before the row of all upstreams, which these are none of.
    Route {
        methods: "GET|POST",
        path: "/connect/link",
        access: Access::Browser,
        handler: || get(link::show).post(link::open),
    },
    Route {
        methods: "GET",
        path: "/connect/link/{sealed}",
        access: Access::Browser,
        handler: || get(link::open_of_person),
    },
    Route {
        methods: "GET",
        path: "/connect/callback/{context}",
        access: Access::Browser,
        handler: || get(callback::answer),
    },
    Route {
        methods: "GET",
        path: "/connect/client/{context}",
        access: Access::Anyone,
        handler: || get(callback::client),
    },
    Route {
        methods: "GET|POST",
        path: "/connect/{upstream}",
        access: Access::Browser,
        handler: || get(show::show).post(show::submit),
    },
];

/// What the paths of these pages begin with.
pub(super) const PREFIX: &str = "/connect/";
/// Purpose of the forms that begin and that submit.
const CONNECT: &str = "connect";
/// How long a browser is known here: as long as a consent may take.
const COOKIE_LIFE: Duration = MAX_CONSENT_LIFE;

/// Ends a connection for its holder.
pub type Disconnect = Arc<dyn Fn(Place, Actor) -> BoxFuture<'static, Result<Disconnection, StoreError>> + Send + Sync>;
/// Our client's metadata document for a context, as long as there is one to be read.
pub type ClientDocument = Arc<dyn Fn(&str) -> Option<Value> + Send + Sync>;

/// What these pages work with besides the authorization server.
pub struct Connections {
    pub connecting: Arc<Connecting>,
    pub disconnect: Disconnect,
    pub document: ClientDocument,
}

/// Where a browser goes on to when a connection is made, and with that for whom it is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Back {
    /// The page of a consent request. `all`: there are others to be connected before it.
    Consent {
        request: RequestId,
        all: bool,
    },
    Account,
    /// The page itself, for whoever this link is for, that the browser has opened.
    Link(String),
}

/// Query of a consent page that leads to what is to be connected next.
pub(super) const ALL: &str = "connect=all";
const CONSENT: &str = "/oauth2/consent/";
const ACCOUNT: &str = "/account";
const LINK: &str = "link:";
/// Digits of the id of a link.
const LINK_LEN: usize = 32;

impl Back {
    /// What [`Self::text`] is of.
    pub(super) fn parse(text: &str) -> Option<Self> {
        if text == ACCOUNT {
            return Some(Self::Account);
        }
        if let Some(id) = text.strip_prefix(LINK) {
            let is_id = id.len() == LINK_LEN && id.bytes().all(|byte| byte.is_ascii_hexdigit());
            return is_id.then(|| Self::Link(id.to_owned()));
        }
        let rest = text.strip_prefix(CONSENT)?;
        let (request, all) = match rest.split_once('?') {
            None => (rest, false),
            Some((request, ALL)) => (request, true),
            Some(_) => return None,
        };
        Some(Self::Consent { request: RequestId::parse(request)?, all })
    }

    /// What stands for it in a query, a form and a `state`.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Link(id) => format!("{LINK}{id}"),
            Self::Account | Self::Consent { .. } => self.path().unwrap_or_default(),
        }
    }

    /// The path to go on to, unless it is the page itself.
    pub(super) fn path(&self) -> Option<String> {
        match self {
            Self::Account => Some(ACCOUNT.to_owned()),
            Self::Consent { request, all: false } => Some(format!("{CONSENT}{request}")),
            Self::Consent { request, all: true } => Some(format!("{CONSENT}{request}?{ALL}")),
            Self::Link(_) => None,
        }
    }
}

/// The path of the page of an upstream.
pub(super) fn path_of(upstream: &UpstreamName, back: Option<&Back>) -> String {
    let next = back.map(|back| form_urlencoded::byte_serialize(back.text().as_bytes()).collect::<String>());
    let next = next.map(|next| format!("?next={next}")).unwrap_or_default();
    format!("{PREFIX}{upstream}{next}")
}

/// A browser at the page of an upstream, with whoever it acts for.
struct Visitor {
    /// What the browser is known by on these pages.
    browser: Plaintext,
    place: Place,
    /// For people.
    who: String,
    /// The link that has led here.
    link: Option<OpenLink>,
    back: Option<Back>,
}

/// Whom a browser can act for.
struct Acting {
    principal: Principal,
    link: Option<OpenLink>,
}

impl Visitor {
    /// Who comes to the page of an upstream, or the page that says what is missing.
    async fn of(
        oauth: &OAuth,
        upstream: UpstreamName,
        headers: &HeaderMap,
        back: Option<Back>,
    ) -> Result<Self, Response> {
        let person = person_of(oauth, headers).await?;
        let browser = browser_of(oauth, headers);
        let acting = match &back {
            Some(Back::Consent { request, .. }) => consenting(oauth, request, headers, person.as_ref()).await?,
            Some(Back::Account) => signed_in(person.as_ref()),
            Some(Back::Link(id)) => by_link(oauth, &browser, &upstream, (Some(id), person.as_ref())).await?,
            // Nobody who is signed in acts for another because of a link that they opened once.
            None if person.is_some() => signed_in(person.as_ref()),
            None => by_link(oauth, &browser, &upstream, (None, None)).await?,
        };
        let Some(Acting { principal, link }) = acting else {
            // Signing in again would lead whoever has done so back here.
            return Err(match &person {
                Some(_) => needs_link(oauth),
                None => nobody(oauth, &path_of(&upstream, back.as_ref())),
            });
        };
        let who = match (&principal, &person) {
            (Principal::User(_), Some((_, user))) => consent::name_of(user),
            (Principal::Key(key), _) => format!("the virtual key {key}"),
            (Principal::Guest(_), _) => "a guest".to_owned(),
            (Principal::Gateway, _) => "the gateway itself".to_owned(),
            _ => "everybody who comes without a name".to_owned(),
        };
        let holder = oauth.connections()?.connecting.holder(principal, &upstream);
        Ok(Self { browser, place: Place { holder, upstream }, who, link, back })
    }

    /// The person to whom the connection is bound.
    fn user(&self) -> Option<UserId> {
        match &self.place.holder {
            Holder::Of(Principal::User(id)) => Some(id.clone()),
            _ => None,
        }
    }

    /// What a form of the page is about: somebody else's page is another thing.
    fn subject(&self) -> String {
        format!("{} {}", self.place, self.back.as_ref().map(Back::text).unwrap_or_default())
    }

    fn form<'a>(&self, subject: &'a str) -> Form<'a> {
        Form { purpose: CONNECT, subject, cookie: self.browser.digest() }
    }

    /// Whether a link has led here that has done its work.
    fn is_done(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.is_done)
    }
}

/// What a browser is known by on these pages: what it has, or else something new.
fn browser_of(oauth: &OAuth, headers: &HeaderMap) -> Plaintext {
    oauth.cookies.read(headers, Cookie::Connect).unwrap_or_else(|| mint(&oauth.server.env, mint::COOKIE))
}

/// Has the browser keep that.
fn knowing(oauth: &OAuth, response: Response, browser: &Plaintext) -> Response {
    with_cookie(response, oauth.cookies.set(Cookie::Connect, browser, COOKIE_LIFE.max(FORM_LIFE)))
}

async fn person_of(oauth: &OAuth, headers: &HeaderMap) -> Result<Option<Person>, Response> {
    let session = oauth.cookies.read(headers, Cookie::Session);
    oauth.server.signed_in(session.as_ref()).await.map_err(|fault| oauth.fault(&fault))
}

fn signed_in(person: Option<&Person>) -> Option<Acting> {
    person.map(|(_, user)| Acting { principal: Principal::User(user.id.clone()), link: None })
}

/// Whoever is chosen in a consent request of this browser's. Where nobody is any more, it goes back to choosing.
async fn consenting(
    oauth: &OAuth,
    request: &RequestId,
    headers: &HeaderMap,
    person: Option<&Person>,
) -> Result<Option<Acting>, Response> {
    let refused = |over: Over| consent_pages::refused(oauth, over);
    let secret = oauth.cookies.read_request(headers, request).ok_or_else(|| refused(Over::WrongBrowser))?;
    let visit = Visit { request, browser: secret.digest(), person, remote_ip: None, user_agent: None };
    match consent::chosen(&oauth.server, visit).await {
        Ok(Ok(Some(principal))) => Ok(Some(Acting { principal, link: None })),
        Ok(Ok(None)) => Err(see_other(&oauth.site.address(&format!("{CONSENT}{request}")))),
        Ok(Err(over)) => Err(refused(over.into())),
        Err(fault) => Err(oauth.fault(&fault)),
    }
}

/// Whoever a link is for that this browser has opened: the one that is named, or the last. One that is a person's is theirs
/// only while they are signed in.
async fn by_link(
    oauth: &OAuth,
    browser: &Plaintext,
    upstream: &UpstreamName,
    (id, person): (Option<&str>, Option<&Person>),
) -> Result<Option<Acting>, Response> {
    let link = links::of_browser(&oauth.server.store, browser.digest(), upstream, id).await;
    let Some(link) = link.map_err(|error| oauth.unavailable(&error))? else { return Ok(None) };
    let principal = link.principal.clone();
    Ok(match &principal {
        Principal::User(id) if person.is_none_or(|(_, user)| user.id != *id) => None,
        // A person who is signed in needs no link, so that one that has done its work keeps nothing from them.
        Principal::User(_) => Some(Acting { principal, link: (!link.is_done).then_some(link) }),
        _ => Some(Acting { principal, link: Some(link) }),
    })
}

/// Nobody is here who could connect anything.
fn nobody(oauth: &OAuth, path: &str) -> Response {
    if oauth.server.settings().has_server() {
        return oauth.to_sign_in(&Next::parse(path).unwrap_or_default());
    }
    needs_link(oauth)
}

fn needs_link(oauth: &OAuth) -> Response {
    let problem = Problem {
        site: &oauth.site,
        title: "This page needs a link",
        what: "It does not know for whom something is to be connected.",
        advice: "Go back to your agent and have it try again: it shows a link that leads here.",
        link: None,
    };
    problem.answer(StatusCode::FORBIDDEN)
}

impl OAuth {
    /// What connections are made with, or the page that says that there is nothing here.
    #[expect(clippy::result_large_err, reason = "a page ends the request, and is made once")]
    fn connections(&self) -> Result<&Connections, Response> {
        self.connections.as_ref().ok_or_else(|| pages::not_found(&self.site))
    }

    /// Counts a visit to one of these pages.
    #[expect(clippy::result_large_err, reason = "a page ends the request, and is made once")]
    fn count_connection(&self, from: Option<IpAddr>) -> Result<(), Response> {
        self.server.doors.connections.count(from).map_err(|wait| too_often(&self.site, wait))
    }

    /// The page that says that nothing could be decided.
    pub(super) fn connections_fault(&self, fault: &Fault) -> Response {
        tracing::error!(error = %fault, "a fault failed a page about connections");
        pages::unavailable(&self.site)
    }

    /// The same step with how things stand between the identity and each service.
    pub(super) async fn with_connections(&self, look: Look) -> Result<Look, Response> {
        let Some(Connections { connecting, .. }) = &self.connections else { return Ok(look) };
        let Look::Services(mut step) = look else { return Ok(look) };
        let holder = Holder::Of(step.principal.clone());
        let stands = connecting.look_at_all(&holder).await.map_err(|fault| self.connections_fault(&fault))?;
        for service in &mut step.services {
            if let Some(stand) = stands.iter().find(|stand| stand.place.upstream == service.upstream) {
                service.connection = connection_of(stand);
            }
        }
        Ok(Look::Services(step))
    }
}

/// What a person is told of a connection on a page of a consent.
fn connection_of(stand: &Stand) -> Connection {
    if stand.kind.is_none() {
        return Connection::NoneNeeded;
    }
    match stand.standing {
        _ if !stand.access.is_granted() => Connection::OutOfReach,
        None | Some(connection::Standing::Unused) => Connection::NotConnected,
        Some(connection::Standing::Active) => Connection::Connected,
        Some(connection::Standing::NeedsReauth | connection::Standing::NeedsUpdate) => Connection::NeedsConnecting,
        Some(connection::Standing::Orphaned) => Connection::OutOfReach,
    }
}

/// A connection is made: a consent that waits for it has more time now, and the browser goes on.
async fn made(oauth: &OAuth, headers: &HeaderMap, upstream: &UpstreamName, back: Option<&Back>) -> Response {
    if let Some(Back::Consent { request, .. }) = back
        && let Some(secret) = oauth.cookies.read_request(headers, request)
    {
        let visit = Visit { request, browser: secret.digest(), person: None, remote_ip: None, user_agent: None };
        if let Err(fault) = consent::extend(&oauth.server, visit).await {
            tracing::warn!(error = %fault, "a consent was not given more time");
        }
    }
    let path = back.and_then(Back::path).unwrap_or_else(|| path_of(upstream, back));
    see_other(&oauth.site.address(&path))
}

/// What a visitor's address says, and the counted visit.
#[expect(clippy::result_large_err, reason = "a page ends the request, and is made once")]
fn arrive(oauth: &OAuth, request: &Request) -> Result<(), Response> {
    oauth.connections()?;
    oauth.count_connection(address(request))
}
