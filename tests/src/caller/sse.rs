//! A session over HTTP with server-sent events (2024-11-05): messages are posted, and everything is said on one stream.

use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};

use super::{Caller, Reply, Stream};

/// The session, as long as its stream.
pub struct SseSession {
    /// Posts messages to where the stream said.
    pub poster: Caller,
    pub stream: Stream,
}

impl SseSession {
    /// Opens a stream at `/sse` and initializes on it.
    ///
    /// # Panics
    /// If that is refused.
    pub async fn open(caller: &Caller, version: &str) -> Self {
        let mut stream = caller.copy().at("/sse").listen(None).await;
        assert_eq!((stream.status, stream.is_events()), (StatusCode::OK, true));
        let endpoint = stream.event().await.expect("where to post");
        assert_eq!(endpoint.kind.as_deref(), Some("endpoint"));
        let mut session = Self { poster: caller.copy().at(&endpoint.data), stream };
        let initialized = session.request("initialize", caller.initialize_params(version)).await;
        assert_eq!(initialized["result"]["protocolVersion"], version, "{initialized}");
        session.poster.notify("notifications/initialized", json!({})).await;
        session
    }

    /// Posts a message, which is accepted.
    ///
    /// # Panics
    /// If it is not.
    pub async fn post(&self, body: impl Into<Bytes>) {
        let reply: Reply = self.poster.post(body).await;
        assert_eq!((reply.status, reply.text()), (StatusCode::ACCEPTED, ""));
    }

    /// Posts a request and gives the next message on the stream, which is to be the response.
    ///
    /// # Panics
    /// If something else comes.
    pub async fn request(&mut self, method: &str, params: Value) -> Value {
        let request = self.poster.legacy_request(method, params);
        let id = serde_json::from_str::<Value>(&request).expect("our own")["id"].clone();
        self.post(request).await;
        let response = self.stream.next().await;
        assert_eq!(response["id"], id, "{response}");
        response
    }
}
