//! Upstreams in a browser: looked at, tried, added, changed, agreed to and removed.

use std::time::Duration;

use http::StatusCode;
use portcullis_tests::Gateway;
use portcullis_tests::oauth::{Browser, Form, Page};
use portcullis_tests::upstreams::fixture::{self, Fixture};
use serde_json::{Value, json};

use super::browser_of;
use crate::operator::roles::PASSWORD;

const CANARY: &str = "canary-7f0e5d21c3aa";

async fn show(gateway: &Gateway, name: &str) -> Value {
    gateway.operator("GET", &format!("/api/v1/upstreams/{name}"), None).await.json()
}

async fn declared(gateway: &Gateway, name: &str, definition: Value) {
    let new = json!({ "name": name, "definition": definition });
    let reply = gateway.operator("POST", "/api/v1/upstreams?unchecked=true", Some(new)).await;
    assert_eq!(reply.status, StatusCode::CREATED, "{}", reply.text());
}

/// Sends the form of a page that is asked for now.
async fn press(browser: &mut Browser, page: &str, action: &str) -> Page {
    let form = browser.get(page).await.form(action);
    browser.submit(&form).await
}

#[tokio::test]
async fn an_upstream_is_tried_before_it_is_added_and_no_secret_is_shown_again() {
    let up = Fixture::start().await;
    up.set_tools(vec![fixture::tool("add")]);
    let gateway = Gateway::builder().start().await;
    let mut operator = browser_of(&gateway, "operator").await;
    assert!(operator.get("/upstreams").await.text().contains("there are none yet"));
    let page = operator.get("/upstreams/new").await;
    assert!(page.text().contains("For owners alone"), "{page}");
    let form = page.form("/upstreams/new").with("name", "notes").with("url", &up.url);
    let page = operator.submit(&form.with("headers", &format!("x-key: {CANARY}")).press("Try it")).await;
    assert_eq!(page.status(), 200, "{page}");
    assert!(page.text().contains("It works: it offers 1 tool and"), "{page}");
    assert!(!page.reply.text().contains(CANARY));
    assert_eq!(gateway.operator("GET", "/api/v1/upstreams/notes", None).await.status, StatusCode::NOT_FOUND);

    let form = page.form("/upstreams/new");
    assert_eq!((form.field("name"), form.field("url")), (Some("notes"), Some(&up.url[..])), "it stays filled in");
    assert_eq!(form.field("headers"), Some("x-key: (as you typed it)"));
    let elsewhere = form.with("url", &format!("{}/elsewhere", up.url));
    let page = operator.submit(&elsewhere.press("Add")).await;
    assert_eq!(page.status(), 422, "what was typed is for where it was to go: {page}");
    assert!(page.text().contains("headers.x-key has to be given again"), "{page}");
    let form = page.form("/upstreams/new").with("url", &up.url);
    assert_eq!(form.field("headers"), Some("x-key: (give it again)"));
    let form = form.with("headers", &format!("x-key: {CANARY}"));
    let page = operator.submit(&form.press("Try it")).await;
    assert!(page.status() == 200 && !page.reply.text().contains(CANARY), "{page}");
    let form = page.form("/upstreams/new").with("labels", "a");
    let page = operator.submit(&form.press("Add")).await;
    assert_eq!(page.status(), 200, "{page}");
    assert!(page.text().contains("It is added.") && !page.reply.text().contains(CANARY), "{page}");
    assert_eq!(show(&gateway, "notes").await["definition"]["headers"], json!({ "x-key": "sealed" }));

    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let form = operator.get("/upstreams/new").await.form("/upstreams/new").with("name", "away");
    let page = operator.submit(&form.with("url", &format!("http://{nobody}/mcp")).press("Add")).await;
    assert_eq!(page.status(), 422, "{page}");
    assert!(page.text().contains("It cannot be reached"), "{page}");
    assert_eq!(gateway.operator("GET", "/api/v1/upstreams/away", None).await.status, StatusCode::NOT_FOUND);
    let form = page.form("/upstreams/new").with("unchecked", "yes").press("Add");
    assert_eq!(operator.submit(&form).await.status(), 200, "without a trial");
    assert_eq!(show(&gateway, "away").await["managed_by"], "store");
}

#[tokio::test]
async fn what_was_typed_for_a_trial_outlives_a_sign_in_that_has_to_be_shown_again() {
    let up = Fixture::start().await;
    let gateway = Gateway::builder().start().await;
    let mut operator = browser_of(&gateway, "operator").await;
    gateway.clock.advance(Duration::from_secs(12 * 60));
    let form = operator.get("/upstreams/new").await.form("/upstreams/new").with("name", "notes").with("url", &up.url);
    let page = operator.submit(&form.with("headers", &format!("x-key: {CANARY}")).press("Try it")).await;
    assert!(page.text().contains("It works"), "{page}");
    gateway.clock.advance(Duration::from_secs(4 * 60));
    let page = operator.submit(&page.form("/upstreams/new").press("Add")).await;
    let page = operator.submit(&page.form("/sign-in/again").with("password", PASSWORD)).await;
    assert!(!page.reply.text().contains(CANARY), "{page}");
    let page = operator.submit(&page.form("/upstreams/new")).await;
    assert!(page.text().contains("It is added."), "{page}");
    assert_eq!(show(&gateway, "notes").await["definition"]["headers"], json!({ "x-key": "sealed" }));
}

#[tokio::test]
async fn what_is_for_owners_is_refused_to_operators_on_a_page_as_well() {
    let gateway = Gateway::builder().start().await;
    let mut operator = browser_of(&gateway, "operator").await;
    let form = operator.get("/upstreams/new?as=json").await.form("/upstreams/new").with("name", "notes");
    let definition = json!({ "url": "https://a.example/mcp", "headers": { "x-key": "env:HOME" } });
    let page = operator.submit(&form.with("definition", &definition.to_string()).press("Add")).await;
    assert_eq!(page.status(), 403, "{page}");
    let form = page.form("/upstreams/new");
    assert!(form.field("definition").unwrap().contains("env:HOME"), "a reference is no secret: {form:?}");
    let wrong = form.with("definition", &format!("{{\"url\": {CANARY}}}"));
    let page = operator.submit(&wrong.press("Try it")).await;
    assert_eq!(page.status(), 422, "{page}");
    assert!(page.text().contains("This is not JSON") && !page.reply.text().contains(CANARY), "{page}");
    let mut owner = browser_of(&gateway, "owner").await;
    let form = owner.get("/upstreams/new").await.form("/upstreams/new").with("name", "prog");
    let page = owner.submit(&form.with("command", "/no/such/program\n-y").with("unchecked", "yes").press("Add")).await;
    assert_eq!(page.status(), 200, "{page}");
    assert_eq!(show(&gateway, "prog").await["definition"]["command"], json!(["/no/such/program", "-y"]));
    assert!(operator.get("/upstreams/prog").await.text().contains("owners change it"));
    assert_eq!(operator.get("/upstreams/prog/edit").await.status(), 403);
}

#[tokio::test]
async fn a_change_is_of_what_was_seen_and_the_trail_has_it_before_and_after() {
    let up = Fixture::start().await;
    let gateway = Gateway::builder().start().await;
    declared(&gateway, "notes", json!({ "url": up.url, "headers": { "x-key": CANARY }, "trust": "low" })).await;
    let mut operator = browser_of(&gateway, "operator").await;
    let edit = "/upstreams/notes/edit";
    let late = operator.get(edit).await.form(edit).with("trust", "other").press("Save");
    let page = operator.get(edit).await;
    assert!(!page.reply.text().contains(CANARY), "{page}");
    let page = operator.submit(&page.form(edit).with("trust", "high").press("Save")).await;
    assert_eq!(page.status(), 200, "{page}");
    assert!(page.text().contains("It is changed."), "{page}");
    let view = show(&gateway, "notes").await;
    assert_eq!((&view["trust"], &view["definition_revision"]), (&json!("high"), &json!(2)));
    assert_eq!(view["definition"]["headers"], json!({ "x-key": "sealed" }), "what is sealed stays");
    let page = operator.submit(&late).await;
    assert_eq!(page.status(), 412, "{page}");
    assert!(page.find(edit).is_none(), "nobody can mend it without looking first: {page}");

    let form = operator.get(&format!("{edit}?as=json")).await.form(edit);
    let mut definition: Value = serde_json::from_str(form.field("definition").unwrap()).unwrap();
    definition["labels"] = json!(["a"]);
    let page = operator.submit(&form.with("definition", &definition.to_string()).press("Save")).await;
    assert_eq!(page.status(), 200, "{page}");
    assert_eq!(show(&gateway, "notes").await["labels"], json!(["a"]));
    let audit = gateway.operator("GET", "/api/v1/audit?limit=20", None).await;
    assert!(!audit.text().contains(CANARY));
    let audit = audit.json();
    let changed = |entry: &&Value| entry["event"] == "upstream.changed";
    let changes: Vec<&Value> =
        audit["entries"].as_array().unwrap().iter().filter(changed).map(|entry| &entry["detail"]["changes"]).collect();
    let (labels, trust) = (
        json!([{ "field": "labels", "from": null, "to": "[\"a\"]" }]),
        json!([{ "field": "trust", "from": "low", "to": "high" }]),
    );
    assert_eq!(changes, [&labels, &trust]);
}

#[tokio::test]
async fn an_upstream_is_tried_switched_connected_and_removed_and_viewers_only_look() {
    let up = Fixture::start().await;
    let gateway = Gateway::builder().http_upstream("filed", &up.url).start().await;
    let own = json!({ "url": up.url, "auth": { "kind": "per-user-headers", "headers": ["x-own"] } });
    declared(&gateway, "notes", own).await;
    declared(&gateway, "new", json!({ "url": up.url })).await;
    let mut viewer = browser_of(&gateway, "viewer").await;
    let page = viewer.get("/upstreams").await;
    assert!(page.links().contains(&"/upstreams/notes") && page.find("/upstreams/forget").is_none(), "{page}");
    assert!(viewer.get("/upstreams/%6Eew").await.text().contains("How it fares"), "it has a page of its own");
    let page = viewer.get("/upstreams/filed").await;
    assert!(page.text().contains("It stands in the configuration file"), "{page}");
    let page = viewer.get("/upstreams/notes").await;
    assert_eq!(page.status(), 200, "{page}");
    for verb in ["try", "connect"] {
        assert!(page.find(&format!("/upstreams/notes/{verb}")).is_none(), "{verb}: {page}");
    }
    assert!(!page.links().contains(&"/upstreams/notes/disable"), "{page}");

    let mut operator = browser_of(&gateway, "operator").await;
    let notes = "/upstreams/notes";
    let page = press(&mut operator, notes, "/upstreams/notes/try").await;
    assert!(page.status() == 200 && page.text().contains("Tried:"), "{page}");
    let page = press(&mut operator, notes, "/upstreams/notes/connect").await;
    assert_eq!(page.status(), 200, "{page}");
    assert!(page.text().contains("opens once") && page.text().contains("/connect/"), "{page}");
    let disable = "/upstreams/notes/disable";
    assert!(operator.get(notes).await.links().contains(&disable), "it is asked about first");
    assert!(press(&mut operator, disable, disable).await.text().contains("It is out of use."));
    assert_eq!(show(&gateway, "notes").await["enabled"], false);
    assert!(press(&mut operator, notes, "/upstreams/notes/enable").await.text().contains("It is in use."));
    assert_eq!(show(&gateway, "notes").await["enabled"], true);
    let page = press(&mut operator, "/upstreams/notes/remove", "/upstreams/notes/remove").await;
    assert!(page.status() == 200 && page.text().contains("It is removed."), "{page}");
    assert_eq!(gateway.operator("GET", "/api/v1/upstreams/notes", None).await.status, StatusCode::NOT_FOUND);
    assert_eq!(operator.get("/upstreams/filed/remove").await.status(), 409, "the file has it");
}

#[tokio::test]
async fn tools_are_shown_in_their_own_words_and_agreed_to_one_by_one() {
    let up = Fixture::start().await;
    up.set_tools(["add", "list"].map(fixture::tool).into());
    let gateway = Gateway::builder().http_upstream("up", &up.url).start().await;
    let stands = |state: &'static str| {
        move |view: &Value| {
            view["tools"].as_array().is_some_and(|tools| tools.iter().any(|tool| tool["state"] == state))
        }
    };
    gateway.until("/api/v1/upstreams/up/tools", stands("pinned")).await;
    let turned = json!({
        "name": "add", "description": "Adds\u{202e}sddA <script>alert(1)</script>",
        "inputSchema": { "type": "object", "title": "hid\u{200b}den" }, "annotations": { "readOnlyHint": true },
    });
    up.change_tools(vec![serde_json::value::to_raw_value(&turned).unwrap(), fixture::tool("list")]);
    let view = gateway.until("/api/v1/upstreams/up/tools", stands("changed")).await;
    let add = &view["tools"][0];
    assert_eq!((&add["tool"], &add["hints"]["read_only"]), (&json!("add"), &json!(true)));
    assert_eq!(add["pinned_definition"]["description"], "Says its arguments again.");
    assert_eq!(view["tools"][1]["pinned_definition"], Value::Null, "what has not changed is told once");

    let mut viewer = browser_of(&gateway, "viewer").await;
    let page = viewer.get("/upstreams/up/tools").await;
    assert_eq!(page.status(), 200, "{page}");
    assert!(page.find("/accept").is_none(), "{page}");
    let text = page.text();
    assert!(text.contains("Adds\\u{202e}sddA") && text.contains("hid\\u{200b}den"), "{text}");
    assert!(text.contains("Before:") && text.contains("only reads"), "{text}");
    assert!(!page.reply.text().contains(['\u{202e}', '\u{200b}']) && !page.reply.text().contains("<script>alert"));

    let mut operator = browser_of(&gateway, "operator").await;
    let page = operator.get("/upstreams/up/tools?changed=yes").await;
    assert_eq!(page.reply.text().matches("id=\"tool-").count(), 1, "{page}");
    let page = operator.submit(&page.form("/accept")).await;
    assert!(page.status() == 200 && page.text().contains("is agreed to"), "{page}");
    let pins = gateway.operator("GET", "/api/v1/pins?changed=true", None).await.json();
    assert_eq!(pins["pins"], json!([]));
    up.change_tools(["add", "list", "new"].map(fixture::tool).into());
    gateway.until("/api/v1/upstreams/up/tools", stands("first-seen")).await;
    let page = press(&mut operator, "/upstreams/up/tools/accept", "/upstreams/up/tools/accept").await;
    assert_eq!(page.status(), 200, "{page}");
    let pins = gateway.operator("GET", "/api/v1/pins?changed=true", None).await.json();
    assert_eq!(pins["pins"], json!([]));
    let form = operator.get("/upstreams").await.form("/upstreams/forget").with("upstream", "up");
    assert_eq!(operator.submit(&form).await.status(), 409, "it is there");
    assert_eq!(operator.submit(&form.with("upstream", "NO NAME")).await.status(), 404);
    let page = operator.get("/upstreams").await.form("/upstreams/forget").with("upstream", "away");
    let page = operator.submit(&page).await;
    assert!(page.status() == 200 && page.text().contains("Forget what was agreed to of away?"), "{page}");
    let page = operator.submit(&page.form("/upstreams/forget")).await;
    assert_eq!(page.status(), 404, "nothing was: {page}");
}

#[tokio::test]
async fn tools_come_in_pages_behind_cursors_of_their_own() {
    let up = Fixture::start().await;
    up.set_tools(["a", "b", "c"].map(fixture::tool).into());
    let gateway = Gateway::builder().http_upstream("up", &up.url).start().await;
    let path = "/api/v1/upstreams/up/tools";
    gateway.until(path, |view| view["tools"].as_array().is_some_and(|tools| tools.len() == 3)).await;
    let (mut names, mut query) = (Vec::new(), "limit=2".to_owned());
    loop {
        let page = gateway.operator("GET", &format!("{path}?{query}"), None).await.json();
        names.extend(page["tools"].as_array().unwrap().iter().map(|tool| tool["tool"].clone()));
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        let other = gateway.operator("GET", &format!("{path}?changed=true&cursor={cursor}"), None).await;
        assert_eq!((other.status.as_u16(), &other.json()["code"]), (400, &json!("invalid_cursor")), "another list");
        query = format!("limit=2&cursor={cursor}");
    }
    assert_eq!(names, ["a", "b", "c"]);
    let reply = gateway.operator("GET", "/api/v1/upstreams/none/tools", None).await;
    assert_eq!(reply.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn servers_of_a_client_are_looked_at_and_those_that_are_chosen_added() {
    let up = Fixture::start().await;
    let gateway = Gateway::builder().start().await;
    let mut operator = browser_of(&gateway, "operator").await;
    let servers = json!({ "mcpServers": {
        "My Notes": { "url": up.url, "headers": { "X-Key": CANARY } },
        "Local": { "command": "npx", "args": ["-y", "server"] },
        "Odd": { "type": "carrier-pigeon" },
    } });
    let form = operator.get("/upstreams/import").await.form("/upstreams/import");
    let page = operator.submit(&form.with("servers", &servers.to_string())).await;
    assert_eq!(page.status(), 200, "{page}");
    let text = page.text();
    assert!(text.contains("owners add it") && text.contains("carrier-pigeon"), "{text}");
    assert!(!page.reply.text().contains(CANARY));
    assert_eq!(gateway.operator("GET", "/api/v1/upstreams", None).await.json()["upstreams"], json!([]));
    let form = page.form("/upstreams/import/add");
    let chosen: Vec<&str> =
        form.fields.iter().map(|(name, _)| name.as_str()).filter(|name| name.starts_with("take.")).collect();
    assert_eq!(chosen.len(), 1, "{form:?}");
    let page = operator.submit(&form).await;
    assert!(page.status() == 200 && page.text().contains("added"), "{page}");
    let notes = show(&gateway, "my-notes").await;
    assert_eq!(
        (&notes["definition"]["headers"], &notes["managed_by"]),
        (&json!({ "X-Key": "sealed" }), &json!("store"))
    );
    assert_eq!(gateway.operator("GET", "/api/v1/upstreams/local", None).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn what_was_chosen_of_many_servers_stays_chosen() {
    let gateway = Gateway::builder().start().await;
    let mut operator = browser_of(&gateway, "operator").await;
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let servers = (1..=12).map(|number| (format!("s{number}"), json!({ "url": format!("http://{nobody}/mcp") })));
    let servers = json!({ "mcpServers": servers.collect::<serde_json::Map<_, _>>() });
    let form = operator.get("/upstreams/import").await.form("/upstreams/import");
    let page = operator.submit(&form.with("servers", &servers.to_string())).await;
    let form = page.form("/upstreams/import/add");
    let chosen = |form: &Form| -> Vec<String> {
        let names = form.fields.iter().map(|(name, _)| name.clone());
        names.filter(|name| name.starts_with("take.")).collect()
    };
    assert_eq!(chosen(&form).len(), 10, "as many as can be added at once");
    let form = chosen(&form).iter().skip(1).fold(form, |form, name| form.without(name));
    let page = operator.submit(&form).await;
    assert!(page.status() == 422 && page.text().contains("not added"), "{page}");
    let form = page.form("/upstreams/import/add");
    assert_eq!(chosen(&form), ["take.1"], "only what was chosen is chosen again");
    assert_eq!(form.field("unchecked"), None);
    let form = form.without("take.1").with("unchecked", "yes");
    let page = operator.submit(&form).await;
    assert!(page.status() == 422 && page.text().contains("Choose at least one"), "{page}");
    let form = page.form("/upstreams/import/add");
    assert_eq!((chosen(&form).len(), form.field("unchecked")), (0, Some("yes")));
}
