//! A gateway under test: the same `serve` that the binary calls.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a harness fails loudly, and its tasks end with the test"
)]

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use portcullis::{Listeners, StartError};
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::caller::{Caller, Reply, send_unix, send_unix_bytes};
use crate::clock::TestClock;
use crate::postgres::{self, Server};

/// Longest wait for anything that should happen soon. Generous: the machines are noisy.
pub const SOON: Duration = Duration::from_secs(30);

/// The key-encryption key of gateways that share a store, which none is made for.
const VAULT_KEY: &str = "6b656b206f6620746865207465737473206b656b206f66207468652074657374";

/// Where a gateway under test keeps its deployment secret.
const DEPLOYMENT_SECRET: &str = "data/deployment-secret";

/// What a gateway is configured with. Everything is TOML, as an operator would write it.
#[derive(Default)]
pub struct Builder {
    top: String,
    sections: String,
    keys: Vec<(String, String)>,
    files: Vec<(String, Vec<u8>)>,
    /// What `[store]` says, in place of a store in memory.
    store: Option<String>,
    replica: Option<std::net::TcpListener>,
    public: Option<SocketAddr>,
    /// The address that callers use, where that is not where the gateway listens.
    front: Option<SocketAddr>,
}

impl Builder {
    /// Settings before the first section.
    #[must_use]
    pub fn top(mut self, toml: &str) -> Self {
        self.top.push_str(toml);
        self.top.push('\n');
        self
    }

    /// Sections, such as `[limits]` or `[[policies]]`.
    #[must_use]
    pub fn section(mut self, toml: &str) -> Self {
        self.sections.push_str(toml);
        self.sections.push('\n');
        self
    }

    /// An upstream over streamable HTTP.
    #[must_use]
    pub fn http_upstream(self, name: &str, url: &str) -> Self {
        self.section(&format!("[upstreams.{name}]\ntransport = \"streamable-http\"\nurl = \"{url}\"\n"))
    }

    /// An upstream that is a child process.
    #[must_use]
    pub fn stdio_upstream(self, name: &str, command: &[&str]) -> Self {
        self.section(&format!("[upstreams.{name}]\ntransport = \"stdio\"\ncommand = {command:?}\n"))
    }

    /// A key in the file, whose secret is [`Gateway::secret`] of the same name, for everything.
    #[must_use]
    pub fn key(self, name: &str) -> Self {
        self.key_for(name, r#"[{ upstream = "*", tools = ["*"] }]"#)
    }

    /// A key in the file with an allow-list in TOML.
    #[must_use]
    pub fn key_for(mut self, name: &str, allow: &str) -> Self {
        self.keys.push((name.to_owned(), allow.to_owned()));
        self
    }

    /// A file beside the configuration.
    #[must_use]
    pub fn file(mut self, name: &str, content: &[u8]) -> Self {
        self.files.push((name.to_owned(), content.to_vec()));
        self
    }

    /// Keeps the store on disk instead of in memory.
    #[must_use]
    pub fn on_disk(mut self) -> Self {
        self.store = Some("url = \"redb:data/portcullis.redb\"".to_owned());
        self
    }

    /// Keeps the store in this schema of a server. What is sealed there opens with the same key in every gateway.
    #[must_use]
    pub fn in_database(mut self, server: &Server, schema: &str) -> Self {
        let url = server.url(schema);
        self.store = Some(format!("url = \"{url}\"\npassword = \"file:database-password\""));
        self.file("database-password", postgres::PASSWORD.as_bytes())
            .file("vault.key", VAULT_KEY.as_bytes())
            .section("[[vault.keys]]\nkid = \"tests\"\nsource = \"file\"\npath = \"vault.key\"\n")
    }

    /// One more setting of `[store]`, after it was said where the store is.
    #[must_use]
    pub fn store_setting(mut self, toml: &str) -> Self {
        let store = self.store.get_or_insert_with(|| "url = \"memory:\"".to_owned());
        store.push('\n');
        store.push_str(toml);
        self
    }

    /// Listens here instead of at a free port: where another life of the same gateway did.
    #[must_use]
    pub fn at(mut self, public: SocketAddr) -> Self {
        self.public = Some(public);
        self
    }

    /// Is reached at this address, by whoever passes requests on.
    #[must_use]
    pub fn behind(mut self, front: SocketAddr) -> Self {
        self.front = Some(front);
        self
    }

    /// Makes it one of several replicas: others reach it at `listener`, and it reaches them at `peers`. All of them have the
    /// same deployment secret.
    #[must_use]
    pub fn replica(mut self, listener: std::net::TcpListener, peers: &[SocketAddr]) -> Self {
        let address = listener.local_addr().unwrap();
        let peers: Vec<String> = peers.iter().map(ToString::to_string).collect();
        self = self.section(&format!("[replica]\nlisten = \"{address}\"\npeers = {peers:?}\n"));
        self.replica = Some(listener);
        self.file(DEPLOYMENT_SECRET, format!("{}\n", "5e".repeat(32)).as_bytes())
    }

    /// Starts the gateway and waits until it is ready.
    pub async fn start(self) -> Gateway {
        let gateway = self.try_start(TempDir::new().unwrap(), TestClock::default()).await.expect("the gateway starts");
        gateway.wait_until_ready().await;
        gateway
    }

    /// Starts the gateway in this directory, and waits until it answers or has failed to start.
    pub async fn try_start(self, dir: TempDir, clock: TestClock) -> Result<Gateway, StartError> {
        self.try_start_in(dir, clock).await.map_err(|(error, _)| error)
    }

    /// The same; if it fails, the directory comes back.
    pub async fn try_start_in(mut self, dir: TempDir, clock: TestClock) -> Result<Gateway, (StartError, TempDir)> {
        let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let public = TcpListener::bind(self.public.unwrap_or(anywhere)).await.unwrap();
        let admin = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (public_address, admin_address) = (public.local_addr().unwrap(), admin.local_addr().unwrap());
        self.write(dir.path(), public_address, admin_address);
        let file = dir.path().join("portcullis.toml");
        let env = clock.env();
        let config =
            portcullis::config::load(&file, &|_| None, env.now()).unwrap_or_else(|mistakes| panic!("{mistakes}"));
        let socket = config.listen.admin_socket.clone();
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let replica = self.replica.take().map(|listener| {
            listener.set_nonblocking(true).unwrap();
            TcpListener::from_std(listener).unwrap()
        });
        let listeners = Listeners { public, admin: Some(admin), admin_socket: None, replica };
        let mut running: JoinHandle<Result<(), StartError>> =
            tokio::spawn(portcullis::serve(listeners, config, env, async move { stopped.cancelled().await }));
        let started = async {
            while send_unix(&socket, "GET", "/api/v1/status", None).await.is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            ended = &mut running => match ended.expect("the gateway does not panic") {
                Err(error) => return Err((error, dir)),
                Ok(()) => panic!("the gateway ended by itself"),
            },
            () = started => {}
        }
        Ok(Gateway { dir, file, socket, public: public_address, admin: admin_address, clock, stop, running })
    }

    fn write(&self, dir: &Path, public: SocketAddr, admin: SocketAddr) {
        for (name, content) in &self.files {
            let path = dir.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, content).unwrap();
            // Some of them are secrets.
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
        }
        let store = self.store.as_deref().unwrap_or("url = \"memory:\"");
        let front = self.front.unwrap_or(public);
        let mut text = format!(
            "public_url = \"http://{front}\"\ndata_dir = \"data\"\n{}\n[listen]\npublic = \"{public}\"\nadmin = \"{admin}\"\n[store]\n{store}\n{}",
            self.top, self.sections
        );
        for (name, allow) in &self.keys {
            std::fs::write(dir.join(format!("{name}.key")), Gateway::secret(name)).unwrap();
            writeln!(text, "[keys.{name}]\nsecret = \"file:{name}.key\"\nallow = {allow}").unwrap();
        }
        std::fs::write(dir.join("portcullis.toml"), text).unwrap();
    }
}

/// A running gateway.
pub struct Gateway {
    pub dir: TempDir,
    /// Its configuration file.
    pub file: PathBuf,
    /// Its admin socket.
    pub socket: PathBuf,
    pub public: SocketAddr,
    pub admin: SocketAddr,
    pub clock: TestClock,
    stop: CancellationToken,
    running: JoinHandle<Result<(), StartError>>,
}

impl Gateway {
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The secret of a key that [`Builder::key`] declared.
    pub fn secret(name: &str) -> String {
        format!("pk_test-{name}-0123456789abcdef0123456789abcdef")
    }

    /// The URL that callers connect to.
    pub fn url(&self) -> String {
        format!("http://{}/mcp", self.public)
    }

    /// A caller with the key of this name.
    pub fn caller(&self, key: &str) -> Caller {
        Caller::new(self.public, Some(Self::secret(key)))
    }

    /// A caller without a key.
    pub fn stranger(&self) -> Caller {
        Caller::new(self.public, None)
    }

    /// Asks the admin API as the operator at the socket.
    pub async fn operator(&self, method: &str, path: &str, body: Option<Value>) -> Reply {
        send_unix(&self.socket, method, path, body).await.expect("the admin socket answers")
    }

    /// Uploads a policy module over the admin socket.
    pub async fn upload(&self, module: &[u8]) -> Reply {
        let body = ("application/wasm", module.to_vec().into());
        let reply = send_unix_bytes(&self.socket, "POST", "/api/v1/policies/modules", body).await;
        reply.expect("the admin socket answers")
    }

    /// Waits until a condition about an operator's view holds.
    pub async fn until(&self, path: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let until = tokio::time::Instant::now() + SOON;
        loop {
            let view = self.operator("GET", path, None).await.json();
            if holds(&view) {
                return view;
            }
            assert!(tokio::time::Instant::now() < until, "{path} does not become what it should, it is {view}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub async fn wait_until_ready(&self) {
        self.until("/api/v1/status", |status| status["ready"] == true).await;
    }

    /// Waits until what every upstream offers is known.
    pub async fn until_upstreams_are_up(&self) {
        let is_up = |upstream: &Value| upstream["state"] == "up";
        self.until("/api/v1/upstreams", |view| view["upstreams"].as_array().is_some_and(|all| all.iter().all(is_up)))
            .await;
    }

    /// Replaces a file beside the configuration, or the configuration, at once.
    pub fn replace(&self, name: &str, content: &[u8]) {
        let (path, new) = (self.dir.path().join(name), self.dir.path().join(format!("{name}.new")));
        std::fs::write(&new, content).unwrap();
        std::fs::rename(new, path).unwrap();
    }

    /// Asks it to stop and waits until it has. Its directory, for another life.
    pub async fn stop(mut self) -> TempDir {
        self.stop.cancel();
        let ended = tokio::time::timeout(SOON, &mut self.running).await.expect("the gateway stops");
        ended.expect("the gateway does not panic").expect("the gateway had started");
        std::mem::replace(&mut self.dir, TempDir::new().unwrap())
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
