//! A gateway whose data directory is a filesystem of 8 MiB that runs full: writes are refused as what passes, nothing is
//! written in part, and nobody has to restart anything.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use http::StatusCode;
use portcullis_tests::caller::send_unix;
use portcullis_tests::gateway::SOON;
use portcullis_tests::{Reply, program};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Ways to a mount that nobody else sees: with namespaces of our own where the machine allows that to everybody, else
/// as root.
const WAYS: [&[&str]; 3] = [&["unshare", "-rm"], &["unshare", "-m"], &["sudo", "-n", "unshare", "-m"]];

/// Mounts, runs the gateway inside, and fills or frees the disk when told to. It ends with its standard input.
const INSIDE: &str = r#"
mount -t tmpfs -o size=8m,mode=0700 portcullis-test "$1" || exit 3
if [ -z "$2" ]; then exit 0; fi
"$2" serve --config "$3" </dev/null >/dev/null 2>&1 &
gateway=$!
while read -r order; do
  case $order in
    fill) dd if=/dev/zero of="$1/filler" bs=64k 2>/dev/null; dd if=/dev/zero of="$1/rest" bs=4k 2>/dev/null ;;
    free) rm -f "$1/filler" "$1/rest" ;;
  esac
  echo "$order"
done
kill "$gateway" && wait "$gateway"
"#;

/// The first way to a mount that works here.
fn way(dir: &Path) -> &'static [&'static str] {
    let works = |way: &&&[&str]| {
        let mut command = Command::new(way[0]);
        command.args(&way[1..]).args(["sh", "-c", INSIDE, "sh"]).arg(dir).arg("");
        let ran = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
        ran.is_ok_and(|status| status.success())
    };
    WAYS.iter().find(works).expect(
        "this test needs a filesystem of 8 MiB and cannot mount one: allow user namespaces (unshare -rm), or run it as root",
    )
}

struct OnSmallDisk {
    dir: TempDir,
    child: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl OnSmallDisk {
    async fn start() -> Self {
        let dir = TempDir::new().unwrap();
        let data = dir.path().join("data");
        fs::create_dir(&data).unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = format!(
            "data_dir = \"data\"\n[listen]\npublic = \"127.0.0.1:{port}\"\nadmin_socket = \"admin.sock\"\n[store]\nurl = \"redb:data/portcullis.redb\"\n"
        );
        fs::write(dir.path().join("portcullis.toml"), config).unwrap();
        let way = way(&data);
        let mut command = Command::new(way[0]);
        command.args(&way[1..]).args(["sh", "-c", INSIDE, "sh"]).arg(&data).arg(program("portcullis"));
        command.arg(dir.path().join("portcullis.toml")).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let orders = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().unwrap());
        let gateway = Self { dir, child, orders, answers };
        let until = Instant::now() + SOON;
        while !gateway.ask("GET", "/api/v1/status", None).await.is_some_and(|reply| reply.json()["ready"] == true) {
            assert!(Instant::now() < until, "the gateway starts");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        gateway
    }

    /// Has the disk filled or freed, and waits for that.
    fn order(&mut self, order: &str) {
        writeln!(self.orders.as_mut().unwrap(), "{order}").unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        assert_eq!(answer.trim(), order);
    }

    async fn ask(&self, method: &str, path: &str, body: Option<Value>) -> Option<Reply> {
        send_unix(&self.dir.path().join("admin.sock"), method, path, body).await.ok()
    }

    async fn create(&self, name: &str) -> Reply {
        self.ask("POST", "/api/v1/keys", Some(json!({ "name": name }))).await.expect("the gateway answers")
    }
}

impl Drop for OnSmallDisk {
    fn drop(&mut self) {
        drop(self.orders.take());
        _ = self.child.wait();
    }
}

#[tokio::test]
async fn a_full_disk_is_told_as_what_passes_and_does_pass() {
    let mut gateway = OnSmallDisk::start().await;
    assert_eq!(gateway.create("before").await.status, StatusCode::CREATED);
    gateway.order("fill");

    // Some may still find room in pages that the file has already.
    let mut created = vec!["before".to_owned()];
    let refused = loop {
        let name = format!("key-{}", created.len());
        let reply = gateway.create(&name).await;
        if reply.status != StatusCode::CREATED {
            assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE, "{}", reply.text());
            assert_eq!(reply.header("retry-after"), "1");
            assert_eq!(reply.json()["code"], "store_unavailable");
            break name;
        }
        created.push(name);
        assert!(created.len() < 5_000, "the disk is full");
    };
    // It goes on refusing, and goes on running.
    assert_eq!(gateway.create("another").await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(gateway.ask("GET", "/api/v1/status", None).await.unwrap().status, StatusCode::OK);

    gateway.order("free");
    let until = Instant::now() + SOON;
    loop {
        let reply = gateway.create("after").await;
        if reply.status == StatusCode::CREATED {
            break;
        }
        assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE, "{}", reply.text());
        assert!(Instant::now() < until, "it is taken again: {}", reply.text());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    created.push("after".to_owned());

    // What was refused is not there; what was taken is, with its line in the trail.
    let names = |listed: &Value, list: &str, name: &dyn Fn(&Value) -> Option<String>| -> Vec<String> {
        let mut names: Vec<String> = listed[list].as_array().unwrap().iter().filter_map(name).collect();
        names.sort();
        names
    };
    let listed = gateway.ask("GET", "/api/v1/keys?limit=200", None).await.unwrap().json();
    let trail = gateway.ask("GET", "/api/v1/audit?limit=200", None).await.unwrap().json();
    let there = names(&listed, "keys", &|key| key["name"].as_str().map(ToOwned::to_owned));
    let told = names(&trail, "entries", &|entry| {
        (entry["event"] == "key.created").then(|| entry["detail"]["key"].as_str().unwrap().to_owned())
    });
    created.sort();
    assert!(created.len() < 200, "one page holds them");
    assert_eq!(there, created, "{refused} was refused");
    assert_eq!(told, created);
    let verified = gateway.ask("GET", "/api/v1/store/verify", None).await.unwrap().json();
    assert_eq!(verified["discrepancies"], json!([]));
    drop(gateway);
}
