//! Tools, prompts, resources and resource templates as their upstream defines them, before they have a place in a
//! catalog. Each is read once; what a view lists is the same text with another name or URI in it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use serde::Deserialize;
use serde_json::value::RawValue;

use super::template::Pattern;
use crate::ids::UpstreamName;
use crate::mcp::canonical::comparable;
use crate::mcp::json::{self, Members, quote, raw};
use crate::mcp::param_headers::{self, InvalidAnnotation, ParamHeader};
use crate::secret::Digest;

/// Largest definition, in bytes.
const MAX_DEFINITION_BYTES: usize = 256 * 1024;
/// Longest name or URI, in bytes.
pub(super) const MAX_KEY_BYTES: usize = 8 * 1024;

/// Why a definition cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnusableDefinition {
    #[error("it is larger than {MAX_DEFINITION_BYTES} bytes")]
    TooLarge,
    #[error("it is not an object, is nested too deeply, or has a member twice")]
    Malformed,
    #[error("it has no `{member}` that is a string of 1 to {MAX_KEY_BYTES} bytes")]
    Nameless { member: &'static str },
}

/// A tool as its upstream defines it.
#[derive(Debug)]
pub struct ToolDefinition {
    pub upstream: UpstreamName,
    /// The upstream's own name for it.
    pub name: String,
    pub title: Option<String>,
    pub description: Option<String>,
    /// JSON text of `inputSchema`.
    pub input_schema: Option<Box<RawValue>>,
    pub hints: ToolHints,
    pub task_support: TaskSupport,
    /// Arguments that modern revisions repeat in headers; none if an annotation is invalid.
    pub param_headers: Vec<ParamHeader>,
    /// What is wrong with the annotations: over streamable HTTP of 2026-07-28 there is no such tool then.
    pub invalid_annotation: Option<InvalidAnnotation>,
    /// SHA-256 over the definition in canonical form (RFC 8785), lower-case hex: in whatever order the upstream writes
    /// the members, it is the same definition.
    pub digest: String,
    /// Whether it is the gateway's own, by which its upstream is connected.
    pub is_connect: bool,
    text: Text,
    /// Resources that show its results, and where it names them.
    interfaces: Vec<(Range<usize>, String)>,
}

/// Where a tool names the resource that shows its results: as MCP Apps have it, and as they had it before.
const INTERFACES: [&[&str]; 3] =
    [&["_meta", "ui", "resourceUri"], &["_meta", "ui/resourceUri"], &["_meta", "openai/outputTemplate"]];

impl ToolDefinition {
    /// Reads one element of `tools`.
    ///
    /// # Errors
    /// [`UnusableDefinition`].
    pub fn parse(upstream: &UpstreamName, definition: &RawValue) -> Result<Self, UnusableDefinition> {
        let (text, members, name) = Text::read(definition, "name")?;
        let input_schema = members.get("inputSchema").map(ToOwned::to_owned);
        let annotations = input_schema.as_deref().map_or(Ok(Vec::new()), param_headers::read);
        let (param_headers, invalid_annotation) = match annotations {
            Ok(headers) => (headers, None),
            Err(invalid) => (Vec::new(), Some(invalid)),
        };
        let interfaces = match members.get("_meta") {
            Some(_) => INTERFACES.iter().filter_map(|path| text.string_at(path)).collect(),
            None => Vec::new(),
        };
        Ok(Self {
            upstream: upstream.clone(),
            name,
            title: read(&members, "title"),
            description: read(&members, "description"),
            input_schema,
            hints: read::<Annotations>(&members, "annotations").unwrap_or_default().into(),
            task_support: read::<Execution>(&members, "execution").unwrap_or_default().task_support,
            param_headers,
            invalid_annotation,
            digest: Digest::of(comparable(text.whole.get()).as_bytes()).to_hex(),
            is_connect: false,
            text,
            interfaces,
        })
    }

    /// The definition as the upstream sent it.
    pub fn text(&self) -> &RawValue {
        &self.text.whole
    }

    /// URIs of the resources that show its results.
    pub(super) fn interfaces(&self) -> impl Iterator<Item = &str> {
        self.interfaces.iter().map(|(_, uri)| uri.as_str())
    }

    /// The definition under the name that callers see, with the URIs that `exposed_uri` gives for its interfaces.
    pub(super) fn listed<'a>(&'a self, name: &str, exposed_uri: impl Fn(&'a str) -> Option<&'a str>) -> Arc<RawValue> {
        let mut edits = self.text.renamed(&self.name, name);
        for (place, uri) in &self.interfaces {
            if let Some(exposed) = exposed_uri(uri).filter(|exposed| exposed != uri) {
                edits.push((place, exposed));
            }
        }
        self.text.edited(edits)
    }
}

/// MCP tool annotations. A hint that the upstream does not give has the specification's default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ToolHints {
    pub read_only: bool,
    pub destructive: bool,
    pub idempotent: bool,
    pub open_world: bool,
}

impl Default for ToolHints {
    fn default() -> Self {
        Self { read_only: false, destructive: true, idempotent: false, open_world: true }
    }
}

/// The part of `annotations` that policies see.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Annotations {
    read_only_hint: Option<bool>,
    destructive_hint: Option<bool>,
    idempotent_hint: Option<bool>,
    open_world_hint: Option<bool>,
}

impl From<Annotations> for ToolHints {
    fn from(annotations: Annotations) -> Self {
        let defaults = Self::default();
        let read_only = annotations.read_only_hint.unwrap_or(defaults.read_only);
        Self {
            read_only,
            destructive: annotations.destructive_hint.unwrap_or(defaults.destructive && !read_only),
            idempotent: annotations.idempotent_hint.unwrap_or(defaults.idempotent),
            open_world: annotations.open_world_hint.unwrap_or(defaults.open_world),
        }
    }
}

/// Whether a call of a tool may, or must, be made as a task (2025-11-25, tasks § tool-level negotiation).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TaskSupport {
    #[default]
    Forbidden,
    Optional,
    Required,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Execution {
    task_support: TaskSupport,
}

/// A prompt or a resource as its upstream defines it.
#[derive(Debug)]
pub struct Definition {
    pub upstream: UpstreamName,
    /// The upstream's own name or URI for it.
    pub key: String,
    /// `mimeType`, of a resource or resource template.
    pub mime: Option<String>,
    text: Text,
}

impl Definition {
    /// Reads one element of `prompts`.
    ///
    /// # Errors
    /// [`UnusableDefinition`].
    pub fn prompt(upstream: &UpstreamName, definition: &RawValue) -> Result<Self, UnusableDefinition> {
        Self::parse(upstream, definition, "name")
    }

    /// Reads one element of `resources`.
    ///
    /// # Errors
    /// [`UnusableDefinition`].
    pub fn resource(upstream: &UpstreamName, definition: &RawValue) -> Result<Self, UnusableDefinition> {
        Self::parse(upstream, definition, "uri")
    }

    pub(super) fn parse(
        upstream: &UpstreamName,
        definition: &RawValue,
        member: &'static str,
    ) -> Result<Self, UnusableDefinition> {
        let (text, members, key) = Text::read(definition, member)?;
        Ok(Self { upstream: upstream.clone(), key, mime: read(&members, "mimeType"), text })
    }

    /// The definition under the name or URI that callers see.
    pub(super) fn listed(&self, exposed: &str) -> Arc<RawValue> {
        self.text.edited(self.text.renamed(&self.key, exposed))
    }
}

/// A resource template as its upstream defines it.
#[derive(Debug)]
pub struct TemplateDefinition {
    /// Its key is the URI template.
    pub definition: Definition,
    /// `None` if it is none that RFC 6570 knows: it is listed, and no URI is found by it.
    pub(super) pattern: Option<Arc<Pattern>>,
}

impl TemplateDefinition {
    /// Reads one element of `resourceTemplates`.
    ///
    /// # Errors
    /// [`UnusableDefinition`].
    pub fn parse(upstream: &UpstreamName, definition: &RawValue) -> Result<Self, UnusableDefinition> {
        let definition = Definition::parse(upstream, definition, "uriTemplate")?;
        let pattern = Pattern::parse(&definition.key).map(Arc::new);
        Ok(Self { definition, pattern })
    }
}

/// What has a place of its own in an upstream's list.
pub trait Listed {
    /// What it is found by: unique in its list.
    fn key(&self) -> &str;
    /// SHA-256 over the definition as the upstream sent it.
    fn digest(&self) -> Digest;
    /// Length of the definition, in bytes.
    fn bytes(&self) -> usize;
}

impl Listed for ToolDefinition {
    fn key(&self) -> &str {
        &self.name
    }

    fn digest(&self) -> Digest {
        self.text.digest
    }

    fn bytes(&self) -> usize {
        self.text.whole.get().len()
    }
}

impl Listed for Definition {
    fn key(&self) -> &str {
        &self.key
    }

    fn digest(&self) -> Digest {
        self.text.digest
    }

    fn bytes(&self) -> usize {
        self.text.whole.get().len()
    }
}

impl Listed for TemplateDefinition {
    fn key(&self) -> &str {
        self.definition.key()
    }

    fn digest(&self) -> Digest {
        self.definition.digest()
    }

    fn bytes(&self) -> usize {
        self.definition.bytes()
    }
}

/// The JSON text of a definition.
#[derive(Debug)]
struct Text {
    whole: Arc<RawValue>,
    /// SHA-256 over it.
    digest: Digest,
    /// Where its name or URI stands in it.
    key: Range<usize>,
    /// What was first made of it: catalogs follow each other, and nearly all of what they list stays the same.
    made: OnceLock<Made>,
}

/// A text with other strings in it.
#[derive(Debug)]
struct Made {
    edits: Vec<(Range<usize>, String)>,
    text: Arc<RawValue>,
}

impl Text {
    /// Also gives the members, and the string that `member` has.
    fn read(definition: &RawValue, member: &'static str) -> Result<(Self, Members, String), UnusableDefinition> {
        if definition.get().len() > MAX_DEFINITION_BYTES {
            return Err(UnusableDefinition::TooLarge);
        }
        json::check(definition.get().as_bytes()).map_err(|_| UnusableDefinition::Malformed)?;
        let members = Members::parse(definition.get()).map_err(|_| UnusableDefinition::Malformed)?;
        let nameless = UnusableDefinition::Nameless { member };
        let (place, key) = string_at(definition.get(), &[member]).ok_or(nameless)?;
        if !(1..=MAX_KEY_BYTES).contains(&key.len()) {
            return Err(nameless);
        }
        let digest = Digest::of(definition.get().as_bytes());
        Ok((Self { whole: definition.to_owned().into(), digest, key: place, made: OnceLock::new() }, members, key))
    }

    fn string_at(&self, path: &[&str]) -> Option<(Range<usize>, String)> {
        string_at(self.whole.get(), path)
    }

    fn renamed<'a>(&'a self, own: &str, exposed: &'a str) -> Vec<(&'a Range<usize>, &'a str)> {
        if own == exposed { Vec::new() } else { vec![(&self.key, exposed)] }
    }

    /// The text with other strings at some places; the very same one if there are none.
    fn edited(&self, mut edits: Vec<(&Range<usize>, &str)>) -> Arc<RawValue> {
        if edits.is_empty() {
            return self.whole.clone();
        }
        edits.sort_by_key(|(place, _)| place.start);
        let is_same =
            |made: &&Made| made.edits.iter().map(|(place, string)| (place, string.as_str())).eq(edits.iter().copied());
        if let Some(made) = self.made.get().filter(is_same) {
            return made.text.clone();
        }
        let whole = self.whole.get();
        let mut text = String::with_capacity(whole.len() + 64);
        let mut done = 0;
        for (place, string) in &edits {
            text.push_str(&whole[done..place.start]);
            text.push_str(&quote(string));
            done = place.end;
        }
        text.push_str(&whole[done..]);
        let text: Arc<RawValue> = raw(text).into();
        self.made.get_or_init(|| Made {
            edits: edits.iter().map(|(place, string)| ((*place).clone(), (*string).to_owned())).collect(),
            text: text.clone(),
        });
        text
    }
}

/// The string to which members lead from a JSON object, and its place in the text.
fn string_at(object: &str, path: &[&str]) -> Option<(Range<usize>, String)> {
    let mut value = object;
    for name in path {
        let members: BTreeMap<String, &RawValue> = serde_json::from_str(value).ok()?;
        value = members.get(*name)?.get();
    }
    let string = serde_json::from_str(value).ok()?;
    // `value` is a part of `object`.
    let start = value.as_ptr().addr().checked_sub(object.as_ptr().addr())?;
    Some((start..start + value.len(), string))
}

fn read<T: serde::de::DeserializeOwned>(members: &Members, name: &str) -> Option<T> {
    serde_json::from_str(members.get(name)?.get()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upstream() -> UpstreamName {
        UpstreamName::parse("notes").unwrap()
    }

    fn tool(json: &str) -> ToolDefinition {
        ToolDefinition::parse(&upstream(), &raw(json.to_owned())).unwrap()
    }

    #[test]
    fn a_listed_definition_differs_in_its_name_only() {
        let json = r#"{ "x-first":1.0, "n\u0061me" : "add" ,"inputSchema":{"name":"add"},"x-last":{} }"#;
        let tool = tool(json);
        assert_eq!(tool.name, "add");
        let listed = tool.listed("notes__add", |_| None);
        let expected = r#"{ "x-first":1.0, "n\u0061me" : "notes__add" ,"inputSchema":{"name":"add"},"x-last":{} }"#;
        assert_eq!(listed.get(), expected);
        assert!(Arc::ptr_eq(&tool.listed("add", |_| None), &tool.text.whole), "what does not differ is shared");
        assert!(Arc::ptr_eq(&tool.listed("notes__add", |_| None), &listed), "and what was made before");
        assert!(tool.listed("other__add", |_| None).get().contains("other__add"));
    }

    #[test]
    fn a_tools_interface_is_renamed_with_its_resource() {
        let json =
            r#"{"_meta":{"ui/resourceUri":"ui://a","x":"ui://a","ui":{"x":1,"resourceUri":"ui://a"}},"name":"t"}"#;
        let tool = tool(json);
        assert_eq!(tool.interfaces().collect::<Vec<_>>(), ["ui://a", "ui://a"]);
        let listed = tool.listed("n__t", |uri| (uri == "ui://a").then_some("ui://n/a"));
        assert_eq!(
            listed.get(),
            r#"{"_meta":{"ui/resourceUri":"ui://n/a","x":"ui://a","ui":{"x":1,"resourceUri":"ui://n/a"}},"name":"n__t"}"#
        );
        assert_eq!(tool.listed("t", Some).get(), json);
    }

    #[test]
    fn hints_have_the_defaults_of_the_specification() {
        let hints = |annotations: &str| tool(&format!(r#"{{"name":"t","annotations":{annotations}}}"#)).hints;
        assert_eq!(hints("{}"), ToolHints::default());
        let read_only = ToolHints { read_only: true, destructive: false, ..ToolHints::default() };
        assert_eq!(hints(r#"{"readOnlyHint":true,"vendor":[]}"#), read_only);
        assert_eq!(hints(r#"{"readOnlyHint":"yes"}"#), ToolHints::default());
    }

    #[test]
    fn a_tool_tells_how_it_may_be_called() {
        let support = |execution: &str| tool(&format!(r#"{{"name":"t","execution":{execution}}}"#)).task_support;
        assert_eq!(support(r#"{"taskSupport":"required"}"#), TaskSupport::Required);
        assert_eq!(support(r#"{"taskSupport":"optional","x":1}"#), TaskSupport::Optional);
        assert_eq!(support("{}"), TaskSupport::Forbidden);
        assert_eq!(support(r#"{"taskSupport":"sometimes"}"#), TaskSupport::Forbidden);

        let schema = |header: &str| {
            let schema = format!(r#"{{"properties":{{"a":{{"type":"string","x-mcp-header":"{header}"}}}}}}"#);
            tool(&format!(r#"{{"name":"t","inputSchema":{schema}}}"#))
        };
        let (good, bad) = (schema("A"), schema("a b"));
        assert!(good.param_headers.len() == 1 && good.invalid_annotation.is_none());
        assert!(bad.param_headers.is_empty() && bad.invalid_annotation.is_some());
    }

    #[test]
    fn what_has_no_name_or_two_meanings_is_not_used() {
        let nameless = UnusableDefinition::Nameless { member: "name" };
        for (definition, reason) in [
            (r#"{"title":"t"}"#.to_owned(), nameless),
            (r#"{"name":1}"#.to_owned(), nameless),
            (r#"{"name":""}"#.to_owned(), nameless),
            (format!(r#"{{"name":"{}"}}"#, "x".repeat(MAX_KEY_BYTES + 1)), nameless),
            (r#"["name"]"#.to_owned(), UnusableDefinition::Malformed),
            (r#"{"name":"a","name":"b"}"#.to_owned(), UnusableDefinition::Malformed),
            (r#"{"name":"a","inputSchema":{"x":1,"x":2}}"#.to_owned(), UnusableDefinition::Malformed),
            (format!(r#"{{"name":"a","x":{}{}}}"#, "[".repeat(80), "]".repeat(80)), UnusableDefinition::Malformed),
            (format!(r#"{{"name":"a","x":"{}"}}"#, "x".repeat(MAX_DEFINITION_BYTES)), UnusableDefinition::TooLarge),
        ] {
            let refused = ToolDefinition::parse(&upstream(), &raw(definition)).unwrap_err();
            assert_eq!(refused, reason);
        }
        let nameless = Definition::resource(&upstream(), &raw(r#"{"name":"a"}"#.to_owned())).unwrap_err();
        assert_eq!(nameless, UnusableDefinition::Nameless { member: "uri" });
    }
}
