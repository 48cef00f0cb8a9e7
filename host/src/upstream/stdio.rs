//! An upstream that is a child process speaking newline-delimited JSON-RPC on its standard streams.
//!
//! One task owns the child and everything that belongs to it: it starts it, shakes hands, matches answers to requests
//! (all ids are ours), restarts it with growing pauses when it ends, and kills its whole process group on stop. The
//! child sees a small environment of its own and a private home, never the gateway's variables.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Pid;
use serde_json::value::RawValue;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::http::answer_to_upstream;
use super::{Exchange, UpstreamError, read_notice};
use crate::ids::UpstreamName;
use crate::mcp::call::{Notice, Outcome};
use crate::mcp::json::raw;
use crate::mcp::message::{self, Message, RequestId};
use crate::mcp::revision::legacy;
use crate::secret::Plaintext;
use crate::tasks::Tasks;

/// Requests that may wait for the child at once.
const MAX_PENDING: usize = 1_024;
/// Messages that may wait to be written.
const MAX_UNWRITTEN: usize = 256;
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LAST_PAUSE: Duration = Duration::from_secs(30);
/// A child that lived this long is restarted without a pause of note.
const HEALTHY_LIFE: Duration = Duration::from_secs(60);
/// What a child gets between the end of its input and SIGTERM, and between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(1);
/// What may still be read of a child that has ended; children of its own may keep the pipe open.
const LAST_WORDS: Duration = Duration::from_millis(200);
/// Longest line of standard error that is logged, in bytes.
const MAX_LOGGED_LINE: usize = 2 * 1024;
/// Lines of standard error logged in one second.
const MAX_LOGGED_PER_SECOND: u32 = 50;

pub(super) struct Program {
    pub(super) name: UpstreamName,
    pub(super) command: Vec<String>,
    pub(super) environment: BTreeMap<String, Plaintext>,
    pub(super) working_dir: Option<PathBuf>,
    pub(super) start_timeout: Duration,
    /// Holds the child's home and temporary files.
    pub(super) private_dir: PathBuf,
    /// Largest message, in bytes.
    pub(super) limit: usize,
}

pub(super) struct StdioLink {
    orders: mpsc::Sender<Order>,
}

enum Order {
    Ask {
        id: RequestId,
        line: String,
        waiting: Waiting,
    },
    /// The caller of this request is gone.
    Forget {
        id: RequestId,
    },
}

struct Waiting {
    answer: oneshot::Sender<Result<Outcome, UpstreamError>>,
    notices: mpsc::Sender<Notice>,
}

impl StdioLink {
    pub(super) fn start(program: Program, stale: Arc<Notify>, tasks: &Tasks) -> Self {
        let (orders, inbox) = mpsc::channel(MAX_UNWRITTEN);
        let keeper = Keeper { program, inbox, stale, tasks: tasks.clone() };
        tasks.spawn(keeper.run());
        Self { orders }
    }

    pub(super) async fn exchange(&self, exchange: Exchange) -> Result<Outcome, UpstreamError> {
        let line = message::request(&exchange.id, exchange.method, &exchange.params);
        let (answer, answered) = oneshot::channel();
        let waiting = Waiting { answer, notices: exchange.notices };
        let order = Order::Ask { id: exchange.id.clone(), line, waiting };
        self.orders.try_send(order).map_err(|_| UpstreamError::Busy)?;
        let given_up = tokio::select! {
            answer = answered => return answer.unwrap_or(Err(UpstreamError::Died)),
            () = tokio::time::sleep_until(exchange.deadline) => UpstreamError::TimedOut { after: exchange.timeout },
            () = exchange.cancelled.cancelled() => UpstreamError::Cancelled,
        };
        // If the keeper is gone or swamped, the answer finds nobody waiting, which is just as well.
        _ = self.orders.send(Order::Forget { id: exchange.id }).await;
        Err(given_up)
    }
}

/// Owns the child.
struct Keeper {
    program: Program,
    inbox: mpsc::Receiver<Order>,
    stale: Arc<Notify>,
    tasks: Tasks,
}

/// A child that runs, and its ends of the pipes.
struct Running {
    child: Child,
    /// The child and the children of its own that it did not send elsewhere.
    group: Option<Pid>,
    lines: Lines<ChildStdout>,
    /// Until when lines are read, once the child has ended.
    last_words: Option<Instant>,
    input: mpsc::Sender<String>,
    pending: HashMap<RequestId, Waiting>,
    /// Ends the tasks at the other pipes.
    _gone: DropGuard,
}

impl Keeper {
    async fn run(mut self) {
        let stopping = self.tasks.stopping().clone();
        let mut pause = FIRST_PAUSE;
        while !stopping.is_cancelled() {
            let started = Instant::now();
            let reason = match self.spawn() {
                Ok(mut running) => {
                    let ended = self.tend(&mut running).await;
                    end(&mut running, &self.program.name).await;
                    ended
                }
                Err(error) => format!("cannot start {:?}: {error}", self.program.command[0]),
            };
            if stopping.is_cancelled() {
                return;
            }
            pause = if started.elapsed() >= HEALTHY_LIFE { FIRST_PAUSE } else { (pause * 2).min(LAST_PAUSE) };
            tracing::warn!(upstream = %self.program.name, %reason, restart_in_ms = pause.as_millis(), "upstream process ended");
            // Its health is to be seen.
            self.stale.notify_one();
            self.rest(pause, &reason).await;
        }
    }

    fn spawn(&self) -> io::Result<Running> {
        let (home, temporary) = (self.program.private_dir.join("home"), self.program.private_dir.join("tmp"));
        for dir in [&home, &temporary] {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        }
        let mut command = Command::new(&self.program.command[0]);
        command
            .args(&self.program.command[1..])
            .env_clear()
            .envs(["PATH", "LANG", "TERM"].into_iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
            .env("HOME", &home)
            .env("TMPDIR", &temporary)
            .envs(self.program.environment.iter().map(|(name, value)| (name, value.expose())))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        if let Some(dir) = &self.program.working_dir {
            command.current_dir(dir);
        }
        let mut child = command.spawn()?;
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(stdin), Some(stdout), Some(stderr)) = pipes else {
            return Err(io::Error::other("a pipe is missing"));
        };
        let (input, unwritten) = mpsc::channel(MAX_UNWRITTEN);
        let gone = CancellationToken::new();
        self.tasks.spawn(until_gone(gone.clone(), write_lines(stdin, unwritten)));
        self.tasks.spawn(until_gone(gone.clone(), log_lines(stderr, self.program.name.clone())));
        let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let lines = Lines::new(stdout, self.program.limit);
        let pending = HashMap::new();
        Ok(Running { child, group, lines, last_words: None, input, pending, _gone: gone.drop_guard() })
    }

    /// Shakes hands and serves until the child ends or we stop. Why it ended.
    async fn tend(&mut self, running: &mut Running) -> String {
        let shaken = tokio::select! {
            shaken = tokio::time::timeout(self.program.start_timeout, self.shake_hands(running)) => shaken,
            () = self.tasks.stopping().cancelled() => return "stopping".to_owned(),
        };
        match shaken {
            Err(_) => return format!("no answer to `initialize` within {} s", self.program.start_timeout.as_secs()),
            Ok(Err(reason)) => return reason,
            Ok(Ok(())) => {}
        }
        self.stale.notify_one();
        loop {
            tokio::select! {
                () = self.tasks.stopping().cancelled() => return "stopping".to_owned(),
                order = self.inbox.recv() => match order {
                    Some(order) => running.take_order(order),
                    None => return "stopping".to_owned(),
                },
                line = running.next_line() => match line {
                    Ok(line) => self.take_line(running, &line),
                    Err(reason) => return reason,
                },
            }
        }
    }

    async fn shake_hands(&self, running: &mut Running) -> Result<(), String> {
        let id = RequestId::number(0);
        running.write(message::request(&id, "initialize", &legacy::initialize_params()));
        loop {
            let line =
                running.next_line().await.map_err(|reason| format!("{reason} before it answered `initialize`"))?;
            match Message::from_upstream(&line) {
                Ok(Message::Result { id: answered, result }) if answered == id => {
                    legacy::negotiated(result).ok_or("`initialize` chose no revision that we speak")?;
                    running.write(message::notification("notifications/initialized", None));
                    return Ok(());
                }
                Ok(Message::Error { .. }) => return Err("`initialize` was answered with an error".to_owned()),
                Ok(_) => {}
                Err(_) => self.warn_of_garbage(),
            }
        }
    }

    fn take_line(&self, running: &mut Running, line: &[u8]) {
        match Message::from_upstream(line) {
            Ok(Message::Result { id, result }) => running.answer(&id, Outcome::Result(result.to_owned())),
            Ok(Message::Error { id: Some(id), error }) => running.answer(&id, Outcome::Error(error.to_owned())),
            Ok(Message::Notification { method, .. }) if method == "notifications/tools/list_changed" => {
                self.stale.notify_one();
            }
            Ok(Message::Notification { method, params }) => running.pass_on(&method, params),
            Ok(Message::Request { id, method, .. }) => running.write(answer_to_upstream(&id, &method)),
            Ok(Message::Error { id: None, .. }) | Err(_) => self.warn_of_garbage(),
        }
    }

    fn warn_of_garbage(&self) {
        tracing::debug!(upstream = %self.program.name, "a line on standard output is not a JSON-RPC message");
    }

    /// Turns requests away until the next start.
    async fn rest(&mut self, pause: Duration, reason: &str) {
        let until = Instant::now() + pause;
        let stopping = self.tasks.stopping().clone();
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(until) => return,
                () = stopping.cancelled() => return,
                order = self.inbox.recv() => match order {
                    Some(Order::Ask { waiting, .. }) => {
                        _ = waiting.answer.send(Err(UpstreamError::Unreachable { reason: reason.to_owned() }));
                    }
                    Some(Order::Forget { .. }) => {}
                    None => return,
                },
            }
        }
    }
}

impl Running {
    /// The next line, or why there will be none. May be dropped and called again without losing a byte.
    async fn next_line(&mut self) -> Result<Vec<u8>, String> {
        let line = loop {
            match self.last_words {
                Some(until) => break tokio::time::timeout_at(until, self.lines.next()).await.unwrap_or(Ok(None)),
                None => tokio::select! {
                    biased;
                    line = self.lines.next() => break line,
                    _ = self.child.wait() => self.last_words = Some(Instant::now() + LAST_WORDS),
                },
            }
        };
        match line {
            Ok(Some(Line::Text(line))) => Ok(line),
            Ok(Some(Line::TooLong)) => Err(format!("it wrote a line of more than {} bytes", self.lines.limit)),
            Ok(None) if self.last_words.is_some() => Err("it ended".to_owned()),
            Ok(None) => Err("it closed its standard output".to_owned()),
            Err(error) => Err(format!("its standard output broke ({error})")),
        }
    }

    fn take_order(&mut self, order: Order) {
        match order {
            Order::Ask { id, line, waiting } => {
                if self.pending.len() >= MAX_PENDING || self.input.try_send(line).is_err() {
                    _ = waiting.answer.send(Err(UpstreamError::Busy));
                    return;
                }
                self.pending.insert(id, waiting);
            }
            Order::Forget { id } => {
                if self.pending.remove(&id).is_some() {
                    let params = raw(format!(r#"{{"requestId":{}}}"#, id.as_json()));
                    self.write(message::notification("notifications/cancelled", Some(&params)));
                }
            }
        }
    }

    fn answer(&mut self, id: &RequestId, outcome: Outcome) {
        if let Some(waiting) = self.pending.remove(id) {
            // A caller that gave up in this very moment does not mind.
            _ = waiting.answer.send(Ok(outcome));
        }
    }

    /// Gives a notification to the request that it belongs to. One that belongs to no request goes to nobody: the child is
    /// shared, and what it says to one caller is not for another.
    fn pass_on(&self, method: &str, params: Option<&RawValue>) {
        for (id, waiting) in &self.pending {
            let notice = match read_notice(method, params, id) {
                Some(notice @ Notice::Progress(_)) => notice,
                Some(notice @ Notice::Log(_)) if self.pending.len() == 1 => notice,
                _ => continue,
            };
            if waiting.notices.try_send(notice).is_err() {
                tracing::debug!("a notification was dropped: its caller is too slow");
            }
            return;
        }
    }

    fn write(&self, line: String) {
        if self.input.try_send(line).is_err() {
            tracing::debug!("a message to a child process was dropped: it does not read");
        }
    }
}

/// Ends a child: end of input, then SIGTERM, then SIGKILL, for its whole group. Everyone who waits is told.
async fn end(running: &mut Running, name: &UpstreamName) {
    for (_, waiting) in running.pending.drain() {
        _ = waiting.answer.send(Err(UpstreamError::Died));
    }
    let (closed, _) = mpsc::channel(1);
    running.input = closed;
    let group = running.group;
    let signal = |signal| {
        if let Some(group) = group {
            // An error says that the group has ended.
            _ = rustix::process::kill_process_group(group, signal);
        }
    };
    if tokio::time::timeout(GRACE, running.child.wait()).await.is_err() {
        signal(rustix::process::Signal::TERM);
        if tokio::time::timeout(GRACE, running.child.wait()).await.is_err() {
            tracing::debug!(upstream = %name, "killing an upstream process that does not end");
        }
    }
    signal(rustix::process::Signal::KILL);
    if let Err(error) = running.child.wait().await {
        tracing::debug!(upstream = %name, %error, "an ended process was not waited for");
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

async fn write_lines(mut stdin: ChildStdin, mut lines: mpsc::Receiver<String>) {
    while let Some(mut line) = lines.recv().await {
        // JSON text may hold line ends as white space; on this transport they would end the message.
        if line.contains(['\n', '\r']) {
            line = line.replace(['\n', '\r'], " ");
        }
        line.push('\n');
        if stdin.write_all(line.as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn log_lines(stderr: ChildStderr, name: UpstreamName) {
    let mut lines = Lines::new(stderr, MAX_LOGGED_LINE);
    let (mut second, mut logged) = (Instant::now(), 0);
    while let Ok(Some(line)) = lines.next().await {
        if second.elapsed() >= Duration::from_secs(1) {
            (second, logged) = (Instant::now(), 0);
        }
        logged += 1;
        let text = match &line {
            Line::Text(text) => String::from_utf8_lossy(text),
            Line::TooLong => "(a line that is too long)".into(),
        };
        match logged {
            ..=MAX_LOGGED_PER_SECOND => {
                tracing::info!(upstream = %name, stderr = %text.escape_debug(), "upstream process says");
            }
            _ => tracing::debug!(upstream = %name, "more lines in this second were left out"),
        }
    }
}

/// Reads lines of bounded length. `next` may be dropped and called again without losing a byte.
struct Lines<R> {
    reader: BufReader<R>,
    line: Vec<u8>,
    too_long: bool,
    limit: usize,
}

#[derive(Debug, PartialEq, Eq)]
enum Line {
    Text(Vec<u8>),
    TooLong,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    fn new(reader: R, limit: usize) -> Self {
        Self { reader: BufReader::with_capacity(64 * 1024, reader), line: Vec::new(), too_long: false, limit }
    }

    async fn next(&mut self) -> io::Result<Option<Line>> {
        loop {
            let available = self.reader.fill_buf().await?;
            if available.is_empty() {
                return Ok(None);
            }
            let end = available.iter().position(|byte| *byte == b'\n');
            let piece = &available[..end.unwrap_or(available.len())];
            if self.line.len() + piece.len() > self.limit {
                self.too_long = true;
                self.line.clear();
            } else if !self.too_long {
                self.line.extend_from_slice(piece);
            }
            let used = end.map_or(available.len(), |end| end + 1);
            self.reader.consume(used);
            if end.is_none() {
                continue;
            }
            let line = std::mem::take(&mut self.line);
            if std::mem::take(&mut self.too_long) {
                return Ok(Some(Line::TooLong));
            }
            if line.iter().any(|byte| !byte.is_ascii_whitespace()) {
                return Ok(Some(Line::Text(line)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_bounded_and_blank_ones_skipped() {
        let text = b"one\n\n  \r\ntwo\r\n0123456789\nlast\ncut";
        let mut lines = Lines::new(&text[..], 8);
        let mut read = Vec::new();
        while let Some(line) = lines.next().await.unwrap() {
            read.push(line);
        }
        let text = |text: &str| Line::Text(text.as_bytes().to_vec());
        assert_eq!(read, [text("one"), text("two\r"), Line::TooLong, text("last")]);
    }
}
