//! The command line: the real binary, as an operator types it.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use http::StatusCode;
use portcullis_tests::caller::send_unix;
use portcullis_tests::gateway::SOON;
use portcullis_tests::upstreams::fixture::Fixture;
use portcullis_tests::{Caller, Gateway, program, repository};
use serde_json::{Value, json};
use tempfile::TempDir;

mod accounts;
mod config;
mod doctor;
mod follow;
mod output;
mod policies;

/// What a command did.
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(super) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// Of a command that must have succeeded: what it printed.
    pub(crate) fn printed(self) -> String {
        assert_eq!(self.code, Some(0), "{}{}", self.stdout, self.stderr);
        self.stdout
    }

    /// Of a command that must have failed: what it complained of.
    pub(crate) fn complaint(self) -> String {
        assert_eq!(self.code, Some(1), "{}{}", self.stdout, self.stderr);
        assert_eq!(self.stdout, "", "complaints go to standard error");
        self.stderr
    }
}

pub(super) fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(program("portcullis"));
    command
        .args(arguments)
        .env_remove("PORTCULLIS_CONFIG")
        .env_remove("PORTCULLIS_SOCKET")
        .env_remove("PORTCULLIS_LOG")
        .stdin(Stdio::null());
    command
}

/// Runs the binary in a directory, while a gateway of this process may serve it.
pub(crate) async fn run_in(dir: &Path, arguments: &[&str]) -> Ran {
    let mut command = command(arguments);
    command.current_dir(dir);
    let Output { status, stdout, stderr } =
        tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { code: status.code(), stdout: text(stdout), stderr: text(stderr) }
}

pub(super) async fn run(arguments: &[&str]) -> Ran {
    run_in(repository(), arguments).await
}

/// A directory with these files.
pub(super) fn dir_with(files: &[(&str, &str)]) -> TempDir {
    let dir = TempDir::new().unwrap();
    for (name, content) in files {
        fs::write(dir.path().join(name), content).unwrap();
    }
    dir
}

#[tokio::test]
async fn check_approves_what_can_be_used() {
    let config = "[upstreams.notes]\nurl = \"http://127.0.0.1:9/mcp\"\n\n[keys.ci]\nsecret = \"file:ci.key\"\nallow = [{ upstream = \"notes\", tools = [\"*\"] }]\n\n[[policies]]\nname = \"guard\"\nmodule = \"builtin:allow-tools\"\n";
    let dir = dir_with(&[("portcullis.toml", config), ("ci.key", "pk_0123456789abcdef0123456789abcdef0123456789a")]);
    for arguments in [&["check"][..], &["check", "--config", "portcullis.toml"], &["check", "-c", "./portcullis.toml"]]
    {
        let printed = run_in(dir.path(), arguments).await.printed();
        assert!(printed.contains("ok (1 upstreams, 1 keys, 1 policies)"), "{printed}");
    }
    assert!(!dir.path().join("portcullis-data").exists(), "a check makes nothing");
}

#[tokio::test]
async fn check_tells_each_mistake_with_its_line() {
    let config = r#"public_url = "not a url"
colour = "blue"

[listen]
public = "127.0.0.1:99999"

[edge]
idle_timeout = "soon"

[upstreams.Notes]
url = "http://127.0.0.1:9/mcp"

[upstreams.tracker]
url = "ftp://127.0.0.1/mcp"

[keys.ci]
secret = "file:missing.key"
allow = [{ upstream = "trackers", tools = ["*"] }]

[[policies]]
name = "guard"
module = "missing.wasm"
"#;
    let dir = dir_with(&[("portcullis.toml", config)]);
    let shape = run_in(dir.path(), &["check"]).await.complaint();
    assert!(shape.contains("portcullis.toml:2:1:") && shape.contains("colour"), "{shape}");

    // What is left once the unknown setting is gone.
    fs::write(dir.path().join("portcullis.toml"), config.replace("colour = \"blue\"", "")).unwrap();
    let complaint = run_in(dir.path(), &["check"]).await.complaint();
    for (line, part) in [
        (1, "public_url"),
        (5, "public"),
        (8, "idle_timeout"),
        (10, "Notes"),
        (14, "url"),
        (17, "missing.key"),
        (18, "trackers"),
        (22, "missing.wasm"),
    ] {
        let found =
            complaint.lines().any(|told| told.contains(&format!("portcullis.toml:{line}:")) && told.contains(part));
        assert!(found, "line {line} and {part:?} are not in\n{complaint}");
    }
    assert!(complaint.contains("did you mean `tracker`?"), "{complaint}");
}

#[tokio::test]
async fn check_tells_what_is_wrong_with_the_file_or_a_policy() {
    let empty = TempDir::new().unwrap();
    let complaint = run_in(empty.path(), &["check"]).await.complaint();
    assert!(complaint.contains("portcullis.toml"), "{complaint}");

    let dir = dir_with(&[("portcullis.toml", "[[[\n")]);
    let complaint = run_in(dir.path(), &["check"]).await.complaint();
    assert!(complaint.contains("portcullis.toml:1:"), "{complaint}");

    let policies = "[[policies]]\nname = \"broken\"\nmodule = \"broken.wasm\"\n\n[[policies]]\nname = \"misled\"\nmodule = \"builtin:allow-tools\"\nconfig = { rules = 7 }\n";
    let dir = dir_with(&[("portcullis.toml", policies), ("broken.wasm", "not a module")]);
    let complaint = run_in(dir.path(), &["check"]).await.complaint();
    assert!(complaint.contains("broken") && complaint.contains("misled"), "each mistake, not the first: {complaint}");
}

#[tokio::test]
async fn a_secret_never_shows_in_a_complaint() {
    let config = "[keys.ci]\nsecret = \"pk_hunter2-hunter2-hunter2-hunter2-hunter2\"\n[upstreams.up]\nurl = \"http://user:hunter2@127.0.0.1/mcp\"\nheaders = { Authorization = \"Bearer hunter2\" }\n";
    let dir = dir_with(&[("portcullis.toml", config)]);
    let complaint = run_in(dir.path(), &["check"]).await.complaint();
    assert!(complaint.contains("portcullis.toml:2:"), "{complaint}");
    assert!(!complaint.contains("hunter2"), "{complaint}");
}

#[tokio::test]
async fn schema_is_a_json_schema_of_the_file() {
    let schema: Value = serde_json::from_str(&run(&["schema"]).await.printed()).unwrap();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    let sections: Vec<&String> = schema["properties"].as_object().unwrap().keys().collect();
    for section in
        ["public_url", "data_dir", "listen", "store", "edge", "limits", "upstreams", "keys", "policy", "policies"]
    {
        assert!(sections.iter().any(|other| *other == section), "{section} is not in {sections:?}");
    }
    assert_eq!(schema["additionalProperties"], false);
}

#[tokio::test]
async fn inspect_shows_what_a_module_is() {
    for name in ["allow-tools", "redact", "read-only"] {
        let file = format!("policies/prebuilt/{name}.wasm");
        let shown: Value = serde_json::from_str(&run(&["policy", "inspect", "--json", &file]).await.printed()).unwrap();
        assert_eq!(shown["name"], name);
        assert_eq!(shown["size_bytes"], fs::metadata(repository().join(&file)).unwrap().len());
        assert!(!shown["hooks"].as_array().unwrap().is_empty());
        assert!(shown["config_schema"].is_object() && shown["sample_config"].is_object());
        let digests = fs::read_to_string(repository().join("policies/prebuilt/digests.txt")).unwrap();
        let digest = shown["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
        assert!(
            digests.lines().any(|line| line.contains(digest) && line.contains(name)),
            "{name} {digest} is not in\n{digests}"
        );
    }
    let text = run(&["policy", "inspect", "policies/prebuilt/allow-tools.wasm"]).await.printed();
    for part in ["allow-tools ", "sha256:", "tool-call", "list-tools", "sample configuration"] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
}

#[tokio::test]
async fn inspect_says_why_something_is_no_module() {
    let dir = dir_with(&[("text.wasm", "hello"), ("empty.wasm", "")]);
    for (file, part) in [("text.wasm", "text.wasm"), ("empty.wasm", "empty.wasm"), ("missing.wasm", "missing.wasm")] {
        let complaint = run_in(dir.path(), &["policy", "inspect", file]).await.complaint();
        assert!(complaint.contains(part), "{complaint}");
    }
}

#[tokio::test]
async fn keys_are_made_and_ended_from_the_command_line() {
    let up = Fixture::start().await;
    let gateway = Gateway::builder().http_upstream("up", &up.url).key("alice").start().await;
    let (dir, config) = (gateway.dir.path(), gateway.file.to_str().unwrap());
    let key = async |arguments: &[&str]| run_in(dir, &[&["key"], arguments, &["--config", config]].concat()).await;

    let allow = ["create", "ci", "--allow", "up/echo", "--allow", "up/test_*"];
    let more = ["--scope", "read", "--scope", "notes:write", "--group", "ops", "--expires", "2027-01-31T00:00:00Z"];
    let printed = key(&[&allow[..], &more].concat()).await.printed();
    let secret = printed.lines().next().unwrap().to_owned();
    assert!(secret.starts_with("pk_"), "{printed}");
    let ci = Caller::new(gateway.public, Some(secret.clone()));
    assert_eq!(ci.call("up__echo", json!({})).await.json()["result"]["resultType"], "complete");
    assert_eq!(ci.call("up__slow", json!({ "ms": 0 })).await.json()["error"]["code"], -32602);

    let list = key(&["list"]).await.printed();
    let line = |name: &str| {
        list.lines()
            .find(|line| line.starts_with(name))
            .unwrap_or_else(|| panic!("{name} is not in\n{list}"))
            .to_owned()
    };
    for part in ["enabled", "2027-01-31T00:00:00", "store", "up/echo up/test_*", "read notes:write", "ops"] {
        assert!(line("ci").contains(part), "{list}");
    }
    assert!(line("alice").contains("file"), "{list}");
    assert!(!list.contains(&secret));

    assert_eq!(key(&["set", "ci", "--allow", "up/echo", "--owner", "ada"]).await.printed(), "ci is changed\n");
    let shown = key(&["show", "ci"]).await.printed();
    assert!(shown.contains("up/echo") && !shown.contains("test_") && shown.contains("ada"), "{shown}");
    let rotated = key(&["rotate", "ci", "--overlap", "1h"]).await.printed();
    let another = rotated.lines().next().unwrap().to_owned();
    assert!(another.starts_with("pk_") && another != secret && rotated.contains("is good until"), "{rotated}");
    let anew = Caller::new(gateway.public, Some(another));
    for caller in [&ci, &anew] {
        assert_eq!(caller.call("up__echo", json!({})).await.json()["result"]["resultType"], "complete");
    }
    assert_eq!(key(&["rotate", "ci", "--end-earlier"]).await.printed(), "the earlier secret of ci is ended\n");
    assert_eq!(ci.call("up__echo", json!({})).await.status, StatusCode::UNAUTHORIZED);
    let ci = anew;

    assert_eq!(key(&["disable", "ci"]).await.printed(), "ci is disabled\n");
    assert_eq!(ci.call("up__echo", json!({})).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(key(&["enable", "ci"]).await.printed(), "ci is enabled\n");
    assert_eq!(ci.call("up__echo", json!({})).await.status, StatusCode::OK);
    assert_eq!(key(&["delete", "ci"]).await.printed(), "ci is deleted\n");
    assert_eq!(ci.call("up__echo", json!({})).await.status, StatusCode::UNAUTHORIZED);

    for (arguments, part) in [
        (&["delete", "ci"][..], "no such key"),
        (&["disable", "alice"], "configuration file"),
        (&["rotate", "alice"], "configuration file"),
        (&["set", "ci"], "nothing to change"),
        (&["create", "alice"], "already"),
        (&["create", "Not A Name"], "a-z"),
        (&["create", "ci", "--allow", "no-slash"], "UPSTREAM/TOOL"),
        (&["create", "ci", "--expires", "tomorrow"], "2027-01-31T00:00:00Z"),
        (&["create", "ci", "--scope", "two words"], "entry 0 of `scopes` must be"),
        (&["delete", "../status"], "no such key"),
    ] {
        let complaint = key(arguments).await.complaint();
        assert!(complaint.contains(part), "{arguments:?}: {complaint}");
    }
}

#[tokio::test]
async fn the_running_gateway_is_shown_from_the_command_line() {
    let up = Fixture::start().await;
    let policy =
        "[[policies]]\nname = \"guard\"\nmodule = \"builtin:allow-tools\"\n[policies.config]\notherwise = \"allow\"";
    let gateway = Gateway::builder().http_upstream("up", &up.url).key("alice").section(policy).start().await;
    gateway.caller("alice").call("up__echo", json!({})).await;
    gateway.until("/api/v1/decisions", |view| view["decisions"].as_array().unwrap().len() == 1).await;
    let config = gateway.file.to_str().unwrap();
    for (arguments, parts) in [
        (&["status"][..], &["ready", "yes", "1 up (", "1 enforce (generation 1)", "(callers)"][..]),
        (&["upstream", "list"], &["NAME", "up", "streamable-http"]),
        (&["upstream", "refresh", "up"], &["being read"]),
        (&["policy", "list"], &["guard", "allow-tools", "generation 1"]),
        (&["policy", "reload"], &["guard", "generation 2"]),
        (&["decision", "list"], &["key:alice", "up/echo", "allow", "guard"]),
        (&["audit", "list", "--event", "gateway"], &["gateway.started", "system", "version="]),
        (
            &["decisions", "--principal", "key:alice", "--tool", "echo", "--verdict", "allow", "--limit", "1"],
            &["up/echo"],
        ),
    ] {
        let printed = run_in(gateway.dir.path(), &[arguments, &["--config", config]].concat()).await.printed();
        for part in parts {
            assert!(printed.contains(part), "{arguments:?}: {part:?} is not in\n{printed}");
        }
    }
    let complaint =
        run_in(gateway.dir.path(), &["decisions", "--verdict", "maybe", "--config", config]).await.complaint();
    assert!(complaint.contains("`verdict` is `allow`, `deny`, `hidden`, `step-up`"), "{complaint}");
}

#[tokio::test]
async fn without_a_gateway_a_command_says_so() {
    let dir = dir_with(&[("portcullis.toml", "data_dir = \"data\"\n")]);
    for arguments in [&["key", "list"][..], &["status"], &["policy", "reload"], &["decisions"]] {
        let complaint = run_in(dir.path(), arguments).await.complaint();
        assert!(complaint.contains("is it running?") && complaint.contains("admin.sock"), "{complaint}");
    }
}

#[tokio::test]
async fn a_mistake_in_the_file_keeps_nobody_from_asking() {
    let gateway = Gateway::builder().on_disk().key("alice").start().await;
    let dir = gateway.dir.path();
    let text = fs::read_to_string(&gateway.file).unwrap();
    let more = |more: &str| format!("{text}\n{more}\n");
    let file = dir.join("asked.toml");
    let asked = async |arguments: &[&str]| run_in(dir, &[arguments, &["-c", "asked.toml"]].concat()).await;
    for mistaken in [
        more("[[policies]]\nname = \"gone\"\nmodule = \"gone.wasm\""),
        more("[limits]\ncolour = \"blue\""),
        format!("colour = \"blue\"\n{text}"),
        more("[keys.ci]\nallow = []\nsecret = \"env:PORTCULLIS_NOT_SET_ANYWHERE\""),
    ] {
        fs::write(&file, mistaken).unwrap();
        assert_eq!(asked(&["check"]).await.code, Some(1), "there is a mistake");
        for arguments in
            [&["status"][..], &["policy", "generations"], &["audit", "list"], &["backup", "store.backup", "--force"]]
        {
            asked(arguments).await.printed();
        }
        assert!(asked(&["key", "list"]).await.printed().contains("alice"));
    }

    // Where not even that can be read, the socket is named.
    fs::write(&file, more("[limits\n")).unwrap();
    let complaint = asked(&["status"]).await.complaint();
    assert!(complaint.contains("--socket PATH") && complaint.contains("asked.toml:"), "{complaint}");
    fs::remove_file(&file).unwrap();
    let complaint = asked(&["key", "list"]).await.complaint();
    assert!(complaint.contains("--socket PATH") && complaint.contains("does not exist"), "{complaint}");
    let listed = asked(&["key", "list", "--socket", "data/admin.sock"]).await.printed();
    assert!(listed.contains("alice"), "{listed}");
    let complaint = asked(&["key", "list", "--socket", "nowhere.sock"]).await.complaint();
    assert!(complaint.contains("nowhere.sock") && complaint.contains("is it running?"), "{complaint}");
}

#[tokio::test]
async fn what_counts_from_the_next_start_is_not_shown_as_if_it_held() {
    let gateway = Gateway::builder().start().await;
    let dir = gateway.dir.path();
    let awaited = "awaited: the file has other settings that count from the next start";
    assert!(!run_in(dir, &["status"]).await.printed().contains(awaited));
    let text = fs::read_to_string(&gateway.file).unwrap();
    let (url, admin) = (gateway.url(), gateway.admin.to_string());
    let other = text
        .replace(&format!("public_url = \"http://{}\"", gateway.public), "public_url = \"https://gate.example\"")
        .replace(&format!("admin = \"{admin}\""), "admin = \"127.0.0.1:1\"");
    assert!(other.contains("gate.example") && other.contains("127.0.0.1:1\""), "{other}");
    gateway.replace("portcullis.toml", other.as_bytes());
    let reloaded = run_in(dir, &["policy", "reload"]).await.printed();
    assert!(reloaded.contains(&format!("restart {awaited}")), "{reloaded}");
    let printed = run_in(dir, &["status"]).await.printed();
    let told = |start: &str, part: &str| printed.lines().any(|line| line.starts_with(start) && line.contains(part));
    assert!(told("restart", awaited), "{printed}");
    let doctor = run_in(dir, &["doctor"]).await.stdout;
    assert!(doctor.contains("was started with other settings than the file has now"), "{doctor}");
    assert!(told("listens at", &admin) && !printed.contains("gate.example"), "{printed}");
    assert!(told("public URL", url.trim_end_matches("/mcp")), "{printed}");
}

#[tokio::test]
async fn quickstart_writes_nothing_where_it_cannot_listen() {
    let dir = TempDir::new().unwrap();
    // Three ports from one that is taken.
    let (_taken, port) = loop {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        if port < 65_000 {
            break (taken, port.to_string());
        }
    };
    let complaint = run_in(dir.path(), &["quickstart", "--dir", "new", "--port", &port]).await.complaint();
    assert!(complaint.contains(&format!("127.0.0.1:{port}")) && complaint.contains("--port"), "{complaint}");
    assert!(!dir.path().join("new").exists(), "nothing is made");

    fs::create_dir(dir.path().join("old")).unwrap();
    fs::write(dir.path().join("old/portcullis.toml"), "data_dir = \"data\"\n").unwrap();
    let complaint = run_in(dir.path(), &["quickstart", "--dir", "old", "--port", &port]).await.complaint();
    assert!(complaint.contains("the ports are in old/portcullis.toml; --port counts for a new"), "{complaint}");
}

/// A served gateway, killed if a test does not end it.
struct Serving(std::process::Child);

impl Drop for Serving {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

impl Serving {
    /// Starts `portcullis serve` in a directory and waits until it is ready.
    async fn start(dir: &Path) -> Self {
        let mut command = command(&["serve"]);
        let serving = Self(command.current_dir(dir).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
        let ready = async {
            loop {
                if let Ok(status) = send_unix(&dir.join("data/admin.sock"), "GET", "/api/v1/status", None).await
                    && status.json()["ready"] == true
                {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(SOON, ready).await.expect("the gateway gets ready");
        serving
    }

    /// Sends a signal and waits for the end: the exit code and what was logged.
    async fn end(mut self, signal: &str) -> (Option<i32>, String) {
        let pid = self.0.id().to_string();
        assert!(Command::new("sh").args(["-c", &format!("kill -{signal} {pid}")]).status().unwrap().success());
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                break status;
            }
            assert!(start.elapsed() < SOON, "it does not stop on SIG{signal}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        let mut log = String::new();
        std::io::Read::read_to_string(self.0.stderr.as_mut().unwrap(), &mut log).unwrap();
        (status.code(), log)
    }
}

/// A configuration on a port that was free a moment ago.
fn servable(more: &str) -> (TempDir, std::net::SocketAddr) {
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let dir = dir_with(&[(
        "portcullis.toml",
        &format!("data_dir = \"data\"\n[listen]\npublic = \"{address}\"\nadmin = \"off\"\n{more}"),
    )]);
    (dir, address)
}

#[tokio::test]
async fn serve_stops_on_a_signal_and_succeeds() {
    let (dir, address) =
        servable(&format!("[upstreams.child]\ncommand = [{:?}, \"stdio\"]\n", program("fixture-upstream")));
    for signal in ["TERM", "INT"] {
        let serving = Serving::start(dir.path()).await;
        assert_eq!(Caller::new(address, None).send("GET", "/readyz", "").await.status, StatusCode::OK);
        let (code, log) = serving.end(signal).await;
        assert_eq!(code, Some(0), "{log}");
        assert!(!dir.path().join("data/admin.sock").exists());
        for line in log.lines() {
            let event: Value = serde_json::from_str(line)
                .unwrap_or_else(|error| panic!("{error}: the log is no JSON where nobody reads along: {line}"));
            assert!(event["message"].is_string() && event["level"].is_string(), "{line}");
        }
        assert!(log.contains("stopping"), "{log}");
    }
}

#[tokio::test]
async fn a_hangup_reloads_and_does_not_stop() {
    let (dir, _) = servable("");
    let serving = Serving::start(dir.path()).await;
    assert!(Command::new("sh").args(["-c", &format!("kill -HUP {}", serving.0.id())]).status().unwrap().success());
    let reloaded = async {
        let socket = dir.path().join("data/admin.sock");
        while send_unix(&socket, "GET", "/api/v1/status", None).await.unwrap().json()["policy_generation"] != 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(SOON, reloaded).await.expect("the gateway reloads");
    assert_eq!(serving.end("TERM").await.0, Some(0));
}

#[tokio::test]
async fn serve_says_why_it_does_not_start() {
    let (dir, address) = servable("");
    let taken = std::net::TcpListener::bind(address).unwrap();
    let complaint = run_in(dir.path(), &["serve"]).await;
    assert_eq!(complaint.code, Some(1));
    assert!(complaint.stderr.contains(&format!("cannot listen on {address}")), "{}", complaint.stderr);
    drop(taken);

    let serving = Serving::start(dir.path()).await;
    // The same directory, but another address.
    let config = fs::read_to_string(dir.path().join("portcullis.toml")).unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    fs::write(dir.path().join("other.toml"), config.replace(&address.to_string(), &free.to_string())).unwrap();
    let second = run_in(dir.path(), &["serve", "--config", "other.toml"]).await;
    assert_eq!(second.code, Some(1));
    assert!(second.stderr.contains("portcullis.redb"), "{}", second.stderr);
    assert_eq!(serving.end("TERM").await.0, Some(0), "the first is not disturbed");
}

#[tokio::test]
async fn import_turns_a_clients_file_into_a_configuration_that_checks() {
    let desktop = json!({
        "mcpServers": {
            "Team Files": { "command": "npx", "args": ["-y", "@example/files", "/srv/team files"], "env": { "API_KEY": "hunter2-0123456789" } },
            "search": { "url": "https://search.example.com/mcp", "headers": { "Authorization": "Bearer hunter2-abcdefghij" } },
        },
        "theme": "dark",
    });
    let dir = dir_with(&[("claude_desktop_config.json", &desktop.to_string())]);
    run_in(dir.path(), &["upstream", "import", "claude_desktop_config.json", "--into", "portcullis.toml"])
        .await
        .printed();
    let config = fs::read_to_string(dir.path().join("portcullis.toml")).unwrap();
    assert!(!config.contains("hunter2"), "secrets go to files of their own:\n{config}");
    assert!(config.contains("https://search.example.com/mcp") && config.contains("/srv/team files"), "{config}");
    let printed = run_in(dir.path(), &["check"]).await.printed();
    assert!(printed.contains("2 upstreams"), "{printed}");

    let printed = run_in(dir.path(), &["upstream", "import", "claude_desktop_config.json"]).await.printed();
    assert!(printed.contains("[upstreams.") && !printed.contains("hunter2"), "{printed}");

    for (name, content) in [("not.json", "{"), ("list.json", "[]"), ("none.json", "{}")] {
        fs::write(dir.path().join(name), content).unwrap();
        let complaint = run_in(dir.path(), &["upstream", "import", name]).await.complaint();
        assert!(complaint.contains(name), "{complaint}");
    }
}

#[tokio::test]
async fn help_is_there_and_nonsense_is_not_understood() {
    let help = run(&["--help"]).await.printed();
    for word in
        ["quickstart", "serve", "check", "schema", "key", "policy", "upstream", "decision", "audit", "status", "doctor"]
    {
        assert!(help.contains(word), "{word} is not in\n{help}");
        let own = run(&[word, "--help"]).await.printed();
        assert!(own.contains("Usage:"), "{own}");
    }
    assert!(!help.contains("example-upstream"), "what is not for people is not shown");
    assert!(run(&["--version"]).await.printed().starts_with("portcullis "));
    for arguments in [&["none"][..], &[], &["serve", "--none"], &["key"], &["decisions", "--limit", "0"]] {
        assert_eq!(run(arguments).await.code, Some(2), "{arguments:?}");
    }
}
