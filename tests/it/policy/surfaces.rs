//! Every surface × every hook: whatever a caller and an upstream speak, and over which transport, what a policy refuses,
//! hides or takes out has no way around it.
//!
//! The surfaces of callers are streamable HTTP in both eras and HTTP with server-sent events; those of upstreams
//! streamable HTTP, HTTP with server-sent events and child processes, in both eras. The hooks over authority have no
//! surface yet.

use portcullis_tests::Gateway;
use serde_json::{Value, json};

use super::binding;
use super::guest::answering;
use crate::bridge::{Client, Kind, Scene, Up, answer, everything, text};

/// The surfaces of callers.
const CALLERS: [Kind; 3] = [Kind::Modern, Kind::Session("2025-11-25"), Kind::Sse];

const TEXT: &str = "test://static-text";
const TEMPLATE: &str = "test://template/{id}/data";
const PROMPT: &str = "test_prompt_with_arguments";
const SKILL: &str = "skill://pdf-processing/SKILL.md";
/// The only thing in the directory `skill://tools`.
const DIRECTORY: &str = "skill://tools/git-commit";

fn reason() -> Value {
    json!({ "code": "surface", "message": "Not here." })
}

fn denies() -> Value {
    json!({ "deny": { "reason": reason() } })
}

fn blocks() -> Value {
    json!({ "block": { "reason": reason() } })
}

/// The upstream with a policy that answers this at a hook, about one tool and one item of each kind.
async fn guarded(up: Up, hook: &str, answer: Value) -> Scene {
    let items = format!("{TEXT:?}, {TEMPLATE:?}, {PROMPT:?}, {SKILL:?}, {DIRECTORY:?}");
    let matches = format!("match = {{ tools = [\"echo\"], items = [{items}] }}");
    let builder = Gateway::builder().key("alice").key("bob").file("policy.wasm", &answering(&[(hook, answer)]));
    up.scene_with(builder.section(&binding("guard", "policy.wasm", &matches))).await
}

/// The names in a list.
async fn names(client: &mut Client, method: &str, member: &str, key: &str) -> Vec<String> {
    let listed = client.ask(method, json!({})).await;
    let items = listed["result"][member].as_array().unwrap_or_else(|| panic!("no {member} in {listed}"));
    items.iter().map(|item| item[key].as_str().unwrap().to_owned()).collect()
}

fn get_prompt() -> (&'static str, Value) {
    ("prompts/get", json!({ "name": format!("up__{PROMPT}"), "arguments": { "arg1": "one", "arg2": "two" } }))
}

/// What may be done with items, by method and parameters: all that this client and upstream know.
fn uses(up: Up, kind: Kind) -> Vec<(&'static str, Value)> {
    let complete = |reference: Value, name: &str| {
        ("completion/complete", json!({ "ref": reference, "argument": { "name": name, "value": "" } }))
    };
    let mut uses = vec![
        ("resources/read", json!({ "uri": TEXT })),
        get_prompt(),
        complete(json!({ "type": "ref/prompt", "name": format!("up__{PROMPT}") }), "arg1"),
        complete(json!({ "type": "ref/resource", "uri": TEMPLATE }), "id"),
    ];
    if kind != Kind::Modern && up != Up::Stateless {
        uses.push(("resources/subscribe", json!({ "uri": TEXT })));
    }
    if kind == Kind::Modern {
        uses.push(("skills/get", json!({ "uri": SKILL })));
        uses.push(("resources/read", json!({ "uri": SKILL })));
    }
    uses
}

/// One test for each kind of upstream.
macro_rules! on_every_upstream {
    ($($name:ident: $up:ident,)*) => {$(
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            let up = Up::$up;
            lists_of_tools(up).await;
            calls(up).await;
            results(up).await;
            lists_of_items(up).await;
            uses_of_items(up).await;
            results_of_items(up).await;
            questions(up).await;
        }
    )*};
}

on_every_upstream! {
    modern_http_is_guarded_for_all_callers: ModernHttp,
    legacy_http_is_guarded_for_all_callers: LegacyHttp,
    http_without_sessions_is_guarded_for_all_callers: Stateless,
    http_with_sse_is_guarded_for_all_callers: Sse,
    modern_stdio_is_guarded_for_all_callers: ModernStdio,
    legacy_stdio_is_guarded_for_all_callers: LegacyStdio,
}

/// A tool that is hidden is in no list, and cannot be called.
async fn lists_of_tools(up: Up) {
    let scene = guarded(up, "list-tools", json!({ "visible": ["hide"] })).await;
    for kind in CALLERS {
        let mut client = scene.client(kind, json!({})).await;
        let tools = names(&mut client, "tools/list", "tools", "name").await;
        assert!(tools.contains(&"up__greet".to_owned()) && !tools.contains(&"up__echo".to_owned()), "{up:?} {kind:?}");
        let calls = scene.stat("calls").await;
        let (hidden, unknown) =
            (client.call("up__echo", json!({ "a": 1 })).await, client.call("up__nothing", json!({})).await);
        assert_eq!(hidden["error"]["code"], -32602, "{up:?} {kind:?}: {hidden}");
        let message = |response: &Value, name: &str| response["error"]["message"].as_str().unwrap().replace(name, "");
        assert_eq!(message(&hidden, "up__echo"), message(&unknown, "up__nothing"), "as if there were none");
        assert_eq!(scene.calls_since(calls).await, 0, "{up:?} {kind:?}: the upstream saw nothing of it");
        assert_eq!(text(&client.call("up__greet", json!({ "name": "Ada" })).await), "Hello, Ada!", "{up:?} {kind:?}");
    }
}

async fn calls(up: Up) {
    let scene = guarded(up, "tool-call", denies()).await;
    for kind in CALLERS {
        let mut client = scene.client(kind, json!({})).await;
        let calls = scene.stat("calls").await;
        let denied = client.call("up__echo", json!({ "a": 1 })).await;
        assert_eq!(denied["result"]["isError"], true, "{up:?} {kind:?}: {denied}");
        assert_eq!(text(&denied), "Not here.", "{up:?} {kind:?}");
        assert_eq!(scene.calls_since(calls).await, 0, "{up:?} {kind:?}: the upstream saw nothing of it");
    }
}

async fn results(up: Up) {
    let scene = guarded(up, "tool-result", blocks()).await;
    for kind in CALLERS {
        let mut client = scene.client(kind, json!({})).await;
        let talk =
            client.talk("tools/call", json!({ "name": "up__echo", "arguments": { "secret": 4242 } }), answer).await;
        assert_eq!(text(&talk.response), "Not here.", "{up:?} {kind:?}");
        assert!(!talk.text.contains("4242"), "{up:?} {kind:?}: {}", talk.text);
    }
}

/// An item that is hidden is in no list, and cannot be used in any way.
async fn lists_of_items(up: Up) {
    let scene = guarded(up, "list-items", json!(["hide"])).await;
    for kind in CALLERS {
        let context = format!("{up:?} {kind:?}");
        let mut client = scene.client(kind, json!({})).await;
        let mut lists = vec![
            ("resources/list", "resources", "uri", TEXT.to_owned(), "test://static-binary"),
            ("resources/templates/list", "resourceTemplates", "uriTemplate", TEMPLATE.to_owned(), ""),
            ("prompts/list", "prompts", "name", format!("up__{PROMPT}"), "up__test_prompt_with_image"),
        ];
        if kind == Kind::Modern {
            lists.push(("skills/list", "skills", "uri", SKILL.to_owned(), "skill://tools/git-commit/SKILL.md"));
        }
        for (method, member, key, hidden, shown) in lists {
            let names = names(&mut client, method, member, key).await;
            assert!(!names.contains(&hidden), "{context}: {names:?}");
            assert!(shown.is_empty() || names.contains(&shown.to_owned()), "{context}: {names:?}");
        }
        for (method, params) in uses(up, kind) {
            let refused = client.ask(method, params.clone()).await;
            assert!(refused["error"]["code"].is_i64(), "{context}: {method} {params}: {refused}");
            assert!(!refused.to_string().contains("surface"), "as if there were none: {refused}");
        }
        let other = client.ask("resources/read", json!({ "uri": "test://static-binary" })).await;
        assert!(other["result"]["contents"].is_array(), "{context}: {other}");
        if kind == Kind::Modern {
            let listed = client.ask("resources/directory/read", json!({ "uri": "skill://tools" })).await;
            assert_eq!(listed["result"]["resources"], json!([]), "{context}: {listed}");
            let hidden = client.ask("resources/directory/read", json!({ "uri": "skill://pdf-processing" })).await;
            assert!(hidden["error"]["code"].is_i64(), "the directory of a hidden skill: {context}: {hidden}");
            let file = "skill://pdf-processing/references/FORMS.md";
            let file = client.ask("resources/read", json!({ "uri": file })).await;
            assert!(file.get("result").is_none(), "a file of a hidden skill: {context}: {file}");
        }
    }
}

async fn uses_of_items(up: Up) {
    let scene = guarded(up, "item-access", denies()).await;
    for kind in CALLERS {
        let mut client = scene.client(kind, json!({})).await;
        for (method, params) in uses(up, kind) {
            let denied = client.ask(method, params.clone()).await;
            let error = &denied["error"];
            assert_eq!(error["data"]["code"], "surface", "{up:?} {kind:?}: {method} {params}: {denied}");
            assert_eq!(error["message"], "Not here.", "{up:?} {kind:?}");
        }
        let other = client.ask("resources/read", json!({ "uri": "test://static-binary" })).await;
        assert!(other["result"]["contents"].is_array(), "{up:?} {kind:?}: {other}");
    }
}

async fn results_of_items(up: Up) {
    let scene = guarded(up, "item-result", blocks()).await;
    for kind in CALLERS {
        let mut client = scene.client(kind, json!({})).await;
        for (method, params) in uses(up, kind) {
            let answer = client.ask(method, params.clone()).await;
            if method == "resources/subscribe" {
                assert!(answer.get("result").is_some(), "it has no result to look at: {answer}");
                continue;
            }
            assert_eq!(answer["error"]["data"]["code"], "surface", "{up:?} {kind:?}: {method} {params}: {answer}");
        }
    }
}

/// What an upstream asks of a client, as a request of its own or at the end of an answer, reaches nobody.
async fn questions(up: Up) {
    // A legacy child process and one that knows no sessions ask nobody anything.
    if matches!(up, Up::LegacyStdio | Up::Stateless) {
        return;
    }
    let scene = guarded(up, "server-request", denies()).await;
    for kind in CALLERS {
        let mut client = scene.client(kind, everything()).await;
        for (question, tool, arguments) in [
            ("sampling", "up__test_sampling", json!({ "prompt": "Capital?" })),
            ("form", "up__test_elicitation", json!({ "message": "Who?" })),
            ("roots", "up__test_list_roots", json!({})),
        ] {
            if !kind.knows(question) {
                continue;
            }
            let talk = client.talk("tools/call", json!({ "name": tool, "arguments": arguments }), answer).await;
            let context = format!("{up:?} {kind:?} {question}: {}", talk.text);
            assert_eq!(talk.asked, [], "{context}");
            // A modern upstream's answer was the question; a legacy one goes on without.
            let is_failure = talk.response.get("error").is_some() || talk.response["result"]["isError"] == true;
            assert!(is_failure, "{context}");
            if up.is_modern() {
                assert_eq!(text(&talk.response), "Not here.", "{context}");
            }
        }
        // A page that the user should see first, in whatever form: it is a question too.
        let params = json!({ "name": "up__test_url_elicitation_required", "arguments": {} });
        let talk = client.talk("tools/call", params, answer).await;
        assert_eq!(talk.asked, [], "{up:?} {kind:?}: {}", talk.text);
        assert!(!talk.text.contains("fixture.example"), "{up:?} {kind:?}: {}", talk.text);
    }
}

/// A task is used by an id that only its caller has, and comes to a result of its tool.
#[tokio::test(flavor = "multi_thread")]
async fn tasks_are_guarded_in_both_eras() {
    for (up, kind) in [
        (Up::ModernHttp, Kind::Modern),
        (Up::ModernStdio, Kind::Modern),
        (Up::LegacyHttp, Kind::Session("2025-11-25")),
        (Up::LegacyStdio, Kind::Session("2025-11-25")),
    ] {
        for (hook, answer) in [
            ("item-access", denies()),
            ("item-result", blocks()),
            ("tool-result", blocks()),
            ("list-items", json!(["hide"])),
        ] {
            let builder = Gateway::builder().key("alice").key("bob").file("policy.wasm", &answering(&[(hook, answer)]));
            let scene = up.scene_with(builder.section(&binding("guard", "policy.wasm", ""))).await;
            task(&scene, up, kind, hook).await;
        }
    }
}

async fn task(scene: &Scene, up: Up, kind: Kind, hook: &str) {
    let mut capabilities = everything();
    capabilities["extensions"] = json!({ "io.modelcontextprotocol/tasks": {} });
    let mut client = scene.client(kind, capabilities).await;
    let mut params = json!({ "name": "up__slow_compute", "arguments": { "seconds": 0.01, "label": "it" } });
    if kind != Kind::Modern {
        params["task"] = json!({ "ttl": 60_000 });
    }
    let begun = client.ask("tools/call", params).await;
    let context = format!("{up:?} {hook}: {begun}");
    if hook == "tool-result" {
        assert_eq!(text(&begun), "Not here.", "a task that begins is a result of its tool: {context}");
        return;
    }
    let id = if kind == Kind::Modern { &begun["result"]["taskId"] } else { &begun["result"]["task"]["taskId"] }.clone();
    assert!(id.is_string(), "{context}");
    let last = match (hook, kind) {
        ("item-access", _) => client.ask("tasks/get", json!({ "taskId": id })).await,
        (_, Kind::Modern) => loop {
            let got = client.ask("tasks/get", json!({ "taskId": id })).await;
            if got["result"]["status"] != "working" {
                break got;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        },
        _ => client.ask("tasks/result", json!({ "taskId": id })).await,
    };
    match hook {
        "list-items" => assert!(last.get("result").is_some(), "tasks are in no list: {context}: {last}"),
        _ => assert_eq!(last["error"]["data"]["code"], "surface", "{context}: {last}"),
    }
    if hook == "item-access" && kind != Kind::Modern {
        for method in ["tasks/result", "tasks/cancel"] {
            let denied = client.ask(method, json!({ "taskId": id })).await;
            assert_eq!(denied["error"]["data"]["code"], "surface", "{context}: {method}: {denied}");
        }
    }
}

/// A modern stream of changes is granted no resource that the caller may not subscribe to.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_changes_leaves_out_what_is_refused() {
    for (hook, refusal) in [("list-items", json!(["hide"])), ("item-access", denies())] {
        for up in [Up::ModernHttp, Up::LegacyHttp] {
            let scene = guarded(up, hook, refusal.clone()).await;
            let mut client = scene.client(Kind::Modern, json!({})).await;
            let filter = json!({ "notifications": { "resourceSubscriptions": [TEXT, "test://watched-resource"] } });
            let mut exchange = client.begin("subscriptions/listen", filter).await;
            let first: Value = serde_json::from_str(&exchange.text().await).unwrap();
            let granted = first.to_string();
            assert!(granted.contains("test://watched-resource") && !granted.contains(TEXT), "{up:?} {hook}: {granted}");
        }
    }
}

/// A policy in shadow is asked on every surface, and nobody notices.
#[tokio::test(flavor = "multi_thread")]
async fn a_shadow_changes_no_response_on_any_surface() {
    let answers = [
        ("list-tools", json!({ "visible": ["hide"] })),
        ("tool-call", denies()),
        ("tool-result", blocks()),
        ("list-items", json!(["hide"])),
        ("item-access", denies()),
        ("item-result", blocks()),
        ("server-request", denies()),
    ];
    let items = format!("{TEXT:?}, {PROMPT:?}");
    let more = format!("mode = \"shadow\"\nmatch = {{ tools = [\"echo\"], items = [{items}] }}");
    for up in [Up::ModernHttp, Up::LegacyHttp] {
        let builder = || Gateway::builder().key("alice").key("bob");
        let plain = up.scene_with(builder()).await;
        let shadowed =
            builder().file("policy.wasm", &answering(&answers)).section(&binding("guard", "policy.wasm", &more));
        let shadowed = up.scene_with(shadowed).await;
        for kind in CALLERS {
            let said = async |scene: &Scene| {
                let mut client = scene.client(kind, everything()).await;
                let mut said = Vec::new();
                for (method, params) in [
                    ("tools/list", json!({})),
                    ("resources/list", json!({})),
                    ("prompts/list", json!({})),
                    ("tools/call", json!({ "name": "up__echo", "arguments": { "a": 1 } })),
                    ("tools/call", json!({ "name": "up__test_list_roots", "arguments": {} })),
                    ("resources/read", json!({ "uri": TEXT })),
                    get_prompt(),
                ] {
                    let talk = client.talk(method, params, answer).await;
                    said.push((talk.response["result"].clone(), talk.response["error"].clone(), talk.asked));
                }
                said
            };
            assert_eq!(said(&plain).await, said(&shadowed).await, "{up:?} {kind:?}");
        }
        let view = shadowed
            .gateway
            .until("/api/v1/decisions?limit=200", |view| {
                let steps =
                    view["decisions"].as_array().into_iter().flatten().filter_map(|one| one["steps"].as_array());
                let hooks: Vec<&str> = steps.flatten().filter_map(|step| step["hook"].as_str()).collect();
                ["list-tools", "tool-call", "tool-result", "item-access", "item-result", "server-request"]
                    .iter()
                    .all(|hook| hooks.contains(hook))
            })
            .await;
        for decision in view["decisions"].as_array().unwrap() {
            for step in decision["steps"].as_array().unwrap() {
                assert_eq!(step["mode"], "shadow", "{step}");
                assert!(step["verdict"].as_str().unwrap().starts_with("would_"), "{step}");
            }
            assert_ne!(decision["verdict"], "deny", "{decision}");
        }
    }
}
