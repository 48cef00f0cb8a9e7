//! The MCP revisions, each a translator to and from the neutral request and answer.
//!
//! Two eras: *modern* revisions are stateless and say everything in each request (2026-07-28); *legacy* ones begin with
//! `initialize` and have sessions. What the legacy revisions share is in [`legacy`]; what sets one of them apart is in its
//! own file. Behind this module nobody asks which revision is spoken.

use std::fmt;

use http::HeaderMap;
use serde_json::value::RawValue;

use crate::mcp::call::{Notice, Outcome};
use crate::mcp::error::{INVALID_PARAMS, RpcError};
use crate::mcp::json::{Members, raw, to_raw};
use crate::mcp::message::{self, RequestId};

pub mod legacy;
pub mod v2025_06_18;
pub mod v2025_11_25;
pub mod v2026_07_28;

/// Header that names the revision, since 2025-06-18.
pub const VERSION_HEADER: &str = "mcp-protocol-version";
/// Header that names the session, in legacy revisions.
pub const SESSION_HEADER: &str = "mcp-session-id";

/// A revision that we speak with callers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Revision {
    V2026_07_28,
    V2025_11_25,
    V2025_06_18,
}

impl Revision {
    /// Newest first.
    pub const ALL: [Self; 3] = [Self::V2026_07_28, Self::V2025_11_25, Self::V2025_06_18];

    pub fn parse(version: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|revision| revision.as_str() == version)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::V2026_07_28 => v2026_07_28::VERSION,
            Self::V2025_11_25 => v2025_11_25::VERSION,
            Self::V2025_06_18 => v2025_06_18::VERSION,
        }
    }

    pub fn is_legacy(self) -> bool {
        self != Self::V2026_07_28
    }

    /// Writes what an upstream says during a call, under the caller's own token; `None` if this revision's callers
    /// did not ask for it.
    pub fn encode_notice(self, notice: Notice, progress_token: Option<&RawValue>) -> Option<String> {
        match notice {
            Notice::Progress(mut params) => {
                params.set("progressToken", progress_token?.to_owned());
                Some(message::notification("notifications/progress", Some(&params.to_raw())))
            }
            Notice::Log(params) if self.is_legacy() => {
                Some(message::notification("notifications/message", Some(&params.to_raw())))
            }
            Notice::Log(_) => None,
        }
    }

    /// Writes an answer as this revision's `result` or `error`.
    pub fn encode(self, answer: Answer) -> Outcome {
        match self {
            Self::V2026_07_28 => v2026_07_28::encode(answer),
            Self::V2025_11_25 | Self::V2025_06_18 => legacy::encode(answer),
        }
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a caller asks, whatever the revision.
#[derive(Debug)]
pub enum Request {
    Ping,
    /// What the gateway is and can (`server/discover`).
    Discover,
    ListTools {
        cursor: Option<String>,
    },
    CallTool(CallTool),
}

impl Request {
    /// The protocol's name for it.
    pub fn method(&self) -> &'static str {
        match self {
            Self::Ping => "ping",
            Self::Discover => "server/discover",
            Self::ListTools { .. } => "tools/list",
            Self::CallTool(_) => "tools/call",
        }
    }
}

/// A `tools/call` before its tool is looked up.
#[derive(Debug)]
pub struct CallTool {
    /// The name that the caller sees.
    pub name: String,
    pub arguments: Option<Box<RawValue>>,
    /// The other members of `params`.
    pub extra: Members,
    /// `_meta` without the members that belong to the revision.
    pub meta: Members,
    /// The caller's own token for progress notifications, as it came.
    pub progress_token: Option<Box<RawValue>>,
}

/// What the gateway answers, whatever the revision.
#[derive(Debug)]
pub enum Answer {
    Pong,
    Discovery,
    Tools(ToolsPage),
    Called(Outcome),
}

/// One page of `tools/list`: definitions under their exposed names, and how to go on.
#[derive(Debug)]
pub struct ToolsPage {
    pub tools: Vec<Box<RawValue>>,
    pub next_cursor: Option<String>,
    /// Upstreams whose tools are not known at the moment.
    pub missing: Vec<String>,
}

/// Key in a result's `_meta` under which a list names the upstreams it lacks.
pub const MISSING_UPSTREAMS: &str = "portcullis/missingUpstreams";

impl ToolsPage {
    /// The members that every revision has.
    fn members(&self) -> (String, Option<Box<RawValue>>) {
        let tools: Vec<&str> = self.tools.iter().map(|tool| tool.get()).collect();
        let missing = (!self.missing.is_empty()).then(|| to_raw(&self.missing));
        (format!("[{}]", tools.join(",")), missing)
    }
}

/// Why a request is refused before anyone looks at what it asks: the status, the error, and whose answer it is.
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
pub fn era(headers: &HeaderMap, method: &str, params: Option<&RawValue>) -> Era {
    if v2026_07_28::has_envelope(params) {
        return Era::Modern;
    }
    if method == "initialize" {
        return Era::Legacy;
    }
    let version = headers.get(VERSION_HEADER).and_then(|version| version.to_str().ok());
    let is_modern = match version {
        Some(version) => version >= v2026_07_28::VERSION,
        None => headers.contains_key(v2026_07_28::METHOD_HEADER) && !headers.contains_key(SESSION_HEADER),
    };
    if is_modern { Era::Modern } else { Era::Legacy }
}

/// Reads `params` of `tools/list`, the same in all revisions.
fn read_list_tools(params: Option<&RawValue>) -> Result<Request, Rejection> {
    let members = read_members(params)?;
    let cursor = match members.get("cursor") {
        None => None,
        Some(cursor) => Some(read_string(cursor).ok_or_else(|| Rejection::bad_params("`cursor` must be a string"))?),
    };
    Ok(Request::ListTools { cursor })
}

/// Reads `params` of `tools/call`, the same in all revisions but for what `_meta` holds.
fn read_call_tool(params: Option<&RawValue>, is_envelope: impl Fn(&str) -> bool) -> Result<Request, Rejection> {
    let mut extra = read_members(params)?;
    let name = extra.remove("name").and_then(|name| read_string(&name));
    let name = name.ok_or_else(|| Rejection::bad_params("`name` must be a string"))?;
    let arguments = extra.remove("arguments");
    if arguments.as_ref().is_some_and(|arguments| !arguments.get().starts_with('{')) {
        return Err(Rejection::bad_params("`arguments` must be an object"));
    }
    let mut meta = match extra.remove("_meta") {
        Some(meta) => Members::parse(meta.get()).map_err(|_| Rejection::bad_params("`_meta` must be an object"))?,
        None => Members::default(),
    };
    let progress_token = meta.remove("progressToken");
    if progress_token.as_ref().is_some_and(|token| RequestId::parse(token).is_none()) {
        return Err(Rejection::bad_params("`progressToken` must be a string or an integer"));
    }
    meta.retain(|name| !is_envelope(name));
    Ok(Request::CallTool(CallTool { name, arguments, extra, meta, progress_token }))
}

fn read_members(params: Option<&RawValue>) -> Result<Members, Rejection> {
    let text = params.map_or("{}", RawValue::get);
    Members::parse(text).map_err(|_| Rejection::bad_params("`params` must be an object"))
}

fn read_string(raw: &RawValue) -> Option<String> {
    serde_json::from_str(raw.get()).ok()
}

/// How the gateway introduces itself.
fn server_info() -> Box<RawValue> {
    raw(format!(r#"{{"name":"portcullis","title":"Portcullis","version":"{}"}}"#, env!("CARGO_PKG_VERSION")))
}
