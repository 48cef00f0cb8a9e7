//! The MCP revisions, each a translator to and from the neutral request and answer.
//!
//! Two eras: *modern* revisions are stateless and say everything in each request (2026-07-28); *legacy* ones begin with
//! `initialize` and have sessions. What the legacy revisions share is in [`legacy`]; what sets one of them apart is in its
//! own file. Behind this module nobody asks which revision is spoken.
//!
//! Reading order: [`head`] takes a message's parameters apart, [`request`] says what may be asked, [`answer`] what is
//! answered, [`offer`] and [`about`] what we and the upstreams say of ourselves.

use std::borrow::Cow;
use std::fmt;

use http::HeaderMap;
use serde_json::value::RawValue;

use crate::mcp::call::Outcome;
use crate::mcp::error::{INVALID_PARAMS, RpcError};
use crate::mcp::json::{Members, quote, raw, to_raw};
use crate::mcp::message::{self, RequestId};
use crate::mcp::talk::{Ask, Notice, Question};

mod about;
mod answer;
mod head;
pub mod legacy;
mod offer;
mod request;
pub mod v2024_11_05;
pub mod v2025_03_26;
pub mod v2025_06_18;
pub mod v2025_11_25;
pub mod v2026_07_28;

pub use about::{About, Capabilities};
pub use answer::{Answer, Discovery, MISSING_UPSTREAMS, Page};
pub use head::Head;
pub use offer::{Offered, capabilities};
pub use request::{Asked, Filter, ListKind, MAX_WATCHED, Reference, Request};

/// Header that names the revision, since 2025-06-18.
pub const VERSION_HEADER: &str = "mcp-protocol-version";
/// Header that names the session, in legacy revisions.
pub const SESSION_HEADER: &str = "mcp-session-id";

/// The extension under which 2026-07-28 has tasks.
pub const TASKS_EXTENSION: &str = "io.modelcontextprotocol/tasks";
/// The extension that serves skills over resources (SEP-2640). We serve it to callers of 2026-07-28 only, and take it from
/// upstreams of any revision that declare it.
pub const SKILLS_EXTENSION: &str = "io.modelcontextprotocol/skills";

/// A revision that we speak with callers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Revision {
    V2026_07_28,
    V2025_11_25,
    V2025_06_18,
    V2025_03_26,
    V2024_11_05,
}

impl Revision {
    /// Newest first.
    pub const ALL: [Self; 5] =
        [Self::V2026_07_28, Self::V2025_11_25, Self::V2025_06_18, Self::V2025_03_26, Self::V2024_11_05];

    pub fn parse(version: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|revision| revision.as_str() == version)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::V2026_07_28 => v2026_07_28::VERSION,
            Self::V2025_11_25 => v2025_11_25::VERSION,
            Self::V2025_06_18 => v2025_06_18::VERSION,
            Self::V2025_03_26 => v2025_03_26::VERSION,
            Self::V2024_11_05 => v2024_11_05::VERSION,
        }
    }

    pub fn is_legacy(self) -> bool {
        self != Self::V2026_07_28
    }

    /// What sets it apart.
    pub fn traits(self) -> &'static Traits {
        match self {
            Self::V2026_07_28 => &v2026_07_28::TRAITS,
            Self::V2025_11_25 => &v2025_11_25::TRAITS,
            Self::V2025_06_18 => &v2025_06_18::TRAITS,
            Self::V2025_03_26 => &v2025_03_26::TRAITS,
            Self::V2024_11_05 => &v2024_11_05::TRAITS,
        }
    }

    /// Writes an answer as this revision's `result` or `error`: never [`Outcome::NeedsInput`].
    pub fn encode(self, answer: Answer) -> Outcome {
        if self.is_legacy() { legacy::encode(answer) } else { v2026_07_28::encode(answer) }
    }

    /// HTTP status of a response with this error, where the body is not a stream.
    pub fn error_status(self, error: &RawValue) -> u16 {
        if self.is_legacy() { 200 } else { v2026_07_28::error_status(error) }
    }

    /// Writes what an upstream says during a request, under the caller's own token, as JSON-RPC text; `None` if this
    /// revision has no such notification, or nobody asked for it. Whether a log message is wanted is decided by
    /// whoever passes it on; notices of a subscription of 2026-07-28 are written by [`v2026_07_28::listened`].
    pub fn encode_notice(self, notice: &Notice, progress_token: Option<&RawValue>) -> Option<String> {
        match notice {
            Notice::Progress(params) => {
                let token = progress_token?;
                let mut out = String::with_capacity(256);
                out.push_str(r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"#);
                push_member(&mut out, "progressToken", token.get());
                for (name, value) in params.iter().filter(|(name, _)| *name != "progressToken") {
                    push_member(&mut out, name, value.get());
                }
                out.push_str("}}");
                Some(out)
            }
            Notice::Log(params) => Some(message::notification("notifications/message", Some(&params.to_raw()))),
            Notice::ResourceUpdated(params) if self.is_legacy() => {
                let mut params = params.clone();
                forget_subscription(&mut params);
                Some(message::notification("notifications/resources/updated", Some(&params.to_raw())))
            }
            Notice::Other { method, params, .. } if (self.traits().passes)(method) => {
                Some(message::notification(method, params.as_deref()))
            }
            Notice::ResourceUpdated(_) | Notice::Other { .. } | Notice::Pause { .. } => None,
        }
    }

    /// Writes a question to a client of a legacy session as JSON-RPC text, under an id of ours. A URL that the user is to
    /// be sent to gets the id that 2025-11-25 asks for, if it comes from a revision that has none.
    pub fn encode_ask(self, id: &RequestId, ask: &Ask) -> String {
        let mut params = ask.params.as_deref().map(Cow::Borrowed);
        if ask.question == Question::ElicitationUrl {
            let members = ask.params.as_deref().and_then(|params| Members::parse(params.get()).ok());
            let mut members = members.unwrap_or_default();
            if members.get("elicitationId").is_none() {
                members.set("elicitationId", to_raw(&format!("portcullis-{}", id.as_json().trim_matches('"'))));
                params = Some(Cow::Owned(members.to_raw()));
            }
        }
        let params = params.unwrap_or_else(|| Cow::Owned(raw("{}".to_owned())));
        message::request(id, ask.question.method(), &params)
    }
}

/// Takes the id of an upstream's subscription out of a notification.
fn forget_subscription(params: &mut Members) {
    let Some(mut meta) = params.get("_meta").and_then(|meta| Members::parse(meta.get()).ok()) else { return };
    if meta.remove(v2026_07_28::META_SUBSCRIPTION).is_none() {
        return;
    }
    if meta.is_empty() {
        params.remove("_meta");
    } else {
        params.set("_meta", meta.to_raw());
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What sets a revision apart from the others of its era.
#[derive(Debug)]
pub struct Traits {
    /// Several messages may come in one JSON array.
    pub batches: bool,
    /// Requests name the revision in [`VERSION_HEADER`].
    pub version_header: bool,
    /// A stream begins with an empty event that has an id, so that it can be resumed from its beginning; the server
    /// may close it and be asked for the rest.
    pub primed_streams: bool,
    /// Servers declare that they complete arguments.
    pub completions: bool,
    /// A client can be asked to show its user a form.
    pub elicitation_form: bool,
    /// A client can be asked to send its user to a URL.
    pub elicitation_url: bool,
    /// Has tasks in the core protocol, as 2025-11-25 has.
    pub tasks: bool,
    /// Which notifications pass from an upstream to a caller, besides those that [`Notice`] has a variant for.
    pub passes: fn(method: &str) -> bool,
}

/// Why a request is refused before anyone looks at what it asks: the status and the error.
#[derive(Debug)]
pub struct Rejection {
    /// HTTP status.
    pub status: u16,
    pub error: RpcError,
}

impl Rejection {
    pub fn new(status: u16, code: i32, message: impl Into<String>) -> Self {
        Self { status, error: RpcError::new(code, message) }
    }

    fn bad_params(message: impl Into<String>) -> Self {
        Self::new(200, INVALID_PARAMS, message)
    }
}

/// Which family of revisions a message belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Era {
    Modern,
    Legacy,
}

/// Tells the era of a message. A message is modern if it carries the modern envelope in `_meta`, or comes with the modern
/// revision's headers; `initialize` without that envelope begins the legacy era whatever the headers say.
pub fn era(headers: &HeaderMap, method: &str, head: &Head<'_>) -> Era {
    if head.has_envelope() {
        return Era::Modern;
    }
    if method == "initialize" {
        return Era::Legacy;
    }
    let version = headers.get(VERSION_HEADER).map(http::HeaderValue::as_bytes);
    let is_modern = match version {
        Some(version) => version >= v2026_07_28::VERSION.as_bytes(),
        None => headers.contains_key(v2026_07_28::METHOD_HEADER) && !headers.contains_key(SESSION_HEADER),
    };
    if is_modern { Era::Modern } else { Era::Legacy }
}

/// How the gateway introduces itself, as JSON text.
const SERVER_INFO: &str =
    concat!(r#"{"name":"portcullis","title":"Portcullis","version":""#, env!("CARGO_PKG_VERSION"), r#""}"#);

/// Adds a member to an object that is still open. `value` is JSON text, or how it begins.
fn push_member(out: &mut String, name: &str, value: &str) {
    if !out.ends_with('{') {
        out.push(',');
    }
    if name.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\') {
        out.push('"');
        out.push_str(name);
        out.push('"');
    } else {
        out.push_str(&quote(name));
    }
    out.push(':');
    out.push_str(value);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::HeaderValue;
    use tokio::sync::oneshot;

    use super::*;
    use crate::ids::UpstreamName;

    #[test]
    fn revisions_are_parsed_and_ordered() {
        for revision in Revision::ALL {
            assert_eq!(Revision::parse(revision.as_str()), Some(revision));
            assert_eq!(revision.to_string(), revision.as_str());
        }
        assert!(Revision::ALL.is_sorted_by(|a, b| a.as_str() > b.as_str()));
        assert_eq!(Revision::parse("2025-11-24"), None);
        let of = |has: fn(&Traits) -> bool| -> Vec<&str> {
            Revision::ALL.into_iter().filter(|revision| has(revision.traits())).map(Revision::as_str).collect()
        };
        assert_eq!(of(|traits| traits.batches), ["2025-03-26"]);
        assert_eq!(of(|traits| traits.version_header), ["2026-07-28", "2025-11-25", "2025-06-18"]);
        assert_eq!(of(|traits| traits.primed_streams), ["2025-11-25"]);
        assert_eq!(of(|traits| traits.tasks), ["2025-11-25"]);
        assert_eq!(of(|traits| traits.elicitation_form), ["2026-07-28", "2025-11-25", "2025-06-18"]);
        assert_eq!(of(|traits| traits.elicitation_url), ["2026-07-28", "2025-11-25"]);
        assert_eq!(of(|traits| !traits.completions), ["2024-11-05"]);
    }

    #[test]
    fn the_era_is_told_by_envelope_then_method_then_headers() {
        let tell = |headers: &[(&'static str, &'static str)], method: &str, params: &str| {
            let headers = headers
                .iter()
                .map(|(name, value)| (http::HeaderName::from_static(name), HeaderValue::from_static(value)));
            let params = raw(params.to_owned());
            era(&headers.collect(), method, &Head::read(Some(&params)))
        };
        let envelope = r#"{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}"#;
        let modern = (VERSION_HEADER, "2026-07-28");
        let (method, session) = ((v2026_07_28::METHOD_HEADER, "tools/list"), (SESSION_HEADER, "s"));
        for (headers, name, params, expected) in [
            (&[][..], "tools/list", "{}", Era::Legacy),
            (&[], "tools/list", envelope, Era::Modern),
            (&[session], "initialize", envelope, Era::Modern),
            (&[modern, method], "initialize", "{}", Era::Legacy),
            (&[modern], "tools/list", "{}", Era::Modern),
            (&[(VERSION_HEADER, "v999")], "tools/list", "{}", Era::Modern),
            (&[(VERSION_HEADER, "2025-11-25"), method], "tools/list", "{}", Era::Legacy),
            (&[method], "tools/list", "{}", Era::Modern),
            (&[method, session], "tools/list", "{}", Era::Legacy),
        ] {
            assert_eq!(tell(headers, name, params), expected, "{headers:?} {name} {params}");
        }
    }

    #[test]
    fn notices_are_written_for_those_who_have_them() {
        let members = |text: &str| Members::parse(text).unwrap();
        let write = |notice: &Notice| {
            Revision::ALL.map(|revision| revision.encode_notice(notice, Some(&raw(r#""t""#.into())))).map(|text| {
                text.map(|text| text.replace(r#"{"jsonrpc":"2.0","method":"notifications/"#, "")).unwrap_or_default()
            })
        };
        let progress = Notice::Progress(members(r#"{"progress":0.5,"progressToken":7,"total":1}"#));
        let all = |text: &str| Revision::ALL.map(|_| text.to_owned());
        assert_eq!(write(&progress), all(r#"progress","params":{"progressToken":"t","progress":0.5,"total":1}}"#));
        assert_eq!(Revision::V2025_11_25.encode_notice(&progress, None), None, "without a token nobody asked for it");
        let log = Notice::Log(members(r#"{"level":"info","data":1.0}"#));
        assert_eq!(write(&log), all(r#"message","params":{"level":"info","data":1.0}}"#));
        let legacy = |text: &str| {
            Revision::ALL.map(|revision| if revision.is_legacy() { text.to_owned() } else { String::new() })
        };
        for (meta, kept) in [
            ("", ""),
            (r#","_meta":{"io.modelcontextprotocol/subscriptionId":1}"#, ""),
            (r#","_meta":{"io.modelcontextprotocol/subscriptionId":1,"x":2}"#, r#","_meta":{"x":2}"#),
            (r#","_meta":{"x":2}"#, r#","_meta":{"x":2}"#),
        ] {
            let updated = Notice::ResourceUpdated(members(&format!(r#"{{"uri":"a:b"{meta}}}"#)));
            assert_eq!(write(&updated), legacy(&format!(r#"resources/updated","params":{{"uri":"a:b"{kept}}}}}"#)));
        }
        let newest = |text: &str| {
            let is_newest = |revision| revision == Revision::V2025_11_25;
            Revision::ALL.map(|revision| if is_newest(revision) { text.to_owned() } else { String::new() })
        };
        let upstream = UpstreamName::parse("up").unwrap();
        let params = || Some(raw(r#"{"a":1}"#.into()));
        let other =
            |method: &str| Notice::Other { upstream: upstream.clone(), method: method.into(), params: params() };
        assert_eq!(
            write(&other("notifications/elicitation/complete")),
            newest(r#"elicitation/complete","params":{"a":1}}"#)
        );
        assert_eq!(write(&other("notifications/tasks/status")), newest(r#"tasks/status","params":{"a":1}}"#));
        for nobodys in ["notifications/tools/list_changed", "notifications/cancelled", "notifications/x"] {
            assert_eq!(write(&other(nobodys)), all(""), "{nobodys}");
        }
        assert_eq!(write(&Notice::Pause { retry: Duration::from_secs(1) }), all(""));
    }

    #[test]
    fn questions_are_written_with_what_the_revision_needs() {
        let write = |question, params: Option<&str>| {
            let (reply, _) = oneshot::channel();
            let upstream = UpstreamName::parse("up").unwrap();
            let ask =
                Ask { upstream, question, params: params.map(|params| raw(params.into())), is_admitted: false, reply };
            let id = RequestId::number(3);
            Revision::V2025_11_25.encode_ask(&id, &ask).replace(r#"{"jsonrpc":"2.0","id":3,"method":"#, "")
        };
        assert_eq!(write(Question::Roots, None), r#""roots/list","params":{}}"#);
        assert_eq!(
            write(Question::ElicitationForm, Some(r#"{"message":"m"}"#)),
            r#""elicitation/create","params":{"message":"m"}}"#
        );
        assert_eq!(
            write(Question::ElicitationUrl, Some(r#"{"mode":"url","elicitationId":"e"}"#)),
            r#""elicitation/create","params":{"mode":"url","elicitationId":"e"}}"#
        );
        assert_eq!(
            write(Question::ElicitationUrl, Some(r#"{"mode":"url"}"#)),
            r#""elicitation/create","params":{"mode":"url","elicitationId":"portcullis-3"}}"#
        );
    }
}
