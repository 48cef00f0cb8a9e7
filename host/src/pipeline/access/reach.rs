//! What of an upstream's tools somebody reaches, tool by tool, for whoever wants to see why.
//!
//! Pure. It is asked of the same lists by the same functions as a request ([`AllowList::permits`] is that there is a line),
//! and of what the upstream shows to everybody: policies may hide more, and an account of somebody's own may show them
//! something else.

use crate::identity::key::{AllowList, VirtualKey};
use crate::ids::UpstreamName;
use crate::pipeline::Snapshot;
use crate::upstream::catalog::Tool;

/// How much of an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    None,
    Some,
    All,
}

impl Extent {
    /// The word for it in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Some => "some",
            Self::All => "all",
        }
    }
}

/// What is reached of one upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    pub extent: Extent,
    /// How many tools it has; none while that is not known.
    pub tools: Option<usize>,
    /// How many of those are reached.
    pub reached: usize,
}

/// By what a tool is reached, or why it is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// This line of the key's own list, counted from 0: the first that fits.
    Own(usize),
    /// Every key may use all of the upstream.
    OfAllKeys,
    /// There are lines for the upstream, and none has a pattern for the tool.
    NoPattern,
    /// There is no line for the upstream.
    NoLine,
}

impl Line {
    pub const fn is_reached(self) -> bool {
        match self {
            Self::Own(_) | Self::OfAllKeys => true,
            Self::NoPattern | Self::NoLine => false,
        }
    }

    /// The word for it in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Own(_) => "line",
            Self::OfAllKeys => "open_to_all_keys",
            Self::NoPattern => "no_pattern",
            Self::NoLine => "no_line",
        }
    }
}

/// The tools of an upstream in the order of their names, behind the one that is called `after` at the upstream's own
/// endpoint; none while nothing is known of it.
pub fn tools_of<'a>(
    snapshot: &'a Snapshot,
    upstream: &UpstreamName,
    after: Option<&str>,
) -> impl Iterator<Item = &'a Tool> + use<'a> {
    let view = snapshot.catalog.view(Some(upstream));
    let tools = view.map(|view| view.tools_after(after)).into_iter().flatten();
    tools.map(AsRef::as_ref).filter(|tool: &&Tool| !tool.is_connect)
}

/// What a list reaches of an upstream.
pub fn of_upstream(snapshot: &Snapshot, allow: &AllowList, upstream: &UpstreamName) -> Reach {
    let is_known = snapshot.catalog.shelf(upstream).is_some_and(|shelf| shelf.offer.is_some());
    let count = || tools_of(snapshot, upstream, None).count();
    let tools = is_known.then(count);
    if allow.permits_items(upstream) {
        return Reach { extent: Extent::All, tools, reached: tools.unwrap_or_default() };
    }
    // Once for all of its tools: lists and upstreams may both be long.
    let lines = allow.lines_of(upstream);
    if lines.is_empty() {
        return Reach { extent: Extent::None, tools, reached: 0 };
    }
    let is_reached = |tool: &&Tool| lines.iter().any(|line| line.has(&tool.name));
    let reached = tools_of(snapshot, upstream, None).filter(is_reached).count();
    let extent = match tools {
        Some(_) if reached == 0 => Extent::None,
        Some(tools) if reached == tools => Extent::All,
        Some(_) | None => Extent::Some,
    };
    Reach { extent, tools, reached }
}

/// Whether and why a key reaches a tool. `allow` is all that it may use, beginning with its own list.
pub fn of_tool(key: &VirtualKey, allow: &AllowList, upstream: &UpstreamName, tool: &str) -> Line {
    match allow.line_for(upstream, tool) {
        Some(line) if line < key.allow.0.len() => Line::Own(line),
        Some(_) => Line::OfAllKeys,
        None if allow.reaches(upstream) => Line::NoPattern,
        None => Line::NoLine,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::Timestamp;
    use crate::glob::Glob;
    use crate::identity::key::{AllowEntry, ManagedBy, Standing};
    use crate::identity::{Keyring, TokenList};
    use crate::ids::KeyName;
    use crate::secret::Digest;

    fn key() -> VirtualKey {
        let glob = |text: &str| Glob::parse(text).unwrap();
        let line = |upstream: &str, tool: &str| AllowEntry { upstream: glob(upstream), tools: vec![glob(tool)] };
        VirtualKey {
            name: KeyName::parse("ci").unwrap(),
            digest: Digest::of(b"ci"),
            earlier: None,
            allow: AllowList(vec![line("tracker", "*"), line("n*", "read*")]),
            scopes: TokenList::default(),
            groups: TokenList::default(),
            owner: None,
            created: Timestamp::default(),
            expires: None,
            standing: Standing::Disabled,
            managed_by: ManagedBy::Store,
            revision: 1,
        }
    }

    #[test]
    fn a_tool_is_reached_by_the_first_line_that_has_it_or_it_is_said_why_not() {
        let upstream = |name: &str| UpstreamName::parse(name).unwrap();
        let ring = Keyring::with([key()], &[upstream("open")]);
        let (key, allow) = ring.named(&KeyName::parse("ci").unwrap()).expect("a key that is disabled is found as well");
        for (name, tool, expected) in [
            ("tracker", "close", Line::Own(0)),
            ("notes", "read_one", Line::Own(1)),
            ("open", "whatever", Line::OfAllKeys),
            ("notes", "delete", Line::NoPattern),
            ("other", "read_one", Line::NoLine),
        ] {
            let line = of_tool(key, allow, &upstream(name), tool);
            assert_eq!(line, expected, "{name} {tool}");
            assert_eq!(line.is_reached(), allow.permits(&upstream(name), tool), "{name} {tool}: as a call is decided");
        }
    }
}
