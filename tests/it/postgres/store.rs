//! The operator's commands for a store in PostgreSQL, through the binary: restore, migrate, and those that only look.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use http::StatusCode;
use portcullis_tests::postgres::{PASSWORD, Server};
use portcullis_tests::{Gateway, TestClock, program};
use serde_json::json;
use tempfile::TempDir;

use crate::cli::{Ran, run_in};

/// A gateway with some keys in this schema, stopped, and a backup `store.dump` of it.
async fn stopped(server: &Server, schema: &str, keys: usize) -> TempDir {
    let gateway = Gateway::builder().in_database(server, schema).start().await;
    for number in 0..keys {
        let key = json!({ "name": format!("key-{number}") });
        let reply = gateway.operator("POST", "/api/v1/keys", Some(key)).await;
        assert_eq!(reply.status, StatusCode::CREATED, "{}", reply.text());
    }
    let dir = gateway.dir.path().to_owned();
    assert_eq!(run_in(&dir, &["backup", "store.dump"]).await.code, Some(0));
    gateway.stop().await
}

/// The name of a file in `dir` that has the URL of a schema, as the commands take it.
fn url_of(server: &Server, schema: &str, dir: &Path) -> String {
    let url = server.url(schema).replacen('@', &format!(":{PASSWORD}@"), 1);
    fs::write(dir.join(schema), url).unwrap();
    format!("file:{schema}")
}

fn rows(server: &Server, schema: &str) -> String {
    server.ask(&format!("SELECT count(*) FROM {schema}.kv"))
}

async fn keys_of(server: &Server, schema: &str) -> usize {
    let builder = Gateway::builder().in_database(server, schema);
    let gateway = builder.try_start(TempDir::new().unwrap(), TestClock::default()).await.unwrap();
    let keys = gateway.operator("GET", "/api/v1/keys?limit=200", None).await.json()["keys"].as_array().unwrap().len();
    gateway.stop().await;
    keys
}

async fn restore(dir: &Path, file: &str, url: &str) -> Ran {
    run_in(dir, &["restore", file, "--into", url]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_restored_into_a_database_or_nothing_is() {
    let server = Server::shared();
    let schema = server.new_schema();
    let home = stopped(server, &server.new_schema(), 5).await;
    let url = url_of(server, &schema, home.path());
    let good = fs::read(home.path().join("store.dump")).unwrap();
    fs::write(home.path().join("bad.dump"), &good[..good.len() - 1]).unwrap();
    let told = restore(home.path(), "bad.dump", &url).await.complaint();
    assert!(told.contains("nothing was restored") && told.contains("cut short"), "{told}");
    let schemas = server.ask(&format!("SELECT count(*) FROM pg_namespace WHERE nspname = '{schema}'"));
    assert_eq!(schemas, "0", "the file was read before anything was made");

    let printed = restore(home.path(), "store.dump", &url).await.printed();
    assert!(printed.contains("nobody is signed in (epoch ") && !printed.contains(PASSWORD), "{printed}");
    let verified = run_in(home.path(), &["store", "verify", "--url", &url]).await.printed();
    assert!(verified.contains("agrees"), "{verified}");
    let before = rows(server, &schema);
    let told = restore(home.path(), "store.dump", &url).await.complaint();
    assert!(told.contains("not empty"), "{told}");
    assert_eq!(rows(server, &schema), before);
    assert_eq!(keys_of(server, &schema).await, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_moves_into_a_database_unless_gateways_work_with_it() {
    let server = Server::shared();
    let [first, schema, other] = [server.new_schema(), server.new_schema(), server.new_schema()];
    let home = stopped(server, &first, 3).await;
    let [first_url, url, other_url] = [&first, &schema, &other].map(|schema| url_of(server, schema, home.path()));
    let migrate =
        async |from: &str, to: &str| run_in(home.path(), &["store", "migrate", "--from", from, "--to", to]).await;
    let out = migrate(&first_url, "redb:out.redb").await.printed();
    let there = migrate("redb:out.redb", &url).await.printed();
    let digest = |printed: &str| printed.split("digest ").nth(1).unwrap().trim().to_owned();
    assert_eq!(digest(&out), digest(&there));
    assert_eq!(keys_of(server, &schema).await, 3);

    let gateway = Gateway::builder().in_database(server, &schema).start().await;
    let told = migrate(&url, &other_url).await.complaint();
    assert!(told.contains("gateways work with the store"), "{told}");
    gateway.stop().await;
    let back = migrate(&url, "redb:back.redb").await.printed();
    let again = migrate("redb:back.redb", &other_url).await.printed();
    assert_eq!(digest(&back), digest(&again));
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_that_look_make_no_schema() {
    let server = Server::shared();
    let schema = server.new_schema();
    let home = TempDir::new().unwrap();
    let url = url_of(server, &schema, home.path());
    let look = [
        &["store", "stats", "--url", &url][..],
        &["store", "verify", "--url", &url],
        &["store", "migrate", "--from", &url, "--to", "redb:copy.redb"],
    ];
    for arguments in look {
        let told = run_in(home.path(), arguments).await.complaint();
        assert!(told.contains("there is no store"), "{told}");
    }
    let schemas = server.ask(&format!("SELECT count(*) FROM pg_namespace WHERE nspname = '{schema}'"));
    assert_eq!(schemas, "0");
    assert!(!home.path().join("copy.redb").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_is_killed_leaves_a_whole_store_or_none() {
    let server = Server::shared();
    let home = stopped(server, &server.new_schema(), 20).await;
    let (mut whole, mut none) = (0, 0);
    for round in 0..12_u64 {
        let schema = server.new_schema();
        let url = url_of(server, &schema, home.path());
        let mut command = std::process::Command::new(program("portcullis"));
        command.args(["restore", "store.dump", "--into", &url]).current_dir(home.path());
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        tokio::time::sleep(Duration::from_millis(20 * round)).await;
        child.kill().unwrap();
        child.wait().unwrap();
        let verified = run_in(home.path(), &["store", "verify", "--url", &url]).await;
        if verified.code == Some(0) {
            whole += 1;
            let epoch =
                format!("SELECT convert_from(substr(v, 2), 'UTF8') FROM {schema}.kv WHERE tbl = 0 AND k = 'epoch'");
            assert!(server.ask(&epoch).parse::<u64>().unwrap() > 1, "a store is one that goes on");
        } else {
            none += 1;
            let told = verified.complaint();
            assert!(told.contains("there is no store") || told.contains("broke off"), "{told}");
            // The next one begins anew, unless the server has ended the first one since.
            let next = restore(home.path(), "store.dump", &url).await;
            assert!(next.code == Some(0) || next.stderr.contains("not empty"), "{}", next.stderr);
        }
    }
    assert!(whole + none == 12 && none > 0, "{whole} were whole, {none} were none");
}
