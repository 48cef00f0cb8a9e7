//! What the legacy revisions share: `initialize`, sessions, and results without a type.
//!
//! Both directions: as the server of a caller, and as the client of an upstream. What 2026-07-28 allows and these do not
//! is taken out of what passes to a caller.

use std::borrow::Cow;

use http::HeaderMap;
use memchr::memmem;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::about::{About, Capabilities};
use super::head::{Head, Retries, read_object, text};
use super::request::{forget_task, is_modern_only, read_common, read_task, uri};
use super::v2026_07_28::{ErrorObject, Kind, has_spelled_letters, kind_of};
use super::{
    Answer, Discovery, Era, ListKind, MISSING_UPSTREAMS, Page, Rejection, Request, Revision, SERVER_INFO,
    TASKS_EXTENSION, VERSION_HEADER, push_member, v2025_11_25,
};
use crate::mcp::call::{Outcome, Params, Verb};
use crate::mcp::client::Client;
use crate::mcp::error::{
    INTERNAL_ERROR, INVALID_PARAMS, INVALID_REQUEST, METHOD_NOT_FOUND, RESOURCE_NOT_FOUND, RpcError,
};
use crate::mcp::json::{Members, quote, raw};
use crate::mcp::message::{RequestId, present};
use crate::mcp::talk::{LogLevel, Party};

/// The newest revision that has `initialize`: what we offer where the other side asks for one that we do not speak.
pub const NEWEST: Revision = Revision::V2025_11_25;

/// A session as `initialize` opens it.
#[derive(Debug)]
pub struct Opening {
    /// What is spoken in it.
    pub revision: Revision,
    pub client: Client,
    /// The result of `initialize`.
    pub result: Box<RawValue>,
}

/// Answers `initialize` (2025-11-25, lifecycle § initialization). `discovery` says what we offer in a revision.
pub fn initialize(params: Option<&RawValue>, discovery: &dyn Fn(Revision) -> Discovery) -> Result<Opening, Rejection> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Initialize<'a> {
        protocol_version: String,
        #[serde(borrow)]
        capabilities: Option<&'a RawValue>,
        #[serde(borrow)]
        client_info: Option<&'a RawValue>,
    }
    let params = params.map_or("{}", RawValue::get);
    let params: Initialize<'_> =
        serde_json::from_str(params).map_err(|_| Rejection::bad_params("`protocolVersion` must be a string"))?;
    let revision = Revision::parse(&params.protocol_version).filter(|revision| revision.is_legacy()).unwrap_or(NEWEST);
    let info = params.client_info.filter(|info| info.get().starts_with('{'));
    let client = Client::new(info.map(ToOwned::to_owned), declared(revision, params.capabilities));
    let mut result = String::with_capacity(512);
    result.push('{');
    push_member(&mut result, "protocolVersion", &quote(revision.as_str()));
    push_discovery(&mut result, &discovery(revision));
    push_member(&mut result, "serverInfo", SERVER_INFO);
    result.push('}');
    Ok(Opening { revision, client, result: raw(result) })
}

/// A client's capabilities, without those that its revision does not have, and without tasks, which nobody here can
/// follow: neither those that a client runs, nor those of a later revision.
fn declared(revision: Revision, capabilities: Option<&RawValue>) -> Box<RawValue> {
    let capabilities = capabilities.and_then(|capabilities| Members::parse(capabilities.get()).ok());
    let mut capabilities = capabilities.unwrap_or_default();
    capabilities.remove("tasks");
    if !revision.traits().elicitation_form {
        capabilities.remove("elicitation");
    }
    let without = |members: &mut Members, map: &str, name: &str| {
        let Some(mut inner) = members.get(map).and_then(|inner| Members::parse(inner.get()).ok()) else { return };
        if inner.remove(name).is_some() {
            members.set(map, inner.to_raw());
        }
    };
    if !revision.traits().elicitation_url {
        without(&mut capabilities, "elicitation", "url");
    }
    without(&mut capabilities, "extensions", TASKS_EXTENSION);
    capabilities.to_raw()
}

/// Checks the version header of a request within a session. Absent is accepted, for clients older than the header;
/// unknown or not the negotiated one is 400 (2025-06-18, transports § protocol version header).
pub fn check_version(headers: &HeaderMap, negotiated: Revision) -> Result<(), Rejection> {
    let Some(version) = headers.get(VERSION_HEADER) else { return Ok(()) };
    if !negotiated.traits().version_header || version.as_bytes() == negotiated.as_str().as_bytes() {
        return Ok(());
    }
    let message = format!("MCP-Protocol-Version must be {negotiated}, as this session negotiated");
    Err(Rejection::new(400, INVALID_REQUEST, message))
}

/// Reads a request within a session.
pub fn decode(revision: Revision, method: &str, head: Head<'_>) -> Result<Request, Rejection> {
    let mut params = head.into_params(Retries::Unknown)?;
    if !revision.traits().tasks {
        forget_task(method, &mut params);
    }
    match method {
        "ping" => Ok(Request::Ping),
        "logging/setLevel" => read_level(&params).map(Request::SetLevel),
        "resources/subscribe" => Ok(Request::Subscribe { uri: uri(&params)?, params }),
        "resources/unsubscribe" => Ok(Request::Unsubscribe { uri: uri(&params)? }),
        _ => match v2025_11_25::task_verb(method) {
            Some(verb) if revision.traits().tasks => read_task(verb, params),
            Some(_) => Err(method_not_found()),
            None if is_modern_only(method) => Err(method_not_found()),
            None => read_common(method, params)?.ok_or_else(method_not_found),
        },
    }
}

fn method_not_found() -> Rejection {
    Rejection::new(200, METHOD_NOT_FOUND, "method not found")
}

fn read_level(params: &Params) -> Result<LogLevel, Rejection> {
    let level = params.members.get("level").and_then(text).and_then(|level| LogLevel::parse(&level));
    level.ok_or_else(|| Rejection::bad_params("`level` must be a log level"))
}

/// The request that a `notifications/cancelled` takes back.
pub fn cancelled_request(params: Option<&RawValue>) -> Option<RequestId> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Cancelled<'a> {
        #[serde(borrow)]
        request_id: &'a RawValue,
    }
    let params: Cancelled<'_> = serde_json::from_str(params?.get()).ok()?;
    RequestId::parse(params.request_id)
}

/// Writes an answer.
pub fn encode(answer: Answer) -> Outcome {
    match answer {
        Answer::Empty => Outcome::Result(raw("{}".to_owned())),
        Answer::Discovery(discovery) => {
            let mut result = "{".to_owned();
            push_discovery(&mut result, &discovery);
            result.push('}');
            Outcome::Result(raw(result))
        }
        Answer::Page(page) => Outcome::Result(write_page(&page)),
        Answer::Done { method, outcome: Outcome::Result(result) } => finish_result(method, result),
        Answer::Done { method, outcome: Outcome::Error(error) } => Outcome::Error(translate_error(method, error)),
        Answer::Done { outcome: Outcome::NeedsInput(_), .. } => unexpected("asked for input that nobody gave"),
    }
}

fn push_discovery(out: &mut String, discovery: &Discovery) {
    push_member(out, "capabilities", discovery.capabilities.get());
    if let Some(instructions) = &discovery.instructions {
        push_member(out, "instructions", &quote(instructions));
    }
}

fn write_page(page: &Page) -> Box<RawValue> {
    let mut out = "{".to_owned();
    match page.kind {
        ListKind::Tools => page.write(&mut out, legacy_tool),
        _ => page.write(&mut out, |item| Cow::Borrowed(item.get())),
    }
    if let Some(missing) = page.missing() {
        push_member(&mut out, "_meta", "{");
        push_member(&mut out, MISSING_UPSTREAMS, missing.get());
        out.push('}');
    }
    out.push('}');
    raw(out)
}

/// A tool without an output schema that describes something else than an object: until 2025-11-25 there was none, and a
/// client that checks lists refuses them whole (2026-07-28, changelog, minor changes 10).
fn legacy_tool(tool: &RawValue) -> Cow<'_, str> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Tool<'a> {
        #[serde(borrow, default, deserialize_with = "present")]
        output_schema: Option<&'a RawValue>,
    }
    #[derive(Deserialize)]
    struct Schema<'a> {
        #[serde(borrow, rename = "type")]
        kind: Option<&'a RawValue>,
    }
    let text = tool.get();
    if memmem::find(text.as_bytes(), br#""outputSchema""#).is_none() {
        return Cow::Borrowed(text);
    }
    let schema = serde_json::from_str::<Tool<'_>>(text).ok().and_then(|tool| tool.output_schema);
    let kind = schema.and_then(|schema| read_object::<Schema<'_>>(schema)?.kind);
    if schema.is_none() || kind.is_some_and(|kind| kind.get() == r#""object""#) {
        return Cow::Borrowed(text);
    }
    without_member(text, "outputSchema")
}

fn without_member<'a>(text: &'a str, name: &str) -> Cow<'a, str> {
    let Ok(mut members) = Members::parse(text) else { return Cow::Borrowed(text) };
    members.remove(name);
    Cow::Owned(members.to_raw().get().to_owned())
}

/// An upstream's result as one of these revisions. Members that they do not know do no harm; what would be taken for
/// something else than it is does.
fn finish_result(method: &str, result: Box<RawValue>) -> Outcome {
    match kind_of(&result) {
        Kind::Task => return unexpected("began a task, which this protocol revision cannot follow"),
        Kind::InputRequired => return unexpected("asked for input where it cannot be given"),
        Kind::Ambiguous => return unexpected("sent a result that has a member twice"),
        Kind::Untyped | Kind::Complete | Kind::Other => {}
    }
    if method == "tools/call"
        && let Cow::Owned(result) = object_content(result.get())
    {
        return Outcome::Result(raw(result));
    }
    Outcome::Result(result)
}

/// A tool's result without structured content that is no object: until 2025-11-25 there was none. The same is in
/// `content`, where clients without it look.
fn object_content(result: &str) -> Cow<'_, str> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct ToolResult<'a> {
        #[serde(borrow, default, deserialize_with = "present")]
        structured_content: Option<&'a RawValue>,
    }
    const NAME: &str = r#""structuredContent""#;
    let is_object = |at: usize| {
        let value = result[at + NAME.len()..].trim_ascii_start().strip_prefix(':');
        value.is_some_and(|value| value.trim_ascii_start().starts_with('{'))
    };
    if !has_spelled_letters(result) && memmem::find_iter(result.as_bytes(), NAME).all(is_object) {
        return Cow::Borrowed(result);
    }
    match serde_json::from_str::<ToolResult<'_>>(result) {
        Ok(ToolResult { structured_content: Some(content) }) if !content.get().starts_with('{') => {
            without_member(result, "structuredContent")
        }
        _ => Cow::Borrowed(result),
    }
}

fn unexpected(what: &str) -> Outcome {
    Outcome::Error(RpcError::new(INTERNAL_ERROR, format!("the upstream {what}")).to_raw())
}

/// The error of 2026-07-28 for a resource that does not exist, under its old code (2025-11-25, server/resources § error
/// handling).
fn translate_error(method: &str, error: Box<RawValue>) -> Box<RawValue> {
    #[derive(Deserialize)]
    struct NotFound {
        #[serde(rename = "uri")]
        _uri: String,
    }
    if method != Verb::ReadResource.method() {
        return error;
    }
    let Some(read) = ErrorObject::read(&error) else { return error };
    let names_resource = read.data.is_some_and(|data| read_object::<NotFound>(data).is_some());
    if read.code == i64::from(INVALID_PARAMS) && names_resource { read.under(RESOURCE_NOT_FOUND) } else { error }
}

/// `params` of the `initialize` that we send to an upstream: the capabilities are those of whoever we speak for, since
/// what the upstream asks goes to their client.
pub fn initialize_params(party: &Party) -> Box<RawValue> {
    let client = &party.client;
    let mut out = "{".to_owned();
    push_member(&mut out, "protocolVersion", &quote(NEWEST.as_str()));
    push_member(&mut out, "capabilities", client.capabilities().get());
    push_member(&mut out, "clientInfo", client.info().map_or(SERVER_INFO, RawValue::get));
    out.push('}');
    raw(out)
}

/// `params` of a request to an upstream. `progress` is the token for progress notifications, if they are wanted.
pub fn request_params(params: &Params, progress: Option<&RequestId>) -> Box<RawValue> {
    let mut out = "{".to_owned();
    for (name, value) in params.members.iter() {
        push_member(&mut out, name, value.get());
    }
    if progress.is_some() || !params.meta.is_empty() {
        push_member(&mut out, "_meta", "{");
        for (name, value) in params.meta.iter() {
            push_member(&mut out, name, value.get());
        }
        if let Some(token) = progress {
            push_member(&mut out, "progressToken", token.as_json());
        }
        out.push('}');
    }
    out.push('}');
    raw(out)
}

/// `params` of a `logging/setLevel` to an upstream.
pub fn level_params(level: LogLevel) -> Box<RawValue> {
    raw(format!(r#"{{"level":"{}"}}"#, level.as_str()))
}

/// The revision that an upstream chose in its answer to `initialize`. One that we do not know is taken for the newest
/// legacy one where it is dated before the modern era, since what we use of them is the same in all.
pub fn negotiated(result: &RawValue) -> Option<String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Initialized {
        protocol_version: String,
    }
    let Initialized { protocol_version: version } = serde_json::from_str(result.get()).ok()?;
    let is_dated = version.len() == 10 && version.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
    (is_dated && version.as_str() < Revision::V2026_07_28.as_str()).then_some(version)
}

/// Reads the answer to `initialize`; `None` if it chose no revision that we speak.
pub fn read_about(result: &RawValue) -> Option<About> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Initialized<'a> {
        #[serde(borrow)]
        capabilities: Option<&'a RawValue>,
        #[serde(borrow)]
        server_info: Option<&'a RawValue>,
        instructions: Option<String>,
    }
    let revision = negotiated(result)?;
    let initialized: Initialized<'_> = serde_json::from_str(result.get()).ok()?;
    let mut capabilities = Capabilities::read(initialized.capabilities);
    // The first revision has completion without saying so; whoever asks in vain is told by the upstream.
    let is_silent = Revision::parse(&revision).is_some_and(|revision| !revision.traits().completions);
    capabilities.completions |= is_silent && (capabilities.prompts || capabilities.resources);
    let server_info = initialized.server_info.filter(|info| info.get().starts_with('{'));
    Some(About {
        revision,
        era: Era::Legacy,
        capabilities,
        server_info: server_info.map(ToOwned::to_owned),
        instructions: initialized.instructions,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mcp::call::{NeedsInput, Retry};
    use std::sync::Arc;

    fn nothing(_: Revision) -> Discovery {
        Discovery { capabilities: raw("{}".into()), instructions: None }
    }

    fn open(params: &str) -> Result<Opening, Rejection> {
        initialize(Some(&raw(params.to_owned())), &nothing)
    }

    #[test]
    fn a_version_is_negotiated() {
        for (asked, spoken) in [
            ("2024-11-05", "2024-11-05"),
            ("2025-03-26", "2025-03-26"),
            ("2025-06-18", "2025-06-18"),
            ("2025-11-25", "2025-11-25"),
            ("2026-07-28", "2025-11-25"),
            ("nonsense", "2025-11-25"),
        ] {
            let opening = open(&format!(r#"{{"protocolVersion":"{asked}","capabilities":{{}}}}"#)).unwrap();
            assert_eq!(opening.revision.as_str(), spoken);
            let expected =
                format!(r#"{{"protocolVersion":"{spoken}","capabilities":{{}},"serverInfo":{SERVER_INFO}}}"#);
            assert_eq!(opening.result.get(), expected);
        }
        for bad in ["{}", r#"{"protocolVersion":1}"#] {
            assert_eq!(open(bad).unwrap_err().error.code, INVALID_PARAMS, "{bad}");
        }
    }

    #[test]
    fn initialize_says_what_is_offered_in_the_revision() {
        let discovery = |revision: Revision| Discovery {
            capabilities: raw(format!(r#"{{"x":"{revision}"}}"#)),
            instructions: Some("use \"it\"".into()),
        };
        let opening = initialize(Some(&raw(r#"{"protocolVersion":"2025-06-18"}"#.into())), &discovery).unwrap();
        let expected = format!(
            r#"{{"protocolVersion":"2025-06-18","capabilities":{{"x":"2025-06-18"}},"instructions":"use \"it\"","serverInfo":{SERVER_INFO}}}"#
        );
        assert_eq!(opening.result.get(), expected);
        assert!(opening.client.info().is_none());
    }

    #[test]
    fn a_client_has_the_capabilities_of_its_revision() {
        let all = r#"{"roots":{"listChanged":true},"elicitation":{"form":{},"url":{}},"tasks":{"list":{}},"extensions":{"io.modelcontextprotocol/tasks":{},"io.modelcontextprotocol/ui":{"a":1}},"mine":2}"#;
        for (version, expected) in [
            (
                "2025-11-25",
                r#"{"roots":{"listChanged":true},"elicitation":{"form":{},"url":{}},"extensions":{"io.modelcontextprotocol/ui":{"a":1}},"mine":2}"#,
            ),
            (
                "2025-06-18",
                r#"{"roots":{"listChanged":true},"elicitation":{"form":{}},"extensions":{"io.modelcontextprotocol/ui":{"a":1}},"mine":2}"#,
            ),
            (
                "2024-11-05",
                r#"{"roots":{"listChanged":true},"extensions":{"io.modelcontextprotocol/ui":{"a":1}},"mine":2}"#,
            ),
        ] {
            let params = format!(
                r#"{{"protocolVersion":"{version}","capabilities":{all},"clientInfo":{{"name":"c","version":"1"}}}}"#
            );
            let client = open(&params).unwrap().client;
            assert_eq!(client.capabilities().get(), expected);
            assert_eq!(client.info().unwrap().get(), r#"{"name":"c","version":"1"}"#);
        }
        let odd = open(r#"{"protocolVersion":"2025-11-25","capabilities":[],"clientInfo":"c"}"#).unwrap().client;
        assert_eq!((odd.capabilities().get(), odd.info().is_none()), ("{}", true));
    }

    #[test]
    fn the_version_header_must_be_the_negotiated_one_where_there_is_one() {
        let check = |revision, version: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            if let Some(version) = version {
                headers.insert(VERSION_HEADER, http::HeaderValue::from_static(version));
            }
            check_version(&headers, revision).map_err(|rejection| (rejection.status, rejection.error.code))
        };
        for revision in Revision::ALL.into_iter().filter(|revision| revision.is_legacy()) {
            assert_eq!(check(revision, None), Ok(()));
            assert_eq!(check(revision, Some(revision.as_str())), Ok(()));
        }
        assert_eq!(check(Revision::V2025_11_25, Some("2025-06-18")), Err((400, INVALID_REQUEST)));
        assert_eq!(check(Revision::V2025_06_18, Some("x")), Err((400, INVALID_REQUEST)));
        assert_eq!(check(Revision::V2025_03_26, Some("2025-06-18")), Ok(()), "its clients know no such header");
    }

    #[test]
    fn requests_are_read() {
        let read = |revision, method: &str, params: &str| {
            let params = raw(params.to_owned());
            match decode(revision, method, Head::read(Some(&params))) {
                Ok(request) => format!("{request:?}"),
                Err(rejection) => {
                    assert_eq!(rejection.status, 200);
                    format!("{} {}", rejection.error.code, rejection.error.message)
                }
            }
        };
        let name = |method: &str, params: &str| {
            let params = raw(params.to_owned());
            let request = decode(NEWEST, method, Head::read(Some(&params))).unwrap();
            assert_eq!(request.method(), method);
            request.name().map(ToOwned::to_owned)
        };
        assert_eq!(read(NEWEST, "ping", "{}"), "Ping");
        assert_eq!(read(NEWEST, "logging/setLevel", r#"{"level":"alert"}"#), "SetLevel(Alert)");
        assert_eq!(read(NEWEST, "logging/setLevel", r#"{"level":"loud"}"#), "-32602 `level` must be a log level");
        assert_eq!(read(NEWEST, "resources/unsubscribe", r#"{"uri":"a:b"}"#), r#"Unsubscribe { uri: "a:b" }"#);
        assert_eq!(read(NEWEST, "resources/subscribe", "{}"), "-32602 `uri` must be a string");
        assert_eq!(name("resources/subscribe", r#"{"uri":"a:b"}"#), None);
        assert_eq!(name("tools/call", r#"{"name":"t\u0021"}"#).as_deref(), Some("t!"));
        assert_eq!(name("prompts/get", r#"{"name":"p"}"#).as_deref(), Some("p"));
        assert_eq!(name("resources/read", r#"{"uri":"a:b"}"#).as_deref(), Some("a:b"));
        for (method, id) in [("tasks/get", "1"), ("tasks/result", "2"), ("tasks/cancel", "3")] {
            let params = format!(r#"{{"taskId":"{id}"}}"#);
            assert_eq!(name(method, &params).as_deref(), Some(id));
            assert_eq!(read(Revision::V2025_06_18, method, &params), "-32601 method not found");
        }
        for method in ["tasks/update", "tasks/list", "server/discover", "subscriptions/listen", "initialize", "x"] {
            assert_eq!(read(NEWEST, method, r#"{"taskId":"1"}"#), "-32601 method not found", "{method}");
        }
        for method in ["skills/list", "skills/get", "resources/directory/read"] {
            assert_eq!(read(NEWEST, method, r#"{"uri":"a:b"}"#), "-32601 method not found", "{method}");
        }
        for kind in ListKind::ALL.into_iter().filter(|kind| *kind != ListKind::Skills) {
            assert_eq!(name(kind.method(), r#"{"cursor":"c"}"#), None);
            assert_eq!(read(NEWEST, kind.method(), r#"{"cursor":1}"#), "-32602 `cursor` must be a string");
        }
        assert_eq!(read(NEWEST, "tools/call", r#"{"name":1}"#), "-32602 `name` must be a string");
        assert_eq!(
            read(NEWEST, "tools/call", r#"{"name":"t","arguments":[]}"#),
            "-32602 `arguments` must be an object"
        );
        let complete = |reference: &str| read(NEWEST, "completion/complete", &format!(r#"{{"ref":{reference}}}"#));
        assert!(complete(r#"{"type":"ref/prompt","name":"p","title":"P"}"#).contains(r#"Prompt("p")"#));
        assert!(complete(r#"{"uri":"a:{b}","type":"ref/resource"}"#).contains(r#"Template("a:{b}")"#));
        assert_eq!(complete(r#"{"type":"ref/tool","name":"p"}"#), "-32602 `ref` must name a prompt or a resource");
    }

    #[test]
    fn a_task_hint_and_the_rest_of_params_stay() {
        let params =
            raw(r#"{"name":"t","arguments":{"a":1.0},"task":{"ttl":1},"_meta":{"progressToken":7,"x":1}}"#.into());
        let request = decode(NEWEST, "tools/call", Head::read(Some(&params))).unwrap();
        assert_eq!(request.progress_token().unwrap().get(), "7");
        let params = request.params().unwrap();
        assert_eq!(params.members.to_raw().get(), r#"{"name":"t","arguments":{"a":1.0},"task":{"ttl":1}}"#);
        assert_eq!(params.meta.to_raw().get(), r#"{"x":1}"#);
    }

    #[test]
    fn answers_are_written() {
        let write = |answer| match encode(answer) {
            Outcome::Result(result) => result.get().to_owned(),
            Outcome::Error(error) => format!("error {}", error.get()),
            Outcome::NeedsInput(_) => unreachable!("never written"),
        };
        let done =
            |method, result: &str| write(Answer::Done { method, outcome: Outcome::Result(raw(result.to_owned())) });
        assert_eq!(write(Answer::Empty), "{}");
        let page = Page {
            kind: ListKind::Tools,
            items: [
                r#"{"name":"a","outputSchema":{"type":"array"}}"#,
                r#"{"name":"b","outputSchema":{"$schema":"x","type":"object"}}"#,
                r#"{"name":"c","description":"\"outputSchema\""}"#,
                r#"{"name":"d","inputSchema":{"properties":{"outputSchema":{}}}}"#,
                r#"{"outputSchema":{"anyOf":[]},"name":"e"}"#,
                r#"{"name":"f","outputSchema":null}"#,
                r#"{"name":"g","outputSchema":["object"]}"#,
            ]
            .map(|item| Arc::from(raw(item.into())))
            .into(),
            next_cursor: Some("c\"".into()),
            missing: vec!["u".into()],
        };
        assert_eq!(
            write(Answer::Page(page)),
            r#"{"tools":[{"name":"a"},{"name":"b","outputSchema":{"$schema":"x","type":"object"}},{"name":"c","description":"\"outputSchema\""},{"name":"d","inputSchema":{"properties":{"outputSchema":{}}}},{"name":"e"},{"name":"f"},{"name":"g"}],"nextCursor":"c\"","_meta":{"portcullis/missingUpstreams":["u"]}}"#
        );
        let page = Page { kind: ListKind::Templates, items: vec![], next_cursor: None, missing: vec![] };
        assert_eq!(write(Answer::Page(page)), r#"{"resourceTemplates":[]}"#);

        for same in [
            r#"{ "content":[], "structuredContent" : {"a":[1]} , "ttlMs":1}"#,
            r#"{"resultType":"complete","content":[{"structuredContent":[1]}]}"#,
        ] {
            assert_eq!(done("tools/call", same), same);
        }
        for (from, to) in [
            (r#"{"structuredContent":[1],"content":[]}"#, r#"{"content":[]}"#),
            (r#"{"content":[],"structuredContent":null}"#, r#"{"content":[]}"#),
            (r#"{"content":[],"structured\u0043ontent":"x"}"#, r#"{"content":[]}"#),
        ] {
            assert_eq!(done("tools/call", from), to);
        }
        let error = |what: &str| format!(r#"error {{"code":-32603,"message":"the upstream {what}"}}"#);
        assert_eq!(
            done("tools/call", r#"{"resultType":"task","taskId":"1"}"#),
            error("began a task, which this protocol revision cannot follow")
        );
        assert_eq!(
            done("tools/call", r#"{"result\u0054ype":"input_required"}"#),
            error("asked for input where it cannot be given")
        );
        let needs = Outcome::NeedsInput(NeedsInput(Members::default()));
        let needs = Answer::Done { method: "tools/call", outcome: needs };
        assert_eq!(write(needs), error("asked for input that nobody gave"));
    }

    #[test]
    fn a_missing_resource_has_its_old_code() {
        let translate = |method, error: &str| translate_error(method, raw(error.to_owned())).get().to_owned();
        let missing = r#"{"code":-32602,"message":"no \"such\"","data":{"uri":"a:b","x":1}}"#;
        assert_eq!(
            translate("resources/read", missing),
            r#"{"code":-32002,"message":"no \"such\"","data":{"uri":"a:b","x":1}}"#
        );
        assert_eq!(translate("prompts/get", missing), missing);
        for same in [
            r#"{"code":-32602,"message":"bad"}"#,
            r#"{"code":-32602,"message":"bad","data":{"uri":1}}"#,
            r#"{ "code":-32002,"message":"gone","data":{"uri":"a:b"}}"#,
        ] {
            assert_eq!(translate("resources/read", same), same);
        }
    }

    #[test]
    fn upstreams_are_sent_what_the_caller_sent() {
        let mut params = Params::default();
        assert_eq!(request_params(&params, None).get(), "{}");
        params.members = Members::parse(r#"{"name":"t","arguments":{"a":1.0}}"#).unwrap();
        params.retry = Some(Retry { responses: None, state: Some("s".into()) });
        assert_eq!(request_params(&params, None).get(), r#"{"name":"t","arguments":{"a":1.0}}"#);
        let id = RequestId::number(7);
        assert_eq!(
            request_params(&params, Some(&id)).get(),
            r#"{"name":"t","arguments":{"a":1.0},"_meta":{"progressToken":7}}"#
        );
        params.meta = Members::parse(r#"{"traceparent":"00"}"#).unwrap();
        assert_eq!(
            request_params(&params, Some(&id)).get(),
            r#"{"name":"t","arguments":{"a":1.0},"_meta":{"traceparent":"00","progressToken":7}}"#
        );
        assert_eq!(level_params(LogLevel::Notice).get(), r#"{"level":"notice"}"#);
    }

    #[test]
    fn upstreams_are_met_on_somebodys_behalf() {
        let expected = format!(r#"{{"protocolVersion":"2025-11-25","capabilities":{{}},"clientInfo":{SERVER_INFO}}}"#);
        assert_eq!(initialize_params(&Party::gateway()).get(), expected);
        let mut party = Party::gateway();
        party.client = Client::new(Some(raw(r#"{"name":"c"}"#.into())), raw(r#"{"roots":{}}"#.into())).into();
        assert_eq!(
            initialize_params(&party).get(),
            r#"{"protocolVersion":"2025-11-25","capabilities":{"roots":{}},"clientInfo":{"name":"c"}}"#
        );
    }

    #[test]
    fn an_upstream_may_speak_any_legacy_revision() {
        let answer = |version: &str| negotiated(&raw(format!(r#"{{"protocolVersion":"{version}"}}"#)));
        assert_eq!(answer("2024-11-05").as_deref(), Some("2024-11-05"));
        assert_eq!(answer("2025-12-31").as_deref(), Some("2025-12-31"));
        for bad in ["2026-07-28", "2026-12-01", "x", "2024-11\\r\\n"] {
            assert_eq!(answer(bad), None, "{bad}");
        }
        assert_eq!(negotiated(&raw("{}".into())), None);
    }

    #[test]
    fn an_upstream_says_what_it_is() {
        let about = |version: &str, rest: &str| {
            read_about(&raw(format!(r#"{{"protocolVersion":"{version}"{rest}}}"#))).unwrap()
        };
        let full = about(
            "2025-06-18",
            r#","capabilities":{"tools":{"listChanged":true},"resources":{"subscribe":true}},"serverInfo":{"name":"s"},"instructions":"i""#,
        );
        assert_eq!((full.revision.as_str(), full.era), ("2025-06-18", Era::Legacy));
        assert_eq!(full.server_info.unwrap().get(), r#"{"name":"s"}"#);
        assert_eq!(full.instructions.as_deref(), Some("i"));
        assert!(full.capabilities.tools_list_changed && full.capabilities.resources_subscribe);
        assert!(!full.capabilities.completions);
        let bare = about("2025-11-25", "");
        assert!(!bare.capabilities.tools && bare.server_info.is_none() && bare.instructions.is_none());
        assert!(about("2024-11-05", r#","capabilities":{"prompts":{}}"#).capabilities.completions);
        assert!(!about("2024-11-05", r#","capabilities":{"tools":{}}"#).capabilities.completions);
    }

    #[test]
    fn a_cancellation_names_its_request() {
        let read = |params: &str| cancelled_request(Some(&raw(params.to_owned()))).map(|id| id.as_json().to_owned());
        assert_eq!(read(r#"{"requestId":"a","reason":"r"}"#).as_deref(), Some(r#""a""#));
        assert_eq!(read(r#"{"requestId":null}"#), None);
        assert_eq!(cancelled_request(None), None);
    }
}
