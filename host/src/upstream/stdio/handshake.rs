//! What a child that was just started is: it is asked `server/discover`, and `initialize` if it does not know that
//! (2026-07-28, stdio § backward compatibility).
//!
//! Servers without sessions answer the first with what they are, or with an error that only they know. All others have
//! sessions, whether they answer with another error, with something else, or not at all; a few end at a request that is
//! not `initialize`, and are spared it when they are started again. What a program was is remembered for its next start,
//! and found out anew where that turns out to be wrong.

use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::Ids;
use super::child::Child;
use crate::mcp::message::{self, Message, RequestId};
use crate::mcp::revision::{About, Era, Revision, legacy, v2026_07_28};
use crate::mcp::talk::Party;

/// Longest wait for the answer to `server/discover`, unless the program is known to give one.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a child cannot be used.
#[derive(Debug)]
pub(super) struct NotMet {
    pub(super) reason: String,
    /// What the program is to be taken for at its next start.
    pub(super) assumed: Option<Era>,
}

impl NotMet {
    fn because(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), assumed: None }
    }
}

/// Asks a child what it is, for at most `patience`; `known` is what the program was when it ran before.
pub(super) async fn meet(
    child: &mut Child,
    ids: &Ids,
    known: Option<Era>,
    patience: Duration,
) -> Result<About, NotMet> {
    let now = Instant::now();
    let mut handshake = Handshake { child, ids, patience, deadline: now + patience, probe: None, late: None };
    if known == Some(Era::Legacy) {
        return match handshake.initialize().await {
            Err(Refused::Answered(reason)) => {
                let discovered = handshake.discover(handshake.deadline).await?;
                discovered.ok_or_else(|| NotMet::because(reason))
            }
            initialized => initialized.map_err(NotMet::from),
        };
    }
    let until = match known {
        Some(_) => handshake.deadline,
        // What is silent has to be asked the other question within the same time.
        None => now + PROBE_TIMEOUT.min(patience / 2),
    };
    match handshake.discover(until).await? {
        Some(about) => Ok(about),
        None => handshake.initialize().await.map_err(NotMet::from),
    }
}

/// Why `initialize` came to nothing.
enum Refused {
    /// The child answered, and not with a revision that we speak.
    Answered(String),
    Unanswered(String),
}

impl From<Refused> for NotMet {
    fn from(refused: Refused) -> Self {
        let (Refused::Answered(reason) | Refused::Unanswered(reason)) = refused;
        Self::because(reason)
    }
}

struct Handshake<'a> {
    child: &'a mut Child,
    ids: &'a Ids,
    patience: Duration,
    deadline: Instant,
    /// The request that asked `server/discover`.
    probe: Option<RequestId>,
    /// What it answered to that after its time was up.
    late: Option<About>,
}

/// What the child says.
enum Heard {
    Result { id: RequestId, result: Box<RawValue> },
    Error { id: Option<RequestId>, error: Box<RawValue> },
    Request { id: RequestId, method: String },
    Silence,
    End(String),
}

impl Handshake<'_> {
    /// Asks `server/discover`: what the child is, or `None` if it knows no such thing.
    async fn discover(&mut self, until: Instant) -> Result<Option<About>, NotMet> {
        let id = self.ids.next();
        self.child.input.write_aside(message::request(&id, v2026_07_28::DISCOVER, &v2026_07_28::probe()));
        self.probe = Some(id.clone());
        loop {
            match self.hear(until).await {
                Heard::Result { id: answered, result } if answered == id => {
                    return Ok(v2026_07_28::read_about(&result));
                }
                Heard::Error { id: answered, error } if answered.as_ref().is_none_or(|answered| *answered == id) => {
                    return match why_not(&error) {
                        Some(reason) => Err(NotMet::because(reason)),
                        None => Ok(None),
                    };
                }
                // A server without sessions writes none, and before `initialize` one with sessions should not.
                Heard::Result { .. } | Heard::Error { .. } | Heard::Request { .. } => {}
                Heard::Silence => return Ok(None),
                Heard::End(reason) => {
                    let reason = format!("{reason} at `server/discover`; next it is sent `initialize` instead");
                    return Err(NotMet { reason, assumed: Some(Era::Legacy) });
                }
            }
        }
    }

    /// Begins the session that servers of the other era have (2025-11-25, lifecycle § initialization).
    async fn initialize(&mut self) -> Result<About, Refused> {
        let id = self.ids.next();
        let params = legacy::initialize_params(&Party::gateway());
        self.child.input.write_aside(message::request(&id, "initialize", &params));
        loop {
            match self.hear(self.deadline).await {
                Heard::Result { id: answered, result } if answered == id => {
                    let about = legacy::read_about(&result)
                        .ok_or_else(|| Refused::Answered("`initialize` chose no revision that we speak".to_owned()))?;
                    self.child.input.write_aside(message::notification("notifications/initialized", None));
                    return Ok(about);
                }
                // It was slow to start. It may still have sessions as well, which it will say next.
                Heard::Result { id, result } if self.probe.as_ref() == Some(&id) => {
                    self.late = v2026_07_28::read_about(&result);
                }
                Heard::Error { id: Some(id), .. } if self.probe.as_ref() == Some(&id) => {}
                Heard::Error { error, .. } => {
                    let reason = format!("`initialize` was answered with error {}", code(&error));
                    return self.late.take().ok_or(Refused::Answered(reason));
                }
                Heard::Request { id, method } => {
                    self.child.input.write_aside(super::keeper::answer_to_child(&id, &method));
                }
                Heard::Result { .. } => {}
                Heard::Silence => {
                    let reason = format!("no answer to `initialize` within {} s", self.patience.as_secs_f32());
                    return self.late.take().ok_or(Refused::Unanswered(reason));
                }
                Heard::End(reason) => {
                    return Err(Refused::Unanswered(format!("{reason} before it answered `initialize`")));
                }
            }
        }
    }

    async fn hear(&mut self, until: Instant) -> Heard {
        loop {
            let line = match tokio::time::timeout_at(until, self.child.next_line()).await {
                Ok(Ok(line)) => line,
                Ok(Err(reason)) => return Heard::End(reason),
                Err(_) => return Heard::Silence,
            };
            match Message::from_upstream(&line) {
                Ok(Message::Result { id, result }) => return Heard::Result { id, result: result.to_owned() },
                Ok(Message::Error { id, error }) => return Heard::Error { id, error: error.to_owned() },
                Ok(Message::Request { id, method, .. }) => {
                    return Heard::Request { id, method: method.into_owned() };
                }
                Ok(Message::Notification { .. }) => {}
                Err(error) => tracing::debug!(%error, "a line on standard output is not a JSON-RPC message"),
            }
        }
    }
}

/// Why there is nothing to be done with a server that answers `server/discover` with this error; `None` if it may have
/// sessions.
fn why_not(error: &RawValue) -> Option<String> {
    let code = code(error);
    if !v2026_07_28::is_modern_error(code) {
        return None;
    }
    let Some(supported) = v2026_07_28::supported(error) else {
        return Some(format!("`server/discover` was answered with error {code}"));
    };
    let has_sessions = supported.iter().any(|version| Revision::parse(version).is_some_and(Revision::is_legacy));
    (!has_sessions).then(|| "it speaks no revision that we speak".to_owned())
}

fn code(error: &RawValue) -> i64 {
    #[derive(Deserialize)]
    struct Error {
        code: i64,
    }
    serde_json::from_str(error.get()).map_or(0, |Error { code }| code)
}
