//! `/oauth2/authorize`, where clients send people's browsers (OAuth 2.1 §4.1.1).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::get;
use http::StatusCode;
use http::header::{HeaderMap, USER_AGENT};

use super::cookies::Kind;
use super::pages::{self, Problem, Site, see_other, with_cookie};
use super::sign_in::{address, seconds};
use super::{Access, OAuth, Route, csrf};
use crate::authorization::authorize::{Answer, Arrival, Check, authorize, parameters};
use crate::http::body::{check_encoding, read_limited};
use crate::oauth::metadata;
use crate::oauth::request::MAX_CONSENT_LIFE;

pub(super) const ROUTES: &[Route] = &[Route {
    methods: "GET|POST",
    path: metadata::AUTHORIZE,
    access: Access::Browser,
    handler: || get(asked_by_link).post(asked_by_form),
}];

/// Until the body of a form is complete.
const FORM_TIMEOUT: Duration = Duration::from_secs(10);

async fn asked_by_link(State(oauth): State<Arc<OAuth>>, request: Request) -> Response {
    let parameters = request.uri().query().unwrap_or_default().to_owned();
    if parameters.len() > parameters::MAX_BYTES {
        return refused(&oauth, &Check::Parameters, StatusCode::URI_TOO_LONG);
    }
    answer(&oauth, request.headers(), address(&request), &parameters).await
}

async fn asked_by_form(State(oauth): State<Arc<OAuth>>, request: Request) -> Response {
    let from = address(&request);
    let (parts, body) = request.into_parts();
    if !csrf::is_form(&parts.headers) || check_encoding(&parts.headers).is_err() {
        return refused(&oauth, &Check::Parameters, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }
    let body = match read_limited(body, parameters::MAX_BYTES, FORM_TIMEOUT, None).await {
        Ok(body) => body,
        Err(error) => return refused(&oauth, &Check::Parameters, error.status()),
    };
    match std::str::from_utf8(&body) {
        Ok(parameters) => answer(&oauth, &parts.headers, from, parameters).await,
        Err(_) => refused(&oauth, &Check::Parameters, StatusCode::BAD_REQUEST),
    }
}

async fn answer(oauth: &OAuth, headers: &HeaderMap, from: Option<IpAddr>, parameters: &str) -> Response {
    let session = oauth.cookies.read(headers, Kind::Session);
    let arrival = Arrival {
        parameters,
        session: session.as_ref(),
        remote_ip: from,
        user_agent: headers.get(USER_AGENT).and_then(|agent| agent.to_str().ok()),
    };
    match authorize(&oauth.server, arrival).await {
        Ok(Answer::Page(check)) => refused(oauth, &check, StatusCode::BAD_REQUEST),
        Ok(Answer::Redirect(address)) => see_other(&address),
        Ok(Answer::TooOften(wait)) => too_often(&oauth.site, wait),
        Ok(Answer::Ask { request, secret }) => {
            let page = see_other(&oauth.site.address(&format!("/oauth2/consent/{request}")));
            let cookies = oauth.cookies.set_request(headers, &request, &secret, MAX_CONSENT_LIFE);
            cookies.into_iter().fold(page, with_cookie)
        }
        Err(fault) => oauth.fault(&fault),
    }
}

/// The page for whoever comes too often.
pub(super) fn too_often(site: &Site, wait: Duration) -> Response {
    let problem = Problem {
        site,
        title: "Too often",
        what: "This came too often from your address. Nothing was done.",
        advice: "Wait a little and try again; if you had sent a form, go back and load its page first.",
        link: None,
    };
    pages::retry_after(problem.answer(StatusCode::TOO_MANY_REQUESTS), seconds(wait))
}

/// The page that tells the person what only they are told: an answer could go to somebody whom nobody vouches for (rows A1
/// and A20).
fn refused(oauth: &OAuth, check: &Check, status: StatusCode) -> Response {
    let (title, what) = match check {
        Check::Client => (
            "This application is not known here",
            "An application sent you here, and this gateway does not know it, or does not know it any more (invalid_client).",
        ),
        Check::RedirectUri => (
            "This application cannot be answered",
            "The application wants its answer at an address that it has not registered (invalid_request: redirect_uri).",
        ),
        Check::PushedRequest => (
            "This request is over",
            "The request of the application was used already, or is too old (invalid_request_uri).",
        ),
        _ => ("This request cannot be read", "What the application asks for cannot be read (invalid_request)."),
    };
    let advice = "Go back to the application and connect again. If that does not help, remove the connection there and add \
                  it anew. You were not sent on, and nothing was shared.";
    Problem { site: &oauth.site, title, what, advice, link: None }.answer(status)
}
