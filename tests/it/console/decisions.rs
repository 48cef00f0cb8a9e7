//! `/decisions`: the list, what narrows it, and one decision explained.

use http::StatusCode;
use portcullis_tests::upstreams::fixture::Fixture;
use portcullis_tests::{Caller, Gateway};
use serde_json::{Value, json};

use super::browser_of;

/// A policy that allows `echo`, denies `slow`, and hides the rest.
const GUARD: &str = r#"
[policy]
record = true
[[policies]]
name = "guard"
module = "builtin:allow-tools"
limits = { time = "1s" }
[policies.config]
otherwise = "hide"
[[policies.config.rules]]
tools = ["up/slow"]
action = "deny"
code = "too-slow"
message = "This takes too long."
[[policies.config.rules]]
tools = ["up/echo"]
action = "allow"
"#;

/// One call that is allowed, and one that is denied: their decisions, the newest first.
async fn scene() -> (Fixture, Gateway, Vec<Value>) {
    let up = Fixture::start().await;
    let gateway = Gateway::builder().http_upstream("up", &up.url).key("alice").section(GUARD).start().await;
    let alice = gateway.caller("alice");
    for (tool, count) in [("up__echo", 1), ("up__slow", 2)] {
        alice.call(tool, json!({ "text": "hunter2" })).await;
        let told = |view: &Value| view["decisions"].as_array().unwrap().len() == count;
        gateway.until("/api/v1/decisions", told).await;
    }
    let decisions = gateway.operator("GET", "/api/v1/decisions", None).await.json()["decisions"].clone();
    (up, gateway, decisions.as_array().unwrap().clone())
}

fn of<'a>(decisions: &'a [Value], tool: &str) -> &'a str {
    let decision = decisions.iter().find(|decision| decision["tool"] == tool).unwrap();
    decision["id"].as_str().unwrap()
}

#[tokio::test]
async fn the_list_is_narrowed_by_each_filter_and_leads_to_each_decision() {
    let (_up, gateway, decisions) = scene().await;
    let mut viewer = browser_of(&gateway, "viewer").await;
    let (echo, slow) = (of(&decisions, "echo"), of(&decisions, "slow"));
    for (query, shows_echo, shows_slow) in [
        ("", true, true),
        ("?verdict=deny", false, true),
        ("?tool=echo&upstream=up", true, false),
        ("?principal=key%3Aalice", true, true),
        ("?principal=gateway", false, false),
        ("?upstream=other", false, false),
        ("?since=2026-01-01T00%3A00", true, true),
        ("?until=2026-01-01T00%3A00", false, false),
        ("?verdict=&tool=", true, true),
    ] {
        let page = viewer.get(&format!("/decisions{query}")).await;
        assert_eq!(page.status(), 200, "{query}");
        let links = page.links();
        let leads = |id: &str| links.iter().any(|link| link.ends_with(&format!("/decisions/{id}")));
        assert_eq!((leads(echo), leads(slow)), (shows_echo, shows_slow), "{query}");
    }
    let wrong = viewer.get("/decisions?principal=nobody").await;
    assert_eq!(wrong.status(), StatusCode::UNPROCESSABLE_ENTITY.as_u16());
    assert!(wrong.text().contains("`principal` is"), "{}", wrong.text());
}

#[tokio::test]
async fn an_id_that_was_pasted_leads_to_its_decision() {
    let (_up, gateway, decisions) = scene().await;
    let mut viewer = browser_of(&gateway, "viewer").await;
    let slow = of(&decisions, "slow");
    let page = viewer.get(&format!("/decisions?id=it+was+refused+%28decision+{slow}%29.")).await;
    assert!(page.url.ends_with(&format!("/decisions/{slow}")), "{}", page.url);
    assert_eq!(page.status(), 200);
    let none = viewer.get("/decisions?id=no+such+thing").await;
    assert!(none.text().contains("there is no id of a decision"), "{}", none.text());
    let none = viewer.get("/decisions/0123").await;
    assert!(none.status() == 404 && !none.text().contains("A form is good once"), "{none}");
    let odd = viewer.get("/decisions?principal=ci&tool=add").await;
    assert!(odd.status() == 422 && odd.text().contains("That did not work"), "{odd}");
    let filter = odd.forms().into_iter().find(|form| form.field("principal").is_some()).unwrap();
    assert_eq!((filter.field("principal"), filter.field("tool")), (Some("ci"), Some("add")));
    assert!(!odd.reply.text().contains("data-tail="), "there is no stream of it: {odd}");
}

#[tokio::test]
async fn a_refusal_is_explained_with_what_to_do_next() {
    let (_up, gateway, decisions) = scene().await;
    let mut viewer = browser_of(&gateway, "viewer").await;
    let slow = of(&decisions, "slow");
    let page = viewer.get(&format!("/decisions/{slow}")).await;
    let text = page.text();
    for said in ["Refused by", "guard", "too-slow", "tool-call", "key:alice", "tools/call"] {
        assert!(text.contains(said), "{said}: {text}");
    }
    let links = page.links();
    for link in ["/policies/bindings/guard", "/keys/alice", "/upstreams/up"] {
        assert!(links.iter().any(|shown| shown.ends_with(link)), "{link}: {links:?}");
    }
    // Whoever may try policies is led there.
    gateway.until(&format!("/api/v1/recordings/{slow}"), |view| view["questions"].is_array()).await;
    let try_again = format!("/policies/try?decision={slow}");
    assert!(!links.contains(&try_again.as_str()), "{links:?}");
    let page = browser_of(&gateway, "operator").await.get(&format!("/decisions/{slow}")).await;
    assert!(page.links().contains(&try_again.as_str()), "{:?}", page.links());
    let allowed = viewer.get(&format!("/decisions/{}", of(&decisions, "echo"))).await;
    assert!(allowed.text().contains("Allowed, and answered."), "{}", allowed.text());
}

#[tokio::test]
async fn a_call_that_was_not_recorded_is_typed_again_and_what_is_gone_is_not_linked() {
    let up = Fixture::start().await;
    let gateway = Gateway::builder().http_upstream("up", &up.url).start().await;
    gateway.until_upstreams_are_up().await;
    let key = json!({ "name": "ci", "allow": [{ "upstream": "*", "tools": ["*"] }] });
    let made = gateway.operator("POST", "/api/v1/keys", Some(key)).await.json();
    let ci = Caller::new(gateway.public, Some(made["secret"].as_str().unwrap().to_owned()));
    ci.call("up__echo", json!({ "text": "a" })).await;
    let told = |view: &Value| view["decisions"].as_array().is_some_and(|decisions| !decisions.is_empty());
    let view = gateway.until("/api/v1/decisions", told).await;
    let path = format!("/decisions/{}", of(view["decisions"].as_array().unwrap(), "echo"));
    let mut operator = browser_of(&gateway, "operator").await;
    let page = operator.get(&path).await;
    assert!(page.links().contains(&"/keys/ci") && page.text().contains("Try a call like this"), "{page}");
    let links = page.links();
    let trial = links.iter().find(|link| link.starts_with("/policies/try")).unwrap_or_else(|| panic!("{page}"));
    let trial = operator.get(trial).await;
    let forms = trial.forms();
    let form = forms.iter().find(|form| form.field("tool").is_some()).unwrap_or_else(|| panic!("{trial}"));
    let typed = ["principal", "upstream", "tool"].map(|name| form.field(name));
    assert_eq!(typed, [Some("key:ci"), Some("up"), Some("echo")]);

    let deleted = gateway.operator("DELETE", "/api/v1/keys/ci", None).await;
    assert!(deleted.status.is_success(), "{}", deleted.text());
    let page = operator.get(&path).await;
    assert!(page.text().contains("key:ci") && !page.links().contains(&"/keys/ci"), "{page}");
}

#[tokio::test]
async fn what_hides_itself_in_the_words_of_a_policy_is_shown() {
    let up = Fixture::start().await;
    let section = GUARD.replace("code = \"too-slow\"", "code = \"too-slow\"\nname = \"no\\u200Bslow\"");
    assert_ne!(section, GUARD);
    let gateway = Gateway::builder().http_upstream("up", &up.url).key("alice").section(&section).start().await;
    gateway.caller("alice").call("up__slow", json!({})).await;
    let view = gateway.until("/api/v1/decisions", |view| !view["decisions"].as_array().unwrap().is_empty()).await;
    let slow = of(view["decisions"].as_array().unwrap(), "slow").to_owned();
    let steps = view["decisions"][0]["steps"].as_array().unwrap();
    assert!(steps.iter().any(|step| step["rule"] == "no\u{200b}slow"), "the API tells it as it is: {steps:?}");
    let text = browser_of(&gateway, "viewer").await.get(&format!("/decisions/{slow}")).await.text();
    assert!(text.contains("no\\u{200b}slow") && !text.contains('\u{200b}'), "{text}");
}

#[tokio::test]
async fn a_recording_is_read_by_operators_and_that_is_written_down() {
    let (_up, gateway, decisions) = scene().await;
    let echo = of(&decisions, "echo");
    let path = format!("/decisions/{echo}");
    gateway.until("/api/v1/recordings", |view| !view["questions"].as_array().unwrap().is_empty()).await;
    let recorded = |view: &Value| view["questions"].is_array();
    gateway.until(&format!("/api/v1/recordings/{echo}"), recorded).await;
    let mut viewer = browser_of(&gateway, "viewer").await;
    let page = viewer.get(&path).await;
    assert!(page.find(&format!("{path}/recording")).is_none());
    assert!(page.text().contains("It takes the role operator"), "{}", page.text());

    let mut operator = browser_of(&gateway, "operator").await;
    let page = operator.get(&path).await;
    assert!(!page.text().contains("hunter2") && page.text().contains("written into the audit trail"));
    let read = operator.submit(&page.form(&format!("{path}/recording"))).await;
    assert_eq!(read.status(), 200, "{read}");
    // The policy asks for no arguments, so that none are recorded.
    assert!(read.text().contains("Asked") && read.text().contains("tool-call"), "{}", read.text());
    let audit = gateway.operator("GET", "/api/v1/audit?event=recording.read&limit=1", None).await.json();
    let entry = &audit["entries"][0];
    assert_eq!(entry["detail"]["decision"], echo);
    assert!(entry["actor"].as_str().unwrap().starts_with("operator:session:"), "{entry}");
}
