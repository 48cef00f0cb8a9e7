//! Tools are used as they were when somebody looked at them: a definition that changed hides its tool until it is
//! accepted.
//!
//! A server that changes a description or a schema after it was trusted can make a model do something else ("rug pull").
//! The gateway remembers the definition of each tool and says whether one is new or has changed; this policy says what
//! follows. Definitions can also be pinned in the configuration, by their digests.

use std::collections::BTreeMap;

use portcullis_guest_sdk::serde::Deserialize;
use portcullis_guest_sdk::{
    Call, Context, Denial, Glob, ListTools, Listing, Manifest, Policy, Problem, SelfTests, Tool, ToolCall, Verdict,
    export,
};

const SCHEMA: &str = include_str!("../schema.json");
const SAMPLE: &str = include_str!("../sample.json");

/// What the operator writes.
#[derive(Deserialize)]
#[serde(crate = "portcullis_guest_sdk::serde", deny_unknown_fields, default)]
pub struct Config {
    /// Patterns over `upstream/tool`.
    tools: Vec<Glob>,
    /// What happens to a tool whose definition is not the accepted one.
    changed: Action,
    /// What happens to a tool that was not there when its upstream was first seen.
    first_seen: Action,
    /// Digest of the definition, by `upstream/tool`: whatever the gateway remembers.
    pins: BTreeMap<String, String>,
    otherwise: Otherwise,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            tools: Glob::parse("*").into_iter().collect(),
            changed: Action::Hide,
            first_seen: Action::Show,
            pins: BTreeMap::new(),
            otherwise: Otherwise::default(),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(crate = "portcullis_guest_sdk::serde", rename_all = "lowercase")]
enum Action {
    /// Neither listed nor callable.
    Hide,
    /// Listed; a call is refused and told why.
    Deny,
    /// Listed and callable.
    Show,
}

/// What is said of a tool that is as it should be.
#[derive(Clone, Copy, Default, Deserialize)]
#[serde(crate = "portcullis_guest_sdk::serde", rename_all = "lowercase")]
enum Otherwise {
    Allow,
    #[default]
    Abstain,
}

/// The policy.
pub struct PinTools {
    config: Config,
}

/// What is wrong with a tool, and what follows.
struct Objection {
    action: Action,
    code: &'static str,
    message: &'static str,
}

impl PinTools {
    fn objection(&self, tool: &Tool) -> Option<Objection> {
        let path = tool.path();
        if !self.config.tools.iter().any(|pattern| pattern.matches(&path)) {
            return None;
        }
        let changed = Objection {
            action: self.config.changed,
            code: "pin-tools.changed",
            message: "The definition of this tool changed since it was accepted. An operator has to look at it first.",
        };
        match self.config.pins.get(&path) {
            Some(digest) => (*digest != tool.digest).then_some(changed),
            None if tool.is_changed() => Some(changed),
            None if tool.is_first_seen() => Some(Objection {
                action: self.config.first_seen,
                code: "pin-tools.first-seen",
                message: "This tool is new. An operator has to look at it first.",
            }),
            None => None,
        }
    }
}

impl Policy for PinTools {
    type Config = Config;

    fn manifest() -> Manifest {
        Manifest::new(
            "pin-tools",
            env!("CARGO_PKG_VERSION"),
            "Hides tools whose definition changed until it is accepted",
        )
        .license("Apache-2.0")
        .config(SCHEMA, SAMPLE)
    }

    fn configure(config: Config) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        if config.tools.is_empty() {
            problems.push(Problem::at("/tools", "without a pattern nothing is pinned; leave it out for all tools"));
        }
        for (path, digest) in &config.pins {
            let is_digest = digest.len() == 64 && digest.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
            let escaped = path.replace('~', "~0").replace('/', "~1");
            if !is_digest {
                let message = "a digest has 64 lower-case hexadecimal digits; `portcullis pin list` shows them";
                problems.push(Problem::at(format!("/pins/{escaped}"), message));
            }
            if !path.contains('/') {
                problems.push(Problem::at(format!("/pins/{escaped}"), "a tool is named as `upstream/tool`"));
            }
        }
        if problems.is_empty() { Ok(Self { config }) } else { Err(problems) }
    }

    fn warnings(&self) -> Vec<String> {
        match self.config.changed {
            Action::Show => vec!["tools whose definition changed are shown and can be called".to_owned()],
            Action::Hide | Action::Deny => Vec::new(),
        }
    }
}

impl ListTools for PinTools {
    fn list(&self, _: &Context, tool: &Tool) -> Listing {
        match (self.objection(tool), self.config.otherwise) {
            (Some(Objection { action: Action::Hide, .. }), _) => Listing::hide(),
            (_, Otherwise::Allow) => Listing::show(),
            (_, Otherwise::Abstain) => Listing::abstain(),
        }
    }
}

impl ToolCall for PinTools {
    fn before(&self, _: &Context, call: &Call) -> Verdict {
        match (self.objection(&call.tool), self.config.otherwise) {
            (Some(Objection { action: Action::Hide | Action::Deny, code, message }), _) => {
                Denial::new(code, message).into()
            }
            (_, Otherwise::Allow) => Verdict::allow(),
            (_, Otherwise::Abstain) => Verdict::abstain(),
        }
    }
}

impl SelfTests for PinTools {
    const CASES: &'static str = include_str!("../cases.json");
}

export!(PinTools with list_tools, tool_call, self_tests);

#[cfg(test)]
mod tests {
    #[test]
    fn the_cases_come_out_as_written() {
        portcullis_guest_sdk::testing::cases::<super::PinTools>(include_str!("../cases.json"));
    }
}
