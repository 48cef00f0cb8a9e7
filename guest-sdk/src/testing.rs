//! Builders for native tests: a policy is tried with plain `cargo test`, without WebAssembly.
//!
//! ```
//! # use portcullis_guest_sdk::{testing, Call, Context, Manifest, NoConfig, Policy, Problem, ToolCall, Verdict};
//! # struct Shy;
//! # impl Policy for Shy {
//! #     type Config = NoConfig;
//! #     fn manifest() -> Manifest { Manifest::new("shy", "0.1.0", "Refuses all") }
//! #     fn configure(_: NoConfig) -> Result<Self, Vec<Problem>> { Ok(Self) }
//! # }
//! # impl ToolCall for Shy {
//! #     fn before(&self, _: &Context, _: &Call) -> Verdict { Verdict::deny("shy.no", "no") }
//! # }
//! use serde_json::json;
//!
//! let shy: Shy = testing::configure(&json!({})).unwrap();
//! let call = testing::call(testing::tool("notes", "delete_note"), &json!({"id": 7}));
//! assert!(matches!(shy.before(&testing::context(), &call), Verdict::Deny(_)));
//! ```

use std::cell::RefCell;

use serde_json::Value;

use crate::bindings::exports::portcullis::policy::manifest::Info;
use crate::log::Level;
use crate::{
    Call, CallResult, Caller, Context, EditOp, Hook, Part, Policy, Problem, Redaction, SubjectKind, Tool, ToolHints,
    Transport, Upstream, glue,
};

thread_local! {
    static LINES: RefCell<Vec<(Level, String)>> = const { RefCell::new(Vec::new()) };
}

/// The policy with this configuration, read as the module reads it.
pub fn configure<P: Policy>(config: &Value) -> Result<P, Vec<Problem>> {
    glue::from_json(&config.to_string())
}

/// What the policy says about itself, after the checks that the host makes of every policy with these hooks.
///
/// # Panics
/// If the name, the version or a JSON text is not as the contract wants it, or `configure` refuses the sample.
pub fn manifest<P: Policy>(hooks: &[Hook]) -> Info {
    let info = P::manifest().into_info(hooks);
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    assert!((1..=64).contains(&info.name.len()) && info.name.bytes().all(plain), "name: {:?}", info.name);
    assert!(info.version.split('.').count() >= 3, "version: {:?}", info.version);
    assert!(!info.title.is_empty(), "a policy has a title");
    assert!(info.mutates.iter().all(|hook| hooks.contains(hook)), "mutates a hook that is not exported");
    assert!(info.needs.iter().all(|need| hooks.contains(&need.hook)), "needs of a hook that is not exported");
    let schema: Value = serde_json::from_str(&info.config_schema).expect("the schema is JSON");
    assert!(schema.is_object(), "the schema is an object");
    let sample: Value = serde_json::from_str(&info.sample_config).expect("the sample is JSON");
    assert!(sample.is_object(), "the sample is an object");
    if let Err(problems) = configure::<P>(&sample) {
        panic!("the sample is refused: {problems:?}");
    }
    info
}

/// A virtual key named `ada` that speaks the newest revision over streamable HTTP.
pub fn context() -> Context {
    Context {
        decision_id: "decision-1".to_owned(),
        trace_id: String::new(),
        now_ms: 1_800_000_000_000,
        session_id: None,
        transport: Transport::StreamableHttp,
        protocol_version: "2026-07-28".to_owned(),
        remote_ip: Some("203.0.113.7".to_owned()),
        user_agent: None,
        caller: Caller {
            subject: "ada".to_owned(),
            kind: SubjectKind::Service,
            issuer: "portcullis".to_owned(),
            tenant: String::new(),
            client_id: String::new(),
            actor_chain: Vec::new(),
            groups: Vec::new(),
            scopes: Vec::new(),
            acr: None,
            amr: Vec::new(),
            auth_time: None,
            claims: "{}".to_owned(),
        },
        satisfied: Vec::new(),
        ext: Vec::new(),
    }
}

/// A tool without hints or texts, exposed as `upstream__name`.
pub fn tool(upstream: &str, name: &str) -> Tool {
    Tool {
        upstream: upstream.to_owned(),
        name: name.to_owned(),
        exposed_as: format!("{upstream}__{name}"),
        hints: ToolHints::empty(),
        digest: "0".repeat(64),
        labels: Vec::new(),
        title: None,
        description: None,
        input_schema: None,
    }
}

/// A tool with these hints.
pub fn hinted(upstream: &str, name: &str, hints: ToolHints) -> Tool {
    Tool { hints, ..tool(upstream, name) }
}

/// A call with these arguments.
pub fn call(tool: Tool, arguments: &Value) -> Call {
    let arguments = arguments.to_string();
    Call {
        upstream: Upstream { id: tool.upstream.clone(), trust: String::new(), labels: Vec::new() },
        tool,
        arguments_bytes: size(&arguments),
        arguments: Some(arguments),
        meta: None,
    }
}

/// A result with these texts, one part for each.
pub fn result(tool: Tool, texts: &[&str]) -> CallResult {
    let parts = (0..).zip(texts).map(|(index, text)| Part {
        index,
        kind: "text".to_owned(),
        mime: None,
        bytes: size(text),
        text: Some((*text).to_owned()),
    });
    CallResult { tool, is_error: false, parts: parts.collect(), structured: None, elapsed_ms: 5 }
}

/// A result with structured content and no parts.
pub fn structured(tool: Tool, content: &Value) -> CallResult {
    CallResult { structured: Some(content.to_string()), ..result(tool, &[]) }
}

/// The texts and the structured content that are left after a redaction, with the checks that the host makes.
///
/// # Errors
/// What the host would refuse the redaction for.
pub fn apply(result: &CallResult, redaction: &Redaction) -> Result<(Vec<String>, Option<Value>), String> {
    let mut texts = Vec::new();
    for part in &result.parts {
        if redaction.drop_parts.contains(&part.index) {
            continue;
        }
        texts.push(replaced(part, redaction)?);
    }
    if let Some(span) = redaction.spans.iter().find(|span| result.parts.iter().all(|part| part.index != span.part)) {
        return Err(format!("there is no part {}", span.part));
    }
    let mut structured = match &result.structured {
        Some(text) => Some(serde_json::from_str(text).map_err(|error| error.to_string())?),
        None => None,
    };
    for edit in &redaction.structured {
        let document = structured.as_mut().ok_or("an edit of nothing")?;
        apply_edit(document, &edit.pointer, &edit.op).ok_or_else(|| format!("nothing at {:?}", edit.pointer))?;
    }
    Ok((texts, structured))
}

/// The lines that the policy has logged in this thread since the last time.
pub fn logged() -> Vec<(Level, String)> {
    LINES.take()
}

pub(crate) fn keep_line(level: Level, message: &str) {
    LINES.with_borrow_mut(|lines| lines.push((level, message.to_owned())));
}

fn replaced(part: &Part, redaction: &Redaction) -> Result<String, String> {
    let text = part.text.as_deref().unwrap_or_default();
    let (mut out, mut done) = (String::new(), 0);
    for span in redaction.spans.iter().filter(|span| span.part == part.index) {
        let (start, end) = (span.start as usize, span.end as usize);
        if start < done || end < start {
            return Err(format!("spans out of order at {start}..{end}"));
        }
        let kept =
            text.get(done..start).ok_or_else(|| format!("{start} is inside of a character or behind the end"))?;
        text.get(start..end).ok_or_else(|| format!("{end} is inside of a character or behind the end"))?;
        out.push_str(kept);
        out.push_str(&span.replacement);
        done = end;
    }
    out.push_str(&text[done..]);
    Ok(out)
}

/// `None` where the pointer leads nowhere or a mask meets something else than a string.
fn apply_edit(document: &mut Value, pointer: &str, op: &EditOp) -> Option<()> {
    match op {
        EditOp::Mask(text) => match document.pointer_mut(pointer)? {
            Value::String(old) => text.clone_into(old),
            _ => return None,
        },
        EditOp::Set(value) => {
            let value = serde_json::from_str(value).ok()?;
            match parent(document, pointer)? {
                (Value::Object(members), name) => drop(members.insert(name, value)),
                (Value::Array(items), index) => *items.get_mut(index.parse::<usize>().ok()?)? = value,
                _ => return None,
            }
        }
        EditOp::Remove => match parent(document, pointer)? {
            (Value::Object(members), name) => drop(members.remove(&name)?),
            (Value::Array(items), index) => {
                let index = index.parse().ok().filter(|index| *index < items.len())?;
                items.remove(index);
            }
            _ => return None,
        },
    }
    Some(())
}

fn parent<'a>(document: &'a mut Value, pointer: &str) -> Option<(&'a mut Value, String)> {
    let (parent, token) = pointer.rsplit_once('/')?;
    Some((document.pointer_mut(parent)?, token.replace("~1", "/").replace("~0", "~")))
}

fn size(text: &str) -> u32 {
    u32::try_from(text.len()).expect("a text of a test")
}
