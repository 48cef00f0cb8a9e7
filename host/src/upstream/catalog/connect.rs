//! The tool by which a caller connects an account of their own: the gateway's, and not the upstream's.
//!
//! It has a definition that is always the same, so that nobody has to agree to it anew. Whoever can see nothing of an
//! upstream without a connection finds it in the list; for everybody else it can be called by its name, since a client may
//! have read its list before. A real tool of the same name comes first.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::definition::ToolDefinition;
use super::view::Tool;
use super::{Names, Shelf};
use crate::ids::UpstreamName;
use crate::mcp::json::to_raw;
use crate::upstream::naming;

/// Its name, without an upstream's prefix.
const NAME: &str = "connect";

/// The tool by which one upstream is connected.
#[derive(Clone, Debug)]
pub struct ConnectTool {
    pub definition: Arc<ToolDefinition>,
    /// Whether it stands in the list.
    pub is_listed: bool,
}

impl ToolDefinition {
    /// The tool by which a caller connects this upstream.
    pub fn connect(upstream: &UpstreamName) -> Self {
        let description = format!(
            "Connect {upstream} to use its tools. Call this without arguments: the answer says where a person connects an \
             account in a browser. Once that is done, the list of tools is another one."
        );
        let definition = serde_json::json!({
            "name": NAME,
            "title": format!("Connect {upstream}"),
            "description": description,
            "inputSchema": { "type": "object", "properties": {}, "additionalProperties": false },
            // The call itself changes nothing. Where it leads to is outside.
            "annotations": {
                "readOnlyHint": true, "destructiveHint": false, "idempotentHint": true, "openWorldHint": true,
            },
        });
        let parsed = Self::parse(upstream, &to_raw(&definition));
        let mut definition = parsed.expect("a small object with a name is a definition");
        definition.is_connect = true;
        definition
    }
}

/// The tools of these shelves by which they are connected, as callers see them. What is taken by a real tool is left out,
/// and callers of their upstream use that.
pub(super) fn placed<'a>(
    shelves: &[&'a Shelf],
    names: Names,
    is_taken: impl Fn(&str) -> bool,
) -> Vec<(Tool, &'a ConnectTool)> {
    let prefix = |shelf: &'a Shelf| (names == Names::Prefixed).then_some(&shelf.upstream);
    let placed = shelves.iter().filter_map(|shelf| {
        let connect = shelf.connect.as_ref()?;
        let exposed = naming::candidates(prefix(shelf), NAME).next().filter(|exposed| !is_taken(exposed))?;
        Some((Tool::new(connect.definition.clone(), exposed), connect))
    });
    placed.collect()
}

/// Those that are in no list, by the names that callers know.
#[derive(Debug, Default)]
pub(super) struct Unlisted(BTreeMap<String, Arc<Tool>>);

impl Unlisted {
    pub(super) fn put(&mut self, tool: Tool) {
        self.0.insert(tool.exposed.clone(), Arc::new(tool));
    }

    pub(super) fn get(&self, exposed: &str) -> Option<&Arc<Tool>> {
        self.0.get(exposed)
    }
}
