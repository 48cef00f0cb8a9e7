//! What the legacy revisions share: `initialize`, sessions, and results without a type.
//!
//! Both directions: as the server of a caller, and as the client of an upstream.

use http::HeaderMap;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    Answer, MISSING_UPSTREAMS, Rejection, Request, Revision, VERSION_HEADER, read_call_tool, read_list_tools,
    server_info,
};
use crate::mcp::call::Outcome;
use crate::mcp::error::{INVALID_PARAMS, INVALID_REQUEST, METHOD_NOT_FOUND};
use crate::mcp::json::{ObjectWriter, quote, raw};
use crate::mcp::message::RequestId;

/// The newest revision that has `initialize`: what we offer where the other side asks for one that we do not speak.
pub const NEWEST: Revision = Revision::V2025_11_25;

/// Answers `initialize` (2025-11-25, lifecycle § initialization): the revision to speak, and the result.
pub fn initialize(params: Option<&RawValue>) -> Result<(Revision, Box<RawValue>), Rejection> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Params {
        protocol_version: String,
    }
    let params = params.map_or("{}", RawValue::get);
    let params: Params = serde_json::from_str(params)
        .map_err(|_| Rejection::new(200, INVALID_PARAMS, "`protocolVersion` must be a string"))?;
    let revision = Revision::parse(&params.protocol_version).filter(|revision| revision.is_legacy()).unwrap_or(NEWEST);
    let mut result = ObjectWriter::default();
    result
        .member("protocolVersion", &quote(revision.as_str()))
        .member("capabilities", r#"{"tools":{}}"#)
        .member("serverInfo", server_info().get());
    Ok((revision, result.finish()))
}

/// Checks the version header of a request within a session. Absent is accepted, for clients older than the header;
/// unknown or not the negotiated one is 400 (2025-06-18, transports § protocol version header).
pub fn check_version(headers: &HeaderMap, negotiated: Revision) -> Result<(), Rejection> {
    let Some(version) = headers.get(VERSION_HEADER) else { return Ok(()) };
    if version.as_bytes() == negotiated.as_str().as_bytes() {
        return Ok(());
    }
    let message = format!("MCP-Protocol-Version must be {negotiated}, as this session negotiated");
    Err(Rejection::new(400, INVALID_REQUEST, message))
}

/// Reads a request within a session.
pub fn decode(method: &str, params: Option<&RawValue>) -> Result<Request, Rejection> {
    match method {
        "ping" => Ok(Request::Ping),
        "tools/list" => read_list_tools(params),
        "tools/call" => read_call_tool(params, |_| false),
        _ => Err(Rejection::new(200, METHOD_NOT_FOUND, "method not found")),
    }
}

/// The request that a `notifications/cancelled` takes back.
pub fn cancelled_request(params: Option<&RawValue>) -> Option<RequestId> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Params<'a> {
        #[serde(borrow)]
        request_id: &'a RawValue,
    }
    let params: Params<'_> = serde_json::from_str(params?.get()).ok()?;
    RequestId::parse(params.request_id)
}

/// Writes an answer.
pub fn encode(answer: Answer) -> Outcome {
    Outcome::Result(match answer {
        Answer::Pong | Answer::Discovery => raw("{}".to_owned()),
        Answer::Called(outcome) => return outcome,
        Answer::Tools(page) => {
            let (tools, missing) = page.members();
            let mut result = ObjectWriter::default();
            result.member("tools", &tools);
            if let Some(cursor) = &page.next_cursor {
                result.member("nextCursor", &quote(cursor));
            }
            if let Some(missing) = missing {
                result.member("_meta", &format!("{{{}:{}}}", quote(MISSING_UPSTREAMS), missing.get()));
            }
            result.finish()
        }
    })
}

/// `params` of the `initialize` that we send to an upstream. We declare no capability: nothing that an upstream could
/// ask of a client is passed on yet.
pub fn initialize_params() -> Box<RawValue> {
    let mut params = ObjectWriter::default();
    params
        .member("protocolVersion", &quote(NEWEST.as_str()))
        .member("capabilities", "{}")
        .member("clientInfo", server_info().get());
    params.finish()
}

/// The revision that an upstream chose in its answer to `initialize`. One that we do not know is taken for the newest
/// legacy one where it is dated before the modern era, since what we use of them is the same in all.
pub fn negotiated(result: &RawValue) -> Option<String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct InitializeResult {
        protocol_version: String,
    }
    let result: InitializeResult = serde_json::from_str(result.get()).ok()?;
    let is_dated = result.protocol_version.len() == 10 && result.protocol_version.is_ascii();
    (is_dated && result.protocol_version.as_str() < Revision::V2026_07_28.as_str()).then_some(result.protocol_version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_negotiated() {
        for (asked, spoken) in [
            ("2025-06-18", "2025-06-18"),
            ("2025-11-25", "2025-11-25"),
            ("2024-11-05", "2025-11-25"),
            ("2026-07-28", "2025-11-25"),
            ("nonsense", "2025-11-25"),
        ] {
            let params = raw(format!(r#"{{"protocolVersion":"{asked}","capabilities":{{}}}}"#));
            let (revision, result) = initialize(Some(&params)).unwrap();
            assert_eq!(revision.as_str(), spoken);
            assert!(result.get().contains(&format!(r#""protocolVersion":"{spoken}""#)));
        }
        assert_eq!(initialize(None).unwrap_err().error.code, INVALID_PARAMS);
    }

    #[test]
    fn an_upstream_may_speak_any_legacy_revision() {
        let answer = |version: &str| negotiated(&raw(format!(r#"{{"protocolVersion":"{version}"}}"#)));
        assert_eq!(answer("2024-11-05").as_deref(), Some("2024-11-05"));
        assert_eq!(answer("2026-07-28"), None);
        assert_eq!(answer("x"), None);
        assert_eq!(negotiated(&raw("{}".into())), None);
    }
}
