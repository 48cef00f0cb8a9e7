//! What is said and asked on the streams of the legacy era.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::scene::{
    LONG, Ours, Pen, Reply, SHORT, Scene, Seen, answering, caller, event, initialized, legacy_script, next,
    next_notice, text,
};
use crate::config::Protocol;
use crate::mcp::call::Outcome;
use crate::mcp::json::raw;
use crate::mcp::sse;
use crate::mcp::talk::{Event, Notice, Party, Question};
use crate::upstream::UpstreamError;
use crate::upstream::deadline::Deadline;

/// A scene whose calls are answered with streams that the test writes.
async fn writable() -> (Scene, mpsc::Receiver<(Seen, Pen)>) {
    let (pens, written) = mpsc::channel(8);
    let scene = Scene::legacy(move |seen| {
        if seen.is("GET") {
            return Reply::status(405);
        }
        let (reply, pen) = Reply::stream();
        pens.try_send((seen, pen)).unwrap();
        reply
    })
    .await;
    (scene, written)
}

fn ask(id: &str, method: &str, params: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
}

#[tokio::test]
async fn a_question_goes_to_the_caller_and_its_reply_back() {
    let (scene, mut written) = writable().await;
    let Ours { mut exchange, mut heard } = scene.exchange("add", &answering("a"));
    // The question alone takes longer than the call may.
    exchange.deadline = Deadline::after(2 * SHORT, LONG);
    let deadline = exchange.deadline.clone();
    let talk = async {
        let (seen, pen) = written.recv().await.unwrap();
        pen.message(&ask("q1", "elicitation/create", &json!({"message": "name?"})));
        let Event::Ask(asked) = next(&mut heard).await else { panic!() };
        assert_eq!(asked.question, Question::ElicitationForm);
        assert_eq!(asked.params.unwrap().get(), r#"{"message":"name?"}"#);
        tokio::time::sleep(3 * SHORT).await;
        assert_eq!(deadline.at(), None, "time stands still");
        asked.reply.send(Outcome::Result(raw(r#"{"action":"accept"}"#.into()))).unwrap();
        let reply = scene.wait_for("response", 1).await;
        assert_eq!(reply.body, json!({"jsonrpc": "2.0", "id": "q1", "result": {"action": "accept"}}));
        assert_eq!(reply.header("mcp-session-id"), Some("s1"));
        pen.message(&seen.result_text(&json!({"ok": true})));
    };
    let (outcome, ()) = tokio::join!(scene.link.exchange(exchange), talk);
    assert_eq!(text(outcome), r#"{"ok":true}"#);
    assert_eq!(scene.count("notifications/cancelled"), 0);
}

#[tokio::test]
async fn what_the_client_did_not_declare_is_answered_for_it() {
    let (scene, mut written) = writable().await;
    let Ours { exchange, mut heard } = scene.exchange("add", &answering("a"));
    let talk = async {
        let (seen, pen) = written.recv().await.unwrap();
        for (number, (id, method, expected)) in [
            ("p", "ping", json!({"jsonrpc": "2.0", "id": "p", "result": {}})),
            ("s", "sampling/createMessage", json!(-32601)),
            ("x", "x/y", json!(-32601)),
            ("u", "elicitation/create", json!(-32601)),
        ]
        .into_iter()
        .enumerate()
        {
            pen.message(&ask(id, method, &json!({"mode": "url"})));
            let reply = scene.wait_for("response", number + 1).await.body;
            assert_eq!(if expected.is_object() { &reply } else { &reply["error"]["code"] }, &expected);
        }
        // A question that is dropped, and one that the upstream withdraws.
        pen.message(&ask("d", "roots/list", &json!({})));
        let Event::Ask(asked) = next(&mut heard).await else { panic!() };
        drop(asked);
        assert_eq!(scene.wait_for("response", 5).await.body["id"], "d");
        pen.message(&ask("w", "roots/list", &json!({})));
        let Event::Ask(mut asked) = next(&mut heard).await else { panic!() };
        pen.message(&json!({
            "jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "w"}
        }));
        tokio::time::timeout(LONG, asked.reply.closed()).await.expect("the question still waits");
        pen.message(&seen.result_text(&json!({})));
    };
    let (outcome, ()) = tokio::join!(scene.link.exchange(exchange), talk);
    assert_eq!(text(outcome), "{}");
    assert_eq!(scene.count("response"), 5);
}

#[tokio::test]
async fn questions_are_bounded_and_end_with_their_request() {
    let (scene, mut written) = writable().await;
    let Ours { exchange, mut heard } = scene.exchange("add", &answering("a"));
    let talk = async {
        let (seen, pen) = written.recv().await.unwrap();
        let mut asked = Vec::new();
        for number in 0..8 {
            pen.message(&ask(&format!("q{number}"), "roots/list", &json!({})));
            let Event::Ask(one) = next(&mut heard).await else { panic!() };
            asked.push(one);
        }
        pen.message(&ask("q8", "roots/list", &json!({})));
        let refused = scene.wait_for("response", 1).await;
        assert_eq!((&refused.body["id"], refused.body["error"].is_object()), (&json!("q8"), true));
        pen.message(&seen.result_text(&json!({})));
        asked
    };
    let (outcome, asked) = tokio::join!(scene.link.exchange(exchange), talk);
    assert_eq!(text(outcome), "{}");
    for mut one in asked {
        tokio::time::timeout(LONG, one.reply.closed()).await.expect("a question outlives its request");
    }
    assert_eq!(scene.count("response"), 1);
}

#[tokio::test]
async fn a_stream_that_ends_early_is_resumed_when_the_upstream_says() {
    let scene = Scene::legacy(|seen| match seen.kind().as_str() {
        "tools/call" => Reply::events(&[
            sse::priming("e1"),
            sse::retry(Duration::from_millis(300)),
            sse::event_with_id("e2", r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"data":1}}"#),
        ]),
        "GET" if seen.header("last-event-id") == Some("e2") => Reply::events(&[sse::priming("e3")]),
        "GET" => Reply::events(&[event(&json!({"jsonrpc": "2.0", "id": 1, "result": {"resumed": true}}))]),
        _ => Reply::status(500),
    })
    .await;
    let Ours { exchange, mut heard } = scene.exchange("add", &caller("a"));
    let began = Instant::now();
    assert_eq!(text(scene.link.exchange(exchange).await), r#"{"resumed":true}"#);
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(600), "{took:?}");
    let resumed: Vec<String> =
        scene.seen().iter().filter_map(|seen| seen.header("last-event-id").map(str::to_owned)).collect();
    assert_eq!(resumed, ["e2", "e3"]);
    assert!(matches!(next_notice(&mut heard).await, Notice::Log(_)));
    for _ in 0..2 {
        let Notice::Pause { retry } = next_notice(&mut heard).await else { panic!() };
        assert_eq!(retry, Duration::from_millis(300));
    }
    assert_eq!(scene.count("tools/call"), 1, "it is not sent again");
}

#[tokio::test]
async fn a_stream_that_cannot_be_resumed_leaves_it_open_whether_the_call_happened() {
    for (get, attempts) in [(405, 1), (404, 1), (200, 1), (503, 5)] {
        let scene = Scene::legacy(move |seen| match seen.kind().as_str() {
            "tools/call" => Reply::events(&[sse::retry(Duration::ZERO), sse::priming("e1")]),
            _ => Reply::status(get),
        })
        .await;
        let outcome = scene.call(&caller("a")).await;
        assert!(matches!(outcome, Err(UpstreamError::Died)), "{get}: {outcome:?}");
        assert_eq!((scene.count("GET"), scene.count("tools/call")), (attempts, 1), "{get}");
    }
}

#[tokio::test]
async fn an_answer_may_come_among_others_in_a_batch() {
    let scene = Scene::legacy(|seen| {
        let notice = json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"data": 1}});
        Reply::events(&[event(&json!([notice, seen.result_text(&json!({"n": 1})), notice]))])
    })
    .await;
    let Ours { exchange, mut heard } = scene.exchange("add", &caller("a"));
    assert_eq!(text(scene.link.exchange(exchange).await), r#"{"n":1}"#);
    assert!(matches!(next_notice(&mut heard).await, Notice::Log(_)));
    assert!(matches!(next_notice(&mut heard).await, Notice::Log(_)));
    let scene = Scene::legacy(|_| Reply::events(&[event(&json!({"jsonrpc": "2.0", "id": 99, "result": {}}))])).await;
    let outcome = scene.call(&caller("a")).await;
    assert!(matches!(outcome, Err(UpstreamError::Protocol { .. })), "{outcome:?}");
}

#[tokio::test]
async fn who_listens_hears_what_is_said_outside_of_requests() {
    let (pens, mut written) = mpsc::channel(1);
    let scene = Scene::legacy(move |seen| match seen.kind().as_str() {
        "GET" => {
            let (reply, pen) = Reply::stream();
            pens.try_send((seen, pen)).unwrap();
            reply
        }
        _ => seen.result(&json!({})),
    })
    .await;
    let sleeping = caller("a");
    scene.call(&sleeping).await.unwrap();
    assert_eq!(scene.count("GET"), 0, "nobody listens");
    let (standing, mut heard) = mpsc::channel(8);
    let party = Party { standing: Some(standing), ..sleeping };
    scene.call(&party).await.unwrap();
    let (seen, pen) = written.recv().await.unwrap();
    assert_eq!(seen.header("mcp-session-id"), Some("s1"));
    assert_eq!(seen.header("accept"), Some("text/event-stream"));
    pen.message(&json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"data": 1}}));
    assert!(matches!(next_notice(&mut heard).await, Notice::Log(_)));
    pen.message(&json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}));
    tokio::time::timeout(LONG, scene.signals.stale.notified()).await.expect("nobody is told that the lists changed");
    // When the last listener goes, the stream is closed.
    drop(heard);
    drop(party);
    pen.is_closed().await;
    assert_eq!(scene.count("GET"), 1);
}

/// A scene with a stream that the test writes, on which all questions come; calls wait until they have a reply.
async fn asking_aside() -> (Scene, mpsc::Receiver<Pen>, mpsc::Receiver<(Seen, Pen)>) {
    let (pens, streams) = mpsc::channel(2);
    let (calls, written) = mpsc::channel(2);
    let scene = Scene::legacy(move |seen| {
        let (reply, pen) = Reply::stream();
        match seen.is("GET") {
            true => pens.try_send(pen).unwrap(),
            false => calls.try_send((seen, pen)).unwrap(),
        }
        reply
    })
    .await;
    (scene, streams, written)
}

#[tokio::test]
async fn a_question_beside_the_one_request_under_way_belongs_to_it() {
    let (scene, mut streams, mut written) = asking_aside().await;
    let Ours { exchange, mut heard } = scene.exchange("add", &answering("a"));
    let deadline = exchange.deadline.clone();
    let talk = async {
        let (seen, pen) = written.recv().await.unwrap();
        let stream = streams.try_recv().expect("the stream is there before the request");
        stream.message(&ask("q", "roots/list", &json!({})));
        let Event::Ask(asked) = next(&mut heard).await else { panic!() };
        assert_eq!(deadline.at(), None);
        asked.reply.send(Outcome::Result(raw(r#"{"roots":[]}"#.into()))).unwrap();
        assert_eq!(scene.wait_for("response", 1).await.body["result"], json!({"roots": []}));
        pen.message(&seen.result_text(&json!({})));
        stream
    };
    let (outcome, stream) = tokio::join!(scene.link.exchange(exchange), talk);
    assert_eq!(text(outcome), "{}");
    // When there is neither a request nor a listener, nobody is asked.
    stream.message(&ask("late", "roots/list", &json!({})));
    assert!(scene.wait_for("response", 2).await.body["error"].is_object());
}

#[tokio::test]
async fn a_question_beside_several_requests_goes_to_who_listens() {
    let (scene, mut streams, mut written) = asking_aside().await;
    let (standing, mut heard_standing) = mpsc::channel(8);
    let party = Party { standing: Some(standing), ..answering("a") };
    let one = scene.exchange("one", &party);
    let two = scene.exchange("two", &party);
    let talk = async {
        let (seen_one, pen_one) = written.recv().await.unwrap();
        let (seen_two, pen_two) = written.recv().await.unwrap();
        let stream = streams.recv().await.unwrap();
        stream.message(&ask("q", "elicitation/create", &json!({})));
        let Event::Ask(asked) = next(&mut heard_standing).await else { panic!() };
        assert_eq!(asked.question, Question::ElicitationForm);
        asked.reply.send(Outcome::Error(raw(r#"{"code":1,"message":"no"}"#.into()))).unwrap();
        assert_eq!(scene.wait_for("response", 1).await.body["error"]["code"], 1);
        pen_one.message(&seen_one.result_text(&json!({})));
        pen_two.message(&seen_two.result_text(&json!({})));
    };
    let (first, second, ()) = tokio::join!(scene.link.exchange(one.exchange), scene.link.exchange(two.exchange), talk);
    assert_eq!((text(first), text(second)), ("{}".into(), "{}".into()));
}

#[tokio::test]
async fn a_stream_that_says_nothing_delays_one_request_only() {
    let scene = Scene::legacy(|seen| match seen.kind().as_str() {
        "GET" => Reply::never(),
        _ => seen.result(&json!({})),
    })
    .await;
    let timed = async |name: &str| {
        let began = Instant::now();
        assert_eq!(text(scene.call(&answering(name)).await), "{}");
        began.elapsed()
    };
    assert!(timed("a").await >= Duration::from_secs(1));
    assert!(timed("a").await < Duration::from_secs(1));
    assert!(timed("b").await < Duration::from_secs(1));
}

#[tokio::test]
async fn an_upstream_without_a_stream_is_asked_once() {
    let scene = Scene::legacy(|seen| match seen.kind().as_str() {
        "GET" => Reply::status(405),
        _ => seen.result(&json!({})),
    })
    .await;
    let (standing, _heard) = mpsc::channel(8);
    scene.call(&Party { standing: Some(standing.clone()), ..caller("a") }).await.unwrap();
    scene.wait_for("GET", 1).await;
    tokio::time::sleep(SHORT).await;
    scene.call(&Party { standing: Some(standing), ..caller("b") }).await.unwrap();
    // And the gateway has nothing to listen to.
    tokio::time::timeout(LONG, scene.link.listen()).await.expect("listens to nothing");
    assert_eq!(scene.count("GET"), 1);
}

#[tokio::test]
async fn the_gateway_hears_of_changed_lists() {
    let (pens, mut written) = mpsc::channel(8);
    let scene = Scene::new(Protocol::Legacy, {
        let rest = legacy_script(|_| Reply::status(500));
        move |seen| match seen.kind().as_str() {
            "GET" => {
                let (reply, pen) = Reply::stream();
                pens.try_send(pen).unwrap();
                reply
            }
            _ => rest(seen),
        }
    })
    .await;
    let stale = scene.signals.stale.clone();
    let hears = async {
        let pen = written.recv().await.unwrap();
        pen.message(&json!({"jsonrpc": "2.0", "method": "notifications/prompts/list_changed"}));
        tokio::time::timeout(LONG, stale.notified()).await.expect("nobody is told");
        drop(pen);
        // The stream is opened again.
        let pen = written.recv().await.unwrap();
        pen.message(&json!({"jsonrpc": "2.0", "method": "notifications/resources/list_changed"}));
        tokio::time::timeout(LONG, stale.notified()).await.expect("nobody is told");
    };
    tokio::select! {
        () = scene.link.listen() => panic!("it gave up"),
        () = hears => {}
    }
    assert_eq!(scene.count("initialize"), 1);
    // One that declares no such thing is not listened to.
    let scene = Scene::new(Protocol::Legacy, |seen| match seen.kind().as_str() {
        "initialize" => {
            let mut result = initialized();
            result["capabilities"] = json!({"tools": {}});
            seen.result(&result)
        }
        _ => Reply::status(202),
    })
    .await;
    tokio::time::timeout(LONG, scene.link.listen()).await.expect("listens to nothing");
    assert_eq!(scene.count("GET"), 0);
}
