//! Approvals: a policy wants somebody to agree, an operator decides, and what was agreed to happens, that and no more.

use std::time::Duration;

use http::StatusCode;
use portcullis_tests::gateway::Builder;
use portcullis_tests::upstreams::fixture::{self, Fixture};
use portcullis_tests::{Caller, Gateway, Reply};
use serde_json::{Value, json};

use crate::cli::run_in;

const HOUR: Duration = Duration::from_secs(3_600);

/// A policy that wants an approval of whatever may destroy something.
fn confirm(name: &str, config: &str) -> String {
    format!(
        "[[policies]]\nname = \"{name}\"\nmodule = \"builtin:confirm-destructive\"\nlimits = {{ time = \"1s\" }}\nconfig = {config}\n"
    )
}

/// A gateway whose tools of `up` that are not its fixture's own may destroy something, as far as anybody knows.
async fn scene(more: impl FnOnce(Builder) -> Builder) -> (Fixture, Gateway) {
    let up = Fixture::start().await;
    let tools =
        ["delete", "archive", "test_input_required_result_multi_round", "test_input_required_result_elicitation"];
    up.set_tools(tools.map(fixture::tool).into());
    let gateway = more(Gateway::builder().http_upstream("up", &up.url).key("alice").key("bob")).start().await;
    (up, gateway)
}

async fn confirmed(config: &str) -> (Fixture, Gateway) {
    scene(|builder| builder.section(&confirm("confirm", config))).await
}

/// The approval that a call waits for, and what the caller is told.
fn waits_for(reply: &Reply) -> (String, String) {
    let answer = reply.json();
    let result = &answer["result"];
    assert_eq!((reply.status, &result["isError"]), (StatusCode::OK, &json!(true)), "{answer}");
    let approval = &result["_meta"]["portcullis/approval"];
    assert_eq!(approval["state"], "pending", "{answer}");
    assert_eq!(result["_meta"]["portcullis/refusal"]["check"], "approval-needed", "{answer}");
    let id = approval["id"].as_str().unwrap().to_owned();
    (id, result["content"][0]["text"].as_str().unwrap().to_owned())
}

fn passed(reply: &Reply) -> bool {
    let answer = reply.json();
    reply.status == StatusCode::OK && answer["error"].is_null() && answer["result"]["isError"] != true
}

async fn decide(gateway: &Gateway, id: &str, decision: &str) -> Reply {
    let body = json!({ "decision": decision, "note": "as you like" });
    gateway.operator("POST", &format!("/api/v1/approvals/{id}/decision"), Some(body)).await
}

async fn approve(gateway: &Gateway, id: &str) {
    let reply = decide(gateway, id, "approve").await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
}

async fn listed(gateway: &Gateway, state: &str) -> Vec<Value> {
    let view = gateway.operator("GET", &format!("/api/v1/approvals?state={state}"), None).await.json();
    view["approvals"].as_array().unwrap_or_else(|| panic!("{view}")).clone()
}

#[tokio::test]
async fn a_call_waits_for_an_operator_and_goes_once() {
    let (up, gateway) = confirmed("{}").await;
    let alice = gateway.caller("alice");
    let arguments = || json!({ "id": 7, "why": "spring" });
    let (id, told) = waits_for(&alice.call("up__delete", arguments()).await);
    assert!(told.contains(&format!("portcullis approval decide {id} --approve")), "{told}");
    assert_eq!(up.stats().calls, 0, "nothing has happened");
    assert_eq!(waits_for(&alice.call("up__delete", arguments()).await).0, id, "it is asked once");

    let pending = listed(&gateway, "pending").await;
    assert_eq!(pending.len(), 1);
    let approval = gateway.operator("GET", &format!("/api/v1/approvals/{id}"), None).await.json();
    assert_eq!(approval["arguments"], arguments());
    assert_eq!(
        [&approval["principal"], &approval["upstream"], &approval["item"], &approval["policy"], &approval["state"]],
        ["key:alice", "up", "delete", "confirm", "pending"]
    );
    assert!(pending[0]["arguments"].is_null(), "a list has no arguments");

    approve(&gateway, &id).await;
    assert_eq!(listed(&gateway, "approved").await[0]["decided"]["note"], "as you like");
    assert!(passed(&alice.call("up__delete", arguments()).await));
    assert_eq!((up.stats().calls, listed(&gateway, "used").await.len()), (1, 1));
    assert_ne!(waits_for(&alice.call("up__delete", arguments()).await).0, id, "it is used up");

    let audit = gateway.operator("GET", "/api/v1/audit", None).await.json();
    let given = &audit["entries"][0];
    assert_eq!((&given["event"], &given["actor"]), (&json!("approval.given"), &json!("operator:socket")));
    assert_eq!(given["detail"]["approval"], id);
    let trail = gateway.until("/api/v1/decisions", |view| view["decisions"].as_array().unwrap().len() == 4).await;
    let of_verdict = |verdict: &str| {
        let decisions = trail["decisions"].as_array().unwrap().iter();
        decisions
            .filter(|decision| decision["verdict"] == verdict)
            .map(|decision| decision["approvals"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(of_verdict("allow"), [json!([id])]);
    assert_eq!(of_verdict("approve").len(), 3);
}

#[tokio::test]
async fn what_was_approved_is_all_that_was_approved() {
    let (up, gateway) = confirmed("{ remember = 600 }").await;
    let (alice, bob) = (gateway.caller("alice"), gateway.caller("bob"));
    let (id, _) = waits_for(&alice.call("up__delete", json!({ "id": 7, "n": 1.0 })).await);
    approve(&gateway, &id).await;
    assert!(
        passed(&alice.call("up__delete", json!({ "n": 1, "id": 7 })).await),
        "written in another way, it is the same"
    );
    let mut others = vec![
        waits_for(&alice.call("up__delete", json!({ "id": 8, "n": 1 })).await).0,
        waits_for(&alice.call("up__delete", json!({ "id": "7", "n": 1 })).await).0,
        waits_for(&alice.call("up__delete", json!({ "id": 7 })).await).0,
        waits_for(&alice.call("up__delete", json!({})).await).0,
        waits_for(&alice.call("up__archive", json!({ "id": 7, "n": 1 })).await).0,
        waits_for(&bob.call("up__delete", json!({ "id": 7, "n": 1 })).await).0,
    ];
    // The same tool that means something else is another tool.
    let text = r#"{"name":"delete","description":"Deletes more.","inputSchema":{"type":"object"}}"#;
    up.change_tools(vec![serde_json::from_str(text).unwrap()]);
    gateway.until("/api/v1/pins?changed=true", |view| view["pins"].as_array().unwrap().len() == 1).await;
    others.push(waits_for(&alice.call("up__delete", json!({ "id": 7, "n": 1 })).await).0);
    others.push(id);
    others.sort();
    others.dedup();
    assert_eq!((others.len(), up.stats().calls), (8, 1));
}

#[tokio::test]
async fn an_approval_holds_as_long_as_the_policy_says() {
    let (up, gateway) = confirmed("{ remember = 600, ttl = 3600 }").await;
    let alice = gateway.caller("alice");
    let call = || alice.call("up__delete", json!({ "id": 7 }));
    approve(&gateway, &waits_for(&call().await).0).await;
    for _ in 0..3 {
        assert!(passed(&call().await));
    }
    gateway.clock.advance(Duration::from_secs(600));
    let (id, _) = waits_for(&call().await);
    gateway.clock.advance(HOUR);
    let late = decide(&gateway, &id, "approve").await;
    assert_eq!((late.status, late.json()["code"].clone()), (StatusCode::CONFLICT, json!("lapsed")));
    assert_eq!(listed(&gateway, "lapsed").await.len(), 2);
    assert_ne!(waits_for(&call().await).0, id);
    assert_eq!(up.stats().calls, 3);
}

#[tokio::test]
async fn a_refusal_is_told_until_it_lapses() {
    let (up, gateway) = confirmed("{}").await;
    let alice = gateway.caller("alice");
    let call = || alice.call("up__delete", json!({ "id": 7 }));
    let (id, _) = waits_for(&call().await);
    assert_eq!(decide(&gateway, &id, "deny").await.json()["state"], "denied");
    let answer = call().await.json();
    let result = &answer["result"];
    assert_eq!(result["_meta"]["portcullis/approval"]["state"], "denied", "{answer}");
    assert!(result["content"][0]["text"].as_str().unwrap().contains("as you like"), "{answer}");
    gateway.clock.advance(HOUR);
    assert_ne!(waits_for(&call().await).0, id);
    assert_eq!(up.stats().calls, 0);
    let decisions = gateway.until("/api/v1/decisions?verdict=deny", |view| view["decisions"][0].is_object()).await;
    assert_eq!(decisions["decisions"][0]["approvals"], json!([id]));
}

#[tokio::test]
async fn of_calls_at_once_one_goes() {
    let (up, gateway) = confirmed("{}").await;
    let alice = gateway.caller("alice");
    approve(&gateway, &waits_for(&alice.call("up__delete", json!({ "id": 7 })).await).0).await;
    let calls = (0..16).map(|_| alice.call("up__delete", json!({ "id": 7 })));
    let replies = futures_util::future::join_all(calls).await;
    let waiting: Vec<_> = replies.iter().filter(|reply| !passed(reply)).map(waits_for).collect();
    assert_eq!((waiting.len(), up.stats().calls), (15, 1));
    assert!(waiting.iter().all(|(id, _)| *id == waiting[0].0), "the others wait for one and the same");
}

#[tokio::test]
async fn each_policy_asks_for_itself() {
    let both = |builder: Builder| builder.section(&confirm("one", "{}")).section(&confirm("two", "{}"));
    let (up, gateway) = scene(both).await;
    let alice = gateway.caller("alice");
    let call = || alice.call("up__delete", json!({ "id": 7 }));
    let (one, _) = waits_for(&call().await);
    approve(&gateway, &one).await;
    let (two, _) = waits_for(&call().await);
    assert_ne!(one, two);
    assert_eq!(waits_for(&call().await).0, two, "what one policy got is not used before the other agrees");
    assert_eq!(listed(&gateway, "approved").await.len(), 1);
    approve(&gateway, &two).await;
    assert!(passed(&call().await));
    assert_eq!((listed(&gateway, "used").await.len(), up.stats().calls), (2, 1));
    waits_for(&call().await);
}

/// Answers whatever is asked and calls again.
fn retry_of(tool: &str, asked: &Value) -> Value {
    let result = &asked["result"];
    assert_eq!(result["resultType"], "input_required", "{asked}");
    let answers = result["inputRequests"].as_object().unwrap().keys();
    let answer = json!({ "action": "accept", "content": { "name": "Ada", "confirm": true, "color": "blue" } });
    let answers: serde_json::Map<String, Value> = answers.map(|key| (key.clone(), answer.clone())).collect();
    json!({ "name": tool, "arguments": {}, "inputResponses": answers, "requestState": result["requestState"] })
}

#[tokio::test]
async fn all_rounds_of_one_request_use_one_approval_and_none_comes_twice() {
    for tool in ["up__test_input_required_result_elicitation", "up__test_input_required_result_multi_round"] {
        let (_up, gateway) = confirmed("{}").await;
        let alice = gateway.caller("alice").able(json!({ "elicitation": {} }));
        let call = || alice.modern("tools/call", json!({ "name": tool, "arguments": {} }));
        let (id, _) = waits_for(&call().await);
        approve(&gateway, &id).await;
        let mut answer = call().await.json();
        let mut retries = Vec::new();
        while answer["result"]["resultType"] == "input_required" {
            let retry = retry_of(tool, &answer);
            answer = alice.modern("tools/call", retry.clone()).await.json();
            retries.push(retry);
        }
        assert!(!retries.is_empty() && answer["result"]["isError"] != true && answer["error"].is_null(), "{answer}");
        for retry in retries {
            let (other, _) = waits_for(&alice.modern("tools/call", retry).await);
            assert_ne!(other, id, "a round is made once");
        }
        let other = json!({ "name": tool, "arguments": { "id": 8 } });
        waits_for(&alice.modern("tools/call", other).await);
    }
}

#[tokio::test]
async fn a_round_is_charged_once_and_a_replay_for_itself() {
    let limit = "[[policies]]\nname = \"limit\"\nmodule = \"builtin:rate-limit\"\ngrants = [\"counters\"]\nlimits = { time = \"1s\" }\nconfig = { rules = [{ limit = 2, period = \"1h\" }] }\n";
    let allow = "[policy]\nwhen_all_abstain = \"allow\"\n";
    let (_up, gateway) = scene(|builder| builder.section(allow).section(limit)).await;
    let alice = gateway.caller("alice").able(json!({ "elicitation": {} }));
    let tool = "up__test_input_required_result_multi_round";
    let mut answer = alice.modern("tools/call", json!({ "name": tool, "arguments": {} })).await.json();
    let mut retries = Vec::new();
    while answer["result"]["resultType"] == "input_required" {
        let retry = retry_of(tool, &answer);
        answer = alice.modern("tools/call", retry.clone()).await.json();
        retries.push(retry);
    }
    assert!(retries.len() > 1 && answer["error"].is_null(), "the limit is two requests, and this is one: {answer}");
    let replayed = alice.modern("tools/call", retries[0].clone()).await;
    assert!(replayed.json()["error"].is_null(), "{}", replayed.text());
    let third = alice.modern("tools/call", retries[0].clone()).await;
    assert_eq!(third.status, StatusCode::TOO_MANY_REQUESTS, "{}", third.text());
}

/// Rules that want approvals, each of its own kind; in one gateway, since their module takes its time to be compiled.
const SCRIPTED: &str = r#"
[[policies]]
name = "prompts"
module = "builtin:cel"
match = { hooks = ["item-access"] }
limits = { time = "1s" }
[policies.config]
otherwise = "allow"
[[policies.config.rules]]
hook = "item-access"
then = "approve"
title = "Use a prompt"

[[policies]]
name = "edit"
module = "builtin:cel"
match = { hooks = ["tool-call"], tools = ["edited"] }
allow_rewrite = true
limits = { time = "1s" }
[[policies.config.rules]]
hook = "tool-call"
then = "approve"
title = "Edit"
[[policies.config.rules]]
hook = "tool-call"
then = "allow"
edits = [{ pointer = "/id", set = "8" }]

[[policies]]
name = "mask"
module = "builtin:cel"
match = { hooks = ["tool-call"], tools = ["masked*"] }
allow_rewrite = true
priority = 2
limits = { time = "1s" }
[[policies.config.rules]]
hook = "tool-call"
then = "allow"
edits = [{ pointer = "/token", mask = "***" }]

[[policies]]
name = "before"
module = "builtin:confirm-destructive"
match = { tools = ["masked_after"] }
priority = 1
limits = { time = "1s" }

[[policies]]
name = "after"
module = "builtin:confirm-destructive"
match = { tools = ["masked_before"] }
priority = 3
limits = { time = "1s" }
"#;

/// The same with a policy that is never content.
fn scripted() -> String {
    let mut greedy = "[[policies]]\nname = \"greedy\"\nmodule = \"builtin:cel\"\nmatch = { hooks = [\"tool-call\"], tools = [\"wanted\"] }\nlimits = { time = \"1s\" }\n".to_owned();
    for number in 0..12 {
        greedy += &format!(
            "[[policies.config.rules]]\nname = \"r{number}\"\nhook = \"tool-call\"\nthen = \"approve\"\ntitle = \"Once more\"\n"
        );
    }
    format!("{SCRIPTED}\n{greedy}")
}

#[tokio::test]
async fn what_is_approved_is_what_is_done() {
    let up = Fixture::start().await;
    up.set_tools(["edited", "masked_before", "masked_after", "wanted"].map(fixture::tool).into());
    let gateway = Gateway::builder().http_upstream("up", &up.url).key("alice").section(&scripted()).start().await;
    let alice = gateway.caller("alice");

    // What a policy rewrites after it was approved does not go, and nothing is used up.
    let call = || alice.call("up__edited", json!({ "id": 7 }));
    approve(&gateway, &waits_for(&call().await).0).await;
    let answer = call().await.json();
    assert_eq!(answer["result"]["_meta"]["portcullis/refusal"]["check"], "policy-failed", "{answer}");
    assert_eq!((up.stats().calls, listed(&gateway, "approved").await.len()), (0, 1));

    // What others rewrite, wherever they stand in the chain, is rewritten before anybody is asked.
    for tool in ["up__masked_before", "up__masked_after"] {
        let call = |token: &str| alice.call(tool, json!({ "id": 7, "token": token }));
        let calls = up.stats().calls;
        let (id, _) = waits_for(&call("one").await);
        let approval = gateway.operator("GET", &format!("/api/v1/approvals/{id}"), None).await.json();
        assert_eq!(approval["arguments"], json!({ "id": 7, "token": "***" }), "{tool}: what would be sent");
        approve(&gateway, &id).await;
        assert!(passed(&call("two").await), "{tool}: what would be sent is the same");
        assert_eq!(up.stats().calls, calls + 1);
    }

    // A prompt has no result that could be an error: its caller gets an error of the protocol.
    let get = || alice.modern("prompts/get", json!({ "name": "up__test_simple_prompt" }));
    let answer = get().await.json();
    let approval = &answer["error"]["data"]["approval"];
    assert_eq!((&answer["error"]["code"], &approval["state"]), (&json!(-31403), &json!("pending")), "{answer}");
    approve(&gateway, approval["id"].as_str().unwrap()).await;
    let answer = get().await.json();
    assert!(answer["result"]["messages"].is_array(), "{answer}");
    assert!(get().await.json()["error"].is_object(), "it is used up");

    // One request takes a bounded number of approvals.
    for _ in 0..8 {
        approve(&gateway, &waits_for(&alice.call("up__wanted", json!({})).await).0).await;
    }
    let answer = alice.call("up__wanted", json!({})).await.json();
    assert_eq!(answer["result"]["_meta"]["portcullis/refusal"]["check"], "policy-failed", "{answer}");
    assert_eq!((up.stats().calls, listed(&gateway, "pending").await.len()), (2, 1), "that of the prompt is pending");
}

#[tokio::test]
async fn a_callers_open_questions_are_bounded() {
    let (up, gateway) = confirmed("{}").await;
    let alice = gateway.caller("alice");
    for id in 0..100 {
        waits_for(&alice.call("up__delete", json!({ "id": id })).await);
    }
    let answer = alice.call("up__delete", json!({ "id": 100 })).await.json();
    assert_eq!(answer["result"]["_meta"]["portcullis/refusal"]["check"], "too-many-approvals", "{answer}");
    assert!(answer["result"]["_meta"]["portcullis/approval"].is_null(), "{answer}");
    waits_for(&gateway.caller("bob").call("up__delete", json!({ "id": 100 })).await);
    let mut cursor = String::new();
    let mut ids = Vec::new();
    loop {
        let path = format!("/api/v1/approvals?state=pending&limit=40{cursor}");
        let page = gateway.operator("GET", &path, None).await.json();
        ids.extend(page["approvals"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap().to_owned()));
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(ids.len(), 101);
    ids.dedup();
    assert_eq!((ids.len(), up.stats().calls), (101, 0));
}

#[tokio::test]
async fn approvals_outlive_the_gateway() {
    let up = Fixture::start().await;
    up.set_tools(vec![fixture::tool("delete")]);
    let builder =
        || Gateway::builder().on_disk().http_upstream("up", &up.url).key("alice").section(&confirm("confirm", "{}"));
    let gateway = builder().start().await;
    let clock = gateway.clock.clone();
    let (id, _) = waits_for(&gateway.caller("alice").call("up__delete", json!({ "id": 7 })).await);
    approve(&gateway, &id).await;
    let gateway = builder().try_start(gateway.stop().await, clock).await.unwrap();
    gateway.wait_until_ready().await;
    assert!(passed(&gateway.caller("alice").call("up__delete", json!({ "id": 7 })).await));
    waits_for(&gateway.caller("alice").call("up__delete", json!({ "id": 7 })).await);
}

#[tokio::test]
async fn callers_of_each_revision_are_told() {
    let (_up, gateway) = confirmed("{}").await;
    let mut ids = Vec::new();
    for caller in [
        gateway.caller("alice"),
        gateway.caller("alice").initialize("2025-11-25").await,
        gateway.caller("alice").initialize("2025-06-18").await,
    ] {
        let legacy = caller.headers.contains_key("mcp-session-id");
        let params = json!({ "name": "up__delete", "arguments": { "id": 7 } });
        let reply =
            if legacy { caller.request("tools/call", params).await } else { caller.modern("tools/call", params).await };
        ids.push(waits_for(&reply).0);
    }
    ids.dedup();
    assert_eq!(ids.len(), 1, "it is the same caller and the same call");
}

#[tokio::test]
async fn what_cannot_be_decided_is_a_problem() {
    let (_up, gateway) = confirmed("{}").await;
    let (id, _) = waits_for(&gateway.caller("alice").call("up__delete", json!({})).await);
    let path = format!("/api/v1/approvals/{id}/decision");
    for (path, body, status, code) in [
        ("/api/v1/approvals/none/decision", json!({ "decision": "approve" }), 404, "not_found"),
        ("/api/v1/approvals/00000000000000000000000a/decision", json!({ "decision": "approve" }), 404, "not_found"),
        (&path, json!({ "decision": "perhaps" }), 422, "invalid"),
        (&path, json!({ "decision": "approve", "by": "me" }), 422, "invalid"),
        (&path, json!({ "decision": "approve", "note": "x".repeat(2_000) }), 422, "invalid"),
        (&path, json!({ "decision": "approve" }), 200, ""),
        (&path, json!({ "decision": "deny" }), 409, "already_decided"),
    ] {
        let reply = gateway.operator("POST", path, Some(body)).await;
        assert_eq!(
            (reply.status.as_u16(), reply.json()["code"].as_str().unwrap_or("")),
            (status, code),
            "{}",
            reply.text()
        );
    }
    for (path, status) in [("?state=maybe", 422), ("?cursor=x", 400), ("?limit=-1", 400), ("/none", 404)] {
        let reply = gateway.operator("GET", &format!("/api/v1/approvals{path}"), None).await;
        assert_eq!(reply.status.as_u16(), status, "{path}");
    }
    let callers = Caller::new(gateway.admin, Some(Gateway::secret("alice")));
    let reply = callers.send("POST", &path, r#"{"decision":"approve"}"#).await;
    assert_eq!(reply.status, StatusCode::UNAUTHORIZED, "a caller cannot approve for itself");
}

#[tokio::test]
async fn the_command_line_lists_shows_and_decides() {
    let (_up, gateway) = confirmed("{}").await;
    let alice = gateway.caller("alice");
    let call = || alice.call("up__delete", json!({ "note": "a\u{202e}b" }));
    let (id, _) = waits_for(&call().await);
    let dir = gateway.dir.path();
    let list = run_in(dir, &["approval", "list"]).await.printed();
    assert!(list.contains(&id) && list.contains("up/delete") && list.contains("key:alice"), "{list}");
    let shown = run_in(dir, &["approval", "show", &id]).await.printed();
    assert!(shown.contains("a\\u202eb"), "what misleads is written out: {shown}");
    let neither = run_in(dir, &["approval", "decide", &id]).await;
    assert_eq!(neither.code, Some(2), "{}", neither.stderr);
    let decided = run_in(dir, &["approval", "decide", &id, "--approve", "--note", "fine"]).await.printed();
    assert!(decided.starts_with(&format!("{id} is approved until ")), "{decided}");
    let again = run_in(dir, &["approval", "decide", &id, "--deny"]).await.complaint();
    assert!(again.contains("it is decided already"), "{again}");
    assert!(passed(&call().await));
    assert!(!run_in(dir, &["approval", "list"]).await.printed().contains(&id));
    assert!(run_in(dir, &["approval", "list", "--state", "all"]).await.printed().contains(&id));
}
