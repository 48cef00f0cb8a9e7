//! `portcullis quickstart`: everything needed to see the gateway work, from an empty directory and this binary alone.
//!
//! It writes an ordinary configuration, starts two ordinary MCP servers (one over HTTP, one over stdio) and then an
//! ordinary gateway. What it wrote is left alone when it is started again, so that it can be edited.

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use http::Method;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::Instant;

use super::{Inherited, bind, close_process, on_runtime, print, start_logging, stop_signal};
use crate::config::{self, Config, UpstreamTransport};
use crate::env::Env;
use crate::gateway;
use crate::identity::key::VirtualKey;
use crate::outbound::ask_socket;

/// How long everything may take to be up; the first time, all policies are compiled.
const START_TIMEOUT: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(50);

#[derive(clap::Args)]
pub(super) struct Quickstart {
    /// Where configuration, policies and data go.
    #[arg(long, value_name = "DIR", default_value = "portcullis-quickstart")]
    dir: PathBuf,
    /// First of three loopback ports: gateway, admin API, notes server. For a directory that is new; 7400 if it is not said.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..65533))]
    port: Option<u16>,
}

/// First port, if none is said.
const PORT: u16 = 7400;

impl Quickstart {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let file = self.dir.join("portcullis.toml");
        if !file.exists() {
            // Before anything is written: the ports stand in the file, and what is there is left alone.
            self.ports_must_be_free()?;
        }
        self.write_files(&file)?;
        let env = Env::system();
        let config = config::load(&file, &config::process_environment, env.now())?;
        if self.port.is_some_and(|port| port != config.listen.public.port()) {
            bail!("the ports are in {}; --port counts for a new directory", file.display());
        }
        let key = fs::read_to_string(self.dir.join("quickstart.key")).context("cannot read quickstart.key")?;
        start_quiet_logging()?;
        close_process(&config)?;
        on_runtime(async {
            let listeners = bind(&config, Inherited::default()).await;
            let listeners = listeners.with_context(|| format!("the ports are in {}", file.display()))?;
            let mut notes = start_notes(&config).await?;
            let stop = stop_signal()?;
            let (told_to_stop, stopping) = tokio::sync::oneshot::channel::<()>();
            let shutdown = async move { _ = stopping.await };
            let serving = gateway::serve(listeners, config.clone(), env, shutdown);
            let telling = async {
                let told = match wait_until_ready(&config).await {
                    Ok(()) => print(&self.welcome(&config, key.trim())),
                    Err(error) => Err(error),
                };
                if told.is_ok() {
                    stop.await;
                }
                // If the gateway ended by itself, nobody listens.
                _ = told_to_stop.send(());
                told
            };
            tokio::pin!(serving, telling);
            let (served, told) = tokio::select! {
                served = &mut serving => (served, Ok(())),
                told = &mut telling => (serving.await, told),
            };
            end_notes(&mut notes).await;
            served?;
            told
        })
    }

    fn first_port(&self) -> u16 {
        self.port.unwrap_or(PORT)
    }

    fn ports_must_be_free(&self) -> anyhow::Result<()> {
        let first = self.first_port();
        for port in first..=first + 2 {
            std::net::TcpListener::bind(("127.0.0.1", port))
                .with_context(|| format!("cannot listen on 127.0.0.1:{port} (--port chooses others)"))?;
        }
        Ok(())
    }

    /// Writes what is not there yet.
    fn write_files(&self, file: &Path) -> anyhow::Result<()> {
        let dir = |path: PathBuf| {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&path)
                .with_context(|| format!("cannot make {}", path.display()))
        };
        dir(self.dir.join("policies"))?;
        let program = std::env::current_exe().context("cannot find this program")?;
        let program = program.to_str().context("the path of this program is not UTF-8")?;
        write_new(file, 0o600, self.configuration(program).as_bytes())?;
        write_new(&self.dir.join("quickstart.key"), 0o600, VirtualKey::new_secret(&Env::system()).expose().as_bytes())?;
        for (file, builtin) in [("yours", "template"), ("read-only", "read-only")] {
            let module = crate::builtin::module(builtin).context("a default policy is missing from this binary")?;
            write_new(&self.dir.join("policies").join(format!("{file}.wasm")), 0o644, module)?;
        }
        Ok(())
    }

    fn configuration(&self, program: &str) -> String {
        let gateway = self.first_port();
        let (admin, notes) = (gateway + 1, gateway + 2);
        let program = crate::mcp::json::quote(program);
        format!(
            r#"# Written by `portcullis quickstart`; edit it while the gateway runs and it is read again.
# Every setting: `portcullis schema`.
public_url = "http://127.0.0.1:{gateway}"
data_dir = "data"

[listen]
public = "127.0.0.1:{gateway}"
admin = "127.0.0.1:{admin}"

# Two MCP servers. Callers see their tools as notes__… and tracker__….
[upstreams.notes]
transport = "streamable-http"
url = "http://127.0.0.1:{notes}/mcp"

[upstreams.tracker]
transport = "stdio"
command = [{program}, "example-upstream", "tracker"]

# A virtual key, and what it may use at all.
[keys.quickstart]
secret = "file:quickstart.key"
allow = [{{ upstream = "*", tools = ["*"] }}]

# What callers with a key may see and call. First match wins; what matches no rule is hidden.
[[policies]]
name = "guard"
module = "builtin:allow-tools"

[policies.config]
otherwise = "hide"

[[policies.config.rules]]
tools = ["tracker/close_issue"]
action = "deny"
code = "closing-is-for-maintainers"
message = "Closing issues is left to maintainers. Leave a comment that says why it should be closed instead."

[[policies.config.rules]]
tools = ["tracker/create_issue"]
action = "hide"

[[policies.config.rules]]
tools = ["notes/*", "tracker/*"]
action = "allow"

# A tool whose definition changes waits until somebody has looked at it: `portcullis pin list`.
[[policies]]
name = "pins"
module = "builtin:pin-tools"

# So many calls in so much time, for each caller.
[[policies]]
name = "limits"
module = "builtin:rate-limit"
grants = ["counters"]
config = {{ rules = [{{ limit = 120, period = "1m" }}] }}

# What arguments may look like, whoever calls: titles that are too long are cut.
[[policies]]
name = "arguments"
module = "builtin:guard-arguments"
allow_rewrite = true
config = {{ rules = [{{ tools = ["notes/*"], arguments = [{{ at = "/title", max_length = 200, action = "clamp" }}] }}] }}

# Deleting waits for a person: `portcullis approval list`, `portcullis approval decide`.
[[policies]]
name = "confirm"
module = "builtin:confirm-destructive"
config = {{ tools = ["notes/delete_note"] }}

# Which authority clients get, once they sign in.
[[policies]]
name = "consent"
module = "builtin:consent-rules"

# Secrets and addresses in results do not reach the model.
[[policies]]
name = "redact"
module = "builtin:redact"
config = {{ kinds = ["email", "api-key"] }}

# A place for a policy of your own. The one that is there has no opinion; replace the file, and the new one decides.
[[policies]]
name = "yours"
module = "policies/yours.wasm"
"#
        )
    }

    fn welcome(&self, config: &Config, key: &str) -> String {
        let url = format!("{}/mcp", config.public_url.as_str());
        let dir = self.dir.display();
        format!(
            r#"
Portcullis is running: {url}
Key: {key}

Connect
  Claude Code    claude mcp add --transport http portcullis {url} --header "Authorization: Bearer {key}"
  Cursor         .cursor/mcp.json:  {{"mcpServers":{{"portcullis":{{"url":"{url}","headers":{{"Authorization":"Bearer {key}"}}}}}}}}
  VS Code        .vscode/mcp.json:  {{"servers":{{"portcullis":{{"type":"http","url":"{url}","headers":{{"Authorization":"Bearer {key}"}}}}}}}}
  MCP inspector  npx @modelcontextprotocol/inspector --cli {url} --transport http --header "Authorization: Bearer {key}" --method tools/list

Try
  "Which notes do I have? Read the one about the staging environment."
                 the redact policy takes the API key and the e-mail address out
  "Close issue 1."
                 refused: the guard policy leaves closing to maintainers, and says so to the model
  "Create an issue."
                 there is no such tool: the guard policy hides it
  "Delete note-3."
                 waits for your approval: portcullis approval list --config {dir}/portcullis.toml

Change
  cp {dir}/policies/read-only.wasm {dir}/policies/yours.wasm
                 from now on only tools that change nothing may be called; no restart
  portcullis policy list --config {dir}/portcullis.toml
  portcullis decision list --config {dir}/portcullis.toml

Ctrl-C stops everything. {dir} is yours to keep or delete.
"#
        )
    }
}

/// Warnings only: the welcome is what a newcomer should read.
fn start_quiet_logging() -> anyhow::Result<()> {
    if std::env::var_os("PORTCULLIS_LOG").is_some() {
        return start_logging();
    }
    let started = tracing_subscriber::fmt().with_env_filter("warn").with_writer(std::io::stderr).try_init();
    started.expect("logging is started once");
    Ok(())
}

fn write_new(path: &Path, mode: u32, content: &[u8]) -> anyhow::Result<()> {
    match fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path) {
        Ok(mut file) => file.write_all(content).with_context(|| format!("cannot write {}", path.display())),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot write {}", path.display())),
    }
}

/// Starts the notes server on the port that the configuration expects it at. It ends when we do: its input closes.
async fn start_notes(config: &Config) -> anyhow::Result<Option<Child>> {
    let notes = config.upstreams.iter().find(|upstream| upstream.name.as_str() == "notes");
    let Some(UpstreamTransport::StreamableHttp { url, .. }) = notes.map(|notes| &notes.transport) else {
        return Ok(None);
    };
    let Some(port) = url.port_u16().filter(|_| url.host() == Some("127.0.0.1")) else { return Ok(None) };
    if TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
        bail!("port {port} is in use; with a new --dir, --port chooses others");
    }
    let mut child = Command::new(std::env::current_exe().context("cannot find this program")?)
        .args(["example-upstream", "notes", "--port", &port.to_string()])
        .stdin(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .context("cannot start the notes server")?;
    let until = Instant::now() + START_TIMEOUT;
    while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
        if let Some(status) = child.try_wait()? {
            bail!("the notes server ended: {status}");
        }
        if Instant::now() > until {
            bail!("the notes server did not start");
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(Some(child))
}

async fn end_notes(notes: &mut Option<Child>) {
    let Some(child) = notes else { return };
    drop(child.stdin.take());
    if tokio::time::timeout(Duration::from_secs(2), child.wait()).await.is_err() {
        // It is killed on drop as well; an error here says that it has ended.
        _ = child.kill().await;
    }
}

/// Waits until the gateway has tried all its upstreams.
async fn wait_until_ready(config: &Config) -> anyhow::Result<()> {
    let until = Instant::now() + START_TIMEOUT;
    loop {
        if let Ok((_, answer)) = ask_socket(&config.listen.admin_socket, Method::GET, "/api/v1/status", None).await {
            let status: serde_json::Value = serde_json::from_slice(&answer).unwrap_or_default();
            if status["ready"] == true {
                return Ok(());
            }
        }
        if Instant::now() > until {
            bail!("the gateway did not become ready in {} s", START_TIMEOUT.as_secs());
        }
        tokio::time::sleep(POLL).await;
    }
}
