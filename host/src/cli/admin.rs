//! Commands that ask the running gateway, through its admin socket.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::Value;

use super::output::{Progress, Reached, Refused, rows, tell};
pub(super) use super::output::{mistake, table, text, words};
use super::{AdminSocket, WithConfig, on_runtime};
use crate::outbound::{OutboundError, Sent, ask_socket_if, send_to_socket};

/// Rows of a page that is asked for: as many as the gateway gives.
pub(super) const PAGE: u64 = 200;

// Of a list that comes in pages.
#[derive(clap::Args)]
pub(super) struct Paged {
    /// At most so many. Without it, all.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    #[command(flatten)]
    pub(super) with: WithConfig,
}

impl Paged {
    /// The list at `path`, which may have a query, as one answer with the rows of all pages, and prints it.
    pub(super) fn tell(&self, path: &str, member: &str, told: impl FnOnce(&[Value]) -> String) -> anyhow::Result<()> {
        let answer = pages(&self.with, path, member, self.limit)?;
        tell(&self.with, &answer, |answer| told(rows(answer, member)))
    }
}

// Of a list that the gateway gives whole.
#[derive(clap::Args)]
pub(super) struct Whole {
    /// At most so many. Without it, all.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    #[command(flatten)]
    with: WithConfig,
}

impl Whole {
    /// The list at `path`, and prints it.
    pub(super) fn tell(&self, path: &str, member: &str, told: impl FnOnce(&[Value]) -> String) -> anyhow::Result<()> {
        let mut answer = ask(&self.with, Method::GET, path, None)?;
        if let (Some(limit), Value::Array(rows)) = (self.limit, &mut answer[member]) {
            rows.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        }
        tell(&self.with, &answer, |answer| told(rows(answer, member)))
    }
}

/// All rows of a paged list; `path` may have a query.
pub(super) fn every_page(with: &AdminSocket, path: &str, member: &str) -> anyhow::Result<Vec<Value>> {
    let mut answer = pages(with, path, member, None)?;
    Ok(match answer[member].take() {
        Value::Array(rows) => rows,
        _ => Vec::new(),
    })
}

/// A paged list as one answer: with `limit` rows at most, and with the cursor for what follows them, if something does.
pub(super) fn pages(with: &AdminSocket, path: &str, member: &str, limit: Option<u64>) -> anyhow::Result<Value> {
    let gateway = Running::of(with)?;
    let mut all: Vec<Value> = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let wanted = limit.map_or(PAGE, |limit| limit.saturating_sub(all.len() as u64).min(PAGE));
        let mut answer = gateway.ask(Method::GET, &page(path, wanted, cursor.as_deref()), None)?;
        if let Value::Array(mut rows) = answer[member].take() {
            all.append(&mut rows);
        }
        cursor = answer["next_cursor"].as_str().map(ToOwned::to_owned);
        if cursor.is_none() || limit.is_some_and(|limit| all.len() as u64 >= limit) {
            answer[member] = Value::Array(all);
            return Ok(answer);
        }
    }
}

/// The address of a page.
pub(super) fn page(path: &str, limit: u64, cursor: Option<&str>) -> String {
    let and = if path.contains('?') { '&' } else { '?' };
    let cursor = cursor.map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
    format!("{path}{and}limit={limit}{cursor}")
}

/// Asks the running gateway. An error tells what it answered.
pub(super) fn ask(with: &AdminSocket, method: Method, path: &str, body: Option<Value>) -> anyhow::Result<Value> {
    Running::of(with)?.ask(method, path, body)
}

/// Asks the running gateway for what is done only if a thing still has this revision.
pub(super) fn ask_if(
    with: &AdminSocket,
    method: Method,
    path: &str,
    body: Option<Value>,
    revision: u64,
) -> anyhow::Result<Value> {
    Running::of(with)?.ask_if(method, path, body, Some(&format!("\"{revision}\"")))
}

/// Sends the running gateway bytes of this type, with more headers.
pub(super) fn send(
    with: &AdminSocket,
    path: &str,
    (media_type, content): (&str, Vec<u8>),
    headers: &[(&str, String)],
) -> anyhow::Result<Value> {
    let gateway = Running { patience: SENDING, ..Running::of(with)? };
    let sent = Sent { media_type, content: content.into(), headers };
    let exchange = send_to_socket(&gateway.socket, path, sent, gateway.patience);
    gateway.answered(on_runtime(async { Ok(exchange.await) })?)
}

/// Asks the running gateway for what may take minutes, and shows that it does `what`.
pub(super) fn ask_patiently(
    with: &WithConfig,
    path: &str,
    patience: Duration,
    what: &'static str,
) -> anyhow::Result<Value> {
    let gateway = Running { patience, ..Running::of(with)? };
    let exchange = ask_socket_if(&gateway.socket, Method::GET, path, None, None, gateway.patience);
    let progress = Progress::begin(with.output);
    gateway.answered(on_runtime(async { Ok(progress.beside(|| (what, Reached::Unknown), exchange).await) })?)
}

/// Longest wait for what is done at once.
const PATIENCE: Duration = Duration::from_secs(60);
/// The same for what takes long to send.
const SENDING: Duration = Duration::from_secs(180);

/// The running gateway, behind its admin socket.
struct Running {
    socket: PathBuf,
    patience: Duration,
}

impl Running {
    fn of(with: &AdminSocket) -> anyhow::Result<Self> {
        Ok(Self { socket: with.path()?, patience: PATIENCE })
    }

    fn ask(&self, method: Method, path: &str, body: Option<Value>) -> anyhow::Result<Value> {
        self.ask_if(method, path, body, None)
    }

    fn ask_if(&self, method: Method, path: &str, body: Option<Value>, if_match: Option<&str>) -> anyhow::Result<Value> {
        let body = body.map(|body| body.to_string());
        let exchange = ask_socket_if(&self.socket, method, path, body, if_match, self.patience);
        self.answered(on_runtime(async { Ok(exchange.await) })?)
    }

    fn answered(&self, answer: Result<(StatusCode, Bytes), OutboundError>) -> anyhow::Result<Value> {
        let (status, answer) =
            answer.with_context(|| format!("cannot ask the gateway at {}: is it running?", self.socket.display()))?;
        let answer: Value = if answer.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&answer).context("the gateway's answer is not JSON")?
        };
        if !status.is_success() {
            return Err(Refused(answer).into());
        }
        Ok(answer)
    }
}

/// The path of a list with these filters in its query.
pub(super) fn filtered(path: &str, filters: &[(&str, Option<String>)]) -> anyhow::Result<String> {
    let mut path = path.to_owned();
    for (name, value) in filters {
        if let Some(value) = value {
            path.push(if path.contains('?') { '&' } else { '?' });
            path.push_str(&format!("{name}={}", segment(value)?));
        }
    }
    Ok(path)
}

/// A value as one segment of a path or one value of a query.
pub(super) fn segment(value: &str) -> anyhow::Result<String> {
    if value.is_empty() {
        bail!("a name is empty");
    }
    Ok(value.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
        out
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_asked_for_one_after_the_other() {
        assert_eq!(page("/a", 200, None), "/a?limit=200");
        assert_eq!(page("/a?b=c", 7, Some("next")), "/a?b=c&limit=7&cursor=next");
    }

    #[test]
    fn a_segment_is_escaped() {
        assert_eq!(segment("key:a b/ü").unwrap(), "key%3Aa%20b%2F%C3%BC");
        assert!(segment("").is_err());
    }

    #[test]
    fn filters_stand_in_the_query() {
        let some = |value: &str| Some(value.to_owned());
        assert_eq!(filtered("/api/v1/grants", &[("client", None), ("kind", None)]).unwrap(), "/api/v1/grants");
        let path = filtered("/a", &[("client", some("https://a/b?c")), ("kind", some("user"))]).unwrap();
        assert_eq!(path, "/a?client=https%3A%2F%2Fa%2Fb%3Fc&kind=user");
    }
}
