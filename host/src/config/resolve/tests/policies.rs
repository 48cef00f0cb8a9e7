//! `[policy]`, `[sets]` and `[[policies]]`.

use std::sync::Arc;

use super::*;
use crate::config::{
    Binding, Grant, Hint, Lines, Match, Mode, ModuleSource, PolicySettings, Reuse, Sets, Signatures, TrustedKey,
    WhenAllAbstain,
};
use crate::ids::BindingName;

/// What the file that says everything says of policies.
pub(super) fn expected(base_dir: &Path) -> PolicySettings {
    let binding = |name: &str, module| Binding::new(BindingName::parse(name).unwrap(), module);
    let last = binding("last", ModuleSource::File(base_dir.join("policy.wasm")));
    let first = Binding {
        digest: Some("ab".repeat(32)),
        config: serde_json::json!({
            "tools": ["a"],
            "deep": { "number": 1.5, "whole": -1, "on": true, "at": "2027-01-01" },
        }),
        matches: Match {
            hooks: Some(vec!["tool-call", "server-request"]),
            upstreams: globs(&["notes", "t*"]),
            tools: globs(&["add"]),
            items: globs(&["file:///a/*"]),
            hints: vec![Hint::Destructive, Hint::FirstSeen],
            principals: globs(&["key:ci*"]),
            groups: Some(globs(&["ops", "*"])),
            clients: globs(&["https://*"]),
        },
        priority: -1,
        advisory: true,
        allow_rewrite: true,
        grants: vec![Grant::Sets, Grant::Clock],
        time: Duration::from_secs(1),
        memory_bytes: 256 << 20,
        reuse: Reuse::Frozen,
        tests: Some(base_dir.join("cases.json")),
        ..binding("first", ModuleSource::Builtin("allow-tools".to_owned()))
    };
    let second =
        Binding { mode: Mode::Shadow, priority: -1, ..binding("second", ModuleSource::Builtin("redact".to_owned())) };
    let key = |name: &str, byte| TrustedKey { name: name.to_owned(), key: [byte; 32] };
    let set = |items: &[&str]| items.iter().map(|item| (*item).to_owned()).collect();
    let sets = [("people", set(&["ann", "bob"])), ("nobody", set(&[])), ("hosts", set(&["a.example", "b.example#2"]))];
    let sets = Sets::new(sets.into_iter().map(|(name, items)| (name.to_owned(), items)).collect());
    PolicySettings {
        when_all_abstain: WhenAllAbstain::Allow,
        max_components: 3,
        record: true,
        replay: 0,
        signatures: Signatures::All,
        trusted_keys: vec![key(&format!("ed25519:{}", STANDARD.encode([1; 32])), 1), key("release", 2)],
        sets: Arc::new(sets.with_files(vec![base_dir.join("hosts.txt")])),
        bindings: vec![first, second, last],
    }
}

/// The same bindings as if they were from no file.
pub(super) fn without_lines(policy: PolicySettings) -> PolicySettings {
    let bindings = policy.bindings.into_iter().map(|binding| Binding { config_lines: Lines::default(), ..binding });
    PolicySettings { bindings: bindings.collect(), ..policy }
}

#[test]
fn a_pointer_into_the_settings_of_a_policy_leads_to_their_line() {
    let text = "\
[[policies]]
name = 'later'
module = 'builtin:redact'

[policies.config]
rules = [
    { tools = ['a'] },
    { tools = ['b'], when = { hour = 1 } },
]

[[policies]]
name = 'earlier'
module = 'builtin:allow-tools'
priority = 1
";
    let bindings = parsed(text).unwrap().policy.bindings;
    let [earlier, later] = &bindings[..] else { panic!("{bindings:?}") };
    for (binding, pointer, line) in [
        (later, "", 5),
        (later, "/rules", 6),
        (later, "/rules/0/tools/0", 7),
        (later, "/rules/1/when/hour", 8),
        (later, "/rules/1/unless", 8),
        (later, "/rules/2", 6),
        (later, "/defaults", 5),
        (earlier, "", 11),
        (earlier, "/rules/0", 11),
    ] {
        assert_eq!(binding.line_of(pointer), Some(line), "{} {pointer}", binding.name);
    }
    let from_nowhere = Binding::new(earlier.name.clone(), earlier.module.clone());
    assert_eq!(from_nowhere.line_of("/rules"), None);
}

#[test]
fn files_that_are_named_are_watched() {
    let dir = base_dir();
    let text = "\
[sets]
hosts = { file = 'hosts.txt' }
again = { file = 'hosts.txt' }
here = ['a']
[[policies]]
name = 'file'
module = 'policy.wasm'
tests = 'cases.json'
[[policies]]
name = 'built-in'
module = 'builtin:redact'
";
    let file = dir.path().join("portcullis.toml");
    std::fs::write(&file, text).unwrap();
    let config = load(&file, &environment, NOW).unwrap_or_else(|mistakes| panic!("{mistakes}"));
    let expected = ["cases.json", "hosts.txt", "policy.wasm", "portcullis.toml"].map(|name| dir.path().join(name));
    assert_eq!(config.watched_files(), expected);
}

#[test]
fn mistakes_of_sets() {
    each_mistake_is_told(&[
        ("[sets]\nPeople = []", &["2: set name \"People\" must be"]),
        ("[sets]\npeople = 'ann'", &["2: people must be a list of strings, or { file = \"PATH\" }, not a string"]),
        ("[sets]\npeople = ['ann', 5]", &["2: people must be a string, not a whole number"]),
        ("[sets]\npeople = {}", &["2: set people needs a file"]),
        ("[sets]\npeople = { fil = 'hosts.txt' }", &["2: unknown key `fil`"]),
        ("[sets]\npeople = { file = '' }", &["2: set people is not a path"]),
        ("[sets]\na = ['x']\na = ['y']", &["3: duplicate key"]),
    ]);
    let told = |name: &str, content: Vec<u8>| {
        let dir = base_dir();
        std::fs::write(dir.path().join(name), content).unwrap();
        let text = format!("[sets]\nbig = {{ file = '{name}' }}");
        parse(&text, dir.path(), &environment, NOW).map(drop).map_err(|mistakes| mistakes.to_string())
    };
    for (content, message) in [
        (vec![b'x'; (1 << 20) + 1], "is larger than 1024 KiB"),
        (b"\xff".to_vec(), "is not UTF-8 text"),
        (
            (0..=100_000).map(|number| format!("{number}\n")).collect::<String>().into_bytes(),
            "has more than 100000 items",
        ),
    ] {
        let told = told("items", content).unwrap_err();
        assert!(told.starts_with("portcullis.toml:2:16: set big: ") && told.ends_with(message), "{told}");
    }
    assert_eq!(told("items", vec![b'x'; 1 << 20]), Ok(()));
    assert_eq!(told("items", "x\n".repeat(100_000).into_bytes()), Ok(()));

    let many: String = (0..=100).map(|number| format!("s{number} = []\n")).collect();
    let Err(mistakes) = parsed(&format!("[sets]\n{many}")) else { panic!("no mistake") };
    assert!(mistakes.to_string().ends_with("there are more than 100 sets"), "{mistakes}");
}

#[test]
fn mistakes_of_trust() {
    let key = |byte| format!("ed25519:{}", STANDARD.encode([byte; 32]));
    let keys = |keys: &str| format!("[policy]\ntrusted_keys = [{keys}]");
    for (text, expected) in [
        ("[policy]\nsignatures = 'any'".to_owned(), "2: signatures is \"any\", and no key is trusted"),
        ("[policy]\nsignatures = 'all'\ntrusted_keys = []".to_owned(), "2: signatures is \"all\", and no key"),
        ("[policy]\nsignatures = 'some'".to_owned(), "2: signatures must be one of off, any, all, not some"),
        (keys("'AQEB'"), "2: a trusted key is not an Ed25519 public key"),
        (keys(&format!("'ed25519:{}'", STANDARD.encode([1; 31]))), "2: a trusted key is not an Ed25519 public key"),
        (keys("'ed25519:?'"), "2: a trusted key is not an Ed25519 public key"),
        (keys("5"), "2: trusted_keys must be a key such as"),
        (keys(&format!("{{ key = '{}' }}", key(1))), "2: a trusted key needs name and key"),
        (keys(&format!("{{ name = '', key = '{}' }}", key(1))), "2: the name of a trusted key must have 1 to 64"),
        (keys(&format!("'{0}', '{0}'", key(1))), "2: another trusted key has the same key"),
        (
            keys(&format!("{{ name = 'a', key = '{}' }}, {{ name = 'a', key = '{}' }}", key(1), key(2))),
            "2: another trusted key has the same name",
        ),
        ("[policy]\nreplay = -1".to_owned(), "2: replay must be from 0 to 10000"),
        ("[policy]\nreplay = 10001".to_owned(), "2: replay must be from 0 to 10000"),
    ] {
        each_mistake_is_told(&[(&text, &[expected])]);
    }
}

#[test]
fn mistakes_of_policies() {
    let policy = |lines: &str| format!("[[policies]]\nname = 'x'\nmodule = 'policy.wasm'\n{lines}");
    for (lines, expected) in [
        ("digest = '00'", "4: digest is not a digest"),
        ("digest = 'sha256:00'", "4: digest is not a digest"),
        ("config = { a = [{ b = nan }] }", "4: config must not have numbers"),
        ("match = { tools = [] }", "4: match.tools is empty"),
        ("match = { upstreams = [] }", "4: match.upstreams is empty"),
        ("match = { tools = [''] }", "4: an entry of match.tools must be a pattern"),
        ("match = { upstreams = ['n*', 'notes'] }", "4: match.upstreams names the upstream \"notes\", which is not"),
        ("priority = 3000000000", "4: priority must be from -2147483648 to 2147483647"),
        ("match = { hooks = [] }", "4: match.hooks is empty"),
        (
            "match = { hooks = ['tool-call', 'tool-cal'] }",
            "4: match.hooks names the hook \"tool-cal\", which there is not",
        ),
        ("match = { items = [] }", "4: match.items is empty"),
        ("match = { hints = ['read_only'] }", "4: match.hints names the hint \"read_only\", which there is not"),
        ("match = { hints = [] }", "4: match.hints is empty"),
        ("match = { principals = [] }", "4: match.principals is empty"),
        ("match = { principals = [''] }", "4: an entry of match.principals must be a pattern"),
        ("match = { groups = [] }", "4: match.groups is empty"),
        ("match = { clients = [] }", "4: match.clients is empty"),
        ("match = { client = ['*'] }", "4: unknown key `client`"),
        ("mode = 'shadows'", "4: mode must be one of enforce, shadow, off, not shadows"),
        ("mode = 'shadow'\nadvisory = true", "5: advisory has no meaning with the mode shadow"),
        ("mode = 'off'\nadvisory = true", "5: advisory has no meaning with the mode off"),
        ("grants = ['clock', 'time']", "4: grants names the host interface \"time\", which there is not"),
        ("limits = { reuse = 'hot' }", "4: reuse must be one of auto, frozen, fresh, warm, not hot"),
        ("tests = ''", "4: tests is not a path"),
        ("limits = { time = '1001ms' }", "4: limits.time must be at most 1s"),
        ("limits = { time = '0ms' }", "4: limits.time must not be zero"),
        ("limits = { memory = '63KiB' }", "4: limits.memory must be from 64KiB to 256MiB"),
        ("limits = { memory = 268435457 }", "4: limits.memory must be from 64KiB to 256MiB"),
        ("[[policies]]\nname = 'x'\nmodule = 'builtin:redact'", "5: there is another policy named \"x\""),
        ("[[policies]]\nname = 'X'\nmodule = 'builtin:redact'", "5: policy name \"X\" must be"),
        ("[[policies]]\nname = 'y'\nmodule = 'builtin:redcat'", "6: module names the built-in policy \"redcat\""),
        ("[[policies]]\nname = 'y'\nmodule = ''", "6: module is not a path"),
        ("[[policies]]\nname = 'y'", "4: a policy needs a module"),
        ("[[policies]]\nmodule = 'policy.wasm'", "4: a policy needs a name"),
    ] {
        each_mistake_is_told(&[(&policy(lines), &[expected])]);
    }
    each_mistake_is_told(&[(
        "[[policies]]\nname = 'x'\nmodule = 'builtin:redact'\nlimits = { reuse = 'warm' }",
        &["4: limits.reuse must not be \"warm\""],
    )]);
    for (tests, message) in [
        ("object.json", "is not a JSON list of cases: invalid type: map, expected a sequence at line 1 column 0"),
        ("policy.wasm", "is not a JSON list of cases: expected value at line 1 column 1"),
        ("none.json", "does not exist"),
    ] {
        let Err(mistakes) = parsed(&policy(&format!("tests = '{tests}'"))) else { panic!("no mistake") };
        let told = mistakes.to_string();
        assert!(told.starts_with("portcullis.toml:4:9: tests: ") && told.ends_with(message), "{told}");
    }
    let Err(mistakes) = parsed(&policy("[[policies]]\nname = 'y'\nmodule = 'none.wasm'")) else { panic!("no mistake") };
    let told = mistakes.to_string();
    assert!(told.starts_with("portcullis.toml:6:10: module ") && told.ends_with("none.wasm does not exist"), "{told}");
    let Err(mistakes) = parsed(&policy("[[policies]]\nname = 'y'\nmodule = 'secrets'")) else { panic!("no mistake") };
    assert!(mistakes.to_string().ends_with("secrets is not a regular file"), "{mistakes}");
}
