//! Policies are asked aside, and nothing comes of it.

use serde_json::json;

use super::guest::{Guest, allow, deny};
use super::scene::{bind, caller, load, tool};
use crate::config::Mode;
use crate::env::{Env, Timestamp};
use crate::identity::Caller;
use crate::ids::{BindingName, DecisionId};
use crate::mcp::json::raw;
use crate::policy::replay::PastQuestion;
use crate::policy::tryout::{Before, NotAside, TypedCall, Variation};
use crate::policy::{Hook, PolicySet};

fn says(answer: serde_json::Value) -> Guest {
    Guest::new().answers(Hook::ToolCall, answer).sees_all()
}

fn typed(caller: &Caller) -> TypedCall<'_> {
    TypedCall {
        decision: DecisionId::generate(&Env::system()),
        caller,
        tool: tool("notes", "add"),
        arguments: raw(r#"{"a":1}"#.to_owned()),
        now: Timestamp::from_millis(1_700_000_000_000),
    }
}

fn alone(name: &str) -> Variation {
    Variation { binding: BindingName::parse(name).unwrap(), config: None }
}

/// That nobody would see in the set that it was asked.
fn assert_untouched(set: &PolicySet) {
    for bound in set.bindings() {
        assert_eq!((bound.health().failures(), bound.shadow_tally().asked()), (0, 0), "{}", bound.name());
    }
}

#[tokio::test]
async fn a_call_is_decided_as_it_would_be_and_leaves_nothing_behind() {
    let watcher = bind("watcher", &says(deny("quiet"))).with(|binding| binding.mode = Mode::Shadow);
    let set = load(vec![bind("first", &says(allow(&json!({})))), bind("guard", &says(deny("no"))), watcher]);
    let caller = caller();
    let tried = set.to_try(None).unwrap().ask(typed(&caller)).await;
    let steps: Vec<_> = tried.steps.iter().map(|said| (said.binding.as_str(), said.verdict)).collect();
    assert_eq!(steps, [("first", "allow"), ("guard", "deny"), ("watcher", "would_deny")]);
    assert_eq!((tried.end.check, tried.end.by.as_ref().map(BindingName::as_str)), ("denied", Some("guard")));
    assert!(tried.steps[1].answer.as_ref().is_some_and(|answer| answer.contains("deny")), "{tried:?}");

    let tried = set.to_try(Some(&alone("watcher"))).unwrap().ask(typed(&caller)).await;
    assert_eq!((tried.steps.len(), tried.steps[0].verdict), (1, "deny"), "alone, its answer counts: {tried:?}");
    assert!(matches!(set.to_try(Some(&alone("nobody"))), Err(NotAside::NoSuchPolicy)));
    assert_untouched(&set);
}

#[tokio::test]
async fn a_policy_that_fails_aside_has_not_failed() {
    let set = load(vec![bind("broken", &Guest::new().runs(Hook::ToolCall, "unreachable"))]);
    let caller = caller();
    for _ in 0..6 {
        let tried = set.to_try(None).unwrap().ask(typed(&caller)).await;
        assert_eq!((tried.end.passes, tried.end.check), (false, "policy-failed"));
        assert_eq!(tried.steps[0].verdict, "error");
    }
    assert!(!set.bindings()[0].health().is_degraded());
    assert_untouched(&set);
}

#[test]
fn a_recorded_question_is_put_again() {
    let set = load(vec![bind("guard", &says(deny("no")))]);
    let question = |binding: &str, answer| PastQuestion {
        decision: None,
        binding: BindingName::parse(binding).unwrap(),
        hook: Hook::ToolCall,
        input: json!({}),
        answer: Some(answer),
        was_asked: true,
        imports: Vec::new(),
    };
    let recorded = [
        (question("guard", json!("abstain")), "abstain".to_owned()),
        (question("gone", json!("abstain")), "abstain".to_owned()),
    ];
    let tried = set.to_try(None).unwrap().ask_again(&recorded);
    assert_eq!(tried.steps.len(), 1);
    let said = &tried.steps[0];
    assert_eq!((said.verdict, said.code.as_deref()), ("deny", Some("no")));
    assert_eq!(said.before, Some(Before { verdict: "abstain".to_owned(), is_same: false }));
    assert_eq!(tried.gone, [BindingName::parse("gone").unwrap()]);
    assert_eq!((tried.end.passes, tried.end.check), (false, "deny"));
    assert_untouched(&set);
}
