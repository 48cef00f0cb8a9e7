//! Whether arguments that a policy rewrote still fit the tool's input schema.
//!
//! Schemas come from upstreams and are read when they are first needed; what came of that is kept for a while, by the
//! digest of the tool's definition. A schema that cannot be used refuses the rewrite, since nobody could tell whether
//! it fits.
//!
//! Checking is bounded: by the sizes of schema and arguments, and by how many subschemas a value could be compared
//! with. A schema without such a bound, because it refers to itself, is one that cannot be used.

use std::collections::HashMap;
use std::sync::Arc;

use moka::sync::Cache;
use serde_json::Value;
use serde_json::value::RawValue;

use super::decision::Failure;
use super::schema::{Schema, SchemaError};
use super::text::one_line;
use crate::upstream::catalog::Tool;

/// Largest schema that arguments are compared with, in bytes.
const MAX_SCHEMA_BYTES: usize = 64 << 10;
/// Largest arguments that are compared with a schema, in bytes.
const MAX_ARGUMENTS_BYTES: usize = 1 << 20;
/// Most parts of a schema that are looked at to find its bound.
const MAX_STEPS: usize = 1_000_000;
/// Most comparisons of a value with a subschema.
const MAX_COMPARISONS: usize = 10_000_000;
/// Schemas that are kept, by the bytes of their texts.
const MAX_KEPT_BYTES: u64 = 4 << 20;
const MAX_MESSAGE_BYTES: usize = 512;

/// Input schemas that were needed, by the digest of the tool's definition.
pub(super) struct InputSchemas(Cache<String, Arc<Result<InputSchema, String>>>);

/// A schema that arguments can be compared with.
struct InputSchema {
    schema: Schema,
    bytes: usize,
    /// Subschemas that one value may be compared with, at most.
    subschemas: usize,
}

impl Default for InputSchemas {
    fn default() -> Self {
        let weight = |_: &String, read: &Arc<Result<InputSchema, String>>| {
            let bytes = read.as_ref().as_ref().map_or(0, |schema| schema.bytes);
            u32::try_from(bytes + 256).unwrap_or(u32::MAX)
        };
        Self(Cache::builder().max_capacity(MAX_KEPT_BYTES).weigher(weight).build())
    }
}

impl std::fmt::Debug for InputSchemas {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InputSchemas").field("kept", &self.0.entry_count()).finish()
    }
}

impl InputSchemas {
    /// Whether arguments fit a tool's input schema. A tool without one takes anything.
    pub(super) fn check(&self, tool: &Tool, arguments: &RawValue) -> Result<(), Failure> {
        let Some(text) = tool.input_schema.as_deref().map(RawValue::get) else { return Ok(()) };
        let read = self.0.get_with_by_ref(&tool.digest, || Arc::new(InputSchema::read(text)));
        let unfit = |what: String| Failure::UnfitArguments { what: one_line(&what, MAX_MESSAGE_BYTES) };
        let schema = read.as_ref().as_ref().map_err(|error| unfit(format!("the schema cannot be used: {error}")))?;
        schema.check(arguments).map_err(unfit)
    }
}

impl InputSchema {
    fn read(text: &str) -> Result<Self, String> {
        if text.len() > MAX_SCHEMA_BYTES {
            return Err(format!("it has {} bytes, more than {MAX_SCHEMA_BYTES}", text.len()));
        }
        let document: Value = serde_json::from_str(text).map_err(|_| SchemaError::NotJson.to_string())?;
        let subschemas = Sizes::of(&document).ok_or("it refers to itself, or to what is not part of it")?;
        let schema = Schema::read(text).map_err(|error| error.to_string())?;
        Ok(Self { schema, bytes: text.len(), subschemas })
    }

    fn check(&self, arguments: &RawValue) -> Result<(), String> {
        if arguments.get().len() > MAX_ARGUMENTS_BYTES {
            return Err(format!("they have {} bytes, more than {MAX_ARGUMENTS_BYTES}", arguments.get().len()));
        }
        let document: Value = serde_json::from_str(arguments.get()).map_err(|_| "they are not JSON".to_owned())?;
        if values(&document).saturating_mul(self.subschemas) > MAX_COMPARISONS {
            return Err("there is too much to compare".to_owned());
        }
        match self.schema.violations(&document).first() {
            None => Ok(()),
            Some(violation) => Err(format!("{:?}: {}", violation.pointer, violation.message)),
        }
    }
}

/// How many values there are in a document, itself included.
fn values(document: &Value) -> usize {
    match document {
        Value::Object(members) => 1 + members.values().map(values).sum::<usize>(),
        Value::Array(items) => 1 + items.iter().map(values).sum::<usize>(),
        _ => 1,
    }
}

/// How large a schema is with everything that it refers to in the place of the references.
struct Sizes<'a> {
    root: &'a Value,
    /// By reference; `None` while it is being looked at.
    known: HashMap<&'a str, Option<usize>>,
    steps: usize,
}

impl<'a> Sizes<'a> {
    /// `None` if it has no end, or refers to something that is not in it.
    fn of(root: &'a Value) -> Option<usize> {
        Sizes { root, known: HashMap::new(), steps: MAX_STEPS }.size(root)
    }

    fn size(&mut self, schema: &'a Value) -> Option<usize> {
        self.steps = self.steps.checked_sub(1)?;
        match schema {
            Value::Array(items) => self.sum(items.iter()),
            Value::Object(members) => {
                let has = |keyword: &str| members.get(keyword).is_some_and(Value::is_string);
                // Where a part has a name of its own, references in it mean something else.
                let is_named = (has("$id") || has("id")) && !std::ptr::eq(schema, self.root);
                if is_named || has("$dynamicRef") || has("$recursiveRef") {
                    return None;
                }
                let referred = match members.get("$ref") {
                    Some(Value::String(reference)) => self.referred(reference)?,
                    _ => 0,
                };
                Some(referred.saturating_add(self.sum(members.values())?))
            }
            _ => Some(1),
        }
    }

    fn sum(&mut self, parts: impl Iterator<Item = &'a Value>) -> Option<usize> {
        let mut sum = 1_usize;
        for part in parts {
            sum = sum.saturating_add(self.size(part)?);
        }
        Some(sum)
    }

    fn referred(&mut self, reference: &'a str) -> Option<usize> {
        if let Some(known) = self.known.get(reference) {
            return *known;
        }
        // A pointer in a URI fragment (RFC 6901 §6) in which nothing is percent-encoded.
        let pointer = reference.strip_prefix('#').filter(|pointer| !pointer.contains('%'))?;
        let target = self.root.pointer(pointer)?;
        self.known.insert(reference, None);
        let size = self.size(target)?;
        self.known.insert(reference, Some(size));
        Some(size)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::ids::UpstreamName;
    use crate::mcp::json::raw;
    use crate::upstream::catalog::ToolDefinition;

    fn tool(schema: &Value) -> Tool {
        let definition = json!({ "name": "t", "inputSchema": schema });
        let upstream = UpstreamName::parse("notes").unwrap();
        Tool::new(Arc::new(ToolDefinition::parse(&upstream, &raw(definition.to_string())).unwrap()), "t".to_owned())
    }

    /// What is wrong with the arguments; nothing if they fit.
    fn check(schema: &Value, arguments: &Value) -> String {
        match InputSchemas::default().check(&tool(schema), &raw(arguments.to_string())) {
            Ok(()) => String::new(),
            Err(failure) => {
                assert_eq!(failure.code(), "unfit-arguments");
                failure.to_string()
            }
        }
    }

    #[test]
    fn arguments_fit_or_it_is_said_where_they_do_not() {
        let schema = json!({
            "type": "object",
            "properties": { "n": { "$ref": "#/$defs/number" }, "s": { "type": "string", "pattern": "^a+$" } },
            "required": ["n"],
            "additionalProperties": false,
            "$defs": { "number": { "type": "integer", "minimum": 1 } },
        });
        assert_eq!(check(&schema, &json!({ "n": 1, "s": "aa" })), "");
        for (arguments, part) in [
            (json!({}), "n"),
            (json!({ "n": 0 }), "/n"),
            (json!({ "n": 1, "s": "b" }), "/s"),
            (json!({ "n": 1, "x": 1 }), "x"),
        ] {
            let said = check(&schema, &arguments);
            assert!(said.contains(part), "{arguments}: {said}");
        }
        let said = check(&schema, &json!({ "n": 1, "s": "hunter2" }));
        assert!(!said.contains("hunter2"), "the values are nobody's: {said}");
    }

    #[test]
    fn a_schema_that_cannot_be_used_refuses_the_rewrite() {
        let doubling = (0..40).map(|number| {
            let next = json!({ "$ref": format!("#/$defs/d{}", number + 1) });
            (format!("d{number}"), json!({ "anyOf": [next, next] }))
        });
        let mut defs: serde_json::Map<String, Value> = doubling.collect();
        defs.insert("d40".to_owned(), json!({ "type": "string" }));
        for (schema, part) in [
            (json!({ "type": "strin" }), "strin"),
            (json!({ "properties": { "next": { "$ref": "#" } } }), "refers to itself"),
            (
                json!({ "$ref": "#/$defs/a", "$defs": { "a": { "$ref": "#/$defs/b" }, "b": { "$ref": "#/$defs/a" } } }),
                "itself",
            ),
            (json!({ "$ref": "https://example.com/schema.json" }), "not part of it"),
            (json!({ "$dynamicRef": "#node" }), "itself"),
            (json!({ "properties": { "a": { "$id": "https://example.com/a", "$ref": "#" } } }), "itself"),
            (json!({ "pattern": "(a)\\1" }), "cannot be used"),
            (json!({ "description": "x".repeat(MAX_SCHEMA_BYTES) }), "bytes"),
            (json!({ "$ref": "#/$defs/d0", "$defs": defs }), "too much"),
        ] {
            let said = check(&schema, &json!({ "a": 1 }));
            assert!(said.contains(part), "{said}");
        }
        let long: Vec<u8> = vec![1; MAX_ARGUMENTS_BYTES];
        assert!(check(&json!({}), &json!({ "a": long })).contains("bytes"));
    }

    #[test]
    fn what_was_read_is_kept() {
        let (schemas, tool) = (InputSchemas::default(), tool(&json!({ "type": "object" })));
        let arguments = raw("{}".to_owned());
        schemas.check(&tool, &arguments).unwrap();
        let first = schemas.0.get(&tool.digest).unwrap();
        schemas.check(&tool, &arguments).unwrap();
        assert!(Arc::ptr_eq(&first, &schemas.0.get(&tool.digest).unwrap()));
    }

    #[test]
    fn a_tool_without_a_schema_takes_anything() {
        let definition = raw(r#"{"name":"t"}"#.to_owned());
        let definition = ToolDefinition::parse(&UpstreamName::parse("notes").unwrap(), &definition).unwrap();
        let tool = Tool::new(Arc::new(definition), "t".to_owned());
        InputSchemas::default().check(&tool, &raw(r#"{"a":[]}"#.to_owned())).unwrap();
    }
}
