//! The words that all hooks share: interface `types`.

use serde::{Deserialize, Serialize};
use wasmtime::component::{ComponentType, Lift, Lower};

use super::json::flag_names;

fn yes() -> bool {
    true
}

/// One named value in an open-ended list.
#[derive(ComponentType, Lower, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[component(record)]
#[serde(deny_unknown_fields)]
#[serde(bound(serialize = "S: AsRef<str> + Serialize", deserialize = "S: Deserialize<'de> + From<String>"))]
pub(in crate::policy) struct Attr<S> {
    pub(in crate::policy) name: S,
    #[serde(with = "super::json")]
    pub(in crate::policy) value: S,
}

/// What kind of principal acts.
#[derive(ComponentType, Lower, Serialize, Deserialize, Clone, Debug, PartialEq, Copy, Eq, Default)]
#[component(enum)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub(in crate::policy) enum SubjectKind {
    /// A person.
    #[default]
    #[component(name = "user")]
    User,
    /// A virtual key handed out by an operator.
    #[component(name = "service")]
    Service,
    /// An agent acting for a person.
    #[component(name = "agent")]
    Agent,
    /// A caller without credentials.
    #[component(name = "anonymous")]
    Anonymous,
}

/// Who acts. No token, cookie or secret ever appears here.
#[derive(ComponentType, Lower, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[component(record)]
#[serde(deny_unknown_fields, default)]
#[serde(bound(serialize = "S: AsRef<str> + Serialize", deserialize = "S: Deserialize<'de> + Default + From<String>"))]
pub(in crate::policy) struct Caller<S> {
    /// Stable identifier of the principal, unique within `issuer`.
    pub(in crate::policy) subject: S,
    pub(in crate::policy) kind: SubjectKind,
    /// Who vouches for `subject`; `portcullis` for virtual keys.
    pub(in crate::policy) issuer: S,
    /// Reserved; empty in 0.1.
    pub(in crate::policy) tenant: S,
    /// The OAuth client, or the empty string where a virtual key is used directly.
    #[component(name = "client-id")]
    pub(in crate::policy) client_id: S,
    /// RFC 8693 `act` chain, outermost first.
    #[component(name = "actor-chain")]
    pub(in crate::policy) actor_chain: Vec<S>,
    pub(in crate::policy) groups: Vec<S>,
    pub(in crate::policy) scopes: Vec<S>,
    /// Authentication context class reference, when known.
    pub(in crate::policy) acr: Option<S>,
    /// Authentication methods (RFC 8176).
    pub(in crate::policy) amr: Vec<S>,
    /// When the person authenticated, in seconds since the Unix epoch.
    #[component(name = "auth-time")]
    pub(in crate::policy) auth_time: Option<u64>,
    /// A JSON object with the claims named in the manifest's need for the hook, and no others; `{}` where the caller has
    /// none.
    #[serde(with = "super::json", default = "super::json::empty_object")]
    pub(in crate::policy) claims: S,
}

impl<S: Default + From<String>> Default for Caller<S> {
    fn default() -> Self {
        Self {
            subject: S::default(),
            kind: SubjectKind::default(),
            issuer: S::default(),
            tenant: S::default(),
            client_id: S::default(),
            actor_chain: Vec::new(),
            groups: Vec::new(),
            scopes: Vec::new(),
            acr: None,
            amr: Vec::new(),
            auth_time: None,
            claims: super::json::empty_object(),
        }
    }
}

/// How the request reached the gateway.
#[derive(ComponentType, Lower, Serialize, Deserialize, Clone, Debug, PartialEq, Copy, Eq, Default)]
#[component(enum)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub(in crate::policy) enum Transport {
    #[default]
    #[component(name = "streamable-http")]
    StreamableHttp,
    #[component(name = "stdio")]
    Stdio,
    #[component(name = "sse")]
    Sse,
    #[component(name = "internal")]
    Internal,
}

/// What surrounds one decision.
#[derive(ComponentType, Lower, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[component(record)]
#[serde(deny_unknown_fields, default)]
#[serde(bound(serialize = "S: AsRef<str> + Serialize", deserialize = "S: Deserialize<'de> + Default + From<String>"))]
pub(in crate::policy) struct Context<S> {
    /// Identifies this decision in the decision log.
    #[component(name = "decision-id")]
    pub(in crate::policy) decision_id: S,
    /// W3C trace id, or the empty string.
    #[component(name = "trace-id")]
    pub(in crate::policy) trace_id: S,
    /// Time of the decision in milliseconds since the Unix epoch; it stands still during the call.
    #[component(name = "now-ms")]
    pub(in crate::policy) now_ms: u64,
    /// The MCP session, for revisions that have sessions.
    #[component(name = "session-id")]
    pub(in crate::policy) session_id: Option<S>,
    pub(in crate::policy) transport: Transport,
    /// The MCP revision that the caller speaks, such as `2026-07-28`.
    #[component(name = "protocol-version")]
    pub(in crate::policy) protocol_version: S,
    #[component(name = "remote-ip")]
    pub(in crate::policy) remote_ip: Option<S>,
    #[component(name = "user-agent")]
    pub(in crate::policy) user_agent: Option<S>,
    pub(in crate::policy) caller: Caller<S>,
    /// Codes of approvals and step-ups that were already given for this call.
    pub(in crate::policy) satisfied: Vec<S>,
    /// Further facts that the manifest asked for.
    pub(in crate::policy) ext: Vec<Attr<S>>,
}

impl<S: Default + From<String>> Default for Context<S> {
    fn default() -> Self {
        Self {
            decision_id: S::default(),
            trace_id: S::default(),
            now_ms: 0,
            session_id: None,
            transport: Transport::default(),
            protocol_version: S::default(),
            remote_ip: None,
            user_agent: None,
            caller: Caller::default(),
            satisfied: Vec::new(),
            ext: Vec::new(),
        }
    }
}

/// An MCP server behind the gateway.
#[derive(ComponentType, Lower, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[component(record)]
#[serde(deny_unknown_fields, default)]
#[serde(bound(serialize = "S: AsRef<str> + Serialize", deserialize = "S: Deserialize<'de> + Default + From<String>"))]
pub(in crate::policy) struct Upstream<S> {
    pub(in crate::policy) id: S,
    /// The operator's trust label, or the empty string.
    pub(in crate::policy) trust: S,
    pub(in crate::policy) labels: Vec<S>,
}

// MCP tool annotations, and what the gateway itself knows of a tool.
wasmtime::component::flags! {
    ToolHints {
        #[component(name = "read-only")]
        const READ_ONLY;
        #[component(name = "destructive")]
        const DESTRUCTIVE;
        #[component(name = "idempotent")]
        const IDEMPOTENT;
        #[component(name = "open-world")]
        const OPEN_WORLD;
        #[component(name = "first-seen")]
        const FIRST_SEEN;
        #[component(name = "changed")]
        const CHANGED;
    }
}

flag_names! {
    ToolHints {
        READ_ONLY = "read-only",
        DESTRUCTIVE = "destructive",
        IDEMPOTENT = "idempotent",
        OPEN_WORLD = "open-world",
        FIRST_SEEN = "first-seen",
        CHANGED = "changed",
    }
}

/// A tool as the gateway knows it.
#[derive(ComponentType, Lower, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[component(record)]
#[serde(deny_unknown_fields, default)]
#[serde(bound(serialize = "S: AsRef<str> + Serialize", deserialize = "S: Deserialize<'de> + Default + From<String>"))]
pub(in crate::policy) struct Tool<S> {
    /// `upstream.id` of the server that offers it.
    pub(in crate::policy) upstream: S,
    /// The upstream's own name for it.
    pub(in crate::policy) name: S,
    /// The name that callers see.
    #[component(name = "exposed-as")]
    pub(in crate::policy) exposed_as: S,
    pub(in crate::policy) hints: ToolHints,
    /// SHA-256 over the definition, in lower-case hex.
    pub(in crate::policy) digest: S,
    pub(in crate::policy) labels: Vec<S>,
    /// The texts are present only for hooks whose need says `texts`.
    pub(in crate::policy) title: Option<S>,
    pub(in crate::policy) description: Option<S>,
    #[component(name = "input-schema")]
    #[serde(with = "super::json::option", default)]
    pub(in crate::policy) input_schema: Option<S>,
}

/// Why a policy decided as it did.
#[derive(ComponentType, Lift, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[component(record)]
#[serde(deny_unknown_fields)]
pub(in crate::policy) struct Reason {
    /// Stable and short, for logs, tests and machines: `[a-z0-9._-]`, at most 64 bytes.
    pub(in crate::policy) code: String,
    /// One or two sentences that a person or a model can act on, at most 2 KiB.
    pub(in crate::policy) message: String,
    /// The rule that matched, as the author names it.
    #[serde(default)]
    pub(in crate::policy) rule: Option<String>,
    /// More for machines.
    #[serde(with = "super::json::option", default)]
    pub(in crate::policy) detail: Option<String>,
}

/// A refusal.
#[derive(ComponentType, Lift, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[component(record)]
#[serde(deny_unknown_fields)]
pub(in crate::policy) struct Denial {
    pub(in crate::policy) reason: Reason,
    /// JSON-RPC error code; only used where `as-tool-error` is false.
    #[component(name = "rpc-code")]
    #[serde(default)]
    pub(in crate::policy) rpc_code: Option<i32>,
    /// JSON-RPC error data; only used where `as-tool-error` is false.
    #[component(name = "rpc-data")]
    #[serde(with = "super::json::option", default)]
    pub(in crate::policy) rpc_data: Option<String>,
    /// True: the model reads `reason.message` as a tool result with `isError`. False: a JSON-RPC error.
    #[component(name = "as-tool-error")]
    #[serde(default = "yes")]
    pub(in crate::policy) as_tool_error: bool,
}

/// More authority is needed first (RFC 6750 §3.1, RFC 9470).
#[derive(ComponentType, Lift, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[component(record)]
#[serde(deny_unknown_fields)]
pub(in crate::policy) struct StepUp {
    #[serde(default)]
    pub(in crate::policy) scopes: Vec<String>,
    #[component(name = "acr-values")]
    #[serde(default)]
    pub(in crate::policy) acr_values: Vec<String>,
    /// Seconds.
    #[component(name = "max-age-s")]
    #[serde(default)]
    pub(in crate::policy) max_age_s: Option<u32>,
    pub(in crate::policy) reason: Reason,
}

#[derive(ComponentType, Lift, Serialize, Deserialize, Clone, Debug, PartialEq, Copy, Eq)]
#[component(enum)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub(in crate::policy) enum Approver {
    /// The caller's own person.
    #[component(name = "caller")]
    Caller,
    /// Any operator.
    #[component(name = "operator")]
    Operator,
    /// One of `approvers`.
    #[component(name = "listed")]
    Listed,
}

/// How long an approval that was given holds. It holds for the same caller, client, tool definition and
/// arguments only.
#[derive(ComponentType, Lift, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[component(variant)]
#[serde(rename_all = "kebab-case")]
pub(in crate::policy) enum ApprovalMemory {
    /// For one call.
    #[component(name = "once")]
    Once,
    /// For so many seconds.
    #[component(name = "seconds")]
    Seconds(u32),
}

/// Somebody has to agree first.
#[derive(ComponentType, Lift, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[component(record)]
#[serde(deny_unknown_fields)]
pub(in crate::policy) struct Approval {
    /// One line, at most 256 bytes.
    pub(in crate::policy) title: String,
    /// What would happen, for the person who decides, at most 4 KiB.
    pub(in crate::policy) summary: String,
    pub(in crate::policy) by: Approver,
    /// Names of persons; only used where `by` is `listed`.
    #[serde(default)]
    pub(in crate::policy) approvers: Vec<String>,
    /// Seconds until the request for approval lapses.
    #[component(name = "ttl-s")]
    pub(in crate::policy) ttl_s: u32,
    pub(in crate::policy) remember: ApprovalMemory,
    pub(in crate::policy) reason: Reason,
}

/// Too much at once.
#[derive(ComponentType, Lift, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[component(record)]
#[serde(deny_unknown_fields)]
pub(in crate::policy) struct Throttle {
    #[component(name = "retry-after-ms")]
    pub(in crate::policy) retry_after_ms: u64,
    pub(in crate::policy) bucket: String,
    pub(in crate::policy) reason: Reason,
}

#[derive(ComponentType, Lift, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[component(variant)]
#[serde(rename_all = "kebab-case")]
pub(in crate::policy) enum EditOp {
    #[component(name = "remove")]
    Remove,
    /// Put this value at the pointer; the pointer's parent must exist.
    #[component(name = "set")]
    Set(#[serde(with = "super::json")] String),
    /// Replace the string at the pointer by this text.
    #[component(name = "mask")]
    Mask(String),
}

/// One change to a JSON document.
#[derive(ComponentType, Lift, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[component(record)]
#[serde(deny_unknown_fields)]
pub(in crate::policy) struct Edit {
    /// RFC 6901 JSON pointer. It must point at something, except for `set`.
    pub(in crate::policy) pointer: String,
    pub(in crate::policy) op: EditOp,
}

#[derive(ComponentType, Lift, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[component(variant)]
#[serde(rename_all = "kebab-case")]
pub(in crate::policy) enum Rewrite {
    #[default]
    #[component(name = "keep")]
    Keep,
    #[component(name = "patch")]
    Patch(Vec<Edit>),
    /// A whole new document.
    #[component(name = "replace")]
    Replace(#[serde(with = "super::json")] String),
}

/// A fact for the decision log.
#[derive(ComponentType, Lift, Lower, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[component(record)]
#[serde(deny_unknown_fields)]
pub(in crate::policy) struct Note {
    pub(in crate::policy) key: String,
    pub(in crate::policy) value: String,
}

/// The terms under which something is allowed.
#[derive(ComponentType, Lift, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[component(record)]
#[serde(deny_unknown_fields)]
pub(in crate::policy) struct Permit {
    /// Changes to the arguments. Needs `allow_rewrite` in the operator's binding.
    #[serde(default)]
    pub(in crate::policy) rewrite: Rewrite,
    /// The result must pass the `tool-result` hook.
    #[component(name = "inspect-result")]
    #[serde(default)]
    pub(in crate::policy) inspect_result: bool,
    /// A shorter deadline for the call, in milliseconds.
    #[component(name = "timeout-ms")]
    #[serde(default)]
    pub(in crate::policy) timeout_ms: Option<u32>,
    #[serde(default)]
    pub(in crate::policy) notes: Vec<Note>,
}

#[derive(ComponentType, Lift, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[component(variant)]
#[serde(rename_all = "kebab-case")]
pub(in crate::policy) enum Verdict {
    /// No opinion. If every policy abstains, the operator's default decides (as shipped: deny).
    #[component(name = "abstain")]
    Abstain,
    #[component(name = "allow")]
    Allow(Permit),
    #[component(name = "deny")]
    Deny(Denial),
    #[component(name = "step-up")]
    StepUp(StepUp),
    #[component(name = "approve")]
    Approve(Approval),
    #[component(name = "throttle")]
    Throttle(Throttle),
}

/// One piece of a result: a block of a tool's `content`, of a resource's `contents` or of a prompt's messages, a value
/// of a completion, or an entry of a directory.
#[derive(ComponentType, Lower, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[component(record)]
#[serde(deny_unknown_fields, default)]
#[serde(bound(serialize = "S: AsRef<str> + Serialize", deserialize = "S: Deserialize<'de> + Default + From<String>"))]
pub(in crate::policy) struct Part<S> {
    pub(in crate::policy) index: u32,
    /// The MCP `type` of the block: `text`, `image`, `audio`, `resource`, `resource_link` or one not known yet. Of what
    /// is no block: `resource` for contents, `text` for a completion's value, `resource_link` for an entry.
    pub(in crate::policy) kind: S,
    pub(in crate::policy) mime: Option<S>,
    /// Size of the block's JSON text.
    pub(in crate::policy) bytes: u32,
    /// The text of a text block or of an embedded text resource.
    pub(in crate::policy) text: Option<S>,
}

/// A stretch of a part's text and what takes its place.
#[derive(ComponentType, Lift, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[component(record)]
#[serde(deny_unknown_fields)]
pub(in crate::policy) struct Span {
    pub(in crate::policy) part: u32,
    /// Byte offsets into the part's UTF-8 text, on character boundaries, `start` included and `end` not.
    pub(in crate::policy) start: u32,
    pub(in crate::policy) end: u32,
    pub(in crate::policy) replacement: String,
}

#[derive(ComponentType, Lift, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[component(record)]
#[serde(deny_unknown_fields)]
pub(in crate::policy) struct Redaction {
    /// In ascending order, without overlap within a part.
    #[serde(default)]
    pub(in crate::policy) spans: Vec<Span>,
    /// Edits of `structuredContent`: of a tool's result in `tool-result`, and in `item-result` of the outcome of a task,
    /// where it is not shown. Elsewhere there is none, and an edit is a mistake.
    #[serde(default)]
    pub(in crate::policy) structured: Vec<Edit>,
    /// Indices of parts that are removed whole.
    #[component(name = "drop-parts")]
    #[serde(default)]
    pub(in crate::policy) drop_parts: Vec<u32>,
    #[serde(default)]
    pub(in crate::policy) notes: Vec<Note>,
}

#[derive(ComponentType, Lift, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[component(variant)]
#[serde(rename_all = "kebab-case")]
pub(in crate::policy) enum Inspection {
    #[component(name = "abstain")]
    Abstain,
    #[component(name = "pass")]
    Pass,
    #[component(name = "redact")]
    Redact(Redaction),
    #[component(name = "block")]
    Block(Denial),
}

#[derive(ComponentType, Lift, Serialize, Deserialize, Clone, Debug, PartialEq, Copy, Eq)]
#[component(enum)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub(in crate::policy) enum Visibility {
    #[component(name = "abstain")]
    Abstain,
    #[component(name = "show")]
    Show,
    #[component(name = "hide")]
    Hide,
}

#[derive(ComponentType, Lower, Serialize, Deserialize, Clone, Debug, PartialEq, Copy, Eq, Default)]
#[component(enum)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub(in crate::policy) enum ItemKind {
    /// A resource.
    #[default]
    #[component(name = "content")]
    Content,
    /// A resource template.
    #[component(name = "template")]
    Template,
    #[component(name = "prompt")]
    Prompt,
    /// A skill (SEP-2640).
    #[component(name = "skill")]
    Skill,
    /// A task; only for `item-access` and `item-result`.
    #[component(name = "task")]
    Task,
}
