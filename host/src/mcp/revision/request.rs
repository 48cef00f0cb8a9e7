//! What a caller asks, whatever the revision, and how the parameters that all revisions share are read.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::head::read_object;
use super::{Rejection, v2026_07_28};
use crate::mcp::call::{Params, Verb};
use crate::mcp::client::Client;
use crate::mcp::talk::LogLevel;

/// Resources that one `subscriptions/listen` may watch.
pub const MAX_WATCHED: usize = 1_000;

/// A request as read: what is asked, and who asks it as far as the message says.
#[derive(Debug)]
pub struct Asked {
    pub request: Request,
    /// From `_meta` of a modern request.
    pub client: Option<Arc<Client>>,
    /// From `_meta` of a modern request: without it, no log message is wanted.
    pub log_level: Option<LogLevel>,
}

/// What a caller asks. Names, URIs and task ids are those that the caller sees; `params` still has them.
#[derive(Debug)]
pub enum Request {
    /// Legacy only.
    Ping,
    /// What the gateway is and can (`server/discover`). Modern only.
    Discover,
    List {
        kind: ListKind,
        cursor: Option<String>,
        params: Params,
    },
    CallTool {
        name: String,
        params: Params,
    },
    GetPrompt {
        name: String,
        params: Params,
    },
    ReadResource {
        uri: String,
        params: Params,
    },
    /// `resources/directory/read` (SEP-2640). Modern only.
    ReadDirectory {
        uri: String,
        params: Params,
    },
    /// `skills/get` (SEP-2640). Modern only.
    GetSkill {
        uri: String,
        params: Params,
    },
    Complete {
        reference: Reference,
        params: Params,
    },
    /// Legacy only.
    Subscribe {
        uri: String,
        params: Params,
    },
    /// Legacy only.
    Unsubscribe {
        uri: String,
    },
    /// Legacy only.
    SetLevel(LogLevel),
    /// `subscriptions/listen`. Modern only.
    Listen(Filter),
    /// One of the `tasks/…` methods.
    Task {
        verb: Verb,
        id: String,
        params: Params,
    },
}

impl Request {
    /// The protocol's name for it.
    pub fn method(&self) -> &'static str {
        match self {
            Self::Ping => "ping",
            Self::Discover => "server/discover",
            Self::List { kind, .. } => kind.method(),
            Self::CallTool { .. } => "tools/call",
            Self::GetPrompt { .. } => Verb::GetPrompt.method(),
            Self::ReadResource { .. } => Verb::ReadResource.method(),
            Self::ReadDirectory { .. } => Verb::ListDirectory.method(),
            Self::GetSkill { .. } => Verb::GetSkill.method(),
            Self::Complete { .. } => Verb::Complete.method(),
            Self::Subscribe { .. } => Verb::SubscribeResource.method(),
            Self::Unsubscribe { .. } => "resources/unsubscribe",
            Self::SetLevel(_) => "logging/setLevel",
            Self::Listen(_) => v2026_07_28::LISTEN,
            Self::Task { verb, .. } => verb.method(),
        }
    }

    /// Its parameters, where there are any that others have to see.
    pub fn params(&self) -> Option<&Params> {
        match self {
            Self::List { params, .. }
            | Self::CallTool { params, .. }
            | Self::GetPrompt { params, .. }
            | Self::ReadResource { params, .. }
            | Self::ReadDirectory { params, .. }
            | Self::GetSkill { params, .. }
            | Self::Complete { params, .. }
            | Self::Subscribe { params, .. }
            | Self::Task { params, .. } => Some(params),
            Self::Ping | Self::Discover | Self::Unsubscribe { .. } | Self::SetLevel(_) | Self::Listen(_) => None,
        }
    }

    /// The caller's own token for progress notifications, as it came.
    pub fn progress_token(&self) -> Option<&RawValue> {
        self.params()?.progress_token.as_deref()
    }

    /// What it is about, by the name that 2026-07-28 has in the header `Mcp-Name`: a name, URI or task id.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::CallTool { name, .. } | Self::GetPrompt { name, .. } => Some(name),
            Self::ReadResource { uri, .. } | Self::ReadDirectory { uri, .. } | Self::GetSkill { uri, .. } => Some(uri),
            Self::Task { id, .. } => Some(id),
            _ => None,
        }
    }
}

/// What can be listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ListKind {
    Tools,
    Prompts,
    Resources,
    /// Resource templates.
    Templates,
    /// Skills (SEP-2640). Modern only.
    Skills,
}

impl ListKind {
    pub const ALL: [Self; 5] = [Self::Tools, Self::Prompts, Self::Resources, Self::Templates, Self::Skills];

    /// The method that lists it.
    pub fn method(self) -> &'static str {
        match self {
            Self::Tools => "tools/list",
            Self::Prompts => "prompts/list",
            Self::Resources => "resources/list",
            Self::Templates => "resources/templates/list",
            Self::Skills => "skills/list",
        }
    }

    /// The member of the result that has the items.
    pub fn member(self) -> &'static str {
        match self {
            Self::Tools => "tools",
            Self::Prompts => "prompts",
            Self::Resources => "resources",
            Self::Templates => "resourceTemplates",
            Self::Skills => "skills",
        }
    }

    /// The notification that tells of a change. Templates and skills have none of their own: they change with the
    /// resources.
    pub fn changed(self) -> &'static str {
        match self {
            Self::Tools => "notifications/tools/list_changed",
            Self::Prompts => "notifications/prompts/list_changed",
            Self::Resources | Self::Templates | Self::Skills => "notifications/resources/list_changed",
        }
    }
}

/// What an argument is completed for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference {
    /// A prompt, by its name.
    Prompt(String),
    /// A resource template, by its URI template, or a resource, by its URI.
    Template(String),
}

/// What a `subscriptions/listen` asks to hear of (2026-07-28, subscriptions § filter).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    pub tools: bool,
    pub prompts: bool,
    pub resources: bool,
    /// At most [`MAX_WATCHED`], each once.
    pub uris: Vec<String>,
}

/// The methods that only 2026-07-28 has: those of the extension for skills (SEP-2640).
pub(super) fn is_modern_only(method: &str) -> bool {
    method == ListKind::Skills.method()
        || [Verb::GetSkill, Verb::ListDirectory].iter().any(|verb| verb.method() == method)
}

/// Takes out what makes a `tools/call` of 2025-11-25 a task (utilities/tasks § creating tasks). In other revisions it
/// means nothing, and an upstream of that one would take it for what it is there.
pub(super) fn forget_task(method: &str, params: &mut Params) {
    if method == "tools/call" {
        params.members.remove("task");
    }
}

/// Reads what all revisions ask for in the same way, and what [`is_modern_only`]; `None` if this is no such method.
pub(super) fn read_common(method: &str, params: Params) -> Result<Option<Request>, Rejection> {
    let kind = ListKind::ALL.into_iter().find(|kind| kind.method() == method);
    if let Some(kind) = kind {
        let cursor = match params.members.get("cursor") {
            None => None,
            Some(cursor) => {
                Some(read_string(cursor).ok_or_else(|| Rejection::bad_params("`cursor` must be a string"))?)
            }
        };
        return Ok(Some(Request::List { kind, cursor, params }));
    }
    Ok(Some(match method {
        "tools/call" | "prompts/get" => {
            let name = string_member(&params, "name", "`name` must be a string")?;
            let arguments = params.members.get("arguments");
            if arguments.is_some_and(|arguments| !arguments.get().starts_with('{')) {
                return Err(Rejection::bad_params("`arguments` must be an object"));
            }
            if method == "tools/call" {
                Request::CallTool { name, params }
            } else {
                Request::GetPrompt { name, params }
            }
        }
        "resources/read" => Request::ReadResource { uri: uri(&params)?, params },
        "resources/directory/read" => Request::ReadDirectory { uri: uri(&params)?, params },
        "skills/get" => Request::GetSkill { uri: uri(&params)?, params },
        "completion/complete" => Request::Complete { reference: read_reference(&params)?, params },
        _ => return Ok(None),
    }))
}

/// Reads `params` of a `tasks/…` method.
pub(super) fn read_task(verb: Verb, params: Params) -> Result<Request, Rejection> {
    let id = string_member(&params, "taskId", "`taskId` must be a string")?;
    Ok(Request::Task { verb, id, params })
}

pub(super) fn uri(params: &Params) -> Result<String, Rejection> {
    string_member(params, "uri", "`uri` must be a string")
}

fn read_reference(params: &Params) -> Result<Reference, Rejection> {
    #[derive(Deserialize)]
    #[serde(tag = "type")]
    enum Ref {
        #[serde(rename = "ref/prompt")]
        Prompt { name: String },
        #[serde(rename = "ref/resource")]
        Resource { uri: String },
    }
    let reference = params.members.get("ref").and_then(read_object);
    match reference {
        Some(Ref::Prompt { name }) => Ok(Reference::Prompt(name)),
        Some(Ref::Resource { uri }) => Ok(Reference::Template(uri)),
        None => Err(Rejection::bad_params("`ref` must name a prompt or a resource")),
    }
}

fn string_member(params: &Params, name: &str, otherwise: &str) -> Result<String, Rejection> {
    params.members.get(name).and_then(read_string).ok_or_else(|| Rejection::bad_params(otherwise))
}

pub(super) fn read_string(raw: &RawValue) -> Option<String> {
    serde_json::from_str(raw.get()).ok()
}
