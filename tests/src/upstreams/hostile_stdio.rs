//! What the program `hostile-stdio` does: an upstream over stdio that misbehaves in one way that has a name.
//!
//! Unless told otherwise it answers everything properly but tools/call. It ends when its input ends, except where
//! that is how it misbehaves, and after [`LIFETIME`] in any case.

use std::fmt;
use std::io;
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Stdout};
use tokio::signal::unix::{SignalKind, signal};

/// The longest that the program or its child runs.
pub const LIFETIME: Duration = Duration::from_secs(60);
/// The length of a huge line.
pub const HUGE_BYTES: usize = 100 * 1024 * 1024;
/// How much goes to standard error where much does.
pub const CHATTER_BYTES: usize = 10 * 1024 * 1024;
/// The program's only argument when it is its own child.
const CHILD: &str = "grandchild";

const MAX_LINE_BYTES: u64 = 16 * 1024 * 1024;
const PIECE_BYTES: usize = 64 * 1024;

/// What the program does instead of answering.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StdioBehaviour {
    /// Ends as soon as it starts, with status 1 and a word on standard error.
    ExitsAtOnce,
    /// Takes the request and says nothing.
    NeverAnswers,
    /// Ends half-way through its answer, with status 3.
    Dies,
    /// Answers, with lines around it that are not JSON, not JSON-RPC, not UTF-8, empty, or answers to nobody.
    Garbage,
    /// Answers with one line of [`HUGE_BYTES`].
    HugeLine,
    /// Writes [`CHATTER_BYTES`] to standard error, much of it in one line, and answers then.
    Chatters,
    /// Answers properly, but goes on when its input ends and when it is asked to end (SIGTERM).
    IgnoresSigterm,
    /// Starts a child that has the same output and does not end with it, and answers with the child's process id.
    LeavesChild,
}

impl StdioBehaviour {
    pub const ALL: &'static [Self] = &[
        Self::ExitsAtOnce,
        Self::NeverAnswers,
        Self::Dies,
        Self::Garbage,
        Self::HugeLine,
        Self::Chatters,
        Self::IgnoresSigterm,
        Self::LeavesChild,
    ];

    /// The behaviour's name, which is also its tool's.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ExitsAtOnce => "exits_at_once",
            Self::NeverAnswers => "never_answers",
            Self::Dies => "dies",
            Self::Garbage => "garbage",
            Self::HugeLine => "huge_line",
            Self::Chatters => "chatters",
            Self::IgnoresSigterm => "ignores_sigterm",
            Self::LeavesChild => "leaves_child",
        }
    }
}

impl FromStr for StdioBehaviour {
    type Err = UnknownBehaviour;

    fn from_str(name: &str) -> Result<Self, UnknownBehaviour> {
        Self::ALL.iter().copied().find(|behaviour| behaviour.name() == name).ok_or(UnknownBehaviour)
    }
}

/// There is no behaviour of that name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownBehaviour;

impl fmt::Display for UnknownBehaviour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no such behaviour; there are:")?;
        StdioBehaviour::ALL.iter().try_for_each(|behaviour| write!(f, " {}", behaviour.name()))
    }
}

impl std::error::Error for UnknownBehaviour {}

/// The whole program, given its arguments; returns the status to end with.
pub async fn main(arguments: &[String]) -> u8 {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (name, from_the_start) = match arguments.as_slice() {
        [CHILD] => {
            tokio::time::sleep(LIFETIME).await;
            return 0;
        }
        [name] => (name, false),
        [name, "--from-the-start"] => (name, true),
        _ => return complain("Usage: hostile-stdio BEHAVIOUR [--from-the-start]", 2).await,
    };
    let behaviour = match name.parse() {
        Ok(behaviour) => behaviour,
        Err(error) => return complain(&UnknownBehaviour::to_string(&error), 2).await,
    };
    if behaviour == StdioBehaviour::ExitsAtOnce {
        return complain("hostile-stdio: cannot find the configuration", 1).await;
    }
    let mut program = Program { behaviour, from_the_start, output: tokio::io::stdout() };
    match tokio::time::timeout(LIFETIME, program.run()).await {
        Ok(Ok(code)) => code,
        // Nobody reads any more, or it has lived long enough.
        Ok(Err(_)) | Err(_) => 1,
    }
}

async fn complain(text: &str, code: u8) -> u8 {
    let mut error = tokio::io::stderr();
    // Nobody is left to hear of a failure. Without the flush the program could end before the word is out.
    if error.write_all(format!("{text}\n").as_bytes()).await.is_ok() {
        let _ = error.flush().await;
    }
    code
}

#[derive(Deserialize)]
struct Message {
    id: Option<Box<RawValue>>,
    method: Option<String>,
}

struct Program {
    behaviour: StdioBehaviour,
    from_the_start: bool,
    output: Stdout,
}

impl Program {
    async fn run(&mut self) -> io::Result<u8> {
        // While this lives, the signal does not end the program.
        let _deaf = match self.behaviour {
            StdioBehaviour::IgnoresSigterm => Some(signal(SignalKind::terminate())?),
            _ => None,
        };
        let mut input = BufReader::new(tokio::io::stdin());
        let mut line = Vec::new();
        loop {
            line.clear();
            (&mut input).take(MAX_LINE_BYTES).read_until(b'\n', &mut line).await?;
            if line.is_empty() {
                if self.behaviour == StdioBehaviour::IgnoresSigterm {
                    std::future::pending::<()>().await;
                }
                return Ok(0);
            }
            let Ok(Message { id: Some(id), method: Some(method) }) = serde_json::from_slice(&line) else { continue };
            if self.from_the_start || method == "tools/call" {
                if let Some(code) = self.misbehave(id.get()).await? {
                    return Ok(code);
                }
            } else {
                self.behave(id.get(), &method).await?;
            }
        }
    }

    /// Answers as an ordinary server does.
    async fn behave(&mut self, id: &str, method: &str) -> io::Result<()> {
        let name = self.behaviour.name();
        let result = match method {
            "initialize" => format!(
                r#"{{"protocolVersion":"2025-11-25","capabilities":{{"tools":{{}}}},"serverInfo":{{"name":"hostile","version":"{name}"}}}}"#
            ),
            "tools/list" => format!(
                r#"{{"tools":[{{"name":"{name}","description":"Misbehaves when it is called","inputSchema":{{"type":"object"}}}}]}}"#
            ),
            "ping" => "{}".to_owned(),
            _ => {
                let error = r#"{"code":-32601,"message":"Method not found"}"#;
                return self.say(&format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{error}}}"#)).await;
            }
        };
        self.say(&format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#)).await
    }

    /// Does what it is here for; with a status when it is to end.
    async fn misbehave(&mut self, id: &str) -> io::Result<Option<u8>> {
        let fine = answer(id, "This is what a proper server would have said.");
        match self.behaviour {
            StdioBehaviour::ExitsAtOnce | StdioBehaviour::NeverAnswers => {}
            StdioBehaviour::Dies => {
                self.write(&fine.as_bytes()[..fine.len() / 2]).await?;
                return Ok(Some(3));
            }
            StdioBehaviour::Garbage => {
                self.write(b"\nnot JSON\n{\"half\":\n[]\n{\"hello\":1}\n\xff\xfe\n").await?;
                self.say(&answer("\"somebody-else\"", "not for you")).await?;
                self.say(&fine).await?;
                self.say(&answer(id, "a second answer")).await?;
                self.write(b"bye\n").await?;
            }
            StdioBehaviour::HugeLine => self.huge_line(&fine).await?,
            StdioBehaviour::Chatters => {
                chatter().await?;
                self.say(&fine).await?;
            }
            StdioBehaviour::IgnoresSigterm => self.say(&fine).await?,
            StdioBehaviour::LeavesChild => {
                let mut child = Command::new(std::env::current_exe()?);
                let child = child.arg(CHILD).stdin(Stdio::null()).spawn()?;
                self.say(&answer(id, &child.id().to_string())).await?;
            }
        }
        Ok(None)
    }

    async fn huge_line(&mut self, fine: &str) -> io::Result<()> {
        let (before, after) = fine.split_once("This is").expect("the text begins like this");
        self.write(before.as_bytes()).await?;
        let filling = vec![b'x'; PIECE_BYTES];
        for _ in 0..HUGE_BYTES / PIECE_BYTES {
            self.write(&filling).await?;
        }
        self.say(after).await
    }

    async fn say(&mut self, line: &str) -> io::Result<()> {
        self.write(format!("{line}\n").as_bytes()).await
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.output.write_all(bytes).await?;
        self.output.flush().await
    }
}

fn answer(id: &str, text: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"content":[{{"type":"text","text":"{text}"}}]}}}}"#)
}

/// Half of it is one line, half of it many; some of it would move a terminal's cursor.
async fn chatter() -> io::Result<()> {
    let mut error = tokio::io::stderr();
    let filling = vec![b'x'; PIECE_BYTES];
    for _ in 0..CHATTER_BYTES / 2 / PIECE_BYTES {
        error.write_all(&filling).await?;
    }
    error.write_all(b"\n").await?;
    let line = b"\x1b[2J\x1b[1;1H something went wrong \xff\xfe (not really)\r\n";
    for _ in 0..CHATTER_BYTES / 2 / line.len() {
        error.write_all(line).await?;
    }
    error.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_behaviour_is_found_by_its_name() {
        for behaviour in StdioBehaviour::ALL {
            assert_eq!(behaviour.name().parse(), Ok(*behaviour));
        }
        assert_eq!("grandchild".parse::<StdioBehaviour>(), Err(UnknownBehaviour));
    }
}
