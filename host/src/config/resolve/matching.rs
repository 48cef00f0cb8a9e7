//! `match`: what a policy is asked about.

use super::{Checks, Declared, pattern};
use crate::config::mistake::{Checked, Fault, did_you_mean};
use crate::config::policy::{HOOKS, Hint, Match};
use crate::config::raw::{self, At, Setting};
use crate::glob::Glob;

pub(super) fn resolve(checks: &mut Checks<'_>, raw: &raw::Match, declared: &Declared<'_>) -> Match {
    let all = Match::default();
    let upstreams = list(checks, "match.upstreams", &raw.upstreams)
        .map(|list| list.iter().filter_map(|at| checks.upstream_pattern("match.upstreams", at, declared)).collect());
    let hooks = HOOKS.map(|hook| (hook, hook));
    let hints = Hint::ALL.iter().map(|hint| (hint.as_str(), *hint));
    Match {
        hooks: words(checks, "match.hooks", "hook", &raw.hooks, &hooks.into_iter()),
        upstreams: upstreams.unwrap_or(all.upstreams),
        tools: patterns(checks, "match.tools", &raw.tools).unwrap_or(all.tools),
        items: patterns(checks, "match.items", &raw.items).unwrap_or(all.items),
        hints: words(checks, "match.hints", "hint", &raw.hints, &hints).unwrap_or_default(),
        principals: patterns(checks, "match.principals", &raw.principals).unwrap_or(all.principals),
        groups: patterns(checks, "match.groups", &raw.groups),
        clients: patterns(checks, "match.clients", &raw.clients).unwrap_or(all.clients),
    }
}

/// The list, if it is there. An empty one is a mistake: it does not mean everything, and nobody means nothing.
fn list<'a>(checks: &mut Checks<'_>, name: &str, setting: &'a Setting<Vec<At<String>>>) -> Option<&'a [At<String>]> {
    let at = setting.get()?;
    if at.value().is_empty() {
        let fault = Fault::new(format!("{name} is empty, so that the policy would never be asked"));
        checks.mistake(at.place(), fault.hint("leave it out to match everything"));
    }
    Some(at.value())
}

fn patterns(checks: &mut Checks<'_>, name: &str, setting: &Setting<Vec<At<String>>>) -> Option<Vec<Glob>> {
    let list = list(checks, name, setting)?;
    Some(checks.each(&format!("an entry of {name}"), list, |text| pattern(text)))
}

fn words<T: Copy>(
    checks: &mut Checks<'_>,
    name: &str,
    kind: &str,
    setting: &Setting<Vec<At<String>>>,
    known: &(impl Iterator<Item = (&'static str, T)> + Clone),
) -> Option<Vec<T>> {
    let list = list(checks, name, setting)?;
    Some(checks.each(name, list, |text| word(kind, text, known.clone())))
}

/// What a word out of a known list stands for.
pub(super) fn word<T>(kind: &str, text: &str, known: impl Iterator<Item = (&'static str, T)> + Clone) -> Checked<T> {
    let meant = known.clone().find(|(name, _)| *name == text).map(|(_, meant)| meant);
    meant.ok_or_else(|| {
        let fault = Fault::new(format!("names the {kind} {text:?}, which there is not"));
        Fault { hint: did_you_mean(text, known.map(|(name, _)| name)), ..fault }
    })
}
