//! One JSON-RPC 2.0 message: an envelope around parameters and results that stay text.
//!
//! Unknown members of the envelope are ignored, as JSON-RPC asks; unknown members further in are never touched.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::mcp::json;

/// Longest request id, in bytes of JSON text.
const MAX_ID_BYTES: usize = 1024;
/// Longest method name, in bytes.
const MAX_METHOD_BYTES: usize = 256;
/// Messages that one batch may have.
pub const MAX_BATCH: usize = 100;

/// A request id as its JSON text: `0`, `"a"`. Two ids are the same if their texts are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RequestId(Box<str>);

impl RequestId {
    /// The id as it stands in a message.
    pub fn parse(raw: &RawValue) -> Option<Self> {
        let text = raw.get();
        let is_string = text.starts_with('"');
        let is_integer = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
        ((is_string || is_integer) && text.len() <= MAX_ID_BYTES).then(|| Self(text.into()))
    }

    pub fn number(number: u64) -> Self {
        Self(number.to_string().into())
    }

    /// JSON text.
    pub fn as_json(&self) -> &str {
        &self.0
    }
}

/// A message, by its kind.
#[derive(Debug)]
pub enum Message<'a> {
    Request {
        id: RequestId,
        method: Cow<'a, str>,
        params: Option<&'a RawValue>,
    },
    Notification {
        method: Cow<'a, str>,
        params: Option<&'a RawValue>,
    },
    Result {
        id: RequestId,
        result: &'a RawValue,
    },
    /// The id is absent where the other side could not read it.
    Error {
        id: Option<RequestId>,
        error: &'a RawValue,
    },
}

/// Why a text is not a message.
#[derive(Debug, thiserror::Error)]
pub enum Malformed {
    #[error(
        "the body is not JSON, is nested deeper than {} levels, or has an object with a repeated name",
        json::MAX_DEPTH
    )]
    Json(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("JSON-RPC batches are not part of this protocol revision")]
    Batch,
    #[error("a batch has 1 to {MAX_BATCH} messages")]
    BatchSize,
    #[error("{what}")]
    Envelope { what: &'static str, id: Option<RequestId> },
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    jsonrpc: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    id: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    method: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    params: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    result: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    error: Option<&'a RawValue>,
}

/// Keeps `null` apart from an absent member.
pub(super) fn present<'de: 'a, 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

impl<'a> Message<'a> {
    /// Reads a message from a peer that we serve: the whole document is checked first ([`json::check`]).
    pub fn from_caller(body: &'a [u8]) -> Result<Self, Malformed> {
        json::check(body).map_err(|error| Malformed::Json(error.into()))?;
        Self::parse(body)
    }

    /// Reads a message from an upstream: results pass through as they are, so that only the envelope is read.
    pub fn from_upstream(body: &'a [u8]) -> Result<Self, Malformed> {
        Self::parse(body)
    }

    /// Reads a message of a [`batch`], which was checked as a whole.
    pub fn from_batch(message: &'a RawValue) -> Result<Self, Malformed> {
        Self::parse(message.get().as_bytes())
    }

    fn parse(body: &'a [u8]) -> Result<Self, Malformed> {
        match body.iter().find(|byte| !byte.is_ascii_whitespace()) {
            Some(b'{') => {}
            Some(b'[') => return Err(Malformed::Batch),
            _ => return Err(Malformed::Envelope { what: "a message must be a JSON object", id: None }),
        }
        let envelope: Envelope<'a> = serde_json::from_slice(body).map_err(|error| Malformed::Json(error.into()))?;
        let id = envelope.id.and_then(RequestId::parse);
        let wrong = |what| Malformed::Envelope { what, id: id.clone() };
        if !envelope.jsonrpc.is_some_and(is_version_2) {
            return Err(wrong("`jsonrpc` must be \"2.0\""));
        }
        match (envelope.method, envelope.result, envelope.error) {
            (Some(method), None, None) => {
                let method =
                    read_method(method).ok_or_else(|| wrong("`method` must be a string of at most 256 bytes"))?;
                let params = envelope.params;
                if params.is_some_and(|params| !params.get().starts_with('{')) {
                    return Err(wrong("`params` must be an object"));
                }
                match (envelope.id, id) {
                    (None, _) => Ok(Self::Notification { method, params }),
                    (Some(_), Some(id)) => Ok(Self::Request { id, method, params }),
                    (Some(_), None) => {
                        Err(Malformed::Envelope { what: "`id` must be a string or an integer", id: None })
                    }
                }
            }
            (None, Some(answer), None) | (None, None, Some(answer)) if !answer.get().starts_with('{') => {
                Err(wrong("`result` and `error` must be objects"))
            }
            (None, Some(result), None) => {
                let id = id.ok_or(Malformed::Envelope { what: "a response needs the id of its request", id: None })?;
                Ok(Self::Result { id, result })
            }
            (None, None, Some(error)) => Ok(Self::Error { id, error }),
            _ => Err(wrong("a message has exactly one of `method`, `result` and `error`")),
        }
    }
}

/// Takes a JSON-RPC batch apart (2025-03-26, basic § batching), for [`Message::from_batch`]. The document is checked as a
/// whole, like a single message.
pub fn batch(body: &[u8]) -> Result<Vec<&RawValue>, Malformed> {
    json::check(body).map_err(|error| Malformed::Json(error.into()))?;
    let messages: Vec<&RawValue> = serde_json::from_slice(body).map_err(|error| Malformed::Json(error.into()))?;
    if messages.is_empty() || messages.len() > MAX_BATCH { Err(Malformed::BatchSize) } else { Ok(messages) }
}

fn is_version_2(version: &RawValue) -> bool {
    // What everybody writes, and what else it may be written like.
    version.get() == "\"2.0\"" || serde_json::from_str::<String>(version.get()).is_ok_and(|version| version == "2.0")
}

fn read_method<'a>(raw: &'a RawValue) -> Option<Cow<'a, str>> {
    let text = raw.get();
    let inner = text.strip_prefix('"')?.strip_suffix('"')?;
    let method = if inner.contains('\\') { Cow::Owned(serde_json::from_str(text).ok()?) } else { Cow::Borrowed(inner) };
    (method.len() <= MAX_METHOD_BYTES).then_some(method)
}

/// The text of a request.
pub fn request(id: &RequestId, method: &str, params: &RawValue) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{},"method":{},"params":{}}}"#, id.as_json(), json::quote(method), params.get())
}

/// The text of a notification.
pub fn notification(method: &str, params: Option<&RawValue>) -> String {
    let method = json::quote(method);
    match params {
        Some(params) => format!(r#"{{"jsonrpc":"2.0","method":{method},"params":{}}}"#, params.get()),
        None => format!(r#"{{"jsonrpc":"2.0","method":{method}}}"#),
    }
}

/// The text of a response with a result.
pub fn result(id: &RequestId, result: &RawValue) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{},"result":{}}}"#, id.as_json(), result.get())
}

/// The text of a response with an error; the id is `null` where it could not be read (JSON-RPC 2.0 §5).
pub fn error(id: Option<&RequestId>, error: &RawValue) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{},"error":{}}}"#, id.map_or("null", RequestId::as_json), error.get())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_told_apart() {
        let kind = |text: &str| match Message::from_caller(text.as_bytes()) {
            Ok(Message::Request { id, method, .. }) => format!("request {} {method}", id.as_json()),
            Ok(Message::Notification { method, .. }) => format!("notification {method}"),
            Ok(Message::Result { id, .. }) => format!("result {}", id.as_json()),
            Ok(Message::Error { id, .. }) => format!("error {:?}", id.map(|id| id.as_json().to_owned())),
            Err(Malformed::Json(_)) => "not JSON".into(),
            Err(Malformed::Batch) => "batch".into(),
            Err(Malformed::BatchSize) => "size".into(),
            Err(Malformed::Envelope { what, .. }) => what.into(),
        };
        for (text, expected) in [
            (r#"{"jsonrpc":"2.0","id":0,"method":"ping"}"#, "request 0 ping"),
            (r#"{"jsonrpc":"2.0","id":"a\"","method":"p\u0069ng","x":1}"#, r#"request "a\"" ping"#),
            (
                r#"{"jsonrpc":"2.0","id":18446744073709551615,"method":"m","params":{}}"#,
                "request 18446744073709551615 m",
            ),
            (r#"{"jsonrpc":"2.0","method":"m"}"#, "notification m"),
            (r#"{"jsonrpc":"2.0","id":1,"result":{}}"#, "result 1"),
            (r#"{"jsonrpc":"2.0","id":1,"result":null}"#, "`result` and `error` must be objects"),
            (r#"{"jsonrpc":"2.0","id":1,"error":"no"}"#, "`result` and `error` must be objects"),
            (r#"{"jsonrpc":"2.0","id":null,"error":{}}"#, "error None"),
            (r#"{"jsonrpc":"2.0","id":null,"method":"m"}"#, "`id` must be a string or an integer"),
            (r#"{"jsonrpc":"2.0","id":1.5,"method":"m"}"#, "`id` must be a string or an integer"),
            (r#"{"jsonrpc":"2.0","id":{},"method":"m"}"#, "`id` must be a string or an integer"),
            (r#"{"jsonrpc":"1.0","id":1,"method":"m"}"#, "`jsonrpc` must be \"2.0\""),
            (r#"{"id":1,"method":"m"}"#, "`jsonrpc` must be \"2.0\""),
            (r#"{"jsonrpc":2,"id":1,"method":"m"}"#, "`jsonrpc` must be \"2.0\""),
            (r#"{"jsonrpc":null,"id":1,"method":"m"}"#, "`jsonrpc` must be \"2.0\""),
            (r#"{"jsonrpc":"2\u002e0","id":1,"method":"m"}"#, "request 1 m"),
            (r#"{"jsonrpc":"2.0","id":1,"method":7}"#, "`method` must be a string of at most 256 bytes"),
            (r#"{"jsonrpc":"2.0","id":1,"method":"m","params":[1]}"#, "`params` must be an object"),
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"m","result":1}"#,
                "a message has exactly one of `method`, `result` and `error`",
            ),
            (r#"{"jsonrpc":"2.0"}"#, "a message has exactly one of `method`, `result` and `error`"),
            (r#" [{"jsonrpc":"2.0","id":1,"method":"m"}]"#, "batch"),
            (r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"m"}"#, "not JSON"),
            (r#"{"jsonrpc":"2.0","id":1,"method":"m","params":{"a":{"b":1,"b":2}}}"#, "not JSON"),
            ("", "not JSON"),
            ("{", "not JSON"),
            ("\"text\"", "a message must be a JSON object"),
        ] {
            assert_eq!(kind(text), expected, "{text}");
        }
    }

    #[test]
    fn written_messages_read_back() {
        let id = RequestId::number(7);
        let text = request(&id, "tools/call", &json::raw(r#"{"n":1.0}"#.into()));
        let Ok(Message::Request { id: read, method, params }) = Message::from_upstream(text.as_bytes()) else {
            panic!("{text}")
        };
        assert_eq!((read, &*method, params.unwrap().get()), (id, "tools/call", r#"{"n":1.0}"#));
    }

    #[test]
    fn a_batch_is_taken_apart() {
        let read = |text: &str| match batch(text.as_bytes()) {
            Ok(messages) => messages.iter().map(|message| message.get()).collect::<Vec<_>>().join("|"),
            Err(error) => error.to_string().chars().take(20).collect(),
        };
        let one = r#"{"jsonrpc":"2.0","method":"m"}"#;
        assert_eq!(read(one), "the body is not JSON", "nor a batch");
        assert_eq!(read(&format!(" [{one}, 1 ,[]]")), format!("{one}|1|[]"));
        assert_eq!(read("[]"), "a batch has 1 to 100");
        assert_eq!(read(&format!("[{}1]", "1,".repeat(MAX_BATCH - 1))).len(), 2 * MAX_BATCH - 1);
        assert_eq!(read(&format!("[{}1]", "1,".repeat(MAX_BATCH))), "a batch has 1 to 100");
        assert_eq!(read(r#"[{"a":1,"a":2}]"#), "the body is not JSON");
        assert_eq!(read("[1"), "the body is not JSON");

        let messages = format!(r#"[{one},[{one}],{{"jsonrpc":"2.0","id":1}}]"#);
        let messages = batch(messages.as_bytes()).unwrap();
        let parsed: Vec<_> = messages.iter().map(|message| Message::from_batch(message)).collect();
        assert!(matches!(&parsed[0], Ok(Message::Notification { method, params: None }) if method == "m"));
        assert!(matches!(&parsed[1], Err(Malformed::Batch)), "batches do not nest");
        assert!(matches!(&parsed[2], Err(Malformed::Envelope { id: Some(id), .. }) if id.as_json() == "1"));
    }
}
