//! Virtual keys in the console: made, changed, given another secret, ended, and what each may use.

use portcullis_tests::oauth::Page;
use portcullis_tests::upstreams::fixture::{self, Fixture};
use portcullis_tests::{Caller, Gateway};
use serde_json::{Value, json};

use super::browser_of;

async fn scene() -> (Fixture, Gateway) {
    let notes = Fixture::start().await;
    notes.set_tools(["read_one", "read_all", "delete"].map(fixture::tool).into());
    let gateway = Gateway::builder().http_upstream("notes", &notes.url).key("declared").start().await;
    gateway.until_upstreams_are_up().await;
    (notes, gateway)
}

async fn key(gateway: &Gateway, name: &str) -> Value {
    let reply = gateway.operator("GET", &format!("/api/v1/keys/{name}"), None).await;
    assert_eq!(reply.status, 200, "{name}: {}", reply.text());
    reply.json()
}

async fn make(gateway: &Gateway, key: Value) -> String {
    let reply = gateway.operator("POST", "/api/v1/keys", Some(key)).await;
    assert_eq!(reply.status, 201, "{}", reply.text());
    reply.json()["secret"].as_str().unwrap().to_owned()
}

/// The secret that a page tells.
fn secret(page: &Page) -> String {
    let told = page.elements.iter().find(|element| element.attribute("id") == Some("secret"));
    told.unwrap_or_else(|| panic!("no secret on {page}")).text.trim().to_owned()
}

async fn tools_of(gateway: &Gateway, secret: &str) -> Vec<String> {
    Caller::new(gateway.public, Some(secret.to_owned())).tool_names().await
}

/// What a caller with this secret gets.
async fn knock(gateway: &Gateway, secret: &str) -> u16 {
    let caller = Caller::new(gateway.public, Some(secret.to_owned()));
    caller.modern("tools/list", json!({})).await.status.as_u16()
}

#[tokio::test]
async fn a_key_is_made_with_a_form_and_its_secret_is_on_one_page() {
    let (_notes, gateway) = scene().await;
    let mut operator = browser_of(&gateway, "operator").await;
    let form = operator.get("/keys/new").await.form("/keys/new").with("name", "ci");

    let refused = operator.submit(&form.clone().with("allow", "notes read*").with("scopes", "a b")).await;
    assert_eq!(refused.status(), 422, "{refused}");
    let again = refused.form("/keys/new");
    assert_eq!((again.field("name"), again.field("scopes")), (Some("ci"), Some("a b")), "what was typed is there");
    assert!(refused.text().contains("line 1"), "{refused}");
    assert_eq!(gateway.operator("GET", "/api/v1/keys/ci", None).await.status, 404, "nothing was made");

    let filled = again
        .with("allow", "notes: read*, \"a, b\"\nother: x")
        .with("groups", "ops")
        .with("expires", "2027-01-31T10:20");
    let page = operator.submit(&filled).await;
    assert_eq!(page.status(), 200, "{page}");
    let told = secret(&page);
    assert!(told.starts_with("pk_") && page.text().contains(&format!("Authorization: Bearer {told}")), "{page}");
    assert!(page.text().contains(&gateway.url()), "{page}");
    let slips = page.text().contains("There is no upstream \"other\" so far.");
    assert!(slips && !page.text().contains("There is no upstream \"notes\""), "{page}");
    let made = key(&gateway, "ci").await;
    assert_eq!(
        made["allow"],
        json!([{ "upstream": "notes", "tools": ["read*", "a, b"] }, { "upstream": "other", "tools": ["x"] }])
    );
    assert_eq!(
        (&made["scopes"], &made["groups"], &made["expires"]),
        (&json!(["a", "b"]), &json!(["ops"]), &json!("2027-01-31T10:20:00.000Z"))
    );
    assert_eq!(tools_of(&gateway, &told).await, ["notes__read_all", "notes__read_one"]);
    for path in ["/keys", "/keys/ci", "/keys/ci/change", "/keys/ci/access", "/keys/access"] {
        let page = operator.get(path).await;
        assert_eq!(page.status(), 200, "{page}");
        assert!(!page.reply.text().contains(&told), "{path}");
    }
    let taken = operator.get("/keys/new").await.form("/keys/new").with("name", "ci").with("all-notes", "yes");
    let taken = operator.submit(&taken).await;
    assert_eq!(taken.status(), 409, "{taken}");
}

#[tokio::test]
async fn an_owner_who_is_nobody_is_told_of() {
    let gateway = Gateway::builder().start().await;
    let mut viewer = browser_of(&gateway, "viewer").await;
    for (name, owner, is_nobody) in [("one", "viewer", false), ("other", "viewr", true)] {
        let key = json!({ "name": name, "owner": owner });
        make(&gateway, key).await;
        let page = viewer.get(&format!("/keys/{name}")).await;
        assert_eq!(page.text().contains("Nobody has the login of its owner so far"), is_nobody, "{page}");
    }
}

#[tokio::test]
async fn a_key_is_changed_as_it_was_seen_and_no_other() {
    let (_notes, gateway) = scene().await;
    let secret = make(&gateway, json!({ "name": "ci", "groups": ["ops"], "expires": "2027-01-31T10:20:30Z" })).await;
    let mut operator = browser_of(&gateway, "operator").await;
    let form = operator.get("/keys/ci/change").await.form("/keys/ci/change");
    assert_eq!((form.field("groups"), form.field("revision")), (Some("ops"), Some("1")));
    let stale = operator.get("/keys/ci/change").await.form("/keys/ci/change").with("groups", "thieves");
    let page = operator.submit(&form.with("all-notes", "yes").with("owner", "ada")).await;
    assert!(page.text().contains("It is changed."), "{page}");
    let changed = key(&gateway, "ci").await;
    assert_eq!(changed["allow"], json!([{ "upstream": "notes", "tools": ["*"] }]));
    assert_eq!(
        (&changed["groups"], &changed["owner"], &changed["expires"]),
        (&json!(["ops"]), &json!("ada"), &json!("2027-01-31T10:20:30.000Z")),
        "what was not touched is as it was"
    );
    assert_eq!(tools_of(&gateway, &secret).await.len(), 3);
    let refused = operator.submit(&stale).await;
    assert_eq!(refused.status(), 412, "{refused}");
    assert!(refused.find("/keys/ci/change").is_none(), "nobody can mend it without looking first: {refused}");
    assert_eq!(key(&gateway, "ci").await, changed);

    let emptied = operator.get("/keys/ci/change").await.form("/keys/ci/change");
    operator.submit(&emptied.with("allow", "").with("owner", "").with("groups", "").with("expires", "")).await;
    let bare = key(&gateway, "ci").await;
    assert_eq!((&bare["allow"], &bare["groups"]), (&json!([]), &json!([])));
    assert_eq!((&bare["owner"], &bare["expires"]), (&Value::Null, &Value::Null));
}

#[tokio::test]
async fn a_key_gets_another_secret_is_disabled_and_is_gone() {
    let (_notes, gateway) = scene().await;
    let first = make(&gateway, json!({ "name": "ci" })).await;
    let mut operator = browser_of(&gateway, "operator").await;
    let form = operator.get("/keys/ci/rotate").await.form("/keys/ci/rotate");
    let refused = operator.submit(&form.with("overlap_hours", "721")).await;
    assert!(refused.status() == 422 && refused.text().contains("longer than 30 days"), "{refused}");
    assert_eq!(key(&gateway, "ci").await["revision"], 1, "nothing was done");
    let page = operator.submit(&refused.form("/keys/ci/rotate").with("overlap_hours", "2")).await;
    let second = secret(&page);
    assert!(page.text().contains("The secret before is good until"), "{page}");
    assert_eq!((knock(&gateway, &first).await, knock(&gateway, &second).await), (200, 200));
    let page = operator.get("/keys/ci/end-earlier").await;
    let page = operator.submit(&page.form("/keys/ci/end-earlier")).await;
    assert!(page.text().contains("The earlier secret opens nothing any more."), "{page}");
    assert_eq!((knock(&gateway, &first).await, knock(&gateway, &second).await), (401, 200));

    let page = operator.get("/keys/ci/disable").await;
    let page = operator.submit(&page.form("/keys/ci/disable")).await;
    assert!(page.text().contains("Disabled"), "{page}");
    assert_eq!((knock(&gateway, &second).await, &key(&gateway, "ci").await["disabled"]), (401, &json!(true)));
    operator.submit(&page.form("/keys/ci/enable")).await;
    assert_eq!(knock(&gateway, &second).await, 200);

    let page = operator.get("/keys/ci/remove").await;
    let page = operator.submit(&page.form("/keys/ci/remove")).await;
    assert!(page.url.contains("/keys?done=") && page.text().contains("It is removed."), "{page}");
    assert_eq!(gateway.operator("GET", "/api/v1/keys/ci", None).await.status, 404);
}

#[tokio::test]
async fn a_viewer_sees_keys_and_a_key_of_the_file_is_changed_there() {
    let (_notes, gateway) = scene().await;
    make(&gateway, json!({ "name": "new", "owner": "ada" })).await;
    let mut viewer = browser_of(&gateway, "viewer").await;
    let list = viewer.get("/keys").await;
    assert!(list.text().contains("declared") && list.text().contains("ada"), "{list}");
    assert!(!list.links().contains(&"/keys/new"), "{list}");
    // A name that a page has as well.
    let path = list.links().into_iter().find(|link| link.contains("%6Eew")).expect("its own page").to_owned();
    let page = viewer.get(&path).await;
    assert!(page.status() == 200 && page.text().contains("ada"), "{page}");
    let paths: Vec<String> = page.forms().into_iter().map(|form| form.action).collect();
    assert_eq!(paths, ["/sign-out"], "nothing to press");
    assert!(!page.links().iter().any(|link| link.contains("/change") || link.contains("/remove")), "{page}");

    let mut operator = browser_of(&gateway, "operator").await;
    let declared = operator.get("/keys/declared").await;
    assert!(declared.text().contains("The configuration file declares this key"), "{declared}");
    for verb in ["change", "rotate", "disable", "remove"] {
        assert_eq!(operator.get(&format!("/keys/declared/{verb}")).await.status(), 409, "{verb}");
    }
}

#[tokio::test]
async fn what_keys_may_use_is_what_they_get_and_why() {
    let (_notes, gateway) = scene().await;
    let allow = json!([{ "upstream": "other", "tools": ["*"] }, { "upstream": "n*", "tools": ["x", "read*"] }]);
    let secret = make(&gateway, json!({ "name": "ci", "allow": allow })).await;
    make(&gateway, json!({ "name": "access" })).await;

    let view = gateway.operator("GET", "/api/v1/keys/ci/access", None).await.json();
    let tools = view["tools"].as_array().unwrap_or_else(|| panic!("{view}"));
    let told: Vec<(&str, bool, &str, &Value)> = tools
        .iter()
        .map(|tool| {
            let text = |name: &str| tool[name].as_str().unwrap();
            (text("tool"), tool["reached"].as_bool().unwrap(), text("by"), &tool["line"])
        })
        .collect();
    let (none, second) = (Value::Null, json!(2));
    let expected = [
        ("delete", false, "no_pattern", &none),
        ("read_all", true, "line", &second),
        ("read_one", true, "line", &second),
    ];
    assert_eq!(told, expected);
    let reached = told.iter().filter(|tool| tool.1).map(|tool| format!("notes__{}", tool.0));
    assert_eq!(tools_of(&gateway, &secret).await, reached.collect::<Vec<_>>(), "it is what the caller sees");
    let first = gateway.operator("GET", "/api/v1/keys/ci/access?limit=2", None).await.json();
    let path = format!("/api/v1/keys/ci/access?limit=2&cursor={}", first["next_cursor"].as_str().unwrap());
    let rest = gateway.operator("GET", &path, None).await.json();
    assert_eq!((&rest["tools"][0], &rest["next_cursor"]), (&tools[2], &Value::Null));

    let matrix = gateway.operator("GET", "/api/v1/access/keys", None).await.json();
    let cells: Vec<(&Value, &Value, &Value)> = matrix["keys"]
        .as_array()
        .unwrap_or_else(|| panic!("{matrix}"))
        .iter()
        .map(|key| (&key["name"], &key["upstreams"][0]["reach"], &key["upstreams"][0]["reached"]))
        .collect();
    let cell = |name: &str| cells.iter().find(|cell| *cell.0 == name).map(|cell| (cell.1.clone(), cell.2.clone()));
    assert_eq!(cell("declared"), Some((json!("all"), json!(3))));
    assert_eq!(cell("ci"), Some((json!("some"), json!(2))));
    assert_eq!(cell("access"), Some((json!("none"), json!(0))));

    let mut viewer = browser_of(&gateway, "viewer").await;
    let page = viewer.get("/keys/access").await;
    for words in ["all (3)", "2 of 3 tools", "none", "Policies may hide more"] {
        assert!(page.text().contains(words), "{words}: {page}");
    }
    let page = viewer.get("/keys/ci/access").await;
    for words in ["Line 2 of the allow-list", "none has a pattern for the tool", "Policies may hide more"] {
        assert!(page.text().contains(words), "{words}: {page}");
    }
    let elsewhere = viewer.get("/keys/ci/access?upstream=other*").await;
    assert!(elsewhere.text().contains("There is no such upstream."), "{elsewhere}");
    assert_eq!(viewer.get("/keys/nobody/access").await.status(), 404);
}
