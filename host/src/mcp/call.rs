//! The neutral requests and outcomes: what every MCP revision is translated to and from.
//!
//! Nobody behind `mcp::revision` asks which revision a caller or an upstream speaks. Parameters and results stay
//! the JSON text that arrived; only what somebody has to read is parsed.

use std::sync::Arc;

use serde_json::value::RawValue;

use crate::ids::UpstreamName;
use crate::mcp::json::Members;
use crate::upstream::catalog::Tool;

/// The `params` of a request, taken apart as far as the protocol needs it.
#[derive(Clone, Debug, Default)]
pub struct Params {
    /// All members in the order in which they came, but for `_meta` and what [`Self::retry`] holds.
    pub members: Members,
    /// The members of `_meta`, without the progress token and the keys of the revision's own envelope.
    pub meta: Members,
    /// The caller's own progress token, if it wants progress. It is never sent on: upstreams see ours.
    pub progress_token: Option<Box<RawValue>>,
    /// What the caller brings to a request that it was asked for more input for (2026-07-28, MRTR).
    pub retry: Option<Retry>,
}

/// `inputResponses` and `requestState` of a repeated request (2026-07-28, patterns § MRTR).
#[derive(Clone, Debug, Default)]
pub struct Retry {
    /// The JSON object `inputResponses`.
    pub responses: Option<Box<RawValue>>,
    pub state: Option<String>,
}

/// A request that has [`Params`].
pub trait WithParams {
    fn params_mut(&mut self) -> &mut Params;
}

impl WithParams for Call {
    fn params_mut(&mut self) -> &mut Params {
        &mut self.params
    }
}

impl WithParams for Access {
    fn params_mut(&mut self) -> &mut Params {
        &mut self.params
    }
}

/// One `tools/call`, resolved to one tool of one upstream.
#[derive(Clone, Debug)]
pub struct Call {
    pub tool: Arc<Tool>,
    /// `name` in it is whatever the caller wrote; the upstream is sent the tool's own.
    pub params: Params,
}

impl Call {
    /// A call with these arguments and nothing else.
    pub fn new(tool: Arc<Tool>, arguments: Option<Box<RawValue>>) -> Self {
        let mut call = Self { tool, params: Params::default() };
        if let Some(arguments) = arguments {
            call.set_arguments(arguments);
        }
        call
    }

    /// `arguments` as they came, or as policies left them; absent is not the same as `{}` to every server.
    pub fn arguments(&self) -> Option<&RawValue> {
        self.params.members.get("arguments")
    }

    pub fn set_arguments(&mut self, arguments: Box<RawValue>) {
        self.params.members.set("arguments", arguments);
    }
}

/// A use of something else than a tool, resolved to one upstream. The names and URIs in `params` are the upstream's own.
#[derive(Clone, Debug)]
pub struct Access {
    pub upstream: UpstreamName,
    pub verb: Verb,
    pub item: Item,
    pub params: Params,
}

/// What an [`Access`] is to. Names are the upstream's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    Prompt {
        name: String,
    },
    Resource {
        uri: String,
    },
    Template {
        uri_template: String,
    },
    /// Of its `SKILL.md`.
    Skill {
        uri: String,
    },
    Task {
        id: String,
    },
}

impl Item {
    /// Name, URI, URI template or id.
    pub fn name(&self) -> &str {
        match self {
            Self::Prompt { name } => name,
            Self::Resource { uri } | Self::Skill { uri } => uri,
            Self::Template { uri_template } => uri_template,
            Self::Task { id } => id,
        }
    }
}

/// What is done with an [`Item`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    GetPrompt,
    ReadResource,
    ListDirectory,
    /// The entry of one skill (SEP-2640).
    GetSkill,
    SubscribeResource,
    /// Completion of an argument of a prompt or of a variable of a resource template.
    Complete,
    GetTask,
    /// Tasks of 2025-11-25 only.
    TaskResult,
    /// Tasks of 2026-07-28 only.
    UpdateTask,
    CancelTask,
}

impl Verb {
    /// The protocol's method.
    pub fn method(self) -> &'static str {
        match self {
            Self::GetPrompt => "prompts/get",
            Self::ReadResource => "resources/read",
            Self::ListDirectory => "resources/directory/read",
            Self::GetSkill => "skills/get",
            Self::SubscribeResource => "resources/subscribe",
            Self::Complete => "completion/complete",
            Self::GetTask => "tasks/get",
            Self::TaskResult => "tasks/result",
            Self::UpdateTask => "tasks/update",
            Self::CancelTask => "tasks/cancel",
        }
    }
}

/// What came of a request.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// The JSON-RPC `result`, as the upstream wrote it.
    Result(Box<RawValue>),
    /// The JSON-RPC `error` object, as the upstream wrote it.
    Error(Box<RawValue>),
    /// The upstream wants to know more before it goes on (`resultType` is `input_required`).
    NeedsInput(NeedsInput),
}

/// A result that asks for more input: all its members, as they came.
#[derive(Clone, Debug)]
pub struct NeedsInput(pub Members);

impl NeedsInput {
    /// `inputRequests`: a JSON object whose values are `{"method", "params"}`.
    pub fn requests(&self) -> Option<&RawValue> {
        self.0.get("inputRequests")
    }

    /// `requestState`, the upstream's own.
    pub fn state(&self) -> Option<String> {
        serde_json::from_str(self.0.get("requestState")?.get()).ok()
    }
}
