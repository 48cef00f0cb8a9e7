//! Upstreams that misbehave before anybody calls them: what they say of themselves and what they list is not what it
//! should be. They are down, or lack the one list, with a reason, in time; others are not touched.

use std::time::{Duration, Instant};

use portcullis_tests::Gateway;
use portcullis_tests::upstreams::fixture::Fixture;
use serde_json::{Value, json};

use crate::mcp::scripted::{Manner, Offer, Scripted};
use crate::mcp::{LISTS, listed, result_of};

/// What may pass until the gateway is ready, on a busy machine.
const BOUND: Duration = Duration::from_secs(15);

fn offer() -> Offer {
    Offer { tools: vec![r#"{"name":"t"}"#.to_owned()], prompts: vec![r#"{"name":"p"}"#.to_owned()], ..Offer::default() }
}

#[tokio::test]
async fn a_list_that_is_none_costs_itself_and_nothing_else() {
    let good = Fixture::start().await;
    let answers = [
        r#""result":{"resultType":"input_required","inputRequests":{"a":{"method":"roots/list"}},"requestState":"s"}"#,
        r#""result":{"resultType":"input_required","requestState":"s"}"#,
        r#""result":{"resultType":"task","taskId":"1","status":"working"}"#,
        r#""result":{"resultType":"complete"}"#,
        r#""result":{"resultType":"complete","prompts":{}}"#,
        r#""result":{"resultType":"complete","prompts":null}"#,
        r#""result":{"resultType":"complete","prompts":"[]"}"#,
        r#""result":{"resultType":"complete","tools":[]}"#,
        r#""result":{"resultType":"complete","prompts":[],"nextCursor":7}"#,
        r#""result":{"resultType":"complete","prompts":[],"nextCursor":"again"}"#,
        r#""error":{"code":-32603,"message":"not today"}"#,
        r#""error":{"code":-32022,"message":"another","data":{"supported":["2026-07-28"],"requested":"x"}}"#,
        r#""error":{"message":"no code"}"#,
        r#""result":[]"#,
        r#""result":7"#,
    ];
    for manner in [Manner::Modern, Manner::ModernEvents, Manner::Legacy, Manner::LegacyEvents] {
        let mut bad = Vec::new();
        let mut builder = Gateway::builder().http_upstream("good", &good.url).key("ci");
        for (at, answer) in answers.iter().enumerate() {
            let up = Scripted::with(manner, offer()).await;
            up.answer_to("prompts/list", answer);
            builder = builder.section(&format!(
                "[upstreams.bad-{at:02}]\nurl = \"{}\"\ncall_timeout = \"2s\"\nsync_interval = \"1h\"",
                up.url
            ));
            bad.push(up);
        }
        let began = Instant::now();
        let gateway = builder.start().await;
        assert!(began.elapsed() < BOUND, "{manner:?}: ready after {:?}", began.elapsed());
        gateway.until_upstreams_are_up().await;
        let caller = gateway.caller("ci");
        let tools = listed(&caller, LISTS[0]).await;
        for (at, answer) in answers.iter().enumerate() {
            assert!(tools.contains(&format!("bad-{at:02}__t")), "{manner:?} {answer}: {tools:?}");
            let called = caller.call(&format!("bad-{at:02}__t"), json!({})).await;
            assert!(called.json()["result"].is_object(), "{manner:?} {answer}: {}", called.text());
        }
        let prompts = listed(&caller, LISTS[1]).await;
        assert!(prompts.iter().all(|name| name.starts_with("good__")), "{manner:?}: {prompts:?}");
        // Nobody runs in circles over it.
        let asked: usize = bad.iter().map(|up| up.asked("prompts/list").len()).sum();
        assert!(asked < 40 * answers.len(), "{manner:?}: asked {asked} times");
    }
}

#[tokio::test]
async fn what_an_upstream_says_of_itself_may_be_rubbish() {
    let good = Fixture::start().await;
    let huge =
        format!(r#""result":{{"protocolVersion":"2025-11-25","capabilities":{{"x":"{}"}}}}"#, "x".repeat(2 << 20));
    let legacy = [
        r#""result":{}"#,
        r#""result":{"protocolVersion":7}"#,
        r#""result":{"protocolVersion":"2030-01-01","capabilities":{"tools":{}}}"#,
        r#""result":{"protocolVersion":"2026-07-28","capabilities":{"tools":{}}}"#,
        r#""result":{"protocolVersion":"","capabilities":{"tools":{}}}"#,
        r#""error":{"code":-32602,"message":"no"}"#,
        r#""error":{"code":-32022,"message":"no","data":{"supported":["2030-01-01"]}}"#,
        r#""result":null"#,
        huge.as_str(),
    ];
    let modern = [
        r#""result":{"supportedVersions":[],"capabilities":{"tools":{}},"resultType":"complete"}"#,
        r#""result":{"supportedVersions":"2026-07-28","capabilities":{"tools":{}},"resultType":"complete"}"#,
        r#""result":{"supportedVersions":["2030-01-01"],"capabilities":{},"resultType":"complete"}"#,
        r#""result":{"resultType":"input_required","requestState":"s"}"#,
        r#""result":{"resultType":"task","taskId":"1"}"#,
        r#""error":{"code":-32022,"message":"no","data":{"supported":["2030-01-01"],"requested":"2026-07-28"}}"#,
        r#""error":{"code":-32020,"message":"no"}"#,
    ];
    let mut builder = Gateway::builder()
        .section("[limits]\nupstream_message_size = \"1MiB\"")
        .http_upstream("good", &good.url)
        .key("ci");
    let mut bad = Vec::new();
    for (manner, method, answers) in
        [(Manner::Legacy, "initialize", &legacy[..]), (Manner::Modern, "server/discover", &modern[..])]
    {
        for answer in answers {
            let up = Scripted::with(manner, offer()).await;
            up.answer_to(method, answer);
            builder = builder.section(&format!(
                "[upstreams.bad-{:02}]\nurl = \"{}\"\ncall_timeout = \"2s\"",
                bad.len(),
                up.url
            ));
            bad.push((up, answer.chars().take(120).collect::<String>()));
        }
    }
    let began = Instant::now();
    let gateway = builder.start().await;
    assert!(began.elapsed() < BOUND, "ready after {:?}", began.elapsed());
    let view = gateway.operator("GET", "/api/v1/upstreams", None).await.json()["upstreams"].clone();
    for row in view.as_array().unwrap() {
        let name = row["name"].as_str().unwrap();
        let Some(at) = name.strip_prefix("bad-").and_then(|at| at.parse::<usize>().ok()) else {
            assert_eq!(row["state"], "up", "{row}");
            continue;
        };
        let answer = &bad[at].1;
        assert_eq!(row["state"], "down", "{answer}: {row}");
        assert!(row["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{answer}: {row}");
    }
    let caller = gateway.caller("ci");
    let missing = result_of(&caller, "tools/list", json!({})).await["_meta"]["portcullis/missingUpstreams"].clone();
    assert_eq!(missing.as_array().map(Vec::len), Some(bad.len()), "{missing}");
    assert_eq!(caller.call("good__echo", json!({})).await.json()["result"]["structuredContent"], json!({}));
    assert_eq!(caller.call("bad-00__t", json!({})).await.json()["error"]["code"], -32_602);
    let refused = caller.initialize("2025-11-25").await.request("prompts/get", json!({ "name": "bad-01__p" })).await;
    assert_eq!(refused.json()["error"]["code"], -32_602);
}

#[tokio::test]
async fn what_one_upstream_declares_does_not_spoil_what_the_gateway_says() {
    let good = Fixture::start().await;
    let deep = format!(r#"{{"a":{}1{}}}"#, "[".repeat(5_000), "]".repeat(5_000));
    let long = format!(r#"{{"a":"{}"}}"#, "x".repeat(1 << 20));
    let many: Vec<String> = (0..10_000).map(|number| format!(r#""many/{number}":{{}}"#)).collect();
    let maps = [
        format!(r#"{{"bad/deep":{deep},"good/one":{{"n":1.0}}}}"#),
        format!(r#"{{"bad/long":{long}}}"#),
        r#"{"bad/array":[1],"bad/null":null,"bad/twice":{"a":1,"a":2}}"#.to_owned(),
        format!("{{{}}}", many.join(",")),
        "[]".to_owned(),
        r#""text""#.to_owned(),
    ];
    for manner in [Manner::Modern, Manner::Legacy] {
        let mut builder = Gateway::builder().http_upstream("good", &good.url).key("ci");
        let mut bad = Vec::new();
        for map in &maps {
            let capabilities = vec![format!(r#""extensions":{map}"#), format!(r#""experimental":{map}"#)];
            let up = Scripted::with(manner, Offer { capabilities, ..offer() }).await;
            builder = builder.http_upstream(&format!("bad-{}", bad.len()), &up.url);
            bad.push(up);
        }
        let gateway = builder.start().await;
        let caller = gateway.caller("ci");
        let info = json!({ "name": "tests", "version": "1" });
        let params = json!({ "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": info });
        for reply in [caller.modern("server/discover", json!({})).await, caller.request("initialize", params).await] {
            // serde_json reads 128 levels at most, as do others.
            let answer: Value =
                serde_json::from_str(reply.text()).unwrap_or_else(|error| panic!("{manner:?}: {error}"));
            let capabilities = &answer["result"]["capabilities"];
            assert_eq!(capabilities["experimental"]["good/one"], json!({ "n": 1.0 }), "{manner:?}");
            assert!(reply.text().len() < 64 * 1024, "{manner:?}: {} bytes", reply.text().len());
            assert!(!reply.text().contains("bad/"), "{manner:?}: {}", reply.text());
            assert!(capabilities["prompts"].is_object(), "{manner:?}");
        }
    }
}
