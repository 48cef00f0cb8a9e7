//! Secrets that nobody else has go through every flow; then everything that the gateway wrote is searched for them (H9).
//!
//! A flow that comes to handle another secret adds it with one line of [`Canaries::new`] and uses it below; what the gateway
//! answers on the way goes through [`Written::add`].

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use portcullis::http::api::ROUTES;
use portcullis_tests::caller::send_unix;
use portcullis_tests::oauth::Browser;
use portcullis_tests::upstreams::collector::Collector;
use portcullis_tests::upstreams::fixture::Fixture;
use portcullis_tests::{Caller, program};
use serde_json::json;
use tempfile::TempDir;

use super::{Process, free_port};

/// A secret and what it is.
pub(crate) struct Canary {
    what: &'static str,
    secret: String,
}

pub(crate) struct Canaries(Vec<Canary>);

impl Canaries {
    fn new() -> Self {
        let mut canaries = Self(Vec::new());
        canaries.add("key of the file", "pk_");
        canaries.add("key that is refused", "pk_");
        canaries.add("upstream credential", "");
        canaries.add("environment of a child", "");
        canaries.add("operator token", "");
        canaries.add("wrong operator token", "");
        canaries.add("deployment secret", "");
        canaries.add("key of the vault", "");
        canaries.add("second key of the vault", "");
        canaries.add("secret in a query", "");
        canaries
    }

    /// Secrets of these kinds.
    pub(crate) fn of(kinds: &[&'static str]) -> Self {
        let mut canaries = Self(Vec::new());
        for what in kinds {
            canaries.add(what, if what.contains("key") { "pk_" } else { "" });
        }
        canaries
    }

    /// One more secret: 64 hexadecimal digits behind a prefix, the same in no two runs.
    pub(crate) fn add(&mut self, what: &'static str, prefix: &str) {
        let random = portcullis::Env::system().random::<32>();
        let digits: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        self.0.push(Canary { what, secret: format!("{prefix}{digits}") });
    }

    /// One that the gateway has drawn.
    pub(crate) fn adopt(&mut self, what: &'static str, secret: &str) {
        self.0.push(Canary { what, secret: secret.to_owned() });
    }

    pub(crate) fn get(&self, what: &str) -> &str {
        &self.0.iter().find(|canary| canary.what == what).unwrap_or_else(|| panic!("no canary {what}")).secret
    }
}

impl Canary {
    /// How it could stand somewhere.
    fn forms(&self) -> Vec<Vec<u8>> {
        let bytes = self.secret.as_bytes();
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let mut forms = vec![
            self.secret.clone(),
            self.secret.to_uppercase(),
            hex(bytes),
            STANDARD.encode(bytes),
            STANDARD_NO_PAD.encode(bytes),
            URL_SAFE_NO_PAD.encode(bytes),
            // A part of it is bad enough.
            self.secret[..24].to_owned(),
            self.secret[self.secret.len() - 24..].to_owned(),
        ];
        // The bytes that its digits stand for, as a key is kept in memory.
        let digits = self.secret.trim_start_matches("pk_");
        let byte = |at: usize| digits.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
        let raw: Option<Vec<u8>> = (0..digits.len()).step_by(2).map(byte).collect();
        forms.extend(raw.iter().flat_map(|raw| [STANDARD.encode(raw), URL_SAFE_NO_PAD.encode(raw)]));
        forms.into_iter().map(String::into_bytes).chain(raw).collect()
    }
}

/// Everything that the gateway wrote, and where.
#[derive(Default)]
pub(crate) struct Written(Vec<(String, Vec<u8>)>);

impl Written {
    pub(crate) fn add(&mut self, place: impl Into<String>, bytes: impl Into<Vec<u8>>) {
        self.0.push((place.into(), bytes.into()));
    }

    pub(crate) fn add_reply(&mut self, place: &str, reply: &portcullis_tests::Reply) {
        self.add(format!("{place}, headers"), format!("{:?}", reply.headers));
        self.add(place, reply.body.to_vec());
    }

    /// Files of a directory and of those in it, but for those where the operator put a secret.
    pub(crate) fn add_files(&mut self, dir: &Path, but: &[&str]) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                self.add_files(&path, but);
            } else if path.is_file() && !but.contains(&name.as_str()) {
                self.add(path.display().to_string(), fs::read(&path).unwrap());
            }
        }
    }

    pub(crate) fn leaks(&self, canaries: &Canaries) -> Vec<String> {
        let forms: Vec<_> = canaries
            .0
            .iter()
            .flat_map(|canary| canary.forms().into_iter().map(move |form| (canary.what, form)))
            .collect();
        // By their first two bytes, since there is much to search.
        let mut begin = vec![Vec::new(); 1 << 16];
        for (at, (_, form)) in forms.iter().enumerate() {
            begin[usize::from(u16::from_be_bytes([form[0], form[1]]))].push(at);
        }
        let mut leaks = BTreeSet::new();
        for (place, bytes) in &self.0 {
            for (at, pair) in bytes.windows(2).enumerate() {
                for form in &begin[usize::from(u16::from_be_bytes([pair[0], pair[1]]))] {
                    let (what, form) = &forms[*form];
                    if bytes[at..].starts_with(form) {
                        leaks.insert(format!("{what} is in {place}"));
                    }
                }
            }
        }
        leaks.into_iter().collect()
    }
}

pub(crate) fn private(path: &Path, content: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// What the operator writes. Secrets stand in files of their own.
fn lay_out(dir: &Path, canaries: &Canaries, (upstream, otlp): (&str, &str), port: u16, admin: u16) {
    for (file, what) in [
        ("caller.key", "key of the file"),
        ("upstream.token", "upstream credential"),
        ("child.secret", "environment of a child"),
        ("data/operator-token", "operator token"),
        ("data/deployment-secret", "deployment secret"),
        ("data/vault.key", "key of the vault"),
        ("second.key", "second key of the vault"),
    ] {
        private(&dir.join(file), canaries.get(what));
    }
    let child = program("fixture-upstream");
    let config = format!(
        r#"data_dir = "data"
[listen]
public = "127.0.0.1:{port}"
admin = "127.0.0.1:{admin}"
[[vault.keys]]
kid = "first"
source = "file"
path = "data/vault.key"
[[vault.keys]]
kid = "second"
source = "file"
path = "second.key"
[policy]
record = true
[telemetry]
otlp_endpoint = "{otlp}"
sample = 1.0
[audit]
export = "file:audit.jsonl"
[upstreams.up]
url = "{upstream}"
headers = {{ Authorization = "Bearer file:upstream.token" }}
[upstreams.gone]
url = "http://127.0.0.1:9/mcp"
headers = {{ Authorization = "Bearer file:upstream.token" }}
[upstreams.child]
command = [{child:?}, "stdio"]
environment = {{ CHILD_SECRET = "file:child.secret" }}
[keys.caller]
secret = "file:caller.key"
allow = [{{ upstream = "*", tools = ["*"] }}]
[[policies]]
name = "all"
module = "builtin:allow-tools"
config = {{ otherwise = "hide", rules = [{{ tools = ["*/*"], action = "allow" }}] }}
"#
    );
    fs::write(dir.join("portcullis.toml"), config).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_in_anything_that_the_gateway_writes() {
    let mut canaries = Canaries::new();
    let mut written = Written::default();
    let up = Fixture::start().await;
    let dir = TempDir::new().unwrap();
    let (port, admin) = (free_port(), free_port());
    let collector = Collector::start().await;
    lay_out(dir.path(), &canaries, (&up.url, &collector.url()), port, admin);
    let log = dir.path().join("gateway.log");
    let process = Process::start(dir.path(), |command| {
        // The compiler of policies would say more than all others together.
        command
            .env("PORTCULLIS_LOG", "trace,wasmtime=debug,cranelift_codegen=debug,regalloc2=debug")
            .env("RUST_BACKTRACE", "full");
        command.stderr(File::create(&log).unwrap()).stdout(File::create(dir.path().join("gateway.out")).unwrap());
    })
    .await;
    let socket = dir.path().join("data/admin.sock");
    let operator = async |method: &str, path: &str, body| send_unix(&socket, method, path, body).await.unwrap();

    // A key that the gateway draws: shown in this one answer.
    let new = json!({ "name": "drawn", "allow": [{ "upstream": "*", "tools": ["*"] }] });
    let drawn = operator("POST", "/api/v1/keys", Some(new)).await.json();
    canaries.adopt("key that the gateway drew", drawn["secret"].as_str().unwrap());

    // Callers: right and wrong keys, calls that go well, fail, are malformed, and say a secret where none belongs.
    let public = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    for what in ["key of the file", "key that is refused", "key that the gateway drew"] {
        let caller = Caller::new(public, Some(canaries.get(what).to_owned()));
        for tool in ["up__echo", "up__none", "gone__any", "child__any"] {
            written.add_reply(tool, &caller.call(tool, json!({ "text": "hello" })).await);
        }
        written.add_reply("tools/list", &caller.modern("tools/list", json!({})).await);
        written.add_reply("no JSON", &caller.post("{").await);
        let path = format!("/mcp?access_token={}", canaries.get("secret in a query"));
        written.add_reply("query", &caller.send("POST", &path, "{}").await);
        for header in ["cookie", "proxy-authorization", "x-api-key"] {
            let with = caller.copy().with(header, canaries.get("key that is refused"));
            written.add_reply(header, &with.post("{}").await);
        }
    }

    // Operators: every row that reads, with right and wrong tokens; the vault's commands; a refused reload.
    let at = |token: &str| Caller::new(std::net::SocketAddr::from(([127, 0, 0, 1], admin)), Some(token.to_owned()));
    let (right, wrong) = (at(canaries.get("operator token")), at(canaries.get("wrong operator token")));
    written.add_reply("key made over tcp", &right.send("GET", "/api/v1/keys/drawn", "").await);
    let rows = ROUTES.iter().filter(|route| route.method == "GET").map(|route| route.path);
    let rows = rows.filter(|path| !path.ends_with("/tail"));
    for path in rows.chain(["/metrics", "/readyz?verbose"]) {
        let path = path.replace("{name}", "drawn").replace("{id}", "none");
        written.add_reply(&path, &right.send("GET", &path, "").await);
        written.add_reply(&path, &wrong.send("GET", &path, "").await);
    }
    // An owner who comes by a link, in a browser, and a token of theirs.
    let link = operator("POST", "/api/v1/set-up-link", None).await.json()["link"].as_str().unwrap().to_owned();
    canaries.adopt("set-up link", link.split_once('#').unwrap().1);
    canaries.add("password of the owner", "");
    let mut browser = Browser::new(std::net::SocketAddr::from(([127, 0, 0, 1], admin)));
    let form = browser.get("/setup").await.form("/setup").with("link", &link).with("login", "ada");
    let owner = browser.submit(&form.with("password", canaries.get("password of the owner"))).await;
    assert_eq!(owner.status(), 200, "{owner}");
    canaries.adopt("cookie of the owner", &browser.jar.named("admin-session").unwrap().1.value);
    written.add_reply("the owner's first page", &owner.reply);
    let ada = operator("GET", "/api/v1/users?login=ada", None).await.json()["users"][0]["id"].clone();
    let wanted = json!({ "name": "ci", "user": ada, "role": "owner" });
    let token = operator("POST", "/api/v1/api-tokens", Some(wanted)).await.json();
    canaries.adopt("API token", token["secret"].as_str().unwrap());
    let holder = at(canaries.get("API token"));
    for path in ["/api/v1/me", "/api/v1/api-tokens", "/api/v1/audit?limit=200"] {
        written.add_reply(path, &holder.send("GET", path, "").await);
    }
    let decisions = operator("GET", "/api/v1/decisions?limit=200", None).await.json();
    for decision in decisions["decisions"].as_array().unwrap() {
        let path = format!("/api/v1/recordings/{}", decision["id"].as_str().unwrap());
        written.add_reply("recordings", &operator("GET", &path, None).await);
    }
    for (path, body) in [
        ("/api/v1/vault/rotate", json!({ "to": "second" })),
        ("/api/v1/vault/rewrap", json!({})),
        ("/api/v1/vault/rewrap", json!({})),
        ("/api/v1/vault/verify", json!({})),
        ("/api/v1/vault/shred", json!({ "principal": "key:drawn" })),
        ("/api/v1/policies/reload", json!({})),
        ("/api/v1/keys", json!({ "name": "drawn" })),
    ] {
        written.add_reply(path, &operator("POST", path, Some(body)).await);
    }
    private(&dir.path().join("second.key"), "not a key");
    let refused = operator("POST", "/api/v1/policies/reload", Some(json!({}))).await;
    assert!(!refused.status.is_success());
    written.add_reply("refused reload", &refused);
    private(&dir.path().join("second.key"), canaries.get("second key of the vault"));
    for path in ["/api/v1/audit?limit=200", "/api/v1/policies", "/api/v1/vault"] {
        written.add_reply(path, &operator("GET", path, None).await);
    }
    // While it runs and after it has stopped.
    written.add("store of the running gateway", fs::read(dir.path().join("data/portcullis.redb")).unwrap());
    process.stop().await;
    let spans = collector.spans();
    assert!(spans.len() > 10, "requests were traced: {} spans", spans.len());
    written.add("traces", serde_json::to_vec(&spans).unwrap());
    assert!(dir.path().join("audit.jsonl").exists());
    assert!(!dir.path().join("data/deployment-secret").exists());
    let placed = ["caller.key", "upstream.token", "child.secret", "operator-token", "vault.key", "second.key"];
    written.add_files(dir.path(), &placed);

    let log = fs::read_to_string(&log).unwrap();
    assert!(log.contains("\"level\":\"INFO\"") && log.len() > 1_000, "the log is a full one: {} bytes", log.len());
    assert!(up.stats().calls > 0, "the calls went through");
    assert_eq!(written.leaks(&canaries), Vec::<String>::new());
}

#[test]
fn a_leak_would_be_found() {
    let mut canaries = Canaries(Vec::new());
    canaries.add("one", "pk_");
    canaries.add("other", "");
    for form in canaries.0[0].forms() {
        let mut written = Written::default();
        written.add("nothing", "nothing");
        written.add("a file", [b"before ".as_slice(), &form, b" after"].concat());
        assert_eq!(written.leaks(&canaries), ["one is in a file"]);
    }
}

/// What panics prints what it holds with `{:?}`, if anything.
#[test]
fn a_panic_over_a_configuration_shows_no_secret() {
    let mut canaries = Canaries(Vec::new());
    canaries.add("upstream credential", "");
    canaries.add("key of the vault", "");
    let dir = TempDir::new().unwrap();
    private(&dir.path().join("token"), canaries.get("upstream credential"));
    let text = "[upstreams.up]\nurl = \"http://127.0.0.1:9/mcp\"\nheaders = { Authorization = \"Bearer file:token\" }\n\
                [[vault.keys]]\nkid = \"env\"\nsource = \"env\"\nvariable = \"KEY\"\n";
    let environment = |name: &str| (name == "KEY").then(|| canaries.get("key of the vault").to_owned());
    let now = portcullis::Env::system().now();
    let config =
        portcullis::config::parse(text, dir.path(), &environment, now).unwrap_or_else(|wrong| panic!("{wrong}"));
    let fails = std::panic::AssertUnwindSafe(|| assert!(config.keys.len() > 100, "{config:?}"));
    let panic = std::panic::catch_unwind(fails).unwrap_err();
    let mut written = Written::default();
    written.add("the panic", panic.downcast_ref::<String>().unwrap().clone());
    assert!(written.0[0].1.len() > 100);
    assert_eq!(written.leaks(&canaries), Vec::<String>::new());
}
