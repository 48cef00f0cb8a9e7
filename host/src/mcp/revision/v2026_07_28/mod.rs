//! 2026-07-28, the stateless revision: each request says who speaks what in `_meta`, and its headers repeat what a
//! router needs. Results have a type, lists have a lifetime, and what a server wants to know of a client is a result too.
//!
//! [`caller`] is our side as a server, [`upstream`] as a client; [`listen`] has the notifications of a subscription and
//! [`input`] what is asked and answered in rounds. [`kind`] tells results apart.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::HeaderValue;

use super::Traits;

mod caller;
mod input;
mod kind;
mod listen;
mod upstream;

pub(super) use caller::ErrorObject;
pub use caller::{decode, encode, error_status};
pub use input::{InputRequest, Unreadable, input_requests, input_responses, needs_input};
pub use kind::is_task;
pub(super) use kind::{Kind, has_spelled_letters, kind_of};
pub use listen::{LISTEN, acknowledged, end_of_listening, list_changed, listened};
pub use upstream::{
    DISCOVER, is_modern_error, listen_params, outcome, probe, read_about, request_headers, request_params, supported,
};

pub const VERSION: &str = "2026-07-28";

pub const METHOD_HEADER: &str = "mcp-method";
pub const NAME_HEADER: &str = "mcp-name";

pub(super) const TRAITS: Traits = Traits {
    batches: false,
    version_header: true,
    primed_streams: false,
    completions: true,
    elicitation_form: true,
    elicitation_url: true,
    // An extension here, and another shape.
    tasks: false,
    passes: |_| false,
};

const META_SERVER_INFO: &str = "io.modelcontextprotocol/serverInfo";
pub(super) const META_SUBSCRIPTION: &str = "io.modelcontextprotocol/subscriptionId";

const SENTINEL_START: &str = "=?base64?";
const SENTINEL_END: &str = "?=";

/// The value of `Mcp-Name` or `Mcp-Param-…` that stands for `text`: itself where a header can hold it, base64 between
/// sentinels where not (transports/streamable-http § value encoding).
pub fn encode_header(text: &str) -> HeaderValue {
    let is_plain = text.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\t')) && text.trim_ascii() == text;
    let is_sentinel = text.starts_with(SENTINEL_START) && text.ends_with(SENTINEL_END);
    let value = if is_plain && !is_sentinel {
        HeaderValue::from_str(text)
    } else {
        HeaderValue::try_from(format!("{SENTINEL_START}{}{SENTINEL_END}", BASE64.encode(text)))
    };
    value.expect("visible ASCII, spaces and tabs only")
}

/// Undoes [`encode_header`]; `None` if the value has bytes that a header cannot carry as text, or bad base64.
pub fn decode_header(value: &HeaderValue) -> Option<Cow<'_, str>> {
    let value = value.to_str().ok()?;
    let Some(encoded) = value.strip_prefix(SENTINEL_START).and_then(|rest| rest.strip_suffix(SENTINEL_END)) else {
        return Some(Cow::Borrowed(value));
    };
    let bytes = BASE64.decode(encoded).ok()?;
    String::from_utf8(bytes).ok().map(Cow::Owned)
}

#[cfg(test)]
mod tests;
