//! What has to be done so that what is stored is what a file says. Pure.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::export::{References, SEALED, references};
use super::stored::{Stored, Thing};
use crate::config::definition::each_secret;
use crate::config::portable::Sections;

/// What may be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Upstream,
    Key,
}

impl Kind {
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Upstream => "upstream",
            Self::Key => "key",
        }
    }
}

/// One change.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    Create {
        kind: Kind,
        name: String,
        body: Map<String, Value>,
    },
    /// A merge patch of what has this revision.
    Change {
        kind: Kind,
        name: String,
        patch: Map<String, Value>,
        revision: u64,
        lines: Vec<String>,
    },
    Remove {
        kind: Kind,
        name: String,
        revision: u64,
    },
}

/// All that is to be done.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Plan {
    pub(super) steps: Vec<Step>,
    /// What is stored, not in the file, and left alone.
    pub(super) left: Vec<String>,
    /// Why nothing can be done at all.
    pub(super) conflicts: Vec<String>,
}

/// Settings whose values are no secrets and hold none.
const SHOWN: [&str; 17] = [
    "allow",
    "allow_on_all_keys",
    "auth.kind",
    "auth.scopes",
    "call_timeout",
    "disabled",
    "expires",
    "groups",
    "labels",
    "memory_limit",
    "owner",
    "prefix",
    "process_limit",
    "protocol",
    "scopes",
    "sync_interval",
    "transport",
];

/// What a file may say of a key besides what is applied: the secret is the file's own.
const OF_FILE_ALONE: [&str; 2] = ["secret", "sha256"];
/// What is applied of a key.
const OF_KEYS: [&str; 6] = ["allow", "disabled", "expires", "groups", "owner", "scopes"];

impl Plan {
    /// From what is stored to what the file says. `prunes` removes what is stored and not in the file, as far as the file has
    /// a section for it.
    pub(super) fn of(file: &Sections, stored: &Stored, prunes: bool) -> Self {
        let mut plan = Self::default();
        let references = references(stored);
        let kinds = [(Kind::Upstream, &file.upstreams, &stored.upstreams), (Kind::Key, &file.keys, &stored.keys)];
        for (kind, wanted, stored) in kinds {
            let Some(wanted) = wanted else { continue };
            for (name, body) in wanted {
                plan.one((kind, name.as_str()), body, stored.get(name), &references);
            }
            for (name, thing) in stored.iter().filter(|(name, _)| !wanted.contains_key(*name)) {
                plan.absent(kind, name, thing, prunes);
            }
        }
        plan
    }

    fn one(
        &mut self,
        (kind, name): (Kind, &str),
        body: &Map<String, Value>,
        thing: Option<&Thing>,
        references: &References,
    ) {
        let word = kind.word();
        let body = match kind {
            Kind::Upstream => keep_sealed(body.clone(), references.get(name)),
            Kind::Key => match of_key(body) {
                Ok(body) => body,
                Err(unknown) => {
                    self.conflicts.push(format!("{word} {name}: there is no setting {unknown}"));
                    return;
                }
            },
        };
        let name = name.to_owned();
        match thing {
            None => self.steps.push(Step::Create { kind, name, body }),
            Some(thing) if thing.is_of_file => {
                self.conflicts
                    .push(format!("{word} {name} is in the gateway's own configuration file: change it there"));
            }
            Some(thing) => {
                let patch = patch(&thing.body, &body);
                if !patch.is_empty() {
                    let lines = lines(&thing.body, &patch);
                    self.steps.push(Step::Change { kind, name, patch, revision: thing.revision, lines });
                }
            }
        }
    }

    fn absent(&mut self, kind: Kind, name: &str, thing: &Thing, prunes: bool) {
        match (thing.is_of_file, prunes) {
            (true, _) => {}
            (false, true) => {
                self.steps.push(Step::Remove { kind, name: name.to_owned(), revision: thing.revision });
            }
            (false, false) => self.left.push(format!("{} {name}", kind.word())),
        }
    }

    /// Each change on a line, with each setting that changes below it. No secret is in them.
    pub(super) fn lines(&self) -> Vec<String> {
        let told = |step: &Step| match step {
            Step::Create { kind, name, .. } => vec![format!("+ {} {name}", kind.word())],
            Step::Remove { kind, name, .. } => vec![format!("- {} {name}", kind.word())],
            Step::Change { kind, name, lines, .. } => {
                let settings = lines.iter().map(|line| format!("    {line}"));
                [format!("~ {} {name}", kind.word())].into_iter().chain(settings).collect()
            }
        };
        self.steps.iter().flat_map(told).collect()
    }
}

/// What is applied of a key, without what is as it would be anyway; or the setting that there is not.
fn of_key(body: &Map<String, Value>) -> Result<Map<String, Value>, String> {
    let known = |name: &str| OF_KEYS.contains(&name) || OF_FILE_ALONE.contains(&name);
    if let Some(unknown) = body.keys().find(|name| !known(name)) {
        return Err(unknown.clone());
    }
    let member = |name: &&str| {
        let value = body.get(*name)?;
        let is_usual = *value == Value::Bool(false) || value.as_array().is_some_and(Vec::is_empty);
        let value = if *name == "expires" { moment(value) } else { value.clone() };
        (!is_usual).then(|| ((*name).to_owned(), value))
    };
    Ok(OF_KEYS.iter().filter_map(member).collect())
}

/// A time as the API tells times.
fn moment(value: &Value) -> Value {
    let read = value.as_str().and_then(|text| humantime::parse_rfc3339(text).ok());
    read.map_or_else(|| value.clone(), |time| humantime::format_rfc3339_millis(time).to_string().into())
}

/// What an export wrote in place of a sealed secret means that it stays as it is, where one is sealed there.
fn keep_sealed(mut body: Map<String, Value>, references: Option<&BTreeMap<String, String>>) -> Map<String, Value> {
    let Some(references) = references else { return body };
    each_secret(&mut body, |field, value| {
        if references.get(field).is_some_and(|reference| *value == *reference) {
            *value = SEALED.into();
        }
    });
    body
}

/// The merge patch (RFC 7396) that makes one of the other.
fn patch(from: &Map<String, Value>, to: &Map<String, Value>) -> Map<String, Value> {
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
fn lines(from: &Map<String, Value>, patch: &Map<String, Value>) -> Vec<String> {
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

/// Keys that would be made, whose secrets somebody has to take.
pub(super) fn new_keys(plan: &Plan) -> Vec<&str> {
    let new = plan.steps.iter().filter_map(|step| match step {
        Step::Create { kind: Kind::Key, name, .. } => Some(name.as_str()),
        Step::Create { .. } | Step::Change { .. } | Step::Remove { .. } => None,
    });
    new.collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::super::export;
    use super::*;
    use crate::config::portable;

    fn stored() -> Stored {
        let upstream = json!({
            "managed_by": "store", "enabled": true, "definition_revision": 3,
            "definition": {
                "url": "https://notes.example/hunter2", "call_timeout": "5s", "labels": ["a"],
                "headers": { "x-key": "sealed", "x-team": "env:TEAM" }, "auth": { "kind": "none" },
            },
        });
        let key = json!({
            "managed_by": "store", "name": "ci", "allow": [{ "upstream": "*", "tools": ["a", "b"] }], "scopes": ["s"],
            "groups": [], "owner": "ada", "expires": "2027-01-31T00:00:00.000Z", "disabled": true, "revision": 7,
        });
        Stored {
            upstreams: [
                ("notes".to_owned(), Thing::upstream(&upstream)),
                ("mail".to_owned(), Thing::upstream(&json!({ "managed_by": "file" }))),
            ]
            .into(),
            keys: [("ci".to_owned(), Thing::key(&key))].into(),
            ..Stored::default()
        }
    }

    fn of(text: &str, prunes: bool) -> Plan {
        Plan::of(&portable::read(text).unwrap(), &stored(), prunes)
    }

    #[test]
    fn what_was_exported_changes_nothing() {
        let text = export::text(&stored(), &[]);
        assert_eq!(of(&text, true), Plan::default(), "{text}");
    }

    #[test]
    fn each_difference_is_a_line_without_secrets() {
        let text = r#"
            [upstreams.notes]
            url = "https://notes.example/hunter3"
            labels = ["a", "b"]
            [upstreams.notes.headers]
            x-key = "hunter2"
            x-team = "env:TEAM"
            [upstreams.notes.auth]
            kind = "per-user-oauth"
            [upstreams.wiki]
            url = "https://wiki.example"
            [keys.ci]
            secret = "env:CI"
            allow = [{ upstream = "*", tools = ["a", "b"] }]
            expires = 2027-01-31T00:00:00Z
            disabled = true
            groups = []
        "#;
        let plan = of(text, false);
        let lines = plan.lines();
        assert_eq!(
            lines,
            [
                "~ upstream notes",
                "    ~ auth.kind \"none\" → \"per-user-oauth\"",
                "    - call_timeout \"5s\"",
                "    ~ headers.x-key",
                "    ~ labels [\"a\"] → [\"a\",\"b\"]",
                "    ~ url",
                "+ upstream wiki",
                "~ key ci",
                "    - owner \"ada\"",
                "    - scopes [\"s\"]",
            ]
        );
        assert!(plan.conflicts.is_empty() && plan.left.is_empty());
        assert!(new_keys(&plan).is_empty());
    }

    #[test]
    fn what_is_not_in_the_file_goes_when_that_is_said_and_its_section_is_there() {
        assert_eq!(of("[upstreams]\n", false).left, ["upstream notes"]);
        assert_eq!(of("[upstreams]\n", true).lines(), ["- upstream notes"]);
        assert_eq!(of("[keys]\n", true).lines(), ["- key ci"]);
        assert_eq!(of("public_url = \"x\"\n", true), Plan::default());
    }

    #[test]
    fn what_the_gateways_file_has_is_not_changed_here() {
        let plan = of("[upstreams.mail]\nurl = \"https://mail.example\"\n[keys.ci]\ncolour = 1\n[keys.new]\n", false);
        assert_eq!(plan.conflicts.len(), 2, "{plan:?}");
        assert!(plan.conflicts[1].contains("colour"));
        assert_eq!(new_keys(&plan), ["new"]);
    }

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
