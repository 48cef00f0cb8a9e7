//! The programs that are measured: starting them, and reading what they cost.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use http::Request;
use http::header::HOST;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use portcullis_tests::free_address;
use tempfile::TempDir;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

/// Keys that a gateway knows: a single one may not open as many sessions as are wanted here.
pub(crate) const KEYS: usize = 8;
/// Longest start of a program.
const START: Duration = Duration::from_secs(30);
/// What the kernel counts processor time in (`USER_HZ`, the same on all Linux machines).
const TICK: Duration = Duration::from_millis(10);

/// Where the programs are, and a directory for their files.
pub(crate) struct Programs {
    dir: PathBuf,
    scratch: TempDir,
    gateways: AtomicUsize,
}

/// A program that answers HTTP. It is killed when this is dropped.
pub(crate) struct Process {
    child: Child,
    pub(crate) address: SocketAddr,
    /// Where it tells how much it has allocated, if it counts.
    counter: Option<SocketAddr>,
}

/// Where a gateway has its store.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Memory,
    /// In the temporary directory.
    File,
    /// Where other settings say.
    Elsewhere,
}

/// What calls go to.
pub(crate) struct Target {
    pub(crate) name: String,
    pub(crate) process: Process,
    pub(crate) path: &'static str,
    /// What comes before the upstream's own names of tools.
    pub(crate) prefix: &'static str,
}

impl Target {
    pub(crate) fn new(name: impl Into<String>, process: Process) -> Self {
        Self { name: name.into(), process, path: "/mcp", prefix: "" }
    }

    pub(crate) fn gateway(name: impl Into<String>, process: Process) -> Self {
        Self { prefix: "up__", ..Self::new(name, process) }
    }
}

/// What a gateway with so many policies is called.
pub(crate) fn gateway_name(policies: usize) -> String {
    format!("gateway, {policies} {}", if policies == 1 { "policy" } else { "policies" })
}

/// Secret of the key of this number.
pub(crate) fn key(number: usize) -> String {
    format!("pk_load-{:02}-0123456789abcdef0123456789abcdef", number % KEYS)
}

impl Programs {
    pub(crate) fn new(dir: Option<&Path>) -> anyhow::Result<Self> {
        let dir = match dir {
            Some(dir) => dir.to_owned(),
            None => std::env::current_exe()?.parent().context("a program is in a directory")?.to_owned(),
        };
        Ok(Self { dir, scratch: TempDir::new()?, gateways: AtomicUsize::new(0) })
    }

    pub(crate) fn gateway_mib(&self) -> anyhow::Result<f64> {
        let program = self.dir.join("portcullis");
        let size = std::fs::metadata(&program).with_context(|| format!("{} is missing", program.display()))?.len();
        Ok(size as f64 / 1_048_576.0)
    }

    pub(crate) async fn upstream(&self) -> anyhow::Result<Process> {
        let address = free_address().await?;
        let child = self.start("bench-upstream", &[&address.to_string()])?;
        Process::listening(child, address, None).await
    }

    pub(crate) async fn floor(&self, upstream: SocketAddr) -> anyhow::Result<Process> {
        let address = free_address().await?;
        let (listen, upstream) = (address.to_string(), format!("http://{upstream}"));
        let child = self.start("floor-proxy", &["--listen", &listen, "--upstream", &upstream])?;
        Process::listening(child, address, None).await
    }

    /// A gateway in front of upstreams, given by name and URL, with so many policies.
    pub(crate) async fn gateway(&self, upstreams: &[(String, String)], policies: usize) -> anyhow::Result<Process> {
        let address = free_address().await?;
        let config = self.write_config(address, upstreams, policies, (Place::Memory, ""))?;
        let child = self.start("portcullis", &["serve", "--config", &config])?;
        Process::listening(child, address, None).await?.ready().await
    }

    /// A gateway in front of one upstream that signs tokens with this algorithm.
    pub(crate) async fn authorization_server(
        &self,
        upstream: SocketAddr,
        algorithm: &str,
        place: Place,
    ) -> anyhow::Result<Process> {
        let tokens = format!("[auth.tokens]\nalgorithm = \"{algorithm}\"\naccess_life = \"1h\"\n");
        self.gateway_with(upstream, place, &tokens).await
    }

    /// A gateway in front of the upstream `up` and whatever else these tables of its configuration say.
    pub(crate) async fn gateway_with(
        &self,
        upstream: SocketAddr,
        place: Place,
        tables: &str,
    ) -> anyhow::Result<Process> {
        let address = free_address().await?;
        let config = self.write_config(address, &one_upstream(upstream), 0, (place, tables))?;
        let child = self.start("portcullis", &["serve", "--config", &config])?;
        Process::listening(child, address, None).await?.ready().await
    }

    /// The same with a store that is there, as these tables say, and with a variable of its environment. What it logs goes to
    /// a file.
    pub(crate) async fn logging_gateway(
        &self,
        upstream: SocketAddr,
        tables: &str,
        variable: (&str, &str),
        log: &Path,
    ) -> anyhow::Result<Process> {
        let address = free_address().await?;
        let config = self.write_config(address, &one_upstream(upstream), 0, (Place::Elsewhere, tables))?;
        let mut command = self.command("portcullis", &["serve", "--config", &config]);
        command.env(variable.0, variable.1).env("PORTCULLIS_LOG", "warn,portcullis::admin=info");
        let child = command.stderr(std::fs::File::create(log)?).spawn().context("cannot start portcullis")?;
        Process::listening(child, address, None).await?.ready().await
    }

    /// A new directory of this name for files of a scenario.
    pub(crate) fn scratch(&self, name: &str) -> anyhow::Result<PathBuf> {
        let dir = self.scratch.path().join(name);
        std::fs::create_dir(&dir)?;
        Ok(dir)
    }

    /// The floor, counting its allocations.
    pub(crate) async fn counted_floor(&self, upstream: SocketAddr) -> anyhow::Result<Process> {
        let (address, counter) = (free_address().await?, free_address().await?);
        let (listen, to) = (address.to_string(), upstream.to_string());
        let child = self.start("counted", &["floor", &counter.to_string(), &listen, &to])?;
        Process::listening(child, address, Some(counter)).await
    }

    /// A gateway, counting its allocations.
    pub(crate) async fn counted_gateway(&self, upstream: SocketAddr, policies: usize) -> anyhow::Result<Process> {
        let (address, counter) = (free_address().await?, free_address().await?);
        let config = self.write_config(address, &one_upstream(upstream), policies, (Place::Memory, ""))?;
        let child = self.start("counted", &["gateway", &counter.to_string(), &config])?;
        Process::listening(child, address, Some(counter)).await?.ready().await
    }

    pub(crate) fn can_count(&self) -> bool {
        self.dir.join("counted").is_file()
    }

    fn start(&self, program: &str, arguments: &[&str]) -> anyhow::Result<Child> {
        self.command(program, arguments).spawn().with_context(|| format!("cannot start {program}"))
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.dir.join(program));
        command.args(arguments).env("PORTCULLIS_LOG", "warn").stdin(Stdio::null()).stdout(Stdio::null());
        command.kill_on_drop(true);
        command
    }

    fn write_config(
        &self,
        address: SocketAddr,
        upstreams: &[(String, String)],
        policies: usize,
        (place, settings): (Place, &str),
    ) -> anyhow::Result<String> {
        let dir = self.scratch.path().join(self.gateways.fetch_add(1, Ordering::Relaxed).to_string());
        std::fs::create_dir_all(&dir)?;
        let store = match place {
            Place::Memory => "[store]\nurl = \"memory:\"\n",
            Place::File | Place::Elsewhere => "",
        };
        let mut text = format!(
            "public_url = \"http://{address}\"\ndata_dir = \"data\"\n[listen]\npublic = \"{address}\"\nadmin = \"off\"\n{store}[vault]\nallow_core_dumps = true\n\
             [limits]\ncalls_per_principal = 10000\nsessions = 100000\n[edge]\nmax_connections = 20000\n{settings}"
        );
        for (name, url) in upstreams {
            writeln!(text, "[upstreams.{name}]\nurl = \"{url}\"")?;
        }
        for number in 0..KEYS {
            std::fs::write(dir.join(format!("key{number}")), key(number))?;
            let allow = r#"[{ upstream = "*", tools = ["*"] }]"#;
            writeln!(text, "[keys.load{number}]\nsecret = \"file:key{number}\"\nallow = {allow}")?;
        }
        for number in 0..policies {
            writeln!(
                text,
                "[[policies]]\nname = \"p{number}\"\nmodule = \"builtin:allow-tools\"\n\
                 config = {{ otherwise = \"hide\", rules = [{{ tools = [\"*/*\"], action = \"allow\" }}] }}"
            )?;
        }
        let file = dir.join("portcullis.toml");
        std::fs::write(&file, text)?;
        Ok(file.to_string_lossy().into_owned())
    }
}

/// The upstream `up` of a gateway.
pub(crate) fn one_upstream(upstream: SocketAddr) -> Vec<(String, String)> {
    vec![("up".to_owned(), format!("http://{upstream}/mcp"))]
}

impl Process {
    async fn listening(child: Child, address: SocketAddr, counter: Option<SocketAddr>) -> anyhow::Result<Self> {
        let until = Instant::now() + START;
        while TcpStream::connect(address).await.is_err() {
            ensure!(Instant::now() < until, "nothing listens at {address}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(Self { child, address, counter })
    }

    /// Waits until a gateway says that it is ready: all upstreams read, all policies compiled.
    async fn ready(self) -> anyhow::Result<Self> {
        let until = Instant::now() + START;
        loop {
            let (mut sender, connection) = handshake(TokioIo::new(TcpStream::connect(self.address).await?)).await?;
            let driver = tokio::spawn(connection);
            let request =
                Request::get("/readyz").header(HOST, self.address.to_string()).body(Full::new(Bytes::new()))?;
            let response = sender.send_request(request).await?;
            let (status, body) = (response.status(), response.into_body().collect().await?.to_bytes());
            driver.abort();
            if status.is_success() {
                return Ok(self);
            }
            ensure!(Instant::now() < until, "not ready: {}", String::from_utf8_lossy(&body));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Processor time so far, of all its threads, in user and kernel mode.
    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        let stat = self.proc("stat")?;
        let after_name = stat.rsplit(')').next().context("a strange stat file")?;
        let fields: Vec<&str> = after_name.split_whitespace().collect();
        let ticks = |at: usize| anyhow::Ok(fields.get(at).context("a short stat file")?.parse::<u32>()?);
        Ok(TICK * (ticks(11)? + ticks(12)?))
    }

    /// Resident memory now, in KiB.
    pub(crate) fn resident_kib(&self) -> anyhow::Result<f64> {
        let status = self.proc("status")?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("no VmRSS")?;
        Ok(line.split_whitespace().nth(1).context("no number")?.parse()?)
    }

    fn proc(&self, file: &str) -> anyhow::Result<String> {
        let id = self.child.id().context("the process ended")?;
        std::fs::read_to_string(format!("/proc/{id}/{file}")).context("the process ended")
    }

    /// Allocations of memory so far: how many, and of how many bytes.
    pub(crate) async fn allocations(&self) -> anyhow::Result<(f64, f64)> {
        let counter = self.counter.context("it does not count")?;
        let mut said = String::new();
        TcpStream::connect(counter).await?.read_to_string(&mut said).await?;
        let (count, bytes) = said.trim().split_once(' ').context("two numbers")?;
        Ok((count.parse()?, bytes.parse()?))
    }
}
