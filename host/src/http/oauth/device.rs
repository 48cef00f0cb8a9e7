//! `POST /oauth2/device`, where devices begin, and `/device`, where people decide about them (RFC 8628).
//!
//! The page asks a person who is signed in to type the code, shows which client asks, from where and when, and says what
//! to look out for (RFC 10027). Where `auth.grants.device` is off there is nothing here.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::{get, post};
use http::StatusCode;
use http::header::{HeaderMap, USER_AGENT};
use serde_json::json;

use super::client::{Asked, read};
use super::consent_pages::{MAX_HEADLINE, MAX_MESSAGE, name_of};
use super::csrf::{self, Form};
use super::error::{OAuthError, json_answer};
use super::pages::{Problem, Site, moment, not_found, not_ours, page, retry_after, see_other};
use super::sign_in::{Next, Person};
use super::words::shown;
use super::{Access, OAuth, Route};
use crate::authorization::token::From;
use crate::authorization::token::device::{self, Beginning, Begun, Decided, Found, INTERVAL, LIFE, Says, Waiting};
use crate::config::Auth;
use crate::http::serve::Peer;
use crate::identity::user::User;
use crate::oauth::metadata;
use crate::secret::Digest;

pub(super) const ROUTES: &[Route] = &[
    Route { methods: "POST", path: metadata::DEVICE, access: Access::Client, handler: || post(begin) },
    Route { methods: "GET|POST", path: "/device", access: Access::Browser, handler: || get(show).post(answer) },
];

/// Purposes of forms, and of the sealed text that names a device.
const TYPE: &str = "type a device's code";
const DECIDE: &str = "decide about a device";
const DEVICE: &str = "device of a person";
/// When somebody may guess again.
const GUESS_AGAIN: u64 = 10 * 60;

/// RFC 8628 §3.1.
async fn begin(State(oauth): State<Arc<OAuth>>, request: Request) -> Result<Response, OAuthError> {
    if !oauth.server.settings().grants.device {
        return Ok(super::super::nothing_here().await);
    }
    let asked = read(&oauth, request).await?;
    let proof = asked.proof(&oauth).await?;
    let Asked { client, mut parameters, from, .. } = asked;
    oauth.server.doors.devices.count(from.address).map_err(|wait| OAuthError::TooOften { wait })?;
    let (scope, resources) = (parameters.take("scope"), parameters.take_all("resource"));
    match device::begin(&oauth.server, &client, scope.as_deref(), resources, (proof, &from)).await? {
        Beginning::Begun(Begun { device_code, user_code }) => {
            let answer = json!({
                "device_code": device_code.expose(), "user_code": user_code.expose(),
                "verification_uri": oauth.site.address("/device"),
                "expires_in": LIFE.as_secs(), "interval": INTERVAL.as_secs(),
            });
            Ok(json_answer(StatusCode::OK, &answer))
        }
        Beginning::Refused(refused) => Err(refused.into()),
        Beginning::TooMany => Err(OAuthError::Full),
    }
}

#[derive(Template)]
#[template(path = "device.html")]
struct CodePage<'a> {
    site: &'a Site,
    token: String,
    problem: Option<&'static str>,
    done: Option<&'static str>,
}

#[derive(Template)]
#[template(path = "device_decide.html")]
struct DecidePage<'a> {
    site: &'a Site,
    token: String,
    device: String,
    /// What the person agrees to with the form.
    shown: String,
    problem: Option<&'static str>,
    person: String,
    name: String,
    client: String,
    is_verified: bool,
    from: String,
    asked: String,
    headline: String,
    warnings: Vec<String>,
    scopes: Vec<String>,
    resources: Vec<String>,
}

/// A browser in which somebody is signed in.
struct Here {
    cookie: Digest,
    user: User,
    from: From,
}

impl OAuth {
    /// Who is signed in, or the way to sign in.
    async fn at_device(&self, headers: &HeaderMap, peer: Option<Peer>) -> Result<Here, Response> {
        if !self.server.settings().grants.device {
            return Err(not_found(&self.site));
        }
        let Some(Person { cookie, user, session: _ }) = self.person(headers).await? else {
            return Err(self.to_sign_in(&Next::parse("/device").unwrap_or_default()));
        };
        let user_agent = headers.get(USER_AGENT).and_then(|agent| agent.to_str().ok()).map(str::to_owned);
        Ok(Here { cookie, user, from: From { address: peer.and_then(Peer::ip), user_agent } })
    }

    fn code_page(&self, here: &Here, status: StatusCode, told: Told) -> Response {
        let form = Form { purpose: TYPE, subject: "", cookie: here.cookie };
        let (problem, done) = match told {
            Told::Nothing => (None, None),
            Told::Problem(problem) => (Some(problem), None),
            Told::Done(done) => (None, Some(done)),
        };
        page(status, CodePage { site: &self.site, token: self.form_token(&form), problem, done }, &[])
    }
}

/// What a person is told above the form.
#[derive(Clone, Copy)]
enum Told {
    Nothing,
    Problem(&'static str),
    Done(&'static str),
}

/// The form for the code, or what it led to.
async fn show(State(oauth): State<Arc<OAuth>>, request: Request) -> Result<Response, Response> {
    let peer = request.extensions().get::<Peer>().copied();
    let here = oauth.at_device(request.headers(), peer).await?;
    let query = request.uri().query().unwrap_or_default();
    let find = |name| form_urlencoded::parse(query.as_bytes()).find(|(found, _)| found == name).map(|(_, value)| value);
    if let Some(done) = find("done") {
        let told = match &*done {
            "approved" => Told::Done("The device has access now. You can close this page."),
            "refused" => Told::Done("The device was refused."),
            _ => Told::Nothing,
        };
        return Ok(oauth.code_page(&here, StatusCode::OK, told));
    }
    let Some(device) = find("device").and_then(|sealed| named(&oauth, &here, &sealed)) else {
        return Ok(oauth.code_page(&here, StatusCode::OK, Told::Nothing));
    };
    look(&oauth, &here, device, (StatusCode::OK, None)).await
}

/// What a device wants now, or why nobody is asked about it any more.
async fn look(
    oauth: &OAuth,
    here: &Here,
    device: Digest,
    with: (StatusCode, Option<&'static str>),
) -> Result<Response, Response> {
    let waiting = device::waiting(&oauth.server, device, &here.user, &here.from).await;
    Ok(match waiting.map_err(|fault| oauth.fault(&fault))? {
        None => oauth.code_page(here, StatusCode::OK, Told::Problem(OVER)),
        Some(Err(_)) => not_allowed(&oauth.site),
        Some(Ok(waiting)) => decide_page(oauth, here, device, &waiting, with),
    })
}

const OVER: &str = "That code counts no more. Have the device show a new one.";
const CHANGED: &str = "What the device would get has changed meanwhile. Look at it again.";
const UNKNOWN: &str = "No device waits for that code. Look at the device again: it may show another one by now.";
const TOO_MANY: &str = "There were too many wrong codes. Wait ten minutes and try again.";

fn not_allowed(site: &Site) -> Response {
    let problem = Problem {
        site,
        title: "This device may not have access",
        what: "The rules of this gateway do not allow what it asks for, in your name.",
        advice: "Ask whoever runs the gateway if you think that it should.",
        link: None,
    };
    problem.answer(StatusCode::FORBIDDEN)
}

fn decide_page(
    oauth: &OAuth,
    here: &Here,
    device: Digest,
    waiting: &Waiting,
    (status, problem): (StatusCode, Option<&'static str>),
) -> Response {
    let Waiting { device: asked, client, wanted, .. } = waiting;
    let settings = oauth.server.settings();
    let sealed = oauth.server.secret.seal(DEVICE, here.user.id.as_str().as_bytes(), device.as_bytes());
    let form = Form { purpose: DECIDE, subject: &sealed, cookie: here.cookie };
    let known = [here.user.name.as_str(), here.user.login.as_ref().map_or("", |login| login.as_str())];
    let person = known.into_iter().find(|name| !name.is_empty()).unwrap_or("you").to_owned();
    let template = DecidePage {
        site: &oauth.site,
        token: oauth.form_token(&form),
        person,
        name: name_of(client),
        client: client.id.to_string(),
        is_verified: client.is_verified(),
        from: asked.from.map_or_else(|| "an unknown address".to_owned(), |from| from.to_string()),
        asked: moment(asked.life.from),
        headline: shown(&wanted.headline, MAX_HEADLINE),
        warnings: wanted.warnings.iter().map(|warning| shown(warning, MAX_MESSAGE)).collect(),
        scopes: wanted.terms.scopes.iter().map(|scope| words(&settings, scope)).collect(),
        resources: asked.resources.to_vec(),
        device: sealed.clone(),
        shown: waiting.shown().to_hex(),
        problem,
    };
    page(status, template, &[])
}

/// A scope in words.
fn words(settings: &Auth, scope: &str) -> String {
    let known = settings.scopes.iter().find(|known| known.name == scope);
    known.map_or_else(|| scope.to_owned(), |known| known.words.clone())
}

/// The device that we have named to this person.
fn named(oauth: &OAuth, here: &Here, sealed: &str) -> Option<Digest> {
    let bytes = oauth.server.secret.unseal(DEVICE, here.user.id.as_str().as_bytes(), sealed)?;
    bytes.try_into().ok().map(Digest::from_bytes)
}

/// Takes a code, or a decision.
async fn answer(State(oauth): State<Arc<OAuth>>, request: Request) -> Result<Response, Response> {
    let peer = request.extensions().get::<Peer>().copied();
    let here = oauth.at_device(request.headers(), peer).await?;
    let form = csrf::read_form(request, oauth.site.origin()).await;
    let mut fields = form.map_err(|refused| not_ours(&oauth.site, &refused))?;
    let (token, sealed) = (fields.take(csrf::FIELD), fields.take("device"));
    if sealed.is_empty() {
        let form = Form { purpose: TYPE, subject: "", cookie: here.cookie };
        oauth.take_form(&form, &token, here.from.address).await?;
        let found = device::find(&oauth.server, &fields.take("user_code"), here.from.address).await;
        return Ok(match found.map_err(|fault| oauth.fault(&fault))? {
            Found::Device(device) => {
                let binding = here.user.id.as_str().as_bytes();
                let sealed = oauth.server.secret.seal(DEVICE, binding, device.as_bytes());
                see_other(&oauth.site.address(&format!("/device?device={sealed}")))
            }
            Found::Unknown => oauth.code_page(&here, StatusCode::BAD_REQUEST, Told::Problem(UNKNOWN)),
            Found::TooManyGuesses => {
                let response = oauth.code_page(&here, StatusCode::TOO_MANY_REQUESTS, Told::Problem(TOO_MANY));
                retry_after(response, GUESS_AGAIN)
            }
        });
    }
    let form = Form { purpose: DECIDE, subject: &sealed, cookie: here.cookie };
    oauth.take_form(&form, &token, here.from.address).await?;
    let Some(device) = named(&oauth, &here, &sealed) else {
        return Ok(oauth.code_page(&here, StatusCode::BAD_REQUEST, Told::Problem(OVER)));
    };
    let shown = fields.take("shown");
    let says = if fields.take("decision") == "approve" { Says::Yes { shown: &shown } } else { Says::No };
    let decided = device::decide(&oauth.server, device, &here.user, says, &here.from).await;
    Ok(match decided.map_err(|fault| oauth.fault(&fault))? {
        Decided::Approved => see_other(&oauth.site.address("/device?done=approved")),
        Decided::Refused => see_other(&oauth.site.address("/device?done=refused")),
        Decided::Gone => oauth.code_page(&here, StatusCode::BAD_REQUEST, Told::Problem(OVER)),
        Decided::Policy => not_allowed(&oauth.site),
        Decided::Changed => look(&oauth, &here, device, (StatusCode::CONFLICT, Some(CHANGED))).await?,
    })
}
