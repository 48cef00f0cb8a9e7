//! What policies import: granted, answered, written down and answered again.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::guest::{Body, Guest, allow, deny};
use super::scene::engine;
use crate::config::{Grant, Reuse, Sets};
use crate::env::{Clock, Entropy, Env, Timestamp};
use crate::ids::BindingName;
use crate::policy::counters::{Charges, Counters};
use crate::policy::imports::{ImportCall, Imports, Transcript};
use crate::policy::instance::Run;
use crate::policy::prepared::{Preparation, PrepareError, Prepared};
use crate::policy::rehearsal::Rehearsal;
use crate::policy::{Engine, Failure, Hook, InstanceMode, Module};

const CLOCK: &str = r#"(import "portcullis:policy/clock@0.1.0" "now-ms" (func $now (result i64)))"#;
const RANDOM: &str = r#"(import "portcullis:policy/random@0.1.0" "bytes" (func $random (param i32 i32)))"#;
const COUNTERS: &str =
    r#"(import "portcullis:policy/counters@0.1.0" "take" (func $take (param i32 i32 i32 i64 i64 i32)))"#;
const SETS: &str =
    r#"(import "portcullis:policy/sets@0.1.0" "contains" (func $contains (param i32 i32 i32 i32) (result i32)))"#;
/// Two words to ask about.
const WORDS: &str = r#"(data (i32.const 512) "key friends")"#;
/// Takes 1 of 2 within a minute; the usage is at 600.
const TAKE: &str =
    "(call $take (i32.const 512) (i32.const 3) (i32.const 1) (i64.const 2) (i64.const 60000) (i32.const 600))";

/// A guest that is granted everything and abstains if the condition holds when it is asked, else denies.
fn asks(imports: &str, condition: &str) -> Guest {
    let body = format!("(if {condition} (then (i32.store8 $answer (i32.const 0)))) $answer");
    Guest::new()
        .hook(Hook::ToolCall, Body::Around(deny("no"), body))
        .manifest("capabilities", json!(["clock", "random", "counters", "sets"]))
        .manifest("determinism", json!("stateful"))
        .field(imports)
        .field(WORDS)
}

fn prepare_in(engine: &Engine, guest: &Guest, reuse: Reuse) -> Result<Prepared, PrepareError> {
    let module = Module::load(engine, &guest.core()).unwrap();
    assert_eq!(module.manifest().capabilities, Grant::ALL);
    let (config, sets) = ("{}".into(), Arc::default());
    let preparation = Preparation { policy: "one", config: &config, memory_bytes: 4 << 20, reuse, sets: &sets };
    module.prepare(&preparation).map(|ready| ready.prepared)
}

fn prepare(guest: &Guest) -> Prepared {
    let prepared = prepare_in(engine(), guest, Reuse::Auto).unwrap();
    assert_eq!(prepared.mode(), InstanceMode::Frozen, "what is imported does not stand in the way of freezing");
    prepared
}

fn rehearsal(sets: &Arc<Sets>) -> Rehearsal {
    Rehearsal::new("one", sets, Duration::from_secs(2), 4 << 20)
}

/// What the guest says: whether its condition held.
fn holds(prepared: &Prepared, run: &Run<'_>) -> Result<bool, Failure> {
    prepared.ask_json(Hook::ToolCall, "{}", run).map(|answer| answer == json!("abstain"))
}

#[test]
fn a_decision_is_charged_once_and_the_next_one_again() {
    let twice = format!("(block (result i32) {TAKE} {TAKE} (i32.load8_u (i32.const 600)))");
    let prepared = prepare(&asks(COUNTERS, &twice));
    let counters = Counters::default().of(&BindingName::parse("one").unwrap());
    let sets = Arc::default();
    let rehearsal = rehearsal(&sets);
    let decide = |charges: &Charges, shadow, now| {
        let now = Timestamp::from_millis(now);
        let run = Run { counters: Some(&counters), charges, shadow, now, ..rehearsal.run() };
        holds(&prepared, &run).unwrap()
    };
    let next = |now| decide(&Charges::default(), false, now);
    assert_eq!([next(1), next(9_000), next(9_001)], [true, true, false]);
    assert_eq!(
        [true; 3].map(|shadow| decide(&Charges::default(), shadow, 9_001)),
        [true, true, false],
        "shadows count apart"
    );
    assert!(!next(60_000));
    assert!(next(60_001), "what was taken first is out of the window");
    let retried = Charges::already_charged();
    assert_eq!([decide(&retried, false, 60_001), decide(&retried, false, 60_002)], [true; 2]);
    let charges = Charges::default();
    assert!(!charges.any());
    assert!(!decide(&charges, false, 60_001) && charges.any());
}

#[test]
fn sets_are_the_operators() {
    let asks_set = "(call $contains (i32.const 516) (i32.const 7) (i32.const 512) (i32.const 3))";
    let prepared = prepare(&asks(SETS, asks_set));
    let with = |set: &str, item: &str| {
        let items = [item.to_owned()].into_iter().collect();
        Arc::new(Sets::new([(set.to_owned(), items)].into_iter().collect()))
    };
    for (sets, expected) in [
        (Arc::default(), false),
        (with("friends", "key"), true),
        (with("friends", "other"), false),
        (with("others", "key"), false),
    ] {
        let rehearsal = rehearsal(&sets);
        assert_eq!(holds(&prepared, &rehearsal.run()), Ok(expected), "{sets:?}");
    }
}

struct Standing;

impl Clock for Standing {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(1_234_567)
    }
}

impl Entropy for Standing {
    fn fill(&self, bytes: &mut [u8]) {
        bytes.fill(0xa5);
    }
}

#[test]
fn time_and_randomness_are_the_gateways() {
    let env = Env { clock: Arc::new(Standing), entropy: Arc::new(Standing) };
    let engine = Engine::start_with(1, env, None).unwrap();
    let sets = Arc::default();
    let rehearsal = rehearsal(&sets);
    let bytes = "(block (result i32) (call $random (i32.const 4096) (i32.const 600))
        (i32.and (i32.eq (i32.load (i32.const 604)) (i32.const 4096))
                 (i32.eq (i32.load offset=4092 (i32.load (i32.const 600))) (i32.const 0xa5a5a5a5))))";
    for (imports, condition) in [(CLOCK, "(i64.eq (call $now) (i64.const 1234567))"), (RANDOM, bytes)] {
        let prepared = prepare_in(&engine, &asks(imports, condition), Reuse::Auto).unwrap();
        assert_eq!(holds(&prepared, &rehearsal.run()), Ok(true), "{imports}");
    }
}

#[test]
fn what_is_beyond_bounds_ends_the_run() {
    let sets = Arc::default();
    let rehearsal = rehearsal(&sets);
    let take = |length: u32, period: u64| {
        format!(
            "(block (result i32) (call $take (i32.const 512) (i32.const {length}) (i32.const 1) (i64.const 2)
               (i64.const {period}) (i32.const 600)) (i32.const 1))"
        )
    };
    let random = "(block (result i32) (call $random (i32.const 4097) (i32.const 600)) (i32.const 1))".to_owned();
    for (imports, condition, expected) in [
        (RANDOM, random, "random.bytes: 4097 bytes at once are more than 4096"),
        (COUNTERS, take(257, 1), "counters.take: a key has at most 256 bytes"),
        (COUNTERS, take(3, 1 << 40), "counters.take: a period has at most 2678400000 ms, which is 31 days"),
    ] {
        let failure = holds(&prepare(&asks(imports, &condition)), &rehearsal.run());
        assert_eq!(failure, Err(Failure::Trap { message: expected.to_owned() }));
    }
}

#[test]
fn nothing_but_the_log_is_available_while_a_policy_is_configured_or_describes_itself() {
    for (imports, call, name) in [
        (CLOCK, "(drop (call $now))", "clock.now-ms"),
        (RANDOM, "(call $random (i32.const 8) (i32.const 600))", "random.bytes"),
        (COUNTERS, TAKE, "counters.take"),
        (SETS, "(drop (call $contains (i32.const 516) (i32.const 7) (i32.const 512) (i32.const 3)))", "sets.contains"),
    ] {
        let unavailable = Failure::Unavailable { import: name };
        let guest =
            asks(imports, "(i32.const 1)").configure(Body::Around(json!({ "ok": [] }), format!("{call} $answer")));
        for reuse in [Reuse::Auto, Reuse::Frozen, Reuse::Fresh] {
            match prepare_in(engine(), &guest, reuse) {
                Err(PrepareError::Failed(failure)) => assert_eq!(failure, unavailable, "{reuse:?}"),
                other => panic!("{name} {reuse:?}: {other:?}"),
            }
        }
        let describes = asks(imports, "(i32.const 1)").describe(&format!("{call} unreachable"));
        let error = Module::load(engine(), &describes.core()).unwrap_err();
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert_eq!(cause, format!("it asked for {name}, which is not available while it is configured"));
    }
}

#[test]
fn what_imports_answered_is_written_down_and_answers_again() {
    let everything = format!(
        "(block (result i32) {TAKE} (call $random (i32.const 4) (i32.const 640))
           (i32.store8 (i32.load (i32.const 640)) (i32.const 0))
           (i32.and (i64.gt_u (call $now) (i64.const 1000))
             (i32.and (i32.load8_u (i32.const 600))
               (call $contains (i32.const 516) (i32.const 7) (i32.const 512) (i32.const 3)))))"
    );
    let prepared = prepare(&asks(&[CLOCK, RANDOM, COUNTERS, SETS].concat(), &everything));
    let items = ["key".to_owned()].into_iter().collect();
    let with = Arc::new(Sets::new([("friends".to_owned(), items)].into_iter().collect()));
    let counters = Counters::default().of(&BindingName::parse("one").unwrap());
    let recorded = Transcript::default();
    let (first, charges) = (rehearsal(&with), Charges::default());
    let run =
        Run { counters: Some(&counters), charges: &charges, imports: Imports::Recorded(&recorded), ..first.run() };
    assert_eq!(holds(&prepared, &run), Ok(true));
    let calls = recorded.calls();
    let names: Vec<&str> = calls.iter().map(|call| call.import.as_str()).collect();
    assert_eq!(names, ["counters.take", "random.bytes", "clock.now-ms", "sets.contains"]);
    assert_eq!(calls[0].asked, json!({ "key": "key", "cost": 1, "limit": 2, "period_ms": 60000 }));
    assert_eq!(calls[0].answer, json!({ "allowed": true, "remaining": 1, "retry_after_ms": 0 }));
    assert_eq!(calls[1].answer.as_str().map(str::len), Some(8), "bytes are written in hex");
    assert_eq!((&calls[3].asked, &calls[3].answer), (&json!({ "set": "friends", "item": "key" }), &json!(true)));
    assert!(!recorded.is_cut());
    let text = serde_json::to_string(&calls).unwrap();
    let read: Vec<ImportCall> = serde_json::from_str(&text).unwrap();
    assert_eq!(read, calls);

    // Elsewhere, without the set and with other counters, it is as it was.
    let nothing = Arc::default();
    let elsewhere = rehearsal(&nothing);
    let replay = |calls: Vec<ImportCall>| {
        let transcript = Transcript::of(calls);
        let charges = Charges::default();
        let run = Run { counters: None, charges: &charges, imports: Imports::Replayed(&transcript), ..elsewhere.run() };
        let held = holds(&prepared, &run);
        (held, transcript.calls().len())
    };
    assert_eq!(replay(read), (Ok(true), 0));
    let changed = |at: usize, change: fn(&mut ImportCall)| {
        let mut calls = calls.clone();
        change(&mut calls[at]);
        replay(calls).0
    };
    assert_eq!(changed(3, |call| call.answer = json!(false)), Ok(false), "the answer is the recording's");
    let diverged = |what: &str| Err(Failure::Diverged { what: what.to_owned() });
    assert_eq!(replay(calls[..3].to_vec()).0, diverged("it asks for sets.contains once more than it did"));
    assert_eq!(
        changed(3, |call| call.import = "clock.now-ms".to_owned()),
        diverged(r#"it asks for sets.contains {"item":"key","set":"friends"} where it asked for clock.now-ms"#)
    );
    assert!(matches!(changed(0, |call| call.asked["key"] = json!("other")), Err(Failure::Diverged { .. })));
    for wrong in [json!(null), json!("zz"), json!("00")] {
        let mut calls = calls.clone();
        calls[1].answer = wrong;
        assert_eq!(replay(calls).0, diverged("the recorded answer of random.bytes cannot be read"));
    }
}

#[test]
fn a_refusal_of_an_import_is_written_down_too() {
    let five = "(call $take (i32.const 512) (i32.const 3) (i32.const 1) (i64.const 2) (i64.const 99999999999) (i32.const 600))";
    let prepared = prepare(&asks(COUNTERS, &format!("(block (result i32) {five} (i32.const 1))")));
    let (recorded, sets) = (Transcript::default(), Arc::default());
    let rehearsal = rehearsal(&sets);
    let failed = holds(&prepared, &Run { imports: Imports::Recorded(&recorded), ..rehearsal.run() });
    assert!(matches!(failed, Err(Failure::Trap { .. })), "{failed:?}");
    let replayed = Transcript::of(recorded.calls());
    let again = holds(&prepared, &Run { imports: Imports::Replayed(&replayed), ..rehearsal.run() });
    assert_eq!(failed, again);
}

#[test]
fn a_transcript_is_bounded() {
    let floods = "(block (result i32)
        (local.set 1 (i32.const 2000))
        (loop (drop (call $now)) (br_if 0 (local.tee 1 (i32.sub (local.get 1) (i32.const 1)))))
        (i32.const 1))";
    let body = format!("(local i32) (if {floods} (then (i32.store8 $answer (i32.const 0)))) $answer");
    let guest = Guest::new()
        .hook(Hook::ToolCall, Body::Around(allow(&json!({})), body))
        .manifest("capabilities", json!(["clock", "random", "counters", "sets"]))
        .manifest("determinism", json!("stateful"))
        .field(CLOCK);
    let prepared = prepare(&guest);
    let (recorded, sets) = (Transcript::default(), Arc::default());
    let rehearsal = rehearsal(&sets);
    assert_eq!(holds(&prepared, &Run { imports: Imports::Recorded(&recorded), ..rehearsal.run() }), Ok(true));
    assert!(recorded.is_cut());
    assert_eq!(recorded.calls().len(), 1024);
    let first: &Value = &recorded.calls()[0].answer;
    assert!(first.as_u64().is_some());
}
