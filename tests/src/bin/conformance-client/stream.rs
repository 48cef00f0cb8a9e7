//! An answer as it arrives: the messages of a JSON body or of an event stream.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::Value;

/// How long a client waits before it comes back for the rest of a stream, where it is not told.
const RETRY: Duration = Duration::from_secs(1);

pub(crate) struct Messages {
    body: Incoming,
    is_stream: bool,
    /// What has arrived of the next message.
    read: Vec<u8>,
    /// The newest id of an event.
    pub(crate) last_event_id: Option<String>,
    pub(crate) retry: Duration,
}

impl Messages {
    /// Fails where the answer is none of success.
    pub(crate) async fn of((status, headers, body): (StatusCode, HeaderMap, Incoming)) -> anyhow::Result<Self> {
        if !status.is_success() {
            let body = body.collect().await?.to_bytes();
            anyhow::bail!("HTTP {status}: {}", String::from_utf8_lossy(&body));
        }
        let is_stream = headers.get(CONTENT_TYPE).is_some_and(|kind| kind == "text/event-stream");
        Ok(Self { body, is_stream, read: Vec::new(), last_event_id: None, retry: RETRY })
    }

    /// The next message; `None` at the end.
    pub(crate) async fn next(&mut self) -> anyhow::Result<Option<Value>> {
        loop {
            if self.is_stream
                && let Some(end) = self.read.windows(2).position(|pair| pair == b"\n\n")
            {
                let event: Vec<u8> = self.read.drain(..end + 2).collect();
                match self.take(std::str::from_utf8(&event).context("events are UTF-8")?)? {
                    Some(message) => return Ok(Some(message)),
                    None => continue,
                }
            }
            match self.body.frame().await {
                Some(frame) => {
                    if let Ok(data) = frame?.into_data() {
                        self.read.extend_from_slice(&data);
                    }
                }
                None if self.is_stream || self.read.is_empty() => {
                    ensure!(self.read.is_empty(), "a stream ends within an event");
                    return Ok(None);
                }
                None => return Ok(Some(serde_json::from_slice(&std::mem::take(&mut self.read))?)),
            }
        }
    }

    /// Reads one event, which need not hold a message.
    fn take(&mut self, event: &str) -> anyhow::Result<Option<Value>> {
        let mut data = String::new();
        for line in event.lines() {
            match line.split_once(':').map(|(name, value)| (name, value.strip_prefix(' ').unwrap_or(value))) {
                Some(("data", value)) => data.push_str(value),
                Some(("id", value)) => self.last_event_id = Some(value.to_owned()),
                Some(("retry", value)) => self.retry = Duration::from_millis(value.parse()?),
                _ => {}
            }
        }
        if data.is_empty() { Ok(None) } else { Ok(Some(serde_json::from_str(&data)?)) }
    }
}
