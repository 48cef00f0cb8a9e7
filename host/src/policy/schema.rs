//! JSON Schema: what a document may look like, and in which words it does not. Pure.
//!
//! Schemas come from modules and upstreams, so that reading one is bounded: its size and depth, its patterns (by an
//! engine without backtracking), and nothing is ever fetched for a `$ref`. What is wrong is told by pointer and rule and
//! never with the document's values, which may be secrets.

use jsonschema::error::ValidationErrorKind;
use jsonschema::{PatternOptions, Retrieve, Uri, Validator};
use serde_json::Value;

use super::text::one_line;
use crate::mcp::json;

/// Largest schema.
pub(super) const MAX_SCHEMA_BYTES: usize = 1 << 20;
/// Largest compiled pattern.
const MAX_PATTERN_BYTES: usize = 1 << 20;
/// Most violations that are told of one document.
const MAX_VIOLATIONS: usize = 32;
const MAX_MESSAGE_BYTES: usize = 512;

/// A schema, ready to check documents.
#[derive(Debug)]
pub(super) struct Schema(Validator);

/// Why a text is no schema that can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum SchemaError {
    #[error("it has {bytes} bytes, more than {MAX_SCHEMA_BYTES}")]
    TooLarge { bytes: usize },
    #[error("it is not acceptable JSON")]
    NotJson,
    #[error("{0}")]
    Wrong(String),
}

/// One way in which a document does not fit its schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Violation {
    /// RFC 6901 pointer into the document.
    pub(super) pointer: String,
    /// Without values of the document.
    pub(super) message: String,
}

impl Schema {
    /// Reads a schema, of draft 2020-12 unless it says otherwise.
    pub(super) fn read(text: &str) -> Result<Self, SchemaError> {
        if text.len() > MAX_SCHEMA_BYTES {
            return Err(SchemaError::TooLarge { bytes: text.len() });
        }
        json::check(text.as_bytes()).map_err(|_| SchemaError::NotJson)?;
        let schema: Value = serde_json::from_str(text).map_err(|_| SchemaError::NotJson)?;
        let patterns = PatternOptions::regex().size_limit(MAX_PATTERN_BYTES).dfa_size_limit(MAX_PATTERN_BYTES);
        let options = jsonschema::options().with_retriever(NoRetrieval).with_pattern_options(patterns);
        options.build(&schema).map(Self).map_err(|error| {
            let place = error.instance_path().to_string();
            let told = if place.is_empty() { error.to_string() } else { format!("{place}: {error}") };
            SchemaError::Wrong(one_line(&told, MAX_MESSAGE_BYTES))
        })
    }

    /// How the document does not fit. Empty if it does.
    pub(super) fn violations(&self, document: &Value) -> Vec<Violation> {
        let violation = |error: jsonschema::ValidationError<'_>| {
            let pointer = error.instance_path().to_string();
            let message = match error.kind() {
                ValidationErrorKind::FalseSchema => nothing_allowed(document.pointer(&pointer)),
                _ => error.masked().to_string(),
            };
            Violation { message: one_line(&message, MAX_MESSAGE_BYTES), pointer }
        };
        self.0.iter_errors(document).take(MAX_VIOLATIONS).map(violation).collect()
    }
}

/// What is wrong where a schema admits nothing at all: usually members of an object that has none.
fn nothing_allowed(found: Option<&Value>) -> String {
    match found.and_then(Value::as_object) {
        Some(members) if !members.is_empty() => {
            let names: Vec<String> = members.keys().map(|name| format!("{name:?}")).collect();
            format!("nothing is allowed here, and there is {}", names.join(", "))
        }
        _ => "nothing is allowed here".to_owned(),
    }
}

/// A schema stands for itself.
struct NoRetrieval;

impl Retrieve for NoRetrieval {
    fn retrieve(&self, uri: &Uri<String>) -> Result<Value, Box<dyn std::error::Error + Send + Sync>> {
        Err(format!("{uri} is not part of the schema, and nothing is fetched").into())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(schema: &Value) -> Schema {
        Schema::read(&schema.to_string()).unwrap()
    }

    #[test]
    fn what_does_not_fit_is_told_by_place_and_rule() {
        let schema = read(&json!({
            "type": "object",
            "properties": {
                "rules": { "type": "array", "items": { "enum": ["allow", "deny"] } },
                "token": { "type": "string", "maxLength": 4 },
            },
            "additionalProperties": false,
        }));
        let fits = json!({ "rules": ["allow"] });
        assert!(schema.violations(&fits).is_empty());
        let document = json!({ "rules": ["allow", "hunter2"], "token": "hunter2", "extra": 1 });
        let violations = schema.violations(&document);
        let pointers: Vec<&str> = violations.iter().map(|violation| violation.pointer.as_str()).collect();
        for pointer in ["/rules/1", "/token", ""] {
            assert!(pointers.contains(&pointer), "{pointer:?} is not among {violations:?}");
        }
        assert!(violations.iter().any(|violation| violation.message.contains("extra")), "{violations:?}");
        assert!(violations.iter().all(|violation| !violation.message.contains("hunter2")), "{violations:?}");
    }

    #[test]
    fn where_nothing_is_allowed_it_is_said_what_there_is() {
        let schema = read(&json!({ "type": "object", "additionalProperties": false }));
        assert!(schema.violations(&json!({})).is_empty());
        let message = schema.violations(&json!({ "rules": 1, "otherwise": 2 })).remove(0).message;
        assert!(
            message.contains("\"otherwise\", \"rules\"") || message.contains("\"rules\", \"otherwise\""),
            "{message}"
        );
    }

    #[test]
    fn a_pattern_takes_no_longer_than_its_text() {
        let schema = read(&json!({ "pattern": "^(a+)+$" }));
        assert_eq!(schema.violations(&json!(format!("{}b", "a".repeat(10_000)))).len(), 1);
    }

    #[test]
    fn what_is_no_schema_is_refused() {
        for (text, part) in [
            ("{", "JSON"),
            (r#"{"type": "strin"}"#, "strin"),
            (r#"{"$ref": "https://example.com/schema.json"}"#, "nothing is fetched"),
            (r#"{"$ref": "file:///etc/passwd"}"#, "nothing is fetched"),
            (r#"{"pattern": "(unclosed"}"#, "/pattern: "),
            (r#"{"pattern": "(a)\\1"}"#, "/pattern: "),
        ] {
            let error = Schema::read(text).unwrap_err().to_string();
            assert!(error.to_lowercase().contains(&part.to_lowercase()), "{text}: {error}");
        }
        let error = Schema::read(&" ".repeat(MAX_SCHEMA_BYTES + 1)).unwrap_err();
        assert_eq!(error, SchemaError::TooLarge { bytes: MAX_SCHEMA_BYTES + 1 });
    }

    #[test]
    fn a_schema_that_refers_to_itself_ends() {
        let schema = read(&json!({ "properties": { "child": { "$ref": "#" } }, "required": ["id"] }));
        assert_eq!(schema.violations(&json!({ "id": 1, "child": { "child": { "id": 2 } } })).len(), 1);
        assert!(read(&json!({ "$ref": "#" })).violations(&json!(1)).is_empty());
    }
}
