//! What the cases cannot show, since each of them asks once: that calls add up.

use portcullis_guest_sdk::serde_json::{Value, json};
use portcullis_guest_sdk::testing::{call, cases, configure, context, manifest, reset, set_clock, tool};
use portcullis_guest_sdk::{Determinism, Throttle};

use super::*;

const MINUTE_MS: u64 = 60_000;

#[test]
fn the_cases_hold() {
    cases::<RateLimit>(CASES);
}

#[test]
fn the_manifest_is_as_the_host_wants_it() {
    let info = manifest::<RateLimit>();
    assert_eq!((info.capabilities, info.determinism), (Capability::COUNTERS, Determinism::Stateful));
}

/// A policy with these rules, and nothing counted yet.
#[expect(clippy::needless_pass_by_value, reason = "reads better where `json!` is written")]
fn policy(rules: Value) -> RateLimit {
    reset();
    configure(&json!({ "rules": rules })).unwrap_or_else(|problems: Vec<Problem>| panic!("{problems:?}"))
}

/// One call, and why it is throttled if it is.
fn ask(policy: &RateLimit, subject: &str, client: &str, of: (&str, &str)) -> Option<Throttle> {
    let mut ctx = context();
    ctx.caller.subject = subject.to_owned();
    ctx.caller.client_id = client.to_owned();
    match policy.before(&ctx, &call(tool(of.0, of.1), &json!({}))) {
        Verdict::Abstain => None,
        Verdict::Throttle(throttle) => Some(throttle),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_call_over_the_limit_is_told_when_to_come_back() {
    let policy = policy(json!([{ "name": "few", "limit": 2, "period": "1m" }]));
    let now = context().now_ms;
    let add = || ask(&policy, "ada", "", ("notes", "add"));
    assert_eq!(add(), None);
    set_clock(now + 20_000);
    assert_eq!(add(), None);
    set_clock(now + 30_500);
    let throttle = add().unwrap();
    assert_eq!((throttle.retry_after_ms, &*throttle.bucket), (29_500, "few"));
    assert_eq!(throttle.reason.message, "Too many calls of notes/add. Try again in 30 s.");
    assert_eq!((&*throttle.reason.code, throttle.reason.rule.as_deref()), ("rate-limit.exceeded", Some("few")));
    set_clock(now + MINUTE_MS);
    assert_eq!(add(), None, "the first call is out of the window");
    assert!(add().is_some(), "the second is not");
}

#[test]
fn each_combination_of_what_is_listed_has_a_limit_of_its_own() {
    let ada = ("ada", "editor", ("notes", "add"));
    let others = [
        ("bo", "editor", ("notes", "add")),
        ("ada", "browser", ("notes", "add")),
        ("ada", "editor", ("notes", "read")),
        ("ada", "editor", ("tracker", "add")),
    ];
    for (per, shared) in [
        (json!(["caller"]), [false, true, true, true]),
        (json!(["client"]), [true, false, true, true]),
        (json!(["tool"]), [true, true, false, false]),
        (json!(["upstream"]), [true, true, true, false]),
        (json!(["caller", "tool"]), [false, true, false, false]),
        (json!(["caller", "client", "upstream"]), [false, false, true, false]),
        (json!([]), [true, true, true, true]),
    ] {
        for (other, shares) in others.into_iter().zip(shared) {
            let policy = policy(json!([{ "limit": 1, "period": "1h", "per": per }]));
            assert_eq!(ask(&policy, ada.0, ada.1, ada.2), None);
            let throttled = ask(&policy, other.0, other.1, other.2).is_some();
            assert_eq!(throttled, shares, "per {per}: {other:?}");
        }
    }
}

#[test]
fn a_virtual_key_is_its_own_client() {
    let policy = policy(json!([{ "limit": 1, "period": "1h", "per": ["client"] }]));
    assert_eq!(ask(&policy, "ada", "", ("notes", "add")), None);
    assert_eq!(ask(&policy, "bo", "", ("notes", "add")), None);
    assert!(ask(&policy, "ada", "", ("notes", "add")).is_some());
}

#[test]
fn every_rule_that_matches_is_charged_and_the_cost_counts() {
    let policy = policy(json!([
        { "name": "calls", "limit": 3, "period": "1h" },
        { "name": "searches", "tools": ["*/search*"], "limit": 10, "cost": 5, "period": "1h", "message": "Narrow it down." },
    ]));
    let search = || ask(&policy, "ada", "", ("notes", "search_all"));
    assert_eq!((search(), search()), (None, None));
    let throttle = search().unwrap();
    assert_eq!((&*throttle.bucket, &*throttle.reason.message), ("searches", "Narrow it down."));
    assert_eq!(ask(&policy, "ada", "", ("notes", "add")).unwrap().bucket, "calls", "the refused search was charged");
}
