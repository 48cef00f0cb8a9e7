//! Merge patches (RFC 7396) of things whose members have names. Pure.
//!
//! `null` takes a member away, so that nothing of it is left to be looked at: what a patch names is looked at in the patch
//! itself, before it is merged and whatever the value is. There is no other way to merge one.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// Names that nobody knows, of which no more are told of one patch.
const MOST_UNKNOWN: usize = 50;

/// Which members there may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Names {
    /// Any: people call them what they like.
    Any,
    /// These, and what there may be in each.
    Of(BTreeMap<String, Names>),
}

/// A name in a patch that nobody knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unknown<'a> {
    /// With those that it stands in, such as `auth.kimd`.
    pub path: String,
    pub name: String,
    /// What would be known there.
    pub known: Vec<&'a str>,
}

impl Names {
    /// These, with anything in them.
    pub fn of<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        Self::Of(names.into_iter().map(|name| (name.to_owned(), Self::Any)).collect())
    }

    /// The names that are not known, in the order of the patch.
    pub fn unknown_in(&self, patch: &Map<String, Value>) -> Vec<Unknown<'_>> {
        let mut unknown = Vec::new();
        self.look(patch, "", &mut unknown);
        unknown
    }

    fn look<'a>(&'a self, patch: &Map<String, Value>, inside: &str, unknown: &mut Vec<Unknown<'a>>) {
        let Self::Of(names) = self else { return };
        for (name, value) in patch {
            if unknown.len() >= MOST_UNKNOWN {
                return;
            }
            let path = if inside.is_empty() { name.clone() } else { format!("{inside}.{name}") };
            match (names.get(name), value) {
                (Some(below), Value::Object(patch)) => below.look(patch, &path, unknown),
                (Some(_), _) => {}
                (None, _) => {
                    let known = names.keys().map(String::as_str).collect();
                    unknown.push(Unknown { path, name: name.clone(), known });
                }
            }
        }
    }
}

/// What the patch makes of the target, or the names in it that are not known.
///
/// # Errors
/// Those names; there is one at least.
pub fn merged<'a>(
    target: &Map<String, Value>,
    patch: Map<String, Value>,
    names: &'a Names,
) -> Result<Map<String, Value>, Vec<Unknown<'a>>> {
    let unknown = names.unknown_in(&patch);
    if !unknown.is_empty() {
        return Err(unknown);
    }
    let mut target = target.clone();
    merge(&mut target, patch);
    Ok(target)
}

/// RFC 7396 §2, of two objects.
fn merge(target: &mut Map<String, Value>, patch: Map<String, Value>) {
    for (key, value) in patch {
        match value {
            Value::Null => {
                target.remove(&key);
            }
            Value::Object(patch) => {
                let member = target.entry(key).or_insert(Value::Null);
                if !member.is_object() {
                    *member = Value::Object(Map::new());
                }
                if let Value::Object(member) = member {
                    merge(member, patch);
                }
            }
            Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                target.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        match value {
            Value::Object(object) => object,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn a_patch_is_merged_as_rfc_7396_says() {
        // Of the test cases of RFC 7396, appendix A, those of two objects.
        for (target, patch, result) in [
            (json!({"a":"b"}), json!({"a":"c"}), json!({"a":"c"})),
            (json!({"a":"b"}), json!({"b":"c"}), json!({"a":"b","b":"c"})),
            (json!({"a":"b"}), json!({"a":null}), json!({})),
            (json!({"a":"b","b":"c"}), json!({"a":null}), json!({"b":"c"})),
            (json!({"a":["b"]}), json!({"a":"c"}), json!({"a":"c"})),
            (json!({"a":"c"}), json!({"a":["b"]}), json!({"a":["b"]})),
            (json!({"a":{"b":"c"}}), json!({"a":{"b":"d","c":null}}), json!({"a":{"b":"d"}})),
            (json!({"a":[{"b":"c"}]}), json!({"a":[1]}), json!({"a":[1]})),
            (json!({"e":null}), json!({"a":1}), json!({"e":null,"a":1})),
            (json!({}), json!({"a":{"bb":{"ccc":null}}}), json!({"a":{"bb":{}}})),
            (json!({"a":"foo"}), json!({"a":{"b":1}}), json!({"a":{"b":1}})),
        ] {
            let merged = merged(&object(target.clone()), object(patch.clone()), &Names::Any);
            assert_eq!(merged.map(Value::Object), Ok(result), "{target} and {patch}");
        }
    }

    #[test]
    fn a_name_that_nobody_knows_is_refused_whatever_its_value() {
        let auth = Names::of(["kind", "issuer"]);
        let names = [("url", Names::Any), ("headers", Names::Any), ("auth", auth)];
        let names = Names::Of(names.into_iter().map(|(name, below)| (name.to_owned(), below)).collect());
        let target = object(json!({ "url": "a" }));
        let unknown = |patch: Value| -> Vec<String> {
            let refused = merged(&target, object(patch), &names).err().unwrap_or_default();
            refused.into_iter().map(|unknown| unknown.path).collect()
        };
        for (patch, expected) in [
            (json!({ "url": null, "headers": { "x-any": null }, "auth": { "kind": null } }), &[][..]),
            (json!({ "zz": null }), &["zz"]),
            (json!({ "auth": { "kimd": null, "issuer": {} }, "zz": 1 }), &["auth.kimd", "zz"]),
            (json!({ "zz": { "url": 1 } }), &["zz"]),
        ] {
            assert_eq!(unknown(patch.clone()), expected, "{patch}");
        }
        let many = (0..200).map(|number| (number.to_string(), Value::Null)).collect();
        assert_eq!(names.unknown_in(&many).len(), MOST_UNKNOWN);
    }
}
