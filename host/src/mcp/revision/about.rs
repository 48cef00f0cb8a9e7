//! What an upstream says of itself when we meet it.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::head::read_object;
use super::{Era, SKILLS_EXTENSION, TASKS_EXTENSION};
use crate::mcp::json::{check, raw};

/// Extensions, or experiments, of one upstream that are told to callers.
const MAX_EXTENSIONS: usize = 64;
/// Longest name of an extension and its settings together, in bytes.
const MAX_EXTENSION_BYTES: usize = 16 * 1024;

/// What an upstream says of itself.
#[derive(Debug)]
pub struct About {
    /// The revision that is spoken with it; it may be one that we have no file for.
    pub revision: String,
    pub era: Era,
    pub capabilities: Capabilities,
    /// JSON object `{"name", "version", …}`.
    pub server_info: Option<Box<RawValue>>,
    pub instructions: Option<String>,
}

/// `capabilities` of a server. What is not understood counts as not declared.
#[derive(Debug)]
pub struct Capabilities {
    pub tools: bool,
    pub tools_list_changed: bool,
    pub prompts: bool,
    pub prompts_list_changed: bool,
    pub resources: bool,
    pub resources_list_changed: bool,
    pub resources_subscribe: bool,
    pub completions: bool,
    pub logging: bool,
    /// JSON object, as 2025-11-25 has it.
    pub tasks: Option<Box<RawValue>>,
    /// By identifier: the settings.
    pub extensions: Vec<(String, Box<RawValue>)>,
    /// By name: the settings.
    pub experimental: Vec<(String, Box<RawValue>)>,
    /// JSON object, as it came.
    pub raw: Box<RawValue>,
}

impl Capabilities {
    /// Reads the JSON object; absent is the same as empty.
    pub fn read(capabilities: Option<&RawValue>) -> Self {
        let raw = capabilities.map_or_else(|| raw("{}".to_owned()), ToOwned::to_owned);
        // Each member on its own: one that is not understood costs no other.
        let members: BTreeMap<String, &RawValue> = serde_json::from_str(raw.get()).unwrap_or_default();
        let feature = |name: &str| {
            let feature = members.get(name).filter(|feature| feature.get().starts_with('{'));
            feature.map(|feature| serde_json::from_str::<Feature>(feature.get()).unwrap_or_default())
        };
        // These are told to callers beside those of other upstreams, so that what one of them says must not spoil the rest.
        let map = |name: &str| {
            let map = members.get(name).and_then(|map| serde_json::from_str::<BTreeMap<_, _>>(map.get()).ok());
            map.unwrap_or_default().into_iter().filter(is_tellable).take(MAX_EXTENSIONS).collect()
        };
        let (tools, prompts, resources) = (feature("tools"), feature("prompts"), feature("resources"));
        let changes = |feature: &Option<Feature>| feature.as_ref().is_some_and(|feature| feature.list_changed);
        Self {
            tools_list_changed: changes(&tools),
            tools: tools.is_some(),
            prompts_list_changed: changes(&prompts),
            prompts: prompts.is_some(),
            resources_list_changed: changes(&resources),
            resources_subscribe: resources.as_ref().is_some_and(|feature| feature.subscribe),
            resources: resources.is_some(),
            completions: feature("completions").is_some(),
            logging: feature("logging").is_some(),
            tasks: members.get("tasks").filter(|tasks| tasks.get().starts_with('{')).map(|tasks| (*tasks).to_owned()),
            extensions: map("extensions"),
            experimental: map("experimental"),
            raw,
        }
    }

    /// Whether any of its lists may be announced to have changed.
    pub fn any_list_changed(&self) -> bool {
        self.tools_list_changed || self.prompts_list_changed || self.resources_list_changed
    }

    /// Whether it may go on with work after it has answered, in whichever shape of tasks.
    pub fn has_tasks(&self) -> bool {
        self.tasks.is_some() || self.has_extension(TASKS_EXTENSION)
    }

    /// Whether it serves skills (SEP-2640).
    pub fn has_skills(&self) -> bool {
        self.has_extension(SKILLS_EXTENSION)
    }

    /// Whether directories of skills can be read (SEP-2640, `directoryRead`).
    pub fn reads_directories(&self) -> bool {
        #[derive(Default, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        struct Settings {
            directory_read: bool,
        }
        let settings = self.extensions.iter().find(|(name, _)| name == SKILLS_EXTENSION);
        let settings = settings.and_then(|(_, settings)| read_object::<Settings>(settings));
        settings.is_some_and(|settings| settings.directory_read)
    }

    /// Whether it declares an extension, such as [`TASKS_EXTENSION`].
    pub fn has_extension(&self, identifier: &str) -> bool {
        self.extensions.iter().any(|(name, _)| name == identifier)
    }
}

/// Whether the settings of an extension are an object that every reader of JSON can read.
fn is_tellable((name, settings): &(String, Box<RawValue>)) -> bool {
    let settings = settings.get();
    name.len() + settings.len() <= MAX_EXTENSION_BYTES
        && settings.starts_with('{')
        && check(settings.as_bytes()).is_ok()
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Feature {
    list_changed: bool,
    subscribe: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(capabilities: &str) -> Capabilities {
        Capabilities::read(Some(&raw(capabilities.to_owned())))
    }

    #[test]
    fn capabilities_are_read_one_by_one() {
        let text = r#"{"tools":{"listChanged":true},"prompts":{},"resources":{"subscribe":true,"x":1},"completions":{},"logging":{},"tasks":{"list":{}},"extensions":{"b/c":{"d":1.0},"a/b":{}},"experimental":{"e":{}}}"#;
        let all = read(text);
        assert!(all.tools && all.tools_list_changed && all.prompts && !all.prompts_list_changed);
        assert!(all.resources && all.resources_subscribe && !all.resources_list_changed);
        assert!(all.completions && all.logging && all.any_list_changed());
        assert_eq!(all.tasks.as_ref().unwrap().get(), r#"{"list":{}}"#);
        let extensions: Vec<_> = all.extensions.iter().map(|(name, value)| (name.as_str(), value.get())).collect();
        assert_eq!(extensions, [("a/b", "{}"), ("b/c", r#"{"d":1.0}"#)]);
        assert!(all.has_extension("a/b") && !all.has_extension("a"));
        assert!(all.has_tasks() && !read("{}").has_tasks());
        assert!(read(r#"{"extensions":{"io.modelcontextprotocol/tasks":{}}}"#).has_tasks());
        assert!(!all.has_skills() && !all.reads_directories());
        assert_eq!(all.experimental.len(), 1);
        assert_eq!(all.raw.get(), text);
    }

    #[test]
    fn settings_that_would_spoil_what_we_say_are_left_out() {
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(100), "]".repeat(100));
        let long = format!("{{\"a\":\"{}\"}}", "x".repeat(MAX_EXTENSION_BYTES));
        for bad in ["[]", "7", "null", r#"{"a":1,"a":2}"#, deep.as_str(), long.as_str()] {
            let read = read(&format!(
                r#"{{"tools":{{}},"extensions":{{"bad":{bad},"good":{{}}}},"experimental":{{"bad":{bad}}}}}"#
            ));
            assert!(read.tools && read.has_extension("good") && !read.has_extension("bad"), "{bad:.40}");
            assert!(read.experimental.is_empty(), "{bad:.40}");
        }
        let many: Vec<String> = (0..1_000).map(|number| format!(r#""e{number}":{{}}"#)).collect();
        assert_eq!(read(&format!(r#"{{"extensions":{{{}}}}}"#, many.join(","))).extensions.len(), MAX_EXTENSIONS);
    }

    #[test]
    fn skills_say_whether_their_directories_can_be_read() {
        for (settings, reads) in [
            (r#"{"directoryRead":true}"#, true),
            (r#"{"directoryRead":false}"#, false),
            (r#"{"directoryRead":1}"#, false),
            (r#"{"config":{"directoryRead":true}}"#, false),
            ("{}", false),
        ] {
            let skilled = read(&format!(r#"{{"extensions":{{"io.modelcontextprotocol/skills":{settings}}}}}"#));
            assert!(skilled.has_skills());
            assert_eq!(skilled.reads_directories(), reads, "{settings}");
        }
        assert!(!read(r#"{"extensions":{"io.modelcontextprotocol/skills":null}}"#).has_skills());
    }

    #[test]
    fn what_is_not_understood_costs_no_other() {
        let odd = read(
            r#"{"tools":true,"prompts":{"listChanged":"yes"},"resources":null,"extensions":[],"tasks":1,"logging":{}}"#,
        );
        assert!(!odd.tools && odd.prompts && !odd.prompts_list_changed && !odd.resources && odd.logging);
        assert!(odd.extensions.is_empty() && odd.tasks.is_none() && !odd.any_list_changed());
        for nothing in [read("{}"), read("[]"), read("null"), Capabilities::read(None)] {
            assert!(!nothing.tools && !nothing.logging && nothing.experimental.is_empty());
        }
    }
}
