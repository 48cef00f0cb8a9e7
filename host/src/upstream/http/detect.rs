//! Finds out what an upstream speaks: asks it for `server/discover`, and takes it for a legacy one unless the answer is
//! that of a modern one (2026-07-28, transports/streamable-http § backward compatibility).

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::modern;
use super::peer::{self, Peer};
use super::stream::{self, Messages};
use crate::connection::lending::Lent;
use crate::mcp::message::{self, Message, RequestId};
use crate::mcp::revision::{About, Revision, v2026_07_28};
use crate::upstream::{UpstreamError, credential};

/// Longest wait for the answer to the probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for the rest of an answer whose head says that all is well. A server that then stays silent does not know
/// what it was asked.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// How an upstream is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    /// One POST per request, without sessions.
    Modern,
    /// Streamable HTTP with `initialize` and sessions.
    Legacy,
    /// HTTP with server-sent events, as 2024-11-05 has it.
    Sse,
}

/// What was found out.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) dialect: Dialect,
    /// What a modern upstream says of itself, unless it would not.
    pub(super) about: Option<Arc<About>>,
    pub(super) at: Instant,
}

impl Found {
    pub(super) fn now(dialect: Dialect) -> Self {
        Self { dialect, about: None, at: Instant::now() }
    }
}

/// What the answer to a probe says.
#[derive(Debug)]
enum Verdict {
    Modern(Option<About>),
    /// Modern, and to be asked again.
    Again,
    Legacy,
}

/// What came back: a result, an error, or nothing that the protocol knows.
#[derive(Clone, Copy, Debug)]
enum Said<'a> {
    Result(&'a RawValue),
    Error(&'a RawValue),
    Nothing,
}

/// Asks the upstream, and shows it this.
///
/// # Errors
/// What decides nothing: it was not reached, it wants credentials, it is overloaded or broken.
pub(super) async fn probe(peer: &Peer, lent: Option<&Lent>) -> Result<Found, UpstreamError> {
    let asking = async {
        let mut tries = 0;
        loop {
            tries += 1;
            match ask(peer, lent).await? {
                Verdict::Modern(about) => {
                    return Ok(Found { about: about.map(Arc::new), ..Found::now(Dialect::Modern) });
                }
                Verdict::Legacy => return Ok(Found::now(Dialect::Legacy)),
                Verdict::Again if tries < 2 => {}
                Verdict::Again => {
                    return Err(UpstreamError::Protocol { what: "it refuses a revision that it says it supports" });
                }
            }
        }
    };
    let timed = tokio::time::timeout(PROBE_TIMEOUT, asking).await;
    timed.unwrap_or(Err(UpstreamError::TimedOut { after: PROBE_TIMEOUT }))
}

async fn ask(peer: &Peer, lent: Option<&Lent>) -> Result<Verdict, UpstreamError> {
    let id = peer.fresh_id();
    let body = message::request(&id, v2026_07_28::DISCOVER, &v2026_07_28::probe());
    let mut request = peer.post(&peer.endpoint, body);
    peer::show(&mut request, lent);
    modern::set_headers(&mut request, v2026_07_28::DISCOVER, None, &[]);
    let response = peer.send(request).await?;
    let status = response.status();
    if decides_nothing(status) {
        return Err(credential::refused(status, response.headers(), lent));
    }
    if !status.is_success() {
        let refusal = stream::read_refusal(response).await;
        return judge(refusal.as_ref().map_or(Said::Nothing, |refusal| Said::Error(&refusal.error)));
    }
    let Ok(messages) = Messages::of(response, peer.limits.message_bytes) else { return judge(Said::Nothing) };
    let reading = tokio::time::timeout(READ_TIMEOUT, read(messages, &id));
    reading.await.unwrap_or_else(|_| judge(Said::Nothing))
}

async fn read(mut messages: Messages, id: &RequestId) -> Result<Verdict, UpstreamError> {
    while let Some(text) = messages.next().await? {
        let Ok(parts) = stream::parts(&text) else { break };
        for part in &parts {
            match part {
                Message::Result { id: of, result } if of == id => return judge(Said::Result(result)),
                Message::Error { id: of, error } if is_for(of.as_ref(), id) => return judge(Said::Error(error)),
                _ => {}
            }
        }
    }
    judge(Said::Nothing)
}

fn is_for(of: Option<&RequestId>, id: &RequestId) -> bool {
    of.is_none_or(|of| of == id)
}

/// Statuses that say nothing of the protocol.
pub(super) fn decides_nothing(status: StatusCode) -> bool {
    matches!(status.as_u16(), 401 | 403 | 407 | 408 | 429) || status.is_server_error()
}

fn judge(said: Said<'_>) -> Result<Verdict, UpstreamError> {
    let error = match said {
        // A result that is no discovery is that of a server which answers just anything.
        Said::Result(result) => {
            return Ok(v2026_07_28::read_about(result).map_or(Verdict::Legacy, |about| Verdict::Modern(Some(about))));
        }
        Said::Nothing => return Ok(Verdict::Legacy),
        Said::Error(error) => error,
    };
    if !stream::code_of(error).is_some_and(v2026_07_28::is_modern_error) {
        return Ok(Verdict::Legacy);
    }
    match v2026_07_28::supported(error) {
        None => Ok(Verdict::Modern(None)),
        Some(supported) if supported.iter().any(|version| version == v2026_07_28::VERSION) => Ok(Verdict::Again),
        Some(supported) if supported.iter().any(|version| is_legacy(version)) => Ok(Verdict::Legacy),
        Some(_) => Err(UpstreamError::Protocol { what: "it supports no revision that we speak" }),
    }
}

fn is_legacy(version: &str) -> bool {
    Revision::parse(version).is_some_and(Revision::is_legacy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mcp::json::raw;

    #[test]
    fn answers_to_the_probe_are_judged() {
        let judged = |said: Said<'_>| match judge(said) {
            Ok(Verdict::Modern(Some(_))) => "modern",
            Ok(Verdict::Modern(None)) => "modern, unknown",
            Ok(Verdict::Again) => "again",
            Ok(Verdict::Legacy) => "legacy",
            Err(_) => "error",
        };
        for (result, expected) in [
            (r#"{"supportedVersions":["2026-07-28"],"capabilities":{}}"#, "modern"),
            (r#"{"supportedVersions":["2025-11-25"],"capabilities":{}}"#, "legacy"),
            ("{}", "legacy"),
        ] {
            assert_eq!(judged(Said::Result(&raw(result.into()))), expected, "{result}");
        }
        for (error, expected) in [
            (r#"{"code":-32601,"message":""}"#, "legacy"),
            (r#"{"code":-32000,"message":"no session"}"#, "legacy"),
            (r#"{"code":-32020,"message":""}"#, "modern, unknown"),
            (r#"{"code":-32021,"message":""}"#, "modern, unknown"),
            (r#"{"code":-32022,"message":"","data":{"supported":["2026-07-28"]}}"#, "again"),
            (r#"{"code":-32022,"message":"","data":{"supported":["2030-01-01","2025-06-18"]}}"#, "legacy"),
            (r#"{"code":-32022,"message":"","data":{"supported":["2030-01-01"]}}"#, "error"),
            (r#"{"message":""}"#, "legacy"),
        ] {
            assert_eq!(judged(Said::Error(&raw(error.into()))), expected, "{error}");
        }
        assert_eq!(judged(Said::Nothing), "legacy");
    }

    #[test]
    fn some_statuses_decide_nothing() {
        let decided = |status: u16| !decides_nothing(StatusCode::from_u16(status).unwrap());
        for status in [401, 403, 407, 408, 429, 500, 502, 503] {
            assert!(!decided(status), "{status}");
        }
        for status in [400, 404, 405, 406, 415, 200] {
            assert!(decided(status), "{status}");
        }
    }
}
