//! Sessions of the legacy era: who has which, and how they end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::json;
use tokio::sync::mpsc;

use super::scene::{
    LIMITS, LONG, Reply, SHORT, Scene, Seen, answering, at_level, caller, initialized, legacy_script, text,
};
use crate::config::Protocol;
use crate::connection::extra::Extra;
use crate::mcp::call::Outcome;
use crate::mcp::talk::{LogLevel, Party};
use crate::upstream::deadline::Deadline;
use crate::upstream::{LinkLimits, PartyKey, UpstreamError};

fn done(seen: &Seen) -> Reply {
    seen.result(&json!({"in": seen.header("mcp-session-id")}))
}

#[tokio::test]
async fn a_party_has_one_session() {
    let scene = Scene::legacy(|seen| done(&seen)).await;
    let (a, b) = (answering("a"), caller("b"));
    let five = futures_util::future::join_all((0..5).map(|_| scene.call(&a))).await;
    for outcome in five {
        assert_eq!(text(outcome), r#"{"in":"s1"}"#);
    }
    assert_eq!(text(scene.call(&b).await), r#"{"in":"s2"}"#);
    let about = scene.link.about(&Deadline::after(LONG, LONG)).await.unwrap();
    assert_eq!(about.revision, "2025-11-25");
    assert_eq!(scene.count("initialize"), 3, "the gateway has one of its own");
    let seen = scene.seen();
    let opened: Vec<&Seen> = seen.iter().filter(|seen| seen.is("initialize")).collect();
    assert_eq!(opened[0].body["params"]["capabilities"], json!({"elicitation": {}, "roots": {}}));
    assert_eq!(opened[2].body["params"]["capabilities"], json!({}));
    assert!(opened.iter().all(|seen| seen.header("mcp-session-id").is_none()));
    let ready: Vec<&Seen> = seen.iter().filter(|seen| seen.is("notifications/initialized")).collect();
    assert_eq!(ready.len(), 3);
    assert!(ready.iter().all(|seen| seen.header("mcp-protocol-version") == Some("2025-11-25")));
    scene.link.end_all(LONG).await;
    assert_eq!(scene.count("DELETE"), 3);
    assert_eq!(text(scene.call(&a).await), r#"{"in":"s4"}"#);
}

#[tokio::test]
async fn a_forgotten_session_is_opened_once_for_all_who_need_it() {
    for status in [404, 400] {
        let scene = Scene::legacy(move |seen| match seen.header("mcp-session-id") {
            Some("s1") if seen.body["params"]["name"] == "late" => Reply::status(status),
            _ => done(&seen),
        })
        .await;
        let party = caller("a");
        assert_eq!(text(scene.call(&party).await), r#"{"in":"s1"}"#);
        let late = (0..5).map(|_| scene.link.exchange(scene.exchange("late", &party).exchange));
        for outcome in futures_util::future::join_all(late).await {
            assert_eq!(text(outcome), r#"{"in":"s2"}"#, "{status}");
        }
        assert_eq!(scene.count("initialize"), 2);
    }
    // Once, not for ever.
    let scene = Scene::legacy(|_| Reply::status(404)).await;
    assert!(matches!(scene.call(&caller("a")).await, Err(UpstreamError::Status { status: 404 })));
    assert_eq!((scene.count("initialize"), scene.count("tools/call")), (2, 2));
}

#[tokio::test]
async fn what_is_under_way_in_an_old_session_finishes() {
    let (pens, mut written) = mpsc::channel(1);
    let scene = Scene::legacy(move |seen| match seen.body["params"]["name"].as_str() {
        Some("slow") => {
            let (reply, pen) = Reply::stream();
            pens.try_send((pen, seen)).unwrap();
            reply
        }
        _ if seen.header("mcp-session-id") == Some("s1") => Reply::status(404),
        _ => done(&seen),
    })
    .await;
    let party = caller("a");
    let slow = scene.link.exchange(scene.exchange("slow", &party).exchange);
    let rest = async {
        let (pen, seen) = written.recv().await.unwrap();
        assert_eq!(text(scene.call(&party).await), r#"{"in":"s2"}"#);
        assert_eq!(scene.count("DELETE"), 0);
        pen.message(&seen.result_text(&json!({"slow": true})));
    };
    let (slow, ()) = tokio::join!(slow, rest);
    assert_eq!(text(slow), r#"{"slow":true}"#);
    let ended = scene.wait_for("DELETE", 1).await;
    assert_eq!(ended.header("mcp-session-id"), Some("s1"));
}

#[tokio::test]
async fn a_bad_request_that_has_an_answer_is_answered() {
    let scene = Scene::legacy(|seen| seen.error(400, -32602)).await;
    assert!(matches!(scene.call(&caller("a")).await, Ok(Outcome::Error(_))));
    assert_eq!(scene.count("initialize"), 1);
    let scene = Scene::legacy(|seen| seen.error(400, -32000)).await;
    assert!(matches!(scene.call(&caller("a")).await, Err(UpstreamError::Status { status: 400 })));
    assert_eq!(scene.count("initialize"), 2);
}

#[tokio::test]
async fn an_upstream_may_keep_no_sessions() {
    let scene = Scene::new(Protocol::Legacy, |seen| match seen.kind().as_str() {
        "initialize" => seen.result(&initialized()),
        "notifications/initialized" => Reply::status(202),
        "tools/call" => Reply::json(200, &json!([seen.result_text(&json!({"batch": true}))])),
        _ => Reply::status(405),
    })
    .await;
    assert_eq!(text(scene.call(&caller("a")).await), r#"{"batch":true}"#);
    assert_eq!(text(scene.call(&caller("a")).await), r#"{"batch":true}"#);
    assert_eq!(scene.count("initialize"), 1);
    scene.link.end_all(LONG).await;
    assert_eq!(scene.count("DELETE"), 0);
}

#[tokio::test]
async fn sessions_end_when_nobody_uses_them() {
    let limits = LinkLimits { session_idle: SHORT, ..LIMITS };
    let scene = Scene::with_limits(Protocol::Legacy, limits, legacy_script(|seen| done(&seen))).await;
    scene.call(&caller("a")).await.unwrap();
    let ended = scene.wait_for("DELETE", 1).await;
    assert_eq!(ended.header("mcp-session-id"), Some("s1"));
    assert_eq!(text(scene.call(&caller("a")).await), r#"{"in":"s2"}"#);
    scene.link.end_session(&PartyKey::of(&caller("a")));
    let ended = scene.wait_for("DELETE", 2).await;
    assert_eq!(ended.header("mcp-session-id"), Some("s2"));
}

#[tokio::test]
async fn sessions_are_bounded_in_number() {
    let limits = LinkLimits { sessions: 2, ..LIMITS };
    let scene = Scene::with_limits(Protocol::Legacy, limits, legacy_script(|seen| done(&seen))).await;
    for name in ["a", "b", "a", "c"] {
        scene.call(&caller(name)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let ended = scene.wait_for("DELETE", 1).await;
    assert_eq!(ended.header("mcp-session-id"), Some("s2"), "the one that was not used for longest");
    assert_eq!(text(scene.call(&caller("a")).await), r#"{"in":"s1"}"#);
    // Sessions in use are not ended for others.
    let limits = LinkLimits { sessions: 1, ..LIMITS };
    let (pens, mut written) = mpsc::channel(1);
    let script = legacy_script(move |_| {
        let (reply, pen) = Reply::stream();
        pens.try_send(pen).unwrap();
        reply
    });
    let scene = Scene::with_limits(Protocol::Legacy, limits, script).await;
    let party = caller("a");
    let call = scene.call(&party);
    let mut call = std::pin::pin!(call);
    let _pen = tokio::select! {
        pen = written.recv() => pen,
        outcome = &mut call => panic!("{outcome:?}"),
    };
    assert!(matches!(scene.call(&caller("b")).await, Err(UpstreamError::Busy)));
}

#[tokio::test]
async fn an_opening_that_fails_is_told_to_all_and_tried_again() {
    let fails = AtomicBool::new(true);
    let scene = Scene::new(Protocol::Legacy, {
        let rest = legacy_script(|seen| done(&seen));
        move |seen| match seen.is("initialize") && fails.swap(false, Ordering::Relaxed) {
            true => Reply::status(503),
            false => rest(seen),
        }
    })
    .await;
    let party = caller("a");
    for outcome in futures_util::future::join_all((0..3).map(|_| scene.call(&party))).await {
        assert!(matches!(outcome, Err(UpstreamError::Status { status: 503 })), "{outcome:?}");
    }
    assert_eq!(text(scene.call(&party).await), r#"{"in":"s1"}"#);
}

#[tokio::test]
async fn the_level_of_the_log_is_set_when_it_changes() {
    let scene = Scene::legacy(|seen| done(&seen)).await;
    let levels = || {
        let seen = scene.seen();
        let set = seen.iter().filter(|seen| seen.is("logging/setLevel"));
        set.map(|seen| seen.body["params"]["level"].as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    scene.call(&caller("a")).await.unwrap();
    assert!(levels().is_empty());
    let party = at_level(caller("a"), LogLevel::Warning);
    scene.call(&party).await.unwrap();
    scene.call(&party).await.unwrap();
    assert_eq!(levels(), ["warning"]);
    scene.link.set_level(&caller("a"), LogLevel::Error).await;
    assert_eq!(levels(), ["warning", "error"]);
    scene.link.set_level(&caller("nobody"), LogLevel::Error).await;
    // Callers without sessions share one: it tells what the most curious of them wants.
    let alone = |level| at_level(Party { session: None, ..caller("b") }, level);
    for level in [LogLevel::Error, LogLevel::Debug, LogLevel::Warning] {
        scene.call(&alone(level)).await.unwrap();
    }
    assert_eq!(levels(), ["warning", "error", "error", "debug"]);
}

#[tokio::test]
async fn what_a_caller_tells_goes_to_its_open_session_only() {
    let scene = Scene::legacy(|seen| done(&seen)).await;
    let method = "notifications/roots/list_changed";
    scene.link.tell(&caller("a"), method, None).await;
    assert!(scene.kinds().is_empty());
    scene.call(&caller("a")).await.unwrap();
    scene.link.tell(&caller("a"), method, None).await;
    assert_eq!(scene.wait_for(method, 1).await.header("mcp-session-id"), Some("s1"));
}

#[tokio::test]
async fn a_request_that_is_given_up_is_taken_back() {
    let (pens, mut written) = mpsc::channel(8);
    let scene = Scene::legacy(move |seen| {
        if seen.body["params"]["name"] == "broken" {
            return Reply::events(&[": no more\n\n".into()]);
        }
        let (reply, pen) = Reply::stream();
        pens.try_send(pen).unwrap();
        reply
    })
    .await;
    let party = caller("a");
    let cancelled = scene.exchange("add", &party);
    let token = cancelled.exchange.via.cancelled.clone();
    let id = cancelled.exchange.id.as_json().to_owned();
    let (outcome, pen) = tokio::join!(scene.link.exchange(cancelled.exchange), async {
        let pen = written.recv().await;
        token.cancel();
        pen
    });
    assert!(matches!(outcome, Err(UpstreamError::Cancelled)));
    drop(pen);
    assert_eq!(scene.wait_for("notifications/cancelled", 1).await.body["params"]["requestId"].to_string(), id);
    let mut late = scene.exchange("add", &party);
    late.exchange.deadline = Deadline::after(SHORT, SHORT);
    assert!(matches!(scene.link.exchange(late.exchange).await, Err(UpstreamError::TimedOut { .. })));
    scene.wait_for("notifications/cancelled", 2).await;
    let dropped = tokio::time::timeout(SHORT, scene.link.exchange(scene.exchange("add", &party).exchange)).await;
    assert!(dropped.is_err());
    scene.wait_for("notifications/cancelled", 3).await;
    // A connection that ends takes nothing back.
    let broken = scene.link.exchange(scene.exchange("broken", &party).exchange).await;
    assert!(matches!(broken, Err(UpstreamError::Died)), "{broken:?}");
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(scene.count("notifications/cancelled"), 3);
}

/// The party of a request that says this in headers, all of which are allowed to some upstream.
fn saying(party: &Party, lines: &[(&'static str, &str)]) -> Party {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.insert(*name, HeaderValue::from_str(value).unwrap());
    }
    let names: Vec<HeaderName> = headers.keys().cloned().collect();
    Party { extra: Extra::read(&headers, names.iter()).unwrap(), ..party.clone() }
}

#[tokio::test]
async fn each_request_carries_the_extra_headers_of_its_own_and_none_that_are_not_let_through() {
    for scene in [Scene::legacy(|seen| done(&seen)).await, Scene::modern(|seen| done(&seen)).await] {
        let party = caller("a");
        let said = [&[("x-tenant", "one"), ("x-else", "e"), ("x-configured", "mine")][..], &[("x-tenant", "two")], &[]];
        for lines in said {
            text(scene.call(&saying(&party, lines)).await);
        }
        let seen: Vec<Seen> = scene.seen().into_iter().filter(|seen| seen.is("tools/call")).collect();
        let tenants: Vec<Option<&str>> = seen.iter().map(|seen| seen.header("x-tenant")).collect();
        assert_eq!(tenants, [Some("one"), Some("two"), None]);
        let fixed = |seen: &Seen| seen.header("x-configured") == Some("secret") && seen.header("x-else").is_none();
        assert!(scene.seen().iter().all(fixed), "{:?}", scene.kinds());
        scene.link.end_all(LONG).await;
        let aside = scene.seen().into_iter().filter(|seen| !seen.is("tools/call") && !seen.is("initialize"));
        assert!(aside.into_iter().all(|seen| seen.header("x-tenant").is_none()), "{:?}", scene.kinds());
    }
}
