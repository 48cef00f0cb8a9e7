//! 2026-07-28 towards upstreams: what we send as a client, and how we read what comes back.

use http::{HeaderName, HeaderValue};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::kind::{Kind, kind_of};
use super::listen::write_filter;
use super::{META_SERVER_INFO, METHOD_HEADER, NAME_HEADER, VERSION, encode_header};
use crate::mcp::call::{NeedsInput, Outcome, Params};
use crate::mcp::error::{HEADER_MISMATCH, INTERNAL_ERROR, MISSING_CAPABILITY, RpcError, UNSUPPORTED_VERSION};
use crate::mcp::json::{Members, quote, raw};
use crate::mcp::message::RequestId;
use crate::mcp::revision::about::{About, Capabilities};
use crate::mcp::revision::head::{META_CAPABILITIES, META_CLIENT_INFO, META_LOG_LEVEL, META_VERSION};
use crate::mcp::revision::{Era, Filter, SERVER_INFO, VERSION_HEADER, push_member};
use crate::mcp::talk::{LogLevel, Party};

/// The method by which a server says what it is.
pub const DISCOVER: &str = "server/discover";

/// What a caller hears of an upstream's log if it could say and did not: legacy revisions leave that to the server, this
/// one sends nothing unasked.
const UNASKED_LEVEL: LogLevel = LogLevel::Info;

/// `params` of a request on somebody's behalf: theirs, and in `_meta` who asks in which revision. `progress` is the token
/// for progress notifications, if they are wanted.
pub fn request_params(params: &Params, party: &Party, progress: Option<&RequestId>) -> Box<RawValue> {
    let size =
        |members: &Members| members.iter().map(|(name, value)| name.len() + value.get().len() + 4).sum::<usize>();
    let client = &party.client;
    let info = client.info().map_or(SERVER_INFO, RawValue::get);
    let capabilities = client.capabilities().get();
    let envelope = 256 + info.len() + capabilities.len();
    let mut out = String::with_capacity(size(&params.members) + size(&params.meta) + envelope);
    out.push('{');
    for (name, value) in params.members.iter() {
        push_member(&mut out, name, value.get());
    }
    if let Some(retry) = &params.retry {
        if let Some(responses) = &retry.responses {
            push_member(&mut out, "inputResponses", responses.get());
        }
        if let Some(state) = &retry.state {
            push_member(&mut out, "requestState", &quote(state));
        }
    }
    push_member(&mut out, "_meta", "{");
    for (name, value) in params.meta.iter() {
        push_member(&mut out, name, value.get());
    }
    if let Some(token) = progress {
        push_member(&mut out, "progressToken", token.as_json());
    }
    push_member(&mut out, META_VERSION, &quote(VERSION));
    push_member(&mut out, META_CLIENT_INFO, info);
    push_member(&mut out, META_CAPABILITIES, capabilities);
    if let Some(level) = party.log_level.or_else(|| party.session.as_ref().map(|_| UNASKED_LEVEL)) {
        push_member(&mut out, META_LOG_LEVEL, &quote(level.as_str()));
    }
    out.push_str("}}");
    raw(out)
}

/// `params` of a `subscriptions/listen`.
pub fn listen_params(party: &Party, filter: &Filter) -> Box<RawValue> {
    let mut params = Params::default();
    params.members.set("notifications", write_filter(filter));
    request_params(&params, party, None)
}

/// `params` of the [`DISCOVER`] by which we find out whether an upstream speaks this revision.
pub fn probe() -> Box<RawValue> {
    request_params(&Params::default(), &Party::gateway(), None)
}

/// The headers that repeat what the body says (transports/streamable-http § request metadata). `name` is what
/// `Mcp-Name` has, for methods that have it.
pub fn request_headers(method: &'static str, name: Option<&str>) -> Vec<(HeaderName, HeaderValue)> {
    let mut headers = Vec::with_capacity(3);
    headers.push((HeaderName::from_static(VERSION_HEADER), HeaderValue::from_static(VERSION)));
    headers.push((HeaderName::from_static(METHOD_HEADER), HeaderValue::from_static(method)));
    if let Some(name) = name {
        headers.push((HeaderName::from_static(NAME_HEADER), encode_header(name)));
    }
    headers
}

/// What a `result` is. One that says two things at once is an error.
pub fn outcome(result: &RawValue) -> Outcome {
    match kind_of(result) {
        Kind::InputRequired => match Members::parse(result.get()) {
            Ok(members) => Outcome::NeedsInput(NeedsInput(members)),
            Err(_) => ambiguous(),
        },
        Kind::Ambiguous => ambiguous(),
        Kind::Untyped | Kind::Complete | Kind::Task | Kind::Other => Outcome::Result(result.to_owned()),
    }
}

pub(super) fn ambiguous() -> Outcome {
    let error = RpcError::new(INTERNAL_ERROR, "the upstream's result has a member twice");
    Outcome::Error(error.to_raw())
}

/// Whether an error code is one by which an upstream shows that it speaks this revision (versioning § backward
/// compatibility).
pub fn is_modern_error(code: i64) -> bool {
    [HEADER_MISMATCH, MISSING_CAPABILITY, UNSUPPORTED_VERSION].into_iter().any(|known| i64::from(known) == code)
}

/// The revisions that an upstream names in the error by which it refuses ours; `None` if this is another error.
pub fn supported(error: &RawValue) -> Option<Vec<String>> {
    #[derive(Deserialize)]
    struct Refused {
        code: i64,
        data: Option<Data>,
    }
    #[derive(Deserialize)]
    struct Data {
        supported: Vec<String>,
    }
    let refused: Refused = serde_json::from_str(error.get()).ok()?;
    let is_version = refused.code == i64::from(UNSUPPORTED_VERSION);
    is_version.then(|| refused.data.map(|data| data.supported).unwrap_or_default())
}

/// Reads the answer to [`DISCOVER`]; `None` if it is none, or this revision is not among those that it names.
pub fn read_about(result: &RawValue) -> Option<About> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Discovered<'a> {
        supported_versions: Vec<String>,
        #[serde(borrow)]
        capabilities: Option<&'a RawValue>,
        instructions: Option<String>,
        #[serde(borrow, rename = "_meta")]
        meta: Option<&'a RawValue>,
    }
    let discovered: Discovered<'_> = serde_json::from_str(result.get()).ok()?;
    if !discovered.supported_versions.iter().any(|version| version == VERSION) {
        return None;
    }
    let meta = discovered.meta.and_then(|meta| Members::parse(meta.get()).ok());
    let server_info = meta.and_then(|mut meta| meta.remove(META_SERVER_INFO));
    Some(About {
        revision: VERSION.to_owned(),
        era: Era::Modern,
        capabilities: Capabilities::read(discovered.capabilities),
        server_info: server_info.filter(|info| info.get().starts_with('{')),
        instructions: discovered.instructions,
    })
}
