//! The decision trail: what callers asked, what was decided, which policy said what, and what came of it.

use std::time::Duration;

use http::StatusCode;
use portcullis_tests::gateway::Builder;
use portcullis_tests::upstreams::fixture::Fixture;
use portcullis_tests::upstreams::hostile::{Behaviour, Hostile};
use portcullis_tests::{Gateway, Reply};
use serde_json::{Value, json};

/// A policy that allows `echo` and what begins with `test_`, denies `slow`, and hides the rest.
const GUARD: &str = r#"
[[policies]]
name = "guard"
module = "builtin:allow-tools"
[policies.config]
otherwise = "hide"
[[policies.config.rules]]
tools = ["up/slow"]
action = "deny"
code = "too-slow"
message = "This takes too long."
[[policies.config.rules]]
tools = ["up/echo", "up/test_*"]
action = "allow"
"#;

async fn scene(more: impl FnOnce(Builder) -> Builder) -> (Fixture, Gateway) {
    let up = Fixture::start().await;
    let gateway = more(Gateway::builder().http_upstream("up", &up.url).key("alice")).start().await;
    (up, gateway)
}

/// The decisions, newest first, once there are as many. The trail is written a moment after the fact.
async fn decisions(gateway: &Gateway, query: &str, count: usize) -> Vec<Value> {
    let view = gateway
        .until(&format!("/api/v1/decisions{query}"), |view| view["decisions"].as_array().unwrap().len() >= count)
        .await;
    let decisions = view["decisions"].as_array().unwrap().clone();
    assert_eq!(decisions.len(), count, "{view:#}");
    decisions
}

#[tokio::test]
async fn a_call_leaves_a_decision() {
    let (_up, gateway) = scene(|builder| builder.section(GUARD)).await;
    assert_eq!(gateway.caller("alice").call("up__echo", json!({ "password": "hunter2" })).await.status, StatusCode::OK);
    let list = decisions(&gateway, "", 1).await;
    let decision = &list[0];
    assert_eq!(decision["principal"], "key:alice");
    assert_eq!(
        (&decision["operation"], &decision["upstream"], &decision["tool"]),
        (&json!("tools/call"), &json!("up"), &json!("echo"))
    );
    assert_eq!((&decision["verdict"], &decision["outcome"]), (&json!("allow"), &json!("result")));
    assert_eq!((&decision["revision"], &decision["at"]), (&json!("2026-07-28"), &json!("2026-01-01T00:00:00.000Z")));
    assert_eq!((&decision["policy_generation"], &decision["reason_code"]), (&json!(1), &Value::Null));
    assert!(decision["elapsed_ms"].is_u64());
    let steps = decision["steps"].as_array().unwrap();
    let call = steps
        .iter()
        .find(|step| step["hook"] == "tool-call")
        .unwrap_or_else(|| panic!("no step of the call in {decision:#}"));
    assert_eq!((&call["policy"], &call["verdict"]), (&json!("guard"), &json!("allow")));
    assert!(call["micros"].is_u64());
    assert_eq!(call["module_digest"].as_str().unwrap().len(), 64);
    assert_eq!((&call["module_name"], &call["mode"]), (&json!("allow-tools"), &json!("enforce")));
    assert!(call["version"].is_string() && call["notes"].is_array() && call["rule"].is_null(), "{call:#}");
    assert!(!decision.to_string().contains("hunter2"), "arguments are no part of the trail");

    let id = decision["id"].as_str().unwrap();
    assert_eq!(gateway.operator("GET", &format!("/api/v1/decisions/{id}"), None).await.json(), *decision);
    assert_eq!(gateway.operator("GET", "/api/v1/decisions/0123", None).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn every_ending_has_its_words() {
    let down = Hostile::start(Behaviour::Status500).await;
    let (_up, gateway) = scene(|builder| builder.section(GUARD).http_upstream("down", &down.url)).await;
    let alice = gateway.caller("alice");
    let broken = format!("down__{}", down.tool());
    let guarded = gateway.operator("GET", "/api/v1/policies", None).await.json()["bindings"][0]["name"].clone();
    assert_eq!(guarded, "guard");
    for (tool, expected) in [
        ("up__echo", ("up", "echo", "allow", Value::Null, "result")),
        ("up__test_error_handling", ("up", "test_error_handling", "allow", Value::Null, "tool_error")),
        ("up__slow", ("up", "slow", "deny", json!("too-slow"), "refused")),
        ("up__blob", ("up", "blob", "hidden", Value::Null, "refused")),
        ("up__none", ("", "up__none", "hidden", json!("unknown-tool"), "refused")),
        (&*broken, ("down", down.tool(), "hidden", Value::Null, "refused")),
    ] {
        gateway.clock.advance(Duration::from_secs(1));
        alice.call(tool, json!({})).await;
        let now = gateway.until("/api/v1/decisions?limit=1", |view| {
            let newest = &view["decisions"][0];
            newest["tool"] == expected.1
        });
        let newest = now.await["decisions"][0].clone();
        let (upstream, name, verdict, reason, outcome) = expected;
        assert_eq!(newest["upstream"].as_str().unwrap_or(""), upstream, "{newest:#}");
        assert_eq!(
            (&newest["tool"], &newest["verdict"], &newest["outcome"]),
            (&json!(name), &json!(verdict), &json!(outcome)),
            "{newest:#}"
        );
        if !reason.is_null() {
            assert_eq!(newest["reason_code"], reason, "{newest:#}");
        }
        assert_eq!(verdict == "allow", newest["reason_code"].is_null(), "a refusal has a reason: {newest:#}");
    }
}

/// The caller is told as little of it as of what there is not; operators are told which it is.
#[tokio::test]
async fn what_is_beyond_an_allow_list_is_found_by_its_own_name() {
    let few = r#"[{ upstream = "up", tools = ["echo"] }]"#;
    let (_up, gateway) = scene(|builder| builder.key_for("bob", few)).await;
    let bob = gateway.caller("bob");
    let [beyond, none] = [bob.call("up__slow", json!({})).await, bob.call("up__none", json!({})).await];
    let error = |reply: &Reply, name: &str| reply.json()["error"].to_string().replace(name, "NAME");
    assert_eq!(error(&beyond, "up__slow"), error(&none, "up__none"));
    let found = decisions(&gateway, "?principal=key:bob&upstream=up&tool=slow&outcome=refused", 1).await;
    assert_eq!((&found[0]["verdict"], &found[0]["reason_code"]), (&json!("hidden"), &json!("not-allowed")));
    assert_eq!(decisions(&gateway, "?principal=key:bob&outcome=refused", 2).await.len(), 2);
    assert!(decisions(&gateway, "?outcome=cancelled", 0).await.is_empty());
    let wrong = gateway.operator("GET", "/api/v1/decisions?outcome=gone", None).await;
    assert_eq!(wrong.json()["code"], "invalid", "{}", wrong.text());
}

#[tokio::test]
async fn an_upstream_that_fails_and_a_call_taken_back_are_told_apart() {
    let broken = Hostile::start(Behaviour::Status500).await;
    let (up, gateway) = scene(|builder| builder.http_upstream("broken", &broken.url)).await;
    let alice = gateway.caller("alice");
    alice.call(&format!("broken__{}", broken.tool()), json!({})).await;
    gateway.clock.advance(Duration::from_secs(1));
    tokio::select! {
        reply = alice.call("up__slow", json!({ "ms": 60_000 })) => panic!("{}", reply.text()),
        _ = up.until(|stats| stats.under_way == 1) => {}
    }
    let list = decisions(&gateway, "", 2).await;
    assert_eq!((&list[0]["tool"], &list[0]["outcome"]), (&json!("slow"), &json!("cancelled")));
    assert_eq!((&list[1]["upstream"], &list[1]["outcome"]), (&json!("broken"), &json!("error")));
    assert!(list.iter().all(|decision| decision["verdict"] == "allow"), "no policy had anything against them");
}

#[tokio::test]
async fn a_list_that_policies_go_through_leaves_a_decision() {
    let (_up, gateway) = scene(|builder| builder.section(GUARD)).await;
    assert!(!gateway.caller("alice").tool_names().await.contains(&"up__blob".to_owned()));
    let list = decisions(&gateway, "", 1).await;
    assert_eq!(
        (&list[0]["operation"], &list[0]["tool"], &list[0]["verdict"]),
        (&json!("tools/list"), &Value::Null, &json!("allow"))
    );
    assert_eq!(list[0]["steps"][0]["hook"], "list-tools");
}

#[tokio::test]
async fn the_trail_can_be_filtered() {
    let (_up, gateway) = scene(|builder| builder.section(GUARD).key("bob")).await;
    for (key, tool) in
        [("alice", "up__echo"), ("bob", "up__echo"), ("alice", "up__slow"), ("alice", "up__test_simple_text")]
    {
        gateway.clock.advance(Duration::from_secs(1));
        gateway.caller(key).call(tool, json!({})).await;
    }
    decisions(&gateway, "", 4).await;
    for (query, expected) in [
        ("?principal=key:alice", &["test_simple_text", "slow", "echo"][..]),
        ("?principal=key:bob", &["echo"]),
        ("?principal=key:none", &[]),
        ("?principal=gateway", &[]),
        ("?tool=echo", &["echo", "echo"]),
        ("?tool=up__echo", &[]),
        ("?verdict=deny", &["slow"]),
        ("?verdict=hidden", &[]),
        ("?verdict=allow&principal=key:alice&tool=echo", &["echo"]),
        ("?verdict=allow&limit=1", &["test_simple_text"]),
    ] {
        let list = decisions(&gateway, query, expected.len()).await;
        let tools: Vec<&str> = list.iter().map(|decision| decision["tool"].as_str().unwrap()).collect();
        assert_eq!(tools, expected, "{query}");
    }
    for query in ["?principal=alice", "?principal=key:NOT", "?verdict=Allow", "?verdict="] {
        let reply = gateway.operator("GET", &format!("/api/v1/decisions{query}"), None).await;
        assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY, "{query}");
    }
}

#[tokio::test]
async fn the_trail_comes_in_pages_newest_first() {
    let (_up, gateway) = scene(|builder| builder.section("[limits]\nlist_page = 1000")).await;
    let alice = gateway.caller("alice");
    for number in 0..7 {
        gateway.clock.advance(Duration::from_millis(1));
        alice.call(&format!("none-{number}"), json!({})).await;
    }
    let all = decisions(&gateway, "", 7).await;
    let (mut paged, mut path) = (Vec::new(), "/api/v1/decisions?limit=3".to_owned());
    loop {
        let page = gateway.operator("GET", &path, None).await.json();
        assert!(page["decisions"].as_array().unwrap().len() <= 3);
        paged.extend(page["decisions"].as_array().unwrap().clone());
        match page["next_cursor"].as_str() {
            Some(cursor) => path = format!("/api/v1/decisions?limit=3&cursor={cursor}"),
            None => break,
        }
    }
    assert_eq!(paged, all);
    let tools: Vec<&str> = all.iter().map(|decision| decision["tool"].as_str().unwrap()).collect();
    assert_eq!(tools, ["none-6", "none-5", "none-4", "none-3", "none-2", "none-1", "none-0"]);
    for cursor in ["x", ""] {
        let reply = gateway.operator("GET", &format!("/api/v1/decisions?cursor={cursor}"), None).await;
        assert_eq!((reply.status, reply.json()["code"].as_str()), (StatusCode::BAD_REQUEST, Some("invalid_cursor")));
    }
}

#[tokio::test]
async fn strangers_leave_nothing_in_the_trail() {
    let (_up, gateway) = scene(|builder| builder).await;
    gateway.stranger().call("up__echo", json!({})).await;
    gateway.caller("alice").call("up__echo", json!({})).await;
    let list = decisions(&gateway, "", 1).await;
    assert_eq!(list[0]["principal"], "key:alice");
    assert_eq!(gateway.operator("GET", "/api/v1/status", None).await.json()["decisions_dropped"], 0);
}

#[tokio::test]
async fn the_trail_is_complete_when_the_gateway_has_stopped() {
    let up = Fixture::start().await;
    let builder = || Gateway::builder().http_upstream("up", &up.url).key("alice").on_disk();
    let gateway = builder().try_start(tempfile::TempDir::new().unwrap(), Default::default()).await.unwrap();
    gateway.wait_until_ready().await;
    let (alice, clock) = (gateway.caller("alice"), gateway.clock.clone());
    for _ in 0..5 {
        assert_eq!(alice.call("up__echo", json!({})).await.status, StatusCode::OK);
    }
    let gateway = builder().try_start(gateway.stop().await, clock).await.unwrap();
    let kept = gateway.operator("GET", "/api/v1/decisions", None).await.json();
    assert_eq!(kept["decisions"].as_array().unwrap().len(), 5);
}
