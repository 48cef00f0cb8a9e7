//! The shipped policies: `allow-tools` hides and denies, `read-only` refuses, `redact` takes out; and the trail of what
//! they decided.

use portcullis_tests::upstreams::fixture::Fixture;
use portcullis_tests::{Caller, Gateway, Reply};
use serde_json::{Value, json};

use super::{binding, call, listed, of_each_revision, refusal, structured};

const RULES: &str = r#"[policies.config]
otherwise = "hide"

[[policies.config.rules]]
name = "no-counting"
tools = ["up/counter"]
action = "deny"
code = "counting"
message = "Counting is left to the accountants."

[[policies.config.rules]]
tools = ["up/test_error_handling"]
action = "deny"

[[policies.config.rules]]
tools = ["up/echo", "up/whoami"]
action = "allow"
"#;

async fn behind(policies: &[String]) -> (Fixture, Gateway) {
    let up = Fixture::start().await;
    let builder = Gateway::builder().http_upstream("up", &up.url).http_upstream("twin", &up.url).key("ci");
    let gateway = policies.iter().fold(builder, |builder, section| builder.section(section)).start().await;
    (up, gateway)
}

fn allow_tools() -> String {
    binding("tools", "builtin:allow-tools", &format!("match = {{ upstreams = [\"up\"] }}\n{RULES}"))
}

fn redact(config: &str) -> String {
    binding("redact", "builtin:redact", &format!("match = {{ upstreams = [\"up\"] }}\nconfig = {config}"))
}

/// The names that an upstream of the scene shows, without its prefix.
async fn shown(caller: &Caller, upstream: &str) -> Vec<String> {
    let prefix = format!("{upstream}__");
    listed(caller).await.iter().filter_map(|name| name.strip_prefix(&prefix)).map(str::to_owned).collect()
}

#[tokio::test]
async fn a_hidden_tool_is_not_listed() {
    let (_up, gateway) = behind(&[allow_tools()]).await;
    for caller in of_each_revision(&gateway, "ci").await {
        assert_eq!(shown(&caller, "up").await, ["counter", "echo", "test_error_handling", "whoami"]);
        assert!(shown(&caller, "twin").await.len() > 10, "the other upstream has no policy");
    }
}

#[tokio::test]
async fn a_hidden_tool_is_answered_exactly_like_one_that_does_not_exist() {
    let (up, gateway) = behind(&[allow_tools()]).await;
    for caller in of_each_revision(&gateway, "ci").await {
        let (hidden, unknown) =
            (call(&caller, "up__slow", json!({ "ms": 1 })).await, call(&caller, "up__slot", json!({ "ms": 1 })).await);
        let without_id = |reply: &Reply| {
            let mut answer = reply.json();
            answer["id"] = Value::Null;
            answer.to_string().replace("up__slot", "up__slow")
        };
        assert_eq!(without_id(&hidden), without_id(&unknown));
        assert_eq!(hidden.json()["error"]["code"], -32602, "{}", hidden.text());
        let headers = |reply: &Reply| {
            let mut headers = reply.headers.clone();
            for varies in ["date", "content-length", "x-request-id"] {
                headers.remove(varies);
            }
            (reply.status, headers)
        };
        assert_eq!(headers(&hidden), headers(&unknown));
    }
    assert_eq!(up.stats().calls, 0, "the upstream saw nothing of it");
}

#[tokio::test]
async fn a_denied_tool_is_listed_and_its_call_is_answered_with_the_rules_words() {
    let (up, gateway) = behind(&[allow_tools()]).await;
    for caller in of_each_revision(&gateway, "ci").await {
        assert!(shown(&caller, "up").await.contains(&"counter".to_owned()));
        let (sentence, machine) = refusal(&call(&caller, "up__counter", json!({})).await);
        assert_eq!(sentence, "Counting is left to the accountants.");
        assert_eq!(
            machine,
            json!({ "check": "denied", "policy": "tools", "code": "counting", "rule": "no-counting", "detail": null })
        );
        let (sentence, machine) = refusal(&call(&caller, "up__test_error_handling", json!({})).await);
        assert!(sentence.contains("up/test_error_handling"), "{sentence}");
        assert_eq!((&machine["code"], &machine["rule"]), (&json!("allow-tools.denied"), &json!("rules/1")));
    }
    assert_eq!(up.stats().calls, 0, "the upstream saw nothing of it");
}

#[tokio::test]
async fn an_allowed_call_goes_through_unchanged() {
    let (up, gateway) = behind(&[allow_tools()]).await;
    for caller in of_each_revision(&gateway, "ci").await {
        let one = call(&caller, "up__echo", json!({ "a": 1 })).await;
        let other = call(&caller, "twin__echo", json!({ "a": 1 })).await;
        assert_eq!(one.json()["result"], other.json()["result"]);
        assert_eq!(structured(&one), json!({ "a": 1 }));
    }
    assert_eq!(up.stats().calls, 6);
}

#[tokio::test]
async fn rules_apply_to_what_a_key_may_use_and_add_nothing_to_it() {
    let up = Fixture::start().await;
    let builder = Gateway::builder().http_upstream("up", &up.url).section(&allow_tools());
    let gateway = builder.key_for("narrow", r#"[{ upstream = "up", tools = ["echo", "slow"] }]"#).start().await;
    let caller = gateway.caller("narrow");
    assert_eq!(listed(&caller).await, ["up__echo"]);
    for beyond in ["up__whoami", "up__counter", "up__slow"] {
        assert_eq!(call(&caller, beyond, json!({})).await.json()["error"]["code"], -32602, "{beyond}");
    }
}

#[tokio::test]
async fn what_changes_something_is_refused_where_only_reading_is_allowed() {
    let (up, gateway) = behind(&[binding("read-only", "builtin:read-only", "match = { upstreams = [\"up\"] }")]).await;
    for caller in of_each_revision(&gateway, "ci").await {
        assert_eq!(shown(&caller, "up").await, shown(&caller, "twin").await, "it hides nothing");
        assert_eq!(structured(&call(&caller, "up__echo", json!({ "a": 1 })).await), json!({ "a": 1 }));
        for changing in ["counter", "test_simple_text"] {
            let (sentence, machine) = refusal(&call(&caller, &format!("up__{changing}"), json!({})).await);
            assert!(sentence.contains(&format!("up/{changing}")), "{sentence}");
            assert_eq!((&machine["policy"], &machine["code"]), (&json!("read-only"), &json!("read-only.changes")));
            assert!(call(&caller, &format!("twin__{changing}"), json!({})).await.json()["result"]["isError"].is_null());
        }
    }
    assert_eq!(up.stats().calls, 9);
}

/// The text of `result`, without the id around it.
fn result_text(reply: &Reply) -> String {
    let message = reply.messages().pop().unwrap();
    let at = message.find(r#""result":"#).unwrap_or_else(|| panic!("{message}"));
    message[at..].to_owned()
}

#[tokio::test]
async fn findings_are_masked_in_texts_and_structured_content_and_every_other_byte_stays() {
    let (_up, gateway) = behind(&[redact(r#"{ kinds = ["email", "api-key"], words = ["Falcon"] }"#)]).await;
    let legacy = gateway.caller("ci").initialize("2025-11-25").await;
    let ask = async |upstream: &str, arguments: &str| {
        let params = format!(r#"{{"name":"{upstream}__echo","arguments":{arguments}}}"#);
        result_text(
            &legacy.post(format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{params}}}"#)).await,
        )
    };
    let cases = [
        (r#"{"z":1.0,"to":"ann@example.com","n":[1e2,18446744073709551616]}"#, "ann@example.com", "[redacted:email]"),
        (r#"{"a":{"b":["-","use sk-0123456789abcdef0 now"]}}"#, "sk-0123456789abcdef0", "[redacted:api-key]"),
        (r#"{"note":"project FALCON, später","x":"\u00e4\/"}"#, "FALCON", "[redacted:word]"),
    ];
    for (arguments, secret, mask) in cases {
        let (plain, masked) = (ask("twin", arguments).await, ask("up", arguments).await);
        assert!(plain.contains(secret) && !masked.contains(secret), "{masked}");
        assert_eq!(masked.matches(mask).count(), 2, "once in the text, once in the structured content: {masked}");
        let after = r#""structuredContent":"#;
        let structured_of = |text: &str| text[text.find(after).unwrap()..].to_owned();
        let untouched = |text: String| text.replace(r"\u00e4\/", "ä/");
        assert_eq!(
            untouched(structured_of(&plain).replace(secret, mask)),
            untouched(structured_of(&masked)),
            "numbers, order and spelling are as they came"
        );
    }
    let nothing = r#"{"z":1.0,"n":[1e2,18446744073709551616],"x":"\u00e4\/"}"#;
    assert_eq!(ask("up", nothing).await, ask("twin", nothing).await, "what holds nothing keeps every byte");
}

#[tokio::test]
async fn a_member_whose_name_is_a_finding_goes_away() {
    let (_up, gateway) = behind(&[redact(r#"{ kinds = ["email"], replacement = "***" }"#)]).await;
    for caller in of_each_revision(&gateway, "ci").await {
        let reply =
            call(&caller, "up__echo", json!({ "ann@example.com": { "a": 1 }, "b": ["bo@example.org", 2] })).await;
        assert_eq!(structured(&reply), json!({ "b": ["***", 2] }));
        assert!(!reply.text().contains("example"), "{}", reply.text());
    }
}

#[tokio::test]
async fn parts_that_are_no_texts_pass_beside_redacted_ones() {
    let (_up, gateway) = behind(&[redact(r#"{ words = ["multiple", "value"] }"#)]).await;
    let legacy = gateway.caller("ci").initialize("2025-11-25").await;
    let tool = "test_multiple_content_types";
    let (masked, plain) = (
        call(&legacy, &format!("up__{tool}"), json!({})).await.json(),
        call(&legacy, &format!("twin__{tool}"), json!({})).await.json(),
    );
    let (masked, plain) = (&masked["result"]["content"], &plain["result"]["content"]);
    assert_eq!(masked[0]["text"], "[redacted:word] content types test:");
    assert_eq!(masked[1], plain[1], "an image");
    assert_eq!(masked[2]["resource"]["uri"], plain[2]["resource"]["uri"]);
    let resource = masked[2]["resource"]["text"].as_str().unwrap();
    assert!(resource.contains("[redacted:word]") && !resource.contains("value"), "{resource}");
    for kind in ["image", "audio"] {
        let ask = async |upstream: &str| {
            result_text(&call(&legacy, &format!("{upstream}__test_{kind}_content"), json!({})).await)
        };
        assert_eq!(ask("up").await, ask("twin").await);
    }
}

#[tokio::test]
async fn an_error_of_the_tool_is_redacted_too() {
    let (_up, gateway) = behind(&[redact(r#"{ words = ["intentionally"] }"#)]).await;
    let result = call(&gateway.caller("ci"), "up__test_error_handling", json!({})).await.json()["result"].clone();
    assert_eq!(result["isError"], true);
    assert_eq!(result["content"][0]["text"], "This tool [redacted:word] returns an error for testing");
}

#[tokio::test]
async fn what_no_policy_allows_is_refused_unless_the_operator_says_otherwise() {
    let abstains = || {
        binding(
            "tools",
            "builtin:allow-tools",
            "match = { upstreams = [\"up\"] }\nconfig = { otherwise = \"abstain\" }",
        )
    };
    let (up, gateway) = behind(&[abstains()]).await;
    let caller = gateway.caller("ci");
    assert_eq!(shown(&caller, "up").await, [""; 0]);
    assert_eq!(call(&caller, "up__echo", json!({})).await.json()["error"]["code"], -32602);
    assert_eq!(up.stats().calls, 0);
    let (_up, gateway) = behind(&["[policy]\nwhen_all_abstain = \"allow\"".to_owned(), abstains()]).await;
    assert_eq!(structured(&call(&gateway.caller("ci"), "up__echo", json!({ "a": 1 })).await), json!({ "a": 1 }));
}

#[tokio::test]
async fn a_binding_is_asked_about_the_tools_it_matches_and_no_others() {
    let deny = "match = { upstreams = [\"u*\"], tools = [\"e*o\", \"whoami\"] }\nconfig = { otherwise = \"deny\" }";
    let (_up, gateway) = behind(&[binding("some", "builtin:allow-tools", deny)]).await;
    let caller = gateway.caller("ci");
    for (tool, is_refused) in [("up__echo", true), ("up__whoami", true), ("up__counter", false), ("twin__echo", false)]
    {
        let reply = call(&caller, tool, json!({})).await.json();
        assert_eq!(reply["result"]["isError"] == true, is_refused, "{tool}: {reply}");
    }
}

#[tokio::test]
async fn of_several_policies_any_one_refuses_and_all_inspect() {
    let second = binding("second", "builtin:read-only", "match = { upstreams = [\"up\"] }\npriority = 50");
    let more = binding("more", "builtin:redact", "config = { words = [\"right\"] }");
    let (_up, gateway) = behind(&[allow_tools(), second, redact(r#"{ words = ["left"] }"#), more]).await;
    let caller = gateway.caller("ci");
    let (_, machine) = refusal(&call(&caller, "up__counter", json!({})).await);
    assert_eq!(machine["policy"], "second", "its priority makes it the first to say no");
    let reply = call(&caller, "up__echo", json!({ "to": "left and right" })).await;
    assert_eq!(structured(&reply), json!({ "to": "[redacted:word] and [redacted:word]" }));
    let twin = call(&caller, "twin__echo", json!({ "to": "left and right" })).await;
    assert_eq!(structured(&twin), json!({ "to": "left and [redacted:word]" }));
}

/// The newest decisions about a tool, once there are so many; the rest of them and what varies are left out.
async fn decisions(gateway: &Gateway, tool: &str, wanted: usize) -> Vec<Value> {
    let path = format!("/api/v1/decisions?tool={tool}");
    let view = gateway.until(&path, |view| view["decisions"].as_array().is_some_and(|rows| rows.len() == wanted)).await;
    view["decisions"].as_array().unwrap().clone()
}

fn steps(decision: &Value) -> Vec<String> {
    let said = |step: &Value| {
        let text = |name: &str| step[name].as_str().unwrap_or("-").to_owned();
        format!("{} {} {} {}", text("policy"), text("hook"), text("verdict"), text("reason_code"))
    };
    decision["steps"].as_array().unwrap().iter().map(said).collect()
}

#[tokio::test]
async fn the_trail_says_which_policy_decided_what() {
    let (_up, gateway) = behind(&[allow_tools(), redact(r#"{ words = ["left"] }"#)]).await;
    let caller = gateway.caller("ci");
    call(&caller, "up__echo", json!({ "to": "left" })).await;
    call(&caller, "up__counter", json!({})).await;
    call(&caller, "up__slow", json!({ "ms": 1 })).await;
    call(&caller, "up__nothing", json!({})).await;
    call(&caller, "twin__whoami", json!({})).await;
    let of = |decision: &Value| {
        let text = |name: &str| decision[name].as_str().unwrap_or("-").to_owned();
        format!(
            "{} {} {} {} {}",
            text("principal"),
            text("upstream"),
            text("verdict"),
            text("reason_code"),
            text("outcome")
        )
    };

    let echo = decisions(&gateway, "echo", 1).await.remove(0);
    assert_eq!(of(&echo), "key:ci up allow - result");
    assert_eq!(steps(&echo), ["tools list-tools show -", "tools tool-call allow -", "redact tool-result redact -"]);
    let digests = [("tools", "allow-tools"), ("redact", "redact")].map(|(policy, module)| {
        let bound = digest_of(&echo, policy);
        (bound, portcullis::secret::Digest::of(super::shipped(module)).to_hex())
    });
    assert!(digests.iter().all(|(recorded, shipped)| recorded == shipped), "{digests:?}");
    assert_eq!(
        (&echo["operation"], &echo["revision"], &echo["policy_generation"]),
        (&json!("tools/call"), &json!("2026-07-28"), &json!(1))
    );

    let counter = decisions(&gateway, "counter", 1).await.remove(0);
    assert_eq!(of(&counter), "key:ci up deny counting refused");
    assert_eq!(steps(&counter), ["tools list-tools show -", "tools tool-call deny counting"]);

    let slow = decisions(&gateway, "slow", 1).await.remove(0);
    assert_eq!(of(&slow), "key:ci up hidden hidden refused");
    assert_eq!(steps(&slow), ["tools list-tools hide -"]);

    let nothing = decisions(&gateway, "up__nothing", 1).await.remove(0);
    assert_eq!((of(&nothing), steps(&nothing).len()), ("key:ci - hidden unknown-tool refused".to_owned(), 0));

    let whoami = decisions(&gateway, "whoami", 1).await.remove(0);
    assert_eq!((of(&whoami), steps(&whoami).len()), ("key:ci twin allow - result".to_owned(), 0));
}

fn digest_of(decision: &Value, policy: &str) -> String {
    let mut steps = decision["steps"].as_array().unwrap().iter();
    steps.find(|step| step["policy"] == policy).unwrap()["module_digest"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_list_that_policies_went_through_is_in_the_trail() {
    let (_up, gateway) = behind(&[allow_tools()]).await;
    listed(&gateway.caller("ci")).await;
    let has_list = |view: &Value| {
        view["decisions"].as_array().is_some_and(|rows| rows.iter().any(|row| row["operation"] == "tools/list"))
    };
    let view = gateway.until("/api/v1/decisions", has_list).await;
    assert_eq!(steps(&view["decisions"][0]), ["tools list-tools filter -"]);
}
