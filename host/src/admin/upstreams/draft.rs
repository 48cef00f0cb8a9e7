//! What an operator asks for, made into what is stored. Pure.
//!
//! Secrets that were given in the clear are taken out of a definition and leave a reference, `sealed:ID`, which nobody is
//! shown and nobody may write: what is shown in its place is the word [`SEALED`], and whoever sends that back keeps what
//! is there.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use crate::config::definition::{self, Misfit, Said, each_secret};
use crate::outbound;
use crate::secret::Plaintext;

/// What is shown in place of a sealed secret.
pub const SEALED: &str = "sealed";
/// What the authorization server is shown.
const CLIENT_SECRET: &str = "auth.client_secret";

/// A definition to be stored.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) definition: Map<String, Value>,
    /// Secrets that are not sealed yet, by the ids that the definition has for them.
    pub(super) fresh: BTreeMap<String, Plaintext>,
}

/// A stored definition after a merge patch. One that is new is a patch of nothing.
pub(super) fn draft(
    stored: &Map<String, Value>,
    patch: Map<String, Value>,
    new_id: impl Fn() -> String,
) -> Result<Draft, Vec<Misfit>> {
    let mut patch = keep_what_is_sealed(stored, patch)?;
    let mut mentioned = BTreeSet::new();
    each_secret(&mut patch, |field, _| _ = mentioned.insert(field.to_owned()));
    let mut definition = definition::upstream_with(stored, patch)?;
    let misfits = carried_elsewhere(stored, &definition, &mentioned);
    if !misfits.is_empty() {
        return Err(misfits);
    }
    let mut fresh = BTreeMap::new();
    each_secret(&mut definition, |field, value| {
        if let Value::String(text) = value
            && definition::said(field, text) == Said::Literal
        {
            let id = new_id();
            let secret = std::mem::replace(text, definition::sealed(&id));
            fresh.insert(id, Plaintext::new(secret));
        }
    });
    Ok(Draft { definition, fresh })
}

/// Settings of a program.
const OF_PROGRAMS: [&str; 3] = ["command", "environment", "working_dir"];
/// Settings that are paths of files.
const FILES: [&str; 2] = ["ca_file", "client_certificate"];
/// The kind of upstream whose people name values for a program.
const WITH_VARIABLES: &str = "per-user-environment";

/// Whether only an owner may say this: it has the gateway start a program, or read a file or a variable of its own.
pub fn is_for_owners(definition: &Map<String, Value>) -> bool {
    let member = |table: &str, name: &str| definition.get(table).and_then(|table| table.get(name));
    let is_of_program = OF_PROGRAMS.iter().any(|setting| definition.contains_key(*setting))
        || member("auth", "environment").is_some()
        || member("auth", "kind").and_then(Value::as_str) == Some(WITH_VARIABLES);
    let has_file = FILES.iter().any(|setting| member("tls", setting).is_some());
    is_of_program || has_file || definition.values().any(refers)
}

/// Whether there is a reference in it: alone, or after a scheme as in `Bearer env:NAME`.
fn refers(value: &Value) -> bool {
    match value {
        Value::String(text) => {
            text.split_whitespace().any(|word| word.starts_with("env:") || word.starts_with("file:"))
        }
        Value::Array(values) => values.iter().any(refers),
        Value::Object(members) => members.values().any(refers),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// Whether secrets that were sealed before would be shown to another server than they were given for.
pub(super) fn sends_elsewhere(stored: &Map<String, Value>, draft: &Draft) -> bool {
    let kept = sealed_in(&draft.definition).into_iter().filter(|(_, id)| !draft.fresh.contains_key(id));
    kept.map(|(field, _)| field).any(|field| leads_to(stored, &field) != leads_to(&draft.definition, &field))
}

/// Who is shown the secret of a setting: the server at `url`, and the authorization server that is named.
fn leads_to<'a>(definition: &'a Map<String, Value>, field: &str) -> (Option<String>, Option<&'a Value>) {
    let issuer = definition.get("auth").and_then(|auth| auth.get("issuer"));
    (origin(definition), issuer.filter(|_| field == CLIENT_SECRET))
}

/// Sealed secrets that a patch did not mention, and that would be shown to another server than they were given for.
fn carried_elsewhere(
    stored: &Map<String, Value>,
    definition: &Map<String, Value>,
    mentioned: &BTreeSet<String>,
) -> Vec<Misfit> {
    let is_carried = |(field, _): &(String, String)| {
        !mentioned.contains(field) && leads_to(stored, field) != leads_to(definition, field)
    };
    let carried = sealed_in(definition).into_iter().filter(is_carried);
    let misfit = |(field, _): (String, String)| {
        let message = format!("{field} is sealed, and was given for another server than this leads to");
        let hint = format!("give it anew, or say {SEALED:?} in its place to have this server shown it");
        Misfit { hint: Some(hint), ..Misfit::of(&field, message) }
    };
    carried.map(misfit).collect()
}

/// Where a definition leads to. `None` for a program, and for what is no URL, which is a mistake of its own.
fn origin(definition: &Map<String, Value>) -> Option<String> {
    let url: http::Uri = definition.get("url")?.as_str()?.parse().ok()?;
    Some(outbound::origin(&url))
}

/// Mistakes that name the settings which refer to these sealed secrets, since nobody can open them any more.
pub(super) fn lost(definition: &Map<String, Value>, ids: &BTreeSet<String>) -> Vec<Misfit> {
    let lost = sealed_in(definition).into_iter().filter(|(_, id)| ids.contains(id));
    let misfit = |(field, _): (String, String)| {
        let message = format!("{field} was sealed by a data key that is gone: give the secret again");
        Misfit::of(&field, message)
    };
    lost.map(misfit).collect()
}

/// The patch with references where it only says that something is sealed.
fn keep_what_is_sealed(
    stored: &Map<String, Value>,
    mut patch: Map<String, Value>,
) -> Result<Map<String, Value>, Vec<Misfit>> {
    let sealed: BTreeMap<_, _> = sealed_in(stored).into_iter().collect();
    let mut misfits = Vec::new();
    each_secret(&mut patch, |field, value| {
        let Value::String(text) = &*value else { return };
        match (definition::said(field, text), sealed.get(field)) {
            (Said::Sealed(_), _) => {
                let message = format!("{field} must not refer to a sealed secret: give the secret itself");
                misfits.push(Misfit::of(field, message));
            }
            (Said::Literal, Some(kept)) if text == SEALED => *value = definition::sealed(kept).into(),
            (Said::Literal, None) if text == SEALED => {
                let message = format!("{field} says {SEALED:?}, and nothing is sealed there");
                misfits.push(Misfit::of(field, message));
            }
            (Said::Literal | Said::Reference, _) => {}
        }
    });
    if misfits.is_empty() { Ok(patch) } else { Err(misfits) }
}

/// The ids of the sealed secrets that a definition refers to.
pub(super) fn sealed_ids(definition: &Map<String, Value>) -> BTreeSet<String> {
    sealed_in(definition).into_iter().map(|(_, id)| id).collect()
}

/// Where a definition refers to sealed secrets: the settings, each with the id.
fn sealed_in(definition: &Map<String, Value>) -> Vec<(String, String)> {
    let mut sealed = Vec::new();
    each_secret(&mut definition.clone(), |field, value| {
        if let Value::String(text) = &*value
            && let Said::Sealed(id) = definition::said(field, text)
        {
            sealed.push((field.to_owned(), id.to_owned()));
        }
    });
    sealed
}

/// A definition for operators to read.
pub(super) fn shown(definition: &Map<String, Value>) -> Map<String, Value> {
    let mut shown = definition.clone();
    each_secret(&mut shown, |field, value| {
        let is_reference = value.as_str().is_some_and(|text| definition::said(field, text) == Said::Reference);
        // References tell where a secret is, and not what it is.
        if !is_reference {
            *value = SEALED.into();
        }
    });
    shown
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

    fn drafted(stored: Value, patch: Value) -> Draft {
        draft(&object(stored), object(patch), || "id".to_owned()).unwrap()
    }

    #[test]
    fn what_is_given_in_the_clear_is_taken_out() {
        let given = json!({
            "url": "https://a", "trust": "plain", "headers": { "x-key": "hunter2", "x-ref": "Bearer env:A" },
            "environment": { "B": "hunter3" }, "auth": { "client_secret": "hunter4", "client_id": "me" },
            "tls": { "client_key": "file:k" },
        });
        let number = std::cell::Cell::new(0);
        let new_id = || {
            number.set(number.get() + 1);
            number.get().to_string()
        };
        let Draft { definition, fresh } = draft(&Map::new(), object(given), new_id).unwrap();
        let secrets: Vec<(&str, &str)> = fresh.iter().map(|(id, secret)| (id.as_str(), secret.expose())).collect();
        assert_eq!(secrets, [("1", "hunter2"), ("2", "hunter3"), ("3", "hunter4")]);
        let text = Value::Object(definition.clone()).to_string();
        assert!(!text.contains("hunter") && text.contains("sealed:3") && text.contains("Bearer env:A"), "{text}");
        assert_eq!(sealed_ids(&definition), ["1", "2", "3"].map(ToOwned::to_owned).into());
        let shown = Value::Object(shown(&definition));
        assert_eq!(shown["headers"], json!({ "x-key": "sealed", "x-ref": "Bearer env:A" }));
        assert_eq!(
            (&shown["auth"]["client_secret"], &shown["tls"]["client_key"]),
            (&json!("sealed"), &json!("file:k"))
        );
        assert_eq!(shown["trust"], "plain");
    }

    #[test]
    fn what_is_sealed_stays_until_something_else_is_said() {
        let stored = json!({ "headers": { "x-key": "sealed:7", "x-team": "env:T" } });
        for (patch, key, fresh) in [
            (json!({}), json!("sealed:7"), 0),
            (json!({ "headers": { "x-key": "sealed" } }), json!("sealed:7"), 0),
            (json!({ "headers": { "x-key": "new" } }), json!("sealed:id"), 1),
            (json!({ "headers": { "x-key": "env:K" } }), json!("env:K"), 0),
            (json!({ "headers": { "x-key": null } }), Value::Null, 0),
        ] {
            let drafted = drafted(stored.clone(), patch.clone());
            let definition = Value::Object(drafted.definition);
            assert_eq!((&definition["headers"]["x-key"], drafted.fresh.len()), (&key, fresh), "{patch}");
        }
        for patch in [
            json!({ "headers": { "x-key": "sealed:7" } }),
            json!({ "headers": { "x-other": "Bearer sealed:7" } }),
            json!({ "headers": { "x-team": "sealed" } }),
            json!({ "auth": { "client_secret": "sealed" } }),
        ] {
            let refused = draft(&object(stored.clone()), object(patch.clone()), String::new).unwrap_err();
            assert!(refused[0].field.is_some(), "{patch}");
        }
    }

    #[test]
    fn a_name_that_no_setting_has_is_refused_though_it_is_taken_away() {
        for (patch, field) in [
            (json!({ "zz": null }), "zz"),
            (json!({ "trust": "low", "auth": { "kimd": null } }), "auth.kimd"),
            (json!({ "tls": { "ca_fil": "a" } }), "tls.ca_fil"),
        ] {
            let refused =
                draft(&object(json!({ "url": "https://a" })), object(patch.clone()), String::new).unwrap_err();
            let fields: Vec<_> = refused.iter().map(|misfit| misfit.field.as_deref()).collect();
            assert_eq!(fields, [Some(field)], "{patch}");
        }
        let stored = json!({ "url": "https://a", "headers": { "x-any": "b" }, "environment": { "ANY": "c" } });
        let patch = json!({ "headers": { "x-any": null }, "environment": { "ANY": null }, "tls": null });
        let taken = drafted(stored, patch).definition;
        assert_eq!(Value::Object(taken), json!({ "url": "https://a", "headers": {}, "environment": {} }));
    }

    #[test]
    fn a_sealed_secret_goes_to_another_server_only_if_that_is_said() {
        let stored = json!({
            "url": "https://a/1", "headers": { "x-key": "sealed:7", "x-team": "env:T" },
            "auth": { "kind": "per-user-oauth", "client_id": "me", "client_secret": "sealed:8" },
        });
        let refused = |patch: Value| -> Vec<String> {
            let refused = draft(&object(stored.clone()), object(patch), String::new).err().unwrap_or_default();
            refused.into_iter().filter_map(|misfit| misfit.field).collect()
        };
        let (key, secret) = ("headers.x-key", "auth.client_secret");
        for (patch, fields) in [
            (json!({ "url": "https://b/1" }), &[key, secret][..]),
            (json!({ "url": "http://a/1" }), &[key, secret]),
            (json!({ "url": null, "command": ["x"] }), &[key, secret]),
            (json!({ "url": "https://b/1", "headers": { "x-key": "sealed" } }), &[secret]),
            (json!({ "url": "https://b/1", "headers": null, "auth": { "client_secret": "new" } }), &[]),
            (json!({ "url": "https://b/1", "headers": { "x-key": null }, "auth": null }), &[]),
            (json!({ "url": "https://a/2" }), &[]),
            (json!({ "trust": "high" }), &[]),
        ] {
            assert_eq!(refused(patch.clone()), fields, "{patch}");
        }
    }

    #[test]
    fn a_secret_of_the_client_goes_to_another_issuer_only_if_that_is_said() {
        let stored = object(json!({
            "url": "https://a/1", "headers": { "x-key": "sealed:7" },
            "auth": { "kind": "shared-oauth", "issuer": "https://i", "client_id": "me", "client_secret": "sealed:8" },
        }));
        let drafted = |patch: Value| draft(&stored, object(patch), || "new".to_owned());
        let refused = drafted(json!({ "auth": { "issuer": "https://evil" } })).unwrap_err();
        let fields: Vec<Option<&str>> = refused.iter().map(|misfit| misfit.field.as_deref()).collect();
        assert_eq!(fields, [Some(CLIENT_SECRET)]);
        for (patch, elsewhere) in [
            (json!({ "auth": { "issuer": "https://evil", "client_secret": "sealed" } }), true),
            (json!({ "auth": { "issuer": "https://evil", "client_secret": "another" } }), false),
            (json!({ "auth": { "client_id": "you" } }), false),
            (json!({ "url": "https://b", "headers": { "x-key": "new" }, "auth": { "client_secret": "sealed" } }), true),
            (json!({ "url": "https://b", "headers": { "x-key": "new" }, "auth": null }), false),
        ] {
            assert_eq!(sends_elsewhere(&stored, &drafted(patch.clone()).unwrap()), elsewhere, "{patch}");
        }
    }

    #[test]
    fn programs_files_and_references_are_for_owners() {
        for (definition, expected) in [
            (json!({ "url": "https://a", "headers": { "x-key": "secret", "x-env": "envious: yes" } }), false),
            (json!({ "url": "https://a", "tls": { "insecure": true }, "auth": { "kind": "per-user-oauth" } }), false),
            (json!({ "command": ["x"] }), true),
            (json!({ "url": "https://a", "headers": { "x-key": "Bearer env:A" } }), true),
            (json!({ "url": "https://a", "auth": { "client_secret": "file:a" } }), true),
            (json!({ "url": "https://a", "tls": { "ca_file": "/etc/shadow" } }), true),
            (json!({ "url": "https://a", "tls": { "client_certificate": "a.pem" } }), true),
            (json!({ "auth": { "environment": ["URL"] } }), true),
            (json!({ "auth": { "kind": "per-user-environment" } }), true),
        ] {
            assert_eq!(is_for_owners(&object(definition.clone())), expected, "{definition}");
        }
    }

    #[test]
    fn a_secret_that_nobody_can_open_is_told_by_its_setting() {
        let stored = object(json!({ "headers": { "x-key": "Bearer sealed:7" }, "environment": { "A": "sealed:8" } }));
        let lost = lost(&stored, &["7".to_owned(), "9".to_owned()].into());
        assert_eq!(lost.iter().map(|misfit| misfit.field.as_deref()).collect::<Vec<_>>(), [Some("headers.x-key")]);
    }
}
