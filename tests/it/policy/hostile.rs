//! Bad policies: those that load and then loop, recurse, grow, trap or answer rubbish refuse what they are asked about,
//! in bounded time, and nothing else; those that cannot be loaded are refused by name.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use portcullis::StartError;
use portcullis_tests::gateway::Builder;
use portcullis_tests::upstreams::fixture::Fixture;
use portcullis_tests::{Gateway, TestClock};
use serde_json::json;
use tempfile::TempDir;

use super::{binding, call, listed, of_each_revision, refusal, shipped, structured};

/// The guests that misbehave in `tool-call`, and the word for what becomes of them.
const GUESTS: [(&str, &str, &str); 5] = [
    ("loops", include_str!("../../fixtures/policies/loops.wat"), "timeout"),
    ("recurses", include_str!("../../fixtures/policies/recurses.wat"), "stack-overflow"),
    ("grows", include_str!("../../fixtures/policies/grows.wat"), "memory-limit"),
    ("traps", include_str!("../../fixtures/policies/traps.wat"), "trap"),
    ("rubbish", include_str!("../../fixtures/policies/rubbish.wat"), "invalid-answer"),
];
const IMPORTS_WASI: &str = include_str!("../../fixtures/policies/imports-wasi.wat");

/// What may pass until a caller knows, on a busy machine.
const BOUND: Duration = Duration::from_secs(10);

fn module(wat: &str) -> Vec<u8> {
    wat::parse_str(wat).unwrap()
}

/// The same guest with its one hook in another place. The three hooks have the same type at this level, a pointer in
/// and a pointer out, and the last byte of the guest's data says in its manifest which of them it has.
fn moved(wat: &str, interface: &str, function: &str, hook: &str) -> String {
    let exported = wat.replace("tool-call@0.1.0#before", &format!("{interface}@0.1.0#{function}"));
    let moved = exported.replace(r#"{}\06")"#, &format!(r#"{{}}{hook}")"#));
    assert!(moved != exported && exported != wat, "the guest is not as it was");
    moved
}

fn in_list(wat: &str) -> String {
    moved(wat, "list-tools", "filter", r"\04")
}

fn in_result(wat: &str) -> String {
    moved(wat, "tool-result", "after", r"\07")
}

/// An upstream for each guest, guarded by it, and one of the name `good`, guarded by one that objects to nothing.
fn guarded(fixture: &Fixture, change: impl Fn(&str) -> String) -> Builder {
    let good = binding("good", "good.wasm", "match = { upstreams = [\"good\"] }");
    let builder = Gateway::builder().section("[policy]\nwhen_all_abstain = \"allow\"").key("ci");
    let builder = builder.http_upstream("good", &fixture.url).section(&good).file("good.wasm", &abstains());
    GUESTS.iter().fold(builder, |builder, (name, wat, code)| {
        let (file, matches) = (format!("{name}.wasm"), format!("match = {{ upstreams = [\"{name}\"] }}"));
        let section = match *code {
            // The default time, since it will be used up.
            "timeout" => format!("[[policies]]\nname = \"{name}\"\nmodule = \"{file}\"\n{matches}"),
            _ => binding(name, &file, &matches),
        };
        builder.http_upstream(name, &fixture.url).section(&section).file(&file, &module(&change(wat)))
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_policy_refuses_the_calls_it_is_asked_about_and_no_others() {
    let fixture = Fixture::start().await;
    let gateway = guarded(&fixture, str::to_owned).start().await;
    for caller in of_each_revision(&gateway, "ci").await {
        let before = fixture.stats().calls;
        for (name, _, code) in GUESTS {
            let began = Instant::now();
            let (sentence, machine) = refusal(&call(&caller, &format!("{name}__echo"), json!({})).await);
            assert!(began.elapsed() < BOUND, "{name} took {:?}", began.elapsed());
            assert_eq!(machine, json!({ "check": "policy-failed", "policy": name, "code": code }), "{sentence}");
            assert!(sentence.contains(&format!("policy {name} failed")), "{sentence}");
        }
        assert_eq!(fixture.stats().calls, before, "the upstream saw nothing of it");
        assert_eq!(structured(&call(&caller, "good__echo", json!({ "a": 1 })).await), json!({ "a": 1 }));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_calls_at_once_into_each_bad_policy_harm_no_other() {
    let fixture = Fixture::start().await;
    let gateway = guarded(&fixture, str::to_owned).start().await;
    let caller = gateway.caller("ci");
    let mut busy = 0;
    for (name, _, code) in GUESTS {
        let began = Instant::now();
        let tool = format!("{name}__echo");
        let bad = join_all((0..50).map(|_| call(&caller, &tool, json!({}))));
        let good = join_all((0..10).map(|number| call(&caller, "good__echo", json!({ "n": number }))));
        let (bad, good) = tokio::join!(bad, good);
        for reply in bad {
            // Who takes too long waits for its turn from then on, and not for ever.
            if code == "timeout" && reply.status == 429 {
                assert_eq!(reply.json()["error"]["data"]["refusal"]["code"], "busy", "{}", reply.text());
                busy += 1;
                continue;
            }
            assert_eq!(refusal(&reply).1["code"], code, "{name}: {}", reply.text());
        }
        for (number, reply) in good.iter().enumerate() {
            assert_eq!(structured(reply), json!({ "n": number }));
        }
        assert!(began.elapsed() < BOUND, "{name} took {:?}", began.elapsed());
    }
    let view = gateway.operator("GET", "/api/v1/policies", None).await.json();
    for row in view["bindings"].as_array().unwrap() {
        let expected = match row["name"].as_str().unwrap() {
            "good" => (json!(0), json!(false)),
            // For lack of room nobody is to blame.
            "loops" => (json!(50 - busy), json!(true)),
            _ => (json!(50), json!(true)),
        };
        assert_eq!((row["failures"].clone(), row["degraded"].clone()), expected, "{row}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_fails_on_a_list_hides_what_it_was_asked_about() {
    let fixture = Fixture::start().await;
    let gateway = guarded(&fixture, in_list).start().await;
    for caller in of_each_revision(&gateway, "ci").await {
        let began = Instant::now();
        let names = listed(&caller).await;
        assert!(began.elapsed() < BOUND, "the list took {:?}", began.elapsed());
        assert!(names.len() > 10 && names.iter().all(|name| name.starts_with("good__")), "{names:?}");
        for (name, _, code) in GUESTS {
            let (_, machine) = refusal(&call(&caller, &format!("{name}__echo"), json!({})).await);
            assert_eq!(machine, json!({ "check": "policy-failed", "policy": name, "code": code }));
        }
    }
    assert_eq!(fixture.stats().calls, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_fails_on_a_result_lets_nothing_of_it_out() {
    let fixture = Fixture::start().await;
    let gateway = guarded(&fixture, in_result).start().await;
    for caller in of_each_revision(&gateway, "ci").await {
        for (name, _, code) in GUESTS {
            let reply = call(&caller, &format!("{name}__echo"), json!({ "secret": "of the upstream" })).await;
            assert_eq!(refusal(&reply).1, json!({ "check": "policy-failed", "policy": name, "code": code }));
            assert!(!reply.text().contains("of the upstream"), "{}", reply.text());
        }
    }
}

#[tokio::test]
async fn a_failure_is_in_the_trail() {
    let fixture = Fixture::start().await;
    let gateway = guarded(&fixture, str::to_owned).start().await;
    call(&gateway.caller("ci"), "traps__echo", json!({})).await;
    let view = gateway.until("/api/v1/decisions?verdict=error", |view| view["decisions"][0].is_object()).await;
    let decision = &view["decisions"][0];
    assert_eq!((&decision["reason_code"], &decision["outcome"]), (&json!("trap"), &json!("refused")), "{decision}");
    assert_eq!(decision["steps"][0]["verdict"], "error");
}

/// A core module that has no opinion: the one that answers rubbish, with a verdict that exists.
fn abstains() -> Vec<u8> {
    let (_, rubbish, _) = GUESTS[4];
    module(&rubbish.replace(r"\ff\ff\ff\ff\ff\ff\ff\ff", r"\00\00\00\00\00\00\00\00"))
}

#[tokio::test]
async fn a_core_module_is_as_good_as_a_component() {
    let fixture = Fixture::start().await;
    let builder = || {
        Gateway::builder()
            .http_upstream("up", &fixture.url)
            .section(&binding("core", "core.wasm", ""))
            .file("core.wasm", &abstains())
            .key("ci")
    };
    let gateway = builder().section("[policy]\nwhen_all_abstain = \"allow\"").start().await;
    assert_eq!(structured(&call(&gateway.caller("ci"), "up__echo", json!({ "a": 1 })).await), json!({ "a": 1 }));
    let strict = builder().start().await;
    let (_, machine) = refusal(&call(&strict.caller("ci"), "up__echo", json!({})).await);
    assert_eq!(machine, json!({ "check": "no-policy-allowed" }));
}

/// Why a gateway with this module does not start, whole.
async fn refused(module: &[u8], more: &str) -> String {
    let builder =
        Gateway::builder().section(&binding("suspect", "suspect.wasm", more)).file("suspect.wasm", module).key("ci");
    let error: StartError = match builder.try_start(TempDir::new().unwrap(), TestClock::default()).await {
        Ok(_) => panic!("it started"),
        Err(error) => error,
    };
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[tokio::test]
async fn a_module_that_cannot_be_used_stops_the_start_and_is_named() {
    let (_, traps, _) = GUESTS[3];
    let in_describe = traps.replace(
        "(i32.const 1024))\n  (func (export \"portcullis:policy/configuration",
        "unreachable)\n  (func (export \"portcullis:policy/configuration",
    );
    let cases: [(&str, Vec<u8>, &str, &[&str]); 11] = [
        ("imports", module(IMPORTS_WASI), "", &["wasi_unstable"]),
        ("text", b"(module)".to_vec(), "", &["no WebAssembly"]),
        ("nothing", Vec::new(), "", &["no WebAssembly"]),
        ("half", shipped("allow-tools")[..50_000].to_vec(), "", &["malformed"]),
        ("no policy", module("(module (memory (export \"memory\") 1))"), "", &["portcullis:policy/"]),
        (
            "too much memory",
            module(&traps.replace("(memory (export \"memory\") 2)", "(memory (export \"memory\") 65536)")),
            "",
            &["memory"],
        ),
        ("traps when asked what it is", module(&in_describe), "", &["description"]),
        ("has a hook that does not exist", module(&moved(traps, "tool-dream", "before", r"\06 ")), "", &["tool-dream"]),
        (
            "mistake in a rule",
            shipped("allow-tools").to_vec(),
            "config = { rules = [{ tools = [\"*\"], action = \"maybe\" }] }",
            &["/rules/0/action"],
        ),
        ("never rewrites", abstains(), "allow_rewrite = true", &["allow_rewrite"]),
        (
            "another digest",
            shipped("allow-tools").to_vec(),
            &format!("digest = \"sha256:{}\"", "0".repeat(64)),
            &["SHA-256", &"0".repeat(64)],
        ),
    ];
    for (what, module, more, parts) in cases {
        let said = refused(&module, more).await;
        assert!(said.contains("suspect"), "{what}: {said}");
        assert!(parts.iter().all(|part| said.contains(part)), "{what}: {said}");
    }
}

#[tokio::test]
async fn everything_that_is_wrong_is_told_at_once() {
    let more = binding("other", "other.wasm", "config = { otherwize = 1 }");
    let builder =
        Gateway::builder().section(&binding("suspect", "suspect.wasm", "")).file("suspect.wasm", &module(IMPORTS_WASI));
    let builder = builder.section(&more).file("other.wasm", shipped("allow-tools"));
    let error =
        builder.try_start(TempDir::new().unwrap(), TestClock::default()).await.err().expect("it does not start");
    let said = std::error::Error::source(&error).expect("a cause").to_string();
    assert!(said.contains("policy suspect: ") && said.contains("policy other: "), "{said}");
}

#[tokio::test]
async fn a_digest_that_is_right_is_accepted() {
    let digest = portcullis::secret::Digest::of(&abstains()).to_hex();
    let section = binding("core", "core.wasm", &format!("digest = \"sha256:{digest}\""));
    let gateway = Gateway::builder().section(&section).file("core.wasm", &abstains()).start().await;
    let view = gateway.operator("GET", "/api/v1/policies", None).await.json();
    assert_eq!(view["bindings"][0]["digest"], digest);
}

#[tokio::test]
async fn more_memory_than_the_operator_gives_is_too_much() {
    let fixture = Fixture::start().await;
    let small = "limits = { memory = \"64KiB\" }";
    let section = format!("[[policies]]\nname = \"tools\"\nmodule = \"builtin:read-only\"\n{small}");
    let builder = Gateway::builder().http_upstream("up", &fixture.url).key("ci").section(&section);
    let started = builder.try_start(TempDir::new().unwrap(), TestClock::default()).await;
    let error = started.err().expect("it does not start");
    let said = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    assert!(said.contains("tools") && said.contains("memory"), "{said}");
}
