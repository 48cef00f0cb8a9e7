//! What the gateway says that it can, in the words of each revision.

use serde_json::value::RawValue;

use super::{Revision, SKILLS_EXTENSION, TASKS_EXTENSION, push_member};
use crate::mcp::json::raw;

/// What there is for one caller: the union of what its upstreams declare, as far as we serve it.
#[derive(Debug, Default)]
pub struct Offered {
    pub tools: bool,
    pub prompts: bool,
    pub resources: bool,
    /// Updates of single resources can be heard of.
    pub subscribe: bool,
    pub completions: bool,
    pub logging: bool,
    /// Tasks as 2025-11-25 has them; those of 2026-07-28 are among the extensions.
    pub tasks: bool,
    /// By identifier: the settings, a JSON object each.
    pub extensions: Vec<(String, Box<RawValue>)>,
    /// By name: the settings, a JSON object each.
    pub experimental: Vec<(String, Box<RawValue>)>,
}

/// The `capabilities` object: `listChanged` is claimed for every list, since the gateway tells of changes of its own
/// catalog whatever the upstreams do.
pub fn capabilities(revision: Revision, offered: &Offered) -> Box<RawValue> {
    let mut out = String::with_capacity(256);
    out.push('{');
    if offered.tools {
        push_member(&mut out, "tools", r#"{"listChanged":true}"#);
    }
    if offered.prompts {
        push_member(&mut out, "prompts", r#"{"listChanged":true}"#);
    }
    if offered.resources {
        let subscribed = r#"{"subscribe":true,"listChanged":true}"#;
        push_member(&mut out, "resources", if offered.subscribe { subscribed } else { r#"{"listChanged":true}"# });
    }
    if offered.completions && revision.traits().completions {
        push_member(&mut out, "completions", "{}");
    }
    if offered.logging {
        push_member(&mut out, "logging", "{}");
    }
    if offered.tasks && revision.traits().tasks {
        push_member(&mut out, "tasks", r#"{"cancel":{},"requests":{"tools":{"call":{}}}}"#);
    }
    push_map(&mut out, "experimental", &offered.experimental, |_| true);
    // Extensions are older than the revision that defines where they are declared; tasks and skills are not.
    let is_of = |name: &str| !revision.is_legacy() || ![TASKS_EXTENSION, SKILLS_EXTENSION].contains(&name);
    push_map(&mut out, "extensions", &offered.extensions, is_of);
    out.push('}');
    raw(out)
}

fn push_map(out: &mut String, name: &str, members: &[(String, Box<RawValue>)], keep: impl Fn(&str) -> bool) {
    let mut members = members.iter().filter(|(name, _)| keep(name)).peekable();
    if members.peek().is_none() {
        return;
    }
    push_member(out, name, "{");
    for (name, value) in members {
        push_member(out, name, value.get());
    }
    out.push('}');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_revision_says_it_in_its_words() {
        let named = |names: &[&str]| -> Vec<(String, Box<RawValue>)> {
            names.iter().map(|name| ((*name).to_owned(), raw(r#"{"v":1}"#.to_owned()))).collect()
        };
        let mut offered = Offered {
            tools: true,
            prompts: true,
            resources: true,
            subscribe: true,
            completions: true,
            logging: true,
            tasks: true,
            extensions: named(&[TASKS_EXTENSION, "a/b"]),
            experimental: named(&["x"]),
        };
        let lists = r#""tools":{"listChanged":true},"prompts":{"listChanged":true},"resources":{"subscribe":true,"listChanged":true}"#;
        let rest = r#""logging":{}"#;
        let experimental = r#""experimental":{"x":{"v":1}}"#;
        for (revision, expected) in [
            (
                Revision::V2026_07_28,
                format!(
                    r#"{{{lists},"completions":{{}},{rest},{experimental},"extensions":{{"io.modelcontextprotocol/tasks":{{"v":1}},"a/b":{{"v":1}}}}}}"#
                ),
            ),
            (
                Revision::V2025_11_25,
                format!(
                    r#"{{{lists},"completions":{{}},{rest},"tasks":{{"cancel":{{}},"requests":{{"tools":{{"call":{{}}}}}}}},{experimental},"extensions":{{"a/b":{{"v":1}}}}}}"#
                ),
            ),
            (
                Revision::V2025_03_26,
                format!(r#"{{{lists},"completions":{{}},{rest},{experimental},"extensions":{{"a/b":{{"v":1}}}}}}"#),
            ),
            (Revision::V2024_11_05, format!(r#"{{{lists},{rest},{experimental},"extensions":{{"a/b":{{"v":1}}}}}}"#)),
        ] {
            assert_eq!(capabilities(revision, &offered).get(), expected);
        }
        offered.extensions = named(&[TASKS_EXTENSION, SKILLS_EXTENSION]);
        assert!(!capabilities(Revision::V2025_11_25, &offered).get().contains("extensions"));
        let modern =
            r#""extensions":{"io.modelcontextprotocol/tasks":{"v":1},"io.modelcontextprotocol/skills":{"v":1}}"#;
        assert!(capabilities(Revision::V2026_07_28, &offered).get().contains(modern));
        for revision in Revision::ALL {
            assert_eq!(capabilities(revision, &Offered::default()).get(), "{}");
            let quiet = Offered { resources: true, ..Offered::default() };
            assert_eq!(capabilities(revision, &quiet).get(), r#"{"resources":{"listChanged":true}}"#);
        }
    }
}
