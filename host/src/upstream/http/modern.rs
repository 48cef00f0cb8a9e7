//! Requests of the modern era: one POST each, with headers that repeat what the body says, and no session (2026-07-28,
//! transports/streamable-http). Dropping a request closes its answer, which takes it back.

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;

use super::peer::{self, Peer, drain};
use super::stream::{self, ANOTHER_REQUEST, Messages, NOT_A_MESSAGE};
use super::{Failure, within};
use crate::mcp::call::Outcome;
use crate::mcp::error::HEADER_MISMATCH;
use crate::mcp::message::{self, Message};
use crate::mcp::revision::v2026_07_28;
use crate::mcp::talk::Event;
use crate::upstream::{Exchange, UpstreamError, credential, read_notice};

/// Makes a request.
pub(super) async fn exchange(peer: &Peer, exchange: &Exchange) -> Result<Outcome, Failure> {
    tokio::select! {
        answered = within(&exchange.deadline, ask(peer, exchange)) => answered,
        () = exchange.via.cancelled.cancelled() => Err(UpstreamError::Cancelled.into()),
    }
}

/// The headers of a request. Those of ours win over what is configured.
pub(super) fn set_headers(
    request: &mut Request<Bytes>,
    method: &'static str,
    name: Option<&str>,
    others: &[(HeaderName, HeaderValue)],
) {
    for (name, value) in others.iter().cloned().chain(v2026_07_28::request_headers(method, name)) {
        request.headers_mut().insert(name, value);
    }
}

async fn ask(peer: &Peer, exchange: &Exchange) -> Result<Outcome, Failure> {
    let progress = exchange.params.progress_token.as_ref().map(|_| &exchange.id);
    let params = v2026_07_28::request_params(&exchange.params, &exchange.via.party, progress);
    let mut request = peer.post(&peer.endpoint, message::request(&exchange.id, exchange.method, &params));
    let lent = exchange.via.party.lent.as_deref();
    peer.pass_on(&mut request, &exchange.via.party);
    peer::show(&mut request, lent);
    set_headers(&mut request, exchange.method, exchange.name.as_deref(), &exchange.headers);
    let response = peer.send(request).await?;
    let status = response.status();
    if status.is_success() {
        return Ok(read(peer, response, exchange).await?);
    }
    let error = credential::refused(status, response.headers(), lent);
    if !matches!(status, StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED) {
        _ = drain(response).await;
        return Err(error.into());
    }
    let Some(refusal) = stream::read_refusal(response).await else { return Err(Failure::Misspoken(Err(error))) };
    if refusal.code == i64::from(HEADER_MISMATCH) {
        // The tool may repeat other arguments in headers than we know of.
        peer.signals.lists_changed(&exchange.via.party.principal);
    }
    let is_modern = v2026_07_28::is_modern_error(refusal.code);
    let is_ours = refusal.id.as_ref() == Some(&exchange.id) || (refusal.id.is_none() && is_modern);
    if v2026_07_28::supported(&refusal.error).is_some() {
        return Err(Failure::Misspoken(Ok(Outcome::Error(refusal.error))));
    }
    if is_ours { Ok(Outcome::Error(refusal.error)) } else { Err(Failure::Misspoken(Err(error))) }
}

/// Reads the answer to a request.
async fn read(peer: &Peer, response: Response<Incoming>, exchange: &Exchange) -> Result<Outcome, UpstreamError> {
    let mut messages = Messages::of(response, peer.limits.message_bytes)?;
    while let Some(text) = messages.next().await? {
        match Message::from_upstream(&text).map_err(|_| NOT_A_MESSAGE)? {
            Message::Result { id, result } if id == exchange.id => return Ok(v2026_07_28::outcome(result)),
            Message::Error { id, error } if id.as_ref().is_none_or(|id| *id == exchange.id) => {
                return Ok(Outcome::Error(error.to_owned()));
            }
            Message::Notification { method, params } => {
                if let Some(notice) = read_notice(&peer.name, &method, params, &exchange.id) {
                    // A caller that does not read uses up the request's time.
                    _ = exchange.via.events.send(Event::Notice(notice)).await;
                }
            }
            Message::Request { .. } => tracing::debug!("an upstream asked what its revision does not let it ask"),
            Message::Result { .. } | Message::Error { .. } => return Err(ANOTHER_REQUEST),
        }
    }
    if messages.is_stream() {
        return Err(UpstreamError::Died);
    }
    Err(UpstreamError::Protocol { what: "its answer has no response to the request" })
}
