//! Which tools a caller sees and may call: an ordered list of rules, the first that matches decides.
//!
//! Rules look at names, at what the upstream says of a tool and at who asks, never at arguments. A tool that is hidden is
//! not listed and cannot be called; one that is denied is listed, and a call of it is answered with the rule's message.

use portcullis_guest_sdk::serde::Deserialize;
use portcullis_guest_sdk::{
    Call, Caller, Context, Denial, Glob, ListTools, Listing, Manifest, Policy, Problem, SelfTests, Tool, ToolCall,
    Verdict, export,
};

/// Most rules in one configuration.
const MAX_RULES: usize = 1_000;
/// Longest message, in bytes, as the contract has it.
const MAX_MESSAGE: usize = 2 * 1024;
/// Longest code, in bytes, as the contract has it.
const MAX_CODE: usize = 64;

const SCHEMA: &str = include_str!("../schema.json");
const SAMPLE: &str = include_str!("../sample.json");
const CASES: &str = include_str!("../cases.json");

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

/// What else a rule depends on. Everything that is written must hold.
#[derive(Default, Deserialize)]
#[serde(crate = "portcullis_guest_sdk::serde", deny_unknown_fields)]
struct When {
    /// What the upstream has to say of the tool. Hints, not proofs.
    #[serde(default)]
    read_only: Option<bool>,
    #[serde(default)]
    destructive: Option<bool>,
    /// The caller's subject fits one of these patterns.
    #[serde(default)]
    principals: Option<Vec<Glob>>,
    /// The caller is in one of these groups.
    #[serde(default)]
    groups: Option<Vec<String>>,
    /// The caller holds all of these scopes.
    #[serde(default)]
    scopes: Option<Vec<String>>,
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
    fn decide(&self, caller: &Caller, tool: &Tool) -> Decision<'_> {
        let path = tool.path();
        match self.config.rules.iter().enumerate().find(|(_, rule)| rule.matches(caller, &path, tool)) {
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
    fn matches(&self, caller: &Caller, path: &str, tool: &Tool) -> bool {
        self.tools.iter().any(|pattern| pattern.matches(path)) && self.when.holds(caller, tool)
    }

    fn problems(&self, at: usize) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut problem =
            |member: &str, message: String| problems.push(Problem::at(format!("/rules/{at}/{member}"), message));
        if self.tools.is_empty() {
            problem("tools", "a rule without tools matches nothing".to_owned());
        }
        let When { principals, groups, scopes, .. } = &self.when;
        let is_empty = [
            ("principals", principals.as_ref().is_some_and(Vec::is_empty)),
            ("groups", groups.as_ref().is_some_and(Vec::is_empty)),
            ("scopes", scopes.as_ref().is_some_and(Vec::is_empty)),
        ];
        for (member, _) in is_empty.iter().filter(|(_, is_empty)| *is_empty) {
            problem(&format!("when/{member}"), "an empty list; leave it out if it does not matter".to_owned());
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

impl When {
    fn holds(&self, caller: &Caller, tool: &Tool) -> bool {
        let fits = |wanted: Option<bool>, is: bool| wanted.is_none_or(|wanted| wanted == is);
        fits(self.read_only, tool.is_read_only())
            && fits(self.destructive, tool.is_destructive())
            && self.principals.as_ref().is_none_or(|any| any.iter().any(|pattern| pattern.matches(&caller.subject)))
            && self.groups.as_ref().is_none_or(|any| any.iter().any(|group| caller.is_in(group)))
            && self.scopes.as_ref().is_none_or(|all| all.iter().all(|scope| caller.has_scope(scope)))
    }

    /// Whether nothing is written.
    fn is_empty(&self) -> bool {
        let Self { read_only, destructive, principals, groups, scopes } = self;
        read_only.is_none() && destructive.is_none() && principals.is_none() && groups.is_none() && scopes.is_none()
    }
}

impl Policy for AllowTools {
    type Config = Config;

    fn manifest() -> Manifest {
        Manifest::new(
            "allow-tools",
            env!("CARGO_PKG_VERSION"),
            "Shows, denies or hides tools by name, hints and caller",
        )
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
        let rules = &self.config.rules;
        let mut warnings = Vec::new();
        let catches_all = |rule: &Rule| rule.when.is_empty() && rule.tools.iter().any(Glob::fits_all);
        if let Some(at) = rules.iter().position(catches_all).filter(|at| at + 1 < rules.len()) {
            warnings.push(format!("rule {at} matches every tool, so that the rules after it never apply"));
        }
        for (at, rule) in rules.iter().enumerate() {
            let mut principals = rule.when.principals.iter().flatten();
            if let Some(pattern) = principals.find(|pattern| pattern.as_str().starts_with("key:")) {
                let pattern = pattern.as_str();
                warnings
                    .push(format!("rule {at}: the subject of a virtual key is its name, so {pattern:?} matches none"));
            }
        }
        warnings
    }
}

impl ListTools for AllowTools {
    fn list(&self, ctx: &Context, tool: &Tool) -> Listing {
        match self.decide(&ctx.caller, tool) {
            Decision::Allow | Decision::Deny { .. } => Listing::show(),
            Decision::Hide => Listing::hide(),
            Decision::Abstain => Listing::abstain(),
        }
    }
}

impl ToolCall for AllowTools {
    fn before(&self, ctx: &Context, call: &Call) -> Verdict {
        match self.decide(&ctx.caller, &call.tool) {
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

impl SelfTests for AllowTools {
    const CASES: &'static str = CASES;
}

export!(AllowTools with list_tools, tool_call, self_tests);

#[cfg(test)]
mod tests {
    use portcullis_guest_sdk::serde_json::{Value, json};
    use portcullis_guest_sdk::testing::{cases, configure, manifest};

    use super::*;

    #[test]
    fn the_cases_hold() {
        cases::<AllowTools>(CASES);
    }

    #[test]
    fn rules_that_look_as_if_they_did_something_are_warned_of() {
        let warnings = |first: Value| {
            let config = json!({ "rules": [first, { "tools": ["x/*"], "action": "hide" }] });
            configure::<AllowTools>(&config).unwrap_or_else(|problems| panic!("{problems:?}")).warnings()
        };
        assert_eq!(warnings(json!({ "tools": ["a/*", "*"], "action": "allow" })).len(), 1);
        assert!(warnings(json!({ "tools": ["a/*"], "action": "allow" })).is_empty());
        assert!(warnings(json!({ "tools": ["*"], "when": { "groups": ["a"] }, "action": "allow" })).is_empty());
        assert_eq!(
            warnings(json!({ "tools": ["a/*"], "when": { "principals": ["key:ci"] }, "action": "allow" })).len(),
            1
        );
    }

    #[test]
    fn the_sample_is_accepted_without_a_warning() {
        let sample: Value =
            portcullis_guest_sdk::serde_json::from_str(&manifest::<AllowTools>().sample_config).unwrap();
        let policy = configure::<AllowTools>(&sample).unwrap_or_else(|problems| panic!("{problems:?}"));
        assert_eq!(policy.warnings(), Vec::<String>::new());
    }
}
