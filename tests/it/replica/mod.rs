//! Several gateways of one deployment behind one URL: whichever a caller reaches, what another one holds is answered by
//! that one, and when that one is gone, the caller is told what is true.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use portcullis_tests::gateway::SOON;
use portcullis_tests::postgres::Server;
use portcullis_tests::upstreams::fixture::{Eras, Fixture, Settings};
use portcullis_tests::{Caller, Gateway};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

/// Each story once for each way in which replicas find each other.
macro_rules! stories {
    ($($story:ident),+ $(,)?) => {
        mod peers {
            $(
                #[tokio::test]
                async fn $story() {
                    super::$story(&crate::replica::Directory::Peers).await;
                }
            )+
        }

        mod postgres {
            $(
                #[tokio::test]
                async fn $story() {
                    super::$story(&crate::replica::Directory::database()).await;
                }
            )+
        }
    };
}

mod connections;
mod gone;
mod listener;
mod postgres;
mod tasks;
mod together;

const ASKS: &str = "up__test_streaming_elicitation";
const LIMITS: &str = "[limits]\nrequest_size = \"64KiB\"\nstreams_per_principal = 3";
const WATCHED: &str = "test://watched-resource";

/// Where replicas find each other.
enum Directory {
    /// In their configuration, which names the others.
    Peers,
    /// In the schema of this name, in which they have their store.
    Database(&'static Server, String),
}

impl Directory {
    /// A database that nobody else uses.
    fn database() -> Self {
        let server = Server::shared();
        Self::Database(server, server.new_schema())
    }
}

/// A gateway on threads of its own, so that it can vanish as a process does.
struct Replica {
    gateway: Gateway,
    /// Where the others reach it.
    listener: SocketAddr,
    runtime: Option<Runtime>,
}

impl Replica {
    async fn start(
        directory: &Directory,
        listener: TcpListener,
        other: SocketAddr,
        fixture: &Fixture,
        policies: &str,
    ) -> Self {
        let builder = Gateway::builder().key("alice").key("bob").section("[mcp]\nlegacy_sse = true").section(policies);
        let builder = builder.http_upstream("up", &fixture.url).section(LIMITS);
        let address = listener.local_addr().unwrap();
        let builder = match directory {
            Directory::Peers => builder.replica(listener, &[other]),
            Directory::Database(server, schema) => builder.in_database(server, schema).replica(listener, &[]),
        };
        let runtime = Runtime::new().unwrap();
        let gateway = runtime.spawn(builder.start()).await.unwrap();
        gateway.until("/api/v1/upstreams", |view| view["upstreams"][0]["state"] == "up").await;
        Self { gateway, listener: address, runtime: Some(runtime) }
    }

    /// The caller of this key, with a client that can be asked everything.
    fn caller(&self, key: &str) -> Caller {
        self.gateway.caller(key).able(json!({ "elicitation": { "form": {} } }))
    }

    /// The same caller, who reaches this replica from now on.
    fn takes(&self, caller: &Caller) -> Caller {
        caller.at_replica(self.gateway.public)
    }

    /// Its own id, as it tells operators.
    async fn id(&self) -> String {
        let status = self.gateway.operator("GET", "/api/v1/status", None).await.json();
        status["replica"]["id"].as_str().unwrap().to_owned()
    }

    /// It ends in the middle of whatever it does, as if its process had been killed.
    fn kill(mut self) -> SocketAddr {
        self.runtime.take().unwrap().shutdown_background();
        self.listener
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

/// Two replicas before an upstream of the legacy era, which asks in the middle of its calls.
async fn pair(directory: &Directory) -> (Fixture, Replica, Replica) {
    pair_with(directory, Eras::Legacy, "").await
}

/// The same before an upstream of other eras, with policies.
async fn pair_with(directory: &Directory, eras: Eras, policies: &str) -> (Fixture, Replica, Replica) {
    let fixture = Fixture::with(Settings { eras, ..Settings::default() }).await.unwrap();
    let (one, other) = (listener(), listener());
    let (at_one, at_other) = (one.local_addr().unwrap(), other.local_addr().unwrap());
    let one = Replica::start(directory, one, at_other, &fixture, policies).await;
    let other = Replica::start(directory, other, at_one, &fixture, policies).await;
    (fixture, one, other)
}

fn text(response: &Value) -> &str {
    response["result"]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("no text in {response}"))
}

fn accepted() -> Value {
    json!({ "action": "accept", "content": { "sure": true } })
}

/// What the tool that asks says of [`accepted`].
fn answered() -> String {
    format!("The answer was action=accept, content={}.", json!({ "sure": true }))
}

/// A modern call that waits for its caller: the question as it came.
async fn park(caller: &Caller) -> Value {
    let asked = caller.call(ASKS, json!({})).await.json();
    assert_eq!(asked["result"]["resultType"], "input_required", "{asked}");
    asked
}

/// The retry of a parked call with its answer.
fn retry(asked: &Value) -> Value {
    let requests = asked["result"]["inputRequests"].as_object().unwrap();
    let answers: serde_json::Map<String, Value> = requests.keys().map(|key| (key.clone(), accepted())).collect();
    json!({ "name": ASKS, "arguments": {}, "requestState": asked["result"]["requestState"], "inputResponses": answers })
}

async fn soon<T>(happens: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, happens).await.expect("it happens soon")
}

/// Tries until it holds, for what takes effect after a moment.
async fn eventually(mut holds: impl AsyncFnMut() -> bool) {
    soon(async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}
