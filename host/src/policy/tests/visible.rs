//! What was said of tools is remembered as long as it would be said again.

use std::sync::Arc;

use serde_json::json;

use super::guest::{Body, Guest, Layout};
use super::scene::{bind, call, caller, context, load, now};
use crate::config::Mode;
use crate::env::Timestamp;
use crate::identity::{Caller, TokenList};
use crate::ids::UpstreamName;
use crate::mcp::json::raw;
use crate::policy::{CallContext, Hook, PolicySet, Trail, Transport};
use crate::upstream::catalog::{Catalog, Offer, PinStanding, Shelf, Tool, ToolDefinition, View};

/// A view of these tools of `notes`.
fn view(tools: &[&str]) -> Arc<View> {
    let notes = UpstreamName::parse("notes").unwrap();
    let tool = |name: &&str| {
        let definition = raw(json!({ "name": name, "inputSchema": { "type": "object" } }).to_string());
        Arc::new(ToolDefinition::parse(&notes, &definition).unwrap())
    };
    let offer = Offer { tools: tools.iter().map(tool).collect(), ..Offer::default() };
    let shelf = Shelf {
        upstream: notes.clone(),
        prefix: true,
        about: None,
        offer: Some(Arc::new(offer)),
        stale: false,
        connect: None,
    };
    Catalog::build(&[shelf], |_| PinStanding::Pinned).view(None).unwrap().clone()
}

/// Shows tools whose names have one character, and gives them a title; hides all others.
fn judges() -> Guest {
    let layout = Layout::new();
    let tools = layout.offset(Hook::ListTools, &["tools"]);
    let (size, name) = layout.element(Hook::ListTools, "name");
    let wat = format!(
        "(i32.store $answer (i32.const 60000))
         (i32.store offset=4 $answer (i32.load offset={count} (local.get 0)))
         (call $judge (i32.load offset={tools} (local.get 0)) (i32.load offset={count} (local.get 0)))
         $answer",
        count = tools + 4,
    );
    let judge = format!(
        "(func $judge (param $tool i32) (param $left i32) (local $at i32)
           (local.set $at (i32.const 60000))
           (block $done (loop $next
             (br_if $done (i32.eqz (local.get $left)))
             (i32.store8 (local.get $at)
               (i32.add (i32.const 1) (i32.ne (i32.load offset={} (local.get $tool)) (i32.const 1))))
             (local.set $at (i32.add (local.get $at) (i32.const 1)))
             (local.set $tool (i32.add (local.get $tool) (i32.const {size})))
             (local.set $left (i32.sub (local.get $left) (i32.const 1)))
             (br $next))))",
        name + 4
    );
    Guest::new().hook(Hook::ListTools, Body::Around(json!({ "visible": [], "overrides": [] }), wat)).field(&judge)
}

fn tools(view: &View) -> Vec<Arc<Tool>> {
    view.tools_after(None).cloned().collect()
}

/// The names that are seen, and how often somebody was asked.
fn seen(set: &PolicySet, ctx: &CallContext<'_>, tools: &[Arc<Tool>]) -> (Vec<String>, usize) {
    let (visible, trail) = now(set.filter(ctx, tools));
    (visible.unwrap().iter().map(|visible| visible.tool.name.clone()).collect(), asked(&trail))
}

fn asked(trail: &Trail) -> usize {
    trail.steps.iter().filter(|step| step.notes.iter().all(|note| note.key != "remembered")).count()
}

#[test]
fn a_list_is_asked_about_once_and_serves_pages_and_calls() {
    let (set, view, caller) = (load(vec![bind("one", &judges())]), view(&["a", "b", "long", "longer"]), caller());
    let ctx = CallContext { view: Some(&view), ..context(&caller) };
    let all = tools(&view);
    assert_eq!(seen(&set, &ctx, &all[..2]), (vec!["a".to_owned(), "b".to_owned()], 1));
    assert_eq!(seen(&set, &ctx, &all), (vec!["a".to_owned(), "b".to_owned()], 1), "for the rest");
    assert_eq!(seen(&set, &ctx, &all), (vec!["a".to_owned(), "b".to_owned()], 0));
    for (tool, passes) in all.iter().zip([true, true, false, false]) {
        let (permit, trail) = now(set.check(&ctx, call(tool, None)));
        assert_eq!((permit.is_ok(), asked(&trail)), (passes, 0), "{}", tool.name);
        if !passes {
            let [step] = &trail.steps[..] else { panic!("{trail:?}") };
            assert_eq!((step.binding.as_str(), step.verdict, step.micros), ("one", "hide", 0), "it is said who hid it");
        }
    }
    assert_eq!(seen(&set, &context(&caller), &all).1, 1, "without a view nothing is remembered");
}

#[test]
fn what_policies_can_see_keeps_callers_apart() {
    let (set, view, other_view, caller) = (load(vec![bind("one", &judges())]), view(&["a"]), view(&["a"]), caller());
    let ctx = CallContext { view: Some(&view), ..context(&caller) };
    let all = tools(&view);
    assert_eq!(seen(&set, &ctx, &all).1, 1);
    assert_eq!(seen(&set, &ctx, &all).1, 0);
    let token = |token: &str| TokenList::parse(vec![token.to_owned()]).unwrap();
    let callers = [
        Caller { scopes: token("x"), ..caller.clone() },
        Caller { groups: token("x"), ..caller.clone() },
        Caller { client: Some("x".into()), ..caller.clone() },
        Caller { claims: Some(r#"{"x":1}"#.into()), ..caller.clone() },
    ];
    for different in &callers {
        assert_eq!(seen(&set, &CallContext { caller: different, ..ctx.clone() }, &all).1, 1, "{different:?}");
    }
    let later = Timestamp::from_millis(ctx.now.as_millis() + 60_000);
    for different in [
        CallContext { revision: "2025-11-25", ..ctx.clone() },
        CallContext { transport: Transport::Sse, ..ctx.clone() },
        CallContext { session: Some("s"), ..ctx.clone() },
        CallContext { user_agent: None, ..ctx.clone() },
        CallContext { remote_ip: None, ..ctx.clone() },
        CallContext { now: later, ..ctx.clone() },
    ] {
        assert_eq!(seen(&set, &different, &all).1, 1, "{different:?}");
    }
    let elsewhere = CallContext { view: Some(&other_view), ..ctx.clone() };
    assert_eq!(seen(&set, &elsewhere, &tools(&other_view)).1, 1);
    assert_eq!(seen(&set, &elsewhere, &all).1, 1, "a tool of another view is not this one's");
    let same = CallContext { now: Timestamp::from_millis(ctx.now.as_millis() + 59_999), ..ctx.clone() };
    let (_, asked_again) = seen(&load(vec![bind("one", &judges())]), &same, &all);
    assert_eq!(asked_again, 1, "another generation begins with nothing");
}

#[test]
fn what_is_remembered_is_as_old_as_its_oldest_part() {
    let (set, view, caller) = (load(vec![bind("one", &judges())]), view(&["a", "b"]), caller());
    let at = |seconds: u64| CallContext {
        view: Some(&view),
        now: Timestamp::from_millis(1_700_000_000_000 + seconds * 1000),
        ..context(&caller)
    };
    let all = tools(&view);
    assert_eq!(seen(&set, &at(0), &all[..1]).1, 1);
    assert_eq!(seen(&set, &at(50), &all[1..]).1, 1);
    assert_eq!(seen(&set, &at(59), &all).1, 0);
    assert_eq!(seen(&set, &at(61), &all).1, 1, "the first of them is too old");
}

#[test]
fn only_what_would_be_said_again_is_remembered() {
    let failing = Guest::new().runs(Hook::ListTools, "unreachable");
    for (set, times) in [
        (load(vec![bind("one", &judges().manifest("determinism", json!("time-dependent")))]), 1),
        (load(vec![bind("one", &judges().manifest("determinism", json!("stateful")))]), 1),
        (load(vec![bind("one", &judges()), bind("two", &judges().manifest("determinism", json!("stateful")))]), 2),
        (load(vec![bind("one", &failing)]), 1),
        (load(vec![bind("one", &failing).with(|binding| binding.advisory = true)]), 1),
    ] {
        let (view, caller) = (view(&["a"]), caller());
        let ctx = CallContext { view: Some(&view), ..context(&caller) };
        for _ in 0..2 {
            assert_eq!(seen(&set, &ctx, &tools(&view)).1, times);
        }
    }
}

#[test]
fn texts_are_remembered_with_the_tool() {
    let overrides = json!({ "visible": ["show"], "overrides": [{ "index": 0, "title": "New" }] });
    let guest = Guest::new().answers(Hook::ListTools, overrides).mutates(Hook::ListTools);
    let (set, view, caller) = (load(vec![bind("one", &guest)]), view(&["a"]), caller());
    let ctx = CallContext { view: Some(&view), ..context(&caller) };
    for times in [1, 0] {
        let (visible, trail) = now(set.filter(&ctx, &tools(&view)));
        assert_eq!((visible.unwrap()[0].title.as_deref(), asked(&trail)), (Some("New"), times));
    }
}

#[test]
fn a_shadow_is_asked_whatever_is_remembered() {
    let set = load(vec![bind("one", &judges()), bind("two", &judges()).with(|binding| binding.mode = Mode::Shadow)]);
    let (view, caller) = (view(&["a"]), caller());
    let ctx = CallContext { view: Some(&view), ..context(&caller) };
    for _ in 0..2 {
        assert_eq!(now(set.filter(&ctx, &tools(&view))).1.shadows.len(), 1);
    }
}
