//! OAuth clients by the API: what a change may name, what it leaves, and what the trail tells of it.

use portcullis_tests::{Caller, Gateway, Reply};
use serde_json::{Value, json};

use super::{at, operator_token, with_token};

async fn added(gateway: &Gateway, more: &[(&str, &str)]) -> Value {
    let mut client = json!({ "client_name": "App", "redirect_uris": ["https://app.example/callback"] });
    more.iter().for_each(|(name, value)| client[*name] = json!(value));
    let reply = gateway.operator("POST", "/api/v1/clients", Some(client)).await;
    assert_eq!(reply.status.as_u16(), 201, "{}", reply.text());
    reply.json()
}

async fn patch(caller: &Caller, client: &Value, change: &Value) -> Reply {
    let path = format!("/api/v1/clients/{}", client["client_id"].as_str().unwrap());
    caller.send("PATCH", &path, change.to_string()).await
}

/// What the trail tells of events of this name, the newest first.
async fn told(gateway: &Gateway, event: &str) -> Vec<Value> {
    let trail = gateway.operator("GET", "/api/v1/audit?limit=100", None).await.json();
    let entries = trail["entries"].as_array().unwrap().iter();
    entries.filter(|entry| entry["event"] == event).map(|entry| entry["detail"].clone()).collect()
}

#[tokio::test]
async fn a_change_of_a_client_names_what_clients_have() {
    let gateway = Gateway::builder().start().await;
    let (operator, client) = (with_token(&gateway), added(&gateway, &[]).await);
    for change in [json!({ "zz": null }), json!({ "zz": 1 }), json!({ "client_name": "Other", "secret": null })] {
        let refused = patch(&operator, &client, &change).await;
        assert_eq!((refused.status.as_u16(), &refused.json()["code"]), (422, &json!("invalid")), "{change}");
    }
    let same = patch(&operator, &client, &json!({})).await;
    assert_eq!((same.status.as_u16(), &same.json()["client_name"]), (200, &json!("App")));
    let named = patch(&operator, &client, &json!({ "client_name": "App" })).await;
    assert_eq!(named.header("etag"), same.header("etag"));
    assert_eq!(told(&gateway, "client.updated").await, Vec::<Value>::new(), "nothing was different");
}

#[tokio::test]
async fn what_a_token_that_comes_back_does_is_changed_and_taken_back() {
    let gateway = Gateway::builder().start().await;
    let (operator, client) = (with_token(&gateway), added(&gateway, &[("on_reuse", "reject")]).await);
    assert_eq!(client["on_reuse"], "reject");
    let wrong = patch(&operator, &client, &json!({ "on_reuse": "forgive" })).await;
    assert_eq!(wrong.status.as_u16(), 422, "{}", wrong.text());
    let before = patch(&operator, &client, &json!({})).await.header("etag").to_owned();
    let taken = patch(&operator, &client, &json!({ "on_reuse": null })).await;
    assert_eq!((taken.status.as_u16(), &taken.json()["on_reuse"]), (200, &json!("revoke-family")));
    let late = with_token(&gateway).with("if-match", &before);
    let late = patch(&late, &client, &json!({ "on_reuse": "reject" })).await;
    assert_eq!(late.status.as_u16(), 412, "it is another revision: {}", late.text());
    let again = patch(&operator, &client, &json!({ "on_reuse": "reject" })).await.json();
    assert_eq!((&again["on_reuse"], &again["client_name"]), (&json!("reject"), &json!("App")));
    let changes = json!([{ "field": "on_reuse", "from": "revoke-family", "to": "reject" }]);
    assert_eq!(told(&gateway, "client.updated").await[0]["changes"], changes);
}

#[tokio::test]
async fn a_change_may_say_that_it_is_a_merge_patch() {
    let gateway = Gateway::builder().start().await;
    let client = added(&gateway, &[]).await;
    let says = |media_type: &str| at(gateway.admin, Some(&operator_token(&gateway))).with("content-type", media_type);
    let patched = patch(&says("application/merge-patch+json"), &client, &json!({ "client_name": "Other" })).await;
    assert_eq!((patched.status.as_u16(), &patched.json()["client_name"]), (200, &json!("Other")), "{}", patched.text());
    let refused = patch(&says("application/json-patch+json"), &client, &json!([])).await;
    assert_eq!((refused.status.as_u16(), &refused.json()["code"]), (415, &json!("unsupported_media_type")));
    let made = says("application/merge-patch+json").send("POST", "/api/v1/keys", r#"{"name":"ci"}"#).await;
    assert_eq!(made.status.as_u16(), 415, "what is made is no patch: {}", made.text());
}

#[tokio::test]
async fn the_trail_has_what_was_made_and_what_is_gone_without_secrets() {
    let gateway = Gateway::builder().start().await;
    let client =
        added(&gateway, &[("token_endpoint_auth_method", "client_secret_basic"), ("software_id", "app-1")]).await;
    let path = format!("/api/v1/clients/{}", client["client_id"].as_str().unwrap());
    assert_eq!(gateway.operator("DELETE", &path, None).await.status.as_u16(), 204);
    let allow = json!([{ "upstream": "up", "tools": ["read_*"] }]);
    let key = json!({ "name": "ci", "allow": allow, "owner": "ada", "expires": "2030-01-01T00:00:00Z" });
    let key = gateway.operator("POST", "/api/v1/keys", Some(key)).await.json();
    assert_eq!(gateway.operator("DELETE", "/api/v1/keys/ci", None).await.status.as_u16(), 204);
    let user =
        json!({ "login": "ada", "email": "ada@a.example", "groups": ["ops"], "password": "correct horse battery" });
    let user = gateway.operator("POST", "/api/v1/users", Some(user)).await.json();
    assert!(user["has_password"].as_bool().unwrap(), "{user}");
    let viewer = json!({ "login": "bob", "role": "viewer", "password": "correct horse battery" });
    let viewer = gateway.operator("POST", "/api/v1/users", Some(viewer)).await.json();
    let token = json!({ "name": "ci", "user": viewer["id"], "scopes": ["read"] });
    let token = gateway.operator("POST", "/api/v1/api-tokens", Some(token)).await.json();

    let change = |field: &str, from: Value, to: Value| json!({ "field": field, "from": from, "to": to });
    let has = |detail: &Value, change: &Value| detail["changes"].as_array().unwrap().contains(change);
    for (event, at, expected) in [
        ("client.registered", 0, change("software_id", Value::Null, json!("app-1"))),
        ("client.deleted", 0, change("client_name", json!("App"), Value::Null)),
        ("key.created", 0, change("allow", Value::Null, json!("up/read_*"))),
        ("key.created", 0, change("expires", Value::Null, json!("2030-01-01T00:00:00.000Z"))),
        ("key.deleted", 0, change("owner", json!("ada"), Value::Null)),
        ("user.created", 1, change("email", Value::Null, json!("ada@a.example"))),
        ("user.created", 1, change("password", Value::Null, Value::Null)),
        ("api_token.created", 0, change("scopes", Value::Null, json!("read"))),
    ] {
        let found = told(&gateway, event).await;
        assert!(has(&found[at], &expected), "{event}: {found:?}");
    }
    let trail = gateway.operator("GET", "/api/v1/audit?limit=100", None).await;
    let trail = trail.text();
    for secret in [&client["client_secret"], &key["secret"], &token["secret"], &json!("correct horse battery")] {
        assert!(!trail.contains(secret.as_str().unwrap()), "{trail}");
    }
}
