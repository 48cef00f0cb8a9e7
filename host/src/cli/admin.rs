//! Commands that ask the running gateway, through its admin socket.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Subcommand;
use http::Method;
use serde_json::{Value, json};

use super::{WithConfig, import, load, on_runtime, print};
use crate::outbound::ask_socket_patiently;

#[derive(Subcommand)]
pub(super) enum KeyCommand {
    /// Make a key. Its secret is shown once.
    Create {
        /// Lower-case letters, digits and '-'.
        name: String,
        /// What the key may use: UPSTREAM/TOOL, both may have '*'. May be given several times; without it, nothing.
        #[arg(long, value_name = "UPSTREAM/TOOL")]
        allow: Vec<String>,
        /// A scope of its caller, for policies to read. May be given several times.
        #[arg(long = "scope", value_name = "SCOPE")]
        scopes: Vec<String>,
        /// A group of its caller, for policies to read and to be bound by. May be given several times.
        #[arg(long = "group", value_name = "GROUP")]
        groups: Vec<String>,
        /// When it ends, such as 2027-01-31T00:00:00Z.
        #[arg(long, value_name = "TIME")]
        expires: Option<String>,
        #[command(flatten)]
        with: WithConfig,
    },
    /// List all keys.
    List(WithConfig),
    /// Refuse a key from now on.
    Disable(OneKey),
    /// Accept a disabled key again.
    Enable(OneKey),
    /// Delete a key.
    Delete(OneKey),
}

#[derive(clap::Args)]
pub(super) struct OneKey {
    name: String,
    #[command(flatten)]
    with: WithConfig,
}

impl KeyCommand {
    pub(super) fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Create { name, allow, scopes, groups, expires, with } => {
                let allow = allow.iter().map(|line| allow_line(line)).collect::<anyhow::Result<Vec<_>>>()?;
                let key =
                    json!({ "name": name, "allow": allow, "scopes": scopes, "groups": groups, "expires": expires });
                let key = ask(&with, Method::POST, "/api/v1/keys", Some(key))?;
                print(&format!("{}\nThis is shown once. Send it as `Authorization: Bearer …`.", text(&key["secret"])))
            }
            Self::List(with) => list_keys(&with),
            Self::Disable(key) => set_disabled(&key, true),
            Self::Enable(key) => set_disabled(&key, false),
            Self::Delete(key) => {
                ask(&key.with, Method::DELETE, &format!("/api/v1/keys/{}", segment(&key.name)?), None)?;
                print(&format!("{} is deleted", key.name))
            }
        }
    }
}

fn allow_line(line: &str) -> anyhow::Result<Value> {
    let (upstream, tool) = line.split_once('/').with_context(|| format!("--allow {line:?} is not UPSTREAM/TOOL"))?;
    Ok(json!({ "upstream": upstream, "tools": [tool] }))
}

fn set_disabled(key: &OneKey, disabled: bool) -> anyhow::Result<()> {
    ask(
        &key.with,
        Method::PATCH,
        &format!("/api/v1/keys/{}", segment(&key.name)?),
        Some(json!({ "disabled": disabled })),
    )?;
    print(&format!("{} is {}", key.name, if disabled { "disabled" } else { "enabled" }))
}

fn list_keys(with: &WithConfig) -> anyhow::Result<()> {
    let keys = every_page(with, "/api/v1/keys", "keys")?;
    let row = |key: &Value| {
        let allow = key["allow"].as_array().into_iter().flatten().flat_map(|line| {
            let upstream = text(&line["upstream"]).to_owned();
            line["tools"].as_array().into_iter().flatten().map(move |tool| format!("{upstream}/{}", text(tool)))
        });
        let state = if key["disabled"] == true { "disabled" } else { "enabled" };
        let expires = key["expires"].as_str().unwrap_or("never").to_owned();
        vec![
            text(&key["name"]).to_owned(),
            state.to_owned(),
            expires,
            text(&key["managed_by"]).to_owned(),
            allow.collect::<Vec<_>>().join(" "),
            words(&key["scopes"]),
            words(&key["groups"]),
        ]
    };
    print(&table(&["NAME", "STATE", "EXPIRES", "MANAGED BY", "ALLOW", "SCOPES", "GROUPS"], keys.iter().map(row)))
}

#[derive(Subcommand)]
pub(super) enum UpstreamCommand {
    /// List the upstreams of the running gateway and their health.
    List(WithConfig),
    /// Have an upstream's tools read again.
    Refresh {
        name: String,
        #[command(flatten)]
        with: WithConfig,
    },
    /// Print a link that connects an upstream for the gateway itself: for its list of tools, or for everybody where all share
    /// one connection. It opens once, within 15 minutes.
    Connect {
        name: String,
        /// A scope to ask for besides those that are asked for anyway. May be given several times.
        #[arg(long = "scope", value_name = "SCOPE")]
        scopes: Vec<String>,
        #[command(flatten)]
        with: WithConfig,
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

impl UpstreamCommand {
    pub(super) fn run(self) -> anyhow::Result<()> {
        match self {
            Self::List(with) => {
                let answer = ask(&with, Method::GET, "/api/v1/upstreams", None)?;
                let row = |upstream: &Value| {
                    let tools = upstream["tools"].as_u64().map_or_else(|| "-".to_owned(), |tools| tools.to_string());
                    let cell = |name: &str| text(&upstream[name]).to_owned();
                    vec![
                        cell("name"),
                        text(&upstream["transport"]["kind"]).to_owned(),
                        cell("state"),
                        tools,
                        cell("reason"),
                    ]
                };
                let rows = answer["upstreams"].as_array().into_iter().flatten().map(row);
                print(&table(&["NAME", "TRANSPORT", "STATE", "TOOLS", "REASON"], rows))
            }
            Self::Refresh { name, with } => {
                ask(&with, Method::POST, &format!("/api/v1/upstreams/{}/refresh", segment(&name)?), None)?;
                print(&format!("the tools of {name} are being read"))
            }
            Self::Connect { name, scopes, with } => {
                let path = format!("/api/v1/upstreams/{}/connect", segment(&name)?);
                let path = filtered(&path, &[("scope", Some(scopes.join(" ")).filter(|scopes| !scopes.is_empty()))])?;
                let link = ask(&with, Method::POST, &path, None)?;
                print(text(&link["url"]))
            }
            Self::Import { file, into } => import::run(&file, into.as_deref()),
        }
    }
}

#[derive(clap::Args)]
pub(super) struct Decisions {
    /// How many, newest first.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=200))]
    limit: u16,
    /// Only of this principal, such as key:ci.
    #[arg(long)]
    principal: Option<String>,
    /// Only of this tool, by the upstream's own name for it.
    #[arg(long)]
    tool: Option<String>,
    /// Only with this verdict: allow, deny, hidden, error, …
    #[arg(long)]
    verdict: Option<String>,
    #[command(flatten)]
    with: WithConfig,
}

impl Decisions {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let mut path = format!("/api/v1/decisions?limit={}", self.limit);
        for (name, value) in [("principal", &self.principal), ("tool", &self.tool), ("verdict", &self.verdict)] {
            if let Some(value) = value {
                path.push_str(&format!("&{name}={}", segment(value)?));
            }
        }
        let answer = ask(&self.with, Method::GET, &path, None)?;
        let row = |decision: &Value| {
            let step = |step: &Value| {
                let code = step["reason_code"].as_str().map(|code| format!("({code})")).unwrap_or_default();
                format!("{} {}{code} {}µs", text(&step["policy"]), text(&step["verdict"]), step["micros"])
            };
            let steps: Vec<String> = decision["steps"].as_array().into_iter().flatten().map(step).collect();
            let cell = |name: &str| text(&decision[name]).to_owned();
            let tool = [cell("upstream"), cell("tool")]
                .into_iter()
                .filter(|part| !part.is_empty())
                .collect::<Vec<_>>()
                .join("/");
            let ended = format!("{} ms", decision["elapsed_ms"]);
            vec![
                cell("at"),
                cell("principal"),
                cell("operation"),
                tool,
                cell("verdict"),
                cell("outcome"),
                ended,
                steps.join(", "),
            ]
        };
        let rows = answer["decisions"].as_array().into_iter().flatten().map(row);
        print(&table(&["AT", "PRINCIPAL", "OPERATION", "TOOL", "VERDICT", "OUTCOME", "TOOK", "POLICIES"], rows))
    }
}

pub(super) fn status(with: &WithConfig) -> anyhow::Result<()> {
    let answer = ask(with, Method::GET, "/api/v1/status", None)?;
    let object = answer.as_object().context("the gateway's answer is not an object")?;
    let rows = object.iter().map(|(name, value)| {
        vec![name.replace('_', " "), value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned)]
    });
    print(&table(&[], rows))
}

/// All rows of a paged list; `path` may have a query.
pub(super) fn every_page(with: &WithConfig, path: &str, rows: &str) -> anyhow::Result<Vec<Value>> {
    let gateway = Running::of(with)?;
    let mut all = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let and = if path.contains('?') { '&' } else { '?' };
        let page = match &cursor {
            Some(cursor) => format!("{path}{and}limit=200&cursor={cursor}"),
            None => format!("{path}{and}limit=200"),
        };
        let mut answer = gateway.ask(Method::GET, &page, None)?;
        if let Value::Array(mut page) = answer[rows].take() {
            all.append(&mut page);
        }
        cursor = answer["next_cursor"].as_str().map(ToOwned::to_owned);
        if cursor.is_none() {
            return Ok(all);
        }
    }
}

/// Asks the running gateway. An error tells what it answered.
pub(super) fn ask(with: &WithConfig, method: Method, path: &str, body: Option<Value>) -> anyhow::Result<Value> {
    Running::of(with)?.ask(method, path, body)
}

/// Asks the running gateway for what may take minutes.
pub(super) fn ask_patiently(with: &WithConfig, path: &str, patience: Duration) -> anyhow::Result<Value> {
    Running { patience, ..Running::of(with)? }.ask(Method::GET, path, None)
}

/// Longest wait for what is done at once.
const PATIENCE: Duration = Duration::from_secs(60);

/// The running gateway, behind its admin socket.
struct Running {
    socket: PathBuf,
    patience: Duration,
}

impl Running {
    /// That of this configuration.
    fn of(with: &WithConfig) -> anyhow::Result<Self> {
        Ok(Self { socket: load(with)?.listen.admin_socket, patience: PATIENCE })
    }

    fn ask(&self, method: Method, path: &str, body: Option<Value>) -> anyhow::Result<Value> {
        let (status, answer) = on_runtime(async {
            let body = body.map(|body| body.to_string());
            let answer = ask_socket_patiently(&self.socket, method, path, body, self.patience).await;
            answer.with_context(|| format!("cannot ask the gateway at {}: is it running?", self.socket.display()))
        })?;
        let answer: Value = if answer.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&answer).context("the gateway's answer is not JSON")?
        };
        if !status.is_success() {
            bail!("{}", answer["detail"].as_str().unwrap_or("the gateway refused"));
        }
        Ok(answer)
    }
}

/// The path of a list with these filters in its query.
pub(super) fn filtered(path: &str, filters: &[(&str, Option<String>)]) -> anyhow::Result<String> {
    let mut path = path.to_owned();
    for (name, value) in filters {
        if let Some(value) = value {
            path.push(if path.contains('?') { '&' } else { '?' });
            path.push_str(&format!("{name}={}", segment(value)?));
        }
    }
    Ok(path)
}

/// A value as one segment of a path or one value of a query.
pub(super) fn segment(value: &str) -> anyhow::Result<String> {
    if value.is_empty() {
        bail!("a name is empty");
    }
    Ok(value.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
        out
    }))
}

/// The strings of a list, side by side.
pub(super) fn words(list: &Value) -> String {
    list.as_array().into_iter().flatten().map(text).collect::<Vec<_>>().join(" ")
}

pub(super) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Rows in columns as wide as they need to be.
pub(super) fn table(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let head = (!head.is_empty()).then(|| head.iter().map(ToString::to_string).collect());
    let rows: Vec<Vec<String>> = head.into_iter().chain(rows).collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_they_need_to_be() {
        let rows = [vec!["a".to_owned(), "long".to_owned()], vec!["häh".to_owned(), String::new()]];
        assert_eq!(table(&["N", "M"], rows.into_iter()), "N    M\na    long\nhäh");
    }

    #[test]
    fn a_segment_is_escaped() {
        assert_eq!(segment("key:a b/ü").unwrap(), "key%3Aa%20b%2F%C3%BC");
        assert!(segment("").is_err());
    }

    #[test]
    fn filters_stand_in_the_query() {
        let some = |value: &str| Some(value.to_owned());
        assert_eq!(filtered("/api/v1/grants", &[("client", None), ("kind", None)]).unwrap(), "/api/v1/grants");
        let path = filtered("/a", &[("client", some("https://a/b?c")), ("kind", some("user"))]).unwrap();
        assert_eq!(path, "/a?client=https%3A%2F%2Fa%2Fb%3Fc&kind=user");
    }
}
