//! `/oauth2/register`: clients register themselves (RFC 7591) and look after their registration (RFC 7592).
//!
//! What policies say no to is `invalid_client_metadata`: RFC 7591 §3.2.2 has codes for what is wrong with a registration and
//! none for who may register, and those about software statements are for clients that sent one. It is what a client said
//! of itself that was refused, and clients show its description to people.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use http::StatusCode;
use http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_LENGTH, HeaderMap, HeaderValue, PRAGMA, RETRY_AFTER, USER_AGENT,
    WWW_AUTHENTICATE,
};
use serde_json::{Map, Value, json};

use super::super::body::{self, read_limited};
use super::super::serve::Peer;
use super::{Access, OAuth, Route};
use crate::authorization::Fault;
use crate::authorization::clients::register::{self, Refused, Requester, Told};
use crate::oauth::client::Client;
use crate::oauth::metadata;
use crate::oauth::registration::{MAX_BYTES, answer};
use crate::policy;
use crate::secret::Plaintext;

const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest registration token that is looked at.
const MAX_TOKEN: usize = 256;

pub(super) const ROUTES: &[Route] = &[
    Route { methods: "POST", path: metadata::REGISTER, access: Access::Anyone, handler: || post(create) },
    Route {
        methods: "GET|PUT|DELETE",
        path: "/oauth2/register/{client_id}",
        access: Access::Client,
        handler: || get(show).put(replace).delete(remove),
    },
];

/// Why a request is not even looked at.
enum Unread {
    Status(StatusCode, &'static str),
    NoToken,
}

async fn create(State(oauth): State<Arc<OAuth>>, request: Request) -> Response {
    // Where registration is closed there is nothing here, whatever is sent.
    if !oauth.server.settings().clients.registration {
        return super::super::nothing_here().await;
    }
    let (parts, content) = request.into_parts();
    let body = match read_json(&parts.headers, content).await {
        Ok(body) => body,
        Err(unread) => return unread.into_response(),
    };
    match register::register(&oauth.server, &body, requester(&parts)).await {
        Ok(Ok(told)) => respond(StatusCode::CREATED, &of(&oauth, &told)),
        Ok(Err(refused)) => refuse(&refused).await,
        Err(fault) => unavailable(&fault),
    }
}

async fn show(State(oauth): State<Arc<OAuth>>, Path(id): Path<String>, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    let Some(token) = bearer(&parts.headers) else { return Unread::NoToken.into_response() };
    match register::read(&oauth.server, &id, &token, requester(&parts)).await {
        Ok(Ok(client)) => respond(StatusCode::OK, &managed(&oauth, &client, &token)),
        Ok(Err(refused)) => refuse(&refused).await,
        Err(fault) => unavailable(&fault),
    }
}

async fn replace(State(oauth): State<Arc<OAuth>>, Path(id): Path<String>, request: Request) -> Response {
    let (parts, content) = request.into_parts();
    let Some(token) = bearer(&parts.headers) else { return Unread::NoToken.into_response() };
    let body = match read_json(&parts.headers, content).await {
        Ok(body) => body,
        Err(unread) => return unread.into_response(),
    };
    match register::update(&oauth.server, &id, &token, &body, requester(&parts)).await {
        Ok(Ok(told)) => respond(StatusCode::OK, &of(&oauth, &told)),
        Ok(Err(refused)) => refuse(&refused).await,
        Err(fault) => unavailable(&fault),
    }
}

async fn remove(State(oauth): State<Arc<OAuth>>, Path(id): Path<String>, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    let Some(token) = bearer(&parts.headers) else { return Unread::NoToken.into_response() };
    match register::delete(&oauth.server, &id, &token, requester(&parts)).await {
        Ok(Ok(())) => private(StatusCode::NO_CONTENT.into_response()),
        Ok(Err(refused)) => refuse(&refused).await,
        Err(fault) => unavailable(&fault),
    }
}

fn requester(parts: &http::request::Parts) -> Requester<'_> {
    Requester {
        address: parts.extensions.get::<Peer>().and_then(|peer| peer.ip()),
        user_agent: parts.headers.get(USER_AGENT).and_then(|agent| agent.to_str().ok()),
    }
}

async fn read_json(headers: &HeaderMap, content: axum::body::Body) -> Result<Bytes, Unread> {
    if !body::is_json(headers) || body::check_encoding(headers).is_err() {
        let reason = "Content-Type must be application/json, without Content-Encoding";
        return Err(Unread::Status(StatusCode::UNSUPPORTED_MEDIA_TYPE, reason));
    }
    let announced = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    let content = read_limited(content, MAX_BYTES, BODY_TIMEOUT, announced).await;
    content.map_err(|error| Unread::Status(error.status(), "a registration is at most 16 KiB, and comes in time"))
}

/// The registration token: in the header and nowhere else (RFC 7592 §2).
fn bearer(headers: &HeaderMap) -> Option<Plaintext> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    let is_one = scheme.eq_ignore_ascii_case("bearer") && (1..=MAX_TOKEN).contains(&token.len());
    is_one.then(|| Plaintext::new(token))
}

/// What a client is told once.
fn of(oauth: &OAuth, Told { client, secret, token }: &Told) -> Map<String, Value> {
    let mut told = managed(oauth, client, token);
    if let Some(secret) = secret {
        told.insert("client_secret".to_owned(), json!(secret.expose()));
        // It does not expire (RFC 7591 §3.2.1).
        told.insert("client_secret_expires_at".to_owned(), json!(0));
    }
    told
}

/// What is registered, and how to look after it. Secrets that were told are known as digests only, and not told again.
fn managed(oauth: &OAuth, client: &Client, token: &Plaintext) -> Map<String, Value> {
    let mut told = answer(client);
    let address = format!("{}/oauth2/register/{}", oauth.server.issuer.trim_end_matches('/'), client.id);
    told.insert("registration_client_uri".to_owned(), json!(address));
    told.insert("registration_access_token".to_owned(), json!(token.expose()));
    told
}

async fn refuse(refused: &Refused) -> Response {
    let invalid = |reason: String| error(StatusCode::BAD_REQUEST, "invalid_client_metadata", &reason);
    match refused {
        Refused::Closed => super::super::nothing_here().await,
        Refused::TooOften { wait } => too_often(*wait, &refused.to_string()),
        Refused::Full => {
            tracing::warn!("a client could not register: there are as many as `auth.clients.max_registered` allows");
            later(error(StatusCode::SERVICE_UNAVAILABLE, "temporarily_unavailable", &refused.to_string()), 60)
        }
        Refused::Unauthorized => challenge(r#"Bearer error="invalid_token""#, &refused.to_string()),
        Refused::Unacceptable(unacceptable) => {
            error(StatusCode::BAD_REQUEST, unacceptable.code(), &unacceptable.to_string())
        }
        Refused::Policy(refusal) => match refusal {
            policy::Refusal::Throttled { retry_after_ms, reason, .. } => {
                too_often(Duration::from_millis(*retry_after_ms), &reason.message)
            }
            policy::Refusal::Denied { reason, .. } => invalid(reason.message.clone()),
            policy::Refusal::ApprovalNeeded { .. } => {
                invalid("an operator of this gateway has to agree to this client, and can add it".to_owned())
            }
            policy::Refusal::PolicyFailed { .. } => {
                let told = "a policy of this gateway did not decide; try again";
                later(error(StatusCode::SERVICE_UNAVAILABLE, "server_error", told), 1)
            }
            policy::Refusal::Hidden | policy::Refusal::StepUp { .. } | policy::Refusal::NoPolicyAllowed { .. } => {
                invalid("the policies of this gateway do not let this client register".to_owned())
            }
        },
    }
}

impl Unread {
    fn into_response(self) -> Response {
        match self {
            Self::Status(status, reason) => error(status, "invalid_client_metadata", reason),
            Self::NoToken => challenge("Bearer", "the registration token is required"),
        }
    }
}

fn challenge(challenge: &'static str, reason: &str) -> Response {
    let mut response = error(StatusCode::UNAUTHORIZED, "invalid_token", reason);
    response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
    response
}

fn too_often(wait: Duration, reason: &str) -> Response {
    let seconds = wait.as_millis().div_ceil(1_000).max(1);
    later(error(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", reason), u64::try_from(seconds).unwrap_or(60))
}

fn unavailable(fault: &Fault) -> Response {
    tracing::error!(%fault, "a registration could not be decided");
    later(error(StatusCode::SERVICE_UNAVAILABLE, "server_error", "this cannot be decided now; try again"), 1)
}

fn later(mut response: Response, seconds: u64) -> Response {
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    response
}

fn error(status: StatusCode, code: &str, reason: &str) -> Response {
    let mut members = Map::new();
    members.insert("error".to_owned(), json!(code));
    members.insert("error_description".to_owned(), json!(printable(reason)));
    respond(status, &members)
}

/// What an error description may be of (RFC 6749 §5.2).
fn printable(reason: &str) -> String {
    reason.chars().map(|c| if matches!(c, ' '..='~') && !matches!(c, '"' | '\\') { c } else { '\'' }).collect()
}

fn respond(status: StatusCode, body: &Map<String, Value>) -> Response {
    private(super::super::error::json_response(status, Value::Object(body.clone()).to_string()))
}

/// Answers hold secrets, and errors are about one request (`docs/threat-model.md` row T21).
fn private(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(PRAGMA, HeaderValue::from_static("no-cache"));
    response
}

#[cfg(test)]
#[path = "register_tests.rs"]
mod tests;
