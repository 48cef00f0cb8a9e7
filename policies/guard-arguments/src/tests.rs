//! What the cases cannot show: that edits lead where they should, and what the whole does to long and odd input.

use portcullis_guest_sdk::Rewrite;
use portcullis_guest_sdk::testing::{call, cases, configure, context, manifest, tool};

use super::*;

#[test]
fn the_cases_hold() {
    cases::<GuardArguments>(CASES);
}

#[test]
fn the_manifest_is_as_the_host_wants_it() {
    let info = manifest::<GuardArguments>();
    assert_eq!(info.mutates, [Hook::ToolCall]);
}

#[expect(clippy::needless_pass_by_value, reason = "reads better where `json!` is written")]
fn policy(conditions: Value) -> GuardArguments {
    let config = json!({ "rules": [{ "arguments": conditions }] });
    configure(&config).unwrap_or_else(|problems: Vec<Problem>| panic!("{problems:?}"))
}

/// What is left of the arguments, or the check that refused them.
fn left(policy: &GuardArguments, arguments: &Value) -> Result<Value, String> {
    match policy.before(&context(), &call(tool("notes", "add"), arguments)) {
        Verdict::Abstain => Ok(arguments.clone()),
        Verdict::Allow(Permit { rewrite: Rewrite::Patch(edits), .. }) => {
            let mut left = arguments.clone();
            edits.iter().for_each(|edit| pointers::apply(&mut left, edit).unwrap());
            Ok(left)
        }
        Verdict::Deny(denial) => Err(denial.reason.code),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_removed_from_a_list_does_not_move_the_rest() {
    let policy = policy(json!([{ "at": "/urls/*", "host_in": ["example.com"], "action": "remove" }]));
    let arguments =
        json!({"urls": ["https://a.org/", "https://example.com/1", "http://b.org", 7, "https://example.com/2"]});
    let expected = json!({"urls": ["https://example.com/1", "https://example.com/2"]});
    assert_eq!(left(&policy, &arguments), Ok(expected));
}

#[test]
fn each_condition_sees_what_the_ones_before_it_left() {
    let policy = policy(json!([
        { "at": "/limit", "required": true, "action": "set", "value": 1000 },
        { "at": "/limit", "type": "integer", "max": 100, "action": "clamp" },
        { "at": "/limit", "one_of": [100] },
    ]));
    assert_eq!(left(&policy, &json!({})), Ok(json!({"limit": 100})));
    assert_eq!(left(&policy, &json!({"limit": 100})), Ok(json!({"limit": 100})));
    assert_eq!(left(&policy, &json!({"limit": 5})), Err("guard-arguments.one_of".to_owned()));
    assert_eq!(left(&policy, &json!({"limit": "5"})), Err("guard-arguments.type".to_owned()), "a text is not clamped");
}

#[test]
fn a_default_reaches_a_call_without_arguments() {
    let policy = policy(json!([{ "at": "/dry_run", "required": true, "action": "set", "value": true }]));
    let mut without = call(tool("notes", "purge"), &json!({}));
    without.arguments = None;
    let Verdict::Allow(permit) = policy.before(&context(), &without) else { panic!("it is put right") };
    assert_eq!(permit.rewrite, Rewrite::Replace(r#"{"dry_run":true}"#.to_owned()));
}

#[test]
fn a_default_that_has_no_parent_refuses() {
    let policy = policy(json!([{ "at": "/options/force", "required": true, "action": "set", "value": false }]));
    assert_eq!(left(&policy, &json!({"options": {}})), Ok(json!({"options": {"force": false}})));
    assert_eq!(left(&policy, &json!({})), Err("guard-arguments.edit".to_owned()));
    assert_eq!(left(&policy, &json!({"options": "x"})), Err("guard-arguments.edit".to_owned()));
}

#[test]
fn more_changes_than_a_call_may_have_refuse_it() {
    let policy = policy(json!([{ "at": "/ids/*", "max": 9, "action": "clamp" }]));
    assert_eq!(left(&policy, &json!({"ids": vec![10; MAX_EDITS]})), Ok(json!({"ids": vec![9; MAX_EDITS]})));
    assert_eq!(left(&policy, &json!({"ids": vec![10; MAX_EDITS + 1]})), Err("guard-arguments.edit".to_owned()));
}

#[test]
fn a_refusal_never_shows_the_value() {
    let policy = policy(json!([{ "at": "/key", "not_pattern": "sk-" }, { "at": "/to", "one_of": ["a", "b"] }]));
    for (arguments, message) in [
        (json!({"key": "sk-secret"}), "The argument /key holds something that is not allowed."),
        (json!({"to": "secret"}), "The argument /to must be one of \"a\", \"b\"."),
    ] {
        let Verdict::Deny(denial) = policy.before(&context(), &call(tool("n", "t"), &arguments)) else {
            panic!("denied")
        };
        assert_eq!(denial.reason.message, message);
        assert!(!format!("{denial:?}").contains("secret"));
    }
}
