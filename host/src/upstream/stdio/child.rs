//! The child process: how it is started, what it may see and use, and how it is ended.
//!
//! It sees a small environment of its own and a private home, never the gateway's variables; it runs in a process group
//! of its own, so that the children it has itself end with it. What it may use is bounded by the kernel. The bounds are
//! set right after it was started, since setting them before would take code between fork and exec: a child that forks
//! within its first moments may leave them out for what it forked, and is a child that the operator chose.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, Signal};
use tokio::process::{ChildStderr, ChildStdout, Command};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::lines::{Input, Line, Lines};
use crate::ids::UpstreamName;
use crate::mcp::revision::Era;
use crate::secret::Plaintext;
use crate::tasks::Tasks;

/// What a child gets between the end of its input and SIGTERM, and between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(1);
/// What may still be read of a child that has ended; children of its own may keep the pipe open.
const LAST_WORDS: Duration = Duration::from_millis(200);
/// Longest line of standard error that is logged, in bytes.
const MAX_LOGGED_LINE: usize = 2 * 1024;
/// Shortest value of its environment that is not logged, in bytes: shorter ones are words.
const MIN_HIDDEN: usize = 8;
/// Lines of standard error logged in one second.
const MAX_LOGGED_PER_SECOND: u32 = 50;
/// Files that a child may have open.
const MAX_OPEN_FILES: u64 = 4_096;
/// Where memory runs out, the kernel ends a child before the gateway (proc(5), `oom_score_adj`).
const FIRST_TO_GO: &str = "500";

/// What is run, and what it is given.
#[derive(Clone)]
pub(in crate::upstream) struct Program {
    pub(in crate::upstream) name: UpstreamName,
    /// Program and arguments; at least the program.
    pub(in crate::upstream) command: Vec<String>,
    pub(in crate::upstream) environment: BTreeMap<String, Plaintext>,
    pub(in crate::upstream) working_dir: Option<PathBuf>,
    /// From the start until it has said what it is.
    pub(in crate::upstream) start_timeout: Duration,
    /// Holds the child's home and temporary files.
    pub(in crate::upstream) private_dir: PathBuf,
    /// Largest message, in bytes.
    pub(in crate::upstream) limit: usize,
    pub(in crate::upstream) bounds: Bounds,
    /// What it is known to speak.
    pub(in crate::upstream) era: Option<Era>,
}

/// What a child may use besides what every child is bounded by: no core file, [`MAX_OPEN_FILES`].
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::upstream) struct Bounds {
    /// Address space of each of its processes, in bytes. Some runtimes reserve far more than they use.
    pub(in crate::upstream) memory: Option<u64>,
    /// Processes and threads of the user that it runs as: all of that user's count, not only the child's.
    pub(in crate::upstream) processes: Option<u64>,
}

/// A child that runs, and its ends of the pipes.
pub(super) struct Child {
    process: tokio::process::Child,
    /// The child and the children of its own that it did not send elsewhere.
    group: Option<Pid>,
    lines: Lines<ChildStdout>,
    /// Until when lines are read, once the child has ended.
    last_words: Option<Instant>,
    pub(super) input: Input,
    /// Ends the tasks at the other pipes.
    _gone: DropGuard,
}

impl Child {
    /// Starts the program; `tasks` own what writes to it and logs what it says on standard error.
    pub(super) fn start(program: &Program, tasks: &Tasks) -> io::Result<Self> {
        let mut process = command(program)?.spawn()?;
        let pipes = (process.stdin.take(), process.stdout.take(), process.stderr.take());
        let (Some(stdin), Some(stdout), Some(stderr)) = pipes else {
            return Err(io::Error::other("a pipe is missing"));
        };
        let group = process.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(id) = group {
            bound(id, program.bounds);
        }
        let (input, unwritten) = Input::new();
        let gone = CancellationToken::new();
        tasks.spawn(until_gone(gone.clone(), unwritten.write_to(stdin)));
        let secrets =
            program.environment.values().filter(|value| value.expose().len() >= MIN_HIDDEN).cloned().collect();
        tasks.spawn(until_gone(gone.clone(), log_lines(stderr, program.name.clone(), secrets)));
        let lines = Lines::new(stdout, program.limit);
        Ok(Self { process, group, lines, last_words: None, input, _gone: gone.drop_guard() })
    }

    /// The next line, or why there will be none. May be dropped and called again without losing a byte.
    pub(super) async fn next_line(&mut self) -> Result<Vec<u8>, String> {
        let line = loop {
            match self.last_words {
                Some(until) => break tokio::time::timeout_at(until, self.lines.next()).await.unwrap_or(Ok(None)),
                None => tokio::select! {
                    biased;
                    line = self.lines.next() => break line,
                    _ = self.process.wait() => self.last_words = Some(Instant::now() + LAST_WORDS),
                },
            }
        };
        match line {
            Ok(Some(Line::Text(line))) => Ok(line),
            Ok(Some(Line::TooLong)) => Err(format!("it wrote a line of more than {} bytes", self.lines.limit())),
            Ok(None) if self.last_words.is_some() => Err("it ended".to_owned()),
            Ok(None) => Err("it closed its standard output".to_owned()),
            Err(error) => Err(format!("its standard output broke ({error})")),
        }
    }

    /// Ends it: end of input, then SIGTERM, then SIGKILL, for its whole group (2026-07-28, stdio § shutdown).
    pub(super) async fn end(mut self, name: &UpstreamName) {
        drop(self.input);
        let group = self.group;
        let signal = |signal| {
            if let Some(group) = group {
                // An error says that the group has ended.
                _ = rustix::process::kill_process_group(group, signal);
            }
        };
        if tokio::time::timeout(GRACE, self.process.wait()).await.is_err() {
            signal(Signal::TERM);
            if tokio::time::timeout(GRACE, self.process.wait()).await.is_err() {
                tracing::debug!(upstream = %name, "killing an upstream process that does not end");
            }
        }
        signal(Signal::KILL);
        if let Err(error) = self.process.wait().await {
            tracing::debug!(upstream = %name, %error, "an ended process was not waited for");
        }
    }
}

/// The command with its environment and directories, which are made if they are not there.
fn command(program: &Program) -> io::Result<Command> {
    let (home, temporary) = (program.private_dir.join("home"), program.private_dir.join("tmp"));
    for dir in [&home, &temporary] {
        make_private(dir)?;
    }
    let mut words = program.command.iter();
    let first = words.next().ok_or_else(|| io::Error::other("the command is empty"))?;
    let mut command = Command::new(first);
    command
        .args(words)
        .env_clear()
        .envs(["PATH", "LANG", "TERM"].into_iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
        .env("HOME", &home)
        .env("TMPDIR", &temporary)
        .envs(program.environment.iter().map(|(name, value)| (name, value.expose())))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    if let Some(dir) = &program.working_dir {
        command.current_dir(dir);
    }
    Ok(command)
}

fn make_private(dir: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Bounds what a process may use. One bound that cannot be set costs no other: the child may have ended, or run as
/// somebody whom we may not bound.
fn bound(process: Pid, bounds: Bounds) {
    let limits = [
        (Resource::Core, Some(0), "core files"),
        (Resource::Nofile, Some(MAX_OPEN_FILES), "open files"),
        (Resource::As, bounds.memory, "memory"),
        (Resource::Nproc, bounds.processes, "processes"),
    ];
    for (resource, limit, what) in limits {
        let Some(limit) = limit else { continue };
        // It has what we have; nobody but root may raise that.
        let most = rustix::process::getrlimit(resource).maximum.map_or(limit, |most| most.min(limit));
        let limit = Rlimit { current: Some(most), maximum: Some(most) };
        if let Err(error) = rustix::process::prlimit(Some(process), resource, limit) {
            tracing::debug!(%error, what, "a bound of a child process was not set");
        }
    }
    let file = format!("/proc/{}/oom_score_adj", process.as_raw_nonzero());
    if let Err(error) = std::fs::write(file, FIRST_TO_GO) {
        tracing::debug!(%error, "the order in which processes go when memory runs out was not set");
    }
}

/// Works until a moment after the child is gone: processes that left its group may keep its pipes open for ever.
async fn until_gone(gone: CancellationToken, work: impl Future<Output = ()>) {
    let over = async {
        gone.cancelled().await;
        tokio::time::sleep(LAST_WORDS).await;
    };
    tokio::select! {
        () = work => {}
        () = over => {}
    }
}

/// The text without these values.
fn hidden(text: String, secrets: &[Plaintext]) -> String {
    secrets.iter().fold(text, |text, secret| match text.contains(secret.expose()) {
        true => text.replace(secret.expose(), "[hidden]"),
        false => text,
    })
}

/// Logs what a child says on standard error, but for the values that it was given: some programs tell which key is wrong.
async fn log_lines(stderr: ChildStderr, name: UpstreamName, secrets: Vec<Plaintext>) {
    let mut lines = Lines::new(stderr, MAX_LOGGED_LINE);
    let (mut second, mut logged) = (Instant::now(), 0);
    while let Ok(Some(line)) = lines.next().await {
        if second.elapsed() >= Duration::from_secs(1) {
            (second, logged) = (Instant::now(), 0);
        }
        logged += 1;
        let text = match &line {
            Line::Text(text) => hidden(String::from_utf8_lossy(text).into_owned(), &secrets),
            Line::TooLong => "(a line that is too long)".to_owned(),
        };
        match logged {
            ..=MAX_LOGGED_PER_SECOND => {
                tracing::info!(upstream = %name, stderr = %text.escape_debug(), "upstream process says");
            }
            _ => tracing::debug!(upstream = %name, "more lines in this second were left out"),
        }
    }
}
