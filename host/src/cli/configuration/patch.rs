//! What makes one definition of another, and how that is told. Pure.

use serde_json::{Map, Value};

/// Settings whose values are no secrets and hold none.
const SHOWN: [&str; 35] = [
    "advisory",
    "allow",
    "allow_on_all_keys",
    "allow_rewrite",
    "auth.kind",
    "auth.scopes",
    "call_timeout",
    "digest",
    "disabled",
    "expires",
    "grants",
    "groups",
    "labels",
    "limits.memory",
    "limits.reuse",
    "limits.time",
    "match.clients",
    "match.groups",
    "match.hints",
    "match.hooks",
    "match.items",
    "match.principals",
    "match.tools",
    "match.upstreams",
    "memory_limit",
    "mode",
    "module",
    "owner",
    "prefix",
    "priority",
    "process_limit",
    "protocol",
    "scopes",
    "sync_interval",
    "transport",
];

/// The merge patch (RFC 7396) that makes one of the other.
pub(super) fn patch(from: &Map<String, Value>, to: &Map<String, Value>) -> Map<String, Value> {
    let mut out = Map::new();
    for name in from.keys().filter(|name| !to.contains_key(*name)) {
        out.insert(name.clone(), Value::Null);
    }
    for (name, wanted) in to {
        match (from.get(name), wanted) {
            (Some(there), wanted) if there == wanted => {}
            (Some(Value::Object(there)), Value::Object(wanted)) => {
                out.insert(name.clone(), Value::Object(patch(there, wanted)));
            }
            _ => {
                out.insert(name.clone(), wanted.clone());
            }
        }
    }
    out
}

/// Each setting that a patch changes. Values are shown of those alone that hold no secret.
pub(super) fn lines(from: &Map<String, Value>, patch: &Map<String, Value>) -> Vec<String> {
    let mut out = Vec::new();
    each_leaf("", from, patch, &mut |field, before, after| {
        let mark = match (before.is_null(), after.is_null()) {
            (true, _) => '+',
            (false, true) => '-',
            (false, false) => '~',
        };
        let values = match (SHOWN.contains(&field), before.is_null(), after.is_null()) {
            (false, ..) => String::new(),
            (true, true, _) => format!(" {after}"),
            (true, false, true) => format!(" {before}"),
            (true, false, false) => format!(" {before} → {after}"),
        };
        out.push(format!("{mark} {field}{values}"));
    });
    out
}

fn each_leaf(
    path: &str,
    from: &Map<String, Value>,
    patch: &Map<String, Value>,
    visit: &mut impl FnMut(&str, &Value, &Value),
) {
    for (name, after) in patch {
        let field = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        let before = from.get(name).unwrap_or(&Value::Null);
        let nothing = Map::new();
        match after {
            Value::Object(after) => each_leaf(&field, before.as_object().unwrap_or(&nothing), after, visit),
            after => visit(&field, before, after),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 7396 §2.
    fn merged(mut target: Map<String, Value>, patch: &Map<String, Value>) -> Map<String, Value> {
        for (name, value) in patch {
            match (value, target.remove(name)) {
                (Value::Null, _) => {}
                (Value::Object(patch), Some(Value::Object(inner))) => {
                    target.insert(name.clone(), Value::Object(merged(inner, patch)));
                }
                (value, _) => {
                    target.insert(name.clone(), value.clone());
                }
            }
        }
        target
    }

    fn bodies() -> impl Strategy<Value = Map<String, Value>> {
        let leaf = prop_oneof![any::<bool>().prop_map(Value::from), "[a-c]{0,2}".prop_map(Value::from)];
        let table = prop::collection::btree_map("[a-c]", leaf.clone(), 0..3)
            .prop_map(|table| Value::Object(table.into_iter().collect()));
        let members = prop::collection::btree_map("[a-d]", prop_oneof![leaf, table], 0..4);
        members.prop_map(|members| members.into_iter().collect())
    }

    proptest! {
        #[test]
        fn a_patch_leads_from_one_to_the_other(from in bodies(), to in bodies()) {
            let patch = patch(&from, &to);
            prop_assert_eq!(merged(from.clone(), &patch), to.clone());
            prop_assert_eq!(patch.is_empty(), from == to);
        }
    }
}
