//! Walking JSON documents, with RFC 6901 pointers to what is found.

use serde_json::Value;

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
}
