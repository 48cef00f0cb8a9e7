//! What the gateway answers, whatever the revision.

use std::borrow::Cow;

use std::sync::Arc;

use serde_json::value::RawValue;

use super::{ListKind, push_member};
use crate::mcp::call::Outcome;
use crate::mcp::json::{quote, to_raw};

/// What the gateway answers.
#[derive(Debug)]
pub enum Answer {
    /// Done, and nothing to say: ping, logging/setLevel, resources/subscribe, resources/unsubscribe.
    Empty,
    Discovery(Discovery),
    Page(Page),
    /// What came of something that went upstream. State that is to come back is sealed already.
    Done {
        method: &'static str,
        outcome: Outcome,
    },
}

/// What the gateway says of itself to one caller.
#[derive(Debug)]
pub struct Discovery {
    /// JSON object, from [`super::capabilities`] for the caller's revision.
    pub capabilities: Box<RawValue>,
    pub instructions: Option<String>,
}

/// One page of a list: definitions under their exposed names, and how to go on.
#[derive(Debug)]
pub struct Page {
    pub kind: ListKind,
    pub items: Vec<Arc<RawValue>>,
    pub next_cursor: Option<String>,
    /// Upstreams whose items are not known at the moment.
    pub missing: Vec<String>,
}

/// Key in a result's `_meta` under which a list names the upstreams it lacks.
pub const MISSING_UPSTREAMS: &str = "portcullis/missingUpstreams";

impl Page {
    /// Writes the members that every revision has; `out` is an object that is still open. `item` is how the revision has
    /// an item.
    pub(super) fn write<'a>(&'a self, out: &mut String, item: impl Fn(&'a RawValue) -> Cow<'a, str>) {
        out.reserve(self.items.iter().map(|item| item.get().len() + 1).sum::<usize>() + 64);
        push_member(out, self.kind.member(), "[");
        for (index, listed) in self.items.iter().enumerate() {
            if index > 0 {
                out.push(',');
            }
            out.push_str(&item(listed));
        }
        out.push(']');
        if let Some(cursor) = &self.next_cursor {
            push_member(out, "nextCursor", &quote(cursor));
        }
    }

    /// JSON array of the upstreams that are not known at the moment, if there are any.
    pub(super) fn missing(&self) -> Option<Box<RawValue>> {
        (!self.missing.is_empty()).then(|| to_raw(&self.missing))
    }
}
