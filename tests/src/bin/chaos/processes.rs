//! The gateway as a process, and the processes that it starts, as the kernel tells of them.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStderr, Command};
use tokio::time::{Instant, sleep, timeout};

/// Longest start.
const START: Duration = Duration::from_secs(60);
/// Complaints that are kept.
const MAX_COMPLAINTS: usize = 20;
/// What the gateway must not have to say.
const COMPLAINTS: [&str; 3] = ["panicked", "a request died", "did not end in time"];

/// A gateway that runs. It is killed when this is dropped.
pub(crate) struct GatewayProcess {
    child: Child,
    pub(crate) address: SocketAddr,
    /// Value of `CHAOS_RUN` in the environment of every process that it starts.
    mark: String,
    complaints: Arc<Mutex<Vec<String>>>,
}

impl GatewayProcess {
    /// Starts it and waits until it is ready.
    pub(crate) async fn start(
        program: &Path,
        config: &Path,
        address: SocketAddr,
        mark: String,
    ) -> anyhow::Result<Self> {
        let mut command = Command::new(program);
        command.arg("serve").arg("--config").arg(config).env("PORTCULLIS_LOG", "warn");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0).kill_on_drop(true);
        let mut child = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
        let complaints = Arc::default();
        let said = child.stderr.take().context("standard error is piped")?;
        tokio::spawn(listen(said, Arc::clone(&complaints)));
        let mut gateway = Self { child, address, mark, complaints };
        let until = Instant::now() + START;
        while !is_ready(address).await.unwrap_or(false) {
            ensure!(gateway.child.try_wait()?.is_none(), "the gateway did not start: {:?}", gateway.complaints());
            ensure!(Instant::now() < until, "the gateway does not become ready");
            sleep(Duration::from_millis(50)).await;
        }
        Ok(gateway)
    }

    /// Waits for its end, which should not come.
    pub(crate) async fn ended(&mut self) -> std::io::Result<ExitStatus> {
        self.child.wait().await
    }

    pub(crate) async fn terminate(&self) -> anyhow::Result<()> {
        signal("-TERM", self.id()?).await
    }

    /// How it ended, if it does in time.
    pub(crate) async fn wait(&mut self, patience: Duration) -> Option<ExitStatus> {
        timeout(patience, self.child.wait()).await.ok()?.ok()
    }

    /// What it said that it must not.
    pub(crate) fn complaints(&self) -> Vec<String> {
        self.complaints.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn open_files(&self) -> anyhow::Result<usize> {
        Ok(std::fs::read_dir(format!("/proc/{}/fd", self.id()?))?.count())
    }

    pub(crate) fn resident_kib(&self) -> anyhow::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id()?))?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("no VmRSS")?;
        Ok(line.split_whitespace().nth(1).context("no number")?.parse()?)
    }

    /// Kills what it started under this name (as short as the kernel keeps it); how many.
    pub(crate) async fn kill_children(&self, name: &str) -> anyhow::Result<usize> {
        let mut killed = 0;
        for (id, process) in self.marked()? {
            // It may have ended by itself.
            if process.starts_with(name) && signal("-KILL", id).await.is_ok() {
                killed += 1;
            }
        }
        Ok(killed)
    }

    /// Children that ended and that it has not waited for.
    pub(crate) fn dead_children(&self) -> anyhow::Result<usize> {
        let parent = self.id()?.to_string();
        let is_dead_child = |id: u32| {
            let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
            let mut fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
            fields.next() == Some("Z") && fields.next() == Some(&parent)
        };
        Ok(processes()?.into_iter().filter(|id| is_dead_child(*id)).count())
    }

    /// What it started and is still there after some patience: process ids and names.
    pub(crate) async fn children_left(&self, patience: Duration) -> anyhow::Result<Vec<(u32, String)>> {
        let until = Instant::now() + patience;
        loop {
            let left = self.marked()?;
            if left.is_empty() || Instant::now() > until {
                return Ok(left);
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Processes with the mark in their environment, wherever they are in the tree.
    fn marked(&self) -> anyhow::Result<Vec<(u32, String)>> {
        let mark = format!("CHAOS_RUN={}", self.mark).into_bytes();
        let is_marked = |id: &u32| {
            let environment = std::fs::read(format!("/proc/{id}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|variable| variable == mark)
        };
        let name = |id| std::fs::read_to_string(format!("/proc/{id}/comm")).unwrap_or_default().trim().to_owned();
        Ok(processes()?.into_iter().filter(is_marked).map(|id| (id, name(id))).collect())
    }

    fn id(&self) -> anyhow::Result<u32> {
        self.child.id().context("the gateway has ended")
    }
}

fn processes() -> anyhow::Result<Vec<u32>> {
    let entries = std::fs::read_dir("/proc")?.filter_map(Result::ok);
    Ok(entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
}

async fn signal(signal: &str, id: u32) -> anyhow::Result<()> {
    let status = Command::new("kill").args([signal, &id.to_string()]).stderr(Stdio::null()).status().await?;
    ensure!(status.success(), "process {id} is not there any more");
    Ok(())
}

async fn is_ready(address: SocketAddr) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET /readyz HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(answer.starts_with(b"HTTP/1.1 200"))
}

/// Reads what it says, and keeps what it must not have to say.
async fn listen(said: ChildStderr, complaints: Arc<Mutex<Vec<String>>>) {
    let mut lines = BufReader::new(said).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let mut complaints = complaints.lock().unwrap_or_else(PoisonError::into_inner);
        if COMPLAINTS.iter().any(|complaint| line.contains(complaint)) && complaints.len() < MAX_COMPLAINTS {
            complaints.push(line);
        }
    }
}
