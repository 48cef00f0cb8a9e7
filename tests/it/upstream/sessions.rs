//! Sessions with upstreams: one for each principal and each of its own sessions, opened when first used, opened anew when
//! forgotten, bounded, ended when the caller's ends or nobody uses it; and request ids of the gateway's own, whatever
//! the callers use.

use std::collections::HashSet;

use futures_util::future::join_all;
use portcullis_tests::gateway::Builder;
use portcullis_tests::upstreams::fixture::{Eras, Fixture, Settings};
use portcullis_tests::{Caller, Gateway};
use serde_json::{Value, json};

/// An upstream that knows sessions only.
async fn with_sessions() -> Fixture {
    Fixture::with(Settings { eras: Eras::Legacy, ..Settings::default() }).await.unwrap()
}

fn before(fixture: &Fixture) -> Builder {
    Gateway::builder().http_upstream("one", &fixture.url).key("anna").key("ben")
}

/// The upstream session that a caller's call travels in.
async fn upstream_session(caller: &Caller) -> String {
    let reply = caller.call("one__whoami", json!({})).await.json();
    let headers =
        reply["result"]["structuredContent"]["headers"].as_array().unwrap_or_else(|| panic!("{reply}")).clone();
    let session = headers.iter().find(|header| header[0] == "mcp-session-id").expect("a session");
    session[1].as_str().unwrap().to_owned()
}

/// The same for a caller that has a session itself.
async fn upstream_session_of(caller: &Caller) -> String {
    let reply = caller.request("tools/call", json!({ "name": "one__whoami", "arguments": {} })).await.json();
    let headers = reply["result"]["structuredContent"]["headers"].as_array().unwrap_or_else(|| panic!("{reply}"));
    let session = headers.iter().find(|header| header[0] == "mcp-session-id").expect("a session");
    session[1].as_str().unwrap().to_owned()
}

async fn until_sessions(fixture: &Fixture, wanted: usize) {
    let reached = async {
        while fixture.sessions() != wanted {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    let waited = tokio::time::timeout(portcullis_tests::gateway::SOON, reached).await;
    waited.unwrap_or_else(|_| panic!("there are {} sessions", fixture.sessions()));
}

#[tokio::test]
async fn each_key_has_a_session_of_its_own_and_keeps_it() {
    let fixture = with_sessions().await;
    let gateway = before(&fixture).start().await;
    let (anna, ben) = (gateway.caller("anna"), gateway.caller("ben"));
    let annas = upstream_session(&anna).await;
    let bens = upstream_session(&ben).await;
    assert_ne!(annas, bens);
    assert_eq!(upstream_session(&anna).await, annas);
    assert_eq!(fixture.sessions(), 3, "the third is the gateway's own, for the list");
}

#[tokio::test]
async fn a_session_is_opened_when_it_is_needed_and_not_before() {
    let fixture = with_sessions().await;
    let gateway = before(&fixture).start().await;
    gateway.caller("anna").tool_names().await;
    assert_eq!(fixture.sessions(), 1);
    upstream_session(&gateway.caller("anna")).await;
    assert_eq!(fixture.sessions(), 2);
}

#[tokio::test]
async fn first_calls_at_the_same_time_share_one_session() {
    let fixture = with_sessions().await;
    let gateway = before(&fixture).start().await;
    let (anna, ben) = (gateway.caller("anna"), gateway.caller("ben"));
    let calls = (0..20).flat_map(|_| [upstream_session(&anna), upstream_session(&ben)]);
    let used: HashSet<String> = join_all(calls).await.into_iter().collect();
    assert_eq!((used.len(), fixture.sessions()), (2, 3));
}

#[tokio::test]
async fn a_forgotten_session_is_opened_anew_and_the_call_made_once() {
    let fixture = with_sessions().await;
    let gateway = before(&fixture).start().await;
    let anna = gateway.caller("anna");
    let first = upstream_session(&anna).await;
    fixture.forget_sessions();
    let second = upstream_session(&anna).await;
    assert_ne!(first, second);
    assert_eq!((fixture.stats().calls, fixture.sessions()), (2, 1));
}

#[tokio::test]
async fn many_calls_into_a_forgotten_session_are_each_made_once() {
    let fixture = with_sessions().await;
    let gateway = before(&fixture).start().await;
    let anna = gateway.caller("anna");
    upstream_session(&anna).await;
    fixture.forget_sessions();
    let calls = (0..30).map(|number| anna.call("one__echo", json!({ "n": number })));
    for (number, reply) in join_all(calls).await.iter().enumerate() {
        assert_eq!(reply.json()["result"]["structuredContent"], json!({ "n": number }), "{}", reply.text());
    }
    assert_eq!((fixture.stats().calls, fixture.sessions()), (31, 1));
}

#[tokio::test]
async fn the_list_is_read_again_after_a_session_is_forgotten() {
    let fixture = with_sessions().await;
    let gateway = before(&fixture).start().await;
    fixture.forget_sessions();
    fixture.set_tools(vec![portcullis_tests::upstreams::fixture::tool("only")]);
    gateway.operator("POST", "/api/v1/upstreams/one/refresh", None).await;
    gateway.until("/api/v1/status", |status| status["tools"] == 1).await;
    assert_eq!(gateway.caller("anna").tool_names().await, ["one__only"]);
}

#[tokio::test]
async fn sessions_are_ended_when_the_gateway_stops() {
    let fixture = with_sessions().await;
    let gateway = before(&fixture).start().await;
    for key in ["anna", "ben"] {
        upstream_session(&gateway.caller(key)).await;
    }
    assert_eq!(fixture.sessions(), 3);
    gateway.stop().await;
    assert_eq!(fixture.sessions(), 0);
}

/// A call under the request id 0.
async fn call_as_zero(gateway: &Gateway, key: &str, params: Value) -> Value {
    let mut caller = gateway.caller(key);
    let (headers, body) = caller.modern_request("tools/call", params);
    let mut body: Value = serde_json::from_str(&body).unwrap();
    body["id"] = 0.into();
    caller.headers = headers;
    let answer = caller.post(body.to_string()).await.json();
    assert_eq!(answer["id"], 0, "{answer}");
    answer
}

#[tokio::test]
async fn the_upstream_sees_each_id_and_token_once_although_all_callers_use_the_same() {
    let fixture = with_sessions().await;
    let gateway = before(&fixture).start().await;
    let params = json!({ "name": "one__whoami", "arguments": {}, "_meta": { "progressToken": "mine" } });
    let calls = (0..50).map(|turn| call_as_zero(&gateway, ["anna", "ben"][turn % 2], params.clone()));
    let mut tokens = HashSet::new();
    for answer in join_all(calls).await {
        let token = &answer["result"]["structuredContent"]["params"]["_meta"]["progressToken"];
        assert!(token.is_u64(), "{answer}");
        assert!(tokens.insert(token.to_string()), "{token} came twice");
    }
    // The fixture refuses an id that is under way in the same session.
    let slow = json!({ "name": "one__slow", "arguments": { "ms": 500 } });
    let calls = (0..50).map(|_| call_as_zero(&gateway, "anna", slow.clone()));
    for answer in join_all(calls).await {
        assert_eq!(answer["result"]["content"][0]["text"], "waited 500 ms", "{answer}");
    }
}

#[tokio::test]
async fn a_callers_own_session_has_a_session_of_its_own_with_the_upstream_and_both_end_together() {
    let fixture = with_sessions().await;
    let gateway = before(&fixture).start().await;
    let anna = gateway.caller("anna");
    let shared = upstream_session(&anna).await;
    let (one, two) = (anna.initialize("2025-11-25").await, anna.initialize("2025-06-18").await);
    let used: HashSet<String> = [shared, upstream_session_of(&one).await, upstream_session_of(&two).await].into();
    assert_eq!((used.len(), fixture.sessions()), (3, 4), "and the gateway's own");
    assert_eq!(upstream_session_of(&one).await, upstream_session_of(&one).await);
    assert_eq!(one.send("DELETE", "/mcp", "").await.status, 204);
    until_sessions(&fixture, 3).await;
    upstream_session_of(&two).await;
    assert_eq!(fixture.sessions(), 3);
}

#[tokio::test]
async fn a_session_that_nobody_uses_is_ended() {
    let fixture = with_sessions().await;
    let gateway = before(&fixture).section("[limits]\nupstream_session_idle = \"1s\"").start().await;
    upstream_session(&gateway.caller("anna")).await;
    // The gateway's own is in use for as long as it listens for changes.
    until_sessions(&fixture, 1).await;
    upstream_session(&gateway.caller("anna")).await;
}

#[tokio::test]
async fn sessions_with_an_upstream_are_bounded() {
    let fixture = with_sessions().await;
    let gateway = before(&fixture).section("[limits]\nupstream_sessions = 3").start().await;
    let anna = gateway.caller("anna");
    let mut callers = Vec::new();
    for _ in 0..6 {
        let caller = anna.initialize("2025-11-25").await;
        let reply = caller.request("tools/call", json!({ "name": "one__echo", "arguments": {} })).await;
        let answer = reply.json();
        // Whoever finds no place is told so; whoever has one keeps it or is given a new one.
        assert!(answer["result"].is_object() || answer["error"]["code"] == -31502, "{answer}");
        callers.push(caller);
        assert!(fixture.sessions() <= 4, "{} are open, one of which may be about to end", fixture.sessions());
    }
    assert_eq!(anna.call("one__echo", json!({})).await.status, 200);
}

#[tokio::test]
async fn an_upstream_that_speaks_no_revision_of_ours_is_down_with_a_reason() {
    let later = Later::start().await;
    let gateway = Gateway::builder().http_upstream("later", &later.url).key("anna").start().await;
    let view = gateway.operator("GET", "/api/v1/upstreams", None).await.json();
    assert_eq!(view["upstreams"][0]["state"], "down", "{view}");
    let reason = view["upstreams"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("no revision"), "{reason}");
    let missing = gateway.caller("anna").modern("tools/list", json!({})).await.json()["result"]["_meta"].clone();
    assert_eq!(missing["portcullis/missingUpstreams"], json!(["later"]));
}

/// A server that speaks a revision of its own only.
struct Later {
    url: String,
    _serving: tokio::task::JoinSet<()>,
}

impl Later {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/mcp", listener.local_addr().unwrap());
        let refuse = async |body: axum::body::Bytes| {
            let id = serde_json::from_slice::<Value>(&body).unwrap()["id"].clone();
            let data = json!({ "supported": ["2030-01-01"], "requested": "2026-07-28" });
            let error = json!({ "code": -32022, "message": "Unsupported protocol version", "data": data });
            (http::StatusCode::BAD_REQUEST, axum::Json(json!({ "jsonrpc": "2.0", "id": id, "error": error })))
        };
        let router = axum::Router::new().route("/mcp", axum::routing::post(refuse));
        let mut serving = tokio::task::JoinSet::new();
        serving.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, _serving: serving }
    }
}
