//! Revision 2026-07-28: every request stands alone, and its headers say what its body says.

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use portcullis_tests::caller::modern_meta;
use portcullis_tests::upstreams::fixture::{Fixture, tool};
use portcullis_tests::{Caller, Gateway, Reply};
use serde_json::{Value, json};

use super::{refusal, result_text, scene};

const SPOKEN: [&str; 5] = ["2026-07-28", "2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"];
const INFO: &str = "io.modelcontextprotocol/serverInfo";

#[tokio::test]
async fn discovery_says_what_is_spoken() {
    let (_up, gateway) = scene().await;
    let reply = gateway.caller("alice").modern("server/discover", json!({})).await;
    assert_eq!(reply.status, StatusCode::OK);
    let result = &reply.json()["result"];
    assert_eq!(result["resultType"], "complete");
    assert_eq!(result["supportedVersions"], json!(SPOKEN));
    assert_eq!(result["capabilities"]["tools"], json!({ "listChanged": true }));
    assert_eq!(result["cacheScope"], "private");
    assert!(result["ttlMs"].is_u64());
    assert_eq!(result["_meta"][INFO]["name"], "portcullis");
}

#[tokio::test]
async fn tools_are_listed_under_their_upstreams_names_in_order() {
    let (notes, tracker) = (Fixture::start().await, Fixture::start().await);
    notes.set_tools(vec![tool("list"), tool("add")]);
    tracker.set_tools(vec![tool("close"), tool("add")]);
    let builder = Gateway::builder().http_upstream("tracker", &tracker.url).http_upstream("notes", &notes.url);
    let gateway = builder.key("alice").start().await;
    let alice = gateway.caller("alice");

    let first = alice.modern("tools/list", json!({})).await;
    let result = &first.json()["result"];
    let names: Vec<&str> =
        result["tools"].as_array().unwrap().iter().map(|tool| tool["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["notes__add", "notes__list", "tracker__add", "tracker__close"]);
    assert_eq!(result["resultType"], "complete");
    assert_eq!(result["cacheScope"], "private", "the list depends on who asks");
    assert!(result["ttlMs"].is_u64());
    assert_eq!(result["_meta"][INFO]["name"], "portcullis");
    assert!(result.get("nextCursor").is_none());

    let second = alice.modern("tools/list", json!({})).await;
    assert_eq!(result_text(&first), result_text(&second));
}

#[tokio::test]
async fn a_list_comes_in_pages() {
    let up = Fixture::start().await;
    up.set_tools(["e", "b", "d", "a", "c"].into_iter().map(tool).collect());
    let gateway =
        Gateway::builder().http_upstream("up", &up.url).key("alice").section("[limits]\nlist_page = 2").start().await;
    let alice = gateway.caller("alice");
    let (mut pages, mut params) = (Vec::new(), json!({}));
    loop {
        let result = alice.modern("tools/list", params).await.json()["result"].clone();
        pages.push(result["tools"].as_array().unwrap().iter().map(|tool| tool["name"].clone()).collect::<Vec<_>>());
        match result.get("nextCursor") {
            Some(cursor) => params = json!({ "cursor": cursor }),
            None => break,
        }
    }
    assert_eq!(json!(pages), json!([["up__a", "up__b"], ["up__c", "up__d"], ["up__e"]]));
}

#[tokio::test]
async fn a_cursor_that_was_not_handed_out_is_refused() {
    let up = Fixture::start().await;
    let with_pages = || {
        Gateway::builder()
            .http_upstream("up", &up.url)
            .key("alice")
            .key("bob")
            .section("[limits]\nlist_page = 2")
            .start()
    };
    let (gateway, other) = (with_pages().await, with_pages().await);
    let alice = gateway.caller("alice");
    let cursor_of = async |gateway: &Gateway| {
        let reply = gateway.caller("alice").modern("tools/list", json!({})).await;
        reply.json()["result"]["nextCursor"].as_str().unwrap().to_owned()
    };
    let own = cursor_of(&gateway).await;
    assert_eq!(alice.modern("tools/list", json!({ "cursor": own })).await.status, StatusCode::OK);

    for name in ["first", "second"] {
        gateway.operator("POST", "/api/v1/keys", Some(json!({ "name": name }))).await;
    }
    let keys = gateway.operator("GET", "/api/v1/keys?limit=1", None).await.json();
    let of_another_list = keys["next_cursor"].as_str().unwrap().to_owned();
    let mut bent = own.clone();
    bent.replace_range(..1, if own.starts_with('A') { "B" } else { "A" });
    let cut = own[..own.len() - 1].to_owned();
    for cursor in [
        json!(""),
        json!("up__a"),
        json!(bent),
        json!(cut),
        json!(format!("{own}A")),
        json!(of_another_list),
        json!(cursor_of(&other).await),
        json!(1),
        Value::Null,
    ] {
        let reply = alice.modern("tools/list", json!({ "cursor": cursor })).await;
        assert_eq!(refusal(&reply), (200, -32602), "{cursor}");
    }
}

#[tokio::test]
async fn a_call_is_answered_by_the_upstream() {
    let (up, gateway) = scene().await;
    let reply = gateway.caller("alice").call("up__echo", json!({ "text": "hello" })).await;
    assert_eq!(reply.status, StatusCode::OK);
    assert_eq!(reply.header("content-type"), "application/json");
    assert_eq!(
        result_text(&reply),
        r#"{"content":[{"type":"text","text":"{\"text\":\"hello\"}"}],"structuredContent":{"text":"hello"},"resultType":"complete","_meta":{"io.modelcontextprotocol/serverInfo":{"name":"fixture","title":"Fixture upstream","version":"1.0.0"}}}"#,
        "as the upstream wrote it"
    );
    assert_eq!(up.stats().calls, 1);
}

#[tokio::test]
async fn an_answer_carries_the_id_of_its_request() {
    let (_up, gateway) = scene().await;
    let alice = gateway.caller("alice");
    let (headers, body) = alice.modern_request("tools/call", json!({ "name": "up__counter" }));
    for id in ["0", "-1", "18446744073709551615", "\"\"", r#""a\u00e9\"b""#] {
        let body = with_id(&body, id);
        let reply = post(&gateway, &headers, &body).await;
        assert!(reply.text().starts_with(&format!(r#"{{"jsonrpc":"2.0","id":{id},"result":"#)), "{}", reply.text());
    }
}

#[tokio::test]
async fn a_tool_out_of_reach_is_like_one_that_does_not_exist() {
    let up = Fixture::start().await;
    let builder = Gateway::builder().http_upstream("up", &up.url);
    let gateway = builder.key_for("alice", r#"[{ upstream = "up", tools = ["echo"] }]"#).start().await;
    let alice = gateway.caller("alice");
    let out_of_reach = alice.call("up__slow", json!({ "ms": 0 })).await;
    let unknown = alice.call("up__none", json!({ "ms": 0 })).await;
    assert_eq!(refusal(&unknown), (200, -32602));
    assert_eq!(result_text(&out_of_reach).replace("up__slow", "up__none"), result_text(&unknown));
    assert_eq!(names_of(&out_of_reach.headers), names_of(&unknown.headers));
    // A bare name and an upstream's own name are no names of tools either.
    for name in ["echo", "up__", "__echo", "up", "", "UP__echo"] {
        assert_eq!(refusal(&alice.call(name, json!({})).await), (200, -32602), "{name:?}");
    }
    assert_eq!(up.stats().calls, 0);
    assert_eq!(alice.tool_names().await, ["up__echo"]);
}

#[tokio::test]
async fn methods_that_are_gone_are_not_found() {
    let (_up, gateway) = scene().await;
    let alice = gateway.caller("alice");
    for method in [
        "initialize",
        "ping",
        "logging/setLevel",
        "resources/subscribe",
        "resources/unsubscribe",
        "tools/none",
        "TOOLS/LIST",
        "roots/list",
        "sampling/createMessage",
        "tasks/result",
        "tasks/list",
        "",
    ] {
        let reply = alice.modern(method, json!({})).await;
        assert_eq!(refusal(&reply), (404, -32601), "{method}");
        assert!(reply.json()["id"].is_u64(), "{method}");
    }
}

#[tokio::test]
async fn params_of_the_wrong_shape_are_refused() {
    let (up, gateway) = scene().await;
    let alice = gateway.caller("alice");
    for params in [
        json!({ "name": "up__echo", "arguments": [] }),
        json!({ "name": "up__echo", "arguments": "text" }),
        json!({ "name": "up__echo", "arguments": null }),
        json!({ "name": 7 }),
        json!({ "arguments": {} }),
        json!({ "name": "up__echo", "_meta": { "progressToken": null } }),
        json!({ "name": "up__echo", "_meta": { "progressToken": 1.5 } }),
        json!({ "name": "up__echo", "_meta": { "progressToken": {} } }),
    ] {
        let reply = alice.modern("tools/call", params.clone()).await;
        assert_eq!(refusal(&reply), (200, -32602), "{params}");
    }
    assert_eq!(up.stats().calls, 0);
}

#[tokio::test]
async fn a_request_without_the_envelope_is_refused() {
    let (_up, gateway) = scene().await;
    let (headers, body) = gateway.caller("alice").modern_request("tools/list", json!({}));
    let with_meta = |meta: Value| {
        let mut message: Value = serde_json::from_str(&body).unwrap();
        message["params"]["_meta"] = meta;
        message.to_string()
    };
    let without = |name: &str| {
        let mut meta = modern_meta();
        meta.as_object_mut().unwrap().remove(&format!("io.modelcontextprotocol/{name}"));
        with_meta(meta)
    };
    let with = |name: &str, value: Value| {
        let mut meta = modern_meta();
        meta[format!("io.modelcontextprotocol/{name}")] = value;
        with_meta(meta)
    };
    let mut without_params: Value = serde_json::from_str(&body).unwrap();
    without_params.as_object_mut().unwrap().remove("params");
    for body in [
        without_params.to_string(),
        with_meta(json!({})),
        with_meta(json!([])),
        with_meta(Value::Null),
        without("protocolVersion"),
        without("clientCapabilities"),
        with("protocolVersion", json!(20_260_728)),
        with("clientCapabilities", json!([])),
        with("clientCapabilities", Value::Null),
    ] {
        assert_eq!(refusal(&post(&gateway, &headers, &body).await), (400, -32602), "{body}");
    }
    assert_eq!(
        post(&gateway, &headers, &without("clientInfo")).await.status,
        StatusCode::OK,
        "clientInfo may be left out"
    );
}

#[tokio::test]
async fn headers_must_say_what_the_body_says() {
    let (up, gateway) = scene().await;
    let (headers, body) =
        gateway.caller("alice").modern_request("tools/call", json!({ "name": "up__echo", "arguments": {} }));
    let changed = |name: &'static str, values: &[&str]| {
        let mut headers = headers.clone();
        headers.remove(name);
        for value in values {
            headers.append(HeaderName::from_static(name), HeaderValue::try_from(*value).unwrap());
        }
        headers
    };
    for (name, values) in [
        ("mcp-protocol-version", &[][..]),
        ("mcp-protocol-version", &["2025-11-25"]),
        ("mcp-protocol-version", &["2026-07-28", "2026-07-28"]),
        ("mcp-method", &[]),
        ("mcp-method", &["tools/list"]),
        ("mcp-method", &["Tools/Call"]),
        ("mcp-method", &["tools/call", "tools/call"]),
        ("mcp-name", &[]),
        ("mcp-name", &["up__slow"]),
        ("mcp-name", &["UP__ECHO"]),
        ("mcp-name", &["up__echo", "up__echo"]),
        ("mcp-name", &["=?base64?dXBfX3Nsb3c=?="]),
        ("mcp-name", &["=?base64?not base64?="]),
        ("mcp-name", &["=?BASE64?dXBfX2VjaG8=?="]),
        ("mcp-name", &["=?base64?/w==?="]),
    ] {
        let reply = post(&gateway, &changed(name, values), &body).await;
        assert_eq!(refusal(&reply), (400, -32020), "{name} {values:?}");
    }
    assert_eq!(up.stats().calls, 0);
    let encoded = post(&gateway, &changed("mcp-name", &["=?base64?dXBfX2VjaG8=?="]), &body).await;
    assert_eq!(encoded.status, StatusCode::OK, "{}", encoded.text());
    assert_eq!(up.stats().calls, 1);
}

#[tokio::test]
async fn a_version_that_is_not_spoken_is_answered_with_those_that_are() {
    let (_up, gateway) = scene().await;
    let (mut headers, body) = gateway.caller("alice").modern_request("tools/list", json!({}));
    for version in ["2099-01-01", "2025-11-25", "2026-07-29", "", "draft"] {
        headers.insert("mcp-protocol-version", HeaderValue::try_from(version).unwrap());
        let reply = post(&gateway, &headers, &body.replace("2026-07-28", version)).await;
        assert_eq!(refusal(&reply), (400, -32022), "{version:?}");
        let data = &reply.json()["error"]["data"];
        assert_eq!(*data, json!({ "supported": SPOKEN, "requested": version }));
    }
}

#[tokio::test]
async fn a_notification_is_accepted_without_a_word() {
    let (_up, gateway) = scene().await;
    let alice = gateway
        .caller("alice")
        .with("mcp-protocol-version", "2026-07-28")
        .with("mcp-method", "notifications/cancelled");
    let reply = alice.post(r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}"#).await;
    assert_eq!((reply.status, reply.text()), (StatusCode::ACCEPTED, ""));
}

#[tokio::test]
async fn there_is_no_stream_to_get_and_no_session_to_delete() {
    let (_up, gateway) = scene().await;
    for method in ["GET", "DELETE", "PUT"] {
        let reply = gateway.caller("alice").send(method, "/mcp", "").await;
        assert_eq!(reply.status, StatusCode::METHOD_NOT_ALLOWED, "{method}");
    }
}

/// A request under an id of its own, given as JSON text.
pub(super) fn with_id(body: &str, id: &str) -> String {
    let id_text = format!(r#""id":{},"#, serde_json::from_str::<Value>(body).unwrap()["id"]);
    body.replacen(&id_text, &format!(r#""id":{id},"#), 1)
}

pub(super) async fn post(gateway: &Gateway, headers: &HeaderMap, body: &str) -> Reply {
    let mut caller = Caller::new(gateway.public, None);
    caller.headers = headers.clone();
    caller.post(body.to_owned()).await
}

fn names_of(headers: &HeaderMap) -> Vec<&str> {
    let mut names: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    names
}
