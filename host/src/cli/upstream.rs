//! Upstreams: listed, declared, changed, tried and removed; connected for the gateway; taken over from an MCP client.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Subcommand;
use http::Method;
use serde_json::{Map, Value, json};

use super::admin::{Paged, ask, ask_if, filtered, mistake, segment, table, text};
use super::output::{Format, tell};
use super::{WithConfig, import};

/// Largest file with a definition, in bytes.
const MAX_FILE: u64 = 1 << 20;

#[derive(Subcommand)]
pub(super) enum UpstreamCommand {
    /// List the upstreams of the running gateway and their health.
    List(Paged),
    /// Show one upstream with its definition. Secrets are not shown.
    Show(OneUpstream),
    /// Declare an upstream: an address, or a program and its arguments after `--`.
    ///
    /// It is tried before it is saved. Secrets are best given as references, env:NAME or file:PATH, which the gateway reads;
    /// others are sealed, and never shown again.
    Add(Box<Add>),
    /// Change settings of an upstream: KEY=VALUE, as in call_timeout=5s, auth.kind=per-user-oauth or labels='["a"]'.
    ///
    /// A value is JSON, or else a text; without one (KEY=) the setting is taken away. Header values and variables are
    /// always texts.
    Set {
        /// The name of the upstream.
        name: String,
        /// A setting as the configuration file calls it, and what it is from now on. May be given several times.
        #[arg(required = true, value_name = "KEY=VALUE")]
        settings: Vec<String>,
        /// Save it without a trial.
        #[arg(long)]
        unchecked: bool,
        #[command(flatten)]
        with: WithConfig,
    },
    /// Use a disabled upstream again.
    Enable {
        #[command(flatten)]
        one: OneUpstream,
        /// Without a trial.
        #[arg(long)]
        unchecked: bool,
    },
    /// Use an upstream no more, and keep its definition and what people have connected.
    Disable(OneUpstream),
    /// Remove an upstream, with everything that people have connected for it.
    Remove(OneUpstream),
    /// Try an upstream as it is declared: whether it can be reached, speaks MCP and lists what it offers.
    Try(OneUpstream),
    /// Have an upstream's tools read again.
    Refresh(OneUpstream),
    /// Print a link that connects an upstream for the gateway itself: for its list of tools, or for everybody where all share
    /// one connection. It opens once, within 15 minutes.
    Connect {
        /// A scope to ask for besides those that are asked for anyway. May be given several times.
        #[arg(long = "scope", value_name = "SCOPE")]
        scopes: Vec<String>,
        #[command(flatten)]
        one: OneUpstream,
    },
    /// Turn the `mcpServers` JSON of an MCP client into sections of a configuration file.
    ///
    /// Prints the sections, or appends them to a file with --into. Secrets go to files of their own, beside it.
    Import {
        /// The client's JSON file, such as claude_desktop_config.json, .cursor/mcp.json or .vscode/mcp.json.
        file: PathBuf,
        /// The configuration file to append to.
        #[arg(long, value_name = "FILE")]
        into: Option<PathBuf>,
    },
}

#[derive(clap::Args)]
pub(super) struct OneUpstream {
    /// The name of the upstream.
    name: String,
    #[command(flatten)]
    with: WithConfig,
}

impl OneUpstream {
    fn path(&self) -> anyhow::Result<String> {
        path_of(&self.name)
    }
}

fn path_of(name: &str) -> anyhow::Result<String> {
    Ok(format!("/api/v1/upstreams/{}", segment(name)?))
}

#[derive(clap::Args)]
pub(super) struct Add {
    /// Lower-case letters, digits and '-'.
    name: String,
    /// Where it is reached.
    #[arg(long, conflicts_with = "command")]
    url: Option<String>,
    /// A header that is sent with each request. May be given several times.
    #[arg(long = "header", value_name = "NAME=VALUE")]
    headers: Vec<String>,
    /// A variable in the program's environment. May be given several times.
    #[arg(long = "env", value_name = "NAME=VALUE")]
    environment: Vec<String>,
    /// Where its credential comes from: none, static-headers, shared-oauth, per-user-oauth, per-user-headers, …
    #[arg(long, value_name = "KIND")]
    auth: Option<String>,
    /// A JSON file with a definition: what a section [upstreams.NAME] of the configuration says. What is given besides
    /// comes before it.
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// Save it without a trial.
    #[arg(long)]
    unchecked: bool,
    /// The program and its arguments, started by the gateway without a shell.
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
    #[command(flatten)]
    with: WithConfig,
}

impl Add {
    fn definition(&self) -> anyhow::Result<Map<String, Value>> {
        let mut definition = self.from.as_deref().map(read_definition).transpose()?.unwrap_or_default();
        if let Some(url) = &self.url {
            definition.insert("url".to_owned(), json!(url));
        }
        if !self.command.is_empty() {
            definition.insert("command".to_owned(), json!(self.command));
        }
        let pairs = [("headers", &self.headers), ("environment", &self.environment)];
        let pairs = pairs.into_iter().flat_map(|(table, pairs)| pairs.iter().map(move |pair| (table, pair)));
        for (table, pair) in pairs {
            let (name, value) =
                pair.split_once('=').with_context(|| format!("{table}: what is given is not NAME=VALUE"))?;
            put(&mut definition, table, name, json!(value))?;
        }
        if let Some(kind) = &self.auth {
            put(&mut definition, "auth", "kind", json!(kind))?;
        }
        Ok(definition)
    }
}

/// Sets a member of a table.
fn put(definition: &mut Map<String, Value>, table: &str, name: &str, value: Value) -> anyhow::Result<()> {
    let members = definition.entry(table).or_insert_with(|| json!({}));
    let Value::Object(members) = members else { bail!("{table} is no object") };
    members.insert(name.to_owned(), value);
    Ok(())
}

fn read_definition(file: &Path) -> anyhow::Result<Map<String, Value>> {
    let what = || format!("cannot use {}", file.display());
    let size = std::fs::metadata(file).with_context(what)?.len();
    anyhow::ensure!(size <= MAX_FILE, "{} is larger than {MAX_FILE} bytes", file.display());
    serde_json::from_str(&std::fs::read_to_string(file).with_context(what)?).with_context(what)
}

/// A merge patch of what is said as KEY=VALUE.
fn patch_of(settings: &[String]) -> anyhow::Result<Map<String, Value>> {
    let mut patch = Map::new();
    for setting in settings {
        // What was given may be a secret, and is not repeated.
        let (key, value) = setting.split_once('=').context("a setting is not KEY=VALUE")?;
        let table = key.split_once('.');
        let is_text = matches!(table, Some(("headers" | "environment", _)));
        let value = match value {
            "" => Value::Null,
            text if is_text => json!(text),
            text => serde_json::from_str(text).unwrap_or_else(|_| json!(text)),
        };
        match table {
            Some((table, member)) => put(&mut patch, table, member, value)?,
            None => {
                patch.insert(key.to_owned(), value);
            }
        }
    }
    Ok(patch)
}

impl UpstreamCommand {
    pub(super) fn run(self) -> anyhow::Result<()> {
        match self {
            Self::List(page) => page.tell("/api/v1/upstreams", "upstreams", listed),
            Self::Show(one) => {
                let answer = ask(&one.with, Method::GET, &one.path()?, None)?;
                tell(&one.with, &answer, |answer| format!("{answer:#}"))
            }
            Self::Add(add) => {
                let new = json!({ "name": add.name, "definition": add.definition()? });
                let path = format!("/api/v1/upstreams{}", query(add.unchecked));
                let made = ask(&add.with, Method::POST, &path, Some(new))?;
                tell(&add.with, &made, standing)
            }
            Self::Set { name, settings, unchecked, with } => {
                change(&with, &name, json!({ "definition": patch_of(&settings)? }), unchecked)
            }
            Self::Enable { one, unchecked } => change(&one.with, &one.name, json!({ "enabled": true }), unchecked),
            Self::Disable(one) => change(&one.with, &one.name, json!({ "enabled": false }), false),
            Self::Remove(one) => {
                let answer = ask(&one.with, Method::DELETE, &one.path()?, None)?;
                tell(&one.with, &answer, |_| format!("{} is removed", one.name))
            }
            Self::Try(one) => {
                let tried = ask(&one.with, Method::POST, &format!("{}/try", one.path()?), None)?;
                // One that fails is an error of the command, in either format.
                match (one.with.output, trial(&one.name, &tried)) {
                    (Format::Table, Err(failed)) => Err(failed),
                    (Format::Table, Ok(told)) => tell(&one.with, &tried, |_| told),
                    (Format::Json, outcome) => tell(&one.with, &tried, |_| String::new()).and(outcome.map(drop)),
                }
            }
            Self::Refresh(one) => {
                let answer = ask(&one.with, Method::POST, &format!("{}/refresh", one.path()?), None)?;
                tell(&one.with, &answer, |_| format!("the tools of {} are being read", one.name))
            }
            Self::Connect { scopes, one } => {
                let scopes = Some(scopes.join(" ")).filter(|scopes| !scopes.is_empty());
                let path = filtered(&format!("{}/connect", one.path()?), &[("scope", scopes)])?;
                let link = ask(&one.with, Method::POST, &path, None)?;
                tell(&one.with, &link, |link| text(&link["url"]).to_owned())
            }
            Self::Import { file, into } => import::run(&file, into.as_deref()),
        }
    }
}

fn query(unchecked: bool) -> &'static str {
    if unchecked { "?unchecked=true" } else { "" }
}

/// Changes an upstream as it is now, unless somebody else is faster.
fn change(with: &WithConfig, name: &str, patch: Value, unchecked: bool) -> anyhow::Result<()> {
    let path = path_of(name)?;
    let revision = ask(with, Method::GET, &path, None)?["definition_revision"].as_u64().unwrap_or_default();
    let changed = ask_if(with, Method::PATCH, &format!("{path}{}", query(unchecked)), Some(patch), revision)?;
    tell(with, &changed, standing)
}

/// How an upstream stands, in a line.
fn standing(upstream: &Value) -> String {
    let tools = upstream["tools"].as_u64().map(|tools| format!(", {tools} tools")).unwrap_or_default();
    let reason = upstream["reason"].as_str().map(|reason| format!(": {reason}")).unwrap_or_default();
    format!("{} is {}{tools}{reason}", text(&upstream["name"]), text(&upstream["state"]))
}

/// What came of a trial.
fn trial(name: &str, tried: &Value) -> anyhow::Result<String> {
    match text(&tried["outcome"]) {
        "works" => Ok(format!("{name} works: {} tools, revision {}", tried["tools"], text(&tried["revision"]))),
        "wants_credential" => {
            Ok(format!("{name} is there, and answers those alone who show a credential of their own"))
        }
        _ => {
            let mistakes: Vec<String> = tried["mistakes"].as_array().into_iter().flatten().map(mistake).collect();
            let what = if mistakes.is_empty() { text(&tried["reason"]).to_owned() } else { mistakes.join("\n") };
            bail!("{name} fails at {}: {what}", text(&tried["stage"]))
        }
    }
}

fn listed(upstreams: &[Value]) -> String {
    let row = |upstream: &Value| {
        let tools = upstream["tools"].as_u64().map_or_else(|| "-".to_owned(), |tools| tools.to_string());
        let cell = |name: &str| text(&upstream[name]).replace('\n', " ");
        let transport = text(&upstream["transport"]["kind"]).to_owned();
        // One that runs on as it was tells why it would not start.
        let reason = if cell("reason").is_empty() { cell("mistake") } else { cell("reason") };
        vec![cell("name"), transport, cell("managed_by"), cell("state"), tools, reason]
    };
    table(&["NAME", "TRANSPORT", "MANAGED BY", "STATE", "TOOLS", "REASON"], upstreams.iter().map(row))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patch(settings: &[&str]) -> Value {
        let settings: Vec<String> = settings.iter().map(ToString::to_string).collect();
        Value::Object(patch_of(&settings).unwrap())
    }

    #[test]
    fn settings_are_a_merge_patch() {
        let settings =
            ["call_timeout=5s", "prefix=false", "labels=[\"a\"]", "trust=", "auth.kind=none", "headers.x-n=7"];
        let expected = json!({
            "call_timeout": "5s", "prefix": false, "labels": ["a"], "trust": null,
            "auth": { "kind": "none" }, "headers": { "x-n": "7" },
        });
        assert_eq!(patch(&settings), expected);
        assert_eq!(patch(&["headers.a=", "headers.b=x=y"]), json!({ "headers": { "a": null, "b": "x=y" } }));
        let wrong = patch_of(&["hunter2".to_owned()]).unwrap_err().to_string();
        assert!(!wrong.contains("hunter2"));
        assert!(patch_of(&["auth=x".to_owned(), "auth.kind=none".to_owned()]).is_err());
    }

    #[test]
    fn a_trial_says_where_it_failed() {
        let works = json!({ "outcome": "works", "tools": 3, "revision": "2026-07-28" });
        assert_eq!(trial("notes", &works).unwrap(), "notes works: 3 tools, revision 2026-07-28");
        let failed = json!({ "outcome": "failed", "stage": "reach", "reason": "nobody is there" });
        assert_eq!(trial("notes", &failed).unwrap_err().to_string(), "notes fails at reach: nobody is there");
        let mistakes = json!([{ "field": "url", "message": "url is no URL", "hint": null }]);
        let failed = json!({ "outcome": "failed", "stage": "settings", "reason": "x", "mistakes": mistakes });
        assert_eq!(trial("notes", &failed).unwrap_err().to_string(), "notes fails at settings: url is no URL");
    }

    #[test]
    fn each_upstream_is_one_line() {
        let broken = json!({ "name": "a", "transport": null, "managed_by": "store", "state": "broken", "tools": null, "reason": "gone" });
        let up = json!({ "name": "b", "transport": { "kind": "stdio" }, "managed_by": "file", "state": "up", "tools": 2, "reason": null });
        let lines = listed(&[broken, up]);
        let lines: Vec<Vec<&str>> = lines.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1], ["a", "store", "broken", "-", "gone"]);
        assert_eq!(lines[2], ["b", "stdio", "file", "up", "2"]);
    }
}
