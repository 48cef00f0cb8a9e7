//! An answer that is read as it comes: the events of a stream, or one JSON message.

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::Value;

use crate::gateway::SOON;

/// One event. Comments are none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    pub id: Option<String>,
    /// Its name, if it has one.
    pub kind: Option<String>,
    /// Milliseconds until the caller is to come back.
    pub retry: Option<u64>,
    pub data: String,
}

/// An answer under way. Dropping it closes its connection.
#[derive(Debug)]
pub struct Stream {
    pub status: StatusCode,
    pub headers: HeaderMap,
    body: Incoming,
    buffer: Vec<u8>,
    /// Id of the last event that had one.
    pub last_id: Option<String>,
}

impl Stream {
    pub(super) fn of((status, headers, body): (StatusCode, HeaderMap, Incoming)) -> Self {
        Self { status, headers, body, buffer: Vec::new(), last_id: None }
    }

    pub fn is_events(&self) -> bool {
        self.headers.get(CONTENT_TYPE).is_some_and(|kind| kind == "text/event-stream")
    }

    /// The next piece of the body, soon; `None` at its end.
    async fn piece(&mut self) -> Option<Bytes> {
        let frame = tokio::time::timeout(SOON, self.body.frame()).await;
        let frame = frame.unwrap_or_else(|_| panic!("nothing more comes after {:?}", self.last_id))?;
        Some(frame.expect("the answer arrives whole").into_data().unwrap_or_default())
    }

    /// The next event; `None` when the stream has ended.
    pub async fn event(&mut self) -> Option<Event> {
        loop {
            while let Some(end) = self.buffer.windows(2).position(|two| two == b"\n\n") {
                let block: Vec<u8> = self.buffer.drain(..end + 2).collect();
                let event = read(std::str::from_utf8(&block).expect("streams are UTF-8"));
                if let Some(event) = event {
                    self.last_id = event.id.clone().or(self.last_id.take());
                    return Some(event);
                }
            }
            match self.piece().await {
                Some(piece) => self.buffer.extend_from_slice(&piece),
                None => {
                    assert!(self.buffer.is_empty(), "half an event: {:?}", String::from_utf8_lossy(&self.buffer));
                    return None;
                }
            }
        }
    }

    /// The text of the next message; `None` at the end.
    pub async fn text(&mut self) -> Option<String> {
        if self.is_events() {
            loop {
                let event = self.event().await?;
                if !event.data.is_empty() {
                    return Some(event.data);
                }
            }
        }
        while let Some(piece) = self.piece().await {
            self.buffer.extend_from_slice(&piece);
        }
        let body = String::from_utf8(std::mem::take(&mut self.buffer)).expect("answers are UTF-8");
        (!body.is_empty()).then_some(body)
    }

    /// The next message.
    pub async fn message(&mut self) -> Option<Value> {
        self.text().await.map(|text| serde_json::from_str(&text).expect("a message is JSON"))
    }

    /// The next message, which there must be.
    ///
    /// # Panics
    /// If the stream has ended.
    pub async fn next(&mut self) -> Value {
        self.message().await.unwrap_or_else(|| panic!("the stream ended after {:?}", self.last_id))
    }

    /// Everything until the end.
    pub async fn rest(&mut self) -> Vec<Value> {
        let mut rest = Vec::new();
        while let Some(message) = self.message().await {
            rest.push(message);
        }
        rest
    }
}

/// Reads what stands before an empty line; `None` for comments alone.
fn read(block: &str) -> Option<Event> {
    let mut event = Event::default();
    let mut data: Vec<&str> = Vec::new();
    let mut is_event = false;
    for line in block.lines().filter(|line| !line.is_empty() && !line.starts_with(':')) {
        is_event = true;
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" => event.id = Some(value.to_owned()),
            "event" => event.kind = Some(value.to_owned()),
            "retry" => event.retry = Some(value.parse().expect("milliseconds")),
            "data" => data.push(value),
            _ => panic!("an unknown field: {line}"),
        }
    }
    event.data = data.join("\n");
    is_event.then_some(event)
}
