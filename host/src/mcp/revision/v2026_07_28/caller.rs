//! 2026-07-28 towards callers: how requests are checked and read, and how answers are written.

use std::borrow::Cow;
use std::sync::Arc;

use http::HeaderMap;
use memchr::memmem;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::kind::{Kind, Top, has_spelled_letters, kind_of};
use super::upstream::ambiguous;
use super::{DISCOVER, LISTEN, META_SERVER_INFO, METHOD_HEADER, NAME_HEADER, VERSION, decode_header};
use crate::mcp::call::{NeedsInput, Outcome, Params, Verb};
use crate::mcp::client::Client;
use crate::mcp::error::{
    HEADER_MISMATCH, INTERNAL_ERROR, INVALID_PARAMS, METHOD_NOT_FOUND, MISSING_CAPABILITY, RESOURCE_NOT_FOUND,
    RpcError, UNSUPPORTED_VERSION,
};
use crate::mcp::json::{quote, raw, to_raw};
use crate::mcp::revision::head::{Head, META_CAPABILITIES, META_LOG_LEVEL, META_VERSION, Retries, read_object, text};
use crate::mcp::revision::request::{forget_task, read_common, read_task};
use crate::mcp::revision::{
    Answer, Asked, Discovery, Filter, MAX_WATCHED, MISSING_UPSTREAMS, Page, Rejection, Request, Revision, SERVER_INFO,
    TASKS_EXTENSION, VERSION_HEADER, push_member,
};
use crate::mcp::talk::LogLevel;

/// A list may be kept this long before it is asked for again, in milliseconds.
const LIST_TTL_MS: u32 = 5_000;
/// The same for what we are and can.
const DISCOVERY_TTL_MS: u32 = 60_000;

/// The methods that may be answered with a question, and repeated with its answer (patterns/mrtr § supported requests).
const IN_ROUNDS: [&str; 3] = ["tools/call", "prompts/get", "resources/read"];

/// The methods of upstreams whose results say how long they may be kept (server/utilities/caching; SEP-2640).
const CACHEABLE: [&str; 3] = ["resources/read", "resources/directory/read", "skills/get"];

/// Reads a request: the envelope, then the headers against it, then what is asked, then the name in the headers.
pub fn decode(headers: &HeaderMap, method: &str, head: Head<'_>) -> Result<Asked, Rejection> {
    let version = head.envelope.version.and_then(text).ok_or_else(|| missing(META_VERSION))?;
    let capabilities = head.envelope.capabilities.filter(|capabilities| capabilities.get().starts_with('{'));
    let capabilities = capabilities.ok_or_else(|| missing(META_CAPABILITIES))?;
    check_header(headers, VERSION_HEADER, &version, Encoding::Plain)?;
    if version != VERSION {
        return Err(unsupported(&version));
    }
    check_header(headers, METHOD_HEADER, method, Encoding::Plain)?;
    let log_level = head.envelope.log_level.map(read_level).transpose()?;
    let info = head.envelope.client_info.filter(|info| info.get().starts_with('{'));
    let client = Client::new(info.map(ToOwned::to_owned), capabilities.to_owned());

    let retries = if IN_ROUNDS.contains(&method) { Retries::Read } else { Retries::Members };
    let mut params = head.into_params(retries)?;
    forget_task(method, &mut params);
    let request = match method {
        DISCOVER => Request::Discover,
        LISTEN => Request::Listen(read_filter(&params)?),
        _ => match task_verb(method) {
            Some(verb) if client.has_extension(TASKS_EXTENSION) => read_task(verb, params)?,
            Some(_) => return Err(tasks_undeclared()),
            None => {
                read_common(method, params)?.ok_or_else(|| Rejection::new(404, METHOD_NOT_FOUND, "method not found"))?
            }
        },
    };
    check_name(headers, &request)?;
    Ok(Asked { request, client: Some(Arc::new(client)), log_level })
}

/// What is missing from the envelope is 400 and −32602 (basic § `_meta`).
fn missing(name: &str) -> Rejection {
    Rejection::new(400, INVALID_PARAMS, format!("`_meta` must have {name:?}"))
}

/// An unknown level is −32602 (server/utilities/logging § error handling).
fn read_level(level: &RawValue) -> Result<LogLevel, Rejection> {
    let level = text(level).and_then(|level| LogLevel::parse(&level));
    level.ok_or_else(|| Rejection::new(400, INVALID_PARAMS, format!("{META_LOG_LEVEL:?} must be a log level")))
}

/// The methods of the tasks extension.
fn task_verb(method: &str) -> Option<Verb> {
    [Verb::GetTask, Verb::UpdateTask, Verb::CancelTask].into_iter().find(|verb| verb.method() == method)
}

fn tasks_undeclared() -> Rejection {
    let data = format!(r#"{{"requiredCapabilities":{{"extensions":{{{}:{{}}}}}}}}"#, quote(TASKS_EXTENSION));
    let error = RpcError::new(MISSING_CAPABILITY, "this needs the client's tasks extension").with_data(raw(data));
    Rejection { status: 400, error }
}

fn read_filter(params: &Params) -> Result<Filter, Rejection> {
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct Notifications {
        tools_list_changed: bool,
        prompts_list_changed: bool,
        resources_list_changed: bool,
        resource_subscriptions: Vec<String>,
    }
    let wanted = params.members.get("notifications").and_then(read_object);
    let Some(Notifications {
        tools_list_changed,
        prompts_list_changed,
        resources_list_changed,
        resource_subscriptions,
    }) = wanted
    else {
        return Err(Rejection::bad_params("`notifications` must be a filter"));
    };
    let mut uris = resource_subscriptions;
    uris.sort_unstable();
    uris.dedup();
    if uris.len() > MAX_WATCHED {
        return Err(Rejection::bad_params(format!("`resourceSubscriptions` has more than {MAX_WATCHED} URIs")));
    }
    Ok(Filter { tools: tools_list_changed, prompts: prompts_list_changed, resources: resources_list_changed, uris })
}

/// `Mcp-Name` must say what the body says (transports/streamable-http § standard request headers; tasks extension
/// § routing headers). Skills and directories have no rule of their own: there, only a wrong one is refused.
fn check_name(headers: &HeaderMap, request: &Request) -> Result<(), Rejection> {
    let Some(name) = request.name() else { return Ok(()) };
    if matches!(request, Request::ReadDirectory { .. } | Request::GetSkill { .. }) && !headers.contains_key(NAME_HEADER)
    {
        return Ok(());
    }
    check_header(headers, NAME_HEADER, name, Encoding::Sentinels)
}

/// Whether a header's value may be base64 between sentinels.
#[derive(Clone, Copy)]
enum Encoding {
    Plain,
    Sentinels,
}

/// A header must be there once and say what the body says.
fn check_header(headers: &HeaderMap, name: &'static str, body: &str, encoding: Encoding) -> Result<(), Rejection> {
    let mismatch = |what: &str| Rejection::new(400, HEADER_MISMATCH, format!("header `{name}` {what}"));
    let mut values = headers.get_all(name).iter();
    let value = values.next().ok_or_else(|| mismatch("is missing"))?;
    if values.next().is_some() {
        return Err(mismatch("occurs more than once"));
    }
    let value = match encoding {
        Encoding::Plain => value.to_str().ok().map(Cow::Borrowed),
        Encoding::Sentinels => decode_header(value),
    };
    let value = value.ok_or_else(|| mismatch("has characters or an encoding that it cannot have"))?;
    if value == body { Ok(()) } else { Err(mismatch("differs from the body")) }
}

fn unsupported(requested: &str) -> Rejection {
    let requested: String = requested.chars().take(64).collect();
    let data = format!(r#"{{"supported":{},"requested":{}}}"#, supported_versions().get(), quote(&requested));
    let error = RpcError::new(UNSUPPORTED_VERSION, "unsupported protocol version").with_data(raw(data));
    Rejection { status: 400, error }
}

fn supported_versions() -> Box<RawValue> {
    to_raw(&Revision::ALL.map(Revision::as_str))
}

/// Writes an answer.
pub fn encode(answer: Answer) -> Outcome {
    match answer {
        Answer::Empty => Outcome::Result(close(complete(), None)),
        Answer::Discovery(discovery) => Outcome::Result(write_discovery(&discovery)),
        Answer::Page(page) => Outcome::Result(write_page(&page)),
        Answer::Done { method, outcome: Outcome::Result(result) } => finish_result(method, result),
        Answer::Done { outcome: Outcome::Error(error), .. } => Outcome::Error(translate_error(error)),
        Answer::Done { method, outcome: Outcome::NeedsInput(NeedsInput(members)) } => {
            if IN_ROUNDS.contains(&method) {
                Outcome::Result(members.to_raw())
            } else {
                unexpected_question()
            }
        }
    }
}

/// HTTP status of a response with this error, where the body is not a stream: those that this revision fixes
/// (transports/streamable-http; basic § `_meta`), and 200 for all others.
pub fn error_status(error: &RawValue) -> u16 {
    let known = |known: i32, code: i64| i64::from(known) == code;
    match ErrorObject::read(error).map(|error| error.code) {
        Some(code) if known(METHOD_NOT_FOUND, code) => 404,
        Some(code) if super::is_modern_error(code) => 400,
        _ => 200,
    }
}

fn complete() -> String {
    let mut out = String::with_capacity(512);
    out.push_str(r#"{"resultType":"complete""#);
    out
}

/// What we say depends on who asks, so that it is never shared between callers.
fn push_cache_hints(out: &mut String, ttl_ms: u32) {
    push_member(out, "ttlMs", &ttl_ms.to_string());
    push_member(out, "cacheScope", r#""private""#);
}

/// Adds our name and what is missing, and ends the result.
fn close(mut out: String, missing: Option<&RawValue>) -> Box<RawValue> {
    push_member(&mut out, "_meta", "{");
    push_member(&mut out, META_SERVER_INFO, SERVER_INFO);
    if let Some(missing) = missing {
        push_member(&mut out, MISSING_UPSTREAMS, missing.get());
    }
    out.push_str("}}");
    raw(out)
}

fn write_discovery(discovery: &Discovery) -> Box<RawValue> {
    let mut out = complete();
    push_member(&mut out, "supportedVersions", supported_versions().get());
    push_member(&mut out, "capabilities", discovery.capabilities.get());
    if let Some(instructions) = &discovery.instructions {
        push_member(&mut out, "instructions", &quote(instructions));
    }
    push_cache_hints(&mut out, DISCOVERY_TTL_MS);
    close(out, None)
}

fn write_page(page: &Page) -> Box<RawValue> {
    let mut out = complete();
    page.write(&mut out, |item| Cow::Borrowed(item.get()));
    push_cache_hints(&mut out, LIST_TTL_MS);
    close(out, page.missing().as_deref())
}

/// An upstream's result as one of this revision: with a type and, where they belong, cache hints of which the scope is
/// always private. What has them already passes as it is.
fn finish_result(method: &str, result: Box<RawValue>) -> Outcome {
    let is_typed = match kind_of(&result) {
        Kind::Untyped => false,
        Kind::Complete => true,
        // Its hints, if any, are about the task.
        Kind::Task | Kind::Other => return Outcome::Result(result),
        // Only what was recognised when it arrived may ask: it was looked at, and its state is sealed.
        Kind::InputRequired => return unexpected_question(),
        Kind::Ambiguous => return ambiguous(),
    };
    let is_cacheable = CACHEABLE.contains(&method);
    if is_typed && !is_cacheable {
        return Outcome::Result(result);
    }
    let text = result.get();
    let has = |name: &str| memmem::find(text.as_bytes(), name.as_bytes()).is_some();
    let is_spelled = has_spelled_letters(text);
    let mut patch = Patch::of(text);
    if !is_typed {
        patch.add(r#""resultType":"complete""#);
    }
    if is_cacheable {
        let hints = if is_spelled || has(r#""ttlMs""#) || has(r#""cacheScope""#) {
            let Some(top) = Top::read(&result) else { return ambiguous() };
            top
        } else {
            Top::default()
        };
        match hints.ttl_ms {
            None => patch.add(r#""ttlMs":0"#),
            Some(ttl) if ttl.get().parse::<u64>().is_err() => patch.replace(ttl, "0"),
            Some(_) => {}
        }
        match hints.cache_scope {
            None => patch.add(r#""cacheScope":"private""#),
            Some(scope) if scope.get() != r#""private""# => patch.replace(scope, r#""private""#),
            Some(_) => {}
        }
    }
    if patch.is_empty() {
        return Outcome::Result(result);
    }
    // It is written anew anyway: say who we are, unless the upstream has something to say there.
    if !is_spelled && !has(r#""_meta""#) {
        patch.add(META);
    }
    Outcome::Result(patch.apply())
}

/// `_meta` with our name, as one member.
const META: &str = concat!(
    r#""_meta":{"io.modelcontextprotocol/serverInfo":{"name":"portcullis","title":"Portcullis","version":""#,
    env!("CARGO_PKG_VERSION"),
    r#""}}"#
);

/// Changes to the text of an object.
struct Patch<'a> {
    text: &'a str,
    /// Members to add in front.
    added: Vec<&'static str>,
    /// Where values stand, and what they become.
    replaced: Vec<(usize, usize, &'static str)>,
}

impl<'a> Patch<'a> {
    fn of(text: &'a str) -> Self {
        Self { text, added: Vec::new(), replaced: Vec::new() }
    }

    fn is_empty(&self) -> bool {
        self.added.is_empty() && self.replaced.is_empty()
    }

    fn add(&mut self, member: &'static str) {
        self.added.push(member);
    }

    /// `value` was read from this text.
    fn replace(&mut self, value: &RawValue, with: &'static str) {
        let start = value.get().as_ptr().addr() - self.text.as_ptr().addr();
        self.replaced.push((start, start + value.get().len(), with));
    }

    fn apply(mut self) -> Box<RawValue> {
        self.replaced.sort_unstable();
        let added = self.added.join(",");
        let mut out = String::with_capacity(self.text.len() + added.len() + 32);
        let rest = self.text.strip_prefix('{').expect("a result is an object");
        out.push('{');
        out.push_str(&added);
        if !added.is_empty() && !rest.trim_ascii_start().starts_with('}') {
            out.push(',');
        }
        let mut at = 1;
        for (start, end, with) in self.replaced {
            out.push_str(&self.text[at..start]);
            out.push_str(with);
            at = end;
        }
        out.push_str(&self.text[at..]);
        raw(out)
    }
}

fn unexpected_question() -> Outcome {
    let error = RpcError::new(INTERNAL_ERROR, "the upstream asked for input where it cannot be given");
    Outcome::Error(error.to_raw())
}

/// A JSON-RPC error, in its parts.
#[derive(Deserialize)]
pub(in crate::mcp::revision) struct ErrorObject<'a> {
    pub(in crate::mcp::revision) code: i64,
    #[serde(borrow)]
    pub(in crate::mcp::revision) message: Cow<'a, str>,
    #[serde(borrow)]
    pub(in crate::mcp::revision) data: Option<&'a RawValue>,
}

impl<'a> ErrorObject<'a> {
    pub(in crate::mcp::revision) fn read(error: &'a RawValue) -> Option<Self> {
        read_object(error)
    }

    /// The same error under another code.
    pub(in crate::mcp::revision) fn under(&self, code: i32) -> Box<RawValue> {
        let mut error = RpcError::new(code, self.message.as_ref());
        error.data = self.data.map(ToOwned::to_owned);
        error.to_raw()
    }
}

/// An upstream's error under a code that this revision allows (basic § error codes). A resource that does not exist has a
/// new code; codes that are retired, or that would say something of our caller's request when they were about ours, are
/// an internal error that names the old one in `data`.
fn translate_error(error: Box<RawValue>) -> Box<RawValue> {
    let Some(read) = ErrorObject::read(&error) else {
        return RpcError::new(INTERNAL_ERROR, "the upstream's error cannot be read").to_raw();
    };
    match read.code {
        code if code == i64::from(RESOURCE_NOT_FOUND) => read.under(INVALID_PARAMS),
        code if code == i64::from(MISSING_CAPABILITY) => error,
        -32_099..=-32_000 => {
            let data = read.data.map_or("null", RawValue::get);
            let data = raw(format!(r#"{{"upstreamCode":{},"upstreamData":{data}}}"#, read.code));
            RpcError::new(INTERNAL_ERROR, read.message).with_data(data).to_raw()
        }
        _ => error,
    }
}
