//! What is stored, written as sections of a file. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::stored::Stored;
use crate::config::definition::each_secret;
use crate::config::portable::{write, write_entry};

/// What the API shows in place of a sealed secret.
pub(super) const SEALED: &str = "sealed";

/// The first line.
const HEAD: &str = "# What `portcullis config export` found stored. What is sealed is not in it; `url` and `command` stand \
                    as they were declared.";

/// By upstream, and by the setting that a secret is in.
pub(super) type References = BTreeMap<String, BTreeMap<String, String>>;

/// The references that stand for what is sealed. Each is another: where names come out the same, all but the first are
/// numbered.
pub(super) fn references(stored: &Stored) -> References {
    let mut sealed: Vec<(&str, String)> = Vec::new();
    for (name, thing) in stored.upstreams.iter().filter(|(_, thing)| !thing.is_of_file) {
        each_secret(&mut thing.body.clone(), |field, value| {
            if *value == SEALED {
                sealed.push((name.as_str(), field.to_owned()));
            }
        });
    }
    sealed.sort();
    let own: BTreeSet<String> = sealed.iter().map(|(upstream, field)| reference(upstream, field)).collect();
    let mut taken = BTreeSet::new();
    let mut references = References::new();
    for (upstream, field) in sealed {
        let first = reference(upstream, &field);
        let chosen = if taken.insert(first.clone()) {
            first
        } else {
            let mut numbered = (2_u64..).map(|number| format!("{first}_{number}"));
            let is_free = |reference: &String| !own.contains(reference) && taken.insert(reference.clone());
            numbered.find(is_free).expect("there are more numbers than secrets")
        };
        references.entry(upstream.to_owned()).or_default().insert(field, chosen);
    }
    references
}

fn reference(upstream: &str, field: &str) -> String {
    let word = |text: &str| -> String {
        text.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect()
    };
    format!("env:PORTCULLIS_{}_{}", word(upstream), word(field))
}

/// All of it, with the clients that operators added.
pub(super) fn text(stored: &Stored, clients: &[Value]) -> String {
    let mut out = format!("{HEAD}\n\n");
    out.push_str(&things(stored));
    for (name, thing) in stored.policies.iter().filter(|(_, thing)| !thing.is_of_file) {
        out.push_str(&of_binding(name, &thing.body, &stored.modules));
        out.push('\n');
    }
    for client in clients.iter().filter(|client| client["origin"] == "operator") {
        out.push_str(&of_client(client));
        out.push('\n');
    }
    out
}

fn things(stored: &Stored) -> String {
    let mut out = String::new();
    let references = references(stored);
    for (name, thing) in stored.upstreams.iter().filter(|(_, thing)| !thing.is_of_file) {
        let mut body = thing.body.clone();
        let mut sealed = Vec::new();
        each_secret(&mut body, |field, value| {
            if let Some(reference) = references.get(name).and_then(|of_it| of_it.get(field)) {
                sealed.push(format!("# {field} is sealed: put it into {}\n", &reference["env:".len()..]));
                *value = reference.clone().into();
            }
        });
        if thing.is_disabled {
            out.push_str("# out of use: `portcullis upstream enable` takes it into use again\n");
        }
        out.push_str(&sealed.concat());
        out.push_str(&write(&["upstreams", name], &body));
        out.push('\n');
    }
    for (name, thing) in stored.keys.iter().filter(|(_, thing)| !thing.is_of_file) {
        out.push_str("# its secret cannot be exported: a file needs `secret` or `sha256` besides\n");
        out.push_str(&write(&["keys", name], &thing.body));
        out.push('\n');
    }
    out
}

fn of_binding(name: &str, definition: &Map<String, Value>, modules: &BTreeMap<String, String>) -> String {
    let digest = definition.get("module").and_then(Value::as_str).and_then(|module| module.strip_prefix("sha256:"));
    let comment = digest.map_or_else(String::new, |digest| {
        let called = modules.get(&digest.to_ascii_lowercase()).map_or("its module", String::as_str);
        format!(
            "# {called} was uploaded, and is not in here: where it is not uploaded, `module` has to be its path, and this \
             its `digest`\n"
        )
    });
    format!("{comment}{}", write_entry("policies", name, definition))
}

/// What is said of what `apply` does not make.
const OF_FILE_ALONE: &str = "# for a gateway's own file: `portcullis config apply` leaves clients alone\n";

/// What a client is called in the API, and in a file.
const OF_CLIENTS: [(&str, &str); 4] = [
    ("client_name", "name"),
    ("redirect_uris", "redirect_uris"),
    ("grant_types", "grant_types"),
    ("on_reuse", "on_reuse"),
];

fn of_client(client: &Value) -> String {
    let mut body = Map::new();
    for (shown, said) in OF_CLIENTS {
        body.insert(said.to_owned(), client[shown].clone());
    }
    let scopes = client["scope"].as_str().map(|scopes| scopes.split(' ').map(Value::from).collect());
    body.insert("scopes".to_owned(), scopes.map_or(Value::Null, Value::Array));
    let secret = match client["token_endpoint_auth_method"].as_str() {
        None | Some("none") => "",
        Some("private_key_jwt") => "# put the file with its keys into `jwks`\n",
        Some(_) => "# its secret cannot be exported: a file needs `secret` besides\n",
    };
    let id = client["client_id"].as_str().unwrap_or_default();
    format!("{OF_FILE_ALONE}{secret}{}", write(&["auth", "clients", "known", id], &body))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::stored::Thing;
    use super::*;

    #[test]
    fn secrets_become_references_and_what_the_file_has_is_left_out() {
        let upstream = json!({
            "managed_by": "store", "enabled": false, "definition_revision": 3,
            "definition": {
                "url": "https://notes.example", "headers": { "x-key": "sealed", "x-team": "env:TEAM" },
                "auth": { "kind": "per-user-oauth", "client_id": "c", "client_secret": "sealed" },
            },
        });
        let mut stored = Stored::default();
        stored.upstreams.insert("notes-2".to_owned(), Thing::upstream(&upstream));
        stored.upstreams.insert("mail".to_owned(), Thing::upstream(&json!({ "managed_by": "file" })));
        let key = json!({
            "managed_by": "store", "name": "ci", "allow": [{ "upstream": "*", "tools": ["*"] }], "scopes": [],
            "groups": [], "owner": null, "expires": null, "disabled": false, "revision": 7,
        });
        stored.keys.insert("ci".to_owned(), Thing::key(&key));
        let definition = json!({ "module": "sha256:ab", "priority": 7, "config": { "rules": [{ "a": 1 }] } });
        let guard = Thing::policy(&json!({ "managed_by": "store", "definition": definition, "revision": 2 }));
        stored.policies.insert("guard".to_owned(), guard);
        let of_file = Thing::policy(&json!({ "managed_by": "file", "name": "of-the-file" }));
        stored.policies.insert("of-the-file".to_owned(), of_file);
        stored.modules.insert("ab".to_owned(), "paths 1.0.0".to_owned());
        let client = json!({
            "origin": "operator", "client_id": "0a1b", "client_name": "An app", "redirect_uris": ["http://127.0.0.1/cb"],
            "token_endpoint_auth_method": "client_secret_basic", "grant_types": ["authorization_code"], "scope": "a b",
            "on_reuse": "reject",
        });
        let other = json!({ "origin": "registered", "client_id": "registered-one" });
        let text = text(&stored, &[client, other]);
        for line in [
            "# out of use: `portcullis upstream enable` takes it into use again",
            "# headers.x-key is sealed: put it into PORTCULLIS_NOTES_2_HEADERS_X_KEY",
            "[upstreams.notes-2]",
            "x-key = \"env:PORTCULLIS_NOTES_2_HEADERS_X_KEY\"",
            "x-team = \"env:TEAM\"",
            "client_secret = \"env:PORTCULLIS_NOTES_2_AUTH_CLIENT_SECRET\"",
            "[keys.ci]",
            "allow = [{ tools = [\"*\"], upstream = \"*\" }]",
            "# paths 1.0.0 was uploaded, and is not in here: where it is not uploaded, `module` has to be its path, and this its `digest`",
            "[[policies]]",
            "name = \"guard\"",
            "[policies.config]",
            "rules = [{ a = 1 }]",
            "# for a gateway's own file: `portcullis config apply` leaves clients alone",
            "[auth.clients.known.0a1b]",
            "scopes = [\"a\", \"b\"]",
            "# its secret cannot be exported: a file needs `secret` besides",
        ] {
            assert!(text.lines().any(|told| told == line), "{line:?} is not in\n{text}");
        }
        for absent in ["mail", "registered-one", "of-the-file", "\"sealed\"", "owner", "disabled"] {
            assert!(!text.contains(absent), "{absent} is in\n{text}");
        }
    }

    #[test]
    fn no_two_secrets_are_one_variable() {
        let upstream = |headers: Value| {
            let definition = json!({ "url": "https://a.example", "headers": headers });
            Thing::upstream(&json!({ "managed_by": "store", "enabled": true, "definition": definition }))
        };
        let mut stored = Stored::default();
        stored.upstreams.insert(
            "a".to_owned(),
            upstream(json!({ "x-b": "sealed", "x_b": "sealed", "x.b": "sealed", "x-b-2": "sealed", "x-c": "env:C" })),
        );
        stored.upstreams.insert("b".to_owned(), upstream(json!({ "x-b": "sealed" })));
        let references = references(&stored);
        let told = |upstream: &str| -> Vec<(&str, &str)> {
            references[upstream].iter().map(|(field, reference)| (field.as_str(), reference.as_str())).collect()
        };
        assert_eq!(
            told("a"),
            [
                ("headers.x-b", "env:PORTCULLIS_A_HEADERS_X_B"),
                ("headers.x-b-2", "env:PORTCULLIS_A_HEADERS_X_B_2"),
                ("headers.x.b", "env:PORTCULLIS_A_HEADERS_X_B_3"),
                ("headers.x_b", "env:PORTCULLIS_A_HEADERS_X_B_4"),
            ]
        );
        assert_eq!(told("b"), [("headers.x-b", "env:PORTCULLIS_B_HEADERS_X_B")]);
        assert!(text(&stored, &[]).contains("x_b = \"env:PORTCULLIS_A_HEADERS_X_B_4\""));
    }
}
