//! `POST /oauth2/token`, and its siblings: revocation, introspection, pushed requests.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use http::StatusCode;
use http::header::{CACHE_CONTROL, HeaderValue};
use serde_json::{Map, Value, json};

use super::client::{Asked, read};
use super::error::{OAuthError, json_answer};
use super::parameters::Parameters;
use super::{Access, OAuth, Route};
use crate::authorization::proofs::NotProven;
use crate::authorization::token::client_credentials::{self, Wanted};
use crate::authorization::token::device::{self, Poll};
use crate::authorization::token::exchange::{Exchange, exchange};
use crate::authorization::token::id_jag;
use crate::authorization::token::introspect::{Active, Introspection, Kind, introspect};
use crate::authorization::token::pushed::{self, Pushing};
use crate::authorization::token::refresh::{Renewal, refresh};
use crate::authorization::token::revoke::revoke;
use crate::authorization::token::{From, Issued, Refused, Unproven, token_exchange};
use crate::oauth::client::GrantType;
use crate::oauth::dpop::Proof;
use crate::oauth::metadata;
use crate::secret::Digest;

/// Types of tokens that are exchanged (RFC 8693 §3).
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";

pub(super) const ROUTES: &[Route] = &[
    Route { methods: "POST", path: metadata::TOKEN, access: Access::Client, handler: || post(token) },
    Route { methods: "POST", path: metadata::REVOKE, access: Access::Client, handler: || post(revocation) },
    Route { methods: "POST", path: metadata::INTROSPECT, access: Access::Client, handler: || post(introspection) },
    Route { methods: "POST", path: metadata::PUSHED, access: Access::Client, handler: || post(pushing) },
];

/// RFC 6749 §3.2.
async fn token(State(oauth): State<Arc<OAuth>>, request: Request) -> Result<Response, OAuthError> {
    let mut grant = "none";
    let answered = granted(&oauth, request, &mut grant).await;
    let outcome = match &answered {
        Ok(response) if response.status().is_success() => "done",
        Ok(_) => "waiting",
        Err(OAuthError::Fault(_) | OAuthError::OutOfDate) => "fault",
        Err(_) => "refused",
    };
    oauth.counts.tokens.count([grant, outcome]);
    answered
}

/// The same; `grant` becomes the word for what is asked for.
async fn granted(oauth: &Arc<OAuth>, request: Request, grant: &mut &'static str) -> Result<Response, OAuthError> {
    let asked = read(oauth, request).await?;
    let proof = asked.proof(oauth).await?;
    let Asked { client, mut parameters, from, .. } = asked;
    let grant_type = parameters.take("grant_type").ok_or(OAuthError::Missing("grant_type"))?;
    let grants = oauth.server.settings().grants.clone();
    let grant_type = GrantType::parse(&grant_type);
    *grant = grant_type.map_or("none", word);
    let issued = match grant_type {
        Some(GrantType::AuthorizationCode) => {
            let presented = Exchange {
                code: parameters.take_secret("code").ok_or(OAuthError::Missing("code"))?,
                redirect_uri: parameters.take("redirect_uri").ok_or(OAuthError::Missing("redirect_uri"))?,
                verifier: parameters.take_secret("code_verifier"),
                resources: parameters.take_all("resource"),
                proof,
            };
            exchange(&oauth.server, &client, presented).await??
        }
        Some(GrantType::RefreshToken) => {
            let presented = Renewal {
                token: parameters.take_secret("refresh_token").ok_or(OAuthError::Missing("refresh_token"))?,
                scope: parameters.take("scope"),
                resources: parameters.take_all("resource"),
                proof,
                from,
            };
            refresh(&oauth.server, &client, presented).await??
        }
        Some(GrantType::ClientCredentials) if grants.client_credentials => {
            let wanted =
                Wanted { scope: parameters.take("scope"), resources: parameters.take_all("resource"), proof, from };
            client_credentials::grant(&oauth.server, &client, wanted).await??
        }
        Some(GrantType::DeviceCode) if grants.device => {
            let code = parameters.take_secret("device_code").ok_or(OAuthError::Missing("device_code"))?;
            match device::grant(&oauth.server, &client, &code, proof).await?? {
                Poll::Issued(issued) => issued,
                poll => return Ok(waiting(&poll)),
            }
        }
        Some(GrantType::TokenExchange) if grants.token_exchange => {
            let wanted = exchanging(&mut parameters, proof, from)?;
            let mut answer = told(&token_exchange::grant(&oauth.server, &client, wanted).await??);
            answer["issued_token_type"] = json!(ACCESS_TOKEN);
            return Ok(json_answer(StatusCode::OK, &answer));
        }
        Some(GrantType::JwtBearer) if !grants.identity_assertions.is_empty() => {
            let presented = id_jag::Presented {
                assertion: parameters.take_secret("assertion").ok_or(OAuthError::Missing("assertion"))?,
                scope: parameters.take("scope"),
                resources: parameters.take_all("resource"),
                proof,
                from,
            };
            id_jag::grant(&oauth.server, &client, presented).await??
        }
        _ => return Err(OAuthError::GrantType),
    };
    Ok(json_answer(StatusCode::OK, &told(&issued)))
}

/// The word for metrics.
const fn word(grant_type: GrantType) -> &'static str {
    match grant_type {
        GrantType::AuthorizationCode => "authorization_code",
        GrantType::RefreshToken => "refresh_token",
        GrantType::ClientCredentials => "client_credentials",
        GrantType::DeviceCode => "device_code",
        GrantType::TokenExchange => "token_exchange",
        GrantType::JwtBearer => "jwt_bearer",
    }
}

/// RFC 8693 §2.1. Nobody acts for somebody who is not there: there is no `actor_token`.
fn exchanging(
    parameters: &mut Parameters,
    proof: Option<Digest>,
    from: From,
) -> Result<token_exchange::Wanted, OAuthError> {
    let subject = parameters.take_secret("subject_token").ok_or(OAuthError::Missing("subject_token"))?;
    let kind = parameters.take("subject_token_type").ok_or(OAuthError::Missing("subject_token_type"))?;
    let requested = parameters.take("requested_token_type");
    if ![ACCESS_TOKEN, JWT].contains(&kind.as_str()) || requested.is_some_and(|kind| kind != ACCESS_TOKEN) {
        return Err(OAuthError::TokenType);
    }
    if parameters.has("actor_token") || parameters.has("actor_token_type") {
        return Err(OAuthError::ActorToken);
    }
    let mut resources = parameters.take_all("resource");
    resources.extend(parameters.take_all("audience"));
    Ok(token_exchange::Wanted { subject, scope: parameters.take("scope"), resources, proof, from })
}

/// What a device is told that has nothing yet, or gets nothing (RFC 8628 §3.5).
fn waiting(poll: &Poll) -> Response {
    let (code, description) = match poll {
        Poll::Issued(_) | Poll::Pending => ("authorization_pending", "nobody has decided yet: ask again"),
        Poll::SlowDown => ("slow_down", "ask less often, five seconds more between two questions"),
        Poll::Denied => ("access_denied", "the person has refused"),
        Poll::Expired => ("expired_token", "the code counts no more: begin anew"),
        Poll::Invalid => ("invalid_grant", "the code is not valid, or not valid any more"),
    };
    json_answer(StatusCode::BAD_REQUEST, &json!({ "error": code, "error_description": description }))
}

/// RFC 6749 §5.1.
fn told(issued: &Issued) -> Value {
    let Issued { access_token, is_bound, life, refresh_token, scopes } = issued;
    let mut answer = Map::new();
    let mut say = |member: &str, value: Value| answer.insert(member.to_owned(), value);
    say("access_token", json!(access_token.expose()));
    say("token_type", json!(if *is_bound { "DPoP" } else { "Bearer" }));
    say("expires_in", json!(life.as_secs()));
    if let Some(token) = refresh_token {
        say("refresh_token", json!(token.expose()));
    }
    if !scopes.is_empty() {
        say("scope", json!(scopes.join(" ")));
    }
    Value::Object(answer)
}

/// RFC 7009 §2.
async fn revocation(State(oauth): State<Arc<OAuth>>, request: Request) -> Result<Response, OAuthError> {
    let Asked { client, mut parameters, .. } = read(&oauth, request).await?;
    let token = parameters.take_secret("token").ok_or(OAuthError::Missing("token"))?;
    revoke(&oauth.server, &client, &token).await?;
    Ok((StatusCode::OK, [(CACHE_CONTROL, HeaderValue::from_static("no-store"))]).into_response())
}

/// RFC 7662 §2.
async fn introspection(State(oauth): State<Arc<OAuth>>, request: Request) -> Result<Response, OAuthError> {
    let Asked { client, mut parameters, .. } = read(&oauth, request).await?;
    let token = parameters.take_secret("token").ok_or(OAuthError::Missing("token"))?;
    let answer = match introspect(&oauth.server, &client, &token).await? {
        Introspection::Active(active) => known(&oauth.server.issuer, &active),
        Introspection::Inactive => json!({ "active": false }),
        Introspection::Public => return Err(Refused::Client(Unproven::InRequest).into()),
    };
    Ok(json_answer(StatusCode::OK, &answer))
}

/// RFC 7662 §2.2.
fn known(issuer: &str, active: &Active) -> Value {
    let Active { kind, principal, client, resources, scopes, proof, actors, issued, expires } = active;
    let mut answer = json!({
        "active": true, "iss": issuer, "sub": principal.to_string(), "client_id": client.as_str(),
        "aud": resources.to_vec(), "scope": scopes.join(" "),
        "iat": issued.as_millis() / 1_000, "exp": expires.as_millis() / 1_000,
    });
    match kind {
        Kind::Access(jti) => {
            answer["token_type"] = json!(if proof.is_some() { "DPoP" } else { "Bearer" });
            answer["jti"] = json!(jti);
        }
        Kind::Refresh => answer["token_type"] = json!("refresh_token"),
    }
    // RFC 8693 §4.1.
    let chain = actors.iter().rev().fold(None, |act: Option<Value>, actor| {
        let mut one = json!({ "sub": actor.as_str() });
        if let Some(act) = act {
            one["act"] = act;
        }
        Some(one)
    });
    if let Some(act) = chain {
        answer["act"] = act;
    }
    if let Some(key) = proof {
        // RFC 9449 §6.2.
        answer["cnf"] = json!({ "jkt": Proof::thumbprint(key) });
    }
    answer
}

/// RFC 9126 §2.
async fn pushing(State(oauth): State<Arc<OAuth>>, request: Request) -> Result<Response, OAuthError> {
    let asked = read(&oauth, request).await?;
    oauth.server.doors.pushed.count(asked.from.address).map_err(|wait| OAuthError::TooOften { wait })?;
    if asked.parameters.has("request_uri") {
        return Err(OAuthError::Nested);
    }
    let proof = asked.proof(&oauth).await?.map(|key| Proof::thumbprint(&key));
    let Asked { client, mut parameters, .. } = asked;
    let named = parameters.take("dpop_jkt");
    if named.is_some() && proof.is_some() && named != proof {
        return Err(OAuthError::NotProven { reason: NotProven::OtherKey, nonce: None });
    }
    // As `authorize` gets it: with the name of the client, whichever way it was told.
    let text = {
        let mut form = form_urlencoded::Serializer::new(parameters.to_form());
        form.append_pair("client_id", client.id.as_str());
        // A proof says the same as the parameter (RFC 9449 §10.1).
        if let Some(key) = named.or(proof) {
            form.append_pair("dpop_jkt", &key);
        }
        form.finish()
    };
    match pushed::keep(&oauth.server, &client, text).await? {
        Pushing::Kept(reference) => {
            let answer = json!({ "request_uri": reference.expose(), "expires_in": pushed::LIFE.as_secs() });
            Ok(json_answer(StatusCode::CREATED, &answer))
        }
        Pushing::TooLarge => Err(super::parameters::ParameterError::TooLarge.into()),
        Pushing::Refused(check) => {
            let told = json!({ "error": check.error(), "error_description": check.description() });
            Ok(json_answer(StatusCode::BAD_REQUEST, &told))
        }
        Pushing::TooMany => Err(OAuthError::Full),
    }
}

#[cfg(test)]
mod tests;
