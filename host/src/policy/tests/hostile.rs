//! Guests that break the rules, each in its own way and in each form that a policy can have: bounded time, a refusal, and
//! nothing left behind.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::json;
use tracing_subscriber::fmt::MakeWriter;

use super::guest::{Body, DynamicGuest, Guest, Text, allow, deny, redact};
use super::scene::{
    bind, bind_bytes, call, caller, check, context, failure, inspect, load, now, settings, tool, try_load, upstream,
};
use crate::config::Reuse;
use crate::policy::{Engine, Failure, Hook, InstanceMode, PolicySet};

const LOG: &str = r#"(import "portcullis:policy/log@0.1.0" "write" (func $log (param i32 i32 i32)))"#;

fn runs(wat: &str) -> Guest {
    Guest::new().runs(Hook::ToolCall, wat)
}

fn around(answer: serde_json::Value, wat: &str) -> Guest {
    Guest::new().hook(Hook::ToolCall, Body::Around(answer, wat.to_owned()))
}

/// Recursion that no optimisation turns into a loop.
const RECURSES: &str = "(func $deep (param i32) (result i32)
    (i32.add (i32.const 1) (call $deep (i32.add (i32.const 1) (local.get 0)))))";

/// A policy in each form: frozen where it can be, configured anew for each call, and in the dynamic lane.
fn forms(typed: &Guest, dynamic: &DynamicGuest) -> Vec<(&'static str, PolicySet)> {
    let bound = |bytes: Vec<u8>, reuse| {
        bind_bytes("one", bytes).with(|binding| {
            binding.time = Duration::from_millis(50);
            binding.reuse = reuse;
        })
    };
    let forms = [
        ("frozen", bound(typed.core(), Reuse::Auto)),
        ("fresh", bound(typed.core(), Reuse::Fresh)),
        ("dynamic", bound(dynamic.core(), Reuse::Auto)),
        ("fresh dynamic", bound(dynamic.core(), Reuse::Fresh)),
    ];
    forms.into_iter().map(|(form, bound)| (form, load(vec![bound]))).collect()
}

#[test]
fn whatever_a_guest_does_to_itself_ends_in_time_and_refuses() {
    let grown_table = "(table $table 1 funcref)";
    for (wat, field, expected) in [
        ("(loop (br 0)) unreachable", "", "timeout"),
        ("(loop (memory.fill (i32.const 0) (i32.const 1) (i32.const 65536)) (br 0)) unreachable", "", "timeout"),
        ("(call $deep (i32.const 0))", RECURSES, "stack-overflow"),
        ("(loop (drop (memory.grow (i32.const 16))) (br 0)) unreachable", "", "memory-limit"),
        ("(drop (memory.grow (i32.const 65535))) unreachable", "", "memory-limit"),
        (
            "(loop (drop (table.grow $table (ref.null func) (i32.const 100))) (br 0)) unreachable",
            grown_table,
            "table-limit",
        ),
        ("unreachable", "", "trap"),
        ("(i32.div_u (i32.const 1) (i32.const 0))", "", "trap"),
        ("(i32.load (i32.const -8))", "", "trap"),
        ("(call_indirect $table (result i32) (i32.const 0))", grown_table, "trap"),
    ] {
        for (form, set) in forms(&runs(wat).field(field), &DynamicGuest::runs(wat).field(field)) {
            let mode = set.bindings()[0].instances();
            let freezable = !form.starts_with("fresh") && !wat.contains("table.grow");
            assert_eq!(mode == InstanceMode::Frozen, freezable, "{wat} is {mode}");
            let begun = Instant::now();
            let failure = failure(&set);
            assert_eq!(failure.code(), expected, "{form}: {failure}");
            assert!(begun.elapsed() < Duration::from_secs(5), "{form} {expected} took {:?}", begun.elapsed());
        }
    }
}

#[test]
fn answers_that_break_the_canonical_abi_are_no_answers() {
    // A verdict's payload begins behind 8 bytes; a denial begins with its code's address and length.
    for (what, guest) in [
        ("a case that does not exist", around(deny("x"), "(i32.store8 $answer (i32.const 6)) $answer")),
        ("an address beyond memory", runs("(i32.const 2147483640)")),
        ("an address at the end of the address space", runs("(i32.const -8)")),
        ("an address that is not aligned", around(deny("x"), "(i32.add (i32.const 1) $answer)")),
        ("a string of 1 GiB", around(deny("x"), "(i32.store offset=12 $answer (i32.const 1073741824)) $answer")),
        ("a string beyond memory", around(deny("x"), "(i32.store offset=8 $answer (i32.const -2)) $answer")),
        (
            "a string that is not UTF-8",
            around(deny("x"), "(i32.store8 (i32.load offset=8 $answer) (i32.const 255)) $answer"),
        ),
        (
            "more than the host takes",
            around(
                deny("x"),
                "(drop (memory.grow (i32.const 32)))
                 (i32.store offset=16 $answer (i32.const 0)) (i32.store offset=20 $answer (i32.const 1100000)) $answer",
            ),
        ),
        ("a code of foreign characters", around(deny("No Way"), "$answer")),
        ("no code", around(deny(""), "$answer")),
        ("a timeout of nothing", around(allow(&json!({ "timeout-ms": 0 })), "$answer")),
        (
            "scopes that would break out of a header",
            around(
                json!({ "step-up": { "scopes": ["a\", evil=\"b"], "acr-values": [], "reason": { "code": "c", "message": "" } } }),
                "$answer",
            ),
        ),
        (
            "too many notes",
            around(allow(&json!({ "notes": vec![json!({ "key": "k", "value": "v" }); 33] })), "$answer"),
        ),
    ] {
        let failure = failure(&load(vec![bind("one", &guest)]));
        assert!(matches!(failure, Failure::InvalidAnswer { .. }), "{what}: {failure:?}");
    }
}

#[test]
fn memory_that_the_host_asks_for_must_be_there() {
    let guest = |realloc| Guest::new().answers(Hook::ToolCall, allow(&json!({}))).sees_all().realloc(realloc);
    for (what, realloc) in [("beyond memory", "(i32.const -16)"), ("a trap", "unreachable")] {
        let errors = try_load(vec![bind("one", &guest(realloc))]).expect_err(what).to_string();
        assert!(errors.contains("it fails on its configuration"), "{what}: {errors}");
    }
    // A text may stand anywhere, so that this one fails when it is first handed a record.
    let misaligned = load(vec![bind("one", &guest("(i32.const 60001)"))]);
    assert_eq!(failure(&misaligned).code(), "invalid-answer");
}

#[test]
fn results_of_hostile_inspectors_do_not_pass() {
    let inspects = |answer: serde_json::Value, wat: &str| {
        Guest::new().hook(Hook::ToolResult, Body::Around(answer, wat.to_owned())).sees_all().mutates(Hook::ToolResult)
    };
    let span =
        |start: u32, end: u32| json!({ "spans": [{ "part": 0, "start": start, "end": end, "replacement": "" }] });
    // An inspection's payload begins behind 4 bytes; a redaction begins with its spans' address and count.
    for (what, guest) in [
        (
            "a count of spans beyond memory",
            inspects(redact(&json!({})), "(i32.store offset=8 $answer (i32.const -1)) $answer"),
        ),
        (
            "a count of spans beyond reason",
            inspects(
                redact(&json!({})),
                "(i32.store offset=4 $answer (i32.const 0)) (i32.store offset=8 $answer (i32.const 5000)) $answer",
            ),
        ),
        ("a span inside a character", inspects(redact(&span(1, 2)), "$answer")),
        ("a span beyond the text", inspects(redact(&span(0, 99)), "$answer")),
        ("a span that ends before it begins", inspects(redact(&span(3, 2)), "$answer")),
        ("a part that is not there", inspects(redact(&json!({ "drop-parts": [1] })), "$answer")),
    ] {
        let set = load(vec![bind("one", &guest)]);
        let outcome = inspect(&set, r#"{"content":[{"type":"text","text":"über"}]}"#);
        assert_eq!(outcome, "one failed: invalid-answer", "{what}");
    }
}

/// Fails if it finds what a run before it left: in a global, in memory, in the size of memory.
const MARKS: &str = "(if (i32.or (global.get $mark) (i32.load (i32.const 512))) (then unreachable))
    (if (i32.ne (memory.size) (i32.const 2)) (then unreachable))
    (drop (memory.grow (i32.const 4)))
    (if (i32.load (i32.const 300000)) (then unreachable))
    (memory.fill (i32.const 131072) (i32.const 255) (i32.const 262144))
    (i32.store (i32.const 512) (i32.const 1))
    (global.set $mark (i32.const 1))";

#[test]
fn nothing_that_a_guest_leaves_behind_is_there_at_its_next_call() {
    let (mark, wat) = ("(global $mark (mut i32) (i32.const 0))", format!("{MARKS} $answer"));
    let typed = around(allow(&json!({})), &wat).field(mark);
    for (form, set) in forms(&typed, &DynamicGuest::runs(&wat).field(mark)) {
        assert_eq!(set.bindings()[0].instances() == InstanceMode::Frozen, !form.starts_with("fresh"), "{form}");
        for round in 0..200 {
            assert_eq!(check(&set, &tool("notes", "add"), Some("{}")), "allow {}", "{form}, round {round}");
        }
    }
    // A table that grows cannot be frozen, and does not stay grown.
    let grows = "(if (i32.ne (table.size $table) (i32.const 1)) (then unreachable))
        (drop (table.grow $table (ref.null func) (i32.const 9))) $answer";
    let table = "(table $table 1 funcref)";
    for (form, set) in forms(&around(allow(&json!({})), grows).field(table), &DynamicGuest::runs(grows).field(table)) {
        for _ in 0..50 {
            assert_eq!(check(&set, &tool("notes", "add"), None), "allow none", "{form}");
        }
    }
}

#[test]
fn answers_of_the_dynamic_lane_that_are_no_answers_refuse() {
    let says = |text: &str| DynamicGuest::new(&[Hook::ToolCall]).decide(Text::Ok(text.to_owned()));
    let deep = format!(r#"{{"allow": {{"notes": {}1{}}}}}"#, "[".repeat(200), "]".repeat(200));
    for (what, guest) in [
        ("no text at all", says("")),
        ("no JSON", says("{'allow': {}}")),
        ("two answers", says("\"abstain\" \"abstain\"")),
        ("a name twice", says(r#"{"allow": {"notes": [], "notes": []}}"#)),
        ("depths without end", says(&deep)),
        ("another hook's answer", says("\"pass\"")),
        ("two verdicts", says(r#"{"allow": {}, "deny": {}}"#)),
        ("a member that is not there", says(r#"{"allow": {"also": 1}}"#)),
        ("no reason", says(r#"{"deny": {}}"#)),
        ("a code of foreign characters", says(r#"{"deny": {"reason": {"code": "No Way", "message": ""}}}"#)),
        ("a result that is neither", DynamicGuest::runs("(i32.store8 $answer (i32.const 2)) $answer")),
        ("an address beyond memory", DynamicGuest::runs("(i32.const 2147483640)")),
        ("a text of 1 GiB", DynamicGuest::runs("(i32.store offset=8 $answer (i32.const 1073741824)) $answer")),
        (
            "more than the host takes",
            DynamicGuest::runs(
                "(drop (memory.grow (i32.const 32))) (i32.store offset=4 $answer (i32.const 0))
                 (i32.store offset=8 $answer (i32.const 1100000)) $answer",
            ),
        ),
        (
            "a text that is not UTF-8",
            DynamicGuest::runs("(i32.store8 (i32.load offset=4 $answer) (i32.const 255)) $answer"),
        ),
    ] {
        for reuse in [Reuse::Auto, Reuse::Fresh] {
            let set = load(vec![bind_bytes("one", guest.core()).with(|binding| binding.reuse = reuse)]);
            let failure = failure(&set);
            assert!(matches!(failure, Failure::InvalidAnswer { .. }), "{what}: {failure:?}");
        }
    }
}

#[test]
fn ten_thousand_traps_leave_every_slot_free() {
    let engine = Engine::start(1).unwrap();
    let slots = engine.slots().expect("tests run where there is address space for the pool");
    let (wanted, modules) = settings(vec![
        bind("traps", &runs("(memory.fill (i32.const 0) (i32.const 7) (i32.const 65536)) unreachable"))
            .with(|binding| binding.matches.tools = vec![crate::glob::Glob::parse("bad").unwrap()]),
        bind("fine", &Guest::new().answers(Hook::ToolCall, allow(&json!({})))),
    ]);
    let set = PolicySet::load(&wanted, &[upstream("notes")], &engine, &modules, None, 1).unwrap();
    let (bad, good) = (tool("notes", "bad"), tool("notes", "good"));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..2_500 {
                    assert_eq!(check(&set, &bad, None), "traps failed: trap");
                }
            });
        }
        scope.spawn(|| {
            for _ in 0..1_000 {
                assert_eq!(check(&set, &good, None), "allow none", "a neighbour's traps are nobody else's business");
            }
        });
    });
    assert_eq!(engine.slots_in_use(), Some(0));
    assert!(slots >= 64);
    assert_eq!(set.bindings()[0].health().failures(), 10_000);
    assert!(set.bindings()[0].health().is_degraded());
    assert!(!set.bindings()[1].health().is_degraded());
}

#[test]
fn a_configuration_that_takes_too_long_for_a_call_is_warned_of_and_refuses_calls() {
    let slow = Body::Around(
        json!({ "ok": [] }),
        "(local $left i32) (local.set $left (i32.const 60000000))
         (loop (br_if 0 (local.tee $left (i32.sub (local.get $left) (i32.const 1))))) $answer"
            .to_owned(),
    );
    let guest = Guest::new().configure(slow).answers(Hook::ToolCall, allow(&json!({})));
    let bound = |reuse| {
        bind("one", &guest).with(|binding| {
            binding.time = Duration::from_millis(1);
            binding.reuse = reuse;
        })
    };
    let set = load(vec![bound(Reuse::Fresh)]);
    assert!(set.bindings()[0].warnings()[0].contains("configuring it took"), "{:?}", set.bindings()[0].warnings());
    assert_eq!(failure(&set).code(), "timeout");
    let frozen = load(vec![bound(Reuse::Frozen)]);
    assert!(frozen.bindings()[0].warnings().is_empty(), "{:?}", frozen.bindings()[0].warnings());
    assert_eq!(check(&frozen, &tool("notes", "add"), None), "allow none", "it is configured once, when it is loaded");
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;
    fn make_writer(&self) -> Self {
        self.clone()
    }
}

/// The lines that are logged meanwhile.
pub(super) fn logged(act: impl FnOnce()) -> Vec<String> {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(log.clone())
        .with_ansi(false)
        .with_max_level(tracing::Level::TRACE)
        .finish();
    tracing::subscriber::with_default(subscriber, act);
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn a_guests_log_lines_are_few_short_and_harmless() {
    // A line of 3 000 bytes that begins with an escape and a line break, a thousand times over.
    let floods_wat = "(local $left i32) (local.set $left (i32.const 1000))
         (memory.fill (i32.const 70000) (i32.const 97) (i32.const 3000))
         (i32.store16 (i32.const 70000) (i32.const 0x0a1b))
         (loop
           (call $log (i32.const 2) (i32.const 70000) (i32.const 3000))
           (br_if 0 (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
         $answer";
    let floods = around(allow(&json!({})), floods_wat).field(LOG);
    let dynamic = DynamicGuest::runs(floods_wat).field(LOG);
    for (form, set) in forms(&floods, &dynamic) {
        let lines = logged(|| assert_eq!(check(&set, &tool("notes", "add"), None), "allow none"));
        assert_eq!(lines.len(), 32, "{form}");
        for line in lines {
            let marked = line.contains("policy=\"one\"") && line.contains("decision=");
            assert!(line.contains(" WARN ") && marked, "{line}");
            assert!(line.len() < 2048 + 300, "{} bytes", line.len());
            assert!(line.contains(r"\u{1b}\naaaa"), "{line}");
        }
    }
}

#[test]
fn what_configure_logs_is_heard_when_it_is_loaded_and_not_at_every_call() {
    let talks = Body::Around(
        json!({ "ok": ["a warning"] }),
        "(call $log (i32.const 1) (local.get 0) (local.get 1)) $answer".to_owned(),
    );
    let guest = Guest::new().configure(talks).answers(Hook::ToolCall, allow(&json!({}))).field(LOG);
    let mut set = None;
    let lines =
        logged(|| set = Some(load(vec![bind("one", &guest).with(|binding| binding.config = json!({ "k": 1 }))])));
    assert!(
        matches!(&lines[..], [line] if line.contains(r#"{"k":1}"#) && line.contains("decision=\"load\"")),
        "{lines:?}"
    );
    let set = set.unwrap();
    assert_eq!(set.bindings()[0].warnings(), ["a warning"]);
    assert!(logged(|| assert_eq!(check(&set, &tool("notes", "add"), None), "allow none")).is_empty());
}

#[test]
fn a_log_line_that_is_no_text_is_a_failure() {
    let guest = around(
        allow(&json!({})),
        "(i32.store8 (i32.const 512) (i32.const 255)) (call $log (i32.const 0) (i32.const 512) (i32.const 1)) $answer",
    )
    .field(LOG);
    assert_eq!(failure(&load(vec![bind("one", &guest)])).code(), "invalid-answer");
}

#[test]
fn a_failure_is_told_with_its_policy_its_module_and_its_reason() {
    let guest = runs("(call $boom)").field("(func $boom (result i32) unreachable)");
    let set = load(vec![bind("one", &guest)]);
    let lines = logged(|| drop(check(&set, &tool("notes", "add"), None)));
    let [line] = &lines[..] else { panic!("{lines:?}") };
    for part in ["WARN", "policy=\"one\"", "hook=\"tool-call\"", "unreachable", &*set.bindings()[0].module().digest] {
        assert!(line.contains(part), "{part} in {line}");
    }
}

#[test]
fn the_fixtures_for_black_box_tests_fail_as_they_are_meant_to() {
    for (name, wat, expected) in [
        ("loops", include_str!("../../../../tests/fixtures/policies/loops.wat"), "timeout"),
        ("recurses", include_str!("../../../../tests/fixtures/policies/recurses.wat"), "stack-overflow"),
        ("grows", include_str!("../../../../tests/fixtures/policies/grows.wat"), "memory-limit"),
        ("traps", include_str!("../../../../tests/fixtures/policies/traps.wat"), "trap"),
        ("rubbish", include_str!("../../../../tests/fixtures/policies/rubbish.wat"), "invalid-answer"),
    ] {
        let bound = bind_bytes(name, wat::parse_str(wat).unwrap());
        let set = load(vec![bound.with(|binding| binding.time = Duration::from_millis(50))]);
        assert_eq!(failure(&set).code(), expected, "{name}");
        let caller = caller();
        let visible = now(set.filter(&context(&caller), &[tool("notes", "add")])).0.unwrap();
        assert_eq!(visible.len(), 1, "{name} is about calls alone");
        drop(call(&tool("notes", "add"), None));
    }
    let wasi = include_str!("../../../../tests/fixtures/policies/imports-wasi.wat");
    let errors = try_load(vec![bind_bytes("wasi", wat::parse_str(wasi).unwrap())]).unwrap_err();
    assert!(errors.to_string().contains("wasi_unstable.fd_write"), "{errors}");
}
