//! Native tests: a policy is tried with plain `cargo test`, without WebAssembly.
//!
//! [`cases`] runs a table of cases, the same that `portcullis policy test` runs on the module; the builders are for what is
//! easier to say in Rust; [`set_clock`], [`put_set`] and [`reset`] are for what the host's functions answer.
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

mod cases;
pub(crate) mod doubles;
mod redaction;

use serde_json::Value;

use crate::{
    Access, Call, CallResult, Caller, Context, Hook, Info, Item, ItemKind, ItemOutput, Module, Part, Policy, Problem,
    SubjectKind, Tool, ToolHints, Transport, Upstream, glue,
};

pub use cases::cases;
pub use doubles::{logged, put_set, reset, set_clock};
pub use redaction::apply;

/// The policy with this configuration, read as the module reads it.
pub fn configure<P: Policy>(config: &Value) -> Result<P, Vec<Problem>> {
    glue::from_json(&config.to_string())
}

/// Asks one hook in the contract's JSON form: `input` holds `context` and [`Hook::parameter`], and what is left out has a
/// harmless value.
///
/// # Errors
/// What is wrong with the input, or that the policy has no such hook.
pub fn ask<P: Module>(policy: &P, hook: Hook, input: &Value) -> Result<Value, String> {
    policy.ask(hook, input.clone())
}

/// What the policy says about itself, after the checks that the host makes of every policy.
///
/// # Panics
/// If the name, the version or a JSON text is not as the contract wants it, or `configure` refuses the sample.
pub fn manifest<P: Module>() -> Info {
    let info = P::manifest().into_info(P::HOOKS);
    let hooks = &info.hooks;
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
        now_ms: doubles::NOW_MS,
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
    CallResult { tool, is_error: false, parts: parts(texts), structured: None, elapsed_ms: 5 }
}

/// A result with structured content and no parts.
pub fn structured(tool: Tool, content: &Value) -> CallResult {
    CallResult { structured: Some(content.to_string()), ..result(tool, &[]) }
}

/// A resource, template, prompt or skill in a list.
pub fn item(kind: ItemKind, upstream: &str, id: &str) -> Item {
    Item { kind, upstream: upstream.to_owned(), id: id.to_owned(), mime: None, labels: Vec::new() }
}

/// The use of an item, by an MCP method such as `resources/read`.
pub fn access(method: &str, item: &Item) -> Access {
    Access {
        method: method.to_owned(),
        kind: item.kind,
        upstream: Upstream { id: item.upstream.clone(), ..Upstream::default() },
        id: item.id.clone(),
        arguments: None,
    }
}

/// What an item was answered with, one part for each text.
pub fn item_output(method: &str, item: &Item, texts: &[&str]) -> ItemOutput {
    ItemOutput {
        method: method.to_owned(),
        kind: item.kind,
        upstream: item.upstream.clone(),
        id: item.id.clone(),
        parts: parts(texts),
    }
}

fn parts(texts: &[&str]) -> Vec<Part> {
    let part = |(index, text): (u32, &&str)| Part {
        index,
        kind: "text".to_owned(),
        mime: None,
        bytes: size(text),
        text: Some((*text).to_owned()),
    };
    (0..).zip(texts).map(part).collect()
}

fn size(text: &str) -> u32 {
    u32::try_from(text.len()).expect("a text of a test")
}
