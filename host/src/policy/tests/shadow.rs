//! Policies in shadow are asked afterwards, and change nothing.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::guest::{Guest, allow, deny, redact};
use super::scene::{Bound, bind, call, caller, check, context, inspect, load, tool};
use crate::config::Mode;
use crate::ids::UpstreamName;
use crate::mcp::call::{Access, Item, Outcome, Params, Verb};
use crate::mcp::json::raw;
use crate::policy::{AskedOf, Hook, ItemFacts, ItemKind, ListedItem, PolicySet, Shadow, Step, Used, shadows};

fn shadowing(name: &str, guest: &Guest) -> Bound {
    bind(name, guest).with(|binding| binding.mode = Mode::Shadow)
}

fn says(hook: Hook, answer: Value) -> Guest {
    Guest::new().answers(hook, answer).mutates(hook).sees_all()
}

/// A guest that objects to everything and would change everything.
fn hostile() -> Vec<(Hook, Guest)> {
    let hides = json!({ "visible": ["hide"], "overrides": [{ "index": 0, "title": "Other" }] });
    let block = json!({ "block": { "reason": { "code": "no", "message": "No." }, "as-tool-error": true } });
    vec![
        (Hook::ListTools, says(Hook::ListTools, hides)),
        (Hook::ListItems, says(Hook::ListItems, json!(["hide"]))),
        (Hook::ToolCall, says(Hook::ToolCall, deny("no"))),
        (Hook::ToolCall, says(Hook::ToolCall, allow(&json!({ "rewrite": { "replace": "{}" }, "timeout-ms": 1 })))),
        (Hook::ToolResult, says(Hook::ToolResult, block.clone())),
        (Hook::ToolResult, says(Hook::ToolResult, redact(&json!({ "drop-parts": [0] })))),
        (Hook::ItemAccess, says(Hook::ItemAccess, deny("no"))),
        (Hook::ItemResult, says(Hook::ItemResult, block)),
        (Hook::ServerRequest, says(Hook::ServerRequest, deny("no"))),
        (Hook::ToolCall, Guest::new().runs(Hook::ToolCall, "unreachable")),
    ]
}

const RESULT: &str = r#"{"content":[{"type":"text","text":"a"}]}"#;

/// Everything that can be asked of a set, in words, and what is left to be asked.
async fn everything(set: &PolicySet) -> (Vec<String>, Vec<Shadow>) {
    let (caller, notes, add) = (caller(), UpstreamName::parse("notes").unwrap(), tool("notes", "add"));
    let ctx = context(&caller);
    let (mut said, mut shadows) = (Vec::new(), Vec::new());
    let mut hear = |what: String, trail: crate::policy::Trail| {
        assert!(trail.steps.iter().all(|step| step.mode == Mode::Enforce), "{trail:?}");
        said.push(what);
        shadows.extend(trail.shadows);
    };
    let (visible, trail) = set.filter(&ctx, std::slice::from_ref(&add)).await;
    hear(
        format!("{:?}", visible.unwrap().iter().map(|tool| (&tool.title, &tool.tool.exposed)).collect::<Vec<_>>()),
        trail,
    );
    let item = ListedItem { kind: ItemKind::Content, upstream: &notes, id: "x://a", mime: None };
    let (visible, trail) = set.filter_items(&ctx, &[item]).await;
    hear(format!("{:?}", visible.unwrap()), trail);
    let (permit, trail) = set.check(&ctx, call(&add, Some(r#"{"a":1}"#))).await;
    let permit = permit.unwrap();
    hear(format!("{:?} {:?}", permit.get().arguments(), permit.timeout()), trail);
    let (outcome, trail) = set.inspect(&ctx, &add, Outcome::Result(raw(RESULT.to_owned())), Duration::ZERO).await;
    hear(format!("{:?}", outcome.unwrap()), trail);
    let item = Item::Task { id: "t".to_owned() };
    let access = Access { upstream: notes.clone(), verb: Verb::TaskResult, item, params: Params::default() };
    let used = Used::of(&access);
    let (permit, trail) = set.check_access(&ctx, access, ItemFacts::default()).await;
    hear(format!("{:?}", permit.unwrap().timeout()), trail);
    let (outcome, trail) = set.inspect_access(&ctx, &used, Outcome::Result(raw(RESULT.to_owned()))).await;
    hear(format!("{:?}", outcome.unwrap()), trail);
    let question = AskedOf { upstream: &notes, method: "roots/list", params: None };
    let (asked, trail) = set.check_question(&ctx, question).await;
    hear(format!("{:?}", asked.is_ok()), trail);
    (said, shadows)
}

/// Runs what is left, as the gateway does.
async fn run(set: &Arc<PolicySet>, left: Vec<Shadow>) -> Vec<Step> {
    let (queue, runner) = shadows();
    let (stop, steps) = (CancellationToken::new(), Arc::new(Mutex::new(None)));
    let (done, told) = tokio::sync::oneshot::channel();
    let kept = steps.clone();
    queue.submit(set, left, move |steps| {
        *kept.lock().unwrap() = Some(steps);
        done.send(()).unwrap();
    });
    let telling = async {
        told.await.unwrap();
        stop.cancel();
    };
    tokio::join!(runner.run(stop.clone()), telling);
    steps.lock().unwrap().take().unwrap()
}

fn words(steps: &[Step]) -> Vec<String> {
    let word = |step: &Step| format!("{} {} {}", step.hook, step.verdict, step.code.as_deref().unwrap_or("-"));
    steps.iter().map(word).collect()
}

#[tokio::test]
async fn a_shadow_never_changes_a_response() {
    let (alone, none_left) = everything(&load(Vec::new())).await;
    assert!(none_left.is_empty());
    for (hook, guest) in hostile() {
        let set = Arc::new(load(vec![shadowing("one", &guest)]));
        let (said, left) = everything(&set).await;
        assert_eq!(said, alone, "{hook}");
        assert!(!left.is_empty(), "{hook}");
        let steps = run(&set, left).await;
        assert!(!steps.is_empty() && steps.iter().all(|step| step.hook == hook && step.mode == Mode::Shadow));
        assert!(steps.iter().all(|step| step.verdict.starts_with("would_")), "{:?}", words(&steps));
    }
}

#[tokio::test]
async fn a_shadow_does_not_count_where_all_others_abstain() {
    let abstains = says(Hook::ToolCall, json!("abstain"));
    let allows = says(Hook::ToolCall, allow(&json!({})));
    let denied = tokio::task::spawn_blocking(move || {
        let set = load(vec![bind("one", &abstains), shadowing("two", &allows)]);
        check(&set, &tool("notes", "add"), None)
    });
    assert_eq!(denied.await.unwrap(), "no-policy-allowed");
}

#[tokio::test]
async fn a_shadow_sees_what_passed_and_its_steps_say_what_it_would_have_done() {
    let rewrites = says(Hook::ToolCall, allow(&json!({ "rewrite": { "replace": r#"{"b":2}"# } })));
    let echo = super::guest::echo(Hook::ToolCall, &["request", "arguments"], true);
    let set = Arc::new(load(vec![
        shadowing("shadow", &echo),
        bind("one", &rewrites).with(|binding| binding.allow_rewrite = true),
        shadowing("fails", &Guest::new().runs(Hook::ToolCall, "unreachable")),
    ]));
    let caller = caller();
    let (permit, trail) = set.check(&context(&caller), call(&tool("notes", "add"), Some("{}"))).await;
    assert_eq!(permit.unwrap().get().arguments().unwrap().get(), r#"{"b":2}"#);
    assert_eq!(words(&trail.steps), ["tool-call allow -"]);
    let steps = run(&set, trail.shadows).await;
    assert_eq!(words(&steps), ["tool-call would_deny echo", "tool-call would_error trap"]);
    let tallies: Vec<_> = set
        .bindings()
        .iter()
        .map(|bound| {
            let tally = bound.shadow_tally();
            (bound.name().as_str(), tally.asked(), tally.stricter(), tally.milder())
        })
        .collect();
    assert_eq!(tallies, [("shadow", 1, 1, 0), ("one", 0, 0, 0), ("fails", 1, 1, 0)]);
}

#[tokio::test]
async fn a_shadow_is_asked_about_what_was_refused_and_about_results_as_they_came() {
    let denies = says(Hook::ToolCall, deny("no"));
    let drops = says(Hook::ToolResult, redact(&json!({ "drop-parts": [0] })));
    let allows =
        says(Hook::ToolCall, allow(&json!({}))).answers(Hook::ToolResult, redact(&json!({ "drop-parts": [0] })));
    let allows = allows.manifest("mutates", json!(["tool-result"]));
    let set = Arc::new(load(vec![bind("one", &denies), bind("two", &drops), shadowing("three", &allows)]));
    let (caller, add) = (caller(), tool("notes", "add"));
    let (permit, trail) = set.check(&context(&caller), call(&add, None)).await;
    assert!(permit.is_err());
    assert_eq!(words(&run(&set, trail.shadows).await), ["tool-call would_allow -"]);
    let result = Outcome::Result(raw(RESULT.to_owned()));
    let (_, trail) = set.inspect(&context(&caller), &add, result, Duration::ZERO).await;
    let steps = run(&set, trail.shadows).await;
    assert_eq!(words(&steps), ["tool-result would_redact -"], "the part is still there for it");
    let tally = set.bindings()[2].shadow_tally();
    assert_eq!((tally.asked(), tally.stricter(), tally.milder()), (2, 1, 1));
}

#[tokio::test]
async fn what_finds_no_room_is_not_asked_and_counted() {
    let set = Arc::new(load(vec![shadowing("one", &says(Hook::ToolCall, deny("no")))]));
    let (queue, runner) = shadows();
    let (caller, add) = (caller(), tool("notes", "add"));
    let handed = Arc::new(Mutex::new(Vec::new()));
    let submit = async || {
        let (_, trail) = set.check(&context(&caller), call(&add, None)).await;
        let handed = handed.clone();
        queue.submit(&set, trail.shadows, move |steps| handed.lock().unwrap().push(steps.len()));
    };
    for _ in 0..1025 {
        submit().await;
    }
    assert_eq!((queue.dropped(), handed.lock().unwrap().as_slice()), (1, [0].as_slice()), "it is recorded without");
    let stop = CancellationToken::new();
    stop.cancel();
    runner.run(stop).await;
    assert_eq!(handed.lock().unwrap().len(), 1025, "at the end, what waits is recorded without");
    assert_eq!(set.bindings()[0].shadow_tally().asked(), 0);
}

#[tokio::test]
async fn a_set_without_shadows_leaves_nothing_to_ask() {
    let set = load(vec![bind("one", &says(Hook::ToolCall, allow(&json!({}))))]);
    assert!(everything(&set).await.1.is_empty());
    let answered = tokio::task::spawn_blocking(move || inspect(&set, RESULT)).await.unwrap();
    assert_eq!(answered, RESULT);
}
