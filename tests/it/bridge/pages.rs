//! Users who are sent to a page: the error −32042 of 2025-11-25, the question of 2026-07-28, and a text that can be read
//! where the client knows neither.

use std::time::Duration;

use portcullis_tests::Caller;
use serde_json::{Value, json};

use super::script::Script;
use super::{Client, Kind, Scene, Up, answer, everything, text};

const TOOL: &str = "up__test_url_elicitation_required";

/// The visit that the upstream waits for.
fn visit(scene: &Scene) {
    let expected = scene.fixture().expected_visits();
    assert_eq!(expected.len(), 1, "{expected:?}");
    assert!(scene.fixture().visit(&expected[0]));
}

fn session(scene: &Scene) -> Caller {
    scene.gateway.caller("alice").able(everything())
}

#[tokio::test]
async fn a_legacy_caller_gets_the_error_as_it_is_and_hears_when_the_user_is_back() {
    for up in [Up::LegacyHttp, Up::Sse] {
        let scene = up.scene().await;
        let session = session(&scene).initialize("2025-11-25").await;
        let mut standing = session.listen(None).await;
        let required = session.request("tools/call", json!({ "name": TOOL })).await;
        let error = &required.json()["error"];
        assert_eq!((required.status.as_u16(), error["code"].as_i64()), (200, Some(-32042)), "{}", required.text());
        let elicitation = &error["data"]["elicitations"][0];
        let id = elicitation["elicitationId"].as_str().unwrap();
        assert_eq!(elicitation["mode"], "url");
        assert!(elicitation["url"].as_str().unwrap().ends_with(&format!("/elicitation/{id}")), "{elicitation}");
        // The gateway's own stream, and this session's.
        scene.fixture().until(|stats| stats.streams == 2).await;
        assert!(scene.fixture().visit(id));
        let complete = standing.next().await;
        assert_eq!(complete["method"], "notifications/elicitation/complete", "{up:?}");
        assert_eq!(complete["params"], json!({ "elicitationId": id }));
        let done = session.request("tools/call", json!({ "name": TOOL })).await.json();
        assert_eq!(text(&done), "You have been there.");
        assert_eq!(scene.fixture().stats().calls, 2);
    }
}

#[tokio::test]
async fn for_a_modern_caller_the_error_is_a_question() {
    for up in [Up::LegacyHttp, Up::Sse] {
        let scene = up.scene().await;
        let alice = session(&scene);
        let mut params = json!({ "name": TOOL });
        let asked = alice.modern("tools/call", params.clone()).await.json();
        assert_eq!(asked["result"]["resultType"], "input_required", "{asked}");
        let requests = asked["result"]["inputRequests"].as_object().unwrap();
        let (key, question) = requests.iter().next().unwrap();
        assert_eq!(question["method"], "elicitation/create");
        assert_eq!(question["params"]["mode"], "url");
        assert_eq!(question["params"]["message"], "Please visit this page first.");
        assert_eq!(question["params"]["elicitationId"], Value::Null, "this revision knows no such id");
        assert!(question["params"]["url"].as_str().unwrap().contains("/elicitation/"));
        assert_eq!(scene.fixture().stats().under_way, 0, "nothing waits there");
        visit(&scene);
        params["requestState"] = asked["result"]["requestState"].clone();
        params["inputResponses"] = json!({ key: { "action": "accept" } });
        let bob = scene.gateway.caller("bob").able(everything());
        assert_eq!(bob.modern("tools/call", params.clone()).await.json()["error"]["code"], -32602, "it is not his");
        let done = alice.modern("tools/call", params).await.json();
        assert_eq!(text(&done), "You have been there.", "{up:?}");
        assert_eq!(done["result"]["resultType"], "complete");
        assert_eq!(scene.fixture().stats().calls, 2, "the request is made again");
    }
}

#[tokio::test]
async fn a_modern_upstream_asks_for_the_page() {
    for kind in [Kind::Modern, Kind::Session("2025-11-25")] {
        let scene = Up::ModernHttp.scene().await;
        let mut client = scene.client(kind, everything()).await;
        let talk = client
            .talk("tools/call", json!({ "name": TOOL }), |method, params| {
                visit(&scene);
                answer(method, params)
            })
            .await;
        assert_eq!(text(&talk.response), "You have been there.", "{kind:?}: {}", talk.text);
        assert_eq!(talk.asked.len(), 1);
        let (method, params) = &talk.asked[0];
        assert_eq!((&**method, &params["mode"]), ("elicitation/create", &json!("url")));
    }
}

/// At a child process, which has no pages, the user has been there a moment after it asked: until then it asks again.
#[tokio::test]
async fn a_user_may_take_a_few_rounds_to_be_there() {
    let scene = Up::ModernStdio.scene().await;
    let alice = session(&scene);
    let pause = || tokio::time::sleep(Duration::from_millis(20));
    let mut params = json!({ "name": TOOL });
    let done = loop {
        let answered = alice.modern("tools/call", params.clone()).await.json();
        if answered["result"]["resultType"] != "input_required" {
            break answered;
        }
        params["requestState"] = answered["result"]["requestState"].clone();
        params["inputResponses"] = json!({ "visit": { "action": "accept" } });
        pause().await;
    };
    assert_eq!(text(&done), "You have been there.");

    let session = alice.initialize("2025-11-25").await;
    let mut stream = session.begin_request("tools/call", json!({ "name": TOOL })).await;
    let done = loop {
        let message = stream.next().await;
        if message.get("method").is_none() {
            break message;
        }
        pause().await;
        session.respond(&message, json!({ "action": "accept" })).await;
    };
    assert_eq!(text(&done), "You have been there.");
}

/// An upstream that asks for a page whatever the client has declared.
async fn insisting() -> Script {
    Script::start(false, |_| {
        let one = json!({ "mode": "url", "elicitationId": "e-1", "url": "https://a.example/x?y=1&z=é", "message": "Sign in to A." });
        let two = json!({ "mode": "url", "elicitationId": "e-2", "url": "https://b.example/", "message": "Sign in to B." });
        let error = json!({ "code": -32042, "message": "URLs are required", "data": { "elicitations": [one, two] } });
        format!(r#""error":{error}"#)
    })
    .await
}

#[tokio::test]
async fn a_caller_that_cannot_be_sent_anywhere_gets_a_text_with_the_page() {
    let script = insisting().await;
    let gateway = script.gateway().await;
    for kind in Kind::ALL {
        for capabilities in [json!({}), json!({ "elicitation": {} }), everything()] {
            let has_pages = capabilities["elicitation"]["url"].is_object() && kind.knows("url");
            if has_pages {
                continue;
            }
            let mut client = Client::connect(&gateway, "alice", kind, capabilities).await;
            let response = client.call("up__tool", json!({})).await;
            assert_eq!(response["result"]["isError"], true, "{kind:?}: {response}");
            for part in ["Sign in to A.", "https://a.example/x?y=1&z=é", "Sign in to B.", "https://b.example/"] {
                assert!(text(&response).contains(part), "{kind:?}: {response}");
            }
            let prompt = client.ask("prompts/get", json!({ "name": "up__prompt" })).await;
            assert_eq!(prompt["error"]["code"], -32603, "{kind:?}: {prompt}");
            assert!(prompt["error"]["message"].as_str().unwrap().contains("https://a.example/x?y=1&z=é"), "{prompt}");
        }
    }
}

#[tokio::test]
async fn who_can_be_sent_there_is_sent_to_all_pages_at_once() {
    let script = insisting().await;
    let gateway = script.gateway().await;
    let alice = gateway.caller("alice").able(everything());
    for (method, name) in [("tools/call", "up__tool"), ("prompts/get", "up__prompt")] {
        let asked = alice.modern(method, json!({ "name": name })).await.json();
        let requests = asked["result"]["inputRequests"].as_object().unwrap_or_else(|| panic!("{asked}"));
        let urls: Vec<&Value> = requests.values().map(|request| &request["params"]["url"]).collect();
        assert_eq!(urls, ["https://a.example/x?y=1&z=é", "https://b.example/"], "{method}");
        let session = alice.initialize("2025-11-25").await;
        let error = session.request(method, json!({ "name": name })).await.json()["error"].clone();
        assert_eq!((error["code"].as_i64(), error["message"].as_str()), (Some(-32042), Some("URLs are required")));
        assert_eq!(error["data"]["elicitations"][1]["elicitationId"], "e-2");
    }
}
