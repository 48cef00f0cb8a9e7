//! The rules of 2026-07-28 on the wire that are about no one feature: statuses and codes, names in headers, types and
//! cache hints of results, streams, logging, subscriptions. Rules that have a file of their own are not repeated here.

use http::{HeaderName, HeaderValue, StatusCode};
use portcullis_tests::upstreams::fixture::{Eras, Fixture, Settings, tool};
use portcullis_tests::{Caller, Gateway, Reply};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::scripted::{Manner, Offer, Scripted};
use super::{LISTS, refusal, result_of, result_text, scene};

const TASKS: &str = "io.modelcontextprotocol/tasks";

/// A modern request with one header in another way.
async fn with_header(caller: &Caller, method: &str, params: Value, name: &'static str, values: &[&str]) -> Reply {
    let (mut headers, body) = caller.modern_request(method, params);
    headers.remove(name);
    for value in values {
        headers.append(HeaderName::from_static(name), HeaderValue::try_from(*value).unwrap());
    }
    let mut sender = caller.copy();
    sender.headers = headers;
    sender.post(body).await
}

#[tokio::test]
async fn each_method_that_names_something_names_it_in_a_header() {
    let (_up, gateway) = scene().await;
    let alice = gateway.caller("alice").able(json!({ "extensions": { TASKS: {} } }));
    for (method, member, name) in [
        ("tools/call", "name", "up__echo"),
        ("prompts/get", "name", "up__test_simple_prompt"),
        ("resources/read", "uri", "test://static-text"),
        ("tasks/get", "taskId", "none"),
        ("tasks/update", "taskId", "none"),
        ("tasks/cancel", "taskId", "none"),
    ] {
        let params = json!({ member: name, "arguments": {}, "inputResponses": {} });
        for values in [&[][..], &["other"], &[name, name], &["=?base64?b3RoZXI=?="]] {
            let reply = with_header(&alice, method, params.clone(), "mcp-name", values).await;
            assert_eq!(refusal(&reply), (400, -32020), "{method} {values:?}: {}", reply.text());
        }
        let reply = with_header(&alice, method, params, "mcp-name", &[name]).await;
        assert_ne!(reply.json()["error"]["code"], -32020, "{method}: {}", reply.text());
    }
    // Where nothing is named, the header is not looked at.
    let reply = with_header(&alice, "tools/list", json!({}), "mcp-name", &["anything"]).await;
    assert_eq!(reply.status, StatusCode::OK);
}

#[tokio::test]
async fn tasks_need_a_client_that_declares_them() {
    let (_up, gateway) = scene().await;
    let alice = gateway.caller("alice");
    for method in ["tasks/get", "tasks/update", "tasks/cancel"] {
        let (mut headers, body) = alice.modern_request(method, json!({ "taskId": "none" }));
        headers.insert("mcp-name", HeaderValue::from_static("none"));
        let reply = super::modern::post(&gateway, &headers, &body).await;
        assert_eq!(refusal(&reply), (400, -32021), "{method}");
        let required = json!({ "extensions": { TASKS: {} } });
        assert_eq!(reply.json()["error"]["data"]["requiredCapabilities"], required, "{method}");
    }
    let able = gateway.caller("alice").able(json!({ "extensions": { TASKS: {} } }));
    let (mut headers, body) = able.modern_request("tasks/get", json!({ "taskId": "none" }));
    headers.insert("mcp-name", HeaderValue::from_static("none"));
    assert_eq!(refusal(&super::modern::post(&gateway, &headers, &body).await), (200, -32602), "there is none");
}

#[tokio::test]
async fn results_of_ours_have_a_type_and_say_who_we_are_and_how_long_they_may_be_kept() {
    let up = Fixture::start().await;
    let builder = Gateway::builder().http_upstream("up", &up.url).section("[limits]\nlist_page = 3");
    let gateway = builder.key("alice").key("bob").start().await;
    for key in ["alice", "bob"] {
        let caller = gateway.caller(key);
        let mut results = vec![result_of(&caller, "server/discover", json!({})).await];
        for (method, ..) in LISTS {
            let mut params = json!({});
            loop {
                let result = result_of(&caller, method, params).await;
                results.push(result.clone());
                let Some(cursor) = result["nextCursor"].as_str() else { break };
                params = json!({ "cursor": cursor });
            }
        }
        assert!(results.len() > 15, "there are pages");
        for result in results {
            assert_eq!(result["resultType"], "complete", "{result}");
            assert_eq!(result["cacheScope"], "private", "what one key sees is not for another: {result}");
            assert!(result["ttlMs"].as_u64().is_some(), "{result}");
            assert_eq!(result["_meta"]["io.modelcontextprotocol/serverInfo"]["name"], "portcullis");
        }
    }
}

#[tokio::test]
async fn what_was_read_is_never_shared_and_keeps_the_time_that_its_upstream_gives() {
    let offer = Offer {
        resources: vec![r#"{"uri":"x://1","name":"x"}"#.to_owned()],
        tools: vec![r#"{"name":"t"}"#.to_owned()],
        ..Offer::default()
    };
    for manner in [Manner::Modern, Manner::Legacy] {
        let up = Scripted::with(manner, offer.clone()).await;
        let gateway = Gateway::builder().http_upstream("up", &up.url).key("alice").start().await;
        let alice = gateway.caller("alice");
        for (answer, ttl) in [
            (r#"{"contents":[],"resultType":"complete","ttlMs":77000,"cacheScope":"public"}"#, 77_000),
            (r#"{"contents":[],"resultType":"complete","ttlMs":5,"cacheScope":"private"}"#, 5),
            (r#"{"contents":[],"resultType":"complete"}"#, 0),
            (r#"{"contents":[]}"#, 0),
            (r#"{"contents":[],"ttlMs":-1,"cacheScope":"everybody"}"#, 0),
            (r#"{"contents":[],"ttlMs":1.5,"cacheScope":7}"#, 0),
            (r#"{"contents":[],"ttl\u004ds":8,"cache\u0053cope":"public"}"#, 8),
        ] {
            up.answer_to("resources/read", &format!("\"result\":{answer}"));
            let result = result_of(&alice, "resources/read", json!({ "uri": "x://1" })).await;
            let hints = (&result["resultType"], &result["ttlMs"], &result["cacheScope"]);
            assert_eq!(hints, (&json!("complete"), &json!(ttl), &json!("private")), "{manner:?} {answer}");
        }
        // What is not cacheable is not made so.
        up.answer(r#""result":{"content":[]}"#);
        let called = alice.call("up__t", json!({})).await;
        assert!(!called.text().contains("cacheScope") && !called.text().contains("ttlMs"), "{}", called.text());
    }
}

#[tokio::test]
async fn errors_of_upstreams_come_under_codes_that_they_may_have() {
    for manner in [Manner::Modern, Manner::Legacy] {
        let up = Scripted::with(
            manner,
            Offer {
                tools: vec![r#"{"name":"t"}"#.to_owned()],
                resources: vec![r#"{"uri":"x://1","name":"x"}"#.to_owned()],
                ..Offer::default()
            },
        )
        .await;
        let gateway = Gateway::builder().http_upstream("up", &up.url).key("alice").start().await;
        let alice = gateway.caller("alice");
        for (code, expected) in [
            (-32_000, -32_603),
            (-32_001, -32_603),
            (-32_019, -32_603),
            (-32_002, -32_602),
            (-32_050, -32_603),
            (-32_099, -32_603),
            (-32_020, -32_603),
            (-32_022, -32_603),
            (-32_100, -32_100),
            (-32_603, -32_603),
            (-32_602, -32_602),
            (-31_000, -31_000),
            (-1, -1),
            (0, 0),
            (1_000_000, 1_000_000),
        ] {
            for (method, params) in [
                ("tools/call", json!({ "name": "up__t", "arguments": {} })),
                ("resources/read", json!({ "uri": "x://1" })),
            ] {
                up.answer_to(method, &format!(r#""error":{{"code":{code},"message":"No.","data":{{"uri":"x://1"}}}}"#));
                let reply = alice.modern(method, params).await;
                let answer = reply.json();
                let is_internal = answer["error"]["data"]["reason"] == "protocol";
                // An error about the version that we chose ourselves is between us and the upstream.
                assert!(
                    answer["error"]["code"] == expected || (is_internal && answer["error"]["code"] == -31_502),
                    "{manner:?} {method} {code}: {answer}"
                );
                assert_eq!(reply.status, StatusCode::OK, "{manner:?} {method} {code}: {answer}");
            }
        }
    }
}

#[tokio::test]
async fn a_stream_has_no_ids_and_asks_nobody_to_come_back() {
    let (_up, gateway) = scene().await;
    let params = json!({ "name": "up__test_tool_with_progress", "_meta": { "progressToken": 1 } });
    let reply = gateway.caller("alice").modern("tools/call", params).await;
    assert_eq!(reply.header("content-type"), "text/event-stream");
    assert_eq!((reply.header("x-accel-buffering"), reply.header("cache-control")), ("no", "no-store"));
    for line in reply.text().lines() {
        assert!(!line.starts_with("id") && !line.starts_with("retry"), "{line}");
    }
    assert!(!reply.headers.contains_key("mcp-session-id"));
}

#[tokio::test]
async fn headers_of_other_revisions_are_ignored() {
    let (_up, gateway) = scene().await;
    let alice = gateway.caller("alice").with("mcp-session-id", "none").with("last-event-id", "1-1");
    assert!(alice.call("up__echo", json!({})).await.json()["result"].is_object());
}

#[tokio::test]
async fn log_messages_come_at_the_level_that_the_request_asks_for() {
    for eras in [Eras::Legacy, Eras::Modern] {
        let up = Fixture::with(Settings { eras, ..Settings::default() }).await.unwrap();
        let gateway = Gateway::builder().http_upstream("up", &up.url).key("alice").start().await;
        let alice = gateway.caller("alice");
        for (level, expected) in [(json!("debug"), 3), (json!("info"), 3), (json!("warning"), 0), (Value::Null, 0)] {
            let mut meta = json!({});
            if !level.is_null() {
                meta["io.modelcontextprotocol/logLevel"] = level.clone();
            }
            let params = json!({ "name": "up__test_tool_with_logging", "arguments": {}, "_meta": meta });
            let reply = alice.modern("tools/call", params).await;
            let told = reply.messages().iter().filter(|message| message.contains("notifications/message")).count();
            assert_eq!(told, expected, "{eras:?} {level}: {}", reply.text());
        }
        for level in [json!("loud"), json!("INFO"), json!(7), json!({})] {
            let meta = json!({ "io.modelcontextprotocol/logLevel": level });
            let reply = alice.modern("tools/call", json!({ "name": "up__echo", "_meta": meta })).await;
            assert_eq!(refusal(&reply), (400, -32602), "{level}");
        }
    }
}

#[tokio::test]
async fn a_subscription_begins_with_what_is_granted_and_marks_all_that_it_tells() {
    let up = Fixture::start().await;
    let resources = vec![r#"{"uri":"y://1","name":"y"}"#.to_owned()];
    let other = Scripted::with(Manner::Modern, Offer { resources, ..Offer::default() }).await;
    let builder = Gateway::builder().http_upstream("up", &up.url).http_upstream("other", &other.url);
    let gateway = builder.key("alice").start().await;
    let alice = gateway.caller("alice");
    let filter = json!({ "toolsListChanged": true, "resourceSubscriptions": ["test://watched-resource", "x://none"] });
    let mut stream = alice.begin_modern("subscriptions/listen", json!({ "notifications": filter })).await;
    assert!(stream.is_events());
    assert_eq!(stream.headers["x-accel-buffering"], "no");
    let first = stream.next().await;
    assert_eq!(first["method"], "notifications/subscriptions/acknowledged");
    let granted = json!({ "toolsListChanged": true, "resourceSubscriptions": ["test://watched-resource"] });
    assert_eq!(first["params"]["notifications"], granted, "what nobody has is not granted");
    let id = first["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"].clone();
    assert!(id.is_u64(), "{first}");

    up.change_prompts(Vec::new());
    up.update_resource("test://static-text");
    up.update_resource("test://watched-resource");
    let updated = stream.next().await;
    assert_eq!(updated["method"], "notifications/resources/updated", "{updated}");
    assert_eq!(updated["params"]["uri"], "test://watched-resource");
    assert_eq!(updated["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], id);
    up.change_tools(vec![tool("only")]);
    let changed = stream.next().await;
    assert_eq!(changed["method"], "notifications/tools/list_changed", "{changed}");
    assert_eq!(changed["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], id);

    // The end is told as the result of the request.
    let (_, rest) = tokio::join!(gateway.stop(), stream.rest());
    let [result] = rest.as_slice() else { panic!("{rest:?}") };
    assert_eq!((&result["id"], &result["result"]["resultType"]), (&id, &json!("complete")), "{result}");
    up.until(|stats| stats.listens == 0).await;
}

#[tokio::test]
async fn leaving_ends_a_subscription_at_the_upstream_too() {
    let up = Fixture::start().await;
    let gateway = Gateway::builder().http_upstream("up", &up.url).key("alice").start().await;
    let own = up.until(|stats| stats.listens > 0).await.listens;
    let filter = json!({ "resourceSubscriptions": ["test://watched-resource"] });
    let mut stream =
        gateway.caller("alice").begin_modern("subscriptions/listen", json!({ "notifications": filter })).await;
    stream.next().await;
    up.until(|stats| stats.listens > own).await;
    drop(stream);
    up.until(|stats| stats.listens == own).await;
}

#[tokio::test]
async fn a_filter_that_is_none_is_refused() {
    let (_up, gateway) = scene().await;
    for params in [
        json!({}),
        json!({ "notifications": [] }),
        json!({ "notifications": true }),
        json!({ "notifications": { "toolsListChanged": "yes" } }),
        json!({ "notifications": { "resourceSubscriptions": "x://1" } }),
        json!({ "notifications": { "resourceSubscriptions": [1] } }),
    ] {
        let reply = gateway.caller("alice").modern("subscriptions/listen", params.clone()).await;
        assert_eq!(reply.json()["error"]["code"], -32602, "{params}: {}", reply.text());
    }
}

#[tokio::test]
async fn a_response_is_nobodys_in_this_revision() {
    let (_up, gateway) = scene().await;
    for body in
        [r#"{"jsonrpc":"2.0","id":1,"result":{}}"#, r#"{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":""}}"#]
    {
        let caller = gateway.caller("alice").with("mcp-protocol-version", "2026-07-28");
        assert_eq!(caller.post(body).await.status, StatusCode::BAD_REQUEST, "{body}");
    }
}

#[tokio::test]
async fn a_list_is_the_same_on_every_connection() {
    let (_up, gateway) = scene().await;
    let alice = gateway.caller("alice");
    for (method, ..) in LISTS {
        let first = result_text(&alice.modern(method, json!({})).await);
        for _ in 0..3 {
            assert_eq!(result_text(&alice.copy().modern(method, json!({})).await), first, "{method}");
        }
    }
}

#[tokio::test]
async fn nothing_that_a_schema_refers_to_is_fetched() {
    let elsewhere = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/schema.json", elsewhere.local_addr().unwrap());
    let schema =
        json!({ "$ref": url, "$schema": url, "properties": { "p": { "$ref": url } }, "allOf": [{ "$ref": url }] });
    let definition = json!({ "name": "far", "inputSchema": schema, "outputSchema": { "$ref": url } }).to_string();
    let up = Scripted::with(Manner::Modern, Offer { tools: vec![definition.clone()], ..Offer::default() }).await;
    let gateway = Gateway::builder().http_upstream("up", &up.url).key("alice").start().await;
    let alice = gateway.caller("alice");
    let fetched = async {
        let list = result_text(&alice.modern("tools/list", json!({})).await);
        assert!(list.contains(&definition.replace(r#""far""#, r#""up__far""#)), "{list}");
        assert!(alice.call("up__far", json!({ "p": 1 })).await.json()["result"].is_object());
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    };
    tokio::select! {
        someone = elsewhere.accept() => panic!("somebody came: {someone:?}"),
        () = fetched => {}
    }
}

#[tokio::test]
async fn an_upstream_is_asked_in_the_envelope_of_its_revision_and_told_what_the_client_can() {
    let up =
        Scripted::with(Manner::Modern, Offer { tools: vec![r#"{"name":"t"}"#.to_owned()], ..Offer::default() }).await;
    let gateway = Gateway::builder().http_upstream("up", &up.url).key("alice").start().await;
    let able = json!({ "elicitation": { "form": {} }, "x-vendor": { "z": 1.0 } });
    let alice = gateway.caller("alice").able(able.clone());
    for (caller, is_legacy) in [(alice.copy(), false), (alice.initialize("2025-11-25").await, true)] {
        super::ask(&caller, "tools/call", json!({ "name": "up__t", "arguments": {} })).await;
        let asked = up.last("tools/call");
        let params: Value = serde_json::from_str(&asked.params).unwrap();
        let meta = &params["_meta"];
        assert_eq!(meta["io.modelcontextprotocol/protocolVersion"], "2026-07-28", "{is_legacy}");
        assert_eq!(
            meta["io.modelcontextprotocol/clientCapabilities"]["elicitation"], able["elicitation"],
            "{is_legacy}"
        );
        assert!(meta["io.modelcontextprotocol/clientInfo"]["name"].is_string(), "{is_legacy}: {params}");
        let accept = asked.header("accept").unwrap();
        assert!(accept.contains("application/json") && accept.contains("text/event-stream"), "{accept}");
        assert_eq!(asked.header("mcp-session-id"), None, "{is_legacy}");
    }
}
