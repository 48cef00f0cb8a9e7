//! People's accounts in an operator's hands, through the API and the command line.

use http::StatusCode;
use portcullis_tests::Gateway;
use serde_json::{Value, json};

use super::with_token;
use crate::cli::run_in;

const PASSWORD: &str = "correct horse battery";

async fn create(gateway: &Gateway, user: Value) -> Value {
    let reply = gateway.operator("POST", "/api/v1/users", Some(user)).await;
    assert_eq!(reply.status, StatusCode::CREATED, "{}", reply.text());
    reply.json()
}

/// What is answered, and its code.
async fn refused(gateway: &Gateway, method: &str, path: &str, body: Option<Value>) -> (u16, String) {
    let reply = gateway.operator(method, path, body).await;
    assert_eq!(reply.header("content-type"), "application/problem+json", "{}", reply.text());
    (reply.status.as_u16(), reply.json()["code"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn an_account_that_is_not_the_one_that_was_seen_stays_where_that_is_asked_for() {
    let gateway = Gateway::builder().start().await;
    let user = create(&gateway, json!({ "login": "ada", "password": PASSWORD, "groups": ["ops"] })).await;
    let path = format!("/api/v1/users/{}", user["id"].as_str().unwrap());
    let ask = async |method: &'static str, tag: &'static str, body: &'static str| {
        with_token(&gateway).with("if-match", tag).send(method, &path, body).await
    };
    let changed = ask("PATCH", "\"1\"", r#"{"name":"Ada"}"#).await;
    assert_eq!((changed.status.as_u16(), changed.header("etag")), (200, "\"2\""));
    for tag in ["\"1\"", "W/\"2\"", "\"x\""] {
        let refused = ask("PATCH", tag, r#"{"name":"Eve"}"#).await;
        assert_eq!((refused.status.as_u16(), &refused.json()["code"]), (412, &json!("precondition_failed")), "{tag}");
        assert_eq!(refused.json()["revision"], 2, "{tag}");
        assert_eq!(ask("DELETE", tag, "").await.status, StatusCode::PRECONDITION_FAILED, "{tag}");
    }
    assert_eq!(ask("PATCH", "2", "{}").await.status, StatusCode::BAD_REQUEST);
    for name in ["x".repeat(201), "A\u{1b}[31mda".to_owned(), "A\u{202e}da".to_owned(), "Ada\nEve".to_owned()] {
        let answer = refused(&gateway, "PATCH", &path, Some(json!({ "name": name }))).await;
        assert_eq!(answer, (422, "invalid".to_owned()), "{name:?}");
    }
    let cleared = ask("PATCH", "\"1\", \"2\"", r#"{"name":null,"groups":null}"#).await.json();
    assert_eq!((&cleared["name"], &cleared["groups"]), (&json!(""), &json!([])));
    assert_eq!(gateway.operator("GET", &path, None).await.header("etag"), "\"3\"");
    assert_eq!(ask("DELETE", "*", "").await.status, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn an_account_is_made_changed_and_deleted_and_no_answer_has_its_password() {
    let gateway = Gateway::builder().start().await;
    let made =
        create(&gateway, json!({ "login": "Ada", "name": "Ada", "password": PASSWORD, "groups": ["ops"] })).await;
    let id = made["id"].as_str().unwrap().to_owned();
    let path = format!("/api/v1/users/{id}");
    assert_eq!(
        made,
        json!({
            "id": id, "revision": 1, "login": "ada", "name": "Ada", "email": null, "role": "user", "groups": ["ops"],
            "status": "active", "has_password": true, "created": "2026-01-01T00:00:00.000Z", "last_sign_in": null,
            "identities": [],
        })
    );
    let invited = create(&gateway, json!({ "email": "Eve@Example.com" })).await;
    assert_eq!((&invited["status"], &invited["email"]), (&json!("invited"), &json!("eve@example.com")));

    let change =
        json!({ "role": "viewer", "email": "ada@example.com", "password": "another passphrase", "revision": 1 });
    let changed = gateway.operator("PATCH", &path, Some(change.clone())).await;
    assert_eq!(changed.status, StatusCode::OK, "{}", changed.text());
    assert_eq!((&changed.json()["role"], &changed.json()["revision"]), (&json!("viewer"), &json!(2)));
    let again = refused(&gateway, "PATCH", &path, Some(change)).await;
    assert_eq!(again, (409, "changed_meanwhile".to_owned()));
    for lost in [json!({ "role": null }), json!({ "status": null })] {
        assert_eq!(refused(&gateway, "PATCH", &path, Some(lost)).await, (422, "invalid".to_owned()));
    }
    let taken = gateway.operator("PATCH", &path, Some(json!({ "email": null, "status": "suspended" }))).await.json();
    assert_eq!((&taken["email"], &taken["status"]), (&Value::Null, &json!("suspended")));

    let found = gateway.operator("GET", "/api/v1/users?login=ADA", None).await.json();
    assert_eq!(found["users"].as_array().unwrap().len(), 1);
    let by_status = gateway.operator("GET", "/api/v1/users?status=invited", None).await.json();
    assert_eq!(by_status["users"][0]["id"], invited["id"]);
    for list in ["/api/v1/users", &path, "/api/v1/audit", &format!("{path}/sessions")] {
        let text = gateway.operator("GET", list, None).await.text().to_owned();
        for secret in [PASSWORD, "another passphrase", "argon2"] {
            assert!(!text.contains(secret), "{list}: {text}");
        }
    }
    assert_eq!(gateway.operator("DELETE", &path, None).await.status, StatusCode::NO_CONTENT);
    assert_eq!(refused(&gateway, "DELETE", &path, None).await, (404, "not_found".to_owned()));
    assert_eq!(gateway.operator("GET", &path, None).await.json()["status"], "deleted");
}

#[tokio::test]
async fn what_is_not_an_account_is_refused() {
    let gateway = Gateway::builder().start().await;
    create(&gateway, json!({ "login": "ada", "password": PASSWORD })).await;
    for (user, status, code) in [
        (json!({}), 422, "invalid"),
        (json!({ "login": "a b" }), 422, "invalid"),
        (json!({ "login": "bob", "password": "short" }), 422, "invalid"),
        (json!({ "login": "bob.the.builder", "password": "Bob.The.Builder" }), 422, "invalid"),
        (json!({ "email": "bob@example.com", "password": PASSWORD }), 422, "invalid"),
        (json!({ "login": "bob", "role": "king" }), 422, "invalid"),
        (json!({ "login": "bob", "status": "suspended" }), 422, "invalid"),
        (json!({ "login": "bob", "password_hash": "x" }), 422, "invalid"),
        (json!({ "login": "ADA" }), 409, "login_taken"),
    ] {
        let answer = refused(&gateway, "POST", "/api/v1/users", Some(user.clone())).await;
        assert_eq!(answer, (status, code.to_owned()), "{user}");
    }
    for path in ["/api/v1/users/none", "/api/v1/users/000000000000000000000000"] {
        assert_eq!(refused(&gateway, "GET", path, None).await, (404, "not_found".to_owned()), "{path}");
    }
}

#[tokio::test]
async fn the_first_owner_is_made_at_the_command_line_and_is_not_the_last_to_go() {
    let gateway = Gateway::builder().start().await;
    let config = gateway.file.to_str().unwrap();
    let run = async |arguments: &[&str]| run_in(gateway.dir.path(), &[arguments, &["--config", config]].concat()).await;
    let printed = run(&["user", "add", "ada", "--role", "owner", "--name", "Ada"]).await.printed();
    let password = printed.lines().nth(1).unwrap().to_owned();
    assert!(printed.starts_with("ada is active\n") && password.len() == 23, "{printed}");
    let list = run(&["user", "list"]).await.printed();
    assert!(list.contains("owner") && list.contains("active") && !list.contains(&password), "{list}");
    assert!(run(&["user", "remove", "ada"]).await.complaint().contains("last owner"));
    assert!(run(&["user", "suspend", "ada"]).await.complaint().contains("last owner"));
    assert!(run(&["user", "show", "bob"]).await.complaint().contains("nobody has the login"));
    run(&["user", "add", "bob", "--role", "owner"]).await.printed();
    let another = run(&["user", "set-password", "ada"]).await.printed();
    assert!(!another.contains(&password) && another.contains("shown once"), "{another}");
    assert!(run(&["user", "sessions", "end", "ada"]).await.printed().contains("signed out of 0 browsers"));
    assert_eq!(run(&["user", "suspend", "ada"]).await.printed(), "ada is suspended\n");
    assert_eq!(run(&["user", "activate", "ada"]).await.printed(), "ada is active\n");
    let shown = run(&["user", "show", "ada"]).await.printed();
    assert!(shown.contains("owner") && shown.contains("set"), "{shown}");
    assert_eq!(run(&["user", "remove", "ada"]).await.printed(), "ada is deleted\n");
}
