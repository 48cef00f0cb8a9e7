//! What an upstream asks of a client before it answers: over every pair that can, in the words of each revision, and never
//! what the client did not declare.

use portcullis_tests::Gateway;
use portcullis_tests::upstreams::fixture::{Fixture, Replies, Settings, Unanswered};
use serde_json::{Value, json};

use super::{Kind, Up, answer, everything, soon, text};

/// The upstreams that can ask. A legacy child process is everybody's, and asks nobody.
const ASKING: [Up; 4] = [Up::ModernHttp, Up::LegacyHttp, Up::Sse, Up::ModernStdio];

#[tokio::test]
async fn every_question_reaches_every_client_that_knows_it() {
    for up in ASKING {
        let scene = up.scene().await;
        for kind in Kind::ALL {
            let mut client = scene.client(kind, everything()).await;
            for (question, tool, arguments, method, expected) in [
                (
                    "sampling",
                    "up__test_sampling",
                    json!({ "prompt": "Capital?" }),
                    "sampling/createMessage",
                    "LLM response: Paris".to_owned(),
                ),
                (
                    "form",
                    "up__test_elicitation",
                    json!({ "message": "Who?" }),
                    "elicitation/create",
                    format!(
                        "User response: action=accept, content={}",
                        json!({ "email": "my email", "username": "my username" })
                    ),
                ),
                (
                    "url",
                    "up__test_url_elicitation",
                    json!({}),
                    "elicitation/create",
                    "User response: action=accept".to_owned(),
                ),
                (
                    "roots",
                    "up__test_list_roots",
                    json!({}),
                    "roots/list",
                    format!("Roots: {}", json!([{ "name": "home", "uri": "file:///home" }])),
                ),
            ] {
                let context = format!("{kind:?} to {up:?}: {tool}");
                let params = json!({ "name": tool, "arguments": arguments });
                let talk = client.talk("tools/call", params, answer).await;
                if !kind.knows(question) {
                    assert_eq!(talk.asked, [], "{context}");
                    assert!(is_failure(&talk.response), "{context}: {}", talk.text);
                    continue;
                }
                assert_eq!(text(&talk.response), expected, "{context}");
                assert_eq!((talk.asked.len(), talk.said.len()), (1, 0), "{context}");
                let (asked, params) = &talk.asked[0];
                assert_eq!(asked, method, "{context}");
                match question {
                    "sampling" => {
                        assert_eq!(params["messages"][0]["content"]["text"], "Capital?", "{context}");
                        assert_eq!(params["maxTokens"], 100, "{context}");
                    }
                    "form" => assert_eq!(params["message"], "Who?", "{context}"),
                    "url" => {
                        assert_eq!(params["url"], "https://fixture.example/page", "{context}");
                        // 2025-11-25 requires an id, and 2026-07-28 knows none.
                        assert_eq!(params["elicitationId"].is_string(), kind != Kind::Modern, "{context}: {params}");
                    }
                    _ => {}
                }
                assert_eq!(talk.rounds, if kind == Kind::Modern { 2 } else { 1 }, "{context}");
            }
        }
    }
}

fn is_failure(response: &Value) -> bool {
    response["error"].is_object() || response["result"]["isError"] == true
}

#[tokio::test]
async fn prompts_and_resources_ask_as_tools_do() {
    for up in ASKING {
        let scene = up.scene().await;
        for kind in [Kind::Modern, Kind::Session("2025-11-25"), Kind::Session("2025-06-18")] {
            let context = format!("{kind:?} to {up:?}");
            let mut client = scene.client(kind, everything()).await;
            let prompt = json!({ "name": "up__test_input_required_result_prompt" });
            let talk = client.talk("prompts/get", prompt, answer).await;
            let expected = format!("Use this context: action=accept, content={}", json!({ "context": "my context" }));
            assert_eq!(talk.response["result"]["messages"][0]["content"]["text"], expected, "{context}: {}", talk.text);
            assert_eq!(talk.asked.len(), 1, "{context}");
            let talk = client.talk("resources/read", json!({ "uri": "test://confirmed-text" }), answer).await;
            let contents = &talk.response["result"]["contents"];
            assert_eq!(contents[0]["text"], "You have confirmed this.", "{context}: {}", talk.text);
            assert_eq!(talk.asked.len(), 1, "{context}");
        }
    }
}

#[tokio::test]
async fn several_questions_at_once_and_one_after_another() {
    for up in ASKING {
        let scene = up.scene().await;
        for kind in [Kind::Modern, Kind::Session("2025-11-25"), Kind::Session("2025-06-18")] {
            let context = format!("{kind:?} to {up:?}");
            let mut client = scene.client(kind, everything()).await;
            let params = json!({ "name": "up__test_input_required_result_multiple_inputs", "arguments": {} });
            let talk = client.talk("tools/call", params, answer).await;
            let roots = json!([{ "name": "home", "uri": "file:///home" }]);
            assert_eq!(text(&talk.response), format!("Hello, my name! Paris Roots: {roots}"), "{context}");
            assert_eq!(talk.asked.len(), 3, "{context}");
            assert_eq!(talk.rounds, if kind == Kind::Modern { 2 } else { 1 }, "all at once: {context}");
            let params = json!({ "name": "up__test_input_required_result_multi_round", "arguments": {} });
            let talk = client.talk("tools/call", params, answer).await;
            let color = json!({ "color": "my color" });
            let expected = format!("Hello, my name! Your color: action=accept, content={color}");
            assert_eq!(text(&talk.response), expected, "{context}");
            let asked: Vec<&Value> = talk.asked.iter().map(|(_, params)| &params["message"]).collect();
            assert_eq!(asked, ["Step 1: What is your name?", "Step 2: What is your favorite color?"], "{context}");
            assert_eq!(talk.rounds, if kind == Kind::Modern { 3 } else { 1 }, "{context}");
        }
    }
}

#[tokio::test]
async fn nobody_is_asked_what_its_client_did_not_declare() {
    let tools = [
        ("up__test_sampling", json!({ "prompt": "?" })),
        ("up__test_elicitation", json!({ "message": "?" })),
        ("up__test_url_elicitation", json!({})),
        ("up__test_list_roots", json!({})),
        ("up__test_input_required_result_multiple_inputs", json!({})),
    ];
    for up in ASKING.into_iter().chain([Up::Stateless, Up::LegacyStdio]) {
        let scene = up.scene().await;
        for kind in Kind::ALL {
            // A client that can be asked everything finds upstreams that cannot ask, and one that can be asked nothing.
            let capabilities = if ASKING.contains(&up) { json!({}) } else { everything() };
            let mut client = scene.client(kind, capabilities).await;
            for (tool, arguments) in &tools {
                let response = client.call(tool, arguments.clone()).await;
                assert!(is_failure(&response), "{kind:?} to {up:?}: {tool}: {response}");
            }
        }
        if let Some(fixture) = &scene.fixture {
            assert_eq!(fixture.stats().asked, 0, "{up:?}");
        }
    }
}

#[tokio::test]
async fn only_what_is_declared_is_asked_for() {
    for up in ASKING {
        let scene = up.scene().await;
        for kind in Kind::ALL {
            let mut client = scene.client(kind, json!({ "roots": {}, "sampling": {} })).await;
            let params = json!({ "name": "up__test_input_required_result_capabilities", "arguments": {} });
            let talk = client.talk("tools/call", params, answer).await;
            assert_eq!(text(&talk.response), "Answered: greeting, roots", "{kind:?} to {up:?}");
            let mut asked: Vec<&str> = talk.asked.iter().map(|(method, _)| method.as_str()).collect();
            asked.sort_unstable();
            assert_eq!(asked, ["roots/list", "sampling/createMessage"], "{kind:?} to {up:?}");
        }
    }
}

/// On the wire: the question is on the stream of the POST, its answer is a POST of its own.
#[tokio::test]
async fn a_question_travels_on_the_stream_of_its_call() {
    for up in [Up::LegacyHttp, Up::ModernHttp] {
        let scene = up.scene().await;
        for version in ["2025-11-25", "2025-06-18"] {
            let session = scene.gateway.caller("alice").able(everything()).initialize(version).await;
            let mut standing = session.listen(None).await;
            let params = json!({ "name": "up__test_elicitation", "arguments": { "message": "Who?" } });
            let body = json!({ "jsonrpc": "2.0", "id": "call-1", "method": "tools/call", "params": params });
            let mut stream = session.begin(body.to_string()).await;
            assert_eq!((stream.status.as_u16(), stream.is_events()), (200, true));
            if version == "2025-11-25" {
                let primed = stream.event().await.unwrap();
                assert!(primed.id.is_some() && primed.data.is_empty(), "{primed:?}");
            }
            let event = stream.event().await.unwrap();
            assert!(event.id.is_some(), "it can be resumed: {event:?}");
            let question: Value = serde_json::from_str(&event.data).unwrap();
            assert_eq!(question["method"], "elicitation/create");
            assert_eq!(question["params"]["message"], "Who?");
            let content = json!({ "username": "ada", "email": "a@b" });
            session.respond(&question, json!({ "action": "accept", "content": content })).await;
            // A second answer is taken, and changes nothing.
            session.respond(&question, json!({ "action": "decline" })).await;
            let response = stream.next().await;
            assert_eq!(response["id"], "call-1");
            assert_eq!(text(&response), format!("User response: action=accept, content={content}"));
            assert_eq!(stream.message().await, None);
            // What comes next on the other stream has nothing to do with it.
            session.request("tools/call", json!({ "name": "up__test_trigger_tool_change" })).await;
            assert_eq!(standing.next().await["method"], "notifications/tools/list_changed");
        }
    }
}

#[tokio::test]
async fn a_question_of_one_session_is_not_answered_by_another() {
    let scene = Up::LegacyHttp.scene().await;
    let alice = scene.gateway.caller("alice").able(everything());
    let (session, other) = (alice.initialize("2025-11-25").await, alice.initialize("2025-11-25").await);
    let bobs = scene.gateway.caller("bob").able(everything()).initialize("2025-11-25").await;
    let mut stream = session.begin_request("tools/call", json!({ "name": "up__test_streaming_elicitation" })).await;
    let question = stream.next().await;
    for stranger in [&other, &bobs] {
        stranger.respond(&question, json!({ "action": "accept", "content": { "sure": false } })).await;
    }
    session.respond(&question, json!({ "action": "accept", "content": { "sure": true } })).await;
    let response = stream.next().await;
    assert_eq!(text(&response), format!("The answer was action=accept, content={}.", json!({ "sure": true })));
}

#[tokio::test]
async fn a_client_that_answers_with_an_error_says_so_to_the_upstream() {
    let scene = Up::LegacyHttp.scene().await;
    let session = scene.gateway.caller("alice").able(everything()).initialize("2025-11-25").await;
    let mut stream = session
        .begin_request("tools/call", json!({ "name": "up__test_sampling", "arguments": { "prompt": "?" } }))
        .await;
    let question = stream.next().await;
    session.respond_error(&question, json!({ "code": -1, "message": "User rejected sampling request" })).await;
    let response = stream.next().await;
    assert_eq!(response["result"]["isError"], true, "{response}");
    assert!(text(&response).contains("User rejected sampling request"), "{response}");
}

#[tokio::test]
async fn an_answer_that_is_declined_or_given_up_arrives_as_it_is() {
    for up in ASKING {
        let scene = up.scene().await;
        for kind in [Kind::Modern, Kind::Session("2025-11-25")] {
            for action in ["decline", "cancel"] {
                let mut client = scene.client(kind, everything()).await;
                let params = json!({ "name": "up__test_elicitation", "arguments": { "message": "?" } });
                let talk = client.talk("tools/call", params, |_, _| json!({ "action": action })).await;
                assert_eq!(text(&talk.response), format!("User response: action={action}"), "{kind:?} to {up:?}");
            }
        }
    }
}

/// A caller that is asked nothing within any request is asked on its GET stream.
#[tokio::test]
async fn a_question_outside_of_calls_is_asked_on_the_stream_of_the_session() {
    // One that tells of no changes, so that the gateway itself does not listen to it.
    let settings = Settings { quiet: true, ..Up::LegacyHttp.settings().unwrap() };
    let fixture = Fixture::with(settings).await.unwrap();
    let gateway = Gateway::builder().http_upstream("up", &fixture.url).key("alice").start().await;
    let session = gateway.caller("alice").able(everything()).initialize("2025-11-25").await;
    let mut standing = session.listen(None).await;
    // The upstream's session with this caller begins with its first call, and so does its stream.
    assert_eq!(session.request("tools/call", json!({ "name": "up__echo" })).await.status.as_u16(), 200);
    let asked = async {
        loop {
            match fixture.ask("roots/list", &json!({})).await {
                // The stream may not be there yet.
                Err(Unanswered::Unreachable) => {
                    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                }
                answered => return answered,
            }
        }
    };
    let answering = async {
        let question = standing.next().await;
        assert_eq!(question["method"], "roots/list");
        session.respond(&question, answer("roots/list", &question["params"])).await;
    };
    let (answered, ()) = soon(async { tokio::join!(asked, answering) }).await;
    assert_eq!(answered.unwrap()["roots"][0]["uri"], "file:///home");
}

/// An upstream whose replies have no place for questions puts them on its GET stream.
#[tokio::test]
async fn an_upstream_that_replies_with_json_asks_on_its_other_stream() {
    let settings = Settings { replies: Replies::Json, ..Up::LegacyHttp.settings().unwrap() };
    let up = Fixture::with(settings).await.unwrap();
    let gateway = Gateway::builder().http_upstream("up", &up.url).key("alice").start().await;
    for kind in [Kind::Modern, Kind::Session("2025-11-25"), Kind::Session("2025-06-18")] {
        let mut client = super::Client::connect(&gateway, "alice", kind, everything()).await;
        let params = json!({ "name": "up__test_elicitation", "arguments": { "message": "Who?" } });
        let talk = client.talk("tools/call", params, answer).await;
        assert_eq!(talk.asked.len(), 1, "{kind:?}: {}", talk.text);
        assert!(text(&talk.response).starts_with("User response: action=accept"), "{kind:?}: {}", talk.text);
    }
}
