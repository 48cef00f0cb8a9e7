//! Every setting of the configuration file, made of its schema. Pure.

use serde_json::{Map, Value};

/// Schemas within schemas that are followed. The file is not that deep.
const MAX_DEPTH: usize = 8;

/// A line for each setting with its default, and what it means below.
pub(super) fn of(schema: &Value) -> String {
    let mut out = String::new();
    members(schema, schema, "", 0, &mut out);
    out
}

fn members(root: &Value, schema: &Value, path: &str, depth: usize, out: &mut String) {
    let nothing = Map::new();
    for (name, property) in schema["properties"].as_object().unwrap_or(&nothing) {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        let default = match (&property["default"], is_required(schema, name)) {
            (Value::Null, true) => " (required)".to_owned(),
            (Value::Null, false) => String::new(),
            (default, _) => format!(" (default {default})"),
        };
        let description = property["description"].as_str().unwrap_or_default();
        out.push_str(&format!("{path}{default}\n    {description}\n"));
        within(root, property, &path, depth + 1, out);
    }
}

fn is_required(schema: &Value, name: &str) -> bool {
    schema["required"].as_array().is_some_and(|required| required.iter().any(|other| other == name))
}

/// What stands inside of a setting: a table, tables by name, or a list of tables.
fn within(root: &Value, property: &Value, path: &str, depth: usize, out: &mut String) {
    if depth > MAX_DEPTH {
        return;
    }
    let property = followed(root, property);
    members(root, property, path, depth, out);
    let named = property["patternProperties"].as_object().into_iter().flatten().map(|(_, schema)| schema);
    for schema in named.chain(property.get("additionalProperties").filter(|schema| schema.is_object())) {
        within(root, schema, &format!("{path}.NAME"), depth + 1, out);
    }
    if let Some(items) = property.get("items") {
        within(root, items, &format!("{path}[]"), depth + 1, out);
    }
    // One of several forms.
    for form in ["anyOf", "oneOf"].iter().filter_map(|forms| property[forms].as_array()).flatten() {
        within(root, form, path, depth + 1, out);
    }
}

/// The schema that is referred to.
fn followed<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    let reference = schema["$ref"].as_str().and_then(|reference| reference.strip_prefix('#'));
    reference.and_then(|pointer| root.pointer(pointer)).unwrap_or(schema)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn every_setting_is_there_with_its_default() {
        let text = of(&config::schema());
        for line in [
            "public_url",
            "upstreams.NAME.auth.kind",
            "keys.NAME.allow[].tools (required)",
            "policies[].module (required)",
            "edge.idle_timeout (default \"",
        ] {
            assert!(text.lines().any(|told| told.starts_with(line)), "{line:?} is not in\n{text}");
        }
        let schema = config::schema();
        let definitions = schema["$defs"].as_object().unwrap().values().chain([&schema]);
        for name in definitions.filter_map(|definition| definition["properties"].as_object()).flat_map(Map::keys) {
            let is_there = |line: &str| {
                let path = line.split(" (").next().unwrap_or_default();
                path.rsplit('.').next() == Some(name.as_str())
            };
            assert!(text.lines().any(is_there), "{name} is missing");
        }
    }
}
