//! How often tools may be called: a limit for each caller, client, tool, upstream or combination of them.
//!
//! Every rule that matches a call is charged for it, in order, and the first that has nothing left refuses it; what the
//! rules before it have taken stays taken. A call within its limits gets no opinion: a rate limit is not a permission.
//! The host keeps the counters, in sliding windows, and charges a decision only once.

use std::time::Duration;

use portcullis_guest_sdk::serde::Deserialize;
use portcullis_guest_sdk::{
    Call, Caller, Capability, Context, Glob, Manifest, Policy, Problem, Reason, SelfTests, Throttle, ToolCall, Verdict,
    counters, export,
};

mod key;

use key::Key;

/// Most rules in one configuration. Each that matches is a question to the host.
const MAX_RULES: usize = 100;
const MAX_PERIOD: Duration = Duration::from_secs(31 * 24 * 60 * 60);
/// Longest message, in bytes, as the contract has it.
const MAX_MESSAGE: usize = 2 * 1024;
/// Longest name, in bytes.
const MAX_NAME: usize = 64;

const SCHEMA: &str = include_str!("../schema.json");
const SAMPLE: &str = include_str!("../sample.json");
const CASES: &str = include_str!("../cases.json");

/// What the operator writes.
#[derive(Deserialize)]
#[serde(crate = "portcullis_guest_sdk::serde", deny_unknown_fields)]
pub struct Config {
    rules: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(crate = "portcullis_guest_sdk::serde", deny_unknown_fields)]
struct Rule {
    /// Its position if it has none.
    #[serde(default)]
    name: Option<String>,
    /// Patterns over `upstream/tool`; every tool if there are none.
    #[serde(default)]
    tools: Option<Vec<Glob>>,
    #[serde(default = "each_caller")]
    per: Vec<Per>,
    limit: u64,
    period: Period,
    #[serde(default = "one")]
    cost: u32,
    #[serde(default)]
    message: Option<String>,
}

/// What has a limit of its own.
#[derive(Clone, Copy, PartialEq, Deserialize)]
#[serde(crate = "portcullis_guest_sdk::serde", rename_all = "lowercase")]
enum Per {
    Caller,
    Client,
    Tool,
    Upstream,
}

/// A time such as `90s`, `5m`, `1h` or `1d`.
#[derive(Clone, Copy, Deserialize)]
#[serde(crate = "portcullis_guest_sdk::serde", try_from = "String")]
struct Period(Duration);

fn each_caller() -> Vec<Per> {
    vec![Per::Caller]
}

fn one() -> u32 {
    1
}

impl TryFrom<String> for Period {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let seconds = |unit| match unit {
            's' => Some(1),
            'm' => Some(60),
            'h' => Some(60 * 60),
            'd' => Some(24 * 60 * 60),
            _ => None,
        };
        let parsed = text.chars().last().and_then(|unit| {
            let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
            Some(Duration::from_secs(number.checked_mul(seconds(unit)?)?))
        });
        match parsed {
            Some(period) if !period.is_zero() && period <= MAX_PERIOD => Ok(Self(period)),
            _ => Err("a period is a number and s, m, h or d, such as 10m, and at most 31d".to_owned()),
        }
    }
}

/// The policy.
pub struct RateLimit {
    config: Config,
}

impl Rule {
    fn matches(&self, path: &str) -> bool {
        self.tools.as_ref().is_none_or(|patterns| patterns.iter().any(|pattern| pattern.matches(path)))
    }

    fn name(&self, at: usize) -> String {
        self.name.clone().unwrap_or_else(|| format!("rules/{at}"))
    }

    /// The counter that this call is charged to.
    fn key(&self, name: &str, caller: &Caller, call: &Call) -> Key {
        let mut key = Key::new(name);
        for per in &self.per {
            match per {
                Per::Caller => key.add("caller", &[&caller.issuer, &caller.subject]),
                // A virtual key has no client but itself.
                Per::Client if caller.client_id.is_empty() => key.add("caller", &[&caller.issuer, &caller.subject]),
                Per::Client => key.add("client", &[&caller.client_id]),
                Per::Tool => key.add("tool", &[&call.tool.upstream, &call.tool.name]),
                Per::Upstream => key.add("upstream", &[&call.tool.upstream]),
            }
        }
        key
    }

    /// Charges the call, and says how long to wait if it is too much.
    fn charge(&self, name: &str, caller: &Caller, call: &Call) -> Result<(), Duration> {
        let key = self.key(name, caller, call).into_string();
        let usage = counters::take(&key, self.cost, self.limit, self.period.0);
        if usage.allowed { Ok(()) } else { Err(Duration::from_millis(usage.retry_after_ms)) }
    }

    fn refusal(&self, name: String, call: &Call, wait: Duration) -> Throttle {
        let message = self.message.clone().unwrap_or_else(|| {
            let seconds = wait.as_millis().div_ceil(1000).max(1);
            format!("Too many calls of {}. Try again in {seconds} s.", call.tool.path())
        });
        Throttle::new(Reason::new("rate-limit.exceeded", message).rule(&*name), name, wait)
    }

    fn problems(&self, at: usize) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut problem =
            |member: &str, message: String| problems.push(Problem::at(format!("/rules/{at}/{member}"), message));
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'_' | b'-');
        let is_name = |name: &String| (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(plain);
        if !self.name.as_ref().is_none_or(is_name) {
            problem("name", format!("a name has 1 to {MAX_NAME} characters of a-z, 0-9, '.', '_' and '-'"));
        }
        if self.tools.as_ref().is_some_and(Vec::is_empty) {
            problem("tools", "a rule without tools matches nothing; leave it out to match all".to_owned());
        }
        if let Some(index) = (1..self.per.len()).find(|index| self.per[..*index].contains(&self.per[*index])) {
            problem(&format!("per/{index}"), "it is listed twice".to_owned());
        }
        if self.limit == 0 {
            problem("limit", "a limit of nothing refuses every call; use allow-tools for that".to_owned());
        }
        if self.cost == 0 {
            problem("cost", "a call that costs nothing is never refused".to_owned());
        }
        if self.limit > 0 && u64::from(self.cost) > self.limit {
            problem("cost", "one call costs more than the limit, so none would be allowed".to_owned());
        }
        if self.message.as_ref().is_some_and(|message| message.is_empty() || message.len() > MAX_MESSAGE) {
            problem("message", format!("a message has 1 to {MAX_MESSAGE} bytes"));
        }
        problems
    }
}

impl Policy for RateLimit {
    type Config = Config;

    fn manifest() -> Manifest {
        Manifest::new("rate-limit", env!("CARGO_PKG_VERSION"), "Limits how often tools are called")
            .license("Apache-2.0")
            .config(SCHEMA, SAMPLE)
            .capability(Capability::COUNTERS)
    }

    fn configure(config: Config) -> Result<Self, Vec<Problem>> {
        if config.rules.is_empty() || config.rules.len() > MAX_RULES {
            return Err(vec![Problem::at("/rules", format!("there are 1 to {MAX_RULES} rules"))]);
        }
        let rules = &config.rules;
        let mut problems: Vec<Problem> = rules.iter().enumerate().flat_map(|(at, rule)| rule.problems(at)).collect();
        for (at, rule) in rules.iter().enumerate().filter(|(_, rule)| rule.name.is_some()) {
            if rules[..at].iter().any(|other| other.name == rule.name) {
                problems.push(Problem::at(format!("/rules/{at}/name"), "an earlier rule has this name"));
            }
        }
        if problems.is_empty() { Ok(Self { config }) } else { Err(problems) }
    }
}

impl ToolCall for RateLimit {
    fn before(&self, ctx: &Context, call: &Call) -> Verdict {
        let path = call.tool.path();
        for (at, rule) in self.config.rules.iter().enumerate().filter(|(_, rule)| rule.matches(&path)) {
            let name = rule.name(at);
            if let Err(wait) = rule.charge(&name, &ctx.caller, call) {
                return rule.refusal(name, call, wait).into();
            }
        }
        Verdict::abstain()
    }
}

impl SelfTests for RateLimit {
    const CASES: &'static str = CASES;
}

export!(RateLimit with tool_call, self_tests);

#[cfg(test)]
mod tests;
