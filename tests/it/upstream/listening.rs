//! Upstreams of 2026-07-28 whose streams of changes are not what they should be (patterns/subscriptions): what they list and
//! their calls go on, who listens through the gateway is told in time what there is to hear, and nobody runs in circles.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::routing::post;
use futures_util::stream::{self, StreamExt as _};
use http::Response;
use portcullis_tests::Gateway;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// What may pass until a caller knows.
const BOUND: Duration = Duration::from_secs(15);
const URI: &str = "x://1";

/// How an upstream answers `subscriptions/listen`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stream {
    NeverAgrees,
    AgreesForAnother,
    AgreesWithoutMark,
    TellsBeforeItAgrees,
    AnswersAtOnce,
    AnswersAnother,
    IsJson,
    IsGarbage,
    IsHtml,
    IsNotFound,
    IsForbidden,
    EndsAtOnce,
    TellsOthersChanges,
    Asks,
    Storms,
    GrantsNothing,
    GrantsMore,
}

impl Stream {
    const ALL: [Self; 17] = [
        Self::NeverAgrees,
        Self::AgreesForAnother,
        Self::AgreesWithoutMark,
        Self::TellsBeforeItAgrees,
        Self::AnswersAtOnce,
        Self::AnswersAnother,
        Self::IsJson,
        Self::IsGarbage,
        Self::IsHtml,
        Self::IsNotFound,
        Self::IsForbidden,
        Self::EndsAtOnce,
        Self::TellsOthersChanges,
        Self::Asks,
        Self::Storms,
        Self::GrantsNothing,
        Self::GrantsMore,
    ];

    /// Whether the resource that a caller asks for is really granted.
    fn grants(self) -> bool {
        matches!(self, Self::TellsOthersChanges | Self::Asks | Self::Storms | Self::GrantsMore | Self::EndsAtOnce)
    }
}

#[derive(Default)]
struct Counts {
    listens: AtomicUsize,
    lists: AtomicUsize,
}

fn marked(method: &str, id: &Value, members: Value) -> String {
    let mut params = members;
    params["_meta"] = json!({ "io.modelcontextprotocol/subscriptionId": id });
    let message = json!({ "jsonrpc": "2.0", "method": method, "params": params });
    format!("data: {message}\n\n")
}

fn respond(how: Stream, request: &Value) -> Response<Body> {
    let id = &request["id"];
    let wanted = request["params"]["notifications"].clone();
    let acknowledged = "notifications/subscriptions/acknowledged";
    let agrees = marked(acknowledged, id, json!({ "notifications": wanted }));
    let changed = |id: &Value| marked("notifications/tools/list_changed", id, json!({}));
    let updated = |id: &Value| marked("notifications/resources/updated", id, json!({ "uri": URI }));
    let result = |id: &Value| json!({ "jsonrpc": "2.0", "id": id, "result": { "resultType": "complete" } }).to_string();
    let events = |first: String, more: Option<String>| {
        let more = stream::unfold(more, |more| async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            let event = more.clone().unwrap_or_else(|| ": still here\n\n".to_owned());
            Some((event, more))
        });
        let pieces = stream::once(async { first }).chain(more).map(|piece| Ok::<_, Infallible>(Bytes::from(piece)));
        Response::builder().header("content-type", "text/event-stream").body(Body::from_stream(pieces)).unwrap()
    };
    let whole =
        |kind: &str, text: String| Response::builder().header("content-type", kind).body(Body::from(text)).unwrap();
    let status = |status: u16| Response::builder().status(status).body(Body::empty()).unwrap();
    match how {
        Stream::NeverAgrees => events(": wait\n\n".to_owned(), None),
        Stream::AgreesForAnother => events(marked(acknowledged, &json!(0), json!({ "notifications": wanted })), None),
        Stream::AgreesWithoutMark => {
            let message = json!({ "jsonrpc": "2.0", "method": acknowledged, "params": { "notifications": wanted } });
            events(format!("data: {message}\n\n"), None)
        }
        Stream::TellsBeforeItAgrees => events(changed(id) + &agrees, None),
        Stream::AnswersAtOnce => whole("text/event-stream", format!("data: {}\n\n", result(id))),
        Stream::AnswersAnother => events(format!("data: {}\n\n", result(&json!("other"))), None),
        Stream::IsJson => whole("application/json", result(id)),
        Stream::IsGarbage => events("data: }{\n\n".to_owned(), None),
        Stream::IsHtml => whole("text/html", "<p>It works!".to_owned()),
        Stream::IsNotFound => status(404),
        Stream::IsForbidden => status(403),
        Stream::EndsAtOnce => whole("text/event-stream", agrees),
        Stream::TellsOthersChanges => events(agrees, Some(updated(&json!("other")) + &changed(&json!(7)))),
        Stream::Asks => {
            let question = json!({ "jsonrpc": "2.0", "id": "q", "method": "roots/list" });
            events(agrees, Some(format!("data: {question}\n\n")))
        }
        Stream::Storms => events(agrees, Some(changed(id))),
        Stream::GrantsNothing => events(marked(acknowledged, id, json!({ "notifications": {} })), None),
        Stream::GrantsMore => {
            let all = json!({
                "toolsListChanged": true, "promptsListChanged": true, "resourcesListChanged": true,
                "resourceSubscriptions": [URI, "y://never-asked-for"],
            });
            events(marked(acknowledged, id, json!({ "notifications": all })), None)
        }
    }
}

/// An upstream that is good but for its streams of changes.
async fn serve(how: Stream, tasks: &mut JoinSet<()>) -> (String, Arc<Counts>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/mcp", listener.local_addr().unwrap());
    let counts = Arc::new(Counts::default());
    let shared = counts.clone();
    let answer = async move |body: Bytes| {
        let request: Value = serde_json::from_slice(&body).unwrap();
        let complete = |mut result: Value| {
            result["resultType"] = json!("complete");
            result["ttlMs"] = json!(0);
            result["cacheScope"] = json!("public");
            let text = json!({ "jsonrpc": "2.0", "id": request["id"], "result": result }).to_string();
            Response::builder().header("content-type", "application/json").body(Body::from(text)).unwrap()
        };
        match request["method"].as_str() {
            Some("server/discover") => {
                let changing = json!({ "listChanged": true });
                let resources = json!({ "listChanged": true, "subscribe": true });
                let capabilities = json!({ "tools": changing, "resources": resources });
                complete(json!({ "supportedVersions": ["2026-07-28"], "capabilities": capabilities }))
            }
            Some("tools/list") => {
                shared.lists.fetch_add(1, Ordering::SeqCst);
                complete(json!({ "tools": [{ "name": "t", "inputSchema": { "type": "object" } }] }))
            }
            Some("resources/list") => complete(json!({ "resources": [{ "uri": URI, "name": "r" }] })),
            Some("resources/templates/list") => complete(json!({ "resourceTemplates": [] })),
            Some("subscriptions/listen") => {
                shared.listens.fetch_add(1, Ordering::SeqCst);
                respond(how, &request)
            }
            _ => complete(json!({ "content": [] })),
        }
    };
    tasks.spawn(async move { axum::serve(listener, Router::new().route("/mcp", post(answer))).await.unwrap() });
    (url, counts)
}

async fn misbehaves(how: Stream) {
    let mut tasks = JoinSet::new();
    let (url, counts) = serve(how, &mut tasks).await;
    let section = format!("[upstreams.up]\nurl = \"{url}\"\ncall_timeout = \"1s\"");
    let gateway = Gateway::builder().section(&section).key("ci").start().await;
    // The first list is asked for within the time of a call, which is short here for a busy machine.
    gateway.until_upstreams_are_up().await;
    let caller = gateway.caller("ci");
    assert_eq!(caller.tool_names().await, ["up__t"], "{how:?}");

    // A caller that asks to hear of the resource is answered, with what there is.
    let began = Instant::now();
    let filter = json!({ "toolsListChanged": true, "resourceSubscriptions": [URI] });
    let mut heard = caller.begin_modern("subscriptions/listen", json!({ "notifications": filter })).await;
    let first = heard.next().await;
    assert!(began.elapsed() < BOUND, "{how:?}: agreed after {:?}", began.elapsed());
    assert_eq!(first["method"], "notifications/subscriptions/acknowledged", "{how:?}: {first}");
    let granted = &first["params"]["notifications"];
    assert_eq!(granted["toolsListChanged"], true, "{how:?}: changes of lists are the gateway's own to tell");
    let has_resource = granted["resourceSubscriptions"] == json!([URI]);
    assert!(has_resource == how.grants() || how == Stream::EndsAtOnce, "{how:?}: {granted}");

    // Somebody with a session, who subscribes: it is done where it is granted, else done or refused, in time.
    let session = caller.initialize("2025-11-25").await;
    let subscribed = session.request("resources/subscribe", json!({ "uri": URI })).await.json();
    let must_be_done = how.grants() && how != Stream::EndsAtOnce;
    let is_done = subscribed["result"].is_object();
    assert!(is_done || (!must_be_done && subscribed["error"].is_object()), "{how:?}: {subscribed}");
    assert!(began.elapsed() < BOUND, "{how:?}: subscribed after {:?}", began.elapsed());

    // Nothing is heard of others' changes, and calls are as ever.
    let quiet = async {
        tokio::time::sleep(Duration::from_millis(700)).await;
        for _ in 0..5 {
            let called = caller.call("up__t", json!({})).await;
            assert!(called.json()["result"].is_object(), "{how:?}: {}", called.text());
        }
    };
    tokio::select! {
        // A watch that was broken off may have missed something, which is told; nothing else is.
        told = heard.next() => assert!(
            how == Stream::EndsAtOnce && told["method"] == "notifications/resources/updated",
            "{how:?}: {told}"
        ),
        () = quiet => {}
    }
    let (listens, lists) = (counts.listens.load(Ordering::SeqCst), counts.lists.load(Ordering::SeqCst));
    assert!(listens < 30, "{how:?}: {listens} streams were asked for");
    assert!(lists < 40, "{how:?}: the list was read {lists} times");

    let began = Instant::now();
    drop(heard);
    gateway.stop().await;
    assert!(began.elapsed() < BOUND, "{how:?}: stopping took {:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_changes_that_are_none_harm_nobody() {
    futures_util::future::join_all(Stream::ALL.map(misbehaves)).await;
}
