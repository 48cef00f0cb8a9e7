//! Two MCP servers that people recognise, for trying Portcullis: a box of notes and an issue tracker.
//!
//! They are ordinary MCP servers and know nothing of the gateway. One URL answers the session-based revisions
//! (2025-11-25, 2025-06-18) and the stateless one (2026-07-28); the same servers also speak over stdio. All they
//! hold is in memory, bounded, and gone when they end. They ask nobody who they are, so they listen on loopback
//! only.
//!
//! Reading order: [`tool`] (what a tool is), [`notes`] and [`tracker`] (what the servers do), [`protocol`] (which
//! answer a message gets), [`http`] and [`stdio`] (how messages travel).

mod tool;

mod notes;
mod tracker;

mod protocol;

mod http;
mod stdio;

use std::fmt;
use std::io;
use std::str::FromStr;

use tokio::net::TcpListener;

use protocol::Server;

/// Which of the servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Example {
    /// A box of notes: list, read, search, add, delete.
    Notes,
    /// An issue tracker: list, read, create, comment, close.
    Tracker,
}

impl Example {
    pub const ALL: [Self; 2] = [Self::Notes, Self::Tracker];

    /// Its name on a command line and in configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Notes => "notes",
            Self::Tracker => "tracker",
        }
    }
}

impl fmt::Display for Example {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Example {
    type Err = UnknownExample;

    fn from_str(name: &str) -> Result<Self, UnknownExample> {
        Self::ALL.into_iter().find(|example| example.name() == name).ok_or(UnknownExample)
    }
}

/// There is no example of that name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownExample;

impl fmt::Display for UnknownExample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no such example server; there are: notes, tracker")
    }
}

impl std::error::Error for UnknownExample {}

/// Serves `example` at `/mcp` over streamable HTTP until `shutdown` is ready, then finishes what it has begun.
///
/// # Errors
/// The listener's, and `InvalidInput` where it does not listen on a loopback address.
pub async fn serve_http<F>(listener: TcpListener, example: Example, shutdown: F) -> io::Result<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    match example {
        Example::Notes => http::serve(listener, Server::new(notes::toolbox()), shutdown).await,
        Example::Tracker => http::serve(listener, Server::new(tracker::toolbox()), shutdown).await,
    }
}

/// Serves `example` over standard input and output until the input ends.
///
/// # Errors
/// Those of the two streams, and `InvalidData` after a line that is longer than a message may be.
pub async fn serve_stdio(example: Example) -> io::Result<()> {
    let (input, output) = (tokio::io::stdin(), tokio::io::stdout());
    match example {
        Example::Notes => stdio::serve(input, output, &Server::new(notes::toolbox())).await,
        Example::Tracker => stdio::serve(input, output, &Server::new(tracker::toolbox())).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_example_is_found_by_its_name() {
        for example in Example::ALL {
            assert_eq!(example.to_string().parse(), Ok(example));
        }
        assert_eq!("Notes".parse::<Example>(), Err(UnknownExample));
    }
}
