//! Every pair: lists, tools, prompts, resources, templates and completion, as the caller's revision has them.

use serde_json::{Value, json};

use super::{Client, Kind, Scene, Up, text};

/// One test for each upstream, with callers of all kinds in turn.
macro_rules! with_all_callers {
    ($($name:ident: $up:ident,)*) => {$(
        #[tokio::test]
        async fn $name() {
            let scene = Up::$up.scene().await;
            for kind in Kind::ALL {
                let mut client = scene.client(kind, json!({})).await;
                lists(&scene, &mut client).await;
                tools(&mut client).await;
                prompts(&mut client).await;
                resources(&scene, &mut client).await;
                completion(&mut client).await;
            }
        }
    )*};
}

with_all_callers! {
    modern_http_has_all_callers: ModernHttp,
    legacy_http_has_all_callers: LegacyHttp,
    http_without_sessions_has_all_callers: Stateless,
    http_with_sse_has_all_callers: Sse,
    http_with_sse_is_found_and_has_all_callers: SseFound,
    modern_stdio_has_all_callers: ModernStdio,
    legacy_stdio_has_all_callers: LegacyStdio,
}

/// What a modern result has and a legacy one is not given.
fn check_envelope(client: &Client, result: &Value, is_cacheable: bool) {
    if client.kind == Kind::Modern {
        assert_eq!(result["resultType"], "complete", "{result}");
        assert_eq!(result["cacheScope"] == "private", is_cacheable, "{result}");
        assert_eq!(result["ttlMs"].is_u64(), is_cacheable, "{result}");
    }
}

async fn list(client: &mut Client, method: &str, member: &str, key: &str) -> (Vec<String>, String) {
    let talk = client.talk(method, json!({}), |method, _| panic!("{method} was asked")).await;
    let result = &talk.response["result"];
    check_envelope(client, result, true);
    let items = result[member].as_array().unwrap_or_else(|| panic!("no {member} in {}", talk.text));
    (items.iter().map(|item| item[key].as_str().unwrap().to_owned()).collect(), talk.text)
}

async fn lists(scene: &Scene, client: &mut Client) {
    let context = format!("{:?} to {:?}", client.kind, scene.up);
    let (tools, listed) = list(client, "tools/list", "tools", "name").await;
    assert!(tools.is_sorted() && tools.iter().all(|name| name.starts_with("up__")), "{context}: {tools:?}");
    for tool in ["up__echo", "up__greet", "up__test_sampling", "up__header_param"] {
        assert!(tools.contains(&tool.to_owned()), "{context}: {tools:?}");
    }
    let as_it_came = r#"{"x-vendor":{"z":1.0,"a":[1e2,18446744073709551616]},"name":"up__echo","title":"Echo""#;
    assert!(listed.contains(as_it_came), "{context}: {listed}");
    let (prompts, _) = list(client, "prompts/list", "prompts", "name").await;
    let expected = [
        "up__test_input_required_result_prompt",
        "up__test_prompt_with_arguments",
        "up__test_prompt_with_embedded_resource",
        "up__test_prompt_with_image",
        "up__test_simple_prompt",
    ];
    assert_eq!(prompts, expected, "{context}");
    let (resources, _) = list(client, "resources/list", "resources", "uri").await;
    for uri in ["test://static-text", "test://static-binary", "test://watched-resource", "test://confirmed-text"] {
        assert!(resources.contains(&uri.to_owned()), "{context}: {resources:?}");
    }
    let (templates, _) = list(client, "resources/templates/list", "resourceTemplates", "uriTemplate").await;
    assert_eq!(templates, ["test://template/{id}/data"], "{context}");
}

async fn tools(client: &mut Client) {
    let arguments = json!({ "list": [1, null, true], "text": "é \"\\ \u{2028}" });
    let response = client.call("up__echo", arguments.clone()).await;
    check_envelope(client, &response["result"], false);
    assert_eq!(text(&response), arguments.to_string());
    assert_eq!(response["result"]["structuredContent"], arguments);
    // The parameter is repeated in a header where the upstream is modern, and by modern callers.
    let response = match client.kind {
        Kind::Modern => {
            let caller = client.caller().copy().with("mcp-param-region", "north");
            caller.call("up__header_param", json!({ "region": "north" })).await.json()
        }
        _ => client.call("up__header_param", json!({ "region": "north" })).await,
    };
    assert_eq!(text(&response), "north");
    let failed = client.call("up__test_error_handling", json!({})).await;
    assert_eq!(failed["result"]["isError"], true, "{failed}");
    let unknown = client.call("up__nothing", json!({})).await;
    assert_eq!(unknown["error"]["code"], -32602, "{unknown}");
}

async fn prompts(client: &mut Client) {
    let arguments = json!({ "arg1": "one", "arg2": "two" });
    let params = json!({ "name": "up__test_prompt_with_arguments", "arguments": arguments });
    let response = client.ask("prompts/get", params).await;
    check_envelope(client, &response["result"], false);
    let message = &response["result"]["messages"][0];
    assert_eq!(message["content"]["text"], "Prompt with arguments: arg1='one', arg2='two'", "{response}");
    for params in [json!({ "name": "up__test_prompt_with_arguments" }), json!({ "name": "up__nothing" })] {
        let refused = client.ask("prompts/get", params).await;
        assert_eq!(refused["error"]["code"], -32602, "{refused}");
    }
}

async fn resources(scene: &Scene, client: &mut Client) {
    let template = json!({ "id": "7", "templateTest": true, "data": "Data for ID: 7" }).to_string();
    for (uri, mime, content) in [
        ("test://static-text", "text/plain", "This is the content of the static text resource."),
        ("test://template/7/data", "application/json", &*template),
    ] {
        let response = client.ask("resources/read", json!({ "uri": uri })).await;
        check_envelope(client, &response["result"], true);
        let expected = json!([{ "uri": uri, "mimeType": mime, "text": content }]);
        assert_eq!(response["result"]["contents"], expected, "{response}");
        if client.kind == Kind::Modern {
            // What the upstream says of keeping holds; where it says nothing, nothing is kept.
            let ttl = if scene.up.is_modern() { 60_000 } else { 0 };
            assert_eq!(response["result"]["ttlMs"], ttl);
        }
    }
    let binary = client.ask("resources/read", json!({ "uri": "test://static-binary" })).await;
    assert!(binary["result"]["contents"][0]["blob"].as_str().unwrap().starts_with("iVBORw0KGgo"), "{binary}");
    let missing = client.ask("resources/read", json!({ "uri": "test://nothing" })).await;
    let code = if client.kind == Kind::Modern { -32602 } else { -32002 };
    assert_eq!(missing["error"]["code"], code, "{missing}");
    assert_eq!(missing["error"]["data"]["uri"], "test://nothing", "{missing}");
}

async fn completion(client: &mut Client) {
    let prompt = json!({ "type": "ref/prompt", "name": "up__test_prompt_with_arguments" });
    let params = json!({ "ref": prompt, "argument": { "name": "arg1", "value": "par" } });
    let response = client.ask("completion/complete", params).await;
    check_envelope(client, &response["result"], false);
    let expected = json!({ "values": ["paris", "park", "party"], "total": 3, "hasMore": false });
    assert_eq!(response["result"]["completion"], expected, "{response}");
    let params = json!({
        "ref": prompt,
        "argument": { "name": "arg2", "value": "" },
        "context": { "arguments": { "arg1": "paris" } },
    });
    let response = client.ask("completion/complete", params).await;
    assert_eq!(response["result"]["completion"]["values"], json!(["after paris", "test"]), "{response}");
    let template = json!({ "type": "ref/resource", "uri": "test://template/{id}/data" });
    let params = json!({ "ref": template, "argument": { "name": "id", "value": "14" } });
    let response = client.ask("completion/complete", params).await;
    let values = &response["result"]["completion"]["values"];
    assert_eq!(values[0], "14", "{response}");
    assert_eq!(response["result"]["completion"]["total"], 11, "{response}");
    let unknown =
        json!({ "ref": { "type": "ref/prompt", "name": "up__nothing" }, "argument": { "name": "a", "value": "" } });
    let refused = client.ask("completion/complete", unknown).await;
    assert_eq!(refused["error"]["code"], -32602, "{refused}");
}

/// What a client is told at its beginning.
#[tokio::test]
async fn what_is_offered_is_what_the_upstream_has_in_the_callers_words() {
    for up in [Up::ModernHttp, Up::LegacyHttp, Up::Stateless] {
        let scene = up.scene().await;
        let subscribe = up != Up::Stateless;
        let resources =
            if subscribe { json!({ "listChanged": true, "subscribe": true }) } else { json!({ "listChanged": true }) };
        let discovered = scene.gateway.caller("alice").modern("server/discover", json!({})).await.json();
        let offered = &discovered["result"]["capabilities"];
        assert_eq!(offered["resources"], resources, "{up:?}: {offered}");
        assert_eq!(offered["completions"], json!({}), "{up:?}: {offered}");
        let extension = &offered["extensions"]["io.modelcontextprotocol/tasks"];
        assert_eq!(extension.is_object(), up == Up::ModernHttp, "{up:?}: {offered}");
        assert_eq!(offered["tasks"], Value::Null, "{up:?}: {offered}");
        for (version, has_tasks) in [("2025-11-25", true), ("2025-06-18", false), ("2025-03-26", false)] {
            let params = json!({ "protocolVersion": version, "capabilities": {}, "clientInfo": { "name": "a", "version": "1" } });
            let initialized = scene.gateway.caller("alice").request("initialize", params).await.json();
            let offered = &initialized["result"]["capabilities"];
            assert_eq!(offered["resources"], resources, "{up:?} {version}: {offered}");
            assert_eq!(offered["tasks"].is_object(), has_tasks && up == Up::LegacyHttp, "{up:?} {version}: {offered}");
            assert_eq!(offered["extensions"]["io.modelcontextprotocol/tasks"], Value::Null, "{up:?} {version}");
            assert_eq!(initialized["result"]["instructions"], "# up\n\nTools for testing.", "{up:?} {version}");
        }
    }
}

/// The revision that an upstream speaks makes no difference.
#[tokio::test]
async fn each_legacy_revision_has_all_callers() {
    const REVISIONS: [&[&str]; 4] = [&["2025-11-25"], &["2025-06-18"], &["2025-03-26"], &["2024-11-05"]];
    for revisions in REVISIONS {
        let settings = super::Settings { revisions, ..Up::LegacyHttp.settings().unwrap() };
        let up = super::Fixture::with(settings).await.unwrap();
        let builder = super::Gateway::builder().section("[mcp]\nlegacy_sse = true").http_upstream("up", &up.url);
        let gateway = builder.key("alice").start().await;
        for kind in Kind::ALL {
            let mut client = Client::connect(&gateway, "alice", kind, json!({})).await;
            tools(&mut client).await;
            prompts(&mut client).await;
            completion(&mut client).await;
        }
        assert_eq!(up.stats().under_way, 0);
    }
}
