//! What is bounded, each by its setting: the limit itself is allowed, one more is refused in words that say when to come
//! back, and others are not touched.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use http::StatusCode;
use portcullis_tests::gateway::SOON;
use portcullis_tests::upstreams::fixture::{Eras, Fixture, Settings};
use portcullis_tests::{Caller, Gateway, Reply};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::scripted::{Manner, Offer, Scripted};
use super::{ask, refusal, result_of};

/// What may pass until a caller knows, on a busy machine.
const BOUND: Duration = Duration::from_secs(15);

async fn with(up: &Fixture, limits: &str) -> Gateway {
    let builder = Gateway::builder().http_upstream("up", &up.url).section(&format!("[limits]\n{limits}"));
    builder.key("alice").key("bob").key("carol").start().await
}

async fn legacy() -> Fixture {
    Fixture::with(Settings { eras: Eras::Legacy, ..Settings::default() }).await.unwrap()
}

#[tokio::test]
async fn a_request_is_as_large_as_the_setting_says() {
    let up = Fixture::start().await;
    let gateway = with(&up, "request_size = \"64KiB\"").await;
    let alice = gateway.caller("alice");
    let (headers, body) = alice.modern_request("tools/call", json!({ "name": "up__echo", "arguments": { "a": "" } }));
    let mut modern = alice.copy();
    modern.headers = headers;
    let session = alice.initialize("2025-11-25").await;
    let legacy = session.legacy_request("tools/call", json!({ "name": "up__echo", "arguments": { "a": "" } }));
    for (caller, frame) in [(&modern, &body), (&session, &legacy)] {
        let of = |size: usize| frame.replace(r#""a":"""#, &format!(r#""a":"{}""#, "x".repeat(size - frame.len())));
        assert_eq!(of(64 * 1024).len(), 64 * 1024);
        assert_eq!(caller.post(of(64 * 1024)).await.status, StatusCode::OK);
        assert_eq!(caller.post(of(64 * 1024 + 1)).await.status, StatusCode::PAYLOAD_TOO_LARGE);
    }
    assert_eq!(up.stats().calls, 2);
}

fn nested(levels: usize) -> String {
    format!("{}1{}", "[".repeat(levels), "]".repeat(levels))
}

#[tokio::test]
async fn answers_of_every_kind_are_nested_no_deeper_than_512_levels() {
    for manner in [Manner::Legacy, Manner::LegacyEvents, Manner::Modern, Manner::ModernEvents] {
        let up = Scripted::with(manner, Offer { tools: vec![r#"{"name":"t"}"#.to_owned()], ..Offer::default() }).await;
        let gateway = Gateway::builder().http_upstream("up", &up.url).key("alice").start().await;
        let alice = gateway.caller("alice");
        for caller in [alice.copy(), alice.initialize("2025-11-25").await] {
            let call = async || ask(&caller, "tools/call", json!({ "name": "up__t", "arguments": {} })).await;
            // The result, or the error, is a level itself.
            for member in [r#""result":{"content":[],"x":DEEP}"#, r#""error":{"code":-1,"message":"m","data":DEEP}"#] {
                up.answer(&member.replace("DEEP", &nested(511)));
                let reply = call().await;
                assert!(reply.text().contains(&nested(511)), "{manner:?}: {}", reply.text());
                up.answer(&member.replace("DEEP", &nested(512)));
                let reply = call().await;
                let last = reply.messages().pop().unwrap();
                let error: Value = serde_json::from_str::<Value>(&last)
                    .unwrap_or_else(|error| panic!("{manner:?} {member}: {error}"))["error"]
                    .clone();
                assert_eq!(
                    (&error["code"], &error["data"]["reason"]),
                    (&json!(-31_502), &json!("protocol")),
                    "{manner:?} {member}"
                );
            }
        }
    }
}

/// Opens a stream that stays: of a session, or a subscription.
async fn open(caller: &Caller, is_legacy: bool) -> portcullis_tests::caller::Stream {
    if is_legacy {
        return caller.initialize("2025-11-25").await.listen(None).await;
    }
    caller.begin_modern("subscriptions/listen", json!({ "notifications": { "toolsListChanged": true } })).await
}

#[tokio::test]
async fn streams_are_bounded_for_each_key_and_for_all() {
    let up = Fixture::start().await;
    for is_legacy in [false, true] {
        let gateway = with(&up, "streams = 3\nstreams_per_principal = 2").await;
        let caller = |key: &str| gateway.caller(key);
        // One of each kind: they count together.
        let first = open(&caller("alice"), true).await;
        let second = open(&caller("alice"), false).await;
        assert_eq!((first.status, second.status), (StatusCode::OK, StatusCode::OK));
        let third = open(&caller("alice"), is_legacy).await;
        let retry = third.headers["retry-after"].to_str().unwrap().parse::<u32>().unwrap();
        assert_eq!((third.status, retry > 0), (StatusCode::TOO_MANY_REQUESTS, true));
        let other = open(&caller("bob"), is_legacy).await;
        assert_eq!(other.status, StatusCode::OK, "another key has streams of its own");
        let beyond = open(&caller("carol"), is_legacy).await;
        let retry = beyond.headers["retry-after"].to_str().unwrap().parse::<u32>().unwrap();
        assert_eq!((beyond.status, retry > 0), (StatusCode::SERVICE_UNAVAILABLE, true));
        assert!(caller("carol").call("up__echo", json!({})).await.json()["result"].is_object(), "calls go on");
        drop((first, second, other));
        let room = async {
            while open(&caller("carol"), is_legacy).await.status != StatusCode::OK {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(SOON, room).await.expect("there is room again");
    }
}

#[tokio::test]
async fn calls_that_wait_for_their_caller_are_bounded() {
    let up = legacy().await;
    let gateway = with(&up, "parked_calls = 1").await;
    let able = |key: &str| gateway.caller(key).able(json!({ "elicitation": {} }));
    let (alice, bob) = (able("alice"), able("bob"));
    let params = json!({ "name": "up__test_elicitation", "arguments": { "message": "Who?" } });
    let first = result_of(&alice, "tools/call", params.clone()).await;
    assert_eq!(first["resultType"], "input_required", "{first}");
    // There is no place for another one: the upstream learns that nobody will answer, and says what comes of it.
    let second = bob.modern("tools/call", params.clone()).await.json();
    assert_ne!(second["result"]["resultType"], "input_required", "{second}");
    assert!(second["result"].is_object() || second["error"].is_object(), "{second}");
    // With the answer the place is free again.
    let key = first["inputRequests"].as_object().unwrap().keys().next().unwrap().clone();
    let mut retry = params.clone();
    retry["requestState"] = first["requestState"].clone();
    retry["inputResponses"] = json!({ key: { "action": "decline" } });
    let done = result_of(&alice, "tools/call", retry).await;
    assert_eq!(done["resultType"], "complete", "{done}");
    let third = result_of(&bob, "tools/call", params).await;
    assert_eq!(third["resultType"], "input_required", "{third}");
}

#[tokio::test]
async fn a_call_whose_caller_does_not_come_back_is_taken_back_in_time() {
    let up = legacy().await;
    let gateway = with(&up, "ask_timeout = \"1s\"").await;
    let alice = gateway.caller("alice").able(json!({ "elicitation": {} }));
    let params = json!({ "name": "up__test_elicitation", "arguments": { "message": "Who?" } });
    let asked = result_of(&alice, "tools/call", params.clone()).await;
    assert_eq!(up.stats().under_way, 1);
    let began = Instant::now();
    up.until(|stats| stats.under_way == 0).await;
    assert!(began.elapsed() < BOUND, "after {:?}", began.elapsed());
    let mut late = params;
    late["requestState"] = asked["requestState"].clone();
    late["inputResponses"] = json!({ "1": { "action": "decline" } });
    assert_eq!(refusal(&alice.modern("tools/call", late).await), (200, -32602));
}

#[tokio::test]
async fn a_question_that_nobody_answers_ends_in_time() {
    // Over both eras: the upstream asks, and the caller, which has a session, is silent.
    for eras in [Eras::Legacy, Eras::Modern] {
        let up = Fixture::with(Settings { eras, ..Settings::default() }).await.unwrap();
        let gateway = with(&up, "ask_timeout = \"1s\"").await;
        let session = gateway.caller("alice").able(json!({ "elicitation": {} })).initialize("2025-11-25").await;
        let params = json!({ "name": "up__test_elicitation", "arguments": { "message": "Who?" } });
        let began = Instant::now();
        let reply = tokio::time::timeout(Duration::from_secs(50), session.request("tools/call", params)).await;
        let answer = reply.unwrap_or_else(|_| panic!("{eras:?}: no end")).json();
        assert!(answer["result"].is_object() || answer["error"].is_object(), "{eras:?}: {answer}");
        // The default time of a call is not used up by the wait.
        assert!(began.elapsed() < Duration::from_secs(45), "{eras:?}: after {:?}", began.elapsed());
        up.until(|stats| stats.under_way == 0).await;
    }
}

/// A state and a task of one key in the hands of another (threat M5).
#[tokio::test]
async fn states_and_tasks_are_good_for_their_own_key_only() {
    for eras in [Eras::Legacy, Eras::Modern] {
        let up = Fixture::with(Settings { eras, ..Settings::default() }).await.unwrap();
        let gateway = with(&up, "").await;
        let able = json!({ "elicitation": {}, "extensions": { "io.modelcontextprotocol/tasks": {} } });
        let (alice, bob) = (gateway.caller("alice").able(able.clone()), gateway.caller("bob").able(able));
        let params = json!({ "name": "up__test_elicitation", "arguments": { "message": "Who?" } });
        let asked = result_of(&alice, "tools/call", params.clone()).await;
        let key = asked["inputRequests"].as_object().unwrap().keys().next().unwrap().clone();
        let mut retry = params.clone();
        retry["requestState"] = asked["requestState"].clone();
        retry["inputResponses"] = json!({ key: { "action": "decline" } });
        let mut bent = retry.clone();
        let state = asked["requestState"].as_str().unwrap();
        bent["requestState"] = json!(format!("{}{}", &state[1..], &state[..1]));
        for (caller, params) in [(&bob, &retry), (&alice, &bent), (&bob, &bent)] {
            let reply = caller.modern("tools/call", (*params).clone()).await;
            assert_eq!(refusal(&reply), (200, -32602), "{eras:?}: {}", reply.text());
        }
        let mut elsewhere = retry.clone();
        elsewhere["name"] = json!("up__echo");
        assert_eq!(refusal(&alice.modern("tools/call", elsewhere).await), (200, -32602), "{eras:?}: another tool");
        assert_eq!(result_of(&alice, "tools/call", retry).await["resultType"], "complete", "{eras:?}");
    }
    let up = Fixture::with(Settings { eras: Eras::Modern, ..Settings::default() }).await.unwrap();
    let gateway = with(&up, "").await;
    let able = json!({ "extensions": { "io.modelcontextprotocol/tasks": {} } });
    let (alice, bob) = (gateway.caller("alice").able(able.clone()), gateway.caller("bob").able(able));
    let params = json!({ "name": "up__slow_compute", "arguments": { "seconds": 30, "label": "x" } });
    let made = result_of(&alice, "tools/call", params).await;
    assert_eq!(made["resultType"], "task", "{made}");
    let id = made["taskId"].as_str().unwrap();
    for method in ["tasks/get", "tasks/cancel"] {
        let reply = bob.modern(method, json!({ "taskId": id })).await;
        assert_eq!(refusal(&reply), (200, -32602), "{method}: {}", reply.text());
    }
    assert_eq!(result_of(&alice, "tasks/get", json!({ "taskId": id })).await["taskId"], id);
}

/// Rapid reset (threat H6): requests on one HTTP/2 connection that are taken back as soon as they are made.
#[tokio::test(flavor = "multi_thread")]
async fn requests_that_are_reset_at_once_cost_their_sender_the_connection_and_nobody_else_anything() {
    const RESETS: u32 = 20_000;
    let up = Fixture::start().await;
    let gateway = with(&up, "").await;
    let mut stream = TcpStream::connect(gateway.public).await.unwrap();
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(4, 0, 0, &[]));
    let block = header_block(&gateway);
    for number in 0..RESETS {
        let id = 2 * number + 1;
        // HEADERS with END_HEADERS, then RST_STREAM with CANCEL.
        bytes.extend(frame(1, 4, id, &block));
        bytes.extend(frame(3, 0, id, &8_u32.to_be_bytes()));
    }
    let attack = async {
        let (mut reader, mut writer) = stream.split();
        let write = async {
            // It may be closed in the middle, which is what is wanted.
            _ = writer.write_all(&bytes).await;
            _ = writer.shutdown().await;
        };
        let mut seen = Vec::new();
        let read = async { _ = reader.read_to_end(&mut seen).await };
        tokio::time::timeout(SOON, async { tokio::join!(write, read) }).await.expect("the connection ends");
        seen
    };
    let alice = gateway.caller("alice");
    let others = async {
        let mut slowest = Duration::ZERO;
        for number in 0..50 {
            let began = Instant::now();
            let reply = alice.call("up__echo", json!({ "n": number })).await;
            assert_eq!(reply.json()["result"]["structuredContent"], json!({ "n": number }), "{}", reply.text());
            slowest = slowest.max(began.elapsed());
        }
        slowest
    };
    let (seen, slowest) = tokio::join!(attack, others);
    assert!(slowest < BOUND, "others waited {slowest:?}");
    assert!(goes_away_calmly(&seen), "the connection goes on, or ends without a word: {} bytes", seen.len());
    assert_eq!(up.stats().calls, 50, "no request of the attacker was complete");
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// POST /mcp with a key, in HPACK (RFC 7541 appendix A for the names), nothing of it indexed.
fn header_block(gateway: &Gateway) -> Vec<u8> {
    // :method POST, :scheme http
    let mut block = vec![0x83, 0x86];
    let mut literal = |name: &[u8], value: &str| {
        block.extend(name);
        // Texts of 127 bytes and more would have a longer length.
        block.push(u8::try_from(value.len()).ok().filter(|length| *length < 127).unwrap());
        block.extend(value.bytes());
    };
    literal(&[0x04], "/mcp");
    literal(&[0x01], &gateway.public.to_string());
    literal(&[0x0f, 8], &format!("Bearer {}", Gateway::secret("bob")));
    literal(&[0x0f, 16], "application/json");
    block
}

/// Whether there is a GOAWAY with ENHANCE_YOUR_CALM among the frames.
fn goes_away_calmly(mut frames: &[u8]) -> bool {
    while let [a, b, c, kind, _, _, _, _, _, rest @ ..] = frames {
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        let Some(payload) = rest.get(..length) else { return false };
        if *kind == 7 && payload.get(4..8) == Some(&[0, 0, 0, 11]) {
            return true;
        }
        frames = &rest[length..];
    }
    false
}

#[tokio::test]
async fn too_many_calls_in_one_session_are_told_to_come_back() {
    let up = Fixture::start().await;
    let gateway = with(&up, "calls_per_principal = 3").await;
    let session = gateway.caller("alice").initialize("2025-11-25").await;
    let slow = || session.request("tools/call", json!({ "name": "up__slow", "arguments": { "ms": 700 } }));
    let replies: Vec<Reply> = join_all((0..8).map(|_| slow())).await;
    let done = replies.iter().filter(|reply| reply.status == StatusCode::OK).count();
    let refused: Vec<&Reply> = replies.iter().filter(|reply| reply.status == StatusCode::TOO_MANY_REQUESTS).collect();
    assert_eq!((done, refused.len()), (3, 5));
    assert!(refused.iter().all(|reply| refusal(reply).1 == -31_429 && !reply.header("retry-after").is_empty()));
    assert_eq!(slow().await.status, StatusCode::OK, "there is room again");
}
