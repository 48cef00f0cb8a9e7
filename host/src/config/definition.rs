//! `[upstreams.NAME]` and `[[policies]]` as JSON, which is how operators declare upstreams and policy bindings in the store;
//! `[keys.NAME]` as well, to be looked at before a key is made of it.
//!
//! There is one set of rules: the JSON is written as the section of a file, one setting on a line, and goes through the
//! same two stages. What is wrong is told with the name of the setting instead of a line. Secrets are references as in the
//! file; those that were given in the clear have been sealed, and are `sealed:ID`. A policy binding has none, and names no
//! file: whoever declares one shall not have the gateway read its files.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};

use super::mistake::{Found, did_you_mean};
use super::names;
use super::reference::{Reference, Secrets};
use super::shape::{self, Shape};
use super::written::{Nulls, bare_or_quoted, inline, quoted};
use super::{Binding, Upstream, resolve};
use crate::identity::key::VirtualKey;
use crate::ids::{BindingName, KeyName, UpstreamName};
use crate::patch::{self, Unknown};
use crate::secret::Plaintext;

/// What a definition's references lead to.
pub struct Sources<'a> {
    /// What file references and other paths are relative to.
    pub base_dir: &'a Path,
    pub environment: &'a dyn Fn(&str) -> Option<String>,
    /// By id.
    pub sealed: &'a BTreeMap<String, Plaintext>,
}

/// One thing that is wrong with a definition. It quotes names and settings, never a value that could be a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misfit {
    /// The setting, such as `auth.kind`. `None` where it is the definition as a whole.
    pub field: Option<String>,
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Misfit {
    pub fn of(field: &str, message: impl Into<String>) -> Self {
        Self { field: Some(field.to_owned()), message: message.into(), hint: None }
    }
}

/// The upstream that a definition describes, or everything that is wrong with it.
pub fn upstream(
    name: &UpstreamName,
    definition: &Map<String, Value>,
    sources: &Sources<'_>,
) -> Result<Upstream, Vec<Misfit>> {
    let section = Section::of(name, definition)?;
    let Sources { base_dir, environment, sealed } = sources;
    let secrets = Secrets { base_dir, environment, sealed: Some(sealed) };
    resolve::upstream(&section.text, secrets).map_err(|found| section.misfits(found, "is no upstream"))
}

/// Names and types of a definition's settings alone: what can be known of it where its references lead nowhere.
pub fn upstream_shape(name: &UpstreamName, definition: &Map<String, Value>) -> Result<(), Vec<Misfit>> {
    let section = Section::of(name, definition)?;
    let found = shape::read(&section.text).map_or_else(|found| found, |Shape { found, .. }| found);
    if found.is_empty() { Ok(()) } else { Err(section.misfits(found, "is no upstream")) }
}

/// An upstream's definition after a merge patch (RFC 7396), or the names in the patch that no setting has. One that is new
/// is a patch of nothing.
pub fn upstream_with(
    definition: &Map<String, Value>,
    patch: Map<String, Value>,
) -> Result<Map<String, Value>, Vec<Misfit>> {
    patch::merged(definition, patch, &names::UPSTREAM).map_err(unknown)
}

/// The same of a policy binding.
pub fn binding_with(
    definition: &Map<String, Value>,
    patch: Map<String, Value>,
) -> Result<Map<String, Value>, Vec<Misfit>> {
    patch::merged(definition, patch, &names::BINDING).map_err(unknown)
}

/// In the words for what a file says.
fn unknown(names: Vec<Unknown<'_>>) -> Vec<Misfit> {
    let misfit = |Unknown { path, name, known }: Unknown<'_>| {
        let hint = did_you_mean(&name, known.into_iter());
        Misfit { hint, ..Misfit::of(&path, format!("unknown key `{name}`")) }
    };
    names.into_iter().map(misfit).collect()
}

/// The policy binding that a definition describes, or everything that is wrong with it.
pub fn binding(name: &BindingName, definition: &Map<String, Value>) -> Result<Binding, Vec<Misfit>> {
    let section = Section::of_binding(name, definition)?;
    let secrets = Secrets { base_dir: Path::new(""), environment: &|_| None, sealed: None };
    resolve::stored_binding(&section.text, secrets).map_err(|found| section.misfits(found, "is no policy binding"))
}

/// What a file says of a key, all but its secret, or everything that is wrong with it. The digest of what comes of it is
/// nobody's.
pub fn key(name: &KeyName, definition: &Map<String, Value>) -> Result<VirtualKey, Vec<Misfit>> {
    let section = Section::of_key(name, definition)?;
    let secrets = Secrets { base_dir: Path::new(""), environment: &|_| None, sealed: None };
    resolve::stored_key(&section.text, secrets).map_err(|found| section.misfits(found, "is no virtual key"))
}

fn misfit(found: Found, text: &str, fields: &[Option<String>]) -> Misfit {
    let before = text.as_bytes().get(..found.place.start).unwrap_or(text.as_bytes());
    let line = before.iter().filter(|byte| **byte == b'\n').count();
    Misfit { field: fields.get(line).cloned().flatten(), message: found.fault.message, hint: found.fault.hint }
}

/// What the name of a header's setting begins with.
const HEADER: &str = "headers.";

/// What stands where a secret may stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said<'a> {
    /// `env:NAME` or `file:PATH`, in a header perhaps after a scheme.
    Reference,
    /// `sealed:ID`.
    Sealed(&'a str),
    /// The secret itself.
    Literal,
}

/// What a text says in a setting where a secret may stand, such as `headers.x-key`. Only a header has a scheme before a
/// reference; elsewhere that is a text as any other.
pub fn said<'a>(field: &str, text: &'a str) -> Said<'a> {
    let reference = if field.starts_with(HEADER) {
        Reference::parse_credential(text).map(|(_, reference)| reference)
    } else {
        Reference::parse(text)
    };
    match reference {
        Some(Reference::Sealed(id)) => Said::Sealed(id),
        Some(Reference::Environment(_) | Reference::File(_)) => Said::Reference,
        None => Said::Literal,
    }
}

/// The reference to a sealed secret.
pub fn sealed(id: &str) -> String {
    format!("sealed:{id}")
}

/// Visits every place of a definition where a secret may stand, with the name of the setting.
pub fn each_secret(definition: &mut Map<String, Value>, mut visit: impl FnMut(&str, &mut Value)) {
    for (table, only) in
        [("headers", None), ("environment", None), ("auth", Some("client_secret")), ("tls", Some("client_key"))]
    {
        let Some(Value::Object(members)) = definition.get_mut(table) else { continue };
        for (key, value) in members.iter_mut().filter(|(key, _)| only.is_none_or(|only| only == key.as_str())) {
            visit(&format!("{table}.{key}"), value);
        }
    }
}

/// A definition as a section of a file.
struct Section {
    text: String,
    /// Of each line, the setting that it says.
    fields: Vec<Option<String>>,
}

impl Section {
    fn of(name: &UpstreamName, definition: &Map<String, Value>) -> Result<Self, Vec<Misfit>> {
        let head = format!("upstreams.{}", bare_or_quoted(name.as_str()));
        Self::below(&head, &[format!("[{head}]")], definition)
    }

    fn of_binding(name: &BindingName, definition: &Map<String, Value>) -> Result<Self, Vec<Misfit>> {
        if definition.contains_key("name") {
            return Err(vec![Misfit::of("name", "name stands beside the definition, not in it")]);
        }
        let begin = ["[[policies]]".to_owned(), format!("name = {}", quoted(name.as_str()))];
        Self::below("policies", &begin, definition)
    }

    fn of_key(name: &KeyName, definition: &Map<String, Value>) -> Result<Self, Vec<Misfit>> {
        let mut definition = definition.clone();
        // They are told elsewhere; a section has one of them.
        definition.retain(|member, _| !matches!(member.as_str(), "secret" | "sha256"));
        let head = format!("keys.{}", bare_or_quoted(name.as_str()));
        Self::below(&head, &[format!("[{head}]"), format!("sha256 = {}", quoted(&"0".repeat(64)))], &definition)
    }

    /// Begins with these lines; tables are called what `head` says and their own name.
    fn below(head: &str, begin: &[String], definition: &Map<String, Value>) -> Result<Self, Vec<Misfit>> {
        let mut section = Self { text: String::new(), fields: Vec::new() };
        let mut misfits = Vec::new();
        begin.iter().for_each(|line| section.line(line, None));
        let (tables, plain): (Vec<_>, Vec<_>) = definition.iter().partition(|(_, value)| value.is_object());
        for (key, value) in plain {
            section.setting(key, key.clone(), value, &mut misfits);
        }
        for (key, table) in tables {
            section.line(&format!("[{head}.{}]", bare_or_quoted(key)), Some(key.clone()));
            for (member, value) in table.as_object().into_iter().flatten() {
                section.setting(member, format!("{key}.{member}"), value, &mut misfits);
            }
        }
        if misfits.is_empty() { Ok(section) } else { Err(misfits) }
    }

    /// What is wrong, by settings. There is always something.
    fn misfits(&self, mut found: Vec<Found>, otherwise: &str) -> Vec<Misfit> {
        found.sort_by_key(|found| found.place.start);
        let mut misfits: Vec<Misfit> = found.into_iter().map(|found| misfit(found, &self.text, &self.fields)).collect();
        misfits.dedup();
        if misfits.is_empty() {
            misfits.push(Misfit { field: None, message: otherwise.to_owned(), hint: None });
        }
        misfits
    }

    fn setting(&mut self, key: &str, field: String, value: &Value, misfits: &mut Vec<Misfit>) {
        match inline(value, Nulls::Refused) {
            Some(value) => self.line(&format!("{} = {value}", bare_or_quoted(key)), Some(field)),
            None => misfits.push(Misfit::of(&field, format!("{key} must not be null"))),
        }
    }

    fn line(&mut self, text: &str, field: Option<String>) {
        self.text.push_str(text);
        self.text.push('\n');
        self.fields.push(field);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::config::{UpstreamAuth, UpstreamTransport};

    fn notes() -> UpstreamName {
        UpstreamName::parse("notes").unwrap()
    }

    fn read(definition: Value) -> Result<Upstream, Vec<Misfit>> {
        let sealed = [("1".to_owned(), Plaintext::new("hunter2"))].into();
        let environment = |name: &str| (name == "TOKEN").then(|| "from outside".to_owned());
        let sources = Sources { base_dir: Path::new("/"), environment: &environment, sealed: &sealed };
        let Value::Object(definition) = definition else { panic!("an object") };
        upstream(&notes(), &definition, &sources)
    }

    /// The settings that are wrong.
    fn wrong(definition: Value) -> Vec<(Option<String>, String)> {
        read(definition).unwrap_err().into_iter().map(|misfit| (misfit.field, misfit.message)).collect()
    }

    #[test]
    fn what_the_file_may_say_a_definition_may_say() {
        let upstream = read(json!({
            "url": "https://notes.example/mcp",
            "headers": { "X-Team": "a \"quoted\"", "Authorization": "Bearer env:TOKEN", "X-Api-Key": "sealed:1" },
            "prefix": false,
            "call_timeout": "5s",
            "labels": ["a", "b"],
            "auth": { "kind": "per-user-headers", "headers": ["x-own"] },
        }))
        .unwrap();
        let UpstreamTransport::StreamableHttp { headers, .. } = &upstream.transport else { panic!("over http") };
        let values: Vec<&str> = headers.values().map(Plaintext::expose).collect();
        assert_eq!(values, ["Bearer from outside", "hunter2", "a \"quoted\""]);
        assert_eq!(upstream.auth, UpstreamAuth::PerUserHeaders(vec!["x-own".to_owned()]));
        assert_eq!((upstream.prefix, upstream.labels.len(), upstream.call_timeout.as_secs()), (false, 2, 5));
        let program =
            read(json!({ "command": ["x"], "environment": { "A": "sealed:1" }, "process_limit": 7 })).unwrap();
        let UpstreamTransport::Stdio { environment, process_limit, .. } = program.transport else { panic!("stdio") };
        assert_eq!((environment["A"].expose(), process_limit), ("hunter2", Some(7)));
    }

    #[test]
    fn a_mistake_names_its_setting() {
        for (definition, field) in [
            (json!({ "url": "ftp://notes.example" }), Some("url")),
            (json!({ "url": 7 }), Some("url")),
            (json!({ "uri": "https://notes.example" }), Some("uri")),
            (json!({ "url": "https://notes.example", "labels": [null] }), Some("labels")),
            (json!({ "url": "https://notes.example", "process_limit": 1e20 }), Some("process_limit")),
            (json!({ "url": "https://notes.example", "auth": { "kind": "none", "none": 1 } }), Some("auth.none")),
            (json!({ "url": "https://notes.example", "auth": { "kind": "per-user-headers" } }), Some("auth.kind")),
            (json!({ "url": "https://notes.example", "headers": { "a b": "x" } }), Some("headers.a b")),
            (json!({ "url": "https://notes.example", "headers": { "x-key": "sealed:2" } }), Some("headers.x-key")),
            (json!({ "url": "https://notes.example", "headers": { "x-key": "env:NONE" } }), Some("headers.x-key")),
            (json!({ "url": "https://notes.example", "headers": ["x"] }), Some("headers")),
            (json!({ "url": "http://notes.example", "tls": {} }), Some("tls")),
            (json!({ "command": [] }), Some("command")),
            (json!({}), None),
        ] {
            let wrong = wrong(definition.clone());
            assert_eq!(wrong[0].0.as_deref(), field, "{definition}: {wrong:?}");
            assert!(!format!("{wrong:?}").contains("hunter2"));
        }
        assert_eq!(wrong(json!({ "url": 1, "labels": 2, "auth": { "kind": 3 } })).len(), 3, "all of them are told");
    }

    #[test]
    fn the_shape_of_an_upstream_is_known_without_what_it_refers_to() {
        let shape = |definition: Value| upstream_shape(&notes(), definition.as_object().unwrap());
        assert_eq!(shape(json!({ "url": "env:NONE", "headers": { "x-key": "file:none" }, "auth": {} })), Ok(()));
        for (definition, field) in [
            (json!({ "url": 7 }), "url"),
            (json!({ "command": "x" }), "command"),
            (json!({ "auth": { "kimd": "none" } }), "auth.kimd"),
        ] {
            assert_eq!(shape(definition).unwrap_err()[0].field.as_deref(), Some(field));
        }
    }

    #[test]
    fn a_key_is_looked_at_without_its_secret() {
        let ci = KeyName::parse("ci").unwrap();
        let read = |definition: Value| key(&ci, definition.as_object().unwrap());
        let told = json!({
            "secret": "env:NONE", "allow": [{ "upstream": "of-the-store", "tools": ["*"] }], "owner": "ada",
            "expires": "2027-01-31T01:00:00+01:00", "disabled": true,
        });
        let expires = read(told).unwrap().expires.map(|expires| expires.to_string());
        assert_eq!(expires.as_deref(), Some("2027-01-31T00:00:00.000Z"));
        assert!(read(json!({})).is_ok());
        for (definition, field) in [
            (json!({ "allow": "x" }), Some("allow")),
            (json!({ "allow": [{ "upstream": "x" }] }), Some("allow")),
            (json!({ "scopes": ["a b"] }), Some("scopes")),
            (json!({ "disabled": 1 }), Some("disabled")),
            (json!({ "expires": "soon" }), Some("expires")),
            (json!({ "owner": "" }), Some("owner")),
            (json!({ "colour": "blue" }), Some("colour")),
        ] {
            let wrong = read(definition.clone()).unwrap_err();
            assert_eq!(wrong[0].field.as_deref(), field, "{definition}: {wrong:?}");
        }
    }

    #[test]
    fn secrets_stand_in_four_places() {
        let Value::Object(mut definition) = json!({
            "url": "a", "trust": "b", "headers": { "h": "c" }, "environment": { "e": "d" },
            "auth": { "client_id": "e", "client_secret": "f", "headers": ["g"] },
            "tls": { "client_key": "h", "ca_file": "i" },
        }) else {
            panic!("an object")
        };
        let mut found = Vec::new();
        each_secret(&mut definition, |field, _| found.push(field.to_owned()));
        assert_eq!(found, ["headers.h", "environment.e", "auth.client_secret", "tls.client_key"]);
        for (text, in_header, elsewhere) in [
            ("env:A", Said::Reference, Said::Reference),
            ("Bearer file:a", Said::Reference, Said::Literal),
            ("hunter2 env:prod", Said::Reference, Said::Literal),
            ("sealed:7", Said::Sealed("7"), Said::Sealed("7")),
            ("Bearer sealed:7", Said::Sealed("7"), Said::Literal),
            ("Bearer abc", Said::Literal, Said::Literal),
            ("", Said::Literal, Said::Literal),
        ] {
            assert_eq!(said("headers.h", text), in_header, "{text}");
            for field in ["environment.headers.", "auth.client_secret", "tls.client_key"] {
                assert_eq!(said(field, text), elsewhere, "{field}: {text}");
            }
        }
    }

    proptest! {
        #[test]
        fn every_text_arrives_as_it_was(trust in any::<String>(), label in any::<String>()) {
            let upstream = read(json!({ "command": ["x"], "trust": trust, "labels": [label] })).unwrap();
            prop_assert_eq!((upstream.trust, upstream.labels), (trust, vec![label]));
        }
    }
}
