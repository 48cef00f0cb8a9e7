//! JSON-RPC errors as the gateway itself makes them.
//!
//! Codes −32000…−32019 are not used: revision 2026-07-28 retired them (§ error codes), and it keeps −32020…−32022 for
//! the transport. Codes of our own lie outside the range that JSON-RPC 2.0 §5.1 reserves.

use serde_json::value::RawValue;

use crate::mcp::json::{ObjectWriter, quote};

pub const PARSE_ERROR: i32 = -32700;
pub const INVALID_REQUEST: i32 = -32600;
pub const METHOD_NOT_FOUND: i32 = -32601;
pub const INVALID_PARAMS: i32 = -32602;
pub const INTERNAL_ERROR: i32 = -32603;
/// 2025-03-26 to 2025-11-25: there is no such resource.
pub const RESOURCE_NOT_FOUND: i32 = -32002;
/// 2025-11-25: the user has to open a URL first.
pub const URL_ELICITATION_REQUIRED: i32 = -32042;
/// 2026-07-28: a header is missing, malformed, or says something else than the body.
pub const HEADER_MISMATCH: i32 = -32020;
/// 2026-07-28: the client did not declare what the request needs.
pub const MISSING_CAPABILITY: i32 = -32021;
/// 2026-07-28: the protocol version is not supported.
pub const UNSUPPORTED_VERSION: i32 = -32022;
/// Ours: a policy refused, and asked for a protocol error rather than a tool result.
pub const REFUSED_BY_POLICY: i32 = -31403;
/// Ours: too many calls at once, or a policy throttles.
pub const THROTTLED: i32 = -31429;
/// Ours: the upstream wanted to know something that the client did not answer.
pub const UNANSWERED: i32 = -31428;
/// Ours: the upstream is down, too slow, or does not speak MCP.
pub const UPSTREAM_FAILED: i32 = -31502;

/// A JSON-RPC error object of our own making.
#[derive(Debug)]
pub struct RpcError {
    pub code: i32,
    pub message: String,
    pub data: Option<Box<RawValue>>,
}

impl RpcError {
    pub fn new(code: i32, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), data: None }
    }

    #[must_use]
    pub fn with_data(mut self, data: Box<RawValue>) -> Self {
        self.data = Some(data);
        self
    }

    /// The `error` object.
    pub fn to_raw(&self) -> Box<RawValue> {
        let mut object = ObjectWriter::default();
        object.member("code", &self.code.to_string()).member("message", &quote(&self.message));
        if let Some(data) = &self.data {
            object.member("data", data.get());
        }
        object.finish()
    }
}
