//! What the upstreams offer, under the names that callers see. Pure and immutable: a change is a new catalog.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::ids::UpstreamName;
use crate::mcp::json::{Members, to_raw};
use crate::secret::Digest;
use crate::upstream::naming;

/// One tool of one upstream.
#[derive(Debug)]
pub struct Tool {
    pub upstream: UpstreamName,
    /// The upstream's own name for it.
    pub name: String,
    /// The name that callers see.
    pub exposed: String,
    pub title: Option<String>,
    pub description: Option<String>,
    /// JSON text of `inputSchema`.
    pub input_schema: Option<Box<RawValue>>,
    pub hints: ToolHints,
    /// SHA-256 over the definition as the upstream sent it, lower-case hex.
    pub digest: String,
    /// The definition under its exposed name, ready to be listed.
    pub listed: Box<RawValue>,
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

/// A tool as its upstream defines it, before it has a place in a catalog.
#[derive(Debug)]
pub struct Definition {
    pub name: String,
    pub members: Members,
    pub digest: String,
}

/// Why a tool definition cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("a tool definition needs a `name` that is a string and unique in its list")]
pub struct UnusableDefinition;

impl Definition {
    /// Reads one element of `tools`.
    pub fn parse(definition: &RawValue) -> Result<Self, UnusableDefinition> {
        let members = Members::parse(definition.get()).map_err(|_| UnusableDefinition)?;
        let name: String = read(&members, "name").filter(|name: &String| !name.is_empty()).ok_or(UnusableDefinition)?;
        Ok(Self { name, members, digest: Digest::of(definition.get().as_bytes()).to_hex() })
    }

    fn place(&self, upstream: &UpstreamName, exposed: String) -> Tool {
        let mut listed = self.members.clone();
        listed.set("name", to_raw(&exposed));
        Tool {
            upstream: upstream.clone(),
            name: self.name.clone(),
            title: read(&self.members, "title"),
            description: read(&self.members, "description"),
            input_schema: self.members.get("inputSchema").map(ToOwned::to_owned),
            hints: read::<Annotations>(&self.members, "annotations").unwrap_or_default().into(),
            digest: self.digest.clone(),
            listed: listed.to_raw(),
            exposed,
        }
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

fn read<T: serde::de::DeserializeOwned>(members: &Members, name: &str) -> Option<T> {
    serde_json::from_str(members.get(name)?.get()).ok()
}

/// What one upstream contributes.
#[derive(Debug)]
pub struct Shelf {
    pub upstream: UpstreamName,
    /// Whether its tools carry its name as a prefix.
    pub prefix: bool,
    /// `None` while nothing is known of it.
    pub definitions: Option<Arc<Vec<Definition>>>,
}

/// All tools of all upstreams, in the order of their exposed names.
#[derive(Debug, Default)]
pub struct Catalog {
    tools: BTreeMap<String, Arc<Tool>>,
    missing: Vec<UpstreamName>,
}

impl Catalog {
    /// Places what the upstreams offer. A bare name is never one that could be another upstream's, now or when that
    /// has more tools: where an unprefixed upstream has such a tool, that tool gets its prefix after all.
    pub fn build(shelves: &[Shelf]) -> Self {
        let mut catalog = Self::default();
        let (prefixed, bare): (Vec<_>, Vec<_>) = shelves.iter().partition(|shelf| shelf.prefix);
        let is_of_another = |name: &str| prefixed.iter().any(|shelf| naming::is_of(&shelf.upstream, name));
        for shelf in prefixed.iter().chain(&bare) {
            match &shelf.definitions {
                Some(definitions) => catalog.place(shelf, definitions, &is_of_another),
                None => catalog.missing.push(shelf.upstream.clone()),
            }
        }
        catalog.missing.sort();
        catalog
    }

    fn place(&mut self, shelf: &Shelf, definitions: &[Definition], is_of_another: &impl Fn(&str) -> bool) {
        for definition in definitions {
            let prefixed = naming::prefixed(&shelf.upstream, &definition.name);
            let bare = (!shelf.prefix).then(|| naming::bare(&definition.name));
            let free = |bare: &String| !is_of_another(bare) && !self.tools.contains_key(bare);
            let exposed = bare.filter(free).unwrap_or(prefixed);
            if self.tools.contains_key(&exposed) {
                continue;
            }
            let tool = definition.place(&shelf.upstream, exposed.clone());
            self.tools.insert(exposed, Arc::new(tool));
        }
    }

    /// The tool that callers see under this name.
    pub fn tool(&self, exposed: &str) -> Option<&Arc<Tool>> {
        self.tools.get(exposed)
    }

    /// Tools in order, beginning after a name.
    pub fn tools_after<'a>(&'a self, exposed: Option<&str>) -> impl Iterator<Item = &'a Arc<Tool>> {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = exposed.map_or(Unbounded, Excluded);
        self.tools.range::<str, _>((from, Unbounded)).map(|(_, tool)| tool)
    }

    /// Upstreams of which nothing is known.
    pub fn missing(&self) -> &[UpstreamName] {
        &self.missing
    }

    pub fn len(&self) -> usize {
        self.tools.len()
    }

    pub fn is_empty(&self) -> bool {
        self.tools.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mcp::json::raw;

    fn shelf(upstream: &str, prefix: bool, tools: &[&str]) -> Shelf {
        let definition = |tool: &&str| {
            Definition::parse(&raw(format!(r#"{{"x-first":1.0,"name":"{tool}","x-last":{{}}}}"#))).unwrap()
        };
        Shelf {
            upstream: UpstreamName::parse(upstream).unwrap(),
            prefix,
            definitions: Some(Arc::new(tools.iter().map(definition).collect())),
        }
    }

    fn names(catalog: &Catalog) -> Vec<String> {
        catalog.tools_after(None).map(|tool| format!("{} = {}/{}", tool.exposed, tool.upstream, tool.name)).collect()
    }

    #[test]
    fn tools_of_two_upstreams_never_collide() {
        let catalog = Catalog::build(&[
            shelf("plain", false, &["add", "notes__add", "down__later"]),
            shelf("notes", true, &["add", "list"]),
            Shelf { upstream: UpstreamName::parse("down").unwrap(), prefix: true, definitions: None },
        ]);
        assert_eq!(
            names(&catalog),
            [
                "add = plain/add",
                "notes__add = notes/add",
                "notes__list = notes/list",
                "plain__down__later = plain/down__later",
                "plain__notes__add = plain/notes__add",
            ]
        );
        assert_eq!(catalog.missing(), [UpstreamName::parse("down").unwrap()]);
        let after: Vec<_> = catalog.tools_after(Some("notes__add")).map(|tool| tool.exposed.as_str()).collect();
        assert_eq!(after, ["notes__list", "plain__down__later", "plain__notes__add"]);
    }

    #[test]
    fn a_listed_definition_differs_in_its_name_only() {
        let catalog = Catalog::build(&[shelf("notes", true, &["add"])]);
        let listed = catalog.tool("notes__add").unwrap().listed.get();
        assert_eq!(listed, r#"{"x-first":1.0,"name":"notes__add","x-last":{}}"#);
    }

    #[test]
    fn hints_have_the_defaults_of_the_specification() {
        let hints = |annotations: &str| {
            let definition = raw(format!(r#"{{"name":"t","annotations":{annotations}}}"#));
            Definition::parse(&definition).unwrap().place(&UpstreamName::parse("u").unwrap(), "t".into()).hints
        };
        assert_eq!(hints("{}"), ToolHints::default());
        let read_only = ToolHints { read_only: true, destructive: false, ..ToolHints::default() };
        assert_eq!(hints(r#"{"readOnlyHint":true,"vendor":[]}"#), read_only);
        assert_eq!(hints(r#"{"readOnlyHint":"yes"}"#), ToolHints::default());
    }
}
