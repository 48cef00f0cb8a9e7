//! What the gateway says that it can is what it can: for no upstream, for one of tools only, for one of everything, for
//! keys that reach all or little of it, in each revision.

use portcullis_tests::upstreams::fixture::{Eras, Fixture, Settings};
use portcullis_tests::{Caller, Gateway};
use serde_json::{Value, json};

use super::scripted::{Manner, Offer, Scripted};
use super::{ask, result_of};

const LEGACY: [&str; 4] = ["2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"];

/// What `initialize` answers.
async fn initialized(caller: &Caller, version: &str) -> Value {
    let info = json!({ "name": "tests", "version": "1" });
    let params = json!({ "protocolVersion": version, "capabilities": {}, "clientInfo": info });
    caller.request("initialize", params).await.json()["result"].clone()
}

/// The capabilities of each revision, the stateless one first.
async fn capabilities(caller: &Caller) -> Vec<Value> {
    let mut all = vec![result_of(caller, "server/discover", json!({})).await["capabilities"].clone()];
    for version in LEGACY {
        all.push(initialized(caller, version).await["capabilities"].clone());
    }
    all
}

fn tools_only() -> Value {
    json!({ "tools": { "listChanged": true } })
}

#[tokio::test]
async fn without_upstreams_there_is_an_empty_list_of_tools() {
    let gateway = Gateway::builder().key("alice").start().await;
    let alice = gateway.caller("alice");
    for capabilities in capabilities(&alice).await {
        assert_eq!(capabilities, tools_only());
    }
    assert_eq!(alice.tool_names().await, [""; 0]);
    let discovered = result_of(&alice, "server/discover", json!({})).await;
    assert_eq!(discovered["instructions"], Value::Null);
}

#[tokio::test]
async fn an_upstream_of_tools_adds_nothing_else() {
    let up = Scripted::start(&[r#"{"name":"a","inputSchema":{"type":"object"}}"#]).await;
    let gateway = Gateway::builder().http_upstream("up", &up.url).key("alice").start().await;
    for capabilities in capabilities(&gateway.caller("alice")).await {
        assert_eq!(capabilities, tools_only());
    }
}

#[tokio::test]
async fn everything_that_an_upstream_has_is_offered_in_the_words_of_each_revision() {
    let up = Fixture::with(Settings { eras: Eras::Legacy, ..Settings::default() }).await.unwrap();
    let gateway = Gateway::builder().http_upstream("up", &up.url).key("alice").start().await;
    let lists = json!({ "listChanged": true });
    for (capabilities, version) in
        capabilities(&gateway.caller("alice")).await.iter().zip(["2026-07-28"].into_iter().chain(LEGACY))
    {
        assert_eq!((&capabilities["tools"], &capabilities["prompts"]), (&lists, &lists), "{version}");
        assert_eq!(capabilities["resources"], json!({ "listChanged": true, "subscribe": true }), "{version}");
        assert_eq!(capabilities["logging"], json!({}), "{version}");
        let completions = if version == "2024-11-05" { Value::Null } else { json!({}) };
        assert_eq!(capabilities["completions"], completions, "{version}");
        let has_tasks = capabilities["tasks"].is_object();
        assert_eq!(has_tasks, version == "2025-11-25", "{version}: tasks of this shape are that revision's");
    }
}

#[tokio::test]
async fn what_is_offered_is_served_and_what_is_not_is_not() {
    let up = Fixture::with(Settings { eras: Eras::Legacy, ..Settings::default() }).await.unwrap();
    let plain = Scripted::start(&[r#"{"name":"a","inputSchema":{"type":"object"}}"#]).await;
    let builder = Gateway::builder().http_upstream("up", &up.url).http_upstream("plain", &plain.url);
    let gateway = builder.key("alice").start().await;
    let all = gateway.caller("alice").initialize("2025-11-25").await;
    for (method, params) in [
        ("prompts/list", json!({})),
        ("resources/list", json!({})),
        ("resources/templates/list", json!({})),
        ("logging/setLevel", json!({ "level": "info" })),
        ("resources/subscribe", json!({ "uri": "test://watched-resource" })),
        ("resources/unsubscribe", json!({ "uri": "test://watched-resource" })),
        (
            "completion/complete",
            json!({ "ref": { "type": "ref/prompt", "name": "up__test_prompt_with_arguments" }, "argument": { "name": "arg1", "value": "p" } }),
        ),
    ] {
        result_of(&all, method, params).await;
    }
    // At the endpoint of the other one there is nothing of it.
    let at_plain = gateway.caller("alice").at("/mcp/plain");
    for capabilities in capabilities(&at_plain).await {
        assert_eq!(capabilities, tools_only());
    }
    let session = at_plain.initialize("2025-11-25").await;
    assert_eq!(result_of(&session, "prompts/list", json!({})).await["prompts"], json!([]));
    let unknown = ask(&session, "prompts/get", json!({ "name": "test_simple_prompt" })).await;
    assert_eq!(unknown.json()["error"]["code"], -32602);
}

#[tokio::test]
async fn a_key_is_offered_what_it_reaches() {
    let up = Fixture::with(Settings { eras: Eras::Legacy, ..Settings::default() }).await.unwrap();
    let gateway = Gateway::builder()
        .http_upstream("up", &up.url)
        .key("all")
        .key_for("single", r#"[{ upstream = "up", tools = ["echo"] }]"#)
        .key_for("nothing", "[]")
        .key_for("elsewhere", r#"[{ upstream = "other*", tools = ["*"] }]"#)
        .start()
        .await;
    for capabilities in capabilities(&gateway.caller("all")).await {
        assert!(capabilities["prompts"].is_object() && capabilities["resources"].is_object(), "{capabilities}");
    }
    for key in ["single", "nothing", "elsewhere"] {
        for capabilities in capabilities(&gateway.caller(key)).await {
            for absent in ["prompts", "resources", "completions"] {
                assert!(capabilities.get(absent).is_none(), "{key}: {capabilities}");
            }
            assert_eq!(capabilities["tools"], json!({ "listChanged": true }), "{key}");
        }
    }
}

#[tokio::test]
async fn what_an_upstream_can_after_a_restart_is_offered_from_then_on() {
    let tools = vec![r#"{"name":"a"}"#.to_owned()];
    let up = Scripted::with(Manner::Legacy, Offer { tools: tools.clone(), ..Offer::default() }).await;
    let gateway = Gateway::builder()
        .section(&format!("[upstreams.up]\nurl = \"{}\"\nsync_interval = \"100ms\"", up.url))
        .key("alice")
        .start()
        .await;
    let alice = gateway.caller("alice");
    assert_eq!(capabilities(&alice).await, vec![tools_only(); 5]);
    // Another server at the same place: it wants to be initialized anew.
    let prompts = vec![r#"{"name":"p"}"#.to_owned()];
    up.offer(Offer { tools, prompts, ..Offer::default() });
    up.forget_sessions();
    let seen = async {
        while capabilities(&alice).await.iter().any(|capabilities| capabilities.get("prompts").is_none()) {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(portcullis_tests::gateway::SOON, seen).await.expect("what it offers is seen");
}

#[tokio::test]
async fn instructions_are_told_with_whose_they_are() {
    let with = |text: Option<&str>| Offer {
        tools: vec![r#"{"name":"a"}"#.to_owned()],
        instructions: text.map(ToOwned::to_owned),
        ..Offer::default()
    };
    let alpha = Scripted::with(Manner::Modern, with(Some("Ask alpha\nfirst."))).await;
    let silent = Scripted::with(Manner::Modern, with(None)).await;
    let zeta = Scripted::with(Manner::Legacy, with(Some("  \"Zeta\" knows é. "))).await;
    let gateway = Gateway::builder()
        .http_upstream("zeta", &zeta.url)
        .http_upstream("silent", &silent.url)
        .http_upstream("alpha", &alpha.url)
        .key("all")
        .key_for("narrow", r#"[{ upstream = "zeta", tools = ["a"] }]"#)
        .start()
        .await;
    let both = "# alpha\n\nAsk alpha\nfirst.\n\n# zeta\n\n\"Zeta\" knows é.";
    for (key, path, expected) in [
        ("all", "/mcp", json!(both)),
        ("narrow", "/mcp", json!("# zeta\n\n\"Zeta\" knows é.")),
        ("all", "/mcp/alpha", json!("Ask alpha\nfirst.")),
        ("all", "/mcp/zeta", json!("  \"Zeta\" knows é. ")),
        ("all", "/mcp/silent", Value::Null),
    ] {
        let caller = gateway.caller(key).at(path);
        assert_eq!(result_of(&caller, "server/discover", json!({})).await["instructions"], expected, "{key} {path}");
        for version in LEGACY {
            assert_eq!(initialized(&caller, version).await["instructions"], expected, "{key} {path} {version}");
        }
    }
}
