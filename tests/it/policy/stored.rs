//! Policies that operators keep in the store: uploaded, bound, tried out, changed, gone back from, and there again after a
//! start.

use http::StatusCode;
use portcullis_tests::upstreams::fixture::Fixture;
use portcullis_tests::{Caller, Gateway, Reply};
use serde_json::{Value, json};

use super::reload::{code, configuration, denies, generation, policies, until_after, until_event};
use super::{binding, call, shipped};
use crate::cli::run_in;

const BINDINGS: &str = "/api/v1/policies/bindings";
const GUARD: &str = "/api/v1/policies/bindings/guard";

/// What binds the shipped `allow-tools` so that `echo` is denied under this code.
fn denying(digest: &str, code: &str) -> Value {
    let rules = json!([{ "tools": ["*/echo"], "action": "deny", "code": code }]);
    let config = json!({ "rules": rules, "otherwise": "allow" });
    json!({ "module": format!("sha256:{digest}"), "config": config, "limits": { "time": "1s" } })
}

async fn uploaded(gateway: &Gateway, module: &[u8]) -> Value {
    let reply = gateway.upload(module).await;
    assert_eq!(reply.status, StatusCode::CREATED, "{}", reply.text());
    reply.json()
}

async fn bound(gateway: &Gateway, definition: Value) -> Value {
    let body = json!({ "name": "guard", "definition": definition });
    let reply = gateway.operator("POST", BINDINGS, Some(body)).await;
    assert_eq!(reply.status, StatusCode::CREATED, "{}", reply.text());
    reply.json()
}

/// A change of the binding as it is now.
async fn changed(gateway: &Gateway, definition: &str) -> Reply {
    let file = gateway.dir.path().join("definition.json");
    std::fs::write(&file, definition).unwrap();
    let arguments = ["policy", "bind", "guard", "--definition", "definition.json", "--output", "json"];
    let printed = run_in(gateway.dir.path(), &arguments).await.printed();
    let reply = gateway.operator("GET", GUARD, None).await;
    let answer: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(answer["revision"], reply.json()["revision"], "{printed}");
    reply
}

fn problem(reply: &Reply) -> (u16, Value) {
    (reply.status.as_u16(), reply.json()["code"].clone())
}

#[tokio::test]
async fn a_policy_of_the_store_decides_is_changed_gone_back_from_and_there_after_a_start() {
    let up = Fixture::start().await;
    let life = || Gateway::builder().http_upstream("up", &up.url).key("ci").on_disk();
    let gateway = life().start().await;
    let module = uploaded(&gateway, shipped("allow-tools")).await;
    let digest = module["digest"].as_str().unwrap();
    assert_eq!((&module["name"], &module["manifest"]["hooks"].is_array()), (&json!("allow-tools"), &true));
    assert_eq!(gateway.upload(shipped("allow-tools")).await.status, StatusCode::OK, "it is there already");

    bound(&gateway, denying(digest, "first")).await;
    assert_eq!(code(&gateway).await, "first");
    let view = policies(&gateway).await;
    let binding = &view["bindings"][0];
    assert_eq!((&binding["managed_by"], &binding["module"]), (&json!("store"), &json!(format!("sha256:{digest}"))));
    let event = until_event(&gateway, "policy.bound").await;
    assert_eq!((&event["actor"], &event["detail"]["revision"]), (&json!("operator:socket"), &json!(1)));

    let reply = changed(&gateway, &denying(digest, "second").to_string()).await;
    assert_eq!((reply.header("etag"), code(&gateway).await), ("\"2\"", json!("second")));
    let event = until_event(&gateway, "policy.changed").await;
    let told = |member: &str| event["detail"][member].as_str().unwrap_or_default().to_owned();
    assert!(told("before").contains("first") && told("after").contains("second"), "{event}");
    let reply = gateway.operator("POST", "/api/v1/policies/rollback", Some(json!({}))).await;
    assert_eq!((reply.status, code(&gateway).await), (StatusCode::OK, json!("first")), "{}", reply.text());
    let reply = gateway.operator("POST", "/api/v1/policies/reload", None).await;
    assert_eq!((reply.status, code(&gateway).await), (StatusCode::OK, json!("second")), "{}", reply.text());

    let clock = gateway.clock.clone();
    let gateway = life().try_start(gateway.stop().await, clock).await.unwrap();
    gateway.until_upstreams_are_up().await;
    assert_eq!(code(&gateway).await, "second");
    let module_path = format!("/api/v1/policies/modules/{digest}");
    let reply = gateway.operator("DELETE", &module_path, None).await;
    assert_eq!(problem(&reply), (409, json!("module_in_use")));
    assert_eq!(run_in(gateway.dir.path(), &["policy", "unbind", "guard"]).await.code, Some(0));
    let reply = call(&gateway.caller("ci"), "up__echo", json!({ "a": 1 })).await;
    assert_eq!(super::structured(&reply), json!({ "a": 1 }));
    assert_eq!(policies(&gateway).await["bindings"], json!([]));
    let reply = gateway.operator("GET", GUARD, None).await;
    assert_eq!(problem(&reply), (404, json!("not_found")));
}

#[tokio::test]
async fn what_cannot_be_used_changes_nothing_and_says_why() {
    let up = Fixture::start().await;
    let gateway = Gateway::builder().http_upstream("up", &up.url).key("ci").start().await;
    for module in [b"rubbish".to_vec(), denies("one")[..200].to_vec()] {
        assert_eq!(problem(&gateway.upload(&module).await), (422, json!("invalid_module")));
    }
    let reply = gateway.operator("POST", "/api/v1/policies/modules", None).await;
    assert_eq!(problem(&reply), (415, json!("unsupported_media_type")));
    let digest = uploaded(&gateway, &denies("one")).await["digest"].as_str().unwrap().to_owned();
    let module = format!("sha256:{digest}");
    let post = async |definition: Value| {
        let body = json!({ "name": "guard", "definition": definition });
        gateway.operator("POST", BINDINGS, Some(body)).await
    };
    let reply = post(json!({ "module": "guard.wasm", "mode": "loud" })).await;
    assert_eq!(problem(&reply), (422, json!("invalid_definition")));
    let mistakes = reply.json()["mistakes"].as_array().unwrap().clone();
    for field in ["mode", "module"] {
        assert!(mistakes.iter().any(|mistake| mistake["field"] == field), "{}", reply.text());
    }
    let reply = post(json!({ "module": "builtin:allow-tools", "config": { "rules": 7 } })).await;
    assert_eq!(problem(&reply), (422, json!("policies_refused")));
    assert_eq!(policies(&gateway).await["generation"], 1, "nothing has come into force");

    bound(&gateway, json!({ "module": module, "limits": { "time": "1s" } })).await;
    assert_eq!(code(&gateway).await, "one");
    assert_eq!(problem(&post(json!({ "module": module })).await), (409, json!("name_taken")));
    let patch = json!({ "definition": { "mode": "off" } });
    let reply = gateway.operator("PATCH", GUARD, Some(patch)).await;
    assert_eq!(problem(&reply), (428, json!("precondition_required")));
    let token = std::fs::read_to_string(gateway.dir.path().join("data/operator-token")).unwrap();
    let operator = Caller::new(gateway.admin, Some(token.trim().to_owned())).with("if-match", "*");
    let reply = operator.send("PATCH", GUARD, r#"{"definition":{"zz":null}}"#).await;
    assert_eq!(problem(&reply), (422, json!("invalid_definition")), "it names what no policy has");
    let text = configuration(&gateway);
    let taken = format!("{text}\n[[policies]]\nname = \"guard\"\nmodule = \"builtin:allow-tools\"\n");
    gateway.replace("portcullis.toml", taken.as_bytes());
    let view = gateway.until("/api/v1/policies", |view| view["last_reload"]["ok"] == false).await;
    assert!(view["last_reload"]["error"].as_str().unwrap().contains("guard"), "{view}");
    assert_eq!(code(&gateway).await, "one", "what runs stays");
}

#[tokio::test]
async fn a_change_is_rehearsed_on_what_was_recorded() {
    let up = Fixture::start().await;
    let section = "[policy]\nrecord = true\n";
    let gateway = Gateway::builder().http_upstream("up", &up.url).key("ci").section(section).start().await;
    let digest = uploaded(&gateway, shipped("allow-tools")).await["digest"].as_str().unwrap().to_owned();
    bound(&gateway, denying(&digest, "first")).await;
    assert_eq!(code(&gateway).await, "first");
    gateway.until("/api/v1/recordings", |view| view["questions"].as_array().is_some_and(|all| !all.is_empty())).await;
    let rehearse = async |name: &str, definition: Value| {
        let body = json!({ "definition": definition });
        gateway.operator("POST", &format!("{BINDINGS}/{name}/rehearse"), Some(body)).await.json()
    };
    let tells = |changes: &Value, before: &str, after: &str| {
        let different = changes["different"].as_array().unwrap_or_else(|| panic!("{changes}"));
        let told = |change: &Value, member: &str, part: &str| change[member].as_str().unwrap().contains(part);
        different.iter().any(|change| told(change, "before", before) && told(change, "after", after))
    };
    let changes = rehearse("guard", denying(&digest, "second")).await;
    assert!(tells(&changes, "first", "second"), "{changes}");
    let changes = rehearse("another", denying(&digest, "third")).await;
    assert!(tells(&changes, "not asked", "third"), "one that is new had no say: {changes}");
    assert_eq!(changes["dropped"], json!([]), "{changes}");
    let changes = rehearse("guard", Value::Null).await;
    assert_eq!(changes["dropped"][0]["policy"], "guard", "{changes}");
    assert_eq!(code(&gateway).await, "first", "nothing has changed");
}

/// A module of the file that denies under `one`, and `guard` of the store beside it, which is off.
async fn beside_a_file() -> (Fixture, Gateway) {
    let up = Fixture::start().await;
    let builder = Gateway::builder().http_upstream("up", &up.url).key("ci");
    let gateway = builder.section(&binding("door", "door.wasm", "")).file("door.wasm", &denies("one")).start().await;
    bound(&gateway, json!({ "module": "builtin:allow-tools", "mode": "off" })).await;
    (up, gateway)
}

#[tokio::test]
async fn what_has_become_of_a_file_keeps_nobody_from_changing_the_store() {
    let (_up, gateway) = beside_a_file().await;
    let before = policies(&gateway).await["bindings"][0].clone();
    assert_eq!((&before["name"], code(&gateway).await), (&json!("door"), json!("one")));
    gateway.replace("door.wasm", b"rubbish");
    gateway.until("/api/v1/policies", |view| view["last_reload"]["ok"] == false).await;
    run_in(gateway.dir.path(), &["policy", "bind", "guard", "--mode", "shadow"]).await.printed();
    assert_eq!(code(&gateway).await, "one");
    run_in(gateway.dir.path(), &["policy", "unbind", "guard"]).await.printed();
    let view = policies(&gateway).await;
    assert_eq!((view["bindings"].as_array().unwrap().len(), &view["bindings"][0]["digest"]), (1, &before["digest"]));
    assert_eq!(code(&gateway).await, "one", "what the file had brought goes on");

    let reply = gateway.operator("POST", "/api/v1/policies/reload", None).await;
    assert_eq!(problem(&reply), (422, json!("reload_refused")));
    let detail = reply.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("policy door: module: ") && detail.contains("door.wasm"), "{detail}");
    assert_eq!(code(&gateway).await, "one");
}

#[tokio::test]
async fn a_module_that_no_reload_has_taken_does_not_come_with_a_change_of_the_store() {
    let (_up, gateway) = beside_a_file().await;
    let text = configuration(&gateway);
    gateway.replace("portcullis.toml", format!("{text}\n[[[").as_bytes());
    gateway.until("/api/v1/policies", |view| view["last_reload"]["ok"] == false).await;
    gateway.replace("door.wasm", &denies("two"));
    let reply = gateway.operator("DELETE", GUARD, None).await;
    assert_eq!(reply.status, StatusCode::NO_CONTENT, "{}", reply.text());
    assert_eq!(policies(&gateway).await["bindings"].as_array().unwrap().len(), 1);
    assert_eq!(code(&gateway).await, "one");
    let before = generation(&gateway).await;
    gateway.replace("portcullis.toml", text.as_bytes());
    until_after(&gateway, before).await;
    assert_eq!(code(&gateway).await, "two", "a reload brings it");
}

#[tokio::test]
async fn what_the_file_was_rolled_back_to_stays_while_the_store_changes() {
    let (_up, gateway) = beside_a_file().await;
    let before = generation(&gateway).await;
    gateway.replace("door.wasm", &denies("two"));
    until_after(&gateway, before).await;
    assert_eq!(code(&gateway).await, "two");
    let printed = run_in(gateway.dir.path(), &["policy", "rollback"]).await.printed();
    assert!(printed.contains("unbind what is wrong in the store"), "{printed}");
    assert_eq!(code(&gateway).await, "one");
    run_in(gateway.dir.path(), &["policy", "unbind", "guard"]).await.printed();
    assert_eq!(code(&gateway).await, "one", "the store has nothing to do with it");
    assert_eq!(gateway.operator("POST", "/api/v1/policies/reload", None).await.status, StatusCode::OK);
    assert_eq!(code(&gateway).await, "two", "the file counts again");
}
