//! Virtual keys in an operator's hands: made, listed, changed, given another secret, disabled, enabled, deleted, and told of in
//! the audit trail.

use std::time::Duration;

use http::StatusCode;
use portcullis_tests::upstreams::fixture::Fixture;
use portcullis_tests::{Caller, Gateway, Reply};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::with_token;

fn everything() -> Value {
    json!([{ "upstream": "*", "tools": ["*"] }])
}

async fn create(gateway: &Gateway, key: Value) -> String {
    let reply = gateway.operator("POST", "/api/v1/keys", Some(key)).await;
    assert_eq!(reply.status, StatusCode::CREATED, "{}", reply.text());
    reply.json()["secret"].as_str().unwrap().to_owned()
}

/// What a caller with this secret gets.
async fn knock(gateway: &Gateway, secret: &str) -> StatusCode {
    Caller::new(gateway.public, Some(secret.to_owned())).modern("tools/list", json!({})).await.status
}

async fn set_disabled(gateway: &Gateway, name: &str, disabled: bool) -> StatusCode {
    gateway.operator("PATCH", &format!("/api/v1/keys/{name}"), Some(json!({ "disabled": disabled }))).await.status
}

/// Without an authorization server, which would write down that it makes its keys.
const KEYS_ONLY: &str = "[auth]\nmcp = \"keys\"\n";

#[tokio::test]
async fn a_new_key_works_at_once_and_its_secret_is_shown_once() {
    let up = Fixture::start().await;
    let gateway = Gateway::builder().http_upstream("up", &up.url).start().await;
    let key = json!({
        "name": "ci",
        "allow": [{ "upstream": "up", "tools": ["echo", "sl*"] }],
        "scopes": ["read", "notes:write"],
        "groups": ["ops"],
        "owner": "Ada",
        "expires": "2027-01-31T00:00:00Z",
    });
    let reply = gateway.operator("POST", "/api/v1/keys", Some(key)).await;
    assert_eq!(reply.status, StatusCode::CREATED);
    let mut made = reply.json();
    let secret = made.as_object_mut().unwrap().remove("secret").unwrap().as_str().unwrap().to_owned();
    let view = json!({
        "name": "ci",
        "allow": [{ "upstream": "up", "tools": ["echo", "sl*"] }],
        "scopes": ["read", "notes:write"],
        "groups": ["ops"],
        "owner": "ada",
        "created": "2026-01-01T00:00:00.000Z",
        "expires": "2027-01-31T00:00:00.000Z",
        "disabled": false,
        "earlier_until": null,
        "managed_by": "store",
        "revision": 1,
    });
    assert_eq!(made, view);
    let caller = Caller::new(gateway.public, Some(secret.clone()));
    assert_eq!(caller.tool_names().await, ["up__echo", "up__slow", "up__slow_compute"]);

    assert_eq!(gateway.operator("GET", "/api/v1/keys/ci", None).await.json(), view);
    for path in ["/api/v1/keys", "/api/v1/keys/ci", "/api/v1/audit", "/api/v1/decisions", "/api/v1/status"] {
        let text = gateway.operator("GET", path, None).await.text().to_owned();
        assert!(!text.contains(&secret) && !text.contains("digest"), "{path}: {text}");
    }
}

#[tokio::test]
async fn no_two_secrets_are_the_same() {
    let gateway = Gateway::builder().start().await;
    let mut secrets = Vec::new();
    for number in 0..20 {
        secrets.push(create(&gateway, json!({ "name": format!("key-{number}") })).await);
    }
    secrets.sort();
    secrets.dedup();
    assert_eq!(secrets.len(), 20);
    assert!(secrets.iter().all(|secret| secret.starts_with("pk_") && secret.len() == 46));
}

#[tokio::test]
async fn a_name_is_given_once() {
    let gateway = Gateway::builder().key("file").start().await;
    let secret = create(&gateway, json!({ "name": "ci" })).await;
    for name in ["ci", "file"] {
        let reply = gateway.operator("POST", "/api/v1/keys", Some(json!({ "name": name }))).await;
        assert_eq!((reply.status, reply.json()["code"].as_str()), (StatusCode::CONFLICT, Some("name_taken")), "{name}");
    }
    assert_eq!(knock(&gateway, &secret).await, StatusCode::OK, "the first one is untouched");
    assert_eq!(gateway.operator("DELETE", "/api/v1/keys/ci", None).await.status, StatusCode::NO_CONTENT);
    let another = create(&gateway, json!({ "name": "ci" })).await;
    assert_ne!(secret, another);
    assert_eq!(
        knock(&gateway, &secret).await,
        StatusCode::UNAUTHORIZED,
        "the old secret does not come back with the name"
    );
}

#[tokio::test]
async fn two_at_once_cannot_both_have_a_name() {
    let gateway = Gateway::builder().start().await;
    let create = || gateway.operator("POST", "/api/v1/keys", Some(json!({ "name": "ci" })));
    let (a, b, c, d) = tokio::join!(create(), create(), create(), create());
    let mut statuses = [a.status.as_u16(), b.status.as_u16(), c.status.as_u16(), d.status.as_u16()];
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 409, 409, 409]);
}

#[tokio::test]
async fn what_is_no_key_is_refused() {
    let gateway = Gateway::builder().start().await;
    let lines = |count: usize| Value::Array(vec![json!({ "upstream": "a", "tools": ["b"] }); count]);
    for key in [
        json!({}),
        json!({ "name": "" }),
        json!({ "name": "CI" }),
        json!({ "name": "a_b" }),
        json!({ "name": "-a" }),
        json!({ "name": "a b" }),
        json!({ "name": "ä" }),
        json!({ "name": "x".repeat(65) }),
        json!({ "name": 7 }),
        json!({ "name": "a", "secret": "pk_of-my-own" }),
        json!({ "name": "a", "expiry": "2027-01-31T00:00:00Z" }),
        json!({ "name": "a", "expires": "tomorrow" }),
        json!({ "name": "a", "expires": 1_800_000_000 }),
        // A moment that has passed, and the present one.
        json!({ "name": "a", "expires": "2025-12-31T23:59:59Z" }),
        json!({ "name": "a", "expires": "2026-01-01T00:00:00Z" }),
        json!({ "name": "a", "expires": "1960-01-01T00:00:00Z" }),
        json!({ "name": "a", "allow": "*" }),
        json!({ "name": "a", "allow": [{ "upstream": "*" }] }),
        json!({ "name": "a", "allow": [{ "upstream": "*", "tools": "*" }] }),
        json!({ "name": "a", "allow": [{ "upstream": "*", "tools": ["*"], "all": true }] }),
        json!({ "name": "a", "allow": [{ "upstream": "", "tools": ["*"] }] }),
        json!({ "name": "a", "allow": [{ "upstream": "*", "tools": [""] }] }),
        json!({ "name": "a", "allow": [{ "upstream": "*", "tools": ["x".repeat(10_000)] }] }),
        json!({ "name": "a", "allow": lines(257) }),
        json!({ "name": "a", "scopes": "read" }),
        json!({ "name": "a", "scopes": [""] }),
        json!({ "name": "a", "scopes": ["read write"] }),
        json!({ "name": "a", "scopes": ["a\"b"] }),
        json!({ "name": "a", "scopes": ["read", "read"] }),
        json!({ "name": "a", "scopes": (0..65).map(|number| number.to_string()).collect::<Vec<_>>() }),
        json!({ "name": "a", "groups": ["ä"] }),
        json!({ "name": "a", "owner": "two words" }),
        json!({ "name": "a", "owner": "" }),
        json!({ "name": "a", "groups": ["x".repeat(129)] }),
    ] {
        let reply = gateway.operator("POST", "/api/v1/keys", Some(key.clone())).await;
        assert_eq!(
            (reply.status, reply.json()["code"].as_str()),
            (StatusCode::UNPROCESSABLE_ENTITY, Some("invalid")),
            "{key}"
        );
    }
    assert_eq!(gateway.operator("GET", "/api/v1/keys", None).await.json()["keys"], json!([]));
    create(&gateway, json!({ "name": "x".repeat(64), "allow": lines(256) })).await;
}

#[tokio::test]
async fn the_list_comes_in_pages() {
    let gateway = Gateway::builder().key("file").start().await;
    for number in 0..5 {
        create(&gateway, json!({ "name": format!("key-{number}") })).await;
    }
    let (mut names, mut pages, mut path) = (Vec::new(), 0, "/api/v1/keys?limit=2".to_owned());
    loop {
        let page = gateway.operator("GET", &path, None).await.json();
        names.extend(page["keys"].as_array().unwrap().iter().map(|key| key["name"].as_str().unwrap().to_owned()));
        pages += 1;
        match page["next_cursor"].as_str() {
            Some(cursor) => path = format!("/api/v1/keys?limit=2&cursor={cursor}"),
            None => break,
        }
    }
    assert_eq!((pages, names[0].as_str()), (3, "file"), "keys of the file come first");
    names.sort();
    assert_eq!(names, ["file", "key-0", "key-1", "key-2", "key-3", "key-4"]);
    // Limits that make no sense are brought to the nearest that does.
    for limit in ["0", "1000000"] {
        assert_eq!(
            gateway.operator("GET", &format!("/api/v1/keys?limit={limit}"), None).await.status,
            StatusCode::OK,
            "{limit}"
        );
    }
}

#[tokio::test]
async fn a_cursor_that_was_not_handed_out_is_refused() {
    let gateway = Gateway::builder().start().await;
    let other = Gateway::builder().start().await;
    for gateway in [&gateway, &other] {
        for number in 0..3 {
            create(gateway, json!({ "name": format!("key-{number}") })).await;
        }
    }
    let cursor = async |gateway: &Gateway, list: &str| {
        let page = gateway.operator("GET", &format!("/api/v1/{list}?limit=1"), None).await.json();
        page["next_cursor"].as_str().unwrap_or_else(|| panic!("no cursor in {page}")).to_owned()
    };
    let own = cursor(&gateway, "keys").await;
    let mut bent = own.clone();
    bent.replace_range(..1, if own.starts_with('A') { "B" } else { "A" });
    let of_audit = cursor(&gateway, "audit").await;
    let of_another = cursor(&other, "keys").await;
    for forged in ["", "x", &bent, &own[1..], &of_audit, &of_another] {
        let reply = gateway.operator("GET", &format!("/api/v1/keys?cursor={forged}"), None).await;
        assert_eq!(
            (reply.status, reply.json()["code"].as_str()),
            (StatusCode::BAD_REQUEST, Some("invalid_cursor")),
            "{forged:?}"
        );
    }
    assert_eq!(gateway.operator("GET", &format!("/api/v1/keys?cursor={own}"), None).await.status, StatusCode::OK);
    assert_eq!(
        gateway.operator("GET", &format!("/api/v1/audit?cursor={own}"), None).await.status,
        StatusCode::BAD_REQUEST
    );
}

#[tokio::test]
async fn a_disabled_key_is_out_at_once_and_in_again_when_enabled() {
    let up = Fixture::start().await;
    let gateway = Gateway::builder().http_upstream("up", &up.url).start().await;
    let secret = create(&gateway, json!({ "name": "ci", "allow": everything() })).await;
    let session = Caller::new(gateway.public, Some(secret.clone())).initialize("2025-11-25").await;
    for _ in 0..2 {
        assert_eq!(set_disabled(&gateway, "ci", true).await, StatusCode::OK);
        assert_eq!(knock(&gateway, &secret).await, StatusCode::UNAUTHORIZED);
        assert_eq!(
            session.request("ping", json!({})).await.status,
            StatusCode::UNAUTHORIZED,
            "a session keeps nobody in"
        );
        assert_eq!(gateway.operator("GET", "/api/v1/keys/ci", None).await.json()["disabled"], true);
        assert_eq!(set_disabled(&gateway, "ci", false).await, StatusCode::OK);
        assert_eq!(knock(&gateway, &secret).await, StatusCode::OK);
    }
    assert_eq!(session.request("ping", json!({})).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_deleted_key_is_gone() {
    let gateway = Gateway::builder().start().await;
    let secret = create(&gateway, json!({ "name": "ci" })).await;
    assert_eq!(gateway.operator("DELETE", "/api/v1/keys/ci", None).await.status, StatusCode::NO_CONTENT);
    assert_eq!(knock(&gateway, &secret).await, StatusCode::UNAUTHORIZED);
    for (method, body) in [("GET", None), ("DELETE", None), ("PATCH", Some(json!({ "disabled": false })))] {
        assert_eq!(gateway.operator(method, "/api/v1/keys/ci", body).await.status, StatusCode::NOT_FOUND, "{method}");
    }
}

#[tokio::test]
async fn a_key_of_the_file_is_shown_and_left_alone() {
    let gateway = Gateway::builder().key("alice").start().await;
    let view = gateway.operator("GET", "/api/v1/keys/alice", None).await.json();
    assert_eq!((&view["managed_by"], &view["disabled"]), (&json!("file"), &json!(false)));
    assert_eq!((&view["created"], &view["revision"]), (&json!(null), &json!(null)));
    for (method, body) in [("PATCH", Some(json!({ "disabled": true }))), ("DELETE", None)] {
        let reply = gateway.operator(method, "/api/v1/keys/alice", body).await;
        assert_eq!(
            (reply.status, reply.json()["code"].as_str()),
            (StatusCode::CONFLICT, Some("managed_by_file")),
            "{method}"
        );
    }
    assert_eq!(knock(&gateway, &Gateway::secret("alice")).await, StatusCode::OK);
}

#[tokio::test]
async fn a_key_taken_out_of_the_file_is_out_with_the_reload() {
    let gateway = Gateway::builder().key("alice").key("bob").start().await;
    let (alice, bob) = (Gateway::secret("alice"), Gateway::secret("bob"));
    let file = std::fs::read_to_string(&gateway.file).unwrap();
    let (before, bobs) = file.split_at(file.find("[keys.bob]").unwrap());
    assert!(!bobs.contains("alice"));
    gateway.replace("portcullis.toml", before.as_bytes());
    assert_eq!(gateway.operator("POST", "/api/v1/policies/reload", None).await.status, StatusCode::OK);
    assert_eq!(
        (knock(&gateway, &alice).await, knock(&gateway, &bob).await),
        (StatusCode::OK, StatusCode::UNAUTHORIZED)
    );
    assert_eq!(gateway.operator("GET", "/api/v1/keys/bob", None).await.status, StatusCode::NOT_FOUND);
    gateway.replace("portcullis.toml", file.as_bytes());
    assert_eq!(gateway.operator("POST", "/api/v1/policies/reload", None).await.status, StatusCode::OK);
    assert_eq!(knock(&gateway, &bob).await, StatusCode::OK);
}

#[tokio::test]
async fn where_file_and_store_have_a_name_the_file_counts() {
    let gateway = Gateway::builder().key("alice").start().await;
    let stored = create(&gateway, json!({ "name": "ci", "allow": everything() })).await;
    std::fs::write(gateway.dir.path().join("ci.key"), Gateway::secret("ci")).unwrap();
    let file = std::fs::read_to_string(&gateway.file).unwrap();
    gateway.replace("portcullis.toml", format!("{file}[keys.ci]\nsecret = \"file:ci.key\"\n").as_bytes());
    assert_eq!(gateway.operator("POST", "/api/v1/policies/reload", None).await.status, StatusCode::OK);
    assert_eq!(
        (knock(&gateway, &stored).await, knock(&gateway, &Gateway::secret("ci")).await),
        (StatusCode::UNAUTHORIZED, StatusCode::OK)
    );
    assert_eq!(gateway.operator("GET", "/api/v1/keys/ci", None).await.json()["managed_by"], "file");
    gateway.replace("portcullis.toml", file.as_bytes());
    assert_eq!(gateway.operator("POST", "/api/v1/policies/reload", None).await.status, StatusCode::OK);
    assert_eq!(
        (knock(&gateway, &stored).await, knock(&gateway, &Gateway::secret("ci")).await),
        (StatusCode::OK, StatusCode::UNAUTHORIZED)
    );
}

async fn patch(gateway: &Gateway, change: Value) -> Reply {
    gateway.operator("PATCH", "/api/v1/keys/ci", Some(change)).await
}

#[tokio::test]
async fn a_change_is_a_merge_patch_that_counts_from_the_next_request_on() {
    let up = Fixture::start().await;
    let gateway = Gateway::builder().http_upstream("up", &up.url).start().await;
    let allow = json!([{ "upstream": "up", "tools": ["echo"] }]);
    let key = json!({ "name": "ci", "allow": allow, "scopes": ["read"], "groups": ["ops"], "owner": "ada" });
    let ci = Caller::new(gateway.public, Some(create(&gateway, key).await));
    assert_eq!(ci.tool_names().await, ["up__echo"]);
    let first = gateway.operator("GET", "/api/v1/keys/ci", None).await;
    assert_eq!((first.header("etag"), &first.json()["revision"]), ("\"1\"", &json!(1)));

    let nothing = patch(&gateway, json!({})).await;
    assert_eq!((nothing.status, nothing.json()), (StatusCode::OK, first.json()), "what is left out stays");
    let wider = json!({ "allow": [{ "upstream": "up", "tools": ["echo", "slow"] }], "groups": null, "owner": null });
    let changed = patch(&gateway, wider).await;
    assert_eq!(changed.status, StatusCode::OK, "{}", changed.text());
    let view = changed.json();
    assert_eq!((&view["groups"], &view["owner"], &view["scopes"]), (&json!([]), &Value::Null, &json!(["read"])));
    assert_eq!((changed.header("etag"), &view["revision"]), ("\"2\"", &json!(2)));
    assert_eq!(ci.tool_names().await, ["up__echo", "up__slow"]);
    assert_eq!(patch(&gateway, json!({ "allow": null })).await.json()["allow"], json!([]));
    assert_eq!(ci.tool_names().await, Vec::<String>::new());

    let ends = patch(&gateway, json!({ "expires": "2026-01-01T00:01:00Z" })).await;
    assert_eq!(ends.status, StatusCode::OK, "{}", ends.text());
    gateway.clock.advance(Duration::from_secs(60));
    assert_eq!(ci.modern("tools/list", json!({})).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(patch(&gateway, json!({ "expires": null })).await.json()["expires"], Value::Null);
    assert_eq!(ci.modern("tools/list", json!({})).await.status, StatusCode::OK);

    let trail = gateway.operator("GET", "/api/v1/audit", None).await.json();
    let told: Vec<Value> = trail["entries"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|entry| entry["event"] == "key.changed")
        .map(|entry| json!([entry["detail"]["field"], entry["detail"]["from"], entry["detail"]["to"]]))
        .collect();
    let expected = [
        json!(["expires", "2026-01-01T00:01:00.000Z", null]),
        json!(["expires", null, "2026-01-01T00:01:00.000Z"]),
        json!(["allow", "up/echo up/slow", ""]),
        json!(["owner", "ada", null]),
        json!(["groups", "ops", ""]),
        json!(["allow", "up/echo", "up/echo up/slow"]),
    ];
    assert_eq!(told, expected);
}

#[tokio::test]
async fn a_change_that_says_too_much_or_nonsense_is_refused_whole() {
    let gateway = Gateway::builder().start().await;
    create(&gateway, json!({ "name": "ci" })).await;
    for change in [
        json!({ "disabled": null }),
        json!({ "disabled": 1 }),
        json!({ "disabled": true, "name": "cd" }),
        json!({ "disabled": true, "secret": "pk_of-my-own" }),
        json!({ "disabled": true, "revision": 1 }),
        json!({ "disabled": true, "allow": "*" }),
        json!({ "disabled": true, "scopes": ["two words"] }),
        json!({ "disabled": true, "owner": "two words" }),
        json!({ "disabled": true, "expires": "2025-12-31T00:00:00Z" }),
        json!([]),
    ] {
        let reply = patch(&gateway, change.clone()).await;
        assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY, "{change}");
    }
    let view = gateway.operator("GET", "/api/v1/keys/ci", None).await.json();
    assert_eq!((&view["disabled"], &view["revision"]), (&json!(false), &json!(1)));
}

#[tokio::test]
async fn a_change_of_something_else_than_was_seen_is_refused_where_that_is_asked_for() {
    let gateway = Gateway::builder().start().await;
    create(&gateway, json!({ "name": "ci" })).await;
    let change = async |tag: &'static str, path: &str, body: &str| {
        let method = if path.ends_with("rotate") { "POST" } else { "PATCH" };
        with_token(&gateway).with("if-match", tag).send(method, path, body.to_owned()).await.status.as_u16()
    };
    let (key, rotate) = ("/api/v1/keys/ci", "/api/v1/keys/ci/rotate");
    assert_eq!(change("\"1\"", key, r#"{"scopes":["a"]}"#).await, 200);
    assert_eq!(change("\"1\"", key, r#"{"scopes":["b"]}"#).await, 412);
    assert_eq!(change("\"1\"", rotate, "{}").await, 412);
    assert_eq!(change("W/\"2\"", key, r#"{"scopes":["b"]}"#).await, 412);
    assert_eq!(change("2", key, r#"{"scopes":["b"]}"#).await, 400);
    assert_eq!(change("\"1\", \"2\"", rotate, "{}").await, 200);
    assert_eq!(change("*", key, r#"{"scopes":["c"]}"#).await, 200);
    let view = gateway.operator("GET", "/api/v1/keys/ci", None).await.json();
    assert_eq!((&view["scopes"], &view["revision"]), (&json!(["c"]), &json!(4)));
    let delete =
        async |tag: &'static str, path: &str| with_token(&gateway).with("if-match", tag).send("DELETE", path, "").await;
    let refused = delete("\"3\"", "/api/v1/keys/ci/earlier").await;
    assert_eq!((refused.status.as_u16(), &refused.json()["code"]), (412, &json!("precondition_failed")));
    assert_eq!(refused.json()["revision"], 4);
    assert_eq!(delete("\"3\"", key).await.status.as_u16(), 412);
    assert_eq!(delete("\"4\"", "/api/v1/keys/ci/earlier").await.status.as_u16(), 204);
    assert_eq!(delete("\"5\"", key).await.status.as_u16(), 204);
}

async fn rotate(gateway: &Gateway, body: Value) -> Value {
    let reply = gateway.operator("POST", "/api/v1/keys/ci/rotate", Some(body)).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
    reply.json()
}

fn secret_of(rotated: &Value) -> String {
    rotated["secret"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_rotated_key_opens_with_both_secrets_until_the_overlap_is_over() {
    const HOUR: Duration = Duration::from_secs(3_600);
    let gateway = Gateway::builder().start().await;
    let first = create(&gateway, json!({ "name": "ci" })).await;
    let rotated = rotate(&gateway, json!({ "overlap": 3_600 })).await;
    let second = secret_of(&rotated);
    assert_eq!(
        (&rotated["earlier_until"], &rotated["ended_earlier"], &rotated["revision"]),
        (&json!("2026-01-01T01:00:00.000Z"), &json!(false), &json!(2))
    );
    let opens = async || [knock(&gateway, &first).await, knock(&gateway, &second).await].map(|status| status.as_u16());
    assert_eq!(opens().await, [200, 200]);
    let listed = gateway.operator("GET", "/api/v1/keys", None).await;
    assert_eq!(listed.json()["keys"][0]["earlier_until"], "2026-01-01T01:00:00.000Z");
    assert!(!listed.text().contains(&second) && !listed.text().contains("digest"));
    gateway.clock.advance(HOUR - Duration::from_millis(1));
    assert_eq!(opens().await, [200, 200]);
    gateway.clock.advance(Duration::from_millis(1));
    assert_eq!(opens().await, [401, 200]);
    assert_eq!(gateway.operator("GET", "/api/v1/keys/ci", None).await.json()["earlier_until"], Value::Null);

    let rotated = rotate(&gateway, json!({})).await;
    assert_eq!(rotated["earlier_until"], "2026-01-02T01:00:00.000Z", "a day, unless something else is said");
    let third = secret_of(&rotated);
    let rotated = rotate(&gateway, json!({ "overlap": 60 })).await;
    assert_eq!(rotated["ended_earlier"], true, "there is one earlier secret at most");
    let fourth = secret_of(&rotated);
    let all = [&second, &third, &fourth];
    let opens = async || {
        let mut statuses = Vec::new();
        for secret in all {
            statuses.push(knock(&gateway, secret).await.as_u16());
        }
        statuses
    };
    assert_eq!(opens().await, [401, 200, 200]);
    set_disabled(&gateway, "ci", true).await;
    assert_eq!(opens().await, [401, 401, 401]);
    set_disabled(&gateway, "ci", false).await;
    assert_eq!(opens().await, [401, 200, 200]);

    let end = async || gateway.operator("DELETE", "/api/v1/keys/ci/earlier", None).await.status;
    assert_eq!((end().await, end().await), (StatusCode::NO_CONTENT, StatusCode::NOT_FOUND));
    assert_eq!(opens().await, [401, 401, 200]);
    let rotated = rotate(&gateway, json!({ "overlap": 0 })).await;
    assert_eq!((&rotated["earlier_until"], &rotated["ended_earlier"]), (&Value::Null, &json!(false)));
    assert_eq!(opens().await, [401, 401, 401]);
    assert_eq!(knock(&gateway, &secret_of(&rotated)).await, StatusCode::OK);
}

#[tokio::test]
async fn a_session_goes_on_with_the_secret_that_it_began_with_while_that_is_good() {
    let up = Fixture::start().await;
    let gateway = Gateway::builder().http_upstream("up", &up.url).start().await;
    let first = create(&gateway, json!({ "name": "ci", "allow": everything() })).await;
    let session = Caller::new(gateway.public, Some(first)).initialize("2025-11-25").await;
    let rotated = rotate(&gateway, json!({ "overlap": 3_600 })).await;
    assert_eq!(session.request("ping", json!({})).await.status, StatusCode::OK, "it goes on");
    gateway.operator("DELETE", "/api/v1/keys/ci/earlier", None).await;
    assert_eq!(session.request("ping", json!({})).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(knock(&gateway, &secret_of(&rotated)).await, StatusCode::OK);
}

#[tokio::test]
async fn what_cannot_be_rotated_is_left_as_it_is() {
    let gateway = Gateway::builder().key("alice").start().await;
    let secret = create(&gateway, json!({ "name": "ci" })).await;
    let month = 30 * 24 * 3_600;
    for (path, body, status, code) in [
        ("/api/v1/keys/ci/rotate", json!({ "overlap": month + 1 }), 422, "invalid"),
        ("/api/v1/keys/ci/rotate", json!({ "overlap": -1 }), 422, "invalid"),
        ("/api/v1/keys/ci/rotate", json!({ "overlap": "1h" }), 422, "invalid"),
        ("/api/v1/keys/ci/rotate", json!({ "secret": "pk_of-my-own" }), 422, "invalid"),
        ("/api/v1/keys/alice/rotate", json!({}), 409, "managed_by_file"),
        ("/api/v1/keys/none/rotate", json!({}), 404, "not_found"),
    ] {
        let reply = gateway.operator("POST", path, Some(body.clone())).await;
        assert_eq!((reply.status.as_u16(), &reply.json()["code"]), (status, &json!(code)), "{path} {body}");
    }
    for (path, status) in [("alice", StatusCode::CONFLICT), ("none", StatusCode::NOT_FOUND)] {
        let reply = gateway.operator("DELETE", &format!("/api/v1/keys/{path}/earlier"), None).await;
        assert_eq!(reply.status, status, "{path}");
    }
    assert_eq!(knock(&gateway, &secret).await, StatusCode::OK);
    assert_eq!(rotate(&gateway, json!({ "overlap": month })).await["earlier_until"], "2026-01-31T00:00:00.000Z");
}

#[tokio::test]
async fn keys_survive_a_restart() {
    let up = Fixture::start().await;
    let builder = || Gateway::builder().http_upstream("up", &up.url).on_disk();
    let gateway = builder().try_start(TempDir::new().unwrap(), Default::default()).await.unwrap();
    let kept = create(&gateway, json!({ "name": "kept", "allow": [{ "upstream": "up", "tools": ["echo"] }] })).await;
    let disabled = create(&gateway, json!({ "name": "disabled", "allow": everything() })).await;
    let deleted = create(&gateway, json!({ "name": "deleted", "allow": everything() })).await;
    set_disabled(&gateway, "disabled", true).await;
    gateway.operator("DELETE", "/api/v1/keys/deleted", None).await;
    let list = gateway.operator("GET", "/api/v1/keys", None).await.json();
    let clock = gateway.clock.clone();

    let gateway = builder().try_start(gateway.stop().await, clock).await.unwrap();
    gateway.wait_until_ready().await;
    assert_eq!(gateway.operator("GET", "/api/v1/keys", None).await.json(), list);
    assert_eq!(Caller::new(gateway.public, Some(kept)).tool_names().await, ["up__echo"]);
    assert_eq!(knock(&gateway, &disabled).await, StatusCode::UNAUTHORIZED);
    assert_eq!(knock(&gateway, &deleted).await, StatusCode::UNAUTHORIZED);
    assert_eq!(set_disabled(&gateway, "disabled", false).await, StatusCode::OK);
    assert_eq!(knock(&gateway, &disabled).await, StatusCode::OK);
}

#[tokio::test]
async fn no_secret_is_on_disk() {
    let gateway = Gateway::builder().on_disk().try_start(TempDir::new().unwrap(), Default::default()).await.unwrap();
    let secret = create(&gateway, json!({ "name": "ci", "allow": everything() })).await;
    let dir = gateway.stop().await;
    let mut files = 0;
    let mut dirs = vec![dir.path().to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            match entry.file_type().unwrap() {
                kind if kind.is_dir() => dirs.push(entry.path()),
                kind if kind.is_file() => {
                    let content = std::fs::read(entry.path()).unwrap();
                    let found = content.windows(secret.len()).any(|window| window == secret.as_bytes());
                    assert!(!found, "{} holds the secret of a key", entry.path().display());
                    files += 1;
                }
                _ => {}
            }
        }
    }
    assert!(files >= 4, "store, operator token, key of the vault and configuration");
}

#[tokio::test]
async fn the_audit_trail_tells_each_change_and_who_made_it() {
    let gateway = Gateway::builder().key("file").section(KEYS_ONLY).start().await;
    let token = with_token(&gateway);
    create(&gateway, json!({ "name": "a" })).await;
    assert_eq!(
        token.send("POST", "/api/v1/keys", json!({ "name": "b" }).to_string()).await.status,
        StatusCode::CREATED
    );
    set_disabled(&gateway, "a", true).await;
    // Once more changes nothing, so that there is nothing to tell.
    set_disabled(&gateway, "a", true).await;
    token.send("PATCH", "/api/v1/keys/a", r#"{"disabled":false}"#).await;
    gateway.clock.advance(Duration::from_secs(1));
    token.send("DELETE", "/api/v1/keys/b", "").await;
    // Refused changes are none.
    gateway.operator("POST", "/api/v1/keys", Some(json!({ "name": "a" }))).await;
    gateway.operator("DELETE", "/api/v1/keys/file", None).await;
    gateway.operator("DELETE", "/api/v1/keys/none", None).await;
    at_nobody(&gateway).await;

    let trail = gateway.operator("GET", "/api/v1/audit", None).await.json();
    let told: Vec<(&str, &str, &str)> = trail["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| {
            (
                entry["event"].as_str().unwrap(),
                entry["actor"].as_str().unwrap(),
                entry["detail"]["key"].as_str().unwrap_or(""),
            )
        })
        .collect();
    let expected = [
        ("grants.revoked", "operator:token", ""),
        ("key.deleted", "operator:token", "b"),
        ("key.enabled", "operator:token", "a"),
        ("grants.revoked", "operator:socket", ""),
        ("key.disabled", "operator:socket", "a"),
        ("key.created", "operator:token", "b"),
        ("key.created", "operator:socket", "a"),
        ("gateway.started", "system", ""),
        ("vault.initialized", "system", ""),
    ];
    assert_eq!(told, expected);
    let times: Vec<&str> =
        trail["entries"].as_array().unwrap().iter().map(|entry| entry["at"].as_str().unwrap()).collect();
    assert_eq!((times[1], times[2]), ("2026-01-01T00:00:01.000Z", "2026-01-01T00:00:00.000Z"));
}

/// Somebody without a token tries.
async fn at_nobody(gateway: &Gateway) {
    let reply = super::at(gateway.admin, None).send("DELETE", "/api/v1/keys/a", "").await;
    assert_eq!(reply.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn the_audit_trail_survives_a_restart_and_comes_in_pages() {
    let builder = || Gateway::builder().on_disk().section(KEYS_ONLY);
    let gateway = builder().try_start(TempDir::new().unwrap(), Default::default()).await.unwrap();
    for name in ["a", "b"] {
        create(&gateway, json!({ "name": name })).await;
    }
    let clock = gateway.clock.clone();
    let gateway = builder().try_start(gateway.stop().await, clock).await.unwrap();
    let (mut told, mut path) = (Vec::new(), "/api/v1/audit?limit=2".to_owned());
    loop {
        let page = gateway.operator("GET", &path, None).await.json();
        assert!(page["entries"].as_array().unwrap().len() <= 2);
        told.extend(
            page["entries"].as_array().unwrap().iter().map(|entry| entry["event"].as_str().unwrap().to_owned()),
        );
        match page["next_cursor"].as_str() {
            Some(cursor) => path = format!("/api/v1/audit?limit=2&cursor={cursor}"),
            None => break,
        }
    }
    let first = ["key.created", "key.created", "gateway.started", "vault.initialized"];
    assert_eq!(told, [&["gateway.started", "gateway.stopped"][..], &first].concat());
}
