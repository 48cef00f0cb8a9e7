//! What changes at an upstream: updates of resources and changed lists reach those who asked for them, as they asked, and
//! tell nobody of what is not theirs to see.

use portcullis_tests::caller::Stream;
use portcullis_tests::gateway::{Builder, SOON};
use portcullis_tests::upstreams::fixture::{Stats, default_tools, tool};
use portcullis_tests::{Caller, Gateway};
use serde_json::{Value, json};

use super::{Client, Kind, Scene, Up, soon, with_each};
use crate::policy::guest::answering;

/// The upstreams that one can subscribe at.
const SUBSCRIBABLE: [Up; 5] = [Up::ModernHttp, Up::LegacyHttp, Up::Sse, Up::ModernStdio, Up::LegacyStdio];
const WATCHED: &str = "test://watched-resource";
const OTHER: &str = "test://static-text";
const SUBSCRIPTION: &str = "io.modelcontextprotocol/subscriptionId";

/// Makes the upstream say that a resource has changed.
async fn update(scene: &Scene, uri: &str) {
    let params = json!({ "uri": uri });
    let reply = scene.gateway.caller("bob").call("up__test_trigger_resource_update", params).await;
    assert_eq!(reply.json()["result"]["content"][0]["text"], "It has changed.", "{}", reply.text());
}

/// Makes the upstream change a list: `tool`, `prompt` or `resource`.
async fn change(scene: &Scene, what: &str) {
    let reply = scene.gateway.caller("bob").call(&format!("up__test_trigger_{what}_change"), json!({})).await;
    assert_eq!(reply.json()["result"]["content"][0]["text"], "It has changed.", "{}", reply.text());
}

/// Waits until the upstream knows of so many subscriptions, where it can be looked into.
async fn until_subscribed(scene: &Scene, count: usize) {
    let Some(fixture) = &scene.fixture else { return };
    // The gateway itself listens for changed lists.
    let own = usize::from(scene.up.is_modern());
    match scene.up.is_modern() {
        true => _ = fixture.until(|stats| stats.listens == own + count).await,
        false => _ = fixture.until(|stats| stats.subscriptions == count).await,
    }
}

/// Opens a `subscriptions/listen` with this id and filter, of which all is granted.
async fn listen(caller: &Caller, id: &Value, filter: Value) -> Stream {
    let mut stream = listen_for(caller, id, &filter).await;
    let acknowledged = stream.next().await;
    assert_eq!(acknowledged["method"], "notifications/subscriptions/acknowledged");
    assert_eq!(acknowledged["params"]["notifications"], filter);
    assert_eq!(acknowledged["params"]["_meta"][SUBSCRIPTION], *id);
    stream
}

async fn listen_for(caller: &Caller, id: &Value, filter: &Value) -> Stream {
    let (headers, body) = caller.modern_request("subscriptions/listen", json!({ "notifications": filter }));
    let mut body: Value = serde_json::from_str(&body).unwrap();
    body["id"] = id.clone();
    let mut caller = caller.copy();
    caller.headers = headers;
    let stream = caller.begin(body.to_string()).await;
    assert_eq!((stream.status.as_u16(), stream.is_events()), (200, true));
    assert_eq!(stream.headers["x-accel-buffering"], "no");
    stream
}

#[tokio::test]
async fn updates_reach_a_legacy_subscriber() {
    with_each(SUBSCRIBABLE, async |up| {
        let scene = up.scene().await;
        for version in ["2025-11-25", "2025-06-18", "2025-03-26"] {
            let context = format!("{version} to {up:?}");
            let session = scene.gateway.caller("alice").initialize(version).await;
            let mut standing = session.listen(None).await;
            for _ in 0..2 {
                let done = session.request("resources/subscribe", json!({ "uri": WATCHED })).await.json();
                assert_eq!(done["result"], json!({}), "{context}: twice is no mistake: {done}");
            }
            until_subscribed(&scene, 1).await;
            // Of the other one nothing is heard, so that this one comes first.
            update(&scene, OTHER).await;
            update(&scene, WATCHED).await;
            let updated = standing.next().await;
            assert_eq!(updated["method"], "notifications/resources/updated", "{context}: {updated}");
            assert_eq!(updated["params"]["uri"], WATCHED, "{context}: {updated}");
            assert_eq!(updated["params"]["_meta"][SUBSCRIPTION], Value::Null, "the tag is none of its revision");
            let done = session.request("resources/unsubscribe", json!({ "uri": WATCHED })).await.json();
            assert_eq!(done["result"], json!({}), "{context}: {done}");
            until_subscribed(&scene, 0).await;
            update(&scene, WATCHED).await;
            change(&scene, "tool").await;
            assert_eq!(standing.next().await["method"], "notifications/tools/list_changed", "{context}: and no update");
            session.send("DELETE", "/mcp", "").await;
        }
    })
    .await;
}

#[tokio::test]
async fn updates_reach_a_subscriber_over_sse() {
    with_each(SUBSCRIBABLE, async |up| {
        let scene = up.scene().await;
        let mut client = scene.client(Kind::Sse, json!({})).await;
        assert_eq!(client.ask("resources/subscribe", json!({ "uri": WATCHED })).await["result"], json!({}), "{up:?}");
        until_subscribed(&scene, 1).await;
        update(&scene, OTHER).await;
        update(&scene, WATCHED).await;
        let updated = client.next().await;
        assert_eq!(updated["method"], "notifications/resources/updated", "{up:?}: {updated}");
        assert_eq!(updated["params"]["uri"], WATCHED);
        drop(client);
        until_subscribed(&scene, 0).await;
    })
    .await;
}

#[tokio::test]
async fn updates_reach_a_modern_listener_and_name_its_request() {
    with_each(SUBSCRIBABLE, async |up| {
        let scene = up.scene().await;
        let alice = scene.gateway.caller("alice");
        let mut one = listen(&alice, &json!("one"), json!({ "resourceSubscriptions": [WATCHED] })).await;
        let mut two = listen(&alice, &json!(2), json!({ "resourceSubscriptions": [OTHER] })).await;
        update(&scene, OTHER).await;
        update(&scene, WATCHED).await;
        for (stream, id, uri) in [(&mut one, json!("one"), WATCHED), (&mut two, json!(2), OTHER)] {
            let updated = stream.next().await;
            assert_eq!(updated["method"], "notifications/resources/updated", "{up:?}: {updated}");
            assert_eq!(updated["params"]["uri"], uri, "{up:?}: {updated}");
            assert_eq!(updated["params"]["_meta"][SUBSCRIPTION], id, "{up:?}: {updated}");
        }
        drop((one, two));
        until_subscribed(&scene, 0).await;
    })
    .await;
}

#[tokio::test]
async fn a_listener_hears_what_it_asked_for_and_nothing_else() {
    let filters = [
        ("tool", json!({ "toolsListChanged": true }), "notifications/tools/list_changed"),
        ("prompt", json!({ "promptsListChanged": true }), "notifications/prompts/list_changed"),
        ("resource", json!({ "resourcesListChanged": true }), "notifications/resources/list_changed"),
    ];
    with_each(SUBSCRIBABLE, async |up| {
        let scene = up.scene().await;
        let alice = scene.gateway.caller("alice");
        // Whoever listens for one kind only hears of it, although the others changed before.
        for (at, (what, filter, method)) in filters.iter().enumerate() {
            let mut stream = listen(&alice, &json!(at), filter.clone()).await;
            let mut all = listen(
                &alice,
                &json!("all"),
                json!({ "toolsListChanged": true, "promptsListChanged": true, "resourcesListChanged": true }),
            )
            .await;
            let others: Vec<_> = filters.iter().filter(|(other, ..)| other != what).collect();
            for (other, _, method) in others {
                change(&scene, other).await;
                let heard = all.next().await;
                assert_eq!(heard["method"], *method, "{up:?}: {heard}");
                assert_eq!(heard["params"]["_meta"][SUBSCRIPTION], "all");
            }
            change(&scene, what).await;
            let heard = stream.next().await;
            assert_eq!(heard["method"], *method, "{up:?}: {heard}");
            assert_eq!(heard["params"]["_meta"][SUBSCRIPTION], at);
        }
    })
    .await;
}

#[tokio::test]
async fn what_has_changed_is_in_the_list_when_it_is_told() {
    with_each(SUBSCRIBABLE, async |up| {
        let scene = up.scene().await;
        let session = scene.gateway.caller("alice").initialize("2025-11-25").await;
        let mut standing = session.listen(None).await;
        let mut over_sse = scene.client(Kind::Sse, json!({})).await;
        for (what, list, member, key, name) in [
            ("tool", "tools/list", "tools", "name", "up__test_dynamic_tool"),
            ("prompt", "prompts/list", "prompts", "name", "up__test_dynamic_prompt"),
            ("resource", "resources/list", "resources", "uri", "test://dynamic-resource"),
        ] {
            for is_there in [true, false] {
                change(&scene, what).await;
                let method = format!("notifications/{member}/list_changed");
                for heard in [standing.next().await, over_sse.next().await] {
                    assert_eq!(heard["method"], method, "{up:?}: {heard}");
                }
                let listed = session.request(list, json!({})).await.json()["result"][member].clone();
                let found = listed.as_array().unwrap().iter().any(|item| item[key] == name);
                assert_eq!(found, is_there, "{up:?}: {what}");
            }
        }
    })
    .await;
}

/// A key hears of changes of what it sees, and of nothing else.
#[tokio::test]
async fn changes_of_what_a_caller_does_not_see_are_not_told() {
    with_each([Up::ModernHttp, Up::LegacyHttp], async |up| {
        let scene = up.scene_with(with_narrow_key()).await;
        let all = json!({ "toolsListChanged": true, "promptsListChanged": true, "resourcesListChanged": true });
        let mut alice = listen(&scene.gateway.caller("alice"), &json!(1), all.clone()).await;
        let mut narrow = listen(&scene.gateway.caller("narrow"), &json!(2), all).await;
        let session = scene.gateway.caller("narrow").initialize("2025-11-25").await;
        let mut standing = session.listen(None).await;
        // Tools, prompts and resources that the narrow key has no part in; the last change is one that it sees. Had it been
        // told of the others, that would have come before.
        for (what, method) in [("prompt", "prompts"), ("resource", "resources"), ("tool", "tools")] {
            change(&scene, what).await;
            assert_eq!(alice.next().await["method"], format!("notifications/{method}/list_changed"), "{up:?}");
        }
        assert_eq!(scene.gateway.caller("narrow").tool_names().await, ["up__echo"]);
        let mut tools = default_tools();
        tools.push(tool("late"));
        scene.fixture().change_tools(tools);
        assert_eq!(alice.next().await["method"], "notifications/tools/list_changed");
        assert_eq!(narrow.next().await["method"], "notifications/tools/list_changed", "{up:?}");
        assert_eq!(standing.next().await["method"], "notifications/tools/list_changed", "{up:?}");
        assert_eq!(scene.gateway.caller("narrow").tool_names().await, ["up__echo", "up__late"]);
        // Nothing else was on its way: the streams end with the gateway.
        let gateway = scene.gateway;
        let (rest, standing_rest, _) = tokio::join!(narrow.rest(), standing.rest(), gateway.stop());
        assert_eq!(rest.len(), 1, "{up:?}: {rest:?}");
        assert_eq!(rest[0]["id"], 2, "a graceful end is a result: {rest:?}");
        assert_eq!(rest[0]["result"]["_meta"][SUBSCRIPTION], 2);
        assert_eq!(standing_rest, [] as [Value; 0], "{up:?}");
    })
    .await;
}

/// The key `narrow` sees two tools.
fn with_narrow_key() -> Builder {
    Gateway::builder().key("alice").key("bob").key_for("narrow", r#"[{ upstream = "up", tools = ["echo", "late"] }]"#)
}

#[tokio::test]
async fn what_a_key_does_not_see_it_cannot_subscribe_to() {
    for up in [Up::ModernHttp, Up::LegacyHttp] {
        let scene = up.scene_with(with_narrow_key()).await;
        let narrow = scene.gateway.caller("narrow");
        let filter = json!({ "toolsListChanged": true, "resourceSubscriptions": [WATCHED] });
        let mut stream = listen_for(&narrow, &json!(1), &filter).await;
        let acknowledged = stream.next().await;
        assert_eq!(
            acknowledged["params"]["notifications"],
            json!({ "toolsListChanged": true }),
            "the rest is not granted"
        );
        let session = narrow.initialize("2025-11-25").await;
        let refused = session.request("resources/subscribe", json!({ "uri": WATCHED })).await.json();
        assert_eq!(refused["error"]["code"], -32002, "{refused}");
        until_subscribed(&scene, 0).await;
    }
}

#[tokio::test]
async fn what_there_is_not_cannot_be_subscribed_to() {
    for up in SUBSCRIBABLE {
        let scene = up.scene().await;
        let session = scene.gateway.caller("alice").initialize("2025-11-25").await;
        // A modern upstream grants what it is asked, whether there is such a thing or not.
        if !up.is_modern() {
            let refused = session.request("resources/subscribe", json!({ "uri": "test://nothing" })).await.json();
            assert_eq!(refused["error"]["code"], -32002, "{up:?}: {refused}");
        }
        let ended = session.request("resources/unsubscribe", json!({ "uri": "test://nothing" })).await.json();
        assert_eq!(ended["result"], json!({}), "{up:?}: {ended}");
    }
    let scene = Up::Stateless.scene().await;
    let session = scene.gateway.caller("alice").initialize("2025-11-25").await;
    let refused = session.request("resources/subscribe", json!({ "uri": WATCHED })).await.json();
    assert!(refused["error"].is_object(), "{refused}");
    let filter = json!({ "resourceSubscriptions": [WATCHED] });
    let mut stream = listen_for(&scene.gateway.caller("alice"), &json!(1), &filter).await;
    assert_eq!(stream.next().await["params"]["notifications"], json!({}), "it is not granted");
}

/// Two callers, one subscription each; the end of one is not the end of the other.
#[tokio::test]
async fn subscriptions_end_one_by_one() {
    with_each(SUBSCRIBABLE, async |up| {
        let scene = up.scene().await;
        let alice = scene.gateway.caller("alice");
        let modern = listen(&alice, &json!(1), json!({ "resourceSubscriptions": [WATCHED] })).await;
        let session = alice.initialize("2025-11-25").await;
        let mut standing = session.listen(None).await;
        session.request("resources/subscribe", json!({ "uri": WATCHED })).await;
        drop(modern);
        until_subscribed(&scene, 1).await;
        update(&scene, WATCHED).await;
        assert_eq!(standing.next().await["params"]["uri"], WATCHED, "{up:?}");
        session.send("DELETE", "/mcp", "").await;
        until_subscribed(&scene, 0).await;
    })
    .await;
}

/// What is said while nobody reads the stream of a session waits for the next reader.
#[tokio::test]
async fn a_stream_that_broke_is_told_what_it_missed() {
    let scene = Up::LegacyHttp.scene().await;
    let session = scene.gateway.caller("alice").initialize("2025-11-25").await;
    let mut standing = session.listen(None).await;
    let primed = standing.event().await.unwrap().id.unwrap();
    session.request("resources/subscribe", json!({ "uri": WATCHED })).await;
    drop(standing);
    update(&scene, WATCHED).await;
    let mut resumed = session.listen(Some(&primed)).await;
    assert_eq!(resumed.next().await["params"]["uri"], WATCHED);
}

/// An upstream that loses its sessions is subscribed at again.
#[tokio::test]
async fn a_subscription_outlives_the_upstreams_sessions() {
    with_each([Up::LegacyHttp, Up::ModernHttp], async |up| {
        let scene = up.scene().await;
        let session = scene.gateway.caller("alice").initialize("2025-11-25").await;
        let mut standing = session.listen(None).await;
        session.request("resources/subscribe", json!({ "uri": WATCHED })).await;
        until_subscribed(&scene, 1).await;
        match up.is_modern() {
            true => scene.fixture().end_listens(),
            false => scene.fixture().forget_sessions(),
        }
        until_subscribed(&scene, 1).await;
        // It may still be the one that is about to end; then the update is lost, as one is that nobody listens to.
        let updating = async {
            loop {
                update(&scene, WATCHED).await;
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        };
        let updated = soon(async {
            tokio::select! {
                updated = standing.next() => updated,
                () = updating => unreachable!("it goes on"),
            }
        });
        assert_eq!(updated.await["params"]["uri"], WATCHED, "{up:?}");
    })
    .await;
}

/// The next message, which comes soon.
async fn heard(stream: &mut Stream, up: Up, turn: &str) -> Value {
    let heard = tokio::time::timeout(SOON, stream.next()).await;
    heard.unwrap_or_else(|_| panic!("{up:?}: nothing is heard, turn {turn}"))
}

/// A reload can take a resource out of somebody's sight; then nothing more is heard of it, and of others all.
#[tokio::test]
async fn what_a_reload_hides_is_not_heard_of_any_more() {
    // Hides whatever it is asked about, which its binding says.
    let module = answering(&[("list-items", json!(["hide"]))]);
    let hides = "[[policies]]\nname = \"items\"\nmodule = \"items.wasm\"\nlimits = { time = \"1s\" }\n\
                 match = { items = [\"nothing\"] }\n";
    with_each(SUBSCRIBABLE, async |up| {
        let builder = Gateway::builder().key("alice").key("bob").section(hides).file("items.wasm", &module);
        let scene = up.scene_with(builder).await;
        let alice = scene.gateway.caller("alice");
        let filter = json!({ "resourcesListChanged": true, "resourceSubscriptions": [OTHER, WATCHED] });
        let mut stream = listen(&alice, &json!(1), filter.clone()).await;
        let session = alice.initialize("2025-11-25").await;
        let mut standing = session.listen(None).await;
        for uri in [WATCHED, OTHER] {
            let done = session.request("resources/subscribe", json!({ "uri": uri })).await.json();
            assert_eq!(done["result"], json!({}), "{up:?}: {done}");
        }
        let before = scene.fixture.as_ref().map(|fixture| (fixture.stats().listens, fixture.stats().subscriptions));

        let text = std::fs::read_to_string(&scene.gateway.file).unwrap();
        scene.gateway.replace("portcullis.toml", text.replace("nothing", WATCHED).as_bytes());
        // The list is told of once it was looked at again, and watches with it.
        for heard in [heard(&mut stream, up, "1").await, heard(&mut standing, up, "2").await] {
            assert_eq!(heard["method"], "notifications/resources/list_changed", "{up:?}: {heard}");
        }
        if let Some((listens, subscriptions)) = before {
            let ended = |stats: &Stats| stats.listens < listens || stats.subscriptions < subscriptions;
            scene.fixture().until(ended).await;
        }
        update(&scene, WATCHED).await;
        update(&scene, OTHER).await;
        for heard in [heard(&mut stream, up, "3").await, heard(&mut standing, up, "4").await] {
            assert_eq!(heard["params"]["uri"], OTHER, "{up:?}: {heard}");
        }
        let refused = session.request("resources/subscribe", json!({ "uri": WATCHED })).await.json();
        assert_eq!(refused["error"]["code"], -32002, "{up:?}: {refused}");

        // What is shown again has to be asked for again.
        scene.gateway.replace("portcullis.toml", text.as_bytes());
        for heard in [heard(&mut stream, up, "5").await, heard(&mut standing, up, "6").await] {
            assert_eq!(heard["method"], "notifications/resources/list_changed", "{up:?}: {heard}");
        }
        let mut again = listen(&alice, &json!(2), filter).await;
        update(&scene, WATCHED).await;
        assert_eq!(heard(&mut again, up, "7").await["params"]["uri"], WATCHED, "{up:?}");
        update(&scene, OTHER).await;
        assert_eq!(heard(&mut stream, up, "8").await["params"]["uri"], OTHER, "{up:?}");
        assert_eq!(heard(&mut standing, up, "9").await["params"]["uri"], OTHER, "{up:?}");
    })
    .await;
}

/// The same where a key loses the upstream.
#[tokio::test]
async fn what_a_key_may_not_use_any_more_is_not_heard_of() {
    let scene = Up::LegacyHttp.scene().await;
    let alice = scene.gateway.caller("alice");
    let mut stream =
        listen(&alice, &json!(1), json!({ "toolsListChanged": true, "resourceSubscriptions": [WATCHED] })).await;
    until_subscribed(&scene, 1).await;
    let text = std::fs::read_to_string(&scene.gateway.file).unwrap();
    let of_alice = "secret = \"file:alice.key\"\nallow = [{ upstream = \"*\", tools = [\"*\"] }]";
    assert!(text.contains(of_alice), "{text}");
    let narrow =
        text.replace(of_alice, "secret = \"file:alice.key\"\nallow = [{ upstream = \"up\", tools = [\"echo\"] }]");
    scene.gateway.replace("portcullis.toml", narrow.as_bytes());
    until_subscribed(&scene, 0).await;
    assert_eq!(stream.next().await["method"], "notifications/tools/list_changed", "the stream goes on");
}

/// The gateway answers for the client: the upstream never learns of more than one session's roots.
#[tokio::test]
async fn changed_roots_are_told_to_the_upstreams_of_the_session() {
    for up in [Up::LegacyHttp, Up::Sse] {
        let scene = up.scene().await;
        let mut client =
            Client::of(scene.gateway.caller("alice").able(super::everything()), Kind::Session("2025-11-25")).await;
        client.call("up__echo", json!({})).await;
        let before = scene.fixture().stats().notices;
        client.caller().notify("notifications/roots/list_changed", json!({})).await;
        scene.fixture().until(|stats| stats.notices == before + 1).await;
    }
}
