//! Policies that operators keep in the gateway's store: modules that they upload, and bindings that they declare.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::ValueEnum;
use http::Method;
use serde_json::{Map, Value, json};

use super::super::admin::{Paged, ask, ask_if, segment, send, table, text};
use super::super::output::{is_not_found, tell};
use super::super::{AdminSocket, WithConfig};
use super::{read_at_most, read_json, read_module};
use crate::policy::signature::{MAX_SIGNATURES_BYTES, file_beside};

const MODULES: &str = "/api/v1/policies/modules";
const BINDINGS: &str = "/api/v1/policies/bindings";

/// Keep a module in the store of the running gateway, once the gateway has checked, compiled and described it.
///
/// The signatures in FILE.sig are sent along if that is there. What is kept is bound by its digest, with `bind`.
#[derive(clap::Args)]
pub(in crate::cli) struct Upload {
    /// A component or a core module.
    file: PathBuf,
    #[command(flatten)]
    with: WithConfig,
}

impl Upload {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let answer = upload(&self.with, &self.file, read_module(&self.file)?)?;
        let told = |answer: &Value| {
            format!(
                "{} {}, {} bytes\nsha256:{}",
                text(&answer["name"]),
                text(&answer["version"]),
                answer["bytes"],
                text(&answer["digest"])
            )
        };
        tell(&self.with, &answer, told)
    }
}

/// Sends a module, and the signatures beside its file.
pub(in crate::cli) fn upload(with: &AdminSocket, file: &Path, module: Vec<u8>) -> anyhow::Result<Value> {
    let signatures = signatures_beside(file)?.map(|text| STANDARD.encode(text));
    let headers: Vec<(&str, String)> =
        signatures.into_iter().map(|encoded| ("portcullis-signatures", encoded)).collect();
    send(with, MODULES, ("application/wasm", module), &headers)
}

fn signatures_beside(module: &Path) -> anyhow::Result<Option<Vec<u8>>> {
    let beside = file_beside(module);
    match std::fs::metadata(&beside) {
        Ok(_) => read_at_most(&beside, MAX_SIGNATURES_BYTES).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", beside.display())),
    }
}

/// Show the modules that were uploaded.
#[derive(clap::Args)]
pub(in crate::cli) struct Modules {
    #[command(flatten)]
    paged: Paged,
}

impl Modules {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        self.paged.tell(MODULES, "modules", |modules| {
            let row = |module: &Value| {
                vec![
                    text(&module["name"]).to_owned(),
                    text(&module["version"]).to_owned(),
                    module["bytes"].to_string(),
                    if module["signed"] == true { "signed".to_owned() } else { String::new() },
                    text(&module["uploaded"]).to_owned(),
                    format!("sha256:{}", text(&module["digest"])),
                ]
            };
            table(&["NAME", "VERSION", "BYTES", "", "UPLOADED", "DIGEST"], modules.iter().map(row))
        })
    }
}

/// Remove an uploaded module that no policy uses, and none that one can go back to.
#[derive(clap::Args)]
pub(in crate::cli) struct RemoveModule {
    /// As `modules` shows it.
    digest: String,
    #[command(flatten)]
    with: WithConfig,
}

impl RemoveModule {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let digest = self.digest.strip_prefix("sha256:").unwrap_or(&self.digest);
        let answer = ask(&self.with, Method::DELETE, &format!("{MODULES}/{}", segment(digest)?), None)?;
        tell(&self.with, &answer, |_| format!("sha256:{digest} is removed"))
    }
}

/// Bind a policy in the store of the running gateway, or change how it is bound.
///
/// What is not said stays as it is. The gateway tries it out with all other policies, and refuses what it cannot use.
#[derive(clap::Args)]
pub(in crate::cli) struct Bind {
    /// Name of this use, for logs and the decision trail.
    name: String,
    /// builtin:NAME for a policy that comes with the gateway, or sha256:DIGEST for an uploaded one.
    #[arg(long)]
    module: Option<String>,
    /// The policy's own settings, a JSON object; `-` is standard input.
    #[arg(long, value_name = "FILE")]
    settings: Option<PathBuf>,
    /// Policies of a lower number are asked first.
    #[arg(long, allow_negative_numbers = true)]
    priority: Option<i32>,
    /// Whether its answers count.
    #[arg(long)]
    mode: Option<ModeFlag>,
    /// All of it at once, as JSON: what an entry of [[policies]] says, without its name.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["module", "settings", "priority", "mode"])]
    definition: Option<PathBuf>,
    /// Only tell what recorded decisions would be otherwise, and save nothing.
    #[arg(long)]
    rehearse: bool,
    #[command(flatten)]
    with: WithConfig,
}

#[derive(Clone, Copy, ValueEnum)]
enum ModeFlag {
    Enforce,
    Shadow,
    Off,
}

impl ModeFlag {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Shadow => "shadow",
            Self::Off => "off",
        }
    }
}

impl Bind {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let path = format!("{BINDINGS}/{}", segment(&self.name)?);
        let there = self.there(&path)?;
        let before = there.as_ref().map_or_else(|| json!({}), |there| there["definition"].clone());
        let definition = self.wanted(&before)?;
        if self.rehearse {
            let body = json!({ "definition": definition });
            let answer = ask(&self.with, Method::POST, &format!("{path}/rehearse"), Some(body))?;
            return tell(&self.with, &answer, |answer| text(&answer["summary"]).to_owned());
        }
        let answer = match there.as_ref().and_then(|there| there["revision"].as_u64()) {
            Some(revision) => {
                let patch = json!({ "definition": difference(&before, &definition) });
                ask_if(&self.with, Method::PATCH, &path, Some(patch), revision)?
            }
            None => {
                let body = json!({ "name": self.name, "definition": definition });
                ask(&self.with, Method::POST, BINDINGS, Some(body))?
            }
        };
        tell(&self.with, &answer, told)
    }

    /// The binding of this name, if there is one.
    fn there(&self, path: &str) -> anyhow::Result<Option<Value>> {
        match ask(&self.with, Method::GET, path, None) {
            Ok(there) => Ok(Some(there)),
            Err(error) if is_not_found(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The definition that is asked for.
    fn wanted(&self, before: &Value) -> anyhow::Result<Value> {
        if let Some(file) = &self.definition {
            return object(file);
        }
        let mut definition = before.as_object().cloned().unwrap_or_default();
        let mut say = |key: &str, value: Option<Value>| {
            if let Some(value) = value {
                definition.insert(key.to_owned(), value);
            }
        };
        say("module", self.module.as_deref().map(Value::from));
        say("config", self.settings.as_deref().map(object).transpose()?);
        say("priority", self.priority.map(Value::from));
        say("mode", self.mode.map(|mode| mode.as_str().into()));
        if !definition.contains_key("module") {
            bail!("say which module with --module");
        }
        Ok(Value::Object(definition))
    }
}

fn object(file: &Path) -> anyhow::Result<Value> {
    let value = read_json(file)?;
    if !value.is_object() {
        bail!("{} is no JSON object", file.display());
    }
    Ok(value)
}

/// The merge patch (RFC 7396) that makes the one of the other.
fn difference(before: &Value, after: &Value) -> Value {
    let (Value::Object(before), Value::Object(after)) = (before, after) else { return after.clone() };
    let gone = before.keys().filter(|key| !after.contains_key(*key)).map(|key| (key.clone(), Value::Null));
    let changed = after.iter().filter(|(key, value)| before.get(*key) != Some(*value)).map(|(key, value)| {
        let change = before.get(key).map_or_else(|| value.clone(), |before| difference(before, value));
        (key.clone(), change)
    });
    Value::Object(gone.chain(changed).collect::<Map<_, _>>())
}

fn told(answer: &Value) -> String {
    let bound = format!(
        "{} is bound, in revision {} and generation {}",
        text(&answer["name"]),
        answer["revision"],
        answer["generation"]
    );
    match answer["changes"]["summary"].as_str() {
        Some(changes) => format!("{bound}\n{changes}"),
        None => bound,
    }
}

/// Remove a policy from the store of the running gateway.
#[derive(clap::Args)]
pub(in crate::cli) struct Unbind {
    /// Name of the policy.
    name: String,
    #[command(flatten)]
    with: WithConfig,
}

impl Unbind {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let path = format!("{BINDINGS}/{}", segment(&self.name)?);
        let answer = ask(&self.with, Method::DELETE, &path, None)?;
        tell(&self.with, &answer, |_| format!("{} is bound no more", self.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_takes_away_what_is_not_said_any_more() {
        let before = json!({ "module": "builtin:a", "config": { "b": 1, "c": { "d": 2, "e": 3 } }, "priority": 7 });
        let after = json!({ "module": "builtin:a", "config": { "c": { "d": 2, "f": [4] }, "g": 5 } });
        let patch = json!({ "config": { "b": null, "c": { "e": null, "f": [4] }, "g": 5 }, "priority": null });
        assert_eq!(difference(&before, &after), patch);
        assert_eq!(difference(&before, &before), json!({}));
    }
}
