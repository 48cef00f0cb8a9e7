//! The functions that expressions can call: CEL's standard library, its string extension, `matches` and `glob`.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use cel::common::types::{CelBool, CelString, STRING_TYPE};
use cel::common::value::CowVal;
use cel::{Env, ExecutionError, extensions};
use policy_scripted::Pattern;
use portcullis_guest_sdk::Glob;

/// Functions that are called as `name(…)`.
pub(crate) const GLOBAL: &[&str] = &[
    "bool",
    "bytes",
    "double",
    "dyn",
    "int",
    "matches",
    "optional.none",
    "optional.of",
    "optional.ofNonZeroValue",
    "size",
    "string",
    "strings.quote",
    "type",
    "uint",
];

/// Functions that are called on a value, as `value.name(…)`.
pub(crate) const MEMBER: &[&str] = &[
    "charAt",
    "contains",
    "endsWith",
    "format",
    "glob",
    "hasValue",
    "indexOf",
    "join",
    "lastIndexOf",
    "lowerAscii",
    "matches",
    "or",
    "orValue",
    "replace",
    "reverse",
    "size",
    "split",
    "startsWith",
    "substring",
    "trim",
    "upperAscii",
    "value",
];

/// Most patterns that are kept compiled.
const MAX_PATTERNS: usize = 1024;

thread_local! {
    // Patterns that stand in expressions, compiled when those are parsed: overloads are plain functions and have no other
    // place to find them.
    static PATTERNS: RefCell<HashMap<String, Pattern>> = RefCell::new(HashMap::new());
}

/// What expressions are parsed and evaluated with.
pub(crate) fn env() -> Arc<Env> {
    let mut env = Env::stdlib();
    let added = extensions::strings(&mut env)
        .and_then(|()| env.add_overload("matches", "matches", vec![STRING_TYPE, STRING_TYPE], matches))
        .and_then(|()| env.add_member_overload("matches", "string.matches", STRING_TYPE, vec![STRING_TYPE], matches))
        .and_then(|()| env.add_member_overload("glob", "string.glob", STRING_TYPE, vec![STRING_TYPE], glob));
    added.expect("names that the library does not have itself");
    Arc::new(env)
}

/// Compiles a pattern that stands in an expression, once for all decisions.
pub(crate) fn keep_pattern(pattern: &str) -> Result<(), String> {
    PATTERNS.with_borrow_mut(|kept| {
        if !kept.contains_key(pattern) {
            let compiled = Pattern::new(pattern)?;
            if kept.len() < MAX_PATTERNS {
                kept.insert(pattern.to_owned(), compiled);
            }
        }
        Ok(())
    })
}

#[expect(clippy::needless_pass_by_value, reason = "the form of an overload")]
fn matches<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let [text, pattern] = strings("matches", &arguments)?;
    let kept = PATTERNS.with_borrow(|kept| kept.get(pattern).map(|pattern| pattern.is_match(text)));
    let found = match kept {
        Some(found) => found,
        None => Pattern::new(pattern).map_err(|error| ExecutionError::function_error("matches", error))?.is_match(text),
    };
    Ok(CowVal::owned(CelBool::from(found)))
}

#[expect(clippy::needless_pass_by_value, reason = "the form of an overload")]
fn glob<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let [text, pattern] = strings("glob", &arguments)?;
    let pattern = Glob::parse(pattern)
        .ok_or_else(|| ExecutionError::function_error("glob", format!("a pattern has 1 to {} bytes", Glob::MAX_LEN)))?;
    Ok(CowVal::owned(CelBool::from(pattern.matches(text))))
}

/// Both arguments, which the overload's signature says are strings.
fn strings<'a>(function: &str, arguments: &'a [CowVal<'_, '_>]) -> Result<[&'a str; 2], ExecutionError> {
    let string = |at: usize| arguments.get(at).and_then(|value| value.downcast_ref::<CelString<'_>>());
    match (string(0), string(1)) {
        (Some(first), Some(second)) => Ok([first.inner(), second.inner()]),
        _ => Err(ExecutionError::function_error(function, "two strings are wanted")),
    }
}

#[cfg(test)]
mod tests {
    use cel::{Context, Program, Value};

    use super::*;

    fn evaluated(expression: &str) -> Result<Value, ExecutionError> {
        let program = Program::compile(expression).unwrap_or_else(|error| panic!("{expression}: {error}"));
        program.execute(&Context::with_env(env()))
    }

    #[test]
    fn every_function_that_is_named_here_exists() {
        for name in GLOBAL {
            let error = evaluated(&format!("{name}([1], [2], [3], [4])")).unwrap_err();
            assert!(!matches!(error, ExecutionError::UndeclaredReference(_)), "{name}: {error}");
        }
        for name in MEMBER {
            let error = evaluated(&format!("dyn(1).{name}([1], [2], [3], [4])")).unwrap_err();
            assert!(!matches!(error, ExecutionError::UndeclaredReference(_)), "{name}: {error}");
        }
    }

    #[test]
    fn texts_match_patterns() {
        for (expression, expected) in [
            ("'delete_note'.matches('^(delete|drop)_')", true),
            ("matches('undelete', '^delete')", false),
            ("'a'.matches('[' + 'ab]')", true),
            ("'delete_note'.glob('delete_*')", true),
            ("'undelete'.glob('delete*')", false),
            ("'TacoCat'.lowerAscii() == 'tacocat'", true),
        ] {
            assert_eq!(evaluated(expression), Ok(Value::Bool(expected)), "{expression}");
        }
        assert!(evaluated("'a'.matches('(')").is_err());
        assert!(evaluated("'a'.glob('')").is_err());
    }
}
