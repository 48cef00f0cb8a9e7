//! JSON as TOML writes it.

use serde_json::Value;

/// What becomes of null, which TOML does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Nulls {
    /// It is no part of its list or table.
    LeftOut,
    /// Nothing is written of what has one.
    Refused,
}

/// A value on one line. `None` where it is null, or has one that is refused.
pub(super) fn inline(value: &Value, nulls: Nulls) -> Option<String> {
    Some(match value {
        Value::Null => return None,
        Value::Bool(truth) => truth.to_string(),
        // What is a number in JSON is one in TOML, or a mistake of the line.
        Value::Number(number) => number.to_string(),
        Value::String(text) => quoted(text),
        Value::Array(items) => format!("[{}]", joined(items.iter().map(|item| inline(item, nulls)), nulls)?),
        Value::Object(members) => {
            let member = |(name, value): (&String, &Value)| {
                Some(format!("{} = {}", bare_or_quoted(name), inline(value, nulls)?))
            };
            format!("{{ {} }}", joined(members.iter().map(member), nulls)?)
        }
    })
}

fn joined(parts: impl Iterator<Item = Option<String>>, nulls: Nulls) -> Option<String> {
    let parts: Vec<String> = match nulls {
        Nulls::LeftOut => parts.flatten().collect(),
        Nulls::Refused => parts.collect::<Option<_>>()?,
    };
    Some(parts.join(", "))
}

/// A name, in quotes where it needs them.
pub(super) fn bare_or_quoted(name: &str) -> String {
    let is_bare = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if !name.is_empty() && name.bytes().all(is_bare) { name.to_owned() } else { quoted(name) }
}

/// A text in quotes. JSON and TOML escape alike, but for the one control character that JSON leaves as it is.
pub(super) fn quoted(text: &str) -> String {
    Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}
