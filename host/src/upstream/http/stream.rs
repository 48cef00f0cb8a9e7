//! What an upstream answers with: one JSON message, or a stream of events that holds messages.

use bytes::Bytes;
use http::Response;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::time::Duration;

use super::peer::{SMALL_BODY, far, not_sent};
use crate::mcp::message::{MAX_BATCH, Message, RequestId};
use crate::mcp::sse;
use crate::outbound::{Pieces, read_all};
use crate::upstream::UpstreamError;

pub(super) const NOT_A_MESSAGE: UpstreamError = UpstreamError::Protocol { what: "it sent what is no JSON-RPC message" };
pub(super) const ANOTHER_REQUEST: UpstreamError = UpstreamError::Protocol { what: "it answered another request" };

/// The messages of one answer, as they arrive.
pub(super) struct Messages {
    body: Body,
    limit: usize,
}

enum Body {
    /// `None` when it was read.
    Json(Option<Incoming>),
    Events {
        pieces: Pieces,
        events: sse::Reader,
    },
}

impl Messages {
    /// `limit`: largest message, in bytes. Refuses encoded bodies: none were asked for, and one that unpacks to a
    /// thousand times its size is a trap.
    pub(super) fn of(response: Response<Incoming>, limit: usize) -> Result<Self, UpstreamError> {
        let encoding = response.headers().get(CONTENT_ENCODING);
        if encoding.is_some_and(|encoding| encoding != "identity") {
            return Err(UpstreamError::Protocol { what: "it encoded its answer, although it was not asked to" });
        }
        let body = match media_type(&response).as_str() {
            "application/json" => Body::Json(Some(response.into_body())),
            "text/event-stream" => {
                Body::Events { pieces: Pieces::new(response.into_body(), far()), events: sse::Reader::new(limit) }
            }
            _ => return Err(UpstreamError::Protocol { what: "its answer is neither JSON nor an event stream" }),
        };
        Ok(Self { body, limit })
    }

    /// The text of the next message, or array of messages; `None` at the end. Events of other names than `message`
    /// are passed over.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        loop {
            match self.next_event().await? {
                Some(event) if !event.is_message() => {}
                event => return Ok(event.map(|event| event.data)),
            }
        }
    }

    /// The next event, whatever its name. A JSON body is one event.
    pub(super) async fn next_event(&mut self) -> Result<Option<Event>, UpstreamError> {
        let (pieces, events) = match &mut self.body {
            Body::Json(body) => {
                let Some(body) = body.take() else { return Ok(None) };
                let data = read_all(body, self.limit, far()).await.map_err(not_sent)?;
                return Ok(Some(Event { name: None, data }));
            }
            Body::Events { pieces, events } => (pieces, events),
        };
        loop {
            let event = events.next_named().map_err(|error| UpstreamError::TooLarge { limit: error.limit })?;
            if let Some(event) = event {
                return Ok(Some(Event { name: event.name, data: event.data.into() }));
            }
            match pieces.next().await.map_err(not_sent)? {
                Some(piece) => events.feed(&piece),
                None => return Ok(None),
            }
        }
    }

    pub(super) fn is_stream(&self) -> bool {
        matches!(self.body, Body::Events { .. })
    }

    /// Where the stream can be resumed, if it can.
    pub(super) fn last_event_id(&self) -> Option<&str> {
        match &self.body {
            Body::Json(_) => None,
            Body::Events { events, .. } => events.last_event_id(),
        }
    }

    /// How long the upstream wants us to wait before that.
    pub(super) fn retry(&self) -> Option<Duration> {
        match &self.body {
            Body::Json(_) => None,
            Body::Events { events, .. } => events.retry(),
        }
    }
}

/// One event of a stream.
pub(super) struct Event {
    pub(super) name: Option<String>,
    pub(super) data: Bytes,
}

impl Event {
    fn is_message(&self) -> bool {
        self.name.as_deref().is_none_or(|name| name == "message")
    }
}

/// The media type of a body, in lower case and without parameters.
fn media_type<B>(response: &Response<B>) -> String {
    let value = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// Whether an answer is a stream of events.
pub(super) fn is_event_stream<B>(response: &Response<B>) -> bool {
    media_type(response) == "text/event-stream"
}

/// The messages in a text that is one message or, as 2025-03-26 has it, an array of them.
pub(super) fn parts(text: &[u8]) -> Result<Vec<Message<'_>>, UpstreamError> {
    let is_array = text.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[');
    if !is_array {
        return Ok(vec![Message::from_upstream(text).map_err(|_| NOT_A_MESSAGE)?]);
    }
    let items: Vec<&RawValue> = serde_json::from_slice(text).map_err(|_| NOT_A_MESSAGE)?;
    if items.len() > MAX_BATCH {
        return Err(UpstreamError::Protocol { what: "it sent too many messages at once" });
    }
    items.into_iter().map(|item| Message::from_upstream(item.get().as_bytes()).map_err(|_| NOT_A_MESSAGE)).collect()
}

/// A JSON-RPC error that came with an HTTP status of an error.
pub(super) struct Refusal {
    /// Absent where the upstream could not, or would not, say whose error it is.
    pub(super) id: Option<RequestId>,
    pub(super) code: i64,
    pub(super) error: Box<RawValue>,
}

/// Reads the JSON-RPC error in a small body, if there is one.
pub(super) async fn read_refusal(response: Response<Incoming>) -> Option<Refusal> {
    if response.headers().contains_key(CONTENT_ENCODING) {
        return None;
    }
    let body = read_all(response.into_body(), SMALL_BODY, far()).await.ok()?;
    match Message::from_upstream(&body) {
        Ok(Message::Error { id, error }) => Some(Refusal { id, code: code_of(error)?, error: error.to_owned() }),
        _ => None,
    }
}

/// The `code` of an error object.
pub(super) fn code_of(error: &RawValue) -> Option<i64> {
    #[derive(Deserialize)]
    struct Code {
        code: i64,
    }
    serde_json::from_str::<Code>(error.get()).ok().map(|error| error.code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_alone_or_in_arrays() {
        let count = |text: &str| parts(text.as_bytes()).map(|parts| parts.len()).map_err(|error| error.to_string());
        let one = r#"{"jsonrpc":"2.0","id":1,"result":{}}"#;
        assert_eq!(count(one), Ok(1));
        assert_eq!(count(&format!(" [{one},\n{one}]")), Ok(2));
        assert_eq!(count("[]"), Ok(0));
        assert!(count(&format!("[{one},7]")).is_err());
        assert!(count(&format!("[[{one}]]")).is_err());
        let many = vec![one; MAX_BATCH + 1].join(",");
        assert_eq!(count(&format!("[{many}]")), Err("it does not speak MCP: it sent too many messages at once".into()));
    }
}
