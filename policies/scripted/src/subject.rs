//! What a hook is asked about, and the variables that rules find there.

use portcullis_guest_sdk::{
    Access, Call, CallResult, Context, Hook, Item, ItemKind, ItemOutput, Question, Tool, ToolHints, client, credential,
    grant, refresh,
};

use crate::fact::{Fact, Look, Members, Shape};
use crate::records::Hints;

/// What one decision is about.
#[derive(Clone, Copy)]
pub enum Subject<'a> {
    /// One tool of a list.
    ListTools(&'a Tool),
    /// One item of a list.
    ListItems(&'a Item),
    /// A call.
    ToolCall(&'a Call),
    /// What a tool answered.
    ToolResult(&'a CallResult),
    /// A use of an item.
    ItemAccess(&'a Access),
    /// What an item is or did.
    ItemResult(&'a ItemOutput),
    /// A question to the client.
    ServerRequest(&'a Question),
    /// A request for authority.
    Grant(&'a grant::Request),
    /// A use of a refresh token.
    Refresh(&'a refresh::Request),
    /// A registration.
    Client(&'a client::Request),
    /// A use of a credential.
    Credential(&'a credential::Request),
}

/// Everything that a rule can look at in one decision.
pub struct Situation<'a> {
    /// What surrounds it.
    pub context: &'a Context,
    /// What it is about.
    pub subject: Subject<'a>,
    hints: Hints,
    mcp: Mcp<'a>,
    listed: Listed<'a>,
}

impl<'a> Situation<'a> {
    /// The decision about `subject` in this context.
    pub fn new(context: &'a Context, subject: Subject<'a>) -> Self {
        let hints = subject.tool().map_or(ToolHints::empty(), |tool| tool.hints);
        let listed = match subject {
            Subject::ListTools(tool) => Listed::Tool(tool),
            Subject::ListItems(item) => Listed::Item(item),
            _ => Listed::Nothing,
        };
        Self { context, subject, hints: Hints(hints), mcp: Mcp::of(subject), listed }
    }

    /// The variable of this name. Which ones there are, [`variables`] tells.
    pub fn variable(&self, name: &str) -> Fact<'_> {
        match name {
            "caller" => Fact::Record(&self.context.caller),
            "jwt" => Fact::Json(&self.context.caller.claims),
            "context" => Fact::Record(self.context),
            "now" => Fact::Number(self.context.now_ms / 1000),
            "request" | "response" => self.request(),
            "tool" => self.subject.tool().map_or(Fact::Absent, |tool| Fact::Record(tool)),
            "item" => match self.subject {
                Subject::ListItems(item) => Fact::Record(item),
                _ => Fact::Absent,
            },
            "hints" => self.subject.tool().map_or(Fact::Absent, |_| Fact::Record(&self.hints)),
            "mcp" if !self.mcp.method.is_empty() => Fact::Record(&self.mcp),
            "args" => Fact::Json(self.arguments().unwrap_or("{}")),
            "structured" => match self.subject {
                Subject::ToolResult(result) => result.structured.as_deref().map_or(Fact::Absent, Fact::Json),
                _ => Fact::Absent,
            },
            _ => Fact::Absent,
        }
    }

    /// What came with the request, as JSON text.
    pub fn arguments(&self) -> Option<&'a str> {
        match self.subject {
            Subject::ToolCall(call) => call.arguments.as_deref(),
            Subject::ItemAccess(access) => access.arguments.as_deref(),
            Subject::ServerRequest(question) => question.params.as_deref(),
            _ => None,
        }
    }

    fn request(&self) -> Fact<'_> {
        match self.subject {
            Subject::ListTools(_) | Subject::ListItems(_) => Fact::Record(&self.listed),
            Subject::ToolCall(call) => Fact::Record(call),
            Subject::ToolResult(result) => Fact::Record(result),
            Subject::ItemAccess(access) => Fact::Record(access),
            Subject::ItemResult(output) => Fact::Record(output),
            Subject::ServerRequest(question) => Fact::Record(question),
            Subject::Grant(request) => Fact::Record(request),
            Subject::Refresh(request) => Fact::Record(request),
            Subject::Client(request) => Fact::Record(request),
            Subject::Credential(request) => Fact::Record(request),
        }
    }
}

impl<'a> Subject<'a> {
    /// The hook that it is the question of.
    pub const fn hook(self) -> Hook {
        match self {
            Self::ListTools(_) => Hook::ListTools,
            Self::ListItems(_) => Hook::ListItems,
            Self::ToolCall(_) => Hook::ToolCall,
            Self::ToolResult(_) => Hook::ToolResult,
            Self::ItemAccess(_) => Hook::ItemAccess,
            Self::ItemResult(_) => Hook::ItemResult,
            Self::ServerRequest(_) => Hook::ServerRequest,
            Self::Grant(_) => Hook::Grant,
            Self::Refresh(_) => Hook::Refresh,
            Self::Client(_) => Hook::Client,
            Self::Credential(_) => Hook::Credential,
        }
    }

    fn tool(self) -> Option<&'a Tool> {
        match self {
            Self::ListTools(tool) => Some(tool),
            Self::ToolCall(call) => Some(&call.tool),
            Self::ToolResult(result) => Some(&result.tool),
            _ => None,
        }
    }
}

/// The variables of a hook, with what is known of them beforehand.
pub fn variables(hook: Hook) -> impl Iterator<Item = (&'static str, &'static Shape)> {
    const ALWAYS: &[(&str, &Shape)] = &[
        ("caller", <portcullis_guest_sdk::Caller as Look>::SHAPE),
        ("jwt", &Shape::Any),
        ("context", Context::SHAPE),
        ("now", &Shape::Scalar),
    ];
    const TOOL: &[(&str, &Shape)] = &[("tool", Tool::SHAPE), ("hints", Hints::SHAPE), ("mcp", Mcp::SHAPE)];
    const ARGS: (&str, &Shape) = ("args", &Shape::Any);
    let (request, of_tool, further): (_, _, &'static [(&str, &Shape)]) = match hook {
        Hook::ListTools => (&Shape::Record(&[("tool", Tool::SHAPE)]), true, &[]),
        Hook::ListItems => {
            (&Shape::Record(&[("item", Item::SHAPE)]), false, &[("item", Item::SHAPE), ("mcp", Mcp::SHAPE)])
        }
        Hook::ToolCall => (Call::SHAPE, true, &[ARGS]),
        Hook::ToolResult => (CallResult::SHAPE, true, &[("response", CallResult::SHAPE), ("structured", &Shape::Any)]),
        Hook::ItemAccess => (Access::SHAPE, false, &[ARGS, ("mcp", Mcp::SHAPE)]),
        Hook::ItemResult => (ItemOutput::SHAPE, false, &[("response", ItemOutput::SHAPE), ("mcp", Mcp::SHAPE)]),
        Hook::ServerRequest => (Question::SHAPE, false, &[ARGS, ("mcp", Mcp::SHAPE)]),
        Hook::Grant => (grant::Request::SHAPE, false, &[]),
        Hook::Refresh => (refresh::Request::SHAPE, false, &[]),
        Hook::Client => (client::Request::SHAPE, false, &[]),
        Hook::Credential => (credential::Request::SHAPE, false, &[]),
    };
    let tool = if of_tool { TOOL } else { &[] };
    [("request", request)].into_iter().chain([ALWAYS, tool, further].into_iter().flatten().copied())
}

/// The variable `mcp`: the request in the names that other MCP gateways use.
struct Mcp<'a> {
    method: &'a str,
    /// Which of the members below `named` is.
    kind: &'static str,
    named: Named<'a>,
}

impl<'a> Mcp<'a> {
    const SHAPE: &'static Shape = &Shape::Record(&[
        ("method", &Shape::Scalar),
        ("tool", Named::SHAPE),
        ("resource", Named::SHAPE),
        ("prompt", Named::SHAPE),
        ("skill", Named::SHAPE),
        ("task", Named::SHAPE),
    ]);

    fn of(subject: Subject<'a>) -> Self {
        let (method, kind, name, target) = match subject {
            Subject::ListTools(tool) => ("tools/list", "tool", &*tool.name, &*tool.upstream),
            Subject::ToolCall(call) => ("tools/call", "tool", &*call.tool.name, &*call.tool.upstream),
            Subject::ToolResult(result) => ("tools/call", "tool", &*result.tool.name, &*result.tool.upstream),
            Subject::ListItems(item) => (listing(item.kind), kind(item.kind), &*item.id, &*item.upstream),
            Subject::ItemAccess(access) => (&*access.method, kind(access.kind), &*access.id, &*access.upstream.id),
            Subject::ItemResult(output) => (&*output.method, kind(output.kind), &*output.id, &*output.upstream),
            Subject::ServerRequest(question) => (&*question.method, "", "", &*question.upstream.id),
            Subject::Grant(_) | Subject::Refresh(_) | Subject::Client(_) | Subject::Credential(_) => ("", "", "", ""),
        };
        Self { method, kind, named: Named { name, target } }
    }
}

fn kind(of: ItemKind) -> &'static str {
    match of {
        ItemKind::Content | ItemKind::Template => "resource",
        ItemKind::Prompt => "prompt",
        ItemKind::Skill => "skill",
        ItemKind::Task => "task",
    }
}

fn listing(of: ItemKind) -> &'static str {
    match of {
        ItemKind::Content => "resources/list",
        ItemKind::Template => "resources/templates/list",
        ItemKind::Prompt => "prompts/list",
        ItemKind::Skill => "skills/list",
        ItemKind::Task => "tasks/list",
    }
}

impl Members for Mcp<'_> {
    fn names(&self) -> &'static [&'static str] {
        &["method", "tool", "resource", "prompt", "skill", "task"]
    }

    fn member(&self, name: &str) -> Fact<'_> {
        match name {
            "method" => Fact::Text(self.method),
            name if name == self.kind => Fact::Record(&self.named),
            _ => Fact::Absent,
        }
    }
}

/// A tool, resource, prompt, skill or task: its own name, and the upstream that has it.
struct Named<'a> {
    name: &'a str,
    target: &'a str,
}

impl Named<'_> {
    const SHAPE: &'static Shape = &Shape::Record(&[("name", &Shape::Scalar), ("target", &Shape::Scalar)]);
}

impl Members for Named<'_> {
    fn names(&self) -> &'static [&'static str] {
        &["name", "target"]
    }

    fn member(&self, name: &str) -> Fact<'_> {
        match name {
            "name" => Fact::Text(self.name),
            "target" => Fact::Text(self.target),
            _ => Fact::Absent,
        }
    }
}

/// The variable `request` of the hooks that judge one entry of a list at a time.
enum Listed<'a> {
    Tool(&'a Tool),
    Item(&'a Item),
    Nothing,
}

impl Members for Listed<'_> {
    fn names(&self) -> &'static [&'static str] {
        match self {
            Self::Tool(_) => &["tool"],
            Self::Item(_) => &["item"],
            Self::Nothing => &[],
        }
    }

    fn member(&self, name: &str) -> Fact<'_> {
        match (self, name) {
            (Self::Tool(tool), "tool") => Fact::Record(*tool),
            (Self::Item(item), "item") => Fact::Record(*item),
            _ => Fact::Absent,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(fact: Option<&Fact<'_>>) -> String {
        match fact {
            Some(Fact::Text(text) | Fact::Json(text)) => (*text).to_owned(),
            Some(Fact::Bool(is)) => is.to_string(),
            Some(Fact::Number(number)) => number.to_string(),
            Some(_) => "something else".to_owned(),
            None => "absent".to_owned(),
        }
    }

    /// Every path that a shape promises, down to the leaves.
    fn paths(shape: &Shape, path: &str, found: &mut Vec<String>) {
        match shape {
            Shape::Record(members) => {
                members.iter().for_each(|(name, shape)| paths(shape, &format!("{path}.{name}"), found));
            }
            _ => found.push(path.to_owned()),
        }
    }

    #[test]
    fn every_variable_of_a_hook_is_there_and_no_other() {
        let context = Context::default();
        let (tool, item, call, result) = (Tool::default(), Item::default(), Call::default(), CallResult::default());
        let result = CallResult { structured: Some("{}".to_owned()), ..result };
        let (access, output, question) = (Access::default(), ItemOutput::default(), Question::default());
        let question = Question { method: "roots/list".to_owned(), ..question };
        let access = Access { method: "prompts/get".to_owned(), ..access };
        let output = ItemOutput { method: "prompts/get".to_owned(), ..output };
        let (granting, renewal) = (grant::Request::default(), refresh::Request::default());
        let (registration, release) = (client::Request::default(), credential::Request::default());
        let all =
            ["caller", "jwt", "context", "now", "request", "response", "tool", "item", "hints", "mcp", "structured"];
        for subject in [
            Subject::ListTools(&tool),
            Subject::ListItems(&item),
            Subject::ToolCall(&call),
            Subject::ToolResult(&result),
            Subject::ItemAccess(&access),
            Subject::ItemResult(&output),
            Subject::ServerRequest(&question),
            Subject::Grant(&granting),
            Subject::Refresh(&renewal),
            Subject::Client(&registration),
            Subject::Credential(&release),
        ] {
            let situation = Situation::new(&context, subject);
            let promised: Vec<_> = variables(subject.hook()).map(|(name, _)| name).collect();
            for name in all.into_iter().filter(|name| *name != "response") {
                let there = !matches!(situation.variable(name), Fact::Absent);
                assert_eq!(there, promised.contains(&name), "{name} of {}", subject.hook().as_str());
            }
            for (name, shape) in
                variables(subject.hook()).filter(|(name, _)| !matches!(*name, "jwt" | "args" | "structured"))
            {
                let mut found = Vec::new();
                paths(shape, "", &mut found);
                let Fact::Record(record) = situation.variable(name) else { continue };
                let names = found.iter().filter_map(|path| path.split('.').nth(1));
                assert!(names.clone().all(|name| record.names().contains(&name)), "{name} promises what it has not");
            }
        }
    }

    #[test]
    fn requests_have_the_names_that_other_gateways_use() {
        let context = Context { now_ms: 1_800_000_000_999, ..Context::default() };
        let tool = Tool {
            upstream: "notes".to_owned(),
            name: "delete".to_owned(),
            hints: ToolHints::DESTRUCTIVE,
            ..Tool::default()
        };
        let call = Call { tool, arguments: Some(r#"{"id":1}"#.to_owned()), ..Call::default() };
        let situation = Situation::new(&context, Subject::ToolCall(&call));
        for (variable, path, expected) in [
            ("mcp", "tool.name", "delete"),
            ("mcp", "tool.target", "notes"),
            ("mcp", "method", "tools/call"),
            ("mcp", "prompt.name", "absent"),
            ("hints", "destructive", "true"),
            ("hints", "read_only", "false"),
            ("request", "tool.name", "delete"),
            ("caller", "kind", "user"),
        ] {
            assert_eq!(text(situation.variable(variable).at(path).as_ref()), expected, "{variable}.{path}");
        }
        assert_eq!(text(Some(&situation.variable("now"))), "1800000000");
        assert_eq!(text(Some(&situation.variable("args"))), r#"{"id":1}"#);
        let item = Item { kind: ItemKind::Prompt, id: "daily".to_owned(), ..Item::default() };
        let situation = Situation::new(&context, Subject::ListItems(&item));
        assert_eq!(text(situation.variable("mcp").at("prompt.name").as_ref()), "daily");
        assert_eq!(text(situation.variable("request").at("item.id").as_ref()), "daily");
        assert_eq!(text(Some(&situation.variable("args"))), "{}");
    }
}
