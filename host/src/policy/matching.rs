//! Whether a binding is asked: what the operator wrote under `match`, compared with what a question is about and who
//! asks. Pure, and without allocation for callers whose names are of usual length.

use std::fmt::{self, Write as _};

use crate::config::{Hint, Match};
use crate::glob::Glob;
use crate::identity::Caller;
use crate::ids::{Principal, UpstreamName};
use crate::upstream::catalog::{PinStanding, Tool};

/// What a question is about, as far as it matters for who is asked.
#[derive(Clone, Copy, Debug)]
pub(super) enum About<'a> {
    /// A tool: in a list, in a call, in a result.
    Tool(&'a Tool),
    /// A resource, a template, a prompt, a skill or a task, by the upstream's own URI or name.
    Item { upstream: &'a UpstreamName, id: &'a str },
    /// Something an upstream wants to know of the caller's client.
    Question(&'a UpstreamName),
    /// An upstream's credential, and the upstream's own name of the tool that it is for, where one is known.
    Credential { upstream: &'a UpstreamName, tool: Option<&'a str> },
    /// Authority over these upstreams. Where there is none, as when a client registers, it is about all of them.
    Authority(&'a [UpstreamName]),
}

impl<'a> About<'a> {
    /// The upstream, if it is about a single one.
    pub(super) fn upstream(self) -> Option<&'a UpstreamName> {
        match self {
            Self::Tool(tool) => Some(&tool.upstream),
            Self::Item { upstream, .. } | Self::Question(upstream) | Self::Credential { upstream, .. } => {
                Some(upstream)
            }
            Self::Authority(_) => None,
        }
    }
}

/// Whether something of this upstream can be meant.
pub(super) fn fits_upstream(matches: &Match, upstream: &UpstreamName) -> bool {
    any_fits(&matches.upstreams, upstream.as_str())
}

/// Whether this can be meant.
pub(super) fn fits(matches: &Match, about: About<'_>) -> bool {
    about.upstream().is_none_or(|upstream| fits_upstream(matches, upstream)) && fits_within_upstream(matches, about)
}

/// The same, where the upstream itself is known to be meant.
pub(super) fn fits_within_upstream(matches: &Match, about: About<'_>) -> bool {
    match about {
        About::Tool(tool) => {
            any_fits(&matches.tools, &tool.name) && matches.hints.iter().all(|hint| has_hint(tool, *hint))
        }
        About::Item { id, .. } => any_fits(&matches.items, id),
        About::Question(_) => true,
        // Where it is not known what for, it may be for a tool that is meant.
        About::Credential { tool, .. } => tool.is_none_or(|tool| any_fits(&matches.tools, tool)),
        About::Authority(upstreams) => {
            upstreams.is_empty() || upstreams.iter().any(|upstream| fits_upstream(matches, upstream))
        }
    }
}

/// Whether this caller can be meant.
pub(super) fn fits_caller(matches: &Match, caller: &Caller) -> bool {
    fits_principal(&matches.principals, &caller.principal)
        && any_fits(&matches.clients, caller.client_id())
        && matches.groups.as_deref().is_none_or(|groups| caller.groups.iter().any(|group| any_fits(groups, group)))
}

fn any_fits(patterns: &[Glob], text: &str) -> bool {
    patterns.iter().any(|pattern| pattern.is_any() || pattern.matches(text))
}

fn has_hint(tool: &Tool, hint: Hint) -> bool {
    match hint {
        Hint::ReadOnly => tool.hints.read_only,
        Hint::Destructive => tool.hints.destructive,
        Hint::Idempotent => tool.hints.idempotent,
        Hint::OpenWorld => tool.hints.open_world,
        Hint::FirstSeen => tool.standing == PinStanding::FirstSeen,
        Hint::Changed => tool.standing == PinStanding::Changed,
    }
}

fn fits_principal(patterns: &[Glob], principal: &Principal) -> bool {
    if patterns.iter().any(Glob::is_any) {
        return true;
    }
    let mut short = Short::default();
    match write!(short, "{principal}") {
        Ok(()) => any_fits(patterns, short.as_str()),
        Err(fmt::Error) => any_fits(patterns, &principal.to_string()),
    }
}

/// A text on the stack. Writing more than fits is an error.
struct Short {
    bytes: [u8; 128],
    len: usize,
}

impl Default for Short {
    fn default() -> Self {
        Self { bytes: [0; 128], len: 0 }
    }
}

impl Short {
    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.len]).expect("whole texts are written")
    }
}

impl fmt::Write for Short {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.len + text.len();
        self.bytes.get_mut(self.len..end).ok_or(fmt::Error)?.copy_from_slice(text.as_bytes());
        self.len = end;
        Ok(())
    }
}
