//! The default policies, as they come with the binary.

use serde_json::Value;

use super::scene::{bind_bytes, check, inspect, load, tool};
use crate::config::Binding;
use crate::policy::PolicySet;

const ALLOW_TOOLS: &[u8] = include_bytes!("../../../../policies/prebuilt/allow-tools.wasm");
const READ_ONLY: &[u8] = include_bytes!("../../../../policies/prebuilt/read-only.wasm");
const REDACT: &[u8] = include_bytes!("../../../../policies/prebuilt/redact.wasm");

fn with_config(name: &str, module: &[u8], config: &str) -> PolicySet {
    let config: Value = serde_json::from_str(config).unwrap();
    let change = |binding: &mut Binding| {
        binding.config = config;
        binding.memory_bytes = 16 << 20;
    };
    load(vec![bind_bytes(name, module.to_vec()).with(change)])
}

#[test]
fn each_accepts_its_own_sample_and_says_nothing_untrue_of_itself() {
    for (name, module) in [("allow-tools", ALLOW_TOOLS), ("read-only", READ_ONLY), ("redact", REDACT)] {
        let info = with_config(name, module, "{}").bindings()[0].module().clone();
        assert_eq!(info.manifest.name, name);
        assert_eq!(info.manifest.hooks, info.exported, "{name}");
        let set = with_config(name, module, info.manifest.sample_config.get());
        assert!(set.bindings()[0].warnings().is_empty(), "{name}: {:?}", set.bindings()[0].warnings());
        assert!(info.imports.iter().all(|import| import.starts_with("portcullis:policy/")), "{:?}", info.imports);
    }
}

#[test]
fn allow_tools_lets_through_what_its_rules_allow() {
    let config = r#"{
        "rules": [
            { "tools": ["tracker/close_issue"], "action": "deny", "message": "Leave a comment instead." },
            { "tools": ["notes/delete_*"], "action": "hide" },
            { "tools": ["notes/*", "tracker/*"], "action": "allow" }
        ]
    }"#;
    let set = with_config("allow-tools", ALLOW_TOOLS, config);
    for (upstream, name, expected) in [
        ("notes", "add", "allow {}"),
        ("notes", "delete_all", "hidden"),
        ("tracker", "close_issue", "allow-tools denied: allow-tools.denied Leave a comment instead."),
        ("other", "add", "hidden"),
    ] {
        assert_eq!(check(&set, &tool(upstream, name), Some("{}")), expected, "{upstream}/{name}");
    }
}

#[test]
fn redact_takes_out_what_it_finds_and_leaves_the_rest() {
    let set = with_config("redact", REDACT, r#"{ "kinds": ["email"], "words": ["falcon"] }"#);
    let result = r#"{"content":[{"type":"text","text":"Ask ann@example.org about Falcon.","x":1.0}],"structuredContent":{"to":["ann@example.org"],"n":1.0},"z":null}"#;
    let redacted = r#"{"content":[{"type":"text","text":"Ask [redacted:email] about [redacted:word].","x":1.0}],"structuredContent":{"to":["[redacted:email]"],"n":1.0},"z":null}"#;
    assert_eq!(inspect(&set, result), redacted);
    let clean = r#"{ "content": [] }"#;
    assert_eq!(inspect(&set, clean), clean);
}

#[test]
fn redact_reads_a_result_of_a_megabyte() {
    let set = with_config("redact", REDACT, r#"{ "words": ["falcon"] }"#);
    let long = "hello world 12345 ".repeat(60_000);
    let result = |last: &str| format!(r#"{{"content":[{{"type":"text","text":"{long}{last}"}}]}}"#);
    assert!(inspect(&set, &result("end")) == result("end"));
    assert!(inspect(&set, &result("falcon")) == result("[redacted:word]"));
}
