//! Both eras through the routes, without upstreams, and requests under way that do what a test says.

use std::sync::Arc;
use std::time::Duration;

use http::header::ACCEPT;
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::Value;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::accepts_events;
use super::parked::Dialog;
use super::testing::{Edge, ask, caller, knock, limits, piece, snapshot, snapshot_with, text, work};
use super::work::{Ended, Step, Work};
use crate::audit::{Actor, RevocationReason};
use crate::authorization::tokens::{signed, token};
use crate::config::{Auth, AuthMode, Limits};
use crate::env::Env;
use crate::mcp::call::Outcome;
use crate::mcp::client::Client;
use crate::mcp::json::{Members, raw};
use crate::mcp::revision::{Answer, Revision};
use crate::mcp::talk::{Event, Notice, Question};
use crate::oauth::token::AccessToken;
use crate::pipeline::Origin;
use crate::store::revocations::{self, Whose};

const PING: &str = r#"{"jsonrpc":"2.0","id":7,"method":"ping"}"#;
const EVENTS: (&str, &str) = ("accept", "text/event-stream");

fn done(text: &str) -> Answer {
    Answer::Done { method: "tools/call", outcome: Outcome::Result(raw(format!(r#"{{"text":"{text}"}}"#))) }
}

fn progress(number: u64) -> Event {
    Event::Notice(Notice::Progress(Members::parse(&format!(r#"{{"progress":{number}}}"#)).unwrap()))
}

async fn steps(work: &mut Work) -> Vec<String> {
    let mut steps = Vec::new();
    loop {
        match work.next().await {
            Step::Said(Event::Notice(Notice::Progress(members))) => steps.push(members.to_raw().get().to_owned()),
            Step::Said(other) => panic!("{other:?}"),
            Step::Ended(Ended::Died) => break steps.push("died".to_owned()),
            Step::Ended(Ended::Answered(answer)) => break steps.push(format!("{}", answer.is_ok())),
        }
    }
    steps
}

#[test]
fn accept_is_read_as_http_has_it() {
    let accepts = |value: &'static str| {
        let mut headers = HeaderMap::new();
        headers.append(ACCEPT, HeaderValue::from_static(value));
        (super::accepts(&headers, "application", "json"), accepts_events(&headers))
    };
    assert_eq!(accepts("application/json, text/event-stream"), (true, true));
    assert_eq!(accepts("Application/JSON;q=0.9"), (true, false));
    assert_eq!(accepts("text/*"), (false, true));
    assert_eq!(accepts("*/*"), (true, true));
    assert_eq!(accepts("text/html"), (false, false));
    assert!(accepts_events(&HeaderMap::new()));
}

#[tokio::test]
async fn what_was_said_comes_before_the_answer() {
    let edge = Edge::new(limits()).await;
    let mut work = work(&edge.mcp, Revision::V2026_07_28, "{}", |origin| async move {
        for number in 0..40 {
            origin.events.send(progress(number)).await.unwrap();
        }
        Ok(done("end"))
    });
    let steps = steps(&mut work).await;
    assert_eq!(steps.len(), 41);
    assert_eq!((&*steps[39], &*steps[40]), (r#"{"progress":39}"#, "true"));
}

#[tokio::test]
async fn a_defect_of_ours_ends_one_request() {
    let edge = Edge::new(limits()).await;
    let mut work = work(&edge.mcp, Revision::V2026_07_28, "{}", |_| async { panic!("a defect") });
    assert_eq!(steps(&mut work).await, ["died"]);
}

/// How a request ends that is left while it waits.
async fn left(revision: Revision) -> &'static str {
    let edge = Edge::new(limits()).await;
    let (ending, ended) = oneshot::channel();
    let mut work = work(&edge.mcp, revision, "{}", |origin| async move {
        let how = tokio::select! {
            () = origin.cancelled.cancelled() => "taken back",
            () = tokio::time::sleep(Duration::from_secs(1)) => "went on",
        };
        // Nobody hears of it any more, which holds nobody up.
        for number in 0..100 {
            _ = origin.events.send(progress(number)).await;
        }
        ending.send(how).unwrap();
        Ok(done("end"))
    });
    tokio::select! {
        step = work.next() => panic!("{step:?}"),
        () = tokio::time::sleep(Duration::from_millis(10)) => {}
    }
    drop(work);
    ended.await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn who_leaves_takes_a_request_back_where_leaving_means_that() {
    assert_eq!(left(Revision::V2026_07_28).await, "taken back");
    assert_eq!(left(Revision::V2025_11_25).await, "went on");
}

/// A call that asks one question and answers with the reply.
fn asking(edge: &Edge, question: Question) -> Dialog {
    Dialog::new(work(&edge.mcp, Revision::V2026_07_28, r#"{"elicitation":{},"roots":{}}"#, move |origin| async move {
        let (ask, reply) = ask(question);
        origin.events.send(Event::Ask(ask)).await.unwrap();
        let replied = tokio::select! {
            reply = reply => match reply {
                Ok(Outcome::Result(result)) => result.get().replace('"', "'"),
                other => format!("{other:?}"),
            },
            () = origin.cancelled.cancelled() => "taken back".to_owned(),
        };
        Ok(done(&replied))
    }))
}

async fn until_it_asks(dialog: &mut Dialog) {
    while !dialog.has_questions() {
        match dialog.next().await {
            Step::Said(Event::Ask(ask)) => dialog.take(ask),
            other => panic!("{other:?}"),
        }
    }
}

async fn answer_of(dialog: &mut Dialog) -> String {
    match dialog.next().await {
        Step::Ended(Ended::Answered(Ok(Answer::Done { outcome: Outcome::Result(result), .. }))) => {
            result.get().to_owned()
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_parked_call_goes_on_with_what_its_caller_brings() {
    let edge = Edge::new(limits()).await;
    let mut dialog = asking(&edge, Question::ElicitationForm);
    until_it_asks(&mut dialog).await;
    edge.mcp.parking.park(&edge.mcp, 1, dialog).ok().unwrap();
    tokio::time::sleep(Duration::from_secs(500)).await;
    assert!(edge.mcp.parking.claim(&caller("bob"), 1).await.is_none(), "it is not his");
    assert!(edge.mcp.parking.claim(&caller("ann"), 2).await.is_none());
    let mut dialog = edge.mcp.parking.claim(&caller("ann"), 1).await.unwrap();
    assert!(edge.mcp.parking.claim(&caller("ann"), 1).await.is_none(), "one call, one retry");

    dialog.answer(Members::parse(r#"{"9":{"action":"accept"}}"#).unwrap());
    let questions = dialog.questions(&Client::new(None, raw(r#"{"elicitation":{}}"#.to_owned())));
    assert_eq!(questions.iter().map(|question| &*question.key).collect::<Vec<_>>(), ["1"], "it is asked again");
    dialog.answer(Members::parse(r#"{"1":{"action":"accept"}}"#).unwrap());
    assert_eq!(answer_of(&mut dialog).await, r#"{"text":"{'action':'accept'}"}"#);
}

#[tokio::test(start_paused = true)]
async fn a_question_that_a_client_does_not_answer_is_not_asked() {
    let edge = Edge::new(limits()).await;
    let mut dialog = asking(&edge, Question::Roots);
    until_it_asks(&mut dialog).await;
    assert!(dialog.questions(&Client::gateway()).is_empty(), "a retry of a client that can do less");
    assert!(answer_of(&mut dialog).await.contains("RecvError"), "the upstream is told");
}

#[tokio::test(start_paused = true)]
async fn a_parked_call_that_nobody_comes_back_for_is_taken_back() {
    let edge = Edge::new(limits()).await;
    let (taking_back, taken_back) = oneshot::channel();
    let mut dialog = Dialog::new(work(&edge.mcp, Revision::V2026_07_28, r#"{"roots":{}}"#, |origin| async move {
        let (ask, _reply) = ask(Question::Roots);
        origin.events.send(Event::Ask(ask)).await.unwrap();
        origin.cancelled.cancelled().await;
        taking_back.send(Instant::now()).unwrap();
        Ok(Answer::Empty)
    }));
    until_it_asks(&mut dialog).await;
    let parked = Instant::now();
    edge.mcp.parking.park(&edge.mcp, 1, dialog).ok().unwrap();
    assert_eq!(taken_back.await.unwrap() - parked, Duration::from_secs(600));
    assert!(edge.mcp.parking.claim(&caller("ann"), 1).await.is_none());
}

#[tokio::test]
async fn a_parked_call_is_of_the_grant_that_it_began_with_and_ends_with_it() {
    let edge = Edge::new(limits()).await;
    edge.admit(Auth { mcp: AuthMode::Both, guests: true, ..Auth::unset() });
    edge.follow().await;
    let fresh = || token("guest:0a0a0a0a0a0a0a0a0a0a0a0a", Env::system().now());
    let own = fresh();
    let next = AccessToken { id: fresh().id, ..own.clone() };
    let other = fresh();
    assert!(own.grant != other.grant && own.client == other.client);
    let admitted = async |token: &AccessToken| {
        let mut headers = HeaderMap::new();
        headers.insert("authorization", format!("Bearer {}", signed(token)).try_into().unwrap());
        edge.mcp.gate.admit(&knock(&headers)).await.unwrap()
    };
    let caller = admitted(&own).await;
    let parked = |id: u64| {
        let (taking_back, taken_back) = oneshot::channel();
        let mut work = work(&edge.mcp, Revision::V2026_07_28, "{}", |origin| async move {
            origin.cancelled.cancelled().await;
            taking_back.send(()).unwrap();
            Ok(Answer::Empty)
        });
        work.origin = Arc::new(Origin { caller: caller.clone(), ..(*work.origin).clone() });
        edge.mcp.parking.park(&edge.mcp, id, Dialog::new(work)).ok().unwrap();
        taken_back
    };
    let _taken_back = parked(1);
    assert!(edge.mcp.parking.claim(&admitted(&other).await, 1).await.is_none(), "for the same person and client");
    assert!(edge.mcp.parking.claim(&admitted(&next).await, 1).await.is_some(), "the next token of the same grant");

    let taken_back = parked(2);
    let whose = Whose::Principal(caller.principal.clone());
    revocations::revoke_all(&edge.store, whose, RevocationReason::Operator, Actor::System).await.unwrap();
    tokio::time::timeout(Duration::from_secs(30), taken_back).await.expect("it is taken back").unwrap();
    assert!(edge.mcp.parking.claim(&caller, 2).await.is_none());
}

#[tokio::test(start_paused = true)]
async fn parked_calls_are_bounded_and_end_with_the_gateway() {
    let edge = Edge::new(Limits { parked_calls: 20, ..limits() }).await;
    for number in 0..17 {
        let mut dialog = asking(&edge, Question::Roots);
        until_it_asks(&mut dialog).await;
        let parked = edge.mcp.parking.park(&edge.mcp, number, dialog);
        assert_eq!(parked.is_ok(), number < 16, "{number}");
    }
    edge.closing.cancel();
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert!(edge.mcp.parking.claim(&caller("ann"), 3).await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_parked_call_may_end_before_its_caller_is_back() {
    let edge = Edge::new(limits()).await;
    let mut dialog = Dialog::new(work(&edge.mcp, Revision::V2026_07_28, r#"{"roots":{}}"#, |origin| async move {
        let (ask, reply) = ask(Question::Roots);
        origin.events.send(Event::Ask(ask)).await.unwrap();
        tokio::time::sleep(Duration::from_secs(60)).await;
        for number in 0..100 {
            origin.events.send(progress(number)).await.unwrap();
        }
        drop(reply);
        Ok(done("nobody answered in time"))
    }));
    until_it_asks(&mut dialog).await;
    edge.mcp.parking.park(&edge.mcp, 1, dialog).ok().unwrap();
    tokio::time::sleep(Duration::from_secs(120)).await;
    let mut dialog = edge.mcp.parking.claim(&caller("ann"), 1).await.unwrap();
    assert_eq!(answer_of(&mut dialog).await, r#"{"text":"nobody answered in time"}"#);
}

fn status_and_code(status: StatusCode, body: &str) -> (u16, i64) {
    let body: Value = serde_json::from_str(body).unwrap_or_default();
    (status.as_u16(), body["error"]["code"].as_i64().unwrap_or_default())
}

#[tokio::test]
async fn a_get_needs_a_session_and_a_stream_that_is_known() {
    let edge = Edge::new(limits()).await;
    let session = edge.session("2025-11-25", "{}").await;
    let (own, other) = (("mcp-session-id", &*session), ("mcp-session-id", "none"));
    for (headers, expected) in [
        (vec![EVENTS], 405),
        (vec![own, ("accept", "application/json")], 406),
        (vec![other, EVENTS], 404),
        (vec![own, EVENTS, ("mcp-protocol-version", "2025-06-18")], 400),
        (vec![own, EVENTS, ("last-event-id", "5-1")], 400),
        (vec![own, EVENTS, ("last-event-id", "nonsense")], 400),
        (vec![own, EVENTS, ("last-event-id", "0-3")], 200),
        (vec![own, EVENTS], 200),
    ] {
        let response = edge.send("ann", "GET", "/mcp", &headers, "").await;
        assert_eq!(response.status().as_u16(), expected, "{headers:?}");
    }
    assert_eq!(edge.send("bob", "GET", "/mcp", &[own, EVENTS], "").await.status(), 404);
    assert_eq!(edge.send("ann", "HEAD", "/mcp", &[own, EVENTS], "").await.status(), 405);
    assert_eq!(edge.send("ann", "GET", "/mcp/none", &[own, EVENTS], "").await.status(), 404);
    let nothing = edge.send("ann", "DELETE", "/mcp", &[], "").await;
    assert_eq!((nothing.status().as_u16(), nothing.headers()["allow"].to_str().unwrap()), (405, "POST"));
    assert_eq!(edge.send("ann", "DELETE", "/mcp", &[own], "").await.status(), 204);
    assert_eq!(edge.send("ann", "GET", "/mcp", &[own, EVENTS], "").await.status(), 404);
}

#[tokio::test(start_paused = true)]
async fn the_newest_get_has_the_stream_and_goes_on_where_the_other_stopped() {
    let edge = Edge::new(limits()).await;
    let session = edge.session("2025-11-25", "{}").await;
    let get = async |last: Option<&str>| {
        let mut headers = vec![("mcp-session-id", &*session), EVENTS];
        headers.extend(last.map(|last| ("last-event-id", last)));
        edge.send("ann", "GET", "/mcp", &headers, "").await.into_body().into_data_stream()
    };
    let mut first = get(None).await;
    assert_eq!(piece(&mut first).await.unwrap(), "id: 0-0\ndata: \n\n");
    assert_eq!(piece(&mut first).await.unwrap(), ": keep-alive\n\n", "after a while");
    let mut second = get(None).await;
    assert_eq!(piece(&mut first).await, None);
    assert_eq!(piece(&mut second).await.unwrap(), "id: 0-0\ndata: \n\n");

    let held = edge.mcp.sessions.named(&session).unwrap();
    let log = held.stream(0).unwrap();
    log.push("a");
    log.push("b");
    assert_eq!(piece(&mut second).await.unwrap(), "event: message\nid: 0-1\ndata: a\n\n");
    drop(second);
    let mut third = get(None).await;
    assert_eq!(piece(&mut third).await.unwrap(), "id: 0-1\ndata: \n\n");
    assert_eq!(piece(&mut third).await.unwrap(), "event: message\nid: 0-2\ndata: b\n\n");
    let mut resumed = get(Some("0-0")).await;
    assert_eq!(piece(&mut resumed).await.unwrap(), ": keep-alive\n\n");
    assert_eq!(piece(&mut resumed).await.unwrap(), "event: message\nid: 0-1\ndata: a\n\n");
    edge.send("ann", "DELETE", "/mcp", &[("mcp-session-id", &*session)], "").await;
    assert_eq!(piece(&mut resumed).await.unwrap(), "event: message\nid: 0-2\ndata: b\n\n");
    assert_eq!(piece(&mut resumed).await, None);
}

#[tokio::test(start_paused = true)]
async fn streams_are_bounded_and_end_with_the_gateway() {
    let edge = Edge::new(Limits { streams_per_principal: 2, ..limits() }).await;
    let mut open = Vec::new();
    for expected in [200, 200, 429] {
        let session = edge.session("2025-06-18", "{}").await;
        let response = edge.send("ann", "GET", "/mcp", &[("mcp-session-id", &*session), EVENTS], "").await;
        assert_eq!(response.status().as_u16(), expected);
        open.push(response);
    }
    assert!(open.pop().unwrap().headers().contains_key("retry-after"));
    edge.closing.cancel();
    for response in open {
        assert_eq!(text(response).await, ": keep-alive\n\n");
    }
}

#[tokio::test]
async fn batches_are_for_one_revision() {
    let edge = Edge::new(limits()).await;
    let batch = format!(
        r#"[{PING},{{"jsonrpc":"2.0","method":"notifications/initialized"}},{{"jsonrpc":"2.0","id":8,"method":"none"}},7]"#
    );
    for (version, expected) in [("2025-11-25", 400), ("2025-06-18", 400), ("2024-11-05", 400), ("2025-03-26", 200)] {
        let session = edge.session(version, "{}").await;
        let response = edge.post(&session, &batch).await;
        assert_eq!(response.status().as_u16(), expected, "{version}");
        if expected == 200 {
            assert_eq!(response.headers()["content-type"], "application/json");
            let answers: Vec<Value> = serde_json::from_str(&text(response).await).unwrap();
            let mut short: Vec<String> =
                answers.iter().map(|answer| format!("{} {}", answer["id"], answer["error"]["code"])).collect();
            short.sort();
            assert_eq!(short, ["7 null", "8 -32601", "null -32600"]);
            let quiet =
                r#"[{"jsonrpc":"2.0","method":"notifications/initialized"},{"jsonrpc":"2.0","id":1,"result":{}}]"#;
            assert_eq!(edge.post(&session, quiet).await.status(), StatusCode::ACCEPTED);
            let response = edge.post(&session, "[]").await;
            assert_eq!(status_and_code(response.status(), &text(response).await), (400, -32600));
        }
    }
    let alone = edge.send("ann", "POST", "/mcp", &[], &batch).await;
    assert_eq!(status_and_code(alone.status(), &text(alone).await), (400, -32600), "outside of a session");
}

#[tokio::test(start_paused = true)]
async fn http_with_server_sent_events_answers_on_its_stream() {
    let edge = Edge::new(limits()).await;
    let mut stream = edge.send("ann", "GET", "/sse", &[EVENTS], "").await.into_body().into_data_stream();
    let endpoint = piece(&mut stream).await.unwrap();
    let path = endpoint.strip_prefix("event: endpoint\ndata: ").unwrap().trim_end().to_owned();
    let post = async |name: &str, body: &str| edge.send(name, "POST", &path, &[], body).await.status().as_u16();
    assert_eq!(post("ann", PING).await, 202);
    assert!(piece(&mut stream).await.unwrap().contains("begin with `initialize`"));
    let initialize =
        r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2024-11-05","capabilities":{}}}"#;
    assert_eq!(post("bob", initialize).await, 404, "it is not his");
    assert_eq!(post("ann", initialize).await, 202);
    let result = piece(&mut stream).await.unwrap();
    assert!(result.starts_with("event: message\ndata: {") && result.contains("2024-11-05"), "{result}");
    assert_eq!(post("ann", r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#).await, 202);
    assert_eq!(post("ann", PING).await, 202);
    assert_eq!(
        piece(&mut stream).await.unwrap(),
        "event: message\ndata: {\"jsonrpc\":\"2.0\",\"id\":7,\"result\":{}}\n\n"
    );
    assert_eq!(post("ann", "nonsense").await, 400);
    let id = path.rsplit('=').next().unwrap();
    assert_eq!(edge.post(id, PING).await.status(), 404, "it is no session of the other transport");
    drop(stream);
    assert_eq!(post("ann", PING).await, 404, "it has ended with its stream");
}

const LISTEN: &[(&str, &str)] = &[("mcp-protocol-version", "2026-07-28"), ("mcp-method", "subscriptions/listen")];

fn listen(filter: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":"l","method":"subscriptions/listen","params":{{"notifications":{filter},"_meta":{{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{{}}}}}}}}"#
    )
}

#[tokio::test(start_paused = true)]
async fn a_subscription_is_acknowledged_first_and_ends_in_good_order() {
    let edge = Edge::new(limits()).await;
    let filter = r#"{"toolsListChanged":true,"resourceSubscriptions":["none:x"]}"#;
    let mut stream = edge.send("ann", "POST", "/mcp", LISTEN, &listen(filter)).await.into_body().into_data_stream();
    let acknowledged = piece(&mut stream).await.unwrap();
    assert!(acknowledged.contains("notifications/subscriptions/acknowledged"), "{acknowledged}");
    assert!(acknowledged.contains(r#""io.modelcontextprotocol/subscriptionId":"l""#), "{acknowledged}");
    assert!(acknowledged.contains(r#""notifications":{"toolsListChanged":true}"#), "what is not there is not granted");
    assert_eq!(piece(&mut stream).await.unwrap(), ": keep-alive\n\n");
    edge.closing.cancel();
    let end = piece(&mut stream).await.unwrap();
    assert!(end.contains(r#""id":"l","result":{"resultType":"complete""#), "{end}");
    assert_eq!(piece(&mut stream).await, None);
}

#[tokio::test(start_paused = true)]
async fn who_may_not_be_here_any_more_hears_nothing_more() {
    let edge = Edge::new(limits()).await;
    let filter = r#"{"toolsListChanged":true}"#;
    let mut listening = edge.send("ann", "POST", "/mcp", LISTEN, &listen(filter)).await.into_body().into_data_stream();
    piece(&mut listening).await.unwrap();
    let session = edge.session("2025-06-18", "{}").await;
    let own = ("mcp-session-id", &*session);
    let mut standing = edge.send("ann", "GET", "/mcp", &[own, EVENTS], "").await.into_body().into_data_stream();
    piece(&mut standing).await.unwrap();

    edge.published.send_modify(|count| *count += 1);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(edge.post(&session, PING).await.status(), 200, "nothing has changed for her");

    edge.snapshot.store(Arc::new(snapshot(&["bob"])));
    edge.published.send_modify(|count| *count += 1);
    assert!(piece(&mut listening).await.unwrap().contains(r#""resultType":"complete""#));
    assert_eq!(piece(&mut listening).await, None);
    assert_eq!(piece(&mut standing).await, None);
    edge.snapshot.store(Arc::new(snapshot(&["ann"])));
    assert_eq!(edge.post(&session, PING).await.status(), 404, "her session has ended");
}

/// Tells the edge that something was published.
fn publish(edge: &Edge, tools: &[&str], prompts: &[&str]) {
    edge.snapshot.store(Arc::new(snapshot_with(tools, prompts)));
    edge.published.send_modify(|count| *count += 1);
}

#[tokio::test(start_paused = true)]
async fn a_list_that_changed_is_told_of_once_and_to_who_asked() {
    let edge = Edge::new(limits()).await;
    edge.snapshot.store(Arc::new(snapshot_with(&["a"], &[])));
    let open = async |filter: &str| {
        let mut stream = edge.send("ann", "POST", "/mcp", LISTEN, &listen(filter)).await.into_body().into_data_stream();
        assert!(piece(&mut stream).await.unwrap().contains("acknowledged"));
        stream
    };
    let mut of_tools = open(r#"{"toolsListChanged":true}"#).await;
    let mut of_both = open(r#"{"toolsListChanged":true,"promptsListChanged":true}"#).await;
    let session = edge.session("2025-11-25", "{}").await;
    let own = ("mcp-session-id", &*session);
    let mut standing = edge.send("ann", "GET", "/mcp", &[own, EVENTS], "").await.into_body().into_data_stream();
    piece(&mut standing).await.unwrap();
    let method = |text: &str| {
        let data = text.lines().find_map(|line| line.strip_prefix("data: ")).unwrap_or("null");
        serde_json::from_str::<Value>(data).unwrap()["method"].as_str().map(ToOwned::to_owned)
    };
    let (tools, prompts) = ("notifications/tools/list_changed", "notifications/prompts/list_changed");

    publish(&edge, &["a", "b"], &[]);
    publish(&edge, &["a", "b", "c"], &[]);
    for stream in [&mut of_tools, &mut of_both, &mut standing] {
        assert_eq!(method(&piece(stream).await.unwrap()).as_deref(), Some(tools));
    }
    publish(&edge, &["a", "b", "c"], &["p"]);
    for stream in [&mut of_both, &mut standing] {
        assert_eq!(method(&piece(stream).await.unwrap()).as_deref(), Some(prompts));
    }
    publish(&edge, &["a", "b", "c"], &["p"]);
    for stream in [&mut of_tools, &mut of_both, &mut standing] {
        assert_eq!(piece(stream).await.unwrap(), ": keep-alive\n\n", "what is the same is not told");
    }
    drop(standing);
    publish(&edge, &["a"], &["p"]);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut standing = edge.send("ann", "GET", "/mcp", &[own, EVENTS], "").await.into_body().into_data_stream();
    piece(&mut standing).await.unwrap();
    assert_eq!(method(&piece(&mut standing).await.unwrap()).as_deref(), Some(tools), "it waits for who is away");
}
