//! Which policies come into force, which do not, and how one goes back: self-tests, signatures and digests at the gate,
//! generations, rollback, and many swaps while calls run.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use portcullis::config::{Signatures, TrustedKey};
use portcullis::policy::signature::{SignatureFile, SigningKey};
use portcullis::secret::Digest;
use portcullis_tests::Gateway;
use portcullis_tests::upstreams::fixture::Fixture;
use serde_json::{Value, json};

use super::reload::{code, configuration, denies, generation, policies, until_after, until_event};
use super::{binding, call};
use crate::cli::run_in;

/// Swaps under load, how many of them bring a module that was never seen, and the longest that they may take together.
const SWAPS: u64 = 1000;
const NEW_EVERY: u64 = 25;
const STORM_BOUND: Duration = Duration::from_secs(240);
/// What the second half of the swaps may add to the memory that is in use after the first.
const GROWTH: u64 = 48 << 20;

async fn guarded(more: &str) -> (Fixture, Gateway) {
    let up = Fixture::start().await;
    let builder = Gateway::builder().http_upstream("up", &up.url).key("ci");
    let gateway = builder.section(&binding("guard", "guard.wasm", more)).file("guard.wasm", &denies("one"));
    (up, gateway.start().await)
}

/// The generations that are kept, newest first, with what runs marked.
async fn generations(gateway: &Gateway) -> Vec<Value> {
    let view = gateway.operator("GET", "/api/v1/policies/generations", None).await.json();
    view["generations"].as_array().unwrap_or_else(|| panic!("{view}")).clone()
}

/// Replaces the module and waits until it is in force.
async fn swap(gateway: &Gateway, code: &str) {
    let before = generation(gateway).await;
    gateway.replace("guard.wasm", &denies(code));
    until_after(gateway, before).await;
}

#[tokio::test]
async fn an_operator_goes_back_to_what_was_before() {
    let (_up, gateway) = guarded("").await;
    let back = async |body: Value| gateway.operator("POST", "/api/v1/policies/rollback", Some(body)).await;
    let reply = back(json!({})).await;
    assert_eq!((reply.status.as_u16(), &reply.json()["code"]), (409, &json!("nothing_before")));

    swap(&gateway, "two").await;
    swap(&gateway, "thr").await;
    let kept: Vec<Value> = generations(&gateway).await.iter().map(|one| one["generation"].clone()).collect();
    assert_eq!(kept, [3, 2, 1]);
    let reply = back(json!({})).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(code(&gateway).await, "two");
    let newest = &generations(&gateway).await[0];
    assert_eq!(
        (&newest["generation"], &newest["running"], &newest["cause"], &newest["of"], &newest["actor"]),
        (&json!(4), &json!(true), &json!("rollback"), &json!(2), &json!("operator:socket")),
        "{newest}"
    );
    let event = until_event(&gateway, "policies.rolled_back").await;
    assert_eq!((&event["detail"]["policy_generation"], &event["detail"]["of_generation"]), (&json!(4), &json!(2)));

    // Back again, to one that is named; and to some that are not there.
    assert_eq!(back(json!({ "to": 3 })).await.status, 200);
    assert_eq!(code(&gateway).await, "thr");
    for (to, expected) in [(1, "not_kept"), (5, "running"), (99, "not_kept")] {
        let reply = back(json!({ "to": to })).await;
        assert_eq!((reply.status.as_u16(), &reply.json()["code"]), (409, &json!(expected)), "{to}: {}", reply.text());
    }
    assert_eq!(back(json!({ "two": 3 })).await.status.as_u16(), 422);
    assert_eq!(generation(&gateway).await, 5);

    // The file counts again as soon as it changes.
    assert_eq!(back(json!({})).await.status, 200);
    assert_eq!(code(&gateway).await, "two");
    swap(&gateway, "fou").await;
    assert_eq!(code(&gateway).await, "fou");
}

#[tokio::test]
async fn what_runs_since_a_refused_reload_is_told_from_what_it_left_running() {
    let (_up, gateway) = guarded("").await;
    swap(&gateway, "two").await;
    gateway.replace("guard.wasm", b"not a module");
    let view = gateway.until("/api/v1/policies", |view| view["last_reload"]["ok"] == false).await;
    assert_eq!((&view["generation"], &view["last_reload"]["generation"]), (&json!(2), &json!(2)));
    let listed = run_in(gateway.dir.path(), &["policy", "list"]).await.printed();
    assert!(listed.contains("generation 2 still runs: the reload at "), "{listed}");

    assert_eq!(gateway.operator("POST", "/api/v1/policies/rollback", Some(json!({ "to": 1 }))).await.status, 200);
    let view = policies(&gateway).await;
    assert_eq!((&view["generation"], &view["last_reload"]["generation"]), (&json!(3), &json!(2)));
    let listed = run_in(gateway.dir.path(), &["policy", "list"]).await.printed();
    assert!(listed.contains("generation 3 runs; the reload before it, at "), "{listed}");
}

#[tokio::test]
async fn generations_that_differ_in_configuration_alone_can_be_told_apart() {
    let guard =
        "[[policies]]\nname = \"guard\"\nmodule = \"builtin:allow-tools\"\nconfig = { otherwise = \"allow\" }\n";
    let gateway = Gateway::builder().section(guard).start().await;
    let changed = std::fs::read_to_string(&gateway.file).unwrap().replace("\"allow\"", "\"hide\"");
    gateway.replace("portcullis.toml", changed.as_bytes());
    assert_eq!(gateway.operator("POST", "/api/v1/policies/reload", None).await.status, 200);
    let kept = generations(&gateway).await;
    let of = |index: usize, member: &str| kept[index]["policies"][0][member].as_str().unwrap();
    assert_eq!(kept.len(), 2, "{kept:?}");
    assert_eq!(of(0, "digest"), of(1, "digest"));
    assert_ne!(of(0, "config_digest"), of(1, "config_digest"));
    let table = run_in(gateway.dir.path(), &["policy", "generations"]).await.printed();
    assert!(table.contains(&format!("config {})", of(0, "config_digest"))), "{table}");
}

#[tokio::test]
async fn reloads_that_change_nothing_use_up_no_way_back() {
    let (_up, gateway) = guarded("").await;
    swap(&gateway, "two").await;
    for _ in 0..5 {
        assert_eq!(gateway.operator("POST", "/api/v1/policies/reload", None).await.status, 200);
    }
    let kept = generations(&gateway).await;
    assert_eq!(kept.len(), 2, "{kept:?}");
    let reply = gateway.operator("POST", "/api/v1/policies/rollback", Some(json!({}))).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(code(&gateway).await, "one");
}

/// Whoever wants the good policies back after a reload that was refused has them.
#[tokio::test]
async fn after_a_refused_reload_there_is_nothing_to_go_back_from() {
    let (_up, gateway) = guarded("").await;
    swap(&gateway, "two").await;
    gateway.replace("guard.wasm", b"rubbish");
    gateway.until("/api/v1/policies", |view| view["last_reload"]["ok"] == false).await;
    let back = async |body: Value| gateway.operator("POST", "/api/v1/policies/rollback", Some(body)).await;
    let refused = back(json!({})).await;
    assert_eq!(
        (refused.status.as_u16(), &refused.json()["code"]),
        (409, &json!("still_running")),
        "{}",
        refused.text()
    );
    assert!(
        refused.json()["detail"].as_str().unwrap().ends_with("names a generation (`--to`): 1"),
        "{}",
        refused.text()
    );
    assert_eq!(code(&gateway).await, "two");
    assert_eq!(back(json!({ "to": 1 })).await.status, 200);
    assert_eq!(code(&gateway).await, "one");
}

#[tokio::test]
async fn a_module_that_fails_the_operators_cases_does_not_come_into_force() {
    let up = Fixture::start().await;
    let cases =
        json!([{ "name": "it denies", "hook": "tool-call", "expect": { "deny": { "reason": { "code": "one" } } } }]);
    let builder = Gateway::builder().http_upstream("up", &up.url).key("ci").file("guard.wasm", &denies("one"));
    let builder = builder.section(&binding("guard", "guard.wasm", "tests = \"cases.json\""));
    let gateway = builder.file("cases.json", cases.to_string().as_bytes()).start().await;
    gateway.replace("guard.wasm", &denies("two"));
    let view = gateway.until("/api/v1/policies", |view| view["last_reload"]["ok"] == false).await;
    let error = view["last_reload"]["error"].as_str().unwrap();
    for part in ["policy guard: tests: ", "it denies", "/deny/reason/code: expected \"one\", found \"two\""] {
        assert!(error.contains(part), "{part:?} is not in {error:?}");
    }
    assert_eq!((code(&gateway).await, generation(&gateway).await), (json!("one"), 1), "the last good one stays");
    // The cases are watched too.
    gateway.replace("cases.json", cases.to_string().replace("\"one\"", "\"two\"").as_bytes());
    until_after(&gateway, 1).await;
    assert_eq!(code(&gateway).await, "two");
}

#[tokio::test]
async fn a_module_that_is_not_the_one_that_was_meant_does_not_come_into_force() {
    let digest = Digest::of(&denies("one")).to_hex();
    let (_up, gateway) = guarded(&format!("digest = \"sha256:{digest}\"")).await;
    gateway.replace("guard.wasm", &denies("two"));
    let view = gateway.until("/api/v1/policies", |view| view["last_reload"]["ok"] == false).await;
    let error = view["last_reload"]["error"].as_str().unwrap();
    assert!(error.contains("policy guard: digest: ") && error.contains(&digest), "{error}");
    assert_eq!(code(&gateway).await, "one");
}

#[tokio::test]
async fn a_module_that_nobody_vouches_for_does_not_come_into_force() {
    let key = SigningKey::of_seed(&[7; 32]);
    let sign = |module: &[u8]| {
        let mut signatures = SignatureFile::of(&Digest::of(module).to_hex());
        signatures.add(&key);
        let trusted = [TrustedKey { name: "build".to_owned(), key: key.public().to_bytes() }];
        let digest = Digest::of(module).to_hex();
        assert!(signatures.check(&digest, Signatures::Any, &trusted).is_ok());
        signatures.to_json()
    };
    let up = Fixture::start().await;
    let settings = format!(
        "[policy]\nsignatures = \"any\"\ntrusted_keys = [{{ name = \"build\", key = \"{}\" }}]\n",
        key.public()
    );
    let builder = Gateway::builder().http_upstream("up", &up.url).key("ci").section(&settings);
    let builder = builder.section(&binding("guard", "guard.wasm", "")).file("guard.wasm", &denies("one"));
    let gateway = builder.file("guard.wasm.sig", sign(&denies("one")).as_bytes()).start().await;
    assert_eq!(policies(&gateway).await["bindings"][0]["signed_by"], json!(["build"]));

    gateway.replace("guard.wasm", &denies("two"));
    let view = gateway.until("/api/v1/policies", |view| view["last_reload"]["ok"] == false).await;
    let error = view["last_reload"]["error"].as_str().unwrap();
    assert!(error.contains("policy guard: signature: ") && error.contains("of other bytes"), "{error}");
    assert_eq!(code(&gateway).await, "one");
    // Its signature is what was missing, and that is seen when it comes.
    gateway.replace("guard.wasm.sig", sign(&denies("two")).as_bytes());
    until_after(&gateway, 1).await;
    assert_eq!(code(&gateway).await, "two");
}

#[tokio::test]
async fn a_reload_tells_what_it_changes_of_recorded_decisions() {
    let up = Fixture::start().await;
    let builder = Gateway::builder().http_upstream("up", &up.url).key("ci").section("[policy]\nrecord = true\n");
    let builder = builder.section(&binding("guard", "guard.wasm", "")).file("guard.wasm", &denies("one"));
    let gateway = builder.start().await;
    for _ in 0..3 {
        assert_eq!(code(&gateway).await, "one");
    }
    let recorded = |view: &Value| view["questions"].as_array().is_some_and(|questions| questions.len() == 3);
    gateway.until("/api/v1/recordings?policy=guard", recorded).await;
    swap(&gateway, "two").await;
    // How it went is told a moment after it came into force.
    let view = gateway.until("/api/v1/policies", |view| view["last_reload"]["changes"].is_object()).await;
    let changes = &view["last_reload"]["changes"];
    assert_eq!((&changes["questions"], changes["different"].as_array().unwrap().len()), (&json!(3), 3), "{changes}");
    let change = &changes["different"][0];
    assert_eq!((&change["before"], &change["after"]), (&json!("deny one"), &json!("deny two")), "{change}");
    assert_eq!((&change["principal"], &change["tool"]), (&json!("key:ci"), &json!("up/echo")), "{change}");
    assert!(changes["summary"].as_str().unwrap().contains("deny one → deny two (3)"), "{changes}");
}

/// Memory of this process that is in use, in bytes.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() * 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_swaps_under_load_fail_no_call_and_use_up_no_memory() {
    let (_up, gateway) = guarded("").await;
    let text = configuration(&gateway);
    let (stop, calls) = (AtomicBool::new(false), AtomicU64::new(0));
    let ask = async {
        let caller = gateway.caller("ci");
        let mut wrong = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let reply = call(&caller, "up__echo", json!({})).await;
            let code = &reply.json()["result"]["_meta"]["portcullis/refusal"]["code"];
            // Three letters: a module decided. Anything else is a failure of some kind.
            if code.as_str().is_none_or(|code| code.len() != 3) {
                wrong.push(reply.text().to_owned());
            }
            calls.fetch_add(1, Ordering::Relaxed);
        }
        wrong
    };
    let began = Instant::now();
    let swapping = async {
        let mut halfway = 0;
        for turn in 0..SWAPS {
            // Two modules that take turns, and now and then one that has to be compiled.
            let code = match turn % NEW_EVERY {
                0 => format!("{:03}", turn / NEW_EVERY),
                odd if odd % 2 == 1 => "odd".to_owned(),
                _ => "evn".to_owned(),
            };
            gateway.replace("guard.wasm", &denies(&code));
            let reply = gateway.operator("POST", "/api/v1/policies/reload", None).await;
            assert_eq!(reply.status, 200, "{}", reply.text());
            if turn == SWAPS / 2 {
                halfway = resident();
            }
        }
        stop.store(true, Ordering::Relaxed);
        (halfway, resident())
    };
    let (wrong, (halfway, end)) = tokio::join!(async { join_all([ask]).await }, swapping);
    let took = began.elapsed();
    assert!(wrong.iter().all(Vec::is_empty), "{wrong:?}");
    assert!(calls.load(Ordering::Relaxed) > 200, "{calls:?} calls in {took:?}");
    assert!(took < STORM_BOUND, "{SWAPS} swaps took {took:?}");
    assert!(end < halfway + GROWTH, "from {halfway} bytes to {end}");
    let view = policies(&gateway).await;
    assert!(view["generation"].as_u64().unwrap() > SWAPS, "{view}");
    assert_eq!((&view["bindings"][0]["failures"], &view["bindings"][0]["degraded"]), (&json!(0), &json!(false)));
    assert_eq!(configuration(&gateway), text);
    assert!(generations(&gateway).await.len() <= 3);
}
