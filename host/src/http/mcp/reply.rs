//! How an answer travels: as one JSON message, or as the last of a stream of events.
//!
//! This file has what both eras share; when to stream is theirs to say ([`super::modern`], [`super::legacy`]).

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures_util::stream;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{HeaderName, StatusCode};
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use super::work::Ended;
use crate::http::error::{Refused, json_response};
use crate::mcp::call::Outcome;
use crate::mcp::error::{INTERNAL_ERROR, RpcError};
use crate::mcp::message::{self, RequestId};
use crate::mcp::revision::{Answer, Revision};
use crate::mcp::talk::{LogLevel, Notice};

/// An answer that takes longer becomes a stream, so that nothing in between takes the silence for death.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// Between two signs of life on a stream.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Pieces of a stream that wait for its reader.
const PIECE_QUEUE: usize = 4;

/// The last message of a request.
#[derive(Debug)]
pub(super) enum Last {
    /// With the status that it has where it is the whole of a response.
    Message(StatusCode, String),
    Refused(Refused),
    /// The request was taken back: nobody expects an answer.
    Nothing,
}

impl Last {
    /// What a request's end looks like to its caller.
    pub(super) fn of(ended: Ended, id: &RequestId, revision: Revision) -> Self {
        match ended {
            Ended::Answered(Ok(answer)) => Self::answer(answer, id, revision),
            Ended::Answered(Err(refusal)) => {
                Refused::from_refusal(&refusal, id, revision).map_or(Self::Nothing, Self::Refused)
            }
            Ended::Died => {
                let error = RpcError::new(INTERNAL_ERROR, "internal error");
                Self::Refused(Refused::rpc(StatusCode::INTERNAL_SERVER_ERROR, Some(id), &error))
            }
        }
    }

    /// An answer in the caller's revision.
    pub(super) fn answer(answer: Answer, id: &RequestId, revision: Revision) -> Self {
        match revision.encode(answer) {
            Outcome::Result(result) => Self::Message(StatusCode::OK, message::result(id, &result)),
            Outcome::NeedsInput(asking) => Self::Message(StatusCode::OK, message::result(id, &asking.0.to_raw())),
            Outcome::Error(error) => {
                let status = StatusCode::from_u16(revision.error_status(&error)).unwrap_or(StatusCode::OK);
                Self::Message(status, message::error(Some(id), &error))
            }
        }
    }

    /// As the whole of a response.
    pub(super) fn into_response(self) -> Response {
        match self {
            Self::Message(status, message) => json_response(status, message),
            Self::Refused(refused) => refused.into_response(),
            Self::Nothing => event_stream(Body::empty()),
        }
    }

    /// As the last message of a stream whose status is sent already, if there is one.
    pub(super) fn into_message(self) -> Option<String> {
        match self {
            Self::Message(_, message) => Some(message),
            Self::Refused(refused) => Some(refused.message().to_owned()),
            Self::Nothing => None,
        }
    }
}

/// Which log messages a caller wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Logs {
    /// Whatever the upstreams say: a legacy caller that has set no level.
    All,
    AtLeast(LogLevel),
    /// A modern request without a level (2026-07-28, logging).
    None,
}

impl Logs {
    /// A legacy caller's, with the level that its session has.
    pub(super) fn of_session(level: Option<LogLevel>) -> Self {
        level.map_or(Self::All, Self::AtLeast)
    }

    /// A modern request's.
    pub(super) fn of_request(level: Option<LogLevel>) -> Self {
        level.map_or(Self::None, Self::AtLeast)
    }

    fn want(self, level: Option<&RawValue>) -> bool {
        let Self::AtLeast(least) = self else { return self == Self::All };
        let level = level.and_then(|level| serde_json::from_str::<&str>(level.get()).ok());
        level.and_then(LogLevel::parse).is_some_and(|level| level >= least)
    }
}

/// How a caller hears what is said while its request is under way.
#[derive(Debug)]
pub(super) struct Ear {
    pub(super) revision: Revision,
    /// The caller's own, as it came.
    pub(super) progress_token: Option<Box<RawValue>>,
}

impl Ear {
    /// The notice in the caller's revision, if it wants it.
    pub(super) fn hear(&self, notice: &Notice, logs: Logs) -> Option<String> {
        if let Notice::Log(log) = notice
            && !logs.want(log.get("level"))
        {
            return None;
        }
        self.revision.encode_notice(notice, self.progress_token.as_deref())
    }
}

/// A response that is a stream of events.
pub(in crate::http) fn event_stream(body: Body) -> Response {
    let mut response = body.into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}

/// The writing end of a stream that cannot be resumed. Whoever writes waits for a slow reader, and not for ever.
#[derive(Debug)]
pub(in crate::http) struct Pieces {
    sender: mpsc::Sender<Bytes>,
    stall: Duration,
}

/// The reader has left, or took nothing for too long.
#[derive(Debug)]
pub(in crate::http) struct Gone;

impl Pieces {
    /// A stream and its writing end. `stall`: how long the reader may take nothing.
    pub(in crate::http) fn new(stall: Duration) -> (Self, Body) {
        let (sender, mut receiver) = mpsc::channel::<Bytes>(PIECE_QUEUE);
        let body = stream::poll_fn(move |ctx| receiver.poll_recv(ctx).map(|piece| piece.map(Ok::<_, Infallible>)));
        (Self { sender, stall }, Body::from_stream(body))
    }

    pub(in crate::http) async fn send(&self, piece: impl Into<Bytes>) -> Result<(), Gone> {
        self.sender.send_timeout(piece.into(), self.stall).await.map_err(|_| Gone)
    }

    /// Waits until the reader has left.
    pub(in crate::http) async fn closed(&self) {
        self.sender.closed().await;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;

    use super::*;
    use crate::mcp::json::{Members, raw};

    fn log(level: &str) -> Notice {
        Notice::Log(Members::parse(&format!(r#"{{"level":{level},"data":1}}"#)).unwrap())
    }

    #[test]
    fn log_messages_come_from_the_level_that_was_asked_for() {
        let ear = Ear { revision: Revision::V2025_11_25, progress_token: None };
        let hears = |logs| {
            [r#""debug""#, r#""warning""#, r#""emergency""#, r#""loud""#, "7"]
                .map(|level| ear.hear(&log(level), logs).is_some())
        };
        assert_eq!(hears(Logs::of_session(None)), [true; 5]);
        assert_eq!(hears(Logs::of_session(Some(LogLevel::Warning))), [false, true, true, false, false]);
        assert_eq!(hears(Logs::of_request(None)), [false; 5]);
        assert_eq!(hears(Logs::of_request(Some(LogLevel::Debug))), [true, true, true, false, false]);
    }

    #[test]
    fn progress_is_heard_under_the_callers_own_token() {
        let progress = Notice::Progress(Members::parse(r#"{"progressToken":77,"progress":1}"#).unwrap());
        let hear = |token: Option<&str>| {
            let progress_token = token.map(|token| raw(token.to_owned()));
            Ear { revision: Revision::V2026_07_28, progress_token }.hear(&progress, Logs::None)
        };
        assert_eq!(hear(None), None);
        assert!(hear(Some(r#""mine""#)).unwrap().contains(r#""progressToken":"mine""#));
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_takes_nothing_is_gone() {
        let (pieces, body) = Pieces::new(Duration::from_secs(30));
        for piece in ["a", "b", "c", "d"] {
            assert!(pieces.send(piece).await.is_ok(), "{piece}");
        }
        assert!(pieces.send("e").await.is_err());
        let mut body = body.into_data_stream();
        assert_eq!(body.next().await.unwrap().unwrap(), "a");
        assert!(pieces.send("f").await.is_ok());
        drop(body);
        assert!(pieces.send("g").await.is_err());
        pieces.closed().await;
    }
}
