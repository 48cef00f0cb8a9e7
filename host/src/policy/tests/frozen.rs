//! Frozen policies, and those that cannot be: what a policy keeps of its configuration, and what it does not keep.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::guest::{Body, DynamicGuest, Guest, Text, allow, deny};
use super::scene::{bind, bind_bytes, check, engine, load, tool, try_load};
use crate::config::{Reuse, Sets};
use crate::policy::contract::manifest::Case;
use crate::policy::freeze::{self, Reason};
use crate::policy::prepared::{Preparation, PrepareError, Prepared, Ready};
use crate::policy::rehearsal::Rehearsal;
use crate::policy::{Failure, Hook, InstanceMode, Module};

fn prepare(module: &Module, config: &Value, reuse: Reuse) -> Result<Ready, PrepareError> {
    let (config, sets) = (config.to_string().into(), Arc::default());
    let memory_bytes = if module.is_large() { 128 << 20 } else { 16 << 20 };
    module.prepare(&Preparation { policy: "one", config: &config, memory_bytes, reuse, sets: &sets })
}

fn rehearsal() -> Rehearsal {
    Rehearsal::new("one", &Arc::<Sets>::default(), Duration::from_secs(5), 128 << 20)
}

fn ask(prepared: &Prepared, hook: Hook, input: &str) -> Result<Value, Failure> {
    prepared.ask_json(hook, input, &rehearsal().run())
}

/// Remembers the second byte of its configuration, and how often it was configured; then denies calls unless that byte
/// is `"` and once is how often. Whatever it counts of calls must not be there at the next.
fn remembers() -> Guest {
    let configure = "(i32.store8 (i32.const 600) (i32.load8_u offset=1 (local.get 0)))
        (global.set $configured (i32.add (global.get $configured) (i32.const 1))) $answer";
    let call = "(if (i32.ne (i32.load8_u (i32.const 600)) (i32.const 34)) (then (return $answer)))
        (if (i32.ne (global.get $configured) (i32.const 1)) (then (return $answer)))
        (global.set $calls (i32.add (global.get $calls) (i32.const 1)))
        (if (i32.ne (global.get $calls) (i32.const 1)) (then (return $answer)))
        (i32.store8 $answer (i32.const 0)) $answer";
    Guest::new()
        .configure(Body::Around(json!({ "ok": ["heard"] }), configure.to_owned()))
        .hook(Hook::ToolCall, Body::Around(deny("no"), call.to_owned()))
        .field("(global $configured (mut i32) (i32.const 0)) (global $calls (mut i32) (i32.const 0))")
}

#[test]
fn what_a_policy_is_configured_with_is_there_and_what_calls_leave_is_not() {
    let module = Module::load(engine(), &remembers().core()).unwrap();
    for (reuse, mode) in [
        (Reuse::Auto, InstanceMode::Frozen),
        (Reuse::Frozen, InstanceMode::Frozen),
        (Reuse::Fresh, InstanceMode::Fresh),
    ] {
        let ready = prepare(&module, &json!({ "k": 1 }), reuse).unwrap();
        assert_eq!((ready.prepared.mode(), &ready.warnings[..]), (mode, &["heard".to_owned()][..]));
        assert!(ready.remarks.is_empty(), "{:?}", ready.remarks);
        for _ in 0..20 {
            assert_eq!(ask(&ready.prepared, Hook::ToolCall, "{}"), Ok(json!("abstain")), "{mode}");
        }
        let other = prepare(&module, &json!({}), reuse).unwrap();
        let answer = ask(&other.prepared, Hook::ToolCall, "{}").unwrap();
        assert_eq!(answer["deny"]["reason"]["code"], "no", "{mode}: each configuration has its own state");
    }
    assert_eq!(
        ask(&prepare(&module, &json!({ "k": 1 }), Reuse::Auto).unwrap().prepared, Hook::ToolCall, "{}"),
        Ok(json!("abstain"))
    );
}

#[test]
fn an_unchanged_configuration_is_not_frozen_again() {
    let module = Module::load(engine(), &remembers().core()).unwrap();
    let first = prepare(&module, &json!({ "k": 1 }), Reuse::Auto).unwrap();
    let again = prepare(&module, &json!({ "k": 1 }), Reuse::Auto).unwrap();
    assert!(first.prepared.is_same_as(&again.prepared));
    assert_eq!(again.warnings, ["heard"]);
    first.prepared.note_timeout();
    assert!(first.prepared.is_slow() && !again.prepared.is_slow(), "how slow it was is of one generation");
    let other = prepare(&module, &json!({ "k": 1 }), Reuse::Fresh).unwrap();
    assert!(!first.prepared.is_same_as(&other.prepared));
    drop((first, again, other));
    let later = prepare(&module, &json!({ "other": 1 }), Reuse::Auto).unwrap();
    drop(later);
    assert!(module.remembers() <= 1, "what nobody uses any more is dropped");
}

#[test]
fn what_cannot_be_frozen_is_configured_anew_and_says_so() {
    let allows = || Guest::new().answers(Hook::ToolCall, allow(&json!({})));
    let bounded = allows().wat().replace("(memory (export \"memory\") 2)", "(memory (export \"memory\") 2 2)");
    let reference = "(global $f (mut funcref) (ref.null func))";
    for (what, module, reason) in [
        (
            "a table that grows",
            allows().field("(table $t 1 funcref) (func (drop (table.grow $t (ref.null func) (i32.const 1))))").core(),
            "table.grow",
        ),
        (
            "a table that is written",
            allows().field("(table $t 1 funcref) (func (table.set $t (i32.const 0) (ref.null func)))").core(),
            "table.set",
        ),
        ("data that is dropped", allows().field("(data $d \"x\") (func (data.drop $d))").core(), "data.drop"),
        ("a reference in a global", allows().field(reference).core(), "reference type"),
        ("memory that cannot grow", wat::parse_str(&bounded).unwrap(), "unreachable"),
    ] {
        let bound = |reuse| bind_bytes("one", module.clone()).with(|binding| binding.reuse = reuse);
        let set = load(vec![bound(Reuse::Auto)]);
        assert_eq!(set.bindings()[0].instances(), InstanceMode::Fresh, "{what}");
        let [remark] = set.bindings()[0].remarks() else { panic!("{what}: {:?}", set.bindings()[0].remarks()) };
        assert!(remark.starts_with("it cannot be frozen and is configured anew for each call: "), "{remark}");
        assert!(remark.contains(reason), "{what}: {remark}");
        assert_eq!(check(&set, &tool("notes", "add"), None), "allow none", "{what}");
        let errors = try_load(vec![bound(Reuse::Frozen)]).unwrap_err().to_string();
        assert!(errors.contains("it cannot be frozen: ") && errors.contains(reason), "{what}: {errors}");
    }
}

#[test]
fn freezing_is_held_to_the_memory_of_the_policy() {
    // Takes 1 MiB when it is configured.
    let takes = Body::Around(json!({ "ok": [] }), "(drop (memory.grow (i32.const 16))) $answer".to_owned());
    let guest = Guest::new().configure(takes).answers(Hook::ToolCall, allow(&json!({})));
    let bound = |bytes| bind("one", &guest).with(|binding| binding.memory_bytes = bytes);
    let enough = load(vec![bound(18 << 16)]);
    assert_eq!(enough.bindings()[0].instances(), InstanceMode::Frozen);
    assert_eq!(check(&enough, &tool("notes", "add"), None), "allow none");
    let errors = try_load(vec![bound((18 << 16) - 1)]).unwrap_err().to_string();
    assert!(errors.contains("it wanted more than its 1179647 bytes of memory"), "{errors}");
}

#[test]
fn a_configuration_that_is_refused_or_fails_is_told_in_every_mode() {
    let typed = |configure: Body| Guest::new().configure(configure).answers(Hook::ToolCall, allow(&json!({}))).core();
    let refused = json!([{ "path": "/a", "message": "no" }]);
    let dynamic = DynamicGuest::new(&[Hook::ToolCall]);
    for (module, expected) in [
        (typed(Body::Answer(json!({ "err": refused }))), "it refuses its configuration: /a: no"),
        (dynamic.clone().configure(Text::Err(refused.to_string())).core(), "it refuses its configuration: /a: no"),
        (typed(Body::Wat("unreachable".to_owned())), "it fails on its configuration: it trapped"),
        (dynamic.clone().configure(Text::Ok("oops".to_owned())).core(), "its list of warnings cannot be read"),
        (dynamic.configure(Text::Err("{}".to_owned())).core(), "its list of problems cannot be read"),
        (typed(Body::Wat("(loop (br 0)) unreachable".to_owned())), "it ran longer than its 2000 ms"),
    ] {
        for reuse in [Reuse::Auto, Reuse::Frozen, Reuse::Fresh] {
            let errors = try_load(vec![bind_bytes("one", module.clone()).with(|binding| binding.reuse = reuse)]);
            let errors = errors.unwrap_err().to_string();
            assert!(errors.contains(expected), "{reuse:?}: {errors}");
        }
    }
}

#[test]
fn a_frozen_form_that_answers_otherwise_is_found_out() {
    let prepared = |guest: &Guest| {
        let module = Module::load(engine(), &guest.core()).unwrap();
        prepare(&module, &json!({}), Reuse::Fresh).unwrap().prepared
    };
    // Denies calls of tools that have arguments.
    let told = super::guest::echo(Hook::ToolCall, &["request", "arguments"], true);
    let (one, other) = (prepared(&told), prepared(&Guest::new().answers(Hook::ToolCall, deny("other"))));
    let traps = prepared(&Guest::new().runs(Hook::ToolCall, "unreachable"));
    let case = |input: &str| Case {
        name: "one".to_owned(),
        config: "{}".to_owned(),
        hook: Hook::ToolCall,
        input: input.to_owned(),
        expect: "null".to_owned(),
    };
    let agree = |cases: &[Case], one: &Prepared, other: &Prepared| {
        freeze::agree(&[Hook::ToolCall], cases, one, other, &rehearsal())
    };
    assert_eq!(agree(&[], &one, &one), Ok(()));
    let otherwise = Err(Reason("frozen, it does not answer tool-call as it does otherwise".to_owned()));
    assert_eq!(agree(&[], &one, &other), otherwise);
    assert_eq!(agree(&[], &traps, &traps), Ok(()), "two failures of a kind agree");
    assert_eq!(agree(&[], &one, &traps), otherwise);
    // Where the least that can be asked does not tell them apart, the module's own cases may.
    let silent = prepared(&Guest::new().answers(
        Hook::ToolCall,
        json!({ "deny": { "reason": { "code": "echo", "message": "-" }, "as-tool-error": true } }),
    ));
    assert_eq!(agree(&[], &one, &silent), Ok(()));
    assert_eq!(agree(&[case(r#"{"request":{"arguments":{"a":1}}}"#)], &one, &silent), otherwise);
}

/// What is shipped answers frozen as it does otherwise, case by case.
#[test]
fn shipped_policies_answer_frozen_as_they_do_otherwise() {
    const MAX_CONFIGURATIONS: usize = 2;
    let mut compared = 0;
    for (name, bytes) in crate::builtin::MODULES {
        let module = Module::load(engine(), bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        let cases = module.self_tests().unwrap();
        let mut configurations: Vec<&str> = cases.iter().map(|case| &*case.config).collect();
        configurations.sort_unstable();
        configurations.dedup();
        for config in configurations.into_iter().take(MAX_CONFIGURATIONS) {
            let value: Value = serde_json::from_str(config).unwrap();
            let [frozen, fresh] = [Reuse::Frozen, Reuse::Fresh].map(|reuse| {
                let ready =
                    prepare(&module, &value, reuse).unwrap_or_else(|error| panic!("{name} {config}: {error:?}"));
                ready.prepared
            });
            assert_eq!((frozen.mode(), fresh.mode()), (InstanceMode::Frozen, InstanceMode::Fresh));
            for case in cases.iter().filter(|case| case.config == config) {
                let answers = [&frozen, &fresh].map(|prepared| ask(prepared, case.hook, &case.input));
                assert_eq!(answers[0], answers[1], "{name}, {}", case.name);
                compared += 1;
            }
        }
    }
    assert!(compared > 10, "the shipped policies bring {compared} cases along");
}

/// A module that is large for no other reason than its number of tables. It says how many calls it has seen, and traps
/// at the one that its configuration says.
fn large() -> Guest {
    // The sixth byte of `{"k":3}` is that number. A throttle begins with its wait, 8 bytes into the verdict.
    let configure = "(i32.store (i32.const 604) (i32.sub (i32.load8_u offset=5 (local.get 0)) (i32.const 48))) $answer";
    let counts = "(global.set $calls (i32.add (global.get $calls) (i32.const 1)))
        (if (i32.eq (global.get $calls) (i32.load (i32.const 604))) (then unreachable))
        (i32.store offset=8 $answer (global.get $calls)) $answer";
    let reason = json!({ "code": "calls", "message": "" });
    let throttle = json!({ "throttle": { "retry-after-ms": 0, "bucket": "", "reason": reason } });
    Guest::new()
        .configure(Body::Around(json!({ "ok": [] }), configure.to_owned()))
        .hook(Hook::ToolCall, Body::Around(throttle, counts.to_owned()))
        .field("(global $calls (mut i32) (i32.const 0))")
        .field(&"(table 1 funcref)".repeat(9))
}

#[test]
fn warm_instances_are_for_large_modules_and_end_after_a_number_of_uses_or_a_failure() {
    let module = Module::load(engine(), &large().core()).unwrap();
    assert!(module.is_large());
    let calls = |prepared: &Prepared| {
        ask(prepared, Hook::ToolCall, "{}").map(|answer| answer["throttle"]["retry_after_ms"].as_u64().unwrap())
    };
    let auto = prepare(&module, &json!({ "k": 0 }), Reuse::Auto).unwrap().prepared;
    assert_eq!(auto.mode(), InstanceMode::Frozen);
    assert_eq!([calls(&auto), calls(&auto)], [Ok(1), Ok(1)]);
    let warm = prepare(&module, &json!({ "k": 0 }), Reuse::Warm).unwrap().prepared;
    assert_eq!(warm.mode(), InstanceMode::Warm);
    for uses in 1..=1000 {
        assert_eq!(calls(&warm), Ok(uses));
    }
    assert_eq!(calls(&warm), Ok(1), "after so many uses there is a new instance");
    let fails = prepare(&module, &json!({ "k": 3 }), Reuse::Warm).unwrap().prepared;
    let told: Vec<_> = (0..5).map(|_| calls(&fails).map_err(|failure| failure.code())).collect();
    assert_eq!(told, [Ok(1), Ok(2), Err("trap"), Ok(1), Ok(2)], "what failed is not used again");
    let small = Module::load(engine(), &remembers().core()).unwrap();
    assert!(matches!(prepare(&small, &json!({}), Reuse::Warm), Err(PrepareError::WarmIsForLargeModules)));
}
