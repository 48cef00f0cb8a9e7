//! Upstreams in an operator's hands: declared, tried, changed, disabled, removed, and found again after a restart.

use http::StatusCode;
use portcullis_tests::caller::Reply;
use portcullis_tests::gateway::SOON;
use portcullis_tests::upstreams::fixture::{self, Fixture};
use portcullis_tests::{Gateway, program};
use serde_json::{Value, json};

use super::with_token;
use crate::cli::run_in;

const CANARY: &str = "canary-52d0c7e1b96f";

async fn declare(gateway: &Gateway, name: &str, definition: Value) -> Reply {
    let new = json!({ "name": name, "definition": definition });
    gateway.operator("POST", "/api/v1/upstreams", Some(new)).await
}

async fn declared(gateway: &Gateway, name: &str, definition: Value) -> Value {
    let reply = declare(gateway, name, definition).await;
    assert_eq!(reply.status, StatusCode::CREATED, "{}", reply.text());
    reply.json()
}

/// Changes what has this revision.
async fn patch(gateway: &Gateway, name: &str, revision: u64, patch: Value) -> Reply {
    let operator = with_token(gateway).with("if-match", &format!("\"{revision}\""));
    operator.send("PATCH", &format!("/api/v1/upstreams/{name}"), patch.to_string()).await
}

async fn show(gateway: &Gateway, name: &str) -> Value {
    gateway.operator("GET", &format!("/api/v1/upstreams/{name}"), None).await.json()
}

/// Status and code of a refusal.
fn refusal(reply: &Reply) -> (u16, String) {
    (reply.status.as_u16(), reply.json()["code"].as_str().unwrap_or_default().to_owned())
}

async fn until_tools(gateway: &Gateway, expected: &[&str]) {
    let until = tokio::time::Instant::now() + SOON;
    loop {
        let names = gateway.caller("alice").tool_names().await;
        if names == expected {
            return;
        }
        assert!(tokio::time::Instant::now() < until, "{names:?} do not become {expected:?}");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

/// A fixture that offers this tool besides its own, and nothing else.
async fn offering(tool: &str) -> Fixture {
    let up = Fixture::start().await;
    up.set_tools(vec![fixture::tool(tool)]);
    up
}

#[tokio::test]
async fn what_is_declared_is_callable_and_what_is_removed_is_not() {
    let (one, two) = (offering("add").await, offering("sub").await);
    let gateway = Gateway::builder().key("alice").start().await;
    let reply = declare(&gateway, "notes", json!({ "url": one.url, "headers": { "x-key": CANARY } })).await;
    assert_eq!(reply.status, StatusCode::CREATED, "{}", reply.text());
    assert_eq!(reply.header("location"), "/api/v1/upstreams/notes");
    assert_eq!(reply.header("etag"), "\"1\"");
    let made = reply.json();
    assert_eq!((&made["managed_by"], &made["enabled"]), (&json!("store"), &json!(true)));
    assert_eq!(made["definition"]["headers"], json!({ "x-key": "sealed" }));
    until_tools(&gateway, &["notes__add"]).await;
    let called = gateway.caller("alice").call("notes__add", json!({ "n": 7 })).await;
    assert_eq!(called.json()["result"]["resultType"], "complete", "{}", called.text());

    let elsewhere = patch(&gateway, "notes", 1, json!({ "definition": { "url": two.url } })).await;
    assert_eq!(refusal(&elsewhere), (422, "invalid_definition".to_owned()), "{}", elsewhere.text());
    assert_eq!(elsewhere.json()["mistakes"][0]["field"], "headers.x-key");
    let moved = json!({ "url": two.url, "headers": { "x-key": "sealed" } });
    let changed = patch(&gateway, "notes", 1, json!({ "definition": moved })).await;
    assert_eq!(changed.status, StatusCode::OK, "{}", changed.text());
    assert_eq!(changed.json()["definition_revision"], 2);
    until_tools(&gateway, &["notes__sub"]).await;
    assert_eq!(refusal(&patch(&gateway, "notes", 1, json!({ "enabled": false })).await).0, 412);

    assert_eq!(patch(&gateway, "notes", 2, json!({ "enabled": false })).await.json()["state"], "disabled");
    assert!(gateway.caller("alice").tool_names().await.is_empty(), "at once");
    let again = gateway.operator("POST", "/api/v1/upstreams/notes/refresh", None).await;
    assert_eq!(refusal(&again), (409, "not_running".to_owned()), "{}", again.text());
    assert_eq!(patch(&gateway, "notes", 3, json!({ "enabled": true })).await.status, StatusCode::OK);
    until_tools(&gateway, &["notes__sub"]).await;

    let gone = gateway.operator("DELETE", "/api/v1/upstreams/notes", None).await;
    assert_eq!(gone.status, StatusCode::NO_CONTENT, "{}", gone.text());
    assert!(gateway.caller("alice").tool_names().await.is_empty(), "at once");
    assert_eq!(gateway.operator("DELETE", "/api/v1/upstreams/notes", None).await.status, StatusCode::NOT_FOUND);
    let trail = gateway.operator("GET", "/api/v1/audit", None).await;
    assert!(!trail.text().contains(CANARY));
    let entries = trail.json()["entries"].as_array().unwrap().clone();
    let events: Vec<&str> = entries.iter().filter_map(|entry| entry["event"].as_str()).collect();
    let of_upstreams: Vec<&str> = events.into_iter().filter(|event| event.starts_with("upstream.")).collect();
    let (changed, declared) = ("upstream.changed", "upstream.declared");
    assert_eq!(of_upstreams, ["upstream.withdrawn", changed, changed, changed, declared]);
}

#[tokio::test]
async fn what_is_declared_is_there_after_a_restart_and_the_store_tells_no_secret() {
    let up = offering("add").await;
    let builder = || Gateway::builder().on_disk().key("alice");
    let gateway = builder().start().await;
    declared(&gateway, "notes", json!({ "url": up.url, "headers": { "x-key": CANARY } })).await;
    until_tools(&gateway, &["notes__add"]).await;
    let clock = gateway.clock.clone();
    let dir = gateway.stop().await;
    let bytes = std::fs::read(dir.path().join("data/portcullis.redb")).unwrap();
    let has = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(has("x-key") && !has(CANARY));
    let gateway = builder().try_start(dir, clock).await.unwrap();
    until_tools(&gateway, &["notes__add"]).await;
    let view = show(&gateway, "notes").await;
    assert_eq!((&view["managed_by"], &view["definition_revision"]), (&json!("store"), &json!(1)));
    assert!(!view.to_string().contains(CANARY));
}

#[tokio::test]
async fn a_mistake_names_its_setting_and_a_trial_its_stage() {
    let up = Fixture::start().await;
    let gateway = Gateway::builder().http_upstream("filed", &up.url).start().await;
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let something_else = format!("http://{}/healthz", gateway.public);
    for (definition, field) in [
        (json!({ "url": "not-a-url" }), json!("url")),
        (json!({ "url": up.url, "colour": "red" }), json!("colour")),
        (json!({ "url": up.url, "auth": { "kind": "magic" } }), json!("auth.kind")),
        (json!({ "url": up.url, "headers": { "host": "x" } }), json!("headers.host")),
        (json!({}), Value::Null),
    ] {
        let reply = declare(&gateway, "notes", definition.clone()).await;
        assert_eq!(refusal(&reply), (422, "invalid_definition".to_owned()), "{definition}: {}", reply.text());
        assert_eq!(reply.json()["mistakes"][0]["field"], field, "{}", reply.text());
    }
    for (definition, stage) in [
        (json!({ "url": format!("http://{nobody}/mcp") }), "reach"),
        (json!({ "command": ["/no/such/program"] }), "reach"),
        (json!({ "url": something_else }), "speak"),
        (json!({ "command": ["true"] }), "speak"),
    ] {
        let reply = declare(&gateway, "notes", definition.clone()).await;
        assert_eq!(refusal(&reply), (422, "trial_failed".to_owned()), "{definition}: {}", reply.text());
        assert_eq!(reply.json()["stage"], stage, "{}", reply.text());
        let tried = json!({ "name": "notes", "definition": definition });
        let tried = gateway.operator("POST", "/api/v1/upstreams/try", Some(tried)).await;
        assert_eq!((tried.status, &tried.json()["stage"]), (StatusCode::OK, &json!(stage)), "{}", tried.text());
    }
    assert_eq!(gateway.operator("GET", "/api/v1/upstreams/notes", None).await.status, StatusCode::NOT_FOUND);

    let unchecked = json!({ "name": "notes", "definition": { "url": format!("http://{nobody}/mcp") } });
    let saved = gateway.operator("POST", "/api/v1/upstreams?unchecked=true", Some(unchecked)).await;
    assert_eq!((saved.status, &saved.json()["state"]), (StatusCode::CREATED, &json!("down")), "{}", saved.text());
    assert!(saved.json()["last_failure"]["reason"].is_string() && saved.json()["since"].is_string());
    let trail = gateway.operator("GET", "/api/v1/audit?limit=1", None).await.json();
    assert_eq!(trail["entries"][0]["detail"]["unchecked"], true, "{trail}");

    let path = "/api/v1/upstreams/filed";
    assert_eq!(refusal(&declare(&gateway, "filed", json!({ "url": up.url })).await).1, "name_taken");
    assert_eq!(refusal(&patch(&gateway, "filed", 1, json!({ "enabled": false })).await).1, "managed_by_file");
    assert_eq!(refusal(&gateway.operator("DELETE", path, None).await).1, "managed_by_file");
    let works = gateway.operator("POST", &format!("{path}/try"), None).await.json();
    assert_eq!(works["outcome"], "works", "{works}");
    let unconditional = gateway.operator("PATCH", "/api/v1/upstreams/notes", Some(json!({ "enabled": false }))).await;
    assert_eq!(refusal(&unconditional), (428, "precondition_required".to_owned()));
    for wrong in [json!({ "name": "other" }), json!({ "definition": null }), json!({ "enabled": null })] {
        assert_eq!(refusal(&patch(&gateway, "notes", 1, wrong.clone()).await).0, 422, "{wrong}");
    }
    for (definition, field) in [(json!({ "zz": null }), "zz"), (json!({ "auth": { "kimd": null } }), "auth.kimd")] {
        let refused = patch(&gateway, "notes", 1, json!({ "definition": definition })).await;
        assert_eq!(refusal(&refused), (422, "invalid_definition".to_owned()), "{definition}");
        assert_eq!(refused.json()["mistakes"][0]["field"], field, "{}", refused.text());
    }
    let operator = with_token(&gateway).with("if-match", "\"7\"");
    let kept = operator.send("DELETE", "/api/v1/upstreams/notes", "").await;
    assert_eq!((refusal(&kept), &kept.json()["revision"]), ((412, "precondition_failed".to_owned()), &json!(1)));
}

#[tokio::test]
async fn a_program_is_declared_tried_and_ended() {
    let gateway = Gateway::builder().key("alice").start().await;
    let fixture = program("fixture-upstream");
    let definition = json!({ "command": [fixture, "stdio"], "environment": { "MARK": CANARY } });
    let made = declared(&gateway, "child", definition).await;
    assert_eq!(made["definition"]["environment"], json!({ "MARK": "sealed" }));
    gateway.until_upstreams_are_up().await;
    let seen = gateway.caller("alice").call("child__whoami", json!({})).await;
    assert!(seen.text().contains(CANARY), "the program has its variable");
    assert!(!gateway.dir.path().join("data/trials").read_dir().is_ok_and(|mut left| left.next().is_some()));
    assert_eq!(gateway.operator("DELETE", "/api/v1/upstreams/child", None).await.status, StatusCode::NO_CONTENT);
    assert!(gateway.caller("alice").tool_names().await.is_empty());
}

#[tokio::test]
async fn upstreams_are_looked_after_from_the_command_line() {
    let up = offering("add").await;
    let gateway = Gateway::builder().key("alice").start().await;
    let (dir, config) = (gateway.dir.path(), gateway.file.to_str().unwrap());
    let run = async |arguments: &[&str]| run_in(dir, &[&["upstream"], arguments, &["--config", config]].concat()).await;
    let header = format!("x-key={CANARY}");
    let added = run(&["add", "notes", "--url", &up.url, "--header", &header]).await.printed();
    assert!(added.starts_with("notes is up, 1 tools"), "{added}");
    let shown = run(&["show", "notes"]).await.printed();
    assert!(shown.contains("\"sealed\"") && !shown.contains(CANARY), "{shown}");
    run(&["set", "notes", "trust=high", "call_timeout=5s", "labels=[\"a\"]"]).await.printed();
    let view = show(&gateway, "notes").await;
    let definition = json!({ "call_timeout": "5s", "headers": { "x-key": "sealed" }, "labels": ["a"], "trust": "high", "url": up.url });
    assert_eq!(view["definition"], definition);
    assert!(run(&["try", "notes"]).await.printed().starts_with("notes works: 1 tools"));
    assert_eq!(run(&["disable", "notes"]).await.printed(), "notes is disabled\n");
    assert!(run(&["enable", "notes"]).await.printed().starts_with("notes is up"));
    let list = run(&["list"]).await.printed();
    assert!(list.contains("notes") && list.contains("store") && list.contains("up"), "{list}");
    for (arguments, part) in [
        (&["add", "notes", "--url", "http://127.0.0.1:9/"][..], "already"),
        (&["add", "other", "--url", "http://127.0.0.1:9/"], "the trial fails at reach: "),
        (&["add", "other", "--auth", "none"], "needs a url or a command"),
        (&["set", "notes", "colour=red"], "unknown key `colour`"),
        (&["show", "none"], "no such upstream"),
    ] {
        let complaint = run(arguments).await.complaint();
        assert!(complaint.contains(part), "{arguments:?}: {complaint}");
    }
    assert_eq!(run(&["remove", "notes"]).await.printed(), "notes is removed\n");
    let fixture = program("fixture-upstream");
    let program = [&["upstream", "add", "child", "--config", config, "--"][..], &[fixture.to_str().unwrap(), "stdio"]];
    let added = run_in(dir, &program.concat()).await.printed();
    assert!(added.starts_with("child is "), "{added}");
}

mod postgres {
    use portcullis_tests::gateway::Builder;
    use portcullis_tests::postgres::Server;
    use portcullis_tests::{TestClock, replicas};

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn every_gateway_on_the_store_follows() {
        let server = Server::shared();
        let schema = server.new_schema();
        let up = offering("add").await;
        let configure = |builder: Builder| builder.in_database(server, &schema).key("alice");
        let gateways = replicas::start(configure, vec![TestClock::default(); 2]).await;
        declared(&gateways[0], "notes", json!({ "url": up.url, "headers": { "x-key": CANARY } })).await;
        until_tools(&gateways[1], &["notes__add"]).await;
        let disabled = patch(&gateways[1], "notes", 1, json!({ "enabled": false })).await;
        assert_eq!(disabled.status, StatusCode::OK, "{}", disabled.text());
        until_tools(&gateways[0], &[]).await;
        for gateway in gateways {
            gateway.stop().await;
        }
    }
}
