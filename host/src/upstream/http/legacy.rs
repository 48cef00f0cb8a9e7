//! Requests within a session of the legacy era.
//!
//! Over streamable HTTP a request has an answer of its own, be it one message or a stream; a stream that ends before the
//! answer is resumed where its events have ids (2025-11-25, transports § resumability). Over HTTP with server-sent
//! events all answers come on the session's one stream.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::value::RawValue;
use tokio::sync::oneshot;

use super::Failure;
use super::detect::decides_nothing;
use super::peer::drain;
use super::session::{Carrier, Session};
use super::stream::{self, ANOTHER_REQUEST, Messages, Refusal};
use crate::mcp::call::Outcome;
use crate::mcp::message::{self, Message};
use crate::mcp::revision::{legacy, v2026_07_28};
use crate::mcp::talk::{Event, Notice};
use crate::upstream::{Exchange, UpstreamError, credential, read_notice};

pub(super) const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// How long to wait before coming back where the upstream does not say.
pub(super) const RETRY: Duration = Duration::from_secs(1);
/// However short the upstream wants the wait to be.
const SHORTEST_RETRY: Duration = Duration::from_millis(100);
/// Times that one request's stream is resumed.
const MAX_RESUMPTIONS: usize = 1_000;
/// Attempts in a row to resume a stream that meet an error.
const MAX_FAILURES: usize = 5;

impl Session {
    /// Makes a request.
    pub(super) async fn exchange(self: &Arc<Self>, exchange: &Exchange) -> Result<Outcome, Failure> {
        let (answer, answered) = match &self.carrier {
            Carrier::Streamable { .. } => (None, None),
            Carrier::Sse { .. } => {
                let (answer, answered) = oneshot::channel();
                (Some(answer), Some(answered))
            }
        };
        let mut under_way = self.begin(exchange, answer);
        let asking = async {
            match answered {
                None => self.ask(exchange).await,
                Some(answered) => self.ask_aside(exchange, answered).await,
            }
        };
        let result = tokio::select! {
            result = asking => result,
            () = exchange.via.cancelled.cancelled() => Err(UpstreamError::Cancelled.into()),
            () = exchange.deadline.passed() => {
                Err(UpstreamError::TimedOut { after: exchange.deadline.timeout() }.into())
            }
        };
        if !matches!(&result, Err(Failure::Final(UpstreamError::Cancelled | UpstreamError::TimedOut { .. }))) {
            under_way.settle();
        }
        result
    }

    fn request(&self, exchange: &Exchange) -> Request<Bytes> {
        let progress = exchange.params.progress_token.as_ref().map(|_| &exchange.id);
        let params = legacy::request_params(&exchange.params, progress);
        let mut request = self.post(message::request(&exchange.id, exchange.method, &params));
        self.peer.pass_on(&mut request, &exchange.via.party);
        request
    }

    async fn ask(self: &Arc<Self>, exchange: &Exchange) -> Result<Outcome, Failure> {
        let response = self.peer.send(self.request(exchange)).await?;
        let status = response.status();
        if status.is_success() {
            return Ok(self.read(response, exchange).await?);
        }
        let error = credential::refused(status, response.headers(), self.shown().as_deref());
        if !matches!(status, StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED) {
            _ = drain(response).await;
            return Err(error.into());
        }
        let refusal = stream::read_refusal(response).await;
        match refusal {
            Some(refusal) if is_answer(&refusal, status, exchange) => Ok(Outcome::Error(refusal.error)),
            _ if self.has_id() && status != StatusCode::METHOD_NOT_ALLOWED => Err(Failure::SessionGone(error)),
            // Nothing happened, and perhaps it is another server now.
            _ => Err(Failure::Misspoken(Err(error))),
        }
    }

    /// Reads the answer to a request, coming back for the rest as often as the upstream wants.
    async fn read(
        self: &Arc<Self>,
        response: Response<Incoming>,
        exchange: &Exchange,
    ) -> Result<Outcome, UpstreamError> {
        let mut messages = Messages::of(response, self.peer.limits.message_bytes)?;
        let (mut resumptions, mut failures) = (0, 0);
        let (mut last, mut retry) = (None, RETRY);
        loop {
            let ended = loop {
                match messages.next().await {
                    Ok(Some(text)) => {
                        failures = 0;
                        if let Some(outcome) = self.take(&text, exchange).await? {
                            return Ok(outcome);
                        }
                    }
                    Ok(None) => break Ok(()),
                    Err(UpstreamError::Died) => break Err(UpstreamError::Died),
                    Err(error) => return Err(error),
                }
            };
            if !messages.is_stream() {
                let incomplete = UpstreamError::Protocol { what: "its answer has no response to the request" };
                return Err(ended.err().unwrap_or(incomplete));
            }
            last = messages.last_event_id().map(str::to_owned).or(last);
            retry = messages.retry().unwrap_or(retry).max(SHORTEST_RETRY);
            let Some(last) = last.as_deref() else { return Err(UpstreamError::Died) };
            if ended.is_ok() {
                // Nobody has to know: a caller that cannot come back waits.
                _ = exchange.via.events.try_send(Event::Notice(Notice::Pause { retry }));
            }
            messages = loop {
                (resumptions, failures) = (resumptions + 1, failures + 1);
                if resumptions > MAX_RESUMPTIONS || failures > MAX_FAILURES {
                    return Err(UpstreamError::Died);
                }
                tokio::time::sleep(retry).await;
                if let Some(messages) = self.resume(last).await? {
                    break messages;
                }
            };
        }
    }

    /// Asks for what followed an event. `None`: it did not work this time.
    async fn resume(&self, last: &str) -> Result<Option<Messages>, UpstreamError> {
        let mut request = self.within(self.peer.get());
        let last = HeaderValue::from_bytes(last.as_bytes()).map_err(|_| UpstreamError::Died)?;
        request.headers_mut().insert(LAST_EVENT_ID, last);
        let response = match self.peer.send(request).await {
            Ok(response) => response,
            Err(UpstreamError::Unreachable { .. } | UpstreamError::Died) => return Ok(None),
            Err(error) => return Err(error),
        };
        let status = response.status();
        if status.is_success() && stream::is_event_stream(&response) {
            return Messages::of(response, self.peer.limits.message_bytes).map(Some);
        }
        // It is not for want of the session that nobody knows whether the call happened.
        if decides_nothing(status) { Ok(None) } else { Err(UpstreamError::Died) }
    }

    /// Takes the messages of one event on the request's own stream; the outcome, if the answer is among them.
    async fn take(self: &Arc<Self>, text: &[u8], exchange: &Exchange) -> Result<Option<Outcome>, UpstreamError> {
        let mut outcome = None;
        for message in stream::parts(text)? {
            match message {
                Message::Result { id, result } if id == exchange.id => {
                    outcome = Some(Outcome::Result(result.to_owned()));
                }
                Message::Error { id, error } if id.as_ref().is_none_or(|id| *id == exchange.id) => {
                    outcome = Some(Outcome::Error(error.to_owned()));
                }
                Message::Notification { method, params } => self.notice(&method, params, exchange).await,
                Message::Request { id, method, params } => self.be_asked(id, &method, params, Some(&exchange.id)),
                Message::Result { .. } | Message::Error { .. } => return Err(ANOTHER_REQUEST),
            }
        }
        Ok(outcome)
    }

    async fn notice(&self, method: &str, params: Option<&RawValue>, exchange: &Exchange) {
        match read_notice(&self.peer.name, method, params, &exchange.id) {
            // A caller that went away no longer listens; the answer still counts. One that listens and does not read
            // uses up the request's time.
            Some(notice) => _ = exchange.via.events.send(Event::Notice(notice)).await,
            None => self.pass_on(method, params),
        }
    }

    /// Makes a request whose answer comes on the session's stream.
    async fn ask_aside(
        &self,
        exchange: &Exchange,
        answered: oneshot::Receiver<Result<Outcome, UpstreamError>>,
    ) -> Result<Outcome, Failure> {
        let posting = async {
            let response = self.peer.send(self.request(exchange)).await?;
            let status = response.status();
            if status.is_success() {
                _ = drain(response).await;
                return Ok(());
            }
            let error = credential::refused(status, response.headers(), self.shown().as_deref());
            _ = drain(response).await;
            match status {
                StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND => Err(Failure::SessionGone(error)),
                _ => Err(error.into()),
            }
        };
        let mut answered = std::pin::pin!(answered);
        // An answer may be there before the POST has one of its own.
        let posted = tokio::select! {
            biased;
            answer = &mut answered => return Ok(answer.unwrap_or(Err(UpstreamError::Died))?),
            posted = posting => posted,
        };
        posted?;
        tokio::select! {
            biased;
            answer = answered => Ok(answer.unwrap_or(Err(UpstreamError::Died))?),
            () = self.over.cancelled() => Err(UpstreamError::Died.into()),
        }
    }
}

/// Whether an error that came with an error status is the answer to the request, rather than that of something in
/// front which knows no such session.
fn is_answer(refusal: &Refusal, status: StatusCode, exchange: &Exchange) -> bool {
    let is_servers_own = (-32_099..=-32_000).contains(&refusal.code);
    status == StatusCode::BAD_REQUEST
        && refusal.id.as_ref() == Some(&exchange.id)
        && !is_servers_own
        && !v2026_07_28::is_modern_error(refusal.code)
}
