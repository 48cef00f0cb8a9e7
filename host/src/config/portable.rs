//! Sections of a file as JSON, and back: what is stored may be written as a file, and a file's sections may be stored.
//!
//! Nothing is resolved here and no reference is followed: what a section comes to is for whoever stores it to judge.

use std::collections::BTreeMap;

use serde_json::{Map, Number, Value};

use super::mistake::did_you_mean;
use super::names;
use super::written::{Nulls, bare_or_quoted, inline};
use crate::patch::Unknown;

/// Largest text that is read, in bytes.
const LARGEST: usize = 4 << 20;

/// Sections by name.
pub type ByName = BTreeMap<String, Map<String, Value>>;

/// What a file says of things that may be stored. `None` where it has no such section at all.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sections {
    pub upstreams: Option<ByName>,
    pub keys: Option<ByName>,
    /// Entries of `[[policies]]`, without their names.
    pub policies: Option<ByName>,
    /// Names of other settings, which are a gateway's own. A name that no file may have is refused.
    pub others: Vec<String>,
}

/// Why a file's sections cannot be read. No text repeats a value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    #[error("the file is larger than {} KiB", LARGEST / 1024)]
    TooLarge,
    #[error("line {line} is no TOML: {problem}")]
    NotToml { line: usize, problem: String },
    #[error("unknown key {}", .0.join(", "))]
    Unknown(Vec<String>),
    #[error("`{0}` is no table of tables")]
    NotNamed(String),
    #[error("`{0}` is no list of tables")]
    NotListed(String),
    #[error("entry {number} of `{section}` has no name")]
    Nameless { section: String, number: usize },
    #[error("`{section}` has two entries that are called {name:?}")]
    Twice { section: String, name: String },
    #[error("`{0}` has a number that cannot be told in JSON")]
    Number(String),
}

/// Reads the sections of a file.
///
/// # Errors
/// [`Unreadable`].
pub fn read(text: &str) -> Result<Sections, Unreadable> {
    if text.len() > LARGEST {
        return Err(Unreadable::TooLarge);
    }
    let table: toml::Table = toml::from_str(text).map_err(|error| {
        let before = text.get(..error.span().map_or(0, |span| span.start)).unwrap_or_default();
        Unreadable::NotToml { line: 1 + before.matches('\n').count(), problem: error.message().to_owned() }
    })?;
    let unknown = unknown(&table);
    if !unknown.is_empty() {
        return Err(Unreadable::Unknown(unknown));
    }
    let mut sections = Sections::default();
    for (name, value) in table {
        match name.as_str() {
            "upstreams" => sections.upstreams = Some(by_name(&name, value)?),
            "keys" => sections.keys = Some(by_name(&name, value)?),
            "policies" => sections.policies = Some(listed(&name, value)?),
            _ => sections.others.push(name),
        }
    }
    Ok(sections)
}

/// The names at the top that no file may have, each with what it might have been.
fn unknown(table: &toml::Table) -> Vec<String> {
    let top = table.keys().map(|name| (name.clone(), Value::Null)).collect();
    let told = |unknown: Unknown<'_>| {
        let hint = did_you_mean(&unknown.name, unknown.known.into_iter());
        format!("`{}`{}", unknown.name, hint.map(|hint| format!(" ({hint})")).unwrap_or_default())
    };
    names::FILE.unknown_in(&top).into_iter().map(told).collect()
}

fn by_name(section: &str, value: toml::Value) -> Result<ByName, Unreadable> {
    let not_named = || Unreadable::NotNamed(section.to_owned());
    let toml::Value::Table(named) = value else { return Err(not_named()) };
    let one = |(name, value)| {
        let path = format!("{section}.{name}");
        match to_json(value).ok_or(Unreadable::Number(path))? {
            Value::Object(body) => Ok((name, body)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => Err(not_named()),
        }
    };
    named.into_iter().map(one).collect()
}

/// A list of tables, each of which says its name.
fn listed(section: &str, value: toml::Value) -> Result<ByName, Unreadable> {
    let not_listed = || Unreadable::NotListed(section.to_owned());
    let toml::Value::Array(entries) = value else { return Err(not_listed()) };
    let mut by_name = ByName::new();
    for (index, entry) in entries.into_iter().enumerate() {
        let path = || format!("{section}[{index}]");
        let Value::Object(mut body) = to_json(entry).ok_or_else(|| Unreadable::Number(path()))? else {
            return Err(not_listed());
        };
        let Some(Value::String(name)) = body.remove("name") else {
            return Err(Unreadable::Nameless { section: section.to_owned(), number: index + 1 });
        };
        if by_name.insert(name.clone(), body).is_some() {
            return Err(Unreadable::Twice { section: section.to_owned(), name });
        }
    }
    Ok(by_name)
}

/// `None` where a number is none in JSON.
fn to_json(value: toml::Value) -> Option<Value> {
    Some(match value {
        toml::Value::String(text) => Value::String(text),
        toml::Value::Integer(number) => Value::Number(number.into()),
        toml::Value::Float(number) => Value::Number(Number::from_f64(number)?),
        toml::Value::Boolean(truth) => Value::Bool(truth),
        toml::Value::Datetime(moment) => Value::String(moment.to_string()),
        toml::Value::Array(items) => Value::Array(items.into_iter().map(to_json).collect::<Option<_>>()?),
        toml::Value::Table(members) => {
            let member = |(name, value)| Some((name, to_json(value)?));
            Value::Object(members.into_iter().map(member).collect::<Option<_>>()?)
        }
    })
}

/// One entry of a list of a file, with its name.
pub fn write_entry(list: &str, name: &str, body: &Map<String, Value>) -> String {
    let mut named = body.clone();
    named.insert("name".to_owned(), name.into());
    // Tables in it belong to the entry above them.
    format!("[{}", write(&[list], &named).replacen(']', "]]", 1))
}

/// A section of a file: tables in it are sections of their own behind it. Members that are null are left out.
pub fn write(path: &[&str], body: &Map<String, Value>) -> String {
    let head = path.iter().map(|part| bare_or_quoted(part)).collect::<Vec<_>>().join(".");
    let mut text = format!("[{head}]\n");
    let (tables, plain): (Vec<_>, Vec<_>) = body.iter().partition(|(_, value)| value.is_object());
    for (name, value) in plain {
        if let Some(value) = inline(value, Nulls::LeftOut) {
            text.push_str(&format!("{} = {value}\n", bare_or_quoted(name)));
        }
    }
    for (name, value) in tables {
        if let Value::Object(members) = value {
            let path: Vec<&str> = path.iter().copied().chain([name.as_str()]).collect();
            text.push('\n');
            text.push_str(&write(&path, members));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        let Value::Object(object) = value else { panic!("an object") };
        object
    }

    #[test]
    fn what_is_written_is_read_again() {
        let upstream = object(json!({
            "url": "https://notes.example", "prefix": false, "process_limit": 7, "labels": ["a", "\"b\"\u{7f}"],
            "headers": { "x-key": "env:KEY", "a b": "c" }, "auth": { "kind": "none", "scopes": [] }, "trust": null,
        }));
        let ci = object(
            json!({ "allow": [{ "upstream": "notes", "tools": ["*"] }], "expires": "2027-01-31T00:00:00.000Z" }),
        );
        let text = format!("{}\n{}", write(&["upstreams", "notes"], &upstream), write(&["keys", "ci"], &ci));
        let sections = read(&text).unwrap();
        let mut expected = upstream;
        expected.remove("trust");
        assert_eq!(sections.upstreams, Some([("notes".to_owned(), expected)].into()), "{text}");
        assert_eq!(sections.keys, Some([("ci".to_owned(), ci)].into()), "{text}");
        assert!(sections.others.is_empty());
    }

    #[test]
    fn entries_of_a_list_have_names() {
        let guard = object(json!({ "module": "builtin:a", "config": { "b": { "c": [1.5] } }, "match": {} }));
        let plain = object(json!({ "module": "sha256:ab", "priority": -7 }));
        let text =
            format!("{}\n{}", write_entry("policies", "guard", &guard), write_entry("policies", "plain", &plain));
        let expected: ByName = [("guard".to_owned(), guard), ("plain".to_owned(), plain)].into();
        assert_eq!(read(&text).unwrap().policies, Some(expected), "{text}");
        assert_eq!(read("policies = []").unwrap().policies, Some(ByName::new()));
        for (text, wrong) in [
            ("policies = 7", "`policies` is no list of tables"),
            ("policies = [7]", "`policies` is no list of tables"),
            ("[policies.guard]", "`policies` is no list of tables"),
            ("[[policies]]\nname = \"a\"\n[[policies]]\nmodule = \"b\"", "entry 2 of `policies` has no name"),
            (
                "[[policies]]\nname = \"a\"\n[[policies]]\nname = \"a\"",
                "`policies` has two entries that are called \"a\"",
            ),
            ("[[policies]]\nname = \"a\"\nconfig.b = nan", "`policies[0]` has a number that cannot be told in JSON"),
        ] {
            assert_eq!(read(text).unwrap_err().to_string(), wrong, "{text}");
        }
    }

    #[test]
    fn a_file_is_taken_apart() {
        let sections = read("public_url = \"x\"\n[keys]\n[policy]\nrecord = true\n").unwrap();
        assert_eq!((sections.upstreams, sections.keys, sections.policies), (None, Some(ByName::new()), None));
        assert_eq!(sections.others, ["policy", "public_url"]);
        let moment = read("[keys.ci]\nexpires = 2027-01-31T00:00:00Z\n").unwrap();
        assert_eq!(moment.keys.unwrap()["ci"]["expires"], "2027-01-31T00:00:00Z");
    }

    #[test]
    fn what_cannot_be_read_is_told_without_its_values() {
        let wrong = |text: &str| read(text).unwrap_err().to_string();
        assert!(wrong("a = 1\nb = \"hunter2\n").starts_with("line 2 "), "{}", wrong("a = 1\nb = \"hunter2\n"));
        assert_eq!(wrong("[keyz.a]"), "unknown key `keyz` (did you mean `keys`?)");
        assert!(
            wrong("[keys]\n[upstream.a]\n[zzz]")
                .starts_with("unknown key `upstream` (did you mean `upstreams`?), `zzz` (")
        );
        assert_eq!(wrong("keys = 7"), "`keys` is no table of tables");
        assert_eq!(wrong("[keys]\nci = \"hunter2\""), "`keys` is no table of tables");
        assert_eq!(wrong("[keys.ci]\nexpires = nan"), "`keys.ci` has a number that cannot be told in JSON");
        assert_eq!(wrong(&" ".repeat(LARGEST + 1)), "the file is larger than 4096 KiB");
    }

    proptest! {
        #[test]
        fn every_text_and_name_arrives_as_it_was(name in any::<String>(), text in any::<String>()) {
            let body = object(json!({ name.clone(): text, "table": { name.clone(): [text.clone()] } }));
            let expected: ByName = [("x".to_owned(), body.clone())].into();
            let written = write(&["keys", "x"], &body);
            prop_assert_eq!(read(&written).unwrap().keys, Some(expected), "{}", written);
        }
    }
}
