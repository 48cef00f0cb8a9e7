//! `Mcp-Param-*` (2026-07-28, transports/streamable-http § custom headers): arguments that are repeated in headers. What a
//! caller sends is checked against its body, what an upstream gets comes of what is really sent to it, and a tool whose
//! annotations are not valid is none where they would count.

use http::{HeaderName, HeaderValue};
use portcullis_tests::upstreams::fixture::Fixture;
use portcullis_tests::{Caller, Gateway, Reply, program};
use serde_json::{Value, json};

use super::scripted::{Manner, Offer, Scripted};
use super::{ask, refusal};

/// A modern call with headers of its own.
async fn call(caller: &Caller, tool: &str, arguments: &Value, headers: &[(&'static str, &str)]) -> Reply {
    let (mut all, body) = caller.modern_request("tools/call", json!({ "name": tool, "arguments": arguments }));
    for (name, value) in headers {
        all.append(HeaderName::from_static(name), HeaderValue::try_from(*value).unwrap());
    }
    let mut sender = caller.copy();
    sender.headers = all;
    sender.post(body).await
}

fn annotated(name: &str, properties: &Value) -> String {
    json!({ "name": name, "inputSchema": { "type": "object", "properties": properties } }).to_string()
}

async fn modern_with(tools: Vec<String>) -> Scripted {
    Scripted::with(Manner::Modern, Offer { tools, ..Offer::default() }).await
}

#[tokio::test]
async fn a_caller_must_repeat_what_is_annotated_and_nothing_else() {
    let up = Fixture::start().await;
    let gateway = Gateway::builder().http_upstream("up", &up.url).key("alice").start().await;
    let alice = gateway.caller("alice");
    let north = json!({ "region": "north" });
    for (arguments, headers) in [
        (&north, &[][..]),
        (&north, &[("mcp-param-region", "south")]),
        (&north, &[("mcp-param-region", "North")]),
        (&north, &[("mcp-param-region", "north"), ("mcp-param-region", "north")]),
        (&north, &[("mcp-param-region", "=?base64?c291dGg=?=")]),
        (&north, &[("mcp-param-region", "=?base64?!?=")]),
        (&north, &[("mcp-param-region", "=?BASE64?bm9ydGg=?=")]),
        (&json!({ "note": "x" }), &[("mcp-param-region", "north")]),
        (&json!({ "region": null }), &[("mcp-param-region", "null")]),
    ] {
        let reply = call(&alice, "up__header_param", arguments, headers).await;
        assert_eq!(refusal(&reply), (400, -32020), "{arguments} {headers:?}: {}", reply.text());
    }
    assert_eq!(up.stats().calls, 0);
    for headers in [
        &[("mcp-param-region", "north")][..],
        &[("mcp-param-region", "=?base64?bm9ydGg=?=")],
        // What the tool knows nothing of is not looked at.
        &[("mcp-param-region", "north"), ("mcp-param-note", "anything")],
    ] {
        let reply = call(&alice, "up__header_param", &north, headers).await;
        assert_eq!(reply.json()["result"]["content"][0]["text"], "north", "{headers:?}: {}", reply.text());
    }
    // Revisions with sessions do not know them.
    let session = alice.initialize("2025-11-25").await;
    let params = json!({ "name": "up__header_param", "arguments": north });
    assert_eq!(session.request("tools/call", params).await.json()["result"]["content"][0]["text"], "north");
}

#[tokio::test]
async fn an_upstream_gets_what_it_annotated_whatever_the_callers_revision() {
    let properties = json!({
        "region": { "type": "string", "x-mcp-header": "Region" },
        "count": { "type": "integer", "x-mcp-header": "Count" },
        "dry": { "type": "boolean", "x-mcp-header": "X-Dry-Run" },
        "nested": { "type": "object", "properties": { "deep": { "type": "string", "x-mcp-header": "Deep" } } },
        "plain": { "type": "string" },
    });
    let up = modern_with(vec![annotated("go", &properties)]).await;
    let gateway = Gateway::builder().http_upstream("up", &up.url).key("alice").start().await;
    let alice = gateway.caller("alice");
    let session = alice.initialize("2025-06-18").await;
    for (arguments, expected) in [
        (json!({ "region": "north", "plain": "p" }), [Some("north"), None, None, None]),
        (json!({ "count": 42, "dry": false }), [None, Some("42"), Some("false"), None]),
        (json!({ "count": -7.0, "dry": true }), [None, Some("-7"), Some("true"), None]),
        (json!({ "nested": { "deep": "é\n" } }), [None, None, None, Some("=?base64?w6kK?=")]),
        (json!({ "region": " padded " }), [Some("=?base64?IHBhZGRlZCA=?="), None, None, None]),
        (json!({ "region": "=?base64?x?=" }), [Some("=?base64?PT9iYXNlNjQ/eD89?="), None, None, None]),
        (json!({ "region": null, "nested": {} }), [None; 4]),
    ] {
        let names = ["mcp-param-region", "mcp-param-count", "mcp-param-x-dry-run", "mcp-param-deep"];
        let sent: Vec<(&'static str, &str)> =
            names.into_iter().zip(expected).filter_map(|(name, value)| Some((name, value?))).collect();
        for is_legacy in [false, true] {
            let reply = match is_legacy {
                false => call(&alice, "up__go", &arguments, &sent).await,
                true => session.request("tools/call", json!({ "name": "up__go", "arguments": arguments })).await,
            };
            assert!(reply.json()["result"].is_object(), "{arguments}: {}", reply.text());
            let asked = up.last("tools/call");
            assert_eq!(names.map(|name| asked.header(name)), expected, "{arguments}");
            assert_eq!(asked.header("mcp-name"), Some("go"));
            assert_eq!(asked.header("mcp-method"), Some("tools/call"));
            assert_eq!(asked.header("mcp-protocol-version"), Some("2026-07-28"));
        }
    }
    // A caller's headers of this kind end here.
    let reply = call(&alice, "up__go", &json!({ "plain": "p" }), &[("mcp-param-plain", "stray")]).await;
    assert!(reply.json()["result"].is_object(), "{}", reply.text());
    assert_eq!(up.last("tools/call").header("mcp-param-plain"), None);
}

/// A policy that allows each call with these arguments instead of its own.
fn rewrites(document: &str) -> Vec<u8> {
    const BASE: &str = include_str!("../../fixtures/policies/rubbish.wat");
    const TOOL_CALL: &str = r"\1d\08\00\00\01\00\00\00";
    let hooks = format!("\"{TOOL_CALL}\" (; hooks: tool-call ;)");
    let mutates = format!(r#""{TOOL_CALL}\00\00\00\00\00\00\00\00" (; mutates: tool-call ;)"#);
    let nothing = r#""\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00" (; mutates, needs: none ;)"#;
    // `allow`, with the rewrite `replace`, whose text is at 2304.
    let verdict = format!(
        r"\01\00\00\00\00\00\00\00\02\00\00\00\00\09\00\00\{:02x}\00\00\00{}",
        document.len(),
        r"\00".repeat(36)
    );
    let bytes: String = document.bytes().map(|byte| format!("\\{byte:02x}")).collect();
    let data = format!("\"{verdict}\")\n  (data (i32.const 2304) \"{bytes}\")");
    assert!(BASE.contains(&hooks) && BASE.contains(nothing) && document.len() < 256);
    let wat = BASE.replace(nothing, &mutates).replace(r#""\ff\ff\ff\ff\ff\ff\ff\ff")"#, &data);
    wat::parse_str(&wat).unwrap_or_else(|error| panic!("{error}\n{wat}"))
}

#[tokio::test]
async fn an_argument_that_a_policy_rewrites_is_rewritten_in_its_header_too() {
    let properties = json!({ "region": { "type": "string", "x-mcp-header": "Region" } });
    let up = modern_with(vec![annotated("go", &properties)]).await;
    let gateway = Gateway::builder()
        .http_upstream("up", &up.url)
        .section(
            "[[policies]]\nname = \"moves\"\nmodule = \"moves.wasm\"\nallow_rewrite = true\nlimits = { time = \"1s\" }",
        )
        .file("moves.wasm", &rewrites(r#"{"region":"south"}"#))
        .key("alice")
        .start()
        .await;
    let alice = gateway.caller("alice");
    let session = alice.initialize("2025-11-25").await;
    let north = json!({ "region": "north" });
    for is_legacy in [false, true] {
        let reply = match is_legacy {
            // The caller's header is compared with what the caller says.
            false => call(&alice, "up__go", &north, &[("mcp-param-region", "north")]).await,
            true => session.request("tools/call", json!({ "name": "up__go", "arguments": north })).await,
        };
        assert!(reply.json()["result"].is_object(), "{}", reply.text());
        let asked = up.last("tools/call");
        assert_eq!(asked.header("mcp-param-region"), Some("south"));
        assert!(asked.params.contains(r#""arguments":{"region":"south"}"#), "{}", asked.params);
    }
    let reply = call(&alice, "up__go", &north, &[("mcp-param-region", "south")]).await;
    assert_eq!(refusal(&reply), (400, -32020), "{}", reply.text());
}

/// Tools of the names `bad-…` whose annotations break one rule each.
fn invalid() -> Vec<String> {
    let string = |header: Value| json!({ "p": { "type": "string", "x-mcp-header": header } });
    let schemas = [
        string(json!("")),
        string(json!("a b")),
        string(json!("a:b")),
        string(json!("a\r\nX-Evil: 1")),
        string(json!("é")),
        string(json!(7)),
        string(Value::Null),
        json!({ "p": { "type": "object", "x-mcp-header": "P" } }),
        json!({ "p": { "type": "number", "x-mcp-header": "P" } }),
        json!({ "p": { "x-mcp-header": "P" } }),
        json!({ "p": { "type": "string", "x-mcp-header": "Same" }, "q": { "type": "string", "x-mcp-header": "same" } }),
        json!({ "p": { "type": "array", "items": { "type": "string", "x-mcp-header": "P" } } }),
        json!({ "p": { "anyOf": [{ "type": "string", "x-mcp-header": "P" }] } }),
    ];
    schemas.iter().enumerate().map(|(at, schema)| annotated(&format!("bad-{at:02}"), schema)).collect()
}

#[tokio::test]
async fn tools_with_invalid_annotations_are_left_out_where_annotations_count() {
    // Names that would be dangerous by themselves are harmless behind the prefix.
    let properties = json!({ "p": { "type": "string", "x-mcp-header": "Authorization" } });
    let mut tools = invalid();
    let bad = tools.len();
    tools.push(annotated("fine", &properties));
    tools.push(annotated("plain", &json!({ "x-mcp-header": { "type": "string" } })));
    let modern = modern_with(tools.clone()).await;
    let legacy = Scripted::with(Manner::Legacy, Offer { tools: tools.clone(), ..Offer::default() }).await;
    let builder = Gateway::builder().http_upstream("modern", &modern.url).http_upstream("legacy", &legacy.url);
    let gateway = builder.key("alice").start().await;
    let alice = gateway.caller("alice");
    for caller in [alice.copy(), alice.initialize("2025-11-25").await] {
        let names = super::listed(&caller, super::LISTS[0]).await;
        let of = |prefix: &str| names.iter().filter(|name| name.starts_with(prefix)).count();
        assert_eq!((of("modern__"), of("modern__bad"), of("legacy__bad")), (2, 0, bad), "{names:?}");
        let reply = ask(&caller, "tools/call", json!({ "name": "modern__bad-00", "arguments": {} })).await;
        assert_eq!(refusal(&reply), (200, -32602));
    }
    let reply =
        call(&alice, "modern__fine", &json!({ "p": "Bearer x" }), &[("mcp-param-authorization", "Bearer x")]).await;
    assert!(reply.json()["result"].is_object(), "{}", reply.text());
    let asked = modern.last("tools/call");
    assert_eq!((asked.header("authorization"), asked.header("mcp-param-authorization")), (None, Some("Bearer x")));
}

#[tokio::test]
async fn over_stdio_annotations_mean_nothing() {
    let child = program("fixture-upstream");
    let gateway =
        Gateway::builder().stdio_upstream("child", &[child.to_str().unwrap(), "stdio"]).key("alice").start().await;
    gateway.until_upstreams_are_up().await;
    let arguments = json!({ "region": "north" });
    let reply =
        call(&gateway.caller("alice"), "child__header_param", &arguments, &[("mcp-param-region", "north")]).await;
    assert_eq!(reply.json()["result"]["content"][0]["text"], "north", "{}", reply.text());
    // The caller's own way is over HTTP, whatever the upstream's is.
    let reply = call(&gateway.caller("alice"), "child__header_param", &arguments, &[]).await;
    assert_eq!(refusal(&reply), (400, -32020));
}

#[tokio::test]
async fn an_upstream_that_misses_a_header_has_its_list_read_again() {
    let up = modern_with(vec![annotated("go", &json!({ "region": { "type": "string" } }))]).await;
    let gateway = Gateway::builder().http_upstream("up", &up.url).key("alice").start().await;
    let alice = gateway.caller("alice");
    let properties = json!({ "region": { "type": "string", "x-mcp-header": "Region" } });
    up.offer(Offer { tools: vec![annotated("go", &properties)], ..Offer::default() });
    up.refuse_with_status("tools/call", 400);
    up.answer(r#""error":{"code":-32020,"message":"Mcp-Param-Region is missing"}"#);
    let reply = alice.call("up__go", json!({ "region": "north" })).await;
    assert!(reply.json()["error"].is_object(), "{}", reply.text());
    up.refuse_with_status("tools/call", 200);
    up.answer(r#""result":{"resultType":"complete","content":[]}"#);
    let learned = async {
        let north = json!({ "region": "north" });
        while call(&alice, "up__go", &north, &[("mcp-param-region", "north")]).await.json()["result"].is_null()
            || up.last("tools/call").header("mcp-param-region") != Some("north")
        {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(portcullis_tests::gateway::SOON, learned).await.expect("the annotation is known");
}
