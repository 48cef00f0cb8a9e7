//! The answer to a request on the wire: one JSON message, or a stream of events where the upstream has something to say
//! in between or takes its time.

use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures_util::stream;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{HeaderName, StatusCode};
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::DropGuard;

use crate::http::error::{Refused, json_response};
use crate::mcp::call::{Notice, Outcome};
use crate::mcp::error::{INTERNAL_ERROR, RpcError};
use crate::mcp::message::{self, RequestId};
use crate::mcp::revision::{Answer, Revision};
use crate::mcp::sse;
use crate::pipeline::Refusal;

/// An answer that takes longer becomes a stream, so that nothing in between takes the silence for death.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two signs of life on a stream.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// A request whose answer is on its way.
pub(super) struct Pending {
    pub(super) id: RequestId,
    pub(super) revision: Revision,
    pub(super) progress_token: Option<Box<RawValue>>,
    pub(super) inbox: mpsc::Receiver<Notice>,
    pub(super) work: JoinHandle<Result<Answer, Refusal>>,
    /// Takes the request back when the caller closes the connection, in revisions where that is what it means.
    pub(super) abandon: Option<DropGuard>,
}

impl Pending {
    /// Waits for the first thing there is to say and chooses the form of the answer by it.
    pub(super) async fn respond(mut self, accepts_events: bool) -> Response {
        if !accepts_events {
            while self.inbox.recv().await.is_some() {}
            return self.finish().await.into_response();
        }
        let first = tokio::select! {
            first = self.inbox.recv() => match first {
                Some(notice) => self.revision.encode_notice(notice, self.progress_token.as_deref()),
                None => return self.finish().await.into_response(),
            },
            () = tokio::time::sleep(PATIENCE) => None,
        };
        let first = first.map_or_else(|| sse::KEEP_ALIVE.to_owned(), |message| sse::event(&message));
        event_stream(Body::from_stream(stream::unfold((Some(first), Some(self)), next_piece)))
    }

    /// The final message.
    async fn finish(self) -> Final {
        // The guard is let go of only after the work has ended; cancelling what is over has no effect.
        let answered = self.work.await;
        drop(self.abandon);
        match answered {
            Ok(Ok(answer)) => Final::Message(write(&self.id, self.revision.encode(answer))),
            Ok(Err(refusal)) => {
                Refused::from_refusal(&refusal, &self.id, self.revision).map_or(Final::Nothing, Final::Refused)
            }
            Err(error) => {
                tracing::error!(%error, "a request died");
                let error = RpcError::new(INTERNAL_ERROR, "internal error");
                Final::Refused(Refused::rpc(StatusCode::INTERNAL_SERVER_ERROR, Some(&self.id), &error))
            }
        }
    }
}

enum Final {
    Message(String),
    Refused(Refused),
    /// The request was taken back: nobody expects an answer.
    Nothing,
}

impl Final {
    fn into_response(self) -> Response {
        match self {
            Self::Message(message) => json_response(StatusCode::OK, message),
            Self::Refused(refused) => refused.into_response(),
            Self::Nothing => event_stream(Body::empty()),
        }
    }

    fn into_event(self) -> String {
        match self {
            Self::Message(message) => sse::event(&message),
            Self::Refused(refused) => sse::event(refused.message()),
            Self::Nothing => String::new(),
        }
    }
}

type StreamState = (Option<String>, Option<Pending>);

/// The next piece of a stream: what was there first, then notices as they come, then the final message.
async fn next_piece((first, pending): StreamState) -> Option<(Result<Bytes, std::convert::Infallible>, StreamState)> {
    let mut pending = pending?;
    if let Some(first) = first {
        return Some((Ok(first.into()), (None, Some(pending))));
    }
    loop {
        let piece = tokio::select! {
            notice = pending.inbox.recv() => match notice {
                None => return Some((Ok(pending.finish().await.into_event().into()), (None, None))),
                Some(notice) => match pending.revision.encode_notice(notice, pending.progress_token.as_deref()) {
                    Some(message) => sse::event(&message),
                    None => continue,
                },
            },
            () = tokio::time::sleep(KEEP_ALIVE) => sse::KEEP_ALIVE.to_owned(),
        };
        return Some((Ok(piece.into()), (None, Some(pending))));
    }
}

fn event_stream(body: Body) -> Response {
    let mut response = body.into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}

fn write(id: &RequestId, outcome: Outcome) -> String {
    match outcome {
        Outcome::Result(result) => message::result(id, &result),
        Outcome::Error(error) => message::error(Some(id), &error),
    }
}
