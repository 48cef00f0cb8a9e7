//! Lists of the admin API: each that can grow comes in pages, of bounded size, in an order that does not change, behind
//! cursors that nobody can make.

use std::collections::BTreeSet;

use http::StatusCode;
use portcullis::http::api::ROUTES;
use portcullis_tests::Gateway;
use portcullis_tests::upstreams::fixture::{self, Fixture};
use serde_json::{Value, json};

/// Lists that the configuration bounds, documents that are no lists, and streams.
const WHOLE: [&str; 16] = [
    "/api/v1/openapi.json",
    "/api/v1/me",
    "/api/v1/status",
    "/api/v1/health",
    "/api/v1/traffic",
    "/api/v1/settings",
    "/api/v1/vault",
    "/api/v1/store/backup",
    "/api/v1/store/stats",
    "/api/v1/store/verify",
    "/api/v1/policies",
    "/api/v1/policies/generations",
    "/api/v1/pins/definition",
    "/api/v1/signing-keys",
    "/api/v1/decisions/tail",
    "/api/v1/audit/tail",
];

/// Lists that only people fill, by consenting and connecting: `oauth` and `connections` look through them.
const OF_PEOPLE: [&str; 3] = ["/api/v1/grants", "/api/v1/connections", "/api/v1/connections/flows"];

/// Something on every list: five of it at least.
async fn filled() -> (Fixture, Gateway) {
    let up = Fixture::start().await;
    up.set_tools(["delete", "archive", "add", "read", "write"].map(fixture::tool).into());
    let policy = "[policy]\nrecord = true\n[[policies]]\nname = \"confirm\"\nmodule = \"builtin:confirm-destructive\"\nlimits = { time = \"1s\" }\n";
    let gateway = Gateway::builder().http_upstream("up", &up.url).key("alice").key("bob").section(policy).start().await;
    let viewer = json!({ "login": "viewer", "role": "viewer", "password": "correct horse battery" });
    let viewer = gateway.operator("POST", "/api/v1/users", Some(viewer)).await.json();
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for number in 0..5 {
        let token = json!({ "name": format!("token-{number}"), "user": viewer["id"] });
        assert_eq!(gateway.operator("POST", "/api/v1/api-tokens", Some(token)).await.status, StatusCode::CREATED);
        let key = json!({ "name": format!("key-{number}") });
        assert_eq!(gateway.operator("POST", "/api/v1/keys", Some(key)).await.status, StatusCode::CREATED);
        let user = json!({ "login": format!("user-{number}") });
        assert_eq!(gateway.operator("POST", "/api/v1/users", Some(user)).await.status, StatusCode::CREATED);
        let client =
            json!({ "client_name": "app", "redirect_uris": [format!("https://app-{number}.example/callback")] });
        assert_eq!(gateway.operator("POST", "/api/v1/clients", Some(client)).await.status, StatusCode::CREATED);
        // One that is off stays as it is while the list is read.
        let upstream =
            json!({ "name": format!("spare-{number}"), "definition": { "url": format!("http://{nobody}/mcp") } });
        let made = gateway.operator("POST", "/api/v1/upstreams?unchecked=true", Some(upstream)).await;
        assert_eq!(made.status, StatusCode::CREATED, "{}", made.text());
        let path = format!("/api/v1/upstreams/spare-{number}");
        let off = super::with_token(&gateway).with("if-match", "*").send("PATCH", &path, r#"{"enabled":false}"#).await;
        assert_eq!(off.status, StatusCode::OK, "{}", off.text());
        gateway.caller("alice").call("up__delete", json!({ "id": number })).await;
        let module = crate::policy::reload::denies(&format!("no{number}"));
        assert_eq!(gateway.upload(&module).await.status, StatusCode::CREATED);
        let definition = json!({ "module": "builtin:template", "mode": "off" });
        let binding = json!({ "name": format!("policy-{number}"), "definition": definition });
        let reply = gateway.operator("POST", "/api/v1/policies/bindings", Some(binding)).await;
        assert_eq!(reply.status, StatusCode::CREATED, "{}", reply.text());
    }
    gateway.until("/api/v1/decisions", |view| view["decisions"].as_array().unwrap().len() == 10).await;
    gateway.until("/api/v1/recordings", |view| view["questions"].as_array().unwrap().len() >= 5).await;
    (up, gateway)
}

/// The rows of a page, whatever they are called.
fn rows(page: &Value) -> Vec<Value> {
    let mut lists = page.as_object().unwrap().values().filter_map(Value::as_array);
    let mut rows = lists.next().unwrap_or_else(|| panic!("{page}")).clone();
    assert!(lists.next().is_none(), "{page}");
    for row in rows.iter_mut().filter_map(Value::as_object_mut) {
        // Told by how long ago it was, and the clock of the gateway stands still here.
        row.remove("since");
    }
    rows
}

async fn page(gateway: &Gateway, path: &str, query: &str) -> Value {
    let reply = gateway.operator("GET", &format!("{path}?{query}"), None).await;
    assert_eq!(reply.status, StatusCode::OK, "{path}?{query}: {}", reply.text());
    reply.json()
}

/// All rows of a list, from pages of this size.
async fn all(gateway: &Gateway, path: &str, limit: usize) -> Vec<Value> {
    let mut all = Vec::new();
    let mut query = format!("limit={limit}");
    loop {
        let page = page(gateway, path, &query).await;
        let some = rows(&page);
        assert!(some.len() <= limit, "{path}: a page of {} is longer than {limit}", some.len());
        all.extend(some);
        match page["next_cursor"].as_str() {
            Some(cursor) => query = format!("limit={limit}&cursor={cursor}"),
            None => return all,
        }
    }
}

fn lists() -> Vec<&'static str> {
    let gets = ROUTES.iter().filter(|route| route.method == "GET" && !route.path.contains('{'));
    gets.map(|route| route.path).filter(|path| !WHOLE.contains(path) && !OF_PEOPLE.contains(path)).collect()
}

#[tokio::test]
async fn every_list_comes_in_pages_of_bounded_size_in_one_order() {
    let (_up, gateway) = filled().await;
    let lists = lists();
    assert!(lists.len() >= 6, "{lists:?}");
    for path in lists {
        // Reading recordings adds to the audit trail, so that this one is read to its end before.
        let whole = all(&gateway, path, 200).await;
        assert!(whole.len() >= 5, "{path} has {} rows", whole.len());
        for limit in [1, 2, 3] {
            assert_eq!(all(&gateway, path, limit).await, whole, "{path} in pages of {limit}");
        }
        let texts: BTreeSet<String> = whole.iter().map(Value::to_string).collect();
        assert_eq!(texts.len(), whole.len(), "{path}: no row comes twice");
        for (limit, expected) in [("0", 1), ("1000000", whole.len().min(200))] {
            assert_eq!(rows(&page(&gateway, path, &format!("limit={limit}")).await).len(), expected, "{path}: {limit}");
        }
        for limit in ["-1", "x", ""] {
            let reply = gateway.operator("GET", &format!("{path}?limit={limit}"), None).await;
            assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{path}?limit={limit}");
        }
    }
}

#[tokio::test]
async fn every_list_refuses_cursors_that_are_not_its_own() {
    let (_up, gateway) = filled().await;
    let (_other_up, other) = filled().await;
    let lists = lists();
    let mut cursors = Vec::new();
    for path in &lists {
        let first = page(&gateway, path, "limit=1").await;
        cursors.push(first["next_cursor"].as_str().unwrap_or_else(|| panic!("{path}: {first}")).to_owned());
    }
    for (at, path) in lists.iter().enumerate() {
        let own = &cursors[at];
        let mut bent = own.clone();
        bent.replace_range(..1, if own.starts_with('A') { "B" } else { "A" });
        let mut longer = own.clone();
        longer.push_str("AAAA");
        let of_another = page(&other, path, "limit=1").await["next_cursor"].as_str().unwrap().to_owned();
        let of_other_lists = cursors.iter().enumerate().filter(|(of, _)| *of != at).map(|(_, cursor)| cursor.clone());
        let forged = [String::new(), "x".to_owned(), bent, longer, own[1..].to_owned(), of_another];
        for cursor in forged.into_iter().chain(of_other_lists) {
            let reply = gateway.operator("GET", &format!("{path}?cursor={cursor}"), None).await;
            assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{path}?cursor={cursor}");
            assert_eq!(reply.json()["code"], "invalid_cursor", "{path}?cursor={cursor}");
        }
        page(&gateway, path, &format!("cursor={own}")).await;
    }
}

#[tokio::test]
async fn what_comes_and_goes_meanwhile_moves_no_other_row() {
    let (_up, gateway) = filled().await;
    let first = page(&gateway, "/api/v1/keys", "limit=4").await;
    let cursor = first["next_cursor"].as_str().unwrap();
    let key = json!({ "name": "newer" });
    assert_eq!(gateway.operator("POST", "/api/v1/keys", Some(key)).await.status, StatusCode::CREATED);
    let shown = rows(&first).last().unwrap()["name"].as_str().unwrap().to_owned();
    let gone = gateway.operator("DELETE", &format!("/api/v1/keys/{shown}"), None).await;
    assert_eq!(gone.status, StatusCode::NO_CONTENT, "the cursor stands on a row that is no more");
    let rest = rows(&page(&gateway, "/api/v1/keys", &format!("cursor={cursor}")).await);
    let names: Vec<&str> = rest.iter().map(|key| key["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["key-2", "key-1", "key-0"]);
}
