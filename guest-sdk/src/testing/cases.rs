//! Tables of cases, in the one format that native tests, `portcullis policy test`, self-tests and operators' fixtures share.

use serde::Deserialize;
use serde_json::Value;

use crate::{Hook, Module, json};

use super::{configure, reset};

/// One case. It says either what a hook must answer or where the configuration must be refused.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    #[serde(default = "empty_object")]
    config: Value,
    #[serde(default)]
    hook: Option<Hook>,
    #[serde(default)]
    input: Option<Value>,
    #[serde(default)]
    expect: Option<Value>,
    #[serde(default)]
    refused: Option<Vec<String>>,
}

fn empty_object() -> Value {
    Value::Object(serde_json::Map::new())
}

/// Runs every case of a cases file: a JSON list of
/// `{"name": "…", "config": {…}, "hook": "tool-call", "input": {…}, "expect": …}`.
///
/// `input` holds the hook's parameters, `context` and [`Hook::parameter`]; what is left out has a harmless value. `expect`
/// matches if everything that is written there is in the answer: objects may have more members, lists have the same length
/// and match one by one, all else is equal. In place of `expect`, `"refused": ["/rules/0/tools"]` says that `configure`
/// refuses the configuration, with problems at these pointers at least. What the host's functions remember is forgotten
/// before each case.
///
/// # Panics
/// With everything that is not as a case says, or if the text is no cases file or an empty one.
#[track_caller]
pub fn cases<P: Module>(text: &str) {
    let cases: Vec<Case> = serde_json::from_str(text).unwrap_or_else(|error| panic!("this is no cases file: {error}"));
    assert!(!cases.is_empty(), "there is no case");
    let failed: Vec<String> = cases
        .iter()
        .filter_map(|case| run::<P>(case).err().map(|error| format!("\n- {}: {error}", case.name)))
        .collect();
    assert!(failed.is_empty(), "{} of {} cases failed:{}", failed.len(), cases.len(), failed.concat());
}

fn run<P: Module>(case: &Case) -> Result<(), String> {
    reset();
    let configured = configure::<P>(&case.config);
    match (&case.expect, &case.refused) {
        (Some(expected), None) => {
            let policy = configured.map_err(|problems| format!("the configuration is refused: {problems:?}"))?;
            let hook = case.hook.ok_or("a case with `expect` names its `hook`")?;
            let answer = policy.ask(hook, case.input.clone().unwrap_or_else(empty_object))?;
            matches(expected, &answer, "").map_err(|difference| format!("{difference}\n  the answer was {answer}"))
        }
        (None, Some(_)) if case.hook.is_some() || case.input.is_some() => {
            Err("a configuration that is refused is asked nothing: leave `hook` and `input` out".to_owned())
        }
        (None, Some(pointers)) => {
            let Err(problems) = configured else { return Err("the configuration is accepted".to_owned()) };
            let missing: Vec<_> =
                pointers.iter().filter(|at| problems.iter().all(|problem| problem.path != **at)).collect();
            if missing.is_empty() {
                return Ok(());
            }
            Err(format!("there is no problem at {missing:?}, only {problems:?}"))
        }
        _ => Err("a case has either `expect` or `refused`".to_owned()),
    }
}

/// Whether everything of `expected` is in `actual`, or where it is not.
fn matches(expected: &Value, actual: &Value, at: &str) -> Result<(), String> {
    let below = |token: &str| {
        let mut pointer = at.to_owned();
        json::push_token(&mut pointer, token);
        pointer
    };
    match (expected, actual) {
        (Value::Object(expected), Value::Object(actual)) => expected.iter().try_for_each(|(name, value)| {
            let found = actual.get(name).ok_or_else(|| format!("there is nothing at {:?}", below(name)))?;
            matches(value, found, &below(name))
        }),
        (Value::Array(expected), Value::Array(actual)) if expected.len() == actual.len() => {
            let mut pairs = expected.iter().zip(actual).enumerate();
            pairs.try_for_each(|(index, (value, found))| matches(value, found, &below(&index.to_string())))
        }
        _ if expected == actual => Ok(()),
        _ => Err(format!("at {at:?}, {expected} was expected, and {actual} was answered")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_answer_may_have_more_members_than_expected_and_nothing_else() {
        for (expected, actual, fits) in [
            (json!({"a": 1}), json!({"a": 1, "b": 2}), true),
            (json!({"a": {"b": []}}), json!({"a": {"b": [], "c": 1}}), true),
            (json!([{"a": 1}, 2]), json!([{"a": 1, "b": 2}, 2]), true),
            (json!({"a": 1, "b": 2}), json!({"a": 1}), false),
            (json!([1]), json!([1, 2]), false),
            (json!([1, 2]), json!([2, 1]), false),
            (json!({"a": null}), json!({}), false),
            (json!("allow"), json!({"allow": {}}), false),
            (json!(1), json!("1"), false),
        ] {
            assert_eq!(matches(&expected, &actual, "").is_ok(), fits, "{expected} in {actual}");
        }
        assert_eq!(
            matches(&json!({"a/b": [1, 2]}), &json!({"a/b": [1, 3]}), ""),
            Err("at \"/a~1b/1\", 2 was expected, and 3 was answered".to_owned())
        );
    }
}
