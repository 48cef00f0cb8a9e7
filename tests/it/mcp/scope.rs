//! What of the gateway a caller gets to see: what its key names, what its policies leave, what its path and its headers
//! narrow it to. All of it holds in both eras, at every endpoint, on every transport, and for calls as for lists.

use http::StatusCode;
use portcullis_tests::caller::SseSession;
use portcullis_tests::upstreams::fixture::{Eras, Fixture, Replies, Settings, tool};
use portcullis_tests::{Caller, Gateway, Reply, program};
use serde_json::{Value, json};

use super::{LISTS, ask, listed, refusal, result_of};

const NARROW: &str = r#"[{ upstream = "up", tools = ["echo"] }]"#;

/// One caller of each era, at the common endpoint and at that of `up`.
async fn everywhere(gateway: &Gateway, key: &str) -> Vec<(Caller, &'static str)> {
    let mut callers = Vec::new();
    for (path, prefix) in [("/mcp", "up__"), ("/mcp/up", "")] {
        let caller = || gateway.caller(key).at(path);
        callers.push((caller(), prefix));
        for version in ["2025-11-25", "2024-11-05"] {
            callers.push((caller().initialize(version).await, prefix));
        }
    }
    callers
}

/// An answer with nothing in it that tells one request from another.
fn anonymous(reply: &Reply, name: &str) -> (StatusCode, String) {
    let mut answer = reply.json();
    answer["id"] = Value::Null;
    (reply.status, answer.to_string().replace(name, "NAME"))
}

#[tokio::test]
async fn a_key_that_names_tools_sees_no_prompts_and_no_resources() {
    let up = Fixture::start().await;
    let gateway = Gateway::builder().http_upstream("up", &up.url).key_for("narrow", NARROW).start().await;
    for (caller, prefix) in everywhere(&gateway, "narrow").await {
        assert_eq!(listed(&caller, LISTS[0]).await, [format!("{prefix}echo")]);
        for list in &LISTS[1..] {
            assert_eq!(listed(&caller, *list).await, [""; 0], "{list:?}");
        }
        for (method, member, there, absent) in [
            ("prompts/get", "name", format!("{prefix}test_simple_prompt"), format!("{prefix}test_simple_nothing")),
            ("resources/read", "uri", "test://static-text".to_owned(), "test://static-none".to_owned()),
            ("resources/read", "uri", "test://template/1/data".to_owned(), "test://nowhere/1/data".to_owned()),
            ("resources/read", "uri", "skill://git-commit/SKILL.md".to_owned(), "skill://none/SKILL.md".to_owned()),
        ] {
            let hidden = ask(&caller, method, json!({ member: there, "arguments": {} })).await;
            let unknown = ask(&caller, method, json!({ member: absent, "arguments": {} })).await;
            assert_eq!(anonymous(&hidden, &there), anonymous(&unknown, &absent), "{method} {there}");
            assert!(hidden.json()["error"].is_object(), "{}", hidden.text());
        }
        for reference in [
            json!({ "type": "ref/prompt", "name": format!("{prefix}test_prompt_with_arguments") }),
            json!({ "type": "ref/resource", "uri": "test://template/{id}/data" }),
        ] {
            let params = json!({ "ref": reference, "argument": { "name": "arg1", "value": "" } });
            let reply = ask(&caller, "completion/complete", params).await;
            assert!(reply.json()["error"].is_object(), "{reference}: {}", reply.text());
        }
        if caller.headers.contains_key("mcp-session-id") {
            let reply = caller.request("resources/subscribe", json!({ "uri": "test://watched-resource" })).await;
            assert_eq!(refusal(&reply), (200, -32002));
        } else {
            let notifications =
                json!({ "resourceSubscriptions": ["test://watched-resource"], "toolsListChanged": true });
            let mut stream =
                caller.begin_modern("subscriptions/listen", json!({ "notifications": notifications })).await;
            let granted = stream.next().await["params"]["notifications"].clone();
            assert!(granted.get("resourceSubscriptions").is_none_or(|uris| *uris == json!([])), "{granted}");
            assert_eq!(granted["toolsListChanged"], true);
        }
    }
    assert_eq!((up.stats().calls, up.stats().subscriptions), (0, 0));
}

#[tokio::test]
async fn what_a_policy_hides_is_hidden_at_every_endpoint_in_every_revision_on_every_transport() {
    const RULES: &str = "[[policies]]\nname = \"tools\"\nmodule = \"builtin:allow-tools\"\nlimits = { time = \"1s\" }\n[policies.config]\notherwise = \"hide\"\n[[policies.config.rules]]\ntools = [\"*/echo\", \"*/counter\"]\naction = \"allow\"";
    let up = Fixture::start().await;
    let child = program("fixture-upstream");
    let gateway = Gateway::builder()
        .http_upstream("up", &up.url)
        .stdio_upstream("child", &[child.to_str().unwrap(), "stdio"])
        .section("[mcp]\nlegacy_sse = true")
        .section(RULES)
        .key("ci")
        .start()
        .await;
    gateway.until_upstreams_are_up().await;
    for (caller, prefix) in everywhere(&gateway, "ci").await {
        let mut expected = vec![format!("{prefix}counter"), format!("{prefix}echo")];
        if !prefix.is_empty() {
            expected.splice(0..0, ["child__counter".to_owned(), "child__echo".to_owned()]);
        }
        assert_eq!(listed(&caller, LISTS[0]).await, expected);
        let hidden = ask(&caller, "tools/call", json!({ "name": format!("{prefix}slow"), "arguments": {} })).await;
        let unknown = ask(&caller, "tools/call", json!({ "name": format!("{prefix}slot"), "arguments": {} })).await;
        assert_eq!(anonymous(&hidden, "slow"), anonymous(&unknown, "slot"));
        let fine =
            ask(&caller, "tools/call", json!({ "name": format!("{prefix}echo"), "arguments": { "a": 1 } })).await;
        assert_eq!(fine.json()["result"]["structuredContent"], json!({ "a": 1 }));
    }
    let mut sse = SseSession::open(&gateway.caller("ci"), "2024-11-05").await;
    let names = sse.request("tools/list", json!({})).await["result"]["tools"].clone();
    let names: Vec<&str> = names.as_array().unwrap().iter().map(|tool| tool["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["child__counter", "child__echo", "up__counter", "up__echo"]);
    let hidden = sse.request("tools/call", json!({ "name": "up__slow", "arguments": {} })).await;
    assert_eq!(hidden["error"]["code"], -32602, "{hidden}");
    let fine = sse.request("tools/call", json!({ "name": "child__echo", "arguments": {} })).await;
    assert_eq!(fine["result"]["structuredContent"], json!({}));
    assert_eq!(up.stats().calls, 6);
}

#[tokio::test]
async fn nothing_of_what_a_policy_hides_is_in_a_cursor() {
    const RULES: &str = "[[policies]]\nname = \"tools\"\nmodule = \"builtin:allow-tools\"\nlimits = { time = \"1s\" }\n[policies.config]\notherwise = \"allow\"\n[[policies.config.rules]]\ntools = [\"*/secret*\"]\naction = \"hide\"";
    use base64::Engine as _;
    let up = Fixture::start().await;
    up.set_tools(["a", "secret-one", "secret-two", "z"].into_iter().map(tool).collect());
    let builder = Gateway::builder().http_upstream("up", &up.url).section(RULES).section("[limits]\nlist_page = 2");
    let gateway = builder.key("ci").start().await;
    let caller = gateway.caller("ci");
    let mut params = json!({});
    let mut names = Vec::new();
    loop {
        let result = result_of(&caller, "tools/list", params).await;
        names.extend(result["tools"].as_array().unwrap().iter().map(|tool| tool["name"].clone()));
        let Some(cursor) = result["nextCursor"].as_str() else { break };
        let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(cursor).unwrap_or_default();
        assert!(!String::from_utf8_lossy(&bytes).contains("secret"), "{cursor}");
        params = json!({ "cursor": cursor });
    }
    assert_eq!(json!(names), json!(["up__a", "up__z"]));
}

/// Two upstreams with some tools, and a gateway where `all` reaches both and `notes` one.
async fn two() -> (Fixture, Fixture, Gateway) {
    let (notes, tracker) = (Fixture::start().await, Fixture::start().await);
    for up in [&notes, &tracker] {
        up.set_tools(["add", "archive", "list"].into_iter().map(tool).collect());
    }
    let gateway = Gateway::builder()
        .http_upstream("notes", &notes.url)
        .http_upstream("tracker", &tracker.url)
        .key("all")
        .key_for("notes", r#"[{ upstream = "notes", tools = ["*"] }]"#)
        .start()
        .await;
    (notes, tracker, gateway)
}

const UPSTREAMS: &str = "x-portcullis-include-upstreams";
const TOOLS: &str = "x-portcullis-include-tools";

/// A key, the headers that are sent, and what is to be seen.
type Row = (&'static str, &'static [(&'static str, &'static str)], &'static [&'static str]);

#[tokio::test]
async fn headers_narrow_lists_and_calls_and_widen_nothing() {
    let (notes, tracker, gateway) = two().await;
    let rows: [Row; 10] = [
        ("all", &[(UPSTREAMS, "notes")], &["notes__add", "notes__archive", "notes__list"]),
        ("all", &[(UPSTREAMS, "none, tracker ,")], &["tracker__add", "tracker__archive", "tracker__list"]),
        ("all", &[(UPSTREAMS, "n*")], &["notes__add", "notes__archive", "notes__list"]),
        ("all", &[(TOOLS, "*__a*")], &["notes__add", "notes__archive", "tracker__add", "tracker__archive"]),
        ("all", &[(TOOLS, "notes__add,tracker__list")], &["notes__add", "tracker__list"]),
        ("all", &[(UPSTREAMS, "tracker"), (TOOLS, "*__a*")], &["tracker__add", "tracker__archive"]),
        ("all", &[(TOOLS, "add")], &[]),
        ("all", &[(UPSTREAMS, "")], &[]),
        ("notes", &[(UPSTREAMS, "*"), (TOOLS, "*")], &["notes__add", "notes__archive", "notes__list"]),
        ("notes", &[(UPSTREAMS, "tracker")], &[]),
    ];
    let all = gateway.caller("all").tool_names().await;
    for (key, headers, expected) in rows {
        let narrowed = || headers.iter().fold(gateway.caller(key), |caller, (name, value)| caller.with(name, value));
        let session = narrowed().initialize("2025-11-25").await;
        for caller in [narrowed(), session] {
            assert_eq!(listed(&caller, LISTS[0]).await, expected, "{key} {headers:?}");
            for name in &all {
                let reply = ask(&caller, "tools/call", json!({ "name": name, "arguments": {} })).await;
                let is_called = reply.json()["result"].is_object();
                assert_eq!(is_called, expected.contains(&name.as_str()), "{key} {headers:?} {name}");
                assert!(is_called || refusal(&reply) == (200, -32602), "{}", reply.text());
            }
        }
    }
    let calls = rows.iter().map(|(.., expected)| 2 * expected.len()).sum::<usize>();
    assert_eq!(notes.stats().calls + tracker.stats().calls, calls, "what is not included is not reached");
}

#[tokio::test]
async fn headers_narrow_prompts_and_resources_and_what_is_offered_too() {
    let (_notes, _tracker, gateway) = two().await;
    let narrowed = || gateway.caller("all").with(UPSTREAMS, "tracker");
    for caller in [narrowed(), narrowed().initialize("2025-11-25").await] {
        let prompts = listed(&caller, LISTS[1]).await;
        assert!(!prompts.is_empty() && prompts.iter().all(|name| name.starts_with("tracker__")), "{prompts:?}");
        assert!(listed(&caller, LISTS[2]).await.iter().all(|uri| uri.contains("//tracker/")), "they are marked");
        for (method, params) in [
            ("prompts/get", json!({ "name": "notes__test_simple_prompt" })),
            ("resources/read", json!({ "uri": "test://static-text" })),
        ] {
            let reply = ask(&caller, method, params).await;
            assert!(reply.json()["error"].is_object(), "{}", reply.text());
        }
        result_of(&caller, "prompts/get", json!({ "name": "tracker__test_simple_prompt" })).await;
        result_of(&caller, "resources/read", json!({ "uri": "test://tracker/static-text" })).await;
    }
    let nothing = gateway.caller("all").with(UPSTREAMS, "none");
    let capabilities = result_of(&nothing, "server/discover", json!({})).await["capabilities"].clone();
    assert_eq!(capabilities, json!({ "tools": { "listChanged": true } }));
}

#[tokio::test]
async fn headers_that_name_nothing_possible_are_refused() {
    let (notes, _tracker, gateway) = two().await;
    let many = vec!["a"; 1_000].join(",");
    for (name, value) in [
        (UPSTREAMS, "not es"),
        (UPSTREAMS, "a/b"),
        (TOOLS, "a\tb"),
        (TOOLS, "\"quoted\""),
        (UPSTREAMS, many.as_str()),
        (TOOLS, many.as_str()),
    ] {
        let caller = gateway.caller("all").with(name, value);
        let reply = caller.modern("tools/list", json!({})).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{name}: {value:.20}");
        let reply = caller.call("notes__add", json!({})).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{name}: {value:.20}");
    }
    let mut bytes = gateway.caller("all");
    bytes.headers.insert(TOOLS, http::HeaderValue::from_bytes(b"\xe4").unwrap());
    assert_eq!(bytes.modern("tools/list", json!({})).await.status, StatusCode::BAD_REQUEST);
    assert_eq!(notes.stats().calls, 0);
}

#[tokio::test]
async fn an_endpoint_that_is_not_there_and_one_out_of_reach_look_the_same() {
    let (_notes, tracker, gateway) = two().await;
    let without_date = |reply: &Reply| {
        let mut headers = reply.headers.clone();
        headers.remove("date");
        headers.remove("x-request-id");
        (reply.status, headers, reply.body.clone())
    };
    for (method, body) in [("POST", true), ("GET", false), ("DELETE", false)] {
        let mut answers = Vec::new();
        for name in ["none", "tracker", "Not%20A%20Name", "UPPER", "a.b"] {
            let mut caller = gateway.caller("notes").at(&format!("/mcp/{name}"));
            let (headers, text) = caller.modern_request("tools/call", json!({ "name": "add", "arguments": {} }));
            if body {
                caller.headers = headers;
            }
            let reply = caller.send(method, &format!("/mcp/{name}"), if body { text } else { String::new() }).await;
            assert_eq!(reply.status, StatusCode::NOT_FOUND, "{method} {name}: {}", reply.text());
            answers.push(without_date(&reply));
        }
        answers.dedup();
        assert_eq!(answers.len(), 1, "{method}: {answers:?}");
    }
    let session = gateway.caller("all").at("/mcp/tracker").initialize("2025-11-25").await;
    let id = session.headers["mcp-session-id"].to_str().unwrap();
    for path in ["/mcp", "/mcp/notes", "/mcp/none"] {
        let elsewhere = gateway.caller("all").at(path).with("mcp-session-id", id);
        assert_eq!(elsewhere.request("ping", json!({})).await.status, StatusCode::NOT_FOUND, "{path}");
    }
    assert_eq!(session.request("ping", json!({})).await.status, StatusCode::OK);
    assert_eq!(tracker.stats().calls, 0);
    // Without a key nothing is told at all.
    for path in ["/mcp/notes", "/mcp/none"] {
        assert_eq!(gateway.stranger().send("POST", path, "{}").await.status, StatusCode::UNAUTHORIZED, "{path}");
    }
}

#[tokio::test]
async fn results_of_every_kind_of_upstream_pass_the_policies() {
    let http = async |eras: Eras, replies: Replies| {
        Fixture::with(Settings { eras, replies, ..Settings::default() }).await.unwrap()
    };
    let upstreams = [
        ("legacy-json", http(Eras::Legacy, Replies::Json).await),
        ("legacy-events", http(Eras::Legacy, Replies::Sse).await),
        ("legacy-awkward", http(Eras::Legacy, Replies::AwkwardSse).await),
        ("modern-json", http(Eras::Modern, Replies::Json).await),
        ("modern-events", http(Eras::Modern, Replies::Sse).await),
    ];
    let child = program("fixture-upstream");
    let child = |era: &str| format!("command = [{:?}, \"stdio\", {era:?}]", child.to_str().unwrap());
    let builder = upstreams.iter().fold(Gateway::builder(), |builder, (name, up)| builder.http_upstream(name, &up.url));
    let gateway = builder
        .section(&format!("[upstreams.legacy-child]\n{}", child("--legacy")))
        .section(&format!("[upstreams.modern-child]\n{}", child("--modern")))
        .section("[[policies]]\nname = \"redact\"\nmodule = \"builtin:redact\"\nlimits = { time = \"1s\" }\nconfig = { words = [\"Falcon\"] }")
        .section("[[policies]]\nname = \"read-only\"\nmodule = \"builtin:read-only\"\nlimits = { time = \"1s\" }")
        .key("ci")
        .start()
        .await;
    gateway.until_upstreams_are_up().await;
    let names = upstreams.iter().map(|(name, _)| *name).chain(["legacy-child", "modern-child"]);
    let callers = [gateway.caller("ci"), gateway.caller("ci").initialize("2025-11-25").await];
    for name in names {
        for caller in &callers {
            let arguments = json!({ "project": "Falcon", "n": 1.0 });
            let params = json!({ "name": format!("{name}__echo"), "arguments": arguments });
            let reply = ask(caller, "tools/call", params).await;
            assert!(!reply.text().contains("Falcon"), "{name}: {}", reply.text());
            assert_eq!(reply.json()["result"]["structuredContent"]["n"], 1.0, "{name}: {}", reply.text());
            // What changes something is refused, whoever would do it.
            let params = json!({ "name": format!("{name}__counter"), "arguments": {} });
            let refused = ask(caller, "tools/call", params).await.json();
            assert_eq!(refused["result"]["_meta"]["portcullis/refusal"]["policy"], "read-only", "{name}: {refused}");
        }
    }
    assert!(upstreams.iter().all(|(_, up)| up.stats().calls == 2), "the refused calls reached nobody");
}
