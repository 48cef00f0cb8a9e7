//! The load generator of `docs/benchmarks.md`: one upstream, called directly and through gateways with zero, one and four
//! policies bound, in one run, so that ratios mean something on a noisy machine.
//!
//! Every program is a process of its own. Rounds go over the targets again and again and the figures of a target are taken
//! over all its rounds. Loopback only; ends by itself.

#![expect(clippy::disallowed_methods, reason = "its tasks end with the program")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use clap::Parser;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderValue, Request};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use portcullis_tests::caller::modern_meta;
use serde_json::json;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

const KEY: &str = "pk_load-0123456789abcdef0123456789abcdef0123";
const START: Duration = Duration::from_secs(30);

/// Compares calls through the gateway with direct ones.
#[derive(Parser)]
struct Arguments {
    /// Connections at once.
    #[arg(long, default_value_t = 16)]
    connections: usize,
    /// Seconds for each target in each round.
    #[arg(long, default_value_t = 2)]
    seconds: u64,
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Bytes of the result's text.
    #[arg(long, default_value_t = 40)]
    bytes: usize,
    /// Legacy sessions that are opened for the memory figure.
    #[arg(long, default_value_t = 1_000)]
    sessions: usize,
    /// Directory of the `portcullis` and `fixture-upstream` programs.
    #[arg(long, default_value = "target/release")]
    programs: PathBuf,
}

/// Something that answers `tools/call`.
struct Target {
    name: String,
    address: SocketAddr,
    tool: &'static str,
    process: Child,
    latencies: Vec<u32>,
    time: Duration,
    cpu_ticks: u64,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let dir = tempfile::TempDir::new()?;
    let upstream = free_port().await?;
    let fixture = start(&arguments.programs.join("fixture-upstream"), &["http", &upstream.port().to_string()])?;
    wait_for(upstream).await?;
    let mut targets = vec![Target::new("direct", upstream, "blob", fixture)];
    for policies in [0, 1, 4] {
        let address = free_port().await?;
        let config = write_config(dir.path(), address, upstream, policies)?;
        let gateway = start(&arguments.programs.join("portcullis"), &["serve", "--config", &config.to_string_lossy()])?;
        wait_for(address).await?;
        wait_ready(address).await?;
        targets.push(Target::new(&format!("gateway, {policies} policies"), address, "up__blob", gateway));
    }
    let idle_kib = resident_kib(&targets[1])?;
    for _ in 0..arguments.rounds {
        for target in &mut targets {
            target.measure(&arguments).await?;
        }
    }
    report(&targets, &arguments);
    let before = resident_kib(&targets[1])?;
    open_sessions(targets[1].address, arguments.sessions).await?;
    let after = resident_kib(&targets[1])?;
    say(&format!(
        "resident memory of the gateway: {idle_kib} KiB idle, {before} KiB after load, {after} KiB with {} open sessions",
        arguments.sessions
    ));
    let size = std::fs::metadata(arguments.programs.join("portcullis"))?.len();
    say(&format!("size of the binary: {:.1} MiB", size as f64 / 1_048_576.0));
    Ok(())
}

#[expect(clippy::print_stdout, reason = "a program whose output is its result")]
fn say(line: &str) {
    println!("{line}");
}

impl Target {
    fn new(name: &str, address: SocketAddr, tool: &'static str, process: Child) -> Self {
        Self {
            name: name.to_owned(),
            address,
            tool,
            process,
            latencies: Vec::new(),
            time: Duration::ZERO,
            cpu_ticks: 0,
        }
    }

    async fn measure(&mut self, arguments: &Arguments) -> anyhow::Result<()> {
        let ticks = cpu_ticks(&self.process)?;
        let started = Instant::now();
        let until = started + Duration::from_secs(arguments.seconds);
        let workers =
            (0..arguments.connections).map(|_| tokio::spawn(work(self.address, self.tool, arguments.bytes, until)));
        for worker in workers.collect::<Vec<_>>() {
            self.latencies.extend(worker.await??);
        }
        self.time += started.elapsed();
        self.cpu_ticks += cpu_ticks(&self.process)? - ticks;
        Ok(())
    }

    fn percentile(&self, of_100: f64) -> f64 {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        let at = ((sorted.len() - 1) as f64 * of_100 / 100.0).round() as usize;
        f64::from(sorted[at]) / 1_000.0
    }

    fn per_second(&self) -> f64 {
        self.latencies.len() as f64 / self.time.as_secs_f64()
    }

    /// Of the process itself, in microseconds for each call. The kernel counts in ticks of 10 ms.
    fn cpu_micros(&self) -> f64 {
        self.cpu_ticks as f64 * 10_000.0 / self.latencies.len() as f64
    }
}

fn report(targets: &[Target], arguments: &Arguments) {
    let Arguments { connections, bytes, rounds, seconds, .. } = arguments;
    say(&format!(
        "tools/call, {connections} connections, results of {bytes} bytes, {rounds} rounds of {seconds} s for each target\n"
    ));
    say("| target | calls/s | ratio | p50 ms | p99 ms | CPU µs per call |\n|---|---|---|---|---|---|");
    let direct = targets[0].per_second();
    for target in targets {
        say(&format!(
            "| {} | {:.0} | {:.2} | {:.2} | {:.2} | {:.0} |",
            target.name,
            target.per_second(),
            target.per_second() / direct,
            target.percentile(50.0),
            target.percentile(99.0),
            target.cpu_micros(),
        ));
    }
    say("");
}

/// One connection that calls until the time is up. Microseconds of each call.
async fn work(address: SocketAddr, tool: &'static str, bytes: usize, until: Instant) -> anyhow::Result<Vec<u32>> {
    let mut sender = connect(address).await?;
    let params = json!({ "name": tool, "arguments": { "size": bytes }, "_meta": modern_meta() });
    let body = Bytes::from(json!({ "jsonrpc": "2.0", "id": 0, "method": "tools/call", "params": params }).to_string());
    let mut headers = headers(address);
    headers.insert("mcp-protocol-version", HeaderValue::from_static("2026-07-28"));
    headers.insert("mcp-method", HeaderValue::from_static("tools/call"));
    headers.insert("mcp-name", HeaderValue::from_static(tool));
    let mut latencies = Vec::new();
    while Instant::now() < until {
        let started = Instant::now();
        let answer = post(&mut sender, headers.clone(), body.clone()).await?;
        latencies.push(u32::try_from(started.elapsed().as_micros())?);
        ensure!(
            answer.windows(8).any(|text| text == b"\"result\""),
            "an answer without result: {}",
            String::from_utf8_lossy(&answer)
        );
    }
    Ok(latencies)
}

async fn open_sessions(address: SocketAddr, count: usize) -> anyhow::Result<()> {
    let mut sender = connect(address).await?;
    let params = json!({ "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": "load", "version": "1" } });
    let body = Bytes::from(json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params }).to_string());
    for _ in 0..count {
        let answer = post(&mut sender, headers(address), body.clone()).await?;
        ensure!(
            answer.windows(8).any(|text| text == b"\"result\""),
            "no session: {}",
            String::from_utf8_lossy(&answer)
        );
    }
    Ok(())
}

async fn connect(address: SocketAddr) -> anyhow::Result<SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

fn headers(address: SocketAddr) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(HOST, HeaderValue::try_from(address.to_string()).expect("an address is a host"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
    headers.insert(AUTHORIZATION, HeaderValue::try_from(format!("Bearer {KEY}")).expect("a key is a header value"));
    headers
}

async fn post(sender: &mut SendRequest<Full<Bytes>>, headers: HeaderMap, body: Bytes) -> anyhow::Result<Bytes> {
    let mut request = Request::post("/mcp").body(Full::new(body))?;
    *request.headers_mut() = headers;
    sender.ready().await?;
    Ok(sender.send_request(request).await?.into_body().collect().await?.to_bytes())
}

fn write_config(dir: &Path, address: SocketAddr, upstream: SocketAddr, policies: usize) -> anyhow::Result<PathBuf> {
    let dir = dir.join(policies.to_string());
    std::fs::create_dir_all(&dir)?;
    std::fs::write(dir.join("key"), KEY)?;
    let mut text = format!(
        "public_url = \"http://{address}\"\n[listen]\npublic = \"{address}\"\nadmin = \"off\"\n[store]\nurl = \"memory:\"\n\
         [limits]\ncalls_per_principal = 10000\nsessions = 100000\n[upstreams.up]\nurl = \"http://{upstream}/mcp\"\n\
         [keys.load]\nsecret = \"file:key\"\nallow = [{{ upstream = \"*\", tools = [\"*\"] }}]\n"
    );
    for number in 0..policies {
        text.push_str(&format!(
            "[[policies]]\nname = \"p{number}\"\nmodule = \"builtin:allow-tools\"\n\
             config = {{ otherwise = \"hide\", rules = [{{ tools = [\"up/*\"], action = \"allow\" }}] }}\n"
        ));
    }
    let file = dir.join("portcullis.toml");
    std::fs::write(&file, text)?;
    Ok(file)
}

fn start(program: &Path, arguments: &[&str]) -> anyhow::Result<Child> {
    let mut command = Command::new(program);
    command.args(arguments).env("PORTCULLIS_LOG", "warn").stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
    command.spawn().with_context(|| format!("cannot start {}", program.display()))
}

async fn free_port() -> anyhow::Result<SocketAddr> {
    Ok(tokio::net::TcpListener::bind("127.0.0.1:0").await?.local_addr()?)
}

async fn wait_for(address: SocketAddr) -> anyhow::Result<()> {
    let until = Instant::now() + START;
    while TcpStream::connect(address).await.is_err() {
        ensure!(Instant::now() < until, "nothing listens at {address}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

async fn wait_ready(address: SocketAddr) -> anyhow::Result<()> {
    let until = Instant::now() + START;
    loop {
        let mut sender = connect(address).await?;
        let request = Request::get("/readyz").header(HOST, address.to_string()).body(Full::new(Bytes::new()))?;
        if sender.send_request(request).await?.status().is_success() {
            return Ok(());
        }
        ensure!(Instant::now() < until, "{address} does not become ready");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn cpu_ticks(process: &Child) -> anyhow::Result<u64> {
    let id = process.id().context("the process ended")?;
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat"))?;
    let after_name = stat.rsplit(')').next().context("a strange stat file")?;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    Ok(fields[11].parse::<u64>()? + fields[12].parse::<u64>()?)
}

fn resident_kib(target: &Target) -> anyhow::Result<u64> {
    let id = target.process.id().context("the process ended")?;
    let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("no VmRSS")?;
    Ok(line.split_whitespace().nth(1).context("no number")?.parse()?)
}
