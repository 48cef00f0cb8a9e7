//! Requests of the modern era.

use std::time::Duration;

use http::{HeaderName, HeaderValue};
use serde_json::json;

use super::scene::{MODERN, Ours, Reply, SHORT, Scene, answering, at_level, caller, next_notice, text};
use crate::mcp::call::Outcome;
use crate::mcp::talk::{LogLevel, Notice};
use crate::upstream::UpstreamError;
use crate::upstream::deadline::Deadline;

#[tokio::test]
async fn a_request_says_everything_itself_and_nothing_of_the_caller_but_that() {
    let scene = Scene::modern(|seen| seen.result(&json!({"resultType": "complete"}))).await;
    let mut ours = scene.exchange("päron", &at_level(answering("a"), LogLevel::Warning));
    let header = (HeaderName::from_static("mcp-param-region"), HeaderValue::from_static("us-west1"));
    ours.exchange.headers.push(header);
    let id = ours.exchange.id.as_json().to_owned();
    assert_eq!(text(scene.link.exchange(ours.exchange).await), r#"{"resultType":"complete"}"#);
    let seen = scene.seen().pop().unwrap();
    let mut names: Vec<&str> = seen.headers.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "accept",
            "content-length",
            "content-type",
            "host",
            "mcp-method",
            "mcp-name",
            "mcp-param-region",
            "mcp-protocol-version",
            "x-configured"
        ]
    );
    assert_eq!(seen.header("accept"), Some("application/json, text/event-stream"));
    assert_eq!(seen.header("mcp-method"), Some("tools/call"));
    assert_eq!(seen.header("mcp-name"), Some("=?base64?cMOkcm9u?="));
    assert_eq!(seen.header("mcp-protocol-version"), Some(MODERN));
    assert_eq!(seen.body["id"].to_string(), id);
    let meta = &seen.body["params"]["_meta"];
    assert_eq!(meta["progressToken"].to_string(), id, "never the caller's own token");
    assert_eq!(meta["io.modelcontextprotocol/logLevel"], "warning");
    assert_eq!(meta["io.modelcontextprotocol/clientCapabilities"], json!({"elicitation": {}, "roots": {}}));
}

#[tokio::test]
async fn errors_are_outcomes_whatever_their_status() {
    for (status, code) in [(200, -32602), (400, -32021), (400, -32020), (404, -32601), (400, -32602)] {
        let scene = Scene::modern(move |seen| seen.error(status, code)).await;
        let outcome = scene.call(&caller("a")).await;
        let Ok(Outcome::Error(error)) = outcome else { panic!("{outcome:?}") };
        assert!(error.get().contains(&code.to_string()));
        assert_eq!(scene.kinds(), ["server/discover", "tools/call"], "it is not asked again");
    }
    let scene = Scene::modern(|_| Reply::status(503)).await;
    assert!(matches!(scene.call(&caller("a")).await, Err(UpstreamError::Status { status: 503 })));
    let scene = Scene::modern(|_| Reply::text(404, "text/plain", "gone")).await;
    assert!(matches!(scene.call(&caller("a")).await, Err(UpstreamError::Status { status: 404 })));
}

#[tokio::test]
async fn a_refused_version_is_looked_into_once() {
    let scene = Scene::modern(|seen| seen.error(400, -32022)).await;
    scene.link.about(&Deadline::after(SHORT * 10, SHORT)).await.unwrap();
    assert!(matches!(scene.call(&caller("a")).await, Ok(Outcome::Error(_))));
    assert_eq!(scene.kinds(), ["server/discover", "tools/call", "server/discover", "tools/call"]);
}

#[tokio::test]
async fn notices_come_before_the_answer() {
    let scene = Scene::modern(|seen| {
        let id = &seen.body["id"];
        let notification = |method: &str, params| event_of(method, &params);
        Reply::events(&[
            notification("notifications/progress", json!({"progressToken": id, "progress": 1})),
            notification("notifications/progress", json!({"progressToken": "another", "progress": 2})),
            notification("notifications/message", json!({"level": "info", "data": "x"})),
            super::scene::event(&json!({"jsonrpc": "2.0", "id": "q", "method": "roots/list"})),
            super::scene::event(&seen.result_text(&json!({"resultType": "input_required", "requestState": "s"}))),
        ])
    })
    .await;
    let Ours { exchange, mut heard } = scene.exchange("add", &caller("a"));
    let Ok(Outcome::NeedsInput(needed)) = scene.link.exchange(exchange).await else { panic!() };
    assert_eq!(needed.state().as_deref(), Some("s"));
    assert!(matches!(next_notice(&mut heard).await, Notice::Progress(_)));
    assert!(matches!(next_notice(&mut heard).await, Notice::Log(_)));
    assert!(heard.recv().await.is_none(), "what belongs to another request, or to no revision, is dropped");
    assert_eq!(scene.count("response"), 0);
}

fn event_of(method: &str, params: &serde_json::Value) -> String {
    super::scene::event(&json!({"jsonrpc": "2.0", "method": method, "params": params}))
}

#[tokio::test]
async fn closing_the_answer_is_how_a_request_is_taken_back() {
    enum Way {
        Cancelled,
        TimedOut,
        Dropped,
    }
    for way in [Way::Cancelled, Way::TimedOut, Way::Dropped] {
        let (pens, mut written) = tokio::sync::mpsc::channel(1);
        let scene = Scene::modern(move |_| {
            let (reply, pen) = Reply::stream();
            pen.text(": hello\n\n");
            pens.try_send(pen).unwrap();
            reply
        })
        .await;
        let mut ours = scene.exchange("add", &caller("a"));
        let cancelled = ours.exchange.via.cancelled.clone();
        if matches!(way, Way::TimedOut) {
            ours.exchange.deadline = Deadline::after(SHORT, SHORT);
        }
        let pen = {
            let call = scene.link.exchange(ours.exchange);
            let mut call = std::pin::pin!(call);
            let pen = tokio::select! {
                pen = written.recv() => pen.unwrap(),
                outcome = &mut call => panic!("{outcome:?}"),
            };
            match way {
                Way::Cancelled => {
                    cancelled.cancel();
                    assert!(matches!(call.await, Err(UpstreamError::Cancelled)));
                }
                Way::TimedOut => {
                    assert!(matches!(call.await, Err(UpstreamError::TimedOut { after }) if after == SHORT));
                }
                Way::Dropped => {}
            }
            pen
        };
        pen.is_closed().await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(scene.count("notifications/cancelled"), 0);
    }
}

#[tokio::test]
async fn what_is_no_answer_is_an_error() {
    type Answer = fn(&super::scene::Seen) -> Reply;
    let protocol: [Answer; 5] = [
        |_| Reply::json(200, &json!({"jsonrpc": "2.0", "id": 999, "result": {}})),
        |_| Reply::json(200, &json!({"id": 1, "result": {}})),
        |seen| Reply::json(200, &json!([seen.result_text(&json!({}))])),
        |seen| seen.result(&json!({})).header("content-encoding", "gzip"),
        |_| Reply::text(200, "text/html", "hello"),
    ];
    for (number, answer) in protocol.into_iter().enumerate() {
        let scene = Scene::modern(move |seen| answer(&seen)).await;
        let outcome = scene.call(&caller("a")).await;
        assert!(matches!(outcome, Err(UpstreamError::Protocol { .. })), "{number}: {outcome:?}");
    }
    let scene = Scene::modern(|_| Reply::events(&[": nothing\n\n".into()])).await;
    assert!(matches!(scene.call(&caller("a")).await, Err(UpstreamError::Died)));
    for large in [false, true] {
        let scene = Scene::modern(move |seen| {
            let result = seen.result_text(&json!({"text": "x".repeat(super::scene::LIMITS.message_bytes)}));
            if large { Reply::events(&[super::scene::event(&result)]) } else { Reply::json(200, &result) }
        })
        .await;
        assert!(matches!(scene.call(&caller("a")).await, Err(UpstreamError::TooLarge { .. })));
    }
}
