//! The page of an upstream: for whom, to whom, how things stand, and the form that begins.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use axum::extract::{Path, Request, State};
use axum::response::Response;
use http::StatusCode;

use super::{Back, Connections, OAuth, Visitor, arrive, knowing, made};
use crate::connection::Standing;
use crate::connection::lending::Kind;
use crate::connections::connecting::{Ahead, Beginner, Failed, NotBegun, NotStored, Stand};
use crate::connections::issuer::NoWay;
use crate::http::oauth::csrf::{self, Fields};
use crate::http::oauth::pages::{self, Problem, Site, moment, page, retry_after, see_other};
use crate::http::oauth::provider::parameters;
use crate::http::oauth::sign_in::{address, seconds};
use crate::http::oauth::words::shown;
use crate::ids::UpstreamName;
use crate::secret::Plaintext;

/// Most characters of a host.
const MAX_HOST: usize = 256;
/// What fields of headers are called, before the name.
const HEADER: &str = "header-";
/// When somebody may come again who has too many ways under way, and whose authorization server does not answer.
const RETRY_SECONDS: u64 = 60;
const SOON_SECONDS: u64 = 10;

/// Badge and words of a state.
struct Told {
    is_good: bool,
    badge: &'static str,
    words: &'static str,
}

struct Field {
    name: String,
    is_stored: bool,
}

#[derive(Template)]
#[template(path = "connect.html")]
struct ConnectPage<'a> {
    site: &'a Site,
    upstream: &'a str,
    who: String,
    by_link: bool,
    state: Told,
    since: Option<String>,
    problem: Option<String>,
    /// Whether there is something to do: a link that has done its work is good for nothing more.
    form: Option<FormOf>,
    back: Option<String>,
    is_connected: bool,
}

struct FormOf {
    token: String,
    next: String,
    /// Where an authorization server is.
    host: Option<String>,
    fields: Vec<Field>,
}

fn state_of(stand: &Stand) -> Told {
    let state = |is_good, badge, words| Told { is_good, badge, words };
    match stand.standing {
        None => state(false, "Not connected", "Nothing is stored here for it."),
        Some(Standing::Active) => state(true, "Connected", "Calls to it work. You can go back to your agent."),
        Some(Standing::NeedsReauth) => {
            state(false, "Needs to be connected again", "What is stored does not work any more.")
        }
        Some(Standing::NeedsUpdate) => state(false, "Needs more", "It asks for values that were never given."),
        Some(Standing::Orphaned) => state(false, "Out of reach", "It may not be used now."),
        Some(Standing::Unused) => state(false, "Not in use", "What is stored here is asked for no more."),
    }
}

/// What the page is about.
struct Subject<'a> {
    visitor: &'a Visitor,
    stand: &'a Stand,
    ahead: Option<Ahead>,
}

fn answer(oauth: &OAuth, subject: Subject<'_>, status: StatusCode, problem: Option<String>) -> Response {
    let Subject { visitor, stand, ahead } = subject;
    let fields = match &stand.kind {
        Some(Kind::Headers(names) | Kind::Variables(names)) => names.iter().map(|name| field(name, stand)).collect(),
        Some(Kind::OAuth | Kind::Exchanged) | None => Vec::new(),
    };
    let host = ahead.as_ref().map(|ahead| shown(host_of(&ahead.issuer), MAX_HOST));
    let is_open = !visitor.is_done() && (host.is_some() || !fields.is_empty());
    let next = visitor.back.as_ref().map(Back::text);
    let about = visitor.subject();
    let template = ConnectPage {
        site: &oauth.site,
        upstream: visitor.place.upstream.as_str(),
        who: visitor.who.clone(),
        by_link: visitor.link.is_some(),
        state: state_of(stand),
        since: stand.since.filter(|_| stand.standing.is_some()).map(moment),
        problem,
        form: is_open.then(|| FormOf {
            token: oauth.form_token(&visitor.form(&about)),
            next: next.unwrap_or_default(),
            host,
            fields,
        }),
        back: visitor.back.as_ref().and_then(Back::path),
        is_connected: stand.standing == Some(Standing::Active),
    };
    // Authorization servers send people on to others of theirs, and browsers hold the form to that as well.
    let origins: Vec<&str> = ahead.iter().flat_map(|ahead| ["https:", ahead.origin.as_str()]).collect();
    knowing(oauth, page(status, template, &origins), &visitor.browser)
}

fn field(name: &str, stand: &Stand) -> Field {
    Field { name: name.to_owned(), is_stored: stand.stored.iter().any(|stored| stored == name) }
}

fn host_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split(['/', '?', '#']).next().unwrap_or(rest)
}

pub(super) async fn show(
    State(oauth): State<Arc<OAuth>>,
    Path(upstream): Path<String>,
    request: Request,
) -> Result<Response, Response> {
    arrive(&oauth, &request)?;
    let upstream = UpstreamName::parse(&upstream).map_err(|_| pages::not_found(&oauth.site))?;
    let mut query = parameters(request.uri().query()).ok_or_else(|| elsewhere(&oauth))?;
    let back = back_of(&oauth, query.remove("next").as_deref())?;
    let visitor = Visitor::of(&oauth, upstream, request.headers(), back).await?;
    let stand = stand_of(&oauth, &visitor).await?;
    let ahead = match &stand.kind {
        Some(Kind::OAuth) if !visitor.is_done() => match oauth.connections()?.connecting.ahead(&visitor.place).await {
            Ok(ahead) => Some(ahead),
            Err(not) => return Err(not_begun(&oauth, &visitor, &not)),
        },
        _ => None,
    };
    Ok(answer(&oauth, Subject { visitor: &visitor, stand: &stand, ahead }, StatusCode::OK, None))
}

/// Where to go on to. What is no place of ours is refused and not left out: somebody wanted the browser elsewhere.
#[expect(clippy::result_large_err, reason = "a page ends the request, and is made once")]
fn back_of(oauth: &OAuth, next: Option<&str>) -> Result<Option<Back>, Response> {
    match next.filter(|next| !next.is_empty()) {
        None => Ok(None),
        Some(next) => Back::parse(next).map(Some).ok_or_else(|| elsewhere(oauth)),
    }
}

/// How things stand, or the page that says that there is nothing to connect here.
async fn stand_of(oauth: &OAuth, visitor: &Visitor) -> Result<Stand, Response> {
    let stand = oauth.connections()?.connecting.look(&visitor.place).await;
    let stand = stand.map_err(|fault| oauth.connections_fault(&fault))?;
    let stand = stand.ok_or_else(|| pages::not_found(&oauth.site))?;
    if stand.access.is_granted() { Ok(stand) } else { Err(out_of_reach(oauth, visitor)) }
}

pub(super) async fn submit(
    State(oauth): State<Arc<OAuth>>,
    Path(upstream): Path<String>,
    request: Request,
) -> Result<Response, Response> {
    oauth.connections()?;
    let (headers, from) = (request.headers().clone(), address(&request));
    let mut fields = oauth.read_form(request).await?;
    oauth.count_connection(from)?;
    let upstream = UpstreamName::parse(&upstream).map_err(|_| pages::not_found(&oauth.site))?;
    let back = back_of(&oauth, Some(&fields.take("next")))?;
    let visitor = Visitor::of(&oauth, upstream, &headers, back).await?;
    oauth.take_form(&visitor.form(&visitor.subject()), &fields.take(csrf::FIELD), from).await?;
    let stand = stand_of(&oauth, &visitor).await?;
    if visitor.is_done() {
        return Err(pages::stale_form(&oauth.site));
    }
    match &stand.kind {
        Some(Kind::Headers(names) | Kind::Variables(names)) => {
            let given = given(&mut fields, names);
            match store(&oauth, &visitor, given).await? {
                Ok(()) => Ok(made(&oauth, &headers, &visitor.place.upstream, visitor.back.as_ref()).await),
                Err((status, problem)) => {
                    let subject = Subject { visitor: &visitor, stand: &stand, ahead: None };
                    Ok(answer(&oauth, subject, status, Some(problem)))
                }
            }
        }
        Some(Kind::OAuth | Kind::Exchanged) | None => begin(&oauth, &visitor).await,
    }
}

/// Sends the browser to the authorization server.
async fn begin(oauth: &OAuth, visitor: &Visitor) -> Result<Response, Response> {
    let Connections { connecting, .. } = oauth.connections()?;
    let beginner = Beginner { place: visitor.place.clone(), browser: visitor.browser.digest(), user: visitor.user() };
    let scopes = visitor.link.as_ref().map(|link| link.scopes.to_vec()).unwrap_or_default();
    let next = visitor.back.as_ref().map(Back::text);
    match connecting.begin(beginner, &scopes, next.as_deref()).await {
        Ok(begun) => Ok(knowing(oauth, see_other(&begun.url), &visitor.browser)),
        Err(not) => Err(not_begun(oauth, visitor, &not)),
    }
}

/// The values of a form, by the names that are asked for.
fn given(fields: &mut Fields, names: &[String]) -> BTreeMap<String, Plaintext> {
    names.iter().map(|name| (name.clone(), fields.take_secret(&format!("{HEADER}{name}")))).collect()
}

/// Has values tried and stored, or says what is wrong with them. Nothing of them is said again.
#[expect(clippy::result_large_err, reason = "a page ends the request, and is made once")]
async fn store(
    oauth: &OAuth,
    visitor: &Visitor,
    given: BTreeMap<String, Plaintext>,
) -> Result<Result<(), (StatusCode, String)>, Response> {
    let Connections { connecting, .. } = oauth.connections()?;
    let wrong = |problem: String| Ok(Err((StatusCode::UNPROCESSABLE_ENTITY, problem)));
    match connecting.submit(&visitor.place, given, visitor.browser.digest()).await {
        Ok(_) => Ok(Ok(())),
        Err(NotStored::Nothing) => Err(pages::not_found(&oauth.site)),
        Err(NotStored::NoAccess) => Err(out_of_reach(oauth, visitor)),
        Err(NotStored::Undeclared) => wrong("Something else was given than what is asked for.".to_owned()),
        Err(NotStored::Invalid(names)) => wrong(format!(
            "What you gave for {} cannot be used: only visible ASCII characters can, and not too many.",
            names.join(", ")
        )),
        Err(NotStored::Missing(names)) => wrong(format!("Nothing was given for {}.", names.join(", "))),
        Err(NotStored::Trial(failed)) => wrong(tried(failed)),
        Err(NotStored::Conflict) => {
            let problem = "The connection has changed meanwhile. Look at it again, and give the values once more.";
            Ok(Err((StatusCode::CONFLICT, problem.to_owned())))
        }
        Err(NotStored::Fault(fault)) => Err(oauth.connections_fault(&fault)),
    }
}

fn tried(failed: Failed) -> String {
    match failed.status {
        Some(status @ (401 | 403)) => {
            format!("The service does not take these values (status {status}). Nothing was stored.")
        }
        Some(status) => format!("The service answered with status {status} when it was tried. Nothing was stored."),
        None => "The service could not be reached with these values. Nothing was stored.".to_owned(),
    }
}

fn not_begun(oauth: &OAuth, visitor: &Visitor, not: &NotBegun) -> Response {
    match not {
        NotBegun::Nothing => pages::not_found(&oauth.site),
        NotBegun::NoAccess => out_of_reach(oauth, visitor),
        NotBegun::TooMany => {
            let what = "Many connections for the same identity are being made at the moment.";
            let advice = "Finish one of them, or wait a quarter of an hour and try again.";
            let problem = problem(oauth, visitor, ("Too many at once", what, advice));
            retry_after(problem(StatusCode::TOO_MANY_REQUESTS), RETRY_SECONDS)
        }
        NotBegun::NoWay(NoWay::Unreachable { retry_after: wait }) => unreachable(oauth, visitor, *wait),
        NotBegun::NoWay(NoWay::Unfit { what }) => {
            tracing::error!(upstream = %visitor.place.upstream, what, "an authorization server cannot be used");
            let what = "The authorization server of this service cannot be used: what it says of itself does not fit.";
            let advice = "Tell whoever runs the gateway: the reason is in its log.";
            problem(oauth, visitor, ("This service cannot be connected", what, advice))(StatusCode::BAD_GATEWAY)
        }
        NotBegun::NoWay(NoWay::Fault) => pages::unavailable(&oauth.site),
        NotBegun::Fault(fault) => oauth.connections_fault(fault),
    }
}

fn unreachable(oauth: &OAuth, visitor: &Visitor, wait: Option<Duration>) -> Response {
    let what = "The authorization server of this service does not answer. Nothing was changed.";
    let advice = "Wait a minute and try again. If it goes on like this, tell whoever runs the gateway.";
    let page = problem(oauth, visitor, ("Not at the moment", what, advice))(StatusCode::SERVICE_UNAVAILABLE);
    retry_after(page, wait.map_or(SOON_SECONDS, seconds))
}

fn out_of_reach(oauth: &OAuth, visitor: &Visitor) -> Response {
    let what = format!("For {}, this service is not to be used.", visitor.who);
    let advice = "If it should be, ask whoever runs the gateway.";
    problem(oauth, visitor, ("Out of reach", &what, advice))(StatusCode::FORBIDDEN)
}

/// A page that leads back to where the visitor was to go on, without what else was to be connected.
fn problem<'a>(
    oauth: &'a OAuth,
    visitor: &Visitor,
    (title, what, advice): (&'a str, &'a str, &'a str),
) -> impl FnOnce(StatusCode) -> Response + use<'a> {
    let back = match visitor.back.clone() {
        Some(Back::Consent { request, .. }) => Back::Consent { request, all: false }.path(),
        Some(Back::Account) => Back::Account.path(),
        Some(Back::Link(_)) | None => None,
    };
    move |status| {
        let link = back.as_deref().map(|path| (path, "Go on without it"));
        Problem { site: &oauth.site, title, what, advice, link }.answer(status)
    }
}

fn elsewhere(oauth: &OAuth) -> Response {
    let problem = Problem {
        site: &oauth.site,
        title: "This address is not complete",
        what: "It says where to go on afterwards in a way that is not understood here.",
        advice: "Go back to where you came from and begin again. If somebody sent you this address, close the page.",
        link: None,
    };
    problem.answer(StatusCode::BAD_REQUEST)
}
