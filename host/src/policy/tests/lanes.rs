//! The dynamic lane beside the typed one, what core modules may expect of WASI, and cases that modules bring along.

use std::time::Duration;

use serde_json::{Value, json};

use super::guest::{DynamicGuest, Guest, Text, allow, deny};
use super::hostile::logged;
use super::scene::{bind_bytes, check, engine, failure, inspect, load, tool, try_load};
use crate::policy::{Failure, Hook, InstanceMode, Lane, Module, componentize};

fn bound(guest: &DynamicGuest) -> crate::policy::PolicySet {
    load(vec![bind_bytes("one", guest.core())])
}

fn answers(hook: Hook, answer: &Value) -> DynamicGuest {
    DynamicGuest::new(&[hook]).decide(Text::Ok(answer.to_string()))
}

#[test]
fn both_lanes_mean_the_same() {
    let denied = json!({ "deny": { "reason": { "code": "no", "message": "No." } } });
    let patch = json!([{ "pointer": "/a", "op": { "set": 2 } }]);
    for (typed, dynamic, expected) in [
        (allow(&json!({})), json!({ "allow": {} }), "allow {\"a\":1}"),
        (deny("no"), denied, "one denied: no No."),
        (json!("abstain"), json!("abstain"), "no-policy-allowed"),
        (
            allow(&json!({ "rewrite": { "patch": [{ "pointer": "/a", "op": { "set": "2" } }] } })),
            json!({ "allow": { "rewrite": { "patch": patch } } }),
            "allow {\"a\":2}",
        ),
    ] {
        let typed = Guest::new().answers(Hook::ToolCall, typed).mutates(Hook::ToolCall).core();
        let dynamic = answers(Hook::ToolCall, &dynamic).manifest("mutates", json!(["tool-call"])).core();
        for module in [typed, dynamic.clone(), componentize(&dynamic).unwrap()] {
            let set = load(vec![bind_bytes("one", module).with(|binding| binding.allow_rewrite = true)]);
            assert_eq!(check(&set, &tool("notes", "add"), Some("{\"a\":1}")), expected);
        }
    }
    let redacts = json!({ "redact": { "spans": [{ "part": 0, "start": 0, "end": 6, "replacement": "-" }] } });
    let guest = answers(Hook::ToolResult, &redacts)
        .manifest("mutates", json!(["tool-result"]))
        .manifest("needs", json!([{ "hook": "tool-result", "output": "full" }]));
    let result = r#"{"content":[{"type":"text","text":"secret text"}]}"#;
    assert_eq!(inspect(&bound(&guest), result), r#"{"content":[{"type":"text","text":"- text"}]}"#);
    assert_eq!(check(&bound(&guest), &tool("notes", "add"), None), "allow none", "it is asked for its own hooks alone");
}

#[test]
fn the_dynamic_lane_sees_the_question_as_json() {
    // Says what it was asked as the message of an error: the address and length of its second parameter.
    let echoes = "(i32.store8 $answer (i32.const 1))
        (i32.store offset=4 $answer (local.get 2)) (i32.store offset=8 $answer (local.get 3)) $answer";
    let guest = DynamicGuest::runs(echoes).manifest("needs", json!([{ "hook": "tool-call", "arguments": "full" }]));
    let set = bound(&guest);
    let Failure::Failed { message } = failure(&set) else { panic!("no message") };
    // What a guest says of its failure is cut short, so that the question is read up to there.
    assert!(message.starts_with(r#"{"context":{"decision_id":""#), "{message}");
    assert!(message.contains(r#""caller":{"subject":"ci","kind":"service","issuer":"portcullis""#), "{message}");
    assert!(message.len() <= 1024);
    let names_hook = "(i32.store8 $answer (i32.const 1))
        (i32.store offset=4 $answer (local.get 0)) (i32.store offset=8 $answer (local.get 1)) $answer";
    let Failure::Failed { message } = failure(&bound(&DynamicGuest::runs(names_hook))) else { panic!("no message") };
    assert_eq!(message, "tool-call");
}

#[test]
fn a_module_of_the_dynamic_lane_tells_what_it_is() {
    let guest = DynamicGuest::new(&[Hook::ToolCall, Hook::Grant])
        .manifest("mutates", json!(["tool-call"]))
        .manifest("config_schema", json!({ "type": "object" }))
        .manifest(
            "self_tests",
            json!([{ "name": "a", "config": {}, "hook": "grant", "input": {}, "expect": "abstain" }]),
        );
    let module = Module::load(engine(), &guest.core()).unwrap();
    assert_eq!(module.lane(), Lane::Dynamic);
    assert_eq!(module.info().exported, [Hook::ToolCall, Hook::Grant]);
    assert_eq!(module.manifest().config_schema.get(), r#"{"type":"object"}"#);
    let cases = module.self_tests().unwrap();
    assert_eq!((cases[0].name.as_str(), cases[0].hook, &*cases[0].expect), ("a", Hook::Grant, "\"abstain\""));
    let set = bound(&guest);
    assert_eq!(set.bindings()[0].instances(), InstanceMode::Frozen);
    assert!(set.bindings()[0].prepared.is_slow());
    for (manifest, expected) in [
        (json!({ "hooks": [] }), "it exports no hook"),
        (json!({ "hooks": ["tool-cal"] }), "its description cannot be read: unknown variant"),
        (json!({ "colour": "red" }), "its description cannot be read: unknown field"),
        (json!({ "name": "No Name" }), "its manifest is wrong: its name"),
        (json!({ "self_tests": [{}] }), "its description cannot be read: missing field"),
    ] {
        let (member, value) = manifest.as_object().unwrap().iter().next().unwrap();
        let module = DynamicGuest::new(&[Hook::ToolCall]).manifest(member, value.clone()).core();
        let errors = try_load(vec![bind_bytes("one", module)]).unwrap_err().to_string();
        assert!(errors.contains(expected), "{errors}");
    }
}

#[test]
fn cases_come_with_the_typed_lane_too() {
    let case = json!({ "name": "b", "config": "{}", "hook": "tool-call", "input": "{}", "expect": "{}" });
    let guest = Guest::new().answers(Hook::ToolCall, allow(&json!({}))).self_tests(json!([case.clone(), case]));
    let cases = Module::load(engine(), &guest.core()).unwrap().self_tests().unwrap();
    assert_eq!(cases.len(), 2);
    assert_eq!((cases[1].name.as_str(), cases[1].hook), ("b", Hook::ToolCall));
    let without = Guest::new().answers(Hook::ToolCall, allow(&json!({})));
    assert!(Module::load(engine(), &without.core()).unwrap().self_tests().unwrap().is_empty());
}

#[test]
fn the_dynamic_lane_is_spoken_in_the_other_spelling_too() {
    let mut wat = DynamicGuest::answers(&json!({ "allow": {} })).wat();
    for (from, to) in [
        ("portcullis:policy/dynamic@0.1.0#", "cm32p2|portcullis:policy/dynamic@0.1|"),
        ("(export \"memory\")", "(export \"cm32p2_memory\")"),
        ("(export \"cabi_realloc\")", "(export \"cm32p2_realloc\")"),
    ] {
        assert!(wat.contains(from));
        wat = wat.replace(from, to);
    }
    let set = load(vec![bind_bytes("one", wat::parse_str(&wat).unwrap())]);
    assert_eq!(check(&set, &tool("notes", "add"), Some("{}")), "allow {}");
}

/// Imports of a core module that was built for WASI.
const WASI: &str = r#"
(import "wasi_snapshot_preview1" "clock_time_get" (func $time (param i32 i64 i32) (result i32)))
(import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
(import "wasi_snapshot_preview1" "environ_sizes_get" (func $environ (param i32 i32) (result i32)))
(import "wasi_snapshot_preview1" "args_sizes_get" (func $args (param i32 i32) (result i32)))
(import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
(import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
(import "wasi_snapshot_preview1" "fd_prestat_get" (func $prestat (param i32 i32) (result i32)))
(import "wasi_snapshot_preview1" "path_open" (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
(import "wasi_snapshot_preview1" "sock_send" (func $send (param i32 i32 i32 i32 i32) (result i32)))
(import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
(import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
"#;

/// One that traps unless all of these hold.
fn holds(conditions: &[&str]) -> DynamicGuest {
    let all: String =
        conditions.iter().map(|condition| format!("(if (i32.eqz {condition}) (then unreachable))\n")).collect();
    DynamicGuest::runs(&format!("{all} $answer")).field(WASI)
}

#[test]
fn wasi_is_there_as_far_as_it_does_no_harm() {
    let guest = holds(&[
        // There is nothing to be had.
        "(i32.eqz (call $environ (i32.const 512) (i32.const 516)))",
        "(i32.eqz (i32.or (i32.load (i32.const 512)) (i32.load (i32.const 516))))",
        "(i32.eqz (call $args (i32.const 512) (i32.const 516)))",
        "(i32.eq (call $prestat (i32.const 3) (i32.const 512)) (i32.const 8))",
        "(i32.eq (call $open (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i64.const 0) (i64.const 0) (i32.const 0) (i32.const 512)) (i32.const 52))",
        "(i32.eq (call $send (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 512)) (i32.const 52))",
        "(i32.eq (call $write (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 512)) (i32.const 8))",
        "(i32.eqz (call $read (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 512)))",
        // The time begins with 2026 and goes on by being asked for.
        "(i32.eqz (call $time (i32.const 0) (i64.const 0) (i32.const 520)))",
        "(i32.eqz (call $time (i32.const 1) (i64.const 0) (i32.const 528)))",
        "(i64.eq (i64.load (i32.const 520)) (i64.const 1767225600000001000))",
        "(i64.eq (i64.load (i32.const 528)) (i64.const 1767225600000002000))",
        // Who sleeps a second wakes a second later.
        "(block (result i32)
           (i64.store (i32.const 600) (i64.const 77)) (i32.store8 (i32.const 608) (i32.const 0))
           (i64.store (i32.const 624) (i64.const 1000000000)) (i32.store16 (i32.const 640) (i32.const 0))
           (i32.eqz (call $poll (i32.const 600) (i32.const 700) (i32.const 1) (i32.const 540))))",
        "(i32.eq (i32.load (i32.const 540)) (i32.const 1))",
        "(i64.eq (i64.load (i32.const 700)) (i64.const 77))",
        "(i32.eqz (call $time (i32.const 1) (i64.const 0) (i32.const 528)))",
        "(i64.eq (i64.load (i32.const 528)) (i64.const 1767225601000003000))",
        // Randomness is no zeros, and does not go beyond what was asked for.
        "(i32.eqz (call $random (i32.const 544) (i32.const 15)))",
        "(i64.ne (i64.load (i32.const 544)) (i64.const 0))",
        "(i64.ne (i64.load (i32.const 544)) (i64.load (i32.const 551)))",
        "(i32.eqz (i32.load8_u (i32.const 559)))",
    ]);
    let module = Module::load(engine(), &guest.core()).unwrap();
    assert!(
        module.info().imports.iter().all(|name| name.starts_with("portcullis:policy/")),
        "{:?}",
        module.info().imports
    );
    let set = bound(&guest);
    for _ in 0..3 {
        assert_eq!(check(&set, &tool("notes", "add"), None), "allow none");
    }
    assert_eq!(
        failure(&bound(&holds(&["(block (result i32) (call $exit (i32.const 0)) (i32.const 1))"]))).code(),
        "trap"
    );
}

#[test]
fn what_is_written_to_standard_output_is_logged_and_no_bytes_break_the_log() {
    // Two pieces: text with a line's end, and what is given as the condition's bytes.
    let writes = |to: u32, bytes: &str| {
        let condition = format!(
            "(block (result i32)
               (i32.store (i32.const 560) (i32.const 512)) (i32.store (i32.const 564) (i32.const 6))
               (i32.store (i32.const 568) (i32.const 520)) (i32.store (i32.const 572) (i32.const 5))
               (i32.eqz (call $write (i32.const {to}) (i32.const 560) (i32.const 2) (i32.const 576))))"
        );
        let written = "(i32.eq (i32.load (i32.const 576)) (i32.const 11))";
        holds(&[&condition, written]).field(&format!("(data (i32.const 512) \"hello\\n..{bytes}\")"))
    };
    for (to, bytes, level, second) in [
        (1, "w\\c3\\b6rt", "INFO", Some("wört")),
        (2, "\\f0\\9f\\98\\80!", "WARN", Some("😀!")),
        (1, "a\\ffbcd", "INFO", None),
        (1, "\\ed\\a0\\80ab", "INFO", None),
        (1, "\\c0\\80abc", "INFO", None),
        (1, "\\f4\\90\\80\\80a", "INFO", None),
        (1, "abcd\\c3", "INFO", None),
        (1, "\\e0\\80\\80ab", "INFO", None),
        (2, "\\n\\n\\n\\n\\n", "WARN", None),
    ] {
        let set = bound(&writes(to, bytes));
        let lines = logged(|| assert_eq!(check(&set, &tool("notes", "add"), None), "allow none", "{bytes}"));
        let said: Vec<&str> = [Some("hello"), second].into_iter().flatten().collect();
        assert_eq!(lines.len(), said.len(), "{bytes}: {lines:?}");
        for (line, said) in lines.iter().zip(said) {
            assert!(line.contains(&format!(" {level} ")) && line.contains(said), "{bytes}: {line}");
        }
    }
    // More than the host takes at once is cut where a character ends.
    let long = holds(&["(block (result i32)
        (memory.fill (i32.const 66000) (i32.const 0xbf) (i32.const 4000))
        (i32.store8 (i32.const 68047) (i32.const 0xc3))
        (memory.fill (i32.const 66000) (i32.const 97) (i32.const 2047))
        (i32.store (i32.const 560) (i32.const 66000)) (i32.store (i32.const 564) (i32.const 4000))
        (i32.eqz (call $write (i32.const 1) (i32.const 560) (i32.const 1) (i32.const 576))))"]);
    let set = bound(&long);
    let lines = logged(|| assert_eq!(check(&set, &tool("notes", "add"), None), "allow none"));
    let [line] = &lines[..] else { panic!("{} lines", lines.len()) };
    assert!(line.contains(&"a".repeat(2047)) && !line.contains(&"a".repeat(2048)), "{line}");
}

#[test]
fn a_question_in_json_must_be_one_of_its_hook() {
    let module = Module::load(engine(), &Guest::new().answers(Hook::ToolCall, allow(&json!({}))).core()).unwrap();
    let (config, sets) = ("{}".into(), std::sync::Arc::default());
    let preparation = crate::policy::prepared::Preparation {
        policy: "one",
        config: &config,
        memory_bytes: 4 << 20,
        reuse: crate::config::Reuse::Auto,
        sets: &sets,
    };
    let prepared = module.prepare(&preparation).unwrap().prepared;
    let rehearsal = crate::policy::rehearsal::Rehearsal::new("one", &sets, Duration::from_secs(2), 4 << 20);
    let ask = |input: &str| prepared.ask_json(Hook::ToolCall, input, &rehearsal.run());
    let full = r#"{"context": {"now_ms": 5, "caller": {"subject": "ci", "claims": {"a": [1]}}}, "request": {"tool": {"name": "t", "hints": ["destructive"]}, "arguments": {"id": 1}}}"#;
    for input in ["{}", full] {
        let answer = ask(input).unwrap();
        assert_eq!(answer["allow"]["rewrite"], "keep");
    }
    for (input, expected) in [
        ("", "its input cannot be read"),
        ("[]", "its input cannot be read"),
        (r#"{"tools": []}"#, "tool-call has no parameter \"tools\", but context and request"),
        (r#"{"request": {"tol": {}}}"#, "request: unknown field `tol`"),
        (r#"{"context": {}, "context": {}}"#, "its input cannot be read"),
    ] {
        let Err(Failure::NotStarted { message }) = ask(input) else { panic!("{input} was asked") };
        assert!(message.contains(expected), "{message}");
    }
}
