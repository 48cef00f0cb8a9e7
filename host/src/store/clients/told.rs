//! What the audit trail tells of a client: what was registered, and what changed, before and after. No secret is told, nor the
//! digest of one: only that it is another.

use serde_json::Value;

use super::super::table::abridge;
use crate::audit::{FieldChange, Registered};
use crate::oauth::Client;
use crate::oauth::client::Authentication;
use crate::oauth::registration::describe;
use crate::secret::Digest;

/// Longest text that is told of one field, in bytes. A client's own bounds are far above it.
const MAX_TOLD: usize = 512;
const ON_REUSE: &str = "on_reuse";
/// What the event of a registration has members of its own for.
const TOLD_APART: [&str; 3] = ["client_name", "redirect_uris", "grant_types"];

/// What a client is registered as.
pub(super) fn registered(client: &Client) -> Registered {
    let metadata = &client.metadata;
    let others = described(client).filter(|(field, _)| !TOLD_APART.contains(&field.as_str()));
    Registered {
        name: metadata.name.as_deref().map(told),
        redirect_uris: metadata.redirect_uris.iter().map(|uri| told(uri)).collect(),
        grant_types: metadata.grant_types.iter().map(|known| known.as_str().to_owned()).collect(),
        changes: others.map(|(field, to)| FieldChange { field, from: None, to: Some(to) }).collect(),
    }
}

/// What a client was described by that is no more.
pub(super) fn deleted(client: &Client) -> Vec<FieldChange> {
    described(client).map(|(field, from)| FieldChange { field, from: Some(from), to: None }).collect()
}

/// All that a client is described by, in the words of RFC 7591 §2 and our own.
fn described(client: &Client) -> impl Iterator<Item = (String, String)> {
    let members = describe(&client.metadata, &client.authentication).into_iter();
    let on_reuse = (ON_REUSE.to_owned(), client.on_reuse.as_str().to_owned());
    members.map(|(field, value)| (field, text(&value))).chain([on_reuse])
}

/// What is different, field by field, in the words of RFC 7591 §2.
pub(super) fn changes(before: &Client, after: &Client) -> Vec<FieldChange> {
    let (from, to) =
        (describe(&before.metadata, &before.authentication), describe(&after.metadata, &after.authentication));
    let names = from.keys().chain(to.keys().filter(|name| !from.contains_key(*name)));
    let changed = names.filter(|name| from.get(*name) != to.get(*name));
    let change =
        |name: &String| FieldChange { field: name.clone(), from: from.get(name).map(text), to: to.get(name).map(text) };
    let mut changes: Vec<FieldChange> = changed.map(change).collect();
    if before.on_reuse != after.on_reuse {
        let told = |client: &Client| Some(client.on_reuse.as_str().to_owned());
        changes.push(FieldChange { field: ON_REUSE.to_owned(), from: told(before), to: told(after) });
    }
    if secret(before) != secret(after) {
        changes.push(FieldChange { field: "client_secret".to_owned(), from: None, to: None });
    }
    changes
}

fn secret(client: &Client) -> Option<Digest> {
    match &client.authentication {
        Authentication::SecretBasic(digest) | Authentication::SecretPost(digest) => Some(*digest),
        Authentication::Public | Authentication::PrivateKey(_) => None,
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => told(text),
        other => told(&other.to_string()),
    }
}

fn told(text: &str) -> String {
    abridge(text, MAX_TOLD)
}

#[cfg(test)]
mod tests {
    use super::super::super::oauth_testing::{digest, registered as client};
    use super::*;
    use crate::oauth::client::{Metadata, Source};

    #[test]
    fn what_changed_is_told_before_and_after_and_no_secret_is() {
        let before = client("app");
        let metadata = Metadata {
            name: Some("é".repeat(1_000)),
            redirect_uris: vec!["https://app.example/other".to_owned()],
            contacts: Vec::new(),
            ..before.metadata.clone()
        };
        let (authentication, source) = (Authentication::SecretBasic(digest("another")), Source::Operator);
        let after = Client { metadata, authentication, source, ..before.clone() };
        let changes = changes(&before, &after);
        let of = |field: &str| {
            let change = changes.iter().find(|change| change.field == field).unwrap();
            (change.from.as_deref(), change.to.as_deref())
        };
        assert_eq!(changes.len(), 4, "{changes:?}");
        assert_eq!(of("contacts"), (Some(r#"["ops@app.example"]"#), None));
        let (from, to) = (r#"["https://app.example/callback"]"#, r#"["https://app.example/other"]"#);
        assert_eq!(of("redirect_uris"), (Some(from), Some(to)));
        assert_eq!(of("client_secret"), (None, None));
        let (was, is) = of("client_name");
        assert!(
            was == Some("An app") && is.is_some_and(|name| name.len() <= MAX_TOLD && name.contains("… (sha256 ")),
            "{is:?}"
        );
        assert_eq!(super::changes(&before, &before), []);
        let public = Client { authentication: Authentication::Public, ..before.clone() };
        let fields: Vec<String> = super::changes(&before, &public).into_iter().map(|change| change.field).collect();
        assert_eq!(fields, ["token_endpoint_auth_method", "client_secret"]);
        let Registered { name, redirect_uris, grant_types, changes } = registered(&before);
        assert_eq!(
            (name.as_deref(), redirect_uris, grant_types),
            (
                Some("An app"),
                vec!["https://app.example/callback".to_owned()],
                vec!["authorization_code".to_owned(), "refresh_token".to_owned()]
            )
        );
        let contacts = changes.iter().find(|change| change.field == "contacts").unwrap();
        assert_eq!((contacts.from.as_deref(), contacts.to.as_deref()), (None, Some(r#"["ops@app.example"]"#)));
        assert!(changes.iter().all(|change| !TOLD_APART.contains(&change.field.as_str())), "{changes:?}");
        let gone = deleted(&before);
        assert!(gone.iter().any(|change| change.field == "client_name" && change.to.is_none()), "{gone:?}");
        let other = Client { on_reuse: crate::oauth::grant::OnReuse::Reject, ..before.clone() };
        let changed = super::changes(&before, &other);
        let [change] = changed.as_slice() else { panic!("{changed:?}") };
        let told = (change.field.as_str(), change.from.as_deref(), change.to.as_deref());
        assert_eq!(told, (ON_REUSE, Some("revoke-family"), Some("reject")));
    }
}
