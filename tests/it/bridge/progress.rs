//! What is said while a request is under way: progress under the caller's own token, and log messages from the level that
//! the caller wants, over every pair.

use serde_json::{Value, json};

use super::{Client, Kind, Up, with_each};

const ALL: [Up; 7] =
    [Up::ModernHttp, Up::LegacyHttp, Up::Stateless, Up::Sse, Up::SseFound, Up::ModernStdio, Up::LegacyStdio];

async fn said(client: &mut Client, tool: &str, meta: Value) -> Vec<Value> {
    let params = json!({ "name": tool, "arguments": {}, "_meta": meta });
    let talk = client.talk("tools/call", params, |method, _| panic!("{method} was asked")).await;
    assert!(talk.response["result"]["content"].is_array(), "{}", talk.text);
    talk.said
}

#[tokio::test]
async fn progress_comes_under_the_callers_own_token() {
    with_each(ALL, async |up| {
        let scene = up.scene().await;
        for kind in Kind::ALL {
            let mut client = scene.client(kind, json!({})).await;
            for token in [json!("mine"), json!(7)] {
                let said = said(&mut client, "up__test_tool_with_progress", json!({ "progressToken": token })).await;
                let context = format!("{kind:?} to {up:?}: {said:?}");
                assert_eq!(said.len(), 3, "{context}");
                for (message, progress) in said.iter().zip([0, 50, 100]) {
                    assert_eq!(message["method"], "notifications/progress", "{context}");
                    assert_eq!(message["params"]["progressToken"], token, "{context}");
                    assert_eq!(message["params"]["progress"], progress, "{context}");
                    assert_eq!(message["params"]["total"], 100, "{context}");
                    assert_eq!(message["params"]["message"], format!("{progress} of 100"), "{context}");
                }
            }
            assert_eq!(said(&mut client, "up__test_tool_with_progress", json!({})).await, [] as [Value; 0], "{kind:?}");
        }
    })
    .await;
}

/// Callers whose tokens are the same do not hear each other.
#[tokio::test]
async fn equal_tokens_are_told_apart() {
    with_each([Up::ModernHttp, Up::LegacyHttp, Up::ModernStdio, Up::LegacyStdio], async |up| {
        let scene = up.scene().await;
        let mut clients = Vec::new();
        for kind in [Kind::Modern, Kind::Session("2025-11-25"), Kind::Sse] {
            clients.push(scene.client(kind, json!({})).await);
            clients.push(Client::connect(&scene.gateway, "bob", kind, json!({})).await);
        }
        let calls =
            clients.iter_mut().map(|client| said(client, "up__test_tool_with_progress", json!({ "progressToken": 1 })));
        for said in futures_util::future::join_all(calls).await {
            let progress: Vec<&Value> = said.iter().map(|message| &message["params"]["progress"]).collect();
            assert_eq!(progress, [0, 50, 100], "{up:?}");
        }
    })
    .await;
}

async fn logged(client: &mut Client, meta: Value) -> usize {
    let said = said(client, "up__test_tool_with_logging", meta).await;
    for message in &said {
        assert_eq!(message["method"], "notifications/message", "{said:?}");
        assert_eq!(message["params"]["level"], "info", "{said:?}");
        assert_eq!(message["params"]["logger"], "fixture", "{said:?}");
    }
    said.len()
}

#[tokio::test]
async fn a_modern_caller_hears_the_log_that_it_asks_for_and_no_other() {
    with_each(ALL, async |up| {
        let scene = up.scene().await;
        let mut client = scene.client(Kind::Modern, json!({})).await;
        let level = |level: &str| json!({ "io.modelcontextprotocol/logLevel": level });
        for (meta, count) in [
            (json!({}), 0),
            (level("info"), 3),
            (level("debug"), 3),
            (level("notice"), 0),
            (level("emergency"), 0),
            (json!({}), 0),
        ] {
            assert_eq!(logged(&mut client, meta.clone()).await, count, "{up:?}: {meta}");
        }
        let unknown = client.ask("tools/call", json!({ "name": "up__echo", "_meta": level("loud") })).await;
        assert_eq!(unknown["error"]["code"], -32602, "{up:?}: {unknown}");
    })
    .await;
}

#[tokio::test]
async fn a_legacy_caller_hears_the_log_from_the_level_that_it_set() {
    with_each(ALL, async |up| {
        let scene = up.scene().await;
        for kind in [Kind::Session("2025-11-25"), Kind::Session("2025-06-18"), Kind::Session("2025-03-26"), Kind::Sse] {
            let context = format!("{kind:?} to {up:?}");
            let mut client = scene.client(kind, json!({})).await;
            assert_eq!(logged(&mut client, json!({})).await, 3, "{context}: unasked, as the upstream has it");
            for (level, count) in [("error", 0), ("info", 3), ("warning", 0), ("debug", 3)] {
                let set = client.ask("logging/setLevel", json!({ "level": level })).await;
                assert_eq!(set["result"], json!({}), "{context}: {set}");
                assert_eq!(logged(&mut client, json!({})).await, count, "{context}: {level}");
            }
            let unknown = client.ask("logging/setLevel", json!({ "level": "loud" })).await;
            assert_eq!(unknown["error"]["code"], -32602, "{context}: {unknown}");
        }
    })
    .await;
}

/// Each session has its own level.
#[tokio::test]
async fn a_level_is_its_sessions_alone() {
    for up in [Up::LegacyHttp, Up::ModernHttp, Up::LegacyStdio] {
        let scene = up.scene().await;
        let mut quiet = scene.client(Kind::Session("2025-11-25"), json!({})).await;
        let mut loud = scene.client(Kind::Session("2025-11-25"), json!({})).await;
        quiet.ask("logging/setLevel", json!({ "level": "error" })).await;
        assert_eq!(logged(&mut loud, json!({})).await, 3, "{up:?}");
        assert_eq!(logged(&mut quiet, json!({})).await, 0, "{up:?}");
    }
}
