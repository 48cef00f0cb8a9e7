//! Revision 2026-07-28 while a call is under way: progress, signs of life, and how a call is taken back.

use bytes::Bytes;
use http::{Request, StatusCode, Version};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use portcullis_tests::Gateway;
use portcullis_tests::upstreams::fixture::Fixture;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::modern::{post, with_id};
use super::scene;

#[tokio::test]
async fn progress_comes_under_the_callers_own_token() {
    let (_up, gateway) = scene().await;
    let alice = gateway.caller("alice");
    for token in [json!("mine"), json!(7), json!(""), json!(u64::MAX)] {
        let params = json!({ "name": "up__test_tool_with_progress", "_meta": { "progressToken": token } });
        let reply = alice.modern("tools/call", params).await;
        assert_eq!((reply.status, reply.header("content-type")), (StatusCode::OK, "text/event-stream"));
        assert_eq!(reply.header("x-accel-buffering"), "no");
        let messages: Vec<Value> =
            reply.messages().iter().map(|message| serde_json::from_str(message).unwrap()).collect();
        let [progress @ .., last] = messages.as_slice() else { panic!("{}", reply.text()) };
        assert_eq!(progress.len(), 3);
        for (message, expected) in progress.iter().zip([0, 50, 100]) {
            assert_eq!(message["method"], "notifications/progress");
            let text = format!("{expected} of 100");
            assert_eq!(
                message["params"],
                json!({ "progressToken": token, "progress": expected, "total": 100, "message": text })
            );
        }
        assert_eq!(last["result"]["content"][0]["text"], "Came to the end.");
    }
}

#[tokio::test]
async fn who_asks_for_no_progress_gets_none() {
    let (_up, gateway) = scene().await;
    let reply = gateway.caller("alice").call("up__test_tool_with_progress", json!({})).await;
    assert_eq!(reply.header("content-type"), "application/json");
    assert_eq!(reply.messages().len(), 1);
}

#[tokio::test]
async fn a_caller_that_takes_only_json_gets_json() {
    let (_up, gateway) = scene().await;
    let params = json!({ "name": "up__test_tool_with_progress", "_meta": { "progressToken": 1 } });
    let reply = gateway.caller("alice").with("accept", "application/json").modern("tools/call", params).await;
    assert_eq!((reply.status, reply.header("content-type")), (StatusCode::OK, "application/json"));
    assert_eq!(reply.json()["result"]["content"][0]["text"], "Came to the end.");
}

#[tokio::test]
async fn log_messages_are_not_for_callers_of_this_era() {
    let (_up, gateway) = scene().await;
    let reply = gateway.caller("alice").call("up__test_tool_with_logging", json!({})).await;
    let methods: Vec<Value> = reply
        .messages()
        .iter()
        .map(|message| serde_json::from_str::<Value>(message).unwrap()["method"].clone())
        .collect();
    assert_eq!(methods, [Value::Null], "one answer and nothing before it");
}

#[tokio::test]
async fn closing_the_connection_takes_the_call_back() {
    for upstream in [Transport::Http, Transport::Stdio] {
        let (up, gateway) = upstream.scene().await;
        let alice = gateway.caller("alice");
        tokio::select! {
            reply = alice.call("up__slow", json!({ "ms": 60_000 })) => panic!("{}", reply.text()),
            () = up.until_under_way(&gateway, 1) => {}
        }
        up.until_cancelled(&gateway, 1).await;
    }
}

#[tokio::test]
async fn resetting_a_stream_takes_back_its_call_and_no_other() {
    let (up, gateway) = scene().await;
    let stream = TcpStream::connect(gateway.public).await.unwrap();
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let call = |ms: u64| {
        let (mut headers, body) = gateway
            .caller("alice")
            .modern_request("tools/call", json!({ "name": "up__slow", "arguments": { "ms": ms } }));
        headers.remove("host");
        let mut request =
            Request::post(gateway.url()).version(Version::HTTP_2).body(Full::new(Bytes::from(body))).unwrap();
        request.headers_mut().extend(headers);
        sender.clone().send_request(request)
    };
    let kept = call(1_000);
    tokio::pin!(kept);
    tokio::select! {
        answer = call(60_000) => panic!("{answer:?}"),
        answer = &mut kept => panic!("{answer:?}"),
        _ = up.until(|stats| stats.under_way == 2) => {}
    }
    let kept = async { kept.await.unwrap().into_body().collect().await.unwrap().to_bytes() };
    let (answer, _) = tokio::join!(kept, up.until(|stats| stats.cancelled == 1));
    assert!(String::from_utf8_lossy(&answer).contains("waited 1000 ms"), "{answer:?}");
    assert_eq!(up.stats().cancelled, 1);
}

#[tokio::test]
async fn an_answer_that_takes_its_time_shows_signs_of_life() {
    let (_up, gateway) = scene().await;
    let alice = gateway.caller("alice");
    let only_json = gateway.caller("alice").with("accept", "application/json");
    let slow = json!({ "ms": 10_500 });
    let (stream, whole) = tokio::join!(alice.call("up__slow", slow.clone()), only_json.call("up__slow", slow));
    assert_eq!((stream.status, stream.header("content-type")), (StatusCode::OK, "text/event-stream"));
    assert!(stream.text().starts_with(": "), "a comment comes first: {}", stream.text());
    assert_eq!(whole.header("content-type"), "application/json");
    for reply in [stream, whole] {
        assert_eq!(reply.json()["result"]["content"][0]["text"], "waited 10500 ms");
    }
}

#[tokio::test]
async fn a_cancelled_notification_takes_nothing_back() {
    let (up, gateway) = scene().await;
    let alice = gateway.caller("alice");
    let (headers, body) = alice.modern_request("tools/call", json!({ "name": "up__slow", "arguments": { "ms": 300 } }));
    let body = with_id(&body, "7");
    let taking_back = async {
        up.until(|stats| stats.under_way == 1).await;
        let caller = gateway
            .caller("alice")
            .with("mcp-protocol-version", "2026-07-28")
            .with("mcp-method", "notifications/cancelled");
        caller.post(r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":7}}"#).await
    };
    let (called, noted) = tokio::join!(post(&gateway, &headers, &body), taking_back);
    assert_eq!(noted.status, StatusCode::ACCEPTED);
    assert_eq!(called.json()["result"]["content"][0]["text"], "waited 300 ms");
}

/// How the upstream of a scene is reached.
enum Transport {
    Http,
    Stdio,
}

/// An upstream that tells how its calls fare, from inside or when it is asked.
enum Observed {
    Http(Fixture),
    Stdio,
}

impl Transport {
    async fn scene(self) -> (Observed, Gateway) {
        match self {
            Self::Http => {
                let (up, gateway) = scene().await;
                (Observed::Http(up), gateway)
            }
            Self::Stdio => {
                let program = portcullis_tests::program("fixture-upstream");
                let command = [program.to_str().unwrap(), "stdio"];
                let gateway = Gateway::builder().stdio_upstream("up", &command).key("alice").start().await;
                gateway.until_upstreams_are_up().await;
                (Observed::Stdio, gateway)
            }
        }
    }
}

impl Observed {
    async fn until_under_way(&self, gateway: &Gateway, count: usize) {
        self.until(gateway, "under_way", count).await;
    }

    async fn until_cancelled(&self, gateway: &Gateway, count: usize) {
        self.until(gateway, "cancelled", count).await;
    }

    async fn until(&self, gateway: &Gateway, what: &str, count: usize) {
        match self {
            Self::Http(up) if what == "cancelled" => _ = up.until(|stats| stats.cancelled == count).await,
            Self::Http(up) => _ = up.until(|stats| stats.under_way == count).await,
            Self::Stdio => {
                let counted = async {
                    let observer = gateway.caller("alice");
                    while observer.call("up__counter", json!({})).await.json()["result"]["structuredContent"][what]
                        != count
                    {
                        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                    }
                };
                tokio::time::timeout(portcullis_tests::gateway::SOON, counted).await.expect("the upstream gets there");
            }
        }
    }
}
