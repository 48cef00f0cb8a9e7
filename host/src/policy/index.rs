//! Which bindings are asked: built once for a set of policies, looked up for each question.
//!
//! What hook, mode and upstream decide is settled beforehand; tool, item, hints and caller are compared each time
//! ([`super::matching`]). Pure: it knows positions of bindings and not the bindings.

use std::collections::HashMap;

use super::decision::Hook;
use super::matching::{self, About};
use crate::config::{Match, Mode};
use crate::identity::Caller;
use crate::ids::UpstreamName;

/// What decides when a binding is asked.
pub(super) struct Entry<'a> {
    pub(super) matches: &'a Match,
    pub(super) mode: Mode,
    /// Hooks that its module wants to be asked for.
    pub(super) hooks: &'a [Hook],
    /// Whether it may change arguments: then it is asked before those that may not.
    pub(super) may_rewrite: bool,
}

impl Entry<'_> {
    /// Whether the module has this hook and the operator wants it asked there.
    pub(super) fn has_hook(&self, hook: Hook) -> bool {
        let is_wanted = self.matches.hooks.as_ref().is_none_or(|hooks| hooks.contains(&hook.as_str()));
        is_wanted && self.hooks.contains(&hook)
    }
}

/// Positions of bindings in the operator's order, by what they are asked about.
#[derive(Debug)]
pub(super) struct Index {
    matches: Vec<Match>,
    /// Whatever the upstream.
    all: ByMode,
    upstreams: HashMap<UpstreamName, ByMode>,
}

/// Whether the answers count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Enforce,
    /// Asked afterwards, for the record.
    Shadow,
}

#[derive(Debug)]
struct ByMode {
    enforce: ByHook,
    shadow: ByHook,
}

/// For each hook, positions in the order in which they are asked.
type ByHook = [Vec<usize>; Hook::ALL.len()];

impl Index {
    /// Of bindings in the operator's order.
    pub(super) fn of<'a>(entries: &[Entry<'_>], upstreams: impl Iterator<Item = &'a UpstreamName>) -> Self {
        let concerned =
            |upstream: &UpstreamName| ByMode::of(entries, |entry| matching::fits_upstream(entry.matches, upstream));
        Self {
            matches: entries.iter().map(|entry| entry.matches.clone()).collect(),
            all: ByMode::of(entries, |_| true),
            upstreams: upstreams.map(|upstream| (upstream.clone(), concerned(upstream))).collect(),
        }
    }

    /// Those that are asked about this, in order.
    pub(super) fn find<'a>(
        &'a self,
        phase: Phase,
        hook: Hook,
        about: About<'a>,
        caller: &'a Caller,
    ) -> impl Iterator<Item = usize> {
        let known = about.upstream().and_then(|upstream| self.upstreams.get(upstream));
        let fits: fn(&Match, About<'_>) -> bool = match known {
            Some(_) => matching::fits_within_upstream,
            None => matching::fits,
        };
        let candidates = known.unwrap_or(&self.all).of_phase(phase)[hook as usize].iter().copied();
        candidates.filter(move |position| {
            let matches = &self.matches[*position];
            matching::fits_caller(matches, caller) && fits(matches, about)
        })
    }

    /// Those that are asked by this caller about something, in order.
    pub(super) fn find_all<'a>(&'a self, phase: Phase, hook: Hook, caller: &'a Caller) -> impl Iterator<Item = usize> {
        let candidates = self.all.of_phase(phase)[hook as usize].iter().copied();
        candidates.filter(move |position| matching::fits_caller(&self.matches[*position], caller))
    }

    /// Whether there is any at all.
    pub(super) fn has(&self, phase: Phase, hook: Hook) -> bool {
        !self.all.of_phase(phase)[hook as usize].is_empty()
    }
}

impl ByMode {
    fn of(entries: &[Entry<'_>], is_concerned: impl Fn(&Entry<'_>) -> bool) -> Self {
        let by_hook = |mode: Mode| {
            Hook::ALL.map(|hook| {
                let is_asked = |entry: &Entry<'_>| entry.mode == mode && entry.has_hook(hook) && is_concerned(entry);
                let asked = (0..entries.len()).filter(|position| is_asked(&entries[*position]));
                let (mut first, then): (Vec<usize>, Vec<usize>) =
                    asked.partition(|position| hook == Hook::ToolCall && entries[*position].may_rewrite);
                first.extend(then);
                first
            })
        };
        Self { enforce: by_hook(Mode::Enforce), shadow: by_hook(Mode::Shadow) }
    }

    fn of_phase(&self, phase: Phase) -> &ByHook {
        match phase {
            Phase::Enforce => &self.enforce,
            Phase::Shadow => &self.shadow,
        }
    }
}
