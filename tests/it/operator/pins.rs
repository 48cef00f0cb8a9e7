//! Pinned definitions: an upstream's tools are what they were when somebody agreed to them, or policies know better.

use http::StatusCode;
use portcullis_tests::Gateway;
use portcullis_tests::upstreams::fixture::{self, Fixture};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::cli::run_in;

/// Hides what changed, and what came later.
const PINS: &str = "[[policies]]\nname = \"pins\"\nmodule = \"builtin:pin-tools\"\nlimits = { time = \"1s\" }\nconfig = { changed = \"hide\", first_seen = \"hide\", otherwise = \"allow\" }\n";

fn described(name: &str, description: &str) -> Box<RawValue> {
    let tool = json!({ "name": name, "description": description, "inputSchema": { "type": "object" } });
    serde_json::value::to_raw_value(&tool).unwrap()
}

async fn scene() -> (Fixture, Gateway) {
    let up = Fixture::start().await;
    up.set_tools(["add", "list"].map(fixture::tool).into());
    let gateway = Gateway::builder().http_upstream("up", &up.url).key("alice").section(PINS).start().await;
    (up, gateway)
}

/// How the tools of all upstreams stand, once they stand so.
async fn until_they_stand(gateway: &Gateway, expected: &[(&str, &str)]) -> Vec<Value> {
    let stands = |view: &Value| {
        let pins = view["pins"].as_array().unwrap().iter();
        let pins: Vec<_> = pins.map(|pin| (pin["tool"].as_str().unwrap(), pin["state"].as_str().unwrap())).collect();
        pins == expected
    };
    gateway.until("/api/v1/pins", stands).await["pins"].as_array().unwrap().clone()
}

async fn accept(gateway: &Gateway, body: Value) -> (u16, Value) {
    let reply = gateway.operator("POST", "/api/v1/pins/accept", Some(body)).await;
    (reply.status.as_u16(), reply.json())
}

#[tokio::test]
async fn an_upstream_that_is_new_is_taken_as_it_is() {
    let (_up, gateway) = scene().await;
    assert_eq!(gateway.caller("alice").tool_names().await, ["up__add", "up__list"]);
    let pins = until_they_stand(&gateway, &[("add", "pinned"), ("list", "pinned")]).await;
    assert_eq!(pins[0]["pinned"]["digest"], pins[0]["offered_digest"]);
    assert_eq!(
        (&pins[0]["pinned"]["by"], &pins[0]["pinned"]["accepted"]),
        (&json!("system"), &json!("2026-01-01T00:00:00.000Z"))
    );
    let audit = gateway.operator("GET", "/api/v1/audit", None).await.json();
    let adopted = audit["entries"].as_array().unwrap().iter().filter(|entry| entry["event"] == "pins.adopted");
    assert_eq!(
        adopted.map(|entry| entry["detail"].clone()).collect::<Vec<_>>(),
        [json!({ "upstream": "up", "tools": 2 })]
    );
}

#[tokio::test]
async fn what_changes_or_comes_later_is_not_there_until_somebody_accepts_it() {
    let (up, gateway) = scene().await;
    let alice = gateway.caller("alice");
    up.change_tools(vec![described("add", "Adds, and tells others."), fixture::tool("list"), fixture::tool("new")]);
    until_they_stand(&gateway, &[("add", "changed"), ("list", "pinned"), ("new", "first-seen")]).await;
    assert_eq!(alice.tool_names().await, ["up__list"]);
    let called = alice.call("up__add", json!({})).await.json();
    assert_eq!(called["error"]["code"], -32602, "{called}");

    let changed = gateway.operator("GET", "/api/v1/pins?changed=true", None).await.json();
    let names: Vec<_> = changed["pins"].as_array().unwrap().iter().map(|pin| pin["tool"].clone()).collect();
    assert_eq!(names, ["add", "new"]);
    let shown = gateway.operator("GET", "/api/v1/pins/definition?upstream=up&tool=add", None).await.json();
    assert_eq!(shown["differs_in"], json!(["description"]));
    assert_eq!(shown["pinned_definition"]["description"], "Says its arguments again.");
    assert_eq!(shown["offered_definition"]["description"], "Adds, and tells others.");

    let digest = shown["offered_digest"].as_str().unwrap();
    let old = shown["pinned"]["digest"].as_str().unwrap();
    let (status, answer) = accept(&gateway, json!({ "upstream": "up", "tool": "add", "digest": old })).await;
    assert_eq!((status, &answer["code"]), (409, &json!("other_digest")), "{answer}");
    let (status, answer) = accept(&gateway, json!({ "upstream": "up", "tool": "add", "digest": digest })).await;
    assert_eq!((status, &answer["pin"]["state"]), (200, &json!("pinned")), "{answer}");
    assert_eq!(alice.tool_names().await, ["up__add", "up__list"], "at once");
    assert_eq!(alice.call("up__add", json!({})).await.status, StatusCode::OK);

    // What it was before is another definition now.
    up.change_tools(["add", "list"].map(fixture::tool).into());
    until_they_stand(&gateway, &[("add", "changed"), ("list", "pinned")]).await;
    let (status, answer) = accept(&gateway, json!({ "upstream": "up", "all": true })).await;
    assert_eq!((status, &answer["accepted"]), (200, &json!(2)), "{answer}");
    until_they_stand(&gateway, &[("add", "pinned"), ("list", "pinned")]).await;
    let audit = gateway.operator("GET", "/api/v1/audit", None).await.json();
    let events: Vec<_> =
        audit["entries"].as_array().unwrap().iter().take(2).map(|entry| entry["event"].clone()).collect();
    assert_eq!(events, ["pins.accepted", "pin.accepted"]);
}

#[tokio::test]
async fn a_definition_that_is_written_in_another_way_is_the_same() {
    let (up, gateway) = scene().await;
    let turned =
        r#"{ "inputSchema": {"type":"object"}, "description":"Says its arguments again\u002e", "name":"add" }"#;
    up.change_tools(vec![
        RawValue::from_string(turned.to_owned()).unwrap(),
        fixture::tool("list"),
        fixture::tool("new"),
    ]);
    until_they_stand(&gateway, &[("add", "pinned"), ("list", "pinned"), ("new", "first-seen")]).await;
}

#[tokio::test]
async fn a_tool_that_is_gone_is_remembered_and_pins_outlive_the_gateway() {
    let up = Fixture::start().await;
    up.set_tools(["add", "list"].map(fixture::tool).into());
    let builder = || Gateway::builder().on_disk().http_upstream("up", &up.url).key("alice").section(PINS);
    let gateway = builder().start().await;
    until_they_stand(&gateway, &[("add", "pinned"), ("list", "pinned")]).await;
    let clock = gateway.clock.clone();
    let dir = gateway.stop().await;
    up.set_tools(vec![described("add", "Adds more."), fixture::tool("new")]);
    let gateway = builder().try_start(dir, clock).await.unwrap();
    gateway.wait_until_ready().await;
    until_they_stand(&gateway, &[("add", "changed"), ("list", "gone"), ("new", "first-seen")]).await;
    assert_eq!(gateway.caller("alice").tool_names().await, [""; 0]);
    up.change_tools(["add", "list"].map(fixture::tool).into());
    until_they_stand(&gateway, &[("add", "pinned"), ("list", "pinned")]).await;
}

/// A reload that took a server away leaves its pins, so that one who comes back under its name is known for what it is.
#[tokio::test]
async fn pins_of_an_upstream_that_was_removed_can_be_forgotten() {
    let (up, gateway) = scene().await;
    until_they_stand(&gateway, &[("add", "pinned"), ("list", "pinned")]).await;
    let dir = gateway.dir.path();
    let forget = async || run_in(dir, &["pin", "forget", "up"]).await;
    let refused = forget().await.complaint();
    assert!(refused.contains("the upstream is configured"), "{refused}");

    let text = std::fs::read_to_string(&gateway.file).unwrap();
    let section = format!("[upstreams.up]\ntransport = \"streamable-http\"\nurl = \"{}\"\n", up.url);
    let without = text.replace(&section, "");
    assert_ne!(without, text);
    let there = |count: usize| move |view: &Value| view["upstreams"].as_array().unwrap().len() == count;
    gateway.replace("portcullis.toml", without.as_bytes());
    gateway.until("/api/v1/upstreams", there(0)).await;
    up.change_tools(vec![described("add", "Adds more.")]);
    gateway.replace("portcullis.toml", text.as_bytes());
    until_they_stand(&gateway, &[("add", "changed"), ("list", "gone")]).await;

    gateway.replace("portcullis.toml", without.as_bytes());
    gateway.until("/api/v1/upstreams", there(0)).await;
    assert_eq!(forget().await.printed().trim_end(), "the pins of 2 tools of up are forgotten");
    let audit = gateway.operator("GET", "/api/v1/audit?limit=1", None).await.json();
    let entry = &audit["entries"][0];
    assert_eq!(
        (&entry["event"], &entry["detail"]),
        (&json!("pins.forgotten"), &json!({ "upstream": "up", "tools": 2 }))
    );
    assert!(forget().await.complaint().contains("nothing is pinned of an upstream of this name"));
    let reply = gateway.operator("POST", "/api/v1/pins/forget", Some(json!({ "upstream": "NO" }))).await;
    assert_eq!(reply.status, StatusCode::NOT_FOUND);

    gateway.replace("portcullis.toml", text.as_bytes());
    until_they_stand(&gateway, &[("add", "pinned")]).await;
    assert_eq!(gateway.caller("alice").tool_names().await, ["up__add"]);
}

#[tokio::test]
async fn a_list_of_pins_is_paged_by_name() {
    let up = Fixture::start().await;
    let names: Vec<String> = (0..25).map(|number| format!("tool_{number:02}")).collect();
    up.set_tools(names.iter().map(|name| fixture::tool(name)).collect());
    let gateway =
        Gateway::builder().http_upstream("up", &up.url).http_upstream("also", &up.url).key("alice").start().await;
    let mut seen = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = gateway.operator("GET", &format!("/api/v1/pins?limit=7{cursor}"), None).await.json();
        let pins = page["pins"].as_array().unwrap();
        assert!(pins.len() <= 7);
        seen.extend(
            pins.iter().map(|pin| format!("{}/{}", pin["upstream"].as_str().unwrap(), pin["tool"].as_str().unwrap())),
        );
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    let expected: Vec<String> =
        ["also", "up"].iter().flat_map(|upstream| names.iter().map(move |name| format!("{upstream}/{name}"))).collect();
    assert_eq!(seen, expected);
    for (path, status) in [
        ("?cursor=x", 400),
        ("?limit=x", 400),
        ("?upstream=NONE", 404),
        ("/definition", 400),
        ("/definition?upstream=up&tool=none", 404),
    ] {
        let reply = gateway.operator("GET", &format!("/api/v1/pins{path}"), None).await;
        assert_eq!(reply.status.as_u16(), status, "{path}: {}", reply.text());
    }
    for (body, status) in [
        (json!({ "upstream": "up" }), 422),
        (json!({ "upstream": "up", "tool": "tool_01", "all": true }), 422),
        (json!({ "upstream": "up", "tool": "none" }), 404),
        (json!({ "upstream": "none", "all": true }), 404),
    ] {
        assert_eq!(accept(&gateway, body.clone()).await.0, status, "{body}");
    }
}

#[tokio::test]
async fn the_command_line_compares_and_accepts() {
    let (up, gateway) = scene().await;
    up.change_tools(vec![described("add", "Adds more.\u{1b}[2J"), fixture::tool("list"), fixture::tool("new")]);
    until_they_stand(&gateway, &[("add", "changed"), ("list", "pinned"), ("new", "first-seen")]).await;
    let dir = gateway.dir.path();
    let list = run_in(dir, &["pin", "list", "--changed"]).await.printed();
    assert!(list.contains("up/add") && list.contains("up/new") && !list.contains("up/list"), "{list}");
    let shown = run_in(dir, &["pin", "show", "up/add"]).await.printed();
    let differs = [
        "differs in description",
        "-   \"description\": \"Says its arguments again.\"",
        "+   \"description\": \"Adds more.\\u001b[2J\"",
    ];
    assert!(differs.iter().all(|line| shown.contains(line)), "{shown}");
    let accepted = run_in(dir, &["pin", "accept", "up/add"]).await.printed();
    assert!(accepted.contains("accepted "), "{accepted}");
    until_they_stand(&gateway, &[("add", "pinned"), ("list", "pinned"), ("new", "first-seen")]).await;
    let all = run_in(dir, &["pin", "accept", "up", "--all"]).await.printed();
    assert!(all.contains("the definitions of 3 tools of up are pinned"), "{all}");
    assert!(!run_in(dir, &["pin", "list", "--changed"]).await.printed().contains("up/"));
    let unknown = run_in(dir, &["pin", "show", "up/none"]).await.complaint();
    assert!(unknown.contains("there is no such tool"), "{unknown}");
}
