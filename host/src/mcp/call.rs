//! The neutral call and its outcome: what every MCP revision is translated to and from.
//!
//! Nobody behind `mcp::revision` asks which revision a caller or an upstream speaks. Parameters and results stay
//! the JSON text that arrived; only what somebody has to read is parsed.

use std::sync::Arc;

use serde_json::value::RawValue;

use crate::mcp::json::Members;
use crate::upstream::catalog::Tool;

/// One `tools/call`, resolved to one tool of one upstream.
#[derive(Debug)]
pub struct Call {
    pub tool: Arc<Tool>,
    /// The request's `params` without `name`, `arguments` and `_meta`, in the order they came.
    pub extra: Members,
    /// The `arguments` member as it came; absent is not the same as `{}` to every server.
    pub arguments: Option<Box<RawValue>>,
    /// The members of `_meta`, without the keys that belong to the revision's own envelope.
    pub meta: Members,
    /// Whether the caller asked for progress notifications.
    pub wants_progress: bool,
}

/// What came of a call.
#[derive(Debug)]
pub enum Outcome {
    /// The JSON-RPC `result`, as the upstream wrote it.
    Result(Box<RawValue>),
    /// The JSON-RPC `error` object, as the upstream wrote it.
    Error(Box<RawValue>),
}

/// What an upstream says while a call is under way.
#[derive(Debug)]
pub enum Notice {
    /// Members of `notifications/progress`, under our own token.
    Progress(Members),
    /// Members of `notifications/message`.
    Log(Members),
}
