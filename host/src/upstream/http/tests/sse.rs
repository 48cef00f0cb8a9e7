//! HTTP with server-sent events.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::scene::{
    LONG, Ours, Pen, Reply, Scene, Seen, answering, caller, event, initialized, next, next_notice, text,
};
use crate::config::Protocol;
use crate::mcp::call::Outcome;
use crate::mcp::json::raw;
use crate::mcp::talk::{Event, Notice, Question};
use crate::upstream::UpstreamError;
use crate::upstream::deadline::Deadline;

/// The stream of the newest session.
#[derive(Clone, Default)]
struct Stream(Arc<Mutex<Option<Pen>>>);

impl Stream {
    fn message(&self, message: &Value) {
        self.0.lock().unwrap().as_ref().unwrap().message(message);
    }

    fn end(&self) {
        self.0.lock().unwrap().take();
    }
}

/// An upstream of 2024-11-05. `script` answers calls on the stream, or not at all.
async fn old(
    protocol: Protocol,
    endpoint: &'static str,
    script: impl Fn(&Seen) -> Option<Value> + Send + Sync + 'static,
) -> (Scene, Stream) {
    let stream = Stream::default();
    let kept = stream.clone();
    let scene = Scene::new(protocol, move |seen| {
        if seen.path == "/mcp" && seen.method != http::Method::GET {
            return Reply::text(405, "text/plain", "no");
        }
        match seen.kind().as_str() {
            "GET" => {
                let (reply, pen) = Reply::stream();
                pen.text(format!("event: endpoint\ndata: {endpoint}\n\n"));
                *kept.0.lock().unwrap() = Some(pen);
                return reply;
            }
            "initialize" => kept.message(&seen.result_text(&initialized())),
            "tools/call" => {
                if let Some(result) = script(&seen) {
                    kept.message(&seen.result_text(&result));
                }
            }
            _ => {}
        }
        Reply::text(202, "text/plain", "Accepted")
    })
    .await;
    (scene, stream)
}

#[tokio::test]
async fn the_old_transport_is_found_and_spoken() {
    let (scene, _) = old(Protocol::Auto, "/messages?session=1", |seen| Some(json!({"id": seen.body["id"]}))).await;
    assert_eq!(text(scene.call(&caller("a")).await), r#"{"id":1}"#);
    assert_eq!(text(scene.call(&caller("a")).await), r#"{"id":2}"#);
    assert_eq!(
        scene.kinds(),
        ["server/discover", "initialize", "GET", "initialize", "notifications/initialized", "tools/call", "tools/call"]
    );
    let call = scene.seen().pop().unwrap();
    assert_eq!((call.path.as_str(), call.header("x-configured")), ("/messages?session=1", Some("secret")));
    // It is kept in mind for the sessions of others.
    assert_eq!(text(scene.call(&caller("b")).await), r#"{"id":3}"#);
    assert_eq!((scene.count("server/discover"), scene.count("initialize")), (1, 3));
    let about = scene.link.about(&Deadline::after(LONG, LONG)).await.unwrap();
    assert!(about.capabilities.resources_subscribe);
}

#[tokio::test]
async fn an_endpoint_elsewhere_is_refused() {
    for endpoint in ["http://127.0.0.1:9/m", "//elsewhere/m", "http://user@127.0.0.1/m", "no uri"] {
        let (scene, _) = old(Protocol::Sse, endpoint, |_| Some(json!({}))).await;
        let outcome = scene.call(&caller("a")).await;
        assert!(matches!(outcome, Err(UpstreamError::Protocol { .. })), "{endpoint}: {outcome:?}");
        assert_eq!(scene.kinds(), ["GET"], "nothing is sent there");
    }
    // A stream of another kind is none of these either, and the first refusal is told.
    let scene = Scene::new(Protocol::Auto, |seen| match seen.method == http::Method::GET {
        true => Reply::events(&[event(&json!({}))]),
        false => Reply::status(404),
    })
    .await;
    assert!(matches!(scene.call(&caller("a")).await, Err(UpstreamError::Status { status: 404 })));
    assert_eq!(scene.kinds(), ["server/discover", "initialize", "GET"]);
}

#[tokio::test]
async fn what_is_said_finds_the_request_that_it_belongs_to() {
    let (scene, stream) = old(Protocol::Sse, "/m", |_| None).await;
    let Ours { exchange, mut heard } = scene.exchange("one", &answering("a"));
    let talk = async {
        let call = scene.wait_for("tools/call", 1).await;
        let id = &call.body["id"];
        let notification = |method: &str, params| json!({"jsonrpc": "2.0", "method": method, "params": params});
        stream.message(&notification("notifications/progress", json!({"progressToken": "x", "progress": 1})));
        stream.message(&notification("notifications/progress", json!({"progressToken": id, "progress": 2})));
        stream.message(&json!({"jsonrpc": "2.0", "id": 99, "result": {"not": "ours"}}));
        assert!(matches!(next_notice(&mut heard).await, Notice::Progress(_)));
        stream.message(&json!({"jsonrpc": "2.0", "id": 5, "method": "roots/list"}));
        let Event::Ask(asked) = next(&mut heard).await else { panic!() };
        assert_eq!(asked.question, Question::Roots);
        asked.reply.send(Outcome::Result(raw(r#"{"roots":[]}"#.into()))).unwrap();
        let reply = scene.wait_for("response", 1).await;
        assert_eq!((reply.path.as_str(), &reply.body["id"]), ("/m", &json!(5)));
        stream.message(&json!({"jsonrpc": "2.0", "id": 6, "method": "ping"}));
        scene.wait_for("response", 2).await;
        stream.message(&call.result_text(&json!({"one": 1})));
    };
    let (outcome, ()) = tokio::join!(scene.link.exchange(exchange), talk);
    assert_eq!(text(outcome), r#"{"one":1}"#);
}

#[tokio::test]
async fn the_end_of_the_stream_is_the_end_of_the_session() {
    let (scene, stream) =
        old(Protocol::Sse, "/m", |seen| (seen.body["params"]["name"] != "stuck").then(|| json!({"ok": true}))).await;
    let party = caller("a");
    let stuck = scene.link.exchange(scene.exchange("stuck", &party).exchange);
    let (outcome, ()) = tokio::join!(stuck, async {
        scene.wait_for("tools/call", 1).await;
        stream.end();
    });
    assert!(matches!(outcome, Err(UpstreamError::Died)), "{outcome:?}");
    assert_eq!(text(scene.call(&party).await), r#"{"ok":true}"#);
    assert_eq!((scene.count("GET"), scene.count("initialize")), (2, 2));
    // A request that is given up is taken back here too.
    let cancelled = scene.exchange("stuck", &party);
    let token = cancelled.exchange.via.cancelled.clone();
    let (outcome, ()) = tokio::join!(scene.link.exchange(cancelled.exchange), async {
        scene.wait_for("tools/call", 3).await;
        token.cancel();
    });
    assert!(matches!(outcome, Err(UpstreamError::Cancelled)));
    assert_eq!(scene.wait_for("notifications/cancelled", 1).await.path, "/m");
    scene.link.end_all(LONG).await;
    let pen = stream.0.lock().unwrap().take().unwrap();
    pen.is_closed().await;
}
