//! Chaos: a gateway between many callers of both eras and upstreams that fail all the time.
//!
//! Two upstreams are reached through fault proxies and forget their sessions now and then; a third is a child process that
//! is killed now and then, a fourth one that dies of every call. What must hold:
//!
//! - Every call ends in an answer or a clear error, within the time of a call and some slack, and the answer is the caller's own.
//! - The gateway itself lives on, and lists its tools all the while.
//! - When the faults end, every upstream can be called again; nothing of what happened stays: no call at an upstream, no open
//!   file, no dead child.
//! - Asked to stop, the gateway answers what is in flight, ends in its drain time with success, and no child outlives it.
//!
//! `chaos --seconds 600` prints the totals. Exit code 1 if something did not hold.

#![expect(clippy::disallowed_methods, reason = "its tasks end with the program")]

mod callers;
mod processes;
mod verdict;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::Parser;
use portcullis_tests::free_address;
use portcullis_tests::proxies::dice::Dice;
use portcullis_tests::proxies::fault::{Fault, FaultProxy, Faults};
use portcullis_tests::upstreams::fixture::{Fixture, Replies, Settings};
use tempfile::TempDir;
use tokio::time::{Instant, interval, sleep};
use tokio_util::sync::CancellationToken;

use self::callers::{Call, Caller, Era};
use self::processes::GatewayProcess;
use self::verdict::Verdict;

pub(crate) const KEY: &str = "pk_chaos-0123456789abcdef0123456789abcdef";
/// Longest call, as configured.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(3);
/// What a busy machine may add to it.
pub(crate) const SLACK: Duration = Duration::from_secs(7);
/// Longest drain, as configured.
const DRAIN: Duration = Duration::from_secs(5);
/// Longest wait of a fault; more than a call may take.
const PAUSE: Duration = Duration::from_secs(4);
/// From the end of the faults until every upstream can be called again: the gateway looks after one that is down each minute.
const RECOVERY: Duration = Duration::from_secs(75);
/// Until nothing is left of the calls that were.
const CALMING: Duration = Duration::from_secs(20);
/// Between two kills of the child process, and between two losses of sessions.
const KILL_INTERVAL: Duration = Duration::from_secs(5);
const FORGET_INTERVAL: Duration = Duration::from_secs(5);
/// Files that the gateway may have open more than before, for what is pooled.
const SPARE_FILES: usize = 32;

/// Runs a gateway in front of upstreams that fail, and tells whether it held.
#[derive(Parser)]
struct Arguments {
    /// How long there are faults.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Share of exchanges between gateway and upstream that are spoiled.
    #[arg(long, default_value_t = 0.3)]
    rate: f64,
    /// Callers at once, half of each era.
    #[arg(long, default_value_t = 32)]
    callers: u64,
    /// One of the upstreams writes its event streams with all that the format allows.
    #[arg(long)]
    awkward: bool,
    /// Directory of `portcullis`, `fixture-upstream` and `hostile-stdio`. Without it, where this program is.
    #[arg(long)]
    programs: Option<PathBuf>,
}

/// Everything around the gateway.
struct Scene {
    fixtures: [Fixture; 2],
    proxies: [FaultProxy; 2],
    gateway: GatewayProcess,
    _dir: TempDir,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let verdict = Arc::new(Verdict::default());
    let mut scene = Scene::build(&arguments).await?;
    let address = scene.gateway.address;
    let files_before = scene.gateway.open_files()?;

    scene.rage(&arguments, &verdict).await?;
    for proxy in &scene.proxies {
        proxy.calm(true);
    }
    recover(address, &verdict).await?;
    scene.settle(files_before, &verdict).await?;
    scene.stop(&verdict).await?;

    let exchanges: u64 = scene.proxies.iter().map(FaultProxy::exchanges).sum();
    verdict.say(&format!("{exchanges} exchanges with the upstreams through the fault proxies, of which"));
    for fault in Fault::ALL {
        let count: u64 = scene.proxies.iter().filter_map(|proxy| proxy.counts().get(&fault).copied()).sum();
        verdict.say(&format!("  {count:>8} {}", fault.name()));
    }
    Ok(if verdict.print() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Scene {
    async fn build(arguments: &Arguments) -> anyhow::Result<Self> {
        let programs = match &arguments.programs {
            Some(dir) => dir.canonicalize()?,
            None => std::env::current_exe()?.parent().context("a program is in a directory")?.to_owned(),
        };
        let events = if arguments.awkward { Replies::AwkwardSse } else { Replies::Sse };
        let fixtures = [
            Fixture::with(Settings { replies: Replies::Json, ..Settings::default() }).await?,
            Fixture::with(Settings { replies: events, ..Settings::default() }).await?,
        ];
        let faults = |number: u64| Faults { pause: PAUSE, ..Faults::all(arguments.seed + number, arguments.rate) };
        let start = |fixture: &Fixture, number| {
            let proxy = FaultProxy::start((Ipv4Addr::LOCALHOST, fixture.port).into(), faults(number))?;
            proxy.calm(true);
            anyhow::Ok(proxy)
        };
        let proxies = [start(&fixtures[0], 0)?, start(&fixtures[1], 1)?];
        let dir = TempDir::new()?;
        let address = free_address().await?;
        let mark = format!("{}-{}", std::process::id(), arguments.seed);
        let config = write_config(dir.path(), &programs, address, [&proxies[0], &proxies[1]], &mark)?;
        let gateway = GatewayProcess::start(&programs.join("portcullis"), &config, address, mark).await?;
        Ok(Self { fixtures, proxies, gateway, _dir: dir })
    }

    /// Callers call and everything behind the gateway fails, for as long as asked.
    async fn rage(&mut self, arguments: &Arguments, verdict: &Arc<Verdict>) -> anyhow::Result<()> {
        for proxy in &self.proxies {
            proxy.calm(false);
        }
        let over = CancellationToken::new();
        let callers: Vec<_> = (0..arguments.callers)
            .map(|number| {
                let era = if number % 2 == 0 { Era::Modern } else { Era::Legacy };
                let caller = Caller::new(self.gateway.address, era, Dice::new(arguments.seed, number + 1_000));
                tokio::spawn(caller.call_until(over.clone(), Arc::clone(verdict)))
            })
            .collect();
        let (mut kills, mut losses) = (interval(KILL_INTERVAL), interval(FORGET_INTERVAL));
        let until = Instant::now() + Duration::from_secs(arguments.seconds);
        let (mut killed, mut most_files, mut most_kib) = (0, 0, 0);
        while Instant::now() < until {
            tokio::select! {
                () = tokio::time::sleep_until(until) => {}
                _ = kills.tick() => {
                    killed += self.gateway.kill_children("fixture-upstre").await?;
                    most_files = most_files.max(self.gateway.open_files()?);
                    most_kib = most_kib.max(self.gateway.resident_kib()?);
                }
                _ = losses.tick() => self.fixtures.iter().for_each(Fixture::forget_sessions),
                ended = self.gateway.ended() => anyhow::bail!("the gateway ended by itself: {ended:?}"),
            }
        }
        over.cancel();
        for caller in callers {
            caller.await?;
        }
        verdict.say(&format!("children killed: {killed}; most files open: {most_files}; most memory: {most_kib} KiB"));
        Ok(())
    }

    /// Nothing of what happened stays.
    async fn settle(&self, files_before: usize, verdict: &Verdict) -> anyhow::Result<()> {
        let until = Instant::now() + CALMING;
        loop {
            let under_way: usize = self.fixtures.iter().map(|fixture| fixture.stats().under_way).sum();
            let (files, dead) = (self.gateway.open_files()?, self.gateway.dead_children()?);
            if under_way == 0 && files <= files_before + SPARE_FILES && dead == 0 {
                verdict.say(&format!("afterwards: {files} files open ({files_before} before)"));
                return Ok(());
            }
            if Instant::now() > until {
                verdict.violation(format!(
                    "afterwards: {under_way} calls at upstreams, {files} files open ({files_before} before), {dead} dead children"
                ));
                return Ok(());
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Asked to stop in the middle of calls, the gateway answers them and ends; nobody outlives it.
    async fn stop(&mut self, verdict: &Arc<Verdict>) -> anyhow::Result<()> {
        let in_flight: Vec<_> = [Era::Modern, Era::Legacy, Era::Modern, Era::Legacy]
            .into_iter()
            .zip(0..)
            .map(|(era, number)| {
                let mut caller = Caller::new(self.gateway.address, era, Dice::new(2, number));
                let verdict = Arc::clone(verdict);
                tokio::spawn(async move { caller.judge(Call::slow("json", 1_000), &verdict).await })
            })
            .collect();
        let arrived = Instant::now() + SLACK;
        while self.fixtures[0].stats().under_way < in_flight.len() && Instant::now() < arrived {
            sleep(Duration::from_millis(10)).await;
        }
        let asked = Instant::now();
        self.gateway.terminate().await?;
        for call in in_flight {
            if !call.await? {
                verdict.violation("a call in flight was not answered when the gateway was asked to stop".to_owned());
            }
        }
        match self.gateway.wait(DRAIN + SLACK).await {
            Some(status) if status.success() => {
                verdict.say(&format!("the gateway ended {:.1} s after SIGTERM", asked.elapsed().as_secs_f64()));
            }
            Some(status) => verdict.violation(format!("the gateway ended with {status}")),
            None => verdict.violation("the gateway did not end in its drain time".to_owned()),
        }
        let left = self.gateway.children_left(SLACK).await?;
        if !left.is_empty() {
            verdict.violation(format!("processes outlived the gateway: {left:?}"));
        }
        for line in self.gateway.complaints() {
            verdict.violation(format!("the gateway says: {line}"));
        }
        Ok(())
    }
}

/// Every upstream answers again.
async fn recover(address: SocketAddr, verdict: &Verdict) -> anyhow::Result<()> {
    let started = Instant::now();
    let mut caller = Caller::new(address, Era::Modern, Dice::new(1, 0));
    for upstream in ["json", "sse", "child"] {
        while !caller.judge(Call::echo(upstream, 1), verdict).await {
            if started.elapsed() > RECOVERY {
                verdict.violation(format!("{upstream} cannot be called {RECOVERY:?} after the faults ended"));
                break;
            }
            sleep(Duration::from_millis(200)).await;
        }
    }
    verdict.say(&format!("all upstreams answered {:.1} s after the faults ended", started.elapsed().as_secs_f64()));
    Ok(())
}

fn write_config(
    dir: &Path,
    programs: &Path,
    address: SocketAddr,
    proxies: [&FaultProxy; 2],
    mark: &str,
) -> anyhow::Result<PathBuf> {
    for program in ["fixture-upstream", "hostile-stdio"] {
        ensure!(programs.join(program).is_file(), "{} is missing", programs.join(program).display());
    }
    std::fs::write(dir.join("key"), KEY)?;
    let [json, sse] = proxies.map(FaultProxy::url);
    let mut text = format!(
        "public_url = \"http://{address}\"\ndata_dir = \"data\"\n[listen]\npublic = \"{address}\"\nadmin = \"off\"\n[store]\nurl = \"memory:\"\n[vault]\nallow_core_dumps = true\n\
         [edge]\ndrain_timeout = \"{}s\"\n[keys.chaos]\nsecret = \"file:key\"\nallow = [{{ upstream = \"*\", tools = [\"*\"] }}]\n\
         [[policies]]\nname = \"all\"\nmodule = \"builtin:allow-tools\"\n\
         config = {{ otherwise = \"hide\", rules = [{{ tools = [\"*/*\"], action = \"allow\" }}] }}\n",
        DRAIN.as_secs()
    );
    let fixture = programs.join("fixture-upstream");
    let hostile = programs.join("hostile-stdio");
    let http = |url: String| format!("url = {url:?}");
    let stdio = |command: &[&str]| format!("command = {command:?}\nenvironment = {{ CHAOS_RUN = {mark:?} }}");
    let upstreams = [
        ("json", http(json)),
        ("sse", http(sse)),
        ("child", stdio(&[&fixture.to_string_lossy(), "stdio"])),
        ("dies", stdio(&[&hostile.to_string_lossy(), "dies"])),
    ];
    for (name, how) in upstreams {
        let timeout = CALL_TIMEOUT.as_secs();
        text.push_str(&format!("[upstreams.{name}]\n{how}\ncall_timeout = \"{timeout}s\"\nsync_interval = \"5s\"\n"));
    }
    let file = dir.join("portcullis.toml");
    std::fs::write(&file, text)?;
    Ok(file)
}
