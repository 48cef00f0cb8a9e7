//! Every hook and every action, through the table of cases; and what a table cannot say.

use policy_cel::Cel;
use portcullis_guest_sdk::serde_json::{self, Value, json};
use portcullis_guest_sdk::testing;
use portcullis_guest_sdk::{Hook, Module, Policy, Problem, SelfTests};

const CASES: &str = include_str!("../cases.json");

#[expect(clippy::needless_pass_by_value, reason = "reads better where `json!` is written")]
fn configured(config: Value) -> Result<Cel, Vec<Problem>> {
    testing::configure::<Cel>(&config)
}

#[test]
fn every_case_holds() {
    testing::cases::<Cel>(CASES);
    testing::cases::<Cel>(Cel::CASES);
}

#[test]
fn every_hook_has_a_case() {
    let cases: Vec<Value> = serde_json::from_str(CASES).unwrap();
    for hook in Hook::ALL {
        assert!(Cel::HOOKS.contains(&hook), "{} is exported", hook.as_str());
        assert!(cases.iter().any(|case| case["hook"] == hook.as_str()), "{} has a case", hook.as_str());
    }
}

#[test]
fn the_manifest_is_in_order_and_the_sample_is_accepted() {
    let info = testing::manifest::<Cel>();
    let schema: Value = serde_json::from_str(&info.config_schema).unwrap();
    assert_eq!(schema["additionalProperties"], false);
    let sample: Value = serde_json::from_str(&info.sample_config).unwrap();
    assert!(configured(sample).unwrap().warnings().is_empty());
}

#[test]
fn mistakes_are_told_with_rule_line_and_column() {
    let problems = configured(json!({"rules": [
        {"hook": "tool-call", "if": "caller.kind == 'agent' &&\n  callr.kind == 'x'", "then": "deny"},
        {"hook": "tool-call", "then": "deny", "message": "a\n{{ args.id + }}"},
    ]}));
    let Err(problems) = problems else { panic!("the configuration is refused") };
    let told: Vec<_> = problems.iter().map(|problem| format!("{}: {}", problem.path, problem.message)).collect();
    assert_eq!(
        told,
        [
            "/rules/0/if: line 2, column 3: there is no variable `callr` in the hook tool-call, only args, caller, context, hints, jwt, mcp, now, request, tool",
            "/rules/1/message: line 2, column 14: mismatched input '<EOF>' expecting expression",
        ]
    );
}

#[test]
fn a_rule_that_is_broken_is_told_in_the_log_without_its_values() {
    let cel =
        configured(json!({"rules": [{"name": "limit", "hook": "tool-call", "if": "args.a > 1", "then": "deny"}]}))
            .unwrap();
    testing::logged();
    cel.ask(Hook::ToolCall, json!({"request": {"arguments": {"a": "very secret"}}})).unwrap();
    let lines = testing::logged();
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0].1, "rule limit cannot be evaluated: `>` is not made for (string, int)");
}

#[test]
fn rules_that_never_apply_are_warned_of() {
    let warnings = |rules: Value| configured(json!({ "rules": rules })).unwrap().warnings();
    let all = json!({"name": "all", "hook": ["tool-call", "list-tools"], "then": "allow"});
    let one = json!({"name": "one", "hook": "tool-call", "if": "hints.changed", "then": "deny"});
    let redact = json!({"name": "redact", "hook": "tool-result", "then": "redact", "patterns": ["a"]});
    assert_eq!(warnings(json!([])), ["there are no rules"]);
    assert_eq!(warnings(json!([all, one])), ["rule all always matches, so that one never applies"]);
    assert!(warnings(json!([one, all])).is_empty());
    assert!(warnings(json!([redact, redact])).is_empty(), "redactions add up");
}

#[test]
fn too_many_rules_are_refused() {
    let rule = json!({"hook": "tool-call", "then": "abstain"});
    let rules = |count: usize| json!({"rules": vec![rule.clone(); count]});
    assert!(configured(rules(500)).is_ok());
    let Err(problems) = configured(rules(501)) else { panic!("the configuration is refused") };
    assert_eq!(problems[0].path, "/rules");
}

#[test]
fn the_examples_of_the_readme_are_accepted() {
    let examples: Vec<&str> = include_str!("../README.md").split("```toml\n").skip(1).collect();
    assert!(examples.len() >= 6);
    for example in examples {
        let text = example.split("```").next().unwrap();
        let example: Value = toml::from_str(text).unwrap_or_else(|error| panic!("{text}\n{error}"));
        let config = example.pointer("/policies/config").or_else(|| example.pointer("/policies/0/config"));
        let problems = configured(config.unwrap().clone()).err();
        assert!(problems.is_none(), "{text}\n{problems:?}");
    }
}
