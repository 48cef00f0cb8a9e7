//! How a gateway starts and ends: a start that fails says why and leaves nothing behind, a stop lets requests finish and
//! ends every process, and what is private is private from the first moment.

use std::error::Error;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::StatusCode;
use portcullis::StartError;
use portcullis_tests::gateway::{Builder, SOON};
use portcullis_tests::upstreams::fixture::Fixture;
use portcullis_tests::{Gateway, TestClock, program, repository};
use serde_json::json;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// The processes that carry this mark in their environment.
fn processes(mark: &str) -> Vec<String> {
    let mark = format!("MARK={mark}");
    let has_mark = |pid: &String| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
    };
    let names = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().into_string().ok());
    names.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())).filter(has_mark).collect()
}

/// A mark that no other process has.
fn new_mark() -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A child process that serves MCP and carries the mark.
fn child_upstream(mark: &str) -> String {
    format!(
        "[upstreams.child]\ncommand = [{:?}, \"stdio\"]\nenvironment = {{ MARK = \"{mark}\" }}",
        program("fixture-upstream")
    )
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < SOON, "it does not come to pass that {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// An error and all its causes.
fn explain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).mode() & 0o7777
}

fn private_file(path: &Path, content: &str, mode: u32) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// The addresses that the configuration in a directory names.
fn addresses(dir: &Path) -> Vec<SocketAddr> {
    let text = fs::read_to_string(dir.join("portcullis.toml")).unwrap();
    let value = |name: &str| {
        text.lines().find_map(|line| line.strip_prefix(&format!("{name} = \""))?.strip_suffix('"')?.parse().ok())
    };
    ["public", "admin"].into_iter().filter_map(value).collect()
}

/// One way in which a start fails: what is wrong, what the error has to say, and how it is put right.
struct Failing {
    what: &'static str,
    wrong: fn(&Path),
    told: &'static [&'static str],
    right: fn(&Path),
}

const FAILING: &[Failing] = &[
    Failing {
        what: "the data directory is a file",
        wrong: |dir| fs::write(dir.join("data"), "").unwrap(),
        told: &["data directory", "/data"],
        right: |dir| fs::remove_file(dir.join("data")).unwrap(),
    },
    Failing {
        what: "others can read the deployment secret",
        wrong: |dir| private_file(&dir.join("data/deployment-secret"), &"a".repeat(64), 0o644),
        told: &["/data/deployment-secret", "644", "chmod 600"],
        right: |dir| {
            fs::set_permissions(dir.join("data/deployment-secret"), fs::Permissions::from_mode(0o600)).unwrap();
        },
    },
    Failing {
        what: "the operator token is cut short",
        wrong: |dir| private_file(&dir.join("data/operator-token"), "abc", 0o600),
        told: &["/data/operator-token", "cut short"],
        right: |dir| fs::remove_file(dir.join("data/operator-token")).unwrap(),
    },
    Failing {
        what: "the operator token is a directory",
        wrong: |dir| {
            fs::create_dir_all(dir.join("data/operator-token")).unwrap();
            fs::set_permissions(dir.join("data/operator-token"), fs::Permissions::from_mode(0o700)).unwrap();
        },
        told: &["/data/operator-token"],
        right: |dir| fs::remove_dir(dir.join("data/operator-token")).unwrap(),
    },
    Failing {
        what: "the store is no store",
        wrong: |dir| private_file(&dir.join("data/portcullis.redb"), &"not a store ".repeat(1_000), 0o600),
        told: &["/data/portcullis.redb"],
        right: |dir| fs::remove_file(dir.join("data/portcullis.redb")).unwrap(),
    },
    Failing {
        what: "a policy is no module",
        wrong: |dir| fs::write(dir.join("guard.wasm"), "\0asm, or so it says").unwrap(),
        told: &["guard"],
        right: |dir| {
            _ = fs::copy(repository().join("policies/prebuilt/allow-tools.wasm"), dir.join("guard.wasm")).unwrap();
        },
    },
    Failing {
        what: "a policy is empty",
        wrong: |dir| fs::write(dir.join("guard.wasm"), "").unwrap(),
        told: &["guard"],
        right: |dir| {
            _ = fs::copy(repository().join("policies/prebuilt/allow-tools.wasm"), dir.join("guard.wasm")).unwrap();
        },
    },
    Failing {
        what: "the admin socket's place is taken by a directory",
        wrong: |dir| fs::create_dir_all(dir.join("data/admin.sock")).unwrap(),
        told: &["/data/admin.sock", "something else"],
        right: |dir| fs::remove_dir(dir.join("data/admin.sock")).unwrap(),
    },
    Failing {
        what: "the admin socket's place is taken by a file",
        wrong: |dir| private_file(&dir.join("data/admin.sock"), "precious", 0o600),
        told: &["/data/admin.sock", "something else"],
        right: |dir| {
            assert_eq!(fs::read_to_string(dir.join("data/admin.sock")).unwrap(), "precious");
            fs::remove_file(dir.join("data/admin.sock")).unwrap();
        },
    },
];

/// A gateway with everything that can be left behind, a store on disk and a child process, and with the policy of its
/// directory if there is one.
fn complete(mark: &str, dir: &TempDir) -> Builder {
    let builder = Gateway::builder().on_disk().key("alice").section(&child_upstream(mark));
    let policy = "[[policies]]\nname = \"guard\"\nmodule = \"guard.wasm\"";
    if dir.path().join("guard.wasm").exists() { builder.section(policy) } else { builder }
}

async fn fail_to_start(builder: Builder, dir: TempDir) -> (StartError, TempDir) {
    match builder.try_start_in(dir, TestClock::default()).await {
        Ok(_) => panic!("the gateway starts"),
        Err(failed) => failed,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_fails_says_why_and_leaves_nothing() {
    for Failing { what, wrong, told, right } in FAILING {
        let dir = TempDir::new().unwrap();
        wrong(dir.path());
        let mark = new_mark();
        let (error, dir) = fail_to_start(complete(&mark, &dir), dir).await;
        let explained = explain(&error);
        for part in *told {
            assert!(explained.contains(part), "{what}: {part:?} is not in {explained:?}");
        }
        assert_eq!(processes(&mark), [""; 0], "{what}: a child process is left");
        let addresses = addresses(dir.path());
        assert_eq!(addresses.len(), 2);
        for address in addresses {
            assert!(TcpStream::connect(address).await.is_err(), "{what}: {address} is still listened on");
        }
        let strays: Vec<_> = fs::read_dir(dir.path().join("data"))
            .map(|entries| entries.map(|entry| entry.unwrap().file_name()).collect())
            .unwrap_or_default();
        assert!(strays.iter().all(|name| !name.to_string_lossy().ends_with(".new")), "{what}: {strays:?}");

        right(dir.path());
        let mark = new_mark();
        let gateway = complete(&mark, &dir)
            .try_start_in(dir, TestClock::default())
            .await
            .unwrap_or_else(|(error, _)| panic!("{what}, once put right: {}", explain(&error)));
        gateway.wait_until_ready().await;
        assert_eq!(processes(&mark).len(), 1, "{what}");
        gateway.stop().await;
        assert_eq!(processes(&mark), [""; 0], "{what}: a child process outlives a stop");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_does_not_take_its_configuration_stops_the_start() {
    let mark = new_mark();
    let policy = "[[policies]]\nname = \"guard\"\nmodule = \"builtin:allow-tools\"\nconfig = { rules = 7 }";
    let (error, _dir) =
        fail_to_start(Gateway::builder().section(&child_upstream(&mark)).section(policy), TempDir::new().unwrap())
            .await;
    assert!(explain(&error).contains("guard"), "{}", explain(&error));
    assert_eq!(processes(&mark), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_has_one_gateway_at_a_time() {
    let first = Gateway::builder()
        .on_disk()
        .key("alice")
        .try_start(TempDir::new().unwrap(), TestClock::default())
        .await
        .unwrap();
    let dir = TempDir::new().unwrap();
    fs::create_dir(dir.path().join("data")).unwrap();
    for file in ["data/portcullis.redb", "data/vault.key"] {
        symlink(first.dir.path().join(file), dir.path().join(file)).unwrap();
    }
    let mark = new_mark();
    let second = || Gateway::builder().on_disk().section(&child_upstream(&mark));
    let (error, dir) = fail_to_start(second(), dir).await;
    assert!(explain(&error).contains("portcullis.redb"), "{}", explain(&error));
    assert_eq!(processes(&mark), [""; 0]);
    assert_eq!(
        first.operator("GET", "/api/v1/status", None).await.status,
        StatusCode::OK,
        "the first is not disturbed"
    );

    let _first = first.stop().await;
    let second = second().try_start(dir, TestClock::default()).await.expect("the store is free again");
    let trail = second.operator("GET", "/api/v1/audit", None).await.json();
    let started = trail["entries"].as_array().unwrap().iter().filter(|entry| entry["event"] == "gateway.started");
    assert_eq!(started.count(), 2, "{trail}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_socket_of_a_live_gateway_is_left_alone_and_a_stale_one_replaced() {
    let dir = TempDir::new().unwrap();
    fs::create_dir(dir.path().join("data")).unwrap();
    let socket = dir.path().join("data/admin.sock");
    let live = UnixListener::bind(&socket).unwrap();
    let mark = new_mark();
    let (error, dir) = fail_to_start(Gateway::builder().section(&child_upstream(&mark)), dir).await;
    let explained = explain(&error);
    assert!(explained.contains("admin.sock") && explained.contains("another gateway"), "{explained}");
    assert_eq!(processes(&mark), [""; 0]);
    assert!(std::os::unix::net::UnixStream::connect(&socket).is_ok(), "the live one can still be reached");

    drop(live);
    assert!(socket.exists());
    let gateway = Gateway::builder().try_start(dir, TestClock::default()).await.expect("nobody listens on it any more");
    assert_eq!(mode(&gateway.socket), 0o600);
    let dir = gateway.stop().await;
    assert!(!dir.path().join("data/admin.sock").exists(), "a stop takes the socket away");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_private_is_private() {
    let gateway = Gateway::builder()
        .on_disk()
        .section(&child_upstream(&new_mark()))
        .try_start(TempDir::new().unwrap(), TestClock::default())
        .await
        .unwrap();
    gateway.wait_until_ready().await;
    let data = gateway.dir.path().join("data");
    for (name, expected) in [
        ("", 0o700),
        ("admin.sock", 0o600),
        ("operator-token", 0o600),
        ("vault.key", 0o600),
        ("portcullis.redb", 0o600),
        ("stdio", 0o700),
        ("stdio/child", 0o700),
        ("stdio/child/home", 0o700),
        ("stdio/child/tmp", 0o700),
    ] {
        assert_eq!(format!("{:o}", mode(&data.join(name))), format!("{expected:o}"), "{name}");
    }
    assert!(!data.join("deployment-secret").exists(), "it is in the vault");
    let (token, key) =
        (fs::read_to_string(data.join("operator-token")).unwrap(), fs::read_to_string(data.join("vault.key")).unwrap());
    assert_ne!(token, key);
    for text in [&token, &key] {
        assert!(text.trim().len() == 64 && text.trim().bytes().all(|byte| byte.is_ascii_hexdigit()));
    }
    let dir = gateway.stop().await;
    let again = Gateway::builder().on_disk().try_start(dir, TestClock::default()).await.unwrap();
    assert_eq!(fs::read_to_string(again.dir.path().join("data/operator-token")).unwrap(), token, "a restart keeps it");
    assert_eq!(fs::read_to_string(again.dir.path().join("data/vault.key")).unwrap(), key, "a restart keeps it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_lets_requests_finish_and_takes_no_new_ones() {
    let up = Fixture::start().await;
    let gateway = Gateway::builder().http_upstream("up", &up.url).key("alice").start().await;
    let (alice, public, admin) = (gateway.caller("alice"), gateway.public, gateway.admin);
    let session = alice.initialize("2025-11-25").await;
    let slow = json!({ "name": "up__slow", "arguments": { "ms": 1_500 } });
    let stopping = async {
        up.until(|stats| stats.under_way == 2).await;
        let refusing = async {
            for address in [public, admin] {
                let start = Instant::now();
                while TcpStream::connect(address).await.is_ok() {
                    assert!(start.elapsed() < SOON, "{address} still takes connections");
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
            up.stats().under_way
        };
        tokio::join!(gateway.stop(), refusing).1
    };
    let (modern, legacy, under_way) =
        tokio::join!(alice.modern("tools/call", slow.clone()), session.request("tools/call", slow.clone()), stopping);
    assert_eq!(under_way, 2, "connections are refused while the calls are still under way");
    for reply in [modern, legacy] {
        assert_eq!(reply.json()["result"]["content"][0]["text"], "waited 1500 ms", "{}", reply.text());
    }
    assert_eq!(up.stats().cancelled, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_waits_no_longer_than_it_is_told_to() {
    let up = Fixture::start().await;
    let builder =
        Gateway::builder().http_upstream("up", &up.url).key("alice").section("[edge]\ndrain_timeout = \"100ms\"");
    let gateway = builder.start().await;
    let (alice, address) = (gateway.caller("alice"), gateway.public);
    let session = alice.initialize("2025-11-25").await;
    let slow = json!({ "name": "up__slow", "arguments": { "ms": 60_000 } });
    let mut calls = JoinSet::new();
    let params = slow.clone();
    calls.spawn(async move { alice.modern("tools/call", params).await });
    calls.spawn(async move { session.request("tools/call", slow).await });
    up.until(|stats| stats.under_way == 2).await;
    let start = Instant::now();
    gateway.stop().await;
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert!(TcpStream::connect(address).await.is_err());
    up.until(|stats| stats.cancelled == 2).await;
    // The connections were cut, so that the calls end in any way but with an answer.
    while let Some(called) = calls.join_next().await {
        assert!(called.is_err(), "a call that was cut off is answered");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_all_processes_of_an_upstream() {
    let mark = new_mark();
    let fixture = program("fixture-upstream");
    // One has a child of its own, one ignores everything that can be ignored, one does not speak MCP at all.
    let with_child = format!("sleep 300 & exec {} stdio", fixture.display());
    let deaf = format!("trap '' TERM INT HUP; {} stdio; while :; do sleep 1; done", fixture.display());
    let mut builder = Gateway::builder().key("alice");
    for (name, script) in [("with-child", with_child.as_str()), ("deaf", &deaf), ("silent", "exec sleep 300")] {
        builder = builder.section(&format!("[upstreams.{name}]\ncommand = [\"sh\", \"-c\", {script:?}]\nenvironment = {{ MARK = \"{mark}\" }}\nstart_timeout = \"60s\""));
    }
    let gateway = builder.try_start(TempDir::new().unwrap(), TestClock::default()).await.unwrap();
    let both_up = |view: &serde_json::Value| {
        view["upstreams"].as_array().unwrap().iter().filter(|upstream| upstream["state"] == "up").count() == 2
    };
    gateway.until("/api/v1/upstreams", both_up).await;
    // fixture and sleep; shell and fixture; sleep.
    until("all processes run", || processes(&mark).len() == 5).await;
    gateway.stop().await;
    assert_eq!(processes(&mark), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_before_the_gateway_is_ready_leaves_nothing_either() {
    let mark = new_mark();
    let silent = format!("[upstreams.silent]\ncommand = [\"sleep\", \"300\"]\nenvironment = {{ MARK = \"{mark}\" }}");
    let gateway =
        Gateway::builder().section(&silent).try_start(TempDir::new().unwrap(), TestClock::default()).await.unwrap();
    assert_eq!(gateway.stranger().send("GET", "/readyz", "").await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(gateway.stranger().send("GET", "/healthz", "").await.status, StatusCode::OK);
    gateway.stop().await;
    assert_eq!(processes(&mark), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_can_be_started_and_stopped_again_and_again() {
    let mark = new_mark();
    let mut dir = TempDir::new().unwrap();
    for _ in 0..5 {
        let gateway = Gateway::builder()
            .on_disk()
            .section(&child_upstream(&mark))
            .try_start(dir, TestClock::default())
            .await
            .unwrap();
        dir = gateway.stop().await;
        assert_eq!(processes(&mark), [""; 0]);
    }
}
