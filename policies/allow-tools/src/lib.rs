//! Which tools a caller sees and may call: an ordered list of rules, the first that matches decides.
//!
//! Rules look at names and at what the upstream says of a tool, never at arguments. A tool that is hidden is not listed
//! and cannot be called; one that is denied is listed, and a call of it is answered with the rule's message.

use portcullis_guest_sdk::serde::Deserialize;
use portcullis_guest_sdk::{
    Call, Context, Denial, Glob, ListTools, Listing, Manifest, Policy, Problem, Tool, ToolCall, Verdict, export,
};

/// Most rules in one configuration.
const MAX_RULES: usize = 1_000;
/// Longest message, in bytes, as the contract has it.
const MAX_MESSAGE: usize = 2 * 1024;
/// Longest code, in bytes, as the contract has it.
const MAX_CODE: usize = 64;

const SCHEMA: &str = include_str!("../schema.json");
const SAMPLE: &str = include_str!("../sample.json");

/// What the operator writes.
#[derive(Deserialize)]
#[serde(crate = "portcullis_guest_sdk::serde", deny_unknown_fields)]
pub struct Config {
    #[serde(default)]
    rules: Vec<Rule>,
    /// What happens to a tool that no rule matches.
    #[serde(default)]
    otherwise: Otherwise,
}

#[derive(Deserialize)]
#[serde(crate = "portcullis_guest_sdk::serde", deny_unknown_fields)]
struct Rule {
    /// For the decision log; its position if it has none.
    #[serde(default)]
    name: Option<String>,
    /// Patterns over `upstream/tool`.
    tools: Vec<Glob>,
    #[serde(default)]
    when: When,
    action: Action,
    /// What the model reads when the call is denied.
    #[serde(default)]
    message: Option<String>,
    #[serde(default)]
    code: Option<String>,
}

/// What the upstream has to say of the tool. Hints, not proofs.
#[derive(Default, Deserialize)]
#[serde(crate = "portcullis_guest_sdk::serde", deny_unknown_fields)]
struct When {
    #[serde(default)]
    read_only: Option<bool>,
    #[serde(default)]
    destructive: Option<bool>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(crate = "portcullis_guest_sdk::serde", rename_all = "lowercase")]
enum Action {
    Allow,
    Deny,
    Hide,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(crate = "portcullis_guest_sdk::serde", rename_all = "lowercase")]
enum Otherwise {
    Allow,
    Deny,
    #[default]
    Hide,
    Abstain,
}

/// The policy.
pub struct AllowTools {
    config: Config,
}

/// What is to happen to a tool.
enum Decision<'a> {
    Allow,
    Deny { rule: Option<(usize, &'a Rule)> },
    Hide,
    Abstain,
}

impl AllowTools {
    fn decide(&self, tool: &Tool) -> Decision<'_> {
        let path = tool.path();
        match self.config.rules.iter().enumerate().find(|(_, rule)| rule.matches(&path, tool)) {
            Some((at, rule)) => match rule.action {
                Action::Allow => Decision::Allow,
                Action::Deny => Decision::Deny { rule: Some((at, rule)) },
                Action::Hide => Decision::Hide,
            },
            None => match self.config.otherwise {
                Otherwise::Allow => Decision::Allow,
                Otherwise::Deny => Decision::Deny { rule: None },
                Otherwise::Hide => Decision::Hide,
                Otherwise::Abstain => Decision::Abstain,
            },
        }
    }
}

impl Rule {
    fn matches(&self, path: &str, tool: &Tool) -> bool {
        let fits = |wanted: Option<bool>, is: bool| wanted.is_none_or(|wanted| wanted == is);
        self.tools.iter().any(|pattern| pattern.matches(path))
            && fits(self.when.read_only, tool.is_read_only())
            && fits(self.when.destructive, tool.is_destructive())
    }

    fn problems(&self, at: usize) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut problem =
            |member: &str, message: String| problems.push(Problem::at(format!("/rules/{at}/{member}"), message));
        if self.tools.is_empty() {
            problem("tools", "a rule without tools matches nothing".to_owned());
        }
        if self.message.as_ref().is_some_and(|message| message.is_empty() || message.len() > MAX_MESSAGE) {
            problem("message", format!("a message has 1 to {MAX_MESSAGE} bytes"));
        }
        let is_code =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'_' | b'-');
        let is_wrong = |code: &String| code.is_empty() || code.len() > MAX_CODE || !code.bytes().all(is_code);
        if self.code.as_ref().is_some_and(is_wrong) {
            problem("code", format!("a code has 1 to {MAX_CODE} characters of a-z, 0-9, '.', '_' and '-'"));
        }
        if !matches!(self.action, Action::Deny) && (self.message.is_some() || self.code.is_some()) {
            problem("action", "only a rule that denies has a message or a code".to_owned());
        }
        problems
    }
}

impl Policy for AllowTools {
    type Config = Config;

    fn manifest() -> Manifest {
        Manifest::new("allow-tools", env!("CARGO_PKG_VERSION"), "Shows, denies or hides tools by name and hints")
            .license("Apache-2.0")
            .config(SCHEMA, SAMPLE)
    }

    fn configure(config: Config) -> Result<Self, Vec<Problem>> {
        if config.rules.len() > MAX_RULES {
            return Err(vec![Problem::at("/rules", format!("there are more than {MAX_RULES} rules"))]);
        }
        let problems: Vec<Problem> = config.rules.iter().enumerate().flat_map(|(at, rule)| rule.problems(at)).collect();
        if problems.is_empty() { Ok(Self { config }) } else { Err(problems) }
    }

    fn warnings(&self) -> Vec<String> {
        let catches_all = |rule: &Rule| {
            rule.when.read_only.is_none() && rule.when.destructive.is_none() && rule.tools.iter().any(Glob::fits_all)
        };
        match self.config.rules.iter().position(catches_all) {
            Some(at) if at + 1 < self.config.rules.len() => {
                vec![format!("rule {at} matches every tool, so that the rules after it never apply")]
            }
            _ => Vec::new(),
        }
    }
}

impl ListTools for AllowTools {
    fn list(&self, _: &Context, tool: &Tool) -> Listing {
        match self.decide(tool) {
            Decision::Allow | Decision::Deny { .. } => Listing::show(),
            Decision::Hide => Listing::hide(),
            Decision::Abstain => Listing::abstain(),
        }
    }
}

impl ToolCall for AllowTools {
    fn before(&self, _: &Context, call: &Call) -> Verdict {
        match self.decide(&call.tool) {
            Decision::Allow => Verdict::allow(),
            Decision::Abstain => Verdict::abstain(),
            Decision::Hide => Verdict::deny("allow-tools.hidden", "There is no such tool."),
            Decision::Deny { rule } => deny(&call.tool, rule),
        }
    }
}

fn deny(tool: &Tool, rule: Option<(usize, &Rule)>) -> Verdict {
    let code = rule.and_then(|(_, rule)| rule.code.as_deref()).unwrap_or("allow-tools.denied");
    let message = rule.and_then(|(_, rule)| rule.message.clone());
    let message = message.unwrap_or_else(|| format!("The operator does not allow calls of {}.", tool.path()));
    let name = rule.map(|(at, rule)| rule.name.clone().unwrap_or_else(|| format!("rules/{at}")));
    Denial::new(code, message).rule(name.unwrap_or_else(|| "otherwise".to_owned())).into()
}

export!(AllowTools with list_tools, tool_call);

#[cfg(test)]
mod tests {
    use portcullis_guest_sdk::serde_json::{Value, json};
    use portcullis_guest_sdk::testing::{call, configure, context, hinted, manifest, tool};
    use portcullis_guest_sdk::{Hook, ToolHints, Visibility};

    use super::*;

    #[expect(clippy::needless_pass_by_value, reason = "reads better where `json!` is written")]
    fn policy(config: Value) -> AllowTools {
        configure::<AllowTools>(&config).unwrap_or_else(|problems| panic!("{problems:?}"))
    }

    /// What becomes of a tool: in the list, and when it is called.
    fn outcome(policy: &AllowTools, tool: Tool) -> (&'static str, String) {
        let listed = match policy.list(&context(), &tool).visibility {
            Visibility::Show => "shown",
            Visibility::Hide => "hidden",
            Visibility::Abstain => "no opinion",
        };
        let called = match policy.before(&context(), &call(tool, &json!({}))) {
            Verdict::Allow(_) => "allowed".to_owned(),
            Verdict::Abstain => "no opinion".to_owned(),
            Verdict::Deny(denial) => format!("{}: {}", denial.reason.code, denial.reason.rule.unwrap_or_default()),
            other => panic!("{other:?}"),
        };
        (listed, called)
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let policy = policy(json!({ "rules": [
            { "tools": ["tracker/close_issue"], "action": "deny", "name": "closing", "code": "no-closing", "message": "Leave it open." },
            { "tools": ["notes/delete_*"], "action": "hide" },
            { "tools": ["tracker/*", "notes/*"], "action": "allow" },
        ]}));
        let of = |upstream: &str, name: &str| outcome(&policy, tool(upstream, name));
        assert_eq!(of("tracker", "close_issue"), ("shown", "no-closing: closing".to_owned()));
        assert_eq!(of("notes", "delete_note"), ("hidden", "allow-tools.hidden: ".to_owned()));
        assert_eq!(of("notes", "read_note"), ("shown", "allowed".to_owned()));
        assert_eq!(of("other", "read_note"), ("hidden", "allow-tools.hidden: ".to_owned()));
    }

    #[test]
    fn what_matches_no_rule_is_the_operators_choice() {
        for (otherwise, listed, called) in [
            ("allow", "shown", "allowed"),
            ("deny", "shown", "allow-tools.denied: otherwise"),
            ("hide", "hidden", "allow-tools.hidden: "),
            ("abstain", "no opinion", "no opinion"),
        ] {
            let policy = policy(json!({ "otherwise": otherwise }));
            assert_eq!(outcome(&policy, tool("notes", "read")), (listed, called.to_owned()));
        }
        assert_eq!(outcome(&policy(json!({})), tool("notes", "read")).0, "hidden", "nothing is shown unasked");
    }

    #[test]
    fn a_rule_can_depend_on_hints() {
        let policy = policy(json!({ "otherwise": "deny", "rules": [
            { "tools": ["*"], "when": { "read_only": true }, "action": "allow" },
            { "tools": ["*"], "when": { "destructive": false }, "action": "hide" },
        ]}));
        assert_eq!(outcome(&policy, hinted("n", "t", ToolHints::READ_ONLY)).1, "allowed");
        assert_eq!(outcome(&policy, hinted("n", "t", ToolHints::empty())).0, "hidden");
        assert_eq!(outcome(&policy, hinted("n", "t", ToolHints::DESTRUCTIVE)).1, "allow-tools.denied: otherwise");
    }

    #[test]
    fn mistakes_are_told_with_their_place() {
        let paths = |config: Value| match configure::<AllowTools>(&config) {
            Ok(_) => Vec::new(),
            Err(problems) => problems.into_iter().map(|problem| problem.path).collect::<Vec<_>>(),
        };
        assert_eq!(
            paths(json!({ "rules": [{ "tools": [], "action": "deny", "code": "No!", "message": "" }] })),
            ["/rules/0/tools", "/rules/0/message", "/rules/0/code",]
        );
        assert_eq!(
            paths(json!({ "rules": [{ "tools": ["*"], "action": "allow", "message": "x" }] })),
            ["/rules/0/action"]
        );
        assert_eq!(paths(json!({ "rules": [{ "tools": ["*"], "action": "maybe" }] })), ["/rules/0/action"]);
        assert_eq!(paths(json!({ "rules": [{ "tools": [""], "action": "allow" }] })), ["/rules/0/tools/0"]);
        assert_eq!(paths(json!({ "rule": [] })).len(), 1);
    }

    #[test]
    fn rules_that_never_apply_are_warned_of() {
        let rules = json!([{ "tools": ["*"], "action": "allow" }, { "tools": ["x/*"], "action": "deny" }]);
        assert_eq!(policy(json!({ "rules": rules })).warnings().len(), 1);
        assert!(policy(json!({ "rules": [rules[1], rules[0]] })).warnings().is_empty());
    }

    #[test]
    fn the_sample_is_accepted_and_the_schema_is_json() {
        let info = manifest::<AllowTools>(&[Hook::ListTools, Hook::ToolCall]);
        let sample: Value = portcullis_guest_sdk::serde_json::from_str(&info.sample_config).unwrap();
        assert!(configure::<AllowTools>(&sample).is_ok());
        let schema: Value = portcullis_guest_sdk::serde_json::from_str(&info.config_schema).unwrap();
        assert_eq!(schema["additionalProperties"], false);
    }
}
