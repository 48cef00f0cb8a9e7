//! What passes through passes to the byte, whatever it is: documents that nobody thought of, in every pair of eras and
//! over every transport, on the way there and on the way back.

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use portcullis_tests::{Caller, Reply};

mod documents;
mod scene;

use crate::mcp::result_text;
use crate::mcp::scripted::Offer;
use documents::{id, object, value};
use scene::{KINDS, Scene, is_modern, plain};

/// Documents that each property is tried with.
const CASES: u32 = 40;

fn runner() -> TestRunner {
    TestRunner::new(Config { cases: CASES, failure_persistence: None, max_shrink_iters: 200, ..Config::default() })
}

/// Tries a property with documents of a kind. What it awaits runs on `runtime`.
fn for_all<S: Strategy>(strategy: &S, property: impl Fn(S::Value) -> Result<(), TestCaseError>) {
    runner().run(strategy, property).unwrap_or_else(|failed| panic!("{failed}"));
}

/// The members of an object as they were written, names decoded.
#[derive(Debug, PartialEq)]
struct Members(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, &RawValue>()? {
                    members.push((name, value.get().to_owned()));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

impl Members {
    fn of(text: &str) -> Self {
        serde_json::from_str(text).unwrap_or_else(|error| panic!("{error} in {text}"))
    }

    fn get(&self, name: &str) -> &str {
        let found = self.0.iter().find(|(known, _)| known == name);
        &found.unwrap_or_else(|| panic!("no {name} in {self:?}")).1
    }

    fn without(mut self, names: &[&str]) -> Self {
        self.0.retain(|(name, _)| !names.contains(&name.as_str()));
        self
    }
}

/// A member of an object, as it was written.
fn within(object: &str, name: &str) -> String {
    Members::of(object).get(name).to_owned()
}

/// All that was sent is there, in its order and as it was written; what was added is `added` at most.
fn kept(sent: &str, got: &str, added: &[&str]) -> Result<(), TestCaseError> {
    let sent = Members::of(sent);
    let mut more = Members::of(got);
    more.0.retain(|member| !sent.0.contains(member));
    for (name, value) in &more.0 {
        prop_assert!(added.contains(&name.as_str()), "{name}: {value} was added or changed in {got}");
    }
    let mut rest = Members::of(got);
    rest.0.retain(|member| sent.0.contains(member));
    prop_assert_eq!(rest, sent);
    Ok(())
}

/// A request whose `params` are given as JSON text, in the era of the caller. `meta` are members of `_meta`.
async fn send(caller: &Caller, modern: bool, method: &str, name: &str, params: &str, meta: &str) -> Reply {
    let (comma, more) = (if params.is_empty() { "" } else { "," }, if meta.is_empty() { "" } else { "," });
    let envelope = r#""io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"elicitation":{}}"#;
    let meta = match (modern, meta) {
        (true, meta) => format!(r#"{comma}"_meta":{{{meta}{more}{envelope}}}"#),
        (false, "") => String::new(),
        (false, meta) => format!(r#"{comma}"_meta":{{{meta}}}"#),
    };
    let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{{{params}{meta}}}}}"#);
    let mut sender = caller.copy();
    if modern {
        sender = sender.with("mcp-protocol-version", "2026-07-28").with("mcp-method", method);
        if !name.is_empty() {
            sender = sender.with("mcp-name", name);
        }
    }
    sender.post(body).await
}

#[test]
fn arguments_and_results_pass_between_every_caller_and_every_upstream() {
    let runtime = Runtime::new().unwrap();
    let scene = runtime.block_on(Scene::start(plain));
    let documents = (object(), value(), value(), value(), value(), value());
    for_all(&documents, |(arguments, vendor, own, top, block, tag)| {
        runtime.block_on(async {
            for kind in KINDS {
                let result = format!(
                    r#"{{"x-top":{top},"content":[{{"type":"x-unknown","v":{block}}}],"_meta":{{"example.com/tag":{tag}}}{}}}"#,
                    if is_modern(kind) { r#","resultType":"complete""# } else { "" }
                );
                scene.answer(kind, "tools/call", &format!(r#""result":{result}"#));
                for (caller, modern) in scene.callers() {
                    let name = format!("{kind}__t");
                    let params = format!(r#""x-vendor":{vendor},"name":"{name}","arguments":{arguments}"#);
                    let reply = send(caller, modern, "tools/call", &name, &params, &format!(r#""example.com/own":{own}"#)).await;
                    prop_assert_eq!(reply.status, 200, "{}: {}", kind, reply.text());
                    let seen = Members::of(&scene.seen(kind, "tools/call"));
                    prop_assert_eq!(seen.get("arguments"), &arguments, "{}", kind);
                    prop_assert_eq!(seen.get("x-vendor"), &vendor, "{}", kind);
                    prop_assert_eq!(seen.get("name"), "\"t\"");
                    prop_assert_eq!(within(seen.get("_meta"), "example.com/own"), own.as_str(), "{}", kind);
                    kept(&result, &result_text(&reply), &["resultType"])?;
                }
            }
            Ok(())
        })
    });
}

#[test]
fn prompts_resources_and_completions_pass_between_every_caller_and_every_upstream() {
    let runtime = Runtime::new().unwrap();
    let scene = runtime.block_on(Scene::start(plain));
    for_all(&(object(), value(), value()), |(arguments, inner, extra)| {
        runtime.block_on(async {
            for kind in KINDS {
                let typed = if is_modern(kind) { r#","resultType":"complete""# } else { "" };
                let uri = format!("{kind}://r");
                let (prompt, template) = (format!("{kind}__p"), format!("{kind}://t/{{id}}"));
                let reference = format!(r#"{{"type":"ref/resource","x":{extra},"uri":"{template}"}}"#);
                for (method, name, params, body, member, added) in [
                    (
                        "prompts/get",
                        &prompt,
                        format!(r#""name":"{prompt}","arguments":{arguments}"#),
                        format!(r#""messages":[{{"role":"user","content":{inner}}}],"x":{extra}"#),
                        ("arguments", &arguments),
                        &["resultType", "_meta"][..],
                    ),
                    (
                        "resources/read",
                        &uri,
                        format!(r#""uri":"{uri}","x-vendor":{arguments}"#),
                        format!(r#""contents":[{{"uri":"{uri}","x":{inner}}}],"x":{extra}"#),
                        ("x-vendor", &arguments),
                        &["resultType", "_meta", "ttlMs", "cacheScope"],
                    ),
                    (
                        "completion/complete",
                        &String::new(),
                        format!(r#""ref":{reference},"argument":{{"name":"id","value":"1","x":{inner}}},"context":{arguments}"#),
                        format!(r#""completion":{{"values":["1"],"x":{inner}}},"x":{extra}"#),
                        ("context", &arguments),
                        &["resultType", "_meta"],
                    ),
                ] {
                    let result = format!("{{{body}{typed}}}");
                    scene.answer(kind, method, &format!(r#""result":{result}"#));
                    for (caller, modern) in scene.callers() {
                        let reply = send(caller, modern, method, name, &params, "").await;
                        prop_assert_eq!(reply.status, 200, "{}: {}", kind, reply.text());
                        let seen = Members::of(&scene.seen(kind, method));
                        prop_assert_eq!(seen.get(member.0), member.1, "{} {}", kind, method);
                        if method == "completion/complete" {
                            prop_assert_eq!(within(seen.get("ref"), "x"), extra.as_str(), "{}", kind);
                        }
                        kept(&result, &result_text(&reply), added)?;
                    }
                }
            }
            Ok(())
        })
    });
}

#[test]
fn errors_pass_between_every_caller_and_every_upstream() {
    let runtime = Runtime::new().unwrap();
    let scene = runtime.block_on(Scene::start(plain));
    for_all(&(value(), value(), -31_000..-1_000_i64), |(data, extra, code)| {
        runtime.block_on(async {
            for kind in KINDS {
                let error = format!(r#"{{"x":{extra},"code":{code},"data":{data},"message":"N\u006f."}}"#);
                for (method, name, params) in [
                    ("tools/call", format!("{kind}__t"), format!(r#""name":"{kind}__t""#)),
                    ("prompts/get", format!("{kind}__p"), format!(r#""name":"{kind}__p""#)),
                    ("resources/read", format!("{kind}://r"), format!(r#""uri":"{kind}://r""#)),
                ] {
                    scene.answer(kind, method, &format!(r#""error":{error}"#));
                    for (caller, modern) in scene.callers() {
                        let reply = send(caller, modern, method, &name, &params, "").await;
                        prop_assert_eq!(result_text(&reply), error.as_str(), "{} {}", kind, method);
                    }
                }
            }
            Ok(())
        })
    });
}

#[test]
fn definitions_pass_with_all_that_is_in_them() {
    const EACH: usize = 60;
    let runtime = Runtime::new().unwrap();
    let mut runner = runner();
    let mut document = || value().new_tree(&mut runner).unwrap().current();
    let documents: Vec<(String, String)> = (0..EACH).map(|_| (document(), document())).collect();
    // The list that each kind has, each item in a form of its own.
    let items = |kind: &str, member: &str, key: &dyn Fn(usize) -> String| -> Vec<String> {
        let each = documents.iter().enumerate();
        each.map(|(at, (before, after))| {
            format!(r#"{{"x-before":{before},{member}:"{}","x-after":{after}}}"#, key(at).replace("KIND", kind))
        })
        .collect()
    };
    let offer = |kind: &str| Offer {
        tools: items(kind, "\"name\" ", &|at| format!("t{at:02}")),
        prompts: items(kind, "\"name\"", &|at| format!("p{at:02}")),
        resources: items(kind, " \"uri\"", &|at| format!("KIND://r/{at:02}")),
        templates: items(kind, "\"uriTemplate\"", &|at| format!("KIND://t/{at:02}/{{id}}")),
        ..Offer::default()
    };
    let scene = runtime.block_on(Scene::start(&offer));
    for (caller, modern) in scene.callers() {
        for kind in KINDS {
            let Offer { tools, prompts, resources, templates, .. } = offer(kind);
            for (method, items, renamed) in [
                ("tools/list", tools, Some("t")),
                ("prompts/list", prompts, Some("p")),
                ("resources/list", resources, None),
                ("resources/templates/list", templates, None),
            ] {
                let list = runtime.block_on(whole_list(caller, modern, method));
                for (at, item) in items.iter().enumerate() {
                    let expected = match renamed {
                        Some(letter) => item.replacen(
                            &format!(r#":"{letter}{at:02}""#),
                            &format!(r#":"{kind}__{letter}{at:02}""#),
                            1,
                        ),
                        None => item.clone(),
                    };
                    assert!(list.contains(&expected), "{expected}\nis not in {method} for {kind}");
                }
            }
        }
    }
}

/// The texts of all pages.
async fn whole_list(caller: &Caller, modern: bool, method: &str) -> String {
    let (mut whole, mut params) = (String::new(), String::new());
    loop {
        let text = result_text(&send(caller, modern, method, "", &params, "").await);
        let cursor = serde_json::from_str::<Value>(&text).unwrap()["nextCursor"].clone();
        whole += &text;
        if cursor.is_null() {
            return whole;
        }
        params = format!(r#""cursor":{cursor}"#);
    }
}

#[test]
fn questions_and_their_answers_pass_between_the_eras() {
    let runtime = Runtime::new().unwrap();
    let scene = runtime.block_on(Scene::start(plain));
    for_all(&(value(), object(), value()), |(schema, content, extra)| {
        runtime.block_on(async {
            let question = format!(r#"{{"message":"?","x":{extra},"requestedSchema":{schema}}}"#);
            let answer = format!(r#"{{"action":"accept","content":{content},"x":{extra}}}"#);
            // An upstream without sessions ends its answer with the question.
            for kind in ["modern", "modern-events", "modern-child"] {
                let asks = format!(
                    r#""result":{{"resultType":"input_required","inputRequests":{{"k\u0065y":{{"method":"elicitation/create","params":{question}}}}},"requestState":"s"}}"#
                );
                let done = r#""result":{"resultType":"complete","content":[]}"#;
                let name = format!("{kind}__t");

                scene.answer(kind, "tools/call", &asks);
                let params = format!(r#""name":"{name}""#);
                let reply = send(&scene.modern, true, "tools/call", &name, &params, "").await;
                let result = Members::of(&result_text(&reply));
                let asked = Members::of(Members::of(result.get("inputRequests")).get("key"));
                prop_assert_eq!(asked.get("params"), &question, "{}", kind);
                scene.answer(kind, "tools/call", done);
                let retry = format!(
                    r#"{params},"inputResponses":{{"key":{answer}}},"requestState":{}"#,
                    result.get("requestState")
                );
                send(&scene.modern, true, "tools/call", &name, &retry, "").await;
                let seen = Members::of(&scene.seen(kind, "tools/call"));
                prop_assert_eq!(within(seen.get("inputResponses"), "key"), answer.as_str(), "{}", kind);
                prop_assert_eq!(seen.get("requestState"), "\"s\"");

                // A caller with a session is asked on its stream, and the same call goes on.
                scene.answer(kind, "tools/call", &asks);
                let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{{params}}}}}"#);
                let mut stream = scene.legacy.begin(body).await;
                let text = stream.text().await.unwrap_or_default();
                let asked = Members::of(&text);
                prop_assert_eq!(asked.get("params"), &question, "{}", kind);
                scene.answer(kind, "tools/call", done);
                let reply = format!(r#"{{"jsonrpc":"2.0","id":{},"result":{answer}}}"#, asked.get("id"));
                prop_assert_eq!(scene.legacy.post(reply).await.status, 202);
                let last = stream.rest().await.pop().unwrap_or_default();
                prop_assert!(last["result"].is_object(), "{}", last);
                let seen = Members::of(&scene.seen(kind, "tools/call"));
                prop_assert_eq!(within(seen.get("inputResponses"), "key"), answer.as_str(), "{}", kind);
            }
            // One with sessions asks on the stream of the call.
            let asks = format!(r#"{{"jsonrpc":"2.0","id":"q","method":"elicitation/create","params":{question}}}"#);
            scene.say_before("legacy-events", "tools/call", &asks);
            scene.answer("legacy-events", "tools/call", r#""result":{"content":[]}"#);
            let reply = send(&scene.legacy, false, "tools/call", "", r#""name":"legacy-events__t""#, "").await;
            let first = reply.messages().into_iter().next().unwrap_or_default();
            prop_assert_eq!(within(&first, "params"), question);
            Ok(())
        })
    });
}

#[test]
fn what_is_told_of_a_call_passes_between_the_eras() {
    let runtime = Runtime::new().unwrap();
    let scene = runtime.block_on(Scene::start(plain));
    for_all(&(value(), value()), |(extra, data)| {
        runtime.block_on(async {
            for kind in ["legacy-events", "modern-events"] {
                scene.answer(kind, "tools/call", r#""result":{"resultType":"complete","content":[]}"#);
                let progress = format!(r#""progress":1.0,"x":{extra},"message":"m""#);
                let said = format!(
                    r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{{{progress},"progressToken":$TOKEN}}}}"#
                );
                scene.say_before(kind, "tools/call", &said);
                for (caller, modern) in scene.callers() {
                    let name = format!("{kind}__t");
                    let params = format!(r#""name":"{name}""#);
                    let reply = send(caller, modern, "tools/call", &name, &params, r#""progressToken":"mine""#).await;
                    let first = reply.messages().into_iter().next().unwrap_or_default();
                    let told = Members::of(Members::of(&first).get("params"));
                    prop_assert_eq!(told.get("progressToken"), "\"mine\"", "{}", kind);
                    let sent = Members::of(&format!("{{{progress}}}"));
                    prop_assert_eq!(told.without(&["progressToken"]), sent, "{}", kind);
                }
                let log = format!(r#""level":"error","x":{extra},"data":{data}"#);
                let said = format!(r#"{{"jsonrpc":"2.0","method":"notifications/message","params":{{{log}}}}}"#);
                scene.say_before(kind, "tools/call", &said);
                for (caller, modern) in scene.callers() {
                    let name = format!("{kind}__t");
                    let level = r#""io.modelcontextprotocol/logLevel":"debug""#;
                    let params = format!(r#""name":"{name}""#);
                    let reply = send(caller, modern, "tools/call", &name, &params, if modern { level } else { "" }).await;
                    let first = reply.messages().into_iter().next().unwrap_or_default();
                    prop_assert_eq!(Members::of(Members::of(&first).get("params")), Members::of(&format!("{{{log}}}")), "{}", kind);
                }
            }
            Ok(())
        })
    });
}

#[test]
fn an_answer_carries_the_id_of_its_request_as_it_was_written() {
    let runtime = Runtime::new().unwrap();
    let scene = runtime.block_on(Scene::start(plain));
    for_all(&id(), |id| {
        runtime.block_on(async {
            let (headers, body) = scene.modern.modern_request("tools/call", json!({ "name": "modern__t" }));
            let number = serde_json::from_str::<Value>(&body).unwrap()["id"].to_string();
            let body = body.replacen(&format!(r#""id":{number}"#), &format!(r#""id":{id}"#), 1);
            let mut modern = scene.modern.copy();
            modern.headers = headers;
            let legacy =
                format!(r#"{{"jsonrpc":"2.0","method":"tools/call","params":{{"name":"modern__t"}},"id":{id}}}"#);
            let unknown = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"none"}}"#);
            for reply in [modern.post(body).await, scene.legacy.post(legacy).await, scene.legacy.post(unknown).await] {
                let message = reply.messages().pop().unwrap_or_default();
                prop_assert_eq!(within(&message, "id"), id.as_str(), "{}", message);
            }
            Ok(())
        })
    });
}
