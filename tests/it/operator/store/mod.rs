//! The operator's commands for the store: backup, restore, stats, verify, compact, migrate; and a disk that is full.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use http::StatusCode;
use portcullis_tests::{Gateway, TestClock};
use serde_json::{Value, json};

use crate::cli::run_in;

mod full_disk;

async fn create_key(gateway: &Gateway, name: &str) {
    let reply = gateway.operator("POST", "/api/v1/keys", Some(json!({ "name": name }))).await;
    assert_eq!(reply.status, StatusCode::CREATED, "{}", reply.text());
}

async fn key_names(gateway: &Gateway) -> Vec<String> {
    let listed = gateway.operator("GET", "/api/v1/keys?limit=200", None).await.json();
    let name = |key: &Value| key["name"].as_str().unwrap().to_owned();
    let mut names: Vec<String> = listed["keys"].as_array().unwrap().iter().map(name).collect();
    names.sort();
    names
}

/// The latest events of the audit trail, newest first.
async fn events(gateway: &Gateway) -> Vec<Value> {
    gateway.operator("GET", "/api/v1/audit", None).await.json()["entries"].as_array().unwrap().clone()
}

fn digest_in(printed: &str) -> String {
    let digest = printed.split("digest ").nth(1).unwrap_or_else(|| panic!("{printed:?} tells no digest"));
    digest.split_whitespace().next().unwrap().to_owned()
}

const STORE: &str = "redb:data/portcullis.redb";

#[tokio::test]
async fn a_backup_of_a_running_gateway_is_what_a_restore_makes_of_the_store() {
    let gateway = Gateway::builder().on_disk().start().await;
    create_key(&gateway, "early").await;
    let dir = gateway.dir.path().to_owned();
    let taken = run_in(&dir, &["backup", "store.dump"]).await;
    assert_eq!(taken.code, Some(0), "{}", taken.stderr);
    assert!(taken.stdout.is_empty() && taken.stderr.contains("store.dump: "), "{}", taken.stderr);
    assert_eq!(fs::metadata(dir.join("store.dump")).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(events(&gateway).await[0]["event"], "backup.taken");
    create_key(&gateway, "late").await;

    let in_use = run_in(&dir, &["restore", "store.dump", "--into", STORE, "--replace"]).await.complaint();
    assert!(in_use.contains("in use by another process"), "{in_use}");
    let clock = gateway.clock.clone();
    let home = gateway.stop().await;
    let not_empty = run_in(&dir, &["restore", "store.dump", "--into", STORE]).await.complaint();
    assert!(not_empty.contains("holds something"), "{not_empty}");
    let nowhere = run_in(&dir, &["restore", "store.dump", "--into", "redb:none/portcullis.redb"]).await.complaint();
    assert!(nowhere.contains("none does not exist: make it") && !dir.join("none").exists(), "{nowhere}");
    let printed = run_in(&dir, &["restore", "store.dump", "--into", STORE, "--replace"]).await.printed();
    assert_eq!(digest_in(&printed), digest_in(&taken.stderr));
    let aside = printed.split("the store that was there is now ").nth(1).unwrap().lines().next().unwrap();
    assert!(Path::new(aside).is_file(), "{printed}");

    let gateway = Gateway::builder().on_disk().try_start(home, clock).await.unwrap();
    assert_eq!(key_names(&gateway).await, ["early"]);
    let restored: Vec<Value> =
        events(&gateway).await.into_iter().filter(|entry| entry["event"] == "backup.restored").collect();
    assert_eq!(restored.len(), 1);
    assert_eq!(restored[0]["detail"]["digest"], digest_in(&printed).as_str());
    assert!(restored[0]["detail"]["epoch"].as_u64().unwrap() > 1);
}

#[tokio::test]
async fn a_backup_never_takes_the_place_of_a_file_unasked_and_leaves_no_part() {
    let gateway = Gateway::builder().on_disk().start().await;
    let dir = gateway.dir.path().to_owned();
    fs::write(dir.join("store.dump"), "precious").unwrap();
    let refused = run_in(&dir, &["backup", "store.dump"]).await.complaint();
    assert!(refused.contains("store.dump is there already"), "{refused}");
    assert_eq!(fs::read_to_string(dir.join("store.dump")).unwrap(), "precious");
    assert_eq!(run_in(&dir, &["backup", "store.dump", "--force"]).await.code, Some(0));

    // To standard output, byte for byte a dump.
    let mut piped = crate::cli::command(&["backup", "-"]);
    piped.current_dir(&dir);
    let piped = tokio::task::spawn_blocking(move || piped.output()).await.unwrap().unwrap();
    assert!(piped.status.success());
    assert!(piped.stdout.starts_with(b"portcullis dump\n"));
    fs::write(dir.join("piped.dump"), &piped.stdout).unwrap();
    run_in(&dir, &["restore", "piped.dump", "--into", "redb:other.redb"]).await.printed();

    let nobody = run_in(&dir, &["backup", "nowhere/store.dump"]).await.complaint();
    assert!(nobody.contains("cannot write"), "{nobody}");
    gateway.stop().await;
    let home = Gateway::builder().on_disk().start().await.stop().await;
    let stopped = run_in(home.path(), &["backup", "store.dump"]).await.complaint();
    assert!(stopped.contains("cannot back up the gateway"), "{stopped}");
    let left: Vec<_> = fs::read_dir(home.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().contains("dump")), "{left:?}");
}

#[tokio::test]
async fn a_damaged_backup_is_refused_and_changes_nothing() {
    let gateway = Gateway::builder().on_disk().start().await;
    create_key(&gateway, "kept").await;
    let dir = gateway.dir.path().to_owned();
    run_in(&dir, &["backup", "store.dump"]).await;
    let home = gateway.stop().await;
    let good = fs::read(dir.join("store.dump")).unwrap();
    let middle = good.len() / 2;
    let flipped = [&good[..middle], &[good[middle] ^ 1], &good[middle + 1..]].concat();
    for (bad, complaint) in [
        (good[..middle].to_vec(), "cut short"),
        // A flip may make something out of a length that cannot be.
        (flipped, "the dump"),
        ([&good[..], b"more"].concat(), "damaged: something follows its end"),
        (b"something else".to_vec(), "not a dump"),
        (Vec::new(), "not a dump"),
    ] {
        fs::write(dir.join("bad.dump"), bad).unwrap();
        let told = run_in(&dir, &["restore", "bad.dump", "--into", STORE, "--replace"]).await.complaint();
        assert!(told.contains(complaint), "{told}");
    }
    let stores = fs::read_dir(dir.join("data")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(stores.filter(|name| name.contains("redb")).collect::<Vec<_>>(), ["portcullis.redb"]);
    let gateway = Gateway::builder().on_disk().try_start(home, TestClock::default()).await.unwrap();
    assert_eq!(key_names(&gateway).await, ["kept"]);
}

#[tokio::test]
async fn stats_and_verify_ask_the_gateway_or_the_file() {
    let gateway = Gateway::builder().on_disk().start().await;
    for number in 0..5 {
        create_key(&gateway, &format!("key-{number}")).await;
    }
    let dir = gateway.dir.path().to_owned();
    let row = |printed: &str, name: &str| {
        let line = printed.lines().find(|line| line.split_whitespace().next() == Some(name));
        line.unwrap_or_else(|| panic!("{name} is not in\n{printed}")).to_owned()
    };
    let online = run_in(&dir, &["store", "stats"]).await.printed();
    assert_eq!(row(&online, "keys").split_whitespace().nth(1), Some("5"), "{online}");
    assert_eq!(row(&online, "keys_by_digest").split_whitespace().nth(1), Some("5"));
    for part in ["file bytes", "free pages", "commits", "commit p99", "largest group", "queued"] {
        assert!(online.contains(part), "{part} is not in\n{online}");
    }
    assert!(run_in(&dir, &["store", "verify"]).await.printed().contains("agrees"));
    let in_use = run_in(&dir, &["store", "compact"]).await.complaint();
    assert!(in_use.contains("in use by another process"), "{in_use}");

    gateway.operator("GET", "/api/v1/store/stats", None).await;
    let home = gateway.stop().await;
    let offline = run_in(home.path(), &["store", "stats"]).await.printed();
    assert_eq!(row(&offline, "keys"), row(&online, "keys"));
    assert!(!offline.contains("commit p99"), "nothing was written since it was opened: {offline}");
    assert!(run_in(home.path(), &["store", "verify", "--url", STORE]).await.printed().contains("agrees"));
    let compacted = run_in(home.path(), &["store", "compact"]).await.printed();
    assert!(compacted.contains("bytes and has"), "{compacted}");
    for command in ["stats", "verify", "compact"] {
        let missing = run_in(home.path(), &["store", command, "--url", "redb:none.redb"]).await.complaint();
        assert!(missing.contains("there is no store at"), "{missing}");
    }
    assert!(!home.path().join("none.redb").exists());
}

#[tokio::test]
async fn a_store_moves_there_and_back_with_equal_digests() {
    let gateway = Gateway::builder().on_disk().start().await;
    for number in 0..20 {
        create_key(&gateway, &format!("key-{number}")).await;
    }
    let dir = gateway.dir.path().to_owned();
    let in_use = run_in(&dir, &["store", "migrate", "--from", STORE, "--to", "redb:there.redb"]).await.complaint();
    assert!(in_use.contains("in use by another process"), "{in_use}");
    let home = gateway.stop().await;
    let migrate =
        async |from: &str, to: &str| run_in(home.path(), &["store", "migrate", "--from", from, "--to", to]).await;
    let there = migrate(STORE, "redb:there.redb").await.printed();
    let back = migrate("redb:there.redb", "redb:back.redb").await.printed();
    assert_eq!(digest_in(&there), digest_in(&back));
    let refused = migrate(STORE, "redb:back.redb").await.complaint();
    assert!(refused.contains("not empty"), "{refused}");
    let missing = migrate("redb:none.redb", "redb:new.redb").await.complaint();
    assert!(missing.contains("there is no store at") && !home.path().join("new.redb").exists(), "{missing}");

    fs::rename(home.path().join("back.redb"), home.path().join("data/portcullis.redb")).unwrap();
    let gateway = Gateway::builder().on_disk().try_start(home, TestClock::default()).await.unwrap();
    assert_eq!(key_names(&gateway).await.len(), 20);
}
