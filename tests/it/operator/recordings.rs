//! Recordings: what policies were asked and what they answered, word for word, for operators alone.

use http::StatusCode;
use portcullis_tests::Gateway;
use portcullis_tests::upstreams::fixture::Fixture;
use serde_json::{Value, json};

const GUARD: &str = "[[policies]]\nname = \"guard\"\nmodule = \"builtin:allow-tools\"\nlimits = { time = \"1s\" }\nconfig = { otherwise = \"allow\" }\n[[policies]]\nname = \"redact\"\nmodule = \"builtin:redact\"\nlimits = { time = \"1s\" }\n";
const RECORD: &str = "[policy]\nrecord = true\n";

async fn decisions(gateway: &Gateway, count: usize) -> Vec<Value> {
    let full = |view: &Value| view["decisions"].as_array().unwrap().len() == count;
    gateway.until("/api/v1/decisions", full).await["decisions"].as_array().unwrap().clone()
}

async fn recorded(gateway: &Gateway, decision: &Value) -> Value {
    let path = format!("/api/v1/recordings/{}", decision["id"].as_str().unwrap());
    gateway.until(&path, |view| view["questions"].is_array()).await
}

#[tokio::test]
async fn a_decision_is_recorded_word_for_word_and_sealed() {
    let up = Fixture::start().await;
    let gateway = Gateway::builder()
        .on_disk()
        .section(RECORD)
        .section(GUARD)
        .http_upstream("up", &up.url)
        .key("alice")
        .start()
        .await;
    let arguments = json!({ "password": "hunter2-hunter2" });
    assert_eq!(gateway.caller("alice").call("up__echo", arguments.clone()).await.status, StatusCode::OK);
    let decision = decisions(&gateway, 1).await.remove(0);
    let recording = recorded(&gateway, &decision).await;
    let questions = recording["questions"].as_array().unwrap();
    let steps = decision["steps"].as_array().unwrap();
    let hooks =
        |list: &[Value]| list.iter().map(|one| (one["policy"].clone(), one["hook"].clone())).collect::<Vec<_>>();
    assert_eq!(hooks(questions), hooks(steps), "each question is a step of the chain");
    let result = questions.iter().find(|question| question["hook"] == "tool-result").unwrap();
    let shown = result["input"]["response"]["parts"][0]["text"].as_str().unwrap();
    assert!(shown.contains("hunter2-hunter2"), "{shown}");
    assert!(questions.iter().all(|question| !question["answer"].is_null() && question["module_digest"].is_string()));
    assert!(!decision.to_string().contains("hunter2"), "the trail of decisions has none of it");

    let of_redact = gateway.operator("GET", "/api/v1/recordings?policy=redact", None).await.json();
    assert_eq!(of_redact["questions"].as_array().unwrap().len(), 1);
    assert_eq!(of_redact["questions"][0]["decision"], decision["id"]);
    let audit = gateway.operator("GET", "/api/v1/audit", None).await.json();
    let events: Vec<_> =
        audit["entries"].as_array().unwrap().iter().take(2).map(|entry| entry["event"].clone()).collect();
    assert_eq!(events, ["recordings.read", "recording.read"]);

    let dir = gateway.stop().await;
    let store = std::fs::read(dir.path().join("data/portcullis.redb")).unwrap();
    let has = |text: &[u8]| store.windows(text.len()).any(|window| window == text);
    assert!(!has(b"hunter2"), "what is recorded is sealed");
    assert!(has(b"allow-tools"), "what is in the trail is not");
}

#[tokio::test]
async fn nothing_is_recorded_unless_the_operator_wants_it() {
    let up = Fixture::start().await;
    let gateway = Gateway::builder().section(GUARD).http_upstream("up", &up.url).key("alice").start().await;
    gateway.caller("alice").call("up__echo", json!({ "password": "hunter2" })).await;
    let decision = decisions(&gateway, 1).await.remove(0);
    let path = format!("/api/v1/recordings/{}", decision["id"].as_str().unwrap());
    assert_eq!(gateway.operator("GET", &path, None).await.status, StatusCode::NOT_FOUND);
    let none = gateway.operator("GET", "/api/v1/recordings", None).await.json();
    assert_eq!(none["questions"], json!([]));
    for (path, status) in [("?policy=NONE", 422), ("?limit=x", 400), ("?none=1", 400), ("/none", 404)] {
        let reply = gateway.operator("GET", &format!("/api/v1/recordings{path}"), None).await;
        assert_eq!(reply.status.as_u16(), status, "{path}");
    }
}
