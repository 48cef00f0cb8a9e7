//! The names of settings, as the schema of the file has them, for patches of what is declared in the words of the file.

use std::sync::LazyLock;

use serde_json::Value;

use super::raw;
use crate::patch::Names;

/// What a file may have at its top.
pub(super) static FILE: LazyLock<Names> = LazyLock::new(|| {
    let schema = raw::schema();
    Names::of(schema["properties"].as_object().into_iter().flatten().map(|(name, _)| name.as_str()))
});

/// What `[upstreams.NAME]` may say.
pub(super) static UPSTREAM: LazyLock<Names> = LazyLock::new(|| of_section("Upstream"));

/// What an entry of `[[policies]]` may say besides its name, which stands elsewhere.
pub(super) static BINDING: LazyLock<Names> = LazyLock::new(|| match of_section("Binding") {
    Names::Of(mut names) => {
        names.remove("name");
        Names::Of(names)
    }
    Names::Any => Names::Any,
});

fn of_section(name: &str) -> Names {
    let schema = raw::schema();
    names(&schema, &schema["$defs"][name])
}

/// What a schema knows by name. No section has itself in it, so that this ends.
fn names(schema: &Value, section: &Value) -> Names {
    let reference = section["$ref"].as_str().and_then(|reference| reference.strip_prefix("#/$defs/"));
    let section = reference.map_or(section, |name| &schema["$defs"][name]);
    match section["properties"].as_object() {
        Some(members) => {
            let member = |(name, section): (&String, &Value)| (name.clone(), names(schema, section));
            Names::Of(members.iter().map(member).collect())
        }
        None => Names::Any,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_file_has_the_names_of_its_schema_at_its_top() {
        let Value::Object(top) = json!({ "keys": { "a": 1 }, "policies": [], "public_url": "x", "keyz": {} }) else {
            panic!("an object")
        };
        let unknown: Vec<String> = FILE.unknown_in(&top).into_iter().map(|unknown| unknown.path).collect();
        assert_eq!(unknown, ["keyz"]);
    }

    #[test]
    fn sections_have_the_names_of_the_file() {
        for (names, patch, expected) in [
            (&*UPSTREAM, json!({ "url": 1, "auth": { "kind": 1, "kimd": 1 }, "uri": 1 }), &["auth.kimd", "uri"][..]),
            (&UPSTREAM, json!({ "headers": { "x": 1 }, "environment": { "X": 1 }, "tls": { "x": 1 } }), &["tls.x"]),
            (&BINDING, json!({ "config": { "x": 1 }, "match": { "x": 1 }, "limits": { "time": 1 } }), &["match.x"]),
            (&BINDING, json!({ "module": 1, "name": 1, "mode": 1 }), &["name"]),
        ] {
            let Value::Object(patch) = patch else { panic!("{patch}") };
            let unknown: Vec<String> = names.unknown_in(&patch).into_iter().map(|unknown| unknown.path).collect();
            assert_eq!(unknown, expected, "{patch:?}");
        }
    }
}
