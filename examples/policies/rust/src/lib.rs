//! Denies the tools on the operator's list, and paths outside of the operator's directories.

use portcullis_guest_sdk::{
    Call, Context, Denial, Glob, Hook, ListTools, Listing, Manifest, Need, Policy, Problem, Tool, ToolCall, Verdict,
    export, log,
};
use serde::Deserialize;
use serde_json::{Value, json};

/// The policy as the operator configured it.
pub struct GuardPaths {
    deny: Vec<Glob>,
    roots: Vec<String>,
}

/// What the operator writes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    #[serde(default)]
    deny: Vec<Glob>,
    roots: Vec<String>,
}

impl Policy for GuardPaths {
    type Config = Config;

    fn manifest() -> Manifest {
        let strings = |description| json!({"type": "array", "items": {"type": "string"}, "description": description});
        let schema = json!({
            "type": "object",
            "properties": {
                "deny": strings("Names of tools; * stands for any characters"),
                "roots": strings("Directories that the argument path may be in"),
            },
            "required": ["roots"],
            "additionalProperties": false,
        });
        let sample = json!({"deny": ["delete_*"], "roots": ["/srv/"]});
        Manifest::new("guard-paths", "0.1.0", "Denies listed tools, and paths outside of listed directories")
            .needs(Need::of(Hook::ToolCall).arguments())
            .config(&schema.to_string(), &sample.to_string())
    }

    fn configure(Config { deny, roots }: Config) -> Result<Self, Vec<Problem>> {
        let relative = roots.iter().enumerate().filter(|(_, root)| !root.starts_with('/'));
        let problems: Vec<_> =
            relative.map(|(index, _)| Problem::at(format!("/roots/{index}"), "must begin with /")).collect();
        if problems.is_empty() { Ok(Self { deny, roots }) } else { Err(problems) }
    }
}

impl ListTools for GuardPaths {
    fn list(&self, _: &Context, tool: &Tool) -> Listing {
        if self.pattern_over(tool).is_some() { Listing::hide() } else { Listing::show() }
    }
}

impl ToolCall for GuardPaths {
    fn before(&self, _: &Context, call: &Call) -> Verdict {
        if let Some(pattern) = self.pattern_over(&call.tool) {
            let denial = Denial::new("guard.tool", "The operator does not let this tool be called.");
            return denial.rule(pattern.as_str()).into();
        }
        let arguments: Value = match call.parse_arguments() {
            Ok(arguments) => arguments.unwrap_or_default(),
            Err(_) => return Verdict::deny("guard.arguments", "The arguments cannot be read."),
        };
        match arguments.get("path") {
            Some(path) if !path.as_str().is_some_and(|path| self.is_inside(path)) => {
                log::info("denied a path outside of the allowed directories");
                Verdict::deny("guard.path", "This path is outside of the directories that the operator allows.")
            }
            _ => Verdict::allow(),
        }
    }
}

impl GuardPaths {
    /// The first pattern on the list that matches the tool's name.
    fn pattern_over(&self, tool: &Tool) -> Option<&Glob> {
        self.deny.iter().find(|pattern| pattern.matches(&tool.name))
    }

    /// Whether the path is absolute, leads nowhere by `..`, and is one of the directories or within one.
    fn is_inside(&self, path: &str) -> bool {
        path.starts_with('/')
            && path.split('/').all(|step| step != "..")
            && self.roots.iter().any(|root| {
                let rest = path.strip_prefix(root.trim_end_matches('/'));
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            })
    }
}

export!(GuardPaths with list_tools, tool_call);

#[cfg(test)]
mod tests {
    use portcullis_guest_sdk::testing::cases;

    use super::*;

    #[test]
    fn the_cases_hold() {
        cases::<GuardPaths>(include_str!("../cases.json"));
    }
}
