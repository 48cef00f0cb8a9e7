//! Virtual keys at the door: who gets in, as whom, and to what.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, StatusCode};
use portcullis_tests::upstreams::fixture::{Fixture, tool};
use portcullis_tests::{Caller, Gateway, Reply};
use serde_json::{Value, json};

use super::{refusal, scene};

/// Makes a key in the store. Its secret.
async fn create(gateway: &Gateway, key: Value) -> String {
    let reply = gateway.operator("POST", "/api/v1/keys", Some(key)).await;
    assert_eq!(reply.status, StatusCode::CREATED, "{}", reply.text());
    reply.json()["secret"].as_str().unwrap().to_owned()
}

fn everything() -> Value {
    json!([{ "upstream": "*", "tools": ["*"] }])
}

fn with_secret(gateway: &Gateway, secret: &str) -> Caller {
    Caller::new(gateway.public, Some(secret.to_owned()))
}

/// All that a caller can see of an answer, but for what differs each time.
fn visible(reply: &Reply) -> (StatusCode, Vec<(String, HeaderValue)>, Vec<u8>) {
    let mut headers: HeaderMap = reply.headers.clone();
    headers.remove("date");
    // Each answer has one of its own.
    headers.remove("x-request-id");
    let headers = headers.iter().map(|(name, value)| (name.to_string(), value.clone())).collect();
    (reply.status, headers, reply.body.to_vec())
}

#[tokio::test]
async fn without_a_valid_key_all_look_the_same() {
    let up = Fixture::start().await;
    let builder = Gateway::builder().http_upstream("up", &up.url).key("alice");
    let builder = builder.file("off.key", b"pk_off-0123456789abcdef0123456789abcdef0123").section(
        "[keys.off]\nsecret = \"file:off.key\"\ndisabled = true\nallow = [{ upstream = \"*\", tools = [\"*\"] }]",
    );
    let gateway = builder.start().await;
    let disabled = create(&gateway, json!({ "name": "disabled", "allow": everything() })).await;
    gateway.operator("PATCH", "/api/v1/keys/disabled", Some(json!({ "disabled": true }))).await;
    let deleted = create(&gateway, json!({ "name": "deleted", "allow": everything() })).await;
    gateway.operator("DELETE", "/api/v1/keys/deleted", None).await;
    let expired =
        create(&gateway, json!({ "name": "expired", "allow": everything(), "expires": "2026-01-01T00:01:00Z" })).await;
    gateway.clock.advance(Duration::from_secs(60));

    let alice = Gateway::secret("alice");
    let bearer = |credential: String| with_secret(&gateway, &credential);
    let authorization = |value: String| gateway.stranger().with("authorization", &value);
    let callers = [
        ("missing", gateway.stranger()),
        ("empty", authorization("Bearer ".to_owned())),
        ("unknown", bearer("pk_unknown-0123456789abcdef0123456789abcdef".to_owned())),
        ("disabled", bearer(disabled)),
        ("disabled in the file", bearer("pk_off-0123456789abcdef0123456789abcdef0123".to_owned())),
        ("deleted", bearer(deleted)),
        ("expired", bearer(expired)),
        ("cut", bearer(alice[..alice.len() - 1].to_owned())),
        ("longer", bearer(format!("{alice}x"))),
        ("in capitals", bearer(alice.to_uppercase())),
        ("of another scheme", authorization(format!("Basic {alice}"))),
        ("without a scheme", authorization(alice.clone())),
        ("very long", bearer(format!("pk_{}", "x".repeat(10_000)))),
        ("two", gateway.caller("alice").with("x-portcullis-key", "pk_other-0123456789abcdef0123456789abcdef")),
        ("two, one of them empty", gateway.caller("alice").with("x-portcullis-key", "")),
    ];
    // Not even whether a message is well-formed is told.
    let bodies = [
        "{".to_owned(),
        gateway.stranger().modern_request("tools/list", json!({})).1,
        json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize" }).to_string(),
    ];
    let requests = bodies.iter().map(|body| ("POST", body.as_str())).chain([("POST", ""), ("GET", ""), ("DELETE", "")]);
    for (method, body) in requests {
        // All are told where tokens come from, and those who presented one that it is not valid. No more than that.
        let about = format!(
            r#"scope="mcp", resource_metadata="http://{}/.well-known/oauth-protected-resource/mcp""#,
            gateway.public
        );
        let missing = visible(&gateway.stranger().send(method, "/mcp", body.to_owned()).await);
        let invalid = visible(&bearer("pk_unknown".to_owned()).send(method, "/mcp", body.to_owned()).await);
        for (expected, challenge) in
            [(&missing, format!("Bearer {about}")), (&invalid, format!(r#"Bearer error="invalid_token", {about}"#))]
        {
            assert_eq!(expected.0, StatusCode::UNAUTHORIZED);
            let told = expected.1.iter().find(|(name, _)| name == "www-authenticate");
            assert_eq!(told.map(|(_, value)| value.to_str().unwrap()), Some(&*challenge));
        }
        assert_eq!(missing.2, invalid.2);
        for (what, caller) in &callers {
            let seen = visible(&caller.send(method, "/mcp", body.to_owned()).await);
            let is_bearer = !["missing", "of another scheme", "without a scheme"].contains(what);
            assert_eq!(seen, *if is_bearer { &invalid } else { &missing }, "{what}: {method} {body}");
        }
    }
    assert_eq!(up.stats().calls, 0);
}

#[tokio::test]
async fn a_key_is_accepted_in_either_header() {
    let (_up, gateway) = scene().await;
    let secret = Gateway::secret("alice");
    for (what, caller) in [
        ("bearer", gateway.caller("alice")),
        ("bearer in other letters", gateway.stranger().with("authorization", &format!("bEARER {secret}"))),
        ("the header of its own", gateway.stranger().with("x-portcullis-key", &secret)),
        ("the same twice", gateway.caller("alice").with("x-portcullis-key", &secret)),
    ] {
        assert_eq!(caller.call("up__echo", json!({})).await.status, StatusCode::OK, "{what}");
        let session = caller.initialize("2025-11-25").await;
        assert_eq!(session.request("ping", json!({})).await.status, StatusCode::OK, "{what}");
    }
}

#[tokio::test]
async fn a_key_is_not_taken_from_the_query_or_a_cookie() {
    let (_up, gateway) = scene().await;
    let secret = Gateway::secret("alice");
    let (headers, body) = gateway.stranger().modern_request("tools/list", json!({}));
    let mut caller = gateway.stranger();
    caller.headers = headers;
    // What is called a token there is told to be one, where tokens are taken.
    for (name, status) in [("key", StatusCode::UNAUTHORIZED), ("access_token", StatusCode::BAD_REQUEST)] {
        assert_eq!(caller.send("POST", &format!("/mcp?{name}={secret}"), body.clone()).await.status, status, "{name}");
    }
    let caller = caller.with("cookie", &format!("key={secret}"));
    assert_eq!(caller.post(body).await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_key_ends_at_its_time_even_within_a_session() {
    let up = Fixture::start().await;
    let builder = Gateway::builder()
        .http_upstream("up", &up.url)
        .file("temp.key", b"pk_temp-0123456789abcdef0123456789abcdef012");
    let key = "[keys.temp]\nsecret = \"file:temp.key\"\nexpires = 2026-01-01T00:01:00Z\nallow = [{ upstream = \"*\", tools = [\"*\"] }]";
    let gateway = builder.section(key).start().await;
    let temp = with_secret(&gateway, "pk_temp-0123456789abcdef0123456789abcdef012");
    let session = temp.initialize("2025-11-25").await;
    gateway.clock.advance(Duration::from_millis(59_999));
    assert_eq!(temp.call("up__echo", json!({})).await.status, StatusCode::OK);
    assert_eq!(session.request("ping", json!({})).await.status, StatusCode::OK);
    gateway.clock.advance(Duration::from_millis(1));
    assert_eq!(temp.call("up__echo", json!({})).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(session.request("ping", json!({})).await.status, StatusCode::UNAUTHORIZED);
}

/// Two upstreams, `notes` and `tracker`, with tools that have names in common.
async fn two_upstreams() -> [Fixture; 2] {
    let upstreams = [Fixture::start().await, Fixture::start().await];
    for upstream in &upstreams {
        upstream.set_tools(["add", "add_all", "list", "delete"].into_iter().map(tool).collect());
    }
    upstreams
}

#[tokio::test]
async fn an_allow_list_permits_what_it_names_and_nothing_else() {
    let [notes, tracker] = two_upstreams().await;
    let rows: [(&str, &[&str]); 9] = [
        ("[]", &[]),
        (r#"[{ upstream = "notes", tools = [] }]"#, &[]),
        (r#"[{ upstream = "none*", tools = ["*"] }]"#, &[]),
        (r#"[{ upstream = "notes", tools = ["add"] }]"#, &["notes__add"]),
        (r#"[{ upstream = "notes", tools = ["add*"] }]"#, &["notes__add", "notes__add_all"]),
        (
            r#"[{ upstream = "*", tools = ["*t*"] }]"#,
            &["notes__delete", "notes__list", "tracker__delete", "tracker__list"],
        ),
        (
            r#"[{ upstream = "notes", tools = ["list"] }, { upstream = "t*", tools = ["delete", "list"] }]"#,
            &["notes__list", "tracker__delete", "tracker__list"],
        ),
        // Patterns are over the upstream's own names, and letters count.
        (r#"[{ upstream = "notes", tools = ["notes__add", "ADD"] }]"#, &[]),
        (
            r#"[{ upstream = "*x", tools = ["*"] }, { upstream = "t*s", tools = ["*"] }, { upstream = "notes*s", tools = ["*"] }]"#,
            &[],
        ),
    ];
    let mut builder = Gateway::builder().http_upstream("notes", &notes.url).http_upstream("tracker", &tracker.url);
    for (at, (allow, _)) in rows.iter().enumerate() {
        builder = builder.key_for(&format!("key-{at}"), allow);
    }
    let gateway = builder.key("all").start().await;
    let all = gateway.caller("all").tool_names().await;
    assert_eq!(all.len(), 8);
    for (at, (allow, expected)) in rows.iter().enumerate() {
        let caller = gateway.caller(&format!("key-{at}"));
        assert_eq!(caller.tool_names().await, *expected, "{allow}");
        for name in &all {
            let reply = caller.call(name, json!({})).await;
            let is_called = reply.json()["result"].is_object();
            assert_eq!(is_called, expected.contains(&name.as_str()), "{allow} {name}");
            assert!(is_called || refusal(&reply) == (200, -32602), "{allow} {name}");
        }
    }
}

#[tokio::test]
async fn a_key_without_an_allow_list_sees_nothing() {
    let (up, gateway) = scene().await;
    let secret = create(&gateway, json!({ "name": "bare" })).await;
    let bare = with_secret(&gateway, &secret);
    assert_eq!(bare.tool_names().await, [""; 0]);
    assert_eq!(refusal(&bare.call("up__echo", json!({})).await), (200, -32602));
    assert_eq!(
        bare.modern("server/discover", json!({})).await.status,
        StatusCode::OK,
        "it is a valid key nevertheless"
    );
    assert_eq!(up.stats().calls, 0);
}

#[tokio::test]
async fn keys_of_file_and_store_open_the_same_door() {
    let [notes, tracker] = two_upstreams().await;
    let builder = Gateway::builder().http_upstream("notes", &notes.url).http_upstream("tracker", &tracker.url);
    let gateway = builder.key_for("file", r#"[{ upstream = "notes", tools = ["add"] }]"#).start().await;
    let secret =
        create(&gateway, json!({ "name": "store", "allow": [{ "upstream": "tracker", "tools": ["li*"] }] })).await;
    assert!(secret.starts_with("pk_") && secret.len() >= 40, "{secret}");
    let (file, store) = (gateway.caller("file"), with_secret(&gateway, &secret));
    assert_eq!(file.tool_names().await, ["notes__add"]);
    assert_eq!(store.tool_names().await, ["tracker__list"]);
    assert!(file.call("notes__add", json!({})).await.json()["result"].is_object());
    assert!(store.call("tracker__list", json!({})).await.json()["result"].is_object());
    assert_eq!(refusal(&file.call("tracker__list", json!({})).await), (200, -32602));
    assert_eq!(refusal(&store.call("notes__add", json!({})).await), (200, -32602));
}

#[tokio::test]
async fn an_upstream_that_is_down_is_named_only_to_keys_that_reach_it() {
    let up = Fixture::start().await;
    let builder = Gateway::builder().http_upstream("up", &up.url).http_upstream("down", "http://127.0.0.1:9/mcp");
    let gateway = builder.key("all").key_for("some", r#"[{ upstream = "up", tools = ["*"] }]"#).start().await;
    let missing = async |key: &str| {
        gateway.caller(key).modern("tools/list", json!({})).await.json()["result"]["_meta"]["portcullis/missingUpstreams"].clone()
    };
    assert_eq!(missing("all").await, json!(["down"]));
    assert_eq!(missing("some").await, Value::Null);
}
