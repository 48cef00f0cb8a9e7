//! Somebody has to agree, or more authority is needed, before a tool that may destroy something is called.
//!
//! Which tools that concerns is told by patterns and by what the upstream says of them. A person sees the tool and its
//! arguments before they agree; what they agreed to holds for exactly these arguments.

use std::time::Duration;

use portcullis_guest_sdk::serde::Deserialize;
use portcullis_guest_sdk::{
    Approval, Call, Context, Glob, Hook, Manifest, Need, Policy, Problem, Reason, SelfTests, StepUp, Tool, ToolCall,
    Verdict, export,
};

const SCHEMA: &str = include_str!("../schema.json");
const SAMPLE: &str = include_str!("../sample.json");

/// Asks for an approval under this code, and is satisfied by it.
const APPROVAL: &str = "confirm-destructive.approval";
/// Asks for more authority under this code.
const STEP_UP: &str = "confirm-destructive.step-up";

/// Longest part of the arguments that an approver is shown, in bytes.
const MAX_SHOWN: usize = 2 * 1024;
/// Longest time for which a request stands or an approval is remembered, in seconds: 30 days.
const MAX_SECONDS: u32 = 30 * 24 * 60 * 60;

/// What the operator writes.
#[derive(Deserialize)]
#[serde(crate = "portcullis_guest_sdk::serde", deny_unknown_fields, default)]
pub struct Config {
    /// Patterns over `upstream/tool`.
    tools: Vec<Glob>,
    which: Which,
    ask: Ask,
    by: By,
    /// Names of persons, where `by` is `listed`.
    approvers: Vec<String>,
    /// Seconds until a request for approval lapses.
    ttl: u32,
    /// Seconds for which an approval holds; 0: for one call.
    remember: u32,
    /// Whether approvers see the arguments.
    show_arguments: bool,
    /// Where `ask` is `step-up`: the scopes that are wanted.
    scopes: Vec<String>,
    except: Except,
    otherwise: Otherwise,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            tools: Glob::parse("*").into_iter().collect(),
            which: Which::default(),
            ask: Ask::default(),
            by: By::default(),
            approvers: Vec::new(),
            ttl: 60 * 60,
            remember: 0,
            show_arguments: true,
            scopes: Vec::new(),
            except: Except::default(),
            otherwise: Otherwise::default(),
        }
    }
}

/// Which of the tools that the patterns have.
#[derive(Clone, Copy, Default, Deserialize)]
#[serde(crate = "portcullis_guest_sdk::serde", rename_all = "kebab-case")]
enum Which {
    /// Those that may destroy something, by their annotations or for want of them.
    #[default]
    Destructive,
    /// Those that do not say of themselves that they change nothing.
    NotReadOnly,
    All,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(crate = "portcullis_guest_sdk::serde", rename_all = "kebab-case")]
enum Ask {
    #[default]
    Approval,
    StepUp,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(crate = "portcullis_guest_sdk::serde", rename_all = "lowercase")]
enum By {
    #[default]
    Operator,
    Caller,
    Listed,
}

/// Who and what need not ask.
#[derive(Default, Deserialize)]
#[serde(crate = "portcullis_guest_sdk::serde", deny_unknown_fields, default)]
struct Except {
    /// Patterns over `upstream/tool`.
    tools: Vec<Glob>,
    /// Patterns over the caller's subject.
    principals: Vec<Glob>,
    /// Groups of which the caller is in one.
    groups: Vec<String>,
}

/// What is said of a call that needs no confirmation.
#[derive(Clone, Copy, Default, Deserialize)]
#[serde(crate = "portcullis_guest_sdk::serde", rename_all = "lowercase")]
enum Otherwise {
    Allow,
    #[default]
    Abstain,
}

/// The policy.
pub struct ConfirmDestructive {
    config: Config,
}

impl ConfirmDestructive {
    fn concerns(&self, ctx: &Context, tool: &Tool) -> bool {
        let Config { tools, which, except, .. } = &self.config;
        let path = tool.path();
        let named = |patterns: &[Glob]| patterns.iter().any(|pattern| pattern.matches(&path));
        let of_kind = match which {
            Which::Destructive => tool.is_destructive(),
            Which::NotReadOnly => !tool.is_read_only(),
            Which::All => true,
        };
        let excepted = named(&except.tools)
            || except.principals.iter().any(|pattern| pattern.matches(&ctx.caller.subject))
            || except.groups.iter().any(|group| ctx.caller.is_in(group));
        of_kind && named(tools) && !excepted
    }

    fn approval(&self, call: &Call) -> Approval {
        let path = call.tool.path();
        let reason = Reason::new(APPROVAL, format!("A call of {path} has to be approved by a person first."));
        let summary = match call.arguments.as_deref().filter(|_| self.config.show_arguments) {
            Some(arguments) => format!("{path} is called with {}", shortened(arguments)),
            None => format!("{path} is called."),
        };
        let approval = Approval::new(reason, format!("Call {path}"), summary);
        let approval = approval.ttl(Duration::from_secs(self.config.ttl.into()));
        let approval = match self.config.by {
            By::Operator => approval.by_operator(),
            By::Caller => approval,
            By::Listed => approval.by_one_of(&self.config.approvers),
        };
        match self.config.remember {
            0 => approval,
            seconds => approval.remember_for(Duration::from_secs(seconds.into())),
        }
    }

    fn step_up(&self, call: &Call) -> StepUp {
        let reason = Reason::new(STEP_UP, format!("A call of {} needs more authority.", call.tool.path()));
        StepUp::scopes(reason, &self.config.scopes)
    }
}

/// As much of a text as approvers are shown.
fn shortened(text: &str) -> String {
    if text.len() <= MAX_SHOWN {
        return text.to_owned();
    }
    let end = (0..=MAX_SHOWN).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default();
    format!("{}… ({} bytes in all)", &text[..end], text.len())
}

impl Policy for ConfirmDestructive {
    type Config = Config;

    fn manifest() -> Manifest {
        Manifest::new(
            "confirm-destructive",
            env!("CARGO_PKG_VERSION"),
            "Wants an approval or more authority before something may be destroyed",
        )
        .license("Apache-2.0")
        .config(SCHEMA, SAMPLE)
        .needs(Need::of(Hook::ToolCall).arguments())
    }

    fn configure(config: Config) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut problem = |path: &str, message: &str| problems.push(Problem::at(path, message));
        if config.tools.is_empty() {
            problem("/tools", "without a pattern nothing is ever confirmed; leave it out for all tools");
        }
        match config.ask {
            Ask::StepUp if config.scopes.is_empty() => problem("/scopes", "a step-up wants at least one scope"),
            Ask::Approval if !config.scopes.is_empty() => problem("/scopes", "only a step-up wants scopes"),
            _ => {}
        }
        match config.by {
            By::Listed if config.approvers.is_empty() => problem("/approvers", "by = listed needs approvers"),
            By::Operator | By::Caller if !config.approvers.is_empty() => {
                problem("/approvers", "only by = listed has approvers");
            }
            _ => {}
        }
        if !(60..=MAX_SECONDS).contains(&config.ttl) {
            problem("/ttl", "a request stands for 60 seconds to 30 days");
        }
        if config.remember > MAX_SECONDS {
            problem("/remember", "an approval is remembered for at most 30 days");
        }
        if problems.is_empty() { Ok(Self { config }) } else { Err(problems) }
    }
}

impl ToolCall for ConfirmDestructive {
    fn before(&self, ctx: &Context, call: &Call) -> Verdict {
        if !self.concerns(ctx, &call.tool) {
            return match self.config.otherwise {
                Otherwise::Allow => Verdict::allow(),
                Otherwise::Abstain => Verdict::abstain(),
            };
        }
        match self.config.ask {
            Ask::Approval if ctx.is_satisfied(APPROVAL) => Verdict::allow(),
            Ask::Approval => self.approval(call).into(),
            Ask::StepUp if self.config.scopes.iter().all(|scope| ctx.caller.has_scope(scope)) => Verdict::allow(),
            Ask::StepUp => self.step_up(call).into(),
        }
    }
}

impl SelfTests for ConfirmDestructive {
    const CASES: &'static str = include_str!("../cases.json");
}

export!(ConfirmDestructive with tool_call, self_tests);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cases_come_out_as_written() {
        portcullis_guest_sdk::testing::cases::<ConfirmDestructive>(include_str!("../cases.json"));
    }

    #[test]
    fn long_arguments_are_shortened_where_a_character_ends() {
        let shown = shortened(&"ä".repeat(MAX_SHOWN));
        assert!(shown.ends_with(&format!("… ({} bytes in all)", 2 * MAX_SHOWN)) && shown.len() < MAX_SHOWN + 64);
        assert_eq!(shortened("{}"), "{}");
    }
}
