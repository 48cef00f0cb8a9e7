//! From the `mcpServers` JSON that people already have to `[upstreams.NAME]` sections and files of secrets.
//!
//! Reads what Claude Desktop, Claude Code, Cursor (`mcpServers`) and VS Code (`servers`) write. Pure: writing the
//! files is for the caller. Credentials never get into the TOML text; what cannot be carried over is told in a
//! note, and an entry that would not work is left out whole.

use std::collections::BTreeSet;

use http::HeaderValue;
use serde_json::{Map, Value};

use super::definition;
use super::reference::{LARGEST_SECRET, Reference, header_is_credential, variable_is_credential};
use super::resolve::header_name;
use super::value;
use crate::ids::UpstreamName;
use crate::secret::Plaintext;

/// Largest file that is read, in bytes.
const LARGEST_FILE: usize = 1024 * 1024;

/// Longest part of a secret file's name that comes from a setting.
const LONGEST_FILE_NAME: usize = 100;

/// What an import gives.
#[derive(Debug)]
pub struct Imported {
    /// Sections for `portcullis.toml`.
    pub toml: String,
    /// Files to write beside it, readable by their owner only: relative path and content.
    pub secrets: Vec<(String, Plaintext)>,
    /// What a person should know: what was left out, renamed, or is still to be done.
    pub notes: Vec<String>,
}

/// Why a file cannot be imported at all.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error("the file is larger than {} KiB", LARGEST_FILE / 1024)]
    TooLarge,
    #[error("the file is not JSON (comments and trailing commas are not)")]
    NotJson(#[source] serde_json::Error),
    #[error("the file has neither `mcpServers` nor `servers`")]
    NoServers,
}

/// Translates the servers of one file, in the order of their names.
pub fn from_mcp_servers(json: &str) -> Result<Imported, ImportError> {
    let mut imported = Imported { toml: String::new(), secrets: Vec::new(), notes: Vec::new() };
    for (original, section) in sections(json)? {
        match section {
            Ok(section) => imported.add(&original, section),
            Err(Unusable(why)) => imported.notes.push(format!("{original:?} is left out: {why}")),
        }
    }
    Ok(imported)
}

/// A server of a file as an upstream to be declared, with its secrets in the clear where the file has them.
#[derive(Clone)]
pub struct Declarable {
    /// What the file calls it.
    pub original: String,
    pub name: String,
    /// What `[upstreams.NAME]` would say, as JSON; why not, where nothing comes of it.
    pub definition: Result<Map<String, Value>, String>,
    pub notes: Vec<String>,
}

/// The servers of one file as upstreams to be declared, in the order of their names.
pub fn declarable(json: &str) -> Result<Vec<Declarable>, ImportError> {
    let declarable = |(original, section): (String, Result<Section, Unusable>)| match section {
        Ok(section) => {
            let (name, mut notes) = (section.name.clone(), section.notes.clone());
            let definition = section.definition(&mut notes);
            Declarable { original, name, definition, notes }
        }
        Err(Unusable(why)) => Declarable { original, name: String::new(), definition: Err(why), notes: Vec::new() },
    };
    Ok(sections(json)?.into_iter().map(declarable).collect())
}

/// What came of each server, by what its file calls it.
type Named = Vec<(String, Result<Section, Unusable>)>;

/// Each server of a file by what the file calls it.
fn sections(json: &str) -> Result<Named, ImportError> {
    if json.len() > LARGEST_FILE {
        return Err(ImportError::TooLarge);
    }
    let file: Value = serde_json::from_str(json.trim_start_matches('\u{feff}')).map_err(ImportError::NotJson)?;
    let servers = ["/mcpServers", "/servers", "/mcp/servers"].iter().find_map(|path| file.pointer(path)?.as_object());
    let (mut names, mut sections) = (BTreeSet::new(), Vec::new());
    for (original, entry) in servers.ok_or(ImportError::NoServers)? {
        let name = valid_name(original, &names);
        let section = Section::of(&name, entry);
        if section.is_ok() {
            names.insert(name);
        }
        sections.push((original.clone(), section));
    }
    Ok(sections)
}

impl Imported {
    fn add(&mut self, original: &str, section: Section) {
        if !self.toml.is_empty() {
            self.toml.push('\n');
        }
        self.toml.push_str(&format!("[upstreams.{}]\n", section.name));
        for line in &section.lines {
            self.toml.push_str(line);
            self.toml.push('\n');
        }
        if section.name != original {
            self.notes.push(format!("{original:?} is now called {}", section.name));
        }
        self.secrets.extend(section.secrets);
        self.notes.extend(section.notes.into_iter().map(|note| format!("{}: {note}", section.name)));
    }
}

/// Lower case, other characters as `-`, at most 24 characters, and none of `taken`.
fn valid_name(original: &str, taken: &BTreeSet<String>) -> String {
    let mut name = String::new();
    for character in original.chars().map(|character| character.to_ascii_lowercase()) {
        if character.is_ascii_lowercase() || character.is_ascii_digit() {
            name.push(character);
        } else if !name.is_empty() && !name.ends_with('-') {
            name.push('-');
        }
    }
    if name.is_empty() {
        name.push_str("upstream");
    }
    let cut = |length: usize| name[..name.len().min(length)].trim_end_matches('-');
    let mut candidate = cut(UpstreamName::MAX_LEN).to_owned();
    let mut number = 2;
    while taken.contains(&candidate) {
        let suffix = format!("-{number}");
        candidate = format!("{}{suffix}", cut(UpstreamName::MAX_LEN - suffix.len()));
        number += 1;
    }
    candidate
}

/// Why an entry is left out.
struct Unusable(String);

impl Unusable {
    fn because<T>(why: impl Into<String>) -> Result<T, Self> {
        Err(Self(why.into()))
    }
}

/// The transports that are spoken here.
enum Kind {
    Stdio,
    StreamableHttp,
    /// HTTP with server-sent events (2024-11-05).
    Sse,
}

impl Kind {
    fn of(stated: Option<&str>, url: Option<&str>, command: Option<&str>) -> Result<Self, Unusable> {
        match stated {
            Some("stdio") => Ok(Self::Stdio),
            Some("http" | "streamable-http" | "streamableHttp" | "streamable_http") => Ok(Self::StreamableHttp),
            Some("sse") => Ok(Self::Sse),
            Some(other) => Unusable::because(format!("the transport {other:?} is not known")),
            None if url.is_some() && command.is_none() => Ok(Self::StreamableHttp),
            None => Ok(Self::Stdio),
        }
    }
}

/// One upstream in the making.
struct Section {
    name: String,
    lines: Vec<String>,
    secrets: Vec<(String, Plaintext)>,
    notes: Vec<String>,
}

/// What the clients call an endpoint.
const URL_KEYS: &[&str] = &["url", "serverUrl", "httpUrl"];

/// Keys of an entry that are read here, besides [`URL_KEYS`].
const KNOWN_KEYS: &[&str] = &["type", "transport", "command", "args", "env", "headers", "cwd", "disabled"];

impl Section {
    fn of(name: &str, entry: &Value) -> Result<Self, Unusable> {
        let Some(entry) = entry.as_object() else { return Unusable::because("it is not an object") };
        if entry.get("disabled") == Some(&Value::Bool(true)) {
            return Unusable::because("it is disabled");
        }
        let url = URL_KEYS.iter().find_map(|key| entry.get(*key)?.as_str());
        let command = entry.get("command").and_then(Value::as_str);
        let kind = ["type", "transport"].iter().find_map(|key| entry.get(*key)?.as_str());
        let mut section = Self { name: name.to_owned(), lines: Vec::new(), secrets: Vec::new(), notes: Vec::new() };
        match (Kind::of(kind, url, command)?, url, command) {
            (Kind::Stdio, None, Some(command)) => section.stdio(command, entry)?,
            (Kind::StreamableHttp, Some(url), None) => section.over_http(url, entry)?,
            (Kind::Sse, Some(url), None) => {
                section.over_http(url, entry)?;
                section.set("protocol", "sse");
            }
            _ => return Unusable::because("it needs either a command or a url"),
        }
        section.note_what_is_not_read(entry);
        Ok(section)
    }

    fn stdio(&mut self, program: &str, entry: &Map<String, Value>) -> Result<(), Unusable> {
        if program.is_empty() {
            return Unusable::because("its command is empty");
        }
        let mut command = vec![plain("the command", program)?];
        for argument in entry.get("args").and_then(Value::as_array).into_iter().flatten() {
            let Some(argument) = scalar(argument) else { return Unusable::because("an argument is not a text") };
            command.push(plain("an argument", &argument)?);
        }
        if command.iter().any(|word| argument_is_credential(word)) {
            self.notes.push("an argument looks like a credential; if you can, pass it in the environment".to_owned());
        }
        self.set("transport", "stdio");
        self.set("command", command);
        let variables = entry.get("env").and_then(Value::as_object).into_iter().flatten();
        let mut environment = toml::Table::new();
        for (name, value) in variables {
            if let Some(value) = self.variable(name, value)? {
                environment.insert(name.clone(), value.into());
            }
        }
        self.set_table("environment", environment);
        if let Some(directory) = entry.get("cwd").and_then(Value::as_str).filter(|directory| !directory.is_empty()) {
            self.set("working_dir", plain("the working directory", directory)?);
        }
        Ok(())
    }

    fn over_http(&mut self, url: &str, entry: &Map<String, Value>) -> Result<(), Unusable> {
        let url = plain("the url", url)?;
        value::upstream_url(&url).map_err(|fault| Unusable(format!("its url {}", fault.message)))?;
        if url.split_once('?').is_some_and(|(_, query)| query.split('&').any(argument_is_credential)) {
            self.notes.push("the url looks as if it had a credential; if you can, send it in a header".to_owned());
        }
        self.set("transport", "streamable-http");
        self.set("url", url);
        let raw = entry.get("headers").and_then(Value::as_object).into_iter().flatten();
        let mut headers = toml::Table::new();
        for (name, value) in raw {
            if headers.keys().any(|other| other.eq_ignore_ascii_case(name)) {
                return Unusable::because(format!("the header {name} is there twice, in different spellings"));
            }
            if let Some(value) = self.header(name, value)? {
                headers.insert(name.clone(), value.into());
            }
        }
        self.set_table("headers", headers);
        Ok(())
    }

    /// What stands in the TOML file for an environment variable.
    fn variable(&mut self, name: &str, value: &Value) -> Result<Option<String>, Unusable> {
        let setting = format!("the variable {name}");
        if name.is_empty() || name.contains(['=', '\0']) {
            return Unusable::because(format!("{name:?} cannot be an environment variable"));
        }
        let Some(text) = self.text(&setting, value, looks_secret(name))? else { return Ok(None) };
        if let Some(placeholder) = Placeholder::parse(&text) {
            return Ok(Some(self.reference(name, &placeholder)));
        }
        let text = plain(&setting, &text)?;
        let is_secret = looks_secret(name) || has_user_information(&text) || Reference::parse(&text).is_some();
        if is_secret { self.secret(name, &text).map(Some) } else { Ok(Some(text)) }
    }

    /// What stands in the TOML file for a header.
    fn header(&mut self, name: &str, value: &Value) -> Result<Option<String>, Unusable> {
        if let Err(fault) = header_name(name) {
            self.notes.push(format!("the header {name:?} is left out: it {}", fault.message));
            return Ok(None);
        }
        let setting = format!("the header {name}");
        let Some(text) = self.text(&setting, value, looks_secret(name))? else { return Ok(None) };
        let (scheme, rest) = text.split_once(' ').map_or(("", text.as_str()), |(scheme, rest)| (scheme, rest));
        let is_scheme = scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if let Some(placeholder) = Placeholder::parse(rest).filter(|_| is_scheme) {
            let reference = self.reference(&format!("{}_{name}", self.name), &placeholder);
            return Ok(Some(format!("{scheme} {reference}").trim_start().to_owned()));
        }
        let text = plain(&setting, &text)?;
        if HeaderValue::from_str(&text).is_err() {
            return Unusable::because(format!("{setting} has characters that no header can carry"));
        }
        let is_credential = ["bearer", "basic"].contains(&scheme.to_ascii_lowercase().as_str());
        let is_secret = looks_secret(name) || is_credential || Reference::parse_credential(&text).is_some();
        if is_secret { self.secret(name, &text).map(Some) } else { Ok(Some(text)) }
    }

    /// A value as text. An empty credential is left for the operator to fill in.
    fn text(&mut self, setting: &str, value: &Value, is_secret: bool) -> Result<Option<String>, Unusable> {
        match scalar(value) {
            Some(text) if text.is_empty() && is_secret => {
                self.notes.push(format!("{setting} is empty and was left out"));
                Ok(None)
            }
            Some(text) => Ok(Some(text)),
            None if value.is_null() => Ok(None),
            None => Unusable::because(format!("{setting} is not a text")),
        }
    }

    /// Refers to an environment variable of the gateway, `otherwise` where the client would have asked a person.
    fn reference(&mut self, otherwise: &str, placeholder: &Placeholder) -> String {
        let variable = match placeholder {
            Placeholder::Variable(variable) => variable.clone(),
            Placeholder::Input => {
                let upper = otherwise.to_ascii_uppercase();
                upper.chars().map(|character| if character.is_ascii_alphanumeric() { character } else { '_' }).collect()
            }
        };
        self.notes.push(format!("set the environment variable {variable} before the gateway starts"));
        format!("env:{variable}")
    }

    /// Puts a secret into a file of its own and refers to it.
    fn secret(&mut self, name: &str, text: &str) -> Result<String, Unusable> {
        if u64::try_from(text.len()).is_ok_and(|length| length >= LARGEST_SECRET) {
            return Unusable::because(format!("the value of {name} is too large for a secret"));
        }
        let name = name.chars().take(LONGEST_FILE_NAME);
        let file_name: String =
            name.map(|character| if character.is_ascii_alphanumeric() { character } else { '_' }).collect();
        let mut path = format!("secrets/{}-{file_name}", self.name);
        while self.secrets.iter().any(|(other, _)| other.eq_ignore_ascii_case(&path)) {
            path.push('_');
        }
        // Whoever reads the file takes one newline off its end.
        let newline = if text.ends_with('\n') { "\n" } else { "" };
        self.secrets.push((path.clone(), Plaintext::new(format!("{text}{newline}"))));
        Ok(format!("file:{path}"))
    }

    fn note_what_is_not_read(&mut self, entry: &Map<String, Value>) {
        let unread =
            entry.keys().filter(|key| !KNOWN_KEYS.contains(&key.as_str()) && !URL_KEYS.contains(&key.as_str()));
        self.notes.extend(unread.map(|key| format!("{key:?} has no counterpart here and was left out")));
    }

    /// What the lines say, as JSON, with what would be in files of secrets in its place. A secret that reads as a reference
    /// cannot be said like that, and is left out.
    fn definition(&self, notes: &mut Vec<String>) -> Result<Map<String, Value>, String> {
        let table: toml::Table =
            self.lines.join("\n").parse().map_err(|_| "it has what cannot be written down".to_owned())?;
        let Ok(Value::Object(mut definition)) = serde_json::to_value(table) else {
            return Err("it has what cannot be written down".to_owned());
        };
        let mut unsaid = Vec::new();
        definition::each_secret(&mut definition, |field, value| {
            let path = value.as_str().and_then(|text| text.strip_prefix("file:"));
            let Some((_, secret)) = self.secrets.iter().find(|(own, _)| path == Some(own)) else { return };
            // Whoever reads such a file takes one newline off its end.
            let text = secret.expose().strip_suffix('\n').unwrap_or(secret.expose());
            if definition::said(field, text) == definition::Said::Literal {
                *value = text.into();
            } else {
                unsaid.push(field.to_owned());
            }
        });
        for field in unsaid {
            if let Some((table, name)) = field.split_once('.')
                && let Some(members) = definition.get_mut(table).and_then(Value::as_object_mut)
            {
                members.remove(name);
                notes.push(format!("{field} is left out: its value reads as a reference to a secret"));
            }
        }
        Ok(definition)
    }

    fn set(&mut self, key: &str, value: impl Into<toml::Value>) {
        let value: toml::Value = value.into();
        self.lines.push(format!("{key} = {value}"));
    }

    fn set_table(&mut self, key: &str, table: toml::Table) {
        if !table.is_empty() {
            self.set(key, table);
        }
    }
}

/// A text that the client does not fill in before it uses it.
fn plain(setting: &str, text: &str) -> Result<String, Unusable> {
    if text.contains("${") {
        return Unusable::because(format!("{setting} has a ${{…}} in it, which only a whole value may be"));
    }
    if text.contains('\0') { Unusable::because(format!("{setting} has a zero byte")) } else { Ok(text.to_owned()) }
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// A value that the client fills in.
enum Placeholder {
    /// `${NAME}` or `${env:NAME}`, perhaps with a default, which is not carried over.
    Variable(String),
    /// `${input:ID}`: the client asks a person.
    Input,
}

/// VS Code's own variables, which are no environment variables.
const EDITOR_VARIABLES: &[&str] = &["workspaceFolder", "workspaceFolderBasename", "userHome", "pathSeparator"];

impl Placeholder {
    fn parse(text: &str) -> Option<Self> {
        let inner = text.strip_prefix("${")?.strip_suffix('}')?;
        if inner.starts_with("input:") {
            return Some(Self::Input);
        }
        let name = inner.strip_prefix("env:").unwrap_or(inner);
        let name = name.split_once(":-").map_or(name, |(name, _)| name);
        let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        (is_name && !EDITOR_VARIABLES.contains(&name)).then(|| Self::Variable(name.to_owned()))
    }
}

/// Whether a value may be secret, as far as its name tells. Wider than what the configuration insists on: a file
/// too many costs nothing.
fn looks_secret(name: &str) -> bool {
    let upper = name.to_ascii_uppercase();
    let words = ["KEY", "TOKEN", "SECRET", "PASS", "CREDENTIAL", "AUTH"];
    header_is_credential(name) || variable_is_credential(name) || words.iter().any(|word| upper.contains(word))
}

/// Whether it is a URL with a user name or password.
fn has_user_information(text: &str) -> bool {
    let authority = text.split_once("://").map(|(_, rest)| rest.split(['/', '?', '#']).next().unwrap_or(rest));
    authority.is_some_and(|authority| authority.contains('@'))
}

/// Whether an argument or a query parameter, such as `--api-key=x`, may hold a credential.
fn argument_is_credential(argument: &str) -> bool {
    let name = argument.split(['=', ':']).next().unwrap_or(argument);
    let is_option = argument.starts_with('-') || argument.contains(['=', ':']);
    is_option && looks_secret(name)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::{Config, Protocol, UpstreamTransport, parse};
    use crate::env::Timestamp;

    const CLIENTS: &str = r#"{
        "mcpServers": {
            "github": {
                "command": "npx",
                "args": ["-y", "@modelcontextprotocol/server-github", 7],
                "env": {
                    "GITHUB_PERSONAL_ACCESS_TOKEN": "ghp_\"quoted\"",
                    "LOG_LEVEL": "debug",
                    "EMPTY_TOKEN": "",
                    "FROM_OUTSIDE": "${GITHUB_HOST:-github.com}",
                    "DATABASE_URL": "postgres://me:hunter2@db/x",
                    "LOOKS_LIKE_ONE": "file:///tmp",
                    "DEBUG": true
                }
            },
            "Issue Tracker (prod)": {
                "type": "http",
                "url": "https://tracker.example.com/mcp",
                "headers": {
                    "Authorization": "Bearer ${env:TRACKER_TOKEN}",
                    "X-Api-Key": "abc",
                    "X-Team": "core",
                    "X-Login": "Basic bWU6aHVudGVyMg==",
                    "X-Asked": "${input:team}",
                    "Accept": "application/json"
                },
                "alwaysAllow": ["list"]
            },
            "issue_tracker--PROD!": { "url": "http://127.0.0.1:9/mcp" },
            "old": { "type": "sse", "url": "https://old.example.com/sse" },
            "off": { "command": "x", "disabled": true },
            "folder": { "command": "x", "args": ["${workspaceFolder}/db"] },
            "empty": {},
            "no-program": { "command": "" },
            "twice": { "url": "https://x.example.com", "headers": { "A": "x", "a": "x" } },
            "both": { "command": "x", "url": "https://x.example.com" },
            "bad-url": { "url": "https://me:hunter2@x.example.com/" },
            "bad-env": { "command": "x", "env": { "A": ["x"] } },
            "mixed": { "command": "x", "env": { "HOME_DIR": "${HOME}/x" } },
            "strange": { "type": "pigeon", "url": "https://x.example.com" },
            "text": "x"
        }
    }"#;

    /// Writes the secrets and loads the sections, as the command does.
    fn loaded(imported: &Imported) -> Config {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("secrets")).unwrap();
        for (path, secret) in &imported.secrets {
            std::fs::write(dir.path().join(path), secret.expose()).unwrap();
        }
        let environment = |name: &str| Some(format!("value of {name}"));
        let loaded = parse(&imported.toml, dir.path(), &environment, Timestamp::from_millis(0));
        loaded.unwrap_or_else(|mistakes| panic!("{mistakes}\n{}", imported.toml))
    }

    #[test]
    fn what_clients_have_loads() {
        let imported = from_mcp_servers(CLIENTS).unwrap();
        let upstreams = loaded(&imported).upstreams;
        let names: Vec<&str> = upstreams.iter().map(|upstream| upstream.name.as_str()).collect();
        assert_eq!(names, ["github", "issue-tracker-prod", "issue-tracker-prod-2", "old"]);
        let old = &upstreams[3].transport;
        assert!(matches!(old, UpstreamTransport::StreamableHttp { protocol: Protocol::Sse, .. }), "{old:?}");

        let UpstreamTransport::Stdio { command, environment, .. } = &upstreams[0].transport else { panic!("stdio") };
        assert_eq!(command, &["npx", "-y", "@modelcontextprotocol/server-github", "7"]);
        let variables: Vec<(&str, &str)> =
            environment.iter().map(|(name, value)| (name.as_str(), value.expose())).collect();
        assert_eq!(
            variables,
            [
                ("DATABASE_URL", "postgres://me:hunter2@db/x"),
                ("DEBUG", "true"),
                ("FROM_OUTSIDE", "value of GITHUB_HOST"),
                ("GITHUB_PERSONAL_ACCESS_TOKEN", "ghp_\"quoted\""),
                ("LOG_LEVEL", "debug"),
                ("LOOKS_LIKE_ONE", "file:///tmp"),
            ]
        );

        let UpstreamTransport::StreamableHttp { url, headers, .. } = &upstreams[1].transport else { panic!("http") };
        assert_eq!(url, "https://tracker.example.com/mcp");
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (name.as_str(), value.expose())).collect();
        assert_eq!(
            headers,
            [
                ("authorization", "Bearer value of TRACKER_TOKEN"),
                ("x-api-key", "abc"),
                ("x-asked", "value of ISSUE_TRACKER_PROD_X_ASKED"),
                ("x-login", "Basic bWU6aHVudGVyMg=="),
                ("x-team", "core"),
            ]
        );
    }

    #[test]
    fn no_credential_is_in_the_text_and_nothing_is_lost_in_silence() {
        let imported = from_mcp_servers(CLIENTS).unwrap();
        for secret in ["ghp_", "hunter2", "abc", "bWU6aHVudGVyMg"] {
            assert!(!imported.toml.contains(secret) && !format!("{imported:?}").contains(secret), "{secret}");
        }
        let paths: Vec<&str> = imported.secrets.iter().map(|(path, _)| path.as_str()).collect();
        assert!(paths.contains(&"secrets/github-GITHUB_PERSONAL_ACCESS_TOKEN"), "{paths:?}");
        let notes = imported.notes.join("\n");
        for note in [
            "\"Issue Tracker (prod)\" is now called issue-tracker-prod",
            "github: the variable EMPTY_TOKEN is empty and was left out",
            "github: set the environment variable GITHUB_HOST before the gateway starts",
            "issue-tracker-prod: the header \"Accept\" is left out: it is set by the gateway itself",
            "issue-tracker-prod: \"alwaysAllow\" has no counterpart here and was left out",
            "\"off\" is left out: it is disabled",
            "\"folder\" is left out: an argument has a ${…} in it",
            "\"empty\" is left out: it needs either a command or a url",
            "\"no-program\" is left out: its command is empty",
            "\"twice\" is left out: the header a is there twice",
            "\"both\" is left out: it needs either a command or a url",
            "\"bad-url\" is left out: its url must not have a user name or password",
            "\"bad-env\" is left out: the variable A is not a text",
            "\"mixed\" is left out: the variable HOME_DIR has a ${…} in it",
            "\"strange\" is left out: the transport \"pigeon\" is not known",
            "\"text\" is left out: it is not an object",
        ] {
            assert!(notes.contains(note), "{note}\n---\n{notes}");
        }
    }

    #[test]
    fn the_files_of_visual_studio_code_are_read_too() {
        let file = r#"{ "inputs": [], "servers": { "n": { "type": "stdio", "command": "x", "cwd": "." } } }"#;
        for file in [file.to_owned(), format!("\u{feff}{file}"), format!("{{\"mcp\":{file}}}")] {
            let imported = from_mcp_servers(&file).unwrap();
            assert_eq!(loaded(&imported).upstreams.len(), 1, "{file}");
        }
    }

    #[test]
    fn names_become_valid_and_stay_different() {
        let mut taken = BTreeSet::new();
        for (original, name) in [
            ("notes", "notes"),
            ("Notes", "notes-2"),
            ("notes!", "notes-3"),
            ("__", "upstream"),
            ("日本", "upstream-2"),
            ("a-very-long-name-of-a-server", "a-very-long-name-of-a-se"),
            ("a-very-long-name-of-a-server-too", "a-very-long-name-of-a-2"),
        ] {
            let given = valid_name(original, &taken);
            assert!(given.starts_with(name), "{original}: {given}");
            assert!(UpstreamName::parse(&given).is_ok(), "{given}");
            assert!(taken.insert(given));
        }
    }

    #[test]
    fn a_secret_that_ends_a_line_keeps_its_end() {
        for secret in ["x", "x\n", "x\r\n", "x\r", "x\n\n"] {
            let file = serde_json::json!({ "mcpServers": { "n": { "command": "x", "env": { "KEY": secret } } } });
            let config = loaded(&from_mcp_servers(&file.to_string()).unwrap());
            let UpstreamTransport::Stdio { environment, .. } = &config.upstreams[0].transport else { panic!("stdio") };
            assert_eq!(environment["KEY"].expose(), secret);
        }
    }

    #[test]
    fn files_of_something_else_are_refused() {
        assert!(matches!(from_mcp_servers("{ // x\n}"), Err(ImportError::NotJson(_))));
        for other in ["{}", "[]", "null", r#"{"mcpServers":[]}"#] {
            assert!(matches!(from_mcp_servers(other), Err(ImportError::NoServers)), "{other}");
        }
        assert!(matches!(from_mcp_servers(&" ".repeat(LARGEST_FILE + 1)), Err(ImportError::TooLarge)));
    }

    #[test]
    fn what_is_declared_has_its_secrets_in_the_clear() {
        let servers = declarable(CLIENTS).unwrap();
        let of = |original: &str| servers.iter().find(|server| server.original == original).unwrap();
        let github = of("github");
        let definition = github.definition.as_ref().unwrap();
        assert_eq!(definition["command"], json!(["npx", "-y", "@modelcontextprotocol/server-github", "7"]));
        let environment = &definition["environment"];
        assert_eq!(environment["GITHUB_PERSONAL_ACCESS_TOKEN"], "ghp_\"quoted\"");
        assert_eq!(
            (&environment["FROM_OUTSIDE"], &environment["LOG_LEVEL"]),
            (&json!("env:GITHUB_HOST"), &json!("debug"))
        );
        assert_eq!(environment.get("LOOKS_LIKE_ONE"), None, "it would be read as a reference");
        assert!(github.notes.iter().any(|note| note.contains("environment.LOOKS_LIKE_ONE is left out")));
        let tracker = of("Issue Tracker (prod)");
        let headers = &tracker.definition.as_ref().unwrap()["headers"];
        assert_eq!((&headers["X-Api-Key"], &headers["X-Team"]), (&json!("abc"), &json!("core")));
        assert_eq!(headers["Authorization"], "Bearer env:TRACKER_TOKEN");
        let text = serde_json::to_string(&headers).unwrap();
        assert!(!text.contains("file:secrets"), "{text}");
    }
}
