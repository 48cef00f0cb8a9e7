//! What the audit trail has of a definition: the settings that are different, before and after. Pure.
//!
//! The trail outlives what it tells of, and is sent to other places. Of a secret it has the reference, or that something is
//! sealed there. Of an address it has no path and no query, and of a program no argument: some put one there.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::audit::FieldChange;
use crate::store::table::{abridge, shorten};

/// Most settings of one row of the trail. What is left out is counted.
const MAX_SETTINGS: usize = 32;
/// Longest name of a setting, and longest value, in bytes.
const MAX_NAME_BYTES: usize = 100;
const MAX_VALUE_BYTES: usize = 400;
/// What stands for a secret.
const SEALED: &str = "sealed";
/// What stands for what makes no sense.
const UNTOLD: &str = "…";
/// Tables whose members are secrets, and others that have one.
const OF_SECRETS: [&str; 2] = ["headers", "environment"];
const SECRETS: [&str; 2] = ["auth.client_secret", "tls.client_key"];
/// Addresses, of which only the origin is told.
const ADDRESSES: [&str; 2] = ["url", "auth.resource"];

/// What is different between two definitions, as they are stored. `None` is none at all.
pub(super) fn changes(before: Option<&str>, after: Option<&str>) -> Vec<FieldChange> {
    let (before, after) = (settings(before), settings(after));
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    // What is the same when it is told may be another secret.
    let value = |settings: &BTreeMap<String, (Value, String)>, name: &String| {
        settings.get(name).map(|(value, _)| value.clone())
    };
    let names: Vec<&String> = names.into_iter().filter(|name| value(&before, name) != value(&after, name)).collect();
    let told = |setting: Option<&(Value, String)>| setting.map(|(_, told)| told.clone());
    let change = |name: &&String| {
        let (from, to) = (told(before.get(*name)), told(after.get(*name)));
        let is_told_alike = from == to;
        let to = to.map(|to| if is_told_alike { format!("{to} (changed)") } else { to });
        FieldChange { field: shorten(name, MAX_NAME_BYTES), from, to }
    };
    let mut changes: Vec<FieldChange> = names.iter().take(MAX_SETTINGS).map(change).collect();
    let left = names.len().saturating_sub(MAX_SETTINGS);
    if left > 0 {
        let field = "…".to_owned();
        changes.push(FieldChange { field, from: None, to: Some(format!("{left} settings more")) });
    }
    changes
}

/// What is told of one that is put to use, or out of it.
pub(super) fn switched(before: bool, after: bool) -> Option<FieldChange> {
    let field = "enabled".to_owned();
    (before != after).then(|| FieldChange { field, from: Some(before.to_string()), to: Some(after.to_string()) })
}

/// The settings of a definition by name, such as `auth.kind`: each as it is, and as it is told.
fn settings(definition: Option<&str>) -> BTreeMap<String, (Value, String)> {
    let definition = definition.and_then(|text| serde_json::from_str(text).ok());
    let Some(Value::Object(members)) = definition else { return BTreeMap::new() };
    let mut settings = BTreeMap::new();
    for (name, value) in members {
        match value {
            Value::Object(table) => settings.extend(table.into_iter().map(|(member, value)| {
                let is_secret = OF_SECRETS.contains(&name.as_str());
                let name = format!("{name}.{member}");
                let told = if is_secret { secret(&value) } else { told(&name, &value) };
                (name, (value, told))
            })),
            value => {
                let told = told(&name, &value);
                settings.insert(name, (value, told));
            }
        }
    }
    settings
}

fn told(name: &str, value: &Value) -> String {
    match name {
        _ if SECRETS.contains(&name) => secret(value),
        _ if ADDRESSES.contains(&name) => address(value),
        "command" => program(value),
        _ => plain(value),
    }
}

fn plain(value: &Value) -> String {
    abridge(&value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned), MAX_VALUE_BYTES)
}

/// References tell where a secret is, and not what it is.
fn secret(value: &Value) -> String {
    let text = value.as_str().unwrap_or_default();
    let last = text.split_whitespace().next_back().unwrap_or_default();
    let is_reference = last.starts_with("env:") || last.starts_with("file:");
    if is_reference { plain(value) } else { SEALED.to_owned() }
}

/// The origin of an address, and whether something follows.
fn address(value: &Value) -> String {
    let Some((scheme, rest)) = value.as_str().and_then(|text| text.split_once("://")) else { return UNTOLD.to_owned() };
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len()));
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let more = if path.len() > 1 { "/…" } else { "" };
    shorten(&format!("{scheme}://{host}"), MAX_VALUE_BYTES - more.len()) + more
}

/// The program of a command, and how many arguments it has.
fn program(value: &Value) -> String {
    let words = value.as_array().map(Vec::as_slice).unwrap_or_default();
    let Some((Value::String(program), arguments)) = words.split_first() else { return UNTOLD.to_owned() };
    let program = shorten(program, MAX_VALUE_BYTES / 2);
    match arguments.len() {
        0 => program,
        1 => format!("{program} and 1 argument"),
        count => format!("{program} and {count} arguments"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(before: &Value, after: &Value) -> Vec<(String, Option<String>, Option<String>)> {
        let text = |value: &Value| (!value.is_null()).then(|| value.to_string());
        let changes = changes(text(before).as_deref(), text(after).as_deref());
        changes.into_iter().map(|FieldChange { field, from, to }| (field, from, to)).collect()
    }

    fn row(field: &str, from: Option<&str>, to: Option<&str>) -> (String, Option<String>, Option<String>) {
        (field.to_owned(), from.map(str::to_owned), to.map(str::to_owned))
    }

    #[test]
    fn what_is_different_is_told_before_and_after() {
        let before = json!({
            "url": "https://a/mcp?key=hunter2", "trust": "low", "labels": ["a"], "auth": { "kind": "per-user-oauth" },
        });
        let after = json!({ "url": "https://a/mcp?key=hunter3", "labels": ["a", "b"], "auth": { "kind": "none" } });
        assert_eq!(
            told(&before, &after),
            [
                row("auth.kind", Some("per-user-oauth"), Some("none")),
                row("labels", Some("[\"a\"]"), Some("[\"a\",\"b\"]")),
                row("trust", Some("low"), None),
                row("url", Some("https://a/…"), Some("https://a/… (changed)")),
            ]
        );
        assert_eq!(told(&after, &after), []);
        assert_eq!(told(&Value::Null, &json!({ "trust": "low" })), [row("trust", None, Some("low"))]);
        assert_eq!(told(&json!({ "trust": "low" }), &Value::Null), [row("trust", Some("low"), None)]);
    }

    #[test]
    fn of_a_secret_the_trail_has_where_it_is() {
        let before = json!({
            "headers": { "a": "sealed:1", "b": "Bearer env:T", "c": "sealed:2" }, "environment": { "D": "file:d" },
            "auth": { "client_secret": "sealed:3", "client_id": "me" }, "tls": { "client_key": "hunter2" },
        });
        let after =
            json!({ "headers": { "a": "sealed:7", "c": "sealed:2" }, "environment": { "D": "Bearer sealed:8" } });
        assert_eq!(
            told(&before, &after),
            [
                row("auth.client_id", Some("me"), None),
                row("auth.client_secret", Some("sealed"), None),
                row("environment.D", Some("file:d"), Some("sealed")),
                row("headers.a", Some("sealed"), Some("sealed (changed)")),
                row("headers.b", Some("Bearer env:T"), None),
                row("tls.client_key", Some("sealed"), None),
            ]
        );
    }

    #[test]
    fn of_an_address_the_origin_is_told_and_of_a_command_the_program() {
        for (url, told) in [
            ("https://a.example:8443", "https://a.example:8443"),
            ("https://a.example/", "https://a.example"),
            ("https://a.example/s/hunter2/mcp", "https://a.example/…"),
            ("https://a.example?key=hunter2", "https://a.example/…"),
            ("https://me:hunter2@a.example/mcp", "https://a.example/…"),
            ("hunter2", "…"),
        ] {
            assert_eq!(address(&json!(url)), told);
        }
        for (command, told) in [
            (json!(["npx"]), "npx"),
            (json!(["npx", "server"]), "npx and 1 argument"),
            (json!(["npx", "server", "--api-key=hunter2"]), "npx and 2 arguments"),
            (json!([]), "…"),
            (json!("npx --api-key=hunter2"), "…"),
        ] {
            assert_eq!(program(&command), told);
        }
        assert_eq!(
            told(&json!({ "command": ["npx", "--key=a"] }), &json!({ "command": ["npx", "--key=b"] })),
            [row("command", Some("npx and 1 argument"), Some("npx and 1 argument (changed)"))]
        );
    }

    #[test]
    fn a_row_of_the_trail_is_bounded() {
        let long = "x".repeat(10_000);
        let many: Value =
            (0..50).map(|at| (format!("{at}{long}"), json!(long))).collect::<serde_json::Map<_, _>>().into();
        let told = told(&Value::Null, &many);
        assert_eq!(told.len(), MAX_SETTINGS + 1);
        assert_eq!(told.last(), Some(&row("…", None, Some("18 settings more"))));
        let is_short = |(field, _, to): &(String, Option<String>, Option<String>)| {
            field.len() <= MAX_NAME_BYTES && to.as_ref().is_some_and(|to| to.len() <= MAX_VALUE_BYTES)
        };
        assert!(told.iter().all(is_short));
    }
}
