//! What comes back from authorization servers, and the document about us that they read.
//!
//! Each context has an address of its own (row U3). Errors are told in our words; nothing that comes along is shown.

use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::response::Response;
use http::StatusCode;

use super::{Back, OAuth, arrive, browser_of, made, path_of, person_of};
use crate::connection::flow::Check;
use crate::connections::connecting::{Answer, NotConnected, Why};
use crate::http::nothing_here;
use crate::http::oauth::error::json_answer;
use crate::http::oauth::pages::{Problem, Site, retry_after};
use crate::http::oauth::provider::parameters;
use crate::http::oauth::sign_in::seconds;
use crate::secret::Plaintext;

/// When somebody may try again whose authorization server has failed.
const RETRY_SECONDS: u64 = 10;

/// Takes an answer.
pub(super) async fn answer(
    State(oauth): State<Arc<OAuth>>,
    Path(context): Path<String>,
    request: Request,
) -> Result<Response, Response> {
    arrive(&oauth, &request)?;
    let headers = request.headers();
    let mut query = parameters(request.uri().query()).ok_or_else(|| unreadable(&oauth.site))?;
    let state = query.remove("state").filter(|state| !state.is_empty()).ok_or_else(|| unreadable(&oauth.site))?;
    let person = person_of(&oauth, headers).await?;
    let answer = Answer {
        state: Plaintext::new(state),
        code: query.remove("code").map(Plaintext::new),
        error: query.remove("error"),
        issuer: query.remove("iss"),
        redirect: oauth.site.address(&format!("/connect/callback/{context}")),
        // One without our cookie is any other browser.
        browser: browser_of(&oauth, headers).digest(),
        user: person.map(|(_, user)| user.id),
    };
    match oauth.connections()?.connecting.answer(answer).await {
        Ok(connected) => {
            let back = connected.next.as_deref().and_then(Back::parse);
            Ok(made(&oauth, headers, &connected.place.upstream, back.as_ref()).await)
        }
        Err(not) => Err(refusal(&oauth, &not)),
    }
}

/// Our client's metadata document for one context.
pub(super) async fn client(State(oauth): State<Arc<OAuth>>, Path(context): Path<String>) -> Response {
    match oauth.connections.as_ref().and_then(|connections| (connections.document)(&context)) {
        Some(document) => json_answer(StatusCode::OK, &document),
        None => nothing_here().await,
    }
}

fn unreadable(site: &Site) -> Response {
    let problem = Problem {
        site,
        title: "This answer is not complete",
        what: "What came back does not say what it answers.",
        advice: "Go back to your agent and begin again.",
        link: None,
    };
    problem.answer(StatusCode::BAD_REQUEST)
}

/// The page for what was not connected. A check is named, and nothing else of an answer.
fn refusal(oauth: &OAuth, not: &NotConnected) -> Response {
    let begin_again = "Begin again, in this browser.";
    let (status, title, what, advice) = match &not.why {
        Why::Refused(Check::Browser | Check::User) => (
            StatusCode::FORBIDDEN,
            "This is not yours to finish",
            "It was begun in another browser, or by another person than the one who is signed in here. Nothing was done.",
            "Go on in the browser where it was begun. If somebody sent you here, close this page.",
        ),
        Why::Unknown | Why::Refused(Check::Replay) => (
            StatusCode::BAD_REQUEST,
            "This is over",
            "It was finished already, or it took longer than a quarter of an hour.",
            begin_again,
        ),
        Why::Refused(Check::Issuer | Check::Redirect) => {
            let check = match &not.why {
                Why::Refused(check) => check.as_str(),
                _ => "",
            };
            tracing::warn!(check, "an answer of an authorization server did not pass a check");
            (
                StatusCode::BAD_REQUEST,
                "This answer was not accepted",
                "It came from another authorization server than the one that was asked, or to another address. Nothing \
                 was connected.",
                "Begin again. If it happens again, tell whoever runs the gateway.",
            )
        }
        Why::Refused(Check::Access) | Why::NoAccess => (
            StatusCode::FORBIDDEN,
            "Out of reach",
            "This service may not be used any more by whom it was to be connected for. Nothing was stored.",
            "If it should be, ask whoever runs the gateway.",
        ),
        Why::Refused(Check::Connection) | Why::Conflict => (
            StatusCode::CONFLICT,
            "Something else was faster",
            "The connection was made or ended in another way meanwhile. This answer was not stored.",
            "Look how things stand now.",
        ),
        Why::Declined => (
            StatusCode::FORBIDDEN,
            "Not connected",
            "The authorization server says that it was not allowed, by you or by whoever runs it.",
            "If you want to connect it, begin again.",
        ),
        Why::Failed => (
            StatusCode::BAD_GATEWAY,
            "Not connected",
            "The authorization server gave nothing that could be used.",
            "Begin again. If it happens again, tell whoever runs the gateway: the reason is in its log.",
        ),
        Why::Unavailable { .. } => (
            StatusCode::SERVICE_UNAVAILABLE,
            "Not at the moment",
            "The authorization server does not answer. Nothing was connected.",
            "Wait a minute and begin again.",
        ),
        Why::Fault(fault) => return oauth.connections_fault(fault),
    };
    let again = again(not);
    let link = again.as_deref().map(|path| (path, "See how things stand"));
    let response = Problem { site: &oauth.site, title, what, advice, link }.answer(status);
    match &not.why {
        Why::Unavailable { retry_after: wait } => retry_after(response, wait.map_or(RETRY_SECONDS, seconds)),
        _ => response,
    }
}

/// Where it is begun again, for whoever it was begun by.
fn again(not: &NotConnected) -> Option<String> {
    let back = not.next.as_deref().and_then(Back::parse);
    not.place.as_ref().map(|place| path_of(&place.upstream, back.as_ref()))
}
