//! JSON documents and RFC 6901 pointers: walking a document, taking pointers apart, applying edits as the host does.

use serde_json::Value;

use crate::{Edit, EditOp};

/// A piece of text in a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Text<'a> {
    /// The name of an object's member. The pointer points at the member's value.
    Name(&'a str),
    /// A string value.
    Value(&'a str),
}

/// What to do after a name. After a value it makes no difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Visit the member's value too.
    GoOn,
    /// Leave the member's value out.
    Skip,
}

/// Calls `visit` with every member name and every string of the document, in order, and a pointer to each.
///
/// The depth is bounded by what `serde_json` parses (128 levels).
pub fn walk(document: &Value, visit: &mut dyn FnMut(&str, Text<'_>) -> Then) {
    descend(document, &mut String::new(), visit);
}

fn descend(value: &Value, pointer: &mut String, visit: &mut dyn FnMut(&str, Text<'_>) -> Then) {
    let length = pointer.len();
    match value {
        Value::String(text) => {
            visit(pointer, Text::Value(text));
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                push_token(pointer, &index.to_string());
                descend(item, pointer, visit);
                pointer.truncate(length);
            }
        }
        Value::Object(members) => {
            for (name, member) in members {
                push_token(pointer, name);
                if visit(pointer, Text::Name(name)) == Then::GoOn {
                    descend(member, pointer, visit);
                }
                pointer.truncate(length);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Appends one reference token to a pointer, escaped as RFC 6901 §3 says.
pub fn push_token(pointer: &mut String, token: &str) {
    pointer.push('/');
    for character in token.chars() {
        match character {
            '~' => pointer.push_str("~0"),
            '/' => pointer.push_str("~1"),
            other => pointer.push(other),
        }
    }
}

/// The pointer that these reference tokens make.
pub fn pointer(tokens: impl IntoIterator<Item = impl AsRef<str>>) -> String {
    tokens.into_iter().fold(String::new(), |mut pointer, token| {
        push_token(&mut pointer, token.as_ref());
        pointer
    })
}

/// The reference tokens of a pointer, unescaped; `None` if it is none (RFC 6901 §3).
pub fn tokens(pointer: &str) -> Option<Vec<String>> {
    let Some(rest) = pointer.strip_prefix('/') else { return pointer.is_empty().then(Vec::new) };
    let unescaped = |token: &str| {
        let valid = token.split('~').skip(1).all(|after| after.starts_with(['0', '1']));
        valid.then(|| token.replace("~1", "/").replace("~0", "~"))
    };
    rest.split('/').map(unescaped).collect()
}

/// Changes the document as the host does when it applies the edit.
///
/// # Errors
/// Why the edit does not fit the document. The host refuses the answer that such an edit is part of.
pub fn apply(document: &mut Value, edit: &Edit) -> Result<(), &'static str> {
    const NOTHING: &str = "the pointer leads nowhere";
    let mut tokens = tokens(&edit.pointer).ok_or("it is not a JSON pointer")?;
    let value = match &edit.op {
        EditOp::Set(text) => Some(serde_json::from_str(text).map_err(|_| "the value is not JSON")?),
        EditOp::Mask(text) => match document.pointer(&edit.pointer).ok_or(NOTHING)? {
            Value::String(_) => Some(Value::String(text.clone())),
            _ => return Err("the value is not a string that can be masked"),
        },
        EditOp::Remove => None,
    };
    let Some(last) = tokens.pop() else {
        *document = value.ok_or("a document cannot be removed from itself")?;
        return Ok(());
    };
    let parent = document.pointer_mut(&pointer(tokens)).ok_or(NOTHING)?;
    match (parent, value) {
        (Value::Object(members), Some(value)) => {
            members.insert(last, value);
        }
        (Value::Object(members), None) => {
            members.remove(&last).ok_or(NOTHING)?;
        }
        (Value::Array(items), Some(value)) if last == "-" => items.push(value),
        (Value::Array(items), value) => {
            let index = index(&last).filter(|index| *index < items.len()).ok_or(NOTHING)?;
            match value {
                Some(value) => items[index] = value,
                None => drop(items.remove(index)),
            }
        }
        _ => return Err(NOTHING),
    }
    Ok(())
}

/// A reference token as an index: digits without a leading zero.
fn index(token: &str) -> Option<usize> {
    let plain = token == "0" || (!token.starts_with('0') && token.bytes().all(|byte| byte.is_ascii_digit()));
    if plain { token.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_name_and_string_is_visited_with_a_pointer_that_leads_to_it() {
        let document = json!({"a": ["x", {"b/c": "y", "~": 1}], "skip": {"z": "hidden"}, "": "empty"});
        let mut seen = Vec::new();
        walk(&document, &mut |pointer, text| {
            assert!(document.pointer(pointer).is_some(), "{pointer}");
            seen.push((pointer.to_owned(), format!("{text:?}")));
            if text == Text::Name("skip") { Then::Skip } else { Then::GoOn }
        });
        seen.sort();
        let texts: Vec<_> = seen.iter().map(|(pointer, text)| format!("{pointer} {text}")).collect();
        assert_eq!(
            texts,
            [
                r#"/ Name("")"#,
                r#"/ Value("empty")"#,
                r#"/a Name("a")"#,
                r#"/a/0 Value("x")"#,
                r#"/a/1/b~1c Name("b/c")"#,
                r#"/a/1/b~1c Value("y")"#,
                r#"/a/1/~0 Name("~")"#,
                r#"/skip Name("skip")"#,
            ]
        );
    }

    #[test]
    fn a_pointer_is_taken_apart_and_put_together_again() {
        for (text, expected) in [
            ("", Some(vec![])),
            ("/", Some(vec![""])),
            ("/a/b~1c/~0/0", Some(vec!["a", "b/c", "~", "0"])),
            ("/a~01", Some(vec!["a~1"])),
            ("a", None),
            ("/a~", None),
            ("/a~2", None),
        ] {
            let found = tokens(text);
            assert_eq!(found, expected.map(|tokens| tokens.into_iter().map(str::to_owned).collect()), "{text:?}");
            if let Some(found) = found {
                assert_eq!(pointer(&found), text);
            }
        }
    }

    #[test]
    fn edits_are_applied_as_the_host_does() {
        let left = |edit: &Edit| {
            let mut document = json!({"a": {"b": 1}, "list": [1, 2, 3], "text": "x"});
            apply(&mut document, edit).map(|()| document)
        };
        for (edit, expected) in [
            (Edit::set("/a/c", &json!([])), json!({"a": {"b": 1, "c": []}, "list": [1, 2, 3], "text": "x"})),
            (Edit::set("/list/1", &json!(null)), json!({"a": {"b": 1}, "list": [1, null, 3], "text": "x"})),
            (Edit::set("/list/-", &json!(4)), json!({"a": {"b": 1}, "list": [1, 2, 3, 4], "text": "x"})),
            (Edit::remove("/list/0"), json!({"a": {"b": 1}, "list": [2, 3], "text": "x"})),
            (Edit::remove("/a"), json!({"list": [1, 2, 3], "text": "x"})),
            (Edit::mask("/text", "y"), json!({"a": {"b": 1}, "list": [1, 2, 3], "text": "y"})),
            (Edit::set("", &json!({})), json!({})),
        ] {
            assert_eq!(left(&edit), Ok(expected), "{edit:?}");
        }
        for wrong in [
            Edit::set("/b/c", &json!(1)),
            Edit::set("/list/3", &json!(1)),
            Edit::set("/list/01", &json!(1)),
            Edit::set("/text/0", &json!(1)),
            Edit::remove("/list/-"),
            Edit::remove("/b"),
            Edit::remove(""),
            Edit::mask("/a", "y"),
            Edit::mask("/b", "y"),
            Edit::set("a", &json!(1)),
        ] {
            assert!(left(&wrong).is_err(), "{wrong:?}");
        }
    }
}
