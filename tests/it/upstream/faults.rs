//! Upstreams that misbehave: their own calls fail in bounded time and space, with a reason that says no more than a
//! caller should know, and nobody else's calls are touched.

use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::routing::post;
use futures_util::future::join_all;
use futures_util::stream;
use portcullis_tests::gateway::Builder;
use portcullis_tests::upstreams::fixture::{Fixture, Settings};
use portcullis_tests::upstreams::hostile::{Behaviour, HUGE_BYTES, Hostile, Plan};
use portcullis_tests::{Caller, Gateway, Reply};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// What a call to a bad upstream may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(3);
/// What may pass until a caller knows: the time of a call, and what a busy machine adds to it.
const BOUND: Duration = Duration::from_secs(15);
/// The largest message that gateways here accept.
const MESSAGE_LIMIT: usize = 1 << 20;
/// What the two kernels' socket buffers may take on top of that.
const IN_TRANSIT: usize = 16 << 20;
const UPSTREAM_FAILED: i64 = -31502;

/// What comes of a call.
enum Fate {
    /// The gateway's own error, with this reason.
    Failed(&'static str),
    /// Another error, with this code.
    Refused(i64),
    /// What the upstream said, with this in it.
    Said(&'static str),
}

/// Who speaks which era: a misbehaviour of one is a matter of course in the other.
#[derive(Clone, Copy, Debug)]
struct Eras {
    caller_has_sessions: bool,
    upstream_has_sessions: bool,
}

const ALL_ERAS: [Eras; 4] = [
    Eras { caller_has_sessions: false, upstream_has_sessions: false },
    Eras { caller_has_sessions: true, upstream_has_sessions: false },
    Eras { caller_has_sessions: false, upstream_has_sessions: true },
    Eras { caller_has_sessions: true, upstream_has_sessions: true },
];

fn fate(behaviour: Behaviour, eras: Eras) -> Fate {
    const PROPER: &str = r#""text":"This is what a proper server would have said.""#;
    let Eras { caller_has_sessions, upstream_has_sessions } = eras;
    match behaviour {
        Behaviour::Refuses => Fate::Failed("unreachable"),
        Behaviour::HangsUp
        | Behaviour::DiesInSse
        | Behaviour::DiesInJson
        | Behaviour::EmptySse
        | Behaviour::HugeHeaders
        | Behaviour::ManyHeaders => Fate::Failed("died"),
        Behaviour::NeverAnswers
        | Behaviour::Trickles
        | Behaviour::EndlessComments
        | Behaviour::EndlessNotifications
        | Behaviour::EndlessQuestions => Fate::Failed("timed_out"),
        Behaviour::ArrayAnswer if upstream_has_sessions => Fate::Said(PROPER),
        Behaviour::NotJson
        | Behaviour::NotUtf8
        | Behaviour::NotJsonRpc
        | Behaviour::WrongId
        | Behaviour::RepeatsMembers
        | Behaviour::Html
        | Behaviour::WrongContentType
        | Behaviour::Gzip
        | Behaviour::DeepNesting
        | Behaviour::TrailingBytes
        | Behaviour::ArrayAnswer
        | Behaviour::SseGarbage
        | Behaviour::OtherVersion
        | Behaviour::NoContentType
        | Behaviour::EmptyJson
        | Behaviour::Status202
        | Behaviour::ResultAndError
        | Behaviour::ErrorWithoutCode
        | Behaviour::UnaskedTask => Fate::Failed("protocol"),
        Behaviour::HugeJson | Behaviour::HugeDeclared | Behaviour::HugeSseEvent => Fate::Failed("too_large"),
        Behaviour::Status401
        | Behaviour::Status404
        | Behaviour::Status500
        | Behaviour::Status503
        | Behaviour::Redirects => Fate::Failed("status"),
        Behaviour::AnswersTwice | Behaviour::AsksBack => Fate::Said(PROPER),
        // 2026-07-28 keeps that code for itself.
        Behaviour::ErrorWithExtras if !caller_has_sessions => Fate::Refused(-32_603),
        Behaviour::ErrorWithExtras => Fate::Said(
            r#""error":{"x-before":[1.0],"code":-32050,"data":{"z":1e2,"a":"\u00e9"},"message":"No.","x-after":{}}"#,
        ),
        Behaviour::ErrorWithoutId => Fate::Said(r#""error":{"code":-31000,"message":"Whose is it?"}"#),
        // A result of the revisions with sessions has no type: such a member means nothing to who speaks them, and must
        // mean nothing to the others.
        Behaviour::AsksUndeclared
        | Behaviour::AsksNothing
        | Behaviour::AsksUnknown
        | Behaviour::AsksTwice
        | Behaviour::HugeState
            if upstream_has_sessions =>
        {
            Fate::Refused(-32_603)
        }
        Behaviour::HugeState if !caller_has_sessions => Fate::Failed("too_large"),
        Behaviour::AsksUndeclared
        | Behaviour::AsksNothing
        | Behaviour::AsksUnknown
        | Behaviour::AsksTwice
        | Behaviour::HugeState => Fate::Failed("protocol"),
        Behaviour::TwoTypes => Fate::Refused(-32_603),
    }
}

/// The name under which an upstream of this behaviour is configured.
fn name(behaviour: Behaviour) -> String {
    behaviour.name().replace('_', "-")
}

fn exposed(behaviour: Behaviour) -> String {
    format!("{}__{}", name(behaviour), behaviour.name())
}

/// A gateway with a good upstream of the name `good`, one of each bad kind, and a key `ci`.
fn among(good: &Fixture, bad: &[Hostile]) -> Builder {
    let builder = Gateway::builder()
        .section(&format!("[limits]\nupstream_message_size = {MESSAGE_LIMIT}"))
        .http_upstream("good", &good.url)
        .key("ci");
    bad.iter().fold(builder, |builder, hostile| builder.section(&bad_upstream(&name(hostile.behaviour), &hostile.url)))
}

fn bad_upstream(name: &str, url: &str) -> String {
    format!("[upstreams.{name}]\nurl = \"{url}\"\ncall_timeout = \"{}ms\"", CALL_TIMEOUT.as_millis())
}

/// One of each kind that can be listed first.
async fn one_of_each(has_sessions: bool) -> Vec<Hostile> {
    let kinds = Behaviour::ALL.iter().filter(|behaviour| **behaviour != Behaviour::Refuses);
    let plans = kinds.map(|behaviour| match has_sessions {
        true => Hostile::plan(*behaviour),
        false => Hostile::plan(*behaviour).modern(),
    });
    join_all(plans.map(Plan::start)).await
}

async fn call(caller: &Caller, is_legacy: bool, tool: &str, arguments: Value) -> Reply {
    if is_legacy {
        caller.request("tools/call", json!({ "name": tool, "arguments": arguments })).await
    } else {
        caller.call(tool, arguments).await
    }
}

/// Whether an answer is what it should be.
fn judge(behaviour: Behaviour, eras: Eras, reply: &Reply) {
    let text = reply.messages().pop().unwrap_or_default();
    assert_eq!(reply.status, 200, "{behaviour:?}: {text}");
    match fate(behaviour, eras) {
        Fate::Said(part) => assert!(text.contains(part), "{behaviour:?}: {}", &text[..text.len().min(500)]),
        Fate::Refused(code) => assert_eq!(reply.json()["error"]["code"], code, "{behaviour:?} {eras:?}: {text}"),
        Fate::Failed(reason) => {
            let error = &reply.json()["error"];
            assert_eq!(error["code"], UPSTREAM_FAILED, "{behaviour:?} {eras:?}: {text}");
            assert_eq!(error["data"], json!({ "upstream": name(behaviour), "reason": reason }), "{text}");
            assert!(error["message"].as_str().unwrap().contains(&name(behaviour)), "{text}");
            for secret in ["hunter2", "secret", "upstream.example", "token", "doctype", "hello", "not for you"] {
                assert!(!text.contains(secret), "{behaviour:?}: {text}");
            }
            assert!(!reply.headers.contains_key("www-authenticate"), "{behaviour:?}");
        }
    }
}

async fn every_bad_upstream_fails_alone(eras: Eras) {
    let (good, bad) = (Fixture::start().await, one_of_each(eras.upstream_has_sessions).await);
    let gateway = among(&good, &bad).start().await;
    gateway.until_upstreams_are_up().await;
    let is_legacy = eras.caller_has_sessions;
    let caller = gateway.caller("ci");
    let caller = if is_legacy { caller.initialize("2025-11-25").await } else { caller };
    let calls = join_all(bad.iter().map(|hostile| async {
        let began = Instant::now();
        let reply = call(&caller, is_legacy, &exposed(hostile.behaviour), json!({})).await;
        (hostile.behaviour, reply, began.elapsed())
    }));
    tokio::pin!(calls);
    let mut others = 0;
    let answers = loop {
        tokio::select! {
            answers = &mut calls => break answers,
            reply = call(&caller, is_legacy, "good__echo", json!({ "n": others })) => {
                assert_eq!(reply.json()["result"]["structuredContent"], json!({ "n": others }), "{}", reply.text());
                others += 1;
            }
        }
    };
    assert!(others > 0, "the good upstream was called meanwhile");
    assert!(answers.len() >= 30);
    for (behaviour, reply, took) in &answers {
        judge(*behaviour, eras, reply);
        assert!(*took < BOUND, "{behaviour:?} took {took:?}");
    }
    let listed = gateway.caller("ci").tool_names().await;
    assert!(bad.iter().all(|hostile| listed.contains(&exposed(hostile.behaviour))), "{listed:?}");
    // Nothing of the calls goes on: whoever has something to pour finds nobody to take it.
    let taken = || bad.iter().map(Hostile::bytes_taken).collect::<Vec<_>>();
    let nobody_takes = async {
        loop {
            let before = taken();
            tokio::time::sleep(Duration::from_millis(300)).await;
            if taken() == before {
                return;
            }
        }
    };
    tokio::time::timeout(BOUND, nobody_takes).await.expect("nobody still listens");
    let began = Instant::now();
    gateway.stop().await;
    assert!(began.elapsed() < BOUND, "stopping took {:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_upstream_fails_its_own_calls_only() {
    every_bad_upstream_fails_alone(ALL_ERAS[0]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_upstream_fails_its_own_calls_only_for_callers_with_sessions() {
    every_bad_upstream_fails_alone(ALL_ERAS[1]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_upstream_with_sessions_fails_its_own_calls_only() {
    every_bad_upstream_fails_alone(ALL_ERAS[2]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_upstream_with_sessions_fails_its_own_calls_only_for_callers_with_sessions_too() {
    every_bad_upstream_fails_alone(ALL_ERAS[3]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_fails_is_not_made_again() {
    for has_sessions in [true, false] {
        let (good, bad) = (Fixture::start().await, one_of_each(has_sessions).await);
        let gateway = among(&good, &bad).start().await;
        gateway.until_upstreams_are_up().await;
        let caller = gateway.caller("ci");
        join_all(bad.iter().map(async |hostile| caller.call(&exposed(hostile.behaviour), json!({})).await)).await;
        for hostile in &bad {
            // 404 says that the session is gone, so that the call did not happen and is made in a new one, once. Without
            // sessions, nothing that failed may be made again.
            let expected = if has_sessions && hostile.behaviour == Behaviour::Status404 { 2 } else { 1 };
            assert_eq!(hostile.calls(), expected, "{:?}, sessions: {has_sessions}", hostile.behaviour);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_of_a_huge_answer_is_taken_than_the_limit() {
    for behaviour in [Behaviour::HugeJson, Behaviour::HugeDeclared, Behaviour::HugeSseEvent] {
        let (good, bad) = (Fixture::start().await, Hostile::start(behaviour).await);
        let gateway = among(&good, std::slice::from_ref(&bad)).start().await;
        gateway.until_upstreams_are_up().await;
        judge(behaviour, ALL_ERAS[2], &gateway.caller("ci").call(&exposed(behaviour), json!({})).await);
        let taken = bad.bytes_taken();
        assert!(taken < MESSAGE_LIMIT + IN_TRANSIT, "{behaviour:?}: {taken} of {HUGE_BYTES}");
    }
}

#[tokio::test]
async fn an_answer_of_the_limit_passes_and_a_larger_one_does_not() {
    let good = Fixture::start().await;
    let gateway = among(&good, &[]).start().await;
    let caller = gateway.caller("ci");
    let most = MESSAGE_LIMIT - 400;
    let reply = caller.call("good__blob", json!({ "size": most })).await;
    assert_eq!(reply.json()["result"]["content"][0]["text"].as_str().map(str::len), Some(most));
    let reply = caller.call("good__blob", json!({ "size": MESSAGE_LIMIT })).await;
    assert_eq!(reply.json()["error"]["data"]["reason"], "too_large");
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_the_credential_stays() {
    let bad = Hostile::start(Behaviour::Redirects).await;
    let credential = "[upstreams.redirects.headers]\nauthorization = \"Bearer file:token\"";
    let builder = Gateway::builder().http_upstream("redirects", &bad.url).section(credential);
    let gateway = builder.file("token", b"upstream-credential").key("ci").start().await;
    judge(
        Behaviour::Redirects,
        ALL_ERAS[2],
        &gateway.caller("ci").call(&exposed(Behaviour::Redirects), json!({})).await,
    );
    assert_eq!((bad.calls(), bad.followed()), (1, 0));
}

#[tokio::test]
async fn an_upstream_gets_its_own_credential_and_never_the_callers() {
    let (one, other) = (Fixture::start().await, Fixture::start().await);
    let credential = "[upstreams.one.headers]\nauthorization = \"Bearer file:token\"\nx-team = \"blue\"";
    let builder =
        Gateway::builder().http_upstream("one", &one.url).section(credential).http_upstream("other", &other.url);
    let gateway = builder.file("token", b"upstream-credential\n").key("ci").start().await;
    let secret = Gateway::secret("ci");
    let callers = [gateway.caller("ci"), gateway.stranger().with("x-portcullis-key", &secret)];
    for caller in callers.map(|caller| caller.with("cookie", "caller=1").with("x-forwarded-for", "198.51.100.7")) {
        let seen = caller.call("one__whoami", json!({})).await.json()["result"]["structuredContent"].clone();
        let seen = seen["headers"].as_array().expect("headers").clone();
        assert!(seen.contains(&json!(["authorization", "Bearer upstream-credential"])), "{seen:?}");
        assert!(seen.contains(&json!(["x-team", "blue"])), "{seen:?}");
        let elsewhere = caller.call("other__whoami", json!({})).await;
        assert!(elsewhere.json()["result"]["structuredContent"]["headers"].is_array(), "{}", elsewhere.text());
        assert!(!elsewhere.text().contains("upstream-credential"), "{}", elsewhere.text());
        for text in [json!(seen).to_string(), elsewhere.text().to_owned()] {
            for foreign in [secret.as_str(), "x-portcullis-key", "cookie", "198.51.100.7", "one__whoami"] {
                assert!(!text.contains(foreign), "{foreign} in {text}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn upstreams_that_were_never_good_are_named_and_stop_nobody() {
    let good = Fixture::start().await;
    let plans = Behaviour::ALL.iter().map(|behaviour| Hostile::plan(*behaviour).from_the_start().start());
    let bad = join_all(plans).await;
    let began = Instant::now();
    let gateway = among(&good, &bad).start().await;
    assert!(began.elapsed() < BOUND, "ready after {:?}", began.elapsed());

    let caller = gateway.caller("ci");
    let listed = caller.modern("tools/list", json!({})).await.json()["result"].clone();
    let mut missing: Vec<String> = bad.iter().map(|hostile| name(hostile.behaviour)).collect();
    missing.sort();
    assert_eq!(listed["_meta"]["portcullis/missingUpstreams"], json!(missing));
    let tools = listed["tools"].as_array().unwrap();
    assert!(
        tools.len() > 10 && tools.iter().all(|tool| tool["name"].as_str().unwrap().starts_with("good__")),
        "{tools:?}"
    );
    let legacy = caller.initialize("2025-06-18").await.request("tools/list", json!({})).await.json()["result"].clone();
    assert_eq!(legacy["_meta"]["portcullis/missingUpstreams"], json!(missing));

    assert_eq!(
        caller.call("good__echo", json!({ "a": 1 })).await.json()["result"]["structuredContent"],
        json!({ "a": 1 })
    );
    let unknown = caller.call(&exposed(Behaviour::Html), json!({})).await.json()["error"].clone();
    assert_eq!(unknown["code"], -32602, "{unknown}");

    let view = gateway.operator("GET", "/api/v1/upstreams", None).await.json()["upstreams"].clone();
    for upstream in view.as_array().unwrap() {
        let is_good = upstream["name"] == "good";
        assert_eq!(upstream["state"], if is_good { "up" } else { "down" }, "{upstream}");
        assert_eq!(upstream["reason"].as_str().is_none_or(str::is_empty), is_good, "{upstream}");
        assert!(!upstream.to_string().contains("hunter2"), "{upstream}");
    }
    for hostile in bad.iter().filter(|hostile| hostile.behaviour.name().starts_with("huge")) {
        let most = hostile.calls() * (MESSAGE_LIMIT + IN_TRANSIT);
        assert!(hostile.bytes_taken() < most, "{:?}: {}", hostile.behaviour, hostile.bytes_taken());
    }
}

#[tokio::test]
async fn a_key_is_not_told_of_missing_upstreams_that_it_may_not_use() {
    let (good, bad) = (Fixture::start().await, Hostile::start(Behaviour::Refuses).await);
    let allow = r#"[{ upstream = "good", tools = ["*"] }]"#;
    let gateway = among(&good, std::slice::from_ref(&bad)).key_for("narrow", allow).start().await;
    let missing = async |key: &str| {
        let listed = gateway.caller(key).modern("tools/list", json!({})).await.json();
        listed["result"]["_meta"]["portcullis/missingUpstreams"].clone()
    };
    assert_eq!(missing("ci").await, json!(["refuses"]));
    assert_eq!(missing("narrow").await, Value::Null);
}

#[tokio::test]
async fn an_upstream_that_becomes_good_is_picked_up() {
    for behaviour in [Behaviour::Refuses, Behaviour::Html, Behaviour::Status503] {
        let good = Fixture::start().await;
        let bad = Hostile::plan(behaviour).from_the_start().start().await;
        let port: u16 = bad.url.split([':', '/']).nth(4).unwrap().parse().unwrap();
        let gateway = among(&good, std::slice::from_ref(&bad)).start().await;
        let caller = gateway.caller("ci");
        drop(bad);
        let _mended = fixture_at(port).await;
        // Without anybody asking for it: what is down is tried again and again.
        gateway.until("/api/v1/upstreams", all_up).await;
        let tool = format!("{}__echo", name(behaviour));
        assert!(caller.tool_names().await.contains(&tool), "{behaviour:?}");
        let reply = caller.call(&tool, json!({ "a": 1 })).await;
        assert_eq!(reply.json()["result"]["structuredContent"], json!({ "a": 1 }), "{behaviour:?}: {}", reply.text());
        let listed = caller.modern("tools/list", json!({})).await.json();
        assert_eq!(listed["result"]["_meta"]["portcullis/missingUpstreams"], Value::Null);
    }
}

/// A fixture at a port that somebody else is about to leave.
async fn fixture_at(port: u16) -> Fixture {
    let settings = Settings { port, ..Settings::default() };
    let free = async {
        loop {
            match Fixture::with(settings).await {
                Ok(fixture) => return fixture,
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    tokio::time::timeout(BOUND, free).await.expect("the port becomes free")
}

fn all_up(view: &Value) -> bool {
    view["upstreams"].as_array().is_some_and(|upstreams| upstreams.iter().all(|upstream| upstream["state"] == "up"))
}

#[tokio::test]
async fn an_upstream_that_goes_down_keeps_its_place_and_comes_back() {
    let (good, other) = (Fixture::start().await, Fixture::start().await);
    let gateway = among(&good, &[]).section(&bad_upstream("other", &other.url)).start().await;
    gateway.until_upstreams_are_up().await;
    let caller = gateway.caller("ci");
    let before = caller.tool_names().await;
    assert_eq!(caller.call("other__echo", json!({})).await.json()["result"]["structuredContent"], json!({}));
    let port = other.port;
    drop(other);
    let error = caller.call("other__echo", json!({})).await.json()["error"].clone();
    assert_eq!((&error["code"], &error["data"]["reason"]), (&UPSTREAM_FAILED.into(), &"unreachable".into()), "{error}");
    assert_eq!(gateway.operator("POST", "/api/v1/upstreams/other/refresh", None).await.status, 202);
    gateway.until("/api/v1/upstreams", |view| view["upstreams"][1]["state"] == "down").await;
    assert_eq!(caller.tool_names().await, before, "what was known stays listed");
    let back = fixture_at(port).await;
    let reply = caller.call("other__echo", json!({ "back": true })).await;
    assert_eq!(reply.json()["result"]["structuredContent"], json!({ "back": true }), "{}", reply.text());
    assert_eq!(back.stats().calls, 1);
}

#[tokio::test]
async fn a_call_whose_time_is_up_is_taken_back_from_the_upstream() {
    let slow = Fixture::start().await;
    let gateway = Gateway::builder().section(&bad_upstream("slow", &slow.url)).key("ci").start().await;
    gateway.until_upstreams_are_up().await;
    let error = gateway.caller("ci").call("slow__slow", json!({ "ms": 60_000 })).await.json()["error"].clone();
    assert_eq!((&error["code"], &error["data"]["reason"]), (&UPSTREAM_FAILED.into(), &"timed_out".into()), "{error}");
    slow.until(|stats| (stats.cancelled, stats.under_way) == (1, 0)).await;
}

/// Tells when the answer that it belongs to is over.
struct Over(mpsc::Sender<()>);

impl Drop for Over {
    fn drop(&mut self) {
        // Nobody may be left to hear it.
        _ = self.0.try_send(());
    }
}

/// An upstream of one tool, `pour`, whose calls are answered by `answer`, which is given the request's id.
async fn answering<A>(tasks: &mut JoinSet<()>, answer: A) -> String
where
    A: Fn(&Value) -> http::Response<Body> + Clone + Send + Sync + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/mcp", listener.local_addr().unwrap());
    let respond = async move |body: Bytes| {
        let message: Value = serde_json::from_slice(&body).unwrap();
        let result = match message["method"].as_str() {
            Some("initialize") => {
                let info = json!({ "name": "answering", "version": "1" });
                json!({ "protocolVersion": "2025-11-25", "capabilities": { "tools": {} }, "serverInfo": info })
            }
            Some("tools/list") => json!({ "tools": [{ "name": "pour", "inputSchema": { "type": "object" } }] }),
            Some("tools/call") => return answer(&message["id"]),
            _ => return http::Response::builder().status(202).body(Body::empty()).unwrap(),
        };
        answered(&json!({ "jsonrpc": "2.0", "id": message["id"], "result": result }).to_string())
    };
    tasks.spawn(async move { axum::serve(listener, Router::new().route("/mcp", post(respond))).await.unwrap() });
    url
}

fn answered(text: &str) -> http::Response<Body> {
    let head = http::Response::builder().header("content-type", "application/json");
    head.body(Body::from(text.to_owned())).unwrap()
}

/// Log messages without end, as fast as they are read.
fn flood(over: Over) -> http::Response<Body> {
    let params = json!({ "level": "info", "data": "x".repeat(64 * 1024) });
    let event = json!({ "jsonrpc": "2.0", "method": "notifications/message", "params": params });
    let event = Bytes::from(format!("data: {event}\n\n"));
    let events = stream::unfold((event, over), |(event, over)| async {
        Some((Ok::<_, std::io::Error>(event.clone()), (event, over)))
    });
    let head = http::Response::builder().header("content-type", "text/event-stream");
    head.body(Body::from_stream(events)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_does_not_read_holds_no_call_beyond_its_time() {
    let (over, mut is_over) = mpsc::channel(1);
    let mut tasks = JoinSet::new();
    let url = answering(&mut tasks, move |_| flood(Over(over.clone()))).await;
    let gateway = Gateway::builder().section(&bad_upstream("flood", &url)).key("ci").start().await;
    gateway.until_upstreams_are_up().await;
    let caller = gateway.caller("ci").initialize("2025-11-25").await;
    let params = json!({ "name": "flood__pour", "arguments": {} });
    let request = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params }).to_string();
    let unread = caller.open("POST", "/mcp", request).await;
    let ended = tokio::time::timeout(BOUND, is_over.recv()).await;
    assert!(ended.is_ok(), "the upstream is still pouring");
    drop(unread);
}

/// In 2026-07-28 leaving takes a call back, and so does never reading; with sessions the call goes on without its reader.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_whose_reader_takes_nothing_is_cut_off() {
    let (over, mut is_over) = mpsc::channel(1);
    let mut tasks = JoinSet::new();
    let url = answering(&mut tasks, move |_| flood(Over(over.clone()))).await;
    let gateway = Gateway::builder()
        .section("[limits]\nstall_timeout = \"1s\"\nupstream_message_size = \"1MiB\"")
        .section(&format!("[upstreams.flood]\nurl = \"{url}\"\ncall_timeout = \"40s\""))
        .key("ci")
        .start()
        .await;
    let caller = gateway.caller("ci");
    let level = json!({ "io.modelcontextprotocol/logLevel": "debug" });
    let params = json!({ "name": "flood__pour", "arguments": {}, "_meta": level });
    let unread = caller.begin_modern("tools/call", params).await;
    assert!(unread.is_events());
    let began = Instant::now();
    let ended = tokio::time::timeout(Duration::from_secs(30), is_over.recv()).await;
    assert!(ended.is_ok(), "the upstream is still pouring after {:?}", began.elapsed());
    drop(unread);

    let session = caller.initialize("2025-11-25").await;
    let body = session.legacy_request("tools/call", json!({ "name": "flood__pour", "arguments": {} }));
    let (status, _, mut body) = session.open("POST", "/mcp", body).await;
    assert_eq!(status, 200);
    tokio::time::sleep(Duration::from_secs(6)).await;
    let rest = async {
        let mut bytes = 0;
        while let Some(Ok(frame)) = http_body_util::BodyExt::frame(&mut body).await {
            bytes += frame.into_data().map_or(0, |data| data.len());
        }
        bytes
    };
    // What was under way is still there to be read, and then it is over although the call is not.
    let bytes = tokio::time::timeout(Duration::from_secs(20), rest).await.expect("the stream was cut off");
    assert!(bytes < 64 << 20, "{bytes}");
}

#[tokio::test]
async fn a_result_or_error_that_is_no_object_is_none() {
    let mut tasks = JoinSet::new();
    for member in
        ["\"result\":7", "\"result\":[]", "\"result\":null", "\"result\":\"{}\"", "\"error\":\"no\"", "\"error\":[1]"]
    {
        let answer = move |id: &Value| answered(&format!(r#"{{"jsonrpc":"2.0","id":{id},{member}}}"#));
        let url = answering(&mut tasks, answer).await;
        let gateway = Gateway::builder().section(&bad_upstream("odd", &url)).key("ci").start().await;
        gateway.until_upstreams_are_up().await;
        for is_legacy in [false, true] {
            let caller = gateway.caller("ci");
            let caller = if is_legacy { caller.initialize("2025-11-25").await } else { caller };
            let error = call(&caller, is_legacy, "odd__pour", json!({})).await.json()["error"].clone();
            assert_eq!(
                (&error["code"], &error["data"]["reason"]),
                (&UPSTREAM_FAILED.into(), &"protocol".into()),
                "{member}: {error}"
            );
        }
    }
}
