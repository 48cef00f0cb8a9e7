//! Policies in the console: what is shown of them, the ways on and back, trying a call, and binding one by a form.

use http::StatusCode;
use portcullis_tests::Gateway;
use portcullis_tests::gateway::Builder;
use portcullis_tests::oauth::Browser;
use portcullis_tests::upstreams::fixture::Fixture;
use serde_json::{Value, json};

use super::browser_of;

const GUARD: &str = "[[policies]]\nname = \"guard\"\nmodule = \"builtin:allow-tools\"\nlimits = { time = \"1s\" }\nconfig = { otherwise = \"allow\", rules = [{ tools = [\"up/echo\"], action = \"deny\", code = \"no-echo\", message = \"Not here.\" }] }\n";
const RECORD: &str = "[policy]\nrecord = true\n";

async fn scene(up: &Fixture, change: impl FnOnce(Builder) -> Builder) -> Gateway {
    let gateway = change(Gateway::builder().section(GUARD).http_upstream("up", &up.url).key("alice")).start().await;
    gateway.until_upstreams_are_up().await;
    gateway
}

/// Declares a binding of a rate limit in the store.
async fn bind(gateway: &Gateway, name: &str, limit: u64) {
    let config = json!({ "rules": [{ "limit": limit, "period": "1m" }] });
    let definition = json!({
        "module": "builtin:rate-limit", "grants": ["counters"], "limits": { "time": "1s" }, "config": config
    });
    let wanted = json!({ "name": name, "definition": definition });
    let reply = gateway.operator("POST", "/api/v1/policies/bindings", Some(wanted)).await;
    assert_eq!(reply.status, StatusCode::CREATED, "{}", reply.text());
}

async fn policies(gateway: &Gateway) -> Value {
    gateway.operator("GET", "/api/v1/policies", None).await.json()
}

fn names(policies: &Value) -> Vec<&str> {
    policies["bindings"].as_array().unwrap().iter().map(|binding| binding["name"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn policies_are_shown_and_those_of_before_come_back() {
    let up = Fixture::start().await;
    let gateway = scene(&up, |builder| builder).await;
    bind(&gateway, "limit", 5).await;
    let mut viewer = browser_of(&gateway, "viewer").await;
    let page = viewer.get("/policies").await;
    let text = page.text();
    assert!(
        ["guard", "limit", "enforce", "everything", "file", "store"].iter().all(|part| text.contains(part)),
        "{text}"
    );
    assert!(page.find("/policies/reload").is_none(), "a viewer changes nothing");
    let text = viewer.get("/policies/bindings/guard").await.text();
    assert!(text.contains("SHA-256") && text.contains("shown to operators") && !text.contains("no-echo"), "{text}");

    let mut operator = browser_of(&gateway, "operator").await;
    let text = operator.get("/policies/bindings/guard").await.text();
    assert!(text.contains("no-echo") && text.contains("Tried in order"), "the words of the module's schema: {text}");
    let page = operator.get("/policies/generations?from=1&to=2").await;
    assert!(page.text().contains("limit the binding not there there"), "{page}");
    let page = operator.get("/policies/generations?from=2&to=1").await;
    let form = page.form("/policies/generations");
    assert_eq!((form.field("from"), form.field("to")), (Some("2"), Some("1")), "what was compared is still chosen");
    let page = operator.get("/policies/generations/1/rollback").await;
    let page = operator.submit(&page.form("/policies/generations/1/rollback")).await;
    assert!(page.status() == 200 && page.text().contains("in force again"), "{page}");
    assert_eq!(names(&policies(&gateway).await), ["guard"]);
    let page = operator.submit(&page.form("/policies/reload")).await;
    assert!(page.text().contains("were read again"), "{page}");
    assert_eq!(names(&policies(&gateway).await), ["guard", "limit"], "the store counts again");
    assert_eq!(operator.get("/policies/generations/77/rollback").await.status(), 404);
}

#[tokio::test]
async fn a_reload_that_is_refused_is_told_whole() {
    let up = Fixture::start().await;
    let gateway = scene(&up, |builder| builder.file("guard2.wasm", b"not a module")).await;
    let mut operator = browser_of(&gateway, "operator").await;
    let page = operator.get("/policies").await;
    let file = std::fs::read_to_string(&gateway.file).unwrap();
    let more = "\n[[policies]]\nname = \"second\"\nmodule = \"guard2.wasm\"\n";
    gateway.replace("portcullis.toml", format!("{file}{more}").as_bytes());
    let page = operator.submit(&page.form("/policies/reload")).await;
    assert_eq!(page.status(), 422, "{page}");
    assert!(page.text().contains("policy second: module:"), "{page}");
    assert_eq!(names(&policies(&gateway).await), ["guard"]);
}

async fn try_call(operator: &mut Browser, tool: &str, more: &[(&str, &str)]) -> String {
    let page = operator.get("/policies/try").await;
    let form = page.form("/policies/try").with("principal", "key:alice").with("upstream", "up").with("tool", tool);
    let form = more.iter().fold(form, |form, (name, value)| form.with(name, value));
    let page = operator.submit(&form).await;
    assert_eq!(page.status(), 200, "{page}");
    page.text()
}

#[tokio::test]
async fn a_typed_call_is_tried_and_nothing_comes_of_it() {
    let up = Fixture::start().await;
    let gateway = scene(&up, |builder| builder).await;
    bind(&gateway, "limit", 1).await;
    let mut operator = browser_of(&gateway, "operator").await;
    let text = try_call(&mut operator, "echo", &[("arguments", r#"{"password":"hunter2"}"#)]).await;
    assert!(text.contains("denied") && text.contains("no-echo") && text.contains("Not here."), "{text}");
    let own = [("policy", "guard"), ("config", r#"{"otherwise":"allow"}"#)];
    let text = try_call(&mut operator, "echo", &own).await;
    assert!(text.contains("In the end passes"), "{text}");
    for _ in 0..3 {
        let text = try_call(&mut operator, "echo", &[("policy", "limit")]).await;
        assert!(text.contains("In the end passes"), "nothing is charged: {text}");
    }
    assert_eq!(gateway.operator("GET", "/api/v1/decisions", None).await.json()["decisions"], json!([]));
    let view = policies(&gateway).await;
    assert_eq!(view["bindings"][0]["failures"], 0, "{view}");

    let page = operator.get("/policies/try").await;
    let form = page.form("/policies/try").with("principal", "key:nobody").with("upstream", "up").with("tool", "echo");
    let page = operator.submit(&form).await;
    assert_eq!(page.status(), 422);
    assert!(page.text().contains("nobody is key:nobody"), "{page}");
    assert_eq!(page.form("/policies/try").field("tool"), Some("echo"), "what was typed is still there");
    let form = page.form("/policies/try").with("principal", "key:alice").with("config", r#"{"otherwise":"allow"}"#);
    let page = operator.submit(&form).await;
    assert_eq!(page.status(), 422, "{page}");
    assert!(page.text().contains("choose the policy that it is for"), "{page}");

    let call = json!({ "principal": "key:alice", "upstream": "up", "tool": "echo" });
    let tried = gateway.operator("POST", "/api/v1/policies/try", Some(json!({ "call": call }))).await.json();
    assert_eq!((&tried["end"]["check"], &tried["end"]["by"]), (&json!("denied"), &json!("guard")), "{tried}");
    for (question, status) in [
        (json!({}), 422),
        (json!({ "call": call, "config": {} }), 422),
        (json!({ "call": call, "policy": "none" }), 404),
        (json!({ "call": call, "policy": "guard", "config": { "otherwise": 3 } }), 422),
        (json!({ "decision": "none" }), 404),
        (json!({ "call": { "principal": "key:alice", "upstream": "up", "tool": "nothing" } }), 422),
    ] {
        let reply = gateway.operator("POST", "/api/v1/policies/try", Some(question.clone())).await;
        assert_eq!(reply.status.as_u16(), status, "{question}: {}", reply.text());
    }
}

#[tokio::test]
async fn a_recorded_call_is_put_to_policies_again() {
    let up = Fixture::start().await;
    let gateway = scene(&up, |builder| builder.section(RECORD)).await;
    gateway.caller("alice").call("up__echo", json!({ "password": "hunter2" })).await;
    let has_one = |view: &Value| view["decisions"].as_array().is_some_and(|decisions| decisions.len() == 1);
    let decisions = gateway.until("/api/v1/decisions", has_one).await;
    let id = decisions["decisions"][0]["id"].as_str().unwrap();
    gateway.until(&format!("/api/v1/recordings/{id}"), |view| view["questions"].is_array()).await;

    let mut operator = browser_of(&gateway, "operator").await;
    let page = operator.get(&format!("/policies/try?decision={id}")).await;
    let form = page.forms().into_iter().find(|form| form.field("decision").is_some()).unwrap();
    assert_eq!(form.field("decision"), Some(id));
    let page = operator.submit(&form).await;
    assert!(page.text().contains("just so") && page.text().contains("no-echo"), "{page}");
    let form = page.forms().into_iter().find(|form| form.field("decision").is_some()).unwrap();
    let form = form.with("policy", "guard").with("config", r#"{"otherwise":"allow"}"#);
    let page = operator.submit(&form).await;
    assert!(page.text().contains("different") && page.text().contains("In the end passes"), "{page}");
    let audit = gateway.operator("GET", "/api/v1/audit", None).await.json();
    let events = audit["entries"].as_array().unwrap().iter();
    let read = events.filter(|entry| entry["event"] == "recording.read" && entry["actor"] != "operator:socket");
    assert_eq!(read.count(), 2, "each reading is written down: {audit}");
}

#[tokio::test]
async fn an_owner_binds_changes_and_removes_a_policy_by_forms() {
    let up = Fixture::start().await;
    let gateway = scene(&up, |builder| builder).await;
    let mut owner = browser_of(&gateway, "owner").await;
    let page = owner.get("/policies/bindings/new").await;
    let module = page.links().into_iter().find(|link| link.ends_with("builtin:rate-limit")).unwrap().to_owned();
    let page = owner.get(&module).await;
    let form = page.form("/policies/bindings/new").with("name", "limit");
    let form = form.with("config/config/rules/0/limit:number", "many").with("config/limits/time:text", "1s");
    let page = owner.submit(&form.press("look")).await;
    assert_eq!(page.status(), 422, "{page}");
    assert!(page.text().contains("this is not a number"), "{page}");
    let form = page.form("/policies/bindings/new");
    assert_eq!(form.field("config/config/rules/0/limit:number"), Some("many"), "what was typed is still there");
    assert_eq!(form.field("name"), Some("limit"));
    let form = form.with("config/config/rules/0/limit:number", "7");
    let page = owner.submit(&form.press("look")).await;
    assert!(page.status() == 200 && page.text().contains("Publish it"), "{page}");
    assert!(page.text().contains("In shadow:") && !page.text().contains("comes into force"), "{page}");
    assert_eq!(names(&policies(&gateway).await), ["guard"], "so far nothing has changed");
    let page = owner.submit(&page.form("/policies/bindings/new").press("publish")).await;
    assert!(page.text().contains("It is added."), "{page}");
    let path = "/api/v1/policies/bindings/limit";
    let bound = gateway.operator("GET", path, None).await.json();
    assert_eq!(bound["definition"]["config"]["rules"][0]["limit"], 7, "{bound}");
    assert_eq!(
        (&bound["definition"]["mode"], &bound["definition"]["grants"]),
        (&json!("shadow"), &json!(["counters"]))
    );

    let page = owner.get("/policies/bindings/limit/edit").await;
    let form = page.form("/policies/bindings/limit/edit").with("config/mode:choice", "enforce").press("look");
    let page = owner.submit(&form).await;
    assert!(page.text().contains("Enforced:") && page.text().contains("comes into force at once"), "{page}");
    let stale = owner.get("/policies/bindings/limit/edit").await;
    let page = owner.submit(&page.form("/policies/bindings/limit/edit").press("publish")).await;
    assert!(page.text().contains("It is changed."), "{page}");
    assert_eq!(gateway.operator("GET", path, None).await.json()["definition"]["mode"], "enforce");
    let form = stale.form("/policies/bindings/limit/edit").with("config/mode:choice", "off").press("look");
    let page = owner.submit(&form).await;
    let page = owner.submit(&page.form("/policies/bindings/limit/edit").press("publish")).await;
    assert_eq!(page.status(), 412, "it was changed meanwhile: {page}");
    assert!(page.text().contains("What you had written") && page.text().contains("\"mode\": \"off\""), "{page}");
    assert!(page.links().contains(&"/policies/bindings/limit/edit") || page.links().contains(&"/policies"), "{page}");

    let page = owner.get("/policies/bindings/limit/remove").await;
    let page = owner.submit(&page.form("/policies/bindings/limit/remove")).await;
    assert!(page.text().contains("It is removed."), "{page}");
    assert_eq!(names(&policies(&gateway).await), ["guard"]);
    assert_eq!(owner.get("/policies/bindings/guard/edit").await.status(), 409, "that of the file is changed there");
}

#[tokio::test]
async fn what_is_uploaded_is_a_module_and_comes_from_our_form() {
    let up = Fixture::start().await;
    let gateway = scene(&up, |builder| builder).await;
    let mut owner = browser_of(&gateway, "owner").await;
    let mut operator = browser_of(&gateway, "operator").await;
    assert!(operator.get("/policies/modules").await.find("/policies/modules").is_none(), "owners upload");
    let page = owner.get("/policies/modules").await;
    let token = page.form("/policies/modules").field("form_token").unwrap().to_owned();
    let body = |token: &str| {
        format!(
            "--x\r\ncontent-disposition: form-data; name=\"form_token\"\r\n\r\n{token}\r\n--x\r\ncontent-disposition: form-data; name=\"module\"; filename=\"a.wasm\"\r\ncontent-type: application/wasm\r\n\r\nno module\r\n--x--\r\n"
        )
    };
    let origin = owner.origin.clone();
    let headers = |origin: &str| {
        [
            ("content-type".to_owned(), "multipart/form-data; boundary=x".to_owned()),
            ("origin".to_owned(), origin.to_owned()),
            ("sec-fetch-site".to_owned(), "same-origin".to_owned()),
        ]
    };
    for (origin, token, status) in
        [("https://evil.example", &token[..], 403), (&origin[..], "none", 403), (&origin[..], &token[..], 422)]
    {
        let headers = headers(origin);
        let headers: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let reply = owner.step("POST", "/policies/modules", &body(token), &headers).await;
        assert_eq!(reply.status.as_u16(), status, "{origin}: {}", reply.text());
    }
    let kept = gateway.operator("GET", "/api/v1/policies/modules", None).await.json();
    assert_eq!(kept["modules"], json!([]));
}
