//! A client of any revision and transport, so that one test can be told with all of them.

use portcullis_tests::caller::{SseSession, Stream};
use portcullis_tests::{Caller, Gateway};
use serde_json::{Map, Value, json};

/// What a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// 2026-07-28.
    Modern,
    /// A revision with sessions, over streamable HTTP.
    Session(&'static str),
    /// 2024-11-05 over HTTP with server-sent events.
    Sse,
}

impl Kind {
    pub(crate) const ALL: [Self; 5] = [
        Self::Modern,
        Self::Session("2025-11-25"),
        Self::Session("2025-06-18"),
        Self::Session("2025-03-26"),
        Self::Sse,
    ];

    /// Whether a question of this kind exists in its revision.
    pub(crate) fn knows(self, question: &str) -> bool {
        match question {
            "form" => !matches!(self, Self::Session("2025-03-26") | Self::Sse),
            "url" => matches!(self, Self::Modern | Self::Session("2025-11-25")),
            _ => true,
        }
    }
}

/// A client with what it has opened.
pub(crate) struct Client {
    pub(crate) kind: Kind,
    way: Way,
}

enum Way {
    Http(Caller),
    Sse(Box<SseSession>),
}

/// A request under way.
pub(crate) struct Exchange<'a> {
    client: &'a mut Client,
    id: Value,
    /// Of the POST; the one stream of HTTP+SSE is the client's.
    stream: Option<Stream>,
}

/// What was said around a request.
#[derive(Debug, Default)]
pub(crate) struct Talk {
    /// Notifications.
    pub(crate) said: Vec<Value>,
    /// What the client was asked: method and parameters, in order.
    pub(crate) asked: Vec<(String, Value)>,
    /// How often the request was sent.
    pub(crate) rounds: usize,
    pub(crate) response: Value,
    /// The response to the byte.
    pub(crate) text: String,
}

impl Client {
    /// A client with the key of this name, in a session of its own if its revision has sessions.
    pub(crate) async fn connect(gateway: &Gateway, key: &str, kind: Kind, capabilities: Value) -> Self {
        Self::of(gateway.caller(key).able(capabilities), kind).await
    }

    pub(crate) async fn of(caller: Caller, kind: Kind) -> Self {
        let way = match kind {
            Kind::Modern => Way::Http(caller),
            Kind::Session(version) => Way::Http(caller.initialize(version).await),
            Kind::Sse => Way::Sse(Box::new(SseSession::open(&caller, "2024-11-05").await)),
        };
        Self { kind, way }
    }

    /// The one who posts.
    pub(crate) fn caller(&self) -> &Caller {
        match &self.way {
            Way::Http(caller) => caller,
            Way::Sse(session) => &session.poster,
        }
    }

    /// The next message on the one stream of HTTP+SSE.
    pub(crate) async fn next(&mut self) -> Value {
        let Way::Sse(session) = &mut self.way else { panic!("there is no such stream") };
        session.stream.next().await
    }

    /// Sends a request.
    pub(crate) async fn begin(&mut self, method: &str, params: Value) -> Exchange<'_> {
        let (id, stream) = match &mut self.way {
            Way::Http(caller) if self.kind == Kind::Modern => {
                let (headers, body) = caller.modern_request(method, params);
                let mut sender = caller.copy();
                sender.headers = headers;
                (id_of(&body), Some(sender.begin(body).await))
            }
            Way::Http(caller) => {
                let body = caller.legacy_request(method, params);
                (id_of(&body), Some(caller.begin(body).await))
            }
            Way::Sse(session) => {
                let body = session.poster.legacy_request(method, params);
                let id = id_of(&body);
                session.post(body).await;
                (id, None)
            }
        };
        Exchange { client: self, id, stream }
    }

    /// Sends a request that asks nothing back, and gives the response.
    pub(crate) async fn ask(&mut self, method: &str, params: Value) -> Value {
        self.talk(method, params, |method, _| panic!("{method} was asked")).await.response
    }

    /// Calls a tool that asks nothing back.
    pub(crate) async fn call(&mut self, tool: &str, arguments: Value) -> Value {
        self.ask("tools/call", json!({ "name": tool, "arguments": arguments })).await
    }

    /// Sends a request, answers what is asked meanwhile, and comes back with the answers where the revision has it so.
    pub(crate) async fn talk(
        &mut self,
        method: &str,
        params: Value,
        mut answer: impl FnMut(&str, &Value) -> Value,
    ) -> Talk {
        let mut talk = Talk::default();
        let mut params = params;
        loop {
            talk.rounds += 1;
            let mut exchange = self.begin(method, params.clone()).await;
            loop {
                let text = exchange.text().await;
                let message: Value = serde_json::from_str(&text).expect("a message is JSON");
                assert_eq!(message["jsonrpc"], "2.0", "{message}");
                match message["method"].as_str() {
                    Some(asked) if message.get("id").is_some() => {
                        assert_ne!(exchange.client.kind, Kind::Modern, "its servers make no requests: {message}");
                        talk.asked.push((asked.to_owned(), message["params"].clone()));
                        exchange.caller().respond(&message, answer(asked, &message["params"])).await;
                    }
                    Some(_) => talk.said.push(message),
                    None => {
                        assert_eq!(message["id"], exchange.id, "{message}");
                        talk.response = message;
                        talk.text = text;
                        break;
                    }
                }
            }
            if let Some(stream) = &mut exchange.stream {
                assert_eq!(stream.message().await, None, "the response is the last message");
            }
            let result = &talk.response["result"];
            if self.kind != Kind::Modern || result["resultType"] != "input_required" {
                return talk;
            }
            let mut responses = Map::new();
            for (key, question) in result["inputRequests"].as_object().into_iter().flatten() {
                let asked = question["method"].as_str().expect("a method");
                talk.asked.push((asked.to_owned(), question["params"].clone()));
                responses.insert(key.clone(), answer(asked, &question["params"]));
            }
            params["requestState"] = result["requestState"].clone();
            params["inputResponses"] = responses.into();
        }
    }
}

impl Exchange<'_> {
    pub(crate) fn id(&self) -> &Value {
        &self.id
    }

    pub(crate) fn caller(&self) -> &Caller {
        self.client.caller()
    }

    /// The text of the next message, which there must be.
    pub(crate) async fn text(&mut self) -> String {
        let stream = match (&mut self.stream, &mut self.client.way) {
            (Some(stream), _) => stream,
            (None, Way::Sse(session)) => &mut session.stream,
            (None, Way::Http(_)) => unreachable!("a POST has an answer"),
        };
        stream.text().await.expect("a message")
    }
}

fn id_of(request: &str) -> Value {
    serde_json::from_str::<Value>(request).expect("our own")["id"].clone()
}
