//! Cases: what a policy should answer to what, in one format for module authors and operators. Pure.
//!
//! A file of cases is a JSON list of `{"name", "config", "hook", "input", "expect"}`. The same file drives
//! `portcullis policy test`, a binding's `tests` and native tests through the SDK; a module's own `self-tests` are
//! the same records. In place of `expect`, `"refused": ["/pointer"]` says that the schema or `configure` must refuse
//! `config` with a problem at each of these pointers.
//!
//! An answer is as expected if everything that is written down is in it: objects may have more members than that,
//! lists have the same length and match one by one, all else is equal.

use std::fmt;

use serde::Deserialize;
use serde_json::Value;

use super::contract::hook::Hook;
use super::text::{cut, one_line};

/// Largest file of cases.
pub const MAX_CASES_BYTES: usize = 4 << 20;
/// Most cases of one file or module.
pub const MAX_CASES: usize = 4096;
/// Most differences that are told of one answer.
const MAX_DIFFERENCES: usize = 8;
/// Longest value that is quoted in a difference.
const MAX_QUOTE_BYTES: usize = 240;
/// Longest name of a case that is shown.
const MAX_NAME_BYTES: usize = 256;

/// One case.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    pub name: String,
    /// The configuration under test. `None`: the one that the case is tried with.
    pub config: Option<Value>,
    pub expected: Expected,
}

/// What should happen.
#[derive(Clone, Debug, PartialEq)]
pub enum Expected {
    /// The hook answers this to that.
    Answer {
        hook: Hook,
        /// An object with `context` and the hook's other parameter.
        input: Value,
        answer: Value,
    },
    /// The configuration is refused, by its schema or by `configure`, with a problem at each of these pointers.
    Refused { pointers: Vec<String> },
}

/// Why a text is no list of cases.
#[derive(Debug, thiserror::Error)]
pub enum CasesError {
    #[error("the cases have {bytes} bytes, more than {MAX_CASES_BYTES}")]
    TooLarge { bytes: usize },
    #[error("the cases are not a JSON list: {0}")]
    NotAList(serde_json::Error),
    #[error("there are {count} cases, more than {MAX_CASES}")]
    TooMany { count: usize },
    #[error("there is no case")]
    None,
    #[error("case {number} ({name}): {problem}")]
    Wrong { number: usize, name: String, problem: String },
}

/// A case as the file has it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: String,
    #[serde(default)]
    config: Option<Value>,
    #[serde(default)]
    hook: Option<String>,
    #[serde(default)]
    input: Option<Value>,
    #[serde(default)]
    expect: Option<Value>,
    #[serde(default)]
    refused: Option<Vec<String>>,
}

/// Reads a file of cases.
pub fn parse(text: &[u8]) -> Result<Vec<Case>, CasesError> {
    if text.len() > MAX_CASES_BYTES {
        return Err(CasesError::TooLarge { bytes: text.len() });
    }
    let written: Vec<Value> = serde_json::from_slice(text).map_err(CasesError::NotAList)?;
    if written.is_empty() {
        return Err(CasesError::None);
    }
    if written.len() > MAX_CASES {
        return Err(CasesError::TooMany { count: written.len() });
    }
    let one = |(at, value): (usize, Value)| {
        let name = value["name"].as_str().map_or_else(|| "without a name".to_owned(), told);
        case(value).map_err(|problem| CasesError::Wrong { number: at + 1, name, problem })
    };
    written.into_iter().enumerate().map(one).collect()
}

fn case(value: Value) -> Result<Case, String> {
    let Written { name, config, hook, input, expect, refused } =
        serde_json::from_value(value).map_err(|error| error.to_string())?;
    if config.as_ref().is_some_and(|config| !config.is_object()) {
        return Err("its config is not an object".to_owned());
    }
    let expected = match (expect, refused) {
        (Some(answer), None) => {
            let hook = hook.ok_or("it names no hook")?;
            let hook = Hook::parse(&hook).ok_or_else(|| format!("there is no hook {hook:?}; {}", known_hooks()))?;
            Expected::Answer { hook, input: input.unwrap_or_else(|| Value::Object(serde_json::Map::new())), answer }
        }
        (None, Some(pointers)) => {
            if hook.is_some() || input.is_some() {
                return Err("a configuration that is refused is asked nothing: leave hook and input out".to_owned());
            }
            if config.is_none() {
                return Err("it says refused, but of no config".to_owned());
            }
            Expected::Refused { pointers }
        }
        (Some(_), Some(_)) => return Err("it has both expect and refused; keep one".to_owned()),
        (None, None) => return Err("it says neither what to expect nor what is refused".to_owned()),
    };
    Ok(Case { name: told(&name), config, expected })
}

/// The names of hooks, in words.
pub(super) fn known_hooks() -> String {
    let names: Vec<&str> = Hook::ALL.iter().map(|hook| hook.as_str()).collect();
    format!("there are {}", names.join(", "))
}

fn told(name: &str) -> String {
    one_line(name, MAX_NAME_BYTES)
}

/// One place where an answer is not as expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// RFC 6901 pointer into the answer.
    pub pointer: String,
    /// JSON, or words where that says more.
    pub expected: String,
    pub found: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pointer, expected, found } = self;
        let place = if pointer.is_empty() { "the answer" } else { pointer };
        write!(f, "{place}: expected {expected}, found {found}")
    }
}

/// Where `found` lacks something of `expected`, in the order of what is expected. Empty if it is all there.
pub fn differences(expected: &Value, found: &Value) -> Vec<Difference> {
    let mut differences = Vec::new();
    compare(expected, Some(found), &mut String::new(), &mut differences);
    differences
}

fn compare(expected: &Value, found: Option<&Value>, pointer: &mut String, differences: &mut Vec<Difference>) {
    if differences.len() == MAX_DIFFERENCES {
        return;
    }
    let mut differ = |expected: String, found: String| {
        differences.push(Difference { pointer: pointer.clone(), expected, found });
    };
    match (expected, found) {
        // What is absent is null, as an option that is left out.
        (Value::Null, None) => {}
        (_, None) => differ(quote(expected), "nothing".to_owned()),
        (Value::Object(members), Some(Value::Object(others))) => {
            for (name, member) in members {
                let parent = pointer.len();
                pointer.push('/');
                pointer.push_str(&name.replace('~', "~0").replace('/', "~1"));
                compare(member, others.get(name), pointer, differences);
                pointer.truncate(parent);
            }
        }
        (Value::Array(items), Some(Value::Array(others))) => {
            if items.len() != others.len() {
                let found = format!("one of {}: {}", others.len(), quote(&Value::Array(others.clone())));
                return differ(format!("a list of {}", items.len()), found);
            }
            for (at, (item, other)) in items.iter().zip(others).enumerate() {
                let parent = pointer.len();
                pointer.push_str(&format!("/{at}"));
                compare(item, Some(other), pointer, differences);
                pointer.truncate(parent);
            }
        }
        (Value::Number(one), Some(Value::Number(other))) if one != other && one.as_f64() == other.as_f64() => {
            // 1 and 1.0 are one number; whole numbers beyond what a float tells apart are not.
            if !(one.is_f64() || other.is_f64()) {
                differ(quote(expected), other.to_string());
            }
        }
        (expected, Some(found)) if expected == found => {}
        (expected, Some(found)) => differ(quote(expected), quote(found)),
    }
}

/// A value as JSON, cut short where it is long.
fn quote(value: &Value) -> String {
    let text = value.to_string();
    if text.len() <= MAX_QUOTE_BYTES { text } else { format!("{}…", cut(&text, MAX_QUOTE_BYTES)) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parsed(value: &Value) -> Result<Vec<Case>, String> {
        parse(value.to_string().as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_file_of_cases_is_read() {
        let cases = parsed(&json!([
            { "name": "a", "config": { "x": 1 }, "hook": "tool-call", "input": { "request": {} }, "expect": "abstain" },
            { "name": "b", "hook": "list-items", "expect": [] },
            { "name": "c", "config": {}, "refused": ["/rules"] },
        ]))
        .unwrap();
        assert_eq!(cases.len(), 3);
        assert_eq!(
            cases[0].expected,
            Expected::Answer { hook: Hook::ToolCall, input: json!({ "request": {} }), answer: json!("abstain") }
        );
        assert_eq!((&cases[1].config, &cases[0].config), (&None, &Some(json!({ "x": 1 }))));
        assert_eq!(cases[2].expected, Expected::Refused { pointers: vec!["/rules".to_owned()] });
    }

    #[test]
    fn what_is_no_case_is_refused_with_its_number_and_name() {
        for (wrong, told) in [
            (json!({ "name": "a", "hook": "tool-call" }), "case 2 (a): it says neither"),
            (json!({ "name": "a", "hook": "tool-cal", "expect": 1 }), "no hook \"tool-cal\"; there are grant,"),
            (json!({ "name": "a", "expect": 1 }), "it names no hook"),
            (json!({ "hook": "tool-call", "expect": 1 }), "case 2 (without a name): missing field `name`"),
            (json!({ "name": "a", "hook": "tool-call", "expects": 1 }), "unknown field `expects`"),
            (json!({ "name": "a", "hook": "tool-call", "expect": 1, "refused": [] }), "both expect and refused"),
            (json!({ "name": "a", "refused": [] }), "of no config"),
            (json!({ "name": "a", "config": {}, "hook": "tool-call", "refused": [] }), "asked nothing"),
            (json!({ "name": "a", "config": [], "refused": [] }), "not an object"),
            (json!("a"), "case 2 (without a name)"),
        ] {
            let good = json!({ "name": "good", "hook": "tool-call", "expect": "abstain" });
            let error = parsed(&json!([good, wrong])).unwrap_err();
            assert!(error.contains(told), "{told:?} is not in {error:?}");
        }
        assert!(matches!(parse(b"{}"), Err(CasesError::NotAList(_))));
        assert!(matches!(parse(b"[]"), Err(CasesError::None)));
        assert!(matches!(parse(&vec![b' '; MAX_CASES_BYTES + 1]), Err(CasesError::TooLarge { .. })));
    }

    #[test]
    fn more_than_is_expected_may_be_there_and_not_less() {
        for (expected, found) in [
            (json!("abstain"), json!("abstain")),
            (json!({ "allow": {} }), json!({ "allow": { "notes": [], "rewrite": "keep" } })),
            (json!({ "a": null }), json!({})),
            (json!({ "a": null }), json!({ "a": null })),
            (json!([{}, 1]), json!([{ "a": 1 }, 1])),
            (json!(1), json!(1.0)),
        ] {
            assert_eq!(differences(&expected, &found), [], "{expected} in {found}");
        }
    }

    #[test]
    fn a_difference_says_where_and_what() {
        for (expected, found, told) in [
            (json!("abstain"), json!({ "allow": {} }), r#"the answer: expected "abstain", found {"allow":{}}"#),
            (
                json!({ "deny": { "reason": { "code": "a" } } }),
                json!({ "deny": { "reason": { "code": "b" } } }),
                r#"/deny/reason/code: expected "a", found "b""#,
            ),
            (json!({ "deny": {} }), json!({ "allow": {} }), "/deny: expected {}, found nothing"),
            (json!({ "a/b": { "~": 1 } }), json!({ "a/b": { "~": 2 } }), "/a~1b/~0: expected 1, found 2"),
            (json!(["show", "hide"]), json!(["show"]), r#"the answer: expected a list of 2, found one of 1: ["show"]"#),
            (json!(["show", "hide"]), json!(["show", "show"]), r#"/1: expected "hide", found "show""#),
            (json!({ "a": null }), json!({ "a": 0 }), "/a: expected null, found 0"),
            (
                json!(u64::MAX),
                json!(u64::MAX - 1),
                "the answer: expected 18446744073709551615, found 18446744073709551614",
            ),
        ] {
            let differences = differences(&expected, &found);
            assert_eq!(differences.iter().map(ToString::to_string).collect::<Vec<_>>(), [told]);
        }
    }

    #[test]
    fn the_report_stays_short() {
        let many: Vec<Value> = (0..100).map(|_| json!("x".repeat(1000))).collect();
        let none: Vec<Value> = (0..100).map(|_| json!("y".repeat(1000))).collect();
        let differences = differences(&json!(many), &json!(none));
        assert_eq!(differences.len(), MAX_DIFFERENCES);
        assert!(differences.iter().all(|one| one.expected.len() < 2 * MAX_QUOTE_BYTES));
    }
}
