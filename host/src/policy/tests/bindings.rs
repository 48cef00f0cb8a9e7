//! Who is asked: the comparison itself, and that the index finds what comparing everything would find.

use std::sync::{Arc, LazyLock};

use proptest::prelude::*;

use super::scene;
use crate::config::{Grant, HOOKS, Hint, Match, Mode};
use crate::glob::Glob;
use crate::identity::{Caller, TokenList};
use crate::ids::{KeyName, Principal, UpstreamName};
use crate::policy::Hook;
use crate::policy::contract::manifest::Capability;
use crate::policy::contract::types::ToolHints;
use crate::policy::index::{Entry, Index, Phase};
use crate::policy::matching::{About, fits, fits_caller};
use crate::upstream::catalog::Tool;

fn patterns(patterns: &[&str]) -> Vec<Glob> {
    patterns.iter().map(|pattern| Glob::parse(pattern).unwrap()).collect()
}

fn caller_of(key: &str, client: Option<&str>, groups: &[&str]) -> Caller {
    let principal = Principal::Key(KeyName::parse(key).unwrap());
    let groups = groups.iter().map(|group| (*group).to_owned()).collect();
    Caller {
        client: client.map(Arc::from),
        groups: TokenList::parse(groups).unwrap(),
        ..Caller::new(principal, Arc::default())
    }
}

#[test]
fn without_patterns_everything_and_everyone_is_meant() {
    let (all, notes) = (Match::default(), UpstreamName::parse("notes").unwrap());
    let tool = scene::tool("notes", "add");
    for about in [
        About::Tool(&tool),
        About::Item { upstream: &notes, id: "file:///a" },
        About::Question(&notes),
        About::Credential { upstream: &notes, tool: None },
        About::Credential { upstream: &notes, tool: Some("add") },
        About::Authority(&[]),
        About::Authority(std::slice::from_ref(&notes)),
    ] {
        assert!(fits(&all, about), "{about:?}");
    }
    assert!(fits_caller(&all, &caller_of("ci", None, &[])));
    assert!(fits_caller(&all, &caller_of("ci", Some("https://client.example"), &["ops"])));
}

#[test]
fn each_kind_of_question_has_its_own_patterns() {
    let matches = Match {
        upstreams: patterns(&["notes"]),
        tools: patterns(&["delete_*"]),
        items: patterns(&["file:///secret/*", "diary"]),
        ..Match::default()
    };
    let name = |name: &str| UpstreamName::parse(name).unwrap();
    let (notes, other) = (name("notes"), name("other"));
    for (upstream, tool, expected) in
        [("notes", "delete_note", true), ("notes", "add", false), ("other", "delete_note", false)]
    {
        let tool = scene::tool(upstream, tool);
        assert_eq!(fits(&matches, About::Tool(&tool)), expected, "{tool:?}");
    }
    for (upstream, id, expected) in [
        (&notes, "file:///secret/a", true),
        (&notes, "diary", true),
        (&notes, "file:///open/a", false),
        (&notes, "delete_note", false),
        (&other, "diary", false),
    ] {
        assert_eq!(fits(&matches, About::Item { upstream, id }), expected, "{upstream} {id}");
    }
    for (upstream, tool, expected) in
        [(&notes, None, true), (&notes, Some("delete_note"), true), (&notes, Some("add"), false), (&other, None, false)]
    {
        assert_eq!(fits(&matches, About::Credential { upstream, tool }), expected, "{upstream} {tool:?}");
    }
    assert!(fits(&matches, About::Question(&notes)) && !fits(&matches, About::Question(&other)));
    for (upstreams, expected) in
        [(vec![], true), (vec![other.clone(), notes.clone()], true), (vec![other], false), (vec![notes], true)]
    {
        assert_eq!(fits(&matches, About::Authority(&upstreams)), expected, "{upstreams:?}");
    }
}

#[test]
fn a_tool_has_all_hints_that_are_named() {
    // Says nothing of itself, so that it counts as destructive and open.
    let tool = scene::tool("notes", "add");
    for (hints, expected) in [
        (vec![], true),
        (vec![Hint::Destructive], true),
        (vec![Hint::Destructive, Hint::OpenWorld], true),
        (vec![Hint::Destructive, Hint::ReadOnly], false),
        (vec![Hint::Idempotent], false),
        (vec![Hint::FirstSeen], false),
        (vec![Hint::Changed], false),
    ] {
        let matches = Match { hints: hints.clone(), ..Match::default() };
        assert_eq!(fits(&matches, About::Tool(&tool)), expected, "{hints:?}");
    }
}

#[test]
fn a_caller_is_meant_by_principal_client_and_group_together() {
    let long = "x".repeat(KeyName::MAX_LEN);
    let of = |principals: &[&str], groups: Option<&[&str]>, clients: &[&str]| Match {
        principals: patterns(principals),
        groups: groups.map(patterns),
        clients: patterns(clients),
        ..Match::default()
    };
    for (matches, caller, expected) in [
        (of(&["key:ci"], None, &["*"]), caller_of("ci", None, &[]), true),
        (of(&["key:ci"], None, &["*"]), caller_of("ci-2", None, &[]), false),
        (of(&["ci"], None, &["*"]), caller_of("ci", None, &[]), false),
        (of(&["user:*", "key:c*"], None, &["*"]), caller_of("ci", None, &[]), true),
        (of(&["key:x*"], None, &["*"]), caller_of(&long, None, &[]), true),
        (of(&["*"], Some(&["ops", "dev-*"]), &["*"]), caller_of("ci", None, &["dev-a", "qa"]), true),
        (of(&["*"], Some(&["ops"]), &["*"]), caller_of("ci", None, &["dev-a"]), false),
        (of(&["*"], Some(&["*"]), &["*"]), caller_of("ci", None, &[]), false),
        (of(&["*"], None, &["https://*"]), caller_of("ci", Some("https://client.example"), &[]), true),
        (of(&["*"], None, &["https://*"]), caller_of("ci", None, &[]), false),
        (of(&["key:ci"], Some(&["ops"]), &["*"]), caller_of("ci", None, &["ops"]), true),
        (of(&["key:cd"], Some(&["ops"]), &["*"]), caller_of("ci", None, &["ops"]), false),
    ] {
        assert_eq!(fits_caller(&matches, &caller), expected, "{matches:?} {caller:?}");
    }
}

const WORDS: [&str; 5] = ["a", "ab", "abc", "b", "ba"];
const PATTERNS: [&str; 6] = ["*", "a*", "*b", "ab", "a*c", "none"];
const HINTS: [Hint; 4] = [Hint::ReadOnly, Hint::Destructive, Hint::OpenWorld, Hint::Changed];

fn name(name: &str) -> UpstreamName {
    UpstreamName::parse(name).unwrap()
}

/// Mostly a pattern that fits everything: of many conditions that seldom hold, hardly ever all would.
fn mostly_any(patterns: &'static [&'static str]) -> impl Strategy<Value = Vec<Glob>> {
    let pattern = prop::sample::select(patterns).prop_map(|pattern| Glob::parse(pattern).unwrap());
    prop_oneof![2 => Just(vec![Glob::any()]), 1 => prop::collection::vec(pattern, 1..3)]
}

fn globs() -> impl Strategy<Value = Vec<Glob>> {
    mostly_any(&PATTERNS)
}

#[derive(Clone, Debug)]
struct Bound {
    matches: Match,
    mode: Mode,
    hooks: Vec<Hook>,
    may_rewrite: bool,
}

fn bound() -> impl Strategy<Value = Bound> {
    let hooks = prop::option::weighted(0.3, prop::sample::subsequence(&HOOKS[..], 1..11));
    let hints = prop_oneof![2 => Just(Vec::new()), 1 => prop::sample::subsequence(&HINTS[..], 1..3)];
    let principals = mostly_any(&["key:a*", "key:b", "b"]);
    let who = (principals, prop::option::weighted(0.3, globs()), globs());
    let matches = (hooks, globs(), globs(), globs(), hints, who);
    let matches = matches.prop_map(|(hooks, upstreams, tools, items, hints, (principals, groups, clients))| Match {
        hooks,
        upstreams,
        tools,
        items,
        hints,
        principals,
        groups,
        clients,
    });
    let mode = prop::sample::select(Mode::ALL);
    let hooks = prop::sample::subsequence(&Hook::ALL[..], 6..12);
    (matches, mode, hooks, any::<bool>()).prop_map(|(matches, mode, hooks, may_rewrite)| Bound {
        matches,
        mode,
        hooks,
        may_rewrite,
    })
}

fn caller() -> impl Strategy<Value = Caller> {
    let groups = prop::sample::subsequence(&WORDS[..], 0..3);
    let client = prop::option::of(prop::sample::select(&WORDS[..]));
    (prop::sample::select(&WORDS[..]), client, groups).prop_map(|(key, client, groups)| Caller {
        client: client.map(Arc::from),
        groups: TokenList::parse(groups.into_iter().map(str::to_owned).collect()).unwrap(),
        ..Caller::new(Principal::Key(KeyName::parse(key).unwrap()), Arc::default())
    })
}

/// What can be asked about.
#[derive(Clone, Debug)]
enum Thing {
    Tool(Arc<Tool>),
    Item(UpstreamName, &'static str),
    Question(UpstreamName),
    Credential(UpstreamName, Option<&'static str>),
    Authority(Vec<UpstreamName>),
}

impl Thing {
    fn about(&self) -> About<'_> {
        match self {
            Self::Tool(tool) => About::Tool(tool),
            Self::Item(upstream, id) => About::Item { upstream, id },
            Self::Question(upstream) => About::Question(upstream),
            Self::Credential(upstream, tool) => About::Credential { upstream, tool: *tool },
            Self::Authority(upstreams) => About::Authority(upstreams),
        }
    }
}

fn thing() -> impl Strategy<Value = Thing> {
    static TOOLS: LazyLock<Vec<Arc<Tool>>> = LazyLock::new(|| {
        WORDS.iter().flat_map(|upstream| WORDS.iter().map(|tool| scene::tool(upstream, tool))).collect()
    });
    let upstream = || prop::sample::select(&WORDS[..]).prop_map(name);
    let word = || prop::sample::select(&WORDS[..]);
    prop_oneof![
        prop::sample::select(&TOOLS[..]).prop_map(Thing::Tool),
        (upstream(), word()).prop_map(|(upstream, id)| Thing::Item(upstream, id)),
        upstream().prop_map(Thing::Question),
        (upstream(), prop::option::of(word())).prop_map(|(upstream, tool)| Thing::Credential(upstream, tool)),
        prop::collection::vec(upstream(), 0..3).prop_map(Thing::Authority),
    ]
}

/// The rule, word for word as the configuration's documentation has it, and nothing done beforehand.
fn is_asked(bound: &Bound, mode: Mode, hook: Hook, thing: Option<&Thing>, caller: &Caller) -> bool {
    let Match { hooks, upstreams, tools, items, hints, principals, groups, clients } = &bound.matches;
    let one_of = |patterns: &[Glob], text: &str| patterns.iter().any(|pattern| pattern.matches(text));
    let hook_fits = bound.hooks.contains(&hook) && hooks.as_ref().is_none_or(|hooks| hooks.contains(&hook.as_str()));
    let caller_fits = one_of(principals, &caller.principal.to_string())
        && one_of(clients, caller.client.as_deref().unwrap_or(""))
        && match groups {
            None => true,
            Some(groups) => caller.groups.iter().any(|group| one_of(groups, group)),
        };
    let thing_fits = match thing {
        None => true,
        Some(Thing::Tool(tool)) => {
            let has = |hint: &Hint| match hint {
                Hint::ReadOnly => tool.hints.read_only,
                Hint::Destructive => tool.hints.destructive,
                Hint::OpenWorld => tool.hints.open_world,
                _ => false,
            };
            one_of(upstreams, tool.upstream.as_str()) && one_of(tools, &tool.name) && hints.iter().all(has)
        }
        Some(Thing::Item(upstream, id)) => one_of(upstreams, upstream.as_str()) && one_of(items, id),
        Some(Thing::Question(upstream)) => one_of(upstreams, upstream.as_str()),
        Some(Thing::Credential(upstream, tool)) => {
            one_of(upstreams, upstream.as_str()) && tool.is_none_or(|tool| one_of(tools, tool))
        }
        Some(Thing::Authority(of)) => of.is_empty() || of.iter().any(|upstream| one_of(upstreams, upstream.as_str())),
    };
    bound.mode == mode && hook_fits && caller_fits && thing_fits
}

proptest! {
    #[test]
    fn the_index_finds_what_comparing_everything_finds(
        bound in prop::collection::vec(bound(), 0..8),
        known in prop::sample::subsequence(&WORDS[..], 0..6),
        thing in thing(),
        caller in caller(),
        hook in prop::sample::select(&Hook::ALL[..]),
    ) {
        let entries: Vec<Entry<'_>> = bound
            .iter()
            .map(|bound| Entry {
                matches: &bound.matches,
                mode: bound.mode,
                hooks: &bound.hooks,
                may_rewrite: bound.may_rewrite,
            })
            .collect();
        let known: Vec<UpstreamName> = known.into_iter().map(name).collect();
        let index = Index::of(&entries, known.iter());
        for (phase, mode) in [(Phase::Enforce, Mode::Enforce), (Phase::Shadow, Mode::Shadow)] {
            let expected = |thing: Option<&Thing>| {
                let asked = (0..bound.len()).filter(|at| is_asked(&bound[*at], mode, hook, thing, &caller));
                let mut asked: Vec<usize> = asked.collect();
                // Stable: within each group the operator's order stays.
                asked.sort_by_key(|at| hook == Hook::ToolCall && !bound[*at].may_rewrite);
                asked
            };
            let found: Vec<usize> = index.find(phase, hook, thing.about(), &caller).collect();
            prop_assert_eq!(found, expected(Some(&thing)));
            let found: Vec<usize> = index.find_all(phase, hook, &caller).collect();
            prop_assert_eq!(found, expected(None));
        }
    }
}

#[test]
fn what_is_off_is_never_asked_and_a_shadow_only_afterwards() {
    let (all, hooks) = (Match::default(), Hook::ALL);
    let entry = |mode| Entry { matches: &all, mode, hooks: &hooks, may_rewrite: false };
    let index = Index::of(&[entry(Mode::Off), entry(Mode::Shadow), entry(Mode::Enforce)], std::iter::empty());
    let caller = scene::caller();
    for hook in Hook::ALL {
        let find = |phase| index.find(phase, hook, About::Authority(&[]), &caller).collect::<Vec<_>>();
        assert_eq!((find(Phase::Enforce), find(Phase::Shadow)), (vec![2], vec![1]), "{hook}");
        assert!(index.has(Phase::Enforce, hook) && index.has(Phase::Shadow, hook));
    }
    let off = Index::of(&[entry(Mode::Off)], std::iter::empty());
    assert!(Hook::ALL.iter().all(|hook| !off.has(Phase::Enforce, *hook) && !off.has(Phase::Shadow, *hook)));
}

#[test]
fn the_configuration_knows_the_words_of_the_contract() {
    assert_eq!(HOOKS, Hook::ALL.map(Hook::as_str));
    let names =
        |flags: serde_json::Result<serde_json::Value>| serde_json::from_value::<Vec<String>>(flags.unwrap()).unwrap();
    let hints: Vec<&str> = Hint::ALL.iter().map(|hint| hint.as_str()).collect();
    assert_eq!(names(serde_json::to_value(ToolHints::all())), hints);
    let grants: Vec<&str> = Grant::ALL.iter().map(|grant| grant.as_str()).collect();
    assert_eq!(names(serde_json::to_value(Capability::all())), grants);
}
