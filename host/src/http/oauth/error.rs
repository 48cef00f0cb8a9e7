//! What clients are told of what they do not get (RFC 6749 §5.2): one catalogue, and one mapping of refusals onto it.
//!
//! Descriptions say what to do and nothing of what we know: why a credential was not good enough is for the log.

use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use serde_json::{Value, json};

use super::super::body::BodyError;
use super::parameters::ParameterError;
use crate::authorization::Fault;
use crate::authorization::proofs::{NONCE_HEADER, NotProven};
use crate::authorization::token::{NoGrant, Refused, Unproven};

/// When a client may come again after a fault of ours.
const FAULT_RETRY: Duration = Duration::from_secs(1);

/// Why there is nothing else to answer.
#[derive(Debug)]
pub(super) enum OAuthError {
    Body(BodyError),
    /// A body with a content encoding.
    Encoded,
    /// A body that is no form.
    NotAForm,
    Parameters(ParameterError),
    Missing(&'static str),
    /// The client shows who it is in two ways, or says two different names.
    TwoMethods,
    /// A grant type that is none, or that is not on.
    GrantType,
    /// A pushed request that names another (RFC 9126 §2.1).
    Nested,
    /// A type of token that is not exchanged, or not given for another (RFC 8693 §2.1).
    TokenType,
    /// An `actor_token`.
    ActorToken,
    /// More is waiting than may.
    Full,
    /// It is not known what other gateways have changed in the store.
    OutOfDate,
    TooOften {
        wait: Duration,
    },
    /// A DPoP proof that proves nothing, with a nonce where the next one is better with it.
    NotProven {
        reason: NotProven,
        nonce: Option<String>,
    },
    Refused(Refused),
    Fault(Fault),
}

impl From<Refused> for OAuthError {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

impl From<Fault> for OAuthError {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<ParameterError> for OAuthError {
    fn from(error: ParameterError) -> Self {
        Self::Parameters(error)
    }
}

/// An error as it is told.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    status: u16,
    code: &'static str,
    description: String,
    /// Whether the client is told to try `Authorization: Basic` again.
    is_challenged: bool,
    retry_after: Option<Duration>,
}

fn told(status: u16, code: &'static str, description: impl Into<String>) -> Told {
    Told { status, code, description: description.into(), is_challenged: false, retry_after: None }
}

impl Told {
    fn after(self, wait: Duration) -> Self {
        Self { retry_after: Some(wait), ..self }
    }
}

impl OAuthError {
    fn told(&self) -> Told {
        const INVALID: &str = "invalid_request";
        match self {
            Self::Body(error) => told(error.status().as_u16(), INVALID, error.to_string()),
            Self::Encoded => told(415, INVALID, "only bodies without content encoding are read"),
            Self::NotAForm => told(400, INVALID, "the body must be application/x-www-form-urlencoded, in UTF-8"),
            Self::Parameters(error @ ParameterError::TooLarge) => told(413, INVALID, error.to_string()),
            Self::Parameters(error) => told(400, INVALID, error.to_string()),
            Self::Missing(name) => told(400, INVALID, format!("the parameter {name} is missing")),
            Self::TwoMethods => told(400, INVALID, "a client shows who it is in one way, and has one name"),
            Self::GrantType => told(400, "unsupported_grant_type", "this grant type is not supported"),
            Self::Nested => told(400, INVALID, "a pushed request must not have a request_uri"),
            Self::TokenType => told(400, INVALID, "only access tokens are exchanged, for access tokens"),
            Self::ActorToken => told(400, INVALID, "no actor_token is taken: the client acts itself"),
            Self::Full => told(503, "server_error", "too many requests wait: try again").after(FAULT_RETRY),
            Self::OutOfDate => {
                told(503, "server_error", "it is not known what has changed: try again").after(FAULT_RETRY)
            }
            Self::TooOften { wait } => told(429, "too_many_requests", "there were too many requests").after(*wait),
            Self::NotProven { reason, .. } if reason.wants_nonce() => {
                told(400, reason.code(), "the DPoP proof needs the nonce that comes with this answer")
            }
            Self::NotProven { reason, .. } => told(400, reason.code(), "the DPoP proof is not valid"),
            Self::Refused(refused) => told_of(refused),
            Self::Fault(_) => {
                told(503, "server_error", "nothing was decided: try again with the same request").after(FAULT_RETRY)
            }
        }
    }
}

fn told_of(refused: &Refused) -> Told {
    match refused {
        Refused::Client(tried) => {
            let is_challenged = *tried == Unproven::ByHeader;
            Told { is_challenged, ..told(401, "invalid_client", "the client is not known, or not authenticated") }
        }
        Refused::GrantType => told(400, "unauthorized_client", "the client is not registered for this grant type"),
        Refused::Grant(reason) => told(400, "invalid_grant", of_grant(*reason)),
        Refused::Scopes => told(400, "invalid_scope", "a scope is none, or was not granted"),
        Refused::Resources => told(400, "invalid_target", "a resource is none, or was not granted"),
        // RFC 8693 §2.2.2.
        Refused::SubjectToken => told(400, "invalid_request", "the subject_token is not valid, or not this client's"),
        Refused::ProofNeeded => {
            told(400, "invalid_dpop_proof", "the token has to be bound to a key, with a DPoP proof")
        }
        Refused::TooLarge => {
            told(400, "invalid_scope", "the token would be too large: ask for fewer scopes or resources")
        }
        Refused::Throttled { wait } => told(429, "too_many_requests", "a policy lets this happen later").after(*wait),
        Refused::Undecided => {
            told(503, "server_error", "a policy did not answer: try again with the same request").after(FAULT_RETRY)
        }
    }
}

/// Says no more than whoever presented it may know: the same for what there never was and what is over.
const fn of_grant(reason: NoGrant) -> &'static str {
    match reason {
        NoGrant::Policy => "a policy refuses: it may agree after the person has consented again",
        NoGrant::TooOften => "the token was used too often: use the newest one",
        _ => "it is not valid, or not valid any more: the person has to consent again",
    }
}

impl IntoResponse for OAuthError {
    fn into_response(self) -> Response {
        match &self {
            // Strangers can bring that about.
            Self::Fault(Fault::Busy) => tracing::info!("the authorization server was too busy to decide"),
            Self::Fault(fault) => {
                let error: &(dyn std::error::Error + 'static) = fault;
                tracing::error!(error, "the authorization server could not decide");
            }
            Self::Refused(Refused::Grant(reason)) => {
                tracing::info!(reason = reason.as_str(), "a grant was refused to a client");
            }
            Self::NotProven { reason, .. } => tracing::info!(%reason, "a proof of a key was refused to a client"),
            error => tracing::debug!(?error, "refused a request to the authorization server"),
        }
        let Told { status, code, description, is_challenged, retry_after } = self.told();
        let nonce = match self {
            Self::NotProven { nonce, .. } => nonce,
            _ => None,
        };
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = json_answer(status, &json!({ "error": code, "error_description": description }));
        if is_challenged {
            let challenge = HeaderValue::from_static(r#"Basic realm="portcullis", charset="UTF-8""#);
            response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
        }
        if let Some(nonce) = nonce {
            let nonce = HeaderValue::try_from(nonce).expect("base64url is a header");
            response.headers_mut().insert(NONCE_HEADER, nonce);
        }
        if let Some(wait) = retry_after {
            let seconds = wait.as_millis().div_ceil(1_000).max(1);
            let seconds = HeaderValue::try_from(seconds.to_string()).expect("digits");
            response.headers_mut().insert(RETRY_AFTER, seconds);
        }
        response
    }
}

/// An answer that nobody keeps (`docs/threat-model.md` row T21).
pub(super) fn json_answer(status: StatusCode, body: &Value) -> Response {
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oauth::dpop::Invalid;
    use crate::oauth::grant::Gone;
    use crate::oauth::request::Mismatch;
    use crate::store::StoreError;

    #[test]
    fn every_refusal_has_its_status_and_code() {
        use OAuthError as E;
        let grant = |reason| E::Refused(Refused::Grant(reason));
        let wait = Duration::from_millis(1_500);
        let rows = [
            (E::Body(BodyError::TooLarge { limit: 1 }), 413, "invalid_request", None),
            (E::Body(BodyError::TimedOut), 408, "invalid_request", None),
            (E::Encoded, 415, "invalid_request", None),
            (E::NotAForm, 400, "invalid_request", None),
            (E::Parameters(ParameterError::TooLarge), 413, "invalid_request", None),
            (E::Parameters(ParameterError::NotText), 400, "invalid_request", None),
            (E::Parameters(ParameterError::Twice("code".to_owned())), 400, "invalid_request", None),
            (E::Missing("code"), 400, "invalid_request", None),
            (E::TwoMethods, 400, "invalid_request", None),
            (E::GrantType, 400, "unsupported_grant_type", None),
            (E::Nested, 400, "invalid_request", None),
            (E::TokenType, 400, "invalid_request", None),
            (E::ActorToken, 400, "invalid_request", None),
            (E::Full, 503, "server_error", Some("1")),
            (E::OutOfDate, 503, "server_error", Some("1")),
            (E::TooOften { wait }, 429, "too_many_requests", Some("2")),
            (E::Refused(Refused::Client(Unproven::ByHeader)), 401, "invalid_client", None),
            (E::Refused(Refused::Client(Unproven::InRequest)), 401, "invalid_client", None),
            (E::Refused(Refused::GrantType), 400, "unauthorized_client", None),
            (grant(NoGrant::Gone(Gone::Unknown)), 400, "invalid_grant", None),
            (grant(NoGrant::Gone(Gone::Expired)), 400, "invalid_grant", None),
            (grant(NoGrant::Gone(Gone::Revoked)), 400, "invalid_grant", None),
            (grant(NoGrant::Gone(Gone::Restored)), 400, "invalid_grant", None),
            (grant(NoGrant::Gone(Gone::Client)), 400, "invalid_grant", None),
            (E::Refused(Mismatch::Client.into()), 400, "invalid_grant", None),
            (E::Refused(Mismatch::RedirectUri.into()), 400, "invalid_grant", None),
            (E::Refused(Mismatch::Verifier.into()), 400, "invalid_grant", None),
            (E::Refused(Mismatch::Proof.into()), 400, "invalid_grant", None),
            (E::Refused(Mismatch::Scope.into()), 400, "invalid_scope", None),
            (E::Refused(Mismatch::Resource.into()), 400, "invalid_target", None),
            (grant(NoGrant::Replayed), 400, "invalid_grant", None),
            (grant(NoGrant::TooOften), 400, "invalid_grant", None),
            (grant(NoGrant::Principal), 400, "invalid_grant", None),
            (grant(NoGrant::Policy), 400, "invalid_grant", None),
            (grant(NoGrant::Assertion), 400, "invalid_grant", None),
            (E::Refused(Refused::SubjectToken), 400, "invalid_request", None),
            (E::Refused(Refused::ProofNeeded), 400, "invalid_dpop_proof", None),
            (E::Refused(Refused::TooLarge), 400, "invalid_scope", None),
            (E::NotProven { reason: NotProven::Replayed, nonce: None }, 400, "invalid_dpop_proof", None),
            (E::NotProven { reason: Invalid::Nonce.into(), nonce: Some("n".to_owned()) }, 400, "use_dpop_nonce", None),
            (E::Refused(Refused::Throttled { wait }), 429, "too_many_requests", Some("2")),
            (E::Refused(Refused::Undecided), 503, "server_error", Some("1")),
            (E::Fault(Fault::Store(StoreError::Busy)), 503, "server_error", Some("1")),
            (E::Fault(Fault::Key), 503, "server_error", Some("1")),
            (E::Fault(Fault::Issuer), 503, "server_error", Some("1")),
            (E::Fault(Fault::Busy), 503, "server_error", Some("1")),
        ];
        for (error, status, code, retry) in rows {
            let name = format!("{error:?}");
            let told = error.told();
            assert_eq!((told.status, told.code), (status, code), "{name}");
            // RFC 6749 §5.2: what a description may be made of.
            let is_allowed = |c: char| matches!(c, '\u{20}'..='\u{7e}') && c != '"' && c != '\\';
            assert!(!told.description.is_empty() && told.description.chars().all(is_allowed), "{told:?}");
            let response = error.into_response();
            assert_eq!(response.headers()[CACHE_CONTROL], "no-store", "{name}");
            assert_eq!(response.headers().get(RETRY_AFTER).map(|wait| wait.to_str().unwrap()), retry, "{name}");
            let is_challenged = response.headers().contains_key(WWW_AUTHENTICATE);
            assert_eq!(is_challenged, name.contains("ByHeader"), "{name}");
        }
    }

    #[test]
    fn what_there_never_was_and_what_is_over_are_told_alike() {
        let told = |reason| OAuthError::Refused(Refused::Grant(reason)).told();
        let unknown = told(NoGrant::Gone(Gone::Unknown));
        for reason in [
            NoGrant::Gone(Gone::Revoked),
            NoGrant::Gone(Gone::Expired),
            NoGrant::Mismatch(Mismatch::Client),
            NoGrant::Replayed,
            NoGrant::Principal,
        ] {
            assert_eq!(told(reason), unknown, "{reason:?}");
        }
    }
}
