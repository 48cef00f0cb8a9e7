//! `portcullis vault`, and the vault over several lives of a gateway.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use portcullis_tests::clock::TestClock;
use portcullis_tests::gateway::Builder;
use portcullis_tests::{Gateway, program};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Exit code and all that was printed.
async fn vault(dir: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(program("portcullis"));
    command
        .arg("vault")
        .args(arguments)
        .env_remove("PORTCULLIS_CONFIG")
        .env_remove("PORTCULLIS_SOCKET")
        .current_dir(dir)
        .stdin(Stdio::null());
    let Output { status, stdout, stderr } =
        tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    (status.code(), String::from_utf8([stdout, stderr].concat()).unwrap())
}

async fn printed(dir: &Path, arguments: &[&str]) -> String {
    let (code, text) = vault(dir, arguments).await;
    assert_eq!(code, Some(0), "{text}");
    text
}

async fn complaint(dir: &Path, arguments: &[&str]) -> String {
    let (code, text) = vault(dir, arguments).await;
    assert_eq!(code, Some(1), "{text}");
    text
}

fn ring(keys: &[(&str, &str)]) -> Builder {
    let key = |(kid, state): &(&str, &str)| {
        format!("[[vault.keys]]\nkid = \"{kid}\"\nsource = \"file\"\npath = \"{kid}.key\"\nstate = \"{state}\"\n")
    };
    Gateway::builder().on_disk().section(&keys.iter().map(key).collect::<String>())
}

async fn audited(gateway: &Gateway, event: &str) -> Vec<Value> {
    let trail = gateway.operator("GET", "/api/v1/audit?limit=200", None).await.json();
    let entries = trail["entries"].as_array().unwrap().iter();
    entries.filter(|entry| entry["event"] == event).map(|entry| entry["detail"].clone()).collect()
}

fn key_of<'v>(view: &'v Value, kid: &str) -> &'v Value {
    view["keys"].as_array().unwrap().iter().find(|key| key["kid"] == kid).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_rotated_and_retired_while_the_gateway_runs() {
    let dir = TempDir::new().unwrap();
    printed(dir.path(), &["keygen", "one.key"]).await;
    assert!(complaint(dir.path(), &["keygen", "one.key"]).await.contains("one.key"));
    let gateway = ring(&[("one", "active")]).try_start(dir, TestClock::default()).await.unwrap();
    let path = gateway.dir.path().to_owned();
    let status = printed(&path, &["status"]).await;
    assert!(status.contains("one") && status.contains("active") && status.contains("file"), "{status}");
    let complained = complaint(&path, &["rotate-kek"]).await;
    assert!(complained.contains("no other active key"), "{complained}");

    printed(&path, &["keygen", "two.key"]).await;
    let text = fs::read_to_string(&gateway.file).unwrap();
    let with_two = |one: &str| {
        let two = "[[vault.keys]]\nkid = \"two\"\nsource = \"file\"\npath = \"two.key\"\n";
        text.replace("path = \"one.key\"\nstate = \"active\"", &format!("path = \"one.key\"\nstate = \"{one}\"")) + two
    };
    gateway.replace("portcullis.toml", with_two("decrypt-only").as_bytes());
    gateway.until("/api/v1/vault", |view| view["keys"].as_array().is_some_and(|keys| keys.len() == 2)).await;
    let view = gateway.operator("GET", "/api/v1/vault", None).await.json();
    assert_eq!((&key_of(&view, "one")["data_keys"], &key_of(&view, "two")["data_keys"]), (&json!(1), &json!(0)));

    // A key with data keys is not retired.
    gateway.replace("portcullis.toml", with_two("retired").as_bytes());
    let refused = gateway.operator("POST", "/api/v1/policies/reload", Some(json!({}))).await;
    assert!(!refused.status.is_success() && refused.text().contains("one"), "{}", refused.text());
    assert!(refused.text().contains("rewrap"), "{}", refused.text());

    let rotated = printed(&path, &["rotate-kek", "--to", "two"]).await;
    assert!(rotated.contains("1 data keys were wrapped anew by two, done"), "{rotated}");
    assert!(printed(&path, &["rewrap"]).await.contains("0 data keys"));
    let verified = printed(&path, &["verify"]).await;
    assert!(verified.contains("1 data keys and 2 sealed fields: all can be opened"), "{verified}");
    let reloaded = gateway.operator("POST", "/api/v1/policies/reload", Some(json!({}))).await;
    assert!(reloaded.status.is_success(), "{}", reloaded.text());
    let view = gateway.operator("GET", "/api/v1/vault", None).await.json();
    assert_eq!((&key_of(&view, "one")["state"], &key_of(&view, "two")["current"]), (&json!("retired"), &json!(true)));
    assert_eq!(audited(&gateway, "vault.kek_rotated").await, [json!({ "from": null, "to": "two" })]);
    assert_eq!(audited(&gateway, "vault.rewrapped").await, [json!({ "to": "two", "data_keys": 1 })]);

    // The retired key's file may go, and the next start does without.
    let dir = gateway.stop().await;
    fs::remove_file(dir.path().join("one.key")).unwrap();
    let gateway = ring(&[("one", "retired"), ("two", "active")]).try_start(dir, TestClock::default()).await.unwrap();
    printed(gateway.dir.path(), &["verify"]).await;

    // Without the key that is in use nothing starts, and the error names it.
    let dir = gateway.stop().await;
    printed(dir.path(), &["keygen", "three.key"]).await;
    let (error, dir) = ring(&[("three", "active")]).try_start_in(dir, TestClock::default()).await.err().unwrap();
    let error = format!("{:#}", anyhow::Error::from(error));
    assert!(error.contains("\"two\"") && error.contains("[[vault.keys]]"), "{error}");
    fs::rename(dir.path().join("three.key"), dir.path().join("two.key")).unwrap();
    let (error, _) = ring(&[("two", "active")]).try_start_in(dir, TestClock::default()).await.err().unwrap();
    assert!(format!("{:#}", anyhow::Error::from(error)).contains("\"two\" is not the one"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_cannot_be_shredded_and_the_deployments_own_is_kept() {
    let gateway = Gateway::builder().start().await;
    let path = gateway.dir.path().to_owned();
    for (principal, told) in
        [("key:ci", "no such data key"), ("deployment", "not shredded"), ("nobody", "`principal` is `key:NAME`")]
    {
        let complained = complaint(&path, &["shred", principal]).await;
        assert!(complained.contains(told), "{principal}: {complained}");
    }
    let cursor = gateway.operator("POST", "/api/v1/vault/verify", Some(json!({ "cursor": "nonsense" }))).await;
    assert_eq!((cursor.status.as_u16(), &cursor.json()["code"]), (400, &json!("invalid_cursor")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_secret_of_an_earlier_version_moves_into_the_vault() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("data/deployment-secret");
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    let secret = "5ec2e7".repeat(11);
    fs::write(&file, format!("{secret}\n")).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let gateway = Gateway::builder().on_disk().try_start(dir, TestClock::default()).await.unwrap();
    assert!(!file.exists());
    // A cursor that this gateway signs, another life of it reads.
    for name in ["a", "b"] {
        gateway.operator("POST", "/api/v1/keys", Some(json!({ "name": name, "allow": [] }))).await;
    }
    let page = gateway.operator("GET", "/api/v1/keys?limit=1", None).await.json();
    let dir = gateway.stop().await;
    let store = fs::read(dir.path().join("data/portcullis.redb")).unwrap();
    assert!(!store.windows(secret.len()).any(|window| window == secret.as_bytes()), "it is sealed");

    // Killed between the commit and the removal of the file: it is taken for what it is, and removed.
    fs::write(&file, format!("{secret}\n")).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let gateway = Gateway::builder().on_disk().try_start(dir, TestClock::default()).await.unwrap();
    assert!(!file.exists());
    let path = format!("/api/v1/keys?limit=1&cursor={}", page["next_cursor"].as_str().unwrap());
    let next = gateway.operator("GET", &path, None).await;
    assert!(next.status.is_success(), "{}", next.text());
}
