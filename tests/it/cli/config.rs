//! `portcullis config`: what is stored written as a file, and a file made what is stored.

use std::fs;

use portcullis_tests::Gateway;
use portcullis_tests::upstreams::fixture::Fixture;
use serde_json::{Value, json};

use super::{Ran, run, run_in};

const CANARY: &str = "canary-8f21d07c44ab";

async fn ask(gateway: &Gateway, arguments: &[&str]) -> Ran {
    let arguments = [&["config"], arguments, &["--config", gateway.file.to_str().unwrap()]].concat();
    run_in(gateway.dir.path(), &arguments).await
}

#[tokio::test]
async fn what_was_exported_changes_nothing_and_what_is_changed_is_applied() {
    let up = Fixture::start().await;
    let gateway = Gateway::builder().http_upstream("filed", &up.url).key("alice").start().await;
    gateway.until_upstreams_are_up().await;
    let definition = json!({ "url": up.url, "labels": ["a"], "headers": { "x-canary": CANARY } });
    let new = json!({ "name": "notes", "definition": definition });
    assert_eq!(gateway.operator("POST", "/api/v1/upstreams", Some(new)).await.status, 201);
    let key = json!({ "name": "ci", "allow": [{ "upstream": "notes", "tools": ["*"] }], "scopes": ["read"] });
    assert_eq!(gateway.operator("POST", "/api/v1/keys", Some(key)).await.status, 201);

    let exported = ask(&gateway, &["export"]).await.printed();
    assert!(!exported.contains(CANARY) && !exported.contains("filed") && !exported.contains("alice"), "{exported}");
    assert!(exported.contains("env:PORTCULLIS_NOTES_HEADERS_X_CANARY"), "{exported}");
    let file = gateway.dir.path().join("stored.toml");
    fs::write(&file, &exported).unwrap();
    let file = file.to_str().unwrap();
    let nothing = ask(&gateway, &["apply", file, "--dry-run", "--prune"]).await.printed();
    assert_eq!(nothing, "nothing to change\n");

    let changed = exported.replace("labels = [\"a\"]", "labels = [\"a\", \"b\"]").replace("[\"read\"]", "[\"write\"]");
    fs::write(file, &changed).unwrap();
    let dry = ask(&gateway, &["apply", file, "--dry-run"]).await;
    assert_eq!(dry.code, Some(2), "{}{}", dry.stdout, dry.stderr);
    for line in [
        "~ upstream notes",
        "    ~ labels [\"a\"] → [\"a\",\"b\"]",
        "~ key ci",
        "    ~ scopes [\"read\"] → [\"write\"]",
    ] {
        assert!(dry.stdout.lines().any(|told| told == line), "{line:?} is not in\n{}", dry.stdout);
    }
    assert_eq!(ask(&gateway, &["apply", file]).await.printed(), "~ upstream notes\n~ key ci\n");
    assert_eq!(ask(&gateway, &["apply", file, "--dry-run"]).await.printed(), "nothing to change\n");
    let shown = gateway.operator("GET", "/api/v1/upstreams/notes", None).await.json();
    assert_eq!(shown["definition"]["headers"]["x-canary"], "sealed", "it is kept: {shown}");
    assert_eq!(gateway.operator("GET", "/api/v1/keys/ci", None).await.json()["scopes"], json!(["write"]));

    fs::write(file, "[upstreams]\n[keys]\n").unwrap();
    let pruned = ask(&gateway, &["apply", file, "--prune"]).await.printed();
    assert_eq!(pruned, "- upstream notes\n- key ci\n");
    assert_eq!(gateway.operator("GET", "/api/v1/keys/ci", None).await.status, 404);
    assert_eq!(gateway.operator("GET", "/api/v1/keys/alice", None).await.status, 200, "the file's own stay");
}

#[tokio::test]
async fn nothing_is_changed_where_something_cannot_be() {
    let up = Fixture::start().await;
    let gateway = Gateway::builder().http_upstream("filed", &up.url).start().await;
    gateway.until_upstreams_are_up().await;
    let file = gateway.dir.path().join("wanted.toml");
    let apply = async |text: &str, more: &[&str]| {
        fs::write(&file, text).unwrap();
        ask(&gateway, &[&["apply", file.to_str().unwrap()], more].concat()).await
    };
    let of_file = apply("[upstreams.filed]\nurl = \"http://127.0.0.1:9/mcp\"\n[keys.ci]\n", &["--show-secrets"]).await;
    assert!(of_file.complaint().contains("own configuration file"));
    let untaken = apply("[keys.ci]\nscopes = [\"a\"]\n", &[]).await.complaint();
    assert!(untaken.contains("--show-secrets"), "{untaken}");
    assert_eq!(gateway.operator("GET", "/api/v1/keys/ci", None).await.status, 404);
    let made = apply("[keys.ci]\nscopes = [\"a\"]\ndisabled = true\n", &["--show-secrets"]).await.printed();
    assert!(made.starts_with("+ key ci\n    pk_"), "{made}");
    let key = gateway.operator("GET", "/api/v1/keys/ci", None).await.json();
    assert_eq!((&key["disabled"], &key["scopes"]), (&json!(true), &json!(["a"])));
    let broken = apply("[upstreams.new]\nurl = \"http://127.0.0.1:9/mcp\"\n", &[]).await;
    assert_eq!(broken.code, Some(1), "it is tried first: {}", broken.stdout);
    let half = "[keys.one]\nscopes = [\"a\"]\n[keys.two]\nallow = 7\n";
    let half = apply(half, &["--show-secrets", "--output", "json"]).await;
    assert_eq!(half.code, Some(1), "{}", half.stdout);
    let told: Value = serde_json::from_str(&half.stdout).unwrap();
    assert_eq!((&told["changed"][0]["change"], &told["changed"][1]), (&json!("+ key one"), &Value::Null));
    assert!(told["changed"][0]["secret"].as_str().unwrap().starts_with("pk_"), "it is not lost: {told}");
    assert!(apply("[keys.ci\n", &[]).await.complaint().contains("line 1"));
}

#[tokio::test]
async fn the_file_is_checked_and_described() {
    let gateway = Gateway::builder().start().await;
    let checked = run(&["config", "check", gateway.file.to_str().unwrap()]).await.printed();
    assert!(checked.contains("ok (0 upstreams"), "{checked}");
    assert_eq!(run(&["config", "schema"]).await.printed(), run(&["schema"]).await.printed());
    let reference = run(&["config", "reference"]).await.printed();
    assert!(reference.contains("\nedge.idle_timeout (default"), "{reference}");
}
