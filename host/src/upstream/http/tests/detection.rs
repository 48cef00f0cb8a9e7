//! What is found out of an upstream, and how it is kept in mind.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use serde_json::json;

use super::scene::{LONG, MODERN, Reply, SHORT, Scene, Seen, caller, discovered, event, initialized, text};
use crate::config::Protocol;
use crate::mcp::revision::Era;
use crate::upstream::UpstreamError;
use crate::upstream::deadline::Deadline;

/// Answers the rest as a legacy upstream without sessions.
fn legacy_rest(seen: &Seen) -> Reply {
    match seen.kind().as_str() {
        "initialize" => seen.result(&initialized()),
        "notifications/initialized" => Reply::status(202),
        "tools/call" => seen.result(&json!({"by": "legacy"})),
        _ => Reply::status(405),
    }
}

#[tokio::test]
async fn the_answer_to_the_probe_decides() {
    type Answer = fn(&Seen) -> Reply;
    let cases: [(&str, Answer, Era); 11] = [
        ("a discovery", |seen| seen.result(&discovered()), Era::Modern),
        ("a discovery in a stream", |seen| Reply::events(&[event(&seen.result_text(&discovered()))]), Era::Modern),
        ("missing headers", |seen| seen.error(400, -32020), Era::Modern),
        ("missing capabilities", |seen| seen.error(400, -32021), Era::Modern),
        ("an empty result", |seen| seen.result(&json!({})), Era::Legacy),
        ("an error", |seen| seen.error(200, -32601), Era::Legacy),
        ("no session", |seen| seen.error(400, -32000), Era::Legacy),
        ("not found", |_| Reply::text(404, "text/html", "<p>no"), Era::Legacy),
        ("no media type", |_| Reply::status(415), Era::Legacy),
        ("a page", |_| Reply::text(200, "text/html", "<p>hello"), Era::Legacy),
        ("accepted", |_| Reply::status(202), Era::Legacy),
    ];
    for (what, probe, era) in cases {
        let scene = Scene::new(Protocol::Auto, move |seen| match seen.kind().as_str() {
            "server/discover" => probe(&seen),
            "tools/call" if seen.header("mcp-method").is_some() => seen.result(&json!({"by": "modern"})),
            _ => legacy_rest(&seen),
        })
        .await;
        let by = if era == Era::Modern { r#"{"by":"modern"}"# } else { r#"{"by":"legacy"}"# };
        assert_eq!(text(scene.call(&caller("a")).await), by, "{what}");
        assert_eq!(text(scene.call(&caller("a")).await), by, "{what}");
        assert_eq!(scene.count("server/discover"), 1, "{what}: it is kept in mind");
        let about = scene.link.about(&Deadline::after(LONG, LONG)).await;
        match about {
            Ok(about) => assert_eq!(about.era, era, "{what}"),
            Err(error) => {
                assert!(matches!(error, UpstreamError::Protocol { .. }) && what.starts_with("missing"), "{error}");
            }
        }
    }
}

#[tokio::test]
async fn some_answers_decide_nothing() {
    for status in [401, 403, 407, 408, 429, 500, 503] {
        let first = AtomicBool::new(true);
        let scene = Scene::new(Protocol::Auto, move |seen| match first.swap(false, Ordering::Relaxed) {
            true => Reply::status(status),
            false if seen.is("server/discover") => seen.result(&discovered()),
            false => seen.result(&json!({})),
        })
        .await;
        let refused = scene.call(&caller("a")).await;
        assert!(matches!(refused, Err(UpstreamError::Status { status: told }) if told == status), "{refused:?}");
        assert_eq!(text(scene.call(&caller("a")).await), "{}");
        assert_eq!(scene.kinds(), ["server/discover", "server/discover", "tools/call"]);
    }
}

#[tokio::test]
async fn nothing_is_decided_about_one_that_cannot_be_reached() {
    let scene = Scene::modern(|seen| seen.result(&json!({}))).await;
    scene.tasks.stopping().cancel();
    tokio::time::sleep(SHORT).await;
    let link = &scene.link;
    let error = link.about(&Deadline::after(LONG, LONG)).await.unwrap_err();
    assert!(matches!(error, UpstreamError::Unreachable { .. }), "{error:?}");
}

#[tokio::test]
async fn a_refused_version_is_tried_again_if_it_is_offered() {
    let first = AtomicBool::new(true);
    let scene = Scene::new(Protocol::Auto, move |seen| {
        let is_first = first.swap(false, Ordering::Relaxed);
        match seen.kind().as_str() {
            _ if is_first => seen.error(400, -32022),
            "server/discover" => seen.result(&discovered()),
            _ => seen.result(&json!({})),
        }
    })
    .await;
    assert_eq!(text(scene.call(&caller("a")).await), "{}");
    assert_eq!(scene.kinds(), ["server/discover", "server/discover", "tools/call"]);
    for seen in scene.seen() {
        assert_eq!(seen.header("mcp-protocol-version"), Some(MODERN));
        assert_eq!(seen.body["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"], MODERN);
    }
}

#[tokio::test]
async fn what_is_set_is_not_asked() {
    let scene = Scene::new(Protocol::Legacy, |seen| legacy_rest(&seen)).await;
    assert_eq!(text(scene.call(&caller("a")).await), r#"{"by":"legacy"}"#);
    assert_eq!(scene.kinds(), ["initialize", "notifications/initialized", "tools/call"]);
    // And if it is wrong, nothing else is tried.
    let scene = Scene::new(Protocol::Legacy, |_| Reply::status(404)).await;
    assert!(matches!(scene.call(&caller("a")).await, Err(UpstreamError::Status { status: 404 })));
    assert_eq!(scene.kinds(), ["initialize"]);
    let scene = Scene::new(Protocol::Modern, |_| Reply::status(404)).await;
    assert!(matches!(scene.call(&caller("a")).await, Err(UpstreamError::Status { status: 404 })));
    assert_eq!(scene.kinds(), ["server/discover", "tools/call"]);
}

#[tokio::test]
async fn an_upstream_may_become_another() {
    // Modern at first, then replaced by a legacy one, then by a modern one again.
    let phase = Arc::new(AtomicU8::new(0));
    let now = phase.clone();
    let scene = Scene::new(Protocol::Auto, move |seen| {
        let is_modern = now.load(Ordering::Relaxed) != 1;
        let has_envelope = seen.header("mcp-method").is_some();
        match seen.kind().as_str() {
            "server/discover" if is_modern => seen.result(&discovered()),
            "tools/call" if is_modern && has_envelope => seen.result(&json!({"by": "modern"})),
            _ if is_modern => seen.error(400, -32020),
            _ if has_envelope => Reply::text(400, "text/plain", "no session"),
            _ => legacy_rest(&seen),
        }
    })
    .await;
    assert_eq!(text(scene.call(&caller("a")).await), r#"{"by":"modern"}"#);
    phase.store(1, Ordering::Relaxed);
    assert_eq!(text(scene.call(&caller("a")).await), r#"{"by":"legacy"}"#);
    phase.store(2, Ordering::Relaxed);
    assert_eq!(text(scene.call(&caller("a")).await), r#"{"by":"modern"}"#);
    assert_eq!(scene.count("server/discover"), 3);
}
