//! What the kernel shows of a gateway: no core dumps, and nothing for others of the same user.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use portcullis_tests::caller::send_unix;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Process, free_port};

async fn exposure(dir: &Path) -> Value {
    send_unix(&dir.join("data/admin.sock"), "GET", "/api/v1/vault", None).await.unwrap().json()["process"].take()
}

fn core_limit(process: &Process) -> String {
    let limits = fs::read_to_string(format!("/proc/{}/limits", process.id())).unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max core file size")).unwrap().to_owned();
    line.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
}

fn dir(more: &str) -> TempDir {
    let dir = TempDir::new().unwrap();
    let config = format!(
        "data_dir = \"data\"\n[listen]\npublic = \"127.0.0.1:{}\"\nadmin = \"off\"\n[store]\nurl = \"memory:\"\n{more}",
        free_port()
    );
    fs::write(dir.path().join("portcullis.toml"), config).unwrap();
    dir
}

#[tokio::test]
async fn a_gateway_leaves_no_core_dumps_and_cannot_be_looked_into() {
    let dir = dir("");
    let process = Process::start(dir.path(), |_| {}).await;
    assert_eq!(core_limit(&process), "0 0");
    assert_eq!(exposure(dir.path()).await, json!({ "dumpable": false, "core_limit": 0 }));
    // Files of a process that cannot be looked into belong to root (proc(5)).
    let owner = fs::metadata(format!("/proc/{}/environ", process.id())).unwrap().uid();
    assert_eq!(owner, 0);
}

#[tokio::test]
async fn for_debugging_a_gateway_can_be_looked_into() {
    let dir = dir("[vault]\nallow_core_dumps = true\n");
    let process = Process::start(dir.path(), |_| {}).await;
    assert_eq!(exposure(dir.path()).await["dumpable"], true);
    assert_ne!(exposure(dir.path()).await, json!({ "dumpable": false, "core_limit": 0 }));
    drop(process);
}
