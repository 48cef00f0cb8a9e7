//! What has to be done so that what is stored is what a file says. Pure.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Map, Value};

use super::export::{References, SEALED, references};
use super::patch::{lines, patch};
use super::policies::{Policies, told, uploaded};
use super::stored::{Stored, Thing};
use crate::config::definition::{self, each_secret};
use crate::config::portable::Sections;
use crate::ids::{KeyName, UpstreamName};

/// What may be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Upstream,
    Key,
    Policy,
}

impl Kind {
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Upstream => "upstream",
            Self::Key => "key",
            Self::Policy => "policy",
        }
    }
}

/// One change.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    /// A module that policies name.
    Upload {
        digest: String,
        file: PathBuf,
    },
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

/// What is applied of a key. A file says its secret besides, which is the file's own.
const OF_KEYS: [&str; 6] = ["allow", "disabled", "expires", "groups", "owner", "scopes"];

impl Plan {
    /// From what is stored to what the file says. `prunes` removes what is stored and not in the file, as far as the file has
    /// a section for it.
    ///
    /// Policies come before what they guard, and go after it.
    pub(super) fn of(file: &Sections, policies: &Policies, stored: &Stored, prunes: bool) -> Self {
        let mut plan = Self { conflicts: policies.wrong.clone(), ..Self::default() };
        plan.upload(policies, stored);
        let references = references(stored);
        let kinds = [
            (Kind::Policy, &policies.by_name, &stored.policies),
            (Kind::Upstream, &file.upstreams, &stored.upstreams),
            (Kind::Key, &file.keys, &stored.keys),
        ];
        for (kind, wanted, stored) in kinds {
            let Some(wanted) = wanted else { continue };
            for (name, body) in wanted {
                plan.one((kind, name.as_str()), body, stored.get(name), &references);
            }
            for (name, thing) in stored.iter().filter(|(name, _)| !wanted.contains_key(*name)) {
                plan.absent(kind, name, thing, prunes);
            }
        }
        // Stable: the others stay as they are.
        plan.steps.sort_by_key(|step| matches!(step, Step::Remove { kind: Kind::Policy, .. }));
        plan
    }

    /// The modules that policies name and that are not there yet.
    fn upload(&mut self, policies: &Policies, stored: &Stored) {
        let mut missing: BTreeMap<String, &str> = BTreeMap::new();
        for (name, body) in policies.by_name.iter().flatten() {
            if let Some(digest) = uploaded(body).filter(|digest| !stored.modules.contains_key(digest)) {
                missing.entry(digest).or_insert(name);
            }
        }
        for (digest, name) in missing {
            match policies.files.get(&digest) {
                Some(file) => self.steps.push(Step::Upload { digest, file: file.clone() }),
                None => self.conflicts.push(format!(
                    "policy {name}: its module sha256:{digest} is not uploaded: `portcullis policy upload FILE` does that, or \
                     put the path of the file into `module`, and this into `digest`"
                )),
            }
        }
    }

    fn one(
        &mut self,
        (kind, name): (Kind, &str),
        body: &Map<String, Value>,
        thing: Option<&Thing>,
        references: &References,
    ) {
        let word = kind.word();
        if thing.is_some_and(|thing| thing.is_of_file) {
            self.conflicts.push(format!("{word} {name} is in the gateway's own configuration file: change it there"));
            return;
        }
        let body = match kind {
            Kind::Upstream => of_upstream(name, body).map(|()| keep_sealed(body.clone(), references.get(name))),
            // What is wrong with them was found where they were read.
            Kind::Policy => Ok(body.clone()),
            Kind::Key => of_key(name, body),
        };
        let body = match body {
            Ok(body) => body,
            Err(wrong) => {
                self.conflicts.extend(wrong.iter().map(|wrong| format!("{word} {name}: {wrong}")));
                return;
            }
        };
        let name = name.to_owned();
        match thing {
            None => self.steps.push(Step::Create { kind, name, body }),
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
            Step::Upload { digest, file } => vec![format!("+ module sha256:{digest} ({})", file.display())],
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

/// What the gateway would refuse of an upstream, as far as it can be known here: the values stand for what the gateway's own
/// environment has.
fn of_upstream(name: &str, body: &Map<String, Value>) -> Result<(), Vec<String>> {
    let name = UpstreamName::parse(name).map_err(|error| vec![error.to_string()])?;
    definition::upstream_shape(&name, body).map_err(|misfits| misfits.into_iter().map(told).collect())
}

/// What is applied of a key, without what is as it would be anyway; or what is wrong with it.
fn of_key(name: &str, body: &Map<String, Value>) -> Result<Map<String, Value>, Vec<String>> {
    let name = KeyName::parse(name).map_err(|error| vec![error.to_string()])?;
    let key = definition::key(&name, body).map_err(|misfits| misfits.into_iter().map(told).collect::<Vec<_>>())?;
    // As the API tells times.
    let expires = key.expires.map(|expires| expires.to_string());
    let member = |name: &&str| {
        let value = body.get(*name)?;
        let is_usual = *value == Value::Bool(false) || value.as_array().is_some_and(Vec::is_empty);
        let value = match &expires {
            Some(expires) if *name == "expires" => expires.as_str().into(),
            Some(_) | None => value.clone(),
        };
        (!is_usual).then(|| ((*name).to_owned(), value))
    };
    Ok(OF_KEYS.iter().filter_map(member).collect())
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

/// Keys that would be made, whose secrets somebody has to take.
pub(super) fn new_keys(plan: &Plan) -> Vec<&str> {
    let new = plan.steps.iter().filter_map(|step| match step {
        Step::Create { kind: Kind::Key, name, .. } => Some(name.as_str()),
        Step::Upload { .. } | Step::Create { .. } | Step::Change { .. } | Step::Remove { .. } => None,
    });
    new.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use std::path::Path;

    use super::super::export;
    use super::*;
    use crate::config::portable;

    /// Of a digest.
    const A: &str = "a";

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
        let guard = json!({
            "managed_by": "store", "revision": 9,
            "definition": {
                "module": format!("sha256:{}", A.repeat(64)), "priority": 7, "match": { "tools": ["rm_*"] },
                "config": { "roots": ["/srv/hunter2"], "depth": 2.0 },
            },
        });
        Stored {
            upstreams: [
                ("notes".to_owned(), Thing::upstream(&upstream)),
                ("mail".to_owned(), Thing::upstream(&json!({ "managed_by": "file" }))),
            ]
            .into(),
            keys: [("ci".to_owned(), Thing::key(&key))].into(),
            policies: [
                ("guard".to_owned(), Thing::policy(&guard)),
                ("of-the-file".to_owned(), Thing::policy(&json!({ "managed_by": "file" }))),
            ]
            .into(),
            modules: [(A.repeat(64), "paths 1.0.0".to_owned())].into(),
        }
    }

    fn of(text: &str, prunes: bool) -> Plan {
        let sections = portable::read(text).unwrap();
        let policies = Policies::of(sections.policies.as_ref(), Path::new("/nowhere"));
        Plan::of(&sections, &policies, &stored(), prunes)
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
    fn policies_come_first_and_go_last() {
        let text = format!(
            r#"
            [upstreams]
            [keys]
            [[policies]]
            name = "another"
            module = "sha256:{}"
            "#,
            A.repeat(64)
        );
        assert_eq!(of(&text, true).lines(), ["+ policy another", "- upstream notes", "- key ci", "- policy guard"]);
        assert_eq!(of("policies = []", false).left, ["policy guard"]);
    }

    #[test]
    fn what_a_policy_is_configured_with_is_not_shown() {
        let text = format!(
            r#"
            [[policies]]
            name = "guard"
            module = "sha256:{}"
            mode = "shadow"
            priority = 8
            config = {{ roots = ["/srv/hunter3"], depth = 2.0 }}
            "#,
            A.repeat(64)
        );
        let lines =
            ["~ policy guard", "    ~ config.roots", "    - match", "    + mode \"shadow\"", "    ~ priority 7 → 8"];
        assert_eq!(of(&text, false).lines(), lines);
    }

    #[test]
    fn a_module_has_to_be_there_or_to_come_along() {
        let digest = "b".repeat(64);
        let sections = portable::read(&format!(
            "[[policies]]\nname = \"one\"\nmodule = \"sha256:{digest}\"\n[[policies]]\nname = \"two\"\nmodule = \"sha256:{digest}\"\n"
        ))
        .unwrap();
        let mut policies = Policies::of(sections.policies.as_ref(), Path::new("/nowhere"));
        let without = Plan::of(&sections, &policies, &stored(), false);
        assert!(without.conflicts.len() == 1 && without.conflicts[0].contains("is not uploaded"), "{without:?}");
        policies.files.insert(digest.clone(), "guard.wasm".into());
        let with = Plan::of(&sections, &policies, &stored(), false);
        let upload = format!("+ module sha256:{digest} (guard.wasm)");
        assert_eq!(with.lines(), [upload.as_str(), "+ policy one", "+ policy two"], "once, and before it is named");
    }

    #[test]
    fn what_the_gateway_would_refuse_is_told_before_anything_is_done() {
        for (text, part) in [
            ("[keys.Bad]", "key Bad: key name \"Bad\" must be 1 to 64 characters"),
            ("[keys.a]\nallow = \"x\"", "key a: allow must be an array, not a string"),
            ("[keys.ci]\ndisabled = \"no\"", "key ci: disabled must be true or false, not a string"),
            ("[keys.a]\nexpires = \"soon\"", "key a: expires is not a date and time"),
            ("[upstreams.Bad]\nurl = \"https://a.example\"", "upstream Bad: upstream name \"Bad\" must be 1 to 24"),
            ("[upstreams.a]\nlabels = \"a\"", "upstream a: labels must be an array, not a string"),
            ("[upstreams.a]\nuri = \"https://a.example\"", "upstream a: unknown key `uri` (did you mean `url`?)"),
        ] {
            let plan = of(text, false);
            assert!(plan.steps.is_empty() && plan.conflicts.len() == 1, "{text}: {plan:?}");
            assert!(plan.conflicts[0].contains(part), "{text}: {plan:?}");
        }
        let plan = of("[keys.new]\nsecret = \"env:NONE\"\nexpires = \"2027-01-31T01:00:00+01:00\"\n", false);
        let Some(Step::Create { body, .. }) = plan.steps.first() else { panic!("{plan:?}") };
        assert_eq!(Value::Object(body.clone()), json!({ "expires": "2027-01-31T00:00:00.000Z" }));
    }

    #[test]
    fn what_the_gateways_file_has_is_not_changed_here() {
        let plan = of("[upstreams.mail]\nurl = \"https://mail.example\"\n[keys.ci]\ncolour = 1\n[keys.new]\n", false);
        assert_eq!(plan.conflicts.len(), 2, "{plan:?}");
        assert!(plan.conflicts[1].contains("colour"));
        assert_eq!(new_keys(&plan), ["new"]);
        let plan = of("[[policies]]\nname = \"of-the-file\"\nmodule = \"builtin:redact\"\n", true);
        assert_eq!(plan.conflicts, ["policy of-the-file is in the gateway's own configuration file: change it there"]);
    }
}
