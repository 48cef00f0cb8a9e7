//! Callers and upstreams of different revisions and transports with the gateway between them: whatever pair it is, what
//! the protocol lets them say to each other arrives, in the words of each.

use std::future::Future;
use std::time::Duration;

use portcullis_tests::Gateway;
use portcullis_tests::gateway::{Builder, SOON};
use portcullis_tests::upstreams::fixture::{Eras, Fixture, Settings};
use serde_json::{Value, json};

mod client;
mod script;

mod matrix;

mod asking;
mod pages;
mod parked;
mod rounds;

mod leaving;
mod polling;
mod progress;

mod changes;
mod tasks;

mod batches;
mod endpoints;

pub(crate) use client::{Client, Kind};

/// An upstream of each sort that there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Up {
    ModernHttp,
    /// Streamable HTTP with sessions.
    LegacyHttp,
    /// The same without session ids.
    Stateless,
    /// HTTP+SSE, as the configuration says.
    Sse,
    /// HTTP+SSE, as the gateway finds out.
    SseFound,
    ModernStdio,
    LegacyStdio,
}

impl Up {
    fn settings(self) -> Option<Settings> {
        let legacy = Settings { eras: Eras::Legacy, ..Settings::default() };
        match self {
            Self::ModernHttp => Some(Settings { eras: Eras::Modern, ..Settings::default() }),
            Self::LegacyHttp => Some(legacy),
            Self::Stateless => Some(Settings { stateless: true, ..legacy }),
            Self::Sse | Self::SseFound => Some(Settings { legacy_sse: true, ..legacy }),
            Self::ModernStdio | Self::LegacyStdio => None,
        }
    }

    pub(crate) fn is_modern(self) -> bool {
        matches!(self, Self::ModernHttp | Self::ModernStdio)
    }

    /// A gateway in front of it, with the keys `alice` and `bob` for all of it.
    async fn scene(self) -> Scene {
        self.scene_with(Gateway::builder().key("alice").key("bob")).await
    }

    /// The same with a gateway that is configured otherwise.
    pub(crate) async fn scene_with(self, builder: Builder) -> Scene {
        let builder = builder.section("[mcp]\nlegacy_sse = true");
        let (fixture, builder) = match self.settings() {
            Some(settings) => {
                let fixture = Fixture::with(settings).await.unwrap();
                let builder = match self {
                    Self::Sse => builder.section(&format!(
                        "[upstreams.up]\ntransport = \"streamable-http\"\nprotocol = \"sse\"\nurl = \"{}\"",
                        fixture.sse_url()
                    )),
                    Self::SseFound => builder.http_upstream("up", &fixture.sse_url()),
                    _ => builder.http_upstream("up", &fixture.url),
                };
                (Some(fixture), builder)
            }
            None => {
                let program = portcullis_tests::program("fixture-upstream");
                let era = if self.is_modern() { "--modern" } else { "--legacy" };
                (None, builder.stdio_upstream("up", &[program.to_str().unwrap(), "stdio", era]))
            }
        };
        let gateway = builder.start().await;
        gateway.until_upstreams_are_up().await;
        Scene { up: self, fixture, gateway }
    }
}

/// The upstream `up` with a gateway in front of it.
pub(crate) struct Scene {
    up: Up,
    /// `None` for a child process of the gateway's.
    fixture: Option<Fixture>,
    pub(crate) gateway: Gateway,
}

impl Scene {
    /// The upstream, where the test can look into it.
    fn fixture(&self) -> &Fixture {
        self.fixture.as_ref().expect("an upstream over HTTP")
    }

    /// A client of `alice`'s.
    pub(crate) async fn client(&self, kind: Kind, capabilities: Value) -> Client {
        Client::connect(&self.gateway, "alice", kind, capabilities).await
    }

    /// What the upstream says of its calls: `calls`, `cancelled` or `under_way`.
    pub(crate) async fn stat(&self, what: &str) -> usize {
        let Some(fixture) = &self.fixture else {
            let told = self.gateway.caller("bob").call("up__counter", json!({})).await.json();
            let stat = told["result"]["structuredContent"][what].as_u64();
            return usize::try_from(stat.unwrap_or_else(|| panic!("no {what} in {told}"))).unwrap();
        };
        let stats = fixture.stats();
        match what {
            "cancelled" => stats.cancelled,
            "under_way" => stats.under_way,
            _ => stats.calls,
        }
    }

    /// How many calls the upstream has seen since it had seen `before`, but for those that ask for that.
    pub(crate) async fn calls_since(&self, before: usize) -> usize {
        let asked = usize::from(self.fixture.is_none());
        self.stat("calls").await - before - asked
    }

    /// Waits until the upstream says this of its calls.
    async fn until(&self, what: &str, count: usize) {
        let seen = async {
            while self.stat(what).await != count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        soon(seen).await;
    }
}

/// Does the same with several upstreams at once: most of the time passes with waiting.
async fn with_each<const N: usize>(ups: [Up; N], test: impl AsyncFn(Up)) {
    futures_util::future::join_all(ups.iter().map(|up| test(*up))).await;
}

/// Waits for something that happens soon.
async fn soon<T>(happens: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, happens).await.expect("it happens soon")
}

/// The first text of a tool's result.
pub(crate) fn text(response: &Value) -> &str {
    response["result"]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("no text in {response}"))
}

/// Everything that a client can be asked.
pub(crate) fn everything() -> Value {
    json!({ "sampling": {}, "roots": { "listChanged": true }, "elicitation": { "form": {}, "url": {} } })
}

/// Reasonable answers to what the fixture asks.
pub(crate) fn answer(method: &str, params: &Value) -> Value {
    match method {
        "sampling/createMessage" => {
            json!({ "role": "assistant", "model": "m", "content": { "type": "text", "text": "Paris" } })
        }
        "roots/list" => json!({ "roots": [{ "uri": "file:///home", "name": "home" }] }),
        "elicitation/create" if params["mode"] == "url" => json!({ "action": "accept" }),
        "elicitation/create" => {
            let properties = params["requestedSchema"]["properties"].as_object().expect("a form has fields");
            let content = properties.iter().map(|(name, schema)| {
                let value = match schema["type"].as_str() {
                    Some("boolean") => json!(true),
                    Some("array") => json!([]),
                    Some("integer" | "number") => json!(7),
                    _ => json!(format!("my {name}")),
                };
                (name.clone(), value)
            });
            json!({ "action": "accept", "content": content.collect::<serde_json::Map<_, _>>() })
        }
        method => panic!("nobody asks {method}"),
    }
}
