//! People's accounts and OAuth clients, changed and found from the command line.

use portcullis_tests::Gateway;
use portcullis_tests::oauth::Client;
use serde_json::{Value, json};

use super::{Ran, run_in};

async fn run(gateway: &Gateway, arguments: &[&str]) -> Ran {
    run_in(gateway.dir.path(), &[arguments, &["--config", gateway.file.to_str().unwrap()]].concat()).await
}

async fn document(gateway: &Gateway, arguments: &[&str]) -> Value {
    let printed = run(gateway, &[arguments, &["--output", "json"]].concat()).await.printed();
    serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{error}: {printed}"))
}

/// What the rows of a list have as this member, sorted.
fn each(list: &Value, rows: &str, member: &str) -> Vec<String> {
    let rows = list[rows].as_array().unwrap().iter();
    let mut found: Vec<String> = rows.map(|row| row[member].as_str().unwrap_or_default().to_owned()).collect();
    found.sort();
    found
}

#[tokio::test]
async fn an_account_is_changed_and_keeps_what_was_not_named() {
    let gateway = Gateway::builder().start().await;
    run(&gateway, &["user", "add", "ada", "--name", "Ada", "--group", "ops", "--email", "ada@example.com"])
        .await
        .printed();
    let changed = run(&gateway, &["user", "set", "ada", "--role", "operator", "--group", "dev", "--group", "oncall"]);
    assert_eq!(changed.await.printed(), "ada is changed\n");
    let ada = document(&gateway, &["user", "show", "ada"]).await;
    assert_eq!((&ada["role"], &ada["groups"]), (&json!("operator"), &json!(["dev", "oncall"])));
    assert_eq!((&ada["name"], &ada["email"]), (&json!("Ada"), &json!("ada@example.com")));
    let told =
        document(&gateway, &["user", "set", "ada", "--no-email", "--no-groups", "--new-login", "lovelace"]).await;
    assert_eq!((&told["login"], &told["email"], &told["groups"]), (&json!("lovelace"), &Value::Null, &json!([])));
    for (arguments, part) in [
        (&["ada", "--role", "user"][..], "nobody has the login"),
        (&["lovelace"], "nothing to change"),
        (&["lovelace", "--email", "nowhere"], "no e-mail address"),
    ] {
        let complaint = run(&gateway, &[&["user", "set"], arguments].concat()).await.complaint();
        assert!(complaint.contains(part), "{arguments:?}: {complaint}");
    }
}

#[tokio::test]
async fn accounts_are_found_by_role_status_and_text() {
    let gateway = Gateway::builder().start().await;
    for (login, role) in [("ada", "owner"), ("ben", "viewer"), ("bea", "viewer")] {
        run(&gateway, &["user", "add", login, "--role", role]).await.printed();
    }
    run(&gateway, &["user", "suspend", "ben"]).await.printed();
    for (filters, expected) in [
        (&["--role", "viewer"][..], &["bea", "ben"][..]),
        (&["--status", "suspended"], &["ben"]),
        (&["--role", "viewer", "--status", "active"], &["bea"]),
        (&["--search", "be"], &["bea", "ben"]),
        (&["--search", "nobody"], &[]),
    ] {
        let list = document(&gateway, &[&["user", "list"], filters].concat()).await;
        assert_eq!(each(&list, "users", "login"), expected, "{filters:?}");
    }
    let refused = run(&gateway, &["user", "list", "--status", "asleep"]).await.complaint();
    assert!(refused.contains("status"), "{refused}");
}

#[tokio::test]
async fn a_client_is_changed_and_has_another_secret_at_once() {
    let gateway = Gateway::builder().start().await;
    let add = ["client", "add", "CI", "--redirect-uri", "https://ci.example/a", "--auth-method", "client_secret_basic"];
    let made = document(&gateway, &add).await;
    let (id, secret) = (made["client_id"].as_str().unwrap(), made["client_secret"].as_str().unwrap());

    let rename = ["client", "set", id, "--name", "Builds", "--redirect-uri", "https://ci.example/b"];
    assert_eq!(run(&gateway, &rename).await.printed(), format!("{id} is changed\n"));
    let shown = document(&gateway, &["client", "show", id]).await;
    assert_eq!(
        (&shown["client_name"], &shown["redirect_uris"]),
        (&json!("Builds"), &json!(["https://ci.example/b"])),
        "{shown}"
    );
    let printed = run(&gateway, &["client", "set", id, "--new-secret"]).await.printed();
    let another = printed.lines().next().and_then(|line| line.strip_prefix("client_secret  ")).unwrap().to_owned();
    assert!(another != secret && printed.contains("shown once"), "{printed}");
    for (secret, status) in [(secret, 401), (another.as_str(), 200)] {
        let client = Client::known(gateway.public, "/mcp", id, Some(secret), "https://ci.example/b").await;
        assert_eq!(client.revoke("no-such-token").await.status, status);
    }

    let public = document(&gateway, &["client", "add", "App", "--redirect-uri", "https://app.example/a"]).await;
    let refused = run(&gateway, &["client", "set", public["client_id"].as_str().unwrap(), "--new-secret"]).await;
    assert!(refused.complaint().contains("secret"));
    assert!(run(&gateway, &["client", "set", id]).await.complaint().contains("nothing to change"));
    let added = document(&gateway, &["client", "list", "--origin", "operator"]).await;
    assert_eq!(each(&added, "clients", "client_name"), ["App", "Builds"]);
    let registered = document(&gateway, &["client", "list", "--origin", "registered"]).await;
    assert_eq!(registered["clients"], json!([]));
}
