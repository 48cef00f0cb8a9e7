//! The entrance to `/mcp`: what those who are not let in are told.
//!
//! The wire says which kind of credential is wanted and where a token comes from (RFC 6750 §3, RFC 9728 §5.1), and nothing of
//! why the one that was presented is not good enough: that is in the log.
//!
//! A client that calls a loopback `public_url` by another name of the same machine (`localhost` for `127.0.0.1`) is told the
//! right one: the documents that it would find name resources and an issuer that it must not believe under this name
//! (RFC 9728 §3.3), and browsers would keep its cookies for the other. Holders of virtual keys, and those of whom
//! nothing is asked, need none of that and are served under every name.

use std::net::{Ipv4Addr, Ipv6Addr};

use askama::Template as _;
use axum::response::Response;
use http::header::{ACCEPT, AUTHORIZATION, HOST, HeaderValue, WWW_AUTHENTICATE};
use http::{HeaderMap, Method, StatusCode, Uri, request};

use super::{ENDPOINT, From};
use crate::authorization::resource::{Knock, ProtectedResource, Refusal, Unadmitted};
use crate::config::AuthMode;
use crate::http::error::{LacksScopes, Refused, undecided};
use crate::http::oauth::pages::Site;
use crate::http::serve::Peer;
use crate::identity::bearer::Unfit;
use crate::identity::{Caller, TokenList};
use crate::ids::{Principal, UpstreamName};
use crate::oauth::metadata::Challenge;

/// Where there is no authorization server to lead anybody to.
const PLAIN_CHALLENGE: &str = r#"Bearer realm="portcullis""#;

/// The caller whom a request's head vouches for. `is_again` where the same request was let in before.
pub(super) async fn enter(gate: &ProtectedResource, parts: &request::Parts, is_again: bool) -> Result<Caller, Refused> {
    let upstream = upstream(&parts.uri);
    let knock = Knock {
        method: parts.method.as_str(),
        path: parts.uri.path(),
        query: parts.uri.query(),
        headers: &parts.headers,
        upstream: upstream.as_ref().map(UpstreamName::as_str),
        is_again,
    };
    let admitted = gate.admit(&knock).await;
    let is_oauth = match &admitted {
        Ok(caller) => caller.pass.is_some(),
        Err(Unadmitted::Refused(refusal)) => gate.has_server() && is_about_oauth(refusal),
        Err(Unadmitted::Fault(_)) => false,
    };
    if is_oauth && let Some(right) = misdirected(gate.issuer(), parts) {
        let message = format!("this gateway is to be called by its own address: use {right}");
        return Err(Refused::plain(StatusCode::MISDIRECTED_REQUEST, &message));
    }
    if matches!(&admitted, Err(Unadmitted::Refused(Refusal::Key))) {
        let from = parts.extensions.get::<Peer>().and_then(|peer| peer.ip());
        gate.count_wrong_key(from).map_err(|wait| {
            tracing::info!(check = %Refusal::Key, "refused a request of an address that tries many keys");
            let message = "too many keys that are none come from there: wait";
            Refused::plain(StatusCode::TOO_MANY_REQUESTS, message).retry_after(wait)
        })?;
    }
    admitted.map_err(|unadmitted| refuse(gate, parts, &unadmitted))
}

/// What a request gets that is not let in.
pub(super) fn refuse(gate: &ProtectedResource, parts: &request::Parts, unadmitted: &Unadmitted) -> Refused {
    let refusal = match unadmitted {
        Unadmitted::Refused(refusal) => refusal,
        Unadmitted::Fault(fault) => {
            tracing::warn!(%fault, "it cannot be decided who calls");
            return undecided();
        }
    };
    let upstream = upstream(&parts.uri);
    let upstream = upstream.as_ref().map(UpstreamName::as_str);
    let challenge = |wrong| gate.challenge(upstream, wrong).unwrap_or_else(|| PLAIN_CHALLENGE.to_owned());
    let unauthenticated = |message: &str| {
        let wrong = presents(&parts.headers, "bearer").then_some(Challenge::InvalidToken);
        let refused = Refused::plain(StatusCode::UNAUTHORIZED, message).challenge(&challenge(wrong));
        let wrong = match refusal {
            Refusal::NotProven(reason) => Some(reason.code()),
            Refusal::Bound => Some("invalid_dpop_proof"),
            _ => presents(&parts.headers, "dpop").then_some("invalid_token"),
        };
        match wrong.and_then(|error| gate.proof_challenge(error)) {
            Some(challenge) => refused.challenge(&challenge),
            None => refused,
        }
    };
    match refusal {
        Refusal::Unfit(Unfit::InQuery) => {
            tracing::info!(check = %refusal, "refused a request");
            Refused::plain(
                StatusCode::BAD_REQUEST,
                "access tokens are taken in the Authorization header and nowhere else",
            )
        }
        Refusal::Unfit(Unfit::KeyAndToken) => {
            tracing::info!(check = %refusal, "refused a request");
            unauthenticated("present either an access token or a key, and not both")
        }
        Refusal::NotProven(reason) => {
            tracing::info!(check = %refusal, "refused a request");
            let refused = unauthenticated("the key of the access token has to be proven, with a proof that is new");
            if reason.wants_nonce() { refused.nonce(&gate.nonce()) } else { refused }
        }
        Refusal::Scope(held) => {
            tracing::debug!(check = %refusal, "refused a request");
            let needed = gate.needed_scopes(held, &[]);
            let message = "the access token lacks a scope that everything here needs";
            Refused::plain(StatusCode::FORBIDDEN, message)
                .challenge(&challenge(Some(Challenge::InsufficientScope(&needed))))
        }
        Refusal::Nothing if gate.has_server() && parts.method == Method::GET && is_browser(&parts.headers) => {
            Refused::page(StatusCode::UNAUTHORIZED, page(gate, upstream)).challenge(&challenge(None))
        }
        _ => {
            tracing::debug!(check = %refusal, "refused a request");
            unauthenticated(match gate.mode() {
                AuthMode::Keys => "a valid key is required",
                AuthMode::Both => "a valid access token or key is required",
                AuthMode::Oauth => "a valid access token is required",
            })
        }
    }
}

/// The upstream whose endpoint a request is for.
fn upstream(uri: &Uri) -> Option<UpstreamName> {
    uri.path().strip_prefix(ENDPOINT).and_then(|name| UpstreamName::parse(name).ok())
}

/// Whether somebody was refused who would be led to the authorization server, or comes from there.
fn is_about_oauth(refusal: &Refusal) -> bool {
    !matches!(refusal, Refusal::Key | Refusal::KeyNotTaken | Refusal::Unfit(_))
}

fn presents(headers: &HeaderMap, scheme: &str) -> bool {
    let is_it = |value: &HeaderValue| {
        let of_value = value.as_bytes().split(|byte| *byte == b' ').next();
        of_value.is_some_and(|of_value| of_value.eq_ignore_ascii_case(scheme.as_bytes()))
    };
    headers.get_all(AUTHORIZATION).iter().any(is_it)
}

/// Whether the request is a person's who wants to see something: it asks for a page, and not for what clients ask for.
fn is_browser(headers: &HeaderMap) -> bool {
    let values = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let types: Vec<String> = values
        .flat_map(|value| value.split(','))
        .filter_map(|range| Some(range.split(';').next()?.trim().to_ascii_lowercase()))
        .collect();
    let has = |kind: &str| types.iter().any(|known| known == kind);
    has("text/html") && !has("application/json") && !has("text/event-stream")
}

#[derive(askama::Template)]
#[template(path = "endpoint.html")]
struct Page {
    site: Site,
    address: String,
    takes_keys: bool,
}

fn page(gate: &ProtectedResource, upstream: Option<&str>) -> String {
    let address = match upstream {
        Some(upstream) => format!("{}/{upstream}", gate.resource()),
        None => gate.resource(),
    };
    let page = Page { site: Site::new(gate.issuer()), address, takes_keys: gate.mode() == AuthMode::Both };
    // Nothing in it can fail but memory.
    page.render().unwrap_or_default()
}

/// The right address of what was asked for by another name of a loopback `public_url`, without its query.
pub(in crate::http) fn misdirected(issuer: &str, parts: &request::Parts) -> Option<String> {
    let (_, after_scheme) = issuer.split_once("://")?;
    let own = after_scheme.split('/').next().unwrap_or(after_scheme);
    let host = parts.headers.get(HOST).and_then(|host| host.to_str().ok());
    let named = parts.uri.authority().map(http::uri::Authority::as_str).or(host)?;
    // Clients say the usual port or leave it out.
    let usual = if issuer.starts_with("https:") { ":443" } else { ":80" };
    let without = |authority: &str| authority.strip_suffix(usual).unwrap_or(authority).to_ascii_lowercase();
    let is_alias = is_loopback(own) && is_loopback(named) && without(own) != without(named);
    is_alias.then(|| format!("{issuer}{}", parts.uri.path()))
}

/// Whether `host` or `host:port` is this machine.
fn is_loopback(authority: &str) -> bool {
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback())
        || host.parse::<Ipv6Addr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

/// What a client would have to ask for that lacks scopes: all of it at once, and where (RFC 6750 §3.1, `docs/threat-model.md`
/// row T8). The scopes of a key are the operator's business: nobody who presents one is sent into a sign-in.
pub(super) struct StepsUp {
    presents_key: bool,
    upstream: Option<UpstreamName>,
    held: TokenList,
}

impl StepsUp {
    pub(super) fn of(from: &From<'_>) -> Self {
        let held = from.caller.pass.as_ref().map(|pass| pass.scopes.clone()).unwrap_or_default();
        let presents_key = from.caller.pass.is_none() && from.caller.principal != Principal::Anonymous;
        Self { presents_key, upstream: from.scope.endpoint().cloned(), held }
    }

    /// The answer with the challenge that belongs to it, if scopes are lacking. One that another replica has answered with is
    /// complete.
    pub(super) fn complete(self, gate: &ProtectedResource, mut answer: Response) -> Response {
        if let Some(LacksScopes(lacking)) = answer.extensions_mut().remove().filter(|_| !self.presents_key) {
            let needed = gate.needed_scopes(&self.held, &lacking);
            let wrong = Some(Challenge::InsufficientScope(&needed));
            let challenge = gate.challenge(self.upstream.as_ref().map(UpstreamName::as_str), wrong);
            if let Some(challenge) = challenge.and_then(|challenge| HeaderValue::try_from(challenge).ok()) {
                answer.headers_mut().insert(WWW_AUTHENTICATE, challenge);
            }
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_with_and_without_the_usual_port_is_the_same() {
        let right = |issuer: &str, host: &str| {
            let request = http::Request::builder().uri("/mcp").header(HOST, host).body(()).unwrap();
            misdirected(issuer, &request.into_parts().0)
        };
        for (issuer, host, is_right) in [
            ("http://localhost", "localhost:80", true),
            ("http://localhost", "LOCALHOST", true),
            ("http://localhost:80", "localhost", true),
            ("https://localhost", "localhost:443", true),
            ("http://[::1]", "[::1]:80", true),
            ("http://localhost", "localhost:443", false),
            ("https://localhost", "localhost:80", false),
            ("http://localhost", "127.0.0.1:80", false),
            ("http://localhost:8080", "localhost", false),
        ] {
            let expected = (!is_right).then(|| format!("{issuer}/mcp"));
            assert_eq!(right(issuer, host), expected, "{issuer} as {host}");
        }
    }
}
