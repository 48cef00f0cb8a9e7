//! What must not get through: malformed messages, oversized and mislabelled bodies, callers that take more than their
//! share, one caller's words in another's answer, and credentials at the upstream.

use http::{HeaderValue, StatusCode};
use portcullis_tests::caller::modern_meta;
use portcullis_tests::gateway::SOON;
use portcullis_tests::upstreams::fixture::Fixture;
use portcullis_tests::{Caller, Gateway, Reply, program};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::door::{exchange_tcp, status};
use super::{refusal, scene};

const PING: &str = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;

#[tokio::test]
async fn what_is_not_json_is_a_parse_error() {
    let (up, gateway) = scene().await;
    let session = gateway.caller("alice").initialize("2025-11-25").await;
    let call = |arguments: &str| {
        format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"up__echo","arguments":{arguments}}}}}"#
        )
    };
    let nested = |open: &str, close: &str, levels: usize| {
        call(&format!(r#"{{"a":{}1{}}}"#, open.repeat(levels), close.repeat(levels)))
    };
    for body in [
        String::new(),
        " ".to_owned(),
        "{".to_owned(),
        "nonsense".to_owned(),
        format!("\u{feff}{PING}"),
        format!("{PING}{PING}"),
        format!("{PING}]"),
        PING.replace('"', "'"),
        PING.replace('}', ",}"),
        PING.replace(":1,", ":NaN,"),
        PING.replace(":1,", ":01,"),
        PING.replace(":1,", ":1 /* one */,"),
        PING.replace("ping", "pi\nng"),
        PING.replace("ping", r"pi\xng"),
        PING.replace("\"id\":1", r#""id":1,"id":1"#),
        PING.replace("\"id\":1", r#""id":1,"\u0069d":2"#),
        call(r#"{"a":1,"a":2}"#),
        call(r#"{"a":{"b":[{"c":1,"\u0063":1}]}}"#),
        call(r#"{"lone":"\ud800"}"#),
        // 4 levels are those of message, params, arguments and the member `a`.
        nested("[", "]", 62),
        nested(r#"{"a":"#, "}", 62),
        nested("[", "]", 100_000),
        "[".repeat(1_000_000),
    ] {
        let reply = session.post(body.clone()).await;
        let shown: String = body.chars().take(200).collect();
        assert_eq!(refusal(&reply), (400, -32700), "{shown}");
        assert_eq!(reply.json()["id"], Value::Null, "{shown}");
    }
    let not_utf8 = [PING.as_bytes(), b"\xff"].concat();
    assert_eq!(refusal(&session.post(not_utf8).await), (400, -32700));
    assert_eq!(up.stats().calls, 0);
    // One level less than is refused.
    assert_eq!(session.post(nested("[", "]", 61)).await.status, StatusCode::OK);
    assert_eq!(up.stats().calls, 1);
}

#[tokio::test]
async fn json_that_is_no_message_is_an_invalid_request() {
    let (up, gateway) = scene().await;
    let session = gateway.caller("alice").initialize("2025-11-25").await;
    for (body, id) in [
        ("[]".to_owned(), Value::Null),
        (format!("[{PING}]"), Value::Null),
        (PING.replace("2.0", "1.0"), json!(1)),
        (PING.replace("\"2.0\"", "2"), json!(1)),
        (PING.replace("\"jsonrpc\":\"2.0\",", ""), json!(1)),
        (PING.replace(":1,", ":null,"), Value::Null),
        (PING.replace(":1,", ":1.5,"), Value::Null),
        (PING.replace(":1,", ":1e3,"), Value::Null),
        (PING.replace(":1,", ":{},"), Value::Null),
        (PING.replace(":1,", ":[1],"), Value::Null),
        (PING.replace(":1,", ":true,"), Value::Null),
        (PING.replace(":1,", &format!(":\"{}\",", "x".repeat(2_000))), Value::Null),
        (PING.replace("\"ping\"", "7"), json!(1)),
        (PING.replace("\"ping\"", "null"), json!(1)),
        (PING.replace("ping", &"p".repeat(300)), json!(1)),
        (PING.replace("\"method\":\"ping\"", "\"params\":{}"), json!(1)),
        (PING.replace('}', r#","params":[]}"#), json!(1)),
        (PING.replace('}', r#","params":null}"#), json!(1)),
        (PING.replace('}', r#","result":{}}"#), json!(1)),
        (r#"{"jsonrpc":"2.0","result":{}}"#.to_owned(), Value::Null),
        ("{}".to_owned(), Value::Null),
        ("7".to_owned(), Value::Null),
        ("null".to_owned(), Value::Null),
        ("\"ping\"".to_owned(), Value::Null),
    ] {
        let reply = session.post(body.clone()).await;
        assert_eq!(refusal(&reply), (400, -32600), "{body}");
        assert_eq!(reply.json()["id"], id, "{body}");
    }
    assert_eq!(up.stats().calls, 0);
}

#[tokio::test]
async fn a_body_beyond_the_limit_is_refused() {
    const LIMIT: usize = 4 * 1024 * 1024;
    let (up, gateway) = scene().await;
    let session = gateway.caller("alice").initialize("2025-11-25").await;
    let of_size = |size: usize| {
        let frame =
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"up__whoami","arguments":{"a":""}}}"#;
        let body = frame.replace("\"\"", &format!("\"{}\"", "x".repeat(size - frame.len())));
        assert_eq!(body.len(), size);
        body
    };
    assert_eq!(session.post(of_size(LIMIT)).await.status, StatusCode::OK, "the limit itself is allowed");
    for size in [LIMIT + 1, 5 * 1024 * 1024] {
        assert_eq!(session.post(of_size(size)).await.status, StatusCode::PAYLOAD_TOO_LARGE, "{size}");
    }
    // Without a length, the limit is found out on the way.
    let head = format!(
        "POST /mcp HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n",
        gateway.public,
        Gateway::secret("alice")
    );
    let chunk = format!("{:x}\r\n{}\r\n", 64 * 1024, " ".repeat(64 * 1024));
    let answer = exchange_tcp(gateway.public, &format!("{head}{}0\r\n\r\n", chunk.repeat(80))).await;
    assert_eq!(status(&answer), 413, "{}", &answer[..answer.len().min(300)]);
    assert_eq!(up.stats().calls, 1);
}

#[tokio::test]
async fn a_body_of_another_type_is_refused() {
    let (_up, gateway) = scene().await;
    let session = gateway.caller("alice").initialize("2025-11-25").await;
    let id = session.headers["mcp-session-id"].to_str().unwrap().to_owned();
    let alice = || gateway.caller("alice").with("mcp-session-id", &id);
    for content_type in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/json; charset=latin1",
        "application/jsonx",
        "",
    ] {
        let reply = alice().with("content-type", content_type).post(PING).await;
        assert_eq!(reply.status, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{content_type:?}");
    }
    assert_eq!(alice().without("content-type").post(PING).await.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    for encoding in ["gzip", "br", "deflate", "zstd", "identity, gzip"] {
        let reply = alice().with("content-encoding", encoding).post(PING).await;
        assert_eq!(reply.status, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{encoding}");
    }
    for fine in
        [alice().with("content-type", "Application/JSON; charset=UTF-8"), alice().with("content-encoding", "identity")]
    {
        assert_eq!(fine.post(PING).await.status, StatusCode::OK);
    }
}

#[tokio::test]
async fn an_answer_that_the_caller_does_not_take_is_not_made() {
    let (up, gateway) = scene().await;
    for accept in ["text/html", "image/*", "application/xml, text/plain", ""] {
        let reply = gateway.caller("alice").with("accept", accept).call("up__echo", json!({})).await;
        assert_eq!(reply.status, StatusCode::NOT_ACCEPTABLE, "{accept:?}");
    }
    assert_eq!(up.stats().calls, 0);
    for accept in ["*/*", "application/*", "text/html, application/json;q=0.1"] {
        assert_eq!(
            gateway.caller("alice").with("accept", accept).call("up__echo", json!({})).await.status,
            StatusCode::OK,
            "{accept}"
        );
    }
    assert_eq!(gateway.caller("alice").without("accept").call("up__echo", json!({})).await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_callers_with_the_same_request_id_each_get_their_own_answer() {
    let up = Fixture::start().await;
    let child = program("fixture-upstream");
    let mut builder =
        Gateway::builder().http_upstream("web", &up.url).stdio_upstream("child", &[child.to_str().unwrap(), "stdio"]);
    for key in 0..20 {
        builder = builder.key(&format!("key-{key}"));
    }
    let gateway = builder.start().await;
    gateway.until_upstreams_are_up().await;
    let mut callers = JoinSet::new();
    for number in 0..200 {
        let caller = gateway.caller(&format!("key-{}", number % 20));
        let is_legacy = number / 20 % 2 == 0;
        let upstream = if number % 3 == 0 { "child" } else { "web" };
        callers.spawn(async move {
            let caller = if is_legacy { caller.initialize("2025-11-25").await } else { caller };
            let tag = format!("caller {number}");
            for round in 0..3 {
                // All calls have the same id and, while they tell their progress, are under way at the same time.
                let tool = format!("{upstream}__test_tool_with_progress");
                let reply = same_id(&caller, is_legacy, &tool, json!({}), json!(tag)).await;
                assert_own_progress(&reply, &tag);
                let arguments = json!({ "tag": tag, "round": round });
                let reply =
                    same_id(&caller, is_legacy, &format!("{upstream}__echo"), arguments.clone(), Value::Null).await;
                assert_eq!(reply.json()["id"], 0);
                assert_eq!(reply.json()["result"]["structuredContent"], arguments);
            }
        });
    }
    while let Some(ended) = callers.join_next().await {
        ended.unwrap();
    }
}

/// A call under request id 0.
async fn same_id(caller: &Caller, is_legacy: bool, tool: &str, arguments: Value, progress_token: Value) -> Reply {
    let mut meta = if is_legacy { json!({}) } else { modern_meta() };
    if !progress_token.is_null() {
        meta["progressToken"] = progress_token;
    }
    let params = json!({ "name": tool, "arguments": arguments, "_meta": meta });
    let body = json!({ "jsonrpc": "2.0", "id": 0, "method": "tools/call", "params": params }).to_string();
    let mut sender = caller.copy();
    if !is_legacy {
        sender = sender.with("mcp-protocol-version", "2026-07-28").with("mcp-method", "tools/call");
        sender.headers.insert("mcp-name", HeaderValue::try_from(tool).unwrap());
    }
    sender.post(body).await
}

fn assert_own_progress(reply: &Reply, tag: &str) {
    let messages: Vec<Value> = reply.messages().iter().map(|message| serde_json::from_str(message).unwrap()).collect();
    let [progress @ .., last] = messages.as_slice() else { panic!("{}", reply.text()) };
    assert_eq!((&last["id"], &last["result"]["content"][0]["text"]), (&json!(0), &json!("Came to the end.")));
    let told: Vec<(&Value, &Value)> =
        progress.iter().map(|message| (&message["params"]["progressToken"], &message["params"]["progress"])).collect();
    let tag = json!(tag);
    assert_eq!(told, [(&tag, &json!(0)), (&tag, &json!(50)), (&tag, &json!(100))]);
}

#[tokio::test]
async fn too_many_calls_at_once_are_told_to_come_back() {
    let up = Fixture::start().await;
    let builder = Gateway::builder().http_upstream("up", &up.url).section("[limits]\ncalls_per_principal = 2");
    let gateway = builder.key("alice").key("bob").start().await;
    let (alice, bob) = (gateway.caller("alice"), gateway.caller("bob"));
    let session = alice.initialize("2025-11-25").await;
    let slow = json!({ "name": "up__slow", "arguments": { "ms": 60_000 } });
    let refused = async {
        up.until(|stats| stats.under_way == 2).await;
        (
            alice.call("up__echo", json!({})).await,
            session.request("ping", json!({})).await,
            bob.call("up__echo", json!({})).await,
        )
    };
    tokio::select! {
        _ = alice.modern("tools/call", slow.clone()) => panic!("a slow call is answered"),
        _ = session.request("tools/call", slow) => panic!("a slow call is answered"),
        (modern, legacy, other) = refused => {
            for reply in [modern, legacy] {
                assert_eq!(refusal(&reply), (429, -31429));
                assert!(reply.header("retry-after").parse::<u32>().unwrap() > 0);
            }
            assert_eq!(other.status, StatusCode::OK, "another key has calls of its own");
        }
    }
    // The modern call was taken back with its connection, so there is a place again.
    up.until(|stats| stats.cancelled == 1).await;
    let room = async { while alice.call("up__echo", json!({})).await.status != StatusCode::OK {} };
    tokio::time::timeout(SOON, room).await.expect("a place is free again");
}

#[tokio::test]
async fn one_key_cannot_take_all_sessions() {
    let up = Fixture::start().await;
    let gateway = Gateway::builder().http_upstream("up", &up.url).key("mallory").key("alice").start().await;
    let open = async |caller: &Caller| {
        let params = json!({ "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": "tests", "version": "1" } });
        caller.request("initialize", params).await
    };
    let mallory = gateway.caller("mallory");
    let mut opened = 0;
    let refused = loop {
        let reply = open(&mallory).await;
        if reply.status != StatusCode::OK {
            break reply;
        }
        opened += 1;
        assert!(opened <= 5_000, "a key has half of all sessions");
    };
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(open(&gateway.caller("alice")).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_callers_credentials_never_reach_the_upstream() {
    let up = Fixture::start().await;
    let child = program("fixture-upstream");
    let builder = Gateway::builder()
        .section(&format!(
            "[upstreams.web]\nurl = \"{}\"\nheaders = {{ \"X-Team\" = \"blue\", Authorization = \"Bearer file:upstream.token\" }}",
            up.url
        ))
        .section(&format!("[upstreams.child]\ncommand = [{child:?}, \"stdio\"]\nenvironment = {{ TEAM = \"green\", TOKEN = \"file:upstream.token\" }}"))
        .file("upstream.token", b"the-upstreams-own\n");
    let gateway = builder.key("alice").start().await;
    gateway.until_upstreams_are_up().await;
    let secret = Gateway::secret("alice");
    let by_authorization = gateway.caller("alice");
    let by_key = gateway.stranger().with("x-portcullis-key", &secret);
    let extras = [
        ("cookie", "session=abc"),
        ("x-forwarded-for", "192.0.2.1"),
        ("proxy-authorization", "Basic abc"),
        ("x-anything", "abc"),
    ];
    for caller in [by_authorization, by_key] {
        let caller = extras.iter().fold(caller, |caller, (name, value)| caller.with(name, value));
        let seen = caller.call("web__whoami", json!({})).await.json()["result"]["structuredContent"].clone();
        let headers: Vec<(String, String)> = serde_json::from_value(seen["headers"].clone()).unwrap();
        let value = |name: &str| {
            headers.iter().filter(|(other, _)| other == name).map(|(_, value)| value.as_str()).collect::<Vec<_>>()
        };
        assert_eq!(value("authorization"), ["Bearer the-upstreams-own"]);
        assert_eq!(value("x-team"), ["blue"]);
        for (name, _) in extras {
            assert_eq!(value(name), [""; 0], "{name}");
        }
        assert!(!seen.to_string().contains(&secret), "{seen}");

        let seen = caller.call("child__whoami", json!({})).await.json()["result"]["structuredContent"].clone();
        assert!(!seen.to_string().contains(&secret), "{seen}");
        let environment: Vec<(String, String)> = serde_json::from_value(seen["environment"].clone()).unwrap();
        for (name, value) in &environment {
            assert!(
                ["HOME", "LANG", "PATH", "TEAM", "TERM", "TMPDIR", "TOKEN"].contains(&name.as_str()),
                "{name} is none of the upstream's business"
            );
            assert!(name != "TOKEN" || value == "the-upstreams-own");
        }
        assert!(environment.iter().any(|(name, value)| name == "TEAM" && value == "green"));
    }
}
