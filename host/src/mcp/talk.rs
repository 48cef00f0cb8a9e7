//! What passes between a caller and an upstream besides requests and their results: notices, and questions that an
//! upstream has for a client.

use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::connection::extra::Extra;
use crate::connection::lending::Lent;
use crate::ids::{Principal, UpstreamName};
use crate::mcp::call::Outcome;
use crate::mcp::client::Client;
use crate::mcp::json::Members;
use crate::telemetry::Trace;

/// Something an upstream says, during a request or outside of any.
#[derive(Debug)]
pub enum Event {
    Notice(Notice),
    Ask(Ask),
}

/// Something an upstream tells.
#[derive(Debug)]
pub enum Notice {
    /// Members of `notifications/progress`, under our own token.
    Progress(Members),
    /// Members of `notifications/message`.
    Log(Members),
    /// Members of `notifications/resources/updated`; `uri` in it is the upstream's own.
    ResourceUpdated(Members),
    /// Another notification that belongs to the caller, such as `notifications/elicitation/complete` or a task's status.
    Other { upstream: UpstreamName, method: String, params: Option<Box<RawValue>> },
    /// The upstream closed the stream on purpose and asked to come back for the rest after a while (2025-11-25,
    /// transports § polling): a caller that can do the same may be let go for that long.
    Pause { retry: Duration },
}

/// Something an upstream asks of the caller's client; it waits for the reply.
#[derive(Debug)]
pub struct Ask {
    pub upstream: UpstreamName,
    pub question: Question,
    /// JSON object, as the upstream wrote it.
    pub params: Option<Box<RawValue>>,
    /// It was let through before, as a part of an upstream's answer.
    pub is_admitted: bool,
    /// Takes the client's result or error. Dropping it unanswered tells the upstream that nobody will answer.
    pub reply: oneshot::Sender<Outcome>,
}

/// What can be asked of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    Sampling,
    ElicitationForm,
    ElicitationUrl,
    Roots,
}

impl Question {
    /// Tells what a request from an upstream asks; `None` if it is nothing for a client, or cannot be read.
    pub fn of(method: &str, params: Option<&RawValue>) -> Option<Self> {
        #[derive(Default, serde::Deserialize)]
        struct Mode {
            #[serde(default)]
            mode: Option<String>,
        }
        match method {
            "sampling/createMessage" => Some(Self::Sampling),
            "roots/list" => Some(Self::Roots),
            "elicitation/create" => {
                let params = params.map_or("{}", RawValue::get);
                // Whoever reads it after us must read the same mode: an object, and `mode` once.
                let Mode { mode } = Some(params)
                    .filter(|params| params.starts_with('{'))
                    .and_then(|params| serde_json::from_str(params).ok())?;
                Some(if mode.as_deref() == Some("url") { Self::ElicitationUrl } else { Self::ElicitationForm })
            }
            _ => None,
        }
    }

    /// The protocol's method.
    pub fn method(self) -> &'static str {
        match self {
            Self::Sampling => "sampling/createMessage",
            Self::ElicitationForm | Self::ElicitationUrl => "elicitation/create",
            Self::Roots => "roots/list",
        }
    }
}

/// On whose behalf something is asked of an upstream.
#[derive(Clone, Debug)]
pub struct Party {
    pub principal: Principal,
    /// The caller's session with us, in revisions that have sessions: it has upstream sessions of its own.
    pub session: Option<Arc<str>>,
    pub client: Arc<Client>,
    /// The least severe log messages that the caller wants, as the protocol names the level.
    pub log_level: Option<LogLevel>,
    /// Takes what upstreams say to this caller outside of any request; `None` while nobody listens.
    pub standing: Option<mpsc::Sender<Event>>,
    /// What the upstream that is asked is shown for it, if it is shown anything.
    pub lent: Option<Arc<Lent>>,
    /// What its request says in headers that upstreams let through, each of them its own.
    pub extra: Extra,
    /// Where its request stands in a trace, if it is in one.
    pub trace: Option<Trace>,
}

impl Party {
    /// The gateway itself, which reads lists.
    pub fn gateway() -> Self {
        Self {
            principal: Principal::Gateway,
            session: None,
            client: Arc::new(Client::gateway()),
            log_level: None,
            standing: None,
            lent: None,
            extra: Extra::default(),
            trace: None,
        }
    }
}

/// The way back to a caller while a request of its is under way.
#[derive(Clone, Debug)]
pub struct Via {
    pub party: Party,
    pub events: mpsc::Sender<Event>,
    /// Fires when the caller takes the request back.
    pub cancelled: CancellationToken,
}

/// Severity of a log message (RFC 5424 §6.2.1), least severe first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    Debug,
    Info,
    Notice,
    Warning,
    Error,
    Critical,
    Alert,
    Emergency,
}

impl LogLevel {
    const ALL: [Self; 8] = [
        Self::Debug,
        Self::Info,
        Self::Notice,
        Self::Warning,
        Self::Error,
        Self::Critical,
        Self::Alert,
        Self::Emergency,
    ];

    pub fn parse(level: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.as_str() == level)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Notice => "notice",
            Self::Warning => "warning",
            Self::Error => "error",
            Self::Critical => "critical",
            Self::Alert => "alert",
            Self::Emergency => "emergency",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mcp::json::raw;

    #[test]
    fn a_question_is_told_by_method_and_mode() {
        let of = |method: &str, params: &str| Question::of(method, Some(&raw(params.to_owned())));
        assert_eq!(of("elicitation/create", "{}"), Some(Question::ElicitationForm));
        assert_eq!(of("elicitation/create", r#"{"mode":"form"}"#), Some(Question::ElicitationForm));
        assert_eq!(of("elicitation/create", r#"{"x":1,"mode":"url"}"#), Some(Question::ElicitationUrl));
        assert_eq!(of("elicitation/create", r#"{"mode":"form","mode":"url"}"#), None);
        assert_eq!(of("elicitation/create", r#"["url"]"#), None);
        assert_eq!(of("sampling/createMessage", "{}"), Some(Question::Sampling));
        assert_eq!(Question::of("roots/list", None), Some(Question::Roots));
        assert_eq!(of("tools/list", "{}"), None);
    }

    #[test]
    fn levels_are_in_order() {
        assert!(LogLevel::Debug < LogLevel::Warning && LogLevel::Alert < LogLevel::Emergency);
        assert!(
            LogLevel::ALL.is_sorted()
                && LogLevel::ALL.iter().all(|level| LogLevel::parse(level.as_str()) == Some(*level))
        );
        assert_eq!(LogLevel::parse("Debug"), None);
    }
}
