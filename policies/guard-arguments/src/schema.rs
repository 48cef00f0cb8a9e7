//! JSON Schemas, as much of them as arguments need: a subset of draft 2020-12 that is read completely or not at all.
//!
//! A keyword that is not known here is a mistake and not ignored: a schema that says less than its author thinks would let
//! through what they meant to refuse. Annotations are known, and say nothing.

use portcullis_guest_sdk::json;
use portcullis_guest_sdk::serde_json::{Map, Value};

use crate::shape::{Additional, Bound, Pattern, Shape, Types};

const MAX_DEPTH: usize = 16;
/// Most choices of one `enum`.
const MAX_CHOICES: usize = 1_000;

/// What is wrong, and where in the schema.
pub(crate) struct Mistake {
    pub(crate) at: String,
    pub(crate) what: String,
}

/// Reads a schema, and adds what is wrong with it to `mistakes`.
pub(crate) fn read(schema: &Value, mistakes: &mut Vec<Mistake>) -> Shape {
    Reader { at: String::new(), depth: 0, mistakes }.schema(schema)
}

struct Reader<'a> {
    at: String,
    depth: usize,
    mistakes: &'a mut Vec<Mistake>,
}

impl Reader<'_> {
    fn schema(&mut self, schema: &Value) -> Shape {
        match schema {
            Value::Bool(true) => Shape::any(),
            Value::Bool(false) => Shape { types: Types::NONE, ..Shape::any() },
            Value::Object(_) if self.depth == MAX_DEPTH => {
                self.mistake(format!("schemas are at most {MAX_DEPTH} deep"));
                Shape::any()
            }
            Value::Object(keywords) => self.keywords(keywords),
            _ => {
                self.mistake("a schema is an object, true or false".to_owned());
                Shape::any()
            }
        }
    }

    fn keywords(&mut self, keywords: &Map<String, Value>) -> Shape {
        let mut shape = Shape::any();
        for (keyword, value) in keywords {
            self.within(keyword, |reader| reader.keyword(&mut shape, keyword, value));
        }
        shape
    }

    fn keyword(&mut self, shape: &mut Shape, keyword: &str, value: &Value) {
        match keyword {
            "type" => shape.types = self.types(value),
            "enum" => shape.one_of = self.choices(value),
            "const" => shape.one_of = Some(vec![value.clone()]),
            "minimum" => shape.min = self.bound(value, false),
            "exclusiveMinimum" => shape.min = self.bound(value, true),
            "maximum" => shape.max = self.bound(value, false),
            "exclusiveMaximum" => shape.max = self.bound(value, true),
            "minLength" => shape.min_length = self.size(value),
            "maxLength" => shape.max_length = self.size(value),
            "pattern" => shape.pattern = self.pattern(value),
            "minItems" => shape.min_items = self.size(value),
            "maxItems" => shape.max_items = self.size(value),
            "items" => shape.items = Some(Box::new(self.deeper(value))),
            "required" => shape.required = self.names(value),
            "properties" => shape.properties = self.properties(value),
            "additionalProperties" => {
                shape.additional = match value {
                    Value::Bool(false) => Additional::Forbidden,
                    other => Additional::Shaped(Box::new(self.deeper(other))),
                };
            }
            "$schema" | "$id" | "$comment" | "title" | "description" | "default" | "examples" | "deprecated"
            | "readOnly" | "writeOnly" => {}
            other => self
                .mistake(format!("the keyword {other:?} is not supported, so the schema would not mean what it says")),
        }
    }

    fn types(&mut self, value: &Value) -> Types {
        let names = match value {
            Value::Array(names) => names.as_slice(),
            one => std::slice::from_ref(one),
        };
        let named = |name: &Value| name.as_str().and_then(Types::named);
        match names.iter().map(named).reduce(|all, one| Some(all?.or(one?))) {
            Some(Some(types)) => types,
            _ => {
                self.mistake(
                    "a type is null, boolean, integer, number, string, array or object, or a list of them".to_owned(),
                );
                Types::ANY
            }
        }
    }

    fn choices(&mut self, value: &Value) -> Option<Vec<Value>> {
        match value {
            Value::Array(choices) if (1..=MAX_CHOICES).contains(&choices.len()) => Some(choices.clone()),
            _ => self.nothing(format!("it is a list of 1 to {MAX_CHOICES} values")),
        }
    }

    fn bound(&mut self, value: &Value, exclusive: bool) -> Option<Bound> {
        match value {
            Value::Number(number) => Some(Bound { number: number.clone(), exclusive }),
            _ => self.nothing("it is a number".to_owned()),
        }
    }

    fn size(&mut self, value: &Value) -> Option<u64> {
        value.as_u64().or_else(|| self.nothing("it is a whole number, 0 or more".to_owned()))
    }

    fn pattern(&mut self, value: &Value) -> Option<Pattern> {
        let Some(text) = value.as_str() else { return self.nothing("it is a string".to_owned()) };
        Pattern::anywhere(text).map_or_else(|error| self.nothing(error), Some)
    }

    fn names(&mut self, value: &Value) -> Vec<String> {
        let names = value.as_array().and_then(|names| {
            names.iter().map(|name| name.as_str().map(str::to_owned)).collect::<Option<Vec<String>>>()
        });
        names.unwrap_or_else(|| {
            self.mistake("it is a list of names".to_owned());
            Vec::new()
        })
    }

    fn properties(&mut self, value: &Value) -> Vec<(String, Shape)> {
        let Value::Object(members) = value else {
            self.mistake("it is an object".to_owned());
            return Vec::new();
        };
        let read =
            |(name, schema): (&String, &Value)| (name.clone(), self.within(name, |reader| reader.deeper(schema)));
        members.iter().map(read).collect()
    }

    fn deeper(&mut self, schema: &Value) -> Shape {
        self.depth += 1;
        let shape = self.schema(schema);
        self.depth -= 1;
        shape
    }

    fn within<T>(&mut self, token: &str, read: impl FnOnce(&mut Self) -> T) -> T {
        let length = self.at.len();
        json::push_token(&mut self.at, token);
        let result = read(self);
        self.at.truncate(length);
        result
    }

    fn mistake(&mut self, what: String) {
        self.mistakes.push(Mistake { at: self.at.clone(), what });
    }

    fn nothing<T>(&mut self, what: String) -> Option<T> {
        self.mistake(what);
        None
    }
}

#[cfg(test)]
mod tests {
    use portcullis_guest_sdk::serde_json::json;

    use super::*;

    fn shape(schema: &Value) -> Shape {
        let mut mistakes = Vec::new();
        let shape = read(schema, &mut mistakes);
        assert!(mistakes.is_empty(), "{schema}: {}", mistakes[0].what);
        shape
    }

    #[test]
    fn a_value_fits_a_schema_or_is_told_where_it_does_not() {
        let schema = json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "required": ["to"],
            "additionalProperties": { "type": "integer" },
            "properties": {
                "to": { "type": ["string", "null"], "pattern": "@", "maxLength": 10 },
                "tags": { "type": "array", "minItems": 1, "maxItems": 2, "items": { "enum": ["a", "b", 1] } },
                "count": { "exclusiveMinimum": 0, "maximum": 5 },
                "mode": { "const": "draft", "description": "how" },
                "never": false,
            },
        });
        let shape = shape(&schema);
        for (value, expected) in [
            (json!({"to": "a@b", "tags": ["a", 1.0], "count": 5, "mode": "draft", "more": 3}), None),
            (json!({"to": null}), None),
            (json!({"to": "a@b", "count": "many"}), None), // a limit says nothing about a string
            (json!([]), Some(("", "type"))),
            (json!({}), Some(("/to", "required"))),
            (json!({"to": 1}), Some(("/to", "type"))),
            (json!({"to": "a"}), Some(("/to", "pattern"))),
            (json!({"to": "aaaaaaaaa@b"}), Some(("/to", "max_length"))),
            (json!({"to": "@", "tags": []}), Some(("/tags", "min_items"))),
            (json!({"to": "@", "tags": ["a", "b", "a"]}), Some(("/tags", "max_items"))),
            (json!({"to": "@", "tags": ["a", "c"]}), Some(("/tags/1", "one_of"))),
            (json!({"to": "@", "count": 0}), Some(("/count", "min"))),
            (json!({"to": "@", "count": 5.5}), Some(("/count", "max"))),
            (json!({"to": "@", "mode": "send"}), Some(("/mode", "one_of"))),
            (json!({"to": "@", "never": null}), Some(("/never", "type"))),
            (json!({"to": "@", "a/b": 1.5}), Some(("/a~1b", "type"))),
        ] {
            let found = shape.check(&value, "").err();
            let found = found.as_ref().map(|misfit| (&*misfit.at, misfit.check));
            assert_eq!(found, expected, "{value}");
        }
    }

    #[test]
    fn members_that_are_not_named_can_be_forbidden() {
        let shape = shape(&json!({"properties": {"a": true}, "additionalProperties": false}));
        assert!(shape.check(&json!({"a": 1}), "").is_ok());
        let misfit = shape.check(&json!({"a": 1, "b": 1}), "").unwrap_err();
        assert_eq!((&*misfit.at, misfit.check), ("/b", "forbidden"));
    }

    #[test]
    fn what_is_not_understood_is_a_mistake_with_its_place() {
        let mut deep = json!({});
        for _ in 0..=MAX_DEPTH {
            deep = json!({ "items": deep });
        }
        for (schema, at) in [
            (json!({"properties": {"a/b": {"oneOf": []}}}), "/properties/a~1b/oneOf"),
            (json!({"$ref": "#/definitions/a"}), "/$ref"),
            (json!({"type": "text"}), "/type"),
            (json!({"type": []}), "/type"),
            (json!({"enum": []}), "/enum"),
            (json!({"pattern": "("}), "/pattern"),
            (json!({"minimum": "1"}), "/minimum"),
            (json!({"maxLength": -1}), "/maxLength"),
            (json!({"items": [true]}), "/items"),
            (json!({"required": [1]}), "/required"),
            (json!("string"), ""),
            (deep, "/items/items/items/items/items/items/items/items/items/items/items/items/items/items/items/items"),
        ] {
            let mut mistakes = Vec::new();
            read(&schema, &mut mistakes);
            assert_eq!(mistakes.iter().map(|mistake| &*mistake.at).collect::<Vec<_>>(), [at], "{schema}");
        }
    }
}
