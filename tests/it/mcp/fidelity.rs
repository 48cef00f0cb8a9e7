//! What passes through passes to the byte: contents of every kind, arguments, definitions and errors, on both ways and
//! over both transports, however odd the JSON is. Here are the cases that somebody thought of; `crate::fidelity` has
//! those that nobody did, in all pairs of eras.

use http::{HeaderMap, HeaderValue};
use portcullis_tests::upstreams::fixture::{Eras, Fixture, Replies, Settings, default_tools};
use portcullis_tests::upstreams::hostile::{Behaviour, Hostile};
use portcullis_tests::{Caller, Gateway, Reply, program};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::result_text;
use super::scripted::Scripted;

/// JSON that a reader which is not careful would write otherwise.
const ODD: &[&str] = &[
    r#"{}"#,
    r#"{ "a" : [ 1 , 2 ] }"#,
    r#"{"z":1,"a":2,"m":3}"#,
    r#"{"":"","a":{"":{"":[]}}}"#,
    r#"{"n":[1.0,1e3,1E+3,-0,-0.0,0.10,1e-7,123456789012345678901234567890,18446744073709551616,3.141592653589793238462643]}"#,
    r#"{"u":"\u0061\u00e9\ud83d\ude00\u0000\/\"\\\b\f\n\r\t","p":"é😀"}"#,
    r#"{"\u0061":1,"\ud83d\ude00":2,"é":3}"#,
    r#"{"t":[true,false,null],"e":[[],{},"",[[[[]]]]]}"#,
    r#"{"__proto__":{},"constructor":1,"jsonrpc":"1.0","id":7,"_meta":{"progressToken":1},"name":"other"}"#,
    r#"{"text":"</script>\u2028\u2029\u007f"}"#,
];

/// Two upstreams that do the same, in the revisions with sessions: `web` over streamable HTTP, `child` over stdio.
async fn scene() -> (Fixture, Gateway) {
    let web = Fixture::with(Settings { eras: Eras::Legacy, ..Settings::default() }).await.unwrap();
    let child = program("fixture-upstream");
    let builder = Gateway::builder()
        .http_upstream("web", &web.url)
        .stdio_upstream("child", &[child.to_str().unwrap(), "stdio", "--legacy"]);
    let gateway = builder.key("alice").start().await;
    gateway.until_upstreams_are_up().await;
    (web, gateway)
}

/// A call whose `arguments`, and whatever stands behind them in `params`, is given as JSON text.
fn call_text(tool: &str, params: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":{},{params}}}}}"#, json!(tool))
}

const MODERN: &str =
    r#""io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}"#;

/// A modern call; `more` are members of `params`, `meta` of its `_meta`.
async fn modern_call(gateway: &Gateway, tool: &str, more: &str, meta: &str) -> Reply {
    let mut caller =
        gateway.caller("alice").with("mcp-protocol-version", "2026-07-28").with("mcp-method", "tools/call");
    caller.headers.insert("mcp-name", HeaderValue::try_from(tool).unwrap());
    caller.post(call_text(tool, &format!(r#"{more}"_meta":{{{MODERN}{meta}}}"#))).await
}

/// What a modern caller gets of a result that a legacy upstream gave: what its revision wants in front, and then the
/// result as it was.
fn completed(result: &str) -> String {
    let info = format!(r#"{{"name":"portcullis","title":"Portcullis","version":"{}"}}"#, env!("CARGO_PKG_VERSION"));
    let meta = format!(r#","_meta":{{"io.modelcontextprotocol/serverInfo":{info}}}"#);
    let meta = if result.contains(r#""_meta""#) { "" } else { &meta };
    let comma = if result == "{}" { "" } else { "," };
    format!(r#"{{"resultType":"complete"{meta}{comma}{}"#, &result[1..])
}

#[tokio::test]
async fn contents_of_every_kind_pass_unchanged() {
    let (web, gateway) = scene().await;
    let direct = Caller::new(([127, 0, 0, 1], web.port).into(), None).initialize("2025-11-25").await;
    let legacy = gateway.caller("alice").initialize("2025-11-25").await;
    let older = gateway.caller("alice").initialize("2025-06-18").await;
    for (tool, arguments) in [
        ("test_simple_text", json!({})),
        ("test_image_content", json!({})),
        ("test_audio_content", json!({})),
        ("test_embedded_resource", json!({})),
        ("test_multiple_content_types", json!({})),
        ("test_error_handling", json!({})),
        ("echo", json!({ "structured": [1, { "two": 2 }] })),
        ("blob", json!({ "size": 1_000_000 })),
    ] {
        let expected =
            result_text(&direct.request("tools/call", json!({ "name": tool, "arguments": arguments })).await);
        assert!(expected.contains(r#""content":["#), "{expected}");
        for upstream in ["web", "child"] {
            let name = format!("{upstream}__{tool}");
            let params = json!({ "name": name, "arguments": arguments });
            assert_eq!(result_text(&legacy.request("tools/call", params.clone()).await), expected, "{name}");
            assert_eq!(result_text(&older.request("tools/call", params.clone()).await), expected, "{name}");
            assert_eq!(
                result_text(&gateway.caller("alice").modern("tools/call", params).await),
                completed(&expected),
                "{name}"
            );
        }
    }
}

#[tokio::test]
async fn results_keep_what_nobody_knows() {
    let up = Scripted::start(&[r#"{"name":"any","inputSchema":{"type":"object"}}"#]).await;
    let gateway = Gateway::builder().http_upstream("up", &up.url).key("alice").start().await;
    let legacy = gateway.caller("alice").initialize("2025-11-25").await;
    for result in [
        r#"{"content":[]}"#,
        r#"{}"#,
        r#"{ "content" : [ ] }"#,
        r#"{"x-top":1.0,"content":[{"type":"x-unknown","n":[1e2,18446744073709551616]},{"type":"text","text":"\u00e9\/","annotations":{"zz":1,"audience":["system"]},"_meta":{"b":1,"a":2}}],"_meta":{"z":{},"a":[]}}"#,
        r#"{"structuredContent":{"a":[1.0,null]},"content":[]}"#,
        r#"{"content":"not even a list","isError":"maybe"}"#,
        r#"{"content":[{"type":"resource_link","uri":"ui://x/y","name":"n","icons":[]}],"isError":false}"#,
        r#"{"content":[{"type":"text","text":"a lone surrogate: \ud800"}]}"#,
        r#"{"n":1e400,"content":[]}"#,
    ] {
        up.answer(&format!(r#""result":{result}"#));
        let reply = legacy.request("tools/call", json!({ "name": "up__any" })).await;
        assert_eq!(result_text(&reply), result);
        let reply = gateway.caller("alice").call("up__any", json!({})).await;
        assert_eq!(result_text(&reply), completed(result));
    }
    // Structured content of other types than objects is newer than the revisions with sessions.
    up.answer(r#""result":{"structuredContent":[1.0,null,"any JSON value"],"content":[]}"#);
    assert_eq!(result_text(&legacy.request("tools/call", json!({ "name": "up__any" })).await), r#"{"content":[]}"#);
    assert_eq!(
        result_text(&gateway.caller("alice").call("up__any", json!({})).await),
        completed(r#"{"structuredContent":[1.0,null,"any JSON value"],"content":[]}"#)
    );
    for result in [r#"{"resultType":"complete","content":[]}"#, r#"{"content":[],"resultType":"x-later"}"#] {
        up.answer(&format!(r#""result":{result}"#));
        assert_eq!(
            result_text(&gateway.caller("alice").call("up__any", json!({})).await),
            result,
            "a type that is there stays"
        );
    }
}

#[tokio::test]
async fn odd_arguments_arrive_to_the_byte() {
    let (_web, gateway) = scene().await;
    let legacy = gateway.caller("alice").initialize("2025-11-25").await;
    for arguments in ODD {
        for tool in ["web__echo", "child__echo"] {
            let reply = legacy.post(call_text(tool, &format!(r#""arguments":{arguments}"#))).await;
            assert_echoed(&reply, arguments);
            let reply = modern_call(&gateway, tool, &format!(r#""arguments":{arguments},"#), "").await;
            assert_echoed(&reply, arguments);
        }
    }
}

/// Both that the upstream got this text, and that its answer came back as it was.
fn assert_echoed(reply: &Reply, arguments: &str) {
    #[derive(Deserialize)]
    struct Echo<'a> {
        #[serde(borrow, rename = "structuredContent")]
        structured: &'a RawValue,
        content: [Text; 1],
    }
    #[derive(Deserialize)]
    struct Text {
        text: String,
    }
    let result = result_text(reply);
    let echo: Echo<'_> = serde_json::from_str(&result).unwrap_or_else(|error| panic!("{error} in {result}"));
    assert_eq!(echo.content[0].text, arguments);
    assert_eq!(echo.structured.get(), arguments);
}

#[tokio::test]
async fn line_ends_in_json_do_not_split_a_message() {
    // An event stream cannot tell one line end from another, JSON can.
    let web = Fixture::with(Settings { replies: Replies::Json, ..Settings::default() }).await.unwrap();
    let child = program("fixture-upstream");
    let builder =
        Gateway::builder().http_upstream("web", &web.url).stdio_upstream("child", &[child.to_str().unwrap(), "stdio"]);
    let gateway = builder.key("alice").start().await;
    let arguments = "{\r\n\t\"a\" :\n[\r1 ]\n}";
    let reply = modern_call(&gateway, "web__echo", &format!(r#""arguments":{arguments},"#), "").await;
    assert_echoed(&reply, arguments);
    let reply = modern_call(&gateway, "child__echo", &format!(r#""arguments":{arguments},"#), "").await;
    assert_echoed(&reply, &arguments.replace(['\n', '\r'], " "));
}

#[tokio::test]
async fn unknown_params_and_meta_reach_the_upstream() {
    #[derive(Deserialize)]
    struct Params<'a> {
        name: String,
        #[serde(borrow)]
        arguments: &'a RawValue,
        #[serde(borrow)]
        vendor: &'a RawValue,
        #[serde(borrow, rename = "_meta")]
        meta: Meta<'a>,
    }
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Meta<'a> {
        #[serde(borrow, rename = "example.com/x")]
        own: &'a RawValue,
        traceparent: String,
        #[serde(rename = "progressToken")]
        progress_token: Option<Value>,
    }
    let (_web, gateway) = scene().await;
    let legacy = gateway.caller("alice").initialize("2025-11-25").await;
    let more = r#""vendor":{"z":1.0,"a":[1e3, "\u00e9"]},"arguments":{"b":1,"a":18446744073709551616},"#;
    let meta = r#""example.com/x":{"z":1.50,"":null},"traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01","progressToken":"mine""#;
    for tool in ["web__whoami", "child__whoami"] {
        let (modern, legacy) = (
            modern_call(&gateway, tool, more, &format!(",{meta}")).await,
            legacy.post(call_text(tool, &format!(r#"{more}"_meta":{{{meta}}}"#))).await,
        );
        for reply in [modern, legacy] {
            let text = params_text(&reply);
            let params: Params<'_> = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}"));
            assert_eq!(params.name, "whoami");
            assert_eq!(params.arguments.get(), r#"{"b":1,"a":18446744073709551616}"#);
            assert_eq!(params.vendor.get(), r#"{"z":1.0,"a":[1e3, "\u00e9"]}"#);
            assert_eq!(params.meta.own.get(), r#"{"z":1.50,"":null}"#);
            assert_eq!(params.meta.traceparent, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
            let token = params.meta.progress_token.expect("progress was asked for");
            assert_ne!(token, "mine", "the upstream sees a token of the gateway's own");
        }
    }
}

/// The `params` that `whoami` was called with.
fn params_text(reply: &Reply) -> String {
    #[derive(Deserialize)]
    struct Result<'a> {
        #[serde(borrow, rename = "structuredContent")]
        structured: Structured<'a>,
    }
    #[derive(Deserialize)]
    struct Structured<'a> {
        #[serde(borrow)]
        params: &'a RawValue,
    }
    let result = result_text(reply);
    let result: Result<'_> = serde_json::from_str(&result).unwrap_or_else(|error| panic!("{error} in {result}"));
    result.structured.params.get().to_owned()
}

#[tokio::test]
async fn definitions_keep_all_but_their_name() {
    let (_web, gateway) = scene().await;
    let lists = [
        result_text(&gateway.caller("alice").modern("tools/list", json!({})).await),
        result_text(&gateway.caller("alice").initialize("2025-06-18").await.request("tools/list", json!({})).await),
    ];
    for definition in default_tools() {
        let name = serde_json::from_str::<Value>(definition.get()).unwrap()["name"].as_str().unwrap().to_owned();
        for upstream in ["web", "child"] {
            let listed = definition.get().replacen(
                &format!(r#""name":"{name}""#),
                &format!(r#""name":"{upstream}__{name}""#),
                1,
            );
            for list in &lists {
                assert!(list.contains(&listed), "{listed} is not in {list}");
            }
        }
    }
}

#[tokio::test]
async fn odd_definitions_are_listed_as_they_are() {
    let definitions = [
        r#"{"inputSchema":true,"x":[1.0,1e300],"name":"always","description":"\ud83d\ude00"}"#,
        r#"{"name":"bare"}"#,
        r#"{"title":null,"name":"nulls","annotations":"none","icons":[{"src":"data:,"}],"outputSchema":{"$ref":"https://example.com/never-fetched"}}"#,
    ];
    // What not every reader of JSON can read is left out.
    let unreadable = [r#"{"name":"too-much","x":1e400}"#, r#"{"name":"twice","x":1,"x":2}"#];
    let up = Scripted::start(&[&definitions[..], &unreadable].concat()).await;
    let gateway = Gateway::builder().http_upstream("up", &up.url).key("alice").start().await;
    let list = result_text(&gateway.caller("alice").modern("tools/list", json!({})).await);
    let expected = definitions.join(",").replace(r#""name":""#, r#""name":"up__"#);
    assert!(list.contains(&format!(r#""tools":[{expected}]"#)), "{list}");
}

#[tokio::test]
async fn an_upstreams_error_passes_with_all_its_members() {
    let up = Hostile::start(Behaviour::ErrorWithExtras).await;
    let gateway = Gateway::builder().http_upstream("up", &up.url).key("alice").start().await;
    let error = r#"{"x-before":[1.0],"code":-32050,"data":{"z":1e2,"a":"\u00e9"},"message":"No.","x-after":{}}"#;
    let tool = format!("up__{}", up.tool());
    // 2026-07-28 keeps such codes for itself (basic § error codes): there it is told beside one that may be used.
    let translated =
        r#"{"code":-32603,"message":"No.","data":{"upstreamCode":-32050,"upstreamData":{"z":1e2,"a":"\u00e9"}}}"#;
    let modern = gateway.caller("alice").call(&tool, json!({})).await;
    assert_eq!((modern.status.as_u16(), &*result_text(&modern)), (200, translated));
    let legacy = gateway.caller("alice").initialize("2025-11-25").await;
    let legacy = legacy.request("tools/call", json!({ "name": tool })).await;
    assert_eq!((legacy.status.as_u16(), &*result_text(&legacy)), (200, error));
}

#[tokio::test]
async fn an_error_of_either_transport_passes() {
    let (web, gateway) = scene().await;
    web.set_tools(Vec::new());
    // It is still listed here, but the upstream knows it no more.
    let reply = gateway.caller("alice").call("web__echo", json!({})).await;
    assert_eq!(reply.json()["error"], json!({ "code": -32602, "message": "Unknown tool: echo" }));
}

#[tokio::test]
async fn names_that_no_header_can_hold_are_called_in_their_encoded_form() {
    use base64::Engine as _;
    let up = Scripted::start(&[r#"{"name":"größe/alle"}"#]).await;
    let gateway = Gateway::builder().http_upstream("up", &up.url).key("alice").start().await;
    let names = gateway.caller("alice").tool_names().await;
    let [name] = names.as_slice() else { panic!("{names:?}") };
    assert!(name.starts_with("up__gr--e-alle.") && name.len() <= 64, "{name}");
    let mut headers = HeaderMap::new();
    let encoded = base64::engine::general_purpose::STANDARD.encode(name);
    headers.insert("mcp-name", HeaderValue::try_from(format!("=?base64?{encoded}?=")).unwrap());
    let (mut request, body) = gateway.caller("alice").modern_request("tools/call", json!({ "name": name }));
    request.extend(headers);
    let mut caller = gateway.stranger();
    caller.headers = request;
    assert_eq!(caller.post(body).await.status.as_u16(), 200);
    assert_eq!(gateway.caller("alice").call(name, json!({})).await.status.as_u16(), 200);
}
