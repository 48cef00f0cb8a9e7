//! Policies of a file as the store has them: named by the digests of their modules, which may be files beside the file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::cli::policy::read_module;
use crate::config::definition::{self, Misfit};
use crate::config::portable::ByName;
use crate::ids::BindingName;
use crate::oci::Reference;
use crate::policy::module_digest;

/// What the name of a module in the store begins with, and so a digest.
const BY_DIGEST: &str = "sha256:";
/// What names of modules begin with that are no paths.
const NO_PATHS: [&str; 3] = ["builtin:", Reference::SCHEME, BY_DIGEST];

/// What a file wants to be bound.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Policies {
    /// Definitions without paths. `None` where the file has no such section.
    pub(super) by_name: Option<ByName>,
    /// The modules that the file names by their paths, by digest.
    pub(super) files: BTreeMap<String, PathBuf>,
    /// Why some of them cannot be stored.
    pub(super) wrong: Vec<String>,
}

impl Policies {
    /// Those that a file in this directory has. Reads the modules.
    pub(super) fn of(sections: Option<&ByName>, directory: &Path) -> Self {
        let mut policies = Self::default();
        let Some(sections) = sections else { return policies };
        let mut by_name = ByName::new();
        for (name, body) in sections {
            match policies.stored_form(body, directory) {
                Err(wrong) => policies.wrong.push(format!("policy {name}: {wrong}")),
                Ok(body) => {
                    policies.wrong.extend(mistakes(name, &body));
                    by_name.insert(name.clone(), body);
                }
            }
        }
        policies.by_name = Some(by_name);
        policies
    }

    /// The definition with the digest of its module in place of a path.
    fn stored_form(&mut self, body: &Map<String, Value>, directory: &Path) -> Result<Map<String, Value>, String> {
        let mut body = body.clone();
        let path = body.get("module").and_then(Value::as_str);
        let Some(path) = path.filter(|module| !NO_PATHS.iter().any(|begin| module.starts_with(begin))) else {
            return Ok(body);
        };
        let file = directory.join(path);
        let bytes = read_module(&file).map_err(|error| format!("{error:#}"))?;
        let digest = module_digest(&bytes).to_string();
        let named = format!("{BY_DIGEST}{digest}");
        // It is said by the module from here on.
        if let Some(said) = body.remove("digest")
            && !said.as_str().is_some_and(|said| said.eq_ignore_ascii_case(&named))
        {
            return Err(format!("{} has the digest {named}, and not the one that is said", file.display()));
        }
        body.insert("module".to_owned(), named.into());
        self.files.insert(digest, file);
        Ok(body)
    }
}

/// What the gateway would refuse of a definition.
fn mistakes(name: &str, body: &Map<String, Value>) -> Vec<String> {
    let misfits = match BindingName::parse(name) {
        Err(error) => vec![Misfit::of("name", error.to_string())],
        Ok(name) => definition::binding(&name, body).err().unwrap_or_default(),
    };
    misfits.into_iter().map(|misfit| format!("policy {name}: {}", told(misfit))).collect()
}

/// What is wrong, with what to do about it.
pub(super) fn told(misfit: Misfit) -> String {
    let hint = misfit.hint.map(|hint| format!(" ({hint})")).unwrap_or_default();
    format!("{}{hint}", misfit.message)
}

/// The digest of an uploaded module that a definition names.
pub(super) fn uploaded(body: &Map<String, Value>) -> Option<String> {
    let digest = body.get("module")?.as_str()?.strip_prefix(BY_DIGEST)?;
    Some(digest.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const DIGEST: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

    fn of(definition: &Value) -> (Policies, Option<Map<String, Value>>) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("guard.wasm"), "test").unwrap();
        let sections: ByName = [("guard".to_owned(), definition.as_object().unwrap().clone())].into();
        let policies = Policies::of(Some(&sections), dir.path());
        let body = policies.by_name.as_ref().and_then(|by_name| by_name.get("guard").cloned());
        (policies, body)
    }

    #[test]
    fn a_module_beside_the_file_is_named_by_its_digest() {
        for definition in [
            json!({ "module": "guard.wasm", "priority": 7 }),
            json!({ "module": "guard.wasm", "priority": 7, "digest": format!("sha256:{DIGEST}") }),
            json!({ "module": "guard.wasm", "priority": 7, "digest": format!("sha256:{}", DIGEST.to_uppercase()) }),
        ] {
            let (policies, body) = of(&definition);
            let expected = json!({ "module": format!("sha256:{DIGEST}"), "priority": 7 });
            assert_eq!((policies.wrong, body.map(Value::Object)), (vec![], Some(expected)));
            assert!(policies.files[DIGEST].ends_with("guard.wasm"));
        }
        let named = json!({ "module": format!("sha256:{DIGEST}"), "digest": format!("sha256:{DIGEST}") });
        let (policies, body) = of(&named);
        assert_eq!((body.map(Value::Object), policies.files.len()), (Some(named), 0), "it stays as it is said");
        assert_eq!(Policies::of(None, Path::new("/")), Policies::default());
    }

    #[test]
    fn what_the_store_does_not_take_is_told_beforehand() {
        for (definition, part) in [
            (json!({ "module": "missing.wasm" }), "missing.wasm"),
            (json!({ "module": "guard.wasm", "digest": "sha256:00" }), "not the one that is said"),
            (json!({ "module": "guard.wasm", "tests": "cases.json" }), "tests is a path"),
            (json!({ "module": "guard.wasm", "colour": "blue" }), "colour"),
            (json!({ "module": "oci://registry.example/a@sha256:00" }), "neither a policy that comes with the gateway"),
            (json!({ "priority": 7 }), "needs a module"),
        ] {
            let (policies, _) = of(&definition);
            assert_eq!(policies.wrong.len(), 1, "{definition}: {:?}", policies.wrong);
            let wrong = &policies.wrong[0];
            assert!(wrong.starts_with("policy guard: ") && wrong.contains(part), "{definition}: {wrong}");
        }
    }
}
