//! 2026-07-28, the stateless revision: each request says who speaks what in `_meta`, and its headers repeat what a
//! router needs. Results have a type, lists have a lifetime.

use http::HeaderMap;
use serde_json::value::RawValue;

use super::{
    Answer, MISSING_UPSTREAMS, Rejection, Request, Revision, VERSION_HEADER, read_call_tool, read_list_tools,
    server_info,
};
use crate::mcp::call::Outcome;
use crate::mcp::error::{HEADER_MISMATCH, INVALID_PARAMS, METHOD_NOT_FOUND, RpcError, UNSUPPORTED_VERSION};
use crate::mcp::json::{Members, ObjectWriter, quote, raw, to_raw};

pub const VERSION: &str = "2026-07-28";

pub const METHOD_HEADER: &str = "mcp-method";
pub const NAME_HEADER: &str = "mcp-name";

const META_PREFIX: &str = "io.modelcontextprotocol/";
const META_VERSION: &str = "io.modelcontextprotocol/protocolVersion";
const META_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
const META_SERVER_INFO: &str = "io.modelcontextprotocol/serverInfo";

/// A list may be kept this long before it is asked for again, in milliseconds.
const LIST_TTL_MS: u32 = 5_000;

/// Whether these `params` carry this era's envelope.
pub fn has_envelope(params: Option<&RawValue>) -> bool {
    meta(params).is_some_and(|meta| meta.get(META_VERSION).is_some())
}

fn meta(params: Option<&RawValue>) -> Option<Members> {
    let params = Members::parse(params?.get()).ok()?;
    Members::parse(params.get("_meta")?.get()).ok()
}

/// Reads a request: the envelope, then the headers against it, then what is asked.
pub fn decode(headers: &HeaderMap, method: &str, params: Option<&RawValue>) -> Result<Request, Rejection> {
    let version = check_envelope(params)?;
    check_header(headers, VERSION_HEADER, &version)?;
    if version != VERSION {
        return Err(unsupported(&version));
    }
    check_header(headers, METHOD_HEADER, method)?;
    let request = match method {
        "server/discover" => Request::Discover,
        "tools/list" => read_list_tools(params)?,
        "tools/call" => read_call_tool(params, |name| name.starts_with(META_PREFIX))?,
        _ => return Err(Rejection::new(404, METHOD_NOT_FOUND, "method not found")),
    };
    if let Request::CallTool(call) = &request {
        check_header(headers, NAME_HEADER, &call.name)?;
    }
    Ok(request)
}

/// The protocol version that the envelope names. What is missing from the envelope is 400 and −32602.
fn check_envelope(params: Option<&RawValue>) -> Result<String, Rejection> {
    let missing = |name| Rejection::new(400, INVALID_PARAMS, format!("`_meta` must have {name:?}"));
    let meta = meta(params).unwrap_or_default();
    let version = meta.get(META_VERSION).and_then(|version| serde_json::from_str::<String>(version.get()).ok());
    let version = version.ok_or_else(|| missing(META_VERSION))?;
    let capabilities = meta.get(META_CAPABILITIES).filter(|capabilities| capabilities.get().starts_with('{'));
    capabilities.ok_or_else(|| missing(META_CAPABILITIES))?;
    Ok(version)
}

/// A header must be there once and say what the body says.
fn check_header(headers: &HeaderMap, name: &'static str, body: &str) -> Result<(), Rejection> {
    let mismatch = |what: &str| Rejection::new(400, HEADER_MISMATCH, format!("header `{name}` {what}"));
    let mut values = headers.get_all(name).iter();
    let value = values.next().ok_or_else(|| mismatch("is missing"))?;
    if values.next().is_some() {
        return Err(mismatch("occurs more than once"));
    }
    let value = value.to_str().map_err(|_| mismatch("has characters that a header cannot have"))?;
    let value = decode_header(value).ok_or_else(|| mismatch("is not valid base64"))?;
    if value == body { Ok(()) } else { Err(mismatch("differs from the body")) }
}

/// Undoes the sentinel form `=?base64?…?=` that carries what a header cannot hold.
fn decode_header(value: &str) -> Option<String> {
    use base64::Engine as _;
    let Some(encoded) = value.strip_prefix("=?base64?").and_then(|rest| rest.strip_suffix("?=")) else {
        return Some(value.to_owned());
    };
    let bytes = base64::engine::general_purpose::STANDARD.decode(encoded).ok()?;
    String::from_utf8(bytes).ok()
}

fn unsupported(requested: &str) -> Rejection {
    let supported: Vec<&str> = Revision::ALL.iter().map(|revision| revision.as_str()).collect();
    let data = to_raw(&serde_json::json!({ "supported": supported, "requested": requested }));
    let error = RpcError::new(UNSUPPORTED_VERSION, "unsupported protocol version").with_data(data);
    Rejection { status: 400, error }
}

/// Writes an answer.
pub fn encode(answer: Answer) -> Outcome {
    Outcome::Result(match answer {
        Answer::Pong => complete().finish(),
        Answer::Discovery => discovery(),
        Answer::Called(Outcome::Result(result)) => with_result_type(result),
        Answer::Called(error) => return error,
        Answer::Tools(page) => {
            let (tools, missing) = page.members();
            let mut result = complete();
            result.member("tools", &tools);
            if let Some(cursor) = &page.next_cursor {
                result.member("nextCursor", &quote(cursor));
            }
            let mut meta = ObjectWriter::default();
            meta.member(META_SERVER_INFO, server_info().get());
            if let Some(missing) = missing {
                meta.member(MISSING_UPSTREAMS, missing.get());
            }
            cacheable(&mut result, LIST_TTL_MS);
            result.member("_meta", meta.finish().get());
            result.finish()
        }
    })
}

fn complete() -> ObjectWriter {
    let mut result = ObjectWriter::default();
    result.member("resultType", r#""complete""#);
    result
}

/// What we say depends on who asks, so that it is never shared between callers.
fn cacheable(result: &mut ObjectWriter, ttl_ms: u32) {
    result.member("ttlMs", &ttl_ms.to_string()).member("cacheScope", r#""private""#);
}

fn discovery() -> Box<RawValue> {
    let supported: Vec<&str> = Revision::ALL.iter().map(|revision| revision.as_str()).collect();
    let mut result = complete();
    result.member("supportedVersions", to_raw(&supported).get()).member("capabilities", r#"{"tools":{}}"#);
    cacheable(&mut result, 60 * LIST_TTL_MS);
    result.member("_meta", &format!("{{{}:{}}}", quote(META_SERVER_INFO), server_info().get()));
    result.finish()
}

/// An upstream of a legacy revision does not say that its result is complete; here it has to be said.
fn with_result_type(result: Box<RawValue>) -> Box<RawValue> {
    let text = result.get();
    let has_type = Members::parse(text).is_ok_and(|members| members.get("resultType").is_some());
    let Some(rest) = text.strip_prefix('{').filter(|_| !has_type) else { return result };
    let separator = if rest.trim_start().starts_with('}') { "" } else { "," };
    raw(format!(r#"{{"resultType":"complete"{separator}{rest}"#))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(values: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in values {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    fn params(members: &str) -> Box<RawValue> {
        let meta = format!(r#""_meta":{{"{META_VERSION}":"{VERSION}","{META_CAPABILITIES}":{{}},"mine":1}}"#);
        raw(format!("{{{members}{meta}}}"))
    }

    #[test]
    fn headers_must_say_what_the_body_says() {
        let call = params(r#""name":"notes__add","#);
        let full = [(VERSION_HEADER, VERSION), (METHOD_HEADER, "tools/call"), (NAME_HEADER, "notes__add")];
        assert!(decode(&headers(&full), "tools/call", Some(&call)).is_ok());
        let encoded = [full[0], full[1], (NAME_HEADER, "=?base64?bm90ZXNfX2FkZA==?=")];
        assert!(decode(&headers(&encoded), "tools/call", Some(&call)).is_ok());
        for wrong in [
            vec![full[0], full[1]],
            vec![full[0], full[2]],
            vec![full[1], full[2]],
            vec![full[0], full[1], (NAME_HEADER, "notes__ADD")],
            vec![full[0], full[1], (NAME_HEADER, "=?base64?*?=")],
            vec![full[0], (METHOD_HEADER, "tools/list"), full[2]],
            vec![full[0], full[1], full[1], full[2]],
            vec![(VERSION_HEADER, "2025-11-25"), full[1], full[2]],
        ] {
            let rejection = decode(&headers(&wrong), "tools/call", Some(&call)).unwrap_err();
            assert_eq!((rejection.status, rejection.error.code), (400, HEADER_MISMATCH), "{wrong:?}");
        }
    }

    #[test]
    fn the_envelope_stays_out_of_what_goes_on() {
        let call = params(r#""name":"x","arguments":{},"task":{"a":1},"#);
        let full = headers(&[(VERSION_HEADER, VERSION), (METHOD_HEADER, "tools/call"), (NAME_HEADER, "x")]);
        let Ok(Request::CallTool(call)) = decode(&full, "tools/call", Some(&call)) else { panic!() };
        assert_eq!(call.meta.to_raw().get(), r#"{"mine":1}"#);
        assert_eq!(call.extra.to_raw().get(), r#"{"task":{"a":1}}"#);
    }

    #[test]
    fn an_unknown_version_is_answered_with_the_known_ones() {
        let body = raw(format!(r#"{{"_meta":{{"{META_VERSION}":"2099-01-01","{META_CAPABILITIES}":{{}}}}}}"#));
        let full = headers(&[(VERSION_HEADER, "2099-01-01"), (METHOD_HEADER, "tools/list")]);
        let rejection = decode(&full, "tools/list", Some(&body)).unwrap_err();
        assert_eq!((rejection.status, rejection.error.code), (400, UNSUPPORTED_VERSION));
        let data = rejection.error.data.unwrap();
        assert_eq!(data.get(), r#"{"requested":"2099-01-01","supported":["2026-07-28","2025-11-25","2025-06-18"]}"#);
    }

    #[test]
    fn a_result_gets_its_type_and_keeps_its_text() {
        for (from, to) in [
            (r#"{}"#, r#"{"resultType":"complete"}"#),
            (r#"{ }"#, r#"{"resultType":"complete" }"#),
            (r#"{"a":1.0}"#, r#"{"resultType":"complete","a":1.0}"#),
            (r#"{"a":{"resultType":1}}"#, r#"{"resultType":"complete","a":{"resultType":1}}"#),
            (r#"{"resultType":"task"}"#, r#"{"resultType":"task"}"#),
        ] {
            assert_eq!(with_result_type(raw(from.into())).get(), to);
        }
    }
}
