//! What callers see of what upstreams list: changes as they happen, names that never meet, and definitions that no
//! gateway can use left out.

use std::collections::HashSet;

use portcullis_tests::upstreams::fixture::{self, Fixture, Settings};
use portcullis_tests::upstreams::hostile::{Behaviour, Hostile};
use portcullis_tests::{Caller, Gateway};
use serde_json::value::RawValue;
use serde_json::{Value, json};

async fn offering(tools: &[&str]) -> Fixture {
    let fixture = Fixture::start().await;
    fixture.set_tools(tools.iter().map(|name| fixture::tool(name)).collect());
    fixture
}

fn definition(json: &str) -> Box<RawValue> {
    RawValue::from_string(json.to_owned()).unwrap()
}

async fn until_tools(gateway: &Gateway, wanted: usize) {
    gateway.until("/api/v1/status", |status| status["tools"] == wanted).await;
}

/// The `params.name` that the upstream saw in a call.
async fn name_seen(caller: &Caller, tool: &str) -> String {
    let answer = caller.call(tool, json!({ "to": tool })).await.json();
    assert_eq!(answer["result"]["structuredContent"], json!({ "to": tool }), "{answer}");
    answer["result"]["content"][0]["text"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_changed_list_is_read_when_an_operator_asks() {
    let fixture = offering(&["one"]).await;
    let gateway = Gateway::builder().http_upstream("up", &fixture.url).key("ci").start().await;
    let caller = gateway.caller("ci");
    assert_eq!(caller.tool_names().await, ["up__one"]);
    fixture.set_tools(["one", "two"].map(fixture::tool).into());
    assert_eq!(gateway.operator("POST", "/api/v1/upstreams/up/refresh", None).await.status, 202);
    until_tools(&gateway, 2).await;
    assert_eq!(caller.tool_names().await, ["up__one", "up__two"]);
    name_seen(&caller, "up__two").await;
    assert_eq!(gateway.operator("POST", "/api/v1/upstreams/nobody/refresh", None).await.status, 404);
}

#[tokio::test]
async fn a_changed_list_is_read_by_itself_in_time() {
    let fixture = offering(&["one"]).await;
    let section = format!("[upstreams.up]\nurl = \"{}\"\nsync_interval = \"100ms\"", fixture.url);
    let gateway = Gateway::builder().section(&section).key("ci").start().await;
    fixture.set_tools(["two", "three"].map(fixture::tool).into());
    until_tools(&gateway, 2).await;
    let caller = gateway.caller("ci");
    assert_eq!(caller.tool_names().await, ["up__three", "up__two"]);
    let gone = caller.call("up__one", json!({})).await.json()["error"].clone();
    assert_eq!(gone["code"], -32602, "{gone}");
    fixture.set_tools(Vec::new());
    until_tools(&gateway, 0).await;
    assert_eq!(caller.tool_names().await, [""; 0]);
}

#[tokio::test]
async fn a_changed_list_is_read_when_the_child_says_so() {
    // Lists one tool under a new name after each call, and says that it did.
    const SCRIPT: &str = r#"n=0
while IFS= read -r line; do
  id=${line#*\"id\":}; id=${id%%,*}
  case $line in
    *'"server/discover"'*) printf '{"jsonrpc":"2.0","id":%s,"error":{"code":-32601,"message":"no"}}\n' "$id" ;;
    *'"initialize"'*) printf '{"jsonrpc":"2.0","id":%s,"result":{"protocolVersion":"2025-11-25","capabilities":{"tools":{"listChanged":true}},"serverInfo":{"name":"s","version":"1"}}}\n' "$id" ;;
    *'"tools/list"'*) printf '{"jsonrpc":"2.0","id":%s,"result":{"tools":[{"name":"turn-%s","inputSchema":{"type":"object"}}]}}\n' "$id" "$n" ;;
    *'"tools/call"'*) n=$((n+1)); printf '{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}\n{"jsonrpc":"2.0","id":%s,"result":{"content":[]}}\n' "$id" ;;
  esac
done
"#;
    let section = "[upstreams.turns]\ncommand = [\"sh\", \"turns.sh\"]\nworking_dir = \".\"";
    let gateway = Gateway::builder().section(section).file("turns.sh", SCRIPT.as_bytes()).key("ci").start().await;
    let caller = gateway.caller("ci");
    for turn in 0..3 {
        let name = format!("turns__turn-{turn}");
        let listed = async {
            while caller.tool_names().await != [name.as_str()] {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(portcullis_tests::gateway::SOON, listed).await.unwrap_or_else(|_| panic!("no {name}"));
        assert_eq!(caller.call(&name, json!({})).await.json()["result"]["content"], json!([]));
    }
}

#[tokio::test]
async fn tools_of_two_upstreams_never_meet() {
    let notes = offering(&["add", "list"]).await;
    // It tries to be the other one, to be both at once, and to be what the other one is about to be.
    let plain = offering(&["add", "notes__add", "notes__later", "notes__", "plain__add", "other__add"]).await;
    let bare = format!("[upstreams.plain]\nurl = \"{}\"\nprefix = false", plain.url);
    let gateway = Gateway::builder().section(&bare).http_upstream("notes", &notes.url).key("ci").start().await;
    let caller = gateway.caller("ci");
    let names = [
        "add",
        "notes__add",
        "notes__list",
        "other__add",
        "plain__notes__",
        "plain__notes__add",
        "plain__notes__later",
        // A bare name is never one with a prefix, be it the upstream's own.
        "plain__plain__add",
    ];
    assert_eq!(caller.tool_names().await, names);
    let calls_of = async |tool: &str| {
        let before = (notes.stats().calls, plain.stats().calls);
        name_seen(&caller, tool).await;
        (notes.stats().calls - before.0, plain.stats().calls - before.1)
    };
    for name in names {
        let is_notes = name.starts_with("notes__");
        assert_eq!(calls_of(name).await, if is_notes { (1, 0) } else { (0, 1) }, "{name}");
    }
}

#[tokio::test]
async fn a_bare_tool_does_not_take_the_name_of_an_upstream_that_is_down() {
    let down = Hostile::start(Behaviour::Refuses).await;
    let plain = offering(&["notes__delete", "add"]).await;
    let bare = format!("[upstreams.plain]\nurl = \"{}\"\nprefix = false", plain.url);
    let gateway = Gateway::builder().section(&bare).http_upstream("notes", &down.url).key("ci").start().await;
    assert_eq!(gateway.caller("ci").tool_names().await, ["add", "plain__notes__delete"]);
}

#[tokio::test]
async fn long_and_odd_names_are_shortened_and_still_reach_their_tool() {
    let long = |last: char| format!("{}{last}", "x".repeat(100));
    let fits = "y".repeat(64 - "up__".len());
    let tools = [
        long('1'),
        long('2'),
        fits.clone(),
        format!("{fits}y"),
        "größe/alle".to_owned(),
        "größe-alle".to_owned(),
        "a b".to_owned(),
    ];
    let tools: Vec<&str> = tools.iter().map(String::as_str).collect();
    let fixture = offering(&tools).await;
    let gateway = Gateway::builder().http_upstream("up", &fixture.url).key("ci").start().await;
    let caller = gateway.caller("ci");
    let names = caller.tool_names().await;
    assert_eq!(names.iter().collect::<HashSet<_>>().len(), tools.len(), "{names:?}");
    for name in &names {
        let is_plain = |character: char| character.is_ascii_alphanumeric() || "_.-".contains(character);
        assert!(name.len() <= 64 && name.starts_with("up__") && name.chars().all(is_plain), "{name}");
        name_seen(&caller, name).await;
    }
    assert!(names.contains(&format!("up__{fits}")), "what fits stays as it is: {names:?}");
    drop(gateway);
    let again = Gateway::builder().http_upstream("up", &fixture.url).key("ci").start().await;
    assert_eq!(again.caller("ci").tool_names().await, names, "the names are the same in another life");
}

#[tokio::test]
async fn a_long_list_is_read_page_by_page_and_shown_page_by_page() {
    let names: Vec<String> = (0..95).map(|number| format!("tool-{number:02}")).collect();
    let fixture = Fixture::with(Settings { page_size: Some(10), ..Settings::default() }).await.unwrap();
    fixture.set_tools(names.iter().map(|name| fixture::tool(name)).collect());
    let gateway = Gateway::builder()
        .section("[limits]\nlist_page = 30")
        .http_upstream("up", &fixture.url)
        .key("ci")
        .start()
        .await;
    let listed = gateway.caller("ci").tool_names().await;
    assert_eq!(listed, names.iter().map(|name| format!("up__{name}")).collect::<Vec<_>>());
}

#[tokio::test]
async fn definitions_that_cannot_be_used_are_left_out_and_the_others_stay() {
    let fixture = Fixture::start().await;
    let definitions = [
        r#"{"name":"good","inputSchema":{"type":"object"},"x-kept":[1.0]}"#,
        r#"{"inputSchema":{"type":"object"}}"#,
        r#"{"name":""}"#,
        r#"{"name":7}"#,
        r#"{"name":"good","description":"an impostor"}"#,
        r#"{"name":"other","name":"twice"}"#,
        r#""text""#,
        r"[]",
        r"null",
    ];
    fixture.set_tools(definitions.map(definition).into());
    let gateway = Gateway::builder().http_upstream("up", &fixture.url).key("ci").start().await;
    let listed = gateway.caller("ci").modern("tools/list", json!({})).await;
    assert!(
        listed.text().contains(r#""tools":[{"name":"up__good","inputSchema":{"type":"object"},"x-kept":[1.0]}]"#),
        "{}",
        listed.text()
    );
}

#[tokio::test]
async fn a_list_without_end_is_a_reason_to_be_down() {
    const SCRIPT: &str = r#"n=0
while IFS= read -r line; do
  id=${line#*\"id\":}; id=${id%%,*}
  case $line in
    *'"server/discover"'*) printf '{"jsonrpc":"2.0","id":%s,"error":{"code":-32601,"message":"no"}}\n' "$id" ;;
    *'"initialize"'*) printf '{"jsonrpc":"2.0","id":%s,"result":{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"s","version":"1"}}}\n' "$id" ;;
    *'"tools/list"'*) n=$((n+1)); printf '{"jsonrpc":"2.0","id":%s,"result":{"tools":[{"name":"t%s"}],"nextCursor":"%s"}}\n' "$id" "$n" "$n" ;;
  esac
done
"#;
    let section = "[upstreams.endless]\ncommand = [\"sh\", \"endless.sh\"]\nworking_dir = \".\"";
    let gateway = Gateway::builder().section(section).file("endless.sh", SCRIPT.as_bytes()).key("ci").start().await;
    let view = gateway.until("/api/v1/upstreams", |view| view["upstreams"][0]["state"] == "down").await;
    assert!(view["upstreams"][0]["reason"].as_str().unwrap().contains("does not end"), "{view}");
    let listed = gateway.caller("ci").modern("tools/list", json!({})).await.json();
    assert_eq!(listed["result"]["tools"], Value::Array(Vec::new()));
}
